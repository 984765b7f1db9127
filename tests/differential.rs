//! The same requests to a kvs-server and to a real Redis 7.0: replies must be the same bytes, but
//! for the exceptions that tests/differential/exceptions.rs lists with their reasons.
//!
//! 20,000 random requests are in the normal run. For more, or the same again:
//! `KVS_TEST_REQUESTS=200000 KVS_SEED=... cargo test --release --test differential random_requests`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "differential/exceptions.rs"]
mod exceptions;
#[path = "differential/peers.rs"]
mod peers;
#[path = "differential/requests.rs"]
mod requests;
mod serving;

use std::collections::BTreeMap;

use exceptions::{LOOSELY, NOT_ASKED, OTHER_PROPERTIES, agree, command_of};
use kvs::command::{commands, lookup};
use kvs::protocol::{Decoder, Limits, Value};
use peers::{Pair, Request, Servers, show, value};
use requests::Requests;
use serving::{Random, shown};

/// What both said differently: by command, the first time of each.
#[derive(Default)]
struct Differences(BTreeMap<String, String>);

impl Differences {
    /// Compares the replies to some requests; whether all agree. Those behind the first difference
    /// are not told, as they may follow from it.
    fn compare(&mut self, requests: &[Request], replies: &[(Vec<u8>, Vec<u8>)]) -> bool {
        let differ =
            |(i, (ours, redis)): &(usize, &(Vec<u8>, Vec<u8>))| !agree(&requests[*i], ours, redis);
        let Some((i, (ours, redis))) = replies.iter().enumerate().find(differ) else { return true };
        let mut told = String::new();
        for before in &requests[i.saturating_sub(6)..i] {
            told += &format!("    {}\n", show(before));
        }
        let request = show(&requests[i]);
        told += &format!("{request}\n    kvs:   {}\n    redis: {}\n", shown(ours), shown(redis));
        let name = command_of(&requests[i]).map_or("", |command| command.name);
        self.0.entry(name.to_owned()).or_insert(told);
        false
    }

    fn finish(self) {
        let first: Vec<&str> = self.0.values().map(String::as_str).collect();
        assert!(first.is_empty(), "replies differ:\n{}", first.join("\n"));
    }
}

fn words(line: &str) -> Request {
    let input = format!("{line}\n");
    let mut decoder = Decoder::new(Limits::default());
    decoder.decode(input.as_bytes()).unwrap().unwrap();
    decoder.args(input.as_bytes()).iter().map(<[u8]>::to_vec).collect()
}

#[test]
fn chosen_requests_are_answered_as_redis_answers_them() {
    let servers = Servers::start();
    let (mut pair, mut differences) = (servers.connect(), Differences::default());
    let mut asked = Vec::new();
    for line in include_str!("differential/chosen.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let compared = !line.starts_with('!');
        asked.push(words(line.trim_start_matches('!')));
        let last = asked.len() - 1;
        let replies = pair.ask_all(&asked[last..]);
        if compared {
            differences.compare(&asked[last..], &replies);
        }
    }
    differences.finish();
}

/// What COMMAND INFO replies: name, arity, flags, the places of keys, and the categories.
fn properties(info: &[u8]) -> Option<String> {
    let Value::Array(infos) = value(info) else { return None };
    let Some(Value::Array(info)) = infos.first() else { return None };
    let sorted = |set: &Value| {
        let Value::Array(names) = set else { return Vec::new() };
        let mut names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        names.sort();
        names
    };
    Some(format!("{:?} {:?}", info.get(..6)?, sorted(info.get(6)?)))
}

#[test]
fn arity_flags_keys_and_categories_are_those_of_redis() {
    let servers = Servers::start();
    let mut pair = servers.connect();
    let all = commands().flat_map(|command| command.subcommands.iter().chain([command]));
    for command in all {
        let line = words(&format!("command info {}", command.name));
        let (ours, redis) = pair.ask_all(&[line]).remove(0);
        let excepted = OTHER_PROPERTIES.iter().any(|(name, _)| *name == command.name);
        if let Some(redis) = properties(&redis).filter(|_| !excepted) {
            assert_eq!(properties(&ours).unwrap(), redis, "{}", command.name);
        }
    }
}

#[test]
fn exceptions_are_commands_that_exist() {
    for name in LOOSELY.iter().map(|(name, ..)| name).chain(NOT_ASKED.iter().map(|(name, _)| name))
    {
        let (container, sub) = name.split_once('|').unwrap_or((name, ""));
        let command = lookup(container.as_bytes());
        let there =
            command.is_some_and(|c| sub.is_empty() || c.subcommand(sub.as_bytes()).is_some());
        assert!(there, "there is no command {name}");
    }
    assert_eq!(Requests::forgotten(), [""; 0], "neither asked nor excepted");
}

