//! A durable, ordered key-value store and the server that puts it on the network.

pub mod client;
pub mod command;
pub mod config;
pub mod engine;
pub mod error;
pub mod protocol;
pub mod reactor;
pub mod server;
pub mod stats;
pub mod thread_pool;

pub use engine::{KvStore, KvsEngine};
pub use error::{KvsError, Result};
