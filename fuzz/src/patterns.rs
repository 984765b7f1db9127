//! Patterns for names, against a matcher that is written down another way.

use kvs::command::{matches, matches_nocase};

/// The longest pattern and name that the slow matcher is given.
const MOST: usize = 14;

/// The first zero byte parts the pattern from the name.
pub fn patterns(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len() / 2);
    let (pattern, name) = data.split_at(at);
    let name = name.get(1..).unwrap_or_default();
    // Of any length: no panic, and no time that grows without bounds.
    let found = matches(pattern, name);
    let found_nocase = matches_nocase(pattern, name);
    if pattern.len() <= MOST && name.len() <= MOST {
        let elements = parse(pattern);
        // The empty name is a case of its own in Redis.
        let expected = match name {
            b"" => matches!(pattern, b"" | b"*"),
            _ => fits(&elements, name),
        };
        assert_eq!(found, expected, "{:?} {:?}", pattern.escape_ascii(), name.escape_ascii());
        assert!(!found || found_nocase || has_range(&elements), "capitals keep it from fitting");
    }
}

enum Element {
    Star,
    Any,
    One(u8),
    Class { negated: bool, bytes: Vec<u8>, ranges: Vec<(i8, i8)> },
}

fn parse(pattern: &[u8]) -> Vec<Element> {
    let (mut rest, mut elements) = (pattern.iter().copied(), Vec::new());
    while let Some(byte) = rest.next() {
        elements.push(match byte {
            b'*' => Element::Star,
            b'?' => Element::Any,
            b'\\' => Element::One(rest.next().unwrap_or(b'\\')),
            b'[' => class(&mut rest),
            byte => Element::One(byte),
        });
    }
    elements
}

fn class(rest: &mut (impl Iterator<Item = u8> + Clone)) -> Element {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    let negated = rest.clone().next() == Some(b'^');
    if negated {
        rest.next();
    }
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        match (byte, ahead.next(), ahead.next()) {
            (b'\\', Some(literal), _) => {
                bytes.push(literal);
                rest.next();
            }
            (b']', ..) => break,
            (low, Some(b'-'), Some(high)) => {
                let (low, high) = (low as i8, high as i8);
                ranges.push((low.min(high), low.max(high)));
                rest.next();
                rest.next();
            }
            (literal, ..) => bytes.push(literal),
        }
    }
    Element::Class { negated, bytes, ranges }
}

/// Tries everything.
fn fits(elements: &[Element], name: &[u8]) -> bool {
    let Some((first, rest)) = elements.split_first() else { return name.is_empty() };
    if let Element::Star = first {
        return (0..=name.len()).any(|skip| fits(rest, &name[skip..]));
    }
    let Some((byte, behind)) = name.split_first() else { return false };
    let fit = match first {
        Element::Star | Element::Any => true,
        Element::One(literal) => literal == byte,
        Element::Class { negated, bytes, ranges } => {
            let within = |(low, high): &(i8, i8)| (*low..=*high).contains(&(*byte as i8));
            (bytes.contains(byte) || ranges.iter().any(within)) != *negated
        }
    };
    fit && fits(rest, behind)
}

fn has_range(elements: &[Element]) -> bool {
    elements.iter().any(|element| matches!(element, Element::Class { .. }))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let pairs = [
        "a*c*d\0abcbcd",
        "[a-c]x\0bx",
        "[^a-c]*\0dx",
        "[a\\]]\0]",
        "[abc\0c",
        "[a-\0-",
        "\\*\0*",
        "*?*?\0abc",
        "**\0",
        "\\\0\\",
        "[]a\0a",
        "a*a*a*a*b\0aaaaaaaaaa",
    ];
    pairs.iter().map(|pair| pair.as_bytes().to_vec()).collect()
}
