//! The client against a small server in a thread, which blocks as a paused server does.

use std::collections::HashMap;
use std::io::Read;
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::protocol::{Args, Decoder, Kind, Limits, Reply, Version};

/// Serves one connection; each command's reply is written before the next command is read.
fn serve(
    mut answer: impl FnMut(Args<'_>, &mut Reply<'_>) + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut decoder = Decoder::new(Limits::default());
        let (mut input, mut output, mut chunk) = (Vec::new(), Vec::new(), [0; 5000]);
        while let Ok(read @ 1..) = stream.read(&mut chunk) {
            input.extend_from_slice(&chunk[..read]);
            let mut used = 0;
            while let Some(request) = decoder.decode(&input[used..]).unwrap() {
                assert_eq!(request.kind, Kind::Command);
                let args = decoder.args(&input[used..]);
                answer(args, &mut Reply::new(&mut output, Version::Resp2));
                if stream.write_all(&output).is_err() {
                    return;
                }
                output.clear();
                used += request.len;
            }
            input.drain(..used);
        }
    });
    (addr, thread)
}

fn store() -> impl FnMut(Args<'_>, &mut Reply<'_>) + Send {
    let mut map = HashMap::<Vec<u8>, Vec<u8>>::new();
    move |args, reply| match (&args[0], args.get(1), args.get(2)) {
        (b"PING", ..) => reply.simple("PONG"),
        (b"SET", Some(key), Some(value)) => {
            map.insert(key.to_vec(), value.to_vec());
            reply.ok();
        }
        (b"GET", Some(key), _) => match map.get(key) {
            Some(value) => reply.bulk(value),
            None => reply.null(),
        },
        (b"DEL", Some(key), _) => reply.integer(map.remove(key).is_some().into()),
        _ => reply.error("ERR unknown command"),
    }
}

#[test]
fn keys_can_be_set_read_and_removed() {
    let (addr, server) = serve(store());
    let mut client = Client::connect(addr).unwrap();
    client.ping().unwrap();
    assert_eq!(client.get("k").unwrap(), None);
    client.set("k", b"\r\n\xff").unwrap();
    assert_eq!(client.get("k").unwrap().as_deref(), Some(&b"\r\n\xff"[..]));
    assert!(client.del("k").unwrap());
    assert!(!client.del("k").unwrap());
    let large = "v".repeat(3 << 20);
    client.set("large", &large).unwrap();
    assert_eq!(client.get("large").unwrap().unwrap().len(), large.len());
    drop(client);
    server.join().unwrap();
}

#[test]
fn errors_of_the_server_leave_the_connection_usable() {
    let (addr, server) = serve(store());
    let mut client = Client::connect(addr).unwrap();
    let error = Value::Error("ERR unknown command".into());
    assert_eq!(client.call(&["NO"]).unwrap(), error);
    assert!(matches!(client.command(&["NO"]), Err(KvsError::Server(_))));
    client.ping().unwrap();
    drop(client);
    server.join().unwrap();
}

#[test]
fn large_pipelines_with_large_replies_do_not_deadlock() {
    let reply = "r".repeat(10_000);
    let (addr, server) = serve(move |args, out| match args.get(1) {
        Some(word) if word.len() < 100 => out.bulk(&[word, reply.as_bytes()].concat()),
        _ => out.bulk(b"large"),
    });
    let mut client = Client::connect(addr).unwrap();
    let mut received = 0;
    let mut pipeline =
        client.pipeline(usize::MAX, |value| {
            let Value::Bulk(bytes) = value else { panic!("{value:?}") };
            let is_large = received % 5000 == 4999;
            assert!(bytes.starts_with(
                if is_large { "large".into() } else { received.to_string() }.as_bytes()
            ));
            received += 1;
            Ok(())
        });
    let large = "l".repeat(20 << 20);
    for i in 0..20_000 {
        let word = if i % 5000 == 4999 { large.clone() } else { i.to_string() };
        pipeline.send(&["ECHO", &word]).unwrap();
    }
    pipeline.finish().unwrap();
    assert_eq!(received, 20_000);
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_pipeline_keeps_to_its_window() {
    let (addr, server) = serve(store());
    let mut client = Client::connect(addr).unwrap();
    let received = std::cell::Cell::new(0);
    let mut pipeline = client.pipeline(10, |_| {
        received.set(received.get() + 1);
        Ok(())
    });
    for sent in 1..=100 {
        pipeline.send(&["PING"]).unwrap();
        assert!(sent - received.get() <= 10);
    }
    pipeline.finish().unwrap();
    assert_eq!(received.get(), 100);
    client.ping().unwrap();
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_pipeline_that_is_given_up_takes_the_client_with_it() {
    let (addr, server) = serve(store());
    let mut client = Client::connect(addr).unwrap();
    client.pipeline(10, |_| Ok(())).send(&["PING"]).unwrap();
    let error = client.ping().unwrap_err().to_string();
    assert!(error.contains("failed before; connect anew"), "{error}");
    drop(client);
    server.join().unwrap();
}

#[test]
fn failures_say_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Client::connect(free).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot connect to {free}: Connection refused; is kvs-server running?")
    );

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let timeouts = Timeouts { io: Some(Duration::from_millis(10)), ..Timeouts::default() };
    let mut client = Client::connect_with(addr, timeouts).unwrap();
    let error = client.ping().unwrap_err().to_string();
    assert_eq!(error, format!("no reply from {addr}: timed out"));
    assert!(client.ping().is_err(), "the late reply would be taken for this one's");

    let (peer, _) = listener.accept().unwrap();
    drop(peer);
    let mut client = Client::connect(addr).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"HTTP/1.1 400\r\n").unwrap();
    let error = client.receive().unwrap_err().to_string();
    assert!(error.contains("is no RESP"), "{error}");

    let mut client = Client::connect(addr).unwrap();
    drop(listener.accept().unwrap());
    let error = client.receive().unwrap_err().to_string();
    assert_eq!(error, format!("no reply from {addr}: the server closed the connection"));
}
