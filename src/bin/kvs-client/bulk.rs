//! All keys and values, in and out of a server as JSON lines.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;

use kvs::client::{Client, Pipeline};
use kvs::protocol::{JsonEntry, Value, write_json_entry};
use kvs::{KvsError, Result};

use super::shared::{Output, Progress, Source, Stop};

/// The most requests in flight. The client's pipeline bounds their bytes.
const WINDOW: usize = 1024;

/// Prints the keys that start with `prefix`.
pub fn dump(client: &mut Client, prefix: Vec<u8>) -> Result<(), Stop> {
    let (mut output, mut progress) = (Output::new(), Progress::of_output());
    let (mut line, mut keys) = (Vec::new(), 0);
    let mut walk = client.walk(prefix);
    while let Some(page) = walk.next_page()? {
        for entry in &page {
            line.clear();
            write_json_entry(&entry.key, &entry.value, entry.expires_at, &mut line);
            output.write(&line)?;
            progress.advance(line.len());
        }
        keys += page.len() as u64;
    }
    output.flush()?;
    progress.sum_up("dumped", keys);
    Ok(())
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
    // Whatever stops it, what is in flight is waited for: its outcome is to be known.
    let outcome = loop {
        match source.next_entry() {
            Ok(Some(entry)) if refused.borrow().is_none() => {
                send(&mut pipeline, &entry)?;
                lines.borrow_mut().push_back(source.number());
            }
            Ok(_) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    pipeline.finish()?;
    match refused.into_inner() {
        Some((line, message)) => Err(source.refusal(line, message)),
        None => outcome,
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
