//! Messages for the systemd journal with the field `UMID=` (systemd.journal-fields(7), the native protocol).

use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Sends a message when this process runs under systemd; priority as in syslog(3). Whether it was taken.
pub fn send(name: &str, priority: u8, text: &str) -> bool {
    static STREAM: OnceLock<Option<UnixDatagram>> = OnceLock::new();
    let open = || {
        std::env::var_os("JOURNAL_STREAM")?;
        let s = UnixDatagram::unbound().ok()?;
        s.connect(SOCKET).ok()?;
        Some(s)
    };
    let Some(s) = STREAM.get_or_init(open) else { return false };
    // Newlines would need the protocol's binary form; messages here are lines.
    let line = |t: &str| t.replace('\n', " ");
    let message = format!(
        "MESSAGE={}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=umld\nUMID={}\n",
        line(text),
        line(name)
    );
    // The journal may be down; the holder's own log has the message too.
    s.send(message.as_bytes()).is_ok()
}
