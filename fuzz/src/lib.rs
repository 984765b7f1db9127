//! Bodies of the fuzz targets. Each takes any bytes and panics if a promise does not hold.
//!
//! They live once and run twice: under cargo-fuzz (fuzz_targets/), which needs a nightly compiler,
//! and in the normal test run (tests/fuzz_bodies.rs), for a fixed number of inputs.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod files;
mod input;
mod patterns;
mod protocol;
mod store;

pub use files::{configurations, hints, manifests, records, scans};
pub use patterns::patterns;
pub use protocol::{json_entries, replies, requests, words};
pub use store::store;

/// A target: its name, its body, and what to begin with.
pub struct Target {
    pub name: &'static str,
    pub body: fn(&[u8]),
    /// Inputs that make sense, for mutation to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 11] = [
    Target { name: "requests", body: requests, seeds: protocol::request_seeds },
    Target { name: "words", body: words, seeds: Vec::new },
    Target { name: "replies", body: replies, seeds: protocol::reply_seeds },
    Target { name: "json_entries", body: json_entries, seeds: protocol::json_seeds },
    Target { name: "records", body: records, seeds: files::record_seeds },
    Target { name: "scans", body: scans, seeds: Vec::new },
    Target { name: "hints", body: hints, seeds: files::hint_seeds },
    Target { name: "manifests", body: manifests, seeds: files::manifest_seeds },
    Target { name: "configurations", body: configurations, seeds: files::configuration_seeds },
    Target { name: "patterns", body: patterns, seeds: patterns::seeds },
    Target { name: "store", body: store, seeds: Vec::new },
];
