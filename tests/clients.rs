//! What connections are to the server and to each other: logging in, being listed, killed, paused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::io::{Read, Write};

use kvs::client::Client;
use kvs::config::DebugCommand;
use kvs::protocol::Value;
use serving::{Running, converse, expect, ok, raw, resp, says, shown, text};

const NOAUTH: &str = "NOAUTH Authentication required.";

fn error(line: &str) -> Value {
    Value::Error(line.into())
}

#[test]
fn a_password_is_asked_for_from_new_connections() {
    let server = Running::start(|config| config.loops = 2);
    let mut before = server.client();
    assert_eq!(says(&mut before, "config set requirepass secret"), ok());
    assert_eq!(says(&mut before, "set k v"), ok(), "it was here before the password");

    let mut client = server.client();
    for line in ["get k", "ping", "select 0", "info", "client id", "shutdown"] {
        assert_eq!(says(&mut client, line), error(NOAUTH), "{line}");
    }
    // What cannot be a request at all is told of first, as Redis does.
    assert_eq!(says(&mut client, "get"), error("ERR wrong number of arguments for 'get' command"));
    let Value::Error(line) = says(&mut client, "hello 3") else { panic!("HELLO") };
    assert!(line.starts_with("NOAUTH HELLO must be called with the client already"), "{line}");
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    for line in
        ["auth secre", "auth default Secret", "auth nobody secret", "hello 2 auth default x"]
    {
        assert_eq!(says(&mut client, line), error(wrong), "{line}");
        assert_eq!(says(&mut client, "get k"), error(NOAUTH));
    }
    assert_eq!(says(&mut client, "auth secret"), ok());
    assert_eq!(says(&mut client, "get k"), Value::Bulk(b"v".into()));
    assert_eq!(says(&mut client, "auth wrong"), error(wrong));
    assert_eq!(says(&mut client, "get k"), Value::Bulk(b"v".into()), "it stays logged in");
    assert_eq!(says(&mut client, "reset"), Value::Simple("RESET".into()));
    assert_eq!(says(&mut client, "get k"), error(NOAUTH), "RESET logs out");
    assert!(matches!(says(&mut client, "hello 2 auth default secret"), Value::Array(_)));
    assert_eq!(says(&mut client, "config set requirepass "), ok());
    assert_eq!(says(&mut server.client(), "get k"), Value::Bulk(b"v".into()));
}

#[test]
fn who_has_not_logged_in_cannot_fill_the_memory() {
    let server = Running::start(|_| {});
    assert_eq!(says(&mut server.client(), "config set requirepass secret"), ok());
    let ask = |input: &[u8]| shown(&converse(server.addr(), input));
    let error = |what: &str| format!("-ERR Protocol error: {what}\\r\\n");
    assert_eq!(ask(b"*11\r\n"), error("unauthenticated multibulk length"));
    assert_eq!(ask(b"*2\r\n$3\r\nGET\r\n$16385\r\n"), error("unauthenticated bulk length"));
    let json = [&b"{\"cmd\":\"get\",\"key\":\""[..], &[b'x'; 70_000]].concat();
    assert_eq!(ask(&json), error("too big JSON line"));

    // Behind an AUTH in the same packet everything is allowed.
    let many: Vec<String> = (0..40).map(|i| format!("k{i}")).collect();
    let many = [&["MGET".to_owned()][..], &many].concat();
    let input = [resp(&["AUTH", "secret"]), resp(&many), resp(&["PING"])].concat();
    let expected = format!("+OK\\r\\n*40\\r\\n{}+PONG\\r\\n", "$-1\\r\\n".repeat(40));
    assert_eq!(ask(&input), expected);

    // And one that logs in first may send slowly.
    let mut slow = raw(server.addr());
    slow.write_all(&resp(&["AUTH", "secret"])).unwrap();
    expect(&mut slow, b"+OK\r\n");
    slow.write_all(b"*2\r\n$3\r\nGET\r\n$20000\r\n").unwrap();
    slow.write_all(&[b'x'; 20_000]).unwrap();
    slow.write_all(b"\r\n").unwrap();
    expect(&mut slow, b"$-1\r\n");
}

