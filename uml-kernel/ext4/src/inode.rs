//! Inodes: the on-disk structure and where it is.

use uml_abi::Result;
use uml_abi::errno::{EFBIG, ESTALE};

use crate::bytes::{rd16, rd32, wr16, wr32};
use crate::crc::crc32c;
use crate::error::EFSBADCRC;
use crate::features::{incompat, ro_compat};
use crate::group::read_desc;
use crate::layout::Layout;
use crate::meta::MetaRead;

/// Inode of the root directory.
pub const ROOT_INO: u32 = 2;

/// `i_flags` bits (also the values of `FS_IOC_GETFLAGS`).
pub mod flags {
    #![allow(missing_docs)]
    pub const SYNC: u32 = 0x8;
    pub const IMMUTABLE: u32 = 0x10;
    pub const APPEND: u32 = 0x20;
    pub const NODUMP: u32 = 0x40;
    pub const NOATIME: u32 = 0x80;
    pub const ENCRYPT: u32 = 0x800;
    pub const INDEX: u32 = 0x1000;
    pub const JOURNAL_DATA: u32 = 0x4000;
    pub const DIRSYNC: u32 = 0x1_0000;
    pub const TOPDIR: u32 = 0x2_0000;
    pub const HUGE_FILE: u32 = 0x4_0000;
    pub const EXTENTS: u32 = 0x8_0000;
    pub const VERITY: u32 = 0x10_0000;
    pub const EA_INODE: u32 = 0x20_0000;
    pub const INLINE_DATA: u32 = 0x1000_0000;
    pub const PROJINHERIT: u32 = 0x2000_0000;
    /// Flags chattr(1) may change.
    pub const USER_MODIFIABLE: u32 = 0x2 // undeletable
        | 0x1
        | SYNC
        | IMMUTABLE
        | APPEND
        | NODUMP
        | NOATIME
        | 0x8000
        | DIRSYNC
        | TOPDIR
        | PROJINHERIT;
    /// Flags a new inode takes from its directory.
    pub const INHERITED: u32 = 0x1
        | 0x2
        | 0x4
        | SYNC
        | NODUMP
        | NOATIME
        | 0x100
        | 0x400
        | JOURNAL_DATA
        | 0x8000
        | DIRSYNC
        | PROJINHERIT;
}

/// A point in time; `sec` counts from 1970, `nsec` is below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since the Unix epoch.
    pub sec: i64,
    /// Nanoseconds, 0..1_000_000_000.
    pub nsec: u32,
}

/// File type bits of `st_mode`.
pub(crate) const S_IFMT: u16 = 0o170000;
pub(crate) const S_IFDIR: u16 = 0o040000;
pub(crate) const S_IFREG: u16 = 0o100000;
pub(crate) const S_IFLNK: u16 = 0o120000;
pub(crate) const S_IFCHR: u16 = 0o020000;
pub(crate) const S_IFBLK: u16 = 0o060000;
pub(crate) const S_IFIFO: u16 = 0o010000;
pub(crate) const S_IFSOCK: u16 = 0o140000;

/// An inode in memory: a decoded copy of the on-disk structure.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) ino: u32,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) projid: u32,
    pub(crate) size: u64,
    pub(crate) links: u16,
    /// Space used, in 512-byte units.
    pub(crate) sectors: u64,
    pub(crate) flags: u32,
    pub(crate) atime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) crtime: Timestamp,
    /// Deletion time, or the next inode of the orphan list.
    pub(crate) dtime: u32,
    pub(crate) generation: u32,
    pub(crate) version: u64,
    pub(crate) file_acl: u64,
    pub(crate) extra_isize: u16,
    /// `i_block`: block map, extent root, inline data or symlink target.
    pub(crate) block: [u8; 60],
    /// The whole on-disk structure, for fields not decoded and in-inode
    /// extended attributes.
    pub(crate) raw: Vec<u8>,
}

/// Bytes of an inode table read at a time: names of a directory lead to inodes next to each other
/// (ext4(5) inode_readahead_blks).
const TABLE_AHEAD: u64 = 64 << 10;

/// Inodes next to this one are read with it.
fn read_neighbours(src: &dyn MetaRead, ino: u32, block: u64) -> Result<()> {
    let lay = src.lay();
    let Some((g, _)) = lay.ino_place(ino) else { return Ok(()) };
    let table = read_desc(src, g)?.inode_table;
    let run = TABLE_AHEAD >> lay.block_bits;
    let first = table + block.saturating_sub(table) / run.max(1) * run;
    let end = (first + run).min(table + u64::from(lay.itable_blocks()));
    src.read_ahead(block, first, end);
    Ok(())
}

