//! Compaction: copies what lives in segments with much dead weight into new ones, beside reads and
//! writes. Also writes the hints of closed segments, and keeps track of which pages are in memory.
//!
//! Thread: `kvs-compact`. Invariants:
//! - a merge is one manifest edit {add, remove}; before it, a crash leaves the old segments, after it
//!   the new ones, and the other files are deleted at the next open.
//! - a copied key is moved in the index by compare-exchange: what a user changed meanwhile wins.
//! - a tombstone goes only when no segment outside the merge holds an older record of its key, which
//!   would come back without it; the hints tell.
//! - a segment with damage is never merged away.
//! - it is rate-limited, but for when the directory is about to outgrow its bound.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::{Core, lock};
use super::filename;
use super::hint::{self, Hint};
use super::keydir::KeyHash;
use super::position::Position;
use super::record::{self, Record};
use super::recovery;
use super::scan;
use super::segment::{HEADER, Origin, Segment};
use crate::error::{KvsError, Result};

/// What the thread is told.
pub enum Chore {
    /// A segment is full and closed.
    Sealed(Arc<Segment>),
    /// Compact now whatever can be; tell when done.
    CompactAll(crossbeam_channel::Sender<Result<()>>),
}

/// How often the thread looks around by itself.
const TICK: Duration = Duration::from_millis(100);
/// How often it asks the kernel which pages are in memory.
const RESIDENCY: Duration = Duration::from_secs(1);
/// Bytes read or written between two looks at the clock.
const STEP: usize = 256 * 1024;
/// How many look-ups are warmed up at a time.
const WARM: usize = 64;
/// Dead bytes that are never worth a merge.
const SLACK: u64 = 1024 * 1024;

/// See the module.
pub struct Compactor {
    core: Arc<Core>,
    chores: Receiver<Chore>,
    unhinted: Vec<Arc<Segment>>,
    rate: u64,
    /// A chore that came while a merge was waiting for its budget.
    held: Vec<Chore>,
    closing: bool,
}

/// The thread was told to stop in the middle of something.
struct Closing;

enum Interrupted {
    Closing,
    Failed(KvsError),
}

impl From<KvsError> for Interrupted {
    fn from(error: KvsError) -> Self {
        Interrupted::Failed(error)
    }
}

impl From<Closing> for Interrupted {
    fn from(_: Closing) -> Self {
        Interrupted::Closing
    }
}

/// A record that was copied: whose key it is, where it was, where in the output it is.
struct Move {
    database: u8,
    hash: KeyHash,
    from: Position,
    offset: u64,
    size: usize,
}

impl Compactor {
    pub(super) fn new(
        core: Arc<Core>,
        chores: Receiver<Chore>,
        unhinted: Vec<Arc<Segment>>,
        rate: u64,
    ) -> Compactor {
        Compactor { core, chores, unhinted, rate, held: Vec::new(), closing: false }
    }

    /// The thread's body: runs until the other side of the chores is gone. The segments that still
    /// need a hint then.
    pub(super) fn run(mut self) -> Vec<Arc<Segment>> {
        let mut looked = None;
        while !self.closing {
            if looked.is_none_or(|at: Instant| at.elapsed() >= RESIDENCY) {
                self.refresh_residency();
                looked = Some(Instant::now());
            }
            self.wait();
            for chore in std::mem::take(&mut self.held) {
                if let Chore::CompactAll(done) = chore {
                    let _ = done.send(self.compact_all());
                }
            }
            if let Err(Interrupted::Failed(error)) = self.work() {
                log::error!("compaction: {error}");
                if matches!(error, KvsError::Poisoned { .. }) {
                    self.core.poison(&error);
                }
            }
        }
        self.unhinted
    }

