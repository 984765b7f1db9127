//! How many bytes of a segment are of records that the index leads to.
//!
//! A position tells its record's size rounded up by as much as an eighth, and when a record dies, its
//! position is all that is at hand. So what lives is counted as positions have it, and told in the
//! proportion of true to rounded sizes of all records that were counted: exact where records are of one
//! size, or where none is dead.
//!
//! Written by the writer, the compactor and an open; read by any thread.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::position::{self, Position};

/// See the module.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Live records, rounded. Below zero for a moment, where a record dies before it is counted.
    live: AtomicI64,
    /// Of all records that were counted, what died since included: their sizes, and those rounded.
    exact: AtomicU64,
    rounded: AtomicU64,
    tombstones: AtomicU64,
}

impl Liveness {
    /// Counts a live record of `size` bytes.
    pub fn add(&self, size: usize) {
        let rounded = position::rounded(size);
        self.exact.fetch_add(size as u64, Ordering::Relaxed);
        self.rounded.fetch_add(rounded as u64, Ordering::Relaxed);
        self.live.fetch_add(rounded as i64, Ordering::Relaxed);
    }

    /// Counts a record out that is not live any more.
    pub fn remove(&self, position: Position) {
        self.live.fetch_sub(position.size() as i64, Ordering::Relaxed);
    }

    /// Counts a tombstone of `size` bytes.
    pub fn add_tombstone(&self, size: usize) {
        self.tombstones.fetch_add(size as u64, Ordering::Relaxed);
    }

    /// Bytes of live records.
    pub fn live(&self) -> u64 {
        let live = self.live.load(Ordering::Relaxed).max(0) as u128;
        let exact = u128::from(self.exact.load(Ordering::Relaxed));
        let rounded = u128::from(self.rounded.load(Ordering::Relaxed));
        (live * exact / rounded.max(1)) as u64
    }

    /// Bytes of tombstones.
    pub fn tombstones(&self) -> u64 {
        self.tombstones.load(Ordering::Relaxed)
    }

    /// What a merge would copy if all tombstones were needed, in bytes; known up to an eighth.
    pub fn copied(&self) -> u64 {
        self.live() + self.tombstones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_told_in_true_sizes() {
        let liveness = Liveness::default();
        assert_eq!(liveness.live(), 0);
        (0..1000).for_each(|_| liveness.add(136));
        assert_eq!(liveness.live(), 136_000);
        (0..400).for_each(|n| liveness.remove(Position::new(0, n * 136, 136, false)));
        assert_eq!(liveness.live(), 600 * 136);
        (0..600).for_each(|n| liveness.remove(Position::new(0, n * 136, 136, false)));
        assert_eq!(liveness.live(), 0);
    }

    #[test]
    fn sizes_of_all_kinds_are_told_within_an_eighth() {
        let liveness = Liveness::default();
        let sizes = [25, 136, 1044, 5000, 70_001];
        let all: usize = sizes.iter().sum();
        sizes.iter().for_each(|size| liveness.add(*size));
        assert_eq!(liveness.live(), all as u64);
        for (n, size) in sizes.iter().enumerate() {
            liveness.remove(Position::new(0, n as u64 * 100_000, *size, false));
            let left: usize = sizes[n + 1..].iter().sum();
            assert!(
                liveness.live() <= (left + left / 8) as u64
                    && liveness.live() >= (left - left / 8) as u64
            );
        }
    }
}
