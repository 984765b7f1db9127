//! Bugs of the engine that were found once, each with its story, and what it does when files fail.

#![allow(clippy::unwrap_used)]

mod engine_support;
mod simfs;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use engine_support::faulty::{Faulty, is_manifest};
use engine_support::{as_after_power_cut, contents, copy_dir, files, flip, open, options, until};
use kvs::engine::{Batch, Fsync, Options, ReadJob, Reader, Txn, WriteJob};
use kvs::stats::EngineStats;
use kvs::{KvStore, KvsError};
use simfs::{Kind, SimFs};

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "log")
}

/// A command that panicked left what it had staged in the group, and the next one committed it.
#[test]
fn what_a_panicking_command_staged_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let update = AssertUnwindSafe(|| {
        store.update(|txn| {
            txn.put(0, b"half", b"done", None)?;
            if txn.contains(0, b"half")? { panic!("a command with a bug") } else { Ok(()) }
        })
    });
    assert!(!matches!(catch_unwind(update), Ok(Ok(()))));
    store.put("next", "one").unwrap();
    assert_eq!(store.read("half").unwrap(), None);
    assert_eq!(store.len(), 1);
}

/// A key that had expired could not be removed: it stayed in the index for good.
#[test]
fn deleting_an_expired_key_frees_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Or the store itself may be first.
    store.set_active_expiry(false);
    store.update(|txn| txn.put(0, b"old", b"news", Some(1))).unwrap();
    assert_eq!((store.read("old").unwrap(), store.len()), (None, 1));
    assert!(!store.delete("old").unwrap(), "it was not there for anyone to see");
    assert_eq!(store.len(), 0);
}

/// The index was moved to a merge's output before the manifest listed it. When that edit failed for
/// want of space, a later merge removed the emptied inputs, and the next open the unlisted output.
#[test]
fn a_merge_whose_manifest_edit_fails_loses_nothing() {
    let (dir, faulty) = (tempfile::tempdir().unwrap(), Faulty::default());
    let store = options(dir.path()).fs(Arc::new(faulty.clone())).open().unwrap();
    for i in 0..400 {
        store.put(format!("key{i:03}"), vec![b'a'; 100]).unwrap();
    }
    for i in (0..400).filter(|i| i % 3 != 0) {
        store.put(format!("key{i:03}"), vec![b'b'; 100]).unwrap();
    }
    let model = contents(&store);
    faulty.fail_writes(|path, _| is_manifest(path).then_some(ErrorKind::StorageFull));
    assert!(store.compact().is_err());
    faulty.heal();
    store.compact().unwrap();
    store.compact().unwrap();
    assert_eq!(contents(&store), model);
    drop(store);
    assert_eq!(contents(&open(dir.path())), model);
}

/// An edit of the manifest was durable, but told as failed since the manifest could not be written
/// anew after it.
#[test]
fn a_manifest_that_cannot_be_written_anew_goes_on_growing() {
    let (dir, faulty) = (tempfile::tempdir().unwrap(), Faulty::default());
    let store = options(dir.path()).segment_bytes(4096).fs(Arc::new(faulty.clone())).open();
    let store = store.unwrap();
    let is_new = |path: &Path| path.ends_with("MANIFEST.tmp");
    faulty.fail_creates(move |path, _| is_new(path).then_some(ErrorKind::StorageFull));
    for i in 0..1800u32 {
        store.put(format!("key{}", i % 10), vec![i as u8; 3900]).unwrap();
    }
    let model = contents(&store);
    assert!(std::fs::metadata(dir.path().join("MANIFEST")).unwrap().len() > 64 * 1024);
    let killed = copy_dir(dir.path());
    faulty.heal();
    drop(store);
    assert_eq!(contents(&open(dir.path())), model);
    assert_eq!(contents(&open(killed.path())), model);
}

