//! Damage to any byte of any file, and files that are missing: a key has its value or answers with
//! an error, the others go on, and the store opens.
#![allow(clippy::unwrap_used)]

mod engine_support;
mod simfs;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_support::{Model, contents};
use kvs::engine::manifest::Manifest;
use kvs::engine::record::{self, Record};
use kvs::engine::segment::{HEADER, Origin, decode_header, encode_header};
use kvs::engine::{Batch, Fsync, Options, Watch};
use kvs::stats::EngineStats;
use kvs::{KvStore, KvsError, Result};
use simfs::{Fault, Kind, Loss, SimFs};

const DIR: &str = "/sim";
const FAR: u64 = 4_000_000_000_000;

fn options(disk: &SimFs) -> Options {
    Options::new(DIR).fs(disk.shared()).fsync(Fsync::Always).segment_bytes(4096).readers(1)
}

fn files(disk: &SimFs, extension: &str) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths
}

/// Some segments with values that were replaced, keys that were removed, a merge, a batch; open.
fn store() -> (SimFs, KvStore, Model) {
    let disk = SimFs::new();
    let store = options(&disk).open().unwrap();
    let value = |i: u32, round: u32| format!("value {round} of {i} {}", "x".repeat(60));
    for round in 0..3 {
        for i in 0..30 {
            store.put(format!("key{i:02}"), value(i, round)).unwrap();
        }
        for i in (round..30).step_by(7) {
            store.delete(format!("key{i:02}")).unwrap();
        }
        if round == 1 {
            store.compact().unwrap();
        }
    }
    store.update(|txn| txn.put(0, b"ends", b"never", Some(FAR))).unwrap();
    let mut batch = Batch::new();
    batch.put("batch1", "one").delete("key05").put("batch2", "two");
    store.write(batch).unwrap();
    let model = contents(&store);
    (disk, store, model)
}

/// All names that were ever there.
fn names() -> impl Iterator<Item = String> {
    let others = ["ends", "batch1", "batch2"].map(str::to_owned);
    (0..30).map(|i| format!("key{i:02}")).chain(others)
}

fn is_damage<T>(outcome: &Result<T>) -> bool {
    matches!(outcome, Err(KvsError::Damaged { .. } | KvsError::Io { .. }))
}

/// How many keys answer with an error. All others have the values they should have.
fn hurt(store: &KvStore, model: &Model, what: &str) -> usize {
    let mut hurt = 0;
    for name in names() {
        match store.read(&name) {
            Ok(found) => assert_eq!(found.as_ref(), model.get(name.as_bytes()), "{what}: {name}"),
            damaged => {
                assert!(is_damage(&damaged), "{what}: {name}: {damaged:?}");
                hurt += 1;
            }
        }
    }
    hurt
}

/// Flips a bit of every byte, or of every `step`th, of every file that is wanted.
fn flip_everything(disk: &SimFs, model: &Model, step: usize, wanted: fn(&Path) -> bool) {
    let (mut flips, mut worst) = (0, 0);
    for path in disk.paths().into_iter().filter(|path| wanted(path)) {
        let len = disk.content(&path).unwrap().len();
        for at in (0..len).filter(|at| *at < 40 || at % step == 0) {
            let what = format!("byte {at} of {}", path.display());
            let damaged = disk.kill();
            damaged.flip(&path, at as u64, 1 << (at % 8));
            let opened = options(&damaged).open();
            let name = path.file_name().unwrap().to_str().unwrap();
            match opened {
                Ok(store) => worst = worst.max(hurt(&store, model, &what)),
                Err(error) => {
                    let told = error.to_string();
                    let advises = match name {
                        "MANIFEST" => told.contains("kvs repair"),
                        "ENGINE" => told.contains("kvs repair"),
                        _ => false,
                    };
                    assert!(advises, "{what}: {error}");
                }
            }
            flips += 1;
        }
    }
    println!("{flips} flips, at worst {worst} keys were hurt");
    assert!(flips > 100 && (1..=3).contains(&worst), "at worst {worst} keys were hurt");
}

fn anything(_: &Path) -> bool {
    true
}

#[test]
fn a_flipped_bit_anywhere_in_a_closed_store_is_found() {
    let (disk, store, model) = store();
    drop(store);
    flip_everything(&disk, &model, 3, anything);
}

/// No hint tells what a damaged record was; its checksum does, if one bit flipped. The last record is
/// left out: it may look like the end of an interrupted write.
#[test]
fn a_flipped_bit_anywhere_in_a_killed_store_is_found_without_hints() {
    let (disk, store, model) = store();
    store.put("last", "one").unwrap();
    let killed = disk.kill();
    drop(store);
    for path in files(&killed, "hint") {
        killed.replace(&path, None);
    }
    flip_everything(&killed, &model, 2, |path| path.extension().is_some_and(|e| e == "log"));
}

