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

    /// Waits for datagrams and takes as many as `inbox` has room for.
    pub fn receive<'a>(
        &self,
        inbox: &'a mut Inbox,
    ) -> io::Result<impl Iterator<Item = (&'a [u8], Sender)> + use<'a>> {
        let mut parts = inbox
            .letters
            .each_mut()
            .map(|l| libc::iovec { iov_base: l.bytes.as_mut_ptr().cast(), iov_len: l.bytes.len() });
        let mut messages: [libc::mmsghdr; INBOX] = std::array::from_fn(|i| {
            let letter = &mut inbox.letters[i];
            // SAFETY: plain data for which zero is valid.
            let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
            m.msg_hdr.msg_name = (&raw mut letter.address).cast();
            m.msg_hdr.msg_namelen = size_of::<libc::sockaddr_un>() as libc::socklen_t;
            m.msg_hdr.msg_iov = &raw mut parts[i];
            m.msg_hdr.msg_iovlen = 1;
            m.msg_hdr.msg_control = (&raw mut letter.control.0).cast();
            m.msg_hdr.msg_controllen = CONTROL;
            m
        });
        // SAFETY: every pointer in the headers is to live memory of the length they say.
        let n = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                INBOX as u32,
                libc::MSG_CMSG_CLOEXEC | libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        // Descriptors are closed now, whatever becomes of the datagrams.
        let heads = messages.map(|m| {
            // SAFETY: the host filled the header in, or it has no control data to read.
            let credentials = unsafe { read_control(&m.msg_hdr) };
            (m.msg_len as usize, m.msg_hdr.msg_namelen, credentials)
        });
        let letters = inbox.letters.iter().zip(heads).take(n);
        Ok(letters.map(|(l, (len, address_len, credentials))| {
            let sender = Sender { address: l.address, address_len, credentials };
            (l.bytes.get(..len).unwrap_or_default(), sender)
        }))
    }

    /// Answers a sender with datagrams in order; `EDESTADDRREQ` when it has no name, `EAGAIN` when it does not read.
    pub fn reply(&self, to: &Sender, datagrams: &[Vec<u8>]) -> io::Result<()> {
        if to.address_len as usize <= size_of::<libc::sa_family_t>() {
            return Err(io::Error::from_raw_os_error(libc::EDESTADDRREQ));
        }
        let mut parts: Vec<libc::iovec> = datagrams
            .iter()
            .map(|d| libc::iovec { iov_base: d.as_ptr().cast_mut().cast(), iov_len: d.len() })
            .collect();
        let header = |part: &mut libc::iovec| {
            // SAFETY: plain data for which zero is valid.
            let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
            m.msg_hdr.msg_name = (&raw const to.address).cast_mut().cast();
            m.msg_hdr.msg_namelen =
                to.address_len.min(size_of::<libc::sockaddr_un>() as libc::socklen_t);
            m.msg_hdr.msg_iov = part;
            m.msg_hdr.msg_iovlen = 1;
            m
        };
        let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(header).collect();
        let mut sent = 0;
        while sent < messages.len() {
            let rest = &mut messages[sent..];
            // SAFETY: buffers and address, which sending only reads, are live and as long as said.
            let n = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    u32::try_from(rest.len()).unwrap_or(u32::MAX),
                    libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(n) {
                Ok(n) => sent += n,
                Err(_) => {
                    let e = io::Error::last_os_error();
                    if e.kind() != io::ErrorKind::Interrupted {
                        return Err(e);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Datagrams taken at a time.
const INBOX: usize = 8;
/// Larger than any request; what is beyond cannot matter.
const LETTER: usize = 4096;

struct Letter {
    bytes: [u8; LETTER],
    address: libc::sockaddr_un,
    control: Control,
}

/// Room for datagrams; what does not fit of one is lost.
pub struct Inbox {
    letters: Box<[Letter; INBOX]>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        // SAFETY: plain data for which zero is valid.
        let address = || unsafe { std::mem::zeroed() };
        let letter =
            |_| Letter { bytes: [0; LETTER], address: address(), control: Control([0; CONTROL]) };
        Inbox { letters: Box::new(std::array::from_fn(letter)) }
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
    fn answers_arrive_in_order_however_slowly_they_are_read() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        let name = format!("uml-datagram-answers-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let r = Receiver::bind(&path, Duration::from_secs(20)).expect("bind");
        let address = SocketAddr::from_abstract_name(&name).expect("name");
        let client = UnixDatagram::bind_addr(&address).expect("socket");
        client.connect(&path).expect("connect");
        client.send(b"ask").expect("send");
        let mut inbox = Inbox::default();
        let (_, sender) = r.receive(&mut inbox).expect("receive").next().expect("one");
        // More than the client's queue holds.
        let all: Vec<Vec<u8>> = (0..3000u32).map(|n| n.to_ne_bytes().to_vec()).collect();
        std::thread::scope(|s| {
            s.spawn(|| r.reply(&sender, &all).expect("reply"));
            for wanted in &all {
                let mut got = [0; 4];
                client.recv(&mut got).expect("recv");
                assert_eq!(&got[..], wanted);
            }
        });
        std::fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn the_host_names_the_sender_and_descriptors_are_dropped() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let name = format!("uml-datagram-test-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let r = Receiver::bind(&path, Duration::from_secs(1)).expect("bind");
        let client = UnixDatagram::unbound().expect("socket");
        client.connect(&path).expect("connect");
        // Other tests open and close theirs meanwhile: a pipe nobody else has.
        let (pipe, _writer) = io::pipe().expect("pipe");
        let link = |fd: &str| std::fs::read_link(format!("/proc/self/fd/{fd}"));
        let own = link(&pipe.as_raw_fd().to_string()).expect("proc");
        let open = || {
            let all = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
            all.filter(|e| link(&e.file_name().to_string_lossy()).is_ok_and(|l| l == own)).count()
        };
        let before = open();
        let fd = client.as_raw_fd();
        let parts = [io::IoSlice::new(b"hello")];
        let rights = [ControlMessage::ScmRights(&[pipe.as_raw_fd(); 3])];
        sendmsg::<()>(fd, &parts, &rights, MsgFlags::empty(), None).expect("send");
        client.send(b"world").expect("send");
        let mut inbox = Inbox::default();
        let letters: Vec<_> = r.receive(&mut inbox).expect("receive").collect();
        let me = Peer { pid: std::process::id() as i32, uid: crate::process::uid() };
        let all: Vec<_> = letters.iter().map(|(b, s)| (*b, s.credentials)).collect();
        assert_eq!(all, [(&b"hello"[..], Some(me)), (b"world", Some(me))]);
        assert_eq!(open(), before, "passed descriptors are not kept");
        let e = r.reply(&letters[0].1, &[b"x".to_vec()]).expect_err("no name");
        assert_eq!(e.raw_os_error(), Some(libc::EDESTADDRREQ));
        std::fs::remove_file(&path).expect("remove");
    }
}
