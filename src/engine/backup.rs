//! Backups: a copy of the store as of one moment, made by hard links while writes go on.
//!
//! Thread: the caller's, or `kvs-backup` for one in the background; one at a time. The writer is held
//! up as for any change of segments: it closes the active one. What is closed never changes any more,
//! so the copy needs no bytes of its own; where hard links cannot be, across file systems, files are
//! copied. The manifest is locked while links are made, so that no merge removes a file meanwhile.
//!
//! Invariants: a backup has its name once it is complete and durable; before, it is called
//! `NAME.partial`, which goes if it fails. Its newest segment is a new, empty one of its own: opening a
//! backup writes to no file that the store has, too.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::commit::Committer;
use super::composed::Composed;
use super::copy::{copy, link_or_copy};
use super::core::{Core, lock};
use super::directory::{name_engine, sync_name};
use super::filename;
use super::manifest::Manifest;
use super::segment::{Origin, Segment};
use super::stamp;
use super::threads::spawn;
use crate::config::EngineKind;
use crate::error::{KvsError, Result};

/// What the name of an unfinished backup ends in.
const PARTIAL: &str = ".partial";

/// What became of the backups of a store since it was opened.
#[derive(Debug, Clone, Copy)]
pub struct BackupStatus {
    /// When the one that is being made was begun.
    pub running: Option<Instant>,
    /// When the last one that succeeded was done; before the first one, when the store was opened.
    pub last_success: SystemTime,
    /// Whether the last one succeeded.
    pub is_well: bool,
    /// How long the last one took.
    pub took: Option<Duration>,
    /// Records written by then, of those that the store counts.
    pub records: u64,
}

/// Makes backups of a store.
pub struct Backups {
    core: Arc<Core>,
    committer: Arc<Committer>,
    /// Where those go that have a name only.
    root: PathBuf,
    status: Mutex<BackupStatus>,
    background: Mutex<Option<JoinHandle<()>>>,
    /// The store is being closed.
    stopping: AtomicBool,
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backups({})", self.root.display())
    }
}

impl Backups {
    pub(super) fn new(core: Arc<Core>, committer: Arc<Committer>, root: PathBuf) -> Arc<Backups> {
        let status = BackupStatus {
            running: None,
            last_success: SystemTime::now(),
            is_well: true,
            took: None,
            records: 0,
        };
        let (status, background) = (Mutex::new(status), Mutex::default());
        let stopping = AtomicBool::new(false);
        Arc::new(Backups { core, committer, root, status, background, stopping })
    }

    /// What became of them.
    pub fn status(&self) -> BackupStatus {
        *lock(&self.status)
    }

    /// Makes one in the directory `dest`, which must not be there or be empty. It is complete and
    /// durable when this returns.
    pub fn make(&self, dest: &Path) -> Result<()> {
        self.begin()?;
        self.finish(dest)
    }

    /// The directory of a backup of this name, or of one that is named after the time.
    pub fn named(&self, name: Option<&str>) -> Result<PathBuf> {
        match name {
            Some(name) if is_harmless(name) => Ok(self.root.join(name)),
            Some(_) => Err(KvsError::Invalid(
                "a backup's name has letters, digits, '-', '_' and '.', begins with a letter or a \
                 digit, and does not end in .partial"
                    .into(),
            )),
            None => stamp::free_path(&self.root, |path| self.check_free(path).is_ok()),
        }
    }

    /// Begins one on a thread of its own.
    pub fn begin_in_background(self: &Arc<Self>, dest: PathBuf) -> Result<()> {
        self.check_free(&dest)?;
        self.begin()?;
        let backups = Arc::clone(self);
        let thread = spawn("kvs-backup", move || match backups.finish(&dest) {
            Ok(()) => log::info!("backup: {}", dest.display()),
            Err(error) => log::error!("backup to {}: {error}", dest.display()),
        });
        match thread {
            // The one before has ended: it let this one begin.
            Ok(thread) => drop(lock(&self.background).replace(thread)),
            Err(error) => {
                self.note(&Err(error.clone()));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives one up that copies bytes, which may take hours, and begins no other. For the store's
    /// close.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits for one that is under way. For the store's close.
    pub(super) fn wait(&self) {
        let thread = lock(&self.background).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("a backup panicked");
        }
    }

    fn begin(&self) -> Result<()> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(KvsError::Closed);
        }
        let mut status = lock(&self.status);
        if status.running.is_some() {
            return Err(KvsError::BackupUnderWay);
        }
        status.running = Some(Instant::now());
        Ok(())
    }

    fn finish(&self, dest: &Path) -> Result<()> {
        let attempt = std::panic::AssertUnwindSafe(|| self.copy_store(dest));
        let outcome = std::panic::catch_unwind(attempt).unwrap_or_else(|_| {
            Err(KvsError::Invalid("internal error: the backup panicked".into()))
        });
        self.note(&outcome);
        outcome
    }

    fn note(&self, outcome: &Result<()>) {
        let mut status = lock(&self.status);
        status.took = status.running.take().map(|began| began.elapsed());
        status.is_well = outcome.is_ok();
        if outcome.is_ok() {
            status.last_success = SystemTime::now();
            status.records = self.core.stats.group_records.get();
        }
    }

