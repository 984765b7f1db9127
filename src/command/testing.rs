//! What the tests of commands run them on: a key space that is a `BTreeMap`, a connection that only
//! remembers, and transcripts of requests and replies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use super::{
    Abort, Client, Command, Entry, Latency, LatencyEvent, Outcome, Reads, Run, Way, Writes, prepare,
};
use crate::clock::now_ms;
use crate::key_range::KeyRange;
use crate::protocol::{Args, Decoder, Kind, Limits, Reply, Version};

/// Keys with their values and expiries.
type Map = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

/// Databases in memory.
#[derive(Debug, Default)]
pub(super) struct TestDb {
    maps: [Map; DATABASES],
    /// The one that it works on.
    database: usize,
    /// Whether values count as being on disk only.
    pub(super) cold: bool,
}

const DATABASES: usize = 16;

fn alive(expires_at: Option<u64>) -> bool {
    expires_at.is_none_or(|at| at > now_ms())
}

impl TestDb {
    fn range(&self, range: KeyRange<'_>) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        let entries = self.maps[self.database].range::<[u8], _>(range);
        let present = entries.filter(|(_, (_, expires_at))| alive(*expires_at));
        present.map(|(key, (value, _))| (&key[..], &value[..]))
    }

    fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }
}

impl Reads for TestDb {
    fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Abort> {
        let found = self.maps[self.database].get(key).filter(|(_, expires_at)| alive(*expires_at));
        if self.cold && found.is_some() {
            return Err(Abort::NotResident);
        }
        Ok(found.map(|(value, at)| Entry { value: Cow::Borrowed(value), expires_at: *at }))
    }

    fn len(&self) -> Result<u64, Abort> {
        Ok(self.all().count() as u64)
    }

    fn keys(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        self.entries(range, way, &mut |key, _| visit(key))
    }

    fn entries(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        let mut visit = |(key, value)| visit(key, value);
        let _ = match way {
            Way::Forward => self.range(range).try_for_each(&mut visit),
            Way::Backward => self.range(range).rev().try_for_each(&mut visit),
        };
        Ok(())
    }

    fn scan(&self, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8])) -> Result<u64, Abort> {
        self.all().skip(cursor as usize).take(count).for_each(|(key, _)| visit(key));
        let next = cursor.saturating_add(count as u64);
        Ok(if next < self.len()? { next } else { 0 })
    }
}

impl Writes for TestDb {
    fn put(&mut self, key: &[u8], value: &[u8], expires_at: Option<u64>) -> Result<(), Abort> {
        self.maps[self.database].insert(key.to_vec(), (value.to_vec(), expires_at));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, Abort> {
        Ok(self.maps[self.database].remove(key).is_some_and(|(_, expires_at)| alive(expires_at)))
    }

    fn clear(&mut self) -> Result<(), Abort> {
        self.maps[self.database].clear();
        Ok(())
    }

    fn clear_all(&mut self) -> Result<(), Abort> {
        self.maps.iter_mut().for_each(Map::clear);
        Ok(())
    }

    fn database(&self) -> usize {
        self.database
    }

    fn swap(&mut self, one: usize, other: usize) -> Result<(), Abort> {
        self.maps.swap(one, other);
        Ok(())
    }

    fn select(&mut self, database: usize) -> bool {
        if database < DATABASES {
            self.database = database;
        }
        database < DATABASES
    }
}

/// A connection.
#[derive(Debug, Default)]
pub(super) struct TestClient {
    version: Version,
    name: Vec<u8>,
    database: usize,
    pub(super) closed: bool,
    pub(super) stopped: bool,
    /// The spikes that there were to begin with are forgotten.
    calm: bool,
}

impl Client for TestClient {
    fn id(&self) -> u64 {
        7
    }

    fn version(&self) -> Version {
        self.version
    }

    fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    fn name(&self) -> Vec<u8> {
        self.name.clone()
    }

    fn set_name(&mut self, name: &[u8]) {
        self.name = name.to_vec();
    }

    fn select(&mut self, database: usize) -> bool {
        if database < DATABASES {
            self.database = database;
        }
        database < DATABASES
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn info(&self, sections: &[String]) -> String {
        format!("# {}", sections.join("+"))
    }

    fn latencies(&self) -> Vec<Latency> {
        let cumulative = vec![(1, 2), (33, 3)];
        vec![
            Latency { name: "config|get", calls: 3, cumulative },
            Latency { name: "get", calls: 0, cumulative: Vec::new() },
        ]
    }

    fn latency_events(&self) -> Vec<LatencyEvent> {
        let samples = vec![(1000, 60), (1001, 30)];
        let event = LatencyEvent { name: "command", samples, most: 90 };
        if self.calm { Vec::new() } else { vec![event] }
    }

    fn forget_latency(&mut self, event: Option<&[u8]>) -> usize {
        let hit = !self.calm && event.is_none_or(|name| name.eq_ignore_ascii_case(b"command"));
        self.calm |= hit;
        usize::from(hit)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("appendonly", "yes".into()), ("maxmemory", "0".into()), ("save", String::new())]
    }

    fn shutdown(&mut self) {
        self.stopped = true;
    }
}

/// A connection and the key space it works on.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) db: TestDb,
    pub(super) client: TestClient,
}

impl Session {
    /// Runs a line, its words quoted as a person would; the reply's bytes, those that are no UTF-8
    /// replaced.
    pub(super) fn run(&mut self, line: &str) -> String {
        String::from_utf8_lossy(&self.reply_to(line)).into_owned()
    }

    /// Runs a line; the reply's bytes.
    pub(super) fn reply_to(&mut self, line: &str) -> Vec<u8> {
        let mut out = Vec::new();
        with_words(line, |args| {
            let mut reply = Reply::new(&mut out, self.client.version);
            match prepare(args) {
                Ok(command) => self.execute(command, args, &mut reply),
                Err(error) => reply.error(&error),
            }
        });
        out
    }

    fn execute(&mut self, command: &Command, args: Args<'_>, reply: &mut Reply<'_>) {
        let mark = reply.mark();
        self.db.database = self.client.database;
        let outcome: Outcome = match command.run {
            Run::Local(run) => run(&mut self.client, args, reply),
            Run::Read(run) => match run(&self.db, args, reply) {
                Err(Abort::NotResident) => {
                    reply.rewind(mark);
                    self.db.cold = false;
                    run(&self.db, args, reply)
                }
                outcome => outcome,
            },
            Run::Scan(run) => run(&self.db, args, reply),
            Run::Write(run) => run(&mut self.db, args, reply),
            Run::Session(_) => Err("ERR no session".into()),
        };
        if let Err(abort) = outcome {
            reply.rewind(mark);
            reply.error(&abort.error_line());
        }
    }
}

/// Hands the words of a line to `run`.
pub(super) fn with_words<R>(line: &str, run: impl FnOnce(Args<'_>) -> R) -> R {
    let input = format!("{line}\n");
    let mut decoder = Decoder::new(Limits::default());
    let request = decoder.decode(input.as_bytes()).unwrap().unwrap();
    assert!(matches!(request.kind, Kind::Command), "{line:?} is no request");
    run(decoder.args(input.as_bytes()))
}

/// Runs a transcript: each line must be answered by the reply behind it, in which `\r\n` is written
/// as a space. Starts with no keys.
pub(super) fn transcript(lines: &[(&str, &str)]) {
    let mut session = Session::default();
    for (line, expected) in lines {
        let reply = session.run(line);
        let shown = reply.strip_suffix("\r\n").unwrap_or(&reply).replace("\r\n", " ");
        assert_eq!(&shown, expected, "the reply to {line:?}");
    }
}
