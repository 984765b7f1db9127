//! Locks around data that is sound whatever became of their last holder. Any thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also where a thread panicked while it held it: the data is changed in steps that
/// each leave it sound.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
