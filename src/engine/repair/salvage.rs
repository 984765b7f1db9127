//! New segments for what is sound in damaged ones. They are merged segments: their records may come
//! in any order, and from anywhere.
//!
//! A segment gets its name once it is complete and durable, so a repair that was interrupted leaves
//! nothing that looks like damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::check::report::{Gone, Was};
use crate::engine::filename;
use crate::engine::fs::{File, Fs};
use crate::engine::record::{self, Record};
use crate::engine::segment::{HEADER, Origin, encode_header};
use crate::error::{KvsError, Result};

/// Bytes written at once.
const STEP: usize = 1 << 20;

/// A segment that is being written.
pub struct Output<'a> {
    fs: &'a dyn Fs,
    path: PathBuf,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    tail: u64,
    records: u64,
    failed: Option<KvsError>,
}

impl<'a> Output<'a> {
    /// Begins segment `number`.
    pub fn create(fs: &'a dyn Fs, dir: &Path, number: u64, origin: Origin) -> Result<Output<'a>> {
        let path = filename::segment(dir, number);
        let temporary = filename::temporary(&path);
        let _ = fs.remove(&temporary);
        let created = fs.create(&temporary);
        let file = created.map_err(KvsError::io(format!("create {}", temporary.display())))?;
        let buffer = encode_header(number, origin).to_vec();
        Ok(Output { fs, path, file, buffer, tail: 0, records: 0, failed: None })
    }

    /// Adds a record. A failure is told by [`Output::finish`].
    pub fn add(&mut self, record: &Record<'_>) {
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

    /// Adds what keeps older records from coming up in place of one that is gone.
    pub fn add_marker(&mut self, gone: &Gone) {
        let flags = if gone.what == Was::Clear { record::CLEAR } else { record::TOMBSTONE };
        self.add(&Record {
            seq: gone.seq,
            flags,
            database: gone.database,
            expires_at: None,
            key: &gone.key,
            value: &[],
        });
    }

    fn flush(&mut self) -> Result<()> {
        let doing = || KvsError::io(format!("write {}", self.path.display()));
        self.file.write_all_at(&self.buffer, self.tail).map_err(doing())?;
        self.tail += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it durable and gives it its name, which is not durable yet. How many records it has.
    pub fn finish(mut self) -> Result<u64> {
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
