//! What a repair makes of a damaged directory: all that is sound, nothing that is not, and no old
//! value in place of a new one.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use engine_support::care::{bytes_of, checked, name, records, store};
use engine_support::faulty::Faulty;
use engine_support::{Random, copy_dir, files, flip, seed};
use kvs::engine::check::Progress;
use kvs::engine::fs::Fs;
use kvs::engine::repair::{QUARANTINE, Repaired, repair};
use kvs::engine::{DATABASES, Fsync, Options, Txn};
use kvs::{KvStore, KvsError};

fn fs() -> Arc<dyn Fs> {
    Arc::new(Faulty::default())
}

fn report(repaired: &Repaired) -> kvs::Result<String> {
    Ok(if repaired.after.is_none() { "found" } else { "done" }.into())
}

fn mend(dir: &Path) -> Repaired {
    let repaired = repair(&fs(), dir, false, &Progress::default(), &report).unwrap();
    let after = repaired.after.as_ref().unwrap_or(&repaired.found);
    assert!(after.is_sound(), "{:?}", after.findings);
    repaired
}

type Contents = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

fn open(dir: &Path) -> KvStore {
    Options::new(dir).segment_bytes(4096).fsync(Fsync::No).fs(fs()).open().unwrap()
}

/// Everything in all databases.
fn contents(store: &KvStore) -> Contents {
    let mut contents = Contents::new();
    for database in 0..DATABASES as u8 {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let note = |key: &[u8], value: &[u8]| {
            contents.insert((database, key.into()), value.into());
            ControlFlow::Continue(())
        };
        store.reader().snapshot(database).entries(all, note).unwrap();
    }
    contents
}

/// Copies a directory with all that is in it but its lock.
fn copy(dir: &Path) -> tempfile::TempDir {
    let copy = copy_dir(dir);
    std::fs::remove_file(copy.path().join("LOCK")).unwrap();
    copy
}

fn quarantined(repaired: &Repaired, name: &str) -> Vec<u8> {
    std::fs::read(repaired.quarantine.as_ref().unwrap().join(name)).unwrap()
}

#[test]
fn a_sound_store_is_left_alone() {
    let dir = store();
    let before = bytes_of(dir.path());
    let repaired = mend(dir.path());
    assert!(repaired.aside.is_empty() && repaired.quarantine.is_none());
    let mut after = bytes_of(dir.path());
    let lock = dir.path().join("LOCK");
    after.insert(lock.clone(), before[&lock].clone());
    assert!(before == after);
}

