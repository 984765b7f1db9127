//! CLIENT PAUSE: until when requests are held back, and which.
//!
//! Any thread. A request that is held waits in its connection's input, with all behind it; each loop
//! has a timer for the end (`dispatch.rs`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::command::{Command, Flags};

/// See the module.
#[derive(Debug)]
pub struct Pause {
    epoch: Instant,
    /// Milliseconds after `epoch`; 0: there is none.
    until: AtomicU64,
    all: AtomicBool,
}

impl Default for Pause {
    fn default() -> Pause {
        let (until, all) = (AtomicU64::new(0), AtomicBool::new(false));
        Pause { epoch: Instant::now(), until, all }
    }
}

impl Pause {
    /// Holds back all requests, or those that write, for this time. A pause that goes on is neither
    /// shortened nor narrowed.
    pub fn begin(&self, time: Duration, all: bool) {
        let now = self.epoch.elapsed();
        let until = now.saturating_add(time).as_millis().min(u64::MAX.into()) as u64;
        let goes_on = self.left().is_some();
        if !goes_on {
            self.all.store(all, Relaxed);
        } else if all {
            self.all.store(true, Relaxed);
        }
        let before = if goes_on { self.until.load(Relaxed) } else { 0 };
        self.until.store(until.max(before).max(1), Relaxed);
    }

    /// Ends it.
    pub fn end(&self) {
        self.until.store(0, Relaxed);
    }

    /// How long it goes on; `None` if there is none.
    pub fn left(&self) -> Option<Duration> {
        let until = match self.until.load(Relaxed) {
            0 => return None,
            until => Duration::from_millis(until),
        };
        until.checked_sub(self.epoch.elapsed()).filter(|left| !left.is_zero())
    }

    /// Whether this command has to wait.
    #[inline]
    pub fn holds(&self, command: &Command) -> bool {
        self.until.load(Relaxed) != 0 && self.holds_now(command)
    }

    #[cold]
    fn holds_now(&self, command: &Command) -> bool {
        self.left().is_some() && (self.all.load(Relaxed) || command.flags.contain(Flags::WRITE))
    }
}
