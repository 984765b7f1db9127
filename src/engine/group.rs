//! What one group commit has collected so far: encoded records, and for each what it changes.
//!
//! Owner: the writer. A group is made of units; a unit is what one command changes, and is there
//! after a crash as a whole or not at all. Later commands of the group see what earlier ones did,
//! through [`Group::find`] and [`Group::changed`], although nobody else does yet. Invariants: units
//! follow each other without gaps; what is undone, a unit or the end of an open one, leaves no trace,
//! not even a used sequence number.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::changed::Changed;
use super::keydir::KeyHash;
use super::numbering::{self, Numbering};
use super::record::{self, Record};
use crate::error::Result;

/// What a record does to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The key has this record's value.
    Put,
    /// The key is gone.
    Delete,
    /// All keys of the database are gone.
    Clear,
}

/// One record of the group.
#[derive(Debug, Clone, Copy)]
pub struct Staged {
    /// Where it starts in the group's bytes.
    pub start: usize,
    /// Its length there.
    pub size: usize,
    /// Its database.
    pub database: u8,
    /// What it does.
    pub change: Change,
    /// Its key's hash.
    pub hash: KeyHash,
    /// Whether it has an expiry time.
    pub expires: bool,
    key_len: u32,
    /// The record before it with the same hash, if that is in the look-up table.
    earlier: Option<u32>,
}

/// What the group did to a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Pending<'g> {
    /// Nothing: the index knows.
    Untouched,
    /// It removed it.
    Gone,
    /// It set it: the value and its expiry.
    Set(&'g [u8], Option<u64>),
}

/// Key hashes are hashes already.
#[derive(Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// A map from key hashes.
pub(super) type ByHash<V> = HashMap<KeyHash, V, BuildHasherDefault<Identity>>;

/// See the module.
#[derive(Default)]
pub struct Group {
    bytes: Vec<u8>,
    staged: Vec<Staged>,
    /// Where each unit ends in `bytes`, and how many records there are up to there.
    units: Vec<(usize, usize)>,
    next_seq: u64,
    /// From a key's hash to its newest record, for the first `looked_up` records: filled only when
    /// someone asks, so plain SETs do not pay for it.
    latest: ByHash<u32>,
    looked_up: usize,
    cleared: [Option<u32>; numbering::ALL],
    /// The newest record that changes the numbering.
    renumbered: Option<u32>,
    /// A bit for each database that a record, perhaps an undone one, was about.
    touched: u32,
    /// What the first records did, for those who walk over keys.
    changed: Changed,
}

impl Group {
    /// An empty group whose first record gets the sequence number `next_seq`.
    pub fn new(next_seq: u64) -> Group {
        Group { next_seq, ..Group::default() }
    }

    /// Empties it for the next group; sequence numbers go on.
    pub fn reset(&mut self) {
        const KEEP: usize = 8 * 1024 * 1024;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.staged.clear();
        self.units.clear();
        self.forget_look_ups();
        self.cleared = Default::default();
        self.renumbered = None;
        self.touched = 0;
    }

    /// Whether something in a database may have been changed.
    pub fn touches(&self, database: u8) -> bool {
        self.touched >> database & 1 == 1
    }

    fn forget_look_ups(&mut self) {
        self.latest.clear();
        self.looked_up = 0;
        self.changed.reset();
    }

    /// The encoded records.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All records, in order.
    pub fn staged(&self) -> &[Staged] {
        &self.staged
    }

    /// The end of each unit: in bytes, and in records.
    pub fn units(&self) -> &[(usize, usize)] {
        &self.units
    }

    /// The sequence number of the `i`th record.
    pub fn seq(&self, i: usize) -> u64 {
        self.next_seq - (self.staged.len() - i) as u64
    }

    /// The key of a record of this group.
    pub fn key(&self, staged: &Staged) -> &[u8] {
        key_of(&self.bytes, staged)
    }

    /// When a record of this group ends.
    pub fn expiry(&self, staged: &Staged) -> Option<u64> {
        record::expiry_of(&self.bytes[staged.start..])
    }

