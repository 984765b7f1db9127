//! A disk that fills up: values are refused, deletes and merges go on until there is room, whatever came
//! to be where. On simulated disks, with a server, and on a real file system.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod engine_support;
mod serving;
mod simfs;
#[path = "simfs/workload.rs"]
mod workload;

use std::ops::{Bound, ControlFlow};

use engine_support::{Model, Random, seed, until};
use kvs::engine::{Fsync, Options};
use kvs::protocol::Value;
use kvs::{KvStore, KvsError};
use serving::{Running, error, info};
use simfs::{Loss, SimFs};
use workload::{contents, options};

/// Puts until the disk is full; the keys that were taken.
fn fill(store: &KvStore, random: &mut Random) -> Model {
    let mut model = Model::new();
    for i in 0.. {
        let (key, len) = (format!("key{i:05}").into_bytes(), 200 + random.below(200));
        let value = random.bytes(len);
        match store.put(key.clone(), value.clone()) {
            Ok(()) => drop(model.insert(key, value)),
            Err(error) => {
                assert!(matches!(error, KvsError::NoSpace), "{error}");
                return model;
            }
        }
    }
    model
}

/// A store on a disk of 600 KiB, filled up.
fn full_store(fsync: Fsync) -> (SimFs, KvStore, Model) {
    full_store_of(600 * 1024, fsync)
}

/// A store on a disk of so many bytes, filled up.
fn full_store_of(capacity: u64, fsync: Fsync) -> (SimFs, KvStore, Model) {
    let disk = SimFs::new();
    disk.set_capacity(Some(capacity));
    let store = options(&disk, fsync).segment_bytes(32 * 1024).open().unwrap();
    let model = fill(&store, &mut Random(seed()));
    (disk, store, model)
}

#[test]
fn a_full_disk_refuses_values_and_takes_deletes_until_there_is_room() {
    for fsync in [Fsync::Always, Fsync::EverySec, Fsync::No] {
        let (disk, store, mut model) = full_store(fsync);
        println!("{fsync:?}: {} keys, {} bytes", model.len(), disk.used());
        assert!(model.len() > 1000);
        for _ in 0..20 {
            assert!(matches!(store.put("new", vec![b'v'; 100]), Err(KvsError::NoSpace)));
            assert!(store.reader().disk_is_full());
        }
        // The first group after a kill does without what the process knew.
        let killed = disk.kill();
        killed.set_capacity(Some(600 * 1024));
        let other = options(&killed, fsync).segment_bytes(32 * 1024).open().unwrap();
        assert!(contents(&other) == model);
        assert!(other.delete("key00000").unwrap());
        drop(other);
        // Every key, so that it takes more than the room that there happens to be.
        let keys: Vec<_> = model.keys().cloned().collect();
        for key in keys.iter().skip(10) {
            // So many at once that they have to wait for a merge.
            until("there is room for a tombstone", || store.delete(key.clone()).is_ok());
            model.remove(key);
        }
        assert!(contents(&store) == model);
        // Compaction gives back what the deleted keys had.
        until("values are taken again", || store.put("new", vec![b'v'; 100]).is_ok());
        model.insert(b"new".into(), vec![b'v'; 100]);
        // And goes on to do so as often as the disk gets full.
        for i in 0..1000 {
            let (key, value) = (format!("more{i:04}").into_bytes(), vec![b'm'; 300]);
            until("there is room", || store.put(key.clone(), value.clone()).is_ok());
            model.insert(key, value);
        }
        assert!(contents(&store) == model);
        drop(store);
        let store = options(&disk, fsync).open().unwrap();
        assert!(contents(&store) == model);
    }
}

fn delete_all(store: &KvStore, keys: impl IntoIterator<Item = Vec<u8>>) {
    for key in keys {
        until("there is room for a tombstone", || store.delete(key.clone()).is_ok());
    }
    until("values are taken again", || store.put("new", vec![b'v'; 100]).is_ok());
}

/// In no order: each segment loses a little, and there is room for few tombstones at a time.
#[test]
fn keys_all_over_a_full_disk_can_be_deleted() {
    for fsync in [Fsync::Always, Fsync::No] {
        let (_disk, store, model) = full_store_of(6 * 1024 * 1024, fsync);
        let mut keys: Vec<_> = model.into_keys().collect();
        let mut random = Random(seed());
        keys.sort_by_cached_key(|_| random.next());
        delete_all(&store, keys);
    }
}

/// What a merge was lent is made anew from the room of what it merged, which nobody may take before it,
/// and which is there only when nobody reads that any more. Several at once, so that threads are kept
/// waiting in all places.
#[test]
fn neither_deletes_nor_merges_come_to_a_stop_on_a_full_disk() {
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let (_disk, store, model) = full_store(Fsync::Always);
                delete_all(&store, model.into_keys());
            });
        }
    });
}

