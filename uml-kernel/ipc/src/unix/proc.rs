//! Lists of sockets: `/proc/net/unix` (proc_pid_net(5), unix(7)), and for sock_diag(7).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use uml_core::vfs::Inode;

use super::addr::Name;
use super::{ALL, Kind, State, UnixSocket};

/// `__SO_ACCEPTCON`: the flag of listening sockets.
const ACCEPTS: u32 = 1 << 16;
/// SS_UNCONNECTED, SS_CONNECTING and SS_CONNECTED, SS_DISCONNECTING of <linux/net.h>.
const UNCONNECTED: u8 = 1;
const CONNECTING: u8 = 2;
const CONNECTED: u8 = 3;

/// The table of a network namespace with its head line.
pub fn table(net: u64) -> Vec<u8> {
    let sockets: Vec<Arc<UnixSocket>> = ALL.lock().values().filter_map(Weak::upgrade).collect();
    let sockets = sockets.into_iter().filter(|s| s.net == net);
    let mut out = b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec();
    for s in sockets {
        let file = s.file.get().and_then(Weak::upgrade);
        let (state, name) = {
            let inner = s.inner.lock();
            (inner.state, inner.name.clone())
        };
        if state == State::Dead {
            continue;
        }
        let flags = if state == State::Listening { ACCEPTS } else { 0 };
        let shown = match (&file, state) {
            (Some(_), State::Connected) => CONNECTED,
            (None, _) => CONNECTING,
            _ => UNCONNECTED,
        };
        // Addresses of the kernel are not shown. Our own hold in `s` does not count.
        let references = Arc::strong_count(&s);
        let ino = file.map_or(0, |i| i.ino());
        let line = format!(
            "0000000000000000: {references:08X} 00000000 {flags:08X} {:04X} {shown:02X} {ino:5}",
            s.kind as i32
        );
        out.extend_from_slice(line.as_bytes());
        match name {
            None => {}
            Some(Name::Path(p, _)) => {
                out.push(b' ');
                out.extend_from_slice(&p);
            }
            Some(Name::Abstract(n)) => {
                out.extend_from_slice(b" @");
                out.extend(n.iter().map(|b| if *b == 0 { b'@' } else { *b }));
            }
        }
        out.push(b'\n');
    }
    out
}

/// A socket in a list of them.
pub struct Row {
    pub kind: Kind,
    /// As the Internet's sockets number them: 1 connected, 7 not, 10 listening.
    pub state: u8,
    pub listens: bool,
    pub ino: u64,
    /// Its owner.
    pub uid: u32,
    /// `sun_path`.
    pub name: Option<Vec<u8>>,
    /// Inode of the other end; 0 when nobody has accepted it yet.
    pub peer: Option<u64>,
    /// Inodes of those that wait to be accepted.
    pub pending: Vec<u64>,
    /// Bytes to be read, and sent ones that are not read; for listeners connections that wait, and how many may.
    pub rx: usize,
    pub tx: usize,
    /// shutdown(2) of reading and writing.
    pub shut: (bool, bool),
    /// Memory of packets to be read, of packets that were sent, and the buffers' sizes.
    pub memory: usize,
    pub used: usize,
    pub rcvbuf: usize,
    pub sndbuf: usize,
}

impl UnixSocket {
    pub(super) fn ino(&self) -> u64 {
        self.file.get().and_then(Weak::upgrade).map_or(0, |i| i.ino())
    }

    fn row(&self) -> Option<Row> {
        let used = self.account.used.load(Ordering::SeqCst);
        // No two inner locks are held at a time, and sockets are dropped outside of them.
        let (mut row, peer, pending) = {
            let i = self.inner.lock();
            if i.state == State::Dead {
                return None;
            }
            let listens = i.state == State::Listening;
            let waiting = i.queue.iter().map(|p| p.bytes().len());
            let row = Row {
                kind: self.kind,
                state: match i.state {
                    State::Listening => 10,
                    State::Connected => 1,
                    _ => 7,
                },
                listens,
                ino: 0,
                uid: 0,
                name: i.name.as_ref().map(|n| n.to_sockaddr()[2..].to_vec()),
                peer: None,
                pending: Vec::new(),
                rx: match self.kind {
                    _ if listens => i.pending.len(),
                    Kind::Dgram => i.queue.front().map_or(0, |p| p.bytes().len()),
                    _ => waiting.sum(),
                },
                tx: if listens { i.backlog } else { used },
                shut: (i.shut_read, i.shut_write),
                memory: i.queue.iter().map(|p| p.charge.bytes).sum(),
                used,
                rcvbuf: self.options.rcvbuf.load(Ordering::Relaxed),
                sndbuf: self.options.sndbuf.load(Ordering::Relaxed),
            };
            (row, i.peer.clone(), i.pending.iter().cloned().collect::<Vec<_>>())
        };
        if let Some(file) = self.file.get().and_then(Weak::upgrade) {
            row.ino = file.ino();
            row.uid = Inode::perm(&*file).map_or(0, |p| p.uid);
        }
        row.peer = peer.map(|p| p.ino());
        let client = |s: &Arc<UnixSocket>| s.inner.lock().peer.clone();
        row.pending = pending.iter().filter_map(client).map(|c| c.ino()).collect();
        Some(row)
    }
}

/// The sockets of a network namespace that somebody has.
pub fn rows(net: u64) -> Vec<Row> {
    let all: Vec<Arc<UnixSocket>> = ALL.lock().values().filter_map(Weak::upgrade).collect();
    all.iter().filter(|s| s.net == net).filter_map(|s| s.row()).filter(|r| r.ino != 0).collect()
}
