//! A simulated disk behind the engine's door to the OS: it can lose its power at any operation, fail
//! any operation, and fill up.
//!
//! What was written is seen at once by everyone, through reads and maps alike: it lies in unnamed
//! files in memory, which are the page cache of this machine. What is durable is tracked apart: the
//! disk keeps a journal of all that was done to it, and [`Replay`] walks through that journal and
//! tells, at each point, what a power cut or a kill would have left ([`replay`]). So one run of a
//! workload has all its crash points, and they can be tried one after the other.
//!
//! ```text
//!   let disk = SimFs::new();
//!   let store = Options::new("/sim").fs(disk.shared()).open()?;
//!   ... write; disk.mark(n) after each acknowledgement ...
//!   let mut replay = disk.replay();
//!   while let Some(done) = replay.advance() {
//!       let after = replay.power_cut(Loss::Seeded(seed));
//!       ... Options::new("/sim").fs(after.shared()).open()? has all that was marked ...
//!   }
//! ```
//! The directory `/` is always there; all others are made, and durable once the one that they are in is
//! synced.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../random/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "a test file may use several modules that use it")]
mod random;
pub mod replay;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvs::engine::fs::{File, Fs, Lock, Map};

pub use replay::{Loss, Replay};

/// What a file is known by, whatever its name is.
pub type Id = u64;

/// The unit that space is given out in, in bytes.
const BLOCK: u64 = 4096;

/// What changed the disk, in the order in which it did.
#[derive(Debug, Clone)]
pub enum Op {
    Create(PathBuf, Id),
    /// A name for a file that is there already.
    Link(PathBuf, Id),
    /// Of a file, or of a directory with all that is in it.
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeDir(PathBuf),
    RemoveDir(PathBuf),
    SyncDir(PathBuf),
    Write(Id, u64, Arc<[u8]>),
    SetLen(Id, u64),
    Sync(Id),
    /// The kernel told of a failure, and will not try again to write what it had.
    SyncFailed(Id),
    /// Not of the disk: what a test wants to know the place of.
    Mark(u64),
}

/// The operations that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Create,
    Open,
    ReadFile,
    Rename,
    HardLink,
    Remove,
    List,
    CreateDir,
    RemoveDir,
    SyncDir,
    Lock,
    Read,
    Write,
    Sync,
    SetLen,
    Len,
    Map,
}

/// An operation that is about to be done.
#[derive(Debug)]
pub struct Call<'a> {
    pub kind: Kind,
    pub path: &'a Path,
    /// For reads, writes and lengths.
    pub offset: u64,
    pub len: usize,
}

impl Call<'_> {
    pub fn is_of(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }

    pub fn is_manifest(&self) -> bool {
        self.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST"))
    }
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// With this error, and nothing is done.
    Error(ErrorKind),
    /// With EIO.
    Io,
    /// A read or write does no more than so many bytes, and tells so.
    Short(usize),
}

