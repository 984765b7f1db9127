//! The wire formats from the outside: what comes out must not depend on how bytes were cut into
//! reads, garbage must not panic, and what was written must be read back.

use kvs::protocol::{
    BadReply, Decoder, Kind, Limits, Reply, ReplyDecoder, Value, Version, encode_command,
    write_json_reply,
};
use proptest::prelude::*;

/// A request as a test compares it: its kind and its words; or the error that ended it all.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Empty,
    Words(Vec<Vec<u8>>),
    JsonWords(Vec<Vec<u8>>, Option<String>),
    BadJson(String, Option<String>),
    Fatal(String),
}

/// Decodes `input`, of which each call of the decoder sees the bytes up to the next of `cuts`.
fn decode_in_pieces(input: &[u8], cuts: &[usize], limits: Limits) -> Vec<Seen> {
    let mut decoder = Decoder::new(limits);
    let mut seen = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([input.len()]) {
        while start < end {
            match decoder.decode(&input[start..end]) {
                Ok(None) => break,
                Ok(Some(request)) => {
                    assert!(request.len > 0 && request.len <= end - start);
                    seen.push(see(&mut decoder, request.kind, &input[start..end]));
                    start += request.len;
                }
                Err(error) => {
                    seen.push(Seen::Fatal(error.to_string()));
                    return seen;
                }
            }
        }
    }
    seen
}

fn see(decoder: &mut Decoder, kind: Kind, input: &[u8]) -> Seen {
    let id = decoder.take_json_id().map(|id| id.as_str().to_owned());
    let words = decoder.args(input).iter().map(<[u8]>::to_vec).collect();
    match kind {
        Kind::Empty => Seen::Empty,
        Kind::Command => Seen::Words(words),
        Kind::JsonCommand => Seen::JsonWords(words, id),
        Kind::BadJson(error) => Seen::BadJson(error, id),
    }
}

fn decode(input: &[u8]) -> Vec<Seen> {
    decode_in_pieces(input, &[], Limits::default())
}

fn words(words: &[&str]) -> Seen {
    Seen::Words(words.iter().map(|word| word.as_bytes().to_vec()).collect())
}

fn fatal(what: &str) -> Seen {
    Seen::Fatal(format!("ERR Protocol error: {what}"))
}

/// What redis-server 7.0.15 does with the same bytes.
#[test]
fn arrays_are_read_as_redis_reads_them() {
    let ping = words(&["PING"]);
    let table: &[(&[u8], &[Seen])] = &[
        (b"*1\r\n$4\r\nPING\r\n", std::slice::from_ref(&ping)),
        (b"*-1\r\nPING\r\n", &[Seen::Empty, ping.clone()]),
        (b"*0\r\nPING\r\n", &[Seen::Empty, ping.clone()]),
        (b"*1\r\n$4\r\nPINGXXPING\r\n", &[ping.clone(), ping.clone()]),
        (b"*1\rx$4\rxPINGxx", std::slice::from_ref(&ping)),
        (b"*1\r\n$0\r\n\r\n", &[words(&[""])]),
        (b"*abc\r\n", &[fatal("invalid multibulk length")]),
        (b"*+1\r\n", &[fatal("invalid multibulk length")]),
        (b"*-0\r\n", &[fatal("invalid multibulk length")]),
        (b"*01\r\n", &[fatal("invalid multibulk length")]),
        (b"* 1\r\n", &[fatal("invalid multibulk length")]),
        (b"*\r\n", &[fatal("invalid multibulk length")]),
        (b"*1048577\r\n", &[fatal("invalid multibulk length")]),
        (b"*99999999999999999999\r\n", &[fatal("invalid multibulk length")]),
        (b"*1\r\n$-1\r\n", &[fatal("invalid bulk length")]),
        (b"*1\r\n$03\r\nabc\r\n", &[fatal("invalid bulk length")]),
        (b"*1\r\n$536870913\r\n", &[fatal("invalid bulk length")]),
        (b"*1\r\n+3\r\n", &[fatal("expected '$', got '+'")]),
        (b"*1\r\n\r\n", &[fatal("expected '$', got ' '")]),
        (b"*1\r\n\n\r\n", &[fatal("expected '$', got ' '")]),
        (b"*1\n", &[]),
        (b"*1\r", &[]),
        (b"*1\r\nX", &[]),
        (b"*1\r\n$4\r\nPING\r", &[]),
    ];
    for (input, expected) in table {
        assert_eq!(&decode(input), expected, "{}", input.escape_ascii());
    }
}

#[test]
fn dialects_follow_each_other_on_one_connection() {
    let input =
        b"*1\r\n$4\r\nPING\r\n\r\nset k \"a b\"\r\n{\"cmd\":\"get\",\"key\":\"k\",\"id\":1}\n\
                  {oops}\nget k\n*1\r\n$4\r\nQUIT\r\n";
    let seen = decode(input);
    assert_eq!(seen[0], words(&["PING"]));
    assert_eq!(seen[1], Seen::Empty);
    assert_eq!(seen[2], words(&["set", "k", "a b"]));
    assert_eq!(seen[3], Seen::JsonWords(vec![b"get".into(), b"k".into()], Some("1".into())));
    assert!(
        matches!(&seen[4], Seen::BadJson(error, None) if error.starts_with("ERR invalid JSON"))
    );
    assert_eq!(seen[5], words(&["get", "k"]));
    assert_eq!(seen[6], words(&["QUIT"]));
}

