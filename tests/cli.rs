//! What scripts may rely on in `kvs` and `kvs-client`: words, output, exit codes.
// The lint lets tests unwrap, but not the functions that they share.
#![allow(clippy::unwrap_used)]

#[path = "cli/program.rs"]
mod program;
mod serving;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use program::{CLIENT, KVS, Outcome, run};
use serving::process::Process;

/// A program against one store, wherever that is: `flags` name it.
struct Subject {
    program: &'static str,
    flags: Vec<String>,
}

impl Subject {
    fn kvs(dir: &Path) -> Subject {
        Subject { program: KVS, flags: vec!["--dir".into(), dir.to_str().unwrap().into()] }
    }

    fn client(server: &Process) -> Subject {
        Subject { program: CLIENT, flags: vec!["--addr".into(), server.addr().to_string()] }
    }

    /// The flags come first, so that words may end with `--`.
    fn run(&self, words: &[impl AsRef<OsStr>]) -> Outcome {
        self.run_with(words, "")
    }

    fn run_with(&self, words: &[impl AsRef<OsStr>], input: impl AsRef<[u8]>) -> Outcome {
        let flags = self.flags.iter().map(OsStr::new);
        let args: Vec<&OsStr> = flags.chain(words.iter().map(AsRef::as_ref)).collect();
        run(self.program, &args, input)
    }

    /// Runs what must succeed, without a word on stderr; its output.
    #[track_caller]
    fn ok(&self, words: &[impl AsRef<OsStr>]) -> String {
        let outcome = self.run(words);
        assert_eq!((outcome.code, &outcome.stderr[..]), (Some(0), ""), "{outcome:?}");
        String::from_utf8(outcome.stdout).unwrap()
    }
}

/// Nothing on stdout, one line on stderr that has `part`, this exit code.
#[track_caller]
fn assert_fails(outcome: &Outcome, code: i32, part: &str) {
    assert_eq!((outcome.code, outcome.text()), (Some(code), ""), "{outcome:?}");
    assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
    assert_eq!(outcome.stderr.matches('\n').count(), 1, "{outcome:?}");
    assert!(outcome.stderr.ends_with('\n'));
}

#[track_caller]
fn assert_well(outcome: &Outcome, stderr: &str) {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.starts_with(stderr), "{outcome:?}");
}

/// What holds for both programs.
fn keys_are_set_read_and_removed(subject: &Subject) {
    assert_eq!(subject.ok(&["set", "key", "one"]), "");
    assert_eq!(subject.ok(&["get", "key"]), "one\n");
    assert_eq!(subject.ok(&["set", "key", "two words"]), "");
    assert_eq!(subject.ok(&["get", "key"]), "two words\n");
    assert_eq!(subject.ok(&["get", "other"]), "Key not found\n");
    assert_eq!(subject.ok(&["rm", "key"]), "");
    assert_eq!(subject.ok(&["get", "key"]), "Key not found\n");
    assert_eq!(subject.ok(&["set", "empty", ""]), "");
    assert_eq!(subject.ok(&["get", "empty"]), "\n");
}

fn any_bytes_are_keys_and_values(subject: &Subject) {
    let (key, value) = (OsStr::from_bytes(b"k\xff\n"), OsStr::from_bytes(b"\xfe\r\n\x01"));
    let set = subject.run(&[OsStr::new("set"), key, value]);
    assert_eq!((set.code, &set.stdout[..]), (Some(0), &b""[..]), "{set:?}");
    let get = subject.run(&[OsStr::new("get"), key]);
    assert_eq!(get.stdout, b"\xfe\r\n\x01\n", "{get:?}");
    let dump = subject.run(&["dump", "--prefix", "k"]);
    let line = "{\"key\":{\"base64\":\"a/8K\"},\"value\":{\"base64\":\"/g0KAQ==\"}}\n";
    assert_eq!(dump.text(), line);
    assert_eq!(subject.run(&[OsStr::new("rm"), key]).code, Some(0));
    assert_eq!(subject.run_with(&["load"], line).code, Some(0));
    assert_eq!(subject.run(&["dump", "--prefix", "k"]).text(), line);
}

