//! Connections in numbers and in odd states: many at once, ones that do not read, that end early,
//! that break the protocol; and what they cost. None may harm the others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use kvs::client::Client;
use kvs::protocol::Value;
use serving::process::Process;
use serving::{Running, converse, expect, figure, raw, read_to_end, resp, shown, wait_for};

const MIB: usize = 1 << 20;

/// The number behind `name:` in INFO.
#[test]
fn a_thousand_connections_at_once() {
    const CONNECTIONS: usize = 1000;
    let server = Process::start(&["--loops", "2"]);
    // In four threads, and none ends before all have begun.
    let all = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (server, all) = (&server, &all);
            scope.spawn(move || {
                let mut clients: Vec<Client> =
                    (0..CONNECTIONS / 4).map(|_| server.client()).collect();
                for round in 0..3 {
                    for (i, client) in clients.iter_mut().enumerate() {
                        client.send(&["SET", &format!("{part}-{i}"), &format!("v{round}")]);
                        client.send(&["GET", &format!("{part}-{i}")]);
                        client.flush().unwrap();
                    }
                    for client in &mut clients {
                        assert_eq!(client.receive().unwrap(), Value::Simple("OK".into()));
                        let value = Value::Bulk(format!("v{round}").into_bytes());
                        assert_eq!(client.receive().unwrap(), value);
                    }
                }
                all.wait();
                assert_eq!(
                    figure(&mut clients[0], "clients", "connected_clients"),
                    CONNECTIONS as u64
                );
                all.wait();
            });
        }
    });
    let mut client = server.client();
    wait_for("the connections' end", || {
        (figure(&mut client, "clients", "connected_clients") == 1).then_some(())
    });
    assert_eq!(client.command(&["DBSIZE"]).unwrap(), Value::Integer(1000));
}

/// A client that asks for much and takes nothing is cut off; the server does not grow by what it
/// asked for, and others are served meanwhile.
#[test]
fn a_client_that_does_not_read_is_paused_then_cut_off() {
    let server = Process::start(&["--output-limit", "8m"]);
    let mut other = server.client();
    other.set("big", vec![b'x'; 256 << 10]).unwrap();
    let before = server.memory();

    // More than fits into the sockets' buffers and the soft limit: it is paused, not cut off.
    let mut paused = raw(server.addr());
    let requests = resp(&["GET", "big"]).repeat(100);
    paused.write_all(&requests).unwrap();
    for i in 0..200 {
        other.set("k", i.to_string()).unwrap();
        assert_eq!(other.get("k").unwrap().unwrap(), i.to_string().as_bytes());
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 16 * MIB, "it grew by {grown} bytes for 25 MiB that nobody reads");
    assert_eq!(figure(&mut other, "stats", "cut_off_connections"), 0);
    // It reads after all, and gets everything.
    paused.shutdown(Shutdown::Write).unwrap();
    let reply = [b"$262144\r\n", &vec![b'x'; 256 << 10][..], b"\r\n"].concat();
    assert!(read_to_end(&mut paused) == reply.repeat(100));

    // A limit below what a client is paused at.
    other.command(&["CONFIG", "SET", "client-output-buffer-limit", "normal 512kb 0 0"]).unwrap();
    let mut greedy = raw(server.addr());
    greedy.write_all(&requests).unwrap();
    wait_for("the cut", || (figure(&mut other, "stats", "cut_off_connections") == 1).then_some(()));
    let mut rest = Vec::new();
    // Reset, or ended early.
    let _ = greedy.read_to_end(&mut rest);
    assert!(rest.len() < 100 * reply.len());
    other.ping().unwrap();
}

