//! The server's settings: defaults, overlaid by a file, overlaid by flags, checked once.
//!
//! The file has a setting a line, its name and its value, as in `fsync everysec`; `#` begins a
//! comment. The names are those of the flags, or Redis's. Some settings may be changed later, by
//! CONFIG SET: those are in `live.rs`, the table of names in `parameters.rs`.

mod file;
mod live;
mod parameters;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

pub use live::{Live, Number, OutputBound};
pub use parameters::{DebugCommand, get_all, set_all};

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
    const ALL: [Fsync; 3] = [Fsync::Always, Fsync::EverySec, Fsync::No];

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
        Fsync::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
            KvsError::Invalid(format!("fsync is always, everysec or no, not '{name}'"))
        })
    }
}

/// The smallest segment size.
pub const MIN_SEGMENT: u64 = 4 * 1024;
/// The largest segment size.
pub const MAX_SEGMENT: u64 = 4 * 1024 * 1024 * 1024;

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

    /// The one of this name.
    pub fn named(name: &str) -> Option<EngineKind> {
        [EngineKind::Kvs, EngineKind::Memory].into_iter().find(|kind| kind.name() == name)
    }
}

/// Settings that may be given or not, by flags or by a file.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `addr`
    pub addr: Option<String>,
    /// `bind`, a part of `addr`
    pub bind: Option<String>,
    /// `port`, the other part
    pub port: Option<String>,
    /// `engine`
    pub engine: Option<String>,
    /// `dir`
    pub dir: Option<PathBuf>,
    /// `backup-dir`
    pub backup_dir: Option<PathBuf>,
    /// `scrub-rate`
    pub scrub_rate: Option<String>,
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
    /// `spin`
    pub spin: Option<String>,
    /// `index`
    pub index: Option<String>,
    /// `enable-debug-command`
    pub debug_command: Option<String>,
    /// Names and values of settings that may change later. The last one of a name holds.
    pub live: Vec<(String, String)>,
    /// The file that settings were read from.
    pub file: Option<PathBuf>,
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
    /// Where backups go.
    pub backup_dir: PathBuf,
    /// How many bytes a second are read in the background to find damage; 0: none.
    pub scrub_rate: u64,
    /// When writes are made durable, to begin with.
    pub fsync: Fsync,
    /// The size that segments are closed at, in bytes.
    pub segment_bytes: u64,
    /// Event loops.
    pub loops: usize,
    /// Read workers.
    pub readers: usize,
    /// Whether a loop answers reads of what is in memory by itself; else every read is a worker's.
    pub loop_reads: bool,
    /// Whether a loop that is busy looks for more to do before it sleeps.
    pub spin: bool,
    /// Whether keys are kept in order.
    pub ordered: bool,
    /// Who may use DEBUG.
    pub debug_command: DebugCommand,
    /// What may change while the server runs; copies of a configuration share it.
    pub live: Arc<Live>,
    /// The file that CONFIG REWRITE writes to.
    pub file: Option<PathBuf>,
}

impl Settings {
    /// The settings in a file.
    pub fn from_file(path: &Path) -> Result<Settings> {
        let text = std::fs::read_to_string(path)
            .map_err(KvsError::io(format!("read the configuration {}", path.display())))?;
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut settings = Settings { file: Some(path.clone()), ..Settings::default() };
        for (i, line) in text.lines().enumerate() {
            let read = file::parse_line(line).and_then(|pair| match pair {
                Some((name, value)) => settings.put(&name, value),
                None => Ok(()),
            });
            read.map_err(|error| {
                KvsError::Invalid(format!("{}, line {}: {error}", path.display(), i + 1))
            })?;
        }
        Ok(settings)
    }

    /// Sets what has this name, a flag's or Redis's. Only some values are checked here.
    pub fn put(&mut self, name: &str, value: String) -> Result<()> {
        let place = match name {
            "addr" => &mut self.addr,
            "bind" => &mut self.bind,
            "port" => &mut self.port,
            "engine" => &mut self.engine,
            "dir" | "backup-dir" => {
                let place = if name == "dir" { &mut self.dir } else { &mut self.backup_dir };
                *place = Some(value.into());
                return Ok(());
            }
            "fsync" | "appendfsync" => &mut self.fsync,
            "segment-bytes" => &mut self.segment_bytes,
            "scrub-rate" => &mut self.scrub_rate,
            "loops" => &mut self.loops,
            "readers" => &mut self.readers,
            "loop-reads" => &mut self.loop_reads,
            "spin" => &mut self.spin,
            "index" => &mut self.index,
            "enable-debug-command" => &mut self.debug_command,
            "output-limit" => {
                let bytes = number("output-limit", Some(value), 0, 4096..=1 << 40)?;
                let name = "client-output-buffer-limit".to_owned();
                self.live.push((name, format!("normal {bytes} 0 0")));
                return Ok(());
            }
            _ => return self.put_live(name, value),
        };
        if value.is_empty() {
            return Err(KvsError::Invalid(format!("'{name}' has no value")));
        }
        *place = Some(value);
        Ok(())
    }

    fn put_live(&mut self, name: &str, value: String) -> Result<()> {
        let Some(parameter) = parameters::find(name) else {
            return Err(KvsError::Invalid(format!("there is no setting '{name}'")));
        };
        let invalid = |why: String| KvsError::Invalid(format!("{name}: {why}"));
        if parameter.is_live() {
            parameter.check(&value).map_err(invalid)?;
            self.live.push((parameter.name.to_owned(), value));
        } else {
            // Of those that are chosen at the start, what is left has no choice.
            let only = parameter.get(&Settings::default().check()?);
            if value != only {
                return Err(invalid(format!("it is always {only}")));
            }
        }
        Ok(())
    }

