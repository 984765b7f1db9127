//! The server's settings: defaults, overlaid by a file, overlaid by flags, checked once.
//!
//! The file has a setting a line, its name and its value, as in `fsync everysec`; `#` begins a
//! comment. The names are those of the flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{KvsError, Result};

/// When an acknowledged write is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// Before it is acknowledged or seen by anyone. A power cut takes nothing back.
    #[default]
    Always,
    /// At most a second later.
    EverySec,
    /// When the operating system likes. A killed process loses nothing, a power cut may.
    No,
}

impl Fsync {
    /// The name on the command line and in CONFIG.
    pub fn name(self) -> &'static str {
        match self {
            Fsync::Always => "always",
            Fsync::EverySec => "everysec",
            Fsync::No => "no",
        }
    }
}

impl FromStr for Fsync {
    type Err = KvsError;

    fn from_str(name: &str) -> Result<Fsync> {
        [Fsync::Always, Fsync::EverySec, Fsync::No]
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| {
                KvsError::Invalid(format!("fsync is always, everysec or no, not '{name}'"))
            })
    }
}

/// The smallest segment size.
pub const MIN_SEGMENT: u64 = 4 * 1024;
/// The largest segment size.
pub const MAX_SEGMENT: u64 = 16 * 1024 * 1024 * 1024;

/// Which engine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// The store of this crate.
    Kvs,
    /// Keys in memory, lost with the process.
    Memory,
}

impl EngineKind {
    /// Its name on the command line and in the directory.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Kvs => "kvs",
            EngineKind::Memory => "memory",
        }
    }
}

/// Settings that may be given or not, by flags or by a file.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `addr`
    pub addr: Option<String>,
    /// `engine`
    pub engine: Option<String>,
    /// `dir`
    pub dir: Option<PathBuf>,
    /// `fsync`
    pub fsync: Option<String>,
    /// `segment-bytes`
    pub segment_bytes: Option<String>,
    /// `loops`
    pub loops: Option<String>,
    /// `readers`
    pub readers: Option<String>,
    /// `loop-reads`
    pub loop_reads: Option<String>,
    /// `max-clients`
    pub max_clients: Option<String>,
    /// `output-limit`
    pub output_limit: Option<String>,
    /// `index`
    pub index: Option<String>,
    /// `log-level`
    pub log_level: Option<String>,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Which engine answers.
    pub engine: EngineKind,
    /// The store's directory.
    pub dir: PathBuf,
    /// When writes are made durable.
    pub fsync: Fsync,
    /// The size that segments are closed at, in bytes.
    pub segment_bytes: u64,
    /// Event loops.
    pub loops: usize,
    /// Read workers.
    pub readers: usize,
    /// Whether a loop answers reads of what is in memory by itself; else every read is a worker's.
    pub loop_reads: bool,
    /// Connections open at once.
    pub max_clients: usize,
    /// Bytes of replies that may wait for a client before it is cut off.
    pub output_limit: usize,
    /// Whether keys are kept in order.
    pub ordered: bool,
    /// What is logged.
    pub log_level: log::LevelFilter,
}

impl Settings {
    /// The settings in a file.
    pub fn from_file(path: &Path) -> Result<Settings> {
        let text = std::fs::read_to_string(path)
            .map_err(KvsError::io(format!("read the configuration {}", path.display())))?;
        let mut settings = Settings::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            settings.put(name, value.trim()).map_err(|error| {
                KvsError::Invalid(format!("{}, line {}: {error}", path.display(), i + 1))
            })?;
        }
        Ok(settings)
    }

    fn put(&mut self, name: &str, value: &str) -> Result<()> {
        if value.is_empty() {
            return Err(KvsError::Invalid(format!("'{name}' has no value")));
        }
        let place = match name {
            "addr" => &mut self.addr,
            "engine" => &mut self.engine,
            "dir" => {
                self.dir = Some(value.into());
                return Ok(());
            }
            "fsync" => &mut self.fsync,
            "segment-bytes" => &mut self.segment_bytes,
            "loops" => &mut self.loops,
            "readers" => &mut self.readers,
            "loop-reads" => &mut self.loop_reads,
            "max-clients" => &mut self.max_clients,
            "output-limit" => &mut self.output_limit,
            "index" => &mut self.index,
            "log-level" => &mut self.log_level,
            _ => return Err(KvsError::Invalid(format!("there is no setting '{name}'"))),
        };
        *place = Some(value.to_owned());
        Ok(())
    }

    /// These settings, and those of `below` where these say nothing.
    pub fn over(self, below: Settings) -> Settings {
        Settings {
            addr: self.addr.or(below.addr),
            engine: self.engine.or(below.engine),
            dir: self.dir.or(below.dir),
            fsync: self.fsync.or(below.fsync),
            segment_bytes: self.segment_bytes.or(below.segment_bytes),
            loops: self.loops.or(below.loops),
            readers: self.readers.or(below.readers),
            loop_reads: self.loop_reads.or(below.loop_reads),
            max_clients: self.max_clients.or(below.max_clients),
            output_limit: self.output_limit.or(below.output_limit),
            index: self.index.or(below.index),
            log_level: self.log_level.or(below.log_level),
        }
    }

    /// Checks everything and fills in the defaults.
    pub fn check(self) -> Result<Config> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let addr = self.addr.as_deref().unwrap_or("127.0.0.1:4000");
        Ok(Config {
            addr: addr.parse().map_err(|_| {
                KvsError::Invalid(format!("addr is IP:PORT, as in 127.0.0.1:4000, not '{addr}'"))
            })?,
            engine: engine(self.engine.as_deref())?,
            dir: self.dir.unwrap_or_else(|| ".".into()),
            fsync: self.fsync.as_deref().map_or(Ok(Fsync::default()), str::parse)?,
            segment_bytes: number(
                "segment-bytes",
                self.segment_bytes,
                64 << 20,
                MIN_SEGMENT..=MAX_SEGMENT,
            )?,
            // One loop feeds two cores: the other threads are the writer and the readers.
            loops: number("loops", self.loops, (cores as u64 / 2).max(1), 1..=256)? as usize,
            readers: number("readers", self.readers, cores as u64 * 2, 1..=256)? as usize,
            loop_reads: yes_or_no("loop-reads", self.loop_reads.as_deref(), true)?,
            max_clients: number("max-clients", self.max_clients, 10_000, 1..=1_000_000)? as usize,
            output_limit: number("output-limit", self.output_limit, 1 << 30, 4096..=1 << 40)?
                as usize,
            ordered: ordered(self.index.as_deref())?,
            log_level: log_level(self.log_level.as_deref())?,
        })
    }
}

