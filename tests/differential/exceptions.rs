//! The one list of what may differ from Redis 7.0, each with its reason. All else must be the same
//! bytes; so must be the errors of commands that are in the first list.

use kvs::command::{Command, lookup};
use kvs::protocol::Value;

use super::peers::{Request, value};

/// How two replies are compared that need not be the same bytes. An error on either side is
/// compared byte for byte all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It says something, on both sides.
    AnyReply,
    /// The same elements, in any order.
    AnyOrder,
    /// The same keys in any order, where the walk took one step on both sides.
    Walk,
    /// Numbers that differ by no more than this, of the same sign.
    Within(i64),
}

/// How long the two servers' runs may lie apart, in seconds: machines may be busy.
const APART: i64 = 120;

/// What is asked, but not compared to the letter.
pub const LOOSELY: &[(&str, How, &str)] = &[
    ("keys", How::AnyOrder, "Redis lists keys in the order of its hash table, kvs by byte"),
    ("scan", How::Walk, "cursors and their order are each server's own"),
    ("randomkey", How::AnyReply, "it is random"),
    ("ttl", How::Within(APART), "the two do not run at the same moment"),
    ("pttl", How::Within(APART * 1000), "the two do not run at the same moment"),
    ("expiretime", How::Within(APART), "a relative expiry counts from each server's own now"),
    (
        "pexpiretime",
        How::Within(APART * 1000),
        "a relative expiry counts from each server's own now",
    ),
    (
        "object|encoding",
        How::AnyReply,
        "Redis tells how a value came about, which kvs does not keep",
    ),
    ("object|refcount", How::AnyReply, "it follows from the encoding"),
    ("object|idletime", How::AnyReply, "kvs does not keep when a key was used"),
    ("object|help", How::AnyReply, "help is in our own words"),
    ("client|help", How::AnyReply, "help is in our own words"),
    ("slowlog|help", How::AnyReply, "help is in our own words"),
    ("latency|help", How::AnyReply, "help is in our own words"),
    ("memory|help", How::AnyReply, "help is in our own words"),
    ("acl|help", How::AnyReply, "help is in our own words"),
    ("script|help", How::AnyReply, "help is in our own words"),
    ("function|help", How::AnyReply, "help is in our own words"),
    ("latency|doctor", How::AnyReply, "its text is our own"),
    ("config|help", How::AnyReply, "help is in our own words"),
    ("command|help", How::AnyReply, "help is in our own words"),
    ("memory|usage", How::AnyReply, "what a key takes is each server's own"),
    ("client|id", How::AnyReply, "connections are numbered by each server"),
    ("command", How::AnyReply, "kvs has fewer commands"),
    ("command|count", How::AnyReply, "kvs has fewer commands"),
    ("command|list", How::AnyReply, "kvs has fewer commands"),
    (
        "command|info",
        How::AnyReply,
        "its tips and its notes on keys are left out; the rest has a test of its own",
    ),
    ("command|docs", How::AnyReply, "summaries are in our own words"),
    ("hello", How::AnyReply, "it names the server, its version and the connection's number"),
    ("time", How::AnyReply, "the two do not run at the same moment"),
];

/// What random requests leave out. The chosen ones have some of it.
pub const NOT_ASKED: &[(&str, &str)] = &[
    ("rm", "Redis has no such command"),
    ("range", "Redis has no such command"),
    ("prefix", "Redis has no such command"),
    ("delrange", "Redis has no such command"),
    ("delifeq", "Redis has no such command"),
    ("dbsize", "at the end of a round only: Redis counts a key that has ended until it meets it"),
    ("help", "Redis has no such command"),
    ("quit", "it ends the connection"),
    ("reset", "it begins each round"),
    ("shutdown", "it ends the server"),
    ("save", "what it makes is a directory, and each would be another one"),
    ("bgsave", "what it makes is a directory, and each would be another one"),
    ("lastsave", "a time is each server's own"),
    ("info", "figures are each server's own"),
    ("bgrewriteaof", "each server has work of its own to do; there is a test for it"),
    ("waitaof", "Redis 7.0 has no such command"),
    ("role", "it takes no words; chosen requests have it"),
    ("replicaof", "it might begin a replication; chosen requests have its errors"),
    ("slaveof", "it might begin a replication; chosen requests have its errors"),
    ("wait", "it might wait; chosen requests have its errors"),
    ("readonly", "it takes no words; chosen requests have it"),
    ("readwrite", "it takes no words; chosen requests have it"),
    ("acl", "there is one user; chosen requests have what that can answer"),
    ("slowlog", "figures are each server's own; chosen requests have its errors"),
    ("latency", "figures are each server's own; chosen requests have its errors"),
    (
        "config",
        "settings are each server's own; those that are alike are among the chosen requests",
    ),
];

/// Commands whose arity or flags are not those of Redis.
pub const OTHER_PROPERTIES: &[(&str, &str)] = &[
    ("save", "it takes the name of a backup, and reads what the connection wrote before"),
    ("bgsave", "it reads what the connection wrote before"),
];

/// The command that a request asks for, its subcommand where there is one.
pub fn command_of(request: &Request) -> Option<&'static Command> {
    let command = lookup(request.first()?)?;
    let sub = request.get(1).and_then(|name| command.subcommand(name));
    Some(sub.unwrap_or(command))
}

/// How replies to a request are compared; `None`: byte for byte.
pub fn how(request: &Request) -> Option<How> {
    let name = command_of(request)?.name;
    LOOSELY.iter().find(|(loose, ..)| *loose == name).map(|(_, how, _)| *how)
}

/// Whether the replies to a request are as they should be.
pub fn agree(request: &Request, ours: &[u8], redis: &[u8]) -> bool {
    if ours == redis || same_text(ours, redis) {
        return true;
    }
    let (Some(how), ours, redis) = (how(request), value(ours), value(redis)) else { return false };
    if matches!(ours, Value::Error(_)) || matches!(redis, Value::Error(_)) {
        return false;
    }
    match (how, ours, redis) {
        (How::AnyReply, ..) => true,
        (How::AnyOrder, ours, redis) => sorted(&ours) == sorted(&redis),
        (How::Walk, Value::Array(ours), Value::Array(redis)) => {
            let done = |reply: &[Value]| reply.first() == Some(&Value::Bulk(b"0".to_vec()));
            let from_start = request.get(1).is_some_and(|cursor| cursor == b"0");
            !from_start || !done(&ours) || !done(&redis) || sorted(&ours[1]) == sorted(&redis[1])
        }
        (How::Within(distance), Value::Integer(ours), Value::Integer(redis)) => {
            ours.signum() == redis.signum() && ours.abs_diff(redis) <= distance.unsigned_abs()
        }
        _ => false,
    }
}

/// Whether both are the same, but for bytes in errors that are no UTF-8: our error lines are text, in
/// JSON too, and show a replacement character for what Redis repeats as it is. So does [`Value`].
fn same_text(ours: &[u8], redis: &[u8]) -> bool {
    std::str::from_utf8(redis).is_err() && value(ours) == value(redis)
}

fn sorted(reply: &Value) -> Option<Vec<String>> {
    let Value::Array(elements) = reply else { return None };
    let mut elements: Vec<String> = elements.iter().map(|one| format!("{one:?}")).collect();
    elements.sort_unstable();
    Some(elements)
}
