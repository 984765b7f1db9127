//! As much of RESP as a load generator needs: requests out, and where a reply ends.

/// What a reply was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Fine,
    /// A nil: the key was not there.
    Missing,
    Error,
}

/// The length of a key that [`Requests`] makes.
const KEY: usize = 16;

/// Requests, ready but for the twelve digits of the key.
pub struct Requests {
    set: Vec<u8>,
    get: Vec<u8>,
    /// Where the digits begin.
    set_at: usize,
    get_at: usize,
}

impl Requests {
    pub fn new(value_bytes: usize) -> Requests {
        let mut set = format!("*3\r\n$3\r\nSET\r\n${KEY}\r\nkey:").into_bytes();
        let set_at = set.len();
        set.extend_from_slice(format!("000000000000\r\n${value_bytes}\r\n").as_bytes());
        set.resize(set.len() + value_bytes, b'x');
        set.extend_from_slice(b"\r\n");
        let mut get = format!("*2\r\n$3\r\nGET\r\n${KEY}\r\nkey:").into_bytes();
        let get_at = get.len();
        get.extend_from_slice(b"000000000000\r\n");
        Requests { set, get, set_at, get_at }
    }

    pub fn set(&self, key: u64, out: &mut Vec<u8>) {
        push(&self.set, self.set_at, key, out);
    }

    pub fn get(&self, key: u64, out: &mut Vec<u8>) {
        push(&self.get, self.get_at, key, out);
    }
}

fn push(request: &[u8], digits_at: usize, mut key: u64, out: &mut Vec<u8>) {
    let at = out.len() + digits_at;
    out.extend_from_slice(request);
    for digit in out[at..at + KEY - 4].iter_mut().rev() {
        *digit = b'0' + (key % 10) as u8;
        key /= 10;
    }
}

/// The first reply in `bytes` and its length; `None` while it is not complete. Knows the replies to
/// SET and GET: simple strings, errors, integers, bulk strings and nil.
pub fn reply(bytes: &[u8]) -> Option<(Reply, usize)> {
    let line = bytes.windows(2).position(|end| end == b"\r\n")?;
    let after = line + 2;
    match bytes[0] {
        b'$' if bytes[1] == b'-' => Some((Reply::Missing, after)),
        b'$' => {
            let digits = &bytes[1..line];
            let len = digits.iter().fold(0, |n, digit| n * 10 + usize::from(digit & 15));
            let end = after + len + 2;
            (bytes.len() >= end).then_some((Reply::Fine, end))
        }
        b'_' => Some((Reply::Missing, after)),
        b'-' => Some((Reply::Error, after)),
        _ => Some((Reply::Fine, after)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_carry_their_key() {
        let requests = Requests::new(3);
        let mut out = Vec::new();
        requests.get(7, &mut out);
        requests.set(123_456_789_012, &mut out);
        let wanted = "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000007\r\n\
                      *3\r\n$3\r\nSET\r\n$16\r\nkey:123456789012\r\n$3\r\nxxx\r\n";
        assert_eq!(String::from_utf8_lossy(&out), wanted);
    }

    #[test]
    fn replies_end_where_they_end() {
        for (text, kind) in [
            ("+OK\r\n", Reply::Fine),
            ("$-1\r\n", Reply::Missing),
            ("_\r\n", Reply::Missing),
            ("-ERR no\r\n", Reply::Error),
            ("$11\r\nhello\r\nyou!\r\n", Reply::Fine),
        ] {
            let longer = format!("{text}+OK\r\n");
            assert_eq!(reply(longer.as_bytes()), Some((kind, text.len())), "{text:?}");
            for cut in 0..text.len() {
                assert_eq!(reply(&text.as_bytes()[..cut]), None, "{text:?} cut at {cut}");
            }
        }
    }
}
