//! Commands on the native engine: the commands' traits over the engine's views and transactions.
//!
//! Threads: [`NativeReads`] on an event loop (only what is in memory) or a read worker (whatever it
//! takes); [`NativeWrites`] on the writer.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use super::batch::check_size;
use crate::command::{Abort, Command, Entry, Outcome, Reads, Run, Way, Writes, keys_of};
use crate::engine::{DATABASES, Patience, ReadError, Reader, Txn, Value, View, Walk};
use crate::key_range::KeyRange;
use crate::protocol::{Args, Reply};

impl From<ReadError> for Abort {
    fn from(error: ReadError) -> Abort {
        match error {
            ReadError::NotResident => Abort::NotResident,
            ReadError::Failed(error) => Abort::Failed(error),
        }
    }
}

fn entry(value: Value<'_>) -> Entry<'_> {
    Entry { value: value.bytes, expires_at: value.expires_at }
}

fn walk(way: Way, values: bool) -> Walk {
    Walk { backward: way == Way::Backward, values }
}

/// Reading one database. Made for each request; the view, which pins an epoch, may serve many.
pub struct NativeReads<'a> {
    reader: &'a Reader,
    view: &'a View<'a>,
    database: u8,
    patience: Patience,
    hits: Cell<u32>,
    misses: Cell<u32>,
}

impl<'a> NativeReads<'a> {
    /// Reads of `database`; without patience, what is not in memory is refused.
    pub fn new(
        reader: &'a Reader,
        view: &'a View<'a>,
        database: u8,
        patience: Patience,
    ) -> NativeReads<'a> {
        let (hits, misses) = (Cell::new(0), Cell::new(0));
        NativeReads { reader, view, database, patience, hits, misses }
    }

    /// How many keys that were looked for were there, and were not.
    pub fn looked_up(&self) -> (u64, u64) {
        (self.hits.get().into(), self.misses.get().into())
    }

    /// Tells which keys will be read next; see [`View::warm_up`].
    pub fn warm_up<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        self.view.warm_up(self.database, keys);
    }

    /// About how many bytes there are to read of these keys; an estimate that waits for nothing.
    pub fn size_of<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> usize {
        keys.map(|key| self.view.record_size(self.database, key)).sum()
    }

    /// Runs a reading command, so that what it reads is of one moment: a walk takes a snapshot, any
    /// other read is tried until nothing that it could see in part has become visible meanwhile.
    pub fn run(&self, command: &Command, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
        let start = reply.mark();
        match command.run {
            Run::Scan(run) => run(self, args, reply)?,
            Run::Read(run) => self.consistently(keys_of(command, args).nth(1).is_some(), || {
                reply.rewind(start);
                run(self, args, reply)
            })?,
            _ => return Err("ERR internal error: not a reading command".into()),
        }
        check_size(reply)
    }

    /// Runs `read`, which may be any but a walk, until what it read is of one moment: no atomic batch
    /// became visible in between, and if it reads `several` keys, nothing else either. It starts anew
    /// each time, and takes back what it wrote before.
    fn consistently(
        &self,
        several: bool,
        mut read: impl FnMut() -> Result<(), Abort>,
    ) -> Result<(), Abort> {
        const ATTEMPTS: usize = 4;
        // How often a loop looks at what is becoming visible: that is short.
        const LOOKS: usize = 64;
        let mark = || if several { self.view.group_mark() } else { self.view.batch_mark() };
        let (mut attempts, mut looks) = (0, 0);
        while attempts < ATTEMPTS {
            if let Some(before) = mark() {
                let outcome = read();
                if mark() == Some(before) {
                    return outcome;
                }
                attempts += 1;
            } else if self.patience == Patience::MayWait {
                std::thread::yield_now();
            } else {
                looks += 1;
                if looks == LOOKS {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        match self.patience {
            Patience::ResidentOnly => Err(Abort::NotResident),
            // A large value under many batches: now the batches wait.
            Patience::MayWait => self.reader.while_nothing_shows(read),
        }
    }

    /// Walks are for workers.
    fn check_patience(&self) -> Result<(), Abort> {
        match self.patience {
            Patience::MayWait => Ok(()),
            Patience::ResidentOnly => Err(Abort::NotResident),
        }
    }
}

impl Reads for NativeReads<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Abort> {
        let found = self.view.get(self.database, key, self.patience)?;
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.set(count.get().wrapping_add(1));
        Ok(found.map(entry))
    }

    fn pair(&self, a: &[u8], b: &[u8]) -> Result<(Option<Entry<'_>>, Option<Entry<'_>>), Abort> {
        let mut pair = (None, None);
        self.consistently(true, || {
            pair = (self.get(a)?, self.get(b)?);
            Ok(())
        })?;
        Ok(pair)
    }

    fn len(&self) -> Result<u64, Abort> {
        Ok(self.view.len(self.database))
    }

    fn keys(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        self.check_patience()?;
        let visit = &mut |key: &[u8], _: &[u8]| visit(key);
        Ok(self.reader.snapshot(self.database).walk(range, walk(way, false), visit)?)
    }

    fn entries(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        self.check_patience()?;
        Ok(self.reader.snapshot(self.database).walk(range, walk(way, true), visit)?)
    }

    fn backup(&self, name: Option<&str>) -> Result<(), Abort> {
        self.check_patience()?;
        let backups = self.reader.backups();
        Ok(backups.named(name).and_then(|dest| backups.make(&dest))?)
    }

    fn begin_backup(&self, name: Option<&str>) -> Result<(), Abort> {
        self.check_patience()?;
        let backups = self.reader.backups();
        Ok(backups.named(name).and_then(|dest| backups.begin_in_background(dest))?)
    }

    fn scan(&self, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8])) -> Result<u64, Abort> {
        self.check_patience()?;
        Ok(self.reader.scan(self.database, cursor, count, visit)?)
    }
}

