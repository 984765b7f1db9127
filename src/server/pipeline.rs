//! The order of one connection: replies leave in the order of their requests, and a connection reads
//! its own writes, although writes and cold reads are answered by other threads, in their own time.
//!
//! Thread: the connection's loop. The rules, in one place:
//! - each request that is not answered at once gets a ticket; later replies wait behind it;
//! - a read waits for this connection's unsettled writes of the same keys, and for no others; one that
//!   names no key (DBSIZE) may be about any, and waits for all;
//! - it also waits for this connection's reads of the same keys that are still at a worker: it must not
//!   see less than they will;
//! - a write waits for this connection's reads that are still at a worker, which must not see it;
//! - a walk over many keys waits for all before it, and everything behind it waits for it.
//!
//! "Waits" means that the connection is not decoded any further until a reply has come in.

use std::collections::VecDeque;

use crate::protocol::{JsonId, write_json_reply};

/// A request of this connection that is being answered elsewhere.
pub type Ticket = u32;

/// For so many requests under way there is room at once.
const USUAL: usize = 16;

/// How many requests of one connection may be under way.
const MAX_IN_FLIGHT: usize = 8192;

/// The most bytes of replies that wait behind one that is out, before nothing more is begun.
const MAX_HELD: usize = 1024 * 1024;

/// The most bytes of values in replies under way, unless they are in the reply to one request.
const MAX_VALUES: usize = 1024 * 1024;

/// How many keys of unsettled writes are told apart; a read looks through all of them. Beyond, any
/// key counts as one of them.
const MAX_UNSETTLED: usize = 8192;

/// Room for so many keys of reads is kept.
const KEEP_READING: usize = 64;

/// How the reply to a request is written.
#[derive(Debug, Clone, Default)]
pub enum Form {
    /// As RESP.
    #[default]
    Resp,
    /// As a JSON line with this id.
    Json(Option<JsonId>),
    /// Not at all: the client does not want to know.
    Silent,
}

