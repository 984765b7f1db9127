//! The time of day, in which expiry is reckoned. Any thread.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    since_epoch().as_millis() as u64
}

/// How long ago 1970 began; nothing where the clock says that it is yet to come.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
