//! The table of all commands, and what can be said of a request before it runs.

use std::borrow::Cow;

use super::errors::printed;
use super::{
    Keys, Run, acl, backup, bitfield, bits, client, connection, counter, debug, dump, expire, help,
    introspection, keys, latency, lcs, lookup, memory, operations, ordered, scripts, server,
    slowlog, string, transaction,
};
use crate::protocol::Args;

/// The family of a command, as COMMAND DOCS and HELP name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Values as strings and numbers.
    String,
    /// Keys whatever their values.
    Generic,
    /// Values as arrays of bits.
    Bitmap,
    /// Keys in their order.
    Ordered,
    /// Several requests as one.
    Transaction,
    /// The connection itself.
    Connection,
    /// The server as a whole.
    Server,
    /// The scripts that there are not.
    Scripting,
    /// The cluster that this is not.
    Cluster,
}

impl Group {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Generic => "generic",
            Group::Bitmap => "bitmap",
            Group::Ordered => "ordered",
            Group::Transaction => "transactions",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Scripting => "scripting",
            Group::Cluster => "cluster",
        }
    }
}

/// What is to be known of a command before it runs: a set of Redis's command flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// None of them.
    pub const NONE: Flags = Flags(0);
    /// Changes keys.
    pub const WRITE: Flags = Flags(1);
    /// Reads keys and changes none.
    pub const READONLY: Flags = Flags(1 << 1);
    /// May make the store grow: to be refused when there is no room.
    pub const DENYOOM: Flags = Flags(1 << 2);
    /// Is about the server's operation.
    pub const ADMIN: Flags = Flags(1 << 3);
    /// Not for scripts.
    pub const NOSCRIPT: Flags = Flags(1 << 4);
    /// Runs while the store is still being loaded.
    pub const LOADING: Flags = Flags(1 << 5);
    /// Runs on stale data.
    pub const STALE: Flags = Flags(1 << 6);
    /// Is not in the slow log: what it runs is.
    pub const SKIP_SLOWLOG: Flags = Flags(1 << 7);
    /// Takes constant or logarithmic time.
    pub const FAST: Flags = Flags(1 << 8);
    /// Runs before the client has authenticated.
    pub const NO_AUTH: Flags = Flags(1 << 9);
    /// Not while Redis loads from a master; of no meaning here.
    pub const NO_ASYNC_LOADING: Flags = Flags(1 << 10);
    /// Not within a transaction.
    pub const NO_MULTI: Flags = Flags(1 << 11);
    /// Runs while something else holds the server up.
    pub const ALLOW_BUSY: Flags = Flags(1 << 12);

    /// Refused unless the configuration allows it.
    pub const PROTECTED: Flags = Flags(1 << 13);
    /// Writes, and may reply with the value that it found.
    pub const REPLIES_VALUE: Flags = Flags(1 << 14);

    /// In the order of their bits. The last two are not shown: Redis does not, and has none such.
    const NAMES: [&'static str; 13] = [
        "write",
        "readonly",
        "denyoom",
        "admin",
        "noscript",
        "loading",
        "stale",
        "skip_slowlog",
        "fast",
        "no_auth",
        "no_async_loading",
        "no_multi",
        "allow_busy",
    ];

    /// These and those.
    pub const fn and(self, more: Flags) -> Flags {
        Flags(self.0 | more.0)
    }

    /// Whether all of `flags` are among these.
    pub const fn contain(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Their names, as COMMAND INFO lists them.
    pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        let set = move |(bit, name)| (self.0 >> bit & 1 == 1).then_some(name);
        Self::NAMES.into_iter().enumerate().filter_map(set)
    }
}

/// A command, or a subcommand: one row of the table.
#[derive(Debug)]
pub struct Command {
    /// Its name in lower case; a subcommand's holds its container's, as in `config|get`.
    pub name: &'static str,
    /// The number of words, name and subcommand included; if negative, the least number.
    pub arity: i32,
    /// See [`Flags`].
    pub flags: Flags,
    /// Which words are keys.
    pub keys: Keys,
    /// What it does, and where. Of no use where there are subcommands and one is named.
    pub run: Run,
    /// The family it belongs to.
    pub group: Group,
    /// Its words, as in `SET key value [NX | XX]`.
    pub syntax: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where the second word names what is to be done: what it may be.
    pub subcommands: &'static [Command],
}

