//! A segment that is not written by the store itself but composed beside it: what a repair takes over,
//! and the empty one that a backup ends with.
//!
//! Thread: whoever makes it. It gets its name once it is complete and durable, so that one which was
//! interrupted looks like no segment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::filename;
use super::fs::{File, Fs};
use super::record::{self, Record};
use super::segment::{HEADER, Origin, encode_header};
use crate::error::{KvsError, Result};

/// Bytes written at once.
const STEP: usize = 1 << 20;

/// A segment that is being written.
pub(super) struct Composed<'a> {
    fs: &'a dyn Fs,
    path: PathBuf,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    tail: u64,
    records: u64,
    failed: Option<KvsError>,
}

impl<'a> Composed<'a> {
    /// Begins segment `number`.
    pub(super) fn create(
        fs: &'a dyn Fs,
        dir: &Path,
        number: u64,
        origin: Origin,
    ) -> Result<Composed<'a>> {
        let path = filename::segment(dir, number);
        let temporary = filename::temporary(&path);
        let _ = fs.remove(&temporary);
        let created = fs.create(&temporary);
        let file = created.map_err(KvsError::io(format!("create {}", temporary.display())))?;
        let buffer = encode_header(number, origin).to_vec();
        Ok(Composed { fs, path, file, buffer, tail: 0, records: 0, failed: None })
    }

    /// Adds a record. A failure is told by [`Composed::finish`].
    pub(super) fn add(&mut self, record: &Record<'_>) {
        if self.failed.is_some() {
            return;
        }
        let start = self.buffer.len();
        record::append(&mut self.buffer, record);
        record::seal(&mut self.buffer[start..]);
        self.records += 1;
        if self.buffer.len() >= STEP {
            self.failed = self.flush().err();
        }
    }

    fn flush(&mut self) -> Result<()> {
        let doing = || KvsError::io(format!("write {}", self.path.display()));
        self.file.write_all_at(&self.buffer, self.tail).map_err(doing())?;
        self.tail += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it durable and gives it its name, which is not durable yet. How many records it has.
    pub(super) fn finish(mut self) -> Result<u64> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.flush()?;
        debug_assert!(self.tail >= HEADER as u64);
        let doing = || KvsError::io(format!("write {}", self.path.display()));
        self.file.sync_data().map_err(doing())?;
        self.fs.rename(&filename::temporary(&self.path), &self.path).map_err(doing())?;
        Ok(self.records)
    }
}