/// As clients do with a pipeline, however long: it was paused with its requests unread, waited for the
/// server to read them, and was cut off after a minute.
#[test]
fn a_client_that_reads_only_after_it_has_written_all_gets_every_reply() {
    const REQUESTS: usize = 400;
    const LEN: usize = 128 << 10;
    let server = Process::start(&[]);
    let mut client = raw(server.addr());
    // 50 MiB each way: more than the sockets' buffers hold.
    let value = vec![b'x'; LEN];
    client.write_all(&resp(&[b"ECHO", &value[..]]).repeat(REQUESTS)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let reply = [format!("${LEN}\r\n").as_bytes(), &value, b"\r\n"].concat();
    assert!(read_to_end(&mut client) == reply.repeat(REQUESTS));
}

/// No reply is made that is larger than what may wait for a client: it is not sent in part, and
/// nothing was done.
#[test]
fn a_reply_beyond_the_limit_is_an_error() {
    for loop_reads in [true, false] {
        let server = Running::start(|config| {
            config.loop_reads = loop_reads;
            config.live.output[0].hard.set(8 << 20);
        });
        let mut client = server.client();
        let large = vec![b'x'; MIB];
        client.set("big", &large).unwrap();
        let error = "ERR the reply is larger than client-output-buffer-limit lets it be";
        let mget = [&["MGET"][..], &["big"; 20]].concat();
        let docs = [&["COMMAND", "DOCS"][..], &["client"; 20_000]].concat();
        for words in [&mget, &docs, &vec!["KEYS", "*"]] {
            let reply = client.call(words).unwrap();
            match words[0] {
                "KEYS" => assert_eq!(reply, Value::Array(vec![Value::Bulk(b"big".into())])),
                _ => assert_eq!(reply, Value::Error(error.into()), "{}", words[0]),
            }
        }
        for i in 0..10 {
            client.set(format!("prefix-{i}"), &large).unwrap();
        }
        assert_eq!(client.call(&["PREFIX", "prefix-"]).unwrap(), Value::Error(error.into()));

        let asked =
            [&[vec!["MULTI"], vec!["SET", "new", "1"]][..], &vec![vec!["GET", "big"]; 20][..]];
        for words in asked.concat() {
            client.command(&words).unwrap();
        }
        let refusal = "ERR the replies of the transaction are too large; it was not run";
        assert_eq!(client.call(&["EXEC"]).unwrap(), Value::Error(refusal.into()));
        assert_eq!(client.get("new").unwrap(), None);

        // What a write replies with counts, too.
        client
            .command(&["CONFIG", "SET", "client-output-buffer-limit", "normal 512kb 0 0"])
            .unwrap();
        wait_for("the new limit", || client.get("big").err());
        for words in [&["GETSET", "big", "1"][..], &["GETDEL", "big"], &["GETEX", "big", "EX", "9"]]
        {
            assert_eq!(client.call(words).unwrap(), Value::Error(error.into()));
        }
        assert_eq!(client.command(&["STRLEN", "big"]).unwrap(), Value::Integer(MIB as i64));
        assert_eq!(client.command(&["TTL", "big"]).unwrap(), Value::Integer(-1));
    }
}

/// The replies to requests behind a write that takes its time are held back, but not without end.
#[test]
fn replies_that_wait_for_their_turn_are_bounded() {
    let server = Process::start(&[]);
    let mut other = server.client();
    other.set("big", vec![b'x'; MIB]).unwrap();
    let before = server.memory();
    let mut greedy = raw(server.addr());
    // The first reply is on its way to the disk; those behind it are there at once.
    let mut requests = resp(&["SET", "k", &"y".repeat(4096)]);
    requests.extend(resp(&["GET", "big"]).repeat(400));
    let mut peak = 0;
    greedy.write_all(&requests).unwrap();
    for _ in 0..200 {
        other.ping().unwrap();
        peak = peak.max(server.memory());
    }
    let grown = peak.saturating_sub(before);
    assert!(grown < 64 * MIB, "it grew by {} MiB", grown / MIB);
    drop(greedy);
    other.ping().unwrap();
}

/// The same where read workers or the writer answer: they are not asked for more than the client
/// takes.
#[test]
fn replies_under_way_are_bounded() {
    let server = Process::start(&["--loop-reads", "no", "--output-limit", "64m"]);
    let mut other = server.client();
    let large = "x".repeat(MIB);
    other.set("big", &large).unwrap();
    let transaction = [resp(&["MULTI"]), resp(&["GET", "big"]), resp(&["EXEC"])].concat();
    let queued = "+OK\r\n+QUEUED\r\n*1\r\n".len();
    for (request, more) in [
        (resp(&["GET", "big"]), 0),
        (resp(&["GETEX", "big", "PERSIST"]), 0),
        (resp(&["SET", "big", &large, "GET"]), 0),
        (transaction, queued),
    ] {
        let mut greedy = raw(server.addr());
        let mut writer = greedy.try_clone().unwrap();
        let (grown, came) = server.growth(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&request.repeat(200)).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let (mut buffer, mut came) = (vec![0; MIB], 0);
                loop {
                    match greedy.read(&mut buffer) {
                        Ok(0) => break came,
                        Ok(len) => came += len,
                        Err(error) => panic!("after {came} bytes: {error}"),
                    }
                }
            })
        });
        assert_eq!(came, 200 * (MIB + "$1048576\r\n\r\n".len() + more));
        println!("grew by {} MiB", grown / MIB);
        assert!(grown < 48 * MIB, "it grew by {} MiB", grown / MIB);
    }
}

