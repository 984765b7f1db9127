//! All keys and values of a server, page by page.
//!
//! ```text
//! PREFIX prefix AFTER key LIMIT n  ->  key value key value ...   key: the last one of the page before
//! SCAN cursor, MGET key ...                                      where the server has no PREFIX
//! PEXPIRETIME key, pipelined                                     for each key of a page
//! ```
//!
//! Pages are kept to about [`PAGE_BYTES`], so memory does not grow with the store. A walk is no
//! snapshot: a key that is changed meanwhile may be seen as it was or as it is.

use super::{Client, unexpected};
use crate::error::{KvsError, Result};
use crate::protocol::{JsonEntry, Value};

/// What a page is meant to hold, in bytes of keys and values.
const PAGE_BYTES: usize = 1 << 20;
/// The most keys of a page: enough that the round trip does not count.
const PAGE_KEYS: usize = 1024;
/// How much longer than the one before a page may be. The first one has one key: values may be
/// large.
const GROWTH: usize = 4;

/// A walk over a server's keys (see [`Client::walk`]).
#[derive(Debug)]
pub struct Walk<'c> {
    client: &'c mut Client,
    prefix: Vec<u8>,
    next: Next,
    /// How many keys the next page has.
    limit: usize,
    asks_expiry: bool,
}

type Keys = Vec<Vec<u8>>;
type Cursor = Vec<u8>;

/// How a walk goes on.
#[derive(Debug)]
enum Next {
    /// Nothing was asked yet.
    Start,
    /// In order, behind this key.
    Prefix(Vec<u8>),
    /// In the server's order: keys whose values are to be fetched, last one first, and then from
    /// this cursor on, if there is more.
    Scan(Keys, Option<Cursor>),
    End,
}

impl<'c> Walk<'c> {
    pub(super) fn new(client: &'c mut Client, prefix: Vec<u8>) -> Self {
        Walk { client, prefix, next: Next::Start, limit: 1, asks_expiry: true }
    }

    /// The next entries, never an empty list; None at the end. After an error the walk is over.
    pub fn next_page(&mut self) -> Result<Option<Vec<JsonEntry>>> {
        loop {
            let mut page = match std::mem::replace(&mut self.next, Next::End) {
                Next::Start => self.start()?,
                Next::Prefix(last) => self.prefix(Some(&last))?,
                Next::Scan(keys, cursor) => self.scan(keys, cursor)?,
                Next::End => return Ok(None),
            };
            if self.asks_expiry && !page.is_empty() {
                self.add_expiries(&mut page)?;
            }
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
    }

    /// The first page decides whether there is a PREFIX.
    fn start(&mut self) -> Result<Vec<JsonEntry>> {
        match self.prefix(None) {
            Err(KvsError::Server(_)) => {
                self.next = Next::Scan(Vec::new(), Some(b"0".into()));
                Ok(Vec::new())
            }
            outcome => outcome,
        }
    }

    fn prefix(&mut self, after: Option<&[u8]>) -> Result<Vec<JsonEntry>> {
        let limit = self.limit.to_string();
        let mut words: Vec<&[u8]> = vec![b"PREFIX", &self.prefix, b"LIMIT", limit.as_bytes()];
        if let Some(last) = after {
            words.extend([&b"AFTER"[..], last]);
        }
        let reply = self.client.command(&words)?;
        let Value::Array(parts) = reply else { return Err(unexpected("PREFIX", &reply)) };
        let page = pairs(parts)?;
        if let Some(last) = page.last().filter(|_| page.len() >= self.limit) {
            self.next = Next::Prefix(last.key.clone());
        }
        self.size_next(&page);
        Ok(page)
    }

    fn scan(&mut self, mut keys: Keys, mut cursor: Option<Cursor>) -> Result<Vec<JsonEntry>> {
        if keys.is_empty() {
            let Some(from) = cursor else { return Ok(Vec::new()) };
            (keys, cursor) = self.scan_keys(&from)?;
        }
        let wanted = keys.split_off(keys.len().saturating_sub(self.limit));
        self.next = Next::Scan(keys, cursor);
        let page = self.fetch(wanted)?;
        self.size_next(&page);
        Ok(page)
    }

    /// One SCAN: its keys and the next cursor, if there is more.
    fn scan_keys(&mut self, cursor: &[u8]) -> Result<(Keys, Option<Cursor>)> {
        let pattern = [&escape_glob(&self.prefix)[..], b"*"].concat();
        let count = PAGE_KEYS.to_string();
        let words: [&[u8]; 6] = [b"SCAN", cursor, b"MATCH", &pattern, b"COUNT", count.as_bytes()];
        let reply = self.client.command(&words)?;
        let Value::Array(parts) = reply else { return Err(unexpected("SCAN", &reply)) };
        let [Value::Bulk(next), Value::Array(keys)] = &parts[..] else {
            return Err(unexpected("SCAN", &parts));
        };
        let keys = keys.iter().map(|key| match key {
            Value::Bulk(key) => Ok(key.clone()),
            other => Err(unexpected("SCAN", other)),
        });
        Ok((keys.collect::<Result<_>>()?, (next != b"0").then(|| next.clone())))
    }

    /// The entries of those of `keys` that are still there.
    fn fetch(&mut self, keys: Keys) -> Result<Vec<JsonEntry>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let words: Vec<&[u8]> =
            std::iter::once(&b"MGET"[..]).chain(keys.iter().map(Vec::as_slice)).collect();
        let reply = self.client.command(&words)?;
        let Value::Array(values) = reply else { return Err(unexpected("MGET", &reply)) };
        if values.len() != keys.len() {
            return Err(unexpected("MGET", &"another number of values than was asked for"));
        }
        let entries = keys.into_iter().zip(values).filter_map(|(key, value)| match value {
            Value::Bulk(value) => Some(Ok(JsonEntry { database: 0, key, value, expires_at: None })),
            Value::Null => None,
            other => Some(Err(unexpected("MGET", &other))),
        });
        entries.collect()
    }

