//! The bytes that a client has received and not yet used.
//!
//! ```text
//! +----------+-----------+----------+
//! |   used   |  to use   |   free   |
//! +----------+-----------+----------+
//! 0        start        end     buffer.len()
//! ```

use std::io::{self, Read};

/// The buffer's usual size, in bytes.
const SIZE: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Input { buffer: vec![0; SIZE], start: 0, end: 0 }
    }

    /// What is there to use.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first `len` of [`bytes`](Self::bytes).
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > SIZE {
                self.buffer = vec![0; SIZE];
            }
        }
    }

    /// Reads once from `source`. `needed` is how many more bytes the reply in progress is known to
    /// need; the buffer grows with what arrives, at most to that. The end of `source` is an error.
    pub(super) fn fill(&mut self, source: &mut impl Read, needed: usize) -> io::Result<()> {
        self.make_room(needed);
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let read = loop {
            match source.read(free) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        if read == 0 {
            let message = "the server closed the connection";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.end += read;
        Ok(())
    }

    /// Sees to it that some room is free: by moving what is there to the front where that is worth
    /// it, else by doubling.
    fn make_room(&mut self, needed: usize) {
        if self.end < self.buffer.len() {
            return;
        }
        if self.start > self.buffer.len() / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        } else {
            let more = self.buffer.len().min(needed.max(SIZE));
            self.buffer.resize(self.buffer.len() + more, 0);
        }
    }
}
