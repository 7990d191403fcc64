//! What tells connections apart: addresses, protocol, ports or identifiers.

use std::net::IpAddr;

use uml_net::packet::Packet;
use uml_net::wire::icmp::{v4, v6};
use uml_net::wire::{ipv4, ipv6, proto};

use crate::machine::Parsed;

/// Addresses of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    /// Ports; the identifier twice with ICMP; zero with others.
    pub sport: u16,
    pub dport: u16,
    /// Type and code of ICMP.
    pub icmp: (u8, u8),
}

/// The answer to a kind of ICMP message.
fn answer(v6_: bool, kind: u8) -> Option<u8> {
    Some(match (v6_, kind) {
        (false, v4::ECHO) => v4::ECHO_REPLY,
        (false, v4::ECHO_REPLY) => v4::ECHO,
        (false, v4::TIMESTAMP) => v4::TIMESTAMP_REPLY,
        (false, v4::TIMESTAMP_REPLY) => v4::TIMESTAMP,
        (true, v6::ECHO) => v6::ECHO_REPLY,
        (true, v6::ECHO_REPLY) => v6::ECHO,
        _ => return None,
    })
}

/// Addresses of the IP header at the start of `b`.
fn addresses(b: &[u8], is_v6: bool) -> Option<(IpAddr, IpAddr)> {
    if is_v6 {
        let h = ipv6::Ipv6::parse_quoted(b).ok()?;
        Some((h.src.into(), h.dst.into()))
    } else {
        let h = ipv4::Ipv4::parse_quoted(b).ok()?;
        Some((h.src.into(), h.dst.into()))
    }
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

impl Tuple {
    /// From a packet's headers, of which those up to the transport's are at `b`.
    fn read(b: &[u8], is_v6: bool, number: u8, transport: usize) -> Option<Tuple> {
        let (src, dst) = addresses(b, is_v6)?;
        let mut t = Tuple { src, dst, proto: number, sport: 0, dport: 0, icmp: (0, 0) };
        match number {
            proto::TCP | proto::UDP | 132 | 33 | 136 => {
                t.sport = be16(b, transport)?;
                t.dport = be16(b, transport + 2)?;
            }
            proto::ICMP if !is_v6 => t.read_icmp(b, false, transport)?,
            proto::ICMPV6 if is_v6 => t.read_icmp(b, true, transport)?,
            _ => {}
        }
        Some(t)
    }

    fn read_icmp(&mut self, b: &[u8], is_v6: bool, at: usize) -> Option<()> {
        let (kind, code) = (*b.get(at)?, *b.get(at + 1)?);
        answer(is_v6, kind)?;
        let id = be16(b, at + 4)?;
        (self.sport, self.dport, self.icmp) = (id, id, (kind, code));
        Some(())
    }

    /// Of a packet; `None` for ICMP errors and what belongs to no connection.
    pub fn of(p: &mut Packet, h: &Parsed) -> Option<Tuple> {
        if h.piece {
            return None;
        }
        p.pull(h.transport + 8);
        Tuple::read(p.net(), h.v6, h.proto, h.transport)
    }

    /// Of the packet that an ICMP error quotes.
    pub fn quoted(p: &mut Packet, h: &Parsed) -> Option<Tuple> {
        let near = p.net_len().min(h.transport + 8 + 128);
        p.pull(near);
        let b = p.net();
        let kind = *b.get(h.transport)?;
        let error = match (h.v6, h.proto) {
            (false, proto::ICMP) => {
                matches!(
                    kind,
                    v4::UNREACHABLE
                        | v4::TIME_EXCEEDED
                        | v4::PARAMETER
                        | v4::SOURCE_QUENCH
                        | v4::REDIRECT
                )
            }
            (true, proto::ICMPV6) => kind < 128,
            _ => false,
        };
        if !error {
            return None;
        }
        let (number, at) = quoted_at(b.get(h.transport + 8..)?, h.v6)?;
        Tuple::read(b.get(h.transport + 8..)?, h.v6, number, at)
    }

    /// Of replies.
    pub fn inverse(&self) -> Tuple {
        let kind = answer(self.src.is_ipv6(), self.icmp.0).unwrap_or(self.icmp.0);
        Tuple {
            src: self.dst,
            dst: self.src,
            proto: self.proto,
            sport: self.dport,
            dport: self.sport,
            icmp: if self.is_icmp() { (kind, self.icmp.1) } else { (0, 0) },
        }
    }

    /// ICMP of its family.
    pub fn is_icmp(&self) -> bool {
        matches!((self.proto, self.src.is_ipv6()), (proto::ICMP, false) | (proto::ICMPV6, true))
    }

    /// Has ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.proto, proto::TCP | proto::UDP | 132 | 33 | 136)
    }

    /// Such a packet can begin a connection.
    pub fn begins(&self) -> bool {
        !self.is_icmp()
            || match self.src {
                IpAddr::V4(_) => matches!(self.icmp.0, v4::ECHO | v4::TIMESTAMP),
                IpAddr::V6(_) => self.icmp.0 == v6::ECHO,
            }
    }
}

/// Protocol of a quoted packet and where its transport header begins.
pub fn quoted_at(b: &[u8], is_v6: bool) -> Option<(u8, usize)> {
    if is_v6 {
        let h = ipv6::Ipv6::parse_quoted(b).ok()?;
        let c = ipv6::chain(b, h.next).ok()?;
        Some((c.proto, ipv6::HEADER + c.len))
    } else {
        let h = ipv4::Ipv4::parse_quoted(b).ok()?;
        (h.frag_off == 0).then_some((h.proto, h.header_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uml_net::packet::Data;

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut b in proptest::collection::vec(any::<u8>(), 0..200), first in 0usize..4, number: u8) {
            if let Some(x) = b.first_mut() {
                *x = [0x45, 0x46, 0x60, *x][first];
            }
            if b.len() > 20 && first < 2 {
                b[9] = [number, 1, 6, 17][usize::from(number) % 4];
            }
            let mut p = Packet::new(Data::copy_of(&b));
            if let Some(h) = Parsed::of(&mut p) {
                if let Some(t) = Tuple::of(&mut p, &h) {
                    prop_assert_eq!(t.inverse().inverse(), t);
                }
                let _ = Tuple::quoted(&mut p, &h);
            }
        }
    }
}
