//! Patterns for names, with the meaning that Redis gives them:
//!
//! - `*` any bytes, `?` any one byte, `\x` the byte `x`;
//! - `[abc]` one of these, `[a-z]` one of a range, either way round, `[^abc]` one of the others;
//!   `\` takes the next byte as it is. A class that is not closed ends with the pattern.
//!
//! To the empty name only the empty pattern and `*` fit, `**` does not.
//!
//! Matching takes at most the product of the two lengths: each byte is tried against the part
//! behind the last `*` only, since an earlier `*` can give way no further than a later one.

/// Whether `name` matches `pattern`.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    run(pattern, name, |byte| byte)
}

/// Whether `name` matches `pattern`, capitals and small letters being the same.
pub fn matches_nocase(pattern: &[u8], name: &[u8]) -> bool {
    run(pattern, name, |byte| byte.to_ascii_lowercase())
}

/// The bytes that everything that matches `pattern` starts with.
pub(super) fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    &pattern[..pattern.iter().position(special).unwrap_or(pattern.len())]
}

fn run(pattern: &[u8], name: &[u8], fold: impl Fn(u8) -> u8) -> bool {
    if name.is_empty() {
        return matches!(pattern, b"" | b"*");
    }
    let (mut at, mut here) = (0, 0);
    // Where the pattern goes on behind the last `*`, and where in the name that was tried.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(&byte) = name.get(here) {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            retry = Some((at, here));
            continue;
        }
        match one(&pattern[at..], byte, &fold) {
            Some(len) => {
                at += len;
                here += 1;
            }
            None => {
                let Some((behind_star, tried)) = retry else { return false };
                at = behind_star;
                here = tried + 1;
                retry = Some((at, here));
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Matches one byte against the first element of `pattern`, which is no `*`: the element's length.
fn one(pattern: &[u8], byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ref class @ ..] => self::class(class, byte, fold).map(|len| 1 + len),
        [b'\\', literal, ..] => (fold(literal) == fold(byte)).then_some(2),
        [literal, ..] => (fold(literal) == fold(byte)).then_some(1),
    }
}

/// Matches one byte against the class whose `[` stood before `class`: the length of its rest.
fn class(class: &[u8], byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    let len = loop {
        match class[at..] {
            // An escaped byte is compared as it is, even if capitals and small letters are the same.
            [b'\\', literal, ..] => {
                found |= literal == byte;
                at += 2;
            }
            [b']', ..] => break at + 1,
            [] => break at,
            [low, b'-', high, ..] => {
                found |= in_range(fold(low), fold(high), fold(byte));
                at += 3;
            }
            [literal, ..] => {
                found |= fold(literal) == fold(byte);
                at += 1;
            }
        }
    };
    (found != negated).then_some(len)
}

/// Whether `byte` lies between two bytes. The ends are signed, as C's `char` is.
fn in_range(low: u8, high: u8, byte: u8) -> bool {
    let (low, high, byte) = (low as i8, high as i8, byte as i8);
    (low.min(high)..=low.max(high)).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_redis() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("*", "", true),
            ("**", "abc", true),
            ("**", "", false),
            ("a*", "abc", true),
            ("a*c", "abcbc", true),
            ("a*c*d", "abcbc", false),
            ("*b*d", "abcbcd", true),
            ("a?c", "abc", true),
            ("a?", "a", false),
            ("?*", "", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[abc]", "c", true),
            ("[a\\]]", "]", true),
            ("[]", "]", false),
            ("[]a", "a", false),
            ("[^]a", "xa", true),
            ("[abc", "c", true),
            ("[a-", "-", true),
            ("[a-]", "-", false),
            ("[", "a", false),
            ("[^", "a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("\\", "\\", true),
            ("a\\", "a\\", true),
            ("x*[", "xyz", false),
            ("Abc", "abc", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn case_may_not_matter() {
        assert!(matches_nocase(b"MAX*[A-C]", b"maxmemoryb"));
        assert!(!matches_nocase(b"MAX*[\\B]", b"maxmemoryb"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(1000) + "b";
        let name = "a".repeat(5000);
        assert!(!matches(pattern.as_bytes(), name.as_bytes()));
    }

    #[test]
    fn the_prefix_ends_at_the_first_special_byte() {
        for (pattern, prefix) in [("user:*", "user:"), ("a?b", "a"), ("[a]", ""), ("ab", "ab")] {
            assert_eq!(literal_prefix(pattern.as_bytes()), prefix.as_bytes());
        }
    }
}
