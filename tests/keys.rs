//! Walking over keys while they change, keys that end, and an index without order: on a server.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use std::collections::{BTreeMap, BTreeSet};

use kvs::client::Client;
use kvs::protocol::Value;
use serving::{Random, Running, text, wait_for};

fn integer(client: &mut Client, words: &[&str]) -> i64 {
    match client.call(words).unwrap() {
        Value::Integer(number) => number,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn strings(value: Value) -> Vec<String> {
    let Value::Array(values) = value else { panic!("no array: {value:?}") };
    let text = |value| match value {
        Value::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("no string: {other:?}"),
    };
    values.into_iter().map(text).collect()
}

fn set_all<'k>(client: &mut Client, keys: impl Iterator<Item = &'k String>) {
    let words: Vec<&str> = keys.flat_map(|key| [key.as_str(), "v"]).collect();
    if !words.is_empty() {
        client.call(&[&["mset"], &words[..]].concat()).unwrap();
    }
}

fn names(prefix: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|i| format!("{prefix}:{i:05}")).collect()
}

/// Adds keys, more and more of them, and then takes them away again: tables and blocks grow, split
/// and merge under whoever walks.
struct Churn {
    random: Random,
    own: Vec<String>,
    turns: usize,
}

impl Churn {
    fn turn(&mut self, client: &mut Client) {
        self.turns += 1;
        if self.turns <= 40 {
            let new: Vec<String> = (0..500)
                .map(|_| {
                    format!("{}:{}", ["a", "last", "z"][self.random.below(3)], self.random.next())
                })
                .collect();
            set_all(client, new.iter());
            self.own.extend(new);
        } else if !self.own.is_empty() {
            let rest = self.own.split_off(self.own.len().saturating_sub(1000));
            let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
            client.call(&[&["del"], &rest[..]].concat()).unwrap();
        }
    }
}

#[test]
fn scan_meets_every_key_that_is_there_throughout() {
    let server = Running::start(|_| {});
    let (mut client, lasting) = (server.client(), names("lasting", 3000));
    set_all(&mut client, lasting.iter());
    let mut churn = Churn { random: Random::seeded(), own: Vec::new(), turns: 0 };
    let (mut found, mut cursor) = (BTreeSet::new(), "0".to_owned());
    loop {
        let step = client.call(&["scan", &cursor, "count", "60", "match", "lasting:*"]).unwrap();
        let Value::Array(mut step) = step else { panic!("{step:?}") };
        found.extend(strings(step.pop().unwrap()));
        cursor = strings(Value::Array(step)).remove(0);
        if cursor == "0" {
            break;
        }
        churn.turn(&mut client);
    }
    assert!(churn.turns > 60, "the walk was over too soon: {} turns", churn.turns);
    assert_eq!(found, lasting);
}

#[test]
fn pages_of_a_range_have_each_lasting_key_once() {
    let server = Running::start(|_| {});
    let (mut client, lasting) = (server.client(), names("lasting", 3000));
    set_all(&mut client, lasting.iter());
    for reverse in [false, true] {
        let mut churn = Churn { random: Random::seeded(), own: Vec::new(), turns: 0 };
        let mut found: Vec<String> = Vec::new();
        loop {
            let mut words = vec!["prefix", "last", "keysonly", "limit", "50"];
            if reverse {
                words.push("rev");
            }
            if let Some(last) = found.last() {
                words.extend(["after", last]);
            }
            let page = strings(client.call(&words).unwrap());
            let more = page.len() == 50;
            found.extend(page);
            // The cursor need not be there any more.
            if let Some(last) = found.last().filter(|last| !last.starts_with("lasting")) {
                client.call(&["del", last]).unwrap();
            }
            if !more {
                break;
            }
            churn.turn(&mut client);
        }
        if reverse {
            found.reverse();
        }
        assert!(found.is_sorted_by(|a, b| a < b), "out of order, or twice");
        found.retain(|key| key.starts_with("lasting:"));
        assert!(found.iter().eq(&lasting), "{} of {}", found.len(), lasting.len());
        let own: Vec<&str> = churn.own.iter().map(String::as_str).collect();
        own.chunks(1000).for_each(|some| {
            client.call(&[&["del"], some].concat()).unwrap();
        });
    }
}

#[test]
fn any_key_may_be_the_random_one() {
    for ordered in [true, false] {
        let server = Running::start(|config| config.ordered = ordered);
        let (mut client, keys) = (server.client(), names("key", 100));
        assert_eq!(client.call(&["randomkey"]).unwrap(), Value::Null);
        set_all(&mut client, keys.iter());
        let mut seen = BTreeMap::new();
        for _ in 0..20_000 {
            let key = text(client.call(&["randomkey"]).unwrap());
            *seen.entry(key).or_insert(0) += 1;
        }
        assert!(seen.keys().eq(&keys), "{} of {}", seen.len(), keys.len());
        // 200 on average; the gap before a key decides, but not that one alone.
        assert!(seen.values().all(|count| (20..2000).contains(count)), "{seen:?}");
    }
}

#[test]
fn expired_keys_leave_the_server_and_stay_away_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let server = Running::start_in(dir.path(), |_| {});
        let mut client = server.client();
        client.call(&["set", "old", "1"]).unwrap();
        client.call(&["mset", "far", "1", "never", "1"]).unwrap();
        client.call(&["pexpire", "far", "100000000"]).unwrap();
        for i in 0..100 {
            client.call(&["set", &format!("soon{i}"), "v", "px", "20"]).unwrap();
        }
        wait_for("their end", || (integer(&mut client, &["dbsize"]) == 3).then_some(()));
        let info = client.call(&["info"]).unwrap();
        let text = match info {
            Value::Bulk(text) => String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(text.contains("db0:keys=3,expires=1,"), "{text}");
        assert!(text.contains("expired_keys:100\r\n"), "{text}");
        client.call(&["pexpire", "old", "1"]).unwrap();
    }
    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    wait_for("its end", || (integer(&mut client, &["dbsize"]) == 2).then_some(()));
    assert_eq!(client.call(&["get", "old"]).unwrap(), Value::Null);
    assert!(integer(&mut client, &["pttl", "far"]) > 90_000_000);
    assert_eq!(integer(&mut client, &["pttl", "never"]), -1);
}

#[test]
fn without_order_ranges_are_refused_and_all_else_works() {
    let server = Running::start(|config| config.ordered = false);
    let mut client = server.client();
    client.call(&["mset", "a", "1", "b", "2"]).unwrap();
    for words in [
        &["range", "-", "+"][..],
        &["prefix", "a"],
        &["range", "-", "+", "rev"],
        &["delrange", "a", "b"],
    ] {
        let reply = client.call(words).unwrap();
        let Value::Error(line) = &reply else { panic!("{words:?}: {reply:?}") };
        assert!(line.contains("unordered index"), "{words:?}: {line}");
    }
    assert_eq!(integer(&mut client, &["del", "a", "b"]), 2);
}
