//! Files of format version 1, written once and kept: what was written then must be readable for
//! good, and what is written today must have the same bytes. docs/format.md quotes them.
//!
//! `cargo test --test golden -- --ignored` writes them anew: only ever for a new format version, in
//! a directory of its own.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_support::{Random, copy_dir, files};
use kvs::KvStore;
use kvs::engine::fs::{Fs, OsFs};
use kvs::engine::hint::{Builder, Hint};
use kvs::engine::manifest::Manifest;
use kvs::engine::scan::{Tail, scan};
use kvs::engine::segment::{HEADER, Origin, decode_header, encode_header};
use kvs::engine::{DATABASES, Options, record};
use kvs::stats::EngineStats;

const FAR: u64 = 4_102_444_800_000;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

enum Op {
    Put(u8, Vec<u8>, Vec<u8>, Option<u64>),
    Delete(u8, Vec<u8>),
    Clear(u8),
}

type Contents = BTreeMap<(u8, Vec<u8>), (Vec<u8>, Option<u64>)>;

fn put(database: u8, key: &str, value: &str) -> Op {
    Op::Put(database, key.into(), value.into(), None)
}

/// What is written, before and after a compaction: each element is one atomic unit.
fn script() -> (Vec<Vec<Op>>, Vec<Vec<Op>>) {
    let mut random = Random(0x5eed);
    let mut noise = |count: u64| {
        let mut units = Vec::new();
        for i in 0..count {
            let key = format!("key{:03}", random.below(60)).into_bytes();
            let database = if i % 7 == 0 { 3 } else { 0 };
            let expiry = (i % 11 == 0).then_some(FAR + i);
            let len = random.below(260) as usize;
            units.push(vec![Op::Put(database, key, random.bytes(len), expiry)]);
            if i % 10 == 9 {
                units.push(vec![Op::Delete(0, format!("key{:03}", random.below(60)).into())]);
            }
        }
        units
    };
    let before = noise(110);
    let mut after = vec![
        vec![put(0, "apple", "red")],
        vec![Op::Put(0, b"pear".into(), b"green".into(), Some(FAR))],
        vec![Op::Delete(0, b"apple".into())],
        vec![put(0, "plum", "blue"), put(3, "plum", "violet"), Op::Delete(0, b"pear".into())],
        vec![put(5, "gone", "with the clear")],
        vec![Op::Clear(5)],
        vec![put(5, "after", "the clear"), put(0, "", "of the empty key"), put(0, "empty", "")],
        vec![Op::Put(15, (0..=255).collect(), vec![0; 40], Some(FAR + 1))],
    ];
    after.extend(noise(30));
    after.push(vec![put(0, "last", "before the close"), put(0, "plum", "ripe")]);
    after.push(vec![Op::Delete(3, b"plum".into())]);
    (before, after)
}

fn apply(store: &KvStore, units: Vec<Vec<Op>>) {
    for unit in units {
        let change = store.update(move |txn| {
            for op in unit {
                match op {
                    Op::Put(database, key, value, expiry) => {
                        txn.put(database, &key, &value, expiry)?;
                    }
                    Op::Delete(database, key) => drop(txn.delete(database, &key)?),
                    Op::Clear(database) => txn.clear(database)?,
                }
            }
            Ok(())
        });
        change.unwrap();
    }
}

fn expected() -> Contents {
    let (before, after) = script();
    let mut contents = Contents::new();
    for op in before.into_iter().chain(after).flatten() {
        match op {
            Op::Put(database, key, value, expiry) => {
                contents.insert((database, key), (value, expiry));
            }
            Op::Delete(database, key) => drop(contents.remove(&(database, key))),
            Op::Clear(database) => contents.retain(|(of, _), _| *of != database),
        }
    }
    contents
}

fn contents(store: &KvStore) -> Contents {
    let mut contents = Contents::new();
    for database in 0..DATABASES as u8 {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let note = |key: &[u8], value: &[u8]| {
            contents.insert((database, key.into()), (value.into(), None));
            ControlFlow::Continue(())
        };
        store.reader().snapshot(database).entries(all, note).unwrap();
    }
    let view = store.reader().view();
    for ((database, key), (value, expiry)) in &mut contents {
        let found = view.get(*database, key, kvs::engine::Patience::MayWait).unwrap().unwrap();
        assert_eq!(found.bytes.as_ref(), value.as_slice());
        *expiry = found.expires_at;
    }
    contents
}

