//! The server process from its first line to its exit code: what it refuses to start with, what it
//! says while it loads, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use kvs::KvStore;
use kvs::client::Client;
use kvs::protocol::Value;
use serving::process::{Process, run};
use serving::{raw, read_to_end, resp, shown, wait_for};

/// The names, sizes and contents of the files in a directory.
fn contents(dir: &Path) -> BTreeSet<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Runs kvs-server with flags that it must refuse: on one line that holds `words`, and with nothing
/// made or changed in `dir`.
#[track_caller]
fn refused(dir: &Path, flags: &[&str], words: &[&str]) {
    let before = dir.exists().then(|| contents(dir));
    let place = dir.to_str().unwrap();
    let (code, stderr) = run(&[&["--dir", place, "--log-level", "off"], flags].concat());
    assert!(code.is_some_and(|code| code != 0), "{flags:?} ended with {code:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{flags:?} is refused with {stderr}");
    for word in words {
        assert!(stderr.contains(word), "no '{word}' in {stderr}");
    }
    assert_eq!(dir.exists().then(|| contents(dir)), before, "{flags:?} touched {place}");
}

#[test]
fn bad_flags_are_refused_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new");
    refused(&new, &["--colour", "blue"], &["--colour"]);
    refused(&new, &["serve"], &["serve"]);
    refused(&new, &["--addr", "localhost"], &["localhost", "IP:PORT"]);
    refused(&new, &["--addr", "127.0.0.1:70000"], &["70000"]);
    refused(&new, &["--fsync", "maybe"], &["maybe", "always, everysec or no"]);
    refused(&new, &["--engine", "rocks"], &["rocks", "kvs or memory"]);
    refused(&new, &["--loops", "0"], &["loops", "0"]);
    refused(&new, &["--loop-reads", "perhaps"], &["loop-reads", "yes or no", "perhaps"]);
    refused(&new, &["--segment-bytes", "1"], &["segment-bytes"]);
    let file = dir.path().join("settings");
    std::fs::write(&file, "fsync no\ncolour blue\n").unwrap();
    refused(&new, &["--config", file.to_str().unwrap()], &["colour", "line 2"]);
    refused(&new, &["--config", new.to_str().unwrap()], &["configuration", "new"]);
}

#[test]
fn an_address_in_use_or_of_another_machine_is_refused() {
    let server = Process::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new");
    let addr = server.addr().to_string();
    refused(&new, &["--addr", &addr], &["in use", &addr]);
    refused(&new, &["--addr", "192.0.2.1:0"], &["192.0.2.1"]);
    server.client().ping().unwrap();
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    for place in [file.clone(), file.join("below")] {
        let place = place.to_str().unwrap();
        let flags = ["--addr", "127.0.0.1:0", "--log-level", "off", "--dir", place];
        let (code, stderr) = run(&flags);
        assert!(code.is_some_and(|code| code != 0), "{code:?}");
        assert!(stderr.lines().count() == 1 && stderr.contains(place), "{stderr}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn another_engines_directory_is_refused() {
    for (maker, other) in [("memory", "kvs"), ("kvs", "memory")] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Process::start_in(dir.path(), &["--engine", maker]);
        server.client().set("k", "v").unwrap();
        server.signal("TERM");
        assert!(server.wait().success());
        let flags = ["--addr", "127.0.0.1:0", "--engine", other];
        refused(dir.path(), &flags, &[maker, other, "--engine"]);
    }
}

/// While another process has the directory, the server listens already and says that it loads.
#[test]
fn while_it_loads_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    store.set("k".into(), "v".into()).unwrap();
    let server = Process::listening(dir.path(), &[]);
    let mut client = server.client();
    for words in [&["GET", "k"][..], &["SET", "k", "w"], &["KEYS", "*"], &["PING"]] {
        let reply = client.call(words).unwrap();
        let loading = matches!(&reply, Value::Error(line) if line.starts_with("LOADING "));
        assert!(loading, "{words:?} is answered by {reply:?}");
    }
    for words in [&["ECHO", "hi"][..], &["INFO"], &["CONFIG", "GET", "port"], &["SELECT", "0"]] {
        client.command(words).unwrap();
    }
    let mut stream = raw(server.addr());
    stream.write_all(b"{\"cmd\":\"get\",\"key\":\"k\"}\nquit\n").unwrap();
    let came = String::from_utf8(read_to_end(&mut stream)).unwrap();
    assert!(came.starts_with("{\"ok\":false,\"error\":\"LOADING "), "{came}");
    drop(store);
    let value = wait_for("the store", || client.get("k").ok());
    assert_eq!(value.unwrap(), b"v");
}

/// The store may take minutes to open; nobody has to wait for it who wants the server to end.
#[test]
fn it_can_be_ended_while_it_loads() {
    let dir = tempfile::tempdir().unwrap();
    let store = KvStore::open(dir.path()).unwrap();
    for by_signal in [true, false] {
        let mut server = Process::listening(dir.path(), &[]);
        let mut client = server.client();
        let Value::Bulk(text) = client.command(&["INFO", "persistence"]).unwrap() else { panic!() };
        let text = String::from_utf8(text).unwrap();
        for field in
            ["loading:1", "loading_start_time:", "loading_loaded_perc:", "loading_eta_seconds:"]
        {
            assert!(text.contains(field), "no {field} in {text}");
        }
        match by_signal {
            true => server.signal("TERM"),
            false => drop(client.call(&["SHUTDOWN"])),
        }
        // Not the end that it comes to when it does not get the directory.
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    }
    store.set("k".into(), "v".into()).unwrap();
}

