//! SLOWLOG: the commands that took longest.

use super::errors::wrong_words;
use super::introspection::container_help;
use super::numbers::integer_or;
use super::{Client, Command, Flags, Group, Outcome, Run};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);
const OPERATION: Flags = ALWAYS.and(Flags::ADMIN);

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Server, "slowlog", -2, Run::Local(container_help))
        .subcommands(SUBCOMMANDS)
        .help("SLOWLOG subcommand", "The commands that took longest; see SLOWLOG HELP")];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "slowlog|get", -2, Run::Local(get))
        .flags(OPERATION)
        .help("SLOWLOG GET [count]", "The newest 10 entries, or so many, or all (-1)"),
    Command::new(Group::Server, "slowlog|len", 2, Run::Local(len))
        .flags(OPERATION)
        .help("SLOWLOG LEN", "The number of entries"),
    Command::new(Group::Server, "slowlog|reset", 2, Run::Local(reset))
        .flags(OPERATION)
        .help("SLOWLOG RESET", "Forgets all entries"),
    Command::new(Group::Server, "slowlog|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("SLOWLOG HELP", "Lists these subcommands"),
];

/// A command that was slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowEntry {
    /// Its number in the log.
    pub id: u64,
    /// When it ended, in seconds since 1970.
    pub seconds: u64,
    /// How long it took.
    pub micros: u64,
    /// Its words, shortened.
    pub words: Vec<Vec<u8>>,
    /// Where its client came from.
    pub addr: String,
    /// What the client was called.
    pub name: Vec<u8>,
}

fn get(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    const DEFAULT: usize = 10;
    const TOO_SMALL: &str = "ERR count should be greater than or equal to -1";
    let count = match args.get(2) {
        _ if args.len() > 3 => return Err(wrong_words(args)),
        None => DEFAULT,
        Some(word) => match integer_or(word, TOO_SMALL)? {
            -1 => usize::MAX,
            count => usize::try_from(count).map_err(|_| TOO_SMALL)?,
        },
    };
    let entries = client.slow_entries(count);
    reply.array(entries.len());
    for entry in entries {
        reply.array(6);
        reply.integer(entry.id as i64);
        reply.integer(entry.seconds as i64);
        reply.integer(entry.micros as i64);
        reply.array(entry.words.len());
        entry.words.iter().for_each(|word| reply.bulk(word));
        reply.bulk(entry.addr.as_bytes());
        reply.bulk(&entry.name);
    }
    Ok(())
}

fn len(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(client.slow_len() as i64);
    Ok(())
}

fn reset(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    client.forget_slow();
    reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn counts_are_checked() {
        transcript(&[
            ("slowlog get", "*0"),
            ("slowlog get -1", "*0"),
            ("slowlog get -2", "-ERR count should be greater than or equal to -1"),
            ("slowlog get x", "-ERR count should be greater than or equal to -1"),
            (
                "slowlog get 1 2",
                "-ERR unknown subcommand or wrong number of arguments for 'get'. Try SLOWLOG HELP.",
            ),
            ("slowlog len", ":0"),
            ("slowlog len x", "-ERR wrong number of arguments for 'slowlog|len' command"),
            ("slowlog reset", "+OK"),
        ]);
    }
}
