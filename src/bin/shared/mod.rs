//! What the command-line programs have in common.

mod output;
mod progress;
mod quoted;
mod source;
mod usage;

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use kvs::KvsError;

pub use output::{Output, Stop};
pub use progress::Progress;
pub use quoted::quoted;
pub use source::Source;

/// Exit code of a request that could not be carried out.
const FAILED: u8 = 1;
/// Exit code of a check that could not be made.
const UNABLE: u8 = 2;

/// A key, value or other word from the command line: any bytes.
#[derive(Debug, Clone)]
pub struct Word(pub Vec<u8>);

impl From<OsString> for Word {
    fn from(word: OsString) -> Self {
        Word(word.into_encoded_bytes())
    }
}

impl AsRef<[u8]> for Word {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// How a program that did what it was told may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// All is well.
    Well,
    /// There was nothing to do it to, which has been said.
    InVain,
}

/// Reads the command line into `A`, runs `program` on it, and reports: one line on stderr if it
/// fails, and the exit code.
pub fn main<A: Parser>(name: &str, program: impl FnOnce(A) -> Result<Done, Stop>) -> ExitCode {
    let args = match usage::parse(name) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match program(args) {
        Ok(Done::Well) | Err(Stop::OutputClosed) => ExitCode::SUCCESS,
        Ok(Done::InVain) => ExitCode::from(FAILED),
        Err(Stop::Failed(error)) => complain(name, &error, FAILED),
        Err(Stop::Unable(error)) => complain(name, &error, UNABLE),
    }
}

fn complain(name: &str, error: &KvsError, code: u8) -> ExitCode {
    eprintln!("{name}: {error}");
    ExitCode::from(code)
}

/// An error whose message says all.
pub fn failure(message: impl Display) -> KvsError {
    KvsError::Invalid(message.to_string())
}
