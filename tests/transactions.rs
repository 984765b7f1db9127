//! Transactions as clients of the server see them: one unit for readers and across a crash, and the
//! same replies as if the requests had been sent one by one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvs::client::Client;
use kvs::protocol::Value;
use serving::process::Process;
use serving::{Raise, Random, Running, wait_for};

/// Sends requests at once, and takes their replies.
fn exchange(client: &mut Client, requests: &[&[&str]]) -> Vec<Value> {
    requests.iter().for_each(|words| client.send(words));
    client.flush().unwrap();
    requests.iter().map(|_| client.receive().unwrap()).collect()
}

fn number(value: &Value) -> u64 {
    match value {
        Value::Bulk(digits) => String::from_utf8_lossy(digits).parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        other => panic!("{other:?}"),
    }
}

/// Writes transactions whose steps must not be seen, until told to stop.
fn write(client: &mut Client, stop: &AtomicBool) {
    let mut n = 1;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let n = n.to_string();
        let requests: &[&[&str]] = &[
            &["MULTI"],
            &["SET", "x:a", "0"],
            &["DEL", "x:b"],
            &["SET", "x:a", &n],
            &["SET", "x:b", &n],
            &["EXEC"],
            &["MULTI"],
            &["FLUSHDB"],
            &["SET", "x:b", &n],
            &["SET", "x:a", &n],
            &["EXEC"],
        ];
        let replies = exchange(client, requests);
        assert!(matches!(&replies[5], Value::Array(done) if done.len() == 4), "{replies:?}");
    }
}

/// `read` looks at the keys again and again while others run transactions.
fn while_transactions_run(loop_reads: bool, read: impl Fn(&mut Client)) {
    let server = Running::start(|config| (config.loops, config.loop_reads) = (2, loop_reads));
    let stop = AtomicBool::new(false);
    exchange(&mut server.client(), &[&["MSET", "x:a", "1", "x:b", "1"]]);
    std::thread::scope(|scope| {
        scope.spawn(|| write(&mut server.client(), &stop));
        let _stop = Raise(&stop);
        let mut client = server.client();
        (0..1500).for_each(|_| read(&mut client));
    });
}

#[test]
fn no_read_sees_half_of_one() {
    for loop_reads in [true, false] {
        while_transactions_run(loop_reads, |client| {
            let requests: &[&[&str]] = &[
                &["MGET", "x:a", "x:b"],
                &["PREFIX", "x:"],
                &["DBSIZE"],
                &["EXISTS", "x:a", "x:b"],
                &["KEYS", "*"],
                &["SCAN", "0"],
            ];
            let mut replies = exchange(client, requests).into_iter();
            let both = array(replies.next().unwrap());
            assert_eq!(both[0], both[1]);
            assert_ne!(number(&both[0]), 0);
            let pairs = array(replies.next().unwrap());
            assert_eq!((pairs.len(), &pairs[1]), (4, &pairs[3]));
            assert_eq!(replies.next().unwrap(), Value::Integer(2));
            assert_eq!(replies.next().unwrap(), Value::Integer(2));
            assert_eq!(array(replies.next().unwrap()).len(), 2);
            let scanned = array(replies.next().unwrap());
            assert_eq!(array(scanned[1].clone()).len(), 2);
        });
    }
}

/// Each read is a command of its own; what one has seen, the next ones must see, too.
#[test]
fn reads_in_a_row_never_go_back() {
    for loop_reads in [true, false] {
        let last = AtomicU64::new(0);
        while_transactions_run(loop_reads, |client| {
            let keys = ["x:a", "x:b", "x:a", "x:b", "x:b", "x:a"];
            for key in keys {
                let seen = number(&client.call(&["GET", key]).unwrap());
                let before = last.fetch_max(seen, Ordering::Relaxed);
                assert!(seen >= before, "{key} was {before} and is {seen}");
            }
        });
    }
}

