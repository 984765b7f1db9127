//! What a check finds in a directory, and that it changes nothing there.
#![allow(clippy::unwrap_used)]

mod engine_support;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_support::care::{bytes_of, checked, name, records, store};
use engine_support::{copy_dir, files, flip, open_synced};
use kvs::engine::check::report::{Finding, Grade, Kind, Report, Told, Was};
use kvs::engine::check::{Progress, check};
use kvs::engine::fs::{Fs, OsFs};
use kvs::engine::scan::{Tail, scan};
use kvs::engine::segment::{HEADER, Origin, encode_header};
use kvs::{KvStore, KvsError};

/// The one finding there is.
#[track_caller]
fn only(report: &Report) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    &report.findings[0]
}

#[test]
fn a_sound_store_is_sound_and_nothing_is_touched() {
    let dir = store();
    let before = bytes_of(dir.path());
    let report = checked(dir.path());
    assert!(report.is_sound() && report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.segments as usize, files(dir.path(), "log").len());
    assert_eq!(report.records, 60 + 1 + 2 + 3 + 30);
    assert!(bytes_of(dir.path()) == before);
    // A copy that never was open has no lock file, and gets none.
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    assert!(checked(dir.path()).is_sound());
    assert!(!dir.path().join("LOCK").exists());
}

/// Flips a bit of every byte of every file, one after the other, and checks each time.
fn sweep(hints: bool) {
    let dir = store();
    if !hints {
        files(dir.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
    }
    let newest = files(dir.path(), "log").pop().unwrap();
    for (path, bytes) in bytes_of(dir.path()) {
        let file = name(&path);
        if file == "LOCK" || file == "RESERVE" {
            continue;
        }
        let records = if file.ends_with(".log") { records(&bytes) } else { Vec::new() };
        for at in 0..bytes.len() {
            flip(&path, at);
            let report = checked(dir.path());
            let place = format!("{file}, byte {at}: {:?}", report.findings);
            let finding = report.findings.iter().find(|finding| finding.file == file);
            let finding = finding.unwrap_or_else(|| panic!("not found: {place}"));
            // Without a hint, nothing tells a flip in the last write from a torn end.
            let may_be_torn = path == newest && !hints && finding.kind == Kind::Torn;
            // An engine's name without its line end was never finished.
            let costs_time = file.ends_with(".hint") || (file == "ENGINE" && at == 3);
            let grade = if costs_time || may_be_torn { Grade::Note } else { Grade::Damage };
            assert_eq!(finding.grade, grade, "{place}");
            let record = records.iter().find(|(range, _)| range.contains(&(at as u64)));
            if let Some((range, key)) = record
                && !may_be_torn
            {
                assert_eq!(finding.range, *range, "{place}");
                assert_eq!(finding.kind, Kind::Records, "{place}");
                // Of a key with a newer record in the same segment the hint says nothing.
                let told =
                    finding.gone.iter().any(|gone| gone.key == *key && gone.offset == range.start);
                let newer = records.iter().any(|(r, k)| r.start > range.start && k == key);
                assert!(!hints || told || newer, "{place}");
                assert!(!hints || finding.told == Told::ByHint);
            }
            flip(&path, at);
        }
    }
    assert!(checked(dir.path()).findings.is_empty());
}

#[test]
fn no_flipped_byte_is_missed() {
    sweep(true);
}

#[test]
fn no_flipped_byte_is_missed_without_hints() {
    sweep(false);
}

/// Flips a byte of the record that holds `text`.
fn damage_record_with(dir: &Path, text: &str) -> PathBuf {
    for log in files(dir, "log") {
        let bytes = std::fs::read(&log).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|part| part == text.as_bytes()) {
            flip(&log, at);
            return log;
        }
    }
    panic!("no segment has {text}");
}

#[test]
fn what_is_lost_is_told_from_what_is_not() {
    let dir = store();
    damage_record_with(dir.path(), "value05");
    let report = checked(dir.path());
    assert_eq!(report.lost().count(), 0, "key05 was overwritten later: {:?}", report.findings);
    assert!(!report.is_sound());
    let dir = store();
    damage_record_with(dir.path(), "value45");
    let report = checked(dir.path());
    let gone = &only(&report).gone[0];
    assert_eq!((&gone.key[..], gone.what, gone.superseded), (&b"key05"[..], Was::Value, false));
    assert_eq!(report.lost().count(), 1);
}