/// Where an inode lives: block and byte offset.
pub(crate) fn place(src: &dyn MetaRead, ino: u32) -> Result<(u64, usize)> {
    let lay = src.lay();
    let (g, idx) =
        lay.ino_place(ino).ok_or_else(|| src.corrupt("inode number out of range", ino, 0))?;
    let d = read_desc(src, g)?;
    let per = lay.block_size / u32::from(lay.inode_size);
    let block = d.inode_table + u64::from(idx / per);
    Ok((block, (idx % per) as usize * usize::from(lay.inode_size)))
}

/// The checksum an on-disk inode should carry; only the low half when the
/// structure has no room for the high half.
fn inode_csum(lay: &Layout, ino: u32, raw: &[u8]) -> u32 {
    let seed = lay.inode_seed(ino, rd32(raw, 0x64));
    let part = |a: usize, b: usize| raw.get(a..b.min(raw.len())).unwrap_or(&[]);
    let mut c = crc32c(seed, part(0, 0x7c));
    c = crc32c(c, &[0, 0]);
    c = crc32c(c, part(0x7e, 0x80));
    if raw.len() > 0x80 {
        if has_csum_hi(raw) {
            c = crc32c(c, part(0x80, 0x82));
            c = crc32c(c, &[0, 0]);
            c = crc32c(c, part(0x84, raw.len()));
        } else {
            c = crc32c(c, part(0x80, raw.len()));
        }
    }
    c
}

fn has_csum_hi(raw: &[u8]) -> bool {
    raw.len() > 0x80 && rd16(raw, 0x80) >= 4
}

fn decode_time(sec: u32, extra: u32) -> Timestamp {
    let sec = i64::from(sec as i32) + (i64::from(extra & 3) << 32);
    Timestamp { sec, nsec: (extra >> 2).min(999_999_999) }
}

fn encode_time(t: Timestamp, wide: bool) -> (u32, u32) {
    if wide {
        let sec = t.sec.clamp(i64::from(i32::MIN), (3i64 << 32) + i64::from(i32::MAX));
        let epoch = ((sec - i64::from(sec as i32)) >> 32) as u32 & 3;
        (sec as u32, epoch | t.nsec << 2)
    } else {
        (t.sec.clamp(i32::MIN.into(), i32::MAX.into()) as u32, 0)
    }
}

impl Inode {
    /// Reads and checks inode `ino`, whether or not it is in use.
    pub(crate) fn read(src: &dyn MetaRead, ino: u32) -> Result<Inode> {
        let lay = src.lay();
        let (block, off) = place(src, ino)?;
        read_neighbours(src, ino, block)?;
        let buf = src.block(block)?;
        let raw = buf.get(off..off + usize::from(lay.inode_size)).unwrap_or(&[]).to_vec();
        if raw.len() < 128 {
            return Err(src.corrupt("inode outside its block", ino, block));
        }
        if lay.metadata_csum() {
            let want = inode_csum(lay, ino, &raw);
            let lo = rd16(&raw, 0x7c);
            let good = if has_csum_hi(&raw) {
                want == u32::from(lo) | u32::from(rd16(&raw, 0x82)) << 16
            } else {
                want as u16 == lo
            };
            // An inode that was never written is all zeros.
            if !good && raw.iter().any(|b| *b != 0) {
                return Err(src.damage(EFSBADCRC, "inode checksum", ino, block));
            }
        }
        let inode = Inode::decode(lay, ino, raw);
        if inode.raw.len() > 128 && usize::from(inode.extra_isize) > inode.raw.len() - 128 {
            return Err(src.corrupt("inode extra size", ino, block));
        }
        if inode.size > i64::MAX as u64 {
            return Err(src.corrupt("inode size", ino, block));
        }
        Ok(inode)
    }

    /// Reads an inode that must be in use; `ESTALE` when it is free.
    pub(crate) fn live(src: &dyn MetaRead, ino: u32) -> Result<Inode> {
        let i = Inode::read(src, ino)?;
        if i.mode == 0 {
            return Err(ESTALE);
        }
        Ok(i)
    }

    /// Decodes an on-disk structure that was not read from its place.
    pub(crate) fn decode_raw(lay: &Layout, ino: u32, raw: Vec<u8>) -> Inode {
        Inode::decode(lay, ino, raw)
    }

