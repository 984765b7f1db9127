//! Compaction: decides when and what to merge, beside reads and writes. Also writes the hints of
//! closed segments, and keeps track of which pages are in memory.
//!
//! Thread: `kvs-compact`. Invariants: the directory stays within [`Compactor::bound`] of the live
//! data; work is paced, but for when that bound is far exceeded; nobody waits for this thread but
//! who asks for [`Chore::CompactAll`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::Core;
use super::hint;
use super::hint_file;
use super::merge::{Merge, STEP, Step};
use super::scan;
use super::segment::{HEADER, Segment};
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
                hint_file::write(&self.core, &hint)?;
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
        let core = Arc::clone(&self.core);
        let mut merge = Merge::begin(&core, victims)?;
        loop {
            match merge.step()? {
                Step::More => self.pace(STEP)?,
                Step::Done => return Ok(merge.finish()?),
                Step::Damaged => return Ok(()),
            }
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
