//! Reading a segment record by record, when there is no hint to trust: what is sound, what is
//! damaged, and where a crash tore the end off.
//!
//! A bad record in the newest segment may be the tail of a write that a crash interrupted: then
//! nothing of it was ever acknowledged, and the segment ends before it. Or it may be damage to
//! records that were. What follows it tells the two apart, and how depends on the crash ([`Tail`]).
//! In any other segment a bad record is damage. After damage the scan goes on at the next sound
//! record.

use std::ops::Range;

use super::mend;
use super::record::{self, Fault, Record};
use super::segment::Origin;

/// Sequence numbers from here on are above any real one: it keeps the search for the next sound record
/// from computing checksums of noise.
const PLAUSIBLE_SEQ: u64 = 1 << 56;
/// Of a header in the midst of damage, none is believed from here on. The next numbers are larger than
/// all that were found, and must not come near what is not plausible.
const BELIEVED_SEQ: u64 = 1 << 48;

/// How a segment may end, if not with a whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// In no other way: it is closed.
    Whole,
    /// The process stopped, the machine did not: all writes are there, and of the last one perhaps
    /// only its first bytes. So whatever stands behind a bad record shows that this was written as a
    /// whole once, and is damage.
    Cut,
    /// The machine may have stopped: of what was not durable, any part may be missing. But a record
    /// marked [`GROUP_START`](record::GROUP_START) was written only after everything before it was
    /// durable; so if a sound one follows, the bad one was acknowledged once and is damage.
    Holes,
}

impl Scan<'_> {
    /// What is known of the records within the damage. Each is taken for one that sets its key,
    /// whatever it was, so that the key answers with the damage; but for a mended clear, which would
    /// bring back a whole database.
    pub fn told(&self) -> impl Iterator<Item = (u64, Record<'_>)> {
        let mended = self.mended.iter().filter_map(|(offset, bytes)| {
            let record = record::parse(bytes).ok()?;
            Some((*offset, Record { flags: record.flags & record::CLEAR, ..record }))
        });
        self.unreadable.iter().copied().chain(mended)
    }
}

