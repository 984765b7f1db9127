//! Replies, written straight into the buffer that leaves through the socket.
//!
//! Format: <https://redis.io/docs/latest/develop/reference/protocol-spec/>. Where RESP2 lacks a
//! type of RESP3 the reply falls back as Redis's does. A reply allocates nothing of its own and
//! makes room in the buffer once.

use std::io::Write as _;

/// Which version of RESP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// RESP2: what a connection speaks until it says `HELLO 3`.
    #[default]
    Resp2,
    /// RESP3: typed maps, doubles, nulls.
    Resp3,
}

/// Appends replies of one connection to a buffer.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    version: Version,
    /// When the buffer is longer than this, what may be long is left out.
    end: usize,
}

impl<'a> Reply<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut Vec<u8>, version: Version) -> Self {
        Reply { out, version, end: usize::MAX }
    }

    /// A writer of one reply that may have so many bytes. With more it [is cut](Self::is_cut): one
    /// element may go beyond them, the others are left out, and what is written is no reply.
    pub fn with_most(out: &'a mut Vec<u8>, version: Version, most: usize) -> Self {
        let end = out.len().saturating_add(most);
        Reply { out, version, end }
    }

    /// Whether the reply became too long: then it is to be rewound, and an error to be written.
    pub fn is_cut(&self) -> bool {
        self.out.len() > self.end
    }

    /// How many more bytes the reply may have.
    pub fn room(&self) -> usize {
        self.end.saturating_sub(self.out.len())
    }

    /// The version that replies are written in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The same buffer, written in another version.
    pub fn in_version(&mut self, version: Version) -> Reply<'_> {
        Reply { out: self.out, version, end: self.end }
    }

    /// How many bytes the buffer holds; a mark for [`Reply::rewind`].
    pub fn mark(&self) -> usize {
        self.out.len()
    }

    /// Drops what was written since `mark`: a command that failed half-way starts its reply anew.
    pub fn rewind(&mut self, mark: usize) {
        self.out.truncate(mark);
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A status line, as in `+PONG`. It must hold no line end.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.line(b'+', text.as_bytes());
    }

    /// An error line: `message` starts with its code, as in `ERR syntax error`. Line ends in it
    /// become spaces, as in Redis.
    pub fn error(&mut self, message: &str) {
        self.out.reserve(message.len() + 3);
        self.out.push(b'-');
        self.out.extend(message.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.header(b':', value, 0);
    }

    /// Yes or no: `#t` or `#f` in RESP3, the integer 1 or 0 in RESP2.
    pub fn boolean(&mut self, value: bool) {
        self.out.extend_from_slice(match (self.version, value) {
            (Version::Resp2, true) => b":1\r\n",
            (Version::Resp2, false) => b":0\r\n",
            (Version::Resp3, true) => b"#t\r\n",
            (Version::Resp3, false) => b"#f\r\n",
        });
    }

    /// An integer of any size, in decimal digits; a byte string in RESP2.
    pub fn big_number(&mut self, digits: &str) {
        match self.version {
            Version::Resp2 => self.bulk(digits.as_bytes()),
            Version::Resp3 => self.line(b'(', digits.as_bytes()),
        }
    }

    /// A floating point number in the fewest digits that are read back as the same; `inf`, `-inf`
    /// or `nan`. A byte string in RESP2.
    pub fn double(&mut self, value: f64) {
        let mut text = [0; 32];
        let text = format_double(value, &mut text);
        match self.version {
            Version::Resp2 => self.bulk(text),
            Version::Resp3 => self.line(b',', text),
        }
    }

    /// A byte string.
    #[inline]
    pub fn bulk(&mut self, value: &[u8]) {
        if self.is_cut() {
            return;
        }
        self.header(b'$', value.len(), value.len() + 2);
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A byte string that holds the integer's digits, as a counter's value is.
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Text for people, as INFO sends it; a byte string in RESP2.
    pub fn verbatim(&mut self, text: &str) {
        match self.version {
            Version::Resp2 => self.bulk(text.as_bytes()),
            Version::Resp3 => {
                self.header(b'=', text.len() + 4, text.len() + 6);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// "Not there": `$-1` in RESP2, `_` in RESP3.
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.version {
            Version::Resp2 => b"$-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// "No array": `*-1` in RESP2, `_` in RESP3.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.version {
            Version::Resp2 => b"*-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// Opens an array: the caller writes `len` replies next.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len, 0);
    }

    /// Opens a map: the caller writes `len` pairs next. A flat array in RESP2.
    pub fn map(&mut self, len: usize) {
        match self.version {
            Version::Resp2 => self.array(len * 2),
            Version::Resp3 => self.header(b'%', len, 0),
        }
    }

    /// Opens a set: the caller writes `len` replies next. An array in RESP2.
    pub fn set(&mut self, len: usize) {
        match self.version {
            Version::Resp2 => self.array(len),
            Version::Resp3 => self.header(b'~', len, 0),
        }
    }

    /// Opens an out-of-band message, which answers no request: the caller writes `len` replies
    /// next. An array in RESP2.
    pub fn push(&mut self, len: usize) {
        match self.version {
            Version::Resp2 => self.array(len),
            Version::Resp3 => self.header(b'>', len, 0),
        }
    }

    /// Opens what is told beside a reply, and can be passed over: the caller writes `len` pairs next, and
    /// then the reply. False, and nothing is opened, in RESP2, which has no such thing.
    pub fn attribute(&mut self, len: usize) -> bool {
        let has = self.version == Version::Resp3;
        if has {
            self.header(b'|', len, 0);
        }
        has
    }

    /// Replies that were encoded before, in this version.
    pub fn encoded(&mut self, replies: &[u8]) {
        self.out.extend_from_slice(replies);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        if self.is_cut() {
            return;
        }
        self.out.reserve(text.len() + 3);
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A number on a line of its own; makes room for it and for `following` more bytes.
    #[inline]
    fn header(&mut self, kind: u8, number: impl itoa::Integer, following: usize) {
        if self.is_cut() {
            return;
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        self.out.reserve(digits.len() + 3 + following);
        self.out.push(kind);
        self.out.extend_from_slice(digits);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Writes `value` as RESP3 wants it. 32 bytes hold a sign, 17 digits, a point and an exponent or
/// up to 5 zeros.
fn format_double(value: f64, text: &mut [u8; 32]) -> &[u8] {
    let mut rest = &mut text[..];
    let magnitude = value.abs();
    let written = if value.is_nan() {
        write!(rest, "nan")
    } else if magnitude == 0.0 || magnitude.is_infinite() || (1e-5..1e17).contains(&magnitude) {
        write!(rest, "{value}")
    } else {
        write!(rest, "{value:e}")
    };
    debug_assert!(written.is_ok(), "a double of more than 32 bytes");
    let left = rest.len();
    text.get(..text.len() - left).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: Version, write: impl Fn(&mut Reply<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, version));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_fall_back_in_resp2_as_redis_has_them() {
        type Write = fn(&mut Reply<'_>);
        let table: &[(Write, &str, &str)] = &[
            (|r| r.ok(), "+OK\r\n", "+OK\r\n"),
            (|r| r.simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
            (|r| r.error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (|r| r.integer(-7), ":-7\r\n", ":-7\r\n"),
            (|r| r.boolean(true), ":1\r\n", "#t\r\n"),
            (|r| r.boolean(false), ":0\r\n", "#f\r\n"),
            (|r| r.bulk(b"abc"), "$3\r\nabc\r\n", "$3\r\nabc\r\n"),
            (|r| r.bulk_integer(-12), "$3\r\n-12\r\n", "$3\r\n-12\r\n"),
            (|r| r.verbatim("hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (|r| r.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (|r| r.null(), "$-1\r\n", "_\r\n"),
            (|r| r.null_array(), "*-1\r\n", "_\r\n"),
            (|r| r.array(2), "*2\r\n", "*2\r\n"),
            (|r| r.map(2), "*4\r\n", "%2\r\n"),
            (|r| r.set(2), "*2\r\n", "~2\r\n"),
            (|r| r.push(2), "*2\r\n", ">2\r\n"),
        ];
        for (write, resp2, resp3) in table {
            assert_eq!(&written(Version::Resp2, write), resp2);
            assert_eq!(&written(Version::Resp3, write), resp3);
        }
    }

    #[test]
    fn doubles_are_short_and_exact() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (0.1, "0.1"),
            (-1.0 / 3.0, "-0.3333333333333333"),
            (1e300, "1e300"),
            (1e-300, "1e-300"),
            (-1.234_567_890_123_456_7e-5, "-0.000012345678901234568"),
            (f64::MIN, "-1.7976931348623157e308"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(format_double(value, &mut [0; 32]), text.as_bytes());
        }
    }

    #[test]
    fn a_reply_that_is_too_long_costs_one_element_more() {
        let mut out = b"+OK\r\n".to_vec();
        let mut reply = Reply::with_most(&mut out, Version::Resp2, 100);
        reply.array(1000);
        for _ in 0..1000 {
            reply.bulk(&[b'x'; 60]);
            reply.integer(7);
            reply.in_version(Version::Resp3).double(1.5);
            reply.simple("PONG");
        }
        assert!(reply.is_cut());
        reply.rewind(5);
        assert!(!reply.is_cut());
        reply.error("ERR no");
        assert_eq!(out, b"+OK\r\n-ERR no\r\n");
        let mut reply = Reply::with_most(&mut out, Version::Resp2, 7);
        reply.bulk(b"x");
        assert!(!reply.is_cut());
        reply.integer(1);
        assert!(reply.is_cut() && out.len() < 40);
    }

    #[test]
    fn a_reply_can_be_started_anew() {
        let text = written(Version::Resp2, |reply| {
            reply.ok();
            let mark = reply.mark();
            reply.array(3);
            reply.rewind(mark);
            reply.error("ERR no");
        });
        assert_eq!(text, "+OK\r\n-ERR no\r\n");
    }
}
