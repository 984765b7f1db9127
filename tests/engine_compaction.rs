//! Compaction beside readers and writers: nothing is lost, nothing comes back, and the directory
//! stays small.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine_support::{Model, Random, contents, dir_bytes, options, seed, until};
use kvs::KvStore;
use kvs::engine::{Batch, Options, Patience, Walk};

/// Small segments, merged as fast as can be.
fn open(dir: &Path) -> KvStore {
    options(dir).compact_rate(1 << 40).open().unwrap()
}

/// Compacts again and again while `work` runs.
fn while_compacting<R>(store: &KvStore, work: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    let merges = store.reader().stats().compactions.get();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.compact().unwrap();
            }
        });
        // A failure must end the other thread too, or the scope would wait for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        result
    });
    let merges = store.reader().stats().compactions.get() - merges;
    match result {
        Ok(result) => {
            assert!(merges > 0, "no merge ran beside it");
            result
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn readers_never_see_a_key_go_back_or_vanish() {
    const KEYS: u64 = 200;
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // What was acknowledged of each key; odd versions are deletes.
    let acknowledged: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let begun: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let name = |key: u64| format!("key{key:03}");
    let value = |key: u64, version: u64| {
        let mut value = format!("{version} of {key} ").into_bytes();
        value.resize(40 + (key * 7 + version) as usize % 200, b'.');
        value
    };
    let stop = AtomicBool::new(false);
    while_compacting(&store, || {
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (store, stop) = (&store, &stop);
                let (acknowledged, begun) = (&acknowledged, &begun);
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_add(reader * 1000) | 1);
                    while !stop.load(Ordering::Relaxed) {
                        let key = random.below(KEYS);
                        let before = acknowledged[key as usize].load(Ordering::SeqCst);
                        let found = store.read(name(key)).unwrap();
                        let after = begun[key as usize].load(Ordering::SeqCst);
                        let fits = (before..=after).any(|version| match &found {
                            None => version % 2 == 1 || version == 0,
                            Some(found) => version % 2 == 0 && *found == value(key, version),
                        });
                        let shown = found.map(|v| String::from_utf8_lossy(&v).into_owned());
                        assert!(fits, "key {key}, {before}..={after}: {shown:?}");
                    }
                });
            }
            for writer in 0..2u64 {
                let (store, acknowledged, begun) = (&store, &acknowledged, &begun);
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_add(writer) | 1);
                    for _ in 0..12_000 {
                        let key = random.below(KEYS / 2) * 2 + writer;
                        let last = acknowledged[key as usize].load(Ordering::SeqCst);
                        // A delete only now and then, and never of a key that is gone.
                        let deletes = last > 0 && last % 2 == 0 && random.below(4) == 0;
                        let version = if deletes { last + 1 } else { (last + 2) & !1 };
                        begun[key as usize].store(version, Ordering::SeqCst);
                        if deletes {
                            assert!(store.delete(name(key)).unwrap(), "key {key} had vanished");
                        } else {
                            store.put(name(key), value(key, version)).unwrap();
                        }
                        acknowledged[key as usize].store(version, Ordering::SeqCst);
                    }
                });
            }
            until_done(&acknowledged, &stop);
        });
    });
    drop(store);
    let store = open(dir.path());
    for key in 0..KEYS {
        let version = acknowledged[key as usize].load(Ordering::SeqCst);
        let expected = (version > 0 && version.is_multiple_of(2)).then(|| value(key, version));
        assert_eq!(store.read(name(key)).unwrap(), expected, "key {key} after a reopen");
    }
}

/// Stops the readers when the writers write no more.
fn until_done(acknowledged: &[AtomicU64], stop: &AtomicBool) {
    let sum = || acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).sum::<u64>();
    let mut last = (sum(), Instant::now());
    while last.1.elapsed() < Duration::from_millis(500) {
        std::thread::yield_now();
        if sum() != last.0 {
            last = (sum(), Instant::now());
        }
    }
    stop.store(true, Ordering::Relaxed);
}

