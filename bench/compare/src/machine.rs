//! What figures are worth nothing without: the machine, the versions, the day.

use std::path::Path;
use std::process::Command;

/// A line of Markdown list items about the machine and the file system of `dir`.
pub fn describe(dir: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "- {}, {cores} cores ({}), Linux {}, {} on {}\n- {}, load before the run {load}\n",
        date(),
        cpu(),
        read("/proc/sys/kernel/osrelease").trim(),
        "directories",
        file_system(dir),
        memory(),
    )
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The day in UTC.
pub fn date() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map_or_else(|_| "?".into(), |out| String::from_utf8_lossy(&out.stdout).trim().into())
}

fn cpu() -> String {
    let info = read("/proc/cpuinfo");
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.map_or("?", |name| name.trim_start_matches([' ', '\t', ':'])).to_owned()
}

fn memory() -> String {
    let info = read("/proc/meminfo");
    let kib = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    format!("{} GiB of memory", kib.unwrap_or(0) >> 20)
}

/// The type of the file system that holds `dir`: that of the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = read("/proc/mounts");
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        dir.starts_with(point).then_some((point.len(), kind))
    });
    above.max().map_or("?", |(_, kind)| kind).to_owned()
}

/// How this program was called.
pub fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("bench/compare.sh {}", args.join(" "))
}