#[test]
fn a_missing_hint_costs_nothing_but_time() {
    let (disk, store, model) = store();
    drop(store);
    for path in files(&disk, "hint") {
        let damaged = disk.kill();
        damaged.replace(&path, None);
        assert_eq!(hurt(&options(&damaged).open().unwrap(), &model, "without a hint"), 0);
    }
}

#[test]
fn a_missing_segment_hurts_the_keys_that_its_hint_names() {
    let (disk, store, model) = store();
    drop(store);
    let logs = files(&disk, "log");
    assert!(logs.len() > 2);
    let mut all = 0;
    for path in &logs {
        let what = format!("without {}", path.display());
        let damaged = disk.kill();
        damaged.replace(path, None);
        let stats = Arc::new(EngineStats::default());
        let store = options(&damaged).stats(Arc::clone(&stats)).open().unwrap();
        let lost = hurt(&store, &model, &what);
        assert_eq!(stats.damaged_ranges.get(), 1);
        all += lost;
        // It is told again by the next open, and what is written meanwhile stays.
        let key = names().find(|name| is_damage(&store.read(name)));
        if let Some(key) = &key {
            store.put(key.clone(), "written again").unwrap();
        }
        store.put("new", "one").unwrap();
        store.compact().unwrap();
        drop(store);
        let store = options(&damaged).open().unwrap();
        assert_eq!(store.read("new").unwrap(), Some(b"one".to_vec()), "{what}");
        if let Some(key) = key {
            assert_eq!(store.read(&key).unwrap(), Some(b"written again".to_vec()), "{what}");
        }
        let still = names().filter(|name| is_damage(&store.read(name))).count();
        assert_eq!(still, lost.saturating_sub(1), "{what}");
    }
    assert_eq!(all, model.len(), "each key is in one segment");
}

#[test]
fn a_segment_that_was_cut_short_hurts_what_was_behind_the_cut() {
    let (disk, store, model) = store();
    drop(store);
    for path in files(&disk, "log") {
        let content = disk.content(&path).unwrap();
        for len in (0..content.len()).step_by(97) {
            let what = format!("{} cut to {len} bytes", path.display());
            let damaged = disk.kill();
            damaged.replace(&path, Some(&content[..len]));
            let store = options(&damaged).open().unwrap();
            hurt(&store, &model, &what);
            store.put("new", "one").unwrap();
            drop(store);
            let store = options(&damaged).open().unwrap();
            hurt(&store, &model, &what);
            assert_eq!(store.read("new").unwrap(), Some(b"one".to_vec()), "{what}");
        }
    }
}

/// A disk that does not give some pages of a segment, met when the store opens without hints.
#[test]
fn pages_that_cannot_be_read_cost_what_is_in_them() {
    let disk = SimFs::new();
    let big = |disk: &SimFs| options(disk).segment_bytes(1 << 20);
    let store = big(&disk).open().unwrap();
    let value = vec![b'v'; 200];
    let name = |i: u32| format!("key{i:03}");
    (0..200).for_each(|i| store.put(name(i), value.clone()).unwrap());
    for (page, is_last) in [(2, false), (11, true)] {
        let killed = disk.kill();
        unreadable(&killed, page * 4096..(page + 1) * 4096);
        let reopened = big(&killed).open().unwrap();
        assert!(reopened.reader().stats().damaged_ranges.get() > 0);
        let sound = |store: &KvStore| {
            (0..200)
                .filter(|i| store.read(name(*i)).is_ok_and(|v| v.as_ref() == Some(&value)))
                .count()
        };
        let left = sound(&reopened);
        assert!((170..200).contains(&left), "{left} keys are left");
        reopened.put("new", "one").unwrap();
        drop(reopened);
        let reopened = big(&killed).open().unwrap();
        assert_eq!(
            (sound(&reopened), reopened.read("new").unwrap()),
            (left, Some(b"one".to_vec()))
        );
        assert!(!is_last || files(&killed, "log").len() == 2, "nothing is written behind a hole");
    }
}

