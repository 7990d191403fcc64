//! Descriptors passed over AF_UNIX sockets (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Receives one message of at most `buf.len()` bytes with the descriptors that came along. A longer
/// message is `EMSGSIZE`. Honours the socket's read time-out.
pub fn receive(socket: impl AsFd, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut iov = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let msg = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut iov, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for c in msg.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = c {
            // SAFETY: recvmsg(2) just made these descriptors for us.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if msg.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((msg.bytes, fds))
}

/// Sends `data` with one descriptor on a connected socket.
pub fn send(socket: &UnixDatagram, data: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(data)], &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// The user of the process at the other end of a connected stream socket (unix(7), SO_PEERCRED).
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    let c = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(c.uid())
}

/// Ends process `pid` (SIGKILL); one that is gone already is fine.
pub fn kill(pid: i32) {
    if pid > 1 {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_descriptor_crosses() {
        let (a, b) = UnixDatagram::pair().expect("pair");
        let (mut r, w) = std::io::pipe().expect("pipe");
        send(&a, b"1234", w.as_fd()).expect("send");
        drop(w);
        let mut buf = [0; 4];
        let (n, fds) = receive(&b, &mut buf).expect("receive");
        assert_eq!((n, &buf, fds.len()), (4, b"1234", 1));
        for fd in fds {
            std::fs::File::from(fd).write_all(b"x").expect("write");
        }
        let mut s = String::new();
        r.read_to_string(&mut s).expect("read");
        assert_eq!(s, "x");
        a.send(b"12345").expect("send");
        let e = receive(&b, &mut buf).expect_err("too long");
        assert_eq!(e.raw_os_error(), Some(libc::EMSGSIZE));
    }
}
