//! Clients that mean harm or are in trouble: ever so slow ones, cut frames, nests of brackets, very
//! many connections; and an engine that panics. Others are served meanwhile, and memory stays where
//! it was. (Clients that do not read, and lengths that never come, are in tests/connections.rs.)
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvs::client::Client;
use kvs::engine::{KvsEngine, MemoryEngine};
use kvs::protocol::Value;
use kvs::server::Server;
use serving::process::Process;
use serving::{Random, Running, config, converse, expect, figure, raw, resp, shown, wait_for};

const MIB: usize = 1 << 20;

fn connected(client: &mut Client) -> usize {
    figure(client, "clients", "connected_clients") as usize
}

/// Requests that never end, a byte at a time, in each dialect.
#[test]
fn the_slow_harm_nobody() {
    const SLOW: usize = 400;
    let server = Process::start(&["--loops", "2"]);
    let mut other = server.client();
    let mut slow: Vec<TcpStream> = (0..SLOW).map(|_| raw(server.addr())).collect();
    wait_for("them", || (connected(&mut other) == SLOW + 1).then_some(()));
    let before = server.memory();
    let requests: [&[u8]; 4] = [
        b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$1000000\r\nvaluevaluevalue",
        b"set slow \"a value that is never closed ",
        b"{\"cmd\":\"set\",\"key\":\"slow\",\"value\":\"",
        b"*1048576\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\n",
    ];
    for round in 0..24 {
        for (i, stream) in slow.iter_mut().enumerate() {
            let request = requests[i % requests.len()];
            stream.write_all(&request[round..=round]).unwrap();
        }
        other.set("k", round.to_string()).unwrap();
        assert_eq!(other.get("k").unwrap().unwrap(), round.to_string().as_bytes());
    }
    let grown = server.memory().saturating_sub(before);
    println!("grew by {} bytes for each of them", grown / SLOW);
    assert!(grown < SLOW * 16 * 1024, "it grew by {grown} bytes");
    assert_eq!(other.get("slow").unwrap(), None);
}

#[test]
fn a_stream_may_be_cut_at_every_byte() {
    let server = Running::start(|_| {});
    let mut steady = server.client();
    let requests = [
        resp(&["SET", "k", "a\r\nb"]),
        b"append k \"\\x00 c\"\r\n".to_vec(),
        b"{\"cmd\":\"get\",\"key\":\"k\",\"id\":7}\n".to_vec(),
        resp(&["STRLEN", "k"]),
        b"*0\r\n\r\nping\n".to_vec(),
        resp(&["MGET", "k", "none"]),
    ]
    .concat();
    let expected =
        b"+OK\r\n:7\r\n{\"ok\":true,\"value\":\"a\\r\\nb\\u0000 c\",\"id\":7}\n:7\r\n+PONG\r\n\
        *2\r\n$7\r\na\r\nb\0 c\r\n$-1\r\n";
    for at in 1..requests.len() {
        let mut stream = server.raw();
        stream.write_all(&requests[..at]).unwrap();
        // The loop has most likely taken it by the time that this is answered.
        steady.ping().unwrap();
        stream.write_all(&requests[at..]).unwrap();
        expect(&mut stream, expected);
    }
}

#[test]
fn nests_and_noise_are_answered_or_cut_off() {
    let server = Running::start(|config| config.loops = 2);
    let deep = |open: &str, line: &str| [line.as_bytes(), &open.repeat(MIB).into_bytes()].concat();
    for bomb in [
        deep("[", "{\"args\":"),
        deep("{\"a\":", "{\"id\":"),
        deep("[", "{\"args\":[\"ping\"],\"id\":"),
    ] {
        let input = [&bomb[..], b"\nping\r\n"].concat();
        let reply = converse(server.addr(), &input);
        let text = String::from_utf8_lossy(&reply);
        assert!(
            text.starts_with("{\"ok\":false,\"error\":\"ERR invalid JSON"),
            "{}",
            shown(&reply)
        );
        assert!(text.ends_with("\n+PONG\r\n"), "{}", shown(&reply));
    }
    let nested = "[".repeat(MIB) + &"]".repeat(MIB);
    let input = format!("{{\"args\":[\"ping\"],\"id\":{nested}}}\n");
    let reply = converse(server.addr(), input.as_bytes());
    let text = String::from_utf8(reply).unwrap();
    assert!(
        text == format!("{{\"ok\":true,\"value\":\"PONG\",\"id\":{nested}}}\n")
            || text.contains("\"ok\":false")
    );
    assert_eq!(
        shown(&converse(server.addr(), &b"*1\r\n".repeat(1000))),
        r"-ERR Protocol error: expected \'$\', got \'*\'\r\n"
    );

    let mut random = Random::seeded();
    for _ in 0..100 {
        let noise: Vec<u8> = (0..random.below(20_000)).map(|_| random.next() as u8).collect();
        let mut stream = server.raw();
        // It may be cut off before all is sent.
        let _ = stream.write_all(&noise);
    }
    server.client().ping().unwrap();
}