#[test]
fn lines_have_limits() {
    let limit = Limits::default().inline;
    let fits = format!("{}\n", "x".repeat(limit));
    assert_eq!(decode(fits.as_bytes()), [words(&["x".repeat(limit).as_str()])]);
    let long = "x".repeat(limit + 1);
    assert_eq!(decode(long.as_bytes()), [fatal("too big inline request")]);
    assert_eq!(decode(format!("{long}\n").as_bytes()), [fatal("too big inline request")]);
    let zeros = "0".repeat(limit + 1);
    assert_eq!(decode(format!("*{zeros}").as_bytes()), [fatal("too big mbulk count string")]);
    let bulk = format!("*1\r\n${zeros}");
    assert_eq!(decode(bulk.as_bytes()), [fatal("too big bulk count string")]);
    assert_eq!(decode(b"get 'k\n"), [fatal("unbalanced quotes in request")]);
    let small = Limits { json_line: 10, request: 40, ..Limits::default() };
    let json = b"{\"cmd\":\"ping\"}\n";
    assert_eq!(decode_in_pieces(json, &[], small), [fatal("too big JSON line")]);
    let array = b"*2\r\n$3\r\nGET\r\n$30\r\n";
    assert_eq!(decode_in_pieces(array, &[], small), [fatal("too big request")]);
}

#[test]
fn guests_have_stricter_limits() {
    let mut decoder = Decoder::new(Limits::default());
    decoder.set_guest(true);
    let error = |input: &[u8]| decoder.decode(input).unwrap_err().to_string();
    let mut error = error;
    assert_eq!(error(b"*11\r\n"), "ERR Protocol error: unauthenticated multibulk length");
    assert_eq!(error(b"*1\r\n$16385\r\n"), "ERR Protocol error: unauthenticated bulk length");
    decoder.set_guest(false);
    assert_eq!(decoder.decode(b"*11\r\n"), Ok(None));
}

#[test]
fn announcements_allocate_nothing() {
    for input in [&b"*1048576\r\n"[..], b"*1048576\r\n$536870912\r\n", b"*3\r\n$3\r\nSET\r\n$1000"]
    {
        let mut decoder = Decoder::new(Limits::default());
        assert_eq!(decoder.decode(input), Ok(None));
        assert!(decoder.heap_bytes() < 100, "{}", decoder.heap_bytes());
    }
}

#[test]
fn large_requests_leave_no_large_buffers_behind() {
    let large = [&b"*100000\r\n"[..], &b"$1\r\na\r\n".repeat(100_000)].concat();
    let mut decoder = Decoder::new(Limits::default());
    assert_eq!(decoder.decode(&large).unwrap().unwrap().len, large.len());
    assert_eq!(decoder.args(&large).len(), 100_000);
    assert!(decoder.decode(b"*1\r\n$4\r\nPING\r\n").unwrap().is_some());
    assert!(decoder.heap_bytes() <= 8 << 10, "{}", decoder.heap_bytes());
    decoder.release();
    assert_eq!(decoder.heap_bytes(), 0);
}

#[test]
fn release_keeps_a_request_in_progress() {
    let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    let mut decoder = Decoder::new(Limits::default());
    assert_eq!(decoder.decode(&input[..15]), Ok(None));
    decoder.release();
    assert!(decoder.decode(input).unwrap().is_some());
    assert_eq!(decoder.args(input).iter().collect::<Vec<_>>(), [&b"GET"[..], b"k"]);
}

