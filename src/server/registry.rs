//! Who is connected: what CLIENT LIST tells of connections, on whatever loop they are, and CLIENT
//! KILL ends.
//!
//! Threads: any. An entry belongs to its connection's loop, which writes the figures in it with
//! plain stores at the end of a turn; others read them as they are. The lock around all entries is
//! held to add, remove or copy handles, never while anything is written or formatted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::batch::Mail;
use crate::command::{ClientFilter, numbered};
use crate::reactor::{ConnId, Peer, Post};
use crate::sync::lock;

/// What a connection tells of itself.
#[derive(Debug)]
pub struct Entry {
    /// Unique while the server runs.
    pub number: u64,
    /// Its name on its loop.
    pub conn: ConnId,
    /// Which loop that is.
    pub home: usize,
    /// Where it comes from, and where to.
    pub peer: Peer,
    /// Seconds of the registry's clock.
    born: u32,
    name: Mutex<Box<[u8]>>,
    killed: AtomicBool,
    seen: AtomicU32,
    sent: AtomicU64,
    command: AtomicU16,
    database: AtomicU16,
    marks: AtomicU16,
    queued: AtomicU32,
    input: AtomicU64,
    room: AtomicU64,
    output: AtomicU64,
}

/// Of [`Figures::marks`]: it speaks RESP3.
pub const RESP3: u16 = 1;
/// Its requests are held back.
pub const HELD: u16 = 2;
/// It is in a transaction.
pub const MULTI: u16 = 4;
/// It asked not to be evicted, which nobody is.
pub const NO_EVICT: u16 = 8;

/// What is told anew after a turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// The number of the last command.
    pub command: u16,
    /// The database it chose.
    pub database: u8,
    /// Bits that are listed above.
    pub marks: u16,
    /// Commands that wait for EXEC.
    pub queued: usize,
    /// Bytes of unfinished requests.
    pub input: usize,
    /// Room behind them.
    pub room: usize,
    /// Bytes of replies that it is slow to take.
    pub output: usize,
}

impl Entry {
    /// Its name, empty unless it was given one.
    pub fn name(&self) -> Vec<u8> {
        lock(&self.name).to_vec()
    }

    /// Where it comes from, and its name.
    pub fn name_and_addr(&self) -> (String, Vec<u8>) {
        (self.peer.addr.to_string(), self.name())
    }

    /// Names it.
    pub fn set_name(&self, name: &[u8]) {
        *lock(&self.name) = name.into();
    }

    /// Whether it is to end.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }

    /// For its loop: it did something at this second of the registry's clock.
    pub fn see(&self, second: u32) {
        self.seen.store(second, Relaxed);
    }

    /// For its loop: so many bytes were sent to it until this second. To take some is to do something.
    pub fn note_sent(&self, sent: u64, second: u32) {
        if self.sent.load(Relaxed) != sent {
            self.sent.store(sent, Relaxed);
            self.see(second);
        }
    }

    /// The second at which it last did something.
    pub fn seen(&self) -> u32 {
        self.seen.load(Relaxed)
    }

    /// For its loop: the number of the command that begins.
    pub fn set_command(&self, number: u16) {
        self.command.store(number, Relaxed);
    }

    /// For its loop.
    pub fn tell(&self, figures: &Figures) {
        self.command.store(figures.command, Relaxed);
        self.database.store(figures.database.into(), Relaxed);
        self.marks.store(figures.marks, Relaxed);
        self.queued.store(figures.queued as u32, Relaxed);
        self.input.store(figures.input as u64, Relaxed);
        self.room.store(figures.room as u64, Relaxed);
        self.output.store(figures.output as u64, Relaxed);
    }

    /// Its line in CLIENT LIST, without a line end.
    fn line(&self, now: u32) -> String {
        let marks = self.marks.load(Relaxed);
        let has = |mark| marks & mark != 0;
        let (input, room) = (self.input.load(Relaxed), self.room.load(Relaxed));
        let output = self.output.load(Relaxed);
        let flags: String = [(MULTI, 'x'), (HELD, 'b'), (NO_EVICT, 'e')]
            .iter()
            .filter_map(|(mark, letter)| has(*mark).then_some(*letter))
            .collect();
        let multi = if has(MULTI) { i64::from(self.queued.load(Relaxed)) } else { -1 };
        let command = numbered().get(usize::from(self.command.load(Relaxed)));
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 \
             multi={multi} qbuf={input} qbuf-free={room} argv-mem=0 multi-mem=0 rbs={output} \
             rbp={output} obl={output} oll=0 omem=0 tot-mem={} events={} cmd={} user=default \
             redir=-1 resp={}",
            self.number,
            self.peer.addr,
            self.peer.local,
            self.peer.descriptor,
            String::from_utf8_lossy(&lock(&self.name)),
            now.saturating_sub(self.born),
            now.saturating_sub(self.seen()),
            if flags.is_empty() { "N" } else { &flags },
            self.database.load(Relaxed),
            OWN_BYTES + input + room + output,
            if output > 0 { "rw" } else { "r" },
            command.map_or("NULL", |command| command.name),
            if has(RESP3) { 3 } else { 2 },
        )
    }

    /// Whether it is one of those that are meant. A killed one is gone, though its loop may have yet to
    /// close it.
    fn matches(&self, filter: &ClientFilter, me: u64) -> bool {
        let is = |wanted: &Option<String>, addr: std::net::SocketAddr| {
            wanted.as_ref().is_none_or(|wanted| *wanted == addr.to_string())
        };
        !self.is_killed()
            && filter.number.is_none_or(|number| number == self.number)
            && is(&filter.addr, self.peer.addr)
            && is(&filter.laddr, self.peer.local)
            && filter.normal
            && !(filter.skip_me && self.number == me)
    }
}

