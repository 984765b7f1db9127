//! The hint of a segment: its keys, sorted, with where their newest records in it lie. An open reads
//! hints in place of segments; the compactor asks them whether an older segment has a key.
//!
//! ```text
//!   magic "KVSHINT\n" | version u16 | zero u16 | crc u32 of all that follows
//!   segment number, bytes of it covered, largest seq, smallest seq, entries: u64 each
//!   clears u32, restarts u32 | clears: (database u64, seq u64) each | restarts: u32 each
//!   entries, by (database, key):
//!     varint bytes shared with the key before | varint bytes that follow | those bytes
//!     u8 database * 16 + flags | varint offset | varint size | varint seq - smallest seq
//!     varint expiry in ms since 1970, if the flag says so
//! ```
//! Every [`RESTART`]th entry shares nothing with the one before it, and `restarts` has the offsets
//! of these from the first entry: so a key can be looked for by halving. Numbers are little-endian;
//! varints are LEB128. A hint is only ever a short cut: one that is missing, damaged or about fewer
//! bytes than the segment has costs time (the segment, or its rest, is scanned), never a key.

use std::cmp::Ordering;

use super::record::{self, EXPIRES, Record, TOMBSTONE};
use super::scan::Scan;

const MAGIC: [u8; 8] = *b"KVSHINT\n";
const VERSION: u16 = 2;
/// Since version 2: the flag of a key of the store's own.
const OWN: u8 = 1 << 2;
const RESTART: usize = 32;
const PREAMBLE: usize = 16;
const FIXED: usize = PREAMBLE + 5 * 8 + 2 * 4;

/// What a hint knows of one key's newest record in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The database.
    pub database: u8,
    /// The key.
    pub key: &'a [u8],
    /// Where the record starts in the segment.
    pub offset: u64,
    /// Its length on disk.
    pub size: u32,
    /// Its sequence number.
    pub seq: u64,
    /// Whether it removes the key.
    pub tombstone: bool,
    /// When it ends.
    pub expires_at: Option<u64>,
}

/// A hint whose checksum was right.
#[derive(Debug, Clone)]
pub struct Hint {
    bytes: Vec<u8>,
    head: Head,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    segment: u64,
    covered: u64,
    max_seq: u64,
    min_seq: u64,
    entries: u64,
    clears: usize,
    restarts: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        n |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

/// Collects the entries of one segment and encodes them.
#[derive(Debug, Default)]
pub struct Builder<'a> {
    entries: Vec<Entry<'a>>,
    clears: Vec<(u8, u64)>,
    seqs: Option<(u64, u64)>,
}