#[test]
fn batches_are_seen_whole_by_ranges_and_by_marked_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stop = AtomicBool::new(false);
    while_compacting(&store, || {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0u64.. {
                    let mut batch = Batch::new();
                    for key in ["a", "b", "c"] {
                        batch.put(key, n.to_string());
                        batch.put(format!("fill{key}{}", n % 50), vec![b'f'; 100]);
                    }
                    store.write(batch).unwrap();
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                until("the keys are there", || store.len() >= 6);
                let began = Instant::now();
                let (mut marked, mut last) = (0, 0u64);
                while began.elapsed() < Duration::from_secs(3) {
                    let all = contents(&store);
                    let seen: Vec<_> = ["a", "b", "c"].map(|key| &all[key.as_bytes()]).into();
                    assert!(seen.iter().all(|value| *value == seen[0]), "{seen:?}");
                    let n = String::from_utf8_lossy(seen[0]).parse().unwrap();
                    assert!(n >= last, "{n} after {last}");
                    last = n;
                    for _ in 0..50 {
                        let view = store.reader().view();
                        let Some(before) = view.batch_mark() else { continue };
                        let values = ["a", "b", "c"].map(|key| {
                            view.get(0, key.as_bytes(), Patience::MayWait).unwrap().unwrap().bytes
                        });
                        if view.batch_mark() == Some(before) {
                            assert!(values.iter().all(|v| *v == values[0]), "{values:?}");
                            marked += 1;
                        }
                    }
                }
                assert!(marked > 100, "only {marked} reads between two equal marks");
            }));
            stop.store(true, Ordering::Relaxed);
            check.unwrap();
        });
    });
}