/// A page at the end that could not be read once, and can be at the next open. It was taken for a torn
/// end, and cut off. What is in it is there again, but older than what was written meanwhile, which got
/// the same sequence numbers.
#[test]
fn pages_that_can_be_read_again_take_nothing_back() {
    let disk = SimFs::new();
    let big = |disk: &SimFs| options(disk).segment_bytes(1 << 20);
    let store = big(&disk).open().unwrap();
    let name = |i: u32| format!("key{i:03}");
    (0..200).for_each(|i| store.put(name(i), vec![b'o'; 200]).unwrap());
    // The last bytes are in page 11.
    for pages in [10..11, 10..12] {
        let killed = disk.kill();
        unreadable(&killed, pages.start * 4096..pages.end * 4096);
        let reopened = big(&killed).open().unwrap();
        for i in (0..200).rev().step_by(2) {
            reopened.put(name(i), vec![b'n'; 200]).unwrap();
        }
        drop(reopened);
        killed.heal();
        let reopened = big(&killed).open().unwrap();
        for i in 0..200 {
            let expected = Some(vec![if i % 2 == 1 { b'n' } else { b'o' }; 200]);
            assert_eq!(reopened.read(name(i)).unwrap(), expected, "{}, {pages:?}", name(i));
        }
    }
}

fn unreadable(disk: &SimFs, range: std::ops::Range<u64>) {
    disk.fail(move |call| {
        let hit = call.offset < range.end && range.start < call.offset + call.len as u64;
        (call.kind == Kind::Read && call.is_of("log") && hit).then_some(Fault::Io)
    });
}

fn segment(number: u64, origin: Origin, records: &[(u64, &str, Option<usize>)]) -> Vec<u8> {
    let mut bytes = encode_header(number, origin).to_vec();
    for (seq, key, value) in records {
        let (start, value_bytes) = (bytes.len(), vec![b'v'; value.unwrap_or(0)]);
        let flags = if value.is_none() { record::TOMBSTONE } else { record::GROUP_START };
        let record = Record {
            seq: *seq,
            flags,
            database: 0,
            expires_at: None,
            key: key.as_bytes(),
            value: &value_bytes,
        };
        record::append(&mut bytes, &record);
        record::seal(&mut bytes[start..]);
    }
    bytes
}

/// A tombstone hides a record that lies in a page which cannot be read for a while. The segment says
/// of the records that it has only what could be read.
#[test]
fn a_tombstone_stays_while_the_page_with_what_it_hides_cannot_be_read() {
    let disk = SimFs::new();
    drop(options(&disk).open().unwrap());
    let path = |name: &str| Path::new(DIR).join(name);
    let merged = [
        (300, "young", Some(3900)),
        (310, "young1", Some(1000)),
        (120, "hidden", Some(100)),
        (320, "young2", Some(4000)),
        (330, "young3", Some(10)),
    ];
    let closed = [(130, "hidden", None), (140, "dead", Some(1000)), (150, "lives", Some(10))];
    let newest = [(500, "dead", Some(10))];
    for (number, origin, records) in
        [(2, Origin::Merged, &merged[..]), (3, Origin::Log, &closed), (4, Origin::Log, &newest)]
    {
        let bytes = segment(number, origin, records);
        disk.replace(&path(&format!("{number:08}.log")), Some(&bytes));
    }
    let listed = BTreeSet::from([2, 3, 4]);
    Manifest::create(&disk.shared(), path("MANIFEST"), 5, listed).unwrap();
    unreadable(&disk, 4096..8192);
    let store = options(&disk).open().unwrap();
    assert_eq!(store.read("hidden").unwrap(), None);
    store.compact().unwrap();
    assert!(store.reader().stats().compactions.get() > 0);
    drop(store);
    disk.heal();
    let store = options(&disk).open().unwrap();
    assert_eq!(store.read("hidden").unwrap(), None, "it came back");
    assert_eq!(store.read("lives").unwrap(), Some(vec![b'v'; 10]));
    assert_eq!(store.read("young2").unwrap(), Some(vec![b'v'; 4000]));
}

/// Nobody knows then what was in there: each key has the value that it has elsewhere, or none.
#[test]
fn a_segment_that_is_missing_with_its_hint_costs_what_it_held() {
    let (disk, store, model) = store();
    drop(store);
    for path in files(&disk, "log") {
        let what = format!("without {} and its hint", path.display());
        let damaged = disk.kill();
        damaged.replace(&path, None);
        damaged.replace(&path.with_extension("hint"), None);
        for _ in 0..2 {
            let store = options(&damaged).open().unwrap();
            let sound = names().filter(|name| {
                let found = store.read(name).unwrap_or_else(|error| panic!("{what}: {error}"));
                found.as_ref() == model.get(name.as_bytes())
            });
            assert!(sound.count() > 0, "{what}");
            store.put("new", "one").unwrap();
            store.compact().unwrap();
        }
        assert_eq!(options(&damaged).open().unwrap().read("new").unwrap(), Some(b"one".to_vec()));
    }
}

