//! What the reactor alone can do under `redis-benchmark`: every SET is answered by OK, every other
//! request by a value of VALUE_BYTES, and nothing is verified or stored.
//! `ceiling [ADDR [LOOPS [VALUE_BYTES]]]`, by default 127.0.0.1:4002, one loop and 100 bytes.

use kvs::reactor::{
    ConnId, Connection, Connections, Control, Listener, Options, Peer, Reactor, Service,
};
use kvs::{KvsError, Result};

const OK: &[u8] = b"+OK\r\n";

struct Ceiling {
    /// What a request other than SET is answered by.
    value: Vec<u8>,
}

impl Service for Ceiling {
    type Session = ();
    type Mail = ();

    fn open(&mut self, _: &mut Control, _: ConnId, _: Peer) {}

    fn data(&mut self, _: &mut Control, conn: &mut Connection<()>) {
        let parts = conn.parts();
        let mut bytes = parts.input.readable();
        let before = bytes.len();
        while let Some((is_set, len)) = request(bytes) {
            if is_set {
                parts.output.extend_from_slice(OK);
            } else {
                parts.output.extend_from_slice(&self.value);
            }
            bytes = &bytes[len..];
        }
        let used = before - bytes.len();
        parts.input.consume(used);
    }

    fn mail(&mut self, _: &mut Control, _: &mut Connections<()>, _: ()) {}

    fn close(&mut self, _: &mut Control, _: ConnId, _: ()) {}

    fn idle(&self, _: &Connection<()>) -> bool {
        true
    }
}

/// Whether the first request is a SET, and its length; `None` if it is not complete.
fn request(bytes: &[u8]) -> Option<(bool, usize)> {
    let (words, mut at) = number(bytes, 0)?;
    let mut is_set = false;
    for word in 0..words {
        let (len, start) = number(bytes, at)?;
        at = start + len + 2;
        if word == 0 {
            is_set = bytes.get(start).is_some_and(|first| first | 0x20 == b's');
        }
    }
    (at <= bytes.len()).then_some((is_set, at))
}

/// The number after the type byte at `at`, and where its line ends.
fn number(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let digits = bytes.get(at + 1..)?;
    let len = digits.iter().position(|&byte| byte == b'\r')?;
    let value = digits[..len].iter().fold(0, |n, digit| n * 10 + usize::from(digit & 15));
    Some((value, at + 1 + len + 2))
}

/// A bulk string of `bytes` times x.
fn bulk(bytes: usize) -> Vec<u8> {
    format!("${bytes}\r\n{}\r\n", "x".repeat(bytes)).into_bytes()
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:4002".into());
    let loops = args.next().and_then(|loops| loops.parse().ok()).unwrap_or(1);
    let value_bytes = args.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(100);
    let addr = addr.parse().map_err(|_| KvsError::Invalid(format!("{addr}: no IP:PORT")))?;
    let listener = Listener::bind(addr)?;
    println!("answering on {}", listener.local_addr());
    let options = Options { loops, ..Options::default() };
    Reactor::start(vec![listener], options, move |_, _| Ceiling { value: bulk(value_bytes) })?
        .wait()
}
