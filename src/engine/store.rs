//! The store as its users hold it: [`KvStore`] for embedding, with blocking calls; and the batched
//! path of the server, [`KvStore::submit`] and [`KvStore::submit_read`]. The one place in the engine
//! that makes threads and channels.
//!
//! ```text
//!   callers of set/get     event loops                      threads of a store
//!        |                   |    \  submit_read
//!        | commit as leader  |     \---------------------->  kvs-read-N   reads what is not in memory
//!        v                   v submit
//!      [ writer's lock ] <- - - - - - - - - - - - - - - - -  kvs-write    group commits of jobs
//!                                                            kvs-prepare  fills the next segment
//!                                                            kvs-compact  merges, hints, residency
//!                                                            kvs-expire   removes expired keys
//!                                                            kvs-sync     what is not durable yet, once a second
//!                                                            kvs-scrub    reads closed segments, slowly
//!                                                            kvs-backup   while a backup is made
//! ```

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::KvsEngine;
use super::backup::Backups;
use super::batch::Batch;
use super::commit::{Committer, WriteJob};
use super::compactor::{Chore, Compactor};
use super::core::Core;
use super::cursor;
use super::directory::{self, Occupied};
use super::expiry::Expirer;
use super::manifest::Manifest;
use super::options::Options;
use super::preparer::{self, Preparer, Ready};
use super::range::Range;
use super::record;
use super::recovery;
use super::scrub::Scrubber;
use super::snapshot::Snapshot;
use super::syncer::{self, Unsynced};
use super::threads::{Threads, spawn};
use super::txn::Txn;
use super::view::{Patience, View};
use super::writer::{Helpers, Writer};
use crate::config::{EngineKind, Fsync};
use crate::error::{KvsError, Result};
use crate::key_range::Prefix;
use crate::stats::EngineStats;

/// Jobs that may wait for the writer, and for the readers: beyond, submitters are told to wait.
const QUEUE: usize = 1024;

/// Work for a read worker.
pub trait ReadJob: Send {
    /// Does it, and hands the result to whoever waits for it. May wait for the disk.
    fn run(self: Box<Self>, reader: &Reader);
}

/// The reading side of a store: what read workers and event loops work with.
#[derive(Clone)]
pub struct Reader {
    pub(super) core: Arc<Core>,
    backups: Arc<Backups>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({})", self.core.dir.display())
    }
}

impl Reader {
    #[cfg(test)]
    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// For point reads; see [`View`].
    pub fn view(&self) -> View<'_> {
        View::new(&self.core)
    }

    /// The database with this number as of now; see [`Snapshot`]. Waits while a group commit becomes
    /// visible.
    pub fn snapshot(&self, number: u8) -> Snapshot {
        Snapshot::take(&self.core, || self.core.numbering().database(number))
    }

    /// Runs `read` while no group commit becomes visible: the writer waits for it. It must not take a
    /// snapshot.
    pub fn while_nothing_shows<R>(&self, read: impl FnOnce() -> R) -> R {
        let _still = self.core.snapshots.overlays();
        read()
    }

    /// Visits about `count` keys from `cursor` on (0 starts), in an order of no meaning, and returns
    /// the next cursor (0: done). Waits while a group commit becomes visible.
    pub fn scan(
        &self,
        number: u8,
        cursor: u64,
        count: usize,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<u64> {
        let database = || self.core.numbering().database(number);
        cursor::scan(&self.core, database, cursor, count, &mut visit)
    }

    /// The counters of this store.
    pub fn stats(&self) -> &EngineStats {
        &self.core.stats
    }

    /// Whether the disk is full: values are refused until there is room.
    pub fn disk_is_full(&self) -> bool {
        self.core.reserve.is_full()
    }

    /// Makes backups, and tells what became of them.
    pub fn backups(&self) -> &Arc<Backups> {
        &self.backups
    }

    /// An error once the store refuses writes.
    pub fn health(&self) -> Result<()> {
        self.core.check_poison()
    }

    /// Whether all that was acknowledged is known to be durable, and all that will be is.
    pub fn is_durable(&self) -> bool {
        let settled = |unsynced: &Arc<Unsynced>| unsynced.is_settled();
        self.core.fsync() == Fsync::Always && self.core.unsynced.get().is_none_or(settled)
    }

    /// Bytes of all segments, and of the live records in them.
    pub fn space(&self) -> (u64, u64) {
        self.core.space()
    }

    /// The number of segments.
    pub fn segments(&self) -> usize {
        self.core.segments.all().len()
    }

    /// The same for all databases together.
    pub fn all_index_memory(&self) -> (usize, usize) {
        let guard = crossbeam_epoch::pin();
        let each = (0..super::core::DATABASES as u8)
            .map(|database| self.core.keydir(database, &guard).memory());
        each.fold((0, 0), |(points, order), more| (points + more.0, order + more.1))
    }

    /// The bytes of memory that the point index and the ordered index of a database take.
    pub fn index_memory(&self, number: u8) -> (usize, usize) {
        let database = self.core.numbering().database(number);
        self.core.keydir(database, &crossbeam_epoch::pin()).memory()
    }
}

