//! Changes of directories: create, link, unlink, rename (the at-calls of section 2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;

use crate::landlock::files::{Move, check, check_move, make};
use crate::landlock::fs;
use crate::task::{Cap, Cred, Task};
use crate::vfs::perm::{self, MAY_WRITE, inode_permission, is_owner, may_create, may_delete};
use crate::vfs::walk::{DirFd, FOLLOW, Last, lookup_parent};
use crate::vfs::{Caching, Dentry, NewNode, NodeKind, Path, Vfs, walk, watch};

/// Flags of renameat2(2).
pub const RENAME_NOREPLACE: u32 = 1;
pub const RENAME_EXCHANGE: u32 = 2;
pub const RENAME_WHITEOUT: u32 = 4;

fn trusted(dir: &Dentry) -> bool {
    dir.inode.caching() == Caching::Trusted
}

/// Owner and mode of a new inode in `dir`: umask, set-group-ID directories (inode(7)).
pub fn new_node(
    dir: &Arc<Dentry>,
    cred: &Cred,
    kind: NodeKind,
    mode: u32,
    umask: u32,
) -> Result<NewNode> {
    let d = dir.inode.perm()?;
    let mut node = NewNode { mode: mode & 0o7777, uid: cred.fsuid, gid: cred.fsgid, kind };
    if !matches!(node.kind, NodeKind::Symlink(_)) {
        if dir.inode.umask_applies() {
            node.mode &= !umask;
        }
    } else {
        node.mode = 0o777;
    }
    if dir.inode.gives_group() {
        node.gid = d.gid;
    } else if d.mode & libc::S_ISGID != 0 {
        node.gid = d.gid;
        match node.kind {
            NodeKind::Directory => node.mode |= libc::S_ISGID,
            NodeKind::Symlink(_) => {}
            _ => {
                let both = libc::S_ISGID | libc::S_IXGRP;
                if node.mode & both == both
                    && !cred.in_group(d.gid)
                    && !cred.capable_over(Cap::Fsetid, d.uid, d.gid)
                {
                    node.mode &= !libc::S_ISGID;
                }
            }
        }
    }
    Ok(node)
}

impl Vfs {
    /// Creates `name` in the directory `dir`, which the caller has locked and in which `name` does
    /// not exist; permissions are checked here.
    pub(crate) fn create_locked(
        &self,
        dir: &Path,
        name: &[u8],
        node: &NewNode,
        cred: &Cred,
    ) -> Result<Arc<Dentry>> {
        let ops = dir.inode().dir().ok_or(ENOTDIR)?;
        if !ops.creates() {
            return Err(ENOENT);
        }
        may_create(&dir.dentry, cred)?;
        let inode = ops.create(name, node)?;
        Ok(self.dcache.insert(&dir.dentry, name, inode))
    }
}

/// mkdirat(2), mknodat(2), symlinkat(2), and bind(2) of AF_UNIX names: creates `path`, which must not
/// exist. Returns the new place.
pub fn create(task: &Task, start: &DirFd, path: &[u8], kind: NodeKind, mode: u32) -> Result<Path> {
    let cred = task.cred();
    let kernel = task.kernel();
    let (dir, last, trailing) = lookup_parent(task, start, path)?;
    let Last::Name(name) = last else { return Err(EEXIST) };
    let is_dir = matches!(kind, NodeKind::Directory);
    let writable = dir.mnt.want_write();
    let child = {
        let _guard = dir.dentry.lock_dir();
        if kernel.vfs.dcache.lookup_locked(&dir.dentry, &name)?.is_some() {
            return Err(EEXIST);
        }
        if trailing && !is_dir {
            return Err(ENOENT);
        }
        writable?;
        check(&cred, &dir, make(kind.file_type()))?;
        match &kind {
            // A whiteout (0:0) is no device and needs no privilege.
            NodeKind::CharDevice(d) if d.major == 0 && d.minor == 0 => {}
            NodeKind::CharDevice(_) | NodeKind::BlockDevice(_) => {
                may_create(&dir.dentry, &cred)?;
                task.require(Cap::Mknod)?;
            }
            _ => {}
        }
        let node = new_node(&dir.dentry, &cred, kind, mode, task.fs().umask())?;
        kernel.vfs.create_locked(&dir, &name, &node, &cred)?
    };
    watch::table().entry(&dir.dentry, watch::IN_CREATE, &name, is_dir, 0);
    Ok(Path { mnt: dir.mnt, dentry: child })
}

