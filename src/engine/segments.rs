//! The table of open segments: from the slot in a position to the segment.
//!
//! Readers look slots up without a lock under an epoch guard; the writer and the compactor add and
//! remove. Invariant: a slot is given anew only after every guard that could have read a position
//! with its old meaning is gone, so a position read under a guard never leads to a wrong segment. It
//! may lead to none, when compaction moved the record meanwhile: then the index has the new
//! position, and the look-up starts again.

use std::sync::{Arc, Mutex};

use crossbeam_epoch::Guard;

use super::epoch_cell::EpochCell;
use super::position::MAX_SLOTS;
use super::segment::Segment;
use crate::error::{KvsError, Result};
use crate::sync::lock;

/// The segment of each slot.
pub type Table = Vec<Option<Arc<Segment>>>;

/// See the module.
#[derive(Debug)]
pub struct Segments {
    table: EpochCell<Table>,
    /// Free slots; the lock also serialises changes of the table.
    free: Arc<Mutex<Vec<u32>>>,
}

impl Default for Segments {
    fn default() -> Self {
        Segments { table: EpochCell::new(Vec::new()), free: Arc::default() }
    }
}

impl Segments {
    /// The present table.
    pub fn table<'g>(&self, guard: &'g Guard) -> &'g Table {
        self.table.load(guard)
    }

    /// The segment in `slot`.
    pub fn get<'g>(&self, slot: u32, guard: &'g Guard) -> Option<&'g Arc<Segment>> {
        self.table.load(guard).get(slot as usize)?.as_ref()
    }

    /// Gives `segment` a slot and makes it visible.
    pub fn add(&self, segment: Segment) -> Result<Arc<Segment>> {
        let segment = Arc::new(segment);
        self.add_shared(&segment)?;
        Ok(segment)
    }

    /// [`Segments::add`] for a segment that is shared already.
    pub fn add_shared(&self, segment: &Arc<Segment>) -> Result<()> {
        // Pinned first: a pin may run what was deferred, which takes the lock.
        let guard = crossbeam_epoch::pin();
        let mut free = lock(&self.free);
        let mut table = self.table.load(&guard).clone();
        let slot = free.pop().unwrap_or_else(|| {
            table.push(None);
            table.len() as u32 - 1
        });
        if slot as usize >= MAX_SLOTS {
            return Err(KvsError::Invalid(format!(
                "more than {MAX_SLOTS} segments; use larger ones (--segment-bytes)"
            )));
        }
        segment.set_slot(slot);
        table[slot as usize] = Some(Arc::clone(segment));
        self.table.replace(table, &guard);
        drop(free);
        // A table that waited in this thread's list would keep removed segments, and their space.
        guard.flush();
        Ok(())
    }

    /// Takes segments out; who holds them keeps them.
    pub fn remove(&self, segments: &[Arc<Segment>]) {
        let guard = crossbeam_epoch::pin();
        let changing = lock(&self.free);
        let mut table = self.table.load(&guard).clone();
        for segment in segments {
            table[segment.slot() as usize] = None;
        }
        self.table.replace(table, &guard);
        drop(changing);
        let slots: Vec<u32> = segments.iter().map(|segment| segment.slot()).collect();
        let free = Arc::clone(&self.free);
        guard.defer(move || lock(&free).extend(slots));
        guard.flush();
    }

    /// All open segments, by slot.
    pub fn all(&self) -> Vec<Arc<Segment>> {
        self.table.load(&crossbeam_epoch::pin()).iter().flatten().cloned().collect()
    }

    /// The open segment with the smallest number above this one.
    pub fn after(&self, number: u64) -> Option<Arc<Segment>> {
        let guard = crossbeam_epoch::pin();
        let later = self.table.load(&guard).iter().flatten().filter(|next| next.number() > number);
        later.min_by_key(|next| next.number()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fs::OsFs;
    use crate::engine::segment::Origin;

    /// A pin runs what was deferred, now and then; giving slots back in there takes the lock that
    /// was held around the pin, and the thread waited for itself.
    #[test]
    fn slots_are_given_back_while_segments_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::default();
        for number in 0..500 {
            let path = dir.path().join("segment");
            let segment = Segment::create(&OsFs, &path, number, Origin::Log, 4096).unwrap();
            std::fs::remove_file(&path).unwrap();
            let segment = segments.add(segment).unwrap();
            segments.remove(&[segment]);
        }
        assert!(segments.table(&crossbeam_epoch::pin()).len() < 500, "no slot was used again");
    }
}
