//! What a loop gathers during one wake of all its connections, for one message per worker.
//!
//! Thread: an event loop.

use super::ahead::Ahead;
use super::batch::{Batch, Mail, Origin};
use super::tally::Meter;
use crate::command::Command;
use crate::protocol::Args;
use crate::reactor::{ConnId, Post};

/// What a loop gathers during one wake, for all its connections.
#[allow(clippy::vec_box, reason = "a batch travels between threads in its box")]
pub struct Outbox {
    /// For the writer.
    pub writes: Box<Batch>,
    /// For the read workers, spread evenly.
    pub reads: Vec<Box<Batch>>,
    /// Which of `reads` is next.
    pub next_read: usize,
    /// Connections that wait for room in `writes`.
    pub waiting: Vec<ConnId>,
    /// Connections that wait for the end of a pause.
    pub paused: Vec<ConnId>,
    /// Counts commands.
    pub meter: Meter,
    /// The readers' queue is full.
    pub reads_full: bool,
    /// Requests begun since the loop last counted them.
    pub commands: u64,
    /// Of these, reads answered by the loop.
    pub local_reads: u64,
    /// Room to decode in, for one connection after the other.
    pub ahead: Ahead,
    home: Post<Mail>,
    spare: Vec<Box<Batch>>,
}

impl Outbox {
    /// Empty, for a loop with this address.
    pub fn new(home: Post<Mail>, readers: usize) -> Outbox {
        Outbox {
            writes: Batch::new(home.clone()),
            reads: (0..readers).map(|_| Batch::new(home.clone())).collect(),
            next_read: 0,
            waiting: Vec::new(),
            paused: Vec::new(),
            meter: Meter::default(),
            reads_full: false,
            commands: 0,
            local_reads: 0,
            ahead: Ahead::default(),
            home,
            spare: Vec::new(),
        }
    }

    /// An empty batch, a used one if there is one.
    pub fn fresh(&mut self) -> Box<Batch> {
        self.spare.pop().unwrap_or_else(|| Batch::new(self.home.clone()))
    }

    /// Takes a batch back whose replies were delivered.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        const SPARES: usize = 16;
        if self.spare.len() < SPARES {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// Adds a read, to each worker's batch in turn.
    pub fn push_read(&mut self, origin: Origin, command: &'static Command, args: Args<'_>) {
        self.next_read = (self.next_read + 1) % self.reads.len();
        self.reads[self.next_read].push(origin, command, args);
    }
}
