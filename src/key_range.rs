//! Ranges of keys, in the order of their bytes as `memcmp` has it.

use std::ops::Bound;

/// A range of keys: from, to.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Whether no key can lie in a range.
pub fn is_empty((from, to): KeyRange<'_>) -> bool {
    match (from, to) {
        (_, Bound::Excluded(b"")) => true,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
    }
}

/// The keys that begin with some bytes.
#[derive(Debug, Clone)]
pub struct Prefix<'a> {
    start: &'a [u8],
    /// The first key after all of them; `None` if there is none.
    end: Option<Vec<u8>>,
}

impl<'a> Prefix<'a> {
    /// Those that begin with `start`; all keys if it is empty.
    pub fn new(start: &'a [u8]) -> Prefix<'a> {
        let end = start.iter().rposition(|&byte| byte != u8::MAX).map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            end
        });
        Prefix { start, end }
    }

    /// Their range.
    pub fn range(&self) -> KeyRange<'_> {
        let end = self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.start), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let end = |start| Prefix::new(start).range().1.map(<[u8]>::to_vec);
        assert_eq!(end(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(end(b"a\xFF\xFF"), Bound::Excluded(b"b".to_vec()));
        assert_eq!(end(b"\xFF"), Bound::Unbounded);
        assert_eq!(end(b""), Bound::Unbounded);
    }
}
