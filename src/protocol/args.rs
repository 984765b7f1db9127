//! The words of one request, as byte ranges of the buffer that holds it: nothing is copied to parse.

use std::ops::Index;

/// Where one word lies, relative to the first byte of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

/// The words of one request; word 0 is the command's name.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Words at `spans` of `bytes`. Panics later, on access, if a span lies outside.
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Args { bytes, spans }
    }

    /// The bytes and spans it was made of: to take a copy along.
    pub fn parts(&self) -> (&'a [u8], &'a [Span]) {
        (self.bytes, self.spans)
    }

    /// The number of words, the command's name included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no word at all.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Word `i`, `None` past the last one.
    pub fn get(&self, i: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(i)?;
        Some(&self.bytes[span.start as usize..][..span.len as usize])
    }

    /// The words from word `first` on.
    pub fn from(&self, first: usize) -> Args<'a> {
        Args { bytes: self.bytes, spans: self.spans.get(first..).unwrap_or_default() }
    }

    /// The words in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| &bytes[span.start as usize..][..span.len as usize])
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    /// Word `i`; panics past the last one. For positions that the arity check vouches for.
    fn index(&self, i: usize) -> &[u8] {
        let span = self.spans[i];
        &self.bytes[span.start as usize..][..span.len as usize]
    }
}
