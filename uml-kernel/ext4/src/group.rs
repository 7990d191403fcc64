//! Group descriptors and the checksums of bitmaps.

use uml_abi::Result;

use crate::bytes::{rd16, rd32, wr16, wr32};
use crate::cache::{Buf, Checked};
use crate::crc::{crc16, crc32c};
use crate::error::{EFSBADCRC, EFSCORRUPTED};
use crate::layout::Layout;
use crate::meta::MetaRead;

/// The inode table and bitmap of the group were never written.
pub(crate) const INODE_UNINIT: u16 = 1;
/// The block bitmap was never written.
pub(crate) const BLOCK_UNINIT: u16 = 2;

/// The inode table of the group is zeroed where it is not used.
pub(crate) const INODE_ZEROED: u16 = 4;

/// A group descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupDesc {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) used_dirs: u32,
    pub(crate) itable_unused: u32,
    pub(crate) flags: u16,
    block_bitmap_csum: u32,
    inode_bitmap_csum: u32,
}

impl GroupDesc {
    pub(crate) fn parse(lay: &Layout, d: &[u8]) -> GroupDesc {
        let wide = lay.desc_size >= 64;
        let hi32 = |off| if wide { u64::from(rd32(d, off)) << 32 } else { 0 };
        let hi16 = |off| if wide { u32::from(rd16(d, off)) << 16 } else { 0 };
        GroupDesc {
            block_bitmap: u64::from(rd32(d, 0)) | hi32(0x20),
            inode_bitmap: u64::from(rd32(d, 4)) | hi32(0x24),
            inode_table: u64::from(rd32(d, 8)) | hi32(0x28),
            free_blocks: u32::from(rd16(d, 0xc)) | hi16(0x2c),
            free_inodes: u32::from(rd16(d, 0xe)) | hi16(0x2e),
            used_dirs: u32::from(rd16(d, 0x10)) | hi16(0x30),
            itable_unused: u32::from(rd16(d, 0x1c)) | hi16(0x32),
            flags: rd16(d, 0x12),
            block_bitmap_csum: u32::from(rd16(d, 0x18)) | hi16(0x38),
            inode_bitmap_csum: u32::from(rd16(d, 0x1a)) | hi16(0x3a),
        }
    }

    /// A descriptor of a new group.
    pub(crate) fn at(block_bitmap: u64, inode_bitmap: u64, inode_table: u64) -> GroupDesc {
        GroupDesc {
            block_bitmap,
            inode_bitmap,
            inode_table,
            free_blocks: 0,
            free_inodes: 0,
            used_dirs: 0,
            itable_unused: 0,
            flags: 0,
            block_bitmap_csum: 0,
            inode_bitmap_csum: 0,
        }
    }

    /// Writes the places of a new group into the raw descriptor.
    pub(crate) fn encode_places(&self, lay: &Layout, d: &mut [u8]) {
        let parts = [self.block_bitmap, self.inode_bitmap, self.inode_table];
        for (i, at) in parts.into_iter().enumerate() {
            wr32(d, i * 4, at as u32);
            if lay.desc_size >= 64 {
                wr32(d, 0x20 + i * 4, (at >> 32) as u32);
            }
        }
    }

    /// Writes the changeable fields and the checksum into the raw descriptor.
    pub(crate) fn encode(&self, lay: &Layout, g: u32, d: &mut [u8]) {
        let wide = lay.desc_size >= 64;
        let mut put = |lo: usize, hi: usize, v: u32| {
            wr16(d, lo, v as u16);
            if wide {
                wr16(d, hi, (v >> 16) as u16);
            }
        };
        put(0xc, 0x2c, self.free_blocks);
        put(0xe, 0x2e, self.free_inodes);
        put(0x10, 0x30, self.used_dirs);
        put(0x1c, 0x32, self.itable_unused);
        put(0x18, 0x38, self.block_bitmap_csum);
        put(0x1a, 0x3a, self.inode_bitmap_csum);
        wr16(d, 0x12, self.flags);
        let c = desc_csum(lay, g, d);
        wr16(d, 0x1e, c);
    }

    pub(crate) fn block_uninit(&self, lay: &Layout) -> bool {
        lay.has_group_csum() && self.flags & BLOCK_UNINIT != 0
    }

    pub(crate) fn inode_uninit(&self, lay: &Layout) -> bool {
        lay.has_group_csum() && self.flags & INODE_UNINIT != 0
    }

    /// Records the checksum of a changed block bitmap.
    pub(crate) fn set_block_bitmap_csum(&mut self, lay: &Layout, bitmap: &[u8]) {
        if lay.metadata_csum() {
            self.block_bitmap_csum = block_bitmap_csum(lay, bitmap);
        }
    }

