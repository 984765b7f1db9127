//! Compaction: decides when and what to merge, beside reads and writes. Also writes the hints of
//! closed segments, and keeps track of which pages are in memory.
//!
//! Thread: `kvs-compact`. Invariants: the directory stays within [`pick::bound`] of the live
//! data; work is paced, but for when that bound is far exceeded; nobody waits for this thread but
//! who asks for [`Chore::CompactAll`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::Core;
use super::epoch_cell;
use super::hint_file;
use super::merge::{Merge, Step};
use super::pick;
use super::reserve::Loan;
use super::residency::Residency;
use super::segment::Segment;
use super::segment_reader::STEP;
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
/// Collections of garbage at each look around; those that find none take some 100 ns.
const COLLECTIONS: usize = 256;
/// How long a segment has been closed before its hint is written. Under a load that overwrites, it
/// is merged away sooner than that, and a hint of it would have been sorted for nothing.
const COLD: Duration = Duration::from_secs(10);
/// How long it rests while it moves keys, which takes as long each time: who needs the processor gets
/// it sooner than the system would take it away.
const BREATH: Duration = Duration::from_micros(100);
/// How long it rests after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// A segment without a hint.
struct Unhinted {
    segment: Arc<Segment>,
    since: Instant,
}

impl Unhinted {
    fn new(segment: Arc<Segment>) -> Unhinted {
        Unhinted { segment, since: Instant::now() }
    }

    /// Whether a hint is of use: one that is mostly dead is merged soon.
    fn is_worth_it(&self) -> bool {
        self.segment.live() * 2 > self.segment.len()
    }

    fn is_one_of(&self, segments: &[Arc<Segment>]) -> bool {
        segments.iter().any(|segment| Arc::ptr_eq(segment, &self.segment))
    }

    fn is_cold(&self) -> bool {
        self.since.elapsed() >= COLD
    }
}

