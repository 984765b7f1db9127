//! What went wrong, as one line for the person who runs the benchmark.

use std::fmt;
use std::io;

/// A message that says what failed.
#[derive(Debug)]
pub struct Error(String);

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error {
    pub fn new(message: impl Into<String>) -> Error {
        Error(message.into())
    }

    /// For `map_err`: what was being done when the system refused.
    pub fn doing(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
        move |error| Error(format!("{what}: {error}"))
    }
}
