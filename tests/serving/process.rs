//! kvs-server as a process: for signals, exit codes, memory, and what is said on stderr.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use kvs::client::Client;
use kvs::protocol::Value;
use tempfile::TempDir;

use super::{client, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvs-server");

/// A running kvs-server on a port of its own. Killed when dropped.
pub struct Process {
    child: Child,
    addr: SocketAddr,
    log: Arc<Mutex<String>>,
    logger: Option<JoinHandle<()>>,
    dir: Option<TempDir>,
}

impl Process {
    /// In a fresh directory that goes with it.
    pub fn start(flags: &[&str]) -> Process {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start_in(dir.path(), flags);
        process.dir = Some(dir);
        process
    }

    /// In `dir`. Returns once its store is open.
    pub fn start_in(dir: &Path, flags: &[&str]) -> Process {
        Process::listening(dir, flags).ready()
    }

    /// In `dir`, by another program that becomes it. Returns once its store is open.
    pub fn wrapped(wrapper: &[&OsStr], dir: &Path, flags: &[&str]) -> Process {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(PROGRAM);
        Process::spawn(command, dir, flags).ready()
    }

    fn ready(self) -> Process {
        let mut client = self.client();
        wait_for("an open store", || match client.call(&["GET", "ready?"]).unwrap() {
            Value::Error(line) if line.starts_with("LOADING") => None,
            _ => Some(()),
        });
        self
    }

    /// In `dir`. Returns once it listens.
    pub fn listening(dir: &Path, flags: &[&str]) -> Process {
        Process::spawn(Command::new(PROGRAM), dir, flags)
    }

    fn spawn(mut command: Command, dir: &Path, flags: &[&str]) -> Process {
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
                *place.lock().unwrap() += &(line + "\n");
            }
        });
        // Port 0 until its address is known. From here on a panic kills it, too.
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Process { child, addr, log, logger: Some(logger), dir: None };
        process.addr = wait_for("its address", || {
            assert!(process.child.try_wait().unwrap().is_none(), "it ended");
            address_in(&process.log())
        });
        process
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Client {
        client(self.addr)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its resident memory without the pages of files, in bytes.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// The most memory that it has during `work`, beyond what it has now.
    pub fn growth<T>(&self, work: impl FnOnce() -> T) -> (usize, T) {
        let (before, done) = (self.memory(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut peak = before;
                while !done.load(Relaxed) {
                    peak = peak.max(self.memory());
                    std::thread::yield_now();
                }
                peak - before
            });
            // However it ends, the watch does, too.
            let end = Ended(&done);
            let outcome = work();
            drop(end);
            (watch.join().unwrap(), outcome)
        })
    }

    /// Sends a signal by its name, as in `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("its end", || self.child.try_wait().unwrap())
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.end();
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

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("the log of kvs-server:\n{}", self.log());
        }
    }
}

/// Runs kvs-server where it should end by itself: its exit code, and what it wrote to stderr.
pub fn run(flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let until = std::time::Instant::now() + super::PATIENCE;
    while child.try_wait().unwrap().is_none() && std::time::Instant::now() < until {
        std::thread::sleep(super::PAUSE);
    }
    // Fails if it has ended already.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The address in the line `... listening on IP:PORT, ...`.
fn address_in(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    let end = rest.find([',', ' ', '\n'])?;
    rest[..end].parse().ok()
}