fn words_may_begin_with_a_dash(subject: &Subject) {
    assert_eq!(subject.ok(&["set", "--", "-key", "--value"]), "");
    assert_eq!(subject.ok(&["get", "--", "-key"]), "--value\n");
    assert_eq!(subject.ok(&["rm", "--", "-key"]), "");
    assert_eq!(subject.ok(&["set", "number", "-5"]), "");
    assert_eq!(subject.ok(&["get", "number"]), "-5\n");
    assert_fails(&subject.run(&["set", "key", "--value"]), 2, "use '-- --value'");
}

fn the_flag_comes_before_or_after_the_words(subject: &Subject) {
    let [name, value] = &subject.flags[..] else { panic!("one flag") };
    let joined = format!("{name}={value}");
    for words in [
        &[name, value, "set", "k", "v"][..],
        &["set", "k", "v", name, value],
        &["set", name, value, "k", "v"],
        &["set", "k", &joined, "v"],
    ] {
        let outcome = run(subject.program, words, "");
        assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
    }
    assert_eq!(run(subject.program, &["get", "k", name, value], "").text(), "v\n");
}

fn the_version_and_the_help_are_printed(program: &str) {
    for flag in ["-V", "--version"] {
        let outcome = run(program, &[flag], "");
        assert_eq!((outcome.code, &outcome.stderr[..]), (Some(0), ""));
        assert!(outcome.text().contains(env!("CARGO_PKG_VERSION")), "{outcome:?}");
    }
    let outcome = run(program, &["--help"], "");
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.text().contains("Examples:"));
}

fn wrong_words_are_refused(program: &str) {
    for (words, part) in [
        (&[][..], "requires a subcommand"),
        (&["set"], "<KEY> <VALUE>"),
        (&["set", "k"], "<VALUE>"),
        (&["set", "k", "v", "extra"], "'extra'"),
        (&["get"], "<KEY>"),
        (&["get", "k", "extra"], "'extra'"),
        (&["rm"], "<KEY>"),
        (&["rm", "k", "extra"], "'extra'"),
        (&["gett", "k"], "'gett'"),
        (&["get", "k", "--unknown"], "'--unknown'"),
        (&["--unknown", "get", "k"], "'--unknown'"),
    ] {
        assert_fails(&run(program, words, ""), 2, part);
    }
}

