//! Growing a mounted filesystem (EXT4_IOC_RESIZE_FS, EXT4_IOC_GROUP_EXTEND and EXT4_IOC_GROUP_ADD, which resize2fs(8)
//! uses).
//!
//! Every step (the last group made full, one group added) is one change of metadata, so that a power cut leaves a
//! filesystem of some size in between. Descriptor blocks come from those that mke2fs(8) kept for it (`resize_inode`), or
//! lie in the new groups (`meta_bg`), which the filesystem is converted to where the kept ones end, as on Linux. The copies of superblock and descriptors follow in transactions of their own at
//! the end: until then they tell of the smaller filesystem, which e2fsck(8) can work with.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, TryLockError};

use uml_abi::Result;
use uml_abi::errno::{EBUSY, EFBIG, EINVAL, ENOSPC, EOPNOTSUPP, EPERM, EROFS};

use crate::bytes::{rd16, rd32, wr16, wr32};
use crate::features::{compat, incompat, ro_compat};
use crate::fs::Ext4;
use crate::group::{GroupDesc, INODE_UNINIT, INODE_ZEROED, set_bits};
use crate::inode::Inode;
use crate::layout::{Layout, SB_SIZE, sb_csum};
use crate::meta::MetaRead;
use crate::mount::{STATE_ERRORS, STATE_VALID};
use crate::ops::write::zero_blocks;
use crate::txn::{Txn, read_counts};

/// The inode that owns the descriptor blocks kept for growth.
const RESIZE_INO: u32 = 7;
/// Where that inode names its doubly indirect block.
const DOUBLY_INDIRECT: usize = 13 * 4;
/// A last group with less room for files than this is not added (as mke2fs(8)).
const MIN_ROOM: u64 = 50;

/// A group to be added, as `struct ext4_new_group_input` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewGroup {
    /// Its number: the first that does not exist.
    pub group: u32,
    /// Blocks in it.
    pub blocks: u32,
    /// Where its block bitmap goes.
    pub block_bitmap: u64,
    /// Where its inode bitmap goes.
    pub inode_bitmap: u64,
    /// Where its inode table goes.
    pub inode_table: u64,
    /// How many of its blocks are kept for the superuser.
    pub kept: u32,
}

/// Blocks at the start of a group for the superblock and descriptors.
fn base(lay: &Layout, g: u32) -> u64 {
    u64::from(lay.has_super(g)) + u64::from(lay.gdt_blocks_in(g))
}

/// Groups before `end` that hold a copy of the superblock, but for the first.
fn copies(lay: &Layout, end: u32) -> usize {
    (1..end).filter(|g| lay.has_super(*g)).count()
}

impl Ext4 {
    /// Grows the filesystem to `blocks` blocks, or a little less when the last group would have no room for files.
    ///
    /// Where the descriptor blocks end that were kept for it, the filesystem gets the feature `meta_bg` and loses
    /// `resize_inode`.
    ///
    /// `EINVAL` for a smaller size and for one that the format cannot express, `ENOSPC` when the device is smaller,
    /// `EPERM` when the filesystem has recorded errors, `EOPNOTSUPP` with
    /// `sparse_super2` (as on Linux), `EBUSY` while another call resizes, `EROFS`.
    pub fn resize(&self, blocks: u64) -> Result<()> {
        let _one = self.check_resize()?;
        let blocks = self.whole_groups(blocks)?;
        let lay = &self.core.lay;
        let first_new = lay.groups();
        if blocks == lay.blocks_count() {
            return Ok(());
        }
        self.change_fits()?;
        let kept_for = self.described().min(blocks);
        self.grow(kept_for)?;
        if kept_for < blocks {
            self.convert()?;
            self.grow(blocks)?;
        }
        self.copy_structures(first_new)?;
        self.commit()
    }

    /// Fills the last group and adds others, up to a size that there are places for descriptors for.
    fn grow(&self, blocks: u64) -> Result<()> {
        let lay = &self.core.lay;
        let per = u64::from(lay.blocks_per_group);
        let full = lay.group_first(lay.groups()).min(blocks);
        if full > lay.blocks_count() {
            self.extend(full)?;
        }
        while lay.blocks_count() < blocks {
            let n = (blocks - lay.blocks_count()).min(per) as u32;
            self.add(self.usual_group(n))?;
        }
        Ok(())
    }

