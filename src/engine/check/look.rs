//! One segment and its hint, looked through.

use std::path::Path;

use super::Progress;
use super::body::{self, Body, Subject};
use super::hinted::{self, Expected};
use super::report::{Finding, Gone, Grade, Kind, Told};
use crate::engine::filename;
use crate::engine::fs::Fs;
use crate::engine::hint::Hint;
use crate::engine::numbering::Numbering;
use crate::engine::record::{self, Record};
use crate::engine::segment::{HEADER, Origin};

const DAMAGE: Grade = Grade::Damage;

/// What was found in one segment.
pub struct Looked {
    pub subject: Subject,
    /// The hint, if it tells what is in the segment.
    pub hint: Option<Hint>,
    /// Something in it is not as it was written.
    pub damaged: bool,
    pub findings: Vec<Finding>,
    pub records: u64,
    /// The smallest and the largest sequence number in it.
    pub seqs: Option<(u64, u64)>,
    pub clears: Vec<(u8, u64)>,
    /// The newest numbering of databases in it, and the sequence number of its record.
    pub numbering: Option<(u64, Numbering)>,
}

/// What the records of a segment tell, one after the other.
#[derive(Default)]
struct Tally {
    records: u64,
    last: u64,
    seqs: Option<(u64, u64)>,
    clears: Vec<(u8, u64)>,
    numbering: Option<(u64, Numbering)>,
    /// Where the sequence numbers do not grow.
    disorder: Option<u64>,
    batch_goes_on: bool,
}

impl Tally {
    fn see(&mut self, offset: u64, record: &Record<'_>) {
        self.records += 1;
        if record.seq <= self.last {
            self.disorder.get_or_insert(offset);
        }
        self.last = record.seq;
        let (min, max) = self.seqs.unwrap_or((record.seq, record.seq));
        self.seqs = Some((min.min(record.seq), max.max(record.seq)));
        if record.is_clear() {
            self.clears.push((record.database, record.seq));
        }
        if record.database == record::STORE
            && self.numbering.is_none_or(|(seq, _)| seq < record.seq)
            && let Some(numbering) = Numbering::from_bytes(record.value)
        {
            self.numbering = Some((record.seq, numbering));
        }
        self.batch_goes_on = record.flags & record::BATCH_GOES_ON != 0;
    }
}

