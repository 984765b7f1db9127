//! A whole store on a simulated disk that fails, fills up and loses its power, against a `BTreeMap`.
//!
//! What must hold: what was acknowledged is there, after whatever happens; what was refused for want
//! of space is not; a write that failed otherwise is there as a whole or not at all, and no write
//! follows it before the next open. A disk that was never damaged has no damage.

#[path = "../../tests/engine_support/mod.rs"]
pub mod engine_support;
#[path = "../../tests/simfs/mod.rs"]
mod simfs;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine_support::{Model, contents};
use kvs::engine::{Batch, Fsync, Options};
use kvs::stats::EngineStats;
use kvs::{KvStore, KvsError, Result};
use simfs::{Fault, Kind, Loss, SimFs};

use super::input::Input;

/// One run does no more than so many operations.
const MOST: usize = 120;
/// When a record ends that shall not end, in milliseconds since 1970.
const FAR: u64 = 4_000_000_000_000;

/// Operations on a store, as the bytes say.
pub fn store(data: &[u8]) {
    let mut input = Input(data);
    let mut run = Run::new();
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
    }
    run.reopen();
}

struct Run {
    disk: SimFs,
    store: Option<KvStore>,
    model: Model,
    /// What it holds instead if the write that failed did happen.
    doubtful: Option<Model>,
    /// A sync failed since the machine started.
    sync_failed: Arc<AtomicBool>,
    backups: usize,
}

fn open(disk: &SimFs) -> Result<(KvStore, Arc<EngineStats>)> {
    open_in("/sim", disk)
}

fn open_in(dir: &str, disk: &SimFs) -> Result<(KvStore, Arc<EngineStats>)> {
    let stats = Arc::new(EngineStats::default());
    let options = Options::new(dir).fs(disk.shared()).segment_bytes(4096).readers(1);
    let store = options.fsync(Fsync::Always).stats(Arc::clone(&stats)).open()?;
    Ok((store, stats))
}

fn key(input: &mut Input<'_>) -> Vec<u8> {
    format!("key{:02}", input.below(24)).into_bytes()
}

/// Values that tell which write they are of.
fn value(input: &mut Input<'_>) -> Vec<u8> {
    let (tag, len) = (input.byte(), usize::from(input.byte()));
    vec![tag; if len > 250 { 1500 } else { len }]
}

impl Run {
    fn new() -> Run {
        let disk = SimFs::new();
        let store = Some(open(&disk).unwrap().0);
        let (model, sync_failed) = (Model::new(), Arc::default());
        Run { disk, store, model, doubtful: None, sync_failed, backups: 0 }
    }

    fn store(&self) -> &KvStore {
        self.store.as_ref().unwrap()
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(33) {
            0..=7 => {
                let (key, value) = (key(input), value(input));
                let put = (key.clone(), value.clone());
                self.write(|store| store.put(put.0, put.1), |model| drop(model.insert(key, value)));
            }
            8..=10 => {
                let key = key(input);
                let there = self.model.contains_key(&key);
                let name = key.clone();
                let delete = |store: &KvStore| store.delete(name).map(|was| assert_eq!(was, there));
                self.write(delete, |model| drop(model.remove(&key)));
            }
            11..=15 => self.batch(input),
            16..=17 => {
                // Every other one has ended already.
                let (key, value, ended) = (key(input), value(input), input.byte() & 1 != 0);
                let (at, put) = (if ended { 1 } else { FAR }, (key.clone(), value.clone()));
                let put =
                    |store: &KvStore| store.update(move |txn| txn.put(0, &put.0, &put.1, Some(at)));
                self.write(put, |model| {
                    model.remove(&key);
                    if !ended {
                        model.insert(key, value);
                    }
                });
            }
            18 => self.write(|store| store.clear(), Model::clear),
            19..=20 => drop(self.store().compact()),
            21..=22 => {
                let key = key(input);
                if let Ok(found) = self.store().read(&key) {
                    assert_eq!(found.as_ref(), self.model.get(&key), "a read");
                }
            }
            23 => self.disk.heal(),
            24..=25 => self.fail(input),
            26 => {
                let room = self.disk.used() + u64::from(input.byte()) * 256;
                self.disk.set_capacity((input.byte() & 1 != 0).then_some(room));
            }
            27 => self.reopen(),
            28 => {
                // An open that fails changes nothing.
                self.store = None;
                self.fail(input);
                drop(open(&self.disk));
                self.reopen();
            }
            29 if self.sync_failed.load(Ordering::Relaxed) => {}
            29 => self.crash(|disk| disk.kill()),
            30 => self.backup(),
            _ => {
                let loss = match input.byte() {
                    0 => Loss::Nothing,
                    1 => Loss::Everything,
                    seed => Loss::Seeded(u64::from(seed)),
                };
                self.crash(|disk| disk.power_cut(loss));
            }
        }
    }

