//! An iterator over a snapshot, for embedding.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};

use super::snapshot::Snapshot;
use crate::error::{KvsError, Result};
use crate::key_range::KeyRange;

/// How many entries are read ahead.
const AHEAD: usize = 64;

/// Keys and values in order, as of the moment when the iteration was made. Values are read while it
/// advances; an error ends it.
#[derive(Debug)]
pub struct Range {
    snapshot: Snapshot,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    ahead: VecDeque<(Vec<u8>, Vec<u8>)>,
    done: bool,
}

impl Range {
    pub(super) fn new(snapshot: Snapshot, (start, end): KeyRange<'_>) -> Range {
        let (start, end) = (start.map(<[u8]>::to_vec), end.map(<[u8]>::to_vec));
        Range { snapshot, start, end, ahead: VecDeque::new(), done: false }
    }

    fn read_ahead(&mut self) -> Result<()> {
        let range = (self.start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice));
        let ahead = &mut self.ahead;
        self.snapshot.entries(range, |key, value| {
            ahead.push_back((key.to_vec(), value.to_vec()));
            if ahead.len() < AHEAD { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        self.done = self.ahead.len() < AHEAD;
        if let Some((last, _)) = self.ahead.back() {
            self.start = Bound::Excluded(last.clone());
        }
        Ok(())
    }
}

impl Iterator for Range {
    type Item = Result<(Vec<u8>, Vec<u8>), KvsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ahead.is_empty()
            && !self.done
            && let Err(error) = self.read_ahead()
        {
            self.done = true;
            self.ahead.clear();
            return Some(Err(error));
        }
        self.ahead.pop_front().map(Ok)
    }
}
