//! A string value as Redis serialises it: what DUMP replies with and RESTORE takes.
//!
//! ```text
//!   type (0: string) | the string, see below | version, u16 | CRC-64 of all before it, u64
//! ```
//! Numbers are little-endian unless said otherwise. The first two bits of a string's first byte
//! say what it is:
//!
//! ```text
//!   00 length in 6 bits                    | bytes       10 0 length, u32 big-endian | bytes
//!   01 length in 14 bits, big-endian       | bytes       10 1 length, u64 big-endian | bytes
//!   11 0 | i8      11 1 | i16     11 2 | i32             a number, written in decimal
//!   11 3 | length compressed | length | bytes            compressed with LZF
//! ```
//! We write numbers in the short form and compress nothing; all of it is read. A payload comes from
//! a client, so a length in it is never believed before the bytes are there.

use super::string::MAX_VALUE;
use crate::protocol::parse_integer;

/// The version that is written, as by Redis 7.0: any newer Redis takes it.
const VERSION: u16 = 10;
/// The newest that is read, of Redis 7.4: a string looks the same in all of them.
const NEWEST: u16 = 12;
/// Version and checksum.
const FOOTER: usize = 10;
const TYPE_STRING: u8 = 0;
const TAG_32_BITS: u8 = 0x80;
const TAG_64_BITS: u8 = 0x81;
const TAG_I8: u8 = 0xC0;
const TAG_I16: u8 = 0xC1;
const TAG_I32: u8 = 0xC2;
const TAG_LZF: u8 = 0xC3;
/// The length of the longest number that fits into 32 bits.
const LONGEST_SHORT_NUMBER: usize = 11;

/// What is wrong with a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is of a newer version, or was changed on its way.
    Footer,
    /// It is no string, or no sound one.
    Content,
}

