//! CLIENT: what connections say and ask about themselves. Client libraries send some of it on
//! connecting.

use super::connection::check_name;
use super::errors::{SYNTAX, refused};
use super::introspection::container_help;
use super::numbers::integer_or;
use super::{Client, Command, Flags, Group, Outcome, Run};
use crate::protocol::{Args, Reply};

const QUIET: Flags = Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE);
const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Connection, "client", -2, Run::Local(container_help))
        .subcommands(SUBCOMMANDS)
        .help("CLIENT subcommand", "What is to be known of connections; see CLIENT HELP")];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Connection, "client|id", 2, Run::Local(id))
        .flags(QUIET)
        .help("CLIENT ID", "The number of this connection"),
    Command::new(Group::Connection, "client|getname", 2, Run::Local(getname))
        .flags(QUIET)
        .help("CLIENT GETNAME", "The name of this connection"),
    Command::new(Group::Connection, "client|setname", 3, Run::Local(setname))
        .flags(QUIET)
        .help("CLIENT SETNAME name", "Names this connection; an empty name takes it away"),
    Command::new(Group::Connection, "client|setinfo", 4, Run::Local(setinfo)).flags(QUIET).help(
        "CLIENT SETINFO LIB-NAME name | LIB-VER version",
        "Taken from libraries, and ignored",
    ),
    Command::new(Group::Connection, "client|info", 2, Run::Local(info))
        .flags(QUIET)
        .help("CLIENT INFO", "What is known of this connection"),
    Command::new(Group::Connection, "client|list", -2, Run::Local(list))
        .flags(QUIET.and(Flags::ADMIN))
        .help("CLIENT LIST [ID id [id ...]]", "What is known of all connections"),
    Command::new(Group::Connection, "client|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("CLIENT HELP", "Lists these subcommands"),
];

fn id(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(client.id() as i64);
    Ok(())
}

fn getname(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match client.name() {
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
        let attribute = String::from_utf8_lossy(attribute);
        return Err(refused(format!("ERR Unrecognized option '{attribute}'")));
    }
    if !args[3].iter().all(u8::is_ascii_graphic) {
        let attribute = String::from_utf8_lossy(attribute);
        return Err(refused(format!(
            "ERR {attribute} cannot contain spaces, newlines or special characters."
        )));
    }
    reply.ok();
    Ok(())
}

fn info(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.verbatim(&(client.describe() + "\n"));
    Ok(())
}

fn list(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let lines = client.list();
    if args.len() == 2 {
        reply.verbatim(&lines);
        return Ok(());
    }
    if args.len() < 4 || !args[2].eq_ignore_ascii_case(b"id") {
        return Err(SYNTAX.into());
    }
    let mut wanted = Vec::new();
    for word in args.iter().skip(3) {
        let id = integer_or(word, "ERR Invalid client ID")?;
        wanted.push(format!("id={id} "));
    }
    let chosen = |line: &&str| wanted.iter().any(|id| line.starts_with(id));
    reply.verbatim(&lines.split_inclusive('\n').filter(chosen).collect::<String>());
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
            ("client list id 8", "$0 "),
            ("client list id x", "-ERR Invalid client ID"),
            ("client foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP."),
            ("client", "-ERR wrong number of arguments for 'client' command"),
        ]);
    }
}
