//! The one writer: encodes, makes durable, then shows, then answers.
//!
//! Owner: whoever holds the writer's lock in [`commit`](super::commit): the write worker for the
//! server's jobs, a calling thread for embedded ones; one at a time. Invariants:
//! - durable, then visible, then acknowledged: [`Writer::commit`] writes and syncs a group before
//!   the index learns of it, and jobs are finished after that. With fsync always, nobody is shown
//!   what a power cut could take back.
//! - a failed sync or write poisons the store: it is never tried again, as the kernel may have
//!   dropped the data with the first report. A full disk is the exception, and a process that may open
//!   no more files: what was written of the group is cut off again, and the next may fare better.
//! - a unit lies in one segment as a whole.
//! - of the segments that a writer wrote, the active one has the largest number.
//! - a record's sequence number is larger than that of every record before it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::compactor::Chore;
use super::core::{Core, lock};
use super::group::Group;
use super::preparer::{Prepared, Preparer};
use super::reserve;
use super::segment::{HEADER, Origin, Segment};
use super::show::{Piece, show};
use super::syncer::Unsynced;
use super::txn::Txn;
use super::watch::Watches;
use super::zeros::Zeros;
use crate::config::Fsync;
use crate::error::{KvsError, Result};

/// See the module.
pub struct Writer {
    core: Arc<Core>,
    active: Arc<Segment>,
    /// Where the next record goes in the active segment.
    tail: u64,
    group: Group,
    watches: Watches,
    /// When the group under way is made durable.
    policy: Fsync,
    unsynced: Arc<Unsynced>,
    /// The active segment is left when it would grow beyond this, in bytes.
    limit: u64,
    zeros: Zeros,
    /// Segments that were left, but whose last records are not visible yet.
    left: Vec<Arc<Segment>>,
    helpers: Option<Helpers>,
}

/// The threads that the writer hands work to; they end when it lets go of them.
pub(super) struct Helpers {
    pub(super) preparer: Preparer,
    pub(super) chores: Sender<Chore>,
}

impl Writer {
    /// A writer that goes on at the end of the active segment, which is in the manifest.
    pub(super) fn new(
        core: Arc<Core>,
        unsynced: Arc<Unsynced>,
        next_seq: u64,
        helpers: Helpers,
    ) -> Writer {
        let active = unsynced.active();
        let tail = active.len();
        let limit = core.segment_target().min(active.capacity());
        let (group, left) = (Group::new(next_seq), Vec::new());
        let helpers = Some(helpers);
        let policy = core.fsync();
        let (watches, zeros) = (Watches::default(), Zeros::default());
        Writer { core, active, tail, group, watches, policy, unsynced, limit, zeros, left, helpers }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn group(&mut self) -> &mut Group {
        &mut self.group
    }

    pub(super) fn watches(&mut self) -> &mut Watches {
        &mut self.watches
    }

    /// Undoes all but the first `records` records.
    pub(super) fn undo_to(&mut self, records: usize) {
        self.group.undo_to(records);
        self.watches.undo_to(records);
    }

    /// Ends the open unit.
    pub(super) fn end_unit(&mut self) {
        self.group.end_unit();
        self.watches.settle();
    }

    /// A transaction to stage commands of the present group with.
    pub(super) fn txn(&mut self) -> Txn<'_> {
        Txn::new(self)
    }

    /// How many bytes the present group has.
    pub(super) fn staged_bytes(&self) -> usize {
        self.group.bytes().len()
    }

    /// Makes the staged group durable, then visible. After an error nothing of it is visible.
    pub(super) fn commit(&mut self) -> Result<()> {
        let outcome = if self.group.staged().is_empty() { Ok(()) } else { self.commit_staged() };
        self.group.reset();
        self.watches.age();
        outcome
    }

    /// After a panic in [`Writer::commit`]: nobody knows what was written, so nothing is any more.
    pub(super) fn give_up(&mut self) -> KvsError {
        self.group.reset();
        let cause = "internal error: a group commit panicked".to_owned();
        self.core.poison(&KvsError::Invalid(cause.clone()));
        KvsError::Poisoned { cause }
    }

    fn commit_staged(&mut self) -> Result<()> {
        self.core.check_poison()?;
        let mut written = self.try_to_write();
        // There may be room where zeros are: in the prepared segment, and in the reserve.
        if is_full(&written) && self.give_up_prepared() {
            written = self.try_to_write();
        }
        if is_full(&written) && self.core.reserve.release(&self.core) {
            written = self.try_to_write();
        }
        if let Ok(pieces) = &written {
            self.count();
            show(&self.core, &self.group, pieces);
        }
        if self.core.check_poison().is_ok() {
            self.tell_helpers();
        }
        written.map(drop)
    }

