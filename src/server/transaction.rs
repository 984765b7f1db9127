//! MULTI, EXEC, DISCARD and WATCH: what a session does with the requests in between.
//!
//! Thread: the connection's loop. A queued request has passed all checks but those that only its
//! run can make. EXEC goes to the writer, where all of it is one unit ([`Exec`]); what may run on the
//! loop only runs there once the writer has answered, so a transaction that fails changes nothing of
//! the connection either.

use std::time::Instant;

use super::multi::{Exec, Ran, discarded_because_of};
use super::pipeline::{Form, Ticket};
use super::session::{Served, State, Turn};
use super::shared::{Backend, Shared};
use super::slowlog::Timed;
use super::tally::Meter;
use crate::command::{Client, Command, Latency, Run, Step, keys_of, lookup};
use crate::error::KvsError;
use crate::protocol::{Args, Reply, Version};

impl State {
    /// Answers a request that is refused before it runs. A transaction that it belongs to will not
    /// run then; a refused EXEC ends one.
    pub(super) fn refuse(&mut self, name: &[u8], line: &str, form: Form, out: &mut Vec<u8>) {
        let is_exec = |command: &Command| matches!(command.run, Run::Session(Step::Exec));
        if lookup(name).is_some_and(is_exec) {
            (self.multi, self.watch) = (None, None);
            let cause = line.strip_prefix("ERR ").unwrap_or(line);
            let line = discarded_because_of(cause);
            self.answer(form, out, |reply| reply.error(&line));
            return;
        }
        if let Some(multi) = &mut self.multi {
            multi.refused = true;
        }
        self.answer(form, out, |reply| reply.error(line));
    }

    /// Queues a request for EXEC. There must be a transaction.
    pub(super) fn queue(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        form: Form,
        out: &mut Vec<u8>,
    ) {
        let Some(multi) = &mut self.multi else { return };
        // What will not run need not be kept.
        if multi.refused || multi.push(command, args) {
            self.answer(form, out, |reply| reply.simple("QUEUED"));
        } else {
            multi.refused = true;
            self.answer(form, out, |reply| reply.error("ERR the transaction is too large"));
        }
    }

