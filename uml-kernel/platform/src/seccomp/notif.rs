//! Seccomp listeners (seccomp_unotify(2)).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use uml_abi::Result;

use crate::sys::last_errno;

/// `struct seccomp_notif` with its `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Notif {
    pub id: u64,
    /// Thread id of the caller, from the host kernel.
    pub pid: u32,
    pub flags: u32,
    pub nr: i32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

#[repr(C)]
struct Resp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// Answer to a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The call returns this value.
    Value(i64),
    /// The host executes the call.
    Continue,
}

const fn ioc(dir: u32, nr: u32, size: usize) -> libc::c_ulong {
    ((dir << 30) | ((size as u32) << 16) | ((b'!' as u32) << 8) | nr) as libc::c_ulong
}

const NOTIF_RECV: libc::c_ulong = ioc(3, 0, size_of::<Notif>());
const NOTIF_SEND: libc::c_ulong = ioc(3, 1, size_of::<Resp>());
const NOTIF_SET_FLAGS: libc::c_ulong = ioc(1, 4, 8);
const FD_SYNC_WAKE_UP: u64 = 1;
const FLAG_CONTINUE: u32 = 1;

/// The kernel's end of a seccomp filter.
pub struct Listener(pub OwnedFd);

impl Listener {
    /// Takes over a descriptor that appeared in the shared descriptor table.
    pub fn adopt(fd: RawFd) -> Listener {
        // SAFETY: the stub process that made the descriptor knows it by number only and
        // leaves it to us; nobody else closes it.
        Listener(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Asks the host to wake the other side on the same CPU (Linux 6.6); false when it
    /// does not know how.
    pub fn set_sync_wake_up(&self) -> bool {
        // SAFETY: the request takes its flags by value.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SET_FLAGS, FD_SYNC_WAKE_UP) == 0 }
    }

    /// Waits for the next call. `EINTR` after a signal; `ENOENT` when a call was
    /// withdrawn or every process under the filter is gone.
    pub fn recv(&self) -> Result<Notif> {
        let mut n = Notif::default();
        // SAFETY: the structure is live, zeroed as the interface demands, and of the size
        // encoded in the request.
        let r = unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_RECV, &mut n) };
        if r == 0 { Ok(n) } else { Err(last_errno()) }
    }

    /// Answers a call. `ENOENT` when its caller is gone.
    pub fn send(&self, id: u64, answer: Answer) -> Result<()> {
        let resp = match answer {
            Answer::Value(val) => Resp { id, val, error: 0, flags: 0 },
            Answer::Continue => Resp { id, val: 0, error: 0, flags: FLAG_CONTINUE },
        };
        // SAFETY: the structure is live and of the size encoded in the request.
        let r = unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SEND, &resp) };
        if r == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Waits at most `ms` milliseconds. Returns (something to receive, no user left).
    pub fn poll(&self, ms: i32) -> (bool, bool) {
        let mut p = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live entry.
        let n = unsafe { libc::poll(&mut p, 1, ms) };
        if n <= 0 {
            return (false, false);
        }
        (p.revents & libc::POLLIN != 0, p.revents & libc::POLLHUP != 0)
    }
}
