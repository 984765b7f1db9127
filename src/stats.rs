//! Counters that INFO shows. Relaxed atomics: each is right by itself, no two are of one moment.

use std::sync::atomic::{AtomicU64, Ordering};

/// Adds to a counter that only the calling thread writes: a plain store, into a line that stays in
/// that thread's cache.
pub(crate) fn add_alone(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// A number that only grows, or that is set.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the engine counts.
#[derive(Debug, Default)]
pub struct EngineStats {
    /// Group commits.
    pub groups: Counter,
    /// Records written by them.
    pub group_records: Counter,
    /// Bytes written by them.
    pub group_bytes: Counter,
    /// fdatasync calls for them.
    pub syncs: Counter,
    /// Keys removed because their time had come.
    pub expired_keys: Counter,
    /// Entries in the schedule of expiry times, those that stand for nothing any more included.
    pub scheduled_expiries: Counter,
    /// Reads that had to go to the file.
    pub cold_reads: Counter,
    /// Reads answered from memory.
    pub warm_reads: Counter,
    /// Compactions done.
    pub compactions: Counter,
    /// Bytes that compactions read.
    pub compaction_read: Counter,
    /// Bytes that compactions wrote.
    pub compaction_written: Counter,
    /// Segments closed by the writer.
    pub rotations: Counter,
    /// Of these, how many went on in a segment that had been created beforehand.
    pub prepared_rotations: Counter,
    /// Pages that had left memory when they were last looked for.
    pub evicted_pages: Counter,
    /// Bytes that the last backup has to copy, if it cannot be made of links.
    pub backup_to_copy: Counter,
    /// Bytes that it has copied.
    pub backup_copied: Counter,
    /// Bytes that the scrub has read.
    pub scrub_bytes: Counter,
    /// Times it has read all that is closed.
    pub scrub_rounds: Counter,
    /// Damaged ranges that it has found.
    pub scrub_damaged: Counter,
    /// Damaged ranges found when the store was opened.
    pub damaged_ranges: Counter,
    /// Bytes of segments that an open has to deal with.
    pub load_total: Counter,
    /// How many of them it is done with.
    pub load_done: Counter,
    /// Microseconds the open took.
    pub open_micros: Counter,
}
