//! The ordered index: all keys of a database in order, packed into blocks of some dozens.
//!
//! A skip list leads from each block's lower bound to the block; the block itself is immutable and
//! replaced whole, so readers walk without locks. A key costs its own bytes, four more for its
//! offset and a share of the block's. The values' positions are not here but in the hash table.
//!
//! ```text
//!   skip list:  ""            "kiwi"           "plum"
//!               |              |                |
//!   block:     [apple fig]    [kiwi lime nut]  [plum]
//!   upper:      "kiwi"         "plum"           none
//! ```
//! Owner: the writer inserts and removes; any thread reads. Invariants: the blocks' ranges
//! [lower, upper) tile the key space; "" is always a lower bound, so each key has a block. A reader
//! walks by key, never by list links: behind a block it looks for the block of `upper`, so a split
//! or a merge beside it costs it no key and shows it none twice.

use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_epoch::Guard;
use crossbeam_skiplist::SkipMap;

use crate::engine::epoch_cell::EpochCell;

/// A block is split when it holds more than so many keys, or so many bytes and two keys.
const MAX_KEYS: usize = 64;
const MAX_BYTES: usize = 4096;
/// Two neighbours become one when together they hold no more than half a block.
const MERGE_KEYS: usize = MAX_KEYS / 2;
const MERGE_BYTES: usize = MAX_BYTES / 2;

/// A run of keys: immutable.
#[derive(Debug, Default)]
struct Block {
    /// Where the next block begins; `None`: there is none.
    upper: Option<Box<[u8]>>,
    /// End of each key in `bytes`.
    ends: Box<[u32]>,
    bytes: Box<[u8]>,
}

impl Block {
    fn new(keys: &[&[u8]], upper: Option<&[u8]>) -> Block {
        let bytes = keys.concat();
        let ends = keys.iter().scan(0u32, |end, key| {
            *end += key.len() as u32;
            Some(*end)
        });
        Block {
            upper: upper.map(Into::into),
            ends: ends.collect(),
            bytes: bytes.into_boxed_slice(),
        }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn key(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.bytes[start..self.ends[i] as usize]
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.key(i))
    }

    /// The place of the first key that is not below `key`, and whether it is `key`.
    fn search(&self, key: &[u8]) -> (usize, bool) {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.key(middle) < key { low = middle + 1 } else { high = middle }
        }
        (low, low < self.len() && self.key(low) == key)
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.upper.as_deref().is_none_or(|upper| key < upper)
    }

    fn memory(&self) -> usize {
        size_of::<Block>()
            + self.bytes.len()
            + self.ends.len() * 4
            + self.upper.as_ref().map_or(0, |upper| upper.len())
    }
}

/// A node of the skip list: key (16), cell (8), tower and counts, and what malloc adds.
const NODE: usize = 80;

fn too_large(keys: usize, bytes: usize) -> bool {
    keys > MAX_KEYS || (bytes > MAX_BYTES && keys > 1)
}

type Entry<'a> = crossbeam_skiplist::map::Entry<'a, Box<[u8]>, EpochCell<Block>>;

/// See the module.
pub struct Order {
    blocks: SkipMap<Box<[u8]>, EpochCell<Block>>,
    /// What the blocks and their nodes take, in bytes.
    memory: AtomicUsize,
}

impl Default for Order {
    fn default() -> Self {
        let blocks = SkipMap::new();
        blocks.insert(Box::default(), EpochCell::new(Block::default()));
        Order { blocks, memory: AtomicUsize::new(NODE + size_of::<Block>()) }
    }
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Order({} blocks)", self.blocks.len())
    }
}

