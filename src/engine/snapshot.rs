//! Walking keys in order as of one moment, while the writer goes on.
//!
//! A snapshot copies nothing. While it lives, the writer notes in its overlay what each key was
//! before the key's first change, and only then changes the index; so the snapshot's truth is the
//! index with the overlay laid over it. A database that is cleared is handed over whole. Snapshots
//! begin and end between two group commits, so they see all of an atomic batch or nothing of it.
//!
//! Any thread, but for what says "for the writer". The walk pins an epoch for some keys at a time.
//! Invariant: the overlay is written before the index; so who reads the index first and the
//! overlay then, and finds nothing in the overlay, has read the index as of the snapshot.

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crossbeam_epoch::Guard;
use crossbeam_skiplist::SkipMap;

use super::core::{Core, lock};
use super::keydir::Keydir;
use super::position::Position;
use super::segment::Segment;
use super::segments::Table;
use super::view::{Patience, Source, Stop, expired};
use crate::error::{KvsError, Result};
use crate::key_range::KeyRange;

/// How many keys a walk takes from the index at a time.
const AT_ONCE: usize = 32;

/// Where a key's record was when the snapshot began; `None`: the key was not there.
type Before = Option<(Arc<Segment>, Position)>;

/// The index of a database at the moment it was cleared, and the segments it means.
struct Frozen {
    keydir: Arc<Keydir>,
    segments: Table,
}

/// What changed under one snapshot.
pub(super) struct Overlay {
    database: u8,
    before: SkipMap<Box<[u8]>, Before>,
    frozen: OnceLock<Frozen>,
}

impl Overlay {
    /// For the writer, before it changes `key`: notes what the key was, unless the snapshot has its
    /// first change already.
    pub(super) fn note(&self, database: u8, key: &[u8], before: impl FnOnce() -> Before) {
        let concerned = database == self.database && self.frozen.get().is_none();
        if concerned && !self.before.contains_key(key) {
            self.before.insert(key.into(), before());
        }
    }

    /// For the writer, before it clears `database`.
    pub(super) fn freeze(&self, core: &Core, database: u8, guard: &Guard) {
        if database == self.database {
            self.frozen.get_or_init(|| Frozen {
                keydir: Arc::clone(core.keydir(database, guard)),
                segments: core.segments.table(guard).clone(),
            });
        }
    }
}

/// The snapshots that live.
#[derive(Default)]
pub(super) struct Snapshots {
    overlays: Mutex<Vec<Arc<Overlay>>>,
}

impl Snapshots {
    /// For the writer: held while a group becomes visible, so that none begins in the middle.
    pub(super) fn overlays(&self) -> MutexGuard<'_, Vec<Arc<Overlay>>> {
        lock(&self.overlays)
    }
}

/// One database as of one moment.
pub struct Snapshot {
    core: Arc<Core>,
    overlay: Arc<Overlay>,
    len: u64,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot(database {}, {} keys)", self.overlay.database, self.len)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.core.snapshots.overlays().retain(|overlay| !Arc::ptr_eq(overlay, &self.overlay));
    }
}

/// Some keys in order, and where the next ones begin.
type Keys = (Vec<Box<[u8]>>, Option<Vec<u8>>);

/// How a walk goes over a range: by default from its first key on, and without values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walk {
    /// From the last key of the range back.
    pub backward: bool,
    /// The values are read, too; else the visitor gets empty ones.
    pub values: bool,
}

/// What a walk hands to its visitor: a key and, if asked for, its value.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

impl Snapshot {
    /// Waits while a group commit becomes visible. Only then it is asked which database it is to be.
    pub(super) fn take(core: &Arc<Core>, database: impl FnOnce() -> u8) -> Snapshot {
        let mut overlays = core.snapshots.overlays();
        let database = database();
        let overlay =
            Arc::new(Overlay { database, before: SkipMap::new(), frozen: OnceLock::new() });
        overlays.push(Arc::clone(&overlay));
        let len = core.keydir(database, &crossbeam_epoch::pin()).len();
        drop(overlays);
        Snapshot { core: Arc::clone(core), overlay, len }
    }

