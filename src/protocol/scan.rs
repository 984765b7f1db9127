//! The primitives that look at bytes of a request: every scan over input goes through here.
//!
//! In test builds each of them counts the bytes that it looked at, per thread, so that a test can
//! prove that a request which arrives byte by byte is not scanned anew with each byte.

/// Where `needle` first occurs in `bytes[from..to]`, as an offset into `bytes`. A range that
/// leaves `bytes` holds nothing.
#[inline]
pub(super) fn find(needle: u8, bytes: &[u8], from: usize, to: usize) -> Option<usize> {
    let range = bytes.get(from..to)?;
    let found = memchr::memchr(needle, range);
    count(found.map_or(range.len(), |at| at + 1));
    found.map(|at| from + at)
}

/// The most digits that [`short_number`] reads; longer numbers take the general way.
const SHORT_DIGITS: usize = 9;

/// Reads the digits of a length line and its CRLF: the number, and how many bytes that took. None
/// if the line is not there as a whole or is unusual in any way; the general way finds out which.
#[inline]
pub(super) fn short_number(line: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (i, &byte) in line.iter().enumerate().take(SHORT_DIGITS + 1) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            count(i + 1);
            let whole = byte == b'\r' && i > 0 && line.len() > i + 1;
            let plain = i == 1 || line.first() != Some(&b'0');
            return (whole && plain).then_some((value, i + 2));
        }
        value = value * 10 + usize::from(digit);
    }
    count(line.len().min(SHORT_DIGITS + 1));
    None
}

/// Reads a decimal integer as Redis's `string2ll` does: an optional `-`, then digits without
/// leading zeros, and nothing else; no `+`, no `-0`. None if it is anything else or overflows.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    count(text.len());
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    digits.iter().try_fold(0i64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        let value = value.checked_mul(10)?;
        if negative { value.checked_sub(digit.into()) } else { value.checked_add(digit.into()) }
    })
}

#[cfg(test)]
thread_local! {
    /// How many bytes this thread has looked at.
    static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Notes that `bytes` bytes were looked at. Nothing outside of tests.
#[inline]
pub(super) fn count(bytes: usize) {
    #[cfg(test)]
    LOOKED_AT.set(LOOKED_AT.get() + bytes);
    #[cfg(not(test))]
    let _ = bytes;
}

/// How many bytes this thread has looked at so far.
#[cfg(test)]
pub(super) fn looked_at() -> usize {
    LOOKED_AT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_string2ll_reads_them() {
        let max = i64::MAX.to_string();
        let min = i64::MIN.to_string();
        for (text, value) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("1048576", Some(1_048_576)),
            (max.as_str(), Some(i64::MAX)),
            (min.as_str(), Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            (" 1", None),
            ("1 ", None),
            ("1a", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn short_numbers_need_their_line_end() {
        assert_eq!(short_number(b"3\r\nSET"), Some((3, 3)));
        assert_eq!(short_number(b"0\r\n"), Some((0, 3)));
        assert_eq!(short_number(b"123456789\r\n"), Some((123_456_789, 11)));
        for line in [&b""[..], b"3", b"3\r", b"\r\n", b"03\r\n", b"-1\r\n", b"1234567890\r\n"] {
            assert_eq!(short_number(line), None, "{}", line.escape_ascii());
        }
    }
}
