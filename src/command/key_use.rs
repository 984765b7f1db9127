//! What commands do with their keys, in the words of Redis's key specifications: for COMMAND INFO and
//! COMMAND GETKEYSANDFLAGS.

use super::{Command, Keys, Run};
use crate::protocol::Args;

/// Some of a command's keys, all used alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyUse {
    /// Where they are.
    pub keys: Keys,
    /// Words separated by blanks.
    pub flags: &'static str,
}

/// All keys of a command, by use.
pub(super) fn key_uses(command: &Command) -> Vec<KeyUse> {
    if command.keys == Keys::NONE {
        return Vec::new();
    }
    let at = |first, last| Keys { first, last, step: 1 };
    let both = |first: (Keys, &'static str), second: (Keys, &'static str)| {
        [first, second].map(|(keys, flags)| KeyUse { keys, flags }).to_vec()
    };
    match command.name {
        "copy" => both((at(1, 1), "RO access"), (at(2, 2), "OW update")),
        "rename" => both((at(1, 1), "RW access delete"), (at(2, 2), "OW update")),
        "renamenx" => both((at(1, 1), "RW access delete"), (at(2, 2), "OW insert")),
        "bitop" => both((at(2, 2), "OW update"), (at(3, -1), "RO access")),
        _ => vec![KeyUse { keys: command.keys, flags: single_use(command) }],
    }
}

fn single_use(command: &Command) -> &'static str {
    match command.name {
        "exists" | "touch" | "type" | "strlen" | "watch" => "RO",
        "del" | "unlink" | "rm" => "RM delete",
        "getdel" | "delifeq" => "RW access delete",
        "mset" | "setex" | "psetex" | "restore" => "OW update",
        "msetnx" | "setnx" => "OW insert",
        "append" => "RW insert",
        "setrange" | "persist" | "expire" | "expireat" | "pexpire" | "pexpireat" => "RW update",
        "set" | "bitfield" => "RW access update variable_flags",
        // OBJECT and MEMORY look at keys, not at what they hold.
        name if name.contains('|') => "RO",
        _ if matches!(command.run, Run::Write(_)) => "RW access update",
        _ => "RO access",
    }
}

/// What this request does with the keys of one use.
pub(super) fn flags_of_request(
    command: &Command,
    flags: &'static str,
    args: Args<'_>,
) -> &'static str {
    let has = |name: &[u8]| args.iter().skip(2).any(|word| word.eq_ignore_ascii_case(name));
    match command.name {
        "set" if args.iter().skip(3).any(|word| word.eq_ignore_ascii_case(b"get")) => {
            "RW access update"
        }
        "set" => "OW update",
        "bitfield" if has(b"set") || has(b"incrby") => "RW access update",
        "bitfield" => "RO access",
        _ => flags,
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::super::table::places;
    use super::*;

    /// Each key of a command is in one of its uses.
    #[test]
    fn uses_cover_the_keys() {
        const WORDS: usize = 9;
        let all =
            commands().flat_map(|command| std::iter::once(command).chain(command.subcommands));
        for command in all {
            let mut covered: Vec<usize> =
                key_uses(command).iter().flat_map(|used| places(used.keys, WORDS)).collect();
            covered.sort_unstable();
            assert_eq!(
                covered,
                places(command.keys, WORDS).collect::<Vec<_>>(),
                "{}",
                command.name
            );
        }
    }
}