/// A store that is open. Clones share it; it is closed when the last one is dropped.
#[derive(Clone)]
pub struct KvStore {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for KvStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvStore({})", self.inner.reader.core.dir.display())
    }
}

struct Inner {
    reader: Reader,
    committer: Arc<Committer>,
    /// `None` while closing.
    queues: Option<Queues>,
    /// The same.
    threads: Option<Threads>,
}

/// The ends whose drop stops the threads.
struct Queues {
    writes: Sender<Box<dyn WriteJob>>,
    reads: Sender<Box<dyn ReadJob>>,
    chores: Sender<Chore>,
    _sync_stop: Sender<()>,
}

impl KvStore {
    /// Opens the store in `dir` with default options, creating what is missing.
    pub fn open(dir: impl Into<PathBuf>) -> Result<KvStore> {
        Options::new(dir).open()
    }

    pub(super) fn open_with(options: Options) -> Result<KvStore> {
        let began = Instant::now();
        let doing =
            || KvsError::io(format!("cannot use the directory {} (--dir)", options.dir.display()));
        directory::create(&*options.fs, &options.dir).map_err(doing())?;
        directory::refuse_other_engine(&*options.fs, &options.dir, EngineKind::Kvs)?;
        let occupied = directory::occupy(&*options.fs, &options.dir, options.lock_wait)?;
        directory::name_engine(&*options.fs, &options.dir, EngineKind::Kvs)?;
        let manifest = Manifest::open(&options.fs, &options.dir)?;
        let core = Arc::new(Core::new(&options, manifest));
        let recovered = recovery::recover(&core, occupied.same_boot)?;
        directory::note_boot(&*options.fs, &options.dir)?;
        core.stats.open_micros.set(began.elapsed().as_micros() as u64);
        KvStore::start(core, recovered, &options, occupied)
    }

