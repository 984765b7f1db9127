//! All keys and values of all databases, in and out of a server as JSON lines.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;

use kvs::client::{Client, Pipeline};
use kvs::protocol::{JsonEntry, Value, write_json_entry};
use kvs::{KvsError, Result};

use super::shared::{Output, Progress, Source, Stop};

/// The most requests in flight. The client's pipeline bounds their bytes.
const WINDOW: usize = 1024;

/// Prints the keys of all databases that start with `prefix`.
pub fn dump(client: &mut Client, prefix: &[u8]) -> Result<(), Stop> {
    let (mut output, mut progress) = (Output::new(), Progress::of_output());
    let (mut line, mut keys) = (Vec::new(), 0);
    for database in 0..=u8::MAX {
        match select(client, database) {
            // There is no such one.
            Err(KvsError::Server(_)) if database > 0 => break,
            selected => selected?,
        }
        let mut walk = client.walk(prefix);
        while let Some(page) = walk.next_page()? {
            for entry in &page {
                line.clear();
                write_json_entry(database, &entry.key, &entry.value, entry.expires_at, &mut line);
                output.write(&line)?;
                progress.advance(line.len());
            }
            keys += page.len() as u64;
        }
    }
    output.flush()?;
    progress.sum_up("dumped", keys);
    Ok(())
}

fn select(client: &mut Client, database: u8) -> Result<()> {
    client.command(&["SELECT", &database.to_string()]).map(drop)
}

/// Sets the keys that `file` has, and says how many were acknowledged.
pub fn load(client: &mut Client, file: &Path) -> Result<(), Stop> {
    let mut source = Source::open(file)?;
    let acknowledged = Cell::new(0);
    let outcome = load_all(client, &mut source, &acknowledged);
    Ok(source.finish(outcome, acknowledged.get())?)
}

/// Counts in `acknowledged` what the server has said to be there.
fn load_all(client: &mut Client, source: &mut Source, acknowledged: &Cell<u64>) -> Result<()> {
    let (mut next, mut database) = (source.next_entry()?, 0);
    while let Some(entry) = next {
        if entry.database != database {
            // Not in the pipeline: were it refused, keys would get into another database.
            database = entry.database;
            select(client, database).map_err(|error| source.refusal(source.number(), error))?;
        }
        next = load_run(client, source, entry, acknowledged)?;
    }
    Ok(())
}

/// Sets the keys from `first` on that are in its database. The next one that is not.
fn load_run(
    client: &mut Client,
    source: &mut Source,
    first: JsonEntry,
    acknowledged: &Cell<u64>,
) -> Result<Option<JsonEntry>> {
    // The lines whose requests are in flight, and the first one that was refused, with the error.
    let lines = RefCell::new(VecDeque::new());
    let refused = RefCell::new(None);
    let mut pipeline = client.pipeline(WINDOW, |reply| {
        let line = lines.borrow_mut().pop_front().unwrap_or_default();
        match reply {
            Value::Error(message) => {
                refused.borrow_mut().get_or_insert((line, message));
            }
            _ => acknowledged.set(acknowledged.get() + 1),
        }
        Ok(())
    });
    let database = first.database;
    let mut next = Ok(Some(first));
    while let Ok(Some(entry)) = &next
        && entry.database == database
        && refused.borrow().is_none()
    {
        send(&mut pipeline, entry)?;
        lines.borrow_mut().push_back(source.number());
        next = source.next_entry();
    }
    // Whatever stopped it, what is in flight is waited for: its outcome is to be known.
    pipeline.finish()?;
    match refused.into_inner() {
        Some((line, message)) => Err(source.refusal(line, message)),
        None => next,
    }
}

fn send<F>(pipeline: &mut Pipeline<'_, F>, entry: &JsonEntry) -> Result<()>
where
    F: FnMut(Value) -> Result<(), KvsError>,
{
    match entry.expires_at {
        None => pipeline.send(&[&b"SET"[..], &entry.key, &entry.value]),
        Some(end) => {
            let end = end.to_string();
            pipeline.send(&[&b"SET"[..], &entry.key, &entry.value, b"PXAT", end.as_bytes()])
        }
    }
}