/// A snapshot keeps what was merged, so merges win nothing until it goes.
#[test]
fn a_full_disk_gets_over_a_snapshot_that_keeps_its_room() {
    let (_disk, store, model) = full_store(Fsync::Always);
    let (reader, mut seen) = (store.reader(), Model::new());
    let snapshot = reader.snapshot(0);
    let mut keys = model.clone().into_keys();
    let refused = keys.find(|key| store.delete(key.clone()).is_err());
    assert!(refused.is_some(), "merges won room all the same");
    store.compact().unwrap();
    let note = |key: &[u8], value: &[u8]| {
        seen.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    };
    snapshot.entries((Bound::Unbounded, Bound::Unbounded), note).unwrap();
    assert!(seen == model);
    drop(snapshot);
    delete_all(&store, refused.into_iter().chain(keys));
}

/// When `compact` is done, all room is won that there is to win.
#[test]
fn a_full_disk_can_be_compacted() {
    let (disk, store, model) = full_store(Fsync::Always);
    let full = disk.used();
    let mut left = model.clone();
    for key in model.keys().step_by(2) {
        until("there is room for a tombstone", || store.delete(key.clone()).is_ok());
        left.remove(key);
    }
    store.compact().unwrap();
    let dead = model.iter().step_by(2).map(|(_, value)| value.len() as u64).sum::<u64>();
    // The active segment, and one that is not full, are kept.
    assert!(disk.used() < full - dead / 2, "{} of {full} bytes, {dead} dead", disk.used());
    assert!(contents(&store) == left);
}

/// Whoever opens the store again does not take for values what little was left for deletes; and the
/// close has not filled that with hints.
#[test]
fn a_full_disk_is_known_as_such_after_an_open() {
    let (disk, store, model) = full_store(Fsync::Always);
    let hints = |disk: &SimFs| {
        let paths = disk.paths().into_iter();
        paths.filter(|path| path.extension().is_some_and(|end| end == "hint")).count()
    };
    assert_eq!(hints(&disk), 0, "segments are cold");
    drop(store);
    assert_eq!(hints(&disk), 0);
    disk.set_capacity(Some(disk.used()));
    let store = options(&disk, Fsync::Always).segment_bytes(32 * 1024).open().unwrap();
    assert!(store.reader().disk_is_full());
    assert!(matches!(store.put("new", ""), Err(KvsError::NoSpace)));
    assert!(contents(&store) == model);
    disk.set_capacity(Some(2 * 1024 * 1024));
    until("values are taken again", || store.put("new", "value").is_ok());
}

#[test]
fn values_are_taken_again_when_others_make_room() {
    let (disk, store, model) = full_store(Fsync::Always);
    disk.set_capacity(Some(2 * 1024 * 1024));
    until("values are taken again", || store.put("new", "value").is_ok());
    assert!(!store.reader().disk_is_full());
    assert_eq!(store.len() as usize, model.len() + 1);
    let cut = disk.power_cut(Loss::Everything);
    assert_eq!(contents(&options(&cut, Fsync::Always).open().unwrap()).len(), model.len() + 1);
}

const SEGMENT: u64 = 1024 * 1024;

/// How many segments have zeros up to their end, or records.
fn filled(disk: &SimFs) -> usize {
    logs(disk).iter().filter(|content| content.len() as u64 == SEGMENT).count()
}

fn logs(disk: &SimFs) -> Vec<Vec<u8>> {
    let paths = disk.paths().into_iter();
    let logs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.filter_map(|path| disk.content(&path)).collect()
}

/// A store whose next segment is full of zeros meets a full disk; whether that segment was handed
/// over by then.
fn full_beside_zeros() -> Option<(SimFs, KvStore)> {
    let disk = SimFs::new();
    let store = options(&disk, Fsync::Always).segment_bytes(SEGMENT).open().unwrap();
    for i in 0..3 {
        store.put(format!("key{i}"), vec![b'v'; 100 * 1024]).unwrap();
    }
    until("the next segment is filled", || filled(&disk) == 1);
    disk.set_capacity(Some(disk.used() + 64 * 1024));
    store.put("more", vec![b'm'; 200 * 1024]).unwrap();
    (!store.reader().disk_is_full()).then_some((disk, store))
}

