//! ICMP and ICMPv6: echo, errors out and in, neighbour discovery messages (RFC 792, RFC 1122 3.2.2, RFC
//! 4443, RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use uml_abi::Errno;
use uml_abi::errno::*;

use crate::interface::{Interface, ifa};
use crate::ip::{Delivery, Meta, header_len};
use crate::neighbour::{self, Learned};
use crate::packet::{Csum, Data, Packet};
use crate::route::Flow;
use crate::stack::{Cx, Stack};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::Mac;
use crate::wire::icmp::{self as wire, Icmp, v4, v6};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{ndp, proto, v4_options};

/// Bytes of a bad packet that an ICMP error quotes: as many as fit 576 (RFC 1812 4.3.2.3).
const QUOTE_V4: usize = 576 - 20 - 8;
/// And the smallest IPv6 MTU.
const QUOTE_V6: usize = 1280 - 40 - 8;

/// An ICMP error as sockets learn of it.
#[derive(Clone, Debug)]
pub struct Notice {
    pub errno: Errno,
    /// Ends an attempt at once (RFC 1122 4.2.3.9).
    pub fatal: bool,
    pub v6: bool,
    pub kind: u8,
    pub code: u8,
    /// Next-hop MTU of "too big".
    pub mtu: u32,
    /// Who says so.
    pub offender: IpAddr,
    /// Addresses and protocol of the packet that is quoted: ours.
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    /// The time to live that IP_MINTTL and IPV6_MINHOPCOUNT are about: that of the quoted IPv4 packet, but that of the IPv6 packet which
    /// quotes, as Linux takes them.
    pub ttl: u8,
    /// The packet's bytes after its IP header.
    pub payload: Vec<u8>,
}

/// Whether errors of this kind are limited (icmp_ratemask; for IPv6 all are but those that path MTU discovery needs).
fn is_limited(stack: &Stack, six: bool, kind: u8, code: u8) -> bool {
    if six {
        return kind != v6::TOO_BIG;
    }
    let masked = stack.conf.icmp_ratemask.get() >> kind.min(63) & 1 != 0;
    masked && (kind, code) != (v4::UNREACHABLE, v4::FRAG_NEEDED)
}

/// Tells the sender of `bad` (from its network header on) what is wrong with it.
pub fn error(cx: &mut Cx, bad: &Packet, kind: u8, code: u8, rest: u32) {
    let stack = cx.stack().clone();
    let b = bad.net();
    let first = b.first().map_or(0, |b| b >> 4);
    let (src, dst) = if first == 4 {
        let Ok(h) = Ipv4::parse_quoted(b) else { return };
        // Never about errors, pieces other than the first, or what was not for one station.
        let about_error = h.proto == proto::ICMP && {
            let mut p = bad.clone();
            p.pull(h.header_len + 1);
            p.net()
                .get(h.header_len)
                .is_none_or(|t| !matches!(*t, v4::ECHO | v4::ECHO_REPLY | v4::TIMESTAMP))
        };
        if h.frag_off != 0
            || about_error
            || h.dst.is_multicast()
            || h.dst.is_broadcast()
            || bad.priority != 0
        {
            return;
        }
        (IpAddr::V4(h.src), IpAddr::V4(h.dst))
    } else {
        let Ok(h) = Ipv6::parse_quoted(b) else { return };
        let mut p = bad.clone();
        p.pull(p.net_len().min(256));
        let about_error = ipv6::chain(p.net(), h.next).is_ok_and(|c| {
            c.proto == proto::ICMPV6
                && p.net().get(ipv6::HEADER + c.len).is_none_or(|t| *t < 128 || *t == v6::REDIRECT)
        });
        let group = h.dst.is_multicast() || bad.priority != 0;
        let exempt = kind == v6::TOO_BIG || (kind == v6::PARAMETER && code == 2);
        if about_error || (group && !exempt) {
            return;
        }
        (IpAddr::V6(h.src), IpAddr::V6(h.dst))
    };
    if src.is_unspecified() || src.is_multicast() {
        return;
    }
    let counters = stack.snmp.icmp_of(src.is_ipv6());
    let limited = is_limited(&stack, src.is_ipv6(), kind, code);
    let per_second = stack.conf.icmp_msgs_per_sec.get().max(0) as u64;
    if limited && !stack.icmp_limit.all(per_second, cx.now) {
        return counters.out_rate_global.inc();
    }
    let mut f = Flow::to(src);
    if let IpAddr::V6(s) = src
        && crate::interface::is_link_local(s)
    {
        f.oif = bad.iface;
    }
    if stack.is_local(dst) {
        f.src = Some(dst);
    }
    let Ok(way) = stack.route_to(&f) else { return };
    let conf = &stack.conf;
    let interval = if src.is_ipv4() { &conf.icmp_ratelimit } else { &conf.icmp6_ratelimit };
    let interval = interval.get().max(0) as u64;
    if limited && !way.iface.is_loopback() && !stack.icmp_limit.host(src, interval, cx.now) {
        return counters.out_rate_host.inc();
    }
    let quote = if src.is_ipv4() { QUOTE_V4 } else { QUOTE_V6 };
    let mut whole = bad.clone();
    whole.strip_link();
    // What is quoted left here with whatever checksum it has.
    let mut bytes = whole.to_vec();
    bytes.truncate(quote);
    let options = match b.get(..1) {
        Some([first]) if first >> 4 == 4 => {
            let end = usize::from(first & 15) * 4;
            v4_options::Options::echo(b.get(ipv4::HEADER..end).unwrap_or(&[])).unwrap_or_default()
        }
        _ => Default::default(),
    };
    let room = quote.saturating_sub(options.len());
    bytes.truncate(room);
    let h = Icmp { kind, code, checksum: 0, rest };
    send_with(cx, &way, src, h, &bytes, 64, &options);
}

