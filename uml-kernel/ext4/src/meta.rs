//! Where metadata blocks come from: the state behind one big lock.
//!
//! A block's newest contents are, in this order: the running operation's
//! overlay ([`crate::txn::Txn`]), [`State::dirty`] (in a transaction or not
//! yet written home), the [`Cache`], the store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use uml_abi::{Errno, Result};

use crate::cache::{Block, Buf, Cache};
use crate::error::{EFSCORRUPTED, ErrorSink};
use crate::inode::{Inode, flags};
use crate::layout::Layout;
use uml_store::BlockStore;

/// Read access to metadata, for code that serves both plain reads and
/// operations in a transaction.
pub(crate) trait MetaRead {
    /// The geometry.
    fn lay(&self) -> &Layout;
    /// The newest contents of block `nr`.
    fn block(&self, nr: u64) -> Result<Buf>;
    /// The engine's constant parts.
    fn core(&self) -> &Core;

    /// When block `wanted` is not in memory, it and the other blocks of
    /// `first..end` are read with one request, because those will be wanted
    /// too. Errors are left to whoever reads the blocks.
    fn read_ahead(&self, wanted: u64, first: u64, end: u64);

    /// Reports damage (see [`ErrorSink::report`]) and returns `errno`.
    fn damage(&self, errno: Errno, what: &str, ino: u32, block: u64) -> Errno {
        self.core().errors.report(errno, what, ino, block)
    }

    /// Reports damaged structure and returns `EUCLEAN`.
    fn corrupt(&self, what: &str, ino: u32, block: u64) -> Errno {
        self.damage(EFSCORRUPTED, what, ino, block)
    }

    /// Fails unless `start..start+len` are blocks a file may own.
    fn check_range(&self, ino: u32, start: u64, len: u64) -> Result<()> {
        if self.core().file_blocks_ok(ino, start, len) {
            Ok(())
        } else {
            Err(self.corrupt("block outside the data area", ino, start))
        }
    }
}

/// Parts that do not change while mounted, or lock themselves.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) lay: Layout,
    pub(crate) cache: Cache,
    pub(crate) errors: ErrorSink,
    /// The contents of all files are changed like metadata: through transactions and the journal (`data=journal`).
    pub(crate) journal_data: bool,
    /// Blocks no file may own: descriptors, bitmaps, inode tables, the
    /// journal; sorted, disjoint `(start, end)`. Grows with the filesystem.
    pub(crate) system: RwLock<Vec<(u64, u64)>>,
    /// Blocks only privileged users get; tune2fs changes it while mounted.
    pub(crate) kept_blocks: AtomicU64,
}

impl Core {
    /// Blocks only privileged users get.
    pub(crate) fn kept(&self) -> u64 {
        self.kept_blocks.load(Ordering::Relaxed)
    }

    /// The contents of this file go through the journal: all do, or it has the attribute `j` (chattr(1)).
    pub(crate) fn journals(&self, inode: &Inode) -> bool {
        self.journal_data
            || (inode.has(flags::JOURNAL_DATA) && inode.is_reg() && self.lay.journal_inum != 0)
    }

    /// Byte offset of a block.
    pub(crate) fn off(&self, block: u64) -> u64 {
        block << self.lay.block_bits
    }

    /// Reads a block from the store, past all caches.
    pub(crate) fn read_raw(&self, nr: u64) -> Result<Vec<u8>> {
        let mut v = vec![0u8; self.lay.bs()];
        self.store.read_at(self.off(nr), &mut v)?;
        Ok(v)
    }

    pub(crate) fn file_blocks_ok(&self, ino: u32, start: u64, len: u64) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        if start <= self.lay.first_data_block || end > self.lay.blocks_count() || len == 0 {
            return false;
        }
        if ino == self.lay.journal_inum {
            return true;
        }
        let system = self.system.read().unwrap_or_else(|e| e.into_inner());
        let i = system.partition_point(|&(_, e)| e <= start);
        system.get(i).is_none_or(|&(s, _)| s >= end)
    }

    /// Blocks that are no file's: what statfs(2) leaves out of the size.
    pub(crate) fn overhead(&self) -> u64 {
        let system = self.system.read().unwrap_or_else(|e| e.into_inner());
        system.iter().map(|(s, e)| e - s).sum::<u64>() + self.lay.first_data_block
    }

    /// Adds blocks that no file may own.
    pub(crate) fn add_system(&self, more: &[(u64, u64)]) {
        let mut system = self.system.write().unwrap_or_else(|e| e.into_inner());
        let mut parts = std::mem::take(&mut *system);
        parts.extend(more.iter().filter(|(s, e)| s < e));
        *system = system_zone(parts);
    }
}

/// Builds the sorted list of blocks that no file may own.
pub(crate) fn system_zone(mut parts: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    parts.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (s, e) in parts {
        match out.last_mut() {
            Some(last) if s <= last.1 => last.1 = last.1.max(e),
            _ => out.push((s, e)),
        }
    }
    out
}

