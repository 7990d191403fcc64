//! Batches of datagrams on sockets: recvmmsg(2) and sendmmsg(2) with their arrays kept between calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Room for a batch of received datagrams with their Unix senders.
pub struct Received {
    frame_size: usize,
    bytes: Box<[u8]>,
    senders: Box<[libc::sockaddr_un]>,
    lengths: Box<[(u32, u32)]>,
    count: usize,
}

fn no_address() -> libc::sockaddr_un {
    libc::sockaddr_un { sun_family: 0, sun_path: [0; 108] }
}

impl Received {
    /// Room for `frames` datagrams of at most `frame_size` bytes; longer ones are truncated.
    pub fn new(frames: usize, frame_size: usize) -> Received {
        Received {
            frame_size,
            bytes: vec![0; frames * frame_size].into_boxed_slice(),
            senders: vec![no_address(); frames].into_boxed_slice(),
            lengths: vec![(0, 0); frames].into_boxed_slice(),
            count: 0,
        }
    }

    /// Replaces the contents by what waits on `socket`, without blocking; returns the number of datagrams.
    /// Errors: EAGAIN when nothing waits, otherwise as recvmmsg(2).
    pub fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.count = 0;
        let frames = self.lengths.len();
        let base = self.bytes.as_mut_ptr();
        let mut iovs: Vec<libc::iovec> = (0..frames)
            .map(|n| libc::iovec {
                // SAFETY: `bytes` has `frames * frame_size` bytes.
                iov_base: unsafe { base.add(n * self.frame_size) }.cast(),
                iov_len: self.frame_size,
            })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = (0..frames)
            .map(|n| {
                // SAFETY: all zeros is a valid msghdr.
                let mut h: libc::mmsghdr = unsafe { std::mem::zeroed() };
                h.msg_hdr.msg_name = (&raw mut self.senders[n]).cast();
                h.msg_hdr.msg_namelen = size_of::<libc::sockaddr_un>() as u32;
                h.msg_hdr.msg_iov = &raw mut iovs[n];
                h.msg_hdr.msg_iovlen = 1;
                h
            })
            .collect();
        // SAFETY: every header points to one buffer and one address that outlive the call.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                frames as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        for (to, h) in self.lengths.iter_mut().zip(&headers[..n]) {
            *to = (h.msg_len, h.msg_hdr.msg_namelen);
        }
        self.count = n;
        Ok(n)
    }

    /// Bytes of datagram `n`; empty when there is none.
    pub fn frame(&self, n: usize) -> &[u8] {
        if n >= self.count {
            return &[];
        }
        let at = n * self.frame_size;
        &self.bytes[at..at + (self.lengths[n].0 as usize).min(self.frame_size)]
    }

    /// `sun_path` of the sender of datagram `n`, as long as the host gave it, without the NUL that ends the path of
    /// a socket file; empty for an unbound sender.
    pub fn sender(&self, n: usize) -> Vec<u8> {
        if n >= self.count {
            return Vec::new();
        }
        let len = (self.lengths[n].1 as usize).saturating_sub(2).min(108);
        let path: Vec<u8> = self.senders[n].sun_path[..len].iter().map(|c| *c as u8).collect();
        if path.first().is_some_and(|b| *b != 0) {
            let end = path.iter().position(|b| *b == 0).unwrap_or(len);
            return path[..end].to_vec();
        }
        path
    }
}

/// Sends `frames` in order on `socket` without blocking, to its peer, or to the Unix address whose `sun_path` is
/// given in full. Returns how many went out; an error tells why the first did not.
pub fn send(socket: impl AsFd, frames: &[&[u8]], to: Option<&[u8; 108]>) -> io::Result<usize> {
    let mut address = no_address();
    let mut address_len = 0u32;
    if let Some(path) = to {
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (c, b) in address.sun_path.iter_mut().zip(path) {
            *c = *b as libc::c_char;
        }
        // A file's address ends with its path; an abstract one is significant to its last byte.
        let used = if path[0] == 0 {
            path.len()
        } else {
            path.iter().position(|b| *b == 0).map_or(path.len(), |n| n + 1)
        };
        address_len = (2 + used) as u32;
    }
    let mut iovs: Vec<libc::iovec> = frames
        .iter()
        .map(|f| libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = iovs
        .iter_mut()
        .map(|iov| {
            // SAFETY: all zeros is a valid msghdr.
            let mut h: libc::mmsghdr = unsafe { std::mem::zeroed() };
            if address_len > 0 {
                h.msg_hdr.msg_name = (&raw mut address).cast();
                h.msg_hdr.msg_namelen = address_len;
            }
            h.msg_hdr.msg_iov = iov;
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    // SAFETY: the headers point to buffers that are only read and outlive the call.
    let n = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as u32,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_batch_arrives_in_order_with_its_sender() {
        let dir = std::env::temp_dir().join(format!("frames-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("directory");
        let (a_path, b_path) = (dir.join("a"), dir.join("b"));
        let a = UnixDatagram::bind(&a_path).expect("bind");
        let b = UnixDatagram::bind(&b_path).expect("bind");
        let mut to = [0; 108];
        let name = b_path.as_os_str().as_encoded_bytes();
        to[..name.len()].copy_from_slice(name);
        assert_eq!(send(&a, &[b"one", b"two", b"three"], Some(&to)).expect("send"), 3);
        let mut got = Received::new(8, 4);
        assert_eq!(got.fill(&b).expect("receive"), 3);
        assert_eq!(
            (got.frame(0), got.frame(1), got.frame(2)),
            (&b"one"[..], &b"two"[..], &b"thre"[..])
        );
        assert_eq!(got.sender(0), a_path.as_os_str().as_encoded_bytes());
        assert_eq!(got.frame(3), b"");
        let empty = got.fill(&b).expect_err("nothing waits");
        assert_eq!(empty.raw_os_error(), Some(libc::EAGAIN));
        a.connect(&b_path).expect("connect");
        assert_eq!(send(&a, &[b"x"], None).expect("send"), 1);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