impl<'a> Builder<'a> {
    /// The builder for what a scan found.
    pub fn from_scan(scan: &'a Scan<'_>) -> Builder<'a> {
        let mut builder = Builder::default();
        for (offset, record) in scan.records.iter().copied().chain(scan.told()) {
            builder.add_record(offset, &record);
        }
        builder
    }

    /// Adds a record of the segment.
    pub fn add_record(&mut self, offset: u64, record: &Record<'a>) {
        let (min, max) = self.seqs.unwrap_or((record.seq, record.seq));
        self.seqs = Some((min.min(record.seq), max.max(record.seq)));
        if record.is_clear() {
            self.clears.push((record.database, record.seq));
            return;
        }
        self.entries.push(Entry {
            database: record.database,
            key: record.key,
            offset,
            size: record.size() as u32,
            seq: record.seq,
            tombstone: record.is_tombstone(),
            expires_at: record.expires_at,
        });
    }

    /// Adds the entries of a hint that covers the segment's first bytes.
    pub fn add_hint(&mut self, keys: &'a [(Vec<u8>, Entry<'static>)], hint: &Hint) {
        if hint.head.entries > 0 || hint.head.clears > 0 {
            let (min, max) = self.seqs.unwrap_or((hint.head.min_seq, hint.head.max_seq));
            self.seqs = Some((min.min(hint.head.min_seq), max.max(hint.head.max_seq)));
        }
        self.clears.extend(hint.clears());
        self.entries.extend(keys.iter().map(|(key, entry)| Entry { key, ..*entry }));
    }

    /// The encoded hint of segment `number`, of which the first `covered` bytes were looked at.
    pub fn encode(mut self, number: u64, covered: u64) -> Hint {
        self.entries = sorted(&self.entries);
        self.entries.dedup_by(|b, a| (a.database, a.key) == (b.database, b.key));
        let (min_seq, max_seq) = self.seqs.unwrap_or((0, 0));
        let (mut restarts, mut body) = (Vec::new(), Vec::with_capacity(self.entries.len() * 32));
        let mut before: &[u8] = &[];
        for (i, entry) in self.entries.iter().enumerate() {
            if i % RESTART == 0 {
                restarts.push(body.len() as u32);
                before = &[];
            }
            encode_entry(&mut body, entry, before, min_seq);
            before = entry.key;
        }
        let head = Head {
            segment: number,
            covered,
            max_seq,
            min_seq,
            entries: self.entries.len() as u64,
            clears: self.clears.len(),
            restarts: restarts.len(),
        };
        let mut bytes = Vec::with_capacity(FIXED + restarts.len() * 4 + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        for n in [head.segment, head.covered, head.max_seq, head.min_seq, head.entries] {
            bytes.extend_from_slice(&n.to_le_bytes());
        }
        bytes.extend_from_slice(&(head.clears as u32).to_le_bytes());
        bytes.extend_from_slice(&(head.restarts as u32).to_le_bytes());
        for (database, seq) in &self.clears {
            bytes.extend_from_slice(&u64::from(*database).to_le_bytes());
            bytes.extend_from_slice(&seq.to_le_bytes());
        }
        for restart in &restarts {
            bytes.extend_from_slice(&restart.to_le_bytes());
        }
        bytes.extend_from_slice(&body);
        let crc = crc32fast::hash(&bytes[PREAMBLE..]);
        bytes[12..PREAMBLE].copy_from_slice(&crc.to_le_bytes());
        Hint { bytes, head }
    }
}

/// The entries by (database, key), of equal ones the newest first. Nearly all comparisons are settled
/// by eight bytes behind what all keys begin with; the keys themselves lie all over the segment.
fn sorted<'a>(entries: &[Entry<'a>]) -> Vec<Entry<'a>> {
    let first = entries.first().map_or(&[][..], |entry| entry.key);
    let prefix = entries.iter().fold(first.len(), |len, entry| shared(&first[..len], entry.key));
    let mut order: Vec<(u8, u64, u32)> = (0..)
        .zip(entries)
        .map(|(i, entry)| {
            let mut word = [0; 8];
            let rest = &entry.key[prefix..];
            let len = rest.len().min(word.len());
            word[..len].copy_from_slice(&rest[..len]);
            (entry.database, u64::from_be_bytes(word), i)
        })
        .collect();
    order.sort_unstable_by(|a, b| {
        (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| {
            let (a, b) = (&entries[a.2 as usize], &entries[b.2 as usize]);
            a.key.cmp(b.key).then(b.seq.cmp(&a.seq))
        })
    });
    order.iter().map(|(_, _, i)| entries[*i as usize]).collect()
}

/// How many bytes two keys begin with alike.
fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn encode_entry(body: &mut Vec<u8>, entry: &Entry<'_>, before: &[u8], min_seq: u64) {
    let shared = shared(entry.key, before);
    put_varint(body, shared as u64);
    put_varint(body, (entry.key.len() - shared) as u64);
    body.extend_from_slice(&entry.key[shared..]);
    let mut flags = if entry.tombstone { TOMBSTONE } else { 0 };
    if entry.expires_at.is_some() {
        flags |= EXPIRES;
    }
    if entry.database == record::STORE {
        flags |= OWN;
    }
    body.push((entry.database % record::STORE) << 4 | flags);
    put_varint(body, entry.offset);
    put_varint(body, u64::from(entry.size));
    put_varint(body, entry.seq - min_seq);
    if let Some(at) = entry.expires_at {
        put_varint(body, at);
    }
}

