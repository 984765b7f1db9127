//! The plots of docs/performance.md: throughput against the number of clients (closed loop), and
//! latency percentiles while requests come at a fixed rate (open loop), of each server in turn.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::Common;
use crate::chart::{Chart, Series};
use crate::error::{Error, Result};
use crate::generator::{Keys, Load, Outcome};
use crate::machine;
use crate::servers::{Fsync, Place, Server, Setting, settle};
use crate::table::median;

/// Values have so many bytes.
const VALUE: usize = 100;
/// The connections of the runs at a fixed rate.
const OPEN_LOOP_CLIENTS: usize = 50;
const PERCENTILES: [f64; 9] = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];

#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    common: Common,
    /// Where the SVG files go [default: docs/ of kvs]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How often each point is measured; the median is drawn
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// How long each point is measured
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_value = "1,2,5,10,20,50,100,200,500")]
    clients: Vec<usize>,
    /// Requests per second of the runs at a fixed rate
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    rate: u64,
}

pub fn run(flags: &Flags) -> Result<()> {
    if flags.rounds == 0 || flags.clients.is_empty() {
        return Err(Error::new("there is nothing to measure"));
    }
    let place = Place::prepare(&flags.common)?;
    let docs = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let out = flags.out.clone().unwrap_or_else(docs);
    std::fs::create_dir_all(&out).map_err(Error::doing(out.display()))?;
    let header = machine::describe(&place.dir);
    let setting = Setting { fsync: Fsync::Always, value_bytes: VALUE, keys: flags.common.keys };
    let mut servers = Vec::new();
    for &kind in &flags.common.servers {
        let server = Server::start(&place, kind, &setting)?;
        server.fill(&setting)?;
        servers.push(server);
    }
    println!("{header}- `{}`\n", machine::command_line());
    for (name, title, gets) in [("set", "SET", 0), ("get", "GET", 100)] {
        let chart = throughput(flags, &servers, title, gets)?;
        write(&out, &format!("throughput-{name}.svg"), &chart)?;
        let chart = latency(flags, &servers, title, gets)?;
        write(&out, &format!("latency-{name}.svg"), &chart)?;
    }
    Ok(())
}

fn write(out: &std::path::Path, name: &str, chart: &Chart) -> Result<()> {
    let path = out.join(name);
    std::fs::write(&path, chart.svg()).map_err(Error::doing(path.display()))?;
    println!("\nwrote {name}");
    Ok(())
}

fn once(
    flags: &Flags,
    server: &Server,
    clients: usize,
    gets: u32,
    rate: Option<u64>,
) -> Result<Outcome> {
    Load {
        addr: server.addr,
        clients,
        pipeline: 1,
        value_bytes: VALUE,
        keys: Keys::Random(flags.common.keys),
        gets,
        requests: u64::MAX,
        duration: Duration::from_secs_f64(flags.seconds),
        rate,
    }
    .run()
}

fn throughput(flags: &Flags, servers: &[Server], op: &str, gets: u32) -> Result<Chart> {
    let mut series: Vec<Series> = servers
        .iter()
        .map(|server| Series { name: server.kind.name().into(), points: Vec::new() })
        .collect();
    let steps = (flags.clients.len() - 1).max(1) as f64;
    for (step, &clients) in flags.clients.iter().enumerate() {
        let mut figures = vec![Vec::new(); servers.len()];
        for _ in 0..flags.rounds {
            for (server, figures) in servers.iter().zip(&mut figures) {
                settle(servers);
                figures.push(once(flags, server, clients, gets, None)?.per_second());
            }
        }
        print!("{op} {clients:4} clients:");
        for ((server, figures), series) in servers.iter().zip(&figures).zip(&mut series) {
            print!("  {} {:.0}/s", server.kind.name(), median(figures));
            series.points.push((step as f64 / steps, median(figures)));
        }
        println!();
    }
    let ticks = flags.clients.iter().enumerate();
    Ok(Chart {
        title: format!("{op} of {VALUE} B, fsync always: throughput"),
        x_label: "clients, one request in flight each".into(),
        y_label: "requests per second".into(),
        x_ticks: ticks.map(|(i, n)| (i as f64 / steps, n.to_string())).collect(),
        log_y: false,
        series,
    })
}

fn latency(flags: &Flags, servers: &[Server], op: &str, gets: u32) -> Result<Chart> {
    let mut runs: Vec<Vec<Outcome>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..flags.rounds {
        for (server, runs) in servers.iter().zip(&mut runs) {
            settle(servers);
            let clients = OPEN_LOOP_CLIENTS;
            runs.push(once(flags, server, clients, gets, Some(flags.rate))?);
        }
    }
    // Of the number of nines that a percentile has: the tail gets as much room as the body.
    let nines = |percent: f64| -(1.0 - percent / 100.0).log10();
    let last = nines(PERCENTILES[PERCENTILES.len() - 1]);
    let mut series = Vec::new();
    for (server, runs) in servers.iter().zip(&runs) {
        print!("{op} at {}/s, ms: {:8}", flags.rate, server.kind.name());
        let mut points = Vec::new();
        for percent in PERCENTILES {
            let each: Vec<f64> = runs.iter().map(|run| run.quantile(percent / 100.0)).collect();
            points.push((nines(percent) / last, median(&each)));
            print!("  p{percent} {:.3}", median(&each));
        }
        println!();
        series.push(Series { name: server.kind.name().into(), points });
    }
    let label = |percent: f64| (nines(percent) / last, format!("{percent}"));
    Ok(Chart {
        title: format!("{op} of {VALUE} B, fsync always: latency at {} requests/s", flags.rate),
        x_label: "percentile".into(),
        y_label: "milliseconds".into(),
        x_ticks: [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999].map(label).into(),
        log_y: true,
        series,
    })
}