    fn decode(lay: &Layout, ino: u32, raw: Vec<u8>) -> Inode {
        let r = &raw[..];
        let mode = rd16(r, 0);
        let flags = rd32(r, 0x20);
        let extra_isize = if r.len() > 128 { rd16(r, 0x80) } else { 0 };
        let fits = |end: usize| r.len() >= end && 128 + usize::from(extra_isize) >= end;
        let extra = |off: usize| if fits(off + 4) { rd32(r, off) } else { 0 };
        let large = mode & S_IFMT == S_IFREG || lay.features.incompat(incompat::LARGEDIR);
        let size_hi = if large { u64::from(rd32(r, 0x6c)) << 32 } else { 0 };
        let mut sectors = u64::from(rd32(r, 0x1c));
        if lay.features.ro_compat(ro_compat::HUGE_FILE) {
            sectors |= u64::from(rd16(r, 0x74)) << 32;
            if flags & flags::HUGE_FILE != 0 {
                sectors = sectors.saturating_mul(lay.sectors());
            }
        }
        let mut block = [0u8; 60];
        block.copy_from_slice(&r[0x28..0x64]);
        let acl_hi = if lay.features.incompat(incompat::BIT64) { rd16(r, 0x76) } else { 0 };
        Inode {
            ino,
            mode,
            uid: u32::from(rd16(r, 2)) | u32::from(rd16(r, 0x78)) << 16,
            gid: u32::from(rd16(r, 0x18)) | u32::from(rd16(r, 0x7a)) << 16,
            projid: if fits(0xa0) && lay.features.ro_compat(ro_compat::PROJECT) {
                rd32(r, 0x9c)
            } else {
                0
            },
            size: u64::from(rd32(r, 4)) | size_hi,
            links: rd16(r, 0x1a),
            sectors,
            flags,
            atime: decode_time(rd32(r, 8), extra(0x8c)),
            ctime: decode_time(rd32(r, 0xc), extra(0x84)),
            mtime: decode_time(rd32(r, 0x10), extra(0x88)),
            crtime: decode_time(extra(0x90), extra(0x94)),
            dtime: rd32(r, 0x14),
            generation: rd32(r, 0x64),
            version: u64::from(rd32(r, 0x24)) | u64::from(extra(0x98)) << 32,
            file_acl: u64::from(rd32(r, 0x68)) | u64::from(acl_hi) << 32,
            extra_isize,
            block,
            raw,
        }
    }

    /// A zeroed inode of the configured size.
    pub(crate) fn blank(lay: &Layout, ino: u32) -> Inode {
        let mut i = Inode::decode(lay, ino, vec![0; usize::from(lay.inode_size)]);
        i.extra_isize = lay.want_extra_isize;
        i
    }

    /// The on-disk form with checksum. `EFBIG` when the block count does not
    /// fit the format.
    pub(crate) fn encode(&self, lay: &Layout) -> Result<Vec<u8>> {
        let mut raw = self.raw.clone();
        let r = &mut raw[..];
        if r.len() > 128 {
            wr16(r, 0x80, self.extra_isize);
        }
        let fits = |end: usize| r.len() >= end && 128 + usize::from(self.extra_isize) >= end;
        let (wide_c, wide_m, wide_a) = (fits(0x88), fits(0x8c), fits(0x90));
        let (has_cr, has_ver, has_proj) = (fits(0x98), fits(0x9c), fits(0xa0));
        wr16(r, 0, self.mode);
        wr16(r, 2, self.uid as u16);
        wr16(r, 0x78, (self.uid >> 16) as u16);
        wr16(r, 0x18, self.gid as u16);
        wr16(r, 0x7a, (self.gid >> 16) as u16);
        wr32(r, 4, self.size as u32);
        if self.is_reg() || lay.features.incompat(incompat::LARGEDIR) {
            wr32(r, 0x6c, (self.size >> 32) as u32);
        }
        wr16(r, 0x1a, self.links);
        let mut flags = self.flags & !flags::HUGE_FILE;
        let (mut count, huge) = (self.sectors, lay.features.ro_compat(ro_compat::HUGE_FILE));
        if huge && count >> 48 != 0 {
            flags |= flags::HUGE_FILE;
            count /= lay.sectors();
        }
        if count >> if huge { 48 } else { 32 } != 0 {
            return Err(EFBIG);
        }
        wr32(r, 0x1c, count as u32);
        if huge {
            wr16(r, 0x74, (count >> 32) as u16);
        }
        wr32(r, 0x20, flags);
        for (t, off, wide, extra) in [
            (self.atime, 8, wide_a, 0x8c),
            (self.ctime, 0xc, wide_c, 0x84),
            (self.mtime, 0x10, wide_m, 0x88),
        ] {
            let (s, e) = encode_time(t, wide);
            wr32(r, off, s);
            if wide {
                wr32(r, extra, e);
            }
        }
        if has_cr {
            let (s, e) = encode_time(self.crtime, true);
            wr32(r, 0x90, s);
            wr32(r, 0x94, e);
        }
        wr32(r, 0x24, self.version as u32);
        if has_ver {
            wr32(r, 0x98, (self.version >> 32) as u32);
        }
        if has_proj && lay.features.ro_compat(ro_compat::PROJECT) {
            wr32(r, 0x9c, self.projid);
        }
        wr32(r, 0x14, self.dtime);
        wr32(r, 0x64, self.generation);
        wr32(r, 0x68, self.file_acl as u32);
        if lay.features.incompat(incompat::BIT64) {
            wr16(r, 0x76, (self.file_acl >> 32) as u16);
        }
        if let Some(b) = r.get_mut(0x28..0x64) {
            b.copy_from_slice(&self.block);
        }
        if lay.metadata_csum() {
            let c = inode_csum(lay, self.ino, r);
            wr16(r, 0x7c, c as u16);
            if has_csum_hi(r) {
                wr16(r, 0x82, (c >> 16) as u16);
            }
        }
        Ok(raw)
    }

