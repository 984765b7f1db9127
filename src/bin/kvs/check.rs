//! `kvs check`: what a check found, for people or as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use indicatif::HumanBytes;
use kvs::KvsError;
use kvs::engine::check::report::{Finding, Gone, Grade, Report, Told, Was};
use kvs::engine::check::{Progress, check};
use kvs::engine::fs::{Fs, OsFs};
use kvs::protocol::write_json_bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::shared::{self, Done, Output, Stop, quoted};
use super::watch::watch;

/// How many keys of a finding are listed for people; JSON has them all.
const LISTED: usize = 10;

/// Checks the store in `dir` and prints what was found.
pub fn run(dir: &Path, json: bool) -> Result<Done, Stop> {
    let checked = with_bar(|fs, progress| check(fs, dir, progress));
    let instead = "stop it first, or have it make a backup (SAVE) and check that";
    let report = checked.map_err(|error| Stop::Unable(advise(error, instead)))?;
    let text = if json { to_json(&JsonReport::of(&report)?)? } else { for_people(&report) };
    Output::line(text.as_bytes())?;
    Ok(if report.is_sound() { Done::Well } else { Done::InVain })
}

/// Says what to do about a directory that is in use.
pub fn advise(error: KvsError, what: &str) -> KvsError {
    match error {
        KvsError::Locked { .. } => shared::failure(format!("{error}: {what}")),
        error => error,
    }
}

/// Runs work on a directory with a bar.
pub fn with_bar<R: Send>(work: impl FnOnce(&Arc<dyn Fs>, &Progress) -> R + Send) -> R {
    let (fs, progress): (Arc<dyn Fs>, _) = (Arc::new(OsFs), Progress::default());
    watch(|| progress.done.get(), || progress.total.get(), || work(&fs, &progress))
}

/// The findings, a line each, and the verdict.
pub fn for_people(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        describe(report, finding, &mut text);
    }
    let verdict = match report.damage().count() {
        0 => "sound".to_owned(),
        n => format!("damage in {}, {}", count(n, "place"), loss(report)),
    };
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "{}: {verdict}; {}, {}, {}",
        report.dir.display(),
        count(report.segments as usize, "segment"),
        count(report.records as usize, "record"),
        HumanBytes(report.bytes)
    );
    text
}

/// How many keys are lost.
fn loss(report: &Report) -> String {
    match (report.lost().count(), report.others()) {
        (0, Some(0)) => "no key lost".to_owned(),
        (0, Some(n)) => format!("at most {} lost", count(n as usize, "key")),
        (0, None) => "nothing tells how many keys are lost".to_owned(),
        (lost, Some(0)) => format!("{} lost", count(lost, "key")),
        (lost, Some(n)) => format!("{} lost, and at most {n} more", count(lost, "key")),
        (lost, None) => format!("{} lost, and nothing tells how many more", count(lost, "key")),
    }
}

/// As in `1 key` and `2 keys`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Appends a line about a finding, and one for each of its keys.
fn describe(report: &Report, finding: &Finding, text: &mut String) {
    let (grade, file, range) = (finding.grade.name(), &finding.file, &finding.range);
    let _ = match range.is_empty() {
        true => writeln!(text, "{grade}: {file}: {}", finding.what),
        false => writeln!(
            text,
            "{grade}: {file}, bytes {} to {}: {}",
            range.start, range.end, finding.what
        ),
    };
    if finding.grade == Grade::Note {
        return;
    }
    for gone in finding.gone.iter().take(LISTED) {
        let _ = writeln!(text, "  {}", fate(report.number_of(gone), gone));
    }
    if finding.gone.len() > LISTED {
        let _ = writeln!(text, "  and {} more (--json lists all)", finding.gone.len() - LISTED);
    }
    let beside = if finding.gone.is_empty() { "" } else { "beside these, " };
    let _ = match (finding.told, finding.others) {
        (Told::ByHint, _) => Ok(()),
        (Told::ByHeaders, _) => writeln!(text, "  (as the damaged records tell)"),
        (Told::InPart, Some(0)) => writeln!(text, "  {beside}no record can have been there"),
        (Told::InPart, Some(n)) => {
            let n = count(n as usize, "record");
            writeln!(text, "  {beside}at most {n} can have been there; nothing tells of which keys")
        }
        (Told::InPart, None) => {
            writeln!(text, "  no hint tells which keys it held")
        }
    };
}

/// What became of a record of the database with this number.
fn fate(number: Option<u8>, gone: &Gone) -> String {
    let what = match (number, gone.what) {
        (None, _) => "which numbers SWAPDB gave to databases".to_owned(),
        (Some(number), Was::Clear) => format!("the clearing of database {number}"),
        (Some(number), Was::Tombstone) => format!("the removal of {}", name(number, &gone.key)),
        (Some(number), Was::Value) => name(number, &gone.key),
    };
    let fate = if gone.superseded { "nothing is lost: a newer record is sound" } else { "lost" };
    format!("{what}: {fate}")
}

/// As in `key "a\n" of database 3`.
pub fn name(database: u8, key: &[u8]) -> String {
    let key = quoted(key);
    if database == 0 { format!("key {key}") } else { format!("key {key} of database {database}") }
}

/// A report as JSON has it.
#[derive(Serialize)]
pub struct JsonReport<'a> {
    dir: String,
    sound: bool,
    segments: u64,
    bytes: u64,
    records: u64,
    findings: Vec<JsonFinding<'a>>,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    grade: &'static str,
    kind: &'static str,
    file: &'a str,
    from: u64,
    to: u64,
    what: &'a str,
    /// How the keys are known: by the segment's hint, by the damaged headers, or in part.
    told: &'static str,
    /// How many records there may have been beside `keys`; null: nothing tells.
    others: Option<u64>,
    keys: Vec<JsonKey>,
}

#[derive(Serialize)]
struct JsonKey {
    key: Box<RawValue>,
    /// None: it is the store's own.
    database: Option<u8>,
    was: &'static str,
    offset: u64,
    seq: u64,
    lost: bool,
}

impl JsonReport<'_> {
    pub fn of(report: &Report) -> kvs::Result<JsonReport<'_>> {
        let findings = report.findings.iter().map(|finding| json_finding(report, finding));
        let findings = findings.collect::<Result<_, _>>();
        Ok(JsonReport {
            dir: report.dir.display().to_string(),
            sound: report.is_sound(),
            segments: report.segments,
            bytes: report.bytes,
            records: report.records,
            findings: findings.map_err(shared::failure)?,
        })
    }
}

/// The document, on one line.
pub fn to_json(document: &impl Serialize) -> kvs::Result<String> {
    serde_json::to_string(document).map_err(shared::failure)
}

fn json_finding<'a>(report: &Report, finding: &'a Finding) -> serde_json::Result<JsonFinding<'a>> {
    Ok(JsonFinding {
        grade: finding.grade.name(),
        kind: finding.kind.name(),
        file: &finding.file,
        from: finding.range.start,
        to: finding.range.end,
        what: &finding.what,
        told: finding.told.name(),
        others: finding.others,
        keys: finding.gone.iter().map(|gone| json_key(report, gone)).collect::<Result<_, _>>()?,
    })
}

fn json_key(report: &Report, gone: &Gone) -> serde_json::Result<JsonKey> {
    let mut key = Vec::new();
    write_json_bytes(&gone.key, &mut key);
    Ok(JsonKey {
        key: serde_json::from_slice(&key)?,
        database: report.number_of(gone),
        was: gone.what.name(),
        offset: gone.offset,
        seq: gone.seq,
        lost: !gone.superseded,
    })
}
