//! The numbers of INCRBYFLOAT: 80-bit floating point, as Redis has it in its `long double`, so that
//! sums come out with the same digits.
//!
//! A number is `mantissa * 2^exponent` with the top bit of the 64-bit mantissa set, or zero.
//! Everything is rounded to the nearest, ties to even. Infinities have no number here: whoever
//! would make one gets an error instead.

/// A number. See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

/// What is written as a number and has no place in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    Finite(Extended),
    Infinite,
}

/// Words of this length and more are refused, as Redis does.
const TOO_LONG: usize = 5 * 1024;

/// Two to this power, and more, is infinite.
const MAX_POWER: i64 = 16_384;

/// Less than two to this power is zero.
const MIN_POWER: i64 = -16_446;

/// Ten to this power, either way, is out of range.
const DECIMAL_BOUND: i64 = 4_960;

/// Ten to the power of nine: the largest that fits a limb.
const BILLION: u32 = 1_000_000_000;

/// Digits behind the point in what is written.
const FRACTION_DIGITS: u32 = 17;

impl Extended {
    pub(super) const ZERO: Extended = Extended { negative: false, mantissa: 0, exponent: 0 };

    /// The sum; None if it is infinite.
    pub(super) fn plus(self, other: Extended) -> Option<Extended> {
        if self.mantissa == 0 || other.mantissa == 0 {
            return Some(if self.mantissa == 0 { other } else { self });
        }
        let larger_first = (self.exponent, self.mantissa) >= (other.exponent, other.mantissa);
        let (large, small) = if larger_first { (self, other) } else { (other, self) };
        // 63 bits below the mantissas are room for what the sum is rounded by, the top bit for a carry.
        let distance = (large.exponent - small.exponent) as u32;
        let small_bits = u128::from(small.mantissa) << 63;
        let aligned = small_bits.checked_shr(distance).unwrap_or(0);
        let lost = aligned.checked_shl(distance).unwrap_or(0) != small_bits;
        let large_bits = u128::from(large.mantissa) << 63;
        let sum = if large.negative == small.negative {
            large_bits + aligned
        } else {
            large_bits - aligned - u128::from(lost)
        };
        // Where bits were lost the sum is far longer than a mantissa: its last bit can stand for them.
        let sum = sum | u128::from(lost);
        let limbs = [sum as u32, (sum >> 32) as u32, (sum >> 64) as u32, (sum >> 96) as u32];
        round(large.negative, &limbs, i64::from(large.exponent) - 63, false)
    }
}

/// Reads a number as C's `strtold` does: decimal, hexadecimal or `inf`. None if it is none of these
/// or out of range.
pub(super) fn parse(word: &[u8]) -> Option<Parsed> {
    if word.len() >= TOO_LONG {
        return None;
    }
    let (negative, unsigned) = match word {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
        return Some(Parsed::Infinite);
    }
    let number = match unsigned {
        [b'0', b'x' | b'X', digits @ ..] => hexadecimal(negative, digits),
        digits => decimal(negative, digits),
    };
    number.map(Parsed::Finite)
}

fn hexadecimal(negative: bool, text: &[u8]) -> Option<Extended> {
    let (digits, point, exponent) = split(text, b'p', u8::is_ascii_hexdigit)?;
    let mut number = Vec::new();
    for digit in digits {
        multiply_add(&mut number, 16, (digit as char).to_digit(16)?);
    }
    if number.is_empty() {
        return Some(Extended { negative, ..Extended::ZERO });
    }
    round(negative, &number, exponent - 4 * point, false)
}

