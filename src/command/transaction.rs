//! Transactions: requests that are queued and then run as one.
//!
//! What these commands do is the session's work (src/server/transaction.rs); here is what is to be
//! known of them.

use super::{Client, Command, Flags, Group, Outcome, Run, Step};
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE);
const DOOR: Flags = ALWAYS.and(Flags::FAST).and(Flags::ALLOW_BUSY);

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Transaction, "multi", 1, Run::Session(Step::Multi))
        .flags(DOOR)
        .help("MULTI", "Begins a transaction: what follows is queued until EXEC"),
    Command::new(Group::Transaction, "exec", 1, Run::Session(Step::Exec))
        .flags(ALWAYS.and(Flags::SKIP_SLOWLOG))
        .help("EXEC", "Runs what was queued as one: all of it is there after a crash, or nothing"),
    Command::new(Group::Transaction, "discard", 1, Run::Session(Step::Discard))
        .flags(DOOR)
        .help("DISCARD", "Ends a transaction without running it"),
    Command::new(Group::Transaction, "watch", -2, Run::Session(Step::Watch))
        .flags(DOOR)
        .keys(1, -1, 1)
        .help(
            "WATCH key [key ...]",
            "The next EXEC runs nothing if anyone changes these keys before",
        ),
    Command::new(Group::Transaction, "unwatch", 1, Run::Local(unwatch))
        .flags(DOOR)
        .help("UNWATCH", "Forgets what was watched"),
];

fn unwatch(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    client.unwatch();
    reply.ok();
    Ok(())
}

/// Whether a request of this command is queued when a transaction is open.
pub fn is_queued(command: &Command) -> bool {
    !matches!(command.run, Run::Session(_)) && !matches!(command.name, "quit" | "reset")
}
