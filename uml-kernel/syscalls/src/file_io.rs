//! Reading, writing and positioning: read(2) and its vectors, lseek(2), sendfile(2), copy_file_range(2),
//! fsync(2), fallocate(2), ioctl(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::{Advice, File, Io};
use uml_core::io::{BufSource, VecSink};
use uml_core::task::Task;
use uml_core::user::{self, MAX_RW_COUNT, UserIo};
use uml_core::vfs::attr;

use crate::call;
use crate::fcntl::{set_signed_owner, signed_owner};
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(0, "read", read(Fd, Out, Size), Sys),
    call!(1, "write", write(Fd, In, Size), Sys),
    call!(8, "lseek", lseek(Fd, Off, Int)),
    call!(16, "ioctl", ioctl(Fd, Flags, Addr), Sys),
    call!(17, "pread64", pread64(Fd, Out, Size, Off), Sys),
    call!(18, "pwrite64", pwrite64(Fd, In, Size, Off), Sys),
    call!(19, "readv", readv(Fd, Ptr, Int), Sys),
    call!(20, "writev", writev(Fd, Ptr, Int), Sys),
    call!(295, "preadv", preadv(Fd, Ptr, Int, Off), Sys),
    call!(296, "pwritev", pwritev(Fd, Ptr, Int, Off), Sys),
    call!(327, "preadv2", preadv2(Fd, Ptr, Int, Off, Off, Flags), Sys),
    call!(328, "pwritev2", pwritev2(Fd, Ptr, Int, Off, Off, Flags), Sys),
    call!(40, "sendfile", sendfile(Fd, Fd, Ptr, Size), Sys),
    call!(326, "copy_file_range", copy_file_range(Fd, Ptr, Fd, Ptr, Size, Flags), Sys),
    call!(74, "fsync", fsync(Fd)),
    call!(75, "fdatasync", fdatasync(Fd)),
    call!(162, "sync", sync()),
    call!(306, "syncfs", syncfs(Fd)),
    call!(277, "sync_file_range", sync_file_range(Fd, Off, Off, Flags)),
    call!(285, "fallocate", fallocate(Fd, Flags, Off, Off), Sys),
    call!(77, "ftruncate", ftruncate(Fd, Off)),
    call!(187, "readahead", readahead(Fd, Off, Size)),
    call!(221, "fadvise64", fadvise64(Fd, Off, Size, Int)),
];

fn read(cx: &mut Ctx<'_>, fd: i32, buf: u64, len: usize) -> Result<u64> {
    let file = cx.task.file(fd)?;
    let mut io = buffer(cx, buf, len)?;
    Ok(file.read(&cx.task, &mut io)? as u64)
}

fn write(cx: &mut Ctx<'_>, fd: i32, buf: u64, len: usize) -> Result<u64> {
    let file = cx.task.file(fd)?;
    let mut io = buffer(cx, buf, len)?;
    Ok(file.write(&cx.task, &mut io)? as u64)
}

/// One buffer; a range that wraps around or ends beyond the guest's addresses is EFAULT.
fn buffer(cx: &Ctx<'_>, buf: u64, len: usize) -> Result<UserIo> {
    if len > isize::MAX as usize {
        return Err(EINVAL);
    }
    UserIo::new(&cx.task, buf, len)
}

fn pread64(cx: &mut Ctx<'_>, fd: i32, buf: u64, len: usize, off: i64) -> Result<u64> {
    let off = u64::try_from(off).map_err(|_| EINVAL)?;
    let file = cx.task.file(fd)?;
    let mut io = buffer(cx, buf, len)?;
    Ok(file.read_at(&cx.task, off, &mut io)? as u64)
}

fn pwrite64(cx: &mut Ctx<'_>, fd: i32, buf: u64, len: usize, off: i64) -> Result<u64> {
    let off = u64::try_from(off).map_err(|_| EINVAL)?;
    let file = cx.task.file(fd)?;
    let mut io = buffer(cx, buf, len)?;
    Ok(file.write_at(&cx.task, off, &mut io)? as u64)
}

fn readv(cx: &mut Ctx<'_>, fd: i32, iov: u64, count: u32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    let mut io = UserIo::from_iovec(&cx.task, iov, count as usize)?;
    Ok(file.read(&cx.task, &mut io)? as u64)
}

