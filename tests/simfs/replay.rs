//! What a power cut leaves of a simulated disk, at each point of its journal.
//!
//! Durable is: the content of a file at its last sync, and the names of a directory at its last
//! sync. Of what came after, a cut keeps any part, as the assumptions about the medium in
//! docs/format.md allow:
//! - each change of a name is there or not, whatever became of those before it; a rename is there
//!   as a whole or not at all;
//! - of the changes of a file, any are there, whole, or their first bytes, or as zeros (the length
//!   grew, the data is missing); or each sector of 512 bytes is as it was after some change or
//!   other; or, in a segment, there are bytes that nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::random::Random;
use super::{Id, Op, SimFs};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// How much of what is not durable a power cut takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// None of it.
    Nothing,
    /// What this seed says.
    Seeded(u64),
}

/// Where everything is.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub files: BTreeMap<PathBuf, Id>,
    /// All directories but the one that all others are in.
    pub dirs: BTreeSet<PathBuf>,
}

/// Files and their names.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub names: Names,
    pub files: BTreeMap<Id, Vec<u8>>,
}

impl Names {
    /// Whether there is such a directory, and those that it is in.
    pub fn has_dir(&self, dir: &Path) -> bool {
        dir.ancestors().all(|dir| dir.parent().is_none() || self.dirs.contains(dir))
    }

    /// Moves a directory and all that is in it.
    pub fn move_dir(&mut self, from: &Path, to: &Path) {
        if !self.dirs.contains(from) {
            return;
        }
        let dirs = std::mem::take(&mut self.dirs).into_iter();
        self.dirs = dirs.map(|dir| moved(&dir, from, to)).collect();
        let files = std::mem::take(&mut self.files).into_iter();
        self.files = files.map(|(path, id)| (moved(&path, from, to), id)).collect();
    }
}

/// Where a path leads once the directory `from` is `to`.
pub fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}

#[derive(Clone)]
enum Change {
    Write(usize, Arc<[u8]>),
    SetLen(usize),
    /// A write that a failed sync was about: no later sync makes it durable.
    Lost(usize, Arc<[u8]>),
}

impl Change {
    /// Makes the change as far as its first `n` bytes, with something else in place of the others if
    /// it is to be filled.
    fn make(&self, content: &mut Vec<u8>, n: usize, fill: impl FnMut() -> u8, filled: bool) {
        match self {
            Change::SetLen(len) => content.resize(*len, 0),
            Change::Write(at, bytes) | Change::Lost(at, bytes) => {
                let n = n.min(bytes.len());
                let end = at + if filled { bytes.len() } else { n };
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..at + n].copy_from_slice(&bytes[..n]);
                if filled {
                    content[at + n..end].fill_with(fill);
                }
            }
        }
    }

    /// The bytes of the file that it is about.
    fn range(&self) -> Range<usize> {
        match self {
            Change::Write(at, bytes) | Change::Lost(at, bytes) => *at..*at + bytes.len(),
            Change::SetLen(len) => *len..usize::MAX,
        }
    }

    /// What is left of a lost write once something later has become durable in `range`.
    fn outside(&self, range: &Range<usize>) -> Vec<Change> {
        let (own, bytes) = (self.range(), self.bytes());
        let sides = [own.start..own.end.min(range.start), own.start.max(range.end)..own.end];
        let of = |side: &Range<usize>| bytes[side.start - own.start..side.end - own.start].into();
        let some = sides.iter().filter(|side| !side.is_empty());
        some.map(|side| Change::Lost(side.start, of(side))).collect()
    }

    /// The bytes of a write.
    fn bytes(&self) -> &[u8] {
        match self {
            Change::Write(_, bytes) | Change::Lost(_, bytes) => bytes,
            Change::SetLen(_) => &[],
        }
    }

    fn op(&self, id: Id) -> Op {
        match self {
            Change::Write(at, bytes) | Change::Lost(at, bytes) => {
                Op::Write(id, *at as u64, Arc::clone(bytes))
            }
            Change::SetLen(len) => Op::SetLen(id, *len as u64),
        }
    }

    fn make_whole(&self, content: &mut Vec<u8>) {
        self.make(content, usize::MAX, || 0, false);
    }
}

