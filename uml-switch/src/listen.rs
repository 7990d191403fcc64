//! Control sockets: taking over stale ones, refusing to push out a switch that runs.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use uml_formats::strerror;
use uml_formats::unix_path::SocketPath;

/// A socket file that is removed when the switch ends.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
}

impl Bound {
    /// The file's name, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // A file that somebody removed needs no removal.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn text(what: &str, path: &Path, e: &io::Error) -> String {
    format!("{what} '{}': {}", path.display(), strerror(e))
}

/// The message about a control socket in use, as the classic program words it.
fn in_use(path: &Path) -> String {
    format!(
        "The control socket '{0}' has another server attached to it\nYou can either\n\tremove '{0}'\n\tor rerun with a different, unused filename for a socket",
        path.display()
    )
}

/// Makes `path` free: a socket that nobody serves is removed.
fn clear_stale(path: &Path, address: &Path) -> Result<(), String> {
    match UnixStream::connect(address) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(address)
            .map_err(|_| {
                format!(
                    "The control socket '{}' exists, isn't used, but couldn't be removed",
                    path.display()
                )
            }),
        _ => Err(in_use(path)),
    }
}

/// Listens at `path`. Errors are messages for the user.
pub fn stream(path: &Path) -> Result<(UnixListener, Bound), String> {
    // The working directory changes under -daemon; the file must still be found at the end.
    let full = std::path::absolute(path).map_err(|e| text("control socket", path, &e))?;
    let address = SocketPath::new(path).map_err(|e| text("control socket", path, &e))?;
    let bind = || UnixListener::bind(address.as_path());
    let listener = match bind() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            clear_stale(path, address.as_path())?;
            bind()
        }
        other => other,
    };
    let listener = listener.map_err(|e| text("bind", path, &e))?;
    let bound = Bound { path: full };
    listener.set_nonblocking(true).map_err(|e| text("control socket", path, &e))?;
    Ok((listener, bound))
}

/// Binds the data socket of protocol version 0, replacing what an earlier switch left.
pub fn datagram(path: &Path) -> Result<(std::os::unix::net::UnixDatagram, Bound), String> {
    let full = std::path::absolute(path).map_err(|e| text("data socket", path, &e))?;
    let address = SocketPath::new(path).map_err(|e| text("data socket", path, &e))?;
    let bind = || std::os::unix::net::UnixDatagram::bind(address.as_path());
    let socket = match bind() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            let probe = std::os::unix::net::UnixDatagram::unbound();
            match probe.and_then(|p| p.connect(address.as_path())) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(address.as_path())
                        .map_err(|e| text("data socket", path, &e))?;
                    bind()
                }
                _ => return Err(in_use(path)),
            }
        }
        other => other,
    };
    let socket = socket.map_err(|e| text("bind", path, &e))?;
    socket.set_nonblocking(true).map_err(|e| text("data socket", path, &e))?;
    Ok((socket, Bound { path: full }))
}