    /// Asks when each key ends, and drops those that are gone. A server without PEXPIRETIME is not
    /// asked again.
    fn add_expiries(&mut self, page: &mut Vec<JsonEntry>) -> Result<()> {
        let (mut ends, mut refused) = (Vec::with_capacity(page.len()), false);
        let mut pipeline = self.client.pipeline(PAGE_KEYS, |reply| {
            match reply {
                Value::Integer(end) => ends.push(end),
                Value::Error(message) if message.starts_with("ERR unknown command") => {
                    refused = true;
                }
                Value::Error(message) => return Err(KvsError::Server(message)),
                other => return Err(unexpected("PEXPIRETIME", &other)),
            }
            Ok(())
        });
        for entry in page.iter() {
            pipeline.send(&[b"PEXPIRETIME", &entry.key[..]])?;
        }
        pipeline.finish()?;
        if refused {
            self.asks_expiry = false;
            return Ok(());
        }
        const GONE: i64 = -2;
        let mut ends = ends.into_iter();
        page.retain_mut(|entry| {
            let end = ends.next().unwrap_or(GONE);
            entry.expires_at = u64::try_from(end).ok();
            end != GONE
        });
        Ok(())
    }

    /// Sizes the next page by this one.
    fn size_next(&mut self, page: &[JsonEntry]) {
        let bytes: usize = page.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
        let fitting = PAGE_BYTES.saturating_mul(page.len()) / bytes.max(1);
        self.limit = fitting.clamp(1, self.limit * GROWTH).min(PAGE_KEYS);
    }
}

fn pairs(parts: Vec<Value>) -> Result<Vec<JsonEntry>> {
    let mut entries = Vec::with_capacity(parts.len() / 2);
    let mut parts = parts.into_iter();
    while let Some(key) = parts.next() {
        match (key, parts.next()) {
            (Value::Bulk(key), Some(Value::Bulk(value))) => {
                entries.push(JsonEntry { database: 0, key, value, expires_at: None });
            }
            other => return Err(unexpected("PREFIX", &other)),
        }
    }
    Ok(entries)
}

/// A glob pattern that only `text` itself matches.
fn escape_glob(text: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(text.len());
    for byte in text {
        if b"*?[]\\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_no_patterns() {
        assert_eq!(escape_glob(b"a*[b]?\\"), b"a\\*\\[b\\]\\?\\\\");
    }
}
