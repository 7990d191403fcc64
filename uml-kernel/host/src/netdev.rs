//! Host descriptors that carry frames: tap devices, packet sockets, raw IP and UDP sockets, sequenced
//! packets (tun, packet(7), raw(7), udp(7), unix(7)).

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const IFF_TAP: i16 = 2;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const PACKET_VNET_HDR: libc::c_int = 15;
const ETH_P_ALL: u16 = 3;

fn check(r: libc::c_int) -> io::Result<libc::c_int> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_owned())
}

/// Opens a tap device; without a name the host chooses one. Frames have a virtio-net header of ten bytes, and
/// the host cuts and sums what the header says. Returns the descriptor, not blocking, and the name.
pub fn open_tap(name: Option<&str>) -> io::Result<(OwnedFd, String)> {
    let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: a constant path; the result is checked.
    let fd = check(unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) })?;
    // SAFETY: just opened and owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: plain data for which zero is valid.
    let mut req: libc::ifreq = unsafe { zeroed() };
    let name = name.unwrap_or("");
    if name.len() >= libc::IFNAMSIZ {
        return Err(invalid("interface name too long"));
    }
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    req.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    // SAFETY: the request is live and as the call expects it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut req) })?;
    let size: libc::c_int = 10;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) })?;
    // SAFETY: the argument is a number.
    check(unsafe {
        libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    })?;
    let bytes: Vec<u8> = req.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    Ok((fd, String::from_utf8_lossy(&bytes).into_owned()))
}

fn socket(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: just made and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_int(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, v: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length belong together.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const v).cast(), len) })
        .map(drop)
}

/// Number of the interface with this name.
pub fn index_of(name: &str) -> Option<u32> {
    let c = CString::new(name).ok()?;
    // SAFETY: a terminated string.
    match unsafe { libc::if_nametoindex(c.as_ptr()) } {
        0 => None,
        n => Some(n),
    }
}

/// A packet socket on an interface.
pub struct PacketEnd {
    pub fd: OwnedFd,
    /// Frames have a virtio-net header.
    pub vnet: bool,
}

/// Opens a packet socket bound to the interface `name`; one for transmission receives nothing.
pub fn open_packet(name: &str, receive: bool) -> io::Result<PacketEnd> {
    let c = CString::new(name).map_err(|_| invalid("interface name with NUL"))?;
    // SAFETY: a terminated string.
    let index = unsafe { libc::if_nametoindex(c.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let vnet = set_int(&fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1).is_ok();
    // SAFETY: plain data for which zero is valid.
    let mut a: libc::sockaddr_ll = unsafe { zeroed() };
    a.sll_family = libc::AF_PACKET as u16;
    // Without a protocol nothing is received, and the host finds out that of each frame that is sent.
    a.sll_protocol = if receive { ETH_P_ALL.to_be() } else { 0 };
    a.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: address and length belong together.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const a).cast(), len) })?;
    let _ = set_int(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20);
    let _ = set_int(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 4 << 20);
    Ok(PacketEnd { fd, vnet })
}

/// Attaches a classic filter: `EINVAL` for a program that the host does not accept.
pub fn attach_filter(fd: &OwnedFd, insns: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let mut code: Vec<libc::sock_filter> =
        insns.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(code.len()).map_err(|_| invalid("filter too long"))?;
    let prog = libc::sock_fprog { len, filter: code.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the program and what it points to live through the call.
    let r = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const prog).cast(),
            size,
        )
    };
    check(r).map(drop)
}

/// An address as the host has it.
#[derive(Clone, Copy)]
pub struct HostAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl HostAddr {
    /// From an address of the standard library.
    pub fn new(a: SocketAddr) -> HostAddr {
        // SAFETY: plain data for which zero is valid.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        let len = match a {
            SocketAddr::V4(v) => {
                let s = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage is larger than every address.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(s) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v) => {
                let s = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v.ip().octets() },
                    sin6_scope_id: v.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(s) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        HostAddr { storage, len: len as libc::socklen_t }
    }
}