/// The value behind `name=` in a line of CLIENT LIST.
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let start = format!("{name}=");
    line.split(' ').find_map(|word| word.strip_prefix(&start)).unwrap()
}

/// On two loops, so that at least one of those asked about is on another than who asks.
#[test]
fn connections_are_listed_from_any_loop() {
    let server = Running::start(|config| config.loops = 2);
    let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(says(client, &format!("client setname c{i}")), ok());
    }
    says(&mut clients[1], "select 5");
    assert_eq!(says(&mut clients[1], "incr n"), Value::Integer(1));
    let list = text(says(&mut clients[0], "client list"));
    let mut lines: Vec<&str> =
        list.lines().filter(|line| !field(line, "name").is_empty()).collect();
    lines.sort_by_key(|line| field(line, "name"));
    assert_eq!(
        lines.iter().map(|line| field(line, "name")).collect::<Vec<_>>(),
        ["c0", "c1", "c2"]
    );
    assert_eq!(
        lines.iter().map(|line| field(line, "cmd")).collect::<Vec<_>>(),
        ["client|list", "incr", "client|setname"]
    );
    assert_eq!(field(lines[1], "db"), "5");
    assert_eq!(field(lines[0], "laddr"), server.addr().to_string());
    let Value::Integer(id) = says(&mut clients[1], "client id") else { panic!("CLIENT ID") };
    assert_eq!(field(lines[1], "id"), id.to_string());
    let info = text(says(&mut clients[1], "client info"));
    assert_eq!((field(&info, "id"), field(&info, "cmd")), (field(lines[1], "id"), "client|info"));
    // What Redis 7.0 lists, in its order.
    let names: Vec<&str> =
        info.trim_end().split(' ').map(|word| word.split('=').next().unwrap()).collect();
    assert_eq!(
        names.join(" "),
        "id addr laddr fd name age idle flags db sub psub ssub multi qbuf qbuf-free argv-mem \
         multi-mem rbs rbp obl oll omem tot-mem events cmd user redir resp"
    );
    assert_eq!(field(lines[2], "qbuf-free"), "0", "what is empty holds no memory");
    // Of itself it tells how it is in the middle of the turn: what has arrived, what was chosen.
    assert_eq!(field(&info, "qbuf"), "26", "{info}");
    clients[1].send(&["SELECT", "6"]);
    clients[1].send(&["CLIENT", "INFO"]);
    clients[1].flush().unwrap();
    assert_eq!(clients[1].receive().unwrap(), ok());
    assert_eq!(field(&text(clients[1].receive().unwrap()), "db"), "6");
    let both = text(says(&mut clients[0], &format!("client list id {id} 123456 {id}")));
    assert_eq!(both.lines().count(), 2);
    drop(clients.pop());
    serving::wait_for("the end of one", || {
        (!text(says(&mut clients[0], "client list")).contains("name=c2 ")).then_some(())
    });
}

#[test]
fn connections_are_killed_from_any_loop() {
    let server = Running::start(|config| config.loops = 2);
    let mut killer = server.client();
    for round in 0..8 {
        let mut victim = server.client();
        let id = match says(&mut victim, "client id") {
            Value::Integer(id) => id,
            other => panic!("{other:?}"),
        };
        let line = text(says(&mut killer, &format!("client list id {id}")));
        let addr = field(&line, "addr").to_owned();
        let (kill, killed) = match round % 4 {
            0 => (format!("client kill {addr}"), ok()),
            1 => (format!("client kill id {id}"), Value::Integer(1)),
            2 => (format!("client kill addr {addr} user default type normal"), Value::Integer(1)),
            _ => (format!("client kill id {id} type pubsub"), Value::Integer(0)),
        };
        assert_eq!(says(&mut killer, &kill), killed);
        // From the reply on, nothing that the victim asks for is done.
        let refused = victim.call(&["SET", "k", "v"]);
        assert_eq!(refused.is_ok(), round % 4 == 3, "{refused:?}");
        assert_eq!(says(&mut killer, "exists k"), Value::Integer((round % 4 == 3).into()));
        says(&mut killer, "del k");
    }
    let me = format!("client kill laddr {}", server.addr());
    let mut others: Vec<Client> = (0..3).map(|_| server.client()).collect();
    others.iter_mut().for_each(|client| drop(says(client, "ping")));
    let Value::Integer(killed) = says(&mut killer, &me) else { panic!("CLIENT KILL") };
    assert!(killed >= 3, "{killed}");
    // Nor is any of them told of.
    assert_eq!(text(says(&mut killer, "client list")).lines().count(), 1);
    let clients = text(says(&mut killer, "info clients"));
    assert!(clients.contains("connected_clients:1\r\n"), "{clients}");
    assert!(others.iter_mut().all(|client| client.call(&["PING"]).is_err()));
    // It counts itself if told to, and hears of it.
    assert_eq!(says(&mut killer, &format!("{me} skipme no")), Value::Integer(1));
    assert!(killer.call(&["PING"]).is_err());
}

