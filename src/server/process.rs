//! What the system tells of this process: memory and processor time (Linux's /proc; zeros elsewhere),
//! and what it is asked to let the process have.
//!
//! Any thread; reads small files that the kernel makes up, and waits for no disk.

use std::fs::read_to_string;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files and sockets the process may have open.
pub fn descriptors() -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// Has the system allow the process as many of them as it may ask for: what a shell starts has often
/// but 1,024, which ten thousand clients or a large store do not fit into. Returns how many it may have.
pub fn raise_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("raising the number of open files: {error}");
    }
    descriptors()
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// In use and no file's: heap and stacks.
    pub own: u64,
    /// In use, the mapped parts of files among it.
    pub resident: u64,
    /// The most that was in use at a time.
    pub peak: u64,
    /// What the machine has.
    pub machine: u64,
}

/// The value of `name: N kB` in bytes.
fn kilobytes(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// The memory as it is now.
pub fn memory() -> Memory {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let machine = read_to_string("/proc/meminfo").unwrap_or_default();
    Memory {
        own: kilobytes(&status, "RssAnon"),
        resident: kilobytes(&status, "VmRSS"),
        peak: kilobytes(&status, "VmHWM"),
        machine: kilobytes(&machine, "MemTotal"),
    }
}

/// Seconds of processor time: in the kernel, and beside it.
pub fn cpu() -> (f64, f64) {
    /// Of the clock that /proc counts in, on every Linux that we know of.
    const TICKS: f64 = 100.0;
    let stat = read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in brackets, which may hold anything; utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let seconds = |at: usize| {
        fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).map_or(0.0, |t| t / TICKS)
    };
    (seconds(13), seconds(12))
}

/// A size as Redis shows it to people.
pub fn human(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2}{name}", bytes as f64 / *unit as f64),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_redis_shows_them() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, (1 << 30) + (1 << 29)].map(human);
        assert_eq!(shown, ["0B", "1023B", "1.00K", "1.50K", "1.00M", "1.50G"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells_something() {
        let Memory { own, resident, peak, machine } = memory();
        assert!(own > 0 && own <= resident && resident <= peak && peak < machine);
        let spin = std::time::Instant::now();
        while spin.elapsed() < std::time::Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let (system, user) = cpu();
        assert!(system + user > 0.0);
    }
}