type Rule = Box<dyn FnMut(&Call<'_>) -> Option<Fault> + Send>;

struct Inode {
    id: Id,
    file: fs::File,
    /// The end of what was ever written: what takes space.
    allocated: AtomicU64,
    path: Mutex<PathBuf>,
}

impl Inode {
    fn path(&self) -> PathBuf {
        self.path.lock().unwrap().clone()
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

#[derive(Default)]
struct Disk {
    boot: u64,
    /// What the disk held when its journal began: all durable.
    base: replay::Image,
    journal: Vec<Op>,
    /// How much of the journal is from before this process.
    inherited: usize,
    names: BTreeMap<PathBuf, Arc<Inode>>,
    dirs: BTreeSet<PathBuf>,
    inodes: Vec<Weak<Inode>>,
    next: Id,
    locks: HashSet<PathBuf>,
    rule: Option<Rule>,
    /// How many bytes there is room for.
    capacity: Option<u64>,
    off: bool,
}

/// See the module. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

fn unnamed_file() -> fs::File {
    let memory = Path::new("/dev/shm");
    tempfile::tempfile_in(memory).or_else(|_| tempfile::tempfile()).unwrap()
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{} is not there", path.display()))
}

impl SimFs {
    /// An empty disk.
    pub fn new() -> SimFs {
        SimFs::default()
    }

    /// A disk on which everyone sees the files of `seen`, of which `durable` is durable; `journal`
    /// is what is not.
    fn with(seen: &replay::Image, durable: replay::Image, journal: Vec<Op>, boot: u64) -> SimFs {
        let inherited = journal.len();
        let mut disk = Disk { boot, base: durable, journal, inherited, ..Disk::default() };
        let mut inodes = BTreeMap::new();
        for (path, id) in &seen.names.files {
            let inode = inodes.entry(*id).or_insert_with(|| {
                let (content, file) = (&seen.files[id], unnamed_file());
                file.write_all_at(content, 0).unwrap();
                let allocated = AtomicU64::new(content.len() as u64);
                Arc::new(Inode { id: *id, file, allocated, path: Mutex::new(path.clone()) })
            });
            disk.names.insert(path.clone(), Arc::clone(inode));
        }
        disk.dirs = seen.names.dirs.clone();
        disk.inodes = inodes.values().map(Arc::downgrade).collect();
        let ids = seen.files.keys().chain(disk.base.files.keys());
        disk.next = ids.max().map_or(0, |id| id + 1);
        SimFs { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The same disk, as the engine's options take it.
    pub fn shared(&self) -> Arc<dyn Fs> {
        Arc::new(self.clone())
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A rule may panic, to see what becomes of that.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a mark into the journal.
    pub fn mark(&self, mark: u64) {
        self.disk().journal.push(Op::Mark(mark));
    }

    /// A walk through what this process has done until now.
    pub fn replay(&self) -> Replay {
        let disk = self.disk();
        let mut replay = Replay::new(disk.base.clone(), disk.journal.clone(), disk.boot);
        (0..disk.inherited).for_each(|_| drop(replay.advance()));
        replay
    }

    /// What a power cut leaves now.
    pub fn power_cut(&self, loss: Loss) -> SimFs {
        let mut replay = self.replay();
        while replay.advance().is_some() {}
        replay.power_cut(loss)
    }

    /// What a kill of the process leaves now.
    pub fn kill(&self) -> SimFs {
        let mut replay = self.replay();
        while replay.advance().is_some() {}
        replay.kill()
    }

    /// From now on, operations fail as `rule` says; the last rule holds.
    pub fn fail(&self, rule: impl FnMut(&Call<'_>) -> Option<Fault> + Send + 'static) {
        self.disk().rule = Some(Box::new(rule));
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.disk().rule = None;
    }

    /// From now on everything fails.
    pub fn power_off(&self) {
        self.disk().off = true;
    }

    /// From now on there is room for `bytes`; what is there already counts.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// How many bytes files take, those included that are removed but still open.
    pub fn used(&self) -> u64 {
        self.disk().used()
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }

    /// The bytes of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        self.disk().names.get(path).map(|inode| inode.content())
    }

    /// Changes one byte of a file behind everybody's back.
    pub fn flip(&self, path: &Path, at: u64, bits: u8) {
        let inode = Arc::clone(&self.disk().names[path]);
        let mut byte = [0];
        inode.file.read_exact_at(&mut byte, at).unwrap();
        inode.file.write_all_at(&[byte[0] ^ bits], at).unwrap();
    }

    /// Puts a file there or takes one away, durable, before anyone has opened the disk.
    pub fn replace(&self, path: &Path, content: Option<&[u8]>) {
        let (mut image, boot) = {
            let disk = self.disk();
            let content = |inode: &Arc<Inode>| (inode.id, inode.content());
            let names = disk.names.iter().map(|(path, inode)| (path.clone(), inode.id));
            let names = replay::Names { files: names.collect(), dirs: disk.dirs.clone() };
            let files = disk.names.values().map(content).collect();
            (replay::Image { names, files }, disk.boot)
        };
        let id = image.files.keys().max().map_or(0, |id| id + 1);
        image.names.files.remove(path);
        if let Some(content) = content {
            image.names.files.insert(path.to_owned(), id);
            image.files.insert(id, content.to_vec());
        }
        let put = SimFs::with(&image, image.clone(), Vec::new(), boot);
        let put = std::mem::take(&mut *put.disk());
        *self.disk() = put;
    }
}

impl Disk {
    fn used(&self) -> u64 {
        let blocks =
            |inode: Arc<Inode>| inode.allocated.load(Ordering::Relaxed).div_ceil(BLOCK) * BLOCK;
        self.inodes.iter().filter_map(Weak::upgrade).map(blocks).sum()
    }

    /// Whether an operation is to fail: `Ok(n)` allows it `n` bytes.
    fn admit(&mut self, kind: Kind, path: &Path, offset: u64, len: usize) -> io::Result<usize> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        let call = Call { kind, path, offset, len };
        match self.rule.as_mut().and_then(|rule| rule(&call)) {
            None => Ok(len),
            Some(Fault::Short(n)) => Ok(n.min(len)),
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Io) => Err(io::Error::from_raw_os_error(5)),
        }
    }

    fn add(&mut self, path: &Path) -> Arc<Inode> {
        let inode = Arc::new(Inode {
            id: self.next,
            file: unnamed_file(),
            allocated: AtomicU64::new(0),
            path: Mutex::new(path.to_owned()),
        });
        self.next += 1;
        self.inodes.retain(|inode| inode.strong_count() > 0);
        self.inodes.push(Arc::downgrade(&inode));
        self.names.insert(path.to_owned(), Arc::clone(&inode));
        self.journal.push(Op::Create(path.to_owned(), inode.id));
        inode
    }

    fn get(&self, path: &Path) -> io::Result<Arc<Inode>> {
        self.names.get(path).cloned().ok_or_else(|| missing(path))
    }

    fn check_dir(&self, dir: Option<&Path>) -> io::Result<()> {
        match dir {
            Some(dir) if dir.parent().is_some() && !self.dirs.contains(dir) => Err(missing(dir)),
            _ => Ok(()),
        }
    }

    fn rename_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_dir(Some(from))?;
        if self.names.keys().any(|path| path.starts_with(to)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let moved = |path: &Path| replay::moved(path, from, to);
        self.dirs = self.dirs.iter().map(|dir| moved(dir)).collect();
        let names = std::mem::take(&mut self.names).into_iter();
        self.names = names.map(|(path, inode)| (moved(&path), inode)).collect();
        for (path, inode) in self.names.iter().filter(|(path, _)| path.starts_with(to)) {
            *inode.path.lock().unwrap() = path.clone();
        }
        Ok(())
    }
}

impl Fs for SimFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        disk.admit(Kind::Create, path, 0, 0)?;
        disk.check_dir(path.parent())?;
        if disk.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = disk.add(path);
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        disk.admit(Kind::Open, path, 0, 0)?;
        let inode = disk.get(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut disk = self.disk();
        disk.admit(Kind::ReadFile, path, 0, 0)?;
        Ok(disk.get(path)?.content())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.admit(Kind::Rename, from, 0, 0)?;
        disk.check_dir(to.parent())?;
        match disk.names.remove(from) {
            Some(inode) => {
                *inode.path.lock().unwrap() = to.to_owned();
                disk.names.insert(to.to_owned(), inode);
            }
            None => disk.rename_dir(from, to)?,
        }
        disk.journal.push(Op::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.admit(Kind::HardLink, from, 0, 0)?;
        let inode = disk.get(from)?;
        disk.check_dir(to.parent())?;
        if disk.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        disk.journal.push(Op::Link(to.to_owned(), inode.id));
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.admit(Kind::Remove, path, 0, 0)?;
        disk.names.remove(path).ok_or_else(|| missing(path))?;
        disk.journal.push(Op::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.admit(Kind::RemoveDir, dir, 0, 0)?;
        disk.check_dir(Some(dir))?;
        let mut all = disk.names.keys().chain(&disk.dirs);
        if all.any(|path| path.parent() == Some(dir)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        disk.dirs.remove(dir);
        disk.journal.push(Op::RemoveDir(dir.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.admit(Kind::List, dir, 0, 0)?;
        disk.check_dir(Some(dir))?;
        let all = disk.names.keys().chain(&disk.dirs);
        let inside = all.filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.admit(Kind::CreateDir, dir, 0, 0)?;
        let ancestors: Vec<&Path> = dir.ancestors().collect();
        for dir in ancestors.into_iter().rev().filter(|dir| dir.parent().is_some()) {
            if disk.dirs.insert(dir.to_owned()) {
                disk.journal.push(Op::MakeDir(dir.to_owned()));
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.admit(Kind::SyncDir, dir, 0, 0)?;
        disk.check_dir(Some(dir))?;
        disk.journal.push(Op::SyncDir(dir.to_owned()));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let mut disk = self.disk();
        disk.admit(Kind::Lock, path, 0, 0)?;
        if !disk.names.contains_key(path) {
            disk.check_dir(path.parent())?;
            disk.add(path);
        }
        if !disk.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Held { disk: self.clone(), path: path.to_owned() })))
    }

    fn room(&self, _dir: &Path) -> Option<u64> {
        let disk = self.disk();
        disk.capacity.map(|capacity| capacity.saturating_sub(disk.used()))
    }

    fn boot(&self) -> Option<String> {
        Some(format!("boot {}", self.disk().boot))
    }
}

struct Held {
    disk: SimFs,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.disk().locks.remove(&self.path);
    }
}

struct SimFile {
    disk: SimFs,
    inode: Arc<Inode>,
}

impl SimFile {
    fn admitted(&self, kind: Kind, at: u64, n: usize) -> io::Result<(MutexGuard<'_, Disk>, usize)> {
        let mut disk = self.disk.disk();
        let admitted = disk.admit(kind, &self.inode.path(), at, n)?;
        Ok((disk, admitted))
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (_disk, n) = self.admitted(Kind::Read, offset, buf.len())?;
        self.inode.file.read_at(&mut buf[..n], offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let (mut disk, mut n) = self.admitted(Kind::Write, offset, buf.len())?;
        let allocated = self.inode.allocated.load(Ordering::Relaxed).div_ceil(BLOCK) * BLOCK;
        if let Some(capacity) = disk.capacity {
            let room = capacity.saturating_sub(disk.used());
            let fits = (allocated + room / BLOCK * BLOCK).saturating_sub(offset);
            n = n.min(fits as usize);
            if n == 0 && !buf.is_empty() {
                return Err(ErrorKind::StorageFull.into());
            }
        }
        self.inode.file.write_all_at(&buf[..n], offset)?;
        self.inode.allocated.fetch_max(offset + n as u64, Ordering::Relaxed);
        disk.journal.push(Op::Write(self.inode.id, offset, buf[..n].into()));
        Ok(n)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.disk();
        let outcome = disk.admit(Kind::Sync, &self.inode.path(), 0, 0);
        let id = self.inode.id;
        disk.journal.push(if outcome.is_ok() { Op::Sync(id) } else { Op::SyncFailed(id) });
        outcome.map(drop)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut disk, _) = self.admitted(Kind::SetLen, len, 0)?;
        self.inode.file.set_len(len)?;
        self.inode.allocated.fetch_min(len, Ordering::Relaxed);
        disk.journal.push(Op::SetLen(self.inode.id, len));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let (_disk, _) = self.admitted(Kind::Len, 0, 0)?;
        Ok(self.inode.file.metadata()?.len())
    }

    fn map(&self, capacity: u64) -> io::Result<Map> {
        let (_disk, _) = self.admitted(Kind::Map, 0, 0)?;
        Map::new(&self.inode.file, capacity)
    }
}