/// If the other process keeps it, the second one gives up and names it.
#[test]
fn a_directory_has_one_server() {
    let server = Process::start(&[]);
    let client = &mut server.client();
    let Value::Array(reply) = client.command(&["CONFIG", "GET", "dir"]).unwrap() else { panic!() };
    let [_, Value::Bulk(dir)] = &reply[..] else { panic!("{reply:?}") };
    let dir = std::str::from_utf8(dir).unwrap();
    let start = Instant::now();
    let (code, stderr) = run(&["--addr", "127.0.0.1:0", "--dir", dir, "--log-level", "off"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&server.pid().to_string()), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(20));
    client.ping().unwrap();
}

#[test]
fn it_says_what_and_where_it_is() {
    let server = Process::start(&["--loops", "1"]);
    let log = server.log();
    for part in [env!("CARGO_PKG_VERSION"), "kvs", &server.addr().to_string(), "directory"] {
        assert!(log.contains(part), "no {part} in {log}");
    }
}

/// Sends writes and a signal behind them: all are answered, all are there after a restart.
#[test]
fn a_signal_ends_it_when_what_was_received_is_answered() {
    for (signal, engine) in [("TERM", "kvs"), ("INT", "kvs"), ("TERM", "memory")] {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--loops", "2", "--engine", engine];
        let mut server = Process::start_in(dir.path(), &flags);
        let mut idle = server.client();
        idle.ping().unwrap();
        let mut streams: Vec<_> = (0..4).map(|_| raw(server.addr())).collect();
        for (i, stream) in streams.iter_mut().enumerate() {
            let mut requests = Vec::new();
            for j in 0..300 {
                requests.extend(resp(&["SET", &format!("{i}-{j}"), &format!("v{j}")]));
                requests.extend(resp(&["GET", &format!("{i}-{j}")]));
            }
            stream.write_all(&requests).unwrap();
        }
        server.signal(signal);
        let expected: Vec<u8> = (0..300)
            .flat_map(|j| format!("+OK\r\n${}\r\nv{j}\r\n", format!("v{j}").len()).into_bytes())
            .collect();
        for stream in &mut streams {
            let came = read_to_end(stream);
            assert!(came == expected, "{signal}: {} of {}", came.len(), expected.len());
        }
        let status = server.wait();
        assert_eq!(status.code(), Some(0), "{}", server.log());
        assert!(idle.ping().is_err());
        if engine == "kvs" {
            let store = KvStore::open(dir.path()).unwrap();
            assert_eq!(store.len(), 1200);
            assert_eq!(store.get("3-299".into()).unwrap().unwrap(), "v299");
        }
    }
}

#[test]
fn shutdown_ends_it_too_and_answers_nothing() {
    for words in [&["SHUTDOWN"][..], &["shutdown", "nosave"], &["SHUTDOWN", "SAVE", "NOW"]] {
        let mut server = Process::start(&[]);
        let mut stream = raw(server.addr());
        let requests = [resp(&["SET", "k", "v"]), resp(words), resp(&["SET", "k", "w"])].concat();
        stream.write_all(&requests).unwrap();
        assert_eq!(shown(&read_to_end(&mut stream)), r"+OK\r\n");
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        assert!(server.log().contains("SHUTDOWN"));
    }
}

/// What was acknowledged is there after SIGKILL, whatever was under way.
#[test]
fn a_kill_takes_back_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..3 {
        let server = Process::start_in(dir.path(), &["--segment-bytes", "64k"]);
        let mut client = server.client();
        check_numbers(&mut client, acknowledged);
        // 500 sent, some number of them answered: the others may be there or not.
        for i in 0..500 {
            client.send(&[
                "SET",
                &format!("k{:06}", acknowledged + i),
                "value ".repeat(20).as_str(),
            ]);
        }
        client.flush().unwrap();
        for _ in 0..100 + 100 * round {
            assert_eq!(client.receive().unwrap(), Value::Simple("OK".into()));
            acknowledged += 1;
        }
        server.kill();
    }
    let server = Process::start_in(dir.path(), &[]);
    check_numbers(&mut server.client(), acknowledged);
}

fn check_numbers(client: &mut Client, until: usize) {
    for i in 0..until {
        let value = client.get(format!("k{i:06}")).unwrap();
        assert_eq!(value.as_deref(), Some("value ".repeat(20).as_bytes()), "k{i:06}");
    }
}

/// A graceful stop waits for clients to take their replies, not for those that never will.
#[test]
fn a_client_that_does_not_read_holds_up_the_end_for_a_while_only() {
    let mut server = Process::start(&[]);
    server.client().set("big", vec![b'x'; 8 << 20]).unwrap();
    let mut stream = raw(server.addr());
    stream.write_all(&resp(&["GET", "big"]).repeat(4)).unwrap();
    // Its first bytes tell that the request was taken.
    serving::expect(&mut stream, b"$8388608\r\n");
    server.signal("TERM");
    let start = Instant::now();
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
