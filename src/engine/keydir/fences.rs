//! Which block of the ordered index begins where: two levels of bounds above the blocks, as in a B+
//! tree.
//!
//! ```text
//!   root:                ""                    "key:7"
//!                        |                     |
//!   nodes:    ["" "b" "key:2" "key:31"]  ["key:7" "p"]      each bound with the cell of its block
//! ```
//! Root and nodes are immutable and replaced whole. To add a bound copies a node of some hundred
//! pointers, and to split one the root; both are seldom, since a block takes hundreds of keys. Bounds are
//! shared, for they may be as long as keys. What a search compares lies side by side: words that
//! follow what bounds have in common. (A skip list waited for memory at each of its steps;
//! docs/performance.md.)
//!
//! Owner: one thread at a time inserts and removes; any thread searches. Invariants: "" is always a
//! bound; a node's first bound is the one it has in the root. What was found may be split or taken away
//! at once: who needs the present asks the block whether it covers the key.

use std::cmp::Ordering;
use std::sync::Arc;

use crossbeam_epoch::Guard;
use smallvec::SmallVec;

use crate::engine::epoch_cell::EpochCell;

/// A node with more bounds is split.
const MOST: usize = 128;

/// What begins at a bound.
struct Fence<T: Send + Sync + 'static> {
    /// Most bounds are that short, and lie here.
    lower: SmallVec<[u8; INLINE]>,
    cell: EpochCell<T>,
}

const INLINE: usize = 24;

/// What a bound takes, in bytes: its fence with counts, pointer and head, and what malloc adds.
pub(super) fn memory(lower: &[u8]) -> usize {
    80 + if lower.len() > INLINE { lower.len() } else { 0 }
}

impl<T: Send + Sync + 'static> Fence<T> {
    fn new(lower: &[u8], value: T) -> Arc<Fence<T>> {
        Arc::new(Fence { lower: lower.into(), cell: EpochCell::new(value) })
    }
}

/// Some fences in order, at least one.
struct Level<T: Send + Sync + 'static> {
    fences: Box<[Arc<Fence<T>>]>,
    /// How long a start all bounds but the first have in common.
    same: usize,
    /// What follows it in each of those, as far as it fits into a word that compares as it does.
    heads: Box<[u64]>,
}

impl<T: Send + Sync + 'static> Level<T> {
    fn new(fences: Vec<Arc<Fence<T>>>) -> Level<T> {
        let others = fences.get(1..).unwrap_or_default();
        let same = match (others.first(), others.last()) {
            (Some(first), Some(last)) => {
                first.lower.iter().zip(&last.lower).take_while(|(a, b)| a == b).count()
            }
            _ => 0,
        };
        let heads = others.iter().map(|fence| head(&fence.lower[same..])).collect();
        Level { fences: fences.into(), same, heads }
    }

    fn len(&self) -> usize {
        self.fences.len()
    }

    fn lower(&self, i: usize) -> Option<&[u8]> {
        self.fences.get(i).map(|fence| &*fence.lower)
    }

    /// The place of the last bound below `key`, or at it if that counts.
    fn last(&self, key: &[u8], at: bool) -> Option<usize> {
        let below = |fence: &Fence<T>| &*fence.lower < key || (at && &*fence.lower == key);
        match self.others(key, below) {
            0 => below(&self.fences[0]).then_some(0),
            others => Some(others),
        }
    }

    /// How many bounds behind the first one are `below` the key.
    fn others(&self, key: &[u8], below: impl Fn(&Fence<T>) -> bool) -> usize {
        let Some(first) = self.lower(1) else { return 0 };
        match key[..key.len().min(self.same)].cmp(&first[..self.same]) {
            Ordering::Less => 0,
            Ordering::Greater => self.heads.len(),
            Ordering::Equal => {
                let head = head(&key[self.same..]);
                let less = self.heads.partition_point(|other| *other < head);
                let alike = self.heads[less..].partition_point(|other| *other == head);
                let alike = &self.fences[1 + less..1 + less + alike];
                less + alike.partition_point(|fence| below(fence))
            }
        }
    }

    /// The same with more, of which all belong between the same two.
    fn with(&self, new: Vec<Arc<Fence<T>>>) -> Vec<Arc<Fence<T>>> {
        let mut fences = self.fences.to_vec();
        if let Some(first) = new.first() {
            let place = fences.partition_point(|other| other.lower < first.lower);
            fences.splice(place..place, new);
        }
        fences
    }

    fn without(&self, place: usize) -> Vec<Arc<Fence<T>>> {
        let mut fences = self.fences.to_vec();
        fences.remove(place);
        fences
    }
}

