//! BITFIELD: integers of any width up to 64 bits at any place of a value.

use super::bits::offset;
use super::errors::SYNTAX;
use super::numbers::integer;
use super::string::owned_value;
use super::{Abort, Command, Flags, Group, Outcome, Reads, Run, Writes};
use crate::protocol::{Args, Reply, parse_integer};

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Bitmap, "bitfield", -2, Run::Write(bitfield))
        .key()
        .flags(Flags::DENYOOM)
        .help(
            "BITFIELD key [GET type offset | [OVERFLOW WRAP|SAT|FAIL] SET type offset value \
             | INCRBY type offset increment ...]",
            "Reads and changes integers (i1 to i64, u1 to u63) within a value",
        ),
    Command::new(Group::Bitmap, "bitfield_ro", -2, Run::Read(bitfield_ro))
        .key()
        .flags(Flags::FAST)
        .help("BITFIELD_RO key [GET type offset ...]", "Reads integers within a value"),
];

/// What becomes of a number that does not fit its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// An integer within a value.
#[derive(Debug, Clone, Copy)]
struct Field {
    signed: bool,
    bits: u32,
    /// The place of its first bit.
    place: usize,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Get,
    Set(i64),
    Add(i64),
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    field: Field,
    action: Action,
    overflow: Overflow,
}

impl Field {
    fn parse(kind: &[u8], place: &[u8]) -> Result<Field, Abort> {
        const INVALID: &str = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 \
                               is not supported but i64 is.";
        let (signed, bits) = match kind {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => return Err(INVALID.into()),
        };
        let widest = if signed { 64 } else { 63 };
        let bits = parse_integer(bits).filter(|bits| (1..=widest).contains(bits)).ok_or(INVALID)?;
        let bits = bits as u32;
        Ok(Field { signed, bits, place: offset(place, Some(bits))? })
    }

    /// The number of bytes that a value needs to hold it.
    fn end(self) -> usize {
        (self.place + self.bits as usize).div_ceil(8)
    }

    /// The integer in `bytes`, which go on with zeros.
    fn read(self, bytes: &[u8]) -> i128 {
        let mut raw = 0_i128;
        for place in self.place..self.place + self.bits as usize {
            let byte = bytes.get(place / 8).copied().unwrap_or(0);
            raw = raw << 1 | i128::from(byte >> (7 - place % 8) & 1);
        }
        self.wrapped(raw)
    }

    fn write(self, bytes: &mut [u8], value: i128) {
        for i in 0..self.bits as usize {
            let place = self.place + i;
            let mask = 0x80 >> (place % 8);
            if value >> (self.bits as usize - 1 - i) & 1 == 1 {
                bytes[place / 8] |= mask;
            } else {
                bytes[place / 8] &= !mask;
            }
        }
    }

    fn min(self) -> i128 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }

    fn max(self) -> i128 {
        if self.signed { (1 << (self.bits - 1)) - 1 } else { (1 << self.bits) - 1 }
    }

    /// The lowest bits of a number as one that fits.
    fn wrapped(self, value: i128) -> i128 {
        let low = value & ((1 << self.bits) - 1);
        if low > self.max() { low - (1 << self.bits) } else { low }
    }

    /// A number that fits in the place of one that may not.
    fn fitted(self, value: i128, overflow: Overflow) -> Option<i128> {
        if (self.min()..=self.max()).contains(&value) {
            return Some(value);
        }
        match overflow {
            Overflow::Wrap => Some(self.wrapped(value)),
            Overflow::Saturate => Some(value.clamp(self.min(), self.max())),
            Overflow::Fail => None,
        }
    }
}

fn parse(args: Args<'_>) -> Result<Vec<Operation>, Abort> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut words = args.iter().skip(2);
    while let Some(word) = words.next() {
        let left = words.len();
        let is = |name: &[u8], operands| word.eq_ignore_ascii_case(name) && left >= operands;
        let mut operand = || words.next().unwrap_or_default();
        if is(b"overflow", 1) {
            overflow = parse_overflow(operand())?;
            continue;
        }
        let action: Option<fn(i64) -> Action> = match () {
            () if is(b"get", 2) => None,
            () if is(b"set", 3) => Some(Action::Set),
            () if is(b"incrby", 3) => Some(Action::Add),
            () => return Err(SYNTAX.into()),
        };
        let field = Field::parse(operand(), operand())?;
        let action = match action {
            Some(action) => action(integer(operand())?),
            None => Action::Get,
        };
        operations.push(Operation { field, action, overflow });
    }
    Ok(operations)
}

