//! Mending a directory: what is damaged is put aside, what is sound in it is taken over, and the rest
//! is told. Nothing is ever deleted: what goes aside is in `quarantine/TIME/` with its old name.
//!
//! Thread: the caller, who gets the directory's lock. A repair can be interrupted at any moment and
//! made again: first all that goes aside gets its second name there, with a report of what was found,
//! then new segments are written, then one rename of the manifest puts them in place of the damaged
//! ones, and only then the old names go. After it, a check finds no damage, and the store opens.
//!
//! What is promised: every record that a check calls sound is there afterwards. A key whose newest
//! record is gone, as far as hints or the damaged headers tell which, is not there, and no older value
//! of it comes up; the report names it. What cannot be told: keys in a range that neither tells of,
//! or in a missing segment without a hint: an older value of such a key may come up. And with a
//! damaged manifest, what is said in `plan`.

mod plan;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::check::report::{Gone, Report, Was};
use super::check::{Progress, Surveyed, body, survey};
use super::composed::Composed;
use super::copy::link_or_copy;
use super::directory::{lock_to_look, name_engine, occupy};
use super::filename;
use super::fs::Fs;
use super::manifest::Manifest;
use super::record::{self, Record};
use super::segment::Origin;
use super::stamp;
use crate::config::EngineKind;
use crate::error::{KvsError, Result};

use plan::{Keep, Plan};

/// The directory, in the store's, that things are put aside in.
pub const QUARANTINE: &str = "quarantine";
/// What was found and done, beside the files that were put aside.
pub const REPORT: &str = "report.json";

/// Puts a report into words, for a file.
pub type Describe<'d> = dyn Fn(&Repaired) -> Result<String> + 'd;

/// What was done.
#[derive(Debug, Clone)]
pub struct Repaired {
    /// What was found before.
    pub found: Report,
    /// The files that were put aside, by name.
    pub aside: BTreeSet<String>,
    /// Where they are; `None` if there was nothing to do, or nothing was to be done yet.
    pub quarantine: Option<PathBuf>,
    /// Records that were taken over into new segments.
    pub salvaged: u64,
    /// Whether the manifest was made from the segments that are there.
    pub rebuilt_manifest: bool,
    /// What was found afterwards; `None` if nothing was done.
    pub after: Option<Report>,
}

/// Mends the store in `dir`, or only tells what it would do. An error means that it stopped on the
/// way; it may be tried again. What `describe` says is kept before anything is changed, as a later
/// check cannot tell any more what was lost, and again at the end.
pub fn repair(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    dry_run: bool,
    progress: &Progress,
    describe: &Describe<'_>,
) -> Result<Repaired> {
    let _held = match dry_run {
        true => lock_to_look(&**fs, dir)?,
        false => {
            super::check::list(&**fs, dir)?;
            Some(occupy(&**fs, dir, Duration::ZERO)?.lock)
        }
    };
    let found = survey(fs, dir, progress)?;
    let plan = Plan::new(&found);
    let mut repaired = Repaired {
        found: found.report.clone(),
        aside: plan.aside.clone(),
        quarantine: None,
        salvaged: 0,
        rebuilt_manifest: !found.manifest.damage.is_empty(),
        after: None,
    };
    if dry_run || plan.is_empty() {
        return Ok(repaired);
    }
    let work = Work { fs, dir, found: &found, plan: &plan };
    let aside = work.link_aside()?;
    repaired.quarantine = Some(aside.clone());
    work.write_report(&aside, &describe(&repaired)?)?;
    let new = work.write_segments(&mut repaired.salvaged)?;
    work.switch(new)?;
    work.unlink()?;
    repaired.after = Some(survey(fs, dir, &Progress::default())?.report);
    work.write_report(&aside, &describe(&repaired)?)?;
    Ok(repaired)
}

/// A repair under way.
struct Work<'a> {
    fs: &'a Arc<dyn Fs>,
    dir: &'a Path,
    found: &'a Surveyed,
    plan: &'a Plan,
}

/// What the new manifest lists beside the segments that stay.
struct New {
    segments: BTreeSet<u64>,
    next: u64,
}

