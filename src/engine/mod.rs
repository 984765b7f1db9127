//! The log-structured store (bitcask's design, with order): append-only segments, an index from key
//! to position in memory, a manifest, compaction beside reads and writes. Knows no sockets.
//!
//! From the bottom up: [`fs`] and `mmap` (the doors to the OS), [`record`], [`segment`], [`scan`],
//! [`hint`] and [`manifest`] (what is on disk), [`keydir`] (what is in memory), `view` and
//! `snapshot` (reading), `group`, `changed`, `watch`, `numbering`, `txn`, `writer`, `show` and `commit`
//! (writing), `recovery`, `compactor`, `expiry`, and `store`, which starts the threads.

mod backup;
mod batch;
mod changed;
pub mod check;
mod commit;
mod compactor;
mod composed;
mod copier;
mod copy;
mod core;
mod cursor;
mod directory;
mod epoch_cell;
mod expiry;
mod extent;
pub mod filename;
pub mod fs;
mod group;
pub mod hint;
mod hint_file;
pub mod hint_lookups;
pub mod keydir;
mod liveness;
pub mod manifest;
mod mark;
mod memory;
mod mend;
mod merge;
mod mmap;
mod numbering;
mod options;
mod parallel;
mod pick;
pub mod position;
mod preparer;
mod range;
pub mod record;
mod recovery;
mod regroup;
pub mod repair;
mod reserve;
mod residency;
pub mod scan;
mod scrub;
pub mod segment;
mod segment_reader;
pub mod segments;
mod show;
mod snapshot;
mod stamp;
mod store;
mod syncer;
mod threads;
mod txn;
mod view;
mod watch;
mod writer;
mod zeros;

pub use crate::config::Fsync;
use crate::error::Result;

pub use backup::{BackupStatus, Backups};
pub use batch::Batch;
pub use commit::WriteJob;
pub use core::DATABASES;
pub use directory::{has_store, name_engine};
pub use memory::MemoryEngine;
pub use numbering::Numbering;
pub use options::Options;
pub use range::Range;
pub use snapshot::{Snapshot, Walk};
pub use store::{KvStore, ReadJob, Reader};
pub use txn::Txn;
pub use view::{Patience, ReadError, Value, View};
pub use watch::Watch;

/// What a store must be able to do to stand behind the server.
pub trait KvsEngine: Clone + Send + 'static {
    /// Sets the value of a key, replacing the one it had.
    fn set(&self, key: String, value: String) -> Result<()>;
    /// The value of a key, `None` where there is none.
    fn get(&self, key: String) -> Result<Option<String>>;
    /// Removes a key; [`KvsError::KeyNotFound`](crate::KvsError::KeyNotFound) where there is none.
    fn remove(&self, key: String) -> Result<()>;
}
