//! The ordered index: all keys of a database in order, packed into blocks of some hundreds.
//!
//! [`Fences`] lead from each block's lower bound to the block; the block itself is immutable and
//! replaced whole, so readers walk without locks. What is new or gone is kept beside a block's keys
//! until it is some dozen, so that a change copies those few and not the block. A key costs its own
//! bytes, four more and a share of the block's. The values' positions are not here but in the hash
//! table.
//!
//! ```text
//!   fences:     ""            "k"              "p"           bounds are as short as they can be
//!               |             |                |
//!   base:      [apple fig]   [kiwi lime nut]  [plum]
//!   added:     [date]        []               [quince]
//!   removed:   []            [lime]           []
//!   upper:      "k"           "p"             none
//! ```
//! Owner: one thread at a time inserts and removes, the writer; any thread reads. Invariants: the blocks' ranges
//! [lower, upper) tile the key space; "" is always a lower bound, so each key has a block; the keys of
//! a block are those of its base that were not removed, and the added ones. A reader
//! walks by key: behind a block it looks for the block of `upper`, so a split
//! or a merge beside it costs it no key and shows it none twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_epoch::Guard;
use smallvec::SmallVec;

use super::fences::{self, Fences, Place};
use super::run::Run;

/// A base is split when it holds more than so many keys, or so many bytes and two keys.
const MAX_KEYS: usize = 256;
const MAX_BYTES: usize = 8192;
/// Two neighbours become one when together they hold no more than half a block.
const MERGE_KEYS: usize = MAX_KEYS / 2;
const MERGE_BYTES: usize = MAX_BYTES / 2;
/// What was added to a base, or removed, goes into a new one when it is more than this.
const FRESH_KEYS: usize = 32;
const FRESH_BYTES: usize = 1024;

/// So many blocks are looked for at a time: their cache misses overlap.
const WARM: usize = 32;

/// Blocks, and how many keys each is to have.
type Places<'g> = SmallVec<[(Place<'g, Block>, usize); WARM]>;

/// As many keys as a change of a block usually has.
type Keys<'k> = SmallVec<[&'k [u8]; FRESH_KEYS + 4]>;

/// What a block holds but for the latest changes.
#[derive(Debug, Default)]
struct Base {
    /// Where the next block begins; `None`: there is none.
    upper: Option<Box<[u8]>>,
    keys: Run,
}

#[derive(Debug, Default)]
struct Block {
    base: Arc<Base>,
    added: Run,
    removed: Run,
}

impl Block {
    fn new(keys: &[&[u8]], upper: Option<&[u8]>) -> Block {
        let base = Base { upper: upper.map(Into::into), keys: Run::new(keys) };
        Block { base: Arc::new(base), ..Block::default() }
    }

    /// The block with other changes; `None` if they are so many that its keys are to be packed anew, or
    /// if they leave nothing. What is removed is in the base.
    fn changed(&self, added: &[&[u8]], removed: &[&[u8]]) -> Option<Block> {
        let few = |keys: &[&[u8]]| {
            keys.len() <= FRESH_KEYS
                && keys.iter().map(|key| key.len()).sum::<usize>() <= FRESH_BYTES
        };
        let empty = added.is_empty() && removed.len() == self.base.keys.len();
        (few(added) && few(removed) && !empty).then(|| Block {
            base: Arc::clone(&self.base),
            added: Run::new(added),
            removed: Run::new(removed),
        })
    }

    /// The block with more keys; `None` if there is no room for them beside its base.
    fn with(&self, keys: &[&[u8]]) -> Option<Block> {
        let [key] = keys else {
            let added: Keys<'_> = union(self.added.keys(), keys.iter().copied()).collect();
            let removed: Keys<'_> = self.removed.keys().collect();
            return self.changed(&added, &removed);
        };
        let few = self.added.len() < FRESH_KEYS && self.added.memory() + key.len() <= FRESH_BYTES;
        few.then(|| Block {
            base: Arc::clone(&self.base),
            added: self.added.with(key),
            removed: self.removed.clone(),
        })
    }

    fn upper(&self) -> Option<&[u8]> {
        self.base.upper.as_deref()
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.upper().is_none_or(|upper| key < upper)
    }

    /// Its keys at or behind `from`, in order.
    fn keys_from<'b>(&'b self, from: &[u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let base = &self.base.keys;
        let base = base.keys_from(base.place(from)).filter(|key| !self.removed.contains(key));
        union(base, self.added.keys_from(self.added.place(from)))
    }

