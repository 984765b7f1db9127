//! Backups: SAVE, BGSAVE, LASTSAVE. What Redis writes into one file is a directory here, named after the
//! time or by `TO name`.

use super::errors::SYNTAX;
use super::{Client, Command, Flags, Group, Outcome, Reads, Run};
use crate::protocol::{Args, Reply};

const OPERATION: Flags = Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_MULTI);

pub(super) const COMMANDS: &[Command] = &[
    // A backup waits for the disk, and has what this connection has written before: as a walk does.
    Command::new(Group::Server, "save", -1, Run::Scan(save))
        .flags(OPERATION)
        .help("SAVE [TO name]", "Makes a backup by hard links and replies when it is on the disk"),
    Command::new(Group::Server, "bgsave", -1, Run::Scan(bgsave))
        .flags(OPERATION)
        .help("BGSAVE [SCHEDULE] [TO name]", "Makes a backup by hard links in the background"),
    Command::new(Group::Server, "lastsave", 1, Run::Local(lastsave))
        .flags(Flags::LOADING.and(Flags::STALE).and(Flags::FAST))
        .help("LASTSAVE", "When the last backup was made, in seconds since 1970"),
];

/// The name behind TO in the words from the `first` on, if that is all there is.
fn name<'a>(args: Args<'a>, first: usize) -> Result<Option<&'a str>, super::Abort> {
    if args.len() == first {
        return Ok(None);
    }
    if args.len() != first + 2 || !args[first].eq_ignore_ascii_case(b"to") {
        return Err(SYNTAX.into());
    }
    // What is no text is no name either, which the engine says.
    Ok(Some(std::str::from_utf8(args.get(first + 1).unwrap_or_default()).unwrap_or_default()))
}

fn save(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    db.backup(name(args, 1)?)?;
    reply.ok();
    Ok(())
}

fn bgsave(db: &dyn Reads, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let scheduled = args.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"schedule"));
    db.begin_backup(name(args, 1 + usize::from(scheduled))?)?;
    reply.simple("Background saving started");
    Ok(())
}

fn lastsave(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(client.last_backup() as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::transcript;

    #[test]
    fn words_are_checked() {
        transcript(&[
            ("save now", "-ERR syntax error"),
            ("save to", "-ERR syntax error"),
            ("save to a b", "-ERR syntax error"),
            ("bgsave schedule now", "-ERR syntax error"),
            ("bgsave schedule to", "-ERR syntax error"),
            ("lastsave 1", "-ERR wrong number of arguments for 'lastsave' command"),
            ("lastsave", ":0"),
            ("save", "-ERR this engine has no backups"),
            ("save to x", "-ERR this engine has no backups"),
            ("bgsave schedule to x", "-ERR this engine has no backups"),
        ]);
    }
}
