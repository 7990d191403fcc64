//! Linear directory blocks: a chain of entries that fills the block.

use uml_abi::Result;

use crate::bytes::{rd8, rd16, rd32, slice, wr16, wr32};
use crate::crc::crc32c;
use crate::error::EFSBADCRC;
use crate::inode::Inode;
use crate::layout::Layout;
use crate::meta::MetaRead;

/// Type byte of the pretended entry that holds a block's checksum.
pub(crate) const TAIL: u8 = 0xde;

/// One entry of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) off: usize,
    pub(crate) ino: u32,
    pub(crate) rec_len: usize,
    pub(crate) file_type: u8,
    pub(crate) name: &'a [u8],
}

/// Bytes an entry with a name of `n` bytes needs.
pub(crate) fn needed(n: usize) -> usize {
    (8 + n + 3) & !3
}

/// Decodes a record length (64 KiB blocks use the low bits).
pub(crate) fn rec_len(bs: usize, raw: u16) -> usize {
    let raw = usize::from(raw);
    if bs < 65536 {
        return raw;
    }
    if raw == 65535 || raw == 0 { bs } else { (raw & 65532) | (raw & 3) << 16 }
}

/// Encodes a record length.
pub(crate) fn enc_rec_len(bs: usize, len: usize) -> u16 {
    if bs < 65536 {
        len as u16
    } else if len >= 65536 {
        if len == bs { 65535 } else { ((len & 65532) | (len >> 16 & 3)) as u16 }
    } else {
        len as u16
    }
}

/// Iterates a chain of entries; stops silently at damage (blocks are checked
/// by [`check_block`] when they are read).
pub(crate) fn iter<'a>(lay: &Layout, area: &'a [u8]) -> Iter<'a> {
    Iter { area, bs: lay.bs(), off: 0 }
}

pub(crate) struct Iter<'a> {
    area: &'a [u8],
    bs: usize,
    off: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let off = self.off;
        if off + 8 > self.area.len() {
            return None;
        }
        let len = rec_len(self.bs, rd16(self.area, off + 4));
        let n = usize::from(rd8(self.area, off + 6));
        if len < 8 || off + len > self.area.len() || 8 + n > len {
            return None;
        }
        self.off = off + len;
        Some(Entry {
            off,
            ino: rd32(self.area, off),
            rec_len: len,
            file_type: rd8(self.area, off + 7),
            name: slice(self.area, off + 8, n),
        })
    }
}

/// Checks that entries fill the block exactly and lie inside it.
pub(crate) fn check_block(
    src: &dyn MetaRead,
    dir: &Inode,
    nr: u64,
    block: &[u8],
    index_block: bool,
) -> Result<()> {
    let lay = src.lay();
    let mut end = 0;
    for e in iter(lay, block) {
        end = e.off + e.rec_len;
        if e.rec_len % 4 != 0 {
            return Err(src.corrupt("directory record length not a multiple of 4", dir.ino, nr));
        }
        let tail = e.file_type == TAIL && e.ino == 0;
        let inside = e.ino <= lay.inodes_count();
        if !inside || (e.ino != 0 && !tail && (e.name.is_empty() || e.name.contains(&b'/'))) {
            return Err(src.corrupt("directory entry", dir.ino, nr));
        }
    }
    if end != block.len() && !index_block {
        return Err(src.corrupt("directory entries do not fill the block", dir.ino, nr));
    }
    Ok(())
}

/// Finds a name in a chain; returns offset and inode.
pub(crate) fn search(lay: &Layout, area: &[u8], name: &[u8]) -> Option<(usize, u32)> {
    iter(lay, area).find(|e| e.ino != 0 && e.name == name).map(|e| (e.off, e.ino))
}

fn tail_at(block: &[u8]) -> Option<usize> {
    let at = block.len().checked_sub(12)?;
    (rd32(block, at) == 0
        && rd16(block, at + 4) == 12
        && rd8(block, at + 6) == 0
        && rd8(block, at + 7) == TAIL)
        .then_some(at)
}

