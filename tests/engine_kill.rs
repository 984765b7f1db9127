//! Real processes: killed in the middle of writes, and two at one directory.
//!
//! This test binary starts itself again as the other process: the ignored test `other_process` does
//! what KVS_TEST_ROLE says.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine_support::{Random, contents, copy_dir, seed};
use kvs::config::EngineKind;
use kvs::engine::{Batch, Fsync, Options, name_engine};
use kvs::stats::EngineStats;
use kvs::{KvStore, KvsError};

const WRITERS: u64 = 4;

fn options(dir: &Path) -> Options {
    Options::new(dir).segment_bytes(32 * 1024)
}

#[test]
#[ignore = "the other process of the tests in this file"]
fn other_process() {
    let Ok(role) = std::env::var("KVS_TEST_ROLE") else { return };
    let dir = std::env::var_os("KVS_TEST_DIR").unwrap();
    let fsync = if role == "write-unsynced" { Fsync::No } else { Fsync::Always };
    let store = options(dir.as_ref()).fsync(fsync).open().unwrap();
    println!("\nready");
    if role == "hold" {
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = store.clone();
            scope.spawn(move || write_for_ever(&store, writer));
        }
    });
}

/// Counts up in a key of its own, in two keys at once, and in keys that come and go; tells each
/// number once it is acknowledged.
fn write_for_ever(store: &KvStore, writer: u64) {
    for n in 1u64.. {
        store.put(format!("count{writer}"), n.to_string()).unwrap();
        let (mut batch, number) = (Batch::new(), n.to_string());
        batch.put(format!("left{writer}"), number.clone());
        batch.put(format!("fill{writer}-{}", n % 20), vec![b'x'; 300]);
        batch.put(format!("right{writer}"), number);
        store.write(batch).unwrap();
        store.put(format!("gone{writer}-{n}"), "here").unwrap();
        store.delete(format!("gone{writer}-{n}")).unwrap();
        let line = format!("{writer} {n}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

fn other(role: &str, dir: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "other_process", "--nocapture"])
        .envs([("KVS_TEST_ROLE", role)])
        .env("KVS_TEST_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the other process ended");
    }
    (child, lines)
}

fn number(store: &KvStore, key: &str) -> u64 {
    let value = store.read(key).unwrap();
    value.map_or(0, |value| String::from_utf8(value).unwrap().parse().unwrap())
}

fn check_counts(store: &KvStore, at_least: &[u64]) {
    for (writer, told) in at_least.iter().enumerate() {
        let count = number(store, &format!("count{writer}"));
        let (left, right) = ("left", "right");
        let (left, right) =
            (number(store, &format!("{left}{writer}")), number(store, &format!("{right}{writer}")));
        assert!(count >= *told, "writer {writer}: {count}, but {told} was acknowledged");
        assert_eq!(left, right, "writer {writer}: half of a batch");
        assert!(left == count || left + 1 == count, "writer {writer}: {count}, then {left}");
        // A key that was removed before the last acknowledged step is gone.
        let gone: Vec<_> = store.prefix(format!("gone{writer}-")).map(Result::unwrap).collect();
        assert!(gone.len() <= 1, "writer {writer}: {gone:?} came back");
        assert!(gone.iter().all(|(key, _)| *key == format!("gone{writer}-{count}").into_bytes()));
    }
}

