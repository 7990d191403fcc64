//! The DHCP server (RFC 2131, RFC 2132): one lease for each hardware address, for ever the same.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use uml_net::packet::Data;
use uml_net::wire::ethernet::Mac;

use crate::config::Config;
use crate::limits;
use crate::nat::Nat;
use crate::outside::Outside;

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// Bytes before the options, the magic number included.
const FIXED: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Least size of an answer (RFC 1542 2.1).
const LEAST: usize = 300;
const LEASE_SECONDS: u32 = 86_400;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

/// Who has which address.
pub(crate) struct Leases {
    first: u32,
    /// Addresses that were found in use.
    declined: Vec<u32>,
    table: HashMap<[u8; 6], u32>,
}

impl Leases {
    pub fn new(c: &Config) -> Leases {
        Leases { first: u32::from(c.guest), declined: Vec::new(), table: HashMap::new() }
    }

    /// The address of a station, the same each time; `None` when all are given.
    fn of(&mut self, mac: [u8; 6], c: &Config) -> Option<Ipv4Addr> {
        if let Some(a) = self.table.get(&mac) {
            return Some(Ipv4Addr::from(*a));
        }
        let free = (self.first..).take(limits::LEASES).find(|n| {
            let a = Ipv4Addr::from(*n);
            let last = Ipv4Addr::from(n.saturating_add(1));
            c.inside(a.into())
                && c.inside(last.into())
                && !c.own(a.into())
                && !self.declined.contains(n)
                && !self.table.values().any(|v| v == n)
        })?;
        self.table.insert(mac, free);
        Some(Ipv4Addr::from(free))
    }
}

/// What the server reads of a message.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    xid: [u8; 4],
    flags: [u8; 2],
    ciaddr: Ipv4Addr,
    giaddr: Ipv4Addr,
    mac: [u8; 6],
    kind: u8,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

fn quad(b: &[u8], at: usize) -> Option<[u8; 4]> {
    b.get(at..at + 4)?.try_into().ok()
}

fn parse(b: &[u8]) -> Option<Message> {
    // A request of an Ethernet station.
    if b.len() < FIXED || b[0] != 1 || b[1] != 1 || b[2] != 6 || b[236..240] != MAGIC {
        return None;
    }
    let mut m = Message {
        xid: quad(b, 4)?,
        flags: [b[10], b[11]],
        ciaddr: quad(b, 12)?.into(),
        giaddr: quad(b, 24)?.into(),
        mac: b.get(28..34)?.try_into().ok()?,
        kind: 0,
        requested: None,
        server: None,
    };
    let mut at = FIXED;
    loop {
        match *b.get(at)? {
            255 => break,
            0 => at += 1,
            code => {
                let len = usize::from(*b.get(at + 1)?);
                let v = b.get(at + 2..at + 2 + len)?;
                let address = || quad(v, 0).filter(|_| len == 4).map(Ipv4Addr::from);
                match code {
                    53 if len == 1 => m.kind = v[0],
                    50 => m.requested = address(),
                    54 => m.server = address(),
                    _ => {}
                }
                at += 2 + len;
            }
        }
        if at >= b.len() {
            break;
        }
    }
    (m.kind != 0).then_some(m)
}

fn put(b: &mut Vec<u8>, code: u8, v: &[u8]) {
    b.push(code);
    b.push(v.len().min(255) as u8);
    b.extend_from_slice(&v[..v.len().min(255)]);
}

impl<O: Outside> Nat<O> {
    pub(crate) fn dhcp(&mut self, mac: Mac, src: IpAddr, data: &Data) {
        if !self.wire.cfg.dhcp {
            return;
        }
        let bytes = data.part(0, 1500).to_vec();
        let Some(m) = parse(&bytes) else { return };
        let gateway = self.wire.cfg.gateway;
        match m.kind {
            DISCOVER => {
                if let Some(a) = self.leases.of(m.mac, &self.wire.cfg) {
                    self.dhcp_answer(mac, &m, OFFER, a, src);
                }
            }
            REQUEST => {
                // Another server was chosen.
                if m.server.is_some_and(|s| s != gateway) {
                    return;
                }
                let wanted = m.requested.unwrap_or(m.ciaddr);
                match self.leases.of(m.mac, &self.wire.cfg) {
                    Some(a) if a == wanted => self.dhcp_answer(mac, &m, ACK, a, src),
                    _ => self.dhcp_answer(mac, &m, NAK, Ipv4Addr::UNSPECIFIED, src),
                }
            }
            INFORM => self.dhcp_answer(mac, &m, ACK, Ipv4Addr::UNSPECIFIED, src),
            DECLINE => {
                if let Some(a) = self.leases.table.remove(&m.mac)
                    && self.leases.declined.len() < limits::LEASES
                {
                    self.leases.declined.push(a);
                }
            }
            RELEASE => {
                self.leases.table.remove(&m.mac);
            }
            _ => {}
        }
    }

