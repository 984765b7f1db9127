//! Values as byte strings. GET and the plain SET are the hottest paths of the server: they allocate
//! nothing and look at no option.

use super::errors::{TOO_LONG, wrong_arity};
use super::numbers::{clamp, integer, is_backwards};
use super::options::{Dialect, Expiry, Options, Unit, put_until};
use super::{Abort, Command, Entry, Flags, Group, Outcome, Reads, Run, Writes};
use crate::protocol::{Args, Reply};

/// The largest value, in bytes: Redis's `proto-max-bulk-len`.
pub(super) const MAX_VALUE: usize = 512 << 20;

const FAST: Flags = Flags::FAST;
const GROWS: Flags = Flags::DENYOOM;
const FAST_GROWS: Flags = Flags::DENYOOM.and(Flags::FAST);

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::String, "get", 2, Run::Read(get))
        .key()
        .flags(FAST)
        .help("GET key", "The value of a key"),
    Command::new(Group::String, "set", -3, Run::Write(set)).key().flags(GROWS.and(Flags::REPLIES_VALUE)).help(
        "SET key value [NX | XX | IFEQ comparison] [GET] [EX seconds | PX milliseconds | EXAT unix-seconds \
         | PXAT unix-milliseconds | KEEPTTL]",
        "Sets the value of a key",
    ),
    Command::new(Group::String, "mget", -2, Run::Read(mget))
        .keys(1, -1, 1)
        .flags(FAST)
        .help("MGET key [key ...]", "The values of several keys"),
    Command::new(Group::String, "mset", -3, Run::Write(mset))
        .keys(1, -1, 2)
        .flags(GROWS)
        .help("MSET key value [key value ...]", "Sets several keys at once"),
    Command::new(Group::String, "msetnx", -3, Run::Write(msetnx))
        .keys(1, -1, 2)
        .flags(GROWS)
        .help("MSETNX key value [key value ...]", "Sets several keys if none of them is there"),
    Command::new(Group::String, "getset", 3, Run::Write(getset))
        .key()
        .flags(FAST_GROWS.and(Flags::REPLIES_VALUE))
        .help("GETSET key value", "Sets the value of a key and replies with the old one"),
    Command::new(Group::String, "getdel", 2, Run::Write(getdel))
        .key()
        .flags(FAST.and(Flags::REPLIES_VALUE))
        .help("GETDEL key", "The value of a key, which is removed"),
    Command::new(Group::String, "getex", -2, Run::Write(getex)).key().flags(FAST.and(Flags::REPLIES_VALUE)).help(
        "GETEX key [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT unix-milliseconds \
         | PERSIST]",
        "The value of a key, whose expiry is set",
    ),
    Command::new(Group::String, "setnx", 3, Run::Write(setnx))
        .key()
        .flags(FAST_GROWS)
        .help("SETNX key value", "Sets the value of a key if it is not there"),
    Command::new(Group::String, "setex", 4, Run::Write(setex))
        .key()
        .flags(GROWS)
        .help("SETEX key seconds value", "Sets the value of a key and its expiry"),
    Command::new(Group::String, "psetex", 4, Run::Write(psetex))
        .key()
        .flags(GROWS)
        .help("PSETEX key milliseconds value", "Sets the value of a key and its expiry"),
    Command::new(Group::String, "append", 3, Run::Write(append))
        .key()
        .flags(FAST_GROWS)
        .help("APPEND key value", "Appends to the value of a key, which need not be there"),
    Command::new(Group::String, "strlen", 2, Run::Read(strlen))
        .key()
        .flags(FAST)
        .help("STRLEN key", "The length of a value in bytes"),
    Command::new(Group::String, "getrange", 4, Run::Read(getrange)).key().help(
        "GETRANGE key start end",
        "A part of a value: both ends belong to it and count from the end if negative",
    ),
    Command::new(Group::String, "substr", 4, Run::Read(getrange))
        .key()
        .help("SUBSTR key start end", "The old name of GETRANGE"),
    Command::new(Group::String, "setrange", 4, Run::Write(setrange))
        .key()
        .flags(GROWS)
        .help("SETRANGE key offset value", "Overwrites a part of a value, which grows as needed"),
];

/// The value as a bulk, or null.
pub(super) fn value(reply: &mut Reply<'_>, entry: Option<&Entry<'_>>) {
    match entry {
        Some(entry) => reply.bulk(&entry.value),
        None => reply.null(),
    }
}

/// Refuses a value of `len` bytes if that is too much.
fn check_len(len: Option<usize>) -> Result<usize, Abort> {
    len.filter(|&len| len <= MAX_VALUE).ok_or(TOO_LONG.into())
}

fn get(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    value(reply, db.get(&args[1])?.as_ref());
    Ok(())
}

fn set(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len() > 3 {
        return set_with_options(db, args, reply);
    }
    db.put(&args[1], &args[2], None)?;
    reply.ok();
    Ok(())
}