/// Resolves a name to an address of the family.
pub fn resolve(host: &str, port: u16, v6: bool) -> io::Result<SocketAddr> {
    let all = (host, port).to_socket_addrs()?;
    let mut fits = all.filter(|a| a.is_ipv6() == v6);
    fits.next().ok_or_else(|| {
        let family = if v6 { "IPv6" } else { "IPv4" };
        io::Error::new(io::ErrorKind::NotFound, format!("no {family} address for {host}"))
    })
}

fn bound(fd: OwnedFd, a: SocketAddr) -> io::Result<OwnedFd> {
    let h = HostAddr::new(a);
    // SAFETY: address and length belong together.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const h.storage).cast(), h.len) })?;
    let _ = set_int(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20);
    let _ = set_int(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 4 << 20);
    Ok(fd)
}

/// A raw IP socket of a protocol, bound to an address.
pub fn open_raw_ip(src: IpAddr, protocol: i32) -> io::Result<OwnedFd> {
    let domain = if src.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    bound(socket(domain, libc::SOCK_RAW, protocol)?, SocketAddr::new(src, 0))
}

/// A UDP socket bound to an address.
pub fn open_udp(src: SocketAddr) -> io::Result<OwnedFd> {
    let domain = if src.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let fd = socket(domain, libc::SOCK_DGRAM, 0)?;
    set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bound(fd, src)
}

fn unix_addr(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: plain data for which zero is valid.
    let mut a: libc::sockaddr_un = unsafe { zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    let b = path.as_os_str().as_bytes();
    if b.len() >= a.sun_path.len() {
        return Err(invalid("socket path longer than 107 bytes"));
    }
    for (to, from) in a.sun_path.iter_mut().zip(b) {
        *to = *from as libc::c_char;
    }
    Ok(a)
}

/// A sequenced-packet socket, bound to `src` if there is one and connected to `dst`. The error says which step
/// failed: true for the connection.
pub fn open_seqpacket(src: Option<&Path>, dst: &Path) -> Result<OwnedFd, (bool, io::Error)> {
    let first = |e| (false, e);
    let fd = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0).map_err(first)?;
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    if let Some(p) = src {
        let a = unix_addr(p).map_err(first)?;
        // SAFETY: address and length belong together.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const a).cast(), len) }).map_err(first)?;
    }
    let a = unix_addr(dst).map_err(|e| (true, e))?;
    // SAFETY: as above.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const a).cast(), len) })
        .map_err(|e| (true, e))?;
    Ok(fd)
}

/// A pair of connected sequenced-packet sockets; the first, ours, does not block. A program that is started gets the second as one
/// of its standard files.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: just made and owned by nobody else.
    let (a, b) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    make_private(&a)?;
    Ok((a, b))
}

/// A Unix datagram socket bound to an address whose `sun_path` counts in full (an abstract one), not blocking.
pub fn open_unix_datagram(name: &[u8; 108]) -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    let (a, len) = unix_name(name);
    // SAFETY: address and length belong together.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const a).cast(), len) })?;
    Ok(fd)
}

/// Connects a Unix datagram socket to the address with this `sun_path`: only from there it is sent to.
pub fn connect_unix_datagram(fd: &OwnedFd, name: &[u8; 108]) -> io::Result<()> {
    let (a, len) = unix_name(name);
    // SAFETY: address and length belong together.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const a).cast(), len) }).map(drop)
}

/// An address of which an abstract name counts in full, a path up to its NUL.
fn unix_name(name: &[u8; 108]) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: plain data for which zero is valid.
    let mut a: libc::sockaddr_un = unsafe { zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    for (to, from) in a.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    (a, size_of::<libc::sockaddr_un>() as libc::socklen_t)
}