    fn start(
        core: Arc<Core>,
        recovered: recovery::Recovered,
        options: &Options,
        occupied: Occupied,
    ) -> Result<KvStore> {
        for segment in core.segments.all() {
            if !Arc::ptr_eq(&segment, &recovered.active) {
                segment.seal();
            }
        }
        let (writes, submitted) = bounded(QUEUE);
        let (reads, wanted) = bounded(QUEUE);
        let (chores, todo) = unbounded();
        let (requests, asked) = bounded(1);
        let (sync_stop, stopped) = bounded(0);
        let scrub_stopped = stopped.clone();
        let ready = Ready::default();
        let unsynced = Unsynced::new(recovered.active);
        let _ = core.unsynced.set(Arc::clone(&unsynced));
        let preparer = Preparer::new(requests, Arc::clone(&ready));
        let helpers = Helpers { preparer, chores: chores.clone() };
        let writer =
            Writer::new(Arc::clone(&core), Arc::clone(&unsynced), recovered.next_seq, helpers);
        let committer = Arc::new(Committer::new(writer));
        let compactor =
            Compactor::new(Arc::clone(&core), todo, recovered.unhinted, options.compact_rate);
        let mut workers = Vec::new();
        let write = Arc::clone(&committer);
        workers.push(spawn("kvs-write", move || write.run(&submitted))?);
        let (prepare, place) = (Arc::clone(&core), Arc::clone(&ready));
        let preparer = spawn("kvs-prepare", move || preparer::run(&prepare, &asked, &place))?;
        let sync = Arc::clone(&core);
        workers.push(spawn("kvs-sync", move || syncer::run(&sync, &unsynced, &stopped))?);
        if options.scrub_rate > 0 {
            let scrubber = Scrubber::new(Arc::clone(&core), options.scrub_rate, scrub_stopped);
            workers.push(spawn("kvs-scrub", move || scrubber.run())?);
        }
        let expirer = Expirer::new(Arc::clone(&core), Arc::clone(&committer));
        let root = options.backup_dir.clone().unwrap_or_else(|| options.dir.join("backups"));
        let backups = Backups::new(Arc::clone(&core), Arc::clone(&committer), root);
        let reader = Reader { core, backups: Arc::clone(&backups) };
        for i in 0..options.readers {
            let (reader, wanted) = (reader.clone(), wanted.clone());
            workers.push(spawn(format!("kvs-read-{i}"), move || read_worker(&reader, &wanted))?);
        }
        let threads = Threads {
            ready,
            workers,
            preparer,
            compactor: spawn("kvs-compact", move || compactor.run())?,
            expirer: spawn("kvs-expire", move || expirer.run())?,
            backups,
            lock: occupied.lock,
        };
        let queues = Some(Queues { writes, reads, chores, _sync_stop: sync_stop });
        let inner = Inner { reader, committer, queues, threads: Some(threads) };
        Ok(KvStore { inner: Arc::new(inner) })
    }