    /// Runs a command about the transaction.
    pub(super) fn step(
        &mut self,
        step: Step,
        (command, args): (&'static Command, Args<'_>),
        form: Form,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Served {
        if let Some(Backend::Blocking(_)) = turn.backend {
            (self.multi, self.watch) = (None, None);
            let line = format!("ERR {}", KvsError::Unsupported("transactions"));
            self.fail(&line, form, turn, out);
            return Served::Taken;
        }
        let line = match (step, self.multi.is_some()) {
            (Step::Exec, true) => return self.exec(command, form, turn, out),
            (Step::Exec, false) => "ERR EXEC without MULTI",
            (Step::Watch, false) => return self.watch_keys((command, args), form, turn, out),
            (Step::Watch, true) => "ERR WATCH inside MULTI is not allowed",
            (Step::Multi, true) => "ERR MULTI calls can not be nested",
            (Step::Discard, false) => "ERR DISCARD without MULTI",
            (Step::Multi, false) => {
                self.multi = Some(Box::default());
                self.answer(form, out, |reply| reply.ok());
                return Served::Taken;
            }
            (Step::Discard, true) => {
                (self.multi, self.watch) = (None, None);
                self.answer(form, out, |reply| reply.ok());
                return Served::Taken;
            }
        };
        self.fail(line, form, turn, out);
        Served::Taken
    }

    /// Answers a step by its error.
    fn fail(&mut self, line: &str, form: Form, turn: &Turn<'_>, out: &mut Vec<u8>) {
        turn.outbox.meter.fail(self.metered.number, line.as_bytes());
        self.answer(form, out, |reply| reply.error(line));
    }

    /// Watching begins on the writer, in the order of writes.
    fn watch_keys(
        &mut self,
        (command, args): (&'static Command, Args<'_>),
        form: Form,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Served {
        if turn.backend.is_none() {
            self.fail(&turn.shared.loading_line(), form, turn, out);
            return Served::Taken;
        }
        if !self.may_write_now(turn) {
            return Served::NotYet;
        }
        let version = self.form_version(&form);
        // What is read of the keys from now on is read after that.
        let origin =
            self.origin(version, |pipeline| pipeline.begin_write(keys_of(command, args), 0, form));
        let watch = self.watch.get_or_insert_default();
        turn.outbox.writes.push_watch(origin, (command, args), watch);
        Served::Taken
    }

    fn exec(
        &mut self,
        command: &'static Command,
        form: Form,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Served {
        let Some(multi) = self.multi.take() else { return Served::Taken };
        if multi.refused {
            self.watch = None;
            const LINE: &str = "EXECABORT Transaction discarded because of previous errors.";
            self.fail(LINE, form, turn, out);
            return Served::Taken;
        }
        // Nobody knows how much it will read, so one that reads goes out at a time.
        let bytes = if multi.reads() { usize::MAX } else { 0 };
        if !self.may_write_now(turn) || (bytes > 0 && !self.pipeline.has_room(bytes)) {
            self.multi = Some(multi);
            return Served::NotYet;
        }
        let version = self.form_version(&form);
        let mut exec =
            multi.into_exec(matches!(form, Form::Json(_)).then_some(version), self.watch.take());
        self.rehearse(&mut exec, turn.shared);
        if exec.is_local() || turn.backend.is_none() {
            let mut reply = Vec::new();
            exec.of_gaps_only(&mut Reply::new(&mut reply, version));
            let reply = self.fill_gaps(turn.shared, &mut turn.outbox.meter, &reply, &exec);
            self.answer(form, out, |out| out.encoded(&reply));
            return Served::Taken;
        }
        // What the local ones change is known only when they have run.
        let blocks = exec.local() > 0;
        let origin = self.origin(version, |pipeline| match blocks {
            true => pipeline.begin_walk(form),
            false => pipeline.begin_write(std::iter::empty(), bytes, form),
        });
        turn.outbox.writes.push_exec(origin, command, exec);
        Served::Taken
    }

    /// Finds out on which database and in which version each request of a transaction runs.
    fn rehearse(&self, exec: &mut Exec, shared: &Shared) {
        let mut stand_in = StandIn {
            shared,
            id: self.entry.number,
            database: self.database,
            version: self.version,
            authenticated: !self.is_guest(shared),
        };
        exec.rehearse((self.database, self.version), |command, args| {
            if let (Run::Local(run), "select" | "hello" | "auth") = (command.run, command.name) {
                // What fails here fails there, too.
                let _ = run(&mut stand_in, args, &mut Reply::new(&mut Vec::new(), self.version));
            }
            (stand_in.database, stand_in.version)
        });
    }

    /// A transaction came back from the writer: runs what is left of it, and answers.
    pub(super) fn finish_exec(
        &mut self,
        (shared, meter): (&Shared, &mut Meter),
        (ticket, reply): (Ticket, &[u8]),
        exec: &Exec,
        out: &mut Vec<u8>,
    ) {
        let reply = self.fill_gaps(shared, meter, reply, exec);
        self.pipeline.complete(ticket, &reply, out);
    }

    /// Runs the local commands of a transaction, and puts their replies where they belong.
    fn fill_gaps(
        &mut self,
        shared: &Shared,
        meter: &mut Meter,
        reply: &[u8],
        exec: &Exec,
    ) -> Vec<u8> {
        let most = shared.config.live.output_limit();
        let (mut whole, mut from) = (Vec::with_capacity(reply.len()), 0);
        for (at, command, args) in exec.gaps() {
            whole.extend_from_slice(reply.get(from..at).unwrap_or_default());
            from = at;
            let version = exec.version.unwrap_or(self.version);
            let room = most.saturating_sub(whole.len());
            let (mark, begin) = (whole.len(), Instant::now());
            self.run_local((command, args), version, shared, (&mut whole, room));
            let nanos = begin.elapsed().as_nanos() as u64;
            let ran = Ran { command, args, nanos, reply: whole.get(mark..).unwrap_or_default() };
            count(meter, shared, &ran, || self.entry.name_and_addr());
        }
        whole.extend_from_slice(reply.get(from..).unwrap_or_default());
        whole
    }
}

/// Counts a request of a transaction, and logs it if it was slow; `client` tells whose it is.
pub(super) fn count(
    meter: &mut Meter,
    shared: &Shared,
    ran: &Ran<'_>,
    client: impl FnOnce() -> (String, Vec<u8>),
) {
    let Ran { command, args, nanos, reply } = *ran;
    let metered = meter.always(command);
    meter.call(metered.number);
    meter.replied(metered.number, reply);
    meter.took(metered, nanos, &shared.config.live);
    shared.note_time(&Timed { command, args, nanos }, client);
}

/// A connection for rehearsals: what SELECT and HELLO change of it is not the real one's.
struct StandIn<'a> {
    shared: &'a Shared,
    id: u64,
    database: u8,
    version: Version,
    authenticated: bool,
}

impl Client for StandIn<'_> {
    fn id(&self) -> u64 {
        self.id
    }

    fn version(&self) -> Version {
        self.version
    }

    fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    fn authenticate(&mut self, password: &[u8]) -> bool {
        let right = self.shared.config.live.is_password(password);
        self.authenticated |= right;
        right
    }

    fn select(&mut self, database: usize) -> bool {
        let chosen = self.shared.database(database);
        self.database = chosen.unwrap_or(self.database);
        chosen.is_some()
    }

    fn close(&mut self) {}

    fn info(&self, _: &[String]) -> String {
        String::new()
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn latencies(&self) -> Vec<Latency> {
        Vec::new()
    }

    fn shutdown(&mut self) {}
}
