//! A RESP reply rewritten as one JSON line, for requests that came as JSON lines.
//!
//! ```text
//! +OK            {"ok":true}                 $1 v        {"ok":true,"value":"v"}
//! -ERR no        {"ok":false,"error":"ERR no"}   %1 k v  {"ok":true,"value":{"k":"v"}}
//! $-1, *-1, _    {"ok":true,"value":null}    >2 a b      {"push":["a","b"]}
//! ```
//!
//! Byte strings that are no UTF-8 become `{"base64":"..."}`, infinite doubles and NaN strings,
//! errors inside of arrays `{"error":"..."}`, and maps arrays of pairs unless every key is a
//! string. A request's `id` is the last field. A command that answers a JSON request should write
//! RESP3, which tells maps, nulls and doubles apart from arrays and strings.

use std::io::Write as _;

use base64::display::Base64Display;
use base64::prelude::BASE64_STANDARD;

use super::JsonId;
use super::reply_decoder::MAX_DEPTH;
use super::resp::{self, Aggregate, BadReply, Token};

/// Appends the first reply in `reply`, RESP2 or RESP3, as one JSON line; its length in `reply`.
/// On an error, which means that `reply` holds no complete reply, nothing is appended.
pub fn write_json_reply(
    reply: &[u8],
    id: Option<&JsonId>,
    out: &mut Vec<u8>,
) -> Result<usize, BadReply> {
    let start = out.len();
    let mut transcoder = Transcoder { rest: reply, out };
    let outcome = transcoder.line(id);
    let left = transcoder.rest.len();
    if outcome.is_err() {
        out.truncate(start);
    }
    outcome.map(|()| reply.len() - left)
}

/// Appends the JSON line that answers a request with the error text `error`.
pub fn write_json_error(error: &str, id: Option<&JsonId>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ok\":false,\"error\":");
    string(error, out);
    end_line(id, out);
}

struct Transcoder<'a, 'o> {
    /// What is still to be read.
    rest: &'a [u8],
    out: &'o mut Vec<u8>,
}