    /// Gives the filesystem the feature `meta_bg`: descriptor blocks to come lie in the groups they describe. The inode
    /// that kept others must have given all of them away.
    fn convert(&self) -> Result<()> {
        let now = (self.opts.clock)();
        self.make_room()?;
        let mut st = self.write_state();
        let lay = &self.core.lay;
        let mut tx = Txn::new(&self.core, &mut st, now);
        if lay.keeps_descs() {
            let (mut inode, dind) = resize_inode(&tx)?;
            if lay.reserved_gdt() != 0 || inode.sectors != lay.sectors() {
                return Err(tx.corrupt("resize inode keeps unknown blocks", RESIZE_INO, dind));
            }
            tx.free_meta(&mut inode, dind)?;
            wr32(&mut inode.block, DOUBLY_INDIRECT, 0);
            tx.put_inode(&inode)?;
        }
        let first = lay.desc_blocks();
        let sb = tx.superblock()?;
        let (com, inc) = (rd32(sb, 0x5c), rd32(sb, 0x60));
        wr32(sb, 0x5c, com & !compat::RESIZE_INODE);
        wr32(sb, 0x60, inc | incompat::META_BG);
        wr32(sb, 0x104, first);
        tx.finish()?;
        lay.set_meta_bg();
        Ok(())
    }

    /// Makes the last group reach to block `blocks`, or to its end when that comes first (EXT4_IOC_GROUP_EXTEND).
    /// Fails as [`Ext4::resize`].
    pub fn resize_last_group(&self, blocks: u64) -> Result<()> {
        let _one = self.check_resize()?;
        let lay = &self.core.lay;
        let to = blocks.min(lay.group_first(lay.groups()));
        self.check_size(blocks)?;
        if to > lay.blocks_count() {
            self.extend(to)?;
            self.copy_structures(lay.groups())?;
            self.commit()?;
        }
        Ok(())
    }

    /// Adds one group (EXT4_IOC_GROUP_ADD). `EINVAL` when the group before is not full, when it is not the next one or
    /// when its parts are not inside it; otherwise as [`Ext4::resize`].
    pub fn add_group(&self, new: &NewGroup) -> Result<()> {
        let _one = self.check_resize()?;
        let lay = &self.core.lay;
        let (first, n) = (lay.group_first(new.group), u64::from(new.blocks));
        let parts = [
            (new.block_bitmap, 1),
            (new.inode_bitmap, 1),
            (new.inode_table, u64::from(lay.itable_blocks())),
        ];
        let lo = first + base(lay, new.group);
        let inside = |&(s, len): &(u64, u64)| {
            s >= lo && s.checked_add(len).is_some_and(|e| e <= first.saturating_add(n))
        };
        let apart = |a: (u64, u64), b: (u64, u64)| a.0 + a.1 <= b.0 || b.0 + b.1 <= a.0;
        if new.group != lay.groups()
            || lay.blocks_count() != first
            || new.blocks > lay.blocks_per_group
            || new.kept > new.blocks / 5
            || !parts.iter().all(inside)
            || !apart(parts[0], parts[1])
            || !apart(parts[0], parts[2])
            || !apart(parts[1], parts[2])
        {
            return Err(EINVAL);
        }
        self.check_size(first + n)?;
        if first + n > self.described() {
            return Err(EPERM);
        }
        self.change_fits()?;
        let before = lay.groups();
        self.add(*new)?;
        self.copy_structures(before)?;
        self.commit()
    }

