//! The writer's side of a command: reading what holds at its place in the order of writes, and
//! staging what it changes. Databases are named by their numbers, as clients do, in all that others
//! call.
//!
//! Owner: whoever runs a job on the writer ([`commit`](super::commit)). What is staged becomes
//! durable and visible with its group, after the job has returned.

use std::borrow::Cow;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::changed::{Changed, Newest};
use super::core::DATABASES;
use super::cursor;
use super::group::{Change, Pending};
use super::keydir::KeyHash;
use super::numbering::{self, Numbering};
use super::position::Position;
use super::record;
use super::segment::Segment;
use super::snapshot::{Snapshot, Visit, Walk};
use super::view::{Patience, ReadError, Value, View, expired};
use super::watch::{Touch, Watch};
use super::writer::Writer;
use crate::error::{KvsError, Result};

/// When a job is to leave the rest of its commands for the next group, in bytes. More than a loop
/// gathers of requests, so it is for commands that write much more than what they were sent: a bit of a
/// large value, its expiry, a copy of it.
const MOST_STAGED: usize = 64 * 1024 * 1024;

/// See the module.
pub struct Txn<'w> {
    writer: &'w mut Writer,
    /// There is a unit around what it is used for.
    within_unit: bool,
}

/// A record that has expired, and where it was found. That it holds the segment keeps the
/// position's meaning.
pub(super) struct Expired {
    pub(super) database: u8,
    pub(super) key: Vec<u8>,
    pub(super) hash: KeyHash,
    pub(super) segment: Arc<Segment>,
    pub(super) position: Position,
}

impl std::fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Txn")
    }
}

/// Undoes what was staged since `begun` when it is dropped before it is told to keep it.
struct Part<'a, 'w> {
    txn: &'a mut Txn<'w>,
    begun: Option<usize>,
}

impl Drop for Part<'_, '_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            self.txn.writer.undo_to(begun);
        }
    }
}

impl<'w> Txn<'w> {
    pub(super) fn new(writer: &'w mut Writer) -> Txn<'w> {
        Txn { writer, within_unit: false }
    }

    /// Runs `command` as one unit: all it changes is there after a crash, or nothing. If it fails or
    /// panics, nothing of it is staged. Within a unit, it is a part of that.
    pub fn unit<R, E>(
        &mut self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut within = Txn { writer: &mut *self.writer, within_unit: true };
        let done = within.part(command)?;
        if !self.within_unit {
            self.writer.end_unit();
        }
        Ok(done)
    }

    /// Ends the open unit before its time: for many changes that belong together in nothing, so that no
    /// reader has to wait until all of them are visible.
    pub(super) fn end_unit(&mut self) {
        self.writer.end_unit();
    }

    /// Runs `command` as a part of the open unit. If it fails or panics, nothing of it is staged,
    /// while what the unit did before stays.
    pub fn part<R, E>(
        &mut self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let begun = self.writer.group().staged().len();
        let mut part = Part { txn: self, begun: Some(begun) };
        let done = command(part.txn)?;
        part.begun = None;
        Ok(done)
    }

    /// The database that has this number, earlier commands of the group included.
    fn database(&mut self, number: u8) -> Result<u8> {
        if usize::from(number) >= DATABASES {
            return Err(KvsError::Invalid(format!("there is no database {number}")));
        }
        Ok(self.numbering().database(number))
    }

    fn numbering(&mut self) -> Numbering {
        let changed = self.writer.group().numbering();
        changed.unwrap_or_else(|| self.writer.core().numbering())
    }

    /// The value of a key, earlier commands of the group included. May read from the disk.
    pub fn get(&mut self, number: u8, key: &[u8]) -> Result<Option<Value<'static>>> {
        let database = self.database(number)?;
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
        match view.get_even_expired(database, key, Patience::MayWait) {
            Ok(value) => Ok(value.filter(|value| !expired(value.expires_at)).map(|value| Value {
                bytes: Cow::Owned(value.bytes.into_owned()),
                expires_at: value.expires_at,
            })),
            Err(ReadError::Failed(error)) => Err(error),
            Err(ReadError::NotResident) => Ok(None),
        }
    }

