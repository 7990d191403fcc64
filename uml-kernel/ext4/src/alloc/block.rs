//! The block allocator: contiguous runs near a goal.

use uml_abi::Result;
use uml_abi::errno::ENOSPC;

use crate::error::EFSCORRUPTED;
use crate::group::{self, BLOCK_UNINIT, block_bitmap, next_one, next_zero, read_desc};
use crate::inode::Inode;
use crate::meta::MetaRead;
use crate::txn::Txn;

/// Groups searched for a run of full length before a shorter one will do.
const FULL_SEARCH: u32 = 32;
/// A run at the goal this long is taken even if more was wanted.
const GOOD_ENOUGH: u32 = 8;

/// A run of free blocks in a group.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) bit: u32,
    pub(crate) len: u32,
}

impl Txn<'_> {
    /// Blocks this operation may still take.
    fn available(&self) -> Result<u64> {
        let free = self.counts()?.free_blocks;
        let kept = if self.use_reserved { 0 } else { self.core().kept() };
        Ok(free.saturating_sub(kept))
    }

    /// Allocates between 1 and `want` contiguous blocks, preferably at `goal`;
    /// returns the first and how many. `ENOSPC` when there are none.
    pub(crate) fn alloc_run(&mut self, goal: u64, want: u64) -> Result<(u64, u64)> {
        let want = want.min(self.available()?);
        let (g, run) = self.pick(goal, want)?;
        self.take(g, run)
    }

    /// Chooses blocks as [`Txn::alloc_run`] does and keeps them from being
    /// chosen again, without allocating them: data is written there first, and
    /// then [`Txn::claim_exact`] takes them. The caller removes them from the
    /// busy set in the end. `taken` blocks were chosen before in this call.
    pub(crate) fn set_aside(&mut self, goal: u64, want: u64, taken: u64) -> Result<(u64, u64)> {
        let want = want.min(self.available()?.saturating_sub(taken));
        let (g, run) = self.pick(goal, want)?;
        let start = self.lay().group_first(g) + u64::from(run.bit);
        if !self.core().file_blocks_ok(0, start, run.len.into()) {
            let what = "block bitmap offers blocks that hold metadata";
            return Err(self.damage(EFSCORRUPTED, what, 0, start));
        }
        self.st.add_busy(start, run.len.into());
        Ok((start, run.len.into()))
    }

    /// Allocates exactly these blocks, which lie in one group.
    pub(crate) fn claim_exact(&mut self, start: u64, len: u64) -> Result<()> {
        let Some((g, bit)) = self.lay().group_of(start) else {
            return Err(self.corrupt("block outside the device", 0, start));
        };
        self.change_bits(g, bit, len as u32, true)?;
        self.add_free_blocks(-(len as i64))
    }

    fn pick(&mut self, goal: u64, want: u64) -> Result<(u32, Run)> {
        let lay = self.lay().clone();
        let per = u64::from(lay.blocks_per_group);
        let want = want.min(per) as u32;
        if want == 0 {
            return Err(ENOSPC);
        }
        let (g0, bit0) = lay.group_of(goal).unwrap_or((0, 0));
        if let Some(len) = self.run_at(g0, bit0, want)? {
            if len >= want.min(GOOD_ENOUGH) {
                return Ok((g0, Run { bit: bit0, len }));
            }
        }
        let mut best: Option<(u32, Run)> = None;
        for i in 0..=lay.groups() {
            let g = (g0 + i) % lay.groups();
            if i >= FULL_SEARCH {
                if let Some(found) = best.filter(|(_, r)| r.len >= want.div_ceil(4)) {
                    return Ok(found);
                }
            }
            let have = best.map_or(0, |(_, r)| r.len);
            let hint = self.st.run_hint.get(&g).copied().unwrap_or(u32::MAX);
            if hint <= have || read_desc(self, g)?.free_blocks <= have {
                continue;
            }
            // The goal's group is searched from the goal on, and once more
            // from its start when everything else failed.
            let from = if i == 0 { bit0 } else { 0 };
            let found = self.search(g, from, want)?;
            match found {
                Some(r) if r.len >= want => return Ok((g, r)),
                Some(r) if r.len > have => best = Some((g, r)),
                _ => {}
            }
        }
        best.ok_or(ENOSPC)
    }

    /// Length of the free run that starts exactly at a bit.
    fn run_at(&mut self, g: u32, bit: u32, max: u32) -> Result<Option<u32>> {
        let d = read_desc(self, g)?;
        let n = self.lay().group_blocks(g);
        if d.free_blocks == 0 || bit >= n {
            return Ok(None);
        }
        let bm = block_bitmap(self, g, &d)?;
        let end = bit.saturating_add(max).min(n);
        let stop = next_one(&bm, bit, end).unwrap_or(end);
        let first = self.lay().group_first(g);
        let mut out = None;
        self.free_parts(first, bit, stop, &mut |r| {
            if r.bit == bit {
                out = Some(r.len);
            }
            false
        });
        Ok(out)
    }

    /// Splits a run of clear bits into the parts that are not waiting for a
    /// commit, and calls `f` until it returns false.
    pub(crate) fn free_parts(
        &self,
        first: u64,
        bit: u32,
        end: u32,
        f: &mut dyn FnMut(Run) -> bool,
    ) {
        let mut at = first + u64::from(bit);
        let stop = first + u64::from(end);
        if let Some((_, &e)) = self.st.busy.range(..=at).next_back() {
            at = at.max(e);
        }
        while at < stop {
            let busy = self.st.busy.range(at..stop).next();
            let upto = busy.map_or(stop, |(&s, _)| s);
            if upto > at && !f(Run { bit: (at - first) as u32, len: (upto - at) as u32 }) {
                return;
            }
            match busy {
                Some((_, &e)) => at = e,
                None => return,
            }
        }
    }

    /// First run of `want` blocks in a group, or the longest there is.
    fn search(&mut self, g: u32, from: u32, want: u32) -> Result<Option<Run>> {
        let d = read_desc(self, g)?;
        let bm = block_bitmap(self, g, &d)?;
        let n = self.lay().group_blocks(g);
        let first = self.lay().group_first(g);
        let mut best: Option<Run> = None;
        let mut at = from;
        while let Some(s) = next_zero(&bm, at, n) {
            let e = next_one(&bm, s, n).unwrap_or(n);
            self.free_parts(first, s, e, &mut |r| {
                if r.len > best.map_or(0, |b| b.len) {
                    best = Some(r);
                }
                r.len < want
            });
            if let Some(r) = best.filter(|r| r.len >= want) {
                return Ok(Some(Run { bit: r.bit, len: want }));
            }
            at = e;
        }
        if from == 0 {
            self.st.run_hint.insert(g, best.map_or(0, |b| b.len));
        }
        Ok(best)
    }

    /// Marks a run as used.
    fn take(&mut self, g: u32, run: Run) -> Result<(u64, u64)> {
        let start = self.lay().group_first(g) + u64::from(run.bit);
        if !self.core().file_blocks_ok(0, start, run.len.into()) {
            let what = "block bitmap offers blocks that hold metadata";
            return Err(self.damage(EFSCORRUPTED, what, 0, start));
        }
        self.change_bits(g, run.bit, run.len, true)?;
        self.add_free_blocks(-i64::from(run.len))?;
        Ok((start, run.len.into()))
    }

    /// Gives a group whose block bitmap was never written a real one.
    pub(crate) fn init_block_bitmap(&mut self, g: u32) -> Result<()> {
        let lay = self.lay().clone();
        let mut d = read_desc(self, g)?;
        if d.block_uninit(&lay) {
            let fresh = block_bitmap(self, g, &d)?.to_vec();
            d.set_block_bitmap_csum(&lay, &fresh);
            self.create(d.block_bitmap).copy_from_slice(&fresh);
            self.with_desc(g, |x| {
                x.flags &= !BLOCK_UNINIT;
                x.set_block_bitmap_csum(&lay, &fresh);
            })?;
        }
        Ok(())
    }

    /// Makes blocks at the end of the last group part of the filesystem.
    pub(crate) fn free_bits(&mut self, g: u32, bit: u32, len: u32) -> Result<()> {
        self.change_bits(g, bit, len, false)
    }

    fn change_bits(&mut self, g: u32, bit: u32, len: u32, used: bool) -> Result<()> {
        let lay = self.lay().clone();
        self.init_block_bitmap(g)?;
        let d = read_desc(self, g)?;
        let bm = block_bitmap(self, g, &d)?;
        let end = bit + len;
        let wrong = if used { next_one(&bm, bit, end) } else { next_zero(&bm, bit, end) };
        drop(bm);
        if wrong.is_some() {
            let what = if used { "block already in use" } else { "freeing a free block" };
            return Err(self.corrupt(what, 0, lay.group_first(g) + u64::from(bit)));
        }
        let bytes = self.modify(d.block_bitmap)?;
        if used {
            group::set_bits(bytes, bit, end);
        } else {
            group::clear_bits(bytes, bit, end);
        }
        let copy = self.block(d.block_bitmap)?;
        self.with_desc(g, |x| {
            x.free_blocks =
                if used { x.free_blocks.saturating_sub(len) } else { x.free_blocks + len };
            x.set_block_bitmap_csum(&lay, &copy);
        })
    }

    /// Allocates one metadata block for an inode and accounts it. The caller
    /// must [`Txn::create`] it.
    pub(crate) fn alloc_meta(&mut self, inode: &mut Inode, goal: u64) -> Result<u64> {
        let (b, _) = self.alloc_run(goal, 1)?;
        inode.sectors += self.lay().sectors();
        Ok(b)
    }

    /// Frees one metadata block of an inode; older journal copies of it are
    /// revoked.
    pub(crate) fn free_meta(&mut self, inode: &mut Inode, nr: u64) -> Result<()> {
        self.check_range(inode.ino, nr, 1)?;
        self.free_run(nr, 1)?;
        self.revoke(nr);
        inode.sectors = inode.sectors.saturating_sub(self.lay().sectors());
        Ok(())
    }

    /// Frees data blocks of an inode and accounts them.
    pub(crate) fn free_data(&mut self, inode: &mut Inode, start: u64, len: u64) -> Result<()> {
        self.check_range(inode.ino, start, len)?;
        self.free_run(start, len)?;
        if self.core().journals(inode) {
            self.forget_contents(start, len);
        }
        inode.sectors = inode.sectors.saturating_sub(len.saturating_mul(self.lay().sectors()));
        Ok(())
    }

    fn free_run(&mut self, start: u64, len: u64) -> Result<()> {
        let lay = self.lay().clone();
        let mut at = start;
        let end = start + len;
        while at < end {
            let Some((g, bit)) = lay.group_of(at) else {
                return Err(self.corrupt("freeing a block outside the device", 0, at));
            };
            let n = u64::from(lay.group_blocks(g) - bit).min(end - at) as u32;
            self.change_bits(g, bit, n, false)?;
            self.st.run_hint.remove(&g);
            at += u64::from(n);
        }
        self.add_free_blocks(len as i64)?;
        self.note_freed(start, len);
        Ok(())
    }

    /// Marks blocks as used that may be already (journal replay).
    pub(crate) fn claim_run(&mut self, start: u64, len: u64) -> Result<()> {
        self.set_run(start, len, true)
    }

    /// Marks blocks as free that may be already (journal replay).
    pub(crate) fn release_run(&mut self, start: u64, len: u64) -> Result<()> {
        self.set_run(start, len, false)
    }

    fn set_run(&mut self, start: u64, len: u64, used: bool) -> Result<()> {
        let lay = self.lay().clone();
        for b in start..start.saturating_add(len) {
            let Some((g, bit)) = lay.group_of(b) else {
                return Err(self.corrupt("block outside the device", 0, b));
            };
            let d = read_desc(self, g)?;
            if group::test_bit(&block_bitmap(self, g, &d)?, bit) != used {
                self.change_bits(g, bit, 1, used)?;
                self.add_free_blocks(if used { -1 } else { 1 })?;
            }
        }
        Ok(())
    }
}