#[test]
fn a_snapshot_is_the_state_at_its_start() {
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::new();
    while_compacting(&store, || {
        for round in 0..30u32 {
            for _ in 0..200 {
                let key = format!("key{:03}", random.below(400)).into_bytes();
                let value = random.bytes(80);
                store.put(key.clone(), value.clone()).unwrap();
                model.insert(key, value);
            }
            let frozen = model.clone();
            let mut snapshot = store.range(Bound::Unbounded, Bound::Unbounded);
            let keys = store.reader().snapshot(0);
            // Read halfway, then change everything.
            let mut found: Vec<_> = snapshot.by_ref().take(frozen.len() / 2).collect();
            for _ in 0..150 {
                let key = format!("key{:03}", random.below(400)).into_bytes();
                assert_eq!(store.delete(key.clone()).unwrap(), model.remove(&key).is_some());
            }
            if round % 3 == 0 {
                store.clear().unwrap();
                model.clear();
                store.put("key000", "new").unwrap();
                model.insert(b"key000".into(), b"new".into());
            }
            if round % 5 == 0 {
                store.compact().unwrap();
            }
            found.extend(snapshot);
            let found: BTreeMap<_, _> = found.into_iter().map(Result::unwrap).collect();
            assert!(found == frozen, "round {round}: {} of {}", found.len(), frozen.len());
            let mut names = Vec::new();
            let all = (Bound::Unbounded, Bound::Unbounded);
            let note = |key: &[u8]| {
                names.push(key.to_vec());
                std::ops::ControlFlow::Continue(())
            };
            keys.keys(all, note).unwrap();
            assert!(names.iter().eq(frozen.keys()), "round {round}: the keys of a snapshot");
            let [from, to] = [0, 1].map(|_| format!("key{:03}", random.below(400)).into_bytes());
            let mut back = Vec::new();
            let range = (Bound::Excluded(&from[..]), Bound::Excluded(&to[..]));
            let walk = Walk { backward: true, values: true };
            keys.walk(range, walk, &mut |key, value| {
                back.push((key.to_vec(), value.to_vec()));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
            let within = frozen.iter().filter(|(key, _)| **key > from && **key < to);
            let back = back.iter().rev().map(|(key, value)| (key, value));
            assert!(back.eq(within), "round {round}: a snapshot from its end");
            assert_eq!(keys.len(), frozen.len() as u64);
        }
    });
    assert_eq!(contents(&store), model);
    drop(store);
    assert_eq!(contents(&open(dir.path())), model);
}

/// Removes keys while the compactor copies them; none may come back, now or after a reopen.
#[test]
fn a_key_that_is_removed_while_it_is_copied_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let name = |round: u32, i: u32| format!("round{round}-{i:03}");
    let mut rounds = 0;
    while_compacting(&store, || {
        while rounds < 40 || store.reader().stats().compactions.get() < 10 {
            let round = rounds;
            rounds += 1;
            for i in 0..150 {
                store.put(name(round, i), vec![b'v'; 120]).unwrap();
            }
            for i in (0..150).filter(|i| i % 10 != 0) {
                assert!(store.delete(name(round, i)).unwrap());
                assert_eq!(store.read(name(round, i)).unwrap(), None);
            }
        }
    });
    let expected: Vec<_> =
        (0..rounds).flat_map(|round| (0..15).map(move |i| name(round, i * 10))).collect();
    let check = |store: &KvStore| {
        let mut found: Vec<_> = contents(store).into_keys().collect();
        found.sort();
        let mut expected: Vec<_> = expected.iter().map(|key| key.clone().into_bytes()).collect();
        expected.sort();
        assert_eq!(found, expected);
    };
    check(&store);
    store.compact().unwrap();
    drop(store);
    let store = open(dir.path());
    check(&store);
}

fn fill(store: &KvStore, keys: impl Iterator<Item = u64>, value: usize) {
    let mut batch = Batch::new();
    for (i, key) in keys.enumerate() {
        batch.put(format!("key{key:013}"), vec![b'v'; value]);
        if i % 500 == 499 {
            store.write(std::mem::take(&mut batch)).unwrap();
        }
    }
    store.write(batch).unwrap();
}

/// Segments of 1 MiB: large enough that what is bounded by constants does not blur the shares.
fn medium(dir: &Path) -> KvStore {
    options(dir).segment_bytes(1 << 20).open().unwrap()
}

/// Keys of 16 bytes and values of 100, each with 20 bytes of header.
const LIVE: u64 = 136;

#[test]
fn the_directory_stays_within_twice_the_live_bytes() {
    const KEYS: u64 = 80_000;
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let store = medium(dir.path());
    fill(&store, 0..KEYS, 100);
    let live = KEYS * LIVE;
    let mut worst = 0f64;
    for _ in 0..4 {
        let keys: Vec<u64> = (0..KEYS / 2).map(|_| random.below(KEYS)).collect();
        fill(&store, keys.into_iter(), 100);
        let share = || dir_bytes(dir.path()) as f64 / live as f64;
        worst = worst.max(share());
        until("the directory is within twice the live bytes", || share() <= 2.0);
    }
    println!("at worst {worst:.2} times the live bytes right after writes");
    for _ in 0..2 {
        store.compact().unwrap();
    }
    let share = dir_bytes(dir.path()) as f64 / live as f64;
    println!("{share:.3} times the live bytes after a full compaction");
    assert!(share <= 1.35, "{share}");
}

#[test]
fn what_is_deleted_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = medium(dir.path());
    fill(&store, 0..40_000, 100);
    for chunk in 0..80u64 {
        let mut batch = Batch::new();
        (chunk * 500..chunk * 500 + 500).for_each(|key| {
            batch.delete(format!("key{key:013}"));
        });
        store.write(batch).unwrap();
    }
    assert!(store.is_empty());
    store.compact().unwrap();
    store.compact().unwrap();
    // The active segment, with tombstones, the prepared one, and what is kept for a full disk.
    const RESERVE: u64 = (1 << 20) + (1 << 18);
    let left = dir_bytes(dir.path());
    assert!(left <= 2 * (1 << 20) + 4096 + RESERVE, "{left} bytes are left");
    drop(store);
    let left = dir_bytes(dir.path());
    assert!(left <= (1 << 20) + (1 << 19) + RESERVE, "{left} bytes are left after a close");
    assert!(medium(dir.path()).is_empty(), "something came back");
}

