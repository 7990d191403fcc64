//! ICMP for IPv4 and IPv6: echo and errors (RFC 792, RFC 4443).

use super::{Malformed, Parsed, be16, be32};

/// Bytes before the body.
pub const HEADER: usize = 8;

/// Types of ICMP.
pub mod v4 {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
    /// Codes of UNREACHABLE.
    pub const NET: u8 = 0;
    pub const HOST: u8 = 1;
    pub const PROTOCOL: u8 = 2;
    pub const PORT: u8 = 3;
    pub const FRAG_NEEDED: u8 = 4;
}

/// Types of ICMPv6.
pub mod v6 {
    pub const UNREACHABLE: u8 = 1;
    pub const TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const MLD_QUERY: u8 = 130;
    pub const MLD_REPORT: u8 = 131;
    pub const MLD_DONE: u8 = 132;
    pub const ROUTER_SOLICIT: u8 = 133;
    pub const ROUTER_ADVERT: u8 = 134;
    pub const NEIGHBOUR_SOLICIT: u8 = 135;
    pub const NEIGHBOUR_ADVERT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    pub const MLD2_REPORT: u8 = 143;
    /// Codes of UNREACHABLE.
    pub const NO_ROUTE: u8 = 0;
    pub const PROHIBITED: u8 = 1;
    pub const ADDRESS: u8 = 3;
    pub const PORT: u8 = 4;
}

/// The fixed part of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    /// Identifier and sequence number, MTU, pointer or unused.
    pub rest: u32,
}

impl Icmp {
    /// Parses eight bytes.
    pub fn parse(b: &[u8]) -> Parsed<Icmp> {
        if b.len() < HEADER {
            return Err(Malformed);
        }
        Ok(Icmp { kind: b[0], code: b[1], checksum: be16(b, 2)?, rest: be32(b, 4)? })
    }

    /// Identifier of an echo message.
    pub fn id(&self) -> u16 {
        (self.rest >> 16) as u16
    }

    /// The header as bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[0] = self.kind;
        b[1] = self.code;
        b[2..4].copy_from_slice(&self.checksum.to_be_bytes());
        b[4..].copy_from_slice(&self.rest.to_be_bytes());
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(b in proptest::collection::vec(any::<u8>(), 0..20)) {
            match Icmp::parse(&b) {
                Ok(h) => prop_assert_eq!(&h.bytes()[..], &b[..HEADER]),
                Err(_) => prop_assert!(b.len() < HEADER),
            }
        }
    }
}