    /// The number of keys at the moment of the snapshot, expired ones included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Visits the keys and values of a range in order until told to break.
    pub fn entries(
        &self,
        range: KeyRange<'_>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.walk(range, Walk { values: true, ..Walk::default() }, &mut visit)
    }

    /// Visits the keys of a range in order until told to break. Reads no values.
    pub fn keys(
        &self,
        range: KeyRange<'_>,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.walk(range, Walk::default(), &mut |key, _| visit(key))
    }

    /// Visits the keys of a range in order, as `walk` tells, until told to break.
    pub fn walk(&self, range: KeyRange<'_>, walk: Walk, visit: Visit<'_>) -> Result<()> {
        match walk.backward {
            false => self.walk_forward(range, walk.values, visit),
            true => self.walk_backward(range, walk.values, visit),
        }
    }

    fn walk_forward(
        &self,
        (start, end): KeyRange<'_>,
        values: bool,
        visit: Visit<'_>,
    ) -> Result<()> {
        let mut from = match start {
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => behind(key),
            Bound::Unbounded => Vec::new(),
        };
        let within = |key: &[u8]| match end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        loop {
            let guard = crossbeam_epoch::pin();
            let (keys, upper) = self.piece(&from, &guard)?;
            for key in &keys {
                if !within(key) {
                    return Ok(());
                }
                if self.visit_key(key, values, visit, &guard)?.is_break() {
                    return Ok(());
                }
            }
            match upper {
                Some(upper) if within(&upper) => from = upper,
                _ => return Ok(()),
            }
        }
    }