    /// Records the checksum of a changed inode bitmap.
    pub(crate) fn set_inode_bitmap_csum(&mut self, lay: &Layout, bitmap: &[u8]) {
        if lay.metadata_csum() {
            self.inode_bitmap_csum = inode_bitmap_csum(lay, bitmap);
        }
    }
}

fn mask(lay: &Layout) -> u32 {
    if lay.desc_size >= 64 { u32::MAX } else { 0xffff }
}

fn block_bitmap_csum(lay: &Layout, bitmap: &[u8]) -> u32 {
    let n = lay.blocks_per_group as usize / 8;
    crc32c(lay.csum_seed, bitmap.get(..n).unwrap_or(bitmap)) & mask(lay)
}

fn inode_bitmap_csum(lay: &Layout, bitmap: &[u8]) -> u32 {
    let n = lay.inodes_per_group as usize / 8;
    crc32c(lay.csum_seed, bitmap.get(..n).unwrap_or(bitmap)) & mask(lay)
}

/// The checksum a raw descriptor should carry; zero without the features.
pub(crate) fn desc_csum(lay: &Layout, g: u32, d: &[u8]) -> u16 {
    let d = d.get(..usize::from(lay.desc_size)).unwrap_or(d);
    let (head, tail) = (d.get(..0x1e).unwrap_or(&[]), d.get(0x20..).unwrap_or(&[]));
    if lay.metadata_csum() {
        let mut c = crc32c(lay.csum_seed, &g.to_le_bytes());
        c = crc32c(c, head);
        c = crc32c(c, &[0, 0]);
        crc32c(c, tail) as u16
    } else if lay.has_group_csum() {
        let mut c = crc16(!0, &lay.uuid);
        c = crc16(c, &g.to_le_bytes());
        c = crc16(c, head);
        if lay.desc_size > 32 { crc16(c, tail) } else { c }
    } else {
        0
    }
}

/// Reads the descriptor of group `g`.
pub(crate) fn read_desc(src: &dyn MetaRead, g: u32) -> Result<GroupDesc> {
    let lay = src.lay();
    if g >= lay.groups() {
        return Err(src.damage(EFSCORRUPTED, "group number out of range", 0, 0));
    }
    let (block, off) = lay.desc_place(g);
    let buf = src.block(block)?;
    Ok(GroupDesc::parse(lay, buf.get(off..).unwrap_or(&[])))
}

/// Checks one descriptor's checksum and that its parts lie inside the device.
pub(crate) fn check_desc(lay: &Layout, g: u32, raw: &[u8]) -> Result<GroupDesc, String> {
    let d = GroupDesc::parse(lay, raw);
    let end = lay.blocks_count();
    let flex = lay.flex_size > 1 || lay.features.incompat(crate::features::incompat::FLEX_BG);
    let (lo, hi) = if flex {
        (lay.first_data_block, end)
    } else {
        (lay.group_first(g), lay.group_first(g) + u64::from(lay.group_blocks(g)))
    };
    let inside = |b: u64, n: u64| b >= lo && b.checked_add(n).is_some_and(|e| e <= hi);
    let itb = u64::from(lay.itable_blocks());
    if !inside(d.block_bitmap, 1) {
        return Err(format!("group {g}: block bitmap at block {}", d.block_bitmap));
    }
    if !inside(d.inode_bitmap, 1) {
        return Err(format!("group {g}: inode bitmap at block {}", d.inode_bitmap));
    }
    if !inside(d.inode_table, itb) {
        return Err(format!("group {g}: inode table at block {}", d.inode_table));
    }
    let want = desc_csum(lay, g, raw);
    if lay.has_group_csum() && want != rd16(raw, 0x1e) {
        return Err(format!("group {g}: descriptor checksum does not match"));
    }
    Ok(d)
}

/// Sets bits `from..to`.
pub(crate) fn set_bits(bm: &mut [u8], from: u32, to: u32) {
    for i in from..to {
        if let Some(b) = bm.get_mut(i as usize / 8) {
            *b |= 1 << (i % 8);
        }
    }
}

/// Clears bits `from..to`.
pub(crate) fn clear_bits(bm: &mut [u8], from: u32, to: u32) {
    for i in from..to {
        if let Some(b) = bm.get_mut(i as usize / 8) {
            *b &= !(1 << (i % 8));
        }
    }
}

/// True when bit `i` is set; bits past the end count as set.
pub(crate) fn test_bit(bm: &[u8], i: u32) -> bool {
    bm.get(i as usize / 8).is_none_or(|b| b & (1 << (i % 8)) != 0)
}

/// First clear bit in `from..to`.
pub(crate) fn next_zero(bm: &[u8], from: u32, to: u32) -> Option<u32> {
    scan(bm, from, to, 0xff)
}

