//! Bytes as text for people.

use std::fmt::Write as _;

/// A string in quotes, with what no terminal should get in escapes.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                _ if character.is_control() => {
                    let mut bytes = [0; 4];
                    escape(character.encode_utf8(&mut bytes).as_bytes(), &mut text);
                }
                _ => text.push(character),
            }
        }
        escape(chunk.invalid(), &mut text);
    }
    text.push('"');
    text
}

fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        // Writing to memory does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}
