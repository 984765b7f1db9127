//! The dependency rule of docs/architecture.md, checked from the `use` lines: strictly downward, and
//! `reactor`, `engine` and `protocol` never name each other.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What each layer may name beside itself.
const RULES: [(&str, &[&str]); 15] = [
    ("error", &[]),
    ("stats", &[]),
    ("clock", &[]),
    ("sync", &[]),
    ("key_range", &[]),
    ("config", &["error"]),
    ("thread_pool", &["error"]),
    ("protocol", &["error"]),
    ("reactor", &["error", "config", "stats"]),
    ("engine", &["error", "config", "stats", "clock", "sync", "key_range"]),
    ("command", &["protocol", "error", "config", "stats", "clock", "key_range"]),
    ("client", &["protocol", "error"]),
    (
        "server",
        &[
            "reactor",
            "engine",
            "command",
            "protocol",
            "thread_pool",
            "config",
            "error",
            "stats",
            "clock",
            "sync",
            "key_range",
        ],
    ),
    ("bin", &["server", "client", "engine", "protocol", "config", "error", "key_range", "kvs"]),
    ("lib", &["engine", "error"]),
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

fn layer(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The layers named after `prefix` in a line of code.
fn named<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    line.match_indices(prefix)
        .filter_map(|(at, _)| {
            let rest = &line[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            RULES.iter().any(|(layer, _)| *layer == name).then_some(name)
        })
        .collect()
}

#[test]
fn layers_name_only_what_lies_below_them() {
    let mut broken = Vec::new();
    let files = sources(&root().join("src"));
    assert!(files.len() > 30);
    for path in files {
        let own = layer(&path);
        let (_, allowed) = RULES.iter().find(|(layer, _)| *layer == own).unwrap_or_else(|| {
            panic!("{} belongs to no layer: give it a rule here", path.display())
        });
        let prefix = if own == "bin" { "kvs::" } else { "crate::" };
        for (i, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            // Documentation may link upwards.
            let code = line.split("//").next().unwrap_or_default();
            for name in named(code, prefix) {
                if name != own && !allowed.contains(&name) {
                    broken.push(format!("{}:{}: {own} names {name}", path.display(), i + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_modules() {
    let allowed = ["src/engine/mmap.rs", "src/engine/epoch_cell.rs"];
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let has = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        assert_eq!(has, allowed.contains(&name.as_str()), "unsafe code in {name}?");
    }
}

#[test]
fn files_stay_readable() {
    for path in sources(&root().join("src")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 560, "{} has {lines} lines: it is more than one concept", path.display());
    }
}