fn decimal(negative: bool, text: &[u8]) -> Option<Extended> {
    let (digits, point, exponent) = split(text, b'e', u8::is_ascii_digit)?;
    let mut number = Vec::new();
    for digit in &digits {
        multiply_add(&mut number, 10, u32::from(digit - b'0'));
    }
    if number.is_empty() {
        return Some(Extended { negative, ..Extended::ZERO });
    }
    let exponent = exponent - point;
    let significant = digits.iter().skip_while(|&&digit| digit == b'0').count() as i64;
    if (exponent + significant).abs() > DECIMAL_BOUND {
        return None;
    }
    if exponent >= 0 {
        powers_of_ten(exponent).for_each(|power| multiply_add(&mut number, power, 0));
        return round(negative, &number, 0, false);
    }
    // Limbs below the point, enough for the quotient to be longer than a mantissa: a factor of ten
    // takes less than 4 bits.
    let limbs = exponent.unsigned_abs() as usize / 8 + 4;
    number.splice(0..0, std::iter::repeat_n(0, limbs));
    let mut lost = false;
    powers_of_ten(-exponent).for_each(|power| lost |= divide(&mut number, power) != 0);
    round(negative, &number, -32 * limbs as i64, lost)
}

/// Factors that fit a limb and make ten to the power of `exponent` together.
fn powers_of_ten(exponent: i64) -> impl Iterator<Item = u32> {
    let billions = std::iter::repeat_n(BILLION, exponent as usize / 9);
    billions.chain([10_u32.pow(exponent as u32 % 9)])
}

/// Splits `12.5e3` into its digits, how many of them stand behind the point, and the exponent.
fn split(
    text: &[u8],
    exponent_mark: u8,
    is_digit: impl Fn(&u8) -> bool,
) -> Option<(Vec<u8>, i64, i64)> {
    let end = text.iter().position(|byte| byte.to_ascii_lowercase() == exponent_mark);
    let (number, exponent) = match end {
        Some(end) => (&text[..end], exponent_of(&text[end + 1..])?),
        None => (text, 0),
    };
    let mut parts = number.splitn(2, |&byte| byte == b'.');
    let whole = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    let digits = [whole, fraction].concat();
    let valid = !digits.is_empty() && digits.iter().all(is_digit);
    valid.then_some((digits, fraction.len() as i64, exponent))
}

/// An exponent, cut to a range that is far beyond what a number can have.
fn exponent_of(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |value: i64, digit: &u8| (value * 10 + i64::from(digit - b'0')).min(1_000_000);
    let value = digits.iter().fold(0, add);
    Some(if negative { -value } else { value })
}

/// Rounds `number * 2^exponent`, and a little more if `lost`, to a mantissa. None if that is out of
/// range. The number is not zero, and longer than a mantissa where something was lost.
fn round(negative: bool, number: &[u32], exponent: i64, lost: bool) -> Option<Extended> {
    let top = number.iter().rposition(|&limb| limb != 0);
    let Some(top) = top else { return Some(Extended::ZERO) };
    let len = 32 * (top as i64 + 1) - i64::from(number[top].leading_zeros());
    let bit = |at: i64| at >= 0 && number[(at / 32) as usize] >> (at % 32) & 1 == 1;
    let mantissa = (1..=64).fold(0, |mantissa, i| mantissa << 1 | u64::from(bit(len - i)));
    let half = bit(len - 65);
    let below = lost || (0..len - 65).any(bit);
    let up = half && (below || mantissa & 1 == 1);
    let (mantissa, exponent) = match mantissa.checked_add(up.into()) {
        Some(mantissa) => (mantissa, exponent + len - 64),
        None => (1 << 63, exponent + len - 63),
    };
    let power = exponent + 63;
    let in_range = (MIN_POWER..MAX_POWER).contains(&power);
    in_range.then_some(Extended { negative, mantissa, exponent: exponent as i32 })
}

impl std::fmt::Display for Extended {
    /// Without an exponent, to 17 digits behind the point, without zeros at the end.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, fraction) = match u32::try_from(self.exponent) {
            Ok(exponent) => (digits_of(self.mantissa, exponent), 0),
            Err(_) => {
                let (whole, fraction) = fixed_point(self.mantissa, self.exponent.unsigned_abs());
                (whole.to_string(), fraction)
            }
        };
        let fraction = format!("{fraction:0width$}", width = FRACTION_DIGITS as usize);
        let fraction = fraction.trim_end_matches('0');
        let zero = whole == "0" && fraction.is_empty();
        f.write_str(if self.negative && !zero { "-" } else { "" })?;
        f.write_str(&whole)?;
        if fraction.is_empty() { Ok(()) } else { write!(f, ".{fraction}") }
    }
}

