//! From the bytes of a connection to its requests; one [`Decoder`] per connection.
//!
//! The first byte of a request picks its dialect: `*` an array (`multibulk`), `{` a JSON line
//! (`json`), anything else an inline line (`inline`).
//!
//! Always holds:
//! - Input that ends within a request is no error; decoding resumes where it stopped, and how the
//!   bytes were cut into reads never changes what comes out.
//! - Each byte is looked at a constant number of times, however it arrives.
//! - Words are spans of the input where they can be. What is held besides grows only with what has
//!   arrived, and an idle connection can give it back ([`Decoder::release`]).

use std::borrow::Cow;
use std::fmt;

use super::multibulk::Multibulk;
use super::words::Words;
use super::{Args, JsonId, inline, json, scan};

/// What one request may cost. All in bytes but `elements`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// An inline line, or a length line of an array, without its line end.
    pub inline: usize,
    /// The words of an array.
    pub elements: usize,
    /// One word of an array.
    pub bulk: usize,
    /// All of one request. Spans have 32 bits, so at 4 GiB - 1 this is cut off.
    pub request: usize,
    /// A JSON line without its line end.
    pub json_line: usize,
}

impl Default for Limits {
    /// Redis's limits, and 16 MiB for a JSON line.
    fn default() -> Self {
        Limits {
            inline: 64 << 10,
            elements: 1 << 20,
            bulk: 512 << 20,
            request: 1 << 30,
            json_line: 16 << 20,
        }
    }
}

/// The bytes break the protocol: the client gets this error line, then the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError(Cow<'static, str>);

impl ProtocolError {
    /// An error without Redis's prefix, which is added on display.
    pub(super) const fn new(what: &'static str) -> Self {
        ProtocolError(Cow::Borrowed(what))
    }

    pub(super) fn owned(what: String) -> Self {
        ProtocolError(Cow::Owned(what))
    }

    /// A bulk starts with `got`. Redis sends the byte as it is, except for line ends; here no
    /// control byte gets into the line.
    pub(super) fn expected_bulk(got: u8) -> Self {
        let got = if got == b'\r' || got == b'\n' { b' ' } else { got };
        match got {
            b' '..=b'~' => ProtocolError::owned(format!("expected '$', got '{}'", char::from(got))),
            _ => ProtocolError::owned(format!("expected '$', got '\\x{got:02x}'")),
        }
    }
}

impl fmt::Display for ProtocolError {
    /// The whole text of the error line, as in `ERR Protocol error: invalid bulk length`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERR Protocol error: {}", self.0)
    }
}

impl std::error::Error for ProtocolError {}

/// One complete request at the start of the input.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// How many bytes of the input it takes.
    pub len: usize,
    /// What it is.
    pub kind: Kind,
}

/// What a request is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A blank line or an array without elements: no reply.
    Empty,
    /// A command; [`Decoder::args`] has at least one word.
    Command,
    /// The same from a JSON line: the reply is one, too ([`write_json_reply`](super::write_json_reply)).
    JsonCommand,
    /// A line that starts with `{` but is no request. To be answered by a JSON line with this
    /// error text ([`write_json_error`](super::write_json_error)); the connection goes on.
    BadJson(String),
}

/// Splits the input of one connection into requests.
///
/// A caller keeps the bytes from the current request's first one on, calls [`decode`](Self::decode)
/// whenever there are more, and drops [`Request::len`] bytes after each request.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    array: Multibulk,
    /// The bytes before this hold no end of the line in progress.
    scanned: usize,
    words: Words,
    json_id: Option<JsonId>,
    guest: bool,
}

impl Decoder {
    /// A decoder at the start of a connection. It allocates nothing.
    pub fn new(limits: Limits) -> Self {
        let request = limits.request.min(u32::MAX as usize);
        let limits = Limits {
            inline: limits.inline.min(request),
            json_line: limits.json_line.min(request),
            request,
            ..limits
        };
        Decoder {
            limits,
            array: Multibulk::default(),
            scanned: 0,
            words: Words::default(),
            json_id: None,
            guest: false,
        }
    }

    /// Whether the client has yet to log in. A guest may send no more than 10 words of up to
    /// 16 KiB, as in Redis, so that strangers cannot fill the memory; nor longer lines of JSON than
    /// of text.
    pub fn set_guest(&mut self, guest: bool) {
        self.guest = guest;
    }

    /// Whether requests are read as a guest's.
    pub fn is_guest(&self) -> bool {
        self.guest
    }

    /// Changes the bounds on one word of an array and on one request, from the next word on.
    pub fn set_limits(&mut self, bulk: usize, request: usize) {
        (self.limits.bulk, self.limits.request) = (bulk, request.min(u32::MAX as usize));
    }

    /// Decodes the request at the start of `input`; None if its end has not arrived. Then the next
    /// call takes the same bytes and more behind them. After an error the connection is to be
    /// closed.
    #[inline]
    pub fn decode(&mut self, input: &[u8]) -> Result<Option<Request>, ProtocolError> {
        match input.first() {
            None => Ok(None),
            Some(b'*') => self.array(input),
            Some(b'{') => self.json(input),
            Some(_) => self.inline(input),
        }
    }

    /// Forgets how far it got into a request: the next call begins one, at whatever it is given.
    pub fn restart(&mut self) {
        self.array = Multibulk::default();
        self.scanned = 0;
    }

