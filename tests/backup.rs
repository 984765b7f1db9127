//! Backups that are made while writes go on: complete, of one moment, and never changed afterwards.
#![allow(clippy::unwrap_used)]

mod engine_support;
mod serving;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine_support::care::{bytes_of, checked};
use engine_support::faulty::Faulty;
use engine_support::{contents, files, options};
use kvs::client::Client;
use kvs::clock::now_ms;
use kvs::engine::{Batch, Fsync, Options, Txn};
use kvs::protocol::Value;
use kvs::{KvStore, KvsError};
use serving::process::Process;
use serving::{info, says};

fn open(dir: &Path) -> KvStore {
    options(dir).segment_bytes(4096).open().unwrap()
}

/// A store with something in several segments, some of it dead.
fn filled(dir: &Path) -> KvStore {
    let store = open(dir);
    for i in 0..200 {
        store.put(format!("key{:03}", i % 150), "v".repeat(100)).unwrap();
    }
    assert!(files(dir, "log").len() >= 4);
    store
}

#[test]
fn a_backup_is_the_store_of_that_moment() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path());
    let then = contents(&store);
    let dest = copies.path().join("made/on/the/way");
    store.backup(&dest).unwrap();
    let copied = bytes_of(&dest);
    let report = checked(&dest);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    // It is closed, and is no part of the store any more.
    assert!(!dest.join("LOCK").exists());
    for i in 0..200 {
        store.put(format!("key{i:03}"), "w".repeat(90)).unwrap();
    }
    store.compact().unwrap();
    let now = contents(&store);
    assert!(bytes_of(&dest) == copied, "the store went on in the backup's files");
    // And the other way round: the backup goes on, and the store's files stay as they are.
    let second = copies.path().join("second");
    store.backup(&second).unwrap();
    let closed = bytes_of(dir.path());
    let restored = open(&dest);
    assert!(contents(&restored) == then);
    for i in 0..200 {
        restored.put(format!("key{i:03}"), "x".repeat(80)).unwrap();
    }
    restored.compact().unwrap();
    drop(restored);
    let again = open(&second);
    assert!(contents(&again) == now);
    again.put("more", "of it").unwrap();
    drop(again);
    assert!(bytes_of(dir.path()) == closed);
    assert!(checked(&dest).findings.is_empty() && checked(&second).findings.is_empty());
    assert!(contents(&store) == now);
}

