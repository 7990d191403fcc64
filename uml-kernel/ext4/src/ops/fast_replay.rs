//! Applying fast-commit records on mount.
//!
//! Records mostly say what the state was, not what to change, so a crash during
//! replay is answered by replaying all of the journal again. Nothing here goes
//! through the log: the result is written home before the log is emptied.

use std::collections::BTreeSet;

use uml_abi::Result;
use uml_abi::errno::{EINVAL, ENOENT};

use super::blocks::take_extents;
use super::create::drop_subdir;
use crate::bytes::rd32;
use crate::dir::{self, insert, remove};
use crate::error::{EFSCORRUPTED, MountError};
use crate::extent::{self, Extent};
use crate::fs::Ext4;
use crate::inode::{Inode, flags, place};
use crate::journal::checkpoint::write_home;
use crate::journal::fast_commit::Record;
use crate::map;
use crate::meta::MetaRead;
use crate::txn::Txn;

impl Ext4 {
    /// Applies records and writes everything they changed home. `next` is the
    /// first transaction number not yet used.
    pub(crate) fn apply_fast_commits(
        &self,
        records: &[Record],
        next: u32,
    ) -> Result<u32, MountError> {
        {
            let mut st = self.write_state();
            let mut tx = Txn::new(&self.core, &mut st, (self.opts.clock)());
            tx.use_reserved = true;
            let mut seen = BTreeSet::new();
            for r in records {
                apply(&mut tx, r, &mut seen)
                    .map_err(|e| MountError::Journal(format!("fast commit {r:?}: {e}")))?;
            }
            for ino in seen {
                settle(&mut tx, ino)
                    .map_err(|e| MountError::Journal(format!("fast commit, inode {ino}: {e}")))?;
            }
            tx.finish()?;
            st.freed.clear();
            st.busy.clear();
            st.revokes.clear();
            st.running.clear();
            let mut blocks: Vec<_> = st.dirty.iter().map(|(n, b)| (*n, b.clone())).collect();
            if self.mounted_ro.load(std::sync::atomic::Ordering::Acquire) {
                // Stays in memory, like the rest of a read-only replay.
                return Ok(records.len() as u32);
            }
            blocks.sort_unstable_by_key(|(n, _)| *n);
            write_home(&self.core, &blocks)?;
            self.core.store.flush()?;
            st.dirty.clear();
        }
        self.core.cache.clear();
        let mut log = self.lock_log();
        if let Some(j) = &mut log.journal {
            j.prepare(&self.core);
            j.write_super(&*self.core.store, 0, next)?;
            self.core.store.flush()?;
        }
        Ok(records.len() as u32)
    }
}

fn apply(tx: &mut Txn<'_>, r: &Record, seen: &mut BTreeSet<u32>) -> Result<()> {
    match r {
        Record::Inode { ino, raw } => {
            seen.insert(*ino);
            put_raw(tx, *ino, raw)
        }
        Record::AddRange { ino, extent } => {
            seen.insert(*ino);
            add_range(tx, *ino, extent)
        }
        Record::DelRange { ino, lblk, len } => {
            seen.insert(*ino);
            let (from, len) = (u64::from(*lblk), u64::from(*len));
            let mut i = Inode::read(tx, *ino)?;
            drop_range(tx, &mut i, from, from + len)?;
            tx.put_inode(&i)
        }
        Record::Link { parent, ino, name, created } => {
            seen.insert(*parent);
            seen.insert(*ino);
            let mut d = Inode::read(tx, *parent)?;
            let i = Inode::read(tx, *ino)?;
            if !d.is_dir() {
                return Err(EFSCORRUPTED);
            }
            // A new directory's first block is made before its names.
            let bare = i.maps_blocks(tx.lay()) && map::find(tx, &i, 0, 1)?.physical.is_none();
            if *created && i.is_dir() && bare {
                let mut i = i.clone();
                i.size = 0;
                let (_, nr) = insert::append(tx, &mut i)?;
                let mut b = vec![0; tx.lay().bs()];
                insert::init_dots(tx, &mut b, *ino, *parent);
                insert::write_block(tx, &i, nr, &b)?;
                tx.put_inode(&i)?;
            }
            match dir::find(tx, &d, name)? {
                Some(f) if f.ino == *ino => return Ok(()),
                Some(f) => {
                    let t = dir::type_byte(tx.lay(), i.mode);
                    remove::replace(tx, &mut d, f, *ino, t)?;
                    drop_name(tx, f.ino, &mut d)?;
                    seen.insert(f.ino);
                }
                None => {
                    let t = dir::type_byte(tx.lay(), i.mode);
                    insert::add(tx, &mut d, name, *ino, t)?;
                    if i.is_dir() && d.links > 1 {
                        d.links += 1;
                    }
                }
            }
            tx.put_inode(&d)
        }
        Record::Unlink { parent, ino, name } => {
            seen.insert(*parent);
            let mut d = Inode::read(tx, *parent)?;
            match dir::find(tx, &d, name) {
                Ok(Some(f)) if f.ino == *ino => {
                    remove::remove(tx, &mut d, f)?;
                    drop_name(tx, *ino, &mut d)?;
                    seen.insert(*ino);
                    tx.put_inode(&d)
                }
                Ok(_) | Err(ENOENT) => Ok(()),
                Err(e) => Err(e),
            }
        }
    }
}

