//! DEBUG: for tests of this server and of its clients, where `enable-debug-command` allows it.

use std::time::Duration;

use super::dump::{encoding_of, references_to};
use super::errors::{NO_SUCH_KEY, wrong_words};
use super::introspection::container_help;
use super::{Client, Command, Flags, Group, Outcome, Reads, Run, rdb};
use crate::protocol::{Args, Reply, Version};

const DEBUG: Flags =
    Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::LOADING).and(Flags::STALE).and(Flags::PROTECTED);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Server, "debug", -2, Run::Local(no_such_subcommand))
        .flags(DEBUG)
        .subcommands(SUBCOMMANDS)
        .help("DEBUG subcommand", "For tests, where enable-debug-command allows it")];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "debug|sleep", 3, Run::Scan(sleep))
        .flags(DEBUG)
        .help("DEBUG SLEEP seconds", "Holds this connection up for so long, not the others"),
    Command::new(Group::Server, "debug|set-active-expire", 3, Run::Local(set_active_expire))
        .flags(DEBUG)
        .help(
            "DEBUG SET-ACTIVE-EXPIRE 0 | 1",
            "Whether expired keys are removed in the background",
        ),
    Command::new(Group::Server, "debug|object", 3, Run::Read(object))
        .keys(2, 2, 1)
        .flags(DEBUG)
        .help(
            "DEBUG OBJECT key",
            "How Redis would keep the value if it were SET, and the length of its serialised form",
        ),
    Command::new(Group::Server, "debug|protocol", 3, Run::Local(protocol)).flags(DEBUG).help(
        "DEBUG PROTOCOL type",
        "A reply of this type, for clients to try; one that is unknown is told which there are",
    ),
    Command::new(Group::Server, "debug|help", 2, Run::Local(container_help))
        .flags(DEBUG)
        .help("DEBUG HELP", "Lists these subcommands"),
];

fn no_such_subcommand(_: &mut dyn Client, args: Args<'_>, _: &mut Reply<'_>) -> Outcome {
    Err(wrong_words(args))
}

fn sleep(_: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let seconds = std::str::from_utf8(&args[2]).ok().and_then(|text| text.parse::<f64>().ok());
    // What is no number is none, as in Redis.
    let time = Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default();
    std::thread::sleep(time);
    reply.ok();
    Ok(())
}

fn set_active_expire(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    // As C's `atoi` reads it, so what is no number is 0.
    let digits = args[2].iter().take_while(|byte| byte.is_ascii_digit());
    client.set_active_expiry(digits.copied().any(|digit| digit != b'0'));
    reply.ok();
    Ok(())
}

/// There is no address to tell, nor a time of the last use.
fn object(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = db.get(&args[2])?.ok_or(NO_SUCH_KEY)?;
    let (encoding, references) = (encoding_of(&entry.value), references_to(&entry.value));
    reply.simple(&format!(
        "Value at:0x0 refcount:{references} encoding:{encoding} serializedlength:{} lru:0 \
         lru_seconds_idle:0",
        rdb::encoded_len(&entry.value)
    ));
    Ok(())
}

/// What Redis replies, so that the same tests of clients pass.
#[allow(clippy::approx_constant, reason = "it is the number that Redis replies")]
fn protocol(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match args[2].to_ascii_lowercase().as_slice() {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.integer(12345),
        b"double" => reply.double(3.141),
        b"bignum" => reply.big_number("1234567999999999999999999999999999999"),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"map" => {
            reply.map(3);
            for number in 0..3 {
                reply.integer(number);
                reply.boolean(number == 1);
            }
        }
        b"attrib" => {
            if reply.attribute(1) {
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.integer(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        b"push" if reply.version() == Version::Resp2 => {
            return Err("ERR RESP2 is not supported by this command".into());
        }
        b"push" => {
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
            reply.bulk(b"Some real reply following the push reply");
        }
        b"verbatim" => reply.verbatim("This is a verbatim\nstring"),
        b"true" => reply.boolean(true),
        b"false" => reply.boolean(false),
        _ => {
            return Err("ERR Wrong protocol type name. Please use one of the following: \
                        string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|\
                        false"
                .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};

    #[test]
    fn what_tests_ask_for_is_there() {
        transcript(&[
            ("debug sleep 0", "+OK"),
            ("debug set-active-expire 1", "+OK"),
            ("debug set-active-expire x", "+OK"),
            ("debug object a", "-ERR no such key"),
            ("set a 300", "+OK"),
            (
                "debug object a",
                "+Value at:0x0 refcount:2147483647 encoding:int serializedlength:3 lru:0 \
                 lru_seconds_idle:0",
            ),
            (
                "debug sleep",
                "-ERR unknown subcommand or wrong number of arguments for 'sleep'. Try DEBUG HELP.",
            ),
            (
                "debug jmap x",
                "-ERR unknown subcommand or wrong number of arguments for 'jmap'. Try DEBUG HELP.",
            ),
        ]);
    }

    #[test]
    fn every_type_of_reply_can_be_had() {
        let types = [
            ("string", "$11 Hello World", "$11 Hello World"),
            ("integer", ":12345", ":12345"),
            ("double", "$5 3.141", ",3.141"),
            (
                "bignum",
                "$37 1234567999999999999999999999999999999",
                "(1234567999999999999999999999999999999",
            ),
            ("null", "$-1", "_"),
            ("array", "*3 :0 :1 :2", "*3 :0 :1 :2"),
            ("SET", "*3 :0 :1 :2", "~3 :0 :1 :2"),
            ("map", "*6 :0 :0 :1 :1 :2 :0", "%3 :0 #f :1 #t :2 #f"),
            (
                "attrib",
                "$39 Some real reply following the attribute",
                "|1 $14 key-popularity *2 $7 key:123 :90 $39 Some real reply following the attribute",
            ),
            (
                "push",
                "-ERR RESP2 is not supported by this command",
                ">2 $16 server-cpu-usage :42 $40 Some real reply following the push reply",
            ),
            ("verbatim", "$25 This is a verbatim\nstring", "=29 txt:This is a verbatim\nstring"),
            ("true", ":1", "#t"),
            ("false", ":0", "#f"),
        ];
        let mut session = Session::default();
        for version in ["2", "3"] {
            session.run(&format!("hello {version}"));
            for (name, resp2, resp3) in types {
                let reply = session.run(&format!("debug protocol {name}"));
                let shown = reply.trim_end_matches("\r\n").replace("\r\n", " ");
                assert_eq!(shown, if version == "2" { resp2 } else { resp3 }, "{name}");
            }
        }
        let refused = session.run("debug protocol hash");
        assert!(refused.starts_with("-ERR Wrong protocol type name. Please"), "{refused}");
    }
}
