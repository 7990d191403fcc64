//! Pseudo-terminals of the host (pty(7)).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::unistd::{AccessFlags, access};

/// An opened master and the name of its slave.
#[derive(Debug)]
pub struct HostPty {
    master: OwnedFd,
    slave: PathBuf,
}

impl HostPty {
    /// Device of the slave (`/dev/pts/3`).
    pub fn slave_path(&self) -> &PathBuf {
        &self.slave
    }

    /// The master's descriptor.
    pub fn into_master(self) -> OwnedFd {
        self.master
    }

    /// Opens the slave, without making it anybody's controlling terminal.
    pub fn open_slave(&self) -> io::Result<OwnedFd> {
        let mut o = OpenOptions::new();
        o.read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC);
        Ok(o.open(&self.slave)?.into())
    }
}

impl AsFd for HostPty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

/// A Unix98 pseudo-terminal.
pub fn open_pts() -> io::Result<HostPty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = PathBuf::from(ptsname_r(&master)?);
    Ok(HostPty { master: master.into(), slave })
}

/// A BSD pseudo-terminal: the first free one of /dev/pty[pqrs][0-f] whose slave is accessible; `None` when
/// there is none (Linux makes them only with CONFIG_LEGACY_PTYS).
pub fn open_bsd() -> Option<HostPty> {
    for bank in "pqrs".chars() {
        for unit in "0123456789abcdef".chars() {
            let mut o = OpenOptions::new();
            o.read(true).write(true);
            o.custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC);
            let Ok(master) = o.open(format!("/dev/pty{bank}{unit}")) else { continue };
            let slave = PathBuf::from(format!("/dev/tty{bank}{unit}"));
            // Asked, not opened: the close of a slave is a hang-up to the master.
            if access(&slave, AccessFlags::R_OK | AccessFlags::W_OK).is_ok() {
                return Some(HostPty { master: master.into(), slave });
            }
        }
    }
    None
}
