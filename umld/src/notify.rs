//! What systemd wants to hear: readiness, status, watchdog (sd_notify(3)), and the sockets it passes (sd_listen_fds(3)).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The supervisor that started this process.
pub struct Supervisor {
    socket: UnixDatagram,
    address: OsString,
}

impl Supervisor {
    /// From `NOTIFY_SOCKET`; none when nobody listens.
    pub fn from_environment() -> Option<Supervisor> {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|a| !a.is_empty())?;
        let socket = UnixDatagram::unbound().ok()?;
        Some(Supervisor { socket, address })
    }

    /// Sends lines such as `READY=1`. That nobody hears is not our trouble.
    pub fn send(&self, text: &str) {
        let sent = match self.address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)
                .and_then(|a| self.socket.send_to_addr(text.as_bytes(), &a)),
            None => self.socket.send_to(text.as_bytes(), std::path::Path::new(&self.address)),
        };
        if let Err(e) = sent {
            eprintln!("umld: service manager: {e}");
        }
    }
}

/// Half of the watchdog's time, when there is one for this process.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |k: &str| std::env::var(k).ok().and_then(|v| v.parse::<u64>().ok());
    if number("WATCHDOG_PID").is_some_and(|p| p != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|n| *n > 0).map(|n| Duration::from_micros(n / 2))
}

/// Number of sockets passed to this process, from descriptor 3 on.
pub fn listen_fds() -> usize {
    let number = |k: &str| std::env::var(k).ok().and_then(|v| v.parse::<usize>().ok());
    if number("LISTEN_PID") != Some(std::process::id() as usize) {
        return 0;
    }
    number("LISTEN_FDS").unwrap_or(0)
}
