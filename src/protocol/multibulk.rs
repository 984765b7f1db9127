//! Requests as RESP arrays of bulk strings, as Redis reads them:
//!
//! ```text
//! *<count>\r\n  then count times  $<length>\r\n<length bytes>\r\n
//! ```
//!
//! Format: <https://redis.io/docs/latest/develop/reference/protocol-spec/>; where that is silent,
//! networking.c of Redis 7.0 decides. So a length line ends with its first `\r` and the byte after
//! that is skipped unseen, as are the two bytes after a bulk; a count of zero or less is an empty
//! request; a wrong `$` is only reported when its line is complete.
//!
//! Always holds: the position never moves back, so nothing is parsed twice; and memory grows with
//! the words that have arrived, never with the count that was announced.

use super::decoder::{Limits, ProtocolError};
use super::scan;
use super::words::Words;

/// A count or bulk length above these is refused until a connection has logged in, as in Redis.
const GUEST_ELEMENTS: usize = 10;
const GUEST_BULK: usize = 16 * 1024;

/// How far the array at the start of the input has been read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Multibulk {
    /// Where the next length line or, after its length line, the next bulk starts. 0 while the
    /// count is not known.
    at: usize,
    /// The bytes before this hold no `\r` of the pending length line.
    scanned: usize,
    /// How many bulks are still to come.
    left: usize,
    /// The length of the bulk at `at`.
    bulk: Option<usize>,
}

/// Which length line is being read; the two have different errors.
#[derive(Clone, Copy)]
enum LengthLine {
    Count,
    Bulk,
}

impl Multibulk {
    /// Reads on: the length of the whole request once it is complete. The next call after that
    /// must be on a new `Multibulk`.
    #[inline]
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        words: &mut Words,
        limits: &Limits,
        guest: bool,
    ) -> Result<Option<usize>, ProtocolError> {
        if self.at == 0 {
            words.clear();
            let Some(count) = self.length_line(input, LengthLine::Count, limits)? else {
                return Ok(None);
            };
            self.left = checked_count(count, limits, guest)?;
        }
        // A copy in registers: the loop is the hottest of the decoder.
        let mut here = *self;
        while here.left > 0 {
            let len = match here.bulk {
                Some(len) => len,
                None => match here.length_line(input, LengthLine::Bulk, limits)? {
                    Some(len) => checked_bulk(len, here.at, limits, guest)?,
                    None => {
                        *self = here;
                        return Ok(None);
                    }
                },
            };
            let end = here.at + len + 2;
            if input.len() < end {
                here.bulk = Some(len);
                *self = here;
                return Ok(None);
            }
            words.push(here.at, len);
            here.at = end;
            here.bulk = None;
            here.left -= 1;
        }
        Ok(Some(here.at))
    }

    /// Whether words have been read that the rest of the array will need.
    pub(super) fn has_begun(&self) -> bool {
        self.at > 0
    }

    /// Reads the length line at `at` and moves behind it.
    #[inline]
    fn length_line(
        &mut self,
        input: &[u8],
        which: LengthLine,
        limits: &Limits,
    ) -> Result<Option<i64>, ProtocolError> {
        if self.scanned <= self.at
            && let Some([kind, digits @ ..]) = input.get(self.at..)
            && (matches!(which, LengthLine::Count) || *kind == b'$')
            && let Some((number, len)) = scan::short_number(digits)
        {
            self.at += 1 + len;
            return Ok(Some(number as i64));
        }
        self.any_length_line(input, which, limits)
    }

    /// The general form of [`Self::length_line`]: lines that are incomplete, long or wrong.
    #[cold]
    fn any_length_line(
        &mut self,
        input: &[u8],
        which: LengthLine,
        limits: &Limits,
    ) -> Result<Option<i64>, ProtocolError> {
        let limit = self.at.saturating_add(limits.inline);
        let to = input.len().min(limit.saturating_add(1));
        let Some(end) = scan::find(b'\r', input, self.scanned.max(self.at), to) else {
            if input.len() > limit {
                return Err(match which {
                    LengthLine::Count => ProtocolError::new("too big mbulk count string"),
                    LengthLine::Bulk => ProtocolError::new("too big bulk count string"),
                });
            }
            self.scanned = input.len();
            return Ok(None);
        };
        if end + 2 > input.len() {
            self.scanned = end;
            return Ok(None);
        }
        let line = input.get(self.at..end).unwrap_or_default();
        let first = line.first().copied().unwrap_or(b' ');
        if matches!(which, LengthLine::Bulk) && first != b'$' {
            return Err(ProtocolError::expected_bulk(first));
        }
        let number = scan::parse_integer(line.get(1..).unwrap_or_default());
        self.at = end + 2;
        number.map(Some).ok_or(match which {
            LengthLine::Count => BAD_COUNT,
            LengthLine::Bulk => BAD_BULK,
        })
    }
}

const BAD_COUNT: ProtocolError = ProtocolError::new("invalid multibulk length");
const BAD_BULK: ProtocolError = ProtocolError::new("invalid bulk length");

/// The number of words that an array of `count` elements has.
#[inline]
fn checked_count(count: i64, limits: &Limits, guest: bool) -> Result<usize, ProtocolError> {
    let count = usize::try_from(count.max(0)).map_err(|_| BAD_COUNT)?;
    if count > limits.elements {
        return Err(BAD_COUNT);
    }
    if guest && count > GUEST_ELEMENTS {
        return Err(ProtocolError::new("unauthenticated multibulk length"));
    }
    Ok(count)
}

/// The length of a bulk that starts at `at`.
#[inline]
fn checked_bulk(len: i64, at: usize, limits: &Limits, guest: bool) -> Result<usize, ProtocolError> {
    let len = usize::try_from(len).map_err(|_| BAD_BULK)?;
    if len > limits.bulk {
        return Err(BAD_BULK);
    }
    if guest && len > GUEST_BULK {
        return Err(ProtocolError::new("unauthenticated bulk length"));
    }
    if at.saturating_add(len).saturating_add(2) > limits.request {
        return Err(ProtocolError::new("too big request"));
    }
    Ok(len)
}
