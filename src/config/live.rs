//! The settings that CONFIG SET changes while the server runs.
//!
//! Any thread reads them, each for itself and without a lock (what is no number has one). Whoever sets
//! them goes through the table in `parameters.rs`, which checks the values.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::Fsync;

/// A number that may change at any time.
#[derive(Debug)]
pub struct Number(AtomicI64);

impl Number {
    pub(super) const fn new(value: i64) -> Number {
        Number(AtomicI64::new(value))
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Its value as a count or a size; 0 for what is less.
    pub fn count(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(0)
    }

    /// Sets it. What is out of range is not noticed here.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Bounds on the replies that wait for one client. 0 is none.
#[derive(Debug)]
pub struct OutputBound {
    /// Bytes above which the client is cut off at once.
    pub hard: Number,
    /// Bytes above which it is cut off after some time.
    pub soft: Number,
    /// That time, in seconds.
    pub seconds: Number,
}

impl OutputBound {
    const fn new(hard: i64, soft: i64, seconds: i64) -> OutputBound {
        OutputBound {
            hard: Number::new(hard),
            soft: Number::new(soft),
            seconds: Number::new(seconds),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Live {
    /// A place in `Fsync::ALL`.
    pub(super) fsync: Number,
    /// Connections open at once.
    pub max_clients: Number,
    /// Seconds after which an idle connection is closed; 0: never.
    pub timeout: Number,
    /// Seconds between probes of a silent connection; 0: none. For connections to come.
    pub tcp_keepalive: Number,
    /// Bytes of one word of a request.
    pub max_bulk: Number,
    /// Bytes of one request.
    pub max_request: Number,
    /// By class of clients: normal, replica, subscriber. There are only normal ones.
    pub output: [OutputBound; 3],
    /// Bytes of the index above which no command may add to it; 0: no bound.
    pub max_memory: Number,
    /// Microseconds from which on a command is logged; below 0: none.
    pub slowlog_slower_than: Number,
    /// Entries that the slow log keeps.
    pub slowlog_max_len: Number,
    /// Milliseconds from which on a command is a spike of latency; 0: none is.
    pub latency_threshold: Number,
    /// 1 if commands' times are counted for LATENCY HISTOGRAM.
    pub latency_tracking: Number,
    /// A place in `LOG_LEVELS`.
    pub(super) log_level: Number,
    percentiles: RwLock<Vec<f64>>,
    password: RwLock<Password>,
    has_password: AtomicBool,
}

#[derive(Default)]
struct Password(Vec<u8>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "(not shown)" })
    }
}

/// Redis's names of the levels, then those of the flag `--log-level`.
pub(super) const LOG_LEVELS: &[(&str, log::LevelFilter)] = &[
    ("debug", log::LevelFilter::Debug),
    ("verbose", log::LevelFilter::Debug),
    ("notice", log::LevelFilter::Info),
    ("warning", log::LevelFilter::Warn),
    ("off", log::LevelFilter::Off),
    ("error", log::LevelFilter::Error),
    ("warn", log::LevelFilter::Warn),
    ("info", log::LevelFilter::Info),
    ("trace", log::LevelFilter::Trace),
];
const NOTICE: i64 = 2;

impl Default for Live {
    fn default() -> Live {
        Live {
            fsync: Number::new(0),
            max_clients: Number::new(10_000),
            timeout: Number::new(0),
            tcp_keepalive: Number::new(300),
            max_bulk: Number::new(512 << 20),
            max_request: Number::new(1 << 30),
            output: [
                OutputBound::new(1 << 30, 0, 0),
                OutputBound::new(256 << 20, 64 << 20, 60),
                OutputBound::new(32 << 20, 8 << 20, 60),
            ],
            max_memory: Number::new(0),
            slowlog_slower_than: Number::new(10_000),
            slowlog_max_len: Number::new(128),
            latency_threshold: Number::new(0),
            latency_tracking: Number::new(1),
            log_level: Number::new(NOTICE),
            percentiles: RwLock::new(vec![50.0, 99.0, 99.9]),
            password: RwLock::default(),
            has_password: AtomicBool::new(false),
        }
    }
}

impl Live {
    /// When writes are made durable.
    pub fn fsync(&self) -> Fsync {
        Fsync::ALL.get(self.fsync.count()).copied().unwrap_or_default()
    }

    /// Sets that.
    pub fn set_fsync(&self, policy: Fsync) {
        let place = Fsync::ALL.iter().position(|known| *known == policy);
        self.fsync.set(place.unwrap_or_default() as i64);
    }

    /// What is logged.
    pub fn log_level(&self) -> log::LevelFilter {
        LOG_LEVELS.get(self.log_level.count()).map_or(log::LevelFilter::Info, |(_, level)| *level)
    }

    /// Bytes of replies that may wait for a client before it is cut off.
    pub fn output_limit(&self) -> usize {
        match self.output[0].hard.count() {
            0 => usize::MAX,
            limit => limit,
        }
    }

    /// Those of commands' times that INFO shows, in hundredths.
    pub fn percentiles(&self) -> Vec<f64> {
        self.percentiles.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_percentiles(&self, percentiles: Vec<f64>) {
        *self.percentiles.write().unwrap_or_else(PoisonError::into_inner) = percentiles;
    }

    /// Whether clients have to log in.
    pub fn has_password(&self) -> bool {
        self.has_password.load(Ordering::Acquire)
    }

    /// The password, empty if there is none.
    pub(super) fn password(&self) -> Vec<u8> {
        self.password.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Asks for this password from now on; for none if it is empty.
    pub(super) fn set_password(&self, password: &[u8]) {
        let mut place = self.password.write().unwrap_or_else(PoisonError::into_inner);
        place.0 = password.to_vec();
        self.has_password.store(!password.is_empty(), Ordering::Release);
    }

    /// Whether `attempt` is the password, or none is asked for. How long it takes tells nothing of
    /// the password but whether its length was met.
    pub fn is_password(&self, attempt: &[u8]) -> bool {
        let password = self.password();
        if password.is_empty() {
            return true;
        }
        let differences = attempt.iter().zip(&password).fold(0, |seen, (a, b)| seen | (a ^ b));
        std::hint::black_box(differences) == 0 && attempt.len() == password.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_compared_as_a_whole() {
        let live = Live::default();
        assert!(!live.has_password() && live.is_password(b"anything"));
        live.set_password(b"secret");
        assert!(live.has_password() && live.is_password(b"secret"));
        for wrong in [&b""[..], b"secre", b"secret!", b"Secret", b"secreT"] {
            assert!(!live.is_password(wrong), "{}", wrong.escape_ascii());
        }
        assert!(!format!("{live:?}").contains("secret"));
        live.set_password(b"");
        assert!(!live.has_password() && live.is_password(b""));
    }
}
