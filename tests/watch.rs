//! WATCH: what makes the next EXEC run nothing, and what does not; and that under load no change is
//! missed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::sync::Arc;

use kvs::KvStore;
use kvs::client::Client;
use kvs::clock::now_ms;
use kvs::engine::Watch;
use kvs::protocol::Value;
use serving::{Running, ok, wait_for};

/// Words parted by blanks; several requests by `;`.
fn run(client: &mut Client, requests: &str) -> Vec<Value> {
    let requests: Vec<Vec<&str>> =
        requests.split(';').map(|line| line.split_whitespace().collect()).collect();
    requests.iter().for_each(|words| client.send(words));
    client.flush().unwrap();
    requests.iter().map(|_| client.receive().unwrap()).collect()
}

/// Whether a transaction still runs after `between` has.
fn survives(
    server: &Running,
    before: &str,
    between: impl FnOnce(&mut Client, &mut Client),
) -> bool {
    let (mut one, mut other) = (server.client(), server.client());
    run(&mut one, &format!("FLUSHALL;{before}"));
    assert_eq!(run(&mut one, "WATCH k"), [ok()]);
    between(&mut one, &mut other);
    let replies = run(&mut one, "MULTI;SET done 1;EXEC;EXISTS done");
    let ran = replies[3] == Value::Integer(1);
    let expected = if ran { Value::Array(vec![ok()]) } else { Value::Null };
    assert_eq!(replies[2], expected);
    // Whatever came of it, the watch is over.
    run(&mut other, "SET k again");
    assert_eq!(
        run(&mut one, "MULTI;PING;EXEC")[2],
        Value::Array(vec![Value::Simple("PONG".into())])
    );
    ran
}

#[test]
fn any_change_of_the_key_counts() {
    let server = Running::start(|config| config.loops = 2);
    for (before, change) in [
        ("SET k v", "SET k v"),
        ("SET k v", "DEL k"),
        ("SET k v", "GETDEL k"),
        ("SET k v", "EXPIRE k 100"),
        ("SET k v EX 100", "PERSIST k"),
        ("SET k v", "RENAME k l"),
        ("SET l v", "RENAME l k"),
        ("SET l v", "COPY l k"),
        ("SET k 1", "INCR k"),
        ("SET k v", "MSET l 1 k 2"),
        ("SET k v", "FLUSHDB"),
        ("SET k v", "FLUSHALL"),
        ("PING", "SET k v"),
        ("PING", "SET k v;DEL k"),
        ("PING", "MULTI;SET k v;DEL k;EXEC"),
        ("SET k v", "SELECT 1;FLUSHALL"),
        ("SET k v", "MOVE k 1"),
        ("SELECT 1;SET k v;SELECT 0", "SELECT 1;MOVE k 0"),
        ("SELECT 1;SET k v;SELECT 0", "SELECT 1;COPY k k DB 0"),
        ("SET k v", "SETRANGE k 2 x"),
        ("SET k v", "APPEND k x"),
        ("SET k v", "SETBIT k 0 1"),
        ("SET k v", "BITOP NOT k k"),
        ("SET k v", "DELRANGE a z"),
        ("SET k v", "DELIFEQ k v"),
        ("SET k v", "SET k w IFEQ v"),
        ("SET k v", "GETEX k EX 100"),
        ("SET k v", "EXPIRE k -1"),
        ("SET k v", "SWAPDB 0 1"),
        ("SET k v", "SWAPDB 1 0"),
        ("SET k v", "SWAPDB 0 1;SWAPDB 0 1"),
        ("SELECT 1;SET k v;SELECT 0", "SWAPDB 0 1"),
        ("SELECT 1;SET k v;SELECT 0", "SELECT 7;SWAPDB 1 2;SWAPDB 2 0"),
        ("PING", "SELECT 1;SWAPDB 0 1;SELECT 0;SET k v"),
        ("PING", "MULTI;SELECT 1;SET k v;SWAPDB 0 1;EXEC"),
    ] {
        let by_another = survives(&server, before, |_, other| drop(run(other, change)));
        assert!(!by_another, "{before}; {change}");
        if !change.contains("SELECT") && !change.contains("MULTI") {
            let by_itself = survives(&server, before, |one, _| drop(run(one, change)));
            assert!(!by_itself, "{before}; {change} by itself");
        }
    }
}