/// A packet that waited for a neighbour that does not answer.
pub(crate) fn host_unreachable(cx: &mut Cx, p: Packet) {
    match p.net().first().map(|b| b >> 4) {
        Some(4) => error(cx, &p, v4::UNREACHABLE, v4::HOST, 0),
        Some(6) => error(cx, &p, v6::UNREACHABLE, v6::ADDRESS, 0),
        _ => {}
    }
}

/// Sends an ICMP or ICMPv6 message with a complete checksum.
#[allow(clippy::too_many_arguments)]
pub(crate) fn send(
    cx: &mut Cx,
    way: &crate::ip::Dst,
    dst: IpAddr,
    kind: u8,
    code: u8,
    rest: u32,
    body: &[u8],
    ttl: u8,
) {
    let h = Icmp { kind, code, checksum: 0, rest };
    send_with(cx, way, dst, h, body, ttl, &Default::default());
}

/// As [`send`], with IPv4 options.
fn send_with(
    cx: &mut Cx,
    way: &crate::ip::Dst,
    dst: IpAddr,
    mut h: Icmp,
    body: &[u8],
    ttl: u8,
    options: &v4_options::Options,
) {
    let src = way.src;
    let proto = if dst.is_ipv4() { proto::ICMP } else { proto::ICMPV6 };
    let mut p = Packet::new(Data::copy_of(body));
    let mut s = if dst.is_ipv4() {
        Sum::new()
    } else {
        Sum::pseudo(src, dst, proto, wire::HEADER + body.len())
    };
    s.add(&h.bytes());
    s.add(body);
    h.checksum = s.finish();
    p.head_mut().extend_from_slice(&h.bytes());
    p.csum = Csum::Valid;
    let mut m = Meta { ttl, df: false, ..Meta::new(src, dst, proto) };
    let stack = cx.stack().clone();
    m.set_options(&stack, options);
    stack.count_icmp(dst.is_ipv6(), &way.iface, |c| c.sent(h.kind));
    if stack.send_ip(cx, way, &m, p).is_err() {
        stack.count_icmp(dst.is_ipv6(), &way.iface, |c| c.out_errors.inc());
    }
}

fn body_of(p: &Packet, from: usize) -> Vec<u8> {
    let mut q = p.clone();
    q.strip_net(from);
    q.to_vec()
}

