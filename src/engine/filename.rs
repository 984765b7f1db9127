//! The names of the files in a store's directory, and what a name tells of a file.
//!
//! ```text
//!   LOCK           locked while a process has the store open; holds its pid
//!   ENGINE         the name of the engine that made the directory
//!   MANIFEST       which segments there are
//!   RESERVE        zeros; its room is given back when the disk is full
//!   00000007.log   a segment; numbers only ever grow
//!   00000007.hint  the keys of that segment, sorted
//!   *.tmp          being written; of no meaning until renamed
//! ```

use std::path::{Path, PathBuf};

/// The lock file's name.
pub const LOCK: &str = "LOCK";
/// The file that names the engine.
pub const ENGINE: &str = "ENGINE";
/// The file that keeps room for a full disk.
pub const RESERVE: &str = "RESERVE";
/// The manifest's name.
pub const MANIFEST: &str = "MANIFEST";

/// What a file in the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The segment with this number.
    Segment(u64),
    /// The hint of the segment with this number.
    Hint(u64),
    /// A file that was being written when its process stopped.
    Temporary,
    /// One of the fixed names, or none of ours.
    Other,
}

/// The path of segment `number`.
pub fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The path of the hint of segment `number`.
pub fn hint(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.hint"))
}

/// Where a file is written before it is renamed to `path`.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// What the file called `name` is.
pub fn kind(name: &str) -> Kind {
    match name.rsplit_once('.') {
        Some((stem, "log")) => number(stem).map_or(Kind::Other, Kind::Segment),
        Some((stem, "hint")) => number(stem).map_or(Kind::Other, Kind::Hint),
        Some((stem, "tmp")) if stem == MANIFEST || kind(stem) != Kind::Other => Kind::Temporary,
        _ => Kind::Other,
    }
}

/// Whether a store gives this name to files of its own.
pub fn is_of_a_store(name: &str) -> bool {
    kind(name) != Kind::Other || [LOCK, ENGINE, RESERVE, MANIFEST].contains(&name)
}

fn number(stem: &str) -> Option<u64> {
    (stem.len() >= 8 && stem.bytes().all(|b| b.is_ascii_digit())).then(|| stem.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for n in [0, 7, 99_999_999, 100_000_000, u64::MAX] {
            let name = |p: PathBuf| p.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(kind(&name(segment(Path::new("d"), n))), Kind::Segment(n));
            assert_eq!(kind(&name(hint(Path::new("d"), n))), Kind::Hint(n));
            assert_eq!(kind(&name(temporary(&hint(Path::new("d"), n)))), Kind::Temporary);
        }
        for other in ["MANIFEST", "LOCK", "7.log", "notes.tmp", "0000000x.log", ".log", ""] {
            assert_eq!(kind(other), Kind::Other, "{other}");
        }
        assert_eq!(kind("MANIFEST.tmp"), Kind::Temporary);
        for (name, is_one) in [("LOCK", true), ("00000001.hint.tmp", true), ("backups", false)] {
            assert_eq!(is_of_a_store(name), is_one, "{name}");
        }
    }
}
