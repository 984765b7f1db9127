//! The error lines that more than one command answers with, in Redis 7's words: clients match on
//! them.

use std::borrow::Cow;

use super::Abort;
use crate::protocol::Args;

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(super) const NO_SUCH_KEY: &str = "ERR no such key";
pub(super) const NO_SUCH_DATABASE: &str = "ERR DB index is out of range";
pub(super) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// What `%.*s` of C prints of a word: Redis makes up its error lines with it.
pub(super) fn printed(word: &[u8], room: usize) -> &[u8] {
    let end = word.iter().position(|&byte| byte == 0).unwrap_or(word.len());
    &word[..end.min(room)]
}

/// A word as an error line repeats it.
pub(super) fn shown(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(printed(word, word.len()))
}

/// An error line that is made up on the spot.
pub(super) fn refused(line: String) -> Abort {
    Abort::Refused(Cow::Owned(line))
}

/// The words do not fit the command of this full name, as in `config|get`.
pub(super) fn wrong_arity(name: &str) -> Abort {
    refused(format!("ERR wrong number of arguments for '{name}' command"))
}

/// The expiry is not positive, or overflows.
pub(super) fn invalid_expiry(name: &str) -> Abort {
    refused(format!("ERR invalid expire time in '{name}' command"))
}

/// A subcommand that is known by its name does not take so many words; Redis tells it like one that is
/// unknown.
pub(super) fn wrong_words(args: Args<'_>) -> Abort {
    let [container, name] = [0, 1].map(|at| shown(args.get(at).unwrap_or_default()));
    let container = container.to_uppercase();
    refused(format!(
        "ERR unknown subcommand or wrong number of arguments for '{name}'. Try {container} HELP."
    ))
}
