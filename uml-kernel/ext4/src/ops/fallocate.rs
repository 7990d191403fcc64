//! fallocate(2).

use uml_abi::Result;
use uml_abi::errno::{EFBIG, EINVAL, ENODEV, EOPNOTSUPP};

use super::blocks::{convert, extent_budget, free_range, take_extents};
use super::write::{goal, leave_inline, zero_bytes};
use crate::extent::{self, Extent};
use crate::fs::Ext4;
use crate::inode::{Inode, flags};
use crate::map;
use crate::meta::MetaRead;
use crate::txn::Txn;

/// The modes of fallocate(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Allocate; `keep_size` is `FALLOC_FL_KEEP_SIZE`.
    Allocate {
        /// Do not grow the file.
        keep_size: bool,
    },
    /// `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`.
    ZeroRange {
        /// Do not grow the file.
        keep_size: bool,
    },
    /// `FALLOC_FL_COLLAPSE_RANGE`.
    Collapse,
    /// `FALLOC_FL_INSERT_RANGE`.
    Insert,
}

/// Blocks allocated under one transaction.
const CHUNK: u64 = 32768;

impl Ext4 {
    /// fallocate(2) on a regular file. `EOPNOTSUPP` for modes that need
    /// extents on files without them, `EINVAL` for ranges that do not fit the
    /// mode, `ENODEV` for other inodes.
    pub fn fallocate(
        &self,
        ino: u32,
        mode: FallocateMode,
        off: u64,
        len: u64,
        use_reserved: bool,
    ) -> Result<()> {
        let end = off.checked_add(len).filter(|e| *e <= i64::MAX as u64).ok_or(EFBIG)?;
        if len == 0 {
            return Err(EINVAL);
        }
        let _data = self.inode_lock(ino).write().unwrap_or_else(|e| e.into_inner());
        self.transact(use_reserved, |tx| {
            let mut i = Inode::live(tx, ino)?;
            if !i.is_reg() {
                return Err(ENODEV);
            }
            if !i.has(flags::EXTENTS | flags::INLINE_DATA) && mode != FallocateMode::PunchHole {
                return Err(EOPNOTSUPP);
            }
            if i.has(flags::INLINE_DATA) {
                leave_inline(tx, &mut i)?;
                tx.put_inode(&i)?;
            }
            if end.div_ceil(u64::from(tx.lay().block_size)) > map::max_blocks(tx, &i) {
                return Err(EFBIG);
            }
            Ok(())
        })?;
        match mode {
            FallocateMode::Allocate { keep_size } => {
                self.preallocate(ino, off, end, keep_size, false, use_reserved)
            }
            FallocateMode::ZeroRange { keep_size } => {
                self.zero_edges(ino, off, end)?;
                self.preallocate(ino, off, end, keep_size, true, use_reserved)
            }
            FallocateMode::PunchHole => self.punch(ino, off, end),
            FallocateMode::Collapse => self.collapse(ino, off, len),
            FallocateMode::Insert => self.insert_range(ino, off, len),
        }
    }

    /// Zeroes the parts of a range that are less than a block.
    fn zero_edges(&self, ino: u32, off: u64, end: u64) -> Result<()> {
        let bits = self.core.lay.block_bits;
        let bs = 1u64 << bits;
        self.transact(true, |tx| {
            let i = Inode::live(tx, ino)?;
            let head_end = end.min(off.div_ceil(bs) * bs);
            if off < head_end {
                zero_bytes(tx, &i, off, head_end)?;
            }
            let tail = end / bs * bs;
            if tail >= head_end && tail < end {
                zero_bytes(tx, &i, tail, end)?;
            }
            Ok(())
        })
    }

    /// Gives `off..end` unwritten blocks where it has none; with `zero` whole
    /// blocks become unwritten too.
    fn preallocate(
        &self,
        ino: u32,
        off: u64,
        end: u64,
        keep_size: bool,
        zero: bool,
        use_reserved: bool,
    ) -> Result<()> {
        let bits = self.core.lay.block_bits;
        let (first, last) = (off >> bits, end.div_ceil(1 << bits));
        let (whole_first, whole_last) = (off.div_ceil(1 << bits), end >> bits);
        let budget = self.op_budget();
        let mut at = first;
        while at < last {
            at = self.transact(use_reserved, |tx| {
                let mut i = Inode::live(tx, ino)?;
                let stop = last.min(at + CHUNK);
                let mut n = at;
                while n < stop && tx.changed() < budget {
                    let m = map::find(tx, &i, n, stop - n)?;
                    if m.physical.is_none() {
                        let hint = goal(tx, &i, n)?;
                        let (block, got) = tx.alloc_run(hint, m.len)?;
                        i.sectors += got * tx.lay().sectors();
                        map::insert(tx, &mut i, n, block, got, true)?;
                        n += got;
                        continue;
                    }
                    let (s, e) = (n.max(whole_first), (n + m.len).min(whole_last));
                    if zero && !m.unwritten && s < e {
                        convert(tx, &mut i, s, e, true)?;
                    }
                    n += m.len;
                }
                let reached = (n << bits).min(end);
                if !keep_size && reached > i.size {
                    grow(tx, &mut i, reached)?;
                }
                i.ctime = tx.now;
                if zero {
                    i.mtime = tx.now;
                }
                tx.put_inode(&i)?;
                Ok(n)
            })?;
        }
        Ok(())
    }

