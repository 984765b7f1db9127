//! The connection itself: greeting, leaving, the protocol's version.

use super::errors::{NO_SUCH_DATABASE, refused, shown, wrong_arity};
use super::numbers::{integer_or, small_integer};
use super::{Abort, Client, Command, Flags, Group, Outcome, REDIS_VERSION, Run};
use crate::protocol::{Args, Reply, Version};

/// At any time, whatever state the server is in.
const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE).and(Flags::FAST);
/// What gets a connection in and out.
const DOOR: Flags = ALWAYS.and(Flags::NOSCRIPT).and(Flags::NO_AUTH).and(Flags::ALLOW_BUSY);

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Connection, "ping", -1, Run::Local(ping))
        .flags(Flags::FAST)
        .help("PING [message]", "Replies with PONG, or with the message"),
    Command::new(Group::Connection, "echo", 2, Run::Local(echo))
        .flags(ALWAYS)
        .help("ECHO message", "Replies with the message"),
    Command::new(Group::Connection, "quit", -1, Run::Local(quit))
        .flags(DOOR)
        .help("QUIT", "Closes the connection"),
    Command::new(Group::Connection, "hello", -1, Run::Local(hello)).flags(DOOR).help(
        "HELLO [protover [AUTH username password] [SETNAME name]]",
        "Says who the server is, and switches to RESP version 2 or 3",
    ),
    Command::new(Group::Connection, "auth", -2, Run::Local(auth))
        .flags(DOOR)
        .help("AUTH [username] password", "Logs in; there is but the user default"),
    Command::new(Group::Connection, "select", 2, Run::Local(select))
        .flags(ALWAYS)
        .help("SELECT index", "Makes the connection work on another database"),
    Command::new(Group::Connection, "reset", 1, Run::Local(reset))
        .flags(DOOR)
        .help("RESET", "Makes the connection as it was when it was new"),
];

fn ping(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match (args.get(1), args.len()) {
        (Some(message), 2) => reply.bulk(message),
        (Some(_), _) => return Err(wrong_arity("ping")),
        (None, _) => reply.simple("PONG"),
    }
    Ok(())
}

fn echo(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.bulk(&args[1]);
    Ok(())
}

fn quit(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.ok();
    client.close();
    Ok(())
}

/// As in Redis, AUTH and SETNAME take effect as they are read, whatever comes behind them.
fn hello(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let version = match args.get(1) {
        Some(word) => parse_version(word)?,
        None => client.version(),
    };
    let mut words = args.iter().skip(2);
    while let Some(option) = words.next() {
        if option.eq_ignore_ascii_case(b"auth") && words.len() >= 2 {
            let user = words.next().unwrap_or_default();
            log_in(client, user, words.next().unwrap_or_default())?;
        } else if option.eq_ignore_ascii_case(b"setname") && words.len() >= 1 {
            client.set_name(check_name(words.next().unwrap_or_default())?);
        } else {
            let option = shown(option);
            return Err(refused(format!("ERR Syntax error in HELLO option '{option}'")));
        }
    }
    if !client.is_authenticated() {
        return Err(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise \
                    the HELLO AUTH <user> <pass> option can be used to authenticate the client and \
                    select the RESP protocol version at the same time"
                .into(),
        );
    }
    client.set_version(version);
    let mut greeting = Vec::new();
    greet(client.id(), &mut Reply::new(&mut greeting, version));
    reply.encoded(&greeting);
    Ok(())
}

fn parse_version(word: &[u8]) -> Result<Version, Abort> {
    match integer_or(word, "ERR Protocol version is not an integer or out of range")? {
        2 => Ok(Version::Resp2),
        3 => Ok(Version::Resp3),
        _ => Err("NOPROTO unsupported protocol version".into()),
    }
}

fn greet(id: u64, reply: &mut Reply<'_>) {
    let number = if reply.version() == Version::Resp3 { 3 } else { 2 };
    reply.map(7);
    for (name, value) in [("server", env!("CARGO_PKG_NAME")), ("version", REDIS_VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(number);
    reply.bulk(b"id");
    reply.integer(id as i64);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

fn auth(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match args.len() {
        2 if client.has_password() => log_in(client, USER, &args[1])?,
        2 => {
            return Err("ERR AUTH <password> called without any password configured for the \
                        default user. Are you sure your configuration is correct?"
                .into());
        }
        3 => log_in(client, &args[1], &args[2])?,
        _ => return Err(super::errors::SYNTAX.into()),
    }
    reply.ok();
    Ok(())
}

/// The one user.
const USER: &[u8] = b"default";

/// Where no password is asked for, any will do.
fn log_in(client: &mut dyn Client, user: &[u8], password: &[u8]) -> Result<(), Abort> {
    if user == USER && client.authenticate(password) {
        return Ok(());
    }
    Err("WRONGPASS invalid username-password pair or user is disabled.".into())
}

/// A connection's name is shown in lists of words separated by spaces.
pub(super) fn check_name(name: &[u8]) -> Result<&[u8], Abort> {
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(name);
    }
    Err("ERR Client names cannot contain spaces, newlines or special characters.".into())
}

fn select(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let database = usize::try_from(small_integer(&args[1])?).map_err(|_| NO_SUCH_DATABASE)?;
    if !client.select(database) {
        return Err(NO_SUCH_DATABASE.into());
    }
    reply.ok();
    Ok(())
}

fn reset(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    client.set_version(Version::Resp2);
    client.set_name(b"");
    client.select(0);
    client.start_over();
    reply.simple("RESET");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};

    #[test]
    fn connections_are_greeted_and_left() {
        transcript(&[
            ("ping", "+PONG"),
            ("PING hi", "$2 hi"),
            ("ping a b", "-ERR wrong number of arguments for 'ping' command"),
            ("echo \"\"", "$0 "),
            ("select 0", "+OK"),
            ("select 15", "+OK"),
            ("select 16", "-ERR DB index is out of range"),
            ("select -1", "-ERR DB index is out of range"),
            ("select x", "-ERR value is not an integer or out of range"),
            ("hello 4", "-NOPROTO unsupported protocol version"),
            ("hello x", "-ERR Protocol version is not an integer or out of range"),
            ("hello 2 foo", "-ERR Syntax error in HELLO option 'foo'"),
            ("hello 3 auth a b", "-WRONGPASS invalid username-password pair or user is disabled."),
            ("get a", "$-1"),
            ("auth default x", "+OK"),
        ]);
        let mut session = Session::default();
        assert_eq!(session.run("quit"), "+OK\r\n");
        assert!(session.client.closed);
    }

    #[test]
    fn the_greeting_is_in_the_version_that_it_begins() {
        let mut session = Session::default();
        let greeting = session.run("hello 3 setname me");
        assert!(greeting.starts_with("%7\r\n$6\r\nserver\r\n$3\r\nkvs\r\n"), "{greeting}");
        assert!(greeting.contains("\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n"), "{greeting}");
        assert_eq!(session.run("client getname"), "$2\r\nme\r\n");
        assert_eq!(session.run("get a"), "_\r\n");
        assert!(session.run("hello 2").starts_with("*14\r\n"));
        session.run("hello 3");
        assert_eq!(session.run("reset"), "+RESET\r\n");
        assert_eq!(session.run("client getname"), "$-1\r\n");
    }
}
