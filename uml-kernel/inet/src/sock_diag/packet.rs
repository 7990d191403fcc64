//! AF_PACKET sockets (`struct packet_diag_req`, `struct packet_diag_msg`; <linux/packet_diag.h>).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::tap::PacketSocket;

use super::{BY_FAMILY, Query};
use crate::nlmsg::{Message, Reply};

/// Length of `struct packet_diag_req`.
const REQUEST: usize = 20;

/// PACKET_SHOW_*: what is asked for.
mod show {
    pub const INFO: u32 = 0x1;
    pub const MCLIST: u32 = 0x2;
    pub const RINGS: u32 = 0x4;
    pub const FANOUT: u32 = 0x8;
    pub const MEMINFO: u32 = 0x10;
    pub const FILTER: u32 = 0x20;
}

/// PACKET_DIAG_*: attributes.
mod attr {
    pub const INFO: u16 = 0;
    pub const MCLIST: u16 = 1;
    pub const RX_RING: u16 = 2;
    pub const TX_RING: u16 = 3;
    pub const FANOUT: u16 = 4;
    pub const UID: u16 = 5;
    pub const MEMINFO: u16 = 6;
    pub const FILTER: u16 = 7;
}

/// PDI_RUNNING, PDI_AUXDATA and PDI_LOSS.
const RUNNING: u32 = 0x1;
const AUXDATA: u32 = 0x2;
const LOSS: u32 = 0x10;
/// PACKET_MR_PROMISC.
const PROMISC: u16 = 1;

/// Answers a dump: `EINVAL` for a protocol, `EOPNOTSUPP` for a single socket, as on Linux.
pub(super) fn answer(q: &Query<'_>, out: &mut Reply) -> Result<()> {
    let b = q.body.get(..REQUEST).ok_or(EINVAL)?;
    if b[1] != 0 {
        return Err(EINVAL);
    }
    if !q.dump {
        return Err(EOPNOTSUPP);
    }
    let wanted = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
    for s in q.stack.packet_sockets() {
        out.push(message(q, &s, wanted, out));
    }
    Ok(())
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn message(q: &Query<'_>, s: &PacketSocket, wanted: u32, out: &Reply) -> Message {
    let (iface, protocol) = s.bound();
    let (uid, inode) = s.owner();
    let kind = if s.cooked { libc::SOCK_DGRAM } else { libc::SOCK_RAW };
    let mut b = vec![libc::AF_PACKET as u8, kind as u8];
    b.extend_from_slice(&protocol.to_le_bytes());
    b.extend(bytes(&[inode as u32, s.id as u32, (s.id >> 32) as u32]));
    let mut m = out.message(BY_FAMILY, q.dump, &b);
    let asked = |bit: u32| wanted & bit != 0;
    let shapes = s.shapes();
    if asked(show::INFO) {
        let on = |bit: u32, yes: bool| if yes { bit } else { 0 };
        let flags = on(RUNNING, s.running()) | on(AUXDATA, s.auxdata()) | on(LOSS, shapes.loss);
        // Interface; version, reserve and copy threshold of rings; time stamps; flags.
        m.put(attr::INFO, &bytes(&[iface, shapes.version, shapes.reserve, 0, 0, flags]));
        m.word(attr::UID, uid);
    }
    if asked(show::MCLIST) {
        m.put(attr::MCLIST, &memberships(s));
    }
    if asked(show::RINGS) {
        for (k, ring) in [(attr::RX_RING, shapes.rx), (attr::TX_RING, shapes.tx)] {
            if let Some(r) = ring {
                let words = [r.block_size, r.blocks, r.frame_size, r.frames];
                m.put(k, &bytes(&[&words[..], &[r.retire, r.private, r.features]].concat()));
            }
        }
    }
    if asked(show::FANOUT)
        && let Some(g) = s.fanout_group()
    {
        m.word(attr::FANOUT, u32::from(g.id) | (g.kind as u32) << 16);
    }
    if asked(show::MEMINFO) {
        let (drops, rcvbuf) = s.drops_and_buffer();
        let (used, rcvbuf) = (s.used() as u32, rcvbuf as u32);
        m.put(attr::MEMINFO, &bytes(&[used, rcvbuf, 0, rcvbuf, 0, 0, 0, 0, drops]));
    }
    if asked(show::FILTER) {
        // Who may not see it gets an attribute without content.
        let insns = if q.privileged { s.filter() } else { Vec::new() };
        if !q.privileged || !insns.is_empty() {
            let one = |i: &uml_net::bpf::Insn| {
                let code = i.code.to_le_bytes();
                let k = i.k.to_le_bytes();
                [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
            };
            m.put(attr::FILTER, &insns.iter().flat_map(one).collect::<Vec<u8>>());
        }
    }
    m
}

/// `struct packet_diag_mclist` of each membership.
fn memberships(s: &PacketSocket) -> Vec<u8> {
    /// Length of an address there (MAX_ADDR_LEN).
    const ADDRESS: usize = 32;
    let mut all = Vec::new();
    for (iface, count) in s.promiscuous() {
        all.extend(bytes(&[iface, count]));
        all.extend_from_slice(&PROMISC.to_le_bytes());
        all.extend_from_slice(&0u16.to_le_bytes());
        all.resize(all.len() + ADDRESS, 0);
    }
    all
}
