//! Bytes in, bytes out: no threads and no I/O in here.
//!
//! ```text
//! input -> Decoder -+- `*` multibulk -+-> Args (words of one request) -> command -> Reply -> output
//!                   +- `{` json ------+                                               |
//!                   +- else inline ---+              JSON lines: json_reply rewrites it
//! ```
//!
//! Clients have the other direction: [`encode_command`] and [`ReplyDecoder`].

mod args;
mod decoder;
mod inline;
mod json;
mod multibulk;
mod reply;
mod scan;
mod words;

pub use args::{Args, Span};
pub use decoder::{Decoder, Kind, Limits, ProtocolError, Request};
pub use json::JsonId;
pub use reply::{Reply, Version};
pub use scan::parse_integer;
