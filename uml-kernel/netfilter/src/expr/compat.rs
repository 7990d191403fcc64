//! The extensions of iptables that iptables-nft puts into rules as they are (`match` and `target`; iptables-extensions(8)).
//!
//! Each is served here by what it says, and its bytes are given back unchanged. Others are refused with ENOENT, as a
//! kernel without the module does.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::hook::{Hook, Track};
use uml_net::wire::{ipv4, ipv6, proto};

use super::nat::{decide, masquerade, only_at, redirect};
use super::packet::{address_type, packet_type, route_mss, tcp_option, write_tcp};
use super::reject::{reset, unreachable};
use super::state::Limit;
use super::{Names, Operation, Step};
use crate::attr::{Attrs, Out, Outcome};
use crate::conntrack::{self, Manip, NatRange, info, status};
use crate::log;
use crate::machine::Machine;
use crate::model::{Base, Table, family};

/// Longest data of an extension.
const INFO_MAX: usize = 4096;

/// The matches that there are: name, revision, bytes.
const MATCHES: &[(&str, u32, usize)] = &[
    ("addrtype", 0, 12),
    ("addrtype", 1, 8),
    ("comment", 0, 256),
    ("connmark", 1, 12),
    ("conntrack", 1, 152),
    ("conntrack", 2, 156),
    ("conntrack", 3, 164),
    ("dscp", 0, 2),
    ("hl", 0, 2),
    ("icmp", 0, 4),
    ("icmp6", 0, 4),
    ("iprange", 1, 68),
    ("length", 0, 6),
    ("limit", 0, 40),
    ("mac", 0, 12),
    ("mark", 1, 12),
    ("multiport", 1, 48),
    ("owner", 1, 18),
    ("pkttype", 0, 8),
    ("state", 0, 4),
    ("statistic", 0, 24),
    ("tcp", 0, 12),
    ("tcpmss", 0, 6),
    ("tos", 1, 3),
    ("ttl", 0, 2),
    ("udp", 0, 10),
];

/// The targets that there are.
const TARGETS: &[(&str, u32, usize)] = &[
    ("CONNMARK", 1, 16),
    ("CONNMARK", 2, 16),
    ("CT", 0, 40),
    ("CT", 1, 72),
    ("CT", 2, 72),
    ("DNAT", 0, 20),
    ("DNAT", 1, 40),
    ("DNAT", 2, 44),
    ("LOG", 0, 32),
    ("MARK", 2, 8),
    ("MASQUERADE", 0, 0),
    ("NOTRACK", 0, 0),
    ("REDIRECT", 0, 0),
    ("REJECT", 0, 4),
    ("SNAT", 0, 20),
    ("SNAT", 1, 40),
    ("SNAT", 2, 44),
    ("TCPMSS", 0, 2),
];

/// Whether an extension is there in the revision; `EPROTONOSUPPORT` for another revision of one that is.
pub fn revision(name: &str, rev: u32, target: bool) -> Result<()> {
    let list = if target { TARGETS } else { MATCHES };
    let mut same = list.iter().filter(|e| e.0 == name).peekable();
    if same.peek().is_none() {
        return Err(ENOENT);
    }
    if same.any(|e| e.1 == rev) { Ok(()) } else { Err(EPROTONOSUPPORT) }
}

/// Bytes of an IPv4 range of NAT, and of one of both families.
const RANGE_V4: usize = 20;
const RANGE: usize = 40;

/// Name, revision and data; the size is checked.
fn read(
    a: &Attrs<'_>,
    list: &'static [(&str, u32, usize)],
    fam: u8,
) -> Outcome<(&'static str, u32, Vec<u8>)> {
    let name = a.need(1)?.text(29)?;
    let rev = a.need(2)?.be32()?;
    let data = a.need(3)?.data;
    let known = list.iter().find(|e| e.0 == name && e.1 == rev).ok_or(ENOENT)?;
    let size = match known.0 {
        "MASQUERADE" | "REDIRECT" if fam == family::IPV6 => RANGE,
        "MASQUERADE" | "REDIRECT" => RANGE_V4,
        _ => known.2,
    };
    if data.len() > INFO_MAX || data.len() != size.next_multiple_of(8) {
        return Err(EINVAL.into());
    }
    let of_v6 = matches!(known.0, "hl" | "icmp6");
    let of_v4 = matches!(known.0, "ttl" | "icmp");
    if (of_v6 && fam == family::IPV4) || (of_v4 && fam == family::IPV6) {
        return Err(ENOENT.into());
    }
    Ok((known.0, rev, data.to_vec()))
}