    /// Refuses a directory that is not empty, or that is none.
    fn check_free(&self, dest: &Path) -> Result<()> {
        match self.core.fs.list(dest) {
            Ok(names) if names.is_empty() => Ok(()),
            Ok(_) => Err(KvsError::Invalid(format!("{} is there already", dest.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(KvsError::io(format!("look at {}", dest.display()))(error)),
        }
    }

    fn copy_store(&self, dest: &Path) -> Result<()> {
        let dest = &with_name(dest)?;
        self.check_free(dest)?;
        let partial = partial_name(dest);
        let fs = &self.core.fs;
        let doing = || KvsError::io(format!("back up to {}", dest.display()));
        let made = self.fill(&partial).and_then(|()| fs.rename(&partial, dest).map_err(doing()));
        if made.is_err() {
            self.give_up(&partial);
        }
        made?;
        sync_name(&**fs, dest).map_err(doing())
    }

    /// Makes everything but the name.
    fn fill(&self, partial: &Path) -> Result<()> {
        let fs = &self.core.fs;
        self.core.stats.backup_to_copy.set(0);
        self.core.stats.backup_copied.set(0);
        let doing = || KvsError::io(format!("back up to {}", partial.display()));
        fs.create_dir(partial).map_err(doing())?;
        // What an interrupted backup to the same place has left.
        for name in fs.list(partial).map_err(doing())? {
            fs.remove(&partial.join(name)).map_err(doing())?;
        }
        let (segments, next) = self.link_segments(partial)?;
        self.link_hints(partial, &segments);
        name_engine(&**fs, partial, EngineKind::Kvs)?;
        Composed::create(&**fs, partial, next, Origin::Log)?.finish()?;
        let numbers = segments.iter().map(|segment| segment.number());
        let listed = numbers.chain([next]).collect();
        Manifest::create(fs, partial.join(filename::MANIFEST), next + 1, listed)?;
        for damaged in segments.iter().filter(|segment| segment.is_damaged()) {
            log::warn!("the backup has the damage of {}, too", damaged.path().display());
        }
        Ok(())
    }

    /// Takes away what a backup that failed has made: the disk may be full of it.
    fn give_up(&self, partial: &Path) {
        let fs = &self.core.fs;
        let remove_all = || -> io::Result<()> {
            fs.list(partial)?.iter().try_for_each(|name| fs.remove(&partial.join(name)))?;
            fs.remove_dir(partial)
        };
        if let Err(error) = remove_all()
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("{} is left of a backup that failed: {error}", partial.display());
        }
    }

    /// Links all that is closed after the active segment was closed, too: which segments that are,
    /// and a number that none of them has.
    fn link_segments(&self, partial: &Path) -> Result<(Vec<Arc<Segment>>, u64)> {
        let core = &self.core;
        let (segments, next, manifest) = self.committer.with_writer(|writer| {
            let active = writer.close_active()?;
            let mut manifest = lock(&core.manifest);
            let listed = manifest.segments();
            let mut segments = core.segments.all();
            segments.retain(|s| s.number() != active && listed.contains(&s.number()));
            let lost = segments.iter().any(|segment| segment.problem().is_some());
            if lost || segments.len() + 1 != listed.len() {
                return Err(KvsError::Invalid(
                    "segments are lost: stop the server and use `kvs repair`".into(),
                ));
            }
            Ok((segments, manifest.allocate(), manifest))
        })?;
        let mut linked = Ok(());
        for segment in &segments {
            let to = filename::segment(partial, segment.number());
            linked = linked.and_then(|()| core.fs.hard_link(segment.path(), &to));
        }
        drop(manifest);
        // They are held open, so they can be copied even if a merge removes them.
        if let Err(error) = linked {
            log::debug!("a backup copies: {error}");
            core.stats.backup_to_copy.set(segments.iter().map(|segment| segment.len()).sum());
            for segment in &segments {
                let to = filename::segment(partial, segment.number());
                let _ = core.fs.remove(&to);
                let doing = KvsError::io(format!("copy to {}", to.display()));
                let go_on = |step| {
                    core.stats.backup_copied.add(step);
                    !self.stopping.load(Ordering::Relaxed)
                };
                copy(&*core.fs, &**segment.file(), segment.len(), &to, &go_on).map_err(doing)?;
            }
        }
        Ok((segments, next))
    }

    /// Without its hint, a segment takes longer to open, and that is all.
    fn link_hints(&self, partial: &Path, segments: &[Arc<Segment>]) {
        for segment in segments {
            let from = filename::hint(&self.core.dir, segment.number());
            let to = filename::hint(partial, segment.number());
            if let Err(error) = link_or_copy(&*self.core.fs, &from, &to) {
                log::debug!("{} is not backed up: {error}", from.display());
                let _ = self.core.fs.remove(&to);
            }
        }
    }
}

/// A directory without what says nothing, as a slash at its end. It must have a name, and none that a
/// store would take for its own, in whose directory it may be.
fn with_name(dest: &Path) -> Result<PathBuf> {
    let dest: PathBuf = dest.components().collect();
    match dest.file_name().map(|name| name.to_string_lossy()) {
        None => Err(KvsError::Invalid(format!(
            "'{}' is no name for a backup: name a directory that is to be made",
            dest.display()
        ))),
        Some(name) if filename::is_of_a_store(&name) => Err(KvsError::Invalid(format!(
            "a backup cannot be called {name}: a store has such files"
        ))),
        Some(_) => Ok(dest),
    }
}

fn partial_name(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// Whether it is a name, and leads nowhere else.
fn is_harmless(name: &str) -> bool {
    const LONGEST: usize = 100;
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(of_a_name)
        && !name.ends_with(PARTIAL)
        && !filename::is_of_a_store(name)
}

impl BackupStatus {
    /// When the last one that succeeded was done, in seconds since 1970.
    pub fn last_success_secs(&self) -> u64 {
        self.last_success.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }
}
