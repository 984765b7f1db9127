//! Looking up many keys in a hint, in order: neighbours share the way there.
//!
//! Thread: whoever has the hint.

use std::cmp::Ordering;

use super::hint::{Entries, Hint};

/// How many entries are walked over before the next key is searched for.
const NEAR: usize = 32;

/// See the module.
pub struct Lookups<'a> {
    hint: &'a Hint,
    walk: Entries<'a>,
    database: u8,
    key: Vec<u8>,
    /// There is no such entry: the walk is at its end.
    ended: bool,
}

impl<'a> Lookups<'a> {
    /// From the first key on.
    pub fn new(hint: &'a Hint) -> Lookups<'a> {
        let mut lookups =
            Lookups { hint, walk: hint.entries(), database: 0, key: Vec::new(), ended: false };
        lookups.advance();
        lookups
    }

    fn advance(&mut self) {
        match self.walk.next() {
            Some(entry) => {
                self.database = entry.database;
                self.key.clear();
                self.key.extend_from_slice(entry.key);
            }
            None => self.ended = true,
        }
    }

    /// Whether the segment has a record of this key, which is not below the last one asked for.
    pub fn contains(&mut self, database: u8, key: &[u8]) -> bool {
        for _ in 0..NEAR {
            match self.order(database, key) {
                Some(Ordering::Less) => self.advance(),
                order => return order == Some(Ordering::Equal),
            }
        }
        self.walk = self.hint.entries_from(database, key);
        self.advance();
        self.order(database, key) == Some(Ordering::Equal)
    }

    fn order(&self, database: u8, key: &[u8]) -> Option<Ordering> {
        (!self.ended).then(|| (self.database, &self.key[..]).cmp(&(database, key)))
    }
}
