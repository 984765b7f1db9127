//! A workload of small steps, for disks that fail, and what it should lead to. It uses two databases:
//! a key that begins with `@` is one of database 1, there without the `@`.
#![allow(dead_code, clippy::unwrap_used)]

use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::mpsc;

use kvs::engine::{Batch, Fsync, Options, Txn, WriteJob};
use kvs::{KvStore, KvsError, Result};

use crate::engine_support::{Model, Random};
use crate::simfs::SimFs;

pub const DIR: &str = "/sim";
/// When a record ends that shall not end.
pub const FAR: u64 = 4_000_000_000_000;

/// Where the backup with this number goes.
pub fn backup(number: u64) -> PathBuf {
    PathBuf::from(format!("/backups/{number}"))
}

pub fn options(disk: &SimFs, fsync: Fsync) -> Options {
    options_in(DIR, disk, fsync)
}

pub fn options_in(dir: impl Into<PathBuf>, disk: &SimFs, fsync: Fsync) -> Options {
    Options::new(dir).fs(disk.shared()).fsync(fsync).segment_bytes(4096).readers(1)
}

/// A key, and its value or nothing.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// The database and the name there.
fn place(key: &[u8]) -> (u8, &[u8]) {
    key.strip_prefix(b"@").map_or((0, key), |name| (1, name))
}

/// Everything in both databases.
pub fn contents(store: &KvStore) -> Model {
    let mut model = Model::new();
    for (database, mark) in [(0, &b""[..]), (1, b"@")] {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let add = |key: &[u8], value: &[u8]| {
            model.insert([mark, key].concat(), value.to_vec());
            ControlFlow::Continue(())
        };
        store.reader().snapshot(database).entries(all, add).unwrap();
    }
    model
}

fn apply(model: &mut Model, (key, value): &Change) {
    match value {
        Some(value) => drop(model.insert(key.clone(), value.clone())),
        None => drop(model.remove(key)),
    }
}

/// What was in one database is in the other.
fn swap(model: &mut Model) {
    let moved = |(key, value): (Vec<u8>, Vec<u8>)| match place(&key) {
        (0, name) => ([b"@", name].concat(), value),
        (_, name) => (name.to_vec(), value),
    };
    *model = std::mem::take(model).into_iter().map(moved).collect();
}

/// What the workload does at a time.
pub enum Step {
    Put(Vec<u8>, Vec<u8>),
    /// Until then; 1 is long ago.
    PutUntil(u64, Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    /// One unit, of database 0.
    Batch(Vec<Change>),
    /// One unit, as EXEC makes them: a part each, and between them parts that fail.
    Transaction(Vec<Change>),
    /// A unit each, in one group commit.
    Group(Vec<Change>),
    /// Database 0.
    Clear,
    ClearAll,
    /// One unit: a change, SWAPDB 0 1, and another change.
    Swap(Change, Change),
    Compact,
    /// To the place with this number.
    Backup(u64),
    Reopen,
}

impl Step {
    pub fn random(random: &mut Random) -> Step {
        fn key(random: &mut Random) -> Vec<u8> {
            let mark = if random.below(5) == 0 { "@" } else { "" };
            format!("{mark}key{:02}", random.below(24)).into_bytes()
        }
        fn value(random: &mut Random) -> Vec<u8> {
            let len = if random.below(8) == 0 { 1500 } else { random.below(200) };
            random.bytes(len as usize)
        }
        fn change(random: &mut Random) -> Change {
            let (key, value) = (key(random), value(random));
            (key, (random.below(4) > 0).then_some(value))
        }
        fn changes(random: &mut Random) -> Vec<Change> {
            (0..2 + random.below(6)).map(|_| change(random)).collect()
        }
        match random.below(30) {
            0..8 => Step::Put(key(random), value(random)),
            8..11 => Step::Delete(key(random)),
            11..13 => {
                let mut changes = changes(random);
                changes.retain(|(key, _)| place(key).0 == 0);
                Step::Batch(changes)
            }
            13..16 => Step::Transaction(changes(random)),
            16..19 => Step::Group(changes(random)),
            19 => Step::PutUntil(1, key(random), value(random)),
            20 => Step::PutUntil(FAR, key(random), value(random)),
            21 => match random.below(4) {
                0 => Step::Clear,
                1 => Step::ClearAll,
                _ => Step::Compact,
            },
            22..24 => Step::Compact,
            24..26 => Step::Backup(random.next()),
            26..28 => Step::Swap(change(random), change(random)),
            _ => Step::Reopen,
        }
    }

