//! IPv4 and IPv6: routes of packets, sending, receiving, forwarding (RFC 791, RFC 8200, RFC 1812).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;

use crate::hook::{FrameHook, Hook, Track};
use crate::interface::{Interface, Link, count, is_link_local};
use crate::packet::{Csum, Packet};
use crate::route::{self, Flow, Kind};
use crate::stack::{Cx, Stack};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, Ethernet, Mac, Tag, ethertype};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{icmp as wire_icmp, proto, v4_options};
use crate::{fragment, icmp, neighbour};

/// Where a packet goes next.
#[derive(Clone)]
pub struct Dst {
    pub iface: Arc<Interface>,
    /// The host on the link.
    pub next: IpAddr,
    pub src: IpAddr,
    /// Largest packet on the whole path, as far as known.
    pub mtu: usize,
    pub kind: Kind,
    generation: u64,
}

/// What an IP header is made of.
#[derive(Clone, Debug)]
pub struct Meta {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// May not be fragmented.
    pub df: bool,
    pub id: u16,
    pub flow: u32,
    /// IPv4 options, in whole words, or IPv6 extension headers.
    pub options: Vec<u8>,
    /// Protocol number of the first extension header, or of the payload.
    pub first: u8,
    /// The user whose socket sends.
    pub owner: Option<u32>,
}

impl Meta {
    /// Defaults for everything but addresses and protocol.
    pub fn new(src: IpAddr, dst: IpAddr, proto: u8) -> Meta {
        Meta {
            src,
            dst,
            proto,
            ttl: 64,
            tos: 0,
            df: true,
            id: 0,
            flow: 0,
            options: Vec::new(),
            first: proto,
            owner: None,
        }
    }

    /// Sends IPv4 options with the packet: a source route changes its destination.
    pub(crate) fn set_options(&mut self, stack: &Stack, options: &v4_options::Options) {
        if let (IpAddr::V4(src), IpAddr::V4(dst), false) = (self.src, self.dst, options.is_empty())
        {
            self.options = stack.recording(src, |here| options.fill(dst, here));
            self.dst = options.first_hop().map_or(self.dst, IpAddr::V4);
        }
    }
}

/// Bytes of an IP header to or from the address.
pub fn header_len(a: IpAddr) -> usize {
    if a.is_ipv4() { ipv4::HEADER } else { ipv6::HEADER }
}

/// Leaves the transport checksum to the device: the field at `offset` of the transport header, which is
/// all of the packet so far, gets the pseudo header's sum.
pub fn partial_checksum(p: &mut Packet, src: IpAddr, dst: IpAddr, proto: u8, offset: usize) {
    let sum = Sum::pseudo(src, dst, proto, p.len()).folded();
    let b = p.net_bytes_mut();
    if b.len() >= offset + 2 {
        b[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    }
    p.csum = Csum::Partial { start: 0, offset: offset as u16 };
}

/// Prepends the IP header to a packet that begins with its transport header.
pub fn write_header(p: &mut Packet, m: &Meta) {
    let len = p.len();
    let mut h = Vec::with_capacity(ipv6::HEADER + m.options.len());
    match (m.src, m.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut v = Ipv4::new(src, dst, m.proto, m.ttl, len);
            (v.tos, v.df, v.id) = (m.tos, m.df, m.id);
            v.header_len += m.options.len();
            v.total_len += m.options.len();
            v.write(&m.options, &mut h);
            p.kind = ethertype::IPV4;
        }
        (src, dst) => {
            let six = |a: IpAddr| match a {
                IpAddr::V4(a) => a.to_ipv6_mapped(),
                IpAddr::V6(a) => a,
            };
            let len = m.options.len() + len;
            let mut v = Ipv6::new(six(src), six(dst), m.first, m.ttl, len);
            (v.class, v.flow) = (m.tos, m.flow);
            v.write(&mut h);
            h.extend_from_slice(&m.options);
            p.kind = ethertype::IPV6;
        }
    }
    p.push_front(&h);
    p.set_link_len(0);
    if let Csum::Partial { start, .. } = &mut p.csum {
        *start += h.len() as u16;
    }
}