#[derive(Clone)]
enum NameChange {
    Set(PathBuf, Id),
    Unset(PathBuf),
    Move(PathBuf, PathBuf, Id),
    MakeDir(PathBuf),
    RemoveDir(PathBuf),
    MoveDir(PathBuf, PathBuf),
}

impl NameChange {
    fn make(&self, names: &mut Names) {
        match self {
            NameChange::Set(path, id) => drop(names.files.insert(path.clone(), *id)),
            NameChange::Unset(path) => drop(names.files.remove(path)),
            NameChange::Move(from, to, id) => {
                names.files.remove(from);
                names.files.insert(to.clone(), *id);
            }
            NameChange::MakeDir(path) => drop(names.dirs.insert(path.clone())),
            NameChange::RemoveDir(path) => drop(names.dirs.remove(path)),
            NameChange::MoveDir(from, to) => names.move_dir(from, to),
        }
    }

    fn path(&self) -> &Path {
        match self {
            NameChange::Set(path, _) | NameChange::Unset(path) | NameChange::Move(path, ..) => path,
            NameChange::MakeDir(path) | NameChange::RemoveDir(path) => path,
            NameChange::MoveDir(path, _) => path,
        }
    }

    /// The same change, of what is in the directory `to` by now.
    fn moved(self, from: &Path, to: &Path) -> NameChange {
        let moved = |path: PathBuf| moved(&path, from, to);
        match self {
            NameChange::Set(path, id) => NameChange::Set(moved(path), id),
            NameChange::Unset(path) => NameChange::Unset(moved(path)),
            NameChange::Move(path, new, id) => NameChange::Move(moved(path), moved(new), id),
            NameChange::MakeDir(path) => NameChange::MakeDir(moved(path)),
            NameChange::RemoveDir(path) => NameChange::RemoveDir(moved(path)),
            NameChange::MoveDir(path, new) => NameChange::MoveDir(moved(path), moved(new)),
        }
    }

    fn op(&self) -> Op {
        match self.clone() {
            NameChange::Set(path, id) => Op::Link(path, id),
            NameChange::Unset(path) => Op::Remove(path),
            NameChange::Move(from, to, _) | NameChange::MoveDir(from, to) => Op::Rename(from, to),
            NameChange::MakeDir(path) => Op::MakeDir(path),
            NameChange::RemoveDir(path) => Op::RemoveDir(path),
        }
    }
}

/// See the module. It stands behind the operations that [`Replay::advance`] has told.
#[derive(Clone)]
pub struct Replay {
    journal: Arc<Vec<Op>>,
    at: usize,
    boot: u64,
    durable: Image,
    /// The names as everyone sees them.
    names: Names,
    /// What came after the last sync, of names and of each file.
    name_changes: Vec<NameChange>,
    changes: BTreeMap<Id, Vec<Change>>,
}

impl Replay {
    pub(super) fn new(base: Image, journal: Vec<Op>, boot: u64) -> Replay {
        Replay {
            journal: Arc::new(journal),
            at: 0,
            boot,
            names: base.names.clone(),
            durable: base,
            name_changes: Vec::new(),
            changes: BTreeMap::new(),
        }
    }

