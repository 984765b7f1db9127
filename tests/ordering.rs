//! Pipelines: what one connection sends at once is answered as if it were run request by request,
//! though loops, read workers and the writer answer in their own time. Random pipelines in all
//! dialects, compared with a model that runs them in order.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod model_db;
mod serving;

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kvs::config::{Config, DebugCommand, EngineKind, Fsync};
use kvs::protocol::Value;
use model_db::{Exchange, Model};
use serving::{Random, Running, resp, shown};

/// The deepest pipeline.
const DEPTH: usize = 10_000;

/// Sends all requests while it compares the replies as they come.
#[track_caller]
fn run(stream: &TcpStream, exchanges: &[Exchange]) {
    let input: Vec<u8> = exchanges.iter().flat_map(|exchange| &exchange.request).copied().collect();
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        scope.spawn(move || std::io::Write::write_all(&mut writer, &input).unwrap());
        let mut reader = std::io::BufReader::new(stream);
        let mut reply = Vec::new();
        for (i, Exchange { request, expected }) in exchanges.iter().enumerate() {
            reply.resize(expected.len(), 0);
            let outcome = reader.read_exact(&mut reply);
            if outcome.is_err() || reply != *expected {
                let before: Vec<String> =
                    exchanges[i.saturating_sub(12)..i].iter().map(|e| shown(&e.request)).collect();
                panic!(
                    "request {i} of {}: {}\nexpected {}\ncame     {} ({outcome:?})\nafter\n{}",
                    exchanges.len(),
                    shown(request),
                    shown(expected),
                    shown(&reply),
                    before.join("\n")
                );
            }
        }
    });
}

/// Pipelines of all depths on one connection that has the server for itself.
fn alone(server: &Running, random: &mut Random, total: usize) {
    let stream = server.raw();
    let mut model = Model::new("", true);
    run(&stream, &[Exchange::new(resp(&["FLUSHALL"]), b"+OK\r\n")]);
    let mut left = total;
    while left > 0 {
        let deep = [1, 2, 10, 100, 1000, DEPTH][random.below(6)];
        let depth = (1 + random.below(deep)).min(left);
        let exchanges: Vec<_> = (0..depth).map(|_| model.next(random)).collect();
        run(&stream, &exchanges);
        left -= depth;
    }
}

/// Many connections at once, each with keys of its own.
fn together(server: &Running, random: &mut Random, connections: usize, total: usize) {
    std::thread::scope(|scope| {
        for i in 0..connections {
            let mut random = Random(random.next());
            scope.spawn(move || {
                let stream = server.raw();
                let mut model = Model::new(&format!("c{i}:"), false);
                let mut left = total;
                while left > 0 {
                    let depth = (1 + random.below(500)).min(left);
                    let exchanges: Vec<_> = (0..depth).map(|_| model.next(&mut random)).collect();
                    run(&stream, &exchanges);
                    left -= depth;
                }
            });
        }
    });
}

fn check(total: usize, change: impl Fn(&mut Config)) {
    let mut random = Random::seeded();
    let server = Running::start(change);
    alone(&server, &mut random, total);
    together(&server, &mut random, 8, total / 8);
}

#[test]
fn a_connection_reads_its_own_writes() {
    check(30_000, |_| {});
}

#[test]
fn the_deepest_pipeline_comes_back_in_order() {
    let mut random = Random::seeded();
    let server = Running::start(|config| config.fsync = Fsync::Always);
    let mut model = Model::new("", true);
    let exchanges: Vec<_> = (0..DEPTH).map(|_| model.next(&mut random)).collect();
    run(&server.raw(), &exchanges);
}

#[test]
fn slow_writes_and_several_loops_change_nothing() {
    check(12_000, |config| {
        config.fsync = Fsync::Always;
        (config.loops, config.readers) = (3, 4);
    });
}

#[test]
fn reads_by_workers_keep_their_places() {
    check(20_000, |config| {
        config.loop_reads = false;
        (config.loops, config.readers) = (2, 4);
    });
}

#[test]
fn one_worker_and_small_segments_under_compaction() {
    check(20_000, |config| {
        config.loop_reads = false;
        config.readers = 1;
        config.segment_bytes = 16 << 10;
    });
}

/// After a restart nothing is known to be in memory, so the first reads go to workers and, as the
/// store finds out, later ones of the same pipelines do not.
#[test]
fn cold_and_warm_reads_mix_after_a_restart() {
    let mut random = Random::seeded();
    let dir = tempfile::tempdir().unwrap();
    let mut models: Vec<_> = (0..4).map(|i| Model::new(&format!("c{i}:"), false)).collect();
    for round in 0..6 {
        let server = Running::start_in(dir.path(), |config| config.segment_bytes = 64 << 10);
        let mut info = server.client();
        std::thread::scope(|scope| {
            for model in &mut models {
                let (server, mut random) = (&server, Random(random.next()));
                scope.spawn(move || {
                    // Reads first, of what the last round has left; then both.
                    let mut exchanges: Vec<_> = (0..300).map(|_| model.read(&mut random)).collect();
                    exchanges.extend((0..1500).map(|_| model.next(&mut random)));
                    run(&server.raw(), &exchanges);
                });
            }
        });
        let text = String::from_utf8(match info.command(&["INFO", "stats"]).unwrap() {
            Value::Bulk(text) => text,
            other => panic!("{other:?}"),
        });
        println!("round {round}: {}", text.unwrap().replace("\r\n", " "));
        drop(info);
        server.stop().unwrap();
    }
}

