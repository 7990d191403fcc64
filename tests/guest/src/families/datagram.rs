//! Datagrams with all that comes beside them: control messages, flags, addresses.

use super::inet::{addr, socket};
use crate::c;
use crate::sys::*;

/// What recvmsg(2) gave.
pub(super) struct Message {
    pub r: R,
    pub data: Vec<u8>,
    pub flags: i32,
    /// Level, type and contents of each control message.
    pub control: Vec<(i32, i32, Vec<u8>)>,
    pub name: Vec<u8>,
}

/// Waits for a datagram, or for a message of the error queue with MSG_ERRQUEUE among `flags`.
pub(super) fn receive(fd: i32, flags: i32) -> Message {
    let events = if flags & libc::MSG_ERRQUEUE != 0 { 0 } else { libc::POLLIN };
    let mut p = libc::pollfd { fd, events, revents: 0 };
    c!(libc::poll(&mut p, 1, 10_000));
    let mut data = vec![0u8; 256];
    let mut v = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut ctl = [0u64; 64];
    let mut name = [0u8; 128];
    (m.msg_iov, m.msg_iovlen) = (&mut v, 1);
    (m.msg_name, m.msg_namelen) = (name.as_mut_ptr().cast(), 128);
    (m.msg_control, m.msg_controllen) = (ctl.as_mut_ptr().cast(), 512);
    let r = c!(libc::recvmsg(fd, &mut m, flags | libc::MSG_DONTWAIT));
    data.truncate(r.0.max(0) as usize);
    let mut control = Vec::new();
    if r.is_ok() {
        unsafe {
            let mut h = libc::CMSG_FIRSTHDR(&m);
            while !h.is_null() {
                let len = (*h).cmsg_len - libc::CMSG_LEN(0) as usize;
                let b = std::slice::from_raw_parts(libc::CMSG_DATA(h), len).to_vec();
                control.push(((*h).cmsg_level, (*h).cmsg_type, b));
                h = libc::CMSG_NXTHDR(&m, h);
            }
        }
    }
    Message { r, data, flags: m.msg_flags, control, name: name[..m.msg_namelen as usize].to_vec() }
}

/// Sends one datagram to `port` of the loopback with a control message.
pub(super) fn send(fd: i32, v6: bool, port: u16, control: Option<(i32, i32, &[u8])>) -> R {
    let (mut a, n) = addr(v6, port, false);
    let mut v = libc::iovec { iov_base: b"hello".as_ptr() as *mut _, iov_len: 5 };
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut ctl = [0u64; 64];
    (m.msg_name, m.msg_namelen) = ((&raw mut a).cast(), n);
    (m.msg_iov, m.msg_iovlen) = (&mut v, 1);
    if let Some((level, kind, b)) = control {
        (m.msg_control, m.msg_controllen) =
            (ctl.as_mut_ptr().cast(), unsafe { libc::CMSG_SPACE(b.len() as u32) } as usize);
        unsafe {
            let h = libc::CMSG_FIRSTHDR(&m);
            (*h).cmsg_level = level;
            (*h).cmsg_type = kind;
            (*h).cmsg_len = libc::CMSG_LEN(b.len() as u32) as usize;
            libc::CMSG_DATA(h).copy_from(b.as_ptr(), b.len());
        }
    }
    c!(libc::sendmsg(fd, &m, 0))
}

/// A datagram socket on the loopback, and its port.
pub(super) fn bound(v6: bool) -> (i32, u16) {
    let s = socket(v6, libc::SOCK_DGRAM);
    let (a, n) = addr(v6, 0, false);
    assert!(c!(libc::bind(s, (&raw const a).cast(), n)).is_ok());
    let mut b: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut n = 128u32;
    assert!(c!(libc::getsockname(s, (&raw mut b).cast(), &mut n)).is_ok());
    (s, u16::from_be(unsafe { (&raw const b).cast::<libc::sockaddr_in>().read() }.sin_port))
}
