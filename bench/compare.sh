#!/usr/bin/env bash
# kvs-server beside Redis and beside the bare reactor: requests per second, latencies and processor
# time of every workload, each server in turn, medians and ratios as a Markdown table.
#
#   bench/compare.sh                       the table; some twenty minutes
#   bench/compare.sh --quick --only set    a look at the SETs; see --help, --list
#   bench/compare.sh plots                 throughput against clients, latency at a fixed rate: SVG in docs/
#   bench/compare.sh load --addr IP:PORT   the load generator alone
#
# Needs redis-server and redis-tools (Debian's packages). Quiet machine, please: nothing else running.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
case ${1:-} in
table | plots | load | help) ;;
*) set -- table "$@" ;;
esac
exec cargo run --release --quiet --locked --manifest-path "$root/bench/compare/Cargo.toml" -- "$@"
