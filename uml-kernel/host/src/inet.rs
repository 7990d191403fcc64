//! Ordinary Internet sockets, never waiting, and readiness of many of them (ip(7), tcp(7), udp(7), icmp(7),
//! epoll(7)).

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

fn check(r: libc::c_int) -> io::Result<libc::c_int> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn count(r: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(r).map_err(|_| io::Error::last_os_error())
}

fn socket(v6: bool, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let domain = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: just made and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, v: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length belong together.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const v).cast(), len) })
        .map(drop)
}

/// An address in the host's form.
fn encode(a: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: plain data for which zero is valid.
    let mut s: libc::sockaddr_storage = unsafe { zeroed() };
    let len = match a {
        SocketAddr::V4(v) => {
            // SAFETY: plain data for which zero is valid.
            let mut t: libc::sockaddr_in = unsafe { zeroed() };
            t.sin_family = libc::AF_INET as u16;
            t.sin_port = v.port().to_be();
            t.sin_addr.s_addr = u32::from_ne_bytes(v.ip().octets());
            // SAFETY: the storage is larger than every address.
            unsafe { (&raw mut s).cast::<libc::sockaddr_in>().write(t) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v) => {
            // SAFETY: plain data for which zero is valid.
            let mut t: libc::sockaddr_in6 = unsafe { zeroed() };
            t.sin6_family = libc::AF_INET6 as u16;
            t.sin6_port = v.port().to_be();
            t.sin6_addr.s6_addr = v.ip().octets();
            t.sin6_scope_id = v.scope_id();
            // SAFETY: as above.
            unsafe { (&raw mut s).cast::<libc::sockaddr_in6>().write(t) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (s, len as libc::socklen_t)
}

/// An address in the host's form, read; `None` for another family.
fn decode(s: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(s.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is, and the storage is larger than every address.
            let t = unsafe { (&raw const *s).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(t.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(t.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let t = unsafe { (&raw const *s).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(t.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(t.sin6_port), 0, t.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn bind(fd: &OwnedFd, a: SocketAddr) -> io::Result<()> {
    let (s, len) = encode(a);
    // SAFETY: address and length belong together.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const s).cast(), len) }).map(drop)
}

fn stream_options(fd: &OwnedFd) {
    // Without them the connection works less well, no more.
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    let _ = set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
}

/// A TCP socket that is being connected.
pub fn connect(to: SocketAddr) -> io::Result<OwnedFd> {
    let fd = socket(to.is_ipv6(), libc::SOCK_STREAM, 0)?;
    if to.is_ipv6() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    stream_options(&fd);
    let (s, len) = encode(to);
    // SAFETY: address and length belong together.
    match check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const s).cast(), len) }) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(fd),
    }
}

/// How a connection that was begun has gone; `EINPROGRESS` while it goes on.
pub fn connected(fd: &OwnedFd) -> io::Result<()> {
    let mut e: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length belong together.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut e).cast(),
            &mut len,
        )
    })?;
    if e != 0 {
        return Err(io::Error::from_raw_os_error(e));
    }
    // SAFETY: plain data for which zero is valid.
    let mut s: libc::sockaddr_storage = unsafe { zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: room and its length belong together.
    match check(unsafe { libc::getpeername(fd.as_raw_fd(), (&raw mut s).cast(), &mut len) }) {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            Err(io::Error::from_raw_os_error(libc::EINPROGRESS))
        }
        Err(e) => Err(e),
    }
}

/// Sends on a connection.
pub fn send(fd: &OwnedFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: plain data for which zero is valid.
    let mut m: libc::msghdr = unsafe { zeroed() };
    m.msg_iov = parts.as_ptr().cast::<libc::iovec>().cast_mut();
    m.msg_iovlen = parts.len();
    // SAFETY: IoSlice has the layout of iovec; everything lives through the call.
    count(unsafe { libc::sendmsg(fd.as_raw_fd(), &m, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) })
}

/// Receives on a connection.
pub fn recv(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and as long as said.
    count(unsafe {
        libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT)
    })
}

/// Ends the sending side of a connection.
pub fn finish(fd: &OwnedFd) {
    // SAFETY: no memory is passed.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

/// Closes a connection so that the peer sees a reset.
pub fn reset(fd: OwnedFd) {
    let l = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: value and length belong together.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const l).cast(),
            len,
        )
    };
}

