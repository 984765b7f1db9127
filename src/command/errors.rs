//! The error lines that more than one command answers with, in Redis 7's words: clients match on
//! them.

use std::borrow::Cow;

use super::Abort;

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(super) const NO_SUCH_KEY: &str = "ERR no such key";
pub(super) const NO_SUCH_DATABASE: &str = "ERR DB index is out of range";
pub(super) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

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
