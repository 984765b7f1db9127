//! The commands that took longest: what SLOWLOG tells.
//!
//! Any thread. The lock is taken when a command was slow, and to read.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::command::{Command, Flags, SlowEntry, now_ms};
use crate::config::Live;
use crate::protocol::Args;

/// How many words of a command are kept; the last one tells how many were left out.
const WORDS: usize = 32;
/// How many bytes of a word are kept.
const BYTES: usize = 128;

#[derive(Debug, Default)]
struct Log {
    next_id: u64,
    /// The newest first.
    entries: VecDeque<SlowEntry>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct SlowLog(Mutex<Log>);

/// A command that was timed.
pub struct Timed<'a> {
    pub command: &'a Command,
    pub args: Args<'a>,
    pub nanos: u64,
}

impl SlowLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a command if it was slow; `client` tells its address and its name.
    #[inline]
    pub fn offer(
        &self,
        live: &Live,
        timed: &Timed<'_>,
        client: impl FnOnce() -> (String, Vec<u8>),
    ) {
        let limit = live.slowlog_slower_than.get();
        let skipped = || timed.command.flags.contain(Flags::SKIP_SLOWLOG);
        if limit >= 0 && timed.nanos / 1000 >= limit as u64 && !skipped() {
            self.keep(live.slowlog_max_len.count(), timed, client());
        }
    }

    #[cold]
    fn keep(&self, most: usize, timed: &Timed<'_>, (addr, name): (String, Vec<u8>)) {
        let words = shortened(timed.command, timed.args);
        let mut log = self.lock();
        if most == 0 {
            return;
        }
        let (id, seconds) = (log.next_id, now_ms() / 1000);
        log.next_id += 1;
        log.entries.push_front(SlowEntry {
            id,
            seconds,
            micros: timed.nanos / 1000,
            words,
            addr,
            name,
        });
        log.entries.truncate(most);
    }

    /// The newest ones.
    pub fn newest(&self, count: usize) -> Vec<SlowEntry> {
        self.lock().entries.iter().take(count).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Forgets them all.
    pub fn clear(&self) {
        self.lock().entries.clear();
    }
}

fn shortened(command: &Command, args: Args<'_>) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    for (i, word) in args.iter().enumerate() {
        if i == WORDS - 1 && args.len() > WORDS {
            words.push(format!("... ({} more arguments)", args.len() - WORDS + 1).into_bytes());
            break;
        }
        words.push(match word {
            _ if is_secret(command, args, i) => b"(redacted)".to_vec(),
            long if long.len() > BYTES => {
                let more = format!("... ({} more bytes)", long.len() - BYTES);
                [&long[..BYTES], more.as_bytes()].concat()
            }
            word => word.to_vec(),
        });
    }
    words
}

/// Whether a word may be a password.
fn is_secret(command: &Command, args: Args<'_>, place: usize) -> bool {
    let is = |at: usize, name: &[u8]| args.get(at).is_some_and(|w| w.eq_ignore_ascii_case(name));
    match command.name {
        "auth" => place > 0,
        "hello" => (place > 1 && is(place - 1, b"auth")) || (place > 2 && is(place - 2, b"auth")),
        "config|set" => place % 2 == 1 && is(place - 1, b"requirepass"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::protocol::{Decoder, Limits};

    fn kept(line: &str) -> String {
        let input = format!("{line}\n");
        let mut decoder = Decoder::new(Limits::default());
        decoder.decode(input.as_bytes()).unwrap().unwrap();
        let args = decoder.args(input.as_bytes());
        let command = lookup(args.get(0).unwrap()).unwrap();
        let command = args.get(1).and_then(|sub| command.subcommand(sub)).unwrap_or(command);
        String::from_utf8(shortened(command, args).join(&b' ')).unwrap()
    }

    #[test]
    fn long_commands_are_cut_as_redis_cuts_them() {
        let words: Vec<String> = (0..40).map(|i| i.to_string()).collect();
        let line = format!("del {}", words.join(" "));
        assert_eq!(kept(&line), format!("del {} ... (10 more arguments)", words[..30].join(" ")));
        let line = format!("del {}", words[..31].join(" "));
        assert_eq!(kept(&line), line);
        let long = "x".repeat(BYTES + 7);
        assert_eq!(
            kept(&format!("get {long}")),
            format!("get {}... (7 more bytes)", &long[..BYTES])
        );
    }

    #[test]
    fn passwords_are_not_kept() {
        for (line, shown) in [
            ("auth a", "auth (redacted)"),
            ("auth a b", "auth (redacted) (redacted)"),
            ("hello 3 auth a b setname c", "hello 3 auth (redacted) (redacted) setname c"),
            ("config set timeout 1 requirepass a", "config set timeout 1 requirepass (redacted)"),
        ] {
            assert_eq!(kept(line), shown);
        }
    }
}
