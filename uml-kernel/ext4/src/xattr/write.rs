//! Writing extended attributes.

use uml_abi::Result;
use uml_abi::errno::ENOSPC;

use super::{
    Attribute, BLOCK_HEADER, ENTRY, MAGIC, Set, Value, block_refs, entry_hash, index, read,
    set_block_csum,
};
use crate::alloc::inode as ialloc;
use crate::bytes::{rd32, wr16, wr32};
use crate::crc::crc32c;
use crate::extent;
use crate::features::incompat;
use crate::inode::{Inode, S_IFREG, flags};
use crate::map;
use crate::meta::MetaRead;
use crate::txn::Txn;

fn padded(n: usize) -> usize {
    (n + 3) & !3
}

fn entry_len(a: &Attribute) -> usize {
    padded(ENTRY + a.name.len())
}

fn value_len(a: &Attribute) -> usize {
    match &a.value {
        Value::Bytes(v) => padded(v.len()),
        Value::Inode { .. } => 0,
    }
}

fn space(list: &[Attribute]) -> usize {
    // Four zero bytes end the entries.
    list.iter().map(|a| entry_len(a) + value_len(a)).sum::<usize>() + 4
}

/// Lays entries out from `first`, values from the end downwards; value offsets
/// count from `values`. Returns the entries' hashes in order.
fn emit(b: &mut [u8], first: usize, values: usize, list: &[Attribute], hashed: bool) -> Vec<u32> {
    let mut at = first;
    let mut end = b.len();
    let mut hashes = Vec::new();
    for a in list {
        let (off, ino, size, hash) = match &a.value {
            Value::Bytes(v) => {
                let off = if v.is_empty() {
                    values
                } else {
                    end -= padded(v.len());
                    end
                };
                if let Some(d) = b.get_mut(off..off + v.len()) {
                    d.copy_from_slice(v);
                }
                let h = if hashed { entry_hash(&a.name, v) } else { 0 };
                (off - values, 0, v.len() as u32, h)
            }
            Value::Inode { ino, size, hash } => (0, *ino, *size, *hash),
        };
        b[at] = a.name.len() as u8;
        b[at + 1] = a.index;
        wr16(b, at + 2, off as u16);
        wr32(b, at + 4, ino);
        wr32(b, at + 8, size);
        wr32(b, at + 12, hash);
        if let Some(d) = b.get_mut(at + ENTRY..at + ENTRY + a.name.len()) {
            d.copy_from_slice(&a.name);
        }
        hashes.push(hash);
        at += entry_len(a);
    }
    hashes
}

/// Smallest value that is worth an inode.
const MIN_MOVED: usize = 64;

fn is_data(a: &Attribute) -> bool {
    a.index == index::SYSTEM && a.name == b"data"
}

/// Distributes attributes between inode and block; `None` when they do not
/// fit. Inline data must stay in the inode; the others keep their order.
fn pack(
    all: &[Attribute],
    body_room: usize,
    block_room: usize,
) -> Option<(Vec<Attribute>, Vec<Attribute>)> {
    let (mut body, mut block) = (Vec::new(), Vec::new());
    for a in all.iter().filter(|a| is_data(a)).chain(all.iter().filter(|a| !is_data(a))) {
        body.push(a.clone());
        if space(&body) > body_room {
            block.extend(body.pop());
        }
    }
    (!block.iter().any(is_data) && space(&block) <= block_room).then_some((body, block))
}

