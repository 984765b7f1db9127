//! `kvs repair`: what was done, for people or as JSON.

use std::fmt::Write as _;
use std::path::Path;

use kvs::KvsError;
use kvs::engine::check::report::Report;
use kvs::engine::repair::{QUARANTINE, REPORT, Repaired, repair};
use serde::Serialize;

use super::check::{self, JsonReport, count, with_bar};
use super::shared::{Done, Output, Stop};

/// Mends the store in `dir` and prints what was done.
pub fn run(dir: &Path, dry_run: bool, json: bool) -> Result<Done, Stop> {
    let describe = |repaired: &Repaired| Ok(to_json(repaired, dry_run)? + "\n");
    let repaired = with_bar(|fs, progress| repair(fs, dir, dry_run, progress, &describe));
    let repaired = repaired.map_err(|error| match check::advise(error, "stop it first") {
        error @ KvsError::Invalid(_) => Stop::Unable(error),
        error => Stop::Failed(error),
    })?;
    let text = match json {
        true => to_json(&repaired, dry_run)?,
        false => for_people(dir, &repaired, dry_run),
    };
    Output::line(text.as_bytes())?;
    Ok(if is_sound(&repaired) || dry_run { Done::Well } else { Done::InVain })
}

fn is_sound(repaired: &Repaired) -> bool {
    repaired.after.as_ref().unwrap_or(&repaired.found).is_sound()
}

fn to_json(repaired: &Repaired, dry_run: bool) -> kvs::Result<String> {
    check::to_json(&JsonRepaired::of(repaired, dry_run)?)
}

fn for_people(dir: &Path, repaired: &Repaired, dry_run: bool) -> String {
    let mut text = check::for_people(&repaired.found);
    let files: Vec<&str> = repaired.aside.iter().map(String::as_str).collect();
    let (names, all) = (files.join(", "), files.len());
    // Writing to a string does not fail.
    let _ = match (&repaired.quarantine, dry_run) {
        (Some(place), _) if all == 0 => write!(text, "\nthis is kept in {}", place.display()),
        (Some(place), _) => write!(text, "\nput aside in {}: {names}", place.display()),
        (None, true) if all > 0 => write!(text, "\nwould put aside: {names}"),
        _ => write!(text, "\nnothing to mend"),
    };
    if repaired.quarantine.is_none() && dir.join(QUARANTINE).is_dir() {
        // Also after one that was interrupted: this one cannot tell what was lost then.
        let _ = write!(text, "\nearlier repairs: {}/*/{REPORT}", dir.join(QUARANTINE).display());
    }
    if let Some(after) = &repaired.after {
        if repaired.aside.iter().any(|name| name.ends_with(".log")) {
            let saved = count(repaired.salvaged as usize, "record");
            let _ = write!(text, "\nsaved from damaged segments: {saved}");
        }
        if repaired.rebuilt_manifest {
            text.push_str("\nthe manifest lists the segments that are there");
        }
        if repaired.found.others() != Some(0) {
            text.push_str("\nkeys that nothing tells of may have an older value now");
        }
        let _ = write!(text, "\nnow:\n{}", check::for_people(after));
    }
    text
}

#[derive(Serialize)]
struct JsonRepaired<'a> {
    dry_run: bool,
    found: JsonReport<'a>,
    aside: Vec<&'a str>,
    quarantine: Option<String>,
    salvaged: u64,
    rebuilt_manifest: bool,
    after: Option<JsonReport<'a>>,
}

impl JsonRepaired<'_> {
    fn of(repaired: &Repaired, dry_run: bool) -> kvs::Result<JsonRepaired<'_>> {
        let after: Option<&Report> = repaired.after.as_ref();
        Ok(JsonRepaired {
            dry_run,
            found: JsonReport::of(&repaired.found)?,
            aside: repaired.aside.iter().map(String::as_str).collect(),
            quarantine: repaired.quarantine.as_ref().map(|path| path.display().to_string()),
            salvaged: repaired.salvaged,
            rebuilt_manifest: repaired.rebuilt_manifest,
            after: after.map(JsonReport::of).transpose()?,
        })
    }
}
