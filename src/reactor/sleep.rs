//! Whether a thread sleeps at its queues, and who wakes it: the part of a
//! [`Bell`](super::mailbox::Bell) that has to be right in every interleaving; tests/models.rs tries
//! them.
//!
//! No wake-up is lost. The poster does (P1) push, (P2) fence, (P3) read `asleep` and ring if it
//! turns it from true to false. The loop does (L1) set `asleep`, (L2) fence, (L3) look into its
//! queues and poll only if they are empty. The two fences are sequentially consistent, so one comes
//! first: if P2 does, L3 sees the push and the loop does not sleep; if L2 does, P3 sees `asleep`
//! and rings, and as the bell is an eventfd, a ring before the poll ends the poll at once. After
//! the poll the loop clears `asleep` and only then takes what is queued, so a post that it misses
//! is followed by another L1 to L3.

use super::atomics::{AtomicBool, Ordering, fence};

/// See the module.
#[derive(Debug)]
pub(super) struct Sleep {
    asleep: AtomicBool,
}

impl Sleep {
    /// Awake.
    pub(super) fn new() -> Sleep {
        Sleep { asleep: AtomicBool::new(false) }
    }

    /// The sleeper, before it looks into its queues for the last time.
    pub(super) fn begin(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper, after its poll.
    pub(super) fn end(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Any thread, after its push: whether it is the one that has to ring.
    pub(super) fn must_be_ended(&self) -> bool {
        fence(Ordering::SeqCst);
        let (asleep, awake, order) = (true, false, Ordering::Relaxed);
        self.asleep.load(order) && self.asleep.compare_exchange(asleep, awake, order, order).is_ok()
    }
}
