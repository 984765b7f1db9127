//! What a program puts on an event loop: the [`Service`] it writes and the [`Control`] it is given.
//!
//! Everything here happens on the loop's thread. A service never blocks: what could wait for a disk,
//! a lock or another thread is handed to workers, who post the answer back.

use std::time::{Duration, Instant};

use super::connection::{ConnId, Connection, Peer};
use super::connections::Connections;
use super::options::OutputLimits;
use super::stats::Stats;
use super::timer_queue::{TimerId, TimerQueue};

/// The program on one loop. Each loop has its own, made on the loop's thread and never moved.
pub trait Service: Sized + 'static {
    /// What the service keeps per connection.
    type Session;
    /// What other threads post to this loop.
    type Mail: Send + 'static;

    /// A connection was opened.
    fn open(&mut self, ctl: &mut Control, id: ConnId, peer: Peer) -> Self::Session;

    /// There is input: new bytes, or the peer sent its last ([`Connection::eof`]), or the connection
    /// was resumed, or it asked to be [called again](Connection::call_again). Consumes what it can.
    ///
    /// What it leaves because the output is [congested](Connection::is_congested) it is called for
    /// again once the peer has taken enough.
    fn data(&mut self, ctl: &mut Control, conn: &mut Connection<Self::Session>);

    /// Another thread posted a message.
    fn mail(&mut self, ctl: &mut Control, conns: &mut Connections<Self::Session>, mail: Self::Mail);

    /// Everything of this wake was delivered and no socket is written yet: the moment to hand the
    /// gathered work to the workers, one message each.
    fn flush(&mut self, ctl: &mut Control, conns: &mut Connections<Self::Session>) {
        let _ = (ctl, conns);
    }

    /// Whether mail is awaited that answers something. A hint: it decides only how long to look for
    /// mail before sleeping.
    fn awaits_mail(&self) -> bool {
        false
    }

    /// A timer set with `token` by [`Control::timer_after`] is due.
    fn timer(&mut self, ctl: &mut Control, conns: &mut Connections<Self::Session>, token: u64) {
        let _ = (ctl, conns, token);
    }

    /// A connection is gone: the peer closed or failed, or it was closed from here.
    fn close(&mut self, ctl: &mut Control, id: ConnId, session: Self::Session);

    /// A graceful stop begins. What was received is still delivered, nothing is read after that.
    fn stopping(&mut self, ctl: &mut Control, conns: &mut Connections<Self::Session>) {
        let _ = (ctl, conns);
    }

    /// Whether every whole request that was received on this connection has its reply in the
    /// output. Asked before closing a connection whose peer sent its last, or on a graceful stop;
    /// the output is sent before it is closed.
    fn idle(&self, conn: &Connection<Self::Session>) -> bool;
}

/// What the loop keeps a timer for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// The service asked for it, with this token.
    Service(u64),
    /// A connection has been over its soft limit for a while.
    Stall(ConnId),
    /// A closed connection has had its time to take the last bytes.
    Linger(usize),
    /// The graceful stop has to end.
    Stop,
}

/// The loop, as far as a service may use it: time, timers, counters.
#[derive(Debug)]
pub struct Control {
    pub(super) index: usize,
    pub(super) now: Instant,
    pub(super) timers: TimerQueue<Due>,
    pub(super) stopping: bool,
    pub(super) stats: Stats,
    pub(super) limits: OutputLimits,
}

impl Control {
    pub(super) fn new(index: usize, stats: Stats, limits: OutputLimits) -> Control {
        let (now, timers) = (Instant::now(), TimerQueue::new());
        Control { index, now, timers, stopping: false, stats, limits }
    }

    /// Which loop this is, from 0.
    pub fn loop_index(&self) -> usize {
        self.index
    }

    /// When this wake began; costs no system call.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Has [`Service::timer`] called with `token` once, `delay` after the beginning of this wake or
    /// up to about a millisecond later. A delay beyond 100 years counts as that.
    pub fn timer_after(&mut self, delay: Duration, token: u64) -> TimerId {
        self.add_timer(delay, Due::Service(token))
    }

    /// Forgets a timer; false if it was due or cancelled before.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        self.timers.cancel(timer).is_some()
    }

    /// Whether a graceful stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Changes the bytes of waiting output above which a connection of this loop is cut off.
    pub fn set_output_limit(&mut self, hard: usize) {
        self.limits.hard = hard;
    }

    /// The counters of the whole reactor.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn add_timer(&mut self, delay: Duration, due: Due) -> TimerId {
        const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        self.timers.add(self.now + delay.min(FOREVER), due)
    }
}
