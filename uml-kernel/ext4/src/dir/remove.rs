//! Removing and changing directory entries.

use uml_abi::Result;
use uml_abi::errno::EINVAL;

use super::{Found, Place, entry, inline, insert};
use crate::bytes::wr32;
use crate::inode::Inode;
use crate::meta::MetaRead;
use crate::txn::Txn;

/// Removes an entry found in `dir`; the caller writes the inode.
pub(crate) fn remove(tx: &mut Txn<'_>, dir: &mut Inode, at: Found) -> Result<()> {
    dir.version = dir.version.wrapping_add(1);
    let lay = tx.lay().clone();
    match at.place {
        Place::Block { block, off } => {
            let mut bytes = tx.block(block)?.to_vec();
            if !entry::remove(&lay, &mut bytes, off) {
                return Err(tx.corrupt("directory entry vanished", dir.ino, block));
            }
            insert::write_block(tx, dir, block, &bytes)
        }
        Place::Inline { area, off } => {
            let mut areas = inline::areas(tx, dir)?;
            if !entry::remove(&lay, &mut areas[usize::from(area)], off) {
                return Err(tx.corrupt("inline directory entry vanished", dir.ino, 0));
            }
            inline::store(tx, dir, &areas)
        }
        Place::Implied => Err(EINVAL),
    }
}

/// Points an existing entry at another inode; the caller writes `dir`.
pub(crate) fn replace(
    tx: &mut Txn<'_>,
    dir: &mut Inode,
    at: Found,
    ino: u32,
    file_type: u8,
) -> Result<()> {
    dir.version = dir.version.wrapping_add(1);
    let lay = tx.lay().clone();
    let put = |b: &mut [u8], off: usize| {
        wr32(b, off, ino);
        if let Some(t) = b.get_mut(off + 7) {
            *t = file_type;
        }
    };
    match at.place {
        Place::Block { block, off } => {
            let first = super::block_of(tx, dir, 0)?;
            let indexed = dir.has(crate::inode::flags::INDEX) && block == first;
            let b = tx.modify(block)?;
            put(b, off);
            if indexed {
                super::htree::set_csum(&lay, dir, b, super::htree::ROOT_ENTRIES);
            } else {
                entry::set_csum(&lay, dir, b);
            }
            Ok(())
        }
        Place::Inline { area, off } => {
            let mut areas = inline::areas(tx, dir)?;
            put(&mut areas[usize::from(area)], off);
            inline::store(tx, dir, &areas)
        }
        // `..` of an inline directory is the word before the entries.
        Place::Implied => {
            wr32(&mut dir.block, 0, ino);
            Ok(())
        }
    }
}
