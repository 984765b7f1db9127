//! To whom a directory belongs: one process at a time, which has locked LOCK, and the engine that
//! ENGINE names.
//!
//! Thread: whoever opens, checks or repairs a store.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use ErrorKind::{InvalidInput, PermissionDenied};

use super::filename;
use super::fs::{Fs, Lock};
use crate::config::EngineKind;
use crate::error::{KvsError, Result};

/// A directory that nobody else can open.
pub(super) struct Occupied {
    pub(super) lock: Lock,
    /// The machine has not been started anew since the store was last open: all that was written to
    /// it is there, synced or not.
    pub(super) same_boot: bool,
}

/// Creates the directory of a store, and those that it is in, where they are missing. Until there is a
/// manifest in it, its name may not be durable, whoever has created it.
pub(super) fn create(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    fs.create_dir(dir)?;
    let begun = fs.list(dir)?.iter().any(|name| name == filename::MANIFEST);
    if begun { Ok(()) } else { sync_name(fs, dir) }
}

/// Makes the name of a directory durable, and the names of those that it is in, which may be as new.
pub(super) fn sync_name(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    for above in dir.ancestors().skip(1) {
        let here = above.as_os_str().is_empty();
        match fs.sync_dir(if here { Path::new(".") } else { above }) {
            // Some file systems know no such thing; and who may not look into a directory has hardly
            // created anything in it.
            Err(error) if matches!(error.kind(), InvalidInput | PermissionDenied) => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Takes the directory's lock, waiting a while for another process to let go of it.
pub(super) fn occupy(fs: &dyn Fs, dir: &Path, wait: Duration) -> Result<Occupied> {
    let path = dir.join(filename::LOCK);
    let until = Instant::now() + wait;
    loop {
        let lock = fs.lock(&path).map_err(KvsError::io(format!("lock {}", path.display())))?;
        if let Some(lock) = lock {
            let same_boot = is_same_boot(fs, dir);
            write_lock(fs, dir, &second_line(fs, dir))?;
            return Ok(Occupied { lock, same_boot });
        }
        if Instant::now() >= until {
            return Err(locked(fs, dir));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Notes in which run of the machine the store is open, once what earlier ones left is dealt with.
pub(super) fn note_boot(fs: &dyn Fs, dir: &Path) -> Result<()> {
    write_lock(fs, dir, &fs.boot().unwrap_or_default())
}

/// Whether the machine has not been started anew since the store was last open.
pub(super) fn is_same_boot(fs: &dyn Fs, dir: &Path) -> bool {
    fs.boot().is_some_and(|now| now == second_line(fs, dir))
}

fn lock_text(fs: &dyn Fs, dir: &Path) -> String {
    let text = fs.read(&dir.join(filename::LOCK)).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

fn second_line(fs: &dyn Fs, dir: &Path) -> String {
    lock_text(fs, dir).lines().nth(1).unwrap_or_default().to_owned()
}

fn write_lock(fs: &dyn Fs, dir: &Path, boot: &str) -> Result<()> {
    let path = dir.join(filename::LOCK);
    let text = format!("{}\n{boot}\n", std::process::id());
    let write = || {
        let file = fs.open(&path)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    };
    write().map_err(KvsError::io(format!("write {}", path.display())))
}

/// The error that another process has the directory.
fn locked(fs: &dyn Fs, dir: &Path) -> KvsError {
    let pid = lock_text(fs, dir).lines().next().and_then(|pid| pid.trim().parse().ok());
    KvsError::Locked { dir: dir.to_owned(), pid }
}

/// Takes the lock of a directory that is only looked at: nothing is written or waited for. Without a
/// lock file nobody ever had the directory open, and nobody has.
pub(super) fn lock_to_look(fs: &dyn Fs, dir: &Path) -> Result<Option<Lock>> {
    let path = dir.join(filename::LOCK);
    let doing = || KvsError::io(format!("lock {}", path.display()));
    match fs.read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(doing()(error)),
        Ok(_) => {}
    }
    match fs.lock(&path) {
        Ok(Some(held)) => Ok(Some(held)),
        Ok(None) => Err(locked(fs, dir)),
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Ok(None),
        Err(error) => Err(doing()(error)),
    }
}

/// Whether somebody has made a store in a directory. One that cannot be looked at may have one.
pub fn has_store(fs: &dyn Fs, dir: &Path) -> bool {
    let is_of_one = |name: &String| {
        let is_segment = matches!(filename::kind(name), filename::Kind::Segment(_));
        is_segment || [filename::MANIFEST, filename::ENGINE].contains(&name.as_str())
    };
    match fs.list(dir) {
        Ok(names) => names.iter().any(is_of_one),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// The engine that made a directory. One whose name a crash left unfinished is told by nobody.
pub(super) fn made_by(fs: &dyn Fs, dir: &Path) -> std::io::Result<Option<String>> {
    match fs.read(&dir.join(filename::ENGINE)) {
        Ok(bytes) => {
            let name = bytes.strip_suffix(b"\n").filter(|name| !name.contains(&0));
            Ok(Some(
                name.map(|name| String::from_utf8_lossy(name).trim().to_owned())
                    .unwrap_or_default(),
            ))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses a directory that another engine has made, and touches nothing in it.
pub(super) fn refuse_other_engine(fs: &dyn Fs, dir: &Path, engine: EngineKind) -> Result<()> {
    let (made_by, engine) = (made_by(fs, dir).ok().flatten().unwrap_or_default(), engine.name());
    if made_by.is_empty() || made_by == engine {
        return Ok(());
    }
    if EngineKind::named(&made_by).is_none() {
        let path = dir.join(filename::ENGINE);
        return Err(KvsError::Invalid(format!(
            "{} names the engine {made_by:?}, which this kvs does not know: if it is damaged, \
             `kvs repair` mends it",
            path.display()
        )));
    }
    Err(KvsError::Invalid(format!(
        "{} was made by the engine '{made_by}', not '{engine}'; use --engine {made_by} or another \
         directory",
        dir.display()
    )))
}

/// Notes which engine made the directory; refuses it if it was another one.
pub fn name_engine(fs: &dyn Fs, dir: &Path, engine: EngineKind) -> Result<()> {
    refuse_other_engine(fs, dir, engine)?;
    let (path, engine) = (dir.join(filename::ENGINE), engine.name());
    let doing = || KvsError::io(format!("write {}", path.display()));
    let file = match made_by(fs, dir).map_err(doing())? {
        Some(name) if !name.is_empty() => return Ok(()),
        Some(_) => fs.open(&path),
        None => fs.create(&path),
    };
    let file = file.map_err(doing())?;
    file.set_len(0).map_err(doing())?;
    file.write_all_at(format!("{engine}\n").as_bytes(), 0).map_err(doing())?;
    file.sync_data().map_err(doing())
}
