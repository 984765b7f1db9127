//! What a group commit has changed so far, by key and in order: for the commands in it that count
//! keys or walk over them. Point reads do without ([`Group::find`](super::group::Group::find)).
//!
//! Owner: the writer, as a part of its [`Group`](super::group::Group). It is filled only when someone
//! asks, so plain writes do not pay for it. Invariant: it says what the records up to `upto` did, in
//! their order, to an index that does not change meanwhile.

use std::collections::BTreeMap;

use super::group::{Change, Staged};
use super::numbering;
use crate::error::Result;
use crate::key_range::{KeyRange, is_empty};

/// The newest record of a key, and whether the index has the key as well.
#[derive(Debug, Clone, Copy)]
pub struct Newest {
    /// The record's place in the group.
    pub record: usize,
    /// Whether the index leads to the key, expired or not.
    pub indexed: bool,
}

/// What was changed in one database.
#[derive(Debug, Default)]
pub struct Database {
    keys: BTreeMap<Box<[u8]>, Newest>,
    /// Nothing in the index counts any more.
    cleared: bool,
    /// How many keys there are more than in the index, or than none if it was cleared.
    more: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Changed {
    databases: [Database; numbering::ALL],
    upto: usize,
}

impl Changed {
    /// How many records it knows of.
    pub fn upto(&self) -> usize {
        self.upto
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        if self.upto > 0 {
            *self = Changed::default();
        }
    }

    /// Takes in the next record of the group, which is of `key`. `was_put` tells whether an earlier
    /// record sets its key; `indexed` looks the key up in the index.
    pub fn add(
        &mut self,
        staged: &Staged,
        key: &[u8],
        was_put: impl FnOnce(usize) -> bool,
        indexed: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let database = &mut self.databases[usize::from(staged.database)];
        if staged.change == Change::Clear {
            *database = Database { cleared: true, ..Database::default() };
        } else {
            let now = staged.change == Change::Put;
            let (before, indexed) = match database.keys.get(key) {
                Some(newest) => (was_put(newest.record), newest.indexed),
                None if database.cleared => (false, false),
                None => indexed().map(|indexed| (indexed, indexed))?,
            };
            database.more += i64::from(now) - i64::from(before);
            let newest = Newest { record: self.upto, indexed };
            match database.keys.get_mut(key) {
                Some(known) => *known = newest,
                None => drop(database.keys.insert(key.into(), newest)),
            }
        }
        self.upto += 1;
        Ok(())
    }

    /// What was changed in a database.
    pub fn of(&self, database: u8) -> &Database {
        &self.databases[usize::from(database)]
    }
}

impl Database {
    /// Whether nothing in the index counts any more.
    pub fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// How many keys there are, of which the index has `indexed`.
    pub fn len(&self, indexed: u64) -> u64 {
        let before = if self.cleared { 0 } else { indexed };
        before.saturating_add_signed(self.more)
    }

    /// The newest record of a key that was changed.
    pub fn get(&self, key: &[u8]) -> Option<Newest> {
        self.keys.get(key).copied()
    }

    /// The keys of a range that were changed, in order.
    pub fn range<'c>(
        &'c self,
        range: KeyRange<'_>,
    ) -> impl DoubleEndedIterator<Item = (&'c [u8], Newest)> + use<'c> {
        // `BTreeMap::range` panics on some that are.
        let keys = (!is_empty(range)).then(|| self.keys.range::<[u8], _>(range));
        keys.into_iter().flatten().map(|(key, newest)| (&**key, *newest))
    }
}