impl Stack {
    /// The way to a destination. `ENETUNREACH` and the like as [`route::Routes::lookup`], `EINVAL` for a
    /// link-local destination without an interface, `ENETDOWN` when the interface is down,
    /// `EADDRNOTAVAIL` when no address here can be the source.
    pub fn route_to(&self, f: &Flow) -> Result<Dst> {
        let generation = self.routes.generation();
        let oif_only = f.oif != 0;
        let multicast = f.dst.is_multicast();
        let limited = f.dst == IpAddr::V4(Ipv4Addr::BROADCAST);
        if let IpAddr::V6(d) = f.dst
            && is_link_local(d)
            && !oif_only
            && !self.is_local(f.dst)
            && self.interfaces().iter().filter(|i| !i.is_loopback()).count() > 1
        {
            return Err(EINVAL);
        }
        let found = self.routes.lookup(f);
        let r = match found {
            Ok(r) if !(limited && oif_only) => r,
            // Groups and broadcasts need no route when the interface is known.
            _ if (multicast || limited) && oif_only => {
                let kind = if multicast { Kind::Multicast } else { Kind::Broadcast };
                let mut r =
                    route::Route::new(route::Prefix::new(f.dst, route::width(f.dst)), f.oif);
                r.kind = kind;
                r
            }
            Err(e) => return Err(e),
            Ok(r) => r,
        };
        let local = matches!(r.kind, Kind::Local);
        let iface = if local { self.loopback() } else { self.interface(r.oif) }.ok_or(ENODEV)?;
        if !iface.is_up() {
            return Err(if local { ENETUNREACH } else { ENETDOWN });
        }
        let kind = match r.kind {
            Kind::Unicast if multicast => Kind::Multicast,
            Kind::Unicast if limited => Kind::Broadcast,
            k => k,
        };
        let next = r.gateway.unwrap_or(f.dst);
        let src = match f.src {
            Some(s) => s,
            None if local => match r.prefsrc {
                // The loopback subnet answers as 127.0.0.1; other local addresses as themselves.
                Some(p) if f.dst.is_loopback() => p,
                _ => f.dst,
            },
            None => r
                .prefsrc
                .filter(|s| s.is_ipv4() == f.dst.is_ipv4())
                .or_else(|| self.source_for(&iface, f.dst, next))
                .ok_or(EADDRNOTAVAIL)?,
        };
        let mut mtu = iface.mtu().min(r.mtu.map_or(usize::MAX, |m| m as usize));
        if f.dst.is_ipv4() {
            // What the length field can say.
            mtu = mtu.min(65_535);
        } else {
            let set = iface.v6.mtu.load(Ordering::Relaxed);
            if set != 0 {
                mtu = mtu.min(set);
            }
        }
        if let Some(m) = self.fragments.path_mtu(f.dst, self.now()) {
            mtu = mtu.min(m);
        }
        Ok(Dst { iface, next, src, mtu, kind, generation })
    }

    /// A source address on `iface` for `dst` (RFC 6724, simplified to scope, deprecation and prefix).
    pub fn source_for(&self, iface: &Interface, dst: IpAddr, next: IpAddr) -> Option<IpAddr> {
        let pick = |i: &Interface| {
            i.with_addresses(|l| {
                let fits = l.iter().filter(|a| a.addr.is_ipv4() == dst.is_ipv4() && a.usable());
                match dst {
                    IpAddr::V4(_) => {
                        let all: Vec<_> = fits.collect();
                        let near = all
                            .iter()
                            .find(|a| route::Prefix::new(a.addr, a.prefix).contains(next));
                        near.or_else(|| {
                            all.iter().find(|a| a.scope != crate::interface::scope::HOST)
                        })
                        .or_else(|| all.first().filter(|_| i.is_loopback() || dst.is_loopback()))
                        .map(|a| a.addr)
                    }
                    IpAddr::V6(d) => {
                        let link =
                            is_link_local(d) || (d.is_multicast() && d.segments()[0] & 0xf == 2);
                        fits.max_by_key(|a| {
                            let scope_fits =
                                matches!(a.addr, IpAddr::V6(x) if is_link_local(x)) == link;
                            let fresh = a.flags & crate::interface::ifa::DEPRECATED == 0;
                            (scope_fits, fresh, route::common_bits(a.addr, dst))
                        })
                        .filter(|a| link || !matches!(a.addr, IpAddr::V6(x) if is_link_local(x)))
                        .map(|a| a.addr)
                    }
                }
            })
        };
        pick(iface).or_else(|| self.interfaces().iter().find_map(|i| pick(i)))
    }

