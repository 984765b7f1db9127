//! Arrays whose length is known only when their last element is.

use crate::protocol::{Reply, Version};

/// Collects byte strings, encoded already.
#[derive(Debug)]
pub(super) struct Gathered {
    encoded: Vec<u8>,
    version: Version,
    len: usize,
    /// With more bytes than this, the reply is too long anyway.
    most: usize,
}

impl Gathered {
    /// For an array of this reply.
    pub(super) fn new(reply: &Reply<'_>) -> Gathered {
        Gathered { encoded: Vec::new(), version: reply.version(), len: 0, most: reply.room() }
    }

    /// Adds an element.
    pub(super) fn bulk(&mut self, value: &[u8]) {
        if self.encoded.len() <= self.most {
            Reply::new(&mut self.encoded, self.version).bulk(value);
            self.len += 1;
        }
    }

    /// Writes the array.
    pub(super) fn finish(self, reply: &mut Reply<'_>) {
        reply.array(self.len);
        reply.encoded(&self.encoded);
    }
}