impl Tail {
    /// How the newest segment may end, if the machine is in the same run as when it was last open.
    pub fn after(same_boot: bool) -> Tail {
        if same_boot { Tail::Cut } else { Tail::Holes }
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan<'a> {
    /// The sound records, with their offsets in the file.
    pub records: Vec<(u64, Record<'a>)>,
    /// Records within the damage that still tell their key: all that is known of them is that they
    /// lie between two others and have the right length.
    pub unreadable: Vec<(u64, Record<'a>)>,
    /// Records within the damage of which one bit had flipped, with it flipped back.
    pub mended: Vec<(u64, Vec<u8>)>,
    /// Where there should be records and are none, as offsets in the file.
    pub damage: Vec<Range<u64>>,
    /// Where the records end.
    pub end: u64,
    /// Where the bytes of an interrupted write end, if there are any: `end..torn` is to be cleared.
    pub torn: Option<u64>,
}

/// Scans `bytes`, which lie at `base` of a segment and reach to its end.
pub fn scan(bytes: &[u8], base: u64, origin: Origin, tail: Tail) -> Scan<'_> {
    let mut scan = Scan::default();
    let mut at = 0;
    // Where the batch began that the last record belongs to and does not end, and how many records
    // came before it.
    let mut batch: Option<(usize, usize)> = None;
    loop {
        match record::parse(&bytes[at..]) {
            Ok(record) => {
                if record.flags & record::BATCH_GOES_ON == 0 || origin == Origin::Merged {
                    batch = None;
                } else if batch.is_none() {
                    batch = Some((at, scan.records.len()));
                }
                scan.records.push((base + at as u64, record));
                at += record.size();
            }
            Err(Fault::Unwritten) if bytes[at..].iter().all(|b| *b == 0) => break,
            Err(_) if is_torn(&bytes[at..], tail) => break,
            Err(_) => {
                let next = next_record(bytes, at + 1, |_| true);
                let next = next.unwrap_or_else(|| at + written(&bytes[at..], tail));
                scan.damage.push(base + at as u64..base + next as u64);
                match mend::mended(&bytes[at..next]) {
                    Some(mended) => scan.mended.push((base + at as u64, mended)),
                    None => {
                        let unreadable = unreadable(&bytes[at..next], base + at as u64);
                        scan.unreadable.extend(unreadable.unwrap_or_default());
                    }
                }
                batch = None;
                at = next;
            }
        }
    }
    if tail != Tail::Whole
        && let Some((start, records)) = batch
    {
        scan.records.truncate(records);
        at = start;
    }
    scan.end = base + at as u64;
    if let Some(last) = bytes[at..].iter().rposition(|b| *b != 0) {
        scan.torn = Some(scan.end + last as u64 + 1);
    }
    scan
}

/// The records in damaged bytes by what their headers say, if these fit together.
fn unreadable(bytes: &[u8], base: u64) -> Option<Vec<(u64, Record<'_>)>> {
    let (mut at, mut records) = (0, Vec::new());
    while at < bytes.len() {
        let record = record::unchecked(&bytes[at..]).ok()?;
        if record.seq >= BELIEVED_SEQ {
            return None;
        }
        if !record.is_clear() {
            records.push((base + at as u64, Record { flags: 0, ..record }));
        }
        at += record.size();
    }
    Some(records)
}

/// Whether a crash may have left the bad record that `bytes` begin with.
fn is_torn(bytes: &[u8], tail: Tail) -> bool {
    match tail {
        Tail::Whole => false,
        Tail::Holes => {
            next_record(bytes, 1, |record| record.flags & record::GROUP_START != 0).is_none()
        }
        Tail::Cut => {
            // The header comes first: it is right, or itself not whole.
            let whole = match record::unchecked(bytes) {
                Ok(record) => record.size(),
                Err(Fault::Short) => usize::MAX,
                Err(_) => record::HEADER,
            };
            written(bytes, tail) < whole && next_record(bytes, 1, |_| true).is_none()
        }
    }
}

/// How many of the bytes are not just zeros that were there before.
fn written(bytes: &[u8], tail: Tail) -> usize {
    match tail {
        Tail::Whole => bytes.len(),
        Tail::Cut | Tail::Holes => bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1),
    }
}

/// The offset of the first sound and wanted record at or behind `from`.
fn next_record(bytes: &[u8], from: usize, wanted: impl Fn(&Record<'_>) -> bool) -> Option<usize> {
    let mut at = from;
    while at + record::HEADER <= bytes.len() {
        // A header holds a byte that is not zero, so a stretch of zeros is skipped up to where a
        // header could begin.
        let zeros = bytes[at..].iter().position(|b| *b != 0)?;
        at += zeros.saturating_sub(record::HEADER - 1);
        let plausible =
            record::unchecked(&bytes[at..]).is_ok_and(|record| record.seq < PLAUSIBLE_SEQ);
        let sound = plausible.then(|| record::parse(&bytes[at..]).ok()).flatten();
        match sound {
            Some(record) if wanted(&record) => return Some(at),
            Some(record) => at += record.size(),
            None => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::{BATCH_GOES_ON, GROUP_START};

    fn log(records: &[(&str, u8)]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for (seq, (key, flags)) in records.iter().enumerate() {
            let start = bytes.len();
            starts.push(start);
            let record = Record {
                seq: seq as u64 + 1,
                flags: *flags,
                database: 0,
                expires_at: None,
                key: key.as_bytes(),
                value: b"some value",
            };
            record::append(&mut bytes, &record);
            record::seal(&mut bytes[start..]);
        }
        starts.push(bytes.len());
        (bytes, starts)
    }

    fn keys(scan: &Scan<'_>) -> String {
        scan.records.iter().map(|(_, r)| String::from_utf8_lossy(r.key)).collect()
    }

    #[test]
    fn zeros_end_it() {
        let (mut bytes, starts) = log(&[("a", GROUP_START), ("b", 0)]);
        bytes.resize(bytes.len() + 1000, 0);
        let found = scan(&bytes, 40, Origin::Log, Tail::Holes);
        assert_eq!((keys(&found).as_str(), found.end), ("ab", 40 + starts[2] as u64));
        assert!(found.damage.is_empty() && found.torn.is_none());
    }

    #[test]
    fn a_torn_tail_ends_the_newest_and_is_damage_elsewhere() {
        let (bytes, starts) = log(&[("a", GROUP_START), ("b", GROUP_START), ("c", 0)]);
        for cut in starts[1] + 1..starts[2] {
            let mut torn = bytes[..cut].to_vec();
            torn.resize(bytes.len() + 100, 0);
            let found = scan(&torn, 0, Origin::Log, Tail::Holes);
            assert_eq!((keys(&found).as_str(), found.end), ("a", starts[1] as u64));
            assert!(found.damage.is_empty());
            assert!(found.torn.is_some_and(|torn| torn <= cut as u64));
            let found = scan(&torn, 0, Origin::Log, Tail::Whole);
            assert_eq!(found.damage.len(), 1);
        }
    }

    #[test]
    fn a_hole_within_the_last_group_is_torn_before_a_later_group_it_is_damage() {
        let flags = [("a", GROUP_START), ("b", GROUP_START), ("c", 0), ("d", 0)];
        let (mut bytes, starts) = log(&flags);
        bytes[starts[2] + 25] ^= 1;
        let found = scan(&bytes, 0, Origin::Log, Tail::Holes);
        assert_eq!((keys(&found).as_str(), found.end), ("ab", starts[2] as u64));
        assert_eq!(found.torn, Some(bytes.len() as u64));

        let (mut bytes, starts) =
            log(&[("a", GROUP_START), ("b", 0), ("c", 0), ("d", GROUP_START)]);
        bytes[starts[1] + 25] ^= 1;
        let found = scan(&bytes, 0, Origin::Log, Tail::Holes);
        assert_eq!(keys(&found), "acd");
        let damage = starts[1] as u64..starts[2] as u64;
        assert_eq!(found.damage, std::slice::from_ref(&damage));
    }

    /// A store that is opened again and again while a segment is missing leaves out many numbers.
    #[test]
    fn large_sequence_numbers_are_seen_behind_damage() {
        let (mut bytes, starts) = log(&[("a", GROUP_START)]);
        for seq in [1 << 50, (1 << 50) + 1] {
            let start = bytes.len();
            let flags = GROUP_START;
            let record =
                Record { seq, flags, database: 0, expires_at: None, key: b"b", value: b"value" };
            record::append(&mut bytes, &record);
            record::seal(&mut bytes[start..]);
        }
        bytes[starts[1] + 10] ^= 0xff;
        let found = scan(&bytes, 0, Origin::Log, Tail::Holes);
        assert_eq!((keys(&found).as_str(), found.end), ("ab", bytes.len() as u64));
        assert_eq!(found.damage.len(), 1);
    }

    #[test]
    fn an_unfinished_batch_is_dropped_whole() {
        let records = [("a", GROUP_START), ("b", BATCH_GOES_ON), ("c", BATCH_GOES_ON), ("d", 0)];
        let (bytes, starts) = log(&records);
        for cut in starts[1]..bytes.len() {
            let found = scan(&bytes[..cut], 0, Origin::Log, Tail::Holes);
            assert_eq!((keys(&found).as_str(), found.end), ("a", starts[1] as u64));
        }
        assert_eq!(keys(&scan(&bytes, 0, Origin::Log, Tail::Holes)), "abcd");
        assert_eq!(
            keys(&scan(&bytes[starts[0]..starts[3]], 0, Origin::Merged, Tail::Whole)),
            "abc"
        );
    }
}
