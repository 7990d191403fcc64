//! Requests to a kernel's management console.

use std::path::Path;
use std::time::Duration;

use uml_mconsole::connection::{ClientError, exchange, foreign};

use crate::failure::{Failure, Result, code};

/// How long a kernel may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a command and returns its text. A refusal by the kernel has status 1, silence 75, nobody there 3.
pub fn request(socket: &Path, command: &str) -> Result<String> {
    request_within(socket, command, PATIENCE)
}

/// Refuses to ask where nobody would answer: a console answers its owner and root.
pub fn admitted(socket: &Path) -> Result {
    match foreign(socket) {
        None => Ok(()),
        Some(owner) => Err(Failure::new(
            code::PERMISSION,
            format!("{} answers its owner (uid {owner}) and root alone", socket.display()),
        )),
    }
}

/// As [`request`], waiting at most `patience` for each datagram.
pub fn request_within(socket: &Path, command: &str, patience: Duration) -> Result<String> {
    admitted(socket)?;
    let reply = exchange(socket, command.as_bytes(), None, Some(patience)).map_err(|e| {
        let status = match &e {
            ClientError::NotListening { .. } => code::STOPPED,
            ClientError::Timeout { .. } => code::TIMEOUT,
            ClientError::Connect { error, .. } => match error.kind() {
                std::io::ErrorKind::NotFound => code::STOPPED,
                std::io::ErrorKind::PermissionDenied => code::PERMISSION,
                _ => code::FAILURE,
            },
            _ => code::FAILURE,
        };
        Failure::new(status, e.to_string())
    })?;
    let text = String::from_utf8_lossy(&reply.text).into_owned();
    if reply.err != 0 {
        return Err(Failure::other(format!("the kernel refuses \"{command}\": {text}")));
    }
    Ok(text)
}
