//! What is lock-free, in every interleaving: loom runs each model again and again, with every order of
//! its threads' steps (up to a number of preemptions) and every value that a load may see.
//!
//! The modules are those of the crate, compiled here anew with loom's atomics in place of the real
//! ones. What is small enough for that, and holds more than a lock, is here: who wakes a sleeping
//! loop, and the slots of the point index. Run by its own `main`, so that the modules' own tests, which
//! loom's atomics would not let run, stay away.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used, clippy::expect_used)]

mod atomics {
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
}

#[path = "../src/reactor/sleep.rs"]
mod sleep;
#[path = "../src/engine/keydir/table.rs"]
mod table;

/// Under the name that the table knows it by.
mod engine {
    pub use kvs::engine::position;
}

use std::sync::atomic::{AtomicUsize as Count, Ordering as CountOrdering};

use engine::position::Position;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use sleep::Sleep;
use table::{Found, Table};

/// Tries the interleavings with so many preemptions.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// A loop with its queue and its eventfd. The queue is a count, with no more order than a channel has.
struct Loop {
    sleep: Sleep,
    queued: AtomicUsize,
    rung: Mutex<usize>,
    poll: Condvar,
}

impl Loop {
    fn new() -> Arc<Loop> {
        Arc::new(Loop {
            sleep: Sleep::new(),
            queued: AtomicUsize::new(0),
            rung: Mutex::new(0),
            poll: Condvar::new(),
        })
    }

    fn post(&self) {
        self.queued.fetch_add(1, Ordering::Release);
        if self.sleep.must_be_ended() {
            let mut rung = self.rung.lock().unwrap();
            *rung += 1;
            self.poll.notify_one();
        }
    }

    /// One turn; how many mails it took, and whether it polled.
    fn turn(&self) -> usize {
        self.sleep.begin();
        if self.queued.load(Ordering::Acquire) == 0 {
            let mut rung = self.rung.lock().unwrap();
            while *rung == 0 {
                rung = self.poll.wait(rung).unwrap();
            }
            *rung = 0;
        }
        self.sleep.end();
        self.queued.swap(0, Ordering::AcqRel)
    }
}

/// A lost wake-up would leave all threads waiting, which loom tells.
fn no_wake_up_is_lost() {
    model(3, || {
        let this = Loop::new();
        let posters: Vec<_> = (0..2)
            .map(|_| {
                let this = Arc::clone(&this);
                thread::spawn(move || this.post())
            })
            .collect();
        let mut taken = 0;
        while taken < 2 {
            taken += this.turn();
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
    });
}

fn no_wake_up_is_lost_between_two_posts_of_one_thread() {
    model(3, || {
        let this = Loop::new();
        let poster = {
            let this = Arc::clone(&this);
            thread::spawn(move || {
                this.post();
                this.post();
            })
        };
        let mut taken = 0;
        while taken < 2 {
            taken += this.turn();
        }
        poster.join().unwrap();
    });
}

/// Positions of a key have offsets of its own, so that they tell whose they are, as records do.
fn position(key: u64, version: u64) -> Position {
    Position::new(1, key * 100 + version, 100, false)
}

fn find(table: &Table, hash: u32, key: u64) -> Option<Found> {
    let matches = |position: Position| Ok::<_, ()>(position.offset() / 100 == key);
    table.find(hash, matches).unwrap()
}

/// Keys in one run of slots.
const HASH: u32 = 1;

fn table(keys: &[u64]) -> Arc<Table> {
    let table = Table::new(8);
    keys.iter().for_each(|key| assert!(table.insert(HASH, position(*key, 0))));
    Arc::new(table)
}

/// A key whose value changes is never absent, and its versions are seen in order.
fn a_key_that_is_overwritten_is_always_there() {
    model(3, || {
        let table = table(&[1]);
        let writer = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                for version in 1..3 {
                    let found = find(&table, HASH, 1).unwrap();
                    assert!(table.replace(found, position(1, version)));
                }
            })
        };
        let first = find(&table, HASH, 1).expect("it is there").position.offset();
        let second = find(&table, HASH, 1).expect("it is there").position.offset();
        assert!(first <= second, "an older version after a newer one");
        writer.join().unwrap();
    });
}

/// A slot is vacated and used for another key, while the key behind it is looked for.
fn slots_that_are_used_again_hide_no_other_key() {
    for hash in [HASH, HASH + 1] {
        model(3, move || {
            let table = table(&[1, 2]);
            let writer = {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    assert!(table.remove(find(&table, HASH, 1).unwrap()));
                    assert!(table.insert(hash, position(3, 0)));
                })
            };
            assert!(find(&table, HASH, 2).is_some(), "the key behind the slot");
            // The removed key, the new one, or neither: no other.
            if let Some(found) = find(&table, HASH, 1) {
                assert_eq!(found.position, position(1, 0));
            }
            if let Some(found) = find(&table, hash, 3) {
                assert_eq!(found.position, position(3, 0));
            }
            writer.join().unwrap();
            assert!(find(&table, HASH, 1).is_none() && find(&table, hash, 3).is_some());
        });
    }
}

/// The compactor moves a key while the writer changes it: the writer's change holds.
fn a_change_wins_over_a_move() {
    static MOVED: Count = Count::new(0);
    static OUTRUN: Count = Count::new(0);
    model(3, || {
        let table = table(&[1]);
        let compactor = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                // As `Keydir::relocate` does: only from where the copy was made.
                let same = |candidate| Ok::<_, ()>(candidate == position(1, 0));
                let found = table.find(HASH, same).unwrap();
                found.is_some_and(|found| table.replace(found, position(1, 50)))
            })
        };
        loop {
            let found = find(&table, HASH, 1).expect("it is there");
            if table.replace(found, position(1, 1)) {
                break;
            }
        }
        let moved = compactor.join().unwrap();
        if moved { &MOVED } else { &OUTRUN }.fetch_add(1, CountOrdering::Relaxed);
        assert_eq!(find(&table, HASH, 1).unwrap().position, position(1, 1));
    });
    let both = (MOVED.load(CountOrdering::Relaxed), OUTRUN.load(CountOrdering::Relaxed));
    assert!(both.0 > 0 && both.1 > 0, "it was to see both: {both:?}");
}

/// A removed key does not come back by a move.
fn a_removal_wins_over_a_move() {
    model(3, || {
        let table = table(&[1]);
        let compactor = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                let same = |candidate| Ok::<_, ()>(candidate == position(1, 0));
                let found = table.find(HASH, same).unwrap();
                found.is_some_and(|found| table.replace(found, position(1, 50)))
            })
        };
        loop {
            let found = find(&table, HASH, 1).expect("it is there");
            if table.remove(found) {
                break;
            }
        }
        compactor.join().unwrap();
        assert!(find(&table, HASH, 1).is_none());
        assert_eq!(table.len(), 0);
    });
}

fn main() {
    let models: [(&str, fn()); 6] = [
        ("no_wake_up_is_lost", no_wake_up_is_lost),
        (
            "no_wake_up_is_lost_between_two_posts_of_one_thread",
            no_wake_up_is_lost_between_two_posts_of_one_thread,
        ),
        ("a_key_that_is_overwritten_is_always_there", a_key_that_is_overwritten_is_always_there),
        (
            "slots_that_are_used_again_hide_no_other_key",
            slots_that_are_used_again_hide_no_other_key,
        ),
        ("a_change_wins_over_a_move", a_change_wins_over_a_move),
        ("a_removal_wins_over_a_move", a_removal_wins_over_a_move),
    ];
    for (name, run) in models {
        run();
        println!("model {name} ... ok");
    }
}
