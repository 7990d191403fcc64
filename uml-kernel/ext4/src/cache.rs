//! Metadata blocks in memory, and a cache of clean ones with a byte limit.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

/// What a block has been checked as; damage is then looked for only once.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Checked {
    Extent = 1,
    Dir = 2,
    Dx = 4,
    BlockBitmap = 8,
    InodeBitmap = 16,
    Xattr = 32,
}

/// One metadata block.
pub(crate) struct Block {
    pub(crate) data: Box<[u8]>,
    /// Contents of a file that go through the journal, not metadata: never in the [`Cache`].
    pub(crate) contents: bool,
    checked: AtomicU8,
}

impl Clone for Block {
    fn clone(&self) -> Block {
        Block {
            data: self.data.clone(),
            contents: self.contents,
            checked: AtomicU8::new(self.checked.load(Ordering::Relaxed)),
        }
    }
}

impl Block {
    pub(crate) fn new(data: Vec<u8>) -> Block {
        Block { data: data.into_boxed_slice(), contents: false, checked: AtomicU8::new(0) }
    }

    /// A block of a file's contents.
    pub(crate) fn of_file(data: Vec<u8>) -> Block {
        Block { contents: true, ..Block::new(data) }
    }

    pub(crate) fn is_checked(&self, c: Checked) -> bool {
        self.checked.load(Ordering::Relaxed) & c as u8 != 0
    }

    pub(crate) fn set_checked(&self, c: Checked) {
        self.checked.fetch_or(c as u8, Ordering::Relaxed);
    }

    /// Marks contents that this engine made itself as good in every sense.
    pub(crate) fn trust(&self) {
        self.checked.store(0xff, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.data
    }
}

/// Shared handle of a block; contents never change under a handle.
pub(crate) type Buf = Arc<Block>;

struct Lru {
    blocks: HashMap<u64, (Buf, u64)>,
    order: BTreeMap<u64, u64>,
    tick: u64,
    bytes: usize,
}

/// Least-recently-used cache of clean metadata blocks.
pub(crate) struct Cache {
    limit: usize,
    lru: Mutex<Lru>,
}

impl Cache {
    /// `limit` is in bytes of block contents.
    pub(crate) fn new(limit: usize) -> Cache {
        let lru = Lru { blocks: HashMap::new(), order: BTreeMap::new(), tick: 0, bytes: 0 };
        Cache { limit, lru: Mutex::new(lru) }
    }

    fn lru(&self) -> std::sync::MutexGuard<'_, Lru> {
        self.lru.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn get(&self, nr: u64) -> Option<Buf> {
        let mut l = self.lru();
        l.tick += 1;
        let tick = l.tick;
        let (buf, last) = l.blocks.get_mut(&nr)?;
        let buf = buf.clone();
        let old = std::mem::replace(last, tick);
        l.order.remove(&old);
        l.order.insert(tick, nr);
        Some(buf)
    }

    /// Whether a block is there; does not count as a use.
    pub(crate) fn contains(&self, nr: u64) -> bool {
        self.lru().blocks.contains_key(&nr)
    }

    pub(crate) fn insert(&self, nr: u64, buf: Buf) {
        let mut l = self.lru();
        l.tick += 1;
        let tick = l.tick;
        l.bytes += buf.len();
        if let Some((old, t)) = l.blocks.insert(nr, (buf, tick)) {
            l.bytes = l.bytes.saturating_sub(old.len());
            l.order.remove(&t);
        }
        l.order.insert(tick, nr);
        while l.bytes > self.limit {
            let Some((_, victim)) = l.order.pop_first() else { break };
            if let Some((b, _)) = l.blocks.remove(&victim) {
                l.bytes = l.bytes.saturating_sub(b.len());
            }
        }
    }

    pub(crate) fn remove(&self, nr: u64) {
        let mut l = self.lru();
        if let Some((b, t)) = l.blocks.remove(&nr) {
            l.bytes = l.bytes.saturating_sub(b.len());
            l.order.remove(&t);
        }
    }

    /// Drops everything; returns the bytes given back.
    pub(crate) fn clear(&self) -> usize {
        let mut l = self.lru();
        l.blocks.clear();
        l.order.clear();
        std::mem::take(&mut l.bytes)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lru().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicts_least_recently_used_within_limit() {
        let c = Cache::new(3 * 1024);
        for nr in 0..3 {
            c.insert(nr, Arc::new(Block::new(vec![nr as u8; 1024])));
        }
        assert!(c.get(0).is_some());
        c.insert(3, Arc::new(Block::new(vec![3; 1024])));
        assert!(c.get(1).is_none(), "block 1 was the oldest");
        assert!(c.get(0).is_some() && c.get(2).is_some() && c.get(3).is_some());
        assert_eq!(c.bytes(), 3 * 1024);
        c.insert(3, Arc::new(Block::new(vec![4; 1024])));
        assert_eq!(c.bytes(), 3 * 1024);
    }
}
