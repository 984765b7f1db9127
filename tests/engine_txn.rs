//! Transactions of the engine: parts that fail, and walks that see what is not committed yet.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine_support::{Model, Random, files, open, seed};
use kvs::engine::record;
use kvs::engine::scan::{Tail, scan};
use kvs::engine::segment::{HEADER, Origin};
use kvs::engine::{Batch, Txn, Walk};
use kvs::{KvStore, KvsError, Result};

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What is in a range, which must be the same from both of its ends.
fn all(txn: &mut Txn<'_>, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Entries {
    let [forward, mut backward] = [false, true].map(|backward| {
        let mut found = Entries::new();
        txn.walk(0, range, Walk { backward, values: true }, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    });
    backward.reverse();
    assert_eq!(forward, backward);
    forward
}

#[test]
fn a_part_that_fails_or_panics_leaves_nothing_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put("old", "0").unwrap();
    store
        .update(|txn| {
            txn.put(0, b"a", b"1", None)?;
            let failed: Result<()> = txn.part(|txn| {
                txn.put(0, b"a", b"2", None)?;
                txn.clear(0)?;
                txn.put(0, b"b", b"2", None)?;
                Err(KvsError::KeyNotFound)
            });
            assert!(failed.is_err());
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                txn.part(|txn| -> Result<()> {
                    txn.delete(0, b"a")?;
                    txn.put(0, b"c", b"3", None)?;
                    std::panic::resume_unwind(Box::new("on purpose"))
                })
            }));
            assert!(panicked.is_err());
            assert_eq!(txn.get(0, b"a")?.unwrap().bytes.as_ref(), b"1");
            assert_eq!(txn.len(0)?, 2);
            txn.put(0, b"d", b"4", None)
        })
        .unwrap();
    let expected = ["a", "d", "old"];
    let keys = |store: &KvStore| store.prefix("").map(|entry| entry.unwrap().0).collect::<Vec<_>>();
    assert_eq!(keys(&store), expected.map(|key| key.as_bytes().to_vec()));
    drop(store);
    assert_eq!(keys(&open(dir.path())), expected.map(|key| key.as_bytes().to_vec()));
}

/// One panic in a batch of the server must not leave its half to the next command.
#[test]
fn a_unit_that_panics_is_not_finished_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.update(|txn| -> Result<()> {
            txn.put(0, b"half", b"1", None)?;
            std::panic::resume_unwind(Box::new("on purpose"))
        })
    }));
    assert!(panicked.is_err());
    store.put("next", "1").unwrap();
    assert_eq!((store.read("half").unwrap(), store.len()), (None, 1));
}

/// A unit within a unit is a part of it: it ended the one around it, which was not atomic any more, and
/// could not be undone.
#[test]
fn a_unit_within_a_unit_is_a_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for panics in [false, true] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            store.update(move |txn| -> Result<()> {
                txn.unit(|txn| txn.put(0, b"inner", b"1", None))?;
                txn.put(0, b"outer", b"1", None)?;
                if panics {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
                Err(KvsError::KeyNotFound)
            })
        }));
        assert!(outcome.is_err() == panics && outcome.unwrap_or(Ok(())).is_ok() == panics);
        assert_eq!(store.len(), 0);
    }
    let both = |txn: &mut Txn<'_>| {
        txn.unit(|txn| txn.put(0, b"inner", b"1", None))?;
        txn.put(0, b"outer", b"1", None)
    };
    store.update(both).unwrap();
    assert_eq!(store.len(), 2);
    let bytes = std::fs::read(&files(dir.path(), "log")[0]).unwrap();
    let found = scan(&bytes[HEADER..], HEADER as u64, Origin::Log, Tail::Whole);
    let goes_on = |i: usize| found.records[i].1.flags & record::BATCH_GOES_ON != 0;
    assert_eq!((found.records.len(), goes_on(0), goes_on(1)), (2, true, false));
}

/// Changes `model` and the transaction alike, in parts that may fail, and compares what walks see.
fn change(txn: &mut Txn<'_>, model: &mut Model, random: &mut Random) {
    let before = model.clone();
    let kept = txn.part(|txn| {
        for _ in 0..random.below(12) {
            let key = format!("k{:02}", random.below(60)).into_bytes();
            match random.below(20) {
                0 => {
                    txn.clear(0)?;
                    model.clear();
                }
                1..=7 => assert_eq!(txn.delete(0, &key)?, model.remove(&key).is_some()),
                8 => txn.put(1, &key, b"elsewhere", None)?,
                _ => {
                    let value = random.0.to_string().into_bytes();
                    txn.put(0, &key, &value, None)?;
                    model.insert(key, value);
                }
            }
        }
        if random.below(3) == 0 { Err(KvsError::KeyNotFound) } else { Ok(()) }
    });
    if kept.is_err() {
        *model = before;
    }
    compare(txn, model, random);
}

fn compare(txn: &mut Txn<'_>, model: &Model, random: &mut Random) {
    assert_eq!(txn.len(0).unwrap(), model.len() as u64);
    let everything = (Bound::Unbounded, Bound::Unbounded);
    assert!(all(txn, everything).iter().map(|(k, v)| (k, v)).eq(model.iter()));
    let [from, to] = [0, 1].map(|_| format!("k{:02}", random.below(60)).into_bytes());
    let range = (Bound::Excluded(&from[..]), Bound::Included(&to[..]));
    let expected: Vec<_> = model.iter().filter(|(k, _)| **k > from && **k <= to).collect();
    assert!(all(txn, range).iter().map(|(k, v)| (k, v)).eq(expected));
    let limit = random.below(5) as usize + 1;
    let mut first = Vec::new();
    txn.walk(0, everything, Walk::default(), &mut |key, _| {
        first.push(key.to_vec());
        if first.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    assert!(first.iter().eq(model.keys().take(limit)));
    let (mut scanned, mut cursor) = (Vec::new(), 0);
    loop {
        cursor = txn.scan(0, cursor, 7, &mut |key| scanned.push(key.to_vec())).unwrap();
        if cursor == 0 {
            break;
        }
    }
    scanned.sort();
    assert!(scanned.iter().eq(model.keys()), "each once");
}

#[test]
fn walks_within_a_transaction_see_its_own_changes() {
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let (store, mut model) = (open(dir.path()), Model::new());
    for _ in 0..60 {
        let mut batch = Batch::new();
        for _ in 0..random.below(30) {
            let key = format!("k{:02}", random.below(60)).into_bytes();
            batch.put(key.clone(), "committed");
            model.insert(key, b"committed".to_vec());
        }
        store.write(batch).unwrap();
        let (mut changed, mut dice) = (model.clone(), Random(random.below(u64::MAX) | 1));
        model = store
            .update(move |txn| {
                for _ in 0..dice.below(6) {
                    change(txn, &mut changed, &mut dice);
                }
                Ok(changed)
            })
            .unwrap();
        let committed: Vec<_> = store.prefix("").map(Result::unwrap).collect();
        assert!(committed.iter().map(|(k, v)| (k, v)).eq(model.iter()));
    }
}