/// A client that sends much faster than the disk takes it waits: what is on its way to the writer has
/// a bound in bytes.
#[test]
fn writes_under_way_are_bounded() {
    const WRITES: usize = 600;
    let server = Process::start(&["--segment-bytes", "1g"]);
    let request = resp(&["SET", "big", &"x".repeat(MIB)]);
    let mut stream = raw(server.addr());
    let mut writer = stream.try_clone().unwrap();
    let (grown, replies) = server.growth(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..WRITES).for_each(|_| writer.write_all(&request).unwrap());
                writer.shutdown(Shutdown::Write).unwrap();
            });
            read_to_end(&mut stream)
        })
    });
    assert!(replies == b"+OK\r\n".repeat(WRITES), "{}", shown(&replies));
    println!("grew by {} MiB", grown / MIB);
    assert!(grown < 300 * MIB, "it grew by {} MiB", grown / MIB);
}

/// Replies that fill the output to the byte: whatever is behind them is answered, too.
#[test]
fn output_of_exactly_the_limit_stalls_nothing() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    // 1024 bytes of reply each; 1024 of them are the limit above which nothing more is done.
    client.set("k", vec![b'x'; 1015]).unwrap();
    let mut stream = server.raw();
    let mut requests = b"get k\n".repeat(1024);
    requests.extend_from_slice(b"ping\n");
    stream.write_all(&requests).unwrap();
    let reply = [b"$1015\r\n", &[b'x'; 1015][..], b"\r\n"].concat();
    let mut expected = reply.repeat(1024);
    expected.extend_from_slice(b"+PONG\r\n");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let mut came = vec![0; expected.len()];
    stream.read_exact(&mut came).expect("the last reply");
    assert!(came == expected);
}

#[test]
fn a_half_closed_connection_gets_every_reply() {
    let server = Running::start(|config| config.loops = 2);
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for i in 0..5000 {
        requests.extend(resp(&["SET", "k", &i.to_string()]));
        requests.extend(resp(&["GET", "k"]));
        expected.extend(format!("+OK\r\n${}\r\n{i}\r\n", i.to_string().len()).into_bytes());
    }
    // The end of a request that never came is no reason to wait, nor to answer.
    requests.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$100\r\nxx");
    let came = converse(server.addr(), &requests);
    assert!(came == expected, "{}", shown(&came));
}

