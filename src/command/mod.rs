//! Commands: one table, one function each; knows neither sockets nor files.
//!
//! ```text
//! Args -> prepare (name, subcommand, arity) -> Command { keys, flags, run }
//!      -> run on Client | Reads | Writes    -> Reply, or Abort and its error line
//! ```
//!
//! A family of commands is a file: each command is a row in the family's `COMMANDS` and a function
//! that parses its words, does the work and writes the reply. What always holds:
//!
//! - A function is only called with words that [`prepare`] has let pass, so the arity holds.
//! - It writes one whole reply (SHUTDOWN alone writes none), or returns an [`Abort`]; then the
//!   caller rewinds the reply to where it began and writes [`Abort::error_line`].
//! - What a `Read` does can be done again: it changes nothing but the reply. A `Scan` changes no key.
//! - A `Write` finds out whether its request is at fault before it changes anything.

mod access;
mod acl;
mod backup;
mod bitfield;
mod bits;
mod client;
mod connection;
mod counter;
mod debug;
mod dump;
mod errors;
mod expire;
mod extended;
mod gather;
mod glob;
mod help;
mod introspection;
mod key_use;
mod keys;
mod latency;
mod lcs;
mod lookup;
mod memory;
mod numbering;
mod numbers;
mod operations;
mod options;
mod ordered;
mod rdb;
mod scripts;
mod server;
mod slowlog;
mod string;
mod syntax;
mod table;
mod transaction;

#[cfg(test)]
mod testing;

pub use crate::clock::now_ms;
pub use access::{Abort, Client, Entry, Outcome, Reads, Way, Writes};
pub use client::{ClientFilter, Replies};
pub use glob::{matches, matches_nocase};
pub use latency::{Latency, LatencyEvent};
pub use lookup::lookup;
pub use memory::MemoryUse;
pub use numbering::{Numbers, numbered};
pub use slowlog::SlowEntry;
pub use table::{
    Command, Flags, Group, commands, is_cross_protocol, keys_of, prepare, replies_with_value,
};
pub use transaction::is_queued;

use crate::protocol::{Args, Reply};

/// The version of Redis whose behaviour clients may expect: some of them choose their commands by it.
pub const REDIS_VERSION: &str = "7.0.15";

/// How a command runs, and by that where: on the event loop, as a read, or on the writer.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// Touches no key: answered on the event loop.
    Local(fn(&mut dyn Client, Args<'_>, &mut Reply<'_>) -> Outcome),
    /// Reads a few named keys: tried on the loop, finished by a read worker when not in memory.
    Read(fn(&dyn Reads, Args<'_>, &mut Reply<'_>) -> Outcome),
    /// Walks many keys, or takes long: always on a read worker, and the connection waits for it.
    Scan(fn(&dyn Reads, Args<'_>, &mut Reply<'_>) -> Outcome),
    /// Changes keys, or decides by what they hold whether to: on the writer, in order.
    Write(fn(&mut dyn Writes, Args<'_>, &mut Reply<'_>) -> Outcome),
    /// Is about the connection's transaction: what is done is the session's affair.
    Session(Step),
}

/// A step of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It begins.
    Multi,
    /// It runs.
    Exec,
    /// It ends without having run.
    Discard,
    /// It will not run if these keys are changed before.
    Watch,
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

impl Keys {
    /// No word is a key.
    pub const NONE: Keys = Keys { first: 0, last: 0, step: 0 };
}