/// Damages one record after the other, repairs, and looks at what is there.
fn damage_each_record(hints: bool) {
    let dir = store();
    let whole = contents(&open(copy(dir.path()).path()));
    if !hints {
        files(dir.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
    }
    let logs = files(dir.path(), "log");
    let all: Vec<_> =
        logs.iter().map(|log| (log.clone(), records(&std::fs::read(log).unwrap()))).collect();
    let order: Vec<(&[u8], bool)> =
        all.iter().flat_map(|(_, records)| records).map(|(_, key)| (&key[..], true)).collect();
    let mut place = 0;
    for (log, records) in &all {
        for (range, key) in records {
            let is_newest = !order[place + 1..].iter().any(|(other, _)| other == key);
            place += 1;
            let broken = copy(dir.path());
            let log = broken.path().join(name(log));
            // Of a damaged key only a hint can tell what it was.
            flip(&log, if hints { range.end as usize - 1 } else { range.start as usize });
            let damaged = std::fs::read(&log).unwrap();
            let what = format!("{}, {range:?}, {}", log.display(), String::from_utf8_lossy(key));
            let found = checked(broken.path());
            if found.is_sound() {
                // Nothing tells it from a torn end.
                assert!(!hints && Some(name(&log)) == logs.last().map(|log| name(log)), "{what}");
                continue;
            }
            let repaired = mend(broken.path());
            assert_eq!(quarantined(&repaired, &name(&log)), damaged, "{what}");
            let mut expected = whole.clone();
            if is_newest {
                expected.remove(&(0, key.clone()));
            }
            // Without a hint, nothing tells of a clear.
            if !hints && key.is_empty() {
                expected.insert((5, b"five".into()), b"in another database".into());
            }
            let store = open(broken.path());
            assert!(contents(&store) == expected, "{what}");
            store.put("after", "the repair").unwrap();
            drop(store);
            let store = open(broken.path());
            let of_0 = contents(&store).keys().filter(|(database, _)| *database == 0).count();
            assert_eq!(store.len() as usize, of_0, "{what}");
            assert_eq!(store.read("after").unwrap(), Some(b"the repair".to_vec()), "{what}");
            drop(store);
            assert!(checked(broken.path()).findings.is_empty(), "{what}");
            assert!(mend(broken.path()).aside.is_empty(), "{what}");
        }
    }
}

#[test]
fn damage_to_any_record_costs_no_more_than_its_key() {
    damage_each_record(true);
}

#[test]
fn damage_to_any_record_costs_no_more_than_its_key_without_hints() {
    damage_each_record(false);
}

#[test]
fn a_dry_run_changes_nothing() {
    let dir = store();
    flip(&files(dir.path(), "log")[0], 100);
    flip(&dir.path().join("MANIFEST"), 40);
    let before = bytes_of(dir.path());
    let told = repair(&fs(), dir.path(), true, &Progress::default(), &report).unwrap();
    assert!(bytes_of(dir.path()) == before);
    let done = mend(dir.path());
    assert_eq!(told.aside, done.aside);
    assert!(told.quarantine.is_none() && told.after.is_none());
}

#[test]
fn a_segment_without_a_sound_header_is_taken_over() {
    let dir = store();
    let whole = contents(&open(copy(dir.path()).path()));
    for log in files(dir.path(), "log") {
        for at in [0, 9, 10, 20, 39] {
            let broken = copy(dir.path());
            let log = broken.path().join(name(&log));
            flip(&log, at);
            let repaired = mend(broken.path());
            assert!(repaired.salvaged > 0 && repaired.aside.contains(&name(&log)));
            assert!(contents(&open(broken.path())) == whole, "{}, byte {at}", log.display());
        }
    }
}

/// Backups share closed segments with the store, so none may ever be written to again.
#[test]
fn the_segment_that_is_written_to_afterwards_is_a_new_one() {
    let dir = store();
    let newest = files(dir.path(), "log").pop().unwrap();
    flip(&newest, 100);
    mend(dir.path());
    let closed = bytes_of(dir.path());
    let store = open(dir.path());
    store.put("more", "v".repeat(3000)).unwrap();
    drop(store);
    let after = bytes_of(dir.path());
    for (path, bytes) in
        closed.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"))
    {
        let grown = after.get(path).is_some_and(|now| now != bytes);
        assert!(!grown || bytes.len() == 40, "{}", path.display());
    }
}

#[test]
fn a_manifest_is_rebuilt_from_the_segments() {
    let dir = store();
    let whole = contents(&open(copy(dir.path()).path()));
    let len = std::fs::read(dir.path().join("MANIFEST")).unwrap().len();
    // One byte of each line and of what is around it; and without the file.
    for at in (0..len).step_by(7).map(Some).chain([Some(len - 1), None]) {
        let broken = copy(dir.path());
        let manifest = broken.path().join("MANIFEST");
        match at {
            Some(at) => flip(&manifest, at),
            None => std::fs::remove_file(&manifest).unwrap(),
        }
        assert!(matches!(KvStore::open(broken.path()), Err(KvsError::Damaged { .. })), "{at:?}");
        let repaired = mend(broken.path());
        assert!(repaired.rebuilt_manifest && repaired.found.lost().count() == 0);
        let store = open(broken.path());
        assert!(contents(&store) == whole, "{at:?}");
        let before: Vec<_> = files(broken.path(), "log").iter().map(|log| name(log)).collect();
        store.put("more", "v".repeat(5000)).unwrap();
        drop(store);
        let after = files(broken.path(), "log");
        assert!(after.iter().any(|log| !before.contains(&name(log))));
        assert!(checked(broken.path()).findings.is_empty(), "{at:?}");
    }
}

/// A merge whose process was killed before its edit, after it, or while it removed its inputs; and
/// then the manifest is lost.
#[test]
fn a_lost_manifest_beside_an_interrupted_merge_revives_nothing() {
    let dir = store();
    let before = copy(dir.path());
    let store = open(dir.path());
    let whole = contents(&store);
    store.compact().unwrap();
    drop(store);
    let merged: Vec<_> = files(dir.path(), "log").iter().map(|log| name(log)).collect();
    let inputs: Vec<_> = files(before.path(), "log")
        .iter()
        .map(|log| name(log))
        .filter(|log| !merged.contains(log))
        .collect();
    assert!(inputs.len() >= 2, "{inputs:?} -> {merged:?}");
    // They are removed one after the other, the oldest first.
    for left in 0..=inputs.len() {
        let broken = copy(dir.path());
        for input in &inputs[left..] {
            std::fs::copy(before.path().join(input), broken.path().join(input)).unwrap();
        }
        std::fs::remove_file(broken.path().join("MANIFEST")).unwrap();
        mend(broken.path());
        assert!(contents(&open(broken.path())) == whole, "{left} inputs removed");
    }
}

#[test]
fn a_missing_segment_costs_its_keys_and_brings_back_no_older_ones() {
    let dir = store();
    let whole = contents(&open(copy(dir.path()).path()));
    for log in files(dir.path(), "log") {
        let broken = copy(dir.path());
        std::fs::remove_file(broken.path().join(name(&log))).unwrap();
        let repaired = mend(broken.path());
        let lost: Vec<_> = repaired.found.lost().collect();
        let mut expected = whole.clone();
        for gone in &lost {
            expected.remove(&(gone.database, gone.key.clone()));
        }
        assert!(!lost.is_empty());
        assert!(contents(&open(broken.path())) == expected, "{}", log.display());
        assert!(mend(broken.path()).aside.is_empty());
    }
}

#[test]
fn other_files_go_aside_too() {
    let dir = store();
    let whole = contents(&open(copy(dir.path()).path()));
    std::fs::write(dir.path().join("ENGINE"), "kvr\n").unwrap();
    let repaired = mend(dir.path());
    assert_eq!(quarantined(&repaired, "ENGINE"), b"kvr\n");
    assert!(contents(&open(dir.path())) == whole);
    assert!(dir.path().join(QUARANTINE).is_dir());
    // A directory that is in use is left alone.
    let held = open(dir.path());
    let refused = repair(&fs(), dir.path(), false, &Progress::default(), &report);
    assert!(matches!(refused, Err(KvsError::Locked { .. })));
    drop(held);
}

/// Damages files of a directory in one of the ways in which that happens; what was done, in words.
fn damage_something(dir: &Path, random: &mut Random) -> String {
    let mut paths: Vec<_> = bytes_of(dir).into_keys().collect();
    paths.retain(|path| !matches!(&name(path)[..], "LOCK" | "RESERVE"));
    let path = &paths[random.below(paths.len() as u64) as usize];
    let mut bytes = std::fs::read(path).unwrap();
    let at = random.below(bytes.len().max(1) as u64) as usize;
    let what = match random.below(8) {
        _ if bytes.is_empty() => return "nothing".into(),
        0..3 => {
            bytes[at] ^= 1 << random.below(8);
            "a bit flips"
        }
        3 | 4 => {
            let end = (at + 1 + random.below(600) as usize).min(bytes.len());
            let filled = [0, 0xff, random.next() as u8][random.below(3) as usize];
            bytes[at..end].fill(filled);
            "a range is overwritten"
        }
        5 => {
            bytes.truncate(at);
            "it is cut short"
        }
        6 => {
            let more = random.below(300) as usize;
            bytes.extend(random.bytes(more));
            "it has grown"
        }
        _ => {
            std::fs::remove_file(path).unwrap();
            return format!("{} goes", name(path));
        }
    };
    std::fs::write(path, bytes).unwrap();
    format!("{}, byte {at}: {what}", name(path))
}

/// Several kinds of damage at once: the repair ends well, and what is there afterwards was written by
/// somebody. `KVS_REPAIR_ROUNDS` tells how often.
#[test]
fn whatever_is_damaged_nothing_is_made_up() {
    let rounds = std::env::var("KVS_REPAIR_ROUNDS").ok().and_then(|n| n.parse().ok());
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut written: BTreeMap<(u8, Vec<u8>), BTreeSet<Vec<u8>>> = BTreeMap::new();
    for i in 0..400 {
        let (database, key) = (random.below(2) as u8, format!("key{}", random.below(60)));
        let len = random.below(120) as usize;
        let (key, value) = (key.into_bytes(), random.bytes(len));
        written.entry((database, key.clone())).or_default().insert(value.clone());
        let remove = random.below(6) == 0;
        let change = move |txn: &mut Txn<'_>| match remove {
            true => txn.delete(database, &key).map(drop),
            false => txn.put(database, &key, &value, None),
        };
        store.update(change).unwrap();
        if i == 200 {
            store.compact().unwrap();
        }
    }
    drop(store);
    let (mut mended, mut keys) = (0, 0);
    for _ in 0..rounds.unwrap_or(100) {
        let broken = copy(dir.path());
        let damage: Vec<_> = (0..1 + random.below(4))
            .map(|_| damage_something(broken.path(), &mut random))
            .collect();
        let repaired = match repair(&fs(), broken.path(), false, &Progress::default(), &report) {
            Ok(repaired) => repaired,
            Err(KvsError::Invalid(_)) => continue,
            Err(error) => panic!("{damage:?}: {error}"),
        };
        let after = repaired.after.as_ref().unwrap_or(&repaired.found);
        assert!(after.is_sound(), "{damage:?}: {:?}", after.findings);
        let store = open(broken.path());
        assert_eq!(store.reader().stats().damaged_ranges.get(), 0, "{damage:?}");
        for (key, value) in contents(&store) {
            let known = written.get(&key).is_some_and(|values| values.contains(&value));
            assert!(known, "{damage:?}: {key:?} has {value:?}");
            keys += 1;
        }
        mended += 1;
    }
    println!("{mended} repairs left {keys} keys");
    assert!(mended > 10 && keys > mended * 10);
}
