//! The index of one database, in memory: bitcask's keydir, in two parts.
//!
//! The point index ([`table`]) leads from a key's hash to the position of its record, in 17 to 21
//! bytes a key whatever the key's length; the ordered index ([`order`]) has the keys themselves in
//! order and serves ranges. A GET or an overwriting SET touches only the first; a new key or a
//! removed one both.
//!
//! Owner: only the writer inserts and removes. The compactor moves a key by compare-exchange on its
//! position ([`Keydir::relocate`]), so what a user changed meanwhile wins. Readers take no lock.
//! Invariant: a position is replaced in place; a key that is overwritten is never absent meanwhile.

/// The atomics of [`table`]; tests/models.rs has others in this place.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
mod fences;
mod filler;
mod order;
mod run;
mod table;

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_epoch::Guard;
use siphasher::sip::SipHasher13;

use super::epoch_cell::EpochCell;
use super::position::Position;
use crate::sync::lock;
pub use filler::Filler;
pub use order::Order;
use table::Table;

const SHARDS: usize = 256;

/// The hash of a key: keyed anew in each process, so that nobody can choose keys that collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u64);

/// Makes [`KeyHash`]es; one per store.
#[derive(Debug, Clone)]
pub struct KeyHasher(SipHasher13);

impl Default for KeyHasher {
    fn default() -> Self {
        let random = RandomState::new();
        KeyHasher(SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)))
    }
}

impl KeyHasher {
    /// The hash of `key`.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.0.hash(key))
    }
}

impl KeyHash {
    fn shard(self) -> usize {
        (self.0 >> 56) as usize
    }

    /// The part that tables store; zero means "never used" there.
    fn stored(self) -> u32 {
        (self.0 as u32).max(1)
    }

    /// The hash as a number.
    pub fn to_word(self) -> u64 {
        self.0
    }
}

/// A place in the iteration by hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCursor(u64);

impl HashCursor {
    /// The cursor that [`HashCursor::to_word`] told; 0 starts.
    pub fn from_word(word: u64) -> HashCursor {
        HashCursor(word)
    }

    /// As a number; never zero for a place behind the start.
    pub fn to_word(self) -> u64 {
        self.0
    }

    /// The shard and the hash in it; any number is some place.
    fn parts(self) -> (usize, u32) {
        ((self.0 >> 32) as usize % SHARDS, self.0 as u32)
    }
}

struct Shard {
    table: EpochCell<Table>,
    /// Held while the table is rebuilt, and while the compactor changes a position in it: a move
    /// into a table that was just copied would be lost.
    rebuild: Mutex<()>,
}

/// See the module.
pub struct Keydir {
    shards: Box<[Shard]>,
    order: Option<Order>,
    len: AtomicU64,
    ending: AtomicU64,
}

impl std::fmt::Debug for Keydir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keydir({} keys)", self.len())
    }
}

impl Keydir {
    /// An empty index, with keys in order or without.
    pub fn new(ordered: bool) -> Keydir {
        let shard = || Shard { table: EpochCell::new(Table::new(0)), rebuild: Mutex::new(()) };
        Keydir {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            order: ordered.then(Order::default),
            len: AtomicU64::new(0),
            ending: AtomicU64::new(0),
        }
    }

    /// The number of keys.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of the keys have an expiry time.
    pub fn ending(&self) -> u64 {
        self.ending.load(Ordering::Relaxed)
    }

    /// Counts a key that got this position in the place of that one.
    fn count(&self, old: Option<Position>, new: Option<Position>) {
        let ends = |position: Option<Position>| position.is_some_and(Position::expires);
        match (ends(old), ends(new)) {
            (false, true) => drop(self.ending.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.ending.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        match (old, new) {
            (None, Some(_)) => drop(self.len.fetch_add(1, Ordering::Release)),
            (Some(_), None) => drop(self.len.fetch_sub(1, Ordering::Release)),
            _ => {}
        }
    }

    /// The ordered index, unless it is switched off.
    pub fn order(&self) -> Option<&Order> {
        self.order.as_ref()
    }

    fn table<'g>(&self, hash: KeyHash, guard: &'g Guard) -> &'g Table {
        self.shards[hash.shard()].table.load(guard)
    }