fn set_with_options(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let options = Options::parse(args, 3, Dialect::Set)?;
    let moment = match options.expiry {
        Expiry::At(unit, number) => Some(unit.moment(number, "set")?),
        _ => None,
    };
    let reads = options.get || options.equals.is_some() || options.expiry == Expiry::Keep;
    let (there, equal, kept) = if reads {
        let old = db.get(&args[1])?;
        if options.get {
            value(reply, old.as_ref());
        }
        let is = |value: &[u8]| old.as_ref().is_some_and(|old| *old.value == *value);
        (old.is_some(), options.equals.is_none_or(is), old.and_then(|old| old.expires_at))
    } else {
        ((options.absent || options.present) && db.contains(&args[1])?, true, None)
    };
    if (options.absent && there) || (options.present && !there) || !equal {
        if !options.get {
            reply.null();
        }
        return Ok(());
    }
    match moment {
        Some(moment) => put_until(db, &args[1], &args[2], moment)?,
        None if options.expiry == Expiry::Keep => db.put(&args[1], &args[2], kept)?,
        None => db.put(&args[1], &args[2], None)?,
    }
    if !options.get {
        reply.ok();
    }
    Ok(())
}

fn mget(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(args.len() - 1);
    for key in args.iter().skip(1) {
        value(reply, db.get(key)?.as_ref());
    }
    Ok(())
}

fn mset(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arity("mset"));
    }
    put_pairs(db, args)?;
    reply.ok();
    Ok(())
}

fn msetnx(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arity("msetnx"));
    }
    for key in args.iter().skip(1).step_by(2) {
        if db.contains(key)? {
            reply.integer(0);
            return Ok(());
        }
    }
    put_pairs(db, args)?;
    reply.integer(1);
    Ok(())
}

/// Of a key that is named twice, the last value stays.
fn put_pairs(db: &mut dyn Writes, args: Args<'_>) -> Outcome {
    let mut words = args.iter().skip(1);
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        db.put(key, value, None)?;
    }
    Ok(())
}

fn getset(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    value(reply, db.get(&args[1])?.as_ref());
    db.put(&args[1], &args[2], None)
}

fn getdel(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = db.get(&args[1])?;
    value(reply, entry.as_ref());
    if entry.is_some() {
        db.delete(&args[1])?;
    }
    Ok(())
}

fn getex(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let options = Options::parse(args, 2, Dialect::GetEx)?;
    let Some(entry) = db.get(&args[1])? else {
        reply.null();
        return Ok(());
    };
    match options.expiry {
        Expiry::Default | Expiry::Keep => reply.bulk(&entry.value),
        Expiry::Remove => {
            reply.bulk(&entry.value);
            if entry.expires_at.is_some() {
                db.set_expiry(&args[1], None)?;
            }
        }
        Expiry::At(unit, number) => {
            let moment = unit.moment(number, "getex")?;
            reply.bulk(&entry.value);
            let value = entry.value.into_owned();
            put_until(db, &args[1], &value, moment)?;
        }
    }
    Ok(())
}

fn setnx(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let there = db.contains(&args[1])?;
    if !there {
        db.put(&args[1], &args[2], None)?;
    }
    reply.integer(i64::from(!there));
    Ok(())
}

fn setex(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    put_until(db, &args[1], &args[3], Unit::EX.moment(&args[2], "setex")?)?;
    reply.ok();
    Ok(())
}

fn psetex(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    put_until(db, &args[1], &args[3], Unit::PX.moment(&args[2], "psetex")?)?;
    reply.ok();
    Ok(())
}

/// The value of a key for changing, empty if absent, with `room` bytes of room; and its expiry.
pub(super) fn owned_value(
    db: &dyn Reads,
    key: &[u8],
    room: usize,
) -> Result<(Vec<u8>, Option<u64>), Abort> {
    Ok(owned(db.get(key)?.as_ref(), room))
}

/// The same of a value that was looked up.
pub(super) fn owned(entry: Option<&Entry<'_>>, room: usize) -> (Vec<u8>, Option<u64>) {
    let Some(entry) = entry else { return (Vec::with_capacity(room), None) };
    let mut value = Vec::with_capacity(room.max(entry.value.len()));
    value.extend_from_slice(&entry.value);
    (value, entry.expires_at)
}

fn append(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (mut value, expires_at) = owned_value(db, &args[1], 0)?;
    check_len(value.len().checked_add(args[2].len()))?;
    value.extend_from_slice(&args[2]);
    db.put(&args[1], &value, expires_at)?;
    reply.integer(value.len() as i64);
    Ok(())
}

fn strlen(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(db.get(&args[1])?.map_or(0, |entry| entry.value.len()) as i64);
    Ok(())
}

