//! The service on each event loop: hands input to sessions, what they gathered to the workers, and
//! the workers' replies back to the sessions.
//!
//! Thread: its loop. Invariants: nothing in here waits; one message per worker and poll wake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::batch::Mail;
use super::outbox::Outbox;
use super::session::{Session, Verdict};
use super::shared::{Backend, Shared};
use crate::engine::{KvStore, ReadJob, WriteJob};
use crate::reactor::{ConnId, Connection, Connections, Control, Post, Service};

/// How long a full queue is left alone before it is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// Connections are numbered over all loops.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// See the module.
pub struct Dispatcher {
    shared: Arc<Shared>,
    /// Taken from `shared` once the store is open.
    backend: Option<Backend>,
    outbox: Outbox,
    /// What the workers' queues had no room for.
    parked_writes: Option<Box<dyn WriteJob>>,
    parked_reads: Vec<Box<dyn ReadJob>>,
    retry_set: bool,
}

impl Dispatcher {
    /// The service of the loop that `home` posts to.
    pub fn new(shared: Arc<Shared>, home: Post<Mail>) -> Dispatcher {
        let outbox = Outbox::new(home, shared.config.readers);
        Dispatcher {
            shared,
            backend: None,
            outbox,
            parked_writes: None,
            parked_reads: Vec::new(),
            retry_set: false,
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
                self.parked_reads.push(batch);
            }
        }
        while let Some(job) = self.parked_reads.pop() {
            if let Err(job) = store.submit_read(job) {
                self.parked_reads.push(job);
                break;
            }
        }
        self.parked_reads.is_empty()
    }

    /// Connections that waited for room go on.
    fn wake_waiting(&mut self, conns: &mut Connections<Session>) {
        for id in std::mem::take(&mut self.outbox.waiting) {
            if let Some(conn) = conns.get_mut(id)
                && conn.session.unstall()
            {
                conn.resume_reading();
            }
        }
    }

    fn retry_later(&mut self, ctl: &mut Control) {
        if !self.retry_set {
            ctl.timer_after(RETRY, 0);
            self.retry_set = true;
        }
    }
}

impl Service for Dispatcher {
    type Session = Session;
    type Mail = Mail;

    fn open(&mut self, _: &mut Control, id: ConnId, peer: SocketAddr) -> Session {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Session::new(id, number, peer, &self.shared)
    }

    fn data(&mut self, _: &mut Control, conn: &mut Connection<Session>) {
        self.look_for_backend();
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
    }

    fn mail(&mut self, _: &mut Control, conns: &mut Connections<Session>, mail: Mail) {
        let Mail::Done(batch) = mail;
        for (id, ticket, reply) in batch.replies() {
            // The connection may be gone, and its slot another one's: then the generation differs.
            let Some(conn) = conns.get_mut(id) else { continue };
            let parts = conn.parts();
            let stalled = parts.session.deliver(ticket, reply, parts.output);
            if parts.session.is_done() {
                conn.close_after_flush();
            } else if stalled {
                conn.resume_reading();
            }
        }
        self.outbox.recycle(batch);
    }

    fn flush(&mut self, ctl: &mut Control, conns: &mut Connections<Session>) {
        self.shared.stats.commands.add(std::mem::take(&mut self.outbox.commands));
        self.shared.stats.local_reads.add(std::mem::take(&mut self.outbox.local_reads));
        if let Some(Backend::Native(store)) = self.backend.clone() {
            let written = self.send_writes(&store);
            let read = self.send_reads(&store);
            self.outbox.reads_full = !read;
            if written && read {
                self.wake_waiting(conns);
            } else {
                self.retry_later(ctl);
            }
        }
    }

    fn timer(&mut self, _: &mut Control, _: &mut Connections<Session>, _: u64) {
        // The flush at the end of this wake tries again.
        self.retry_set = false;
    }

    fn close(&mut self, _: &mut Control, _: ConnId, _: Session) {}

    fn idle(&self, conn: &Connection<Session>) -> bool {
        conn.session.is_idle()
    }
}