    /// These settings, and those of `below` where these say nothing.
    pub fn over(self, below: Settings) -> Settings {
        let mut live = below.live;
        live.extend(self.live);
        let (bind, port) = match &self.addr {
            Some(_) => (None, None),
            None => (self.bind.or(below.bind), self.port.or(below.port)),
        };
        Settings {
            addr: self.addr.or(below.addr),
            bind,
            port,
            engine: self.engine.or(below.engine),
            dir: self.dir.or(below.dir),
            backup_dir: self.backup_dir.or(below.backup_dir),
            fsync: self.fsync.or(below.fsync),
            segment_bytes: self.segment_bytes.or(below.segment_bytes),
            scrub_rate: self.scrub_rate.or(below.scrub_rate),
            loops: self.loops.or(below.loops),
            readers: self.readers.or(below.readers),
            loop_reads: self.loop_reads.or(below.loop_reads),
            spin: self.spin.or(below.spin),
            index: self.index.or(below.index),
            debug_command: self.debug_command.or(below.debug_command),
            live,
            file: self.file.or(below.file),
        }
    }

    /// Checks everything and fills in the defaults.
    pub fn check(self) -> Result<Config> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let dir = self.dir.clone().unwrap_or_else(|| ".".into());
        let live = Live::default();
        for (name, value) in &self.live {
            let invalid = |why: String| KvsError::Invalid(format!("{name}: {why}"));
            let parameter = parameters::find(name)
                .ok_or_else(|| invalid("there is no such setting".to_owned()))?;
            parameter.apply(&parameter.check(value).map_err(invalid)?, &live);
        }
        let fsync = self.fsync.as_deref().map_or(Ok(Fsync::default()), str::parse)?;
        live.set_fsync(fsync);
        Ok(Config {
            addr: self.addr()?,
            engine: engine(self.engine.as_deref())?,
            backup_dir: self.backup_dir.unwrap_or_else(|| dir.join("backups")),
            dir,
            fsync,
            segment_bytes: number(
                "segment-bytes",
                self.segment_bytes,
                64 << 20,
                MIN_SEGMENT..=MAX_SEGMENT,
            )?,
            scrub_rate: number("scrub-rate", self.scrub_rate, 4 << 20, 0..=1 << 40)?,
            // One loop feeds two cores: the other threads are the writer and the readers.
            loops: number("loops", self.loops, (cores as u64 / 2).max(1), 1..=256)? as usize,
            readers: number("readers", self.readers, cores as u64 * 2, 1..=256)? as usize,
            loop_reads: yes_or_no("loop-reads", self.loop_reads.as_deref(), true)?,
            spin: yes_or_no("spin", self.spin.as_deref(), true)?,
            ordered: ordered(self.index.as_deref())?,
            debug_command: debug_command(self.debug_command.as_deref())?,
            live: Arc::new(live),
            file: self.file,
        })
    }

    fn addr(&self) -> Result<SocketAddr> {
        let addr = self.addr.as_deref().unwrap_or("127.0.0.1:4000");
        let mut addr: SocketAddr = addr.parse().map_err(|_| {
            KvsError::Invalid(format!("addr is IP:PORT, as in 127.0.0.1:4000, not '{addr}'"))
        })?;
        if let Some(ip) = &self.bind {
            let parsed = ip.parse::<IpAddr>();
            addr.set_ip(parsed.map_err(|_| {
                KvsError::Invalid(format!("bind is one IP address, as in 127.0.0.1, not '{ip}'"))
            })?);
        }
        if let Some(port) = &self.port {
            let parsed = port.parse::<u16>();
            addr.set_port(parsed.map_err(|_| {
                KvsError::Invalid(format!("port is a number up to 65535, not '{port}'"))
            })?);
        }
        Ok(addr)
    }
}

fn engine(name: Option<&str>) -> Result<EngineKind> {
    let name = name.unwrap_or(EngineKind::Kvs.name());
    EngineKind::named(name)
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

fn debug_command(who: Option<&str>) -> Result<DebugCommand> {
    let Some(who) = who else { return Ok(DebugCommand::No) };
    let known = DebugCommand::ALL.into_iter().find(|choice| choice.name() == who);
    known.ok_or_else(|| {
        KvsError::Invalid(format!("enable-debug-command is yes, local or no, not '{who}'"))
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
        settings.put(name, value.to_owned())?;
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
            ("spin", "2"),
            ("index", "sorted"),
            ("log-level", "loud"),
            ("maxclients", "0"),
            ("maxmemory", "much"),
            ("output-limit", "1"),
            ("appendonly", "no"),
            ("databases", "3"),
            ("enable-debug-command", "perhaps"),
            ("port", "70000"),
            ("bind", "localhost"),
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
        let names_of_redis = "port 5\nappendfsync no\nmaxclients 7\nmaxmemory 1gb\nsave \"\"\n\
                              databases 16\nclient-output-buffer-limit normal 9 0 0\n\
                              requirepass \"a # b\"";
        std::fs::write(&file, names_of_redis).unwrap();
        let flags =
            Settings { live: vec![("maxclients".into(), "8".into())], ..Settings::default() };
        let config = flags.over(Settings::from_file(file.path()).unwrap()).check().unwrap();
        assert_eq!((config.addr.to_string().as_str(), config.fsync), ("127.0.0.1:5", Fsync::No));
        let live = &config.live;
        assert_eq!((live.max_clients.get(), live.max_memory.get()), (8, 1 << 30));
        assert_eq!(live.output_limit(), 9);
        assert!(live.has_password() && live.is_password(b"a # b"));
        std::fs::write(&file, "loops 3\nshoes 2\n").unwrap();
        let message = Settings::from_file(file.path()).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("shoes"), "{message}");
    }
}