fn writev(cx: &mut Ctx<'_>, fd: i32, iov: u64, count: u32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    let mut io = UserIo::from_iovec(&cx.task, iov, count as usize)?;
    Ok(file.write(&cx.task, &mut io)? as u64)
}

fn preadv(cx: &mut Ctx<'_>, fd: i32, iov: u64, count: u32, off: i64) -> Result<u64> {
    let off = u64::try_from(off).map_err(|_| EINVAL)?;
    let file = cx.task.file(fd)?;
    let mut io = UserIo::from_iovec(&cx.task, iov, count as usize)?;
    Ok(file.read_at(&cx.task, off, &mut io)? as u64)
}

fn pwritev(cx: &mut Ctx<'_>, fd: i32, iov: u64, count: u32, off: i64) -> Result<u64> {
    let off = u64::try_from(off).map_err(|_| EINVAL)?;
    let file = cx.task.file(fd)?;
    let mut io = UserIo::from_iovec(&cx.task, iov, count as usize)?;
    Ok(file.write_at(&cx.task, off, &mut io)? as u64)
}

const RWF_NOAPPEND: u32 = 0x20;

/// The circumstances of preadv2(2)/pwritev2(2) under RWF_* flags.
pub(crate) fn flagged<'a>(
    file: &'a File,
    task: &'a Task,
    flags: u32,
    write: bool,
) -> Result<Io<'a>> {
    let f = flags as i32;
    let known = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC | libc::RWF_NOWAIT;
    if f & !(known | libc::RWF_APPEND | RWF_NOAPPEND as i32) != 0 {
        return Err(EOPNOTSUPP);
    }
    if !write && f & (libc::RWF_APPEND | RWF_NOAPPEND as i32) != 0 {
        return Err(EOPNOTSUPP);
    }
    if f & libc::RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0 {
        return Err(EINVAL);
    }
    let mut io = file.io(task);
    io.nonblock |= f & libc::RWF_NOWAIT != 0;
    io.nowait = f & libc::RWF_NOWAIT != 0;
    io.append |= f & libc::RWF_APPEND != 0;
    if flags & RWF_NOAPPEND != 0 {
        io.append = false;
    }
    io.dsync |= f & (libc::RWF_DSYNC | libc::RWF_SYNC) != 0;
    io.sync |= f & libc::RWF_SYNC != 0;
    Ok(io)
}

fn preadv2(
    cx: &mut Ctx<'_>,
    fd: i32,
    iov: u64,
    count: u32,
    off: i64,
    _high: i64,
    flags: u32,
) -> Result<u64> {
    if off < -1 {
        return Err(EINVAL);
    }
    let file = cx.task.file(fd)?;
    let mut io = UserIo::from_iovec(&cx.task, iov, count as usize)?;
    let how = flagged(&file, &cx.task, flags, false)?;
    let n = if off == -1 {
        file.read_io(&how, &mut io)?
    } else {
        let off = u64::try_from(off).map_err(|_| EINVAL)?;
        file.read_at_io(&how, off, &mut io)?
    };
    Ok(n as u64)
}

fn pwritev2(
    cx: &mut Ctx<'_>,
    fd: i32,
    iov: u64,
    count: u32,
    off: i64,
    _high: i64,
    flags: u32,
) -> Result<u64> {
    if off < -1 {
        return Err(EINVAL);
    }
    let file = cx.task.file(fd)?;
    let mut io = UserIo::from_iovec(&cx.task, iov, count as usize)?;
    let how = flagged(&file, &cx.task, flags, true)?;
    let r = if off == -1 {
        file.write_io(&how, &mut io)
    } else {
        let off = u64::try_from(off).map_err(|_| EINVAL)?;
        file.write_at_io(&how, off, &mut io)
    };
    Ok(r? as u64)
}

fn lseek(cx: &mut Ctx<'_>, fd: i32, off: i64, whence: i32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    if !(0..=4).contains(&whence) {
        return Err(EINVAL);
    }
    file.seek(off, whence)
}

/// Requests of ioctl(2) that every file understands.
const FIOCLEX: u32 = 0x5451;
const FIONCLEX: u32 = 0x5450;
const FIONBIO: u32 = 0x5421;
const FIOASYNC: u32 = 0x5452;
const FIONREAD: u32 = 0x541b;
const FIOQSIZE: u32 = 0x5460;
/// Block size of the filesystem.
const FIGETBSZ: u32 = 2;
/// Where a file lies on its device (`<linux/fs.h>`, Documentation/filesystems/fiemap.rst).
const FS_IOC_FIEMAP: u32 = 0xc020_660b;
/// Who gets SIGIO of a socket.
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;