impl<'a> Transcoder<'a, '_> {
    fn line(&mut self, id: Option<&JsonId>) -> Result<(), BadReply> {
        let token = self.token()?;
        match token {
            Token::Simple(b"OK") => self.out.extend_from_slice(b"{\"ok\":true"),
            Token::Error(text) => {
                write_json_error(&String::from_utf8_lossy(text), id, self.out);
                return Ok(());
            }
            Token::Open(Aggregate::Push, _) => {
                self.out.extend_from_slice(b"{\"push\":");
                self.value(token, 0)?;
            }
            token => {
                self.out.extend_from_slice(b"{\"ok\":true,\"value\":");
                self.value(token, 0)?;
            }
        }
        end_line(id, self.out);
        Ok(())
    }

    /// The next token that is no attribute.
    fn token(&mut self) -> Result<Token<'a>, BadReply> {
        loop {
            let (token, len) =
                resp::token(self.rest, &mut 0)?.ok_or(BadReply("it is not complete"))?;
            self.rest = self.rest.get(len..).unwrap_or_default();
            match token {
                Token::Open(Aggregate::Attribute, parts) => self.skip(parts)?,
                token => return Ok(token),
            }
        }
    }

    /// Reads over `replies` replies.
    fn skip(&mut self, replies: usize) -> Result<(), BadReply> {
        let mut left = replies;
        while left > 0 {
            let (token, len) =
                resp::token(self.rest, &mut 0)?.ok_or(BadReply("it is not complete"))?;
            self.rest = self.rest.get(len..).unwrap_or_default();
            left = match token {
                Token::Open(Aggregate::Attribute, parts) => left.saturating_add(parts),
                Token::Open(_, parts) => (left - 1).saturating_add(parts),
                _ => left - 1,
            };
        }
        Ok(())
    }

    /// Writes the value that starts with `token`.
    fn value(&mut self, token: Token<'a>, depth: usize) -> Result<(), BadReply> {
        match token {
            Token::Simple(text) => string(&String::from_utf8_lossy(text), self.out),
            Token::Error(text) => {
                self.out.extend_from_slice(b"{\"error\":");
                string(&String::from_utf8_lossy(text), self.out);
                self.out.push(b'}');
            }
            Token::Integer(value) => {
                self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            }
            Token::Bulk(bytes) | Token::Verbatim(_, bytes) => write_json_bytes(bytes, self.out),
            Token::Null => self.out.extend_from_slice(b"null"),
            Token::Double(value) => double(value, self.out),
            Token::Boolean(value) => {
                self.out.extend_from_slice(if value { b"true" } else { b"false" });
            }
            Token::BigNumber(text) => big_number(text, self.out),
            Token::Open(..) if depth == MAX_DEPTH => {
                return Err(BadReply("it is nested too deeply"));
            }
            Token::Open(Aggregate::Map, parts) => self.map(parts / 2, depth + 1)?,
            Token::Open(_, parts) => self.list(parts, depth + 1)?,
        }
        Ok(())
    }

    fn list(&mut self, parts: usize, depth: usize) -> Result<(), BadReply> {
        self.out.push(b'[');
        for i in 0..parts {
            self.comma(i);
            let token = self.token()?;
            self.value(token, depth)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, pairs: usize, depth: usize) -> Result<(), BadReply> {
        let is_object = self.keys_are_strings(pairs)?;
        self.out.push(if is_object { b'{' } else { b'[' });
        for i in 0..pairs {
            self.comma(i);
            if is_object {
                let key = self.token()?;
                self.value(key, depth)?;
                self.out.push(b':');
                let value = self.token()?;
                self.value(value, depth)?;
            } else {
                self.list(2, depth)?;
            }
        }
        self.out.push(if is_object { b'}' } else { b']' });
        Ok(())
    }

    /// Whether the next `pairs` pairs of replies have keys that can be keys of a JSON object.
    fn keys_are_strings(&self, pairs: usize) -> Result<bool, BadReply> {
        let mut ahead = Transcoder { rest: self.rest, out: &mut Vec::new() };
        for _ in 0..pairs {
            match ahead.token()? {
                Token::Simple(_) => {}
                Token::Bulk(key) if std::str::from_utf8(key).is_ok() => {}
                _ => return Ok(false),
            }
            ahead.skip(1)?;
        }
        Ok(true)
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.out.push(b',');
        }
    }
}

fn end_line(id: Option<&JsonId>, out: &mut Vec<u8>) {
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(id.as_str().as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

fn string(text: &str, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "a string that cannot be written to memory");
}

/// Appends bytes as a JSON string, or as `{"base64":"..."}` where they are no UTF-8.
pub fn write_json_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => string(text, out),
        Err(_) => {
            let written =
                write!(out, "{{\"base64\":\"{}\"}}", Base64Display::new(bytes, &BASE64_STANDARD));
            debug_assert!(written.is_ok(), "memory that cannot be written to");
        }
    }
}

fn double(value: f64, out: &mut Vec<u8>) {
    let name = match value {
        f64::INFINITY => "inf",
        f64::NEG_INFINITY => "-inf",
        value if value.is_nan() => "nan",
        value => {
            let written = serde_json::to_writer(out, &value);
            debug_assert!(written.is_ok(), "a number that cannot be written to memory");
            return;
        }
    };
    string(name, out);
}

