//! What the command-line programs have in common.

mod output;
mod progress;
mod source;

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use kvs::KvsError;

pub use output::{Output, Stop};
pub use progress::Progress;
pub use source::Source;

/// Exit code of a request that could not be carried out.
const FAILED: u8 = 1;
/// Exit code of wrong words or flags, as shells and clap have it.
const MISUSED: u8 = 2;

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
    let args = match A::try_parse() {
        Ok(args) => args,
        Err(answer) if !answer.use_stderr() => {
            // --help and --version, which nobody may be reading.
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{name}: {}", one_line(&error));
            return ExitCode::from(MISUSED);
        }
    };
    match program(args) {
        Ok(Done::Well) | Err(Stop::OutputClosed) => ExitCode::SUCCESS,
        Ok(Done::InVain) => ExitCode::from(FAILED),
        Err(Stop::Failed(error)) => {
            eprintln!("{name}: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// clap's message on one line: what is wrong, its tip, the usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut message = String::new();
    for paragraph in text.split("\n\n") {
        let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if paragraph.is_empty() || paragraph.starts_with("For more information") {
            continue;
        }
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&paragraph.replacen("Usage: ", "usage: ", 1));
    }
    message.trim_start_matches("error: ").to_owned()
}

/// An error whose message says all.
pub fn failure(message: impl Display) -> KvsError {
    KvsError::Invalid(message.to_string())
}
