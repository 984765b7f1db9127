//! The threads of an open store, and how they end.
//!
//! Thread: whoever drops the last handle of the store. If that is one of the store's own threads, in
//! the middle of a job, another one closes the store: a thread cannot wait for itself.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::backup::Backups;
use super::commit::Committer;
use super::core::{Core, lock};
use super::fs::Lock;
use super::hint_file;
use super::preparer::Ready;
use super::segment::Segment;
use super::writer::Writer;
use crate::error::{KvsError, Result};

/// See the module.
pub(super) struct Threads {
    pub(super) ready: Ready,
    /// The threads that run jobs, and end with their queues.
    pub(super) workers: Vec<JoinHandle<()>>,
    /// The threads that end when the writer lets go of them.
    pub(super) preparer: JoinHandle<()>,
    pub(super) compactor: JoinHandle<Vec<Arc<Segment>>>,
    /// The thread that ends when it is told to.
    pub(super) expirer: JoinHandle<()>,
    /// May have a thread that ends by itself, and a worker that makes one.
    pub(super) backups: Arc<Backups>,
    /// Holds the directory's lock as long as the store is open.
    pub(super) lock: Lock,
}

/// Starts a thread.
pub(super) fn spawn<R: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> R + Send + 'static,
) -> Result<JoinHandle<R>> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(body).map_err(KvsError::io("start a thread"))
}

impl Threads {
    /// Closes the store; the queues are closed already.
    pub(super) fn close(self, core: Arc<Core>, committer: Arc<Committer>) {
        let me = std::thread::current().id();
        if !self.workers.iter().any(|worker| worker.thread().id() == me) {
            return self.close_here(&core, &committer);
        }
        if let Err(error) = spawn("kvs-close", move || self.close_here(&core, &committer)) {
            log::error!("close: {error}; the store is left as after a crash");
        }
    }

    fn close_here(self, core: &Core, committer: &Committer) {
        core.expiry.close();
        self.backups.stop();
        join(self.expirer);
        for worker in self.workers {
            join(worker);
        }
        self.backups.wait();
        let closed = committer.with_writer(Writer::close);
        join(self.preparer);
        let mut unhinted = join(self.compactor).unwrap_or_default();
        match closed {
            Ok(active) => unhinted.push(active),
            Err(error) => log::error!("close: {error}"),
        }
        // A full disk has room for tombstones and merges, also after the next open.
        let written = match core.reserve.check() {
            Ok(()) => hint_file::write_all(core, &unhinted),
            full => full,
        };
        if let Err(error) = written {
            log::warn!("close: no hints are written: {error}; the next open takes longer");
        }
        if let Some(prepared) = lock(&self.ready).take() {
            core.remove_files(&[Arc::new(prepared.segment)]);
        }
        drop(self.lock);
    }
}

fn join<R>(thread: JoinHandle<R>) -> Option<R> {
    let name = thread.thread().name().unwrap_or("?").to_owned();
    thread.join().map_err(|_| log::error!("thread {name} panicked")).ok()
}
