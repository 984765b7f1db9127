//! The event loops: sockets, buffers, timers, mailboxes. Knows no keys and no protocol.
//!
//! ```text
//!                    accepted sockets, round robin
//!  listeners ──> acceptor ──┬──> loop 0 ── Service, its connections, its timers
//!                           └──> loop 1 ── ...
//!                                  │ ▲
//!            work, by the service's│ │ Post<Mail>: replies; a wake-up only if the loop sleeps
//!            own channels          ▼ │
//!                              worker threads (not of this module)
//! ```
//!
//! | thread | owns | may be reached by |
//! | --- | --- | --- |
//! | `acceptor` | the listeners | [`Reactor::stop_accepting`] |
//! | `loop-N` | its [`Service`], its [`Connections`], its timers | its [`Post`] |
//!
//! One wake of a loop goes: poll, readable sockets, orders (new sockets, stop), mails, timers,
//! second turns, [`Service::flush`], and last the sockets are written. `flush` comes before the
//! writes so that the workers it hands work to run while this thread is in its system calls.
//!
//! Always true:
//! - A connection lives and dies on one loop; what crosses threads is sockets, mails and counters.
//! - A loop blocks nowhere but in poll.
//! - A connection is removed only at the end of a wake, so an event never finds another one in its
//!   slot; a [`ConnId`] kept longer than that misses by its generation.
//! - Memory follows bytes that arrived or were answered, never bytes that were announced, and a
//!   connection without either holds no buffer.

/// The atomics of [`sleep`]; tests/models.rs has others in this place.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

mod acceptor;
mod admission;
mod buffer;
mod connection;
mod connections;
mod event_loop;
mod linger;
mod mailbox;
mod options;
mod service;
mod sleep;
mod spares;
mod spin;
mod stats;
mod threads;
mod timer_queue;

pub use acceptor::Listener;
pub use admission::Admission;
pub use buffer::Buffer;
pub use connection::{ConnId, Connection, Parts, Peer};
pub use connections::Connections;
pub use mailbox::Post;
pub use options::{Options, OutputLimits, Spin};
pub use service::{Control, Service};
pub use stats::{Counts, Stats};
pub use threads::Reactor;
pub use timer_queue::TimerId;
