#!/usr/bin/env bash
# What one SET and one GET cost inside the server: processor time, wake-ups, switches and system calls
# per operation and thread, and from INFO how many operations went into each group commit, each message
# to the writer and each wake of a loop. Counts, unlike times, hardly depend on how busy the machine is.
#
#   bench/count.sh                    kvs; SET and GET, 50 clients with and without pipelining, and 1 client
#   bench/count.sh --server redis     the same of redis-server
#   bench/count.sh --requests 100000  per measurement [default: by workload]
#   bench/count.sh --only c50-p16     only rows whose name contains this
#   bench/count.sh --tracer strace    not perf trace
#   bench/count.sh --kvs-flags '--loops 2'
#
# Times and switches come from /proc while nothing traces; system calls from a second run under
# `perf trace`, or under `strace -c`, which slows the server and so changes what a batch holds.
# Needs redis-tools, and perf or strace and the right to trace.
set -euo pipefail

server=kvs requests='' only='' kvs_flags='' tracer=''
while [ $# -gt 0 ]; do
  case $1 in
  --server) server=$2 ;;
  --requests) requests=$2 ;;
  --only) only=$2 ;;
  --kvs-flags) kvs_flags=$2 ;;
  --tracer) tracer=$2 ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
  esac
  shift 2
done

readonly KEYS=100000
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target/bench"
dir=$(mktemp -d "$target/bench/count.XXXXXX")
pid=''
clean_up() {
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" || true; }
  rm -rf "$dir"
}
trap clean_up EXIT

port=4733
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
case $server in
kvs)
  cargo build --release --quiet --manifest-path "$root/Cargo.toml" --bin kvs-server
  # shellcheck disable=SC2086 # the flags are words
  "$target/release/kvs-server" --addr "127.0.0.1:$port" --dir "$dir" --log-level warn $kvs_flags &
  ;;
redis)
  redis-server --port "$port" --dir "$dir" --save '' --appendonly yes --appendfsync always >/dev/null &
  ;;
*)
  echo "count.sh: --server is kvs or redis" >&2
  exit 2
  ;;
esac
pid=$!
until redis-cli -p "$port" ping >/dev/null 2>&1; do
  kill -0 "$pid"
  sleep 0.1
done

if [ -z "$tracer" ]; then
  tracer=strace
  if perf trace -s true >/dev/null 2>&1; then tracer='perf trace'; fi
fi

info() { redis-cli -p "$port" info | tr -d '\r'; }

# threads: "TID NAME CPU-NANOSECONDS VOLUNTARY-SWITCHES OTHER-SWITCHES" of each thread
threads() {
  local task
  for task in /proc/"$pid"/task/*; do
    echo "${task##*/} $(tr ' ' _ <"$task/comm")" "$(cut -d' ' -f1 "$task/schedstat")" \
      "$(awk '/_ctxt_switches/ { printf "%s ", $2 }' "$task/status")"
  done
}

# trace COMMAND...: runs it; "TID SYSCALL CALLS" of what the server does meanwhile. The tracer is
# there before the command begins and after it ends, so that every call is counted.
trace() {
  local task tracers=()
  if [ "$tracer" = strace ]; then
    for task in /proc/"$pid"/task/*; do
      strace -c -p "${task##*/}" -o "$dir/strace.${task##*/}" 2>/dev/null &
      tracers+=($!)
    done
  else
    perf trace -s -p "$pid" -o "$dir/perf" &
    tracers=($!)
  fi
  sleep 1
  "$@" >/dev/null
  kill -INT "${tracers[@]}"
  wait "${tracers[@]}" || true
  if [ "$tracer" = strace ]; then
    for task in "$dir"/strace.*; do
      awk -v tid="${task##*.}" '$1 ~ /^[0-9.]+$/ && $NF != "total" { print tid, $NF, $4 }' "$task"
    done
    rm -f "$dir"/strace.*
  else
    awk '
      match($0, /\([0-9]+\), [0-9]+ events/) { tid = substr($0, RSTART + 1) + 0 }
      tid && NF >= 8 && $1 ~ /^[a-z_0-9]+$/ && $2 ~ /^[0-9]+$/ { print tid, $1, $2 }' "$dir/perf"
  fi
}

# row NAME TEST CLIENTS PIPELINE REQUESTS
row() {
  local name=$1 n=${requests:-$5}
  case $name in *"$only"*) ;; *) return ;; esac
  local bench=(redis-benchmark -p "$port" -t "$2" -c "$3" -P "$4" -r "$KEYS" -d 100 -q)
  info >"$dir/info.before"
  threads >"$dir/threads.before"
  "${bench[@]}" -n "$n" >/dev/null
  threads >"$dir/threads.after"
  info >"$dir/info.after"

  local ops=$((n / 4))
  trace "${bench[@]}" -n "$ops" >"$dir/trace"

  printf '\n### %s: %s requests, then %s under %s\n\n' "$name" "$n" "$ops" "$tracer"
  echo '| thread | CPU us per op | wake-ups per op | other switches per op | system calls per op |'
  echo '| --- | --- | --- | --- | --- |'
  awk -v n="$n" -v ops="$ops" '
    FILENAME ~ /trace$/ { calls[$1] = calls[$1] sprintf("%s %.4f, ", $2, $3 / ops); next }
    FILENAME ~ /before$/ { cpu[$1] = $3; woken[$1] = $4; other[$1] = $5; next }
    {
      spent = $3 - cpu[$1]; wakes = $4 - woken[$1]
      if (spent < 1000 * n / 100 && wakes < n / 1000 && !calls[$1]) next
      sub(/, $/, "", calls[$1])
      printf "| %s | %.3f | %.4f | %.4f | %s |\n", $2, spent / 1000 / n, wakes / n, ($5 - other[$1]) / n, calls[$1]
      total += spent
    }
    END { printf "| all | %.3f | | | |\n", total / 1000 / n }
  ' "$dir/trace" "$dir/threads.before" "$dir/threads.after"
  [ "$server" = kvs ] || return 0
  awk -F: -v n="$n" '
    FILENAME ~ /before$/ { before[$1] = $2; next }
    { delta[$1] = $2 - before[$1] }
    function per(a, b) { return delta[b] ? sprintf("%.1f", delta[a] / delta[b]) : "-" }
    END {
      delta["n"] = n
      printf "\nFrom INFO: %s requests per wake of a loop, %s records per group commit, ", per("n", "loop_wakes"), per("group_records", "group_commits")
      printf "%s bytes per record, %s requests per message to the writer and %s per message to the readers; ", per("group_bytes", "group_records"), per("n", "write_messages"), per("n", "read_messages")
      printf "%.1f %% of the requests answered by the loops, %d stalled.\n", 100 * delta["reads_answered_by_loops"] / n, delta["stalled_requests"]
    }' "$dir/info.before" "$dir/info.after"
}

echo "$(date -u +%F), $server, $(nproc) cores, Linux $(uname -r), $KEYS keys, 100 B, fsync always"
redis-benchmark -p "$port" -t set -c 50 -P 16 -r "$KEYS" -d 100 -n $((4 * KEYS)) -q >/dev/null
row SET-c50-p16 set 50 16 1000000
row SET-c50 set 50 1 150000
row SET-c1 set 1 1 10000
row GET-c50-p16 get 50 16 2000000
row GET-c50 get 50 1 200000
row GET-c1 get 1 1 40000
