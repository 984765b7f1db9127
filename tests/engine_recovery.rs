//! Opening what a crash, a power cut or a failing disk left behind.

#![allow(clippy::unwrap_used)]

mod engine_support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_support::{
    Model, Random, as_after_power_cut, contents, copy_dir, files, flip, open, open_synced, options,
    seed,
};
use kvs::engine::{Batch, Patience};
use kvs::stats::EngineStats;
use kvs::{KvStore, KvsError};

/// A store with some acknowledged keys, and the length of its one segment. Closed.
fn base(dir: &Path) -> (Model, usize) {
    let store = open_synced(dir);
    for i in 0..10 {
        store.put(format!("key{i}"), format!("value{i}")).unwrap();
    }
    store.delete("key9").unwrap();
    let model = contents(&store);
    drop(store);
    (model, std::fs::read(newest(dir)).unwrap().len())
}

fn newest(dir: &Path) -> PathBuf {
    files(dir, "log").pop().unwrap()
}

const FAR: u64 = 4_000_000_000_000;

/// One last command on a store, to be torn.
fn last_command(store: &KvStore, which: usize) {
    match which {
        0 => store.put("new", "a value").unwrap(),
        1 => store.put("key1", "another value").unwrap(),
        2 => assert!(store.delete("key2").unwrap()),
        3 => store.update(|txn| txn.put(0, b"key3", b"for a while", Some(FAR))).unwrap(),
        4 => store.clear().unwrap(),
        _ => {
            let mut batch = Batch::new();
            batch.put("batch1", "one").put("key4", "two").delete("key5").put("batch2", "four");
            store.write(batch).unwrap();
        }
    }
}

/// Opens, compares with one of two contents, writes, and opens again: twice the same.
fn check_either(dir: &Path, whole: Option<&Model>, absent: &Model, what: &str) {
    let stats = Arc::new(EngineStats::default());
    let store = options(dir).stats(Arc::clone(&stats)).open().unwrap();
    let found = contents(&store);
    assert!(found == *absent || Some(&found) == whole, "{what}: {found:?}");
    assert_eq!(stats.damaged_ranges.get(), 0, "{what}: taken for damage");
    assert_eq!(store.len(), found.len() as u64);
    store.put("after", "the crash").unwrap();
    let model = contents(&store);
    drop(store);
    assert_eq!(contents(&open(dir)), model, "{what}: reopened");
}

#[test]
fn a_torn_last_command_is_whole_or_absent() {
    let mut random = Random(seed());
    for which in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let (before, from) = base(dir.path());
        let store = open(dir.path());
        last_command(&store, which);
        let after = contents(&store);
        // As a killed process leaves it: with the hint of before, stale by now.
        let killed = copy_dir(dir.path());
        drop(store);
        let end = std::fs::read(newest(dir.path())).unwrap().len();
        let log = newest(killed.path());
        let good = std::fs::read(&log).unwrap();
        assert_eq!(good.len(), end);
        for cut in from..=end {
            for (way, fill) in ["cut", "zeros", "garbage"].into_iter().enumerate() {
                // Every cut as it is; every one with zeros or garbage would take a minute.
                if way != 0 && cut % 5 != way {
                    continue;
                }
                let torn = copy_dir(killed.path());
                let mut bytes = good[..cut].to_vec();
                match way {
                    0 => {}
                    1 => bytes.resize(end + 500, 0),
                    _ => bytes.extend(random.bytes(end - cut + 50)),
                }
                std::fs::write(newest(torn.path()), &bytes).unwrap();
                as_after_power_cut(torn.path());
                if cut.is_multiple_of(2) {
                    files(torn.path(), "hint")
                        .iter()
                        .for_each(|h| std::fs::remove_file(h).unwrap());
                }
                let what = format!("command {which}, {fill} from {cut} of {from}..{end}");
                // The last bytes of a record without a value are zeros anyway.
                let whole = (bytes.get(..end) == Some(&good)).then_some(&after);
                check_either(torn.path(), whole, &before, &what);
            }
        }
    }
}

/// A store of several segments, closed; with its contents.
fn several_segments(dir: &Path) -> Model {
    let store = open(dir);
    for i in 0..600 {
        store.put(format!("key{i:03}"), format!("value{i:03}-{}", "x".repeat(60))).unwrap();
    }
    let model = contents(&store);
    drop(store);
    assert!(files(dir, "log").len() >= 4);
    model
}

