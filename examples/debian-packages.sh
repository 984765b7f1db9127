#!/usr/bin/env bash
# The Debian package index as a trial: loads every stanza that `apt-cache dumpavail` prints through
# kvs-client into one server and through redis-cli --pipe into another, kills both with SIGKILL right
# after the last acknowledgement, starts them again, and reads every stanza back, byte for byte,
# through netcat, kvs-client and redis-cli.
#
#   examples/debian-packages.sh [PACKAGES]
#
# PACKAGES is a file to be used in place of `apt-cache dumpavail` (run `apt-get update` before). Needs
# redis-cli, nc and cargo. The programs are built with --release; BIN=DIR uses those in DIR. Flags
# for the servers go into KVS_FLAGS. Exits with 1 if anything differs.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${BIN:-}" ]; then
    cargo build --quiet --release --bins --example stanzas
    BIN=${CARGO_TARGET_DIR:-target}/release
fi
stanzas=$BIN/examples/stanzas
for program in redis-cli nc "$BIN/kvs-server" "$BIN/kvs-client" "$stanzas"; do
    command -v "$program" >/dev/null || { echo "missing: $program" >&2; exit 2; }
done

work=$(mktemp -d)
declare -A pid port
cleanup() {
    for name in "${!pid[@]}"; do
        kill -KILL "${pid[$name]}" 2>/dev/null || true
        wait "${pid[$name]}" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT

# start NAME: a server on a port of the system's choice, ready when this returns.
start() {
    local name=$1 log=$work/$1.log
    : >"$log"
    # shellcheck disable=SC2086 # several flags
    "$BIN/kvs-server" --addr 127.0.0.1:0 --dir "$work/$name" ${KVS_FLAGS:-} 2>"$log" &
    pid[$name]=$!
    disown
    for _ in $(seq 1000); do
        port[$name]=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$log" | head -n 1)
        if [ -n "${port[$name]}" ] &&
            [ "$(redis-cli -p "${port[$name]}" ping 2>/dev/null)" = PONG ]; then
            return
        fi
        kill -0 "${pid[$name]}" 2>/dev/null || break
        sleep 0.01
    done
    echo "$name does not start:" >&2
    cat "$log" >&2
    exit 1
}

# timed WHAT COMMAND...: runs it, and prints how long it took and how many stanzas a second that is.
timed() {
    local what=$1 begin end
    shift
    begin=${EPOCHREALTIME/./}
    "$@"
    end=${EPOCHREALTIME/./}
    awk -v what="$what" -v us=$((end - begin)) -v n="$count" \
        'BEGIN { printf "%-36s %8.3f s %10d stanzas/s\n", what, us / 1e6, n * 1e6 / us }'
}

# same FILE FILE: they must not differ in a byte.
differences=0
same() {
    if ! cmp "$1" "$2"; then
        differences=$((differences + 1))
    fi
}

load_client() { "$BIN/kvs-client" load "$work/load.jsonl" --addr "127.0.0.1:${port[client]}"; }
load_pipe() {
    redis-cli -p "${port[pipe]}" --pipe <"$work/load.resp" >"$work/pipe.out"
    grep -q "errors: 0, replies: $count" "$work/pipe.out" || {
        cat "$work/pipe.out" >&2
        exit 1
    }
}
read_nc() { nc 127.0.0.1 "${port[$1]}" <"$work/get.resp" >"$work/$1.nc"; }
read_client() { "$BIN/kvs-client" dump --addr "127.0.0.1:${port[$1]}" >"$work/$1.dump"; }
read_redis() { redis-cli -p "${port[$1]}" <"$work/get.txt" >"$work/$1.redis"; }

if [ $# -gt 0 ]; then
    "$stanzas" "$work" <"$1" >"$work/counts"
else
    apt-cache dumpavail | "$stanzas" "$work" >"$work/counts"
fi
read -r count keys bytes <"$work/counts"
echo "$count stanzas, $keys keys, $bytes bytes"
[ "$count" -gt 0 ] || { echo "no packages: run apt-get update" >&2; exit 1; }

start client
start pipe
timed "load through kvs-client" load_client
kill -KILL "${pid[client]}"
timed "load through redis-cli --pipe" load_pipe
kill -KILL "${pid[pipe]}"
echo "both killed; starting again"
for name in client pipe; do
    # Until the old one is gone its directory is locked; the new one waits for it.
    timed "restart ($name)" start "$name"
done
for name in client pipe; do
    timed "read back through netcat ($name)" read_nc "$name"
    same "$work/got.resp" "$work/$name.nc"
    timed "read back through kvs-client ($name)" read_client "$name"
    same "$work/dump.jsonl" "$work/$name.dump"
    timed "read back through redis-cli ($name)" read_redis "$name"
    same "$work/got.txt" "$work/$name.redis"
    found=$(redis-cli -p "${port[$name]}" dbsize)
    [ "$found" = "$keys" ] || { echo "$name has $found keys, not $keys" >&2; differences=$((differences + 1)); }
done
if [ "$differences" -gt 0 ]; then
    echo "$differences differences" >&2
    exit 1
fi
echo "every stanza came back, byte for byte"
