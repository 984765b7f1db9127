#!/usr/bin/env bash
# Data larger than memory: kvs-server in a memory cgroup that is held to a quarter of its data, GET of
# uniformly random keys, and a PING beside it. Shows what a GET costs in time and in reads from the
# disk, and that event loops do not wait for the disk: the PING's latencies tell.
#
#   bench/cold.sh                          2 million keys of 1 KiB
#   bench/cold.sh --keys 500000 --value-bytes 4096 --seconds 10 --clients 50 --share 4
#   bench/cold.sh --kvs-flags '--readers 16'
#
# Needs root, for the cgroup (version 1 or 2), and redis-tools. Quiet machine, please.
set -euo pipefail

keys=2000000 value_bytes=1024 seconds=15 clients=50 share=4 pings_sent=3000 kvs_flags=''
while [ $# -gt 0 ]; do
  case $1 in
  --keys) keys=$2 ;;
  --value-bytes) value_bytes=$2 ;;
  --seconds) seconds=$2 ;;
  --clients) clients=$2 ;;
  --share) share=$2 ;;
  --pings) pings_sent=$2 ;;
  --kvs-flags) kvs_flags=$2 ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
  esac
  shift 2
done

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --release --quiet --manifest-path "$root/Cargo.toml" --bin kvs-server
mkdir -p "$target/bench"
dir=$(mktemp -d "$target/bench/cold.XXXXXX")
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  cgroup=/sys/fs/cgroup/kvs-cold.$$ limit=memory.max
else
  cgroup=/sys/fs/cgroup/memory/kvs-cold.$$ limit=memory.limit_in_bytes
fi
pid=''
clean_up() {
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" || true; }
  rm -rf "$dir"
  rmdir "$cgroup" 2>/dev/null || true
}
trap clean_up EXIT
mkdir "$cgroup"
memory=$((keys * (value_bytes + 36) / share))
echo $memory >"$cgroup/$limit"

port=4833
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
# shellcheck disable=SC2086 # the flags are words
(
  echo "$BASHPID" >"$cgroup/cgroup.procs"
  exec "$target/release/kvs-server" --addr "127.0.0.1:$port" --dir "$dir" --log-level warn $kvs_flags
) &
pid=$!
until redis-cli -p "$port" dbsize 2>/dev/null | grep -q '^[0-9]'; do
  kill -0 "$pid"
  sleep 0.1
done

load() { "$root/bench/compare.sh" load --addr "127.0.0.1:$port" --keys "$keys" --value-bytes "$value_bytes" "$@"; }
disk() { awk '$1 == "read_bytes:" { print $2 }' "/proc/$pid/io"; }
faults() { awk '{ print $12 }' "/proc/$pid/stat"; }
info() { redis-cli -p "$port" info | tr -d '\r' | awk -F: -v name="$1" '$1 == name { print $2 }'; }
ping() { redis-benchmark -p "$port" -t ping_mbulk -c 1 -n "$1" --csv | tail -1 | tr -d '"'; }

load --fill --clients 50 --pipeline 16 >/dev/null
sleep 3

echo "$(date -u +%F), $(nproc) cores, Linux $(uname -r): $keys keys of $value_bytes B, $clients clients,"
echo "memory of server and page cache held to $((memory >> 20)) MiB, a ${share}th of the data"
echo
echo '| | GET per s | GET p50, p99 ms | PING p50, p99, largest ms | bytes read per GET | major faults per GET | answered by loops |'
echo '| --- | --- | --- | --- | --- | --- | --- |'

# row NAME PIPELINE
row() {
  local disk faults here loader pings
  disk=$(disk) faults=$(faults) here=$(info reads_answered_by_loops)
  load --gets 100 --clients "$clients" --pipeline "$2" --seconds "$seconds" >"$dir/gets" &
  loader=$!
  sleep 2
  pings=$(ping "$pings_sent")
  kill -0 "$loader" 2>/dev/null || echo "cold.sh: the PINGs took longer than the GETs" >&2
  wait "$loader"
  disk=$(($(disk) - disk)) faults=$(($(faults) - faults)) here=$(($(info reads_answered_by_loops) - here))
  sed 's/[(,]//g' "$dir/gets" | awk -v name="$1" -v disk=$disk -v faults=$faults -v here=$here -v pings="$pings" '{
    for (i = 1; i < NF; i++) figure[$i] = $(i + 1)
    for (i = 2; i <= NF; i++) if ($i == "requests") gets = $(i - 1)
    split(pings, ping, ",")
    printf "| %s | %s | %s, %s | %s, %s, %s | %.0f | %.4f | %.0f %% |\n", name, $1, figure["p50"], figure["p99"],
      ping[5], ping[7], ping[8], disk / gets, faults / gets, 100 * here / gets
  }'
}
row 'GET' 1
row 'GET, pipeline 16' 16
