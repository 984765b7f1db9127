//! Numbers among a request's words, read to the letter as Redis reads them.

use std::ops::Range;

use super::Abort;
use super::errors::NOT_AN_INTEGER;
use crate::protocol::parse_integer;

/// An integer word.
pub(super) fn integer(word: &[u8]) -> Result<i64, Abort> {
    integer_or(word, NOT_AN_INTEGER)
}

/// An integer word; `line` refuses anything else.
pub(super) fn integer_or(word: &[u8], line: &'static str) -> Result<i64, Abort> {
    parse_integer(word).ok_or(Abort::from(line))
}

/// An integer word of 32 bits.
pub(super) fn small_integer(word: &[u8]) -> Result<i32, Abort> {
    const OUT_OF_RANGE: &str =
        "ERR value is out of range, value must between -2147483648 and 2147483647";
    i32::try_from(integer(word)?).map_err(|_| OUT_OF_RANGE.into())
}

/// A cursor of SCAN, as C's `strtoul` reads it: an empty one is 0, a sign is taken.
pub(super) fn cursor(word: &[u8]) -> Result<u64, Abort> {
    const INVALID: Abort = Abort::Refused(std::borrow::Cow::Borrowed("ERR invalid cursor"));
    let (negative, digits) = match word {
        [] => return Ok(0),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| INVALID)?;
    let value: u64 = digits.parse().map_err(|_| INVALID)?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// Whether an index range is empty whatever the length of what it is of.
pub(super) fn is_backwards(start: i64, end: i64) -> bool {
    start < 0 && end < 0 && start > end
}

/// The part `start..end` of `len` elements that two inclusive indexes mean, each counted from the
/// end if negative, and cut to what is there.
pub(super) fn clamp(start: i64, end: i64, len: usize) -> Range<usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let from_start = |index: i64| if index < 0 { index.saturating_add(len).max(0) } else { index };
    let (start, end) = (from_start(start), from_start(end).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_strtoul_reads_them() {
        for (word, value) in [
            ("", Some(0)),
            ("0", Some(0)),
            ("007", Some(7)),
            ("+7", Some(7)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-", None),
            ("+-1", None),
            (" 1", None),
            ("1 ", None),
            ("x", None),
        ] {
            assert_eq!(cursor(word.as_bytes()).ok(), value, "{word:?}");
        }
    }

    #[test]
    fn indexes_are_cut_to_what_is_there() {
        for (start, end, range) in [
            (0, -1, 0..5),
            (0, 100, 0..5),
            (-100, 2, 0..3),
            (-2, -1, 3..5),
            (-1, -2, 0..0),
            (-100, -200, 0..1),
            (3, 2, 0..0),
            (5, 5, 0..0),
            (4, 4, 4..5),
            (i64::MIN, i64::MAX, 0..5),
            (0, i64::MIN, 0..1),
        ] {
            assert_eq!(clamp(start, end, 5), range, "{start} {end}");
        }
        assert_eq!(clamp(0, -1, 0), 0..0);
    }
}
