//! What all loops of a server share: the configuration, the engine once it is open, the counters.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::blocking::BlockingEngine;
use super::figures::{Book, Figures, Others};
use super::pause::Pause;
use super::registry::Registry;
use super::slowlog::{SlowLog, Timed};
use super::spikes::Spikes;
use crate::command::Abort;
use crate::config::Config;
use crate::engine::{Backups, DATABASES, KvStore};
use crate::error::KvsError;
use crate::reactor::{Admission, Stats};
use crate::stats::{Counter, EngineStats};
use crate::sync::lock;

/// What answers for the keys.
#[derive(Clone)]
pub enum Backend {
    /// The store of this crate, through its batched path.
    Native(KvStore),
    /// Any other engine, on a pool of threads.
    Blocking(Arc<BlockingEngine>),
}

/// What a server counts.
#[derive(Debug, Default)]
pub struct ServerStats {
    /// Commands begun.
    pub commands: Counter,
    /// Of these, reads that were answered by the loop itself.
    pub local_reads: Counter,
    /// Messages to the writer.
    pub write_batches: Counter,
    /// Messages to the read workers.
    pub read_batches: Counter,
    /// Requests that had to wait for others of their connection.
    pub stalls: Counter,
}

/// Why a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM or SIGINT.
    Signal(i32),
    /// The SHUTDOWN command.
    Command,
    /// The engine could not be opened.
    OpenFailed,
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::Signal(signal) => write!(f, "signal {signal}"),
            StopReason::Command => f.write_str("SHUTDOWN"),
            StopReason::OpenFailed => f.write_str("the store cannot be opened"),
        }
    }
}

/// The index is too large to be added up for every command.
#[derive(Default)]
struct IndexSize {
    bytes: AtomicU64,
    /// When it was added up, in milliseconds since the start.
    at: AtomicU64,
}

/// See the module.
pub struct Shared {
    pub(super) config: Config,
    /// Empty while the store is being opened: then keys are answered with LOADING.
    pub(super) backend: OnceLock<Backend>,
    /// Set once the reactor runs.
    pub(super) reactor_stats: OnceLock<Stats>,
    pub(super) engine_stats: Arc<EngineStats>,
    pub(super) stats: ServerStats,
    pub(super) registry: Registry,
    pub(super) book: Book,
    pub(super) slowlog: SlowLog,
    pub(super) spikes: Spikes,
    pub(super) pause: Pause,
    /// Hears of the end of a compaction that was asked for.
    compaction: Mutex<Option<Receiver<Result<(), KvsError>>>>,
    /// The bytes of the index, as they were a short while ago.
    index: IndexSize,
    /// Set once the reactor runs.
    pub(super) admission: OnceLock<Admission>,
    pub(super) started: Instant,
    /// 40 hexadecimal digits that no other run has.
    pub(super) run_id: String,
    pub(super) stop: Sender<StopReason>,
}

impl Shared {
    pub(super) fn new(config: Config, stop: Sender<StopReason>) -> Arc<Shared> {
        Arc::new(Shared {
            config,
            backend: OnceLock::new(),
            reactor_stats: OnceLock::new(),
            engine_stats: Arc::default(),
            stats: ServerStats::default(),
            registry: Registry::default(),
            book: Book::default(),
            slowlog: SlowLog::default(),
            spikes: Spikes::default(),
            pause: Pause::default(),
            compaction: Mutex::default(),
            index: IndexSize::default(),
            admission: OnceLock::new(),
            started: Instant::now(),
            run_id: run_id(),
            stop,
        })
    }

    /// How many databases there are. While the store is being opened, one that has all of them is
    /// expected: an engine that blocks is there at once.
    pub(super) fn databases(&self) -> usize {
        match self.backend.get() {
            Some(Backend::Blocking(_)) => 1,
            Some(Backend::Native(_)) | None => DATABASES,
        }
    }

    /// The database of this number, if there is one.
    pub(super) fn database(&self, number: usize) -> Option<u8> {
        u8::try_from(number).ok().filter(|_| number < self.databases())
    }

    /// What makes backups, once the store is open.
    pub(super) fn backups(&self) -> Option<&Arc<Backups>> {
        match self.backend.get() {
            Some(Backend::Native(store)) => Some(store.reader().backups()),
            _ => None,
        }
    }

