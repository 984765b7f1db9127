//! What is asked of a server by its operators and by tests: how it is replicated (not at all), whether
//! writes are safe, a compaction, and DEBUG.

use std::time::Duration;

use super::client::timeout;
use super::dump::{encoding_of, references_to};
use super::errors::{NO_SUCH_KEY, SYNTAX, wrong_words};
use super::introspection::container_help;
use super::numbers::{integer, small_integer};
use super::{Client, Command, Flags, Group, Outcome, Reads, Run, rdb};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);
const OPERATION: Flags = Flags::ADMIN.and(Flags::NOSCRIPT);
const DEBUG: Flags = OPERATION.and(ALWAYS).and(Flags::PROTECTED);

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Server, "role", 1, Run::Local(role))
        .flags(ALWAYS.and(Flags::NOSCRIPT).and(Flags::FAST))
        .help("ROLE", "Replies that it is a master, without replicas"),
    Command::new(Group::Server, "replicaof", 3, Run::Local(replicaof))
        .flags(OPERATION.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING))
        .help("REPLICAOF NO ONE", "Does nothing: it is no replica, nor can it become one"),
    Command::new(Group::Server, "slaveof", 3, Run::Local(replicaof))
        .flags(OPERATION.and(Flags::STALE).and(Flags::NO_ASYNC_LOADING))
        .help("SLAVEOF NO ONE", "As REPLICAOF"),
    Command::new(Group::Generic, "wait", 3, Run::Local(wait))
        .flags(Flags::NOSCRIPT)
        .help("WAIT replicas milliseconds", "Replies with 0 at once: there are no replicas"),
    Command::new(Group::Generic, "waitaof", 4, Run::Local(waitaof)).flags(Flags::NOSCRIPT).help(
        "WAITAOF local replicas milliseconds",
        "Whether its writes are on the disk (1 with fsync always), and on replicas (0)",
    ),
    Command::new(Group::Server, "bgrewriteaof", 1, Run::Local(bgrewriteaof))
        .flags(OPERATION.and(Flags::NO_ASYNC_LOADING))
        .help("BGREWRITEAOF", "Starts a compaction of the whole store"),
    Command::new(Group::Cluster, "readonly", 1, Run::Local(no_cluster))
        .flags(ALWAYS.and(Flags::FAST))
        .help("READONLY", "Refused: this is no cluster"),
    Command::new(Group::Cluster, "readwrite", 1, Run::Local(no_cluster))
        .flags(ALWAYS.and(Flags::FAST))
        .help("READWRITE", "Refused: this is no cluster"),
    Command::new(Group::Server, "debug", -2, Run::Local(no_such_debug))
        .flags(DEBUG)
        .subcommands(SUBCOMMANDS)
        .help("DEBUG subcommand", "For tests, where enable-debug-command allows it"),
];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "debug|sleep", 3, Run::Scan(sleep))
        .flags(DEBUG)
        .help("DEBUG SLEEP seconds", "Holds this connection up for so long, not the others"),
    Command::new(Group::Server, "debug|set-active-expire", 3, Run::Local(set_active_expire))
        .flags(DEBUG)
        .help(
            "DEBUG SET-ACTIVE-EXPIRE 0 | 1",
            "Whether expired keys are removed in the background",
        ),
    Command::new(Group::Server, "debug|object", 3, Run::Read(object)).flags(DEBUG).help(
        "DEBUG OBJECT key",
        "How Redis would keep the value if it were SET, and the length of its serialised form",
    ),
    Command::new(Group::Server, "debug|help", 2, Run::Local(container_help))
        .flags(DEBUG)
        .help("DEBUG HELP", "Lists these subcommands"),
];

fn role(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(0);
    reply.array(0);
    Ok(())
}

fn replicaof(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args[1].eq_ignore_ascii_case(b"no") && args[2].eq_ignore_ascii_case(b"one") {
        reply.ok();
        return Ok(());
    }
    match integer(&args[2]) {
        Ok(0..=65535) => Err("ERR this server cannot be a replica".into()),
        _ => Err("ERR Invalid master port".into()),
    }
}

fn wait(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    integer(&args[1])?;
    timeout(&args[2])?;
    reply.integer(0);
    Ok(())
}

fn waitaof(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !(0..=1).contains(&integer(&args[1])?) {
        return Err("ERR value is out of range, value must between 0 and 1".into());
    }
    if small_integer(&args[2])? < 0 {
        return Err("ERR value is out of range, must be positive".into());
    }
    timeout(&args[3])?;
    reply.array(2);
    reply.integer(client.writes_are_durable().into());
    reply.integer(0);
    Ok(())
}

fn bgrewriteaof(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !client.start_compaction()? {
        return Err("ERR Background append only file rewriting already in progress".into());
    }
    reply.simple("Background append only file rewriting started");
    Ok(())
}

fn no_cluster(_: &mut dyn Client, _: Args<'_>, _: &mut Reply<'_>) -> Outcome {
    Err("ERR This instance has cluster support disabled".into())
}

fn no_such_debug(_: &mut dyn Client, args: Args<'_>, _: &mut Reply<'_>) -> Outcome {
    Err(wrong_words(args))
}

/// There is no address to tell, nor a time of the last use.
fn object(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = db.get(&args[2])?.ok_or(NO_SUCH_KEY)?;
    let (encoding, references) = (encoding_of(&entry.value), references_to(&entry.value));
    reply.simple(&format!(
        "Value at:0x0 refcount:{references} encoding:{encoding} serializedlength:{} lru:0 \
         lru_seconds_idle:0",
        rdb::encoded_len(&entry.value)
    ));
    Ok(())
}

fn sleep(_: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let seconds = std::str::from_utf8(&args[2]).ok().and_then(|text| text.parse::<f64>().ok());
    // What is no number is none, as in Redis.
    let time = Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default();
    std::thread::sleep(time);
    reply.ok();
    Ok(())
}

fn set_active_expire(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match &args[2] {
        b"0" => client.set_active_expiry(false),
        b"1" => client.set_active_expiry(true),
        _ => return Err(SYNTAX.into()),
    }
    reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn there_are_no_replicas() {
        transcript(&[
            ("role", "*3 $6 master :0 *0"),
            ("replicaof no one", "+OK"),
            ("SLAVEOF NO ONE", "+OK"),
            ("replicaof a b", "-ERR Invalid master port"),
            ("wait 0 0", ":0"),
            ("wait a 1", "-ERR value is not an integer or out of range"),
            ("wait 1 -1", "-ERR timeout is negative"),
            ("wait 1 a", "-ERR timeout is not an integer or out of range"),
            ("waitaof 1 0 10", "*2 :1 :0"),
            ("waitaof 2 0 10", "-ERR value is out of range, value must between 0 and 1"),
            ("readonly", "-ERR This instance has cluster support disabled"),
            ("bgrewriteaof", "+Background append only file rewriting started"),
            ("debug sleep 0", "+OK"),
            ("debug set-active-expire 1", "+OK"),
            ("debug object a", "-ERR no such key"),
            ("set a 300", "+OK"),
            (
                "debug object a",
                "+Value at:0x0 refcount:2147483647 encoding:int serializedlength:3 lru:0 \
                 lru_seconds_idle:0",
            ),
            (
                "debug sleep",
                "-ERR unknown subcommand or wrong number of arguments for 'sleep'. Try DEBUG HELP.",
            ),
            (
                "debug jmap x",
                "-ERR unknown subcommand or wrong number of arguments for 'jmap'. Try DEBUG HELP.",
            ),
        ]);
    }
}