fn byte(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or(0)
}

fn half(b: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([byte(b, at), byte(b, at + 1)])
}

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([byte(b, at), byte(b, at + 1), byte(b, at + 2), byte(b, at + 3)])
}

fn port(b: &[u8], at: usize) -> u16 {
    u16::from_be(half(b, at))
}

/// An address of the family in a `union nf_inet_addr`.
fn address(b: &[u8], at: usize, v6: bool) -> IpAddr {
    let mut a = [0; 16];
    if let Some(s) = b.get(at..at + 16) {
        a.copy_from_slice(s);
    }
    if v6 { IpAddr::V6(a.into()) } else { IpAddr::V4([a[0], a[1], a[2], a[3]].into()) }
}

fn bits(a: IpAddr) -> u128 {
    match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn write(o: &mut Out, name: &str, rev: u32, data: &[u8]) {
    o.text(1, name);
    o.be32(2, rev);
    o.put(3, data);
}

/// Addresses, TTL and type of service of a packet.
struct Head {
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    tos: u8,
}

fn head(m: &Machine<'_>) -> Option<Head> {
    let b = m.p.net();
    if m.parsed.v6 {
        let h = ipv6::Ipv6::parse_quoted(b).ok()?;
        Some(Head { src: h.src.into(), dst: h.dst.into(), ttl: h.hop_limit, tos: h.class })
    } else {
        let h = ipv4::Ipv4::parse_quoted(b).ok()?;
        Some(Head { src: h.src.into(), dst: h.dst.into(), ttl: h.ttl, tos: h.tos })
    }
}

/// Source and destination port; `None` without.
fn ports(m: &Machine<'_>) -> Option<(u16, u16)> {
    if m.parsed.piece {
        return None;
    }
    let t = m.p.net().get(m.parsed.transport..m.parsed.transport + 4)?;
    Some((u16::from_be_bytes([t[0], t[1]]), u16::from_be_bytes([t[2], t[3]])))
}

/// A match.
pub struct Match {
    name: &'static str,
    rev: u32,
    data: Vec<u8>,
    limit: Option<Limit>,
    nth: AtomicU32,
}

impl Match {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Match> {
        let (name, rev, data) = read(a, MATCHES, names.family)?;
        let mut limit = None;
        let mut nth = 0;
        match name {
            "limit" => {
                let (every, burst) = (word(&data, 0), word(&data, 4));
                // One packet every `every` ten-thousandths of a second.
                if burst == 0 || every == 0 {
                    return Err(ERANGE.into());
                }
                limit = Some(Limit::every(u64::from(every), 10_000, burst));
            }
            "statistic" => {
                if half(&data, 0) > 1 || half(&data, 2) > 1 {
                    return Err(EINVAL.into());
                }
                // So that the first that matches is number `packet`.
                nth = (u64::from(word(&data, 4)) + 1
                    - u64::from(word(&data, 8)).min(u64::from(word(&data, 4))))
                    as u32;
            }
            // Groups of sockets are not kept.
            "owner" if byte(&data, 16) & !5 != 0 => return Err(EINVAL.into()),
            "multiport" if byte(&data, 1) > 15 || byte(&data, 0) > 2 => return Err(EINVAL.into()),
            _ => {}
        }
        Ok(Match { name, rev, data, limit, nth: nth.into() })
    }

    fn matches(&self, m: &mut Machine<'_>) -> bool {
        let d = &self.data[..];
        match self.name {
            "comment" => true,
            "state" => {
                let bit = match &m.p.track {
                    Track::None => 1,
                    Track::Untracked => 1 << 6,
                    Track::Conn(_, how) => 1 << (how % info::REPLY + 1),
                };
                word(d, 0) & bit != 0
            }
            "conntrack" => self.conntrack(m),
            "limit" => self.limit.as_ref().is_none_or(|l| l.take(m.p.net_len(), m.now())),
            "mark" => (m.p.mark & word(d, 4) == word(d, 0)) != (byte(d, 8) != 0),
            "connmark" => match conntrack::of(m.p) {
                Some((c, _)) => {
                    (c.mark.load(Ordering::Relaxed) & word(d, 4) == word(d, 0)) != (byte(d, 8) != 0)
                }
                None => false,
            },
            "multiport" => multiport(d, m),
            "tcp" => tcp(d, m),
            "udp" => {
                let Some((s, t)) = ports(m).filter(|_| m.parsed.proto == proto::UDP) else {
                    return false;
                };
                let inv = byte(d, 8);
                within(s, d, 0, inv & 1 != 0) && within(t, d, 4, inv & 2 != 0)
            }
            "icmp" | "icmp6" => {
                let own = if m.parsed.v6 { proto::ICMPV6 } else { proto::ICMP };
                if m.parsed.proto != own || m.parsed.piece {
                    return false;
                }
                let Some(t) = m.p.net().get(m.parsed.transport..m.parsed.transport + 2) else {
                    return false;
                };
                // 255 is any type; inversion is of all of it.
                let any = byte(d, 0) == 255 && self.name == "icmp";
                let hit = any || (t[0] == byte(d, 0) && (byte(d, 1)..=byte(d, 2)).contains(&t[1]));
                hit != (byte(d, 3) & 1 != 0)
            }
            "iprange" => {
                let Some(h) = head(m) else { return false };
                let v6 = m.parsed.v6;
                let f = byte(d, 64);
                let inside = |a: IpAddr, at: usize| {
                    (bits(address(d, at, v6))..=bits(address(d, at + 16, v6))).contains(&bits(a))
                };
                (f & 1 == 0 || inside(h.src, 0) != (f & 16 != 0))
                    && (f & 2 == 0 || inside(h.dst, 32) != (f & 32 != 0))
            }
            "addrtype" => self.addrtype(m),
            "length" => {
                let n = m.p.net_len();
                let inside = (usize::from(half(d, 0))..=usize::from(half(d, 2))).contains(&n);
                inside != (byte(d, 4) != 0)
            }
            "ttl" | "hl" => {
                let Some(h) = head(m) else { return false };
                let n = byte(d, 1);
                match byte(d, 0) {
                    0 => h.ttl == n,
                    1 => h.ttl != n,
                    2 => h.ttl < n,
                    3 => h.ttl > n,
                    _ => false,
                }
            }
            "dscp" => head(m).is_some_and(|h| (h.tos >> 2 == byte(d, 0)) != (byte(d, 1) != 0)),
            "tos" => {
                head(m).is_some_and(|h| (h.tos & byte(d, 0) == byte(d, 1)) != (byte(d, 2) != 0))
            }
            "pkttype" => {
                (i32::from(packet_type(m.p, m.parsed.v6)) == word(d, 0) as i32) != (word(d, 4) != 0)
            }
            "owner" => {
                // Bits: user, group, existence.
                let (wanted, inverted) = (byte(d, 16), byte(d, 17));
                let uid = m.p.owner.is_some_and(|u| (word(d, 0)..=word(d, 4)).contains(&u));
                let says = |bit: u8, hit: bool| wanted & bit == 0 || hit != (inverted & bit != 0);
                says(4, m.p.owner.is_some())
                    && (m.p.owner.is_some() || wanted & 1 == 0)
                    && says(1, uid)
            }
            "mac" => {
                // Source of an Ethernet header.
                let Some(src) = m.p.link().get(6..12) else { return false };
                (src == &d[..6]) != (word(d, 8) != 0)
            }
            "tcpmss" => {
                let Some((at, 4)) = tcp_option(m, 2) else { return false };
                let b = m.p.net();
                let mss = u16::from_be_bytes([b[at + 2], b[at + 3]]);
                (half(d, 0)..=half(d, 2)).contains(&mss) != (byte(d, 4) != 0)
            }
            "statistic" => self.statistic(m),
            _ => false,
        }
    }

    fn statistic(&self, m: &Machine<'_>) -> bool {
        let d = &self.data[..];
        let hit = if half(d, 0) == 0 {
            (m.cx.stack().random() as u32 & 0x7fff_ffff) < word(d, 4)
        } else {
            let every = word(d, 4);
            let next = |n: u32| Some(if n >= every { 0 } else { n + 1 });
            let before =
                self.nth.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(0);
            before >= every
        };
        hit != (half(d, 2) & 1 != 0)
    }

    fn addrtype(&self, m: &Machine<'_>) -> bool {
        let d = &self.data[..];
        let Some(h) = head(m) else { return false };
        let (source, dest) = (half(d, 0), half(d, 2));
        let (mut invert, mut iface) = ([false; 2], None);
        if self.rev == 0 {
            invert = [word(d, 4) != 0, word(d, 8) != 0];
        } else {
            let f = word(d, 4);
            (invert[0], invert[1]) = (f & 1 != 0, f & 2 != 0);
            if f & 4 != 0 {
                iface = m.iif.map(|i| i.index);
            } else if f & 8 != 0 {
                iface = m.oif.map(|i| i.index);
            }
        }
        let is = |mask: u16, a: IpAddr| {
            let unspecified = mask & 1 != 0 && a.is_unspecified();
            unspecified || mask & 1u16.checked_shl(address_type(m, a, iface)).unwrap_or(0) != 0
        };
        (source == 0 || is(source, h.src) != invert[0])
            && (dest == 0 || is(dest, h.dst) != invert[1])
    }

    fn conntrack(&self, m: &Machine<'_>) -> bool {
        let d = &self.data[..];
        let (flags, inv) = (half(d, 146), half(d, 148));
        let (states, statuses) = match self.rev {
            1 => (u16::from(byte(d, 150)), u16::from(byte(d, 151))),
            _ => (half(d, 150), half(d, 152)),
        };
        let conn = conntrack::of(m.p);
        let says = |bit: u16, hit: bool| flags & bit == 0 || hit != (inv & bit != 0);
        let mut bit: u16 = match &m.p.track {
            Track::None => 1,
            Track::Untracked => 1 << 8,
            Track::Conn(_, how) => 1 << (how % info::REPLY + 1),
        };
        if let Some((c, _)) = &conn {
            let s = c.status();
            bit |= if s & status::SRC_NAT != 0 { 1 << 6 } else { 0 };
            bit |= if s & status::DST_NAT != 0 { 1 << 7 } else { 0 };
        }
        if !says(1, states & bit != 0) {
            return false;
        }
        let Some((c, how)) = conn else { return flags & !1 == 0 };
        let v6 = m.parsed.v6;
        let (o, r) = (c.original, c.tuple(true));
        if flags & 1 << 12 != 0 && (how >= info::REPLY) == (inv & 1 << 12 == 0) {
            return false;
        }
        let masked = |a: IpAddr, at: usize| {
            let mask = bits(address(d, at + 16, v6));
            bits(a) & mask == bits(address(d, at, v6)) & mask
        };
        let span = |p: u16, at: usize, high: usize| match self.rev {
            3 => (half(d, at)..=half(d, high)).contains(&p),
            _ => port(d, at) == p,
        };
        let left = c.expires().since(m.now()) / uml_net::time::SEC;
        says(1 << 1, half(d, 136) == u16::from(o.proto))
            && says(1 << 2, masked(o.src, 0))
            && says(1 << 3, masked(o.dst, 32))
            && says(1 << 4, masked(r.src, 64))
            && says(1 << 5, masked(r.dst, 96))
            && says(
                1 << 6,
                u32::from(statuses) & c.status() != 0 || (statuses == 0 && c.status() == 0),
            )
            && says(1 << 7, (u64::from(word(d, 128))..=u64::from(word(d, 132))).contains(&left))
            && says(1 << 8, span(o.sport, 138, 154))
            && says(1 << 9, span(o.dport, 140, 156))
            && says(1 << 10, span(r.sport, 142, 158))
            && says(1 << 11, span(r.dport, 144, 160))
    }
}

fn within(p: u16, d: &[u8], at: usize, invert: bool) -> bool {
    (half(d, at)..=half(d, at + 2)).contains(&p) != invert
}

fn tcp(d: &[u8], m: &mut Machine<'_>) -> bool {
    let Some((s, t)) = ports(m).filter(|_| m.parsed.proto == proto::TCP) else { return false };
    let inv = byte(d, 11);
    if !within(s, d, 0, inv & 1 != 0) || !within(t, d, 4, inv & 2 != 0) {
        return false;
    }
    let Some(f) = m.p.net().get(m.parsed.transport + 13).copied() else { return false };
    if ((f & byte(d, 9)) == byte(d, 10)) == (inv & 4 != 0) {
        return false;
    }
    match byte(d, 8) {
        0 => true,
        kind => tcp_option(m, kind).is_some() != (inv & 8 != 0),
    }
}

fn multiport(d: &[u8], m: &Machine<'_>) -> bool {
    if !matches!(m.parsed.proto, proto::TCP | proto::UDP | 132 | 33 | 136) {
        return false;
    }
    let Some((s, t)) = ports(m) else { return false };
    let n = usize::from(byte(d, 1)).min(15);
    let at = |i: usize| half(d, 2 + i * 2);
    let hit = |p: u16| {
        let mut i = 0;
        while i < n {
            if byte(d, 32 + i) != 0 && i + 1 < n {
                if (at(i)..=at(i + 1)).contains(&p) {
                    return true;
                }
                i += 2;
            } else {
                if at(i) == p {
                    return true;
                }
                i += 1;
            }
        }
        false
    };
    let found = match byte(d, 0) {
        0 => hit(s),
        1 => hit(t),
        _ => hit(s) || hit(t),
    };
    found != (byte(d, 47) != 0)
}

impl Operation for Match {
    fn name(&self) -> &'static str {
        "match"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        write(o, self.name, self.rev, &self.data);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if self.matches(m) { Step::Next } else { Step::Break }
    }

    fn tracks(&self) -> bool {
        matches!(self.name, "conntrack" | "state" | "connmark")
    }
}

