//! On the real server, as strace sees it: every reply to a write leaves after the fdatasync that
//! covers its record; so does every reply to a read of it.
//!
//! Needs strace and the right to trace. Where it has not, it says so on stderr and has shown nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;
#[path = "sync_order/trace.rs"]
mod trace;

use std::io::Write;
use std::process::{Command, Stdio};

use kvs::protocol::Value;
use serving::process::Process;
use serving::wait_for;

const CONNECTIONS: u64 = 3;
/// Rounds of each connection, of several requests.
const ROUNDS: u64 = 40;

/// Whether strace is there and may trace; if not, says it where no test harness hides it.
fn can_trace() -> bool {
    let mut trial = Command::new("strace");
    trial.args(["-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let can = trial.status().is_ok_and(|status| status.success());
    if !can {
        let what = "NOT RUN: tests/sync_order.rs needs strace and the right to trace (ptrace)";
        let _ = writeln!(std::io::stderr(), "\n{what}\n");
    }
    can
}

/// Counts in keys of its own and reads those of others, in pipelines.
fn count(server: &Process, connection: u64) {
    let mut client = server.client();
    let key = |connection: u64| format!("count{connection}=");
    client.set(key(connection), (1_000_000_000 * (connection + 1)).to_string()).unwrap();
    for round in 0..ROUNDS {
        let writes = 1 + round % 4;
        for _ in 0..writes {
            client.send(&["INCR", &key(connection)]);
        }
        client.send(&["GET", &key((connection + 1) % CONNECTIONS)]);
        client.flush().unwrap();
        for _ in 0..writes {
            assert!(matches!(client.receive().unwrap(), Value::Integer(_)));
        }
        client.receive().unwrap();
    }
}

/// The trace of a server that was busy.
fn traced(fsync: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (store, trace) = (dir.path().join("store"), dir.path().join("trace"));
    let calls = "trace=pwrite64,fdatasync,fsync,sendto,sendmsg,write,writev";
    let strace = ["strace", "-D", "-f", "-y", "-s", "1000000", "-e", calls, "-o"];
    let wrapper: Vec<&std::ffi::OsStr> =
        strace.iter().map(std::ffi::OsStr::new).chain([trace.as_os_str()]).collect();
    let flags = ["--fsync", fsync, "--segment-bytes", "4k", "--loops", "2"];
    let mut server = Process::wrapped(&wrapper, &store, &flags);
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let server = &server;
            scope.spawn(move || count(server, connection));
        }
    });
    let pid = server.pid().to_string();
    server.signal("TERM");
    server.wait();
    wait_for("the end of the trace", || {
        let text = String::from_utf8_lossy(&std::fs::read(&trace).unwrap()).into_owned();
        let ended = |line: &str| {
            line.strip_prefix(&pid).is_some_and(|rest| rest.trim_start().starts_with("+++ exited"))
        };
        text.lines().any(ended).then_some(text)
    })
}

#[test]
fn replies_leave_after_the_sync_that_covers_their_record() {
    if !can_trace() {
        return;
    }
    let trace = traced("always");
    assert!(trace.contains("/00000003.log"), "it was to fill several segments");
    let told = trace::check(&trace).unwrap();
    let expected = CONNECTIONS * ROUNDS;
    println!("{told} numbers were told, all of them durable");
    assert!(told as u64 > expected, "only {told} numbers were told");
}

/// The check can fail.
#[test]
fn without_syncs_they_leave_before() {
    if !can_trace() {
        return;
    }
    let early = trace::check(&traced("no")).unwrap_err();
    assert!(early.contains("was synced"), "{early}");
}