    /// How many operations it has gone through.
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.journal.len()
    }

    /// Goes over the next operation and tells it.
    pub fn advance(&mut self) -> Option<Op> {
        let op = self.journal.get(self.at)?.clone();
        self.at += 1;
        match &op {
            Op::Create(path, id) => {
                self.durable.files.entry(*id).or_default();
                self.rename(NameChange::Set(path.clone(), *id));
            }
            Op::Rename(from, to) => {
                let (id, from, to) = (self.names.files.get(from), from.clone(), to.clone());
                self.rename(match id {
                    Some(id) => NameChange::Move(from, to, *id),
                    None => NameChange::MoveDir(from, to),
                });
            }
            Op::MakeDir(dir) => self.rename(NameChange::MakeDir(dir.clone())),
            Op::RemoveDir(dir) => self.rename(NameChange::RemoveDir(dir.clone())),
            Op::Link(path, id) => self.rename(NameChange::Set(path.clone(), *id)),
            Op::Remove(path) => self.rename(NameChange::Unset(path.clone())),
            Op::SyncDir(dir) => self.sync_dir(dir),
            Op::Write(id, at, bytes) => {
                let change = Change::Write(*at as usize, Arc::clone(bytes));
                self.changes.entry(*id).or_default().push(change);
            }
            Op::SetLen(id, len) => {
                self.changes.entry(*id).or_default().push(Change::SetLen(*len as usize));
            }
            Op::Sync(id) => {
                let content = self.durable.files.entry(*id).or_default();
                let changes = self.changes.entry(*id).or_default();
                let mut lost = Vec::new();
                for change in changes.drain(..) {
                    if matches!(change, Change::Lost(..)) {
                        lost.push(change);
                        continue;
                    }
                    change.make_whole(content);
                    lost = lost.iter().flat_map(|lost| lost.outside(&change.range())).collect();
                }
                *changes = lost;
            }
            Op::SyncFailed(id) => {
                for change in self.changes.entry(*id).or_default() {
                    if let Change::Write(at, bytes) = change {
                        *change = Change::Lost(*at, Arc::clone(bytes));
                    }
                }
            }
            Op::Mark(_) => {}
        }
        Some(op)
    }

    fn rename(&mut self, change: NameChange) {
        change.make(&mut self.names);
        self.name_changes.push(change);
    }

    /// Makes the changes of names in a directory durable, which may have had another name then.
    fn sync_dir(&mut self, dir: &Path) {
        let mut left = std::mem::take(&mut self.name_changes);
        while !left.is_empty() {
            let change = left.remove(0);
            let now = left.iter().fold(change.path().to_owned(), |path, later| match later {
                NameChange::MoveDir(from, to) => moved(&path, from, to),
                _ => path,
            });
            if now.parent() != Some(dir) {
                self.name_changes.push(change);
                continue;
            }
            change.make(&mut self.durable.names);
            if let NameChange::MoveDir(from, to) = &change {
                let before = std::mem::take(&mut self.name_changes).into_iter();
                self.name_changes = before.map(|change| change.moved(from, to)).collect();
            }
        }
    }

    /// Says which file an operation is about.
    pub fn describe(&self, op: &Op) -> String {
        let name = |id: &Id| {
            let named = self.names.files.iter().find(|(_, named)| *named == id);
            named.map_or("a removed file".to_owned(), |(path, _)| path.display().to_string())
        };
        match op {
            Op::Write(id, at, bytes) => format!("write {} at {at} of {}", bytes.len(), name(id)),
            Op::SetLen(id, len) => format!("set the length of {} to {len}", name(id)),
            Op::Sync(id) => format!("sync {}", name(id)),
            other => format!("{other:?}"),
        }
    }

    /// The disk after a kill of the process: all that was done is there, durable or not. (A write
    /// that the kill interrupts is a shorter write: see [`Replay::interrupted`].)
    pub fn kill(&self) -> SimFs {
        let names = self.name_changes.iter().map(NameChange::op);
        let changes = self.changes.iter();
        let ops = changes.flat_map(|(id, changes)| changes.iter().map(|change| change.op(*id)));
        let journal = names.chain(ops).collect();
        SimFs::with(&self.image(Loss::Nothing), self.durable.clone(), journal, self.boot)
    }

    /// The disk after a kill in the middle of the last operation, if that was a write: only its
    /// first `n` bytes are there.
    pub fn interrupted(&self, n: usize) -> Option<SimFs> {
        let Some(Op::Write(id, ..)) = self.journal.get(self.at.checked_sub(1)?) else {
            return None;
        };
        let mut cut = self.clone();
        let Some(Change::Write(_, bytes)) = cut.changes.get_mut(id)?.last_mut() else {
            return None;
        };
        *bytes = bytes[..n.min(bytes.len())].into();
        Some(cut.kill())
    }

    /// The disk after a power cut, in the machine that is started then.
    pub fn power_cut(&self, loss: Loss) -> SimFs {
        let image = self.image(loss);
        SimFs::with(&image, image.clone(), Vec::new(), self.boot + 1)
    }

    fn image(&self, loss: Loss) -> Image {
        let mut random = Random(if let Loss::Seeded(seed) = loss { seed } else { 0 });
        let names = self.surviving_names(loss, &mut random);
        let mut image = Image { names: names.clone(), ..Image::default() };
        for (path, id) in names.files {
            let empty = Vec::new();
            let changes = self.changes.get(&id).unwrap_or(&empty);
            let mut content = self.durable.files[&id].clone();
            match loss {
                Loss::Everything => {}
                Loss::Nothing => changes.iter().for_each(|change| change.make_whole(&mut content)),
                Loss::Seeded(_) => {
                    let is_log = path.extension().is_some_and(|found| found == "log");
                    content = survive(content, changes, is_log, &mut random);
                }
            }
            // A second name of the same file has the same content.
            image.files.entry(id).or_insert(content);
        }
        image
    }

    /// What is in a directory whose own name is gone is gone, too.
    fn surviving_names(&self, loss: Loss, random: &mut Random) -> Names {
        let mut names = self.durable.names.clone();
        let all = random.below(3) == 0;
        for change in &self.name_changes {
            let kept = match loss {
                Loss::Everything => false,
                Loss::Nothing => true,
                Loss::Seeded(_) => all || random.below(2) == 0,
            };
            if kept {
                change.make(&mut names);
            }
        }
        let all = names.clone();
        names.dirs.retain(|dir| all.has_dir(dir));
        names.files.retain(|path, _| path.parent().is_some_and(|dir| all.has_dir(dir)));
        names
    }
}

