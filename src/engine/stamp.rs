//! Times as names of directories, in UTC, so that names sort as times do: `20261124T080119Z`.
//!
//! Any thread.

use std::path::{Path, PathBuf};

use crate::clock::since_epoch;
use crate::error::{KvsError, Result};

/// How many directories may be named after the same second.
const MOST_A_SECOND: usize = 1000;

/// A path in `dir` that is named after the present second, and that is free.
pub(super) fn free_path(dir: &Path, is_free: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let stamp = name(since_epoch().as_secs());
    let numbered = (2..=MOST_A_SECOND).map(|n| dir.join(format!("{stamp}-{n}")));
    let mut paths = std::iter::once(dir.join(&stamp)).chain(numbered);
    paths.find(|path| is_free(path)).ok_or_else(|| {
        KvsError::Invalid(format!("there is no name left for a directory in {}", dir.display()))
    })
}

/// The name of a time in seconds since 1970.
fn name(seconds: u64) -> String {
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, date) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{date:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and date of a day after 1970-01-01, in the Gregorian calendar. Years begin in March
/// here, so that the leap day is the last of one.
fn civil(day: u64) -> (u64, u64, u64) {
    const FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let day = day + FROM_MARCH_OF_YEAR_0;
    let (era, day) = (day / DAYS_OF_400_YEARS, day % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with `date -u -d @...`.
    #[test]
    fn times_have_the_names_that_date_gives_them() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_709_164_800, "20240229T000000Z"),
            (1_798_761_599, "20261231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
            (4_107_542_399, "21000228T235959Z"),
        ] {
            assert_eq!(name(seconds), expected);
        }
    }
}
