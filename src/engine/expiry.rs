//! Active expiry: removes keys whose time has come, whether or not anyone asks for them.
//!
//! A read never serves an expired key, so this is about space: in the index, in the count of keys
//! and on the disk. It walks over no index. The writer tells of each record that ends
//! ([`Expiry::add`]), an open tells of those it found, and the thread keeps them in a heap by the
//! moment they end: sixteen bytes each, a moment and a key's hash. When one is due, the index leads
//! from the hash to the record, and the record tells its key.
//!
//! Thread: `kvs-expire`; [`Expiry`] is what others may touch. Invariants:
//! - the heap only says where to look. What is removed, the writer decides by the record the index
//!   leads to at that place in the order of writes ([`Txn::expire`]); the removal is a tombstone like
//!   any other. So an expired record is live, for compaction, until its tombstone is durable, and no
//!   older record of the key comes back.
//! - the thread has read and checked the record before, so the writer need not wait for the disk.
//! - each record that ends has an entry in the heap that is due no later than the record.
//! - the heap holds no more than about twice as many entries as there are keys that end: what was
//!   overwritten or removed meanwhile is taken out when it has become the larger part.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_epoch::Guard;

use super::commit::Committer;
use super::core::{Core, DATABASES, lock};
use super::keydir::KeyHash;
use super::position::Position;
use super::record;
use super::segment::Segment;
use super::txn::{Expired, Txn};
use crate::clock::now_ms;
use crate::error::{KvsError, Result};

/// How long the thread gathers what becomes due, so that it does not commit for each key alone.
const GATHER: Duration = Duration::from_millis(50);
/// How many keys it removes in one group: what the writer does in about a millisecond.
const AT_ONCE: usize = 512;
/// And how many bytes of keys, about.
const BYTES_AT_ONCE: usize = 1024 * 1024;
/// How many new entries wake it even if none is due soon, to move them into the heap.
const INBOX: usize = 4096;
/// How long it sleeps at most while something is scheduled: the clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How long it rests when removing failed, in milliseconds.
const AFTER_FAILURE: u64 = 1000;
/// Entries that are never worth a clean-up.
const SLACK: usize = 16 * 1024;
/// The length of keys up to which a record tells its key with one small read.
const USUAL_KEY: usize = 256;

/// A record that ends: when, in milliseconds since 1970, and its key's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: u64,
    pub(super) hash: KeyHash,
}

/// What the writer and the thread share.
#[derive(Default)]
pub(super) struct Expiry {
    inbox: Mutex<Inbox>,
    news: Condvar,
}

#[derive(Default)]
struct Inbox {
    new: Vec<Due>,
    /// When the thread wakes by itself; zero while it is awake and will look again anyway.
    wakes_at: u64,
    paused: bool,
    closing: bool,
}

impl Expiry {
    /// Tells of records that end. They must be in the index already. Any thread.
    pub(super) fn add(&self, due: &mut Vec<Due>) {
        let Some(first) = due.iter().map(|due| due.at).min() else { return };
        let mut inbox = lock(&self.inbox);
        inbox.new.append(due);
        let full = inbox.new.len() >= INBOX;
        if inbox.wakes_at > 0 && (full || first < inbox.wakes_at) {
            inbox.wakes_at = 0;
            self.news.notify_one();
        }
    }

    /// Makes expired keys stay until they are overwritten, or go again. They are not served anyway.
    pub(super) fn set_active(&self, active: bool) {
        let mut inbox = lock(&self.inbox);
        inbox.paused = !active;
        inbox.wakes_at = 0;
        self.news.notify_one();
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        lock(&self.inbox).closing = true;
        self.news.notify_one();
    }
}

/// The thread's own side.
pub(super) struct Expirer {
    core: Arc<Core>,
    committer: Arc<Committer>,
    heap: BinaryHeap<Reverse<Due>>,
    /// Nothing is to be removed at the moment.
    paused: bool,
    /// Writes are refused for good: nothing can be removed any more.
    refused: bool,
}

/// What one look at the heap found.
#[derive(Default)]
struct Found {
    /// Keys whose records have expired, and the bytes of these keys.
    expired: Vec<Expired>,
    bytes: usize,
    /// What was taken from the heap.
    taken: Vec<Due>,
}

impl Expirer {
    pub(super) fn new(core: Arc<Core>, committer: Arc<Committer>) -> Expirer {
        Expirer { core, committer, heap: BinaryHeap::new(), paused: false, refused: false }
    }

    /// The thread's body.
    pub(super) fn run(mut self) {
        while self.wait() {
            self.clean_up();
            while !self.is_idle() && self.round() {}
        }
    }

