//! A disk that fails: what the store and the server do, and what is there afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod engine_support;
mod serving;
mod simfs;
#[path = "simfs/workload.rs"]
mod workload;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine_support::{Model, Random, seed, until};
use kvs::client::Client;
use kvs::engine::{Fsync, Options};
use kvs::protocol::Value;
use kvs::{KvStore, KvsError};
use serving::{Running, error, info};
use simfs::{Call, Fault, Kind, Loss, SimFs};
use workload::{DIR, Step, contents, options};

fn refuses_writes(store: &KvStore) -> bool {
    store.reader().health().is_err()
}

/// Runs the workload until something fails. What it leaves must be what was acknowledged: while the
/// store is open, after a kill, and after a power cut in the process that comes then.
fn run_with_a_fault(
    seed: u64,
    what: &str,
    is_it: impl FnMut(&Call<'_>) -> Option<Fault> + Send + 'static,
) {
    let (disk, mut random) = (SimFs::new(), Random(seed));
    let open = || options(&disk, Fsync::Always).open();
    let mut store = Some(open().unwrap());
    let mut model = Model::new();
    disk.fail(is_it);
    for i in 0..40 {
        // Some of each, whatever the seed.
        let step = match i % 13 {
            4 => Step::Compact,
            7 => Step::Backup(i),
            11 => Step::Reopen,
            _ => Step::random(&mut random),
        };
        let reopens = matches!(step, Step::Reopen);
        let after = step.leads_to(&model).pop().unwrap_or_else(|| model.clone());
        let removed = step.removals(&model);
        let outcome = step.take(&mut store, open);
        match &outcome {
            Ok(()) => model = after,
            Err(error) => {
                let Some(store) = &store else { break };
                // On a full disk, what only removes is done all the same.
                if matches!(error, KvsError::NoSpace) && contents(store) == removed {
                    model = removed;
                }
                assert!(contents(store) == model, "{what}: after {error}");
                // Whatever fails in the background may be tried again; in a commit, nothing is.
                if refuses_writes(store) {
                    let refused = store.put("more", "of it");
                    assert!(
                        matches!(refused, Err(KvsError::Poisoned { .. })),
                        "{what}: {refused:?}"
                    );
                    assert!(contents(store) == model, "{what}: after a refused write");
                    break;
                }
            }
        }
        assert!(outcome.is_ok() || !reopens || store.is_none());
    }
    disk.heal();
    drop(store);
    let killed = disk.kill();
    let store = options(&killed, Fsync::Always).open().unwrap();
    assert!(contents(&store) == model, "{what}: after a kill");
    let cut = killed.power_cut(Loss::Everything);
    drop(store);
    let store = options(&cut, Fsync::Always).open().unwrap();
    let found = contents(&store);
    assert!(found == model, "{what}: after a power cut: {:?} {:?}", found.keys(), model.keys());
    store.put("after", "it").unwrap();
}

/// What a failed sync was about stays lost; it came back over what was written there later.
#[test]
fn on_the_simulated_disk_too_the_last_write_holds() {
    use kvs::engine::fs::Fs;
    let disk = SimFs::new();
    let path = std::path::Path::new("/file");
    let file = disk.create(path).unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
    disk.fail(|call| (call.kind == Kind::Sync).then_some(Fault::Io));
    file.write_all_at(b"failed", 1).unwrap();
    file.sync_data().unwrap_err();
    disk.heal();
    file.write_all_at(b"xyz", 3).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.kill().read(path).unwrap(), b"\0faxyzd");
    assert_eq!(disk.power_cut(Loss::Everything).read(path).unwrap(), b"\0\0\0xyz");
    file.set_len(2).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.kill().read(path).unwrap(), b"\0f");
}

/// One failure for each operation of this kind in turn, of which there are so many at least.
fn each(kind: Kind, least: usize, fault: impl Fn(usize) -> Option<Fault> + Copy + Send + 'static) {
    let seed = seed();
    for n in 0.. {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let what = format!("KVS_SEED={seed}, {kind:?} {n}");
        run_with_a_fault(seed, &what, move |call| {
            if call.kind != kind {
                return None;
            }
            // What comes right behind the failing one may be another try at the rest.
            let i = counter.fetch_add(1, Ordering::Relaxed);
            i.checked_sub(n).and_then(fault)
        });
        if count.load(Ordering::Relaxed) <= n {
            println!("{kind:?}: {n} of them failed");
            assert!(n >= least);
            return;
        }
    }
}

