//! Fills the next segment with zeros before it is needed: appending to blocks that are written
//! already makes an fdatasync nearly half as dear, since no file length and no block map changes
//! with it.
//!
//! Thread: `kvs-prepare` fills, the writer asks and takes. A prepared segment is a file that the
//! manifest does not list: one that is never used goes with the next open, or with the close.

use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::core::{Core, lock};
use super::segment::{HEADER, Origin, Segment};
use crate::error::{KvsError, Result};

/// A store that was written to less than this needs no prepared segment: `kvs set` leaves no such
/// file behind.
const WORTHWHILE: u64 = 256 * 1024;
/// Zeros are written and synced in steps of so many bytes, so that no commit waits long for them.
const STEP: usize = 1024 * 1024;

/// The writer's end.
pub struct Preparer {
    requests: Sender<()>,
    ready: Ready,
    asked: bool,
}

/// Where a prepared segment waits.
pub(super) type Ready = Arc<Mutex<Option<Segment>>>;

impl Preparer {
    /// Requests go to `requests`, whose other end [`run`] has; segments come through `ready`.
    pub(super) fn new(requests: Sender<()>, ready: Ready) -> Preparer {
        Preparer { requests, ready, asked: false }
    }

    /// Tells how far the active segment is filled: in time, the next one is asked for.
    pub(super) fn grown_to(&mut self, tail: u64) {
        if !self.asked && tail > WORTHWHILE {
            self.asked = self.requests.try_send(()).is_ok();
        }
    }

    /// The prepared segment, if there is one with room for `needed` bytes.
    pub(super) fn take(&mut self, needed: u64) -> Option<Segment> {
        let segment = lock(&self.ready).take_if(|segment| segment.capacity() >= needed)?;
        self.asked = false;
        Some(segment)
    }
}

/// The thread's body: runs until the writer is gone.
pub(super) fn run(core: &Core, requests: &Receiver<()>, ready: &Ready) {
    while let Ok(()) = requests.recv() {
        match prepare(core, requests) {
            Ok(Some(segment)) => *lock(ready) = Some(segment),
            Ok(None) => return,
            // The writer makes do with a plain one.
            Err(error) => log::warn!("cannot prepare a segment: {error}"),
        }
    }
}

/// A segment full of zeros; `None` if the writer went away meanwhile.
fn prepare(core: &Core, requests: &Receiver<()>) -> Result<Option<Segment>> {
    let capacity = core.segment_target();
    let segment = core.create_segment(Origin::Log, capacity)?;
    let zeros = vec![0u8; STEP];
    let mut at = HEADER as u64;
    while at < capacity {
        let step = (capacity - at).min(STEP as u64);
        let filled = segment
            .file()
            .write_all_at(&zeros[..step as usize], at)
            .and_then(|()| segment.file().sync_data());
        let gone = requests.try_recv() == Err(TryRecvError::Disconnected);
        if filled.is_err() || gone {
            core.remove_files(&[Arc::new(segment)]);
            return filled.map(|()| None).map_err(KvsError::io("fill a segment with zeros"));
        }
        at += step;
    }
    Ok(Some(segment))
}
