//! One shard of the point index: an open-addressing hash table from a key's hash to positions.
//!
//! It holds no keys: a position whose hash matches is a candidate, and the caller compares the key
//! in the log. Five slots share a line of the processor's cache, so that most look-ups wait for one:
//!
//! ```text
//!   line of 64 bytes:   hashes [u32; 5]  0: never used     positions [u64; 5]  0: vacated
//!   the home line of hash h is h * homes >> 32, so lines are roughly in the order of hashes
//! ```
//! Readers walk it without a lock while one thread inserts and removes; a position is replaced in
//! place, so a key never vanishes while its value changes. Invariants: an entry never changes its
//! slot within a table; a slot's hash is written after its position, so who sees the hash sees a
//! position of it (or zero); a run of used slots that starts with an entry's home reaches the entry.

use super::atomics::{AtomicU32, AtomicU64, Ordering};

use crate::engine::position::Position;

/// Slots of a line.
const WAYS: usize = 5;

/// Lines behind the last home, so that probing needs no wrap-around.
fn spill(homes: usize) -> usize {
    4 + homes / 16
}

#[derive(Debug)]
#[repr(align(64))]
struct Line {
    hashes: [AtomicU32; WAYS],
    positions: [AtomicU64; WAYS],
}

impl Line {
    fn new() -> Line {
        let hashes = std::array::from_fn(|_| AtomicU32::new(0));
        Line { hashes, positions: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    fn read(&self, way: usize) -> Option<Position> {
        Position::from_word(self.positions[way].load(Ordering::Acquire))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    homes: usize,
    lines: Box<[Line]>,
    /// Slots that are not "never used": entries and vacated ones.
    used: AtomicU32,
    live: AtomicU32,
}

/// An entry: its slot and the position that was read there.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    line: usize,
    way: usize,
    /// The position at the time of the look-up.
    pub position: Position,
}

impl Table {
    /// A table with this many home lines; zero is a table that is full from the start.
    pub fn new(homes: usize) -> Table {
        let lines = if homes == 0 { 0 } else { homes + spill(homes) };
        Table {
            homes,
            lines: (0..lines).map(|_| Line::new()).collect(),
            used: AtomicU32::new(0),
            live: AtomicU32::new(0),
        }
    }

    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.homes as u64) >> 32) as usize
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed) as usize
    }

    /// The bytes it takes.
    pub fn memory(&self) -> usize {
        size_of::<Table>() + size_of_val(&*self.lines)
    }

    /// The first entry of `hash` whose position `matches`. The first error of `matches` ends the
    /// search.
    pub fn find<E>(
        &self,
        hash: u32,
        mut matches: impl FnMut(Position) -> Result<bool, E>,
    ) -> Result<Option<Found>, E> {
        for (line, slots) in self.lines.iter().enumerate().skip(self.home(hash)) {
            for (way, stored) in slots.hashes.iter().enumerate() {
                let stored = stored.load(Ordering::Acquire);
                if stored == 0 {
                    return Ok(None);
                }
                if stored == hash
                    && let Some(position) = slots.read(way)
                    && matches(position)?
                {
                    return Ok(Some(Found { line, way, position }));
                }
            }
        }
        Ok(None)
    }

    /// Reads what a look-up of `hash` will read first, so that it is in the cache by then.
    pub fn touch(&self, hash: u32) -> u64 {
        let line = self.lines.get(self.home(hash));
        line.map_or(0, |line| u64::from(line.hashes[0].load(Ordering::Relaxed)))
    }

    /// Replaces the position of `found`, unless it is not the one that was found any more.
    pub fn replace(&self, found: Found, with: Position) -> bool {
        self.exchange(found, with.to_word())
    }

    /// Removes `found`, unless its position is not the one that was found any more.
    pub fn remove(&self, found: Found) -> bool {
        let removed = self.exchange(found, 0);
        if removed {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    fn exchange(&self, found: Found, to: u64) -> bool {
        let from = found.position.to_word();
        self.lines[found.line].positions[found.way]
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Adds an entry that is not there yet; false if there is no room. One thread at a time.
    pub fn insert(&self, hash: u32, position: Position) -> bool {
        debug_assert_ne!(hash, 0);
        let used = self.used.load(Ordering::Relaxed);
        if used as usize >= self.homes * WAYS * 4 / 5 {
            return false;
        }
        for line in &self.lines[self.home(hash)..] {
            for way in 0..WAYS {
                let stored = line.hashes[way].load(Ordering::Relaxed);
                if stored == 0 {
                    self.used.store(used + 1, Ordering::Relaxed);
                } else if line.read(way).is_some() {
                    continue;
                }
                // A vacated slot may still be read by someone who looks for its former hash: who
                // finds this position there compares keys and goes on.
                line.positions[way].store(position.to_word(), Ordering::Release);
                line.hashes[way].store(hash, Ordering::Release);
                self.live.store(self.live.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// A table with room for more, with the same entries. No insert, remove or replace may run
    /// meanwhile.
    pub fn grown(&self) -> Table {
        let (mut homes, live) = (self.homes, self.len());
        // Small tables double; large ones grow by a quarter, which keeps them at least 64 % full.
        while homes == 0 || live * 16 > homes * WAYS * 11 {
            homes = if homes < 256 { (homes * 2).max(2) } else { homes + homes / 4 };
        }
        loop {
            let table = Table::new(homes);
            if self.entries().all(|(hash, position)| table.insert(hash, position)) {
                return table;
            }
            homes += homes.div_ceil(4);
        }
    }

    fn entries(&self) -> impl Iterator<Item = (u32, Position)> + '_ {
        let slots = self.lines.iter().flat_map(|line| (0..WAYS).map(move |way| (line, way)));
        slots.filter_map(|(line, way)| {
            Some((line.hashes[way].load(Ordering::Relaxed), line.read(way)?))
        })
    }

    /// Visits all entries whose hash is at least `from`, up to a boundary that leaves at least
    /// `count` of them behind it; returns the boundary, `None` when the table's end was reached.
    /// An entry that is there throughout is in exactly one of such consecutive pieces, also when
    /// the table has grown in between.
    pub fn piece(&self, from: u32, count: usize, mut visit: impl FnMut(Position)) -> Option<u32> {
        let mut visited = 0;
        for (line, slots) in self.lines.iter().enumerate().skip(self.home(from)) {
            let mut full = true;
            for (way, hash) in slots.hashes.iter().enumerate() {
                let hash = hash.load(Ordering::Acquire);
                full &= hash != 0;
                if hash >= from.max(1)
                    && let Some(position) = slots.read(way)
                {
                    visit(position);
                    visited += 1;
                }
            }
            // Nothing with its home here or before lies behind a line with room.
            if !full && visited >= count && line + 1 < self.homes {
                return Some(self.first_hash(line + 1).max(from));
            }
        }
        None
    }

    /// The smallest hash whose home is `line`.
    fn first_hash(&self, line: usize) -> u32 {
        ((line as u64) << 32).div_ceil(self.homes as u64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn position(n: u64) -> Position {
        Position::new(1, n, 100, false)
    }

    fn get(table: &Table, hash: u32, n: u64) -> Option<Found> {
        table.find(hash, |p| Ok::<_, ()>(p == position(n))).unwrap()
    }

    fn filled(entries: u64) -> Table {
        let mut table = Table::new(0);
        for n in 1..=entries {
            let hash = (n as u32).wrapping_mul(0x9E37_79B9) | 1;
            while !table.insert(hash, position(n)) {
                table = table.grown();
            }
        }
        table
    }

    #[test]
    fn entries_are_found_replaced_and_removed() {
        let table = filled(10_000);
        assert_eq!(table.len(), 10_000);
        for n in 1..=10_000u64 {
            let hash = (n as u32).wrapping_mul(0x9E37_79B9) | 1;
            let found = get(&table, hash, n).unwrap();
            if n % 3 == 0 {
                assert!(table.remove(found));
                assert!(!table.remove(found), "removed twice");
                assert!(get(&table, hash, n).is_none());
            } else {
                assert!(table.replace(found, position(n + 1_000_000)));
                assert!(!table.replace(found, position(n)), "replaced a stale position");
            }
        }
        assert_eq!(table.len(), 6667);
        assert_eq!(table.grown().len(), 6667);
    }

    #[test]
    fn a_line_for_five_and_at_least_three_fifths_full() {
        for entries in [5_000, 20_000, 100_000] {
            let table = filled(entries);
            let per_key = table.memory() as f64 / entries as f64;
            assert!(per_key < 21.5, "{per_key} bytes per key at {entries}");
        }
    }

    #[test]
    fn equal_hashes_stay_apart() {
        let table = Table::new(64);
        for n in 1..=10 {
            assert!(table.insert(77, position(n)));
        }
        for n in 1..=10 {
            assert_eq!(get(&table, 77, n).unwrap().position, position(n));
        }
    }

    #[test]
    fn pieces_cover_each_entry_once_across_growth() {
        let mut table = filled(3000);
        let mut seen: HashMap<u64, u32> = HashMap::new();
        let (mut from, mut pieces) = (Some(0u32), 0);
        while let Some(start) = from {
            from = table.piece(start, 10, |p| *seen.entry(p.offset()).or_default() += 1);
            pieces += 1;
            if pieces % 16 == 0 {
                table = table.grown();
                let mut extra = 1_000_000 + pieces;
                while table.insert((extra as u32).wrapping_mul(7919) | 1, position(extra))
                    && extra % 64 != 0
                {
                    extra += 1;
                }
                table = table.grown();
            }
        }
        let missing: HashSet<u64> = (1..=3000).filter(|n| seen.get(n) != Some(&1)).collect();
        assert!(missing.is_empty(), "not seen exactly once: {missing:?}");
        assert!(pieces > 50);
    }
}