/// About what a connection costs beside its buffers.
const OWN_BYTES: u64 = 800;

/// See the module.
pub struct Registry {
    entries: Mutex<BTreeMap<u64, Arc<Entry>>>,
    homes: Mutex<BTreeMap<usize, Post<Mail>>>,
    next: AtomicU64,
    epoch: Instant,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            entries: Mutex::default(),
            homes: Mutex::default(),
            next: AtomicU64::new(1),
            epoch: Instant::now(),
        }
    }
}

impl Registry {
    /// The registry's clock at `now`: whole seconds.
    pub fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_secs() as u32
    }

    /// A loop can be posted to.
    pub fn add_home(&self, home: usize, post: Post<Mail>) {
        lock(&self.homes).insert(home, post);
    }

    /// A connection came to a loop.
    pub fn enter(&self, home: usize, conn: ConnId, peer: Peer, now: Instant) -> Arc<Entry> {
        let second = self.second(now);
        let entry = Arc::new(Entry {
            number: self.next.fetch_add(1, Relaxed),
            conn,
            home,
            peer,
            born: second,
            name: Mutex::default(),
            killed: AtomicBool::new(false),
            seen: AtomicU32::new(second),
            sent: AtomicU64::new(0),
            command: AtomicU16::new(u16::MAX),
            database: AtomicU16::new(0),
            marks: AtomicU16::new(0),
            queued: AtomicU32::new(0),
            input: AtomicU64::new(0),
            room: AtomicU64::new(0),
            output: AtomicU64::new(0),
        });
        lock(&self.entries).insert(entry.number, Arc::clone(&entry));
        entry
    }

    /// It is gone.
    pub fn leave(&self, number: u64) {
        lock(&self.entries).remove(&number);
    }

    fn chosen(&self, filter: &ClientFilter, me: u64) -> Vec<Arc<Entry>> {
        let entries = lock(&self.entries);
        let mut chosen: Vec<_> = match filter.number {
            // Somebody may ask for a million numbers, one by one.
            Some(number) => entries.get(&number).cloned().into_iter().collect(),
            None => entries.values().cloned().collect(),
        };
        drop(entries);
        chosen.retain(|entry| entry.matches(filter, me));
        chosen
    }

    /// The lines of those that match, each with its line end, in the order in which they came.
    pub fn list(&self, filter: &ClientFilter) -> String {
        let now = self.second(Instant::now());
        let lines = self.chosen(filter, 0).into_iter().map(|entry| entry.line(now) + "\n");
        lines.collect()
    }

    fn count(&self, is: impl Fn(&Entry) -> bool) -> usize {
        lock(&self.entries).values().filter(|entry| !entry.is_killed() && is(entry)).count()
    }

    /// How many there are.
    pub fn connected(&self) -> usize {
        self.count(|_| true)
    }

    /// How many have requests that are held back.
    pub fn held(&self) -> usize {
        self.count(|entry| entry.marks.load(Relaxed) & HELD != 0)
    }

    /// Ends those that match: each answers no request from now on and is closed by its loop. Who
    /// asks is not closed here but counted; whether it was among them.
    pub fn kill(&self, filter: &ClientFilter, me: u64) -> (usize, bool) {
        let chosen = self.chosen(filter, me);
        for entry in chosen.iter().filter(|entry| entry.number != me) {
            entry.killed.store(true, Relaxed);
            self.post(entry.home, Mail::Kill(entry.conn));
        }
        (chosen.len(), chosen.iter().any(|entry| entry.number == me))
    }

    /// Tells every loop that a setting or the pause has changed.
    pub fn announce_change(&self) {
        for post in lock(&self.homes).values() {
            // A loop that is gone has nothing to change.
            let _ = post.post(Mail::Changed);
        }
    }

    fn post(&self, home: usize, mail: Mail) {
        if let Some(post) = lock(&self.homes).get(&home) {
            let _ = post.post(mail);
        }
    }
}