/// The manifest listed a segment whose header was not durable: after a power cut, the file was
/// empty and the store refused to open.
#[test]
fn a_segment_is_durable_before_the_manifest_lists_it() {
    let (dir, faulty) = (tempfile::tempdir().unwrap(), Faulty::default());
    let store = options(dir.path()).fs(Arc::new(faulty.clone())).open().unwrap();
    for i in 0..400 {
        store.put(format!("key{}", i % 50), vec![b'v'; 200]).unwrap();
    }
    store.compact().unwrap();
    drop(store);
    assert_eq!(faulty.complaints(), Vec::<String>::new());
}

/// Without fsync always, a merge took an old, durable record away because of a newer one that was
/// not durable: a power cut then took both.
#[test]
fn what_made_a_record_dead_is_durable_before_the_record_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..400 {
        store.put(format!("key{}", i % 100), vec![b'v'; 200]).unwrap();
    }
    store.put("key1", "newer").unwrap();
    let syncs = || store.reader().stats().syncs.get();
    let before = syncs();
    store.compact().unwrap();
    assert!(syncs() > before, "the segment with the newer record was not synced");
}

/// The disk filled up just when a group had gone on into a new segment: that poisoned the store,
/// where a full disk is to cost no more than the group. And each try left a file behind.
#[test]
fn a_full_disk_costs_the_group_and_no_more() {
    let (dir, faulty) = (tempfile::tempdir().unwrap(), Faulty::default());
    let store = options(dir.path()).fs(Arc::new(faulty.clone())).open().unwrap();
    for i in 0..10 {
        store.put(format!("key{i}"), vec![b'v'; 1000]).unwrap();
    }
    let model = contents(&store);
    let larger = |path: &Path, end: u64| is_log(path) && end > 60;
    faulty.fail_writes(move |path, end| larger(path, end).then_some(ErrorKind::StorageFull));
    for len in [3000, 10_000, 20_000, 10, 12_000, 15_000] {
        let outcome = store.put("new", vec![b'n'; len]);
        assert!(matches!(outcome, Err(KvsError::NoSpace)), "{len}: {outcome:?}");
    }
    let killed = copy_dir(dir.path());
    assert_eq!(contents(&open(killed.path())), model);
    let logs = files(dir.path(), "log").len();
    faulty.fail_writes(|path, end| (is_log(path) && end == 40).then_some(ErrorKind::StorageFull));
    for _ in 0..10 {
        assert!(matches!(store.put("new", vec![b'n'; 60_000]), Err(KvsError::NoSpace)));
    }
    faulty.fail_writes(|path, _| is_manifest(path).then_some(ErrorKind::StorageFull));
    for _ in 0..10 {
        assert!(matches!(store.put("new", vec![b'n'; 60_000]), Err(KvsError::NoSpace)));
    }
    assert_eq!(files(dir.path(), "log").len(), logs, "files of failed tries are left");
    assert_eq!(contents(&store), model);
    faulty.heal();
    // The disk is looked at again now and then.
    until("there is room", || store.put("key0", vec![b'w'; 9000]).is_ok());
    store.put("key1", vec![b'w'; 9000]).unwrap();
    let model = contents(&store);
    let killed = copy_dir(dir.path());
    drop(store);
    for dir in [killed.path(), dir.path()] {
        let stats = Arc::new(EngineStats::default());
        let store = options(dir).stats(Arc::clone(&stats)).open().unwrap();
        assert_eq!((contents(&store), stats.damaged_ranges.get()), (model.clone(), 0));
    }
}

