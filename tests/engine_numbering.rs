//! SWAPDB in the engine: databases exchange their numbers, and everything follows: reads, walks,
//! transactions, merges, opens, expiry, backups and repairs.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_support::care::checked;
use engine_support::{Random, files, flip, open, seed, until};
use kvs::clock::now_ms;
use kvs::engine::check::Progress;
use kvs::engine::fs::{Fs, OsFs};
use kvs::engine::record::{self, STORE};
use kvs::engine::repair::repair;
use kvs::engine::scan::{Tail, scan};
use kvs::engine::segment::{HEADER, Origin};
use kvs::engine::{Patience, Txn, Walk};
use kvs::{KvStore, KvsError, Result};

const ALL: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);
/// So many of the databases are used.
const SOME: u8 = 4;

type Model = [BTreeMap<Vec<u8>, Vec<u8>>; SOME as usize];

/// Everything, by walks; look-ups, counts and iterations must say the same.
fn contents(store: &KvStore) -> Model {
    let mut model = Model::default();
    let (reader, view) = (store.reader(), store.reader().view());
    for (number, found) in (0..).zip(&mut model) {
        let note = |key: &[u8], value: &[u8]| {
            found.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        };
        reader.snapshot(number).entries(ALL, note).unwrap();
        assert_eq!(view.len(number), found.len() as u64);
        for (key, value) in &*found {
            let read = view.get(number, key, Patience::MayWait).unwrap().unwrap();
            assert_eq!(read.bytes.as_ref(), value.as_slice());
        }
        let mut scanned = Vec::new();
        let end = reader.scan(number, 0, usize::MAX, |key| scanned.push(key.to_vec())).unwrap();
        scanned.sort_unstable();
        assert!(end == 0 && scanned.iter().eq(found.keys()));
    }
    model
}

/// What a transaction sees, by all its ways.
fn contents_within(txn: &mut Txn<'_>) -> Result<Model> {
    let mut model = Model::default();
    for (number, found) in (0..).zip(&mut model) {
        let walk = Walk { values: true, ..Walk::default() };
        txn.walk(number, ALL, walk, &mut |key, value| {
            found.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
        assert_eq!(txn.len(number)?, found.len() as u64);
        for (key, value) in &*found {
            assert_eq!(txn.get(number, key)?.unwrap().bytes.as_ref(), value.as_slice());
            assert!(txn.contains(number, key)?);
        }
        let mut scanned = Vec::new();
        assert_eq!(txn.scan(number, 0, usize::MAX, &mut |key| scanned.push(key.to_vec()))?, 0);
        scanned.sort_unstable();
        assert!(scanned.iter().eq(found.keys()));
    }
    Ok(model)
}

/// Some changes, which fail as a whole now and then.
fn change(txn: &mut Txn<'_>, model: &mut Model, random: &mut Random) -> Result<()> {
    let before = model.clone();
    let kept = txn.part(|txn| {
        for _ in 0..random.below(8) {
            let key = format!("key{:02}", random.below(30)).into_bytes();
            let number = random.below(SOME);
            let of_number = &mut model[usize::from(number)];
            match random.below(12) {
                0..3 => {
                    let other = random.below(SOME);
                    txn.swap(number, other)?;
                    model.swap(number.into(), other.into());
                }
                3 => {
                    txn.clear(number)?;
                    of_number.clear();
                }
                4..6 => {
                    assert_eq!(txn.delete(number, &key)?, of_number.remove(&key).is_some());
                }
                _ => {
                    let value = random.bytes(40);
                    txn.put(number, &key, &value, None)?;
                    of_number.insert(key, value);
                }
            }
        }
        if random.below(4) == 0 { Err(KvsError::KeyNotFound) } else { Ok(()) }
    });
    if kept.is_err() {
        *model = before;
    }
    Ok(())
}

#[test]
fn all_follows_whatever_is_done() {
    let seed = seed();
    let (dir, mut random) = (tempfile::tempdir().unwrap(), Random(seed));
    let (mut store, mut model) = (open(dir.path()), Model::default());
    for round in 0..400 {
        let (mut within, mut inner) = (model.clone(), Random(random.0));
        (model, random) = store
            .update(move |txn| {
                for _ in 0..1 + inner.below(3) {
                    change(txn, &mut within, &mut inner)?;
                    assert!(contents_within(txn)? == within);
                }
                Ok((within, inner))
            })
            .unwrap();
        match random.below(20) {
            0 => {
                drop(store);
                assert!(checked(dir.path()).is_sound());
                store = open(dir.path());
            }
            1 => store.compact().unwrap(),
            2 => {
                let backup = tempfile::tempdir().unwrap();
                store.backup(backup.path().join("copy")).unwrap();
                assert!(contents(&open(&backup.path().join("copy"))) == model);
            }
            _ => {}
        }
        assert!(contents(&store) == model, "round {round}");
    }
}

#[test]
fn a_snapshot_stays_with_what_it_was_taken_of() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let put = |number, key: &'static [u8]| {
        store.update(move |txn| txn.put(number, key, b"", None)).unwrap();
    };
    put(0, b"zero");
    put(1, b"one");
    let before = store.reader().snapshot(0);
    store.update(|txn| txn.swap(0, 1)).unwrap();
    put(0, b"one more");
    put(1, b"zero more");
    let keys = |snapshot: &kvs::engine::Snapshot| {
        let mut keys = Vec::new();
        let note = |key: &[u8]| {
            keys.push(String::from_utf8_lossy(key).into_owned());
            ControlFlow::Continue(())
        };
        snapshot.keys(ALL, note).unwrap();
        keys
    };
    assert_eq!(keys(&before), ["zero"]);
    assert_eq!(keys(&store.reader().snapshot(0)), ["one", "one more"]);
    assert_eq!(keys(&store.reader().snapshot(1)), ["zero", "zero more"]);
}

