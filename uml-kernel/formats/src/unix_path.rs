//! Socket addresses for paths that do not fit `sun_path` (108 bytes).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest path usable directly in a Unix socket address, in bytes.
pub const MAX_SOCKET_PATH: usize = 107;

/// A path that names a socket and fits an address. Long paths go through
/// `/proc/self/fd` of their directory, which stays open as long as this value.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl SocketPath {
    /// Prepares the address of a socket that exists or is to be bound.
    /// Errors: as opening the directory; `InvalidInput` when the last
    /// component alone is too long.
    pub fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(too_long(path));
        };
        let directory = File::options()
            .read(true)
            .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY)
            .open(parent)?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        if short.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(too_long(path));
        }
        Ok(Self { path: short, _directory: Some(directory) })
    }

    /// The path to hand to bind(2), connect(2) or sendto(2).
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

fn too_long(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "socket path \"{}\" is too long; use a file name of at most 80 bytes",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_long_path_can_be_bound_and_reached() {
        let dir = tempfile::tempdir().expect("tempdir");
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("mkdir");
        let path = deep.join("mconsole");
        let server = UnixDatagram::bind(SocketPath::new(&path).expect("short").as_path());
        let server = server.expect("bind");
        let client = UnixDatagram::unbound().expect("socket");
        client.send_to(b"x", SocketPath::new(&path).expect("short").as_path()).expect("send");
        assert_eq!(server.recv(&mut [0; 4]).expect("recv"), 1);
        let name = dir.path().join("n".repeat(150));
        assert!(SocketPath::new(&name).is_err());
    }
}