#[test]
fn a_failed_sync_fails_every_waiter_and_is_final() {
    each(Kind::Sync, 20, |i| (i == 0).then_some(Fault::Io));
}

#[test]
fn a_failed_write_leaves_no_trace() {
    each(Kind::Write, 20, |i| match i {
        0 => Some(Fault::Short(30)),
        1 => Some(Fault::Io),
        _ => None,
    });
}

/// All that changes names, lengths and maps.
#[test]
fn whatever_else_fails_loses_nothing() {
    let kinds = [
        (Kind::Create, 10),
        (Kind::Open, 1),
        (Kind::Rename, 2),
        (Kind::HardLink, 2),
        (Kind::Remove, 5),
        (Kind::CreateDir, 1),
        (Kind::SyncDir, 10),
        (Kind::SetLen, 5),
        (Kind::List, 1),
        (Kind::Map, 10),
    ];
    for (kind, least) in kinds {
        each(kind, least, |i| (i == 0).then_some(Fault::Io));
        if matches!(kind, Kind::Create | Kind::Rename | Kind::HardLink | Kind::SetLen) {
            each(kind, least, |i| (i == 0).then_some(Fault::Error(ErrorKind::StorageFull)));
        }
    }
}

/// What is left is cut off behind its last record. Where that failed, the part of the group that was
/// in there already stayed, to be found by the next open; and the new segment was filled as far as the
/// old one could be.
#[test]
fn a_segment_that_cannot_be_cut_off_keeps_no_part_of_a_failed_group() {
    for (before, changes) in [(3000, vec![200, 2000]), (50_000, vec![2000])] {
        let disk = SimFs::new();
        let open = || options(&disk, Fsync::Always).open();
        let mut store = Some(open().unwrap());
        store.as_ref().unwrap().put("before", vec![b'v'; before]).unwrap();
        let mut failed = false;
        disk.fail(move |call| {
            let fails = call.kind == Kind::SetLen && call.is_of("log") && !failed;
            failed |= fails;
            // The group is not to be tried again: there is no reserve to give back.
            let is_reserve = call.kind == Kind::Open && call.path.ends_with("RESERVE");
            (fails || is_reserve).then_some(Fault::Error(ErrorKind::StorageFull))
        });
        let change = |len: &usize| (format!("of {len}").into_bytes(), Some(vec![b'g'; *len]));
        let group = Step::Group(changes.iter().map(change).collect());
        assert!(matches!(group.take(&mut store, open), Err(KvsError::NoSpace)));
        let opened = store.as_ref().unwrap();
        assert_eq!(opened.len(), 1);
        let killed = disk.kill();
        assert_eq!(options(&killed, Fsync::Always).open().unwrap().len(), 1, "it left a trace");
        disk.heal();
        for i in 0..50 {
            until("there is room", || opened.put(format!("more{i}"), vec![b'm'; 200]).is_ok());
        }
        assert_eq!(contents(opened).len(), 51);
    }
}

#[test]
fn short_writes_and_interruptions_are_of_no_consequence() {
    let seed = seed();
    let mut n = 0;
    run_with_a_fault(seed, &format!("KVS_SEED={seed}"), move |call| {
        n += 1;
        match (call.kind, n % 3) {
            (Kind::Write | Kind::Read, 0) => Some(Fault::Error(std::io::ErrorKind::Interrupted)),
            (Kind::Write | Kind::Read, 1) => Some(Fault::Short(1 + call.len / 2)),
            _ => None,
        }
    });
}

#[test]
fn a_server_whose_sync_failed_answers_everyone_and_goes_on_with_reads() {
    let disk = SimFs::new();
    let server = Running::start_on(disk.shared(), |config| config.fsync = Fsync::Always);
    let mut client = server.client();
    assert_eq!(client.call(&["SET", "key", "value"]).unwrap(), Value::Simple("OK".into()));
    assert_eq!(info(&mut client, "persistence")["aof_last_write_status"], "ok");
    let syncs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&syncs);
    disk.fail(move |call| {
        let fails = call.kind == Kind::Sync && call.is_of("log");
        (fails && count.fetch_add(1, Ordering::Relaxed) == 0).then_some(Fault::Io)
    });
    // All those that share the sync, and those that come later.
    let mut others: Vec<Client> = (0..8).map(|_| server.client()).collect();
    std::thread::scope(|scope| {
        for (i, other) in others.iter_mut().enumerate() {
            scope.spawn(move || {
                for key in ["a", "b"] {
                    let line = error(other.call(&["SET", &format!("{key}{i}"), "lost"]).unwrap());
                    assert!(line.starts_with("MISCONF "), "{line}");
                }
            });
        }
    });
    let line = error(client.call(&["DEL", "key"]).unwrap());
    assert!(line.starts_with("MISCONF ") && line.contains("reads go on"), "{line}");
    assert_eq!(client.call(&["GET", "key"]).unwrap(), Value::Bulk("value".into()));
    assert_eq!(client.call(&["GET", "a0"]).unwrap(), Value::Null);
    let fields = info(&mut client, "persistence");
    assert_eq!(fields["aof_last_write_status"], "err");
    assert!(fields.contains_key("writes_refused_since"));
    assert_eq!(syncs.load(Ordering::Relaxed), 1, "it was tried again");
    drop(client);
    server.stop().unwrap();
    let store = Options::new(DIR).fs(disk.kill().shared()).open().unwrap();
    assert_eq!(store.len(), 1);
}

