//! Sockets that a service manager opened for us (sd_listen_fds(3)).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// First descriptor that is passed.
const FIRST: RawFd = 3;

/// The passed descriptors in order, each with its name of LISTEN_FDNAMES (empty when unnamed). Empty when
/// LISTEN_PID is not this process. To be called once, before anything else opens descriptors; they are made
/// close-on-exec and the variables are left alone.
pub fn sockets() -> Vec<(String, OwnedFd)> {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(1024);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = Vec::new();
    for n in 0..count {
        let fd = FIRST + n as RawFd;
        let name = names.next().unwrap_or_default().to_owned();
        // SAFETY: fcntl(2) on a number; what is not open is EBADF.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0 {
            // SAFETY: open, and handed to this process alone by the protocol.
            passed.push((name, unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    passed
}
