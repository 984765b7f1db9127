//! The real file system, but for writes that fail on command, and with a watch on the order of
//! writes and syncs.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kvs::engine::fs::{File, Fs, Lock, Map, OsFs};

/// Which write fails, and how.
type Rule = Box<dyn Fn(&Path, u64) -> Option<io::ErrorKind> + Send>;

/// Whether this is the manifest, by the name that it was created with.
pub fn is_manifest(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "MANIFEST" || name == "MANIFEST.tmp")
}

#[derive(Default)]
struct State {
    rule: Mutex<Option<Rule>>,
    create_rule: Mutex<Option<Rule>>,
    /// Files that hold bytes which no sync followed yet.
    unsynced: Mutex<HashSet<PathBuf>>,
    complaints: Mutex<Vec<String>>,
    no_links: AtomicBool,
    syncs: Mutex<Syncs>,
    news: Condvar,
}

#[derive(Default)]
struct Syncs {
    held: bool,
    waiting: usize,
}

/// See the module. Clones share their rules.
#[derive(Clone, Default)]
pub struct Faulty {
    state: Arc<State>,
}

impl Faulty {
    /// From now on, writes fail as `rule` says of their file and the end of what they write.
    pub fn fail_writes(&self, rule: impl Fn(&Path, u64) -> Option<io::ErrorKind> + Send + 'static) {
        *self.state.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// From now on, files are not created where `rule` says so.
    pub fn fail_creates(
        &self,
        rule: impl Fn(&Path, u64) -> Option<io::ErrorKind> + Send + 'static,
    ) {
        *self.state.create_rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// There are no hard links, as on some file systems and between any two.
    pub fn refuse_links(&self) {
        self.state.no_links.store(true, Ordering::Relaxed);
    }

    /// From now on, syncs take until this is called with `false`.
    pub fn hold_syncs(&self, held: bool) {
        self.state.syncs.lock().unwrap().held = held;
        self.state.news.notify_all();
    }

    /// Waits for so many syncs to be held, but not for long; whether they are.
    pub fn are_held(&self, count: usize) -> bool {
        let syncs = self.state.syncs.lock().unwrap();
        let wanted = |syncs: &mut Syncs| syncs.waiting < count;
        let wait = self.state.news.wait_timeout_while(syncs, Duration::from_millis(20), wanted);
        wait.unwrap().0.waiting >= count
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        *self.state.rule.lock().unwrap() = None;
        *self.state.create_rule.lock().unwrap() = None;
    }

    /// What was listed in the manifest before it was durable.
    pub fn complaints(&self) -> Vec<String> {
        self.state.complaints.lock().unwrap().clone()
    }

    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FaultyFile { path: path.to_owned(), file, state: Arc::clone(&self.state) })
    }
}

impl Fs for Faulty {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let fault = self.state.create_rule.lock().unwrap().as_ref().and_then(|rule| rule(path, 0));
        match fault {
            Some(kind) => Err(kind.into()),
            None => Ok(self.wrap(path, OsFs.create(path)?)),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, OsFs.open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        OsFs.read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFs.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.state.no_links.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        OsFs.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFs.remove(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        OsFs.remove_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsFs.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsFs.create_dir(dir)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        OsFs.lock(path)
    }

    fn room(&self, dir: &Path) -> Option<u64> {
        OsFs.room(dir)
    }

    fn boot(&self) -> Option<String> {
        OsFs.boot()
    }
}

struct FaultyFile {
    path: PathBuf,
    file: Arc<dyn File>,
    state: Arc<State>,
}

impl FaultyFile {
    /// An edit of the manifest may list only what is durable.
    fn check_listed(&self, edit: &[u8]) {
        let text = String::from_utf8_lossy(edit);
        let Some((_, rest)) = text.split_once("\"add\":[") else { return };
        let numbers = rest.split(']').next().unwrap_or("");
        for number in numbers.split(',').filter_map(|n| n.parse::<u64>().ok()) {
            let path = self.path.with_file_name(format!("{number:08}.log"));
            if self.state.unsynced.lock().unwrap().contains(&path) {
                let complaint = format!("segment {number} is listed before it is durable");
                self.state.complaints.lock().unwrap().push(complaint);
            }
        }
    }
}

impl File for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let end = offset + buf.len() as u64;
        let fault = self.state.rule.lock().unwrap().as_ref().and_then(|rule| rule(&self.path, end));
        if let Some(kind) = fault {
            // Half of it arrives.
            self.file.write_all_at(&buf[..buf.len() / 2], offset)?;
            return Err(kind.into());
        }
        if is_manifest(&self.path) {
            self.check_listed(buf);
        }
        self.state.unsynced.lock().unwrap().insert(self.path.clone());
        self.file.write_all_at(buf, offset)?;
        Ok(buf.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut syncs = self.state.syncs.lock().unwrap();
        syncs.waiting += 1;
        self.state.news.notify_all();
        let mut syncs = self.state.news.wait_while(syncs, |syncs| syncs.held).unwrap();
        syncs.waiting -= 1;
        drop(syncs);
        // Not done in fact: no test cuts the power.
        self.state.unsynced.lock().unwrap().remove(&self.path);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn map(&self, capacity: u64) -> io::Result<Map> {
        self.file.map(capacity)
    }
}
