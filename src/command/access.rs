//! What commands may ask of the key space they run on. The server implements these traits over the
//! native engine's views and transactions and over blocking engines, so a command is written once.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::time::Duration;

use super::client::{ClientFilter, Replies};
use super::latency::{Latency, LatencyEvent};
use super::memory::MemoryUse;
use super::slowlog::SlowEntry;
use crate::error::KvsError;
use crate::key_range::KeyRange;
use crate::protocol::Version;

/// Why a command stopped before it had its reply.
#[derive(Debug)]
pub enum Abort {
    /// The value is on disk only and the caller must not wait for it here: what the command wrote
    /// is rewound and it runs anew on a read worker.
    NotResident,
    /// The engine failed.
    Failed(KvsError),
    /// The request is at fault: the error line, its code included, as in `ERR syntax error`.
    Refused(Cow<'static, str>),
}

impl From<KvsError> for Abort {
    fn from(error: KvsError) -> Self {
        Abort::Failed(error)
    }
}

impl From<&'static str> for Abort {
    fn from(message: &'static str) -> Self {
        Abort::Refused(Cow::Borrowed(message))
    }
}

impl Abort {
    /// The error line that answers the request.
    pub fn error_line(&self) -> Cow<'_, str> {
        match self {
            Abort::Refused(line) => Cow::Borrowed(line),
            Abort::NotResident => Cow::Borrowed("ERR the value is not in memory"),
            Abort::Failed(KvsError::Server(line)) => Cow::Borrowed(line),
            Abort::Failed(KvsError::TooLarge { what: "value", .. }) => {
                Cow::Borrowed(super::errors::TOO_LONG)
            }
            Abort::Failed(error @ KvsError::Poisoned { .. }) => {
                Cow::Owned(format!("MISCONF {error}"))
            }
            Abort::Failed(error) => Cow::Owned(format!("ERR {error}")),
        }
    }
}

/// What a command function returns.
pub type Outcome = std::result::Result<(), Abort>;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its bytes: borrowed from the segment's map where they lie in memory.
    pub value: Cow<'a, [u8]>,
    /// When it ends, in milliseconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
}

/// Which way a walk over keys goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the first key on.
    Forward,
    /// From the last key back.
    Backward,
}

/// Reading a key space. An expired key is absent to all of these.
pub trait Reads {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Abort>;

    /// The values of two keys, as of one moment.
    #[allow(clippy::type_complexity)]
    fn pair(&self, a: &[u8], b: &[u8]) -> Result<(Option<Entry<'_>>, Option<Entry<'_>>), Abort> {
        Ok((self.get(a)?, self.get(b)?))
    }

    /// Whether `key` is there.
    fn contains(&self, key: &[u8]) -> Result<bool, Abort> {
        Ok(self.get(key)?.is_some())
    }

    /// The number of keys.
    fn len(&self) -> Result<u64, Abort>;

    /// Whether there is no key.
    fn is_empty(&self) -> Result<bool, Abort> {
        Ok(self.len()? == 0)
    }

    /// Visits the keys of `range` in order, as of one moment, until told to break.
    fn keys(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort>;

    /// Visits the keys and values of `range` in order, as of one moment, until told to break.
    #[allow(clippy::type_complexity)]
    fn entries(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort>;

    /// A key picked at random, `None` where there is none: one of some that an iteration finds first
    /// behind a random place, going on from the start where it ends.
    fn random_key(&self) -> Result<Option<Vec<u8>>, Abort> {
        const SOME: u64 = 16;
        let random = RandomState::new();
        let (mut picked, mut seen, mut cursor, mut ends) = (None, 0, random.hash_one(0), 0);
        while seen < SOME && ends < 2 {
            cursor = self.scan(cursor, SOME as usize, &mut |key| {
                seen += 1;
                // So each of those seen is picked with the same chance.
                if random.hash_one(seen).is_multiple_of(seen) {
                    picked = Some(key.to_vec());
                }
            })?;
            ends += u32::from(cursor == 0);
        }
        Ok(picked)
    }

    /// Makes a backup of all databases, in a directory of this name or of one that tells the time.
    /// It is on the disk when this returns.
    fn backup(&self, name: Option<&str>) -> Result<(), Abort> {
        let _ = name;
        Err(Abort::Failed(KvsError::Unsupported("backups")))
    }

    /// Begins to make one in the background.
    fn begin_backup(&self, name: Option<&str>) -> Result<(), Abort> {
        self.backup(name)
    }

    /// One step of an iteration in an order of the engine's own: visits about `count` keys from
    /// `cursor` (0 starts, any other is some place) and returns the next cursor (0: done). A key that
    /// is there throughout the iteration is visited at least once.
    fn scan(&self, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8])) -> Result<u64, Abort>;
}

/// Changing a key space, in the one order of the writer. A command that fails changes nothing; all
/// that one command changes is there after a crash or nothing of it.
pub trait Writes: Reads {
    /// Sets `key`, replacing value and expiry.
    fn put(&mut self, key: &[u8], value: &[u8], expires_at: Option<u64>) -> Result<(), Abort>;

    /// Removes `key`; whether it was there.
    fn delete(&mut self, key: &[u8]) -> Result<bool, Abort>;

