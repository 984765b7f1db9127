//! Many commands in flight at once, without a deadlock.
//!
//! A server stops reading from a client that does not take its replies. If the client takes none
//! while it is stuck in writing, both wait forever. So the bytes of unanswered requests are kept
//! within what the sockets' buffers hold even if the server reads nothing: then writing does not
//! get stuck. Only a request that is larger than that by itself is sent when nothing else is in
//! flight: then there is no reply that the server could wait to get rid of.

use std::collections::VecDeque;

use super::Client;
use crate::error::Result;
use crate::protocol::Value;

/// The bytes of requests in flight, unless it is a single one: less than any system's default
/// socket buffers.
const MAX_BYTES: usize = 64 << 10;
/// What the framing of a command and of each of its words takes at most, in bytes.
const FRAME: usize = 24;

/// A run of commands on a [`Client`] (see [`Client::pipeline`]). To be ended by
/// [`finish`](Self::finish): if it is dropped while replies are missing, the client is of no use
/// any more.
#[derive(Debug)]
pub struct Pipeline<'c, F: FnMut(Value) -> Result<()>> {
    client: &'c mut Client,
    window: usize,
    on_reply: F,
    /// The sizes of the requests without a reply, oldest first, and their sum.
    sizes: VecDeque<usize>,
    bytes: usize,
}

impl<'c, F: FnMut(Value) -> Result<()>> Pipeline<'c, F> {
    pub(super) fn new(client: &'c mut Client, window: usize, on_reply: F) -> Self {
        Pipeline { client, window: window.max(1), on_reply, sizes: VecDeque::new(), bytes: 0 }
    }

    /// Sends a command, perhaps later; first waits for replies if too much is in flight. Errors
    /// are those of the connection and of `on_reply`, not of this command.
    pub fn send(&mut self, args: &[impl AsRef<[u8]>]) -> Result<()> {
        let size = FRAME + args.iter().map(|arg| arg.as_ref().len() + FRAME).sum::<usize>();
        if self.sizes.len() >= self.window || self.bytes + size > MAX_BYTES {
            // Down to the half, so that the server works on that half while the other is refilled.
            self.drain(self.window / 2, (MAX_BYTES / 2).saturating_sub(size))?;
        }
        self.client.send(args);
        self.sizes.push_back(size);
        self.bytes += size;
        Ok(())
    }

    /// Waits for all replies that are missing.
    pub fn finish(mut self) -> Result<()> {
        self.drain(0, 0)
    }

    /// Receives until no more than so many requests and bytes of them are in flight.
    fn drain(&mut self, requests: usize, bytes: usize) -> Result<()> {
        self.client.flush()?;
        while self.sizes.len() > requests || self.bytes > bytes {
            let reply = self.client.receive()?;
            self.bytes -= self.sizes.pop_front().unwrap_or_default();
            (self.on_reply)(reply)?;
        }
        Ok(())
    }
}

impl<F: FnMut(Value) -> Result<()>> Drop for Pipeline<'_, F> {
    fn drop(&mut self) {
        if !self.sizes.is_empty() {
            self.client.abandon();
        }
    }
}
