//! Replies for people, in the form that redis-cli has made familiar.
//!
//! ```text
//! OK                    (integer) 3         "a\nb"          (nil)
//! 1) "a"                1# "key" => "v"     (empty array)   (true)
//! 2) 1) "nested"
//! ```

use kvs::protocol::Value;

use super::shared::quoted;

/// The answer to a command, without a last line end: a text as it is, anything else in its form.
pub fn answer(words: &[impl AsRef<[u8]>], reply: &Value) -> Vec<u8> {
    let word =
        |i: usize| words.get(i).map_or(Vec::new(), |word| word.as_ref().to_ascii_lowercase());
    match (&word(0)[..], &word(1)[..], reply) {
        (b"info" | b"lolwut", _, Value::Bulk(text))
        | (b"client", b"list" | b"info", Value::Bulk(text))
        | (b"memory", b"doctor" | b"malloc-stats", Value::Bulk(text))
        | (b"latency", b"doctor" | b"graph", Value::Bulk(text)) => text.trim_ascii_end().to_vec(),
        (b"help", _, Value::Array(lines)) => {
            let text = |line: &Value| match line {
                Value::Simple(text) => text.as_bytes().to_vec(),
                other => show(other),
            };
            lines.iter().map(text).collect::<Vec<_>>().join(&b'\n')
        }
        _ => show(reply),
    }
}

/// The text of a reply, without a last line end.
fn show(reply: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    append(reply, 0, &mut out);
    out
}

/// Appends a reply whose lines but the first are to be indented so far.
fn append(reply: &Value, indent: usize, out: &mut Vec<u8>) {
    match reply {
        Value::Simple(text) => out.extend_from_slice(text.as_bytes()),
        Value::Error(text) => out.extend_from_slice(format!("(error) {text}").as_bytes()),
        Value::Integer(value) => out.extend_from_slice(format!("(integer) {value}").as_bytes()),
        Value::Double(value) => out.extend_from_slice(format!("(double) {value}").as_bytes()),
        Value::BigNumber(digits) => out.extend_from_slice(digits.as_bytes()),
        Value::Boolean(value) => out.extend_from_slice(format!("({value})").as_bytes()),
        Value::Null => out.extend_from_slice(b"(nil)"),
        Value::Bulk(bytes) => out.extend_from_slice(quoted(bytes).as_bytes()),
        Value::Verbatim { text, .. } => out.extend_from_slice(text),
        Value::Array(parts) => list("array", ')', parts, indent, out),
        Value::Push(parts) => list("push", ')', parts, indent, out),
        Value::Set(parts) => list("set", '~', parts, indent, out),
        Value::Map(pairs) => map(pairs, indent, out),
    }
}

fn list(name: &str, mark: char, parts: &[Value], indent: usize, out: &mut Vec<u8>) {
    if parts.is_empty() {
        out.extend_from_slice(format!("(empty {name})").as_bytes());
    }
    for (i, part) in parts.iter().enumerate() {
        let indent = begin_item(i, parts.len(), mark, indent, out);
        append(part, indent, out);
    }
}

fn map(pairs: &[(Value, Value)], indent: usize, out: &mut Vec<u8>) {
    if pairs.is_empty() {
        out.extend_from_slice(b"(empty hash)");
    }
    for (i, (key, value)) in pairs.iter().enumerate() {
        let indent = begin_item(i, pairs.len(), '#', indent, out);
        append(key, indent, out);
        out.extend_from_slice(b" => ");
        append(value, indent, out);
    }
}

/// Appends an item's number, on a line of its own but for the first one; the item's indent.
fn begin_item(index: usize, count: usize, mark: char, indent: usize, out: &mut Vec<u8>) -> usize {
    let digits = count.to_string().len();
    if index > 0 {
        out.push(b'\n');
        out.resize(out.len() + indent, b' ');
    }
    out.extend_from_slice(format!("{:>digits$}{mark} ", index + 1).as_bytes());
    indent + digits + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.into())
    }

    #[test]
    fn replies_look_as_in_redis_cli() {
        for (reply, text) in [
            (Value::Simple("OK".into()), "OK"),
            (Value::Integer(-3), "(integer) -3"),
            (bulk("é \"\\\n\r\t\0\u{7f}"), r#""é \"\\\n\r\t\x00\x7f""#),
            (Value::Bulk(b"a\xff\xc3".into()), r#""a\xff\xc3""#),
            (Value::Null, "(nil)"),
            (Value::Boolean(true), "(true)"),
            (Value::Double(1.5), "(double) 1.5"),
            (Value::Verbatim { format: *b"txt", text: b"a\nb".into() }, "a\nb"),
            (Value::Array(vec![]), "(empty array)"),
            (
                Value::Array(vec![
                    Value::Error("ERR x".into()),
                    Value::Array(vec![bulk("a"), bulk("b")]),
                ]),
                "1) (error) ERR x\n2) 1) \"a\"\n   2) \"b\"",
            ),
            (
                Value::Map(vec![(bulk("k"), Value::Set(vec![Value::Integer(1), Value::Null]))]),
                "1# \"k\" => 1~ (integer) 1\n   2~ (nil)",
            ),
        ] {
            assert_eq!(String::from_utf8_lossy(&show(&reply)), text);
        }
        let ten = show(&Value::Array(vec![Value::Null; 10]));
        assert!(ten.starts_with(b" 1) (nil)\n 2) ") && ten.ends_with(b"\n10) (nil)"));
    }
}
