//! Waiting for host descriptors (poll(2)).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use uml_abi::errno::EINTR;
use uml_abi::{Errno, Result};

fn poll_once(fd: BorrowedFd<'_>, events: i16, timeout_ms: i32) -> i32 {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: the pointer is to one live pollfd.
    unsafe { libc::poll(&mut p, 1, timeout_ms) }
}

/// Whether one of `events` (poll(2) bits), an error or a hang-up is there now.
pub fn ready(fd: BorrowedFd<'_>, events: i16) -> bool {
    poll_once(fd, events, 0) > 0
}

/// Waits until `fd` has hung up or failed, which poll(2) tells unasked; false when `patience` is over first.
pub fn hung_up(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Not a millisecond too few: there is no use in asking once more for the rest of one.
        let ms = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        match poll_once(fd, 0, ms) {
            0 if left.is_zero() => return false,
            // Interrupted, or more than poll(2) waits for.
            n if n <= 0 => {}
            _ => return true,
        }
    }
}

fn any(fds: &[BorrowedFd<'_>], events: i16, timeout_ms: i32) {
    let mut all: Vec<libc::pollfd> =
        fds.iter().map(|f| libc::pollfd { fd: f.as_raw_fd(), events, revents: 0 }).collect();
    // SAFETY: the pointer is to as many live entries as the call is told.
    unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, timeout_ms) };
}

/// Waits until one of the descriptors is readable, or for so many milliseconds.
pub fn any_readable(fds: &[BorrowedFd<'_>], timeout_ms: i32) {
    any(fds, libc::POLLIN, timeout_ms);
}

/// Waits until one of the descriptors is writable, or for so many milliseconds.
pub fn any_writable(fds: &[BorrowedFd<'_>], timeout_ms: i32) {
    any(fds, libc::POLLOUT, timeout_ms);
}

/// Waits until `fd` is readable; `EINTR` once `stop` says so. The wait runs inside `blocking`. `stop` is
/// looked at four times a second: only a wake-up of the descriptor itself is prompt.
pub fn readable(
    fd: BorrowedFd<'_>,
    stop: &dyn Fn() -> bool,
    blocking: &mut dyn FnMut(&mut dyn FnMut()),
) -> Result<()> {
    loop {
        let mut n = 0;
        blocking(&mut || n = poll_once(fd, libc::POLLIN, 250));
        if n > 0 {
            return Ok(());
        }
        if stop() {
            return Err(EINTR);
        }
        if n < 0 {
            let e: Errno = std::io::Error::last_os_error().into();
            if e != EINTR {
                return Err(e);
            }
        }
    }
}
