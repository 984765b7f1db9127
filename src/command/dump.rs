//! Values in Redis's serialised form, and what there is to tell of how a value is kept.

use super::errors::SYNTAX;
use super::introspection::container_help;
use super::numbers::integer;
use super::options::put_until;
use super::rdb::{self, Fault};
use super::{Abort, Command, Entry, Flags, Group, Outcome, Reads, Run, Writes};
use crate::clock::now_ms;
use crate::protocol::{Args, Reply, parse_integer};

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Generic, "dump", 2, Run::Read(dump))
        .key()
        .help("DUMP key", "A value as Redis serialises it"),
    Command::new(Group::Generic, "restore", -4, Run::Write(restore))
        .key()
        .flags(Flags::DENYOOM)
        .help(
            "RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
            "Sets a key to a string that DUMP made, here or in Redis up to 7.4",
        ),
    Command::new(Group::Generic, "object", -2, Run::Local(container_help))
        .subcommands(OBJECT)
        .help("OBJECT subcommand", "How a value is kept; see OBJECT HELP"),
];

const OBJECT: &[Command] = &[
    Command::new(Group::Generic, "object|encoding", 3, Run::Read(encoding)).keys(2, 2, 1).help(
        "OBJECT ENCODING key",
        "int, embstr or raw: how Redis would keep the value if it were SET",
    ),
    Command::new(Group::Generic, "object|idletime", 3, Run::Read(idletime))
        .keys(2, 2, 1)
        .help("OBJECT IDLETIME key", "Always 0: it is not kept when a key was used"),
    Command::new(Group::Generic, "object|freq", 3, Run::Read(freq))
        .keys(2, 2, 1)
        .help("OBJECT FREQ key", "Refused, as Redis does without an LFU policy"),
    Command::new(Group::Generic, "object|refcount", 3, Run::Read(refcount))
        .keys(2, 2, 1)
        .help("OBJECT REFCOUNT key", "2147483647 for the integers from 0 to 9999, else 1"),
    Command::new(Group::Generic, "object|help", 2, Run::Local(container_help))
        .flags(Flags::LOADING.and(Flags::STALE))
        .help("OBJECT HELP", "Lists these subcommands"),
];

fn dump(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match db.get(&args[1])? {
        Some(entry) => reply.bulk(&rdb::encode(&entry.value)),
        None => reply.null(),
    }
    Ok(())
}

/// The options of RESTORE. What concerns eviction is checked and forgotten.
#[derive(Debug, Default)]
struct RestoreOptions {
    replace: bool,
    absolute: bool,
}

impl RestoreOptions {
    fn parse(args: Args<'_>) -> Result<Self, Abort> {
        let mut options = RestoreOptions::default();
        let (mut idle, mut frequency) = (false, false);
        let mut words = args.iter().skip(4);
        while let Some(word) = words.next() {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if is(b"replace") {
                options.replace = true;
            } else if is(b"absttl") {
                options.absolute = true;
            } else if is(b"idletime") && words.len() > 0 && !frequency {
                idle = true;
                if integer(words.next().unwrap_or_default())? < 0 {
                    return Err("ERR Invalid IDLETIME value, must be >= 0".into());
                }
            } else if is(b"freq") && words.len() > 0 && !idle {
                frequency = true;
                if !(0..=255).contains(&integer(words.next().unwrap_or_default())?) {
                    return Err("ERR Invalid FREQ value, must be >= 0 and <= 255".into());
                }
            } else {
                return Err(SYNTAX.into());
            }
        }
        Ok(options)
    }
}

fn restore(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let options = RestoreOptions::parse(args)?;
    if !options.replace && db.contains(&args[1])? {
        return Err("BUSYKEY Target key name already exists.".into());
    }
    let ttl =
        u64::try_from(integer(&args[2])?).map_err(|_| "ERR Invalid TTL value, must be >= 0")?;
    let value = rdb::decode(&args[3]).map_err(|fault| match fault {
        Fault::Footer => "ERR DUMP payload version or checksum are wrong",
        Fault::Content => "ERR Bad data format",
    })?;
    let base = if options.absolute { 0 } else { now_ms() };
    match ttl {
        0 => db.put(&args[1], &value, None)?,
        ttl => put_until(db, &args[1], &value, ttl.saturating_add(base).min(i64::MAX as u64))?,
    }
    reply.ok();
    Ok(())
}

/// Replies with what `tell` says of the value, or null where there is none.
fn tell(
    db: &dyn Reads,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    tell: impl FnOnce(&Entry<'_>, &mut Reply<'_>) -> Outcome,
) -> Outcome {
    match db.get(&args[2])? {
        Some(entry) => tell(&entry, reply),
        None => {
            reply.null();
            Ok(())
        }
    }
}