#[test]
fn zeros_give_way_to_records_on_a_full_disk() {
    // It is handed over a moment after its last zeros are seen, so the first try may come too soon.
    let (disk, store) = (0..100).find_map(|_| full_beside_zeros()).unwrap();
    assert_eq!(filled(&disk), 0);
    // There is room for other segments, but not for many.
    disk.set_capacity(Some(disk.used() + 4 * SEGMENT));
    store.put("more", "").unwrap();
    until("the next segment is there", || logs(&disk).len() == 2);
    for i in 0..10 {
        store.put(format!("small{i}"), vec![b's'; 100 * 1024]).unwrap();
        assert_eq!(filled(&disk), 0, "room was taken for zeros");
    }
    let model = contents(&store);
    assert_eq!(model.len(), 14);
    drop(store);
    assert!(contents(&options(&disk, Fsync::Always).open().unwrap()) == model);
}

#[test]
fn a_server_on_a_full_disk_says_so_and_recovers() {
    let disk = SimFs::new();
    disk.set_capacity(Some(600 * 1024));
    let server = Running::start_on(disk.shared(), |config| config.segment_bytes = 32 * 1024);
    let mut client = server.client();
    let value = "v".repeat(1000);
    let line = (0..)
        .find_map(|i| match client.call(&["SET", &format!("key{i}"), &value]).unwrap() {
            Value::Error(line) => Some(line),
            _ => None,
        })
        .unwrap();
    assert!(line.starts_with("ERR no space left on the disk"), "{line}");
    assert_eq!(info(&mut client, "persistence")["disk_full"], "1");
    assert_eq!(info(&mut client, "persistence")["aof_last_write_status"], "err");
    assert_eq!(client.call(&["GET", "key0"]).unwrap(), Value::Bulk(value.clone().into()));
    // One that only makes a key shorter takes room, too; one that changes none does not.
    let line = error(client.call(&["SET", "key0", ""]).unwrap());
    assert!(line.starts_with("ERR no space left on the disk"), "{line}");
    // To remove the one and not to set the other would be half of it.
    for words in [&["MULTI"][..], &["DEL", "key0"], &["SET", "instead", "v"], &["GET", "key0"]] {
        assert!(matches!(client.call(words).unwrap(), Value::Simple(_)));
    }
    let line = error(client.call(&["EXEC"]).unwrap());
    assert!(line.starts_with("EXECABORT Transaction discarded because of: no space"), "{line}");
    assert_eq!(client.call(&["GET", "key0"]).unwrap(), Value::Bulk(value.clone().into()));
    for words in [&["MULTI"][..], &["DEL", "key2"], &["GET", "key0"]] {
        assert!(matches!(client.call(words).unwrap(), Value::Simple(_)));
    }
    let done = Value::Array(vec![Value::Integer(1), Value::Bulk(value.clone().into())]);
    assert_eq!(client.call(&["EXEC"]).unwrap(), done);
    assert_eq!(client.call(&["DEL", "key0", "key1"]).unwrap(), Value::Integer(2));
    disk.set_capacity(None);
    until("values are taken", || {
        client.call(&["SET", "key0", "v"]).unwrap() == Value::Simple("OK".into())
    });
    assert_eq!(info(&mut client, "persistence")["disk_full"], "0");
}

/// A real file system of 64 MiB. It takes the right to mount one, which root has; a limit on the
/// size of files would not do, since it leaves room for other files.
#[test]
fn a_real_file_system_fills_up_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        let run = std::process::Command::new(args[0]).args(&args[1..]).arg(dir.path()).output();
        run.is_ok_and(|run| run.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs"]) {
        println!("not tested: mounting a file system is not allowed here");
        return;
    }
    let tested = std::panic::catch_unwind(|| {
        let store = Options::new(dir.path().join("store")).fsync(Fsync::No).open().unwrap();
        let value = vec![b'v'; 10_000];
        let filled = (0..).find(|i| store.put(format!("key{i:05}"), value.clone()).is_err());
        let filled: u32 = filled.unwrap();
        println!("{filled} keys of 10 kB");
        assert!(filled > 3000);
        assert!(matches!(store.put("new", "value"), Err(KvsError::NoSpace)));
        for i in 0..filled {
            assert_eq!(store.read(format!("key{i:05}")).unwrap(), Some(value.clone()));
            if i % 3 != 0 {
                assert!(store.delete(format!("key{i:05}")).unwrap());
            }
        }
        until("values are taken again", || store.put("new", value.clone()).is_ok());
        for i in 0..1000 {
            let key = format!("more{i:05}");
            until("there is room", || store.put(key.clone(), value.clone()).is_ok());
        }
        let len = store.len();
        drop(store);
        assert_eq!(KvStore::open(dir.path().join("store")).unwrap().len(), len);
    });
    assert!(mount(&["umount", "-l"]));
    tested.unwrap();
}
