//! A small cache that forgets what was not used for longest.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Inner<K, V> {
    entries: HashMap<K, (V, u64)>,
    clock: u64,
}

/// At most a number of values by key. Values are cheap to clone.
pub(crate) struct Lru<K, V> {
    room: usize,
    inner: Mutex<Inner<K, V>>,
}

impl<K: Hash + Eq + Copy, V: Clone> Lru<K, V> {
    pub(crate) fn new(room: usize) -> Lru<K, V> {
        Lru { room, inner: Mutex::new(Inner { entries: HashMap::new(), clock: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: K) -> Option<V> {
        let mut i = self.lock();
        i.clock += 1;
        let now = i.clock;
        let (v, used) = i.entries.get_mut(&key)?;
        *used = now;
        Some(v.clone())
    }

    pub(crate) fn put(&self, key: K, value: V) {
        let mut i = self.lock();
        i.clock += 1;
        let now = i.clock;
        if i.entries.len() >= self.room && !i.entries.contains_key(&key) {
            let oldest = i.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| *k);
            if let Some(k) = oldest {
                i.entries.remove(&k);
            }
        }
        i.entries.insert(key, (value, now));
    }

    /// What `make` gives, unless it is known.
    pub(crate) fn get_or<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        if let Some(v) = self.get(key) {
            return Ok(v);
        }
        let v = make()?;
        self.put(key, v.clone());
        Ok(v)
    }

    pub(crate) fn clear(&self) {
        self.lock().entries.clear();
    }
}
