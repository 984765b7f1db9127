//! CLIENT: what connections say and ask about themselves and about others. Client libraries send
//! some of it on connecting.

use std::time::Duration;

use super::connection::check_name;
use super::errors::{SYNTAX, refused, shown, wrong_words};
use super::introspection::container_help;
use super::numbers::{integer, integer_or};
use super::{Abort, Client, Command, Flags, Group, Outcome, Run};
use crate::protocol::{Args, Reply};

const QUIET: Flags = Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE);
const OPERATION: Flags = QUIET.and(Flags::ADMIN);
const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Connection, "client", -2, Run::Local(container_help))
        .subcommands(SUBCOMMANDS)
        .help("CLIENT subcommand", "What is to be known of connections; see CLIENT HELP")];

const fn sub(
    name: &'static str,
    arity: i32,
    run: fn(&mut dyn Client, Args<'_>, &mut Reply<'_>) -> Outcome,
    flags: Flags,
) -> Command {
    Command::new(Group::Connection, name, arity, Run::Local(run)).flags(flags)
}

const SUBCOMMANDS: &[Command] = &[
    sub("client|id", 2, id, QUIET).help("CLIENT ID", "The number of this connection"),
    sub("client|getname", 2, getname, QUIET).help("CLIENT GETNAME", "The name of this connection"),
    sub("client|setname", 3, setname, QUIET)
        .help("CLIENT SETNAME name", "Names this connection; an empty name takes it away"),
    sub("client|setinfo", 4, setinfo, QUIET).help(
        "CLIENT SETINFO LIB-NAME name | LIB-VER version",
        "Taken from libraries, and ignored",
    ),
    sub("client|info", 2, info, QUIET).help("CLIENT INFO", "What is known of this connection"),
    sub("client|list", -2, list, OPERATION).help(
        "CLIENT LIST [TYPE NORMAL | MASTER | REPLICA | PUBSUB] [ID id [id ...]]",
        "What is known of all connections",
    ),
    sub("client|kill", -3, kill, OPERATION).help(
        "CLIENT KILL ip:port | [ID id] [ADDR ip:port] [LADDR ip:port] [TYPE type] [USER user] \
         [SKIPME YES | NO]",
        "Closes the connections that match all of this",
    ),
    sub("client|reply", 3, reply_mode, QUIET).help(
        "CLIENT REPLY ON | OFF | SKIP",
        "Whether this connection's requests, or the next one, are answered",
    ),
    sub("client|pause", -3, pause, OPERATION).help(
        "CLIENT PAUSE milliseconds [WRITE | ALL]",
        "Holds back all requests, or those that write, of all clients",
    ),
    sub("client|unpause", 2, unpause, OPERATION).help("CLIENT UNPAUSE", "Ends a pause"),
    sub("client|no-evict", 3, no_evict, OPERATION)
        .help("CLIENT NO-EVICT ON | OFF", "Taken note of; no client is evicted"),
    sub("client|unblock", -3, unblock, OPERATION).help(
        "CLIENT UNBLOCK id [TIMEOUT | ERROR]",
        "Replies with 0: no command blocks until it is woken",
    ),
    sub("client|getredir", 2, getredir, QUIET)
        .help("CLIENT GETREDIR", "Replies with -1: there is no tracking"),
    sub("client|trackinginfo", 2, trackinginfo, QUIET)
        .help("CLIENT TRACKINGINFO", "Tells that there is no tracking"),
    sub("client|help", 2, container_help, ALWAYS).help("CLIENT HELP", "Lists these subcommands"),
];

/// Which connections are meant: those for which all of this holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFilter {
    /// It is this one.
    pub number: Option<u64>,
    /// It comes from there.
    pub addr: Option<String>,
    /// It came to this address.
    pub laddr: Option<String>,
    /// Of those that are no replicas, masters or subscribers: all are. Else none is meant.
    pub normal: bool,
    /// It is not the one that asks.
    pub skip_me: bool,
}

impl ClientFilter {
    /// Every connection.
    pub const ALL: ClientFilter =
        ClientFilter { number: None, addr: None, laddr: None, normal: true, skip_me: false };

    fn number(number: u64) -> ClientFilter {
        ClientFilter { number: Some(number), ..ClientFilter::ALL }
    }
}