/// See the module.
pub struct Compactor {
    core: Arc<Core>,
    chores: Receiver<Chore>,
    unhinted: Vec<Unhinted>,
    rate: u64,
    /// A chore that came while a merge was waiting for its budget.
    held: Vec<Chore>,
    /// The bytes of all segments and of live records after a merge that won next to nothing.
    fruitless: Option<(u64, u64)>,
    /// On a full disk, merges since then had the tombstones of the segments whose smallest sequence numbers
    /// go up to this.
    swept_to: u64,
    failed: Option<Instant>,
    /// Merged segments that others may still have. Whoever is the last to let go of one unmaps it and
    /// frees its blocks, which takes milliseconds: that shall be this thread.
    gone: Vec<Arc<Segment>>,
    residency: Residency,
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

impl From<Interrupted> for KvsError {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Closing => KvsError::Closed,
            Interrupted::Failed(error) => error,
        }
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
            unhinted: unhinted.into_iter().map(Unhinted::new).collect(),
            rate,
            held: Vec::new(),
            fruitless: None,
            swept_to: 0,
            failed: None,
            gone: Vec::new(),
            residency: Residency::default(),
            closing: false,
        }
    }

    /// The thread's body: runs until the other side of the chores is gone. The segments that still
    /// need a hint then.
    pub(super) fn run(mut self) -> Vec<Arc<Segment>> {
        let mut look = Instant::now();
        while !self.closing {
            if look <= Instant::now() {
                look = self.residency.look(&self.core);
            }
            self.wait();
            for chore in std::mem::take(&mut self.held) {
                if let Chore::CompactAll(done) = chore {
                    let outcome = self.guarded(Compactor::compact_all);
                    self.poison_if_final(&outcome);
                    let _ = done.send(outcome);
                }
            }
            if let Err(Interrupted::Failed(error)) = self.guarded(Compactor::work) {
                log::error!("compaction: {error}");
                self.failed = Some(Instant::now());
                self.poison_if_final(&Err(error));
            }
        }
        self.unhinted.into_iter().map(|unhinted| unhinted.segment).collect()
    }

    /// Does some of the work. A bug in there must not end the thread: the directory would grow for ever.
    fn guarded<E: From<KvsError>>(
        &mut self,
        work: fn(&mut Compactor) -> Result<(), E>,
    ) -> Result<(), E> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            Err(KvsError::Invalid("internal error: compaction panicked".into()).into())
        })
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
        // Frees what was replaced or removed, also while nobody else brings the epoch forward. One
        // collection takes a few bags of garbage, and a large load leaves thousands.
        for _ in 0..COLLECTIONS {
            crossbeam_epoch::pin().flush();
        }
        self.let_go();
    }

    fn note(&mut self, chore: Chore) {
        match chore {
            Chore::Sealed(segment) => self.unhinted.push(Unhinted::new(segment)),
            Chore::CompactAll(_) => self.held.push(chore),
        }
    }

    fn work(&mut self) -> Result<(), Interrupted> {
        let rests = self.failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE);
        if self.core.check_poison().is_err() || rests {
            return Ok(());
        }
        while self.merge_next()? {}
        // A full disk has no room for hints.
        if self.core.reserve.is_full() {
            return Ok(());
        }
        let next = self.unhinted.iter().position(|next| next.is_worth_it() && next.is_cold());
        if let Some(next) = next {
            self.write_hint(next)?;
        }
        Ok(())
    }

    /// Merges what is most worth it; false if nothing is.
    fn merge_next(&mut self) -> Result<bool, Interrupted> {
        let core = Arc::clone(&self.core);
        let Some(loan) = core.reserve.loan(&core) else {
            let Some(victims) = self.pick() else { return Ok(false) };
            self.merge(&victims, false)?;
            return Ok(true);
        };
        let victims = self.pick_on_full_disk(&loan);
        if victims.is_empty() {
            if loan.is_pressing() {
                loan.forgo();
            }
            return Ok(false);
        }
        loan.give(pick::sum(&victims, pick::copied));
        let others = self.gone.len();
        if self.merge(&victims, true)? {
            drop(victims);
            self.wait_for_room(others);
        }
        drop(loan);
        // Whoever waited for the loan comes first.
        std::thread::sleep(BREATH);
        Ok(true)
    }

    /// Waits until of the merged segments only `others` are left: the room of the rest is free then, and
    /// the reserve can take its part of it first. For a while only: a snapshot may keep them.
    fn wait_for_room(&mut self, others: usize) {
        const MOST: Duration = Duration::from_secs(1);
        let began = Instant::now();
        while self.gone.len() > others && began.elapsed() < MOST {
            epoch_cell::free_replaced(0);
            self.let_go();
            std::thread::yield_now();
        }
    }

    fn let_go(&mut self) {
        self.gone.retain(|segment| Arc::strong_count(segment) > 1);
    }

    /// Writes the hint of one of `unhinted`.
    fn write_hint(&mut self, which: usize) -> Result<(), Interrupted> {
        let segment = self.unhinted.remove(which).segment;
        if let Some(hint) = hint_file::of_segment(&segment) {
            hint_file::write(&self.core, &hint)?;
        }
        Ok(self.pace(segment.len() as usize)?)
    }

    /// Writes the hints by which a merge of `victims` will tell whether their tombstones are still
    /// needed.
    fn write_hints_beside(&mut self, victims: &[Arc<Segment>]) -> Result<(), Interrupted> {
        while let Some(next) =
            self.unhinted.iter().position(|next| next.is_worth_it() && !next.is_one_of(victims))
        {
            self.write_hint(next)?;
        }
        Ok(())
    }

    fn closed_segments(&self) -> Vec<Arc<Segment>> {
        let mut segments = self.core.segments.all();
        segments.retain(|segment| segment.is_sealed() && !segment.is_damaged());
        segments
    }

    /// The segments to merge next; `None` while the directory is within its bound.
    fn pick(&self) -> Option<Vec<Arc<Segment>>> {
        let (total, live) = self.core.space();
        let target = self.core.segment_target();
        if total <= pick::bound(live) || self.is_fruitless(target) {
            return None;
        }
        let room = self.core.fs.room(&self.core.dir).unwrap_or(u64::MAX);
        let mut segments = self.closed_segments();
        segments.retain(|segment| pick::copied(segment) <= room);
        pick::usual(segments, total, pick::limit(live, target).min(room))
    }

    /// The segments to merge next on a full disk; none if no merge helps.
    fn pick_on_full_disk(&mut self, loan: &Loan<'_>) -> Vec<Arc<Segment>> {
        let (most, pressing) = (loan.most_copied(), loan.is_pressing());
        let mut segments = self.closed_segments();
        segments.retain(|segment| pick::copied(segment) <= most);
        let target = self.core.segment_target();
        let picked = pick::with_dead_records(segments.clone(), target.min(most), pressing);
        if picked.is_some() || !pressing {
            return picked.unwrap_or_default();
        }
        if !self.is_fruitless(target / 8) {
            self.swept_to = 0;
        }
        segments.retain(|segment| segment.min_seq() > self.swept_to);
        let picked = pick::with_tombstones(segments, target.min(most));
        self.swept_to = picked.last().map_or(self.swept_to, |segment| segment.min_seq());
        picked
    }

    /// Whether a merge would win next to nothing, as the last one did, because less than `step` bytes
    /// have changed since: what takes the space are tombstones that are still needed.
    fn is_fruitless(&self, step: u64) -> bool {
        let (total, live) = self.core.space();
        self.fruitless.is_some_and(|(total_then, live_then)| {
            total < total_then + step && live + step > live_then
        })
    }

    fn compact_all(&mut self) -> Result<()> {
        self.core.check_poison()?;
        if self.core.reserve.is_full() {
            while self.merge_next()? {}
            return Ok(());
        }
        let mut segments = self.closed_segments();
        segments.retain(|segment| pick::dead(segment) > 0);
        segments.sort_by_key(|segment| segment.min_seq());
        let (_, live) = self.core.space();
        let limit = pick::limit(live, self.core.segment_target());
        let mut rest = &segments[..];
        while !rest.is_empty() {
            let mut copied = 0;
            let fitting = rest.iter().take_while(|segment| {
                copied += pick::copied(segment);
                copied <= limit
            });
            let (victims, others) = rest.split_at(fitting.count().max(1));
            rest = others;
            if !self.merge(victims, false)? && self.core.reserve.is_full() {
                return self.compact_all();
            }
        }
        Ok(())
    }

    /// Merges `victims` into one new segment, or into none if nothing lives; whether it did. Gives up
    /// when the disk gets full, unless it was `lent` room for that: then others come first.
    fn merge(&mut self, victims: &[Arc<Segment>], lent: bool) -> Result<bool, Interrupted> {
        if !lent && victims.iter().any(|victim| victim.liveness().tombstones() > 0) {
            self.write_hints_beside(victims)?;
        }
        let core = Arc::clone(&self.core);
        let mut merge = Merge::begin(&core, victims)?;
        loop {
            let step = merge.step();
            if core.reserve.is_full() && !lent {
                return Ok(false);
            }
            match step? {
                Step::More => self.pace(STEP)?,
                Step::Done => break,
                Step::Damaged => return Ok(false),
            }
        }
        let output = merge.finish(|| {
            if !self.is_in_a_hurry() {
                std::thread::sleep(BREATH);
            }
        })?;
        self.let_go();
        self.gone.extend_from_slice(victims);
        let read: u64 = victims.iter().map(|victim| victim.len()).sum();
        let won = read.saturating_sub(output.len());
        self.fruitless = (won * 10 < read).then(|| self.core.space());
        self.unhinted.retain(|unhinted| !unhinted.is_one_of(victims));
        if !output.is_empty() {
            self.unhinted.push(Unhinted::new(output));
        }
        Ok(true)
    }

    /// Whether space is so short that others may be slowed down.
    fn is_in_a_hurry(&self) -> bool {
        let (total, live) = self.core.space();
        total > pick::bound(live) + live / 8 || self.core.reserve.is_full()
    }

    /// Waits as long as `bytes` may take at the given rate; not at all when space is short.
    fn pace(&mut self, bytes: usize) -> Result<(), Closing> {
        let wait = if self.is_in_a_hurry() {
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