/// Requests one by one, and the same ones in transactions: the replies must be the same.
#[test]
fn what_commands_answer_is_the_same_within() {
    let mut random = Random::seeded();
    let servers = [0, 1].map(|_| Running::start(|_| {}));
    let [mut plain, mut grouped] = [0, 1].map(|i: usize| servers[i].client());
    for _ in 0..300 {
        let requests: Vec<Vec<String>> = (0..random.below(12)).map(|_| any(&mut random)).collect();
        let expected: Vec<Value> =
            requests.iter().map(|words| plain.call(words).unwrap()).collect();
        grouped.send(&["MULTI"]);
        requests.iter().for_each(|words| grouped.send(words));
        grouped.send(&["EXEC"]);
        grouped.flush().unwrap();
        for _ in 0..=requests.len() {
            assert!(matches!(grouped.receive().unwrap(), Value::Simple(_)));
        }
        assert_eq!(array(grouped.receive().unwrap()), expected, "{requests:?}");
    }
}

fn any(random: &mut Random) -> Vec<String> {
    let key = |random: &mut Random| format!("k{}", random.below(12));
    let (a, b, n) = (key(random), key(random), random.below(100).to_string());
    let line = match random.below(24) {
        0 => format!("SELECT {}", random.below(3)),
        1 => "PING".to_owned(),
        2 => format!("ECHO {n}"),
        3 => "FLUSHDB".to_owned(),
        4 => "DBSIZE".to_owned(),
        5 => "KEYS *".to_owned(),
        6 => format!("RANGE {} {} LIMIT {}", a.clone().min(b.clone()), a.max(b), random.below(4)),
        7 => format!("PREFIX k1 LIMIT {}", random.below(4)),
        8 => format!("MGET {a} {b}"),
        9 => format!("MSET {a} {n} {b} x"),
        10 => format!("MSETNX {a} {n} {b} x"),
        11 => format!("DEL {a} {b}"),
        12 => format!("RENAME {a} {b}"),
        13 => format!("INCRBY {a} {n}"),
        14 => format!("APPEND {a} {n}"),
        15 => format!("GETDEL {a}"),
        16 => format!("SET {a} {n} NX GET"),
        17 => format!("EXPIREAT {a} 4102444800"),
        18 => format!("EXPIRETIME {a}"),
        19 => format!("SETRANGE {a} 3 {n}"),
        20 => format!("COPY {a} {b}"),
        21 => format!("EXISTS {a} {b}"),
        22 => format!("GET {a}"),
        _ => format!("SET {a} {n}"),
    };
    line.split(' ').map(str::to_owned).collect()
}

/// Many transactions in flight on one connection come back in order, each in one piece.
#[test]
fn they_are_pipelined() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    const COUNT: usize = 2000;
    for _ in 0..COUNT {
        for words in [&["MULTI"][..], &["INCR", "n"], &["GET", "n"], &["EXEC"], &["GET", "n"]] {
            client.send(words);
        }
    }
    client.flush().unwrap();
    for i in 1..=COUNT {
        (0..3).for_each(|_| drop(client.receive().unwrap()));
        let value = Value::Bulk(i.to_string().into_bytes());
        let expected = Value::Array(vec![Value::Integer(i as i64), value.clone()]);
        assert_eq!(client.receive().unwrap(), expected);
        assert_eq!(client.receive().unwrap(), value);
    }
}

const KEYS: usize = 10;

