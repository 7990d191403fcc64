//! One request, one answer.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use uml_formats::mconsole::{Reply, ReplyAssembler, ReplyError, Request, RequestError};
use uml_formats::strerror;
use uml_formats::unix_path::SocketPath;

/// Larger than any datagram of the protocol.
const BUFFER: usize = 4096;
/// Most text accepted as one answer; no command produces nearly as much.
const MAX_ANSWER: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    Request(RequestError),
    /// The socket exists, but no process listens.
    NotListening {
        path: PathBuf,
    },
    Connect {
        path: PathBuf,
        error: io::Error,
    },
    Timeout {
        path: PathBuf,
        after: Duration,
        /// What came of the answer.
        partial: Vec<u8>,
    },
    Reply {
        path: PathBuf,
        error: ReplyError,
    },
    TooMuch {
        path: PathBuf,
    },
    Io {
        path: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::NotListening { path } => write!(
                f,
                "nobody listens on {}: the instance has ended without removing it (it will be \
                 replaced at the next start with this umid)",
                path.display()
            ),
            Self::Connect { path, error } => {
                write!(f, "Sending command to '{}' : {}", path.display(), strerror(error))
            }
            Self::Timeout { path, after, partial } if !partial.is_empty() => write!(
                f,
                "the answer from {} stopped after {} bytes, and nothing more came within {} s",
                path.display(),
                partial.len(),
                after.as_secs_f64()
            ),
            Self::Timeout { path, after, .. } if foreign(path).is_some() => write!(
                f,
                "no answer from {} within {} s: a console answers its owner (uid {}) and root alone",
                path.display(),
                after.as_secs_f64(),
                foreign(path).unwrap_or_default()
            ),
            Self::Timeout { path, after, .. } => write!(
                f,
                "no answer from {} within {} s; the instance may hang or be stopped by a \
                 debugger; --timeout waits longer",
                path.display(),
                after.as_secs_f64()
            ),
            Self::Reply { path, error } => write!(f, "{}: {error}", path.display()),
            Self::TooMuch { path } => write!(
                f,
                "{}: the answer is longer than {MAX_ANSWER} bytes, giving up",
                path.display()
            ),
            Self::Io { path, error } => write!(f, "{}: {}", path.display(), strerror(error)),
        }
    }
}

impl std::error::Error for ClientError {}

/// The owner of a socket that does not answer us because we are neither that user nor root.
pub fn foreign(path: &Path) -> Option<u32> {
    let owner = path.metadata().ok()?.uid();
    let me = nix::unistd::geteuid();
    (!me.is_root() && owner != me.as_raw()).then_some(owner)
}

/// A socket bound to a name of its own, so that it can be answered, and
/// connected, so that only the addressed kernel can answer. A fresh one per
/// request keeps a late answer from being taken for that of a later request.
fn connect(path: &Path) -> Result<UnixDatagram, ClientError> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let failed = |error| ClientError::Io { path: path.to_owned(), error };
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let name = format!("uml_mconsole-{}-{serial}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
    let socket = UnixDatagram::bind_addr(&address).map_err(failed)?;
    let short = SocketPath::new(path)
        .map_err(|error| ClientError::Connect { path: path.to_owned(), error })?;
    match socket.connect(short.as_path()) {
        Ok(()) => Ok(socket),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(ClientError::NotListening { path: path.to_owned() })
        }
        Err(error) => Err(ClientError::Connect { path: path.to_owned(), error }),
    }
}

/// Whether a process listens on a management socket.
pub fn is_listening(path: &Path) -> bool {
    connect(path).is_ok()
}

/// Sends a command, with a descriptor if one is given, and collects the
/// answer. `timeout` applies to each datagram.
pub fn exchange(
    path: &Path,
    command: &[u8],
    descriptor: Option<RawFd>,
    timeout: Option<Duration>,
) -> Result<Reply, ClientError> {
    let request = Request::new(command).map_err(ClientError::Request)?;
    let socket = connect(path)?;
    let failed = |error: io::Error| match (error.kind(), timeout) {
        (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(after)) => {
            ClientError::Timeout { path: path.to_owned(), after, partial: Vec::new() }
        }
        _ => ClientError::Io { path: path.to_owned(), error },
    };
    socket.set_write_timeout(timeout).map_err(failed)?;
    socket.set_read_timeout(timeout).map_err(failed)?;
    let datagram = request.encode();
    match descriptor {
        None => socket.send(&datagram).map_err(failed)?,
        Some(descriptor) => sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(&datagram)],
            &[ControlMessage::ScmRights(&[descriptor])],
            MsgFlags::empty(),
            None,
        )
        .map_err(|errno| failed(errno.into()))?,
    };
    let mut assembler = ReplyAssembler::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(failed).map_err(|error| match error {
                // Stock kernels drop what a reader does not take at once, the end too: what came counts.
                ClientError::Timeout { path, after, .. } => {
                    ClientError::Timeout { path, after, partial: assembler.text().to_vec() }
                }
                other => other,
            })?,
        };
        let reply = Reply::decode(buffer.get(..len).unwrap_or_default())
            .map_err(|error| ClientError::Reply { path: path.to_owned(), error })?;
        if let Some(answer) = assembler.push(reply) {
            return Ok(answer);
        }
        if assembler.len() > MAX_ANSWER {
            return Err(ClientError::TooMuch { path: path.to_owned() });
        }
    }
}
