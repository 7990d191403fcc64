//! Extended attributes (xattr(7)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::{Cap, Task};
use uml_core::user;
use uml_core::vfs::perm::{MAY_READ, MAY_WRITE, check_changeable, inode_permission, is_owner};
use uml_core::vfs::walk::{self, DirFd};
use uml_core::vfs::{Path, XattrOps, watch};

use crate::call;
use crate::stat::at_path;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(188, "setxattr", setxattr(Path, Str, In, Size, Flags)),
    call!(189, "lsetxattr", lsetxattr(Path, Str, In, Size, Flags)),
    call!(190, "fsetxattr", fsetxattr(Fd, Str, In, Size, Flags)),
    call!(191, "getxattr", getxattr(Path, Str, Out, Size)),
    call!(192, "lgetxattr", lgetxattr(Path, Str, Out, Size)),
    call!(193, "fgetxattr", fgetxattr(Fd, Str, Out, Size)),
    call!(194, "listxattr", listxattr(Path, Out, Size)),
    call!(195, "llistxattr", llistxattr(Path, Out, Size)),
    call!(196, "flistxattr", flistxattr(Fd, Out, Size)),
    call!(197, "removexattr", removexattr(Path, Str)),
    call!(198, "lremovexattr", lremovexattr(Path, Str)),
    call!(199, "fremovexattr", fremovexattr(Fd, Str)),
    call!(463, "setxattrat", setxattrat(DirFd, Path, Flags, Str, Ptr, Size)),
    call!(464, "getxattrat", getxattrat(DirFd, Path, Flags, Str, Ptr, Size)),
    call!(465, "listxattrat", listxattrat(DirFd, Path, Flags, Out, Size)),
    call!(466, "removexattrat", removexattrat(DirFd, Path, Flags, Str)),
];

/// XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_LIST_MAX.
const NAME_MAX: usize = 255;
const SIZE_MAX: usize = 65536;
const LIST_MAX: usize = 65536;

fn name_at(task: &Task, ptr: u64) -> Result<Vec<u8>> {
    let n = user::read_cstr(task, ptr, NAME_MAX + 1, ERANGE)?;
    if n.is_empty() { Err(ERANGE) } else { Ok(n) }
}

fn ops(p: &Path) -> Result<&dyn XattrOps> {
    p.inode().xattr().ok_or(EOPNOTSUPP)
}

/// Who may use an attribute of this name (xattr(7)): `user.` on files and directories under their
/// permissions, `trusted.` with CAP_SYS_ADMIN, `security.` freely readable.
fn permission(task: &Task, p: &Path, name: &[u8], write: bool) -> Result<()> {
    if write {
        p.mnt.want_write()?;
        check_changeable(p.inode())?;
    }
    let cred = task.cred();
    let perm = p.inode().perm()?;
    if name.starts_with(b"trusted.") {
        return if cred.capable(Cap::SysAdmin) {
            Ok(())
        } else {
            Err(if write { EPERM } else { ENODATA })
        };
    }
    if name == b"security.capability" && write && !cred.capable(Cap::Setfcap) {
        return Err(EPERM);
    }
    if name.starts_with(b"security.") {
        if write && name != b"security.capability" && !cred.capable(Cap::SysAdmin) {
            return Err(EPERM);
        }
        return Ok(());
    }
    if name.starts_with(b"system.") {
        if write && !is_owner(&cred, &perm) {
            return Err(EPERM);
        }
        return Ok(());
    }
    if let Some(rest) = name.strip_prefix(b"user.") {
        if rest.is_empty() {
            return Err(EINVAL);
        }
        let kind = perm.mode & libc::S_IFMT;
        if kind != libc::S_IFREG && kind != libc::S_IFDIR {
            return Err(if write { EPERM } else { ENODATA });
        }
        if kind == libc::S_IFDIR
            && perm.mode & libc::S_ISVTX != 0
            && write
            && !is_owner(&cred, &perm)
        {
            return Err(EPERM);
        }
        return inode_permission(p.inode(), &cred, if write { MAY_WRITE } else { MAY_READ });
    }
    Err(EOPNOTSUPP)
}

/// Names and values are fetched before `place` looks for the file.
fn set(
    task: &Arc<Task>,
    place: impl FnOnce() -> Result<Path>,
    name: u64,
    val: u64,
    size: usize,
    flags: u32,
) -> Result<u64> {
    if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) as u32 != 0 {
        return Err(EINVAL);
    }
    let name = name_at(task, name)?;
    if size > SIZE_MAX {
        return Err(E2BIG);
    }
    let value = user::read_bytes(task, val, size)?;
    let p = &place()?;
    permission(task, p, &name, true)?;
    ops(p)?.set(&name, &value, flags)?;
    watch::table().file(&p.dentry, watch::IN_ATTRIB);
    Ok(0)
}

fn get(
    task: &Arc<Task>,
    place: impl FnOnce() -> Result<Path>,
    name: u64,
    out: u64,
    size: usize,
) -> Result<u64> {
    let name = name_at(task, name)?;
    let p = &place()?;
    permission(task, p, &name, false)?;
    let v = ops(p)?.get(&name)?;
    if size == 0 {
        return Ok(v.len() as u64);
    }
    if v.len() > size {
        return Err(ERANGE);
    }
    user::write_bytes(task, out, &v)?;
    Ok(v.len() as u64)
}

