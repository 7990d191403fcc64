//! One operation's changes: an overlay over the metadata that becomes part of
//! the running transaction as a whole, or not at all.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uml_abi::Result;

use crate::bytes::{rd32, wr32};
use crate::cache::{Block, Buf};
use crate::features::incompat;
use crate::group::{GroupDesc, read_desc};
use crate::inode::{Inode, Timestamp, place};
use crate::layout::{Layout, SbCounts, sb_csum};
use crate::meta::{Core, MetaRead, State, fetch, fetch_ahead};

/// Changes of one operation. Dropping it without [`Txn::finish`] undoes them.
pub(crate) struct Txn<'a> {
    core: &'a Core,
    pub(crate) st: &'a mut State,
    over: HashMap<u64, Buf>,
    revoked: HashSet<u64>,
    freed: Vec<(u64, u64)>,
    touched: Vec<(u32, bool)>,
    sb_changed: bool,
    finished: bool,
    /// The time of the operation.
    pub(crate) now: Timestamp,
    /// May use the blocks reserved for the superuser.
    pub(crate) use_reserved: bool,
}

impl MetaRead for Txn<'_> {
    fn lay(&self) -> &Layout {
        &self.core.lay
    }

    fn block(&self, nr: u64) -> Result<Buf> {
        match self.over.get(&nr) {
            Some(b) => Ok(b.clone()),
            None => fetch(self.core, self.st, nr),
        }
    }

    fn read_ahead(&self, wanted: u64, first: u64, end: u64) {
        if !self.over.contains_key(&wanted) {
            fetch_ahead(self.core, self.st, wanted, first, end);
        }
    }

    fn core(&self) -> &Core {
        self.core
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        if !self.finished {
            for &(s, n) in &self.freed {
                self.st.del_busy(s, n);
            }
            // Learnt from allocations that did not happen.
            self.st.run_hint.clear();
        }
    }
}

