//! What an event loop hands to the engine's workers at the end of a wake: many requests in one
//! message, with room for their replies. It comes back to the loop the same way, and is used again.
//!
//! Threads: filled on the loop, run on the writer or a read worker, read on the loop; one at a time,
//! as the box moves along.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::blocking::BlockingEngine;
use super::multi::Exec;
use super::native::{NativeReads, NativeWrites};
use super::pipeline::Ticket;
use crate::command::{Abort, Command, Outcome, Run, keys_of};
use crate::engine::{Patience, ReadJob, Reader, Txn, Watch, WriteJob};
use crate::error::{KvsError, Result};
use crate::protocol::{Args, Reply, Span, Version};
use crate::reactor::{ConnId, Post};

/// When a batch has so many bytes of replies, those of the requests that are left go into another one.
const MOST_REPLIES: usize = 64 * 1024 * 1024;
/// A batch whose buffers grew beyond this is given back to the allocator after use.
const KEEP: usize = 1024 * 1024;

/// What comes back to a loop.
pub enum Mail {
    /// Requests that were run, with their replies.
    Done(Box<Batch>),
    /// This connection is to be closed.
    Kill(ConnId),
    /// Settings or the pause have changed.
    Changed,
}

/// One request.
struct Request {
    conn: ConnId,
    ticket: Ticket,
    command: &'static Command,
    version: Version,
    database: u8,
    metered: Metered,
    bytes: Range<usize>,
    spans: Range<usize>,
    reply: Range<usize>,
    nanos: u64,
    /// A transaction in place of words.
    exec: Option<Box<Exec>>,
    /// What is to watch the keys.
    watch: Option<Arc<Watch>>,
}

impl Request {
    /// Its reply is an error that was not its own.
    fn fail(&mut self) {
        if let Some(exec) = &mut self.exec {
            exec.fail();
        }
        if let Some(watch) = &self.watch {
            watch.spoil();
        }
    }

    fn run_watch(&self, txn: &mut Txn<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
        let Some(watch) = &self.watch else {
            return Err("ERR internal error: not a writing command".into());
        };
        for key in keys_of(self.command, args) {
            txn.watch(watch, self.database, key)?;
        }
        reply.ok();
        Ok(())
    }
}

/// How a request is counted.
#[derive(Debug, Clone, Copy)]
pub struct Metered {
    /// Its command's number.
    pub number: u16,
    /// How many calls its time stands for; 0: it is not timed.
    pub weight: u8,
}

/// A request that was run.
pub struct Answered<'a> {
    /// Who it is from.
    pub conn: ConnId,
    /// Its place there.
    pub ticket: Ticket,
    /// What was asked.
    pub command: &'static Command,
    /// With these words.
    pub args: Args<'a>,
    /// How it is counted.
    pub metered: Metered,
    /// How long it took, if it was timed.
    pub nanos: u64,
    /// What it is answered.
    pub reply: &'a [u8],
    /// The transaction, if it is one.
    pub exec: Option<&'a Exec>,
}

/// See the module.
pub struct Batch {
    home: Post<Mail>,
    requests: Vec<Request>,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    replies: Vec<u8>,
    /// Keys that were looked for and were there, and were not.
    looked_up: (u64, u64),
    /// What transactions take, in bytes.
    exec_bytes: usize,
    /// A reply may have so many bytes.
    most_reply: usize,
}

/// Who a request is from, and how it is to be answered.
#[derive(Clone, Copy)]
pub struct Origin {
    /// The connection.
    pub conn: ConnId,
    /// The request's place in it.
    pub ticket: Ticket,
    /// How it is answered.
    pub version: Version,
    /// The database the connection has chosen.
    pub database: u8,
    /// How it is counted.
    pub metered: Metered,
}

