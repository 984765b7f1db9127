//! Point reads: from a key to its value.
//!
//! Any thread. A view pins an epoch: what it returns lies in the segments' maps where it can, and
//! stays there as long as the view. Make a view, read, drop it; a view that is kept keeps freed
//! memory from being reused. No lock is taken.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use crossbeam_epoch::Guard;

use super::core::Core;
use super::group::Staged;
use super::keydir::{KeyHash, Keydir};
use super::mmap;
use super::position::Position;
use super::record;
use super::segment::Segment;
use super::segments::Table;
use crate::clock::now_ms;
use crate::error::{KvsError, Result};

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It may.
    MayWait,
    /// It answers [`ReadError::NotResident`] instead. For event loops.
    ResidentOnly,
}

/// Why a read has no answer.
#[derive(Debug)]
pub enum ReadError {
    /// The record is not in memory, and the caller would not wait.
    NotResident,
    /// The read failed, or found damage.
    Failed(KvsError),
}

impl From<KvsError> for ReadError {
    fn from(error: KvsError) -> Self {
        ReadError::Failed(error)
    }
}

impl From<ReadError> for KvsError {
    /// For reads that may wait, which are never told that a record is not in memory.
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Failed(error) => error,
            ReadError::NotResident => {
                debug_assert!(false, "a read that may wait did not");
                KvsError::Invalid("internal error: the value is not in memory".into())
            }
        }
    }
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value<'v> {
    /// The bytes.
    pub bytes: Cow<'v, [u8]>,
    /// When it ends, in milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// See the module.
pub struct View<'a> {
    core: &'a Core,
    guard: Guard,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("View")
    }
}

/// Whether a record with this expiry is gone. The clock is only read where there is one.
pub(super) fn expired(expires_at: Option<u64>) -> bool {
    expires_at.is_some_and(|at| at <= now_ms())
}

/// What the look at one candidate found.
enum Look<'v> {
    OtherKey,
    Found(Value<'v>),
}

/// A position's segment went: compaction has moved the record, and the index knows where to. The
/// look-up starts again.
pub(super) struct Moved;

/// Why a look-up has to start again, or ends.
pub(super) enum Stop {
    Moved,
    Error(ReadError),
}

impl From<Moved> for Stop {
    fn from(_: Moved) -> Stop {
        Stop::Moved
    }
}

/// Records up to so many bytes are read without asking for all of their lines first.
const SMALL: usize = 256;

/// Reads the record at `position`, and tells whether it is of this key. While memory is short
/// (`pressed`), through the file: the map may have lost a page since the kernel was last asked, and
/// the loop would wait for the disk in a page fault. The file can be asked not to wait.
fn look<'v>(
    segment: &'v Segment,
    position: Position,
    (database, key): (u8, &[u8]),
    (patience, pressed): (Patience, bool),
) -> Result<Look<'v>, ReadError> {
    let resident = segment.is_resident(position);
    if resident && !pressed {
        let bytes = segment.mapped(position);
        // The few lines of a small one come while its header is looked at.
        if bytes.len() > SMALL {
            mmap::prefetch(bytes);
        }
        if let Ok(found) = record::key_of(bytes)
            && found != (database, key)
        {
            // Another key with the same hash, unless the key was damaged.
            segment.parse(position, bytes)?;
            return Ok(Look::OtherKey);
        }
        let record = segment.parse(position, bytes)?;
        return Ok(Look::Found(Value {
            bytes: Cow::Borrowed(record.value),
            expires_at: record.expires_at,
        }));
    }
    let mut bytes = match patience {
        Patience::MayWait => segment.fetch(position)?,
        Patience::ResidentOnly if resident => {
            segment.fetch_now(position)?.ok_or(ReadError::NotResident)?
        }
        Patience::ResidentOnly => return Err(ReadError::NotResident),
    };
    let record = segment.parse(position, &bytes)?;
    if (record.database, record.key) != (database, key) {
        return Ok(Look::OtherKey);
    }
    let (end, expires_at) = (record.size(), record.expires_at);
    let start = end - record.value.len();
    bytes.truncate(end);
    bytes.drain(..start);
    Ok(Look::Found(Value { bytes: Cow::Owned(bytes), expires_at }))
}

