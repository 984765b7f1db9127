//! The step from durable to visible: the records of a group commit go into the index, and what
//! they replace counts as dead.
//!
//! Owner: the writer, for each group that is durable. Invariants:
//! - a segment's length is published before the index leads to a record in it.
//! - a position is replaced in place, so a key that is overwritten never vanishes; a new key goes into
//!   the point index first, then into the ordered one, and a removed key out of them the same way.
//! - no snapshot begins or ends meanwhile, and each learns what a key was before the key changes.
//! - while a group, or a batch of it, becomes visible, readers of several keys are told to look again.

use std::sync::Arc;

use crossbeam_epoch::Guard;

use super::core::{Core, lock};
use super::epoch_cell;
use super::expiry::Due;
use super::group::{Change, Group, Staged};
use super::keydir::Keydir;
use super::position::Position;
use super::record;
use super::segment::Segment;
use super::snapshot::Overlay;
use super::view::{Moved, Source};

/// How many records are warmed up at a time: as many as stay in the first-level cache.
const WARM: usize = 64;
/// A group of so many records has what it replaced freed: of a pin, that is too little for it.
const LARGE: usize = 64;
/// Of records with longer keys, the processor reads ahead by itself.
const KEY: usize = 256;

/// A piece of a group in one segment.
pub(super) struct Piece {
    pub(super) segment: Arc<Segment>,
    /// What to add to a record's place in the group's bytes to have its offset in the segment.
    pub(super) base: i64,
    /// Behind the last record of the piece, in records of the group.
    pub(super) records: usize,
    pub(super) end: u64,
}

/// Shows a group to readers: segment by segment, record by record.
pub(super) fn show(core: &Core, group: &Group, pieces: &[Piece]) {
    for piece in pieces {
        piece.segment.publish(piece.end);
    }
    let overlays = core.snapshots.overlays();
    let all = core.groups.show();
    let guard = crossbeam_epoch::pin();
    let (new, ending) = (Vec::new(), Vec::new());
    let mut show = Show { core, overlays: &overlays, guard: &guard, new, ending };
    let mut first = 0;
    for (_, end) in group.units() {
        let staged = &group.staged()[first];
        // A clear changes many keys, and a new numbering all.
        let several =
            end - first > 1 || staged.change == Change::Clear || staged.database == record::STORE;
        let showing = several.then(|| core.batches.show());
        for i in first..*end {
            if i % WARM == 0 {
                let end = group.staged().len().min(i + WARM);
                show.warm_up(group, &group.staged()[i..end]);
            }
            if let Some(piece) = pieces.iter().find(|piece| i < piece.records) {
                show.record(group, i, piece);
            }
        }
        drop(showing);
        first = *end;
    }
    show.add_new_keys(group);
    drop(all);
    core.expiry.add(&mut show.ending);
    drop(guard);
    let replaced = group.staged().len();
    if replaced >= LARGE {
        epoch_cell::free_replaced(replaced);
    }
}

/// A group on its way into the index.
struct Show<'a> {
    core: &'a Core,
    overlays: &'a [Arc<Overlay>],
    guard: &'a Guard,
    /// Records whose keys the ordered index does not have yet.
    new: Vec<usize>,
    /// Records that end.
    ending: Vec<Due>,
}

