//! The socket calls, for every address family (socket(2), send(2), recv(2), getsockopt(2)).

mod control;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::File;
use uml_core::landlock::net;
use uml_core::task::Task;
use uml_core::user::{self, UserIo};
use uml_ipc::socket::{self, ADDR_MAX, RecvArgs, SendArgs, Shutdown, Socket, SocketFile};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::landlock::check_address;
use crate::table::Entry;
use crate::timespec::{Timespec, read_timeout};

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(41, "socket", socket(Int, Int, Int)),
    call!(53, "socketpair", socketpair(Int, Int, Int, Out)),
    call!(49, "bind", bind(Fd, Ptr, Int)),
    call!(50, "listen", listen(Fd, Int)),
    call!(43, "accept", accept(Fd, Out, Ptr), Sys),
    call!(288, "accept4", accept4(Fd, Out, Ptr, Flags), Sys),
    call!(42, "connect", connect(Fd, Ptr, Int), Sys),
    call!(51, "getsockname", getsockname(Fd, Out, Ptr)),
    call!(52, "getpeername", getpeername(Fd, Out, Ptr)),
    call!(48, "shutdown", shutdown(Fd, Int)),
    call!(44, "sendto", sendto(Fd, In, Size, Flags, Ptr, Int), Sys),
    call!(45, "recvfrom", recvfrom(Fd, Out, Size, Flags, Out, Ptr), Sys),
    call!(46, "sendmsg", sendmsg(Fd, Ptr, Flags), Sys),
    call!(47, "recvmsg", recvmsg(Fd, Ptr, Flags), Sys),
    call!(307, "sendmmsg", sendmmsg(Fd, Ptr, Int, Flags), Sys),
    call!(299, "recvmmsg", recvmmsg(Fd, Ptr, Int, Flags, Ptr), Sys),
    call!(54, "setsockopt", setsockopt(Fd, Int, Int, In, Int)),
    call!(55, "getsockopt", getsockopt(Fd, Int, Int, Out, Ptr)),
];

const TYPE_MASK: i32 = 0xf;
/// Most bytes of ancillary data (net.core.optmem_max).
const OPTMEM_MAX: u64 = 131_072;
/// Most messages of sendmmsg(2) and recvmmsg(2).
const MMSG_MAX: u32 = 1024;

/// The open file and socket behind a descriptor.
struct Handle {
    file: Arc<File>,
}

impl Handle {
    fn new(cx: &Ctx<'_>, fd: i32) -> Result<Handle> {
        let file = cx.task.file(fd)?;
        SocketFile::of(&file)?;
        Ok(Handle { file })
    }

    fn socket(&self) -> &Arc<dyn Socket> {
        match SocketFile::of(&self.file) {
            Ok(s) => s,
            Err(_) => unreachable!("checked when the handle was made"),
        }
    }

    fn nonblock(&self, flags: i32) -> bool {
        self.file.flags() & libc::O_NONBLOCK as u32 != 0 || flags & libc::MSG_DONTWAIT != 0
    }
}

/// Splits SOCK_* flags off a type.
fn split_type(kind: i32) -> Result<(i32, i32)> {
    let flags = kind & !TYPE_MASK;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    Ok((kind & TYPE_MASK, flags))
}

fn install(task: &Task, s: Arc<dyn Socket>, flags: i32) -> Result<i32> {
    task.install_fd(SocketFile::open(task, s, flags), flags & libc::SOCK_CLOEXEC != 0)
}

fn socket(cx: &mut Ctx<'_>, family: i32, kind: i32, protocol: i32) -> Result<u64> {
    let (kind, flags) = split_type(kind)?;
    let s = socket::family(family)?.create(&cx.task, kind, protocol)?;
    Ok(install(&cx.task, s, flags)? as u64)
}

fn socketpair(cx: &mut Ctx<'_>, family: i32, kind: i32, protocol: i32, out: u64) -> Result<u64> {
    let (kind, flags) = split_type(kind)?;
    let task = &cx.task;
    // Where the descriptors go must be writable before sockets are made.
    user::write_obj(task, out, &[-1i32, -1])?;
    let (a, b) = socket::family(family)?.pair(task, kind, protocol)?;
    let (a, b) = (SocketFile::open(task, a, flags), SocketFile::open(task, b, flags));
    let cloexec = flags & libc::SOCK_CLOEXEC != 0;
    let a = task.install_fd(a, cloexec)?;
    let undo = |fds: &[i32]| {
        for fd in fds {
            let _ = task.files().remove(*fd);
        }
    };
    let b = task.install_fd(b, cloexec).inspect_err(|_| undo(&[a]))?;
    user::write_obj(task, out, &[a, b]).inspect_err(|_| undo(&[a, b]))?;
    Ok(0)
}

