//! The policy of when writes are durable, changed while the store is open: what `always` has
//! acknowledged is there after a power cut, with all that was acknowledged before it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod engine_support;
mod serving;
mod simfs;

use std::sync::Arc;

use engine_support::faulty::Faulty;
use engine_support::until;
use kvs::KvStore;
use kvs::engine::{Fsync, Options};
use kvs::protocol::Value;
use serving::Running;
use simfs::{Loss, SimFs};

fn options(disk: &SimFs) -> Options {
    Options::new("/sim").fs(disk.shared()).segment_bytes(4096)
}

fn put(store: &KvStore, keys: std::ops::Range<u32>) {
    for i in keys {
        store.put(format!("key{i}"), format!("value {i}")).unwrap();
    }
}

/// How many of the keys from `key0` on are there after the power was cut.
fn left_by_a_power_cut(disk: &SimFs, loss: Loss) -> u32 {
    left_on(&disk.power_cut(loss))
}

fn left_on(disk: &SimFs) -> u32 {
    let store = options(disk).open().unwrap();
    assert_eq!(store.reader().stats().damaged_ranges.get(), 0);
    let there = (0..).take_while(|i| store.read(format!("key{i}")).unwrap().is_some()).count();
    assert_eq!(store.len(), there as u64, "none is missing in between");
    there as u32
}

#[test]
fn what_was_written_before_always_is_durable_with_the_next_write() {
    for before in [Fsync::No, Fsync::EverySec] {
        // In one segment, and over several.
        for keys in [20, 500] {
            let disk = SimFs::new();
            let store = options(&disk).fsync(before).open().unwrap();
            put(&store, 0..keys);
            store.set_fsync(Fsync::Always);
            put(&store, keys..keys + 1);
            for seed in 0..20 {
                assert_eq!(left_by_a_power_cut(&disk, Loss::Seeded(seed)), keys + 1, "{before:?}");
            }
            assert_eq!(left_by_a_power_cut(&disk, Loss::Everything), keys + 1, "{before:?}");
        }
    }
}

/// A record under `always` says that all before it is durable: if it is there and something before it
/// is not, that is damage. So wherever the power is cut, there must be no such thing.
#[test]
fn a_power_cut_while_the_policy_changes_leaves_a_front_part() {
    let disk = SimFs::new();
    // One segment of several pages, each of which may be lost by itself.
    let store = options(&disk).segment_bytes(1 << 20).fsync(Fsync::No).open().unwrap();
    put(&store, 0..500);
    store.set_fsync(Fsync::Always);
    put(&store, 500..503);
    let mut replay = disk.replay();
    let change = replay.len() - 20;
    while replay.advance().is_some() {
        for seed in 0..if replay.at() < change { 0 } else { 20 } {
            left_on(&replay.power_cut(Loss::Seeded(seed)));
        }
    }
}

/// Nobody writes, but what is there may be read and relied on.
#[test]
fn what_was_written_before_always_is_durable_soon() {
    let disk = SimFs::new();
    let store = options(&disk).fsync(Fsync::No).open().unwrap();
    put(&store, 0..5);
    store.set_fsync(Fsync::Always);
    until("it is durable", || left_by_a_power_cut(&disk, Loss::Everything) == 5);
}

#[test]
fn what_always_acknowledged_stays_when_it_is_given_up() {
    for after in [Fsync::No, Fsync::EverySec] {
        let disk = SimFs::new();
        let store = options(&disk).fsync(Fsync::Always).open().unwrap();
        put(&store, 0..20);
        store.set_fsync(after);
        put(&store, 20..30);
        for seed in 0..20 {
            assert!((20..=30).contains(&left_by_a_power_cut(&disk, Loss::Seeded(seed))));
        }
        // A merge takes away what newer records made dead: those must be durable first.
        put(&store, 0..500);
        put(&store, 0..500);
        store.compact().unwrap();
        assert_eq!(left_by_a_power_cut(&disk, Loss::Everything), 500);
        store.set_fsync(Fsync::Always);
        put(&store, 500..501);
        assert_eq!(left_by_a_power_cut(&disk, Loss::Everything), 501);
    }
}

/// A disk that takes long over a sync: with everysec, no more and no more is acknowledged meanwhile.
#[test]
fn writes_wait_for_a_sync_that_takes_too_long() {
    let (dir, slow) = (tempfile::tempdir().unwrap(), Faulty::default());
    let options = Options::new(dir.path()).fsync(Fsync::EverySec).fs(Arc::new(slow.clone()));
    let store = options.open().unwrap();
    slow.hold_syncs(true);
    let (told, next) = std::sync::mpsc::channel();
    let waits = std::thread::scope(|scope| {
        scope.spawn(|| {
            // One at a time, so that no segment is filled, which would wait for a sync anyway.
            for () in next {
                store.put("key", "value").unwrap();
            }
        });
        // One is the thread's that syncs.
        let waits = (0..2000).any(|_| told.send(()).is_ok() && slow.are_held(2));
        slow.hold_syncs(false);
        drop(told);
        waits
    });
    assert!(waits, "writes went on");
    assert_eq!(store.reader().stats().rotations.get(), 0);
    assert_eq!(store.read("key").unwrap(), Some(b"value".to_vec()));
}

#[test]
fn the_policy_is_a_setting() {
    let server = Running::start(|config| config.fsync = Fsync::No);
    let mut client = server.client();
    let mut says = |line: &str| client.call(&line.split(' ').collect::<Vec<_>>()).unwrap();
    let pair = |value: &str| {
        Value::Array(["appendfsync", value].map(|word| Value::Bulk(word.into())).into())
    };
    let synced = |count| Value::Array([count, 0].map(Value::Integer).into());
    assert_eq!(says("config get appendfsync"), pair("no"));
    assert_eq!(says("waitaof 1 0 0"), synced(0));
    assert_eq!(says("config set appendfsync ALWAYS"), Value::Simple("OK".into()));
    assert_eq!(says("config get appendfsync"), pair("always"));
    assert_eq!(says("set k v"), Value::Simple("OK".into()));
    assert_eq!(says("waitaof 1 0 0"), synced(1));
    let Value::Bulk(info) = says("info kvs") else { panic!("INFO") };
    let info = String::from_utf8(info).unwrap();
    assert!(!info.contains("\nsyncs:0\r"), "{info}");
}