fn parse_overflow(word: &[u8]) -> Result<Overflow, Abort> {
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    if is(b"wrap") {
        Ok(Overflow::Wrap)
    } else if is(b"sat") {
        Ok(Overflow::Saturate)
    } else if is(b"fail") {
        Ok(Overflow::Fail)
    } else {
        Err("ERR Invalid OVERFLOW type specified".into())
    }
}

fn only_reads(operations: &[Operation]) -> bool {
    operations.iter().all(|operation| matches!(operation.action, Action::Get))
}

fn bitfield(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let operations = parse(args)?;
    if only_reads(&operations) {
        return read_all(db, &args[1], &operations, reply);
    }
    let changing = operations.iter().filter(|operation| !matches!(operation.action, Action::Get));
    let len = changing.map(|operation| operation.field.end()).max().unwrap_or(0);
    let (mut value, expires_at) = owned_value(db, &args[1], len)?;
    let mut changed = value.len() < len;
    value.resize(value.len().max(len), 0);
    reply.array(operations.len());
    for operation in operations {
        let before = operation.field.read(&value);
        let outcome = run(operation, &mut value);
        changed |= operation.field.read(&value) != before;
        match outcome {
            Some(number) => reply.integer(number as i64),
            None => reply.null(),
        }
    }
    if changed { db.put(&args[1], &value, expires_at) } else { Ok(()) }
}

/// What an operation replies with; None if it was not done.
fn run(operation: Operation, value: &mut [u8]) -> Option<i128> {
    let Operation { field, action, overflow } = operation;
    let old = field.read(value);
    let (new, shows_new) = match action {
        Action::Get => return Some(old),
        // What a field without sign is set to is taken as a number without sign.
        Action::Set(new) if !field.signed => (i128::from(new as u64), false),
        Action::Set(new) => (i128::from(new), false),
        Action::Add(increment) => (old + i128::from(increment), true),
    };
    let new = field.fitted(new, overflow)?;
    field.write(value, new);
    Some(if shows_new { new } else { old })
}

fn bitfield_ro(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let operations = parse(args)?;
    if !only_reads(&operations) {
        return Err("ERR BITFIELD_RO only supports the GET subcommand".into());
    }
    read_all(db, &args[1], &operations, reply)
}

fn read_all(
    db: &dyn Reads,
    key: &[u8],
    operations: &[Operation],
    reply: &mut Reply<'_>,
) -> Outcome {
    let entry = db.get(key)?;
    let value = entry.as_ref().map_or(&b""[..], |entry| &entry.value);
    reply.array(operations.len());
    for operation in operations {
        reply.integer(operation.field.read(value) as i64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn fields_are_read_and_changed() {
        transcript(&[
            ("bitfield a get u8 0", "*1 :0"),
            ("exists a", ":0"),
            ("bitfield a set u8 0 255 get i8 0 get u4 #1", "*3 :0 :-1 :15"),
            ("bitfield a incrby u8 0 1", "*1 :0"),
            ("bitfield a overflow sat incrby i8 8 200 overflow fail incrby i8 8 1", "*2 :127 $-1"),
            (
                "bitfield a set i64 #1 -5 incrby i64 64 -9223372036854775808",
                "*2 :0 :9223372036854775803",
            ),
            ("bitfield_ro a get i8 #1", "*1 :127"),
            ("bitfield_ro a set i8 0 1", "-ERR BITFIELD_RO only supports the GET subcommand"),
            ("bitfield a overflow x", "-ERR Invalid OVERFLOW type specified"),
            ("bitfield a get u8", "-ERR syntax error"),
            (
                "bitfield a get u64 0",
                "-ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not \
                 supported but i64 is.",
            ),
        ]);
    }

    #[test]
    fn the_smallest_number_saturates_downwards() {
        transcript(&[(
            "bitfield a overflow sat set i8 0 -9223372036854775808 get i8 0",
            "*2 :0 :-128",
        )]);
    }
}
