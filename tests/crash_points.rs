//! Every crash point of a workload. One run of it leaves the journal of all that it did to a
//! simulated disk (tests/simfs); then, for each operation of that journal, the machine stops right
//! behind it: the process is killed, or the power goes and takes what was not synced, in several
//! ways. What is found at the next open must be a moment of the workload's history, one that holds
//! all that was acknowledged (with `everysec` and `no`, after a power cut: all that was durable).
//! Of some crash points, each operation of the open after them is a crash point again.
//!
//! More rounds: `KVS_CRASH_ROUNDS=50 cargo test --release --test crash_points`. A failure prints
//! the seed, the operation and the way.

#![allow(clippy::unwrap_used)]

mod engine_support;
mod simfs;
#[path = "simfs/workload.rs"]
mod workload;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use engine_support::{Model, Random, seed};
use kvs::KvStore;
use kvs::engine::{Batch, Fsync};
use kvs::stats::EngineStats;
use simfs::{Loss, Op, Replay, SimFs};
use workload::{Step, backup, contents, options, options_in};

/// Of how many crash points one has its recovery crash, too.
const SAMPLE: usize = 12;

// The marks that a run leaves in the journal.
fn begun(units: usize) -> u64 {
    2 * units as u64
}

fn acknowledged(units: usize) -> u64 {
    2 * units as u64 + 1
}

/// This and larger ones: so many backups are made.
const BACKED_UP: u64 = 1 << 32;

/// How many units were begun and how many acknowledged at a point of the journal, and how many were
/// when everything in the segments was last durable.
#[derive(Default, Clone, Copy, Debug)]
struct Progress {
    begun: usize,
    acknowledged: usize,
    durable: usize,
    backups: usize,
}

/// Goes through a journal and says how far its units were.
struct Follow {
    replay: Replay,
    progress: Progress,
    any_mark: bool,
    logs: BTreeSet<u64>,
    /// The segments that hold what is not durable.
    dirty: BTreeSet<u64>,
    last: String,
}

impl Follow {
    fn new(disk: &SimFs) -> Follow {
        let (progress, last) = (Progress::default(), String::new());
        let (logs, dirty) = Default::default();
        Follow { replay: disk.replay(), progress, any_mark: false, logs, dirty, last }
    }