/// Dumps come in key order; a prefix stands for itself only; a load repeats a dump.
fn dumps_can_be_loaded(subject: &Subject, copy: &Subject) {
    let mut lines: Vec<String> =
        (0..3000).map(|i| format!("{{\"key\":\"user:{i}\",\"value\":\"é{i}\"}}\n")).collect();
    for key in ["", "(", "(a", "[", "[(a", "+", "+a", "-", "-a", "use", "user;", "~*"] {
        lines.push(format!("{{\"key\":\"{key}\",\"value\":\"{key}\\n\"}}\n"));
    }
    lines.push("{\"key\":\"end\",\"value\":\"1\",\"expires_at\":9999999999999}\n".into());
    let outcome = subject.run_with(&["load"], lines.concat());
    assert_well(&outcome, "loaded 3013 keys in ");
    assert_eq!(outcome.text(), "");
    lines.sort_by_key(|line| line.split('"').nth(3).map(str::to_owned));
    let dump = subject.run(&["dump"]);
    assert_eq!(dump.text(), lines.concat());
    assert_well(&dump, "dumped 3013 keys in ");

    // Databases behind one another, each in key order; mixed on their way in.
    let others: Vec<String> = [3, 15, 3, 0, 15]
        .iter()
        .enumerate()
        .map(|(i, n)| format!("{{\"key\":\"z{i}\",\"value\":\"{n}\",\"database\":{n}}}\n"))
        .collect();
    assert_well(&subject.run_with(&["load"], others.concat()), "loaded 5 keys in ");
    let zs = subject.run(&["dump", "--prefix", "z"]);
    let in_0 = "{\"key\":\"z3\",\"value\":\"0\"}\n";
    let sorted = [in_0, &others[0], &others[2], &others[1], &others[4]];
    assert_eq!(zs.text(), sorted.concat());
    assert_eq!(subject.ok(&["rm", "z3"]), "");
    let beyond =
        "{\"key\":\"y\",\"value\":\"\"}\n{\"key\":\"y2\",\"value\":\"\",\"database\":16}\n";
    assert_fails(&subject.run_with(&["load"], beyond), 1, "standard input:2: ");
    assert_eq!(subject.run(&["dump", "--prefix", "y"]).text(), "{\"key\":\"y\",\"value\":\"\"}\n");
    assert_eq!(subject.ok(&["rm", "y"]), "");
    let dump = subject.run(&["dump"]);
    let all = [&lines.concat()[..], &others[0], &others[2], &others[1], &others[4]].concat();
    assert_eq!(dump.text(), all);

    for prefix in ["(", "[", "+", "-", "user:", "user:29", "~*", "~", "nothing", "*"] {
        let start = format!("{{\"key\":\"{prefix}");
        let expected: String =
            lines.iter().filter(|line| line.starts_with(&start)).map(String::as_str).collect();
        let flag = format!("--prefix={prefix}");
        assert_eq!(subject.run(&["dump", &flag]).text(), expected, "{prefix}");
    }

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &dump.stdout).unwrap();
    let file = file.path().to_str().unwrap();
    assert_well(&copy.run(&["load", file]), "loaded 3017 keys in ");
    assert_eq!(copy.run(&["dump"]).stdout, dump.stdout);
    assert_eq!(copy.ok(&["rm", "use"]), "");
    assert_well(&copy.run(&["load", file]), "loaded 3017 keys in ");
}

fn a_bad_line_stops_a_load(subject: &Subject) {
    let good = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"b\",\"value\":2}\n";
    let bad = format!("{good}{{\"key\":\"c\"}}\n{{\"key\":\"d\",\"value\":\"4\"}}\n");
    let outcome = subject.run_with(&["load", "-"], bad);
    assert_fails(&outcome, 1, "standard input:4: missing field `value` at column 11; 2 keys were");
    assert_eq!(subject.ok(&["get", "b"]), "2\n");
    assert_eq!(subject.ok(&["get", "d"]), "Key not found\n");
    let long = "k".repeat(65 * 1024 + 1);
    let outcome = subject.run_with(&["load"], format!("\n{{\"key\":\"{long}\",\"value\":\"\"}}"));
    assert_fails(&outcome, 1, "standard input:2: ");
    assert_fails(&subject.run(&["load", "no/such/file"]), 1, "cannot open no/such/file");
    assert_fails(&subject.run(&["load", "."]), 1, "cannot read .");
    assert_well(&subject.run(&["load"]), "loaded 0 keys in ");
}

/// As in `dump | head -1`: more than fits into a pipe, and nobody reads it.
fn closed_output_is_no_failure(subject: &Subject) {
    let value = "v".repeat(1000);
    let lines: String =
        (0..1000).map(|i| format!("{{\"key\":\"k{i}\",\"value\":\"{value}\"}}\n")).collect();
    assert_eq!(subject.run_with(&["load"], lines).code, Some(0));
    let mut command = Command::new(subject.program);
    command.args(&subject.flags).arg("dump").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn kvs_keeps_keys_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let kvs = Subject::kvs(dir.path());
    keys_are_set_read_and_removed(&kvs);
    any_bytes_are_keys_and_values(&kvs);
    words_may_begin_with_a_dash(&kvs);
    the_flag_comes_before_or_after_the_words(&kvs);
    let outcome = kvs.run(&["rm", "missing"]);
    assert_eq!((outcome.code, outcome.text()), (Some(1), "Key not found\n"));
}

