//! ACL, as far as one user and no rules go.

use super::errors::{refused, shown, wrong_words};
use super::introspection::{categories, container_help};
use super::{Client, Command, Flags, Group, Outcome, Run, commands};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);
const QUIET: Flags = ALWAYS.and(Flags::NOSCRIPT);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Server, "acl", -2, Run::Local(container_help))
        .subcommands(SUBCOMMANDS)
        .help("ACL subcommand", "The one user and the categories of commands; see ACL HELP")];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "acl|whoami", 2, Run::Local(whoami))
        .flags(QUIET)
        .help("ACL WHOAMI", "The user of this connection"),
    Command::new(Group::Server, "acl|users", 2, Run::Local(users))
        .flags(QUIET.and(Flags::ADMIN))
        .help("ACL USERS", "All users: default"),
    Command::new(Group::Server, "acl|cat", -2, Run::Local(cat))
        .flags(QUIET)
        .help("ACL CAT [category]", "The categories of commands, or the commands of one"),
    Command::new(Group::Server, "acl|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("ACL HELP", "Lists these subcommands"),
];

/// All that Redis has, whether or not a command of ours is in it.
const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

fn whoami(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.bulk(b"default");
    Ok(())
}

fn users(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(1);
    reply.bulk(b"default");
    Ok(())
}

fn cat(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let names: Vec<&str> = match args.get(2) {
        _ if args.len() > 3 => return Err(wrong_words(args)),
        None => CATEGORIES.to_vec(),
        Some(category) => {
            let is = |name: &str| name.as_bytes().eq_ignore_ascii_case(category);
            if !CATEGORIES.iter().any(|known| is(known)) {
                let category = shown(category);
                return Err(refused(format!("ERR Unknown category '{category}'")));
            }
            let rows = commands().flat_map(|row| std::iter::once(row).chain(row.subcommands));
            rows.filter(|row| categories(row).any(is)).map(|row| row.name).collect()
        }
    };
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};

    #[test]
    fn there_is_one_user_and_there_are_categories() {
        transcript(&[
            ("acl whoami", "$7 default"),
            ("acl users", "*1 $7 default"),
            ("acl cat foo", "-ERR Unknown category 'foo'"),
            ("acl cat list", "*0"),
        ]);
        assert!(Session::default().run("acl cat").starts_with("*21\r\n$8\r\nkeyspace\r\n"));
        assert!(Session::default().run("acl cat BITMAP").contains("$8\r\nbitfield\r\n"));
    }
}
