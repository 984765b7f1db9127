//! One connection: its socket, what came in, what waits to go out. Owned by one loop.
//!
//! Always true:
//! - `output[..written]` has been sent, `output[written..]` has not; both are empty when all was.
//! - Polling is edge-triggered, so `readable` stays set until a read says that the socket is
//!   drained; nothing else may clear it.
//! - A socket is read only while its service keeps up: not while it is paused, congested, closing,
//!   or has asked for another turn with the bytes it has.
//!
//! A peer may send its last request and close its writing half. `eof` then ends the reading only:
//! the connection stays until the service is idle and the output is sent.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;

use super::buffer::Buffer;
use super::spares::Spares;
use super::timer_queue::TimerId;

/// Names a connection of one loop. Slots are reused, generations are not (for 2^32 connections),
/// so an answer to a connection that is gone finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) enum Closing {
    No,
    AfterFlush,
    Now,
}

/// The other end of a connection, and this one.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub addr: SocketAddr,
    /// The address of this machine that it came to.
    pub local: SocketAddr,
    /// The socket's descriptor, to show.
    pub descriptor: i32,
}

/// One connection of a loop, with the service's session.
#[derive(Debug)]
pub struct Connection<S> {
    id: ConnId,
    peer: SocketAddr,
    socket: TcpStream,
    /// What the service keeps for this connection.
    pub session: S,
    input: Buffer,
    output: Vec<u8>,
    written: usize,
    soft_limit: usize,

    eof: bool,
    paused: bool,
    again: bool,
    pub(super) closing: Closing,

    /// The socket may hold bytes that were not read.
    pub(super) readable: bool,
    /// The poll announced the peer's end, which a read of nothing has yet to confirm.
    pub(super) ends: bool,
    /// The socket took less than was offered; a writable event will come.
    pub(super) blocked: bool,
    /// Over the soft limit and not yet below half of it.
    pub(super) congested: bool,
    /// A graceful stop has read the last of it.
    pub(super) read_out: bool,
    /// In the list of those to be settled at the end of this wake.
    pub(super) touched: bool,
    /// In the list of those that get a turn in the next wake.
    pub(super) queued: bool,
    pub(super) stall: Option<TimerId>,
    /// Bytes sent so far.
    sent: u64,
    /// When the stall timer was set.
    pub(super) sent_at_stall: u64,
    /// How often in a row it ran out without a byte being taken.
    pub(super) stalls: u32,
}

/// The three things that handling a request needs at once.
#[derive(Debug)]
pub struct Parts<'a, S> {
    /// The service's session.
    pub session: &'a mut S,
    /// What was received.
    pub input: &'a mut Buffer,
    /// Where replies are appended, and only appended: a front part may be sent already.
    pub output: &'a mut Vec<u8>,
    /// In bytes: while `output` is longer than this, the connection is congested.
    pub high_water: usize,
}

/// What one read brought.
#[derive(Debug)]
pub(super) enum Received {
    Bytes(usize),
    Nothing,
    Eof,
}

impl<S> Connection<S> {
    pub(super) fn new(
        id: ConnId,
        peer: SocketAddr,
        socket: TcpStream,
        session: S,
        soft_limit: usize,
    ) -> Connection<S> {
        Connection {
            id,
            peer,
            socket,
            session,
            input: Buffer::new(),
            output: Vec::new(),
            written: 0,
            soft_limit,
            eof: false,
            paused: false,
            again: false,
            closing: Closing::No,
            readable: false,
            ends: false,
            blocked: false,
            congested: false,
            read_out: false,
            touched: false,
            queued: false,
            stall: None,
            sent: 0,
            sent_at_stall: 0,
            stalls: 0,
        }
    }

    /// The name under which its loop knows this connection.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Where the connection comes from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What was received and not consumed.
    pub fn input(&mut self) -> &mut Buffer {
        &mut self.input
    }

