//! sled: an insert and, to be durable, a flush.

use std::path::Path;

use super::{Durability, Engine, Pair};
use crate::Result;

struct Sled {
    db: sled::Db,
    durability: Durability,
}

pub fn open(dir: &Path, durability: Durability) -> Result<Box<dyn Engine>> {
    Ok(Box::new(Sled { db: sled::open(dir)?, durability }))
}

impl Sled {
    fn flush(&self) -> Result<()> {
        if self.durability == Durability::Durable {
            self.db.flush()?;
        }
        Ok(())
    }
}

impl Engine for Sled {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.insert(key, value)?;
        self.flush()
    }

    fn put_many(&self, pairs: &[Pair<'_>]) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in pairs {
            batch.insert(key, *value);
        }
        self.db.apply_batch(batch)?;
        self.flush()
    }

    fn get_many(&self, keys: &[[u8; 16]], see: &mut dyn FnMut(&[u8])) -> Result<()> {
        for key in keys {
            if let Some(value) = self.db.get(key)? {
                see(&value);
            }
        }
        Ok(())
    }
}
