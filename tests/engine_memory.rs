//! The memory that a load of new keys takes. Alone in its file: it looks at the whole process.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod engine_support;

use kvs::engine::{Batch, Options};

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Blocks of the ordered index that were replaced waited to be freed, a kilobyte for each new key:
/// a pin frees some, now and then, but a large group replaces a thousand under one pin.
#[test]
fn replaced_blocks_of_the_index_are_freed_during_a_load() {
    const KEYS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let store = engine_support::options(dir.path()).segment_bytes(8 << 20).open().unwrap();
    let before = anonymous_bytes();
    for chunk in 0..KEYS / 1000 {
        let mut batch = Batch::new();
        for i in 0..1000 {
            let key = (chunk * 1000 + i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            batch.put(format!("{key:016x}"), "value");
        }
        store.write(batch).unwrap();
    }
    let per_key = (anonymous_bytes().saturating_sub(before)) / KEYS;
    println!("{per_key} bytes per key");
    assert!(per_key < 250, "{per_key} bytes per key");
    drop(store);
    let _ = Options::new(dir.path()).open().unwrap();
}
