//! Hint files: where hints are kept between one open and the next.
//!
//! Thread: whoever recovers, compacts or closes the store. A hint is written beside itself and
//! renamed, and not synced: one that a power cut damages is found out by its checksum, and costs
//! time only.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::core::Core;
use super::extent::Extent;
use super::filename;
use super::fs::Fs;
use super::hint::{self, Hint};
use super::parallel;
use super::scan;
use super::segment::{HEADER, Segment};
use crate::error::{KvsError, Result};

/// The hint of segment `number` as its file has it: `Ok(None)` without a file, else what is wrong. If
/// it is about more bytes than the segment has, these are missing.
pub(super) fn load(fs: &dyn Fs, dir: &Path, number: u64) -> Result<Option<Hint>, String> {
    let bytes = match fs.read(&filename::hint(dir, number)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let hint = Hint::decode(bytes)?;
    match hint.segment() {
        told if told == number => Ok(Some(hint)),
        told => Err(format!("it is about segment {told}")),
    }
}

/// The hint in a segment's hint file, if that is any good.
pub(super) fn read(core: &Core, segment: &Segment) -> Option<Hint> {
    load(&*core.fs, &core.dir, segment.number()).unwrap_or_else(|problem| {
        let path = filename::hint(&core.dir, segment.number());
        log::warn!("{} is of no use ({problem}): the segment is scanned", path.display());
        None
    })
}

/// The hint of a closed segment, from its records. None if it is damaged: the next open shall look at
/// it again.
pub(super) fn of_segment(segment: &Segment) -> Option<Hint> {
    let start = (HEADER as u64).min(segment.len());
    let extent = Extent::new(&**segment.file(), start..segment.len());
    let scan = scan::scan(extent.bytes(), start, segment.origin(), scan::Tail::Whole);
    if !scan.damage.is_empty() || !extent.holes.is_empty() {
        segment.mark_damaged();
    }
    let hint = || hint::Builder::from_scan(&scan).encode(segment.number(), segment.len());
    (!segment.is_damaged()).then(hint)
}

/// Writes a hint file.
pub(super) fn write(core: &Core, hint: &Hint) -> Result<()> {
    let path = filename::hint(&core.dir, hint.segment());
    let temporary = filename::temporary(&path);
    let doing = || KvsError::io(format!("write {}", path.display()));
    let _ = core.fs.remove(&temporary);
    let written = core
        .fs
        .create(&temporary)
        .and_then(|file| file.write_all_at(hint.as_bytes(), 0))
        .and_then(|()| core.fs.rename(&temporary, &path));
    if written.is_err() {
        // The disk may be full: what is half there takes room.
        let _ = core.fs.remove(&temporary);
    }
    written.map_err(doing())
}

/// Writes the hints of these segments, for a clean close. Several at a time, if there is much.
pub(super) fn write_all(core: &Core, segments: &[Arc<Segment>]) -> Result<()> {
    const MUCH: u64 = 16 * 1024 * 1024;
    let bytes: u64 = segments.iter().map(|segment| segment.len()).sum();
    let threads = (1 + bytes / MUCH).min(parallel::cores() as u64) as usize;
    let written = parallel::map(segments, threads, |segment| match of_segment(segment) {
        Some(hint) => write(core, &hint),
        None => Ok(()),
    });
    written.into_iter().collect()
}
