//! Names and attributes: directories, links, rename, permissions, owners, times, working directory.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::{Cap, Cred, Task};
use uml_core::user;
use uml_core::vfs::attr::{self, SetTime};
use uml_core::vfs::perm::{MAY_EXEC, path_permission};
use uml_core::vfs::walk::{self, DirFd, Walker};
use uml_core::vfs::{Dev, NodeKind, Path, Timespec, modify};

use crate::call;
use crate::stat::at_path;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(21, "access", access(Path, Int)),
    call!(269, "faccessat", faccessat(DirFd, Path, Int)),
    call!(439, "faccessat2", faccessat2(DirFd, Path, Int, Flags)),
    call!(79, "getcwd", getcwd(Out, Size)),
    call!(80, "chdir", chdir(Path)),
    call!(81, "fchdir", fchdir(Fd)),
    call!(161, "chroot", chroot(Path)),
    call!(95, "umask", umask(Mode)),
    call!(83, "mkdir", mkdir(Path, Mode)),
    call!(258, "mkdirat", mkdirat(DirFd, Path, Mode)),
    call!(84, "rmdir", rmdir(Path)),
    call!(87, "unlink", unlink(Path)),
    call!(263, "unlinkat", unlinkat(DirFd, Path, Flags)),
    call!(82, "rename", rename(Path, Path)),
    call!(264, "renameat", renameat(DirFd, Path, DirFd, Path)),
    call!(316, "renameat2", renameat2(DirFd, Path, DirFd, Path, Flags)),
    call!(86, "link", link(Path, Path)),
    call!(265, "linkat", linkat(DirFd, Path, DirFd, Path, Flags)),
    call!(88, "symlink", symlink(Path, Path)),
    call!(266, "symlinkat", symlinkat(Path, DirFd, Path)),
    call!(89, "readlink", readlink(Path, Out, Size)),
    call!(267, "readlinkat", readlinkat(DirFd, Path, Out, Size)),
    call!(133, "mknod", mknod(Path, Mode, Int)),
    call!(259, "mknodat", mknodat(DirFd, Path, Mode, Int)),
    call!(76, "truncate", truncate(Path, Off)),
    call!(90, "chmod", chmod(Path, Mode)),
    call!(91, "fchmod", fchmod(Fd, Mode)),
    call!(268, "fchmodat", fchmodat(DirFd, Path, Mode)),
    call!(452, "fchmodat2", fchmodat2(DirFd, Path, Mode, Flags)),
    call!(92, "chown", chown(Path, Int, Int)),
    call!(93, "fchown", fchown(Fd, Int, Int)),
    call!(94, "lchown", lchown(Path, Int, Int)),
    call!(260, "fchownat", fchownat(DirFd, Path, Int, Int, Flags)),
    call!(132, "utime", utime(Path, Ptr)),
    call!(235, "utimes", utimes(Path, Ptr)),
    call!(261, "futimesat", futimesat(DirFd, Path, Ptr)),
    call!(280, "utimensat", utimensat(DirFd, Path, Ptr, Flags)),
    call!(134, "uselib", no_uselib(), Never, Refused("a.out libraries; ENOSYS")),
];

fn follow(task: &Task, path: u64) -> Result<Path> {
    let text = user::read_path(task, path)?;
    walk::lookup(task, &DirFd::Cwd, &text, walk::FOLLOW)
}

fn access(cx: &mut Ctx<'_>, path: u64, mode: u32) -> Result<u64> {
    faccessat2(cx, libc::AT_FDCWD, path, mode, 0)
}

fn faccessat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, mode: u32) -> Result<u64> {
    faccessat2(cx, dirfd, path, mode, 0)
}

/// Credentials for access(2): real ids, and root's capabilities only for a real root.
fn real_cred(cred: &Arc<Cred>) -> Arc<Cred> {
    let is_root = cred.user_ns.kuid(0) == Ok(cred.uid);
    if cred.fsuid == cred.uid && cred.fsgid == cred.gid {
        let expected = if is_root { cred.cap_permitted } else { 0 };
        if cred.cap_effective == expected {
            return cred.clone();
        }
    }
    let mut c = (**cred).clone();
    c.fsuid = c.uid;
    c.fsgid = c.gid;
    if c.securebits & uml_core::task::cred::SECBIT_NO_SETUID_FIXUP == 0 {
        c.cap_effective = if is_root { c.cap_permitted } else { 0 };
    }
    Arc::new(c)
}

