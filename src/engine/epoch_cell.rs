//! A value that one thread replaces whole while others read it without a lock.
//!
//! Readers pin an epoch and get a reference that lives as long as their guard; a replaced value is
//! freed when no guard of its time is left (crossbeam-epoch). One word.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::atomic::Ordering;

use crossbeam_epoch::{Atomic, Guard, Owned, Shared};

/// See the module. Concurrent calls of [`EpochCell::replace`] are sound; the last one wins.
pub struct EpochCell<T: Send + Sync + 'static> {
    pointer: Atomic<T>,
}

impl<T: Send + Sync + 'static> EpochCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: T) -> Self {
        EpochCell { pointer: Atomic::new(value) }
    }

    /// The present value, which stays readable as long as `guard`. Panics once the cell was emptied.
    pub fn load<'g>(&self, guard: &'g Guard) -> &'g T {
        let shared = self.pointer.load(Ordering::Acquire, guard);
        // SAFETY: what the pointer leads to is freed only after every guard that was pinned when it was
        // replaced is gone.
        let Some(value) = (unsafe { shared.as_ref() }) else { unreachable!("the cell is empty") };
        value
    }

    /// Puts `value` in place of the present one.
    pub fn replace(&self, value: T, guard: &Guard) {
        let old = self.pointer.swap(Owned::new(value), Ordering::AcqRel, guard);
        free_later(old, guard);
    }

    /// Frees the value ahead of the cell, which nobody loads or replaces any more. For cells within
    /// cells: what is freed only with what leads to it waits in the list of the thread that frees
    /// that, and may wait there for as long as the thread lives.
    pub fn empty(&self, guard: &Guard) {
        free_later(self.pointer.swap(Shared::null(), Ordering::AcqRel, guard), guard);
    }
}

/// Frees what was taken out of a cell once no guard of its time is left.
fn free_later<T>(old: Shared<'_, T>, guard: &Guard) {
    if !old.is_null() {
        // SAFETY: `old` was taken out by a swap, so no one else frees it and no later load finds
        // it; earlier loads hold guards, which the deferral waits for.
        unsafe { guard.defer_destroy(old) }
    }
}

impl<T: Send + Sync + 'static> Drop for EpochCell<T> {
    fn drop(&mut self) {
        // A reference from `load` may outlive the cell, but not its guard.
        self.empty(&crossbeam_epoch::pin());
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for EpochCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load(&crossbeam_epoch::pin()).fmt(f)
    }
}

/// Frees so many replaced values, as far as no guard of their time is left. A pin does that by itself
/// only now and then, and not enough of it where many were replaced.
pub fn free_replaced(count: usize) {
    // What one flush frees, of crossbeam-epoch's constants: eight lists of 64, less what is lost to
    // lists that are not full.
    const AT_ONCE: usize = 256;
    (0..=count / AT_ONCE).for_each(|_| crossbeam_epoch::pin().flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn readers_see_whole_values_while_they_are_replaced() {
        let cell = Arc::new(EpochCell::new(vec![0u64; 64]));
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (cell, stop) = (Arc::clone(&cell), Arc::clone(&stop));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let guard = crossbeam_epoch::pin();
                        let value = cell.load(&guard);
                        assert!(value.iter().all(|n| *n == value[0]));
                    }
                })
            })
            .collect();
        let rounds = if cfg!(miri) { 50 } else { 20_000 };
        for n in 0..rounds {
            cell.replace(vec![n; 64], &crossbeam_epoch::pin());
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    }
}
