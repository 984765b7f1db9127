//! A durable, ordered key-value store and the server that puts it on the network.
//!
//! [`KvStore`] is the store: a directory of append-only files with an index in memory. Clones share
//! it, readers take no lock, and what a call has returned from survives a power cut.
//!
//! ```
//! # fn main() -> kvs::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("store");
//! use kvs::KvStore;
//!
//! let store = KvStore::open(&dir)?;
//! store.set("name".into(), "Ada".into())?;
//! assert_eq!(store.get("name".into())?, Some("Ada".into()));
//! drop(store);
//!
//! let store = KvStore::open(&dir)?; // the last clone is gone, so the directory is free again
//! store.put(b"\xff", [0, 1, 2])?; // keys and values are any bytes
//! let first = store.prefix("na").next().transpose()?; // and keys are in order
//! assert_eq!(first, Some((b"name".to_vec(), b"Ada".to_vec())));
//! # Ok(())
//! # }
//! ```
//!
//! Several changes happen together or not at all, and a change may depend on what is there:
//!
//! ```
//! # fn main() -> kvs::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! # let store = kvs::KvStore::open(dir.path())?;
//! use kvs::engine::Batch;
//!
//! let mut batch = Batch::new();
//! batch.put("user:1", "Ada").put("user:2", "Grace").delete("draft");
//! store.write(batch)?;
//!
//! let len = store.update(|txn| {
//!     let mut name = txn.get(0, b"user:1")?.map_or_else(Vec::new, |value| value.bytes.into_owned());
//!     name.extend_from_slice(b" Lovelace");
//!     txn.put(0, b"user:1", &name, None)?;
//!     Ok(name.len())
//! })?;
//! assert_eq!(len, "Ada Lovelace".len());
//! # Ok(())
//! # }
//! ```
//!
//! [`server::Server`] is the same store behind a port; the program `kvs-server` is little more than its
//! flags. `examples/embed.rs` is a program with a store of its own, `examples/echo.rs` a server of another
//! kind on the [`reactor`] alone.
//!
//! # Modules
//!
//! Each names only those below it; `reactor`, `engine` and `protocol` never name each other
//! (`tests/tidy.rs` checks it).
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | the wiring: sessions, the order of replies, batches to the workers and back |
//! | [`command`] | one table of commands, a function each; knows neither sockets nor files |
//! | [`client`] | the blocking client that `kvs-client`, the tests and the benchmarks share |
//! | [`engine`] | the store: log, index, group commit, recovery, compaction; knows no sockets |
//! | [`reactor`] | event loops, connections, timers, mailboxes; knows no keys |
//! | [`protocol`] | bytes in, bytes out: text lines, RESP, JSON lines; no threads, no I/O |
//! | [`thread_pool`] | threads for engines whose calls block |
//! | [`config`], [`stats`], [`error`] | settings checked once, counters, the one error type |
//! | [`clock`], [`key_range`], `sync` | the time of day, ranges of keys, locks |
//!
//! # Threads
//!
//! | thread | made in | does | is given work by |
//! | --- | --- | --- | --- |
//! | main | the program | waits for a signal, SHUTDOWN or a failed loop | a channel of reasons to stop |
//! | `acceptor` | `reactor/threads.rs` | accepts sockets, hands them to the loops in turn | the kernel |
//! | `loop-N` | `reactor/threads.rs` | owns its connections: reads, decodes, answers what is in memory | sockets, its mailbox |
//! | `kvs-open` | `server/mod.rs` | opens the store while the loops answer LOADING, then ends | - |
//! | `kvs-write` | `engine/store.rs` | group commits of what the loops submit | a bounded channel |
//! | `kvs-read-N` | `engine/store.rs` | reads that may wait for the disk, walks over many keys | a bounded channel |
//! | `kvs-compact` | `engine/store.rs` | merges, hints, which pages are in memory | a channel from the writer, a clock |
//! | `kvs-prepare` | `engine/store.rs` | creates the next segment, perhaps full of zeros; keeps the reserve | a channel from the writer, a clock |
//! | `kvs-expire` | `engine/store.rs` | removes keys whose time has come | a schedule that the writer fills, a clock |
//! | `kvs-scrub` | `engine/store.rs` | reads closed segments to find damage, at a low rate | a clock |
//! | `kvs-backup` | `engine/backup.rs` | makes one backup in the background, then ends | - |
//! | `kvs-close` | `engine/threads.rs` | closes a store whose last handle one of its own threads drops | - |
//! | `kvs-sync` | `engine/store.rs` | syncs what is not durable yet: with fsync everysec once a second, and each eighth of a segment | a clock, the writer |
//! | `kvs-pool-N` | `thread_pool.rs` | calls of an engine that blocks; in place of all `kvs-*` threads | its queue |
//!
//! A program that embeds [`KvStore`] has the `kvs-*` threads but `kvs-open`, and its own threads
//! read and commit by themselves. docs/architecture.md draws all this and follows a GET, a SET, a
//! transaction, a compaction and an open through the files.

// Module docs explain the inside to those who read the source.
#![allow(rustdoc::private_intra_doc_links)]

pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod engine;
pub mod error;
pub mod key_range;
pub mod protocol;
pub mod reactor;
pub mod server;
pub mod stats;
mod sync;
pub mod thread_pool;

pub use engine::{KvStore, KvsEngine};
pub use error::{KvsError, Result};

/// The Rust in README.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
