//! Keys in order, packed into one allocation: what the blocks of the ordered index are made of.
//!
//! ```text
//!   | end of key 0 | end of key 1 | ... | key 0 | key 1 | ...        ends: u32, from the start
//! ```
//! Immutable, so any thread reads it. An empty one takes no memory.

use crate::engine::mmap;

/// Bytes of an end.
const END: usize = size_of::<u32>();

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Run {
    keys: u32,
    packed: Box<[u8]>,
}

impl Run {
    /// Packs keys, which are in order and each there once.
    pub fn new(keys: &[&[u8]]) -> Run {
        debug_assert!(keys.is_sorted_by(|a, b| a < b));
        let mut end = keys.len() * END;
        let mut packed = Vec::with_capacity(end + keys.iter().map(|key| key.len()).sum::<usize>());
        for key in keys {
            end += key.len();
            packed.extend_from_slice(&(end as u32).to_ne_bytes());
        }
        keys.iter().for_each(|key| packed.extend_from_slice(key));
        Run { keys: keys.len() as u32, packed: packed.into_boxed_slice() }
    }

    /// The same with one more key, if that is not there.
    pub fn with(&self, key: &[u8]) -> Run {
        let place = self.place(key);
        if place < self.len() && self.key(place) == key {
            return self.clone();
        }
        let (ends, keys) = self.packed.split_at(self.len() * END);
        let (before, behind) = ends.split_at(place * END);
        let (first, last) = keys.split_at(self.start(place) - ends.len());
        let mut packed = Vec::with_capacity(self.packed.len() + END + key.len());
        let mut push = |end: usize| packed.extend_from_slice(&(end as u32).to_ne_bytes());
        before.chunks_exact(END).for_each(|end| push(read_end(end) + END));
        push(self.start(place) + END + key.len());
        behind.chunks_exact(END).for_each(|end| push(read_end(end) + END + key.len()));
        [first, key, last].iter().for_each(|part| packed.extend_from_slice(part));
        Run { keys: self.keys + 1, packed: packed.into_boxed_slice() }
    }

    pub fn len(&self) -> usize {
        self.keys as usize
    }

    /// The bytes it takes, those of its keys included.
    pub fn memory(&self) -> usize {
        self.packed.len()
    }

    /// Where a key begins, or, behind the last one, where that ends.
    fn start(&self, i: usize) -> usize {
        match i.checked_sub(1) {
            None => self.len() * END,
            Some(before) => read_end(&self.packed[before * END..i * END]),
        }
    }

    /// One of the keys.
    pub(super) fn key(&self, i: usize) -> &[u8] {
        &self.packed[self.start(i)..self.start(i + 1)]
    }

    /// Asks for its bytes from memory, which will be read.
    pub fn prefetch(&self) {
        mmap::prefetch(&self.packed);
    }

    /// The keys from a place on.
    pub fn keys_from(&self, place: usize) -> impl Iterator<Item = &[u8]> {
        (place..self.len()).map(|i| self.key(i))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys_from(0)
    }

    /// The place of the first key that is not below `key`.
    pub fn place(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.key(middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        let place = self.place(key);
        place < self.len() && self.key(place) == key
    }
}

fn read_end(bytes: &[u8]) -> usize {
    let mut end = [0; END];
    end.copy_from_slice(bytes);
    u32::from_ne_bytes(end) as usize
}
