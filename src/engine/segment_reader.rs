//! Reading a segment's records one after the other through its file, in steps, in little memory.
//! Through the map, each page would be a fault of its own, and a failing disk would end the process.
//!
//! Any thread: merges, the check, the scrub.

use std::io;
use std::ops::Range;

use super::fs::File;
use super::record::{self, Fault, Record};

/// Bytes read at once.
pub(super) const STEP: usize = 64 * 1024;

/// See the module.
pub(super) struct SegmentReader<'a> {
    file: &'a dyn File,
    pub(super) bytes: Vec<u8>,
    /// Where `bytes` lie in the file.
    base: u64,
    /// Behind the last byte to read.
    end: u64,
    /// How many of `bytes` were whole records, done with at the next [`SegmentReader::advance`].
    done: usize,
}

impl<'a> SegmentReader<'a> {
    /// A walk over the records in `range` of a file.
    pub(super) fn new(file: &'a dyn File, range: Range<u64>) -> SegmentReader<'a> {
        SegmentReader { file, bytes: Vec::new(), base: range.start, end: range.end, done: 0 }
    }

    /// Reads the next step; false at the end. A record longer than a step takes larger ones.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        let at = self.base + self.bytes.len() as u64;
        let step = self.end.saturating_sub(at).min(STEP.max(self.bytes.len()) as u64) as usize;
        if step == 0 && self.bytes.is_empty() {
            return Ok(false);
        }
        let have = self.bytes.len();
        self.bytes.resize(have + step, 0);
        let read = self.file.read_exact_at(&mut self.bytes[have..], at);
        if read.is_err() {
            self.bytes.truncate(have);
        }
        read.map(|()| true)
    }

    /// Visits the whole records that were read: the offset, the record, its place in the bytes.
    pub(super) fn records(
        &mut self,
        mut visit: impl FnMut(u64, &Record<'_>, Range<usize>),
    ) -> Result<(), Fault> {
        let mut at = 0;
        let last = self.base + self.bytes.len() as u64 >= self.end;
        let outcome = loop {
            let left = self.bytes.len() - at;
            if left == 0 || (left < record::HEADER && !last) {
                break Ok(());
            }
            match record::parse(&self.bytes[at..]) {
                Ok(record) => {
                    let size = record.size();
                    visit(self.base + at as u64, &record, at..at + size);
                    at += size;
                }
                Err(Fault::Short) if !last => break Ok(()),
                Err(fault) => break Err(fault),
            }
        };
        self.done = at;
        outcome
    }

    /// Where the first record lies that was not visited.
    pub(super) fn at(&self) -> u64 {
        self.base + self.done as u64
    }

    /// Behind the last byte that was read.
    pub(super) fn read_to(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Lets go of the records that were visited.
    pub(super) fn advance(&mut self) {
        self.bytes.drain(..self.done);
        self.base += self.done as u64;
        self.done = 0;
    }
}
