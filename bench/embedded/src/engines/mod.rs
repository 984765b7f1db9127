//! kvs and its peers behind one trait, each a file of its own, as its documentation says to use it.

#[cfg(feature = "fjall")]
mod fjall;
mod floor;
#[cfg(feature = "heed")]
mod heed;
mod kvs;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sled")]
mod sled;

use std::path::Path;

use crate::Result;

/// Whether a put is on the disk before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut takes nothing back.
    Durable,
    /// No fsync: left to the system, or to a thread in the background.
    Relaxed,
}

/// A key and its value.
pub type Pair<'a> = ([u8; 16], &'a [u8]);

/// An open store; closed when dropped.
pub trait Engine: Send + Sync {
    /// Sets one key, as durably as the store was opened.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Sets some keys at once, in whatever this engine has for that.
    fn put_many(&self, pairs: &[Pair<'_>]) -> Result<()>;

    /// Looks keys up one after another, in one transaction or view, and shows each value that is
    /// there without copying it where the engine can.
    fn get_many(&self, keys: &[[u8; 16]], see: &mut dyn FnMut(&[u8])) -> Result<()>;
}

type Open = fn(&Path, Durability) -> Result<Box<dyn Engine>>;

/// The name of what is no store: a write and a sync, for puts only.
pub const FLOOR: &str = "floor";

/// All engines that were compiled in, kvs first.
pub const ENGINES: &[(&str, Open)] = &[
    ("kvs", kvs::open),
    ("kvs-unordered", kvs::open_unordered),
    (FLOOR, floor::open),
    #[cfg(feature = "heed")]
    ("lmdb", heed::open),
    #[cfg(feature = "redb")]
    ("redb", redb::open),
    #[cfg(feature = "rocksdb")]
    ("rocksdb", rocksdb::open),
    #[cfg(feature = "fjall")]
    ("fjall", fjall::open),
    #[cfg(feature = "sled")]
    ("sled", sled::open),
];
