//! Timers of one loop, ordered by when they are due. Owned by the loop.
//!
//! Always true: a timer is delivered at most once, never before its time, and not after it was
//! cancelled. Timers with the same time come in the order in which they were set. A timer that
//! repeats is one that is set again when it is due.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Names one timer, to cancel it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TimerId {
    at: Instant,
    number: u64,
}

/// What is due when.
#[derive(Debug)]
pub(super) struct TimerQueue<T> {
    timers: BTreeMap<TimerId, T>,
    next_number: u64,
}

impl<T> TimerQueue<T> {
    pub(super) fn new() -> TimerQueue<T> {
        TimerQueue { timers: BTreeMap::new(), next_number: 0 }
    }

    /// Has `what` delivered at `at`.
    pub(super) fn add(&mut self, at: Instant, what: T) -> TimerId {
        let id = TimerId { at, number: self.next_number };
        self.next_number += 1;
        self.timers.insert(id, what);
        id
    }

    /// Forgets a timer; `None` if it was delivered or cancelled before.
    pub(super) fn cancel(&mut self, id: TimerId) -> Option<T> {
        self.timers.remove(&id)
    }

    /// The next timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        let first = self.timers.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }

    /// How long to sleep until the first one is due; `None` if there is none.
    pub(super) fn timeout(&self, now: Instant) -> Option<Duration> {
        self.timers.first_key_value().map(|(id, _)| id.at.saturating_duration_since(now))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn due_in_order_and_not_early() {
        let (mut queue, start) = (TimerQueue::new(), Instant::now());
        queue.add(start + 2 * SECOND, "c");
        queue.add(start + SECOND, "a");
        queue.add(start + SECOND, "b");
        assert_eq!(queue.timeout(start), Some(SECOND));
        assert_eq!(queue.pop_due(start), None);
        assert_eq!(queue.pop_due(start + SECOND), Some("a"));
        assert_eq!(queue.pop_due(start + SECOND), Some("b"));
        assert_eq!(queue.pop_due(start + SECOND), None);
        assert_eq!(queue.timeout(start + 3 * SECOND), Some(Duration::ZERO));
        assert_eq!(queue.pop_due(start + 3 * SECOND), Some("c"));
        assert_eq!(queue.timeout(start), None);
    }

    #[test]
    fn a_cancelled_timer_never_comes() {
        let (mut queue, start) = (TimerQueue::new(), Instant::now());
        let first = queue.add(start, 1);
        let second = queue.add(start, 2);
        assert_eq!(queue.cancel(first), Some(1));
        assert_eq!(queue.cancel(first), None);
        assert_eq!(queue.pop_due(start), Some(2));
        assert_eq!(queue.cancel(second), None);
        assert!(queue.is_empty());
    }
}