#[test]
fn a_torn_end_is_told_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_synced(dir.path());
    store.put("a", "1").unwrap();
    store.put("b", "2").unwrap();
    let killed = copy_dir(dir.path());
    drop(store);
    let log = files(killed.path(), "log").remove(0);
    // Behind the last record there may be zeros.
    let bytes = std::fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let torn = end as u64 - 3;
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(torn).unwrap();
    let before = bytes_of(killed.path());
    let report = checked(killed.path());
    let finding = only(&report);
    assert!(report.is_sound());
    assert_eq!((finding.grade, finding.kind), (Grade::Note, Kind::Torn));
    assert_eq!(finding.range.start, torn - 19);
    assert!(finding.range.end <= torn);
    assert!(bytes_of(killed.path()) == before);
    assert_eq!(KvStore::open(killed.path()).unwrap().len(), 1);
    assert!(checked(killed.path()).findings.is_empty());
}

#[test]
fn a_closed_segment_that_was_cut_is_found_by_its_hint() {
    let dir = store();
    let log = files(dir.path(), "log").remove(0);
    let bytes = std::fs::read(&log).unwrap();
    let cuts: Vec<(Range<u64>, Vec<u8>)> = records(&bytes);
    // At the end of a record, where nothing but the hint tells.
    let (last, key) = cuts.last().unwrap();
    std::fs::write(&log, &bytes[..last.start as usize]).unwrap();
    let report = checked(dir.path());
    let finding = only(&report);
    assert_eq!((finding.kind, &finding.range), (Kind::CutShort, last));
    assert_eq!(finding.gone[0].key, *key);
}

#[test]
fn a_missing_segment_is_told_with_its_keys() {
    let dir = store();
    let log = files(dir.path(), "log").pop().unwrap();
    let keys = records(&std::fs::read(&log).unwrap());
    std::fs::remove_file(&log).unwrap();
    let report = checked(dir.path());
    let finding = only(&report);
    assert_eq!((finding.grade, finding.kind), (Grade::Damage, Kind::Missing));
    assert_eq!((&finding.file, finding.gone.len()), (&name(&log), keys.len()));
    assert_eq!(report.lost().count(), keys.len());
    std::fs::remove_file(log.with_extension("hint")).unwrap();
    let report = checked(dir.path());
    assert_eq!((only(&report).told, report.others()), (Told::InPart, None));
}

