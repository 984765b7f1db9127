//! Values as arrays of bits: bit 0 is the highest of byte 0. Beyond its end a value goes on with
//! zeros.

use std::borrow::Cow;
use std::ops::Range;

use super::errors::SYNTAX;
use super::numbers::{clamp, integer, is_backwards};
use super::string::{MAX_VALUE, owned};
use super::{Abort, Command, Flags, Group, Outcome, Reads, Run, Writes};
use crate::protocol::{Args, Reply, parse_integer};

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Bitmap, "setbit", 4, Run::Write(setbit))
        .key()
        .flags(Flags::DENYOOM)
        .help("SETBIT key offset 0|1", "Sets a bit and replies with the old one"),
    Command::new(Group::Bitmap, "getbit", 3, Run::Read(getbit))
        .key()
        .flags(Flags::FAST)
        .help("GETBIT key offset", "A bit"),
    Command::new(Group::Bitmap, "bitcount", -2, Run::Read(bitcount))
        .key()
        .help("BITCOUNT key [start end [BYTE | BIT]]", "The number of set bits"),
    Command::new(Group::Bitmap, "bitpos", -3, Run::Read(bitpos)).key().help(
        "BITPOS key 0|1 [start [end [BYTE | BIT]]]",
        "The place of the first bit that is 0 or 1; -1: there is none",
    ),
    Command::new(Group::Bitmap, "bitop", -4, Run::Write(bitop))
        .keys(2, -1, 1)
        .flags(Flags::DENYOOM)
        .help(
            "BITOP AND|OR|XOR|NOT destkey key [key ...]",
            "Combines values bit by bit into another",
        ),
];

const BAD_BIT: &str = "ERR bit is not an integer or out of range";

/// The place of a bit. `#n` is the `n`th field of `width` bits, where fields are meant.
pub(super) fn offset(word: &[u8], field_width: Option<u32>) -> Result<usize, Abort> {
    let (digits, unit) = match (word, field_width) {
        ([b'#', digits @ ..], Some(width)) => (digits, i64::from(width)),
        _ => (word, 1),
    };
    let place = parse_integer(digits).and_then(|number| number.checked_mul(unit));
    let place = place.and_then(|place| usize::try_from(place).ok());
    place
        .filter(|place| place / 8 < MAX_VALUE)
        .ok_or("ERR bit offset is not an integer or out of range".into())
}

fn bit(bytes: &[u8], place: usize) -> bool {
    bytes.get(place / 8).is_some_and(|byte| byte & mask(place) != 0)
}

fn mask(place: usize) -> u8 {
    0x80 >> (place % 8)
}

/// As in Redis, it is no change of the key if the bit is there as it should be.
fn setbit(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let place = offset(&args[2], None)?;
    let set = match parse_integer(&args[3]) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(BAD_BIT.into()),
    };
    let entry = db.get(&args[1])?;
    let old = entry.as_ref().is_some_and(|entry| bit(&entry.value, place));
    reply.integer(old.into());
    if old == set && entry.as_ref().is_some_and(|entry| place / 8 < entry.value.len()) {
        return Ok(());
    }
    let (mut value, expires_at) = owned(entry.as_ref(), place / 8 + 1);
    value.resize(value.len().max(place / 8 + 1), 0);
    if set {
        value[place / 8] |= mask(place);
    } else {
        value[place / 8] &= !mask(place);
    }
    db.put(&args[1], &value, expires_at)
}

fn getbit(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let place = offset(&args[2], None)?;
    let set = db.get(&args[1])?.is_some_and(|entry| bit(&entry.value, place));
    reply.integer(set.into());
    Ok(())
}

/// Whether `[BYTE | BIT]` at word `at` says that a range counts bits.
fn counts_bits(args: Args<'_>, at: usize) -> Result<bool, Abort> {
    match args.get(at) {
        None => Ok(false),
        Some(unit) if unit.eq_ignore_ascii_case(b"bit") => Ok(true),
        Some(unit) if unit.eq_ignore_ascii_case(b"byte") => Ok(false),
        Some(_) => Err(SYNTAX.into()),
    }
}

/// The places of the bits from `start` to `end`, which count bits or bytes, of a value.
fn places(start: i64, end: i64, in_bits: bool, value: &[u8]) -> Range<usize> {
    if in_bits {
        return clamp(start, end, value.len() * 8);
    }
    let bytes = clamp(start, end, value.len());
    bytes.start * 8..bytes.end * 8
}

/// As in Redis, an absent key is answered before the range is looked at, and a range that is empty
/// for sure before its unit is.
fn bitcount(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let Some(entry) = db.get(&args[1])? else {
        reply.integer(0);
        return Ok(());
    };
    let range = match args.len() {
        2 => 0..entry.value.len() * 8,
        4 | 5 => {
            let (start, end) = (integer(&args[2])?, integer(&args[3])?);
            if is_backwards(start, end) {
                reply.integer(0);
                return Ok(());
            }
            places(start, end, counts_bits(args, 4)?, &entry.value)
        }
        _ => return Err(SYNTAX.into()),
    };
    reply.integer(count(&entry.value, range) as i64);
    Ok(())
}

fn count(value: &[u8], range: Range<usize>) -> u64 {
    let Some(last) = range.end.checked_sub(1).filter(|_| !range.is_empty()) else { return 0 };
    let (first_byte, last_byte) = (range.start / 8, last / 8);
    let all: u64 =
        value[first_byte..=last_byte].iter().map(|byte| u64::from(byte.count_ones())).sum();
    let before = value[first_byte] & !(u8::MAX >> (range.start % 8));
    let behind = value[last_byte] & (u8::MAX >> 1 >> (last % 8));
    all - u64::from(before.count_ones()) - u64::from(behind.count_ones())
}

