//! Turns the Debian package index into requests and the replies to expect: for debian-packages.sh.
//!
//! `apt-cache dumpavail | stanzas DIR` writes to DIR, for the keys `NAME VERSION` in their order:
//!
//! ```text
//! load.jsonl    for kvs-client load: a JSON line each, in the order of the index
//! load.resp     for redis-cli --pipe: a SET each
//! dump.jsonl    what kvs-client dump must print
//! get.resp      for netcat: a GET each, then QUIT
//! got.resp      what the server must answer to them
//! get.txt       for redis-cli: a GET each, as a person types it
//! got.txt       what redis-cli must print
//! ```
//! It prints the number of stanzas read, that of keys, and the bytes of values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Write};
use std::path::Path;

use kvs::protocol::{Reply, Version, encode_command};
use kvs::{KvsError, Result};

fn main() {
    let outcome = match std::env::args_os().nth(1) {
        Some(dir) => run(Path::new(&dir)),
        None => Err(KvsError::Invalid("usage: stanzas DIR < PACKAGES".into())),
    };
    if let Err(error) = outcome {
        eprintln!("stanzas: {error}");
        std::process::exit(1);
    }
}

fn run(dir: &Path) -> Result<()> {
    let stanzas = read(io::stdin().lock())?;
    let open = |name: &str| -> io::Result<_> { Ok(BufWriter::new(File::create(dir.join(name))?)) };
    let (mut json, mut resp) = (open("load.jsonl")?, open("load.resp")?);
    for (key, value) in &stanzas {
        json.write_all(json_line(key, value)?.as_bytes())?;
        resp.write_all(&encoded(&["SET", key, value]))?;
    }
    // A key that comes again replaces what was there.
    let keys: BTreeMap<&str, &str> =
        stanzas.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    let (mut dump, mut get, mut got) = (open("dump.jsonl")?, open("get.resp")?, open("got.resp")?);
    let (mut get_text, mut got_text) = (open("get.txt")?, open("got.txt")?);
    let mut bytes = 0;
    for (key, value) in &keys {
        dump.write_all(json_line(key, value)?.as_bytes())?;
        get.write_all(&encoded(&["GET", key]))?;
        let mut reply = Vec::new();
        Reply::new(&mut reply, Version::Resp2).bulk(value.as_bytes());
        got.write_all(&reply)?;
        writeln!(get_text, "GET \"{key}\"")?;
        writeln!(got_text, "{value}")?;
        bytes += value.len();
    }
    get.write_all(&encoded(&["QUIT"]))?;
    got.write_all(b"+OK\r\n")?;
    for file in [json, resp, dump, get, got, get_text, got_text] {
        file.into_inner().map_err(|error| error.into_error())?;
    }
    println!("{} {} {bytes}", stanzas.len(), keys.len());
    Ok(())
}

/// The stanzas, keyed by name and version.
fn read(mut input: impl BufRead) -> Result<Vec<(String, String)>> {
    let mut stanzas = Vec::new();
    let mut stanza = String::new();
    loop {
        let start = stanza.len();
        let ended = input.read_line(&mut stanza)? == 0;
        if !ended && stanza[start..].trim_end() != "" {
            continue;
        }
        stanza.truncate(start);
        if !stanza.is_empty() {
            stanzas.push((key_of(&stanza)?, std::mem::take(&mut stanza)));
        }
        if ended {
            return Ok(stanzas);
        }
    }
}

fn key_of(stanza: &str) -> Result<String> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
    match (field("Package: "), field("Version: ")) {
        (Some(name), Some(version)) => Ok(format!("{name} {version}")),
        _ => Err(KvsError::Invalid(format!("a stanza without name or version:\n{stanza}"))),
    }
}

fn json_line(key: &str, value: &str) -> Result<String> {
    let text = |text: &str| {
        serde_json::to_string(text).map_err(|error| KvsError::Invalid(error.to_string()))
    };
    Ok(format!("{{\"key\":{},\"value\":{}}}\n", text(key)?, text(value)?))
}

fn encoded(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(words, &mut out);
    out
}
