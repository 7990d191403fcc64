//! Removing names, and deleting inodes that have none.

use uml_abi::Result;
use uml_abi::errno::{EBUSY, EINVAL, EISDIR, ENOTDIR, ENOTEMPTY, EROFS};

use super::blocks::{extent_budget, free_range};
use super::create::{drop_subdir, stamp, target_dir};
use crate::alloc::inode::free_inode;
use crate::dir::{self, remove};
use crate::fs::Ext4;
use crate::inode::Inode;
use crate::meta::MetaRead;
use crate::{orphan, xattr};

/// What removing a name left of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlinked {
    /// The inode that lost a name.
    pub ino: u32,
    /// Names it still has; at 0 call [`Ext4::forget`] when its last user goes.
    pub links: u32,
}

impl Ext4 {
    /// unlink(2). `EISDIR` for directories.
    pub fn unlink(&self, dir: u32, name: &[u8]) -> Result<Unlinked> {
        self.transact(false, |tx| {
            let mut parent = target_dir(tx, dir)?;
            let at = dir::lookup(tx, &parent, name)?;
            let mut inode =
                if at.ino == dir { return Err(EISDIR) } else { Inode::live(tx, at.ino)? };
            if inode.is_dir() {
                return Err(EISDIR);
            }
            remove::remove(tx, &mut parent, at)?;
            stamp(tx, &mut parent);
            tx.put_inode(&parent)?;
            if inode.links == 0 {
                return Err(tx.corrupt("name of an inode without links", at.ino, 0));
            }
            inode.links -= 1;
            inode.ctime = tx.now;
            if inode.links == 0 {
                orphan::add(tx, &mut inode)?;
            } else {
                tx.put_inode(&inode)?;
            }
            Ok(Unlinked { ino: at.ino, links: inode.links.into() })
        })
    }

    /// rmdir(2). `ENOTEMPTY`, `ENOTDIR`; `EINVAL` for `.`, `ENOTEMPTY` for `..`.
    pub fn rmdir(&self, dir: u32, name: &[u8]) -> Result<Unlinked> {
        match name {
            b"." => return Err(EINVAL),
            b".." => return Err(ENOTEMPTY),
            _ => {}
        }
        self.transact(false, |tx| {
            let mut parent = target_dir(tx, dir)?;
            let at = dir::lookup(tx, &parent, name)?;
            if at.ino == dir {
                return Err(tx.corrupt("directory contains itself", dir, 0));
            }
            let mut inode = Inode::live(tx, at.ino)?;
            if !inode.is_dir() {
                return Err(ENOTDIR);
            }
            if !dir::is_empty(tx, &inode)? {
                return Err(ENOTEMPTY);
            }
            remove::remove(tx, &mut parent, at)?;
            drop_subdir(&mut parent);
            stamp(tx, &mut parent);
            tx.put_inode(&parent)?;
            inode.links = 0;
            inode.ctime = tx.now;
            orphan::add(tx, &mut inode)?;
            Ok(Unlinked { ino: at.ino, links: 0 })
        })
    }

    /// Deletes an inode without names, when its last user has gone. Does
    /// nothing for an inode that has names (again).
    pub fn forget(&self, ino: u32) -> Result<()> {
        if self.core.errors.is_read_only() {
            // The next writable mount finds it on the orphan list.
            return Err(EROFS);
        }
        let _data = self.inode_lock(ino).write().unwrap_or_else(|e| e.into_inner());
        let budget = self.op_budget();
        loop {
            let done = self.transact(true, |tx| {
                let mut inode = Inode::read(tx, ino)?;
                if inode.links != 0 || inode.mode == 0 {
                    return Ok(true);
                }
                if ino < tx.lay().first_ino {
                    return Err(EBUSY);
                }
                let n = extent_budget(budget);
                if !free_range(tx, &mut inode, 0, u64::from(u32::MAX) + 1, n)? {
                    tx.put_inode(&inode)?;
                    return Ok(false);
                }
                xattr::release_all(tx, &mut inode)?;
                orphan::remove(tx, &mut inode)?;
                free_inode(tx, &mut inode)?;
                Ok(true)
            })?;
            if done {
                return Ok(());
            }
        }
    }
}
