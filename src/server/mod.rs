//! The server: reactor in front, engine behind, commands in between.
//!
//! ```text
//!            sockets
//!   acceptor --------> loop-0 .. loop-N        Dispatcher: sessions decode, run commands
//!                      |  ^          ^         and gather batches, one per worker and wake
//!              batches |  | batches  | batches
//!                      v  | answered | answered
//!                  kvs-write      kvs-read-0 .. N    (engine/store.rs starts these)
//! ```
//! `main` waits for a signal, SHUTDOWN, or a loop that failed. The way of one GET that is in memory:
//! `reactor/event_loop.rs` reads the socket; `session.rs` decodes (`protocol/decoder.rs`), finds the
//! command (`command/table.rs`) and runs it (`command/string.rs`) over `native.rs` on a view
//! (`engine/view.rs`); the reply is in the connection's output. A SET goes from `session.rs` into a
//! batch (`batch.rs`) to the writer (`engine/commit.rs`, `engine/writer.rs`), and comes back as mail
//! to `dispatch.rs`, where `pipeline.rs` puts the replies in order.

mod ahead;
mod batch;
mod blocking;
mod client;
mod dispatch;
mod figures;
mod gate;
mod histogram;
mod info;
mod manners;
mod multi;
mod native;
mod outbox;
mod pause;
mod pipeline;
mod process;
mod registry;
mod session;
mod shared;
mod slowlog;
mod spikes;
mod tally;
mod transaction;
mod ways;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::config::{Config, EngineKind};
use crate::engine::fs::{Fs, OsFs};
use crate::engine::{DATABASES, KvsEngine, MemoryEngine, Options, name_engine};
use crate::error::{KvsError, Result};
use crate::reactor::{self, Listener, OutputLimits, Reactor, Spin};

use batch::Mail;
use blocking::BlockingEngine;
use dispatch::Dispatcher;
pub use process::raise_descriptors;
pub use shared::StopReason;
use shared::{Backend, Shared};

/// How long a graceful stop waits for clients to take their replies.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many descriptors are not for clients: without one for its next segment, a store takes no writes
/// any more. Of few, a quarter.
const KEPT_DESCRIPTORS: usize = 64;
/// How often the main thread looks whether a loop has failed, and how fast the others are.
const WATCH: Duration = Duration::from_millis(500);

/// A server that listens.
pub struct Server {
    shared: Arc<Shared>,
    reactor: Reactor<Mail>,
    opener: JoinHandle<Result<()>>,
    stops: Receiver<StopReason>,
}

impl Server {
    /// Listens at once, and opens the store of the configuration in the background.
    pub fn start(config: Config) -> Result<Server> {
        Server::start_on(config, Arc::new(OsFs))
    }

    /// The same, with the store on another file system.
    pub fn start_on(config: Config, fs: Arc<dyn Fs>) -> Result<Server> {
        let open = config.clone();
        Server::start_with(config, move |shared| open_backend(&open, fs, shared))
    }

    /// A server for any engine whose calls block, on `threads` threads.
    pub fn start_engine<E: KvsEngine>(config: Config, engine: E, threads: u32) -> Result<Server> {
        let engine = BlockingEngine::new(engine, threads)?;
        Server::start_with(config, move |_| Ok(Backend::Blocking(engine)))
    }

    fn start_with(
        mut config: Config,
        open: impl FnOnce(&Shared) -> Result<Backend> + Send + 'static,
    ) -> Result<Server> {
        let listener = Listener::bind(config.addr)?;
        // With the port that the system chose if it was to choose one.
        config.addr = listener.local_addr();
        config.live.set_fsync(config.fsync);
        let (stop, stops) = bounded(8);
        let shared = Shared::new(config, stop);
        let config = &shared.config;
        let allowed = process::descriptors();
        let options = reactor::Options {
            loops: config.loops,
            descriptors: allowed - KEPT_DESCRIPTORS.min(allowed / 4),
            keepalive: shared.keepalive(),
            max_connections: config.live.max_clients.count(),
            rejection: b"-ERR max number of clients reached\r\n".to_vec(),
            output: OutputLimits { hard: config.live.output_limit(), ..OutputLimits::default() },
            spin: if config.spin { Spin::default() } else { Spin::NEVER },
            ..reactor::Options::default()
        };
        let loops = Arc::clone(&shared);
        let reactor = Reactor::start(vec![listener], options, move |index, home| {
            loops.registry.add_home(index, home.clone());
            Dispatcher::new(Arc::clone(&loops), home)
        })?;
        let _ = shared.reactor_stats.set(reactor.stats().clone());
        let _ = shared.admission.set(reactor.admission().clone());
        let opening = Arc::clone(&shared);
        let opener = std::thread::Builder::new()
            .name("kvs-open".into())
            .spawn(move || open_in_background(&opening, open))
            .map_err(KvsError::io("start a thread"))?;
        Ok(Server { shared, reactor, opener, stops })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.reactor.local_addr()
    }