/// What is left of a file's content and the changes that were not durable.
fn survive(mut content: Vec<u8>, changes: &[Change], is_log: bool, random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => {}
        1 => changes.iter().for_each(|change| change.make_whole(&mut content)),
        // The first ones, and a part of the next.
        2 => {
            let whole = random.below(changes.len() + 1);
            changes[..whole].iter().for_each(|change| change.make_whole(&mut content));
            if let Some(change) = changes.get(whole).filter(|change| !change.bytes().is_empty()) {
                change.make(&mut content, random.below(change.bytes().len() + 1), || 0, false);
            }
        }
        3 => return sectors(content, changes, random),
        // Each for itself.
        _ => {
            for change in changes {
                let torn = random.below(change.bytes().len() + 1);
                match random.below(if is_log { 10 } else { 9 }) {
                    0..4 => change.make_whole(&mut content),
                    4..6 => {}
                    6 => change.make(&mut content, torn, || 0, false),
                    7 => change.make(&mut content, torn, || 0, true),
                    8 => change.make(&mut content, 0, || 0, true),
                    _ => change.make(&mut content, torn, || random.next() as u8, true),
                }
            }
        }
    }
    content
}

/// Each sector as it was after so many changes, and the length as it was after so many.
fn sectors(content: Vec<u8>, changes: &[Change], random: &mut Random) -> Vec<u8> {
    let mut versions = vec![content];
    for change in changes {
        let mut next = versions[versions.len() - 1].clone();
        change.make_whole(&mut next);
        versions.push(next);
    }
    let len = versions[random.below(versions.len())].len();
    let mut left = Vec::with_capacity(len);
    while left.len() < len {
        let version = &versions[random.below(versions.len())];
        let end = (left.len() + SECTOR).min(len);
        left.extend_from_slice(version.get(left.len()..end.min(version.len())).unwrap_or(&[]));
        left.resize(end, 0);
    }
    left
}
