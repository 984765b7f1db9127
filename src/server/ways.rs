//! The ways of a request that is about keys: a read on the loop itself or by a worker, a walk, a write,
//! and what an engine that blocks is asked.
//!
//! Thread: the connection's loop. [`State::command`] in `session.rs` chooses among them.

use std::sync::Arc;

use super::batch::{Origin, guarded, write_abort};
use super::blocking::BlockingEngine;
use super::native::NativeReads;
use super::outbox::Outbox;
use super::pipeline::{Form, Pipeline, Ticket};
use super::session::{Served, State, Turn};
use crate::command::{Abort, Command, keys_of, replies_with_value};
use crate::protocol::{Args, Reply, Version};

/// A read of more words than this is a walk: already to look for its keys among those of other
/// requests would hold up the loop.
const MOST_WORDS_ON_LOOP: usize = 256;

impl State {
    /// A read of a few keys: by the loop itself if they are in memory, else by a worker.
    pub(super) fn read(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        form: Form,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Served {
        if args.len() > MOST_WORDS_ON_LOOP {
            return self.walk(command, args, form, turn);
        }
        if !self.pipeline.may_read(keys_of(command, args)) {
            return Served::NotYet;
        }
        let Some(reads) = turn.reads(self.database) else {
            debug_assert!(false, "a native engine has views");
            return Served::NotYet;
        };
        if turn.shared.config.loop_reads {
            let begin = self.begin();
            if self.read_here(&reads, command, args, (&form, &*turn.outbox), out) {
                self.took(begin, command, args, turn);
                turn.outbox.local_reads += 1;
                return Served::Taken;
            }
        }
        if turn.outbox.reads_full {
            turn.outbox.waiting_reads.push(self.id);
            return Served::NotYet;
        }
        let bytes = reads.size_of(keys_of(command, args));
        if !self.pipeline.has_room(bytes) {
            return Served::NotYet;
        }
        let version = self.form_version(&form);
        let origin = self
            .origin(version, |pipeline| pipeline.begin_read(keys_of(command, args), bytes, form));
        turn.outbox.push_read(origin, command, args);
        Served::Taken
    }

    /// Runs a read on the loop. False if it would have to wait for the disk; then nothing is written.
    fn read_here(
        &mut self,
        reads: &NativeReads<'_>,
        command: &'static Command,
        args: Args<'_>,
        (form, outbox): (&Form, &Outbox),
        out: &mut Vec<u8>,
    ) -> bool {
        // Straight into the output, unless it takes another form or waits for its turn.
        let straight = self.pipeline.is_empty() && matches!(form, Form::Resp);
        let mut aside = Vec::new();
        let to = if straight { &mut *out } else { &mut aside };
        let start = to.len();
        let mut reply = Reply::with_most(to, self.form_version(form), outbox.most_reply);
        if let Err(abort) = guarded(|| reads.run(command, args, &mut reply)) {
            reply.rewind(start);
            if matches!(abort, Abort::NotResident) {
                return false;
            }
            write_abort(&mut reply, &abort);
        }
        let (hits, misses) = reads.looked_up();
        outbox.meter.looked_up(hits, misses);
        outbox.meter.replied(self.metered.number, to.get(start..).unwrap_or_default());
        match (straight, self.pipeline.is_empty()) {
            (true, _) => {}
            (false, true) => form.write(&aside, out),
            (false, false) => {
                self.pipeline.answer(form.clone(), |out| out.extend_from_slice(&aside));
            }
        }
        true
    }

    pub(super) fn walk(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        form: Form,
        turn: &mut Turn<'_>,
    ) -> Served {
        if !self.pipeline.may_walk() {
            return Served::NotYet;
        }
        let version = self.form_version(&form);
        let origin = self.origin(version, |pipeline| pipeline.begin_walk(form));
        turn.outbox.push_walk(origin, command, args);
        Served::Taken
    }

    pub(super) fn write(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        form: Form,
        turn: &mut Turn<'_>,
    ) -> Served {
        if !self.may_write_now(turn) {
            return Served::NotYet;
        }
        let mut bytes = 0;
        if replies_with_value(command, args) {
            // How much that will be is not known before earlier writes of the key are settled.
            let Some(reads) = turn.reads(self.database) else { return Served::NotYet };
            if !self.pipeline.may_read(keys_of(command, args)) {
                return Served::NotYet;
            }
            bytes = reads.size_of(keys_of(command, args));
            if !self.pipeline.has_room(bytes) {
                return Served::NotYet;
            }
        }
        let version = self.form_version(&form);
        let origin = self
            .origin(version, |pipeline| pipeline.begin_write(keys_of(command, args), bytes, form));
        turn.outbox.writes.push(origin, command, args);
        Served::Taken
    }

    /// Whether a write may go out now. If not, the connection is woken when it may.
    pub(super) fn may_write_now(&self, turn: &mut Turn<'_>) -> bool {
        if !self.pipeline.may_write() {
            return false;
        }
        let room = turn.outbox.has_room();
        if !room {
            turn.outbox.waiting_writes.push(self.id);
        }
        room
    }

    /// On an engine that blocks, a connection has one request under way at a time.
    pub(super) fn blocking(
        &mut self,
        engine: &Arc<BlockingEngine>,
        command: &'static Command,
        args: Args<'_>,
        form: Form,
        turn: &mut Turn<'_>,
    ) -> Served {
        let version = self.form_version(&form);
        let origin = self.origin(version, |pipeline| pipeline.begin_walk(form));
        let mut batch = turn.outbox.fresh();
        batch.push(origin, command, args);
        let batch = turn.outbox.leave(batch);
        let runner = Arc::clone(engine);
        engine.spawn(move || batch.run_blocking(&runner));
        Served::Taken
    }

    pub(super) fn origin(
        &mut self,
        version: Version,
        begin: impl FnOnce(&mut Pipeline) -> Ticket,
    ) -> Origin {
        let ticket = begin(&mut self.pipeline);
        Origin { conn: self.id, ticket, version, database: self.database, metered: self.metered }
    }
}
