//! Zeros ahead of the log's end: appending to blocks that are written already makes an fdatasync a
//! third cheaper, since no file length and no block map changes with it. Segments may come
//! full of them ([`preparer`]); this is for those that do not: made in a hurry, or while groups were
//! large.
//!
//! Owner: the writer. The zeros go out with a group and are synced with it; only many groups later
//! are they used up. A scan takes them for the end of the log, durable or not ([`record`]), so
//! nothing depends on them but speed.
//!
//! [`preparer`]: super::preparer
//! [`record`]: super::record

use std::io;

use super::fs::File;
use super::reserve;

/// How far they reach, in bytes. (64 KiB measured the same: so few groups pay for so many.)
const AHEAD: u64 = 128 * 1024;
/// Larger groups, in bytes, go without: to write each byte twice costs them more than it saves.
const SMALL_GROUP: usize = 16 * 1024;

/// How far the segment that is being written to is filled.
#[derive(Debug, Default)]
pub(super) struct Zeros {
    end: u64,
}

impl Zeros {
    /// A group of so many bytes was written up to `tail`: zeros follow it, up to `limit` at most, if
    /// the last ones are used up. A full disk does without.
    pub(super) fn keep_ahead(
        &mut self,
        file: &dyn File,
        tail: u64,
        group: usize,
        limit: u64,
    ) -> io::Result<()> {
        static ZEROS: [u8; AHEAD as usize] = [0; AHEAD as usize];
        if tail <= self.end || group > SMALL_GROUP {
            return Ok(());
        }
        let end = limit.min(tail + AHEAD);
        let missing = end.saturating_sub(tail) as usize;
        match file.write_all_at(&ZEROS[..missing], tail) {
            Err(error) if reserve::is_no_space(error.kind()) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.end = end;
                Ok(())
            }
        }
    }

    /// In a segment that has them up to `end`.
    pub(super) fn up_to(end: u64) -> Zeros {
        Zeros { end }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fs::{Fs, OsFs};
    use super::*;

    #[test]
    fn small_groups_are_followed_by_zeros_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsFs.create(&dir.path().join("log")).unwrap();
        let limit = 2 * AHEAD;
        let mut zeros = Zeros::default();
        let mut len_after = |tail: u64, group| {
            file.write_all_at(&vec![1; group], tail - group as u64).unwrap();
            zeros.keep_ahead(&*file, tail, group, limit).unwrap();
            file.len().unwrap()
        };
        assert_eq!(len_after(100, 60), 100 + AHEAD);
        assert_eq!(len_after(200, 100), 100 + AHEAD, "they are not used up yet");
        let large = SMALL_GROUP + 1;
        assert_eq!(len_after(AHEAD + 200, large), AHEAD + 200, "a large group goes without");
        assert_eq!(len_after(AHEAD + 300, 100), limit);
        assert_eq!(len_after(limit, 100), limit);
        let mut written = vec![9; 100];
        file.read_exact_at(&mut written, AHEAD + 300).unwrap();
        assert_eq!(written, [0; 100]);
    }
}
