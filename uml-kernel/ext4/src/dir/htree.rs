//! htree indexes: the root in block 0, up to three levels, leaves are ordinary
//! entry blocks.

use uml_abi::Result;

use super::{Found, Place, dir_blocks, entry, hash, read_block};
use crate::bytes::{rd8, rd16, rd32, slice, wr16, wr32};
use crate::cache::{Buf, Checked};
use crate::crc::crc32c;
use crate::error::EFSBADCRC;
use crate::features::incompat;
use crate::inode::Inode;
use crate::layout::Layout;
use crate::meta::MetaRead;

/// Offset of the entries in the root block and in other index blocks.
pub(crate) const ROOT_ENTRIES: usize = 0x20;
pub(crate) const NODE_ENTRIES: usize = 8;

/// One index block on the way from the root to a leaf.
#[derive(Clone)]
pub(crate) struct Frame {
    /// Device block.
    pub(crate) block: u64,
    pub(crate) buf: Buf,
    /// Offset of the entries.
    pub(crate) base: usize,
    pub(crate) count: usize,
    pub(crate) limit: usize,
    /// The entry followed.
    pub(crate) at: usize,
}

impl Frame {
    pub(crate) fn hash_at(&self, i: usize) -> u32 {
        if i == 0 { 0 } else { rd32(&self.buf, self.base + i * 8) }
    }

    pub(crate) fn child_at(&self, i: usize) -> u64 {
        u64::from(rd32(&self.buf, self.base + i * 8 + 4) & 0x0fff_ffff)
    }

    /// Chooses the entry for a hash.
    pub(crate) fn seek(&mut self, major: u32) {
        let (mut lo, mut hi) = (1, self.count);
        while lo < hi {
            let mid = (lo + hi) / 2;
            if self.hash_at(mid) <= major { lo = mid + 1 } else { hi = mid }
        }
        self.at = lo - 1;
    }
}

/// An index's root information.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub(crate) version: u8,
    pub(crate) levels: u8,
}

/// Entries an index block can hold.
pub(crate) fn limit(lay: &Layout, base: usize) -> usize {
    let tail = if lay.metadata_csum() { 8 } else { 0 };
    (lay.bs() - base - tail) / 8
}

/// Whether a directory block could be an index block by its pretended entry.
pub(crate) fn looks_like_index(lay: &Layout, b: &[u8], n: u64) -> bool {
    if n == 0 {
        return true;
    }
    rd32(b, 0) == 0 && rd8(b, 6) == 0 && entry::rec_len(lay.bs(), rd16(b, 4)) == lay.bs()
}

fn csum(lay: &Layout, dir: &Inode, b: &[u8], base: usize, count: usize, limit: usize) -> u32 {
    let mut c = crc32c(dir.seed(lay), slice(b, 0, base + count * 8));
    c = crc32c(c, slice(b, base + limit * 8, 4));
    crc32c(c, &[0; 4])
}

/// Stores the checksum of a changed index block.
pub(crate) fn set_csum(lay: &Layout, dir: &Inode, b: &mut [u8], base: usize) {
    if lay.metadata_csum() {
        let (limit, count) = (usize::from(rd16(b, base)), usize::from(rd16(b, base + 2)));
        let c = csum(lay, dir, b, base, count, limit);
        wr32(b, base + limit * 8 + 4, c);
    }
}

/// Writes an index block's entries.
pub(crate) fn put_entries(lay: &Layout, b: &mut [u8], base: usize, list: &[(u32, u64)]) {
    for (i, &(h, blk)) in list.iter().enumerate() {
        if i > 0 {
            wr32(b, base + i * 8, h);
        }
        wr32(b, base + i * 8 + 4, blk as u32);
    }
    wr16(b, base, limit(lay, base) as u16);
    wr16(b, base + 2, list.len() as u16);
}

fn read_frame(src: &dyn MetaRead, dir: &Inode, lblk: u64, base: usize) -> Result<Frame> {
    let lay = src.lay();
    let block = super::block_of(src, dir, lblk)?;
    let buf = src.block(block)?;
    let (lim, count) = (usize::from(rd16(&buf, base)), usize::from(rd16(&buf, base + 2)));
    if lim != limit(lay, base) || count == 0 || count > lim {
        return Err(src.corrupt("directory index entry count", dir.ino, block));
    }
    if base == NODE_ENTRIES && !looks_like_index(lay, &buf, lblk) {
        return Err(src.corrupt("directory index block", dir.ino, block));
    }
    let f = Frame { block, buf, base, count, limit: lim, at: 0 };
    if !f.buf.is_checked(Checked::Dx) {
        if lay.metadata_csum()
            && csum(lay, dir, &f.buf, base, count, lim) != rd32(&f.buf, base + lim * 8 + 4)
        {
            return Err(src.damage(EFSBADCRC, "directory index checksum", dir.ino, block));
        }
        if (2..count).any(|i| f.hash_at(i) < f.hash_at(i - 1)) {
            return Err(src.corrupt("directory index out of order", dir.ino, block));
        }
        f.buf.set_checked(Checked::Dx);
    }
    Ok(f)
}

