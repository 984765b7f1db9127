//! Which segments make up the store, and the only place where that changes.
//!
//! MANIFEST is a text file: a first line with the format version, then one edit a line, each with
//! its checksum:
//!
//! ```text
//!   kvs-manifest 1
//!   1c291ca3 {"next":1,"add":[],"remove":[]}
//!   7f0d3a10 {"next":4,"add":[3],"remove":[1,2]}
//! ```
//! An edit is one appended line and one fdatasync, so it happens whole or not at all; a compaction
//! is one edit. Invariants: numbers below `next` are never given again; a segment file that is not
//! listed is no part of the store; a last line without its line end was never finished and is
//! dropped, any other bad line is damage. When the edits outgrow what they say, the file is written
//! anew beside itself and renamed.
//!
//! Owner: whoever holds the store's manifest lock: the writer when it rotates, the compactor.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::filename;
use super::fs::{File, Fs};
use crate::error::{KvsError, Result};

const FIRST_LINE: &str = "kvs-manifest 1\n";
/// Written anew when it has this many bytes and ten times what it needs.
const REWRITE_BYTES: u64 = 64 * 1024;
/// More files than any store will ever have had.
const MAX_NUMBER: u64 = 1 << 48;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Edit {
    next: u64,
    add: Vec<u64>,
    remove: Vec<u64>,
}

impl Edit {
    fn line(&self) -> Result<String> {
        let json = serde_json::to_string(self)
            .map_err(|error| KvsError::Invalid(format!("manifest edit: {error}")))?;
        Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
    }

    fn parse(line: &str) -> Option<Edit> {
        let (crc, json) = line.split_once(' ')?;
        let crc = u32::from_str_radix(crc, 16).ok()?;
        if crc != crc32fast::hash(json.as_bytes()) {
            return None;
        }
        serde_json::from_str(json).ok()
    }

    /// Whether a store could have written it: no segment has a number that was not given yet.
    fn is_plausible(&self) -> bool {
        self.next <= MAX_NUMBER && self.add.iter().all(|number| *number < self.next)
    }
}

/// See the module.
pub struct Manifest {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    file: Arc<dyn File>,
    len: u64,
    next: u64,
    segments: BTreeSet<u64>,
}

impl Manifest {
    /// Opens the manifest of `dir`, creating it in a directory that has no segments.
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Manifest> {
        let path = dir.join(filename::MANIFEST);
        let names = fs.list(dir).map_err(KvsError::io(format!("list {}", dir.display())))?;
        if names.iter().any(|name| name == filename::MANIFEST) {
            return Manifest::load(fs, path);
        }
        if names.iter().any(|name| matches!(filename::kind(name), filename::Kind::Segment(_))) {
            return Err(KvsError::Damaged {
                file: path,
                offset: 0,
                what: "it is missing, but there are segments; `kvs repair` rebuilds it".into(),
            });
        }
        Manifest::create(fs, path, 1, BTreeSet::new())
    }

    /// Writes a manifest that lists `segments`, in place of what is there.
    pub fn create(
        fs: &Arc<dyn Fs>,
        path: PathBuf,
        next: u64,
        segments: BTreeSet<u64>,
    ) -> Result<Manifest> {
        let manifest = Manifest::write_beside(fs, path, next, segments)?;
        manifest.put_in_place()?;
        Ok(manifest)
    }