/// unlinkat(2) without AT_REMOVEDIR.
pub fn unlink(task: &Task, start: &DirFd, path: &[u8]) -> Result<()> {
    let (dir, last, trailing) = lookup_parent(task, start, path)?;
    let Last::Name(name) = last else { return Err(EISDIR) };
    remove(task, &dir, &name, false, trailing)
}

/// rmdir(2).
pub fn rmdir(task: &Task, start: &DirFd, path: &[u8]) -> Result<()> {
    let (dir, last, _) = lookup_parent(task, start, path)?;
    match last {
        Last::Name(name) => remove(task, &dir, &name, true, false),
        Last::Dot => Err(EINVAL),
        Last::DotDot => Err(ENOTEMPTY),
        Last::Root => Err(EBUSY),
    }
}

fn remove(task: &Task, dir: &Path, name: &[u8], want_dir: bool, trailing: bool) -> Result<()> {
    let kernel = task.kernel();
    let vfs = &kernel.vfs;
    let cred = task.cred();
    let ns = task.fs().mounts();
    let (victim, last_link);
    {
        let _guard = dir.dentry.lock_dir();
        victim = vfs.dcache.lookup_locked(&dir.dentry, name)?.ok_or(ENOENT)?;
        dir.mnt.want_write()?;
        let is_dir = victim.inode.dir().is_some();
        if trailing {
            return Err(if is_dir { EISDIR } else { ENOTDIR });
        }
        check(&cred, dir, if want_dir { fs::REMOVE_DIR } else { fs::REMOVE_FILE })?;
        may_delete(&dir.dentry, &victim.inode, &cred)?;
        match (want_dir, is_dir) {
            (true, false) => return Err(ENOTDIR),
            (false, true) => return Err(EISDIR),
            _ => {}
        }
        if ns.has_mount_on(&victim) {
            return Err(EBUSY);
        }
        let ops = dir.inode().dir().ok_or(ENOTDIR)?;
        if want_dir {
            // Nothing may be created in it any more: parent before child.
            let _child = victim.lock_dir_nested();
            ops.rmdir(name, &victim.inode)?;
            dir.dentry.detach_child(name, trusted(&dir.dentry));
            victim.set_deleted(true);
            last_link = true;
        } else {
            ops.unlink(name, &victim.inode)?;
            dir.dentry.detach_child(name, trusted(&dir.dentry));
            last_link = victim.inode.metadata().map_or(true, |m| m.nlink == 0);
        }
    }
    vfs.detach_mounts_on(&victim);
    let t = watch::table();
    if !want_dir {
        // The number of links changed.
        t.inode(&victim.inode, watch::IN_ATTRIB);
    }
    t.entry(&dir.dentry, watch::IN_DELETE, name, want_dir, 0);
    if last_link {
        t.inode(&victim.inode, watch::IN_DELETE_SELF);
    }
    Ok(())
}

/// linkat(2): a new name `new` for the file at `old` (already resolved by the caller).
pub fn link(task: &Task, old: &Path, start: &DirFd, new: &[u8]) -> Result<()> {
    let kernel = task.kernel();
    let cred = task.cred();
    let (dir, last, trailing) = lookup_parent(task, start, new)?;
    let Last::Name(name) = last else { return Err(EEXIST) };
    let _created = {
        let _guard = dir.dentry.lock_dir();
        if kernel.vfs.dcache.lookup_locked(&dir.dentry, &name)?.is_some() {
            return Err(EEXIST);
        }
        if trailing {
            return Err(ENOENT);
        }
        if !Arc::ptr_eq(&old.mnt, &dir.mnt) {
            return Err(EXDEV);
        }
        dir.mnt.want_write()?;
        perm::check_changeable(old.inode())?;
        check_protected_link(&kernel.vfs, old, &cred)?;
        let old_dir = old.dentry.parent();
        let moved = Move {
            old_dir: old_dir.as_ref().unwrap_or(&old.dentry),
            old: &old.dentry,
            new_dir: &dir,
            target: None,
            removes: false,
            exchange: false,
        };
        check_move(&cred, &moved)?;
        may_create(&dir.dentry, &cred)?;
        if !Arc::ptr_eq(&old.mnt.instance, &dir.mnt.instance) {
            return Err(EXDEV);
        }
        if old.inode().dir().is_some() {
            return Err(EPERM);
        }
        if old.metadata()?.nlink == 0 && !old.dentry.is_linkable() {
            return Err(ENOENT);
        }
        let ops = dir.inode().dir().ok_or(ENOTDIR)?;
        ops.link(&name, old.inode())?;
        kernel.vfs.dcache.insert(&dir.dentry, &name, old.inode().clone())
    };
    let t = watch::table();
    t.inode(old.inode(), watch::IN_ATTRIB);
    t.entry(&dir.dentry, watch::IN_CREATE, &name, false, 0);
    Ok(())
}