/// The payload of a value.
pub(super) fn encode(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6 + FOOTER);
    out.push(TYPE_STRING);
    match short_number(value) {
        Some(number) => push_number(&mut out, number),
        None => {
            push_length(&mut out, value.len());
            out.extend_from_slice(value);
        }
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = crc64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// The length of the payload of a value without what is the same for all.
pub(super) fn encoded_len(value: &[u8]) -> usize {
    encode(value).len() - 1 - FOOTER
}

/// The number that `value` is the decimal form of, if it fits into 32 bits.
fn short_number(value: &[u8]) -> Option<i32> {
    let short = value.len() <= LONGEST_SHORT_NUMBER;
    parse_integer(value).filter(|_| short).and_then(|number| i32::try_from(number).ok())
}

fn push_number(out: &mut Vec<u8>, number: i32) {
    if let Ok(number) = i8::try_from(number) {
        out.push(TAG_I8);
        out.extend_from_slice(&number.to_le_bytes());
    } else if let Ok(number) = i16::try_from(number) {
        out.push(TAG_I16);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        out.push(TAG_I32);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn push_length(out: &mut Vec<u8>, len: usize) {
    match len {
        0..0x40 => out.push(len as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | len as u16).to_be_bytes()),
        _ => {
            out.push(TAG_32_BITS);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
}

/// The value in a payload.
pub(super) fn decode(payload: &[u8]) -> Result<Vec<u8>, Fault> {
    let (body, checksum) = payload.split_last_chunk::<8>().ok_or(Fault::Footer)?;
    let (content, version) = body.split_last_chunk::<2>().ok_or(Fault::Footer)?;
    if u16::from_le_bytes(*version) > NEWEST || u64::from_le_bytes(*checksum) != crc64(body) {
        return Err(Fault::Footer);
    }
    // Bytes behind the value are let be, as Redis lets them.
    let mut input = Input(content);
    match input.byte() {
        Some(TYPE_STRING) => input.string().ok_or(Fault::Content),
        _ => Err(Fault::Content),
    }
}

/// What has not been read yet. Its methods tell nothing where it is too short.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn length(&mut self) -> Option<usize> {
        let tag = self.byte()?;
        self.length_after(tag)
    }

    fn length_after(&mut self, tag: u8) -> Option<usize> {
        match tag {
            0..0x40 => Some(tag.into()),
            0x40..0x80 => Some(usize::from(tag & 0x3F) << 8 | usize::from(self.byte()?)),
            TAG_32_BITS => usize::try_from(u32::from_be_bytes(self.array()?)).ok(),
            TAG_64_BITS => usize::try_from(u64::from_be_bytes(self.array()?)).ok(),
            _ => None,
        }
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let decimal = |number: i32| number.to_string().into_bytes();
        match self.byte()? {
            TAG_I8 => self.array().map(|bytes| decimal(i8::from_le_bytes(bytes).into())),
            TAG_I16 => self.array().map(|bytes| decimal(i16::from_le_bytes(bytes).into())),
            TAG_I32 => self.array().map(|bytes| decimal(i32::from_le_bytes(bytes))),
            TAG_LZF => {
                let (compressed, len) = (self.length()?, self.length()?);
                decompress(self.take(compressed)?, len)
            }
            tag => {
                let len = self.length_after(tag)?;
                self.take(len).map(<[u8]>::to_vec)
            }
        }
    }
}

/// Undoes LZF: a control byte below 32 is followed by so many bytes and one more; any other says
/// how far back, and how many, bytes are to be repeated. `None` unless that makes `len` bytes.
fn decompress(mut input: &[u8], len: usize) -> Option<Vec<u8>> {
    /// What three bytes can stand for at most.
    const LONGEST_REPEAT: usize = 264;
    if len > MAX_VALUE || len > input.len().saturating_mul(LONGEST_REPEAT) {
        return None;
    }
    let mut out = Vec::with_capacity(len.min(2 * input.len()));
    while let Some((&control, rest)) = input.split_first() {
        if control < 32 {
            let (literal, rest) = rest.split_at_checked(usize::from(control) + 1)?;
            out.extend_from_slice(literal);
            input = rest;
        } else {
            let (more, rest) = match control >> 5 {
                7 => rest.split_first().map(|(more, rest)| (usize::from(*more), rest))?,
                _ => (0, rest),
            };
            let (low, rest) = rest.split_first()?;
            let count = usize::from(control >> 5) + more + 2;
            let back = (usize::from(control & 0x1F) << 8 | usize::from(*low)) + 1;
            let from = out.len().checked_sub(back)?;
            // What is repeated may reach into what the repetition itself writes.
            for at in from..from + count {
                out.push(*out.get(at)?);
            }
            input = rest;
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

/// The CRC-64 of Jones, as Redis computes it: reflected, begun with zero.
fn crc64(bytes: &[u8]) -> u64 {
    let step = |crc: u64, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8;
    bytes.iter().fold(0, step)
}

static TABLE: [u64; 256] = crc_table();

const fn crc_table() -> [u64; 256] {
    const POLYNOMIAL: u64 = 0xad93_d235_94c9_35a9;
    let reflected = POLYNOMIAL.reverse_bits();
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let (mut crc, mut bit) = (byte as u64, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ reflected } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_redis() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_payload_holds_its_value() {
        let long = vec![b'x'; 20_000];
        for value in [
            &b""[..],
            b"0",
            b"-1",
            b"127",
            b"128",
            b"-32768",
            b"32768",
            b"2147483647",
            b"2147483648",
            b"-2147483648",
            b"01",
            b"+1",
            b"\xff\0",
            &long[..63],
            &long[..64],
            &long[..16_383],
            &long[..16_384],
        ] {
            assert_eq!(decode(&encode(value)).as_deref(), Ok(value), "{}", value.escape_ascii());
        }
        assert_eq!(&encode(b"-1")[..3], b"\x00\xc0\xff");
        assert_eq!(&encode(b"300")[..4], b"\x00\xc1\x2c\x01");
        assert_eq!(&encode(&long[..64])[..3], b"\x00\x40\x40");
    }

    /// A payload around these bytes.
    fn sealed(content: &[u8]) -> Vec<u8> {
        sealed_by(VERSION, content)
    }

    fn sealed_by(version: u16, content: &[u8]) -> Vec<u8> {
        let mut payload = [content, &version.to_le_bytes()].concat();
        payload.extend(crc64(&payload).to_le_bytes());
        payload
    }

    /// Of any Redis 7, and of the ones before.
    #[test]
    fn payloads_of_several_versions_are_read() {
        for version in [1, 6, 9, 10, 11, 12] {
            assert_eq!(decode(&sealed_by(version, b"\x00\x01x")).as_deref(), Ok(&b"x"[..]));
        }
        assert_eq!(decode(&sealed_by(13, b"\x00\x01x")), Err(Fault::Footer));
    }

    #[test]
    fn compressed_values_are_read() {
        // Three bytes, then seven more from one back: "abcccccccc".
        let value = decode(&sealed(b"\x00\xc3\x06\x0a\x02abc\xa0\x00")).unwrap();
        assert_eq!(value, b"abcccccccc");
        // 264 bytes from one back, after one.
        let value = decode(&sealed(b"\x00\xc3\x05\x41\x09\x00z\xe0\xff\x00")).unwrap();
        assert_eq!(value, [b'z'; 265]);
    }

    proptest! {
        #[test]
        fn any_value_comes_back(value: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&value)), Ok(value));
        }

        #[test]
        fn garbage_makes_no_panic(tag in 0xc0u8..0xc5, garbage: Vec<u8>) {
            let _ = decode(&garbage);
            let _ = decode(&sealed(&garbage));
            let _ = decode(&sealed(&[&[TYPE_STRING, tag], &garbage[..]].concat()));
        }

        /// Of every literal and repetition, the bytes that it stands for and no others.
        #[test]
        fn what_is_compressed_has_the_length_it_announces(len in 0u8..64, garbage: Vec<u8>) {
            let head = [TYPE_STRING, TAG_LZF, (garbage.len() as u8).min(63), len];
            let body = &garbage[..garbage.len().min(63)];
            if let Ok(value) = decode(&sealed(&[&head[..], body].concat())) {
                prop_assert_eq!(value.len(), usize::from(len));
            }
        }
    }

    #[test]
    fn unsound_payloads_are_refused() {
        let mut flipped = encode(b"value");
        flipped[3] ^= 1;
        for payload in [&b""[..], b"123456789", &flipped] {
            assert_eq!(decode(payload), Err(Fault::Footer));
        }
        for content in [
            &b""[..],
            b"\x00",                                      // nothing behind the type
            b"\x01\x01x",                                 // a list
            b"\x00\x05x",                                 // less than it announces
            b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xffx", // far less
            b"\x00\x82",                                  // no known length
            b"\x00\xc4",                                  // no known encoding
            b"\x00\xc1\x01",                              // half a number
            b"\x00\xc3\x03\x02\x02ab",                    // a literal that is cut
            b"\x00\xc3\x02\x04\x20\x00",                  // repeats what is before the start
            b"\x00\xc3\x06\x0b\x02abc\xa0\x00",           // announces more than there is
            b"\x00\xc3\x06\x09\x02abc\xa0\x00",           // announces less than there is
            b"\x00\xc3\x01\x81\xff\xff\xff\xff\xff\xff\xff\xff\x00",
        ] {
            assert_eq!(decode(&sealed(content)), Err(Fault::Content), "{}", content.escape_ascii());
        }
    }
}
