//! Notifications to a socket of the host (`mconsole=notify:`).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use uml_base::pr_err;
use uml_formats::mconsole::{Notification, NotificationKind};
use uml_formats::unix_path::SocketPath;
use uml_host::datagram::Announcer;

/// The listener's address, and our socket once something was to be said.
pub struct Notifier {
    path: PathBuf,
    socket: OnceLock<Announcer>,
}

impl Notifier {
    /// Will send to the socket at `path`. Nothing is checked or opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Notifier {
        Notifier { path: path.into(), socket: OnceLock::new() }
    }

    /// The console's socket is ready at `path`.
    pub fn ready(&self, path: &Path) {
        use std::os::unix::ffi::OsStrExt;
        self.send(NotificationKind::Socket, with_nul(path.as_os_str().as_bytes()));
    }

    /// The machine panics with this message.
    pub fn panic(&self, message: &str) {
        self.send(NotificationKind::Panic, with_nul(message.as_bytes()));
    }

    /// A guest program wrote `bytes` to /proc/mconsole.
    pub fn user(&self, bytes: &[u8]) {
        self.send(NotificationKind::User, bytes.to_vec());
    }

    /// Sends, never waiting; a failure is logged and otherwise ignored.
    fn send(&self, kind: NotificationKind, payload: Vec<u8>) {
        let datagram = Notification { kind, payload }.encode();
        let sent = SocketPath::new(&self.path)
            .and_then(|path| self.socket()?.send(path.as_path(), &datagram));
        if let Err(e) = sent {
            let errno = e.raw_os_error().unwrap_or(0);
            pr_err!(
                "mconsole_notify - sendto failed, errno = {errno} ({}: {})",
                self.path.display(),
                uml_formats::strerror(&e)
            );
        }
    }

    fn socket(&self) -> std::io::Result<&Announcer> {
        if let Some(s) = self.socket.get() {
            return Ok(s);
        }
        let s = Announcer::new()?;
        Ok(self.socket.get_or_init(|| s))
    }
}

fn with_nul(bytes: &[u8]) -> Vec<u8> {
    let mut v = bytes.to_vec();
    v.push(0);
    v
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn notifications_have_the_protocols_form() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("listener");
        let notifier = Notifier::new(&path);
        // Nobody there yet: logged, not fatal.
        notifier.user(b"lost");
        let listener = UnixDatagram::bind(&path).expect("bind");
        notifier.user(b"user hello\n");
        notifier.panic("oops");
        notifier.ready(Path::new("/root/.uml/t1/mconsole"));
        let mut buf = [0; 600];
        let mut next = || {
            let (n, from) = listener.recv_from(&mut buf).expect("recv");
            assert!(from.is_unnamed());
            Notification::decode(&buf[..n]).expect("a notification")
        };
        let user = next();
        assert_eq!((user.kind, &user.payload[..]), (NotificationKind::User, &b"user hello\n"[..]));
        let panic = next();
        assert_eq!((panic.kind, &panic.payload[..]), (NotificationKind::Panic, &b"oops\0"[..]));
        let ready = next();
        assert_eq!(ready.kind, NotificationKind::Socket);
        assert_eq!(ready.payload.len(), 23);
    }
}
