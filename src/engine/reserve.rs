//! What goes on when the disk is full: a file of zeros, whose room is given back for deletes and
//! compaction, and the refusal of writes that would fill the disk again.
//!
//! `kvs-prepare` makes the file beside the segments and keeps its size in step with theirs. When a
//! group commit meets a full disk, the writer cuts off the part that is for it and tries that group
//! once more; from then on values are refused ([`Reserve::check`]), while tombstones are not. The
//! other part is lent to one merge after the other ([`Loan`]), so that deletes cannot use up what it
//! takes to win room. When there is room for the file again, and for a segment, `kvs-prepare` makes it
//! anew and values are taken again.
//!
//! Invariants: while the file is changed, nobody else changes it. On a full disk, what becomes free goes
//! into it before tombstones get any, up to what a merge of any one segment takes: each tombstone makes
//! at least as much dead as it takes itself, so merges and deletes can go on until nothing is left.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::core::{Core, lock};
use super::filename;
use super::fs::File;
use super::segment::HEADER;
use crate::error::{KvsError, Result};

/// Zeros are written in steps of so many bytes.
const STEP: usize = 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Reserve {
    full: AtomicBool,
    /// The file was made since the open, as far as there was room.
    made: AtomicBool,
    /// Held while the file is changed.
    file: Mutex<()>,
}

impl Reserve {
    /// An error while the disk is full.
    pub fn check(&self) -> Result<()> {
        if self.is_full() { Err(KvsError::NoSpace) } else { Ok(()) }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// For the writer, which has met a full disk: gives its part of the room back. Whether there was
    /// any.
    pub(super) fn release(&self, core: &Core) -> bool {
        let _alone = lock(&self.file);
        self.set_full();
        let part = for_merges(core);
        let more = len(core) > part;
        shrink(core, part);
        more
    }

    /// For the writer, while it writes a group: on a full disk, no merge is under way.
    pub(super) fn hold(&self) -> Option<MutexGuard<'_, ()>> {
        self.while_full()
    }

    /// For the compactor: what a merge may take on a full disk; `None` while it is not.
    pub(super) fn loan<'a>(&'a self, core: &'a Core) -> Option<Loan<'a>> {
        Some(Loan { core, refills: true, _alone: self.while_full()? })
    }

    fn while_full(&self) -> Option<MutexGuard<'_, ()>> {
        let alone = self.is_full().then(|| lock(&self.file));
        // That may have ended while this waited.
        alone.filter(|_| self.is_full())
    }

    /// For the writer, which is about to leave a segment: sees to it that the file was made, if
    /// `kvs-prepare` did not come to that yet. Without it, a disk that is filled up quickly would leave
    /// no room for deletes, nor for a merge: for good.
    pub(super) fn ensure(&self, core: &Core) {
        if !self.made.load(Ordering::Acquire) {
            self.keep(core);
        }
    }

    /// For `kvs-prepare`: makes the file as large as it is to be by now, but no larger than what is left
    /// to others.
    pub(super) fn keep(&self, core: &Core) {
        if self.is_full() {
            return;
        }
        let alone = lock(&self.file);
        if self.is_full() {
            return;
        }
        let (len, room) = (len(core), core.fs.room(&core.dir).unwrap_or(u64::MAX));
        let most = len.max(len.saturating_add(room) / 2);
        let made = make(core, next_step(core).min(most));
        self.made.store(true, Ordering::Release);
        match made {
            Ok(()) => {}
            Err(error) if is_no_space(error.kind()) => {
                shrink(core, self::len(core) / 5 * 4);
                drop(alone);
                self.release(core);
            }
            Err(error) => log::warn!("cannot keep a reserve of space: {error}"),
        }
    }

    /// After an open: a disk without any room is full. Whoever had the store before may have known.
    pub(super) fn recall(&self, core: &Core) {
        const NONE: u64 = 1024 * 1024;
        let none = |room| room < NONE.min(for_deletes(core) / 2);
        if len(core) > 0 && core.fs.room(&core.dir).is_some_and(none) {
            self.set_full();
        }
    }

    fn set_full(&self) {
        if !self.full.swap(true, Ordering::AcqRel) {
            log::error!(
                "the disk is full: values are refused until there is room; reads and deletes go on"
            );
        }
    }

    /// For `kvs-prepare`, now and then: ends the full state if there is room.
    pub(super) fn look_again(&self, core: &Core) {
        let Some(_alone) = self.while_full() else { return };
        let whole = size(core);
        let enough = |room| len(core).saturating_add(room) >= whole + core.segment_target();
        if !core.fs.room(&core.dir).is_none_or(enough) {
            return;
        }
        match make(core, next_step(core)) {
            Ok(()) if len(core) >= whole => {
                self.made.store(true, Ordering::Release);
                self.full.store(false, Ordering::Release);
                log::info!("there is room on the disk again: values are taken");
            }
            Ok(()) => {}
            Err(_) => shrink(core, for_merges(core)),
        }
    }
}

