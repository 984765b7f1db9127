//! What one writer did and what it was told, and what may therefore be found after a kill.
//!
//! A writer has keys of its own and one connection, so its operations take effect in the order in
//! which they were sent. After a kill its keys are as a prefix of them left them, and the prefix has
//! at least all that was acknowledged.

use std::collections::{BTreeMap, VecDeque};

use kvs::client::Client;
use kvs::protocol::Value;

use super::serving::{Random, shown};

const KEYS: usize = 400;
/// So many of them get most of the writes. The others lie in old segments, and stay removed for long
/// once they are: what merges must not bring back.
const HOT: usize = 40;
const COUNTERS: usize = 4;
/// Keys of large values, set together: a kill can tear such a write.
const LARGE: usize = 8;
const LARGE_VALUE: usize = 256 * 1024;
/// The longest value of the others; most are far shorter.
const LONGEST: usize = 8 * 1024;

type State = BTreeMap<String, Vec<u8>>;

/// One operation, all of it or nothing.
#[derive(Debug, Clone)]
pub enum Op {
    Get(String),
    Set(String, Vec<u8>),
    SetNx(String, Vec<u8>),
    Append(String, Vec<u8>),
    Del(Vec<String>),
    Incr(String),
    MSet(Vec<(String, Vec<u8>)>),
}

impl Op {
    /// Sends it.
    pub fn send(&self, client: &mut Client) {
        match self {
            Op::Get(key) => client.send(&["GET", key]),
            Op::Set(key, value) => client.send(&[b"SET", key.as_bytes(), value]),
            Op::SetNx(key, value) => client.send(&[b"SETNX", key.as_bytes(), value]),
            Op::Append(key, value) => client.send(&[b"APPEND", key.as_bytes(), value]),
            Op::Incr(key) => client.send(&["INCR", key]),
            Op::Del(keys) => {
                let mut words = vec!["DEL"];
                words.extend(keys.iter().map(String::as_str));
                client.send(&words);
            }
            Op::MSet(pairs) => {
                let mut words: Vec<&[u8]> = vec![b"MSET"];
                words.extend(pairs.iter().flat_map(|(key, value)| [key.as_bytes(), value]));
                client.send(&words);
            }
        }
    }

