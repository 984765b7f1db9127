//! Creates the next segment before it is needed: a file and its name are durable only after two syncs,
//! which no commit waits for then. With fsync always, and unless groups are large, memory is short or
//! the disk nearly full, it is filled with zeros, too: see [`zeros`](super::zeros) for what that saves.
//!
//! Thread: `kvs-prepare` creates and fills, the writer asks and takes. A prepared segment is a file that the
//! manifest does not list: one that is never used goes with the next open, or with the close. The
//! same thread keeps the reserve ([`reserve`]).

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use super::core::{Core, lock};
use super::reserve;
use super::segment::{HEADER, Origin, Segment};
use crate::error::{KvsError, Result};

/// A segment that has less than this in it, or less than a quarter of what it can hold, needs no
/// successor yet: `kvs set` leaves no such file behind.
const WORTHWHILE: u64 = 256 * 1024;
/// Where groups are larger than this on average, in bytes, zeros cost more processor time than they
/// save: they are a fourth of a millisecond per MiB, and save some 30 us per group.
const LARGE_GROUP: usize = 128 * 1024;
/// Over about how many groups the average is taken.
const GROUPS: usize = 16;
/// Zeros are written and synced in steps of so many bytes, so that no commit waits long for them.
const STEP: usize = 1024 * 1024;
/// Zeros are written only where there is room for so many segments.
const PLENTY: u64 = 8;
/// How often a full disk is looked at again.
const LOOK: Duration = Duration::from_millis(500);

/// The writer asks for a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// The number of the active segment, which it is to follow.
    active: u64,
    /// Whether zeros are worth their cost.
    filled: bool,
}

/// A segment for the writer to go on in.
pub(super) struct Prepared {
    pub(super) segment: Segment,
    /// It has zeros up to here.
    pub(super) filled: u64,
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
pub(super) type Ready = Arc<Mutex<Option<Prepared>>>;

impl Preparer {
    /// Requests go to `requests`, whose other end [`run`] has; segments come through `ready`.
    pub(super) fn new(requests: Sender<Request>, ready: Ready) -> Preparer {
        Preparer { requests, ready, asked: false, group: 0 }
    }

    /// Tells that a group of so many bytes went into the active segment, up to `tail`, and whether
    /// each is synced: in time, the next segment is asked for.
    pub(super) fn grown_to(&mut self, tail: u64, active: &Segment, group: usize, synced: bool) {
        if self.group == 0 {
            self.group = group;
        } else if group > 0 {
            self.group = (self.group * (GROUPS - 1) + group) / GROUPS;
        }
        if !self.asked && tail > WORTHWHILE.min(active.capacity() / 4) {
            let (active, filled) = (active.number(), synced && self.group <= LARGE_GROUP);
            self.asked = self.requests.try_send(Request { active, filled }).is_ok();
        }
    }

    /// The prepared segment, if there is one. The active segment is about to be left: the next one
    /// asks anew.
    pub(super) fn take(&mut self) -> Option<Prepared> {
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
        // The writer may have asked twice while one segment was made.
        let number = |prepared: &Prepared| prepared.segment.number();
        if lock(ready).as_ref().is_some_and(|prepared| number(prepared) > request.active) {
            continue;
        }
        let mut goes_on = |number: u64| {
            match requests.try_recv() {
                Err(TryRecvError::Disconnected) => return false,
                request => asked = request.ok().or(asked),
            }
            let overtaken = asked.is_some_and(|next| next.active > number);
            !overtaken && !core.reserve.is_full() && !core.is_pressed()
        };
        match prepare(core, request.filled, &mut goes_on) {
            Ok(prepared) if asked.is_some_and(|next| next.active > number(&prepared)) => {
                core.remove_files(&[Arc::new(prepared.segment)]);
            }
            Ok(prepared) => {
                if let Some(unused) = lock(ready).replace(prepared) {
                    core.remove_files(&[Arc::new(unused.segment)]);
                }
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

/// A segment, with zeros if they are asked for and there is plenty of room, as far as the fill
/// `goes_on` for its number. On a full disk it has none: they would take the room of records.
fn prepare(core: &Core, filled: bool, goes_on: &mut impl FnMut(u64) -> bool) -> Result<Prepared> {
    let segment = core.create_segment(Origin::Log, core.segment_target())?;
    let mut prepared = Prepared { segment, filled: HEADER as u64 };
    let plenty = prepared.segment.capacity().saturating_mul(PLENTY);
    if !filled || core.fs.room(&core.dir).is_some_and(|room| room < plenty) {
        return Ok(prepared);
    }
    let outcome = match fill(&mut prepared, goes_on) {
        Err(error) if reserve::is_no_space(error.kind()) => empty(&mut prepared),
        Ok(()) if core.reserve.is_full() => empty(&mut prepared),
        outcome => outcome,
    };
    if let Err(error) = outcome {
        core.remove_files(&[Arc::new(prepared.segment)]);
        return Err(KvsError::io("fill a segment with zeros")(error));
    }
    Ok(prepared)
}

fn fill(prepared: &mut Prepared, goes_on: &mut impl FnMut(u64) -> bool) -> io::Result<()> {
    static ZEROS: [u8; STEP] = [0; STEP];
    let (file, capacity) = (prepared.segment.file(), prepared.segment.capacity());
    while prepared.filled < capacity && goes_on(prepared.segment.number()) {
        let step = (capacity - prepared.filled).min(STEP as u64);
        file.write_all_at(&ZEROS[..step as usize], prepared.filled)?;
        file.sync_data()?;
        prepared.filled += step;
    }
    Ok(())
}

fn empty(prepared: &mut Prepared) -> io::Result<()> {
    prepared.filled = HEADER as u64;
    prepared.segment.file().set_len(prepared.filled)
}