#[test]
fn replies_are_left_out_on_request() {
    let server = Running::start(|_| {});
    let ask = |text: &str| shown(&converse(server.addr(), text.as_bytes()));
    assert_eq!(
        ask("client reply off\nset a 1\nget a\nfoo\nincr a\nclient reply on\nget a\n"),
        "+OK\\r\\n$1\\r\\n2\\r\\n"
    );
    assert_eq!(
        ask("client reply skip\nincr a\nincr a\nclient reply skip\nping\nget a\n"),
        ":4\\r\\n$1\\r\\n4\\r\\n"
    );
    // A SKIP that is skipped itself skips the next; errors and JSON lines are replies, too.
    assert_eq!(ask("client reply skip\nclient reply skip\nincr a\nget a\n"), "$1\\r\\n5\\r\\n");
    let skipped = ask("client reply skip\nnosuch\nclient reply skip\n{\n{\"cmd\":\"dbsize\"}\n");
    assert_eq!(skipped.replace('\\', ""), "{\"ok\":true,\"value\":1}n");
    let off = ask("client reply off\nclient reply skip\nping\nclient reply on\nping\n");
    assert_eq!(off, "+OK\\r\\n+PONG\\r\\n");
    assert_eq!(ask("client reply off\nreset\nping\n"), "+RESET\\r\\n+PONG\\r\\n");
    assert_eq!(ask("client reply skip\nreset\nping\n"), "+PONG\\r\\n");
}

/// What a pause holds back comes in order when it ends, and reads go on if only writes are held.
#[test]
fn a_pause_holds_requests_back_in_order() {
    let server = Running::start(|config| config.loops = 2);
    let (mut boss, mut writer, mut reader) = (server.client(), server.client(), server.client());
    for client in [&mut boss, &mut writer, &mut reader] {
        assert_eq!(says(client, "set k 0"), ok());
    }
    assert_eq!(says(&mut boss, "client pause 100000 write"), ok());
    for line in ["get k", "incr k", "get k", "ping"] {
        writer.send(&line.split(' ').collect::<Vec<_>>());
    }
    writer.flush().unwrap();
    assert_eq!(writer.receive().unwrap(), Value::Bulk(b"0".into()));
    serving::wait_for("the held writer", || {
        let list = text(says(&mut boss, "client list"));
        list.lines().any(|line| field(line, "flags") == "b").then_some(())
    });
    for _ in 0..50 {
        assert_eq!(says(&mut reader, "get k"), Value::Bulk(b"0".into()));
    }
    assert_eq!(says(&mut boss, "client unpause"), ok());
    assert_eq!(writer.receive().unwrap(), Value::Integer(1));
    assert_eq!(writer.receive().unwrap(), Value::Bulk(b"1".into()));
    assert_eq!(writer.receive().unwrap(), Value::Simple("PONG".into()));

    // One of everything ends by itself, on every loop.
    assert_eq!(says(&mut boss, "client pause 50"), ok());
    let begin = std::time::Instant::now();
    for client in [&mut boss, &mut writer, &mut reader] {
        client.send(&["INCR", "k"]);
        client.flush().unwrap();
    }
    let mut counts: Vec<Value> =
        [&mut boss, &mut writer, &mut reader].map(|client| client.receive().unwrap()).into();
    // The reply to PAUSE came after it began.
    assert!(begin.elapsed() >= std::time::Duration::from_millis(40), "{:?}", begin.elapsed());
    counts.sort_by_key(|count| format!("{count:?}"));
    assert_eq!(counts, [2, 3, 4].map(Value::Integer));
}

