//! Which segments to merge next.
//!
//! Thread: `kvs-compact`. Closed segments come in, and those that one merge takes go out.

use std::sync::Arc;

use super::reserve;
use super::segment::{HEADER, Segment};

/// One merge copies no more than so many bytes, unless a single segment has more: positions reach
/// to 32 GiB, and a hint has 32-bit tables.
const MOST: u64 = 4 * 1024 * 1024 * 1024;
/// Dead bytes that are never worth a merge.
const SLACK: u64 = 1024 * 1024;

type Segments = Vec<Arc<Segment>>;

/// How large all segments may get together before a merge. With the hints (about a tenth of
/// the data), the prepared segment and the reserve (a sixteenth each, or little more), and the
/// output of a merge under way, the directory stays below twice the live keys and values. The
/// more dead bytes are let be, the fewer live ones a merge has to copy for each it wins.
pub(super) fn bound(live: u64) -> u64 {
    live + live * 3 / 8 + SLACK
}

/// What one merge copies, in bytes, unless a single segment has more: a sixteenth of the live ones, as
/// the reserve has to have as much for a full disk.
pub(super) fn limit(live: u64, target: u64) -> u64 {
    target.max(live / 16).min(MOST)
}

/// What is not live of a segment, in bytes.
pub(super) fn dead(segment: &Segment) -> u64 {
    segment.len().saturating_sub(HEADER as u64 + segment.live())
}

/// What a merge of a segment copies, in bytes, tombstones that may go included.
pub(super) fn copied(segment: &Segment) -> u64 {
    segment.liveness().copied()
}

/// The same of all these.
pub(super) fn sum(segments: &[Arc<Segment>], of: impl Fn(&Segment) -> u64) -> u64 {
    segments.iter().map(|segment| of(segment)).sum()
}

/// Of segments with `total` bytes, those with the largest share of dead ones, of which a merge copies up
/// to `limit` bytes; `None` if it would win too little.
pub(super) fn usual(mut segments: Segments, total: u64, limit: u64) -> Option<Segments> {
    segments.retain(|segment| dead(segment) > 0);
    if sum(&segments, |segment| segment.liveness().tombstones()) * 5 > total {
        // Tombstones go when what they hide is gone: from the oldest on.
        segments.sort_by_key(|segment| segment.min_seq());
        let oldest = worthwhile(take(&segments, limit), wins_a_tenth);
        if oldest.is_some() {
            return oldest;
        }
    }
    segments.sort_by_key(|segment| per_mille(segment.live(), segment));
    worthwhile(take(&segments, limit), wins_a_tenth)
}

/// For a full disk: of the segments that have dead records, which a merge wins for certain, those with
/// the largest share of them. `pressing`: also if that is little.
pub(super) fn with_dead_records(
    mut segments: Segments,
    limit: u64,
    pressing: bool,
) -> Option<Segments> {
    segments.retain(|segment| dead(segment) > segment.liveness().tombstones());
    segments.sort_by_key(|segment| per_mille(copied(segment), segment));
    worthwhile(take(&segments, limit), |segments| {
        wins_a_block(segments) && (pressing || wins_a_tenth_for_certain(segments))
    })
}

/// For a full disk without dead records: the oldest segments with tombstones, which go when what they
/// hide is gone.
pub(super) fn with_tombstones(mut segments: Segments, limit: u64) -> Segments {
    segments.retain(|segment| segment.liveness().tombstones() > 0);
    segments.sort_by_key(|segment| segment.min_seq());
    let mut sum = 0;
    let more = |segment: &&Arc<Segment>| {
        let first = sum == 0;
        sum += copied(segment);
        first || sum <= limit
    };
    segments.iter().take_while(more).cloned().collect()
}

/// A share, of a segment's bytes, in thousandths.
fn per_mille(bytes: u64, segment: &Segment) -> u64 {
    bytes * 1000 / segment.len().max(1)
}

/// Those of these segments, the first for certain, of which a merge copies up to `limit` bytes.
fn take(segments: &[Arc<Segment>], limit: u64) -> Segments {
    let mut sum = 0;
    let fits = |segment: &&Arc<Segment>| {
        let fits = sum == 0 || sum + copied(segment) <= limit;
        sum += if fits { copied(segment) } else { 0 };
        fits
    };
    segments.iter().filter(fits).cloned().collect()
}

/// As many of these segments, from the first on, as are worth a merge.
fn worthwhile(mut segments: Segments, worth: impl Fn(&[Arc<Segment>]) -> bool) -> Option<Segments> {
    while !segments.is_empty() && !worth(&segments) {
        segments.pop();
    }
    (!segments.is_empty()).then_some(segments)
}

/// Copying nine bytes to win one is not worth it, tombstones excepted.
fn wins_a_tenth(segments: &[Arc<Segment>]) -> bool {
    sum(segments, dead) * 10 >= sum(segments, |segment| segment.len())
}

fn wins_a_tenth_for_certain(segments: &[Arc<Segment>]) -> bool {
    let size = sum(segments, |segment| segment.len());
    size.saturating_sub(sum(segments, copied)) * 10 >= size
}

/// Whether a merge certainly wins room, however little.
fn wins_a_block(segments: &[Arc<Segment>]) -> bool {
    let taken = sum(segments, |segment| reserve::blocks(segment.len()));
    taken > reserve::blocks(HEADER as u64 + sum(segments, copied))
}
