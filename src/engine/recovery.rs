//! Opening a directory: from files to an index, whatever moment the last process stopped at.
//!
//! Steps: drop what the manifest does not list; for each segment take its hint, or scan what no hint
//! covers (in parallel); cut the torn tail off the newest segment; then merge the sorted hints, so
//! that each key is met once with all its records, and the largest sequence number wins. The merge
//! runs in parallel over ranges of keys. Only hints are held in memory, never values.
//!
//! Thread: whoever opens the store, and short-lived helpers. Nobody else has the store yet.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crossbeam_epoch::Guard;

use super::core::{Core, lock};
use super::epoch_cell;
use super::expiry::Due;
use super::extent::Extent;
use super::filename::{self, Kind};
use super::hint::{self, Entries, Entry, Hint};
use super::hint_file;
use super::keydir::{Filler, KeyHash, Keydir};
use super::mmap;
use super::numbering::{self, Numbering};
use super::position::Position;
use super::record;
use super::scan::{self, Tail};
use super::segment::{HEADER, Origin, Segment};
use super::view::{Patience, ReadError, View};
use crate::error::{KvsError, Result};

/// What the writer goes on with.
pub(super) struct Recovered {
    /// The segment to append to; it is in the manifest.
    pub(super) active: Arc<Segment>,
    /// The first sequence number that was never used.
    pub(super) next_seq: u64,
    /// Closed segments without a hint that covers them.
    pub(super) unhinted: Vec<Arc<Segment>>,
}

/// Fills the index of `core` from its directory. `same_boot`: what was written since it was last open
/// is there, synced or not.
pub(super) fn recover(core: &Core, same_boot: bool) -> Result<Recovered> {
    remove_unlisted(core)?;
    let segments = open_segments(core)?;
    let newest = segments
        .iter()
        .filter(|segment| segment.origin() == Origin::Log)
        .max_by_key(|segment| segment.number())
        .filter(|newest| is_last(newest, &segments))
        .cloned();
    let total = segments.iter().map(|segment| segment.len()).sum::<u64>();
    core.stats.load_total.set(total);
    let newest_tail = newest.as_ref().map(|newest| (newest.number(), Tail::after(same_boot)));
    let loaded = load_hints(core, &segments, newest_tail)?;
    // A killed process may have left records that are sound and not durable. They are about to be
    // shown, and the next write will say that everything before it is durable.
    if let Some(newest) = &newest {
        newest.sync()?;
    }
    let mut next_seq = loaded.iter().map(|loaded| loaded.hint.max_seq()).max().unwrap_or(0) + 1;
    if loaded.iter().any(|loaded| loaded.unknown) {
        next_seq += BEYOND_LOST;
    }
    merge(core, &loaded);
    let entries: u64 = loaded.iter().map(|loaded| loaded.hint.keys()).sum();
    recall_numbering(core)?;
    core.stats.load_done.set(total);
    let active = match newest.filter(|newest| can_grow(newest, &loaded)) {
        Some(segment) => segment,
        None => new_segment(core)?,
    };
    let unhinted = loaded
        .into_iter()
        .filter(|loaded| loaded.scanned && !Arc::ptr_eq(&loaded.segment, &active))
        .map(|loaded| loaded.segment)
        .collect();
    // Tables that grew, a few times for each thousand keys at most, and blocks that were split.
    epoch_cell::free_replaced(entries as usize / 16);
    mmap::give_back_freed();
    core.reserve.recall(core);
    Ok(Recovered { active, next_seq, unhinted })
}

/// Deletes files that a crash left behind half-made, or half-removed.
fn remove_unlisted(core: &Core) -> Result<()> {
    let listed = lock(&core.manifest).segments().clone();
    let doing = |what: &str| KvsError::io(format!("{what} {}", core.dir.display()));
    for name in core.fs.list(&core.dir).map_err(doing("list"))? {
        let unlisted = match filename::kind(&name) {
            Kind::Segment(number) | Kind::Hint(number) => !listed.contains(&number),
            Kind::Temporary => true,
            Kind::Other => false,
        };
        if unlisted {
            log::debug!("removing {name}, which the manifest does not list");
            core.fs.remove(&core.dir.join(&name)).map_err(doing("clean up"))?;
        }
    }
    Ok(())
}

fn open_segments(core: &Core) -> Result<Vec<Arc<Segment>>> {
    let numbers: Vec<u64> = lock(&core.manifest).segments().iter().copied().collect();
    let newest = numbers.last().copied();
    let mut segments = Vec::with_capacity(numbers.len());
    for number in numbers {
        let path = filename::segment(&core.dir, number);
        let room = if Some(number) == newest { core.segment_bytes } else { 0 };
        let segment = Segment::open(&*core.fs, &path, number, room)?;
        segments.push(core.segments.add(segment)?);
    }
    Ok(segments)
}

