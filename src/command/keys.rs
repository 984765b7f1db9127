//! Keys, whatever their values: removing, naming, counting and listing them.

use std::ops::ControlFlow;

use super::errors::{NO_SUCH_DATABASE, NO_SUCH_KEY, SYNTAX};
use super::gather::Gathered;
use super::glob::literal_prefix;
use super::numbers::{cursor, integer, small_integer};
use super::{Abort, Command, Flags, Group, Outcome, Reads, Run, Way, Writes, matches};
use crate::key_range::Prefix;
use crate::protocol::{Args, Reply};

const FAST: Flags = Flags::FAST;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Generic, "del", -2, Run::Write(del))
        .keys(1, -1, 1)
        .help("DEL key [key ...]", "Removes keys; replies with how many were there"),
    Command::new(Group::Generic, "rm", -2, Run::Write(del))
        .keys(1, -1, 1)
        .help("RM key [key ...]", "The same as DEL"),
    Command::new(Group::Generic, "delifeq", 3, Run::Write(delifeq))
        .key()
        .flags(FAST)
        .help("DELIFEQ key value", "Removes a key if it has this value; whether it did"),
    Command::new(Group::Generic, "unlink", -2, Run::Write(del))
        .keys(1, -1, 1)
        .flags(FAST)
        .help("UNLINK key [key ...]", "The same as DEL"),
    Command::new(Group::Generic, "exists", -2, Run::Read(exists))
        .keys(1, -1, 1)
        .flags(FAST)
        .help("EXISTS key [key ...]", "How many of the keys are there"),
    Command::new(Group::Generic, "touch", -2, Run::Read(exists))
        .keys(1, -1, 1)
        .flags(FAST)
        .help("TOUCH key [key ...]", "The same as EXISTS: nothing depends on when a key was used"),
    Command::new(Group::Generic, "type", 2, Run::Read(type_of))
        .key()
        .flags(FAST)
        .help("TYPE key", "string, or none if the key is absent"),
    Command::new(Group::Generic, "rename", 3, Run::Write(rename))
        .keys(1, 2, 1)
        .help("RENAME key newkey", "Gives a value, and its expiry, another key"),
    Command::new(Group::Generic, "renamenx", 3, Run::Write(renamenx))
        .keys(1, 2, 1)
        .flags(FAST)
        .help("RENAMENX key newkey", "The same, if the new key is not there"),
    Command::new(Group::Generic, "copy", -3, Run::Write(copy))
        .keys(1, 2, 1)
        .flags(Flags::DENYOOM)
        .help("COPY source destination [DB index] [REPLACE]", "Copies a value and its expiry"),
    Command::new(Group::Generic, "move", 3, Run::Write(move_to))
        .key()
        .flags(FAST)
        .help("MOVE key index", "Puts a value, and its expiry, into another database"),
    Command::new(Group::Generic, "randomkey", 1, Run::Scan(randomkey))
        .help("RANDOMKEY", "Some key, or nothing if there is none"),
    Command::new(Group::Generic, "keys", 2, Run::Scan(keys))
        .help("KEYS pattern", "All keys that match a pattern of * ? [abc], in their order"),
    Command::new(Group::Generic, "scan", -2, Run::Scan(scan)).help(
        "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]",
        "A few keys, and the cursor for the next ones; 0 starts, and ends",
    ),
];

fn del(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut deleted = 0;
    for key in args.iter().skip(1) {
        deleted += i64::from(db.delete(key)?);
    }
    reply.integer(deleted);
    Ok(())
}

fn delifeq(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let equal = db.get(&args[1])?.is_some_and(|entry| *entry.value == args[2]);
    if equal {
        db.delete(&args[1])?;
    }
    reply.integer(equal.into());
    Ok(())
}

fn exists(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut there = 0;
    for key in args.iter().skip(1) {
        there += i64::from(db.contains(key)?);
    }
    reply.integer(there);
    Ok(())
}

fn type_of(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.simple(if db.contains(&args[1])? { "string" } else { "none" });
    Ok(())
}

