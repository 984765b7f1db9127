//! What the index of a million keys takes in memory: `cargo run --release --example index_memory`.
//! Arguments: the number of keys, and "unordered" for the index without order.

use kvs::engine::{Batch, Fsync, Options};

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn main() -> kvs::Result<()> {
    let keys = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000u64);
    let ordered = std::env::args().nth(2).as_deref() != Some("unordered");
    let dir = std::env::temp_dir().join(format!("kvs-index-memory-{}", std::process::id()));
    let options = || Options::new(&dir).ordered(ordered).fsync(Fsync::No);
    let report = |what: &str, store: &kvs::KvStore, before: u64| {
        let (points, order) = store.reader().index_memory(0);
        let per_key = |bytes: u64| bytes as f64 / keys as f64;
        println!(
            "{what}: point index {:.1}, ordered index {:.1}, anonymous memory {:.1} bytes per key",
            per_key(points as u64),
            per_key(order as u64),
            per_key(resident().saturating_sub(before))
        );
    };
    let before = resident();
    let store = options().open()?;
    // Not in order: each number once, spread by an odd factor.
    for chunk in 0..keys.div_ceil(1000) {
        let mut batch = Batch::new();
        for i in chunk * 1000..((chunk + 1) * 1000).min(keys) {
            let n = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            batch.put(format!("{n:016x}"), "some value");
        }
        store.write(batch)?;
    }
    report("after random inserts", &store, before);
    drop(store);
    let before = resident();
    let began = std::time::Instant::now();
    let store = options().open()?;
    println!("opened in {:.2} s", began.elapsed().as_secs_f64());
    report("after a reopen (less what the first round left)", &store, before);
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