    fn memory(&self) -> usize {
        let base = 2 * size_of::<usize>() + size_of::<Base>() + self.upper().map_or(0, <[u8]>::len);
        size_of::<Block>()
            + base
            + self.base.keys.memory()
            + self.added.memory()
            + self.removed.memory()
    }
}

/// See the module.
pub struct Order {
    blocks: Fences<Block>,
    /// What the blocks and what leads to them take, in bytes.
    memory: AtomicUsize,
}

impl Default for Order {
    fn default() -> Self {
        let first = Block::default();
        let memory = AtomicUsize::new(fences::memory(b"") + first.memory());
        Order { blocks: Fences::new(first), memory }
    }
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Order({} blocks)", self.blocks.len(&crossbeam_epoch::pin()))
    }
}

impl Order {
    /// The block that covers `key`. Retried until it is found: it may be split, or merged with its left
    /// neighbour, between finding and reading it.
    fn block<'g>(&self, key: &[u8], guard: &'g Guard) -> &'g Block {
        loop {
            let block = self.blocks.find(key, guard).cell.load(guard);
            if block.covers(key) {
                return block;
            }
            std::hint::spin_loop();
        }
    }

    /// Inserts keys, sorted and without repetition. Those that are there already stay.
    pub fn insert(&self, keys: &[&[u8]], guard: &Guard) {
        let mut rest = keys;
        while !rest.is_empty() {
            for (place, count) in self.find_some(rest, guard) {
                let (here, next) = rest.split_at(count);
                // Where it has to be split, the places of the others stay: they are behind its range.
                self.insert_into(&place, here, guard);
                rest = next;
            }
        }
    }

    /// Inserts keys into their block.
    fn insert_into(&self, place: &Place<'_, Block>, keys: &[&[u8]], guard: &Guard) {
        let block = place.cell.load(guard);
        debug_assert!(block.covers(keys[0]) && block.upper() == place.upper);
        if let Some(new) = block.with(keys) {
            return self.replace(place, block, new, guard);
        }
        let keys: Vec<&[u8]> = union(block.keys_from(b""), keys.iter().copied()).collect();
        self.rewrite(place, block, &keys, block.upper(), guard);
    }

    /// Where the first of these keys belong. Asks for what changing them will read.
    fn find_some<'g>(&'g self, mut keys: &[&[u8]], guard: &'g Guard) -> Places<'g> {
        let mut found = Places::new();
        while let [first, ..] = keys
            && found.len() < WARM
        {
            let place = self.blocks.find(first, guard);
            let fits = |key: &&&[u8]| place.upper.is_none_or(|upper| **key < upper);
            let count = 1 + keys[1..].iter().take_while(fits).count();
            keys = &keys[count..];
            found.push((place, count));
        }
        let blocks: SmallVec<[&Block; WARM]> =
            found.iter().map(|(place, _)| place.cell.load(guard)).collect();
        blocks.iter().for_each(|block| block.added.prefetch());
        std::hint::black_box(blocks.iter().fold(0, |sum, block| sum ^ block.base.keys.len()));
        found
    }

    /// Replaces `block` by blocks that hold `keys`, up to `upper`. New right-hand blocks go in first:
    /// until the left one shrinks they are hidden behind its larger range.
    fn rewrite<'k>(
        &self,
        place: &Place<'_, Block>,
        block: &Block,
        keys: &[&'k [u8]],
        mut upper: Option<&'k [u8]>,
        guard: &Guard,
    ) {
        let (parts, mut right) = (split(keys), Vec::new());
        for pair in parts.windows(2).rev() {
            let lower = separator(pair[0].last().copied().unwrap_or_default(), pair[1]);
            let new = Block::new(pair[1], upper);
            self.memory.fetch_add(fences::memory(lower) + new.memory(), Ordering::Relaxed);
            right.push((lower, new));
            upper = Some(lower);
        }
        right.reverse();
        self.blocks.insert(right, guard);
        let left = parts.first().copied().unwrap_or_default();
        self.replace(place, block, Block::new(left, upper), guard);
    }

    fn replace(&self, place: &Place<'_, Block>, old: &Block, new: Block, guard: &Guard) {
        self.memory.fetch_add(new.memory(), Ordering::Relaxed);
        self.memory.fetch_sub(old.memory(), Ordering::Relaxed);
        place.cell.replace(new, guard);
    }

    /// Removes a key, if it is there.
    pub fn remove(&self, key: &[u8], guard: &Guard) {
        let place = self.blocks.find(key, guard);
        let block = place.cell.load(guard);
        debug_assert!(block.covers(key) && block.upper() == place.upper);
        let added: Keys<'_> = block.added.keys().filter(|added| *added != key).collect();
        let gone = block.base.keys.contains(key).then_some(key);
        let removed: Keys<'_> = union(block.removed.keys(), gone.into_iter()).collect();
        if let Some(new) = block.changed(&added, &removed) {
            self.replace(&place, block, new, guard);
            return;
        }
        let keys: Vec<&[u8]> = block.keys_from(b"").filter(|there| *there != key).collect();
        if !self.merge(&place, block, &keys, guard) {
            self.rewrite(&place, block, &keys, block.upper(), guard);
        }
    }

    /// Puts `keys`, what is left of `block`, into the left neighbour if both are small. The
    /// neighbour takes the range over before the block goes.
    fn merge(
        &self,
        place: &Place<'_, Block>,
        block: &Block,
        keys: &[&[u8]],
        guard: &Guard,
    ) -> bool {
        let Some(before) = self.blocks.before(place.lower, guard) else { return false };
        let left = before.cell.load(guard);
        let all: Vec<&[u8]> = left.keys_from(b"").chain(keys.iter().copied()).collect();
        let bytes: usize = all.iter().map(|key| key.len()).sum();
        if !(keys.is_empty() || (all.len() <= MERGE_KEYS && bytes <= MERGE_BYTES)) {
            return false;
        }
        self.rewrite(&before, left, &all, block.upper(), guard);
        self.memory.fetch_sub(fences::memory(place.lower) + block.memory(), Ordering::Relaxed);
        self.blocks.remove(place.lower, guard);
        true
    }

    /// Up to `most` keys at or behind `from`, and where to go on unless that was the end. Fewer may
    /// come before the end.
    pub fn piece<'g>(
        &self,
        from: &[u8],
        most: usize,
        guard: &'g Guard,
    ) -> (Vec<&'g [u8]>, Option<&'g [u8]>) {
        debug_assert!(most > 0, "nothing would ever come");
        let block = self.block(from, guard);
        let mut keys = block.keys_from(from);
        let piece: Vec<&[u8]> = keys.by_ref().take(most).collect();
        let next = keys.next().or(block.upper());
        (piece, next)
    }

    /// The last up to `most` keys below `before` (`None`: of all keys), and below what to go on
    /// unless that was the start. Fewer may come before the start.
    pub fn piece_before<'g>(
        &self,
        before: Option<&[u8]>,
        most: usize,
        guard: &'g Guard,
    ) -> (Vec<&'g [u8]>, Option<Vec<u8>>) {
        debug_assert!(most > 0, "nothing would ever come");
        let (lower, block) = loop {
            let place = match before {
                None => self.blocks.last(guard),
                Some(before) => match self.blocks.before(before, guard) {
                    Some(place) => place,
                    // The first block is the one of "", and nothing is below that.
                    None => return (Vec::new(), None),
                },
            };
            let block = place.cell.load(guard);
            // A block that ends earlier has just been split, or its right neighbour just found gone.
            let reaches = match (before, block.upper()) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(before), Some(upper)) => upper >= before,
            };
            if reaches {
                break (place.lower.to_vec(), block);
            }
            std::hint::spin_loop();
        };
        let below = |key: &&[u8]| before.is_none_or(|before| *key < before);
        let mut keys: Vec<&[u8]> = block.keys_from(b"").take_while(below).collect();
        let skipped = keys.len().saturating_sub(most);
        keys.drain(..skipped);
        match keys.first() {
            Some(first) if skipped > 0 => {
                let next = first.to_vec();
                (keys, Some(next))
            }
            _ => (keys, (!lower.is_empty()).then_some(lower)),
        }
    }

    /// The bytes it takes, what the allocator adds to blocks left out.
    pub fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }
}