fn getrange(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (start, end) = (integer(&args[2])?, integer(&args[3])?);
    match db.get(&args[1])? {
        Some(entry) if !is_backwards(start, end) => {
            reply.bulk(&entry.value[clamp(start, end, entry.value.len())]);
        }
        _ => reply.bulk(b""),
    }
    Ok(())
}

fn setrange(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let offset = integer(&args[2])?;
    let offset = usize::try_from(offset).map_err(|_| "ERR offset is out of range")?;
    let part = &args[3];
    if part.is_empty() {
        return strlen(&*db, args, reply);
    }
    let end = check_len(offset.checked_add(part.len()))?;
    let (mut value, expires_at) = owned_value(db, &args[1], end)?;
    value.resize(value.len().max(end), 0);
    value[offset..end].copy_from_slice(part);
    db.put(&args[1], &value, expires_at)?;
    reply.integer(value.len() as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};

    #[test]
    fn values_are_set_and_read() {
        transcript(&[
            ("GET a", "$-1"),
            ("SET a 1", "+OK"),
            ("get a", "$1 1"),
            ("set a 2 NX", "$-1"),
            ("set a 2 xx GET", "$1 1"),
            ("set b 2 xx", "$-1"),
            ("mget a b a", "*3 $1 2 $-1 $1 2"),
            ("set a 1 foo", "-ERR syntax error"),
            ("set a 1 ex 10 px 10", "-ERR syntax error"),
            ("set a 1 ex 0", "-ERR invalid expire time in 'set' command"),
            ("set a 1 keepttl get", "$1 2"),
            ("mset a x b", "-ERR wrong number of arguments for 'mset' command"),
            ("mset a x b y", "+OK"),
            ("msetnx b 1 c 1", ":0"),
            ("msetnx c z d z", ":1"),
            ("getset c w", "$1 z"),
            ("getdel c", "$1 w"),
            ("getdel c", "$-1"),
            ("setnx c 1", ":1"),
            ("setnx c 2", ":0"),
        ]);
    }

    #[test]
    fn a_value_is_set_if_it_is_the_expected_one() {
        transcript(&[
            ("set a 1 ifeq 0", "$-1"),
            ("set a 1 ifeq \"\" get", "$-1"),
            ("exists a", ":0"),
            ("set a 1 ex 100", "+OK"),
            ("set a 2 ifeq 0", "$-1"),
            ("set a 2 ifeq 0 get", "$1 1"),
            ("get a", "$1 1"),
            ("set a 2 IFEQ 1 keepttl", "+OK"),
            ("ttl a", ":100"),
            ("set a 3 get ifeq 2 px 200000", "$1 2"),
            ("ttl a", ":200"),
            ("set a 4 ifeq 3", "+OK"),
            ("ttl a", ":-1"),
            ("set a 5 ifeq", "-ERR syntax error"),
            ("set a 5 ifeq 4 xx", "-ERR syntax error"),
            ("set a 5 nx ifeq 4", "-ERR syntax error"),
            ("set a 5 ifeq 4 ifeq 4", "-ERR syntax error"),
            ("get a", "$1 4"),
        ]);
    }

    #[test]
    fn parts_of_values_are_read_and_changed() {
        transcript(&[
            ("append a hello", ":5"),
            ("append a \"\\x00world\"", ":11"),
            ("strlen a", ":11"),
            ("getrange a -5 -1", "$5 world"),
            ("substr a 0 0", "$1 h"),
            ("getrange a 3 1", "$0 "),
            ("getrange b 0 -1", "$0 "),
            ("setrange a 5 ,", ":11"),
            ("get a", "$11 hello,world"),
            ("setrange b 2 x", ":3"),
            ("get b", "$3 \0\0x"),
            ("setrange b -1 x", "-ERR offset is out of range"),
            ("setrange c 5 \"\"", ":0"),
            (
                "setrange b 536870912 x",
                "-ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            ),
        ]);
    }

    #[test]
    fn an_expiry_ends_what_it_is_given_to() {
        transcript(&[
            ("set a 1 pxat 1", "+OK"),
            ("get a", "$-1"),
            ("setex a 100 v", "+OK"),
            ("ttl a", ":100"),
            ("append a w", ":2"),
            ("ttl a", ":100"),
            ("set a v", "+OK"),
            ("ttl a", ":-1"),
            ("getex a exat 99999999999", "$1 v"),
            ("expiretime a", ":99999999999"),
            ("getex a persist", "$1 v"),
            ("ttl a", ":-1"),
            ("getex a pxat 1", "$1 v"),
            ("exists a", ":0"),
            ("psetex a 0 v", "-ERR invalid expire time in 'psetex' command"),
        ]);
    }

    #[test]
    fn a_read_that_finds_a_value_on_disk_starts_again() {
        let mut session = Session::default();
        session.run("mset a 1 b 2");
        session.db.cold = true;
        assert_eq!(session.run("mget x a b"), "*3\r\n$-1\r\n$1\r\n1\r\n$1\r\n2\r\n");
    }
}