    /// True while the way is still right.
    pub fn fresh(&self, d: &Dst) -> bool {
        d.generation == self.routes.generation()
    }

    /// Sends a packet that begins with its transport header. `EMSGSIZE` when it is too large for the path
    /// and may not be cut.
    pub fn send_ip(&self, cx: &mut Cx, dst: &Dst, m: &Meta, mut p: Packet) -> Result<()> {
        let total = header_len(m.dst) + m.options.len() + p.len();
        if total > 65_535 + header_len(m.dst) * usize::from(m.dst.is_ipv6()) {
            return Err(EMSGSIZE);
        }
        self.count_ip(m.dst.is_ipv6(), &dst.iface, |c| c.out_requests.inc());
        p.owner = m.owner;
        let cut = total > dst.mtu && p.gso.is_none();
        if cut && m.df && m.dst.is_ipv4() {
            self.snmp.ip.frag_fails.inc();
            return Err(EMSGSIZE);
        }
        if cut && m.id == 0 {
            let m = Meta { id: self.next_id(), ..m.clone() };
            write_header(&mut p, &m);
        } else {
            write_header(&mut p, m);
        }
        self.output(cx, dst, p)
    }

    /// An identification for packets that may be cut.
    pub fn next_id(&self) -> u16 {
        self.ip_id.fetch_add(1, Ordering::Relaxed) as u16
    }

    /// Sends a packet of this host with its IP header. `EPERM` when a filter drops it.
    pub fn output(&self, cx: &mut Cx, dst: &Dst, mut p: Packet) -> Result<()> {
        if !self.hooks.active(Hook::Output) {
            return self.finish(cx, dst, p);
        }
        let before = (route_key(&p), p.mark);
        if !self.passes(cx, Hook::Output, &mut p, None, Some(&dst.iface)) {
            return Err(EPERM);
        }
        let after = (route_key(&p), p.mark);
        if before == after {
            return self.finish(cx, dst, p);
        }
        // What decides about the way was changed: another way is looked for.
        let Some((src, to)) = after.0 else { return Err(EINVAL) };
        let mut f = Flow::to(to);
        (f.src, f.mark) = (Some(src), p.mark);
        let again = self.route_to(&f)?;
        self.finish(cx, &again, p)
    }

    /// Sends what was routed, own packets and others': pieces of it where it is too large; groups and broadcasts also come
    /// back here. `EPERM` when a filter drops it.
    pub(crate) fn finish(&self, cx: &mut Cx, dst: &Dst, mut p: Packet) -> Result<()> {
        let input = if p.iface == 0 || !self.hooks.active(Hook::Postrouting) {
            None
        } else {
            self.interface(p.iface)
        };
        if !self.passes(cx, Hook::Postrouting, &mut p, input.as_ref(), Some(&dst.iface)) {
            return Err(EPERM);
        }
        if p.net_len() <= dst.mtu || p.gso.is_some() {
            self.transmit(cx, dst, p);
            return Ok(());
        }
        // Pieces carry no partial checksum.
        p.complete_checksum();
        let mut told = std::mem::take(&mut p.told);
        let v6 = dst.next.is_ipv6();
        for mut piece in fragment::cut(p, dst.mtu, self.ip_id.fetch_add(1, Ordering::Relaxed)) {
            piece.told = std::mem::take(&mut told);
            self.count_ip(v6, &dst.iface, |c| c.frag_creates.inc());
            self.transmit(cx, dst, piece);
        }
        self.count_ip(v6, &dst.iface, |c| c.frag_oks.inc());
        Ok(())
    }

