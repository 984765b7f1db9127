//! One connection's state, and how one of its requests is answered: at once, by a worker, or not yet.
//!
//! Thread: the connection's loop. [`Session::serve`] is the way of every request: decode, find the
//! command, then by its class ([`Run`]) on the loop itself, to the read workers, or to the writer.

use std::sync::Arc;
use std::time::Instant;

use super::ahead::{Ahead, Decoded};
use super::batch::{Answered, Metered, check_size, guarded, write_abort};
use super::client::LocalClient;
use super::gate::{self, Gate};
use super::manners::Manners;
use super::multi::Multi;
use super::native::NativeReads;
use super::outbox::Outbox;
use super::pipeline::{Form, Pipeline};
use super::registry::{self, Entry, Figures};
use super::shared::{Backend, Shared};
use super::slowlog::Timed;
use super::tally::Meter;
use crate::command::{Command, Run, is_cross_protocol, is_queued, prepare};
use crate::engine::{Patience, Reader, View, Watch};
use crate::protocol::{Args, Decoder, JsonId, Kind, Limits, Reply, Version, write_json_error};
use crate::reactor::{Buffer, ConnId};

/// What becomes of a connection after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on when more bytes come.
    GoOn,
    /// A whole request waits until a reply has come in.
    Stall,
    /// It is closed once its replies have left.
    Close,
}

/// Where one request went.
#[derive(PartialEq, Eq)]
pub enum Served {
    /// Answered, or on its way.
    Taken,
    /// It has to wait.
    NotYet,
}

/// See the module. Apart from the rest, as the words of a request are borrowed from it.
pub struct Session {
    decoder: Decoder,
    state: State,
}

/// What is known of a connection beside its unfinished request.
pub struct State {
    pub(super) id: ConnId,
    /// What others see of it.
    pub(super) entry: Arc<Entry>,
    /// It has logged in, or did not have to when it came.
    pub(super) authenticated: bool,
    pub(super) pipeline: Pipeline,
    pub(super) version: Version,
    /// A whole request waits in the input.
    stalled: bool,
    /// It waits for the end of a pause.
    held: bool,
    /// What the turn began with: bytes of requests, and room behind them.
    arrived: (usize, usize),
    /// No more requests are answered.
    pub(super) closing: bool,
    /// Whether requests are answered.
    pub(super) manners: Manners,
    pub(super) no_evict: bool,
    /// How its last command is counted.
    pub(super) metered: Metered,
    /// The transaction that is being queued.
    pub(super) multi: Option<Box<Multi>>,
    /// What the next transaction depends on.
    pub(super) watch: Option<Arc<Watch>>,
    /// What SELECT chose.
    pub(super) database: u8,
}

impl Session {
    /// The state of a new connection.
    pub fn new(entry: Arc<Entry>, shared: &Shared) -> Session {
        Session {
            decoder: Decoder::new(Limits::default()),
            state: State {
                id: entry.conn,
                entry,
                authenticated: !shared.config.live.has_password(),
                pipeline: Pipeline::default(),
                version: Version::default(),
                stalled: false,
                held: false,
                arrived: (0, 0),
                closing: false,
                manners: Manners::default(),
                no_evict: false,
                metered: Metered { number: u16::MAX, weight: 0 },
                multi: None,
                watch: None,
                database: 0,
            },
        }
    }

    /// What others see of it.
    pub fn entry(&self) -> &Entry {
        &self.state.entry
    }

    /// Tells others how it is after a turn: see [`State::tell`].
    pub fn tell(&self, input: (usize, usize), output: usize) {
        self.state.tell(input, output);
    }

    /// Whether every whole request has been answered.
    pub fn is_idle(&self) -> bool {
        self.state.pipeline.is_empty() && !self.state.stalled
    }

