//! One event loop: polls, dispatches, settles. The whole of it runs on one thread.
//!
//! Always true:
//! - It sleeps nowhere but in `poll`, and there only with no turn queued and no mail waiting.
//! - Polling is edge-triggered and a socket is registered once for both directions; what an event
//!   said is kept in its connection until it was acted upon.
//! - Connections are removed only in `settle`, after all events of the wake were handled.
//! - In a steady state a wake costs one poll, or a few before it sleeps, and per connection that spoke one read and one write.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::connection::{Closing, Connection, Peer, Received};
use super::connections::Connections;
use super::linger::Lingering;
use super::mailbox::{Bell, Mailbox};
use super::options::Options;
use super::service::{Control, Due, Service};
use super::spin::Spinner;
use super::stats::{self, Stats};

/// Events taken from one poll at most; more come with the next.
const EVENTS: usize = 1024;

/// When so many bytes of replies were made in a wake, they are sent before more are: the others wait
/// for their turn in the next one. So many clients that ask for much at once, and take it, cost no more
/// memory than this at a time.
const WAKE_OUTPUT: usize = 4 << 20;

/// After so long without taking a byte, a client that has too many replies waiting and goes on
/// sending is taken for one that reads only once it has written everything.
const DEADLOCK: Duration = Duration::from_millis(500);

/// The token of the bell.
pub(super) const BELL: Token = Token(usize::MAX);

/// Tokens from here on are those of lingering sockets; below are the slots of connections.
const FIRST_LINGERING: usize = 1 << (usize::BITS - 2);

/// What other threads of the reactor tell a loop.
#[derive(Debug)]
pub(super) enum Order {
    /// Take over a new connection.
    Adopt(TcpStream, SocketAddr),
    /// Answer what was received, for at most so long, and end.
    Stop(Duration),
}

/// What a loop is made of before it has a thread.
#[derive(Debug)]
pub(super) struct Seed<M> {
    pub(super) index: usize,
    pub(super) poll: Poll,
    pub(super) bell: Arc<Bell>,
    pub(super) orders: Mailbox<Order>,
    pub(super) mails: Mailbox<M>,
    pub(super) stats: Stats,
}

/// A loop on its thread.
pub(super) struct EventLoop<S: Service> {
    service: S,
    ctl: Control,
    conns: Connections<S::Session>,
    lingering: Lingering,
    poll: Poll,
    bell: Arc<Bell>,
    orders: Mailbox<Order>,
    mails: Mailbox<S::Mail>,
    read_budget: usize,
    spinner: Spinner,
    /// Bytes of replies that were made in this wake.
    made: usize,
}

impl<S: Service> EventLoop<S> {
    pub(super) fn new(seed: Seed<S::Mail>, options: &Options, service: S) -> EventLoop<S> {
        EventLoop {
            service,
            ctl: Control::new(seed.index, seed.stats, options.output),
            conns: Connections::new(),
            lingering: Lingering::new(FIRST_LINGERING),
            poll: seed.poll,
            bell: seed.bell,
            orders: seed.orders,
            mails: seed.mails,
            read_budget: options.read_budget.max(1),
            spinner: Spinner::new(options.spin),
            made: 0,
        }
    }

