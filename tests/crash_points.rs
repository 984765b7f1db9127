//! Every crash point of a workload. One run of it leaves the journal of all that it did to a
//! simulated disk (tests/simfs); then, for each operation of that journal, the machine stops right
//! behind it: the process is killed, or the power goes and takes what was not synced, in several
//! ways. What is found at the next open must be a moment of the workload's history, and one that
//! holds all that was acknowledged.
//!
//! More ways and more rounds, as long as you like: `KVS_CRASH_ROUNDS=20 cargo test --release --test
//! crash_points`. A failure prints the seed, the operation and the way.

#![allow(clippy::unwrap_used)]

mod engine_support;
mod simfs;

use std::sync::Arc;

use engine_support::{Model, Random, contents, seed};
use kvs::KvStore;
use kvs::engine::{Batch, Fsync, Options};
use kvs::stats::EngineStats;
use simfs::{Loss, Op, Replay, SimFs};

const DIR: &str = "/sim";
/// When a record ends that shall not end.
const FAR: u64 = 4_000_000_000_000;

fn options(disk: &SimFs, fsync: Fsync) -> Options {
    Options::new(DIR).fs(disk.shared()).fsync(fsync).segment_bytes(4096).readers(1)
}

/// A run of the workload: the contents after each step, and the disk it ran on.
struct Run {
    fsync: Fsync,
    disk: SimFs,
    /// The contents before the first step, and after each.
    states: Vec<Model>,
}

/// Which steps were begun and acknowledged at a point of the journal, by its marks; and how many
/// were when everything in the segments was last durable.
#[derive(Default, Clone, Copy, Debug)]
struct Progress {
    begun: usize,
    acknowledged: usize,
    durable: usize,
}

impl Run {
    fn new(seed: u64, fsync: Fsync, steps: usize) -> Run {
        let disk = SimFs::new();
        let mut run = Run { fsync, disk, states: vec![Model::new()] };
        let mut random = Random(seed);
        let mut store = run.open();
        for step in 0..steps {
            run.disk.mark(2 * step as u64);
            let mut model = run.states[step].clone();
            store = run.step(store, &mut model, &mut random);
            run.states.push(model);
            run.disk.mark(2 * step as u64 + 1);
        }
        drop(store);
        run
    }

    fn open(&self) -> KvStore {
        options(&self.disk, self.fsync).open().unwrap()
    }

    /// One acknowledged step; each is one atomic unit, or changes nothing that a user sees.
    fn step(&self, store: KvStore, model: &mut Model, random: &mut Random) -> KvStore {
        let key = |random: &mut Random| format!("key{:02}", random.below(24)).into_bytes();
        let value = |random: &mut Random| {
            let len = if random.below(8) == 0 { 1500 } else { random.below(200) };
            random.bytes(len as usize)
        };
        let (name, content) = (key(random), value(random));
        match random.below(24) {
            0..10 => {
                store.put(name.clone(), content.clone()).unwrap();
                model.insert(name, content);
            }
            10..13 => {
                assert_eq!(store.delete(name.clone()).unwrap(), model.remove(&name).is_some());
            }
            13..17 => {
                let mut batch = Batch::new();
                for _ in 0..2 + random.below(6) {
                    let (name, content) = (key(random), value(random));
                    if random.below(4) == 0 {
                        batch.delete(name.clone());
                        model.remove(&name);
                    } else {
                        batch.put(name.clone(), content.clone());
                        model.insert(name, content);
                    }
                }
                store.write(batch).unwrap();
            }
            17..20 => {
                // Every other one has ended already.
                let ended = random.below(2) == 0;
                let (at, put) = (if ended { 1 } else { FAR }, (name.clone(), content.clone()));
                store.update(move |txn| txn.put(0, &put.0, &put.1, Some(at))).unwrap();
                model.remove(&name);
                if !ended {
                    model.insert(name, content);
                }
            }
            20 if random.below(3) == 0 => {
                store.clear().unwrap();
                model.clear();
            }
            20..23 => store.compact().unwrap(),
            _ => {
                drop(store);
                return self.open();
            }
        }
        store
    }

    /// What may be found after a crash: the contents after so many steps.
    fn allowed(&self, progress: Progress, power_cut: bool) -> std::ops::RangeInclusive<usize> {
        let kept = power_cut && self.fsync != Fsync::Always;
        let from = if kept { progress.durable } else { progress.acknowledged };
        from..=progress.begun
    }

