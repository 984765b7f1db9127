//! One record of a segment: the unit of writing, checking and reading. docs/format.md has the table.
//!
//! ```text
//!  0      4        8         12        20          28 (20 without expiry)
//!  +------+--------+---------+---------+-----------+-----+-------+
//!  | crc  | meta   | value   | seq     | expiry    | key | value |
//!  | u32  | u32    | len u32 | u64     | u64, opt. |     |       |
//!  +------+--------+---------+---------+-----------+-----+-------+
//!   meta: key length (bits 0-19), database (20-23), flags (24-31); all numbers little-endian
//! ```
//! Invariants: the CRC-32 covers everything behind itself: header, key and value. `seq` is never
//! zero and never given twice; of two records of a key the one with the larger `seq` holds. A header
//! of zeros is no record: it is where a zero-filled segment has not been written yet.
//!
//! The layout is on disk and never changes within a format version (tests/golden).

use crate::error::{KvsError, Result};

/// Bytes before the expiry or the key.
pub const HEADER: usize = 20;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 64 * 1024;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 512 * 1024 * 1024;

const EXPIRY: usize = 8;
const KEY_BITS: u32 = 20;
const KEY_MASK: u32 = (1 << KEY_BITS) - 1;
const DATABASE_BITS: u32 = 4;

/// The record says that the key is gone; it has no value.
pub const TOMBSTONE: u8 = 1 << 0;
/// The header has an expiry time.
pub const EXPIRES: u8 = 1 << 1;
/// The next record belongs to the same atomic batch. Means nothing in a merged segment.
pub const BATCH_GOES_ON: u8 = 1 << 2;
/// The first record of a group commit: everything before it was durable when it was written (with
/// fsync always). Means nothing in a merged segment.
pub const GROUP_START: u8 = 1 << 3;
/// All keys of the database are gone, those with a smaller `seq`; the record has no key, no value.
pub const CLEAR: u8 = 1 << 4;
/// The key is one of the store's own, in no database. Since version 2.
pub const OWN: u8 = 1 << 5;
const KNOWN_FLAGS: u8 = TOMBSTONE | EXPIRES | BATCH_GOES_ON | GROUP_START | CLEAR | OWN;

/// What stands for the database of the store's own keys: the first number that the header has no room
/// for.
pub const STORE: u8 = 1 << DATABASE_BITS;

/// A record that passed its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the one order of all writes.
    pub seq: u64,
    /// [`TOMBSTONE`] and the others.
    pub flags: u8,
    /// The database, 0 to 15, or [`STORE`].
    pub database: u8,
    /// When it ends, in milliseconds since 1970.
    pub expires_at: Option<u64>,
    /// The key.
    pub key: &'a [u8],
    /// The value, empty for a tombstone.
    pub value: &'a [u8],
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was written here: the header is zero.
    Unwritten,
    /// The record would go beyond the end of the bytes.
    Short,
    /// The header cannot be right.
    Header,
    /// Header, key or value are not what was written.
    Checksum,
}

impl Fault {
    /// In words, for messages.
    pub fn describe(self) -> &'static str {
        match self {
            Fault::Unwritten => "no record was written here",
            Fault::Short => "the record is cut short",
            Fault::Header => "the record's header makes no sense",
            Fault::Checksum => "the record's checksum does not match",
        }
    }
}

impl Record<'_> {
    /// Its length on disk.
    pub fn size(&self) -> usize {
        size(self.key.len(), self.value.len(), self.expires_at.is_some())
    }

    /// Whether it is a tombstone.
    pub fn is_tombstone(&self) -> bool {
        self.flags & TOMBSTONE != 0
    }

    /// Whether it clears its database.
    pub fn is_clear(&self) -> bool {
        self.flags & CLEAR != 0
    }
}

/// The length on disk of a record with such a key and value.
pub fn size(key: usize, value: usize, expires: bool) -> usize {
    HEADER + if expires { EXPIRY } else { 0 } + key + value
}

/// Refuses what the format cannot hold.
pub fn check_lengths(key: usize, value: usize) -> Result<()> {
    let (what, len, limit) = if key > MAX_KEY {
        ("key", key, MAX_KEY)
    } else if value > MAX_VALUE {
        ("value", value, MAX_VALUE)
    } else {
        return Ok(());
    };
    Err(KvsError::TooLarge { what, len, limit })
}

/// Appends a record to `out`. The checksum is still missing: [`seal`] puts it in once the flags are
/// final. [`EXPIRES`] and [`OWN`] are set from the record's fields. Lengths must have passed
/// [`check_lengths`].
pub fn append(out: &mut Vec<u8>, record: &Record<'_>) {
    debug_assert!(record.key.len() <= MAX_KEY && record.value.len() <= MAX_VALUE);
    debug_assert!(record.database <= STORE && record.seq != 0);
    let mut flags = record.flags & !(EXPIRES | OWN);
    if record.expires_at.is_some() {
        flags |= EXPIRES;
    }
    if record.database == STORE {
        flags |= OWN;
    }
    let meta = record.key.len() as u32
        | u32::from(record.database % STORE) << KEY_BITS
        | u32::from(flags) << (KEY_BITS + DATABASE_BITS);
    let mut header = [0u8; HEADER];
    header[4..8].copy_from_slice(&meta.to_le_bytes());
    header[8..12].copy_from_slice(&(record.value.len() as u32).to_le_bytes());
    header[12..20].copy_from_slice(&record.seq.to_le_bytes());
    out.reserve(record.size());
    out.extend_from_slice(&header);
    if let Some(at) = record.expires_at {
        out.extend_from_slice(&at.to_le_bytes());
    }
    out.extend_from_slice(record.key);
    out.extend_from_slice(record.value);
}

