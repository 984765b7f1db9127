//! What comes over the wire, from either side.

use base64::Engine as _;
use kvs::protocol::{
    Decoder, JsonEntry, Kind, Limits, Reply, ReplyDecoder, Value, Version, encode_command,
    write_json_entry, write_json_reply,
};

use super::input::Input;

/// Inputs no longer than this are split at every byte.
const SPLIT_ALL: usize = 80;

/// A request as it came out: what it is, its words, and its id if it is a JSON line.
type Came = (Kind, Vec<Vec<u8>>, Option<String>);

/// Small limits, so that short inputs reach them.
fn small_limits() -> Limits {
    Limits { inline: 40, elements: 6, bulk: 24, request: 100, json_line: 60 }
}

/// Bytes into requests: however they are cut into reads, the same comes out.
pub fn requests(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let decoder = || {
        let small = choice & 1 != 0;
        let mut decoder = Decoder::new(if small { small_limits() } else { Limits::default() });
        decoder.set_guest(choice & 2 != 0);
        decoder
    };
    let whole = decode(decoder(), data, [data.len()]);
    let drops = decode(decoder(), data, 1..=data.len());
    assert_eq!(drops, whole, "byte by byte");
    for at in splits(data) {
        assert_eq!(decode(decoder(), data, [at, data.len()]), whole, "split at {at}");
    }
}

/// Where to split: everywhere in what is short, else where the bytes say.
fn splits(data: &[u8]) -> Vec<usize> {
    if data.len() <= SPLIT_ALL {
        return (1..data.len()).collect();
    }
    let sum = data.iter().fold(7usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
    (0..4).map(|n| sum.wrapping_mul(n * 2 + 1) % data.len()).collect()
}

/// Decodes `data` as it arrives up to each of `ends`; the requests, and the error that ended it.
fn decode(
    mut decoder: Decoder,
    data: &[u8],
    ends: impl IntoIterator<Item = usize>,
) -> (Vec<Came>, Option<String>) {
    let (mut start, mut came) = (0, Vec::new());
    for end in ends {
        loop {
            let input = &data[start..end];
            let request = match decoder.decode(input) {
                Err(error) => return (came, Some(error.to_string())),
                Ok(None) => break,
                Ok(Some(request)) => request,
            };
            assert!(request.len > 0 && request.len <= input.len(), "beyond its bytes");
            let words = decoder.args(input).iter().map(<[u8]>::to_vec).collect();
            let id = decoder.take_json_id().map(|id| id.as_str().to_owned());
            came.push((request.kind, words, id));
            start += request.len;
        }
        let held = decoder.heap_bytes();
        assert!(held <= 4096 + 32 * end, "{held} bytes are held for {end} that came");
        decoder.release();
    }
    (came, None)
}

/// Words come back from each dialect as they were written.
pub fn words(data: &[u8]) {
    let mut input = Input(data);
    let count = 1 + input.below(8);
    let words: Vec<&[u8]> = (0..count).map(|_| input.bytes(64)).collect();
    let mut array = Vec::new();
    encode_command(&words, &mut array);
    for (kind, line) in
        [(Kind::Command, array), (Kind::Command, quoted(&words)), (Kind::JsonCommand, json(&words))]
    {
        let (came, error) = decode(Decoder::new(Limits::default()), &line, [line.len()]);
        assert_eq!(error, None);
        let owned: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
        assert_eq!(came, [(kind, owned, None)]);
    }
}

/// A text line; what is no letter or digit is written as an escape.
fn quoted(words: &[&[u8]]) -> Vec<u8> {
    let mut line = String::new();
    for word in words {
        line.push('"');
        for byte in *word {
            match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => line.push(char::from(*byte)),
                _ => line.push_str(&format!("\\x{byte:02x}")),
            }
        }
        line.push_str("\" ");
    }
    (line + "\r\n").into_bytes()
}

fn json(words: &[&[u8]]) -> Vec<u8> {
    let word = |word: &&[u8]| match std::str::from_utf8(word) {
        Ok(text) => serde_json::json!(text),
        Err(_) => serde_json::json!({
            "base64": base64::engine::general_purpose::STANDARD.encode(word)
        }),
    };
    let words: Vec<serde_json::Value> = words.iter().map(word).collect();
    (serde_json::json!({ "args": words }).to_string() + "\n").into_bytes()
}

/// Bytes of a server into replies: the same however they are cut; and a reply that is written is
/// read back.
pub fn replies(data: &[u8]) {
    let whole = receive(data, [data.len()]);
    assert_eq!(receive(data, 1..=data.len()), whole, "byte by byte");
    for at in splits(data) {
        assert_eq!(receive(data, [at, data.len()]), whole, "split at {at}");
    }

    let value = value(&mut Input(data), 0);
    let mut bytes = Vec::new();
    write(&value, &mut Reply::new(&mut bytes, Version::Resp3));
    let came = receive(&bytes, [bytes.len()]);
    assert_eq!(came, (format!("{:?}", [&value]), false));
    let mut line = Vec::new();
    let len = write_json_reply(&bytes, None, &mut line).unwrap();
    assert_eq!(len, bytes.len());
    let text = line.strip_suffix(b"\n").expect("a line");
    assert!(!text.contains(&b'\n'), "two lines");
    serde_json::from_slice::<serde_json::Value>(text).expect("it is JSON");
}

