//! Keys and values as JSON lines, for dumping and loading.
//!
//! ```text
//! {"key":"k","value":"v"}
//! {"key":"k","value":{"base64":"/w=="}}                  bytes that are no UTF-8
//! {"key":"k","value":"v","expires_at":1893456000000}     milliseconds since 1970
//! {"key":"k","value":"v","database":3}                   left out: 0
//! ```
//!
//! One entry a line, in UTF-8. What is written can be read back to the byte. When reading, a number
//! is taken as its text as it was written, and unknown fields are errors: a typo loses no data.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{append_word, describe, present};
use super::json_reply::write_json_bytes;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonEntry {
    /// The database.
    pub database: u8,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// When it ends, in milliseconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<u64>,
    #[serde(default)]
    database: u8,
}

impl JsonEntry {
    /// Reads a line; a line end is no part of it but does no harm. The error says what is wrong.
    pub fn from_line(line: &[u8]) -> Result<JsonEntry, String> {
        let text =
            std::str::from_utf8(line.trim_ascii_end()).map_err(|_| "the line is not UTF-8")?;
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| describe(&error))?;
        Ok(JsonEntry {
            key: word("key", line.key)?,
            value: word("value", line.value)?,
            expires_at: line.expires_at,
            database: line.database,
        })
    }
}

fn word(name: &str, json: &RawValue) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    append_word(json, &mut bytes).map_err(|what| format!("\"{name}\" {what}"))?;
    Ok(bytes)
}

/// Appends the line of an entry, its line end included.
pub fn write_json_entry(
    database: u8,
    key: &[u8],
    value: &[u8],
    expires_at: Option<u64>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"key\":");
    write_json_bytes(key, out);
    out.extend_from_slice(b",\"value\":");
    write_json_bytes(value, out);
    if let Some(expires_at) = expires_at {
        out.extend_from_slice(b",\"expires_at\":");
        out.extend_from_slice(itoa::Buffer::new().format(expires_at).as_bytes());
    }
    if database != 0 {
        out.extend_from_slice(b",\"database\":");
        out.extend_from_slice(itoa::Buffer::new().format(database).as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &[u8], value: &[u8], expires_at: Option<u64>) -> JsonEntry {
        JsonEntry { database: 0, key: key.into(), value: value.into(), expires_at }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (entry, line) in [
            (entry(b"k", b"v", None), r#"{"key":"k","value":"v"}"#),
            (entry(b"", b"", None), r#"{"key":"","value":""}"#),
            (
                entry("é\n\"".as_bytes(), b"\0", Some(7)),
                r#"{"key":"é\n\"","value":"\u0000","expires_at":7}"#,
            ),
            (
                entry(b"\xff", b"\xff\0", Some(u64::MAX)),
                r#"{"key":{"base64":"/w=="},"value":{"base64":"/wA="},"expires_at":18446744073709551615}"#,
            ),
            (
                JsonEntry { database: 15, ..entry(b"k", b"v", Some(1)) },
                r#"{"key":"k","value":"v","expires_at":1,"database":15}"#,
            ),
        ] {
            let mut out = Vec::new();
            let (key, value) = (&entry.key, &entry.value);
            write_json_entry(entry.database, key, value, entry.expires_at, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("{line}\n"));
            assert_eq!(JsonEntry::from_line(&out), Ok(entry));
        }
    }

    #[test]
    fn other_programs_lines_are_read() {
        for (line, expected) in [
            (r#" { "value" : 1.50, "key" : 007e } "#, None),
            (r#" { "value" : 1.50, "key" : -7 } "#, Some(entry(b"-7", b"1.50", None))),
            ("{\"key\":\"\\u0041\",\"value\":\"\"}\r\n", Some(entry(b"A", b"", None))),
        ] {
            assert_eq!(JsonEntry::from_line(line.as_bytes()).ok(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, part) in [
            (r#"{"key":"k"}"#, "missing field `value` at column 11"),
            (r#"{"key":"k","value":"v","ttl":1}"#, "unknown field `ttl`"),
            (r#"{"key":"k","key":"k","value":"v"}"#, "duplicate field `key`"),
            (r#"{"key":"k","value":null}"#, "\"value\" must be a string, a number or"),
            (r#"{"key":["k"],"value":"v"}"#, "\"key\" must be a string, a number or"),
            (r#"{"key":"k","value":{"base64":"?"}}"#, "\"value\" is no valid base64"),
            (r#"{"key":"k","value":"v","expires_at":-1}"#, "-1"),
            (r#"{"key":"k","value":"v","expires_at":null}"#, "null"),
            (r#"{"key":"k","value":"v","database":256}"#, "256"),
            (r#"{"key":"k","value":"v"} {}"#, "trailing characters"),
            ("{\"key\":\"k\"\r\n", "EOF while parsing an object at column 10"),
            ("k v", "expected value at column 1"),
            ("", "EOF"),
        ] {
            let error = JsonEntry::from_line(line.as_bytes()).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
        let error = JsonEntry::from_line(b"{\"key\":\"\xff\"}").unwrap_err();
        assert_eq!(error, "the line is not UTF-8");
    }
}