/// Changing one database, within one unit of a transaction.
pub struct NativeWrites<'a, 'w> {
    txn: RefCell<&'a mut Txn<'w>>,
    database: u8,
}

impl<'a, 'w> NativeWrites<'a, 'w> {
    /// Changes of `database`.
    pub fn new(txn: &'a mut Txn<'w>, database: u8) -> NativeWrites<'a, 'w> {
        NativeWrites { txn: RefCell::new(txn), database }
    }
}

impl Reads for NativeWrites<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Abort> {
        Ok(self.txn.borrow_mut().get(self.database, key)?.map(entry))
    }

    fn contains(&self, key: &[u8]) -> Result<bool, Abort> {
        Ok(self.txn.borrow_mut().contains(self.database, key)?)
    }

    fn len(&self) -> Result<u64, Abort> {
        Ok(self.txn.borrow_mut().len(self.database)?)
    }

    fn keys(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        let visit = &mut |key: &[u8], _: &[u8]| visit(key);
        Ok(self.txn.borrow_mut().walk(self.database, range, walk(way, false), visit)?)
    }

    fn entries(
        &self,
        range: KeyRange<'_>,
        way: Way,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        Ok(self.txn.borrow_mut().walk(self.database, range, walk(way, true), visit)?)
    }

    fn scan(&self, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8])) -> Result<u64, Abort> {
        Ok(self.txn.borrow_mut().scan(self.database, cursor, count, visit)?)
    }
}

impl Writes for NativeWrites<'_, '_> {
    fn put(&mut self, key: &[u8], value: &[u8], expires_at: Option<u64>) -> Result<(), Abort> {
        Ok(self.txn.borrow_mut().put(self.database, key, value, expires_at)?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, Abort> {
        Ok(self.txn.borrow_mut().delete(self.database, key)?)
    }

    fn clear(&mut self) -> Result<(), Abort> {
        Ok(self.txn.borrow_mut().clear(self.database)?)
    }

    fn clear_all(&mut self) -> Result<(), Abort> {
        Ok(self.txn.borrow_mut().clear_all()?)
    }

    fn database(&self) -> usize {
        self.database.into()
    }

    fn swap(&mut self, one: usize, other: usize) -> Result<(), Abort> {
        Ok(self.txn.borrow_mut().swap(one as u8, other as u8)?)
    }

    fn select(&mut self, database: usize) -> bool {
        let known = database < DATABASES;
        if known {
            self.database = database as u8;
        }
        known
    }
}