#[test]
fn clients_that_leave_in_the_middle_harm_nobody() {
    let server = Running::start(|config| config.loops = 2);
    let mut steady = server.client();
    let requests = [resp(&["SET", "gone", "1"]), resp(&["GET", "gone"])].concat().repeat(500);
    for round in 0..50 {
        let mut stream = server.raw();
        let cut = requests.len() * (round + 1) / 50 - round % 7;
        stream.write_all(&requests[..cut]).unwrap();
        drop(stream);
        steady.set("here", round.to_string()).unwrap();
        assert_eq!(steady.get("here").unwrap().unwrap(), round.to_string().as_bytes());
    }
    wait_for("the others' end", || {
        (figure(&mut steady, "clients", "connected_clients") == 1).then_some(())
    });
}

#[test]
fn beyond_the_most_clients_one_is_told_so() {
    let server = Running::start(|config| config.live.max_clients.set(3));
    let mut clients: Vec<Client> = Vec::new();
    // The one that waited for the store may still count.
    wait_for("room", || {
        let mut client = server.client();
        let open = figure(&mut client, "clients", "connected_clients");
        clients.clear();
        (open == 1).then_some(())
    });
    wait_for("three clients", || {
        let mut client = server.client();
        // A refusal comes unasked for.
        if client.ping().is_ok() {
            clients.push(client);
        }
        (clients.len() == 3).then_some(())
    });
    let mut refused = server.raw();
    assert_eq!(shown(&read_to_end(&mut refused)), r"-ERR max number of clients reached\r\n");
    for client in &mut clients {
        client.ping().unwrap();
    }
    clients.pop();
    wait_for("room again", || server.client().ping().ok());
}

/// What was asked before is answered, the error says what is wrong, then the connection ends.
#[test]
fn protocol_errors_answer_and_close() {
    let server = Running::start(|_| {});
    for (bytes, what) in [
        (&b"*1\r\n+PING\r\n"[..], "expected '$', got '+'"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"get \"a\r\n", "unbalanced quotes in request"),
    ] {
        let mut stream = server.raw();
        stream.write_all(b"set k v\r\nget k\r\n").unwrap();
        stream.write_all(bytes).unwrap();
        stream.write_all(b"\r\nget k\r\nget k\r\n").unwrap();
        let expected = format!("+OK\r\n$1\r\nv\r\n-ERR Protocol error: {what}\r\n");
        // The writing half is still open: it is the server that ends it.
        assert_eq!(
            shown(&read_to_end(&mut stream)),
            shown(expected.as_bytes()),
            "{}",
            shown(bytes)
        );
    }
}

#[test]
fn inline_lines_end_at_64_kib() {
    let server = Running::start(|_| {});
    let line = |len: usize| [b"echo ", &vec![b'x'; len - 5][..]].concat();
    let mut stream = server.raw();
    stream.write_all(&line(64 << 10)).unwrap();
    stream.write_all(b"\n").unwrap();
    expect(&mut stream, format!("${}\r\n", (64 << 10) - 5).as_bytes());
    // Without any line end, it is refused all the same.
    let mut stream = server.raw();
    stream.write_all(&line((64 << 10) + 1)).unwrap();
    stream.write_all(b"xx").unwrap();
    let reply = read_to_end(&mut stream);
    assert_eq!(shown(&reply), r"-ERR Protocol error: too big inline request\r\n");
}

#[test]
fn json_lines_end_at_16_mib() {
    let server = Running::start(|_| {});
    let line = |len: usize| {
        let frame = b"{\"args\":[\"strlen\",\"\"]}".len();
        [b"{\"args\":[\"strlen\",\"", &vec![b'x'; len - frame][..], b"\"]}"].concat()
    };
    assert_eq!(shown(&converse(server.addr(), &[&line(16 << 20)[..], b"\n"].concat())), JSON_0);
    let reply = converse(server.addr(), &[&line((16 << 20) + 1)[..], b"\n"].concat());
    assert_eq!(shown(&reply), r"-ERR Protocol error: too big JSON line\r\n");
}

const JSON_0: &str = r#"{\"ok\":true,\"value\":0}\n"#;