    /// Waits until an entry is due; false when the store is closed.
    fn wait(&mut self) -> bool {
        let core = Arc::clone(&self.core);
        let mut inbox = lock(&core.expiry.inbox);
        loop {
            self.heap.extend(inbox.new.drain(..).map(Reverse));
            inbox.new.shrink_to(INBOX);
            if inbox.closing {
                return false;
            }
            self.paused = inbox.paused;
            core.stats.scheduled_expiries.set(self.heap.len() as u64);
            let next = self.heap.peek().filter(|_| !self.is_idle()).map(|Reverse(due)| due.at);
            let now = now_ms();
            if next.is_some_and(|at| at <= now) || self.is_bloated() {
                inbox.wakes_at = 0;
                return true;
            }
            inbox.wakes_at = next.unwrap_or(u64::MAX);
            let sleep = next.map(|at| Duration::from_millis(at - now) + GATHER);
            inbox = match sleep {
                Some(sleep) => {
                    let sleep = sleep.min(LONGEST_SLEEP);
                    core.expiry
                        .news
                        .wait_timeout(inbox, sleep)
                        .map(|(inbox, _)| inbox)
                        .unwrap_or_else(|poisoned| poisoned.into_inner().0)
                }
                None => core.expiry.news.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Removes some of what is due; whether there may be more.
    fn round(&mut self) -> bool {
        let mut found = Found::default();
        while found.taken.len() < AT_ONCE
            && found.bytes < BYTES_AT_ONCE
            && let Some(Reverse(due)) = self.heap.peek().copied()
            && due.at <= now_ms()
        {
            self.heap.pop();
            found.taken.push(due);
            self.look(due.hash, &mut found);
        }
        let more = found.taken.len() == AT_ONCE || found.bytes >= BYTES_AT_ONCE;
        if found.expired.is_empty() {
            return more;
        }
        let expired = found.expired;
        match self.committer.execute(move |txn| Ok(remove(txn, &expired))) {
            Ok(removed) => self.core.stats.expired_keys.add(removed),
            Err(error) => self.put_off(&found.taken, &error),
        }
        more
    }

    fn is_idle(&self) -> bool {
        self.paused || self.refused
    }

    /// Comes back later to what could not be removed.
    fn put_off(&mut self, taken: &[Due], error: &KvsError) {
        self.refused = matches!(error, KvsError::Poisoned { .. });
        log::warn!("cannot remove expired keys: {error}");
        let at = now_ms() + AFTER_FAILURE;
        self.heap.extend(taken.iter().map(|due| Reverse(Due { at, ..*due })));
    }

    /// Looks at all records that end and that this hash leads to: notes those that have, and comes
    /// back for the others.
    fn look(&mut self, hash: KeyHash, found: &mut Found) {
        let now = now_ms();
        for database in 0..DATABASES as u8 {
            for (expired, expires_at) in ending(&self.core, database, hash) {
                if expires_at > now {
                    self.heap.push(Reverse(Due { at: expires_at, hash }));
                } else if is_sound(&expired) {
                    found.bytes += expired.key.len();
                    found.expired.push(expired);
                }
            }
        }
    }

    fn is_bloated(&self) -> bool {
        let guard = crossbeam_epoch::pin();
        let ending: u64 =
            (0..DATABASES as u8).map(|database| self.core.keydir(database, &guard).ending()).sum();
        self.heap.len() > SLACK + 2 * ending as usize
    }

    /// Takes out what stands for no record any more, or stands there twice: of those the one that is
    /// due first stays, and leads to the record's true end.
    fn clean_up(&mut self) {
        if !self.is_bloated() {
            return;
        }
        let mut all: Vec<Due> =
            std::mem::take(&mut self.heap).into_iter().map(|due| due.0).collect();
        all.sort_unstable_by_key(|due| (due.hash, due.at));
        all.dedup_by_key(|due| due.hash);
        let guard = crossbeam_epoch::pin();
        all.retain(|due| {
            (0..DATABASES as u8).any(|database| {
                let ends = |position: Position| Ok::<_, Infallible>(position.expires());
                let keydir = self.core.keydir(database, &guard);
                keydir.ending() > 0 && matches!(keydir.find(due.hash, &guard, ends), Ok(Some(_)))
            })
        });
        all.shrink_to_fit();
        self.heap = all.into_iter().map(Reverse).collect();
    }
}

/// Removes those of the keys that have expired, each as a unit of its own; how many.
fn remove(txn: &mut Txn<'_>, keys: &[Expired]) -> u64 {
    let mut removed = 0;
    for key in keys {
        match txn.part(|txn| txn.expire(key)) {
            Ok(expired) => removed += u64::from(expired),
            Err(error) => log::debug!("an expired key stays: {error}"),
        }
        txn.end_unit();
    }
    removed
}

/// All records that end and that `hash` leads to, and when they end. Their checksums were not looked
/// at.
fn ending(core: &Core, database: u8, hash: KeyHash) -> Vec<(Expired, u64)> {
    loop {
        let guard = crossbeam_epoch::pin();
        if let Some(found) = try_ending(core, database, hash, &guard) {
            return found;
        }
    }
}

/// `None` if a record was just being moved.
fn try_ending(
    core: &Core,
    database: u8,
    hash: KeyHash,
    guard: &Guard,
) -> Option<Vec<(Expired, u64)>> {
    let keydir = core.keydir(database, guard);
    if keydir.ending() == 0 {
        return Some(Vec::new());
    }
    let mut positions = Vec::new();
    let Ok(_) = keydir.find(hash, guard, |position| {
        if position.expires() {
            positions.push(position);
        }
        Ok::<_, Infallible>(false)
    });
    let mut found = Vec::with_capacity(positions.len());
    for position in positions {
        let segment = Arc::clone(core.segments.get(position.slot(), guard)?);
        match key_and_expiry(&segment, position) {
            Ok(Some((key, expires_at))) => {
                let hash = core.hasher.hash(&key);
                found.push((Expired { database, key, hash, segment, position }, expires_at));
            }
            Ok(None) => {}
            Err(error) => log::debug!("an expired key stays: {error}"),
        }
    }
    Some(found)
}

/// Whether the record is what was written. Damage stays: to read it is an error, and without it
/// there would just be no such key.
fn is_sound(Expired { segment, position, .. }: &Expired) -> bool {
    let parsed = |bytes: &[u8]| segment.parse(*position, bytes).map(drop);
    let sound = match segment.is_resident(*position) {
        true => parsed(segment.mapped(*position)),
        false => segment.fetch(*position).and_then(|bytes| parsed(&bytes)),
    };
    sound.inspect_err(|error| log::debug!("an expired key stays: {error}")).is_ok()
}

fn key_and_expiry(segment: &Segment, position: Position) -> Result<Option<(Vec<u8>, u64)>> {
    let told = |bytes: &[u8]| {
        let (_, key) = record::key_of(bytes).ok()?;
        Some((key.to_vec(), record::expiry_of(bytes)?))
    };
    if segment.is_resident(position) {
        return Ok(told(segment.mapped(position)));
    }
    for longest in [USUAL_KEY, record::MAX_KEY] {
        if let Some(told) = told(&segment.fetch_key(position, longest)?) {
            return Ok(Some(told));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Fsync, Options};

    /// Between the look at a record and its removal, a user may have set the key anew, or compaction
    /// may have moved the record.
    #[test]
    fn the_writer_removes_only_what_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let store = Options::new(dir.path()).fsync(Fsync::No).segment_bytes(4096).open().unwrap();
        store.set_active_expiry(false);
        let put =
            |key: &'static [u8], at| store.update(move |txn| txn.put(0, key, b"", at)).unwrap();
        let keys: [&[u8]; 5] = [b"stays", b"moved", b"renewed", b"persisted", b"removed"];
        let core = Arc::clone(store.reader().core());
        let look = |key: &[u8]| ending(&core, 0, core.hasher.hash(key)).remove(0).0;
        // Dead soon, so that its segment is worth a merge.
        store.put("large", "").unwrap();
        put(b"moved", Some(1));
        let mut found = vec![look(b"moved")];
        store.put("large", vec![0; 8192]).unwrap();
        store.put("large", vec![0; 8192]).unwrap();
        store.compact().unwrap();
        assert_ne!(found[0].position, look(b"moved").position);
        keys.iter().filter(|key| **key != b"moved").for_each(|key| put(key, Some(1)));
        found.extend(keys.iter().filter(|key| **key != b"moved").map(|key| look(key)));
        found.push(look(b"stays"));
        put(b"renewed", Some(u64::MAX));
        let removed = store.update(move |txn| {
            txn.put(0, b"persisted", b"", None)?;
            txn.delete(0, b"removed")?;
            Ok(remove(txn, &found))
        });
        assert_eq!(removed.unwrap(), 2, "the one that stayed, and the one that was moved");
        let left: Vec<_> = store.prefix("").map(|entry| entry.unwrap().0).collect();
        assert_eq!(left, [&b"large"[..], b"persisted", b"renewed"]);
    }
}
