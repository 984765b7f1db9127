//! The engine's only door to the operating system's files, so that a test can put a failing disk or
//! a power cut behind it. [`OsFs`] is the real one. (LevelDB calls this its Env.)
//!
//! Any thread. All offsets and lengths are in bytes. What a file system must hold to is in
//! docs/format.md, "Assumptions about the medium"; tests/simfs is one that holds to no more.
//!
//! The two loops that a system call wants around it, over short counts and interruptions, are in
//! [`File::read_exact_at`] and [`File::write_all_at`], and nowhere else.

use std::any::Any;
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

pub use super::mmap::Map;

/// A lock on a file, held until it is dropped.
pub type Lock = Box<dyn Any + Send + Sync>;

/// What the engine does with directories and names.
pub trait Fs: Send + Sync + 'static {
    /// Creates a file for reading and writing; it must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading only, where it makes a difference.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }
    /// The whole of a small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Renames a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name, for backups.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents where they are missing.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the advisory lock of a file, creating it; `None` where someone else has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
    /// How many bytes there is room for beside a directory's files, where the system says so.
    fn room(&self, dir: &Path) -> Option<u64>;
    /// What tells this run of the machine from those before and after it, where the system says so.
    /// While it is the same, nothing that was written is lost, synced or not.
    fn boot(&self) -> Option<String>;
}

/// What the engine does with an open file.
#[allow(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait File: Send + Sync {
    /// Reads some bytes at `offset`; none at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The same, if that need not wait for the disk; `None` where it would have to, or where nobody
    /// can tell.
    fn read_now(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let _ = (buf, offset);
        Ok(None)
    }
    /// Writes some of `buf` at `offset`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Fills `buf` from `offset`; an end of file before that is an error.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => (buf, offset) = (&mut buf[n..], offset + n as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset`. After an error, some of it may be there.
    fn write_all_at(&self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => (buf, offset) = (&buf[n..], offset + n as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes data, and the length where it grew, durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Sets the length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Tells that these bytes will not be read again soon, so that they need not be kept in memory.
    /// Those that are mapped, and were touched there, stay.
    fn forget(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// Maps the first `capacity` bytes for reading, which may be more than the file holds yet.
    fn map(&self, capacity: u64) -> io::Result<Map>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFs;

struct OsFile(fs::File);

impl Fs for OsFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile(fs::File::open(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn room(&self, dir: &Path) -> Option<u64> {
        let told = rustix::fs::statvfs(dir).ok()?;
        Some(told.f_bavail.saturating_mul(told.f_frsize))
    }

    fn boot(&self) -> Option<String> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn read_now(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let mut bufs = [io::IoSliceMut::new(buf)];
        match preadv2(&self.0, &mut bufs, offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn forget(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{Advice, fadvise};
        // No length would mean all that follows.
        let Some(len) = NonZero::new(len) else { return Ok(()) };
        Ok(fadvise(&self.0, offset, Some(len), Advice::DontNeed)?)
    }

    fn map(&self, capacity: u64) -> io::Result<Map> {
        Map::new(&self.0, capacity)
    }
}
