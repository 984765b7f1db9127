//! Decoding a little ahead of running: the requests of a pipeline are decoded some at a time, the
//! index is told which keys will be looked up, and then they run. A look-up by itself waits for
//! three cache misses in a row (half of a GET's time at a million keys); told ahead, those of the
//! whole pipeline overlap. (Measured: docs/performance.md.)
//!
//! Thread: an event loop; one of these serves all its connections in turn.

use super::native::NativeReads;
use crate::command::{Command, Run, prepare};
use crate::protocol::{Args, Decoder, Kind, ProtocolError, Span};

/// How many requests are decoded ahead.
const REQUESTS: usize = 32;

/// A request that was decoded.
pub struct Decoded {
    /// Where it starts in the input.
    pub start: usize,
    /// Its length there.
    pub len: usize,
    /// What it is.
    pub kind: Kind,
    /// The command, for an array that names one and has as many words as it takes.
    pub command: Option<&'static Command>,
    spans: (usize, usize),
}

/// See the module.
#[derive(Default)]
pub struct Ahead {
    requests: Vec<Decoded>,
    spans: Vec<Span>,
    next: usize,
}

impl Ahead {
    /// Decodes requests from `from` of `bytes` on. Those in text and JSON come one at a time, since
    /// their words lie in the decoder. An error comes after the requests before it.
    pub fn fill(
        &mut self,
        decoder: &mut Decoder,
        bytes: &[u8],
        from: usize,
    ) -> Result<(), ProtocolError> {
        self.requests.clear();
        self.spans.clear();
        self.next = 0;
        let mut at = from;
        while self.requests.len() < REQUESTS
            && let Some(request) = decoder.decode(&bytes[at..])?
        {
            let array = bytes[at] == b'*';
            let first = self.spans.len();
            let mut command = None;
            if array {
                let args = decoder.args(&bytes[at..at + request.len]);
                self.spans.extend_from_slice(args.parts().1);
                command = prepare(args).ok();
            }
            let spans = (first, self.spans.len());
            let (start, len) = (at, request.len);
            self.requests.push(Decoded { start, len, kind: request.kind, command, spans });
            at += len;
            if !array {
                break;
            }
        }
        Ok(())
    }

    /// Tells the index which keys the requests will read.
    pub fn warm_up(&self, reads: &NativeReads<'_>, bytes: &[u8]) {
        if self.requests.len() > 1 {
            reads.warm_up(self.requests.iter().filter_map(|request| {
                let Run::Read(_) = request.command?.run else { return None };
                self.args(request, &bytes[request.start..request.start + request.len]).get(1)
            }));
        }
    }

    /// The words of a request that is an array; `bytes` are its own.
    fn args<'a>(&'a self, request: &Decoded, bytes: &'a [u8]) -> Args<'a> {
        Args::new(bytes, &self.spans[request.spans.0..request.spans.1])
    }

    /// The next request and its words.
    pub fn next<'a>(
        &'a mut self,
        decoder: &'a Decoder,
        bytes: &'a [u8],
    ) -> Option<(&'a Decoded, Args<'a>)> {
        let request = self.requests.get(self.next)?;
        self.next += 1;
        let bytes = &bytes[request.start..request.start + request.len];
        if bytes.first() == Some(&b'*') {
            return Some((request, self.args(request, bytes)));
        }
        Some((request, decoder.args(bytes)))
    }
}