/// A target.
pub struct Target {
    name: &'static str,
    rev: u32,
    data: Vec<u8>,
    v6: bool,
}

impl Target {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Target> {
        let (name, rev, data) = read(a, TARGETS, names.family)?;
        let v6 = names.family == family::IPV6;
        let t = Target { name, rev, data, v6 };
        let d = &t.data[..];
        let bad = match name {
            "REJECT" => t.reject_code().is_none(),
            "CT" => half(d, 0) & 1 == 0 || half(d, 2) != 0,
            "LOG" => byte(d, 0) > 8,
            // Ranges of IPv4 come one at a time.
            "SNAT" | "DNAT" if rev == 0 => word(d, 0) != 1 || v6,
            "MASQUERADE" | "REDIRECT" if !v6 => word(d, 0) != 1,
            "TCPMSS" => names.compat.is_some_and(|c| c.0 != 6 || c.1 & 1 != 0),
            _ => false,
        };
        if bad { Err(EINVAL.into()) } else { Ok(t) }
    }

    /// The code of "destination unreachable"; the inner `None` is a reset.
    fn reject_code(&self) -> Option<Option<u8>> {
        let with = word(&self.data, 0);
        Some(Some(match (self.v6, with) {
            (false, 0..=3) => with as u8,
            (false, 5) => 9,
            (false, 6) => 10,
            (false, 8) => 13,
            (false, 7) | (true, 6) => return Some(None),
            (true, 0..=4) => with as u8,
            (true, 7) => 5,
            (true, 8) => 6,
            _ => return None,
        }))
    }