    fn value(&self, staged: &Staged) -> &[u8] {
        let start = staged.start + record::size(staged.key_len as usize, 0, staged.expires);
        &self.bytes[start..staged.start + staged.size]
    }

    fn open_unit(&self) -> (usize, usize) {
        self.units.last().copied().unwrap_or((0, 0))
    }

    /// Adds a record to the open unit. Lengths must have been checked.
    pub fn push(
        &mut self,
        database: u8,
        change: Change,
        hash: KeyHash,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) {
        let start = self.bytes.len();
        let flags = match change {
            Change::Put => 0,
            Change::Delete => record::TOMBSTONE,
            Change::Clear => record::CLEAR,
        };
        let record = Record { seq: self.next_seq, flags, database, expires_at, key, value };
        record::append(&mut self.bytes, &record);
        self.next_seq += 1;
        self.touched |= 1 << database;
        if change == Change::Clear {
            self.cleared[usize::from(database)] = Some(self.staged.len() as u32);
        }
        if database == record::STORE {
            self.renumbered = Some(self.staged.len() as u32);
        }
        self.staged.push(Staged {
            start,
            size: self.bytes.len() - start,
            database,
            change,
            hash,
            expires: expires_at.is_some(),
            key_len: key.len() as u32,
            earlier: None,
        });
    }

    /// Ends the open unit. Its records but the last are marked to go on, so that a crash in their
    /// middle undoes them all.
    pub fn end_unit(&mut self) {
        let (start, first) = self.open_unit();
        if self.bytes.len() == start {
            return;
        }
        let more = &self.staged[first..self.staged.len() - 1];
        for staged in more {
            record::add_flags(&mut self.bytes[staged.start..], record::BATCH_GOES_ON);
        }
        self.units.push((self.bytes.len(), self.staged.len()));
    }

    /// Undoes all but the first `records` records, which must include those of all ended units.
    pub fn undo_to(&mut self, records: usize) {
        debug_assert!(records >= self.open_unit().1);
        let Some(first) = self.staged.get(records) else { return };
        self.bytes.truncate(first.start);
        self.next_seq -= (self.staged.len() - records) as u64;
        self.staged.truncate(records);
        if self.looked_up > records || self.changed.upto() > records {
            self.forget_look_ups();
        }
        let undone = |record: &Option<u32>| record.is_some_and(|record| record as usize >= records);
        if undone(&self.renumbered) {
            let of_store = |staged: &Staged| staged.database == record::STORE;
            self.renumbered = self.staged.iter().rposition(of_store).map(|i| i as u32);
        }
        if self.cleared.iter().any(undone) {
            // Clears before the undone ones show again.
            self.cleared = Default::default();
            for (i, staged) in self.staged.iter().enumerate() {
                if staged.change == Change::Clear {
                    self.cleared[usize::from(staged.database)] = Some(i as u32);
                }
            }
        }
    }

    /// The numbering of databases, if the group changed it.
    pub fn numbering(&self) -> Option<Numbering> {
        self.numbering_in(self.renumbered? as usize)
    }

    /// The numbering that record `i` begins, if it is about that.
    pub fn numbering_in(&self, i: usize) -> Option<Numbering> {
        let staged = self.staged.get(i).filter(|staged| staged.database == record::STORE)?;
        Numbering::from_bytes(self.value(staged))
    }

    /// What the group changed so far, in order. `indexed` tells whether the index has a key.
    pub fn changed(
        &mut self,
        mut indexed: impl FnMut(&Staged, &[u8]) -> Result<bool>,
    ) -> Result<&Changed> {
        for i in self.changed.upto()..self.staged.len() {
            let staged = self.staged[i];
            let key = key_of(&self.bytes, &staged);
            let was_put = |record: usize| self.staged[record].change == Change::Put;
            self.changed.add(&staged, key, was_put, || indexed(&staged, key))?;
        }
        Ok(&self.changed)
    }

    /// What [`Group::changed`] found when it was last asked.
    pub fn known_changes(&self) -> &Changed {
        &self.changed
    }

