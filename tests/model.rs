//! The engine against a BTreeMap: random operations, reopened and crashed on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod engine_support;

use std::ops::Bound;

use engine_support::{Model, Random, contents, copy_dir, open};
use kvs::engine::Batch;
use kvs::{KvStore, KvsEngine};

fn check(store: &KvStore, model: &Model) {
    assert_eq!(store.len(), model.len() as u64);
    assert!(contents(store) == *model);
    for (key, value) in model {
        assert_eq!(store.read(key).unwrap().as_ref(), Some(value));
    }
}

#[test]
fn random_operations_agree_with_a_btreemap() {
    let mut random = Random::seeded();
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
                // What a killed process leaves: the files as they are, without a close.
                let copy = copy_dir(dir.path());
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
                let value = vec![step as u8; random.below(300)];
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