/// How the families write their rows.
impl Command {
    pub(super) const fn new(group: Group, name: &'static str, arity: i32, run: Run) -> Command {
        let flags = match run {
            Run::Local(_) | Run::Session(_) => Flags::NONE,
            Run::Read(_) | Run::Scan(_) => Flags::READONLY,
            Run::Write(_) => Flags::WRITE,
        };
        let (syntax, summary) = ("", "");
        Command {
            name,
            arity,
            flags,
            keys: Keys::NONE,
            run,
            group,
            syntax,
            summary,
            subcommands: &[],
        }
    }

    pub(super) const fn flags(mut self, flags: Flags) -> Command {
        self.flags = self.flags.and(flags);
        self
    }

    pub(super) const fn keys(mut self, first: i8, last: i8, step: i8) -> Command {
        self.keys = Keys { first, last, step };
        self
    }

    /// The second word is the one key.
    pub(super) const fn key(self) -> Command {
        self.keys(1, 1, 1)
    }

    pub(super) const fn help(mut self, syntax: &'static str, summary: &'static str) -> Command {
        (self.syntax, self.summary) = (syntax, summary);
        self
    }

    pub(super) const fn subcommands(mut self, subcommands: &'static [Command]) -> Command {
        self.subcommands = subcommands;
        self
    }
}

impl Command {
    /// Whether a request of `words` words, names included, may be this command.
    pub fn takes(&self, words: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        words == least || (self.arity < 0 && words > least)
    }

    /// The subcommand of this name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Command> {
        self.subcommands.iter().find(|sub| sub.last_name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Its name without the container's.
    pub fn last_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, name)| name)
    }
}

/// In the order in which HELP lists them.
pub(super) static FAMILIES: &[&[Command]] = &[
    string::COMMANDS,
    lcs::COMMANDS,
    counter::COMMANDS,
    keys::COMMANDS,
    expire::COMMANDS,
    dump::COMMANDS,
    ordered::COMMANDS,
    bits::COMMANDS,
    bitfield::COMMANDS,
    transaction::COMMANDS,
    connection::COMMANDS,
    client::COMMANDS,
    server::COMMANDS,
    slowlog::COMMANDS,
    latency::COMMANDS,
    memory::COMMANDS,
    operations::COMMANDS,
    debug::COMMANDS,
    scripts::COMMANDS,
    acl::COMMANDS,
    backup::COMMANDS,
    help::COMMANDS,
    introspection::COMMANDS,
];

/// Every command, subcommands not counted.
pub fn commands() -> impl Iterator<Item = &'static Command> + Clone {
    FAMILIES.iter().copied().flatten()
}

/// The command that a request asks for, its subcommand if it has those, with as many words as it
/// takes; or the error line that refuses the request.
#[inline]
pub fn prepare(args: Args<'_>) -> Result<&'static Command, Cow<'static, str>> {
    let Some(command) = args.get(0).and_then(lookup) else { return Err(unknown(args)) };
    let command = match args.get(1) {
        Some(name) if !command.subcommands.is_empty() => match command.subcommand(name) {
            Some(sub) if sub.takes(args.len()) => sub,
            // DEBUG has no subcommands in the table of Redis: what it makes of its words comes last.
            _ if command.flags.contain(Flags::PROTECTED) => command,
            Some(sub) => sub,
            None => return Err(unknown_subcommand(command, name)),
        },
        _ => command,
    };
    if command.takes(args.len()) {
        Ok(command)
    } else {
        Err(Cow::Owned(format!("ERR wrong number of arguments for '{}' command", command.name)))
    }
}

/// How many bytes of a name, and of the words behind it, an error line repeats.
const QUOTED: usize = 128;

#[cold]
fn unknown(args: Args<'_>) -> Cow<'static, str> {
    let mut words = Vec::new();
    for word in args.iter().skip(1) {
        if words.len() >= QUOTED {
            break;
        }
        let room = QUOTED - words.len();
        words.push(b'\'');
        words.extend_from_slice(printed(word, room));
        words.extend_from_slice(b"' ");
    }
    let name = String::from_utf8_lossy(printed(args.get(0).unwrap_or_default(), QUOTED));
    let words = String::from_utf8_lossy(&words);
    Cow::Owned(format!("ERR unknown command '{name}', with args beginning with: {words}"))
}

#[cold]
fn unknown_subcommand(command: &Command, name: &[u8]) -> Cow<'static, str> {
    let name = String::from_utf8_lossy(printed(name, QUOTED));
    let container = command.name.to_ascii_uppercase();
    Cow::Owned(format!("ERR unknown subcommand '{name}'. Try {container} HELP."))
}