/// Looks through a segment and its hint.
pub fn look(fs: &dyn Fs, dir: &Path, subject: Subject, progress: &Progress) -> Looked {
    let read = crate::engine::hint_file::load(fs, dir, subject.number);
    let (mut hint, mut findings) = (None, Vec::new());
    let hint_name = name_of(&filename::hint(dir, subject.number));
    match read {
        Ok(found) => hint = found,
        Err(what) => findings.push(bad_hint(Grade::Note, &hint_name, what)),
    }
    let mut expected = hint.as_ref().map(Expected::new);
    let mut tally = Tally::default();
    let sure = hint.as_ref().map_or(HEADER as u64, Hint::covered);
    let body = body::read(&subject, sure, progress, &mut |offset, record| {
        tally.see(offset, record);
        if let Some(expected) = &mut expected {
            expected.see(offset, record);
        }
    });
    let (damage, wrong) = judge(&subject, &body, &tally, expected.as_ref());
    let damaged = damage.iter().any(|finding| finding.grade == DAMAGE);
    findings.extend(damage);
    if let Some(offset) = wrong {
        let what = format!("it does not say what the segment has at byte {offset}");
        findings.push(bad_hint(DAMAGE, &hint_name, what));
        hint = None;
    } else if let Some(hint) = &hint
        && hint.covered() < body.end
        && !subject.is_newest()
    {
        let what = format!("it covers {} bytes of {}", hint.covered(), body.end);
        findings.push(bad_hint(Grade::Note, &hint_name, what));
    }
    let Tally { records, seqs, clears, numbering, .. } = tally;
    Looked { subject, hint, damaged, findings, records, seqs, clears, numbering }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn bad_hint(grade: Grade, file: &str, what: String) -> Finding {
    Finding::new((grade, Kind::Hint), file, 0..0, what)
}

/// What is to be said of a segment, and where its hint says something else.
fn judge(
    subject: &Subject,
    body: &Body,
    tally: &Tally,
    expected: Option<&Expected<'_>>,
) -> (Vec<Finding>, Option<u64>) {
    let name = subject.name();
    let mut findings = Vec::new();
    if let Some(what) = &subject.header {
        let range = 0..subject.len.min(HEADER as u64);
        findings.push(Finding::new((DAMAGE, Kind::Header), &name, range, what));
    }
    let mut ranges: Vec<_> = body.damage.iter().map(|damage| damage.range.clone()).collect();
    let covered = expected.map_or(0, Expected::covered);
    let missing_end = subject.len.max(HEADER as u64)..covered;
    if !missing_end.is_empty() {
        ranges.push(missing_end.clone());
    }
    let wrong = expected.and_then(|expected| expected.contradiction(&ranges));
    let believed = expected.filter(|_| wrong.is_none());
    let told = |range: &std::ops::Range<u64>| {
        believed.filter(|_| range.end <= covered).map(|expected| expected.gone(range))
    };
    for damage in &body.damage {
        let mut finding =
            Finding::new((DAMAGE, damage.kind), &name, damage.range.clone(), &damage.what);
        match told(&damage.range) {
            Some(gone) => finding.gone = gone,
            None => {
                (finding.gone, finding.told) = (damage.gone.clone(), damage.told);
                finding.others = Some(damage.others);
            }
        }
        findings.push(finding);
    }
    if !missing_end.is_empty() {
        let what = format!("it has {} bytes; its hint is about {covered}", subject.len);
        let mut finding = Finding::new((DAMAGE, Kind::CutShort), &name, missing_end.clone(), what);
        match told(&missing_end) {
            Some(gone) => finding.gone = gone,
            None => (finding.told, finding.others) = (Told::InPart, None),
        }
        findings.push(finding);
    }
    // Which of the ranges held a clear that is missing is not told.
    let clears = believed.map_or(Vec::new(), |expected| {
        expected.gone_clears(ranges.first().map_or(0, |range| range.start))
    });
    if let Some(finding) = findings.iter_mut().find(|finding| finding.kind != Kind::Header) {
        finding.gone.extend::<Vec<Gone>>(clears);
    }
    findings.extend(order(subject, body, tally, &name));
    if let Some(torn) = &body.torn {
        let what = "a write that a crash interrupted; the next open cuts it off";
        findings.push(Finding::new((Grade::Note, Kind::Torn), &name, torn.clone(), what));
    }
    (findings, wrong)
}

/// Sound records that cannot be where they are.
fn order(subject: &Subject, body: &Body, tally: &Tally, name: &str) -> Option<Finding> {
    if subject.origin == Origin::Merged || subject.header.is_some() {
        return None;
    }
    let finding = |range, what: &str| Some(Finding::new((DAMAGE, Kind::Order), name, range, what));
    if let Some(offset) = tally.disorder {
        return finding(offset..offset, "the sequence numbers do not grow");
    }
    let whole =
        subject.is_newest() || body.damage.iter().any(|damage| damage.range.end >= body.end);
    if tally.batch_goes_on && !whole {
        return finding(body.end..body.end, "the end of its last batch is missing");
    }
    None
}

/// A listed segment that is not there, and what its hint tells of it. If the manifest is not sound,
/// a line that cannot be read may have removed it: with a segment, its hint goes first.
pub fn missing(fs: &dyn Fs, dir: &Path, number: u64, sound_manifest: bool) -> Finding {
    let hint = crate::engine::hint_file::load(fs, dir, number).ok().flatten();
    let covered = hint.as_ref().map_or(0, Hint::covered);
    let name = name_of(&filename::segment(dir, number));
    let what = "it belongs to the store, and is not there";
    let grade = if sound_manifest || hint.is_some() { DAMAGE } else { Grade::Note };
    let mut finding = Finding::new((grade, Kind::Missing), name, 0..covered, what);
    match &hint {
        Some(hint) => {
            // It may have been written to after its hint; nobody can tell.
            finding.gone = hinted::gone(hint, &(0..covered));
            finding.gone.extend(Expected::new(hint).gone_clears(0));
        }
        None => (finding.told, finding.others) = (Told::InPart, None),
    }
    finding
}