fn bitpos(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let wanted = match integer(&args[2])? {
        0 => false,
        1 => true,
        _ => return Err("ERR The bit argument must be 1 or 0.".into()),
    };
    let Some(entry) = db.get(&args[1])? else {
        reply.integer(if wanted { -1 } else { 0 });
        return Ok(());
    };
    if args.len() > 6 {
        return Err(SYNTAX.into());
    }
    let start = args.get(3).map_or(Ok(0), integer)?;
    let in_bits = counts_bits(args, 5)?;
    let end = args.get(4).map_or(Ok(-1), integer)?;
    let range = places(start, end, in_bits, &entry.value);
    // The zeros behind the value count unless the request says where to end.
    let behind = (!wanted && args.len() < 5 && !range.is_empty()).then_some(range.end);
    let found = position(&entry.value, range, wanted).or(behind);
    reply.integer(found.map_or(-1, |place| place as i64));
    Ok(())
}

/// The first bit within `range` that is as wanted. Whole bytes without one are skipped as such.
fn position(value: &[u8], range: Range<usize>, wanted: bool) -> Option<usize> {
    let without = if wanted { 0 } else { u8::MAX };
    let mut place = range.start;
    while place < range.end {
        if place.is_multiple_of(8) {
            let rest = &value[place / 8..];
            let skipped = rest.iter().position(|&byte| byte != without).unwrap_or(rest.len());
            place += skipped * 8;
        }
        if place < range.end && bit(value, place) == wanted {
            return Some(place);
        }
        place += 1;
    }
    None
}

/// How BITOP combines bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BitOp {
    And,
    Or,
    Xor,
    Not,
}

impl BitOp {
    fn parse(word: &[u8]) -> Result<BitOp, Abort> {
        const NAMES: [(&[u8], BitOp); 4] =
            [(b"and", BitOp::And), (b"or", BitOp::Or), (b"xor", BitOp::Xor), (b"not", BitOp::Not)];
        let found = NAMES.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
        found.map(|(_, op)| *op).ok_or(SYNTAX.into())
    }

    /// Combines `other` into `result`, which is as long or longer. NOT takes no other.
    fn combine(self, result: &mut [u8], other: &[u8]) {
        let (both, rest) = result.split_at_mut(other.len());
        let pairs = both.iter_mut().zip(other);
        match self {
            BitOp::And => pairs.for_each(|(byte, other)| *byte &= other),
            BitOp::Or => pairs.for_each(|(byte, other)| *byte |= other),
            BitOp::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
            BitOp::Not => {}
        }
        if self == BitOp::And {
            rest.fill(0);
        }
    }
}

fn bitop(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let op = BitOp::parse(&args[1])?;
    if op == BitOp::Not && args.len() != 4 {
        return Err("ERR BITOP NOT must be called with a single source key.".into());
    }
    let result = combined(&*db, args, op)?;
    if result.is_empty() {
        db.delete(&args[2])?;
    } else {
        db.put(&args[2], &result, None)?;
    }
    reply.integer(result.len() as i64);
    Ok(())
}

/// The values of the keys from word 3 on, combined.
fn combined(db: &dyn Reads, args: Args<'_>, op: BitOp) -> Result<Vec<u8>, Abort> {
    let mut values = Vec::with_capacity(args.len() - 3);
    for key in args.iter().skip(3) {
        values.push(db.get(key)?.map_or(Cow::Borrowed(&b""[..]), |entry| entry.value));
    }
    let len = values.iter().map(|value| value.len()).max().unwrap_or(0);
    let mut values = values.into_iter();
    let mut result = values.next().unwrap_or_default().into_owned();
    result.resize(len, 0);
    values.for_each(|value| op.combine(&mut result, &value));
    if op == BitOp::Not {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn bits_are_set_counted_and_found() {
        transcript(&[
            ("setbit a 7 1", ":0"),
            ("setbit a 7 0", ":1"),
            ("setbit a 10 1", ":0"),
            ("strlen a", ":2"),
            ("getbit a 10", ":1"),
            ("getbit a 1000", ":0"),
            ("setbit a 0 2", "-ERR bit is not an integer or out of range"),
            ("setbit a 4294967296 1", "-ERR bit offset is not an integer or out of range"),
            ("set a foobar", "+OK"),
            ("bitcount a", ":26"),
            ("bitcount a 1 1", ":6"),
            ("bitcount a 5 30 bit", ":17"),
            ("bitcount a 5 30 foo", "-ERR syntax error"),
            ("set a \"\\xff\\xf0\\x00\"", "+OK"),
            ("bitpos a 0", ":12"),
            ("bitpos a 1 2", ":-1"),
            ("bitpos a 1 7 15 bit", ":7"),
            ("set a \"\\xff\\xff\"", "+OK"),
            ("bitpos a 0", ":16"),
            ("bitpos a 0 0 -1", ":-1"),
            ("bitpos a 2", "-ERR The bit argument must be 1 or 0."),
        ]);
    }

    #[test]
    fn values_are_combined_bit_by_bit() {
        transcript(&[
            ("mset a abc b a", "+OK"),
            ("bitop and x a b", ":3"),
            ("get x", "$3 a\0\0"),
            ("bitop or x a b", ":3"),
            ("get x", "$3 abc"),
            ("bitop xor x a b", ":3"),
            ("get x", "$3 \0bc"),
            ("bitop not x b", ":1"),
            ("bitop not x x", ":1"),
            ("get x", "$1 a"),
            ("bitop or x nosuch", ":0"),
            ("exists x", ":0"),
            ("bitop not x a b", "-ERR BITOP NOT must be called with a single source key."),
        ]);
    }
}
