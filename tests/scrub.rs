//! Damage is found in the background, before anyone asks for it.
#![allow(clippy::unwrap_used)]

mod engine_support;
mod simfs;

use std::sync::Arc;

use engine_support::care::{bytes_of, name, records, store};
use engine_support::faulty::Faulty;
use engine_support::{files, flip, until};
use kvs::engine::{Fsync, Options};
use kvs::stats::EngineStats;
use kvs::{KvStore, KvsError};
use simfs::SimFs;

/// Opens it with a scrub of so many bytes a second.
fn scrubbed(dir: &std::path::Path, rate: u64) -> (KvStore, Arc<EngineStats>) {
    let stats = Arc::new(EngineStats::default());
    let options = Options::new(dir).segment_bytes(32 * 1024).fsync(Fsync::No).scrub_rate(rate);
    let fs = Arc::new(Faulty::default());
    (options.fs(fs).stats(Arc::clone(&stats)).open().unwrap(), stats)
}

#[test]
fn a_sound_store_is_read_as_a_whole() {
    let dir = store();
    let closed: u64 = files(dir.path(), "log")
        .iter()
        .rev()
        .skip(1)
        .map(|log| log.metadata().unwrap().len())
        .sum();
    let (store, stats) = scrubbed(dir.path(), 1 << 30);
    until("all was read", || stats.scrub_rounds.get() == 1);
    let headers = (files(dir.path(), "log").len() as u64 - 1) * 40;
    assert_eq!((stats.scrub_bytes.get(), stats.scrub_damaged.get()), (closed - headers, 0));
    drop(store);
}

#[test]
fn damage_is_found_counted_once_and_kept_from_compaction() {
    let dir = store();
    let log = files(dir.path(), "log").remove(1);
    let (range, key) = records(&std::fs::read(&log).unwrap()).remove(3);
    let key = String::from_utf8(key).unwrap();
    flip(&log, range.end as usize - 1);
    let damaged = bytes_of(dir.path())[&log].clone();
    // With its hint the open does not read the segment.
    let (store, stats) = scrubbed(dir.path(), 1 << 30);
    assert_eq!(stats.damaged_ranges.get(), 0);
    until("the damage is found", || stats.scrub_damaged.get() == 1);
    until("the round is over", || stats.scrub_rounds.get() == 1);
    store.compact().unwrap();
    assert_eq!(std::fs::read(&log).unwrap(), damaged, "{} was merged", name(&log));
    assert!(matches!(store.read(&key), Err(KvsError::Damaged { file, .. }) if file == log));
    assert!(store.read("late29").unwrap().is_some());
    assert_eq!(stats.scrub_damaged.get(), 1);
}

/// At a byte a second a step takes days: the close does not wait for it.
#[test]
fn a_close_does_not_wait_for_the_scrub() {
    let dir = store();
    let (store, stats) = scrubbed(dir.path(), 1);
    until("it has begun", || stats.scrub_bytes.get() > 0);
    drop(store);
    assert_eq!(stats.scrub_rounds.get(), 0);
}

/// What is merged while the scrub reads another segment takes no room until its round is over, which is
/// never here.
#[test]
fn the_scrub_keeps_no_segment_but_the_one_it_reads() {
    let (disk, stats) = (SimFs::new(), Arc::new(EngineStats::default()));
    let options = Options::new("/sim").segment_bytes(32 * 1024).fsync(Fsync::No).fs(disk.shared());
    let fill = |store: &KvStore| {
        (0..400).for_each(|i| store.put(format!("key{i:03}"), vec![b'v'; 2000]).unwrap());
    };
    fill(&options.clone().open().unwrap());
    let full = disk.used();
    let store = options.scrub_rate(1).stats(Arc::clone(&stats)).open().unwrap();
    until("it has begun", || stats.scrub_bytes.get() > 0);
    fill(&store);
    // Twice as much if it were kept; a hint takes less than a tenth of its segment.
    until("what was merged is gone", || store.compact().is_ok() && disk.used() < full * 3 / 2);
    assert_eq!(stats.scrub_rounds.get(), 0);
}
