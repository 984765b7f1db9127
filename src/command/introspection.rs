//! COMMAND: what the table holds, for clients that ask. Also the HELP of commands that have
//! subcommands.

use super::errors::SYNTAX;
use super::syntax::{has_arguments, write_arguments};
use super::table::key_places;
use super::{Client, Command, Flags, Group, Keys, Outcome, Run, commands, lookup, matches_nocase};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Server, "command", -1, Run::Local(command))
        .flags(ALWAYS)
        .subcommands(SUBCOMMANDS)
        .help("COMMAND", "What is to be known of every command; see COMMAND HELP")];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "command|count", 2, Run::Local(count))
        .flags(ALWAYS)
        .help("COMMAND COUNT", "The number of commands"),
    Command::new(Group::Server, "command|list", -2, Run::Local(list)).flags(ALWAYS).help(
        "COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]",
        "The names of the commands",
    ),
    Command::new(Group::Server, "command|info", -2, Run::Local(info))
        .flags(ALWAYS)
        .help("COMMAND INFO [name ...]", "Arity, flags and keys of commands"),
    Command::new(Group::Server, "command|docs", -2, Run::Local(docs))
        .flags(ALWAYS)
        .help("COMMAND DOCS [name ...]", "Summaries of commands"),
    Command::new(Group::Server, "command|getkeys", -4, Run::Local(getkeys))
        .flags(ALWAYS)
        .help("COMMAND GETKEYS command [word ...]", "The keys among the words of a request"),
    Command::new(Group::Server, "command|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("COMMAND HELP", "Lists these subcommands"),
];

/// Lists the subcommands of the command that the first word names.
pub(super) fn container_help(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let container = lookup(&args[0]).ok_or("ERR unknown command")?;
    let name = container.name.to_ascii_uppercase();
    reply.array(1 + 2 * container.subcommands.len());
    reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for sub in container.subcommands {
        reply.simple(sub.syntax.get(name.len() + 1..).unwrap_or_default());
        reply.simple(&format!("    {}.", sub.summary));
    }
    Ok(())
}

fn command(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    write_all(reply);
    Ok(())
}

fn write_all(reply: &mut Reply<'_>) {
    reply.array(commands().count());
    commands().for_each(|command| write_info(command, reply));
}

fn count(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(commands().count() as i64);
    Ok(())
}

fn list(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let chosen: Vec<&Command> = match args.len() {
        2 => with_subcommands().collect(),
        5 if args[2].eq_ignore_ascii_case(b"filterby") => {
            filtered(&args[3], &args[4]).ok_or(SYNTAX)?
        }
        _ => return Err(SYNTAX.into()),
    };
    reply.array(chosen.len());
    chosen.iter().for_each(|command| reply.bulk(command.name.as_bytes()));
    Ok(())
}

fn filtered(by: &[u8], value: &[u8]) -> Option<Vec<&'static Command>> {
    if by.eq_ignore_ascii_case(b"module") {
        return Some(Vec::new());
    }
    if by.eq_ignore_ascii_case(b"aclcat") {
        let is = |name: &str| name.as_bytes().eq_ignore_ascii_case(value);
        return Some(with_subcommands().filter(|command| categories(command).any(is)).collect());
    }
    let pattern = by.eq_ignore_ascii_case(b"pattern");
    let matches = |command: &&Command| matches_nocase(value, command.name.as_bytes());
    pattern.then(|| with_subcommands().filter(matches).collect())
}

/// Every command, each followed by its subcommands.
fn with_subcommands() -> impl Iterator<Item = &'static Command> {
    commands().flat_map(|command| std::iter::once(command).chain(command.subcommands))
}

/// The command, or `container|subcommand`, of this name.
pub(super) fn by_full_name(name: &[u8]) -> Option<&'static Command> {
    match name.iter().position(|&byte| byte == b'|') {
        Some(bar) => lookup(&name[..bar])?.subcommand(&name[bar + 1..]),
        None => lookup(name),
    }
}

fn info(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len() == 2 {
        write_all(reply);
        return Ok(());
    }
    reply.array(args.len() - 2);
    for name in args.iter().skip(2) {
        match by_full_name(name) {
            Some(command) => write_info(command, reply),
            None => reply.null(),
        }
    }
    Ok(())
}

