//! What the tests of check, repair and backup share.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvs::engine::check::report::Report;
use kvs::engine::check::{Progress, check};
use kvs::engine::fs::{Fs, OsFs};
use kvs::engine::scan::{Tail, scan};
use kvs::engine::segment::{HEADER, Origin};
use kvs::engine::{Batch, Fsync, Options, record};

use super::files;

pub fn checked(dir: &Path) -> Report {
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let progress = Progress::default();
    let report = check(&fs, dir, &progress).unwrap();
    assert_eq!(progress.done.get(), progress.total.get());
    report
}

pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// All files of a directory, whole.
pub fn bytes_of(dir: &Path) -> Files {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

/// A closed store of a few small segments with hints: keys once set, overwritten and removed, a
/// batch, a clear, another database.
pub fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new(dir.path()).segment_bytes(4096).fsync(Fsync::No).open().unwrap();
    let put = |key: &str, value: &str| store.put(key, value).unwrap();
    for i in 0..60 {
        put(&format!("key{:02}", i % 40), &format!("value{i:02}{}", "x".repeat(80)));
    }
    assert!(store.delete("key03").unwrap());
    store.update(|txn| txn.put(5, b"five", b"in another database", None)).unwrap();
    store.update(|txn| txn.clear(5)).unwrap();
    let mut batch = Batch::new();
    batch.put("one", "1").put("two", "2").delete("key04");
    store.write(batch).unwrap();
    for i in 0..30 {
        put(&format!("late{i:02}"), &format!("value{i:02}{}", "y".repeat(100)));
    }
    drop(store);
    assert!(files(dir.path(), "log").len() >= 3);
    dir
}

/// Where each record of a segment lies, and its key.
pub fn records(bytes: &[u8]) -> Vec<(Range<u64>, Vec<u8>)> {
    let found = scan(&bytes[HEADER..], HEADER as u64, Origin::Log, Tail::Whole);
    let whole = |(at, record): &(u64, record::Record<'_>)| {
        (*at..*at + record.size() as u64, record.key.to_vec())
    };
    found.records.iter().map(whole).collect()
}
