//! Bytes in, bytes out: no threads and no I/O in here.
//!
//! ```text
//! input -> Decoder -+- `*` multibulk -+-> Args (words of one request) -> command -> Reply -> output
//!                   +- `{` json ------+                                               |
//!                   +- else inline ---+              JSON lines: json_reply rewrites it
//! ```
//!
//! Clients have the other direction: [`encode_command`] and [`ReplyDecoder`]. Loading and dumping
//! exchange [`JsonEntry`] lines.

mod args;
mod decoder;
mod inline;
mod json;
mod json_lines;
mod json_reply;
mod multibulk;
mod reply;
mod reply_decoder;
mod resp;
mod scan;
mod words;

pub use args::{Args, Span};
pub use decoder::{Decoder, Kind, Limits, ProtocolError, Request};
pub use inline::split_line;
pub use json::JsonId;
pub use json_lines::{JsonEntry, write_json_entry};
pub use json_reply::{write_json_bytes, write_json_error, write_json_reply};
pub use reply::{Reply, Version};
pub use reply_decoder::ReplyDecoder;
pub use resp::{BadReply, Value, encode_command};
pub use scan::parse_integer;
