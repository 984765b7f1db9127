//! Checking a directory: everything in it is read and compared with what it must be, and nothing is
//! changed. `kvs check` prints the [`Report`], `kvs repair` begins with it.
//!
//! Thread: the caller, and short-lived helpers that look through one segment each at a time. The
//! directory is locked meanwhile, unless it has no lock file: then nobody ever had it open, as with
//! a backup.
//!
//! What is damage and what a torn end is decided as an open does it (`scan`), but for one thing: what
//! the hint of the newest segment covers was complete and durable when the hint was written, so
//! nothing in there can be torn.

pub mod report;

pub(super) mod body;
mod fate;
pub(super) mod hinted;
pub(super) mod look;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::directory::{is_same_boot, lock_to_look, made_by};
use super::filename::{self, Kind as FileKind};
use super::fs::Fs;
use super::manifest::Survey;
use super::parallel;
use super::scan::Tail;
use super::segment::Origin;
use crate::config::EngineKind;
use crate::error::{KvsError, Result};
use crate::stats::Counter;

use body::Subject;
use look::Looked;
use report::{Finding, Grade, Kind, Report};

/// How far a check has come, in bytes.
#[derive(Debug, Default)]
pub struct Progress {
    /// All that there is to read; zero until that is known.
    pub total: Counter,
    /// What has been read.
    pub done: Counter,
}

/// Checks the store in `dir`. An error means that nothing could be told: there is no store, it is in
/// use, or of another engine.
pub fn check(fs: &Arc<dyn Fs>, dir: &Path, progress: &Progress) -> Result<Report> {
    list(&**fs, dir)?;
    let _held = lock_to_look(&**fs, dir)?;
    Ok(survey(fs, dir, progress)?.report)
}

/// The names in a directory that has a store.
pub(super) fn list(fs: &dyn Fs, dir: &Path) -> Result<BTreeSet<String>> {
    let names = fs.list(dir).map_err(KvsError::io(format!("list {}", dir.display())))?;
    let of_a_store = |name: &String| {
        name == filename::MANIFEST || matches!(filename::kind(name), FileKind::Segment(_))
    };
    if !names.iter().any(of_a_store) {
        return Err(KvsError::Invalid(format!("there is no store in {}", dir.display())));
    }
    Ok(names.into_iter().collect())
}

/// A report, and what a repair needs beside it.
pub(super) struct Surveyed {
    pub(super) report: Report,
    pub(super) manifest: Survey,
    pub(super) looked: Vec<Looked>,
    /// Numbers of listed segments without a file.
    pub(super) missing: BTreeSet<u64>,
    /// What is in the directory.
    pub(super) names: BTreeSet<String>,
}

/// Looks at everything. The caller holds the directory's lock.
pub(super) fn survey(fs: &Arc<dyn Fs>, dir: &Path, progress: &Progress) -> Result<Surveyed> {
    let names = list(&**fs, dir)?;
    let mut findings = Vec::new();
    findings.extend(engine(&**fs, dir)?);
    let manifest = manifest(&**fs, dir, &mut findings)?;
    let present: BTreeSet<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
    let told = manifest.damage.is_empty();
    let in_use = |number: &u64| match told {
        true => manifest.segments.contains(number),
        // All that may be segments of the store, unless a sound line says that they are not.
        false => !manifest.removed.contains(number),
    };
    let subjects = open_all(&**fs, dir, present.iter().copied().filter(in_use), told)?;
    progress.total.set(subjects.iter().map(|subject| subject.len).sum());
    let mut looked = look_at_all(&**fs, dir, &subjects, progress);
    looked.sort_by_key(|looked| looked.subject.number);
    order_of_logs(&mut looked);
    let mut listed = manifest.segments.clone();
    if !told {
        // A segment goes after its hint: one that is left alone is of a segment that was lost.
        listed.extend(names.iter().filter_map(|name| hint_of(name)).filter(in_use));
    }
    let missing: BTreeSet<u64> = listed.difference(&present).copied().collect();
    findings.extend(missing.iter().map(|number| look::missing(&**fs, dir, *number, told)));
    let known =
        |number: &u64| missing.contains(number) || (present.contains(number) && in_use(number));
    findings.extend(names.iter().filter_map(|name| leftover(name, known)));
    findings.extend(looked.iter_mut().flat_map(|looked| std::mem::take(&mut looked.findings)));
    fate::settle(&looked, &mut findings);
    let numbering = looked.iter().filter_map(|looked| looked.numbering).max_by_key(|(seq, _)| *seq);
    let report = Report {
        dir: dir.to_owned(),
        segments: looked.len() as u64,
        bytes: looked.iter().map(|looked| looked.subject.len).sum(),
        records: looked.iter().map(|looked| looked.records).sum(),
        numbering: numbering.map(|(_, numbering)| numbering).unwrap_or_default(),
        findings,
    };
    Ok(Surveyed { report, manifest, looked, missing, names })
}

