//! Packets: their bytes, what is known about them, extension headers and TCP options, and what routing says.

use std::net::IpAddr;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::interface::{Interface, Link};
use uml_net::packet::{Csum, Packet};
use uml_net::route::{Flow, Kind};
use uml_net::wire::checksum::Sum;
use uml_net::wire::{ipv4, ipv6, proto};

use super::{Expr, Operation, Reg, Step, length};
use crate::attr::{Attrs, Out, Outcome};
use crate::guard::{Field, Place};
use crate::machine::Machine;
use crate::model::{Base, Table, family};

/// Where offsets count from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Link = 0,
    Network = 1,
    Transport = 2,
    Inner = 3,
}

/// Farther offsets are not asked for.
const OFFSET_MAX: usize = 65_535;

struct PayloadGet {
    dreg: Reg,
    from: From,
    offset: usize,
    len: usize,
}

struct PayloadSet {
    sreg: Reg,
    from: From,
    offset: usize,
    len: usize,
    csum_kind: u32,
    csum_at: usize,
    csum_flags: u32,
}

/// Reads `payload`.
pub fn payload(a: &Attrs<'_>) -> Outcome<Expr> {
    let from = match a.need(2)?.be32()? {
        0 => From::Link,
        1 => From::Network,
        2 => From::Transport,
        3 => From::Inner,
        _ => return Err(EOPNOTSUPP.into()),
    };
    let offset = a.need(3)?.be32()? as usize;
    let len = length(&a.need(4)?)?;
    if offset > OFFSET_MAX {
        return Err(ERANGE.into());
    }
    let Some(s) = a.get(5) else {
        return Ok(Arc::new(PayloadGet { dreg: Reg::parse(&a.need(1)?, len)?, from, offset, len }));
    };
    if a.get(1).is_some() {
        return Err(EINVAL.into());
    }
    let csum_kind = a.be32(6)?.unwrap_or(0);
    let csum_at = a.be32(7)?.unwrap_or(0) as usize;
    let csum_flags = a.be32(8)?.unwrap_or(0);
    if csum_kind > 1 || csum_flags > 1 || csum_at > OFFSET_MAX {
        return Err(EOPNOTSUPP.into());
    }
    if from == From::Inner || (from == From::Link && (csum_kind, csum_flags) != (0, 0)) {
        return Err(EOPNOTSUPP.into());
    }
    let sreg = Reg::parse(&s, len)?;
    Ok(Arc::new(PayloadSet { sreg, from, offset, len, csum_kind, csum_at, csum_flags }))
}

/// Start of the header that offsets count from, after the network header's start.
fn start(m: &Machine<'_>, from: From) -> Option<usize> {
    match from {
        From::Network => Some(0),
        From::Transport | From::Inner if !m.parsed.ip => None,
        From::Transport => (!m.parsed.piece).then_some(m.parsed.transport),
        From::Inner if m.parsed.piece => None,
        From::Inner => {
            let t = m.parsed.transport;
            match m.parsed.proto {
                proto::UDP => Some(t + 8),
                proto::TCP => m.p.net().get(t + 12).map(|b| t + usize::from(b >> 4) * 4),
                _ => None,
            }
        }
        From::Link => None,
    }
}

impl Operation for PayloadGet {
    fn name(&self) -> &'static str {
        "payload"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, self.dreg.number());
        o.be32(2, self.from as u32);
        o.be32(3, self.offset as u32);
        o.be32(4, self.len as u32);
    }

    fn loads(&self) -> Option<(Reg, Field)> {
        let place = match self.from {
            From::Network => Place::Network(self.offset),
            From::Transport => Place::Transport(self.offset),
            From::Link | From::Inner => return None,
        };
        Some((self.dreg, Field { place, len: self.len }))
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        // Of what ARP sends the link header counts, but is not to be seen, as on Linux.
        if self.from == From::Link
            && matches!(m.frame, Some((_, uml_net::hook::FrameHook::ArpOutput)))
        {
            return Step::Break;
        }
        if self.from == From::Link {
            let Some(b) = m.p.link().get(self.offset..self.offset + self.len).map(<[u8]>::to_vec)
            else {
                return Step::Break;
            };
            m.store(self.dreg, &b);
            return Step::Next;
        }
        let Some(at) = start(m, self.from).map(|s| s + self.offset) else { return Step::Break };
        if m.p.pull(at + self.len) && m.store_net(self.dreg, at, self.len) {
            Step::Next
        } else {
            Step::Break
        }
    }
}

