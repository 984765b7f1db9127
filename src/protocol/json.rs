//! Requests as JSON lines, for scripts and jq.
//!
//! ```text
//! {"cmd":"set","key":"k","value":"v"}      SET k v
//! {"cmd":"mget","keys":["a","b"],"id":7}   MGET a b, the reply echoes the id
//! {"args":["SET","k",{"base64":"/w=="}]}   SET k <byte 0xff>
//! ```
//!
//! A request's words are `cmd`, `key`, `value`, then the `keys`, then the `args`, as far as they
//! are there. A word is a string, a number (which stands for its text as it was written) or
//! `{"base64": "..."}` for bytes that are no UTF-8. Unknown fields are errors. Replies: `json_reply`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::scan;
use super::words::Words;

/// The `id` of a JSON request: any JSON value, echoed to the letter.
#[derive(Debug, Clone)]
pub struct JsonId(Box<RawValue>);

impl JsonId {
    /// An id from its JSON text.
    #[cfg(test)]
    pub(super) fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text).map(JsonId)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

/// The fields of a line. A field that is there but null is an error, not an absent field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    cmd: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    keys: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    args: Vec<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    id: Option<Box<RawValue>>,
}

/// What can be told from a line whose other fields are wrong.
#[derive(Deserialize)]
struct OnlyId {
    #[serde(default, deserialize_with = "present")]
    id: Option<Box<RawValue>>,
}

