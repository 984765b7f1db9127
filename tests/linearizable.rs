//! Linearizability of each key: what several connections at once do to it, and what they are told,
//! is as if all had been done one after the other, each between its request and its reply; across
//! restarts and kills of the server, while compaction runs, wherever values are read from.
//!
//! KVS_LINEAR_ROUNDS says how many servers are started and stopped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "linearizable/history.rs"]
mod history;
mod serving;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use history::{Action, Operation, check};
use kvs::protocol::Value;
use serving::process::Process;
use serving::{Random, ok, wait_for};

const CONNECTIONS: usize = 6;
const KEYS: usize = 5;
/// The deepest pipeline.
const DEPTH: usize = 5;

/// The one order of all calls, returns and stops.
#[derive(Default)]
struct Clock(AtomicU64);

impl Clock {
    fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// An operation, on the key with this number.
type Done = (usize, Operation);

fn action(random: &mut Random, clock: &Clock) -> Action {
    // Values that nobody else writes.
    let value = |random: &mut Random| format!("{}{}", random.below(9) + 1, clock.tick());
    match random.below(16) {
        0..=5 => Action::Get,
        6..=7 => Action::Set(value(random)),
        8..=9 => Action::SetNx(value(random)),
        10 => Action::GetSet(value(random)),
        11 => Action::Append(random.below(10).to_string()),
        12..=13 => Action::Incr,
        _ => Action::Del,
    }
}

/// Does operations until the server is gone or `stop` is set.
fn operate(
    server: &Process,
    connection: usize,
    mut random: Random,
    clock: &Clock,
    done: &AtomicU64,
    stop: &AtomicBool,
) -> Vec<Done> {
    let (mut history, mut client) = (Vec::new(), server.client());
    while !stop.load(Ordering::Relaxed) {
        let first = history.len();
        for _ in 0..1 + random.below(DEPTH) {
            let (key, action) = (random.below(KEYS), action(&mut random, clock));
            client.send(&action.words(&format!("key{key}")));
            history.push((
                key,
                Operation { connection, action, called: clock.tick(), returned: None },
            ));
        }
        if client.flush().is_err() {
            return history;
        }
        for (_, operation) in &mut history[first..] {
            let Ok(reply) = client.receive() else { return history };
            operation.returned = Some((clock.tick(), reply));
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    history
}

/// Writes other keys over and over, so that segments fill up and are merged.
fn fill(server: &Process, stop: &AtomicBool) {
    let mut client = server.client();
    for n in 0.. {
        if stop.load(Ordering::Relaxed)
            || client.set(format!("fill{}", n % 40), [b'x'; 4000]).is_err()
        {
            return;
        }
    }
}

/// One server, from its start to its end after about `operations`.
fn round(
    dir: &Path,
    flags: &[&str],
    signal: &str,
    operations: u64,
    random: &mut Random,
    clock: &Clock,
) -> Vec<Done> {
    let server = Process::start_in(dir, flags);
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let history = std::thread::scope(|scope| {
        let (server, done, stop) = (&server, &done, &stop);
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let random = Random(random.next());
                scope.spawn(move || operate(server, connection, random, clock, done, stop))
            })
            .collect();
        scope.spawn(|| fill(server, stop));
        wait_for("operations", || (done.load(Ordering::Relaxed) >= operations).then_some(()));
        server.signal(signal);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut server = server;
    server.wait();
    history
}

#[test]
fn every_key_is_linearizable_across_restarts() {
    let rounds = std::env::var("KVS_LINEAR_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let (mut random, clock) = (Random::seeded(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (mut histories, mut stops) = (vec![Vec::new(); KEYS], Vec::new());
    for n in 0..rounds {
        let flags = [
            ["--fsync", ["always", "no"][n / 2 % 2]],
            ["--loop-reads", ["yes", "no"][n % 2]],
            ["--loops", ["2", "1"][n / 4 % 2]],
            ["--segment-bytes", ["16k", "256k"][random.below(2)]],
        ];
        let signal = if random.below(4) == 0 { "TERM" } else { "KILL" };
        let operations = 100 + random.below(900) as u64;
        let done = round(dir.path(), &flags.concat(), signal, operations, &mut random, &clock);
        println!("round {n}: {flags:?}, {} operations, {signal}", done.len());
        done.into_iter().for_each(|(key, operation)| histories[key].push(operation));
        stops.push(clock.tick());
    }
    for (key, history) in histories.iter().enumerate() {
        if let Err(violation) = check(history, &stops) {
            panic!("key{key}: {violation}");
        }
    }
}

/// An operation from `called` to a reply at `returned`.
fn operation(
    connection: usize,
    action: Action,
    called: u64,
    returned: Option<(u64, Value)>,
) -> Operation {
    Operation { connection, action, called, returned }
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.into())
}

fn set(value: &str) -> Action {
    Action::Set(value.into())
}

#[test]
fn what_can_be_explained_is() {
    // Two writes at once, each order of which a reader may have seen; the second read decides.
    for last in ["a", "b"] {
        let history = [
            operation(0, set("a"), 0, Some((5, ok()))),
            operation(1, set("b"), 1, Some((4, ok()))),
            operation(2, Action::Get, 2, Some((3, bulk(if last == "a" { "b" } else { "a" })))),
            operation(2, Action::Get, 6, Some((7, bulk(last)))),
        ];
        assert_eq!(check(&history, &[]), Ok(()));
    }
    // What was in flight at a kill happened or not.
    for (found, replies) in [("a", Value::Null), ("b", Value::Null), ("b", bulk("a"))] {
        let mut history =
            vec![operation(0, set("a"), 0, Some((1, ok()))), operation(1, set("b"), 2, None)];
        if replies != Value::Null {
            history.push(operation(2, Action::Get, 3, Some((4, replies))));
        }
        history.push(operation(3, Action::Get, 6, Some((7, bulk(found)))));
        assert_eq!(check(&history, &[5]), Ok(()), "{found}");
    }
}

#[test]
fn planted_violations_are_found() {
    let a = || operation(0, set("a"), 0, Some((1, ok())));
    let histories: [(&str, Vec<Operation>, &[u64]); 7] = [
        ("a lost write", vec![a(), operation(1, Action::Get, 3, Some((4, Value::Null)))], &[2]),
        (
            "a stale read",
            vec![
                a(),
                operation(0, set("b"), 2, Some((3, ok()))),
                operation(1, Action::Get, 4, Some((5, bulk("a")))),
            ],
            &[],
        ),
        (
            "a count given twice",
            vec![
                operation(0, Action::Incr, 0, Some((3, Value::Integer(1)))),
                operation(1, Action::Incr, 1, Some((2, Value::Integer(1)))),
            ],
            &[],
        ),
        (
            "two winners of SET NX",
            vec![
                operation(0, Action::SetNx("a".into()), 0, Some((3, ok()))),
                operation(1, Action::SetNx("b".into()), 1, Some((2, ok()))),
            ],
            &[],
        ),
        (
            "a write that comes back after a restart did without it",
            vec![
                a(),
                operation(1, set("b"), 2, None),
                operation(2, Action::Get, 4, Some((5, bulk("a")))),
                operation(2, Action::Get, 6, Some((7, bulk("b")))),
            ],
            &[3],
        ),
        (
            "a pipeline that overtakes itself",
            vec![
                operation(0, set("a"), 0, Some((2, ok()))),
                operation(0, Action::Get, 1, Some((3, Value::Null))),
            ],
            &[],
        ),
        (
            "a value that nobody wrote",
            vec![a(), operation(1, Action::Get, 2, Some((3, bulk("x"))))],
            &[],
        ),
    ];
    for (what, history, stops) in histories {
        assert!(check(&history, stops).is_err(), "{what}");
    }
}
