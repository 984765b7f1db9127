//! What connections are to the server and to each other: logging in, being listed, killed, paused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::io::Write;

use kvs::client::Client;
use kvs::protocol::Value;
use serving::{Running, converse, expect, raw, resp, shown};

const NOAUTH: &str = "NOAUTH Authentication required.";

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn error(line: &str) -> Value {
    Value::Error(line.into())
}

fn says(client: &mut Client, line: &str) -> Value {
    client.call(&line.split(' ').collect::<Vec<_>>()).unwrap()
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