impl Batch {
    /// An empty one that comes back to `home`, with replies of so many bytes at most.
    pub fn new(home: Post<Mail>, most_reply: usize) -> Box<Batch> {
        Box::new(Batch {
            home,
            requests: Vec::new(),
            bytes: Vec::new(),
            spans: Vec::new(),
            replies: Vec::new(),
            looked_up: (0, 0),
            exec_bytes: 0,
            most_reply,
        })
    }

    /// Whether it holds no request.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The bytes of the requests in it.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.exec_bytes
    }

    /// Adds a request: its words are copied.
    pub fn push(&mut self, origin: Origin, command: &'static Command, args: Args<'_>) {
        let (bytes, spans) = args.parts();
        let (at, first) = (self.bytes.len(), self.spans.len());
        self.bytes.extend_from_slice(bytes);
        self.spans.extend_from_slice(spans);
        self.requests.push(Request {
            conn: origin.conn,
            ticket: origin.ticket,
            command,
            version: origin.version,
            database: origin.database,
            metered: origin.metered,
            nanos: 0,
            bytes: at..self.bytes.len(),
            spans: first..self.spans.len(),
            reply: 0..0,
            exec: None,
            watch: None,
        });
    }

    /// Adds a transaction.
    pub fn push_exec(&mut self, origin: Origin, command: &'static Command, exec: Exec) {
        self.exec_bytes += exec.size();
        self.push(origin, command, Args::new(&[], &[]));
        if let Some(request) = self.requests.last_mut() {
            request.exec = Some(Box::new(exec));
        }
    }

    /// Adds a request to watch keys.
    pub fn push_watch(
        &mut self,
        origin: Origin,
        (command, args): (&'static Command, Args<'_>),
        watch: &Arc<Watch>,
    ) {
        self.push(origin, command, args);
        if let Some(request) = self.requests.last_mut() {
            request.watch = Some(Arc::clone(watch));
        }
    }

    /// The requests in order, with their replies.
    pub fn answered(&self) -> impl Iterator<Item = Answered<'_>> {
        self.requests.iter().map(|request| Answered {
            conn: request.conn,
            ticket: request.ticket,
            command: request.command,
            args: Args::new(&self.bytes[request.bytes.clone()], &self.spans[request.spans.clone()]),
            metered: request.metered,
            nanos: request.nanos,
            reply: &self.replies[request.reply.clone()],
            exec: request.exec.as_deref(),
        })
    }

    /// Keys that were looked for and were there, and were not.
    pub fn looked_up(&self) -> (u64, u64) {
        self.looked_up
    }

    /// From now on, a reply may have so many bytes.
    pub fn set_most_reply(&mut self, most: usize) {
        self.most_reply = most;
    }

    /// Empties it for the next wake.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.looked_up = (0, 0);
        self.exec_bytes = 0;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.spans.clear();
        self.spans.shrink_to(KEEP / size_of::<Span>());
        self.replies.clear();
        self.replies.shrink_to(KEEP);
    }

    /// Runs every request with `run` and keeps the replies.
    fn run_all(&mut self, mut run: impl FnMut(&mut Request, Args<'_>, &mut Reply<'_>) -> Outcome) {
        for i in 0..self.requests.len() {
            self.run_one(i, &mut run);
        }
    }

    /// Runs a request. If it panics it is answered by an error; the others go on.
    fn run_one(
        &mut self,
        i: usize,
        run: impl FnOnce(&mut Request, Args<'_>, &mut Reply<'_>) -> Outcome,
    ) {
        let request = &mut self.requests[i];
        let bytes = &self.bytes[request.bytes.clone()];
        let args = Args::new(bytes, &self.spans[request.spans.clone()]);
        let start = self.replies.len();
        let mut reply = Reply::with_most(&mut self.replies, request.version, self.most_reply);
        let begin = (request.metered.weight > 0).then(Instant::now);
        if let Err(abort) = guarded(|| run(request, args, &mut reply)) {
            reply.rewind(start);
            write_abort(&mut reply, &abort);
            request.fail();
        }
        request.reply = start..self.replies.len();
        request.nanos = begin.map_or(0, |begin| begin.elapsed().as_nanos() as u64);
    }

    /// Takes the requests from the `first`th on away, into a batch of their own.
    fn split_off(&mut self, first: usize) -> Box<Batch> {
        let mut rest = Batch::new(self.home.clone(), self.most_reply);
        let (bytes, spans) = match self.requests.get(first) {
            Some(request) => (request.bytes.start, request.spans.start),
            None => return rest,
        };
        rest.requests = self.requests.split_off(first);
        rest.bytes = self.bytes.split_off(bytes);
        rest.spans = self.spans.split_off(spans);
        for Request { bytes: own, spans: words, .. } in &mut rest.requests {
            *own = own.start - bytes..own.end - bytes;
            *words = words.start - spans..words.end - spans;
        }
        rest
    }

    /// Puts the same error in place of every reply.
    fn fail_all(&mut self, error: KvsError) {
        let abort = Abort::Failed(error);
        self.replies.clear();
        for request in &mut self.requests {
            let start = self.replies.len();
            write_abort(&mut Reply::new(&mut self.replies, request.version), &abort);
            request.reply = start..self.replies.len();
            request.fail();
        }
    }

    /// Runs the batch on an engine that blocks, and sends it home. On a thread of its pool.
    pub fn run_blocking(mut self: Box<Self>, engine: &BlockingEngine) {
        self.run_all(|request, args, reply| {
            engine.run(request.command, args, reply);
            check_size(reply)
        });
        self.go_home();
    }

    fn go_home(self: Box<Self>) {
        let home = self.home.clone();
        // The loop is gone only when the server stops at once: then nobody waits any more.
        let _ = home.post(Mail::Done(self));
    }
}