    fn transmit(&self, cx: &mut Cx, dst: &Dst, p: Packet) {
        self.count_ip(dst.next.is_ipv6(), &dst.iface, |c| {
            c.out_transmits.inc();
            c.out_octets.add(p.net_len() as u64);
            if dst.kind == Kind::Multicast {
                c.out_mcast_pkts.inc();
                c.out_mcast_octets.add(p.net_len() as u64);
            }
        });
        if matches!(dst.kind, Kind::Multicast | Kind::Broadcast) && !dst.iface.is_loopback() {
            let group = destination(&p);
            let back = match (dst.kind, group) {
                (Kind::Broadcast, _) => true,
                (_, Some(g)) => self.wants_group(&dst.iface, g),
                _ => false,
            };
            if back {
                let mut copy = p.clone();
                copy.csum = Csum::Valid;
                copy.iface = dst.iface.index;
                self.loop_back(cx, copy);
            }
        }
        if dst.kind == Kind::Broadcast && dst.iface.link == Link::Ethernet {
            self.to_device(cx, &dst.iface, IpAddr::V4(Ipv4Addr::BROADCAST), p);
        } else {
            self.to_device(cx, &dst.iface, dst.next, p);
        }
    }

    fn wants_group(&self, i: &Interface, g: IpAddr) -> bool {
        i.in_group(g) || g == IpAddr::V6(Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]))
    }

    /// A copy of what was sent, for members here.
    fn loop_back(&self, cx: &mut Cx, p: Packet) {
        if let Some(lo) = self.loopback() {
            lo.enqueue(cx, p);
        }
    }

    // Receiving.

    /// Takes a frame that a device received.
    pub fn receive(&self, cx: &mut Cx, iface: &Arc<Interface>, mut p: Packet) {
        if !iface.is_up() {
            return;
        }
        count(&iface.counters.rx_packets, 1);
        count(&iface.counters.rx_bytes, p.len() as u64);
        p.iface = iface.index;
        p.track = Track::None;
        if p.stamp == 0 {
            p.stamp = cx.arrival();
        }
        if iface.link != Link::Ethernet {
            self.tap(cx, iface, &p, false);
            if !self.passes_at(cx, FrameHook::Ingress, &mut p, Some(iface), None) {
                return;
            }
            self.receive_ip(cx, iface, p);
            return;
        }
        if !p.pull(ethernet::HEADER) {
            count(&iface.counters.rx_errors, 1);
            return;
        }
        let Ok(h) = Ethernet::parse(p.net()) else { return };
        // Frames with a length are of IEEE 802.2.
        p.kind = if h.kind < ethertype::LEAST { ethertype::LLC } else { h.kind };
        let mut link = ethernet::HEADER;
        if h.kind == ethertype::VLAN && p.pull(link + 4) {
            let Ok(tag) = Tag::parse(&p.net()[link..]) else { return };
            p.vlan = Some(tag.tci);
            p.kind = tag.kind;
            link += 4;
        }
        p.set_link_len(link);
        if let Csum::Partial { start, .. } = &mut p.csum {
            // Devices count from the frame's start.
            *start = start.saturating_sub(link as u16);
        }
        if h.dst.is_multicast() {
            count(&iface.counters.multicast, 1);
        }
        self.tap(cx, iface, &p, false);
        if !self.passes_at(cx, FrameHook::Ingress, &mut p, Some(iface), None) {
            return;
        }
        // A tagged frame belongs to a VLAN interface if there is one, even on a port of a bridge.
        if let Some(tci) = p.vlan
            && let Some(v) = iface.vlans().into_iter().find(|v| v.id == tci & 0xfff)
        {
            v.receive(cx, p);
            return;
        }
        if let Some(b) = iface.bridge() {
            b.receive(cx, iface, &h, p);
            return;
        }
        if p.vlan.is_some_and(|t| t & 0xfff != 0) || (h.dst != iface.mac() && !h.dst.is_multicast())
        {
            return;
        }
        let broadcast = h.dst == Mac::BROADCAST;
        match p.kind {
            ethertype::ARP => neighbour::receive_arp(cx, iface, p),
            ethertype::IPV4 | ethertype::IPV6 => {
                p.priority = u32::from(broadcast || h.dst.is_multicast());
                self.receive_ip(cx, iface, p);
            }
            _ => {}
        }
    }

    /// Takes an IP packet.
    pub fn receive_ip(&self, cx: &mut Cx, iface: &Arc<Interface>, mut p: Packet) {
        if !p.pull(1) {
            self.snmp.ip.in_receives.inc();
            return;
        }
        let version = p.net()[0] >> 4;
        let came = iface;
        let iface = match p.iface {
            // Looped back for another interface's members.
            n if n != 0 && n != iface.index && iface.is_loopback() => match self.interface(n) {
                Some(i) => i,
                None => return,
            },
            _ => iface.clone(),
        };
        self.count_ip(version == 6, came, |c| {
            c.in_receives.inc();
            c.in_octets.add(p.net_len() as u64);
        });
        p.iface = iface.index;
        match version {
            4 => self.receive_v4(cx, &iface, p),
            6 => self.receive_v6(cx, &iface, p),
            _ => self.snmp.ip.in_hdr_errors.inc(),
        }
    }

    fn receive_v4(&self, cx: &mut Cx, iface: &Arc<Interface>, mut p: Packet) {
        let bad = || self.snmp.ip.in_hdr_errors.inc();
        if !p.pull(ipv4::HEADER) {
            return bad();
        }
        let words = usize::from(p.net()[0] & 15) * 4;
        if !p.pull(words) {
            return bad();
        }
        let whole = p.net_len();
        let Ok(h) = Ipv4::parse(p.net(), whole) else { return bad() };
        p.truncate_net(h.total_len);
        p.kind = ethertype::IPV4;
        if h.src.is_multicast()
            || h.src.is_broadcast()
            || (h.src.is_loopback() && !self.came_back(iface, &p))
            || (h.dst.is_loopback() && !iface.is_loopback())
        {
            self.snmp.ip.in_addr_errors.inc();
            return;
        }
        let mut h = h;
        if self.hooks.active(Hook::Prerouting) {
            if h.is_fragment() && self.wants_whole() {
                match self.whole_v4(cx, &h, p) {
                    Some((_, whole)) => p = whole,
                    None => return,
                }
            }
            if !self.passes(cx, Hook::Prerouting, &mut p, Some(iface), None) {
                return;
            }
            match Ipv4::parse(p.net(), p.net_len()) {
                Ok(again) => h = again,
                Err(_) => return bad(),
            }
        }
        if h.header_len > ipv4::HEADER && !self.options_allow(cx, &h, &p) {
            return;
        }
        if h.dst.is_broadcast() {
            return self.deliver_v4(cx, iface, h, p);
        }
        if h.dst.is_multicast() {
            if iface.in_group(h.dst.into())
                || h.dst == Ipv4Addr::new(224, 0, 0, 1)
                || iface.is_loopback()
            {
                self.deliver_v4(cx, iface, h, p);
            }
            return;
        }
        let f = Flow::arrived(&p, h.src.into(), h.dst.into(), h.tos);
        match self.routes.lookup(&f) {
            Ok(r) if matches!(r.kind, Kind::Local | Kind::Broadcast) => {
                self.deliver_v4(cx, iface, h, p)
            }
            found if self.conf.ip_forward.get() != 0 && p.priority == 0 => {
                self.forward_v4(cx, h, p, found.err());
            }
            _ => self.snmp.ip.in_addr_errors.inc(),
        }
    }

    /// Sent here and looped back: a packet of our own.
    fn came_back(&self, iface: &Interface, p: &Packet) -> bool {
        iface.is_loopback() || p.csum == Csum::Valid
    }

    /// Adds a piece; the packet and its header once it is whole.
    fn whole_v4(&self, cx: &mut Cx, h: &Ipv4, p: Packet) -> Option<(Ipv4, Packet)> {
        self.snmp.ip.reasm_reqds.inc();
        let whole = fragment::reassemble_v4(&self.fragments, cx, h, p)?;
        self.snmp.ip.reasm_oks.inc();
        let again = Ipv4::parse(whole.net(), whole.net_len()).ok()?;
        Some((again, whole))
    }

    fn deliver_v4(&self, cx: &mut Cx, iface: &Arc<Interface>, mut h: Ipv4, mut p: Packet) {
        if h.header_len > ipv4::HEADER {
            let here = match self.is_local(h.dst.into()) {
                true => Some(IpAddr::V4(h.dst)),
                false => self.source_for(iface, h.src.into(), h.src.into()),
            };
            self.record_options(&mut p, h.header_len, here);
        }
        if h.is_fragment() {
            match self.whole_v4(cx, &h, p) {
                Some((again, whole)) => (h, p) = (again, whole),
                None => return,
            }
        }
        if !self.passes(cx, Hook::Input, &mut p, Some(iface), None) {
            return;
        }
        if self.hooks.active(Hook::Input) {
            match Ipv4::parse(p.net(), p.net_len()) {
                Ok(again) => h = again,
                Err(_) => return,
            }
        }
        self.snmp.ip.in_delivers.inc();
        let to = Delivery {
            src: h.src.into(),
            dst: h.dst.into(),
            proto: h.proto,
            ttl: h.ttl,
            tos: h.tos,
            header_len: h.header_len,
            broadcast: p.priority != 0 || h.dst.is_broadcast() || h.dst.is_multicast(),
        };
        self.deliver(cx, iface, &to, p);
    }

    fn deliver(&self, cx: &mut Cx, iface: &Arc<Interface>, to: &Delivery, p: Packet) {
        let taken = self.raw.deliver(cx, iface, to, &p);
        match to.proto {
            proto::TCP => self.tcp_input(cx, iface, to, p),
            proto::UDP | proto::UDPLITE => self.udp_input(cx, iface, to, p),
            proto::ICMP if to.dst.is_ipv4() => icmp::input_v4(self, cx, iface, to, p),
            proto::ICMPV6 if to.dst.is_ipv6() => icmp::input_v6(self, cx, iface, to, p),
            proto::IGMP => {}
            proto::NONE => {}
            _ if taken => {}
            _ => {
                self.count_ip(to.dst.is_ipv6(), iface, |c| c.in_unknown_protos.inc());
                if !to.broadcast {
                    if to.dst.is_ipv4() {
                        icmp::error(cx, &p, wire_icmp::v4::UNREACHABLE, wire_icmp::v4::PROTOCOL, 0);
                    } else {
                        icmp::error(cx, &p, wire_icmp::v6::PARAMETER, 1, 6);
                    }
                }
            }
        }
    }

    fn receive_v6(&self, cx: &mut Cx, iface: &Arc<Interface>, mut p: Packet) {
        let bad = || self.count_ip(true, iface, |c| c.in_hdr_errors.inc());
        if !p.pull(ipv6::HEADER) {
            return bad();
        }
        let whole = p.net_len();
        let Ok(h) = Ipv6::parse(p.net(), whole) else { return bad() };
        p.truncate_net(ipv6::HEADER + h.payload_len);
        p.kind = ethertype::IPV6;
        self.count_ip(true, iface, |c| {
            c.in_ecn[usize::from(h.class & 3)].inc();
            if h.dst.is_multicast() {
                c.in_mcast_pkts.inc();
                c.in_mcast_octets.add(p.net_len() as u64);
            }
        });
        if h.src.is_multicast()
            || ((h.dst.is_loopback() || h.src.is_loopback()) && !self.came_back(iface, &p))
        {
            self.count_ip(true, iface, |c| c.in_addr_errors.inc());
            return;
        }
        if iface.v6.disabled.load(Ordering::Relaxed) {
            return;
        }
        let mut h = h;
        if self.hooks.active(Hook::Prerouting) {
            if self.wants_whole() {
                match self.whole_v6(cx, iface, h, p) {
                    Some((_, whole)) => p = whole,
                    None => return,
                }
            }
            if !self.passes(cx, Hook::Prerouting, &mut p, Some(iface), None) {
                return;
            }
            match Ipv6::parse(p.net(), p.net_len()) {
                Ok(again) => h = again,
                Err(_) => return bad(),
            }
        }
        if h.dst.is_multicast() {
            let all_nodes = h.dst == Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1])
                || h.dst.segments()[0] & 0xf == 1;
            if all_nodes || iface.in_group(h.dst.into()) || iface.is_loopback() {
                self.deliver_v6(cx, iface, h, p);
            }
            return;
        }
        let f = Flow::arrived(&p, h.src.into(), h.dst.into(), h.class);
        match self.routes.lookup(&f) {
            Ok(r) if r.kind == Kind::Local => self.deliver_v6(cx, iface, h, p),
            found
                if self.conf.v6_forwarding.get() != 0
                    && p.priority == 0
                    && !is_link_local(h.dst) =>
            {
                self.forward_v6(cx, h, p, found.err());
            }
            _ => self.count_ip(true, iface, |c| c.in_addr_errors.inc()),
        }
    }

    /// The packet, put together when it is a piece and the last that was missing.
    fn whole_v6(
        &self,
        cx: &mut Cx,
        iface: &Interface,
        h: Ipv6,
        mut p: Packet,
    ) -> Option<(Ipv6, Packet)> {
        let at_hand = p.net_len().min(256);
        p.pull(at_hand);
        let Ok(c) = ipv6::chain(p.net(), h.next) else { return Some((h, p)) };
        if c.proto != proto::FRAGMENT {
            return Some((h, p));
        }
        self.count_ip(true, iface, |c| c.reasm_reqds.inc());
        let mut whole = fragment::reassemble_v6(self, cx, &h, &c, p)?;
        self.count_ip(true, iface, |c| c.reasm_oks.inc());
        let at_hand = whole.net_len().min(256);
        whole.pull(at_hand);
        let again = Ipv6::parse(whole.net(), whole.net_len()).ok()?;
        Some((again, whole))
    }

    fn deliver_v6(&self, cx: &mut Cx, iface: &Arc<Interface>, mut h: Ipv6, mut p: Packet) {
        let at_hand = p.net_len().min(256);
        p.pull(at_hand);
        let Ok(mut c) = ipv6::chain(p.net(), h.next) else {
            self.count_ip(true, iface, |c| c.in_hdr_errors.inc());
            return;
        };
        if let Some((at, tell)) = c.refuse {
            if tell {
                icmp::error(cx, &p, wire_icmp::v6::PARAMETER, 2, at as u32);
            }
            return;
        }
        if c.routed {
            icmp::error(cx, &p, wire_icmp::v6::PARAMETER, 0, (ipv6::HEADER + 2) as u32);
            return;
        }
        if c.proto == proto::FRAGMENT {
            self.count_ip(true, iface, |c| c.reasm_reqds.inc());
            let Some(whole) = fragment::reassemble_v6(self, cx, &h, &c, p) else { return };
            self.count_ip(true, iface, |c| c.reasm_oks.inc());
            p = whole;
            let at_hand = p.net_len().min(256);
            p.pull(at_hand);
            let first = p.net()[6];
            match ipv6::chain(p.net(), first) {
                Ok(again) if again.proto != proto::FRAGMENT => c = again,
                _ => return,
            }
        }
        if self.hooks.active(Hook::Input) {
            if !self.passes(cx, Hook::Input, &mut p, Some(iface), None) {
                return;
            }
            match Ipv6::parse(p.net(), p.net_len()) {
                Ok(again) => h = again,
                Err(_) => return,
            }
        }
        self.count_ip(true, iface, |c| c.in_delivers.inc());
        let to = Delivery {
            src: h.src.into(),
            dst: h.dst.into(),
            proto: c.proto,
            ttl: h.hop_limit,
            tos: h.class,
            header_len: ipv6::HEADER + c.len,
            broadcast: p.priority != 0 || h.dst.is_multicast(),
        };
        self.deliver(cx, iface, &to, p);
    }
}

