//! The log-structured store; knows no sockets.
use crate::error::Result;

mod epoch_cell;
pub mod filename;
pub mod fs;
pub mod hint;
pub mod keydir;
pub mod manifest;
mod mmap;
pub mod position;
pub mod record;
pub mod scan;
pub mod segment;
pub mod segments;

/// What a store must be able to do to stand behind the server.
pub trait KvsEngine: Clone + Send + 'static {
    /// Sets the value of a key, replacing the one it had.
    fn set(&self, key: String, value: String) -> Result<()>;
    /// The value of a key, `None` where there is none.
    fn get(&self, key: String) -> Result<Option<String>>;
    /// Removes a key; [`KvsError::KeyNotFound`](crate::KvsError::KeyNotFound) where there is none.
    fn remove(&self, key: String) -> Result<()>;
}

/// The log-structured store.
#[derive(Clone)]
pub struct KvStore {}
