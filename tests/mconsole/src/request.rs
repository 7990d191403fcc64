//! The console's protocol, datagram by datagram.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use uml_formats::mconsole::{MAGIC, Reply, ReplyAssembler, Request};
use uml_formats::unix_path::SocketPath;

use crate::machine::PATIENCE;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub err: i32,
    pub text: String,
}

/// A client with a name of its own.
pub struct Client {
    socket: UnixDatagram,
}

impl Client {
    pub fn new(console: &Path) -> Result<Client, String> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("mconsole-tests-{}-{serial}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).map_err(|e| e.to_string())?;
        let socket = UnixDatagram::bind_addr(&address).map_err(|e| e.to_string())?;
        let short = SocketPath::new(console).map_err(|e| e.to_string())?;
        socket.connect(short.as_path()).map_err(|e| format!("{}: {e}", console.display()))?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        Ok(Client { socket })
    }

    /// Gives up on answers after this long.
    pub fn patience(&self, d: Duration) -> Result<(), String> {
        self.socket.set_read_timeout(Some(d)).map_err(|e| e.to_string())
    }

    pub fn send(&self, datagram: &[u8]) -> Result<(), String> {
        self.socket.send(datagram).map(|_| ()).map_err(|e| format!("send: {e}"))
    }

    /// The next datagram, whatever it is.
    pub fn receive(&self) -> Result<Vec<u8>, String> {
        let mut buf = [0; 4096];
        let n = self.socket.recv(&mut buf).map_err(|e| format!("no answer: {e}"))?;
        Ok(buf[..n].to_vec())
    }

    /// The datagrams of one answer.
    pub fn replies(&self) -> Result<Vec<Reply>, String> {
        let mut all = Vec::new();
        loop {
            let r = Reply::decode(&self.receive()?).map_err(|e| e.to_string())?;
            let more = r.more;
            all.push(r);
            if !more {
                return Ok(all);
            }
        }
    }

    pub fn ask(&self, command: &str) -> Result<Answer, String> {
        self.send(&Request::new(command).map_err(|e| e.to_string())?.encode())?;
        let mut whole = ReplyAssembler::default();
        loop {
            let r = Reply::decode(&self.receive()?).map_err(|e| e.to_string())?;
            if let Some(r) = whole.push(r) {
                return Ok(Answer { err: r.err, text: String::from_utf8_lossy(&r.text).into() });
            }
        }
    }
}

/// One command, one answer.
pub fn ask(console: &Path, command: &str) -> Result<Answer, String> {
    Client::new(console)?.ask(command)
}

/// A request with any header.
pub fn raw(magic: u32, version: u32, len: u32, data: &[u8]) -> Vec<u8> {
    let mut d = Vec::new();
    for field in [magic, version, len] {
        d.extend(field.to_ne_bytes());
    }
    d.extend(data);
    d
}

/// A request in order, of this text.
pub fn of(text: &[u8]) -> Vec<u8> {
    raw(MAGIC, 2, text.len() as u32, text)
}