/// Adds `flags` to the record that `record` holds from its first byte.
pub fn add_flags(record: &mut [u8], flags: u8) {
    record[7] |= flags;
}

/// Takes `flags` away from the record that `record` holds from its first byte.
pub fn remove_flags(record: &mut [u8], flags: u8) {
    record[7] &= !flags;
}

/// The expiry in the header of a record that [`append`] made.
pub fn expiry_of(record: &[u8]) -> Option<u64> {
    if record.get(7)? & EXPIRES == 0 { None } else { long(record, HEADER) }
}

/// Puts the checksum into `record`, the bytes of exactly one record.
pub fn seal(record: &mut [u8]) {
    let crc = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The lengths and flags in a header, not yet checked against the checksum.
struct Header {
    flags: u8,
    database: u8,
    key: usize,
    value: usize,
    seq: u64,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn header(bytes: &[u8]) -> Result<Header, Fault> {
    let (Some(meta), Some(value), Some(seq)) = (word(bytes, 4), word(bytes, 8), long(bytes, 12))
    else {
        return Err(if bytes.iter().all(|b| *b == 0) { Fault::Unwritten } else { Fault::Short });
    };
    let flags = (meta >> (KEY_BITS + DATABASE_BITS)) as u8;
    let numbered = (meta >> KEY_BITS) as u8 % STORE;
    let header = Header {
        flags,
        database: if flags & OWN == 0 { numbered } else { STORE },
        key: (meta & KEY_MASK) as usize,
        value: value as usize,
        seq,
    };
    if header.seq == 0 {
        let unwritten = bytes[..HEADER].iter().all(|b| *b == 0);
        return Err(if unwritten { Fault::Unwritten } else { Fault::Header });
    }
    let sound = header.key <= MAX_KEY
        && header.value <= MAX_VALUE
        && header.flags & !KNOWN_FLAGS == 0
        && (header.database < STORE || numbered == 0)
        && (header.flags & (TOMBSTONE | CLEAR) == 0 || header.value == 0);
    if sound { Ok(header) } else { Err(Fault::Header) }
}

/// The record at the start of `bytes`; what follows it is not looked at.
pub fn parse(bytes: &[u8]) -> Result<Record<'_>, Fault> {
    let record = unchecked(bytes)?;
    let bytes = &bytes[..record.size()];
    if word(bytes, 0) != Some(crc32fast::hash(&bytes[4..])) {
        return Err(Fault::Checksum);
    }
    Ok(record)
}

/// What [`parse`] would tell if the checksum were right. Never to be served.
pub fn unchecked(bytes: &[u8]) -> Result<Record<'_>, Fault> {
    let header = header(bytes)?;
    let expires = header.flags & EXPIRES != 0;
    let size = size(header.key, header.value, expires);
    let bytes = bytes.get(..size).ok_or(Fault::Short)?;
    let (value_start, key_start) = (size - header.value, size - header.value - header.key);
    Ok(Record {
        seq: header.seq,
        flags: header.flags,
        database: header.database,
        expires_at: if expires { long(bytes, HEADER) } else { None },
        key: &bytes[key_start..value_start],
        value: &bytes[value_start..],
    })
}

/// The key of the record at the start of `bytes`, without its checksum being looked at: for asking
/// whether a candidate is the right one before it is read in full.
pub fn key_of(bytes: &[u8]) -> Result<(u8, &[u8]), Fault> {
    let header = header(bytes)?;
    let start = size(0, 0, header.flags & EXPIRES != 0);
    let key = bytes.get(start..start + header.key).ok_or(Fault::Short)?;
    Ok((header.database, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, record);
        seal(&mut out);
        out
    }

    const SAMPLE: Record<'static> = Record {
        seq: 7,
        flags: EXPIRES | GROUP_START,
        database: 3,
        expires_at: Some(1_700_000_000_000),
        key: b"key",
        value: b"value",
    };

    #[test]
    fn every_flipped_bit_is_found() {
        let good = encoded(&SAMPLE);
        assert_eq!(parse(&good), Ok(SAMPLE));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit} flipped unnoticed");
        }
    }

    #[test]
    fn every_cut_is_found() {
        let good = encoded(&SAMPLE);
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_err(), "cut to {len} unnoticed");
        }
        assert_eq!(parse(&[0; 64]), Err(Fault::Unwritten));
        assert_eq!(parse(&[]), Err(Fault::Unwritten));
    }

    proptest! {
        #[test]
        fn comes_back(
            seq in 1u64.., database in 0..=STORE, expires_at: Option<u64>,
            key: Vec<u8>, value: Vec<u8>, tombstone: bool, rest: Vec<u8>,
        ) {
            let value = if tombstone { &[][..] } else { &value[..] };
            let mut flags = if tombstone { TOMBSTONE } else { 0 };
            if expires_at.is_some() {
                flags |= EXPIRES;
            }
            if database == STORE {
                flags |= OWN;
            }
            let record = Record { seq, flags, database, expires_at, key: &key, value };
            let mut bytes = encoded(&record);
            prop_assert_eq!(bytes.len(), record.size());
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(parse(&bytes), Ok(record));
            prop_assert_eq!(key_of(&bytes), Ok((database, &key[..])));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = key_of(&bytes);
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
