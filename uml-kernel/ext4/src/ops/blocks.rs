//! Freeing and converting a file's blocks; shared by truncation, deletion and
//! fallocate.

use uml_abi::Result;

use crate::extent::{self, Extent};
use crate::inode::{Inode, flags};
use crate::meta::MetaRead;
use crate::txn::Txn;
use crate::{blockmap, xattr};

/// Extents freed by one transaction at most; each may touch two groups.
pub(crate) fn extent_budget(op_budget: usize) -> usize {
    (op_budget / 5).clamp(4, 512)
}

/// Unmaps logical blocks `from..to` and frees what they were mapped to, about
/// `budget` pieces of it. Returns true when everything is unmapped. The caller
/// writes the inode.
pub(crate) fn free_range(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    from: u64,
    to: u64,
    budget: usize,
) -> Result<bool> {
    if !inode.maps_blocks(tx.lay()) || from >= to {
        return Ok(true);
    }
    let meta = !inode.is_reg();
    let (runs, done) = if inode.has(flags::EXTENTS) {
        let (list, more) = take_extents(tx, inode, from, to, budget)?;
        (list.iter().map(|e| (e.pblk, u64::from(e.len))).collect(), !more)
    } else {
        let blocks = budget as u64 * 64;
        let (runs, at) = blockmap::clear(tx, inode, from, to, blocks)?;
        (runs, at >= to.min(blockmap::max_blocks(tx.lay())))
    };
    for (start, len) in runs {
        if meta {
            for b in start..start + len {
                tx.free_meta(inode, b)?;
            }
        } else {
            tx.free_data(inode, start, len)?;
        }
    }
    Ok(done)
}

/// Cuts at most `budget` extents out of a tree without freeing their blocks;
/// the flag says whether there are more in the range.
pub(crate) fn take_extents(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    from: u64,
    to: u64,
    budget: usize,
) -> Result<(Vec<Extent>, bool)> {
    let mut out: Vec<Extent> = Vec::new();
    let mut more = false;
    extent::edit_tree(tx, inode, from, to - 1, 0, &mut |list| {
        let mut keep = Vec::with_capacity(list.len() + 1);
        for e in list {
            let Some(mid) = e.clip(from, to) else {
                keep.push(e);
                continue;
            };
            if out.len() >= budget {
                more = true;
                keep.push(e);
                continue;
            }
            keep.extend(e.clip(0, from));
            keep.extend(e.clip(to, u64::MAX));
            out.push(mid);
        }
        keep
    })?;
    Ok((out, more))
}

/// Marks the mapped part of `from..to` as written or unwritten.
pub(crate) fn convert(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    from: u64,
    to: u64,
    unwritten: bool,
) -> Result<()> {
    extent::edit_tree(tx, inode, from, to - 1, 0, &mut |list| {
        let mut out = Vec::with_capacity(list.len() + 2);
        for e in list {
            match e.clip(from, to) {
                Some(mid) if e.unwritten != unwritten => {
                    out.extend(e.clip(0, from));
                    // A full-length written extent is one block too long to
                    // be unwritten.
                    let half = u64::from(mid.lblk) + u64::from(mid.len / 2);
                    if unwritten && mid.len > extent::MAX_UNWRITTEN {
                        out.extend(mid.clip(0, half).map(|x| Extent { unwritten, ..x }));
                        out.extend(mid.clip(half, u64::MAX).map(|x| Extent { unwritten, ..x }));
                    } else {
                        out.push(Extent { unwritten, ..mid });
                    }
                    out.extend(e.clip(to, u64::MAX));
                }
                _ => out.push(e),
            }
        }
        out
    })
}

/// Stops storing data in the inode: the caller has taken the contents and
/// stores them elsewhere.
pub(crate) fn drop_inline(tx: &mut Txn<'_>, inode: &mut Inode) -> Result<()> {
    xattr::set_inline_value(tx, inode, None)?;
    inode.flags &= !flags::INLINE_DATA;
    inode.block = [0; 60];
    if tx.lay().extents() {
        extent::init_root(inode);
    }
    Ok(())
}