impl Hint {
    /// The hint in `bytes`; otherwise what is wrong with it.
    pub fn decode(bytes: Vec<u8>) -> Result<Hint, &'static str> {
        if bytes.len() < FIXED || bytes[..8] != MAGIC {
            return Err("it is no hint file");
        }
        if !(1..=VERSION).contains(&u16::from_le_bytes([bytes[8], bytes[9]])) {
            return Err("it has a format version that this kvs does not read");
        }
        if bytes[10..12] != [0, 0] {
            return Err("its header is damaged");
        }
        if u32_at(&bytes, 12) != Some(crc32fast::hash(&bytes[PREAMBLE..])) {
            return Err("its checksum does not match");
        }
        let long = |i: usize| u64_at(&bytes, PREAMBLE + i * 8).unwrap_or(0);
        let short = |i: usize| u32_at(&bytes, PREAMBLE + 40 + i * 4).unwrap_or(0) as usize;
        let head = Head {
            segment: long(0),
            covered: long(1),
            max_seq: long(2),
            min_seq: long(3),
            entries: long(4),
            clears: short(0),
            restarts: short(1),
        };
        if (FIXED + head.clears * 16).saturating_add(head.restarts * 4) > bytes.len() {
            return Err("its tables are cut short");
        }
        Ok(Hint { bytes, head })
    }

    /// The file's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The segment that it is about.
    pub fn segment(&self) -> u64 {
        self.head.segment
    }

    /// How many bytes of the segment it is about.
    pub fn covered(&self) -> u64 {
        self.head.covered
    }

    /// The number of keys.
    pub fn keys(&self) -> u64 {
        self.head.entries
    }

    /// The largest sequence number in the segment, 0 in an empty one.
    pub fn max_seq(&self) -> u64 {
        self.head.max_seq
    }

    /// The smallest sequence number in the segment, 0 in an empty one.
    pub fn min_seq(&self) -> u64 {
        self.head.min_seq
    }

    /// The cleared databases, with the sequence numbers of the clears.
    pub fn clears(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        (0..self.head.clears).filter_map(|i| {
            let at = FIXED + i * 16;
            Some((u64_at(&self.bytes, at)? as u8, u64_at(&self.bytes, at + 8)?))
        })
    }

    fn restart(&self, i: usize) -> Option<usize> {
        Some(u32_at(&self.bytes, FIXED + self.head.clears * 16 + i * 4)? as usize)
    }

    fn body(&self) -> &[u8] {
        let start = FIXED + self.head.clears * 16 + self.head.restarts * 4;
        self.bytes.get(start..).unwrap_or(&[])
    }

    /// The entries from the first one on.
    pub fn entries(&self) -> Entries<'_> {
        Entries { hint: self, at: 0, key: Vec::new() }
    }

    /// The entries from the first one on whose (database, key) is not below this one.
    pub fn entries_from(&self, database: u8, key: &[u8]) -> Entries<'_> {
        let (mut low, mut high) = (0, self.head.restarts);
        while high - low > 1 {
            let middle = (low + high) / 2;
            match self.restart_order(middle, database, key) {
                Some(Ordering::Less) => low = middle,
                _ => high = middle,
            }
        }
        let mut entries = self.entries();
        entries.at = self.restart(low).unwrap_or(usize::MAX);
        loop {
            let (at, before) = (entries.at, entries.key.clone());
            match entries.next() {
                Some(entry) if (entry.database, entry.key) < (database, key) => {}
                _ => {
                    (entries.at, entries.key) = (at, before);
                    return entries;
                }
            }
        }
    }

    fn restart_order(&self, i: usize, database: u8, key: &[u8]) -> Option<Ordering> {
        let mut entries = self.entries();
        entries.at = self.restart(i)?;
        let entry = entries.next()?;
        Some((entry.database, entry.key).cmp(&(database, key)))
    }

    /// Keys that cut the hint into `parts` of about the same number of entries.
    pub fn quantiles(&self, parts: usize) -> Vec<(u8, Vec<u8>)> {
        let cut = |part| {
            let mut entries = self.entries();
            entries.at = self.restart(self.head.restarts * part / parts)?;
            entries.next().map(|entry| (entry.database, entry.key.to_vec()))
        };
        (1..parts).filter_map(cut).collect()
    }
}

/// A walk over the entries of a hint. Not an `Iterator`: an entry borrows the walk's key buffer.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    hint: &'a Hint,
    at: usize,
    key: Vec<u8>,
}

