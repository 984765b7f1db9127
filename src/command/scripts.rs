//! SCRIPT and FUNCTION, as far as a server goes that holds neither and runs none: tools that empty a
//! server before they begin, and clients that ask before they load, hear what a Redis without any
//! would tell them.

use super::errors::{refused, shown, wrong_words};
use super::introspection::container_help;
use super::{Client, Command, Flags, Group, Outcome, Run, Writes};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Scripting, "script", -2, Run::Local(container_help))
        .subcommands(SCRIPT)
        .help("SCRIPT subcommand", "That there are no scripts; see SCRIPT HELP"),
    Command::new(Group::Scripting, "function", -2, Run::Local(container_help))
        .subcommands(FUNCTION)
        .help("FUNCTION subcommand", "That there are no functions; see FUNCTION HELP"),
];

const SCRIPT: &[Command] = &[
    Command::new(Group::Scripting, "script|exists", -3, Run::Local(exists))
        .flags(Flags::NOSCRIPT)
        .help("SCRIPT EXISTS sha1 [sha1 ...]", "Replies with a 0 for each: there are no scripts"),
    Command::new(Group::Scripting, "script|flush", -2, Run::Local(flush_scripts))
        .flags(Flags::NOSCRIPT)
        .help("SCRIPT FLUSH [ASYNC | SYNC]", "Does nothing: there are no scripts"),
    Command::new(Group::Scripting, "script|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("SCRIPT HELP", "Lists these subcommands"),
];

const FUNCTION: &[Command] = &[
    Command::new(Group::Scripting, "function|list", -2, Run::Local(list))
        .flags(Flags::NOSCRIPT)
        .help("FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]", "Nothing: there are no functions"),
    Command::new(Group::Scripting, "function|flush", -2, Run::Write(flush_functions))
        .flags(Flags::NOSCRIPT)
        .help("FUNCTION FLUSH [ASYNC | SYNC]", "Does nothing: there are no functions"),
    Command::new(Group::Scripting, "function|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("FUNCTION HELP", "Lists these subcommands"),
];

fn exists(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(args.len() - 2);
    args.iter().skip(2).for_each(|_| reply.integer(0));
    Ok(())
}

fn flush_scripts(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !says_how(args) {
        return Err("ERR SCRIPT FLUSH only support SYNC|ASYNC option".into());
    }
    reply.ok();
    Ok(())
}

/// A write to Redis, and so in the order of the writes here.
fn flush_functions(_: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len() > 3 {
        return Err(wrong_words(args));
    }
    if !says_how(args) {
        return Err("ERR FUNCTION FLUSH only supports SYNC|ASYNC option".into());
    }
    reply.ok();
    Ok(())
}

/// Whether there is nothing behind the subcommand but one of the words that Redis takes there.
fn says_how(args: Args<'_>) -> bool {
    let known = |word: &[u8]| [&b"async"[..], b"sync"].iter().any(|w| word.eq_ignore_ascii_case(w));
    args.len() <= 3 && args.iter().skip(2).all(known)
}

fn list(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (mut code, mut name) = (false, false);
    let mut words = args.iter().skip(2);
    while let Some(word) = words.next() {
        if !code && word.eq_ignore_ascii_case(b"withcode") {
            code = true;
        } else if !name && word.eq_ignore_ascii_case(b"libraryname") {
            words.next().ok_or("ERR library name argument was not given")?;
            name = true;
        } else {
            let word = shown(word);
            return Err(refused(format!("ERR Unknown argument {word}")));
        }
    }
    reply.array(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn there_are_none() {
        transcript(&[
            ("script exists a b", "*2 :0 :0"),
            ("script flush", "+OK"),
            ("script flush ASYNC", "+OK"),
            ("script flush now", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
            ("script flush sync sync", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
            ("script load x", "-ERR unknown subcommand 'load'. Try SCRIPT HELP."),
            ("function flush", "+OK"),
            ("function flush sync", "+OK"),
            ("function flush now", "-ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
            (
                "function FLUSH sync sync",
                "-ERR unknown subcommand or wrong number of arguments for 'FLUSH'. Try FUNCTION \
                 HELP.",
            ),
            ("function list", "*0"),
            ("function list withcode LIBRARYNAME *", "*0"),
            ("function list libraryname", "-ERR library name argument was not given"),
            ("function list withcode withcode", "-ERR Unknown argument withcode"),
            ("eval x 0", "-ERR unknown command 'eval', with args beginning with: 'x' '0' "),
        ]);
    }
}