/// An ICMP message for this host.
pub(crate) fn input_v4(
    stack: &Stack,
    cx: &mut Cx,
    _iface: &Arc<Interface>,
    to: &Delivery,
    mut p: Packet,
) {
    stack.snmp.icmp.in_msgs.inc();
    if p.csum == Csum::None && p.sum_from(to.header_len).finish() != 0 {
        stack.snmp.icmp.in_csum_errors.inc();
        return;
    }
    if !p.pull(to.header_len + wire::HEADER) {
        stack.snmp.icmp.in_errors.inc();
        return;
    }
    let Ok(h) = Icmp::parse(&p.net()[to.header_len..]) else { return };
    stack.snmp.icmp.received(h.kind);
    match h.kind {
        v4::ECHO => {
            let ignored = stack.conf.icmp_echo_ignore_all.get() != 0
                || (to.broadcast && stack.conf.icmp_echo_ignore_broadcasts.get() != 0);
            if !ignored {
                echo(stack, cx, to, &h, &p, v4::ECHO_REPLY);
            }
        }
        v4::TIMESTAMP => {}
        v4::ECHO_REPLY => stack.ping_input(cx, to, &h, p),
        v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER | v4::SOURCE_QUENCH => {
            let body = body_of(&p, to.header_len + wire::HEADER);
            let Ok(q) = Ipv4::parse_quoted(&body) else { return };
            let (errno, fatal) = verdict_v4(h.kind, h.code);
            let n = Notice {
                errno,
                fatal,
                v6: false,
                kind: h.kind,
                code: h.code,
                mtu: if (h.kind, h.code) == (v4::UNREACHABLE, v4::FRAG_NEEDED) {
                    h.rest & 0xffff
                } else {
                    0
                },
                offender: to.src,
                src: q.src.into(),
                dst: q.dst.into(),
                proto: q.proto,
                ttl: q.ttl,
                payload: body.get(q.header_len..).unwrap_or(&[]).to_vec(),
            };
            if (h.kind, h.code) == (v4::UNREACHABLE, v4::FRAG_NEEDED) {
                let mtu = match n.mtu as usize {
                    // A router that predates RFC 1191: the next plateau.
                    0 => plateau(q.total_len),
                    m => m.max(552),
                };
                stack.fragments.learn_mtu(n.dst, mtu, cx.now);
                stack.routes.touch();
            }
            notify(stack, cx, &n);
        }
        _ => {}
    }
}

fn plateau(len: usize) -> usize {
    [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 552]
        .into_iter()
        .find(|p| *p < len)
        .unwrap_or(552)
}

fn echo(stack: &Stack, cx: &mut Cx, to: &Delivery, h: &Icmp, p: &Packet, reply: u8) {
    let mut f = Flow::to(to.src);
    f.mark = p.mark;
    f.src = (!to.broadcast).then_some(to.dst);
    if let IpAddr::V6(s) = to.src
        && crate::interface::is_link_local(s)
    {
        f.oif = p.iface;
    }
    let Ok(way) = stack.route_to(&f) else { return };
    let Some(options) = to.echoed_options(p) else { return };
    let body = body_of(p, to.header_len + wire::HEADER);
    let h = Icmp { kind: reply, code: 0, checksum: 0, rest: h.rest };
    send_with(cx, &way, to.src, h, &body, 64, &options);
}

/// What an error means to a program (icmp(7) and Linux's tables), and whether it is final.
fn verdict_v4(kind: u8, code: u8) -> (Errno, bool) {
    match (kind, code) {
        (v4::UNREACHABLE, 0) => (ENETUNREACH, false),
        (v4::UNREACHABLE, 1) => (EHOSTUNREACH, false),
        (v4::UNREACHABLE, 2) => (ENOPROTOOPT, true),
        (v4::UNREACHABLE, 3) => (ECONNREFUSED, true),
        (v4::UNREACHABLE, 4) => (EMSGSIZE, false),
        (v4::UNREACHABLE, 5) => (EOPNOTSUPP, false),
        (v4::UNREACHABLE, 6 | 9) => (ENETUNREACH, true),
        (v4::UNREACHABLE, 7) => (EHOSTDOWN, true),
        (v4::UNREACHABLE, 8) => (ENONET, true),
        (v4::UNREACHABLE, 11) => (ENETUNREACH, false),
        (v4::UNREACHABLE, 12) => (EHOSTUNREACH, false),
        (v4::UNREACHABLE, _) => (EHOSTUNREACH, true),
        (v4::PARAMETER, _) => (EPROTO, true),
        _ => (EHOSTUNREACH, false),
    }
}

