//! Adding names to directories.

use uml_abi::Result;
use uml_abi::errno::{EFBIG, ENOSPC};

use super::{dir_blocks, entry, hash, htree, inline, read_block, split};
use crate::bytes::rd32;
use crate::features::compat;
use crate::inode::{Inode, flags};
use crate::map;
use crate::meta::MetaRead;
use crate::txn::Txn;

/// Most blocks of a directory whose index holds 28-bit block numbers.
const MAX_BLOCKS: u64 = 1 << 28;

/// Adds `name` for inode `ino`. The caller has checked that the name is valid
/// and absent, and writes the directory's inode afterwards.
pub(crate) fn add(
    tx: &mut Txn<'_>,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    file_type: u8,
) -> Result<()> {
    dir.version = dir.version.wrapping_add(1);
    if dir.has(flags::INLINE_DATA) {
        if add_inline(tx, dir, name, ino, file_type)? {
            return Ok(());
        }
        to_block(tx, dir)?;
    }
    let lay = tx.lay().clone();
    let can_index = lay.features.compat(compat::DIR_INDEX);
    if dir.has(flags::INDEX) && can_index {
        return add_indexed(tx, dir, name, ino, file_type);
    }
    let count = dir_blocks(&lay, dir);
    for n in 0..count {
        let (nr, buf) = read_block(tx, dir, n)?;
        let mut bytes = buf.to_vec();
        if entry::insert(&lay, &mut bytes, ino, name, file_type).is_some() {
            return write_block(tx, dir, nr, &bytes);
        }
    }
    if count == 1 && can_index && hash::effective(&lay, lay.def_hash).is_some() {
        split::make_indexed(tx, dir)?;
        return add_indexed(tx, dir, name, ino, file_type);
    }
    // An index would not cover the new block.
    dir.flags &= !flags::INDEX;
    let (_, nr) = append(tx, dir)?;
    let mut bytes = vec![0; lay.bs()];
    entry::init_block(&lay, &mut bytes);
    entry::insert(&lay, &mut bytes, ino, name, file_type).ok_or(ENOSPC)?;
    write_block(tx, dir, nr, &bytes)
}

/// Stores an entry block with its checksum.
pub(crate) fn write_block(tx: &mut Txn<'_>, dir: &Inode, nr: u64, bytes: &[u8]) -> Result<()> {
    let lay = tx.lay().clone();
    let b = tx.modify(nr)?;
    b.copy_from_slice(bytes);
    entry::set_csum(&lay, dir, b);
    Ok(())
}

/// Gives a directory one more block; returns its logical and device number.
pub(crate) fn append(tx: &mut Txn<'_>, dir: &mut Inode) -> Result<(u64, u64)> {
    let lay = tx.lay().clone();
    let n = dir_blocks(&lay, dir);
    if n >= MAX_BLOCKS {
        return Err(EFBIG);
    }
    let goal = match n.checked_sub(1) {
        Some(last) => super::block_of(tx, dir, last)? + 1,
        None => tx.goal_for(dir),
    };
    let nr = tx.alloc_meta(dir, goal)?;
    tx.create(nr);
    map::insert(tx, dir, n, nr, 1, false)?;
    dir.size = (n + 1) << lay.block_bits;
    Ok((n, nr))
}

fn add_inline(
    tx: &mut Txn<'_>,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    file_type: u8,
) -> Result<bool> {
    let lay = tx.lay().clone();
    let mut areas = inline::areas(tx, dir)?;
    for i in 0..2 {
        if entry::insert(&lay, &mut areas[i], ino, name, file_type).is_some() {
            inline::store(tx, dir, &areas)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Turns an inline directory into one with a block.
fn to_block(tx: &mut Txn<'_>, dir: &mut Inode) -> Result<()> {
    let lay = tx.lay().clone();
    let areas = inline::areas(tx, dir)?;
    let parent = rd32(&dir.block, 0);
    crate::ops::blocks::drop_inline(tx, dir)?;
    dir.size = 0;
    let (_, nr) = append(tx, dir)?;
    let mut bytes = vec![0; lay.bs()];
    init_dots(tx, &mut bytes, dir.ino, parent);
    for e in areas.iter().flat_map(|a| entry::iter(&lay, a)).filter(|e| e.ino != 0) {
        entry::insert(&lay, &mut bytes, e.ino, e.name, e.file_type).ok_or(ENOSPC)?;
    }
    write_block(tx, dir, nr, &bytes)
}

/// Fills a first directory block: `.`, `..` and the checksum's place.
pub(crate) fn init_dots(tx: &Txn<'_>, bytes: &mut [u8], ino: u32, parent: u32) {
    let lay = tx.lay();
    let t = super::type_byte(lay, crate::inode::S_IFDIR);
    let room = bytes.len() - super::tail_len(lay);
    bytes.fill(0);
    entry::put(lay.bs(), bytes, 0, 12, ino, b".", t);
    entry::put(lay.bs(), bytes, 12, room - 12, parent, b"..", t);
    if room < bytes.len() {
        entry::init_tail(bytes);
    }
}

fn add_indexed(
    tx: &mut Txn<'_>,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    file_type: u8,
) -> Result<()> {
    let lay = tx.lay().clone();
    // Every turn but the last makes room in the index or splits the leaf.
    for _ in 0..8 {
        let Some((root, frame)) = htree::read_root(tx, dir)? else {
            return Err(tx.corrupt("directory index of unknown kind", dir.ino, 0));
        };
        let Some(h) = hash::hash(&lay, root.version, name) else {
            return Err(tx.corrupt("directory index hash version", dir.ino, 0));
        };
        let mut path = htree::descend(tx, dir, root, frame, h.major)?;
        // With colliding hashes any leaf of the group will do.
        loop {
            let leaf = htree::leaf_of(tx, dir, &path)?;
            let (nr, buf) = read_block(tx, dir, leaf)?;
            let mut bytes = buf.to_vec();
            if entry::insert(&lay, &mut bytes, ino, name, file_type).is_some() {
                return write_block(tx, dir, nr, &bytes);
            }
            let mut next = path.clone();
            match htree::advance(tx, dir, &mut next)? {
                Some(start) if start & 1 != 0 && start & !1 == h.major => path = next,
                _ => break,
            }
        }
        if split::make_room(tx, dir, root, &path)? {
            continue;
        }
        split::split_leaf(tx, dir, root, &path)?;
    }
    Err(ENOSPC)
}
