//! The programs, run to their end.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

pub const KVS: &str = env!("CARGO_BIN_EXE_kvs");
pub const CLIENT: &str = env!("CARGO_BIN_EXE_kvs-client");

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