/// Requests that the kernel itself answers, for devices as for other files: landlock(7) LANDLOCK_ACCESS_FS_IOCTL_DEV does
/// not keep them back. Besides those above FIFREEZE, FITHAW, FICLONE, FICLONERANGE, FIDEDUPERANGE,
/// FS_IOC_GETFSUUID and FS_IOC_GETFSSYSFSPATH (`<linux/fs.h>`).
const OF_EVERY_FILE: [u32; 14] = [
    FIOCLEX,
    FIONCLEX,
    FIONBIO,
    FIOASYNC,
    FIOQSIZE,
    FS_IOC_FIEMAP,
    FIGETBSZ,
    0xc004_5877,
    0xc004_5878,
    0x4004_9409,
    0x4020_940d,
    0xc018_9436,
    0x8011_1500,
    0x8081_1501,
];

fn ioctl(cx: &mut Ctx<'_>, fd: i32, cmd: u32, arg: u64) -> Result<u64> {
    let file = cx.task.file(fd)?;
    if !OF_EVERY_FILE.contains(&cmd) {
        file.check_right(uml_core::landlock::fs::IOCTL_DEV)?;
    }
    let task = cx.task.clone();
    let toggle = |bit: i32| -> Result<u64> {
        let on = user::read_obj::<i32>(&task, arg)? != 0;
        let old = file.flags();
        let new = if on { old | bit as u32 } else { old & !(bit as u32) };
        if bit == libc::O_ASYNC && new != old && !file.ops.signals_owner() {
            return Err(ENOTTY);
        }
        file.set_flags_of(&task, fd, new)?;
        Ok(0)
    };
    let socket = file.inode().file_type() == libc::S_IFSOCK;
    match cmd {
        FIOCLEX => task.files().set_cloexec(fd, true).map(|()| 0),
        FIONCLEX => task.files().set_cloexec(fd, false).map(|()| 0),
        FIONBIO => toggle(libc::O_NONBLOCK),
        FIOASYNC => toggle(libc::O_ASYNC),
        FIOSETOWN | SIOCSPGRP if socket => {
            set_signed_owner(&task, &file, user::read_obj(&task, arg)?)
        }
        FIOGETOWN | SIOCGPGRP if socket => {
            user::write_obj(&task, arg, &signed_owner(&task, &file))?;
            Ok(0)
        }
        FIONREAD if file.inode().file_type() == libc::S_IFREG => {
            let left = file.ops.size().saturating_sub(file.pos());
            user::write_obj(&task, arg, &i32::try_from(left).unwrap_or(i32::MAX))?;
            Ok(0)
        }
        FIOQSIZE
            if matches!(
                file.inode().file_type(),
                libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK
            ) =>
        {
            user::write_obj(&task, arg, &file.inode().metadata()?.size)?;
            Ok(0)
        }
        FIGETBSZ => {
            let size = file.path.mnt.sb.statfs()?.block_size;
            user::write_obj(&task, arg, &i32::try_from(size).map_err(|_| EINVAL)?)?;
            Ok(0)
        }
        // Known for every file, done by few filesystems: the manual of the request says EOPNOTSUPP.
        FS_IOC_FIEMAP => match file.ops.ioctl(cx, &file, cmd, arg) {
            Err(ENOTTY) => Err(EOPNOTSUPP),
            r => r,
        },
        _ => file.ops.ioctl(cx, &file, cmd, arg),
    }
}

/// Bytes moved in one step inside the kernel.
const STEP: usize = 64 << 10;

