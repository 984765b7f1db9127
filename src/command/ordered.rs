//! Keys in their order: by byte, as `memcmp` has it. Redis has none of these commands.
//!
//! Replies are flat arrays `key value key value ...` in both versions of RESP: a map of RESP3 has no
//! order.

use std::ops::{Bound, ControlFlow};

use super::errors::{SYNTAX, refused};
use super::gather::Gathered;
use super::numbers::integer;
use super::{Abort, Command, Group, Outcome, Reads, Run, Way, Writes};
use crate::key_range::{KeyRange, Prefix, is_empty};
use crate::protocol::{Args, Reply};

/// How many keys one DELRANGE removes at most: that many hold the writer up for some hundredths of
/// a second.
const MOST_AT_ONCE: usize = 10_000;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Ordered, "range", -3, Run::Scan(range)).help(
        "RANGE start end [AFTER key] [LIMIT count] [REV] [KEYSONLY]",
        "Keys in order, with their values; - is the first, + the last, (key leaves key out",
    ),
    Command::new(Group::Ordered, "prefix", -2, Run::Scan(prefix)).help(
        "PREFIX prefix [AFTER key] [LIMIT count] [REV] [KEYSONLY]",
        "Keys that begin with prefix, and their values",
    ),
    Command::new(Group::Ordered, "delrange", -3, Run::Write(delrange)).help(
        "DELRANGE start end [LIMIT count]",
        "Removes keys in one step, 10000 at most; replies with how many",
    ),
];

/// One end of a range: `-` lies before every key, `+` behind every key, `(key` leaves the key out,
/// `[key` has it, and any other word is a key that belongs to the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End<'a> {
    First,
    Last,
    At(Bound<&'a [u8]>),
}

impl<'a> End<'a> {
    fn parse(word: &'a [u8]) -> End<'a> {
        match word {
            b"-" => End::First,
            b"+" => End::Last,
            [b'(', key @ ..] => End::At(Bound::Excluded(key)),
            [b'[', key @ ..] => End::At(Bound::Included(key)),
            key => End::At(Bound::Included(key)),
        }
    }
}

/// The range that two words mean; `None` where no key can be in it.
fn parse_range<'a>(start: &'a [u8], end: &'a [u8]) -> Option<KeyRange<'a>> {
    let from = match End::parse(start) {
        End::First => Bound::Unbounded,
        End::Last => return None,
        End::At(bound) => bound,
    };
    let to = match End::parse(end) {
        End::First => return None,
        End::Last => Bound::Unbounded,
        End::At(bound) => bound,
    };
    Some((from, to))
}

/// What part of a range is asked for, and how it is shown.
#[derive(Debug, Clone, Copy)]
struct Page<'a> {
    after: Option<&'a [u8]>,
    limit: usize,
    way: Way,
    keys_only: bool,
}

