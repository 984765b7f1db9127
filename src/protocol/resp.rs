//! RESP as a client sees it: commands out, and the tokens and values that replies consist of.
//!
//! Format: <https://redis.io/docs/latest/develop/reference/protocol-spec/>, versions 2 and 3,
//! without RESP3's streamed strings and aggregates, which no server sends.
//!
//! [`token`] reads one token at a time and is shared by the two readers of replies: the client's
//! `reply_decoder`, which builds [`Value`]s, and `json_reply`, which rewrites them as JSON.

use std::fmt;

/// A line of a reply is refused when it is longer, in bytes: 1 MiB.
const MAX_LINE: usize = 1 << 20;
/// A bulk or an aggregate is refused when it announces more: 4 GiB, or so many elements.
const MAX_LEN: i64 = u32::MAX as i64;

/// One reply of a server.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A status line such as `OK`.
    Simple(String),
    /// An error; the text starts with its code, as in `ERR syntax error`.
    Error(String),
    /// An integer.
    Integer(i64),
    /// A byte string.
    Bulk(Vec<u8>),
    /// "Not there", in any of its three spellings.
    Null,
    /// Replies in order.
    Array(Vec<Value>),
    /// RESP3: pairs of replies, in the order they came.
    Map(Vec<(Value, Value)>),
    /// RESP3: replies in no order, without duplicates as far as the server is right.
    Set(Vec<Value>),
    /// RESP3: a floating point number.
    Double(f64),
    /// RESP3: yes or no.
    Boolean(bool),
    /// RESP3: an out-of-band message, which answers no request.
    Push(Vec<Value>),
    /// RESP3: text with a three-letter format, `txt` or `mkd`.
    Verbatim {
        /// The format.
        format: [u8; 3],
        /// The text.
        text: Vec<u8>,
    },
    /// RESP3: an integer of any length, in digits.
    BigNumber(String),
}

/// A server sent what is no RESP; nothing after it can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadReply(pub(super) &'static str);

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's reply is no RESP: {}", self.0)
    }
}

impl std::error::Error for BadReply {}

/// Appends a command as an array of bulk strings.
pub fn encode_command(args: &[impl AsRef<[u8]>], out: &mut Vec<u8>) {
    let body: usize = args.iter().map(|arg| arg.as_ref().len() + 16).sum();
    out.reserve(body + 16);
    number_line(b'*', args.len(), out);
    for arg in args {
        let arg = arg.as_ref();
        number_line(b'$', arg.len(), out);
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

fn number_line(kind: u8, number: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What holds other replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Array,
    Map,
    Set,
    Push,
    /// Remarks on the reply that follows; it is no reply itself.
    Attribute,
}

/// A reply without parts, or the start of one with parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    Simple(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Bulk(&'a [u8]),
    Null,
    Double(f64),
    Boolean(bool),
    Verbatim(&'a [u8; 3], &'a [u8]),
    BigNumber(&'a [u8]),
    /// Its so many parts follow; a map's keys and values count each.
    Open(Aggregate, usize),
}

/// Reads the token at the start of `input` and its length in bytes; None if its end has not
/// arrived. `scanned` bytes are known to hold no line end; it is kept up to date for the next call
/// with the same bytes and more, and starts at 0 for each token.
pub(super) fn token<'a>(
    input: &'a [u8],
    scanned: &mut usize,
) -> Result<Option<(Token<'a>, usize)>, BadReply> {
    let unseen = input.get(*scanned..).unwrap_or_default();
    let Some(end) = memchr::memchr(b'\n', unseen).map(|at| *scanned + at) else {
        *scanned = input.len();
        return if input.len() > MAX_LINE { Err(BadReply("a line is too long")) } else { Ok(None) };
    };
    *scanned = end;
    let Some([kind, line @ .., b'\r']) = input.get(..end) else {
        return Err(BadReply("a line does not end with CRLF"));
    };
    let next = end + 1;
    let open = |kind, parts| aggregate(kind, line, parts);
    let token = match kind {
        b'+' => Token::Simple(line),
        b'-' => Token::Error(line),
        b':' => Token::Integer(integer(line)?),
        b'$' | b'!' | b'=' => return blob(*kind, line, input, next),
        b'_' => Token::Null,
        b',' => Token::Double(double(line)?),
        b'#' => match line {
            b"t" => Token::Boolean(true),
            b"f" => Token::Boolean(false),
            _ => return Err(BadReply("a boolean is neither t nor f")),
        },
        b'(' => Token::BigNumber(line),
        b'*' => open(Aggregate::Array, 1)?,
        b'%' => open(Aggregate::Map, 2)?,
        b'~' => open(Aggregate::Set, 1)?,
        b'>' => open(Aggregate::Push, 1)?,
        b'|' => open(Aggregate::Attribute, 2)?,
        _ => return Err(BadReply("it starts with a byte that no type has")),
    };
    Ok(Some((token, next)))
}

/// How many bytes the blob at the start of `input` lacks, whose length line is `line_end` bytes
/// long; 0 if it is no blob or unknown. For sizing reads.
pub(super) fn blob_needs(input: &[u8], line_end: usize) -> usize {
    let Some([b'$' | b'!' | b'=', line @ .., b'\r']) = input.get(..line_end) else { return 0 };
    let len = integer(line).ok().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    len.saturating_add(line_end + 3).saturating_sub(input.len())
}

/// A byte string, error or verbatim text whose `bytes` start at `start`.
fn blob<'a>(
    kind: u8,
    line: &[u8],
    input: &'a [u8],
    start: usize,
) -> Result<Option<(Token<'a>, usize)>, BadReply> {
    let len = integer(line)?;
    if len == -1 && kind == b'$' {
        return Ok(Some((Token::Null, start)));
    }
    let len = length(len)?;
    let Some(bytes) = input.get(start..start + len + 2) else { return Ok(None) };
    let Some((bytes, b"\r\n")) = bytes.split_at_checked(len) else {
        return Err(BadReply("a byte string does not end with CRLF"));
    };
    let token = match (kind, bytes) {
        (b'$', _) => Token::Bulk(bytes),
        (b'!', _) => Token::Error(bytes),
        _ => verbatim(bytes)?,
    };
    Ok(Some((token, start + len + 2)))
}

/// Three letters, a colon, the text.
fn verbatim(bytes: &[u8]) -> Result<Token<'_>, BadReply> {
    match bytes.split_first_chunk() {
        Some((format, [b':', text @ ..])) => Ok(Token::Verbatim(format, text)),
        _ => Err(BadReply("a verbatim string has no format")),
    }
}

fn aggregate(kind: Aggregate, line: &[u8], parts: usize) -> Result<Token<'static>, BadReply> {
    match integer(line)? {
        -1 if kind == Aggregate::Array => Ok(Token::Null),
        count => length(count)?
            .checked_mul(parts)
            .map(|count| Token::Open(kind, count))
            .ok_or(BadReply("a length is out of range")),
    }
}

fn length(len: i64) -> Result<usize, BadReply> {
    match len {
        0..=MAX_LEN => usize::try_from(len).map_err(|_| BadReply("a length is out of range")),
        _ => Err(BadReply("a length is out of range")),
    }
}

fn integer(text: &[u8]) -> Result<i64, BadReply> {
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    super::parse_integer(digits).ok_or(BadReply("a number is no number"))
}

fn double(text: &[u8]) -> Result<f64, BadReply> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(BadReply("a double is no number"))
}
