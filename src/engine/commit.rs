//! Group commit: many callers, one writer, one write and one sync for all that has queued up.
//!
//! Two ways in, one way through. The server submits jobs to a bounded queue that the write worker
//! (thread `kvs-write`) drains. A thread that embeds the store commits by itself: the first one to
//! come while the writer is busy becomes the leader of those who come after it, waits for the
//! writer, and commits for all of them. (LevelDB's writer queue, with the leader found by who
//! queues first.) It gives those of the group before a moment to come back: see [`regroup`].
//!
//! [`regroup`]: super::regroup
//!
//! Invariant: a job is finished exactly once, after its group is durable and visible, or after it
//! failed; the writer's lock is not held while jobs are finished.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::Thread;

use crossbeam_channel::Receiver;

use super::core::lock;
use super::regroup::{Arrivals, Last};
use super::txn::Txn;
use super::writer::Writer;
use crate::config::Fsync;
use crate::error::{KvsError, Result};

/// A group is closed when it has so many bytes, however many jobs wait.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Work for the writer.
pub trait WriteJob: Send {
    /// Stages what the job changes, on the writer's thread. Each command in a [`Txn::unit`]. When the
    /// transaction [is full](Txn::is_full) before the last one, it returns the others, as a job for
    /// the next group; only the writer's thread takes those.
    fn stage(&mut self, txn: &mut Txn<'_>) -> Option<Box<dyn WriteJob>>;
    /// Told once what became of the group. After an error nothing of the job is visible; [`stage`]
    /// may not have been called then.
    ///
    /// [`stage`]: WriteJob::stage
    fn finish(self: Box<Self>, outcome: Result<()>);
}

/// The writer, for who has the turn.
struct Turn {
    writer: Writer,
    /// The last group of threads that embed the store, if that waited for a sync.
    last: Option<Last>,
}

/// See the module.
pub struct Committer {
    turn: Mutex<Turn>,
    arrivals: Arrivals,
    queue: Mutex<Vec<Box<dyn WriteJob>>>,
    /// Whether someone is on the way to commit for the queue. Changed under the queue's lock.
    has_leader: AtomicBool,
}

impl Committer {
    pub(super) fn new(writer: Writer) -> Committer {
        Committer {
            turn: Mutex::new(Turn { writer, last: None }),
            arrivals: Arrivals::default(),
            queue: Mutex::default(),
            has_leader: AtomicBool::new(false),
        }
    }

    /// The write worker's body: runs until all submitters are gone.
    pub(super) fn run(&self, submitted: &Receiver<Box<dyn WriteJob>>) {
        // What did not fit into the last group; it comes before all that was submitted later.
        let mut rest = None;
        while let Some(first) = rest.take().or_else(|| submitted.recv().ok()) {
            let mut jobs = Vec::with_capacity(8);
            let mut turn = lock(&self.turn);
            let writer = &mut turn.writer;
            rest = stage(writer, first, &mut jobs);
            while rest.is_none()
                && writer.staged_bytes() < GROUP_BYTES
                && let Ok(job) = submitted.try_recv()
            {
                rest = stage(writer, job, &mut jobs);
            }
            let outcome = commit(writer);
            drop(turn);
            finish(jobs, &outcome);
        }
    }

