//! Keys that someone watches: who has read them wants to know, before changing them, whether anyone
//! else has changed them since.
//!
//! A watch begins and is asked on the writer, in the one order of all writes; so "since" needs no
//! locks and no clocks, and a change is missed by nobody: it comes before the watch, after the
//! question, or in between. Owner: the writer. A [`Watch`] is shared with whoever watches; to let go of
//! it is to end it, and what is noted of it goes with time. Invariant: what a unit changes counts once
//! the unit has ended; what is undone never does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::core::lock;
use super::group::ByHash;
use super::keydir::KeyHash;
use crate::error::{KvsError, Result};

/// What one watch notes takes so many bytes at most.
const MOST: usize = 64 * 1024 * 1024;
/// What a key takes beside its own bytes, twice, in about as many.
const EACH: usize = 128;

/// Some keys that are watched together.
#[derive(Debug, Default)]
pub struct Watch {
    touched: AtomicBool,
    /// Locked by the writer only.
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    all: Vec<Key>,
    /// About what they take.
    bytes: usize,
}

#[derive(Debug)]
struct Key {
    database: u8,
    hash: KeyHash,
    key: Box<[u8]>,
    expired: bool,
}

struct Watcher {
    database: u8,
    key: Box<[u8]>,
    /// The key had expired when it was first watched: that it is removed changes nothing.
    expired: bool,
    watch: Weak<Watch>,
}

/// How a key is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// By what someone asks for.
    Change,
    /// It had expired, and is removed.
    Removal,
}

/// See the module.
#[derive(Default)]
pub(super) struct Watches {
    watchers: ByHash<Vec<Watcher>>,
    len: usize,
    /// What has happened since the last look for watches that ended: a commit counts once, a key that was
    /// added twice.
    since_look: usize,
    /// Watches that the open unit touches, each with the number of records before that.
    pending: Vec<(usize, Arc<Watch>)>,
}

impl Watch {
    /// Counts as touched from now on: nobody knows what became of it.
    pub fn spoil(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Its keys that had not expired when they were watched.
    pub(super) fn living(&self) -> Vec<(u8, Box<[u8]>)> {
        let keys = lock(&self.keys);
        let living = keys.all.iter().filter(|key| !key.expired);
        living.map(|key| (key.database, key.key.clone())).collect()
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }
}

impl Watches {
    /// Whether nobody watches anything.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Watches a key, too; `expired`: it is not removed yet.
    pub(super) fn add(
        &mut self,
        watch: &Arc<Watch>,
        (database, key, hash): (u8, &[u8], KeyHash),
        expired: bool,
    ) -> Result<()> {
        let watchers = self.watchers.entry(hash).or_default();
        let is_known = |known: &Watcher| {
            known.database == database
                && *known.key == *key
                && known.watch.as_ptr() == Arc::as_ptr(watch)
        };
        if watch.is_touched() || watchers.iter().any(is_known) {
            return Ok(());
        }
        let mut keys = lock(&watch.keys);
        let bytes = keys.bytes + EACH + 2 * key.len();
        if bytes > MOST {
            return Err(KvsError::TooLarge { what: "watch", len: bytes, limit: MOST });
        }
        keys.bytes = bytes;
        keys.all.push(Key { database, hash, key: key.into(), expired });
        let watch = Arc::downgrade(watch);
        watchers.push(Watcher { database, key: key.into(), expired, watch });
        self.len += 1;
        self.since_look += 2;
        Ok(())
    }

    /// Ends a watch.
    pub(super) fn remove(&mut self, watch: &Arc<Watch>) {
        for key in lock(&watch.keys).all.drain(..) {
            self.retain(key.hash, |watcher| watcher.watch.as_ptr() != Arc::as_ptr(watch));
        }
    }

    fn retain(&mut self, hash: KeyHash, keep: impl FnMut(&Watcher) -> bool) {
        let Some(watchers) = self.watchers.get_mut(&hash) else { return };
        let before = watchers.len();
        watchers.retain(keep);
        self.len -= before - watchers.len();
        if watchers.is_empty() {
            self.watchers.remove(&hash);
        }
    }

    /// The keys of a database that are watched.
    pub(super) fn of(&self, database: u8) -> Vec<(Box<[u8]>, KeyHash)> {
        let all =
            self.watchers.iter().flat_map(|(hash, some)| some.iter().map(move |w| (*hash, w)));
        all.filter(|(_, watcher)| watcher.database == database)
            .map(|(hash, watcher)| (watcher.key.clone(), hash))
            .collect()
    }

    /// A key is changed by the record that comes behind `records` others.
    pub(super) fn touch(
        &mut self,
        records: usize,
        (database, key, hash): (u8, &[u8], KeyHash),
        touch: Touch,
    ) {
        let Some(watchers) = self.watchers.get(&hash) else { return };
        for watcher in watchers {
            let concerned = watcher.database == database
                && *watcher.key == *key
                && !(watcher.expired && touch == Touch::Removal);
            if concerned && let Some(watch) = watcher.watch.upgrade() {
                self.pending.push((records, watch));
            }
        }
    }

    /// What comes behind the first `records` records is undone.
    pub(super) fn undo_to(&mut self, records: usize) {
        self.pending.retain(|(before, _)| *before < records);
    }

    /// The open unit ends: what it touched is touched.
    pub(super) fn settle(&mut self) {
        for (_, watch) in self.pending.drain(..) {
            watch.spoil();
        }
    }

    /// Forgets what has ended, now and then: the more there is to look through, the more seldom. As keys
    /// count twice, no more of them are added in between than there were after the last look.
    pub(super) fn age(&mut self) {
        self.since_look += 1;
        if self.is_empty() || self.since_look < self.len {
            return;
        }
        self.since_look = 0;
        self.watchers.retain(|_, watchers| {
            watchers.retain(|watcher| watcher.watch.strong_count() > 0);
            !watchers.is_empty()
        });
        self.len = self.watchers.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::keydir::KeyHasher;

    /// Only an EXEC ends a watch on the writer: what UNWATCH, DISCARD and lost connections leave has to
    /// go by itself, also where each of them had more keys than there are commits.
    #[test]
    fn what_has_ended_is_forgotten() {
        const KEYS: u32 = 50;
        let (mut watches, hasher) = (Watches::default(), KeyHasher::default());
        let mut add = |watch: &Arc<Watch>, from: u32| {
            for key in (from..from + KEYS).map(u32::to_le_bytes) {
                watches.add(watch, (0, &key, hasher.hash(&key)), false).unwrap();
            }
            watches.age();
            watches.len
        };
        let lives = Arc::new(Watch::default());
        add(&lives, 0);
        for round in 1..1000 {
            let len = add(&Arc::new(Watch::default()), round * KEYS);
            assert!(len <= 3 * KEYS as usize, "{len} keys in round {round}");
        }
        (0..KEYS * 3).for_each(|_| watches.age());
        assert_eq!(watches.len, KEYS as usize);
    }
}
