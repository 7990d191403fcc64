//! From a file's logical blocks to blocks of the device, either format.

use uml_abi::Result;
use uml_abi::errno::EFBIG;

use crate::inode::{Inode, flags};
use crate::meta::MetaRead;
use crate::txn::Txn;
use crate::{blockmap, extent};

/// A run of logical blocks with one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First logical block.
    pub logical: u64,
    /// Length in blocks, at least 1.
    pub len: u64,
    /// First block on the device; `None` for a hole.
    pub physical: Option<u64>,
    /// Allocated by fallocate(2) but not written: reads as zeros.
    pub unwritten: bool,
}

impl Mapping {
    /// True when the blocks hold data (neither hole nor unwritten).
    pub fn is_data(&self) -> bool {
        self.physical.is_some() && !self.unwritten
    }
}

/// Maps at most `max` blocks from `lblk`.
pub(crate) fn find(src: &dyn MetaRead, inode: &Inode, lblk: u64, max: u64) -> Result<Mapping> {
    let max = max.max(1);
    if !inode.maps_blocks(src.lay()) {
        return Ok(Mapping { logical: lblk, len: max, physical: None, unwritten: false });
    }
    if inode.has(flags::EXTENTS) {
        if lblk >= 1 << 32 {
            return Err(EFBIG);
        }
        extent::find(src, inode, lblk, max)
    } else {
        blockmap::find(src, inode, lblk, max)
    }
}

/// Maps `len` blocks from `lblk`, which must be a hole, to `pblk`. The caller
/// has allocated and accounted them, and writes the inode.
pub(crate) fn insert(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    lblk: u64,
    pblk: u64,
    len: u64,
    unwritten: bool,
) -> Result<()> {
    if !inode.has(flags::EXTENTS) {
        for i in 0..len {
            blockmap::set(tx, inode, lblk + i, pblk + i)?;
        }
        return Ok(());
    }
    let max = u64::from(if unwritten { extent::MAX_UNWRITTEN } else { extent::MAX_LEN });
    let mut at = 0;
    while at < len {
        let n = max.min(len - at);
        let e = extent::Extent {
            lblk: u32::try_from(lblk + at).map_err(|_| EFBIG)?,
            len: n as u32,
            pblk: pblk + at,
            unwritten,
        };
        extent::edit_tree(tx, inode, lblk + at, lblk + at, pblk, &mut |mut list| {
            list.push(e);
            list
        })?;
        at += n;
    }
    Ok(())
}

/// Number of blocks a file of this format can have.
pub(crate) fn max_blocks(src: &dyn MetaRead, inode: &Inode) -> u64 {
    if inode.has(flags::EXTENTS) {
        src.lay().max_extent_blocks()
    } else {
        blockmap::max_blocks(src.lay())
    }
}
