//! A store whose writes stay in memory: read-only mounts replay the journal
//! into one, so that the disk is not touched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use uml_abi::Result;
use uml_abi::errno::EINVAL;

use uml_store::BlockStore;

/// Blocks written over a store that is only read. Memory is bounded by what is
/// written: one journal's worth.
pub(crate) struct OverlayStore {
    below: Arc<dyn BlockStore>,
    block_size: usize,
    blocks: RwLock<BTreeMap<u64, Vec<u8>>>,
    /// Set once the overlay is empty for good and everything passes through.
    settled: AtomicBool,
}

impl OverlayStore {
    pub(crate) fn new(below: Arc<dyn BlockStore>, block_size: usize) -> OverlayStore {
        let blocks = RwLock::new(BTreeMap::new());
        OverlayStore { below, block_size, blocks, settled: AtomicBool::new(false) }
    }

    /// Writes the overlay to the store below, durably; from then on the
    /// overlay is transparent.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut blocks = self.blocks.write().unwrap_or_else(|e| e.into_inner());
        for (nr, data) in blocks.iter() {
            self.below.write_at(nr * self.block_size as u64, data)?;
        }
        self.below.flush()?;
        blocks.clear();
        self.settled.store(true, Ordering::Release);
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }
}

impl BlockStore for OverlayStore {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.below.read_at(off, buf)?;
        if self.is_settled() {
            return Ok(());
        }
        let bs = self.block_size as u64;
        let blocks = self.blocks.read().unwrap_or_else(|e| e.into_inner());
        let end = off.saturating_add(buf.len() as u64);
        for (nr, data) in blocks.range(off / bs..end.div_ceil(bs)) {
            let at = nr * bs;
            let (s, e) = (at.max(off), (at + bs).min(end));
            let src = data.get((s - at) as usize..(e - at) as usize);
            let dst = buf.get_mut((s - off) as usize..(e - off) as usize);
            if let (Some(d), Some(s)) = (dst, src) {
                d.copy_from_slice(s);
            }
        }
        Ok(())
    }

    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()> {
        if self.is_settled() {
            return self.below.write_at(off, buf);
        }
        let bs = self.block_size as u64;
        if off % bs != 0 || buf.len() % self.block_size != 0 {
            return Err(EINVAL);
        }
        let mut blocks = self.blocks.write().unwrap_or_else(|e| e.into_inner());
        for (i, part) in buf.chunks(self.block_size).enumerate() {
            blocks.insert(off / bs + i as u64, part.to_vec());
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.is_settled() { self.below.flush() } else { Ok(()) }
    }

    fn discard(&self, off: u64, len: u64) -> Result<()> {
        if self.is_settled() { self.below.discard(off, len) } else { Ok(()) }
    }

    fn writable(&self) -> bool {
        self.below.writable()
    }
}
