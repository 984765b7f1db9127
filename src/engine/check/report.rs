//! What a check found, for people and programs: `kvs check` prints it, `kvs repair` starts from it.

use std::ops::Range;
use std::path::PathBuf;

use crate::engine::numbering::Numbering;
use crate::engine::record;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Of no harm: it costs time, or goes with the next open.
    Note,
    /// Something is not as it was written.
    Damage,
}

impl Grade {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Grade::Note => "note",
            Grade::Damage => "damage",
        }
    }
}

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a segment that are no sound records.
    Records,
    /// A segment's header.
    Header,
    /// Bytes of a segment that the disk does not give.
    Unreadable,
    /// A segment is shorter than it was when its hint was written.
    CutShort,
    /// A listed segment is not there.
    Missing,
    /// Sound records that cannot lie where they are.
    Order,
    /// The manifest, or a line of it.
    Manifest,
    /// The file that names the engine.
    Engine,
    /// A hint.
    Hint,
    /// The end of the newest segment, which a crash cut off before it was acknowledged.
    Torn,
    /// A file that is no part of the store any more, or not yet.
    Leftover,
}

impl Kind {
    /// Its name, as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Records => "records",
            Kind::Header => "header",
            Kind::Unreadable => "unreadable",
            Kind::CutShort => "cut-short",
            Kind::Missing => "missing",
            Kind::Order => "order",
            Kind::Manifest => "manifest",
            Kind::Engine => "engine",
            Kind::Hint => "hint",
            Kind::Torn => "torn",
            Kind::Leftover => "leftover",
        }
    }
}

/// How it is known which keys a damaged range held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The segment's hint lists them all.
    ByHint,
    /// The damaged records' own headers fit together: it is likely.
    ByHeaders,
    /// Not at all, or not all of them.
    InPart,
}

impl Told {
    /// Its name, as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Told::ByHint => "hint",
            Told::ByHeaders => "headers",
            Told::InPart => "part",
        }
    }
}

/// What a record said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// The key's value, or it cannot be told.
    Value,
    /// That the key was removed.
    Tombstone,
    /// That all keys of the database were.
    Clear,
}

impl Was {
    /// Its name, as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Was::Value => "value",
            Was::Tombstone => "tombstone",
            Was::Clear => "clear",
        }
    }
}

/// A record that is damaged or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The database, as records have it: see [`Report::number_of`].
    pub database: u8,
    /// The key, empty for a clear.
    pub key: Vec<u8>,
    /// The sequence number.
    pub seq: u64,
    /// Where it is, or was, in its segment.
    pub offset: u64,
    /// What it was.
    pub what: Was,
    /// A newer record of the key, or a copy of this one, is sound: nothing is lost with it.
    pub superseded: bool,
    /// An older record of the key is sound: without this one, it would come up again.
    pub hides: bool,
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What it is.
    pub kind: Kind,
    /// The file, by its name in the directory.
    pub file: String,
    /// The bytes of the file that it is about.
    pub range: Range<u64>,
    /// In words.
    pub what: String,
    /// The records in it, as far as they are known.
    pub gone: Vec<Gone>,
    /// How they are known.
    pub told: Told,
    /// How many records there may have been beside them: at most so many; `None`: nothing tells.
    pub others: Option<u64>,
}

impl Finding {
    /// A finding that has nothing to do with keys.
    pub fn new(
        (grade, kind): (Grade, Kind),
        file: impl Into<String>,
        range: Range<u64>,
        what: impl Into<String>,
    ) -> Finding {
        let (file, what) = (file.into(), what.into());
        let (gone, told) = (Vec::new(), Told::ByHint);
        Finding { grade, kind, file, range, what, gone, told, others: Some(0) }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The directory.
    pub dir: PathBuf,
    /// How many segments were looked at.
    pub segments: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many sound records are in them.
    pub records: u64,
    /// Which database each number means.
    pub numbering: Numbering,
    /// What was found, by file and place.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether all is as it was written.
    pub fn is_sound(&self) -> bool {
        self.damage().next().is_none()
    }

    /// The findings that are damage.
    pub fn damage(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.grade == Grade::Damage)
    }

    /// The number by which clients name the database of a record; `None` if it is a record of the
    /// store's own.
    pub fn number_of(&self, gone: &Gone) -> Option<u8> {
        (gone.database != record::STORE).then(|| self.numbering.number(gone.database))
    }

    /// The records whose loss is one: no newer one of their key is sound.
    pub fn lost(&self) -> impl Iterator<Item = &Gone> {
        self.damage().flat_map(|finding| &finding.gone).filter(|gone| !gone.superseded)
    }

    /// How many records beside them may be gone: at most so many; `None`: nothing tells.
    pub fn others(&self) -> Option<u64> {
        self.damage().map(|finding| finding.others).sum()
    }
}