/// Each bit that is set in a large value makes a record of all of it. They are not all in memory at a
/// time, however many are asked for at once.
#[test]
fn many_changes_of_a_large_value_stay_within_bounds() {
    const CHANGES: usize = 300;
    let server = Process::start(&["--fsync", "no"]);
    let mut client = server.client();
    client.command(&["SETBIT", "bits", &(8 * MIB - 1).to_string(), "1"]).unwrap();
    let (grown, ()) = server.growth(|| {
        for bit in 0..CHANGES {
            client.send(&["SETBIT", "bits", &bit.to_string(), "1"]);
            client.send(&["INCR", "n"]);
        }
        client.flush().unwrap();
        for i in 0..CHANGES {
            assert_eq!(client.receive().unwrap(), Value::Integer(0));
            assert_eq!(client.receive().unwrap(), Value::Integer(i as i64 + 1));
        }
    });
    println!("grew by {} MiB", grown / MIB);
    assert!(grown < 200 * MIB, "it grew by {} MiB", grown / MIB);
    let ones = client.command(&["BITCOUNT", "bits"]).unwrap();
    assert_eq!(ones, Value::Integer(CHANGES as i64 + 1));
}

/// A read of very many keys is no more than that: a look through the keys of all others for each of
/// them would hold up the loop for minutes.
#[test]
fn a_read_of_very_many_keys_holds_up_nobody() {
    const KEYS: usize = 1_000_000;
    let server = Running::start(|_| {});
    let mut client = server.client();
    let mut words = vec![b"EXISTS".to_vec()];
    words.extend((0..KEYS).map(|i| format!("key-{i}").into_bytes()));
    client.send(&["SET", "key-7", "v"]);
    client.send(&words);
    client.flush().unwrap();
    let mut other = server.client();
    other.ping().unwrap();
    assert_eq!(client.receive().unwrap(), Value::Simple("OK".into()));
    assert_eq!(client.receive().unwrap(), Value::Integer(1));
}

/// All that a process may have open: clients are turned away before the store lacks a file. If it grows
/// until it does, it takes writes again once there is room.
#[test]
fn connections_leave_descriptors_to_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let few = ["sh", "-c", "ulimit -n 160; exec \"$0\" \"$@\""].map(std::ffi::OsStr::new);
    let server = Process::wrapped(&few, dir.path(), &["--segment-bytes", "64k"]);
    let mut client = server.client();
    let mut others: Vec<TcpStream> = (0..200).map(|_| raw(server.addr())).collect();
    let mut last = others.pop().unwrap();
    let refusal = serving::read_to_end(&mut last);
    assert_eq!(shown(&refusal), r"-ERR max number of clients reached\r\n");
    // Each takes a new segment.
    let value = |i: u8| vec![i; 60 << 10];
    for i in 0..10 {
        client.set("k", value(i)).unwrap();
    }
    let mut keys = 0;
    let refusal = wait_for("a store that is too large", || {
        keys += 1;
        client.set(format!("key-{keys}"), value(keys)).err()
    });
    assert!(refusal.to_string().contains("Too many open files"), "{refusal}");
    assert_eq!(client.get("k").unwrap().unwrap(), value(9));
    drop(others);
    wait_for("room", || client.set(format!("key-{keys}"), value(keys)).ok());
    for i in 1..=keys {
        assert_eq!(client.get(format!("key-{i}")).unwrap().unwrap(), value(i));
    }
    server.client().ping().unwrap();
}

/// One write of very many small requests.
#[test]
fn a_huge_pipeline_is_answered_in_order() {
    const REQUESTS: usize = 200_000;
    let server = Running::start(|_| {});
    let input: Vec<u8> = (0..REQUESTS).flat_map(|i| format!("echo {i}\n").into_bytes()).collect();
    let expected: Vec<u8> = (0..REQUESTS)
        .flat_map(|i| format!("${}\r\n{i}\r\n", i.to_string().len()).into_bytes())
        .collect();
    assert!(converse(server.addr(), &input) == expected);
}

