//! The workloads, each with the bars it is held to.

use crate::servers::Fsync;

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Set,
    Get,
    /// 80 % GET and 20 % SET on each connection.
    Mixed,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What `--only` names.
    pub id: &'static str,
    pub op: Op,
    pub fsync: Fsync,
    pub value_bytes: usize,
    pub clients: usize,
    pub pipeline: usize,
    /// Takes some seconds on a machine with two cores.
    pub requests: u64,
    /// kvs is to do at least so many times what Redis does ...
    pub beside_redis: f64,
    /// ... and at least so many times what the bare reactor does.
    pub beside_ceiling: Option<f64>,
}

impl Workload {
    pub fn title(&self) -> String {
        let op = match self.op {
            Op::Set => "SET",
            Op::Get => "GET",
            Op::Mixed => "80 % GET, 20 % SET",
        };
        let size = match self.value_bytes {
            size if size % 1024 == 0 => format!("{} KiB", size / 1024),
            size => format!("{size} B"),
        };
        let clients = if self.clients == 1 { "client" } else { "clients" };
        let mut title = format!("{op} {size}, {} {clients}", self.clients);
        if self.pipeline > 1 {
            title += &format!(", pipeline {}", self.pipeline);
        }
        if self.fsync == Fsync::EverySec {
            title += ", everysec";
        }
        title
    }
}

/// What one run gave. Latencies in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub per_second: f64,
    pub p50: f64,
    pub p99: f64,
    /// The server's processor time per request, in microseconds.
    pub cpu: f64,
}

/// All rows, those of the same setting next to each other.
pub fn all() -> Vec<Workload> {
    use Fsync::{Always, EverySec};
    use Op::{Get, Mixed, Set};
    let row =
        |id, op, (fsync, value_bytes), (clients, pipeline), requests, beside_redis| Workload {
            id,
            op,
            fsync,
            value_bytes,
            clients,
            pipeline,
            requests,
            beside_redis,
            beside_ceiling: None,
        };
    let small = (Always, 100);
    let large = (Always, 1024);
    let mut rows = vec![
        row("set-c50", Set, small, (50, 1), 300_000, 1.15),
        row("set-c50-p16", Set, small, (50, 16), 2_000_000, 2.0),
        row("set-c1", Set, small, (1, 1), 30_000, 1.0),
        row("get-c50", Get, small, (50, 1), 400_000, 1.0),
        row("get-c50-p16", Get, small, (50, 16), 3_000_000, 1.5),
        row("get-c1", Get, small, (1, 1), 80_000, 1.0),
        row("set-c500", Set, small, (500, 1), 400_000, 1.0),
        row("get-c500", Get, small, (500, 1), 400_000, 1.0),
        row("mixed-c50-p16", Mixed, small, (50, 16), 2_000_000, 1.5),
        row("set-1k-c50-p16", Set, large, (50, 16), 800_000, 3.0),
        row("get-1k-c50-p16", Get, large, (50, 16), 1_500_000, 1.3),
        row("set-everysec-c50-p16", Set, (EverySec, 100), (50, 16), 2_000_000, 1.3),
    ];
    rows[0].beside_ceiling = Some(0.85);
    rows[3].beside_ceiling = Some(0.95);
    rows
}
