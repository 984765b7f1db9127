//! Databases beside each other: across a restart, and in one pipeline that changes between them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::sync::atomic::{AtomicBool, Ordering};

use kvs::client::Client;
use kvs::protocol::Value;
use serving::process::Process;
use serving::{Raise, Random, Running, converse, resp, shown, wait_for};

const DATABASES: usize = 16;

fn select(client: &mut Client, database: usize) {
    client.command(&["SELECT", &database.to_string()]).unwrap();
}

fn names(client: &mut Client) -> Vec<String> {
    let Value::Array(names) = client.command(&["KEYS", "*"]).unwrap() else { panic!() };
    let text = |name: Value| match name {
        Value::Bulk(name) => String::from_utf8(name).unwrap(),
        other => panic!("{other:?}"),
    };
    names.into_iter().map(text).collect()
}

#[test]
fn each_has_its_keys_after_a_restart_and_a_flush_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    for database in 0..DATABASES {
        select(&mut client, database);
        client.set("same", database.to_string()).unwrap();
        client.set(format!("own:{database}").as_str(), "1").unwrap();
    }
    select(&mut client, 3);
    client.command(&["FLUSHDB"]).unwrap();
    server.stop().unwrap();

    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    for database in 0..DATABASES {
        select(&mut client, database);
        let own = format!("own:{database}");
        let expected = if database == 3 { vec![] } else { vec![own.as_str(), "same"] };
        assert_eq!(names(&mut client), expected, "database {database}");
        let value = client.get("same").unwrap();
        assert_eq!(value, (database != 3).then(|| database.to_string().into_bytes()));
    }
    client.command(&["FLUSHALL"]).unwrap();
    select(&mut client, 7);
    client.set("after", "1").unwrap();
    server.stop().unwrap();

    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    for database in 0..DATABASES {
        select(&mut client, database);
        assert_eq!(names(&mut client), if database == 7 { vec!["after"] } else { vec![] });
    }
}

/// Writes, reads and walks are answered by different threads, each for the database that the
/// connection had chosen when it sent them.
#[test]
fn a_pipeline_changes_between_them() {
    let mut random = Random::seeded();
    for loop_reads in [true, false] {
        let server = Running::start(|config| config.loop_reads = loop_reads);
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        let mut model = vec![std::collections::BTreeMap::new(); DATABASES];
        let mut database = 0;
        for i in 0..3000 {
            let key = format!("k{}", random.below(20));
            let (words, reply) = match random.below(8) {
                0 | 1 => {
                    database = random.below(DATABASES);
                    (vec!["SELECT".into(), database.to_string()], "+OK\r\n".to_owned())
                }
                2..=4 => {
                    model[database].insert(key.clone(), i.to_string());
                    (vec!["SET".into(), key, i.to_string()], "+OK\r\n".to_owned())
                }
                5 => (vec!["DBSIZE".into()], format!(":{}\r\n", model[database].len())),
                6 => {
                    let keys = model[database].keys();
                    let all: String = keys.map(|k| format!("${}\r\n{k}\r\n", k.len())).collect();
                    let count = model[database].len();
                    (vec!["KEYS".into(), "*".into()], format!("*{count}\r\n{all}"))
                }
                _ => {
                    let reply = match model[database].get(&key) {
                        Some(value) => format!("${}\r\n{value}\r\n", value.len()),
                        None => "$-1\r\n".to_owned(),
                    };
                    (vec!["GET".into(), key], reply)
                }
            };
            sent.extend(resp(&words));
            expected.extend(reply.into_bytes());
        }
        let came = converse(server.addr(), &sent);
        assert!(came == expected, "{}", shown(&came));
    }
}

#[test]
fn a_swap_is_there_after_a_restart_and_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    for database in 0..3 {
        select(&mut client, database);
        client.set(format!("of:{database}").as_str(), "1").unwrap();
    }
    for swap in [["SWAPDB", "0", "1"], ["SWAPDB", "1", "2"]] {
        assert_eq!(client.command(&swap).unwrap(), Value::Simple("OK".into()));
    }
    client.set("of:1, which is 2 by now", "1").unwrap();
    let Value::Bulk(keyspace) = client.command(&["INFO", "keyspace"]).unwrap() else { panic!() };
    let keyspace = String::from_utf8(keyspace).unwrap();
    for line in ["db0:keys=1,", "db1:keys=1,", "db2:keys=2,"] {
        assert!(keyspace.contains(line), "{keyspace}");
    }
    client.command(&["BGREWRITEAOF"]).unwrap();
    wait_for("the end of the compaction", || {
        let Value::Bulk(info) = client.command(&["INFO", "persistence"]).unwrap() else { panic!() };
        String::from_utf8(info).unwrap().contains("aof_rewrite_in_progress:0").then_some(())
    });
    server.stop().unwrap();
    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    let expected: [&[&str]; 3] = [&["of:1"], &["of:2"], &["of:0", "of:1, which is 2 by now"]];
    for (database, expected) in expected.into_iter().enumerate() {
        select(&mut client, database);
        assert_eq!(names(&mut client), expected, "database {database}");
        assert_eq!(client.command(&["DBSIZE"]).unwrap(), Value::Integer(expected.len() as i64));
    }
}

