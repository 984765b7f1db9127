//! LCS: what two values have in common. In a file of its own for the algorithm; it takes time and
//! memory of the product of the two lengths and never runs on an event loop.

use super::errors::SYNTAX;
use super::numbers::integer;
use super::{Abort, Command, Group, Outcome, Reads, Run};
use crate::protocol::{Args, Reply};

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::String, "lcs", -3, Run::Scan(lcs)).keys(1, 2, 1).help(
        "LCS key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]",
        "The longest bytes, not necessarily side by side, that two values have in common",
    )];

/// The most memory for the table of lengths, in bytes.
const MAX_TABLE: usize = 512 << 20;

/// What the reply is to hold.
#[derive(Debug, Default)]
struct Options {
    only_len: bool,
    ranges: bool,
    min_len: usize,
    with_len: bool,
}

impl Options {
    fn parse(args: Args<'_>) -> Result<Options, Abort> {
        let mut options = Options::default();
        let mut words = args.iter().skip(3);
        while let Some(word) = words.next() {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if is(b"idx") {
                options.ranges = true;
            } else if is(b"len") {
                options.only_len = true;
            } else if is(b"withmatchlen") {
                options.with_len = true;
            } else if is(b"minmatchlen") {
                let len = integer(words.next().ok_or(SYNTAX)?)?;
                options.min_len = usize::try_from(len).unwrap_or(0);
            } else {
                return Err(SYNTAX.into());
            }
        }
        if options.ranges && options.only_len {
            return Err("ERR If you want both the length and indexes, please just use IDX.".into());
        }
        Ok(options)
    }
}

/// The lengths of what the beginnings of two values have in common, for each pair of beginnings.
struct Table<'v> {
    a: &'v [u8],
    b: &'v [u8],
    lens: Vec<u32>,
}

/// Bytes that two values have in common and that lie side by side in both.
#[derive(Debug, Clone, Copy)]
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

impl<'v> Table<'v> {
    fn new(a: &'v [u8], b: &'v [u8]) -> Result<Table<'v>, Abort> {
        let cells = (a.len() + 1).checked_mul(b.len() + 1);
        let cells = cells.filter(|cells| *cells <= MAX_TABLE / size_of::<u32>()).ok_or(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        )?;
        let mut table = Table { a, b, lens: vec![0; cells] };
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                let at = table.at(i, j);
                table.lens[at] = if a[i - 1] == b[j - 1] {
                    table.len(i - 1, j - 1) + 1
                } else {
                    table.len(i - 1, j).max(table.len(i, j - 1))
                };
            }
        }
        Ok(table)
    }

    fn at(&self, i: usize, j: usize) -> usize {
        i * (self.b.len() + 1) + j
    }

    fn len(&self, i: usize, j: usize) -> u32 {
        self.lens[self.at(i, j)]
    }

    fn total(&self) -> i64 {
        self.len(self.a.len(), self.b.len()).into()
    }

    /// The matches, from the end of the values to their start.
    fn matches(&self) -> Vec<Match> {
        let mut matches: Vec<Match> = Vec::new();
        let (mut i, mut j) = (self.a.len(), self.b.len());
        while i > 0 && j > 0 {
            if self.a[i - 1] != self.b[j - 1] {
                if self.len(i - 1, j) > self.len(i, j - 1) {
                    i -= 1
                } else {
                    j -= 1
                }
                continue;
            }
            match matches.last_mut() {
                Some(last) if last.a == i && last.b == j => {
                    *last = Match { a: i - 1, b: j - 1, len: last.len + 1 };
                }
                _ => matches.push(Match { a: i - 1, b: j - 1, len: 1 }),
            }
            (i, j) = (i - 1, j - 1);
        }
        matches
    }
}

fn lcs(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (a, b) = db.pair(&args[1], &args[2])?;
    let options = Options::parse(args)?;
    let a = a.as_ref().map_or(&b""[..], |entry| &entry.value);
    let b = b.as_ref().map_or(&b""[..], |entry| &entry.value);
    let table = Table::new(a, b)?;
    if options.only_len {
        reply.integer(table.total());
    } else if options.ranges {
        ranges(&table, &options, reply);
    } else {
        let common: Vec<&[u8]> =
            table.matches().iter().rev().map(|found| &a[found.a..][..found.len]).collect();
        reply.bulk(&common.concat());
    }
    Ok(())
}

fn ranges(table: &Table<'_>, options: &Options, reply: &mut Reply<'_>) {
    let mut matches = table.matches();
    matches.retain(|found| found.len >= options.min_len);
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.len());
    for Match { a, b, len } in matches {
        reply.array(if options.with_len { 3 } else { 2 });
        for start in [a, b] {
            reply.array(2);
            reply.integer(start as i64);
            reply.integer((start + len - 1) as i64);
        }
        if options.with_len {
            reply.integer(len as i64);
        }
    }
    reply.bulk(b"len");
    reply.integer(table.total());
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn what_two_values_have_in_common_is_found() {
        transcript(&[
            ("mset a ohmytext b mynewtext", "+OK"),
            ("lcs a b", "$6 mytext"),
            ("lcs a b len", ":6"),
            ("lcs a b idx", "*4 $7 matches *2 *2 *2 :4 :7 *2 :5 :8 *2 *2 :2 :3 *2 :0 :1 $3 len :6"),
            (
                "lcs a b idx minmatchlen 4 withmatchlen",
                "*4 $7 matches *1 *3 *2 :4 :7 *2 :5 :8 :4 $3 len :6",
            ),
            ("lcs a nosuch", "$0 "),
            (
                "lcs a b len idx",
                "-ERR If you want both the length and indexes, please just use IDX.",
            ),
        ]);
    }
}
