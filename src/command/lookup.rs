//! From a name to its command. This is on the way of every request: the name is folded into 16 bytes
//! and found in an open-addressed table that the compiler has filled, without allocating.

use super::Command;
use super::table::FAMILIES;

/// How many places the table has: one for each value of a byte, so that no place is out of bounds,
/// and at least twice the number of commands, so that a probe is short.
const SLOTS: usize = 256;

/// The length of the longest name: what 16 bytes hold beside a length.
const LONGEST: usize = 15;

/// A name in lower case: its bytes from the lowest on, zeros, and its length in the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Folded {
    low: u64,
    high: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    name: Folded,
    command: Option<&'static Command>,
}

static TABLE: [Slot; SLOTS] = fill();

const fn fill() -> [Slot; SLOTS] {
    let mut table = [Slot { name: Folded { low: 0, high: 0 }, command: None }; SLOTS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            let command = &FAMILIES[family][row];
            let name = fold_slowly(command.name.as_bytes());
            let mut at = name.slot();
            while table[at as usize].command.is_some() {
                at = at.wrapping_add(1);
            }
            table[at as usize] = Slot { name, command: Some(command) };
            row += 1;
        }
        family += 1;
    }
    table
}

/// What [`fold`] does, for the compiler.
const fn fold_slowly(name: &[u8]) -> Folded {
    assert!(name.len() <= LONGEST);
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < name.len() {
        bytes[i] = name[i].to_ascii_lowercase();
        i += 1;
    }
    bytes[LONGEST] = name.len() as u8;
    let number = u128::from_le_bytes(bytes);
    Folded { low: number as u64, high: (number >> 64) as u64 }
}

/// None if it is longer than any command's name. Words of fixed size that overlap cover the name:
/// where they do, they agree.
#[inline]
fn fold(name: &[u8]) -> Option<Folded> {
    let (low, high) = match name.len() {
        len @ 4..=8 => {
            let first = u64::from(u32::from_le_bytes(*name.first_chunk()?));
            let last = u64::from(u32::from_le_bytes(*name.last_chunk()?));
            (first | last << (8 * (len - 4)), 0)
        }
        len @ 1..=3 => {
            let byte = |at: usize| u64::from(name[at]) << (8 * at);
            (byte(0) | byte(len / 2) | byte(len - 1), 0)
        }
        len @ 9..=LONGEST => {
            let first = u64::from_le_bytes(*name.first_chunk()?);
            let last = u64::from_le_bytes(*name.last_chunk()?);
            (first, lower_case(last >> (8 * (16 - len))))
        }
        _ => return None,
    };
    Some(Folded { low: lower_case(low), high: high | (name.len() as u64) << 56 })
}

/// ASCII capitals become small in all 8 bytes at once.
#[inline]
const fn lower_case(word: u64) -> u64 {
    const EACH: u64 = u64::MAX / 0xff;
    // Bit 7 of a byte of the sums says: from `A` on; beyond `Z`.
    let low_bits = word & (EACH * 0x7f);
    let from_a = low_bits + EACH * (0x80 - b'A' as u64);
    let beyond_z = low_bits + EACH * (0x7f - b'Z' as u64);
    let capitals = from_a & !beyond_z & !word & (EACH * 0x80);
    word | capitals >> 2
}

impl Folded {
    /// Where the search for the name begins.
    #[inline]
    const fn slot(self) -> u8 {
        // 2^64 divided by the golden ratio: it spreads names over the upper bits.
        ((self.low ^ self.high).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

/// The command of this name, in any case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    let name = fold(name)?;
    let mut at = name.slot();
    loop {
        let slot = &TABLE[usize::from(at)];
        if slot.name == name || slot.command.is_none() {
            return slot.command;
        }
        at = at.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        for command in commands() {
            assert_eq!(lookup(command.name.as_bytes()).unwrap().name, command.name);
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(lookup(upper.as_bytes()).unwrap().name, command.name);
            for sub in command.subcommands {
                assert_eq!(sub.name, format!("{}|{}", command.name, sub.last_name()));
                assert!(command.subcommand(sub.last_name().as_bytes()).is_some());
            }
        }
        assert!(commands().count() * 2 <= SLOTS);
    }

    #[test]
    fn what_only_resembles_a_name_is_not_found() {
        for name in [
            &b""[..],
            b"ge",
            b"gett",
            b"get\0",
            b"get ",
            b"\0get",
            b"GE\x14",
            b"g\xe5t",
            b"bitfield\x7fro",
            b"BITFIELD\x1fRO",
            b"config|get",
            b"incrbyfloatxxxx",
            b"incrbyfloatxxxxx",
            b"incrbyfloatxxxxxx",
        ] {
            assert!(lookup(name).is_none(), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn letters_become_small_and_nothing_else_changes() {
        for byte in 0..=u8::MAX {
            let word = u64::from_le_bytes([byte; 8]);
            let expected = [byte.to_ascii_lowercase(); 8];
            assert_eq!(lower_case(word).to_le_bytes(), expected, "{byte}");
        }
    }

    #[test]
    #[ignore = "a measurement, for release builds"]
    fn looking_up_takes_nanoseconds() {
        let names: Vec<&[u8]> =
            vec![b"GET", b"set", b"PING", b"incrbyfloat", b"MGET", b"expire", b"DEL", b"ttl"];
        const ROUNDS: u32 = 10_000;
        let best = (0..2000).map(|_| {
            let begin = std::time::Instant::now();
            for round in 0..ROUNDS as usize {
                let name = std::hint::black_box(names[round % names.len()]);
                std::hint::black_box(lookup(name));
            }
            begin.elapsed()
        });
        let each = best.min().unwrap().as_secs_f64() * 1e9 / f64::from(ROUNDS);
        println!("{each:.1} ns each");
    }
}
