//! Transcripts: what a client sends and what it is answered, run against a real server. Those of
//! docs/protocol.md are the ones that people read; tests/transcripts has one per command family.
//!
//! `> ` begins a line that is sent, `< ` one that is expected; `#` begins a comment. A sent line
//! ends in CRLF; so does an expected one, unless it is a JSON line (`{`), which ends in LF. In an
//! expected line `...` stands for anything; alone on its line, for any number of lines. A line
//! `# dialects: ...` says which ones a file is for; else its inline lines are sent as arrays and as
//! JSON lines, too, and must be answered by the same.
//!
//! Each runs with 1 loop and with 3; step by step, all at once, byte by byte, and cut in two at
//! every point (at some points, chosen at random, if it is long).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;
mod transcript;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};

use kvs::client::Client;
use serving::{Random, Running, raw, read_to_end, shown};
use transcript::{Dialect, Transcript, matches};

/// Up to this many bytes, a transcript is cut at every point.
const SHORT: usize = 250;
/// At how many points a longer one is cut.
const CUTS: usize = 60;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A server with the means to know that it has read what was sent.
struct Stage {
    server: Running,
    /// One connection on each loop: connections are handed to them in turn.
    probes: Vec<Client>,
}

impl Stage {
    fn new(loops: usize) -> Stage {
        let server = Running::start(|config| {
            config.loops = loops;
            // Answered on the loop or by a worker: nobody can tell.
            config.loop_reads = loops == 1;
        });
        let probes = (0..loops).map(|_| server.client()).collect();
        Stage { server, probes }
    }

    fn clear(&mut self) {
        self.probes[0].command(&["FLUSHALL"]).unwrap();
    }

    /// Returns when every loop has read what was sent before: loops handle what they are woken for
    /// in one go, and these pings come later.
    fn settle(&mut self) {
        for probe in &mut self.probes {
            probe.send(&["PING"]);
            probe.flush().unwrap();
        }
        for probe in &mut self.probes {
            probe.receive().unwrap();
        }
    }

    /// Sends `pieces` so that the server reads each by itself, then the end.
    fn in_pieces(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        self.clear();
        let mut stream = raw(self.server.addr());
        for piece in pieces {
            // After QUIT or a protocol error nobody listens any more.
            if stream.write_all(piece).is_err() {
                break;
            }
            self.settle();
        }
        let _ = stream.shutdown(Shutdown::Write);
        read_to_end(&mut stream)
    }

    fn step_by_step(&mut self, script: &Transcript) {
        self.clear();
        let mut stream = raw(self.server.addr());
        for step in &script.steps {
            stream.write_all(&step.sent).unwrap();
            let reply = read_reply(&mut stream, &step.expected);
            assert!(
                matches(&step.expected, &reply),
                "{}, line {}: {} was answered by\n{}",
                script.name,
                step.line,
                shown(&step.sent),
                shown(&reply)
            );
        }
    }
}

/// Reads until it matches, or nothing more comes.
fn read_reply(stream: &mut TcpStream, expected: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let (mut reply, mut buffer) = (Vec::new(), [0; 4096]);
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    while !matches(expected, &reply) || reply.is_empty() && !expected.is_empty() {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => reply.extend_from_slice(&buffer[..len]),
        }
    }
    reply
}

fn play(stage: &mut Stage, script: &Transcript, random: &mut Random) {
    let (sent, expected) = (script.sent(), script.expected());
    stage.step_by_step(script);
    let check = |came: &[u8], how: &str| {
        assert!(
            matches(&expected, came),
            "{} {how}: expected\n{}\ncame\n{}",
            script.name,
            shown(&expected),
            shown(came)
        );
    };
    check(&stage.in_pieces(&[&sent]), "at once");
    let bytes: Vec<&[u8]> = sent.chunks(1).collect();
    if sent.len() <= SHORT {
        check(&stage.in_pieces(&bytes), "byte by byte");
    } else {
        let steps: Vec<&[u8]> = sent.chunks(7).collect();
        check(&stage.in_pieces(&steps), "seven bytes at a time");
    }
    let every: Vec<usize> = (1..sent.len()).collect();
    let some: Vec<usize> = (0..CUTS).map(|_| 1 + random.below(sent.len() - 1)).collect();
    for cut in if sent.len() <= SHORT { every } else { some } {
        let (front, back) = sent.split_at(cut);
        check(&stage.in_pieces(&[front, back]), &format!("cut at byte {cut}"));
    }
}

fn play_all(scripts: &[Transcript]) {
    let mut random = Random::seeded();
    for loops in [1, 3] {
        let mut stage = Stage::new(loops);
        for script in scripts {
            for dialect in [Dialect::Inline, Dialect::Resp, Dialect::Json] {
                if let Some(script) = script.spoken(dialect) {
                    play(&mut stage, &script, &mut random);
                }
            }
        }
    }
}

fn file(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn those_of_the_documentation() {
    let text = file(&root().join("docs/protocol.md"));
    let scripts = transcript::in_markdown("docs/protocol.md", &text);
    assert!(scripts.len() >= 10, "{} transcripts", scripts.len());
    play_all(&scripts);
}

/// A test for each file, so that they run side by side and a failure has a name.
macro_rules! families {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let name = concat!(stringify!($name), ".txt");
            play_all(&[Transcript::parse(name, 1, &file(&root().join("tests/transcripts").join(name)))]);
        })*

        #[test]
        fn every_file_is_played() {
            let known = [$(stringify!($name)),*];
            for entry in std::fs::read_dir(root().join("tests/transcripts")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let stem = name.trim_end_matches(".txt");
                assert!(known.contains(&stem), "tests/transcripts/{name} has no test");
            }
        }
    };
}

families! {
    connection databases transactions configuration strings several_keys counters keys ordered errors
    json bytes resp3 quit protocol_error
}
