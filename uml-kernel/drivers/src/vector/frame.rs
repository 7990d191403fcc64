//! What stands in front of Ethernet frames on each transport (shared interface specification, vector
//! transports).

use std::sync::atomic::{AtomicU32, Ordering};

use uml_net::packet::{Csum, Gso, GsoKind, Packet};
use uml_net::wire::ethernet::HEADER as ETHERNET;
use uml_net::wire::vnet::{self, Vnet};

use super::spec::Tunnel;

/// The header of a transport.
pub enum Encap {
    None,
    /// Ten bytes of virtio-net header.
    Vnet,
    Gre(Tunnel, AtomicU32),
    L2tpv3(Tunnel, AtomicU32),
}

/// Why a received frame is not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub String);

fn word(b: &[u8], at: usize) -> Result<u32, Refused> {
    b.get(at..at + 4)
        .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        .ok_or_else(|| Refused("frame shorter than its header".into()))
}

fn gre_flags(t: &Tunnel) -> u32 {
    let key = if t.tx_id.is_some() { 0x2000u32 } else { 0 };
    let seq = if t.counter { 0x1000 } else { 0 };
    (key | seq) << 16 | 0x6558
}

fn next(t: &Tunnel, n: &AtomicU32) -> u32 {
    if t.pin_counter { 0 } else { n.fetch_add(1, Ordering::Relaxed).wrapping_add(1) }
}

/// Longest header in front of a frame: L2TPv3 over UDP with a cookie of eight bytes and a counter.
const HEADER_MAX: usize = 20;

/// The bytes in front of a frame, without a block of memory of their own.
#[derive(Default)]
pub struct Header {
    bytes: [u8; HEADER_MAX],
    len: usize,
}

impl Header {
    fn put(&mut self, b: &[u8]) {
        if let Some(to) = self.bytes.get_mut(self.len..self.len + b.len()) {
            to.copy_from_slice(b);
            self.len += b.len();
        }
    }

    /// The header.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Encap {
    /// The bytes in front of a frame that is sent.
    pub fn header(&self, p: &Packet) -> Header {
        let mut h = Header::default();
        match self {
            Encap::None => {}
            Encap::Vnet => h.put(&describe(p).bytes()),
            Encap::Gre(t, n) => {
                h.put(&gre_flags(t).to_be_bytes());
                if let Some(k) = t.tx_id {
                    h.put(&k.to_be_bytes());
                }
                if t.counter {
                    h.put(&next(t, n).to_be_bytes());
                }
            }
            Encap::L2tpv3(t, n) => {
                if t.udp {
                    h.put(&[0, 3, 0, 0]);
                }
                h.put(&t.tx_id.unwrap_or(0).to_be_bytes());
                if let Some(c) = t.tx_cookie {
                    if t.cookie64 {
                        h.put(&c.to_be_bytes());
                    } else {
                        h.put(&(c as u32).to_be_bytes());
                    }
                }
                if t.counter {
                    h.put(&next(t, n).to_be_bytes());
                }
            }
        }
        h
    }

    /// The last `n` headers were not sent after all: their numbers are used again.
    pub fn take_back(&self, n: usize) {
        if let Encap::Gre(t, c) | Encap::L2tpv3(t, c) = self
            && t.counter
            && !t.pin_counter
        {
            c.fetch_sub(n as u32, Ordering::Relaxed);
        }
    }

    /// Bytes before the Ethernet frame in what was received, after the header was checked.
    pub fn check(&self, b: &[u8]) -> Result<usize, Refused> {
        match self {
            Encap::None => Ok(0),
            Encap::Vnet => Ok(vnet::LEN),
            Encap::Gre(t, _) => {
                // A raw IPv4 socket delivers the IP header, always of twenty bytes here.
                let mut at = if t.v6 { 0 } else { 20 };
                let (got, want) = (word(b, at)?, gre_flags(t));
                if got != want {
                    return Err(Refused(format!(
                        "header type disagreement, expecting {want:x}, got {got:x}"
                    )));
                }
                at += 4;
                if let Some(k) = t.rx_id {
                    let got = word(b, at)?;
                    if got != k {
                        return Err(Refused(format!("unknown key id {got:x}, expecting {k:x}")));
                    }
                    at += 4;
                }
                Ok(at + if t.counter { 4 } else { 0 })
            }
            Encap::L2tpv3(t, _) => {
                let mut at = if t.udp {
                    4
                } else if t.v6 {
                    0
                } else {
                    20
                };
                let session = at;
                at += 4;
                if let Some(c) = t.rx_cookie {
                    let (got, want) = if t.cookie64 {
                        let hi = u64::from(word(b, at)?);
                        (hi << 32 | u64::from(word(b, at + 4)?), c)
                    } else {
                        (u64::from(word(b, at)?), c & 0xffff_ffff)
                    };
                    if got != want {
                        return Err(Refused("uml_l2tpv3: unknown cookie id".into()));
                    }
                    at += if t.cookie64 { 8 } else { 4 };
                }
                if word(b, session)? != t.rx_id.unwrap_or(0) {
                    return Err(Refused("uml_l2tpv3: session mismatch".into()));
                }
                Ok(at + if t.counter { 4 } else { 0 })
            }
        }
    }
}