    /// What has the name of a backup is complete, whether or not it was told so.
    fn backup(&mut self) {
        self.backups += 1;
        let dir = format!("/backups/{}", self.backups);
        let made = self.store().backup(&dir);
        let disk = self.disk.kill();
        if made.is_ok() || disk.paths().iter().any(|path| path.starts_with(&dir)) {
            let (copied, stats) = open_in(&dir, &disk).expect("the backup opens");
            assert_eq!(stats.damaged_ranges.get(), 0, "a damaged backup");
            let found = contents(&copied);
            assert!(found == self.model, "a backup: {}", differ(&self.model, &found));
        }
    }

    fn batch(&mut self, input: &mut Input<'_>) {
        let (mut batch, mut changes) = (Batch::new(), Vec::new());
        for _ in 0..2 + input.below(6) {
            let key = key(input);
            let value = (input.byte() & 3 != 0).then(|| value(input));
            match &value {
                Some(value) => batch.put(key.clone(), value.clone()),
                None => batch.delete(key.clone()),
            };
            changes.push((key, value));
        }
        self.write(
            |store| store.write(batch),
            |model| {
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(model.insert(key, value)),
                        None => drop(model.remove(&key)),
                    }
                }
            },
        );
    }

    fn write(
        &mut self,
        write: impl FnOnce(&KvStore) -> Result<()>,
        change: impl FnOnce(&mut Model),
    ) {
        let healthy = self.store().reader().health().is_ok();
        let outcome = write(self.store());
        let mut changed = self.model.clone();
        change(&mut changed);
        match outcome {
            Ok(()) => {
                let nothing_to_write = changed == self.model;
                assert!(healthy || nothing_to_write, "it writes again after a failure");
                self.model = changed;
            }
            // Never begun, or undone.
            Err(KvsError::NoSpace) if self.store().reader().health().is_ok() => {}
            Err(_) if healthy => self.doubtful = Some(changed),
            Err(_) => {}
        }
    }

    /// Some of the next operations fail.
    fn fail(&mut self, input: &mut Input<'_>) {
        let kinds = [
            Kind::Write,
            Kind::Write,
            Kind::Sync,
            Kind::Create,
            Kind::SetLen,
            Kind::SyncDir,
            Kind::Rename,
            Kind::Remove,
            Kind::Open,
            Kind::Read,
            Kind::Map,
            Kind::ReadFile,
        ];
        let kind = kinds[input.below(kinds.len())];
        let fault = match input.below(5) {
            0 => Fault::Io,
            1 => Fault::Error(ErrorKind::StorageFull),
            2 => Fault::Error(ErrorKind::Interrupted),
            _ => Fault::Short(1 + input.below(40)),
        };
        // Nothing that is interrupted, or short, for ever comes to an end.
        let mut spared = input.below(12);
        let mut times = if fault == Fault::Io { usize::MAX } else { 1 + input.below(8) };
        let failed = Arc::clone(&self.sync_failed);
        self.disk.fail(move |call| {
            if call.kind != kind || times == 0 {
                return None;
            }
            if spared > 0 {
                spared -= 1;
                return None;
            }
            times -= 1;
            failed.fetch_or(matches!(kind, Kind::Sync | Kind::SyncDir), Ordering::Relaxed);
            Some(fault)
        });
    }

    /// The machine stops and starts again.
    fn crash(&mut self, left: impl FnOnce(&SimFs) -> SimFs) {
        let disk = left(&self.disk);
        self.disk.power_off();
        self.store = None;
        self.disk = disk;
        self.sync_failed = Arc::default();
        self.reopen();
    }

    /// Opens what is there, without faults, and compares.
    fn reopen(&mut self) {
        self.store = None;
        if self.sync_failed.load(Ordering::Relaxed) {
            // The kernel shows what it will never write any more: only a restart of the machine
            // tells what is there.
            return self.crash(|disk| disk.power_cut(Loss::Seeded(7)));
        }
        self.disk.heal();
        self.disk.set_capacity(None);
        let (store, stats) = open(&self.disk).expect("it opens");
        assert_eq!(stats.damaged_ranges.get(), 0, "taken for damage");
        let found = contents(&store);
        if let Some(doubtful) = self.doubtful.take()
            && doubtful == found
        {
            self.model = doubtful;
        }
        assert!(found == self.model, "{}", differ(&self.model, &found));
        assert!(store.reader().health().is_ok(), "unhealthy from the start");
        self.store = Some(store);
    }
}

fn differ(model: &Model, found: &Model) -> String {
    let keys = model.keys().chain(found.keys());
    let differing = keys.filter(|key| model.get(*key) != found.get(*key));
    let tell = |value: Option<&Vec<u8>>| value.map(|value| (value.first().copied(), value.len()));
    let text = |key: &Vec<u8>| {
        let name = String::from_utf8_lossy(key);
        format!("{name}: should be {:?}, is {:?}", tell(model.get(key)), tell(found.get(key)))
    };
    differing.map(text).collect::<Vec<_>>().join("; ")
}
