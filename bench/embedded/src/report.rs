//! The table: a row per figure, a column per engine, and kvs beside the best of its peers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use crate::Flags;
use crate::engines::FLOOR;

/// By size of values and name of the figure, then by engine: one value per round.
pub type Figures = BTreeMap<(usize, String), BTreeMap<String, Vec<f64>>>;

/// A figure that is shown.
struct Shown {
    name: &'static str,
    title: &'static str,
    /// Digits after the point.
    digits: usize,
    bar: Bar,
}

/// What kvs is held to.
enum Bar {
    /// At least so many times the best peer.
    BestPeer(f64),
    /// At least so many times LMDB.
    Lmdb(f64),
    /// At most this.
    AtMost(f64),
    None,
}

const SHOWN: [Shown; 11] = [
    shown("puts-1", "durable puts per s, 1 thread", 0, Bar::BestPeer(1.3)),
    shown("puts-16", "durable puts per s, 16 threads", 0, Bar::BestPeer(2.0)),
    shown("puts-64", "durable puts per s, 64 threads", 0, Bar::BestPeer(2.0)),
    shown("load", "load without fsync, keys per s in batches of 100", 0, Bar::BestPeer(1.0)),
    shown("overwrites", "overwrites without fsync per s, one at a time", 0, Bar::BestPeer(1.0)),
    shown("gets", "random gets per s, 2 threads", 0, Bar::Lmdb(2.0)),
    shown("gets-batched", "the same, 100 in a transaction", 0, Bar::Lmdb(2.0)),
    shown("close", "clean close, s", 3, Bar::None),
    shown("open", "reopen after it, s per million keys", 3, Bar::AtMost(0.3)),
    // Beyond the key itself, which neither index of kvs holds a copy of.
    shown("memory", "memory once open, bytes per key", 1, Bar::AtMost(64.0)),
    shown("space", "disk over live data after the overwrites", 2, Bar::None),
];

const fn shown(name: &'static str, title: &'static str, digits: usize, bar: Bar) -> Shown {
    Shown { name, title, digits, bar }
}

/// Where and when.
pub fn header(flags: &Flags, dir: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let cpu = info.lines().find_map(|line| line.strip_prefix("model name"));
    let cpu = cpu.map_or("?", |name| name.trim_start_matches([' ', '\t', ':']));
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let date =
        date.map_or_else(|_| "?".into(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
    let disk = Command::new("stat").args(["-f", "-c", "%T"]).arg(dir).output();
    let disk =
        disk.map_or_else(|_| "?".into(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "- {}, {cores} cores ({cpu}), Linux {}, stores on {}\n- load before the run {}\n\
         - `bench/embedded.sh {}`: {} keys of 16 bytes, medians of {} rounds\n",
        date.trim(),
        read("/proc/sys/kernel/osrelease").trim(),
        disk.trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or("?"),
        args.join(" "),
        flags.keys,
        flags.rounds,
    )
}

pub fn markdown(engines: &[&str], figures: &Figures) -> String {
    let mut text = format!("| what | {} | kvs/best peer | bar |\n", engines.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(engines.len() + 3));
    let mut sizes: Vec<usize> = figures.keys().map(|(size, _)| *size).collect();
    sizes.dedup();
    for size in sizes {
        for shown in &SHOWN {
            let Some(of) = figures.get(&(size, shown.name.to_owned())) else { continue };
            let _ = write!(text, "| {size} B: {} |", shown.title);
            for engine in engines {
                match of.get(*engine) {
                    Some(values) => {
                        let _ = write!(text, " {:.*} |", shown.digits, median(values));
                    }
                    None => text.push_str(" - |"),
                }
            }
            let _ = writeln!(text, " {} |", verdict(shown, of));
        }
    }
    text
}

/// The ratio and whether it meets its bar.
fn verdict(shown: &Shown, of: &BTreeMap<String, Vec<f64>>) -> String {
    let met = |yes| if yes { "met" } else { "**not met**" };
    let Some(mine) = of.get("kvs").map(|values| median(values)) else { return "- | -".into() };
    // What sled calls durable is not (bench/README.md).
    let weaker = |name: &str| name == "sled" && shown.name.starts_with("puts");
    let ours = |name: &str| name.starts_with("kvs") || name == FLOOR;
    let peers = || of.iter().filter(|(name, _)| !ours(name) && !weaker(name));
    let medians = || peers().map(|(_, values)| median(values));
    let highest = medians().fold(f64::NAN, f64::max);
    let ratio = |other: f64| if other > 0.0 { format!("{:.2}", mine / other) } else { "-".into() };
    match shown.bar {
        Bar::BestPeer(bar) => format!("{} | {bar} {}", ratio(highest), met(mine / highest >= bar)),
        Bar::Lmdb(bar) => match of.get("lmdb").map(|values| median(values)) {
            Some(lmdb) => format!(
                "{} | {bar} of LMDB: {:.2} {}",
                ratio(highest),
                mine / lmdb,
                met(mine / lmdb >= bar)
            ),
            None => format!("{} | -", ratio(highest)),
        },
        Bar::AtMost(bar) => {
            let lowest = medians().fold(f64::NAN, f64::min);
            format!("{} | at most {bar} {}", ratio(lowest), met(mine <= bar))
        }
        Bar::None => format!("{} | -", ratio(medians().fold(f64::NAN, f64::min))),
    }
}

/// The middle one, or the mean of the middle two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