    /// Where replies are appended, and only appended: a front part may be sent already.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Session, input and output, to be used side by side.
    pub fn parts(&mut self) -> Parts<'_, S> {
        Parts {
            session: &mut self.session,
            input: &mut self.input,
            output: &mut self.output,
            high_water: self.written.saturating_add(self.soft_limit),
        }
    }

    /// Bytes of replies that wait to be sent.
    pub fn pending_output(&self) -> usize {
        self.output.len().saturating_sub(self.written)
    }

    /// Bytes of replies that were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether so much waits to be sent that a service should produce no more. It returns from
    /// [`data`](super::Service::data) and is called again when less than half the limit waits.
    pub fn is_congested(&self) -> bool {
        self.congested || self.pending_output() > self.soft_limit
    }

    /// Whether the peer has sent its last byte.
    pub fn eof(&self) -> bool {
        self.eof
    }

    /// Whether the connection is about to be closed from here.
    pub fn is_closing(&self) -> bool {
        self.closing > Closing::No
    }

    /// Reads no more, and closes when the output as it is at the end of this wake is sent.
    pub fn close_after_flush(&mut self) {
        self.closing =
            if self.closing == Closing::Now { Closing::Now } else { Closing::AfterFlush };
    }

    /// Closes at the end of this wake, whatever waits to be sent.
    pub fn close_now(&mut self) {
        self.closing = Closing::Now;
    }

    /// Neither reads the socket nor calls [`data`](super::Service::data) until it is resumed.
    pub fn pause_reading(&mut self) {
        self.paused = true;
    }

    /// Ends a pause: `data` is called in the next wake for what the input holds, then the socket is
    /// read. Nothing happens if there is no pause.
    pub fn resume_reading(&mut self) {
        if self.paused {
            self.paused = false;
            self.again = true;
        }
    }

    /// Whether the service paused the reading.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Has [`data`](super::Service::data) called once more after the other connections had their
    /// turn. Until then the socket is not read.
    pub fn call_again(&mut self) {
        self.again = true;
    }

    pub(super) fn into_socket_and_session(self) -> (TcpStream, S) {
        (self.socket, self.session)
    }

    /// Whether `data` may be called.
    pub(super) fn may_be_called(&self) -> bool {
        !self.paused && !self.congested && self.closing == Closing::No
    }

    /// Takes the request for another turn.
    pub(super) fn take_again(&mut self) -> bool {
        self.may_be_called() && std::mem::take(&mut self.again)
    }

    /// Whether the socket is to be read now.
    pub(super) fn reads_now(&self) -> bool {
        self.readable && self.may_be_called() && !self.again && !self.eof && !self.read_out
    }

    /// Whether a turn that just ended has read all it was allowed to.
    pub(super) fn had_its_turn(&self) -> bool {
        self.may_be_called() && !self.again
    }

    pub(super) fn wants_turn(&self) -> bool {
        self.reads_now() || (self.again && self.may_be_called())
    }

    /// One read of at most `limit` bytes, which finds out whether the socket is drained. A read
    /// that brings less than it asked for has drained it, except of an announced end.
    pub(super) fn receive(&mut self, limit: usize, spares: &mut Spares) -> io::Result<Received> {
        loop {
            return match self.input.fill(&mut Reader(&self.socket), limit, spares) {
                Ok((0, _)) => {
                    self.readable = false;
                    self.eof = true;
                    Ok(Received::Eof)
                }
                Ok((came, asked)) => {
                    self.readable = came == asked || self.ends;
                    Ok(Received::Bytes(came))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    Ok(Received::Nothing)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// One write of what waits, unless the socket is known to be full. Returns the bytes it took.
    pub(super) fn send(&mut self) -> io::Result<usize> {
        if self.blocked || self.pending_output() == 0 {
            return Ok(0);
        }
        let taken = loop {
            match (&self.socket).write(&self.output[self.written..]) {
                Ok(taken) => break taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        self.written += taken;
        self.sent += taken as u64;
        self.blocked = self.written < self.output.len();
        self.drop_written();
        Ok(taken)
    }

    /// Sets `congested` when over the limit, clears it when below half; true if that changed it.
    pub(super) fn note_congestion(&mut self) -> bool {
        let before = self.congested;
        let pending = self.pending_output();
        if pending > self.soft_limit {
            self.congested = true;
        } else if before && pending <= self.soft_limit / 2 {
            self.congested = false;
            self.again |= !self.input.is_empty();
        }
        before != self.congested
    }

    /// Lets more wait to be sent, up to `most` bytes; false if that is no more.
    pub(super) fn widen(&mut self, most: usize) -> bool {
        let before = self.soft_limit;
        self.soft_limit = before.saturating_mul(4).min(most).max(before);
        self.note_congestion();
        self.soft_limit > before
    }

    /// After all was sent: no more than `soft_limit` bytes are to wait.
    pub(super) fn narrow(&mut self, soft_limit: usize) {
        self.soft_limit = soft_limit;
    }

    /// Borrows an output if there is none.
    pub(super) fn lend(&mut self, spares: &mut Spares) {
        if self.output.capacity() == 0 {
            self.output = spares.take_output();
        }
    }

    /// Gives back what memory the input does not need.
    pub(super) fn tidy_input(&mut self, spares: &mut Spares) {
        self.input.tidy(spares);
    }

    /// Gives back what memory is not needed.
    pub(super) fn tidy(&mut self, spares: &mut Spares) {
        self.tidy_input(spares);
        if self.output.is_empty() && self.output.capacity() > 0 {
            spares.put_output(std::mem::take(&mut self.output));
        }
    }

    /// Forgets sent bytes when there are at least as many as the rest that has to be moved.
    fn drop_written(&mut self) {
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        } else if self.written >= self.output.len() - self.written {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }
}

/// Reads through a shared reference, so that the buffer beside the socket can be filled.
struct Reader<'a>(&'a TcpStream);

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.0;
        socket.read(buf)
    }
}
