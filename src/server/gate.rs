//! What stands between a request and its command: whether this client may, and whether now.
//!
//! Thread: the connection's loop. In the order in which Redis asks, so that of several reasons the
//! same one is told.

use std::borrow::Cow;

use super::session::State;
use super::shared::Shared;
use crate::command::{Command, Flags, Run, Step};
use crate::config::DebugCommand;

/// What becomes of a request before it runs.
pub enum Gate {
    /// It runs.
    Open,
    /// It is answered by this line instead.
    Refused(Cow<'static, str>),
    /// It waits for the end of a pause.
    Held,
}

/// Asks everything; `loaded` is whether the store is open.
pub fn check(state: &State, shared: &Shared, command: &Command, loaded: bool) -> Gate {
    if command.flags.contain(Flags::PROTECTED) && !may_debug(state, shared) {
        return Gate::Refused(PROTECTED.into());
    }
    if !command.flags.contain(Flags::NO_AUTH) && state.is_guest(shared) {
        return Gate::Refused("NOAUTH Authentication required.".into());
    }
    if state.multi.is_some() && command.flags.contain(Flags::NO_MULTI) {
        return Gate::Refused("ERR Command not allowed inside a transaction".into());
    }
    if needs_room(state, command) && shared.is_full() {
        return Gate::Refused("OOM command not allowed when used memory > 'maxmemory'.".into());
    }
    if !loaded && !command.flags.contain(Flags::LOADING) {
        return Gate::Refused(shared.loading_line().into());
    }
    let mut waits = shared.pause.holds(command);
    if let (Some(multi), Run::Session(Step::Exec)) = (&state.multi, command.run) {
        waits |= multi.any(|queued| shared.pause.holds(queued));
    }
    if waits {
        return Gate::Held;
    }
    Gate::Open
}

/// Whether it is refused where there is no room: in a transaction that goes for whatever is queued.
fn needs_room(state: &State, command: &Command) -> bool {
    let needs = |command: &Command| command.flags.contain(Flags::DENYOOM);
    match (&state.multi, command.run) {
        (None, _) => needs(command),
        (Some(multi), Run::Session(Step::Exec)) => multi.any(needs),
        (Some(_), Run::Session(Step::Discard)) => false,
        (Some(_), _) => !matches!(command.name, "quit" | "reset"),
    }
}

const PROTECTED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set \
                         to \"local\", you can run it from a local connection, otherwise you need \
                         to set this option in the configuration file, and then restart the server.";

fn may_debug(state: &State, shared: &Shared) -> bool {
    match shared.config.debug_command {
        DebugCommand::No => false,
        DebugCommand::Local => state.entry.peer.addr.ip().is_loopback(),
        DebugCommand::Yes => true,
    }
}
