//! Byte streams to the outside (terminals, pipes, sockets, files) that never block the caller.
//!
//! O_NONBLOCK belongs to the open file description, which an inherited descriptor shares with
//! the program that started us; so descriptors are opened anew where the host allows it, and used
//! with per-call flags or a preceding poll(2) where it does not.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::{SFlag, fstat};

/// How the descriptor is kept from blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// O_NONBLOCK is set on a description of our own.
    Nonblocking,
    /// MSG_DONTWAIT per call.
    Socket,
    /// Never blocks (ordinary files, /dev/null).
    File,
    /// Shared description: poll(2) first, and move little at a time.
    Polled,
}

/// What poll(2) promises to be writable at once on a pipe, and what a terminal's buffer usually holds.
const POLLED_CHUNK: usize = 512;

/// A stream.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    mode: Mode,
    tty: bool,
    regular: bool,
}

/// Which directions a stream is used in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
    Both,
}

impl Direction {
    fn options(self) -> OpenOptions {
        let mut o = OpenOptions::new();
        o.read(self != Direction::Write).write(self != Direction::Read);
        o.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC);
        o
    }
}

/// Waits until `fd` can be written to; false when `limit` passed or the call failed.
pub fn wait_writable(fd: BorrowedFd<'_>, limit: std::time::Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|n| n > 0)
}

/// Waits until `fd` can be read, or has ended; false when `limit` passed.
pub fn wait_readable(fd: BorrowedFd<'_>, limit: std::time::Duration) -> bool {
    let deadline = std::time::Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => return false,
            // Rounded down to milliseconds, or more than poll(2) waits for.
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            // An error is what the next read tells.
            Ok(_) | Err(_) => return true,
        }
    }
}

/// A duplicate of descriptor `number` of this process, close-on-exec; `EBADF` when it is not open or was not when the
/// process started.
pub fn duplicate(number: i32) -> io::Result<OwnedFd> {
    if crate::standard::was_closed(number) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_DUPFD_CLOEXEC only makes a new descriptor; a bad number is reported as EBADF.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just returned this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Stream {
    /// A stream on descriptor `number`, which this process inherited.
    pub fn inherited(number: i32, direction: Direction) -> io::Result<Stream> {
        let fd = duplicate(number)?;
        let kind = file_type(fd.as_fd())?;
        if kind == SFlag::S_IFSOCK || kind == SFlag::S_IFREG || !may_block(fd.as_fd()) {
            return Stream::from_fd(fd);
        }
        match direction.options().open(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
            Ok(own) => Stream::from_fd(own.into()),
            // Another user's terminal, or no /proc.
            Err(_) => {
                Ok(Stream { tty: is_tty(fd.as_fd()), fd, mode: Mode::Polled, regular: false })
            }
        }
    }

    /// Opens a device of the host.
    pub fn open(path: &Path, direction: Direction) -> io::Result<Stream> {
        Stream::from_fd(direction.options().open(path)?.into())
    }

    /// A stream on a descriptor whose open file description is our own; O_NONBLOCK is set on it.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Stream> {
        let kind = file_type(fd.as_fd())?;
        let regular = kind == SFlag::S_IFREG;
        let mode = if kind == SFlag::S_IFSOCK {
            Mode::Socket
        } else if regular {
            Mode::File
        } else {
            set_nonblocking(fd.as_fd())?;
            Mode::Nonblocking
        };
        Ok(Stream { tty: is_tty(fd.as_fd()), fd, mode, regular })
    }

    /// A terminal?
    pub fn is_tty(&self) -> bool {
        self.tty
    }

    /// An ordinary file, which epoll(7) does not take.
    pub fn is_regular(&self) -> bool {
        self.regular
    }

    /// Reads what is there; 0 at the end, `WouldBlock` when nothing is there yet.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        retry(|| match self.mode {
            Mode::Socket => Ok(recv(self.fd.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT)?),
            Mode::Polled => {
                self.wait_for(PollFlags::POLLIN)?;
                Ok(nix::unistd::read(&self.fd, buf)?)
            }
            _ => Ok(nix::unistd::read(&self.fd, buf)?),
        })
    }

    /// Writes what is taken at once; `WouldBlock` when nothing is.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        retry(|| match self.mode {
            Mode::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(self.fd.as_raw_fd(), data, flags)?)
            }
            Mode::Polled => {
                self.wait_for(PollFlags::POLLOUT)?;
                let n = data.len().min(POLLED_CHUNK);
                Ok(nix::unistd::write(&self.fd, &data[..n])?)
            }
            _ => Ok(nix::unistd::write(&self.fd, data)?),
        })
    }

    fn wait_for(&self, what: PollFlags) -> io::Result<()> {
        let mut fds = [PollFd::new(self.fd.as_fd(), what)];
        if poll(&mut fds, PollTimeout::ZERO)? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn retry(mut f: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match f() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn file_type(fd: BorrowedFd<'_>) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT)
}

fn is_tty(fd: BorrowedFd<'_>) -> bool {
    nix::unistd::isatty(fd).unwrap_or(false)
}

/// Pipes and character devices may; epoll(7) knows which devices do, but asking costs a descriptor.
fn may_block(fd: BorrowedFd<'_>) -> bool {
    file_type(fd).is_ok_and(|t| t == SFlag::S_IFIFO || t == SFlag::S_IFCHR)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn an_inherited_pipe_is_used_without_changing_its_flags() {
        let (r, w) = nix::unistd::pipe().expect("pipe");
        let s = Stream::inherited(r.as_raw_fd(), Direction::Read).expect("stream");
        let mut buf = [0; 10];
        assert_eq!(s.read(&mut buf).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
        nix::unistd::write(&w, b"hi").expect("write");
        assert_eq!(s.read(&mut buf).ok(), Some(2));
        use nix::fcntl::{FcntlArg, fcntl};
        let flags = fcntl(&r, FcntlArg::F_GETFL).expect("flags");
        assert_eq!(flags & libc::O_NONBLOCK, 0);
        drop(w);
        assert_eq!(s.read(&mut buf).ok(), Some(0));
    }

    #[test]
    fn a_full_pipe_does_not_block() {
        let (_r, w) = nix::unistd::pipe().expect("pipe");
        let s = Stream::inherited(w.as_raw_fd(), Direction::Write).expect("stream");
        let mut total = 0;
        let end = loop {
            match s.write(&[0; 4096]) {
                Ok(n) => total += n,
                Err(e) => break e.kind(),
            }
        };
        assert_eq!(end, io::ErrorKind::WouldBlock);
        assert!(total >= 4096);
    }

    #[test]
    fn sockets_and_closed_descriptors() {
        let (a, b) = std::os::unix::net::UnixStream::pair().expect("pair");
        let n = a.into_raw_fd();
        let s = Stream::inherited(n, Direction::Both).expect("stream");
        assert_eq!(s.read(&mut [0; 1]).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
        drop(b);
        assert_eq!(s.read(&mut [0; 1]).ok(), Some(0));
        let e = Stream::inherited(100_000, Direction::Read).expect_err("not open");
        assert_eq!(e.raw_os_error(), Some(libc::EBADF));
    }
}
