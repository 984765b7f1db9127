//! Commands: one table, one function each; knows neither sockets nor files.

mod access;

pub use access::{Abort, Client, Entry, KeyRange, Outcome, Reads, Writes};

use crate::protocol::{Args, Reply};

/// How a command runs, and by that where: on the event loop, as a read, or on the writer.
#[derive(Clone, Copy)]
pub enum Run {
    /// Touches no key: answered on the event loop.
    Local(fn(&mut dyn Client, Args<'_>, &mut Reply<'_>) -> Outcome),
    /// Reads a few named keys: tried on the loop, finished by a read worker when not in memory.
    Read(fn(&dyn Reads, Args<'_>, &mut Reply<'_>) -> Outcome),
    /// Walks many keys: always on a read worker, and the connection waits for it.
    Scan(fn(&dyn Reads, Args<'_>, &mut Reply<'_>) -> Outcome),
    /// Changes keys, or decides by what they hold whether to: on the writer, in order.
    Write(fn(&mut dyn Writes, Args<'_>, &mut Reply<'_>) -> Outcome),
}

/// Which words of a request are keys. `first` 0: none are; `last` counts from the end if negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// The first key's place.
    pub first: i8,
    /// The last key's place, -1 for the last word.
    pub last: i8,
    /// From one key to the next.
    pub step: i8,
}
