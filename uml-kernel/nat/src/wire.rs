//! The guest's side: frames out, and which station has which address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use uml_net::gso;
use uml_net::ip::{self, Meta};
use uml_net::packet::{Csum, Data, Packet};
use uml_net::wire::ethernet::{Ethernet, Mac, ethertype};
use uml_net::wire::icmp::{self, Icmp};
use uml_net::wire::{proto, udp};

use crate::config::Config;
use crate::limits;

/// A packet of the guest without its network header.
pub(crate) struct Datagram {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub ttl: u8,
    /// Begins with the transport header.
    pub p: Packet,
}

/// Frames that are ready for the guest, and what they need.
pub(crate) struct Wire {
    pub cfg: Config,
    pub out: Vec<Packet>,
    stations: HashMap<IpAddr, Mac>,
    last: Option<(IpAddr, Mac)>,
    next_id: u32,
}

impl Wire {
    pub fn new(cfg: Config, seed: u64) -> Wire {
        let next_id = seed as u32;
        Wire { cfg, out: Vec::new(), stations: HashMap::new(), last: None, next_id }
    }

    /// A station has shown its address.
    pub fn learn(&mut self, a: IpAddr, mac: Mac) {
        if self.last == Some((a, mac)) {
            return;
        }
        if mac.is_multicast() || a.is_unspecified() || self.cfg.own(a) {
            return;
        }
        if self.stations.len() >= limits::STATIONS && !self.stations.contains_key(&a) {
            self.stations.clear();
        }
        self.stations.insert(a, mac);
        self.last = Some((a, mac));
    }

    fn station(&self, a: IpAddr) -> Mac {
        match a {
            IpAddr::V4(v) if v.is_broadcast() => Mac::BROADCAST,
            IpAddr::V6(v) if v.is_multicast() => Mac::of_group_v6(v),
            _ => self.stations.get(&a).copied().unwrap_or(self.cfg.guest_mac),
        }
    }

    /// A frame around a packet that begins with its network header.
    pub fn frame(&mut self, to: Mac, kind: u16, mut p: Packet) {
        let h = Ethernet { dst: to, src: self.cfg.mac, kind };
        let link = h.bytes();
        p.push_front(&link);
        p.set_link_len(0);
        if let Csum::Partial { start, .. } = &mut p.csum {
            // Receivers count from the frame's start.
            *start += link.len() as u16;
        }
        self.out.push(p);
    }

    /// Sends a packet that begins with its transport header, cut into fragments where it must be.
    pub fn ip(&mut self, src: IpAddr, dst: IpAddr, proto: u8, ttl: u8, p: Packet) {
        let mac = self.station(dst);
        self.ip_to(mac, src, dst, proto, ttl, p);
    }

