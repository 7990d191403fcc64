//! The router: who gets a frame, where destinations lead, readiness and deadlines.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use uml_abi::Errno;
use uml_net::Time;
use uml_net::ip::Delivery;
use uml_net::packet::{Csum, Packet};
use uml_net::wire::ethernet::{self, Ethernet, Mac, ethertype};
use uml_net::wire::icmp::{self, Icmp};
use uml_net::wire::ipv4::{self, Ipv4};
use uml_net::wire::ipv6::{self, Ipv6};
use uml_net::wire::proto;

use crate::config::{Config, Forward};
use crate::dhcp::Leases;
use crate::flows::{Flow, Flows, Id, Listener};
use crate::fragment::Reassembly;
use crate::ndp::Advertiser;
use crate::outside::Outside;
use crate::wire::{Datagram, Unreachable, Wire};

/// Where an address of the guest's view leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An address of the host's view.
    Host(IpAddr),
    Dns,
    Not(Unreachable),
    /// Not an address to send to.
    Nowhere,
}

/// A router between one interface of the guest and the host.
pub struct Nat<O: Outside> {
    pub(crate) io: O,
    pub(crate) wire: Wire,
    pub(crate) flows: Flows<O::Socket>,
    pub(crate) tcp: HashMap<(SocketAddr, SocketAddr), Id>,
    pub(crate) udp: HashMap<SocketAddr, Id>,
    pub(crate) ping: HashMap<(IpAddr, u16), Id>,
    pub(crate) leases: Leases,
    pub(crate) advertiser: Advertiser,
    pieces: Reassembly,
    random: u64,
    /// Room for datagrams that are received.
    pub(crate) scratch: Vec<u8>,
}

impl<O: Outside> Nat<O> {
    /// A router with its forwarded ports open; the error says which cannot be.
    pub fn new(cfg: Config, io: O, seed: u64) -> Result<Nat<O>, (Forward, Errno)> {
        let forwards = cfg.forwards.clone();
        let mut n = Nat {
            io,
            leases: Leases::new(&cfg),
            wire: Wire::new(cfg, seed),
            flows: Flows::new(),
            tcp: HashMap::new(),
            udp: HashMap::new(),
            ping: HashMap::new(),
            advertiser: Advertiser::default(),
            pieces: Reassembly::default(),
            random: seed,
            scratch: vec![0; 65_536],
        };
        for f in forwards {
            n.open_forward(&f).map_err(|e| (f.clone(), e))?;
        }
        Ok(n)
    }

    fn open_forward(&mut self, f: &Forward) -> Result<(), Errno> {
        if f.udp {
            return self.udp_forward(f);
        }
        let id = self.flows.reserve();
        match self.io.listen(id, f.host) {
            Ok(sock) => {
                self.flows.put(id, Flow::Listener(Listener { sock, guest: f.guest }));
                Ok(())
            }
            Err(e) => {
                self.flows.end(id);
                Err(e)
            }
        }
    }

    /// The sockets.
    pub fn outside(&mut self) -> &mut O {
        &mut self.io
    }

    /// The network and its rules.
    pub fn config(&self) -> &Config {
        &self.wire.cfg
    }

    /// The guest's hardware address or MTU changed.
    pub fn guest_changed(&mut self, mac: Mac, mtu: usize) {
        (self.wire.cfg.guest_mac, self.wire.cfg.mtu) = (mac, mtu);
    }