/// Raises the number of descriptors that this process and those it starts may have to what is
/// allowed; returns it.
#[allow(unsafe_code)]
fn raise_descriptors() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a struct of this type, and only that.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    limit.rlim_cur as usize
}

#[test]
fn ten_thousand_idle_connections_cost_little() {
    const SPARE: usize = 300;
    const MOST_EACH: usize = 1024;
    let allowed = raise_descriptors();
    let connections = 10_000.min(allowed.saturating_sub(SPARE));
    if connections < 10_000 {
        let _ = writeln!(
            std::io::stderr(),
            "\nONLY {connections} connections: ulimit -n is {allowed}\n"
        );
    }
    let server = Process::start(&["--max-clients", "12000", "--loops", "2"]);
    let mut other = server.client();
    other.ping().unwrap();
    let before = server.memory();
    let mut idle: Vec<TcpStream> = Vec::with_capacity(connections);
    while idle.len() < connections {
        // No more at once than wait in the listener's queue: beyond, connecting takes a second.
        let more = 1000.min(connections - idle.len());
        idle.extend((0..more).map(|_| raw(server.addr())));
        wait_for("them", || (connected(&mut other) == idle.len() + 1).then_some(()));
    }
    // Each has been used.
    for stream in &mut idle {
        stream.write_all(b"ping\r\n").unwrap();
    }
    for stream in &mut idle {
        expect(stream, b"+PONG\r\n");
    }
    let each = server.memory().saturating_sub(before) / connections;
    println!("{each} bytes for each of {connections} idle connections");
    assert!(each < MOST_EACH, "{each} bytes for each");
    drop(idle);
    wait_for("their end", || (connected(&mut other) == 1).then_some(()));
}

fn descriptors(server: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// Connections that come and go, each in another way, leave nothing behind.
#[test]
fn churn_leaves_nothing_behind() {
    let server = Process::start(&["--loops", "2"]);
    let mut other = server.client();
    let mut round = |connections: usize| {
        for i in 0..connections {
            let mut stream = raw(server.addr());
            match i % 4 {
                0 => {}
                1 => stream.write_all(b"*2\r\n$3\r\nGE").unwrap(),
                // Closed with a reply unread: a reset.
                2 => stream.write_all(b"ping\r\nping\r\n").unwrap(),
                _ => {
                    stream.write_all(b"set k v\r\nquit\r\n").unwrap();
                    stream.read_to_end(&mut Vec::new()).unwrap();
                }
            }
        }
        wait_for("their end", || (connected(&mut other) == 1).then_some(()));
        (descriptors(&server), server.memory())
    };
    let (files, memory) = round(1000);
    let (files_after, memory_after) = round(3000);
    assert!(files_after <= files + 2, "{files} descriptors, then {files_after}");
    let grown = memory_after.saturating_sub(memory);
    assert!(grown < 2 * MIB, "it grew by {grown} bytes");
}

/// Panics at some keys.
#[derive(Clone, Default)]
struct Jumpy(MemoryEngine);

static PANICS: AtomicUsize = AtomicUsize::new(0);

impl Jumpy {
    fn check(key: &str) {
        if key.starts_with("boom") {
            PANICS.fetch_add(1, Ordering::SeqCst);
            panic!("an engine with a bug");
        }
    }
}

impl KvsEngine for Jumpy {
    fn set(&self, key: String, value: String) -> kvs::Result<()> {
        Jumpy::check(&key);
        self.0.set(key, value)
    }

    fn get(&self, key: String) -> kvs::Result<Option<String>> {
        Jumpy::check(&key);
        self.0.get(key)
    }

    fn remove(&self, key: String) -> kvs::Result<()> {
        Jumpy::check(&key);
        self.0.remove(key)
    }
}

#[test]
fn a_panic_answers_its_request_and_costs_no_thread() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_engine(config(dir.path()), Jumpy::default(), 2).unwrap();
    let server = Running::of(server);
    let mut client = server.client();
    client.set("k", "v").unwrap();
    for i in 0..100 {
        let words: [&[&str]; 3] =
            [&["GET", "boom"], &["SET", "boom", "x"], &["MSET", "a", "b", "boom", "x"]];
        let Value::Error(line) = client.call(words[i % 3]).unwrap() else { panic!("no error") };
        assert_eq!(line, "ERR internal error: the command panicked");
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 100);
    assert_eq!(client.get("k").unwrap().unwrap(), b"v");
    // Both threads are there: each of two connections has its own.
    server.client().set("k", "w").unwrap();
    assert_eq!(client.get("k").unwrap().unwrap(), b"w");
}
