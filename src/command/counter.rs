//! Values as numbers: counters. They keep their key's expiry.

use super::errors::NOT_AN_INTEGER;
use super::extended::{self, Extended, Parsed};
use super::numbers::integer;
use super::{Abort, Command, Flags, Group, Outcome, Reads, Run, Writes};
use crate::protocol::{Args, Reply, parse_integer};

const GROWS: Flags = Flags::DENYOOM.and(Flags::FAST);

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::String, "incr", 2, Run::Write(incr))
        .key()
        .flags(GROWS)
        .help("INCR key", "Adds 1 to the integer at a key; an absent key counts as 0"),
    Command::new(Group::String, "decr", 2, Run::Write(decr))
        .key()
        .flags(GROWS)
        .help("DECR key", "Subtracts 1 from the integer at a key; an absent key counts as 0"),
    Command::new(Group::String, "incrby", 3, Run::Write(incrby))
        .key()
        .flags(GROWS)
        .help("INCRBY key increment", "Adds to the integer at a key; an absent key counts as 0"),
    Command::new(Group::String, "decrby", 3, Run::Write(decrby)).key().flags(GROWS).help(
        "DECRBY key decrement",
        "Subtracts from the integer at a key; an absent key counts as 0",
    ),
    Command::new(Group::String, "incrbyfloat", 3, Run::Write(incrbyfloat)).key().flags(GROWS).help(
        "INCRBYFLOAT key increment",
        "Adds to the number at a key; an absent key counts as 0",
    ),
];

fn incr(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    add(db, &args[1], 1, reply)
}

fn decr(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    add(db, &args[1], -1, reply)
}

fn incrby(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    add(db, &args[1], integer(&args[2])?, reply)
}

fn decrby(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let increment = integer(&args[2])?.checked_neg().ok_or("ERR decrement would overflow")?;
    add(db, &args[1], increment, reply)
}

fn add(db: &mut dyn Writes, key: &[u8], increment: i64, reply: &mut Reply<'_>) -> Outcome {
    let (value, expires_at) = match db.get(key)? {
        Some(entry) => (parse_integer(&entry.value).ok_or(NOT_AN_INTEGER)?, entry.expires_at),
        None => (0, None),
    };
    let sum = value.checked_add(increment).ok_or("ERR increment or decrement would overflow")?;
    db.put(key, itoa::Buffer::new().format(sum).as_bytes(), expires_at)?;
    reply.integer(sum);
    Ok(())
}

fn incrbyfloat(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (value, expires_at) = number_at(db, &args[1])?;
    let increment = number(&args[2])?;
    let sum = match (value, increment) {
        (Parsed::Finite(value), Parsed::Finite(increment)) => value.plus(increment),
        _ => None,
    };
    let sum = sum.ok_or("ERR increment would produce NaN or Infinity")?.to_string();
    db.put(&args[1], sum.as_bytes(), expires_at)?;
    reply.bulk(sum.as_bytes());
    Ok(())
}

fn number_at(db: &dyn Reads, key: &[u8]) -> Result<(Parsed, Option<u64>), Abort> {
    match db.get(key)? {
        Some(entry) => Ok((number(&entry.value)?, entry.expires_at)),
        None => Ok((Parsed::Finite(Extended::ZERO), None)),
    }
}

fn number(word: &[u8]) -> Result<Parsed, Abort> {
    extended::parse(word).ok_or("ERR value is not a valid float".into())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn counters_count() {
        transcript(&[
            ("incr n", ":1"),
            ("incrby n 41", ":42"),
            ("decr n", ":41"),
            ("decrby n 50", ":-9"),
            ("get n", "$2 -9"),
            ("incrby n x", "-ERR value is not an integer or out of range"),
            ("decrby n -9223372036854775808", "-ERR decrement would overflow"),
            ("set n 9223372036854775807", "+OK"),
            ("incr n", "-ERR increment or decrement would overflow"),
            ("set n x ex 100", "+OK"),
            ("incr n", "-ERR value is not an integer or out of range"),
            ("incrbyfloat n 1", "-ERR value is not a valid float"),
            ("set n 10.5 keepttl", "+OK"),
            ("incrbyfloat n 0.1", "$4 10.6"),
            ("ttl n", ":100"),
            ("incrbyfloat n inf", "-ERR increment would produce NaN or Infinity"),
        ]);
    }
}
