//! Second names for files, and copies where a file system has no such thing.
//!
//! Any thread.

use std::io;
use std::path::Path;

use super::fs::{File, Fs};

/// Bytes copied, and synced, at once: with more, group commits beside it would have to wait longer for
/// the disk.
const STEP: usize = 1 << 20;

/// Gives a file that never changes any more a second name, or copies it where that cannot be: across
/// file systems, or without hard links. What was copied is durable; its name is not yet.
pub(super) fn link_or_copy(fs: &dyn Fs, from: &Path, to: &Path) -> io::Result<()> {
    match fs.hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Ok(()) => Ok(()),
        Err(_) => {
            let file = fs.open_read(from)?;
            copy(fs, &*file, file.len()?, to, &|_| true)
        }
    }
}

/// Copies the first `len` bytes of a file, durably. `go_on` is asked before each step, of so many
/// bytes; no gives it up.
pub(super) fn copy(
    fs: &dyn Fs,
    from: &dyn File,
    len: u64,
    to: &Path,
    go_on: &dyn Fn(u64) -> bool,
) -> io::Result<()> {
    let file = fs.create(to)?;
    let mut buffer = vec![0; STEP.min(len as usize)];
    for at in (0..len).step_by(STEP) {
        let step = &mut buffer[..(len - at).min(STEP as u64) as usize];
        if !go_on(step.len() as u64) {
            return Err(io::Error::other("the store is being closed"));
        }
        from.read_exact_at(step, at)?;
        file.write_all_at(step, at)?;
        file.sync_data()?;
    }
    file.sync_data()
}