/// Runs transactions that set all keys of `name` to the next number, and notes what was answered.
fn count_up(client: &mut Client, name: &str, told: &AtomicU64) {
    let mut n = told.load(Ordering::Relaxed);
    loop {
        const WINDOW: u64 = 8;
        for i in 1..=WINDOW {
            client.send(&["MULTI"]);
            for key in 0..KEYS {
                client.send(&["SET", &format!("{name}:{key}"), &(n + i).to_string()]);
            }
            client.send(&["EXEC"]);
        }
        if client.flush().is_err() {
            return;
        }
        for _ in 0..WINDOW {
            for _ in 0..KEYS + 2 {
                if client.receive().is_err() {
                    return;
                }
            }
            n += 1;
            told.store(n, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_crash_leaves_all_of_one_or_nothing() {
    let mut random = Random::seeded();
    let dir = tempfile::tempdir().unwrap();
    let told = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];
    let sum = || told.iter().map(|told| told.load(Ordering::Relaxed)).sum::<u64>();
    for round in 0..6 {
        let fsync = ["always", "no"][round % 2];
        let server = Process::start_in(dir.path(), &["--fsync", fsync]);
        let enough = sum() + 50 + random.below(400) as u64;
        std::thread::scope(|scope| {
            for (i, told) in told.iter().enumerate() {
                let mut client = server.client();
                scope.spawn(move || count_up(&mut client, &format!("w{i}"), told));
            }
            wait_for("transactions", || (sum() >= enough).then_some(()));
            server.kill();
        });
        let server = Process::start_in(dir.path(), &[]);
        let mut client = server.client();
        for (i, told) in told.iter().enumerate() {
            let keys: Vec<String> = (0..KEYS).map(|key| format!("w{i}:{key}")).collect();
            let words: Vec<&str> =
                std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
            let values = array(client.call(&words).unwrap());
            let acknowledged = told.load(Ordering::Relaxed);
            assert!(values.iter().all(|value| *value == values[0]), "half of one: {values:?}");
            let found = if values[0] == Value::Null { 0 } else { number(&values[0]) };
            assert!(found >= acknowledged, "{found} is there, {acknowledged} was told");
            told.store(found, Ordering::Relaxed);
        }
        server.kill();
    }
}

/// Transactions by some connections, readers on all loops: what any reader has seen of one, no reader
/// loses again, and nor does a kill.
#[test]
fn readers_on_all_loops_see_all_of_one_or_nothing_and_a_kill_takes_nothing_that_was_seen() {
    const WRITERS: usize = 3;
    let mut random = Random::seeded();
    let dir = tempfile::tempdir().unwrap();
    let seen: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    for round in 0..4 {
        let loop_reads = ["yes", "no"][round % 2];
        let server = Process::start_in(dir.path(), &["--loops", "4", "--loop-reads", loop_reads]);
        let enough = seen[0].load(Ordering::Relaxed) + 30 + random.below(150) as u64;
        std::thread::scope(|scope| {
            for (writer, seen) in seen.iter().enumerate() {
                let mut client = server.client();
                let told = AtomicU64::new(seen.load(Ordering::Relaxed));
                scope.spawn(move || count_up(&mut client, &format!("w{writer}"), &told));
            }
            for reader in 0..6 {
                let (mut client, seen) = (server.client(), &seen[reader % WRITERS]);
                let name = format!("w{}", reader % WRITERS);
                scope.spawn(move || while let Some(()) = look(&mut client, &name, seen) {});
            }
            let counted = || seen.iter().all(|seen| seen.load(Ordering::Relaxed) >= enough);
            wait_for("transactions", || counted().then_some(()));
            server.kill();
        });
        let server = Process::start_in(dir.path(), &[]);
        for (writer, seen) in seen.iter().enumerate() {
            let before = seen.load(Ordering::Relaxed);
            look(&mut server.client(), &format!("w{writer}"), seen).unwrap();
            println!("w{writer}: {before} was seen, {} is there", seen.load(Ordering::Relaxed));
        }
        server.kill();
    }
}

/// Reads all keys of `name` at once, in three ways. They are the same, and not older than what was
/// `seen` by anyone before. `None` if the connection is gone.
fn look(client: &mut Client, name: &str, seen: &AtomicU64) -> Option<()> {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("{name}:{key}")).collect();
    let gets = keys.iter().map(|key| vec!["GET", key.as_str()]);
    let mget = vec![[&["MGET"][..], &keys.iter().map(String::as_str).collect::<Vec<_>>()].concat()];
    let exec = [vec![vec!["MULTI"]], gets.collect(), vec![vec!["EXEC"]]].concat();
    let scan = vec![vec!["PREFIX", name]];
    for (requests, each) in [(mget, 1), (exec, 1), (scan, 2)] {
        let before = seen.load(Ordering::SeqCst);
        requests.iter().for_each(|words| client.send(words));
        client.flush().ok()?;
        let mut last = Value::Null;
        for _ in &requests {
            last = client.receive().ok()?;
        }
        let values: Vec<Value> = array(last).into_iter().skip(each - 1).step_by(each).collect();
        // Before the first transaction, there are no keys to be walked over.
        if values.first().is_none_or(|first| *first == Value::Null) {
            assert!(before == 0 && values.iter().all(|value| *value == Value::Null), "{values:?}");
            continue;
        }
        assert!(values.len() == KEYS && values.iter().all(|one| *one == values[0]), "{values:?}");
        let found = number(&values[0]);
        assert!(found >= before, "{found}, and {before} was seen before");
        seen.fetch_max(found, Ordering::SeqCst);
    }
    Some(())
}

/// One key is always set before the other, each by itself: so at no moment it is behind.
#[test]
fn a_read_of_several_keys_is_of_one_moment() {
    const BETWEEN: usize = 100;
    for loop_reads in [true, false] {
        let server = Running::start(|config| (config.loops, config.loop_reads) = (2, loop_reads));
        let stop = AtomicBool::new(false);
        let between: Vec<String> = (0..BETWEEN).map(|i| format!("between:{i}")).collect();
        let mut client = server.client();
        exchange(&mut client, &[&["MSET", "first", "0", "second", "0"]]);
        between.iter().for_each(|key| client.set(key.as_str(), "x").unwrap());
        let mut words = vec!["MGET", "first"];
        words.extend(between.iter().map(String::as_str));
        words.push("second");
        std::thread::scope(|scope| {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut client = server.client();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let n = n.to_string();
                    exchange(&mut client, &[&["SET", "first", &n], &["SET", "second", &n]]);
                }
            });
            let _stop = Raise(stop);
            let mut worst = 0;
            for _ in 0..3000 {
                let values = array(client.call(&words).unwrap());
                let (first, second) = (number(&values[0]), number(&values[BETWEEN + 1]));
                worst = worst.max(second.saturating_sub(first));
            }
            assert_eq!(worst, 0, "the second was ahead of the first");
        });
    }
}

