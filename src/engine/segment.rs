//! One segment: a numbered file of records, written at its end by one writer, read by everybody.
//!
//! Owner: the writer (or the compactor, for a merged segment) appends; any thread reads below the
//! published length. Invariants: bytes below [`Segment::len`] never change; `len` only grows, and is
//! raised only after the bytes are written; a sealed segment grows no more. The file lives as long
//! as someone holds the `Arc`, even after its name was removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::fs::{File, Fs};
use super::liveness::Liveness;
use super::mmap::{Map, PAGE};
use super::position::Position;
use super::record::{self, Record};
use crate::error::{KvsError, Result};

/// What every segment starts with. On disk: never changes.
pub const MAGIC: [u8; 8] = *b"KVSLOG\r\n";
/// The format version that this code writes. It reads the ones before, too.
pub const VERSION: u16 = 2;
/// Length of the header; records follow it.
pub const HEADER: usize = 40;

/// Who wrote a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The writer, in the order of sequence numbers.
    Log,
    /// The compactor: what lived in other segments.
    Merged,
}

/// The first bytes of the file. docs/format.md has the table.
pub fn encode_header(number: u64, origin: Origin) -> [u8; HEADER] {
    let mut header = [0u8; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10..12].copy_from_slice(&(origin as u16).to_le_bytes());
    header[16..24].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&header[..HEADER - 4]);
    header[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn field(header: &[u8; HEADER], at: usize) -> u16 {
    u16::from_le_bytes([header[at], header[at + 1]])
}

/// The number and origin in a header; otherwise what is wrong with it.
pub fn decode_header(header: &[u8; HEADER]) -> Result<(u64, Origin), String> {
    if header[..8] != MAGIC {
        return Err("it does not start with the magic number of a segment".into());
    }
    let version = field(header, 8);
    if !(1..=VERSION).contains(&version) {
        return Err(format!(
            "its format version is {version}; this kvs reads versions up to {VERSION}"
        ));
    }
    let crc = crc32fast::hash(&header[..HEADER - 4]).to_le_bytes();
    if header[HEADER - 4..] != crc {
        return Err("its header's checksum does not match".into());
    }
    let origin = match field(header, 10) {
        0 => Origin::Log,
        1 => Origin::Merged,
        other => return Err(format!("it has the unknown origin {other}")),
    };
    let mut number = [0u8; 8];
    number.copy_from_slice(&header[16..24]);
    Ok((u64::from_le_bytes(number), origin))
}

/// Whether a header is sound and of a version that this code does not know.
pub fn is_of_newer_version(header: &[u8; HEADER]) -> bool {
    let crc = crc32fast::hash(&header[..HEADER - 4]).to_le_bytes();
    let known = (1..=VERSION).contains(&field(header, 8));
    header[..8] == MAGIC && !known && header[HEADER - 4..] == crc
}

/// See the module.
pub struct Segment {
    number: u64,
    origin: Origin,
    slot: AtomicU32,
    path: PathBuf,
    file: Arc<dyn File>,
    map: Map,
    capacity: u64,
    len: AtomicU64,
    liveness: Liveness,
    /// The smallest sequence number in it; 0 while none is known.
    min_seq: AtomicU64,
    /// Damage was found in it: it is kept as it is.
    damaged: AtomicBool,
    sealed: AtomicBool,
    resident: Box<[AtomicU64]>,
    /// What was wrong with it when it was opened.
    problem: Option<String>,
    /// It is of a format version before the one that is written now.
    is_older: bool,
}

/// What asking for the pages in memory found.
pub(super) struct Refreshed {
    /// Pages that were known to be in memory before.
    pub(super) known: u64,
    /// Those of them that are not any more.
    pub(super) evicted: u64,
}

/// The file of a segment that is not there.
struct Lost;

impl File for Lost {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn map(&self, _: u64) -> io::Result<Map> {
        Map::empty()
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({}, {} bytes)", self.number, self.len())
    }
}

impl Segment {
    /// Creates the file of segment `number` with its header, mapped for `capacity` bytes.
    pub fn create(
        fs: &dyn Fs,
        path: &Path,
        number: u64,
        origin: Origin,
        capacity: u64,
    ) -> Result<Segment> {
        let failed = || KvsError::io(format!("create {}", path.display()));
        let file = fs.create(path).map_err(failed())?;
        file.write_all_at(&encode_header(number, origin), 0).map_err(failed())?;
        Segment::new(path, file, number, origin, HEADER as u64, capacity)
    }

    /// Opens an existing segment, mapped for `capacity` bytes or its length if that is more. Its
    /// published length is that of the file until [`Segment::cut`] says better. One that is missing
    /// is lost ([`Segment::is_lost`]), one with a damaged header is damaged; only one of a version
    /// that this code does not know is refused.
    pub fn open(fs: &dyn Fs, path: &Path, number: u64, capacity: u64) -> Result<Segment> {
        let file = match fs.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Segment::lost(path, number, "its file is missing".into());
            }
            opened => opened.map_err(KvsError::io(format!("open {}", path.display())))?,
        };
        let len = file.len()?;
        let mut header = [0u8; HEADER];
        if len < HEADER as u64 {
            let why = format!("it has {len} bytes, less than a header");
            return Segment::lost(path, number, why);
        }
        if let Err(error) = file.read_exact_at(&mut header, 0) {
            return Segment::lost(path, number, format!("it cannot be read: {error}"));
        }
        if is_of_newer_version(&header) {
            let what = "it has a format version that this kvs does not read".into();
            return Err(KvsError::Damaged { file: path.to_owned(), offset: 0, what });
        }
        let told = match decode_header(&header) {
            Ok((found, _)) if found != number => Err(format!("it says that it is segment {found}")),
            told => told,
        };
        // One that does not tell is read, but never written to.
        let origin = told.as_ref().map_or(Origin::Merged, |(_, origin)| *origin);
        let mut segment = Segment::new(path, file, number, origin, len, capacity.max(len))?;
        segment.problem = told.err();
        segment.is_older = field(&header, 8) < VERSION;
        Ok(segment)
    }

    /// A segment that is listed and cannot be read: its keys answer with why.
    fn lost(path: &Path, number: u64, why: String) -> Result<Segment> {
        let mut segment = Segment::new(path, Arc::new(Lost), number, Origin::Merged, 0, 1)?;
        segment.problem = Some(why);
        Ok(segment)
    }

    /// Whether nothing of it can be read.
    pub fn is_lost(&self) -> bool {
        self.is_empty() && self.problem.is_some()
    }

    /// What is wrong with it as a whole: it is lost, or its header is damaged.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn new(
        path: &Path,
        file: Arc<dyn File>,
        number: u64,
        origin: Origin,
        len: u64,
        capacity: u64,
    ) -> Result<Segment> {
        let map = file.map(capacity).map_err(KvsError::io(format!("map {}", path.display())))?;
        let words = (capacity as usize).div_ceil(PAGE * 64);
        Ok(Segment {
            number,
            origin,
            slot: AtomicU32::new(0),
            path: path.to_owned(),
            file,
            map,
            capacity,
            len: AtomicU64::new(len),
            liveness: Liveness::default(),
            min_seq: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            resident: (0..words).map(|_| AtomicU64::new(0)).collect(),
            problem: None,
            is_older: false,
        })
    }

    /// Whether it is of an older format version: then it is read, and never written to.
    pub fn is_older(&self) -> bool {
        self.is_older
    }

    /// The file's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who wrote it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Its place in the table of open segments.
    pub fn slot(&self) -> u32 {
        self.slot.load(Ordering::Relaxed)
    }

    pub(super) fn set_slot(&self, slot: u32) {
        self.slot.store(slot, Ordering::Relaxed);
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// How many bytes are mapped, and so how long it may grow.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The published length: header and whole records.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.len() <= HEADER as u64
    }

    /// Makes what was written durable. A failure is final ([`KvsError::Poisoned`]): the kernel may
    /// have dropped the data with its first report, so another try would prove nothing.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| KvsError::Poisoned {
            cause: format!("sync {}: {error}", self.path.display()),
        })
    }

    /// Publishes what was written up to `len`.
    pub fn publish(&self, len: u64) {
        debug_assert!(self.len() <= len && len <= self.capacity);
        self.mark_resident(self.len(), len);
        self.len.store(len, Ordering::Release);
    }

    /// Sets the published length after an open found where the records end.
    pub fn cut(&self, len: u64) {
        debug_assert!(len <= self.len());
        self.len.store(len, Ordering::Release);
    }

    /// How much of it is live, and how much tombstones.
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Bytes of its live records.
    pub fn live(&self) -> u64 {
        self.liveness.live()
    }

    /// Notes that it holds this sequence number. For the one thread that fills it, or that loads it.
    pub fn note_seq(&self, seq: u64) {
        let known = self.min_seq();
        if known == 0 || seq < known {
            self.min_seq.store(seq, Ordering::Relaxed);
        }
    }

    /// The smallest sequence number in it; 0 while none is known.
    pub fn min_seq(&self) -> u64 {
        self.min_seq.load(Ordering::Relaxed)
    }

    /// Closes it: all that it will ever hold is published.
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// Whether it is closed.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Notes that there is damage in it: compaction keeps away from then on.
    pub fn mark_damaged(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether damage was found in it.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// The bytes of the record at `position` and perhaps some behind it. Touching them may wait for
    /// the disk unless [`Segment::is_resident`].
    pub fn mapped(&self, position: Position) -> &[u8] {
        self.map.get(position.offset(), self.readable(position)).unwrap_or(&[])
    }

    /// Reads the record at `position` through the file, which unlike the map turns a failing disk
    /// into an error and fetches all its pages at once.
    pub fn fetch(&self, position: Position) -> Result<Vec<u8>> {
        let bytes = self.read(position, self.readable(position))?;
        self.mark_resident(position.offset(), position.offset() + bytes.len() as u64);
        Ok(bytes)
    }

    /// [`Segment::fetch`] for who does not wait: `None` if it would have to.
    pub fn fetch_now(&self, position: Position) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0u8; self.readable(position)];
        let read = self.file.read_now(&mut bytes, position.offset());
        let read = read.map_err(|error| self.cannot_read(position, bytes.len(), error))?;
        Ok((read == Some(bytes.len())).then_some(bytes))
    }

    /// Reads only as much of the record at `position` as tells its key, if that has `key` bytes.
    pub fn fetch_key(&self, position: Position, key: usize) -> Result<Vec<u8>> {
        self.read(position, self.readable(position).min(record::size(key, 0, true)))
    }

    /// How many bytes there are to read of the record at `position`, and perhaps behind it.
    fn readable(&self, position: Position) -> usize {
        self.len().saturating_sub(position.offset()).min(position.size() as u64) as usize
    }

    fn read(&self, position: Position, len: usize) -> Result<Vec<u8>> {
        self.check_lost(position.offset())?;
        let mut bytes = vec![0u8; len];
        let read = self.file.read_exact_at(&mut bytes, position.offset());
        read.map_err(|error| self.cannot_read(position, len, error))?;
        Ok(bytes)
    }

    #[cold]
    fn cannot_read(&self, position: Position, len: usize, error: io::Error) -> KvsError {
        let (offset, path) = (position.offset(), self.path.display());
        KvsError::io(format!("read {len} bytes at {offset} of {path}"))(error)
    }

    /// The record in `bytes`, which were read at `position`; damage is named by file and offset.
    pub fn parse<'a>(&self, position: Position, bytes: &'a [u8]) -> Result<Record<'a>> {
        record::parse(bytes).map_err(|fault| self.damaged(position.offset(), fault.describe()))
    }

    fn check_lost(&self, offset: u64) -> Result<()> {
        match &self.problem {
            Some(why) if self.is_lost() => Err(self.damaged(offset, why)),
            _ => Ok(()),
        }
    }

    /// The error for damage at `offset`.
    pub fn damaged(&self, offset: u64, what: &str) -> KvsError {
        KvsError::Damaged { file: self.path.clone(), offset, what: what.to_owned() }
    }

    /// Whether every page of the record at `position` was in memory when last looked at.
    pub fn is_resident(&self, position: Position) -> bool {
        let first = position.offset() as usize / PAGE;
        let end = (position.offset() as usize + position.size()).min(self.len() as usize);
        (first..=end.saturating_sub(1).max(first * PAGE) / PAGE).all(|page| {
            self.resident
                .get(page / 64)
                .is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (page % 64) != 0)
        })
    }

    fn mark_resident(&self, from: u64, to: u64) {
        for page in from as usize / PAGE..(to as usize).div_ceil(PAGE) {
            if let Some(word) = self.resident.get(page / 64) {
                word.fetch_or(1 << (page % 64), Ordering::Relaxed);
            }
        }
    }

    /// Which pages of it are in memory: bit 0 of a byte each. Empty if the kernel does not tell.
    pub(super) fn resident_pages(&self) -> Vec<u8> {
        self.map.resident_pages(self.len() as usize).unwrap_or_default()
    }

    /// Lets go of the pages in `range` that were not `resident` before they were read. The kernel
    /// keeps those that somebody has mapped since.
    pub(super) fn forget(&self, range: std::ops::Range<u64>, resident: &[u8]) {
        let page = PAGE as u64;
        let cold = |number: u64| resident.get(number as usize).is_some_and(|flags| flags & 1 == 0);
        let (mut from, end) = (range.start / page, range.end / page);
        while from < end {
            let to = (from..end).find(|number| !cold(*number)).unwrap_or(end);
            if from < to {
                // Advice only: if it is not taken, memory is used for longer.
                let _ = self.file.forget(from * page, (to - from) * page);
            }
            from = to + 1;
        }
    }

    /// Asks the kernel anew which pages are in memory.
    pub(super) fn refresh_residency(&self) -> Refreshed {
        let words = self.known_resident();
        let known = words.iter().map(|word| u64::from(word.count_ones())).sum();
        let pages = self.map.resident_pages(self.len() as usize);
        let evicted = pages.map_or(0, |pages| self.note_residency(&words, &pages));
        Refreshed { known, evicted }
    }

    fn known_resident(&self) -> Vec<u64> {
        self.resident.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Of the pages that were `known` as resident before the kernel was asked, forgets those that
    /// are not, and counts them. What became known since is newer than the kernel's answer.
    fn note_residency(&self, known: &[u64], pages: &[u8]) -> u64 {
        let mut evicted = 0;
        for ((word, known), pages) in self.resident.iter().zip(known).zip(pages.chunks(64)) {
            let bit = |(i, page): (usize, &u8)| u64::from(page & 1) << i;
            let now = pages.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit);
            let gone = known & !now;
            word.fetch_and(!gone, Ordering::Relaxed);
            word.fetch_or(now, Ordering::Relaxed);
            evicted += u64::from(gone.count_ones());
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::super::fs::OsFs;
    use super::*;

    /// What was written while the kernel was asked counted as evicted, and ten seconds of reading
    /// through the file followed.
    #[test]
    fn only_pages_known_before_the_kernel_was_asked_can_be_evicted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let segment = Segment::create(&OsFs, &path, 1, Origin::Log, 9 * PAGE as u64).unwrap();
        let page = |number: usize| Position::new(0, (number * PAGE) as u64 + 64, 64, false);
        segment.publish(3 * PAGE as u64);
        let known = segment.known_resident();
        segment.publish(6 * PAGE as u64);
        assert_eq!(segment.note_residency(&known, &[1, 1, 1]), 0);
        assert!((0..6).all(|number| segment.is_resident(page(number))));
        assert_eq!(segment.note_residency(&segment.known_resident(), &[1, 0, 1, 1, 1, 1]), 1);
        assert!(!segment.is_resident(page(1)) && segment.is_resident(page(2)));
    }
}
