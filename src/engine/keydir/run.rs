//! Keys in order, packed into one allocation: what the blocks of the ordered index are made of.
//!
//! ```text
//!   | end of key 0 | end of key 1 | ... | key 0 | key 1 | ...        ends: u32, from the start
//! ```
//! Immutable, so any thread reads it. An empty one takes no memory.

/// Bytes of an end.
const END: usize = size_of::<u32>();

/// See the module.
#[derive(Debug, Default)]
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

    pub fn len(&self) -> usize {
        self.keys as usize
    }

    /// The bytes it takes, those of its keys included.
    pub fn memory(&self) -> usize {
        self.packed.len()
    }

    fn end(&self, i: usize) -> usize {
        let mut end = [0; END];
        end.copy_from_slice(&self.packed[i * END..(i + 1) * END]);
        u32::from_ne_bytes(end) as usize
    }

    fn key(&self, i: usize) -> &[u8] {
        let start = if i == 0 { self.len() * END } else { self.end(i - 1) };
        &self.packed[start..self.end(i)]
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
