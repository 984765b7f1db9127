//! What all threads of a store share: the index, the open segments, the snapshots, the health.
//!
//! Any thread. What each part allows whom is said where it lives; nothing in here is held locked
//! across I/O but the manifest.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_epoch::Guard;

use super::epoch_cell::EpochCell;
use super::expiry::Expiry;
use super::fs::Fs;
use super::keydir::{KeyHasher, Keydir};
use super::manifest::Manifest;
use super::mark::Mark;
use super::numbering::{self, Numbering};
use super::reserve::Reserve;
use super::segment::Segment;
use super::segments::Segments;
use super::snapshot::Snapshots;
use super::syncer::Unsynced;
use crate::config::Fsync;
use crate::error::{KvsError, Result};
use crate::stats::EngineStats;
pub(super) use crate::sync::lock;

/// The number of databases, each a key space of its own.
pub const DATABASES: usize = 16;

/// See the module.
pub struct Core {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    fsync: AtomicU8,
    /// With some policy but `always`, there may be what is shown and not durable.
    lazy: AtomicBool,
    pub(super) segment_bytes: u64,
    pub(super) ordered: bool,
    pub(super) hasher: KeyHasher,
    /// With the one of the store's own keys.
    databases: Vec<EpochCell<Arc<Keydir>>>,
    numbering: AtomicU64,
    pub(super) segments: Segments,
    pub(super) snapshots: Snapshots,
    pub(super) reserve: Reserve,
    pub(super) expiry: Expiry,
    pub(super) manifest: Mutex<Manifest>,
    /// Held while the compactor moves keys, and while a database is cleared: a move into an index
    /// that was handed to the snapshots would lead to a segment they do not know.
    pub(super) moving: Mutex<()>,
    /// The active segment; set once, when the store starts.
    pub(super) unsynced: OnceLock<Arc<Unsynced>>,
    /// Pages of segments are being evicted: what the bits say of them is too old to be trusted.
    pressed: AtomicBool,
    poison: OnceLock<String>,
    /// Units of several records, each as it becomes visible.
    pub(super) batches: Mark,
    /// Group commits, the same.
    pub(super) groups: Mark,
    pub(super) stats: Arc<EngineStats>,
}

impl Core {
    pub(super) fn new(options: &super::options::Options, manifest: Manifest) -> Core {
        let keydir = || EpochCell::new(Arc::new(Keydir::new(options.ordered)));
        Core {
            fs: Arc::clone(&options.fs),
            dir: options.dir.clone(),
            fsync: AtomicU8::new(options.fsync as u8),
            lazy: AtomicBool::new(options.fsync != Fsync::Always),
            segment_bytes: options.segment_bytes,
            ordered: options.ordered,
            hasher: KeyHasher::default(),
            databases: (0..numbering::ALL).map(|_| keydir()).collect(),
            numbering: AtomicU64::new(Numbering::default().to_word()),
            segments: Segments::default(),
            snapshots: Snapshots::default(),
            reserve: Reserve::default(),
            expiry: Expiry::default(),
            manifest: Mutex::new(manifest),
            moving: Mutex::default(),
            unsynced: OnceLock::new(),
            pressed: AtomicBool::new(false),
            poison: OnceLock::new(),
            batches: Mark::default(),
            groups: Mark::default(),
            stats: Arc::clone(&options.stats),
        }
    }

    /// When writes are made durable, from the next group on.
    pub(super) fn fsync(&self) -> Fsync {
        let policy = self.fsync.load(Ordering::Acquire);
        let all = [Fsync::Always, Fsync::EverySec, Fsync::No];
        all.into_iter().find(|known| *known as u8 == policy).unwrap_or_default()
    }

    pub(super) fn set_fsync(&self, policy: Fsync) {
        if policy != Fsync::Always {
            self.lazy.store(true, Ordering::Release);
        }
        self.fsync.store(policy as u8, Ordering::Release);
    }

    /// Whether all that was ever shown was durable before.
    pub(super) fn was_never_lazy(&self) -> bool {
        !self.lazy.load(Ordering::Acquire)
    }

    /// Which database each number means, as everyone is shown it.
    pub(super) fn numbering(&self) -> Numbering {
        Numbering::from_word(self.numbering.load(Ordering::Acquire))
    }

    /// For the writer, and for an open.
    pub(super) fn set_numbering(&self, numbering: Numbering) {
        self.numbering.store(numbering.to_word(), Ordering::Release);
    }

    /// The index of a database.
    pub(super) fn keydir<'g>(&self, database: u8, guard: &'g Guard) -> &'g Arc<Keydir> {
        self.databases[usize::from(database)].load(guard)
    }

    /// Puts an empty index in place of a database's. For the writer.
    pub(super) fn clear_keydir(&self, database: u8, guard: &Guard) {
        self.databases[usize::from(database)].replace(Arc::new(Keydir::new(self.ordered)), guard);
    }

    /// Refuses writes for good, because of `cause`. The first cause stays.
    pub(super) fn poison(&self, cause: &KvsError) {
        if self.poison.set(cause.to_string()).is_ok() {
            log::error!("writes are refused from now on: {cause}");
        }
    }

    /// An error once writes are refused.
    pub fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            Some(cause) => Err(KvsError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Whether memory is so short that pages of segments are being evicted.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// For the compactor, who asks the kernel.
    pub(super) fn set_pressed(&self, pressed: bool) {
        self.pressed.store(pressed, Ordering::Relaxed);
    }

    /// Bytes of all segments, and of the records in them that are live.
    pub fn space(&self) -> (u64, u64) {
        self.segments
            .all()
            .iter()
            .fold((0, 0), |(total, live), segment| (total + segment.len(), live + segment.live()))
    }

    /// The size to close the next segment at: a sixteenth of the live data, so that a small store
    /// does not keep a large dead tail, within bounds.
    pub(super) fn segment_target(&self) -> u64 {
        const SMALLEST: u64 = 1024 * 1024;
        let (_, live) = self.space();
        (live / 16).max(SMALLEST).min(self.segment_bytes)
    }

    /// Creates a segment and makes its name and its header durable: what the manifest lists can be
    /// opened after a power cut. Not listed there yet. After an error there is no such file.
    pub(super) fn create_segment(
        &self,
        origin: super::segment::Origin,
        capacity: u64,
    ) -> Result<Segment> {
        let number = lock(&self.manifest).allocate();
        let path = super::filename::segment(&self.dir, number);
        let created = Segment::create(&*self.fs, &path, number, origin, capacity);
        let durable = created.and_then(|segment| {
            let doing = KvsError::io(format!("sync {}", path.display()));
            segment.file().sync_data().map_err(doing)?;
            self.sync_dir()?;
            Ok(segment)
        });
        if durable.is_err() {
            let _ = self.fs.remove(&path);
        }
        durable
    }

    pub(super) fn sync_dir(&self) -> Result<()> {
        let doing = || KvsError::io(format!("sync {}", self.dir.display()));
        self.fs.sync_dir(&self.dir).map_err(doing())
    }

    /// Removes files whose segments are out of the manifest; a failure leaves a file that the next
    /// open removes.
    pub(super) fn remove_files(&self, segments: &[Arc<Segment>]) {
        for segment in segments {
            let hint = super::filename::hint(&self.dir, segment.number());
            for path in [hint.as_path(), segment.path()] {
                match self.fs.remove(path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        log::warn!("cannot remove {}: {error}", path.display());
                    }
                    _ => {}
                }
            }
        }
    }
}