/// A TCP socket that listens at an address.
pub fn listen(at: SocketAddr) -> io::Result<OwnedFd> {
    let fd = socket(at.is_ipv6(), libc::SOCK_STREAM, 0)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if at.is_ipv6() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    bind(&fd, at)?;
    // SAFETY: no memory is passed.
    check(unsafe { libc::listen(fd.as_raw_fd(), 1024) })?;
    Ok(fd)
}

/// A connection that came in, and its peer.
pub fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: plain data for which zero is valid.
    let mut s: libc::sockaddr_storage = unsafe { zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: room and its length belong together.
    let fd = check(unsafe {
        libc::accept4(listener.as_raw_fd(), (&raw mut s).cast(), &mut len, flags)
    })?;
    // SAFETY: just made and owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    stream_options(&fd);
    let peer = decode(&s).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    Ok((fd, peer))
}

fn note_errors(fd: &OwnedFd, v6: bool) -> io::Result<()> {
    if v6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}

/// A UDP socket of the address' family, bound to it unless it says nothing, that notes errors.
pub fn datagrams(at: SocketAddr) -> io::Result<OwnedFd> {
    let fd = socket(at.is_ipv6(), libc::SOCK_DGRAM, 0)?;
    if at.is_ipv6() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    note_errors(&fd, at.is_ipv6())?;
    if !at.ip().is_unspecified() || at.port() != 0 {
        bind(&fd, at)?;
    }
    Ok(fd)
}

/// A socket for echo requests, where the host lets this user have one.
pub fn ping(v6: bool) -> io::Result<OwnedFd> {
    let protocol = if v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
    let fd = socket(v6, libc::SOCK_DGRAM, protocol)?;
    note_errors(&fd, v6)?;
    Ok(fd)
}

/// Sets the time to live of what is sent; `None` is the host's own.
pub fn set_ttl(fd: &OwnedFd, v6: bool, ttl: Option<u8>) -> io::Result<()> {
    let v = ttl.map_or(-1, libc::c_int::from);
    if v6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, v)
    } else {
        set(fd, libc::IPPROTO_IP, libc::IP_TTL, v)
    }
}

/// Whether an error is one that was noted earlier, not one of this call.
fn stale(e: &io::Error) -> bool {
    !matches!(
        e.raw_os_error(),
        Some(libc::EAGAIN | libc::EMSGSIZE | libc::EACCES | libc::EPERM | libc::EINVAL) | None
    )
}