impl<'a> View<'a> {
    pub(super) fn new(core: &'a Core) -> View<'a> {
        View { core, guard: crossbeam_epoch::pin() }
    }

    /// The hash that the index knows `key` by.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        self.core.hasher.hash(key)
    }

    fn keydir(&self, number: u8) -> &Keydir {
        self.core.keydir(self.core.numbering().database(number), &self.guard)
    }

    /// The number of keys in the database with this number, expired ones that are not removed yet
    /// included.
    pub fn len(&self, number: u8) -> u64 {
        self.keydir(number).len()
    }

    /// How many keys of a database have an expiry time.
    pub fn ending(&self, number: u8) -> u64 {
        self.keydir(number).ending()
    }

    /// The value of `key`, unless there is none or it has expired.
    pub fn get(
        &self,
        number: u8,
        key: &[u8],
        patience: Patience,
    ) -> Result<Option<Value<'_>>, ReadError> {
        loop {
            let numbering = self.core.numbering();
            let found = self.get_even_expired(numbering.database(number), key, patience)?;
            // What was written to the database after it lost its number was never there.
            if self.core.numbering() == numbering {
                return Ok(found.filter(|value| !expired(value.expires_at)));
            }
        }
    }

    /// The value of `key`, expired or not.
    pub(super) fn get_even_expired(
        &self,
        database: u8,
        key: &[u8],
        patience: Patience,
    ) -> Result<Option<Value<'_>>, ReadError> {
        let hash = self.hash(key);
        loop {
            let source = Source::live(self.core, database, &self.guard);
            match source.find(hash, (database, key), patience) {
                Ok(found) => return Ok(found.map(|(_, value)| value)),
                Err(Stop::Moved) => std::hint::spin_loop(),
                Err(Stop::Error(error)) => return Err(error),
            }
        }
    }

    /// Whether the index leads to the key of a staged record, expired or not.
    pub(super) fn has_even_expired(&self, staged: &Staged, key: &[u8]) -> Result<bool> {
        loop {
            let source = Source::live(self.core, staged.database, &self.guard);
            let is_key = |position| source.is_of_key(position, (staged.database, key));
            match source.keydir.find(staged.hash, &self.guard, is_key) {
                Ok(found) => return Ok(found.is_some()),
                Err(Moved) => std::hint::spin_loop(),
            }
        }
    }

    /// Reads ahead what looking these keys up will read, as far as it is in memory: the index, and
    /// the records. One look-up waits for its cache misses one after the other; here those of
    /// many keys overlap. Nothing is returned; only time is won.
    pub fn warm_up<'k>(&self, number: u8, keys: impl Iterator<Item = &'k [u8]>) {
        const AT_ONCE: usize = 32;
        let database = self.core.numbering().database(number);
        let source = Source::live(self.core, database, &self.guard);
        let (mut hashes, mut count) = ([None; AT_ONCE], 0);
        let mut sum = 0;
        for (place, key) in hashes.iter_mut().zip(keys) {
            let hash = self.hash(key);
            *place = Some(hash);
            count += 1;
            sum ^= source.keydir.touch(hash, &self.guard);
        }
        std::hint::black_box(sum);
        for hash in hashes[..count].iter().flatten() {
            source.touch_record(*hash, usize::MAX);
        }
    }

    /// The size of a key's record as the index knows it, a little too large rather than too small;
    /// 0 if there is none. It reads no record.
    pub fn record_size(&self, number: u8, key: &[u8]) -> usize {
        let mut size = 0;
        let _ = self.keydir(number).find(self.hash(key), &self.guard, |position| {
            // Another key's with the same hash counts, too.
            size += position.size();
            Ok::<_, std::convert::Infallible>(false)
        });
        size
    }

    /// The number of the last atomic batch that became visible, `None` while one does. What was
    /// read of a key between two equal answers shows all of a batch or nothing of it.
    pub fn batch_mark(&self) -> Option<u64> {
        self.core.batches.read()
    }

    /// The same for group commits: what was read of several keys between two equal answers is of one
    /// moment. A group has many writes, and more of them come than batches.
    pub fn group_mark(&self) -> Option<u64> {
        self.core.groups.read()
    }
}

