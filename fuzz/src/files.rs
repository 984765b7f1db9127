//! What is read from files: records, segments, hints, the manifest, configurations.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kvs::config::Settings;
use kvs::engine::fs::Fs;
use kvs::engine::hint::{Builder, Hint};
use kvs::engine::hint_lookups::Lookups;
use kvs::engine::manifest::Manifest;
use kvs::engine::record::{self, Record};
use kvs::engine::scan::{Scan, Tail, scan};
use kvs::engine::segment::Origin;

use super::input::Input;
use super::store::engine_support::faulty::Faulty;

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::append(&mut bytes, record);
    record::seal(&mut bytes);
    bytes
}

/// A record that the writer could have made.
fn made<'a>(input: &mut Input<'a>, seq: u64) -> Record<'a> {
    let choice = input.byte();
    let flags = match choice & 7 {
        0 => record::TOMBSTONE,
        1 => record::CLEAR,
        2..=3 => record::BATCH_GOES_ON,
        _ => 0,
    };
    let group = if choice & 8 != 0 { record::GROUP_START } else { 0 };
    let expires_at = (choice & 0x30 == 0).then(|| input.long());
    let key = if flags == record::CLEAR { &[] } else { input.bytes(40) };
    let dead = flags & (record::TOMBSTONE | record::CLEAR) != 0;
    let value = if dead { &[] } else { input.bytes(200) };
    let expires = if expires_at.is_some() { record::EXPIRES } else { 0 };
    let database = [0, 1, 2, record::STORE][usize::from(choice >> 6)];
    let own = if database == record::STORE { record::OWN } else { 0 };
    Record { seq, flags: flags | group | expires | own, database, expires_at, key, value }
}

/// One record: what parses is what was written, and no changed bit goes unnoticed.
pub fn records(data: &[u8]) {
    if let Ok(found) = record::parse(data) {
        assert_eq!(encoded(&found), data[..found.size()]);
        assert_eq!(record::key_of(data), Ok((found.database, found.key)));
    }
    if let Ok(unchecked) = record::unchecked(data) {
        assert!(unchecked.size() <= data.len());
    }
    record::expiry_of(data);

    let mut input = Input(data);
    let seq = input.long().max(1);
    let record = made(&mut input, seq);
    let mut bytes = encoded(&record);
    assert_eq!(record::parse(&bytes), Ok(record));
    assert_eq!(record::unchecked(&bytes), Ok(record));
    let cut = usize::from(input.byte()) % bytes.len();
    assert!(record::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    let bit = (input.long() % (bytes.len() as u64 * 8)) as usize;
    bytes[bit / 8] ^= 1 << (bit % 8);
    assert!(record::parse(&bytes).is_err(), "bit {bit} changed unnoticed");
}

/// A segment of records, then of noise, in which bytes are changed: every record that was not
/// touched is found, except in a tail that may be torn, and nothing is found that was not written.
pub fn scans(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.byte();
    let origin = if choice & 1 != 0 { Origin::Merged } else { Origin::Log };
    let tail = match choice >> 1 & 3 {
        1 if origin == Origin::Log => Tail::Holes,
        2 if origin == Origin::Log => Tail::Cut,
        _ => Tail::Whole,
    };
    let (mut bytes, mut written) = (Vec::new(), BTreeMap::new());
    for n in 0..input.below(20) {
        let record = made(&mut input, n as u64 + 1);
        written.insert(bytes.len(), record);
        bytes.extend(encoded(&record));
    }
    let end = bytes.len();
    bytes.resize(end + input.below(80), 0);
    let mut touched = Vec::new();
    for _ in 0..input.below(4) {
        let at = (input.long() % (bytes.len() as u64).max(1)) as usize;
        let change = input.byte();
        if change != 0 && at < bytes.len() {
            bytes[at] ^= change;
            touched.push(at);
        }
    }
    let noise = input.0;
    bytes.extend_from_slice(noise);

    const BASE: u64 = 40;
    let found = scan(&bytes, BASE, origin, tail);
    check_order(&found, BASE, bytes.len());
    let is_touched = |at: usize, record: &Record<'_>| {
        touched.iter().any(|touched| (at..at + record.size()).contains(touched))
    };
    for (at, record) in &written {
        let is =
            found.records.iter().any(|(offset, it)| *offset == BASE + *at as u64 && it == record);
        assert!(!is || !is_touched(*at, record) || bytes_are_back(&bytes, *at, record), "at {at}");
        let kept = BASE + (*at as u64) < found.end;
        assert!(is || is_touched(*at, record) || !kept, "the record at {at} is missing");
    }
    if touched.is_empty() && noise.is_empty() && tail == Tail::Whole {
        assert_eq!(found.records.len(), written.len());
        assert!(found.damage.is_empty() && found.end == BASE + end as u64);
    }
}