    /// As [`Wire::ip`], to a station.
    pub fn ip_to(&mut self, mac: Mac, src: IpAddr, dst: IpAddr, proto: u8, ttl: u8, mut p: Packet) {
        self.next_id = self.next_id.wrapping_add(1);
        let mut m = Meta::new(src, dst, proto);
        (m.ttl, m.id) = (ttl, self.next_id as u16);
        let whole = ip::header_len(dst) + p.len();
        let cut = p.gso.is_none() && whole > self.cfg.mtu;
        m.df = !cut;
        ip::write_header(&mut p, &m);
        let kind = if dst.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 };
        if !cut {
            self.frame(mac, kind, p);
            return;
        }
        p.complete_checksum();
        for piece in uml_net::cut_fragments(p, self.cfg.mtu, self.next_id) {
            self.frame(mac, kind, piece);
        }
    }

    /// Sends one datagram.
    pub fn udp(&mut self, src: SocketAddr, dst: SocketAddr, data: Data) {
        let mac = self.station(dst.ip());
        self.udp_to(mac, src, dst, data);
    }

    /// As [`Wire::udp`], to a station.
    pub fn udp_to(&mut self, mac: Mac, src: SocketAddr, dst: SocketAddr, data: Data) {
        let len = udp::HEADER + data.len();
        let mut p = Packet::new(data);
        let h = udp::Udp { src: src.port(), dst: dst.port(), len, checksum: 0 };
        p.head_mut().extend_from_slice(&h.bytes());
        ip::partial_checksum(&mut p, src.ip(), dst.ip(), proto::UDP, 6);
        self.ip_to(mac, src.ip(), dst.ip(), proto::UDP, 64, p);
    }

    /// Sends an ICMP message.
    pub fn icmp(&mut self, src: IpAddr, dst: IpAddr, ttl: u8, h: Icmp, body: Data) {
        let mut p = Packet::new(body);
        let mut h = h;
        h.checksum = 0;
        p.head_mut().extend_from_slice(&h.bytes());
        let number = if dst.is_ipv4() { proto::ICMP } else { proto::ICMPV6 };
        if dst.is_ipv4() {
            p.csum = Csum::Partial { start: 0, offset: 2 };
        } else {
            ip::partial_checksum(&mut p, src, dst, proto::ICMPV6, 2);
        }
        self.ip(src, dst, number, ttl, p);
    }

    /// Tells the guest of an error with its packet from `src` to `dst`, whose transport header began with
    /// `quoted`. `from` is the router that noticed.
    pub fn error(
        &mut self,
        from: Option<IpAddr>,
        src: IpAddr,
        dst: IpAddr,
        number: u8,
        quoted: &[u8],
        h: Icmp,
    ) {
        let from = from.filter(|f| f.is_ipv4() == src.is_ipv4()).unwrap_or(self.gateway(src));
        let mut q = Packet::new(Data::copy_of(&quoted[..quoted.len().min(520)]));
        ip::write_header(&mut q, &Meta::new(src, dst, number));
        self.icmp(from, src, 64, h, Data::copy_of(&q.to_vec()));
    }

    /// The gateway's address in the family of `a`.
    pub fn gateway(&self, a: IpAddr) -> IpAddr {
        match a {
            IpAddr::V4(_) => self.cfg.gateway.into(),
            IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80 => self.cfg.link_local().into(),
            IpAddr::V6(_) => self.cfg.gateway6().unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        }
    }

    /// The name server's.
    pub fn dns(&self, v4: bool) -> IpAddr {
        if v4 {
            self.cfg.dns.into()
        } else {
            self.cfg.dns6().unwrap_or(Ipv6Addr::UNSPECIFIED).into()
        }
    }
}

/// Why a packet cannot reach its destination, as ICMP says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Net,
    Host,
    Protocol,
    Port,
    Prohibited,
}

impl Unreachable {
    pub fn message(self, v4: bool) -> Icmp {
        use Unreachable::{Host, Net, Port, Prohibited, Protocol};
        let (kind, code) = if v4 {
            let code = match self {
                Net => icmp::v4::NET,
                Host => icmp::v4::HOST,
                Protocol => icmp::v4::PROTOCOL,
                Port => icmp::v4::PORT,
                Prohibited => 13,
            };
            (icmp::v4::UNREACHABLE, code)
        } else {
            let code = match self {
                Net => icmp::v6::NO_ROUTE,
                Host => icmp::v6::ADDRESS,
                Port => icmp::v6::PORT,
                Protocol | Prohibited => icmp::v6::PROHIBITED,
            };
            (icmp::v6::UNREACHABLE, code)
        };
        Icmp { kind, code, checksum: 0, rest: 0 }
    }

    /// What a host's error stands for.
    pub fn of(e: uml_abi::Errno) -> Unreachable {
        use uml_abi::errno::*;
        match e {
            ENETUNREACH | ENETDOWN | EADDRNOTAVAIL | EAFNOSUPPORT => Unreachable::Net,
            EACCES | EPERM => Unreachable::Prohibited,
            ECONNREFUSED => Unreachable::Port,
            _ => Unreachable::Host,
        }
    }
}

/// The datagrams that a super-packet stands for.
pub(crate) fn pieces(data: &Data, size: Option<usize>) -> Vec<Data> {
    match size {
        Some(n) if data.len() > n => gso::pieces(data, n).collect(),
        _ => vec![data.clone()],
    }
}