    /// Writes a manifest beside its place, where it means nothing yet.
    fn write_beside(
        fs: &Arc<dyn Fs>,
        path: PathBuf,
        next: u64,
        segments: BTreeSet<u64>,
    ) -> Result<Manifest> {
        let doing = || KvsError::io(format!("write {}", path.display()));
        let edit = Edit { next, add: segments.iter().copied().collect(), remove: Vec::new() };
        let text = format!("{FIRST_LINE}{}", edit.line()?);
        let temporary = filename::temporary(&path);
        if let Err(error) = fs.remove(&temporary)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(doing()(error));
        }
        let file = fs.create(&temporary).map_err(doing())?;
        file.write_all_at(text.as_bytes(), 0).map_err(doing())?;
        file.sync_data().map_err(doing())?;
        Ok(Manifest { fs: Arc::clone(fs), path, file, len: text.len() as u64, next, segments })
    }

    fn put_in_place(&self) -> Result<()> {
        let doing = || KvsError::io(format!("write {}", self.path.display()));
        self.fs.rename(&filename::temporary(&self.path), &self.path).map_err(doing())?;
        self.sync_name()
    }

    fn sync_name(&self) -> Result<()> {
        let Some(dir) = self.path.parent() else { return Ok(()) };
        self.fs.sync_dir(dir).map_err(KvsError::io(format!("sync {}", dir.display())))
    }

    fn load(fs: &Arc<dyn Fs>, path: PathBuf) -> Result<Manifest> {
        let bytes = fs.read(&path).map_err(KvsError::io(format!("read {}", path.display())))?;
        let file = fs.open(&path).map_err(KvsError::io(format!("open {}", path.display())))?;
        let damaged = |offset: usize, what: &str| KvsError::Damaged {
            file: path.clone(),
            offset: offset as u64,
            what: format!("{what}; `kvs repair` rebuilds the manifest from the segments"),
        };
        let Some(edits) = bytes.strip_prefix(FIRST_LINE.as_bytes()) else {
            return Err(damaged(0, "it is not a manifest of format version 1"));
        };
        let (mut len, mut next, mut segments) = (FIRST_LINE.len(), 0, BTreeSet::new());
        for line in edits.split_inclusive(|b| *b == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else {
                log::warn!("{}: dropped an unfinished edit at byte {len}", path.display());
                break;
            };
            let edit = std::str::from_utf8(text).ok().and_then(Edit::parse);
            let edit = edit.ok_or_else(|| damaged(len, "an edit's checksum does not match"))?;
            if !edit.is_plausible() {
                return Err(damaged(len, "an edit lists what cannot be"));
            }
            segments.extend(edit.add);
            for number in &edit.remove {
                segments.remove(number);
            }
            next = next.max(edit.next);
            len += line.len();
        }
        if next == 0 {
            return Err(damaged(len, "it holds no edit"));
        }
        let manifest = Manifest { fs: Arc::clone(fs), path, file, len: len as u64, next, segments };
        if len < bytes.len() {
            // The unfinished line goes before anything is appended behind it.
            return Manifest::create(fs, manifest.path, manifest.next, manifest.segments);
        }
        // A killed process may have left an edit, or a new file, that is not durable. Files are about
        // to be removed because of it.
        manifest.file.sync_data().map_err(KvsError::io("sync the manifest"))?;
        manifest.sync_name()?;
        Ok(manifest)
    }

    /// The listed segments.
    pub fn segments(&self) -> &BTreeSet<u64> {
        &self.segments
    }

    /// A number for a new file, which no file had before.
    pub fn allocate(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Adds and removes segments in one durable step. After [`KvsError::Poisoned`] nobody knows what
    /// the file holds; after any other error it is as it was.
    pub fn edit(&mut self, add: &[u64], remove: &[u64]) -> Result<()> {
        let edit = Edit { next: self.next, add: add.to_vec(), remove: remove.to_vec() };
        let line = edit.line()?;
        if let Err(error) = self.append(line.as_bytes()) {
            let final_one = matches!(error, KvsError::Poisoned { .. });
            return Err(if final_one { error } else { self.cut_off().err().unwrap_or(error) });
        }
        self.len += line.len() as u64;
        self.segments.extend(add);
        for number in remove {
            self.segments.remove(number);
        }
        if self.len > REWRITE_BYTES && self.len > self.segments.len() as u64 * 10 * 10 {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Appends a line and makes it durable. Its line end must never be there without all that is
    /// before it. A disk writes a sector whole or not at all; a line that reaches into the next one
    /// gets its end once the rest is durable.
    fn append(&self, line: &[u8]) -> Result<()> {
        const SECTOR: u64 = 512;
        let last = self.len + line.len() as u64 - 1;
        let reaches_over = self.len / SECTOR != last / SECTOR;
        let (text, end) = line.split_at(line.len() - usize::from(reaches_over));
        let doing = || KvsError::io(format!("append to {}", self.path.display()));
        for (bytes, at) in [(text, self.len), (end, last)] {
            if !bytes.is_empty() {
                self.file.write_all_at(bytes, at).map_err(doing())?;
                self.file.sync_data().map_err(|error| self.unknown(&error))?;
            }
        }
        Ok(())
    }

    /// Takes back what a failed append has left.
    fn cut_off(&self) -> Result<()> {
        self.file.set_len(self.len).map_err(|error| self.unknown(&error))
    }

    fn unknown(&self, error: &std::io::Error) -> KvsError {
        KvsError::Poisoned { cause: format!("append to {}: {error}", self.path.display()) }
    }

    /// Writes the file anew. Where that fails before the rename, the old one goes on growing: the
    /// edit before it is durable and must not be told as failed.
    fn rewrite(&mut self) -> Result<()> {
        let (path, segments) = (self.path.clone(), self.segments.clone());
        match Manifest::write_beside(&self.fs, path, self.next, segments) {
            Ok(new) => {
                // Which of the two has the name is not known after an error.
                new.put_in_place()
                    .map_err(|error| KvsError::Poisoned { cause: error.to_string() })?;
                *self = new;
            }
            Err(error) => log::warn!("the manifest is not written anew: {error}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fs::OsFs;

    fn os() -> Arc<dyn Fs> {
        Arc::new(OsFs)
    }

    #[test]
    fn edits_come_back_and_a_torn_one_never_happened() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::open(&os(), dir.path()).unwrap();
        assert_eq!((manifest.allocate(), manifest.allocate(), manifest.allocate()), (1, 2, 3));
        manifest.edit(&[1], &[]).unwrap();
        let path = dir.path().join(filename::MANIFEST);
        let before = std::fs::read(&path).unwrap();
        manifest.edit(&[2, 3], &[1]).unwrap();
        let after = std::fs::read(&path).unwrap();
        for len in before.len()..=after.len() {
            std::fs::write(&path, &after[..len]).unwrap();
            let mut manifest = Manifest::open(&os(), dir.path()).unwrap();
            let listed: Vec<u64> = manifest.segments().iter().copied().collect();
            assert_eq!(listed, if len == after.len() { vec![2, 3] } else { vec![1] });
            assert_eq!(manifest.allocate(), 4);
            manifest.edit(&[4], &[]).unwrap();
            assert!(Manifest::open(&os(), dir.path()).unwrap().segments().contains(&4));
        }
    }

    #[test]
    fn damage_is_refused_with_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::open(&os(), dir.path()).unwrap();
        let number = manifest.allocate();
        manifest.edit(&[number], &[]).unwrap();
        let path = dir.path().join(filename::MANIFEST);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(Manifest::open(&os(), dir.path()).is_err(), "byte {at} changed unnoticed");
        }
    }

    /// A number at the end of its range made the next allocation overflow.
    #[test]
    fn numbers_that_cannot_be_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        for edit in [
            Edit { next: u64::MAX, ..Edit::default() },
            Edit { next: 3, add: vec![2, 3], remove: vec![] },
        ] {
            let text = format!("{FIRST_LINE}{}", edit.line().unwrap());
            std::fs::write(dir.path().join(filename::MANIFEST), text).unwrap();
            let error = Manifest::open(&os(), dir.path()).err().unwrap().to_string();
            assert!(error.contains("cannot be"), "{error}");
        }
    }

    #[test]
    fn it_is_written_anew_when_it_has_grown() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::open(&os(), dir.path()).unwrap();
        for _ in 0..2500 {
            let number = manifest.allocate();
            manifest.edit(&[number], &[number.saturating_sub(1)]).unwrap();
        }
        let len = std::fs::metadata(dir.path().join(filename::MANIFEST)).unwrap().len();
        assert!(len <= REWRITE_BYTES + 100);
        let manifest = Manifest::open(&os(), dir.path()).unwrap();
        assert_eq!(manifest.segments().iter().copied().collect::<Vec<_>>(), [2500]);
    }
}
