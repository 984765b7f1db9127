//! A bar for work that counts its bytes by itself.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two looks at how far it has come.
const REDRAW: Duration = Duration::from_millis(50);

/// Runs some work on bytes, with a bar on stderr if that is a terminal: `done` of `total` of them.
pub fn watch<R: Send>(
    done: impl Fn() -> u64,
    total: impl Fn() -> u64,
    work: impl FnOnce() -> R + Send,
) -> R {
    if !io::stderr().is_terminal() {
        return work();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(None, target).with_style(style);
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        while !worker.is_finished() {
            if let total @ 1.. = total() {
                bar.set_length(total);
                bar.set_position(done().min(total));
            }
            std::thread::sleep(REDRAW);
        }
        bar.finish_and_clear();
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