/// /proc/sys/fs/protected_hardlinks (proc(5)).
fn check_protected_link(vfs: &Vfs, old: &Path, cred: &Cred) -> Result<()> {
    if vfs.protection.hardlinks.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let p = old.inode().perm()?;
    if is_owner(cred, &p) {
        return Ok(());
    }
    let plain = p.mode & libc::S_IFMT == libc::S_IFREG
        && p.mode & libc::S_ISUID == 0
        && p.mode & (libc::S_ISGID | libc::S_IXGRP) != libc::S_ISGID | libc::S_IXGRP;
    if plain && inode_permission(old.inode(), cred, MAY_WRITE | libc::R_OK as u32).is_ok() {
        Ok(())
    } else {
        Err(EPERM)
    }
}

/// Resolves the source of linkat(2) under its flags.
pub fn link_source(
    task: &Task,
    start: &DirFd,
    path: &[u8],
    follow: bool,
    empty: bool,
) -> Result<Path> {
    let mut flags = if follow { FOLLOW } else { 0 };
    if empty && path.is_empty() {
        task.require(Cap::DacReadSearch).map_err(|_| ENOENT)?;
        flags |= walk::EMPTY;
    }
    walk::lookup(task, start, path, flags)
}

/// `EINVAL` for unknown flags of renameat2(2) and for those that exclude each other.
pub fn rename_flags(flags: u32) -> Result<()> {
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) != 0
        || (flags & RENAME_EXCHANGE != 0 && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) != 0)
    {
        return Err(EINVAL);
    }
    Ok(())
}