/// SIGKILL after some acknowledgements, again and again at the same directory.
fn killed_again_and_again(role: &str, rounds: usize) {
    let mut random = Random(seed());
    let dir = tempfile::tempdir().unwrap();
    let mut told = [0u64; WRITERS as usize];
    for round in 0..rounds {
        let (mut child, lines) = other(role, dir.path());
        let before_kill = 50 + random.below(800) as usize;
        let mut child_killed = false;
        let mut first = [true; WRITERS as usize];
        for (i, line) in lines.lines().map_while(Result::ok).enumerate() {
            let numbers = line.split_once(' ').and_then(|(writer, n)| {
                Some((writer.parse::<usize>().ok()?, n.parse::<u64>().ok()?))
            });
            // The last line may be cut off in its middle.
            if let Some((writer, n)) = numbers.filter(|(writer, _)| *writer < told.len()) {
                let restarted = std::mem::take(&mut first[writer]);
                let follows = restarted || n == told[writer] + 1;
                told[writer] = if follows { n } else { told[writer] };
            }
            if i == before_kill {
                child.kill().unwrap();
                child_killed = true;
            }
        }
        assert!(child_killed, "round {round}: the other process ended by itself");
        child.wait().unwrap();
        let stats = Arc::new(EngineStats::default());
        let store = options(dir.path()).stats(Arc::clone(&stats)).open().unwrap();
        check_counts(&store, &told);
        assert_eq!(stats.damaged_ranges.get(), 0);
        let kept = contents(&store);
        drop(store);
        let store = options(dir.path()).open().unwrap();
        assert_eq!(contents(&store), kept, "a second open finds the same");
        store.clear().unwrap();
        told = [0; WRITERS as usize];
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    killed_again_and_again("write", 4);
}

#[test]
fn a_kill_loses_nothing_without_syncs_either() {
    killed_again_and_again("write-unsynced", 6);
}

/// A copy that is taken file by file has the files of different moments: the manifest first, so
/// that what it lists may be gone. What can be opened has whole batches, none of them too new.
#[test]
fn a_copy_of_a_store_that_is_written_to_is_refused_or_sound() {
    let dir = tempfile::tempdir().unwrap();
    let store = options(dir.path()).fsync(Fsync::No).open().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (store, stop) = (store.clone(), &stop);
            scope.spawn(move || {
                for n in 1u64.. {
                    let mut batch = Batch::new();
                    batch.put(format!("left{writer}"), n.to_string());
                    batch.put(format!("right{writer}"), n.to_string());
                    store.write(batch).unwrap();
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let copies: Vec<_> = (0..40).map(|_| copy_dir(dir.path())).collect();
        stop.store(true, Ordering::Relaxed);
        let mut opened = 0;
        for copy in copies {
            let Ok(copy) = options(copy.path()).fsync(Fsync::No).open() else { continue };
            opened += 1;
            for writer in 0..2 {
                let (left, right) = (format!("left{writer}"), format!("right{writer}"));
                assert_eq!(number(&copy, &left), number(&copy, &right), "half of a batch");
            }
        }
        assert!(opened > 0);
    });
}

#[test]
fn a_second_process_waits_and_is_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, _lines) = other("hold", dir.path());
    let began = std::time::Instant::now();
    let wait = Duration::from_millis(150);
    let error = options(dir.path()).lock_wait(wait).open().unwrap_err();
    assert!(began.elapsed() >= wait, "it did not wait");
    assert!(matches!(error, KvsError::Locked { pid: Some(pid), .. } if pid == child.id()));
    assert!(error.to_string().contains(&child.id().to_string()), "{error}");
    // While it waits, the holder goes: then it has the directory.
    let path = dir.path().to_owned();
    let second = std::thread::spawn(move || {
        options(&path).lock_wait(Duration::from_secs(20)).open().map(drop)
    });
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    second.join().unwrap().unwrap();
    child.wait().unwrap();
    // In one process too.
    let store = KvStore::open(dir.path()).unwrap();
    let error = options(dir.path()).lock_wait(Duration::ZERO).open().unwrap_err();
    assert!(matches!(error, KvsError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    drop(store);
}

#[test]
fn another_engines_directory_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    name_engine(&kvs::engine::fs::OsFs, dir.path(), EngineKind::Memory).unwrap();
    let message = KvStore::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("'memory'") && message.contains("'kvs'"), "{message}");
    assert!(!dir.path().join("MANIFEST").exists());
    assert_eq!(std::fs::read_to_string(dir.path().join("ENGINE")).unwrap(), "memory\n");
}
