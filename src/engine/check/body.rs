//! All that lies behind the header of one segment: sound records, damage, a torn end.
//!
//! A closed segment is read in steps; only from the first fault on is it looked at as a whole, as it
//! takes a search to find where records go on. What the disk does not give is damage, too.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Progress;
use super::report::{Gone, Kind, Told, Was};
use crate::engine::extent::Extent;
use crate::engine::fs::File;
use crate::engine::record::{self, Record};
use crate::engine::scan::{self, Scan, Tail};
use crate::engine::segment::{self, HEADER, Origin};
use crate::engine::segment_reader::SegmentReader;

/// How far the sequence number of a damaged record may be from the last sound one before it, if there
/// is none behind it.
const FARTHEST: u64 = 1 << 20;

/// A segment's file and what is known of it.
#[derive(Clone)]
pub struct Subject {
    pub number: u64,
    pub file: Arc<dyn File>,
    pub len: u64,
    pub origin: Origin,
    /// What is wrong with its header.
    pub header: Option<String>,
    /// Its header is sound, and of a version that comes later.
    pub newer_version: bool,
    /// How it may end: not as a whole only if it is the one that was written to.
    pub tail: Tail,
}

impl Subject {
    /// Whether something was written behind its header.
    pub fn has_records(&self) -> bool {
        let mut first = [0; record::HEADER];
        let read = self.file.read_exact_at(&mut first, HEADER as u64);
        self.len > HEADER as u64 && (read.is_err() || first.iter().any(|b| *b != 0))
    }

    /// Whether it is the one that was written to.
    pub fn is_newest(&self) -> bool {
        self.tail != Tail::Whole
    }

    /// The file's name.
    pub fn name(&self) -> String {
        format!("{:08}.log", self.number)
    }
}

/// A range that holds no sound record where there should be some.
#[derive(Debug)]
pub struct Damage {
    pub kind: Kind,
    pub range: Range<u64>,
    pub what: String,
    /// What the damaged headers tell.
    pub gone: Vec<Gone>,
    pub told: Told,
    /// How many records there may have been beside these.
    pub others: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Body {
    pub damage: Vec<Damage>,
    /// What a crash left unfinished at the end.
    pub torn: Option<Range<u64>>,
    /// Where the records end.
    pub end: u64,
}

/// Called with each sound record and its offset.
pub type Visit<'v> = dyn FnMut(u64, &Record<'_>) + 'v;

/// Reads the records of a segment in order. Its first `sure` bytes are known to have been complete:
/// if it is the newest, only what is behind them can be torn.
pub fn read(subject: &Subject, sure: u64, progress: &Progress, visit: &mut Visit<'_>) -> Body {
    let start = HEADER as u64;
    let closed = if subject.is_newest() { sure.min(subject.len) } else { subject.len };
    let mut body = Body { end: start.min(subject.len), ..Body::default() };
    let mut reader = SegmentReader::new(&*subject.file, start..closed);
    let last = Cell::new(0);
    let (mut fault, mut counted) = (false, 0);
    let visit: &mut Visit<'_> = &mut |offset, record| {
        last.set(record.seq);
        visit(offset, record);
    };
    while !fault && let Ok(true) = reader.fill() {
        fault = reader.records(|offset, record, _| visit(offset, record)).is_err();
        progress.done.add(reader.at() - counted);
        (body.end, counted) = (reader.at(), reader.at());
        reader.advance();
    }
    body.rest(subject, body.end..closed, false, last.get(), visit);
    body.rest(subject, closed.max(start)..subject.len, true, last.get(), visit);
    progress.done.add(subject.len.saturating_sub(counted));
    body
}