/// A prepared segment gets its number early. When it came too late, or was too small, the writer
/// went on in one with a larger number, and later in the prepared one: then the segment with the
/// largest number was not the newest, and what a crash tore was taken for damage.
#[test]
fn the_segment_with_the_largest_number_is_the_one_that_is_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let stats = Arc::new(EngineStats::default());
    let options = Options::new(dir.path()).fsync(kvs::engine::Fsync::No).stats(Arc::clone(&stats));
    let store = options.open().unwrap();
    let large = vec![b'v'; 100 * 1024];
    for i in 0..4 {
        store.put(format!("key{i}"), large.clone()).unwrap();
    }
    until("a segment is prepared", || files(dir.path(), "log").len() == 2);
    // It does not fit in there.
    store.put("huge", vec![b'h'; 2 * 1024 * 1024]).unwrap();
    let mut keys = 0;
    while stats.rotations.get() < 2 {
        store.put(format!("more{keys}"), large.clone()).unwrap();
        keys += 1;
    }
    let mut batch = Batch::new();
    for i in 0..3 {
        batch.put(format!("batch{i}"), "torn");
    }
    store.write(batch).unwrap();
    let copy = copy_dir(dir.path());
    let torn = files(copy.path(), "log")
        .into_iter()
        .find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(6).rposition(|w| w == b"batch2")?;
            Some((path, at))
        })
        .unwrap();
    flip(&torn.0, torn.1 + 7);
    as_after_power_cut(copy.path());
    let stats = Arc::new(EngineStats::default());
    let reopened = Options::new(copy.path()).stats(Arc::clone(&stats)).open().unwrap();
    for i in 0..3 {
        assert_eq!(reopened.read(format!("batch{i}")).unwrap(), None, "half of a batch");
    }
    assert_eq!(stats.damaged_ranges.get(), 0, "a torn tail was taken for damage");
}

/// Segments that were merged before they got a hint were kept open for good: their space was not
/// given back before the close.
#[test]
#[cfg(target_os = "linux")]
fn merged_segments_give_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..2000 {
        store.put(format!("key{}", i % 10), vec![b'v'; 500]).unwrap();
    }
    store.compact().unwrap();
    store.compact().unwrap();
    let open_but_deleted = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let of_store = targets.filter(|path| path.starts_with(dir.path()));
        of_store.filter(|path| path.to_string_lossy().ends_with("(deleted)")).count()
    };
    // Some are freed only when the epoch moves on, which reads bring about.
    until("no deleted segment is held open", || {
        store.read("key1").unwrap();
        open_but_deleted() == 0
    });
    drop(store);
    for hint in files(dir.path(), "hint") {
        assert!(hint.with_extension("log").exists(), "{} has no segment", hint.display());
    }
}

/// A write over a record whose key was damaged put a second entry behind the first one, which went
/// on answering with the error.
#[test]
fn a_write_over_a_damaged_record_mends_the_key() {
    for place in ["key050", "value050"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for i in 0..100 {
            store.put(format!("key{i:03}"), format!("value{i:03}")).unwrap();
        }
        drop(store);
        let log = files(dir.path(), "log").remove(0);
        let bytes = std::fs::read(&log).unwrap();
        let at = bytes.windows(place.len()).position(|w| w == place.as_bytes()).unwrap();
        flip(&log, at + 1);
        let store = open(dir.path());
        assert!(matches!(store.read("key050"), Err(KvsError::Damaged { .. })), "{place}");
        store.put("key050", "new").unwrap();
        assert_eq!(store.read("key050").unwrap(), Some(b"new".to_vec()));
        assert!(store.delete("key050").unwrap());
        assert_eq!((store.read("key050").unwrap(), store.len()), (None, 99));
    }
}

