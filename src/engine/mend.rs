//! Finds the one bit that flipped in a record, from its checksum: so the key of a damaged record is
//! known also where it or its header was hit. Nothing else is believed of what comes out: it is never
//! served, only told apart.
//!
//! A CRC is linear: a flipped bit changes it by a value that depends only on how far from the end
//! the bit is. So the difference between the checksum there is and the one there should be tells the
//! bit, if it was a single one. (More than one may look like a single one somewhere else: for a
//! record of 100 bytes, once in five million times.)

use super::record;

/// Longer records are not looked at: the search takes a step for every byte.
const LONGEST: usize = 1024 * 1024;
/// The polynomial of CRC-32 (IEEE), its bits reversed.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// The record that `bytes` held before one bit of them flipped; they are all of that record.
pub fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    if !(record::HEADER..=LONGEST).contains(&bytes.len()) {
        return None;
    }
    let (stored, content) = bytes.split_at(4);
    let stored = u32::from_le_bytes(stored.try_into().ok()?);
    let difference = stored ^ crc32fast::hash(content);
    let mut mended = bytes.to_vec();
    if difference.count_ones() == 1 {
        let bit = difference.trailing_zeros() as usize;
        mended[bit / 8] ^= 1 << (bit % 8);
    } else {
        let (at, bit) = flipped(content.len(), difference)?;
        mended[4 + at] ^= 1 << bit;
    }
    let whole = record::parse(&mended).is_ok_and(|record| record.size() == mended.len());
    whole.then_some(mended)
}

/// Which bit of which of `len` bytes makes this difference to their checksum.
fn flipped(len: usize, difference: u32) -> Option<(usize, usize)> {
    // What each bit makes in the last byte, then in the one before it, and so on.
    let mut made: [u32; 8] = std::array::from_fn(|bit| one_byte(1 << bit));
    for at in (0..len).rev() {
        if let Some(bit) = made.iter().position(|made| *made == difference) {
            return Some((at, bit));
        }
        made = made.map(one_byte);
    }
    None
}

/// What a difference in the checksum becomes when another byte follows.
fn one_byte(difference: u32) -> u32 {
    (0..8).fold(difference, |crc, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::Record;

    #[test]
    fn every_single_bit_is_found_and_no_other_damage_taken_for_one() {
        let record = Record {
            seq: 7,
            flags: 0,
            database: 3,
            expires_at: Some(1_700_000_000_000),
            key: b"a key",
            value: b"some value",
        };
        let mut good = Vec::new();
        record::append(&mut good, &record);
        record::seal(&mut good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(mended(&bad).as_ref(), Some(&good), "bit {bit}");
            // A second one.
            let other = (bit * 31 + 17) % (good.len() * 8);
            bad[other / 8] ^= 1 << (other % 8);
            assert!(other == bit || mended(&bad).is_none(), "bits {bit} and {other}");
        }
        assert_eq!(mended(&good[..good.len() - 1]), None);
        assert_eq!(mended(&[0; 40]), None);
    }
}