impl<'a> Page<'a> {
    /// Reads the options from word `at` on. A negative LIMIT is none.
    fn parse(args: Args<'a>, at: usize) -> Result<Page<'a>, Abort> {
        let mut page = Page { after: None, limit: usize::MAX, way: Way::Forward, keys_only: false };
        let mut words = args.iter().skip(at);
        while let Some(word) = words.next() {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if is(b"rev") {
                page.way = Way::Backward;
            } else if is(b"keysonly") {
                page.keys_only = true;
            } else if is(b"limit") {
                let count = integer(words.next().ok_or(SYNTAX)?)?;
                page.limit = usize::try_from(count).unwrap_or(usize::MAX);
            } else if is(b"after") {
                page.after = Some(words.next().ok_or(SYNTAX)?);
            } else {
                return Err(SYNTAX.into());
            }
        }
        Ok(page)
    }

    /// What is left of a range behind the key of AFTER, in the direction of the walk.
    fn rest_of(&self, (from, to): KeyRange<'a>) -> KeyRange<'a> {
        let beyond = |bound, far: fn(&[u8], &[u8]) -> bool| match (self.after, bound) {
            (Some(after), Bound::Included(key)) if far(after, key) || after == key => {
                Bound::Excluded(after)
            }
            (Some(after), Bound::Excluded(key)) if far(after, key) => Bound::Excluded(after),
            (Some(after), Bound::Unbounded) => Bound::Excluded(after),
            (_, bound) => bound,
        };
        match self.way {
            Way::Forward => (beyond(from, |after, key| after > key), to),
            Way::Backward => (from, beyond(to, |after, key| after < key)),
        }
    }

    fn show(&self, db: &dyn Reads, range: KeyRange<'a>, reply: &mut Reply<'_>) -> Outcome {
        let range = self.rest_of(range);
        let (mut found, mut count) = (Gathered::new(reply), 0);
        if self.limit > 0 && !is_empty(range) {
            let mut go_on = || {
                count += 1;
                if count < self.limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            if self.keys_only {
                db.keys(range, self.way, &mut |key| {
                    found.bulk(key);
                    go_on()
                })?;
            } else {
                db.entries(range, self.way, &mut |key, value| {
                    found.bulk(key);
                    found.bulk(value);
                    go_on()
                })?;
            }
        }
        found.finish(reply);
        Ok(())
    }
}

fn range(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let page = Page::parse(args, 3)?;
    match parse_range(&args[1], &args[2]) {
        Some(range) => page.show(db, range, reply),
        None => {
            reply.array(0);
            Ok(())
        }
    }
}

fn prefix(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let page = Page::parse(args, 2)?;
    page.show(db, Prefix::new(&args[1]).range(), reply)
}

/// All or nothing of it happens, also across a crash. What is too much for one step is refused
/// unless the caller has said how much a step is to be.
fn delrange(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let limit = match (args.get(3), args.get(4)) {
        (None, _) => None,
        (Some(option), Some(count)) if args.len() == 5 && option.eq_ignore_ascii_case(b"limit") => {
            let count = usize::try_from(integer(count)?).ok();
            let fits = count.filter(|count| *count <= MOST_AT_ONCE);
            Some(fits.ok_or_else(|| refused(format!("ERR LIMIT is from 0 to {MOST_AT_ONCE}")))?)
        }
        _ => return Err(SYNTAX.into()),
    };
    let range = parse_range(&args[1], &args[2]).filter(|range| !is_empty(*range));
    let most = limit.unwrap_or(MOST_AT_ONCE + 1);
    let mut keys = Vec::new();
    if let Some(range) = range
        && most > 0
    {
        db.keys(range, Way::Forward, &mut |key| {
            keys.push(key.to_vec());
            if keys.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    if keys.len() > MOST_AT_ONCE {
        let line = format!(
            "ERR the range has more than {MOST_AT_ONCE} keys, remove them in steps with LIMIT"
        );
        return Err(refused(line));
    }
    let mut removed = 0;
    for key in &keys {
        removed += i64::from(db.delete(key)?);
    }
    reply.integer(removed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};
    use super::*;

    #[test]
    fn keys_come_in_order_with_their_values() {
        transcript(&[
            ("mset b 2 a 1 ab 3 c 4", "+OK"),
            ("range a b", "*6 $1 a $1 1 $2 ab $1 3 $1 b $1 2"),
            ("range aa bb", "*4 $2 ab $1 3 $1 b $1 2"),
            ("range - + limit 1", "*2 $1 a $1 1"),
            ("range b +", "*4 $1 b $1 2 $1 c $1 4"),
            ("range - a", "*2 $1 a $1 1"),
            ("range b a", "*0"),
            ("range + -", "*0"),
            ("range a b limit 0", "*0"),
            ("range a a limit -1", "*2 $1 a $1 1"),
            ("range a b limit", "-ERR syntax error"),
            ("range a b limit x", "-ERR value is not an integer or out of range"),
            ("range a b limit 1 2", "-ERR syntax error"),
            ("range (a (b", "*2 $2 ab $1 3"),
            ("range [a (ab", "*2 $1 a $1 1"),
            ("range (a (a", "*0"),
            ("range (a a", "*0"),
            ("range - (\"\"", "*0"),
            ("range - ( rev", "*0"),
            ("range - + rev limit 2", "*4 $1 c $1 4 $1 b $1 2"),
            ("range - + keysonly", "*4 $1 a $2 ab $1 b $1 c"),
            ("range - + after ab keysonly", "*2 $1 b $1 c"),
            ("range - + after aa limit 1 keysonly", "*1 $2 ab"),
            ("range ab c after a keysonly", "*3 $2 ab $1 b $1 c"),
            ("range (ab c after ab keysonly", "*2 $1 b $1 c"),
            ("range a b after c", "*0"),
            ("range a c after b rev keysonly", "*2 $2 ab $1 a"),
            ("range a b after b rev keysonly", "*2 $2 ab $1 a"),
            ("range a (b after c rev keysonly", "*2 $2 ab $1 a"),
            ("range a b after", "-ERR syntax error"),
            ("prefix a after a", "*2 $2 ab $1 3"),
            ("prefix a rev keysonly", "*2 $2 ab $1 a"),
            ("prefix \"\" rev keysonly limit 1", "*1 $1 c"),
            ("prefix a", "*4 $1 a $1 1 $2 ab $1 3"),
            ("prefix a LIMIT 1", "*2 $1 a $1 1"),
            ("prefix x", "*0"),
            ("prefix", "-ERR wrong number of arguments for 'prefix' command"),
        ]);
    }

    #[test]
    fn a_range_is_removed() {
        transcript(&[
            ("mset a 1 b 2 c 3 d 4 e 5", "+OK"),
            ("delrange (a c", ":2"),
            ("delrange x +", ":0"),
            ("delrange e a", ":0"),
            ("delrange + -", ":0"),
            ("range - + keysonly", "*3 $1 a $1 d $1 e"),
            ("delrange - + limit 2", ":2"),
            ("delrange - + limit 0", ":0"),
            ("delrange - + limit", "-ERR syntax error"),
            ("delrange - + rev", "-ERR syntax error"),
            ("delrange - + limit -1", "-ERR LIMIT is from 0 to 10000"),
            ("delrange - + limit 10001", "-ERR LIMIT is from 0 to 10000"),
            ("delrange - +", ":1"),
            ("dbsize", ":0"),
        ]);
    }

    #[test]
    fn more_than_a_step_is_removed_in_steps_only() {
        let mut session = Session::default();
        for i in 0..=MOST_AT_ONCE {
            session.run(&format!("set key{i:05} 1"));
        }
        let refusal =
            "-ERR the range has more than 10000 keys, remove them in steps with LIMIT\r\n";
        assert_eq!(session.run("delrange - +"), refusal);
        assert_eq!(session.run("dbsize"), ":10001\r\n");
        assert_eq!(session.run("delrange - + limit 10000"), ":10000\r\n");
        assert_eq!(session.run("range - + keysonly"), "*1\r\n$8\r\nkey10000\r\n");
    }
}
