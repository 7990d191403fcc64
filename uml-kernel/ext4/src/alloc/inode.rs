//! The inode allocator: directories spread out, files near their directory.

use uml_abi::Result;
use uml_abi::errno::ENOSPC;

use crate::bytes::rd16;
use crate::group::{self, INODE_UNINIT, inode_bitmap, next_zero, read_desc, test_bit};
use crate::inode::{Inode, ROOT_INO, S_IFDIR, S_IFMT, flags};
use crate::layout::Layout;
use crate::meta::MetaRead;
use crate::txn::Txn;

/// Allocates an inode near `parent` and returns it blank except for mode,
/// generation and times. The caller writes it.
pub(crate) fn new_inode(tx: &mut Txn<'_>, parent: u32, mode: u16) -> Result<Inode> {
    let dir = mode & S_IFMT == S_IFDIR;
    let lay = tx.lay().clone();
    let first = if dir { dir_group(tx, parent)? } else { file_group(tx, parent)? };
    for i in 0..lay.groups() {
        let g = (first + i) % lay.groups();
        if let Some(idx) = free_index(tx, g)? {
            return claim(tx, g, idx, mode);
        }
    }
    Err(ENOSPC)
}

fn parent_group(lay: &Layout, parent: u32) -> u32 {
    lay.ino_place(parent).map_or(0, |(g, _)| g)
}

/// Group for a file: its directory's, else the next with both inodes and
/// blocks, tried at doubling distances first.
fn file_group(tx: &Txn<'_>, parent: u32) -> Result<u32> {
    let lay = tx.lay();
    let home = parent_group(lay, parent);
    let usable = |g: u32| -> Result<bool> {
        let d = read_desc(tx, g)?;
        Ok(d.free_inodes > 0 && d.free_blocks > 0)
    };
    if usable(home)? {
        return Ok(home);
    }
    let mut g = (home + parent % lay.groups()) % lay.groups();
    let mut step = 1u32;
    while step < lay.groups() {
        g = (g + step) % lay.groups();
        if usable(g)? {
            return Ok(g);
        }
        step <<= 1;
    }
    for i in 0..lay.groups() {
        let g = (home + i) % lay.groups();
        if usable(g)? {
            return Ok(g);
        }
    }
    Ok(home)
}

/// Group for a directory: top-level ones go where there is most room, others
/// stay near their parent unless that is fuller than average.
fn dir_group(tx: &mut Txn<'_>, parent: u32) -> Result<u32> {
    let lay = tx.lay().clone();
    let home = parent_group(&lay, parent);
    let counts = tx.counts()?;
    let avg_inodes = counts.free_inodes / lay.groups();
    let avg_blocks = (counts.free_blocks / u64::from(lay.groups())) as u32;
    let top = parent == ROOT_INO || Inode::read(tx, parent)?.has(flags::TOPDIR);
    if top {
        let start = random(tx) % lay.groups();
        let mut best: Option<(u32, u32)> = None;
        for i in 0..lay.groups() {
            let g = (start + i) % lay.groups();
            let d = read_desc(tx, g)?;
            if d.free_inodes == 0 || d.free_inodes < avg_inodes || d.free_blocks < avg_blocks {
                continue;
            }
            if best.is_none_or(|(dirs, _)| d.used_dirs < dirs) {
                best = Some((d.used_dirs, g));
                if d.used_dirs == 0 {
                    break;
                }
            }
        }
        return Ok(best.map_or(home, |(_, g)| g));
    }
    let min_inodes = avg_inodes.saturating_sub(lay.inodes_per_group / 4).max(1);
    let min_blocks = avg_blocks.saturating_sub(lay.blocks_per_group / 4);
    for i in 0..lay.groups() {
        let g = (home + i) % lay.groups();
        let d = read_desc(tx, g)?;
        if d.free_inodes >= min_inodes && d.free_blocks >= min_blocks {
            return Ok(g);
        }
    }
    Ok(home)
}

fn free_index(tx: &Txn<'_>, g: u32) -> Result<Option<u32>> {
    let lay = tx.lay();
    let d = read_desc(tx, g)?;
    if d.free_inodes == 0 {
        return Ok(None);
    }
    let bm = inode_bitmap(tx, g, &d)?;
    let from = if g == 0 { lay.first_ino - 1 } else { 0 };
    Ok(next_zero(&bm, from, lay.inodes_per_group))
}

fn random(tx: &mut Txn<'_>) -> u32 {
    // xorshift32; only spreads generations and directories, keeps no secrets.
    let mut x = tx.st.next_generation | 1;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    tx.st.next_generation = x;
    x
}

