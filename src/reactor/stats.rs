//! Counters of a reactor, readable from any thread while it runs.
//!
//! Always true: every counter has one writing thread, except `open`, which the acceptor raises and
//! the loops lower. All accesses are relaxed: a reading is a snapshot of each counter, not of all
//! at one moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

pub(super) use crate::stats::add_alone as add;

/// Shared counters; clones are handles to the same ones.
#[derive(Clone, Debug)]
pub struct Stats {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: AtomicUsize,
    accepted: AtomicU64,
    rejected: AtomicU64,
    loops: Vec<LoopStats>,
}

/// The counters of one loop, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct LoopStats {
    pub(super) open: AtomicU64,
    pub(super) cut_off: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) wakes: AtomicU64,
}

/// What the counters said when they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are open, including those on the way to a loop.
    pub open: usize,
    /// Connections open on each loop.
    pub open_per_loop: Vec<usize>,
    /// Connections accepted since the start, without the rejected ones.
    pub accepted: u64,
    /// Connections turned away at the limit.
    pub rejected: u64,
    /// Connections cut off because they did not take their replies.
    pub cut_off: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// How often the loops came back from waiting.
    pub wakes: u64,
}

impl Stats {
    pub(super) fn new(loops: usize) -> Stats {
        let loops = (0..loops).map(|_| LoopStats::default()).collect();
        Stats {
            shared: Arc::new(Shared {
                open: AtomicUsize::new(0),
                accepted: AtomicU64::new(0),
                rejected: AtomicU64::new(0),
                loops,
            }),
        }
    }

    /// Reads all counters, summed over the loops.
    pub fn counts(&self) -> Counts {
        let loops = &self.shared.loops;
        let sum = |counter: fn(&LoopStats) -> &AtomicU64| -> u64 {
            loops.iter().map(|stats| counter(stats).load(Relaxed)).sum()
        };
        Counts {
            open: self.open(),
            open_per_loop: loops.iter().map(|stats| stats.open.load(Relaxed) as usize).collect(),
            accepted: self.shared.accepted.load(Relaxed),
            rejected: self.shared.rejected.load(Relaxed),
            cut_off: sum(|stats| &stats.cut_off),
            bytes_in: sum(|stats| &stats.bytes_in),
            bytes_out: sum(|stats| &stats.bytes_out),
            wakes: sum(|stats| &stats.wakes),
        }
    }

    pub(super) fn of_loop(&self, index: usize) -> &LoopStats {
        &self.shared.loops[index]
    }

    pub(super) fn open(&self) -> usize {
        self.shared.open.load(Relaxed)
    }

    /// Acceptor's thread.
    pub(super) fn note_accepted(&self) {
        add(&self.shared.accepted, 1);
        self.shared.open.fetch_add(1, Relaxed);
    }

    /// Acceptor's thread.
    pub(super) fn note_rejected(&self) {
        add(&self.shared.rejected, 1);
    }

    /// Any thread: a connection that was accepted is gone.
    pub(super) fn note_closed(&self) {
        self.shared.open.fetch_sub(1, Relaxed);
    }
}
