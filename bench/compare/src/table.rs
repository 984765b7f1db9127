//! The table: every workload against every server, in turn, round after round.
//!
//! Ratios are taken within a round, between runs that follow each other, and the median of the
//! rounds is shown: what drifts from minute to minute falls out of them.

use std::fmt::Write;

use clap::Args;

use crate::Common;
use crate::error::{Error, Result};
use crate::generator::{Keys, Load};
use crate::machine;
use crate::redis_benchmark;
use crate::servers::{Kind, Place, Server, Setting, settle};
use crate::workload::{self, Op, Sample, Workload};

/// In a quick run.
const QUICK: u64 = 8;

#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    common: Common,
    /// How often each server is measured with each workload
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// An eighth of the requests: shows that all works, not how fast
    #[arg(long)]
    quick: bool,
    /// Only the workloads whose name contains this; several with commas (see --list)
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
    /// Requests per run [default: by workload, for some seconds each]
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Use this program's own load generator for all workloads, not redis-benchmark
    #[arg(long)]
    own_client: bool,
    /// Print the names of the workloads
    #[arg(long)]
    list: bool,
}

impl Flags {
    fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| id.contains(part.as_str()))
    }

    fn requests(&self, workload: &Workload) -> u64 {
        let usual = if self.quick { workload.requests / QUICK } else { workload.requests };
        self.requests.unwrap_or(usual)
    }
}

/// The samples of a workload: for each round one of each server, in the order of the servers.
struct Measured {
    workload: Workload,
    rounds: Vec<Vec<Sample>>,
}

pub fn run(flags: &Flags) -> Result<()> {
    let rows: Vec<Workload> =
        workload::all().into_iter().filter(|row| flags.wants(row.id)).collect();
    if flags.list {
        rows.iter().for_each(|row| println!("{:22} {}", row.id, row.title()));
        return Ok(());
    }
    if rows.is_empty() || flags.rounds == 0 {
        return Err(Error::new("there is nothing to measure; see --list"));
    }
    let place = Place::prepare(&flags.common)?;
    let header = header(flags, &place);
    let mut measured = Vec::new();
    let setting = |row: &Workload| Setting {
        fsync: row.fsync,
        value_bytes: row.value_bytes,
        keys: flags.common.keys,
    };
    for rows in rows.chunk_by(|a, b| setting(a) == setting(b)) {
        let setting = setting(&rows[0]);
        let servers = start(flags, &place, &setting)?;
        for row in rows {
            measured.push(measure(flags, &servers, row)?);
        }
    }
    println!("{header}\n{}", markdown(&flags.common.servers, &measured));
    Ok(())
}

fn start(flags: &Flags, place: &Place, setting: &Setting) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for &kind in &flags.common.servers {
        eprintln!("starting {}, {} keys", kind.name(), setting.keys);
        let server = Server::start(place, kind, setting)?;
        server.fill(setting)?;
        servers.push(server);
    }
    Ok(servers)
}

fn measure(flags: &Flags, servers: &[Server], row: &Workload) -> Result<Measured> {
    let mut rounds = Vec::new();
    for round in 1..=flags.rounds {
        let mut samples = Vec::new();
        for server in servers {
            settle(servers);
            let sample = sample(flags, server, row)?;
            eprintln!(
                "{:22} round {round} {:8} {:9.0}/s  p99 {:.3} ms  {:.2} us of CPU each",
                row.id,
                server.kind.name(),
                sample.per_second,
                sample.p99,
                sample.cpu
            );
            samples.push(sample);
        }
        rounds.push(samples);
    }
    Ok(Measured { workload: row.clone(), rounds })
}

fn sample(flags: &Flags, server: &Server, row: &Workload) -> Result<Sample> {
    let requests = flags.requests(row);
    let before = server.cpu();
    let mut sample = if row.op == Op::Mixed || flags.own_client {
        own_client(server, row, flags.common.keys, requests)?
    } else {
        redis_benchmark::run(server.addr, row, flags.common.keys, requests)?
    };
    sample.cpu = (server.cpu() - before).as_secs_f64() * 1e6 / requests as f64;
    Ok(sample)
}

fn own_client(server: &Server, row: &Workload, keys: u64, requests: u64) -> Result<Sample> {
    let gets = match row.op {
        Op::Set => 0,
        Op::Get => 100,
        Op::Mixed => 80,
    };
    let load = Load {
        addr: server.addr,
        clients: row.clients,
        pipeline: row.pipeline,
        value_bytes: row.value_bytes,
        keys: Keys::Random(keys),
        gets,
        requests,
        duration: std::time::Duration::MAX,
        rate: None,
    };
    let outcome = load.run()?;
    if outcome.missing > 0 {
        return Err(Error::new(format!("{} lost {} keys", server.kind.name(), outcome.missing)));
    }
    Ok(Sample {
        per_second: outcome.per_second(),
        p50: outcome.quantile(0.5),
        p99: outcome.quantile(0.99),
        cpu: 0.0,
    })
}