    /// Writes the group; leaves no trace of it where that fails.
    fn try_to_write(&mut self) -> Result<Vec<Piece>> {
        let core = Arc::clone(&self.core);
        let _no_merge = core.reserve.hold();
        let left = self.left.len();
        let error = match self.write() {
            Ok(pieces) => return Ok(pieces),
            Err(error) => error,
        };
        let full = is_no_space(&error);
        let cut = self.cut_off(left, !matches!(error, KvsError::Poisoned { .. }));
        if !full && !error.is_no_descriptor() {
            self.core.poison(&error);
            return Err(error);
        }
        if let Err(cause) = cut {
            self.core.poison(&cause);
        }
        Err(if full { KvsError::NoSpace } else { error })
    }

    /// Cuts off what was written of a group that failed: in the segments that were left for it,
    /// which are the `left`th and later ones, and in the active one. None of it was published, and
    /// the next open shall find none of it. If it was the sync that failed, the active one is not
    /// synced again.
    fn cut_off(&mut self, left: usize, sync: bool) -> Result<()> {
        for segment in &self.left[left..] {
            segment.file().set_len(segment.len())?;
            segment.sync()?;
        }
        self.tail = self.active.len();
        self.zeros = Zeros::default();
        self.active.file().set_len(self.tail)?;
        if sync { self.active.sync() } else { Ok(()) }
    }

    fn tell_helpers(&mut self) {
        let Some(helpers) = &mut self.helpers else { return };
        for segment in self.left.drain(..) {
            segment.seal();
            // The compactor ends only after the writer has let go of it.
            let _ = helpers.chores.send(Chore::Sealed(segment));
        }
        let (group, synced) = (self.group.bytes().len(), self.policy == Fsync::Always);
        helpers.preparer.grown_to(self.tail, &self.active, group, synced);
    }

    fn count(&self) {
        let stats = &self.core.stats;
        stats.groups.add(1);
        stats.group_records.add(self.group.staged().len() as u64);
        stats.group_bytes.add(self.group.bytes().len() as u64);
    }

    /// Writes the group, in pieces where a segment is full, and syncs.
    fn write(&mut self) -> Result<Vec<Piece>> {
        self.take_policy()?;
        let (mut pieces, mut unit) = (Vec::with_capacity(1), 0);
        let (mut bytes, mut records) = (0, 0);
        while unit < self.group.units().len() {
            let room = self.limit.saturating_sub(self.tail) as usize;
            let units = &self.group.units()[unit..];
            let fitting = units.partition_point(|(end, _)| end - bytes <= room);
            if fitting == 0 {
                let first = units[0].0 - bytes;
                self.rotate(first as u64)?;
                continue;
            }
            let (end, last) = units[fitting - 1];
            let after_sync = self.policy == Fsync::Always || self.unsynced.is_durable(self.tail);
            self.group.seal(records, last, after_sync);
            let base = self.tail as i64 - bytes as i64;
            self.append(bytes..end)
                .map_err(KvsError::io(format!("write {}", self.active.path().display())))?;
            self.active.note_seq(self.group.seq(records));
            pieces.push(Piece {
                segment: Arc::clone(&self.active),
                base,
                records: last,
                end: self.tail,
            });
            (bytes, records, unit) = (end, last, unit + fitting);
        }
        match self.policy {
            Fsync::Always => self.sync()?,
            Fsync::EverySec if self.unsynced.is_late() => self.sync()?,
            Fsync::EverySec | Fsync::No => self.unsynced.written(self.tail, self.limit),
        }
        Ok(pieces)
    }

    /// Writes these bytes of the group behind what the active segment has.
    fn append(&mut self, bytes: Range<usize>) -> io::Result<()> {
        let file = self.active.file();
        file.write_all_at(&self.group.bytes()[bytes.clone()], self.tail)?;
        self.tail += bytes.len() as u64;
        if self.policy == Fsync::Always && !self.core.reserve.is_full() {
            self.zeros.keep_ahead(&**file, self.tail, bytes.len(), self.limit)?;
        }
        Ok(())
    }