/// First set bit in `from..to`.
pub(crate) fn next_one(bm: &[u8], from: u32, to: u32) -> Option<u32> {
    scan(bm, from, to, 0)
}

fn scan(bm: &[u8], from: u32, to: u32, skip: u8) -> Option<u32> {
    let mut i = from;
    while i < to {
        let byte = *bm.get(i as usize / 8)?;
        if byte == skip {
            i = (i / 8 + 1) * 8;
            continue;
        }
        if ((byte ^ skip) >> (i % 8)) & 1 != 0 {
            return Some(i);
        }
        i += 1;
    }
    None
}

/// The block bitmap of a group whose bitmap was never written.
fn fresh_block_bitmap(src: &dyn MetaRead, g: u32) -> Result<Vec<u8>> {
    let lay = src.lay();
    let mut bm = vec![0u8; lay.bs()];
    let n = lay.group_blocks(g);
    let base = u32::from(lay.has_super(g)) + lay.gdt_blocks_in(g);
    set_bits(&mut bm, 0, base.min(n));
    // With flex_bg other groups' bitmaps and tables may live here.
    let flex = lay.flex_size.max(1);
    let lo = g - g % flex;
    let near = lo..lo.saturating_add(flex).min(lay.groups());
    let mut mark = |b: u64, count: u64| {
        for b in b..b.saturating_add(count) {
            match lay.group_of(b) {
                Some((bg, bit)) if bg == g => set_bits(&mut bm, bit, bit + 1),
                _ => {}
            }
        }
    };
    for other in near {
        let d = read_desc(src, other)?;
        mark(d.block_bitmap, 1);
        mark(d.inode_bitmap, 1);
        mark(d.inode_table, lay.itable_blocks().into());
    }
    set_bits(&mut bm, n, lay.block_size * 8);
    Ok(bm)
}

/// A bitmap, either as stored or made up for a never-written group.
pub(crate) enum Bitmap {
    Stored(Buf),
    Fresh(Vec<u8>),
}

impl std::ops::Deref for Bitmap {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bitmap::Stored(b) => b,
            Bitmap::Fresh(v) => v,
        }
    }
}

/// The block bitmap of group `g`, checked.
pub(crate) fn block_bitmap(src: &dyn MetaRead, g: u32, d: &GroupDesc) -> Result<Bitmap> {
    let lay = src.lay();
    if d.block_uninit(lay) {
        return Ok(Bitmap::Fresh(fresh_block_bitmap(src, g)?));
    }
    let buf = src.block(d.block_bitmap)?;
    if !buf.is_checked(Checked::BlockBitmap) {
        if lay.metadata_csum() && block_bitmap_csum(lay, &buf) != d.block_bitmap_csum & mask(lay) {
            return Err(src.damage(EFSBADCRC, "block bitmap checksum", 0, d.block_bitmap));
        }
        buf.set_checked(Checked::BlockBitmap);
    }
    Ok(Bitmap::Stored(buf))
}

/// The inode bitmap of group `g`, checked.
pub(crate) fn inode_bitmap(src: &dyn MetaRead, g: u32, d: &GroupDesc) -> Result<Bitmap> {
    let lay = src.lay();
    if d.inode_uninit(lay) {
        let mut bm = vec![0u8; lay.bs()];
        set_bits(&mut bm, lay.inodes_per_group, lay.block_size * 8);
        if g == 0 {
            set_bits(&mut bm, 0, lay.first_ino - 1);
        }
        return Ok(Bitmap::Fresh(bm));
    }
    let buf = src.block(d.inode_bitmap)?;
    if !buf.is_checked(Checked::InodeBitmap) {
        if lay.metadata_csum() && inode_bitmap_csum(lay, &buf) != d.inode_bitmap_csum & mask(lay) {
            return Err(src.damage(EFSBADCRC, "inode bitmap checksum", 0, d.inode_bitmap));
        }
        buf.set_checked(Checked::InodeBitmap);
    }
    Ok(Bitmap::Stored(buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_scans() {
        let mut bm = vec![0u8; 16];
        set_bits(&mut bm, 0, 37);
        assert_eq!(next_zero(&bm, 0, 128), Some(37));
        assert_eq!(next_one(&bm, 37, 128), None);
        set_bits(&mut bm, 60, 61);
        assert_eq!(next_one(&bm, 37, 128), Some(60));
        clear_bits(&mut bm, 8, 9);
        assert_eq!(next_zero(&bm, 0, 128), Some(8));
        assert!(test_bit(&bm, 1000), "outside counts as in use");
        assert_eq!(next_zero(&bm, 0, 5), None);
    }
}