    /// Runs until a stop was ordered and no connection is left.
    ///
    /// # Errors
    /// When the poll itself fails; the connections are closed then.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !(self.ctl.stopping && self.conns.is_empty()) {
            self.wait(&mut events)?;
            self.handle_events(&events);
            self.handle_orders();
            self.handle_mails();
            self.handle_timers();
            self.handle_turns();
            self.service.flush(&mut self.ctl, &mut self.conns);
            self.settle();
        }
        Ok(())
    }

    /// Waits until there is something to do; see `mailbox` for the order of the steps.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let began = Instant::now();
        let pauses = self.conns.turns() == 0 && !self.has_post();
        let awaits_workers = self.service.awaits_mail();
        if !self.look_again(events, began, self.spinner.time(awaits_workers))? {
            let timeout = self.timeout();
            self.poll(events, timeout)?;
        }
        self.bell.wake_up();
        self.ctl.now = Instant::now();
        if pauses {
            self.spinner.note(self.ctl.now - began, awaits_workers);
        }
        stats::add(&self.ctl.stats.of_loop(self.ctl.index).wakes, 1);
        Ok(())
    }

    /// Looks for something to do for so long without sleeping; whether there is. Posts do not ring
    /// meanwhile.
    fn look_again(
        &mut self,
        events: &mut Events,
        began: Instant,
        time: Duration,
    ) -> io::Result<bool> {
        if time.is_zero() || self.conns.turns() > 0 {
            return Ok(false);
        }
        loop {
            self.poll(events, Some(Duration::ZERO))?;
            if !events.is_empty() || self.has_post() {
                return Ok(true);
            }
            if began.elapsed() >= time {
                return Ok(false);
            }
            // Whoever makes what is waited for may need this processor.
            std::thread::yield_now();
        }
    }

    fn poll(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn has_post(&self) -> bool {
        !self.orders.is_empty() || !self.mails.is_empty()
    }

    fn timeout(&self) -> Option<Duration> {
        if self.conns.turns() > 0 {
            return Some(Duration::ZERO);
        }
        self.bell.fall_asleep();
        if self.has_post() {
            return Some(Duration::ZERO);
        }
        if self.ctl.timers.is_empty() { None } else { self.ctl.timers.timeout(Instant::now()) }
    }

    fn handle_events(&mut self, events: &Events) {
        for event in events {
            if event.token() == BELL {
                continue;
            }
            match self.lingering.slot_of(event.token()) {
                Some(slot) => self.lingering.readable(slot, &mut self.ctl),
                None => self.handle_event(event.token().0 as u32, event),
            }
        }
    }

    fn handle_event(&mut self, slot: u32, event: &Event) {
        let Some((conn, _)) = self.conns.touch(slot) else { return };
        if event.is_writable() {
            conn.blocked = false;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            conn.readable = true;
            conn.ends |= event.is_read_closed();
            if event.is_error() && !conn.reads_now() {
                conn.close_now();
            }
            if self.made > WAKE_OUTPUT {
                self.conns.queue_turn(slot);
            } else {
                self.take_turn(slot);
            }
        }
    }

    fn handle_orders(&mut self) {
        for _ in 0..self.orders.len() {
            match self.orders.take() {
                Some(Order::Adopt(socket, peer)) => self.adopt(socket, peer),
                Some(Order::Stop(patience)) => self.begin_stop(patience),
                None => break,
            }
        }
    }

    fn handle_mails(&mut self) {
        for _ in 0..self.mails.len() {
            let Some(mail) = self.mails.take() else { break };
            self.service.mail(&mut self.ctl, &mut self.conns, mail);
        }
    }

    fn handle_timers(&mut self) {
        while let Some(due) = self.ctl.timers.pop_due(self.ctl.now) {
            match due {
                Due::Service(token) => {
                    self.service.timer(&mut self.ctl, &mut self.conns, token);
                }
                Due::Linger(slot) => self.lingering.expire(slot),
                Due::Stall(id) => {
                    if self.conns.get(id).is_some() {
                        self.check_stall(id.slot);
                    }
                }
                Due::Stop => self.end_stop(),
            }
        }
    }

    /// Gives a turn to those that asked before this wake; who asks now waits for the next.
    fn handle_turns(&mut self) {
        for _ in 0..self.conns.turns() {
            if self.made > WAKE_OUTPUT {
                break;
            }
            let Some(slot) = self.conns.pop_turn() else { break };
            self.take_turn(slot);
        }
    }

    /// Lets the service work on what one connection sent, up to the read budget.
    fn take_turn(&mut self, slot: u32) {
        let Some((conn, spares)) = self.conns.touch(slot) else { return };
        let before = conn.pending_output();
        if conn.take_again() {
            self.service.data(&mut self.ctl, conn);
            conn.note_congestion();
        }
        let mut budget = self.read_budget;
        while budget > 0 && conn.reads_now() {
            match conn.receive(budget, spares) {
                Ok(Received::Nothing) => break,
                Ok(Received::Bytes(came)) => budget -= came,
                Ok(Received::Eof) => {}
                Err(error) => {
                    log::debug!("reading from {}: {error}", conn.peer());
                    conn.close_now();
                    break;
                }
            }
            self.service.data(&mut self.ctl, conn);
            conn.note_congestion();
        }
        // Not only at the end of the wake: the next connection reads into the same, cached, storage.
        conn.tidy_input(spares);
        if self.ctl.stopping && conn.had_its_turn() {
            conn.read_out = true;
        }
        self.made += conn.pending_output().saturating_sub(before);
        let came = self.read_budget - budget;
        stats::add(&self.ctl.stats.of_loop(self.ctl.index).bytes_in, came as u64);
    }

    /// Starts the life of a connection.
    fn adopt(&mut self, mut socket: TcpStream, peer: SocketAddr) {
        let id = self.conns.next_id();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered =
            self.poll.registry().register(&mut socket, Token(id.slot as usize), interest);
        if let Err(error) = &registered {
            log::warn!("polling the connection from {peer}: {error}");
        }
        if registered.is_err() || self.ctl.stopping {
            self.ctl.stats.note_closed();
            return;
        }
        let ends = Peer {
            addr: peer,
            local: socket.local_addr().unwrap_or(peer),
            descriptor: socket.as_raw_fd(),
        };
        let session = self.service.open(&mut self.ctl, id, ends);
        self.conns.insert(Connection::new(id, peer, socket, session, self.ctl.limits.soft));
        stats::add(&self.ctl.stats.of_loop(self.ctl.index).open, 1);
    }

    /// Ends the wake for every connection that had a part in it.
    fn settle(&mut self) {
        if self.ctl.stopping {
            self.conns.touch_all();
        }
        let touched = self.conns.take_touched();
        for &slot in &touched {
            self.write(slot);
            if self.is_over(slot) {
                self.close(slot);
            } else if let Some(conn) = self.conns.slot(slot) {
                let wants_turn = conn.wants_turn();
                self.conns.rest(slot);
                if wants_turn {
                    self.conns.queue_turn(slot);
                }
            }
        }
        self.conns.put_touched(touched);
        self.made = 0;
    }

    /// Sends what waits, and holds the connection to its limits.
    fn write(&mut self, slot: u32) {
        let Some(conn) = self.conns.slot(slot) else { return };
        if conn.closing == Closing::Now {
            return;
        }
        // Before the write too: what the service left because of it must be asked for again.
        conn.note_congestion();
        match conn.send() {
            Ok(taken) => {
                stats::add(&self.ctl.stats.of_loop(self.ctl.index).bytes_out, taken as u64);
            }
            Err(error) => {
                log::debug!("writing to {}: {error}", conn.peer());
                conn.close_now();
                return;
            }
        }
        let pending = conn.pending_output();
        if pending == 0 {
            conn.narrow(self.ctl.limits.soft);
        }
        conn.note_congestion();
        if pending > self.ctl.limits.hard {
            self.cut_off(slot, "too many bytes of replies wait for it");
        } else if conn.congested && conn.stall.is_none() {
            conn.sent_at_stall = conn.sent();
            let patience = self.ctl.limits.stall.min(DEADLOCK);
            conn.stall = Some(self.ctl.add_timer(patience, Due::Stall(conn.id())));
        } else if !conn.congested
            && let Some(timer) = conn.stall.take()
        {
            self.ctl.timers.cancel(timer);
        }
    }

    /// A client that takes nothing and still sends may be one that writes a whole pipeline before it
    /// reads: more and more is taken from it, or both would wait for each other.
    fn check_stall(&mut self, slot: u32) {
        let limits = self.ctl.limits;
        let Some((conn, _)) = self.conns.touch(slot) else { return };
        conn.stall = None;
        if !conn.congested || conn.sent() != conn.sent_at_stall {
            conn.stalls = 0;
            return;
        }
        conn.stalls += 1;
        let widened = conn.readable && conn.widen(limits.hard / 2);
        if !widened && limits.stall.min(DEADLOCK) * conn.stalls >= limits.stall {
            self.cut_off(slot, "it does not read its replies");
        }
    }

    fn cut_off(&mut self, slot: u32, why: &str) {
        let Some(conn) = self.conns.slot(slot) else { return };
        log::warn!("cutting off {}: {why} ({} bytes)", conn.peer(), conn.pending_output());
        conn.close_now();
        stats::add(&self.ctl.stats.of_loop(self.ctl.index).cut_off, 1);
    }

    /// Whether nothing is left to do for this connection.
    fn is_over(&mut self, slot: u32) -> bool {
        let stopping = self.ctl.stopping;
        let Some(conn) = self.conns.slot(slot) else { return false };
        match conn.closing {
            Closing::Now => true,
            Closing::AfterFlush => conn.pending_output() == 0,
            Closing::No => {
                (conn.eof() || (stopping && conn.read_out))
                    && conn.pending_output() == 0
                    && !conn.wants_turn()
                    && self.service.idle(conn)
            }
        }
    }

    fn close(&mut self, slot: u32) {
        let Some(conn) = self.conns.remove(slot) else { return };
        if let Some(timer) = conn.stall {
            self.ctl.timers.cancel(timer);
        }
        self.ctl.stats.note_closed();
        let loop_stats = self.ctl.stats.of_loop(self.ctl.index);
        stats::add(&loop_stats.open, 1u64.wrapping_neg());
        let (id, lingers) = (conn.id(), conn.closing == Closing::AfterFlush && !conn.eof());
        let (socket, session) = conn.into_socket_and_session();
        if lingers {
            self.lingering.add(socket, self.poll.registry(), &mut self.ctl);
        }
        self.service.close(&mut self.ctl, id, session);
    }

    /// Reads once more from everyone; from then on connections close as they become idle.
    fn begin_stop(&mut self, patience: Duration) {
        if self.ctl.stopping {
            return;
        }
        self.ctl.stopping = true;
        self.ctl.add_timer(patience, Due::Stop);
        self.service.stopping(&mut self.ctl, &mut self.conns);
        self.conns.queue_last_turns();
    }

    fn end_stop(&mut self) {
        let waiting = self
            .conns
            .iter()
            .filter(|conn| conn.pending_output() > 0 || !self.service.idle(conn))
            .count();
        if waiting > 0 {
            log::warn!("stopping: closed {waiting} connections that still waited for replies");
        }
        self.conns.close_all();
    }
}
