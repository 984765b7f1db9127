//! The bodies of the fuzz targets (fuzz/src), for a while each: inputs that make sense and random
//! ones, changed at random. cargo-fuzz runs the same bodies with an eye on coverage, for as long as
//! one likes; docs/reliability.md has the commands.
//!
//! KVS_FUZZ_SECONDS says how long each body runs (instead of a fixed number of inputs);
//! KVS_FUZZ_INPUT names a file that is tried instead, with one body at a time (`cargo test --test
//! fuzz_bodies NAME`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;
mod serving;

use std::time::{Duration, Instant};

use fuzz::{TARGETS, Target};
use serving::Random;

/// The longest random input, and the most that changes add to one.
const LONGEST: usize = 600;

/// What turns up in inputs that make sense.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"*",
    b"$",
    b"*1\r\n",
    b"*2\r\n$",
    b"$3\r\nGET\r\n",
    b"{",
    b"}",
    b"\"",
    b"'",
    b"\\x",
    b"-1",
    b"9223372036854775807",
    b"18446744073709551615",
    b"\xff\xff\xff\xff",
    b"[^",
    b"]",
    b"\"id\":",
    b"\"args\":[",
    b"%1\r\n",
];

/// Shows the input that a body panicked on.
struct Trying<'a>(&'a str, &'a [u8]);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input of '{}': b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

fn input(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    if seeds.is_empty() || random.below(4) == 0 {
        let shift = random.below(8);
        let len = random.below(LONGEST >> shift);
        return (0..len).map(|_| random.next() as u8).collect();
    }
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..random.below(6) {
        change(random, &mut bytes, seeds);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(24)).min(bytes.len());
    match random.below(8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
        3 => drop(bytes.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied())),
        4 if bytes.len() < LONGEST => {
            let again = bytes[at..end].repeat(1 + random.below(4));
            bytes.splice(at..at, again);
        }
        5 => {
            let other = &seeds[random.below(seeds.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        6 => bytes.insert(at, random.next() as u8),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

fn run(name: &str, inputs: usize) {
    let target: &Target = TARGETS.iter().find(|target| target.name == name).unwrap();
    if let Some(path) = std::env::var_os("KVS_FUZZ_INPUT") {
        return (target.body)(&std::fs::read(path).unwrap());
    }
    let seconds = std::env::var("KVS_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let limit = seconds.map(Duration::from_secs);
    let (began, seeds, mut random) = (Instant::now(), (target.seeds)(), Random::seeded());
    let mut done = 0;
    for seed in &seeds {
        let _trying = Trying(name, seed);
        (target.body)(seed);
    }
    while limit.map_or(done < inputs, |limit| began.elapsed() < limit) {
        let input = input(&mut random, &seeds);
        let _trying = Trying(name, &input);
        (target.body)(&input);
        done += 1;
    }
    println!("{name}: {done} inputs");
}

#[test]
fn requests() {
    run("requests", 4000);
}

#[test]
fn words() {
    run("words", 4000);
}

#[test]
fn replies() {
    run("replies", 4000);
}

#[test]
fn json_entries() {
    run("json_entries", 10_000);
}

#[test]
fn records() {
    run("records", 10_000);
}

#[test]
fn scans() {
    run("scans", 4000);
}

#[test]
fn hints() {
    run("hints", 4000);
}

#[test]
fn manifests() {
    run("manifests", 2000);
}

#[test]
fn configurations() {
    run("configurations", 2000);
}

#[test]
fn patterns() {
    run("patterns", 20_000);
}

#[test]
fn store() {
    run("store", 200);
}

#[test]
#[ignore = "writes what cargo-fuzz begins with"]
fn write_corpus() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for target in &TARGETS {
        let dir = corpus.join(target.name);
        std::fs::create_dir_all(&dir).unwrap();
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed{n}")), seed).unwrap();
        }
    }
}

#[test]
fn every_target_runs_here() {
    let tests = include_str!("fuzz_bodies.rs");
    for target in &TARGETS {
        assert!(tests.contains(&format!("run(\"{}\"", target.name)), "{}", target.name);
    }
}
