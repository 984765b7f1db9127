//! Accepts connections and hands them to the loops in turn. Runs on a thread of its own.
//!
//! Always true:
//! - A listener is accepted from until it has nothing more; polling is edge-triggered, so one that
//!   could not be emptied is remembered and tried again after a pause.
//! - Running out of descriptors or memory costs no listener and no spinning: the connections wait
//!   in the kernel's backlog.
//! - The last descriptors are not for connections: whoever is accepted on one is turned away.
//! - A socket handed over counts as open until its loop closes it.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use super::admission::Admission;
use super::event_loop::{BELL, Order};
use super::mailbox::{Bell, Mailbox, Post};
use super::stats::Stats;
use crate::error::{KvsError, Result};

/// The pause after accepting failed, before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections may wait to be accepted, if the system allows it. Of more that come at once, each
/// has to try again after a second.
const BACKLOG: i32 = 1024;

/// A bound address on which nobody is accepted yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    /// Binds an address; port 0 lets the system choose one.
    ///
    /// # Errors
    /// When the address is in use, is none of this machine's, or may not be bound.
    pub fn bind(addr: SocketAddr) -> Result<Listener> {
        let socket = listen(addr).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => KvsError::Invalid(format!(
                "cannot listen on {addr}: the address is in use; stop the process that has it or \
                 choose another address"
            )),
            ErrorKind::AddrNotAvailable => KvsError::Invalid(format!(
                "cannot listen on {addr}: no interface of this machine has that address"
            )),
            ErrorKind::PermissionDenied => KvsError::Invalid(format!(
                "cannot listen on {addr}: not permitted; choose a port from 1024 on"
            )),
            _ => KvsError::io(format!("listening on {addr}"))(error),
        })?;
        let doing = || KvsError::io(format!("preparing to listen on {addr}"));
        socket.set_nonblocking(true).map_err(doing())?;
        let bound = socket.local_addr().map_err(doing())?;
        Ok(Listener { socket: TcpListener::from_std(socket), addr: bound })
    }

    /// The address that was bound, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

fn listen(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // Connections of a server that was here before do not count.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Who is let in, and what the others are told.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) admission: Admission,
    /// See [`Options::descriptors`](super::Options::descriptors).
    pub(super) descriptors: usize,
    pub(super) rejection: Vec<u8>,
}

#[derive(Debug)]
struct Door {
    listener: Listener,
    /// Somebody may be waiting.
    ready: bool,
}

/// The acceptor on its thread.
#[derive(Debug)]
pub(super) struct Acceptor {
    doors: Vec<Door>,
    poll: Poll,
    bell: Arc<Bell>,
    stop: Mailbox<()>,
    loops: Vec<Post<Order>>,
    next_loop: usize,
    limits: Limits,
    stats: Stats,
    /// Accepting failed and is tried again then.
    retry_at: Option<Instant>,
    /// Accepting failed and has not succeeded since.
    failing: bool,
}

impl Acceptor {
    /// Registers the listeners.
    pub(super) fn new(
        mut listeners: Vec<Listener>,
        (poll, bell, stop): (Poll, Arc<Bell>, Mailbox<()>),
        loops: Vec<Post<Order>>,
        limits: Limits,
        stats: Stats,
    ) -> Result<Acceptor> {
        for (index, listener) in listeners.iter_mut().enumerate() {
            poll.registry()
                .register(&mut listener.socket, Token(index), Interest::READABLE)
                .map_err(KvsError::io(format!("polling the listener on {}", listener.addr)))?;
        }
        let doors = listeners.into_iter().map(|listener| Door { listener, ready: false }).collect();
        Ok(Acceptor {
            doors,
            poll,
            bell,
            stop,
            loops,
            next_loop: 0,
            limits,
            stats,
            retry_at: None,
            failing: false,
        })
    }

    /// Accepts until it is told to stop; the listeners are closed then.
    ///
    /// # Errors
    /// When the poll itself fails.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(16);
        loop {
            self.wait(&mut events)?;
            if self.stop.take().is_some() {
                return Ok(());
            }
            for event in &events {
                if event.token() != BELL
                    && let Some(door) = self.doors.get_mut(event.token().0)
                {
                    door.ready = true;
                }
            }
            self.accept_all();
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        self.bell.fall_asleep();
        let timeout = match self.retry_at {
            _ if !self.stop.is_empty() => Some(Duration::ZERO),
            Some(at) => Some(at.saturating_duration_since(Instant::now())),
            None => None,
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        self.bell.wake_up();
        Ok(())
    }

    fn accept_all(&mut self) {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.retry_at = None;
        for door in 0..self.doors.len() {
            while self.doors[door].ready && self.retry_at.is_none() && self.stop.is_empty() {
                self.accept_one(door);
            }
        }
    }

    fn accept_one(&mut self, door: usize) {
        match self.doors[door].listener.socket.accept() {
            Ok((socket, peer)) => {
                self.note_success();
                self.admit(socket, peer);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => self.doors[door].ready = false,
                ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                _ => self.note_failure(&error),
            },
        }
    }

    /// Says so once, and lets some time pass for descriptors to become free.
    fn note_failure(&mut self, error: &io::Error) {
        if !self.failing {
            log::warn!("cannot accept connections: {error}; they wait until it works again");
        }
        self.failing = true;
        self.retry_at = Some(Instant::now() + PAUSE);
    }

    fn note_success(&mut self) {
        if self.failing {
            log::info!("accepting connections again");
            self.failing = false;
        }
    }

    /// Hands the connection to the next loop, or turns it away at the limit.
    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) {
        let open = self.stats.open();
        let number = usize::try_from(socket.as_raw_fd()).unwrap_or(usize::MAX);
        if open >= self.limits.admission.connections() || number >= self.limits.descriptors {
            self.stats.note_rejected();
            log::debug!("turning away {peer}: {open} connections are open");
            turn_away(socket, &self.limits.rejection);
            return;
        }
        if let Err(error) = socket.set_nodelay(true) {
            log::debug!("setting TCP_NODELAY for {peer}: {error}");
        }
        if let Some(after) = self.limits.admission.keepalive() {
            keep_alive(&socket, after).unwrap_or_else(|error| {
                log::debug!("setting SO_KEEPALIVE for {peer}: {error}");
            });
        }
        self.stats.note_accepted();
        let mut order = Order::Adopt(socket, peer);
        for _ in 0..self.loops.len() {
            self.next_loop = (self.next_loop + 1) % self.loops.len();
            match self.loops[self.next_loop].post(order) {
                Ok(()) => return,
                Err(unsent) => order = unsent,
            }
        }
        self.stats.note_closed();
    }
}

/// Has the system ask a peer that was silent for `after`, three times, before it gives it up.
fn keep_alive(socket: &TcpStream, after: Duration) -> io::Result<()> {
    let between = (after / 3).max(Duration::from_secs(1));
    let probes = TcpKeepalive::new().with_time(after).with_interval(between).with_retries(3);
    SockRef::from(socket).set_tcp_keepalive(&probes)
}

/// Sends a last word as far as it goes without waiting.
fn turn_away(mut socket: TcpStream, rejection: &[u8]) {
    let sent = socket.write(rejection).and_then(|_| socket.shutdown(Shutdown::Write));
    if let Err(error) = sent {
        log::debug!("turning a connection away: {error}");
    }
}