/// Who waits for a request of its own is not held back by anyone.
#[test]
fn only_a_pause_blocks_clients() {
    let server = Running::start(|config| config.debug_command = DebugCommand::Yes);
    let (mut boss, mut sleeper) = (server.client(), server.client());
    assert_eq!(says(&mut boss, "client no-evict on"), ok());
    sleeper.send(&["DEBUG", "SLEEP", "1"]);
    sleeper.send(&["PING"]);
    sleeper.flush().unwrap();
    let line = serving::wait_for("the sleeper", || {
        let list = text(says(&mut boss, "client list"));
        let line = list.lines().find(|line| field(line, "cmd") == "debug|sleep");
        line.map(str::to_owned)
    });
    assert_eq!(field(&line, "flags"), "N");
    assert!(text(says(&mut boss, "info clients")).contains("blocked_clients:0\r\n"));
    assert_eq!(field(&text(says(&mut boss, "client info")), "flags"), "e");
    assert_eq!(sleeper.receive().unwrap(), ok());
    assert_eq!(sleeper.receive().unwrap(), Value::Simple("PONG".into()));
}

/// It would have to wait for a day.
#[test]
fn a_stop_ends_a_pause() {
    let server = Running::start(|_| {});
    let (mut boss, mut writer) = (server.client(), server.client());
    assert_eq!(says(&mut boss, "client pause 86400000 write"), ok());
    writer.send(&["SET", "k", "v"]);
    writer.flush().unwrap();
    serving::wait_for("the held writer", || {
        let list = text(says(&mut boss, "client list"));
        list.lines().any(|line| field(line, "flags") == "b").then_some(())
    });
    server.stop().unwrap();
    assert_eq!(writer.receive().unwrap(), ok());
}

#[test]
fn idle_connections_are_closed_on_request() {
    let server = Running::start(|config| config.loops = 2);
    let (mut busy, mut idle) = (server.client(), server.client());
    assert_eq!(says(&mut idle, "ping"), Value::Simple("PONG".into()));
    // It is held back, not idle.
    let mut held = server.client();
    assert_eq!(says(&mut busy, "client pause 100000 write"), ok());
    held.send(&["SET", "k", "v"]);
    held.flush().unwrap();
    serving::wait_for("the held writer", || {
        let list = text(says(&mut busy, "client list"));
        list.lines().any(|line| field(line, "flags") == "b").then_some(())
    });
    assert_eq!(says(&mut busy, "config set timeout 1"), ok());
    serving::wait_for("the end of who is idle", || {
        (text(says(&mut busy, "client list")).lines().count() == 2).then_some(())
    });
    assert!(idle.call(&["PING"]).is_err());
    assert_eq!(says(&mut busy, "client unpause"), ok());
    assert_eq!(held.receive().unwrap(), ok());
}

/// It takes longer for its reply than a connection may be idle.
#[test]
fn who_takes_a_reply_is_not_idle() {
    const LEN: usize = 64 << 20;
    let server = Running::start(|config| config.live.timeout.set(1));
    let mut clock = server.client();
    clock.set("large", vec![b'x'; LEN]).unwrap();
    let mut slow = raw(server.addr());
    slow.write_all(b"get large\n").unwrap();
    let begin = std::time::Instant::now();
    let (mut piece, mut came) = (vec![0; 1 << 20], 0);
    while came < LEN {
        let len = slow.read(&mut piece).unwrap();
        assert!(len > 0, "cut off after {came} bytes");
        came += len;
        // A piece in a tenth of a second, until it has taken three.
        serving::wait_for("some time to pass", || {
            says(&mut clock, "ping");
            let passed = begin.elapsed().as_millis() as usize;
            (passed > 3000 || passed * 10 > came >> 10).then_some(())
        });
    }
}
