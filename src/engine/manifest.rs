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
use std::ops::Range;
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

fn checksum(json: &str) -> String {
    format!("{:08x}", crc32fast::hash(json.as_bytes()))
}

impl Edit {
    fn line(&self) -> Result<String> {
        let json = serde_json::to_string(self)
            .map_err(|error| KvsError::Invalid(format!("manifest edit: {error}")))?;
        Ok(format!("{} {json}\n", checksum(&json)))
    }

    fn parse(line: &str) -> Option<Edit> {
        let (crc, json) = line.split_once(' ')?;
        let sound = crc == checksum(json);
        sound.then(|| serde_json::from_str(json).ok())?
    }

    /// Whether a store could have written it: no segment has a number that was not given yet.
    fn is_plausible(&self) -> bool {
        self.next <= MAX_NUMBER && self.add.iter().all(|number| *number < self.next)
    }
}

/// What the bytes of a manifest tell, as far as they are sound.
#[derive(Debug, Default)]
pub struct Survey {
    /// The smallest number that no listed file ever had.
    pub next: u64,
    /// What the sound lines have added and none of them has removed.
    pub segments: BTreeSet<u64>,
    /// What they have removed.
    pub removed: BTreeSet<u64>,
    /// Where there is damage, in bytes from the start, and what it is.
    pub damage: Vec<(Range<u64>, &'static str)>,
    /// Behind the last finished line.
    pub end: u64,
}

impl Survey {
    /// Reads on behind damage.
    pub fn of(bytes: &[u8]) -> Survey {
        let mut survey = Survey::default();
        let mut edits = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let place = survey.end..survey.end + line.len() as u64;
            let first = place.start == 0;
            if first && line == FIRST_LINE.as_bytes() {
                survey.end = place.end;
                continue;
            }
            let (text, finished) = match line.split_last() {
                Some((b'\n', text)) => (text, true),
                // An append that was interrupted leaves the first bytes of its line, or a zero where
                // its end is to be: anything else behind a whole edit was a line end once.
                Some((byte, text)) if *byte != 0 => (text, false),
                _ => break,
            };
            match std::str::from_utf8(text).ok().and_then(Edit::parse) {
                Some(edit) if !edit.is_plausible() => {
                    survey.damage.push((place.clone(), "an edit lists what cannot be"));
                }
                Some(edit) => {
                    edits += 1;
                    survey.take(edit);
                    if !finished {
                        survey.damage.push((place.end - 1..place.end, "a line end is missing"));
                    }
                }
                None if first => {
                    let what = "it is not a manifest of format version 1";
                    survey.damage.push((place.clone(), what));
                }
                None if finished => {
                    survey.damage.push((place.clone(), "an edit's checksum does not match"));
                }
                None => break,
            }
            survey.end = place.end;
        }
        if edits == 0 && survey.damage.is_empty() {
            survey.damage.push((survey.end..bytes.len() as u64, "it holds no edit"));
        }
        survey
    }

    /// Whether these bytes, of which nothing could be read, are of a version that comes later.
    pub fn is_of_newer_version(&self, bytes: &[u8]) -> bool {
        let version = FIRST_LINE.trim_end_matches("1\n").as_bytes();
        self.next == 0 && bytes.starts_with(version) && !bytes.starts_with(FIRST_LINE.as_bytes())
    }

    fn take(&mut self, edit: Edit) {
        self.segments.extend(edit.add);
        for number in edit.remove {
            self.segments.remove(&number);
            self.removed.insert(number);
        }
        self.next = self.next.max(edit.next);
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
        let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.sync_data());
        if written.is_err() {
            // The disk may be full: what is half there takes room.
            let _ = fs.remove(&temporary);
        }
        written.map_err(doing())?;
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
        let told = Survey::of(&bytes);
        if let Some((place, what)) = told.damage.first() {
            return Err(KvsError::Damaged {
                file: path,
                offset: place.start,
                what: format!("{what}; `kvs repair` rebuilds the manifest from the segments"),
            });
        }
        let (len, next, segments) = (told.end, told.next, told.segments);
        let manifest = Manifest { fs: Arc::clone(fs), path, file, len, next, segments };
        if len < bytes.len() as u64 {
            log::warn!("{}: dropped an unfinished edit at byte {len}", manifest.path.display());
            // It goes before anything is appended behind it.
            manifest.file.set_len(len).map_err(KvsError::io("cut off an unfinished edit"))?;
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
            // Also after a failed sync: the next open shall not find in memory what the disk has not.
            let cut = self.file.set_len(self.len).map_err(|error| self.unknown(&error));
            let is_final = matches!(error, KvsError::Poisoned { .. });
            return Err(if is_final { error } else { cut.err().unwrap_or(error) });
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
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            assert!(Manifest::open(&os(), dir.path()).is_err(), "bit {bit} flipped unnoticed");
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
