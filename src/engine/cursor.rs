//! SCAN: a walk over the keys of a database in an order of no meaning, a few at a time.
//!
//! Any thread. The cursor is a place in the order of hashes, so it means the same however the index
//! changes in between: a key that is there throughout is visited. The keys of one step are those of one
//! moment: a group commit is visible to it as a whole or not at all. Keys whose records are damaged are
//! passed over. Behind a SWAPDB an iteration goes on in the database that has the number by then.

use super::core::Core;
use super::keydir::HashCursor;
use crate::error::Result;

/// Visits about `count` keys from `cursor` on (0 starts) and returns the next cursor (0: done). Reads
/// each key from its record. Which database it is about is asked while no group becomes visible.
pub(super) fn scan(
    core: &Core,
    database: impl Fn() -> u8,
    cursor: u64,
    count: usize,
    visit: &mut dyn FnMut(&[u8]),
) -> Result<u64> {
    loop {
        let guard = crossbeam_epoch::pin();
        let mut positions = Vec::with_capacity(count.min(4096));
        // No group becomes visible meanwhile.
        let shown = core.snapshots.overlays();
        let keydir = core.keydir(database(), &guard);
        let from = HashCursor::from_word(cursor);
        let next = keydir.piece(from, count, &guard, |position| positions.push(position));
        drop(shown);
        let segments = core.segments.table(&guard);
        let find = |slot: u32| segments.get(slot as usize).and_then(Option::as_ref);
        // A segment that went was merged: its keys are found by another look at the index.
        if positions.iter().any(|position| find(position.slot()).is_none()) {
            continue;
        }
        for position in positions {
            let Some(segment) = find(position.slot()) else { continue };
            // A key that cannot be told is passed over; reading it by name tells why.
            let Ok(bytes) = segment.fetch(position) else { continue };
            let Ok(record) = segment.parse(position, &bytes) else { continue };
            if !super::view::expired(record.expires_at) {
                visit(record.key);
            }
        }
        return Ok(next.map_or(0, HashCursor::to_word));
    }
}