/// A number if that is what it is, else a string.
fn big_number(text: &[u8], out: &mut Vec<u8>) {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
            out.extend_from_slice(text);
        }
        b"0" => out.extend_from_slice(text),
        _ => string(&String::from_utf8_lossy(text), out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(reply: &[u8]) -> String {
        let mut out = Vec::new();
        let len = write_json_reply(reply, None, &mut out).unwrap();
        assert_eq!(len, reply.len(), "{}", reply.escape_ascii());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_become_json_lines() {
        let table: &[(&[u8], &str)] = &[
            (b"+OK\r\n", r#"{"ok":true}"#),
            (b"+PONG\r\n", r#"{"ok":true,"value":"PONG"}"#),
            (b"-ERR \"no\"\r\n", r#"{"ok":false,"error":"ERR \"no\""}"#),
            (b":-12\r\n", r#"{"ok":true,"value":-12}"#),
            (b"$3\r\na\n\"\r\n", r#"{"ok":true,"value":"a\n\""}"#),
            (b"$2\r\n\xff\0\r\n", r#"{"ok":true,"value":{"base64":"/wA="}}"#),
            (b"$-1\r\n", r#"{"ok":true,"value":null}"#),
            (b"*-1\r\n", r#"{"ok":true,"value":null}"#),
            (b"_\r\n", r#"{"ok":true,"value":null}"#),
            (b",1.5\r\n", r#"{"ok":true,"value":1.5}"#),
            (b",inf\r\n", r#"{"ok":true,"value":"inf"}"#),
            (b",nan\r\n", r#"{"ok":true,"value":"nan"}"#),
            (b"#f\r\n", r#"{"ok":true,"value":false}"#),
            (b"(123456789012345678901234\r\n", r#"{"ok":true,"value":123456789012345678901234}"#),
            (b"(0x\r\n", r#"{"ok":true,"value":"0x"}"#),
            (b"=6\r\ntxt:hi\r\n", r#"{"ok":true,"value":"hi"}"#),
            (b"*0\r\n", r#"{"ok":true,"value":[]}"#),
            (
                b"*3\r\n+OK\r\n-ERR x\r\n~1\r\n_\r\n",
                r#"{"ok":true,"value":["OK",{"error":"ERR x"},[null]]}"#,
            ),
            (b"%2\r\n$1\r\na\r\n:1\r\n+b\r\n%0\r\n", r#"{"ok":true,"value":{"a":1,"b":{}}}"#),
            (
                b"%2\r\n$1\r\na\r\n*1\r\n:1\r\n:2\r\n:3\r\n",
                r#"{"ok":true,"value":[["a",[1]],[2,3]]}"#,
            ),
            (b"%1\r\n$1\r\n\xff\r\n:1\r\n", r#"{"ok":true,"value":[[{"base64":"/w=="},1]]}"#),
            (b">2\r\n+a\r\n:1\r\n", r#"{"push":["a",1]}"#),
            (b"|1\r\n+ttl\r\n*1\r\n:9\r\n:1\r\n", r#"{"ok":true,"value":1}"#),
        ];
        for (reply, line) in table {
            assert_eq!(rewritten(reply), format!("{line}\n"));
        }
    }

    #[test]
    fn the_id_comes_last() {
        let id: JsonId = JsonId::from_json(r#"{"a": [1.0]}"#).unwrap();
        let mut out = Vec::new();
        write_json_reply(b"+OK\r\n:1\r\n", Some(&id), &mut out).unwrap();
        write_json_reply(b"-ERR x\r\n", Some(&id), &mut out).unwrap();
        write_json_error("ERR y", Some(&id), &mut out);
        let text = String::from_utf8(out).unwrap();
        let expected = [
            r#"{"ok":true,"id":{"a": [1.0]}}"#,
            r#"{"ok":false,"error":"ERR x","id":{"a": [1.0]}}"#,
            r#"{"ok":false,"error":"ERR y","id":{"a": [1.0]}}"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn incomplete_and_deep_replies_leave_no_trace() {
        let deep = "*1\r\n".repeat(MAX_DEPTH + 1) + ":1\r\n";
        for reply in ["", "+O", "*2\r\n:1\r\n", "$3\r\nab", "%1\r\n:1\r\n", "x\r\n", &deep] {
            let mut out = b"before".to_vec();
            assert!(write_json_reply(reply.as_bytes(), None, &mut out).is_err(), "{reply:?}");
            assert_eq!(out, b"before");
        }
    }
}
