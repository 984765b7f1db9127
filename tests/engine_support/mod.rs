//! What the tests of the engine share: random numbers, file helpers, a file system that fails on
//! command.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod care;
pub mod faulty;
#[path = "../random/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "a test file may use several modules that use it")]
mod random;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvs::KvStore;
use kvs::engine::{Fsync, Options};

pub use random::{Random, seed};

pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Small segments and no syncs: what most tests want.
pub fn options(dir: &Path) -> Options {
    let unsynced = std::sync::Arc::new(faulty::Faulty::default());
    Options::new(dir).segment_bytes(16 * 1024).fsync(Fsync::No).fs(unsynced)
}

pub fn open(dir: &Path) -> KvStore {
    options(dir).open().unwrap()
}

/// The same with fsync always, for what depends on it.
pub fn open_synced(dir: &Path) -> KvStore {
    options(dir).fsync(Fsync::Always).open().unwrap()
}

/// Everything in database 0.
pub fn contents(store: &KvStore) -> Model {
    store.range(Bound::Unbounded, Bound::Unbounded).map(Result::unwrap).collect()
}

/// Copies a directory as of one moment: again, if the store changed which files it has meanwhile.
pub fn copy_dir(from: &Path) -> tempfile::TempDir {
    let state = || (std::fs::read(from.join("MANIFEST")).ok(), files(from, "log"));
    loop {
        let (before, copy) = (state(), tempfile::tempdir().unwrap());
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let _ = std::fs::copy(entry.path(), copy.path().join(entry.file_name()));
        }
        if state() == before {
            return copy;
        }
    }
}

/// Makes a directory that was copied from an open store look as if the machine had been started anew
/// since: whatever was not synced may be missing.
pub fn as_after_power_cut(dir: &Path) {
    std::fs::write(dir.join("LOCK"), "1\n").unwrap();
}

/// The files with this extension, by name.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    paths
}

/// The bytes of all files in a directory.
pub fn dir_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

/// Flips a bit in place: the file may be mapped, so it must not be cut meanwhile.
pub fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
}

/// Polls until `done`; after two minutes it panics with `what`.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain until {what}");
        std::thread::yield_now();
    }
}