#[test]
fn kvs_works_in_the_current_directory_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(KVS).args(["set", "k", "v"]).current_dir(dir.path()).status();
    assert!(status.unwrap().success());
    assert_eq!(Subject::kvs(dir.path()).ok(&["get", "k"]), "v\n");
    let inner = Subject::kvs(&dir.path().join("made/on/the/way"));
    assert_eq!(inner.ok(&["set", "k", "v"]), "");
    assert_eq!(inner.ok(&["get", "k"]), "v\n");
}

/// A store that is only looked at is not made: the directory may be a mistyped one.
#[test]
fn kvs_makes_a_store_only_to_put_something_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for place in [dir.path().join("typo"), empty.clone()] {
        let kvs = Subject::kvs(&place);
        for (word, code) in [("get", 0), ("rm", 1)] {
            let outcome = kvs.run(&[word, "k"]);
            assert_eq!((outcome.code, outcome.text()), (Some(code), "Key not found\n"), "{word}");
            assert!(outcome.stderr.starts_with("kvs: there is no store in "), "{outcome:?}");
        }
        let copy = dir.path().join("copy");
        for words in [&["dump"][..], &["compact"], &["backup", copy.to_str().unwrap()]] {
            assert_fails(&kvs.run(words), 1, "there is no store in ");
        }
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!((left, std::fs::read_dir(&empty).unwrap().count()), (vec![empty.clone()], 0));
    // Of another engine there is one, and it is not to be taken for an empty one.
    std::fs::write(empty.join("ENGINE"), "memory\n").unwrap();
    assert_fails(&Subject::kvs(&empty).run(&["get", "k"]), 1, "'memory'");
}

#[test]
fn kvs_explains_itself_and_refuses_wrong_words() {
    the_version_and_the_help_are_printed(KVS);
    wrong_words_are_refused(KVS);
    let file = tempfile::NamedTempFile::new().unwrap();
    let outcome = Subject::kvs(file.path()).run(&["get", "k"]);
    assert_fails(&outcome, 1, &file.path().display().to_string());
}

#[test]
fn kvs_loads_and_dumps() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    dumps_can_be_loaded(&Subject::kvs(one.path()), &Subject::kvs(other.path()));
    let third = tempfile::tempdir().unwrap();
    a_bad_line_stops_a_load(&Subject::kvs(third.path()));
    closed_output_is_no_failure(&Subject::kvs(third.path()));
}

#[test]
fn kvs_compacts() {
    let dir = tempfile::tempdir().unwrap();
    let kvs = Subject::kvs(dir.path());
    let value = "v".repeat(100_000);
    for _ in 0..20 {
        assert_eq!(kvs.ok(&["set", "k", &value]), "");
    }
    let outcome = kvs.run(&["compact"]);
    assert_well(&outcome, "compacted ");
    assert_eq!(outcome.text(), "");
    assert_eq!(kvs.ok(&["get", "k"]), format!("{value}\n"));
}

/// The first place of a text in a file.
fn place(path: &Path, text: &str) -> usize {
    let bytes = std::fs::read(path).unwrap();
    bytes.windows(text.len()).position(|part| part == text.as_bytes()).unwrap()
}

