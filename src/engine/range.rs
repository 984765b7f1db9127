//! An iterator over a snapshot, for embedding.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};

use super::snapshot::Snapshot;
use crate::error::{KvsError, Result};

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

/// The first key behind all that start with `prefix`; `None` if there is none.
pub fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

impl Range {
    pub(super) fn new(snapshot: Snapshot, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Range {
        let (start, end) = (start.map(<[u8]>::to_vec), end.map(<[u8]>::to_vec));
        Range { snapshot, start, end, ahead: VecDeque::new(), done: false }
    }

    pub(super) fn of_prefix(snapshot: Snapshot, prefix: &[u8]) -> Range {
        let end = behind_prefix(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        Range::new(snapshot, Bound::Included(prefix), end)
    }

    fn read_ahead(&mut self) -> Result<()> {
        let range = (as_slice(&self.start), as_slice(&self.end));
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

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
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

#[cfg(test)]
mod tests {
    use super::behind_prefix;

    #[test]
    fn prefixes_end_where_the_next_one_begins() {
        assert_eq!(behind_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(behind_prefix(b"a\xFF\xFF"), Some(b"b".to_vec()));
        assert_eq!(behind_prefix(b"\xFF"), None);
        assert_eq!(behind_prefix(b""), None);
    }
}