/// Tombstones of keys in a damaged segment, which is never merged, were merged for ever.
#[test]
fn merges_that_win_nothing_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let store = Options::new(path).segment_bytes(1 << 20).open().unwrap();
    let key = |i: u32| format!("{i:060}");
    let write = |from: u32, to: u32, value: Option<usize>| {
        let mut batch = Batch::new();
        for i in (from..to).filter(|i| *i != 100) {
            match value {
                Some(len) => batch.put(key(i), vec![b'v'; len]),
                None => batch.delete(key(i)),
            };
        }
        store.write(batch).unwrap();
    };
    (0..54).for_each(|i| write(i * 500, (i + 1) * 500, Some(20)));
    let first = files(path, "log").remove(0);
    let bytes = std::fs::read(&first).unwrap();
    let at = bytes.windows(60).position(|w| w == key(99).as_bytes()).unwrap();
    flip(&first, at + 60);
    assert!(matches!(store.read(key(99)), Err(KvsError::Damaged { .. })));
    store.put(key(99), "sound").unwrap();
    (0..54).for_each(|i| write(i * 500, (i + 1) * 500, None));
    // Makes the compactor see the damage.
    store.compact().unwrap();
    let count = || store.reader().stats().compaction_read.get();
    let mut at = count();
    until("compaction rests", || {
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        let before = std::mem::replace(&mut at, count());
        before == at
    });
}

/// A group commit that panicked left those who waited for it waiting, and the next ones too.
#[test]
fn a_panic_in_a_group_commit_answers_everyone_and_refuses_writes() {
    let disk = SimFs::new();
    let store = Options::new("/sim").fs(disk.shared()).open().unwrap();
    store.put("before", "it").unwrap();
    let (open, entered) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let gates = (Arc::clone(&open), Arc::clone(&entered));
    disk.fail(move |call| {
        if call.kind == Kind::Write && call.is_of("log") {
            gates.1.wait();
            gates.0.wait();
            panic!("a bug");
        }
        None
    });
    std::thread::scope(|scope| {
        let put = |key: &'static str| {
            let store = store.clone();
            move || catch_unwind(AssertUnwindSafe(|| store.put(key, "value")))
        };
        let first = scope.spawn(put("first"));
        entered.wait();
        // These queue up behind it; one of them leads.
        let others: Vec<_> = ["a", "b", "c"].map(|key| scope.spawn(put(key))).into();
        open.wait();
        for put in others.into_iter().chain([first]) {
            let outcome = put.join().unwrap().unwrap();
            assert!(matches!(outcome, Err(KvsError::Poisoned { .. })), "{outcome:?}");
        }
    });
    assert_eq!(store.read("before").unwrap(), Some(b"it".to_vec()));
    assert!(store.reader().health().is_err());
    disk.heal();
    assert!(matches!(store.put("later", "one"), Err(KvsError::Poisoned { .. })));
    drop(store);
    let store = Options::new("/sim").fs(disk.shared()).open().unwrap();
    store.put("later", "one").unwrap();
}

/// A merge that panicked ended its thread: nothing was compacted any more, and nobody said so.
#[test]
fn a_panic_in_a_merge_does_not_end_compaction() {
    let disk = SimFs::new();
    let store = Options::new("/sim").fs(disk.shared()).segment_bytes(4096).open().unwrap();
    for i in 0..100 {
        store.put(format!("key{}", i % 10), vec![b'v'; 200]).unwrap();
    }
    let mut panicked = false;
    disk.fail(move |call| {
        let merges = std::thread::current().name() == Some("kvs-compact");
        let now = merges && call.kind == Kind::Create && call.is_of("log") && !panicked;
        panicked |= now;
        assert!(!now, "a bug");
        None
    });
    let error = store.compact().unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");
    store.compact().unwrap();
    assert!(store.reader().stats().compactions.get() > 0);
    assert_eq!((store.len(), store.read("key3").unwrap()), (10, Some(vec![b'v'; 200])));
}

