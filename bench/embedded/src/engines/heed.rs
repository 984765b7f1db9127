//! LMDB by heed: a transaction per put; relaxed means MDB_NOSYNC.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use super::{Durability, Engine, Pair};
use crate::Result;

/// The most that the file may grow to; address space, not memory.
const MAP: usize = 64 << 30;

struct Lmdb {
    env: Env,
    db: Database<'static, Bytes, Bytes>,
}

pub fn open(dir: &Path, durability: Durability) -> Result<Box<dyn Engine>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP).max_readers(1024);
    // SAFETY: nobody else changes the file, and a lost tail of a relaxed run is not read again.
    let env = unsafe {
        if durability == Durability::Relaxed {
            options.flags(EnvFlags::NO_SYNC);
        }
        options.open(dir)?
    };
    let txn = env.write_txn()?;
    let made = env.create_databases_and_commit(txn, |opener, txn| {
        opener.create_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
    })?;
    let db = made.unwrap_commit();
    Ok(Box::new(Lmdb { env, db }))
}

impl Engine for Lmdb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        self.db.put(&mut txn, key, value)?;
        Ok(txn.commit()?)
    }

    fn put_many(&self, pairs: &[Pair<'_>]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in pairs {
            self.db.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn get_many(&self, keys: &[[u8; 16]], see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let txn = self.env.read_txn()?;
        for key in keys {
            if let Some(value) = self.db.get(&txn, key)? {
                see(value);
            }
        }
        Ok(())
    }
}
