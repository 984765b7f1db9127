//! The load generator: one thread, one epoll, any number of connections.
//!
//! Closed loop: each connection sends a batch of `pipeline` requests, waits for all the replies and
//! sends the next, as redis-benchmark does; a request's latency runs from the sending of its batch.
//!
//! Open loop (`rate`): requests fall due at fixed times, whatever the server does, and go out on the
//! connections in turn. A request's latency runs from the moment it was due, so what a stall holds
//! up counts for every request that it delayed (no coordinated omission).
//!
//! Always holds: a connection's replies come in the order of its requests, so `sent_at` is a queue.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::error::{Error, Result};
use crate::resp::{self, Reply, Requests};

/// Bytes read from a socket at once.
const READ: usize = 64 * 1024;
/// The timer's token; connections have theirs below.
const TIMER: Token = Token(usize::MAX);
/// The shortest time between two wakes of the open loop, in nanoseconds. What falls due between
/// them is due at the earlier one: at high rates requests come in small bursts.
const TICK: u64 = 100_000;
/// How long replies may take to come in after the last request.
const DRAIN: Duration = Duration::from_secs(10);

/// Which keys are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// Uniformly random ones of so many.
    Random(u64),
    /// Number 0, 1, 2 and so on.
    InOrder,
}

/// What to do to a server.
#[derive(Debug, Clone)]
pub struct Load {
    pub addr: SocketAddr,
    pub clients: usize,
    pub pipeline: usize,
    pub value_bytes: usize,
    pub keys: Keys,
    /// Of a hundred requests.
    pub gets: u32,
    /// It ends after so many requests ...
    pub requests: u64,
    /// ... or after this time.
    pub duration: Duration,
    /// Requests per second in all; `None` for a closed loop.
    pub rate: Option<u64>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub requests: u64,
    pub seconds: f64,
    pub missing: u64,
    /// In nanoseconds.
    pub latency: Histogram<u64>,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// A latency in milliseconds.
    pub fn quantile(&self, q: f64) -> f64 {
        self.latency.value_at_quantile(q) as f64 / 1e6
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} requests/s, latency ms:", self.per_second())?;
        for (name, q) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            write!(f, " {name} {:.3}", self.quantile(q))?;
        }
        write!(f, " ({} requests, {} keys missing)", self.requests, self.missing)
    }
}

struct Conn {
    stream: TcpStream,
    /// Requests not yet written: those from `written` on.
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    /// When each request without a reply was sent, or was due.
    sent_at: VecDeque<u64>,
    writable: bool,
}

struct Run<'a> {
    load: &'a Load,
    conns: Vec<Conn>,
    requests: Requests,
    scratch: Vec<u8>,
    began: Instant,
    random: u64,
    issued: u64,
    answered: u64,
    missing: u64,
    latency: Histogram<u64>,
}

impl Load {
    pub fn run(&self) -> Result<Outcome> {
        let doing = || Error::doing(format!("load on {}", self.addr));
        let mut poll = Poll::new().map_err(doing())?;
        let mut conns = Vec::with_capacity(self.clients);
        for token in 0..self.clients {
            conns.push(connect(self.addr, &poll, token).map_err(doing())?);
        }
        let timer = self.rate.map(|rate| timer(&poll, tick(rate))).transpose().map_err(doing())?;
        let mut run = Run {
            load: self,
            conns,
            requests: Requests::new(self.value_bytes),
            scratch: vec![0; READ],
            began: Instant::now(),
            random: 0x9E37_79B9_7F4A_7C15,
            issued: 0,
            answered: 0,
            missing: 0,
            latency: Histogram::new_with_bounds(1_000, 100_000_000_000, 3)
                .map_err(|error| Error::new(error.to_string()))?,
        };
        run.drive(&mut poll, timer.as_ref()).map_err(doing())?;
        Ok(Outcome {
            requests: run.answered,
            seconds: run.began.elapsed().as_secs_f64(),
            missing: run.missing,
            latency: run.latency,
        })
    }
}

/// Nanoseconds between the wakes of an open loop.
fn tick(rate: u64) -> u64 {
    (1_000_000_000 / rate.max(1)).max(TICK)
}

fn connect(addr: SocketAddr, poll: &Poll, token: usize) -> io::Result<Conn> {
    let stream = std::net::TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream);
    poll.registry().register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
    Ok(Conn {
        stream,
        out: Vec::new(),
        written: 0,
        input: Vec::new(),
        sent_at: VecDeque::new(),
        writable: true,
    })
}

