//! Measures kvs-server beside Redis and beside the bare reactor on this machine.
//!
//! `compare table` runs redis-benchmark (and, for what it cannot do, the load generator of this
//! program) against each server in turn, round after round, and prints medians and ratios as a
//! Markdown table. `compare plots` draws throughput against clients and latency at a fixed rate.
//! `compare load` is the load generator alone, against any server that speaks RESP.
//!
//! One thread at a time does anything: this program starts servers and clients as processes.

mod chart;
mod error;
mod generator;
mod machine;
mod plots;
mod redis_benchmark;
mod resp;
mod servers;
mod table;
mod workload;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use error::Result;
use generator::{Keys, Load};

/// Measures kvs-server beside Redis and beside the bare reactor.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The table of all workloads: medians, ratios, latencies
    Table(table::Flags),
    /// SVG plots of throughput against clients, and of latencies at a fixed rate
    Plots(plots::Flags),
    /// The load generator alone
    Load(LoadFlags),
}

/// What every command that starts servers needs to know.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where the servers' directories are made; must be on a disk [default: target/ of kvs]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Use the kvs-server and the ceiling that are there instead of building them
    #[arg(long)]
    no_build: bool,
    /// Keys that are loaded before anything is measured
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// More flags for kvs-server, as in --kvs-flags '--loops 2'
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    kvs_flags: String,
    /// Servers to measure: kvs, redis, ceiling, valkey (where it is installed)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "kvs,redis,ceiling")]
    servers: Vec<servers::Kind>,
}

#[derive(Debug, Args)]
struct LoadFlags {
    /// The server
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4000")]
    addr: SocketAddr,
    /// Connections
    #[arg(short, long, value_name = "N", default_value_t = 50)]
    clients: usize,
    /// Requests that a connection sends at once
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1)]
    pipeline: usize,
    /// Bytes of a value
    #[arg(short = 'd', long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    /// Keys are drawn from this many
    #[arg(short, long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// How many of a hundred requests are GETs; the others are SETs
    #[arg(short, long, value_name = "PERCENT", default_value_t = 80)]
    gets: u32,
    /// How long
    #[arg(short, long, default_value_t = 5.0)]
    seconds: f64,
    /// Requests per second in all, whatever the server does (open loop); else as many as it takes
    #[arg(short, long, value_name = "N")]
    rate: Option<u64>,
    /// Set every key once, in order, and nothing else
    #[arg(long)]
    fill: bool,
}

fn load(flags: &LoadFlags) -> Result<()> {
    let outcome = Load {
        addr: flags.addr,
        clients: flags.clients,
        pipeline: flags.pipeline,
        value_bytes: flags.value_bytes,
        keys: if flags.fill { Keys::InOrder } else { Keys::Random(flags.keys) },
        gets: if flags.fill { 0 } else { flags.gets },
        requests: if flags.fill { flags.keys } else { u64::MAX },
        duration: if flags.fill { Duration::MAX } else { Duration::from_secs_f64(flags.seconds) },
        rate: flags.rate,
    }
    .run()?;
    println!("{outcome}");
    Ok(())
}

fn main() -> ExitCode {
    let done = match Flags::parse().what {
        What::Table(flags) => table::run(&flags),
        What::Plots(flags) => plots::run(&flags),
        What::Load(flags) => load(&flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}