fn verdict_v6(kind: u8, code: u8) -> (Errno, bool) {
    match (kind, code) {
        (v6::UNREACHABLE, 0) => (ENETUNREACH, false),
        (v6::UNREACHABLE, 1 | 5 | 6) => (EACCES, true),
        (v6::UNREACHABLE, 4) => (ECONNREFUSED, true),
        (v6::UNREACHABLE, _) => (EHOSTUNREACH, false),
        (v6::TOO_BIG, _) => (EMSGSIZE, false),
        (v6::PARAMETER, _) => (EPROTO, true),
        _ => (EHOSTUNREACH, false),
    }
}

/// Tells the sockets that the quoted packet came from.
fn notify(stack: &Stack, cx: &mut Cx, n: &Notice) {
    match n.proto {
        proto::TCP => stack.tcp_notice(cx, n),
        proto::UDP | proto::UDPLITE => stack.udp_notice(cx, n),
        proto::ICMP | proto::ICMPV6 => stack.ping_notice(cx, n),
        _ => {}
    }
    stack.raw.notice(cx, n);
}

/// An ICMPv6 message for this host.
pub(crate) fn input_v6(
    stack: &Stack,
    cx: &mut Cx,
    iface: &Arc<Interface>,
    to: &Delivery,
    mut p: Packet,
) {
    stack.count_icmp(true, iface, |c| c.in_msgs.inc());
    if !to.checksum_ok(&p) {
        stack.count_icmp(true, iface, |c| c.in_csum_errors.inc());
        return;
    }
    if !p.pull(to.header_len + wire::HEADER) {
        stack.count_icmp(true, iface, |c| c.in_errors.inc());
        return;
    }
    let Ok(h) = Icmp::parse(&p.net()[to.header_len..]) else { return };
    stack.count_icmp(true, iface, |c| c.received(h.kind));
    let body_at = to.header_len + wire::HEADER;
    match h.kind {
        v6::ECHO => echo(stack, cx, to, &h, &p, v6::ECHO_REPLY),
        v6::ECHO_REPLY => stack.ping_input(cx, to, &h, p),
        v6::UNREACHABLE | v6::TOO_BIG | v6::TIME_EXCEEDED | v6::PARAMETER => {
            let body = body_of(&p, body_at);
            let Ok(q) = Ipv6::parse_quoted(&body) else { return };
            let Ok(c) = ipv6::chain(&body, q.next) else { return };
            let (errno, fatal) = verdict_v6(h.kind, h.code);
            let n = Notice {
                errno,
                fatal,
                v6: true,
                kind: h.kind,
                code: h.code,
                mtu: if h.kind == v6::TOO_BIG { h.rest } else { 0 },
                offender: to.src,
                src: q.src.into(),
                dst: q.dst.into(),
                proto: c.proto,
                ttl: to.ttl,
                payload: body.get(ipv6::HEADER + c.len..).unwrap_or(&[]).to_vec(),
            };
            if h.kind == v6::TOO_BIG {
                stack.fragments.learn_mtu(n.dst, (h.rest as usize).max(1280), cx.now);
                stack.routes.touch();
            }
            notify(stack, cx, &n);
        }
        // Neighbour discovery only counts from the same link (RFC 4861 7.1).
        v6::NEIGHBOUR_SOLICIT if to.ttl == 255 && h.code == 0 => {
            solicited(stack, cx, iface, to, &body_of(&p, body_at))
        }
        v6::NEIGHBOUR_ADVERT if to.ttl == 255 && h.code == 0 => {
            advertised(stack, cx, iface, to, &h, &body_of(&p, body_at));
        }
        v6::ROUTER_ADVERT if to.ttl == 255 && h.code == 0 => {
            if let IpAddr::V6(from) = to.src
                && let Ok(ra) = ndp::RouterAdvert::parse(h.rest, &pad(body_of(&p, body_at)))
            {
                stack.addrconf.router(stack, cx, iface, from, &ra);
            }
        }
        _ => {}
    }
}

