//! A workload of small steps, for disks that fail, and what it should lead to.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::mpsc;

use kvs::engine::{Batch, Fsync, Options, Txn, WriteJob};
use kvs::{KvStore, Result};

use crate::engine_support::{Model, Random};
use crate::simfs::SimFs;

pub const DIR: &str = "/sim";
/// When a record ends that shall not end.
pub const FAR: u64 = 4_000_000_000_000;
pub fn options(disk: &SimFs, fsync: Fsync) -> Options {
    Options::new(DIR).fs(disk.shared()).fsync(fsync).segment_bytes(4096).readers(1)
}

/// A key, and its value or nothing.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

fn apply(model: &mut Model, (key, value): &Change) {
    match value {
        Some(value) => drop(model.insert(key.clone(), value.clone())),
        None => drop(model.remove(key)),
    }
}

/// What the workload does at a time.
pub enum Step {
    Put(Vec<u8>, Vec<u8>),
    /// Until then; 1 is long ago.
    PutUntil(u64, Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    /// One unit.
    Batch(Vec<Change>),
    /// A unit each, in one group commit.
    Group(Vec<Change>),
    Clear,
    Compact,
    Reopen,
}

impl Step {
    pub fn random(random: &mut Random) -> Step {
        fn key(random: &mut Random) -> Vec<u8> {
            format!("key{:02}", random.below(24)).into_bytes()
        }
        fn value(random: &mut Random) -> Vec<u8> {
            let len = if random.below(8) == 0 { 1500 } else { random.below(200) };
            random.bytes(len as usize)
        }
        fn changes(random: &mut Random) -> Vec<Change> {
            let change = |random: &mut Random| {
                let (key, value) = (key(random), value(random));
                (key, (random.below(4) > 0).then_some(value))
            };
            (0..2 + random.below(6)).map(|_| change(random)).collect()
        }
        match random.below(25) {
            0..8 => Step::Put(key(random), value(random)),
            8..11 => Step::Delete(key(random)),
            11..15 => Step::Batch(changes(random)),
            15..18 => Step::Group(changes(random)),
            18 => Step::PutUntil(1, key(random), value(random)),
            19 => Step::PutUntil(FAR, key(random), value(random)),
            20 if random.below(2) == 0 => Step::Clear,
            20..23 => Step::Compact,
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
            Step::Batch(changes) => changes.iter().for_each(|change| apply(&mut model, change)),
            Step::Clear => model.clear(),
            Step::Group(changes) => {
                let units = changes.iter().map(|change| {
                    apply(&mut model, change);
                    model.clone()
                });
                return units.collect();
            }
            Step::Compact | Step::Reopen => return Vec::new(),
        }
        vec![model]
    }

    /// Takes the step, which is acknowledged when this returns without an error.
    pub fn take(
        self,
        store: &mut Option<KvStore>,
        open: impl Fn() -> Result<KvStore>,
    ) -> Result<()> {
        let Some(opened) = store.as_ref() else { return Err(kvs::KvsError::Closed) };
        match self {
            Step::Put(key, value) => opened.put(key, value),
            Step::PutUntil(at, key, value) => {
                opened.update(move |txn| txn.put(0, &key, &value, Some(at)))
            }
            Step::Delete(key) => opened.delete(key).map(drop),
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
            Step::Compact => opened.compact(),
            Step::Reopen => {
                *store = None;
                *store = Some(open()?);
                Ok(())
            }
        }
    }
}

struct Group {
    changes: Vec<Change>,
    refused: Option<Result<()>>,
    done: mpsc::Sender<Result<()>>,
}

impl WriteJob for Group {
    fn stage(&mut self, txn: &mut Txn<'_>) -> Option<Box<dyn WriteJob>> {
        for (key, value) in &self.changes {
            let staged = txn.unit(|txn| match value {
                Some(value) => txn.put(0, key, value, None),
                None => txn.delete(0, key).map(drop),
            });
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
