//! The service on each event loop: hands input to sessions, what they gathered to the workers, and
//! the workers' replies back to the sessions.
//!
//! Thread: its loop. Invariants: nothing in here waits; one message per worker and poll wake.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Answered, Batch, Mail};
use super::outbox::Outbox;
use super::session::{Session, Verdict};
use super::shared::{Backend, Shared};
use super::slowlog::Timed;
use super::transaction;
use crate::engine::{KvStore, ReadJob, WriteJob};
use crate::reactor::{ConnId, Connection, Connections, Control, Peer, Post, Service, TimerId};

/// How long a full queue is left alone before it is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What timers are for.
#[derive(Clone, Copy)]
enum Tick {
    /// The flush at the end of this wake tries again what was full.
    Retry,
    /// A pause may have ended.
    Pause,
    /// Idle connections are closed.
    Sweep,
}

/// See the module.
pub struct Dispatcher {
    shared: Arc<Shared>,
    /// Taken from `shared` once the store is open.
    backend: Option<Backend>,
    outbox: Outbox,
    /// What the workers' queues had no room for.
    parked_writes: Option<Box<dyn WriteJob>>,
    parked_reads: VecDeque<Box<dyn ReadJob>>,
    /// By [`Tick`]: the timer that is set.
    ticks: [Option<TimerId>; 3],
}

impl Dispatcher {
    /// The service of the loop that `home` posts to.
    pub fn new(shared: Arc<Shared>, home: Post<Mail>) -> Dispatcher {
        let most_reply = shared.config.live.output_limit();
        let outbox = Outbox::new(home, shared.config.readers, most_reply);
        shared.book.add(outbox.meter.tally());
        Dispatcher {
            shared,
            backend: None,
            outbox,
            parked_writes: None,
            parked_reads: VecDeque::new(),
            ticks: [None; 3],
        }
    }

    fn look_for_backend(&mut self) {
        if self.backend.is_none() {
            self.backend = self.shared.backend.get().cloned();
        }
    }

    /// Hands the gathered writes on. A queue that is full is tried again soon.
    fn send_writes(&mut self, store: &KvStore) -> bool {
        if let Some(job) = self.parked_writes.take() {
            self.parked_writes = store.submit(job).err();
        }
        if self.parked_writes.is_none() && !self.outbox.writes.is_empty() {
            let fresh = self.outbox.fresh();
            let batch = std::mem::replace(&mut self.outbox.writes, fresh);
            let batch = self.outbox.leave(batch);
            self.shared.stats.write_batches.add(1);
            self.parked_writes = store.submit(batch).err();
        }
        self.parked_writes.is_none()
    }

    fn send_reads(&mut self, store: &KvStore) -> bool {
        for i in 0..self.outbox.reads.len() {
            if !self.outbox.reads[i].is_empty() {
                let fresh = self.outbox.fresh();
                self.shared.stats.read_batches.add(1);
                let batch = std::mem::replace(&mut self.outbox.reads[i], fresh);
                self.parked_reads.push_back(self.outbox.leave(batch));
            }
        }
        for walk in std::mem::take(&mut self.outbox.walks) {
            self.shared.stats.read_batches.add(1);
            self.parked_reads.push_back(self.outbox.leave(walk));
        }
        while let Some(job) = self.parked_reads.pop_front() {
            if let Err(job) = store.submit_read(job) {
                self.parked_reads.push_front(job);
                break;
            }
        }
        self.parked_reads.is_empty()
    }

    fn set_timer(&mut self, ctl: &mut Control, after: Duration, tick: Tick) {
        let timer = &mut self.ticks[tick as usize];
        if timer.is_none() {
            *timer = Some(ctl.timer_after(after, tick as u64));
        }
    }

    /// Lets those go on that wait for the end of a pause, or waits on.
    fn end_pause(&mut self, ctl: &mut Control, conns: &mut Connections<Session>) {
        match self.shared.pause.left() {
            Some(left) if !ctl.is_stopping() => {
                if !self.outbox.paused.is_empty() {
                    self.set_timer(ctl, left, Tick::Pause);
                }
            }
            _ => resume(std::mem::take(&mut self.outbox.paused), conns),
        }
    }

    /// Has idle connections looked for, if they are to be closed.
    fn begin_sweeps(&mut self, ctl: &mut Control) {
        if self.shared.config.live.timeout.get() > 0 {
            self.set_timer(ctl, SWEEP, Tick::Sweep);
        }
    }

    /// Closes who has been idle for too long, but not while something is under way.
    fn sweep(&mut self, ctl: &mut Control, conns: &mut Connections<Session>) {
        let timeout = self.shared.config.live.timeout.get();
        let second = self.shared.registry.second(ctl.now());
        let now = i64::from(second);
        let is_idle = |conn: &&Connection<Session>| {
            let entry = conn.session.entry();
            entry.note_sent(conn.sent(), second);
            now - i64::from(entry.seen()) > timeout && conn.session.is_idle()
        };
        if timeout <= 0 {
            return;
        }
        let idle: Vec<ConnId> = conns.iter().filter(is_idle).map(Connection::id).collect();
        for id in idle {
            if let Some(conn) = conns.get_mut(id) {
                log::debug!("closing {}: it was idle for too long", conn.peer());
                conn.close_now();
            }
        }
        self.begin_sweeps(ctl);
    }

