#!/usr/bin/env bash
# Latency during a compaction: requests that fall due at fixed times (an open loop), first without and then
# with a BGREWRITEAOF every tenth of a second, which merges all segments that hold something dead. A
# line per round, and the median of p99 during over p99 before.
#
#   bench/compaction.sh                          20,000 requests per second, 80 % GET, a million keys
#   bench/compaction.sh --rate 10000 --gets 50 --keys 3000000 --seconds 5 --rounds 5
#   bench/compaction.sh --kvs-flags '--loops 2'
#
# Needs redis-tools. Quiet machine, please: two cores are all in use.
set -euo pipefail

rate=20000 gets=80 keys=1000000 seconds=5 rounds=5 kvs_flags=''
while [ $# -gt 0 ]; do
  case $1 in
  --rate) rate=$2 ;;
  --gets) gets=$2 ;;
  --keys) keys=$2 ;;
  --seconds) seconds=$2 ;;
  --rounds) rounds=$2 ;;
  --kvs-flags) kvs_flags=$2 ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
  esac
  shift 2
done

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --release --quiet --manifest-path "$root/Cargo.toml" --bin kvs-server
mkdir -p "$target/bench"
dir=$(mktemp -d "$target/bench/compaction.XXXXXX")
pid=''
clean_up() {
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" || true; }
  rm -rf "$dir"
}
trap clean_up EXIT

port=4843
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
# shellcheck disable=SC2086 # the flags are words
"$target/release/kvs-server" --addr "127.0.0.1:$port" --dir "$dir/store" --log-level warn $kvs_flags &
pid=$!
until redis-cli -p "$port" dbsize 2>/dev/null | grep -q '^[0-9]'; do
  kill -0 "$pid"
  sleep 0.1
done

load() { "$root/bench/compare.sh" load --addr "127.0.0.1:$port" --keys "$keys" "$@"; }
written() { redis-cli -p "$port" info | tr -d '\r' | awk -F: '$1 == "compaction_written_bytes" { print $2 }'; }
run() { load --gets "$gets" --rate "$rate" --seconds "$seconds" | grep -o 'p99 .*max [0-9.]*' | tr -d a-z; }

# One connection for all of them: starting a program takes longer than what is measured.
compact() {
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  while echo BGREWRITEAOF >&3 && read -r <&3; do sleep 0.1; done
}

load --fill --clients 50 --pipeline 16 >/dev/null
sleep 3

echo "$(date -u +%F), $(nproc) cores, Linux $(uname -r): $keys keys of 100 B, $rate requests per s, $gets % GET"
echo
echo '| round | before: p99, p99.9, largest ms | during | MB written by merges | p99 during / before |'
echo '| --- | --- | --- | --- | --- |'
for round in $(seq "$rounds"); do
  # The generator draws the same keys each time: these scatter them over all segments again.
  load --gets 0 --clients 50 --pipeline 16 --seconds 2 >/dev/null
  sleep 2
  before=$(run)
  merged=$(written)
  compact &
  compacting=$!
  during=$(run)
  kill $compacting && wait $compacting || true
  merged=$(($(written) - merged))
  echo "$round $before $during $merged" | tr -d '(),' |
    awk '{ printf "| %s | %s, %s, %s | %s, %s, %s | %.0f | %.2f |\n", $1, $3, $5, $6, $8, $10, $11, $NF / 1e6, $8 / $3 }'
done 2>/dev/null | tee "$dir/rows"
ratios=$(awk -F'|' '{ print $6 }' "$dir/rows" | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }')
echo
echo "median: $ratios"