/// What a packet leaves to the host.
fn describe(p: &Packet) -> Vnet {
    let mut v = Vnet::default();
    if let Csum::Partial { start, offset } = p.csum {
        v.flags = vnet::NEEDS_CSUM;
        v.csum_start = start + p.link_len() as u16;
        v.csum_offset = offset;
    }
    if let Some(g) = p.gso {
        v.gso_type = match g.kind {
            GsoKind::TcpV4 => vnet::GSO_TCPV4,
            GsoKind::TcpV6 => vnet::GSO_TCPV6,
            GsoKind::Udp => vnet::GSO_UDP_L4,
        };
        v.gso_size = g.size;
        // All headers are in the contiguous part.
        v.hdr_len = p.head().len() as u16;
    }
    v
}

/// Takes over what the host left to us.
pub fn apply(v: &Vnet, p: &mut Packet) {
    if v.flags & vnet::NEEDS_CSUM != 0 {
        p.csum = Csum::Partial { start: v.csum_start, offset: v.csum_offset };
    } else if v.flags & vnet::DATA_VALID != 0 {
        p.csum = Csum::Valid;
    }
    let kind = match v.gso_type & !vnet::GSO_ECN {
        vnet::GSO_TCPV4 => GsoKind::TcpV4,
        vnet::GSO_TCPV6 => GsoKind::TcpV6,
        vnet::GSO_UDP_L4 => GsoKind::Udp,
        _ => return,
    };
    if v.gso_size > 0 && p.len() > ETHERNET {
        p.gso = Some(Gso { kind, size: v.gso_size });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::spec::{Transport, VectorSpec};
    use proptest::prelude::*;
    use uml_net::packet::Data;

    fn encap(text: &str) -> Encap {
        match VectorSpec::parse(text).unwrap().transport {
            Transport::Gre(t) => Encap::Gre(t, AtomicU32::new(0)),
            Transport::L2tpv3(t) => Encap::L2tpv3(t, AtomicU32::new(0)),
            _ => Encap::Vnet,
        }
    }

    fn hex(b: &[u8]) -> String {
        b.iter().map(|x| format!("{x:02x}")).collect()
    }

    #[test]
    fn headers_are_those_captured_from_the_stock_kernel() {
        let p = Packet::new(Data::new());
        let e = encap("0:transport=gre,tx_key=0x0a0b0c0d,rx_key=1,sequence=1");
        assert_eq!(hex(e.header(&p).bytes()), "300065580a0b0c0d00000001");
        assert_eq!(hex(e.header(&p).bytes()), "300065580a0b0c0d00000002");
        e.take_back(1);
        assert_eq!(hex(e.header(&p).bytes()), "300065580a0b0c0d00000002");
        let e = encap(
            "0:transport=l2tpv3,udp=1,tx_session=0x11223344,rx_session=2,tx_cookie=0x0102030405060708,rx_cookie=5,cookie64=1,counter=1",
        );
        assert_eq!(hex(e.header(&p).bytes()), "0003000011223344010203040506070800000001");
        let e = encap("0:transport=l2tpv3,udp=1,tx_session=3,rx_session=2,counter=1,pin_counter=1");
        assert_eq!(hex(e.header(&p).bytes()), "000300000000000300000000");
    }

    #[test]
    fn received_headers_are_checked() {
        let e = encap("0:transport=gre,tx_key=1,rx_key=2,v6=1");
        assert_eq!(e.check(&[0x20, 0, 0x65, 0x58, 0, 0, 0, 2, 9]), Ok(8));
        assert!(
            e.check(&[0x20, 0, 0x65, 0x58, 0, 0, 0, 3])
                .unwrap_err()
                .0
                .contains("unknown key id 3, expecting 2")
        );
        assert!(
            e.check(&[0x30, 0, 0x65, 0x58]).unwrap_err().0.contains("header type disagreement")
        );
        let e = encap("0:transport=l2tpv3,udp=1,tx_session=1,rx_session=7,rx_cookie=9,tx_cookie=8");
        assert_eq!(e.check(&[0, 3, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 1]), Ok(12));
        assert!(e.check(&[0, 3, 0, 0, 0, 0, 0, 7, 0, 0, 0, 8]).unwrap_err().0.contains("cookie"));
        assert!(e.check(&[0, 3, 0, 0, 0, 0, 0, 6, 0, 0, 0, 9]).unwrap_err().0.contains("session"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..64), which in 0usize..5) {
            let texts = ["0:transport=gre", "0:transport=gre,rx_key=1,tx_key=1,sequence=1",
                "0:transport=l2tpv3,rx_session=1,tx_session=1", "0:transport=l2tpv3,udp=1,rx_session=1,tx_session=1,rx_cookie=1,tx_cookie=1,cookie64=1",
                "0:transport=tap"];
            let e = encap(texts[which]);
            let _ = e.check(&b);
        }
    }
}