/// A few bytes of requests that write very many: not all of it is in memory at once, and what was
/// committed before a failure is answered as such.
#[test]
fn a_pipeline_that_writes_very_much_is_committed_in_parts() {
    const EACH: usize = 8 * 1024 * 1024;
    const COUNT: usize = 32;
    let disk = SimFs::new();
    let server = Running::start_on(disk.shared(), |config| config.fsync = Fsync::Always);
    let mut client = server.client();
    let mut written = 0;
    disk.fail(move |call| {
        written += if call.kind == Kind::Write { call.len } else { 0 };
        let fails = call.kind == Kind::Sync && call.is_of("log") && written > COUNT / 2 * EACH;
        fails.then_some(Fault::Io)
    });
    let last = (EACH - 1).to_string();
    for i in 0..COUNT {
        client.send(&["SETRANGE", &format!("key{i:02}"), &last, "x"]);
    }
    client.flush().unwrap();
    let replies: Vec<Value> = (0..COUNT).map(|_| client.receive().unwrap()).collect();
    let done = replies.iter().take_while(|reply| **reply == Value::Integer(EACH as i64)).count();
    println!("{done} of {COUNT} were committed");
    assert!(done > 0 && done < COUNT);
    for reply in &replies[done..] {
        assert!(matches!(reply, Value::Error(line) if line.starts_with("MISCONF")), "{reply:?}");
    }
    assert_eq!(client.call(&["DBSIZE"]).unwrap(), Value::Integer(done as i64));
}

/// Damage to one key of a server: that key answers with where, others go on, and it can be removed.
#[test]
fn a_server_names_the_damage_and_goes_on() {
    let disk = SimFs::new();
    let server = Running::start_on(disk.shared(), |_| {});
    let mut client = server.client();
    for key in ["a", "b", "c"] {
        client.call(&["SET", key, &format!("value of {key}")]).unwrap();
    }
    drop(client);
    server.stop().unwrap();
    let path = std::path::Path::new(DIR).join("00000001.log");
    let bytes = disk.content(&path).unwrap();
    let at = bytes.windows(10).position(|window| window == b"value of b").unwrap();
    disk.flip(&path, at as u64, 4);
    let server = Running::start_on(disk.shared(), |_| {});
    let mut client = server.client();
    for _ in 0..3 {
        let line = error(client.call(&["GET", "b"]).unwrap());
        assert!(
            line.starts_with("ERR damaged: ") && line.contains("00000001.log at byte"),
            "{line}"
        );
    }
    assert_eq!(client.call(&["GET", "c"]).unwrap(), Value::Bulk("value of c".into()));
    assert!(error(client.call(&["INCR", "b"]).unwrap()).starts_with("ERR damaged: "));
    assert!(error(client.call(&["PREFIX", ""]).unwrap()).starts_with("ERR damaged: "));
    let scanned = client.call(&["SCAN", "0", "COUNT", "100"]).unwrap();
    let names =
        |keys: &[&str]| Value::Array(keys.iter().map(|key| Value::Bulk((*key).into())).collect());
    let Value::Array(parts) = scanned else { panic!("{scanned:?}") };
    assert!(parts[1] == names(&["a", "c"]) || parts[1] == names(&["c", "a"]), "{parts:?}");
    assert_eq!(client.call(&["KEYS", "*"]).unwrap(), names(&["a", "b", "c"]));
    assert_eq!(client.call(&["DEL", "b"]).unwrap(), Value::Integer(1));
    assert_eq!(client.call(&["GET", "b"]).unwrap(), Value::Null);
    assert_eq!(client.call(&["SET", "b", "new"]).unwrap(), Value::Simple("OK".into()));
}
