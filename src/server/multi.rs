//! A transaction: the requests between MULTI and EXEC, and how they run.
//!
//! Threads: [`Multi`] gathers on the connection's loop. An [`Exec`] travels with a batch to the
//! writer, runs there as one unit, and comes back: commands about the connection itself (PING,
//! SELECT, CLIENT ...) are only for the loop, so the writer leaves gaps in the reply for theirs. Those
//! of them that decide how the rest runs, SELECT and HELLO, were rehearsed before.
//!
//! Invariant: what is queued has passed the checks that any request has to pass.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::batch::write_abort;
use super::native::NativeWrites;
use crate::command::{Abort, Command, Outcome, Run, replies_with_value};
use crate::engine::{Txn, Watch};
use crate::error::KvsError;
use crate::protocol::{Args, Reply, Span, Version};

/// The most bytes that are queued: as many as one request may have.
const MOST_QUEUED: usize = 1024 * 1024 * 1024;
/// The most bytes that a transaction writes: all of it is in memory before any is on the disk.
const MOST_WRITTEN: usize = 1024 * 1024 * 1024;

/// A transaction that is being queued.
#[derive(Default)]
pub struct Multi {
    queue: Queue,
    /// A request was refused: nothing of it will run.
    pub refused: bool,
}

impl Multi {
    /// Queues a request: its words are copied. False if there is no room for it.
    pub fn push(&mut self, command: &'static Command, args: Args<'_>) -> bool {
        self.queue.push(command, args, MOST_QUEUED)
    }

    /// How many requests are queued.
    pub fn len(&self) -> usize {
        self.queue.requests.len()
    }

    /// Whether one of them is of such a command.
    pub fn any(&self, is: impl Fn(&Command) -> bool) -> bool {
        self.queue.requests.iter().any(|request| is(request.command))
    }

    /// Whether one of them is answered by values.
    pub fn reads(&self) -> bool {
        let reads = |request: &Queued| match request.command.run {
            Run::Read(_) | Run::Scan(_) => true,
            _ => replies_with_value(request.command, self.queue.args(request)),
        };
        self.queue.requests.iter().any(reads)
    }

    /// What is to be run. All replies are in this version, or else in the one of the connection.
    pub fn into_exec(self, version: Option<Version>, watch: Option<Arc<Watch>>) -> Exec {
        Exec { queue: self.queue, watch, version, parts: Vec::new() }
    }
}

/// A request that waits for EXEC.
struct Queued {
    command: &'static Command,
    bytes: Range<usize>,
    spans: Range<usize>,
    /// The database it works on.
    database: u8,
    /// How it is answered.
    version: Version,
}

impl Queued {
    fn is_local(&self) -> bool {
        matches!(self.command.run, Run::Local(_))
    }
}

#[derive(Default)]
struct Queue {
    requests: Vec<Queued>,
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Queue {
    /// Adds a request, unless it would be more than `most` bytes then.
    fn push(&mut self, command: &'static Command, args: Args<'_>, most: usize) -> bool {
        let (bytes, spans) = args.parts();
        if self.size() + bytes.len() + size_of_val(spans) + size_of::<Queued>() > most {
            return false;
        }
        let (at, first) = (self.bytes.len(), self.spans.len());
        self.bytes.extend_from_slice(bytes);
        self.spans.extend_from_slice(spans);
        self.requests.push(Queued {
            command,
            bytes: at..self.bytes.len(),
            spans: first..self.spans.len(),
            database: 0,
            version: Version::default(),
        });
        true
    }

    /// The bytes that it takes.
    fn size(&self) -> usize {
        self.bytes.len()
            + size_of_val(self.spans.as_slice())
            + size_of_val(self.requests.as_slice())
    }

    fn args(&self, request: &Queued) -> Args<'_> {
        Args::new(&self.bytes[request.bytes.clone()], &self.spans[request.spans.clone()])
    }
}

/// What became of a request on the writer; of one for the loop, that its reply is missing.
#[derive(Clone, Copy)]
struct Part {
    /// Where its reply begins, or goes, in bytes from the start.
    at: usize,
    /// How long it took.
    nanos: u64,
}

/// A request of a transaction that was run by the writer.
pub struct Ran<'a> {
    /// What was asked.
    pub command: &'static Command,
    /// With these words.
    pub args: Args<'a>,
    /// How long it took.
    pub nanos: u64,
    /// What it is answered.
    pub reply: &'a [u8],
}

/// A transaction that runs. See the module.
pub struct Exec {
    queue: Queue,
    /// It does not run if this was touched.
    watch: Option<Arc<Watch>>,
    /// What all replies are in, whatever the connection speaks.
    pub version: Option<Version>,
    /// One for each request, once it has run.
    parts: Vec<Part>,
}

impl Exec {
    /// The number of requests.
    pub fn len(&self) -> usize {
        self.queue.requests.len()
    }

    /// The bytes that it takes.
    pub fn size(&self) -> usize {
        self.queue.size()
    }

    /// Whether all of it can run on the loop, whatever was changed.
    pub fn is_local(&self) -> bool {
        self.watch.is_none() && self.local() == self.len()
    }

