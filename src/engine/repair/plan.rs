//! What a repair is going to do: which files go aside, which segments stay, what is written anew.
//!
//! If the manifest is sound, it says which segments make up the store. If not, all that are there may,
//! except those that a sound line has removed. Too many would do no harm, as of two records of a key
//! the one with the larger sequence number holds; but for a merge that was interrupted while it
//! removed its inputs. Of these, one may be left with a record whose tombstone is gone with another.
//! An input is known by a record that the merge has copied: then of its records only those count that
//! remove something. An input that had nothing to copy is not known as one.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::engine::check::look::Looked;
use crate::engine::check::report::{Finding, Gone, Kind};
use crate::engine::check::{Progress, Surveyed, body};
use crate::engine::filename::{self, Kind as FileKind};
use crate::engine::segment::Origin;

/// What is to be taken over from a segment that goes aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All sound records.
    Records,
    /// Those that remove something.
    Removals,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Plan {
    /// The files to put aside.
    pub aside: BTreeSet<String>,
    /// The segments that stay as they are.
    pub live: BTreeSet<u64>,
    /// The segments, by their numbers, to take something over from into a new one.
    pub sources: BTreeMap<u64, Keep>,
    /// What stands in the way of older records, where the newest one of their key is gone.
    pub markers: Vec<Gone>,
    /// Whether a new segment is needed to write to: one that was closed is never written to again.
    pub needs_active: bool,
    /// Whether the file that names the engine is to be written anew.
    pub engine: bool,
    /// Whether the manifest is.
    pub manifest: bool,
    /// The first number that was never given.
    pub next: u64,
}

impl Plan {
    /// The plan for what a survey has found. Reads segments again if the manifest is damaged.
    pub fn new(found: &Surveyed) -> Plan {
        let mut plan = Plan { next: next_number(found), ..Plan::default() };
        let told = found.manifest.damage.is_empty();
        let inputs = if told { HashSet::new() } else { inputs_of_merges(&found.looked) };
        let of_kind = |kind| move |finding: &&Finding| finding.kind == kind;
        plan.engine = found.report.damage().any(|finding| finding.kind == Kind::Engine);
        plan.needs_active = !told || !has_sound_newest(found);
        for looked in &found.looked {
            let number = looked.subject.number;
            let torn = found.findings_of(looked).any(|finding| finding.kind == Kind::Torn);
            let keep = if inputs.contains(&number) {
                Some(Keep::Removals)
            } else if looked.damaged || (torn && plan.needs_active) {
                Some(Keep::Records)
            } else {
                None
            };
            match keep {
                Some(keep) => {
                    plan.put_aside(found, number);
                    plan.sources.insert(number, keep);
                }
                // Nothing was ever written to it.
                None if !told && looked.records == 0 => {}
                None => {
                    plan.live.insert(number);
                }
            }
        }
        for number in &found.missing {
            plan.put_aside(found, *number);
        }
        let hints = found.report.damage().filter(of_kind(Kind::Hint));
        plan.aside.extend(hints.map(|finding| finding.file.clone()));
        if plan.engine {
            plan.aside.insert(filename::ENGINE.to_owned());
        }
        if !told && found.names.contains(filename::MANIFEST) {
            plan.aside.insert(filename::MANIFEST.to_owned());
        }
        plan.markers = found.report.lost().filter(|gone| gone.hides).cloned().collect();
        plan.manifest = !told || !plan.sources.is_empty() || !found.missing.is_empty();
        plan
    }

    fn put_aside(&mut self, found: &Surveyed, number: u64) {
        let files = [format!("{number:08}.log"), format!("{number:08}.hint")];
        self.aside.extend(files.into_iter().filter(|name| found.names.contains(name)));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.aside.is_empty() && !self.manifest && !self.engine
    }
}

fn next_number(found: &Surveyed) -> u64 {
    let manifest = &found.manifest;
    let listed = manifest.segments.iter().chain(&manifest.removed).copied();
    let files = found.names.iter().filter_map(|name| match filename::kind(name) {
        FileKind::Segment(number) | FileKind::Hint(number) => Some(number),
        _ => None,
    });
    let largest = listed.chain(files).max().unwrap_or(0);
    manifest.next.max(largest.saturating_add(1))
}

/// Whether the segment that was written to is there as it was.
fn has_sound_newest(found: &Surveyed) -> bool {
    let newest = found.looked.iter().find(|looked| looked.subject.is_newest());
    newest.is_some_and(|newest| {
        let younger = |number: &u64| *number > newest.subject.number;
        !newest.damaged && !found.missing.iter().any(younger)
    })
}

/// The segments of which a merge, which came to its end, has copied some record.
fn inputs_of_merges(looked: &[Looked]) -> HashSet<u64> {
    let seqs_of = |looked: &Looked, visit: &mut dyn FnMut(u64)| {
        let sure = looked.hint.as_ref().map_or(0, |hint| hint.covered());
        let progress = Progress::default();
        body::read(&looked.subject, sure, &progress, &mut |_, record| visit(record.seq));
    };
    let mut inputs = HashSet::new();
    // The hint of a merged segment is written when all is copied.
    let is_whole = |looked: &&Looked| {
        let covered = looked.hint.as_ref().map(|hint| hint.covered());
        looked.subject.origin == Origin::Merged
            && !looked.damaged
            && covered == Some(looked.subject.len)
    };
    for merged in looked.iter().filter(is_whole) {
        let mut copied = HashSet::new();
        seqs_of(merged, &mut |seq| {
            copied.insert(seq);
        });
        let older = |other: &&Looked| other.subject.number < merged.subject.number;
        for other in looked.iter().filter(older) {
            let mut is_input = false;
            seqs_of(other, &mut |seq| is_input |= copied.contains(&seq));
            if is_input {
                inputs.insert(other.subject.number);
            }
        }
    }
    inputs
}

impl Surveyed {
    fn findings_of<'f>(&'f self, looked: &Looked) -> impl Iterator<Item = &'f Finding> {
        let name = looked.subject.name();
        self.report.findings.iter().filter(move |finding| finding.file == name)
    }
}
