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
    /// Walks, each by itself: one may take minutes, and no other read is to wait for it.
    pub walks: Vec<Box<Batch>>,
    /// Which of `reads` is next.
    pub next_read: usize,
    /// Bytes of requests that are with the workers, or on their way.
    under_way: usize,
    /// Connections that wait for fewer of them.
    pub waiting_writes: Vec<ConnId>,
    /// Connections that wait for room in the readers' queue.
    pub waiting_reads: Vec<ConnId>,
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
    /// A reply may have so many bytes.
    pub most_reply: usize,
    /// Room to decode in, for one connection after the other.
    pub ahead: Ahead,
    home: Post<Mail>,
    spare: Vec<Box<Batch>>,
}

impl Outbox {
    /// Empty, for a loop with this address.
    pub fn new(home: Post<Mail>, readers: usize, most_reply: usize) -> Outbox {
        Outbox {
            writes: Batch::new(home.clone(), most_reply),
            reads: (0..readers).map(|_| Batch::new(home.clone(), most_reply)).collect(),
            walks: Vec::new(),
            next_read: 0,
            under_way: 0,
            waiting_writes: Vec::new(),
            waiting_reads: Vec::new(),
            paused: Vec::new(),
            meter: Meter::default(),
            reads_full: false,
            commands: 0,
            local_reads: 0,
            most_reply,
            ahead: Ahead::default(),
            home,
            spare: Vec::new(),
        }
    }

    /// An empty batch, a used one if there is one.
    pub fn fresh(&mut self) -> Box<Batch> {
        let Some(mut batch) = self.spare.pop() else {
            return Batch::new(self.home.clone(), self.most_reply);
        };
        batch.set_most_reply(self.most_reply);
        batch
    }

    /// From now on, a reply may have so many bytes.
    pub fn set_most_reply(&mut self, most: usize) {
        self.most_reply = most;
        self.writes.set_most_reply(most);
        self.reads.iter_mut().for_each(|batch| batch.set_most_reply(most));
    }

    /// A batch leaves for the workers.
    pub fn leave(&mut self, batch: Box<Batch>) -> Box<Batch> {
        self.under_way += batch.len();
        batch
    }

    /// Whether requests are with the workers.
    pub fn is_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Whether another write may be gathered: with more under way than this, the disk is slower than the
    /// clients, and they wait.
    pub fn has_room(&self) -> bool {
        const MOST_UNDER_WAY: usize = 64 * 1024 * 1024;
        self.writes.len() + self.under_way <= MOST_UNDER_WAY
    }

    /// Takes a batch back whose replies were delivered.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        const SPARES: usize = 16;
        self.under_way -= batch.len();
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

    /// Adds a walk.
    pub fn push_walk(&mut self, origin: Origin, command: &'static Command, args: Args<'_>) {
        let mut batch = self.fresh();
        batch.push(origin, command, args);
        self.walks.push(batch);
    }
}
