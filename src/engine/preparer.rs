//! Fills the next segment with zeros before it is needed: appending to blocks that are written
//! already makes an fdatasync nearly half as dear, since no file length and no block map changes
//! with it.
//!
//! Thread: `kvs-prepare` fills, the writer asks and takes. A prepared segment is a file that the
//! manifest does not list: one that is never used goes with the next open, or with the close. The
//! same thread keeps the reserve ([`reserve`](super::reserve)).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use super::core::{Core, lock};
use super::segment::{HEADER, Origin, Segment};
use crate::error::{KvsError, Result};

/// A segment that has less than this in it, or less than a quarter of what it can hold, needs no
/// successor yet: `kvs set` leaves no such file behind.
const WORTHWHILE: u64 = 256 * 1024;
/// Where groups are larger than this on average, in bytes, zeros cost more than they save: each byte
/// is written twice to win the same tenth of a millisecond per sync.
const LARGE_GROUP: usize = 64 * 1024;
/// Over about how many groups the average is taken.
const GROUPS: usize = 16;
/// Zeros are written and synced in steps of so many bytes, so that no commit waits long for them.
const STEP: usize = 1024 * 1024;

/// How often a full disk is looked at again.
const LOOK: Duration = Duration::from_millis(500);

/// The writer asks for a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// The number of the active segment, which it is to follow.
    active: u64,
    /// Whether zeros are worth their cost.
    filled: bool,
}

/// The writer's end.
pub struct Preparer {
    requests: Sender<Request>,
    ready: Ready,
    asked: bool,
    /// The mean size of the last groups, in bytes.
    group: usize,
}

/// Where a prepared segment waits.
pub(super) type Ready = Arc<Mutex<Option<Segment>>>;

impl Preparer {
    /// Requests go to `requests`, whose other end [`run`] has; segments come through `ready`.
    pub(super) fn new(requests: Sender<Request>, ready: Ready) -> Preparer {
        Preparer { requests, ready, asked: false, group: 0 }
    }

    /// Tells that a group of so many bytes filled the active segment up to `tail`: in time, the
    /// next one is asked for.
    pub(super) fn grown_to(&mut self, tail: u64, active: &Segment, group: usize) {
        self.group = (self.group * (GROUPS - 1) + group) / GROUPS;
        if !self.asked && tail > WORTHWHILE.min(active.capacity() / 4) {
            let (active, filled) = (active.number(), self.group <= LARGE_GROUP);
            self.asked = self.requests.try_send(Request { active, filled }).is_ok();
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
pub(super) fn run(core: &Core, requests: &Receiver<Request>, ready: &Ready) {
    let mut asked = None;
    while let Some(request) = asked.take().or_else(|| next(core, requests)) {
        core.reserve.keep(core);
        if core.reserve.is_full() {
            continue;
        }
        // Two requests may have come while one segment was filled.
        if lock(ready).as_ref().is_some_and(|segment| segment.number() > request.active) {
            continue;
        }
        match prepare(core, request.filled, requests, &mut asked) {
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

/// The next request; `None` once the writer is gone.
fn next(core: &Core, requests: &Receiver<Request>) -> Option<Request> {
    loop {
        match requests.recv_timeout(LOOK) {
            Ok(request) => return Some(request),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => core.reserve.look_again(core),
        }
    }
}

/// A segment, full of zeros if it is to be; `None` if the writer went away meanwhile.
/// A request that came meanwhile is left in `asked`.
fn prepare(
    core: &Core,
    filled: bool,
    requests: &Receiver<Request>,
    asked: &mut Option<Request>,
) -> Result<Option<Segment>> {
    let capacity = core.segment_target();
    let segment = core.create_segment(Origin::Log, capacity)?;
    if !filled {
        return Ok(Some(segment));
    }
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
