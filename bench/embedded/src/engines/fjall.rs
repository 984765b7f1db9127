//! fjall: an insert and, to be durable, a persist with `SyncData`.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Durability, Engine, Pair};
use crate::Result;

struct Fjall {
    db: Database,
    keyspace: Keyspace,
    durability: Durability,
}

pub fn open(dir: &Path, durability: Durability) -> Result<Box<dyn Engine>> {
    let db = Database::builder(dir).open()?;
    let keyspace = db.keyspace("bench", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { db, keyspace, durability }))
}

impl Fjall {
    fn persist(&self) -> Result<()> {
        if self.durability == Durability::Durable {
            self.db.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }
}

impl Engine for Fjall {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value)?;
        self.persist()
    }

    fn put_many(&self, pairs: &[Pair<'_>]) -> Result<()> {
        let mut batch = self.db.batch();
        for (key, value) in pairs {
            batch.insert(&self.keyspace, key.as_slice(), *value);
        }
        batch.commit()?;
        self.persist()
    }

    fn get_many(&self, keys: &[[u8; 16]], see: &mut dyn FnMut(&[u8])) -> Result<()> {
        for key in keys {
            if let Some(value) = self.keyspace.get(key)? {
                see(&value);
            }
        }
        Ok(())
    }
}
