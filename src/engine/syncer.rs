//! fsync everysec: a thread that makes durable, once a second, what was written meanwhile.
//!
//! Thread: `kvs-sync`, which only exists with that policy. The writer syncs a segment itself when it
//! leaves it, so only the active one can hold unsynced bytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::{Core, lock};
use super::segment::Segment;

/// How much an everysec store may lose.
const INTERVAL: Duration = Duration::from_secs(1);

/// The segment that is written to, and whether it holds what is not durable.
#[derive(Debug)]
pub struct Unsynced {
    pub(super) active: Mutex<Arc<Segment>>,
    pub(super) dirty: AtomicBool,
}

impl Unsynced {
    pub(super) fn new(active: Arc<Segment>) -> Arc<Unsynced> {
        Arc::new(Unsynced { active: Mutex::new(active), dirty: AtomicBool::new(false) })
    }

    fn sync(&self, core: &Core) {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return;
        }
        let active = Arc::clone(&lock(&self.active));
        core.stats.syncs.add(1);
        if let Err(error) = active.sync() {
            core.poison(&error);
        }
    }
}

/// The thread's body: runs until the other side of `stop` is dropped.
pub(super) fn run(core: &Core, unsynced: &Unsynced, stop: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(INTERVAL) {
        unsynced.sync(core);
    }
}