/// Writers that count up, each in two keys at once, while others fill segments that are merged:
/// what a backup has lies between what was acknowledged before it and what was begun after it.
#[test]
fn backups_amid_writes_and_merges_are_of_one_moment() {
    const WRITERS: usize = 3;
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = options(dir.path()).segment_bytes(256 * 1024).open().unwrap();
    let stop = AtomicBool::new(false);
    // Writers wait here for each round, so that a slow machine is not flooded.
    let target = AtomicU64::new(0);
    let acknowledged: [AtomicU64; WRITERS] = Default::default();
    let begun: [AtomicU64; WRITERS] = Default::default();
    let all = |counts: &[AtomicU64; WRITERS]| -> Vec<u64> {
        counts.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, stop, begun, acknowledged) = (&store, &stop, &begun, &acknowledged);
            let target = &target;
            scope.spawn(move || {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    if n >= target.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                        continue;
                    }
                    n += 1;
                    begun[writer].store(n, Ordering::SeqCst);
                    let mut batch = Batch::new();
                    let value = format!("{n}");
                    batch.put(format!("left{writer}"), value.clone());
                    batch.put(format!("fill{writer}-{}", n % 40), "f".repeat(200));
                    batch.put(format!("right{writer}"), value);
                    store.write(batch).unwrap();
                    acknowledged[writer].store(n, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // What expires meanwhile, and is removed by the store itself.
                let soon = now_ms() + 1;
                let put = move |txn: &mut Txn<'_>| txn.put(0, b"ends", b"soon", Some(soon));
                store.update(put).unwrap();
                store.compact().unwrap();
            }
        });
        let compactions = || store.reader().stats().compactions.get();
        for round in 0..8 {
            let merged = compactions();
            target.fetch_add(2000, Ordering::Relaxed);
            engine_support::until("something was written and merged", || {
                compactions() > merged && all(&acknowledged).iter().all(|n| *n > round * 2000)
            });
            let dest = copies.path().join(format!("{round}"));
            let before = all(&acknowledged);
            store.backup(&dest).unwrap();
            let after = all(&begun);
            let report = checked(&dest);
            assert!(report.findings.is_empty(), "{:?}", report.findings);
            let restored = open(&dest);
            assert_eq!(restored.read("ends").unwrap(), None);
            for writer in 0..WRITERS {
                let read = |side: &str| -> u64 {
                    let value = restored.read(format!("{side}{writer}")).unwrap().unwrap();
                    String::from_utf8(value).unwrap().parse().unwrap()
                };
                let (left, right) = (read("left"), read("right"));
                assert_eq!(left, right, "half a batch");
                let range = before[writer]..=after[writer];
                assert!(range.contains(&left), "{left} is not in {range:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn without_hard_links_files_are_copied() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(filled(dir.path()));
    let faulty = Faulty::default();
    faulty.refuse_links();
    let store = Options::new(dir.path()).fsync(Fsync::No).fs(Arc::new(faulty)).open().unwrap();
    let dest = copies.path().join("copy");
    store.backup(&dest).unwrap();
    assert!(checked(&dest).findings.is_empty());
    let stats = store.reader().stats();
    let logs: u64 = files(&dest, "log").iter().map(|log| log.metadata().unwrap().len()).sum();
    // All but the empty one that the backup ends with.
    assert_eq!((stats.backup_to_copy.get(), stats.backup_copied.get()), (logs - 40, logs - 40));
    let now = contents(&store);
    drop(store);
    assert!(contents(&open(&dest)) == now);
}

#[test]
fn a_backup_that_fails_leaves_nothing_that_looks_like_one() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let faulty = Faulty::default();
    let fs = Arc::new(faulty.clone());
    drop(filled(dir.path()));
    let store = Options::new(dir.path()).fsync(Fsync::No).fs(fs).open().unwrap();
    let dest = copies.path().join("copy");
    let in_copy = dest.clone();
    for name in ["ENGINE", "MANIFEST.tmp"] {
        let in_copy = in_copy.clone();
        faulty.fail_creates(move |path, _| {
            let inside = path.to_string_lossy().starts_with(&*in_copy.to_string_lossy());
            (inside && path.ends_with(name)).then_some(ErrorKind::StorageFull)
        });
        assert!(store.backup(&dest).is_err(), "{name}");
        assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 0, "{name}");
        assert!(!store.reader().backups().status().is_well);
        store.put("the store", "goes on").unwrap();
    }
    faulty.heal();
    // Another disk, which is full: that is said of it, and it gets its room back.
    faulty.refuse_links();
    faulty.fail_writes(|path, _| {
        path.to_string_lossy().contains("copy.partial").then_some(ErrorKind::StorageFull)
    });
    let full = store.backup(&dest).unwrap_err().to_string();
    assert!(full.contains("copy.partial") && full.contains("no storage space"), "{full}");
    assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 0);
    store.put("the store", "goes on").unwrap();
    faulty.heal();
    store.backup(&dest).unwrap();
    assert!(store.reader().backups().status().is_well);
    assert!(checked(&dest).findings.is_empty());
    let refused = store.backup(&dest).unwrap_err();
    assert!(refused.to_string().contains("is there already"), "{refused}");
    assert!(contents(&open(&dest)) == contents(&store));
}

/// As shells complete names, and names that would be of no use or do harm.
#[test]
fn a_backup_goes_where_it_was_meant_to_go() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path());
    store.backup(format!("{}/copy//", copies.path().display())).unwrap();
    assert!(checked(&copies.path().join("copy")).findings.is_empty());
    assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 1);
    let inside =
        ["00000099.log", "MANIFEST.tmp", "RESERVE", "MANIFEST"].map(|n| dir.path().join(n));
    for dest in ["", "..", "/", "."].into_iter().map(Into::into).chain(inside) {
        let refused = store.backup(&dest).unwrap_err();
        assert!(matches!(refused, KvsError::Invalid(_)), "{}: {refused}", dest.display());
    }
    assert!(store.reader().backups().named(Some("RESERVE")).is_err());
    store.backup(dir.path().join("inside")).unwrap();
    drop(store);
    assert!(checked(dir.path()).findings.is_empty());
}

/// It may take hours, and is of no use unless it is complete.
#[test]
fn a_close_gives_up_a_backup_that_copies() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = Faulty::default();
    drop(filled(dir.path()));
    faulty.refuse_links();
    let fs = Arc::new(faulty.clone());
    let store = Options::new(dir.path()).fsync(Fsync::No).fs(fs).open().unwrap();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    faulty.fail_creates(move |path, _| {
        if path.parent().is_some_and(|parent| parent.ends_with("first.partial")) {
            let _ = wait.recv();
        }
        None
    });
    let backups = Arc::clone(store.reader().backups());
    backups.begin_in_background(backups.named(Some("first")).unwrap()).unwrap();
    let second = backups.named(Some("second")).unwrap();
    assert!(matches!(backups.make(&second), Err(KvsError::BackupUnderWay)));
    let closing = std::thread::spawn(move || drop(store));
    let is_closing = || matches!(backups.make(&second), Err(KvsError::Closed));
    engine_support::until("the close is under way", is_closing);
    drop(go_on);
    closing.join().unwrap();
    assert!(backups.status().running.is_none() && !backups.status().is_well);
    assert_eq!(std::fs::read_dir(dir.path().join("backups")).unwrap().count(), 0);
    assert!(checked(dir.path()).findings.is_empty());
}

