//! What a merge writes: the records that live, gathered, and where each of them went.
//!
//! Thread: `kvs-compact`; see [`compactor`](super::compactor).

use std::ops::Range;
use std::sync::Arc;

use super::core::Core;
use super::keydir::KeyHash;
use super::position::Position;
use super::record::{self, Record};
use super::segment::{HEADER, Segment};
use super::segment_reader::STEP;
use crate::error::{KvsError, Result};

/// How many look-ups are warmed up at a time.
const WARM: usize = 64;

/// A record that was copied: whose key it is, where it was, where in the output it is.
pub(super) struct Move {
    pub(super) database: u8,
    pub(super) hash: KeyHash,
    pub(super) from: Position,
    pub(super) offset: u64,
    pub(super) size: usize,
}

/// The output is synced each time it has grown by so many bytes. At the end is what counts, but then a
/// group commit beside it would have to wait until the disk has taken all of it.
const SYNC_EVERY: u64 = 512 * 1024;

/// A record of a victim that may live.
struct Noted {
    database: u8,
    hash: KeyHash,
    from: Position,
    place: Range<usize>,
    tombstone: bool,
}

/// Collects the output of a merge.
pub(super) struct Copier {
    pub(super) output: Arc<Segment>,
    buffer: Vec<u8>,
    /// Where `buffer` goes.
    pub(super) tail: u64,
    /// Up to where the output was synced.
    synced: u64,
    noted: Vec<Noted>,
    pub(super) moves: Vec<Move>,
    pub(super) tombstones: Vec<Vec<u8>>,
}

impl Copier {
    pub(super) fn new(output: Arc<Segment>) -> Copier {
        Copier {
            output,
            buffer: Vec::with_capacity(STEP * 2),
            tail: HEADER as u64,
            synced: HEADER as u64,
            noted: Vec::new(),
            moves: Vec::new(),
            tombstones: Vec::new(),
        }
    }

    pub(super) fn note(
        &mut self,
        core: &Core,
        victim: &Segment,
        offset: u64,
        record: &Record<'_>,
        place: Range<usize>,
    ) {
        let expires = record.expires_at.is_some();
        self.noted.push(Noted {
            database: record.database,
            hash: core.hasher.hash(record.key),
            from: Position::new(victim.slot(), offset, place.len(), expires),
            place,
            tombstone: record.is_tombstone() || record.is_clear(),
        });
    }

    /// Copies those of the noted records that the index points to out of `bytes`.
    pub(super) fn take_noted(&mut self, core: &Core, bytes: &[u8]) {
        let guard = crossbeam_epoch::pin();
        let mut noted = std::mem::take(&mut self.noted);
        for some in noted.chunks(WARM) {
            // First all cache misses at once, then the look-ups.
            let touch = |sum, record: &Noted| {
                sum ^ core.keydir(record.database, &guard).touch(record.hash, &guard)
            };
            std::hint::black_box(some.iter().fold(0, touch));
            for record in some {
                let bytes = &bytes[record.place.clone()];
                if record.tombstone {
                    self.tombstones.push(bytes.to_vec());
                } else if core.keydir(record.database, &guard).points_to(
                    record.hash,
                    record.from,
                    &guard,
                ) {
                    self.copy(record, bytes);
                }
            }
        }
        noted.clear();
        self.noted = noted;
    }

    fn copy(&mut self, record: &Noted, bytes: &[u8]) {
        self.moves.push(Move {
            database: record.database,
            hash: record.hash,
            from: record.from,
            offset: self.tail + self.buffer.len() as u64,
            size: bytes.len(),
        });
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        // It was parsed before.
        if let Ok(record) = record::unchecked(bytes) {
            self.output.note_seq(record.seq);
        }
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn append_tombstone(&mut self, bytes: &[u8]) {
        self.output.liveness().add_tombstone(bytes.len());
        self.append(bytes);
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        let doing = || KvsError::io(format!("write {}", self.output.path().display()));
        self.output.file().write_all_at(&self.buffer, self.tail).map_err(doing())?;
        self.tail += self.buffer.len() as u64;
        self.buffer.clear();
        if self.tail - self.synced >= SYNC_EVERY {
            self.output.sync()?;
            self.synced = self.tail;
        }
        Ok(())
    }
}