/// At least the fixed part, so that parsing needs no special case.
fn pad(mut b: Vec<u8>) -> Vec<u8> {
    if b.len() < 8 {
        b.resize(8, 0);
    }
    b
}

fn solicited(stack: &Stack, cx: &mut Cx, iface: &Arc<Interface>, to: &Delivery, body: &[u8]) {
    let Ok((target, options)) = ndp::neighbour(body) else { return };
    let IpAddr::V6(from) = to.src else { return };
    if target.is_multicast() {
        return;
    }
    let mine =
        iface.with_addresses(|l| l.iter().find(|a| a.addr == IpAddr::V6(target)).map(|a| a.flags));
    let Some(flags) = mine else { return };
    if flags & ifa::TENTATIVE != 0 {
        // Somebody else is trying, or has it: ours is a duplicate (RFC 4862 5.4.3).
        if from.is_unspecified() {
            stack.addrconf.duplicate(stack, iface, target);
        }
        return;
    }
    if from.is_unspecified() {
        advertise(cx, iface, target, Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]), false);
        return;
    }
    if let Some(mac) = options.source_mac {
        let how = Learned { solicited: false, overrides: true, create: true, router: None };
        stack.neighbours.learn(cx, iface, from.into(), mac, how);
    }
    advertise(cx, iface, target, from, true);
}

fn advertised(
    stack: &Stack,
    cx: &mut Cx,
    iface: &Arc<Interface>,
    to: &Delivery,
    h: &Icmp,
    body: &[u8],
) {
    let Ok((target, options)) = ndp::neighbour(body) else { return };
    let (router, solicited, overrides) =
        (h.rest >> 31 & 1 == 1, h.rest >> 30 & 1 == 1, h.rest >> 29 & 1 == 1);
    let mine =
        iface.with_addresses(|l| l.iter().find(|a| a.addr == IpAddr::V6(target)).map(|a| a.flags));
    if let Some(f) = mine {
        if f & ifa::TENTATIVE != 0 {
            stack.addrconf.duplicate(stack, iface, target);
        }
        return;
    }
    if to.broadcast && solicited {
        return;
    }
    if let Some(mac) = options.target_mac {
        let how = Learned { solicited, overrides, create: false, router: Some(router) };
        stack.neighbours.learn(cx, iface, target.into(), mac, how);
    }
}

fn send_nd(
    cx: &mut Cx,
    iface: &Arc<Interface>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    kind: u8,
    rest: u32,
    body: &[u8],
) {
    let mut f = Flow::to(dst.into());
    (f.oif, f.src) = (iface.index, Some(src.into()));
    let stack = cx.stack().clone();
    if let Ok(mut way) = stack.route_to(&f) {
        // Not for members here: one's own probe would look like another's.
        way.kind = crate::route::Kind::Unicast;
        send(cx, &way, dst.into(), kind, 0, rest, body, 255);
    }
}

/// Asks for the link address of `target`: everybody, or the station that had it. `probe` is duplicate
/// address detection.
pub(crate) fn solicit(
    cx: &mut Cx,
    iface: &Arc<Interface>,
    target: Ipv6Addr,
    mac: Option<Mac>,
    probe: bool,
) {
    let src = if probe { None } else { neighbour::source_v6(iface, target) };
    if src.is_none() && !probe {
        return;
    }
    let dst = if mac.is_some() { target } else { ndp::solicited_node(target) };
    let mut body = target.octets().to_vec();
    if src.is_some() {
        ndp::put_mac(&mut body, 1, iface.mac());
    }
    send_nd(cx, iface, src.unwrap_or(Ipv6Addr::UNSPECIFIED), dst, v6::NEIGHBOUR_SOLICIT, 0, &body);
}

