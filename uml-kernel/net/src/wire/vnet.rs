//! The ten-byte virtio-net header in front of frames of tap and packet sockets (legacy layout, the host's
//! byte order).

use super::{Malformed, Parsed};

/// Bytes of the header.
pub const LEN: usize = 10;

pub const NEEDS_CSUM: u8 = 1;
pub const DATA_VALID: u8 = 2;

pub const GSO_NONE: u8 = 0;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_UDP: u8 = 3;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_UDP_L4: u8 = 5;
pub const GSO_ECN: u8 = 0x80;

/// The header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vnet {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl Vnet {
    /// Parses ten bytes.
    pub fn parse(b: &[u8]) -> Parsed<Vnet> {
        let b: &[u8; LEN] = b.get(..LEN).and_then(|s| s.try_into().ok()).ok_or(Malformed)?;
        let word = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        Ok(Vnet {
            flags: b[0],
            gso_type: b[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// The header as bytes.
    pub fn bytes(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[0] = self.flags;
        b[1] = self.gso_type;
        b[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        b[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        b[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        b[8..].copy_from_slice(&self.csum_offset.to_ne_bytes());
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
            match Vnet::parse(&b) {
                Ok(h) => prop_assert_eq!(&h.bytes()[..], &b[..LEN]),
                Err(_) => prop_assert!(b.len() < LEN),
            }
        }
    }
}