    /// Whether a key is there, without its value being copied.
    pub fn contains(&mut self, number: u8, key: &[u8]) -> Result<bool> {
        let database = self.database(number)?;
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

    /// The same for who need not read the key. One that cannot be read counts as there: as far as
    /// anyone can tell, it was.
    fn expiry_or_damage(&mut self, database: u8, key: &[u8]) -> Result<Option<Option<u64>>> {
        match self.expiry(database, key) {
            Err(KvsError::Damaged { .. } | KvsError::Io { .. }) => Ok(Some(None)),
            found => found,
        }
    }

    /// The bytes that have been staged for the group so far.
    pub fn staged_bytes(&self) -> usize {
        self.writer.staged_bytes()
    }

    /// Whether the group is large enough to be committed before more is staged.
    pub fn is_full(&self) -> bool {
        self.staged_bytes() >= MOST_STAGED
    }

    /// The number of keys in a database, expired ones that are not removed yet included.
    pub fn len(&mut self, number: u8) -> Result<u64> {
        let database = self.database(number)?;
        let indexed = self.indexed(database);
        Ok(self.changed()?.of(database).len(indexed))
    }

    /// The number of keys that the index has of a database.
    fn indexed(&self, database: u8) -> u64 {
        self.writer.core().keydir(database, &crossbeam_epoch::pin()).len()
    }

    /// Whether a database has no keys.
    pub fn is_empty(&mut self, number: u8) -> Result<bool> {
        Ok(self.len(number)? == 0)
    }

    /// What the group changed so far.
    fn changed(&mut self) -> Result<&Changed> {
        let core = Arc::clone(self.writer.core());
        let view = View::new(&core);
        self.writer.group().changed(|staged, key| view.has_even_expired(staged, key))
    }

    /// Visits the keys of a range in order, as `walk` tells, until told to break: those of the index,
    /// and what the group made of them.
    pub fn walk(
        &mut self,
        number: u8,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        walk: Walk,
        visit: Visit<'_>,
    ) -> Result<()> {
        let database = self.database(number)?;
        self.changed()?;
        let core = Arc::clone(self.writer.core());
        let group = self.writer.group();
        let changed = group.known_changes().of(database);
        let all = changed.range(range);
        let all: Box<dyn Iterator<Item = (&[u8], Newest)> + '_> =
            if walk.backward { Box::new(all.rev()) } else { Box::new(all) };
        let mut pending = all.peekable();
        let visit_pending =
            |newest: Newest, key: &[u8], visit: Visit<'_>| match group.pending(newest.record) {
                Pending::Set(value, expires_at) if !expired(expires_at) => visit(key, value),
                _ => ControlFlow::Continue(()),
            };
        let mut flow = ControlFlow::Continue(());
        let mut visit_indexed = |key: &[u8], value: &[u8]| {
            let mut replaced = false;
            let is_due =
                |changed: &[u8]| if walk.backward { changed >= key } else { changed <= key };
            while let Some((changed, newest)) = pending.next_if(|(changed, _)| is_due(changed)) {
                replaced = changed == key;
                visit_pending(newest, changed, visit)?;
            }
            if replaced { ControlFlow::Continue(()) } else { visit(key, value) }
        };
        let snapshot = Snapshot::take(&core, || database);
        if changed.is_cleared() {
            snapshot.check_ordered()?;
        } else {
            snapshot.walk(range, walk, &mut |key, value| {
                flow = visit_indexed(key, value);
                flow
            })?;
        }
        while flow.is_continue()
            && let Some((key, newest)) = pending.next()
        {
            flow = visit_pending(newest, key, visit);
        }
        Ok(())
    }

