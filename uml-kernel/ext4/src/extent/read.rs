//! Looking up blocks in an extent tree.

use uml_abi::Result;

use super::{Extent, Header, Index, check_node, entry, read_block_node};
use crate::bytes::rd16;
use crate::inode::Inode;
use crate::map::Mapping;
use crate::meta::MetaRead;

/// Last entry whose first logical block is `<= lblk`.
fn search(node: &[u8], entries: usize, lblk: u64) -> Option<usize> {
    let key = |i: usize| u64::from(crate::bytes::rd32(entry(node, i), 0));
    let (mut lo, mut hi) = (0, entries);
    while lo < hi {
        let mid = (lo + hi) / 2;
        if key(mid) <= lblk { lo = mid + 1 } else { hi = mid }
    }
    lo.checked_sub(1)
}

/// Maps `lblk`, at most `max` blocks: one extent's part or a hole's.
pub(crate) fn find(src: &dyn MetaRead, inode: &Inode, lblk: u64, max: u64) -> Result<Mapping> {
    let hdr = check_node(src, inode, &inode.block, 0, None)?;
    // First logical block known to lie right of the hole we may end in.
    let mut bound = 1u64 << 32;
    let mut buf;
    let mut node: &[u8] = &inode.block;
    let (mut entries, mut depth) = (hdr.entries, hdr.depth);
    while depth > 0 {
        let i = search(node, entries, lblk);
        let next = i.map_or(0, |i| i + 1);
        if next < entries {
            bound = bound.min(u64::from(Index::parse(entry(node, next)).lblk));
        }
        let Some(i) = i else { return Ok(hole(lblk, bound, max)) };
        let child = Index::parse(entry(node, i)).child;
        depth -= 1;
        buf = read_block_node(src, inode, child, depth)?;
        node = &buf;
        entries = usize::from(rd16(node, 2));
    }
    let i = search(node, entries, lblk);
    let next = i.map_or(0, |i| i + 1);
    if next < entries {
        bound = bound.min(u64::from(Extent::parse(entry(node, next)).lblk));
    }
    if let Some(e) = i.map(|i| Extent::parse(entry(node, i))) {
        if let Some(part) = e.clip(lblk, lblk.saturating_add(max)) {
            return Ok(Mapping {
                logical: lblk,
                len: part.len.into(),
                physical: Some(part.pblk),
                unwritten: part.unwritten,
            });
        }
    }
    Ok(hole(lblk, bound, max))
}

fn hole(lblk: u64, bound: u64, max: u64) -> Mapping {
    let len = bound.saturating_sub(lblk).clamp(1, max.max(1));
    Mapping { logical: lblk, len, physical: None, unwritten: false }
}

/// Calls `leaf` for every extent and `node` for every tree block, in order.
pub(crate) fn walk(
    src: &dyn MetaRead,
    inode: &Inode,
    leaf: &mut dyn FnMut(Extent) -> Result<()>,
    node: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let Header { entries, depth } = check_node(src, inode, &inode.block, 0, None)?;
    walk_node(src, inode, &inode.block, entries, depth, leaf, node)
}

fn walk_node(
    src: &dyn MetaRead,
    inode: &Inode,
    bytes: &[u8],
    entries: usize,
    depth: u16,
    leaf: &mut dyn FnMut(Extent) -> Result<()>,
    node: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    for i in 0..entries {
        if depth == 0 {
            leaf(Extent::parse(entry(bytes, i)))?;
        } else {
            let child = Index::parse(entry(bytes, i)).child;
            node(child)?;
            let buf = read_block_node(src, inode, child, depth - 1)?;
            walk_node(src, inode, &buf, usize::from(rd16(&buf, 2)), depth - 1, leaf, node)?;
        }
    }
    Ok(())
}