/// A queue: what is put in is soon taken out, while old keys stay. Their segment is older than all
/// tombstones, which must not be kept for its sake.
#[test]
fn a_queue_beside_cold_keys_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = medium(dir.path());
    fill(&store, 0..20_000, 100);
    let live = 20_000 * LIVE;
    let mut sizes = Vec::new();
    for round in 0..5u64 {
        for step in 0..40u64 {
            let from = 1_000_000 + (round * 40 + step) * 500;
            fill(&store, from..from + 500, 100);
            let mut batch = Batch::new();
            (from..from + 500).for_each(|key| {
                batch.delete(format!("key{key:013}"));
            });
            store.write(batch).unwrap();
        }
        until("the queue's dead weight is gone", || {
            dir_bytes(dir.path()) <= 2 * live + 4 * (1 << 20)
        });
        sizes.push(dir_bytes(dir.path()));
    }
    println!("{sizes:?}");
    assert_eq!(store.len(), 20_000);
    drop(store);
    assert_eq!(medium(dir.path()).len(), 20_000);
}

/// Keys as an embedder has them: opened with the defaults, and small.
#[test]
fn a_small_store_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..50u32 {
        let store = Options::new(dir.path()).open().unwrap();
        for key in 0..20 {
            store.put(format!("key{key}"), round.to_string()).unwrap();
        }
    }
    let bytes = dir_bytes(dir.path());
    assert!(bytes < 64 * 1024, "{bytes} bytes");
}

/// A few removed keys in segments that are not worth a merge: their tombstones must outlive merges
/// of the segments that these are in.
#[test]
fn tombstones_outlive_what_they_hide() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fill(&store, 0..1000, 100);
    let removed: Vec<String> = (0..40).map(|i| format!("key{:013}", i * 25)).collect();
    for key in &removed {
        assert!(store.delete(key.as_str()).unwrap());
    }
    // Closes the segment with the tombstones, and gives it dead records.
    for round in 0..40 {
        fill(&store, 2000..2050, 100 + round);
    }
    let read = |store: &KvStore| store.reader().stats().compaction_read.get();
    let before = read(&store);
    store.compact().unwrap();
    store.compact().unwrap();
    assert!(read(&store) > before, "nothing was merged");
    drop(store);
    let store = open(dir.path());
    for key in &removed {
        assert_eq!(store.read(key).unwrap(), None, "{key} came back");
    }
    assert_eq!(store.len(), 1000 - 40 + 50);
}

/// On a full disk, the reserve has to have room for a merge of any one segment.
#[test]
fn no_merge_makes_a_segment_of_more_than_a_sixteenth() {
    let dir = tempfile::tempdir().unwrap();
    let store = options(dir.path()).segment_bytes(16 * 1024).open().unwrap();
    for round in 0..5 {
        for i in (0..3000).filter(|i| round == 0 || i % 5 == round) {
            store.put(format!("key{i:04}"), vec![b'v'; 300]).unwrap();
        }
        store.compact().unwrap();
        let contents = contents(&store);
        let live: usize = contents.iter().map(|(key, value)| key.len() + value.len() + 20).sum();
        let sixteenth = live as u64 / 16;
        for log in engine_support::files(dir.path(), "log") {
            // Sizes of live records are known up to an eighth.
            let len = log.metadata().unwrap().len();
            assert!(len <= sixteenth * 9 / 8, "round {round}: {} has {len}", log.display());
        }
    }
}
