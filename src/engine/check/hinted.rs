//! A hint against its segment. An open believes a hint whose checksum is right, so what it says has
//! to be what the segment holds: the newest record of each key, and all clears.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use super::report::{Gone, Was};
use crate::engine::hint::{Entry, Hint};
use crate::engine::record::Record;

/// What a hint says, in the order of the segment.
pub struct Expected<'h> {
    hint: &'h Hint,
    /// Offset and digest of each entry, and whether such a record was found.
    entries: Vec<(u64, u64, bool)>,
    next: usize,
    clears: Vec<(u8, u64)>,
    /// Where the segment says something else.
    wrong: Option<u64>,
}

fn digest(fields: (u8, &[u8], u64, u64, bool, Option<u64>)) -> u64 {
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish()
}

fn digest_of_entry(entry: &Entry<'_>) -> u64 {
    let size = u64::from(entry.size);
    let (seq, tombstone) = (entry.seq, entry.tombstone);
    digest((entry.database, entry.key, size, seq, tombstone, entry.expires_at))
}

impl<'h> Expected<'h> {
    pub fn new(hint: &'h Hint) -> Expected<'h> {
        let mut entries = Vec::with_capacity(hint.keys() as usize);
        let mut walk = hint.entries();
        while let Some(entry) = walk.next() {
            entries.push((entry.offset, digest_of_entry(&entry), false));
        }
        entries.sort_unstable();
        Expected { hint, entries, next: 0, clears: Vec::new(), wrong: None }
    }

    /// How many bytes of the segment the hint is about.
    pub fn covered(&self) -> u64 {
        self.hint.covered()
    }

    /// Compares with the next sound record.
    pub fn see(&mut self, offset: u64, record: &Record<'_>) {
        if offset >= self.hint.covered() {
            return;
        }
        if record.is_clear() {
            self.clears.push((record.database, record.seq));
            return;
        }
        while self.entries.get(self.next).is_some_and(|(at, ..)| *at < offset) {
            self.next += 1;
        }
        let at = self.entries.get(self.next).map(|(at, ..)| *at);
        if at == Some(offset) {
            let (size, seq) = (record.size() as u64, record.seq);
            let tombstone = record.is_tombstone();
            let fields = (record.database, record.key, size, seq, tombstone, record.expires_at);
            let (_, expected, found) = &mut self.entries[self.next];
            *found = digest(fields) == *expected;
        } else if !self.has_newer(record) {
            self.wrong.get_or_insert(offset);
        }
    }

    fn has_newer(&self, record: &Record<'_>) -> bool {
        let mut walk = self.hint.entries_from(record.database, record.key);
        walk.next().is_some_and(|entry| {
            (entry.database, entry.key) == (record.database, record.key) && entry.seq > record.seq
        })
    }

    /// After all records: the first place where the hint is wrong, given that nothing could be
    /// found in `damage`.
    pub fn contradiction(&self, damage: &[Range<u64>]) -> Option<u64> {
        let excused = |at: u64| damage.iter().any(|range| range.contains(&at));
        let missed = self.entries.iter().find(|(at, _, found)| !found && !excused(*at));
        let missed = missed.map(|(at, ..)| *at);
        let invented = self.clears.iter().any(|clear| !self.hint.clears().any(|c| c == *clear));
        let lost = damage.is_empty() && self.lost_clears().next().is_some();
        let clears = (invented || lost).then_some(self.hint.covered());
        self.wrong.or(missed).or(clears)
    }

    fn lost_clears(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.hint.clears().filter(|clear| !self.clears.contains(clear))
    }

    /// The records that the hint knows to be in `range`.
    pub fn gone(&self, range: &Range<u64>) -> Vec<Gone> {
        gone(self.hint, range)
    }

    /// The clears that the hint knows of and that were not found, as if they were at `offset`.
    pub fn gone_clears(&self, offset: u64) -> Vec<Gone> {
        let gone = |(database, seq)| Gone {
            database,
            key: Vec::new(),
            seq,
            offset,
            what: Was::Clear,
            superseded: false,
            hides: false,
        };
        self.lost_clears().map(gone).collect()
    }
}

/// The records that a hint knows to be in `range`, in their order there.
pub fn gone(hint: &Hint, range: &Range<u64>) -> Vec<Gone> {
    let (mut gone, mut walk) = (Vec::new(), hint.entries());
    while let Some(entry) = walk.next() {
        if range.contains(&entry.offset) {
            gone.push(Gone {
                database: entry.database,
                key: entry.key.to_vec(),
                seq: entry.seq,
                offset: entry.offset,
                what: if entry.tombstone { Was::Tombstone } else { Was::Value },
                superseded: false,
                hides: false,
            });
        }
    }
    gone.sort_by_key(|gone| gone.offset);
    gone
}