/// A blue one serves, a green one is built anew and put in its place: readers find one or the other, as
/// a whole, and never an older one than before.
#[test]
fn readers_of_a_database_that_is_swapped_see_one_or_the_other() {
    for loop_reads in [true, false] {
        let server = Running::start(|config| (config.loops, config.loop_reads) = (2, loop_reads));
        let stop = AtomicBool::new(false);
        server.client().command(&["MSET", "a", "0", "b", "0"]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (server, stop) = (&server, &stop);
                scope.spawn(move || {
                    let mut client = server.client();
                    let mut newest = 0;
                    while !stop.load(Ordering::Relaxed) {
                        newest = look(&mut client, newest);
                    }
                });
            }
            let _stop = Raise(&stop);
            let mut client = server.client();
            for version in 1..400 {
                let version = version.to_string();
                select(&mut client, 1);
                client.command(&["FLUSHDB"]).unwrap();
                client.command(&["SET", "a", &version]).unwrap();
                client.command(&["SET", "b", &version]).unwrap();
                client.command(&["SWAPDB", "0", "1"]).unwrap();
            }
        });
    }
}

/// Reads both keys in some ways; their version, which is not older than `newest`.
fn look(client: &mut Client, newest: u64) -> u64 {
    let number = |value: &Value| match value {
        Value::Bulk(digits) => String::from_utf8_lossy(digits).parse::<u64>().unwrap(),
        other => panic!("{other:?}"),
    };
    let array = |value: Value| match value {
        Value::Array(values) => values,
        other => panic!("{other:?}"),
    };
    let mut newest = newest;
    let mut see = |version: u64| {
        assert!(version >= newest, "{newest} and then {version}");
        newest = version;
    };
    let both = array(client.command(&["MGET", "a", "b"]).unwrap());
    assert_eq!(both[0], both[1]);
    see(number(&both[0]));
    see(number(&client.command(&["GET", "b"]).unwrap()));
    see(number(&client.command(&["GET", "a"]).unwrap()));
    let pairs = array(client.command(&["RANGE", "-", "+"]).unwrap());
    assert_eq!((pairs.len(), &pairs[1]), (4, &pairs[3]));
    see(number(&pairs[1]));
    let scanned = array(client.command(&["SCAN", "0"]).unwrap());
    assert_eq!(array(scanned[1].clone()).len(), 2);
    newest
}

/// Keys of two databases, written together with swaps: a kill leaves all of a transaction or nothing.
#[test]
fn a_kill_leaves_all_of_a_swap_and_what_came_with_it() {
    let (dir, mut random) = (tempfile::tempdir().unwrap(), Random::seeded());
    let mut told = 0;
    for round in 0..4 {
        let server = Process::start_in(dir.path(), &["--fsync", ["always", "no"][round % 2]]);
        let enough = told + 30 + random.below(200);
        std::thread::scope(|scope| {
            let (mut client, begin) = (server.client(), told);
            let counter = scope.spawn(move || count_swaps(&mut client, begin));
            let mut other = server.client();
            wait_for("transactions", || {
                let swaps = other.get("swaps").unwrap()?;
                let swaps: usize = String::from_utf8(swaps).unwrap().parse().unwrap();
                (swaps >= enough).then_some(())
            });
            server.kill();
            told = counter.join().unwrap();
        });
        let server = Process::start_in(dir.path(), &[]);
        let mut client = server.client();
        let mut found = [0, 1].map(|database| {
            select(&mut client, database);
            let value = client.get("swaps").unwrap().unwrap();
            String::from_utf8(value).unwrap().parse::<usize>().unwrap()
        });
        assert!(found[0] >= told, "{found:?}, and {told} was told");
        assert_eq!(found[0], found[1] + 1, "half of a transaction");
        told = std::mem::take(&mut found[0]);
        server.kill();
    }
}

/// Each transaction puts the other database in the place of database 0, with the next number in it. The
/// last number that was told.
fn count_swaps(client: &mut Client, begin: usize) -> usize {
    let mut told = begin;
    loop {
        let next = (told + 1).to_string();
        for words in [&["MULTI"][..], &["SWAPDB", "0", "1"], &["SET", "swaps", &next], &["EXEC"]] {
            client.send(words);
        }
        if client.flush().is_err() || (0..4).any(|_| client.receive().is_err()) {
            return told;
        }
        told += 1;
    }
}