    pub(crate) fn kind(&self) -> u16 {
        self.mode & S_IFMT
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == S_IFDIR
    }

    pub(crate) fn is_reg(&self) -> bool {
        self.kind() == S_IFREG
    }

    pub(crate) fn is_symlink(&self) -> bool {
        self.kind() == S_IFLNK
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether `i_block` maps blocks (rather than holding data or a device).
    pub(crate) fn maps_blocks(&self, lay: &Layout) -> bool {
        if self.has(flags::INLINE_DATA) {
            return false;
        }
        match self.kind() {
            S_IFREG | S_IFDIR => true,
            S_IFLNK => !self.fast_symlink(lay),
            _ => false,
        }
    }

    /// A symlink whose target is in `i_block`.
    pub(crate) fn fast_symlink(&self, lay: &Layout) -> bool {
        if !self.is_symlink() || self.has(flags::INLINE_DATA) {
            return false;
        }
        if lay.features.incompat(incompat::EA_INODE) {
            // Attribute values in other inodes are accounted to the owner, so
            // the block count does not tell.
            return self.size != 0 && self.size < 60;
        }
        let ea = if self.file_acl != 0 { lay.sectors() } else { 0 };
        self.sectors == ea
    }

    /// Device number of a device node, as (major, minor).
    pub(crate) fn rdev(&self) -> (u32, u32) {
        if !matches!(self.kind(), S_IFCHR | S_IFBLK) {
            return (0, 0);
        }
        let old = rd32(&self.block, 0);
        if old != 0 {
            return (old >> 8 & 0xff, old & 0xff);
        }
        let new = rd32(&self.block, 4);
        ((new & 0xfff00) >> 8, (new & 0xff) | (new >> 12 & 0xfff00))
    }

    /// Stores a device number: the old form when it fits, as Linux does.
    pub(crate) fn set_rdev(&mut self, major: u32, minor: u32) {
        self.block = [0; 60];
        if major < 256 && minor < 256 {
            wr32(&mut self.block, 0, major << 8 | minor);
        } else {
            let v = (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12;
            wr32(&mut self.block, 4, v);
        }
    }

    /// Byte range of in-inode extended attributes within `raw`.
    pub(crate) fn xattr_area(&self) -> Option<std::ops::Range<usize>> {
        let start = 128 + usize::from(self.extra_isize);
        (self.raw.len() > 128 && self.extra_isize >= 4 && start + 8 <= self.raw.len())
            .then_some(start..self.raw.len())
    }

    /// Checksum seed of this inode's metadata blocks.
    pub(crate) fn seed(&self, lay: &Layout) -> u32 {
        lay.inode_seed(self.ino, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_over_the_whole_range() {
        for sec in [-(1i64 << 31), -1, 0, 1, i64::from(i32::MAX), 1 << 31, 1 << 32, 15_032_385_535]
        {
            let t = Timestamp { sec, nsec: 123_456_789 };
            let (s, e) = encode_time(t, true);
            assert_eq!(decode_time(s, e), t, "{sec}");
        }
    }
}
