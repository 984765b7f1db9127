//! What operators ask of a server: settings in files, DEBUG, a compaction.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::time::{Duration, Instant};

use kvs::config::{DebugCommand, Fsync};
use kvs::protocol::Value;
use serving::process::{Process, run};
use serving::{Running, figure, ok, says, wait_for};

#[test]
fn debug_is_for_those_who_allowed_it() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    for line in ["debug sleep 0", "debug set-active-expire 0", "debug help"] {
        let Value::Error(refusal) = says(&mut client, line) else { panic!("{line}") };
        assert!(refusal.starts_with("ERR DEBUG command not allowed. If the"), "{refusal}");
    }
    for who in [DebugCommand::Local, DebugCommand::Yes] {
        let server = Running::start(|config| config.debug_command = who);
        let (mut sleeper, mut other) = (server.client(), server.client());
        assert_eq!(says(&mut sleeper, "debug set-active-expire 1"), ok());
        let begin = Instant::now();
        sleeper.send(&["DEBUG", "SLEEP", "0.2"]);
        sleeper.send(&["PING"]);
        sleeper.flush().unwrap();
        assert_eq!(says(&mut other, "ping"), Value::Simple("PONG".into()));
        assert_eq!(sleeper.receive().unwrap(), ok());
        assert!(begin.elapsed() >= Duration::from_millis(200));
        assert_eq!(sleeper.receive().unwrap(), Value::Simple("PONG".into()));
    }
}

#[test]
fn a_compaction_is_started_and_seen() {
    let server = Running::start(|config| config.segment_bytes = 64 * 1024);
    let mut client = server.client();
    let value = "x".repeat(1000);
    for _ in 0..500 {
        client.set("k", &value).unwrap();
    }
    let before = figure(&mut client, "kvs", "dead_bytes");
    let started = Value::Simple("Background append only file rewriting started".into());
    assert_eq!(says(&mut client, "bgrewriteaof"), started);
    wait_for("its end", || {
        (figure(&mut client, "persistence", "aof_rewrite_in_progress") == 0).then_some(())
    });
    let after = figure(&mut client, "kvs", "dead_bytes");
    assert!(after < before / 2, "{before} dead bytes became {after}");
    assert_eq!(client.get("k").unwrap().unwrap(), value.as_bytes());
}

#[test]
fn writes_are_known_to_be_on_the_disk_with_fsync_always_only() {
    for (fsync, local) in [(Fsync::Always, 1), (Fsync::EverySec, 0), (Fsync::No, 0)] {
        let server = Running::start(|config| config.fsync = fsync);
        let mut client = server.client();
        client.send(&["SET", "k", "v"]);
        client.send(&["WAITAOF", "1", "0", "1000"]);
        client.flush().unwrap();
        assert_eq!(client.receive().unwrap(), ok());
        let expected = Value::Array(vec![Value::Integer(local), Value::Integer(0)]);
        assert_eq!(client.receive().unwrap(), expected, "{fsync:?}");
    }
}

/// Set at run time, written back, and there at the next start; flags win over the file.
#[test]
fn settings_survive_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kvs.conf");
    std::fs::write(&file, "# mine\nmaxclients 50 # enough\nappendfsync no\n").unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    let server = Process::start_in(dir.path(), &flags);
    let mut client = server.client();
    for line in ["config set maxclients 60 timeout 100", "config rewrite"] {
        assert_eq!(says(&mut client, line), ok(), "{line}");
    }
    assert_eq!(says(&mut client, "config set requirepass se\"c#ret"), ok());
    assert_eq!(says(&mut client, "config rewrite"), ok());
    server.kill();
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        written,
        "# mine\nmaxclients 60\nappendfsync no\n# Set by CONFIG REWRITE\ntimeout 100\n\
         requirepass \"se\\\"c#ret\"\n"
    );

    let server = Process::start_in(dir.path(), &[&flags[..], &["--timeout", "7"]].concat());
    let mut client = server.client();
    let refused = Value::Error("NOAUTH Authentication required.".into());
    assert_eq!(says(&mut client, "get k"), refused);
    assert_eq!(says(&mut client, "auth se\"c#ret"), ok());
    let setting = |name: &str, value: &str| {
        Value::Array([name, value].map(|word| Value::Bulk(word.into())).into())
    };
    assert_eq!(says(&mut client, "config get maxclients"), setting("maxclients", "60"));
    assert_eq!(says(&mut client, "config get appendfsync"), setting("appendfsync", "no"));
    assert_eq!(says(&mut client, "config get timeout"), setting("timeout", "7"));
    server.kill();

    std::fs::write(&file, "maxclients 50\nsave 900 1\n").unwrap();
    let (code, message) = run(&["--dir", dir.path().to_str().unwrap(), flags[0], flags[1]]);
    assert_eq!(code, Some(1));
    assert!(message.contains("kvs.conf, line 2: save: it is always ''"), "{message}");
}

/// Bounds on connections and on what waits for them hold from the reply on.
#[test]
fn bounds_change_while_the_server_runs() {
    let server = Running::start(|config| config.loops = 2);
    let mut boss = server.client();
    let mut second = server.client();
    assert_eq!(says(&mut second, "ping"), Value::Simple("PONG".into()));
    assert_eq!(says(&mut boss, "config set maxclients 2"), ok());
    let mut third = server.raw();
    let refusal = b"-ERR max number of clients reached\r\n";
    assert_eq!(serving::shown(&serving::read_to_end(&mut third)), serving::shown(refusal));
    assert_eq!(says(&mut boss, "config set maxclients 100"), ok());
    assert_eq!(says(&mut server.client(), "ping"), Value::Simple("PONG".into()));

    // More than the sockets' buffers take.
    second.set("big", vec![b'x'; 32 << 20]).unwrap();
    assert_eq!(says(&mut boss, "config set proto-max-bulk-len 1mb"), ok());
    second.set("k", vec![b'x'; 1 << 20]).unwrap();
    assert!(second.set("k", vec![b'x'; (1 << 20) + 1]).is_err());

    boss.call(&["CONFIG", "SET", "client-output-buffer-limit", "normal 64kb 0 0"]).unwrap();
    // On both loops, as soon as they have heard of it.
    wait_for("the cut on each loop", || {
        let cut = |_| server.client().get("big").is_err();
        (0..4).all(cut).then_some(())
    });
    assert_eq!(says(&mut boss, "ping"), Value::Simple("PONG".into()));
}
