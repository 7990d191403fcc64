//! Extent trees: the root is in `i_block`, other nodes fill a block each.

mod edit;
mod read;

pub(crate) use edit::{edit_tree, init_root};
pub(crate) use read::{find, walk};

use uml_abi::Result;

use crate::bytes::{rd16, rd32, wr16, wr32};
use crate::cache::{Buf, Checked};
use crate::crc::crc32c;
use crate::error::EFSBADCRC;
use crate::inode::Inode;
use crate::layout::Layout;
use crate::meta::MetaRead;

const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;
/// Deepest tree the format allows.
const MAX_DEPTH: u16 = 5;
/// Longest written extent, in blocks.
pub(crate) const MAX_LEN: u32 = 1 << 15;
/// Longest unwritten extent, in blocks.
pub(crate) const MAX_UNWRITTEN: u32 = (1 << 15) - 1;

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) lblk: u32,
    pub(crate) len: u32,
    pub(crate) pblk: u64,
    pub(crate) unwritten: bool,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.lblk) + u64::from(self.len)
    }

    fn parse(b: &[u8]) -> Extent {
        let raw = u32::from(rd16(b, 4));
        let unwritten = raw > MAX_LEN;
        Extent {
            lblk: rd32(b, 0),
            len: if unwritten { raw - MAX_LEN } else { raw },
            pblk: u64::from(rd16(b, 6)) << 32 | u64::from(rd32(b, 8)),
            unwritten,
        }
    }

    /// Decodes the 12 bytes of the on-disk form.
    pub(crate) fn from_disk(raw: &[u8; 12]) -> Extent {
        Extent::parse(raw)
    }

    fn emit(&self, b: &mut [u8]) {
        wr32(b, 0, self.lblk);
        wr16(b, 4, (self.len + if self.unwritten { MAX_LEN } else { 0 }) as u16);
        wr16(b, 6, (self.pblk >> 32) as u16);
        wr32(b, 8, self.pblk as u32);
    }

    /// The part of this extent inside `lo..hi` (logical blocks).
    pub(crate) fn clip(&self, lo: u64, hi: u64) -> Option<Extent> {
        let s = u64::from(self.lblk).max(lo);
        let e = self.end().min(hi);
        (s < e).then(|| Extent {
            lblk: s as u32,
            len: (e - s) as u32,
            pblk: self.pblk + (s - u64::from(self.lblk)),
            unwritten: self.unwritten,
        })
    }
}

/// An index entry: first logical block below it, and the child's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) lblk: u32,
    pub(crate) child: u64,
}

impl Index {
    fn parse(b: &[u8]) -> Index {
        Index { lblk: rd32(b, 0), child: u64::from(rd16(b, 8)) << 32 | u64::from(rd32(b, 4)) }
    }

    fn emit(&self, b: &mut [u8]) {
        wr32(b, 0, self.lblk);
        wr32(b, 4, self.child as u32);
        wr16(b, 8, (self.child >> 32) as u16);
        wr16(b, 10, 0);
    }
}

/// A checked tree node's header.
struct Header {
    entries: usize,
    depth: u16,
}

fn entry(node: &[u8], i: usize) -> &[u8] {
    node.get(HEADER + i * ENTRY..HEADER + (i + 1) * ENTRY).unwrap_or(&[])
}

/// Entries a whole block holds.
fn block_capacity(lay: &Layout) -> usize {
    (lay.bs() - HEADER) / ENTRY
}

/// Checks a node completely: header, order, lengths, block ranges.
fn check_node(
    src: &dyn MetaRead,
    inode: &Inode,
    node: &[u8],
    at: u64,
    depth: Option<u16>,
) -> Result<Header> {
    let bad = |what| Err(src.corrupt(what, inode.ino, at));
    if rd16(node, 0) != MAGIC {
        return bad("extent node magic");
    }
    let (entries, max, d) = (usize::from(rd16(node, 2)), usize::from(rd16(node, 4)), rd16(node, 6));
    let room = (node.len() - HEADER) / ENTRY;
    if max > room || entries > max || max == 0 {
        return bad("extent node entry count");
    }
    if d > MAX_DEPTH || depth.is_some_and(|want| want != d) {
        return bad("extent node depth");
    }
    if entries == 0 && d > 0 {
        return bad("empty extent index node");
    }
    let mut next = 0u64;
    for i in 0..entries {
        let b = entry(node, i);
        if d == 0 {
            let e = Extent::parse(b);
            if e.len == 0 || u64::from(e.lblk) < next || e.end() > 1 << 32 {
                return bad("extent out of order");
            }
            src.check_range(inode.ino, e.pblk, e.len.into())?;
            next = e.end();
        } else {
            let x = Index::parse(b);
            if u64::from(x.lblk) < next {
                return bad("extent index out of order");
            }
            src.check_range(inode.ino, x.child, 1)?;
            next = u64::from(x.lblk) + 1;
        }
    }
    Ok(Header { entries, depth: d })
}

/// Byte offset of the checksum in a node that fills a block.
fn tail_offset(node: &[u8]) -> usize {
    HEADER + ENTRY * usize::from(rd16(node, 4))
}

fn node_csum(lay: &Layout, inode: &Inode, node: &[u8]) -> u32 {
    crc32c(inode.seed(lay), node.get(..tail_offset(node)).unwrap_or(node))
}

/// Reads a node block and checks it unless that was done before.
fn read_block_node(src: &dyn MetaRead, inode: &Inode, at: u64, depth: u16) -> Result<Buf> {
    let buf = src.block(at)?;
    if !buf.is_checked(Checked::Extent) {
        let lay = src.lay();
        if lay.metadata_csum()
            && (tail_offset(&buf) + 4 > buf.len()
                || rd32(&buf, tail_offset(&buf)) != node_csum(lay, inode, &buf))
        {
            return Err(src.damage(EFSBADCRC, "extent node checksum", inode.ino, at));
        }
        check_node(src, inode, &buf, at, Some(depth))?;
        buf.set_checked(Checked::Extent);
    } else if rd16(&buf, 6) != depth || rd16(&buf, 0) != MAGIC {
        return Err(src.corrupt("extent node depth", inode.ino, at));
    }
    Ok(buf)
}