/// A stream connected to the Unix socket at `path`. It does not wait for a server that does not accept:
/// `WouldBlock`.
pub fn connect_unix_stream(path: &Path) -> io::Result<UnixStream> {
    let fd = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let a = unix_addr(path)?;
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: address and length belong together.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const a).cast(), len) })?;
    let s = UnixStream::from(fd);
    s.set_nonblocking(false)?;
    Ok(s)
}

/// A UDP socket that is a member of the group, shared with other sockets of the host, with what is sent to others of
/// this host, too.
pub fn open_multicast(group: SocketAddrV4, ttl: u8) -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_int(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, libc::c_int::from(ttl))?;
    set_int(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 1)?;
    let fd = bound(fd, group.into())?;
    let m = libc::ip_mreq {
        imr_multiaddr: libc::in_addr { s_addr: u32::from_ne_bytes(group.ip().octets()) },
        imr_interface: libc::in_addr { s_addr: 0 },
    };
    let len = size_of::<libc::ip_mreq>() as libc::socklen_t;
    let name = libc::IP_ADD_MEMBERSHIP;
    // SAFETY: value and length belong together.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IP, name, (&raw const m).cast(), len)
    })?;
    Ok(fd)
}

/// Has the interface of a packet socket receive what is for other stations as well.
pub fn set_promiscuous(fd: &OwnedFd, name: &str) -> io::Result<()> {
    let index = index_of(name).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    let m = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let len = size_of::<libc::packet_mreq>() as libc::socklen_t;
    let name = libc::PACKET_ADD_MEMBERSHIP;
    // SAFETY: value and length belong together.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, name, (&raw const m).cast(), len)
    })
    .map(drop)
}

fn make_private(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    unsafe {
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC))?;
        let f = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, f | libc::O_NONBLOCK)).map(drop)
    }
}

/// Takes over an inherited descriptor by a duplicate: `EBADF` when there is none.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a number that is no descriptor is an error.
    let fd = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: just made and owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    make_private(&fd)?;
    Ok(fd)
}

/// A second descriptor for the same file.
pub fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    fd.try_clone()
}