/// What CLIENT REPLY asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    /// Requests are answered.
    On,
    /// They are not.
    Off,
    /// The next one is not.
    Skip,
}

fn id(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(client.id() as i64);
    Ok(())
}

fn getname(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match client.name().as_slice() {
        b"" => reply.null(),
        name => reply.bulk(name),
    }
    Ok(())
}

fn setname(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    client.set_name(check_name(&args[2])?);
    reply.ok();
    Ok(())
}

fn setinfo(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let attribute = &args[2];
    let known = [&b"lib-name"[..], b"lib-ver"].iter().any(|a| attribute.eq_ignore_ascii_case(a));
    if !known {
        let attribute = shown(attribute);
        return Err(refused(format!("ERR Unrecognized option '{attribute}'")));
    }
    if !args[3].iter().all(u8::is_ascii_graphic) {
        let attribute = shown(attribute);
        return Err(refused(format!(
            "ERR {attribute} cannot contain spaces, newlines or special characters."
        )));
    }
    reply.ok();
    Ok(())
}

fn info(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.verbatim(&client.list(&ClientFilter::number(client.id())));
    Ok(())
}

fn list(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let option = |name: &[u8]| args.get(2).is_some_and(|word| word.eq_ignore_ascii_case(name));
    let mut lines = String::new();
    if args.len() == 4 && option(b"type") {
        let filter = ClientFilter { normal: is_normal(&args[3])?, ..ClientFilter::ALL };
        lines = client.list(&filter);
    } else if args.len() > 3 && option(b"id") {
        // In the order in which they are asked for.
        for word in args.iter().skip(3) {
            let id = integer_or(word, "ERR Invalid client ID")?;
            lines += &client.list(&ClientFilter::number(u64::try_from(id).unwrap_or(0)));
        }
    } else if args.len() == 2 {
        lines = client.list(&ClientFilter::ALL);
    } else {
        return Err(SYNTAX.into());
    }
    reply.verbatim(&lines);
    Ok(())
}

/// Whether a type of clients is the one that all are of.
fn is_normal(name: &[u8]) -> Result<bool, Abort> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if ["normal", "master", "replica", "slave", "pubsub"].iter().any(|known| is(known)) {
        return Ok(is("normal"));
    }
    Err(refused(format!("ERR Unknown client type '{}'", shown(name))))
}

fn kill(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len() == 3 {
        let addr = Some(String::from_utf8_lossy(&args[2]).into_owned());
        return match client.kill(&ClientFilter { addr, ..ClientFilter::ALL }) {
            0 => Err("ERR No such client".into()),
            _ => {
                reply.ok();
                Ok(())
            }
        };
    }
    let killed = client.kill(&kill_filter(args)?);
    reply.integer(killed as i64);
    Ok(())
}

fn kill_filter(args: Args<'_>) -> Result<ClientFilter, Abort> {
    let mut filter = ClientFilter { skip_me: true, ..ClientFilter::ALL };
    let mut words = args.iter().skip(2);
    while let Some(option) = words.next() {
        let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
        let value = words.next().ok_or(SYNTAX)?;
        let text = || shown(value).into_owned();
        if is(b"id") {
            const INVALID: &str = "ERR client-id should be greater than 0";
            let id = u64::try_from(integer_or(value, INVALID)?).map_err(|_| INVALID)?;
            filter.number = Some(if id > 0 { id } else { return Err(INVALID.into()) });
        } else if is(b"type") {
            filter.normal = is_normal(value)?;
        } else if is(b"addr") {
            filter.addr = Some(text());
        } else if is(b"laddr") {
            filter.laddr = Some(text());
        } else if is(b"user") {
            if value != b"default" {
                return Err(refused(format!("ERR No such user '{}'", text())));
            }
        } else if is(b"skipme") {
            filter.skip_me = match value {
                yes if yes.eq_ignore_ascii_case(b"yes") => true,
                no if no.eq_ignore_ascii_case(b"no") => false,
                _ => return Err(SYNTAX.into()),
            };
        } else {
            return Err(SYNTAX.into());
        }
    }
    Ok(filter)
}

fn reply_mode(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let is = |name: &[u8]| args[2].eq_ignore_ascii_case(name);
    client.set_replies(match () {
        () if is(b"on") => Replies::On,
        () if is(b"off") => Replies::Off,
        () if is(b"skip") => Replies::Skip,
        () => return Err(SYNTAX.into()),
    });
    // Nobody hears it but after ON.
    reply.ok();
    Ok(())
}

