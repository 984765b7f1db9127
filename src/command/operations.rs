//! What is asked of a server by its operators: how it is replicated (not at all), whether writes are
//! safe, a compaction.

use super::client::timeout;
use super::numbers::{integer, small_integer};
use super::{Client, Command, Flags, Group, Outcome, Run};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);
const OPERATION: Flags = Flags::ADMIN.and(Flags::NOSCRIPT);

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
        ]);
    }
}