/// Whether no segment came after this one, as far as can be told: one that did has closed it, for good.
fn is_last(newest: &Segment, segments: &[Arc<Segment>]) -> bool {
    let later = |other: &&Arc<Segment>| other.number() > newest.number();
    segments.iter().filter(later).all(|later| later.problem().is_none())
}

/// Whether records may be written behind those of the newest segment: not where others were that are
/// missing now, and not if it is of an older format.
fn can_grow(newest: &Arc<Segment>, loaded: &[Loaded]) -> bool {
    let it = loaded.iter().find(|loaded| Arc::ptr_eq(&loaded.segment, newest));
    it.is_some_and(|it| it.hint.covered() <= newest.len() && !it.has_holes && !newest.is_older())
}

fn new_segment(core: &Core) -> Result<Arc<Segment>> {
    let segment = core.create_segment(Origin::Log, core.segment_target())?;
    lock(&core.manifest).edit(&[segment.number()], &[])?;
    core.segments.add(segment)
}

/// A segment and the keys in it.
struct Loaded {
    segment: Arc<Segment>,
    hint: Hint,
    /// Whether something had to be scanned for it.
    scanned: bool,
    /// Nothing tells all that it held: it is lost, or parts of it are.
    unknown: bool,
    /// The disk did not give all of it.
    has_holes: bool,
}

/// What is left out of the sequence numbers for those that are not known: such records shall not count
/// as newer ones if they can be read again.
const BEYOND_LOST: u64 = 1 << 32;

/// Loads all hints, several at a time.
fn load_hints(
    core: &Core,
    segments: &[Arc<Segment>],
    newest: Option<(u64, Tail)>,
) -> Result<Vec<Loaded>> {
    let results = super::parallel::map(segments, super::parallel::cores(), |segment| {
        let tail = newest.filter(|(newest, _)| *newest == segment.number());
        let loaded = load(core, segment, tail.map_or(Tail::Whole, |(_, tail)| tail));
        core.stats.load_done.add(segment.len() / 2);
        loaded
    });
    results.into_iter().collect()
}

/// The hint of a segment: from its file, from a scan, or from both.
fn load(core: &Core, segment: &Arc<Segment>, tail: Tail) -> Result<Loaded> {
    let hint = hint_file::read(core, segment);
    let covered = hint.as_ref().map_or(HEADER as u64, Hint::covered);
    report_problem(core, segment, hint.as_ref());
    if let Some(hint) = hint.as_ref()
        && covered >= segment.len()
    {
        // What it is about and is not there answers with an error.
        return Ok(Loaded {
            segment: Arc::clone(segment),
            hint: hint.clone(),
            scanned: false,
            unknown: false,
            has_holes: false,
        });
    }
    let extent = Extent::new(&**segment.file(), covered.min(segment.len())..segment.len());
    // What cannot be read may be there: nothing of it is cut off.
    let tail = if extent.holes.is_empty() { tail } else { Tail::Whole };
    let scan = scan::scan(extent.bytes(), covered, segment.origin(), tail);
    for hole in &extent.holes {
        report_damage(core, segment, hole, "cannot be read");
    }
    for range in &scan.damage {
        let is_hole = |hole: &Range<u64>| hole.start < range.end && range.start < hole.end;
        if !extent.holes.iter().any(is_hole) {
            report_damage(core, segment, range, "hold no sound record");
        }
    }
    if let Some(torn) = scan.torn.filter(|_| tail != Tail::Whole) {
        cut_off(segment, scan.end, torn)?;
    }
    let from_file = hint.as_ref().map(owned_entries).unwrap_or_default();
    let mut builder = hint::Builder::from_scan(&scan);
    if let Some(hint) = hint.as_ref() {
        builder.add_hint(&from_file, hint);
    }
    let scanned = !scan.records.is_empty() || hint.is_none();
    let hint = builder.encode(segment.number(), scan.end);
    segment.cut(scan.end.min(segment.len()));
    Ok(Loaded {
        segment: Arc::clone(segment),
        hint,
        scanned: scanned && !segment.is_lost(),
        unknown: segment.is_lost() || !scan.damage.is_empty() || !extent.holes.is_empty(),
        has_holes: !extent.holes.is_empty(),
    })
}