/// Reads the root; `None` when the index is of a kind not understood here.
pub(crate) fn read_root(src: &dyn MetaRead, dir: &Inode) -> Result<Option<(Root, Frame)>> {
    let lay = src.lay();
    let block = super::block_of(src, dir, 0)?;
    let buf = src.block(block)?;
    let (version, info, levels, unused) =
        (rd8(&buf, 0x1c), rd8(&buf, 0x1d), rd8(&buf, 0x1e), rd8(&buf, 0x1f));
    let Some(version) = hash::effective(lay, version) else { return Ok(None) };
    if unused & 1 != 0 || info != 8 {
        return Ok(None);
    }
    if levels > max_levels(lay) {
        return Err(src.corrupt("directory index depth", dir.ino, block));
    }
    Ok(Some((Root { version, levels }, read_frame(src, dir, 0, ROOT_ENTRIES)?)))
}

/// Largest value of the root's level count.
pub(crate) fn max_levels(lay: &Layout) -> u8 {
    if lay.features.incompat(incompat::LARGEDIR) { 2 } else { 1 }
}

/// The path from the root to the leaf for a hash.
pub(crate) fn descend(
    src: &dyn MetaRead,
    dir: &Inode,
    root: Root,
    mut frame: Frame,
    major: u32,
) -> Result<Vec<Frame>> {
    let mut path = Vec::with_capacity(3);
    for _ in 0..root.levels {
        frame.seek(major);
        let child = frame.child_at(frame.at);
        path.push(frame);
        frame = child_frame(src, dir, child)?;
    }
    frame.seek(major);
    path.push(frame);
    Ok(path)
}

fn child_frame(src: &dyn MetaRead, dir: &Inode, lblk: u64) -> Result<Frame> {
    if lblk == 0 || lblk >= dir_blocks(src.lay(), dir) {
        return Err(src.corrupt("directory index points outside", dir.ino, lblk));
    }
    read_frame(src, dir, lblk, NODE_ENTRIES)
}

/// The leaf a path leads to.
pub(crate) fn leaf_of(src: &dyn MetaRead, dir: &Inode, path: &[Frame]) -> Result<u64> {
    let lblk = path.last().map_or(0, |f| f.child_at(f.at));
    if lblk == 0 || lblk >= dir_blocks(src.lay(), dir) {
        return Err(src.corrupt("directory index points outside", dir.ino, lblk));
    }
    Ok(lblk)
}

/// Moves a path to the next leaf; returns the hash it starts at.
pub(crate) fn advance(
    src: &dyn MetaRead,
    dir: &Inode,
    path: &mut Vec<Frame>,
) -> Result<Option<u32>> {
    let levels = path.len();
    let mut depth = levels;
    loop {
        let Some(f) = depth.checked_sub(1).and_then(|d| path.get_mut(d)) else { return Ok(None) };
        if f.at + 1 < f.count {
            f.at += 1;
            let start = f.hash_at(f.at);
            path.truncate(depth);
            while path.len() < levels {
                let child = path.last().map_or(0, |f| f.child_at(f.at));
                path.push(child_frame(src, dir, child)?);
            }
            return Ok(Some(start));
        }
        depth -= 1;
    }
}

/// Looks a name up through the index. The outer `None` says the index cannot
/// be used.
pub(crate) fn find(src: &dyn MetaRead, dir: &Inode, name: &[u8]) -> Result<Option<Option<Found>>> {
    let Some((root, frame)) = read_root(src, dir)? else { return Ok(None) };
    let Some(h) = hash::hash(src.lay(), root.version, name) else { return Ok(None) };
    let mut path = descend(src, dir, root, frame, h.major)?;
    loop {
        let leaf = leaf_of(src, dir, &path)?;
        let (block, buf) = read_block(src, dir, leaf)?;
        if let Some((off, ino)) = entry::search(src.lay(), &buf, name) {
            return Ok(Some(Some(Found { ino, place: Place::Block { block, off } })));
        }
        // Equal hashes may spill into the next leaf, whose start then has
        // its lowest bit set.
        match advance(src, dir, &mut path)? {
            Some(start) if start & 1 != 0 && start & !1 == h.major => {}
            _ => return Ok(Some(None)),
        }
    }
}
