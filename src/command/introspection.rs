//! COMMAND: what the table holds, for clients that ask. Also the HELP of commands that have
//! subcommands.

use super::errors::SYNTAX;
use super::key_use::{KeyUse, flags_of_request, key_uses};
use super::syntax::{has_arguments, write_arguments};
use super::table::places;
use super::{
    Abort, Client, Command, Flags, Group, Keys, Outcome, Run, commands, keys_of, lookup,
    matches_nocase,
};
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
    Command::new(Group::Server, "command|getkeysandflags", -4, Run::Local(getkeysandflags))
        .flags(ALWAYS)
        .help(
            "COMMAND GETKEYSANDFLAGS command [word ...]",
            "The same, with what is done with each key",
        ),
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
    reply.set(0);
    let uses = key_uses(command);
    reply.set(uses.len());
    uses.iter().for_each(|used| write_key_use(used, reply));
    reply.set(command.subcommands.len());
    command.subcommands.iter().for_each(|sub| write_info(sub, reply));
}

/// A key specification: which words are keys, and what is done with them.
fn write_key_use(used: &KeyUse, reply: &mut Reply<'_>) {
    let Keys { first, last, step } = used.keys;
    // It counts from the first key on, or from the end.
    let last = if last < 0 { last } else { last - first };
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(used.flags.split(' ').count());
    used.flags.split(' ').for_each(|flag| reply.simple(flag));
    write_search("begin_search", "index", &[("index", first)], reply);
    let range = [("lastkey", last), ("keystep", step), ("limit", 0)];
    write_search("find_keys", "range", &range, reply);
}

fn write_search(name: &str, kind: &str, spec: &[(&str, i8)], reply: &mut Reply<'_>) {
    reply.bulk(name.as_bytes());
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(spec.len());
    for (name, value) in spec {
        reply.bulk(name.as_bytes());
        reply.integer((*value).into());
    }
}

/// The categories that Redis's access lists would know the command by.
pub(super) fn categories(command: &Command) -> impl Iterator<Item = &'static str> + Clone {
    let flags = command.flags;
    let has = move |flag, name| flags.contain(flag).then_some(name);
    // What Redis has in them beside the commands that their flags put there.
    let admin = matches!(command.name, "lastsave" | "role");
    let dangerous = admin
        || matches!(command.name, "flushall" | "flushdb" | "info" | "keys" | "restore" | "swapdb");
    let fast = if flags.contain(Flags::FAST) { "fast" } else { "slow" };
    let sets = [
        family(command),
        // To Redis they read no keys.
        has(Flags::READONLY, "read").filter(|_| !matches!(command.name, "save" | "bgsave")),
        has(Flags::WRITE, "write"),
        has(Flags::ADMIN, "admin").or(admin.then_some("admin")),
        has(Flags::ADMIN, "dangerous").or(dangerous.then_some("dangerous")),
        Some(fast),
    ];
    sets.into_iter().flatten()
}

fn family(command: &Command) -> Option<&'static str> {
    match (command.name, command.group) {
        ("dbsize" | "flushall" | "flushdb" | "swapdb", _) => Some("keyspace"),
        ("wait" | "waitaof", _) => Some("connection"),
        (name, _) if name.split('|').next() == Some("command") => Some("connection"),
        // A container is not called itself.
        _ if !command.subcommands.is_empty() => None,
        (_, Group::Server) => None,
        (_, Group::Generic) => Some("keyspace"),
        (_, Group::Cluster) => Some("connection"),
        (_, Group::Transaction) => Some("transaction"),
        (_, group) => Some(group.name()),
    }
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

/// The command that GETKEYS is asked about, which has keys and takes so many words.
fn keyed_command(words: Args<'_>) -> Result<&'static Command, Abort> {
    const INVALID: &str = "ERR Invalid command specified";
    let command = lookup(&words[0]).ok_or(INVALID)?;
    let command = match words.get(1) {
        Some(name) if !command.subcommands.is_empty() => command.subcommand(name).ok_or(INVALID)?,
        _ => command,
    };
    if command.keys == Keys::NONE {
        return Err("ERR The command has no key arguments".into());
    }
    if !command.takes(words.len()) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    Ok(command)
}

fn getkeys(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let words = args.from(2);
    let keys: Vec<&[u8]> = keys_of(keyed_command(words)?, words).collect();
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

fn getkeysandflags(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let words = args.from(2);
    let command = keyed_command(words)?;
    let mut keys: Vec<(&[u8], &str)> = Vec::new();
    for used in key_uses(command) {
        let flags = flags_of_request(command, used.flags, words);
        let found = places(used.keys, words.len()).filter_map(|place| words.get(place));
        keys.extend(found.map(|key| (key, flags)));
    }
    reply.array(keys.len());
    for (key, flags) in keys {
        reply.array(2);
        reply.bulk(key);
        reply.set(flags.split(' ').count());
        flags.split(' ').for_each(|flag| reply.simple(flag));
    }
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
                "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@string +@read +@fast *0 *1 *6 $5 flags *2 +RO +access $12 begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 $9 find_keys *4 $4 type $5 range $4 spec *6 $7 lastkey :0 $7 keystep :1 $5 limit :0 *0 $-1",
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
            ("command getkeys object encoding k", "*1 $1 k"),
            ("command getkeysandflags set a b", "*1 *2 $1 a *2 +OW +update"),
            ("command getkeysandflags set a b get", "*1 *2 $1 a *3 +RW +access +update"),
            (
                "command getkeysandflags rename a b",
                "*2 *2 $1 a *3 +RW +access +delete *2 $1 b *2 +OW +update",
            ),
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
