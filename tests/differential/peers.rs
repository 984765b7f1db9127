//! A kvs-server and a real Redis, asked the same.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use kvs::protocol::{ReplyDecoder, Value};
use tempfile::TempDir;

use crate::serving::{PATIENCE, Running, resp, wait_for};

/// A request's words.
pub type Request = Vec<Vec<u8>>;

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// A connection that tells replies as the bytes they are.
pub struct Peer {
    stream: Box<dyn Stream>,
    decoder: ReplyDecoder,
    input: Vec<u8>,
}

impl Peer {
    fn new(stream: impl Stream + 'static) -> Peer {
        Peer { stream: Box::new(stream), decoder: ReplyDecoder::new(), input: Vec::new() }
    }

    /// The replies to all of these, sent at once.
    pub fn ask_all(&mut self, requests: &[Request]) -> Vec<Vec<u8>> {
        let sent: Vec<u8> = requests.iter().flat_map(|words| resp(words)).collect();
        self.stream.write_all(&sent).unwrap();
        requests.iter().map(|request| self.reply(request)).collect()
    }

    pub fn ask(&mut self, words: &[&[u8]]) -> Vec<u8> {
        let request = words.iter().map(|word| word.to_vec()).collect();
        self.ask_all(&[request]).remove(0)
    }

    fn reply(&mut self, request: &Request) -> Vec<u8> {
        let mut reply = Vec::new();
        loop {
            let (used, value) = self.decoder.decode(&self.input).unwrap();
            reply.extend(self.input.drain(..used));
            if value.is_some() {
                return reply;
            }
            let mut piece = vec![0; 64 * 1024];
            let len = self.stream.read(&mut piece).unwrap();
            assert!(len > 0, "the connection was closed upon {}", show(request));
            self.input.extend_from_slice(&piece[..len]);
        }
    }
}

/// A reply's bytes as a value.
pub fn value(reply: &[u8]) -> Value {
    ReplyDecoder::new().decode(reply).unwrap().1.unwrap()
}

/// A request as a person would type it.
pub fn show(request: &Request) -> String {
    let words = request.iter().map(|word| match &word[..] {
        b"" => "\"\"".to_owned(),
        word if word.iter().all(u8::is_ascii_graphic) => word.escape_ascii().to_string(),
        word => format!("\"{}\"", word.escape_ascii()),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A Redis of our own, on a socket in a directory of its own. It compresses nothing it dumps, as
/// we do not.
pub struct Redis {
    process: Child,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Redis {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--rdbcompression", "no"])
            .args(["--unixsocket", "socket"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server 7 is on the path: .ci/setup installs it");
        Redis { process, dir }
    }

    pub fn connect(&self) -> Peer {
        let socket = self.dir.path().join("socket");
        let stream = wait_for("Redis", || UnixStream::connect(&socket).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer::new(stream)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection to each.
pub struct Pair {
    pub kvs: Peer,
    pub redis: Peer,
}

impl Pair {
    /// The replies of both to all of these.
    pub fn ask_all(&mut self, requests: &[Request]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let ours = self.kvs.ask_all(requests);
        ours.into_iter().zip(self.redis.ask_all(requests)).collect()
    }
}

/// Both servers.
pub struct Servers {
    pub kvs: Running,
    pub redis: Redis,
}

impl Servers {
    pub fn start() -> Servers {
        Servers { kvs: Running::start(|_| {}), redis: Redis::start() }
    }

    pub fn connect(&self) -> Pair {
        Pair { kvs: Peer::new(self.kvs.raw()), redis: self.redis.connect() }
    }
}
