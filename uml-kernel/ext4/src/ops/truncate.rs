//! Changing sizes and attributes.

use uml_abi::Result;
use uml_abi::errno::{EFBIG, EINVAL, EISDIR, EOPNOTSUPP};

use super::blocks::{extent_budget, free_range};
use super::write::{leave_inline, store_inline, zero_bytes};
use crate::features::ro_compat;
use crate::fs::Ext4;
use crate::inode::{Inode, S_IFMT, Timestamp, flags};
use crate::meta::MetaRead;
use crate::txn::Txn;
use crate::{inline, map, orphan};

/// Attributes to change; `None` leaves one as it is. The change time is set
/// to the filesystem's clock unless given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (the type cannot change).
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of contents.
    pub mtime: Option<Timestamp>,
    /// Last change of the inode.
    pub ctime: Option<Timestamp>,
    /// `FS_IOC_SETFLAGS` flags; only those chattr(1) may change count.
    pub flags: Option<u32>,
    /// Project identifier; `EOPNOTSUPP` without the `project` feature.
    pub projid: Option<u32>,
}

impl Ext4 {
    /// Changes attributes (chmod, chown, utimensat, chattr).
    pub fn setattr(&self, ino: u32, set: &SetAttr) -> Result<()> {
        self.transact(true, |tx| {
            let mut i = Inode::live(tx, ino)?;
            let times_only =
                SetAttr { atime: None, mtime: None, ctime: None, ..*set } == SetAttr::default();
            if let Some(m) = set.mode {
                i.mode = i.mode & S_IFMT | m & !S_IFMT;
            }
            i.uid = set.uid.unwrap_or(i.uid);
            i.gid = set.gid.unwrap_or(i.gid);
            i.atime = set.atime.unwrap_or(i.atime);
            i.mtime = set.mtime.unwrap_or(i.mtime);
            let only_atime = times_only && set.mtime.is_none();
            i.ctime = set.ctime.unwrap_or(if only_atime { i.ctime } else { tx.now });
            if let Some(f) = set.flags {
                i.flags = i.flags & !flags::USER_MODIFIABLE | f & flags::USER_MODIFIABLE;
            }
            if let Some(p) = set.projid {
                let room = i.raw.len() >= 0xa0 && 128 + usize::from(i.extra_isize) >= 0xa0;
                if !tx.lay().features.ro_compat(ro_compat::PROJECT) || !room {
                    return Err(EOPNOTSUPP);
                }
                i.projid = p;
            }
            if times_only { tx.put_inode_times(&i) } else { tx.put_inode(&i) }
        })
    }

    /// Sets or clears the attribute `j` (chattr(1)): whether the file's contents
    /// go through the journal. Nothing happens without a journal, as on Linux.
    pub fn set_data_journaling(&self, ino: u32, on: bool) -> Result<()> {
        if self.core.lay.journal_inum == 0 {
            return Ok(());
        }
        let _data = self.inode_lock(ino).write().unwrap_or_else(|e| e.into_inner());
        if !on {
            // What is written in place from now on must not be overwritten by a replay of what the log holds.
            self.checkpoint()?;
        }
        self.transact(true, |tx| {
            let mut i = Inode::live(tx, ino)?;
            i.flags = i.flags & !flags::JOURNAL_DATA | if on { flags::JOURNAL_DATA } else { 0 };
            i.ctime = tx.now;
            tx.put_inode(&i)
        })
    }

    /// truncate(2): sets the size, freeing blocks past it; new bytes are
    /// zeros. `EISDIR`, `EINVAL`, `EFBIG`.
    pub fn truncate(&self, ino: u32, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(EFBIG);
        }
        let _data = self.inode_lock(ino).write().unwrap_or_else(|e| e.into_inner());
        let budget = self.op_budget();
        let done = self.transact(true, |tx| {
            let mut i = Inode::live(tx, ino)?;
            if i.is_dir() {
                return Err(EISDIR);
            }
            if !i.is_reg() {
                return Err(EINVAL);
            }
            set_size(tx, &mut i, size)?;
            stamp(tx, &mut i);
            free_tail(tx, &mut i, budget, false)
        })?;
        if done { Ok(()) } else { self.truncate_locked(ino) }
    }

    /// Frees what lies past the end of an inode on the orphan list.
    pub(crate) fn truncate_blocks(&self, ino: u32) -> Result<()> {
        let _data = self.inode_lock(ino).write().unwrap_or_else(|e| e.into_inner());
        self.truncate_locked(ino)
    }

    fn truncate_locked(&self, ino: u32) -> Result<()> {
        let budget = self.op_budget();
        loop {
            let done = self.transact(true, |tx| {
                let mut i = Inode::live(tx, ino)?;
                free_tail(tx, &mut i, budget, true)
            })?;
            if done {
                return Ok(());
            }
        }
    }
}

fn stamp(tx: &Txn<'_>, i: &mut Inode) {
    i.mtime = tx.now;
    i.ctime = tx.now;
    i.version = i.version.wrapping_add(1);
}

/// Frees blocks past the end and writes the inode; `listed` says that it is on
/// the orphan list. Returns false when there is more, and then it is.
fn free_tail(tx: &mut Txn<'_>, i: &mut Inode, budget: usize, listed: bool) -> Result<bool> {
    let bits = tx.lay().block_bits;
    let n = extent_budget(budget);
    let first = i.size.div_ceil(1 << bits);
    let done = free_range(tx, i, first, u64::from(u32::MAX) + 1, n)?;
    match (done, listed || i.links == 0) {
        (true, true) if i.links > 0 => {
            orphan::remove(tx, i)?;
            tx.put_inode(i)?;
        }
        (false, false) => orphan::add(tx, i)?,
        _ => tx.put_inode(i)?,
    }
    Ok(done)
}

/// Sets the size and zeroes the rest of the block it ends in.
fn set_size(tx: &mut Txn<'_>, i: &mut Inode, size: u64) -> Result<()> {
    if i.has(flags::INLINE_DATA) {
        if size <= i.size {
            let mut all = inline::contents(tx, i)?;
            all.truncate(size as usize);
            return store_inline(tx, i, &all);
        }
        leave_inline(tx, i)?;
    }
    let bits = tx.lay().block_bits;
    if size.div_ceil(1 << bits) > map::max_blocks(tx, i) {
        return Err(EFBIG);
    }
    let edge = size.min(i.size);
    if edge & ((1 << bits) - 1) != 0 && size != i.size {
        zero_bytes(tx, i, edge, ((edge >> bits) + 1) << bits)?;
    }
    i.size = size;
    Ok(())
}