    fn walk_backward(
        &self,
        (start, end): KeyRange<'_>,
        values: bool,
        visit: Visit<'_>,
    ) -> Result<()> {
        let mut before = match end {
            Bound::Included(key) => Some(behind(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
            Bound::Unbounded => None,
        };
        let within = |key: &[u8]| match start {
            Bound::Included(start) => key >= start,
            Bound::Excluded(start) => key > start,
            Bound::Unbounded => true,
        };
        while before.as_ref().is_none_or(|before| !before.is_empty()) {
            let guard = crossbeam_epoch::pin();
            let (keys, lower) = self.piece_before(before.as_deref(), &guard)?;
            for key in keys.iter().rev() {
                if !within(key) {
                    return Ok(());
                }
                if self.visit_key(key, values, visit, &guard)?.is_break() {
                    return Ok(());
                }
            }
            // An end that is the empty key: nothing is before it.
            before = Some(lower.unwrap_or_default());
        }
        Ok(())
    }

    /// The last keys of the index below `before`, as [`Snapshot::piece`] has them, and below what to
    /// go on.
    fn piece_before(&self, before: Option<&[u8]>, guard: &Guard) -> Result<Keys> {
        let cleared = self.is_cleared();
        let source = self.source(guard);
        let order = source.keydir.order().ok_or(UNORDERED)?;
        let (present, lower) = order.piece_before(before, AT_ONCE, guard);
        let keys: Vec<Box<[u8]>> = present.into_iter().map(Into::into).collect();
        if self.is_cleared() != cleared {
            return self.piece_before(before, guard);
        }
        let from = lower.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let keys =
            self.with_removed(keys, (from, before.map_or(Bound::Unbounded, Bound::Excluded)));
        Ok((keys, lower))
    }

    /// Some keys of the index from `from` on, those that it has not any more included, and where to
    /// go on.
    fn piece(&self, from: &[u8], guard: &Guard) -> Result<Keys> {
        let cleared = self.is_cleared();
        let source = self.source(guard);
        let order = source.keydir.order().ok_or(UNORDERED)?;
        let (present, upper) = order.piece(from, AT_ONCE, guard);
        let keys: Vec<Box<[u8]>> = present.into_iter().map(Into::into).collect();
        let behind = upper.map_or(Bound::Unbounded, Bound::Excluded);
        if self.is_cleared() != cleared {
            // The index that was read may be the one after the clear.
            return self.piece(from, guard);
        }
        let keys = self.with_removed(keys, (Bound::Included(from), behind));
        Ok((keys, upper.map(<[u8]>::to_vec)))
    }

    /// `keys`, which are those of `range` in the index, with those that were removed since.
    fn with_removed(&self, mut keys: Vec<Box<[u8]>>, range: KeyRange<'_>) -> Vec<Box<[u8]>> {
        let known = keys.len();
        for entry in self.overlay.before.range::<[u8], _>(range) {
            if entry.value().is_some() && keys[..known].binary_search(entry.key()).is_err() {
                keys.push(entry.key().clone());
            }
        }
        if keys.len() > known {
            keys.sort_unstable();
        }
        keys
    }

    /// An error if there is no order to walk in.
    pub(super) fn check_ordered(&self) -> Result<()> {
        if self.core.ordered { Ok(()) } else { Err(UNORDERED) }
    }

    /// Whether the database was cleared since the snapshot. Who finds it so, or finds this changed
    /// after reading the index, may have read the new index and has to read again.
    fn is_cleared(&self) -> bool {
        self.overlay.frozen.get().is_some()
    }

    fn source<'g>(&'g self, guard: &'g Guard) -> Source<'g> {
        match self.overlay.frozen.get() {
            Some(frozen) => {
                let pressed = self.core.is_pressed();
                Source { keydir: &frozen.keydir, segments: &frozen.segments, guard, pressed }
            }
            None => Source::live(&self.core, self.overlay.database, guard),
        }
    }

    fn visit_key(
        &self,
        key: &[u8],
        values: bool,
        visit: Visit<'_>,
        guard: &Guard,
    ) -> Result<ControlFlow<()>> {
        let hash = self.core.hasher.hash(key);
        let name = (self.overlay.database, key);
        loop {
            let cleared = self.is_cleared();
            let source = self.source(guard);
            // Without values, the record is only looked at if it may have expired.
            let read = values
                || !matches!(
                    source.keydir.find(hash, guard, |p| Ok::<_, ()>(p.expires())),
                    Ok(None)
                );
            let found = if read { source.find(hash, name, Patience::MayWait) } else { Ok(None) };
            if let Some(before) = self.overlay.before.get(key) {
                return before.value().as_ref().map_or(Ok(ControlFlow::Continue(())), |place| {
                    visit_before(place, key, visit)
                });
            }
            if self.is_cleared() != cleared {
                continue;
            }
            return match found {
                Err(Stop::Moved) => continue,
                // Whether it has expired cannot be told; its name can.
                Err(Stop::Error(_)) if !values => Ok(visit(key, b"")),
                Err(Stop::Error(error)) => Err(error.into()),
                Ok(Some((_, value))) if expired(value.expires_at) => Ok(ControlFlow::Continue(())),
                Ok(Some((_, value))) => Ok(visit(key, &value.bytes)),
                Ok(None) if !read => Ok(visit(key, b"")),
                Ok(None) => Ok(ControlFlow::Continue(())),
            };
        }
    }
}

const UNORDERED: KvsError =
    KvsError::Unsupported("order of keys (it was opened with the unordered index)");

/// Visits a key as it was before a change.
fn visit_before(
    (segment, position): &(Arc<Segment>, Position),
    key: &[u8],
    visit: Visit<'_>,
) -> Result<ControlFlow<()>> {
    let bytes = segment.fetch(*position)?;
    let record = segment.parse(*position, &bytes)?;
    if expired(record.expires_at) {
        return Ok(ControlFlow::Continue(()));
    }
    Ok(visit(key, record.value))
}

/// The first key behind `key`.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