    /// The first position of `hash` that `matches`; its first error ends the search.
    pub fn find<E>(
        &self,
        hash: KeyHash,
        guard: &Guard,
        matches: impl FnMut(Position) -> Result<bool, E>,
    ) -> Result<Option<Position>, E> {
        let found = self.table(hash, guard).find(hash.stored(), matches)?;
        Ok(found.map(|found| found.position))
    }

    /// Reads what a look-up of `hash` will read first. Many of these in a row overlap their cache
    /// misses, which look-ups, each waiting for its own, do not. The result is of no meaning, but
    /// has to be used.
    #[must_use]
    pub fn touch(&self, hash: KeyHash, guard: &Guard) -> u64 {
        self.table(hash, guard).touch(hash.stored())
    }

    /// Whether the index leads to exactly this position.
    pub fn points_to(&self, hash: KeyHash, position: Position, guard: &Guard) -> bool {
        let same = |candidate| Ok::<_, std::convert::Infallible>(candidate == position);
        matches!(self.find(hash, guard, same), Ok(Some(_)))
    }

    /// Sets the position of a key and returns the one it had. `matches` tells whether a position
    /// is of this key. The ordered index is left to the caller ([`Keydir::add_ordered`]), who has
    /// many keys at once.
    pub fn set<E>(
        &self,
        hash: KeyHash,
        position: Position,
        guard: &Guard,
        mut matches: impl FnMut(Position) -> Result<bool, E>,
    ) -> Result<Option<Position>, E> {
        loop {
            let table = self.table(hash, guard);
            let Some(found) = table.find(hash.stored(), &mut matches)? else { break };
            if table.replace(found, position) {
                self.count(Some(found.position), Some(position));
                return Ok(Some(found.position));
            }
        }
        self.insert(hash, position, guard);
        Ok(None)
    }

    /// Adds a key that is known not to be there.
    pub fn insert(&self, hash: KeyHash, position: Position, guard: &Guard) {
        while !self.table(hash, guard).insert(hash.stored(), position) {
            let shard = &self.shards[hash.shard()];
            let _no_moves = lock(&shard.rebuild);
            shard.table.replace(shard.table.load(guard).grown(), guard);
        }
        self.count(None, Some(position));
    }

    /// [`Keydir::insert`] of keys of one shard, for several threads at once while there are no readers:
    /// at recovery.
    fn insert_shared(&self, keys: &[(KeyHash, Position)], guard: &Guard) {
        let Some((first, _)) = keys.first() else { return };
        let shard = &self.shards[first.shard()];
        let _alone = lock(&shard.rebuild);
        let mut table = shard.table.load(guard);
        for (hash, position) in keys {
            debug_assert_eq!(hash.shard(), first.shard());
            while !table.insert(hash.stored(), *position) {
                shard.table.replace(table.grown(), guard);
                table = shard.table.load(guard);
            }
        }
        let ending = keys.iter().filter(|(_, position)| position.expires()).count();
        self.ending.fetch_add(ending as u64, Ordering::Relaxed);
        self.len.fetch_add(keys.len() as u64, Ordering::Release);
    }

    /// Removes a key from the point index and returns the position it had.
    pub fn remove<E>(
        &self,
        hash: KeyHash,
        guard: &Guard,
        mut matches: impl FnMut(Position) -> Result<bool, E>,
    ) -> Result<Option<Position>, E> {
        loop {
            let table = self.table(hash, guard);
            let Some(found) = table.find(hash.stored(), &mut matches)? else { return Ok(None) };
            if table.remove(found) {
                self.count(Some(found.position), None);
                return Ok(Some(found.position));
            }
        }
    }

    /// Moves a key whose record was copied, unless it was changed meanwhile; whether it did. For
    /// the compactor.
    pub fn relocate(&self, hash: KeyHash, from: Position, to: Position) -> bool {
        let shard = &self.shards[hash.shard()];
        let _no_rebuild = lock(&shard.rebuild);
        let guard = crossbeam_epoch::pin();
        let table = shard.table.load(&guard);
        let same = |candidate| Ok::<_, std::convert::Infallible>(candidate == from);
        let Ok(found) = table.find(hash.stored(), same);
        found.is_some_and(|found| table.replace(found, to))
    }

