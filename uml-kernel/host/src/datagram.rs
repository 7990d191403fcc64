//! AF_UNIX datagram sockets of the management console (unix(7)): requests with the sender's credentials,
//! replies, notifications.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// Where a datagram came from.
#[derive(Clone, Copy)]
pub struct Sender {
    address: libc::sockaddr_un,
    /// Bytes of `address` in use; no more than the family means that the sender's socket has no name and
    /// cannot be answered.
    address_len: libc::socklen_t,
    /// What the host says, not the sender; `None` when it says nothing.
    pub credentials: Option<Peer>,
}

/// Process and user behind a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
}

/// A bound socket that tells who sends.
pub struct Receiver {
    socket: UnixDatagram,
}

impl Receiver {
    /// Binds to `path`, which must fit an address. Sends give up after `patience`.
    pub fn bind(path: &Path, patience: Duration) -> io::Result<Receiver> {
        let socket = UnixDatagram::bind(path)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Receiver { socket })
    }

    /// Waits for a datagram; what does not fit `buf` is lost. Descriptors that come with it are closed.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Sender)> {
        // SAFETY: plain data for which zero is valid.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        let mut control = Control([0; CONTROL]);
        let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        // SAFETY: as above.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control.0).cast();
        message.msg_controllen = CONTROL;
        // SAFETY: every pointer in the header is to live memory of the length it says.
        let n =
            unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the host filled the header in.
        let credentials = unsafe { read_control(&message) };
        Ok((n, Sender { address, address_len: message.msg_namelen, credentials }))
    }

    /// Answers a sender; `EDESTADDRREQ` when it has no name, `EAGAIN` when it does not read.
    pub fn reply(&self, to: &Sender, datagram: &[u8]) -> io::Result<()> {
        if to.address_len as usize <= size_of::<libc::sa_family_t>() {
            return Err(io::Error::from_raw_os_error(libc::EDESTADDRREQ));
        }
        // SAFETY: buffer and address are live and as long as said.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                datagram.as_ptr().cast(),
                datagram.len(),
                libc::MSG_NOSIGNAL,
                (&raw const to.address).cast(),
                to.address_len.min(size_of::<libc::sockaddr_un>() as libc::socklen_t),
            )
        };
        match usize::try_from(sent) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(n) if n == datagram.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Room for credentials and as many descriptors as a datagram can carry (SCM_MAX_FD is 253), so that each is
/// seen here and closed.
const CONTROL: usize = 1088;

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// The credentials in a received header; closes descriptors.
///
/// # Safety
/// `message` is as recvmsg(2) left it, its control buffer alive.
unsafe fn read_control(message: &libc::msghdr) -> Option<Peer> {
    let mut peer = None;
    // SAFETY: the macros stay inside the control buffer, whose records the host wrote.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(message);
        while !at.is_null() {
            let head = &*at;
            let data = libc::CMSG_DATA(at);
            let len = head.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
            if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
                for i in 0..len / size_of::<RawFd>() {
                    let fd = data.cast::<RawFd>().add(i).read_unaligned();
                    drop(OwnedFd::from_raw_fd(fd));
                }
            } else if head.cmsg_level == libc::SOL_SOCKET
                && head.cmsg_type == libc::SCM_CREDENTIALS
                && len >= size_of::<libc::ucred>()
            {
                let c = data.cast::<libc::ucred>().read_unaligned();
                peer = Some(Peer { pid: c.pid, uid: c.uid });
            }
            at = libc::CMSG_NXTHDR(message, at);
        }
    }
    peer
}

/// A socket without a name, which sends and never waits.
pub struct Announcer {
    socket: UnixDatagram,
}

impl Announcer {
    /// Makes the socket.
    pub fn new() -> io::Result<Announcer> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Announcer { socket })
    }

    /// Sends to the socket at `path`, which must fit an address.
    pub fn send(&self, path: &Path, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, path).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn the_host_names_the_sender_and_descriptors_are_dropped() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let name = format!("uml-datagram-test-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let r = Receiver::bind(&path, Duration::from_secs(1)).expect("bind");
        let client = UnixDatagram::unbound().expect("socket");
        client.connect(&path).expect("connect");
        let open = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
        let before = open();
        let fd = client.as_raw_fd();
        let parts = [io::IoSlice::new(b"hello")];
        let rights = [ControlMessage::ScmRights(&[0, 1, 2])];
        sendmsg::<()>(fd, &parts, &rights, MsgFlags::empty(), None).expect("send");
        let mut buf = [0; 16];
        let (n, sender) = r.receive(&mut buf).expect("receive");
        let me = Peer { pid: std::process::id() as i32, uid: crate::process::uid() };
        assert_eq!((&buf[..n], sender.credentials), (&b"hello"[..], Some(me)));
        assert_eq!(open(), before, "passed descriptors are not kept");
        let e = r.reply(&sender, b"x").expect_err("no name");
        assert_eq!(e.raw_os_error(), Some(libc::EDESTADDRREQ));
        std::fs::remove_file(&path).expect("remove");
    }
}
