//! Commands on any [`KvsEngine`] whose calls block: a front end to another store, or the small one
//! in memory. They run on a thread pool beside the native path, never on a loop.
//!
//! Threads: jobs of the pool, one at a time per connection, which keeps its order. What such an
//! engine can do is get, set and remove of text: everything else is a clear error. A command that
//! reads and then writes holds the locks of its keys meanwhile, so it is atomic among the clients of
//! this server; it is not across a crash, nor against other users of the engine behind.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};

use super::batch::write_abort;
use crate::command::{Abort, Command, Entry, Outcome, Reads, Run, Way, Writes, keys_of};
use crate::engine::KvsEngine;
use crate::error::{KvsError, Result};
use crate::key_range::KeyRange;
use crate::protocol::{Args, Reply};
use crate::sync::lock;
use crate::thread_pool::{SharedQueueThreadPool, ThreadPool};

/// Keys are spread over so many locks.
const LOCKS: usize = 256;

/// A [`KvsEngine`] without its type.
trait AnyEngine: Send {
    fn set(&self, key: String, value: String) -> Result<()>;
    fn get(&self, key: String) -> Result<Option<String>>;
    fn remove(&self, key: String) -> Result<()>;
    fn another(&self) -> Box<dyn AnyEngine>;
}

impl<E: KvsEngine> AnyEngine for E {
    fn set(&self, key: String, value: String) -> Result<()> {
        KvsEngine::set(self, key, value)
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        KvsEngine::get(self, key)
    }

    fn remove(&self, key: String) -> Result<()> {
        KvsEngine::remove(self, key)
    }

    fn another(&self) -> Box<dyn AnyEngine> {
        Box::new(self.clone())
    }
}

/// An engine on a pool of threads.
pub struct BlockingEngine {
    /// Engines are `Send`, not `Sync`: it is cloned under a lock, used without.
    engine: Mutex<Box<dyn AnyEngine>>,
    locks: Vec<Mutex<()>>,
    pool: SharedQueueThreadPool,
}

impl BlockingEngine {
    /// Puts `engine` on `threads` threads.
    pub fn new<E: KvsEngine>(engine: E, threads: u32) -> Result<Arc<BlockingEngine>> {
        Ok(Arc::new(BlockingEngine {
            engine: Mutex::new(Box::new(engine)),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            pool: SharedQueueThreadPool::new(threads)?,
        }))
    }

    /// Runs `job` on the pool.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.spawn(job);
    }

    /// Runs a command and writes its reply. On a thread of the pool.
    pub fn run(&self, command: &Command, args: Args<'_>, reply: &mut Reply<'_>) {
        let engine = lock(&self.engine).another();
        let start = reply.mark();
        let outcome = match command.run {
            Run::Read(run) | Run::Scan(run) => run(&Blocking(&*engine), args, reply),
            Run::Write(run) => {
                let _atomic = self.lock_keys(command, args);
                run(&mut Blocking(&*engine), args, reply)
            }
            Run::Local(_) | Run::Session(_) => {
                Err("ERR internal error: a local command on the pool".into())
            }
        };
        if let Err(abort) = outcome {
            reply.rewind(start);
            write_abort(reply, &abort);
        }
    }

    /// Locks all keys of a request, always in the same order.
    fn lock_keys(&self, command: &Command, args: Args<'_>) -> Vec<MutexGuard<'_, ()>> {
        let places: BTreeSet<usize> =
            keys_of(command, args).map(|key| crc32fast::hash(key) as usize % LOCKS).collect();
        places.into_iter().map(|place| lock(&self.locks[place])).collect()
    }
}

struct Blocking<'a>(&'a dyn AnyEngine);

fn text(bytes: &[u8]) -> Result<String, Abort> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "ERR this engine keeps UTF-8 text only".into())
}

fn unsupported<T>(what: &'static str) -> Result<T, Abort> {
    Err(Abort::Failed(KvsError::Unsupported(what)))
}

impl Reads for Blocking<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Abort> {
        let value = self.0.get(text(key)?)?;
        Ok(value.map(|value| Entry { value: Cow::Owned(value.into_bytes()), expires_at: None }))
    }

    fn len(&self) -> Result<u64, Abort> {
        unsupported("count of its keys")
    }

    fn keys(
        &self,
        _: KeyRange<'_>,
        _: Way,
        _: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        unsupported("list of its keys")
    }

    fn entries(
        &self,
        _: KeyRange<'_>,
        _: Way,
        _: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Abort> {
        unsupported("list of its keys")
    }

    fn scan(&self, _: u64, _: usize, _: &mut dyn FnMut(&[u8])) -> Result<u64, Abort> {
        unsupported("list of its keys")
    }
}

impl Writes for Blocking<'_> {
    fn put(&mut self, key: &[u8], value: &[u8], expires_at: Option<u64>) -> Outcome {
        if expires_at.is_some() {
            return unsupported("expiry of keys");
        }
        Ok(self.0.set(text(key)?, text(value)?)?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, Abort> {
        match self.0.remove(text(key)?) {
            Ok(()) => Ok(true),
            Err(KvsError::KeyNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn clear(&mut self) -> Outcome {
        unsupported("command to remove all keys")
    }

    fn clear_all(&mut self) -> Outcome {
        self.clear()
    }

    fn database(&self) -> usize {
        0
    }

    fn select(&mut self, database: usize) -> bool {
        database == 0
    }

    /// There is but one database.
    fn swap(&mut self, _: usize, _: usize) -> Outcome {
        Ok(())
    }
}
