//! The thread pool: no job is lost, no panic costs a thread.

use std::panic::panic_any;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Once, mpsc};

use kvs::thread_pool::{SharedQueueThreadPool, ThreadPool};

/// Keeps panics that a test causes on purpose out of its output.
fn silence_panics_of_jobs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if !thread.name().is_some_and(|name| name.starts_with("kvs-pool-")) {
                hook(info);
            }
        }));
    });
}

/// Returns once `threads` jobs run at the same time, which takes as many threads.
fn assert_threads(pool: &SharedQueueThreadPool, threads: usize) {
    let barrier = Arc::new(Barrier::new(threads + 1));
    for _ in 0..threads {
        let barrier = barrier.clone();
        pool.spawn(move || {
            barrier.wait();
        });
    }
    barrier.wait();
}

#[test]
fn no_threads_are_an_error() {
    let error = SharedQueueThreadPool::new(0).unwrap_err();
    assert_eq!(error.to_string(), "a thread pool needs at least one thread");
}

#[test]
fn a_thousand_panics_leave_all_threads() {
    silence_panics_of_jobs();
    let pool = SharedQueueThreadPool::new(4).unwrap();
    for _ in 0..1000 {
        pool.spawn(|| panic!("on purpose"));
    }
    assert_threads(&pool, 4);
}

#[test]
fn what_a_job_panics_with_may_panic_too() {
    struct Nasty(u32);
    impl Drop for Nasty {
        fn drop(&mut self) {
            if self.0 > 0 {
                panic_any(Nasty(self.0 - 1));
            }
        }
    }
    silence_panics_of_jobs();
    let pool = SharedQueueThreadPool::new(2).unwrap();
    for _ in 0..10 {
        pool.spawn(|| panic_any(Nasty(3)));
    }
    assert_threads(&pool, 2);
}

#[test]
fn dropping_the_pool_finishes_what_was_queued() {
    let done = Arc::new(AtomicU32::new(0));
    let pool = SharedQueueThreadPool::new(3).unwrap();
    let gate = Arc::new(Barrier::new(2));
    let waiting = gate.clone();
    pool.spawn(move || {
        waiting.wait();
    });
    for _ in 0..1000 {
        let done = done.clone();
        pool.spawn(move || {
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    gate.wait();
    drop(pool);
    assert_eq!(done.load(Ordering::Relaxed), 1000);
}

#[test]
fn a_job_may_drop_the_pool() {
    let pool = Arc::new(SharedQueueThreadPool::new(2).unwrap());
    let (sender, receiver) = mpsc::channel();
    let (last, gate) = (pool.clone(), Arc::new(Barrier::new(2)));
    let waiting = gate.clone();
    pool.spawn(move || {
        waiting.wait();
        drop(last);
        sender.send(()).unwrap();
    });
    drop(pool);
    gate.wait();
    receiver.recv().unwrap();
}

#[test]
fn a_pool_can_be_shared_between_threads() {
    fn assert_shared<T: Send + Sync + 'static>() {}
    assert_shared::<SharedQueueThreadPool>();
}