fn faccessat2(cx: &mut Ctx<'_>, dirfd: i32, path: u64, mode: u32, flags: i32) -> Result<u64> {
    let known = libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    if mode & !7 != 0 || flags & !known != 0 {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let cred = task.cred();
    let cred = if flags & libc::AT_EACCESS != 0 { cred } else { real_cred(&cred) };
    let text = if path == 0 && flags & libc::AT_EMPTY_PATH != 0 {
        Vec::new()
    } else {
        user::read_path(task, path)?
    };
    let mut w = 0;
    if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
        w |= walk::FOLLOW;
    }
    if flags & libc::AT_EMPTY_PATH != 0 {
        w |= walk::EMPTY;
    }
    let start = DirFd::from_raw(dirfd);
    let p = Walker::with_cred(task, cred.clone(), &start, &text, w)?.to_end()?;
    if mode != 0 {
        // Special files may be written on a read-only filesystem.
        path_permission(&p, &cred, mode)?;
    }
    Ok(0)
}

fn getcwd(cx: &mut Ctx<'_>, buf: u64, size: usize) -> Result<u64> {
    let task = &cx.task;
    let fs = task.fs();
    let cwd = fs.cwd();
    if cwd.dentry.is_deleted() {
        return Err(ENOENT);
    }
    let name = task.kernel().vfs.path_name(&cwd, &fs.root());
    let mut text = Vec::new();
    if !name.reachable {
        text.extend_from_slice(b"(unreachable)");
    }
    text.extend_from_slice(&name.bytes);
    text.push(0);
    if text.len() > libc::PATH_MAX as usize {
        return Err(ENAMETOOLONG);
    }
    if text.len() > size {
        return Err(ERANGE);
    }
    user::write_bytes(task, buf, &text)?;
    Ok(text.len() as u64)
}

fn set_cwd(task: &Arc<Task>, p: Path) -> Result<u64> {
    if p.inode().dir().is_none() {
        return Err(ENOTDIR);
    }
    path_permission(&p, &task.cred(), MAY_EXEC)?;
    let old = task.fs().set_cwd(p);
    drop(old);
    Ok(0)
}

fn chdir(cx: &mut Ctx<'_>, path: u64) -> Result<u64> {
    let p = follow(&cx.task, path)?;
    set_cwd(&cx.task, p)
}

fn fchdir(cx: &mut Ctx<'_>, fd: i32) -> Result<u64> {
    let p = cx.task.file_any(fd)?.path.clone();
    set_cwd(&cx.task, p)
}

fn chroot(cx: &mut Ctx<'_>, path: u64) -> Result<u64> {
    let p = follow(&cx.task, path)?;
    if p.inode().dir().is_none() {
        return Err(ENOTDIR);
    }
    path_permission(&p, &cx.task.cred(), MAY_EXEC)?;
    let cred = cx.task.cred();
    cx.task.require_in(&cred.user_ns, Cap::SysChroot)?;
    let old = cx.task.fs().set_root(p);
    drop(old);
    Ok(0)
}

fn umask(cx: &mut Ctx<'_>, mask: u32) -> Result<u64> {
    Ok(u64::from(cx.task.fs().set_umask(mask)))
}

fn mkdir(cx: &mut Ctx<'_>, path: u64, mode: u32) -> Result<u64> {
    mkdirat(cx, libc::AT_FDCWD, path, mode)
}

fn mkdirat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, mode: u32) -> Result<u64> {
    let text = user::read_path(&cx.task, path)?;
    // Of the special bits only the sticky one can be asked for (mkdir(2)).
    let mode = mode & 0o1777;
    modify::create(&cx.task, &DirFd::from_raw(dirfd), &text, NodeKind::Directory, mode)?;
    Ok(0)
}

fn rmdir(cx: &mut Ctx<'_>, path: u64) -> Result<u64> {
    unlinkat(cx, libc::AT_FDCWD, path, libc::AT_REMOVEDIR)
}

fn unlink(cx: &mut Ctx<'_>, path: u64) -> Result<u64> {
    unlinkat(cx, libc::AT_FDCWD, path, 0)
}

fn unlinkat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, flags: i32) -> Result<u64> {
    if flags & !libc::AT_REMOVEDIR != 0 {
        return Err(EINVAL);
    }
    let text = user::read_path(&cx.task, path)?;
    let start = DirFd::from_raw(dirfd);
    if flags & libc::AT_REMOVEDIR != 0 {
        modify::rmdir(&cx.task, &start, &text)?;
    } else {
        modify::unlink(&cx.task, &start, &text)?;
    }
    Ok(0)
}

fn rename(cx: &mut Ctx<'_>, old: u64, new: u64) -> Result<u64> {
    renameat2(cx, libc::AT_FDCWD, old, libc::AT_FDCWD, new, 0)
}

