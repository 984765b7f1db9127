//! A repair that stops at any operation, by a kill or a power cut, and is made again: what it leaves
//! is the same as if nothing had come between, no byte of what was damaged is gone, and what was lost
//! is told by the second one or stands in the report that the first one has left.
#![allow(clippy::unwrap_used)]

mod engine_support;
mod simfs;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use engine_support::care::records;
use engine_support::{Model, contents, seed};
use kvs::engine::check::Progress;
use kvs::engine::repair::{QUARANTINE, REPORT, Repaired, repair};
use kvs::engine::{Fsync, Options};
use simfs::{Loss, SimFs};

const DIR: &str = "/sim";
/// In how many ways each power cut loses what was not synced, beside all of it and nothing.
const SEEDS: u64 = 3;

fn options(disk: &SimFs) -> Options {
    Options::new(DIR).fs(disk.shared()).fsync(Fsync::Always).segment_bytes(4096).readers(1)
}

fn file(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A closed store of some segments, in which keys were overwritten and removed.
fn store() -> SimFs {
    let disk = SimFs::new();
    let store = options(&disk).open().unwrap();
    for round in 0..3 {
        for i in 0..25 {
            store.put(format!("key{i:02}"), format!("value{round}{}", "x".repeat(100))).unwrap();
        }
        store.delete(format!("key{round:02}")).unwrap();
    }
    drop(store);
    disk
}

fn logs(disk: &SimFs) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|path| path.extension().is_some_and(|found| found == "log"));
    assert!(paths.len() >= 3);
    paths
}

/// Flips a bit of a file, for good.
fn damage(disk: &SimFs, path: &Path, at: usize) {
    let mut bytes = disk.content(path).unwrap();
    bytes[at] ^= 0x10;
    disk.replace(path, Some(&bytes));
}

/// Damages the last byte of the newest record of a key; older ones are sound.
fn damage_newest(disk: &SimFs, key: &str) {
    let newest = logs(disk).into_iter().rev().find_map(|log| {
        let records = records(&disk.content(&log).unwrap());
        let place = records.into_iter().rfind(|(_, found)| found == key.as_bytes())?.0;
        Some((log, place.end as usize - 1))
    });
    let (log, at) = newest.unwrap();
    damage(disk, &log, at);
}

/// The keys that a repair has found to be lost, one a line.
fn describe(repaired: &Repaired) -> kvs::Result<String> {
    let names = repaired.found.lost().map(|gone| String::from_utf8_lossy(&gone.key).into_owned());
    Ok(names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n"))
}

fn mend(disk: &SimFs) -> kvs::Result<Repaired> {
    repair(&disk.shared(), Path::new(DIR), false, &Progress::default(), &describe)
}

/// The reports of repairs.
fn reports(disk: &SimFs) -> Vec<String> {
    let mut paths = disk.paths();
    paths.retain(|path| path.file_name().is_some_and(|name| name == REPORT));
    paths.iter().map(|path| String::from_utf8(disk.content(path).unwrap()).unwrap()).collect()
}

/// What a repair that nothing interrupts makes of it.
struct Expected {
    contents: Model,
    /// What goes aside.
    aside: Vec<Vec<u8>>,
    lost: String,
}

/// Repairs what an interrupted repair has left.
fn mend_again(left: &SimFs, expected: &Expected, what: &str) {
    let told_before = reports(left).contains(&expected.lost);
    let repaired = mend(left).unwrap_or_else(|error| panic!("{what}: {error}"));
    let after = repaired.after.as_ref().unwrap_or(&repaired.found);
    assert!(after.is_sound(), "{what}: {:?}", after.findings);
    if repaired.found.is_sound() {
        assert!(told_before, "{what}: nobody tells what was lost");
    } else {
        assert_eq!(describe(&repaired).unwrap(), expected.lost, "{what}");
    }
    let store = options(left).open().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(contents(&store) == expected.contents, "{what}");
    drop(store);
    let quarantine = Path::new(DIR).join(QUARANTINE);
    let mut kept = left.paths();
    kept.retain(|path| path.starts_with(&quarantine));
    let kept: Vec<_> = kept.iter().map(|path| left.content(path).unwrap()).collect();
    assert!(expected.aside.iter().all(|bytes| kept.contains(bytes)), "{what}: bytes are gone");
}

fn interrupt_everywhere(what: &str, damage: impl Fn(&SimFs)) {
    let damaged = store().kill();
    damage(&damaged);
    let reference = damaged.kill();
    let repaired = mend(&reference).unwrap();
    let lost = describe(&repaired).unwrap();
    let aside = repaired.aside.iter().map(|name| damaged.content(&file(name)).unwrap()).collect();
    let expected =
        Expected { contents: contents(&options(&reference).open().unwrap()), aside, lost };
    mend(&damaged).unwrap();
    let (mut replay, mut tried) = (damaged.replay(), 0);
    let seed = seed();
    while let Some(op) = replay.advance() {
        let place = format!("{what}, behind operation {}: {}", replay.at(), replay.describe(&op));
        let cut = replay.interrupted(30);
        let mut left = vec![("a kill".to_owned(), replay.kill())];
        left.extend(cut.map(|disk| ("a kill in the middle of it".to_owned(), disk)));
        let seeded = (0..SEEDS).map(|n| Loss::Seeded(seed + replay.at() as u64 * SEEDS + n));
        for loss in [Loss::Everything, Loss::Nothing].into_iter().chain(seeded) {
            left.push((format!("a power cut, {loss:?}"), replay.power_cut(loss)));
        }
        for (way, left) in left {
            mend_again(&left, &expected, &format!("{place}, {way}"));
            tried += 1;
        }
    }
    println!("{what}: {} operations, {tried} repairs were interrupted", replay.len());
    assert!(replay.len() > 20);
}

#[test]
fn a_repair_of_damaged_records_may_stop_anywhere() {
    interrupt_everywhere("records", |disk| {
        damage_newest(disk, "key07");
        damage_newest(disk, "key21");
    });
}

#[test]
fn a_repair_of_a_damaged_manifest_may_stop_anywhere() {
    interrupt_everywhere("the manifest", |disk| {
        damage(disk, &file("MANIFEST"), 20);
        damage_newest(disk, "key07");
    });
}

#[test]
fn a_repair_of_lost_files_may_stop_anywhere() {
    interrupt_everywhere("files", |disk| {
        let log = logs(disk).remove(1);
        disk.replace(&log, None);
        disk.replace(&file("MANIFEST"), None);
        damage(disk, &file("ENGINE"), 1);
    });
}