/// Changes an Internet checksum at `at` from what `old` bytes made of it to what `new` ones do.
fn adjust(b: &mut [u8], at: usize, old: &[u8], new: &[u8], partial: bool) {
    let Some(field) = b.get_mut(at..at + 2) else { return };
    let have = u16::from_be_bytes([field[0], field[1]]);
    let mut s = Sum::new();
    s.add_u16(if partial { have } else { !have });
    s.add_u16(sum_of(new));
    s.add_u16(!sum_of(old));
    let v = if partial { s.folded() } else { !s.folded() };
    field.copy_from_slice(&v.to_be_bytes());
}

fn sum_of(b: &[u8]) -> u16 {
    let mut s = Sum::new();
    s.add(b);
    s.folded()
}

/// Place of the transport checksum, from the network header.
fn transport_sum(m: &Machine<'_>) -> Option<usize> {
    let at = match m.parsed.proto {
        proto::TCP => 16,
        proto::UDP | 136 => 6,
        proto::ICMPV6 => 2,
        _ => return None,
    };
    let at = m.parsed.transport + at;
    let b = m.p.net().get(at..at + 2)?;
    // UDP may have none.
    (!m.parsed.piece && (m.parsed.proto != proto::UDP || b != [0, 0])).then_some(at)
}

impl Operation for PayloadSet {
    fn name(&self) -> &'static str {
        "payload"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(5, self.sreg.number());
        o.be32(2, self.from as u32);
        o.be32(3, self.offset as u32);
        o.be32(4, self.len as u32);
        o.be32(6, self.csum_kind);
        o.be32(7, self.csum_at as u32);
        o.be32(8, self.csum_flags);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if self.from == From::Link {
            let new = m.load(self.sreg, self.len).to_vec();
            return match m.p.link_bytes_mut().get_mut(self.offset..self.offset + new.len()) {
                Some(b) => {
                    b.copy_from_slice(&new);
                    Step::Next
                }
                None => Step::Break,
            };
        }
        let Some(base) = start(m, self.from) else { return Step::Break };
        let at = base + self.offset;
        let csum = base + self.csum_at;
        let reach = (at + self.len).max(if self.csum_kind == 1 { csum + 2 } else { 0 });
        if !m.p.pull(reach) {
            return Step::Break;
        }
        let new = m.load(self.sreg, self.len).to_vec();
        let Some(old) = m.p.net().get(at..at + new.len()).map(<[u8]>::to_vec) else {
            return Step::Break;
        };
        // Sums are over 16-bit words: bytes at odd places count as the lower half.
        let odd = self.offset % 2 == 1;
        let padded = |v: &[u8]| if odd { [&[0], v].concat() } else { v.to_vec() };
        let (o, n) = (padded(&old), padded(&new));
        let partial = matches!(m.p.csum, Csum::Partial { .. });
        let pseudo = (self.csum_flags & 1 != 0).then(|| transport_sum(m)).flatten();
        let b = m.p.net_bytes_mut();
        b[at..at + new.len()].copy_from_slice(&new);
        if let Some(t) = pseudo {
            adjust(b, t, &o, &n, partial);
        }
        // A transport checksum that is still to be made needs no help.
        if self.csum_kind == 1 && !(partial && self.from == From::Transport) {
            adjust(b, csum, &o, &n, false);
        }
        m.parse_again();
        Step::Next
    }
}

