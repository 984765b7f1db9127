//! What tests that run the real programs share.
//!
//! Each test file compiles this anew and uses a part of it.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvs::client::{Client, Timeouts};
use kvs::protocol::Value;
use tempfile::TempDir;

/// What should happen at once is given up after this: long, as machines may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// The path of one of the programs: a macro, as the names are known to the compiler only.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        env!(concat!("CARGO_BIN_EXE_", $name))
    };
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// Standard output as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// Runs a program to its end.
pub fn run(program: &str, args: &[impl AsRef<OsStr>], input: impl AsRef<[u8]>) -> Outcome {
    let mut command = Command::new(program);
    let streams = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = streams.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    // From a thread, as the program may write before it has read all. It need not read anything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running kvs-server on a port of its own. Killed when dropped.
pub struct Server {
    child: Child,
    addr: SocketAddr,
    log: Arc<Mutex<String>>,
    logger: Option<JoinHandle<()>>,
    own_dir: Option<TempDir>,
}

impl Server {
    /// In a fresh directory that goes with it.
    pub fn start(flags: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start_in(dir.path(), flags);
        server.own_dir = Some(dir);
        server
    }

    /// In `dir`. Returns once it answers; panics with its log if it does not.
    pub fn start_in(dir: &Path, flags: &[&str]) -> Server {
        let mut command = Command::new(program!("kvs-server"));
        if !flags.contains(&"--addr") {
            command.args(["--addr", "127.0.0.1:0"]);
        }
        command.arg("--dir").arg(dir).args(flags);
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let place = Arc::clone(&log);
        let logger = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = place.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        // Port 0 until its address is known. From here on a panic kills it, too.
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { child, addr, log, logger: Some(logger), own_dir: None };
        server.addr = server.wait_for("its address", |log| address_in(&log.log()));
        server.wait_for("an answer", |server| is_ready(server.addr).then_some(()));
        server
    }

    fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&Server) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < until, "no sign of {what}:\n{}", self.log());
            std::thread::sleep(PAUSE);
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A connection to it.
    pub fn client(&self) -> Client {
        let timeouts = Timeouts { connect: Some(PATIENCE), io: Some(PATIENCE) };
        Client::connect_with(self.addr, timeouts).unwrap()
    }

    /// Ends it as a crash does, between two instructions.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not stop:\n{}", self.log());
            std::thread::sleep(PAUSE);
        }
    }

    fn end(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(logger) = self.logger.take() {
            let _ = logger.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("the log of kvs-server:\n{}", self.log());
        }
    }
}

/// The address in the line `... listening on IP:PORT, ...`.
fn address_in(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    let end = rest.find([',', ' ', '\n'])?;
    rest[..end].parse().ok()
}

/// Whether it takes connections and its store is open.
fn is_ready(addr: SocketAddr) -> bool {
    let timeouts = Timeouts { connect: Some(PATIENCE), io: Some(PATIENCE) };
    let reply = Client::connect_with(addr, timeouts).and_then(|mut c| c.call(&["EXISTS", "ready"]));
    matches!(reply, Ok(Value::Integer(_)))
}
