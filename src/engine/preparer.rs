//! Creates the next segment before it is needed: a file and its name are durable only after two syncs,
//! which no commit waits for then.
//!
//! Thread: `kvs-prepare` creates, the writer asks and takes. A prepared segment is a file that the
//! manifest does not list: one that is never used goes with the next open, or with the close. The
//! same thread keeps the reserve ([`reserve`](super::reserve)).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::core::{Core, lock};
use super::segment::{Origin, Segment};

/// A segment that has less than this in it, or less than a quarter of what it can hold, needs no
/// successor yet: `kvs set` leaves no such file behind.
const WORTHWHILE: u64 = 256 * 1024;
/// How often a full disk is looked at again.
const LOOK: Duration = Duration::from_millis(500);

/// The writer asks for a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// The number of the active segment, which it is to follow.
    active: u64,
}

/// The writer's end.
pub struct Preparer {
    requests: Sender<Request>,
    ready: Ready,
    asked: bool,
}

/// Where a prepared segment waits.
pub(super) type Ready = Arc<Mutex<Option<Segment>>>;

impl Preparer {
    /// Requests go to `requests`, whose other end [`run`] has; segments come through `ready`.
    pub(super) fn new(requests: Sender<Request>, ready: Ready) -> Preparer {
        Preparer { requests, ready, asked: false }
    }

    /// Tells that the active segment is filled up to `tail`: in time, the next one is asked for.
    pub(super) fn grown_to(&mut self, tail: u64, active: &Segment) {
        if !self.asked && tail > WORTHWHILE.min(active.capacity() / 4) {
            self.asked = self.requests.try_send(Request { active: active.number() }).is_ok();
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
    while let Some(request) = next(core, requests) {
        core.reserve.keep(core);
        if core.reserve.is_full() {
            continue;
        }
        // The writer may have asked twice while one segment was made.
        if lock(ready).as_ref().is_some_and(|segment| segment.number() > request.active) {
            continue;
        }
        match core.create_segment(Origin::Log, core.segment_target()) {
            Ok(segment) => {
                let unused = lock(ready).replace(segment);
                core.remove_files(&unused.map(Arc::new).into_iter().collect::<Vec<_>>());
            }
            // The writer makes do with one of its own.
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
