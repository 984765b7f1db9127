//! Spikes of latency: commands that took as long as `latency-monitor-threshold`, for LATENCY LATEST,
//! HISTORY and GRAPH.
//!
//! Any thread. The lock is taken when there was a spike, and to read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::command::{Command, Flags, LatencyEvent, now_ms};
use crate::config::Live;

/// How many seconds with spikes are kept of an event: as many as Redis keeps.
const KEPT: usize = 160;

#[derive(Debug, Default)]
struct Series {
    /// A second since 1970, and the longest time of it in milliseconds. The oldest first.
    samples: VecDeque<(u64, u64)>,
    /// The longest ever.
    most: u64,
}

impl Series {
    fn add(&mut self, second: u64, millis: u64) {
        self.most = self.most.max(millis);
        match self.samples.back_mut() {
            Some((last, longest)) if *last == second => *longest = millis.max(*longest),
            _ => self.samples.push_back((second, millis)),
        }
        if self.samples.len() > KEPT {
            self.samples.pop_front();
        }
    }
}

/// See the module. By event.
#[derive(Debug, Default)]
pub struct Spikes(Mutex<BTreeMap<&'static str, Series>>);

impl Spikes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Series>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a command that took so long, if that is long enough.
    #[inline]
    pub fn offer(&self, live: &Live, command: &Command, nanos: u64) {
        let (least, millis) = (live.latency_threshold.get(), nanos / 1_000_000);
        if least > 0 && millis >= least as u64 {
            self.note(command, millis);
        }
    }

    #[cold]
    fn note(&self, command: &Command, millis: u64) {
        let fast = command.flags.contain(Flags::FAST);
        let event = if fast { "fast-command" } else { "command" };
        self.lock().entry(event).or_default().add(now_ms() / 1000, millis);
    }

    /// What was noted.
    pub fn events(&self) -> Vec<LatencyEvent> {
        let event = |(name, series): (&&'static str, &Series)| LatencyEvent {
            name,
            samples: series.samples.iter().copied().collect(),
            most: series.most,
        };
        self.lock().iter().map(event).collect()
    }

    /// Forgets an event, or all of them; how many.
    pub fn forget(&self, name: Option<&[u8]>) -> usize {
        let mut events = self.lock();
        let before = events.len();
        events.retain(|event, _| {
            name.is_some_and(|name| !event.as_bytes().eq_ignore_ascii_case(name))
        });
        before - events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_one_sample_and_the_oldest_go() {
        let mut series = Series::default();
        for (second, millis) in [(7, 5), (7, 9), (7, 6), (8, 1)] {
            series.add(second, millis);
        }
        assert_eq!((&series.samples, series.most), (&[(7, 9), (8, 1)].into(), 9));
        (0..KEPT as u64).for_each(|i| series.add(10 + i, 2));
        assert_eq!(series.samples.len(), KEPT);
        assert_eq!((series.samples[0], series.most), ((10, 2), 9));
    }
}
