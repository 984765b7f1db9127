//! Measures kvs as a library beside the stores that a Rust program would use instead.
//!
//! Each measurement is a process of its own with a fresh directory; the engines take turns, round
//! after round; medians and the ratio of kvs to the best peer are printed as a Markdown table.

mod engines;
mod measure;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Parser, Subcommand};
use tempfile::TempDir;

use engines::{ENGINES, FLOOR};
use measure::{Task, Test};
use report::Figures;

/// Any error of any engine.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures kvs as a library beside sled, redb, fjall, LMDB and RocksDB.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    child: Option<Child>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Child {
    /// One measurement in this process
    #[command(hide = true)]
    Child(Task),
}

#[derive(Debug, Args)]
pub struct Flags {
    /// How often each engine is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// How long each rate is measured
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Keys in the store
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// A short run: shows that all works, not how fast
    #[arg(long)]
    quick: bool,
    /// Engines, of those that were compiled in [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    engines: Vec<String>,
    /// What to measure: puts, store (load, overwrites, open, gets, memory)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "puts,store")]
    only: Vec<String>,
    /// Sizes of values
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "100,1024")]
    value_bytes: Vec<usize>,
    /// Where the stores are made; must be on a disk [default: target/ of this crate]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn measure_all(mut flags: Flags) -> Result<()> {
    if flags.quick {
        flags.seconds = flags.seconds.min(0.5);
        flags.keys = flags.keys.min(50_000);
    }
    let engines: Vec<&str> = ENGINES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| flags.engines.is_empty() || flags.engines.iter().any(|e| e == name))
        .collect();
    if engines.is_empty() || flags.rounds == 0 {
        return Err("there is nothing to measure".into());
    }
    let target = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/stores");
    let dir = flags.dir.clone().unwrap_or_else(target);
    std::fs::create_dir_all(&dir)?;
    let header = report::header(&flags, &dir);
    let mut figures = Figures::new();
    for round in 1..=flags.rounds {
        for &value_bytes in &flags.value_bytes {
            for test in flags.only.iter().map(String::as_str) {
                for engine in engines.iter().filter(|name| test == "puts" || **name != FLOOR) {
                    eprintln!("round {round}, {test}, {value_bytes} B, {engine}");
                    let new = match test {
                        "puts" => puts(&flags, &dir, engine, value_bytes)?,
                        "store" => store(&flags, &dir, engine, value_bytes)?,
                        other => return Err(format!("--only puts or store, not {other}").into()),
                    };
                    for (figure, value) in new {
                        let key = (value_bytes, figure);
                        figures
                            .entry(key)
                            .or_default()
                            .entry((*engine).to_owned())
                            .or_default()
                            .push(value);
                    }
                }
            }
        }
    }
    println!("{header}\n{}", report::markdown(&engines, &figures));
    Ok(())
}

fn puts(flags: &Flags, dir: &Path, engine: &str, value_bytes: usize) -> Result<Vec<(String, f64)>> {
    let mut figures = Vec::new();
    for threads in [1, 16, 64] {
        let dir = TempDir::new_in(dir)?;
        let task = task(flags, engine, Test::Puts, dir.path(), threads, value_bytes);
        let rate = run(&task)?.remove("puts").unwrap_or(0.0);
        figures.push((format!("puts-{threads}"), rate));
    }
    Ok(figures)
}

fn store(
    flags: &Flags,
    dir: &Path,
    engine: &str,
    value_bytes: usize,
) -> Result<Vec<(String, f64)>> {
    let dir = TempDir::new_in(dir)?;
    let mut figures = Vec::new();
    for test in [Test::Load, Test::Open] {
        figures.extend(run(&task(flags, engine, test, dir.path(), 1, value_bytes))?);
    }
    Ok(figures)
}

fn task(
    flags: &Flags,
    engine: &str,
    test: Test,
    dir: &Path,
    threads: usize,
    value_bytes: usize,
) -> Task {
    let (engine, dir) = (engine.to_owned(), dir.to_owned());
    let (keys, seconds) = (flags.keys, flags.seconds);
    Task { engine, test, dir, threads, value_bytes, keys, seconds }
}

/// Runs a task in a child process; its figures by name.
fn run(task: &Task) -> Result<BTreeMap<String, f64>> {
    let test = match task.test {
        Test::Puts => "puts",
        Test::Load => "load",
        Test::Open => "open",
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["child", "--engine", &task.engine, "--test", test]);
    command.arg("--dir").arg(&task.dir);
    command.args(["--threads", &task.threads.to_string()]);
    command.args(["--value-bytes", &task.value_bytes.to_string()]);
    command.args(["--keys", &task.keys.to_string()]);
    command.args(["--seconds", &task.seconds.to_string()]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} failed at {test}", task.engine).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.filter_map(|(name, figure)| Some((name.into(), figure.parse().ok()?))).collect())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.child {
        Some(Child::Child(task)) => measure::run(&task),
        None => measure_all(cli.flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded: {error}");
            ExitCode::FAILURE
        }
    }
}