/// Bytes that come near to being requests.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"*".to_vec()),
        Just(b"$".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"*2\r\n$1\r\na\r\n$2\r\nbc\r\n".to_vec()),
        Just(b"*3\r\n$".to_vec()),
        Just(b"*0\r\n".to_vec()),
        Just(b"set a 'b c'\n".to_vec()),
        Just(b"x \"\\x41".to_vec()),
        Just(b"{\"cmd\":\"get\",".to_vec()),
        Just(b"\"key\":{\"base64\":\"/w==\"}}\n".to_vec()),
        Just(b"{\"args\":[1,\"b\"],\"id\":[2]}\r\n".to_vec()),
        (0..30i64).prop_map(|n| (n - 3).to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

fn small_limits() -> Limits {
    Limits { inline: 40, elements: 20, bulk: 25, request: 100, json_line: 50 }
}

/// Decodes all replies in `input`, which arrives in pieces that end at `cuts`.
fn replies_in_pieces(input: &[u8], cuts: &[usize]) -> (Vec<Value>, Option<BadReply>) {
    let mut decoder = ReplyDecoder::new();
    let mut replies = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([input.len()]) {
        loop {
            match decoder.decode(&input[start..end]) {
                Ok((consumed, reply)) => {
                    start += consumed;
                    match reply {
                        Some(reply) => replies.push(reply),
                        None => break,
                    }
                }
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

/// Writes `value` as RESP3.
fn write_value(value: &Value, reply: &mut Reply<'_>) {
    match value {
        Value::Simple(text) => reply.simple(text),
        Value::Error(text) => reply.error(text),
        Value::Integer(value) => reply.integer(*value),
        Value::Bulk(bytes) => reply.bulk(bytes),
        Value::Null => reply.null(),
        Value::Double(value) => reply.double(*value),
        Value::Boolean(value) => reply.boolean(*value),
        Value::Verbatim { text, .. } => reply.verbatim(&String::from_utf8_lossy(text)),
        Value::BigNumber(digits) => reply.encoded(format!("({digits}\r\n").as_bytes()),
        Value::Array(parts) => write_parts(parts, reply, Reply::array),
        Value::Set(parts) => write_parts(parts, reply, Reply::set),
        Value::Push(parts) => write_parts(parts, reply, Reply::push),
        Value::Map(pairs) => {
            reply.map(pairs.len());
            for (key, value) in pairs {
                write_value(key, reply);
                write_value(value, reply);
            }
        }
    }
}

fn write_parts<'a>(parts: &[Value], reply: &mut Reply<'a>, open: fn(&mut Reply<'a>, usize)) {
    open(reply, parts.len());
    parts.iter().for_each(|part| write_value(part, reply));
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[A-Za-z ]{0,9}".prop_map(Value::Simple),
        "[A-Z]{3} [a-zé]{0,9}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bulk),
        Just(Value::Null),
        any::<f64>().prop_filter("NaN is not itself", |f| !f.is_nan()).prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        "\\PC{0,9}".prop_map(|text| Value::Verbatim { format: *b"txt", text: text.into() }),
        "[1-9][0-9]{20,30}".prop_map(Value::BigNumber),
    ];
    leaf.prop_recursive(4, 40, 5, |part| {
        let parts = proptest::collection::vec(part.clone(), 0..5);
        prop_oneof![
            parts.clone().prop_map(Value::Array),
            parts.clone().prop_map(Value::Set),
            parts.prop_map(Value::Push),
            proptest::collection::vec((part.clone(), part), 0..3).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn commands_are_read_back(
        args in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..20),
    ) {
        let mut input = Vec::new();
        encode_command(&args, &mut input);
        prop_assert_eq!(decode(&input), [Seen::Words(args)]);
    }

    #[test]
    fn values_are_read_back(values in proptest::collection::vec(values(), 0..4)) {
        let mut input = Vec::new();
        for value in &values {
            write_value(value, &mut Reply::new(&mut input, Version::Resp3));
        }
        prop_assert_eq!(&replies_in_pieces(&input, &[]), &(values, None));
    }

    #[test]
    fn every_value_has_a_json_line(value in values()) {
        let mut reply = Vec::new();
        write_value(&value, &mut Reply::new(&mut reply, Version::Resp3));
        let mut line = Vec::new();
        prop_assert_eq!(write_json_reply(&reply, None, &mut line), Ok(reply.len()));
        prop_assert_eq!(line.pop(), Some(b'\n'));
        prop_assert!(!line.contains(&b'\n'));
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn every_cut_gives_the_same_replies(
        values in proptest::collection::vec(values(), 0..3),
        garbage in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut input = Vec::new();
        for value in &values {
            write_value(value, &mut Reply::new(&mut input, Version::Resp3));
        }
        input.extend_from_slice(&garbage);
        let whole = replies_in_pieces(&input, &[]);
        for cut in 0..=input.len() {
            prop_assert_eq!(&replies_in_pieces(&input, &[cut]), &whole, "cut {}", cut);
        }
        let all: Vec<usize> = (0..=input.len()).collect();
        prop_assert_eq!(&replies_in_pieces(&input, &all), &whole, "byte by byte");
    }

    #[test]
    fn garbage_replies_do_not_panic(input in "[-+:$!=_,#(*%~>|0-3tfx]{0,60}") {
        let lines = input.replace('x', "\r\n");
        replies_in_pieces(lines.as_bytes(), &[]);
        let _ = write_json_reply(lines.as_bytes(), None, &mut Vec::new());
    }

    #[test]
    fn every_cut_gives_the_same_requests(input in nearly_requests()) {
        for limits in [Limits::default(), small_limits()] {
            let whole = decode_in_pieces(&input, &[], limits);
            for cut in 0..=input.len() {
                prop_assert_eq!(&decode_in_pieces(&input, &[cut], limits), &whole, "cut {}", cut);
            }
            let all: Vec<usize> = (0..=input.len()).collect();
            prop_assert_eq!(&decode_in_pieces(&input, &all, limits), &whole, "byte by byte");
        }
    }

    #[test]
    fn garbage_does_not_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode(&input);
        for first in [b'*', b'{', b'"'] {
            decode(&[&[first], &input[..]].concat());
        }
    }
}
