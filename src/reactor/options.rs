//! What a reactor can be told at its start. Plain values, shared by all its threads.

use std::time::Duration;

/// Bounds on the replies that wait for one connection to take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bytes; above it nothing is read from the connection until less than half of it waits. For a
    /// client that goes on sending and takes nothing it grows, up to half of `hard`: such a client
    /// may read only once it has written everything.
    pub soft: usize,
    /// Bytes; a connection for which more waits after a write is cut off. A single reply may be
    /// that large, so it should exceed the largest one.
    pub hard: usize,
    /// A connection that is over `soft` and takes not a byte for this long is cut off.
    pub stall: Duration,
}

impl Default for OutputLimits {
    /// 1 MiB, 1 GiB, 60 s.
    fn default() -> Self {
        OutputLimits { soft: 1 << 20, hard: 1 << 30, stall: Duration::from_secs(60) }
    }
}

/// How long a loop may look for what comes before it sleeps; it does so only while a third of what
/// comes does so that soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spin {
    /// For what clients send.
    pub clients: Duration,
    /// For [mail that is awaited](super::Service::awaits_mail), and what clients send meanwhile.
    pub workers: Duration,
}

impl Spin {
    /// It sleeps at once.
    pub const NEVER: Spin = Spin { clients: Duration::ZERO, workers: Duration::ZERO };
}

impl Default for Spin {
    /// 30 us, 150 us.
    fn default() -> Self {
        Spin { clients: Duration::from_micros(30), workers: Duration::from_micros(150) }
    }
}

/// How a [`Reactor`](super::Reactor) is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Event loops, one thread each; at least 1.
    pub loops: usize,
    /// Connections open at once over all loops, to begin with.
    pub max_connections: usize,
    /// A connection whose descriptor has this number or a larger one is turned away, too. The system
    /// gives the lowest that is free: so the others are left to whoever else needs files.
    pub descriptors: usize,
    /// When the system asks a silent peer whether it is still there, to begin with.
    pub keepalive: Option<Duration>,
    /// Sent, as far as the socket takes it at once, to a connection beyond `max_connections`.
    pub rejection: Vec<u8>,
    /// Bounds on waiting replies, per connection.
    pub output: OutputLimits,
    /// Bytes read from one connection before the others get their turn; at least 1.
    pub read_budget: usize,
    /// How long loops look for what comes before they sleep.
    pub spin: Spin,
}

impl Default for Options {
    /// One loop, 10,000 connections on any descriptors, no keepalive, no rejection message, 256 KiB per turn,
    /// the usual spinning.
    fn default() -> Self {
        Options {
            loops: 1,
            max_connections: 10_000,
            descriptors: usize::MAX,
            keepalive: None,
            rejection: Vec::new(),
            output: OutputLimits::default(),
            read_budget: 256 << 10,
            spin: Spin::default(),
        }
    }
}