    fn dhcp_answer(&mut self, mac: Mac, m: &Message, kind: u8, yours: Ipv4Addr, src: IpAddr) {
        let c = &self.wire.cfg;
        let mut b = vec![0; FIXED];
        b[..3].copy_from_slice(&[2, 1, 6]);
        b[4..8].copy_from_slice(&m.xid);
        b[10..12].copy_from_slice(&m.flags);
        if kind != NAK {
            b[12..16].copy_from_slice(&m.ciaddr.octets());
        }
        b[16..20].copy_from_slice(&yours.octets());
        b[24..28].copy_from_slice(&m.giaddr.octets());
        b[28..34].copy_from_slice(&m.mac);
        b[236..240].copy_from_slice(&MAGIC);
        put(&mut b, 53, &[kind]);
        put(&mut b, 54, &c.gateway.octets());
        if kind != NAK {
            put(&mut b, 1, &c.mask().octets());
            put(&mut b, 3, &c.gateway.octets());
            put(&mut b, 6, &c.dns.octets());
            put(&mut b, 28, &c.broadcast().octets());
            if c.mtu != 1500 {
                put(&mut b, 26, &(c.mtu.min(65_535) as u16).to_be_bytes());
            }
            if !yours.is_unspecified() {
                put(&mut b, 51, &LEASE_SECONDS.to_be_bytes());
                put(&mut b, 58, &(LEASE_SECONDS / 2).to_be_bytes());
                put(&mut b, 59, &(LEASE_SECONDS / 8 * 7).to_be_bytes());
            }
            if let Some(h) = &c.hostname {
                put(&mut b, 12, h.as_bytes());
            }
            if let Some(d) = &c.domain {
                put(&mut b, 15, d.as_bytes());
            }
        }
        b.push(255);
        b.resize(b.len().max(LEAST), 0);
        let from = SocketAddr::new(c.gateway.into(), SERVER);
        // To the address in use, else to everybody or the new address (RFC 2131 4.1).
        let in_use = !m.ciaddr.is_unspecified() && kind != NAK && src != Ipv4Addr::UNSPECIFIED;
        let (station, to) = if in_use {
            (mac, m.ciaddr)
        } else if kind == NAK || m.flags[0] & 0x80 != 0 || yours.is_unspecified() {
            (Mac::BROADCAST, Ipv4Addr::BROADCAST)
        } else {
            (mac, yours)
        };
        let to = SocketAddr::new(to.into(), CLIENT);
        self.wire.udp_to(station, from, to, Data::copy_of(&b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn leases_are_stable_and_run_out() {
        let c = Config::default();
        let mut l = Leases::new(&c);
        let a = l.of([1; 6], &c).unwrap();
        assert_eq!(a.to_string(), "10.0.2.15");
        assert_eq!(l.of([2; 6], &c).unwrap().to_string(), "10.0.2.16");
        assert_eq!(l.of([1; 6], &c), Some(a));
        for i in 3..=64 {
            assert!(l.of([i; 6], &c).is_some());
        }
        assert_eq!(l.of([65; 6], &c), None);
    }

    proptest! {
        #[test]
        fn any_message_is_survived(mut b in proptest::collection::vec(any::<u8>(), 0..400), fix: bool) {
            if fix && b.len() >= FIXED {
                b[..3].copy_from_slice(&[1, 1, 6]);
                b[236..240].copy_from_slice(&MAGIC);
            }
            let _ = parse(&b);
        }
    }
}
