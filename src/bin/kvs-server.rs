//! The server process: flags, logging, signals; the rest is `kvs::server`.

#[path = "shared/usage.rs"]
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kvs::config::{Config, Settings};
use kvs::server::{Server, StopReason, raise_descriptors};
use kvs::{KvsError, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A durable, ordered key-value server for Redis clients, netcat and kvs-client.
#[derive(Debug, Parser)]
#[command(
    name = "kvs-server",
    version,
    after_help = "Examples:
  kvs-server --dir /var/lib/kvs                 every acknowledged write survives a power cut
  kvs-server --fsync everysec --dir /tmp/cache  faster, and a power cut takes a second back
  printf 'set color blue\\r\\nget color\\r\\nquit\\r\\n' | nc 127.0.0.1 4000
  redis-cli -p 4000

Sizes take kb, mb and gb. A configuration file has a flag's name and its value on each line, as in
`fsync everysec`; # begins a comment. Redis's names (appendfsync, maxclients, port ...) do as well,
and a file may set whatever CONFIG GET * shows. CONFIG SET changes much of it at run time, CONFIG
REWRITE writes that back to the file."
)]
struct Flags {
    /// Where to listen [default: 127.0.0.1:4000]
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<String>,
    /// kvs, or memory: keys in memory only [default: kvs]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// The directory of the store [default: the current one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where SAVE and BGSAVE put backups [default: backups, in the directory of the store]
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// When an acknowledged write is on disk: always, everysec or no [default: always]
    #[arg(long, value_name = "POLICY")]
    fsync: Option<String>,
    /// The size at which a segment is closed [default: 64m]
    #[arg(long, value_name = "N")]
    segment_bytes: Option<String>,
    /// Bytes a second that are read in the background to find damage; 0: none [default: 4m]
    #[arg(long, value_name = "N")]
    scrub_rate: Option<String>,
    /// Event loops [default: half the cores]
    #[arg(long, value_name = "N")]
    loops: Option<String>,
    /// Threads that read what is not in memory [default: twice the cores]
    #[arg(long, value_name = "N")]
    readers: Option<String>,
    /// no: event loops leave all reads to those threads, even of what is in memory [default: yes]
    #[arg(long, value_name = "YES|NO")]
    loop_reads: Option<String>,
    /// no: event loops sleep at once when there is nothing to do, which takes less processor time and
    /// more of the clients' [default: yes]
    #[arg(long, value_name = "YES|NO")]
    spin: Option<String>,
    /// Connections open at once [default: 10000]
    #[arg(long, value_name = "N")]
    max_clients: Option<String>,
    /// Bytes of replies that may wait for a client before it is cut off [default: 1g]
    #[arg(long, value_name = "N")]
    output_limit: Option<String>,
    /// ordered, or unordered: less memory per key, no RANGE [default: ordered]
    #[arg(long, value_name = "KIND")]
    index: Option<String>,
    /// What clients have to log in with; rather put it into a file, as flags are seen by all
    #[arg(long, value_name = "PASSWORD")]
    requirepass: Option<String>,
    /// Seconds after which an idle connection is closed; 0: never [default: 0]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<String>,
    /// Bytes of the index above which no command may add to it; 0: no bound [default: 0]
    #[arg(long, value_name = "N")]
    maxmemory: Option<String>,
    /// Who may use DEBUG: yes (all), local (this machine) or no [default: no]
    #[arg(long, value_name = "WHO")]
    enable_debug_command: Option<String>,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "L")]
    log_level: Option<String>,
    /// A file of settings; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Flags {
    fn check(self) -> Result<Config> {
        let file = self.config.as_deref().map(Settings::from_file).transpose()?;
        let mut flags = Settings {
            addr: self.addr,
            engine: self.engine,
            dir: self.dir,
            backup_dir: self.backup_dir,
            fsync: self.fsync,
            segment_bytes: self.segment_bytes,
            scrub_rate: self.scrub_rate,
            loops: self.loops,
            readers: self.readers,
            loop_reads: self.loop_reads,
            spin: self.spin,
            index: self.index,
            debug_command: self.enable_debug_command,
            ..Settings::default()
        };
        for (name, value) in [
            ("max-clients", self.max_clients),
            ("output-limit", self.output_limit),
            ("requirepass", self.requirepass),
            ("timeout", self.timeout),
            ("maxmemory", self.maxmemory),
            ("log-level", self.log_level),
        ] {
            value.map_or(Ok(()), |value| flags.put(name, value))?;
        }
        flags.over(file.unwrap_or_default()).check()
    }
}

fn serve(config: Config) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(KvsError::io("catch signals"))?;
    let (engine, dir) = (config.engine.name(), config.dir.clone());
    let fsync = config.fsync.name();
    let (files, clients) = (raise_descriptors(), config.live.max_clients.count());
    if files < clients {
        log::warn!(
            "{files} files may be open (ulimit -n), so fewer than {clients} clients have room"
        );
    }
    let server = Server::start(config)?;
    log::info!(
        "kvs-server {}, engine {engine}, listening on {}, directory {}, fsync {fsync}",
        env!("CARGO_PKG_VERSION"),
        server.local_addr(),
        dir.display(),
    );
    let stopper = server.stopper();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let _ = stopper.try_send(StopReason::Signal(signal));
        }
    });
    server.run()
}

fn main() -> ExitCode {
    let flags: Flags = match usage::parse("kvs-server") {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    let config = match flags.check() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("kvs-server: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Everything passes the logger; what is logged is decided before, and CONFIG SET may change it.
    env_logger::Builder::new().filter_level(log::LevelFilter::Trace).format_target(false).init();
    log::set_max_level(config.live.log_level());
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvs-server: {error}");
            ExitCode::FAILURE
        }
    }
}