/// A word that is no number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text<'a> {
    Utf8(#[serde(borrow)] Cow<'a, str>),
    Bytes(Base64<'a>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64<'a> {
    #[serde(borrow)]
    base64: Cow<'a, str>,
}

pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Adds the words of `line` to `words`; the error is the text for the client. The id comes in
/// either case.
pub(super) fn read_request(line: &[u8], words: &mut Words) -> (Option<JsonId>, Result<(), String>) {
    scan::count(line.len());
    let Ok(text) = std::str::from_utf8(line) else {
        return (None, Err("ERR invalid JSON: the line is not UTF-8".into()));
    };
    match serde_json::from_str::<Line<'_>>(text) {
        Ok(mut fields) => {
            let id = fields.id.take().map(JsonId);
            (id, collect_words(&fields, words))
        }
        Err(error) => {
            let id = serde_json::from_str::<OnlyId>(text).ok().and_then(|only| only.id);
            (id.map(JsonId), Err(format!("ERR invalid JSON: {}", describe(&error))))
        }
    }
}

/// The message without the line number, which is always 1.
pub(super) fn describe(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

fn collect_words(fields: &Line<'_>, words: &mut Words) -> Result<(), String> {
    let single = [("cmd", fields.cmd), ("key", fields.key), ("value", fields.value)];
    for (name, word) in single {
        if let Some(word) = word {
            add_word(word, words).map_err(|what| format!("ERR invalid JSON: \"{name}\" {what}"))?;
        }
    }
    for (name, list) in [("keys", &fields.keys), ("args", &fields.args)] {
        for (i, word) in list.iter().enumerate() {
            add_word(word, words)
                .map_err(|what| format!("ERR invalid JSON: \"{name}\"[{i}] {what}"))?;
        }
    }
    if words.is_empty() {
        return Err("ERR invalid JSON: \"cmd\" or \"args\" must name a command".into());
    }
    if fields.cmd.is_none() && (fields.key.is_some() || fields.value.is_some()) {
        return Err("ERR invalid JSON: \"key\" and \"value\" need a \"cmd\"".into());
    }
    Ok(())
}

/// Adds one word; the error says what the word must be.
fn add_word(word: &RawValue, words: &mut Words) -> Result<(), &'static str> {
    words.rewrite(|out| append_word(word, out))
}

/// Appends the bytes that a word stands for; the error says what the word must be.
pub(super) fn append_word(word: &RawValue, out: &mut Vec<u8>) -> Result<(), &'static str> {
    const KINDS: &str = "must be a string, a number or {\"base64\": \"...\"}";
    let text = word.get();
    match text.as_bytes() {
        [b'-' | b'0'..=b'9', ..] => {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        [b'"' | b'{', ..] => match serde_json::from_str::<Text<'_>>(text) {
            Ok(Text::Utf8(text)) => {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
            Ok(Text::Bytes(bytes)) => BASE64_STANDARD
                .decode_vec(bytes.base64.as_bytes(), out)
                .map_err(|_| "is no valid base64"),
            Err(_) => Err(KINDS),
        },
        _ => Err(KINDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<Vec<u8>>, String> {
        let mut words = Words::default();
        read_request(line.as_bytes(), &mut words)
            .1
            .map(|()| words.args(b"").iter().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn fields_become_words_in_order() {
        let table: &[(&str, &[&[u8]])] = &[
            (r#"{"cmd":"set","key":"k","value":"v"}"#, &[b"set", b"k", b"v"]),
            (r#"{"value":"v","key":"k","cmd":"set"}"#, &[b"set", b"k", b"v"]),
            (r#"{"args":["SET","k","v"]}"#, &[b"SET", b"k", b"v"]),
            (r#"{"cmd":"mget","args":["a","b"]}"#, &[b"mget", b"a", b"b"]),
            (r#"{"cmd":"mget","keys":["a","b"],"args":["c"]}"#, &[b"mget", b"a", b"b", b"c"]),
            (r#" { "cmd" : "ping" } "#, &[b"ping"]),
            (
                r#"{"cmd":"x","args":[1,-2.50,1e3,12345678901234567890123]}"#,
                &[b"x", b"1", b"-2.50", b"1e3", b"12345678901234567890123"],
            ),
            (r#"{"cmd":"get","key":"\u0041\n\"é"}"#, &[b"get", "A\n\"é".as_bytes()]),
            (r#"{"cmd":"get","key":{"base64":"/wA="}}"#, &[b"get", b"\xff\0"]),
            (r#"{"cmd":"get","key":""}"#, &[b"get", b""]),
        ];
        for (line, expected) in table {
            assert_eq!(&read(line).expect(line), expected, "{line}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        for (line, part) in [
            (r#"{"cmd":"get","kye":"k"}"#, "unknown field `kye`"),
            (r#"{"cmd":"get","cmd":"k"}"#, "duplicate field `cmd`"),
            (r#"{"cmd":"get","key":null}"#, "\"key\" must be a string, a number or"),
            (r#"{"cmd":"get","key":true}"#, "\"key\" must be a string, a number or"),
            (r#"{"cmd":"get","args":["a",[]]}"#, "\"args\"[1] must be"),
            (r#"{"cmd":"get","key":{"base65":""}}"#, "\"key\" must be"),
            (r#"{"cmd":"get","key":{"base64":"?"}}"#, "\"key\" is no valid base64"),
            (r#"{"cmd":"get","args":"a"}"#, "expected a sequence"),
            (r#"{"key":"k"}"#, "need a \"cmd\""),
            (r#"{"id":1}"#, "must name a command"),
            (r#"{}"#, "must name a command"),
            (r#"{"cmd":"get""#, "EOF"),
            (r#"{"cmd":"get"} x"#, "trailing characters at column 15"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.starts_with("ERR invalid JSON: "), "{error}");
            assert!(error.contains(part), "{line}: {error}");
        }
        let (_, outcome) = read_request(b"{\"cmd\":\"\xff\"}", &mut Words::default());
        assert!(outcome.is_err_and(|error| error.contains("not UTF-8")));
    }

    #[test]
    fn the_id_is_kept_to_the_letter_even_of_refused_lines() {
        for (line, id) in [
            (r#"{"cmd":"ping","id": {"a": 1.50} }"#, Some(r#"{"a": 1.50}"#)),
            (r#"{"cmd":"ping","id":null}"#, Some("null")),
            (r#"{"cmd":"ping","oops":1,"id":"x"}"#, Some(r#""x""#)),
            (r#"{"cmd":true,"id":3}"#, Some("3")),
            (r#"{"cmd":"ping"}"#, None),
            (r#"{"id":3"#, None),
        ] {
            let (found, _) = read_request(line.as_bytes(), &mut Words::default());
            assert_eq!(found.as_ref().map(JsonId::as_str), id, "{line}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_a_deep_stack() {
        let line = format!("{{\"args\":{}1{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(read(&line).is_err());
    }
}