    /// How many of its requests are only for the loop.
    pub fn local(&self) -> usize {
        self.queue.requests.iter().filter(|request| request.is_local()).count()
    }

    /// Decides for each request in turn how it runs: `decide` gets its command and its words, and
    /// returns the database and the version as they are behind it.
    pub fn rehearse(
        &mut self,
        (mut database, mut version): (u8, Version),
        mut decide: impl FnMut(&Command, Args<'_>) -> (u8, Version),
    ) {
        for i in 0..self.queue.requests.len() {
            let request = &mut self.queue.requests[i];
            (request.database, request.version) = (database, self.version.unwrap_or(version));
            let request = &self.queue.requests[i];
            (database, version) = decide(request.command, self.queue.args(request));
        }
    }

    /// The requests that were run, each with its part; none if the transaction was not.
    fn ran(&self) -> impl Iterator<Item = (&Queued, Part)> {
        self.queue.requests.iter().zip(self.parts.iter().copied())
    }

    /// The local requests whose replies are missing in what the writer wrote: where, and what.
    pub fn gaps(&self) -> impl Iterator<Item = (usize, &'static Command, Args<'_>)> {
        let local = self.ran().filter(|(request, _)| request.is_local());
        local.map(|(request, part)| (part.at, request.command, self.queue.args(request)))
    }

    /// Whether something of the reply is missing.
    pub fn has_gaps(&self) -> bool {
        self.gaps().next().is_some()
    }

    /// The requests that the writer has run, with their pieces of its `reply`.
    pub fn ran_by_writer<'a>(&'a self, reply: &'a [u8]) -> impl Iterator<Item = Ran<'a>> {
        let ends = self.parts.iter().skip(1).map(|next| next.at).chain([reply.len()]);
        let ran = self.ran().zip(ends).filter(|((request, _), _)| !request.is_local());
        ran.map(|((request, part), end)| Ran {
            command: request.command,
            args: self.queue.args(request),
            nanos: part.nanos,
            reply: reply.get(part.at..end).unwrap_or_default(),
        })
    }

    /// Nothing was run after all: the reply is whole, and an error.
    pub fn fail(&mut self) {
        self.parts.clear();
    }

    /// Makes room for all replies without the writer: for a transaction of local commands.
    pub fn of_gaps_only(&mut self, reply: &mut Reply<'_>) {
        reply.array(self.len());
        self.parts = vec![Part { at: reply.mark(), nanos: 0 }; self.len()];
    }

    /// Runs it on the writer, within a unit: a command that fails is answered by its error, and the
    /// others run all the same.
    pub fn run(&mut self, txn: &mut Txn<'_>, reply: &mut Reply<'_>) -> Outcome {
        if let Some(watch) = self.watch.take()
            && txn.unwatch(&watch)?
        {
            reply.null_array();
            return Ok(());
        }
        let (start, begun) = (reply.mark(), txn.staged_bytes());
        reply.array(self.len());
        self.parts.clear();
        for request in &self.queue.requests {
            let mut reply = reply.in_version(request.version);
            let (mark, begin) = (reply.mark(), Instant::now());
            if !request.is_local()
                && let Err(abort) = run_one(txn, request, self.queue.args(request), &mut reply)
            {
                // No fault of the request: the others might still do, but would be half of the whole.
                if let Abort::Failed(error @ KvsError::NoSpace) = &abort {
                    return Err(Abort::Refused(discarded_because_of(&error.to_string()).into()));
                }
                reply.rewind(mark);
                write_abort(&mut reply, &abort);
            }
            let nanos = begin.elapsed().as_nanos() as u64;
            self.parts.push(Part { at: mark - start, nanos });
            if reply.is_cut() {
                return Err(
                    "ERR the replies of the transaction are too large; it was not run".into()
                );
            }
            if txn.staged_bytes() - begun > MOST_WRITTEN {
                return Err("ERR the transaction writes too much; it was not run".into());
            }
        }
        Ok(())
    }
}

/// The error line of a transaction that is refused for something else than its requests.
pub fn discarded_because_of(cause: &str) -> String {
    format!("EXECABORT Transaction discarded because of: {cause}")
}

fn run_one(
    txn: &mut Txn<'_>,
    request: &Queued,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Abort> {
    let database = request.database;
    match request.command.run {
        Run::Read(run) | Run::Scan(run) => run(&NativeWrites::new(txn, database), args, reply),
        Run::Write(run) => txn.part(|txn| run(&mut NativeWrites::new(txn, database), args, reply)),
        Run::Local(_) | Run::Session(_) => Err("ERR internal error: not for the writer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;

    #[test]
    fn the_queue_is_bounded_in_all_that_it_takes() {
        let ping = lookup(b"ping").unwrap();
        let mut queue = Queue::default();
        let spans = [Span { start: 0, len: 4 }];
        while queue.push(ping, Args::new(b"PING", &spans), 4096) {
            assert!(queue.size() <= 4096);
        }
        assert!(queue.requests.len() > 20 && queue.requests.len() < 4096 / 48);
        assert!(!queue.push(ping, Args::new(&[b'x'; 5000], &spans), 4096));
    }
}
