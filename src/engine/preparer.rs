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

/// A segment that has less than this in it, or less than a quarter of what it can hold, needs no
/// successor yet: `kvs set` leaves no such file behind.
const WORTHWHILE: u64 = 256 * 1024;
/// Zeros are written and synced in steps of so many bytes, so that no commit waits long for them.
const STEP: usize = 1024 * 1024;

/// The writer's end.
pub struct Preparer {
    /// The number of the active segment that another one is to follow.
    requests: Sender<u64>,
    ready: Ready,
    asked: bool,
}

/// Where a prepared segment waits.
pub(super) type Ready = Arc<Mutex<Option<Segment>>>;

impl Preparer {
    /// Requests go to `requests`, whose other end [`run`] has; segments come through `ready`.
    pub(super) fn new(requests: Sender<u64>, ready: Ready) -> Preparer {
        Preparer { requests, ready, asked: false }
    }

    /// Tells how far the active segment is filled: in time, the next one is asked for.
    pub(super) fn grown_to(&mut self, tail: u64, active: &Segment) {
        if !self.asked && tail > WORTHWHILE.min(active.capacity() / 4) {
            self.asked = self.requests.try_send(active.number()).is_ok();
        }
    }

    /// The prepared segment, if there is one. The active segment is about to be left: the next one
    /// asks anew.
    pub(super) fn take(&mut self) -> Option<Segment> {
        self.asked = false;
        lock(&self.ready).take()
    }
}

/// The thread's body: runs until the writer is gone.
pub(super) fn run(core: &Core, requests: &Receiver<u64>, ready: &Ready) {
    let mut asked = None;
    while let Some(active) = asked.take().or_else(|| requests.recv().ok()) {
        // Two requests may have come while one segment was filled.
        if lock(ready).as_ref().is_some_and(|segment| segment.number() > active) {
            continue;
        }
        match prepare(core, requests, &mut asked) {
            Ok(Some(segment)) => {
                let unused = lock(ready).replace(segment);
                core.remove_files(&unused.map(Arc::new).into_iter().collect::<Vec<_>>());
            }
            Ok(None) => return,
            // The writer makes do with a plain one.
            Err(error) => log::warn!("cannot prepare a segment: {error}"),
        }
    }
}

/// A segment full of zeros; `None` if the writer went away meanwhile.
/// A request that came meanwhile is left in `asked`.
fn prepare(
    core: &Core,
    requests: &Receiver<u64>,
    asked: &mut Option<u64>,
) -> Result<Option<Segment>> {
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
        let request = requests.try_recv();
        let gone = request == Err(TryRecvError::Disconnected);
        *asked = request.ok().or(*asked);
        if filled.is_err() || gone {
            core.remove_files(&[Arc::new(segment)]);
            return filled.map(|()| None).map_err(KvsError::io("fill a segment with zeros"));
        }
        at += step;
    }
    Ok(Some(segment))
}
