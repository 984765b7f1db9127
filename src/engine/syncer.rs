//! What is written without a sync: a thread makes it durable beside the writer. With fsync everysec once a
//! second; and with `no`, too, whenever it is an eighth of a segment, since the writer syncs a segment when
//! it leaves it, and the less there is to do then, the shorter everybody waits.
//!
//! Thread: `kvs-sync`. When the policy was changed to `always`, it syncs the rest. The compactor syncs
//! through the same type before a merge takes away what newer records made dead. Only the active segment
//! can hold unsynced bytes. While a sync takes longer than it should, writes with everysec wait for one of
//! their own: else there would be no bound to what a power cut takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use super::core::{Core, lock};
use super::segment::{HEADER, Segment};
use crate::config::Fsync;
use crate::error::Result;

/// How much an everysec store may lose.
const INTERVAL: Duration = Duration::from_secs(1);
/// An eighth of a smaller segment is not worth a sync, in bytes.
const LITTLE: u64 = 256 * 1024;
/// How long its sync may take until writes wait.
const LATE: Duration = Duration::from_secs(1);

/// The segment that is written to, and whether it holds what is not durable.
#[derive(Debug)]
pub struct Unsynced {
    active: Mutex<Arc<Segment>>,
    /// Groups that were written without a sync, and those of them that a sync came after.
    written: AtomicU64,
    synced: AtomicU64,
    /// The bytes of the active segment that are known to be durable.
    durable: AtomicU64,
    /// Up to which byte of the active segment a sync was asked for before its time.
    asked: AtomicU64,
    /// By which it is asked for.
    ask: Sender<()>,
    asks: Receiver<()>,
    /// When the thread began the sync that is under way.
    began: Mutex<Option<Instant>>,
}

impl Unsynced {
    pub(super) fn new(active: Arc<Segment>) -> Arc<Unsynced> {
        let (ask, asks) = crossbeam_channel::bounded(1);
        Arc::new(Unsynced {
            asked: AtomicU64::new(active.len()),
            ask,
            asks,
            active: Mutex::new(active),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            began: Mutex::new(None),
        })
    }

    pub(super) fn active(&self) -> Arc<Segment> {
        Arc::clone(&lock(&self.active))
    }

    /// For the writer: it goes on in another segment, and has synced the one before.
    pub(super) fn set_active(&self, segment: Arc<Segment>) {
        *lock(&self.active) = segment;
        self.durable.store(0, Ordering::Release);
        self.asked.store(0, Ordering::Relaxed);
    }

    /// For the writer: the active segment, which it will leave at `limit`, holds what is not durable, up
    /// to byte `tail`.
    pub(super) fn written(&self, tail: u64, limit: u64) {
        self.written.fetch_add(1, Ordering::Release);
        if tail >= self.asked.load(Ordering::Relaxed) + (limit / 8).max(LITTLE) {
            self.asked.store(tail, Ordering::Relaxed);
            // If that was asked for already, one sync does for both.
            let _ = self.ask.try_send(());
        }
    }

    /// Whether nothing was written that is not known to be durable.
    pub(super) fn is_settled(&self) -> bool {
        self.synced.load(Ordering::Acquire) == self.written.load(Ordering::Acquire)
    }

    /// Whether the sync that is under way takes longer than it should.
    pub(super) fn is_late(&self) -> bool {
        lock(&self.began).is_some_and(|began| began.elapsed() >= LATE)
    }

    /// Whether everything before byte `tail` of the active segment is known to be durable.
    pub(super) fn is_durable(&self, tail: u64) -> bool {
        tail <= (HEADER as u64).max(self.durable.load(Ordering::Acquire))
    }

    /// Makes durable what has been shown so far. The policy `always` never needs it.
    pub(super) fn sync(&self, core: &Core) -> Result<()> {
        let written = self.written.load(Ordering::Acquire);
        let active = self.active();
        let len = active.len();
        core.stats.syncs.add(1);
        active.sync()?;
        let now = lock(&self.active);
        if Arc::ptr_eq(&now, &active) {
            self.durable.store(len, Ordering::Release);
        }
        self.synced.fetch_max(written, Ordering::Release);
        Ok(())
    }
}

/// The thread's body: runs until the other side of `stop` is dropped.
pub(super) fn run(core: &Core, unsynced: &Unsynced, stop: &Receiver<()>) {
    loop {
        let asked = select! {
            recv(stop) -> _ => return,
            recv(unsynced.asks) -> _ => true,
            default(INTERVAL) => false,
        };
        // With `always` there is something only if it was not the policy before.
        if (core.fsync() == Fsync::No && !asked) || unsynced.is_settled() {
            continue;
        }
        *lock(&unsynced.began) = Some(Instant::now());
        if let Err(error) = unsynced.sync(core) {
            core.poison(&error);
        }
        *lock(&unsynced.began) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::fs::OsFs;
    use super::super::segment::Origin;
    use super::*;

    #[test]
    fn a_sync_is_asked_for_when_much_was_written() {
        const LIMIT: u64 = 16 * 1024 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let segment = |number: u64| {
            let path = dir.path().join(number.to_string());
            Arc::new(Segment::create(&OsFs, &path, number, Origin::Log, LIMIT).unwrap())
        };
        let unsynced = Unsynced::new(segment(1));
        let asked = |tail: u64, limit| {
            unsynced.written(tail, limit);
            unsynced.asks.try_recv().is_ok()
        };
        let eighths = (1..=64).filter(|n| asked(n * LIMIT / 64, LIMIT)).count();
        assert!((7..=8).contains(&eighths), "{eighths}");
        unsynced.set_active(segment(2));
        assert!(!asked(LIMIT / 9, LIMIT));
        assert!(asked(LIMIT / 7, LIMIT));
        unsynced.set_active(segment(3));
        assert!(!(1..64).any(|n| asked(n * 4096, 256 * 1024)), "of a small segment");
    }
}
