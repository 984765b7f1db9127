//! What is measured of one engine, each in a process of its own, so that memory is its alone.
//!
//! Keys are 16 bytes, `key:` and twelve digits. Values do not compress.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::Result;
use crate::engines::{Durability, ENGINES, Engine};

/// Pairs in a batch of a load, and keys in a view of batched gets.
const BATCH: u64 = 100;
/// Threads that read.
const READERS: usize = 2;
/// A prime: its multiples modulo the number of keys are all keys, in no order.
const STRIDE: u64 = 2_654_435_761;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// Durable puts of random keys in a new store.
    Puts,
    /// Fills a new store without fsync, then overwrites random keys.
    Load,
    /// Opens what a load left, and reads.
    Open,
}

/// One measurement; what the parent process hands to its child.
#[derive(Debug, Clone, Args)]
pub struct Task {
    #[arg(long)]
    pub engine: String,
    #[arg(long)]
    pub test: Test,
    #[arg(long)]
    pub dir: std::path::PathBuf,
    #[arg(long)]
    pub threads: usize,
    #[arg(long)]
    pub value_bytes: usize,
    #[arg(long)]
    pub keys: u64,
    #[arg(long)]
    pub seconds: f64,
}

/// Prints its figures, a name and a number a line.
pub fn run(task: &Task) -> Result<()> {
    let open = ENGINES.iter().find(|(name, _)| *name == task.engine);
    let open = open.ok_or_else(|| format!("{} is not compiled in", task.engine))?.1;
    let values = Values::new(task.value_bytes);
    let time = Duration::from_secs_f64(task.seconds);
    match task.test {
        Test::Puts => {
            let store = open(&task.dir, Durability::Durable)?;
            let rate = race(task.threads, time, |random| {
                let key = random.next() % task.keys;
                store.put(&name(key), values.of(random.next()))?;
                Ok(1)
            })?;
            println!("puts {rate}");
        }
        Test::Load => {
            let store = open(&task.dir, Durability::Relaxed)?;
            load(&*store, task, &values)?;
            let rate = race(1, time, |random| {
                store.put(&name(random.next() % task.keys), values.of(random.next()))?;
                Ok(1)
            })?;
            println!("overwrites {rate}");
            let began = Instant::now();
            drop(store);
            println!("close {}", began.elapsed().as_secs_f64());
        }
        Test::Open => {
            let before = memory();
            let began = Instant::now();
            let store = open(&task.dir, Durability::Durable)?;
            check(&*store, task)?;
            println!("open {}", began.elapsed().as_secs_f64() * 1e6 / task.keys as f64);
            println!("memory {}", (memory() - before) / task.keys as f64);
            println!(
                "space {}",
                space(&task.dir) / (task.keys as f64 * (16 + task.value_bytes) as f64)
            );
            for (figure, batch) in [("gets", 1), ("gets-batched", BATCH)] {
                let rate = race(READERS, time, |random| gets(&*store, task, batch, random))?;
                println!("{figure} {rate}");
            }
            println!("memory-read {}", (memory() - before) / task.keys as f64);
        }
    }
    Ok(())
}

fn load(store: &dyn Engine, task: &Task, values: &Values) -> Result<()> {
    let began = Instant::now();
    let mut pairs = Vec::new();
    for i in 0..task.keys {
        let key = (u128::from(i) * u128::from(STRIDE) % u128::from(task.keys)) as u64;
        pairs.push((name(key), values.of(i.wrapping_mul(STRIDE))));
        if pairs.len() as u64 == BATCH || i + 1 == task.keys {
            store.put_many(&pairs)?;
            pairs.clear();
        }
    }
    println!("load {}", task.keys as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

/// The store is open for real once it answers.
fn check(store: &dyn Engine, task: &Task) -> Result<()> {
    let mut found = 0;
    store.get_many(&[name(0), name(task.keys - 1)], &mut |_| found += 1)?;
    if found == 2 { Ok(()) } else { Err("keys are missing after the open".into()) }
}

fn gets(store: &dyn Engine, task: &Task, batch: u64, random: &mut Random) -> Result<u64> {
    let mut keys = [[0; 16]; BATCH as usize];
    let keys = &mut keys[..batch as usize];
    keys.iter_mut().for_each(|key| *key = name(random.next() % task.keys));
    let (mut found, mut sum) = (0, 0u64);
    store.get_many(keys, &mut |value| {
        found += 1;
        sum += value.iter().step_by(64).map(|&byte| u64::from(byte)).sum::<u64>();
    })?;
    std::hint::black_box(sum);
    if found == batch { Ok(batch) } else { Err("a key is missing".into()) }
}

/// How many units per second `threads` get done in `time`; each call of `work` says how many it did.
fn race(
    threads: usize,
    time: Duration,
    work: impl Fn(&mut Random) -> Result<u64> + Sync,
) -> Result<f64> {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for i in 0..threads {
            let (stop, done, work) = (&stop, &done, &work);
            workers.push(scope.spawn(move || -> Result<()> {
                let mut random = Random::new(i as u64);
                let mut mine = 0;
                while !stop.load(Ordering::Relaxed) {
                    mine += work(&mut random)?;
                }
                done.fetch_add(mine, Ordering::Relaxed);
                Ok(())
            }));
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(done.into_inner() as f64 / began.elapsed().as_secs_f64())
}

fn name(key: u64) -> [u8; 16] {
    let mut name = *b"key:000000000000";
    let mut rest = key;
    for digit in name[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}

/// Anonymous memory of this process in bytes: what maps of files hold can be taken back.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = kib.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

/// Bytes that the files below `dir` take on the disk.
fn space(dir: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => space(&entry.path()),
        Ok(meta) => meta.blocks() as f64 * 512.0,
        Err(_) => 0.0,
    };
    entries.map(size).sum()
}

/// Windows into bytes without a pattern.
struct Values {
    pool: Vec<u8>,
    len: usize,
}

impl Values {
    fn new(len: usize) -> Values {
        let mut random = Random::new(42);
        let pool = (0..(1 << 20) + len).map(|_| random.next() as u8).collect();
        Values { pool, len }
    }

    fn of(&self, seed: u64) -> &[u8] {
        let at = (seed % (1 << 20)) as usize;
        &self.pool[at..at + self.len]
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xA076_1D64_78BD_642F))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