    /// Hands the replies of a batch to their connections.
    fn deliver(&mut self, now: u32, conns: &mut Connections<Session>, batch: Box<Batch>) {
        let (hits, misses) = batch.looked_up();
        self.outbox.meter.looked_up(hits, misses);
        for answered in batch.answered() {
            self.count(&answered, conns);
            // The connection may be gone, and its slot another one's: then the generation differs.
            let Some(conn) = conns.get_mut(answered.conn) else { continue };
            let parts = conn.parts();
            parts.session.entry().see(now);
            let counting = (&*self.shared, &mut self.outbox.meter);
            let stalled = parts.session.deliver(counting, &answered, parts.output);
            if parts.session.is_done() {
                conn.close_after_flush();
            } else if stalled {
                conn.resume_reading();
            }
        }
        self.outbox.recycle(batch);
    }

    fn count(&mut self, answered: &Answered<'_>, conns: &Connections<Session>) {
        let Answered { command, args, nanos, metered, .. } = *answered;
        let (meter, shared) = (&mut self.outbox.meter, &self.shared);
        let client = || {
            let conn = conns.get(answered.conn);
            conn.map_or_else(Default::default, |conn| conn.session.entry().name_and_addr())
        };
        meter.replied(metered.number, answered.reply);
        if metered.weight > 0 {
            meter.took(metered, nanos, &shared.config.live);
            shared.note_time(&Timed { command, args, nanos }, client);
        }
        if let Some(exec) = answered.exec {
            let ran = exec.ran_by_writer(answered.reply);
            ran.for_each(|ran| transaction::count(meter, shared, &ran, client));
        }
    }
}

/// Lets stalled connections go on.
fn resume(waiting: Vec<ConnId>, conns: &mut Connections<Session>) {
    for id in waiting {
        if let Some(conn) = conns.get_mut(id)
            && conn.session.unstall()
        {
            conn.resume_reading();
        }
    }
}

impl Service for Dispatcher {
    type Session = Session;
    type Mail = Mail;

    fn open(&mut self, ctl: &mut Control, id: ConnId, peer: Peer) -> Session {
        self.begin_sweeps(ctl);
        let entry = self.shared.registry.enter(ctl.loop_index(), id, peer, ctl.now());
        Session::new(entry, &self.shared)
    }

    fn data(&mut self, ctl: &mut Control, conn: &mut Connection<Session>) {
        self.look_for_backend();
        conn.session.entry().see(self.shared.registry.second(ctl.now()));
        let parts = conn.parts();
        let verdict = parts.session.serve(
            &self.shared,
            self.backend.as_ref(),
            &mut self.outbox,
            parts.input,
            (parts.output, parts.high_water),
        );
        match verdict {
            Verdict::GoOn => {}
            Verdict::Stall => conn.pause_reading(),
            Verdict::Close => conn.close_after_flush(),
        }
        let input = conn.input();
        // An empty buffer goes back to the loop.
        let room = if input.is_empty() { 0 } else { input.capacity() - input.len() };
        let input = (input.len(), room);
        let slow = if conn.is_congested() { conn.pending_output() } else { 0 };
        conn.session.tell(input, slow);
    }

    fn mail(&mut self, ctl: &mut Control, conns: &mut Connections<Session>, mail: Mail) {
        match mail {
            Mail::Done(batch) => {
                self.deliver(self.shared.registry.second(ctl.now()), conns, batch);
            }
            Mail::Kill(id) => {
                if let Some(conn) = conns.get_mut(id) {
                    conn.close_now();
                }
            }
            Mail::Changed => {
                let most = self.shared.config.live.output_limit();
                ctl.set_output_limit(most);
                self.outbox.set_most_reply(most);
                self.begin_sweeps(ctl);
                // It may be for a pause that is over, and the next one shorter.
                if let Some(timer) = self.ticks[Tick::Pause as usize].take() {
                    ctl.cancel(timer);
                }
                self.end_pause(ctl, conns);
            }
        }
    }

    fn flush(&mut self, ctl: &mut Control, conns: &mut Connections<Session>) {
        self.shared.stats.commands.add(std::mem::take(&mut self.outbox.commands));
        self.shared.stats.local_reads.add(std::mem::take(&mut self.outbox.local_reads));
        self.shared.watch_index(ctl.now());
        if let Some(Backend::Native(store)) = self.backend.clone() {
            let written = self.send_writes(&store);
            let read = self.send_reads(&store);
            self.outbox.reads_full = !read;
            // Those who waited for room go on.
            if self.outbox.has_room() {
                resume(std::mem::take(&mut self.outbox.waiting_writes), conns);
            }
            if read {
                resume(std::mem::take(&mut self.outbox.waiting_reads), conns);
            }
            if !written || !read {
                self.set_timer(ctl, RETRY, Tick::Retry);
            }
        }
        if !self.outbox.paused.is_empty() {
            self.end_pause(ctl, conns);
        }
    }

    fn timer(&mut self, ctl: &mut Control, conns: &mut Connections<Session>, token: u64) {
        for tick in [Tick::Retry, Tick::Pause, Tick::Sweep] {
            if token != tick as u64 {
                continue;
            }
            self.ticks[tick as usize] = None;
            match tick {
                Tick::Retry => {}
                Tick::Pause => self.end_pause(ctl, conns),
                Tick::Sweep => self.sweep(ctl, conns),
            }
        }
    }

    fn stopping(&mut self, ctl: &mut Control, conns: &mut Connections<Session>) {
        // What was received is answered, and a stop does not wait for the end of a pause.
        self.shared.pause.end();
        self.end_pause(ctl, conns);
    }

    fn close(&mut self, _: &mut Control, _: ConnId, session: Session) {
        self.shared.registry.leave(session.entry().number);
    }

    fn awaits_mail(&self) -> bool {
        self.outbox.is_under_way()
    }

    fn idle(&self, conn: &Connection<Session>) -> bool {
        conn.session.is_idle()
    }
}