impl Form {
    /// Writes a RESP reply to `out` in this form.
    pub fn write(&self, reply: &[u8], out: &mut Vec<u8>) {
        match self {
            Form::Resp => out.extend_from_slice(reply),
            Form::Json(id) => {
                // What comes in here was written by `Reply`.
                let written = write_json_reply(reply, id.as_ref(), out);
                debug_assert!(written.is_ok());
            }
            Form::Silent => {}
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its reply has about so many bytes of values.
    Write(usize),
    /// The same.
    Read(usize),
    Walk,
}

#[derive(Debug)]
enum State {
    Waiting(Kind),
    /// The reply lies in `side`.
    Ready {
        start: usize,
        len: usize,
    },
}

#[derive(Debug)]
struct Slot {
    state: State,
    form: Form,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Pipeline {
    /// The ticket of the front slot.
    front: Ticket,
    slots: VecDeque<Slot>,
    /// Replies that came in, or were given at once, behind one that is still out.
    side: Vec<u8>,
    /// The keys of unsettled writes, hashed; `None` stands for all keys.
    unsettled: VecDeque<(Ticket, Option<u32>)>,
    /// A bit for each hash in `unsettled`, since it was last empty.
    touched: u64,
    touched_all: bool,
    reads: usize,
    /// The keys of reads at workers, hashed and sorted: of all since there was none.
    reading: Vec<u32>,
    /// About how many bytes of values are in replies under way.
    values: usize,
    walks: usize,
}

/// A key, for the question whether two requests touch the same one. Equal keys are equal; unequal
/// ones may be taken for equal, and then wait needlessly: so may equal ones of two databases. That
/// spares MOVE and COPY, which touch a key of another database, a rule of their own.
fn hash(key: &[u8]) -> u32 {
    // Odd, with its bits well spread: the golden ratio.
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |sum: u64, word: [u8; 8]| {
        let sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(MIX);
        sum ^ sum >> 32
    };
    let (words, rest) = key.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(words.iter().fold(key.len() as u64, |sum, word| mix(sum, *word)), last) as u32
}

impl Pipeline {
    /// Whether every request has been answered.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether nothing may be decoded now.
    pub fn is_blocked(&self) -> bool {
        self.walks > 0 || self.slots.len() >= MAX_IN_FLIGHT || self.side.len() > MAX_HELD
    }

    /// Whether a read of these keys may begin now; without keys, it may be about any.
    pub fn may_read<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> bool {
        if self.unsettled.is_empty() && self.reads == 0 {
            return true;
        }
        let mut keys = keys.peekable();
        let busy = |hash| self.is_unsettled(hash) || self.reading.binary_search(&hash).is_ok();
        !self.touched_all && keys.peek().is_some() && !keys.any(|key| busy(hash(key)))
    }

    fn is_unsettled(&self, hash: u32) -> bool {
        self.touched & 1 << (hash & 63) != 0
            && self.unsettled.iter().any(|(_, unsettled)| *unsettled == Some(hash))
    }

    /// Whether a walk over many keys may begin now.
    pub fn may_walk(&self) -> bool {
        self.unsettled.is_empty() && self.reads == 0
    }

    /// Whether a write may begin now.
    pub fn may_write(&self) -> bool {
        self.reads == 0
    }

    fn begin(&mut self, kind: Kind, form: Form) -> Ticket {
        let ticket = self.front.wrapping_add(self.slots.len() as u32);
        if self.slots.is_empty() {
            self.slots.reserve(USUAL);
        }
        self.slots.push_back(Slot { state: State::Waiting(kind), form });
        ticket
    }

    /// A write goes out; without keys, it may touch any. Its reply has about so many bytes of values.
    pub fn begin_write<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]>,
        bytes: usize,
        form: Form,
    ) -> Ticket {
        self.values = self.values.saturating_add(bytes);
        let ticket = self.begin(Kind::Write(bytes), form);
        let before = self.unsettled.len();
        if before == 0 {
            self.unsettled.reserve(USUAL);
        }
        let mut keys = keys.peekable();
        while self.unsettled.len() < MAX_UNSETTLED
            && let Some(key) = keys.next()
        {
            let hash = hash(key);
            self.touched |= 1 << (hash & 63);
            self.unsettled.push_back((ticket, Some(hash)));
        }
        if self.unsettled.len() == before || keys.peek().is_some() {
            self.touched_all = true;
            self.unsettled.push_back((ticket, None));
        }
        ticket
    }

    /// Whether a request whose reply has about so many bytes of values may go out now: what comes back
    /// is for a client that may not take it.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.values == 0 || self.values.saturating_add(bytes) <= MAX_VALUES
    }

