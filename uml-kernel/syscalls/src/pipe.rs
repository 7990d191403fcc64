//! pipe(2), pipe2(2), splice(2), tee(2), vmsplice(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::File;
use uml_core::user::{self, UserIo};
use uml_ipc::pipe::{Pipe, Position};

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(22, "pipe", pipe(Ptr)),
    call!(293, "pipe2", pipe2(Ptr, Flags)),
    call!(275, "splice", splice(Fd, Ptr, Fd, Ptr, Size, Flags), Sys),
    call!(276, "tee", tee(Fd, Fd, Size, Flags), Sys),
    call!(278, "vmsplice", vmsplice(Fd, Ptr, Size, Flags), Sys),
];

fn pipe(cx: &mut Ctx<'_>, fds: u64) -> Result<u64> {
    pipe2(cx, fds, 0)
}

fn pipe2(cx: &mut Ctx<'_>, fds: u64, flags: u32) -> Result<u64> {
    let known = (libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) as u32;
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let (read, write) = Pipe::pair(task, flags)?;
    let cloexec = flags & libc::O_CLOEXEC as u32 != 0;
    let r = task.install_fd(read, cloexec)?;
    let w = match task.install_fd(write, cloexec) {
        Ok(w) => w,
        Err(e) => {
            let _ = task.files().remove(r);
            return Err(e);
        }
    };
    if let Err(e) = user::write_obj(task, fds, &[r, w]) {
        let _ = task.files().remove(r);
        let _ = task.files().remove(w);
        return Err(e);
    }
    Ok(0)
}

const SPLICE_F_ALL: u32 =
    libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

fn is_nonblock(file: &File) -> bool {
    file.flags() & libc::O_NONBLOCK as u32 != 0
}

/// The caller's offset behind a pointer argument of splice(2).
fn read_offset(cx: &Ctx<'_>, ptr: u64, file: &File) -> Result<Option<u64>> {
    if ptr == 0 {
        return Ok(None);
    }
    if !file.ops.seekable() {
        return Err(EINVAL);
    }
    let off: i64 = user::read_obj(&cx.task, ptr)?;
    u64::try_from(off).map(Some).map_err(|_| EINVAL)
}

fn splice(
    cx: &mut Ctx<'_>,
    fd_in: i32,
    off_in: u64,
    fd_out: i32,
    off_out: u64,
    len: usize,
    flags: u32,
) -> Result<u64> {
    if len == 0 {
        return Ok(0);
    }
    if flags & !SPLICE_F_ALL != 0 {
        return Err(EINVAL);
    }
    let task = cx.task.clone();
    let input = task.file(fd_in)?;
    let output = task.file(fd_out)?;
    if !input.readable() || !output.writable() {
        return Err(EBADF);
    }
    let len = len.min(user::MAX_RW_COUNT);
    let nonblock = flags & libc::SPLICE_F_NONBLOCK != 0;
    let n = match (Pipe::of(&input), Pipe::of(&output)) {
        (Some(from), Some(to)) => {
            if off_in != 0 || off_out != 0 {
                return Err(ESPIPE);
            }
            if Arc::ptr_eq(from, to) {
                return Err(EINVAL);
            }
            let nonblock = nonblock || is_nonblock(&input) || is_nonblock(&output);
            from.splice_to_pipe(to, &task, len, nonblock)?
        }
        (Some(from), None) => {
            if off_in != 0 {
                return Err(ESPIPE);
            }
            let mut off = read_offset(cx, off_out, &output)?;
            if output.flags() & libc::O_APPEND as u32 != 0 {
                return Err(EINVAL);
            }
            let at = off.as_mut().map_or(Position::Own, Position::At);
            let n = from.splice_to_file(&output, at, &task, len, nonblock)?;
            write_offset(cx, off_out, off)?;
            n
        }
        (None, Some(to)) => {
            if off_out != 0 {
                return Err(ESPIPE);
            }
            let mut off = read_offset(cx, off_in, &input)?;
            let at = off.as_mut().map_or(Position::Own, Position::At);
            let n = to.splice_from_file(&input, at, &task, len, nonblock)?;
            write_offset(cx, off_in, off)?;
            n
        }
        (None, None) => return Err(EINVAL),
    };
    Ok(n as u64)
}

fn write_offset(cx: &Ctx<'_>, ptr: u64, off: Option<u64>) -> Result<()> {
    match off {
        Some(off) => user::write_obj(&cx.task, ptr, &off),
        None => Ok(()),
    }
}

fn tee(cx: &mut Ctx<'_>, fd_in: i32, fd_out: i32, len: usize, flags: u32) -> Result<u64> {
    if flags & !SPLICE_F_ALL != 0 {
        return Err(EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let task = cx.task.clone();
    let input = task.file(fd_in)?;
    let output = task.file(fd_out)?;
    if !input.readable() || !output.writable() {
        return Err(EBADF);
    }
    let (Some(from), Some(to)) = (Pipe::of(&input), Pipe::of(&output)) else {
        return Err(EINVAL);
    };
    if Arc::ptr_eq(from, to) {
        return Err(EINVAL);
    }
    let nonblock =
        flags & libc::SPLICE_F_NONBLOCK != 0 || is_nonblock(&input) || is_nonblock(&output);
    Ok(from.tee(to, &task, len.min(user::MAX_RW_COUNT), nonblock)? as u64)
}

fn vmsplice(cx: &mut Ctx<'_>, fd: i32, iov: u64, count: usize, flags: u32) -> Result<u64> {
    if flags & !SPLICE_F_ALL != 0 {
        return Err(EINVAL);
    }
    let task = cx.task.clone();
    let file = task.file(fd)?;
    if !file.readable() && !file.writable() {
        return Err(EBADF);
    }
    let mut mem = UserIo::from_iovec(&task, iov, count)?;
    if mem.is_empty() {
        return Ok(0);
    }
    let Some(pipe) = Pipe::of(&file) else { return Err(EBADF) };
    let nonblock = flags & libc::SPLICE_F_NONBLOCK != 0;
    let n = if file.writable() {
        pipe.vmsplice(&mut mem, &task, nonblock)?
    } else {
        let mut io = file.io(&task);
        io.nonblock |= nonblock;
        pipe.read(&io, &mut mem)?
    };
    Ok(n as u64)
}