/// Stores `set` as the inode's attributes, moving entries between inode and
/// block and large values to inodes of their own as needed. `old` is what was
/// stored before. `ENOSPC` when it does not fit. The caller writes the inode.
pub(crate) fn save(tx: &mut Txn<'_>, inode: &mut Inode, old: &Set, set: Set) -> Result<()> {
    let lay = tx.lay().clone();
    let area = inode.xattr_area();
    let body_room = area.as_ref().map_or(0, |r| r.len().saturating_sub(4));
    let block_room = lay.bs() - BLOCK_HEADER;
    let mut all: Vec<Attribute> = set.body.into_iter().chain(set.block).collect();
    // e2fsck tells fast symlinks by their block count, which values in other
    // inodes would change.
    let can_move = lay.features.incompat(incompat::EA_INODE) && !inode.is_symlink();
    let (body, mut block) = loop {
        if let Some(parts) = pack(&all, body_room, block_room) {
            break parts;
        }
        // The largest value moves to an inode of its own until the rest fits.
        let largest = all
            .iter_mut()
            .filter(|a| !is_data(a) && value_len(a) >= MIN_MOVED)
            .max_by_key(|a| value_len(a))
            .filter(|_| can_move);
        let Some(a) = largest else { return Err(ENOSPC) };
        if let Value::Bytes(v) = &a.value {
            let v = v.clone();
            a.value = new_value_inode(tx, inode, &a.name, &v)?;
        }
    };
    if let Some(r) = area {
        let room = &mut inode.raw[r];
        room.fill(0);
        if !body.is_empty() {
            wr32(room, 0, MAGIC);
            emit(room, 4, 4, &body, false);
        }
    }
    // The block's entries are sorted: by name space, length, then bytes.
    block.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
    write_block(tx, inode, &block)?;
    // Values that are gone lose their inodes.
    let kept: Vec<u32> = body.iter().chain(&block).filter_map(value_ino).collect();
    for ino in old.body.iter().chain(&old.block).filter_map(value_ino) {
        if !kept.contains(&ino) {
            put_value_inode(tx, inode, ino)?;
        }
    }
    Ok(())
}

fn value_ino(a: &Attribute) -> Option<u32> {
    match a.value {
        Value::Inode { ino, .. } => Some(ino),
        Value::Bytes(_) => None,
    }
}

fn write_block(tx: &mut Txn<'_>, inode: &mut Inode, list: &[Attribute]) -> Result<()> {
    let lay = tx.lay().clone();
    if list.is_empty() {
        return drop_block(tx, inode);
    }
    let mut img = vec![0u8; lay.bs()];
    wr32(&mut img, 0, MAGIC);
    wr32(&mut img, 4, 1);
    wr32(&mut img, 8, 1);
    let hashes = emit(&mut img, BLOCK_HEADER, 0, list, true);
    let mut h = 0u32;
    for e in hashes {
        if e == 0 {
            h = 0;
            break;
        }
        h = h.rotate_left(16) ^ e;
    }
    wr32(&mut img, 0xc, h);
    // A block shared with other inodes is replaced, not changed.
    let shared = read::block(tx, inode)?.is_some_and(|b| block_refs(&b) > 1);
    if shared {
        drop_block(tx, inode)?;
    }
    if inode.file_acl == 0 {
        let goal = tx.goal_for(inode);
        let nr = tx.alloc_meta(inode, goal)?;
        tx.create(nr);
        inode.file_acl = nr;
    }
    set_block_csum(&lay, inode.file_acl, &mut img);
    tx.modify(inode.file_acl)?.copy_from_slice(&img);
    Ok(())
}

/// Gives up the inode's attribute block.
fn drop_block(tx: &mut Txn<'_>, inode: &mut Inode) -> Result<()> {
    let Some(b) = read::block(tx, inode)? else { return Ok(()) };
    let nr = inode.file_acl;
    let refs = block_refs(&b);
    inode.file_acl = 0;
    if refs > 1 {
        let lay = tx.lay().clone();
        let m = tx.modify(nr)?;
        wr32(m, 4, refs - 1);
        set_block_csum(&lay, nr, m);
        inode.sectors = inode.sectors.saturating_sub(lay.sectors());
        Ok(())
    } else {
        tx.free_meta(inode, nr)
    }
}

/// Frees all attribute storage of an inode that is being deleted.
pub(crate) fn release_all(tx: &mut Txn<'_>, inode: &mut Inode) -> Result<()> {
    if inode.file_acl == 0 && inode.xattr_area().is_none() {
        return Ok(());
    }
    let set = super::load(tx, inode)?;
    for ino in set.body.iter().chain(&set.block).filter_map(value_ino) {
        put_value_inode(tx, inode, ino)?;
    }
    drop_block(tx, inode)
}

