//! Neighbour discovery messages (RFC 4861) after their ICMPv6 header.

use std::net::Ipv6Addr;

use super::ethernet::Mac;
use super::{Malformed, Parsed, array, be16, be32};

/// Options of a message; the first of a kind counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NdOptions {
    pub source_mac: Option<Mac>,
    pub target_mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub prefixes: Vec<Prefix>,
    /// Recursive DNS servers (RFC 8106) with their lifetime in seconds.
    pub dns: Vec<(Ipv6Addr, u32)>,
}

/// Prefix information of a router advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub addr: Ipv6Addr,
    pub len: u8,
    pub on_link: bool,
    pub autonomous: bool,
    /// Seconds; all ones is for ever.
    pub valid: u32,
    pub preferred: u32,
}

impl NdOptions {
    /// Parses a list of options; an option of length zero makes the packet invalid (RFC 4861 4.6).
    pub fn parse(mut b: &[u8]) -> Parsed<NdOptions> {
        let mut o = NdOptions::default();
        while !b.is_empty() {
            let len = usize::from(*b.get(1).ok_or(Malformed)?) * 8;
            if len == 0 || len > b.len() {
                return Err(Malformed);
            }
            match b[0] {
                1 => o.source_mac = o.source_mac.or(Some(Mac(array(b, 2)?))),
                2 => o.target_mac = o.target_mac.or(Some(Mac(array(b, 2)?))),
                3 if len == 32 && o.prefixes.len() < 16 => o.prefixes.push(Prefix {
                    addr: Ipv6Addr::from(array::<16>(b, 16)?),
                    len: b[2],
                    on_link: b[3] & 0x80 != 0,
                    autonomous: b[3] & 0x40 != 0,
                    valid: be32(b, 4)?,
                    preferred: be32(b, 8)?,
                }),
                5 => o.mtu = Some(be32(b, 4)?),
                25 => {
                    let life = be32(b, 4)?;
                    for c in b[8..len].chunks_exact(16) {
                        if o.dns.len() < 8 {
                            o.dns.push((Ipv6Addr::from(array::<16>(c, 0)?), life));
                        }
                    }
                }
                _ => {}
            }
            b = &b[len..];
        }
        Ok(o)
    }
}

/// Appends a link-layer address option (`kind` 1 source, 2 target).
pub fn put_mac(out: &mut Vec<u8>, kind: u8, mac: Mac) {
    out.extend_from_slice(&[kind, 1]);
    out.extend_from_slice(&mac.0);
}

/// Target and options of a neighbour solicitation or advertisement (after the ICMPv6 header).
pub fn neighbour(b: &[u8]) -> Parsed<(Ipv6Addr, NdOptions)> {
    let target = Ipv6Addr::from(array::<16>(b, 0)?);
    Ok((target, NdOptions::parse(b.get(16..).ok_or(Malformed)?)?))
}

/// A router advertisement; `head` is the 32-bit field of the ICMPv6 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterAdvert {
    pub hop_limit: u8,
    pub managed: bool,
    pub other: bool,
    /// Seconds; zero is "no default router".
    pub lifetime: u16,
    pub reachable_ms: u32,
    pub retrans_ms: u32,
    pub options: NdOptions,
}

impl RouterAdvert {
    /// Parses what follows the ICMPv6 header whose last word is `head`.
    pub fn parse(head: u32, b: &[u8]) -> Parsed<RouterAdvert> {
        let h = head.to_be_bytes();
        Ok(RouterAdvert {
            hop_limit: h[0],
            managed: h[1] & 0x80 != 0,
            other: h[1] & 0x40 != 0,
            lifetime: be16(&h, 2)?,
            reachable_ms: be32(b, 0)?,
            retrans_ms: be32(b, 4)?,
            options: NdOptions::parse(&b[8..])?,
        })
    }
}

/// The solicited-node group of an address (RFC 4291 2.7.1).
pub fn solicited_node(a: Ipv6Addr) -> Ipv6Addr {
    let o = a.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..200), head: u32) {
            let _ = neighbour(&b);
            let _ = NdOptions::parse(&b);
            let _ = RouterAdvert::parse(head, &b);
        }
    }

    #[test]
    fn a_router_advertisement_is_understood() {
        let mut b = vec![0; 8];
        put_mac(&mut b, 1, Mac([2, 0, 0, 0, 0, 1]));
        b.extend_from_slice(&[3, 4, 64, 0xc0]);
        b.extend_from_slice(&3600u32.to_be_bytes());
        b.extend_from_slice(&1800u32.to_be_bytes());
        b.extend_from_slice(&[0; 4]);
        b.extend_from_slice(&"2001:db8::".parse::<Ipv6Addr>().unwrap().octets());
        let ra = RouterAdvert::parse(0x40c0_0708, &b).unwrap();
        assert_eq!((ra.hop_limit, ra.managed, ra.other, ra.lifetime), (64, true, true, 0x0708));
        assert_eq!(ra.options.source_mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        let p = ra.options.prefixes[0];
        assert_eq!(
            (p.len, p.on_link, p.autonomous, p.valid, p.preferred),
            (64, true, true, 3600, 1800)
        );
        b[9] = 0;
        assert_eq!(RouterAdvert::parse(0, &b), Err(Malformed));
        assert_eq!(RouterAdvert::parse(0, &[0; 7]), Err(Malformed));
    }
}
