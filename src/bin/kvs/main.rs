//! The store in a directory, without a server.

mod bulk;
mod check;
mod repair;
#[path = "../shared/mod.rs"]
mod shared;
mod watch;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use indicatif::HumanBytes;
use kvs::engine::fs::OsFs;
use kvs::engine::{Options, has_store};
use kvs::{KvStore, KvsError};

use shared::{Done, Output, Stop, Word};
use watch::watch;

const EXAMPLES: &str = "\
Examples:
  kvs set name Ada                 in the current directory
  kvs get name --dir /var/lib/kvs
  kvs set -- -key -value           words that begin with '-' come after '--'
  kvs dump > all.jsonl             every key and value, one JSON line each
  kvs dump --prefix user: | jq -r .key
  kvs load all.jsonl --dir copy
  kvs check --dir /var/lib/kvs     is every byte as it was written?
  kvs repair --dir /var/lib/kvs    put aside what is not
  kvs backup copy                  a copy that shares the disk space

set and load make the directory if it is not there. While a server has it open, this program waits
some seconds and gives up: use kvs-client then.

Exit codes: 0 done (also: get found no key), 1 failed (also: rm found no key, check found damage),
2 wrong words or flags (also: check could not begin).";

/// Reads and changes the store in a directory, without a server.
#[derive(Debug, Parser)]
#[command(name = "kvs", version, after_help = EXAMPLES, arg_required_else_help = false)]
struct Args {
    /// The store's directory.
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give a key a value.
    Set {
        /// Any bytes, at most 64 KiB.
        key: Word,
        /// Any bytes, at most 512 MiB.
        #[arg(allow_negative_numbers = true)]
        value: Word,
    },
    /// Print a key's value, its bytes as they are, and a newline; or "Key not found".
    Get {
        /// The key.
        key: Word,
    },
    /// Remove a key.
    Rm {
        /// The key.
        key: Word,
    },
    /// Read everything and tell what is not as it was written; nothing is changed.
    ///
    /// Exit code 0: all is sound; 1: there is damage; 2: nothing can be told. While a server has the
    /// directory, it cannot be checked: the server reads all by itself, see its --scrub-rate. A backup
    /// can. What --json prints is in docs/reliability.md.
    Check {
        /// One JSON document in place of lines for people.
        #[arg(long)]
        json: bool,
    },
    /// Put aside what is damaged, save what is sound in it, and tell what is lost.
    ///
    /// Nothing is deleted: damaged files go to quarantine/TIME/ in the directory. A key whose newest
    /// record is lost is not there afterwards; no older value of it comes up, as far as it can be
    /// told which keys these are. May be interrupted and run again. Exit code 0: all is sound now;
    /// 1: it failed on the way; 2: it could not begin.
    Repair {
        /// Only tell what would be done.
        #[arg(long)]
        dry_run: bool,
        /// One JSON document in place of lines for people.
        #[arg(long)]
        json: bool,
    },
    /// Copy the store to a new directory, by hard links where they can be.
    ///
    /// A server makes backups while it runs: SAVE, BGSAVE. To restore one, use its directory as the
    /// store's, or a copy of it.
    Backup {
        /// Not there yet, or empty.
        dest: PathBuf,
    },
    /// Rewrite the files without what was overwritten or removed.
    Compact,
    /// Print all keys and values in key order, as JSON lines.
    ///
    /// {"key":"k","value":"v"}, and {"base64":"..."} in place of a string that is no UTF-8;
    /// "expires_at" (milliseconds since 1970) where a key ends, "database" where it is not in
    /// database 0. A damaged key is named on stderr, the others are printed, and the exit code is 1.
    Dump {
        /// Only the keys that start with this.
        #[arg(long, value_name = "P", default_value = "")]
        prefix: Word,
    },
    /// Set keys from JSON lines, as `dump` prints them.
    ///
    /// Stops at a line that is wrong; what came before it stays.
    Load {
        /// The file; - is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let warn = |line: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        writeln!(line, "kvs: {}", record.args())
    };
    env_logger::Builder::new().filter_level(log::LevelFilter::Warn).format(warn).init();
    shared::main("kvs", run)
}

fn run(args: Args) -> Result<Done, Stop> {
    match args.command {
        Command::Check { json } => check::run(&args.dir, json),
        Command::Repair { dry_run, json } => repair::run(&args.dir, dry_run, json),
        command => on_store(&args.dir, command),
    }
}

fn on_store(dir: &Path, command: Command) -> Result<Done, Stop> {
    let may_make_one = matches!(command, Command::Set { .. } | Command::Load { .. });
    if !may_make_one && !has_store(&OsFs, dir) {
        return without_store(dir, &command);
    }
    // No read workers: nothing in here uses them.
    let store = Options::new(dir).readers(0).open().map_err(|error| match error {
        KvsError::Locked { .. } => shared::failure(format!("{error}; use kvs-client, or stop it")),
        error => error,
    })?;
    match command {
        Command::Set { key, value } => store.put(key.0, value.0)?,
        Command::Get { key } => get(&store, &key)?,
        Command::Rm { key } => return remove(&store, key),
        Command::Compact => compact(&store, dir)?,
        Command::Dump { prefix } => return bulk::dump(&store, prefix.as_ref()),
        Command::Load { file } => bulk::load(&store, &file)?,
        Command::Backup { dest } => backup(&store, &dest)?,
        Command::Check { .. } | Command::Repair { .. } => {}
    }
    Ok(Done::Well)
}

/// Where there is no store there is no key, and none is made: the directory may be a mistyped one.
fn without_store(dir: &Path, command: &Command) -> Result<Done, Stop> {
    let missing = shared::failure(format!("there is no store in {}", dir.display()));
    let done = match command {
        Command::Get { .. } => Done::Well,
        Command::Rm { .. } => Done::InVain,
        _ => return Err(missing.into()),
    };
    eprintln!("kvs: {missing}");
    Output::line(b"Key not found")?;
    Ok(done)
}

fn get(store: &KvStore, key: &Word) -> Result<(), Stop> {
    match store.read(key)? {
        Some(value) => Output::line(&value),
        None => Output::line(b"Key not found"),
    }
}

fn remove(store: &KvStore, key: Word) -> Result<Done, Stop> {
    if store.delete(key.0)? {
        return Ok(Done::Well);
    }
    Output::line(b"Key not found")?;
    Ok(Done::InVain)
}

fn compact(store: &KvStore, dir: &Path) -> Result<(), Stop> {
    let began = Instant::now();
    let (before, _) = store.reader().space();
    let stats = store.reader().stats();
    watch(|| stats.compaction_read.get(), || before, || store.compact())?;
    let (after, _) = store.reader().space();
    eprintln!(
        "compacted {}: {} before, {} now, in {:.1} s",
        dir.display(),
        HumanBytes(before),
        HumanBytes(after),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn backup(store: &KvStore, dest: &Path) -> Result<(), Stop> {
    let began = Instant::now();
    let stats = store.reader().stats();
    // Links are made in no time; copies are not.
    watch(|| stats.backup_copied.get(), || stats.backup_to_copy.get(), || store.backup(dest))?;
    let (bytes, _) = store.reader().space();
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("backed up {} to {} in {seconds:.1} s", HumanBytes(bytes), dest.display());
    Ok(())
}
