//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::ethernet::{Mac, ethertype};
use super::{Malformed, Parsed, array, be16};

/// Bytes of a packet for Ethernet and IPv4.
pub const LEN: usize = 28;

pub const REQUEST: u16 = 1;
pub const REPLY: u16 = 2;

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub op: u16,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

impl Arp {
    /// Parses; other hardware and protocol kinds are malformed here.
    pub fn parse(b: &[u8]) -> Parsed<Arp> {
        let fixed = be16(b, 0)? == 1 && be16(b, 2)? == ethertype::IPV4 && be16(b, 4)? == 0x0604;
        if !fixed {
            return Err(Malformed);
        }
        Ok(Arp {
            op: be16(b, 6)?,
            sender_mac: Mac(array(b, 8)?),
            sender: Ipv4Addr::from(array::<4>(b, 14)?),
            target_mac: Mac(array(b, 18)?),
            target: Ipv4Addr::from(array::<4>(b, 24)?),
        })
    }

    /// The packet as bytes.
    pub fn bytes(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 0]);
        b[6..8].copy_from_slice(&self.op.to_be_bytes());
        b[8..14].copy_from_slice(&self.sender_mac.0);
        b[14..18].copy_from_slice(&self.sender.octets());
        b[18..24].copy_from_slice(&self.target_mac.0);
        b[24..28].copy_from_slice(&self.target.octets());
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_parses_is_written_the_same(mut b in proptest::collection::vec(any::<u8>(), 0..60), fix: bool) {
            if fix && b.len() >= 6 {
                b[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
            }
            if let Ok(a) = Arp::parse(&b) {
                prop_assert_eq!(&a.bytes()[..], &b[..LEN]);
            }
        }
    }
}