/// The first bytes as a number.
fn head(bytes: &[u8]) -> u64 {
    let mut head = [0; 8];
    let len = bytes.len().min(head.len());
    head[..len].copy_from_slice(&bytes[..len]);
    u64::from_be_bytes(head)
}

/// Where a block is.
pub(super) struct Place<'g, V: Send + Sync + 'static> {
    /// Its bound.
    pub(super) lower: &'g [u8],
    pub(super) cell: &'g EpochCell<V>,
    /// The next one's bound. Certain only for the owner.
    pub(super) upper: Option<&'g [u8]>,
}

/// See the module.
pub(super) struct Fences<V: Send + Sync + 'static> {
    root: EpochCell<Level<Level<V>>>,
}

impl<V: Send + Sync + 'static> Drop for Fences<V> {
    /// Frees all at once, and hands it to whoever frees next.
    fn drop(&mut self) {
        let guard = crossbeam_epoch::pin();
        for node in &self.root.load(&guard).fences {
            node.cell.load(&guard).fences.iter().for_each(|block| block.cell.empty(&guard));
            node.cell.empty(&guard);
        }
        self.root.empty(&guard);
        guard.flush();
    }
}

impl<V: Send + Sync + 'static> Fences<V> {
    /// With one bound, which is "".
    pub(super) fn new(first: V) -> Fences<V> {
        let node = Level::new(vec![Fence::new(b"", first)]);
        Fences { root: EpochCell::new(Level::new(vec![Fence::new(b"", node)])) }
    }

    /// The block that begins last at or before `key`.
    pub(super) fn find<'g>(&'g self, key: &[u8], guard: &'g Guard) -> Place<'g, V> {
        loop {
            if let Some(place) = self.search(key, true, guard) {
                return place;
            }
            std::hint::spin_loop();
        }
    }

    /// The block that begins last before `key`; `None` if that is "".
    pub(super) fn before<'g>(&'g self, key: &[u8], guard: &'g Guard) -> Option<Place<'g, V>> {
        while !key.is_empty() {
            if let Some(place) = self.search(key, false, guard) {
                return Some(place);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// The last block. Needs no second look at the root: a node that has given its end away ends with a
    /// block that does not reach to the end.
    pub(super) fn last<'g>(&'g self, guard: &'g Guard) -> Place<'g, V> {
        let root = self.root.load(guard);
        let i = root.len() - 1;
        let node = root.fences[i].cell.load(guard);
        place(root, i, node, node.len() - 1)
    }

    /// `None` if the root was changed between a look at it and one at the node, which then may have
    /// given the bound away.
    fn search<'g>(&'g self, key: &[u8], at: bool, guard: &'g Guard) -> Option<Place<'g, V>> {
        let root = self.root.load(guard);
        let i = root.last(key, at)?;
        let node = root.fences[i].cell.load(guard);
        let j = node.last(key, at)?;
        std::ptr::eq(root, self.root.load(guard)).then(|| place(root, i, node, j))
    }

    /// How many blocks there are.
    pub(super) fn len(&self, guard: &Guard) -> usize {
        self.root.load(guard).fences.iter().map(|node| node.cell.load(guard).len()).sum()
    }

    /// Adds blocks that begin, in order, between two others.
    pub(super) fn insert(&self, new: Vec<(&[u8], V)>, guard: &Guard) {
        let Some((lower, _)) = new.first() else { return };
        let (root, i, node) = self.node(lower, guard);
        let last = new.last().map(|(lower, _)| *lower);
        let new = new.into_iter().map(|(lower, value)| Fence::new(lower, value)).collect();
        let fences = node.with(new);
        // What comes in order, behind all others, leaves full nodes behind, and what does not, halves.
        let ascends = i + 1 == root.len() && fences.last().map(|fence| &*fence.lower) == last;
        let parts = fences.len().div_ceil(MOST);
        let most = if ascends { MOST } else { fences.len().div_ceil(parts) };
        let mut parts = fences.chunks(most).map(|part| Level::new(part.to_vec()));
        let Some(left) = parts.next() else { return };
        let right: Vec<_> =
            parts.map(|part| Fence::new(&part.fences[0].lower.clone(), part)).collect();
        if !right.is_empty() {
            // First the root: what the left node loses is found in those behind it.
            self.root.replace(Level::new(root.with(right)), guard);
        }
        root.fences[i].cell.replace(left, guard);
    }

    /// Removes the block that begins at `lower`, which is not "". The one before it has its range already.
    pub(super) fn remove(&self, lower: &[u8], guard: &Guard) {
        let (root, i, node) = self.node(lower, guard);
        let Some(j) = node.last(lower, true) else { return };
        debug_assert!(node.lower(j) == Some(lower) && !lower.is_empty());
        let left = node.without(j);
        if let Some(before) = i.checked_sub(1).map(|before| &root.fences[before].cell) {
            let there = &before.load(guard).fences;
            if left.is_empty() {
                return self.root.replace(Level::new(root.without(i)), guard);
            }
            if there.len() + left.len() <= MOST / 2 {
                before.replace(Level::new([there, &*left].concat()), guard);
                return self.root.replace(Level::new(root.without(i)), guard);
            }
        }
        if j > 0 {
            return root.fences[i].cell.replace(Level::new(left), guard);
        }
        // What is before the next bound is found in the node before this one from now on.
        let mut nodes = root.fences.to_vec();
        nodes[i] = Fence::new(&left[0].lower.clone(), Level::new(left));
        self.root.replace(Level::new(nodes), guard);
    }

    /// The root, and the node that has the bound at or before `key`, and its place. For the owner.
    fn node<'g>(&self, key: &[u8], guard: &'g Guard) -> (&'g Level<Level<V>>, usize, &'g Level<V>) {
        let root = self.root.load(guard);
        let i = root.last(key, true).unwrap_or(0);
        (root, i, root.fences[i].cell.load(guard))
    }
}

fn place<'g, V: Send + Sync + 'static>(
    root: &'g Level<Level<V>>,
    i: usize,
    node: &'g Level<V>,
    j: usize,
) -> Place<'g, V> {
    let upper = node.lower(j + 1).or_else(|| root.lower(i + 1));
    Place { lower: &node.fences[j].lower, cell: &node.fences[j].cell, upper }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    /// Few different bytes, so that bounds share starts; with zeros, which heads are filled up with.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let start = prop::sample::select(vec![&b""[..], b"key:", b"key:000000"]);
        let end = prop::collection::vec(prop::sample::select(vec![0, 1, b'k', 255]), 0..7);
        (start, end).prop_map(|(start, end)| [start, &end].concat())
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(Vec<u8>, usize),
        Remove(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (key(), 1usize..400).prop_map(|(key, count)| Step::Insert(key, count)),
            40 => any::<prop::sample::Index>().prop_map(Step::Remove),
        ]
    }

    type Model = BTreeMap<Vec<u8>, usize>;

    /// Inserts as many as fit between `key` and what follows it, one behind the other.
    fn insert(fences: &Fences<usize>, model: &mut Model, key: &[u8], count: usize, guard: &Guard) {
        let next = model.range(key.to_vec()..).next().map(|(next, _)| next.clone());
        let keys = (0..count).map(|n| [key, &(n as u16).to_be_bytes()].concat());
        let keys: Vec<_> = keys.take_while(|k| next.as_ref().is_none_or(|next| k < next)).collect();
        let new = keys.iter().enumerate().map(|(n, key)| (key.as_slice(), n)).collect();
        fences.insert(new, guard);
        model.extend(keys.into_iter().zip(0..));
    }

    fn check(fences: &Fences<usize>, model: &Model, key: &[u8], guard: &Guard) {
        let bound = |place: &Place<'_, usize>| (place.lower.to_vec(), *place.cell.load(guard));
        let own = |(key, value): (&Vec<u8>, &usize)| (key.clone(), *value);
        let found = fences.find(key, guard);
        assert_eq!(Some(bound(&found)), model.range(..=key.to_vec()).next_back().map(own));
        let behind = (std::ops::Bound::Excluded(found.lower.to_vec()), std::ops::Bound::Unbounded);
        let upper = model.range(behind).next().map(|(upper, _)| upper.as_slice());
        assert_eq!(found.upper, upper);
        let before = fences.before(key, guard).map(|place| bound(&place));
        assert_eq!(before, model.range(..key.to_vec()).next_back().map(own));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agree_with_a_map(
            steps in prop::collection::vec(step(), 1..300),
            keys in prop::collection::vec(key(), 20),
        ) {
            let (fences, guard) = (Fences::new(0), crossbeam_epoch::pin());
            let mut model = Model::from([(Vec::new(), 0)]);
            for step in steps {
                match step {
                    Step::Insert(key, count) => insert(&fences, &mut model, &key, count, &guard),
                    Step::Remove(which) if model.len() > 1 => {
                        let key = model.keys().nth(1 + which.index(model.len() - 1)).unwrap().clone();
                        fences.remove(&key, &guard);
                        model.remove(&key);
                    }
                    Step::Remove(_) => {}
                }
            }
            prop_assert_eq!(fences.len(&guard), model.len());
            prop_assert_eq!(Some(fences.last(&guard).lower), model.keys().next_back().map(Vec::as_slice));
            keys.iter().chain(model.keys()).for_each(|key| check(&fences, &model, key, &guard));
        }
    }

    #[test]
    fn a_new_bound_copies_no_other() {
        let (fences, guard) = (Fences::new(0), crossbeam_epoch::pin());
        let long = [b'k'; 60_000];
        fences.insert(vec![(&long, 1)], &guard);
        let place = fences.find(&long, &guard).lower.as_ptr();
        fences.insert(vec![(&long[1..], 2)], &guard);
        assert_eq!(fences.find(&long, &guard).lower.as_ptr(), place);
    }

    #[test]
    fn what_is_removed_leaves_no_nodes() {
        let (fences, guard) = (Fences::new(0), crossbeam_epoch::pin());
        let keys: Vec<[u8; 2]> = (0..10_000u16).map(u16::to_be_bytes).collect();
        // Full nodes, and what descends behind the last bound of the first one.
        for n in 0..1000u16 {
            fences.insert(vec![(&n.to_be_bytes(), 1)], &guard);
        }
        let last =
            fences.root.load(&guard).fences[0].cell.load(&guard).fences[MOST - 1].lower.clone();
        for n in (0..10_000u16).rev() {
            fences.insert(vec![(&[&last[..], &n.to_be_bytes()].concat(), 1)], &guard);
        }
        let nodes = fences.root.load(&guard).len();
        assert!(nodes <= 11_000 / (MOST / 2) + 3, "{nodes} nodes that are not half full");
        let fences = Fences::new(0);
        for place in [|n| n * 7919 % 10_000, |n| 9_999 - n, |n| n] {
            for key in &keys {
                fences.insert(vec![(key, 1)], &guard);
            }
            let nodes = fences.root.load(&guard).len();
            assert!(nodes < 10_000 / MOST + 3, "{nodes} nodes that are not full");
            (0..10_000).for_each(|n: usize| fences.remove(&keys[place(n)], &guard));
            assert_eq!((fences.root.load(&guard).len(), fences.len(&guard)), (1, 1));
        }
    }

    #[test]
    fn what_stays_is_found_while_nodes_split_and_merge() {
        const LASTING: u16 = 40;
        let fences = Fences::new(0);
        let lasting = || (LASTING..20_000).step_by(LASTING.into());
        lasting().for_each(|n| {
            fences.insert(vec![(&n.to_be_bytes(), 1)], &crossbeam_epoch::pin());
        });
        let shuffled = (1..20_000u32).map(|n| (n * 7919 % 20_000) as u16);
        let others = || shuffled.clone().filter(|n| n % LASTING != 0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for n in others() {
                        fences.insert(vec![(&n.to_be_bytes(), 2)], &crossbeam_epoch::pin());
                    }
                    for n in others() {
                        fences.remove(&n.to_be_bytes(), &crossbeam_epoch::pin());
                    }
                }
            });
            let (mut last, mut nodes) = (0, BTreeSet::new());
            while nodes.len() < 20 || last < 400 {
                for n in lasting() {
                    let guard = crossbeam_epoch::pin();
                    let key = n.to_be_bytes();
                    let found = fences.find(&key, &guard).lower;
                    let before = fences.before(&key, &guard).map(|place| place.lower.to_vec());
                    let least =
                        if n > LASTING { (n - LASTING).to_be_bytes().to_vec() } else { vec![] };
                    let fine = found == key && before.is_some_and(|b| b >= least && *b < key[..]);
                    stop.fetch_or(!fine, Ordering::Relaxed);
                    assert!(fine, "{n}");
                }
                nodes.insert(fences.root.load(&crossbeam_epoch::pin()).len());
                last += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// A thread that only reads drops them, and goes on.
    #[test]
    fn all_is_freed_whoever_drops_them() {
        struct Counted<'a>(&'a AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        static LIVE: AtomicUsize = AtomicUsize::new(0);
        let counted = || {
            LIVE.fetch_add(1, Ordering::Relaxed);
            Counted(&LIVE)
        };
        let fences = Fences::new(counted());
        for n in 1..20_000u32 {
            fences.insert(vec![(&n.to_be_bytes(), counted())], &crossbeam_epoch::pin());
        }
        let (dropped, end) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                drop(fences);
                dropped.wait();
                end.wait();
            });
            dropped.wait();
            let begun = Instant::now();
            while LIVE.load(Ordering::Relaxed) > 0 && begun.elapsed() < Duration::from_secs(60) {
                crossbeam_epoch::pin().flush();
                std::thread::yield_now();
            }
            end.wait();
        });
        assert_eq!(LIVE.load(Ordering::Relaxed), 0);
    }
}
