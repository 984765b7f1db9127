//! A progress bar on stderr, if that is a terminal, and a line that sums up.

use std::io::{self, IsTerminal};
use std::time::Instant;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Keys between two updates of the bar, which then costs next to nothing.
const UPDATE_KEYS: u64 = 256;

/// How far some work on many keys has come. The bar goes away when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    keys: u64,
    bytes: u64,
}

impl Progress {
    /// Work that reads so many bytes, if that is known.
    pub fn of_input(total: Option<u64>) -> Progress {
        Progress::new(total, io::stderr().is_terminal())
    }

    /// Work that writes to standard output. If that is a terminal too, a bar would be in the way.
    pub fn of_output() -> Progress {
        Progress::new(None, io::stderr().is_terminal() && !io::stdout().is_terminal())
    }

    fn new(total: Option<u64>, shown: bool) -> Progress {
        let target =
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = match total {
            Some(_) => "{bar:40} {bytes} of {total_bytes}, {msg}, {eta} left",
            None => "{spinner} {bytes}, {msg}, {elapsed}",
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(total, target).with_style(style);
        Progress { bar, began: Instant::now(), keys: 0, bytes: 0 }
    }

    /// One more key, which took so many bytes.
    pub fn advance(&mut self, bytes: usize) {
        self.keys += 1;
        self.bytes += bytes as u64;
        if self.keys.is_multiple_of(UPDATE_KEYS) && !self.bar.is_hidden() {
            let rate = self.keys as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
            self.bar.set_message(format!(
                "{} keys, {} keys/s",
                HumanCount(self.keys),
                HumanCount(rate as u64)
            ));
            self.bar.set_position(self.bytes);
        }
    }

    /// The line at the end: that so many keys were `done`, as in `loaded`.
    pub fn sum_up(&self, done: &str, keys: u64) {
        self.bar.finish_and_clear();
        eprintln!("{done} {} in {:.1} s", count_keys(keys), self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// As in `1 key` and `64000 keys`.
pub fn count_keys(keys: u64) -> String {
    match keys {
        1 => "1 key".into(),
        _ => format!("{keys} keys"),
    }
}