fn advertise(
    cx: &mut Cx,
    iface: &Arc<Interface>,
    target: Ipv6Addr,
    dst: Ipv6Addr,
    solicited: bool,
) {
    let mut body = target.octets().to_vec();
    ndp::put_mac(&mut body, 2, iface.mac());
    let router = cx.stack().conf.v6_forwarding.get() != 0;
    let rest = u32::from(router) << 31 | u32::from(solicited) << 30 | 1 << 29;
    send_nd(cx, iface, target, dst, v6::NEIGHBOUR_ADVERT, rest, &body);
}

/// Asks routers to speak (RFC 4861 6.3.7).
pub(crate) fn solicit_routers(cx: &mut Cx, iface: &Arc<Interface>) {
    let all = Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 2]);
    let src = neighbour::source_v6(iface, all);
    let mut body = Vec::new();
    if src.is_some() {
        ndp::put_mac(&mut body, 1, iface.mac());
    }
    send_nd(cx, iface, src.unwrap_or(Ipv6Addr::UNSPECIFIED), all, v6::ROUTER_SOLICIT, 0, &body);
}

/// Tells routers and switches that a group was joined or left: MLDv2 (RFC 3810) and IGMPv3 (RFC 3376)
/// reports.
pub(crate) fn report_group(cx: &mut Cx, iface: &Arc<Interface>, group: IpAddr, joined: bool) {
    if iface.is_loopback() || !iface.is_up() {
        return;
    }
    // CHANGE_TO_EXCLUDE_MODE or CHANGE_TO_INCLUDE_MODE without sources.
    let record = if joined { 4u8 } else { 3 };
    let stack = cx.stack().clone();
    match group {
        IpAddr::V6(g) => {
            if g.segments()[0] & 0xf <= 1 || g == Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]) {
                return;
            }
            let dst = Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 0x16]);
            let src = neighbour::source_v6(iface, dst).unwrap_or(Ipv6Addr::UNSPECIFIED);
            let mut body = vec![record, 0, 0, 0];
            body.extend_from_slice(&g.octets());
            let h = Icmp { kind: v6::MLD2_REPORT, code: 0, checksum: 0, rest: 1 };
            let mut s =
                Sum::pseudo(src.into(), dst.into(), proto::ICMPV6, wire::HEADER + body.len());
            s.add(&h.bytes());
            s.add(&body);
            let h = Icmp { checksum: s.finish(), ..h };
            let mut p = Packet::new(Data::new());
            // Router alert (RFC 2711) in a hop-by-hop header.
            p.head_mut().extend_from_slice(&[proto::ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
            p.head_mut().extend_from_slice(&h.bytes());
            p.head_mut().extend_from_slice(&body);
            p.csum = Csum::Valid;
            let m = Meta { ttl: 1, ..Meta::new(src.into(), dst.into(), proto::HOPOPT) };
            let mut f = Flow::to(dst.into());
            (f.oif, f.src) = (iface.index, Some(src.into()));
            if let Ok(way) = stack.route_to(&f) {
                let _ = stack.send_ip(cx, &way, &m, p);
            }
        }
        IpAddr::V4(g) => {
            if g == Ipv4Addr::new(224, 0, 0, 1) {
                return;
            }
            let dst = Ipv4Addr::new(224, 0, 0, 22);
            let src = stack.source_for(iface, dst.into(), dst.into());
            let src = src.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let mut body = vec![0x22, 0, 0, 0, 0, 0, 0, 1, record, 0, 0, 0];
            body.extend_from_slice(&g.octets());
            let sum = crate::wire::checksum::checksum(&body);
            body[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut p = Packet::new(Data::new());
            p.head_mut().extend_from_slice(&body);
            p.csum = Csum::Valid;
            let m = Meta {
                ttl: 1,
                tos: 0xc0,
                options: vec![0x94, 4, 0, 0],
                ..Meta::new(src, dst.into(), proto::IGMP)
            };
            let mut f = Flow::to(dst.into());
            (f.oif, f.src) = (iface.index, Some(src));
            if let Ok(way) = stack.route_to(&f) {
                let _ = stack.send_ip(cx, &way, &m, p);
            }
        }
    }
}

/// Smallest packet that can carry an error about `dst`.
pub fn overhead(dst: IpAddr) -> usize {
    header_len(dst) + wire::HEADER
}