fn csum(lay: &Layout, dir: &Inode, block: &[u8]) -> u32 {
    crc32c(dir.seed(lay), slice(block, 0, block.len() - 12))
}

/// Checks the checksum at the end of an entry block.
pub(crate) fn verify_csum(src: &dyn MetaRead, dir: &Inode, nr: u64, block: &[u8]) -> Result<()> {
    let lay = src.lay();
    match tail_at(block) {
        Some(at) if rd32(block, at + 8) == csum(lay, dir, block) => Ok(()),
        Some(_) => Err(src.damage(EFSBADCRC, "directory block checksum", dir.ino, nr)),
        None => Err(src.damage(EFSBADCRC, "directory block without checksum", dir.ino, nr)),
    }
}

/// Stores the checksum of a changed entry block.
pub(crate) fn set_csum(lay: &Layout, dir: &Inode, block: &mut [u8]) {
    if lay.metadata_csum() {
        let c = csum(lay, dir, block);
        let at = block.len() - 4;
        wr32(block, at, c);
    }
}

/// Writes one entry.
pub(crate) fn put(
    bs: usize,
    area: &mut [u8],
    off: usize,
    len: usize,
    ino: u32,
    name: &[u8],
    t: u8,
) {
    wr32(area, off, ino);
    wr16(area, off + 4, enc_rec_len(bs, len));
    if let Some(b) = area.get_mut(off + 6) {
        *b = name.len() as u8;
    }
    if let Some(b) = area.get_mut(off + 7) {
        *b = t;
    }
    if let Some(d) = area.get_mut(off + 8..off + 8 + name.len()) {
        d.copy_from_slice(name);
    }
}

/// Makes `block` an empty entry block (one free entry, checksum tail).
pub(crate) fn init_block(lay: &Layout, block: &mut [u8]) {
    let room = block.len() - super::tail_len(lay);
    block.fill(0);
    put(lay.bs(), block, 0, room, 0, b"", 0);
    if room < block.len() {
        init_tail(block);
    }
}

/// Writes the pretended entry that holds the checksum.
pub(crate) fn init_tail(block: &mut [u8]) {
    let at = block.len() - 12;
    if let Some(t) = block.get_mut(at..) {
        t.fill(0);
    }
    wr16(block, at + 4, 12);
    if let Some(b) = block.get_mut(at + 7) {
        *b = TAIL;
    }
}

/// Inserts a name into a chain where a free or half-used entry has room.
/// `room` is the length of the chain. Returns the entry's offset.
pub(crate) fn insert(
    lay: &Layout,
    area: &mut [u8],
    ino: u32,
    name: &[u8],
    file_type: u8,
) -> Option<usize> {
    let want = needed(name.len());
    let slot = iter(lay, area)
        .filter(|e| e.file_type != TAIL || e.ino != 0)
        .map(|e| (e.off, e.rec_len, if e.ino == 0 { 0 } else { needed(e.name.len()) }))
        .find(|&(_, len, used)| len >= used + want)?;
    let (off, len, used) = slot;
    let bs = lay.bs();
    if used == 0 {
        put(bs, area, off, len, ino, name, file_type);
        return Some(off);
    }
    wr16(area, off + 4, enc_rec_len(bs, used));
    put(bs, area, off + used, len - used, ino, name, file_type);
    Some(off + used)
}

/// Removes the entry at `off`, giving its space to the entry before it.
pub(crate) fn remove(lay: &Layout, area: &mut [u8], off: usize) -> bool {
    let mut prev: Option<(usize, usize)> = None;
    let mut hit = None;
    for e in iter(lay, area) {
        if e.off == off {
            hit = Some((e.rec_len, prev));
            break;
        }
        prev = Some((e.off, e.rec_len));
    }
    match hit {
        Some((len, Some((p, plen)))) => {
            wr16(area, p + 4, enc_rec_len(lay.bs(), plen + len));
            if let Some(s) = area.get_mut(off..off + 8) {
                s.fill(0);
            }
            true
        }
        Some((_, None)) => {
            wr32(area, off, 0);
            true
        }
        None => false,
    }
}
