//! One merge: what lives in some segments is copied into a new one, which then takes their place.
//!
//! Thread: `kvs-compact`, step by step, so that the compactor can keep to its rate. Invariants:
//! - one manifest edit {add, remove}; before it, a crash leaves the old segments, after it the new
//!   one, and the other files are deleted at the next open.
//! - a copied key is moved in the index by compare-exchange: what a user changed meanwhile wins.
//! - a tombstone goes only when no segment outside the merge holds an older record of its key, which
//!   would come back without it; the hints tell.
//! - a segment with damage is never merged away.

use std::ops::Range;
use std::sync::Arc;

use super::core::{Core, lock};
use super::hint_file;
use super::keydir::KeyHash;
use super::position::Position;
use super::record::{self, Record};
use super::segment::{HEADER, Origin, Segment};
use crate::error::{KvsError, Result};

/// Bytes read in one step.
pub(super) const STEP: usize = 256 * 1024;
/// How many look-ups are warmed up at a time.
const WARM: usize = 64;

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

/// A record that was copied: whose key it is, where it was, where in the output it is.
struct Move {
    database: u8,
    hash: KeyHash,
    from: Position,
    offset: u64,
    size: usize,
}

/// See the module. Dropped before it is finished, it leaves nothing behind.
pub(super) struct Merge<'a> {
    core: &'a Core,
    victims: &'a [Arc<Segment>],
    /// The victim that is being read is the first of these.
    unread: &'a [Arc<Segment>],
    reader: Option<Reader<'a>>,
    copier: Copier,
    installed: bool,
}

impl<'a> Merge<'a> {
    /// Begins to merge `victims`, which are closed.
    pub(super) fn begin(core: &'a Core, victims: &'a [Arc<Segment>]) -> Result<Merge<'a>> {
        let capacity: u64 = victims.iter().map(|victim| victim.len()).sum();
        let output = core.create_segment(Origin::Merged, capacity.max(HEADER as u64))?;
        let copier = Copier {
            output: Arc::new(output),
            buffer: Vec::with_capacity(STEP * 2),
            tail: HEADER as u64,
            noted: Vec::new(),
            moves: Vec::new(),
            tombstones: Vec::new(),
        };
        Ok(Merge { core, victims, unread: victims, reader: None, copier, installed: false })
    }

    /// Copies what lives in the next [`STEP`] bytes.
    pub(super) fn step(&mut self) -> Result<Step> {
        let Some((victim, rest)) = self.unread.split_first() else { return Ok(Step::Done) };
        let mut reader = self.reader.take().unwrap_or_else(|| Reader::new(victim));
        if !reader.fill()? {
            self.unread = rest;
            return Ok(Step::More);
        }
        let sound = reader.records(|offset, record, place| {
            self.copier.note(self.core, victim, offset, record, place);
        });
        if !sound {
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
    /// manifest, on the disk. After all steps.
    pub(super) fn finish(mut self) -> Result<()> {
        self.keep_needed_tombstones()?;
        self.copier.flush()?;
        let output = Arc::clone(&self.copier.output);
        output.sync()?;
        output.publish(self.copier.tail);
        self.core.stats.compaction_written.add(self.copier.tail);
        let hint = hint_file::of_segment(&output);
        output.set_seqs(hint.min_seq(), hint.max_seq());
        hint_file::write(self.core, &hint)?;
        self.install(&output)
    }

    /// Copies those tombstones whose keys an older segment outside the merge still has.
    fn keep_needed_tombstones(&mut self) -> Result<()> {
        let mut undecided = std::mem::take(&mut self.copier.tombstones);
        for other in self.core.segments.all() {
            let merged = self.victims.iter().any(|victim| victim.number() == other.number());
            // What is not closed is younger than every tombstone in a closed segment.
            if merged || !other.is_sealed() || undecided.is_empty() {
                continue;
            }
            let hint = hint_file::read(self.core, &other);
            undecided.retain(|bytes| {
                let needed = match (record::parse(bytes), &hint) {
                    (Ok(tombstone), _) if other.min_seq() > tombstone.seq => false,
                    (Ok(tombstone), Some(hint)) if hint.covered() == other.len() => {
                        tombstone.is_clear() || hint.contains(tombstone.database, tombstone.key)
                    }
                    _ => true,
                };
                if needed {
                    self.copier.append_tombstone(bytes);
                }
                !needed
            });
        }
        Ok(())
    }

    /// Puts `output` in place of the victims.
    fn install(&mut self, output: &Arc<Segment>) -> Result<()> {
        let mut added = Vec::new();
        if !output.is_empty() {
            output.seal();
            self.core.segments.add_shared(output)?;
            added.push(output.number());
            // From here on the index leads to it, whatever comes.
            self.installed = true;
            self.relocate(output);
        }
        let removed: Vec<u64> = self.victims.iter().map(|victim| victim.number()).collect();
        let edited = lock(&self.core.manifest).edit(&added, &removed);
        if let Err(error) = edited {
            // The index leads to a file that the manifest may not list: what is merged or written
            // from now on could not be found again.
            self.core.poison(&error);
            return Err(error);
        }
        self.core.segments.remove(self.victims);
        self.core.remove_files(self.victims);
        self.core.stats.compactions.add(1);
        Ok(())
    }

    fn relocate(&self, output: &Segment) {
        for moved in &self.copier.moves {
            let to = Position::new(output.slot(), moved.offset, moved.size, moved.from.expires());
            let keydir = Arc::clone(self.core.keydir(moved.database, &crossbeam_epoch::pin()));
            // Counted first: whoever overwrites the key right after the move counts it out.
            output.add_live(to.size() as i64);
            if !keydir.relocate(moved.hash, moved.from, to) {
                output.add_live(-(to.size() as i64));
            }
        }
    }
}

impl Drop for Merge<'_> {
    fn drop(&mut self) {
        if !self.installed {
            self.core.remove_files(&[Arc::clone(&self.copier.output)]);
        }
    }
}