#[test]
fn kvs_checks() {
    let dir = tempfile::tempdir().unwrap();
    let kvs = Subject::kvs(dir.path());
    assert_fails(&kvs.run(&["check"]), 2, "there is no store");
    assert_eq!(kvs.ok(&["set", "color", "blue"]), "");
    assert_eq!(kvs.ok(&["set", "other", "value"]), "");
    assert!(kvs.ok(&["check"]).contains("sound; 1 segment, 2 records"));
    let json: serde_json::Value = serde_json::from_str(&kvs.ok(&["check", "--json"])).unwrap();
    assert_eq!((&json["sound"], &json["records"]), (&true.into(), &2.into()));
    assert_eq!(json["findings"], serde_json::json!([]));
    let log = dir.path().join("00000001.log");
    let at = place(&log, "colorblue");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[at + 6] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let outcome = kvs.run(&["check"]);
    assert_eq!((outcome.code, &outcome.stderr[..]), (Some(1), ""), "{outcome:?}");
    assert!(outcome.text().contains("damage: 00000001.log, bytes 40 to 69: "), "{outcome:?}");
    assert!(outcome.text().contains("key \"color\": lost"), "{outcome:?}");
    let outcome = kvs.run(&["check", "--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let json: serde_json::Value = serde_json::from_str(outcome.text()).unwrap();
    let expected = serde_json::json!([{
        "grade": "damage", "kind": "records", "file": "00000001.log", "from": 40, "to": 69,
        "what": "the record's checksum does not match", "told": "hint", "others": 0,
        "keys": [{
            "key": "color", "database": 0, "was": "value", "offset": 40, "seq": 1, "lost": true
        }],
    }]);
    assert_eq!(json["findings"], expected);
    // Neither a hint nor the record tells its key any more.
    std::fs::remove_file(dir.path().join("00000001.hint")).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[40..60].fill(0xff);
    std::fs::write(&log, bytes).unwrap();
    let outcome = kvs.run(&["check"]);
    assert!(outcome.text().contains("\n  at most 1 record can have been there; "), "{outcome:?}");
    assert!(outcome.text().contains(": damage in 1 place, at most 1 key lost; "), "{outcome:?}");
    assert_fails(&kvs.run(&["check", "extra"]), 2, "usage: ");
}

/// Who has no backup wants to have what is left.
#[test]
fn kvs_dumps_what_is_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let kvs = Subject::kvs(dir.path());
    for key in ["a", "b\n", "c"] {
        assert_eq!(kvs.ok(&["set", key, "value"]), "");
    }
    let log = dir.path().join("00000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[place(&log, "b\nvalue") + 3] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let outcome = kvs.run(&["dump"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let line = |key: &str| format!("{{\"key\":\"{key}\",\"value\":\"value\"}}\n");
    assert_eq!(outcome.text(), [line("a"), line("c")].concat());
    assert!(outcome.stderr.starts_with("kvs: key \"b\\n\": damaged: "), "{outcome:?}");
    assert!(outcome.stderr.contains("dumped 2 keys in "), "{outcome:?}");
}

#[test]
fn kvs_backs_up() {
    let dir = tempfile::tempdir().unwrap();
    let kvs = Subject::kvs(dir.path());
    assert_eq!(kvs.ok(&["set", "color", "blue"]), "");
    let copy = dir.path().join("backups/copy");
    assert_well(&kvs.run(&["backup", copy.to_str().unwrap()]), "backed up ");
    assert_eq!(kvs.ok(&["set", "color", "red"]), "");
    assert_fails(&kvs.run(&["backup", copy.to_str().unwrap()]), 1, "is there already");
    let copy = Subject::kvs(&copy);
    assert!(copy.ok(&["check"]).contains(" sound; "));
    assert_eq!(copy.ok(&["get", "color"]), "blue\n");
    assert_eq!(kvs.ok(&["get", "color"]), "red\n");
}

#[test]
fn kvs_repairs() {
    let dir = tempfile::tempdir().unwrap();
    let kvs = Subject::kvs(dir.path());
    assert_fails(&kvs.run(&["repair"]), 2, "there is no store");
    for value in ["red", "green"] {
        assert_eq!(kvs.ok(&["set", "color", value]), "");
        assert_eq!(kvs.ok(&["set", "other", "value"]), "");
    }
    assert!(kvs.ok(&["repair"]).contains("nothing to mend"));
    let log = dir.path().join("00000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let at = place(&log, "colorgreen");
    bytes[at + 6] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    assert!(
        kvs.ok(&["repair", "--dry-run"]).contains("would put aside: 00000001.hint, 00000001.log")
    );
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
    let outcome = kvs.run(&["repair", "--json"]);
    assert_eq!((outcome.code, &outcome.stderr[..]), (Some(0), ""), "{outcome:?}");
    let json: serde_json::Value = serde_json::from_str(outcome.text()).unwrap();
    assert_eq!(json["found"]["findings"][0]["keys"][0]["key"], "color");
    assert_eq!(json["found"]["findings"][0]["keys"][0]["lost"], true);
    assert_eq!(json["aside"], serde_json::json!(["00000001.hint", "00000001.log"]));
    assert_eq!((&json["salvaged"], &json["after"]["sound"]), (&3.into(), &true.into()));
    let quarantine = Path::new(json["quarantine"].as_str().unwrap());
    assert_eq!(std::fs::read(quarantine.join("00000001.log")).unwrap(), bytes);
    let report = std::fs::read_to_string(quarantine.join("report.json")).unwrap();
    assert_eq!(report, outcome.text());
    std::fs::remove_file(dir.path().join("MANIFEST")).unwrap();
    let told = kvs.ok(&["repair"]);
    assert!(told.contains("\nthis is kept in ") && told.contains("\nnow:\n"), "{told}");
    // Neither the damaged value nor the one before it.
    assert_eq!(kvs.ok(&["get", "color"]), "Key not found\n");
    assert_eq!(kvs.ok(&["get", "other"]), "value\n");
    assert!(kvs.ok(&["check"]).contains(" sound; "));
}

#[test]
fn kvs_says_that_a_full_disk_took_no_output() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(KVS);
    let output = command.args(["get", "k", "--dir"]).arg(dir.path()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
}

#[test]
fn client_explains_itself_and_refuses_wrong_words() {
    the_version_and_the_help_are_printed(CLIENT);
    wrong_words_are_refused(CLIENT);
    for addr in [
        "nonsense",
        "127.0.0.1",
        "127.0.0.1:99999",
        "localhost:x",
        "",
        ":4000",
        "::1:4000",
        "a:b:1",
    ] {
        let flag = format!("--addr={addr}");
        assert_fails(&run(CLIENT, &["get", "k", &flag], ""), 2, "HOST:PORT");
        assert_fails(&run(CLIENT, &[&flag, "get", "k"], ""), 2, "HOST:PORT");
    }
    let outcome = run(CLIENT, &["get", "k", "--addr", "no-such-host.invalid:4000"], "");
    assert_fails(&outcome, 1, "cannot find no-such-host.invalid:4000: ");
}

#[test]
fn client_finds_servers_by_name() {
    let server = Process::start(&[]);
    server.client().set("k", "v").unwrap();
    let addr = format!("localhost:{}", server.addr().port());
    assert_eq!(run(CLIENT, &["get", "k", "--addr", &addr], "").text(), "v\n");
    // Not every machine has IPv6.
    if TcpListener::bind("[::1]:0").is_ok() {
        let server = Process::start(&["--addr", "[::1]:0"]);
        server.client().set("k", "six").unwrap();
        let addr = format!("[::1]:{}", server.addr().port());
        assert_eq!(run(CLIENT, &["get", "k", "--addr", &addr], "").text(), "six\n");
    }
}

#[test]
fn client_says_that_there_is_no_server() {
    // Free once it is dropped, and nobody else asks for it in particular.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for words in [&["set", "k", "v"][..], &["get", "k"], &["rm", "k"], &["ping"], &["dump"]] {
        let outcome = run(CLIENT, &[words, &["--addr", &addr]].concat(), "");
        assert_fails(&outcome, 1, &addr);
    }
}

#[test]
fn client_keeps_keys_in_a_server() {
    let server = Process::start(&[]);
    let client = Subject::client(&server);
    keys_are_set_read_and_removed(&client);
    any_bytes_are_keys_and_values(&client);
    words_may_begin_with_a_dash(&client);
    the_flag_comes_before_or_after_the_words(&client);
    assert_fails(&client.run(&["rm", "missing"]), 1, "Key not found");
    assert_eq!(client.ok(&["ping"]), "PONG\n");
}

#[test]
fn client_loads_and_dumps() {
    let (one, other) = (Process::start(&[]), Process::start(&[]));
    dumps_can_be_loaded(&Subject::client(&one), &Subject::client(&other));
    let third = Process::start(&[]);
    a_bad_line_stops_a_load(&Subject::client(&third));
    closed_output_is_no_failure(&Subject::client(&third));
}

#[test]
fn client_dumps_without_order_too() {
    let server = Process::start(&["--index", "unordered"]);
    let client = Subject::client(&server);
    let mut lines: Vec<String> =
        (0..3000).map(|i| format!("{{\"key\":\"[{i}\",\"value\":\"{i}\"}}\n")).collect();
    assert_eq!(client.run_with(&["load"], lines.concat()).code, Some(0));
    assert_eq!(client.ok(&["set", "other", "v"]), "");
    let dump = client.run(&["dump", "--prefix", "["]);
    let mut dumped: Vec<&str> = dump.text().split_inclusive('\n').collect();
    lines.sort_unstable();
    dumped.sort_unstable();
    dumped.dedup();
    assert!(lines == dumped, "{} lines", dumped.len());
}

#[test]
fn client_dumps_large_values_in_small_pages() {
    let server = Process::start(&["--fsync", "no"]);
    let client = Subject::client(&server);
    let value = "v".repeat(3 << 20);
    let lines: Vec<String> =
        (10..30).map(|i| format!("{{\"key\":\"k{i}\",\"value\":\"{value}\"}}\n")).collect();
    assert_well(&client.run_with(&["load"], lines.concat()), "loaded 20 keys in ");
    assert!(client.run(&["dump"]).text() == lines.concat());
}

#[test]
fn client_calls_any_command() {
    let server = Process::start(&[]);
    let client = Subject::client(&server);
    assert_eq!(client.ok(&["call", "SET", "a", "1"]), "OK\n");
    assert_eq!(client.ok(&["call", "incrby", "a", "-3"]), "(integer) -2\n");
    assert_eq!(client.ok(&["call", "mget", "a", "none"]), "1) \"-2\"\n2) (nil)\n");
    assert_eq!(client.ok(&["call", "range", "-", "+"]), "1) \"a\"\n2) \"-2\"\n");
    // Texts are no strings in quotes.
    assert!(client.ok(&["call", "INFO", "server"]).starts_with("# Server\r\nredis_version:"));
    assert!(client.ok(&["call", "client", "list"]).starts_with("id="));
    assert!(client.ok(&["call", "help", "get"]).starts_with("GET key\n    "));
    assert_fails(&client.run(&["call", "nonsense"]), 1, "(error) ERR unknown command");
    assert_fails(&client.run(&["call", "client", "reply", "off"]), 1, "not sent");
    assert_fails(&client.run(&["call"]), 2, "<WORD>");
}

#[test]
fn client_answers_line_by_line() {
    let server = Process::start(&[]);
    let client = Subject::client(&server);
    let lines = "\n set color \"light blue\"\r\nGET color\nmget color 'no ne'\nselect 3\nget color\n\
                 set there \\x41\nkeys *\nquit\nset never done\n";
    let expected = "OK\n\"light blue\"\n1) \"light blue\"\n2) (nil)\nOK\n(nil)\nOK\n1) \"there\"\n";
    let outcome = client.run_with(&["repl"], lines);
    assert_eq!((outcome.text(), outcome.code), (expected, Some(0)), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    assert_eq!(client.ok(&["get", "never"]), "Key not found\n");
    // Any bytes, a last line without its end, a help text as it is.
    let outcome = client.run_with(&["repl"], b"set k \xff\nhelp get\nget k");
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.text().starts_with("OK\nGET key\n    "), "{outcome:?}");
    assert!(outcome.text().ends_with(".\n\"\\xff\"\n"), "{outcome:?}");
    // Errors end nothing, and are told at the end.
    for (line, stdout, stderr) in [
        ("nonsense", "(error) ERR unknown command", ""),
        ("get 'k", "", "kvs-client: a quote is not closed"),
        ("CLIENT REPLY SKIP", "", "kvs-client: not sent"),
    ] {
        let outcome = client.run_with(&["repl"], format!("{line}\nexit\n"));
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.text().starts_with(stdout) && outcome.stderr.starts_with(stderr));
        let outcome = client.run_with(&["repl"], format!("{line}\nping\n"));
        assert!(outcome.text().ends_with("PONG\n") && outcome.code == Some(1), "{outcome:?}");
    }
    assert_fails(&client.run(&["repl", "extra"]), 2, "'extra'");
}

/// A server that goes away and comes back: what failed is said, and nothing is sent twice.
#[test]
fn client_connects_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start_in(dir.path(), &[]);
    let addr = server.addr().to_string();
    let mut child = Command::new(CLIENT)
        .args(["repl", "--addr", &addr])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut ask = |line: &str| stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut said = || stdout.next().unwrap().unwrap();
    let mut complained = || stderr.next().unwrap().unwrap();
    ask("select 2");
    assert_eq!(said(), "OK");
    ask("incr n");
    assert_eq!(said(), "(integer) 1");
    server.kill();
    ask("incr n");
    let complaint = complained();
    assert!(
        complaint.starts_with(&format!("kvs-client: cannot connect to {addr}: ")),
        "{complaint}"
    );
    let server = Process::start_in(dir.path(), &["--addr", &addr]);
    ask("incr n");
    assert_eq!(said(), "(integer) 2");
    assert_eq!(complained(), format!("kvs-client: connected to {addr} again"));
    // What was meant for a transaction is not done without it.
    for line in ["watch n", "multi", "set a 1"] {
        ask(line);
        said();
    }
    server.kill();
    let _server = Process::start_in(dir.path(), &["--addr", &addr]);
    for line in ["set b 2", "set c 3", "exec"] {
        ask(line);
        assert!(complained().starts_with("kvs-client: not sent: the transaction is gone"));
    }
    ask("exists a b c n");
    assert_eq!(said(), "(integer) 1");
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    // A server that goes while its reply is awaited.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let gone = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 20]).unwrap();
    });
    let outcome = run(CLIENT, &["repl", "--addr", &addr], "incr n\n");
    gone.join().unwrap();
    assert_fails(&outcome, 1, "; whether that was done is not known");
}