    /// Goes over to the policy that holds now. What was written under one that does not sync is made
    /// durable first: a record under `always` says that all before it is.
    fn take_policy(&mut self) -> Result<()> {
        let policy = self.core.fsync();
        if policy == Fsync::Always && self.policy != Fsync::Always {
            self.sync()?;
        }
        self.policy = policy;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.core.stats.syncs.add(1);
        self.active.sync()
    }

    /// Closes the active segment and goes on in a new one with room for `bytes`. What the old one
    /// holds is durable before the new one is written to, so only the newest segment can be torn.
    fn rotate(&mut self, bytes: u64) -> Result<()> {
        if self.tail > HEADER as u64 {
            self.sync()?;
        }
        self.core.reserve.ensure(&self.core);
        let needed = bytes + HEADER as u64;
        let capacity = self.core.segment_target().max(needed);
        let (segment, filled) = match self.take_prepared(needed) {
            Some(Prepared { segment, filled }) => {
                self.core.stats.prepared_rotations.add(1);
                (segment, filled)
            }
            None => (self.core.create_segment(Origin::Log, capacity)?, 0),
        };
        let empty = self.tail == HEADER as u64;
        let removed = if empty { vec![self.active.number()] } else { Vec::new() };
        let edited = lock(&self.core.manifest).edit(&[segment.number()], &removed);
        if let Err(error) = edited {
            // Whether the manifest lists it is unknown only after a failed sync.
            if !matches!(error, KvsError::Poisoned { .. }) {
                self.core.remove_files(&[Arc::new(segment)]);
            }
            return Err(error);
        }
        let segment = self.core.segments.add(segment)?;
        let old = std::mem::replace(&mut self.active, Arc::clone(&segment));
        let end = std::mem::replace(&mut self.tail, HEADER as u64);
        self.limit = segment.capacity();
        self.zeros = Zeros::up_to(filled);
        self.unsynced.set_active(segment);
        if empty {
            self.core.segments.remove(&[Arc::clone(&old)]);
            self.core.remove_files(&[old]);
            return Ok(());
        }
        self.core.stats.rotations.add(1);
        self.left.push(Arc::clone(&old));
        // Last: where this fails, the group fails, and has to be cut off what was left for it.
        old.file().set_len(end).map_err(KvsError::io("cut off a segment's zeros"))
    }

    /// Closes the active segment, unless it is empty, and goes on in a new one: everything that was
    /// written until now is in closed segments then, durably. The number of the new one.
    pub(super) fn close_active(&mut self) -> Result<u64> {
        self.core.check_poison()?;
        if self.helpers.is_none() {
            return Err(KvsError::Closed);
        }
        if self.tail > HEADER as u64 {
            match self.rotate(0) {
                Ok(()) => self.tell_helpers(),
                Err(error) if is_no_space(&error) => return Err(KvsError::NoSpace),
                Err(error) if error.is_no_descriptor() => return Err(error),
                Err(error) => {
                    self.core.poison(&error);
                    return Err(error);
                }
            }
        }
        Ok(self.active.number())
    }

    /// The prepared segment, if it has room for `needed` bytes. It must also have a larger number
    /// than the active one, which it has not if the active one was made in a hurry meanwhile: the
    /// newest segment is the one with the largest number.
    fn take_prepared(&mut self, needed: u64) -> Option<Prepared> {
        let prepared = self.helpers.as_mut()?.preparer.take()?;
        let segment = &prepared.segment;
        if segment.capacity() >= needed && segment.number() > self.active.number() {
            return Some(prepared);
        }
        self.core.remove_files(&[Arc::new(prepared.segment)]);
        None
    }

    /// Removes the prepared segment; whether that won room.
    fn give_up_prepared(&mut self) -> bool {
        let Some(prepared) = self.helpers.as_mut().and_then(|helpers| helpers.preparer.take())
        else {
            return false;
        };
        self.core.remove_files(&[Arc::new(prepared.segment)]);
        prepared.filled > HEADER as u64
    }

    /// Lets go of the helpers, syncs what is written and cuts off the zeros behind it. Returns the
    /// active segment, for its hint.
    pub(super) fn close(&mut self) -> Result<Arc<Segment>> {
        self.helpers = None;
        self.core.check_poison()?;
        self.sync()?;
        self.active.file().set_len(self.tail)?;
        Ok(Arc::clone(&self.active))
    }
}

fn is_full<T>(outcome: &Result<T>) -> bool {
    matches!(outcome, Err(KvsError::NoSpace))
}

fn is_no_space(error: &KvsError) -> bool {
    match error {
        KvsError::Io { source, .. } => reserve::is_no_space(source.kind()),
        _ => false,
    }
}
