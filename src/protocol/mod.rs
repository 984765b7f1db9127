//! Bytes in, bytes out: no threads and no I/O in here.

mod args;
mod reply;

pub use args::{Args, Span};
pub use reply::{Reply, Version};
