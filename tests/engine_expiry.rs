//! Keys that end: never served once their time has come, and gone from the index and the disk soon
//! after, whether anyone asks for them or not. An expiry time in 1970 stands for one that has come.

#![allow(clippy::unwrap_used)]

mod engine_support;

use std::sync::Arc;

use engine_support::{open_synced, options, until};
use kvs::KvStore;
use kvs::clock::now_ms;
use kvs::engine::Patience;
use kvs::stats::EngineStats;

const PAST: u64 = 1;
const FAR: u64 = 4_000_000_000_000;

fn put(store: &KvStore, database: u8, key: &str, expires_at: Option<u64>) {
    let key = key.to_owned();
    store.update(move |txn| txn.put(database, key.as_bytes(), b"value", expires_at)).unwrap();
}

fn len(store: &KvStore, database: u8) -> u64 {
    store.reader().view().len(database)
}

fn is_there(store: &KvStore, database: u8, key: &str) -> bool {
    store.reader().view().get(database, key.as_bytes(), Patience::MayWait).unwrap().is_some()
}

#[test]
fn expired_keys_leave_the_index_unasked() {
    let (dir, stats) = (tempfile::tempdir().unwrap(), Arc::new(EngineStats::default()));
    let store = options(dir.path()).stats(Arc::clone(&stats)).open().unwrap();
    for i in 0..3000 {
        put(&store, (i % 3) as u8 * 7, &format!("past{i}"), Some(PAST));
        if i % 10 == 0 {
            put(&store, 7, &format!("far{i}"), Some(FAR));
            put(&store, 7, &format!("for ever{i}"), None);
        }
    }
    until("the expired keys are gone", || {
        (len(&store, 0), len(&store, 7), len(&store, 14)) == (0, 600, 0)
    });
    // Counted once they are gone.
    until("they are counted", || stats.expired_keys.get() >= 3000);
    assert_eq!(stats.expired_keys.get(), 3000);
    assert_eq!(store.reader().view().ending(7), 300);
    assert_eq!(store.reader().view().ending(0), 0);
    assert!(is_there(&store, 7, "far10") && is_there(&store, 7, "for ever10"));
}

#[test]
fn a_key_ends_when_its_time_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_synced(dir.path());
    let soon = now_ms() + 30;
    put(&store, 0, "soon", Some(soon));
    put(&store, 0, "far", Some(FAR));
    until("the key is gone", || len(&store, 0) == 1);
    assert!(now_ms() >= soon, "too early");
    assert!(is_there(&store, 0, "far"));
}

#[test]
fn what_a_key_was_last_given_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_synced(dir.path());
    store.set_active_expiry(false);
    for (key, expiries) in [
        ("renewed", [Some(PAST), Some(FAR)]),
        ("persisted", [Some(PAST), None]),
        ("shortened", [Some(FAR), Some(PAST)]),
        ("given", [None, Some(PAST)]),
    ] {
        expiries.into_iter().for_each(|at| put(&store, 0, key, at));
    }
    assert_eq!(len(&store, 0), 4);
    store.set_active_expiry(true);
    until("the expired keys are gone", || len(&store, 0) == 2);
    assert!(is_there(&store, 0, "renewed") && is_there(&store, 0, "persisted"));
    // All that was due before it has been looked at when this one goes.
    put(&store, 0, "last", Some(PAST));
    until("the last key is gone", || len(&store, 0) == 2);
    assert!(is_there(&store, 0, "renewed") && is_there(&store, 0, "persisted"));
}

#[test]
fn switched_off_it_removes_nothing() {
    let (dir, stats) = (tempfile::tempdir().unwrap(), Arc::new(EngineStats::default()));
    let store = options(dir.path()).stats(Arc::clone(&stats)).open().unwrap();
    store.set_active_expiry(false);
    put(&store, 0, "past", Some(PAST));
    // The schedule is looked at, and nothing comes of it.
    store.set_active_expiry(false);
    until("it is scheduled", || stats.scheduled_expiries.get() == 1);
    assert_eq!((len(&store, 0), is_there(&store, 0, "past")), (1, false));
    store.set_active_expiry(true);
    until("the key is gone", || len(&store, 0) == 0);
}

/// What was written before the expiring record must not come back with a restart or a merge.
#[test]
fn a_restart_forgets_no_expiry_and_revives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_synced(dir.path());
    store.set_active_expiry(false);
    for i in 0..200 {
        put(&store, 0, &format!("key{i}"), None);
    }
    store.put("large", vec![0; 64 * 1024]).unwrap();
    for i in 0..200 {
        put(&store, 0, &format!("key{i}"), Some(if i % 2 == 0 { PAST } else { FAR }));
    }
    drop(store);
    for round in 0..3 {
        let store = open_synced(dir.path());
        assert!(!is_there(&store, 0, "key0"), "round {round}");
        until("the expired keys are gone", || len(&store, 0) == 101);
        assert_eq!(store.reader().view().ending(0), 100);
        store.compact().unwrap();
        for i in 0..200 {
            assert_eq!(is_there(&store, 0, &format!("key{i}")), i % 2 == 1, "round {round}, {i}");
        }
    }
}

/// A session that is prolonged with each request must not cost an entry each time.
#[test]
fn the_schedule_does_not_grow_with_the_number_of_writes() {
    let (dir, stats) = (tempfile::tempdir().unwrap(), Arc::new(EngineStats::default()));
    let store = options(dir.path()).stats(Arc::clone(&stats)).open().unwrap();
    const WRITES: u64 = 100_000;
    for some in 0..WRITES / 1000 {
        store
            .update(move |txn| {
                (0..1000).try_for_each(|i| {
                    let key = format!("session{}", i % 10);
                    txn.put(0, key.as_bytes(), b"", Some(FAR + some * 1000 + i))
                })
            })
            .unwrap();
    }
    // When this one is gone, all those before it have been scheduled.
    store.update(|txn| txn.put(0, b"session3", b"", Some(PAST))).unwrap();
    until("the session is gone", || len(&store, 0) == 9);
    until("the schedule is short", || stats.scheduled_expiries.get() < WRITES / 4);
}