/// Where nothing tells which records there were, the sequence numbers around them tell how many.
#[test]
fn how_many_records_can_be_gone_is_told() {
    let dir = store();
    files(dir.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
    let log = files(dir.path(), "log").remove(1);
    let good = std::fs::read(&log).unwrap();
    let places = records(&good);
    for n in 1..4 {
        let mut bytes = good.clone();
        let range = places[2].0.start as usize..places[1 + n].0.end as usize;
        bytes[range.clone()].fill(0xff);
        std::fs::write(&log, bytes).unwrap();
        let report = checked(dir.path());
        let finding = only(&report);
        assert_eq!(finding.range, range.start as u64..range.end as u64);
        assert_eq!((finding.told, finding.gone.len()), (Told::InPart, 0));
        assert_eq!(report.others(), Some(n as u64));
    }
    // At the start of a segment only the room for them does.
    let mut bytes = good.clone();
    let first = places[0].0.clone();
    bytes[first.start as usize..first.end as usize].fill(0xff);
    std::fs::write(&log, bytes).unwrap();
    assert_eq!(checked(dir.path()).others(), Some((first.end - first.start) / 20));
}

/// A manifest is needed to know of a segment that is lost with its hint, too.
#[test]
fn a_lonely_hint_tells_of_a_lost_segment_without_a_manifest() {
    let dir = store();
    let log = files(dir.path(), "log").remove(1);
    std::fs::remove_file(&log).unwrap();
    std::fs::remove_file(dir.path().join("MANIFEST")).unwrap();
    let report = checked(dir.path());
    let missing = report.findings.iter().find(|finding| finding.kind == Kind::Missing).unwrap();
    assert_eq!((missing.grade, &missing.file), (Grade::Damage, &name(&log)));
    assert!(!missing.gone.is_empty() && report.findings.len() == 2);
}

#[test]
fn a_hint_that_says_something_else_is_damage() {
    let dir = store();
    let (log, hint) = (files(dir.path(), "log").remove(0), files(dir.path(), "hint").remove(0));
    // The hint of a store with one more key, which an open would believe.
    let bytes = std::fs::read(&log).unwrap();
    let found = scan(&bytes[HEADER..], HEADER as u64, Origin::Log, Tail::Whole);
    for (leave_out, what) in
        [(found.records.len() - 1, "a key"), (found.records.len() - 20, "some")]
    {
        let mut builder = kvs::engine::hint::Builder::default();
        for (i, (offset, record)) in found.records.iter().enumerate() {
            if i != leave_out {
                builder.add_record(*offset, record);
            }
        }
        let number = name(&log)[..8].parse().unwrap();
        let wrong = builder.encode(number, bytes.len() as u64);
        std::fs::write(&hint, wrong.as_bytes()).unwrap();
        let report = checked(dir.path());
        let finding = only(&report);
        assert_eq!((finding.grade, finding.kind), (Grade::Damage, Kind::Hint), "{what}");
        assert_eq!(finding.file, name(&hint));
    }
}

#[test]
fn hints_and_files_that_cost_only_time_are_notes() {
    let dir = store();
    let hints = files(dir.path(), "hint");
    std::fs::write(&hints[0], "no hint").unwrap();
    std::fs::copy(&hints[1], &hints[2]).unwrap();
    std::fs::write(dir.path().join("00000077.log"), "left behind").unwrap();
    std::fs::write(dir.path().join("00000077.hint"), "left behind").unwrap();
    std::fs::write(dir.path().join("MANIFEST.tmp"), "half").unwrap();
    std::fs::write(dir.path().join("notes.txt"), "the user's own").unwrap();
    std::fs::remove_file(dir.path().join("ENGINE")).unwrap();
    let report = checked(dir.path());
    assert!(report.is_sound());
    let mut kinds: Vec<_> = report.findings.iter().map(|f| (f.kind.name(), &f.file[..])).collect();
    kinds.sort_unstable();
    let (first, third) = (name(&hints[0]), name(&hints[2]));
    let expected = [
        ("engine", "ENGINE"),
        ("hint", &first),
        ("hint", &third),
        ("leftover", "00000077.hint"),
        ("leftover", "00000077.log"),
        ("leftover", "MANIFEST.tmp"),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn records_that_cannot_lie_where_they_are_are_damage() {
    let dir = store();
    let logs = files(dir.path(), "log");
    let (first, second) = (std::fs::read(&logs[0]).unwrap(), std::fs::read(&logs[1]).unwrap());
    files(dir.path(), "hint").iter().for_each(|hint| std::fs::remove_file(hint).unwrap());
    // Two records of one segment in the wrong order.
    let places = records(&first);
    let (a, b) = (places[3].0.clone(), places[4].0.clone());
    let part = |range: Range<u64>| &first[range.start as usize..range.end as usize];
    let end = b.end as usize;
    let swapped = [&first[..a.start as usize], part(b.clone()), part(a), &first[end..]].concat();
    std::fs::write(&logs[0], swapped).unwrap();
    let report = checked(dir.path());
    assert_eq!(only(&report).kind, Kind::Order);
    // A whole segment in another's place, with a header that says so.
    std::fs::write(&logs[0], &first).unwrap();
    let number = name(&logs[1])[..8].parse().unwrap();
    let twice = [&encode_header(number, Origin::Log)[..], &first[HEADER..]].concat();
    std::fs::write(&logs[1], twice).unwrap();
    assert_eq!(only(&checked(dir.path())).kind, Kind::Order);
    std::fs::write(&logs[1], &second).unwrap();
    assert!(checked(dir.path()).findings.is_empty());
}

#[test]
fn a_manifest_with_damage_is_told_and_the_segments_are_checked() {
    let dir = store();
    let manifest = dir.path().join("MANIFEST");
    let good = std::fs::read(&manifest).unwrap();
    let line = good.iter().position(|b| *b == b'\n').unwrap() + 1;
    flip(&manifest, line + 12);
    let report = checked(dir.path());
    let finding = only(&report);
    assert_eq!((finding.kind, finding.range.start), (Kind::Manifest, line as u64));
    assert_eq!(report.segments as usize, files(dir.path(), "log").len());
    std::fs::remove_file(&manifest).unwrap();
    let report = checked(dir.path());
    assert_eq!((only(&report).kind, report.records), (Kind::Manifest, 96));
    std::fs::write(&manifest, [&good[..], b"1234abcd {\"next\":9"].concat()).unwrap();
    let report = checked(dir.path());
    assert!(report.is_sound());
    assert_eq!(only(&report).range, good.len() as u64..good.len() as u64 + 18);
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    let refused = |dir: &Path| check(&fs, dir, &Progress::default()).unwrap_err();
    let dir = store();
    let held = KvStore::open(dir.path()).unwrap();
    let error = refused(dir.path());
    let pid = std::process::id();
    assert!(
        matches!(error, KvsError::Locked { pid: Some(holder), .. } if holder == pid),
        "{error}"
    );
    drop(held);
    std::fs::write(dir.path().join("ENGINE"), "memory\n").unwrap();
    assert!(refused(dir.path()).to_string().contains("'memory'"));
    let empty = tempfile::tempdir().unwrap();
    assert!(refused(empty.path()).to_string().contains("no store"));
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    assert!(refused(&empty.path().join("missing")).to_string().contains("missing"));
    // A later version is no damage, and nothing to be mended.
    let dir = store();
    std::fs::write(dir.path().join("MANIFEST"), "kvs-manifest 2\nsomething new\n").unwrap();
    assert!(refused(dir.path()).to_string().contains("MANIFEST"));
}
