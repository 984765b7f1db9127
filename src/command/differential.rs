//! The same requests to these commands and to a real Redis: replies must be the same bytes.
//!
//! Needs `redis-server` 7.0 on the path, so it only runs when asked for:
//! `cargo test command::differential -- --ignored`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use super::commands;
use super::testing::{Session, with_words};
use crate::protocol::encode_command;

/// A Redis of our own, on a socket in a directory of its own.
struct Redis {
    process: Child,
    stream: UnixStream,
    _dir: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    fn start() -> Redis {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let process = Process::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is not on the path");
        let deadline = Instant::now() + Duration::from_secs(5);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        Redis { process, stream, _dir: dir }
    }

    /// The reply's bytes: what comes before the echo of a word that no reply holds.
    fn reply_to(&mut self, line: &str) -> Vec<u8> {
        const END: &[u8] = b"$11\r\n~the-end-~!\r\n";
        let mut out = Vec::new();
        with_words(line, |args| {
            encode_command(&args.iter().collect::<Vec<_>>(), &mut out);
        });
        encode_command(&[&b"ECHO"[..], b"~the-end-~!"], &mut out);
        self.stream.write_all(&out).unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(END) {
            let mut piece = [0; 4096];
            let len = self.stream.read(&mut piece).unwrap();
            assert!(len > 0, "{line:?} made Redis close the connection");
            reply.extend_from_slice(&piece[..len]);
        }
        reply.truncate(reply.len() - END.len());
        reply
    }
}

/// Both, side by side, and what they said differently.
struct Pair {
    ours: Session,
    redis: Redis,
    differences: Vec<String>,
    /// The request before this one.
    before: String,
}

impl Pair {
    fn start() -> Pair {
        Pair {
            ours: Session::default(),
            redis: Redis::start(),
            differences: Vec::new(),
            before: String::new(),
        }
    }

    fn run(&mut self, line: &str) {
        let (ours, redis) = (self.ours.reply_to(line), self.redis.reply_to(line));
        if String::from_utf8_lossy(&ours) != String::from_utf8_lossy(&redis) {
            let (ours, redis) = (ours.escape_ascii(), redis.escape_ascii());
            let before = &self.before;
            self.differences
                .push(format!("{line} (after {before})\n    ours:  {ours}\n    redis: {redis}"));
        }
        line.clone_into(&mut self.before);
    }

    fn finish(self) {
        let shown: Vec<_> = self.differences.iter().take(50).map(String::as_str).collect();
        assert!(
            shown.is_empty(),
            "{} replies differ:\n{}",
            self.differences.len(),
            shown.join("\n")
        );
    }
}

#[test]
#[ignore = "needs redis-server"]
fn chosen_requests_are_answered_as_redis_answers_them() {
    let mut pair = Pair::start();
    for line in include_str!("differential.txt").lines() {
        if let Some(unequal) = line.strip_prefix('!') {
            pair.ours.reply_to(unequal);
            pair.redis.reply_to(unequal);
        } else if !line.is_empty() && !line.starts_with('#') {
            pair.run(line);
        }
    }
    pair.finish();
}

/// What COMMAND INFO replies, up to the categories.
fn properties(info: &[u8]) -> String {
    let info = String::from_utf8_lossy(info);
    let before_categories = info.split("\r\n+@").next().unwrap_or_default();
    let end = before_categories.rfind("\r\n").unwrap_or(0);
    before_categories[..end].replace("\r\n", " ")
}

#[test]
#[ignore = "needs redis-server"]
fn arity_flags_and_keys_are_those_of_redis() {
    let mut pair = Pair::start();
    let all = commands().flat_map(|command| command.subcommands.iter().chain([command]));
    for command in all {
        let line = format!("command info {}", command.name);
        let redis = pair.redis.reply_to(&line);
        if redis != b"*1\r\n$-1\r\n" {
            let ours = pair.ours.reply_to(&line);
            assert_eq!(properties(&ours), properties(&redis), "{}", command.name);
        }
    }
}

/// A small generator of numbers that look random; the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn of(&mut self, words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        words[self.below(words.len())].to_owned()
    }
}

/// Command patterns: a capital stands for a kind of word, see [`word`]; `*` after it for any number.
const SHAPES: &str = "\
get K|set K V|set K V S*|mget K*|mset KV*|mset K V K V|msetnx K V K V|getset K V|getdel K|\
getex K|getex K X*|setnx K V|setex K Z V|psetex K Z V|append K V|strlen K|getrange K I I|\
substr K I I|setrange K R V|lcs K K|lcs K K L*|incr K|decr K|incrby K I|decrby K I|\
incrbyfloat K F|incrbyfloat K F|del K*|unlink K K|exists K*|touch K|type K|rename K K|\
renamenx K K|copy K K|copy K K C*|expire K Z|expire K Z E*|pexpire K Z E|expireat K Z E|\
pexpireat K A E|expireat K A|ttl K|persist K|setbit K O B|getbit K O|bitcount K|bitcount K I I|\
bitcount K I I U|bitpos K B|bitpos K B I|bitpos K B I I|bitpos K B I I U|bitop P K K|\
bitop P K K K|bitop P K K K K|bitfield K G|bitfield K G G|bitfield K W|bitfield K W W|\
bitfield K Y W W|bitfield K Y W G Y W|bitfield_ro K G|bitfield_ro K G G|bitfield_ro K W|\
set K F|set K J|set K M|append K M";