    /// The words of the request that [`decode`](Self::decode) has just returned; `input` is what
    /// it was given.
    #[inline]
    pub fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        self.words.args(input)
    }

    /// The `id` of the JSON line that was decoded last, to be echoed in its reply. Also there for
    /// a line that was refused, as far as it could be read.
    pub fn take_json_id(&mut self) -> Option<JsonId> {
        self.json_id.take()
    }

    /// Gives back the memory that is kept between requests. For a connection that has nothing to
    /// decode; within an array it does nothing, as the words so far are needed.
    pub fn release(&mut self) {
        if !self.array.has_begun() {
            self.words.release();
        }
    }

    /// The memory that is held beyond the struct itself, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.words.heap_bytes()
    }

    #[inline]
    fn array(&mut self, input: &[u8]) -> Result<Option<Request>, ProtocolError> {
        match self.array.advance(input, &mut self.words, &self.limits, self.guest) {
            Ok(None) => Ok(None),
            Ok(Some(len)) => {
                self.array = Multibulk::default();
                Ok(Some(Request { len, kind: self.command() }))
            }
            Err(error) => {
                self.array = Multibulk::default();
                Err(error)
            }
        }
    }

    fn inline(&mut self, input: &[u8]) -> Result<Option<Request>, ProtocolError> {
        let Some(end) = self.line_end(input, self.limits.inline, "too big inline request")? else {
            return Ok(None);
        };
        self.words.clear();
        let line = input.get(..end).unwrap_or_default();
        inline::split(line, &mut self.words)
            .map_err(|_| ProtocolError::new("unbalanced quotes in request"))?;
        Ok(Some(Request { len: end + 1, kind: self.command() }))
    }

    fn json(&mut self, input: &[u8]) -> Result<Option<Request>, ProtocolError> {
        let Limits { json_line, inline, .. } = self.limits;
        let limit = if self.guest { json_line.min(inline) } else { json_line };
        let Some(end) = self.line_end(input, limit, "too big JSON line")? else {
            return Ok(None);
        };
        self.words.clear();
        let line = input.get(..end).unwrap_or_default();
        let (id, outcome) = json::read_request(line, &mut self.words);
        self.json_id = id;
        let kind = outcome.map_or_else(Kind::BadJson, |()| Kind::JsonCommand);
        Ok(Some(Request { len: end + 1, kind }))
    }

    /// Where the `\n` of the line at the start of `input` is, if it has arrived.
    fn line_end(
        &mut self,
        input: &[u8],
        limit: usize,
        too_big: &'static str,
    ) -> Result<Option<usize>, ProtocolError> {
        let to = input.len().min(limit.saturating_add(1));
        let end = scan::find(b'\n', input, self.scanned.min(to), to);
        if end.is_none() && input.len() > limit {
            return Err(ProtocolError::new(too_big));
        }
        self.scanned = if end.is_some() { 0 } else { input.len() };
        Ok(end)
    }

    #[inline]
    fn command(&self) -> Kind {
        if self.words.is_empty() { Kind::Empty } else { Kind::Command }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` byte by byte; what comes out, and how many bytes were looked at for it.
    fn drip(input: &[u8]) -> (Result<Option<Request>, ProtocolError>, usize) {
        let mut decoder = Decoder::new(Limits::default());
        let before = scan::looked_at();
        let mut outcome = Ok(None);
        for end in 1..=input.len() {
            outcome = decoder.decode(&input[..end]);
            if outcome != Ok(None) {
                break;
            }
        }
        (outcome, scan::looked_at() - before)
    }

    #[test]
    fn bytes_are_not_scanned_anew_when_they_drip_in() {
        let word = "v".repeat(60_000);
        let mut many = b"*10000\r\n".to_vec();
        many.extend_from_slice(&b"$3\r\nabc\r\n".repeat(10_000));
        let inputs: [Vec<u8>; 7] = [
            format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$60000\r\n{word}\r\n").into(),
            many,
            format!("set k {word}\r\n").into(),
            format!("set k \"{word}\"\n").into(),
            format!("{{\"cmd\":\"set\",\"key\":\"k\",\"value\":\"{word}\"}}\n").into(),
            format!("*{}", "0".repeat(70_000)).into(),
            format!("*1\r\n${}", "0".repeat(70_000)).into(),
        ];
        for input in inputs {
            let (outcome, looked_at) = drip(&input);
            assert_ne!(outcome, Ok(None));
            let shown = input[..20].escape_ascii();
            assert!(looked_at <= 4 * input.len(), "{shown}: {looked_at} of {}", input.len());
        }
    }

    #[test]
    fn the_inside_of_a_bulk_is_not_looked_at() {
        let input = format!("*1\r\n$60000\r\n{}\r\n", "v".repeat(60_000));
        let (outcome, looked_at) = drip(input.as_bytes());
        assert_eq!(outcome, Ok(Some(Request { len: input.len(), kind: Kind::Command })));
        assert!(looked_at < 100, "{looked_at}");
    }

    #[test]
    fn an_idle_decoder_is_small() {
        assert!(size_of::<Decoder>() <= 256, "{}", size_of::<Decoder>());
        assert_eq!(Decoder::new(Limits::default()).heap_bytes(), 0);
    }
}