/// Two changes of one byte may have undone each other.
fn bytes_are_back(bytes: &[u8], at: usize, record: &Record<'_>) -> bool {
    bytes[at..at + record.size()] == encoded(record)
}

/// Records and damage lie one behind the other, within the bytes.
fn check_order(found: &Scan<'_>, base: u64, len: usize) {
    let records = found.records.iter().map(|(at, record)| *at..*at + record.size() as u64);
    let mut ranges: Vec<_> = records.chain(found.damage.iter().cloned()).collect();
    ranges.sort_by_key(|range| range.start);
    let mut at = base;
    for range in ranges {
        assert!(range.start >= at && range.end > range.start, "{range:?} overlaps");
        at = range.end;
    }
    assert!(at <= base + len as u64 && found.end <= base + len as u64);
    assert!(found.torn.is_none_or(|torn| found.end < torn && torn <= base + len as u64));
    for (at, record) in &found.told().collect::<Vec<_>>() {
        let within = |range: &std::ops::Range<u64>| {
            range.start <= *at && at + record.size() as u64 <= range.end
        };
        assert!(found.damage.iter().any(within), "unreadable, but not in the damage");
    }
}

/// A hint: any bytes are one or none, whatever they say; and one that was written has all keys.
pub fn hints(data: &[u8]) {
    const CRC: std::ops::Range<usize> = 12..16;
    walk(data.to_vec());
    if data.len() > CRC.end {
        // A right checksum over nonsense, as a bug would write it.
        let mut mended = data.to_vec();
        mended[..12].copy_from_slice(b"KVSHINT\n\x01\x00\x00\x00");
        let crc = crc32fast::hash(&mended[CRC.end..]);
        mended[CRC].copy_from_slice(&crc.to_le_bytes());
        walk(mended);
    }

    let mut input = Input(data);
    let (mut builder, mut newest) = (Builder::default(), BTreeMap::new());
    let (mut offset, mut clears) = (40, Vec::new());
    for n in 0..input.below(200) {
        let record = made(&mut input, n as u64 + 1);
        builder.add_record(offset, &record);
        if record.is_clear() {
            clears.push((record.database, record.seq));
        } else {
            newest.insert((record.database, record.key), (offset, record));
        }
        offset += record.size() as u64;
    }
    let hint = Hint::decode(builder.encode(7, offset).as_bytes().to_vec()).unwrap();
    assert_eq!((hint.segment(), hint.covered(), hint.keys()), (7, offset, newest.len() as u64));
    assert_eq!(hint.clears().collect::<Vec<_>>(), clears);
    let (mut entries, mut lookups) = (hint.entries(), Lookups::new(&hint));
    for ((database, key), (offset, record)) in &newest {
        let entry = entries.next().expect("an entry for each key");
        assert_eq!((entry.database, entry.key, entry.offset), (*database, *key, *offset));
        assert_eq!((entry.size as usize, entry.seq), (record.size(), record.seq));
        assert_eq!((entry.tombstone, entry.expires_at), (record.is_tombstone(), record.expires_at));
        assert!(lookups.contains(*database, key));
    }
    assert!(entries.next().is_none());
    let (database, key) = (input.byte() % (record::STORE + 1), input.bytes(8));
    let there = Lookups::new(&hint).contains(database, key);
    assert_eq!(there, newest.contains_key(&(database, key)));
    let next = newest.range((database, key)..).next().map(|(name, _)| *name);
    let found =
        hint.entries_from(database, key).next().map(|entry| (entry.database, entry.key.to_vec()));
    assert_eq!(found, next.map(|(database, key)| (database, key.to_vec())));
}

/// Reads all that a hint can be asked for.
fn walk(bytes: Vec<u8>) {
    let len = bytes.len();
    let Ok(hint) = Hint::decode(bytes) else { return };
    let (mut entries, mut count) = (hint.entries(), 0);
    while entries.next().is_some() {
        count += 1;
        assert!(count <= len, "entries without end");
    }
    assert!(hint.clears().count() <= len);
    Lookups::new(&hint).contains(3, b"key");
    hint.entries_from(15, b"\xff\xff").next();
    hint.quantiles(4);
}

