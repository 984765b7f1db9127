//! The scrub: reads all closed segments again and again, slowly, so that damage is found before it is
//! asked for, and while a backup still has what was there.
//!
//! Thread: `kvs-scrub`, which only exists if there is a rate. Nobody waits for it. It reads through the
//! file, and lets go of the pages that were not in memory before: what is hot stays. What is in memory
//! is checked there; it is read from the disk in a later round, when it is hot no more.
//!
//! A segment with damage is left as it is: the damage is logged and counted once, compaction keeps
//! away from then on, and its other keys are served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::check::Progress;
use super::check::body::{self, Subject};
use super::check::hinted;
use super::core::Core;
use super::hint_file;
use super::scan::Tail;
use super::segment::{HEADER, Segment};
use super::segment_reader::SegmentReader;

/// A round begins so long after the one before, or later: small stores need no more.
const ROUND: Duration = Duration::from_secs(3600);
/// How many damaged keys of a range are logged.
const NAMED: usize = 5;

/// The thread was told to stop.
struct Stopping;

/// See the module.
pub(super) struct Scrubber {
    core: Arc<Core>,
    /// Bytes a second.
    rate: u64,
    stop: Receiver<()>,
}

impl Scrubber {
    /// One that reads so many bytes a second; at least one.
    pub(super) fn new(core: Arc<Core>, rate: u64, stop: Receiver<()>) -> Scrubber {
        Scrubber { core, rate: rate.max(1), stop }
    }

    /// The thread's body: runs until the other side of `stop` is dropped.
    pub(super) fn run(&self) {
        loop {
            let began = Instant::now();
            if self.round().is_err() {
                return;
            }
            self.core.stats.scrub_rounds.add(1);
            if self.wait(ROUND.saturating_sub(began.elapsed())).is_err() {
                return;
            }
        }
    }

    fn round(&self) -> Result<(), Stopping> {
        let all = self.core.segments.all();
        let newest = all.iter().map(|segment| segment.number()).max().unwrap_or(0);
        drop(all);
        // None is kept but the one that is read: what was merged takes room until nobody has it.
        let mut last = 0;
        while let Some(segment) = self.core.segments.after(last)
            && segment.number() <= newest
        {
            last = segment.number();
            if segment.is_sealed() && !segment.is_damaged() && !self.is_sound(&segment)? {
                self.report(&segment);
            }
        }
        Ok(())
    }

    /// Reads a segment at the given rate.
    fn is_sound(&self, segment: &Segment) -> Result<bool, Stopping> {
        let resident = segment.resident_pages();
        let mut reader = SegmentReader::new(&**segment.file(), HEADER as u64..segment.len());
        let mut done = HEADER as u64;
        loop {
            match reader.fill() {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(_) => return Ok(false),
            }
            let sound = reader.records(|_, _, _| {}).is_ok();
            let read = reader.read_to();
            segment.forget(done..read, &resident);
            self.core.stats.scrub_bytes.add(read - done);
            let pause = Duration::from_secs_f64((read - done) as f64 / self.rate as f64);
            done = read;
            if !sound {
                return Ok(false);
            }
            reader.advance();
            self.wait(pause)?;
        }
    }

    fn report(&self, segment: &Segment) {
        segment.mark_damaged();
        let subject = Subject {
            number: segment.number(),
            file: Arc::clone(segment.file()),
            len: segment.len(),
            origin: segment.origin(),
            header: None,
            newer_version: false,
            tail: Tail::Whole,
        };
        let hint = hint_file::read(&self.core, segment);
        let found = body::read(&subject, 0, &Progress::default(), &mut |_, _| {});
        for damage in &found.damage {
            self.core.stats.scrub_damaged.add(1);
            let gone = match &hint {
                Some(hint) => hinted::gone(hint, &damage.range),
                None => damage.gone.clone(),
            };
            let named = gone.iter().take(NAMED).map(|gone| gone.key.escape_ascii().to_string());
            let (path, range) = (segment.path().display(), &damage.range);
            log::error!(
                "damaged: {path}, bytes {} to {} ({}); keys: {}{}; `kvs repair` puts it aside",
                range.start,
                range.end,
                damage.what,
                named.collect::<Vec<_>>().join(", "),
                if gone.len() > NAMED { " and more" } else { "" },
            );
        }
    }

    fn wait(&self, time: Duration) -> Result<(), Stopping> {
        match self.stop.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Stopping),
        }
    }
}
