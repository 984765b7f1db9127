//! RocksDB: a put with `sync` or without; reads are pinned, not copied.

use std::path::Path;

use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use super::{Durability, Engine, Pair};
use crate::Result;

struct RocksDb {
    db: DB,
    durability: Durability,
}

pub fn open(dir: &Path, durability: Durability) -> Result<Box<dyn Engine>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.increase_parallelism(std::thread::available_parallelism()?.get() as i32);
    Ok(Box::new(RocksDb { db: DB::open(&options, dir)?, durability }))
}

impl RocksDb {
    fn how(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self.durability == Durability::Durable);
        options
    }
}

impl Engine for RocksDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.db.put_opt(key, value, &self.how())?)
    }

    fn put_many(&self, pairs: &[Pair<'_>]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        Ok(self.db.write_opt(&batch, &self.how())?)
    }

    fn get_many(&self, keys: &[[u8; 16]], see: &mut dyn FnMut(&[u8])) -> Result<()> {
        for key in keys {
            if let Some(value) = self.db.get_pinned(key)? {
                see(&value);
            }
        }
        Ok(())
    }
}