    fn range(&self) -> NatRange {
        let d = &self.data[..];
        let small = match self.name {
            "MASQUERADE" | "REDIRECT" => !self.v6,
            _ => self.rev == 0,
        };
        let (flags, a, b, p) = if small {
            let v4 = |at: usize| {
                IpAddr::V4([byte(d, at), byte(d, at + 1), byte(d, at + 2), byte(d, at + 3)].into())
            };
            (word(d, 4), v4(8), v4(12), 16)
        } else {
            (word(d, 0), address(d, 4, self.v6), address(d, 20, self.v6), 36)
        };
        NatRange {
            addresses: (flags & 1 != 0).then_some((a, b)),
            ports: (flags & 2 != 0).then(|| (port(d, p), port(d, p + 2))),
            flags,
        }
    }

    fn connmark(&self, m: &mut Machine<'_>) {
        let Some((c, _)) = conntrack::of(m.p) else { return };
        let d = &self.data[..];
        let (ctmark, ctmask, nfmask) = (word(d, 0), word(d, 4), word(d, 8));
        let (dir, by, mode) = match self.rev {
            1 => (0, 0, byte(d, 12)),
            _ => (byte(d, 12), u32::from(byte(d, 13)), byte(d, 14)),
        };
        let shift = |v: u32| {
            let s = if dir == 0 { v.checked_shl(by) } else { v.checked_shr(by) };
            s.unwrap_or(0)
        };
        let old = c.mark.load(Ordering::Relaxed);
        match mode {
            0 => c.mark.store(shift((old & !ctmask) ^ ctmark), Ordering::Relaxed),
            1 => {
                let new = (old & !ctmask) ^ shift(m.p.mark & nfmask);
                c.mark.store(new, Ordering::Relaxed);
            }
            _ => m.p.mark = (m.p.mark & !nfmask) ^ shift(old & ctmask),
        }
    }

