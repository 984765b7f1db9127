//! Where the decoder collects the words of a request.
//!
//! Words either lie in the input as they are, or (quotes, escapes, JSON) were rewritten into the
//! scratch buffer. One request has only words of one kind, so one set of spans serves both. The
//! buffers are kept from request to request, up to a bound, and given back when a connection idles.

use super::{Args, Span};

/// A span list longer than this is given back after its request: 1,024 words, 8 KiB.
const KEEP_SPANS: usize = 1024;
/// A scratch buffer longer than this is given back after its request, in bytes.
const KEEP_SCRATCH: usize = 8 * 1024;

/// The words of one request.
#[derive(Debug, Default)]
pub(super) struct Words {
    spans: Vec<Span>,
    scratch: Vec<u8>,
    rewritten: bool,
}

impl Words {
    /// Forgets all words, for the next request.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.spans.clear();
        self.scratch.clear();
        self.rewritten = false;
        if self.spans.capacity() > KEEP_SPANS || self.scratch.capacity() > KEEP_SCRATCH {
            self.release();
        }
    }

    /// Forgets all words and gives the memory back.
    pub(super) fn release(&mut self) {
        *self = Words::default();
    }

    /// Adds a word that lies in the input at `start`, relative to the request's first byte. Both
    /// figures fit in 32 bits as [`Limits::request`](super::Limits) is below 4 GiB.
    #[inline]
    pub(super) fn push(&mut self, start: usize, len: usize) {
        debug_assert!(!self.rewritten && start + len <= u32::MAX as usize);
        self.spans.push(Span { start: start as u32, len: len as u32 });
    }

    /// Adds a word that is written to the scratch buffer by `write`; its result is passed on.
    pub(super) fn rewrite<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        debug_assert!(self.rewritten || self.spans.is_empty());
        self.rewritten = true;
        let start = self.scratch.len();
        let result = write(&mut self.scratch);
        let len = self.scratch.len() - start;
        self.spans.push(Span { start: start as u32, len: len as u32 });
        result
    }

    /// Whether there is no word.
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The words, given the input that they were decoded from.
    #[inline]
    pub(super) fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        Args::new(if self.rewritten { &self.scratch } else { input }, &self.spans)
    }

    /// The memory that is held beyond the struct itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.scratch.capacity()
    }
}
