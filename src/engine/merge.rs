//! One merge: what lives in some segments is copied into a new one, which then takes their place.
//!
//! Thread: `kvs-compact`, step by step, so that the compactor can keep to its rate. Invariants:
//! - one manifest edit {add, remove}; before it, a crash leaves the old segments, after it the new
//!   one, and the other files are deleted at the next open.
//! - a copied key is moved in the index by compare-exchange: what a user changed meanwhile wins.
//!   The move comes after the edit: the index never leads to a segment that is not listed.
//! - what made a record dead is durable before the record goes, whatever the policy.
//! - a tombstone goes only when no segment outside the merge holds an older record of its key, which
//!   would come back without it; the hints tell.
//! - a segment with damage is never merged away.

use std::sync::Arc;

use super::copier::{Copier, Move};
use super::core::{Core, lock};
use super::hint::Hint;
use super::hint_file;
use super::hint_lookups::Lookups;
use super::position::Position;
use super::record;
use super::segment::{HEADER, Origin, Segment};
use super::segment_reader::{STEP, SegmentReader};
use crate::error::{KvsError, Result};

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more to copy.
    More,
    /// All is copied.
    Done,
    /// A victim is damaged: the merge is off.
    Damaged,
}

/// See the module. Dropped before it is finished, it leaves nothing behind.
pub(super) struct Merge<'a> {
    core: &'a Core,
    victims: &'a [Arc<Segment>],
    /// The victim that is being read is the first of these.
    unread: &'a [Arc<Segment>],
    reader: Option<SegmentReader<'a>>,
    copier: Copier,
    /// The output's file outlives this.
    keep_output: bool,
}