fn word(kind: char, chance: &mut Chance) -> String {
    match kind {
        'K' => chance.of("a b c d"),
        'V' => chance.of(
            "\"\" x 1 10 -5 3.5 hello 9223372036854775807 \"\\xff\\x00\\xff\" \"\\x201\" 01 -0",
        ),
        'M' => chance
            .of("ohmytext mynewtext abcabcbb bbcaabac \"\\xff\\xff\" \"\\xff\\xf0\" \"\\x00\""),
        'J' => chance.of("0 1 -1 41 9223372036854775807 -9223372036854775808"),
        'I' => chance.of("0 1 -1 2 3 -2 -100 100 1000 01 -0 +1 abc \"\" 9223372036854775807 \
             -9223372036854775808 9223372036854775808 9223372036854775 -9223372036854775 1.5"),
        'R' => chance.of("0 1 5 -1 20 5000 536870912 x 9223372036854775807"),
        'A' => chance.of("99999999999999 88888888888888 1 -1 0"),
        'F' => {
            let digits = chance.below(1_000_000_000) as f64;
            let scale = 10_f64.powi(chance.below(30) as i32 - 15);
            match chance.below(3) {
                0 => format!("{}", digits * scale),
                1 => format!("-{:e}", digits * scale),
                _ => chance.of(
                    "0 0.1 0.2 -0.3 1e10 1e17 -1e18 1e-17 5e-18 1e-18 inf -inf nan 0x1.8p1 .5 5. 1e 1x \
                     3.0e3 1e4000 -1e4000 1e5000 1e-5000 \"\" . - 100000000000000000000 +3 2.5E+3",
                ),
            }
        }
        // Long enough for no key to end while it is compared, or none at all.
        'Z' => chance
            .of("100000 200000 300000 -1 0 x 01 9223372036854775807 -9223372036854775808 \
             9223372036854775"),
        'S' => chance.of("nx XX get ex px exat pxat keepttl 100000 99999999999 0 -1 x persist"),
        'X' => chance.of("ex px exat pxat persist 100000 99999999999 0 x keepttl"),
        'L' => chance.of("len idx minmatchlen withmatchlen 2 0 -1 x"),
        'C' => chance.of("replace db 0 16 x -1 99999999999"),
        'E' => chance.of("nx XX gt lt foo"),
        'B' => chance.of("0 1 1 2 -1 x"),
        'O' => chance.of("0 1 7 8 9 100 -1 x #1 4294967295000 4294967296"),
        'U' => chance.of("bit BYTE x"),
        'P' => chance.of("and OR xor not nope"),
        'T' => chance.of("u8 i8 u1 i1 i64 u63 u64 u0 i5 u7 x8 i65 U8 i"),
        'Y' => format!("overflow {}", chance.of("wrap SAT fail fail x")),
        'G' => format!("get {} {}", word('T', chance), word('Q', chance)),
        'Q' => chance.of("0 1 #1 #2 7 33 -1 x #x"),
        'W' => {
            let verb = chance.of("set incrby incrby");
            // Redis saturates the smallest number upwards when it is set.
            let number = if verb == "incrby" && chance.below(3) == 0 { 'J' } else { 'N' };
            format!("{verb} {} {} {}", word('T', chance), word('Q', chance), word(number, chance))
        }
        'N' => chance.of("0 1 -1 5 127 128 255 256 -128 -129 100 1000 9223372036854775807 \
             -9223372036854775 9223372036854775808 x"),
        _ => unreachable!("no kind of word is called {kind}"),
    }
}

fn request(shape: &str, chance: &mut Chance) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in shape.split(' ') {
        let kinds = part.trim_end_matches('*');
        if !kinds.chars().all(char::is_uppercase) {
            parts.push(part.to_owned());
            continue;
        }
        let times = if part.ends_with('*') { chance.below(5) } else { 1 };
        for _ in 0..times {
            parts.extend(kinds.chars().map(|kind| word(kind, chance)));
        }
    }
    match chance.below(40) {
        0 => drop(parts.pop()),
        1 => parts.push("extra".to_owned()),
        _ => {}
    }
    parts.join(" ")
}

#[test]
#[ignore = "needs redis-server"]
fn random_requests_are_answered_as_redis_answers_them() {
    let shapes: Vec<&str> = SHAPES.split('|').collect();
    let mut chance = Chance(0x2545_f491_4f6c_dd1d);
    let mut pair = Pair::start();
    for round in 0..60_000 {
        if round % 200 == 0 {
            pair.run("flushall");
        }
        let request = request(shapes[chance.below(shapes.len())], &mut chance);
        if !request.is_empty() {
            pair.run(&request);
            pair.run("mget a b c d");
        }
    }
    pair.finish();
}

/// A word of up to `len` of these bytes, quoted so that any byte may be among them.
fn quoted(alphabet: &[u8], len: usize, chance: &mut Chance) -> String {
    let len = chance.below(len + 1);
    let bytes = (0..len).map(|_| alphabet[chance.below(alphabet.len())]);
    format!("\"{}\"", bytes.map(|byte| format!("\\x{byte:02x}")).collect::<String>())
}

#[test]
#[ignore = "needs redis-server"]
fn random_patterns_match_what_they_match_in_redis() {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut pair = Pair::start();
    for _ in 0..15_000 {
        let name = quoted(b"abc-]^\\\xff", 5, &mut chance);
        let pattern = quoted(b"abc**??[[]]^-\\\xff", 8, &mut chance);
        for line in ["flushall".into(), format!("set {name} 1"), format!("keys {pattern}")] {
            pair.run(&line);
        }
    }
    pair.finish();
}