fn claim(tx: &mut Txn<'_>, g: u32, idx: u32, mode: u16) -> Result<Inode> {
    let lay = tx.lay().clone();
    let ino = g * lay.inodes_per_group + idx + 1;
    mark_used(tx, g, idx, mode & S_IFMT == S_IFDIR, true)?;
    let mut inode = Inode::blank(&lay, ino);
    inode.mode = mode;
    inode.generation = random(tx);
    let now = tx.now;
    (inode.atime, inode.mtime, inode.ctime, inode.crtime) = (now, now, now, now);
    Ok(inode)
}

impl Txn<'_> {
    /// Whether the inode bitmap has an inode in use.
    pub(crate) fn inode_in_use(&self, ino: u32) -> Result<bool> {
        let Some((g, idx)) = self.lay().ino_place(ino) else {
            return Err(self.corrupt("inode number out of range", ino, 0));
        };
        let d = read_desc(self, g)?;
        Ok(test_bit(&inode_bitmap(self, g, &d)?, idx))
    }

    /// Marks a particular free inode as used (journal replay).
    pub(crate) fn claim_inode(&mut self, ino: u32, dir: bool) -> Result<()> {
        let Some((g, idx)) = self.lay().ino_place(ino) else {
            return Err(self.corrupt("inode number out of range", ino, 0));
        };
        mark_used(self, g, idx, dir, false)
    }
}

/// Sets an inode's bit and counts it; with `fresh` the block of the table it
/// is in may be made up.
fn mark_used(tx: &mut Txn<'_>, g: u32, idx: u32, dir: bool, fresh: bool) -> Result<()> {
    let lay = tx.lay().clone();
    let d = read_desc(tx, g)?;
    let bm = inode_bitmap(tx, g, &d)?.to_vec();
    if lay.has_group_csum() {
        tx.init_block_bitmap(g)?;
    }
    // A table block none of whose inodes is in use may never have been
    // written, so it is not read.
    let per = lay.block_size / u32::from(lay.inode_size);
    let block_first = idx - idx % per;
    let alone =
        (block_first..(block_first + per).min(lay.inodes_per_group)).all(|i| !test_bit(&bm, i));
    let table_block = d.inode_table + u64::from(idx / per);
    if alone && fresh {
        tx.create(table_block);
    }
    if d.inode_uninit(&lay) {
        tx.create(d.inode_bitmap).copy_from_slice(&bm);
    }
    group::set_bits(tx.modify(d.inode_bitmap)?, idx, idx + 1);
    let copy = tx.block(d.inode_bitmap)?;
    tx.with_desc(g, |x| {
        x.free_inodes = x.free_inodes.saturating_sub(1);
        x.used_dirs += u32::from(dir);
        x.flags &= !INODE_UNINIT;
        if lay.has_group_csum() {
            x.itable_unused = x.itable_unused.min(lay.inodes_per_group - idx - 1);
        }
        x.set_inode_bitmap_csum(&lay, &copy);
    })?;
    tx.add_free_inodes(-1)
}

/// Frees an inode that owns nothing any more, and writes it.
pub(crate) fn free_inode(tx: &mut Txn<'_>, inode: &mut Inode) -> Result<()> {
    let lay = tx.lay().clone();
    let ino = inode.ino;
    let Some((g, idx)) = lay.ino_place(ino).filter(|_| ino >= lay.first_ino) else {
        return Err(tx.corrupt("freeing a reserved inode", ino, 0));
    };
    let d = read_desc(tx, g)?;
    if d.inode_uninit(&lay) || !test_bit(&inode_bitmap(tx, g, &d)?, idx) {
        return Err(tx.corrupt("freeing a free inode", ino, 0));
    }
    group::clear_bits(tx.modify(d.inode_bitmap)?, idx, idx + 1);
    let copy = tx.block(d.inode_bitmap)?;
    let dir = inode.is_dir();
    tx.with_desc(g, |x| {
        x.free_inodes += 1;
        x.used_dirs = x.used_dirs.saturating_sub(u32::from(dir));
        x.set_inode_bitmap_csum(&lay, &copy);
    })?;
    tx.add_free_inodes(1)?;
    inode.dtime = (tx.now.sec.max(1) as u32).max(1);
    inode.size = 0;
    inode.links = 0;
    debug_assert!(rd16(&inode.raw, 0) == inode.mode || inode.raw.iter().all(|b| *b == 0));
    tx.put_inode(inode)
}
