//! What the daemon keeps for holders: duplicates of the descriptors of their consoles and of the kernel's log. A holder
//! that is killed takes neither a console nor a byte of its output with it: the next one gets them from here.
//!
//! Holders send them, one in each datagram, when a kernel is started and when they are asked.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uml_formats::unix_path::SocketPath;
use uml_host::fdpass;

use crate::failure::{Context, Result};
use crate::state::Store;

/// How long a daemon may take to take one; it is not worth more.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest datagram.
const MESSAGE_MAX: usize = 1024;

/// What comes with a descriptor.
#[derive(Debug, Serialize, Deserialize)]
struct Label {
    name: String,
    what: String,
}

/// Descriptors by what they are: a line's name, or [`LOG`].
pub type Kept = BTreeMap<String, OwnedFd>;

/// The kernel's log.
pub const LOG: &str = "log";

/// Gives descriptors of an instance to the daemon; an error when there is none.
pub fn lend<'a>(
    store: &Store,
    name: &str,
    what: impl Iterator<Item = (&'a str, BorrowedFd<'a>)>,
) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SocketPath::new(&store.keep())?.as_path())?;
    socket.set_write_timeout(Some(PATIENCE))?;
    what.into_iter().try_for_each(|(what, fd)| send(&socket, name, what, fd))
}

/// Sends one.
pub fn send(socket: &UnixDatagram, name: &str, what: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    let label = Label { name: name.into(), what: what.into() };
    fdpass::send(socket, &serde_json::to_vec(&label)?, fd)
}

/// Receives one: the instance, what it is, the descriptor.
pub fn receive(socket: impl AsFd) -> io::Result<(String, String, OwnedFd)> {
    let mut buf = [0; MESSAGE_MAX];
    let (n, mut fds) = fdpass::receive(socket, &mut buf)?;
    let label: Label = serde_json::from_slice(&buf[..n])?;
    match (fds.pop(), fds.is_empty()) {
        (Some(fd), true) => Ok((label.name, label.what, fd)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The daemon's side.
pub struct Keeper {
    socket: UnixDatagram,
    kept: BTreeMap<String, Kept>,
}

impl Keeper {
    /// Binds the socket; the daemon's lock is held.
    pub fn new(store: &Store) -> Result<Keeper> {
        let path = store.keep();
        let _ = std::fs::remove_file(&path);
        let short = SocketPath::new(&path).at("cannot bind", &path)?;
        let socket = UnixDatagram::bind(short.as_path()).at("cannot bind", &path)?;
        socket.set_nonblocking(true).at("cannot use", &path)?;
        Ok(Keeper { socket, kept: BTreeMap::new() })
    }

    /// Takes what has come.
    pub fn take_in(&mut self) {
        loop {
            match receive(&self.socket) {
                Ok((name, what, fd)) => {
                    self.kept.entry(name).or_default().insert(what, fd);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // A wrong message is gone with its descriptors.
                Err(e) if e.raw_os_error().is_none() => {}
                Err(e) => return eprintln!("umld: descriptors of a holder: {e}"),
            }
        }
    }

    /// Whether there is something of an instance.
    pub fn has(&self, name: &str) -> bool {
        self.kept.contains_key(name)
    }

    /// What there is of an instance, as duplicates: the next holder may be killed, too.
    pub fn of(&self, name: &str) -> Kept {
        let kept = self.kept.get(name).into_iter().flatten();
        kept.filter_map(|(what, fd)| Some((what.clone(), fd.try_clone().ok()?))).collect()
    }

    /// Closes what is of an instance that is down.
    pub fn drop(&mut self, name: &str) {
        self.kept.remove(name);
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_are_kept_given_and_closed() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path());
        store.create().unwrap();
        let (mut read, write) = io::pipe().unwrap();
        let nobody = lend(&store, "m", [("con0", write.as_fd())].into_iter());
        assert_eq!(nobody.unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut keeper = Keeper::new(&store).unwrap();
        lend(&store, "m", [("con0", write.as_fd()), (LOG, write.as_fd())].into_iter()).unwrap();
        // Nonsense does no harm.
        let other = UnixDatagram::unbound().unwrap();
        other.connect(store.keep()).unwrap();
        other.send(b"{}").unwrap();
        other.send(&[7; MESSAGE_MAX + 1]).unwrap();
        drop(write);
        keeper.take_in();
        assert!(keeper.has("m") && !keeper.has("n"));
        let kept = keeper.of("m");
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["con0", LOG]);
        for fd in kept.into_values() {
            std::fs::File::from(fd).write_all(b"x").unwrap();
        }
        keeper.drop("m");
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xx");
    }
}