/// Copies up to `len` bytes from `from` to `to`; offsets of `None` mean the file's position.
fn copy(
    task: &Arc<Task>,
    from: &File,
    from_off: &mut Option<u64>,
    to: &File,
    to_off: &mut Option<u64>,
    len: usize,
) -> Result<usize> {
    let mut done = 0;
    while done < len {
        let mut sink = VecSink::new((len - done).min(STEP));
        // The source's position moves only by what was taken.
        let at = match *from_off {
            Some(o) => o,
            None => from.pos(),
        };
        let got = match from.read_at(task, at, &mut sink) {
            Ok(n) => n,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        };
        if got == 0 {
            break;
        }
        let mut src = BufSource::new(&sink.data);
        let put = match *to_off {
            Some(o) => to.write_at(task, o, &mut src),
            None => to.write(task, &mut src),
        };
        let put = match put {
            Ok(n) => n,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        };
        match from_off {
            Some(o) => *o += put as u64,
            None => from.with_pos(|p| *p = at + put as u64),
        }
        if let Some(o) = to_off {
            *o += put as u64;
        }
        done += put;
        if put < got || task.signal_pending() {
            break;
        }
    }
    Ok(done)
}

fn sendfile(cx: &mut Ctx<'_>, out: i32, input: i32, off: u64, count: usize) -> Result<u64> {
    let task = &cx.task;
    // The offset is fetched before the descriptors are looked at.
    let start: Option<i64> = if off == 0 { None } else { Some(user::read_obj(task, off)?) };
    let from = task.file(input)?;
    let to = task.file(out)?;
    if !from.readable() || !to.writable() {
        return Err(EBADF);
    }
    if !from.ops.seekable() {
        return Err(if off != 0 { ESPIPE } else { EINVAL });
    }
    if to.flags() & libc::O_APPEND as u32 != 0 {
        return Err(EINVAL);
    }
    let mut from_off = start.map(u64::try_from).transpose().map_err(|_| EINVAL)?;
    let n = copy(task, &from, &mut from_off, &to, &mut None, count.min(MAX_RW_COUNT))?;
    if let Some(o) = from_off {
        user::write_obj(task, off, &(o as i64))?;
    }
    Ok(n as u64)
}

fn copy_file_range(
    cx: &mut Ctx<'_>,
    fd_in: i32,
    off_in: u64,
    fd_out: i32,
    off_out: u64,
    len: usize,
    flags: u32,
) -> Result<u64> {
    let task = &cx.task;
    let from = task.file(fd_in)?;
    let to = task.file(fd_out)?;
    let read = |ptr: u64, f: &File| -> Result<i64> {
        if ptr == 0 { Ok(f.pos() as i64) } else { user::read_obj(task, ptr) }
    };
    let (a, b) = (read(off_in, &from)?, read(off_out, &to)?);
    if flags != 0 {
        return Err(EINVAL);
    }
    for f in [&from, &to] {
        match f.inode().file_type() {
            libc::S_IFDIR => return Err(EISDIR),
            libc::S_IFREG => {}
            _ => return Err(EINVAL),
        }
    }
    if !from.readable() || !to.writable() || to.flags() & libc::O_APPEND as u32 != 0 {
        return Err(EBADF);
    }
    let offset = |o: i64| u64::try_from(o).map_err(|_| EINVAL);
    let (a, b) = (offset(a)?, offset(b)?);
    let len = len.min(MAX_RW_COUNT);
    a.checked_add(len as u64).and(b.checked_add(len as u64)).ok_or(EOVERFLOW)?;
    let overlap = a < b + len as u64 && b < a + len as u64;
    if Arc::ptr_eq(from.inode(), to.inode()) && overlap {
        return Err(EINVAL);
    }
    let (mut fo, mut to_off) = (Some(a), Some(b));
    let n = copy(task, &from, &mut fo, &to, &mut to_off, len)?;
    if n == 0 {
        return Ok(0);
    }
    let (na, nb) = (a + n as u64, b + n as u64);
    if off_in == 0 {
        from.with_pos(|p| *p = na);
    } else {
        user::write_obj(task, off_in, &(na as i64))?;
    }
    if off_out == 0 {
        to.with_pos(|p| *p = nb);
    } else {
        user::write_obj(task, off_out, &(nb as i64))?;
    }
    Ok(n as u64)
}

fn fsync(cx: &mut Ctx<'_>, fd: i32) -> Result<u64> {
    cx.task.file(fd)?.ops.fsync(&cx.task, false).map(|()| 0)
}

fn fdatasync(cx: &mut Ctx<'_>, fd: i32) -> Result<u64> {
    cx.task.file(fd)?.ops.fsync(&cx.task, true).map(|()| 0)
}

