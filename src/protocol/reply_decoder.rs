//! From the bytes of a server to [`Value`]s.
//!
//! Always holds: what has been read of an unfinished reply is kept, so no byte is parsed twice and
//! the caller may drop what was consumed; memory grows with what arrives, never with what is
//! announced; nesting is limited, so nothing here or in dropping a [`Value`] recurses deeply.

use super::resp::{self, Aggregate, BadReply, Token, Value};

/// Replies nest no deeper: far more than any command's reply does.
pub(super) const MAX_DEPTH: usize = 128;

/// Reads the replies of one connection.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    open: Vec<Open>,
    scanned: usize,
}

/// A reply some of whose parts are still to come.
#[derive(Debug)]
struct Open {
    kind: Aggregate,
    left: usize,
    parts: Vec<Value>,
}

impl ReplyDecoder {
    /// A decoder at the start of a connection.
    pub fn new() -> Self {
        ReplyDecoder::default()
    }

    /// Reads on in `input`: how many bytes of it were consumed, and the next reply if it is
    /// complete. The next call's input starts behind what was consumed. After an error the
    /// connection is of no use.
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Option<Value>), BadReply> {
        let mut consumed = 0;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let Some((token, len)) = resp::token(rest, &mut self.scanned)? else {
                return Ok((consumed, None));
            };
            self.scanned = 0;
            consumed += len;
            if let Some(value) = self.take(token)? {
                return Ok((consumed, Some(value)));
            }
        }
    }

    /// How many more bytes the byte string at the start of `input`, which
    /// [`decode`](Self::decode) has left there, needs; 0 if unknown. For sizing reads.
    pub fn needed(&self, input: &[u8]) -> usize {
        resp::blob_needs(input, self.scanned)
    }

    /// Whether no reply has begun.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.scanned == 0
    }

    /// Adds a token to what is open; the reply if that completes it.
    fn take(&mut self, token: Token<'_>) -> Result<Option<Value>, BadReply> {
        if let Token::Open(kind, left) = token {
            if self.open.len() == MAX_DEPTH {
                return Err(BadReply("it is nested too deeply"));
            }
            self.open.push(Open { kind, left, parts: Vec::new() });
            return Ok(self.close(None));
        }
        Ok(self.close(Some(leaf(token))))
    }

    /// Gives `value` to the innermost open reply, and each that is complete to the one around it.
    fn close(&mut self, mut value: Option<Value>) -> Option<Value> {
        loop {
            let Some(innermost) = self.open.last_mut() else { return value };
            if let Some(value) = value.take() {
                innermost.parts.push(value);
                innermost.left = innermost.left.saturating_sub(1);
            }
            if innermost.left > 0 {
                return None;
            }
            value = Some(self.open.pop()?.into_value()?);
        }
    }
}

impl Open {
    /// The complete reply; None for an attribute, which is none.
    fn into_value(self) -> Option<Value> {
        match self.kind {
            Aggregate::Array => Some(Value::Array(self.parts)),
            Aggregate::Set => Some(Value::Set(self.parts)),
            Aggregate::Push => Some(Value::Push(self.parts)),
            Aggregate::Map => Some(Value::Map(pairs(self.parts))),
            Aggregate::Attribute => None,
        }
    }
}

fn pairs(parts: Vec<Value>) -> Vec<(Value, Value)> {
    let mut parts = parts.into_iter();
    std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
}

/// A reply without parts.
fn leaf(token: Token<'_>) -> Value {
    match token {
        Token::Simple(text) => Value::Simple(String::from_utf8_lossy(text).into_owned()),
        Token::Error(text) => Value::Error(String::from_utf8_lossy(text).into_owned()),
        Token::Integer(value) => Value::Integer(value),
        Token::Bulk(bytes) => Value::Bulk(bytes.to_vec()),
        Token::Double(value) => Value::Double(value),
        Token::Boolean(value) => Value::Boolean(value),
        Token::Verbatim(format, text) => Value::Verbatim { format: *format, text: text.to_vec() },
        Token::BigNumber(text) => Value::BigNumber(String::from_utf8_lossy(text).into_owned()),
        Token::Null | Token::Open(..) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8]) -> Result<(usize, Option<Value>), BadReply> {
        ReplyDecoder::new().decode(input)
    }

    fn whole(input: &str) -> Value {
        let (consumed, value) = decode(input.as_bytes()).expect(input);
        assert_eq!(consumed, input.len(), "{input:?}");
        value.expect(input)
    }

    #[test]
    fn every_type_is_read() {
        let bulk = |text: &str| Value::Bulk(text.into());
        for (input, value) in [
            ("+OK\r\n", Value::Simple("OK".into())),
            ("-ERR no\r\n", Value::Error("ERR no".into())),
            ("!5\r\nERR\r\n\r\n", Value::Error("ERR\r\n".into())),
            (":-5\r\n", Value::Integer(-5)),
            (":+5\r\n", Value::Integer(5)),
            ("$2\r\n\r\n\r\n", bulk("\r\n")),
            ("$0\r\n\r\n", bulk("")),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("_\r\n", Value::Null),
            (",1.5e3\r\n", Value::Double(1500.0)),
            (",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
            ("#t\r\n", Value::Boolean(true)),
            ("(123\r\n", Value::BigNumber("123".into())),
            ("=6\r\ntxt:hi\r\n", Value::Verbatim { format: *b"txt", text: b"hi".into() }),
            ("*0\r\n", Value::Array(vec![])),
            ("*2\r\n*0\r\n:1\r\n", Value::Array(vec![Value::Array(vec![]), Value::Integer(1)])),
            (
                "%1\r\n+k\r\n:1\r\n",
                Value::Map(vec![(Value::Simple("k".into()), Value::Integer(1))]),
            ),
            ("~1\r\n:1\r\n", Value::Set(vec![Value::Integer(1)])),
            (">1\r\n:1\r\n", Value::Push(vec![Value::Integer(1)])),
            ("|1\r\n+ttl\r\n:9\r\n:1\r\n", Value::Integer(1)),
            ("*1\r\n|0\r\n|1\r\n+a\r\n*0\r\n:1\r\n", Value::Array(vec![Value::Integer(1)])),
        ] {
            assert_eq!(whole(input), value, "{input:?}");
        }
    }

    #[test]
    fn what_is_no_resp_is_refused() {
        let deep = "*1\r\n".repeat(MAX_DEPTH + 1);
        for input in [
            "OK\r\n",
            "+OK\n",
            "\n",
            "\r\n",
            ":\r\n",
            ":1x\r\n",
            "$-2\r\n",
            "$x\r\n",
            "$1\r\nabc\r\n",
            "*-2\r\n",
            "*9999999999\r\n",
            "%-1\r\n",
            "#x\r\n",
            ",x\r\n",
            "=2\r\nhi\r\n",
            "$?\r\n",
            &deep,
        ] {
            assert!(decode(input.as_bytes()).is_err(), "{input:?}");
        }
        assert_eq!(decode(&deep.as_bytes()[4..]), Ok((deep.len() - 4, None)));
    }

    #[test]
    fn the_missing_part_of_a_byte_string_is_known() {
        let input = b"*1\r\n$1000\r\nabc";
        let mut decoder = ReplyDecoder::new();
        assert!(decoder.is_idle());
        assert_eq!(decoder.decode(input), Ok((4, None)));
        assert!(!decoder.is_idle());
        assert_eq!(decoder.needed(&input[4..]), 1002 - 3);
    }
}
