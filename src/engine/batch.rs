//! Several changes that happen together or not at all.

use super::txn::Txn;
use crate::error::Result;

/// A list of changes for [`KvStore::write`](crate::KvStore::write). Of two changes of a key the
/// later one holds.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// No changes yet.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Batch {
        self.changes.push((key.into(), Some(value.into())));
        self
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) -> &mut Batch {
        self.changes.push((key.into(), None));
        self
    }

    pub(super) fn stage(&self, txn: &mut Txn<'_>) -> Result<()> {
        for (key, value) in &self.changes {
            match value {
                Some(value) => txn.put(0, key, value, None)?,
                None => drop(txn.delete(0, key)?),
            }
        }
        Ok(())
    }
}
