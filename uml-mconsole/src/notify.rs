//! Notifications: the receiving end of `mconsole=notify:SOCKET`.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use uml_formats::mconsole::{Notification, NotifyError};
use uml_formats::strerror;
use uml_formats::unix_path::SocketPath;

use crate::session::printable;

/// A bound socket; its name is removed again when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixDatagram,
    path: PathBuf,
}

/// A notification, or a datagram that is none.
pub type Event = Result<Notification, NotifyError>;

impl Listener {
    /// Binds the socket; a name left behind by a listener that is gone is taken over.
    pub fn bind(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| {
            format!("notification socket \"{}\": {}", path.display(), strerror(&error))
        };
        let short = SocketPath::new(path).map_err(failed)?;
        let socket = match UnixDatagram::bind(short.as_path()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let probe = UnixDatagram::unbound().map_err(failed)?;
                match probe.connect(short.as_path()) {
                    // Only a socket nobody listens on refuses; anything else stays.
                    Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                        std::fs::remove_file(path).map_err(failed)?;
                        UnixDatagram::bind(short.as_path()).map_err(failed)?
                    }
                    _ => {
                        return Err(format!(
                            "notification socket \"{}\" exists and is in use; end its listener or \
                             name another path",
                            path.display()
                        ));
                    }
                }
            }
            result => result.map_err(failed)?,
        };
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Waits for the next datagram.
    pub fn next_event(&self) -> io::Result<Event> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(len) => {
                    return Ok(Notification::decode(buffer.get(..len).unwrap_or_default()));
                }
            }
        }
    }

    /// Prints notifications on stderr until the process ends; returns the
    /// path to be removed then.
    pub fn print_in_background(self, json: bool) -> PathBuf {
        let path = self.path.clone();
        std::thread::spawn(move || {
            while let Ok(event) = self.next_event() {
                if writeln!(io::stderr(), "{}", describe(&event, json)).is_err() {
                    break;
                }
            }
        });
        path
    }

    /// The bound path, to be removed at the end.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A line for a notification, safe for terminals.
pub fn describe(event: &Event, json: bool) -> String {
    match event {
        Ok(notification) if json => serde_json::json!({
            "notification": notification.kind.name(),
            "type": notification.kind.number(),
            "text": notification.text(),
        })
        .to_string(),
        Ok(notification) => {
            let text = printable(notification.text().as_bytes());
            format!("[{}] {}", notification.kind.name(), String::from_utf8_lossy(&text))
        }
        Err(error) if json => serde_json::json!({
            "notification": null, "error": error.to_string(),
        })
        .to_string(),
        Err(error) => format!("[bad datagram] {error}"),
    }
}

/// `uml_mconsole --notify SOCKET`: prints notifications until interrupted.
pub fn follow(path: &Path, json: bool) -> Result<u8, String> {
    let listener = Listener::bind(path)?;
    loop {
        let event = listener.next_event().map_err(|error| {
            format!("notification socket \"{}\": {}", path.display(), strerror(&error))
        })?;
        let mut stdout = io::stdout().lock();
        let line = describe(&event, json);
        if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
            return Ok(crate::EXIT_FAILURE);
        }
    }
}