    fn advance(&mut self) -> bool {
        let Some(op) = self.replay.advance() else { return false };
        self.last = self.replay.describe(&op);
        match op {
            Op::Mark(mark) if mark >= BACKED_UP => {
                self.progress.backups = (mark - BACKED_UP) as usize;
            }
            Op::Mark(mark) => {
                self.any_mark = true;
                let units = mark as usize / 2;
                self.progress.begun = self.progress.begun.max(units);
                if mark % 2 == 1 {
                    self.progress.acknowledged = units;
                }
            }
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

/// A run of the workload: the contents after each unit, and the disk it ran on.
struct Run {
    fsync: Fsync,
    disk: SimFs,
    /// The contents before the first unit, and after each.
    states: Vec<Model>,
    /// Where each backup was put, and the state that it is of.
    backups: Vec<(PathBuf, usize)>,
}

impl Run {
    fn new(seed: u64, fsync: Fsync, steps: usize) -> Run {
        let (disk, mut states, mut random) = (SimFs::new(), vec![Model::new()], Random(seed));
        let open = || options(&disk, fsync).open();
        let (mut store, mut backups) = (Some(open().unwrap()), Vec::new());
        for _ in 0..steps {
            let step = Step::random(&mut random);
            states.extend(step.leads_to(&states[states.len() - 1]));
            if let Step::Backup(number) = step {
                backups.push((backup(number), states.len() - 1));
            }
            disk.mark(begun(states.len() - 1));
            step.take(&mut store, open).unwrap();
            disk.mark(acknowledged(states.len() - 1));
            disk.mark(BACKED_UP + backups.len() as u64);
        }
        assert!(contents(store.as_ref().unwrap()) == states[states.len() - 1], "without any crash");
        drop(store);
        Run { fsync, disk, states, backups }
    }

    /// What may be found after a crash, as a range of states.
    fn allowed(&self, progress: Progress, power_cut: bool) -> RangeInclusive<usize> {
        let kept = !power_cut || self.fsync == Fsync::Always;
        (if kept { progress.acknowledged } else { progress.durable })..=progress.begun
    }

    fn open(&self, disk: &SimFs, what: &str) -> (KvStore, Model) {
        let stats = Arc::new(EngineStats::default());
        let store = options(disk, self.fsync).stats(Arc::clone(&stats)).open();
        let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = contents(&store);
        assert_eq!(stats.damaged_ranges.get(), 0, "{what}: taken for damage");
        (store, found)
    }

    /// Which of the allowed states was found, the last one if some are the same.
    fn find(&self, found: &Model, allowed: &RangeInclusive<usize>, what: &str) -> usize {
        let step = allowed.clone().rev().find(|step| self.states[*step] == *found);
        step.unwrap_or_else(|| {
            let anywhen = self.states.iter().rposition(|state| state == found);
            let wanted = differ(&self.states[*allowed.end()], found);
            panic!("{what}: found state {anywhen:?}, allowed {allowed:?}; {wanted}")
        })
    }

    /// The last backup that was made is there; of one that was not done, all or nothing. It is complete,
    /// and to write to it changes nothing in the store.
    fn check_backups(&self, disk: &SimFs, done: usize, what: &str) {
        let paths = disk.paths();
        let last = done.saturating_sub(1);
        for (i, (dir, state)) in self.backups.iter().enumerate().skip(last).take(2) {
            if !paths.iter().any(|path| path.parent() == Some(dir)) {
                assert!(i >= done, "{what}: {} is gone", dir.display());
                continue;
            }
            let what = format!("{what}, {}", dir.display());
            let open = || options_in(dir, disk, self.fsync).open();
            let store = open().unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = contents(&store);
            assert!(
                found == self.states[*state],
                "{what}: {}",
                differ(&self.states[*state], &found)
            );
            store.put("written", "to the backup").unwrap();
        }
    }

    /// Opens what a crash has left, which must be one of the allowed states; which, it returns.
    /// Writes and opens again.
    fn check(&self, disk: &SimFs, allowed: &RangeInclusive<usize>, what: &str) -> usize {
        let (store, found) = self.open(disk, what);
        let state = self.find(&found, allowed, what);
        disk.mark(acknowledged(0));
        disk.mark(begun(1));
        store.put("after", "the crash").unwrap();
        disk.mark(acknowledged(1));
        disk.mark(begun(2));
        let mut batch = Batch::new();
        batch.put("after1", "it").delete("after").put("after2", "it");
        store.write(batch).unwrap();
        disk.mark(acknowledged(2));
        drop(store);
        let (_store, found) = self.open(&disk.kill(), what);
        assert!(found == after_writes(&self.states[state])[2], "{what}: after another open");
        state
    }

    /// A second crash at each operation of what [`Run::check`] did with `disk`, where it found
    /// `state`. Allowed are the same states as after the first one, for a kill and for a power cut.
    fn check_second_crash(
        &self,
        disk: &SimFs,
        state: usize,
        (kill, cut): (&RangeInclusive<usize>, &RangeInclusive<usize>),
        what: &str,
    ) {
        let after = after_writes(&self.states[state]);
        let mut follow = Follow::new(disk);
        while follow.advance() {
            let at = follow.replay.at();
            let (second, is_cut) = match at % 3 {
                0 => (follow.replay.kill(), false),
                1 => (follow.replay.power_cut(Loss::Everything), true),
                _ => (follow.replay.power_cut(Loss::Seeded(at as u64)), true),
            };
            let what = format!("{what}, then operation {at} ({}), cut: {is_cut}", follow.last);
            let (_store, found) = self.open(&second, &what);
            // What was read or acknowledged between the crashes stays, as far as the policy says.
            let kept = !is_cut || self.fsync == Fsync::Always;
            let from = if kept { follow.progress.acknowledged } else { 0 };
            let is_after = after[from..=follow.progress.begun].contains(&found);
            if !is_after && (!kept || !follow.any_mark) {
                self.find(&found, if is_cut { cut } else { kill }, &what);
            } else {
                assert!(is_after, "{what}: {}", differ(&after[from], &found));
            }
        }
    }
}

/// What a checked store has, and has after each of the writes to it.
fn after_writes(state: &Model) -> [Model; 3] {
    let (mut put, mut batch) = (state.clone(), state.clone());
    put.insert(b"after".into(), b"the crash".into());
    batch.insert(b"after1".into(), b"it".into());
    batch.insert(b"after2".into(), b"it".into());
    [state.clone(), put, batch]
}

fn differ(wanted: &Model, found: &Model) -> String {
    let keys: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
    let lens = |key: &Vec<u8>| (wanted.get(key).map(Vec::len), found.get(key).map(Vec::len));
    let differing = keys.into_iter().filter(|key| wanted.get(*key) != found.get(*key));
    let named = differing.map(|key| format!("{} {:?}", String::from_utf8_lossy(key), lens(key)));
    format!("lengths wanted and found: {}", named.collect::<Vec<_>>().join(", "))
}

fn every_crash_point(fsync: Fsync, steps: usize) {
    let rounds = std::env::var("KVS_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for round in 0..rounds {
        let seed = seed().wrapping_add(2 * round);
        let run = Run::new(seed, fsync, steps);
        let mut follow = Follow::new(&run.disk);
        while follow.advance() {
            let (at, replay) = (follow.replay.at(), &follow.replay);
            let what = |how: &str| {
                format!("KVS_SEED={seed} {fsync:?}, operation {at} ({}), {how}", follow.last)
            };
            let mut losses = vec![Loss::Everything, Loss::Nothing];
            losses.extend((0..2).map(|i| Loss::Seeded(seed ^ (at as u64) << 8 ^ i)));
            let mut stops: Vec<(SimFs, bool, String)> = losses
                .into_iter()
                .map(|loss| (replay.power_cut(loss), true, what(&format!("{loss:?}"))))
                .collect();
            stops.push((replay.kill(), false, what("killed")));
            let part = replay.interrupted(at * 7 % 100);
            stops.extend(part.map(|disk| (disk, false, what("killed in its middle"))));
            for (i, (disk, power_cut, what)) in stops.iter().enumerate() {
                run.check_backups(disk, follow.progress.backups, what);
                let allowed = run.allowed(follow.progress, *power_cut);
                let state = run.check(disk, &allowed, what);
                if (at + i) % SAMPLE == 0 {
                    let after_cut = run.allowed(follow.progress, true);
                    run.check_second_crash(disk, state, (&allowed, &after_cut), what);
                }
            }
        }
        println!("{fsync:?}: {} crash points", follow.replay.at());
    }
}

#[test]
fn with_fsync_always() {
    every_crash_point(Fsync::Always, 45);
}

#[test]
fn with_fsync_everysec() {
    every_crash_point(Fsync::EverySec, 32);
}

#[test]
fn with_fsync_no() {
    every_crash_point(Fsync::No, 32);
}