fn read_addr(cx: &Ctx<'_>, addr: u64, len: i32) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| EINVAL)?;
    if len > ADDR_MAX {
        return Err(EINVAL);
    }
    user::read_bytes(&cx.task, addr, len)
}

/// Stores an address and its length as accept(2) describes: cut to the room, the full length
/// reported.
fn write_addr(task: &Task, addr: u64, len_ptr: u64, value: &[u8]) -> Result<()> {
    let room: i32 = user::read_obj(task, len_ptr)?;
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    user::write_bytes(task, addr, &value[..value.len().min(room)])?;
    user::write_obj(task, len_ptr, &(value.len() as i32))
}

fn bind(cx: &mut Ctx<'_>, fd: i32, addr: u64, len: i32) -> Result<u64> {
    let h = Handle::new(cx, fd)?;
    let addr = read_addr(cx, addr, len)?;
    check_address(&cx.task, &**h.socket(), &addr, net::BIND_TCP)?;
    h.socket().bind(&cx.task, &addr)?;
    Ok(0)
}

fn listen(cx: &mut Ctx<'_>, fd: i32, backlog: i32) -> Result<u64> {
    Handle::new(cx, fd)?.socket().listen(&cx.task, backlog)?;
    Ok(0)
}

fn accept(cx: &mut Ctx<'_>, fd: i32, addr: u64, len: u64) -> Result<u64> {
    accept4(cx, fd, addr, len, 0)
}

fn accept4(cx: &mut Ctx<'_>, fd: i32, addr: u64, len: u64, flags: i32) -> Result<u64> {
    let h = Handle::new(cx, fd)?;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    let (s, from) = h.socket().accept(&cx.task, h.nonblock(0))?;
    // From here on an error closes the connection.
    let file = SocketFile::open(&cx.task, s, flags);
    if addr != 0 {
        write_addr(&cx.task, addr, len, &from)?;
    }
    Ok(cx.task.install_fd(file, flags & libc::SOCK_CLOEXEC != 0)? as u64)
}

fn connect(cx: &mut Ctx<'_>, fd: i32, addr: u64, len: i32) -> Result<u64> {
    let h = Handle::new(cx, fd)?;
    let addr = read_addr(cx, addr, len)?;
    check_address(&cx.task, &**h.socket(), &addr, net::CONNECT_TCP)?;
    h.socket().connect(&cx.task, &addr, h.nonblock(0))?;
    Ok(0)
}

fn getsockname(cx: &mut Ctx<'_>, fd: i32, addr: u64, len: u64) -> Result<u64> {
    let name = Handle::new(cx, fd)?.socket().local()?;
    write_addr(&cx.task, addr, len, &name)?;
    Ok(0)
}

fn getpeername(cx: &mut Ctx<'_>, fd: i32, addr: u64, len: u64) -> Result<u64> {
    let name = Handle::new(cx, fd)?.socket().peer()?;
    write_addr(&cx.task, addr, len, &name)?;
    Ok(0)
}

fn shutdown(cx: &mut Ctx<'_>, fd: i32, how: i32) -> Result<u64> {
    let h = Handle::new(cx, fd)?;
    let how = match how {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return Err(EINVAL),
    };
    h.socket().shutdown(how)?;
    Ok(0)
}

fn sendto(
    cx: &mut Ctx<'_>,
    fd: i32,
    buf: u64,
    len: usize,
    flags: i32,
    addr: u64,
    addr_len: i32,
) -> Result<u64> {
    let mut data = UserIo::new(&cx.task, buf, len)?;
    let h = Handle::new(cx, fd)?;
    // An address of no length is none.
    let to = match (addr, addr_len) {
        (0, _) | (_, 0) => None,
        _ => Some(read_addr(cx, addr, addr_len)?),
    };
    let mut args = SendArgs {
        task: &cx.task,
        data: &mut data,
        addr: to.as_deref(),
        control: &[],
        flags,
        nonblock: h.nonblock(flags),
    };
    Ok(h.socket().send(&mut args)? as u64)
}