/// An inode lost a name in `parent`. If it still matters, a later record says
/// how many names it has in the end.
fn drop_name(tx: &mut Txn<'_>, ino: u32, parent: &mut Inode) -> Result<()> {
    let mut i = Inode::read(tx, ino)?;
    if i.mode == 0 || !tx.inode_in_use(ino)? {
        return Ok(());
    }
    if i.is_dir() {
        i.links = 0;
        drop_subdir(parent);
    } else {
        i.links = i.links.saturating_sub(1);
    }
    tx.put_inode(&i)
}

/// Restores an inode's structure; its block tree is what the records of
/// ranges say, so the present one is kept if there is one.
fn put_raw(tx: &mut Txn<'_>, ino: u32, raw: &[u8]) -> Result<()> {
    let size = usize::from(tx.lay().inode_size);
    if ino < tx.lay().first_ino && ino != crate::inode::ROOT_INO {
        return Err(EINVAL);
    }
    let (block, off) = place(tx, ino)?;
    let mut was_used = tx.inode_in_use(ino)?;
    let mut old = if was_used { Some(Inode::read(tx, ino)?) } else { None };
    if old.as_ref().is_some_and(|o| o.generation != rd32(raw, 0x64)) {
        // The number was given to another inode: this one is gone.
        if let Some(o) = old.take() {
            discard(tx, o)?;
        }
        was_used = false;
    }
    let mut full = vec![0u8; size];
    let n = raw.len().min(size);
    full[..n].copy_from_slice(&raw[..n]);
    if let Some(d) = tx.modify(block)?.get_mut(off..off + size) {
        d.copy_from_slice(&full);
    }
    let mut new = Inode::decode_raw(tx.lay(), ino, full);
    if new.has(flags::EXTENTS) && !new.has(flags::INLINE_DATA) {
        match old.filter(|o| o.has(flags::EXTENTS) && o.generation == new.generation) {
            Some(o) => new.block = o.block,
            None => extent::init_root(&mut new),
        }
    }
    if !was_used {
        let dir = new.is_dir();
        tx.claim_inode(ino, dir)?;
    }
    tx.put_inode(&new)
}

/// Frees an inode whose deletion the records only imply.
fn discard(tx: &mut Txn<'_>, mut i: Inode) -> Result<()> {
    if i.has(flags::EXTENTS) && i.maps_blocks(tx.lay()) {
        drop_range(tx, &mut i, 0, 1 << 32)?;
    }
    crate::xattr::release_all(tx, &mut i)?;
    crate::orphan::remove(tx, &mut i)?;
    crate::alloc::inode::free_inode(tx, &mut i)
}

/// Frees what a range was mapped to.
fn drop_range(tx: &mut Txn<'_>, i: &mut Inode, from: u64, to: u64) -> Result<()> {
    let to = to.min(1 << 32);
    if !i.has(flags::EXTENTS) || from >= to {
        return Ok(());
    }
    let (list, _) = take_extents(tx, i, from, to, usize::MAX)?;
    for e in list {
        tx.release_run(e.pblk, e.len.into())?;
    }
    Ok(())
}

fn add_range(tx: &mut Txn<'_>, ino: u32, raw: &[u8; 12]) -> Result<()> {
    let e = Extent::from_disk(raw);
    let mut i = Inode::read(tx, ino)?;
    if !i.has(flags::EXTENTS) || e.len == 0 || e.end() > 1 << 32 {
        return Err(EFSCORRUPTED);
    }
    tx.check_range(ino, e.pblk, e.len.into())?;
    // Blocks that stay where they are must not be freed in between.
    let (old, _) = take_extents(tx, &mut i, e.lblk.into(), e.end(), usize::MAX)?;
    for o in old {
        let offset = u64::from(o.lblk - e.lblk);
        if o.pblk != e.pblk + offset {
            tx.release_run(o.pblk, o.len.into())?;
        }
    }
    tx.claim_run(e.pblk, e.len.into())?;
    map::insert(tx, &mut i, e.lblk.into(), e.pblk, e.len.into(), e.unwritten)?;
    tx.put_inode(&i)
}

/// Brings block counts in line, and deletes inodes that lost their last name.
fn settle(tx: &mut Txn<'_>, ino: u32) -> Result<()> {
    let mut i = Inode::read(tx, ino)?;
    if i.mode == 0 || !tx.inode_in_use(ino)? {
        return Ok(());
    }
    if i.has(flags::EXTENTS) && i.maps_blocks(tx.lay()) {
        let mut blocks = u64::from(i.file_acl != 0);
        let mut nodes = 0;
        extent::walk(
            tx,
            &i,
            &mut |e| {
                blocks += u64::from(e.len);
                Ok(())
            },
            &mut |_| {
                nodes += 1;
                Ok(())
            },
        )?;
        i.sectors = (blocks + nodes) * tx.lay().sectors();
        if i.is_dir() {
            // A directory's size follows from its blocks.
            i.size = blocks.saturating_sub(u64::from(i.file_acl != 0)) << tx.lay().block_bits;
        }
    }
    if i.links == 0 {
        crate::orphan::remove(tx, &mut i)?;
        return crate::orphan::add(tx, &mut i);
    }
    tx.put_inode(&i)
}
