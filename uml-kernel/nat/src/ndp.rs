//! Neighbour and router discovery (RFC 4861, RFC 4862, RFC 8106).

use std::net::{IpAddr, Ipv6Addr};

use uml_net::Time;
use uml_net::packet::Data;
use uml_net::time::SEC;
use uml_net::wire::ethernet::Mac;
use uml_net::wire::icmp::{HEADER, Icmp, v6};
use uml_net::wire::ndp;

use crate::nat::Nat;
use crate::outside::Outside;
use crate::wire::Datagram;

/// Lifetime of the router and of what it says, seconds.
const LIFETIME: u16 = 65_535;

/// When routes are announced again.
#[derive(Default)]
pub(crate) struct Advertiser {
    pub next: Option<Time>,
}

impl<O: Outside> Nat<O> {
    pub(crate) fn icmp6(&mut self, mac: Mac, mut d: Datagram, now: Time) {
        d.p.pull(d.p.net_len().min(1500));
        let Ok(h) = Icmp::parse(d.p.net()) else { return };
        match h.kind {
            v6::NEIGHBOUR_SOLICIT if d.ttl == 255 => self.neighbour_solicit(mac, &d),
            v6::ROUTER_SOLICIT if d.ttl == 255 => {
                let IpAddr::V6(src) = d.src else { return };
                self.advertise((!src.is_unspecified()).then_some(src), now);
            }
            v6::ECHO => self.echo(d, now),
            _ => {}
        }
    }

    fn neighbour_solicit(&mut self, mac: Mac, d: &Datagram) {
        let Ok((target, _)) = ndp::neighbour(&d.p.net()[HEADER..]) else { return };
        if !self.wire.cfg.own(target.into()) {
            return;
        }
        let IpAddr::V6(src) = d.src else { return };
        // Whoever only looks whether the address is taken has none yet.
        let probing = src.is_unspecified();
        let to = if probing { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) } else { src };
        if !probing {
            self.wire.learn(src.into(), mac);
        }
        let flags: u32 = 0xa000_0000 | if probing { 0 } else { 0x4000_0000 };
        let mut body = target.octets().to_vec();
        ndp::put_mac(&mut body, 2, self.wire.cfg.mac);
        let h = Icmp { kind: v6::NEIGHBOUR_ADVERT, code: 0, checksum: 0, rest: flags };
        self.wire.icmp(target.into(), to.into(), 255, h, Data::copy_of(&body));
    }

    /// Announces router, prefix and name server; again long before that runs out.
    pub(crate) fn advertise(&mut self, to: Option<Ipv6Addr>, now: Time) {
        let (Some(net), Some(dns)) = (self.wire.cfg.net6, self.wire.cfg.dns6()) else { return };
        self.advertiser.next = Some(now + u64::from(LIFETIME) / 3 * SEC);
        let mut b = Vec::with_capacity(96);
        // Reachable and retransmission times: unspecified.
        b.extend_from_slice(&[0; 8]);
        ndp::put_mac(&mut b, 1, self.wire.cfg.mac);
        b.extend_from_slice(&[5, 1, 0, 0]);
        b.extend_from_slice(&(self.wire.cfg.mtu as u32).to_be_bytes());
        // On link, for addresses of one's own; for ever.
        b.extend_from_slice(&[3, 4, 64, 0xc0]);
        b.extend_from_slice(&[0xff; 8]);
        b.extend_from_slice(&[0; 4]);
        b.extend_from_slice(&net.octets());
        b.extend_from_slice(&[25, 3, 0, 0]);
        b.extend_from_slice(&u32::from(LIFETIME).to_be_bytes());
        b.extend_from_slice(&dns.octets());
        // Hop limit 64; other configuration is to be had by DHCPv6.
        let head = [64, 0x40, 0, 0];
        let rest = u32::from_be_bytes(head) | u32::from(LIFETIME);
        let h = Icmp { kind: v6::ROUTER_ADVERT, code: 0, checksum: 0, rest };
        let to = to.unwrap_or(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
        let from = self.wire.cfg.link_local();
        self.wire.icmp(from.into(), to.into(), 255, h, Data::copy_of(&b));
    }
}