/// Whether a request's first word gives away that a browser was made to send it: the connection is
/// to be closed without an answer, whatever follows might be an attacker's.
pub fn is_cross_protocol(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Whether a request that writes is answered by the value that it finds: by as many bytes as that has.
#[inline]
pub fn replies_with_value(command: &Command, args: Args<'_>) -> bool {
    // SET does so only if it is asked to.
    command.flags.contain(Flags::REPLIES_VALUE)
        && (command.name != "set"
            || args.iter().skip(3).any(|word| word.eq_ignore_ascii_case(b"get")))
}

/// The keys among the words of a request.
pub fn keys_of<'a>(command: &Command, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    key_places(command, args.len()).map_while(move |place| args.get(place))
}

/// The places of the keys in a request of `words` words.
fn key_places(command: &Command, words: usize) -> impl Iterator<Item = usize> + use<> {
    places(command.keys, words)
}

/// The places in a request of `words` words that `keys` means.
pub(super) fn places(keys: Keys, words: usize) -> impl Iterator<Item = usize> + use<> {
    let Keys { first, last, step } = keys;
    let end = match usize::try_from(last) {
        _ if first <= 0 => 0,
        Ok(last) => words.min(last + 1),
        Err(_) => (words + 1).saturating_sub(last.unsigned_abs().into()),
    };
    let start = usize::try_from(first).unwrap_or_default();
    let step = usize::try_from(step).unwrap_or_default().max(1);
    (start..end.max(start)).step_by(step)
}

#[cfg(test)]
mod tests {
    use super::super::testing::with_words;
    use super::*;

    fn refusal(line: &str) -> String {
        with_words(line, |args| prepare(args).unwrap_err().into_owned())
    }

    #[test]
    fn requests_are_refused_in_the_words_of_redis() {
        for (line, expected) in [
            ("foo", "ERR unknown command 'foo', with args beginning with: "),
            ("foo a b", "ERR unknown command 'foo', with args beginning with: 'a' 'b' "),
            ("\"f\\x00o\" a", "ERR unknown command 'f', with args beginning with: 'a' "),
            ("get", "ERR wrong number of arguments for 'get' command"),
            ("GET a b", "ERR wrong number of arguments for 'get' command"),
            ("config", "ERR wrong number of arguments for 'config' command"),
            ("config get", "ERR wrong number of arguments for 'config|get' command"),
            ("config foo", "ERR unknown subcommand 'foo'. Try CONFIG HELP."),
        ] {
            assert_eq!(refusal(line), expected);
        }
        let long = "x".repeat(200);
        let expected =
            format!("ERR unknown command '{0}', with args beginning with: '{0}' ", &long[..QUOTED]);
        assert_eq!(refusal(&format!("{long} {long} a")), expected);
    }

    #[test]
    fn keys_are_where_the_table_says() {
        for (line, keys) in [
            ("get a", "a"),
            ("mget a b c", "a b c"),
            ("mset a 1 b 2", "a b"),
            ("mset a 1 b", "a b"),
            ("bitop and x a b", "x a b"),
            ("rename a b", "a b"),
            ("set a b ex 1", "a"),
            ("ping a", ""),
            ("config get a", ""),
            ("range a b", ""),
        ] {
            let found = with_words(line, |args| {
                let keys = keys_of(prepare(args).unwrap(), args);
                keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>()
            });
            assert_eq!(found.join(" "), keys, "{line}");
        }
    }

    #[test]
    fn browsers_are_told_by_their_first_word() {
        assert!(is_cross_protocol(b"POST") && is_cross_protocol(b"host:"));
        assert!(!is_cross_protocol(b"host") && !is_cross_protocol(b"GET"));
    }

    #[test]
    fn flags_follow_from_how_a_command_runs() {
        for command in commands() {
            let writes = matches!(command.run, Run::Write(_));
            assert_eq!(command.flags.contain(Flags::WRITE), writes, "{}", command.name);
            assert!(!writes || !command.flags.contain(Flags::LOADING), "{}", command.name);
        }
    }
}