    /// Whether the filesystem may grow, which it does for one caller at a time (`EBUSY` for others).
    fn check_resize(&self) -> Result<MutexGuard<'_, ()>> {
        let one = match self.resizing.try_lock() {
            Ok(g) => g,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(EBUSY),
        };
        if self.core.errors.is_read_only() {
            return Err(EROFS);
        }
        let lay = &self.core.lay;
        if lay.features.compat(compat::SPARSE_SUPER2) {
            return Err(EOPNOTSUPP);
        }
        let damaged = self.view(|v| Ok(read_counts(v)?.state & STATE_ERRORS != 0))?;
        if damaged || lay.keeps_descs() && lay.first_meta_bg().is_some() {
            return Err(EPERM);
        }
        Ok(one)
    }

    /// Whether the format and the device have room for this size.
    fn check_size(&self, blocks: u64) -> Result<()> {
        let lay = &self.core.lay;
        if blocks < lay.blocks_count() {
            return Err(EINVAL);
        }
        let top = if lay.features.incompat(incompat::BIT64) { 1 << 48 } else { 1u64 << 32 };
        let groups = blocks.div_ceil(lay.blocks_per_group.into());
        if blocks >= top || groups.saturating_mul(lay.inodes_per_group.into()) > u32::MAX.into() {
            return Err(EINVAL);
        }
        if blocks > self.core.store.size() >> lay.block_bits {
            return Err(ENOSPC);
        }
        Ok(())
    }

    /// The size without a last group that would be too small.
    fn whole_groups(&self, blocks: u64) -> Result<u64> {
        self.check_size(blocks)?;
        let lay = &self.core.lay;
        let rest = (blocks - lay.first_data_block) % u64::from(lay.blocks_per_group);
        let g = ((blocks - lay.first_data_block) / u64::from(lay.blocks_per_group)) as u32;
        if rest == 0 || g < lay.groups() {
            return Ok(blocks);
        }
        let need = base(lay, g) + 2 + u64::from(lay.itable_blocks()) + MIN_ROOM;
        Ok(if rest < need { (blocks - rest).max(lay.blocks_count()) } else { blocks })
    }

    /// Blocks of the largest filesystem that there are places for descriptors for, as it is laid out now.
    fn described(&self) -> u64 {
        let lay = &self.core.lay;
        if lay.first_meta_bg().is_some() {
            return u64::MAX;
        }
        let kept = if lay.keeps_descs() { lay.reserved_gdt() } else { 0 };
        let groups = (u64::from(lay.desc_blocks()) + u64::from(kept))
            .saturating_mul(lay.descs_per_block().into());
        groups.saturating_mul(lay.blocks_per_group.into()).saturating_add(lay.first_data_block)
    }

    /// Whether the log has room for what adding one group changes (`ENOSPC`).
    fn change_fits(&self) -> Result<()> {
        // A group with a copy of the superblock changes every descriptor block kept for growth at once. That is more
        // than other operations may change, but the log holds four of what those may.
        if usize::from(self.core.lay.reserved_gdt()) + 16 > self.max_running * 2 {
            return Err(ENOSPC);
        }
        Ok(())
    }

    /// The next group with its own structures at its start.
    fn usual_group(&self, blocks: u32) -> NewGroup {
        let lay = &self.core.lay;
        let group = lay.groups();
        let at = lay.group_first(group) + base(lay, group);
        // The same share as so far is kept for the superuser.
        let kept = u128::from(self.core.kept()) * u128::from(blocks)
            / u128::from(lay.blocks_count().max(1));
        NewGroup {
            group,
            blocks,
            block_bitmap: at,
            inode_bitmap: at + 1,
            inode_table: at + 2,
            kept: kept as u32,
        }
    }

    /// Makes the last group reach to block `to`.
    fn extend(&self, to: u64) -> Result<()> {
        let now = (self.opts.clock)();
        self.make_room()?;
        let mut st = self.write_state();
        let lay = &self.core.lay;
        let from = lay.blocks_count();
        let (groups, kept) = (lay.groups(), lay.reserved_gdt());
        let mut tx = Txn::new(&self.core, &mut st, now);
        let g = groups - 1;
        let bit = (from - lay.group_first(g)) as u32;
        // The bits past the old end are set, as if the blocks were in use.
        tx.free_bits(g, bit, (to - from) as u32)?;
        tx.add_free_blocks((to - from) as i64)?;
        put_blocks_count(&mut tx, to)?;
        tx.finish()?;
        lay.set_size(to, groups, kept);
        st.run_hint.clear();
        Ok(())
    }

    /// Commits when the running transaction is large.
    fn make_room(&self) -> Result<()> {
        let kept = usize::from(self.core.lay.reserved_gdt());
        let running = self.read_state().running.len();
        if running > 0 && running + kept + 16 > self.max_running / 2 {
            self.commit()
        } else {
            Ok(())
        }
    }

    /// Adds a group whose parts have been checked.
    fn add(&self, new: NewGroup) -> Result<()> {
        let lay = &self.core.lay;
        let csum = lay.has_group_csum();
        if !csum {
            // Nothing says that the table was never written, so it is.
            zero_blocks(&self.core, new.inode_table, lay.itable_blocks().into())?;
        }
        let now = (self.opts.clock)();
        self.make_room()?;
        let mut st = self.write_state();
        if self.core.errors.is_read_only() {
            return Err(EROFS);
        }
        let g = new.group;
        let first = lay.group_first(g);
        let head = base(lay, g);
        let mut reserved = lay.reserved_gdt();
        let mut tx = Txn::new(&self.core, &mut st, now);
        if g % lay.descs_per_block() == 0 {
            let (block, _) = lay.desc_place(g);
            if !lay.meta_bg_at(g / lay.descs_per_block()) {
                take_kept_block(&mut tx, g, block)?;
                reserved -= 1;
            }
            tx.create(block);
        }
        if lay.has_super(g) && reserved > 0 && lay.keeps_descs() {
            add_kept_copies(&mut tx, g, reserved)?;
        }
        let table = u64::from(lay.itable_blocks());
        let mut bitmap = vec![0u8; lay.bs()];
        set_bits(&mut bitmap, 0, head as u32);
        for (start, len) in [(new.block_bitmap, 1), (new.inode_bitmap, 1), (new.inode_table, table)]
        {
            let at = (start - first) as u32;
            set_bits(&mut bitmap, at, at + len as u32);
        }
        set_bits(&mut bitmap, new.blocks, lay.block_size * 8);
        let mut inodes = vec![0u8; lay.bs()];
        set_bits(&mut inodes, lay.inodes_per_group, lay.block_size * 8);
        tx.create(new.block_bitmap).copy_from_slice(&bitmap);
        tx.create(new.inode_bitmap).copy_from_slice(&inodes);
        let free = u64::from(new.blocks) - head - 2 - table;
        let mut d = GroupDesc::at(new.block_bitmap, new.inode_bitmap, new.inode_table);
        d.free_blocks = free as u32;
        d.free_inodes = lay.inodes_per_group;
        if csum {
            d.itable_unused = lay.inodes_per_group;
            d.flags = INODE_UNINIT;
        } else {
            d.flags = INODE_ZEROED;
        }
        d.set_block_bitmap_csum(lay, &bitmap);
        d.set_inode_bitmap_csum(lay, &inodes);
        let (block, off) = lay.desc_place(g);
        let size = usize::from(lay.desc_size);
        if let Some(raw) = tx.modify(block)?.get_mut(off..off + size) {
            raw.fill(0);
            d.encode_places(lay, raw);
            d.encode(lay, g, raw);
        }
        let blocks = first + u64::from(new.blocks);
        put_blocks_count(&mut tx, blocks)?;
        tx.add_free_blocks(free as i64)?;
        tx.add_free_inodes(lay.inodes_per_group as i32)?;
        let kept = self.core.kept() + u64::from(new.kept);
        let sb = tx.superblock()?;
        let inodes = rd32(sb, 0).saturating_add(lay.inodes_per_group);
        wr32(sb, 0, inodes);
        wr16(sb, 0xce, reserved);
        wr32(sb, 0x8, kept as u32);
        if lay.features.incompat(incompat::BIT64) {
            wr32(sb, 0x154, (kept >> 32) as u32);
        }
        tx.finish()?;
        lay.set_size(blocks, g + 1, reserved);
        self.core.kept_blocks.store(kept, Ordering::Relaxed);
        st.run_hint.clear();
        self.core.add_system(&[
            (first, first + head),
            (new.block_bitmap, new.block_bitmap + 1),
            (new.inode_bitmap, new.inode_bitmap + 1),
            (new.inode_table, new.inode_table + table),
        ]);
        Ok(())
    }

    /// Writes the copies of the superblock and of the descriptors. Those of descriptors that did not change are
    /// written in new groups only (from `first_new` on).
    fn copy_structures(&self, first_new: u32) -> Result<()> {
        let lay = &self.core.lay;
        let per = lay.descs_per_block();
        let changed = first_new.saturating_sub(1) / per;
        for g in (1..lay.groups()).filter(|g| lay.has_super(*g)) {
            self.transact(true, |tx| copy_superblock(tx, g))?;
            let from = if g >= first_new { 0 } else { changed };
            // A group of a meta group has no other descriptors.
            let old_style = if lay.meta_bg_at(g / per) { 0 } else { lay.old_desc_blocks() };
            for idx in from..old_style {
                let to = lay.group_first(g) + 1 + u64::from(idx);
                self.transact(true, |tx| copy_block(tx, lay.desc_place(idx * per).0, to))?;
            }
        }
        // Of a meta group its second and its last group hold copies.
        for idx in (changed..lay.desc_blocks()).filter(|i| lay.meta_bg_at(*i)) {
            for g in [idx * per + 1, idx * per + per - 1] {
                if g < lay.groups() {
                    let to = lay.group_first(g) + u64::from(lay.has_super(g));
                    self.transact(true, |tx| copy_block(tx, lay.desc_place(idx * per).0, to))?;
                }
            }
        }
        Ok(())
    }
}

