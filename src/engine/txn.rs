//! The writer's side of a command: reading what holds at its place in the order of writes, and
//! staging what it changes.
//!
//! Owner: whoever runs a job on the writer ([`commit`](super::commit)). What is staged becomes
//! durable and visible with its group, after the job has returned.

use std::borrow::Cow;

use super::core::DATABASES;
use super::group::{Change, Pending};
use super::record;
use super::view::{Patience, ReadError, Value, View, expired};
use super::writer::Writer;
use crate::error::{KvsError, Result};

/// See the module.
pub struct Txn<'w> {
    writer: &'w mut Writer,
}

impl std::fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Txn")
    }
}

impl<'w> Txn<'w> {
    pub(super) fn new(writer: &'w mut Writer) -> Txn<'w> {
        Txn { writer }
    }

    /// Runs `command` as one unit: all it changes is there after a crash, or nothing. If it fails,
    /// nothing of it is staged.
    pub fn unit<R, E>(
        &mut self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let outcome = command(self);
        match outcome {
            Ok(_) => self.writer.group().end_unit(),
            Err(_) => self.writer.group().abandon_unit(),
        }
        outcome
    }

    /// The value of a key, earlier commands of the group included. May read from the disk.
    pub fn get(&mut self, database: u8, key: &[u8]) -> Result<Option<Value<'static>>> {
        let hash = self.writer.core().hasher.hash(key);
        match self.writer.group().find(database, key, hash) {
            Pending::Gone => return Ok(None),
            Pending::Set(_, expires_at) if expired(expires_at) => return Ok(None),
            Pending::Set(value, expires_at) => {
                return Ok(Some(Value { bytes: Cow::Owned(value.to_vec()), expires_at }));
            }
            Pending::Untouched => {}
        }
        let view = View::new(self.writer.core());
        match view.get(database, key, Patience::MayWait) {
            Ok(value) => Ok(value.map(|value| Value {
                bytes: Cow::Owned(value.bytes.into_owned()),
                expires_at: value.expires_at,
            })),
            Err(ReadError::Failed(error)) => Err(error),
            Err(ReadError::NotResident) => Ok(None),
        }
    }

    /// Whether a key is there, without its value being copied.
    pub fn contains(&mut self, database: u8, key: &[u8]) -> Result<bool> {
        Ok(self.expiry(database, key)?.is_some_and(|expires_at| !expired(expires_at)))
    }

    /// When a key ends, if it is in the index: it may have ended.
    fn expiry(&mut self, database: u8, key: &[u8]) -> Result<Option<Option<u64>>> {
        let hash = self.writer.core().hasher.hash(key);
        match self.writer.group().find(database, key, hash) {
            Pending::Gone => return Ok(None),
            Pending::Set(_, expires_at) => return Ok(Some(expires_at)),
            Pending::Untouched => {}
        }
        let view = View::new(self.writer.core());
        match view.get_even_expired(database, key, Patience::MayWait) {
            Ok(value) => Ok(value.map(|value| value.expires_at)),
            Err(ReadError::Failed(error)) => Err(error),
            Err(ReadError::NotResident) => Ok(None),
        }
    }

    /// Sets a key's value and expiry (milliseconds since 1970).
    pub fn put(
        &mut self,
        database: u8,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<()> {
        record::check_lengths(key.len(), value.len())?;
        self.push(database, Change::Put, key, value, expires_at)
    }

    /// Removes a key; whether it was there. One that has expired was not, but gives its place back.
    pub fn delete(&mut self, database: u8, key: &[u8]) -> Result<bool> {
        let found = self.expiry(database, key)?;
        if found.is_some() {
            self.push(database, Change::Delete, key, b"", None)?;
        }
        Ok(found.is_some_and(|expires_at| !expired(expires_at)))
    }

    /// Removes a key if its time has come; whether it did.
    pub(super) fn expire(&mut self, database: u8, key: &[u8]) -> Result<bool> {
        let expired = self.expiry(database, key)?.is_some_and(expired);
        if expired {
            self.push(database, Change::Delete, key, b"", None)?;
        }
        Ok(expired)
    }

    /// Removes all keys of a database.
    pub fn clear(&mut self, database: u8) -> Result<()> {
        self.push(database, Change::Clear, b"", b"", None)
    }

    /// Removes all keys of all databases. Those that have none are left alone.
    pub fn clear_all(&mut self) -> Result<()> {
        for database in 0..DATABASES as u8 {
            let untouched = !self.writer.group().touches(database);
            if untouched && View::new(self.writer.core()).len(database) == 0 {
                continue;
            }
            self.clear(database)?;
        }
        Ok(())
    }

    fn push(
        &mut self,
        database: u8,
        change: Change,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<()> {
        if usize::from(database) >= DATABASES {
            return Err(KvsError::Invalid(format!("there is no database {database}")));
        }
        let hash = self.writer.core().hasher.hash(key);
        self.writer.group().push(database, change, hash, key, value, expires_at);
        Ok(())
    }
}