fn recvfrom(
    cx: &mut Ctx<'_>,
    fd: i32,
    buf: u64,
    len: usize,
    flags: i32,
    addr: u64,
    addr_len: u64,
) -> Result<u64> {
    let mut data = UserIo::new(&cx.task, buf, len)?;
    let h = Handle::new(cx, fd)?;
    let mut args = RecvArgs {
        task: &cx.task,
        data: &mut data,
        flags,
        nonblock: h.nonblock(flags),
        want_control: false,
    };
    let got = h.socket().recv(&mut args)?;
    if addr != 0 {
        write_addr(&cx.task, addr, addr_len, &got.addr.unwrap_or_default())?;
    }
    Ok(got.len as u64)
}

/// `struct msghdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MsgHdr {
    name: u64,
    name_len: i32,
    pad0: u32,
    iov: u64,
    iov_len: u64,
    control: u64,
    control_len: u64,
    flags: i32,
    pad1: u32,
}

const HEADER: u64 = size_of::<MsgHdr>() as u64;
const _: () = assert!(HEADER == 56);
/// `struct mmsghdr`: a header and the length of the message.
const MMSG_STRIDE: u64 = HEADER + 8;

impl MsgHdr {
    fn read(cx: &Ctx<'_>, at: u64) -> Result<MsgHdr> {
        let mut m: MsgHdr = user::read_obj(&cx.task, at)?;
        if m.name == 0 {
            m.name_len = 0;
        }
        if m.name_len < 0 {
            return Err(EINVAL);
        }
        if m.iov_len > user::IOV_MAX as u64 {
            return Err(EMSGSIZE);
        }
        Ok(m)
    }

    fn data(&self, cx: &Ctx<'_>) -> Result<UserIo> {
        UserIo::from_iovec(&cx.task, self.iov, self.iov_len as usize)
    }
}

fn send_one(cx: &Ctx<'_>, h: &Handle, at: u64, flags: i32) -> Result<usize> {
    let m = MsgHdr::read(cx, at)?;
    let addr = match m.name_len {
        0 => None,
        n => Some(read_addr(cx, m.name, n.min(ADDR_MAX as i32))?),
    };
    let mut data = m.data(cx)?;
    if m.control_len > i32::MAX as u64 || (m.control != 0 && m.control_len > OPTMEM_MAX) {
        return Err(ENOBUFS);
    }
    let control = match m.control {
        0 => Vec::new(),
        at => user::read_bytes(&cx.task, at, m.control_len as usize)?,
    };
    let mut args = SendArgs {
        task: &cx.task,
        data: &mut data,
        addr: addr.as_deref(),
        control: &control,
        flags,
        nonblock: h.nonblock(flags),
    };
    h.socket().send(&mut args)
}

/// The kernel's own mark of 32-bit callers; programs may not set it.
fn without_compat(flags: i32) -> Result<()> {
    const MSG_CMSG_COMPAT: i32 = i32::MIN;
    if flags & MSG_CMSG_COMPAT != 0 { Err(EINVAL) } else { Ok(()) }
}

fn sendmsg(cx: &mut Ctx<'_>, fd: i32, msg: u64, flags: i32) -> Result<u64> {
    without_compat(flags)?;
    let h = Handle::new(cx, fd)?;
    Ok(send_one(cx, &h, msg, flags)? as u64)
}

fn recv_one(cx: &Ctx<'_>, h: &Handle, at: u64, flags: i32) -> Result<usize> {
    let m = MsgHdr::read(cx, at)?;
    let mut data = m.data(cx)?;
    let mut args = RecvArgs {
        task: &cx.task,
        data: &mut data,
        flags,
        nonblock: h.nonblock(flags),
        want_control: m.control != 0 && m.control_len > 0,
    };
    let got = h.socket().recv(&mut args)?;
    let task = &cx.task;
    let mut out = m;
    out.flags = got.flags | (flags & libc::MSG_CMSG_CLOEXEC);
    if m.name != 0 {
        let addr = got.addr.unwrap_or_default();
        let n = addr.len().min(m.name_len as usize);
        user::write_bytes(task, m.name, &addr[..n])?;
        out.name_len = addr.len() as i32;
    }
    let cloexec = flags & libc::MSG_CMSG_CLOEXEC != 0;
    let room = if m.control == 0 { 0 } else { m.control_len };
    let (used, truncated) = control::write(task, m.control, room, got.control, cloexec)?;
    out.control_len = used;
    if truncated {
        out.flags |= libc::MSG_CTRUNC;
    }
    // The pointers of the header stay the program's.
    user::write_obj(task, at, &out)?;
    Ok(got.len)
}

