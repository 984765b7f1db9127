//! What goes on when the disk is full: a file of zeros, whose room is given back for deletes and
//! compaction, and the refusal of writes that would fill the disk again.
//!
//! `kvs-prepare` makes the file beside the segments and keeps its size in step with theirs. When a
//! group commit meets a full disk, the writer cuts off the part that is for it and tries that group
//! once more; from then on values are refused ([`Reserve::check`]), while tombstones are not. The
//! other part is lent to one merge after the other, so that deletes cannot use up what it takes to
//! win room. When there is room for the file again, and for a segment, `kvs-prepare` makes it anew and
//! values are taken again.
//!
//! Invariant: while the file is changed, nobody else changes it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::core::{Core, lock};
use super::filename;
use super::fs::File;
use crate::error::{KvsError, Result};

/// Zeros are written in steps of so many bytes.
const STEP: usize = 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Reserve {
    full: AtomicBool,
    /// The file was there, or was tried to be made, since the open.
    tried: AtomicBool,
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
        if !self.full.swap(true, Ordering::AcqRel) {
            log::error!(
                "the disk is full: values are refused until there is room; reads and deletes go on"
            );
        }
        let cut = |file: Arc<dyn File>| -> io::Result<bool> {
            let more = file.len()? > for_merges(core);
            if more {
                file.set_len(for_merges(core))?;
            }
            Ok(more)
        };
        core.fs.open(&path(core)).and_then(cut).unwrap_or(false)
    }

    /// For the writer, while it writes a group: on a full disk, no merge is under way.
    pub(super) fn hold(&self) -> Option<MutexGuard<'_, ()>> {
        self.is_full().then(|| lock(&self.file))
    }

    /// For the compactor, around a merge on a full disk: gives it the other part. Nobody writes a
    /// group meanwhile ([`Reserve::hold`]), which could take that room.
    pub(super) fn lend<R>(&self, core: &Core, merge: impl FnOnce() -> R) -> R {
        if !self.is_full() {
            return merge();
        }
        let _alone = lock(&self.file);
        let _ = core.fs.remove(&path(core));
        let merged = merge();
        // As much of it as there is room for.
        let _ = make(core, for_merges(core));
        merged
    }

    /// For the writer, which is about to leave a segment: sees to it that the file was made, if
    /// `kvs-prepare` did not come to that yet. Without it, a disk that is filled up quickly would leave
    /// no room for deletes, nor for a merge: for good.
    pub(super) fn ensure(&self, core: &Core) {
        if !self.tried.load(Ordering::Acquire) {
            self.keep(core);
        }
    }

    /// For `kvs-prepare`: makes the file as large as it is to be by now. If there is no room for
    /// that, the disk counts as full.
    pub(super) fn keep(&self, core: &Core) {
        if self.is_full() {
            return;
        }
        let alone = lock(&self.file);
        if self.is_full() {
            return;
        }
        let made = make(core, size(core));
        self.tried.store(true, Ordering::Release);
        match made {
            Ok(()) => {}
            Err(error) if is_no_space(error.kind()) => {
                leave_some(core);
                drop(alone);
                self.release(core);
            }
            Err(error) => log::warn!("cannot keep a reserve of space: {error}"),
        }
    }

    /// For `kvs-prepare`, now and then: ends the full state if there is room.
    pub(super) fn look_again(&self, core: &Core) {
        if !self.is_full() {
            return;
        }
        let needed = size(core) + core.segment_target();
        if core.fs.room(&core.dir).is_some_and(|room| room < needed) {
            return;
        }
        let _alone = lock(&self.file);
        match make(core, size(core)) {
            Ok(()) => {
                self.full.store(false, Ordering::Release);
                log::info!("there is room on the disk again: values are taken");
            }
            Err(_) => drop(core.fs.remove(&path(core))),
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

/// What a merge takes in the full state.
fn for_merges(core: &Core) -> u64 {
    core.segment_target()
}

/// All of it: with a quarter for tombstones.
fn size(core: &Core) -> u64 {
    for_merges(core) + core.segment_target() / 4
}

/// Leaves a fifth of a file that took all the room there was to tombstones.
fn leave_some(core: &Core) {
    let cut = |file: Arc<dyn File>| file.set_len(file.len()? / 5 * 4);
    if let Err(error) = core.fs.open(&path(core)).and_then(cut) {
        log::warn!("cannot cut the reserve: {error}");
    }
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