#[test]
fn keys_end_where_they_are_by_then() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.update(|txn| txn.put(0, b"ends", b"", Some(now_ms() + 200))).unwrap();
    store.update(|txn| txn.swap(0, 1)).unwrap();
    store.update(|txn| txn.put(0, b"ends", b"not this one", None)).unwrap();
    assert_eq!(store.reader().view().ending(1), 1);
    until("it is removed", || store.reader().view().len(1) == 0);
    assert_eq!(store.read("ends").unwrap().unwrap(), b"not this one");
}

#[test]
fn there_are_only_so_many_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (a, b) in [(0, 16), (16, 0), (255, 3)] {
        assert!(matches!(store.update(move |txn| txn.swap(a, b)), Err(KvsError::Invalid(_))));
    }
}

/// The newest record of the store's own, in which file and where it ends.
fn place_of_numbering(dir: &Path) -> (PathBuf, usize) {
    let mut newest: Option<(u64, PathBuf, usize)> = None;
    for log in files(dir, "log") {
        let bytes = std::fs::read(&log).unwrap();
        let found = scan(&bytes[HEADER..], HEADER as u64, Origin::Log, Tail::Whole);
        for (at, record) in found.records {
            if record.database == STORE && newest.as_ref().is_none_or(|(seq, ..)| *seq < record.seq)
            {
                assert!(record.flags & record::OWN != 0);
                newest = Some((record.seq, log.clone(), at as usize + record.size()));
            }
        }
    }
    let (_, log, end) = newest.unwrap();
    (log, end)
}

/// Nothing is served by numbers that may be others'. A repair says so, and goes back to the first ones.
#[test]
fn a_damaged_numbering_is_told_and_not_guessed() {
    for hints in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.update(|txn| txn.put(0, b"zero", b"", None)).unwrap();
        store.update(|txn| txn.swap(0, 1)).unwrap();
        store.update(|txn| txn.swap(0, 2)).unwrap();
        store.put("of two", "").unwrap();
        drop(store);
        if !hints {
            files(dir.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
        }
        let (log, end) = place_of_numbering(dir.path());
        (1..=2).for_each(|back| flip(&log, end - back));
        let refused = KvStore::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("SWAPDB") && refused.contains("kvs repair"), "{refused}");
        let fs: Arc<dyn Fs> = Arc::new(OsFs);
        let repaired =
            repair(&fs, dir.path(), false, &Progress::default(), &|_| Ok(String::new())).unwrap();
        let lost: Vec<_> =
            repaired.found.lost().map(|gone| repaired.found.number_of(gone)).collect();
        assert_eq!(lost, [None], "hints: {hints}");
        let store = open(dir.path());
        assert_eq!(store.read("zero").unwrap(), Some(Vec::new()), "hints: {hints}");
        let view = store.reader().view();
        assert_eq!([0, 1, 2].map(|number| view.len(number)), [1, 0, 1]);
    }
}