impl Entries<'_> {
    /// The next entry, `None` behind the last one.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Entry<'_>> {
        let body = self.hint.body();
        let mut at = self.at;
        if at >= body.len() {
            return None;
        }
        let shared = varint(body, &mut at)? as usize;
        let rest = varint(body, &mut at)? as usize;
        if shared > self.key.len() {
            return None;
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(body.get(at..at.checked_add(rest)?)?);
        at += rest;
        let flags = *body.get(at)?;
        at += 1;
        let offset = varint(body, &mut at)?;
        let size = varint(body, &mut at)? as u32;
        let seq = self.hint.head.min_seq.checked_add(varint(body, &mut at)?)?;
        let expires = flags & EXPIRES != 0;
        let expires_at = if expires { Some(varint(body, &mut at)?) } else { None };
        self.at = at;
        Some(Entry {
            database: if flags & OWN == 0 { flags >> 4 } else { record::STORE },
            key: &self.key,
            offset,
            size,
            seq,
            tombstone: flags & TOMBSTONE != 0,
            expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::hint_lookups::Lookups;
    use super::*;
    use proptest::prelude::*;

    const DATABASES: [u8; 3] = [0, 1, record::STORE];

    fn hint_of(keys: &[Vec<u8>]) -> Hint {
        let mut builder = Builder::default();
        for (i, key) in keys.iter().enumerate() {
            let record = Record {
                seq: 1000 + i as u64,
                flags: if i % 5 == 0 { TOMBSTONE } else { 0 },
                database: DATABASES[i % 3],
                expires_at: (i % 7 == 0).then_some(1_700_000_000_000),
                key,
                value: b"",
            };
            builder.add_record(i as u64 * 50, &record);
        }
        builder.encode(9, 4096)
    }

    fn all(mut entries: Entries<'_>) -> Vec<(u8, Vec<u8>, u64)> {
        let mut out = Vec::new();
        while let Some(entry) = entries.next() {
            out.push((entry.database, entry.key.to_vec(), entry.seq));
        }
        out
    }

    proptest! {
        #[test]
        fn comes_back_sorted_with_the_newest_of_each_key(
            keys in prop::collection::vec(prop::collection::vec(0u8..4, 0..6), 0..300),
            probes in prop::collection::vec((0u8..3, prop::collection::vec(0u8..5, 0..6)), 0..20),
            asked in 1usize..300,
        ) {
            let hint = hint_of(&keys);
            let mut model = std::collections::BTreeMap::new();
            for (i, key) in keys.iter().enumerate() {
                model.insert((DATABASES[i % 3], key.clone()), 1000 + i as u64);
            }
            let decoded = Hint::decode(hint.as_bytes().to_vec()).unwrap();
            prop_assert_eq!((decoded.segment(), decoded.covered()), (9, 4096));
            let expected: Vec<_> =
                model.iter().map(|((database, key), seq)| (*database, key.clone(), *seq)).collect();
            prop_assert_eq!(all(decoded.entries()), expected.clone());
            for probe in [&b"\x01\x02"[..], b"", b"\x03\x03\x03\x03\x03", b"\x00"] {
                let from: Vec<_> =
                    expected.iter().filter(|e| (e.0, &e.1[..]) >= (1, probe)).cloned().collect();
                prop_assert_eq!(all(decoded.entries_from(1, probe)), from);
            }
            let mut lookups = Lookups::new(&decoded);
            // Some far from each other, some next to each other.
            let some = model.keys().step_by(asked).cloned();
            let probes: std::collections::BTreeSet<_> = some.chain(probes).collect();
            for (database, key) in probes {
                let there = model.contains_key(&(database, key.clone()));
                prop_assert_eq!(lookups.contains(database, &key), there);
            }
        }

        #[test]
        fn garbage_with_a_right_checksum_does_not_panic(mut bytes: Vec<u8>) {
            let mut whole = hint_of(&[b"a".to_vec(), b"b".to_vec()]).as_bytes().to_vec();
            whole.truncate(FIXED);
            whole.append(&mut bytes);
            let crc = crc32fast::hash(&whole[PREAMBLE..]);
            whole[12..PREAMBLE].copy_from_slice(&crc.to_le_bytes());
            if let Ok(hint) = Hint::decode(whole) {
                all(hint.entries());
                all(hint.entries_from(1, b"x"));
                hint.quantiles(4);
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let good = hint_of(&[b"one".to_vec(), b"two".to_vec()]).as_bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Hint::decode(bad).is_err(), "bit {bit} flipped unnoticed");
        }
        for len in 0..good.len() {
            assert!(Hint::decode(good[..len].to_vec()).is_err(), "cut to {len} unnoticed");
        }
    }
}