fn report_damage(core: &Core, segment: &Segment, range: &Range<u64>, what: &str) {
    segment.mark_damaged();
    core.stats.damaged_ranges.add(1);
    let path = segment.path().display();
    log::error!("damaged: {path}: bytes {} to {} {what}", range.start, range.end);
}

/// Tells what is wrong with a segment as a whole, and keeps compaction away from it.
fn report_problem(core: &Core, segment: &Segment, hint: Option<&Hint>) {
    let covered = hint.map_or(0, Hint::covered);
    let problem = match segment.problem() {
        Some(problem) => problem.to_owned(),
        None if covered > segment.len() => {
            format!("it has {} bytes of at least {covered}", segment.len())
        }
        None => return,
    };
    segment.mark_damaged();
    core.stats.damaged_ranges.add(1);
    let path = segment.path().display();
    match hint {
        _ if !segment.is_empty() => log::error!("damaged: {path}: {problem}"),
        Some(hint) => log::error!(
            "damaged: {path}: {problem}; its hint names {} keys, which answer with this error if \
             they were not written again",
            hint.keys()
        ),
        None => log::error!(
            "damaged: {path}: {problem}, and so is its hint: keys that were written to it last have \
             an older value, or are not there"
        ),
    }
}

fn owned_entries(hint: &Hint) -> Vec<(Vec<u8>, Entry<'static>)> {
    let (mut walk, mut owned) = (hint.entries(), Vec::new());
    while let Some(entry) = walk.next() {
        owned.push((entry.key.to_vec(), Entry { key: &[], ..entry }));
    }
    owned
}

/// Cuts off what an interrupted write left, so that nothing of it is ever taken for a record. A kill
/// in the middle of it leaves all or nothing.
fn cut_off(segment: &Segment, from: u64, to: u64) -> Result<()> {
    log::warn!(
        "{}: cut off {} bytes at byte {from} that a crash left unfinished; none of them was \
         acknowledged as durable",
        segment.path().display(),
        to - from
    );
    let doing = KvsError::io(format!("cut off the end of {}", segment.path().display()));
    segment.file().set_len(from).map_err(doing)
}

/// Takes over which number each database has. Nothing else is shown where that cannot be told: it would
/// be other keys than those that were asked for.
fn recall_numbering(core: &Core) -> Result<()> {
    let view = View::new(core);
    let found = view.get_even_expired(record::STORE, numbering::KEY, Patience::MayWait);
    let why = match found {
        Ok(None) | Err(ReadError::NotResident) => return Ok(()),
        Ok(Some(value)) => match Numbering::from_bytes(&value.bytes) {
            Some(numbering) => {
                core.set_numbering(numbering);
                return Ok(());
            }
            None => "it is none".to_owned(),
        },
        Err(ReadError::Failed(error)) => error.to_string(),
    };
    Err(KvsError::Invalid(format!(
        "which numbers SWAPDB gave to databases cannot be read ({why}): after `kvs repair`, each has the \
         number that it had at first"
    )))
}

/// Merges all hints into the index.
fn merge(core: &Core, loaded: &[Loaded]) {
    let mut clears = [0u64; numbering::ALL];
    for (database, seq) in loaded.iter().flat_map(|loaded| loaded.hint.clears()) {
        if let Some(newest) = clears.get_mut(usize::from(database)) {
            *newest = seq.max(*newest);
        }
    }
    for loaded in loaded {
        loaded.segment.note_seq(loaded.hint.min_seq());
    }
    let Some(largest) = loaded.iter().max_by_key(|loaded| loaded.hint.keys()) else { return };
    let parts = if largest.hint.keys() < 1000 { 1 } else { super::parallel::cores() };
    let mut bounds = vec![None];
    bounds.extend(largest.hint.quantiles(parts).into_iter().map(Some));
    // The ordered index has one writer at a time.
    let ordering = Mutex::new(());
    std::thread::scope(|scope| {
        for (i, from) in bounds.iter().enumerate() {
            let to = bounds.get(i + 1).and_then(Option::as_ref);
            let (clears, ordering) = (&clears, &ordering);
            scope.spawn(move || {
                Part { core, loaded, clears, ordering }.merge(from.as_ref(), to);
            });
        }
    });
}

type Name = (u8, Vec<u8>);

/// One range of keys.
struct Part<'a> {
    core: &'a Core,
    loaded: &'a [Loaded],
    clears: &'a [u64; numbering::ALL],
    ordering: &'a Mutex<()>,
}

/// The next entry of one hint, in a heap that has the smallest key on top and of equal keys the one
/// with the largest sequence number.
struct Head<'a> {
    name: Name,
    entry: Entry<'static>,
    source: usize,
    rest: Entries<'a>,
}