/// NFT_META_*.
mod key {
    pub const LEN: u32 = 0;
    pub const PROTOCOL: u32 = 1;
    pub const PRIORITY: u32 = 2;
    pub const MARK: u32 = 3;
    pub const IIF: u32 = 4;
    pub const OIF: u32 = 5;
    pub const IIFNAME: u32 = 6;
    pub const OIFNAME: u32 = 7;
    pub const IIFTYPE: u32 = 8;
    pub const OIFTYPE: u32 = 9;
    pub const SKUID: u32 = 10;
    pub const NFPROTO: u32 = 15;
    pub const L4PROTO: u32 = 16;
    pub const PKTTYPE: u32 = 19;
    pub const CPU: u32 = 20;
    pub const IIFGROUP: u32 = 21;
    pub const OIFGROUP: u32 = 22;
    pub const PRANDOM: u32 = 24;
    pub const IIFKIND: u32 = 26;
    pub const OIFKIND: u32 = 27;
    pub const TIME_NS: u32 = 30;
    pub const TIME_DAY: u32 = 31;
    pub const TIME_HOUR: u32 = 32;
}

struct MetaGet {
    dreg: Reg,
    key: u32,
}

struct MetaSet {
    sreg: Reg,
}

/// Reads `meta`.
pub fn meta(a: &Attrs<'_>) -> Outcome<Expr> {
    let k = a.need(2)?.be32()?;
    if let Some(s) = a.get(3) {
        // Only the mark means anything to the stack.
        return match k {
            key::MARK => Ok(Arc::new(MetaSet { sreg: Reg::parse(&s, 4)? })),
            _ => Err(EOPNOTSUPP.into()),
        };
    }
    let len = match k {
        key::LEN | key::PRIORITY | key::MARK | key::IIF | key::OIF | key::CPU => 4,
        key::IIFGROUP | key::OIFGROUP | key::PRANDOM | key::TIME_HOUR | key::SKUID => 4,
        key::PROTOCOL | key::IIFTYPE | key::OIFTYPE => 2,
        key::IIFNAME | key::OIFNAME | key::IIFKIND | key::OIFKIND => 16,
        key::NFPROTO | key::L4PROTO | key::PKTTYPE | key::TIME_DAY => 1,
        key::TIME_NS => 8,
        _ => return Err(EOPNOTSUPP.into()),
    };
    Ok(Arc::new(MetaGet { dreg: Reg::parse(&a.need(1)?, len)?, key: k }))
}

/// A name as registers hold it.
fn padded(name: &str) -> [u8; 16] {
    let mut b = [0; 16];
    let n = name.len().min(15);
    b[..n].copy_from_slice(&name.as_bytes()[..n]);
    b
}

/// ARPHRD_* of an interface.
fn hardware(i: &Interface) -> u16 {
    match i.link {
        Link::Loopback => 772,
        Link::Ethernet => 1,
        Link::None => 65_534,
    }
}

/// PACKET_HOST, PACKET_BROADCAST or PACKET_MULTICAST.
pub fn packet_type(p: &Packet, v6: bool) -> u8 {
    match (destination(p, v6), v6) {
        (Some(d), _) if d.is_multicast() => 2,
        (Some(IpAddr::V4(d)), _) if d.is_broadcast() => 1,
        _ if p.priority != 0 => 1,
        _ => 0,
    }
}

/// The same of a frame, by its link header, and PACKET_OTHERHOST.
fn frame_type(m: &Machine<'_>) -> u8 {
    match m.p.link() {
        [255, 255, 255, 255, 255, 255, ..] => 1,
        [first, ..] if first & 1 != 0 => 2,
        to if to.len() >= 6 && m.iif.is_some_and(|i| i.mac().0 != to[..6]) => 3,
        _ => 0,
    }
}

fn addresses(p: &Packet, v6: bool) -> Option<(IpAddr, IpAddr)> {
    if v6 {
        let h = ipv6::Ipv6::parse_quoted(p.net()).ok()?;
        Some((h.src.into(), h.dst.into()))
    } else {
        let h = ipv4::Ipv4::parse_quoted(p.net()).ok()?;
        Some((h.src.into(), h.dst.into()))
    }
}

