//! LATENCY: how long commands took, and when they took longest: spikes are noted from
//! `latency-monitor-threshold` on. Beside `command` and `fast-command` there are no events.

use super::errors::{refused, shown};
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
    Command::new(Group::Server, "latency|latest", 2, Run::Local(latest))
        .flags(OPERATION)
        .help("LATENCY LATEST", "Of each event: its last spike and its longest"),
    Command::new(Group::Server, "latency|history", 3, Run::Local(history))
        .flags(OPERATION)
        .help("LATENCY HISTORY event", "The spikes of an event, the longest of each second"),
    Command::new(Group::Server, "latency|graph", 3, Run::Local(graph))
        .flags(OPERATION)
        .help("LATENCY GRAPH event", "The same, drawn"),
    Command::new(Group::Server, "latency|reset", -2, Run::Local(reset))
        .flags(OPERATION)
        .help("LATENCY RESET [event ...]", "Forgets the spikes of events, or of all"),
    Command::new(Group::Server, "latency|doctor", 2, Run::Local(doctor))
        .flags(OPERATION)
        .help("LATENCY DOCTOR", "What was noted, and where to look"),
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

/// What was noted of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatencyEvent {
    /// Its name.
    pub name: &'static str,
    /// Seconds since 1970, the oldest first, each with its longest spike in milliseconds.
    pub samples: Vec<(u64, u64)>,
    /// The longest ever.
    pub most: u64,
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

fn latest(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let events = client.latency_events();
    reply.array(events.len());
    for LatencyEvent { name, samples, most } in events {
        let (second, millis) = samples.last().copied().unwrap_or_default();
        reply.array(4);
        reply.bulk(name.as_bytes());
        [second, millis, most].iter().for_each(|&number| reply.integer(number as i64));
    }
    Ok(())
}

fn event(client: &dyn Client, name: &[u8]) -> Option<LatencyEvent> {
    client.latency_events().into_iter().find(|event| event.name.as_bytes() == name)
}

fn history(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let samples = event(client, &args[2]).map_or_else(Vec::new, |event| event.samples);
    reply.array(samples.len());
    for (second, millis) in samples {
        reply.array(2);
        reply.integer(second as i64);
        reply.integer(millis as i64);
    }
    Ok(())
}

/// A line for each second.
fn graph(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    const WIDTH: usize = 40;
    let Some(event) = event(client, &args[2]) else {
        let event = shown(&args[2]);
        return Err(refused(format!("ERR No samples available for event '{event}'")));
    };
    let most = event.samples.iter().map(|(_, millis)| *millis).max().unwrap_or(0).max(1);
    let mut text = format!("{}: {} ms at most\n", event.name, event.most);
    for (second, millis) in event.samples {
        let bar = "#".repeat((millis as f64 / most as f64 * WIDTH as f64).ceil() as usize);
        text += &format!("{second} {bar:WIDTH$} {millis} ms\n");
    }
    reply.verbatim(&text);
    Ok(())
}

fn reset(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let forgotten = match args.len() {
        2 => client.forget_latency(None),
        _ => args.iter().skip(2).map(|event| client.forget_latency(Some(event))).sum(),
    };
    reply.integer(forgotten as i64);
    Ok(())
}

fn doctor(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut text = String::new();
    for LatencyEvent { name, samples, most } in client.latency_events() {
        let sum: u64 = samples.iter().map(|(_, millis)| millis).sum();
        let mean = sum.checked_div(samples.len() as u64).unwrap_or(0);
        text += &format!(
            "{name}: {} spikes, {mean} ms on average, {most} ms at most.\n",
            samples.len()
        );
    }
    text += "A command that takes latency-monitor-threshold milliseconds is a spike; with 0 none is. \
             LATENCY HISTOGRAM has how long each command took, SLOWLOG GET the slowest ones, and INFO \
             kvs how large the group commits are.\n";
    reply.verbatim(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};

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
        ]);
    }

    #[test]
    fn spikes_are_told_by_event() {
        transcript(&[
            ("latency latest", "*1 *4 $7 command :1001 :30 :90"),
            ("latency history command", "*2 *2 :1000 :60 *2 :1001 :30"),
            ("latency history COMMAND", "*0"),
            ("latency graph x", "-ERR No samples available for event 'x'"),
            ("latency reset x", ":0"),
            ("latency reset Command command", ":1"),
            ("latency latest", "*0"),
            ("latency reset", ":0"),
        ]);
        let mut session = Session::default();
        let graph = session.run("latency graph command");
        let bars: Vec<usize> = graph.lines().map(|line| line.matches('#').count()).collect();
        assert_eq!(bars, [0, 0, 40, 20, 0], "{graph}");
        let doctor = session.run("latency doctor");
        assert!(doctor.contains("command: 2 spikes, 45 ms on average, 90 ms at most."), "{doctor}");
    }
}