fn recvmsg(cx: &mut Ctx<'_>, fd: i32, msg: u64, flags: i32) -> Result<u64> {
    without_compat(flags)?;
    let h = Handle::new(cx, fd)?;
    Ok(recv_one(cx, &h, msg, flags)? as u64)
}

fn sendmmsg(cx: &mut Ctx<'_>, fd: i32, vec: u64, n: u32, flags: i32) -> Result<u64> {
    without_compat(flags)?;
    let h = Handle::new(cx, fd)?;
    let mut done = 0u64;
    for i in 0..u64::from(n.min(MMSG_MAX)) {
        let at = vec.wrapping_add(i * MMSG_STRIDE);
        let sent = send_one(cx, &h, at, flags)
            .and_then(|n| user::write_obj(&cx.task, at.wrapping_add(HEADER), &(n as u32)));
        match sent {
            Ok(()) => done += 1,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn recvmmsg(cx: &mut Ctx<'_>, fd: i32, vec: u64, n: u32, flags: i32, timeout: u64) -> Result<u64> {
    without_compat(flags)?;
    let limit = read_timeout(&cx.task, timeout)?;
    let h = Handle::new(cx, fd)?;
    let start = uml_base::clock::now();
    let mut flags = flags;
    let mut done = 0u64;
    for i in 0..u64::from(n.min(MMSG_MAX)) {
        let at = vec.wrapping_add(i * MMSG_STRIDE);
        let got = recv_one(cx, &h, at, flags & !libc::MSG_WAITFORONE)
            .and_then(|n| user::write_obj(&cx.task, at.wrapping_add(HEADER), &(n as u32)));
        match got {
            Ok(()) => done += 1,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
        // The timeout is looked at only after a message (recvmmsg(2) BUGS).
        if limit.is_some_and(|l| uml_base::clock::since(start) >= l) {
            break;
        }
    }
    if let Some(l) = limit {
        let left = l.saturating_sub(uml_base::clock::since(start));
        user::write_obj(&cx.task, timeout, &Timespec::from(left))?;
    }
    Ok(done)
}

fn setsockopt(
    cx: &mut Ctx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: u64,
    len: i32,
) -> Result<u64> {
    let h = Handle::new(cx, fd)?;
    let len = usize::try_from(len).map_err(|_| EINVAL)?;
    let value = user::read_bytes(&cx.task, value, len.min(OPTMEM_MAX as usize))?;
    let s = h.socket();
    if level == libc::SOL_SOCKET
        && let Some(r) = s.options().set(&cx.task, name, &value)
    {
        r?;
        s.option_changed(&cx.task, name)?;
        return Ok(0);
    }
    s.set_option(&cx.task, level, name, &value)?;
    Ok(0)
}

fn getsockopt(
    cx: &mut Ctx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: u64,
    len: u64,
) -> Result<u64> {
    let h = Handle::new(cx, fd)?;
    let room: i32 = user::read_obj(&cx.task, len)?;
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    let s = h.socket();
    let int = |v: i32| v.to_le_bytes().to_vec();
    let (domain, kind, protocol) = s.identity();
    let bytes = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => int(domain),
        (libc::SOL_SOCKET, libc::SO_TYPE) => int(kind),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => int(protocol),
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => int(i32::from(s.listening())),
        (libc::SOL_SOCKET, libc::SO_ERROR) => {
            int(s.take_error().map_or(0, |e| i32::from(e.raw() as i16)))
        }
        (libc::SOL_SOCKET, _) => match s.own_option(name).or_else(|| s.options().get(name)) {
            Some(b) => b,
            None => s.get_option(&cx.task, level, name, room)?,
        },
        _ => s.query(&cx.task, level, name, value, room)?,
    };
    let n = bytes.len().min(room);
    user::write_bytes(&cx.task, value, &bytes[..n])?;
    user::write_obj(&cx.task, len, &(n as i32))?;
    Ok(0)
}
