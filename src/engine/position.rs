//! Where a record lies, in one word, so that the index can replace it atomically.
//!
//! ```text
//!   63      56 55             36   35     34                        0
//!  +----------+-----------------+---------+--------------------------+
//!  | size     | segment slot    | expires | offset, bytes            |
//!  +----------+-----------------+---------+--------------------------+
//! ```
//! The size is rounded up to three bits behind the leading one: enough to fetch a record with one read
//! and to keep count of live bytes. The slot is an index into the table of open segments
//! ([`segments`](super::segments)), not a file number: slots are used again, file numbers never.
//! `expires` says that the record has an expiry time, so that listing keys need not read it. No
//! position is zero, since no record is empty.

/// The position of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position(u64);

const OFFSET_BITS: u32 = 35;
const EXPIRES: u64 = 1 << OFFSET_BITS;
const SLOT_SHIFT: u32 = OFFSET_BITS + 1;
const SLOT_BITS: u32 = 20;
const SIZE_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;

/// The largest offset a record can start at.
pub const MAX_OFFSET: u64 = (1 << OFFSET_BITS) - 1;
/// How many segments can be open at once.
pub const MAX_SLOTS: usize = 1 << SLOT_BITS;

impl Position {
    /// The position of a record of `size` bytes at `offset` of the segment in `slot`.
    pub fn new(slot: u32, offset: u64, size: usize, expires: bool) -> Position {
        assert!((slot as usize) < MAX_SLOTS && offset <= MAX_OFFSET);
        Position(
            u64::from(class_of(size)) << SIZE_SHIFT
                | u64::from(slot) << SLOT_SHIFT
                | if expires { EXPIRES } else { 0 }
                | offset,
        )
    }

    /// Whether the record has an expiry time.
    pub fn expires(self) -> bool {
        self.0 & EXPIRES != 0
    }

    /// The position in a word that [`Position::to_word`] made; `None` for zero.
    pub fn from_word(word: u64) -> Option<Position> {
        (word != 0).then_some(Position(word))
    }

    /// The word; never zero.
    pub fn to_word(self) -> u64 {
        self.0
    }

    /// The segment's slot.
    pub fn slot(self) -> u32 {
        (self.0 >> SLOT_SHIFT) as u32 & (MAX_SLOTS as u32 - 1)
    }

    /// The offset of the record's first byte.
    pub fn offset(self) -> u64 {
        self.0 & MAX_OFFSET
    }

    /// The record's size in bytes, rounded up by at most an eighth.
    pub fn size(self) -> usize {
        size_of_class((self.0 >> SIZE_SHIFT) as u8)
    }
}

/// `size` as [`Position::size`] would tell it: the unit of live-byte counts.
pub fn rounded(size: usize) -> usize {
    size_of_class(class_of(size))
}

/// Exponent in the upper five bits, the three bits below the leading one in the lower three.
fn class_of(size: usize) -> u8 {
    assert!((8..=1 << 31).contains(&size), "no record has {size} bytes");
    let exponent = size.ilog2();
    let unit = 1usize << (exponent - 3);
    ((exponent as usize) * 8 + (size - (1 << exponent)).div_ceil(unit)) as u8
}

fn size_of_class(class: u8) -> usize {
    (8 + (class & 7) as usize) << (u32::from(class >> 3) - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let position = Position::new(1_048_575, MAX_OFFSET, 1000, true);
        assert!(position.expires() && !Position::new(1, 2, 1000, false).expires());
        assert_eq!(position.slot(), 1_048_575);
        assert_eq!(position.offset(), MAX_OFFSET);
        assert!((1000..=1125).contains(&position.size()));
        assert_eq!(Position::from_word(position.to_word()), Some(position));
    }

    #[test]
    fn sizes_round_up_by_an_eighth_at_most() {
        for size in (20..5000).chain([65_535, 65_556, (1 << 29) + 65_564]) {
            let rounded = rounded(size);
            assert!(rounded >= size && rounded <= size + size / 8, "{size} -> {rounded}");
            assert_eq!(super::rounded(rounded), rounded);
        }
    }
}
