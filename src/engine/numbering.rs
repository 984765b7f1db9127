//! Which database each number means. A client names a database by its number, and SWAPDB exchanges two
//! numbers; records and indexes are never touched by that: what they call their database is the one
//! that had this number when the store was new.
//!
//! The numbering is the value of a key of the store's own, in a database that has no number
//! ([`record::STORE`]). So a swap is a record like any other: in one unit with what else a transaction
//! does, found by an open as the newest of its key, copied by merges, backups and repairs.
//!
//! Any thread; the writer alone changes what is shown ([`Core::numbering`](super::core::Core)).

use super::core::DATABASES;
use super::record;

/// The key whose value is the numbering.
pub(super) const KEY: &[u8] = b"numbering";

/// How many databases there are with the store's own.
pub(super) const ALL: usize = record::STORE as usize + 1;

/// See the module. Four bits for each number, 0 in the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbering(u64);

impl Default for Numbering {
    fn default() -> Numbering {
        Numbering(0xFEDC_BA98_7654_3210)
    }
}

impl Numbering {
    /// The database with this number, which must be below [`DATABASES`].
    pub fn database(self, number: u8) -> u8 {
        assert!(usize::from(number) < DATABASES, "there is no database {number}");
        (self.0 >> (4 * number)) as u8 & 15
    }

    /// The number of a database; the store's own keeps the one it has in records.
    pub fn number(self, database: u8) -> u8 {
        let mut numbers = 0..DATABASES as u8;
        numbers.find(|number| self.database(*number) == database).unwrap_or(database)
    }

    /// With two numbers exchanged.
    pub fn swapped(self, a: u8, b: u8) -> Numbering {
        let differing = u64::from(self.database(a) ^ self.database(b));
        Numbering(self.0 ^ differing << (4 * a) ^ differing << (4 * b))
    }

    pub(super) fn to_word(self) -> u64 {
        self.0
    }

    /// The numbering in a word that [`Numbering::to_word`] made.
    pub(super) fn from_word(word: u64) -> Numbering {
        Numbering(word)
    }

    /// As it is on the disk.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// `None` if that is no numbering: each database has one number.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Numbering> {
        let numbering = Numbering(u64::from_le_bytes(bytes.try_into().ok()?));
        let numbers = 0..DATABASES as u8;
        let numbered = numbers.fold(0, |all, number| all | 1u16 << numbering.database(number));
        (numbered == u16::MAX).then_some(numbering)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exchanged_and_exchanged_back() {
        let first = Numbering::default();
        assert!((0..16).all(|number| first.database(number) == number));
        let swapped = first.swapped(3, 15).swapped(0, 3);
        assert_eq!([0, 3, 15].map(|number| swapped.database(number)), [15, 0, 3]);
        assert!((0..16).all(|number| swapped.number(swapped.database(number)) == number));
        assert_eq!(swapped.number(record::STORE), record::STORE);
        assert_eq!(swapped.swapped(7, 7), swapped);
        assert_eq!(swapped.swapped(3, 0).swapped(15, 3), first);
    }

    #[test]
    fn what_is_no_numbering_is_refused() {
        let swapped = Numbering::default().swapped(1, 2);
        assert_eq!(Numbering::from_bytes(&swapped.to_bytes()), Some(swapped));
        assert_eq!(Numbering::from_bytes(&swapped.to_bytes()[1..]), None);
        assert_eq!(Numbering::from_bytes(&[0; 8]), None);
    }
}