fn put_blocks_count(tx: &mut Txn<'_>, blocks: u64) -> Result<()> {
    let wide = tx.lay().features.incompat(incompat::BIT64);
    let sb = tx.superblock()?;
    wr32(sb, 0x4, blocks as u32);
    if wide {
        wr32(sb, 0x150, (blocks >> 32) as u32);
    }
    Ok(())
}

/// The inode that owns the kept blocks, and its doubly indirect block.
fn resize_inode(tx: &Txn<'_>) -> Result<(Inode, u64)> {
    let inode = Inode::read(tx, RESIZE_INO)?;
    let dind = u64::from(rd32(&inode.block, DOUBLY_INDIRECT));
    if !tx.core().file_blocks_ok(RESIZE_INO, dind, 1) {
        return Err(tx.corrupt("resize inode without blocks", RESIZE_INO, dind));
    }
    Ok((inode, dind))
}

/// Makes the kept block `block` (and its copies) a descriptor block: the inode that keeps them loses it.
fn take_kept_block(tx: &mut Txn<'_>, g: u32, block: u64) -> Result<()> {
    let lay = tx.lay().clone();
    let (mut inode, dind) = resize_inode(tx)?;
    let per = lay.bs() / 4;
    let at = (g / lay.descs_per_block()) as usize % per * 4;
    if u64::from(rd32(&tx.block(dind)?, at)) != block {
        return Err(tx.corrupt("resize inode does not keep the block", RESIZE_INO, block));
    }
    wr32(tx.modify(dind)?, at, 0);
    let n = copies(&lay, g) as u64 + 1;
    inode.sectors = inode.sectors.saturating_sub(n * lay.sectors());
    tx.put_inode(&inode)
}

