//! Compaction: copies what lives in segments with much dead weight into new ones, beside reads and
//! writes. Also writes the hints of closed segments, and keeps track of which pages are in memory.
//!
//! Thread: `kvs-compact`. Invariants:
//! - a merge is one manifest edit {add, remove}; before it, a crash leaves the old segments, after it
//!   the new ones, and the other files are deleted at the next open.
//! - a copied key is moved in the index by compare-exchange: what a user changed meanwhile wins.
//!   The move comes after the edit: the index never leads to a segment that is not listed.
//! - a tombstone goes only when no segment outside the merge holds an older record of its key, which
//!   would come back without it; the hints tell.
//! - a segment with damage is never merged away.
//! - it is rate-limited, but for when the directory is about to outgrow its bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::copier::{Copier, Move, Reader, STEP};
use super::core::{Core, lock};
use super::filename;
use super::hint::{self, Hint};
use super::position::Position;
use super::record;
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
/// How long it rests after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// One merge copies no more than so many bytes, unless a single segment has more: positions reach
/// to 32 GiB, and a hint has 32-bit tables.
const MAX_MERGE: u64 = 4 * 1024 * 1024 * 1024;
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
    /// The bytes of all segments and of live records after a merge that won next to nothing.
    fruitless: Option<(u64, u64)>,
    failed: Option<Instant>,
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

impl Compactor {
    pub(super) fn new(
        core: Arc<Core>,
        chores: Receiver<Chore>,
        unhinted: Vec<Arc<Segment>>,
        rate: u64,
    ) -> Compactor {
        Compactor {
            core,
            chores,
            unhinted,
            rate,
            held: Vec::new(),
            fruitless: None,
            failed: None,
            closing: false,
        }
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
                    let outcome = self.compact_all();
                    self.poison_if_final(&outcome);
                    let _ = done.send(outcome);
                }
            }
            if let Err(Interrupted::Failed(error)) = self.work() {
                log::error!("compaction: {error}");
                self.failed = Some(Instant::now());
                self.poison_if_final(&Err(error));
            }
        }
        self.unhinted
    }

    fn poison_if_final(&self, outcome: &Result<()>) {
        if let Err(error @ KvsError::Poisoned { .. }) = outcome {
            self.core.poison(error);
        }
    }

    fn wait(&mut self) {
        match self.chores.recv_timeout(TICK) {
            Ok(chore) => self.note(chore),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
        // Frees what was replaced or removed, also while nobody else brings the epoch forward.
        crossbeam_epoch::pin().flush();
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
        let rests = self.failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE);
        if self.core.check_poison().is_err() || rests {
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
        if total <= Self::bound(live) || self.is_fruitless(total, live) {
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
            let copies = segment.live() + segment.tombstones();
            let fits = copied == 0 || (copied < limit && copied + copies <= MAX_MERGE);
            let take = segment.live() < segment.len() && fits;
            copied += if take { copies } else { 0 };
            take
        });
        let (dead, size) = segments.iter().fold((0, 0), |(dead, size), segment| {
            (dead + segment.len().saturating_sub(segment.live()), size + segment.len())
        });
        // Copying nine bytes to win one is not worth it, tombstones excepted.
        (dead * 10 >= size && dead > 0).then_some(segments)
    }

    /// Whether a merge would win next to nothing, as the last one did, because too little has
    /// changed since: what takes the space are tombstones that are still needed.
    fn is_fruitless(&self, total: u64, live: u64) -> bool {
        let step = self.core.segment_target();
        self.fruitless.is_some_and(|(total_then, live_then)| {
            total < total_then + step && live + step > live_then
        })
    }

    fn compact_all(&mut self) -> Result<()> {
        self.core.check_poison()?;
        let mut segments = self.closed_segments();
        segments.retain(|segment| segment.live() < segment.len() - HEADER as u64);
        segments.sort_by_key(|segment| segment.min_seq());
        let mut rest = &segments[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(4).take_while(|segment| {
                bytes += segment.len();
                bytes <= MAX_MERGE
            });
            let (victims, others) = rest.split_at(fitting.count().max(1));
            rest = others;
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
        let mut copier = Copier::new(output);
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
        &mut self,
        victims: &[Arc<Segment>],
        output: Segment,
        moves: &[Move],
    ) -> Result<(), Interrupted> {
        output.seal();
        let output = self.core.segments.add(output)?;
        let added: Vec<u64> = (!output.is_empty()).then(|| output.number()).into_iter().collect();
        let removed: Vec<u64> = victims.iter().map(|victim| victim.number()).collect();
        // First the manifest: an index that led to a segment which is not listed would lose keys
        // with the next open.
        let edited = lock(&self.core.manifest).edit(&added, &removed);
        if edited.is_err() || output.is_empty() {
            self.core.segments.remove(&[Arc::clone(&output)]);
            // After a failed sync nobody knows which of them are listed: they all stay.
            if !matches!(edited, Err(KvsError::Poisoned { .. })) {
                self.core.remove_files(&[Arc::clone(&output)]);
            }
            edited?;
        }
        // In steps: a clear waits for one.
        for step in moves.chunks(256) {
            let _no_clear = lock(&self.core.moving);
            step.iter().for_each(|moved| self.relocate(&output, moved));
        }
        let read: u64 = victims.iter().map(|victim| victim.len()).sum();
        let won = read.saturating_sub(output.len());
        self.core.segments.remove(victims);
        self.core.remove_files(victims);
        self.fruitless = (won * 10 < read).then(|| self.core.space());
        self.unhinted.retain(|segment| !victims.iter().any(|victim| Arc::ptr_eq(victim, segment)));
        self.core.stats.compactions.add(1);
        Ok(())
    }

    fn relocate(&self, output: &Segment, moved: &Move) {
        let to = Position::new(output.slot(), moved.offset, moved.size, moved.from.expires());
        let guard = crossbeam_epoch::pin();
        // Counted first: whoever overwrites the key right after the move counts it out.
        output.add_live(to.size() as i64);
        if !self.core.keydir(moved.database, &guard).relocate(moved.hash, moved.from, to) {
            output.add_live(-(to.size() as i64));
        }
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