    /// Adds keys, sorted and each once, to the ordered index.
    pub fn add_ordered(&self, keys: &[&[u8]], guard: &Guard) {
        if let Some(order) = &self.order {
            order.insert(keys, guard);
        }
    }

    /// Removes a key from the ordered index.
    pub fn remove_ordered(&self, key: &[u8], guard: &Guard) {
        if let Some(order) = &self.order {
            order.remove(key, guard);
        }
    }

    /// Visits about `count` positions from `cursor` on and returns where to go on, `None` at the
    /// end. A key that is there throughout is visited exactly once.
    pub fn piece(
        &self,
        cursor: HashCursor,
        count: usize,
        guard: &Guard,
        mut visit: impl FnMut(Position),
    ) -> Option<HashCursor> {
        let (mut shard, mut from) = cursor.parts();
        let mut visited = 0;
        while shard < SHARDS {
            let table = self.shards[shard].table.load(guard);
            let next = table.piece(from, count - visited.min(count), |position| {
                visited += 1;
                visit(position);
            });
            (shard, from) = match next {
                Some(next) => (shard, next),
                None => (shard + 1, 0),
            };
            if visited >= count && shard < SHARDS {
                return Some(HashCursor((shard as u64) << 32 | u64::from(from)));
            }
        }
        None
    }

    /// Visits all positions, in no order.
    pub fn positions(&self, guard: &Guard, visit: impl FnMut(Position)) {
        self.piece(HashCursor::from_word(0), usize::MAX, guard, visit);
    }