/// Name, arity, flags, keys, categories, tips, key specifications, subcommands.
fn write_info(command: &Command, reply: &mut Reply<'_>) {
    let Keys { first, last, step } = command.keys;
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    reply.set(command.flags.names().count());
    command.flags.names().for_each(|name| reply.simple(name));
    [first, last, step].iter().for_each(|&place| reply.integer(place.into()));
    reply.set(categories(command).count());
    categories(command).for_each(|name| reply.simple(&format!("@{name}")));
    reply.array(0);
    reply.array(0);
    reply.array(command.subcommands.len());
    command.subcommands.iter().for_each(|sub| write_info(sub, reply));
}

/// The categories that Redis's access lists would know the command by.
fn categories(command: &Command) -> impl Iterator<Item = &'static str> + Clone {
    let flags = command.flags;
    let family = match command.group {
        Group::Generic => Some("keyspace"),
        Group::Server => None,
        group => Some(group.name()),
    };
    let has = move |flag, name| flags.contain(flag).then_some(name);
    let fast = if flags.contain(Flags::FAST) { "fast" } else { "slow" };
    let sets = [
        family,
        has(Flags::READONLY, "read"),
        has(Flags::WRITE, "write"),
        has(Flags::ADMIN, "admin"),
        has(Flags::ADMIN, "dangerous"),
        Some(fast),
    ];
    sets.into_iter().flatten()
}

fn docs(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let chosen: Vec<&Command> = if args.len() == 2 {
        commands().collect()
    } else {
        args.iter().skip(2).filter_map(by_full_name).collect()
    };
    reply.map(chosen.len());
    chosen.iter().for_each(|command| write_docs(command, reply));
    Ok(())
}

fn write_docs(command: &Command, reply: &mut Reply<'_>) {
    let Command { name, syntax, subcommands, .. } = *command;
    let arguments = subcommands.is_empty() && has_arguments(name, syntax);
    let more = arguments || !subcommands.is_empty();
    reply.bulk(name.as_bytes());
    reply.map(2 + usize::from(more));
    reply.bulk(b"summary");
    reply.bulk(command.summary.as_bytes());
    reply.bulk(b"group");
    reply.bulk(command.group.name().as_bytes());
    if arguments {
        reply.bulk(b"arguments");
        write_arguments(name, syntax, reply);
    }
    if !subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(subcommands.len());
        subcommands.iter().for_each(|sub| write_docs(sub, reply));
    }
}

fn getkeys(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let command = lookup(&args[2]).ok_or("ERR Invalid command specified")?;
    if command.keys == Keys::NONE {
        return Err("ERR The command has no key arguments".into());
    }
    let words = args.len() - 2;
    if !command.takes(words) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    let keys: Vec<&[u8]> =
        key_places(command, words).filter_map(|place| args.get(2 + place)).collect();
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};

    #[test]
    fn the_table_is_shown() {
        transcript(&[
            (
                "command info get nosuch",
                "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@string +@read +@fast *0 *0 *0 $-1",
            ),
            (
                "command docs strlen",
                "*2 $6 strlen *6 $7 summary $30 The length of a value in bytes $5 group $6 string \
                 $9 arguments *1 *4 $4 name $3 key $4 type $3 key",
            ),
            ("command list filterby pattern bitf*", "*2 $8 bitfield $11 bitfield_ro"),
            ("command list filterby module x", "*0"),
            ("command list x", "-ERR syntax error"),
            ("command getkeys mset a 1 b 2", "*2 $1 a $1 b"),
            ("command getkeys bitop and x a b", "*3 $1 x $1 a $1 b"),
            ("command getkeys nosuch a", "-ERR Invalid command specified"),
            ("command getkeys ping a", "-ERR The command has no key arguments"),
            ("command getkeys get a b", "-ERR Invalid number of arguments specified for command"),
            ("command nosuch", "-ERR unknown subcommand 'nosuch'. Try COMMAND HELP."),
        ]);
        let mut session = Session::default();
        let count = session.run("command count").trim_start_matches(':').to_owned();
        assert!(session.run("command").starts_with(&format!("*{count}")));
        assert!(session.run("command docs").starts_with("*"));
        assert!(session.run("config help").contains("+GET pattern [pattern ...]\r\n"));
    }
}