/// Everything that changes, behind the filesystem's one `RwLock`.
#[derive(Default)]
pub(crate) struct State {
    /// Newest contents of every block that is not yet written home.
    pub(crate) dirty: HashMap<u64, Buf>,
    /// Blocks changed by the running transaction (contents in `dirty`).
    pub(crate) running: HashSet<u64>,
    /// Metadata blocks freed by the running transaction.
    pub(crate) revokes: HashSet<u64>,
    /// Blocks freed by the running transaction: not reusable until it commits.
    pub(crate) freed: Vec<(u64, u64)>,
    /// Blocks freed by transactions that have not committed: start to end.
    pub(crate) busy: BTreeMap<u64, u64>,
    /// Identifier of the running transaction.
    pub(crate) tid: u32,
    /// Last transaction that changed an inode: any change, and a change that
    /// fdatasync(2) must make durable.
    pub(crate) inode_tids: HashMap<u32, (u32, Option<u32>)>,
    /// Upper bounds of the longest free run per group, learnt by searching.
    pub(crate) run_hint: HashMap<u32, u32>,
    /// Blocks promised to delayed allocation.
    pub(crate) reserved: u64,
    /// Where the next directory-less search starts, per inode.
    pub(crate) next_generation: u32,
}

impl State {
    /// Adds a freed range to the busy set.
    pub(crate) fn add_busy(&mut self, start: u64, len: u64) {
        let (mut s, mut e) = (start, start.saturating_add(len));
        if let Some((&ps, &pe)) = self.busy.range(..=s).next_back() {
            if pe >= s {
                s = ps;
                e = e.max(pe);
                self.busy.remove(&ps);
            }
        }
        while let Some((&ns, &ne)) = self.busy.range(s..=e).next() {
            e = e.max(ne);
            self.busy.remove(&ns);
        }
        self.busy.insert(s, e);
    }

    /// Takes a range that is free again out of the busy set: what searches
    /// learnt about the longest free runs no longer holds.
    pub(crate) fn release_busy(&mut self, start: u64, len: u64) {
        self.del_busy(start, len);
        self.run_hint.clear();
    }

    /// Takes a range out of the busy set.
    pub(crate) fn del_busy(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len);
        let mut hit: Vec<(u64, u64)> = Vec::new();
        if let Some((&s, &e)) = self.busy.range(..start).next_back() {
            if e > start {
                hit.push((s, e));
            }
        }
        hit.extend(self.busy.range(start..end).map(|(&s, &e)| (s, e)));
        for (s, e) in hit {
            self.busy.remove(&s);
            if s < start {
                self.busy.insert(s, start);
            }
            if e > end {
                self.busy.insert(end, e);
            }
        }
    }
}

/// Read access outside a transaction.
pub(crate) struct View<'a> {
    pub(crate) core: &'a Core,
    pub(crate) st: &'a State,
}

/// The newest contents of a block outside any operation's overlay.
pub(crate) fn fetch(core: &Core, st: &State, nr: u64) -> Result<Buf> {
    if let Some(b) = st.dirty.get(&nr) {
        return Ok(b.clone());
    }
    if let Some(b) = core.cache.get(nr) {
        return Ok(b);
    }
    if nr >= core.lay.blocks_count() {
        return Err(core.errors.report(EFSCORRUPTED, "metadata block outside the device", 0, nr));
    }
    let b = Arc::new(Block::new(core.read_raw(nr)?));
    core.cache.insert(nr, b.clone());
    Ok(b)
}

/// See [`MetaRead::read_ahead`].
pub(crate) fn fetch_ahead(core: &Core, st: &State, wanted: u64, first: u64, end: u64) {
    let known = |nr: u64| st.dirty.contains_key(&nr) || core.cache.contains(nr);
    if end <= first + 1 || end > core.lay.blocks_count() || known(wanted) {
        return;
    }
    let bs = core.lay.bs();
    let mut all = vec![0; (end - first) as usize * bs];
    if core.store.read_at(core.off(first), &mut all).is_err() {
        return;
    }
    for (nr, b) in (first..end).zip(all.chunks_exact(bs)) {
        if !known(nr) {
            core.cache.insert(nr, Arc::new(Block::new(b.to_vec())));
        }
    }
}

impl MetaRead for View<'_> {
    fn lay(&self) -> &Layout {
        &self.core.lay
    }

    fn block(&self, nr: u64) -> Result<Buf> {
        fetch(self.core, self.st, nr)
    }

    fn read_ahead(&self, wanted: u64, first: u64, end: u64) {
        fetch_ahead(self.core, self.st, wanted, first, end);
    }

    fn core(&self) -> &Core {
        self.core
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_ranges_merge_and_split() {
        let mut st = State::default();
        st.add_busy(10, 5);
        st.add_busy(20, 5);
        st.add_busy(15, 5);
        assert_eq!(st.busy.iter().collect::<Vec<_>>(), [(&10, &25)]);
        st.del_busy(12, 3);
        assert_eq!(st.busy.iter().collect::<Vec<_>>(), [(&10, &12), (&15, &25)]);
        st.del_busy(0, 100);
        assert!(st.busy.is_empty());
    }

    #[test]
    fn system_zone_merges() {
        assert_eq!(system_zone(vec![(5, 6), (1, 3), (3, 5), (9, 10)]), [(1, 6), (9, 10)]);
    }
}