/// Moves a value; whether it did. What is at the new key is replaced if `replace`.
fn move_key(db: &mut dyn Writes, from: &[u8], to: &[u8], replace: bool) -> Result<bool, Abort> {
    let entry = db.get(from)?.ok_or(NO_SUCH_KEY)?;
    if from == to {
        return Ok(false);
    }
    let (value, expires_at) = (entry.value.into_owned(), entry.expires_at);
    if !replace && db.contains(to)? {
        return Ok(false);
    }
    db.put(to, &value, expires_at)?;
    db.delete(from)?;
    Ok(true)
}

fn rename(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    move_key(db, &args[1], &args[2], true)?;
    reply.ok();
    Ok(())
}

fn renamenx(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let moved = move_key(db, &args[1], &args[2], false)?;
    reply.integer(moved.into());
    Ok(())
}

const SAME: &str = "ERR source and destination objects are the same";

/// The database that a word names, if there is such a one. Leaves `db` where it is.
pub(super) fn database(db: &mut dyn Writes, word: &[u8]) -> Result<usize, Abort> {
    let home = db.database();
    let named = usize::try_from(small_integer(word)?).map_err(|_| NO_SUCH_DATABASE)?;
    let known = db.select(named);
    db.select(home);
    if known { Ok(named) } else { Err(NO_SUCH_DATABASE.into()) }
}

/// Copies a value and its expiry to another key, or database; whether it did. What is there is
/// replaced if `replace`.
fn copy_key(
    db: &mut dyn Writes,
    from: &[u8],
    (there, to): (usize, &[u8]),
    replace: bool,
) -> Result<bool, Abort> {
    let home = db.database();
    let Some(entry) = db.get(from)? else { return Ok(false) };
    let (value, expires_at) = (entry.value.into_owned(), entry.expires_at);
    db.select(there);
    let copies = replace || !db.contains(to)?;
    if copies {
        db.put(to, &value, expires_at)?;
    }
    db.select(home);
    Ok(copies)
}

fn copy(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (mut replace, mut there) = (false, db.database());
    let mut words = args.iter().skip(3);
    while let Some(word) = words.next() {
        if word.eq_ignore_ascii_case(b"replace") {
            replace = true;
        } else if word.eq_ignore_ascii_case(b"db") && words.len() > 0 {
            there = database(db, words.next().unwrap_or_default())?;
        } else {
            return Err(SYNTAX.into());
        }
    }
    let (from, to) = (&args[1], &args[2]);
    if from == to && there == db.database() {
        return Err(SAME.into());
    }
    let copied = copy_key(db, from, (there, to), replace)?;
    reply.integer(copied.into());
    Ok(())
}

fn move_to(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let there = database(db, &args[2])?;
    if there == db.database() {
        return Err(SAME.into());
    }
    let key = &args[1];
    let moved = copy_key(db, key, (there, key), false)?;
    if moved {
        db.delete(key)?;
    }
    reply.integer(moved.into());
    Ok(())
}

fn randomkey(db: &dyn Reads, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match db.random_key()? {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    Ok(())
}

/// Walks only those keys that begin as the pattern does.
fn keys(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let pattern = &args[1];
    let mut found = Gathered::new(reply);
    let prefix = Prefix::new(literal_prefix(pattern));
    db.keys(prefix.range(), Way::Forward, &mut |key| {
        if matches(pattern, key) {
            found.bulk(key);
        }
        ControlFlow::Continue(())
    })?;
    found.finish(reply);
    Ok(())
}

/// What SCAN is to visit.
struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    /// Whether a key of the type that was asked for can be there at all.
    of_type: bool,
}

impl<'a> ScanOptions<'a> {
    const DEFAULT_COUNT: usize = 10;

    fn parse(args: Args<'a>) -> Result<Self, Abort> {
        let mut options = ScanOptions { pattern: None, count: Self::DEFAULT_COUNT, of_type: true };
        let mut words = args.iter().skip(2);
        while let Some(option) = words.next() {
            let value = words.next().ok_or(SYNTAX)?;
            if option.eq_ignore_ascii_case(b"count") {
                let count = usize::try_from(integer(value)?).map_err(|_| SYNTAX)?;
                options.count = Some(count).filter(|&count| count > 0).ok_or(SYNTAX)?;
            } else if option.eq_ignore_ascii_case(b"match") {
                options.pattern = Some(value);
            } else if option.eq_ignore_ascii_case(b"type") {
                options.of_type = value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(SYNTAX.into());
            }
        }
        Ok(options)
    }
}

