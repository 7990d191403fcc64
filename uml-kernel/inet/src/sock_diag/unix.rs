//! AF_UNIX sockets (`struct unix_diag_req`, `struct unix_diag_msg`; <linux/unix_diag.h>).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_ipc::unix::{Row, rows};

use super::{BY_FAMILY, Query};
use crate::nlmsg::{Message, Reply};

/// Length of `struct unix_diag_req`.
const REQUEST: usize = 24;

/// UDIAG_SHOW_*: what is asked for.
mod show {
    pub const NAME: u32 = 0x1;
    pub const PEER: u32 = 0x4;
    pub const ICONS: u32 = 0x8;
    pub const RQLEN: u32 = 0x10;
    pub const MEMINFO: u32 = 0x20;
    pub const UID: u32 = 0x40;
}

/// UNIX_DIAG_*: attributes.
mod attr {
    pub const NAME: u16 = 0;
    pub const PEER: u16 = 2;
    pub const ICONS: u16 = 3;
    pub const RQLEN: u16 = 4;
    pub const MEMINFO: u16 = 5;
    pub const SHUTDOWN: u16 = 6;
    pub const UID: u16 = 7;
}

/// Answers a dump, or a question for the socket of an inode: `EINVAL` for inode 0, `ENOENT`, `ESTALE`.
pub(super) fn answer(q: &Query<'_>, out: &mut Reply) -> Result<()> {
    let b = q.body.get(..REQUEST).ok_or(EINVAL)?;
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (states, ino, wanted) = (word(4), word(8), word(12));
    let all = rows(q.net);
    if q.dump {
        for r in all.iter().filter(|r| 1 << r.state & states != 0) {
            out.push(message(q, r, wanted, out));
        }
        return Ok(());
    }
    if ino == 0 {
        return Err(EINVAL);
    }
    let r = all.iter().find(|r| r.ino as u32 == ino).ok_or(ENOENT)?;
    if (word(16), word(20)) != (u32::MAX, u32::MAX) && (word(16), word(20)) != cookie(r) {
        return Err(ESTALE);
    }
    out.push(message(q, r, wanted, out));
    Ok(())
}

fn cookie(r: &Row) -> (u32, u32) {
    (r.ino as u32, (r.ino >> 32) as u32)
}

fn message(q: &Query<'_>, r: &Row, wanted: u32, out: &Reply) -> Message {
    let mut b = vec![libc::AF_UNIX as u8, r.kind as u8, r.state, 0];
    for w in [r.ino as u32, cookie(r).0, cookie(r).1] {
        b.extend_from_slice(&w.to_le_bytes());
    }
    let mut m = out.message(BY_FAMILY, q.dump, &b);
    let asked = |bit: u32| wanted & bit != 0;
    if let Some(n) = r.name.as_ref().filter(|_| asked(show::NAME)) {
        m.put(attr::NAME, n);
    }
    if let Some(p) = r.peer.filter(|_| asked(show::PEER)) {
        m.word(attr::PEER, p as u32);
    }
    if asked(show::ICONS) && r.listens {
        let inodes: Vec<u8> = r.pending.iter().flat_map(|i| (*i as u32).to_le_bytes()).collect();
        m.put(attr::ICONS, &inodes);
    }
    if asked(show::RQLEN) {
        m.put(attr::RQLEN, &[r.rx as u32, r.tx as u32].map(u32::to_le_bytes).concat());
    }
    if asked(show::MEMINFO) {
        let words = [r.memory, r.rcvbuf, r.used, r.sndbuf, 0, 0, 0, 0, 0];
        m.put(attr::MEMINFO, &words.map(|w| (w as u32).to_le_bytes()).concat());
    }
    if asked(show::UID) {
        m.word(attr::UID, r.uid);
    }
    m.byte(attr::SHUTDOWN, u8::from(r.shut.0) | u8::from(r.shut.1) << 1);
    m
}