    /// A reply came in from a worker. True if the connection was stalled and is to be served again.
    pub fn deliver(
        &mut self,
        (shared, meter): (&Shared, &mut Meter),
        done: &Answered<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let (ticket, reply) = (done.ticket, done.reply);
        match done.exec.filter(|exec| exec.has_gaps()) {
            None => self.state.pipeline.complete(ticket, reply, out),
            Some(exec) => self.state.finish_exec((shared, meter), (ticket, reply), exec, out),
        }
        self.unstall()
    }

    /// Ends a stall; whether there was one.
    pub fn unstall(&mut self) -> bool {
        self.state.held = false;
        std::mem::take(&mut self.state.stalled)
    }

    /// Whether it is to be closed now: it was told to, and all replies are out.
    pub fn is_done(&self) -> bool {
        self.state.closing && self.state.pipeline.is_empty()
    }

    /// Answers as many of the requests in `input` as can be, while no more than `high_water` bytes
    /// wait in `out`. With more, the connection is congested, and asked again when it is not.
    pub fn serve(
        &mut self,
        shared: &Shared,
        backend: Option<&Backend>,
        outbox: &mut Outbox,
        input: &mut Buffer,
        (out, high_water): (&mut Vec<u8>, usize),
    ) -> Verdict {
        if self.state.entry.is_killed() {
            self.state.closing = true;
            input.clear();
            return Verdict::Close;
        }
        self.state.arrived = (input.len(), input.capacity() - input.len());
        let live = &shared.config.live;
        self.decoder.set_limits(live.max_bulk.count(), live.max_request.count());
        // One epoch for all reads of this turn.
        let view = match backend {
            Some(Backend::Native(store)) => Some((store.reader(), store.reader().view())),
            _ => None,
        };
        let mut ahead = std::mem::take(&mut outbox.ahead);
        let mut turn = Turn { shared, backend, view: view.as_ref(), outbox };
        let used = self.run(&mut ahead, input.readable(), &mut turn, (out, high_water));
        outbox.ahead = ahead;
        let Session { decoder, state } = self;
        drop(view);
        if state.closing {
            input.clear();
        } else {
            input.consume(used);
        }
        if input.is_empty() {
            decoder.release();
        }
        match (self.is_done(), self.state.stalled) {
            (true, _) => Verdict::Close,
            (false, true) => Verdict::Stall,
            (false, false) => Verdict::GoOn,
        }
    }

    /// Runs the requests in `bytes`; how many bytes of them are done with.
    fn run(
        &mut self,
        ahead: &mut Ahead,
        bytes: &[u8],
        turn: &mut Turn<'_>,
        (out, high_water): (&mut Vec<u8>, usize),
    ) -> usize {
        let Session { decoder, state } = self;
        let mut used = 0;
        loop {
            decoder.set_guest(state.is_guest(turn.shared));
            let decoded = ahead.fill(decoder, bytes, used);
            if let Some(reads) = turn.reads(state.database) {
                ahead.warm_up(&reads, bytes);
            }
            let before = used;
            let json_id = decoder.take_json_id();
            while let Some((request, args)) = ahead.next(decoder, bytes) {
                if state.closing || out.len() > high_water {
                    decoder.restart();
                    return used;
                }
                if state.request(request, args, &json_id, turn, out) == Served::NotYet {
                    state.stalled = true;
                    turn.shared.stats.stalls.add(1);
                    decoder.restart();
                    return used;
                }
                used = request.start + request.len;
            }
            // What is too much for a guest was read before its AUTH ran.
            if decoded.is_err() && decoder.is_guest() && !state.is_guest(turn.shared) {
                decoder.restart();
                continue;
            }
            // Behind a QUIT nothing counts, not even an error.
            if let Err(error) = decoded
                && !state.closing
            {
                state.answer(Form::Resp, out, |reply| reply.error(&error.to_string()));
                state.closing = true;
            }
            if state.closing || used == before {
                return used;
            }
        }
    }
}