fn sync(cx: &mut Ctx<'_>) -> Result<u64> {
    for i in cx.task.kernel().vfs.instances() {
        // sync(2) reports nothing; syncfs(2) does.
        let _ = i.sb.sync();
    }
    Ok(0)
}

fn syncfs(cx: &mut Ctx<'_>, fd: i32) -> Result<u64> {
    cx.task.file(fd)?.path.mnt.sb.sync().map(|()| 0)
}

fn sync_file_range(cx: &mut Ctx<'_>, fd: i32, off: i64, len: i64, flags: u32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    if flags & !7 != 0 || off < 0 || len < 0 || off.checked_add(len).is_none() {
        return Err(EINVAL);
    }
    match file.inode().file_type() {
        libc::S_IFREG | libc::S_IFBLK | libc::S_IFDIR | libc::S_IFLNK => {}
        _ => return Err(ESPIPE),
    }
    if flags == 0 {
        return Ok(0);
    }
    let len = if len == 0 { u64::MAX } else { len as u64 };
    file.ops.write_range(&cx.task, off as u64, len).map(|()| 0)
}

fn fallocate(cx: &mut Ctx<'_>, fd: i32, mode: u32, off: i64, len: i64) -> Result<u64> {
    let task = &cx.task;
    let file = task.file(fd)?;
    if off < 0 || len <= 0 {
        return Err(EINVAL);
    }
    const KEEP: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
    const PUNCH: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32;
    const ALL: u32 = KEEP
        | PUNCH
        | libc::FALLOC_FL_COLLAPSE_RANGE as u32
        | libc::FALLOC_FL_ZERO_RANGE as u32
        | libc::FALLOC_FL_INSERT_RANGE as u32
        | libc::FALLOC_FL_UNSHARE_RANGE as u32;
    if mode & !ALL != 0 || (mode & PUNCH != 0 && mode & KEEP == 0) {
        return Err(EOPNOTSUPP);
    }
    if !file.writable() {
        return Err(EBADF);
    }
    match file.inode().file_type() {
        libc::S_IFIFO => return Err(ESPIPE),
        libc::S_IFDIR => return Err(EISDIR),
        libc::S_IFREG | libc::S_IFBLK => {}
        _ => return Err(ENODEV),
    }
    let end = off.checked_add(len).ok_or(EFBIG)?;
    if mode & KEEP == 0 {
        attr::check_file_limit(task, end as u64)?;
    }
    file.ops.fallocate(task, mode, off as u64, len as u64).map(|()| 0)
}

fn ftruncate(cx: &mut Ctx<'_>, fd: i32, len: i64) -> Result<u64> {
    let len = u64::try_from(len).map_err(|_| EINVAL)?;
    let file = cx.task.file(fd)?;
    if file.inode().file_type() != libc::S_IFREG || !file.writable() {
        return Err(EINVAL);
    }
    file.check_right(uml_core::landlock::fs::TRUNCATE)?;
    attr::check_file_limit(&cx.task, len)?;
    attr::set_size(&cx.task, &file.path, len)?;
    Ok(0)
}

fn readahead(cx: &mut Ctx<'_>, fd: i32, off: i64, len: usize) -> Result<u64> {
    let file = cx.task.file(fd)?;
    if !file.readable() {
        return Err(EBADF);
    }
    if off < 0 || file.inode().file_type() != libc::S_IFREG {
        return Err(EINVAL);
    }
    if len > 0 {
        file.ops.advise(off as u64, len as u64, Advice::WillNeed)?;
    }
    Ok(0)
}

fn fadvise64(cx: &mut Ctx<'_>, fd: i32, off: i64, len: i64, advice: i32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    if file.inode().file_type() == libc::S_IFIFO {
        return Err(ESPIPE);
    }
    if len < 0 {
        return Err(EINVAL);
    }
    let advice = match advice {
        libc::POSIX_FADV_NORMAL => Advice::Normal,
        libc::POSIX_FADV_RANDOM => Advice::Random,
        libc::POSIX_FADV_SEQUENTIAL => Advice::Sequential,
        libc::POSIX_FADV_WILLNEED => Advice::WillNeed,
        libc::POSIX_FADV_DONTNEED => Advice::DontNeed,
        libc::POSIX_FADV_NOREUSE => Advice::NoReuse,
        _ => return Err(EINVAL),
    };
    file.ops.advise(off.max(0) as u64, len as u64, advice)?;
    Ok(0)
}
