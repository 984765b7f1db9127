//! All keys and values of all databases, in and out of a store as JSON lines.

use std::ops::ControlFlow;
use std::path::Path;

use kvs::engine::{DATABASES, Patience, record};
use kvs::key_range::Prefix;
use kvs::protocol::{JsonEntry, write_json_entry};
use kvs::{KvStore, KvsError};

use super::check::name;
use super::shared::{self, Done, Output, Progress, Source, Stop};

/// A batch of loaded keys is written when it has so many bytes of keys and values: then the sync
/// costs little beside the writing.
const BATCH_BYTES: usize = 1 << 20;
/// Or so many keys.
const BATCH_KEYS: usize = 8192;

/// Prints the keys that start with `prefix`. A damaged one is named on stderr, and the others are
/// printed: who has no backup wants to have them.
pub fn dump(store: &KvStore, prefix: &[u8]) -> Result<Done, Stop> {
    let mut dump = Dump {
        store,
        output: Output::new(),
        progress: Progress::of_output(),
        line: Vec::new(),
        keys: 0,
        damaged: 0,
    };
    for database in 0..DATABASES as u8 {
        dump.database(database, prefix)?;
    }
    dump.output.flush()?;
    dump.progress.sum_up("dumped", dump.keys);
    Ok(if dump.damaged == 0 { Done::Well } else { Done::InVain })
}

struct Dump<'s> {
    store: &'s KvStore,
    output: Output,
    progress: Progress,
    line: Vec<u8>,
    keys: u64,
    damaged: u64,
}

impl Dump<'_> {
    fn database(&mut self, database: u8, prefix: &[u8]) -> Result<(), Stop> {
        let prefix = Prefix::new(prefix);
        let mut outcome = Ok(());
        self.store.reader().snapshot(database).keys(prefix.range(), |key| {
            outcome = self.key(database, key);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    }

    /// Nobody else changes the store, so what a key has now is what it had in the snapshot; its expiry
    /// is only to be had by a look-up.
    fn key(&mut self, database: u8, key: &[u8]) -> Result<(), Stop> {
        self.line.clear();
        match self.store.reader().view().get(database, key, Patience::MayWait) {
            Ok(Some(value)) => {
                write_json_entry(database, key, &value.bytes, value.expires_at, &mut self.line);
                self.keys += 1;
                self.progress.advance(self.line.len());
                self.output.write(&self.line)
            }
            // It expired meanwhile.
            Ok(None) => Ok(()),
            Err(error) => {
                eprintln!("kvs: {}: {}", name(database, key), KvsError::from(error));
                self.damaged += 1;
                Ok(())
            }
        }
    }
}

/// Sets the keys that `file` has.
pub fn load(store: &KvStore, file: &Path) -> Result<(), Stop> {
    let mut source = Source::open(file)?;
    let mut loaded = 0;
    let outcome = load_batches(store, &mut source, &mut loaded);
    Ok(source.finish(outcome, loaded)?)
}

/// Counts in `loaded` what is durable.
fn load_batches(store: &KvStore, source: &mut Source, loaded: &mut u64) -> kvs::Result<()> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    loop {
        let next = next_storable(source);
        if let Ok(Some(entry)) = next {
            bytes += entry.key.len() + entry.value.len();
            batch.push(entry);
            if bytes < BATCH_BYTES && batch.len() < BATCH_KEYS {
                continue;
            }
            *loaded += write(store, std::mem::take(&mut batch))?;
            bytes = 0;
            continue;
        }
        *loaded += write(store, batch)?;
        return next.map(drop);
    }
}

/// The next entry, refused with its place if the store cannot hold it.
fn next_storable(source: &mut Source) -> kvs::Result<Option<JsonEntry>> {
    let Some(entry) = source.next_entry()? else { return Ok(None) };
    let fits = match usize::from(entry.database) {
        0..DATABASES => record::check_lengths(entry.key.len(), entry.value.len()),
        beyond => Err(shared::failure(format!("there is no database {beyond}"))),
    };
    match fits {
        Ok(()) => Ok(Some(entry)),
        Err(error) => Err(source.refusal(source.number(), error)),
    }
}

/// Writes a batch: all of it or nothing. Its number of keys.
fn write(store: &KvStore, batch: Vec<JsonEntry>) -> Result<u64, KvsError> {
    store.update(move |txn| {
        for entry in &batch {
            txn.put(entry.database, &entry.key, &entry.value, entry.expires_at)?;
        }
        Ok(batch.len() as u64)
    })
}