fn scan(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let cursor = cursor(&args[1])?;
    let options = ScanOptions::parse(args)?;
    let mut found = Gathered::new(reply);
    let next = db.scan(cursor, options.count, &mut |key| {
        let chosen = options.pattern.is_none_or(|pattern| matches(pattern, key));
        if chosen && options.of_type {
            found.bulk(key);
        }
    })?;
    reply.array(2);
    reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    found.finish(reply);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn keys_are_removed_counted_and_renamed() {
        transcript(&[
            ("mset a 1 b 2 c 3", "+OK"),
            ("exists a b x a", ":3"),
            ("del a x", ":1"),
            ("rm b b", ":1"),
            ("unlink c", ":1"),
            ("dbsize", ":0"),
            ("set a 1 ex 100", "+OK"),
            ("type a", "+string"),
            ("type b", "+none"),
            ("rename a b", "+OK"),
            ("rename a b", "-ERR no such key"),
            ("ttl b", ":100"),
            ("renamenx b b", ":0"),
            ("copy b c", ":1"),
            ("copy b c", ":0"),
            ("copy b c replace", ":1"),
            ("copy b b", "-ERR source and destination objects are the same"),
            ("copy b d db 16", "-ERR DB index is out of range"),
            ("copy b d db x", "-ERR value is not an integer or out of range"),
            ("copy b b db 1", ":1"),
            ("copy b b db 1", ":0"),
            ("copy b b db 1 replace", ":1"),
            ("copy x b db 1 replace", ":0"),
            ("move b 1", ":0"),
            ("move x 1", ":0"),
            ("move b 0", "-ERR source and destination objects are the same"),
            ("move b 16", "-ERR DB index is out of range"),
            ("move b -1", "-ERR DB index is out of range"),
            (
                "move b 99999999999",
                "-ERR value is out of range, value must between -2147483648 and 2147483647",
            ),
            ("move b 2", ":1"),
            ("exists b", ":0"),
            ("select 2", "+OK"),
            ("ttl b", ":100"),
            ("move b 0", ":1"),
            ("select 1", "+OK"),
            ("get b", "$1 1"),
            ("select 0", "+OK"),
            ("ttl c", ":100"),
            ("flushall", "+OK"),
            ("randomkey", "$-1"),
            ("set a 1", "+OK"),
            ("randomkey", "$1 a"),
        ]);
    }

    #[test]
    fn a_key_is_removed_if_its_value_is_the_expected_one() {
        transcript(&[
            ("delifeq a 1", ":0"),
            ("set a 1", "+OK"),
            ("delifeq a 2", ":0"),
            ("delifeq a 1", ":1"),
            ("exists a", ":0"),
            ("set a \"\" px 100000", "+OK"),
            ("delifeq a \"\"", ":1"),
        ]);
    }

    #[test]
    fn keys_are_listed() {
        transcript(&[
            ("mset user:1 a user:2 b usher c other d", "+OK"),
            ("keys *", "*4 $5 other $6 user:1 $6 user:2 $5 usher"),
            ("keys user:*", "*2 $6 user:1 $6 user:2"),
            ("keys us[^h]?r", "*0"),
            ("keys us[a-h]er", "*1 $5 usher"),
            ("keys usher", "*1 $5 usher"),
            ("scan 0 count 3", "*2 $1 3 *3 $5 other $6 user:1 $6 user:2"),
            ("scan 3 count 3", "*2 $1 0 *1 $5 usher"),
            ("scan 0 match o* count 100 type string", "*2 $1 0 *1 $5 other"),
            ("scan 0 count 100 type list", "*2 $1 0 *0"),
            ("scan x", "-ERR invalid cursor"),
            ("scan 0 count 0", "-ERR syntax error"),
        ]);
    }
}