impl Work<'_> {
    /// Gives everything that goes aside a second name, durably.
    fn link_aside(&self) -> Result<PathBuf> {
        let all = self.dir.join(QUARANTINE);
        let is_free = |path: &Path| self.fs.list(path).map_or(true, |names| names.is_empty());
        let aside = stamp::free_path(&all, is_free)?;
        let doing = || KvsError::io(format!("put files aside in {}", aside.display()));
        self.fs.create_dir(&aside).map_err(doing())?;
        for name in &self.plan.aside {
            link_or_copy(&**self.fs, &self.dir.join(name), &aside.join(name)).map_err(doing())?;
        }
        for dir in [&aside, &all, self.dir] {
            self.fs.sync_dir(dir).map_err(doing())?;
        }
        Ok(aside)
    }

    /// Keeps a report with what is aside, durably; it takes the place of an earlier one.
    fn write_report(&self, aside: &Path, text: &str) -> Result<()> {
        let path = aside.join(REPORT);
        let temporary = filename::temporary(&path);
        let write = || {
            match self.fs.remove(&temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = self.fs.create(&temporary)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync_data()?;
            self.fs.rename(&temporary, &path)?;
            self.fs.sync_dir(aside)
        };
        write().map_err(KvsError::io(format!("write {}", path.display())))
    }

    /// Writes what is taken over, durably.
    fn write_segments(&self, salvaged: &mut u64) -> Result<New> {
        let (mut segments, mut next) = (BTreeSet::new(), self.plan.next);
        let mut create = |origin| {
            next += 1;
            segments.insert(next - 1);
            Composed::create(&**self.fs, self.dir, next - 1, origin)
        };
        for (number, keep) in &self.plan.sources {
            let Some(looked) = self.found.looked.iter().find(|l| l.subject.number == *number)
            else {
                continue;
            };
            let mut output = create(Origin::Merged)?;
            let sure = looked.hint.as_ref().map_or(0, |hint| hint.covered());
            body::read(&looked.subject, sure, &Progress::default(), &mut |_, record| {
                if *keep == Keep::Records || record.is_tombstone() || record.is_clear() {
                    output.add(record);
                }
            });
            *salvaged += output.finish()?;
        }
        if !self.plan.markers.is_empty() {
            let mut output = create(Origin::Merged)?;
            self.plan.markers.iter().for_each(|gone| output.add(&marker(gone)));
            output.finish()?;
        }
        if self.plan.needs_active && self.plan.manifest {
            create(Origin::Log)?.finish()?;
        }
        self.sync_dir()?;
        Ok(New { segments, next })
    }

    /// Puts what is new in place of what is damaged.
    fn switch(&self, new: New) -> Result<()> {
        if self.plan.engine {
            let path = self.dir.join(filename::ENGINE);
            self.fs.remove(&path).map_err(KvsError::io("replace ENGINE"))?;
            name_engine(&**self.fs, self.dir, EngineKind::Kvs)?;
            self.sync_dir()?;
        }
        if self.plan.manifest {
            let listed = self.plan.live.union(&new.segments).copied().collect();
            let path = self.dir.join(filename::MANIFEST);
            Manifest::create(self.fs, path, new.next, listed)?;
        }
        Ok(())
    }

    /// Takes the old names away from what is aside.
    fn unlink(&self) -> Result<()> {
        let kept = [filename::MANIFEST, filename::ENGINE];
        for name in self.plan.aside.iter().filter(|name| !kept.contains(&name.as_str())) {
            let doing = KvsError::io(format!("remove {name}, which is aside"));
            self.fs.remove(&self.dir.join(name)).map_err(doing)?;
        }
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<()> {
        let doing = KvsError::io(format!("sync {}", self.dir.display()));
        self.fs.sync_dir(self.dir).map_err(doing)
    }
}

/// What keeps older records from coming up in place of one that is gone.
fn marker(gone: &Gone) -> Record<'_> {
    let clears = gone.what == Was::Clear;
    Record {
        seq: gone.seq,
        flags: if clears { record::CLEAR } else { record::TOMBSTONE },
        database: gone.database,
        expires_at: None,
        key: &gone.key,
        value: &[],
    }
}