/// A record of a victim that may live.
struct Noted {
    database: u8,
    hash: KeyHash,
    from: Position,
    place: Range<usize>,
    tombstone: bool,
}

/// Collects the output of a merge.
struct Copier {
    output: Arc<Segment>,
    buffer: Vec<u8>,
    /// Where `buffer` goes.
    tail: u64,
    noted: Vec<Noted>,
    moves: Vec<Move>,
    tombstones: Vec<Vec<u8>>,
}

impl Copier {
    fn note(
        &mut self,
        core: &Core,
        victim: &Segment,
        offset: u64,
        record: &Record<'_>,
        place: Range<usize>,
    ) {
        let expires = record.expires_at.is_some();
        self.noted.push(Noted {
            database: record.database,
            hash: core.hasher.hash(record.key),
            from: Position::new(victim.slot(), offset, place.len(), expires),
            place,
            tombstone: record.is_tombstone() || record.is_clear(),
        });
    }

    /// Copies those of the noted records that the index points to out of `bytes`.
    fn take_noted(&mut self, core: &Core, bytes: &[u8]) {
        let guard = crossbeam_epoch::pin();
        let mut noted = std::mem::take(&mut self.noted);
        for some in noted.chunks(WARM) {
            // First all cache misses at once, then the look-ups.
            let touch = |sum, record: &Noted| {
                sum ^ core.keydir(record.database, &guard).touch(record.hash, &guard)
            };
            std::hint::black_box(some.iter().fold(0, touch));
            for record in some {
                let bytes = &bytes[record.place.clone()];
                if record.tombstone {
                    self.tombstones.push(bytes.to_vec());
                } else if core.keydir(record.database, &guard).points_to(
                    record.hash,
                    record.from,
                    &guard,
                ) {
                    self.copy(record, bytes);
                }
            }
        }
        noted.clear();
        self.noted = noted;
    }

    fn copy(&mut self, record: &Noted, bytes: &[u8]) {
        self.moves.push(Move {
            database: record.database,
            hash: record.hash,
            from: record.from,
            offset: self.tail + self.buffer.len() as u64,
            size: bytes.len(),
        });
        self.buffer.extend_from_slice(bytes);
    }

    fn append_tombstone(&mut self, bytes: &[u8]) {
        self.output.add_tombstone(super::position::rounded(bytes.len()) as u64);
        self.buffer.extend_from_slice(bytes);
    }

    fn flush(&mut self) -> Result<()> {
        let doing = || KvsError::io(format!("write {}", self.output.path().display()));
        self.output.file().write_all_at(&self.buffer, self.tail).map_err(doing())?;
        self.tail += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads a segment through its file, in steps: through the map, each page would be a fault.
struct Reader<'a> {
    segment: &'a Segment,
    bytes: Vec<u8>,
    /// Where `bytes` lie in the segment.
    base: u64,
    /// How many of them were whole records, done with at the next [`Reader::advance`].
    done: usize,
}

impl<'a> Reader<'a> {
    fn new(segment: &'a Segment) -> Reader<'a> {
        Reader { segment, bytes: Vec::new(), base: HEADER as u64, done: 0 }
    }

    /// Reads the next step; false at the end.
    fn fill(&mut self) -> Result<bool> {
        let at = self.base + self.bytes.len() as u64;
        let step = (self.segment.len() - at).min(STEP.max(self.bytes.len()) as u64) as usize;
        if step == 0 && self.bytes.is_empty() {
            return Ok(false);
        }
        let have = self.bytes.len();
        self.bytes.resize(have + step, 0);
        let doing = || KvsError::io(format!("read {}", self.segment.path().display()));
        self.segment.file().read_exact_at(&mut self.bytes[have..], at).map_err(doing())?;
        Ok(true)
    }

    /// Visits the whole records that were read: the offset, the record, its place in the bytes.
    /// False if there is damage.
    fn records(&mut self, mut visit: impl FnMut(u64, &Record<'_>, Range<usize>)) -> bool {
        let mut at = 0;
        let last = self.base + self.bytes.len() as u64 == self.segment.len();
        let sound = loop {
            let left = self.bytes.len() - at;
            if left == 0 || (left < record::HEADER && !last) {
                break true;
            }
            match record::parse(&self.bytes[at..]) {
                Ok(record) => {
                    let size = record.size();
                    visit(self.base + at as u64, &record, at..at + size);
                    at += size;
                }
                Err(record::Fault::Short) if !last => break true,
                Err(_) => break false,
            }
        };
        self.done = at;
        sound
    }

    /// Lets go of the records that were visited.
    fn advance(&mut self) {
        self.bytes.drain(..self.done);
        self.base += self.done as u64;
        self.done = 0;
    }
}