impl<'a> Merge<'a> {
    /// Begins to merge `victims`, which are closed.
    pub(super) fn begin(core: &'a Core, victims: &'a [Arc<Segment>]) -> Result<Merge<'a>> {
        let capacity: u64 = victims.iter().map(|victim| victim.len()).sum();
        let output = core.create_segment(Origin::Merged, capacity.max(HEADER as u64))?;
        let copier = Copier::new(Arc::new(output));
        Ok(Merge { core, victims, unread: victims, reader: None, copier, keep_output: false })
    }

    /// Copies what lives in the next [`STEP`] bytes.
    pub(super) fn step(&mut self) -> Result<Step> {
        let Some((victim, rest)) = self.unread.split_first() else { return Ok(Step::Done) };
        let all = || SegmentReader::new(&**victim.file(), HEADER as u64..victim.len());
        let mut reader = self.reader.take().unwrap_or_else(all);
        let doing = || KvsError::io(format!("read {}", victim.path().display()));
        if !reader.fill().map_err(doing())? {
            self.unread = rest;
            return Ok(Step::More);
        }
        let sound = reader.records(|offset, record, place| {
            self.copier.note(self.core, victim, offset, record, place);
        });
        if sound.is_err() {
            victim.mark_damaged();
            log::error!("damaged: {} is left out of compaction", victim.path().display());
            return Ok(Step::Damaged);
        }
        self.copier.take_noted(self.core, &reader.bytes);
        self.copier.flush()?;
        reader.advance();
        self.core.stats.compaction_read.add(STEP as u64);
        self.reader = Some(reader);
        Ok(Step::More)
    }

    /// Makes the copies durable and puts them in place of the victims: in the index, in the
    /// manifest, on the disk. After all steps. `breathe` is called now and then while keys are moved.
    /// Returns the new segment, which may be empty.
    pub(super) fn finish(mut self, breathe: impl Fn()) -> Result<Arc<Segment>> {
        self.keep_needed_tombstones()?;
        self.copier.flush()?;
        let output = Arc::clone(&self.copier.output);
        output.sync()?;
        // What made records dead must be durable before they go. With fsync always it is.
        if !self.core.was_never_lazy()
            && let Some(unsynced) = self.core.unsynced.get()
        {
            unsynced.sync(self.core)?;
        }
        output.publish(self.copier.tail);
        self.core.stats.compaction_written.add(self.copier.tail);
        self.install(&output, breathe)?;
        Ok(output)
    }

    /// Copies those tombstones whose keys an older segment outside the merge still has.
    fn keep_needed_tombstones(&mut self) -> Result<()> {
        let tombstones = std::mem::take(&mut self.copier.tombstones);
        let mut undecided = Vec::with_capacity(tombstones.len());
        for bytes in &tombstones {
            match record::parse(bytes) {
                Ok(tombstone) => undecided.push((tombstone, bytes)),
                Err(_) => self.copier.append_tombstone(bytes),
            }
        }
        // In the order of hints.
        undecided.sort_unstable_by_key(|(tombstone, _)| (tombstone.database, tombstone.key));
        for other in self.core.segments.all() {
            let merged = self.victims.iter().any(|victim| victim.number() == other.number());
            // What is not closed is younger than every tombstone in a closed segment.
            if merged || !other.is_sealed() {
                continue;
            }
            // Of a damaged one, the smallest may not be known.
            let oldest = if other.is_damaged() { 0 } else { other.min_seq() };
            if undecided.iter().all(|(tombstone, _)| tombstone.seq < oldest) {
                continue;
            }
            let hint = self.hint_of(&other);
            let mut lookups = hint.as_ref().map(Lookups::new);
            undecided.retain(|(tombstone, bytes)| {
                let mut is_there = |lookups: &mut Lookups<'_>| {
                    tombstone.is_clear() || lookups.contains(tombstone.database, tombstone.key)
                };
                let needed = tombstone.seq >= oldest && lookups.as_mut().is_none_or(&mut is_there);
                if needed {
                    self.copier.append_tombstone(bytes);
                }
                !needed
            });
        }
        Ok(())
    }

    /// The hint of all of a segment; on a full disk, where none is written, also without a file.
    fn hint_of(&self, segment: &Arc<Segment>) -> Option<Hint> {
        let full = self.core.reserve.is_full();
        let made = || if full { hint_file::of_segment(segment) } else { None };
        let read = hint_file::read(self.core, segment);
        read.filter(|hint| hint.covered() == segment.len()).or_else(made)
    }

    /// Puts `output` in place of the victims.
    fn install(&mut self, output: &Arc<Segment>, breathe: impl Fn()) -> Result<()> {
        output.seal();
        self.core.segments.add_shared(output)?;
        let added: Vec<u64> = (!output.is_empty()).then(|| output.number()).into_iter().collect();
        let removed: Vec<u64> = self.victims.iter().map(|victim| victim.number()).collect();
        // First the manifest: an index that led to a segment which is not listed would lose keys
        // with the next open.
        let edited = lock(&self.core.manifest).edit(&added, &removed);
        // After a failed sync nobody knows which of them are listed: they all stay.
        self.keep_output = match &edited {
            Ok(()) => !output.is_empty(),
            Err(error) => matches!(error, KvsError::Poisoned { .. }),
        };
        if edited.is_err() || output.is_empty() {
            self.core.segments.remove(&[Arc::clone(output)]);
            edited?;
        }
        // In steps: a clear waits for one.
        for (i, step) in self.copier.moves.chunks(256).enumerate() {
            let no_clear = lock(&self.core.moving);
            step.iter().for_each(|moved| self.relocate(output, moved));
            drop(no_clear);
            if i % 4 == 3 {
                breathe();
            }
        }
        self.core.segments.remove(self.victims);
        self.core.remove_files(self.victims);
        self.core.stats.compactions.add(1);
        Ok(())
    }

    fn relocate(&self, output: &Segment, moved: &Move) {
        let to = Position::new(output.slot(), moved.offset, moved.size, moved.from.expires());
        let guard = crossbeam_epoch::pin();
        // Counted first: whoever overwrites the key right after the move counts it out.
        output.liveness().add(moved.size);
        if !self.core.keydir(moved.database, &guard).relocate(moved.hash, moved.from, to) {
            output.liveness().remove(to);
        }
    }
}

impl Drop for Merge<'_> {
    fn drop(&mut self) {
        if !self.keep_output {
            self.core.remove_files(&[Arc::clone(&self.copier.output)]);
        }
    }
}