#[test]
fn hints_are_a_short_cut_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..6 {
        store.put(format!("key{i}"), "value").unwrap();
    }
    let model = contents(&store);
    drop(store);
    let hint = files(dir.path(), "hint").remove(0);
    let good = std::fs::read(&hint).unwrap();
    for at in 0..good.len() {
        flip(&hint, at);
        assert_eq!(contents(&open(dir.path())), model, "byte {at} flipped");
    }
    for len in [0, 1, 15, 16, good.len() - 1] {
        std::fs::write(&hint, &good[..len]).unwrap();
        assert_eq!(contents(&open(dir.path())), model, "cut to {len}");
    }
    std::fs::remove_file(&hint).unwrap();
    assert_eq!(contents(&open(dir.path())), model);
    assert_eq!(std::fs::read(&hint).unwrap(), good, "the close writes the hint again");
}

#[test]
fn a_hint_of_another_segment_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let model = several_segments(dir.path());
    let hints = files(dir.path(), "hint");
    assert_eq!(hints.len(), files(dir.path(), "log").len());
    let (first, last) = (std::fs::read(&hints[0]).unwrap(), std::fs::read(&hints[2]).unwrap());
    std::fs::write(&hints[0], last).unwrap();
    std::fs::write(&hints[2], first).unwrap();
    assert_eq!(contents(&open(dir.path())), model);
    for hint in files(dir.path(), "hint") {
        std::fs::remove_file(hint).unwrap();
    }
    assert_eq!(contents(&open(dir.path())), model);
}

#[test]
fn files_that_the_manifest_does_not_list_go_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = base(dir.path());
    for name in
        ["00000077.log", "00000077.hint", "00000078.hint", "MANIFEST.tmp", "00000001.hint.tmp"]
    {
        std::fs::write(dir.path().join(name), "left behind").unwrap();
    }
    std::fs::write(dir.path().join("notes.txt"), "the user's own").unwrap();
    assert_eq!(contents(&open(dir.path())), model);
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = ["00000001.hint", "00000001.log", "ENGINE", "LOCK", "MANIFEST", "notes.txt"];
    assert_eq!(names, expected);
}

#[test]
fn a_missing_manifest_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    let manifest = dir.path().join("MANIFEST");
    let good = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    let message = KvStore::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("MANIFEST") && message.contains("missing"), "{message}");
    std::fs::write(&manifest, good).unwrap();
    assert_eq!(KvStore::open(dir.path()).unwrap().len(), 9);
}

#[test]
fn an_unfinished_line_of_the_manifest_never_happened() {
    let dir = tempfile::tempdir().unwrap();
    let model = several_segments(dir.path());
    let manifest = dir.path().join("MANIFEST");
    let good = std::fs::read(&manifest).unwrap();
    // An edit that lists a segment which was made and never written to.
    let edit = r#"{"next":99,"add":[98],"remove":[]}"#;
    let line = format!("{:08x} {edit}\n", crc32fast::hash(edit.as_bytes()));
    for cut in 0..line.len() {
        let bytes = [&good[..], &line.as_bytes()[..cut]].concat();
        std::fs::write(&manifest, bytes).unwrap();
        std::fs::write(dir.path().join("00000098.log"), "half made").unwrap();
        assert_eq!(contents(&open(dir.path())), model, "cut at {cut}");
        assert!(!dir.path().join("00000098.log").exists());
    }
}

/// Where in a file a text begins.
fn place(path: &Path, text: &str) -> usize {
    let bytes = std::fs::read(path).unwrap();
    bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap()
}

