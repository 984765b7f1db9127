//! LATENCY: how long commands took. Of spikes, as Redis's latency monitor tells them apart, there are
//! none to tell of: it is as if it were never switched on.

use super::errors::refused;
use super::introspection::{by_full_name, container_help};
use super::{Client, Command, Flags, Group, Outcome, Run};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);
const OPERATION: Flags = ALWAYS.and(Flags::ADMIN).and(Flags::NOSCRIPT);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Server, "latency", -2, Run::Local(container_help))
        .subcommands(SUBCOMMANDS)
        .help("LATENCY subcommand", "How long commands took; see LATENCY HELP")];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "latency|histogram", -2, Run::Local(histogram))
        .flags(OPERATION)
        .help(
            "LATENCY HISTOGRAM [command ...]",
            "How often commands took no longer than each power of two of microseconds",
        ),
    Command::new(Group::Server, "latency|latest", 2, Run::Local(nothing))
        .flags(OPERATION)
        .help("LATENCY LATEST", "Nothing: spikes are not told apart"),
    Command::new(Group::Server, "latency|history", 3, Run::Local(nothing))
        .flags(OPERATION)
        .help("LATENCY HISTORY event", "Nothing: spikes are not told apart"),
    Command::new(Group::Server, "latency|graph", 3, Run::Local(graph))
        .flags(OPERATION)
        .help("LATENCY GRAPH event", "Refused: spikes are not told apart"),
    Command::new(Group::Server, "latency|reset", -2, Run::Local(reset))
        .flags(OPERATION)
        .help("LATENCY RESET [event ...]", "Replies with 0: spikes are not told apart"),
    Command::new(Group::Server, "latency|doctor", 2, Run::Local(doctor))
        .flags(OPERATION)
        .help("LATENCY DOCTOR", "Where to look instead"),
    Command::new(Group::Server, "latency|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("LATENCY HELP", "Lists these subcommands"),
];

/// How long a command took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// The command's name.
    pub name: &'static str,
    /// How often it was called.
    pub calls: u64,
    /// How often it took at most so many microseconds.
    pub cumulative: Vec<(u64, u64)>,
}

fn histogram(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut latencies = client.latencies();
    if args.len() > 2 {
        // A container stands for all its subcommands, and what is unknown for nothing.
        let wanted: Vec<&str> =
            args.iter().skip(2).filter_map(by_full_name).map(|command| command.name).collect();
        latencies.retain(|row| {
            let container = row.name.split('|').next().unwrap_or_default();
            wanted.iter().any(|name| *name == row.name || *name == container)
        });
    }
    reply.map(latencies.len());
    for row in latencies {
        reply.bulk(row.name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(row.calls as i64);
        reply.bulk(b"histogram_usec");
        reply.map(row.cumulative.len());
        for (micros, count) in row.cumulative {
            reply.integer(micros as i64);
            reply.integer(count as i64);
        }
    }
    Ok(())
}

fn nothing(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(0);
    Ok(())
}

fn graph(_: &mut dyn Client, args: Args<'_>, _: &mut Reply<'_>) -> Outcome {
    let event = String::from_utf8_lossy(&args[2]);
    Err(refused(format!("ERR No samples available for event '{event}'")))
}

fn reset(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(0);
    Ok(())
}

fn doctor(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.verbatim(
        "Spikes of latency are not told apart here. LATENCY HISTOGRAM has how long each command \
         took, SLOWLOG GET the slowest ones, and INFO kvs how large the group commits are.",
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn histograms_are_chosen_by_name() {
        let config = "$10 config|get *4 $5 calls :3 $14 histogram_usec *4 :1 :2 :33 :3";
        let get = "$3 get *4 $5 calls :0 $14 histogram_usec *0";
        transcript(&[
            ("latency histogram", &format!("*4 {config} {get}")),
            ("latency histogram config nosuch", &format!("*2 {config}")),
            ("latency histogram CONFIG|GET", &format!("*2 {config}")),
            ("latency histogram get config|set", &format!("*2 {get}")),
            ("latency histogram nosuch", "*0"),
            ("latency latest", "*0"),
            ("latency history x", "*0"),
            ("latency reset a b", ":0"),
            ("latency graph x", "-ERR No samples available for event 'x'"),
        ]);
    }
}
