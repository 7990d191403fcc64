//! Growing htree indexes: the first index, splitting leaves and index blocks.

use uml_abi::Result;
use uml_abi::errno::ENOSPC;

use super::htree::{self, Frame, NODE_ENTRIES, ROOT_ENTRIES, Root};
use super::insert::{append, init_dots, write_block};
use super::{entry, hash, read_block};
use crate::bytes::{rd32, wr16};
use crate::inode::{Inode, flags};
use crate::meta::MetaRead;
use crate::txn::Txn;

/// An entry taken out of a leaf.
struct Item {
    hash: hash::Hash,
    ino: u32,
    file_type: u8,
    name: Vec<u8>,
}

/// Gives a one-block directory an index: its names move to a new leaf.
pub(crate) fn make_indexed(tx: &mut Txn<'_>, dir: &mut Inode) -> Result<()> {
    let lay = tx.lay().clone();
    let (nr, buf) = read_block(tx, dir, 0)?;
    let Some((_, parent)) = entry::search(&lay, &buf, b"..") else {
        return Err(tx.corrupt("directory without ..", dir.ino, nr));
    };
    let (leaf, leaf_nr) = append(tx, dir)?;
    let mut bytes = vec![0; lay.bs()];
    entry::init_block(&lay, &mut bytes);
    for e in entry::iter(&lay, &buf) {
        if e.ino != 0 && e.file_type != entry::TAIL && !matches!(e.name, b"." | b"..") {
            entry::insert(&lay, &mut bytes, e.ino, e.name, e.file_type).ok_or(ENOSPC)?;
        }
    }
    write_block(tx, dir, leaf_nr, &bytes)?;
    let mut root = vec![0; lay.bs()];
    init_dots(tx, &mut root, dir.ino, parent);
    root[24..].fill(0);
    let rest = entry::enc_rec_len(lay.bs(), lay.bs() - 12);
    wr16(&mut root, 16, rest);
    root[0x1c] = if lay.def_hash <= hash::TEA { lay.def_hash } else { hash::HALF_MD4 };
    root[0x1d] = 8;
    htree::put_entries(&lay, &mut root, ROOT_ENTRIES, &[(0, leaf)]);
    htree::set_csum(&lay, dir, &mut root, ROOT_ENTRIES);
    tx.modify(nr)?.copy_from_slice(&root);
    dir.flags |= flags::INDEX;
    Ok(())
}

fn entries(f: &Frame) -> Vec<(u32, u64)> {
    (0..f.count).map(|i| (f.hash_at(i), f.child_at(i))).collect()
}

/// Writes a changed list of entries into an index block.
fn rewrite(tx: &mut Txn<'_>, dir: &Inode, f: &Frame, list: &[(u32, u64)]) -> Result<()> {
    let lay = tx.lay().clone();
    let b = tx.modify(f.block)?;
    htree::put_entries(&lay, b, f.base, list);
    htree::set_csum(&lay, dir, b, f.base);
    Ok(())
}

/// Writes a new index block.
fn new_node(tx: &mut Txn<'_>, dir: &mut Inode, list: &[(u32, u64)]) -> Result<u64> {
    let lay = tx.lay().clone();
    let (n, nr) = append(tx, dir)?;
    let mut b = vec![0; lay.bs()];
    wr16(&mut b, 4, entry::enc_rec_len(lay.bs(), lay.bs()));
    htree::put_entries(&lay, &mut b, NODE_ENTRIES, list);
    htree::set_csum(&lay, dir, &mut b, NODE_ENTRIES);
    tx.modify(nr)?.copy_from_slice(&b);
    Ok(n)
}

/// Makes sure the index block above the leaf has a free entry. Returns true
/// when the index changed, so that paths must be looked up again. `ENOSPC`
/// when the index is as large as the format allows.
pub(crate) fn make_room(
    tx: &mut Txn<'_>,
    dir: &mut Inode,
    root: Root,
    path: &[Frame],
) -> Result<bool> {
    let full = |f: &&Frame| f.count >= f.limit;
    let Some(bottom) = path.last() else { return Err(ENOSPC) };
    if !full(&bottom) {
        return Ok(false);
    }
    // The highest full block whose parent has room is split first.
    let at = path.iter().rposition(|f| f.count < f.limit).map_or(0, |i| i + 1);
    let f = &path[at];
    if at == 0 {
        if root.levels >= htree::max_levels(tx.lay()) {
            return Err(ENOSPC);
        }
        // All of the root moves one level down.
        let list = entries(f);
        let child = new_node(tx, dir, &list)?;
        let b = tx.modify(f.block)?;
        b[0x1e] = root.levels + 1;
        rewrite(tx, dir, f, &[(0, child)])?;
        return Ok(true);
    }
    let mut list = entries(f);
    let upper = list.split_off(f.count / 2);
    let start = upper.first().map_or(0, |e| e.0);
    let child = new_node(tx, dir, &upper)?;
    rewrite(tx, dir, f, &list)?;
    let parent = &path[at - 1];
    let mut above = entries(parent);
    above.insert(parent.at + 1, (start, child));
    rewrite(tx, dir, parent, &above)?;
    Ok(true)
}

/// Splits the leaf at the end of `path` in two; the index block above has
/// room.
pub(crate) fn split_leaf(
    tx: &mut Txn<'_>,
    dir: &mut Inode,
    root: Root,
    path: &[Frame],
) -> Result<()> {
    let lay = tx.lay().clone();
    let Some(parent) = path.last() else { return Err(ENOSPC) };
    let leaf = htree::leaf_of(tx, dir, path)?;
    let (nr, buf) = read_block(tx, dir, leaf)?;
    let mut items = Vec::new();
    for e in entry::iter(&lay, &buf) {
        if e.ino == 0 || e.file_type == entry::TAIL {
            continue;
        }
        let Some(hash) = hash::hash(&lay, root.version, e.name) else {
            return Err(tx.corrupt("directory index hash version", dir.ino, nr));
        };
        items.push(Item { hash, ino: e.ino, file_type: e.file_type, name: e.name.to_vec() });
    }
    if items.len() < 2 {
        return Err(tx.corrupt("directory leaf full with one name", dir.ino, nr));
    }
    items.sort_by_key(|i| i.hash);
    // Half of the bytes move.
    let mut moved = 0;
    let mut cut = items.len();
    for (i, item) in items.iter().enumerate().rev() {
        let n = entry::needed(item.name.len());
        if moved + n / 2 > lay.bs() / 2 {
            break;
        }
        moved += n;
        cut = i;
    }
    let cut = cut.clamp(1, items.len() - 1);
    let upper = items.split_off(cut);
    let start = upper.first().map_or(0, |i| i.hash.major);
    let last = items.last().map_or(0, |i| i.hash.major);
    // The lowest bit says that a hash continues from the leaf before.
    let key = start | u32::from(start == last);
    let (n, new_nr) = append(tx, dir)?;
    for (block, list) in [(nr, &items), (new_nr, &upper)] {
        let mut b = vec![0; lay.bs()];
        entry::init_block(&lay, &mut b);
        for i in list {
            entry::insert(&lay, &mut b, i.ino, &i.name, i.file_type).ok_or(ENOSPC)?;
        }
        write_block(tx, dir, block, &b)?;
    }
    let mut above = entries(parent);
    above.insert(parent.at + 1, (key, n));
    debug_assert!(rd32(&parent.buf, 0) == rd32(&tx.block(parent.block)?, 0));
    rewrite(tx, dir, parent, &above)
}
