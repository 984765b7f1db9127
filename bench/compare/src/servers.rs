//! The servers that are measured: started on free ports in fresh directories, stopped when dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tempfile::TempDir;

use crate::Common;
use crate::error::{Error, Result};
use crate::generator::{Keys, Load};

/// How long a server may take to answer, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for the servers to finish what they do in the background.
const SETTLE: Duration = Duration::from_secs(15);

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Kvs,
    Redis,
    /// The bare reactor of kvs: it answers without storing anything.
    Ceiling,
    Valkey,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kvs => "kvs",
            Kind::Redis => "Redis",
            Kind::Ceiling => "ceiling",
            Kind::Valkey => "Valkey",
        }
    }

    pub fn stores(self) -> bool {
        self != Kind::Ceiling
    }
}

/// When a server makes writes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    Always,
    EverySec,
}

impl Fsync {
    pub fn name(self) -> &'static str {
        match self {
            Fsync::Always => "always",
            Fsync::EverySec => "everysec",
        }
    }
}

/// Where the programs are, and where their directories go.
pub struct Place {
    kvs_server: PathBuf,
    ceiling: PathBuf,
    kvs_flags: Vec<String>,
    pub dir: PathBuf,
}

impl Place {
    /// Builds kvs if that is wanted.
    pub fn prepare(common: &Common) -> Result<Place> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => root.join("target"),
        };
        if !common.no_build {
            let mut cargo = Command::new("cargo");
            cargo.args(["build", "--release", "--bin", "kvs-server", "--example", "ceiling"]);
            let built = cargo.current_dir(&root).status().map_err(Error::doing("cargo build"))?;
            if !built.success() {
                return Err(Error::new("kvs does not build"));
            }
        }
        let dir = common.dir.clone().unwrap_or_else(|| target.join("bench"));
        std::fs::create_dir_all(&dir).map_err(Error::doing(dir.display()))?;
        Ok(Place {
            kvs_server: target.join("release/kvs-server"),
            ceiling: target.join("release/examples/ceiling"),
            kvs_flags: common.kvs_flags.split_whitespace().map(str::to_owned).collect(),
            dir,
        })
    }

    /// What `--version` says.
    pub fn version(&self, kind: Kind) -> String {
        let output = Command::new(self.program(kind)).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let text = text.unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        let version = words.iter().find_map(|word| word.strip_prefix("v="));
        version.or(words.last().copied()).unwrap_or("not installed").to_owned()
    }

    fn program(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Kvs => self.kvs_server.clone(),
            Kind::Ceiling => self.ceiling.clone(),
            Kind::Redis => "redis-server".into(),
            Kind::Valkey => "valkey-server".into(),
        }
    }

    fn command(&self, kind: Kind, port: u16, dir: &Path, set: &Setting) -> Command {
        let mut command = Command::new(self.program(kind));
        match kind {
            Kind::Kvs => {
                command.arg("--addr").arg(format!("127.0.0.1:{port}"));
                command.arg("--dir").arg(dir);
                command.args(["--fsync", set.fsync.name(), "--log-level", "warn"]);
                command.args(&self.kvs_flags);
            }
            Kind::Redis | Kind::Valkey => {
                command.arg("--port").arg(port.to_string());
                command.arg("--dir").arg(dir);
                command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
                command.args(["--appendfsync", set.fsync.name()]);
            }
            Kind::Ceiling => {
                command.arg(format!("127.0.0.1:{port}"));
                command.args(["1", &set.value_bytes.to_string()]);
            }
        }
        command
    }
}

/// What the servers of one stage have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub fsync: Fsync,
    pub value_bytes: usize,
    pub keys: u64,
}

/// A server that runs.
pub struct Server {
    pub kind: Kind,
    pub addr: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Server {
    pub fn start(place: &Place, kind: Kind, setting: &Setting) -> Result<Server> {
        let name = kind.name();
        let dir = TempDir::new_in(&place.dir).map_err(Error::doing(place.dir.display()))?;
        let log = File::create(dir.path().join("log")).map_err(Error::doing("log"))?;
        let errors = log.try_clone().map_err(Error::doing("log"))?;
        let addr = free_addr()?;
        let store = dir.path().join("store");
        std::fs::create_dir(&store).map_err(Error::doing(store.display()))?;
        let mut command = place.command(kind, addr.port(), &store, setting);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(Error::doing(format!("start {name}")))?;
        let mut server = Server { kind, addr, child, dir };
        let began = Instant::now();
        while server.ask("PING").is_err() {
            let gone = server.child.try_wait().map_err(Error::doing(name))?;
            if gone.is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(server.dir.path().join("log"));
                return Err(Error::new(format!(
                    "{name} does not answer: {}",
                    log.unwrap_or_default().trim()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Sets all keys once.
    pub fn fill(&self, setting: &Setting) -> Result<()> {
        if self.kind.stores() {
            let load = Load {
                addr: self.addr,
                clients: 50,
                pipeline: 100,
                value_bytes: setting.value_bytes,
                keys: Keys::InOrder,
                gets: 0,
                requests: setting.keys,
                duration: Duration::MAX,
                rate: None,
            };
            load.run()?;
        }
        Ok(())
    }

    /// The reply to an inline command, as it comes within a moment.
    pub fn ask(&self, command: &str) -> Result<String> {
        let failed = || Error::doing(format!("{} does not answer {command}", self.kind.name()));
        let mut stream = TcpStream::connect(self.addr).map_err(failed())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed())?;
        let mut line = format!("*1\r\n${}\r\n{command}\r\n", command.len());
        if self.kind.stores() {
            line.push_str("*1\r\n$4\r\nQUIT\r\n");
        } else {
            stream.shutdown(std::net::Shutdown::Write).ok();
            return Ok(String::new());
        }
        stream.write_all(line.as_bytes()).map_err(failed())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).map_err(failed())?;
        if reply.starts_with("-LOADING") {
            return Err(Error::new(reply));
        }
        Ok(reply)
    }

    /// Processor time that it has taken so far, all threads together.
    pub fn cpu(&self) -> Duration {
        let mut total = 0;
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        for task in tasks.into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0u64);
        }
        Duration::from_nanos(total)
    }

    /// Whether a background job is known to run.
    fn rewrites(&self) -> bool {
        matches!(self.kind, Kind::Redis | Kind::Valkey)
            && self.ask("INFO").is_ok_and(|info| info.contains("aof_rewrite_in_progress:1"))
    }
}

/// Waits until no server does anything any more, so that what one left to do in the background is
/// not charged to the next. Gives up after a while.
pub fn settle(servers: &[Server]) {
    const LOOK: Duration = Duration::from_millis(200);
    let began = Instant::now();
    let mut busy = Vec::new();
    while began.elapsed() < SETTLE {
        let before: Vec<Duration> = servers.iter().map(Server::cpu).collect();
        std::thread::sleep(LOOK);
        let works = |(server, before): &(&Server, Duration)| {
            server.cpu().saturating_sub(*before) > LOOK / 50 || server.rewrites()
        };
        busy = servers.iter().zip(before).filter(works).map(|(server, _)| server.kind).collect();
        if busy.is_empty() {
            return;
        }
    }
    eprintln!("{busy:?} did not come to rest in {SETTLE:?}");
}

fn free_addr() -> Result<SocketAddr> {
    let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::doing("a free port"))?;
    any.local_addr().map_err(Error::doing("a free port"))
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: a signal to a child that has not been waited for yet.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