/// A timer that fires every `tick` nanoseconds: epoll's own timeout knows milliseconds only.
fn timer(poll: &Poll, tick: u64) -> io::Result<OwnedFd> {
    let interval = libc::timespec {
        tv_sec: (tick / 1_000_000_000) as libc::time_t,
        tv_nsec: (tick % 1_000_000_000) as libc::c_long,
    };
    let spec = libc::itimerspec { it_interval: interval, it_value: interval };
    // SAFETY: the descriptor is checked and owned at once; `spec` outlives the call.
    let timer = unsafe {
        let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let timer = OwnedFd::from_raw_fd(fd);
        if libc::timerfd_settime(fd, 0, &spec, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        timer
    };
    poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
    Ok(timer)
}

impl Run<'_> {
    fn drive(&mut self, poll: &mut Poll, timer: Option<&OwnedFd>) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut drain_until = None;
        if timer.is_none() {
            for i in 0..self.conns.len() {
                self.batch(i)?;
            }
        }
        loop {
            if self.over() {
                if self.answered == self.issued {
                    return Ok(());
                }
                let until = *drain_until.get_or_insert_with(|| Instant::now() + DRAIN);
                if Instant::now() > until {
                    return Err(io::Error::new(ErrorKind::TimedOut, "replies are missing"));
                }
            }
            poll.poll(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                if event.token() == TIMER {
                    self.fire(timer)?;
                    continue;
                }
                let i = event.token().0;
                if event.is_writable() {
                    self.conns[i].writable = true;
                    self.conns[i].flush()?;
                }
                if event.is_readable() {
                    self.receive(i)?;
                }
            }
        }
    }

    fn over(&self) -> bool {
        self.issued >= self.load.requests || self.began.elapsed() >= self.load.duration
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Closed loop: the next batch of a connection that has all its replies.
    fn batch(&mut self, i: usize) -> io::Result<()> {
        if self.over() {
            return Ok(());
        }
        let now = self.now();
        let left = self.load.requests - self.issued;
        for _ in 0..left.min(self.load.pipeline as u64) {
            self.issue(i, now);
        }
        self.conns[i].flush()
    }

    /// Open loop: sends what has fallen due.
    fn fire(&mut self, timer: Option<&OwnedFd>) -> io::Result<()> {
        let (Some(timer), Some(rate)) = (timer, self.load.rate) else { return Ok(()) };
        let mut fired = 0u64;
        // SAFETY: a timerfd hands out eight bytes, and `fired` has eight.
        unsafe { libc::read(timer.as_raw_fd(), (&raw mut fired).cast(), 8) };
        if self.over() {
            return Ok(());
        }
        let tick = tick(rate);
        let now = self.now();
        let mut touched = 0;
        loop {
            let due = (self.issued as u128 * 1_000_000_000 / u128::from(rate)) as u64 / tick * tick;
            if due > now || self.issued >= self.load.requests {
                break;
            }
            self.issue((self.issued % self.conns.len() as u64) as usize, due);
            touched += 1;
        }
        let conns = self.conns.len();
        let first = (self.issued - touched) as usize;
        for i in (0..conns.min(touched as usize)).map(|i| (first + i) % conns) {
            self.conns[i].flush()?;
        }
        Ok(())
    }

    fn issue(&mut self, i: usize, at: u64) {
        let key = match self.load.keys {
            Keys::InOrder => self.issued,
            Keys::Random(keys) => self.random() % keys,
        };
        let get = (self.random() >> 32) % 100 < u64::from(self.load.gets);
        let conn = &mut self.conns[i];
        if get {
            self.requests.get(key, &mut conn.out);
        } else {
            self.requests.set(key, &mut conn.out);
        }
        conn.sent_at.push_back(at);
        self.issued += 1;
    }

    fn random(&mut self) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn receive(&mut self, i: usize) -> io::Result<()> {
        while self.conns[i].fill(&mut self.scratch)? {}
        let now = self.now();
        let conn = &mut self.conns[i];
        let mut used = 0;
        while let Some((reply, len)) = resp::reply(&conn.input[used..]) {
            if reply == Reply::Error {
                let line = String::from_utf8_lossy(&conn.input[used..used + len - 2]);
                return Err(io::Error::other(format!("the server answered {line}")));
            }
            used += len;
            self.missing += u64::from(reply == Reply::Missing);
            self.answered += 1;
            let sent_at = conn.sent_at.pop_front();
            let sent_at = sent_at.ok_or_else(|| io::Error::other("a reply without a request"))?;
            self.latency.saturating_record(now.saturating_sub(sent_at));
        }
        conn.input.drain(..used);
        if conn.sent_at.is_empty() && self.load.rate.is_none() {
            self.batch(i)?;
        }
        Ok(())
    }
}

impl Conn {
    /// Writes what the socket takes.
    fn flush(&mut self) -> io::Result<()> {
        while self.writable && self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Reads once; whether there may be more.
    fn fill(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(scratch) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server hung up")),
            Ok(n) => {
                self.input.extend_from_slice(&scratch[..n]);
                // A short read emptied the socket; what comes later is a new event.
                Ok(n == scratch.len())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
