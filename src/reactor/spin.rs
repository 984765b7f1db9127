//! Whether a loop that has nothing to do should look again for some microseconds before it sleeps.
//!
//! Owner: its loop. To sleep and be woken costs both sides: the waker a system call that interrupts
//! the other processor, the sleeper the way out of idling, which on a virtual machine goes through
//! the host. Where the next event comes sooner than that, looking again is cheaper for all; where
//! it does not, it keeps a processor busy for nothing. So a loop looks again only while a third of its
//! pauses turn out to be short, as the kernel's haltpoll governor does it for idle processors. And
//! while a worker is at its requests, it does so for as long as a sync of a fast disk takes; but only
//! if clients, too, follow up at once, as otherwise one slow client would cost that with each write.

use std::time::Duration;

use super::options::Spin;

/// How often a pause was short of late: up to [`MOST`].
#[derive(Debug, Default)]
struct Score(u32);

const MOST: u32 = 8;
/// What a short pause adds, while a long one takes one away.
const SHORT: u32 = 2;

impl Score {
    fn short(&mut self) {
        self.0 = (self.0 + SHORT).min(MOST);
    }

    fn long(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    fn is_high(&self) -> bool {
        self.0 > 0
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spinner {
    /// What is short for a client to follow up, and for a worker to answer.
    short: Spin,
    of_clients: Score,
    of_workers: Score,
}

impl Spinner {
    /// One that looks for clients and workers so long.
    pub(super) fn new(short: Spin) -> Spinner {
        Spinner { short, of_clients: Score::default(), of_workers: Score::default() }
    }

    /// How long to look again before the sleep that would begin now, while workers are at
    /// something or not.
    pub(super) fn time(&self, awaits_workers: bool) -> Duration {
        match (self.of_clients.is_high(), awaits_workers && self.of_workers.is_high()) {
            (true, true) => self.short.workers,
            (true, false) => self.short.clients,
            (false, _) => Duration::ZERO,
        }
    }

    /// So long there was nothing to do, while workers were at something or not.
    pub(super) fn note(&mut self, pause: Duration, awaited_workers: bool) {
        if pause < self.short.clients {
            self.of_clients.short();
        } else if !awaited_workers || pause >= self.short.workers {
            self.of_clients.long();
        }
        if awaited_workers {
            if pause < self.short.workers {
                self.of_workers.short()
            } else {
                self.of_workers.long()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: Duration = Duration::from_micros(30);
    const WORKERS: Duration = Duration::from_micros(150);

    fn spinner() -> Spinner {
        Spinner::new(Spin { clients: CLIENTS, workers: WORKERS })
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_loop_spins_while_a_third_of_its_pauses_are_short() {
        let mut spinner = spinner();
        let mut after = |pause| {
            spinner.note(micros(pause), false);
            spinner.time(false)
        };
        assert_eq!(after(1000), Duration::ZERO);
        assert_eq!(after(29), CLIENTS);
        for _ in 0..10 {
            assert_eq!([30, 1000, 5].map(&mut after)[2], CLIENTS, "one in three");
        }
        let last = (0..10).map(|_| [5, 30, 30, 30].map(&mut after)[3]).last();
        assert_eq!(last, Some(Duration::ZERO), "one in four");
    }

    #[test]
    fn a_sync_is_waited_for_if_clients_follow_up_at_once() {
        let mut spinner = spinner();
        let mut request_then_sync = |pause, sync| {
            spinner.note(micros(pause), false);
            spinner.note(micros(sync), true);
            (spinner.time(false), spinner.time(true))
        };
        for _ in 0..10 {
            assert_eq!(request_then_sync(1000, 100), (Duration::ZERO, Duration::ZERO));
        }
        for _ in 0..10 {
            assert_eq!(request_then_sync(20, 100), (CLIENTS, WORKERS));
        }
        let last = (0..10).map(|_| request_then_sync(20, 5000)).last();
        assert_eq!(last, Some((CLIENTS, CLIENTS)), "the disk is slow");
    }

    #[test]
    fn a_loop_that_is_not_to_spin_does_not() {
        let mut spinner = Spinner::new(Spin::NEVER);
        spinner.note(Duration::ZERO, true);
        assert_eq!(spinner.time(true), Duration::ZERO);
    }
}