    /// Settings were changed: makes those take effect that are not looked up where they count.
    pub(super) fn settings_changed(&self) {
        let live = &self.config.live;
        log::set_max_level(live.log_level());
        if let Some(admission) = self.admission.get() {
            admission.set_connections(live.max_clients.count());
            admission.set_keepalive(self.keepalive());
        }
        if let Some(Backend::Native(store)) = self.backend.get() {
            store.set_fsync(live.fsync());
        }
        self.measure_index();
        self.registry.announce_change();
    }

    /// Whether the index is larger than it may be, so that nothing may be added to it.
    pub(super) fn is_full(&self) -> bool {
        let most = self.config.live.max_memory.get();
        most > 0 && self.index.bytes.load(Relaxed) > most as u64
    }

    /// Looks how large the index is, if it may not be of any size; not more than once in a while,
    /// whoever asks.
    pub(super) fn watch_index(&self, now: Instant) {
        const WHILE_MS: u64 = 1;
        if self.config.live.max_memory.get() > 0 {
            let now = now.saturating_duration_since(self.started).as_millis() as u64;
            if now >= self.index.at.load(Relaxed) + WHILE_MS {
                self.index.at.store(now, Relaxed);
                self.measure_index();
            }
        }
    }

    fn measure_index(&self) {
        if let Some(Backend::Native(store)) = self.backend.get() {
            let (points, order) = store.reader().all_index_memory();
            self.index.bytes.store((points + order) as u64, Relaxed);
        }
    }

    /// Has the whole store compacted in the background; false if that is under way.
    pub(super) fn start_compaction(&self) -> Result<bool, Abort> {
        let Some(Backend::Native(store)) = self.backend.get() else {
            return Err("ERR this engine has no log to compact".into());
        };
        if self.is_compacting() {
            return Ok(false);
        }
        let finished = store.start_compaction()?;
        *lock(&self.compaction) = Some(finished);
        Ok(true)
    }

    /// Whether a compaction that was asked for is under way.
    pub(super) fn is_compacting(&self) -> bool {
        let mut compaction = lock(&self.compaction);
        let under_way = compaction
            .as_ref()
            .is_some_and(|finished| matches!(finished.try_recv(), Err(TryRecvError::Empty)));
        if !under_way {
            *compaction = None;
        }
        under_way
    }

    /// A command was timed: it may be one for the slow log, or a spike of latency. `client` tells the
    /// address and the name of who sent it.
    #[inline]
    pub(super) fn note_time(&self, timed: &Timed<'_>, client: impl FnOnce() -> (String, Vec<u8>)) {
        let live = &self.config.live;
        self.spikes.offer(live, timed.command, timed.nanos);
        self.slowlog.offer(live, timed, client);
    }

    fn others(&self) -> Others {
        Others {
            processed: self.stats.commands.get(),
            expired: self.engine_stats.expired_keys.get(),
            counts: self.reactor_stats.get().map(Stats::counts).unwrap_or_default(),
        }
    }

    /// What was counted since the start or the last reset.
    pub(super) fn figures(&self) -> Figures {
        self.book.figures(self.others())
    }

    /// For the main thread, now and then: what INFO calls instantaneous.
    pub(super) fn note_pace(&self) {
        if let Some(stats) = self.reactor_stats.get() {
            self.book.note_pace(self.stats.commands.get(), &stats.counts());
        }
    }

    /// Counts from here on.
    pub(super) fn reset_figures(&self) {
        self.book.reset(self.others());
    }

    /// When silent peers are asked whether they are still there.
    pub(super) fn keepalive(&self) -> Option<Duration> {
        let seconds = self.config.live.tcp_keepalive.count() as u64;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// The reply to a command that came before the store is open.
    pub(super) fn loading_line(&self) -> String {
        let (done, total) = (self.engine_stats.load_done.get(), self.engine_stats.load_total.get());
        let percent = (done * 100).checked_div(total).unwrap_or(0).min(100);
        format!("LOADING kvs is loading the dataset ({percent} %)")
    }
}

fn run_id() -> String {
    let random = || RandomState::new().build_hasher().finish();
    let digits = format!("{:016x}{:016x}{:016x}", random(), random(), random());
    digits.chars().take(40).collect()
}
