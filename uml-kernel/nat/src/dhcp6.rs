//! The DHCPv6 server (RFC 8415): name servers for who asks, and one address for who wants it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use uml_net::packet::Data;

use crate::nat::Nat;
use crate::outside::Outside;

const SERVER: u16 = 547;
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS: u16 = 23;

const LIFETIME: u32 = 86_400;

#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    kind: u8,
    transaction: [u8; 3],
    client: Option<Vec<u8>>,
    server: Option<Vec<u8>>,
    /// Identity associations asked for.
    associations: Vec<[u8; 4]>,
    addresses: Vec<Ipv6Addr>,
    rapid: bool,
}

fn options(mut b: &[u8], mut f: impl FnMut(u16, &[u8])) -> Option<()> {
    while b.len() >= 4 {
        let code = u16::from_be_bytes([b[0], b[1]]);
        let len = usize::from(u16::from_be_bytes([b[2], b[3]]));
        f(code, b.get(4..4 + len)?);
        b = &b[4 + len..];
    }
    b.is_empty().then_some(())
}

fn parse(b: &[u8]) -> Option<Message> {
    let mut m = Message {
        kind: *b.first()?,
        transaction: b.get(1..4)?.try_into().ok()?,
        ..Message::default()
    };
    options(&b[4..], |code, v| match code {
        CLIENT_ID if v.len() <= 130 => m.client = Some(v.to_vec()),
        SERVER_ID => m.server = Some(v.to_vec()),
        RAPID_COMMIT => m.rapid = true,
        IA_NA if v.len() >= 12 && m.associations.len() < 8 => {
            m.associations.push([v[0], v[1], v[2], v[3]]);
            let _ = options(&v[12..], |code, a| {
                if code == IA_ADDRESS
                    && m.addresses.len() < 8
                    && let Some(a) = a.first_chunk::<16>()
                {
                    m.addresses.push(Ipv6Addr::from(*a));
                }
            });
        }
        _ => {}
    })?;
    Some(m)
}

fn put(b: &mut Vec<u8>, code: u16, v: &[u8]) {
    b.extend_from_slice(&code.to_be_bytes());
    b.extend_from_slice(&(v.len() as u16).to_be_bytes());
    b.extend_from_slice(v);
}

impl<O: Outside> Nat<O> {
    pub(crate) fn dhcp6(&mut self, src: IpAddr, port: u16, data: &Data) {
        let cfg = &self.wire.cfg;
        let (Some(address), Some(dns), true) = (cfg.guest6(), cfg.dns6(), cfg.dhcp) else { return };
        let bytes = data.part(0, 1500).to_vec();
        let Some(m) = parse(&bytes) else { return };
        // Type 3: by link-layer address, of Ethernet.
        let mut id = vec![0, 3, 0, 1];
        id.extend_from_slice(&cfg.mac.0);
        if m.server.as_ref().is_some_and(|s| *s != id) {
            return;
        }
        let named = m.client.is_some() && m.server.is_some();
        let (kind, gives) = match m.kind {
            SOLICIT if m.client.is_some() && m.rapid => (REPLY, true),
            SOLICIT if m.client.is_some() => (ADVERTISE, true),
            REQUEST | RENEW if named => (REPLY, true),
            REBIND if m.client.is_some() => (REPLY, true),
            CONFIRM if m.client.is_some() && !m.addresses.is_empty() => (REPLY, false),
            RELEASE | DECLINE if named => (REPLY, false),
            INFORMATION => (REPLY, false),
            _ => return,
        };
        let mut b = vec![kind];
        b.extend_from_slice(&m.transaction);
        if let Some(c) = &m.client {
            put(&mut b, CLIENT_ID, c);
        }
        put(&mut b, SERVER_ID, &id);
        if m.kind == SOLICIT && m.rapid {
            put(&mut b, RAPID_COMMIT, &[]);
        }
        if m.kind == CONFIRM {
            let fits = m.addresses.iter().all(|a| cfg.inside((*a).into()));
            put(&mut b, STATUS, &(if fits { 0u16 } else { 4 }).to_be_bytes());
        }
        if matches!(m.kind, RELEASE | DECLINE) {
            put(&mut b, STATUS, &0u16.to_be_bytes());
        }
        for (i, ia) in m.associations.iter().enumerate().filter(|_| gives) {
            let mut v = ia.to_vec();
            v.extend_from_slice(&(LIFETIME / 2).to_be_bytes());
            v.extend_from_slice(&(LIFETIME / 8 * 7).to_be_bytes());
            if i == 0 {
                let mut a = address.octets().to_vec();
                a.extend_from_slice(&LIFETIME.to_be_bytes());
                a.extend_from_slice(&LIFETIME.to_be_bytes());
                put(&mut v, IA_ADDRESS, &a);
            } else {
                // NoAddrsAvail: there is one address.
                put(&mut v, STATUS, &2u16.to_be_bytes());
            }
            put(&mut b, IA_NA, &v);
        }
        put(&mut b, DNS, &dns.octets());
        let from = SocketAddr::new(cfg.link_local().into(), SERVER);
        self.wire.udp(from, SocketAddr::new(src, port), Data::copy_of(&b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_message_is_survived(b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&b);
        }
    }
}