fn engine(name: Option<&str>) -> Result<EngineKind> {
    let name = name.unwrap_or(EngineKind::Kvs.name());
    [EngineKind::Kvs, EngineKind::Memory]
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| KvsError::Invalid(format!("engine is kvs or memory, not '{name}'")))
}

fn yes_or_no(name: &str, text: Option<&str>, default: bool) -> Result<bool> {
    match text {
        None => Ok(default),
        Some("yes") => Ok(true),
        Some("no") => Ok(false),
        Some(other) => Err(KvsError::Invalid(format!("{name} is yes or no, not '{other}'"))),
    }
}

fn ordered(index: Option<&str>) -> Result<bool> {
    match index {
        None | Some("ordered") => Ok(true),
        Some("unordered") => Ok(false),
        Some(other) => {
            Err(KvsError::Invalid(format!("index is ordered or unordered, not '{other}'")))
        }
    }
}

fn log_level(level: Option<&str>) -> Result<log::LevelFilter> {
    let level = level.unwrap_or("info");
    level.parse().map_err(|_| {
        KvsError::Invalid(format!(
            "log-level is off, error, warn, info, debug or trace, not '{level}'"
        ))
    })
}

/// A number with an optional unit: k, m, g (powers of 1024).
fn number(
    name: &str,
    text: Option<String>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64> {
    let Some(text) = text else { return Ok(default) };
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, unit) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 1 << 10),
        Some(b'm') => (&lower[..lower.len() - 1], 1 << 20),
        Some(b'g') => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower, 1),
    };
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    number.filter(|n| range.contains(n)).ok_or_else(|| {
        KvsError::Invalid(format!(
            "{name} is a number from {} to {}, not '{text}'",
            range.start(),
            range.end()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Config> {
        let mut settings = Settings::default();
        settings.put(name, value)?;
        settings.check()
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = Settings::default().check().unwrap();
        assert_eq!(config.addr.to_string(), "127.0.0.1:4000");
        assert_eq!((config.engine, config.fsync), (EngineKind::Kvs, Fsync::Always));
        assert_eq!(config.dir, Path::new("."));
    }

    #[test]
    fn bad_values_are_named() {
        for (name, value) in [
            ("addr", "localhost"),
            ("engine", "rocks"),
            ("fsync", "sometimes"),
            ("segment-bytes", "12"),
            ("segment-bytes", "99999999999999999999"),
            ("loops", "0"),
            ("loops", "many"),
            ("loop-reads", "maybe"),
            ("index", "sorted"),
            ("log-level", "loud"),
            ("colour", "blue"),
        ] {
            let message = with(name, value).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
        assert_eq!(with("segment-bytes", "2mb").unwrap().segment_bytes, 2 << 20);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "# mine\naddr 127.0.0.1:1 # here\nloops 3\n\n").unwrap();
        let flags = Settings { loops: Some("2".into()), ..Settings::default() };
        let config = flags.over(Settings::from_file(file.path()).unwrap()).check().unwrap();
        assert_eq!((config.addr.port(), config.loops), (1, 2));
        std::fs::write(&file, "loops 3\nshoes 2\n").unwrap();
        let message = Settings::from_file(file.path()).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("shoes"), "{message}");
    }
}