/// renameat2(2).
pub fn rename(
    task: &Task,
    old_start: &DirFd,
    old: &[u8],
    new_start: &DirFd,
    new: &[u8],
    flags: u32,
) -> Result<()> {
    rename_flags(flags)?;
    if flags & RENAME_WHITEOUT != 0 {
        task.require(Cap::Mknod)?;
    }
    let kernel = task.kernel();
    let vfs = &kernel.vfs;
    let cred = task.cred();
    let ns = task.fs().mounts();
    let (od, ol, oslash) = lookup_parent(task, old_start, old)?;
    let (nd, nl, nslash) = lookup_parent(task, new_start, new)?;
    if !Arc::ptr_eq(&od.mnt, &nd.mnt) {
        return Err(EXDEV);
    }
    let Last::Name(on) = ol else { return Err(EBUSY) };
    let Last::Name(nn) = nl else {
        return Err(if flags & RENAME_NOREPLACE != 0 { EEXIST } else { EBUSY });
    };
    let writable = od.mnt.want_write();
    let same_dir = Arc::ptr_eq(&od.dentry, &nd.dentry);
    let source;
    let target;
    {
        let _rename = vfs.rename_lock.lock();
        // Ancestors before descendants, others by address.
        let first_old = same_dir
            || nd.dentry.is_within(&od.dentry)
            || (!od.dentry.is_within(&nd.dentry)
                && Arc::as_ptr(&od.dentry) < Arc::as_ptr(&nd.dentry));
        let (a, b) = if first_old { (&od.dentry, &nd.dentry) } else { (&nd.dentry, &od.dentry) };
        let _g1 = a.lock_dir();
        let _g2 = if same_dir { None } else { Some(b.lock_dir_nested()) };

        source = vfs.dcache.lookup_locked(&od.dentry, &on)?.ok_or(ENOENT)?;
        target = vfs.dcache.lookup_locked(&nd.dentry, &nn)?;
        if flags & RENAME_NOREPLACE != 0 && target.is_some() {
            return Err(EEXIST);
        }
        let s_dir = source.inode.dir().is_some();
        if flags & RENAME_EXCHANGE != 0 {
            let t = target.as_ref().ok_or(ENOENT)?;
            if t.inode.dir().is_none() && nslash {
                return Err(ENOTDIR);
            }
        }
        if !s_dir && (oslash || (flags & RENAME_EXCHANGE == 0 && nslash)) {
            return Err(ENOTDIR);
        }
        // A directory cannot go below itself, nor replace what it lies in.
        if nd.dentry.is_within(&source) {
            return Err(EINVAL);
        }
        if let Some(t) = &target
            && od.dentry.is_within(t)
        {
            return Err(if flags & RENAME_EXCHANGE != 0 { EINVAL } else { ENOTEMPTY });
        }
        writable?;
        let moved = Move {
            old_dir: &od.dentry,
            old: &source,
            new_dir: &nd,
            target: target.as_ref(),
            removes: true,
            exchange: flags & RENAME_EXCHANGE != 0,
        };
        check_move(&cred, &moved)?;
        if let Some(t) = &target
            && Arc::ptr_eq(&t.inode, &source.inode)
        {
            // Two names of one file: nothing happens (rename(2)).
            return Ok(());
        }
        may_delete(&od.dentry, &source.inode, &cred)?;
        match &target {
            None => may_create(&nd.dentry, &cred)?,
            Some(t) => {
                may_delete(&nd.dentry, &t.inode, &cred)?;
                let t_dir = t.inode.dir().is_some();
                if flags & RENAME_EXCHANGE == 0 {
                    match (s_dir, t_dir) {
                        (true, false) => return Err(ENOTDIR),
                        (false, true) => return Err(EISDIR),
                        _ => {}
                    }
                }
            }
        }
        // Changing `..` of a directory writes to it.
        if !same_dir {
            if s_dir {
                inode_permission(&source.inode, &cred, MAY_WRITE)?;
            }
            if let Some(t) = &target
                && flags & RENAME_EXCHANGE != 0
                && t.inode.dir().is_some()
            {
                inode_permission(&t.inode, &cred, MAY_WRITE)?;
            }
        }
        if ns.has_mount_on(&source) || target.as_ref().is_some_and(|t| ns.has_mount_on(t)) {
            return Err(EBUSY);
        }
        let ops = od.inode().dir().ok_or(ENOTDIR)?;
        // A directory that is replaced goes away: lock out creation in it. Below both parents.
        let _g3 = target.as_ref().filter(|t| t.inode.dir().is_some()).map(|t| t.lock_dir_nested());
        ops.rename(&on, nd.inode(), &nn, flags)?;
        vfs.rename_seq.fetch_add(1, Ordering::Release);
        if flags & RENAME_EXCHANGE != 0 {
            if let Some(t) = &target {
                Dentry::exchange(&od.dentry, &source, &nd.dentry, t);
            }
        } else {
            od.dentry.move_child(&source, &nd.dentry, &nn);
            if flags & RENAME_WHITEOUT != 0 {
                od.dentry.forget(&on);
            }
        }
        vfs.rename_seq.fetch_add(1, Ordering::Release);
    }
    announce_rename(&od, &on, &nd, &nn, &source, target.as_ref(), flags);
    if let Some(t) = target.filter(|_| flags & RENAME_EXCHANGE == 0) {
        vfs.detach_mounts_on(&t);
    }
    Ok(())
}

fn announce_rename(
    od: &Path,
    on: &[u8],
    nd: &Path,
    nn: &[u8],
    source: &Arc<Dentry>,
    target: Option<&Arc<Dentry>>,
    flags: u32,
) {
    let t = watch::table();
    let is_dir = |d: &Arc<Dentry>| d.inode.dir().is_some();
    let cookie = t.next_cookie();
    t.entry(&od.dentry, watch::IN_MOVED_FROM, on, is_dir(source), cookie);
    t.entry(&nd.dentry, watch::IN_MOVED_TO, nn, is_dir(source), cookie);
    t.inode(&source.inode, watch::IN_MOVE_SELF);
    let Some(target) = target else { return };
    if flags & RENAME_EXCHANGE != 0 {
        let cookie = t.next_cookie();
        t.entry(&nd.dentry, watch::IN_MOVED_FROM, nn, is_dir(target), cookie);
        t.entry(&od.dentry, watch::IN_MOVED_TO, on, is_dir(target), cookie);
        t.inode(&target.inode, watch::IN_MOVE_SELF);
    } else if target.inode.metadata().map_or(true, |m| m.nlink == 0 || is_dir(target)) {
        t.inode(&target.inode, watch::IN_DELETE_SELF);
    } else {
        t.inode(&target.inode, watch::IN_ATTRIB);
    }
}