#[test]
#[ignore = "writes the files that the others compare with"]
fn write_the_golden_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new(dir.path()).segment_bytes(4096).open().unwrap();
    let (before, after) = script();
    apply(&store, before);
    store.compact().unwrap();
    apply(&store, after);
    drop(store);
    std::fs::create_dir_all(golden()).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), golden().join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn version_1_is_read_for_good() {
    for hints in [true, false] {
        let copy = copy_dir(&golden());
        if !hints {
            files(copy.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
        }
        let stats = Arc::new(EngineStats::default());
        let store = Options::new(copy.path()).stats(Arc::clone(&stats)).open().unwrap();
        assert!(contents(&store) == expected(), "hints: {hints}");
        assert_eq!(stats.damaged_ranges.get(), 0);
        store.put("today", "writes").unwrap();
        store.compact().unwrap();
        drop(store);
        let store = KvStore::open(copy.path()).unwrap();
        assert!(store.delete("today").unwrap());
        assert!(contents(&store) == expected(), "after today's writes");
    }
}

#[test]
fn the_golden_files_hold_one_of_each() {
    let (mut origins, mut flags, mut databases) = (Vec::new(), 0, 0u16);
    for log in files(&golden(), "log") {
        let bytes = std::fs::read(log).unwrap();
        let (_, origin) = decode_header(bytes[..HEADER].try_into().unwrap()).unwrap();
        origins.push(origin);
        for (_, record) in scan(&bytes[HEADER..], HEADER as u64, origin, Tail::Whole).records {
            flags |= record.flags;
            databases |= 1 << record.database;
        }
    }
    let logs = origins.iter().filter(|origin| **origin == Origin::Log).count();
    assert!(logs >= 2 && logs < origins.len(), "{origins:?}");
    let all = record::TOMBSTONE | record::EXPIRES | record::BATCH_GOES_ON | record::GROUP_START;
    assert_eq!(flags, all | record::CLEAR);
    assert_eq!(databases, 1 << 0 | 1 << 3 | 1 << 5 | 1 << 15);
}

#[test]
fn segments_and_hints_are_written_as_in_version_1() {
    for log in files(&golden(), "log") {
        let good = std::fs::read(&log).unwrap();
        let (number, origin) = decode_header(good[..HEADER].try_into().unwrap()).unwrap();
        let found = scan(&good[HEADER..], HEADER as u64, origin, Tail::Whole);
        assert!(found.damage.is_empty() && found.end == good.len() as u64);
        let mut bytes = encode_header(number, origin).to_vec();
        for (offset, record) in &found.records {
            assert_eq!(*offset, bytes.len() as u64);
            let start = bytes.len();
            record::append(&mut bytes, record);
            record::seal(&mut bytes[start..]);
        }
        assert_eq!(bytes, good, "{}", log.display());
        let hint = std::fs::read(log.with_extension("hint")).unwrap();
        let today = Builder::from_scan(&found).encode(number, good.len() as u64);
        assert_eq!(today.as_bytes(), hint, "the hint of {}", log.display());
        assert_eq!(Hint::decode(hint).unwrap().segment(), number);
    }
}

#[test]
fn the_manifest_is_written_as_in_version_1() {
    let good = std::fs::read_to_string(golden().join("MANIFEST")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let mut manifest = Manifest::open(&fs, dir.path()).unwrap();
    let mut next = 1;
    let edits = good.lines().skip(2).map(|line| line.split_once(' ').unwrap().1);
    for edit in edits {
        let edit: serde_json::Value = serde_json::from_str(edit).unwrap();
        let numbers = |name: &str| -> Vec<u64> {
            edit[name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
        };
        while next < edit["next"].as_u64().unwrap() {
            manifest.allocate();
            next += 1;
        }
        manifest.edit(&numbers("add"), &numbers("remove")).unwrap();
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("MANIFEST")).unwrap(), good);
    assert_eq!(std::fs::read_to_string(golden().join("ENGINE")).unwrap(), "kvs\n");
}

/// The dumps in docs/format.md are lines of `offset  bytes  text`, below a line that names the file.
#[test]
fn the_document_quotes_the_golden_files() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let (mut file, mut checked) = (Vec::new(), 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        if let Some((_, rest)) = line.split_once("`tests/golden/v1/") {
            file = std::fs::read(golden().join(rest.split('`').next().unwrap())).unwrap();
        }
        let mut words = line.split_ascii_whitespace();
        let offset = words.next().filter(|word| word.len() == 8);
        let Some(Ok(mut at)) = offset.map(|word| usize::from_str_radix(word, 16)) else { continue };
        let is_byte = |word: &&str| word.len() == 2 && u8::from_str_radix(word, 16).is_ok();
        for byte in line[10..58.min(line.len())].split_ascii_whitespace().take_while(is_byte) {
            assert_eq!(byte, format!("{:02x}", file[at]), "byte {at:#x}: {line}");
            (at, checked) = (at + 1, checked + 1);
        }
    }
    assert!(checked > 250, "only {checked} bytes are quoted");
}