    /// Where to send a reason to stop.
    pub fn stopper(&self) -> Sender<StopReason> {
        self.shared.stop.clone()
    }

    /// Waits until there is a reason to stop, then stops: what was received is answered, the store
    /// is synced and closed. One that is not open yet is not waited for.
    pub fn run(self) -> Result<()> {
        let reason = loop {
            match self.stops.recv_timeout(WATCH) {
                Ok(reason) => break Some(reason),
                Err(RecvTimeoutError::Timeout) if self.reactor.has_failed() => break None,
                Err(RecvTimeoutError::Timeout) => self.shared.note_pace(),
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        match reason {
            Some(reason) => log::info!("stopping: {reason}"),
            None => log::error!("stopping: an event loop failed"),
        }
        self.stop(reason)
    }

    fn stop(self, reason: Option<StopReason>) -> Result<()> {
        let Server { shared, reactor, opener, .. } = self;
        let stopped = reactor.stop(PATIENCE);
        let told = matches!(reason, Some(StopReason::Signal(_) | StopReason::Command));
        if told && !opener.is_finished() {
            // That may take minutes. It has made no promise yet, and a crash may interrupt it as well.
            log::info!("stopped before the store was open");
            return stopped;
        }
        let opened = opener.join().unwrap_or_else(|_| {
            Err(KvsError::Invalid("internal error: opening the store panicked".into()))
        });
        // The loops are gone, and with them their handles: the last one closes the store.
        match Arc::try_unwrap(shared) {
            Ok(shared) => drop(shared),
            Err(_) => log::warn!("the store is still in use; it is left as after a crash"),
        }
        opened.and(stopped)?;
        match reason {
            Some(_) => Ok(()),
            None => Err(KvsError::Invalid("an event loop failed".into())),
        }
    }
}

fn open_in_background(
    shared: &Shared,
    open: impl FnOnce(&Shared) -> Result<Backend>,
) -> Result<()> {
    match open(shared) {
        Ok(backend) => {
            let _ = shared.backend.set(backend);
            // Settings that were changed while it was opened.
            shared.settings_changed();
            Ok(())
        }
        Err(error) => {
            let _ = shared.stop.try_send(StopReason::OpenFailed);
            Err(error)
        }
    }
}

fn open_backend(config: &Config, fs: Arc<dyn Fs>, shared: &Shared) -> Result<Backend> {
    match config.engine {
        EngineKind::Kvs => {
            let store = Options::new(&config.dir)
                .fs(fs)
                .fsync(config.fsync)
                .segment_bytes(config.segment_bytes)
                .readers(config.readers)
                .ordered(config.ordered)
                .backup_dir(&config.backup_dir)
                .scrub_rate(config.scrub_rate)
                .stats(Arc::clone(&shared.engine_stats))
                .open()?;
            let took = Duration::from_micros(shared.engine_stats.open_micros.get());
            let view = store.reader().view();
            let keys: u64 = (0..DATABASES as u8).map(|database| view.len(database)).sum();
            drop(view);
            log::info!("ready: {keys} keys, opened in {took:.1?}");
            Ok(Backend::Native(store))
        }
        EngineKind::Memory => {
            let dir = &config.dir;
            fs.create_dir(dir).map_err(KvsError::io(format!("create {}", dir.display())))?;
            name_engine(&*fs, dir, EngineKind::Memory)?;
            let engine = BlockingEngine::new(MemoryEngine::new(), config.readers as u32)?;
            log::info!("ready: keys are kept in memory only");
            Ok(Backend::Blocking(engine))
        }
    }
}