/// The newest segment is gone, so the one before it was closed: no end of it was ever torn, and
/// nothing is cut off.
#[test]
fn nothing_is_cut_off_a_segment_that_was_not_the_newest() {
    let (disk, store, _) = store();
    let after = disk.power_cut(Loss::Nothing);
    drop(store);
    for path in files(&after, "hint") {
        after.replace(&path, None);
    }
    let mut logs = files(&after, "log");
    // Not one of a merge, nor one that was only prepared.
    logs.retain(|path| {
        let bytes = after.content(path).unwrap();
        let (_, origin) = decode_header(bytes[..HEADER].try_into().unwrap()).unwrap();
        origin == Origin::Log && bytes[HEADER..].iter().any(|byte| *byte != 0)
    });
    let [.., before, newest] = &logs[..] else { panic!("{logs:?}") };
    after.replace(newest, None);
    let bytes = after.content(before).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    after.flip(before, last as u64, 1);
    let bytes = after.content(before).unwrap();
    let store = options(&after).open().unwrap();
    assert!(names().any(|name| is_damage(&store.read(name))), "the damage is not told");
    drop(store);
    assert!(after.content(before).unwrap() == bytes, "it was written to");
}

/// A key that cannot be read can be removed, and stays away; walks over keys go on.
#[test]
fn damaged_keys_can_be_removed_and_written() {
    let (disk, store, model) = store();
    drop(store);
    let bytes = |path: &Path| disk.content(path).unwrap();
    let logs = files(&disk, "log").into_iter();
    let (path, at) = logs
        .filter_map(|path| {
            let text = b"value 2 of 20 ";
            let at = bytes(&path).windows(text.len()).position(|window| window == text)?;
            Some((path, at))
        })
        .next()
        .unwrap();
    disk.flip(&path, at as u64, 1);
    let store = options(&disk).open().unwrap();
    let error = store.read("key20").unwrap_err().to_string();
    assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    assert!(error.contains(&format!("byte {}", at - 25)), "{error}");
    let mut seen = 0;
    let mut cursor = 0;
    loop {
        cursor = store.reader().scan(0, cursor, 10, |_| seen += 1).unwrap();
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen, model.len() - 1, "SCAN passes over it");
    let mut names = 0;
    let all = (Bound::Unbounded, Bound::Unbounded);
    let count = |_: &[u8]| {
        names += 1;
        std::ops::ControlFlow::Continue(())
    };
    store.reader().snapshot(0).keys(all, count).unwrap();
    assert_eq!(names, model.len(), "KEYS names it");
    assert!(store.range(Bound::Unbounded, Bound::Unbounded).any(|entry| is_damage(&entry)));
    assert!(store.update(|txn| txn.contains(0, b"key20")).is_err());
    assert!(store.delete("key20").unwrap());
    assert!(!store.delete("key20").unwrap());
    for _ in 0..3 {
        store.compact().unwrap();
    }
    drop(store);
    let without_hints = disk.kill();
    for path in files(&disk, "hint") {
        without_hints.replace(&path, None);
    }
    for disk in [disk, without_hints] {
        let store = options(&disk).open().unwrap();
        assert_eq!(store.read("key20").unwrap(), None, "it came back");
        assert_eq!(
            hurt(
                &store,
                &Model::from_iter(model.clone().into_iter().filter(|(k, _)| k != b"key20")),
                "all others"
            ),
            0
        );
    }
}

/// FLUSHDB failed for everyone while somebody watched a key that was damaged.
#[test]
fn a_damaged_key_may_be_watched_and_goes_with_its_database() {
    let disk = SimFs::new();
    let store = options(&disk).open().unwrap();
    store.put("key", "the value").unwrap();
    store.put("other", "value").unwrap();
    drop(store);
    let path = files(&disk, "log").pop().unwrap();
    let bytes = disk.content(&path).unwrap();
    let at = bytes.windows(9).position(|window| window == b"the value").unwrap();
    disk.flip(&path, at as u64, 4);
    let store = options(&disk).open().unwrap();
    assert!(is_damage(&store.read("key")));
    let watch = Arc::new(Watch::default());
    let (begun, asked) = (Arc::clone(&watch), Arc::clone(&watch));
    store.update(move |txn| txn.watch(&begun, 0, b"key")).unwrap();
    store.clear().unwrap();
    assert!(store.update(move |txn| txn.unwatch(&asked)).unwrap());
    assert!(store.is_empty());
}