#[test]
fn what_changes_nothing_does_not_count() {
    let server = Running::start(|config| config.loops = 2);
    for (before, harmless) in [
        ("SET k v", "GET k"),
        ("SET k v", "SET l v"),
        ("SET k v", "INCR k"),
        ("SET k v", "SET k w NX"),
        ("SET k v", "MULTI;SET k w;DISCARD"),
        ("SET k v", "SELECT 1;SET k w;FLUSHDB"),
        ("PING", "DEL k"),
        ("PING", "EXPIRE k 100"),
        ("PING", "FLUSHALL"),
        ("SET l v", "FLUSHDB"),
        ("SET k v", "SWAPDB 1 2"),
        ("SET k v", "SWAPDB 0 0"),
        ("SET k v", "SWAPDB 0 16"),
        ("SET l v", "SWAPDB 0 1"),
        ("PING", "SWAPDB 0 1;SELECT 1;SET k v"),
        ("SET k v", "MULTI;SWAPDB 0 1;DISCARD"),
    ] {
        let ran = survives(&server, before, |_, other| drop(run(other, harmless)));
        assert!(ran, "{before}; {harmless}");
    }
    for forget in ["UNWATCH", "MULTI;DISCARD", "MULTI;EXEC", "RESET"] {
        let ran = survives(&server, "SET k v", |one, other| {
            run(one, forget);
            run(other, "SET k w");
        });
        assert!(ran, "{forget}");
    }
}

#[test]
fn an_expiry_in_between_counts() {
    let server = Running::start(|_| {});
    let ran = survives(&server, "SET k v PX 30", |_, other| {
        wait_for("the end of the key", || (run(other, "GET k")[0] == Value::Null).then_some(()));
    });
    assert!(!ran);
}

#[test]
fn a_key_that_had_expired_may_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    let watch = Arc::new(Watch::default());
    let asked = Arc::clone(&watch);
    // In one unit: nobody else removes it in between.
    let touched = store.update(move |txn| {
        txn.put(0, b"k", b"v", Some(now_ms() - 1))?;
        txn.watch(&asked, 0, b"k")?;
        assert!(!txn.delete(0, b"k")?);
        Ok(())
    });
    touched.unwrap();
    let asked = Arc::clone(&watch);
    assert!(!store.update(move |txn| txn.unwatch(&asked)).unwrap());
    let again = Arc::new(Watch::default());
    let asked = Arc::clone(&again);
    store.update(move |txn| txn.watch(&asked, 0, b"k")).unwrap();
    store.put("k", "v").unwrap();
    assert!(store.update(move |txn| txn.unwatch(&again)).unwrap());
}

#[test]
fn errors_are_those_of_redis() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    let replies = run(&mut client, "WATCH k;MULTI;WATCH l;UNWATCH;PING;EXEC;WATCH");
    let error = |text: &str| Value::Error(text.into());
    assert_eq!(replies[2], error("ERR WATCH inside MULTI is not allowed"));
    assert_eq!(replies[5], Value::Array(vec![ok(), Value::Simple("PONG".into())]));
    assert_eq!(replies[6], error("ERR wrong number of arguments for 'watch' command"));
    // A refused request is told before a change.
    let replies = run(&mut client, "WATCH k;SET k v;MULTI;GET;EXEC;MULTI;GET k;EXEC");
    assert_eq!(replies[4], error("EXECABORT Transaction discarded because of previous errors."));
    assert_eq!(replies[7], Value::Array(vec![Value::Bulk(b"v".to_vec())]));
}

/// Counts up by reading, adding and writing back, as programs without INCR do. A change that is
/// missed is an increment that is lost.
#[test]
fn no_change_is_missed_under_load() {
    const EACH: i64 = 150;
    let server = Running::start(|config| config.loops = 2);
    run(&mut server.client(), "SET n 0");
    std::thread::scope(|scope| {
        for pipelined in [false, true, false, true] {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                let (mut done, mut retries) = (0, 0);
                while done < EACH {
                    let value = if pipelined {
                        run(&mut client, "WATCH n;GET n").pop().unwrap()
                    } else {
                        run(&mut client, "WATCH n");
                        run(&mut client, "GET n").pop().unwrap()
                    };
                    let Value::Bulk(digits) = value else { panic!("{value:?}") };
                    let next = String::from_utf8(digits).unwrap().parse::<i64>().unwrap() + 1;
                    match &run(&mut client, &format!("MULTI;SET n {next};EXEC"))[2] {
                        Value::Array(replies) if replies == &[ok()] => done += 1,
                        Value::Null => retries += 1,
                        other => panic!("{other:?}"),
                    }
                }
                println!("{retries} conflicts");
            });
        }
        let server = &server;
        scope.spawn(move || {
            let mut client = server.client();
            (0..EACH).for_each(|_| drop(run(&mut client, "INCR n")));
        });
    });
    let total = Value::Bulk((5 * EACH).to_string().into_bytes());
    assert_eq!(run(&mut server.client(), "GET n"), [total]);
}