impl<'a> Txn<'a> {
    pub(crate) fn new(core: &'a Core, st: &'a mut State, now: Timestamp) -> Txn<'a> {
        Txn {
            core,
            st,
            over: HashMap::new(),
            revoked: HashSet::new(),
            freed: Vec::new(),
            touched: Vec::new(),
            sb_changed: false,
            finished: false,
            now,
            use_reserved: false,
        }
    }

    /// Blocks changed so far by this operation.
    pub(crate) fn changed(&self) -> usize {
        self.over.len()
    }

    /// The contents of a block, for changing.
    pub(crate) fn modify(&mut self, nr: u64) -> Result<&mut [u8]> {
        if !self.over.contains_key(&nr) {
            let b = Arc::new(Block::clone(&*fetch(self.core, self.st, nr)?));
            self.over.insert(nr, b);
        }
        match self.over.get_mut(&nr) {
            Some(b) => Ok(&mut Arc::make_mut(b).data),
            None => Err(uml_abi::errno::EIO),
        }
    }

    /// A zeroed block that needs no reading: newly allocated metadata.
    pub(crate) fn create(&mut self, nr: u64) -> &mut [u8] {
        let b = Block::new(vec![0; self.core.lay.bs()]);
        b.trust();
        self.revoked.remove(&nr);
        let slot = self.over.entry(nr).insert_entry(Arc::new(b)).into_mut();
        &mut Arc::make_mut(slot).data
    }

    /// A block of a file's contents, for changing, with `data=journal`; one
    /// whose old contents do not count is zeroed instead of read.
    pub(crate) fn contents(&mut self, nr: u64, keep: bool) -> Result<&mut [u8]> {
        if !self.over.contains_key(&nr) || !keep {
            let b = match self.st.dirty.get(&nr) {
                _ if !keep => Block::of_file(vec![0; self.core.lay.bs()]),
                Some(b) => Block::clone(b),
                // Past the cache, which holds metadata alone.
                None => Block::of_file(self.core.read_raw(nr)?),
            };
            self.revoked.remove(&nr);
            self.over.insert(nr, Arc::new(b));
        }
        match self.over.get_mut(&nr) {
            Some(b) => Ok(&mut Arc::make_mut(b).data),
            None => Err(uml_abi::errno::EIO),
        }
    }

    /// Freed contents of a file: a copy in the log must not be replayed over
    /// what the blocks hold next.
    pub(crate) fn forget_contents(&mut self, start: u64, len: u64) {
        let run = start..start + len;
        let changed = self.st.dirty.len() + self.over.len();
        let in_log: Vec<u64> = if len < changed as u64 {
            run.filter(|nr| self.st.dirty.contains_key(nr) || self.over.contains_key(nr)).collect()
        } else {
            let all = self.st.dirty.keys().chain(self.over.keys());
            all.copied().filter(|nr| run.contains(nr)).collect()
        };
        for nr in in_log {
            self.revoke(nr);
        }
    }

    /// Changes a group descriptor.
    pub(crate) fn with_desc<R>(
        &mut self,
        g: u32,
        f: impl FnOnce(&mut GroupDesc) -> R,
    ) -> Result<R> {
        let mut d = read_desc(self, g)?;
        let r = f(&mut d);
        let core = self.core;
        let lay = &core.lay;
        let (block, off) = lay.desc_place(g);
        let size = usize::from(lay.desc_size);
        if let Some(raw) = self.modify(block)?.get_mut(off..off + size) {
            d.encode(lay, g, raw);
        }
        Ok(r)
    }

    /// The superblock's bytes, for changing; the checksum follows by itself.
    pub(crate) fn superblock(&mut self) -> Result<&mut [u8]> {
        self.sb_changed = true;
        let (block, off) = self.core.lay.sb_place();
        let b = self.modify(block)?;
        b.get_mut(off..off + 1024).ok_or(uml_abi::errno::EIO)
    }

    /// The superblock's counters as of this operation.
    pub(crate) fn counts(&self) -> Result<SbCounts> {
        read_counts(self)
    }

    pub(crate) fn add_free_blocks(&mut self, delta: i64) -> Result<()> {
        let free = self.counts()?.free_blocks.saturating_add_signed(delta);
        let wide = self.core.lay.features.incompat(incompat::BIT64);
        let sb = self.superblock()?;
        wr32(sb, 0xc, free as u32);
        if wide {
            wr32(sb, 0x158, (free >> 32) as u32);
        }
        Ok(())
    }

    pub(crate) fn add_free_inodes(&mut self, delta: i32) -> Result<()> {
        let sb = self.superblock()?;
        let free = rd32(sb, 0x10).saturating_add_signed(delta);
        wr32(sb, 0x10, free);
        Ok(())
    }

    /// Writes an inode whose change fdatasync(2) must make durable.
    pub(crate) fn put_inode(&mut self, inode: &Inode) -> Result<()> {
        self.store_inode(inode, true)
    }

    /// Writes an inode of which only times changed.
    pub(crate) fn put_inode_times(&mut self, inode: &Inode) -> Result<()> {
        self.store_inode(inode, false)
    }

    fn store_inode(&mut self, inode: &Inode, data: bool) -> Result<()> {
        let raw = inode.encode(&self.core.lay)?;
        let (block, off) = place(self, inode.ino)?;
        if let Some(d) = self.modify(block)?.get_mut(off..off + raw.len()) {
            d.copy_from_slice(&raw);
        }
        self.touched.push((inode.ino, data));
        Ok(())
    }

    /// Forgets a block's contents: it stops being metadata.
    pub(crate) fn revoke(&mut self, nr: u64) {
        self.over.remove(&nr);
        self.revoked.insert(nr);
    }

    /// Records freed blocks, which stay unusable until the commit.
    pub(crate) fn note_freed(&mut self, start: u64, len: u64) {
        self.freed.push((start, len));
        self.st.add_busy(start, len);
    }

    /// Where to look for a first block for an inode: its own group.
    pub(crate) fn goal_for(&self, inode: &Inode) -> u64 {
        let lay = &self.core.lay;
        lay.ino_place(inode.ino).map_or(lay.first_data_block, |(g, _)| lay.group_first(g))
    }

    /// Makes the changes part of the running transaction.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.sb_changed && self.core.lay.metadata_csum() {
            let sb = self.superblock()?;
            let c = sb_csum(sb);
            wr32(sb, 0x3fc, c);
        }
        self.finished = true;
        let st = &mut *self.st;
        for nr in self.revoked.drain() {
            st.dirty.remove(&nr);
            st.running.remove(&nr);
            st.revokes.insert(nr);
            self.core.cache.remove(nr);
        }
        for (nr, buf) in self.over.drain() {
            st.revokes.remove(&nr);
            st.running.insert(nr);
            st.dirty.insert(nr, buf);
            self.core.cache.remove(nr);
        }
        st.freed.append(&mut self.freed);
        let tid = st.tid;
        for (ino, data) in self.touched.drain(..) {
            let e = st.inode_tids.entry(ino).or_insert((tid, None));
            e.0 = tid;
            if data {
                e.1 = Some(tid);
            }
        }
        Ok(())
    }
}

/// The superblock's counters as `src` sees them.
pub(crate) fn read_counts(src: &dyn MetaRead) -> Result<SbCounts> {
    let (block, off) = src.lay().sb_place();
    let b = src.block(block)?;
    Ok(SbCounts::parse(src.lay(), b.get(off..).unwrap_or(&[])))
}