/// LCS reads two keys though it runs where walks do.
#[test]
fn lcs_compares_two_values_of_one_moment() {
    const LEN: usize = 8;
    let server = Process::start(&["--fsync", "no", "--loops", "2"]);
    let stop = AtomicBool::new(false);
    let mut client = server.client();
    exchange(&mut client, &[&["MSET", "a", "00000000", "b", "00000000"]]);
    std::thread::scope(|scope| {
        let (server, stop) = (&server, &stop);
        for _ in 0..2 {
            scope.spawn(move || {
                let mut client = server.client();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 7;
                    let value = format!("{n:0LEN$}");
                    exchange(&mut client, &[&["MSET", "a", &value, "b", &value]]);
                }
            });
        }
        let _stop = Raise(stop);
        for _ in 0..20_000 {
            let common = client.call(&["LCS", "a", "b", "LEN"]).unwrap();
            assert_eq!(common, Value::Integer(LEN as i64));
        }
    });
}

#[test]
fn what_an_engine_lacks_is_said_at_once() {
    let server = Running::start(|config| config.engine = kvs::config::EngineKind::Memory);
    let replies =
        exchange(&mut server.client(), &[&["MULTI"], &["SET", "k", "v"], &["EXEC"], &["GET", "k"]]);
    let refused = Value::Error("ERR this engine has no transactions".into());
    assert_eq!(replies[0], refused);
    assert_eq!((&replies[1], &replies[2]), (&Value::Simple("OK".into()), &refused));
    assert_eq!(replies[3], Value::Bulk(b"v".to_vec()));
}