    /// A read goes to a worker.
    pub fn begin_read<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]>,
        bytes: usize,
        form: Form,
    ) -> Ticket {
        for hash in keys.map(hash) {
            if let Err(place) = self.reading.binary_search(&hash) {
                self.reading.insert(place, hash);
            }
        }
        self.reads += 1;
        self.values = self.values.saturating_add(bytes);
        self.begin(Kind::Read(bytes), form)
    }

    /// A walk goes to a worker.
    pub fn begin_walk(&mut self, form: Form) -> Ticket {
        self.walks += 1;
        self.begin(Kind::Walk, form)
    }

    /// The reply to a request that is answered at once, while earlier ones are out. `write` appends
    /// it, as RESP.
    pub fn answer(&mut self, form: Form, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(!self.slots.is_empty());
        let start = self.side.len();
        write(&mut self.side);
        let len = self.side.len() - start;
        self.slots.push_back(Slot { state: State::Ready { start, len }, form });
    }

    /// A reply came in. What can leave now is appended to `out`.
    pub fn complete(&mut self, ticket: Ticket, reply: &[u8], out: &mut Vec<u8>) {
        let place = ticket.wrapping_sub(self.front) as usize;
        let Some(slot) = self.slots.get_mut(place) else {
            debug_assert!(false, "no request has ticket {ticket}");
            return;
        };
        let State::Waiting(kind) = slot.state else {
            debug_assert!(false, "ticket {ticket} is answered twice");
            return;
        };
        if place == 0 {
            slot.form.write(reply, out);
            self.pop();
            self.release(out);
        } else {
            slot.state = State::Ready { start: self.side.len(), len: reply.len() };
            self.side.extend_from_slice(reply);
        }
        match kind {
            Kind::Write(bytes) => {
                self.values -= bytes;
                self.settle(ticket);
            }
            Kind::Read(bytes) => {
                self.reads -= 1;
                self.values -= bytes;
                if self.reads == 0 {
                    self.reading.clear();
                    self.reading.shrink_to(KEEP_READING);
                }
            }
            Kind::Walk => self.walks -= 1,
        }
        if self.slots.is_empty() {
            self.rest();
        }
    }

    fn pop(&mut self) -> Option<Slot> {
        self.front = self.front.wrapping_add(1);
        self.slots.pop_front()
    }

    /// Lets all replies go that wait for no other any more.
    fn release(&mut self, out: &mut Vec<u8>) {
        while let Some(Slot { state: State::Ready { start, len }, form }) = self.slots.front() {
            form.write(&self.side[*start..*start + *len], out);
            self.pop();
        }
    }

    /// Gives the memory back: most connections have nothing under way most of the time, and there
    /// may be very many.
    fn rest(&mut self) {
        debug_assert!(self.unsettled.is_empty() && self.reads == 0 && self.walks == 0);
        *self = Pipeline { front: self.front, ..Pipeline::default() };
    }

    /// Writes are applied in order, so one that is done settles those before it as well.
    fn settle(&mut self, ticket: Ticket) {
        while let Some((unsettled, _)) = self.unsettled.front()
            && ticket.wrapping_sub(*unsettled) < u32::MAX / 2
        {
            self.unsettled.pop_front();
        }
        if self.unsettled.is_empty() {
            (self.touched, self.touched_all) = (0, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<'k>(keys: &[&'k str]) -> impl Iterator<Item = &'k [u8]> + use<'k> {
        keys.iter().map(|key| key.as_bytes()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn replies_leave_in_request_order() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        let a = pipeline.begin_read(keys(&[]), 0, Form::Resp);
        let b = pipeline.begin_read(keys(&[]), 0, Form::Resp);
        pipeline.answer(Form::Resp, |out| out.extend_from_slice(b"c"));
        let d = pipeline.begin_write(keys(&["k"]), 0, Form::Resp);
        pipeline.answer(Form::Resp, |out| out.extend_from_slice(b"e"));
        pipeline.complete(d, b"d", &mut out);
        pipeline.complete(b, b"b", &mut out);
        assert_eq!(out, b"");
        pipeline.complete(a, b"a", &mut out);
        assert_eq!((out.as_slice(), pipeline.is_empty()), (&b"abcde"[..], true));
    }

    #[test]
    fn reads_wait_for_writes_of_their_keys_only() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        let first = pipeline.begin_write(keys(&["a", "b"]), 0, Form::Resp);
        let second = pipeline.begin_write(keys(&["c"]), 0, Form::Resp);
        assert!(!pipeline.may_read(keys(&["x", "b"])) && pipeline.may_read(keys(&["x", "y"])));
        assert!(!pipeline.may_walk());
        pipeline.complete(first, b"+OK\r\n", &mut out);
        assert!(pipeline.may_read(keys(&["a", "b"])) && !pipeline.may_read(keys(&["c"])));
        pipeline.complete(second, b"+OK\r\n", &mut out);
        assert!(pipeline.may_read(keys(&["c"])) && pipeline.may_walk());
        assert!(pipeline.may_read(keys(&[])));
        let some = pipeline.begin_write(keys(&["d"]), 0, Form::Resp);
        assert!(!pipeline.may_read(keys(&[])), "DBSIZE counts d");
        pipeline.complete(some, b"+OK\r\n", &mut out);
        let all = pipeline.begin_write(keys(&[]), 0, Form::Resp);
        assert!(!pipeline.may_read(keys(&["x"])));
        pipeline.complete(all, b"+OK\r\n", &mut out);
        assert!(pipeline.may_read(keys(&["x"])));
    }

    /// Two reads of a key in one pipeline went to two workers; the second one could see it as it was
    /// before what the first one saw.
    #[test]
    fn reads_wait_for_reads_of_their_keys() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        let first = pipeline.begin_read(keys(&["a", "b"]), 0, Form::Resp);
        assert!(!pipeline.may_read(keys(&["x", "b"])) && pipeline.may_read(keys(&["x"])));
        assert!(!pipeline.may_read(keys(&[])) && !pipeline.may_walk());
        let second = pipeline.begin_read(keys(&["x"]), 0, Form::Resp);
        pipeline.complete(second, b"$-1\r\n", &mut out);
        assert!(!pipeline.may_read(keys(&["a"])));
        pipeline.complete(first, b"$-1\r\n", &mut out);
        assert!(pipeline.may_read(keys(&["a", "b", "x"])) && pipeline.may_walk());
    }

    #[test]
    fn writes_wait_for_reads_and_everything_for_walks() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        let read = pipeline.begin_read(keys(&[]), 0, Form::Resp);
        assert!(!pipeline.may_write());
        pipeline.complete(read, b"$-1\r\n", &mut out);
        assert!(pipeline.may_write());
        let walk = pipeline.begin_walk(Form::Resp);
        assert!(pipeline.is_blocked());
        pipeline.complete(walk, b"*0\r\n", &mut out);
        assert!(!pipeline.is_blocked());
    }

    #[test]
    fn replies_that_are_held_back_hold_up_the_rest() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        let first = pipeline.begin_write(keys(&["a"]), 0, Form::Resp);
        while pipeline.side.len() <= MAX_HELD {
            assert!(!pipeline.is_blocked());
            pipeline.answer(Form::Resp, |side| side.resize(side.len() + 100_000, b'x'));
        }
        assert!(pipeline.is_blocked());
        pipeline.complete(first, b"+OK\r\n", &mut out);
        assert!(!pipeline.is_blocked() && out.len() > MAX_HELD);
    }

    #[test]
    fn reads_under_way_are_bounded_by_their_bytes() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        assert!(pipeline.has_room(usize::MAX), "one is let through, however large");
        let large = pipeline.begin_read(keys(&[]), MAX_VALUES - 10, Form::Resp);
        let small = pipeline.begin_read(keys(&[]), 10, Form::Resp);
        assert!(!pipeline.has_room(1) && pipeline.has_room(0));
        pipeline.complete(small, b"$-1\r\n", &mut out);
        assert!(pipeline.has_room(10) && !pipeline.has_room(11));
        pipeline.complete(large, b"$-1\r\n", &mut out);
        assert!(pipeline.has_room(usize::MAX));
    }

    #[test]
    fn a_write_of_very_many_keys_counts_as_one_of_all() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        let names: Vec<String> = (0..3 * MAX_UNSETTLED).map(|i| format!("k{i}")).collect();
        let all = || names.iter().map(String::as_bytes);
        let first = pipeline.begin_write(all(), 0, Form::Resp);
        let second = pipeline.begin_write(all(), 0, Form::Resp);
        assert!(pipeline.unsettled.len() <= MAX_UNSETTLED + 2);
        pipeline.complete(first, b"+OK\r\n", &mut out);
        assert!(!pipeline.may_read(all().skip(names.len() - 1)) && !pipeline.may_walk());
        pipeline.complete(second, b"+OK\r\n", &mut out);
        assert!(pipeline.may_read(all()) && pipeline.may_walk());
    }

    #[test]
    fn tickets_wrap_around() {
        let (mut pipeline, mut out) = (Pipeline::default(), Vec::new());
        pipeline.front = u32::MAX - 1;
        let tickets: Vec<Ticket> =
            (0..4).map(|_| pipeline.begin_write(keys(&["k"]), 0, Form::Resp)).collect();
        for ticket in &tickets {
            assert!(!pipeline.may_read(keys(&["k"])));
            pipeline.complete(*ticket, b"x", &mut out);
        }
        assert!(pipeline.may_read(keys(&["k"])));
        assert_eq!(out, b"xxxx");
    }
}
