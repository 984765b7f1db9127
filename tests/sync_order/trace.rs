//! What strace tells of a server, and whether each number in a reply was durable when it left.
//!
//! A line is a system call, or its beginning (`<unfinished ...>`), or its end (`resumed>`). strace
//! halts a thread at the beginning and at the end of each call, so where one call was caused by
//! another, their lines are in that order: a send that begins behind the end of a sync in here began
//! behind it in fact.

use std::collections::HashMap;

/// A system call. Its place in time are two line numbers.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    /// The file, or `socket:[...]`.
    pub on: String,
    /// What was written, as strace shows it.
    pub data: String,
    pub began: usize,
    pub ended: usize,
}

/// The calls in a trace, those that never ended left out.
pub fn calls(trace: &str) -> Vec<Call> {
    let (mut calls, mut open) = (Vec::new(), HashMap::new());
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(unfinished) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (at, unfinished));
        } else if rest.starts_with("<...") {
            let Some((began, text)) = open.remove(thread) else { continue };
            calls.extend(call(text, began, at));
        } else {
            calls.extend(call(rest, at, at));
        }
    }
    calls
}

/// `name(7<on>, "data"...`
fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (descriptor, rest) = rest.split_once('<')?;
    descriptor.parse::<u32>().ok()?;
    let (on, rest) = rest.split_once('>')?;
    let data = match (rest.find('"'), rest.rfind('"')) {
        (Some(from), Some(to)) if from < to => &rest[from + 1..to],
        _ => "",
    };
    let (name, on, data) = (name.to_owned(), on.to_owned(), data.to_owned());
    Some(Call { name, on, data, began, ended })
}

/// Numbers are told apart from all else by their length.
const DIGITS: usize = 10;

fn numbers(data: &str) -> impl Iterator<Item = &str> {
    data.split(|c: char| !c.is_ascii_digit()).filter(|digits| digits.len() == DIGITS)
}

/// Checks that what was told of a number left after a sync that covers its record, which is written
/// as `=number`, and after one that covers the entry of its segment in the manifest. How many were
/// told; the error says which one too early.
pub fn check(trace: &str) -> Result<usize, String> {
    let calls = calls(trace);
    let sends = |call: &&Call| {
        call.on.starts_with("socket:")
            && matches!(call.name.as_str(), "sendto" | "write" | "writev" | "sendmsg")
    };
    let mut told = 0;
    for send in calls.iter().filter(sends) {
        for number in numbers(&send.data) {
            let record = format!("={number}");
            let is_log = |call: &&Call| call.name == "pwrite64" && call.on.ends_with(".log");
            let write = calls.iter().filter(is_log).find(|call| call.data.contains(&record));
            let write = write.ok_or_else(|| format!("{number} was told and never written"))?;
            if !synced(&calls, write, send) {
                return Err(format!(
                    "{number} was told in line {} before {} was synced",
                    send.began, write.on
                ));
            }
            let listed =
                entry_of(&calls, &write.on).ok_or_else(|| format!("{} is not listed", write.on))?;
            if !synced(&calls, listed, send) {
                return Err(format!(
                    "{number} was told in line {} before {} was listed",
                    send.began, write.on
                ));
            }
            told += 1;
        }
    }
    Ok(told)
}

/// Whether a sync of the file of `write` lies between the two.
fn synced(calls: &[Call], write: &Call, send: &Call) -> bool {
    calls.iter().any(|call| {
        matches!(call.name.as_str(), "fdatasync" | "fsync")
            && call.on == write.on
            && call.began > write.ended
            && call.ended < send.began
    })
}

/// The write that adds a segment to the manifest.
fn entry_of<'a>(calls: &'a [Call], segment: &str) -> Option<&'a Call> {
    let name = segment.rsplit('/').next()?;
    let number: u64 = name.trim_end_matches(".log").parse().ok()?;
    let entry = format!("\\\"add\\\":[{number}]");
    calls.iter().find(|call| {
        call.name == "pwrite64" && call.on.ends_with("/MANIFEST") && call.data.contains(&entry)
    })
}