/// How Redis keeps a value that was SET.
pub(super) fn encoding_of(value: &[u8]) -> &'static str {
    /// The longest string that Redis keeps in one piece with its header.
    const LONGEST_EMBEDDED: usize = 44;
    match parse_integer(value) {
        Some(_) => "int",
        None if value.len() <= LONGEST_EMBEDDED => "embstr",
        None => "raw",
    }
}

/// How many references Redis counts to such a value.
pub(super) fn references_to(value: &[u8]) -> i64 {
    /// Redis has these once, however many keys have them for a value.
    const SHARED: std::ops::Range<i64> = 0..10_000;
    let shared = parse_integer(value).is_some_and(|number| SHARED.contains(&number));
    if shared { i32::MAX.into() } else { 1 }
}

fn encoding(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    tell(db, args, reply, |entry, reply| {
        reply.bulk(encoding_of(&entry.value).as_bytes());
        Ok(())
    })
}

fn idletime(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    tell(db, args, reply, |_, reply| {
        reply.integer(0);
        Ok(())
    })
}

fn freq(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    tell(db, args, reply, |_, _| {
        Err("ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
             that when switching between policies at runtime LRU and LFU data will take some time \
             to adjust."
            .into())
    })
}

fn refcount(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    tell(db, args, reply, |entry, reply| {
        reply.integer(references_to(&entry.value));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};
    use super::rdb;

    #[test]
    fn it_is_told_how_redis_would_keep_a_value() {
        let long = "x".repeat(45);
        let set_long = format!("set c {long}");
        transcript(&[
            ("mset a 9999 b 10000 s x44 e \"\"", "+OK"),
            (&set_long, "+OK"),
            ("object encoding a", "$3 int"),
            ("object encoding s", "$6 embstr"),
            ("object encoding e", "$6 embstr"),
            ("object encoding c", "$3 raw"),
            ("object encoding x", "$-1"),
            ("object refcount a", ":2147483647"),
            ("object refcount b", ":1"),
            ("object idletime a", ":0"),
            ("object freq x", "$-1"),
            ("object encoding", "-ERR wrong number of arguments for 'object|encoding' command"),
            ("object nosuch a", "-ERR unknown subcommand 'nosuch'. Try OBJECT HELP."),
        ]);
    }

    #[test]
    fn a_dumped_value_is_restored() {
        let quoted = |payload: Vec<u8>| {
            let bytes = payload.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("\"{}\"", bytes.collect::<String>())
        };
        let payload = quoted(rdb::encode(b"\xffvalue"));
        let list = "\"\\x01\\x00\\x0a\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\"";
        let mut session = Session::default();
        session.run("set a \"\\xffvalue\"");
        assert_eq!(session.reply_to("dump a"), {
            let payload = rdb::encode(b"\xffvalue");
            [format!("${}\r\n", payload.len()).as_bytes(), &payload[..], b"\r\n"].concat()
        });
        for (words, expected) in [
            (format!("a 0 {payload}"), "-BUSYKEY Target key name already exists."),
            (format!("a 0 {payload} replace"), "+OK"),
            (format!("b 0 {payload}"), "+OK"),
            (format!("c 100000 {payload} idletime 5"), "+OK"),
            (format!("d 1 {payload} absttl freq 255"), "+OK"),
            (format!("b 1 {payload} absttl replace"), "+OK"),
            (format!("e -1 {payload}"), "-ERR Invalid TTL value, must be >= 0"),
            (format!("e x {payload}"), "-ERR value is not an integer or out of range"),
            (format!("e 0 {payload} nosuch"), "-ERR syntax error"),
            (format!("e 0 {payload} idletime 1 freq 1"), "-ERR syntax error"),
            (format!("e 0 {payload} freq"), "-ERR syntax error"),
            (format!("e 0 {payload} freq 256"), "-ERR Invalid FREQ value, must be >= 0 and <= 255"),
            (format!("e 0 {payload} idletime -1"), "-ERR Invalid IDLETIME value, must be >= 0"),
            ("e 0 nonsense".into(), "-ERR DUMP payload version or checksum are wrong"),
            (format!("e 0 {list}"), "-ERR DUMP payload version or checksum are wrong"),
        ] {
            let reply = session.run(&format!("restore {words}"));
            assert_eq!(reply.trim_end(), expected, "{words}");
        }
        assert_eq!(session.run("exists a c"), ":2\r\n");
        assert_eq!(session.run("exists b d e"), ":0\r\n");
        assert_eq!(session.run("ttl c"), ":100\r\n");
        assert_eq!(session.run("dump b"), "$-1\r\n");
    }
}