fn destination(p: &Packet, v6: bool) -> Option<IpAddr> {
    addresses(p, v6).map(|a| a.1)
}

impl MetaGet {
    fn interface<'a>(&self, m: &Machine<'a>) -> Option<&'a Arc<Interface>> {
        match self.key {
            key::IIF | key::IIFNAME | key::IIFTYPE | key::IIFGROUP | key::IIFKIND => m.iif,
            _ => m.oif,
        }
    }
}

impl Operation for MetaGet {
    fn name(&self) -> &'static str {
        "meta"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(2, self.key);
        o.be32(1, self.dreg.number());
    }

    fn loads(&self) -> Option<(Reg, Field)> {
        let place = match self.key {
            key::L4PROTO => Place::Protocol,
            key::NFPROTO => Place::Family,
            _ => return None,
        };
        Some((self.dreg, Field { place, len: 1 }))
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let r = self.dreg;
        let iface = self.interface(m);
        match self.key {
            key::LEN => m.store(r, &(m.counted() as u32).to_ne_bytes()),
            key::PROTOCOL => {
                let kind: u16 = match m.frame {
                    Some(_) => m.p.kind,
                    None if m.parsed.v6 => 0x86dd,
                    None => 0x0800,
                };
                m.store(r, &kind.to_be_bytes());
            }
            key::PRIORITY => m.store(r, &[0; 4]),
            key::MARK => m.store(r, &m.p.mark.to_ne_bytes()),
            // No interface has the number 0.
            key::IIF | key::OIF => m.store(r, &iface.map_or(0, |i| i.index).to_ne_bytes()),
            // Nor an empty name.
            key::IIFNAME | key::OIFNAME => {
                m.store(r, &iface.map_or([0; 16], |i| padded(&i.name())));
            }
            key::IIFTYPE | key::OIFTYPE => match iface {
                Some(i) => m.store(r, &hardware(i).to_ne_bytes()),
                None => return Step::Break,
            },
            key::IIFGROUP | key::OIFGROUP => match iface {
                Some(i) => {
                    let g = i.group.load(std::sync::atomic::Ordering::Relaxed);
                    m.store(r, &g.to_ne_bytes());
                }
                None => return Step::Break,
            },
            key::IIFKIND | key::OIFKIND => match iface {
                Some(i) => m.store(r, &padded(i.device.driver().0)),
                None => return Step::Break,
            },
            key::SKUID => match m.p.owner {
                Some(uid) => m.store(r, &uid.to_ne_bytes()),
                None => return Step::Break,
            },
            key::NFPROTO => m.store(r, &[m.family()]),
            key::L4PROTO if !m.parsed.ip => return Step::Break,
            key::L4PROTO => m.store(r, &[m.parsed.proto]),
            key::PKTTYPE if m.frame.is_some() => m.store(r, &[frame_type(m)]),
            key::PKTTYPE => m.store(r, &[packet_type(m.p, m.parsed.v6)]),
            // The host schedules: which CPU it is changes at any moment.
            key::CPU => m.store(r, &[0; 4]),
            key::PRANDOM => {
                let n = m.cx.stack().random() as u32;
                m.store(r, &n.to_ne_bytes());
            }
            key::TIME_NS => {
                let n = m.cx.stack().realtime();
                m.store(r, &n.to_ne_bytes());
            }
            key::TIME_DAY => {
                let days = m.cx.stack().realtime() / (86_400 * uml_net::time::SEC);
                // The first of January 1970 was a Thursday.
                m.store(r, &[((days + 4) % 7) as u8]);
            }
            key::TIME_HOUR => {
                let s = m.cx.stack().realtime() / uml_net::time::SEC % 86_400;
                m.store(r, &(s as u32).to_ne_bytes());
            }
            _ => return Step::Break,
        }
        Step::Next
    }
}

impl Operation for MetaSet {
    fn name(&self) -> &'static str {
        "meta"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(2, key::MARK);
        o.be32(3, self.sreg.number());
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let b = m.load(self.sreg, 4);
        m.p.mark = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        Step::Next
    }
}

