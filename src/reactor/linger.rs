//! Closed connections whose last reply is still on its way. Owned by the loop.
//!
//! Closing a socket that holds unread bytes resets the connection, and the reset may overtake the
//! reply that explains why it was closed. So the writing half is shut first, and what still comes
//! in is thrown away until the peer closes too, or for a short while.
//!
//! Always true: a lingering socket lives at most `LINGER` and costs at most `ALLOWANCE` bytes of
//! reading. It is no connection any more: it counts as closed and its session is gone.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use slab::Slab;

use super::service::{Control, Due};
use super::timer_queue::TimerId;

/// How long a peer may take to read its last reply.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are thrown away before patience ends.
const ALLOWANCE: usize = 4 << 20;

#[derive(Debug)]
struct Leaving {
    socket: TcpStream,
    allowance: usize,
    timer: TimerId,
}

/// The sockets that linger on one loop.
#[derive(Debug)]
pub(super) struct Lingering {
    sockets: Slab<Leaving>,
    /// Token of the socket in slot 0.
    first_token: usize,
}

impl Lingering {
    pub(super) fn new(first_token: usize) -> Lingering {
        Lingering { sockets: Slab::new(), first_token }
    }

    /// The slot that an event's token means, if it means one of these.
    pub(super) fn slot_of(&self, token: Token) -> Option<usize> {
        token.0.checked_sub(self.first_token)
    }

    /// Shuts the writing half and keeps the socket for a while.
    pub(super) fn add(&mut self, mut socket: TcpStream, registry: &Registry, ctl: &mut Control) {
        let slot = self.sockets.vacant_key();
        let token = Token(self.first_token + slot);
        if socket.shutdown(Shutdown::Write).is_err()
            || registry.reregister(&mut socket, token, Interest::READABLE).is_err()
        {
            return;
        }
        let timer = ctl.add_timer(LINGER, Due::Linger(slot));
        self.sockets.insert(Leaving { socket, allowance: ALLOWANCE, timer });
    }

    /// Throws away what came in; closes the socket at its end.
    pub(super) fn readable(&mut self, slot: usize, ctl: &mut Control) {
        let Some(leaving) = self.sockets.get_mut(slot) else { return };
        if !leaving.discard() {
            ctl.timers.cancel(leaving.timer);
            self.sockets.remove(slot);
        }
    }

    /// The time is up.
    pub(super) fn expire(&mut self, slot: usize) {
        self.sockets.try_remove(slot);
    }
}

impl Leaving {
    /// Whether more may come.
    fn discard(&mut self) -> bool {
        let mut waste = [0; 16 << 10];
        loop {
            match self.socket.read(&mut waste) {
                Ok(0) => return false,
                Ok(came) if came >= self.allowance => return false,
                Ok(came) => self.allowance -= came,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}
