//! The blocking client that kvs-client, the tests and the benchmarks share.
//!
//! Threads: a [`Client`] is one connection and belongs to one thread at a time.
//!
//! Always holds: replies come in the order of the requests. After an error of the connection
//! (anything but [`KvsError::Server`]) a reply could be taken for that of another request, so from
//! then on every call fails.

mod input;
mod pipeline;
mod walk;

use std::fmt::Debug;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::error::{KvsError, Result};
use crate::protocol::{ReplyDecoder, Value, encode_command};

use input::Input;
pub use pipeline::Pipeline;
pub use walk::Walk;

/// An output buffer larger than this is given back once it is sent, in bytes.
const KEEP_OUTPUT: usize = 1 << 20;

/// How long a client waits; None: as long as the system does, for replies forever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, per address that a name stands for.
    pub connect: Option<Duration>,
    /// For the next bytes of a reply, and for the server to take the next bytes of a request.
    pub io: Option<Duration>,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    output: Vec<u8>,
    input: Input,
    replies: ReplyDecoder,
    failed: bool,
}

impl Client {
    /// Connects without timeouts.
    pub fn connect(addr: impl ToSocketAddrs) -> Result<Client> {
        Client::connect_with(addr, Timeouts::default())
    }

    /// Connects to the first address of `addr` that answers.
    pub fn connect_with(addr: impl ToSocketAddrs, timeouts: Timeouts) -> Result<Client> {
        let addrs = addr.to_socket_addrs().map_err(KvsError::io("cannot resolve the address"))?;
        let mut failure = KvsError::Invalid("the address stands for no host".into());
        for peer in addrs {
            match open(peer, timeouts) {
                Ok(stream) => {
                    return Ok(Client {
                        stream,
                        peer,
                        output: Vec::new(),
                        input: Input::new(),
                        replies: ReplyDecoder::new(),
                        failed: false,
                    });
                }
                Err(error) => failure = cannot_connect(peer, &error),
            }
        }
        Err(failure)
    }

    /// The server's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sends a command and waits for its reply. An error of the server is [`Value::Error`].
    pub fn call(&mut self, args: &[impl AsRef<[u8]>]) -> Result<Value> {
        self.send(args);
        self.flush()?;
        self.receive()
    }

    /// The same, but an error of the server is [`KvsError::Server`].
    pub fn command(&mut self, args: &[impl AsRef<[u8]>]) -> Result<Value> {
        match self.call(args)? {
            Value::Error(message) => Err(KvsError::Server(message)),
            value => Ok(value),
        }
    }

    /// Buffers a command; [`flush`](Self::flush) sends it. Whoever sends many before the first
    /// [`receive`](Self::receive) may block forever, as a server stops reading from a client that
    /// does not take its replies: [`pipeline`](Self::pipeline) is made for that.
    pub fn send(&mut self, args: &[impl AsRef<[u8]>]) {
        encode_command(args, &mut self.output);
    }

    /// Sends what is buffered.
    pub fn flush(&mut self) -> Result<()> {
        self.check_usable()?;
        let outcome = self.stream.write_all(&self.output);
        self.output.clear();
        self.output.shrink_to(KEEP_OUTPUT);
        outcome.map_err(|error| self.fail("cannot send to", error))
    }

    /// Waits for the next reply. Does not flush.
    pub fn receive(&mut self) -> Result<Value> {
        self.check_usable()?;
        loop {
            match self.replies.decode(self.input.bytes()) {
                Ok((consumed, reply)) => {
                    self.input.consume(consumed);
                    if let Some(reply) = reply {
                        return Ok(reply);
                    }
                }
                Err(error) => {
                    self.failed = true;
                    return Err(KvsError::Protocol(format!("{}: {error}", self.peer)));
                }
            }
            let needed = self.replies.needed(self.input.bytes());
            if let Err(error) = self.input.fill(&mut self.stream, needed) {
                return Err(self.fail("no reply from", error));
            }
        }
    }

    /// For many commands without waiting for each reply: up to `window` of them are in flight, and
    /// each reply goes to `on_reply`, in order.
    pub fn pipeline<F>(&mut self, window: usize, on_reply: F) -> Pipeline<'_, F>
    where
        F: FnMut(Value) -> Result<()>,
    {
        Pipeline::new(self, window, on_reply)
    }

    /// All keys that start with `prefix` and their values, in key order where the server has one.
    /// Where it has none, a key that is there throughout is seen at least once. They are those of the
    /// connection's database, which the entries do not tell.
    pub fn walk(&mut self, prefix: impl Into<Vec<u8>>) -> Walk<'_> {
        Walk::new(self, prefix.into())
    }

    /// The value of `key`, None if it is not there.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        match self.command(&[b"GET", key.as_ref()])? {
            Value::Bulk(value) => Ok(Some(value)),
            Value::Null => Ok(None),
            other => Err(unexpected("GET", &other)),
        }
    }

    /// Gives `key` a value.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        match self.command(&[b"SET", key.as_ref(), value.as_ref()])? {
            Value::Simple(_) => Ok(()),
            other => Err(unexpected("SET", &other)),
        }
    }

    /// Removes `key`; whether it was there.
    pub fn del(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        match self.command(&[b"DEL", key.as_ref()])? {
            Value::Integer(removed) => Ok(removed > 0),
            other => Err(unexpected("DEL", &other)),
        }
    }

    /// Checks that the server answers.
    pub fn ping(&mut self) -> Result<()> {
        match self.command(&["PING"])? {
            Value::Simple(_) => Ok(()),
            other => Err(unexpected("PING", &other)),
        }
    }

    /// Whether the server has hung up, as far as that is known without asking it.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0];
        let peeked = self.stream.set_nonblocking(true).and_then(|()| self.stream.peek(&mut byte));
        let blocks_again = self.stream.set_nonblocking(false).is_ok();
        let is_open = match peeked {
            Ok(n) => n > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        self.failed || !is_open || !blocks_again
    }

    /// Gives the connection up: its requests and replies can no longer be matched.
    fn abandon(&mut self) {
        self.failed = true;
    }

    fn check_usable(&self) -> Result<()> {
        if self.failed {
            let message = format!("the connection to {} failed before; connect anew", self.peer);
            return Err(KvsError::Invalid(message));
        }
        Ok(())
    }

    fn fail(&mut self, what: &str, error: io::Error) -> KvsError {
        self.failed = true;
        let error = match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "timed out"),
            _ => error,
        };
        KvsError::io(format!("{what} {}", self.peer))(error)
    }
}

fn open(peer: SocketAddr, timeouts: Timeouts) -> io::Result<TcpStream> {
    let stream = match timeouts.connect {
        Some(timeout) => TcpStream::connect_timeout(&peer, timeout)?,
        None => TcpStream::connect(peer)?,
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(timeouts.io)?;
    stream.set_write_timeout(timeouts.io)?;
    Ok(stream)
}

fn cannot_connect(peer: SocketAddr, error: &io::Error) -> KvsError {
    let mut message = error.to_string();
    if let Some(number) = message.find(" (os error") {
        message.truncate(number);
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        message.push_str("; is kvs-server running?");
    }
    KvsError::io(format!("cannot connect to {peer}"))(io::Error::new(error.kind(), message))
}

fn unexpected(command: &str, reply: &impl Debug) -> KvsError {
    let mut shown = format!("{reply:?}");
    if let Some((end, _)) = shown.char_indices().nth(80) {
        shown.truncate(end);
        shown.push_str("...");
    }
    KvsError::Protocol(format!("{command} was answered by {shown}"))
}

#[cfg(test)]
mod tests;
