//! redb: a transaction per put, with `Durability::Immediate` or `None`.

use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::{Durability, Engine, Pair};
use crate::Result;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bench");

struct Redb {
    db: Database,
    durability: redb::Durability,
}

pub fn open(dir: &Path, durability: Durability) -> Result<Box<dyn Engine>> {
    let db = Database::create(dir.join("redb"))?;
    let txn = db.begin_write()?;
    txn.open_table(TABLE)?;
    txn.commit()?;
    let durability = match durability {
        Durability::Durable => redb::Durability::Immediate,
        Durability::Relaxed => redb::Durability::None,
    };
    Ok(Box::new(Redb { db, durability }))
}

impl Engine for Redb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(self.durability)?;
        txn.open_table(TABLE)?.insert(key, value)?;
        Ok(txn.commit()?)
    }

    fn put_many(&self, pairs: &[Pair<'_>]) -> Result<()> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(self.durability)?;
        let mut table = txn.open_table(TABLE)?;
        for (key, value) in pairs {
            table.insert(key.as_slice(), *value)?;
        }
        drop(table);
        Ok(txn.commit()?)
    }

    fn get_many(&self, keys: &[[u8; 16]], see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        for key in keys {
            if let Some(value) = table.get(key.as_slice())? {
                see(value.value());
            }
        }
        Ok(())
    }
}
