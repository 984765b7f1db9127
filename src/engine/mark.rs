//! Whether something became visible while one read: who reads several keys without a lock asks before
//! and after, and reads again unless the two answers are the same.
//!
//! The writer alone shows; any thread asks. Invariant: what a reader saw of what is being shown, it saw
//! with acquire ordering, after the mark became odd; so it finds the mark odd, or another one.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// Odd while something becomes visible.
    word: AtomicU64,
}

impl Mark {
    /// Begins to show something, which is shown when the result is dropped.
    pub(super) fn show(&self) -> Showing<'_> {
        self.word.fetch_add(1, Ordering::AcqRel);
        Showing(self)
    }

    /// What was shown last; `None` while something becomes visible.
    pub(super) fn read(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        word.is_multiple_of(2).then_some(word)
    }
}

/// Something becomes visible until this is dropped.
pub(super) struct Showing<'a>(&'a Mark);

impl Drop for Showing<'_> {
    fn drop(&mut self) {
        self.0.word.fetch_add(1, Ordering::AcqRel);
    }
}