impl Show<'_> {
    /// Reads ahead what showing these records will read: the index, and the records they replace.
    /// Each look-up by itself would wait for three cache misses, one after the other; here those of
    /// many keys overlap. (Measured: docs/performance.md.)
    fn warm_up(&self, group: &Group, staged: &[Staged]) {
        let mut sum = 0;
        for staged in staged {
            sum ^= self.keydir(staged).touch(staged.hash, self.guard);
        }
        std::hint::black_box(sum);
        for staged in staged {
            let source = Source::live(self.core, staged.database, self.guard);
            // It will be asked for its key only.
            let most = record::size(group.key(staged).len(), 0, true).min(KEY);
            source.touch_record(staged.hash, most);
        }
    }

    fn record(&mut self, group: &Group, i: usize, piece: &Piece) {
        let staged = group.staged()[i];
        match staged.change {
            Change::Put => self.put(group, i, &staged, piece),
            Change::Delete => self.delete(group, &staged, piece),
            Change::Clear => self.clear(group, &staged),
        }
    }

    fn keydir(&self, staged: &Staged) -> &Arc<Keydir> {
        self.core.keydir(staged.database, self.guard)
    }

    fn put(&mut self, group: &Group, i: usize, staged: &Staged, piece: &Piece) {
        let key = group.key(staged);
        self.note(staged, key);
        let offset = (staged.start as i64 + piece.base) as u64;
        let slot = piece.segment.slot();
        let position = Position::new(slot, offset, staged.size, staged.expires);
        let old = self.retry(staged.database, |source| {
            source.keydir.set(staged.hash, position, self.guard, |candidate| {
                source.is_of_key(candidate, (staged.database, key))
            })
        });
        piece.segment.liveness().add(staged.size);
        if staged.expires {
            self.ending.extend(group.expiry(staged).map(|at| Due { at, hash: staged.hash }));
        }
        if let Some(numbering) = group.numbering_in(i) {
            self.core.set_numbering(numbering);
        }
        match old {
            Some(old) => self.dead(old),
            None => self.new.push(i),
        }
    }

    fn delete(&mut self, group: &Group, staged: &Staged, piece: &Piece) {
        piece.segment.liveness().add_tombstone(staged.size);
        let key = group.key(staged);
        self.add_new_keys(group);
        self.note(staged, key);
        let old = self.retry(staged.database, |source| {
            source.keydir.remove(staged.hash, self.guard, |candidate| {
                source.is_of_key(candidate, (staged.database, key))
            })
        });
        if let Some(old) = old {
            self.keydir(staged).remove_ordered(key, self.guard);
            self.dead(old);
        }
    }

    fn clear(&mut self, group: &Group, staged: &Staged) {
        self.add_new_keys(group);
        let _no_moves = lock(&self.core.moving);
        for overlay in self.overlays {
            overlay.freeze(self.core, staged.database, self.guard);
        }
        let old = Arc::clone(self.keydir(staged));
        self.core.clear_keydir(staged.database, self.guard);
        old.positions(self.guard, |position| self.dead(position));
    }

    /// Runs a change of the index until no candidate was just being moved by the compactor.
    fn retry<R>(&self, database: u8, change: impl Fn(&Source<'_>) -> Result<R, Moved>) -> R {
        loop {
            match change(&Source::live(self.core, database, self.guard)) {
                Ok(done) => return done,
                Err(Moved) => std::hint::spin_loop(),
            }
        }
    }

    fn dead(&self, position: Position) {
        if let Some(segment) = self.core.segments.get(position.slot(), self.guard) {
            segment.liveness().remove(position);
        }
    }

    /// Tells the snapshots what the key was, before it changes.
    fn note(&self, staged: &Staged, key: &[u8]) {
        for overlay in self.overlays {
            overlay.note(staged.database, key, || {
                self.retry(staged.database, |source| {
                    let is_key = |candidate| source.is_of_key(candidate, (staged.database, key));
                    let Some(position) = source.keydir.find(staged.hash, self.guard, is_key)?
                    else {
                        return Ok(None);
                    };
                    let segment = source.segment(position)?;
                    Ok(Some((Arc::clone(segment), position)))
                })
            });
        }
    }

    /// Adds the keys of `new` to the ordered index, in order: neighbours share the work.
    fn add_new_keys(&mut self, group: &Group) {
        let mut new = std::mem::take(&mut self.new);
        let name = |i: &usize| {
            let staged = &group.staged()[*i];
            (staged.database, group.key(staged))
        };
        new.sort_unstable_by_key(|i| name(i));
        for same_database in new.chunk_by(|a, b| name(a).0 == name(b).0) {
            let keys: Vec<&[u8]> = same_database.iter().map(|i| name(i).1).collect();
            let database = name(&same_database[0]).0;
            self.core.keydir(database, self.guard).add_ordered(&keys, self.guard);
        }
        new.clear();
        self.new = new;
    }
}