/// Kinds of options and extension headers.
const OP_IPV6: u32 = 0;
const OP_TCP: u32 = 1;
const TCP_MSS: u8 = 2;

/// An IPv6 extension header or a TCP option, into a register or out of it.
struct Exthdr {
    dreg: Option<Reg>,
    sreg: Option<Reg>,
    kind: u8,
    offset: usize,
    len: usize,
    /// Only whether it is there.
    present: bool,
    op: u32,
}

/// Reads `exthdr`.
pub fn exthdr(a: &Attrs<'_>) -> Outcome<Expr> {
    let op = a.be32(6)?.unwrap_or(OP_IPV6);
    let kind = a.need(2)?.byte()?;
    let offset = a.need(3)?.be32()? as usize;
    let len = a.need(4)?.be32()? as usize;
    let flags = a.be32(5)?.unwrap_or(0);
    if op > OP_TCP {
        return Err(EOPNOTSUPP.into());
    }
    if offset > 255 || len > super::REGISTERS || flags > 1 {
        return Err(ERANGE.into());
    }
    let sreg = a.get(7).map(|s| Reg::parse(&s, len)).transpose()?;
    let dreg = a.get(1).map(|d| Reg::parse(&d, len.max(1))).transpose()?;
    match (dreg, sreg) {
        (Some(_), None) => {}
        (None, Some(_)) if op == OP_TCP && offset >= 2 && matches!(len, 2 | 4) && flags == 0 => {}
        (None, Some(_)) => return Err(EOPNOTSUPP.into()),
        _ => return Err(EINVAL.into()),
    }
    Ok(Arc::new(Exthdr { dreg, sreg, kind, offset, len, present: flags == 1, op }))
}

impl Exthdr {
    /// Place and length of what is looked for, from the network header.
    fn find(&self, m: &mut Machine<'_>) -> Option<(usize, usize)> {
        if self.op == OP_TCP {
            return tcp_option(m, self.kind);
        }
        if !m.parsed.v6 {
            return None;
        }
        let b = m.p.net();
        let (mut next, mut at) = (*b.get(6)?, ipv6::HEADER);
        loop {
            let rest = b.get(at..)?;
            let len = match next {
                proto::FRAGMENT => ipv6::Fragment::LEN,
                _ => ipv6::extension_len(next, rest).ok()??,
            };
            if next == self.kind {
                return Some((at, len));
            }
            next = *rest.first()?;
            at += len;
        }
    }
}

/// Place and length of a TCP option, from the network header.
pub fn tcp_option(m: &mut Machine<'_>, kind: u8) -> Option<(usize, usize)> {
    if m.parsed.proto != proto::TCP || m.parsed.piece {
        return None;
    }
    let t = m.parsed.transport;
    let head = usize::from(m.p.net().get(t + 12)? >> 4) * 4;
    if head < 20 || !m.p.pull(t + head) {
        return None;
    }
    let b = m.p.net();
    let mut at = t + 20;
    while at < t + head {
        match b[at] {
            0 => return None,
            1 => at += 1,
            k => {
                let len = usize::from(*b.get(at + 1)?);
                if len < 2 || at + len > t + head {
                    return None;
                }
                if k == kind {
                    return Some((at, len));
                }
                at += len;
            }
        }
    }
    None
}

/// Writes into a TCP header, whose checksum follows.
pub fn write_tcp(m: &mut Machine<'_>, at: usize, new: &[u8]) {
    let Some(old) = m.p.net().get(at..at + new.len()).map(<[u8]>::to_vec) else { return };
    let odd = (at - m.parsed.transport) % 2 == 1;
    let pad = |v: &[u8]| if odd { [&[0], v].concat() } else { v.to_vec() };
    let partial = matches!(m.p.csum, Csum::Partial { .. });
    let csum = m.parsed.transport + 16;
    let b = m.p.net_bytes_mut();
    b[at..at + new.len()].copy_from_slice(new);
    if !partial {
        adjust(b, csum, &pad(&old), &pad(new), false);
    }
}