    /// What record `i` did to its key; never untouched.
    pub fn pending(&self, i: usize) -> Pending<'_> {
        let staged = &self.staged[i];
        match staged.change {
            Change::Put => Pending::Set(self.value(staged), self.expiry(staged)),
            Change::Delete | Change::Clear => Pending::Gone,
        }
    }

    /// What the group did to a key so far.
    pub fn find(&mut self, database: u8, key: &[u8], hash: KeyHash) -> Pending<'_> {
        let newest = self.newest(database, key, hash);
        let cleared = self.cleared[usize::from(database)];
        match newest {
            Some(i) if cleared.is_none_or(|clear| i > clear as usize) => self.pending(i),
            _ if cleared.is_some() => Pending::Gone,
            _ => Pending::Untouched,
        }
    }

    /// The newest record of a key in the group.
    fn newest(&mut self, database: u8, key: &[u8], hash: KeyHash) -> Option<usize> {
        for i in self.looked_up..self.staged.len() {
            if self.staged[i].change != Change::Clear {
                self.staged[i].earlier = self.latest.insert(self.staged[i].hash, i as u32);
            }
        }
        self.looked_up = self.staged.len();
        let mut at = self.latest.get(&hash).copied();
        while let Some(i) = at {
            let staged = &self.staged[i as usize];
            if staged.database == database && self.key(staged) == key {
                return Some(i as usize);
            }
            at = staged.earlier;
        }
        None
    }

    /// Puts checksums into the records `first..end`, which are one write. `after_sync`: everything
    /// before it in the segment is durable.
    pub fn seal(&mut self, first: usize, end: usize, after_sync: bool) {
        for (i, staged) in self.staged[first..end].iter().enumerate() {
            let bytes = &mut self.bytes[staged.start..staged.start + staged.size];
            // It may have been sealed for another place before, where there was no room.
            record::remove_flags(bytes, record::GROUP_START);
            if i == 0 && after_sync {
                record::add_flags(bytes, record::GROUP_START);
            }
            record::seal(bytes);
        }
    }
}

fn key_of<'b>(bytes: &'b [u8], staged: &Staged) -> &'b [u8] {
    let start = staged.start + record::size(0, 0, staged.expires);
    &bytes[start..start + staged.key_len as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::keydir::KeyHasher;

    #[test]
    fn later_commands_see_earlier_ones_and_undone_ones_leave_no_trace() {
        let hasher = KeyHasher::default();
        let mut group = Group::new(10);
        let put = |group: &mut Group, key: &[u8], value: &[u8]| {
            group.push(0, Change::Put, hasher.hash(key), key, value, None);
        };
        let find = |group: &mut Group, key: &[u8]| match group.find(0, key, hasher.hash(key)) {
            Pending::Untouched => "untouched".to_owned(),
            Pending::Gone => "gone".to_owned(),
            Pending::Set(value, _) => String::from_utf8_lossy(value).into_owned(),
        };
        put(&mut group, b"a", b"1");
        group.end_unit();
        put(&mut group, b"a", b"2");
        put(&mut group, b"b", b"1");
        group.end_unit();
        assert_eq!(
            (find(&mut group, b"a"), find(&mut group, b"c")),
            ("2".into(), "untouched".into())
        );
        let bytes = group.bytes().len();
        group.push(0, Change::Clear, hasher.hash(b""), b"", b"", None);
        put(&mut group, b"a", b"3");
        assert_eq!((find(&mut group, b"a"), find(&mut group, b"b")), ("3".into(), "gone".into()));
        group.undo_to(3);
        assert_eq!((find(&mut group, b"a"), find(&mut group, b"b")), ("2".into(), "1".into()));
        assert_eq!((group.bytes().len(), group.next_seq, group.units().len()), (bytes, 13, 2));
        group.push(0, Change::Delete, hasher.hash(b"a"), b"a", b"", None);
        group.end_unit();
        assert_eq!(find(&mut group, b"a"), "gone");
    }
}
