//! Advisory whole-file locks, as the block driver and the image tools take them.
//!
//! These are POSIX record locks: they belong to the process, and closing *any*
//! descriptor of the file drops them. Keep exactly one descriptor per image.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Shared for files only read, exclusive for files written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// Why a lock was not obtained.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds a conflicting lock. `pid` is 0 when the host
    /// cannot name it (another pid namespace, or a lock without an owner).
    Held {
        pid: i32,
    },
    Io(io::Error),
}

impl LockError {
    /// The errno the stock driver reports.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Held { .. } => libc::EAGAIN,
            Self::Io(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { pid } if *pid > 0 => match process_name(*pid) {
                Some(name) => write!(f, "locked by process {pid} ({name})"),
                None => write!(f, "locked by process {pid}"),
            },
            Self::Held { .. } => f.write_str("locked by a process that cannot be identified"),
            Self::Io(error) => write!(f, "cannot be locked: {}", crate::strerror(error)),
        }
    }
}

impl std::error::Error for LockError {}

fn process_name(pid: i32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

fn whole_file(kind: LockKind) -> libc::flock {
    let l_type = match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    };
    libc::flock {
        l_type: l_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes a lock on the whole file without waiting (`F_SETLK`); it lasts until
/// the process closes the file.
pub fn lock_file(file: impl AsFd, kind: LockKind) -> Result<(), LockError> {
    use nix::errno::Errno;
    match fcntl(file.as_fd(), FcntlArg::F_SETLK(&whole_file(kind))) {
        Ok(_) => Ok(()),
        Err(Errno::EACCES | Errno::EAGAIN) => {
            Err(LockError::Held { pid: lock_holder(file, kind).unwrap_or(0) })
        }
        Err(errno) => Err(LockError::Io(errno.into())),
    }
}

/// The process holding a lock that conflicts with `kind`, if any.
pub fn lock_holder(file: impl AsFd, kind: LockKind) -> Option<i32> {
    let mut query = whole_file(kind);
    fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut query)).ok()?;
    (query.l_type != libc::F_UNLCK as libc::c_short).then_some(query.l_pid.max(0))
}
