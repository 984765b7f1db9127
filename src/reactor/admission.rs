//! Who is let in: bounds that may change while the reactor runs.
//!
//! Any thread sets them; the acceptor reads them at each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Shared bounds; clones are handles to the same ones.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connections: AtomicUsize,
    keepalive_seconds: AtomicU64,
}

impl Admission {
    pub(super) fn new(connections: usize, keepalive: Option<Duration>) -> Admission {
        let keepalive_seconds = AtomicU64::new(keepalive.map_or(0, |time| time.as_secs()));
        let connections = AtomicUsize::new(connections);
        Admission { shared: Arc::new(Shared { connections, keepalive_seconds }) }
    }

    /// Lets so many connections be open at once. Those that are open stay.
    pub fn set_connections(&self, most: usize) {
        self.shared.connections.store(most, Relaxed);
    }

    /// Has the system ask a silent peer whether it is still there, after so long, from the next
    /// connection on; `None`: never.
    pub fn set_keepalive(&self, after: Option<Duration>) {
        let seconds = after.map_or(0, |time| time.as_secs());
        self.shared.keepalive_seconds.store(seconds, Relaxed);
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Relaxed)
    }

    pub(super) fn keepalive(&self) -> Option<Duration> {
        let seconds = self.shared.keepalive_seconds.load(Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}
