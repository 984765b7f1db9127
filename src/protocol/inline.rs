//! Inline requests: one line of text, split into words as Redis's `sdssplitargs` does.
//!
//! - Words are parted by space, tab, CR or LF; vertical tab and form feed only count as space
//!   between words, not inside one.
//! - `"..."` knows the escapes `\n \r \t \b \a \xHH`; any other `\c` stands for `c`.
//! - `'...'` knows only `\'`.
//! - A quote may open in the middle of a word (`a"b c"` is one word), but what follows a closing
//!   quote must be space or the line's end. Anything else is unbalanced.
//!
//! One difference: Redis stops at a NUL byte; here it is a byte like any other.

use super::scan;
use super::words::Words;

/// The line has a quote that is not closed, or one that closes in the middle of a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Adds the words of `line` (without its line end), which starts the request.
pub(super) fn split(line: &[u8], words: &mut Words) -> Result<(), Unbalanced> {
    scan::count(line.len());
    if memchr::memchr2(b'"', b'\'', line).is_none() {
        split_plain(line, words);
        return Ok(());
    }
    let mut rest = line.trim_ascii_start_c();
    while !rest.is_empty() {
        rest = words.rewrite(|word| unquote(rest, word))?.trim_ascii_start_c();
    }
    Ok(())
}

/// The words of a line that a person types; `None` if its quotes are not balanced.
pub fn split_line(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Words::default();
    split(line, &mut words).ok()?;
    Some(words.args(line).iter().map(<[u8]>::to_vec).collect())
}

/// Words without quotes stay where they are.
fn split_plain(line: &[u8], words: &mut Words) {
    let mut rest = line.trim_ascii_start_c();
    while !rest.is_empty() {
        let len = rest.iter().position(|&b| ends_word(b)).unwrap_or(rest.len());
        words.push(line.len() - rest.len(), len);
        rest = rest.get(len..).unwrap_or_default().trim_ascii_start_c();
    }
}

/// Writes the first word of `rest`, unquoted, to `word` and returns what follows it.
fn unquote<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] => return Ok(rest),
            [b, ..] if ends_word(*b) => return Ok(rest),
            [b'"', quoted @ ..] => return after_quote(double_quoted(quoted, word)?),
            [b'\'', quoted @ ..] => return after_quote(single_quoted(quoted, word)?),
            [b, tail @ ..] => {
                word.push(*b);
                rest = tail;
            }
        }
    }
}

/// What follows a closing quote must not be part of the word.
fn after_quote(rest: &[u8]) -> Result<&[u8], Unbalanced> {
    match rest.first() {
        Some(b) if !is_space(*b) => Err(Unbalanced),
        _ => Ok(rest),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        let (byte, tail) = match rest {
            [] => return Err(Unbalanced),
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), tail)
            }
            [b'\\', escaped, tail @ ..] => (unescape(*escaped), tail),
            [b, tail @ ..] => (*b, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        let (byte, tail) = match rest {
            [] => return Err(Unbalanced),
            [b'\'', tail @ ..] => return Ok(tail),
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [b, tail @ ..] => (*b, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// What C's `isspace` says in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Trimming by C's idea of space, which has the vertical tab that Rust's lacks.
trait TrimStart {
    fn trim_ascii_start_c(&self) -> &Self;
}

impl TrimStart for [u8] {
    fn trim_ascii_start_c(&self) -> &[u8] {
        let start = self.iter().position(|&b| !is_space(b)).unwrap_or(self.len());
        self.get(start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines and what redis-server 7.0.15 made of them.
    #[test]
    fn lines_split_as_redis_splits_them() {
        let table: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t\x0b\x0c\r ", &[]),
            (b"get k", &[b"get", b"k"]),
            (b"  get \t k  ", &[b"get", b"k"]),
            (b"echo a\x0bb", &[b"echo", b"a\x0bb"]),
            (b"echo \x0bb", &[b"echo", b"b"]),
            (b"echo a\rb", &[b"echo", b"a", b"b"]),
            (b"echo \"\"", &[b"echo", b""]),
            (b"echo ''", &[b"echo", b""]),
            (b"echo \"a b\"", &[b"echo", b"a b"]),
            (b"echo \"a\\x41\\n\\r\\t\\b\\a\"", &[b"echo", b"aA\n\r\t\x08\x07"]),
            (b"echo \"\\xfF\\x0\"", &[b"echo", b"\xffx0"]),
            (b"echo \"\\xZZ\"", &[b"echo", b"xZZ"]),
            (b"echo \"\\\"\\\\\\q\"", &[b"echo", b"\"\\q"]),
            (b"echo 'a\\'b\\n'", &[b"echo", b"a'b\\n"]),
            (b"echo a\"b c\"", &[b"echo", b"ab c"]),
            (b"echo a\\nb", &[b"echo", b"a\\nb"]),
            (b"echo \"a\"\x0bb", &[b"echo", b"a", b"b"]),
            (b"echo a\0b", &[b"echo", b"a\0b"]),
            (b"'echo' x", &[b"echo", b"x"]),
        ];
        for (line, expected) in table {
            let found = split_line(line).unwrap_or_else(|| panic!("{} fails", line.escape_ascii()));
            assert_eq!(&found, expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in
            [&b"a \""[..], b"a '", b"\"a\"b", b"'a'b", b"'a''b'", b"\"a\\\"", b"'a\\'", b"\"\\"]
        {
            assert_eq!(split_line(line), None, "{}", line.escape_ascii());
        }
    }
}