fn list(task: &Arc<Task>, p: &Path, out: u64, size: usize) -> Result<u64> {
    let Some(ops) = p.inode().xattr() else { return Ok(0) };
    let admin = task.cred().capable(Cap::SysAdmin);
    let mut text = Vec::new();
    for n in ops.list()? {
        if n.starts_with(b"trusted.") && !admin {
            continue;
        }
        text.extend_from_slice(&n);
        text.push(0);
    }
    if text.len() > LIST_MAX {
        return Err(E2BIG);
    }
    if size == 0 {
        return Ok(text.len() as u64);
    }
    if text.len() > size {
        return Err(ERANGE);
    }
    user::write_bytes(task, out, &text)?;
    Ok(text.len() as u64)
}

fn remove(task: &Arc<Task>, place: impl FnOnce() -> Result<Path>, name: u64) -> Result<u64> {
    let name = name_at(task, name)?;
    let p = &place()?;
    permission(task, p, &name, true)?;
    ops(p)?.remove(&name)?;
    watch::table().file(&p.dentry, watch::IN_ATTRIB);
    Ok(0)
}

fn at(task: &Arc<Task>, path: u64, follow: bool) -> Result<Path> {
    let text = user::read_path(task, path)?;
    walk::lookup(task, &DirFd::Cwd, &text, if follow { walk::FOLLOW } else { 0 })
}

fn open_at(cx: &Ctx<'_>, fd: i32) -> Result<Path> {
    Ok(cx.task.file(fd)?.path.clone())
}

fn setxattr(cx: &mut Ctx<'_>, p: u64, n: u64, v: u64, size: usize, flags: u32) -> Result<u64> {
    set(&cx.task, || at(&cx.task, p, true), n, v, size, flags)
}

fn lsetxattr(cx: &mut Ctx<'_>, p: u64, n: u64, v: u64, size: usize, flags: u32) -> Result<u64> {
    set(&cx.task, || at(&cx.task, p, false), n, v, size, flags)
}

fn fsetxattr(cx: &mut Ctx<'_>, fd: i32, n: u64, v: u64, size: usize, flags: u32) -> Result<u64> {
    set(&cx.task, || open_at(cx, fd), n, v, size, flags)
}

fn getxattr(cx: &mut Ctx<'_>, p: u64, n: u64, out: u64, size: usize) -> Result<u64> {
    get(&cx.task, || at(&cx.task, p, true), n, out, size)
}

fn lgetxattr(cx: &mut Ctx<'_>, p: u64, n: u64, out: u64, size: usize) -> Result<u64> {
    get(&cx.task, || at(&cx.task, p, false), n, out, size)
}

fn fgetxattr(cx: &mut Ctx<'_>, fd: i32, n: u64, out: u64, size: usize) -> Result<u64> {
    get(&cx.task, || open_at(cx, fd), n, out, size)
}

fn listxattr(cx: &mut Ctx<'_>, p: u64, out: u64, size: usize) -> Result<u64> {
    list(&cx.task, &at(&cx.task, p, true)?, out, size)
}

fn llistxattr(cx: &mut Ctx<'_>, p: u64, out: u64, size: usize) -> Result<u64> {
    list(&cx.task, &at(&cx.task, p, false)?, out, size)
}

fn flistxattr(cx: &mut Ctx<'_>, fd: i32, out: u64, size: usize) -> Result<u64> {
    list(&cx.task, &cx.task.file(fd)?.path, out, size)
}

fn removexattr(cx: &mut Ctx<'_>, p: u64, n: u64) -> Result<u64> {
    remove(&cx.task, || at(&cx.task, p, true), n)
}

fn lremovexattr(cx: &mut Ctx<'_>, p: u64, n: u64) -> Result<u64> {
    remove(&cx.task, || at(&cx.task, p, false), n)
}

fn fremovexattr(cx: &mut Ctx<'_>, fd: i32, n: u64) -> Result<u64> {
    remove(&cx.task, || open_at(cx, fd), n)
}

fn at_flags(cx: &Ctx<'_>, dirfd: i32, path: u64, flags: i32) -> Result<Path> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(EINVAL);
    }
    at_path(&cx.task, dirfd, path, flags, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
}

/// `struct xattr_args`: value, size, flags.
fn args(cx: &Ctx<'_>, ptr: u64, size: usize) -> Result<(u64, usize, u32)> {
    if size < 16 {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let raw = user::read_bytes(&cx.task, ptr, size)?;
    if raw[16..].iter().any(|b| *b != 0) {
        return Err(E2BIG);
    }
    let word = |i: usize| u32::from_ne_bytes([raw[i], raw[i + 1], raw[i + 2], raw[i + 3]]);
    let value = u64::from(word(0)) | u64::from(word(4)) << 32;
    Ok((value, word(8) as usize, word(12)))
}

fn setxattrat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: u64,
    flags: i32,
    name: u64,
    ptr: u64,
    size: usize,
) -> Result<u64> {
    let (value, len, how) = args(cx, ptr, size)?;
    set(&cx.task, || at_flags(cx, dirfd, path, flags), name, value, len, how)
}

fn getxattrat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: u64,
    flags: i32,
    name: u64,
    ptr: u64,
    size: usize,
) -> Result<u64> {
    let (value, len, how) = args(cx, ptr, size)?;
    if how != 0 {
        return Err(EINVAL);
    }
    get(&cx.task, || at_flags(cx, dirfd, path, flags), name, value, len)
}

fn listxattrat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: u64,
    flags: i32,
    out: u64,
    size: usize,
) -> Result<u64> {
    list(&cx.task, &at_flags(cx, dirfd, path, flags)?, out, size)
}

fn removexattrat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, flags: i32, name: u64) -> Result<u64> {
    remove(&cx.task, || at_flags(cx, dirfd, path, flags), name)
}