    /// The bytes the point index and the ordered index take.
    pub fn memory(&self) -> (usize, usize) {
        let guard = crossbeam_epoch::pin();
        let tables = self.shards.iter().map(|shard| shard.table.load(&guard).memory()).sum();
        (tables, self.order.as_ref().map_or(0, Order::memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    /// Keys by number; their positions stand for the log that real callers compare with.
    fn key(n: u64) -> Vec<u8> {
        format!("key:{n:05}").into_bytes()
    }

    fn is(n: u64) -> impl FnMut(Position) -> Result<bool, ()> {
        move |position| Ok(position.offset() / 10 == n)
    }

    fn ordered_keys(keydir: &Keydir) -> Vec<Vec<u8>> {
        let guard = crossbeam_epoch::pin();
        let (mut keys, mut from) = (Vec::new(), Vec::new());
        loop {
            let (piece, next) = keydir.order().unwrap().piece(&from, 20, &guard);
            keys.extend(piece.into_iter().map(<[u8]>::to_vec));
            match next {
                Some(next) => from = next.to_vec(),
                None => return keys,
            }
        }
    }

    #[test]
    fn agrees_with_a_btreemap() {
        let (keydir, hasher) = (Keydir::new(true), KeyHasher::default());
        let mut model: BTreeMap<Vec<u8>, Position> = BTreeMap::new();
        let mut random = 0x1234_5678u64;
        for step in 0..60_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Grows to some thousand keys, then shrinks: blocks split and merge.
            let n = (random >> 33) % 4000;
            let removes = if step < 30_000 { 25 } else { 75 };
            let (key, guard) = (key(n), crossbeam_epoch::pin());
            let hash = hasher.hash(&key);
            if (random >> 20) % 100 < removes {
                let old = keydir.remove(hash, &guard, is(n)).unwrap();
                keydir.remove_ordered(&key, &guard);
                assert_eq!(old, model.remove(&key));
            } else {
                let position = Position::new(1, n * 10 + step % 10, 100, false);
                let old = keydir.set(hash, position, &guard, is(n)).unwrap();
                if old.is_none() {
                    keydir.add_ordered(&[&key], &guard);
                }
                assert_eq!(old, model.insert(key, position));
            }
            assert_eq!(keydir.len(), model.len() as u64);
        }
        assert!(ordered_keys(&keydir).iter().eq(model.keys()));
        let mut seen = Vec::new();
        let mut cursor = Some(HashCursor::from_word(0));
        while let Some(at) = cursor {
            let guard = crossbeam_epoch::pin();
            cursor = keydir.piece(at, 7, &guard, |position| seen.push(position));
        }
        seen.sort_by_key(|p| p.offset());
        let mut expected: Vec<Position> = model.into_values().collect();
        expected.sort_by_key(|p| p.offset());
        assert_eq!(seen, expected);
    }

    fn ordered_keys_backward(keydir: &Keydir) -> Vec<Vec<u8>> {
        let (mut keys, mut before) = (Vec::new(), None);
        loop {
            let guard = crossbeam_epoch::pin();
            let order = keydir.order().unwrap();
            let (piece, lower) = order.piece_before(before.as_deref(), 20, &guard);
            keys.extend(piece.iter().rev().map(|key| key.to_vec()));
            match lower {
                Some(lower) => before = Some(lower),
                None => return keys,
            }
        }
    }

    #[test]
    fn a_walk_backward_misses_no_key_while_blocks_split_and_merge() {
        let keydir = Keydir::new(true);
        let lasting: Vec<Vec<u8>> = (0..4000).step_by(40).map(key).collect();
        let all: Vec<&[u8]> = lasting.iter().map(Vec::as_slice).collect();
        keydir.add_ordered(&all, &crossbeam_epoch::pin());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    for n in (0..4000).filter(|n| n % 40 != 0) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let guard = crossbeam_epoch::pin();
                        match round % 2 {
                            0 => keydir.add_ordered(&[&key(n)], &guard),
                            _ => keydir.remove_ordered(&key(n), &guard),
                        }
                    }
                }
            });
            for _ in 0..300 {
                let mut keys = ordered_keys_backward(&keydir);
                keys.reverse();
                let sorted = keys.is_sorted();
                keys.retain(|key| lasting.binary_search(key).is_ok());
                stop.fetch_or(!sorted || keys != lasting, Ordering::Relaxed);
                assert!(sorted, "out of order");
                assert_eq!(keys, lasting);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn sorted_batches_land_in_order() {
        let keydir = Keydir::new(true);
        let guard = crossbeam_epoch::pin();
        for stride in [7, 5, 3, 1] {
            let keys: Vec<Vec<u8>> = (0..5000).filter(|n| n % stride == 0).map(key).collect();
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            keydir.add_ordered(&keys, &guard);
        }
        assert!(ordered_keys(&keydir).into_iter().eq((0..5000).map(key)));
        let (_, order) = keydir.memory();
        assert!(order < 5000 * (9 + 16), "{} bytes per key", order / 5000);
    }

    #[test]
    fn a_key_that_is_overwritten_moved_and_rehashed_never_vanishes() {
        let (keydir, hasher) = (Keydir::new(true), KeyHasher::default());
        let hot: Vec<u64> = (0..50).collect();
        let place = |n: u64, version: u64| Position::new(1, n * 10 + version % 10, 100, false);
        for n in &hot {
            keydir.insert(hasher.hash(&key(*n)), place(*n, 0), &crossbeam_epoch::pin());
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for n in &hot {
                        let guard = crossbeam_epoch::pin();
                        let found = keydir.find(hasher.hash(&key(*n)), &guard, is(*n)).unwrap();
                        assert!(found.is_some(), "key {n} vanished");
                    }
                }
            });
            scope.spawn(|| {
                for version in 0..10_000u64 {
                    for n in &hot {
                        let from = place(*n, version);
                        keydir.relocate(hasher.hash(&key(*n)), from, place(*n, version + 1));
                    }
                }
            });
            for version in 0..400 {
                let guard = crossbeam_epoch::pin();
                for n in &hot {
                    let old = keydir.set(hasher.hash(&key(*n)), place(*n, version), &guard, is(*n));
                    assert!(old.unwrap().is_some());
                }
                // New keys make the shards grow meanwhile.
                for n in 100 + version * 50..100 + version * 50 + 50 {
                    keydir.insert(hasher.hash(&key(n)), place(n, 0), &guard);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
