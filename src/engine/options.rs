//! How a store is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::fs::{Fs, OsFs};
use super::position::MAX_OFFSET;
use super::store::KvStore;
use crate::config::{Fsync, MAX_SEGMENT, MIN_SEGMENT};
use crate::error::{KvsError, Result};
use crate::stats::EngineStats;

const _: () = assert!(MAX_SEGMENT + (1 << 30) <= MAX_OFFSET);

/// How to open a store: `Options::new(dir).fsync(Fsync::EverySec).open()`.
#[derive(Clone)]
pub struct Options {
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) fsync: Fsync,
    pub(super) segment_bytes: u64,
    pub(super) readers: usize,
    pub(super) ordered: bool,
    pub(super) compact_rate: u64,
    pub(super) lock_wait: Duration,
    pub(super) backup_dir: Option<PathBuf>,
    pub(super) scrub_rate: u64,
    pub(super) stats: Arc<EngineStats>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Options {
    /// The defaults, for the store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            fs: Arc::new(OsFs),
            fsync: Fsync::Always,
            segment_bytes: 64 * 1024 * 1024,
            readers: 2,
            ordered: true,
            compact_rate: 64 * 1024 * 1024,
            lock_wait: Duration::from_secs(3),
            backup_dir: None,
            scrub_rate: 0,
            stats: Arc::default(),
        }
    }

    /// When writes are made durable.
    pub fn fsync(mut self, fsync: Fsync) -> Options {
        self.fsync = fsync;
        self
    }

    /// The size that segments are closed at, in bytes, 4 KiB to 4 GiB; smaller ones are used while
    /// there is little data. A record that is larger gets a segment of its own.
    pub fn segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = bytes;
        self
    }

    /// The number of threads that read what is not in memory, for the batched path.
    pub fn readers(mut self, threads: usize) -> Options {
        self.readers = threads;
        self
    }

    /// Whether keys are kept in order. Without, a key costs less memory and there are no ranges.
    pub fn ordered(mut self, ordered: bool) -> Options {
        self.ordered = ordered;
        self
    }

    /// How many bytes a second compaction reads and writes while there is no hurry.
    pub fn compact_rate(mut self, bytes_per_second: u64) -> Options {
        self.compact_rate = bytes_per_second;
        self
    }

    /// How long an open waits for another process to let go of the directory.
    pub fn lock_wait(mut self, wait: Duration) -> Options {
        self.lock_wait = wait;
        self
    }

    /// How many bytes a second are read in the background to find damage; 0, the default: none.
    pub fn scrub_rate(mut self, bytes_per_second: u64) -> Options {
        self.scrub_rate = bytes_per_second;
        self
    }

    /// Where backups go that have a name only; `backups` in the store's directory otherwise.
    pub fn backup_dir(mut self, dir: impl Into<PathBuf>) -> Options {
        self.backup_dir = Some(dir.into());
        self
    }

    /// Where the store counts what it does, the progress of its open included.
    pub fn stats(mut self, stats: Arc<EngineStats>) -> Options {
        self.stats = stats;
        self
    }

    /// The file system to work on.
    pub fn fs(mut self, fs: Arc<dyn Fs>) -> Options {
        self.fs = fs;
        self
    }

    /// Opens the store, creating it where there is none.
    pub fn open(self) -> Result<KvStore> {
        if !(MIN_SEGMENT..=MAX_SEGMENT).contains(&self.segment_bytes) {
            return Err(KvsError::Invalid(format!(
                "a segment has {MIN_SEGMENT} to {MAX_SEGMENT} bytes, not {}",
                self.segment_bytes
            )));
        }
        KvStore::open_with(self)
    }
}