impl Body {
    /// Reads `range`, which may be torn if it is `open`. The sequence number before it was `last`.
    fn rest(
        &mut self,
        subject: &Subject,
        range: Range<u64>,
        open: bool,
        last: u64,
        visit: &mut Visit<'_>,
    ) {
        if range.is_empty() {
            return;
        }
        let loaded = Extent::new(&*subject.file, range.clone());
        let bytes = loaded.bytes();
        let tail = if open { subject.tail } else { Tail::Whole };
        let scan = scan::scan(bytes, range.start, subject.origin, tail);
        for (offset, record) in &scan.records {
            visit(*offset, record);
        }
        for range in &scan.damage {
            let unread = |hole: &Range<u64>| hole.start < range.end && range.start < hole.end;
            let most = most_records(subject.origin, range, &between(range, &scan, last));
            if loaded.holes.iter().any(unread) {
                self.damage.push(unreadable(range.clone(), most));
                continue;
            }
            let from = (range.start - loaded.range.start) as usize;
            let what = record::parse(&bytes[from..]).err();
            let (gone, told) = guess(subject.origin, range, &scan, last);
            let others = match told {
                Told::InPart => most.saturating_sub(gone.len() as u64),
                Told::ByHint | Told::ByHeaders => 0,
            };
            self.damage.push(Damage {
                kind: Kind::Records,
                range: range.clone(),
                what: what.map_or("no record is here", record::Fault::describe).to_owned(),
                gone,
                told,
                others,
            });
        }
        for hole in &loaded.holes {
            if !self.damage.iter().any(|d| d.range.start <= hole.start && hole.end <= d.range.end) {
                let most = most_records(subject.origin, hole, &between(hole, &scan, last));
                self.damage.push(unreadable(hole.clone(), most));
            }
        }
        self.end = scan.end;
        if open {
            self.torn = scan.torn.map(|torn| scan.end..torn);
        }
    }
}

/// What the headers in a damaged range tell. They are believed as far as their sequence numbers
/// lie between those of the sound records around them, as they do in a log.
fn guess(origin: Origin, range: &Range<u64>, scan: &Scan<'_>, last: u64) -> (Vec<Gone>, Told) {
    let Range { start: low, end: high } = between(range, scan, last);
    let (mut gone, mut bytes) = (Vec::new(), 0);
    for (offset, record) in scan.told().filter(|(offset, _)| range.contains(offset)) {
        if origin == Origin::Log && low < record.seq && record.seq < high {
            bytes += record.size() as u64;
            gone.push(Gone {
                database: record.database,
                key: record.key.to_vec(),
                seq: record.seq,
                offset,
                what: Was::Value,
                superseded: false,
                hides: false,
            });
        }
    }
    // What is not told may be a record that cleared its database.
    let all = bytes == range.end - range.start;
    (gone, if all { Told::ByHeaders } else { Told::InPart })
}

/// The sequence numbers of the sound records around a damaged range.
fn between(range: &Range<u64>, scan: &Scan<'_>, last: u64) -> Range<u64> {
    let before = scan.records.iter().rev().find(|(offset, _)| *offset < range.start);
    let behind = scan.records.iter().find(|(offset, _)| *offset >= range.end);
    let low = before.map_or(last, |(_, record)| record.seq);
    low..behind.map_or(low + FARTHEST, |(_, record)| record.seq)
}

/// How many records a damaged range can have held: there is room for no more, and in a log each has
/// a sequence number of its own.
fn most_records(origin: Origin, range: &Range<u64>, between: &Range<u64>) -> u64 {
    let room = (range.end - range.start) / record::HEADER as u64;
    match origin {
        Origin::Log => room.min((between.end.saturating_sub(between.start)).saturating_sub(1)),
        Origin::Merged => room,
    }
}

fn unreadable(range: Range<u64>, others: u64) -> Damage {
    let what = "the disk does not give it".to_owned();
    let (gone, told) = (Vec::new(), Told::InPart);
    Damage { kind: Kind::Unreadable, range, what, gone, told, others }
}

/// Opens segment files to be looked at.
pub fn open(file: Arc<dyn File>, number: u64) -> io::Result<Subject> {
    let len = file.len()?;
    let mut bytes = [0; HEADER];
    let problem = if len < HEADER as u64 {
        Err(format!("it has {len} bytes, less than a header"))
    } else if let Err(error) = file.read_exact_at(&mut bytes, 0) {
        Err(format!("it cannot be read: {error}"))
    } else {
        segment::decode_header(&bytes)
    };
    let (origin, header) = match problem {
        Ok((found, origin)) if found == number => (origin, None),
        Ok((found, origin)) => (origin, Some(format!("it says that it is segment {found}"))),
        // The two bytes that tell are the likeliest to be right still.
        Err(what) if bytes[10] == Origin::Merged as u8 => (Origin::Merged, Some(what)),
        Err(what) => (Origin::Log, Some(what)),
    };
    let newer_version = segment::is_of_newer_version(&bytes);
    Ok(Subject { number, file, len, origin, header, newer_version, tail: Tail::Whole })
}