    fn clamp(&self, m: &mut Machine<'_>) {
        let wanted = match half(&self.data, 0) {
            0xffff => match route_mss(m) {
                Some(n) => n,
                None => return,
            },
            n => n,
        };
        let Some((at, 4)) = tcp_option(m, 2) else { return };
        let b = m.p.net();
        if u16::from_be_bytes([b[at + 2], b[at + 3]]) > wanted {
            write_tcp(m, at + 2, &wanted.to_be_bytes());
        }
    }
}

impl Operation for Target {
    fn name(&self) -> &'static str {
        "target"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        write(o, self.name, self.rev, &self.data);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        match self.name {
            "REJECT" => {
                match self.reject_code() {
                    Some(Some(code)) => unreachable(m, code),
                    _ => reset(m),
                }
                Step::Stolen
            }
            "MASQUERADE" => {
                let r = self.range();
                masquerade(m, r.ports, r.flags)
            }
            "REDIRECT" => {
                let r = self.range();
                redirect(m, r.ports, r.flags)
            }
            "SNAT" => decide(m, Manip::Src, &self.range()),
            "DNAT" => decide(m, Manip::Dst, &self.range()),
            "LOG" => {
                let end = self.data[2..].iter().position(|c| *c == 0).map_or(32, |n| n + 2);
                let prefix = String::from_utf8_lossy(&self.data[2..end.min(32)]).into_owned();
                log::packet(m, &prefix, byte(&self.data, 0).into());
                Step::Next
            }
            "MARK" => {
                m.p.mark = (m.p.mark & !word(&self.data, 4)) ^ word(&self.data, 0);
                Step::Next
            }
            "CONNMARK" => {
                self.connmark(m);
                Step::Next
            }
            "TCPMSS" => {
                self.clamp(m);
                Step::Next
            }
            "CT" | "NOTRACK" => {
                if matches!(m.p.track, Track::None) {
                    m.p.track = Track::Untracked;
                }
                Step::Next
            }
            _ => Step::Next,
        }
    }

    fn allowed(&self, base: &Base, _: u8) -> Result<()> {
        // Extensions say EINVAL where expressions say EOPNOTSUPP.
        let own = |hooks: &[Hook]| only_at(base, hooks).map_err(|_| EINVAL);
        match self.name {
            "MASQUERADE" => own(&[Hook::Postrouting]),
            "SNAT" => own(&[Hook::Postrouting, Hook::Input]),
            "DNAT" | "REDIRECT" => own(&[Hook::Prerouting, Hook::Output]),
            "REJECT" if matches!(base.hook, 1..=3) => Ok(()),
            "REJECT" => Err(EINVAL),
            "TCPMSS" if half(&self.data, 0) == 0xffff && base.hook < 2 => Err(EINVAL),
            _ => Ok(()),
        }
    }

    fn tracks(&self) -> bool {
        matches!(self.name, "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "CONNMARK")
    }
}