/// Lengths are promises: a thousand clients that announce half a gigabyte each cost next to nothing.
#[test]
fn announced_lengths_allocate_nothing() {
    let server = Process::start(&[]);
    let mut other = server.client();
    other.ping().unwrap();
    let before = server.memory();
    let promises: [&[u8]; 4] = [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nx",
        b"*1048576\r\n$3\r\nDEL\r\n",
        b"*1048576\r\n$536870912\r\nx",
        b"*2\r\n$3\r\nGET\r\n$536870912\r\n",
    ];
    let mut streams: Vec<TcpStream> = Vec::new();
    for i in 0..1000 {
        let mut stream = raw(server.addr());
        stream.write_all(promises[i % promises.len()]).unwrap();
        streams.push(stream);
    }
    let all = streams.len() as u64 + 1;
    wait_for("them", || (figure(&mut other, "clients", "connected_clients") == all).then_some(()));
    for _ in 0..20 {
        other.ping().unwrap();
    }
    let grown = server.memory().saturating_sub(before);
    println!("grew by {} KiB for 1000 connections", grown / 1024);
    assert!(grown < 24 * MIB, "it grew by {grown} bytes");
    // The promise is kept by one of them in the end.
    let mut kept = server.client();
    kept.set("k", vec![b'z'; 3 * MIB]).unwrap();
    assert_eq!(kept.get("k").unwrap().unwrap().len(), 3 * MIB);
}

#[test]
fn quit_ends_what_it_was_asked_to_end() {
    let server = Running::start(|_| {});
    for quit in [b"quit\r\n".to_vec(), resp(&["QUIT"])] {
        let mut stream = server.raw();
        stream.write_all(&[b"set k v\r\n", &quit[..], b"set k w\r\n"].concat()).unwrap();
        assert_eq!(shown(&read_to_end(&mut stream)), r"+OK\r\n+OK\r\n");
        assert_eq!(server.client().get("k").unwrap().unwrap(), b"v");
    }
    // Nor is it found fault with.
    let came = converse(server.addr(), b"*1\r\n$4\r\nQUIT\r\n*1\r\n+PING\r\n");
    assert_eq!(shown(&came), r"+OK\r\n");
}

#[test]
fn a_browser_gets_no_word() {
    let server = Running::start(|_| {});
    let request = b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nset k evil\r\n";
    assert_eq!(converse(server.addr(), request), b"");
    assert_eq!(server.client().get("k").unwrap(), None);
}

#[test]
fn connections_know_their_own_addresses() {
    let server = Running::start(|_| {});
    let Value::Bulk(line) = server.client().command(&["CLIENT", "INFO"]).unwrap() else { panic!() };
    let line = String::from_utf8(line).unwrap();
    assert!(line.contains(&format!("laddr={} ", server.addr())), "{line}");
}

/// The system asks silent peers whether they are still there, from the next connection on.
#[test]
#[cfg(target_os = "linux")]
fn silent_peers_are_probed() {
    /// The kind of timer that runs for the server's end of a connection, from /proc/net/tcp.
    fn timer(server: std::net::SocketAddr, client: &TcpStream) -> String {
        let port = |addr: std::net::SocketAddr| format!(":{:04X}", addr.port());
        let (local, remote) = (port(server), port(client.local_addr().unwrap()));
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ends = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is = fields[1].ends_with(&local) && fields[2].ends_with(&remote);
            is.then(|| fields[5][..2].to_owned())
        });
        ends.unwrap()
    }
    let server = Running::start(|_| {});
    let mut client = server.client();
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"ping\n").unwrap();
        expect(stream, b"+PONG\r\n");
    };
    for (seconds, kind) in [("300", "02"), ("0", "00")] {
        client.command(&["CONFIG", "SET", "tcp-keepalive", seconds]).unwrap();
        let mut stream = raw(server.addr());
        ask(&mut stream);
        // Another timer runs until what was sent is acknowledged.
        wait_for("its timer", || (timer(server.addr(), &stream) == kind).then_some(()));
    }
}