fn pause(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let all = match args.get(3) {
        _ if args.len() > 4 => return Err(wrong_words(args)),
        None => true,
        Some(mode) if mode.eq_ignore_ascii_case(b"all") => true,
        Some(mode) if mode.eq_ignore_ascii_case(b"write") => false,
        Some(_) => return Err("ERR CLIENT PAUSE mode must be WRITE or ALL".into()),
    };
    client.pause(timeout(&args[2])?, all);
    reply.ok();
    Ok(())
}

/// Milliseconds from now.
pub(super) fn timeout(word: &[u8]) -> Result<Duration, Abort> {
    let time = integer_or(word, "ERR timeout is not an integer or out of range")?;
    u64::try_from(time)
        .map(Duration::from_millis)
        .map_err(|_| Abort::from("ERR timeout is negative"))
}

fn unpause(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    client.unpause();
    reply.ok();
    Ok(())
}

fn no_evict(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let is = |name: &[u8]| args[2].eq_ignore_ascii_case(name);
    if !is(b"on") && !is(b"off") {
        return Err(SYNTAX.into());
    }
    client.set_no_evict(is(b"on"));
    reply.ok();
    Ok(())
}

fn unblock(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len() > 4 {
        return Err(wrong_words(args));
    }
    let reason =
        |word: &[u8]| [&b"timeout"[..], b"error"].iter().any(|r| word.eq_ignore_ascii_case(r));
    if args.len() == 4 && !reason(&args[3]) {
        return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into());
    }
    integer(&args[2])?;
    reply.integer(0);
    Ok(())
}

fn getredir(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(-1);
    Ok(())
}

fn trackinginfo(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.integer(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn connections_tell_of_themselves() {
        transcript(&[
            ("client id", ":7"),
            ("client getname", "$-1"),
            ("client setname me", "+OK"),
            ("client getname", "$2 me"),
            (
                "client setname \"a b\"",
                "-ERR Client names cannot contain spaces, newlines or special characters.",
            ),
            ("client setinfo lib-name redis-py", "+OK"),
            ("client setinfo foo bar", "-ERR Unrecognized option 'foo'"),
            ("client info", "$25 id=7 name=me db=0 resp=2\n"),
            ("client list id 7", "$25 id=7 name=me db=0 resp=2\n"),
            ("client list id x", "-ERR Invalid client ID"),
            ("client list type foo", "-ERR Unknown client type 'foo'"),
            ("client list foo", "-ERR syntax error"),
            ("client foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP."),
            ("client", "-ERR wrong number of arguments for 'client' command"),
            ("client getredir", ":-1"),
            ("client trackinginfo", "*6 $5 flags *1 $3 off $8 redirect :-1 $8 prefixes *0"),
        ]);
    }

    #[test]
    fn what_is_asked_of_others_is_checked() {
        transcript(&[
            ("client kill 1.2.3.4:5", "-ERR No such client"),
            ("client kill id 5", ":0"),
            ("client kill id 0", "-ERR client-id should be greater than 0"),
            ("client kill id x", "-ERR client-id should be greater than 0"),
            ("client kill type foo", "-ERR Unknown client type 'foo'"),
            ("client kill user foo", "-ERR No such user 'foo'"),
            ("client kill user default skipme foo", "-ERR syntax error"),
            ("client kill addr a id", "-ERR syntax error"),
            ("client pause x", "-ERR timeout is not an integer or out of range"),
            ("client pause -1", "-ERR timeout is negative"),
            ("client pause 1 foo", "-ERR CLIENT PAUSE mode must be WRITE or ALL"),
            ("client pause 1 write", "+OK"),
            ("client unpause", "+OK"),
            ("client reply foo", "-ERR syntax error"),
            ("client no-evict foo", "-ERR syntax error"),
            ("client no-evict on", "+OK"),
            ("client unblock 1", ":0"),
            (
                "client pause 1 write x",
                "-ERR unknown subcommand or wrong number of arguments for 'pause'. Try CLIENT HELP.",
            ),
            (
                "client UNBLOCK 1 error x",
                "-ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT \
                 HELP.",
            ),
            ("client unblock x", "-ERR value is not an integer or out of range"),
            ("client unblock 1 foo", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
        ]);
    }
}
