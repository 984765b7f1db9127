//! The engine against a BTreeMap: random operations, reopened and crashed on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use kvs::engine::{Batch, Fsync, Options};
use kvs::{KvStore, KvsEngine, KvsError};

/// A small generator of its own, so that a seed tells the whole run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn seed() -> u64 {
    let seed = std::env::var("KVS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64)
    });
    println!("KVS_SEED={seed}");
    seed | 1
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(dir: &Path) -> KvStore {
    Options::new(dir).segment_bytes(16 * 1024).fsync(Fsync::No).open().unwrap()
}

/// What a killed process leaves: the files as they are, without a close.
fn crash_copy(from: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // Compaction may remove a file while it is being copied; then the manifest copied later
        // does not list it.
        let _ = std::fs::copy(entry.path(), copy.path().join(entry.file_name()));
    }
    copy
}

fn check(store: &KvStore, model: &Model) {
    assert_eq!(store.len(), model.len() as u64);
    let all: Result<Vec<_>, KvsError> = store.range(Bound::Unbounded, Bound::Unbounded).collect();
    assert!(all.unwrap().iter().map(|(k, v)| (k, v)).eq(model.iter()));
    for (key, value) in model {
        assert_eq!(store.read(key).unwrap().as_ref(), Some(value));
    }
}

#[test]
fn random_operations_agree_with_a_btreemap() {
    let mut random = Random(seed());
    let mut dir = tempfile::tempdir().unwrap();
    let (mut store, mut model) = (open(dir.path()), Model::new());
    for step in 0..30_000u64 {
        let key = format!("k{:03}", random.below(600)).into_bytes();
        match random.below(1000) {
            0..=1 => {
                drop(store);
                store = open(dir.path());
                check(&store, &model);
            }
            2..=3 => {
                store.compact().unwrap();
                // Nothing is written meanwhile, so the files stand still but for the compactor.
                let copy = crash_copy(dir.path());
                drop(store);
                dir = copy;
                store = open(dir.path());
                check(&store, &model);
            }
            4 => {
                store.clear().unwrap();
                model.clear();
            }
            5..=19 => {
                let mut batch = Batch::new();
                for _ in 0..random.below(10) {
                    let key = format!("k{:03}", random.below(600)).into_bytes();
                    if random.below(2) == 0 {
                        batch.delete(key.clone());
                        model.remove(&key);
                    } else {
                        batch.put(key.clone(), step.to_string());
                        model.insert(key, step.to_string().into_bytes());
                    }
                }
                store.write(batch).unwrap();
            }
            20..=299 => {
                assert_eq!(store.delete(key.clone()).unwrap(), model.remove(&key).is_some());
            }
            300..=499 => assert_eq!(store.read(&key).unwrap().as_ref(), model.get(&key)),
            500..=519 => {
                let end = format!("k{:03}", random.below(600)).into_bytes();
                if key <= end {
                    let found: Vec<_> = store
                        .range(Bound::Included(&key), Bound::Excluded(&end))
                        .map(Result::unwrap)
                        .collect();
                    assert!(found.iter().map(|(k, v)| (k, v)).eq(model.range(key..end)));
                }
            }
            _ => {
                let value = vec![step as u8; random.below(300) as usize];
                store.put(key.clone(), value.clone()).unwrap();
                model.insert(key, value);
            }
        }
    }
    check(&store, &model);
}

#[test]
fn threads_on_clones_find_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..100 {
            let store = store.clone();
            scope.spawn(move || {
                for i in 0..5 {
                    let key = format!("key-{thread}-{i}");
                    KvsEngine::set(&store, key.clone(), i.to_string()).unwrap();
                    assert_eq!(store.get(key).unwrap(), Some(i.to_string()));
                }
            });
        }
    });
    drop(store);
    let store = KvStore::open(dir.path()).unwrap();
    for thread in 0..100 {
        for i in 0..5 {
            assert_eq!(store.get(format!("key-{thread}-{i}")).unwrap(), Some(i.to_string()));
        }
    }
}
