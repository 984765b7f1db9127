//! What the tests of the server share: a server within the test's process, the real one as a
//! process, raw connections, random numbers.
//!
//! Each test file compiles this anew and uses a part of it.
#![allow(dead_code, unused_imports)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use kvs::client::{Client, Timeouts};
use kvs::config::{Config, Fsync, Settings};
use kvs::engine::fs::Fs;
use kvs::protocol::{Value, encode_command};
use kvs::server::{Server, StopReason};
use tempfile::TempDir;

pub mod process;
#[path = "../random/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "a test file may use several modules that use it")]
mod random;

pub use random::Random;

/// What should happen at once is given up after this: long, as machines may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(2);

/// Looks again and again until there is something to be seen.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "no sign of {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Raises a flag when it is dropped, by a panic too: threads that wait for it would keep a failed test
/// from ending.
pub struct Raise<'a>(pub &'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A configuration for tests: a port from the system, no fsync, one loop, two readers.
pub fn config(dir: &Path) -> Config {
    let mut config = Settings::default().check().unwrap();
    config.addr = SocketAddr::from(([127, 0, 0, 1], 0));
    config.dir = dir.to_owned();
    config.fsync = Fsync::No;
    (config.loops, config.readers) = (1, 2);
    config
}

/// A server within this process. Stopped, with what it was asked to do done, when dropped.
pub struct Running {
    addr: SocketAddr,
    stopper: Sender<StopReason>,
    thread: Option<JoinHandle<kvs::Result<()>>>,
    dir: Option<TempDir>,
}

impl Running {
    /// In a fresh directory that goes with it; `change` adapts the configuration.
    pub fn start(change: impl FnOnce(&mut Config)) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let mut running = Running::start_in(dir.path(), change);
        running.dir = Some(dir);
        running
    }

    /// In `dir`. Returns once its store is open.
    pub fn start_in(dir: &Path, change: impl FnOnce(&mut Config)) -> Running {
        let mut config = config(dir);
        change(&mut config);
        Running::of(Server::start(config).unwrap())
    }

    /// With its store on another file system.
    pub fn start_on(fs: Arc<dyn Fs>, change: impl FnOnce(&mut Config)) -> Running {
        let mut config = config(Path::new("/sim"));
        change(&mut config);
        Running::of(Server::start_on(config, fs).unwrap())
    }

    /// A server that was started elsewhere.
    pub fn of(server: Server) -> Running {
        let (addr, stopper) = (server.local_addr(), server.stopper());
        let thread = std::thread::spawn(move || server.run());
        let running = Running { addr, stopper, thread: Some(thread), dir: None };
        let mut client = running.client();
        // GET, as every engine has it.
        wait_for("an open store", || match client.call(&["GET", "ready?"]).unwrap() {
            Value::Error(line) if line.starts_with("LOADING") => None,
            _ => Some(()),
        });
        running
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A connection that gives up after a while.
    pub fn client(&self) -> Client {
        client(self.addr)
    }

    /// A connection without any protocol.
    pub fn raw(&self) -> TcpStream {
        raw(self.addr)
    }

    /// Stops it as a signal does, and waits for the end.
    pub fn stop(mut self) -> kvs::Result<()> {
        self.end()
    }

    fn end(&mut self) -> kvs::Result<()> {
        // An error means that it is stopping already.
        let _ = self.stopper.try_send(StopReason::Signal(15));
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.end();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A connection that gives up after a while.
pub fn client(addr: SocketAddr) -> Client {
    let timeouts = Timeouts { connect: Some(PATIENCE), io: Some(PATIENCE) };
    Client::connect_with(addr, timeouts).unwrap()
}

/// A connection without any protocol.
pub fn raw(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A request as an array.
pub fn resp(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(words, &mut out);
    out
}

/// Sends `input` and the end of it, while reading what comes until the server closes. Both at once:
/// a server reads nothing from a client that does not take its replies.
pub fn converse(addr: SocketAddr, input: &[u8]) -> Vec<u8> {
    let mut stream = raw(addr);
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The server may have closed already, after QUIT or an error.
            let _ = writer.write_all(input).and_then(|()| writer.shutdown(Shutdown::Write));
        });
        read_to_end(&mut stream)
    })
}

/// Everything until the server closes; that it resets the connection is a failure.
#[track_caller]
pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut came = Vec::new();
    if let Err(error) = stream.read_to_end(&mut came) {
        panic!("after {} bytes: {error}: {}", came.len(), shown(&came));
    }
    came
}

/// Reads until as many bytes came as `expected` has, and compares.
#[track_caller]
pub fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut came = vec![0; expected.len()];
    stream.read_exact(&mut came).unwrap();
    assert_eq!(shown(&came), shown(expected));
}

/// Bytes as a person reads them, not too many.
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 2000;
    let more = if bytes.len() > MOST { "..." } else { "" };
    format!("{}{more}", bytes[..bytes.len().min(MOST)].escape_ascii())
}

/// What a line is answered, whose words hold no blanks.
#[track_caller]
pub fn says(client: &mut Client, line: &str) -> Value {
    client.call(&line.split(' ').collect::<Vec<_>>()).unwrap()
}

/// The reply `OK`.
pub fn ok() -> Value {
    Value::Simple("OK".into())
}

/// The text in a reply.
#[track_caller]
pub fn text(reply: Value) -> String {
    match reply {
        Value::Bulk(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The line of an error.
#[track_caller]
pub fn error(reply: Value) -> String {
    match reply {
        Value::Error(line) => line,
        other => panic!("no error: {other:?}"),
    }
}

/// The fields of a section of INFO.
pub fn info(client: &mut Client, section: &str) -> BTreeMap<String, String> {
    let text = text(says(client, &format!("info {section}")));
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.into(), value.into()));
    text.lines().filter_map(pair).collect()
}

/// A number in a section of INFO.
#[track_caller]
pub fn figure(client: &mut Client, section: &str, field: &str) -> u64 {
    let fields = info(client, section);
    fields.get(field).unwrap_or_else(|| panic!("no {field} in {fields:?}")).parse().unwrap()
}
