//! Keys in their order: by byte, as `memcmp` has it. Redis has none of these commands.
//!
//! Replies are flat arrays `key value key value ...` in both versions of RESP: a map of RESP3 has no
//! order.

use std::ops::{Bound, ControlFlow};

use super::errors::SYNTAX;
use super::gather::Gathered;
use super::numbers::integer;
use super::{Abort, Command, Group, KeyRange, Outcome, Reads, Run};
use crate::protocol::{Args, Reply};

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Ordered, "range", -3, Run::Scan(range)).help(
        "RANGE start end [LIMIT count]",
        "Keys from start to end, both included, and their values; - is the first, + the last",
    ),
    Command::new(Group::Ordered, "prefix", -2, Run::Scan(prefix))
        .help("PREFIX prefix [LIMIT count]", "Keys that begin with prefix, and their values"),
];

/// An end of a range: `-` lies before every key, `+` behind every key, anything else is a key.
fn range(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let limit = parse_limit(args, 3)?;
    let (start, end) = (&args[1], &args[2]);
    let from = if start == b"-" { Bound::Unbounded } else { Bound::Included(start) };
    let to = if end == b"+" { Bound::Unbounded } else { Bound::Included(end) };
    let backwards = match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        _ => false,
    };
    if start == b"+" || end == b"-" || backwards {
        reply.array(0);
        return Ok(());
    }
    entries(db, (from, to), limit, reply)
}

fn prefix(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let limit = parse_limit(args, 2)?;
    let (start, end) = prefix_range(&args[1]);
    let end = end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
    entries(db, (start, end), limit, reply)
}

/// `LIMIT count` at word `at`, or nothing; a negative count is no limit.
fn parse_limit(args: Args<'_>, at: usize) -> Result<usize, Abort> {
    match (args.get(at), args.get(at + 1)) {
        (None, _) => Ok(usize::MAX),
        (Some(option), Some(count))
            if args.len() == at + 2 && option.eq_ignore_ascii_case(b"limit") =>
        {
            Ok(usize::try_from(integer(count)?).unwrap_or(usize::MAX))
        }
        _ => Err(SYNTAX.into()),
    }
}

fn entries(db: &dyn Reads, range: KeyRange<'_>, limit: usize, reply: &mut Reply<'_>) -> Outcome {
    let mut found = Gathered::new(reply);
    if limit > 0 {
        db.entries(range, &mut |key, value| {
            found.bulk(key);
            found.bulk(value);
            if found.len() / 2 >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
    }
    found.finish(reply);
    Ok(())
}

/// Where the keys that begin with `prefix` start, and the first key behind them if there can be any.
pub(super) fn prefix_range(prefix: &[u8]) -> (Bound<&[u8]>, Option<Vec<u8>>) {
    if prefix.is_empty() {
        return (Bound::Unbounded, None);
    }
    let behind = prefix.iter().rposition(|&byte| byte != u8::MAX).map(|last| {
        let mut behind = prefix[..=last].to_vec();
        behind[last] += 1;
        behind
    });
    (Bound::Included(prefix), behind)
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;
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
            ("prefix a", "*4 $1 a $1 1 $2 ab $1 3"),
            ("prefix a LIMIT 1", "*2 $1 a $1 1"),
            ("prefix x", "*0"),
            ("prefix", "-ERR wrong number of arguments for 'prefix' command"),
        ]);
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_range(b"ab").1.as_deref(), Some(&b"ac"[..]));
        assert_eq!(prefix_range(b"a\xff\xff").1.as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_range(b"\xff"), (Bound::Included(&b"\xff"[..]), None));
        assert_eq!(prefix_range(b""), (Bound::Unbounded, None));
    }
}