    /// Removes every key of the database.
    fn clear(&mut self) -> Result<(), Abort>;

    /// Removes every key of every database.
    fn clear_all(&mut self) -> Result<(), Abort>;

    /// The database it works on.
    fn database(&self) -> usize;

    /// Works on another database from now on, if there is such a one; whether there is.
    fn select(&mut self, database: usize) -> bool;

    /// Exchanges what two databases hold. There must be such ones.
    fn swap(&mut self, one: usize, other: usize) -> Result<(), Abort>;

    /// Gives `key` another expiry and keeps its value; nothing if the key is not there.
    fn set_expiry(&mut self, key: &[u8], expires_at: Option<u64>) -> Result<(), Abort> {
        let Some(entry) = self.get(key)? else { return Ok(()) };
        let value = entry.value.into_owned();
        self.put(key, &value, expires_at)
    }
}

/// The connection that a local command runs for, and the server around it.
pub trait Client {
    /// The connection's number: unique while the server runs.
    fn id(&self) -> u64;
    /// The version it speaks.
    fn version(&self) -> Version;
    /// Switches it, from this command's own reply on.
    fn set_version(&mut self, version: Version);
    /// Its name, empty unless it was given one.
    fn name(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Names it. A server without names forgets it.
    fn set_name(&mut self, _name: &[u8]) {}
    /// Whether clients have to log in.
    fn has_password(&self) -> bool {
        false
    }
    /// Whether it has logged in, or did not have to.
    fn is_authenticated(&self) -> bool {
        true
    }
    /// Logs in; false if that is not the password. There is but the user `default`.
    fn authenticate(&mut self, password: &[u8]) -> bool {
        let _ = password;
        true
    }
    /// For RESET: logs out, if logging in is asked for, and has requests answered again.
    fn start_over(&mut self) {}
    /// Makes it work on this database from its next command on; whether there is such a one.
    fn select(&mut self, database: usize) -> bool {
        database == 0
    }
    /// Forgets what it watches.
    fn unwatch(&mut self) {}
    /// The lines of CLIENT LIST for those that match, each with its line end.
    fn list(&self, filter: &ClientFilter) -> String {
        let _ = filter;
        let name = self.name();
        let name = String::from_utf8_lossy(&name);
        let resp = if self.version() == Version::Resp3 { 3 } else { 2 };
        format!("id={} name={name} db=0 resp={resp}\n", self.id())
    }
    /// Closes those that match; how many. If it is one of them, once its replies so far have left.
    fn kill(&mut self, filter: &ClientFilter) -> usize {
        let _ = filter;
        0
    }
    /// Has this and the following requests answered or not.
    fn set_replies(&mut self, replies: Replies) {
        let _ = replies;
    }
    /// Notes its wish not to be evicted; nobody is.
    fn set_no_evict(&mut self, wish: bool) {
        let _ = wish;
    }
    /// Holds back all clients' requests, or those that write, for so long.
    fn pause(&mut self, time: Duration, all: bool) {
        let _ = (time, all);
    }
    /// Ends that.
    fn unpause(&mut self) {}
    /// The newest entries of the slow log.
    fn slow_entries(&self, count: usize) -> Vec<SlowEntry> {
        let _ = count;
        Vec::new()
    }
    /// How many entries it has.
    fn slow_len(&self) -> usize {
        0
    }
    /// Forgets them.
    fn forget_slow(&mut self) {}
    /// What the process takes.
    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
    /// Whether a write is on the disk before it is answered.
    fn writes_are_durable(&self) -> bool {
        true
    }
    /// Compacts the whole store in the background; false if that is under way already.
    fn start_compaction(&mut self) -> Result<bool, Abort> {
        Ok(true)
    }
    /// Whether expired keys are removed in the background.
    fn set_active_expiry(&mut self, active: bool) {
        let _ = active;
    }
    /// The spikes of latency that were noted, by event.
    fn latency_events(&self) -> Vec<LatencyEvent> {
        Vec::new()
    }
    /// Forgets those of an event, or all; of how many events.
    fn forget_latency(&mut self, event: Option<&[u8]>) -> usize {
        let _ = event;
        0
    }
    /// How long commands took, of those that were called.
    fn latencies(&self) -> Vec<Latency>;
    /// Sets the counters that INFO shows back to zero, as far as they can be.
    fn reset_stats(&mut self) {}
    /// Closes it once the replies so far have left.
    fn close(&mut self);
    /// The text of INFO for these sections (lower case; empty: the default ones).
    fn info(&self, sections: &[String]) -> String;
    /// The name and value of every setting, in alphabetical order.
    fn settings(&self) -> Vec<(&'static str, String)>;
    /// Changes all these settings, or none: then it is the error line.
    fn configure(&mut self, pairs: &[(&str, &str)]) -> Result<(), String> {
        let name = pairs.first().map_or("", |(name, _)| name);
        Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
    }
    /// Writes the settings back to the configuration file; whether there is one.
    fn rewrite_settings(&mut self) -> Result<bool, KvsError> {
        Ok(false)
    }
    /// When the last backup was made, in seconds since 1970.
    fn last_backup(&self) -> u64 {
        0
    }
    /// Stops the server as SIGTERM does.
    fn shutdown(&mut self);
}