/// Serialised values: from Redis, compressed where it compresses, and some that were changed.
fn payloads(pair: &mut Pair, random: &mut Random) -> Vec<Vec<u8>> {
    let mut payloads = vec![Vec::new(), b"nonsense".to_vec()];
    pair.redis.ask(&[b"config", b"set", b"rdbcompression", b"yes"]);
    let long = b"abc".repeat(100);
    let values: [&[u8]; 9] =
        [b"", b"x", b"-7", b"300", b"-70000", b"9999999999", b"\xff\x00", &long, &[b'y'; 20_000]];
    for text in values {
        pair.redis.ask(&[b"set", b"k", text]);
        let Value::Bulk(payload) = value(&pair.redis.ask(&[b"dump", b"k"])) else { panic!() };
        for _ in 0..2 {
            payloads.push(payload.clone());
        }
        let mut damaged = payload;
        let at = random.below(damaged.len());
        damaged[at] ^= 1 << random.below(8);
        payloads.push(damaged);
    }
    pair.redis.ask(&[b"config", b"set", b"rdbcompression", b"no"]);
    payloads
}

/// What is compared at the end of a round beside the replies: all of some databases.
fn look_at_everything() -> Vec<Request> {
    let mut requests = Vec::new();
    for database in [0, 1, 2, 15] {
        requests.push(words(&format!("select {database}")));
        for line in ["mget a b c d", "dbsize", "keys *"] {
            requests.push(words(line));
        }
        for key in ["a", "b", "c", "d"] {
            requests.push(words(&format!("pexpiretime {key}")));
        }
    }
    requests
}

#[test]
fn random_requests_are_answered_as_redis_answers_them() {
    const ROUND: usize = 100;
    const BATCH: usize = 20;
    let count = std::env::var("KVS_TEST_REQUESTS").map_or(20_000, |count| count.parse().unwrap());
    let mut random = Random::seeded();
    let servers = Servers::start();
    let (mut pair, mut other) = (servers.connect(), servers.connect());
    let payloads = payloads(&mut pair, &mut random);
    let mut requests = Requests::new(random.clone(), payloads);
    let mut differences = Differences::default();
    for round in 0..count / ROUND {
        let hello = if round % 2 == 0 { "hello 2" } else { "hello 3" };
        let fresh = ["reset", hello, "flushall"].map(words);
        pair.ask_all(&fresh);
        requests.reset();
        let (mut asked, mut replies) = (Vec::new(), Vec::new());
        let mut agreed = true;
        for batch in 0..ROUND / BATCH {
            let some: Vec<Request> = (0..BATCH).map(|_| requests.next()).collect();
            replies.extend(pair.ask_all(&some));
            asked.extend(some);
            agreed = differences.compare(&asked, &replies);
            if !agreed {
                break;
            }
            if batch % 2 == 1 {
                // Another client changes what may be watched.
                other.ask_all(&[requests.write()]);
            }
        }
        if agreed {
            // Out of a transaction that may be open.
            pair.ask_all(&fresh[..2]);
            let end = look_at_everything();
            let last = pair.ask_all(&end);
            asked.extend(end);
            replies.extend(last);
            differences.compare(&asked, &replies);
        }
    }
    differences.finish();
}

#[test]
fn random_patterns_match_what_they_match_in_redis() {
    let mut random = Random::seeded();
    let servers = Servers::start();
    let (mut pair, mut differences) = (servers.connect(), Differences::default());
    let mut any = |alphabet: &[u8], most: usize| -> Vec<u8> {
        (0..random.below(most + 1)).map(|_| alphabet[random.below(alphabet.len())]).collect()
    };
    for _ in 0..100 {
        let mut requests = Vec::new();
        for _ in 0..50 {
            let (name, pattern) = (any(b"abc-]^\\\xff", 5), any(b"abc**??[[]]^-\\\xff", 8));
            requests.push(vec![b"flushall".to_vec()]);
            requests.push(vec![b"set".to_vec(), name, b"1".to_vec()]);
            requests.push(vec![b"keys".to_vec(), pattern]);
        }
        let replies = pair.ask_all(&requests);
        differences.compare(&requests, &replies);
    }
    differences.finish();
}

/// What one dumps, the other restores, compressed or not.
#[test]
fn values_move_between_kvs_and_redis() {
    let servers = Servers::start();
    let Pair { mut kvs, mut redis } = servers.connect();
    redis.ask(&[b"config", b"set", b"rdbcompression", b"yes"]);
    let text = b"the quick brown fox jumps over the lazy dog. ".repeat(3000);
    let mut random = Random(1);
    let noise: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
    let zeros = [0; 70_000];
    let values: [&[u8]; 12] = [
        b"",
        b"0",
        b"-128",
        b"32767",
        b"-2147483648",
        b"2147483648",
        b"007",
        b"\x00\xff\r\n",
        &text[..63],
        &text,
        &noise,
        &zeros,
    ];
    for text in values {
        for (from, to) in [(true, false), (false, true)] {
            let (from, to) = match (from, to) {
                (true, _) => (&mut kvs, &mut redis),
                _ => (&mut redis, &mut kvs),
            };
            assert_eq!(from.ask(&[b"set", b"k", text]), b"+OK\r\n");
            let Value::Bulk(payload) = value(&from.ask(&[b"dump", b"k"])) else {
                panic!("no dump")
            };
            assert_eq!(to.ask(&[b"restore", b"k", b"0", &payload, b"replace"]), b"+OK\r\n");
            assert_eq!(value(&to.ask(&[b"get", b"k"])), Value::Bulk(text.to_vec()));
        }
    }
}