fn segment_of(name: &str) -> Option<u64> {
    match filename::kind(name) {
        FileKind::Segment(number) => Some(number),
        _ => None,
    }
}

fn hint_of(name: &str) -> Option<u64> {
    match filename::kind(name) {
        FileKind::Hint(number) => Some(number),
        _ => None,
    }
}

/// What is wrong with the file that names the engine.
fn engine(fs: &dyn Fs, dir: &Path) -> Result<Option<Finding>> {
    let finding = |grade, what: &str| {
        Ok(Some(Finding::new((grade, Kind::Engine), filename::ENGINE, 0..0, what)))
    };
    let doing = || KvsError::io(format!("read {}", dir.join(filename::ENGINE).display()));
    match made_by(fs, dir).map_err(doing())?.as_deref() {
        Some(name) if name == EngineKind::Kvs.name() => Ok(None),
        Some(name) if name == EngineKind::Memory.name() => {
            Err(KvsError::Invalid(format!("{} is of the engine '{name}'", dir.display())))
        }
        Some("") => finding(Grade::Note, "it was never finished; the next open writes it"),
        None => finding(Grade::Note, "it is missing; the next open writes it"),
        Some(_) => finding(Grade::Damage, "it names no engine of this kvs"),
    }
}

/// What the manifest tells; without one, nothing, which is damage.
fn manifest(fs: &dyn Fs, dir: &Path, findings: &mut Vec<Finding>) -> Result<Survey> {
    let path = dir.join(filename::MANIFEST);
    let mut finding = |grade, range, what: &str| {
        findings.push(Finding::new((grade, Kind::Manifest), filename::MANIFEST, range, what));
    };
    let bytes = match fs.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            finding(Grade::Damage, 0..0, "it is missing");
            let damage = vec![(0..0, "it is missing")];
            return Ok(Survey { damage, ..Survey::default() });
        }
        Err(error) => return Err(KvsError::io(format!("read {}", path.display()))(error)),
    };
    let told = Survey::of(&bytes);
    if told.is_of_newer_version(&bytes) {
        return Err(newer(&path));
    }
    for (range, what) in &told.damage {
        finding(Grade::Damage, range.clone(), what);
    }
    if told.end < bytes.len() as u64 {
        let what = "an unfinished edit; the next open drops it";
        finding(Grade::Note, told.end..bytes.len() as u64, what);
    }
    Ok(told)
}

fn newer(path: &Path) -> KvsError {
    KvsError::Invalid(format!("{} has a format that this kvs does not know", path.display()))
}

/// Opens these segments and finds out which is the newest.
fn open_all(
    fs: &dyn Fs,
    dir: &Path,
    numbers: impl Iterator<Item = u64>,
    told: bool,
) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for number in numbers {
        let path = filename::segment(dir, number);
        let opened = fs.open_read(&path).and_then(|file| body::open(file, number));
        let subject = opened.map_err(KvsError::io(format!("open {}", path.display())))?;
        if subject.newer_version {
            return Err(newer(&path));
        }
        subjects.push(subject);
    }
    // Without a manifest, one that was only prepared is not taken for the newest.
    let counts =
        |subject: &&mut Subject| subject.origin == Origin::Log && (told || subject.has_records());
    if let Some(newest) = subjects.iter_mut().filter(counts).max_by_key(|s| s.number) {
        newest.tail = Tail::after(is_same_boot(fs, dir));
    }
    Ok(subjects)
}

/// Looks through segments, several at a time.
fn look_at_all(fs: &dyn Fs, dir: &Path, subjects: &[Subject], progress: &Progress) -> Vec<Looked> {
    parallel::map(subjects, parallel::cores(), |subject| {
        look::look(fs, dir, subject.clone(), progress)
    })
}

/// Each log segment has larger sequence numbers than those before it.
fn order_of_logs(looked: &mut [Looked]) {
    let mut last = 0;
    for looked in looked {
        let subject = &looked.subject;
        let Some((min, max)) = looked.seqs.filter(|_| subject.origin == Origin::Log) else {
            continue;
        };
        if min <= last && subject.header.is_none() {
            let what = "a segment with a smaller number has larger sequence numbers";
            let kind = (Grade::Damage, Kind::Order);
            looked.findings.push(Finding::new(kind, subject.name(), 0..subject.len, what));
            looked.damaged = true;
        }
        last = last.max(max);
    }
}

/// A file that is no part of the store, with `known` segments in it.
fn leftover(name: &str, known: impl Fn(&u64) -> bool) -> Option<Finding> {
    let what = match filename::kind(name) {
        FileKind::Segment(number) | FileKind::Hint(number) if !known(&number) => {
            "the manifest does not list it; the next open removes it"
        }
        FileKind::Temporary => "it was never finished; the next open removes it",
        _ => return None,
    };
    Some(Finding::new((Grade::Note, Kind::Leftover), name, 0..0, what))
}