/// An index and the segments that its positions mean.
#[derive(Clone, Copy)]
pub(super) struct Source<'g> {
    pub(super) keydir: &'g Keydir,
    pub(super) segments: &'g Table,
    pub(super) guard: &'g Guard,
    /// [`Core::is_pressed`]
    pub(super) pressed: bool,
}

impl<'g> Source<'g> {
    /// The present index of a database. Loaded anew for each attempt: after [`Stop::Moved`], the
    /// database may have been cleared, or the segments changed.
    pub(super) fn live(core: &'g Core, database: u8, guard: &'g Guard) -> Source<'g> {
        let keydir = core.keydir(database, guard);
        let pressed = core.is_pressed();
        Source { keydir, segments: core.segments.table(guard), guard, pressed }
    }

    pub(super) fn segment(&self, position: Position) -> Result<&'g Arc<Segment>, Moved> {
        let slot = self.segments.get(position.slot() as usize);
        slot.and_then(Option::as_ref).ok_or(Moved)
    }

    /// The position and value of a key, expired or not.
    pub(super) fn find(
        &self,
        hash: KeyHash,
        key: (u8, &[u8]),
        patience: Patience,
    ) -> Result<Option<(Position, Value<'g>)>, Stop> {
        let mut value = None;
        let found = self.keydir.find(hash, self.guard, |position| -> Result<bool, Stop> {
            let segment = self.segment(position)?;
            let look = look(segment, position, key, (patience, self.pressed));
            match look.map_err(Stop::Error)? {
                Look::OtherKey => Ok(false),
                Look::Found(found) => {
                    value = Some(found);
                    Ok(true)
                }
            }
        })?;
        Ok(found.zip(value))
    }

    /// Asks for up to `most` bytes of the first record that has this hash, if it is in memory: see
    /// [`View::warm_up`].
    pub(super) fn touch_record(&self, hash: KeyHash, most: usize) {
        let any = |_| Ok::<_, Infallible>(true);
        let Ok(Some(position)) = self.keydir.find(hash, self.guard, any) else { return };
        if let Ok(segment) = self.segment(position)
            && segment.is_resident(position)
            && !self.pressed
        {
            let record = segment.mapped(position);
            mmap::prefetch(&record[..record.len().min(most)]);
        }
    }

    /// Whether the record at `position` is of `key`, for replacing it. A record that is too damaged
    /// to tell counts as the key's: nobody can read it any more, and the write puts something sound
    /// in its place. That goes for one that tells another key, too: only its checksum makes it so.
    pub(super) fn is_of_key(&self, position: Position, key: (u8, &[u8])) -> Result<bool, Moved> {
        let segment = self.segment(position)?;
        let told = |bytes: &[u8]| record::key_of(bytes).map(|found| found == key);
        if segment.is_resident(position) && !self.pressed {
            let bytes = segment.mapped(position);
            return Ok(told(bytes).unwrap_or(true) || record::parse(bytes).is_err());
        }
        let same = segment.fetch_key(position, key.1.len()).map(|bytes| told(&bytes));
        let is_other = matches!(same, Ok(Ok(false) | Err(_)));
        Ok(!is_other
            || segment.fetch(position).map_or(true, |bytes| match record::parse(&bytes) {
                Ok(record) => (record.database, record.key) == key,
                Err(_) => true,
            }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::KvStore;

    #[test]
    fn while_memory_is_short_nothing_is_read_in_the_map() {
        let dir = tempfile::tempdir().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.put("k", "v").unwrap();
        let (core, guard) = (&store.reader().core, crossbeam_epoch::pin());
        for pressed in [false, true] {
            let source = Source { pressed, ..Source::live(core, 0, &guard) };
            for patience in [Patience::ResidentOnly, Patience::MayWait] {
                let found = source.find(core.hasher.hash(b"k"), (0, b"k"), patience);
                let Ok(Some((_, value))) = found else { panic!("not found") };
                assert_eq!(value.bytes.as_ref(), b"v");
                assert_eq!(matches!(value.bytes, Cow::Owned(_)), pressed);
            }
        }
    }
}