    fn wait(&mut self) {
        match self.chores.recv_timeout(TICK) {
            Ok(chore) => self.note(chore),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
    }

    fn note(&mut self, chore: Chore) {
        match chore {
            Chore::Sealed(segment) => self.unhinted.push(segment),
            Chore::CompactAll(_) => self.held.push(chore),
        }
    }

    fn refresh_residency(&self) {
        for segment in self.core.segments.all() {
            self.core.stats.evicted_pages.add(segment.refresh_residency());
        }
    }

    fn work(&mut self) -> Result<(), Interrupted> {
        if self.core.check_poison().is_err() {
            return Ok(());
        }
        while let Some(victims) = self.pick() {
            self.merge(&victims)?;
        }
        // A segment that is mostly dead is merged soon: a hint of it would be of little use.
        let next = self.unhinted.iter().position(|segment| segment.live() * 2 > segment.len());
        if let Some(next) = next {
            let segment = self.unhinted.remove(next);
            let scan = scan::scan(
                segment.bytes_from(HEADER as u64),
                HEADER as u64,
                segment.origin(),
                false,
            );
            let hint = hint::Builder::from_scan(&scan).encode(segment.number(), segment.len());
            segment.set_seqs(hint.min_seq(), hint.max_seq());
            if scan.damage.is_empty() {
                write_hint(&self.core, &hint)?;
            } else {
                segment.mark_damaged();
            }
            self.pace(segment.len() as usize)?;
        }
        Ok(())
    }

    fn closed_segments(&self) -> Vec<Arc<Segment>> {
        let mut segments = self.core.segments.all();
        segments.retain(|segment| segment.is_sealed() && !segment.is_damaged());
        segments
    }

    /// How large all segments may get together before a merge. With the hints (about a tenth of
    /// the data), the prepared segment (an eighth) and the output of a merge under way, the
    /// directory stays below twice the live data. The more dead bytes are let be, the fewer live
    /// ones a merge has to copy for each it wins.
    fn bound(live: u64) -> u64 {
        live + live / 2 + SLACK
    }

    /// The segments to merge next, those with the largest share of dead bytes first; `None` while
    /// the directory is within its bound.
    fn pick(&self) -> Option<Vec<Arc<Segment>>> {
        let (total, live) = self.core.space();
        if total <= Self::bound(live) {
            return None;
        }
        let mut segments = self.closed_segments();
        let tombstones: u64 = segments.iter().map(|segment| segment.tombstones()).sum();
        if tombstones * 5 > total {
            // Tombstones go when what they hide is gone: from the oldest on.
            segments.sort_by_key(|segment| segment.min_seq());
        } else {
            segments.sort_by_key(|segment| segment.live() * 1000 / segment.len().max(1));
        }
        let limit = (live / 8).max(self.core.segment_target());
        let mut copied = 0;
        segments.retain(|segment| {
            let take = segment.live() < segment.len() && copied < limit;
            copied += if take { segment.live() } else { 0 };
            take
        });
        let (dead, size) = segments.iter().fold((0, 0), |(dead, size), segment| {
            (dead + segment.len().saturating_sub(segment.live()), size + segment.len())
        });
        // Copying nine bytes to win one is not worth it, tombstones excepted.
        (dead * 10 >= size && dead > 0).then_some(segments)
    }

    fn compact_all(&mut self) -> Result<()> {
        let mut segments = self.closed_segments();
        segments.retain(|segment| segment.live() < segment.len() - HEADER as u64);
        segments.sort_by_key(|segment| segment.min_seq());
        for victims in segments.chunks(4) {
            match self.merge(victims) {
                Ok(()) => {}
                Err(Interrupted::Failed(error)) => return Err(error),
                Err(Interrupted::Closing) => return Err(KvsError::Closed),
            }
        }
        Ok(())
    }

    /// Merges `victims` into one new segment, or into none if nothing lives.
    fn merge(&mut self, victims: &[Arc<Segment>]) -> Result<(), Interrupted> {
        let capacity: u64 = victims.iter().map(|victim| victim.len()).sum();
        let output = self.core.create_segment(Origin::Merged, capacity)?;
        let path = output.path().to_owned();
        let merged = self.copy(victims, output);
        match merged {
            Ok(Some((output, moves))) => self.install(victims, output, &moves),
            Ok(None) => Ok(()),
            Err(error) => {
                let _ = self.core.fs.remove(&path);
                Err(error)
            }
        }
    }

    /// Copies what lives in `victims` to `output` and makes that durable, with its hint. `None` if
    /// a victim turned out to be damaged.
    fn copy(
        &mut self,
        victims: &[Arc<Segment>],
        output: Segment,
    ) -> Result<Option<(Segment, Vec<Move>)>, Interrupted> {
        let mut copier = Copier {
            output,
            buffer: Vec::with_capacity(STEP * 2),
            tail: HEADER as u64,
            noted: Vec::new(),
            moves: Vec::new(),
            tombstones: Vec::new(),
        };
        for victim in victims {
            let core = Arc::clone(&self.core);
            let mut sound = true;
            let mut reader = Reader::new(victim);
            while reader.fill()? {
                sound &= reader.records(|offset, record, place| {
                    copier.note(&core, victim, offset, record, place);
                });
                if !sound {
                    break;
                }
                copier.take_noted(&core, &reader.bytes);
                copier.flush()?;
                reader.advance();
                self.core.stats.compaction_read.add(STEP as u64);
                self.pace(STEP)?;
            }
            if !sound {
                victim.mark_damaged();
                log::error!("damaged: {} is left out of compaction", victim.path().display());
                let _ = self.core.fs.remove(copier.output.path());
                return Ok(None);
            }
        }
        self.keep_needed_tombstones(victims, &mut copier)?;
        copier.flush()?;
        copier.output.sync()?;
        self.core.stats.compaction_written.add(copier.tail);
        let output = copier.output;
        output.publish(copier.tail);
        let hint = hint_of(&output);
        output.set_seqs(hint.min_seq(), hint.max_seq());
        write_hint(&self.core, &hint)?;
        Ok(Some((output, copier.moves)))
    }

    /// Copies those tombstones whose keys an older segment outside the merge still has.
    fn keep_needed_tombstones(
        &self,
        victims: &[Arc<Segment>],
        copier: &mut Copier,
    ) -> Result<(), Interrupted> {
        if copier.tombstones.is_empty() {
            return Ok(());
        }
        let mut undecided = std::mem::take(&mut copier.tombstones);
        for other in self.core.segments.all() {
            let merged = victims.iter().any(|victim| victim.number() == other.number());
            // What is not closed is younger than every tombstone in a closed segment.
            if merged || !other.is_sealed() || undecided.is_empty() {
                continue;
            }
            let hint = recovery::read_hint(&self.core, &other);
            undecided.retain(|bytes| {
                let needed = match (record::parse(bytes), &hint) {
                    (Ok(tombstone), _) if other.min_seq() > tombstone.seq => false,
                    (Ok(tombstone), Some(hint)) if hint.covered() == other.len() => {
                        tombstone.is_clear() || hint.contains(tombstone.database, tombstone.key)
                    }
                    _ => true,
                };
                if needed {
                    copier.append_tombstone(bytes);
                }
                !needed
            });
        }
        Ok(())
    }

    /// Puts `output` in place of `victims`: in the index, in the manifest, on the disk.
    fn install(
        &self,
        victims: &[Arc<Segment>],
        output: Segment,
        moves: &[Move],
    ) -> Result<(), Interrupted> {
        let (number, empty) = (output.number(), output.is_empty());
        let path = output.path().to_owned();
        let mut added = Vec::new();
        if !empty {
            output.seal();
            let output = self.core.segments.add(output)?;
            added.push(number);
            for moved in moves {
                let to =
                    Position::new(output.slot(), moved.offset, moved.size, moved.from.expires());
                let keydir = Arc::clone(self.core.keydir(moved.database, &crossbeam_epoch::pin()));
                // Counted first: whoever overwrites the key right after the move counts it out.
                output.add_live(to.size() as i64);
                if !keydir.relocate(moved.hash, moved.from, to) {
                    output.add_live(-(to.size() as i64));
                }
            }
        }
        let removed: Vec<u64> = victims.iter().map(|victim| victim.number()).collect();
        lock(&self.core.manifest).edit(&added, &removed)?;
        self.core.segments.remove(victims);
        self.core.remove_files(victims);
        if empty {
            let _ = self.core.fs.remove(&path);
            let _ = self.core.fs.remove(&filename::hint(&self.core.dir, number));
        }
        self.core.stats.compactions.add(1);
        Ok(())
    }

    /// Waits as long as `bytes` may take at the given rate; not at all when space is short.
    fn pace(&mut self, bytes: usize) -> Result<(), Closing> {
        let (total, live) = self.core.space();
        let hurry = total > Self::bound(live) + live / 8;
        let wait = if hurry {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(bytes as f64 / self.rate as f64)
        };
        let until = Instant::now() + wait;
        loop {
            match self.chores.recv_deadline(until) {
                Ok(chore) => self.note(chore),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    self.closing = true;
                    return Err(Closing);
                }
            }
        }
    }
}

/// The hint of a closed and sound segment.
fn hint_of(segment: &Segment) -> Hint {
    let bytes = segment.bytes_from(HEADER as u64);
    let scan = scan::scan(bytes, HEADER as u64, segment.origin(), false);
    hint::Builder::from_scan(&scan).encode(segment.number(), segment.len())
}

/// Writes a hint file: beside itself first, then renamed. Not synced: a hint that a power cut
/// damages is found out by its checksum.
fn write_hint(core: &Core, hint: &Hint) -> Result<()> {
    let path = filename::hint(&core.dir, hint.segment());
    let temporary = filename::temporary(&path);
    let doing = || KvsError::io(format!("write {}", path.display()));
    let _ = core.fs.remove(&temporary);
    let file = core.fs.create(&temporary).map_err(doing())?;
    file.write_all_at(hint.as_bytes(), 0).map_err(doing())?;
    core.fs.rename(&temporary, &path).map_err(doing())
}

/// Writes the hints of these segments, for a clean close.
pub(super) fn write_hints(core: &Core, segments: &[Arc<Segment>]) -> Result<()> {
    for segment in segments {
        if !segment.is_damaged() {
            write_hint(core, &hint_of(segment))?;
        }
    }
    Ok(())
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
    output: Segment,
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