impl State {
    /// Tells others how it is: with so many bytes of unfinished requests and room behind them, and of
    /// replies that it is slow to take.
    fn tell(&self, (input, room): (usize, usize), output: usize) {
        let mark = |is: bool, mark: u16| if is { mark } else { 0 };
        self.entry.tell(&Figures {
            command: self.metered.number,
            database: self.database,
            marks: mark(self.version == Version::Resp3, registry::RESP3)
                | mark(self.held, registry::HELD)
                | mark(self.multi.is_some(), registry::MULTI)
                | mark(self.no_evict, registry::NO_EVICT),
            queued: self.multi.as_ref().map_or(0, |multi| multi.len()),
            input,
            room,
            output,
        });
    }

    /// The same in the middle of a turn, for the connection that asks: what arrived is all there.
    pub(super) fn tell_of_turn(&self) {
        self.tell(self.arrived, 0);
    }

    /// Whether it has yet to log in.
    pub(super) fn is_guest(&self, shared: &Shared) -> bool {
        !self.authenticated && shared.config.live.has_password()
    }

    fn request(
        &mut self,
        request: &Decoded,
        args: Args<'_>,
        json_id: &Option<JsonId>,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Served {
        if self.pipeline.is_blocked() && !matches!(request.kind, Kind::Empty) {
            return Served::NotYet;
        }
        let form = match &request.kind {
            Kind::Empty => return Served::Taken,
            Kind::Command => Form::Resp,
            Kind::JsonCommand => Form::Json(json_id.clone()),
            Kind::BadJson(error) => {
                if !matches!(self.manners.form(Form::Resp), Form::Silent) {
                    self.answer_raw(out, |out| write_json_error(error, json_id.as_ref(), out));
                }
                self.manners.next();
                return Served::Taken;
            }
        };
        let served = self.command(request.command, args, form, turn, out);
        if served == Served::Taken {
            turn.outbox.commands += 1;
            self.manners.next();
        }
        served
    }

    fn command(
        &mut self,
        known: Option<&'static Command>,
        args: Args<'_>,
        form: Form,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Served {
        let command = match known.map_or_else(|| prepare(args), Ok) {
            Ok(command) => command,
            Err(_) if args.get(0).is_some_and(is_cross_protocol) => {
                log::warn!("closed a connection that speaks HTTP: possibly an attack");
                self.closing = true;
                return Served::Taken;
            }
            Err(line) => {
                turn.outbox.meter.refuse(args, line.as_bytes());
                self.refuse(args.get(0).unwrap_or_default(), &line, form, out);
                return Served::Taken;
            }
        };
        let bytes = args.parts().0.len();
        self.metered = turn.outbox.meter.metered(command, bytes, &turn.shared.config.live);
        match gate::check(self, turn.shared, command, turn.backend.is_some()) {
            Gate::Open => {}
            Gate::Held => {
                self.held = true;
                turn.outbox.paused.push(self.id);
                return Served::NotYet;
            }
            Gate::Refused(line) => {
                turn.outbox.meter.reject(self.metered.number, line.as_bytes());
                self.refuse(command.name.as_bytes(), &line, form, out);
                return Served::Taken;
            }
        }
        // What a command asks for itself may be about its own reply.
        let form =
            if matches!(command.run, Run::Local(_)) { form } else { self.manners.form(form) };
        if self.multi.is_some() && is_queued(command) {
            self.queue(command, args, form, out);
            return Served::Taken;
        }
        let served = match (command.run, turn.backend) {
            (Run::Session(step), _) => self.step(step, (command, args), form, turn, out),
            (Run::Local(_), _) => {
                self.entry.set_command(self.metered.number);
                self.local(command, args, form, turn, out);
                Served::Taken
            }
            (_, None) => {
                self.answer(form, out, |reply| reply.error(&turn.shared.loading_line()));
                Served::Taken
            }
            (_, Some(Backend::Blocking(engine))) => {
                let engine = Arc::clone(engine);
                self.blocking(&engine, command, args, form, turn)
            }
            (Run::Read(_), Some(Backend::Native(_))) => self.read(command, args, form, turn, out),
            (Run::Scan(_), Some(Backend::Native(_))) => self.walk(command, args, form, turn),
            (Run::Write(_), Some(Backend::Native(_))) => self.write(command, args, form, turn),
        };
        if served == Served::Taken {
            turn.outbox.meter.call(self.metered.number);
        }
        served
    }

    /// A command that began then was run on the loop.
    pub(super) fn took(
        &self,
        begin: Option<Instant>,
        command: &Command,
        args: Args<'_>,
        turn: &Turn<'_>,
    ) {
        let Some(begin) = begin else { return };
        let nanos = begin.elapsed().as_nanos() as u64;
        turn.outbox.meter.took(self.metered, nanos, &turn.shared.config.live);
        turn.shared.note_time(&Timed { command, args, nanos }, || self.entry.name_and_addr());
    }

    /// The time, if the request under way is timed.
    pub(super) fn begin(&self) -> Option<Instant> {
        (self.metered.weight > 0).then(Instant::now)
    }

    /// Writes a reply that is there at once: into the output, or behind those that are out.
    pub(super) fn answer(
        &mut self,
        form: Form,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Reply<'_>),
    ) {
        let form = self.manners.form(form);
        let version = if matches!(form, Form::Json(_)) { Version::Resp3 } else { self.version };
        let encode = |out: &mut Vec<u8>| write(&mut Reply::new(out, version));
        match (self.pipeline.is_empty(), &form) {
            (true, Form::Resp) => encode(out),
            (true, _) => {
                let mut reply = Vec::new();
                encode(&mut reply);
                form.write(&reply, out);
            }
            (false, _) => self.pipeline.answer(form, encode),
        }
    }

    /// Writes what is in its final form already.
    fn answer_raw(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.pipeline.is_empty() { write(out) } else { self.pipeline.answer(Form::Resp, write) }
    }

    fn local(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        form: Form,
        turn: &Turn<'_>,
        out: &mut Vec<u8>,
    ) {
        let version = self.form_version(&form);
        let mut bytes = Vec::new();
        let begin = self.begin();
        let most = turn.outbox.most_reply;
        self.run_local((command, args), version, turn.shared, (&mut bytes, most));
        self.took(begin, command, args, turn);
        turn.outbox.meter.replied(self.metered.number, &bytes);
        let form = self.manners.form(form);
        if bytes.is_empty() || matches!(form, Form::Silent) {
            return;
        }
        if self.pipeline.is_empty() {
            form.write(&bytes, out);
        } else {
            self.pipeline.answer(form, |out| out.extend_from_slice(&bytes));
        }
    }

    /// Runs a local command and appends its reply, which may have so many bytes.
    pub(super) fn run_local(
        &mut self,
        (command, args): (&Command, Args<'_>),
        version: Version,
        shared: &Shared,
        (out, most): (&mut Vec<u8>, usize),
    ) {
        let Run::Local(run) = command.run else { return };
        let mut reply = Reply::with_most(out, version, most);
        let start = reply.mark();
        let outcome = guarded(|| {
            run(&mut LocalClient::new(self, shared), args, &mut reply)?;
            check_size(&reply)
        });
        if let Err(abort) = outcome {
            reply.rewind(start);
            write_abort(&mut reply, &abort);
        }
    }

    pub(super) fn form_version(&self, form: &Form) -> Version {
        if matches!(form, Form::Json(_)) { Version::Resp3 } else { self.version }
    }
}

/// What a turn of a connection works with.
pub struct Turn<'a> {
    pub(super) shared: &'a Shared,
    pub(super) backend: Option<&'a Backend>,
    pub(super) view: Option<&'a (&'a Reader, View<'a>)>,
    pub(super) outbox: &'a mut Outbox,
}

impl<'a> Turn<'a> {
    /// For reading what is in memory of a database; none on an engine that blocks.
    pub(super) fn reads(&self, database: u8) -> Option<NativeReads<'a>> {
        let (reader, view) = self.view?;
        Some(NativeReads::new(reader, view, database, Patience::ResidentOnly))
    }
}