#[test]
fn kvs_names_the_server_that_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start_in(dir.path(), &[]);
    server.client().set("k", "v").unwrap();
    let kvs = Subject::kvs(dir.path());
    assert_fails(&kvs.run(&["get", "k"]), 1, "is in use by process ");
    for words in [&["check"][..], &["repair"], &["repair", "--dry-run"]] {
        let outcome = kvs.run(words);
        assert_fails(&outcome, 2, "is in use by process ");
        assert!(outcome.stderr.contains("stop it first"), "{outcome:?}");
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(kvs.ok(&["get", "k"]), "v\n");
}

#[test]
fn a_password_is_sent_first() {
    let server = Process::start(&[]);
    let client = Subject::client(&server);
    assert_eq!(client.ok(&["call", "config", "set", "requirepass", "secret"]), "OK\n");
    assert_fails(&client.run(&["get", "k"]), 1, "NOAUTH Authentication required.");
    assert_fails(&client.run(&["get", "k", "--password", "x"]), 1, "WRONGPASS");
    assert_eq!(client.ok(&["--password", "secret", "set", "k", "v"]), "");
    assert_eq!(client.ok(&["get", "k", "--password", "secret"]), "v\n");
    let mut command = Command::new(CLIENT);
    command.args(&client.flags).args(["get", "k"]).env("KVS_PASSWORD", "secret");
    assert_eq!(command.output().unwrap().stdout, b"v\n");
}