#[test]
fn there_is_one_backup_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = Faulty::default();
    drop(filled(dir.path()));
    let fs = Arc::new(faulty.clone());
    let store = Options::new(dir.path()).fsync(Fsync::No).fs(fs).open().unwrap();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    faulty.fail_creates(move |path, _| {
        if path.ends_with("ENGINE") {
            let _ = wait.recv();
        }
        None
    });
    let backups = Arc::clone(store.reader().backups());
    let first = backups.named(Some("first")).unwrap();
    backups.begin_in_background(first.clone()).unwrap();
    let second = backups.named(None).unwrap();
    assert!(matches!(store.backup(&second), Err(KvsError::BackupUnderWay)));
    let refused = backups.begin_in_background(second);
    assert!(matches!(refused, Err(KvsError::BackupUnderWay)));
    assert!(backups.status().running.is_some());
    drop(go_on);
    // The close waits for it.
    drop(store);
    assert!(backups.status().running.is_none() && backups.status().is_well);
    assert_eq!(first, dir.path().join("backups/first"));
    assert!(checked(&first).findings.is_empty());
}

#[test]
fn names_lead_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let backups = store.reader().backups();
    for name in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "a\\b",
        ".hidden",
        "-x",
        "a b",
        "x.partial",
        "é",
        "a\0",
    ] {
        assert!(backups.named(Some(name)).is_err(), "{name:?}");
    }
    assert!(backups.named(Some(&"x".repeat(101))).is_err());
    for name in ["a", "A-b_c.9", "20261124T080119Z"] {
        assert_eq!(backups.named(Some(name)).unwrap(), dir.path().join("backups").join(name));
    }
}

fn call(client: &mut Client, line: &str) -> String {
    match says(client, line) {
        Value::Simple(text) | Value::Error(text) => text,
        Value::Integer(n) => n.to_string(),
        Value::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("{line}: {other:?}"),
    }
}

/// A field of INFO.
fn field(client: &mut Client, name: &str) -> String {
    info(client, "persistence").remove(name).unwrap()
}

#[test]
fn a_server_makes_backups_in_words_of_redis() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = elsewhere.path().join("backups");
    let server = Process::start_in(dir.path(), &["--backup-dir", place.to_str().unwrap()]);
    let mut client = server.client();
    let client = &mut client;
    let since: u64 = call(client, "lastsave").parse().unwrap();
    assert_eq!(field(client, "rdb_last_save_time"), since.to_string());
    assert_eq!(call(client, "set color blue"), "OK");
    assert_eq!(field(client, "rdb_changes_since_last_save"), "1");
    assert_eq!(call(client, "save to first"), "OK");
    assert_eq!(field(client, "rdb_changes_since_last_save"), "0");
    assert_eq!(call(client, "set color red"), "OK");
    assert_eq!(call(client, "bgsave to second"), "Background saving started");
    engine_support::until("the backup is done", || field(client, "rdb_bgsave_in_progress") == "0");
    assert_eq!(field(client, "rdb_last_bgsave_status"), "ok");
    assert_eq!(field(client, "rdb_last_bgsave_time_sec"), "0");
    assert_eq!(field(client, "rdb_current_bgsave_time_sec"), "-1");
    assert!(call(client, "lastsave").parse::<u64>().unwrap() >= since);
    assert_eq!(call(client, "save"), "OK");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 3);
    assert!(call(client, "save to first").starts_with("ERR "));
    assert_eq!(field(client, "rdb_last_bgsave_status"), "err");
    assert!(call(client, "bgsave to second").starts_with("ERR "));
    for name in ["../up", "/tmp/x", "a/b", ".."] {
        assert!(call(client, &format!("save to {name}")).starts_with("ERR a backup's name"));
        assert!(call(client, &format!("bgsave to {name}")).starts_with("ERR a backup's name"));
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    // A connection's backup has what it wrote before, acknowledged or not.
    let mut pipeline = client.pipeline(10, |_| Ok(()));
    pipeline.send(&["set", "color", "green"]).unwrap();
    pipeline.send(&["save", "to", "third"]).unwrap();
    pipeline.finish().unwrap();
    for (name, color) in [("first", "blue"), ("second", "red"), ("third", "green")] {
        let backup = place.join(name);
        assert!(checked(&backup).findings.is_empty());
        let restored = Process::start_in(&backup, &[]);
        assert_eq!(call(&mut restored.client(), "get color"), color);
    }
    assert_eq!(call(client, "get color"), "green");
    // The database in memory has none.
    let memory = Process::start(&["--engine", "memory"]);
    assert!(call(&mut memory.client(), "save").starts_with("ERR this engine has no backups"));
}