impl Stack {
    /// Whether a packet's options let it in: what is wrong with them is told (RFC 1122 3.2.2.5), and source-routed packets are
    /// dropped, as `accept_source_route` says by default.
    fn options_allow(&self, cx: &mut Cx, h: &Ipv4, p: &Packet) -> bool {
        match v4_options::check(&p.net()[ipv4::HEADER..h.header_len], v4_options::Origin::Wire) {
            Ok(routed) => !routed,
            Err(refusal) => {
                self.snmp.ip.in_hdr_errors.inc();
                if let v4_options::Refusal::Wrong(at) = refusal {
                    let at = (ipv4::HEADER + at) as u32;
                    icmp::error(cx, p, wire_icmp::v4::PARAMETER, 0, at << 24);
                }
                false
            }
        }
    }

    /// Does what writes into options, as the host with address `addr`.
    pub(crate) fn recording<R>(
        &self,
        addr: Ipv4Addr,
        f: impl FnOnce(&v4_options::Here<'_>) -> R,
    ) -> R {
        let mine = |a: Ipv4Addr| {
            let other = Kind::Unicast;
            a.is_unspecified()
                || a.is_multicast()
                || a.is_broadcast()
                || self.routes.lookup(&Flow::to(a.into())).is_ok_and(|r| r.kind != other)
        };
        let time = (self.realtime() / 1_000_000 % 86_400_000) as u32;
        f(&v4_options::Here { addr, time, mine: &mine })
    }

    /// Records this host in the options of a packet that passes it.
    pub(crate) fn record_options(&self, p: &mut Packet, header: usize, addr: Option<IpAddr>) {
        let Some(IpAddr::V4(addr)) = addr else { return };
        let Some(b) = p.net_bytes_mut().get_mut(..header) else { return };
        if self.recording(addr, |here| v4_options::record(&mut b[ipv4::HEADER..], here, true)) {
            b[10..12].fill(0);
            let sum = crate::wire::checksum::checksum(b);
            b[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// What a delivered packet's IP header said.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub ttl: u8,
    pub tos: u8,
    /// Network header with options or extension headers, bytes.
    pub header_len: usize,
    /// Not for one station.
    pub broadcast: bool,
}

impl Delivery {
    /// The network header when it has options or extension headers; empty otherwise.
    pub(crate) fn long_header(&self, p: &Packet) -> Vec<u8> {
        if self.header_len == header_len(self.dst) {
            return Vec::new();
        }
        p.net().get(..self.header_len).map_or(Vec::new(), <[u8]>::to_vec)
    }

    /// What an answer carries in its options; `None` when it cannot.
    pub(crate) fn echoed_options(&self, p: &Packet) -> Option<v4_options::Options> {
        if self.dst.is_ipv6() {
            return Some(Default::default());
        }
        let all = p.net().get(ipv4::HEADER..self.header_len).unwrap_or(&[]);
        v4_options::Options::echo(all)
    }

    /// Whether the transport checksum over everything after the network header is right.
    pub fn checksum_ok(&self, p: &Packet) -> bool {
        if p.csum != Csum::None {
            return true;
        }
        let len = p.net_len() - self.header_len;
        let mut s = Sum::pseudo(self.src, self.dst, self.proto, len);
        let body = p.sum_from(self.header_len);
        s.add_u16(body.folded());
        s.finish() == 0
    }
}

/// Source and destination, which decide about a packet's way.
fn route_key(p: &Packet) -> Option<(IpAddr, IpAddr)> {
    let b = p.net();
    match b.first()? >> 4 {
        4 => Ipv4::parse_quoted(b).ok().map(|h| (h.src.into(), h.dst.into())),
        _ => Ipv6::parse_quoted(b).ok().map(|h| (h.src.into(), h.dst.into())),
    }
}

/// Source of a packet with an IP header.
pub(crate) fn source(p: &Packet) -> Option<IpAddr> {
    route_key(p).map(|k| k.0)
}

/// Destination of a packet with an IP header.
pub(crate) fn destination(p: &Packet) -> Option<IpAddr> {
    let b = p.net();
    match b.first()? >> 4 {
        4 => Ipv4::parse_quoted(b).ok().map(|h| h.dst.into()),
        _ => Ipv6::parse_quoted(b).ok().map(|h| h.dst.into()),
    }
}