/// Answers a request that has no other reply.
pub fn write_abort(reply: &mut Reply<'_>, abort: &Abort) {
    reply.error(&abort.error_line());
}

/// Runs a command; a panic is an error like others.
pub fn guarded(run: impl FnOnce() -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err("ERR internal error: the command panicked".into()))
}

/// An error if the reply is longer than what may wait for a client: who is sent it would be cut off.
pub fn check_size(reply: &Reply<'_>) -> Outcome {
    match reply.is_cut() {
        true => Err("ERR the reply is larger than client-output-buffer-limit lets it be".into()),
        false => Ok(()),
    }
}

impl ReadJob for Batch {
    fn run(mut self: Box<Self>, reader: &Reader) {
        let mut looked_up = (0, 0);
        self.run_all(|request, args, reply| {
            let view = reader.view();
            let reads = NativeReads::new(reader, &view, request.database, Patience::MayWait);
            let outcome = reads.run(request.command, args, reply);
            let (hits, misses) = reads.looked_up();
            looked_up = (looked_up.0 + hits, looked_up.1 + misses);
            outcome
        });
        self.looked_up = looked_up;
        self.go_home();
    }
}

impl WriteJob for Batch {
    fn stage(&mut self, txn: &mut Txn<'_>) -> Option<Box<dyn WriteJob>> {
        for i in 0..self.requests.len() {
            if i > 0 && (txn.is_full() || self.replies.len() > MOST_REPLIES) {
                return Some(self.split_off(i));
            }
            self.run_one(i, |request, args, reply| {
                match (request.command.run, &mut request.exec) {
                    (Run::Write(run), _) => txn.unit(|txn| {
                        run(&mut NativeWrites::new(txn, request.database), args, reply)?;
                        check_size(reply)
                    }),
                    (_, Some(exec)) => txn.unit(|txn| exec.run(txn, reply)),
                    _ => request.run_watch(txn, args, reply),
                }
            });
        }
        None
    }

    fn finish(mut self: Box<Self>, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.fail_all(error);
        }
        self.go_home();
    }
}
