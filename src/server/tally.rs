//! What a loop counts of commands: how often each ran, failed or was refused, how long it took.
//!
//! Each loop has its own, which it alone writes, with plain stores; any thread may read, and who
//! reads adds up all loops (`figures.rs`). So counting costs a store into a line that stays in the
//! loop's cache. Only errors, which are rare, take a lock, that nobody else wants but INFO.
//!
//! How long: reading the clock would cost more than some commands do. So the first calls of each
//! command are timed, and all that may take long; of the others one in some, and it stands for all
//! of these. See [`Meter::metered`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use super::batch::Metered;
use super::histogram::Histogram;
use crate::command::{Command, Flags, Numbers, lookup, numbered};
use crate::config::Live;
use crate::protocol::Args;
use crate::stats::add_alone as add;
use crate::sync::lock;

/// How many calls of a command are timed before only some are.
const EXACT: u64 = 1000;
/// Then one in so many.
const SAMPLE: u64 = 64;
/// A request of more bytes than this may take long.
const LARGE: usize = 4096;
/// Who logs commands faster than this, in microseconds, has every one timed.
const CURIOUS: u64 = 1000;

/// What is counted of one command.
#[derive(Debug, Default)]
pub struct OfCommand {
    pub calls: AtomicU64,
    pub nanos: AtomicU64,
    pub rejected: AtomicU64,
    pub failed: AtomicU64,
    pub times: OnceLock<Box<Histogram>>,
}

/// What one loop counts.
#[derive(Debug)]
pub struct Tally {
    /// By number.
    pub commands: Box<[OfCommand]>,
    /// By code.
    pub errors: Mutex<BTreeMap<String, u64>>,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    /// Set by who counts anew: the first calls from now on are to be timed again.
    pub restarted: AtomicBool,
}

/// The means of a loop to count.
#[derive(Debug)]
pub struct Meter {
    numbers: Numbers,
    tally: Arc<Tally>,
    /// By number: the calls that there had been when it was last counted anew.
    before: Box<[u64]>,
}

impl Default for Meter {
    fn default() -> Meter {
        let commands = numbered().iter().map(|_| OfCommand::default()).collect();
        let tally = Tally {
            commands,
            errors: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            restarted: AtomicBool::new(false),
        };
        let before = numbered().iter().map(|_| 0).collect();
        Meter { numbers: Numbers::default(), tally: Arc::new(tally), before }
    }
}

impl Meter {
    /// What it counts into.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// How a request of so many bytes is counted.
    #[inline]
    pub fn metered(&mut self, command: &'static Command, bytes: usize, live: &Live) -> Metered {
        let number = self.numbers.of(command);
        if self.tally.restarted.load(Relaxed) {
            self.restart();
        }
        let calls = self.tally.commands[number].calls.load(Relaxed) - self.before[number];
        // A negative number, which logs nothing, is a large one here.
        let curious = (live.slowlog_slower_than.get() as u64) < CURIOUS;
        let weight = if calls < EXACT || bytes > LARGE || curious || may_take_long(command) {
            1
        } else if calls.is_multiple_of(SAMPLE) {
            SAMPLE as u8
        } else {
            0
        };
        Metered { number: number as u16, weight }
    }

    #[cold]
    fn restart(&mut self) {
        self.tally.restarted.store(false, Relaxed);
        for (before, command) in self.before.iter_mut().zip(&self.tally.commands) {
            *before = command.calls.load(Relaxed);
        }
    }

    /// How a request is counted that was timed.
    pub fn always(&mut self, command: &'static Command) -> Metered {
        Metered { number: self.numbers.of(command) as u16, weight: 1 }
    }

    /// A command was begun that will be answered.
    #[inline]
    pub fn call(&self, number: u16) {
        add(&self.tally.commands[usize::from(number)].calls, 1);
    }

    /// A command took so long.
    pub fn took(&self, Metered { number, weight }: Metered, nanos: u64, live: &Live) {
        let command = &self.tally.commands[usize::from(number)];
        add(&command.nanos, nanos.saturating_mul(weight.into()));
        if live.latency_tracking.get() != 0 {
            command.times.get_or_init(Box::default).add(nanos, weight.into());
        }
    }

    /// A command was refused before it ran, by this error line.
    pub fn reject(&self, number: u16, line: &[u8]) {
        add(&self.tally.commands[usize::from(number)].rejected, 1);
        self.error(line);
    }

    /// A request is no whole command: with too few words for one, or of no known name.
    #[cold]
    pub fn refuse(&mut self, args: Args<'_>, line: &[u8]) {
        match args.get(0).and_then(by_words(args)) {
            Some(command) => {
                let number = self.numbers.of(command);
                self.reject(number as u16, line);
            }
            None => self.error(line),
        }
    }

    /// Looks at the reply of a command: whether it failed.
    #[inline]
    pub fn replied(&self, number: u16, reply: &[u8]) {
        if let [b'-', line @ ..] = reply {
            self.fail(number, line);
        }
    }

    /// A command failed, with this error line.
    #[cold]
    pub fn fail(&self, number: u16, line: &[u8]) {
        add(&self.tally.commands[usize::from(number)].failed, 1);
        self.error(line);
    }

    /// An error is replied.
    #[cold]
    pub fn error(&self, line: &[u8]) {
        let end = line.iter().position(|byte| !byte.is_ascii_uppercase()).unwrap_or(line.len());
        let code = String::from_utf8_lossy(&line[..end]).into_owned();
        let mut errors = lock(&self.tally.errors);
        *errors.entry(code).or_default() += 1;
    }

    /// Counts keys that were looked for: how many were there, and how many were not.
    #[inline]
    pub fn looked_up(&self, hits: u64, misses: u64) {
        add(&self.tally.hits, hits);
        add(&self.tally.misses, misses);
    }
}

/// From a command's name to the command or, with the next word, its subcommand.
fn by_words<'a>(args: Args<'a>) -> impl Fn(&'a [u8]) -> Option<&'static Command> {
    move |name| {
        let command = lookup(name)?;
        match args.get(1) {
            Some(sub) if !command.subcommands.is_empty() => command.subcommand(sub),
            _ => Some(command),
        }
    }
}

/// SET is not called fast as a value may be large: then the request is.
fn may_take_long(command: &Command) -> bool {
    !command.flags.contain(Flags::FAST) && command.name != "set"
}
