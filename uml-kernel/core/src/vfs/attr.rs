//! Attribute changes: chmod(2), chown(2), utimensat(2), truncate(2).

use uml_abi::Result;
use uml_abi::errno::*;

use crate::landlock::{self, fs};
use crate::task::{Cap, Cred, Resource, Task};
use crate::vfs::perm::{
    IMMUTABLE, MAY_WRITE, check_changeable, inode_permission, is_owner, strip_set_ids,
};
use crate::vfs::{Path, SetAttr, Timespec, now, watch};

/// A time of utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    Omit,
    At(Timespec),
}

/// chmod(2).
pub fn chmod(task: &Task, path: &Path, mode: u32) -> Result<()> {
    path.mnt.want_write()?;
    let inode = path.inode();
    if inode.symlink().is_some() {
        return Err(EOPNOTSUPP);
    }
    let cred = task.cred();
    let p = inode.perm()?;
    if !is_owner(&cred, &p) {
        return Err(EPERM);
    }
    check_changeable(inode)?;
    let mut mode = mode & 0o7777;
    if !cred.in_group(p.gid) && !cred.capable_over(Cap::Fsetid, p.uid, p.gid) {
        mode &= !libc::S_ISGID;
    }
    inode.set_attr(&SetAttr { mode: Some(mode), ctime: Some(now()), ..SetAttr::default() })?;
    watch::table().file(&path.dentry, watch::IN_ATTRIB);
    Ok(())
}

/// chown(2); `None` leaves an id alone.
pub fn chown(task: &Task, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    path.mnt.want_write()?;
    let inode = path.inode();
    let cred = task.cred();
    let p = inode.perm()?;
    if !may_chown(&cred, p.uid, p.gid, uid, gid) {
        return Err(EPERM);
    }
    check_changeable(inode)?;
    let mut attr = SetAttr { uid, gid, ctime: Some(now()), ..SetAttr::default() };
    let is_dir = p.mode & libc::S_IFMT == libc::S_IFDIR;
    if !is_dir && (uid.is_some() || gid.is_some()) {
        // Linux clears the bits for root as well on chown.
        attr.mode = strip_set_ids(p.mode).map(|m| m & 0o7777);
    }
    inode.set_attr(&attr)?;
    watch::table().file(&path.dentry, watch::IN_ATTRIB);
    Ok(())
}

fn may_chown(cred: &Cred, ouid: u32, ogid: u32, uid: Option<u32>, gid: Option<u32>) -> bool {
    if cred.capable_over(Cap::Chown, ouid, ogid) {
        return true;
    }
    let owner = cred.fsuid == ouid;
    let uid_ok = uid.is_none_or(|u| owner && u == ouid);
    let gid_ok = gid.is_none_or(|g| owner && (g == ogid || cred.in_group(g)));
    uid_ok && gid_ok
}

/// utimensat(2). `None` for both times set to now by the rule for a NULL argument.
pub fn utimes(task: &Task, path: &Path, times: Option<(SetTime, SetTime)>) -> Result<()> {
    let (a, m) = times.unwrap_or((SetTime::Now, SetTime::Now));
    if a == SetTime::Omit && m == SetTime::Omit {
        return Ok(());
    }
    path.mnt.want_write()?;
    let inode = path.inode();
    let cred = task.cred();
    let p = inode.perm()?;
    let now_both = a == SetTime::Now && m == SetTime::Now;
    if !now_both {
        check_changeable(inode)?;
    } else if inode.restrictions() & IMMUTABLE != 0 {
        return Err(EPERM);
    }
    if now_both {
        // Writers may set both times to now.
        if !is_owner(&cred, &p) {
            inode_permission(inode, &cred, MAY_WRITE)?;
        }
    } else if !is_owner(&cred, &p) {
        return Err(EPERM);
    }
    let t = now();
    let pick = |s: SetTime| match s {
        SetTime::Now => Some(t),
        SetTime::Omit => None,
        SetTime::At(x) => Some(x),
    };
    let attr = SetAttr { atime: pick(a), mtime: pick(m), ctime: Some(t), ..SetAttr::default() };
    inode.set_attr(&attr)?;
    watch::table().file(&path.dentry, watch::IN_ATTRIB);
    Ok(())
}

/// Sets the size of a regular file the caller may write (truncate(2), ftruncate(2), O_TRUNC).
pub fn set_size(task: &Task, path: &Path, size: u64) -> Result<()> {
    let inode = path.inode();
    check_changeable(inode)?;
    let t = now();
    let cred = task.cred();
    let p = inode.perm()?;
    let mode =
        if cred.capable_over(Cap::Fsetid, p.uid, p.gid) { None } else { strip_set_ids(p.mode) };
    inode.set_attr(&SetAttr {
        mode: mode.map(|m| m & 0o7777),
        size: Some(size),
        mtime: Some(t),
        ctime: Some(t),
        ..SetAttr::default()
    })?;
    watch::table().file(&path.dentry, watch::IN_MODIFY);
    Ok(())
}

/// truncate(2).
pub fn truncate(task: &Task, path: &Path, size: u64) -> Result<()> {
    let inode = path.inode();
    match inode.file_type() {
        libc::S_IFDIR => return Err(EISDIR),
        libc::S_IFREG => {}
        _ => return Err(EINVAL),
    }
    super::open::check_not_executed(inode)?;
    path.mnt.want_write()?;
    inode_permission(inode, &task.cred(), MAY_WRITE)?;
    crate::vfs::open::check_not_executed(inode)?;
    crate::file::leases::table().break_for(task, inode, true, false)?;
    landlock::files::check(&task.cred(), path, fs::TRUNCATE)?;
    check_file_limit(task, size)?;
    set_size(task, path, size)
}

/// RLIMIT_FSIZE for a file that is to become `size` bytes: `EFBIG` (and SIGXFSZ, setrlimit(2)).
pub fn check_file_limit(task: &Task, size: u64) -> Result<()> {
    if size > task.rlimit(Resource::Fsize) {
        crate::file::limit_signal(task);
        return Err(EFBIG);
    }
    Ok(())
}