impl Operation for Exthdr {
    fn name(&self) -> &'static str {
        "exthdr"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        if let Some(d) = self.dreg {
            o.be32(1, d.number());
        }
        if let Some(s) = self.sreg {
            o.be32(7, s.number());
        }
        o.put(2, &[self.kind]);
        o.be32(3, self.offset as u32);
        o.be32(4, self.len as u32);
        o.be32(5, self.present.into());
        o.be32(6, self.op);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let found = self.find(m);
        if self.present {
            if let Some(r) = self.dreg {
                m.store(r, &[found.is_some().into()]);
            }
            return Step::Next;
        }
        let Some((at, len)) = found else { return Step::Break };
        if self.offset + self.len > len {
            return Step::Break;
        }
        let at = at + self.offset;
        if let Some(r) = self.dreg {
            let Some(b) = m.p.net().get(at..at + self.len).map(<[u8]>::to_vec) else {
                return Step::Break;
            };
            m.store(r, &b);
        } else if let Some(r) = self.sreg {
            let new = m.load(r, self.len).to_vec();
            // A segment size is only ever made smaller.
            let grows = self.kind == TCP_MSS
                && self.len == 2
                && m.p.net().get(at..at + 2).is_some_and(|old| old <= &new[..]);
            if !grows {
                write_tcp(m, at, &new);
            }
        }
        Step::Next
    }
}

/// NFT_FIB_RESULT_* and NFTA_FIB_F_*.
mod fib {
    pub const OIF: u32 = 1;
    pub const OIFNAME: u32 = 2;
    pub const ADDRTYPE: u32 = 3;
    pub const SADDR: u32 = 1;
    pub const DADDR: u32 = 2;
    pub const MARK: u32 = 4;
    pub const IIF: u32 = 8;
    pub const OIF_FLAG: u32 = 16;
    pub const PRESENT: u32 = 32;
}

/// What the routing tables say about an address of the packet.
pub struct Fib {
    dreg: Reg,
    result: u32,
    flags: u32,
}

impl Fib {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Fib> {
        let result = a.need(2)?.be32()?;
        let flags = a.need(3)?.be32()?;
        let one = |a: u32, b: u32| (flags & a != 0) != (flags & b != 0);
        if flags & !63 != 0 || !one(fib::SADDR, fib::DADDR) {
            return Err(EINVAL.into());
        }
        if flags & fib::IIF != 0 && flags & fib::OIF_FLAG != 0 {
            return Err(EINVAL.into());
        }
        let len = match result {
            fib::OIF if flags & fib::OIF_FLAG == 0 => 4,
            fib::OIFNAME if flags & fib::OIF_FLAG == 0 => 16,
            fib::ADDRTYPE => 4,
            fib::OIF | fib::OIFNAME => return Err(EINVAL.into()),
            _ => return Err(EINVAL.into()),
        };
        let dreg = Reg::parse(&a.need(1)?, if flags & fib::PRESENT != 0 { 1 } else { len })?;
        Ok(Fib { dreg, result, flags })
    }
}

/// RTN_* of an address as a host with these interfaces sees it.
pub fn address_type(m: &Machine<'_>, a: IpAddr, iface: Option<u32>) -> u32 {
    if a.is_multicast() {
        return Kind::Multicast as u32;
    }
    if matches!(a, IpAddr::V4(v) if v.is_broadcast()) {
        return Kind::Broadcast as u32;
    }
    let stack = m.cx.stack();
    match stack.routes.lookup(&Flow::to(a)) {
        Ok(r) if matches!(r.kind, Kind::Local | Kind::Broadcast) => {
            // Restricted to an interface, the address must be on it.
            let there =
                iface.is_none_or(|i| r.oif == i || stack.owner(a).is_some_and(|o| o.index == i));
            if there { r.kind as u32 } else { Kind::Unicast as u32 }
        }
        _ => Kind::Unicast as u32,
    }
}