impl Head<'_> {
    /// Moves on to the next entry; false at the end.
    fn advance(&mut self) -> bool {
        let Some(entry) = self.rest.next() else { return false };
        self.name.0 = entry.database;
        self.name.1.clear();
        self.name.1.extend_from_slice(entry.key);
        self.entry = Entry { key: &[], ..entry };
        true
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.name.cmp(&self.name).then(self.entry.seq.cmp(&other.entry.seq))
    }
}

impl Part<'_> {
    fn merge(&self, from: Option<&Name>, to: Option<&Name>) {
        let mut heap = BinaryHeap::with_capacity(self.loaded.len());
        for (source, loaded) in self.loaded.iter().enumerate() {
            let rest = match from {
                Some((database, key)) => loaded.hint.entries_from(*database, key),
                None => loaded.hint.entries(),
            };
            let nothing = Entry {
                database: 0,
                key: &[],
                offset: 0,
                size: 0,
                seq: 0,
                tombstone: true,
                expires_at: None,
            };
            let mut head = Head { name: (0, Vec::new()), entry: nothing, source, rest };
            if head.advance() {
                heap.push(head);
            }
        }
        let mut run = Run::new(self.core);
        let mut last: Option<Name> = None;
        while let Some(mut head) = heap.peek_mut() {
            if to.is_some_and(|to| head.name >= *to) {
                break;
            }
            let superseded = last.as_ref() == Some(&head.name);
            self.take(&head, superseded, &mut run);
            let name = last.get_or_insert_default();
            name.0 = head.name.0;
            name.1.clone_from(&head.name.1);
            if !head.advance() {
                PeekMut::pop(head);
            }
        }
        run.flush(self.ordering);
        self.core.expiry.add(&mut run.ending);
    }

    /// Counts one entry and, if it is the newest of its key, indexes it.
    fn take(&self, head: &Head<'_>, superseded: bool, run: &mut Run<'_>) {
        let (entry, segment) = (&head.entry, &self.loaded[head.source].segment);
        let (size, database) = (entry.size as usize, usize::from(head.name.0));
        if entry.tombstone {
            segment.liveness().add_tombstone(size);
            return;
        }
        let cleared = self.clears.get(database).is_none_or(|clear| entry.seq < *clear);
        if superseded || cleared {
            return;
        }
        let expires = entry.expires_at.is_some();
        let position = Position::new(segment.slot(), entry.offset, size, expires);
        let hash = self.core.hasher.hash(&head.name.1);
        segment.liveness().add(size);
        run.ending.extend(entry.expires_at.map(|at| Due { at, hash }));
        run.push(&head.name, hash, position, self.ordering);
    }
}

/// Keys of one database in order, on their way into its index, and all records that end.
struct Run<'a> {
    core: &'a Core,
    database: u8,
    filler: Filler,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    ending: Vec<Due>,
}

impl<'a> Run<'a> {
    const KEYS: usize = 512;

    fn new(core: &'a Core) -> Run<'a> {
        Run {
            core,
            database: 0,
            filler: Filler::default(),
            bytes: Vec::new(),
            ends: Vec::new(),
            ending: Vec::new(),
        }
    }

    fn push(&mut self, name: &Name, hash: KeyHash, position: Position, ordering: &Mutex<()>) {
        if name.0 != self.database {
            self.flush(ordering);
            self.database = name.0;
        }
        let guard = crossbeam_epoch::pin();
        let keydir = self.core.keydir(self.database, &guard);
        self.filler.add(hash, position, keydir, &guard);
        if self.core.ordered {
            self.bytes.extend_from_slice(&name.1);
            self.ends.push(self.bytes.len());
            if self.ends.len() == Self::KEYS {
                self.order(keydir, ordering, &guard);
            }
        }
    }

    fn flush(&mut self, ordering: &Mutex<()>) {
        let guard = crossbeam_epoch::pin();
        let keydir = self.core.keydir(self.database, &guard);
        self.filler.flush(keydir, &guard);
        self.order(keydir, ordering, &guard);
    }

    /// Adds the keys to the ordered index.
    fn order(&mut self, keydir: &Keydir, ordering: &Mutex<()>, guard: &Guard) {
        let mut start = 0;
        let keys: Vec<&[u8]> = self
            .ends
            .iter()
            .map(|end| &self.bytes[std::mem::replace(&mut start, *end)..*end])
            .collect();
        let alone = lock(ordering);
        keydir.add_ordered(&keys, guard);
        drop(alone);
        self.bytes.clear();
        self.ends.clear();
    }
}
