//! Hint files: where hints are kept between one open and the next.
//!
//! Thread: whoever recovers, compacts or closes the store. A hint is written beside itself and
//! renamed, and not synced: one that a power cut damages is found out by its checksum, and costs
//! time only.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::core::Core;
use super::extent::Extent;
use super::filename;
use super::hint::{self, Hint};
use super::scan;
use super::segment::{HEADER, Segment};
use crate::error::{KvsError, Result};

/// The hint in a segment's hint file, if that is any good. If it is about more bytes than the segment
/// has, these are missing.
pub(super) fn read(core: &Core, segment: &Segment) -> Option<Hint> {
    let path = filename::hint(&core.dir, segment.number());
    let problem = match core.fs.read(&path).map(Hint::decode) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
        Ok(Err(problem)) => problem.to_owned(),
        Ok(Ok(hint)) if hint.segment() != segment.number() => {
            format!("it is about segment {}", hint.segment())
        }
        Ok(Ok(hint)) => return Some(hint),
    };
    log::warn!("{} is of no use ({problem}): the segment is scanned", path.display());
    None
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
    let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(hint) = of_segment(segment) {
                write(core, &hint)?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers = (bytes / MUCH).min(cores as u64 - 1);
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let others = helpers.into_iter().map(|helper| helper.join().unwrap_or(Ok(())));
        others.fold(mine, Result::and)
    })
}