/// Two runs in order as one: what both have comes once.
fn union<'k>(
    one: impl Iterator<Item = &'k [u8]>,
    other: impl Iterator<Item = &'k [u8]>,
) -> impl Iterator<Item = &'k [u8]> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(a), Some(b)) => {
            let order = a.cmp(b);
            if order.is_eq() {
                other.next();
            }
            if order.is_gt() { other.next() } else { one.next() }
        }
        (Some(_), None) => one.next(),
        (None, _) => other.next(),
    })
}

/// The shortest start of the first key of `right` that `left`, which is below it, is still below.
fn separator<'k>(left: &[u8], right: &[&'k [u8]]) -> &'k [u8] {
    let first = right.first().copied().unwrap_or_default();
    let same = left.iter().zip(first).take_while(|(a, b)| a == b).count();
    &first[..first.len().min(same + 1)]
}

/// Cuts keys into parts of about the same size that fit into blocks; no part is empty but a sole one.
fn split<'a, 'k>(keys: &'a [&'k [u8]]) -> Vec<&'a [&'k [u8]]> {
    let bytes: usize = keys.iter().map(|key| key.len()).sum();
    if keys.len() <= MAX_KEYS && (bytes <= MAX_BYTES || keys.len() == 1) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Keys = BTreeSet<Vec<u8>>;

    fn forward(order: &Order, most: usize) -> Vec<Vec<u8>> {
        let guard = crossbeam_epoch::pin();
        let (mut keys, mut from) = (Vec::new(), Some(Vec::new()));
        while let Some(at) = from {
            let (piece, next) = order.piece(&at, most, &guard);
            keys.extend(piece.into_iter().map(<[u8]>::to_vec));
            from = next.map(<[u8]>::to_vec);
        }
        keys
    }

    fn backward(order: &Order, most: usize) -> Vec<Vec<u8>> {
        let guard = crossbeam_epoch::pin();
        let (mut keys, mut before) = (Vec::new(), None);
        loop {
            let (piece, next) = order.piece_before(before.as_deref(), most, &guard);
            keys.extend(piece.into_iter().rev().map(<[u8]>::to_vec));
            match next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        keys.reverse();
        keys
    }

    /// Few different bytes, so that keys share starts; some keys are long.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let short = prop::collection::vec(b'a'..b'd', 0..8);
        let long = (prop::collection::vec(b'a'..b'd', 0..3), 0usize..3000)
            .prop_map(|(key, len)| [key, vec![b'b'; len]].concat());
        prop_oneof![20 => short, 1 => long]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(Keys),
        Remove(Keys),
    }

    fn step() -> impl Strategy<Value = Step> {
        let keys = |most| prop::collection::btree_set(key(), 1..most);
        prop_oneof![
            8 => keys(5).prop_map(Step::Insert),
            1 => keys(600).prop_map(Step::Insert),
            4 => keys(60).prop_map(Step::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec(step(), 1..80), most in 1usize..300) {
            let (order, mut set) = (Order::default(), Keys::new());
            for step in steps {
                let guard = crossbeam_epoch::pin();
                match step {
                    Step::Insert(keys) => {
                        let sorted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                        order.insert(&sorted, &guard);
                        set.extend(keys);
                    }
                    Step::Remove(keys) => {
                        keys.iter().for_each(|key| order.remove(key, &guard));
                        set.retain(|key| !keys.contains(key));
                    }
                }
                drop(guard);
                prop_assert!(forward(&order, most).iter().eq(&set));
                prop_assert!(backward(&order, most).iter().eq(&set));
            }
        }
    }

    #[test]
    fn what_is_removed_takes_no_memory_and_leaves_no_blocks() {
        let (order, guard) = (Order::default(), crossbeam_epoch::pin());
        let keys: Vec<Vec<u8>> = (0..20_000).map(|n| format!("key:{n:05}").into()).collect();
        let empty = order.memory();
        order.insert(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>(), &guard);
        let full = order.memory();
        assert!(full < 20_000 * (9 + 4 + 3), "{} bytes a key", full / 20_000);
        // In no order (7919 is a prime), from the last one on, from the first one on.
        let orders: [fn(usize) -> usize; 3] = [|n| n * 7919 % 20_000, |n| 19_999 - n, |n| n];
        for place in orders {
            (0..20_000).for_each(|n| order.remove(&keys[place(n)], &guard));
            assert!(forward(&order, 100).is_empty());
            assert_eq!(order.blocks.len(&guard), 1, "{order:?}");
            assert!(order.memory() <= empty, "{} bytes for nothing", order.memory());
            order.insert(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>(), &guard);
        }
    }
}
