//! A number for the flow that a frame belongs to: addresses, protocol and ports, the same both ways.

use crate::wire::ethernet::ethertype;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::proto;

/// Hash of the flow of a packet, from its network header on, of the EtherType `protocol`; never 0. Pieces of a datagram count as a
/// flow without ports, so that all of them are in the same.
pub fn flow_hash(packet: &[u8], protocol: u16, secret: u64) -> u32 {
    let mut ends: [(&[u8], [u8; 2]); 2] = [(&[], [0; 2]); 2];
    let mut kind = 0;
    let mut transport = None;
    match protocol {
        ethertype::IPV4 => {
            if let Ok(h) = Ipv4::parse_quoted(packet) {
                (ends[0].0, ends[1].0) = (&packet[12..16], &packet[16..20]);
                kind = h.proto;
                transport = (!h.mf && h.frag_off == 0).then_some(h.header_len);
            }
        }
        ethertype::IPV6 => {
            if let Ok(h) = Ipv6::parse_quoted(packet) {
                (ends[0].0, ends[1].0) = (&packet[8..24], &packet[24..40]);
                kind = h.next;
                if let Ok(c) = ipv6::chain(packet, h.next) {
                    kind = c.proto;
                    transport = Some(ipv6::HEADER + c.len);
                }
            }
        }
        _ => {}
    }
    if matches!(kind, proto::TCP | proto::UDP)
        && let Some(b) = transport.and_then(|at| packet.get(at..at + 4))
    {
        (ends[0].1, ends[1].1) = ([b[0], b[1]], [b[2], b[3]]);
    }
    ends.sort_unstable();
    let mut hash = secret ^ u64::from(protocol) << 8 ^ u64::from(kind);
    for (address, port) in ends {
        for b in address.iter().chain(&port) {
            // FNV-1a, whose low bits are mixed below.
            hash = (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    let mixed = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 32) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
        let mut b = Vec::new();
        Ipv4::new([10, 0, 0, from.0].into(), [10, 0, 0, to.0].into(), proto::UDP, 64, 8)
            .write(&[], &mut b);
        b.extend_from_slice(&from.1.to_be_bytes());
        b.extend_from_slice(&to.1.to_be_bytes());
        b.extend_from_slice(&[0, 8, 0, 0]);
        b
    }

    #[test]
    fn both_ways_are_one_flow_and_others_are_spread() {
        let hash = |b: &[u8]| flow_hash(b, ethertype::IPV4, 7);
        let there = datagram((1, 1000), (2, 53));
        assert_eq!(hash(&there), hash(&datagram((2, 53), (1, 1000))));
        let mut seen: Vec<u64> = (0..256u16)
            .map(|n| (u64::from(hash(&datagram((1, 1000 + n), (2, 53)))) * 4) >> 32)
            .collect();
        seen.sort_unstable();
        for quarter in 0..4 {
            let n = seen.iter().filter(|s| **s == quarter).count();
            assert!((32..=96).contains(&n), "{n} of 256 in quarter {quarter}");
        }
        // The first piece has ports and the others have not.
        let mut first = there.clone();
        first[6] |= 0x20;
        let mut second = first.clone();
        second[7] = 1;
        second[20..].fill(9);
        assert_eq!(hash(&first), hash(&second));
        assert_ne!(flow_hash(&[1, 2, 3], 0x1234, 7), 0);
        assert_ne!(flow_hash(&there[..3], ethertype::IPV4, 7), 0);
    }
}