/// Flips a bit of one value and tells what is left: all other keys, and an error for this one.
fn check_damage(hints: bool) {
    let dir = tempfile::tempdir().unwrap();
    let model = several_segments(dir.path());
    let damaged = files(dir.path(), "log").remove(1);
    let key = (0..600)
        .map(|i| format!("key{i:03}"))
        .find(|key| {
            let bytes = std::fs::read(&damaged).unwrap();
            bytes.windows(6).any(|w| w == key.as_bytes())
        })
        .unwrap();
    let offset = place(&damaged, &key) - 20;
    flip(&damaged, offset + 20 + 8);
    if !hints {
        files(dir.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
    }
    let bytes = std::fs::read(&damaged).unwrap();
    let store = open(dir.path());
    assert_eq!(store.len(), model.len() as u64);
    let check = |store: &KvStore| {
        for (name, value) in &model {
            match store.read(name) {
                Err(KvsError::Damaged { file, offset: at, .. }) => {
                    assert_eq!((name, &file, at), (&key.clone().into(), &damaged, offset as u64));
                }
                found => {
                    assert_eq!(found.unwrap().as_ref(), Some(value));
                    assert_ne!(*name, key.as_bytes(), "served in spite of the damage");
                }
            }
        }
    };
    check(&store);
    let view = store.reader().view();
    assert!(view.get(0, key.as_bytes(), Patience::MayWait).is_err());
    drop(view);
    // Its neighbours are overwritten, so that it is worth a merge, and a new key comes.
    for name in model.keys().filter(|name| **name != key.as_bytes()) {
        store.put(name.clone(), model[name].clone()).unwrap();
    }
    store.compact().unwrap();
    store.compact().unwrap();
    check(&store);
    assert_eq!(std::fs::read(&damaged).unwrap(), bytes, "the damaged segment is kept");
    drop(store);
    let store = open(dir.path());
    check(&store);
    store.put(key.clone(), "mended").unwrap();
    drop(store);
    assert_eq!(open(dir.path()).read(&key).unwrap(), Some(b"mended".to_vec()));
}

#[test]
fn a_damaged_record_answers_an_error_and_others_are_served() {
    check_damage(true);
}

#[test]
fn a_damaged_record_is_found_without_hints_too() {
    check_damage(false);
}

#[test]
fn damage_before_the_last_group_is_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (mut model, _) = base(dir.path());
    let killed = copy_dir(dir.path());
    std::fs::remove_file(files(killed.path(), "hint").remove(0)).unwrap();
    flip(&newest(killed.path()), place(&newest(killed.path()), "value4") + 2);
    let stats = Arc::new(EngineStats::default());
    let store = options(killed.path()).stats(Arc::clone(&stats)).open().unwrap();
    assert_eq!(stats.damaged_ranges.get(), 1);
    assert!(matches!(store.read("key4"), Err(KvsError::Damaged { .. })));
    model.remove(&b"key4"[..]);
    for (key, value) in &model {
        assert_eq!(store.read(key).unwrap().as_ref(), Some(value));
    }
    assert_eq!(store.read("key9").unwrap(), None, "a later tombstone counts");
    store.put("after", "it").unwrap();
    drop(store);
    let store = open(killed.path());
    assert_eq!(store.read("after").unwrap(), Some(b"it".to_vec()));
    assert!(matches!(store.read("key4"), Err(KvsError::Damaged { .. })));
}

#[test]
fn a_damaged_tombstone_revives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_synced(dir.path());
    store.put("a", "old").unwrap();
    assert!(store.delete("a").unwrap());
    store.put("b", "later").unwrap();
    let killed = copy_dir(dir.path());
    drop(store);
    let log = newest(killed.path());
    // Header (40), the put (20 + 1 + 3), then the tombstone's own checksum.
    flip(&log, 40 + 24);
    let store = open(killed.path());
    assert!(matches!(store.read("a"), Err(KvsError::Damaged { .. })));
    assert_eq!(store.read("b").unwrap(), Some(b"later".to_vec()));
}

/// A hole in an interrupted write, with sound records behind it. They must not come up again when
/// the next write just fills the hole.
#[test]
fn what_lies_behind_a_torn_record_is_gone_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (mut model, from) = base(dir.path());
    let store = open(dir.path());
    let mut batch = Batch::new();
    batch.put("torn", "1").put("behind", "it");
    store.write(batch).unwrap();
    let killed = copy_dir(dir.path());
    drop(store);
    flip(&newest(killed.path()), from + 20);
    as_after_power_cut(killed.path());
    let store = open(killed.path());
    assert_eq!(contents(&store), model);
    // As long as the torn record.
    store.put("fill", "1").unwrap();
    model.insert(b"fill".into(), b"1".into());
    let again = copy_dir(killed.path());
    drop(store);
    assert_eq!(contents(&open(again.path())), model);
}