fn header(flags: &Flags, place: &Place) -> String {
    let mut text = machine::describe(&place.dir);
    let versions = flags.common.servers.iter().filter(|kind| kind.stores());
    let versions: Vec<String> =
        versions.map(|&kind| format!("{} {}", kind.name(), place.version(kind))).collect();
    let _ = writeln!(text, "- {}", versions.join(", "));
    let _ = writeln!(
        text,
        "- `{}`: {} keys of 16 bytes, medians of {} rounds; in brackets the lowest and the highest; CPU: the server's processor time per request\n",
        machine::command_line(),
        flags.common.keys,
        flags.rounds
    );
    text
}

/// Two tables: who is faster by how much, and what it takes.
fn markdown(kinds: &[Kind], measured: &[Measured]) -> String {
    let mut text = String::new();
    let kvs = kinds.iter().position(|&kind| kind == Kind::Kvs);
    let others = || kinds.iter().enumerate().filter(|&(i, _)| Some(i) != kvs);
    let mut titles = vec!["workload".to_owned()];
    if kvs.is_some() {
        others().for_each(|(_, kind)| titles.push(format!("kvs/{} | bar", kind.name())));
    }
    kinds.iter().for_each(|kind| titles.push(format!("{} per s", kind.name())));
    row(&mut text, &titles);
    rule(&mut text);
    for of in measured {
        let mut cells = vec![of.workload.title()];
        if let Some(kvs) = kvs {
            for (other, &kind) in others() {
                let ratios = of.each(|round| round[kvs].per_second / round[other].per_second);
                cells.push(ratio(&ratios));
                cells.push(of.bar(kind).map_or("-".into(), |bar| verdict(median(&ratios), bar)));
            }
        }
        cells.extend(kinds.iter().enumerate().map(|(i, _)| {
            let per_second = median(&of.each(|round| round[i].per_second));
            format!("{per_second:.0}")
        }));
        row(&mut text, &cells);
    }
    text.push('\n');
    let mut titles = vec!["workload".to_owned()];
    if kvs.is_some() {
        others().for_each(|(_, kind)| titles.push(format!("p99 kvs/{}", kind.name())));
    }
    kinds.iter().for_each(|kind| titles.push(format!("{} p50, p99 ms", kind.name())));
    kinds.iter().for_each(|kind| titles.push(format!("{} CPU us", kind.name())));
    row(&mut text, &titles);
    rule(&mut text);
    for of in measured {
        let mut cells = vec![of.workload.title()];
        if let Some(kvs) = kvs {
            let p99 = |other: usize| of.each(|round| round[kvs].p99 / round[other].p99);
            cells.extend(others().map(|(other, _)| ratio(&p99(other))));
        }
        cells.extend(kinds.iter().enumerate().map(|(i, _)| {
            let p50 = median(&of.each(|round| round[i].p50));
            format!("{p50:.3}, {:.3}", median(&of.each(|round| round[i].p99)))
        }));
        cells.extend(kinds.iter().enumerate().map(|(i, _)| {
            let cpu = median(&of.each(|round| round[i].cpu));
            format!("{cpu:.2}")
        }));
        row(&mut text, &cells);
    }
    text
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// The line under the titles that were just written.
fn rule(text: &mut String) {
    let columns = text.lines().last().map_or(0, |titles| titles.matches('|').count() - 1);
    let _ = writeln!(text, "|{}", " --- |".repeat(columns));
}

fn verdict(ratio: f64, bar: f64) -> String {
    format!("{bar:.2} {}", if ratio >= bar { "met" } else { "**not met**" })
}

impl Measured {
    fn each(&self, figure: impl Fn(&[Sample]) -> f64) -> Vec<f64> {
        self.rounds.iter().map(|round| figure(round)).collect()
    }

    /// What the ratio to another server is held to.
    fn bar(&self, beside: Kind) -> Option<f64> {
        match beside {
            Kind::Redis => Some(self.workload.beside_redis),
            Kind::Ceiling => self.workload.beside_ceiling,
            _ => None,
        }
    }
}

/// The middle one, or the mean of the middle two.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn ratio(figures: &[f64]) -> String {
    let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({lowest:.2}-{highest:.2})", median(figures))
}