/// Sends one frame from its pieces: by write to a device, to `to` or the peer of a socket.
pub fn send(
    fd: &OwnedFd,
    parts: &[IoSlice<'_>],
    to: Option<&HostAddr>,
    socket: bool,
) -> io::Result<()> {
    let iov: *const libc::iovec = parts.as_ptr().cast();
    let n = if socket {
        // SAFETY: plain data for which zero is valid.
        let mut m: libc::msghdr = unsafe { zeroed() };
        m.msg_iov = iov.cast_mut();
        m.msg_iovlen = parts.len();
        if let Some(a) = to {
            m.msg_name = (&raw const a.storage).cast_mut().cast();
            m.msg_namelen = a.len;
        }
        // SAFETY: IoSlice has the layout of iovec; everything lives through the call.
        unsafe { libc::sendmsg(fd.as_raw_fd(), &m, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) }
    } else {
        // SAFETY: as above.
        unsafe { libc::writev(fd.as_raw_fd(), iov, parts.len() as libc::c_int) }
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one frame; `WouldBlock` when there is none.
pub fn recv(fd: &OwnedFd, buf: &mut [u8], is_socket: bool) -> io::Result<usize> {
    let (p, len) = (buf.as_mut_ptr().cast(), buf.len());
    let n = if is_socket {
        // SAFETY: the buffer is live and as long as said.
        unsafe { libc::recv(fd.as_raw_fd(), p, len, libc::MSG_DONTWAIT) }
    } else {
        // SAFETY: as above.
        unsafe { libc::read(fd.as_raw_fd(), p, len) }
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Receives as many frames as there are into buffers of their own, with one call; their lengths are in `lens`.
pub fn recv_many<'a>(
    fd: &OwnedFd,
    buffers: impl Iterator<Item = &'a mut [u8]>,
    lens: &mut Vec<usize>,
) -> io::Result<()> {
    lens.clear();
    let mut iov: Vec<libc::iovec> = buffers
        .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() })
        .collect();
    let mut all: Vec<libc::mmsghdr> = iov
        .iter_mut()
        .map(|v| {
            // SAFETY: plain data for which zero is valid.
            let mut m: libc::mmsghdr = unsafe { zeroed() };
            m.msg_hdr.msg_iov = v;
            m.msg_hdr.msg_iovlen = 1;
            m
        })
        .collect();
    let n = all.len() as libc::c_uint;
    // SAFETY: the buffers are borrowed for as long as the call takes; headers and their number belong together.
    let r = check(unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            all.as_mut_ptr(),
            n,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    })?;
    lens.extend(all.iter().take(r as usize).map(|m| m.msg_len as usize));
    Ok(())
}

/// Sends several frames with one call; how many were taken before the first that was not.
pub fn send_many(
    fd: &OwnedFd,
    frames: &[Vec<IoSlice<'_>>],
    to: Option<&HostAddr>,
) -> io::Result<usize> {
    let mut all: Vec<libc::mmsghdr> = frames
        .iter()
        .map(|parts| {
            // SAFETY: plain data for which zero is valid.
            let mut m: libc::mmsghdr = unsafe { zeroed() };
            m.msg_hdr.msg_iov = parts.as_ptr().cast::<libc::iovec>().cast_mut();
            m.msg_hdr.msg_iovlen = parts.len();
            if let Some(a) = to {
                m.msg_hdr.msg_name = (&raw const a.storage).cast_mut().cast();
                m.msg_hdr.msg_namelen = a.len;
            }
            m
        })
        .collect();
    let n = all.len() as libc::c_uint;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: IoSlice has the layout of iovec; headers and what they point to live through the call.
    check(unsafe { libc::sendmmsg(fd.as_raw_fd(), all.as_mut_ptr(), n, flags) }).map(|n| n as usize)
}

/// True when the descriptor is a socket.
pub fn is_socket(fd: &OwnedFd) -> bool {
    nix::sys::stat::fstat(fd).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFSOCK)
}

/// True for sockets on which a message may be empty, so that nothing received is not the end.
pub fn is_datagram(fd: &OwnedFd) -> bool {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    is_socket(fd)
        && getsockopt(fd, sockopt::SockType)
            .is_ok_and(|t| matches!(t, SockType::Datagram | SockType::Raw))
}

/// Waits until `fd` is readable (or, with `write`, writable) or `stop` is. Returns both.
pub fn wait(
    fd: BorrowedFd<'_>,
    stop: BorrowedFd<'_>,
    write: bool,
) -> io::Result<(bool, bool, bool)> {
    let mut f = PollFlags::POLLIN;
    if write {
        f |= PollFlags::POLLOUT;
    }
    let mut fds = [PollFd::new(fd, f), PollFd::new(stop, PollFlags::POLLIN)];
    loop {
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let got = fds[0].revents().unwrap_or(PollFlags::empty());
    let stopped = fds[1].revents().is_some_and(|r| !r.is_empty());
    let bad = PollFlags::POLLIN | PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    Ok((got.intersects(bad), got.contains(PollFlags::POLLOUT), stopped))
}

/// Waits until `stop` is readable, not longer than `limit`; true when it is.
pub fn pause(stop: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<bool> {
    use nix::sys::time::TimeSpec;
    let end = limit.map(|l| Instant::now() + l);
    loop {
        let left = end.map(|e| TimeSpec::from(e.saturating_duration_since(Instant::now())));
        let mut fds = [PollFd::new(stop, PollFlags::POLLIN)];
        match nix::poll::ppoll(&mut fds, left, None) {
            Ok(n) => return Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// An event that a waiting thread is told by.
pub struct Signal(nix::sys::eventfd::EventFd);

impl Signal {
    /// A new one, not raised.
    pub fn new() -> io::Result<Signal> {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        Ok(Signal(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Raises it.
    pub fn raise(&self) {
        let _ = self.0.write(1);
    }

    /// Lowers it.
    pub fn clear(&self) {
        let _ = self.0.read();
    }

    /// For [`wait`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }
}