#[test]
fn an_engine_that_blocks_keeps_the_order_too() {
    let mut random = Random::seeded();
    let server = Running::start(|config| {
        config.engine = EngineKind::Memory;
        (config.loops, config.readers) = (2, 4);
    });
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (server, mut random) = (&server, Random(random.next()));
            scope.spawn(move || {
                let mut model = Model::new(&format!("c{i}:"), false).of_points();
                let exchanges: Vec<_> = (0..2000).map(|_| model.next(&mut random)).collect();
                run(&server.raw(), &exchanges);
            });
        }
    });
}

#[test]
fn an_engine_that_blocks_says_what_it_lacks() {
    let server = Running::start(|config| config.engine = EngineKind::Memory);
    let mut client = server.client();
    client.set("k", "v").unwrap();
    for words in [
        &["DBSIZE"][..],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["RANGE", "-", "+"],
        &["PREFIX", "k"],
        &["FLUSHALL"],
        &["SET", "k", "w", "EX", "10"],
        &["EXPIRE", "k", "10"],
    ] {
        let error = client.command(words).unwrap_err().to_string();
        let clear = error.contains("engine") && error.starts_with("ERR ");
        assert!(clear, "{words:?} is answered by {error}");
    }
    let error = client.command(&[&b"SET"[..], b"k", b"\xff"]).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
    let error = client.command(&["SELECT", "1"]).unwrap_err().to_string();
    assert_eq!(error, "ERR DB index is out of range");
    assert_eq!(client.get("k").unwrap().unwrap(), b"v");
}

/// A walk may take minutes. What other connections ask for in the same wake of the loop does not
/// wait for it. (The end of a pause makes it the same wake.)
#[test]
fn a_walk_holds_up_its_own_connection_only() {
    let server = Running::start(|config| {
        config.loop_reads = false;
        config.debug_command = DebugCommand::Yes;
    });
    let (mut boss, mut sleeper) = (server.client(), server.client());
    let mut readers: Vec<_> = (0..4).map(|_| server.client()).collect();
    boss.set("k", "v").unwrap();
    readers.iter_mut().for_each(|reader| reader.ping().unwrap());
    boss.command(&["CLIENT", "PAUSE", "200"]).unwrap();
    let start = Instant::now();
    sleeper.send(&["DEBUG", "SLEEP", "5"]);
    sleeper.flush().unwrap();
    for reader in &mut readers {
        reader.send(&["GET", "k"]);
        reader.flush().unwrap();
    }
    for reader in &mut readers {
        assert_eq!(reader.receive().unwrap(), Value::Bulk(b"v".into()));
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(sleeper.receive().unwrap(), Value::Simple("OK".into()));
}

/// More walks than the workers' queue takes: who comes then waits for room in it, and is woken.
#[test]
fn reads_that_find_no_room_in_the_queue_are_answered() {
    const WALKS: usize = 1200;
    let server = Running::start(|config| {
        (config.readers, config.loop_reads) = (1, false);
        config.debug_command = DebugCommand::Yes;
    });
    let mut boss = server.client();
    boss.set("k", "v").unwrap();
    let mut sleepers: Vec<_> = (0..WALKS).map(|_| server.client()).collect();
    let mut readers: Vec<_> = (0..3).map(|_| server.client()).collect();
    for sleeper in &mut sleepers {
        sleeper.send(&["DEBUG", "SLEEP", "0.001"]);
        sleeper.flush().unwrap();
    }
    for reader in &mut readers {
        for words in [&["GET", "k"][..], &["SET", "k", "v"], &["GET", "k"]] {
            reader.send(words);
        }
        reader.flush().unwrap();
    }
    for reader in &mut readers {
        assert_eq!(reader.receive().unwrap(), Value::Bulk(b"v".into()));
        assert_eq!(reader.receive().unwrap(), Value::Simple("OK".into()));
        assert_eq!(reader.receive().unwrap(), Value::Bulk(b"v".into()));
    }
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.receive().unwrap(), Value::Simple("OK".into()));
    }
}

/// Requests that are answered at once, behind one that is not, wait for their turn.
#[test]
fn local_replies_wait_behind_slow_ones() {
    let server = Running::start(|config| config.fsync = Fsync::Always);
    let mut exchanges = Vec::new();
    for i in 0..2000 {
        let word = format!("w{i}");
        let expected = format!("${}\r\n{word}\r\n", word.len());
        exchanges.push(Exchange::new(resp(&["SET", "k", &word]), b"+OK\r\n"));
        exchanges.push(Exchange::new(resp(&["ECHO", &word]), expected.as_bytes()));
        exchanges.push(Exchange::new(b"{oops}\n".to_vec(), BAD_JSON));
        exchanges.push(Exchange::new(b"get\r\n".to_vec(), BAD_ARITY));
        exchanges.push(Exchange::new(resp(&["GET", "k"]), expected.as_bytes()));
    }
    let start = Instant::now();
    run(&server.raw(), &exchanges);
    println!("{} requests in {:?}", exchanges.len(), start.elapsed());
}

const BAD_JSON: &[u8] =
    b"{\"ok\":false,\"error\":\"ERR invalid JSON: key must be a string at column 2\"}\n";
const BAD_ARITY: &[u8] = b"-ERR wrong number of arguments for 'get' command\r\n";
