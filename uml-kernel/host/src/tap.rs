//! TAP interfaces of the host (`/dev/net/tun`, TUNSETIFF).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

const CLONE_DEVICE: &str = "/dev/net/tun";

/// Which of the two steps failed.
#[derive(Debug)]
pub enum TapError {
    /// Opening the clone device.
    Open(io::Error),
    /// TUNSETIFF: EPERM without CAP_NET_ADMIN on an interface of somebody else, EBUSY when it is attached already.
    SetInterface(io::Error),
    /// The name is empty or longer than 15 bytes.
    Name,
}

/// Attaches to the TAP interface `name`, which is created when the caller may. Frames are read and written whole,
/// without the packet information header; `flags` adds IFF_* such as IFF_VNET_HDR. The descriptor does not block.
pub fn open(name: &str, flags: i32) -> Result<File, TapError> {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= request.ifr_name.len() || bytes.contains(&0) {
        return Err(TapError::Name);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as libc::c_short;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CLONE_DEVICE)
        .map_err(TapError::Open)?;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(TapError::SetInterface(io::Error::last_os_error()));
    }
    Ok(file)
}