impl Order {
    /// The block that covers `key`. Retried until it is found: a merge may take the entry away
    /// between finding and reading it, and then its left neighbour covers the key.
    fn block<'g>(&self, key: &[u8], guard: &'g Guard) -> (Entry<'_>, &'g Block) {
        loop {
            if let Some(entry) = self.blocks.upper_bound(Bound::Included(key)) {
                let block = load_for(&entry, guard);
                if block.covers(key) {
                    return (entry, block);
                }
            }
            std::hint::spin_loop();
        }
    }

    /// Inserts keys, sorted and without repetition. Those that are there already stay.
    pub fn insert(&self, keys: &[&[u8]], guard: &Guard) {
        let mut rest = keys;
        while let Some(first) = rest.first() {
            let (entry, block) = self.block(first, guard);
            let here = rest.partition_point(|key| block.covers(key));
            let (added, next) = rest.split_at(here);
            self.rewrite(&entry, block, &merged(block, added), guard);
            rest = next;
        }
    }

    /// Replaces `block` by blocks that hold `keys`. New right-hand blocks go in first: until the
    /// left one shrinks they are hidden behind its larger range.
    fn rewrite(&self, entry: &Entry<'_>, block: &Block, keys: &[&[u8]], guard: &Guard) {
        let mut parts = split(keys);
        let mut upper = block.upper.as_deref();
        while parts.len() > 1
            && let Some(part) = parts.pop()
        {
            let lower: &[u8] = part.first().copied().unwrap_or_default();
            let new = Block::new(part, upper);
            self.memory.fetch_add(NODE + lower.len() + new.memory(), Ordering::Relaxed);
            self.blocks.insert(lower.into(), EpochCell::new(new));
            upper = Some(lower);
        }
        let left = parts.first().copied().unwrap_or_default();
        self.replace(entry, block, Block::new(left, upper), guard);
    }

    fn replace(&self, entry: &Entry<'_>, old: &Block, new: Block, guard: &Guard) {
        self.memory.fetch_add(new.memory(), Ordering::Relaxed);
        self.memory.fetch_sub(old.memory(), Ordering::Relaxed);
        entry.value().replace(new, guard);
    }

    /// Removes a key, if it is there.
    pub fn remove(&self, key: &[u8], guard: &Guard) {
        let (entry, block) = self.block(key, guard);
        let (at, there) = block.search(key);
        if !there {
            return;
        }
        let mut keys: Vec<&[u8]> = block.keys().collect();
        keys.remove(at);
        if !self.merge(&entry, block, &keys, guard) {
            self.replace(&entry, block, Block::new(&keys, block.upper.as_deref()), guard);
        }
    }

    /// Puts `keys`, what is left of `block`, into the left neighbour if both are small. The
    /// neighbour takes the range over before the block goes.
    fn merge(&self, entry: &Entry<'_>, block: &Block, keys: &[&[u8]], guard: &Guard) -> bool {
        let lower: &[u8] = entry.key();
        let Some(left_entry) = self.blocks.upper_bound(Bound::Excluded(lower)) else {
            return false;
        };
        let left = load_for(&left_entry, guard);
        let small = left.len() + keys.len() <= MERGE_KEYS
            && left.bytes.len() + block.bytes.len() <= MERGE_BYTES;
        if !(small || keys.is_empty()) {
            return false;
        }
        let all: Vec<&[u8]> = left.keys().chain(keys.iter().copied()).collect();
        self.replace(&left_entry, left, Block::new(&all, block.upper.as_deref()), guard);
        self.memory.fetch_sub(NODE + lower.len() + block.memory(), Ordering::Relaxed);
        entry.remove();
        true
    }

    /// Whether `key` is there.
    pub fn contains(&self, key: &[u8], guard: &Guard) -> bool {
        self.block(key, guard).1.search(key).1
    }

    /// The keys of the block that covers `from`, those at or behind `from`, and where to go on.
    pub fn piece<'g>(
        &self,
        from: &[u8],
        guard: &'g Guard,
    ) -> (impl Iterator<Item = &'g [u8]> + use<'g>, Option<&'g [u8]>) {
        let (_, block) = self.block(from, guard);
        let (at, _) = block.search(from);
        ((at..block.len()).map(|i| block.key(i)), block.upper.as_deref())
    }

    /// The keys below `before` in the block that holds the last of them (`None`: of all keys), and
    /// where that block begins, unless it is the first one.
    pub fn piece_before<'g>(
        &self,
        before: Option<&[u8]>,
        guard: &'g Guard,
    ) -> (impl Iterator<Item = &'g [u8]> + use<'g>, Option<Box<[u8]>>) {
        let (lower, block, end) = loop {
            let entry = match before {
                // The first block is the one of "", and nothing is below that.
                Some([]) | None => self.blocks.back(),
                Some(before) => self.blocks.upper_bound(Bound::Excluded(before)),
            };
            let Some(entry) = entry else { continue };
            let block = load_for(&entry, guard);
            // A block that ends earlier has just been split, or its right neighbour just found gone.
            let reaches = match (before, block.upper.as_deref()) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(before), Some(upper)) => upper >= before,
            };
            if reaches {
                let end = before.map_or(block.len(), |before| block.search(before).0);
                break (entry.key().clone(), block, end);
            }
            std::hint::spin_loop();
        };
        ((0..end).map(|i| block.key(i)), (!lower.is_empty()).then_some(lower))
    }

    /// The bytes it takes, what the allocator adds to blocks left out.
    pub fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }
}

/// The block in `entry`, which stays readable as long as the guard, also when the entry goes.
fn load_for<'g>(entry: &Entry<'_>, guard: &'g Guard) -> &'g Block {
    entry.value().load(guard)
}

/// The keys of `block` and `added`, in order and each once.
fn merged<'a>(block: &'a Block, added: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut keys = Vec::with_capacity(block.len() + added.len());
    let mut old = block.keys().peekable();
    for key in added {
        while let Some(smaller) = old.next_if(|old| old < key) {
            keys.push(smaller);
        }
        old.next_if(|old| old == key);
        keys.push(key);
    }
    keys.extend(old);
    keys
}

/// Cuts keys into parts of about the same size that fit into blocks.
fn split<'a, 'k>(keys: &'a [&'k [u8]]) -> Vec<&'a [&'k [u8]]> {
    let bytes: usize = keys.iter().map(|key| key.len()).sum();
    if !too_large(keys.len(), bytes) {
        return vec![keys];
    }
    let parts = (keys.len().div_ceil(MAX_KEYS)).max(bytes.div_ceil(MAX_BYTES)).max(2);
    let target = bytes.div_ceil(parts).max(1);
    let mut out = Vec::with_capacity(parts);
    let (mut start, mut size) = (0, 0);
    for (i, key) in keys.iter().enumerate() {
        if i > start && (size + key.len() > target || i - start >= MAX_KEYS) {
            out.push(&keys[start..i]);
            (start, size) = (i, 0);
        }
        size += key.len();
    }
    out.push(&keys[start..]);
    out
}