    /// Runs `command` as one unit on the writer and waits until it is durable and visible.
    pub(super) fn execute<R, F>(&self, command: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Txn<'_>) -> Result<R> + Send + 'static,
    {
        self.arrivals.add();
        // Nobody queues and the writer is free: no queue, no boxes. Who would overtake a leader on
        // its way would commit alone what the leader could take along.
        if !self.has_leader.load(Ordering::Acquire)
            && let Some(mut turn) = try_lock(&self.turn)
            && !turn.last.as_ref().is_some_and(|last| last.is_awaited(&self.arrivals))
        {
            let result = run_alone(&mut turn.writer, command);
            self.end_group(&mut turn, 1);
            return result;
        }
        let ticket = Arc::new(Ticket { slot: Mutex::new(None), owner: std::thread::current() });
        let job = Embedded { command: Some(command), outcome: None, ticket: Arc::clone(&ticket) };
        let mut queue = lock(&self.queue);
        queue.push(Box::new(job));
        let leads = !self.has_leader.swap(true, Ordering::AcqRel);
        drop(queue);
        if leads {
            self.lead();
        }
        loop {
            if let Some(outcome) = lock(&ticket.slot).take() {
                return outcome;
            }
            std::thread::park();
        }
    }

    /// Commits for everyone who has queued up by the time the writer is free.
    fn lead(&self) {
        let mut turn = lock(&self.turn);
        if let Some(last) = turn.last.take() {
            last.wait(&self.arrivals);
        }
        let mut queue = lock(&self.queue);
        let waiting = std::mem::take(&mut *queue);
        self.has_leader.store(false, Ordering::Release);
        drop(queue);
        let mut jobs = Vec::with_capacity(waiting.len());
        for job in waiting {
            let rest = stage(&mut turn.writer, job, &mut jobs);
            debug_assert!(rest.is_none(), "one command is one unit");
        }
        let outcome = commit(&mut turn.writer);
        self.end_group(&mut turn, jobs.len());
        drop(turn);
        finish(jobs, &outcome);
    }

    /// Notes a group, for the one that comes next.
    fn end_group(&self, turn: &mut Turn, jobs: usize) {
        let synced = turn.writer.core().fsync() == Fsync::Always;
        turn.last = synced.then(|| Last::of(jobs, &self.arrivals));
    }

    /// Runs `work` while nothing is being committed.
    pub(super) fn with_writer<R>(&self, work: impl FnOnce(&mut Writer) -> R) -> R {
        work(&mut lock(&self.turn).writer)
    }
}

fn try_lock(turn: &Mutex<Turn>) -> Option<MutexGuard<'_, Turn>> {
    match turn.try_lock() {
        Ok(turn) => Some(turn),
        Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Commits a single command.
fn run_alone<R>(writer: &mut Writer, command: impl FnOnce(&mut Txn<'_>) -> Result<R>) -> Result<R> {
    let result = writer.txn().unit(command)?;
    commit(writer)?;
    Ok(result)
}

/// Commits the group. A bug in there must not keep anyone waiting: what is not known to be durable
/// and visible counts as failed, and nothing is written any more.
fn commit(writer: &mut Writer) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| writer.commit())).unwrap_or_else(|_| Err(writer.give_up()))
}

/// Stages a job; returns what it left for the next group. One that panics is finished with an error;
/// the thread and the other jobs go on.
fn stage(
    writer: &mut Writer,
    mut job: Box<dyn WriteJob>,
    jobs: &mut Vec<Box<dyn WriteJob>>,
) -> Option<Box<dyn WriteJob>> {
    let staged = catch_unwind(AssertUnwindSafe(|| job.stage(&mut writer.txn())));
    let Ok(rest) = staged else {
        finish(vec![job], &Err(KvsError::Invalid("internal error: the command panicked".into())));
        return None;
    };
    jobs.push(job);
    rest
}

fn finish(jobs: Vec<Box<dyn WriteJob>>, outcome: &Result<()>) {
    for job in jobs {
        let finish = AssertUnwindSafe(|| job.finish(outcome.clone()));
        if catch_unwind(finish).is_err() {
            log::error!("a write's reply panicked; the others go on");
        }
    }
}

/// Where a waiting thread finds its result.
struct Ticket<R> {
    slot: Mutex<Option<Result<R>>>,
    owner: Thread,
}

struct Embedded<F, R> {
    command: Option<F>,
    outcome: Option<Result<R>>,
    ticket: Arc<Ticket<R>>,
}

impl<F, R> WriteJob for Embedded<F, R>
where
    R: Send,
    F: FnOnce(&mut Txn<'_>) -> Result<R> + Send,
{
    fn stage(&mut self, txn: &mut Txn<'_>) -> Option<Box<dyn WriteJob>> {
        if let Some(command) = self.command.take() {
            self.outcome = Some(txn.unit(command));
        }
        None
    }

    fn finish(self: Box<Self>, group: Result<()>) {
        let outcome = match (group, self.outcome) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(KvsError::Closed),
        };
        *lock(&self.ticket.slot) = Some(outcome);
        self.ticket.owner.unpark();
    }
}