/// The room that a merge may take on a full disk. Nobody writes a group while it is there
/// ([`Reserve::hold`]), which could take that room. In the end the file has it again, as far as the
/// merge won it, or what else has become free.
pub(super) struct Loan<'a> {
    core: &'a Core,
    refills: bool,
    _alone: MutexGuard<'a, ()>,
}

impl Loan<'_> {
    /// How many bytes a merge may copy, with what deletes may use.
    pub(super) fn most_copied(&self) -> u64 {
        self.room().saturating_sub(to_merge(0)) / 8 * 7
    }

    /// Whether deletes will soon be refused.
    pub(super) fn is_pressing(&self) -> bool {
        self.room() < for_merges(self.core) + for_deletes(self.core) / 2
    }

    /// Gives what it takes to a merge that copies so many bytes.
    pub(super) fn give(&self, copied: u64) {
        shrink(self.core, len(self.core).saturating_sub(to_merge(copied)));
    }

    fn room(&self) -> u64 {
        len(self.core).saturating_add(self.core.fs.room(&self.core.dir).unwrap_or(0))
    }

    /// For when no merge is possible: a fifth is left to tombstones, until one is.
    pub(super) fn forgo(mut self) {
        self.refills = false;
        // Where nobody tells how much there is, it would be a fifth of the rest again and again.
        if self.core.fs.room(&self.core.dir).is_some() {
            shrink(self.core, self.room() / 5 * 4);
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if self.refills {
            refill(self.core);
        }
    }
}

/// Whether an error means that the disk, or what we may use of it, is full.
pub(super) fn is_no_space(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn path(core: &Core) -> PathBuf {
    core.dir.join(filename::RESERVE)
}

/// Files take room in blocks of so many bytes, most often.
const BLOCK: u64 = 4096;

/// What a segment takes with so many bytes.
pub(super) fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

/// What a merge takes that copies so many bytes: blocks begun and the manifest's edit, too. How many it
/// copies is known up to an eighth ([`liveness`](super::liveness)).
fn to_merge(copied: u64) -> u64 {
    HEADER as u64 + copied + copied / 7 + 2 * BLOCK
}

/// The part for merges: any one segment can be merged with it.
fn for_merges(core: &Core) -> u64 {
    let closed = core.segments.all().into_iter().filter(|segment| segment.is_sealed());
    let largest = closed.map(|segment| segment.liveness().copied()).max().unwrap_or(0);
    to_merge(largest.max(core.segment_target()))
}

/// The part for tombstones: so many that a merge of any segment wins something.
fn for_deletes(core: &Core) -> u64 {
    let (_, live) = core.space();
    (live / 64).max(core.segment_target() / 4)
}

fn size(core: &Core) -> u64 {
    for_merges(core) + for_deletes(core)
}

/// As much of the whole file as is made at a time, where much is missing: others wait for the file.
fn next_step(core: &Core) -> u64 {
    size(core).min(len(core) + 2 * core.segment_target())
}

/// The file's length; zero if there is none.
fn len(core: &Core) -> u64 {
    core.fs.open(&path(core)).and_then(|file| file.len()).unwrap_or(0)
}

/// Makes the file so many bytes short, unless it is already.
fn shrink(core: &Core, size: u64) {
    let cut = |file: Arc<dyn File>| if file.len()? > size { file.set_len(size) } else { Ok(()) };
    match core.fs.open(&path(core)).and_then(cut) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot cut the reserve: {error}");
        }
        _ => {}
    }
}

/// On a full disk: the file gets what room there is, up to the part for merges.
fn refill(core: &Core) {
    let room = core.fs.room(&core.dir).unwrap_or(u64::MAX);
    // What others take meanwhile is theirs.
    let _ = make(core, for_merges(core).min(len(core).saturating_add(room)));
}

/// Makes the file `size` bytes long. It must take that room, so it is written, and synced, since
/// the next open believes its length.
fn make(core: &Core, size: u64) -> io::Result<()> {
    let path = path(core);
    let file = match core.fs.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => core.fs.create(&path)?,
        opened => opened?,
    };
    let mut at = file.len()?;
    if at > size * 2 {
        file.set_len(size)?;
    }
    let zeros = vec![0u8; STEP.min(size as usize)];
    while at < size {
        let step = (size - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..step as usize], at)?;
        file.sync_data()?;
        at += step;
    }
    Ok(())
}