/// A job that held the last handle of its store closed it, on a thread that the close waits for.
#[test]
fn the_last_handle_may_go_in_a_job() {
    struct Last(Option<KvStore>, Arc<Barrier>);
    impl WriteJob for Last {
        fn stage(&mut self, txn: &mut Txn<'_>) -> Option<Box<dyn WriteJob>> {
            self.1.wait();
            txn.unit(|txn| txn.put(0, b"key", b"value", None)).unwrap();
            drop(self.0.take());
            None
        }
        fn finish(self: Box<Self>, outcome: kvs::Result<()>) {
            outcome.unwrap();
        }
    }
    impl ReadJob for Last {
        fn run(self: Box<Self>, _: &Reader) {
            self.1.wait();
        }
    }
    let disk = SimFs::new();
    let open = || Options::new("/sim").fs(disk.shared()).lock_wait(Duration::from_secs(60)).open();
    for write in [true, false] {
        let (store, dropped) = (open().unwrap(), Arc::new(Barrier::new(2)));
        let job = Last(Some(store.clone()), Arc::clone(&dropped));
        let submitted = if write {
            store.submit(Box::new(job)).is_ok()
        } else {
            store.submit_read(Box::new(job)).is_ok()
        };
        assert!(submitted);
        drop(store);
        dropped.wait();
        // Once the directory is free, the store was closed.
        assert_eq!(open().unwrap().read("key").unwrap(), Some(b"value".to_vec()));
    }
}

/// Without fsync always, a bit that flipped in the newest segment cost all that came after it if the
/// process was killed: it was taken for the end of an interrupted write.
#[test]
fn a_flipped_bit_and_a_kill_cost_that_record_only() {
    for fsync in [Fsync::Always, Fsync::EverySec, Fsync::No] {
        let disk = SimFs::new();
        let store = Options::new("/sim").fs(disk.shared()).fsync(fsync).open().unwrap();
        for i in 0..20 {
            store.put(format!("key{i:02}"), format!("value{i:02}")).unwrap();
        }
        let model = contents(&store);
        let killed = disk.kill();
        let log = Path::new("/sim/00000001.log");
        let len = model.len() * (20 + 5 + 7);
        for at in (40..40 + len).step_by(if fsync == Fsync::No { 1 } else { 7 }) {
            let disk = killed.kill();
            disk.flip(log, at as u64, 0x10);
            let store = Options::new("/sim").fs(disk.shared()).fsync(fsync).open().unwrap();
            let hurt = (at - 40) / 32;
            for (i, (key, value)) in model.iter().enumerate() {
                match store.read(key) {
                    Ok(found) if i != hurt => assert_eq!(found.as_ref(), Some(value), "byte {at}"),
                    Ok(found) => assert_eq!(found, None, "byte {at} of {i}"),
                    Err(error) => {
                        assert!(i == hurt && matches!(error, KvsError::Damaged { .. }), "{error}");
                    }
                }
            }
            let damaged = store.reader().stats().damaged_ranges.get();
            // A last record whose header announces more than there is looks like an unfinished one.
            let announces = hurt == 19 && (4..12).contains(&((at - 40) % 32));
            assert!(damaged == 1 || announces, "byte {at} of {hurt} was taken for a torn end");
        }
    }
}

/// An ENGINE file that a crash left empty was taken for another engine's.
#[test]
fn an_empty_engine_file_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ENGINE"), "").unwrap();
    drop(KvStore::open(dir.path()).unwrap());
    assert_eq!(std::fs::read_to_string(dir.path().join("ENGINE")).unwrap(), "kvs\n");
}

/// While a database was cleared under it, a snapshot could take the new index for the old one: keys
/// were missing, or had values from after its time.
#[test]
fn a_snapshot_is_whole_when_its_database_is_cleared_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (stop, round) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let n = round.fetch_add(1, Ordering::Relaxed);
                let fill = store.update(move |txn| {
                    txn.clear(0)?;
                    for key in 0..5u8 {
                        txn.put(0, &[key], &n.to_le_bytes(), None)?;
                    }
                    Ok(())
                });
                fill.unwrap();
            }
        });
        let stopped = catch_unwind(AssertUnwindSafe(|| {
            until("there is something", || !store.is_empty());
            let began = std::time::Instant::now();
            while began.elapsed() < std::time::Duration::from_secs(3) {
                let found = contents(&store);
                let first = found.values().next();
                assert!(found.len() == 5 && found.values().all(|v| Some(v) == first), "{found:?}");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        stopped.unwrap();
    });
}
