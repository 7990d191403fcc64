//! Memory files (memfd_create(2)).

use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};

use uml_abi::errno::{EINVAL, EMFILE, ENFILE, ENOMEM};
use uml_abi::{Errno, Result};

fn last() -> Errno {
    std::io::Error::last_os_error().into()
}

/// A zero-filled, close-on-exec memory file of `len` bytes; `name` shows in the host's /proc. `ENOMEM` when the host refuses one
/// more descriptor: who wants memory knows of none (mmap(2), write(2)).
pub fn create(name: &str, len: u64) -> Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| EINVAL)?;
    // SAFETY: the name is a valid C string for the duration of the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(match last() {
            EMFILE | ENFILE => ENOMEM,
            e => e,
        });
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_len(&fd, len)?;
    Ok(fd)
}

/// Sets the size (ftruncate(2)).
pub fn set_len(fd: &OwnedFd, len: u64) -> Result<()> {
    let len = i64::try_from(len).map_err(|_| EINVAL)?;
    nix::unistd::ftruncate(fd, len).map_err(|e| Errno::from_raw(e as i32))
}
