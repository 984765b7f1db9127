//! A store that keeps nothing on disk: proof that any [`KvsEngine`] can stand behind the server, and
//! a companion for tests.
//!
//! Any thread; one lock around a BTreeMap.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::KvsEngine;
use crate::error::{KvsError, Result};
use crate::sync::lock;

/// See the module. Clones share their keys.
#[derive(Debug, Clone, Default)]
pub struct MemoryEngine {
    keys: Arc<Mutex<BTreeMap<String, String>>>,
}

impl MemoryEngine {
    /// An empty one.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        lock(&self.keys)
    }
}

impl KvsEngine for MemoryEngine {
    fn set(&self, key: String, value: String) -> Result<()> {
        self.keys().insert(key, value);
        Ok(())
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        Ok(self.keys().get(&key).cloned())
    }

    fn remove(&self, key: String) -> Result<()> {
        self.keys().remove(&key).map(drop).ok_or(KvsError::KeyNotFound)
    }
}
