//! Runs redis-benchmark and reads its CSV.

use std::net::SocketAddr;
use std::process::Command;

use crate::error::{Error, Result};
use crate::workload::{Op, Sample, Workload};

/// Runs `workload`, which must not be a mixed one.
pub fn run(addr: SocketAddr, workload: &Workload, keys: u64, requests: u64) -> Result<Sample> {
    let test = match workload.op {
        Op::Set => "set",
        Op::Get => "get",
        Op::Mixed => return Err(Error::new("redis-benchmark does not mix commands")),
    };
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
    command.args(["-t", test, "--csv", "--precision", "3"]);
    for (flag, value) in [
        ("-c", workload.clients as u64),
        ("-P", workload.pipeline as u64),
        ("-d", workload.value_bytes as u64),
        ("-r", keys),
        ("-n", requests),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    let output = command.output().map_err(Error::doing("redis-benchmark (redis-tools)"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        Error::new(format!("redis-benchmark said: {} {}", text.trim(), errors.trim()))
    })
}

/// The figures in the last line: "test","rps","avg","min","p50","p95","p99","max".
fn parse(text: &str) -> Option<Sample> {
    let line = text.lines().rfind(|line| line.starts_with('"') && !line.contains("rps"))?;
    let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
    let number = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some(Sample { per_second: number(1)?, p50: number(4)?, p99: number(6)?, cpu: 0.0 })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_csv_is_understood() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
                    \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"338983.06\",\"2.157\",\"0.440\",\"1.559\",\"3.943\",\"21.327\",\"52.287\"\n";
        let sample = super::parse(text).unwrap();
        assert_eq!((sample.per_second, sample.p50, sample.p99), (338983.06, 1.559, 21.327));
        assert!(super::parse("Could not connect to server\n").is_none());
    }
}