fn renameat(cx: &mut Ctx<'_>, od: i32, old: u64, nd: i32, new: u64) -> Result<u64> {
    renameat2(cx, od, old, nd, new, 0)
}

fn renameat2(cx: &mut Ctx<'_>, od: i32, old: u64, nd: i32, new: u64, flags: u32) -> Result<u64> {
    modify::rename_flags(flags)?;
    let a = user::read_path(&cx.task, old)?;
    let b = user::read_path(&cx.task, new)?;
    modify::rename(&cx.task, &DirFd::from_raw(od), &a, &DirFd::from_raw(nd), &b, flags)?;
    Ok(0)
}

fn link(cx: &mut Ctx<'_>, old: u64, new: u64) -> Result<u64> {
    linkat(cx, libc::AT_FDCWD, old, libc::AT_FDCWD, new, 0)
}

fn linkat(cx: &mut Ctx<'_>, od: i32, old: u64, nd: i32, new: u64, flags: i32) -> Result<u64> {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let a = user::read_path(task, old)?;
    let b = user::read_path(task, new)?;
    let source = modify::link_source(
        task,
        &DirFd::from_raw(od),
        &a,
        flags & libc::AT_SYMLINK_FOLLOW != 0,
        flags & libc::AT_EMPTY_PATH != 0,
    )?;
    modify::link(task, &source, &DirFd::from_raw(nd), &b)?;
    Ok(0)
}

fn symlink(cx: &mut Ctx<'_>, target: u64, path: u64) -> Result<u64> {
    symlinkat(cx, target, libc::AT_FDCWD, path)
}

fn symlinkat(cx: &mut Ctx<'_>, target: u64, dirfd: i32, path: u64) -> Result<u64> {
    let target = user::read_path(&cx.task, target)?;
    if target.is_empty() {
        return Err(ENOENT);
    }
    let text = user::read_path(&cx.task, path)?;
    let kind = NodeKind::Symlink(target);
    modify::create(&cx.task, &DirFd::from_raw(dirfd), &text, kind, 0o777)?;
    Ok(0)
}

fn readlink(cx: &mut Ctx<'_>, path: u64, buf: u64, size: i32) -> Result<u64> {
    readlinkat(cx, libc::AT_FDCWD, path, buf, size)
}

fn readlinkat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, buf: u64, size: i32) -> Result<u64> {
    if size <= 0 {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let text = user::read_path(task, path)?;
    let empty = text.is_empty();
    let p = walk::lookup(task, &DirFd::from_raw(dirfd), &text, walk::EMPTY)?;
    if empty && dirfd == libc::AT_FDCWD {
        return Err(ENOENT);
    }
    // For an empty path the descriptor must be a link (readlinkat(2)).
    let Some(ops) = p.inode().symlink() else {
        return Err(if empty { ENOENT } else { EINVAL });
    };
    let target = ops.readlink(task)?;
    let n = target.len().min(size as usize);
    user::write_bytes(task, buf, &target[..n])?;
    Ok(n as u64)
}

fn mknod(cx: &mut Ctx<'_>, path: u64, mode: u32, dev: u32) -> Result<u64> {
    mknodat(cx, libc::AT_FDCWD, path, mode, dev)
}

fn mknodat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, mode: u32, dev: u32) -> Result<u64> {
    let dev = Dev::decode(u64::from(dev));
    let kind = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => NodeKind::Regular,
        libc::S_IFCHR => NodeKind::CharDevice(dev),
        libc::S_IFBLK => NodeKind::BlockDevice(dev),
        libc::S_IFIFO => NodeKind::Fifo,
        libc::S_IFSOCK => NodeKind::Socket,
        libc::S_IFDIR => return Err(EPERM),
        _ => return Err(EINVAL),
    };
    let text = user::read_path(&cx.task, path)?;
    modify::create(&cx.task, &DirFd::from_raw(dirfd), &text, kind, mode & 0o7777)?;
    Ok(0)
}

fn truncate(cx: &mut Ctx<'_>, path: u64, len: i64) -> Result<u64> {
    let len = u64::try_from(len).map_err(|_| EINVAL)?;
    let p = follow(&cx.task, path)?;
    attr::truncate(&cx.task, &p, len)?;
    Ok(0)
}

fn chmod(cx: &mut Ctx<'_>, path: u64, mode: u32) -> Result<u64> {
    fchmodat2(cx, libc::AT_FDCWD, path, mode, 0)
}

fn fchmod(cx: &mut Ctx<'_>, fd: i32, mode: u32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    attr::chmod(&cx.task, &file.path, mode)?;
    Ok(0)
}