    /// Visits about `count` keys from `cursor` on (0 starts), in no order, and returns the next
    /// cursor (0: done). Keys that only the group has come last.
    pub fn scan(
        &mut self,
        number: u8,
        cursor: u64,
        count: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<u64> {
        let database = self.database(number)?;
        self.changed()?;
        let core = Arc::clone(self.writer.core());
        let group = self.writer.group();
        let changed = group.known_changes().of(database);
        let is_set = |newest: Newest| match group.pending(newest.record) {
            Pending::Set(_, expires_at) => !expired(expires_at),
            _ => false,
        };
        let mut next = 0;
        if !changed.is_cleared() {
            next = cursor::scan(&core, || database, cursor, count, &mut |key| {
                if changed.get(key).is_none_or(is_set) {
                    visit(key);
                }
            })?;
        }
        if next == 0 {
            let all = changed.range((Bound::Unbounded, Bound::Unbounded));
            let own = all.filter(|(_, newest)| !newest.indexed && is_set(*newest));
            own.for_each(|(key, _)| visit(key));
        }
        Ok(next)
    }

    /// Sets a key's value and expiry (milliseconds since 1970).
    pub fn put(
        &mut self,
        number: u8,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<()> {
        record::check_lengths(key.len(), value.len())?;
        self.writer.core().reserve.check()?;
        let database = self.database(number)?;
        self.push((database, Change::Put, Touch::Change), key, value, expires_at);
        Ok(())
    }

    /// Removes a key; whether it was there. One that has expired was not, but gives its place back.
    pub fn delete(&mut self, number: u8, key: &[u8]) -> Result<bool> {
        let database = self.database(number)?;
        let Some(expires_at) = self.expiry_or_damage(database, key)? else { return Ok(false) };
        let there = !expired(expires_at);
        let touch = if there { Touch::Change } else { Touch::Removal };
        self.push((database, Change::Delete, touch), key, b"", None);
        Ok(there)
    }

    /// Removes a key whose record was found to have expired, unless it has another one by now that
    /// has not; whether it did. Reads nothing while the record is where it was found.
    pub(super) fn expire(&mut self, found: &Expired) -> Result<bool> {
        let Expired { database, key, hash, segment, position } = found;
        let pending = self.writer.group().find(*database, key, *hash);
        let is_untouched = pending == Pending::Untouched;
        let guard = crossbeam_epoch::pin();
        let core = self.writer.core();
        let is_there = is_untouched
            && core.keydir(*database, &guard).points_to(*hash, *position, &guard)
            && core.segments.get(position.slot(), &guard).is_some_and(|s| Arc::ptr_eq(s, segment));
        let expired = is_there || self.expiry(*database, key)?.is_some_and(expired);
        if expired {
            self.push((*database, Change::Delete, Touch::Removal), key, b"", None);
        }
        Ok(expired)
    }

    /// Removes all keys of a database.
    pub fn clear(&mut self, number: u8) -> Result<()> {
        let database = self.database(number)?;
        let records = self.writer.group().staged().len();
        for (key, hash) in self.writer.watches().of(number) {
            if let Some(expires_at) = self.expiry_or_damage(database, &key)? {
                let touch = if expired(expires_at) { Touch::Removal } else { Touch::Change };
                self.writer.watches().touch(records, (number, &key, hash), touch);
            }
        }
        self.push((database, Change::Clear, Touch::Removal), b"", b"", None);
        Ok(())
    }

    /// Removes all keys of all databases. Those that have none are left alone.
    pub fn clear_all(&mut self) -> Result<()> {
        for number in 0..DATABASES as u8 {
            let database = self.database(number)?;
            if self.writer.group().touches(database) || self.indexed(database) > 0 {
                self.clear(number)?;
            }
        }
        Ok(())
    }

    /// Exchanges the numbers of two databases: each has what was the other's from now on. Touches no
    /// key, whatever they hold.
    pub fn swap(&mut self, a: u8, b: u8) -> Result<()> {
        let (in_a, in_b) = (self.database(a)?, self.database(b)?);
        if a == b {
            return Ok(());
        }
        self.writer.core().reserve.check()?;
        self.touch_swapped(a, in_a, in_b)?;
        self.touch_swapped(b, in_b, in_a)?;
        let numbering = self.numbering().swapped(a, b).to_bytes();
        let change = (record::STORE, Change::Put, Touch::Change);
        self.push(change, numbering::KEY, &numbering, None);
        Ok(())
    }

    /// Tells those who watch keys of the database with this number that it will have the keys of `then`
    /// instead of those of `now`.
    fn touch_swapped(&mut self, number: u8, now: u8, then: u8) -> Result<()> {
        for (key, hash) in self.writer.watches().of(number) {
            let before = self.expiry_or_damage(now, &key)?;
            let after = self.expiry_or_damage(then, &key)?;
            let lives = |found: Option<Option<u64>>| found.is_some_and(|at| !expired(at));
            let touch = match (before, after) {
                _ if lives(before) || lives(after) => Touch::Change,
                (Some(_), _) => Touch::Removal,
                (None, Some(_)) => {
                    // An expired key in the place of none is none: it does not even come to be there.
                    self.push((then, Change::Delete, Touch::Removal), &key, b"", None);
                    continue;
                }
                (None, None) => continue,
            };
            let records = self.writer.group().staged().len();
            self.writer.watches().touch(records, (number, &key, hash), touch);
        }
        Ok(())
    }

    /// Begins to watch a key, with those that `watch` has already.
    pub fn watch(&mut self, watch: &Arc<Watch>, number: u8, key: &[u8]) -> Result<()> {
        let database = self.database(number)?;
        let hash = self.writer.core().hasher.hash(key);
        let gone = self.expiry_or_damage(database, key)?.is_some_and(expired);
        self.writer.watches().add(watch, (number, key, hash), gone)
    }

    /// Ends a watch; whether one of its keys was changed since it began, or has expired.
    pub fn unwatch(&mut self, watch: &Arc<Watch>) -> Result<bool> {
        let mut touched = watch.is_touched();
        for (number, key) in watch.living() {
            let database = self.database(number)?;
            touched |= self.expiry_or_damage(database, &key)?.is_some_and(expired);
        }
        self.writer.watches().remove(watch);
        Ok(touched)
    }

    fn push(
        &mut self,
        (database, change, touch): (u8, Change, Touch),
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) {
        let hash = self.writer.core().hasher.hash(key);
        if !self.writer.watches().is_empty() && change != Change::Clear {
            let records = self.writer.group().staged().len();
            let number = self.numbering().number(database);
            self.writer.watches().touch(records, (number, key, hash), touch);
        }
        self.writer.group().push(database, change, hash, key, value, expires_at);
    }
}
