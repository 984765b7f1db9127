//! A program with a store of its own: `embed [DIR]`, by default a directory under the system's one
//! for temporary files. Run it twice: the second time it finds what the first one left.

use kvs::engine::Batch;
use kvs::{KvStore, Result};

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).map(Into::into);
    let store = KvStore::open(dir.unwrap_or_else(|| std::env::temp_dir().join("kvs-embed")))?;

    // Text. What `set` has returned from is on the disk.
    store.set("greeting".into(), "hello".into())?;
    assert_eq!(store.get("greeting".into())?.as_deref(), Some("hello"));

    // Any bytes; "not there" is no error here.
    store.put(b"\x00\xff", [1, 2, 3])?;
    assert_eq!(store.read(b"\x00\xff")?, Some(vec![1, 2, 3]));
    assert_eq!(store.read("nobody")?, None);

    // Several changes that happen together or not at all, across a crash as well.
    let mut batch = Batch::new();
    batch.put("user:2", "Grace").put("user:1", "Ada").delete("greeting");
    store.write(batch)?;

    // Read and write as one step, whatever other threads do.
    let runs = store.update(|txn| {
        let before = txn.get(0, b"runs")?.and_then(|value| text(&value.bytes)?.parse().ok());
        let runs: u64 = before.unwrap_or(0) + 1;
        txn.put(0, b"runs", runs.to_string().as_bytes(), None)?;
        Ok(runs)
    })?;

    // Keys in order, as they were when the iteration began. Clones go to other threads.
    let other = store.clone();
    let walk = std::thread::spawn(move || -> Result<Vec<String>> {
        let name = |entry: Result<(Vec<u8>, Vec<u8>)>| {
            entry.map(|(key, value)| {
                format!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value))
            })
        };
        other.prefix("user:").map(name).collect()
    });
    for line in walk.join().unwrap_or_else(|_| Ok(Vec::new()))? {
        println!("{line}");
    }
    println!("run {runs}, {} keys", store.len());
    Ok(())
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
