//! The bytes that a connection received and its service has not consumed. Owned by the loop.
//!
//! ```text
//!   storage: initialised bytes, its length is the capacity
//!   +--------------------+----------------------+--------------------+
//!   |  consumed          |  readable            |  room              |
//!   +--------------------+----------------------+--------------------+
//!   0        <=        begin        <=         end        <=   storage.len()
//! ```
//!
//! Always true: `begin <= end <= storage.len()`, and `begin == end` implies both are 0.
//!
//! The storage doubles when it is full, so it is at most about twice what arrived, and a request of
//! any size is copied a constant number of times per byte on average. Fresh storage comes zeroed
//! from the allocator, which for large sizes means pages that are not there until they are written.
//! Storage of the usual size is lent by the loop (see `spares`) and goes back as soon as the
//! service has consumed everything.

use std::io::{self, Read};

use super::spares::{INPUT_BYTES, Spares};

/// The least room to offer to a read, in bytes; below it the bytes are moved or the storage grows.
const MIN_ROOM: usize = 16 << 10;

/// An unfinished request up to this many bytes is copied out, so that the storage can go back.
const SMALL_REST: usize = 2 << 10;

/// Received bytes: read at the front, filled at the back.
#[derive(Debug, Default)]
pub struct Buffer {
    storage: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer; it holds no memory.
    pub fn new() -> Buffer {
        Buffer::default()
    }

    /// The bytes that are there.
    pub fn readable(&self) -> &[u8] {
        &self.storage[self.begin..self.end]
    }

    /// How many bytes are there.
    pub fn len(&self) -> usize {
        self.end - self.begin
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// Bytes of memory that this buffer holds.
    pub fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Drops the first `n` readable bytes, or all of them if there are fewer.
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len(), "consumed {n} of {} bytes", self.len());
        self.begin += n.min(self.len());
        if self.begin == self.end {
            self.clear();
        }
    }

    /// Drops all readable bytes.
    pub fn clear(&mut self) {
        self.begin = 0;
        self.end = 0;
    }

    /// Appends bytes as if they had been received.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.room() < bytes.len() {
            self.make_room(bytes.len());
        }
        self.storage[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// One read of up to `limit` bytes. Returns how many came and how many were asked for: fewer
    /// than asked for means that a stream socket is drained.
    pub(super) fn fill(
        &mut self,
        source: &mut impl Read,
        limit: usize,
        spares: &mut Spares,
    ) -> io::Result<(usize, usize)> {
        self.offer_room(spares);
        let asked = self.room().min(limit);
        let came = source.read(&mut self.storage[self.end..self.end + asked])?;
        self.end += came;
        Ok((came, asked))
    }

    /// Gives back what memory is not needed for the bytes that are left.
    pub(super) fn tidy(&mut self, spares: &mut Spares) {
        let rest = self.len();
        if self.storage.is_empty() || (rest > 0 && self.storage.len() < INPUT_BYTES) {
            return;
        }
        if rest == 0 {
            spares.put_input(std::mem::take(&mut self.storage));
        } else if rest <= SMALL_REST {
            let small = self.readable().to_vec();
            spares.put_input(std::mem::replace(&mut self.storage, small));
            self.begin = 0;
            self.end = rest;
        } else if self.storage.len() > INPUT_BYTES && rest < self.storage.len() / 8 {
            self.move_to(vec![0; rest.next_power_of_two().max(INPUT_BYTES)]);
        }
    }

    fn room(&self) -> usize {
        self.storage.len() - self.end
    }

    fn offer_room(&mut self, spares: &mut Spares) {
        if self.room() >= MIN_ROOM {
            return;
        }
        if self.storage.len() < INPUT_BYTES && self.len() + MIN_ROOM <= INPUT_BYTES {
            self.move_to(spares.take_input());
        } else {
            self.make_room(MIN_ROOM);
        }
    }

    /// Moves the bytes to the front if that costs no more than what was consumed, else doubles.
    fn make_room(&mut self, wanted: usize) {
        let rest = self.len();
        if rest <= self.begin && rest + wanted <= self.storage.len() {
            self.storage.copy_within(self.begin..self.end, 0);
            self.begin = 0;
            self.end = rest;
        } else {
            let size = (rest + wanted).max(self.storage.len().saturating_mul(2)).max(64);
            self.move_to(vec![0; size]);
        }
    }

    fn move_to(&mut self, mut storage: Vec<u8>) {
        let rest = self.len();
        storage[..rest].copy_from_slice(self.readable());
        self.storage = storage;
        self.begin = 0;
        self.end = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::new();
        let mut expected = Vec::new();
        for round in 0..500usize {
            let bytes: Vec<u8> = (0..round * 7 % 301).map(|i| (i + round) as u8).collect();
            buffer.append(&bytes);
            expected.extend_from_slice(&bytes);
            let n = (round * 13 % 257).min(buffer.len());
            assert_eq!(buffer.readable()[..n], expected[..n]);
            buffer.consume(n);
            expected.drain(..n);
            assert_eq!(buffer.readable(), expected);
        }
    }

    #[test]
    fn a_drained_buffer_holds_no_memory() {
        let (mut buffer, mut spares) = (Buffer::new(), Spares::default());
        let (came, asked) = buffer.fill(&mut &[7u8; 100][..], 1 << 20, &mut spares).unwrap();
        assert_eq!((came, asked), (100, INPUT_BYTES));
        buffer.consume(100);
        buffer.tidy(&mut spares);
        assert_eq!(buffer.capacity(), 0);
        assert_eq!(spares.inputs(), 1);
    }

    #[test]
    fn a_small_rest_is_copied_out() {
        let (mut buffer, mut spares) = (Buffer::new(), Spares::default());
        buffer.fill(&mut &b"set a"[..], 1 << 20, &mut spares).unwrap();
        buffer.tidy(&mut spares);
        assert_eq!((buffer.capacity(), spares.inputs()), (5, 1));
        buffer.fill(&mut &b" b\n"[..], 1 << 20, &mut spares).unwrap();
        assert_eq!(buffer.readable(), b"set a b\n");
    }

    #[test]
    fn growth_doubles_and_follows_what_arrived() {
        let (mut buffer, mut spares) = (Buffer::new(), Spares::default());
        let (mut grown, mut before) = (0, 0);
        let mut arrived = 0;
        while arrived < 64 << 20 {
            let chunk = [1u8; 100_000];
            let (came, _) = buffer.fill(&mut &chunk[..], 1 << 20, &mut spares).unwrap();
            arrived += came;
            if buffer.capacity() != before {
                (grown, before) = (grown + 1, buffer.capacity());
            }
            assert!(buffer.capacity() <= 2 * arrived + 2 * INPUT_BYTES);
        }
        assert_eq!(buffer.len(), arrived);
        assert!(grown <= 12, "{grown} reallocations are too many for 64 MiB");
        buffer.consume(arrived - 100_000);
        buffer.tidy(&mut spares);
        assert_eq!((buffer.len(), buffer.capacity()), (100_000, 131_072));
    }
}
