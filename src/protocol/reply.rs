//! Replies, written straight into the buffer that leaves through the socket.

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
}

impl<'a> Reply<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut Vec<u8>, version: Version) -> Self {
        Reply { out, version }
    }

    /// The version that replies are written in.
    pub fn version(&self) -> Version {
        self.version
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
        self.out.push(b'-');
        self.out.extend(message.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.line(b':', itoa::Buffer::new().format(value).as_bytes());
    }

    /// A byte string.
    pub fn bulk(&mut self, value: &[u8]) {
        self.line(b'$', itoa::Buffer::new().format(value.len()).as_bytes());
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
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
        self.line(b'*', itoa::Buffer::new().format(len).as_bytes());
    }

    /// Opens a map: the caller writes `len` pairs next. A flat array in RESP2.
    pub fn map(&mut self, len: usize) {
        match self.version {
            Version::Resp2 => self.array(len * 2),
            Version::Resp3 => self.line(b'%', itoa::Buffer::new().format(len).as_bytes()),
        }
    }

    /// Opens a set: the caller writes `len` replies next. An array in RESP2.
    pub fn set(&mut self, len: usize) {
        match self.version {
            Version::Resp2 => self.array(len),
            Version::Resp3 => self.line(b'~', itoa::Buffer::new().format(len).as_bytes()),
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }
}
