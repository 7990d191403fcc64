//! open(2), openat2(2), close(2), dup(2), close_range(2), flock(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::{File, locks};
use uml_core::task::{Resource, Task};
use uml_core::user;
use uml_core::vfs::{self, DirFd, OpenHow, walk};
use uml_ipc::socket::SocketFile;

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(2, "open", open(Path, Flags, Mode), Sys),
    call!(257, "openat", openat(DirFd, Path, Flags, Mode), Sys),
    call!(437, "openat2", openat2(DirFd, Path, Ptr, Size), Sys),
    call!(85, "creat", creat(Path, Mode), Sys),
    call!(3, "close", close(Fd)),
    call!(436, "close_range", close_range(Fd, Fd, Flags)),
    call!(32, "dup", dup(Fd)),
    call!(33, "dup2", dup2(Fd, Fd)),
    call!(292, "dup3", dup3(Fd, Fd, Flags)),
    call!(73, "flock", flock(Fd, Int), Sys),
];

pub(crate) const CLOEXEC: u32 = libc::O_CLOEXEC as u32;

fn open(cx: &mut Ctx<'_>, path: u64, flags: u32, mode: u32) -> Result<u64> {
    openat(cx, libc::AT_FDCWD, path, flags, mode)
}

fn creat(cx: &mut Ctx<'_>, path: u64, mode: u32) -> Result<u64> {
    let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32;
    openat(cx, libc::AT_FDCWD, path, flags, mode)
}

/// Every flag of open(2); openat(2) ignores others, openat2(2) refuses them.
pub(crate) const VALID: u32 = (libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | libc::O_TMPFILE) as u32
    // O_LARGEFILE of the kernel ABI; every file is.
    | 0o100000;

fn openat(cx: &mut Ctx<'_>, dirfd: i32, path: u64, flags: u32, mode: u32) -> Result<u64> {
    let path = user::read_path(&cx.task, path)?;
    let how = OpenHow { flags: flags & VALID, mode: mode & 0o7777, resolve: 0 };
    finish(&cx.task, dirfd, &path, how)
}

fn finish(task: &Arc<Task>, dirfd: i32, path: &[u8], how: OpenHow) -> Result<u64> {
    // The descriptor's slot is known to exist before anything is created or truncated.
    let limit = task.rlimit(Resource::NoFile);
    task.files().check_room(limit)?;
    let file = vfs::open(task, &DirFd::from_raw(dirfd), path, &how)?;
    let fd = task.install_fd(file, how.flags & CLOEXEC != 0)?;
    Ok(fd as u64)
}

fn openat2(cx: &mut Ctx<'_>, dirfd: i32, path: u64, how: u64, size: usize) -> Result<u64> {
    const KNOWN: usize = 24;
    if size < KNOWN {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let raw = user::read_bytes(&cx.task, how, size)?;
    if raw[KNOWN..].iter().any(|b| *b != 0) {
        return Err(E2BIG);
    }
    let word = |i: usize| raw[i..i + 8].iter().rev().fold(0u64, |a, b| a << 8 | u64::from(*b));
    let (flags, mode, resolve) = (word(0), word(8), word(16));
    if flags & !u64::from(VALID) != 0 {
        return Err(EINVAL);
    }
    let flags = flags as u32;
    let creates = flags & (libc::O_CREAT as u32) != 0
        || flags & libc::O_TMPFILE as u32 == libc::O_TMPFILE as u32;
    if (creates && mode & !0o7777 != 0) || (!creates && mode != 0) {
        return Err(EINVAL);
    }
    if flags & libc::O_PATH as u32 != 0
        && flags & !(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32
            != 0
    {
        return Err(EINVAL);
    }
    const CACHED: u64 = 0x20;
    if resolve & !0x3f != 0 || resolve & 0x18 == 0x18 {
        return Err(EINVAL);
    }
    let mut bits = 0;
    for (r, w) in [
        (0x01, walk::NO_XDEV),
        (0x02, walk::NO_MAGICLINKS),
        (0x04, walk::NO_SYMLINKS | walk::NO_MAGICLINKS),
        (0x08, walk::BENEATH),
        (0x10, walk::IN_ROOT),
    ] {
        if resolve & r != 0 {
            bits |= w;
        }
    }
    if resolve & CACHED != 0 {
        if flags & (libc::O_CREAT | libc::O_TRUNC) as u32 != 0
            || flags & libc::O_TMPFILE as u32 == libc::O_TMPFILE as u32
        {
            return Err(EAGAIN);
        }
        // Whether everything is cached is not known beforehand; the answer "not" is always allowed.
        return Err(EAGAIN);
    }
    let path = user::read_path(&cx.task, path)?;
    finish(&cx.task, dirfd, &path, OpenHow { flags, mode: mode as u32, resolve: bits })
}

/// Ends one descriptor's use of `file`; a socket with SO_LINGER may wait (socket(7)).
pub(crate) fn closed(task: &Arc<Task>, file: Arc<File>) {
    file.closed(task, &task.files());
    let socket = SocketFile::of(&file).ok().cloned();
    drop(file);
    if let Some(s) = socket {
        s.linger(task);
    }
}

fn close(cx: &mut Ctx<'_>, fd: i32) -> Result<u64> {
    let file = cx.task.files().remove(fd)?;
    closed(&cx.task, file);
    Ok(0)
}

fn close_range(cx: &mut Ctx<'_>, first: u32, last: u32, flags: u32) -> Result<u64> {
    const UNSHARE: u32 = 2;
    const MARK: u32 = 4;
    if flags & !(UNSHARE | MARK) != 0 || first > last {
        return Err(EINVAL);
    }
    let task = &cx.task;
    if flags & UNSHARE != 0 {
        let own = task.files().duplicate();
        task.set_files(Some(Arc::new(own)));
    }
    for f in task.files().close_range(first, last, flags & MARK != 0) {
        closed(task, f);
    }
    Ok(0)
}

fn dup(cx: &mut Ctx<'_>, fd: i32) -> Result<u64> {
    let file = cx.task.file_any(fd)?;
    Ok(cx.task.install_fd(file, false)? as u64)
}

fn dup2(cx: &mut Ctx<'_>, old: i32, new: i32) -> Result<u64> {
    if old == new {
        cx.task.file_any(old)?;
        return Ok(new as u64);
    }
    dup3(cx, old, new, 0)
}

fn dup3(cx: &mut Ctx<'_>, old: i32, new: i32, flags: u32) -> Result<u64> {
    if flags & !CLOEXEC != 0 || old == new {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let limit = task.rlimit(Resource::NoFile);
    if new < 0 || new as u64 >= limit {
        return Err(EBADF);
    }
    let file = task.file_any(old)?;
    if let Some(gone) = task.files().replace(new, file, flags & CLOEXEC != 0, limit)? {
        closed(task, gone);
    }
    Ok(new as u64)
}

fn flock(cx: &mut Ctx<'_>, fd: i32, op: i32) -> Result<u64> {
    // Mandatory locks (LOCK_MAND) are gone; asking for one does nothing.
    const LOCK_MAND: i32 = 32;
    if op & LOCK_MAND != 0 {
        return Ok(0);
    }
    let kind = match op & !libc::LOCK_NB {
        libc::LOCK_SH => Some(false),
        libc::LOCK_EX => Some(true),
        libc::LOCK_UN => None,
        _ => return Err(EINVAL),
    };
    let file = cx.task.file(fd)?;
    locks::table().flock(&cx.task, &file, kind, op & libc::LOCK_NB == 0)?;
    Ok(0)
}
