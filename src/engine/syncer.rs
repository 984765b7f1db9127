//! fsync everysec: a thread that makes durable, once a second, what was written meanwhile.
//!
//! Thread: `kvs-sync`. With other policies it has nothing to do but to sync the rest when `everysec` was
//! changed to `always`. The compactor syncs through the same type before a merge takes away what newer
//! records made dead. The writer syncs a segment itself when it leaves it, so only the active one can
//! hold unsynced bytes. While a sync takes longer than it should, writes wait for one of their own: else
//! there would be no bound to what a power cut takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::{Core, lock};
use super::segment::{HEADER, Segment};
use crate::config::Fsync;
use crate::error::Result;

/// How much an everysec store may lose.
const INTERVAL: Duration = Duration::from_secs(1);
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
    /// When the thread began the sync that is under way.
    began: Mutex<Option<Instant>>,
}

impl Unsynced {
    pub(super) fn new(active: Arc<Segment>) -> Arc<Unsynced> {
        Arc::new(Unsynced {
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
    }

    /// For the writer: the active segment holds what is not durable.
    pub(super) fn written(&self) {
        self.written.fetch_add(1, Ordering::Release);
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
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(INTERVAL) {
        // With `always` there is something only if it was not the policy before.
        if core.fsync() == Fsync::No || unsynced.is_settled() {
            continue;
        }
        *lock(&unsynced.began) = Some(Instant::now());
        if let Err(error) = unsynced.sync(core) {
            core.poison(&error);
        }
        *lock(&unsynced.began) = None;
    }
}
