//! The loops' counters added up, since the server started or CONFIG RESETSTAT.
//!
//! Any thread. Counters only grow; a reset notes where they were, so that no loop is disturbed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::histogram::Counted;
use super::tally::Tally;
use crate::command::{Command, numbered};
use crate::reactor::Counts;
use crate::sync::lock;

/// What was counted of one command.
#[derive(Debug, Clone, Default)]
pub struct CommandFigures {
    pub calls: u64,
    pub nanos: u64,
    pub rejected: u64,
    pub failed: u64,
    pub times: Counted,
}

/// What was counted at one time, or between two.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// By number.
    pub commands: Vec<CommandFigures>,
    /// By code.
    pub errors: BTreeMap<String, u64>,
    pub hits: u64,
    pub misses: u64,
    pub processed: u64,
    pub expired: u64,
    /// What the reactor counted.
    pub counts: Counts,
}

impl Figures {
    /// The commands that were called or refused, with what was counted of each.
    pub fn used(&self) -> impl Iterator<Item = (&'static Command, &CommandFigures)> {
        let all = numbered().iter().copied().zip(&self.commands);
        all.filter(|(_, figures)| figures.calls + figures.rejected > 0)
    }

    fn add(&mut self, tally: &Tally) {
        self.commands.resize_with(tally.commands.len(), CommandFigures::default);
        for (sum, command) in self.commands.iter_mut().zip(&tally.commands) {
            sum.calls += command.calls.load(Relaxed);
            sum.nanos += command.nanos.load(Relaxed);
            sum.rejected += command.rejected.load(Relaxed);
            sum.failed += command.failed.load(Relaxed);
            if let Some(times) = command.times.get() {
                times.add_to(&mut sum.times);
            }
        }
        for (code, count) in lock(&tally.errors).iter() {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        self.hits += tally.hits.load(Relaxed);
        self.misses += tally.misses.load(Relaxed);
    }

    fn since(mut self, before: &Figures) -> Figures {
        for (now, before) in self.commands.iter_mut().zip(&before.commands) {
            now.calls -= before.calls.min(now.calls);
            now.nanos -= before.nanos.min(now.nanos);
            now.rejected -= before.rejected.min(now.rejected);
            now.failed -= before.failed.min(now.failed);
            now.times = now.times.since(&before.times);
        }
        for (code, count) in &mut self.errors {
            *count -= before.errors.get(code).copied().unwrap_or(0);
        }
        self.errors.retain(|_, count| *count > 0);
        self.hits -= before.hits.min(self.hits);
        self.misses -= before.misses.min(self.misses);
        self.processed -= before.processed.min(self.processed);
        self.expired -= before.expired.min(self.expired);
        let (now, then) = (&mut self.counts, &before.counts);
        now.accepted -= then.accepted.min(now.accepted);
        now.rejected -= then.rejected.min(now.rejected);
        now.cut_off -= then.cut_off.min(now.cut_off);
        now.bytes_in -= then.bytes_in.min(now.bytes_in);
        now.bytes_out -= then.bytes_out.min(now.bytes_out);
        now.wakes -= then.wakes.min(now.wakes);
        self
    }
}

/// What is not counted by command.
pub struct Others {
    pub processed: u64,
    pub expired: u64,
    pub counts: Counts,
}

/// How much was done in a second of late.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Commands.
    pub commands: f64,
    /// Bytes received.
    pub bytes_in: f64,
    /// Bytes sent.
    pub bytes_out: f64,
}

/// The rates between the last two looks at what they are reckoned from.
struct Pace {
    at: Instant,
    processed: u64,
    bytes_in: u64,
    bytes_out: u64,
    rates: Rates,
}

/// See the module.
pub struct Book {
    tallies: Mutex<Vec<Arc<Tally>>>,
    before: Mutex<Figures>,
    pace: Mutex<Pace>,
}

impl Default for Book {
    fn default() -> Book {
        let (at, rates) = (Instant::now(), Rates::default());
        let pace = Pace { at, processed: 0, bytes_in: 0, bytes_out: 0, rates };
        Book { tallies: Mutex::default(), before: Mutex::default(), pace: Mutex::new(pace) }
    }
}

impl Book {
    /// A loop begins to count.
    pub fn add(&self, tally: Arc<Tally>) {
        lock(&self.tallies).push(tally);
    }

    fn all(&self, others: Others) -> Figures {
        let Others { processed, expired, counts } = others;
        let mut sum = Figures { processed, expired, counts, ..Figures::default() };
        for tally in lock(&self.tallies).iter() {
            sum.add(tally);
        }
        sum
    }

    /// What was counted since the last reset.
    pub fn figures(&self, others: Others) -> Figures {
        self.all(others).since(&lock(&self.before))
    }

    /// Counts from here on.
    pub fn reset(&self, others: Others) {
        *lock(&self.before) = self.all(others);
        lock(&self.tallies).iter().for_each(|tally| tally.restarted.store(true, Relaxed));
    }

    /// For the main thread, now and then: reckons the rates since it did so before.
    pub fn note_pace(&self, processed: u64, counts: &Counts) {
        let mut pace = lock(&self.pace);
        let seconds = pace.at.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let rates = Rates {
            commands: rate(processed, pace.processed),
            bytes_in: rate(counts.bytes_in, pace.bytes_in),
            bytes_out: rate(counts.bytes_out, pace.bytes_out),
        };
        let (bytes_in, bytes_out) = (counts.bytes_in, counts.bytes_out);
        *pace = Pace { at: Instant::now(), processed, bytes_in, bytes_out, rates };
    }

    /// How much was done in a second of late.
    pub fn rates(&self) -> Rates {
        lock(&self.pace).rates
    }
}