/// Group `g` holds copies of the kept blocks: the inode that keeps them gains them.
fn add_kept_copies(tx: &mut Txn<'_>, g: u32, reserved: u16) -> Result<()> {
    let lay = tx.lay().clone();
    let (mut inode, _) = resize_inode(tx)?;
    let at = copies(&lay, g) * 4;
    if at + 4 > lay.bs() {
        return Err(EFBIG);
    }
    // The descriptor blocks when group `g` is in.
    let used = u64::from((g + 1).div_ceil(lay.descs_per_block()));
    for i in 0..u64::from(reserved) {
        let kept = lay.first_data_block + 1 + used + i;
        let copy = kept + lay.group_first(g) - lay.first_data_block;
        let copy = u32::try_from(copy).map_err(|_| EFBIG)?;
        wr32(tx.modify(kept)?, at, copy);
    }
    inode.sectors += u64::from(reserved) * lay.sectors();
    tx.put_inode(&inode)
}

/// Writes the copy of the superblock in group `g`.
fn copy_superblock(tx: &mut Txn<'_>, g: u32) -> Result<()> {
    let lay = tx.lay().clone();
    let (block, off) = lay.sb_place();
    let mut sb = tx.block(block)?.get(off..off + SB_SIZE).unwrap_or(&[]).to_vec();
    // What is true of the mounted filesystem alone.
    let (inc, roc, state) = (rd32(&sb, 0x60), rd32(&sb, 0x64), rd16(&sb, 0x3a));
    wr32(&mut sb, 0x60, inc & !incompat::RECOVER);
    wr32(&mut sb, 0x64, roc & !ro_compat::ORPHAN_PRESENT);
    wr16(&mut sb, 0x3a, state | STATE_VALID);
    wr32(&mut sb, 0xe8, 0);
    wr16(&mut sb, 0x5a, g as u16);
    if lay.metadata_csum() {
        let c = sb_csum(&sb);
        wr32(&mut sb, 0x3fc, c);
    }
    if let Some(d) = tx.create(lay.group_first(g)).get_mut(..SB_SIZE) {
        d.copy_from_slice(&sb);
    }
    Ok(())
}

fn copy_block(tx: &mut Txn<'_>, from: u64, to: u64) -> Result<()> {
    if from == to {
        return Ok(());
    }
    let data = tx.block(from)?;
    tx.create(to).copy_from_slice(&data);
    Ok(())
}
