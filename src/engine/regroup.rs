//! Waiting a moment for those whom the last group commit let go, so that they are in the next one.
//!
//! Threads that write one key after the other fall apart into two crowds: while one's group is synced,
//! the other queues up; its leader starts as soon as it can, just before the first crowd is back. Each
//! sync is of half of them then, and everybody waits for two. The first crowd takes much less than a
//! sync to come back. So a leader lets that much time go by, if there are some to come. It yields the
//! processor meanwhile: where others want it, a single yield may take longer than all that, and ends it.
//!
//! Any thread asks; what the last group was is told by who holds the writer. Not kept waiting: a
//! thread that writes alone, a group whose predecessor is long past, and anybody where no sync is
//! waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Who does not come back so soon after another does not come back.
const GAP: Duration = Duration::from_micros(20);
/// How long the last group is waited for at most, from its end on: as long as a sync takes on a fast
/// disk.
const LIMIT: Duration = Duration::from_micros(100);

/// How many commands have come, of all threads.
#[derive(Debug, Default)]
pub(super) struct Arrivals(AtomicU64);

impl Arrivals {
    /// One more.
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is known of the last group when the next one is to begin.
#[derive(Debug)]
pub(super) struct Last {
    ended: Instant,
    /// How many commands will have come once all of the group are back with another.
    all_back: u64,
}

impl Last {
    /// The group of so many jobs that has just been committed, and whose threads are about to hear it.
    pub(super) fn of(jobs: usize, arrivals: &Arrivals) -> Last {
        Last { ended: Instant::now(), all_back: arrivals.count() + jobs as u64 }
    }

    /// Whether someone of it is still to come.
    pub(super) fn is_awaited(&self, arrivals: &Arrivals) -> bool {
        arrivals.count() < self.all_back && self.ended.elapsed() < GAP
    }

    /// Waits until all are back, or none comes any more.
    pub(super) fn wait(&self, arrivals: &Arrivals) {
        let mut seen = arrivals.count();
        let mut latest = self.ended;
        while seen < self.all_back {
            let now = Instant::now();
            let count = arrivals.count();
            if count > seen {
                (seen, latest) = (count, now);
            }
            if now - latest > GAP || now - self.ended > LIMIT {
                return;
            }
            // The others may need this very processor to come back.
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(jobs: usize, arrivals: &Arrivals) -> Last {
        let ended = Instant::now() + Duration::from_secs(3600);
        Last { ended, ..Last::of(jobs, arrivals) }
    }

    #[test]
    fn a_group_is_awaited_until_as_many_came_as_it_had() {
        let arrivals = Arrivals::default();
        (0..5).for_each(|_| arrivals.add());
        let last = last(2, &arrivals);
        assert!(last.is_awaited(&arrivals));
        arrivals.add();
        assert!(last.is_awaited(&arrivals));
        arrivals.add();
        assert!(!last.is_awaited(&arrivals));
        last.wait(&arrivals);
    }

    #[test]
    fn a_group_that_is_long_past_is_not_awaited() {
        let arrivals = Arrivals::default();
        let ended = Instant::now() - LIMIT;
        let last = Last { ended, ..Last::of(2, &arrivals) };
        assert!(!last.is_awaited(&arrivals));
        last.wait(&arrivals);
    }

    #[test]
    fn waiting_ends_with_the_last_who_comes_back() {
        let arrivals = Arrivals::default();
        // Ended an hour from now: only the arrivals end the waiting.
        let last = last(3, &arrivals);
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| arrivals.add())));
            last.wait(&arrivals);
        });
        assert_eq!(arrivals.count(), 3);
    }

    #[test]
    fn who_does_not_come_back_is_not_awaited_for_long() {
        let arrivals = Arrivals::default();
        Last::of(2, &arrivals).wait(&arrivals);
        assert_eq!(arrivals.count(), 0);
    }
}
