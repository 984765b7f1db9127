//! Transactions as clients of the server see them: one unit for readers and across a crash, and the
//! same replies as if the requests had been sent one by one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvs::client::Client;
use kvs::protocol::Value;
use serving::process::Process;
use serving::{Random, Running, wait_for};

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
        let mut client = server.client();
        (0..1500).for_each(|_| read(&mut client));
        stop.store(true, Ordering::Relaxed);
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
