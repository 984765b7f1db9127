//! A disk that fails, and a disk that fills up: what the store and the server do, and what is there
//! afterwards.
#![allow(clippy::unwrap_used)]

mod engine_support;
mod simfs;
#[path = "simfs/workload.rs"]
mod workload;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine_support::{Model, Random, contents, seed};
use kvs::engine::Fsync;
use kvs::{KvStore, KvsError};
use simfs::{Call, Fault, Kind, Loss, SimFs};
use workload::{Step, options};

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
    for _ in 0..40 {
        let step = Step::random(&mut random);
        let reopens = matches!(step, Step::Reopen);
        let after = step.leads_to(&model).pop().unwrap_or_else(|| model.clone());
        let outcome = step.take(&mut store, open);
        match &outcome {
            Ok(()) => model = after,
            Err(error) => {
                let Some(store) = &store else { break };
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

/// One failure for each operation of this kind in turn.
fn each(kind: Kind, fault: fn(usize) -> Option<Fault>) {
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
            assert!(n > 20);
            return;
        }
    }
}

#[test]
fn a_failed_sync_fails_every_waiter_and_is_final() {
    each(Kind::Sync, |i| (i == 0).then_some(Fault::Io));
}

#[test]
fn a_failed_write_leaves_no_trace() {
    each(Kind::Write, |i| match i {
        0 => Some(Fault::Short(30)),
        1 => Some(Fault::Io),
        _ => None,
    });
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
