//! What became of the keys of damaged records: whether something newer is sound, so that nothing is
//! lost, and whether something older is, that would come up in their place.

use std::collections::HashMap;

use super::look::Looked;
use super::report::{Finding, Gone, Was};
use super::{Progress, body};

type Key = (u8, Vec<u8>);

/// The sound records of a key: sequence number, and whether it is a tombstone.
type Sound = Vec<(u64, bool)>;

/// Fills in `superseded` and `hides`. Reads the segments again, where no hint helps.
pub fn settle(looked: &[Looked], findings: &mut [Finding]) {
    let mut wanted: HashMap<Key, Sound> = HashMap::new();
    for gone in findings.iter().flat_map(|finding| &finding.gone) {
        wanted.entry((gone.database, gone.key.clone())).or_default();
    }
    if wanted.is_empty() {
        return;
    }
    for looked in looked {
        match &looked.hint {
            Some(hint) if !looked.damaged && hint.covered() == looked.subject.len => {
                let mut walk = hint.entries();
                while let Some(entry) = walk.next() {
                    let key = (entry.database, entry.key.to_vec());
                    if let Some(sound) = wanted.get_mut(&key) {
                        sound.push((entry.seq, entry.tombstone));
                    }
                }
            }
            hint => {
                let sure = hint.as_ref().map_or(0, |hint| hint.covered());
                body::read(&looked.subject, sure, &Progress::default(), &mut |_, record| {
                    let key = (record.database, record.key.to_vec());
                    if let Some(sound) = wanted.get_mut(&key) {
                        sound.push((record.seq, record.is_tombstone()));
                    }
                });
            }
        }
    }
    let clears: Vec<(u8, u64)> = looked.iter().flat_map(|looked| &looked.clears).copied().collect();
    for gone in findings.iter_mut().flat_map(|finding| &mut finding.gone) {
        let newest_clear = clears.iter().filter(|(database, _)| *database == gone.database);
        let cleared = newest_clear.map(|(_, seq)| *seq).max().unwrap_or(0);
        let none = Sound::new();
        let sound = wanted.get(&(gone.database, gone.key.clone())).unwrap_or(&none);
        judge(gone, sound, cleared);
    }
}

fn judge(gone: &mut Gone, sound: &Sound, cleared: u64) {
    gone.superseded = cleared >= gone.seq;
    if gone.what == Was::Clear {
        gone.hides = true;
        return;
    }
    // With the same sequence number: a copy that a merge has made; or what an interrupted repair has
    // put in place of a lost value.
    let is_tombstone = gone.what == Was::Tombstone;
    let takes_its_place = |(seq, tombstone): &(u64, bool)| {
        *seq > gone.seq || (*seq == gone.seq && *tombstone == is_tombstone)
    };
    gone.superseded |= sound.iter().any(takes_its_place);
    let older = sound.iter().filter(|(seq, _)| *seq < gone.seq && *seq > cleared).max();
    gone.hides = older.is_some_and(|(_, tombstone)| !tombstone);
}
