//! A fixed pool of threads for work that blocks, such as calls of an engine over the network.
//!
//! Threads: those of the pool take jobs from one queue; [`spawn`](ThreadPool::spawn) may be called
//! from any thread, one of the pool's included.
//!
//! Always holds: a job that panics costs the pool no thread, and dropping the pool finishes what
//! was queued. The queue has no bound; whoever feeds it from a network bounds what is in flight.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::{KvsError, Result};

/// Threads that run jobs.
pub trait ThreadPool {
    /// A pool of `threads` threads; an error for 0, and if the system has no thread to give.
    fn new(threads: u32) -> Result<Self>
    where
        Self: Sized;

    /// Queues `job` and returns at once. That it panics, if it does, is not noticed elsewhere.
    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static;
}

type Job = Box<dyn FnOnce() + Send>;

/// A pool whose threads share one queue: jobs begin in the order in which they were queued.
pub struct SharedQueueThreadPool {
    /// None once the pool is being dropped.
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl ThreadPool for SharedQueueThreadPool {
    fn new(threads: u32) -> Result<Self> {
        if threads == 0 {
            return Err(KvsError::Invalid("a thread pool needs at least one thread".into()));
        }
        let (sender, receiver) = unbounded();
        // If a thread cannot be had, dropping the pool ends those that were started.
        let mut pool = SharedQueueThreadPool { jobs: Some(sender), threads: Vec::new() };
        for i in 0..threads {
            let receiver = receiver.clone();
            let thread = thread::Builder::new()
                .name(format!("kvs-pool-{i}"))
                .spawn(move || run_jobs(&receiver))
                .map_err(KvsError::io("start a thread of the pool"))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    fn spawn<F>(&self, job: F)
    where
        F: FnOnce() + Send + 'static,
    {
        // Sending fails only without receivers, and the threads hold theirs until `jobs` is gone.
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(Box::new(job)));
        debug_assert!(matches!(sent, Some(Ok(()))));
    }
}

/// Finishes what was queued, then ends the threads.
impl Drop for SharedQueueThreadPool {
    fn drop(&mut self) {
        self.jobs = None;
        let own = thread::current().id();
        for thread in self.threads.drain(..) {
            // A job may hold the pool's last handle; its thread cannot wait for itself, and ends
            // by itself when the queue is empty.
            if thread.thread().id() != own {
                let ended = thread.join();
                debug_assert!(ended.is_ok(), "a panic got past its job");
            }
        }
    }
}

impl fmt::Debug for SharedQueueThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedQueueThreadPool")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

/// Runs jobs until the queue is empty and no one can add to it.
fn run_jobs(jobs: &Receiver<Job>) {
    for job in jobs {
        // A job is consumed by its run, so nothing of it is seen after a panic.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
            // What a job panicked with may panic once more when it is dropped.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
                std::mem::forget(again);
            }
        }
    }
}