impl Operation for Fib {
    fn name(&self) -> &'static str {
        "fib"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, self.dreg.number());
        o.be32(2, self.result);
        o.be32(3, self.flags);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let Some((src, dst)) = addresses(m.p, m.parsed.v6) else { return Step::Break };
        let (a, other) = if self.flags & fib::SADDR != 0 { (src, dst) } else { (dst, src) };
        let iface = match self.flags & (fib::IIF | fib::OIF_FLAG) {
            fib::IIF => m.iif.map(|i| i.index),
            fib::OIF_FLAG => m.oif.map(|i| i.index),
            _ => None,
        };
        if self.result == fib::ADDRTYPE {
            let kind = address_type(m, a, iface);
            m.store(self.dreg, &kind.to_ne_bytes());
            return Step::Next;
        }
        let mut f = Flow::to(a);
        if self.flags & fib::MARK != 0 {
            f.mark = m.p.mark;
        }
        f.src = (!other.is_multicast()).then_some(other);
        let stack = m.cx.stack().clone();
        let found = match stack.routes.lookup(&f) {
            // What came through the loopback came from here.
            _ if m.iif.is_some_and(|i| i.is_loopback()) => m.iif.map(|i| i.index),
            Ok(r) if matches!(r.kind, Kind::Unicast) => Some(r.oif),
            Ok(r) if r.kind == Kind::Local => Some(r.oif),
            _ => None,
        }
        .filter(|o| iface.is_none_or(|i| i == *o));
        if self.flags & fib::PRESENT != 0 {
            m.store(self.dreg, &[found.is_some().into()]);
        } else if self.result == fib::OIF {
            m.store(self.dreg, &found.unwrap_or(0).to_ne_bytes());
        } else {
            let name = found.and_then(|i| stack.interface(i)).map(|i| i.name());
            m.store(self.dreg, &padded(name.as_deref().unwrap_or("")));
        }
        Step::Next
    }

    fn allowed(&self, base: &Base, fam: u8) -> Result<()> {
        let _ = fam == family::INET;
        // Outgoing interfaces are asked for where packets come in; types of addresses everywhere.
        match (self.result, base.hook) {
            (fib::ADDRTYPE, h) => match self.flags & (fib::IIF | fib::OIF_FLAG) {
                fib::IIF if h > 2 => Err(EOPNOTSUPP),
                fib::OIF_FLAG if h < 2 => Err(EOPNOTSUPP),
                _ => Ok(()),
            },
            (_, 0..=2) => Ok(()),
            _ => Err(EOPNOTSUPP),
        }
    }
}

/// NFT_RT_TCPMSS.
const RT_TCPMSS: u32 = 3;

/// The largest TCP segment that fits the packet's route.
pub struct Rt {
    dreg: Reg,
}

impl Rt {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Rt> {
        // Next hops and realms are not known before a packet is sent.
        if a.need(2)?.be32()? != RT_TCPMSS {
            return Err(EOPNOTSUPP.into());
        }
        Ok(Rt { dreg: Reg::parse(&a.need(1)?, 2)? })
    }
}

/// The largest TCP segment for both ways of a packet.
pub fn route_mss(m: &Machine<'_>) -> Option<u16> {
    let (src, dst) = addresses(m.p, m.parsed.v6)?;
    let stack = m.cx.stack();
    let mtu = |a: IpAddr| stack.route_to(&Flow::to(a)).ok().map(|d| d.mtu);
    let forward = mtu(dst)?;
    let both = mtu(src).map_or(forward, |b| b.min(forward));
    let headers = if m.parsed.v6 { 60 } else { 40 };
    u16::try_from(both.checked_sub(headers)?).ok()
}

impl Operation for Rt {
    fn name(&self) -> &'static str {
        "rt"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(2, RT_TCPMSS);
        o.be32(1, self.dreg.number());
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let Some(mss) = route_mss(m) else { return Step::Break };
        m.store(self.dreg, &mss.to_ne_bytes());
        Step::Next
    }

    fn allowed(&self, base: &Base, _: u8) -> Result<()> {
        if base.hook >= 2 { Ok(()) } else { Err(EOPNOTSUPP) }
    }
}