    /// Frames for the guest, in order.
    pub fn take_frames(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.wire.out)
    }

    /// Number of conversations: TCP, UDP, echo.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.tcp.len(), self.udp.len(), self.ping.len())
    }

    /// Bytes of the guest that the host's connections have not taken yet.
    pub fn undelivered(&self) -> u64 {
        let of = |id: &Id| match self.flows.get(*id) {
            Some(Flow::Tcp(f)) => f.undelivered() as u64,
            _ => 0,
        };
        self.tcp.values().map(of).sum()
    }

    pub(crate) fn random(&mut self) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.random;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// When [`Nat::expire`] is to be called next.
    pub fn deadline(&self) -> Option<Time> {
        match (self.flows.deadline(), self.advertiser.next) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Does what is due.
    pub fn expire(&mut self, now: Time) {
        if self.advertiser.next.is_some_and(|t| t <= now) {
            self.advertise(None, now);
        }
        while let Some(id) = self.flows.due(now) {
            match self.flows.take(id) {
                Some(Flow::Tcp(f)) => self.tcp_timer(id, f, now),
                Some(Flow::Udp(f)) => self.udp_timer(id, f, now),
                Some(Flow::Ping(f)) => self.ping_timer(id, f, now),
                Some(f @ Flow::Listener(_)) => self.flows.put(id, f),
                None => {}
            }
        }
    }

    /// A socket of the host can go on: something to read, room to write (an error counts as both).
    pub fn ready(&mut self, id: Id, readable: bool, writable: bool, now: Time) {
        match self.flows.take(id) {
            Some(Flow::Tcp(f)) => self.tcp_ready(id, f, readable, writable, now),
            Some(Flow::Udp(f)) => self.udp_ready(id, f, now),
            Some(Flow::Ping(f)) => self.ping_ready(id, f, now),
            Some(Flow::Listener(l)) => self.tcp_incoming(id, l, now),
            None => {}
        }
    }

    /// Takes a frame of the guest. It begins with its Ethernet header, which may be in front of where the
    /// packet's network header is noted.
    pub fn frame(&mut self, mut p: Packet, now: Time) {
        if p.link_len() == 0 {
            if !p.pull(ethernet::HEADER) {
                return;
            }
            p.set_link_len(ethernet::HEADER);
            if let Csum::Partial { start, .. } = &mut p.csum {
                *start = start.saturating_sub(ethernet::HEADER as u16);
            }
        }
        let Ok(h) = Ethernet::parse(p.link()) else { return };
        if h.dst != self.wire.cfg.mac && !h.dst.is_multicast() {
            return;
        }
        match h.kind {
            ethertype::ARP => self.arp(p),
            ethertype::IPV4 => self.v4(h.src, p, now),
            ethertype::IPV6 if self.wire.cfg.net6.is_some() => self.v6(h.src, p, now),
            _ => {}
        }
    }

    fn v4(&mut self, mac: Mac, mut p: Packet, now: Time) {
        if !p.pull(ipv4::HEADER) {
            return;
        }
        let words = usize::from(p.net()[0] & 15) * 4;
        if !p.pull(words) {
            return;
        }
        let whole = p.net_len();
        let Ok(h) = Ipv4::parse(p.net(), whole) else { return };
        p.truncate_net(h.total_len);
        let odd = h.src.is_multicast() || h.src.is_broadcast() || h.src.is_loopback();
        if odd || self.wire.cfg.own(h.src.into()) {
            return;
        }
        if !h.src.is_unspecified() {
            self.wire.learn(h.src.into(), mac);
        }
        p.strip_net(h.header_len);
        if h.is_fragment() {
            let key = (h.src.into(), h.dst.into(), u32::from(h.id), h.proto);
            match self.pieces.add(key, usize::from(h.frag_off), h.mf, p, now) {
                Some(whole) => p = whole,
                None => return,
            }
        }
        let d = Datagram { src: h.src.into(), dst: h.dst.into(), proto: h.proto, ttl: h.ttl, p };
        self.datagram(mac, d, now);
    }

    fn v6(&mut self, mac: Mac, mut p: Packet, now: Time) {
        if !p.pull(ipv6::HEADER) {
            return;
        }
        let whole = p.net_len();
        let Ok(h) = Ipv6::parse(p.net(), whole) else { return };
        p.truncate_net(ipv6::HEADER + h.payload_len);
        if h.src.is_multicast() || h.src.is_loopback() || self.wire.cfg.own(h.src.into()) {
            return;
        }
        p.pull(p.net_len().min(512));
        let Ok(mut c) = ipv6::chain(p.net(), h.next) else { return };
        self.wire.learn(h.src.into(), mac);
        p.strip_net(ipv6::HEADER + c.len);
        if c.proto == proto::FRAGMENT {
            if !p.pull(ipv6::Fragment::LEN) {
                return;
            }
            let Ok(f) = ipv6::Fragment::parse(p.net()) else { return };
            p.strip_net(ipv6::Fragment::LEN);
            let key = (h.src.into(), h.dst.into(), f.id, f.next);
            match self.pieces.add(key, f.offset, f.more, p, now) {
                Some(whole) => p = whole,
                None => return,
            }
            c.proto = f.next;
        }
        let d =
            Datagram { src: h.src.into(), dst: h.dst.into(), proto: c.proto, ttl: h.hop_limit, p };
        self.datagram(mac, d, now);
    }

    fn datagram(&mut self, mac: Mac, d: Datagram, now: Time) {
        let sum = Delivery {
            src: d.src,
            dst: d.dst,
            proto: d.proto,
            ttl: d.ttl,
            tos: 0,
            header_len: 0,
            broadcast: false,
        };
        match d.proto {
            proto::TCP if sum.checksum_ok(&d.p) => self.tcp_input(d, now),
            proto::UDP => self.udp_input(mac, d, &sum, now),
            proto::ICMP
                if d.dst.is_ipv4() && (d.p.csum != Csum::None || d.p.sum_from(0).finish() == 0) =>
            {
                self.echo(d, now);
            }
            proto::ICMPV6 if d.dst.is_ipv6() && sum.checksum_ok(&d.p) => self.icmp6(mac, d, now),
            proto::TCP | proto::ICMP | proto::ICMPV6 | proto::IGMP => {}
            _ if self.wire.cfg.own(d.dst) || self.target(d.dst) != Target::Nowhere => {
                self.refuse(&d, Unreachable::Protocol);
            }
            _ => {}
        }
    }

    /// Answers a packet by "unreachable".
    pub(crate) fn refuse(&mut self, d: &Datagram, why: Unreachable) {
        if d.src.is_unspecified() {
            return;
        }
        let mut quoted = d.p.clone();
        quoted.pull(quoted.net_len().min(64));
        let from = self.wire.cfg.own(d.dst).then_some(d.dst);
        let h = why.message(d.src.is_ipv4());
        self.wire.error(from, d.src, d.dst, d.proto, quoted.net(), h);
    }

    /// True when a packet for elsewhere has reached its last hop here; the guest is told.
    pub(crate) fn ttl_over(&mut self, d: &Datagram) -> bool {
        if d.ttl > 1 || self.wire.cfg.own(d.dst) {
            return false;
        }
        let kind = if d.src.is_ipv4() { icmp::v4::TIME_EXCEEDED } else { icmp::v6::TIME_EXCEEDED };
        let mut quoted = d.p.clone();
        quoted.pull(quoted.net_len().min(64));
        let h = Icmp { kind, code: 0, checksum: 0, rest: 0 };
        self.wire.error(None, d.src, d.dst, d.proto, quoted.net(), h);
        true
    }

    /// Where an address leads.
    pub(crate) fn target(&self, a: IpAddr) -> Target {
        let c = &self.wire.cfg;
        let gateway = match a {
            IpAddr::V4(v) if v == c.dns => return self.name_server(),
            IpAddr::V6(v) if Some(v) == c.dns6() => return self.name_server(),
            IpAddr::V4(v) if v == c.gateway => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            IpAddr::V6(v) if Some(v) == c.gateway6() || v == c.link_local() => {
                Some(IpAddr::V6(Ipv6Addr::LOCALHOST))
            }
            _ => None,
        };
        if let Some(host) = gateway {
            let open = c.loopback && !c.restrict;
            return if open { Target::Host(host) } else { Target::Not(Unreachable::Prohibited) };
        }
        if !reachable(a) || matches!(a, IpAddr::V4(v) if c.inside(a) && v == c.broadcast()) {
            return Target::Nowhere;
        }
        if c.restrict {
            return Target::Not(Unreachable::Prohibited);
        }
        if c.inside(a) {
            return Target::Not(Unreachable::Host);
        }
        Target::Host(a)
    }

    fn name_server(&self) -> Target {
        if self.wire.cfg.restrict { Target::Not(Unreachable::Prohibited) } else { Target::Dns }
    }

    /// How the guest sees an address of the host's view.
    pub(crate) fn shown(&self, host: SocketAddr, guest: IpAddr) -> SocketAddr {
        let ip = host.ip().to_canonical();
        if ip.is_loopback() || ip.is_ipv4() != guest.is_ipv4() || self.wire.cfg.inside(ip) {
            let ip = match self.wire.gateway(guest) {
                // Forwarded connections come from an address that every guest has a way to.
                IpAddr::V6(_) => self.wire.cfg.gateway6().map_or(ip, IpAddr::V6),
                v4 => v4,
            };
            return SocketAddr::new(ip, host.port());
        }
        SocketAddr::new(ip, host.port())
    }

    /// The name servers, by the configuration or the host's.
    pub(crate) fn resolvers(&mut self) -> Vec<SocketAddr> {
        if self.wire.cfg.nameservers.is_empty() {
            return self.io.resolvers();
        }
        self.wire.cfg.nameservers.clone()
    }
}

/// Whether an address is one that packets can go to from here. What would mean the host itself to the
/// host's sockets is not.
fn reachable(a: IpAddr) -> bool {
    match a {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(a) => {
            let top = a.segments()[0];
            // Mapped and compatible IPv4 addresses, loopback and unspecified all begin so.
            a.octets()[..8] != [0; 8] && top & 0xff00 != 0xff00 && top & 0xffc0 != 0xfe80
        }
    }
}
