//! kvs: `fsync always` or `no`; reads look at the map without a copy.

use std::path::Path;

use kvs::KvStore;
use kvs::engine::{Batch, Fsync, Options, Patience, ReadError};

use super::{Durability, Engine, Pair};
use crate::Result;

struct Kvs(KvStore);

pub fn open(dir: &Path, durability: Durability) -> Result<Box<dyn Engine>> {
    open_with(Options::new(dir), durability)
}

pub fn open_unordered(dir: &Path, durability: Durability) -> Result<Box<dyn Engine>> {
    open_with(Options::new(dir).ordered(false), durability)
}

fn open_with(options: Options, durability: Durability) -> Result<Box<dyn Engine>> {
    let fsync = match durability {
        Durability::Durable => Fsync::Always,
        Durability::Relaxed => Fsync::No,
    };
    Ok(Box::new(Kvs(options.fsync(fsync).open()?)))
}

impl Engine for Kvs {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.0.put(key, value)?)
    }

    fn put_many(&self, pairs: &[Pair<'_>]) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in pairs {
            batch.put(*key, *value);
        }
        Ok(self.0.write(batch)?)
    }

    fn get_many(&self, keys: &[[u8; 16]], see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let view = self.0.reader().view();
        for key in keys {
            match view.get(0, key, Patience::MayWait) {
                Ok(Some(value)) => see(&value.bytes),
                Ok(None) => {}
                Err(ReadError::Failed(error)) => return Err(error.into()),
                Err(ReadError::NotResident) => return Err("a patient read did not wait".into()),
            }
        }
        Ok(())
    }
}
