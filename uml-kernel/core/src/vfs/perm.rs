//! Discretionary access control (path_resolution(7), capabilities(7)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use crate::task::{Cap, Cred};
use crate::vfs::mount::{MNT_NODEV, MNT_NOEXEC};
use crate::vfs::{Dentry, Inode, Path, Perm};

/// Access masks, with the bits of access(2).
pub const MAY_EXEC: u32 = libc::X_OK as u32;
pub const MAY_WRITE: u32 = libc::W_OK as u32;
pub const MAY_READ: u32 = libc::R_OK as u32;

/// Bits of [`Inode::restrictions`]: STATX_ATTR_IMMUTABLE and STATX_ATTR_APPEND.
pub const IMMUTABLE: u64 = 0x10;
pub const APPEND_ONLY: u64 = 0x20;

/// `EPERM` for files whose attributes and names nobody may change (chattr(1): immutable, append only).
pub fn check_changeable(inode: &Arc<dyn Inode>) -> Result<()> {
    if inode.restrictions() & (IMMUTABLE | APPEND_ONLY) != 0 { Err(EPERM) } else { Ok(()) }
}

/// Whether `cred` may access an inode with these mode bits; `EACCES` otherwise.
pub fn check_mode(cred: &Cred, p: &Perm, mask: u32) -> Result<()> {
    let bits = if cred.fsuid == p.uid {
        p.mode >> 6
    } else if cred.in_group(p.gid) {
        p.mode >> 3
    } else {
        p.mode
    };
    if mask & 7 & !bits == 0 {
        return Ok(());
    }
    check_capabilities(cred, p, mask)
}

/// Whether capabilities allow an access that mode bits or an ACL refuse; `EACCES` otherwise.
pub fn check_capabilities(cred: &Cred, p: &Perm, mask: u32) -> Result<()> {
    let over = |cap| cred.capable_over(cap, p.uid, p.gid);
    if p.mode & libc::S_IFMT == libc::S_IFDIR {
        if over(Cap::DacOverride) || (mask & MAY_WRITE == 0 && over(Cap::DacReadSearch)) {
            return Ok(());
        }
        return Err(EACCES);
    }
    if mask == MAY_READ && over(Cap::DacReadSearch) {
        return Ok(());
    }
    let executable = p.mode & 0o111 != 0;
    if (mask & MAY_EXEC == 0 || executable) && over(Cap::DacOverride) {
        return Ok(());
    }
    Err(EACCES)
}

/// Whether `cred` may access `inode`, not looking at mounts.
pub fn inode_permission(inode: &Arc<dyn Inode>, cred: &Cred, mask: u32) -> Result<()> {
    if mask & MAY_WRITE != 0 && inode.restrictions() & IMMUTABLE != 0 {
        return Err(EPERM);
    }
    if let Some(r) = inode.permission(cred, mask) {
        return r;
    }
    check_mode(cred, &inode.perm()?, mask)
}

/// Whether `cred` may access the file at `path` in the ways of `mask`.
pub fn path_permission(path: &Path, cred: &Cred, mask: u32) -> Result<()> {
    let inode = path.inode();
    let kind = inode.file_type();
    if mask & MAY_WRITE != 0 && matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK) {
        path.mnt.want_write()?;
    }
    if mask & MAY_EXEC != 0 && kind == libc::S_IFREG && path.mnt.flags() & MNT_NOEXEC != 0 {
        return Err(EACCES);
    }
    inode_permission(inode, cred, mask)
}

/// `EACCES` for device nodes on a nodev mount.
pub fn check_nodev(path: &Path) -> Result<()> {
    match path.inode().file_type() {
        libc::S_IFCHR | libc::S_IFBLK
            if path.mnt.flags() & MNT_NODEV != 0 || path.mnt.instance.forbids_devices() =>
        {
            Err(EACCES)
        }
        _ => Ok(()),
    }
}

/// True when `cred` owns the inode or may act as if it did.
pub fn is_owner(cred: &Cred, p: &Perm) -> bool {
    cred.fsuid == p.uid || cred.capable_over(Cap::Fowner, p.uid, p.gid)
}

/// Whether entries may be added to the directory.
pub fn may_create(dir: &Arc<Dentry>, cred: &Cred) -> Result<()> {
    if dir.is_deleted() {
        return Err(ENOENT);
    }
    inode_permission(&dir.inode, cred, MAY_WRITE | MAY_EXEC)
}

/// Whether `victim` may be removed from `dir` (write permission, sticky bit).
pub fn may_delete(dir: &Arc<Dentry>, victim: &Arc<dyn Inode>, cred: &Cred) -> Result<()> {
    inode_permission(&dir.inode, cred, MAY_WRITE | MAY_EXEC)?;
    if dir.inode.restrictions() & APPEND_ONLY != 0 {
        return Err(EPERM);
    }
    check_changeable(victim)?;
    let d = dir.inode.perm()?;
    if d.mode & libc::S_ISVTX != 0 && d.uid != cred.fsuid {
        let v = victim.perm()?;
        if v.uid != cred.fsuid && !cred.capable_over(Cap::Fowner, v.uid, v.gid) {
            return Err(EPERM);
        }
    }
    Ok(())
}

/// The mode after a write or chown by someone without CAP_FSETID: set-user-ID goes, set-group-ID goes
/// when the file is group-executable (chown(2), write(2)). `None` when nothing changes.
pub fn strip_set_ids(mode: u32) -> Option<u32> {
    let mut m = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        m &= !libc::S_ISGID;
    }
    (m != mode).then_some(m)
}
