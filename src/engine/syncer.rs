//! fsync everysec: a thread that makes durable, once a second, what was written meanwhile.
//!
//! Thread: `kvs-sync`, which has nothing to do with other policies, but the rest when the policy was
//! changed to `always`; the compactor syncs by the same way before
//! a merge takes away what newer records made dead. The writer syncs a segment itself when it
//! leaves it, so only the active one can hold unsynced bytes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::{Core, lock};
use super::segment::{HEADER, Segment};
use crate::config::Fsync;
use crate::error::Result;

/// How much an everysec store may lose.
const INTERVAL: Duration = Duration::from_secs(1);

/// The segment that is written to, and whether it holds what is not durable.
#[derive(Debug)]
pub struct Unsynced {
    active: Mutex<Arc<Segment>>,
    dirty: AtomicBool,
    /// The bytes of the active segment that are known to be durable.
    durable: AtomicU64,
}

impl Unsynced {
    pub(super) fn new(active: Arc<Segment>) -> Arc<Unsynced> {
        Arc::new(Unsynced {
            active: Mutex::new(active),
            dirty: AtomicBool::new(false),
            durable: AtomicU64::new(0),
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
        self.dirty.store(true, Ordering::Release);
    }

    /// Whether everything before byte `tail` of the active segment is known to be durable.
    pub(super) fn is_durable(&self, tail: u64) -> bool {
        tail <= (HEADER as u64).max(self.durable.load(Ordering::Acquire))
    }

    /// Makes durable what has been shown so far. The policy `always` never needs it.
    pub(super) fn sync(&self, core: &Core) -> Result<()> {
        let active = self.active();
        let len = active.len();
        core.stats.syncs.add(1);
        active.sync()?;
        let now = lock(&self.active);
        if Arc::ptr_eq(&now, &active) {
            self.durable.store(len, Ordering::Release);
        }
        Ok(())
    }
}

/// The thread's body: runs until the other side of `stop` is dropped.
pub(super) fn run(core: &Core, unsynced: &Unsynced, stop: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(INTERVAL) {
        // With `always` there is something only if it was not the policy before.
        if core.fsync() != Fsync::No
            && unsynced.dirty.swap(false, Ordering::AcqRel)
            && let Err(error) = unsynced.sync(core)
        {
            core.poison(&error);
        }
    }
}
