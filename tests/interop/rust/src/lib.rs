//! What the tests of the `redis` crate share: connections, and the server's life.

use std::process::Command;
use std::time::Duration;

use redis::{Client, Connection, RedisError, RedisResult};

/// Both versions of the protocol, as the crate's addresses name them.
pub const WIRES: [&str; 2] = ["resp2", "resp3"];

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see tests/interop/run"))
}

/// The server's address for the crate.
pub fn url(wire: &str, database: u8) -> String {
    let (host, port) = (variable("INTEROP_HOST"), variable("INTEROP_PORT"));
    format!("redis://{host}:{port}/{database}?protocol={wire}")
}

/// How to reach the server.
pub fn client(wire: &str) -> Client {
    Client::open(url(wire, 0)).unwrap()
}

/// A connection to an empty server.
pub fn connect(wire: &str) -> Connection {
    let mut connection = client(wire).get_connection().unwrap();
    let () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
    connection
}

/// Whether the server may be killed.
pub fn is_ours() -> bool {
    std::env::var("INTEROP_CONTROL").is_ok()
}

/// Has the server killed, stopped or started again, as `step` says.
pub fn control(step: &str) {
    assert!(Command::new(variable("INTEROP_CONTROL")).arg(step).status().unwrap().success());
}

/// Bytes in a pattern that shows where a piece is missing.
pub fn filled(size: usize) -> Vec<u8> {
    (0..size as u32 / 4).flat_map(u32::to_le_bytes).collect()
}

/// Asks until there is an answer other than that the server is not there yet, or loading.
pub fn patiently<T>(mut ask: impl FnMut() -> RedisResult<T>) -> RedisResult<T> {
    let passing = |error: &RedisError| error.is_io_error() || error.code() == Some("LOADING");
    let mut left = 2_000;
    loop {
        match ask() {
            Err(error) if passing(&error) && left > 0 => left -= 1,
            answer => return answer,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
