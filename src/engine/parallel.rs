//! Work on many things by several threads, for an open, a close, a check.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads can run at once.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

/// Does `work` on each of `items`, on up to `threads` threads, the calling one among them. The
/// results come in no order.
pub(super) fn map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let taken = || items.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(taken).map(&work).collect::<Vec<R>>()
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(run)).collect();
        let mut results = run();
        for helper in helpers {
            results.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once() {
        for (items, threads) in [(0, 4), (1, 4), (1000, 1), (1000, 4)] {
            let items: Vec<u32> = (0..items).collect();
            let mut results = map(&items, threads, |item| item * 2);
            results.sort_unstable();
            assert!(results.iter().copied().eq(items.iter().map(|item| item * 2)));
        }
    }
}