    /// The contents after each unit of it.
    pub fn leads_to(&self, from: &Model) -> Vec<Model> {
        let mut model = from.clone();
        match self {
            Step::Put(key, value) => apply(&mut model, &(key.clone(), Some(value.clone()))),
            Step::PutUntil(FAR, key, value) => {
                apply(&mut model, &(key.clone(), Some(value.clone())))
            }
            Step::PutUntil(_, key, _) | Step::Delete(key) => drop(model.remove(key)),
            Step::Batch(changes) | Step::Transaction(changes) => {
                changes.iter().for_each(|change| apply(&mut model, change))
            }
            Step::Clear => model.retain(|key, _| place(key).0 != 0),
            Step::ClearAll => model.clear(),
            Step::Swap(before, after) => {
                apply(&mut model, before);
                swap(&mut model);
                apply(&mut model, after);
            }
            Step::Group(changes) => {
                let units = changes.iter().map(|change| {
                    apply(&mut model, change);
                    model.clone()
                });
                return units.collect();
            }
            Step::Compact | Step::Backup(_) | Step::Reopen => return Vec::new(),
        }
        vec![model]
    }

    /// The contents after those units of it that only remove.
    pub fn removals(&self, from: &Model) -> Model {
        let mut model = from.clone();
        if let Step::Group(changes) = self {
            let removals = changes.iter().filter(|(_, value)| value.is_none());
            removals.for_each(|change| apply(&mut model, change));
        }
        model
    }

    /// Takes the step, which is acknowledged when this returns without an error.
    pub fn take(
        self,
        store: &mut Option<KvStore>,
        open: impl Fn() -> Result<KvStore>,
    ) -> Result<()> {
        let Some(opened) = store.as_ref() else { return Err(kvs::KvsError::Closed) };
        match self {
            Step::Put(key, value) => {
                opened.update(move |txn| change(txn, &(key, Some(value)), None))
            }
            Step::PutUntil(at, key, value) => {
                opened.update(move |txn| change(txn, &(key, Some(value)), Some(at)))
            }
            Step::Delete(key) => opened.update(move |txn| change(txn, &(key, None), None)),
            Step::Transaction(changes) => opened.update(move |txn| {
                for next in &changes {
                    txn.part(|txn| change(txn, next, None))?;
                    let failed = txn.part(|txn| {
                        change(txn, &(next.0.clone(), Some(b"of a part that fails".into())), None)?;
                        Err::<(), _>(KvsError::KeyNotFound)
                    });
                    assert!(failed.is_err());
                }
                Ok(())
            }),
            Step::Batch(changes) => {
                let mut batch = Batch::new();
                for (key, value) in changes {
                    match value {
                        Some(value) => batch.put(key, value),
                        None => batch.delete(key),
                    };
                }
                opened.write(batch)
            }
            Step::Group(changes) => {
                let (done, finished) = mpsc::channel();
                assert!(opened.submit(Box::new(Group { changes, refused: None, done })).is_ok());
                finished.recv().unwrap()
            }
            Step::Clear => opened.clear(),
            Step::ClearAll => opened.update(|txn| txn.clear_all()),
            Step::Swap(before, after) => opened.update(move |txn| {
                change(txn, &before, None)?;
                txn.swap(0, 1)?;
                change(txn, &after, None)
            }),
            Step::Compact => opened.compact(),
            Step::Backup(number) => opened.backup(backup(number)),
            Step::Reopen => {
                *store = None;
                *store = Some(open()?);
                Ok(())
            }
        }
    }
}

fn change(txn: &mut Txn<'_>, (key, value): &Change, expires_at: Option<u64>) -> Result<()> {
    let (database, name) = place(key);
    match value {
        Some(value) => txn.put(database, name, value, expires_at),
        None => txn.delete(database, name).map(drop),
    }
}

struct Group {
    changes: Vec<Change>,
    refused: Option<Result<()>>,
    done: mpsc::Sender<Result<()>>,
}

impl WriteJob for Group {
    fn stage(&mut self, txn: &mut Txn<'_>) -> Option<Box<dyn WriteJob>> {
        for next in &self.changes {
            let staged = txn.unit(|txn| change(txn, next, None));
            // On a full disk, values are refused one by one.
            if staged.is_err() {
                self.refused = Some(staged);
            }
        }
        None
    }

    fn finish(self: Box<Self>, outcome: Result<()>) {
        self.done.send(outcome.and(self.refused.unwrap_or(Ok(())))).unwrap();
    }
}