/// `mantissa / 2^shift`, rounded: what stands before the point, and the digits behind it.
fn fixed_point(mantissa: u64, shift: u32) -> (u128, u128) {
    let unit = 10_u128.pow(FRACTION_DIGITS);
    let scaled = u128::from(mantissa) * unit;
    let Some(quotient) = scaled.checked_shr(shift) else { return (0, 0) };
    let rest = scaled - (quotient << shift);
    let half = 1_u128 << (shift - 1);
    let up = rest > half || (rest == half && quotient & 1 == 1);
    let rounded = quotient + u128::from(up);
    (rounded / unit, rounded % unit)
}

/// The decimal digits of `mantissa * 2^exponent`.
fn digits_of(mantissa: u64, exponent: u32) -> String {
    let shifted = u128::from(mantissa) << (exponent % 32);
    let mut number = vec![0; (exponent / 32) as usize];
    number.extend([shifted as u32, (shifted >> 32) as u32, (shifted >> 64) as u32]);
    let mut groups = Vec::new();
    while number.iter().any(|&limb| limb != 0) {
        groups.push(divide(&mut number, BILLION));
    }
    let Some(first) = groups.pop() else { return "0".into() };
    let rest = groups.iter().rev().map(|group| format!("{group:09}"));
    std::iter::once(first.to_string()).chain(rest).collect()
}

/// `number = number * factor + summand`; the lowest limb is first, zero has none.
fn multiply_add(number: &mut Vec<u32>, factor: u32, summand: u32) {
    let mut carry = u64::from(summand);
    for limb in number.iter_mut() {
        carry += u64::from(*limb) * u64::from(factor);
        *limb = carry as u32;
        carry >>= 32;
    }
    if carry != 0 {
        number.push(carry as u32);
    }
}

/// `number = number / divisor`; what is left over.
fn divide(number: &mut [u32], divisor: u32) -> u32 {
    let mut rest = 0;
    for limb in number.iter_mut().rev() {
        let part = rest << 32 | u64::from(*limb);
        *limb = (part / u64::from(divisor)) as u32;
        rest = part % u64::from(divisor);
    }
    rest as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Extended {
        match parse(text.as_bytes()) {
            Some(Parsed::Finite(number)) => number,
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn numbers_are_written_as_redis_writes_them() {
        for (text, written) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("1", "1"),
            ("3.0e3", "3000"),
            ("10.50", "10.5"),
            ("-1.25", "-1.25"),
            (".5", "0.5"),
            ("5.", "5"),
            ("0x1p3", "8"),
            ("0x.8", "0.5"),
            ("1e-17", "0.00000000000000001"),
            ("1e-18", "0"),
            ("-1e-18", "0"),
            ("18446744073709551616", "18446744073709551616"),
            ("1e30", "1000000000000000000024696061952"),
            ("0.1", "0.1"),
        ] {
            assert_eq!(number(text).to_string(), written, "{text}");
        }
    }

    #[test]
    fn sums_are_rounded_once() {
        for (a, b, sum) in [
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0.1", "0.2", "0.3"),
            ("1", "-1", "0"),
            ("-0.5", "0.25", "-0.25"),
            ("1e30", "1", "1000000000000000000024696061952"),
            ("17179869184", "1.5", "17179869185.5"),
        ] {
            assert_eq!(number(a).plus(number(b)).unwrap().to_string(), sum, "{a} + {b}");
            assert_eq!(number(b).plus(number(a)).unwrap().to_string(), sum, "{b} + {a}");
        }
        assert_eq!(number("1e4932").plus(number("1e4932")), None);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in
            ["", "-", ".", "1e", "1e+", "1 ", " 1", "1,5", "nan", "0x", "1e5000", "1e-5000", "--1"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(b"-inf"), Some(Parsed::Infinite));
        assert_eq!(parse(b"Infinity"), Some(Parsed::Infinite));
    }
}
