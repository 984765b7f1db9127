//! When keys end. A moment is kept in milliseconds since 1970; one that is past ends the key now.

use super::errors::{invalid_expiry, refused, shown};
use super::numbers::integer;
use super::options::Unit;
use super::{Abort, Command, Flags, Group, Outcome, Reads, Run, Writes};
use crate::clock::now_ms;
use crate::protocol::{Args, Reply};

const FAST: Flags = Flags::FAST;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Generic, "expire", -3, Run::Write(expire))
        .key()
        .flags(FAST)
        .help("EXPIRE key seconds [NX | XX | GT | LT]", "Ends a key some seconds from now"),
    Command::new(Group::Generic, "pexpire", -3, Run::Write(pexpire)).key().flags(FAST).help(
        "PEXPIRE key milliseconds [NX | XX | GT | LT]",
        "Ends a key some milliseconds from now",
    ),
    Command::new(Group::Generic, "expireat", -3, Run::Write(expireat))
        .key()
        .flags(FAST)
        .help("EXPIREAT key unix-seconds [NX | XX | GT | LT]", "Ends a key at a second since 1970"),
    Command::new(Group::Generic, "pexpireat", -3, Run::Write(pexpireat)).key().flags(FAST).help(
        "PEXPIREAT key unix-milliseconds [NX | XX | GT | LT]",
        "Ends a key at a millisecond since 1970",
    ),
    Command::new(Group::Generic, "ttl", 2, Run::Read(ttl))
        .key()
        .flags(FAST)
        .help("TTL key", "In how many seconds a key ends; -1: never, -2: it is absent"),
    Command::new(Group::Generic, "pttl", 2, Run::Read(pttl))
        .key()
        .flags(FAST)
        .help("PTTL key", "In how many milliseconds a key ends; -1: never, -2: it is absent"),
    Command::new(Group::Generic, "expiretime", 2, Run::Read(expiretime)).key().flags(FAST).help(
        "EXPIRETIME key",
        "At which second since 1970 a key ends; -1: never, -2: it is absent",
    ),
    Command::new(Group::Generic, "pexpiretime", 2, Run::Read(pexpiretime)).key().flags(FAST).help(
        "PEXPIRETIME key",
        "At which millisecond since 1970 a key ends; -1: never, -2: it is absent",
    ),
    Command::new(Group::Generic, "persist", 2, Run::Write(persist))
        .key()
        .flags(FAST)
        .help("PERSIST key", "Makes a key stay for ever"),
];

fn expire(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set(db, args, Unit::EX, "expire", reply)
}

fn pexpire(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set(db, args, Unit::PX, "pexpire", reply)
}

fn expireat(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set(db, args, Unit::EXAT, "expireat", reply)
}

fn pexpireat(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set(db, args, Unit::PXAT, "pexpireat", reply)
}

/// On what the key's present expiry has to be for the new one to be set.
#[derive(Debug, Clone, Copy, Default)]
struct Condition {
    absent: bool,
    present: bool,
    later: bool,
    earlier: bool,
}

impl Condition {
    fn parse(args: Args<'_>) -> Result<Condition, Abort> {
        let mut condition = Condition::default();
        for word in args.iter().skip(3) {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if is(b"nx") {
                condition.absent = true;
            } else if is(b"xx") {
                condition.present = true;
            } else if is(b"gt") {
                condition.later = true;
            } else if is(b"lt") {
                condition.earlier = true;
            } else {
                let word = shown(word);
                return Err(refused(format!("ERR Unsupported option {word}")));
            }
        }
        let Condition { absent, present, later, earlier } = condition;
        if absent && (present || later || earlier) {
            let line = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(line.into());
        }
        if later && earlier {
            return Err("ERR GT and LT options at the same time are not compatible".into());
        }
        Ok(condition)
    }

    /// A key without an expiry ends later than any other.
    fn holds(self, present: Option<u64>, moment: i64) -> bool {
        let present = present.map(|at| i64::try_from(at).unwrap_or(i64::MAX));
        !(self.absent && present.is_some()
            || self.present && present.is_none()
            || self.later && present.is_none_or(|present| moment <= present)
            || self.earlier && present.is_some_and(|present| moment >= present))
    }
}

/// A number in `unit` as a moment, which may lie before 1970.
fn moment(word: &[u8], unit: Unit, command: &str) -> Result<i64, Abort> {
    let number = integer(word)?;
    let scaled = number.checked_mul(if unit.seconds { 1000 } else { 1 });
    let base = if unit.relative { now_ms() as i64 } else { 0 };
    let moment = scaled.and_then(|scaled| scaled.checked_add(base));
    moment.ok_or_else(|| invalid_expiry(command))
}

fn set(
    db: &mut dyn Writes,
    args: Args<'_>,
    unit: Unit,
    command: &str,
    reply: &mut Reply<'_>,
) -> Outcome {
    let condition = Condition::parse(args)?;
    let moment = moment(&args[2], unit, command)?;
    let there = db.get(&args[1])?.map(|entry| entry.expires_at);
    let done = there.is_some_and(|present| condition.holds(present, moment));
    if done {
        match u64::try_from(moment) {
            Ok(moment) if moment > now_ms() => db.set_expiry(&args[1], Some(moment))?,
            _ => drop(db.delete(&args[1])?),
        }
    }
    reply.integer(done.into());
    Ok(())
}

fn ttl(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    report(db, args, reply, |at| seconds(at.saturating_sub(now_ms())))
}

fn pttl(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    report(db, args, reply, |at| at.saturating_sub(now_ms()))
}

fn expiretime(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    report(db, args, reply, seconds)
}

fn pexpiretime(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    report(db, args, reply, |at| at)
}

/// Milliseconds to the nearest second.
fn seconds(milliseconds: u64) -> u64 {
    milliseconds.saturating_add(500) / 1000
}

fn report(
    db: &dyn Reads,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    show: impl Fn(u64) -> u64,
) -> Outcome {
    reply.integer(match db.get(&args[1])?.map(|entry| entry.expires_at) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => i64::try_from(show(at)).unwrap_or(i64::MAX),
    });
    Ok(())
}

fn persist(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let expires = db.get(&args[1])?.is_some_and(|entry| entry.expires_at.is_some());
    if expires {
        db.set_expiry(&args[1], None)?;
    }
    reply.integer(expires.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn expiries_are_set_and_told() {
        transcript(&[
            ("ttl a", ":-2"),
            ("expire a 10", ":0"),
            ("set a 1", "+OK"),
            ("pttl a", ":-1"),
            ("expire a 100 xx", ":0"),
            ("expire a 100 gt", ":0"),
            ("expire a 100 nx", ":1"),
            ("ttl a", ":100"),
            ("expire a 200 nx", ":0"),
            ("expire a 200 lt", ":0"),
            ("expire a 200 gt", ":1"),
            ("pexpireat a 99999999999499", ":1"),
            ("pexpiretime a", ":99999999999499"),
            ("expiretime a", ":99999999999"),
            ("persist a", ":1"),
            ("persist a", ":0"),
            (
                "expire a 1 nx gt",
                "-ERR NX and XX, GT or LT options at the same time are not compatible",
            ),
            ("expire a 1 gt lt", "-ERR GT and LT options at the same time are not compatible"),
            ("expire a 1 foo", "-ERR Unsupported option foo"),
            ("expire a 9223372036854775807", "-ERR invalid expire time in 'expire' command"),
            ("pexpire a -1", ":1"),
            ("exists a", ":0"),
        ]);
    }
}