    /// The reading side, to be cloned into threads.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    fn queues(&self) -> Result<&Queues> {
        self.inner.queues.as_ref().ok_or(KvsError::Closed)
    }

    /// Hands a job to the write worker without waiting; gives it back when too many wait.
    pub fn submit(&self, job: Box<dyn WriteJob>) -> Result<(), Box<dyn WriteJob>> {
        match self.queues() {
            Ok(queues) => queues.writes.try_send(job).map_err(TrySendError::into_inner),
            Err(_) => Err(job),
        }
    }

    /// Hands a job to the read workers without waiting; gives it back when too many wait.
    pub fn submit_read(&self, job: Box<dyn ReadJob>) -> Result<(), Box<dyn ReadJob>> {
        match self.queues() {
            Ok(queues) => queues.reads.try_send(job).map_err(TrySendError::into_inner),
            Err(_) => Err(job),
        }
    }

    /// Runs `command` on the writer as one atomic unit, and returns once it is durable and visible.
    pub fn update<R, F>(&self, command: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Txn<'_>) -> Result<R> + Send + 'static,
    {
        self.inner.committer.execute(command)
    }

    /// Sets the value of a key. Any bytes; at most [`MAX_KEY`] and [`MAX_VALUE`] of them.
    ///
    /// [`MAX_KEY`]: super::record::MAX_KEY
    /// [`MAX_VALUE`]: super::record::MAX_VALUE
    pub fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        record::check_lengths(key.len(), value.len())?;
        self.update(move |txn| txn.put(0, &key, &value, None))
    }

    /// The value of a key.
    pub fn read(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let view = self.inner.reader.view();
        let value = view.get(0, key.as_ref(), Patience::MayWait)?;
        Ok(value.map(|value| value.bytes.into_owned()))
    }

    /// Removes a key; whether it was there.
    pub fn delete(&self, key: impl Into<Vec<u8>>) -> Result<bool> {
        let key = key.into();
        self.update(move |txn| txn.delete(0, &key))
    }

    /// Applies a batch: all of it, also across a crash, or nothing.
    pub fn write(&self, batch: Batch) -> Result<()> {
        self.update(move |txn| batch.stage(txn))
    }

    /// Removes all keys.
    pub fn clear(&self) -> Result<()> {
        self.update(|txn| txn.clear(0))
    }

    /// The keys and values of a range in order, as of now.
    pub fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Range {
        Range::new(self.inner.reader.snapshot(0), (start, end))
    }

    /// The keys that start with `prefix` and their values in order, as of now.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        Range::new(self.inner.reader.snapshot(0), Prefix::new(prefix.as_ref()).range())
    }

    /// Whether expired keys are removed without being asked for, as they are at first. They are not
    /// served either way.
    pub fn set_active_expiry(&self, active: bool) {
        self.inner.reader.core.expiry.set_active(active);
    }

    /// The number of keys.
    pub fn len(&self) -> u64 {
        self.inner.reader.view().len(0)
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Merges all segments that hold anything dead, and waits for it.
    pub fn compact(&self) -> Result<()> {
        self.start_compaction()?.recv().map_err(|_| KvsError::Closed)?
    }

    /// Has writes made durable by another policy from now on. On the way to `always`, what was written
    /// before is durable with the next write, or within a second.
    pub fn set_fsync(&self, policy: Fsync) {
        self.inner.reader.core.set_fsync(policy);
    }

    /// Begins that in the background; what comes of it is sent.
    pub fn start_compaction(&self) -> Result<Receiver<Result<()>>> {
        let (done, finished) = bounded(1);
        self.queues()?.chores.send(Chore::CompactAll(done)).map_err(|_| KvsError::Closed)?;
        Ok(finished)
    }

    /// Makes a copy of the store as it is now in the directory `dest`, which must not be there or be
    /// empty. Reads and writes go on meanwhile. The copy is complete and durable when this returns.
    pub fn backup(&self, dest: impl AsRef<Path>) -> Result<()> {
        self.inner.reader.backups.make(dest.as_ref())
    }

    /// Sets the value of a key.
    pub fn set(&self, key: String, value: String) -> Result<()> {
        self.put(key, value)
    }

    /// The value of a key; one that is no UTF-8 is an error here, see [`KvStore::read`].
    pub fn get(&self, key: String) -> Result<Option<String>> {
        let Some(value) = self.read(&key)? else { return Ok(None) };
        String::from_utf8(value)
            .map(Some)
            .map_err(|_| KvsError::Invalid(format!("the value of '{key}' is no UTF-8 text")))
    }

    /// Removes a key; [`KvsError::KeyNotFound`] where there is none.
    pub fn remove(&self, key: String) -> Result<()> {
        if self.delete(key)? { Ok(()) } else { Err(KvsError::KeyNotFound) }
    }
}

impl KvsEngine for KvStore {
    fn set(&self, key: String, value: String) -> Result<()> {
        KvStore::set(self, key, value)
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        KvStore::get(self, key)
    }

    fn remove(&self, key: String) -> Result<()> {
        KvStore::remove(self, key)
    }
}

fn read_worker(reader: &Reader, wanted: &Receiver<Box<dyn ReadJob>>) {
    while let Ok(job) = wanted.recv() {
        let run = std::panic::AssertUnwindSafe(|| job.run(reader));
        if std::panic::catch_unwind(run).is_err() {
            log::error!("a read panicked; the worker goes on");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queues = None;
        if let Some(threads) = self.threads.take() {
            threads.close(Arc::clone(&self.reader.core), Arc::clone(&self.committer));
        }
    }
}
