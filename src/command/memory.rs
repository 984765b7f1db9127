//! MEMORY: what keys and the process take.

use super::errors::SYNTAX;
use super::introspection::container_help;
use super::numbers::integer;
use super::{Client, Command, Flags, Group, Outcome, Reads, Run};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Server, "memory", -2, Run::Local(container_help))
        .subcommands(SUBCOMMANDS)
        .help("MEMORY subcommand", "What keys and the process take; see MEMORY HELP")];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "memory|usage", -3, Run::Read(usage)).keys(2, 2, 1).help(
        "MEMORY USAGE key [SAMPLES count]",
        "About how many bytes a key takes: its record on the disk, and its share of the index",
    ),
    Command::new(Group::Server, "memory|stats", 2, Run::Local(stats))
        .help("MEMORY STATS", "What the process takes"),
    Command::new(Group::Server, "memory|doctor", 2, Run::Local(doctor))
        .help("MEMORY DOCTOR", "Where to look"),
    Command::new(Group::Server, "memory|purge", 2, Run::Local(purge))
        .help("MEMORY PURGE", "Does nothing: the allocator gives back what it can by itself"),
    Command::new(Group::Server, "memory|malloc-stats", 2, Run::Local(malloc_stats))
        .help("MEMORY MALLOC-STATS", "The allocator tells nothing"),
    Command::new(Group::Server, "memory|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("MEMORY HELP", "Lists these subcommands"),
];

/// What a record takes beside key and value, and a key in the index beside itself: some 25 bytes
/// each, both rounded up.
const OVERHEAD: usize = 56;

/// What the process takes, in bytes, and how many keys there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryUse {
    /// Memory that is no file's.
    pub own: u64,
    /// The most memory that was in use.
    pub peak: u64,
    /// The index.
    pub index: u64,
    /// Keys of all databases.
    pub keys: u64,
    /// The live records on the disk.
    pub live: u64,
}

fn usage(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut words = args.iter().skip(3);
    while let Some(option) = words.next() {
        let count = words.next().filter(|_| option.eq_ignore_ascii_case(b"samples"));
        // Values have no parts to take samples of.
        if integer(count.ok_or(SYNTAX)?)? < 0 {
            return Err(SYNTAX.into());
        }
    }
    let key = &args[2];
    match db.get(key)? {
        Some(entry) => reply.integer((key.len() * 2 + entry.value.len() + OVERHEAD) as i64),
        None => reply.null(),
    }
    Ok(())
}

fn stats(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let MemoryUse { own, peak, index, keys, live } = client.memory();
    let share = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    let counts: [(&str, u64); 11] = [
        ("peak.allocated", peak),
        ("total.allocated", own),
        ("startup.allocated", 0),
        ("replication.backlog", 0),
        ("clients.slaves", 0),
        ("clients.normal", 0),
        ("aof.buffer", 0),
        ("overhead.total", index),
        ("keys.count", keys),
        ("keys.bytes-per-key", index.checked_div(keys).unwrap_or(0)),
        ("dataset.bytes", live),
    ];
    reply.map(counts.len() + 2);
    for (name, value) in counts {
        reply.bulk(name.as_bytes());
        reply.integer(value as i64);
    }
    for (name, value) in
        [("dataset.percentage", share(live, live + index)), ("peak.percentage", share(own, peak))]
    {
        reply.bulk(name.as_bytes());
        reply.double(value);
    }
    Ok(())
}

fn doctor(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.verbatim(
        "Values are on the disk; the index holds every key in memory: see index_bytes in INFO \
         memory, and bound it with maxmemory. used_memory beyond that is buffers of clients.",
    );
    Ok(())
}

fn purge(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.ok();
    Ok(())
}

fn malloc_stats(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.verbatim("Stats not supported for the current allocator");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn a_key_takes_what_it_holds_and_a_little() {
        transcript(&[
            ("memory usage a", "$-1"),
            ("set a 12345", "+OK"),
            ("memory usage a", ":63"),
            ("memory usage a samples 5", ":63"),
            ("memory usage a samples -1", "-ERR syntax error"),
            ("memory usage a samples x", "-ERR value is not an integer or out of range"),
            ("memory usage a samples", "-ERR syntax error"),
            ("memory usage a foo 1", "-ERR syntax error"),
            ("memory purge", "+OK"),
            ("memory usage", "-ERR wrong number of arguments for 'memory|usage' command"),
        ]);
    }
}