/// The replies in `data`, and whether it ends in an error. As text, since NaN is not NaN.
fn receive(data: &[u8], ends: impl IntoIterator<Item = usize>) -> (String, bool) {
    let (mut decoder, mut start, mut came) = (ReplyDecoder::new(), 0, Vec::new());
    for end in ends {
        loop {
            match decoder.decode(&data[start..end]) {
                Err(_) => return (format!("{came:?}"), true),
                Ok((consumed, value)) => {
                    start += consumed;
                    assert!(start <= end, "beyond its bytes");
                    let Some(value) = value else { break };
                    came.push(value);
                }
            }
        }
        decoder.needed(&data[start..end]);
    }
    (format!("{came:?}"), false)
}

fn value(input: &mut Input<'_>, depth: usize) -> Value {
    let kinds = if depth < 4 { 9 } else { 6 };
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    match input.below(kinds) {
        0 => Value::Null,
        1 => Value::Simple(text(input.bytes(8))),
        2 => Value::Error(text(input.bytes(8))),
        3 => Value::Integer(input.long() as i64),
        4 => Value::Bulk(input.bytes(200).to_vec()),
        5 => Value::Boolean(input.byte() & 1 != 0),
        6 => Value::Array(parts(input, depth)),
        7 => Value::Set(parts(input, depth)),
        _ => {
            let keys = parts(input, depth).into_iter();
            Value::Map(keys.map(|key| (key, value(input, depth + 1))).collect())
        }
    }
}

fn parts(input: &mut Input<'_>, depth: usize) -> Vec<Value> {
    (0..input.below(5)).map(|_| value(input, depth + 1)).collect()
}

fn write(value: &Value, reply: &mut Reply<'_>) {
    match value {
        Value::Simple(text) => reply.simple(text),
        Value::Error(text) => reply.error(text),
        Value::Integer(n) => reply.integer(*n),
        Value::Bulk(bytes) => reply.bulk(bytes),
        Value::Boolean(truth) => reply.boolean(*truth),
        Value::Array(parts) => {
            reply.array(parts.len());
            parts.iter().for_each(|part| write(part, reply));
        }
        Value::Set(parts) => {
            reply.set(parts.len());
            parts.iter().for_each(|part| write(part, reply));
        }
        Value::Map(pairs) => {
            reply.map(pairs.len());
            for (key, value) in pairs {
                write(key, reply);
                write(value, reply);
            }
        }
        _ => reply.null(),
    }
}

/// JSON lines of dumps: any line is an entry or an error, and what is written is read back.
pub fn json_entries(data: &[u8]) {
    if let Ok(entry) = JsonEntry::from_line(data) {
        assert_eq!(written(&entry), entry);
    }
    let mut input = Input(data);
    let (key, value) = (input.bytes(64).to_vec(), input.bytes(255).to_vec());
    let expires_at = (input.byte() & 1 != 0).then(|| input.long());
    let entry = JsonEntry { database: input.byte(), key, value, expires_at };
    assert_eq!(written(&entry), entry);
}

fn written(entry: &JsonEntry) -> JsonEntry {
    let mut line = Vec::new();
    let (key, value) = (&entry.key, &entry.value);
    write_json_entry(entry.database, key, value, entry.expires_at, &mut line);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    JsonEntry::from_line(&line).unwrap()
}

pub fn request_seeds() -> Vec<Vec<u8>> {
    let lines = [
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nva\r\nl\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        "*-1\r\n*0\r\n*1\r\n$0\r\n\r\n*1\r\n$-1\r\n",
        "set k \"a b\\x00\\n\\\"\" 'it\\'s'\r\n\r\n  get\tk \nping\n",
        "get \"open\r\n",
        "{\"cmd\":\"set\",\"key\":\"k\",\"value\":\"v\\u00e9\",\"id\":[1,{\"a\":null}]}\n",
        "{\"args\":[\"SET\",\"k\",{\"base64\":\"/w==\"},-1.5e3]}\r\n{\"cmd\":\"get\",\"keys\":[\"a\",\"b\"]}\n",
        "{no json}\n{\"id\":1}\n{\"cmd\":\"x\",\"id\":1,\"id\":2}\n*1\r\n$4\r\nPING\r\n",
        "*1\r\n$4\r\nPINGx\r\n",
        "*1048577\r\n",
        "*2\r\n$9999999999999999999\r\n",
    ];
    let with_choice = |line: &&str| {
        (0..4).map(|choice| [&[choice], line.as_bytes()].concat()).collect::<Vec<_>>()
    };
    lines.iter().flat_map(with_choice).collect()
}

pub fn reply_seeds() -> Vec<Vec<u8>> {
    let nested = "*1\r\n".repeat(130);
    [
        "+OK\r\n-ERR no\r\n:-5\r\n$2\r\n\r\n\r\n$-1\r\n*-1\r\n*2\r\n*0\r\n:1\r\n",
        "_\r\n,1.5e3\r\n,nan\r\n#t\r\n(123\r\n=6\r\ntxt:hi\r\n!5\r\nERR\r\n\r\n",
        "%1\r\n+k\r\n:1\r\n~1\r\n:1\r\n>1\r\n:1\r\n|1\r\n+ttl\r\n:9\r\n:1\r\n",
        "*9999999999\r\n",
        &nested,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn json_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"key":"k","value":"v","expires_at":1893456000000}"#,
        r#"{"key":{"base64":"/w=="},"value":{"base64":"AA=="}}"#,
        r#" { "value" : 1.50e+3, "key" : -7 } "#,
        r#"{"key":"\ud83d\ude00\u0000","value":"\ud83d"}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