/// A manifest: any bytes are one or damage; what was opened takes edits and has them afterwards.
pub fn manifests(data: &[u8]) {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir().unwrap();
    }
    DIR.with(|dir| {
        let path = dir.path().join("MANIFEST");
        let mut input = Input(data);
        let choice = input.byte();
        let bytes = if choice & 1 != 0 { mended(input.0) } else { input.0.to_vec() };
        std::fs::write(&path, bytes).unwrap();
        edit(dir.path());
    });
}

/// Gives each line the checksum that it should have.
fn mended(text: &[u8]) -> Vec<u8> {
    let mut bytes = b"kvs-manifest 1\n".to_vec();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let json = line.strip_suffix(b"\n").unwrap_or(line);
        bytes.extend(format!("{:08x} ", crc32fast::hash(json)).into_bytes());
        bytes.extend_from_slice(line);
    }
    bytes
}

fn edit(dir: &Path) {
    // Without syncs.
    let fs: Arc<dyn Fs> = Arc::new(Faulty::default());
    let Ok(mut manifest) = Manifest::open(&fs, dir) else { return };
    let before = manifest.segments().clone();
    let reopened = Manifest::open(&fs, dir).unwrap();
    assert_eq!(*reopened.segments(), before, "a second open finds something else");
    let number = manifest.allocate();
    assert!(!before.contains(&number), "{number} is given again");
    let removed: Vec<u64> = before.iter().take(1).copied().collect();
    manifest.edit(&[number], &removed).unwrap();
    let reopened = Manifest::open(&fs, dir).unwrap();
    assert_eq!(reopened.segments(), manifest.segments());
    assert!(
        reopened.segments().contains(&number)
            && removed.iter().all(|n| !reopened.segments().contains(n))
    );
}

/// A configuration file: any bytes are settings or one line that says what is wrong.
pub fn configurations(data: &[u8]) {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir().unwrap();
    }
    DIR.with(|dir| {
        let path = dir.path().join("kvs.conf");
        std::fs::write(&path, data).unwrap();
        let checked = Settings::from_file(&path).and_then(Settings::check);
        if let Err(error) = checked {
            let text = error.to_string();
            assert!(!text.is_empty() && text.lines().count() == 1, "{text:?}");
        }
    });
}

pub fn record_seeds() -> Vec<Vec<u8>> {
    let sample = Record {
        seq: 7,
        flags: record::EXPIRES,
        database: 3,
        expires_at: Some(1_700_000_000_000),
        key: b"key",
        value: b"value",
    };
    let plain = Record { flags: record::TOMBSTONE, expires_at: None, value: b"", ..sample };
    vec![encoded(&sample), encoded(&plain)]
}

pub fn hint_seeds() -> Vec<Vec<u8>> {
    let keys: Vec<String> = (0..70).map(|n| format!("key{}", n % 65)).collect();
    let mut builder = Builder::default();
    for (n, key) in keys.iter().enumerate() {
        let flags = if n % 9 == 0 { record::TOMBSTONE } else { 0 };
        let expires_at = (n % 4 == 0).then_some(n as u64 * 1000);
        let database = (n % 3) as u8;
        let key = key.as_bytes();
        let record = Record { seq: n as u64 + 5, flags, database, expires_at, key, value: b"" };
        builder.add_record(40 + n as u64 * 40, &record);
    }
    let sound = builder.encode(3, 4000).as_bytes().to_vec();
    // Sequence numbers that go beyond the last one, which made a sum overflow.
    let mut overflowing = sound.clone();
    overflowing[40..48].fill(0xff);
    vec![sound, overflowing]
}

pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let edits =
        "\u{1}{\"next\":1,\"add\":[],\"remove\":[]}\n{\"next\":4,\"add\":[3],\"remove\":[1,2]}\n";
    vec![
        edits.into(),
        [&b"\0"[..], &mended(&edits.as_bytes()[1..])].concat(),
        b"\x01{\"next\":18446744073709551615,\"add\":[],\"remove\":[]}\n".to_vec(),
        b"\x01{\"next\":2,\"add\":[18446744073709551615],\"remove\":[0]}\n{\"next\":".to_vec(),
    ]
}

pub fn configuration_seeds() -> Vec<Vec<u8>> {
    [
        "addr 127.0.0.1:4000\nfsync everysec # a comment\nsegment-bytes 64m\nloops 2\n",
        "output-limit 99999999999g\nmax-clients -1\nindex\n",
        "engine memory\nloop-reads no\nlog-level debug\n\nreaders 0x10\ndir /tmp/a b\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