/// Creates an inode that holds one value; returns the reference to it.
fn new_value_inode(tx: &mut Txn<'_>, owner: &mut Inode, name: &[u8], v: &[u8]) -> Result<Value> {
    let lay = tx.lay().clone();
    let mut ea = ialloc::new_inode(tx, owner.ino, S_IFREG | 0o600)?;
    ea.uid = owner.uid;
    ea.gid = owner.gid;
    ea.links = 1;
    extent::init_root(&mut ea);
    ea.flags |= flags::EA_INODE;
    ea.size = v.len() as u64;
    let hash = crc32c(lay.csum_seed, v);
    // The value's hash and the reference count live in time and version.
    ea.atime = crate::inode::Timestamp { sec: i64::from(hash as i32), nsec: 0 };
    ea.ctime = crate::inode::Timestamp { sec: 0, nsec: 0 };
    ea.mtime = crate::inode::Timestamp { sec: 0, nsec: 0 };
    ea.version = 1;
    for (n, part) in v.chunks(lay.bs()).enumerate() {
        let goal = tx.goal_for(&ea);
        let nr = tx.alloc_meta(&mut ea, goal)?;
        tx.create(nr)[..part.len()].copy_from_slice(part);
        let e = extent::Extent { lblk: n as u32, len: 1, pblk: nr, unwritten: false };
        extent::edit_tree(tx, &mut ea, n as u64, n as u64, nr, &mut |mut l| {
            l.push(e);
            l
        })?;
    }
    tx.put_inode(&ea)?;
    owner.sectors = owner.sectors.saturating_add(charged(&lay, v.len() as u64));
    let words = entry_hash(name, &hash.to_le_bytes());
    Ok(Value::Inode { ino: ea.ino, size: v.len() as u32, hash: words })
}

/// What an attribute value in another inode adds to its owner's block count.
fn charged(lay: &crate::layout::Layout, size: u64) -> u64 {
    size.div_ceil(u64::from(lay.block_size)) * lay.sectors()
}

/// Drops one reference to a value inode, freeing it with the last.
fn put_value_inode(tx: &mut Txn<'_>, owner: &mut Inode, ino: u32) -> Result<()> {
    let lay = tx.lay().clone();
    let mut ea = Inode::read(tx, ino)?;
    if !ea.has(flags::EA_INODE) {
        return Err(tx.corrupt("attribute value inode", owner.ino, u64::from(ino)));
    }
    owner.sectors = owner.sectors.saturating_sub(charged(&lay, ea.size));
    let lustre = ea.mtime.sec as u32 == owner.ino && ea.generation == owner.generation;
    let refs = (u64::from(ea.ctime.sec as u32) << 32) | u64::from(rd32(&ea.raw, 0x24));
    if refs > 1 && !lustre {
        let left = refs - 1;
        ea.ctime.sec = i64::from((left >> 32) as u32);
        ea.version = left & 0xffff_ffff;
        return tx.put_inode(&ea);
    }
    let blocks = ea.size.div_ceil(u64::from(lay.block_size));
    let mut n = 0;
    while n < blocks {
        let m = map::find(tx, &ea, n, blocks - n)?;
        if let Some(p) = m.physical {
            for b in p..p + m.len {
                tx.free_meta(&mut ea, b)?;
            }
        }
        n += m.len;
    }
    let mut nodes = Vec::new();
    extent::walk(tx, &ea, &mut |_| Ok(()), &mut |b| {
        nodes.push(b);
        Ok(())
    })?;
    for b in nodes {
        tx.free_meta(&mut ea, b)?;
    }
    ea.links = 0;
    ialloc::free_inode(tx, &mut ea)
}

/// Replaces or removes the part of inline data past `i_block`.
pub(crate) fn set_inline_value(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    value: Option<Vec<u8>>,
) -> Result<()> {
    let old = super::load(tx, inode)?;
    let mut set = old.clone();
    set.body.retain(|a| !is_data(a));
    if let Some(v) = value {
        let a = Attribute { index: index::SYSTEM, name: b"data".to_vec(), value: Value::Bytes(v) };
        set.body.insert(0, a);
    }
    save(tx, inode, &old, set)
}

/// Largest value `system.data` could have beside the other attributes.
pub(crate) fn inline_room(tx: &Txn<'_>, inode: &Inode) -> Result<usize> {
    let Some(area) = inode.xattr_area() else { return Ok(0) };
    let set = super::load(tx, inode)?;
    let others: Vec<Attribute> =
        set.body.into_iter().filter(|a| !(a.index == index::SYSTEM && a.name == b"data")).collect();
    let own = padded(ENTRY + 4);
    Ok(area.len().saturating_sub(4 + space(&others) + own) & !3)
}