    /// Does it to `state`; the reply that the server must give.
    fn apply(&self, state: &mut State) -> Value {
        match self {
            Op::Get(key) => state.get(key).cloned().map_or(Value::Null, Value::Bulk),
            Op::Set(key, value) => {
                state.insert(key.clone(), value.clone());
                Value::Simple("OK".into())
            }
            Op::SetNx(key, value) => {
                let free = !state.contains_key(key);
                state.entry(key.clone()).or_insert_with(|| value.clone());
                Value::Integer(free.into())
            }
            Op::Append(key, value) => {
                let whole = state.entry(key.clone()).or_default();
                whole.extend_from_slice(value);
                Value::Integer(whole.len() as i64)
            }
            Op::Del(keys) => {
                Value::Integer(keys.iter().filter(|key| state.remove(*key).is_some()).count() as i64)
            }
            Op::Incr(key) => {
                let old = state.get(key).map_or(0, |n| String::from_utf8_lossy(n).parse().unwrap());
                state.insert(key.clone(), (old + 1).to_string().into_bytes());
                Value::Integer(old + 1)
            }
            Op::MSet(pairs) => {
                state.extend(pairs.iter().cloned());
                Value::Simple("OK".into())
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    writer: usize,
    random: Random,
    /// Operations so far; makes each value another one.
    made: u64,
    /// After all that was acknowledged.
    acknowledged: State,
    pending: VecDeque<Op>,
}

impl Ledger {
    pub fn new(writer: usize, random: Random) -> Ledger {
        Ledger { writer, random, made: 0, acknowledged: State::new(), pending: VecDeque::new() }
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Makes an operation up and notes that it is sent.
    pub fn next(&mut self, large: bool) -> Op {
        let op = if large { self.large() } else { self.small() };
        self.pending.push_back(op.clone());
        op
    }

    fn large(&mut self) -> Op {
        let value = |ledger: &mut Ledger| {
            let mut value = ledger.value();
            value.resize(LARGE_VALUE, b'X');
            value
        };
        Op::MSet((0..LARGE).map(|n| (format!("w{}:l{n}", self.writer), value(self))).collect())
    }

    fn small(&mut self) -> Op {
        match self.random.below(16) {
            0..=1 => Op::Get(self.key()),
            2 => Op::SetNx(self.key(), self.value()),
            3 => Op::Append(self.key(), self.value()),
            4 => Op::Del((0..1 + self.random.below(6)).map(|_| self.key_of(KEYS)).collect()),
            5..=6 => Op::Incr(self.counter()),
            7..=9 => {
                let pairs = 2 + self.random.below(6);
                Op::MSet((0..pairs).map(|_| (self.key(), self.value())).collect())
            }
            _ => Op::Set(self.key(), self.value()),
        }
    }

    fn key(&mut self) -> String {
        let hot = self.random.below(4) > 0;
        self.key_of(if hot { HOT } else { KEYS })
    }

    fn key_of(&mut self, keys: usize) -> String {
        format!("w{}:k{}", self.writer, self.random.below(keys))
    }

    fn counter(&mut self) -> String {
        format!("w{}:c{}", self.writer, self.random.below(COUNTERS))
    }

    fn value(&mut self) -> Vec<u8> {
        self.made += 1;
        let longest = LONGEST >> self.random.below(10);
        let mut value = format!("{}.{} ", self.writer, self.made).into_bytes();
        value.resize(value.len() + self.random.below(longest), b'x');
        value
    }

    /// Takes the reply to the oldest operation that has none yet.
    pub fn acknowledge(&mut self, reply: &Value) {
        let op = self.pending.pop_front().expect("a reply to nothing");
        let expected = op.apply(&mut self.acknowledged);
        assert!(*reply == expected, "writer {}: {} to {op:?}", self.writer, tell(reply));
    }

    /// Compares with what a server has after a restart, and goes on from there.
    pub fn check(&mut self, client: &mut Client) {
        let found = self.read(client);
        let (acknowledged, mut state) = (self.acknowledged.clone(), self.acknowledged.clone());
        for op in std::iter::once(None).chain(self.pending.drain(..).map(Some)) {
            if let Some(op) = op {
                op.apply(&mut state);
            }
            if state == found {
                self.acknowledged = found;
                return;
            }
        }
        let keys = acknowledged.keys().chain(found.keys());
        for key in keys {
            let (was, is) = (acknowledged.get(key), found.get(key));
            if was != is {
                let text = |value: Option<&Vec<u8>>| {
                    value.map(|value| shown(&value[..value.len().min(20)]))
                };
                eprintln!("{key}: acknowledged {:?}, found {:?}", text(was), text(is));
            }
        }
        panic!("writer {}: no prefix of what it did since leaves this", self.writer);
    }

    fn read(&self, client: &mut Client) -> State {
        let keys = (0..KEYS).map(|n| format!("w{}:k{n}", self.writer));
        let counters = (0..COUNTERS).map(|n| format!("w{}:c{n}", self.writer));
        let large = (0..LARGE).map(|n| format!("w{}:l{n}", self.writer));
        let names: Vec<String> = keys.chain(counters).chain(large).collect();
        let mut words = vec!["MGET"];
        words.extend(names.iter().map(String::as_str));
        let Value::Array(values) = client.command(&words).unwrap() else { panic!("MGET") };
        let present = names.into_iter().zip(values).filter_map(|(name, value)| match value {
            Value::Bulk(value) => Some((name, value)),
            Value::Null => None,
            other => panic!("{name}: {}", tell(&other)),
        });
        present.collect()
    }
}

fn tell(value: &Value) -> String {
    let text = format!("{value:?}");
    text.chars().take(200).collect()
}