/// Sends one datagram. An error noted earlier is not its error.
pub fn send_to(fd: &OwnedFd, parts: &[IoSlice<'_>], to: SocketAddr) -> io::Result<()> {
    let (mut s, len) = encode(to);
    // SAFETY: plain data for which zero is valid.
    let mut m: libc::msghdr = unsafe { zeroed() };
    m.msg_name = (&raw mut s).cast();
    m.msg_namelen = len;
    m.msg_iov = parts.as_ptr().cast::<libc::iovec>().cast_mut();
    m.msg_iovlen = parts.len();
    let mut again = true;
    loop {
        // SAFETY: IoSlice has the layout of iovec; everything lives through the call.
        let r = count(unsafe {
            libc::sendmsg(fd.as_raw_fd(), &m, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        });
        match r {
            Err(e) if again && stale(&e) => again = false,
            r => return r.map(drop),
        }
    }
}

/// Receives one datagram and says who sent it.
pub fn recv_from(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    // SAFETY: plain data for which zero is valid.
    let mut s: libc::sockaddr_storage = unsafe { zeroed() };
    let mut tries = 0;
    loop {
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        // SAFETY: buffers and their lengths belong together.
        let r = count(unsafe {
            libc::recvfrom(
                fd.as_raw_fd(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                libc::MSG_DONTWAIT,
                (&raw mut s).cast(),
                &mut len,
            )
        });
        match r {
            Ok(n) => {
                let from = decode(&s).unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
                return Ok((n, from));
            }
            // Noted errors are told of once each, before what there is to read.
            Err(e) if stale(&e) && tries < 16 => tries += 1,
            Err(e) => return Err(e),
        }
    }
}

/// An error that was noted for a datagram socket.
#[derive(Clone, Debug)]
pub struct Noted {
    pub errno: i32,
    /// Type and code of the ICMP message, and its number; zeros when the host itself refused.
    pub kind: u8,
    pub code: u8,
    pub info: u32,
    pub from: Option<IpAddr>,
    /// Where the datagram went.
    pub to: SocketAddr,
    /// Its beginning.
    pub data: Vec<u8>,
}

const ORIGIN_LOCAL: u8 = 1;
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// The next noted error.
pub fn noted_error(fd: &OwnedFd) -> Option<Noted> {
    let mut data = [0u8; 512];
    // Aligned as control messages are.
    let mut control = [0u64; 64];
    // SAFETY: plain data for which zero is valid.
    let mut name: libc::sockaddr_storage = unsafe { zeroed() };
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: plain data for which zero is valid.
    let mut m: libc::msghdr = unsafe { zeroed() };
    m.msg_name = (&raw mut name).cast();
    m.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    m.msg_iov = &raw mut iov;
    m.msg_iovlen = 1;
    m.msg_control = control.as_mut_ptr().cast();
    m.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: every buffer is live and as long as said.
    let n = count(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut m, flags) }).ok()?;
    let to = decode(&name)?;
    let mut out = Noted {
        errno: 0,
        kind: 0,
        code: 0,
        info: 0,
        from: None,
        to,
        data: data[..n.min(data.len())].to_vec(),
    };
    // SAFETY: the host filled the header and the control buffer.
    let mut c = unsafe { libc::CMSG_FIRSTHDR(&m) };
    while !c.is_null() {
        // SAFETY: the pointer is into the control buffer, at a header.
        let h = unsafe { &*c };
        let v4 = h.cmsg_level == libc::IPPROTO_IP && h.cmsg_type == libc::IP_RECVERR;
        let v6 = h.cmsg_level == libc::IPPROTO_IPV6 && h.cmsg_type == libc::IPV6_RECVERR;
        if v4 || v6 {
            // SAFETY: such a message holds this structure and an address after it.
            let e =
                unsafe { libc::CMSG_DATA(c).cast::<libc::sock_extended_err>().read_unaligned() };
            out.errno = e.ee_errno as i32;
            if matches!(e.ee_origin, ORIGIN_ICMP | ORIGIN_ICMP6) {
                (out.kind, out.code, out.info) = (e.ee_type, e.ee_code, e.ee_info);
                // SAFETY: plain data for which zero is valid.
                let mut s: libc::sockaddr_storage = unsafe { zeroed() };
                let size = if v4 {
                    size_of::<libc::sockaddr_in>()
                } else {
                    size_of::<libc::sockaddr_in6>()
                };
                let head = size_of::<libc::sock_extended_err>();
                // SAFETY: the length without data is a constant.
                let have = h.cmsg_len as usize - unsafe { libc::CMSG_LEN(0) } as usize;
                if have >= head + size {
                    // SAFETY: the message is long enough; the storage is larger than every address.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            libc::CMSG_DATA(c).add(head),
                            (&raw mut s).cast::<u8>(),
                            size,
                        );
                    }
                    out.from = decode(&s).map(|a| a.ip());
                }
            } else if e.ee_origin == ORIGIN_LOCAL {
                out.info = e.ee_info;
            }
        }
        // SAFETY: as for the first.
        c = unsafe { libc::CMSG_NXTHDR(&m, c) };
    }
    Some(out)
}

/// Readiness of many sockets. A descriptor that is closed is forgotten.
pub struct Poller(Epoll);

/// One socket that can go on.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

impl Poller {
    /// With nothing to wait for.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    fn edges(token: u64, write: bool) -> EpollEvent {
        let mut f = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        f.set(EpollFlags::EPOLLOUT, write);
        EpollEvent::new(f, token)
    }

    /// Tells of every change to readable (and, with `write`, to writable), once (edge-triggered).
    pub fn add_edges(
        &self,
        fd: &impl std::os::fd::AsFd,
        token: u64,
        write: bool,
    ) -> io::Result<()> {
        Ok(self.0.add(fd, Poller::edges(token, write))?)
    }

    /// From now on tells of changes to writable as well; of the present state, too.
    pub fn watch_writing(&self, fd: &impl std::os::fd::AsFd, token: u64) -> io::Result<()> {
        Ok(self.0.modify(fd, &mut Poller::edges(token, true))?)
    }

    /// Tells as long as there is something to read.
    pub fn add_reading(&self, fd: &impl std::os::fd::AsFd, token: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// Waits until something is ready.
    pub fn wait(&self, out: &mut Vec<Ready>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        out.clear();
        let n = match self.0.wait(&mut events, EpollTimeout::NONE) {
            Ok(n) => n,
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        for e in &events[..n] {
            let f = e.events();
            out.push(Ready {
                token: e.data(),
                readable: f.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | broken),
                writable: f.intersects(EpollFlags::EPOLLOUT | broken),
            });
        }
        Ok(())
    }
}
