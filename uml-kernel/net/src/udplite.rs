//! What UDP-Lite adds to UDP (RFC 3828, udplite(7)): the length field says how much of a datagram the checksum covers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::ip::Delivery;
use crate::packet::Packet;
use crate::stack::Stack;
use crate::udp::{UdpSocket, UdpTable};
use crate::wire::checksum::Sum;
use crate::wire::proto;
use crate::wire::udp::HEADER;

/// The program has not said.
const UNSET: u32 = u32::MAX;

/// Coverages in bytes of header and data; 0 is all of them.
#[derive(Debug)]
pub struct Coverage {
    send: AtomicU32,
    recv: AtomicU32,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage { send: AtomicU32::new(UNSET), recv: AtomicU32::new(UNSET) }
    }
}

/// What an option's value stands for: the header at least, and no more than the field can say.
fn limited(v: i32) -> u32 {
    if v == 0 { 0 } else { v.clamp(HEADER as i32, i32::from(u16::MAX)) as u32 }
}

fn shown(cell: &AtomicU32) -> u32 {
    Some(cell.load(Ordering::Relaxed)).filter(|v| *v != UNSET).unwrap_or(0)
}

impl Coverage {
    /// UDPLITE_SEND_CSCOV.
    pub fn set_send(&self, v: i32) {
        self.send.store(limited(v), Ordering::Relaxed);
    }

    /// UDPLITE_RECV_CSCOV.
    pub fn set_recv(&self, v: i32) {
        self.recv.store(limited(v), Ordering::Relaxed);
    }

    /// Both options' values: of sending, of receiving.
    pub fn get(&self) -> (u32, u32) {
        (shown(&self.send), shown(&self.recv))
    }

    /// The length field and the bytes that are covered, of a datagram of `len` bytes with its header.
    pub(crate) fn of(&self, len: usize) -> (usize, usize) {
        match self.send.load(Ordering::Relaxed) as usize {
            0 => (0, len),
            v if v < len => (v, v),
            _ => (len, len),
        }
    }

    /// Whether the receiver takes a datagram of which `covered` bytes of `len` are.
    pub(crate) fn accepts(&self, covered: usize, len: usize) -> bool {
        match self.recv.load(Ordering::Relaxed) {
            UNSET => true,
            0 => covered == len,
            least => covered == len || covered >= least as usize,
        }
    }
}

impl UdpSocket {
    /// An unbound socket of UDP-Lite, which has ports of its own.
    pub fn lite(stack: &Arc<Stack>, v6: bool) -> Arc<UdpSocket> {
        UdpSocket::make(stack, v6, Some(Coverage::default()))
    }

    /// A datagram of which `covered` bytes of `len` are covered by its checksum is enough for the program.
    pub(crate) fn accepts(&self, (covered, len): (usize, usize)) -> bool {
        self.lite.as_ref().is_none_or(|c| c.accepts(covered, len))
    }
}

impl Stack {
    pub(crate) fn udp_table(&self, lite: bool) -> &UdpTable {
        if lite { &self.udplite } else { &self.udp }
    }
}

/// Sum of the first `covered` bytes from `from` after the network header's start.
fn sum(p: &Packet, from: usize, covered: usize) -> Sum {
    let mut s = Sum::new();
    let head = p.net().get(from..).unwrap_or_default();
    let here = covered.min(head.len());
    s.add(&head[..here]);
    p.data.part(0, covered - here).sum(&mut s);
    s
}

/// The checksum of a datagram that starts the packet and has none yet.
pub(crate) fn checksum(p: &Packet, src: IpAddr, dst: IpAddr, covered: usize) -> u16 {
    let mut s = Sum::pseudo(src, dst, proto::UDPLITE, p.len());
    s.add_u16(sum(p, 0, covered).folded());
    // Zero is no checksum, which is not allowed.
    match s.finish() {
        0 => 0xffff,
        n => n,
    }
}

/// Whether the checksum of a datagram is right, of which `covered` bytes are.
pub(crate) fn checksum_ok(p: &Packet, to: &Delivery, covered: usize) -> bool {
    let len = p.net_len() - to.header_len;
    let mut s = Sum::pseudo(to.src, to.dst, proto::UDPLITE, len);
    s.add_u16(sum(p, to.header_len, covered).folded());
    s.finish() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_of_what_is_sent() {
        let c = Coverage::default();
        assert_eq!(c.of(20), (20, 20));
        for (v, field, covered) in
            [(0, 0, 20), (1, 8, 8), (8, 8, 8), (19, 19, 19), (20, 20, 20), (-5, 8, 8)]
        {
            c.set_send(v);
            assert_eq!(c.of(20), (field, covered), "{v}");
        }
        c.set_send(1 << 20);
        assert_eq!((c.get().0, c.of(100)), (65535, (100, 100)));
    }

    #[test]
    fn coverage_that_is_wanted() {
        let c = Coverage::default();
        assert!(c.accepts(8, 100));
        c.set_recv(0);
        assert!(!c.accepts(99, 100) && c.accepts(100, 100));
        c.set_recv(20);
        assert!(!c.accepts(19, 100) && c.accepts(20, 100));
        // All of a short one is enough.
        assert!(c.accepts(10, 10));
    }
}
