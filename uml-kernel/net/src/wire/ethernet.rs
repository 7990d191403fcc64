//! Ethernet II and IEEE 802.1Q.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Parsed, array, be16};

/// Bytes of the header without tags.
pub const HEADER: usize = 14;

/// EtherTypes.
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
    pub const IPV6: u16 = 0x86dd;
    /// Less is the length of a frame of IEEE 802.3.
    pub const LEAST: u16 = 0x0600;
    /// ETH_P_802_2 of packet(7): what such frames count as.
    pub const LLC: u16 = 0x0004;
    /// ETH_P_ALL of packet(7).
    pub const ALL: u16 = 0x0003;
}

/// A 48-bit MAC address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    pub const ZERO: Mac = Mac([0; 6]);

    /// The group bit is set (broadcast included).
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// An address that one station can have.
    pub fn is_valid_unicast(self) -> bool {
        !self.is_multicast() && self != Mac::ZERO
    }

    /// Where an IPv4 group is sent (RFC 1112 6.4).
    pub fn of_group_v4(a: Ipv4Addr) -> Mac {
        let o = a.octets();
        Mac([0x01, 0x00, 0x5e, o[1] & 0x7f, o[2], o[3]])
    }

    /// Where an IPv6 group is sent (RFC 2464 7).
    pub fn of_group_v6(a: Ipv6Addr) -> Mac {
        let o = a.octets();
        Mac([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }

    /// The modified EUI-64 interface identifier (RFC 4291 appendix A).
    pub fn eui64(self) -> [u8; 8] {
        let m = self.0;
        [m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]
    }

    /// Parses `xx:xx:xx:xx:xx:xx`, each part of one or two hexadecimal digits.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut m = [0; 6];
        let mut parts = text.split(':');
        for b in &mut m {
            let p = parts.next()?;
            if p.is_empty() || p.len() > 2 || !p.bytes().all(|c| c.is_ascii_hexdigit()) {
                return None;
            }
            *b = u8::from_str_radix(p, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(m))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    pub dst: Mac,
    pub src: Mac,
    /// EtherType, or a length when below 0x600.
    pub kind: u16,
}

impl Ethernet {
    /// The first 14 bytes of a frame.
    pub fn parse(b: &[u8]) -> Parsed<Ethernet> {
        Ok(Ethernet { dst: Mac(array(b, 0)?), src: Mac(array(b, 6)?), kind: be16(b, 12)? })
    }

    /// The header as bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[..6].copy_from_slice(&self.dst.0);
        b[6..12].copy_from_slice(&self.src.0);
        b[12..].copy_from_slice(&self.kind.to_be_bytes());
        b
    }
}

/// The two fields of an 802.1Q tag after its EtherType.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Priority, drop eligibility and VLAN number.
    pub tci: u16,
    /// EtherType of what follows.
    pub kind: u16,
}

impl Tag {
    /// Four bytes after the EtherType 0x8100.
    pub fn parse(b: &[u8]) -> Parsed<Tag> {
        Ok(Tag { tci: be16(b, 0)?, kind: be16(b, 2)? })
    }

    /// VLAN number.
    pub fn vid(self) -> u16 {
        self.tci & 0xfff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_parse_as_written() {
        let m = Mac::parse("fe:FD:0:1:a2:03").unwrap();
        assert_eq!(m.to_string(), "fe:fd:00:01:a2:03");
        for bad in
            ["", "1:2:3:4:5", "1:2:3:4:5:6:7", "1:2:3:4:5:ggg", "001:2:3:4:5:6", "1:2:3:4:5:"]
        {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(b in proptest::collection::vec(any::<u8>(), 0..40)) {
            match Ethernet::parse(&b) {
                Ok(h) => prop_assert_eq!(&h.bytes()[..], &b[..HEADER]),
                Err(_) => prop_assert!(b.len() < HEADER),
            }
            let _ = Tag::parse(&b);
        }
    }
}
