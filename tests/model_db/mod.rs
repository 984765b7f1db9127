//! A key space as it would be if the requests of a connection were run one by one, and random
//! requests with the replies it gives.

use std::collections::BTreeMap;

use kvs::protocol::{Reply, Version, write_json_reply};

use super::serving::{Random, resp};

/// A request and its reply, to the byte.
pub struct Exchange {
    pub request: Vec<u8>,
    pub expected: Vec<u8>,
}

impl Exchange {
    pub fn new(request: Vec<u8>, expected: &[u8]) -> Exchange {
        Exchange { request, expected: expected.to_vec() }
    }
}

/// Requests that are only read workers' ask for so many keys.
const MANY: usize = 300;

pub struct Model {
    prefix: String,
    keys: BTreeMap<String, String>,
    names: usize,
    /// Nobody else changes keys: their number is known, and all may be removed.
    alone: bool,
    /// Only what any engine can do.
    points: bool,
}

impl Model {
    /// All its keys begin with `prefix`.
    pub fn new(prefix: &str, alone: bool) -> Model {
        Model { prefix: prefix.into(), keys: BTreeMap::new(), names: 12, alone, points: false }
    }

    /// No command about ranges of keys or all keys.
    pub fn of_points(mut self) -> Model {
        self.points = true;
        self
    }

    fn key(&self, random: &mut Random) -> String {
        format!("{}k{}", self.prefix, random.below(self.names))
    }

    fn some_keys(&self, random: &mut Random) -> Vec<String> {
        let number = if random.below(25) == 0 { MANY } else { 1 + random.below(4) };
        (0..number).map(|_| self.key(random)).collect()
    }

    /// A random request, run.
    pub fn next(&mut self, random: &mut Random) -> Exchange {
        if random.below(100) < 45 { self.read(random) } else { self.write(random) }
    }

    /// One that changes nothing.
    pub fn read(&mut self, random: &mut Random) -> Exchange {
        let key = self.key(random);
        match random.below(if self.points { 90 } else { 100 }) {
            0..50 => {
                let value = self.keys.get(&key);
                exchange(random, &["GET", &key], |reply| bulk(reply, value))
            }
            50..65 => {
                let keys = self.some_keys(random);
                let words = with("MGET", &keys);
                exchange(random, &words, |reply| {
                    reply.array(keys.len());
                    keys.iter().for_each(|key| bulk(reply, self.keys.get(key)));
                })
            }
            65..80 => {
                let keys = self.some_keys(random);
                let there = keys.iter().filter(|key| self.keys.contains_key(*key)).count();
                let words = with("EXISTS", &keys);
                exchange(random, &words, |reply| reply.integer(there as i64))
            }
            80..90 => {
                let len = self.keys.get(&key).map_or(0, String::len);
                exchange(random, &["STRLEN", &key], |reply| reply.integer(len as i64))
            }
            90..95 if self.alone => {
                let number = self.keys.len();
                exchange(random, &["DBSIZE"], |reply| reply.integer(number as i64))
            }
            _ => self.range(random),
        }
    }

    fn range(&self, random: &mut Random) -> Exchange {
        let (from, to) = (self.key(random), self.key(random));
        let limit = random.below(5);
        let words = ["RANGE", &from, &to, "LIMIT", &limit.to_string()];
        let found: Vec<_> = if from <= to {
            self.keys.range(from.clone()..=to.clone()).take(limit).collect()
        } else {
            Vec::new()
        };
        exchange(random, &words, |reply| {
            reply.array(found.len() * 2);
            for (key, value) in found {
                reply.bulk(key.as_bytes());
                reply.bulk(value.as_bytes());
            }
        })
    }

    fn write(&mut self, random: &mut Random) -> Exchange {
        let key = self.key(random);
        match random.below(100) {
            0..40 => {
                let value = value(random);
                let words = ["SET", &key, &value];
                let exchange = exchange(random, &words, |reply| reply.ok());
                self.keys.insert(key, value);
                exchange
            }
            40..55 => {
                let keys = self.some_keys(random);
                let there = keys.iter().filter(|key| self.keys.remove(*key).is_some()).count();
                exchange(random, &with("DEL", &keys), |reply| reply.integer(there as i64))
            }
            55..72 => {
                let sum = match self.keys.get(&key) {
                    Some(value) => value.parse::<i64>().ok().map(|value| value + 1),
                    None => Some(1),
                };
                if let Some(sum) = sum {
                    self.keys.insert(key.clone(), sum.to_string());
                }
                exchange(random, &["INCR", &key], |reply| match sum {
                    Some(sum) => reply.integer(sum),
                    None => reply.error("ERR value is not an integer or out of range"),
                })
            }
            72..85 => {
                let value = self.keys.entry(key.clone()).or_default();
                *value += "+";
                let len = value.len();
                exchange(random, &["APPEND", &key, "+"], |reply| reply.integer(len as i64))
            }
            85..99 => {
                let keys = self.some_keys(random);
                let mut words = vec!["MSET".to_owned()];
                for key in keys {
                    let value = value(random);
                    words.extend([key.clone(), value.clone()]);
                    self.keys.insert(key, value);
                }
                exchange(random, &words, |reply| reply.ok())
            }
            _ if self.alone => {
                self.keys.clear();
                exchange(random, &["FLUSHALL"], |reply| reply.ok())
            }
            _ => {
                let there = self.keys.remove(&key);
                exchange(random, &["GETDEL", &key], |reply| bulk(reply, there.as_ref()))
            }
        }
    }
}

fn value(random: &mut Random) -> String {
    match random.below(20) {
        0 => "long ".repeat(random.below(3000)),
        1..8 => random.below(1000).to_string(),
        _ => format!("v{}", random.below(100_000)),
    }
}

fn with(name: &str, words: &[String]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(words.iter().cloned()).collect()
}

fn bulk(reply: &mut Reply<'_>, value: Option<&String>) {
    match value {
        Some(value) => reply.bulk(value.as_bytes()),
        None => reply.null(),
    }
}

/// The request in some dialect, and its reply in the same.
fn exchange(
    random: &mut Random,
    words: &[impl AsRef<str>],
    write: impl FnOnce(&mut Reply<'_>),
) -> Exchange {
    let mut expected = Vec::new();
    write(&mut Reply::new(&mut expected, Version::Resp2));
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    // An inline line may be no longer.
    let short = words.iter().map(|word| word.len() + 3).sum::<usize>() < 64 << 10;
    match random.below(10) {
        0 => {
            let mut line = Vec::new();
            write_json_reply(&expected, None, &mut line).unwrap();
            let request = format!("{}\n", serde_json::json!({ "args": words }));
            Exchange::new(request.into_bytes(), &line)
        }
        1 if short => {
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            Exchange::new(format!("{}\r\n", quoted.join(" ")).into_bytes(), &expected)
        }
        _ => Exchange::new(resp(&words), &expected),
    }
}