fn fchmodat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, mode: u32) -> Result<u64> {
    fchmodat2(cx, dirfd, path, mode, 0)
}

fn fchmodat2(cx: &mut Ctx<'_>, dirfd: i32, path: u64, mode: u32, flags: i32) -> Result<u64> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(EINVAL);
    }
    let p = at_path(&cx.task, dirfd, path, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
    attr::chmod(&cx.task, &p, mode)?;
    Ok(0)
}

fn chown(cx: &mut Ctx<'_>, path: u64, uid: u32, gid: u32) -> Result<u64> {
    fchownat(cx, libc::AT_FDCWD, path, uid, gid, 0)
}

fn lchown(cx: &mut Ctx<'_>, path: u64, uid: u32, gid: u32) -> Result<u64> {
    fchownat(cx, libc::AT_FDCWD, path, uid, gid, libc::AT_SYMLINK_NOFOLLOW)
}

/// Changes owner and group; -1 leaves an id alone, `EINVAL` for one without a mapping.
fn change_owner(task: &Task, place: &Path, uid: u32, gid: u32) -> Result<()> {
    let ns = task.cred().user_ns.clone();
    let uid = if uid == u32::MAX { None } else { Some(ns.kuid(uid)?) };
    let gid = if gid == u32::MAX { None } else { Some(ns.kgid(gid)?) };
    attr::chown(task, place, uid, gid)
}

fn fchown(cx: &mut Ctx<'_>, fd: i32, uid: u32, gid: u32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    change_owner(&cx.task, &file.path, uid, gid)?;
    Ok(0)
}

fn fchownat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: u64,
    uid: u32,
    gid: u32,
    flags: i32,
) -> Result<u64> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(EINVAL);
    }
    let p = at_path(&cx.task, dirfd, path, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
    change_owner(&cx.task, &p, uid, gid)?;
    Ok(0)
}

fn utime(cx: &mut Ctx<'_>, path: u64, times: u64) -> Result<u64> {
    let p = follow(&cx.task, path)?;
    let times = if times == 0 {
        None
    } else {
        let [a, m]: [i64; 2] = user::read_obj(&cx.task, times)?;
        let at = |sec| SetTime::At(Timespec { sec, nsec: 0 });
        Some((at(a), at(m)))
    };
    attr::utimes(&cx.task, &p, times)?;
    Ok(0)
}

fn utimes(cx: &mut Ctx<'_>, path: u64, times: u64) -> Result<u64> {
    futimesat(cx, libc::AT_FDCWD, path, times)
}

fn futimesat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, times: u64) -> Result<u64> {
    let task = &cx.task;
    let times = if times == 0 {
        None
    } else {
        let raw: [[i64; 2]; 2] = user::read_obj(task, times)?;
        let at = |[sec, usec]: [i64; 2]| {
            if !(0..1_000_000).contains(&usec) {
                return Err(EINVAL);
            }
            Ok(SetTime::At(Timespec { sec, nsec: usec as u32 * 1000 }))
        };
        Some((at(raw[0])?, at(raw[1])?))
    };
    let p = if path == 0 && dirfd != libc::AT_FDCWD {
        task.file(dirfd)?.path.clone()
    } else {
        at_path(task, dirfd, path, 0, true)?
    };
    attr::utimes(task, &p, times)?;
    Ok(0)
}

fn utimensat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, times: u64, flags: i32) -> Result<u64> {
    let task = &cx.task;
    let times = if times == 0 {
        None
    } else {
        let raw: [[i64; 2]; 2] = user::read_obj(task, times)?;
        let at = |[sec, nsec]: [i64; 2]| match nsec {
            libc::UTIME_NOW => Ok(SetTime::Now),
            libc::UTIME_OMIT => Ok(SetTime::Omit),
            0..1_000_000_000 => Ok(SetTime::At(Timespec { sec, nsec: nsec as u32 })),
            _ => Err(EINVAL),
        };
        Some((at(raw[0])?, at(raw[1])?))
    };
    if times == Some((SetTime::Omit, SetTime::Omit)) {
        return Ok(0);
    }
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(EINVAL);
    }
    let p = if path == 0 {
        if dirfd == libc::AT_FDCWD {
            return Err(EFAULT);
        }
        // The descriptor itself (futimens(3)).
        if flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
            return Err(EINVAL);
        }
        task.file(dirfd)?.path.clone()
    } else {
        at_path(task, dirfd, path, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?
    };
    attr::utimes(task, &p, times)?;
    Ok(0)
}

fn no_uselib(_: &mut Ctx<'_>) -> Result<u64> {
    Err(ENOSYS)
}
