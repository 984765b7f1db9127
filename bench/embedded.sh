#!/usr/bin/env bash
# kvs as a library beside LMDB, redb, fjall, sled and, where wanted, RocksDB: durable puts of 1, 16 and
# 64 threads, loads and overwrites without fsync, reopening, random gets, memory per key, space on disk;
# the engines in turn, medians and ratios as a Markdown table.
#
#   bench/embedded.sh                      all; some twenty minutes
#   bench/embedded.sh --quick --only puts --engines kvs,lmdb     a look; see --help
#   FEATURES=rocksdb bench/embedded.sh     RocksDB too: needs a C++ compiler and clang's library (Debian:
#                                          g++ libclang-dev), and compiles for many minutes
#
# Quiet machine, please: nothing else running.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
exec cargo run --release --quiet --locked --manifest-path "$root/bench/embedded/Cargo.toml" \
  --features "${FEATURES:-}" -- "$@"