    fn punch(&self, ino: u32, off: u64, end: u64) -> Result<()> {
        let bits = self.core.lay.block_bits;
        self.zero_edges(ino, off, end)?;
        let (first, last) = (off.div_ceil(1 << bits), end >> bits);
        self.free_blocks(ino, first, last)
    }

    /// Frees whole blocks, in as many transactions as that takes.
    fn free_blocks(&self, ino: u32, first: u64, last: u64) -> Result<()> {
        let budget = self.op_budget();
        loop {
            let done = self.transact(true, |tx| {
                let mut i = Inode::live(tx, ino)?;
                let last = last.min(map::max_blocks(tx, &i));
                let n = extent_budget(budget);
                let done = free_range(tx, &mut i, first, last, n)?;
                i.mtime = tx.now;
                i.ctime = tx.now;
                tx.put_inode(&i)?;
                Ok(done)
            })?;
            if done {
                return Ok(());
            }
        }
    }

    fn aligned(&self, ino: u32, off: u64, len: u64) -> Result<(u64, u64, Inode)> {
        let bits = self.core.lay.block_bits;
        let mask = (1u64 << bits) - 1;
        if off & mask != 0 || len & mask != 0 {
            return Err(EINVAL);
        }
        let i = self.view(|v| Inode::live(v, ino))?;
        Ok((off >> bits, len >> bits, i))
    }

    /// Removes a range; what follows moves down.
    fn collapse(&self, ino: u32, off: u64, len: u64) -> Result<()> {
        let (first, n, i) = self.aligned(ino, off, len)?;
        if off + len >= i.size {
            return Err(EINVAL);
        }
        self.free_blocks(ino, first, first + n)?;
        // From left to right, so that nothing is overtaken.
        let budget = self.op_budget();
        let mut at = first + n;
        loop {
            let next = self.transact(true, |tx| {
                let mut i = Inode::live(tx, ino)?;
                let count = extent_budget(budget);
                let (list, more) = take_extents(tx, &mut i, at, 1 << 32, count)?;
                let next = list.last().map_or(1 << 32, Extent::end);
                put_shifted(tx, &mut i, &list, -(n as i64))?;
                if !more {
                    i.size = i.size.saturating_sub(len);
                    i.mtime = tx.now;
                    i.ctime = tx.now;
                }
                tx.put_inode(&i)?;
                Ok(more.then_some(next))
            })?;
            match next {
                Some(x) => at = x,
                None => return Ok(()),
            }
        }
    }

    /// Makes room for a range; what follows moves up.
    fn insert_range(&self, ino: u32, off: u64, len: u64) -> Result<()> {
        let (first, n, i) = self.aligned(ino, off, len)?;
        if off >= i.size {
            return Err(EINVAL);
        }
        let max = self.core.lay.max_extent_blocks();
        let blocks = i.size.div_ceil(u64::from(self.core.lay.block_size));
        if blocks + n > max {
            return Err(EFBIG);
        }
        // From right to left; the extents past the end come along, so the
        // last of them bounds the walk.
        let starts = self.view(|v| {
            let i = Inode::live(v, ino)?;
            let mut starts: Vec<u64> = Vec::new();
            let mut end = 0;
            extent::walk(
                v,
                &i,
                &mut |e| {
                    if e.end() > first {
                        starts.push(u64::from(e.lblk).max(first));
                        end = e.end();
                    }
                    Ok(())
                },
                &mut |_| Ok(()),
            )?;
            if end + n > max {
                return Err(EFBIG);
            }
            Ok(starts)
        })?;
        // The size grows first: a crash half-way shows a hole, loses nothing.
        self.transact(true, |tx| {
            let mut i = Inode::live(tx, ino)?;
            i.size = i.size.checked_add(len).filter(|s| *s <= i64::MAX as u64).ok_or(EFBIG)?;
            i.mtime = tx.now;
            i.ctime = tx.now;
            tx.put_inode(&i)
        })?;
        let budget = (self.op_budget() / 5).clamp(4, 512);
        let mut to = 1u64 << 32;
        for part in starts.rchunks(budget) {
            let from = part.first().copied().unwrap_or(first);
            self.transact(true, |tx| {
                let mut i = Inode::live(tx, ino)?;
                let (list, _) = take_extents(tx, &mut i, from, to, usize::MAX)?;
                put_shifted(tx, &mut i, &list, n as i64)?;
                tx.put_inode(&i)
            })?;
            to = from;
        }
        Ok(())
    }
}

/// Puts extents back at other logical blocks.
fn put_shifted(tx: &mut Txn<'_>, i: &mut Inode, list: &[Extent], by: i64) -> Result<()> {
    for e in list {
        let at = u64::from(e.lblk).checked_add_signed(by).ok_or(EFBIG)?;
        map::insert(tx, i, at, e.pblk, e.len.into(), e.unwritten)?;
    }
    Ok(())
}

/// Grows the size; the old end's block may hold bytes that must read as zeros.
fn grow(tx: &mut Txn<'_>, i: &mut Inode, size: u64) -> Result<()> {
    let bits = tx.lay().block_bits;
    if i.size & ((1 << bits) - 1) != 0 {
        zero_bytes(tx, i, i.size, ((i.size >> bits) + 1) << bits)?;
    }
    i.size = size;
    Ok(())
}
