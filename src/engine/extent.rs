//! A range of a segment's file in memory, to look through it when no hint tells what is in it. Read,
//! not mapped: a disk that fails in its middle is then no signal that ends the process, but a hole.
//!
//! Thread: whoever opens or checks a store.

use std::ops::Range;

use super::fs::{File, Map};

/// What has no more bytes than this is read into memory, and mapped otherwise: then a disk that fails
/// just there ends the program.
const LOADED: u64 = 256 << 20;
/// Bytes read at once, and those that are given up together where that fails.
const STEP: usize = 1 << 20;
const PAGE: usize = 4096;

/// See the module.
pub struct Extent {
    /// Where in the file.
    pub range: Range<u64>,
    content: Content,
    /// What could not be read; zeros are in its place.
    pub holes: Vec<Range<u64>>,
}

enum Content {
    Read(Vec<u8>),
    Mapped(Map),
}

impl Extent {
    /// Reads a range; what cannot be read is told in `holes`.
    pub fn new(file: &dyn File, range: Range<u64>) -> Extent {
        if range.end - range.start > LOADED
            && let Ok(map) = file.map(range.end)
        {
            return Extent { range, content: Content::Mapped(map), holes: Vec::new() };
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut holes = Vec::new();
        for (i, step) in bytes.chunks_mut(STEP).enumerate() {
            let at = range.start + (i * STEP) as u64;
            if file.read_exact_at(step, at).is_err() {
                read_pages(file, step, at, &mut holes);
            }
        }
        Extent { range, content: Content::Read(bytes), holes }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Read(bytes) => bytes,
            Content::Mapped(map) => {
                let len = (self.range.end - self.range.start) as usize;
                map.get(self.range.start, len).unwrap_or(&[])
            }
        }
    }
}

/// Reads what can be read, page by page.
fn read_pages(file: &dyn File, step: &mut [u8], from: u64, holes: &mut Vec<Range<u64>>) {
    let first = (PAGE - from as usize % PAGE).min(step.len());
    let (first, others) = step.split_at_mut(first);
    let mut next = from;
    for page in [first].into_iter().chain(others.chunks_mut(PAGE)) {
        let at = next;
        next += page.len() as u64;
        if file.read_exact_at(page, at).is_ok() {
            continue;
        }
        page.fill(0);
        let end = next;
        match holes.last_mut() {
            Some(last) if last.end == at => last.end = end,
            _ => holes.push(at..end),
        }
    }
}
