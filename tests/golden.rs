//! Files of each format version, written once and kept: what was written then must be readable for
//! good, and what is written today must have the same bytes as those of the newest version. docs/format.md
//! quotes them.
//!
//! `cargo test --test golden -- --ignored` writes them anew: only ever for a new format version, in
//! a directory of its own.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_support::{copy_dir, files};
use kvs::KvStore;
use kvs::engine::fs::{Fs, OsFs};
use kvs::engine::hint::{Builder, Hint};
use kvs::engine::manifest::Manifest;
use kvs::engine::scan::{Tail, scan};
use kvs::engine::segment::{HEADER, Origin, VERSION, decode_header, encode_header};
use kvs::engine::{DATABASES, Options, record};
use kvs::stats::EngineStats;

const FAR: u64 = 4_102_444_800_000;

const VERSIONS: [u16; 2] = [1, VERSION];

fn golden(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

/// The generator that the files were made with, which never changes either.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

enum Op {
    Put(u8, Vec<u8>, Vec<u8>, Option<u64>),
    Delete(u8, Vec<u8>),
    Clear(u8),
    Swap(u8, u8),
}

type Contents = BTreeMap<(u8, Vec<u8>), (Vec<u8>, Option<u64>)>;

fn put(database: u8, key: &str, value: &str) -> Op {
    Op::Put(database, key.into(), value.into(), None)
}

/// What is written, before and after a compaction: each element is one atomic unit. What came with a
/// version is in the files of that and of later ones.
fn script(version: u16) -> (Vec<Vec<Op>>, Vec<Vec<Op>>) {
    let mut random = Xorshift(0x5eed);
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
    let mut before = noise(110);
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
    if version >= 2 {
        before.insert(30, vec![Op::Swap(5, 15)]);
        after.insert(7, vec![put(3, "swapped", "from three"), Op::Swap(3, 5), put(3, "to", "it")]);
    }
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
                    Op::Swap(a, b) => txn.swap(a, b)?,
                }
            }
            Ok(())
        });
        change.unwrap();
    }
}

fn expected(version: u16) -> Contents {
    let (before, after) = script(version);
    let mut contents = Contents::new();
    for op in before.into_iter().chain(after).flatten() {
        match op {
            Op::Put(database, key, value, expiry) => {
                contents.insert((database, key), (value, expiry));
            }
            Op::Delete(database, key) => drop(contents.remove(&(database, key))),
            Op::Clear(database) => contents.retain(|(of, _), _| *of != database),
            Op::Swap(a, b) => {
                let swapped = |of| {
                    if of == a {
                        b
                    } else if of == b {
                        a
                    } else {
                        of
                    }
                };
                let all = contents.into_iter();
                contents = all.map(|((of, key), entry)| ((swapped(of), key), entry)).collect();
            }
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
    let (before, after) = script(VERSION);
    apply(&store, before);
    store.compact().unwrap();
    apply(&store, after);
    drop(store);
    std::fs::create_dir_all(golden(VERSION)).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        if !matches!(entry.file_name().to_str(), Some("LOCK" | "RESERVE")) {
            std::fs::copy(entry.path(), golden(VERSION).join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn each_version_is_read_for_good() {
    for (version, hints) in
        VERSIONS.iter().flat_map(|version| [(*version, true), (*version, false)])
    {
        let (copy, expected) = (copy_dir(&golden(version)), expected(version));
        let is_log = |path: &PathBuf| origin_of(path) == Origin::Log;
        let newest = files(copy.path(), "log").into_iter().rfind(is_log).unwrap();
        let before = std::fs::read(&newest).unwrap();
        if !hints {
            files(copy.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
        }
        let stats = Arc::new(EngineStats::default());
        let store = Options::new(copy.path()).stats(Arc::clone(&stats)).open().unwrap();
        assert!(contents(&store) == expected, "version {version}, hints: {hints}");
        assert_eq!(stats.damaged_ranges.get(), 0);
        store.put("today", "writes").unwrap();
        store.update(|txn| txn.swap(0, 1)).unwrap();
        // Nothing of today is in a file that says that it is older.
        assert!(version == VERSION || std::fs::read(&newest).unwrap() == before);
        store.compact().unwrap();
        drop(store);
        let store = KvStore::open(copy.path()).unwrap();
        store.update(|txn| txn.swap(1, 0)).unwrap();
        assert!(store.delete("today").unwrap());
        assert!(contents(&store) == expected, "after today's writes");
    }
}

fn origin_of(log: &Path) -> Origin {
    decode_header(std::fs::read(log).unwrap()[..HEADER].try_into().unwrap()).unwrap().1
}

#[test]
fn the_golden_files_hold_one_of_each() {
    for version in VERSIONS {
        let (mut origins, mut flags, mut databases) = (Vec::new(), 0, 0u32);
        for log in files(&golden(version), "log") {
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
        let (more, own) = if version > 1 { (record::OWN, 1 << record::STORE) } else { (0, 0) };
        assert_eq!(flags, all | record::CLEAR | more);
        assert_eq!(databases, 1 << 0 | 1 << 3 | 1 << 5 | 1 << 15 | own);
    }
}

#[test]
fn segments_and_hints_are_written_as_they_were() {
    for log in VERSIONS.iter().flat_map(|version| files(&golden(*version), "log")) {
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
        let hint = std::fs::read(log.with_extension("hint")).unwrap();
        let today = Builder::from_scan(&found).encode(number, good.len() as u64);
        // What a version before had is written as it was then, but for the version.
        let newest = log.starts_with(golden(VERSION));
        let (of_log, of_hint) = if newest { (0, 0) } else { (HEADER, 10) };
        assert_eq!(bytes[of_log..], good[of_log..], "{}", log.display());
        assert_eq!(today.as_bytes()[of_hint..], hint[of_hint..], "the hint of {}", log.display());
        assert_eq!(Hint::decode(hint).unwrap().segment(), number);
    }
}

#[test]
fn the_manifest_is_written_as_it_was() {
    VERSIONS.iter().for_each(|version| check_manifest(&golden(*version)));
}

fn check_manifest(golden: &Path) {
    let good = std::fs::read_to_string(golden.join("MANIFEST")).unwrap();
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
    assert_eq!(std::fs::read_to_string(golden.join("ENGINE")).unwrap(), "kvs\n");
}

/// The dumps in docs/format.md are lines of `offset  bytes  text`, below a line that names the file.
#[test]
fn the_document_quotes_the_golden_files() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let (mut file, mut checked) = (Vec::new(), 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        if let Some((_, rest)) = line.split_once("`tests/golden/v2/") {
            let name = rest.split('`').next().unwrap();
            file = std::fs::read(golden(VERSION).join(name)).unwrap();
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