    /// Opens what a crash has left; the number of the step whose contents it has.
    fn check(&self, disk: &SimFs, progress: Progress, cut: bool, what: &str) -> usize {
        let stats = Arc::new(EngineStats::default());
        let store = options(disk, self.fsync).stats(Arc::clone(&stats)).open();
        let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = contents(&store);
        assert_eq!(stats.damaged_ranges.get(), 0, "{what}: taken for damage");
        assert_eq!(store.len() as usize, store_len(&store), "{what}: the count of keys");
        let mut allowed = self.allowed(progress, cut);
        let is = allowed.clone().rev().find(|step| self.states[*step] == found);
        let Some(step) = is else {
            let anywhen = self.states.iter().rposition(|state| *state == found);
            let expected = &self.states[allowed.next_back().unwrap()];
            panic!(
                "{what}: {progress:?}, found the state {anywhen:?}; {}",
                differ(expected, &found)
            );
        };
        store.put("after", "the crash").unwrap();
        let mut batch = Batch::new();
        batch.put("after1", "it").delete("after").put("after2", "it");
        store.write(batch).unwrap();
        drop(store);
        let store = options(disk, self.fsync).open().unwrap();
        let mut expected = self.states[step].clone();
        expected.insert(b"after1".into(), b"it".into());
        expected.insert(b"after2".into(), b"it".into());
        assert!(contents(&store) == expected, "{what}: after another open");
        step
    }
}

/// The number of keys that are there, ended ones included.
fn store_len(store: &KvStore) -> usize {
    store.len() as usize
}

fn differ(expected: &Model, found: &Model) -> String {
    let text = |key: &Vec<u8>| String::from_utf8_lossy(key).into_owned();
    let keys = expected.keys().chain(found.keys());
    let differing = keys.filter(|key| expected.get(*key) != found.get(*key));
    let mut names: Vec<_> = differing
        .map(|key| {
            format!(
                "{} {:?}/{:?}",
                text(key),
                expected.get(key).map(Vec::len),
                found.get(key).map(Vec::len)
            )
        })
        .collect();
    names.dedup();
    format!("lengths wanted and found of what differs: {names:?}")
}

/// Follows a replay and says how far the workload was.
struct Follow {
    replay: Replay,
    progress: Progress,
    /// The segments that hold what is not durable.
    dirty: std::collections::BTreeSet<u64>,
    logs: std::collections::BTreeSet<u64>,
    last: String,
}

impl Follow {
    fn new(disk: &SimFs) -> Follow {
        let (dirty, logs) = Default::default();
        let progress = Progress::default();
        Follow { replay: disk.replay(), progress, dirty, logs, last: String::new() }
    }

    fn advance(&mut self) -> bool {
        let Some(op) = self.replay.advance() else { return false };
        self.last = self.replay.describe(&op);
        match op {
            Op::Mark(mark) if mark % 2 == 0 => self.progress.begun = mark as usize / 2 + 1,
            Op::Mark(mark) => self.progress.acknowledged = mark as usize / 2 + 1,
            Op::Create(path, id) if path.extension().is_some_and(|e| e == "log") => {
                self.logs.insert(id);
            }
            Op::Write(id, ..) if self.logs.contains(&id) => drop(self.dirty.insert(id)),
            Op::Sync(id) => drop(self.dirty.remove(&id)),
            _ => {}
        }
        if self.dirty.is_empty() {
            self.progress.durable = self.progress.acknowledged;
        }
        true
    }
}

fn rounds() -> u64 {
    std::env::var("KVS_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn every_crash_point(fsync: Fsync, steps: usize) {
    for round in 0..rounds() {
        let seed = seed().wrapping_add(round * 2);
        let run = Run::new(seed, fsync, steps);
        let mut follow = Follow::new(&run.disk);
        let mut points = 0;
        while follow.advance() {
            points += 1;
            let (at, progress) = (follow.replay.at(), follow.progress);
            let mut losses = vec![Loss::Everything, Loss::Nothing];
            losses.extend((0..2).map(|i| Loss::Seeded(seed ^ (at as u64) << 8 ^ i)));
            for loss in losses {
                let what = format!(
                    "KVS_SEED={seed} {fsync:?}, operation {at} ({}), {loss:?}",
                    follow.last
                );
                run.check(&follow.replay.power_cut(loss), progress, true, &what);
            }
            let what =
                format!("KVS_SEED={seed} {fsync:?}, operation {at} ({}), killed", follow.last);
            run.check(&follow.replay.kill(), progress, false, &what);
        }
        println!("{fsync:?}: {points} crash points");
        assert_eq!(points, follow.replay.len());
    }
}

#[test]
fn with_fsync_always() {
    every_crash_point(Fsync::Always, 60);
}

#[test]
fn with_fsync_everysec() {
    every_crash_point(Fsync::EverySec, 60);
}

#[test]
fn with_fsync_no() {
    every_crash_point(Fsync::No, 60);
}
