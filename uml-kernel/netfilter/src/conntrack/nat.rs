//! Network address translation: choosing addresses for new connections and rewriting packets (RFC 3022, RFC 5508 for
//! ICMP errors).
//!
//! A connection says by its two tuples what is to be done: what is sent must look like the inverse of the reply's tuple,
//! what comes back like the inverse of the original's. Destinations are rewritten before routing, sources after it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_net::hook::Hook;
use uml_net::packet::{Csum, Packet};
use uml_net::stack::Cx;
use uml_net::wire::checksum::Sum;
use uml_net::wire::{ipv6, proto};

use super::tuple::{Tuple, quoted_at};
use super::{Conn, Conntrack, info, of, status};
use crate::expr::Step;
use crate::machine::Parsed;

/// Which end is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manip {
    Src,
    Dst,
}

impl Manip {
    /// What is translated at a hook.
    pub fn at(hook: Hook) -> Manip {
        match hook {
            Hook::Prerouting | Hook::Output => Manip::Dst,
            _ => Manip::Src,
        }
    }

    fn done(self) -> u32 {
        match self {
            Manip::Src => status::SRC_NAT_DONE,
            Manip::Dst => status::DST_NAT_DONE,
        }
    }
}

/// NF_NAT_RANGE_*.
pub mod range {
    pub const RANDOM: u32 = 4;
    pub const PERSISTENT: u32 = 8;
    pub const FULLY_RANDOM: u32 = 16;
    pub const OFFSET: u32 = 32;
    pub const NETMAP: u32 = 64;
}

/// What may be chosen from.
#[derive(Clone, Copy, Debug, Default)]
pub struct NatRange {
    pub addresses: Option<(IpAddr, IpAddr)>,
    pub ports: Option<(u16, u16)>,
    /// [`range`].
    pub flags: u32,
}

/// Ports tried before a connection is refused.
const ATTEMPTS: u32 = 512;

fn number(a: IpAddr) -> u128 {
    match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn address(n: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4((n as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(n.into()),
    }
}

impl Conntrack {
    /// A new connection that nothing was decided about at such a hook.
    pub fn undecided(&self, p: &Packet, hook: Hook) -> bool {
        of(p).is_some_and(|(c, how)| {
            matches!(how, info::NEW) && c.status() & Manip::at(hook).done() == 0
        })
    }

    /// It was decided how the connection is translated at such a hook.
    pub fn translated(&self, p: &Packet, hook: Hook) -> bool {
        of(p).is_some_and(|(c, _)| c.status() & Manip::at(hook).done() != 0)
    }

    /// No rule said anything: addresses stay, but a source port that another connection was given changes.
    pub fn decide_nothing(&self, cx: &mut Cx, p: &Packet, hook: Hook) -> bool {
        let Some((c, _)) = of(p) else { return true };
        let manip = Manip::at(hook);
        if c.status() & manip.done() != 0 {
            return true;
        }
        if manip == Manip::Src && !c.confirmed() {
            return self.decide(cx, &c, manip, &NatRange::default());
        }
        c.set(manip.done());
        true
    }

    fn taken(&self, t: &Tuple, c: &Arc<Conn>, cx: &Cx) -> bool {
        self.find(t, cx.now).is_some_and(|(o, _)| !Arc::ptr_eq(&o, c))
    }

    /// Decides how a new connection is translated; false when no port is free.
    pub fn decide(&self, cx: &mut Cx, c: &Arc<Conn>, manip: Manip, r: &NatRange) -> bool {
        if c.status() & manip.done() != 0 || c.confirmed() {
            return true;
        }
        let current = c.tuple(true).inverse();
        let mut new = current;
        if let Some((low, high)) = r.addresses {
            let end = match manip {
                Manip::Src => &mut new.src,
                Manip::Dst => &mut new.dst,
            };
            if low.is_ipv4() == end.is_ipv4() {
                let (lo, hi) = (number(low), number(high).max(number(low)));
                let n = number(*end);
                let span = (hi - lo).saturating_add(1);
                *end = if r.flags & range::NETMAP != 0 {
                    // The host part stays.
                    let mask = lo ^ hi;
                    address(lo | (n & mask), low)
                } else if (lo..=hi).contains(&n) {
                    *end
                } else {
                    // The same for all connections of a client, to the same host unless persistent.
                    let other = if r.flags & range::PERSISTENT != 0 {
                        0
                    } else {
                        number(new_other(manip, &current))
                    };
                    let key = number(current.src).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                        ^ other.rotate_left(7);
                    let key = key ^ key >> 64;
                    address(lo + (key ^ key >> 17) % span, low)
                };
            }
        }
        if !self.choose_port(cx, c, manip, r, &mut new) {
            return false;
        }
        if new != current {
            let reply = new.inverse();
            c.state.lock().reply = reply;
            c.set(if manip == Manip::Src { status::SRC_NAT } else { status::DST_NAT });
        }
        c.set(manip.done());
        true
    }

    fn choose_port(
        &self,
        cx: &Cx,
        c: &Arc<Conn>,
        manip: Manip,
        r: &NatRange,
        new: &mut Tuple,
    ) -> bool {
        let random = r.flags & (range::RANDOM | range::FULLY_RANDOM) != 0;
        if !new.has_ports() && !new.is_icmp() {
            return true;
        }
        let port = |t: &Tuple| if manip == Manip::Src { t.sport } else { t.dport };
        let set = |t: &mut Tuple, n: u16| {
            if t.is_icmp() {
                (t.sport, t.dport) = (n, n);
            } else if manip == Manip::Src {
                t.sport = n;
            } else {
                t.dport = n;
            }
        };
        let at = port(new);
        let (low, high) = match r.ports {
            Some((a, b)) if new.has_ports() => (a.min(b), a.max(b)),
            // A destination port only changes when that is asked for.
            _ if manip == Manip::Dst => return true,
            _ if new.is_icmp() => (0, u16::MAX),
            // Privileged ports stay privileged.
            _ => match at {
                0..512 => (1, 511),
                512..1024 => (600, 1023),
                _ => (1024, u16::MAX),
            },
        };
        let fits = match r.ports {
            Some(_) if new.has_ports() => (low..=high).contains(&at),
            _ => true,
        };
        if fits && !random && !self.taken(&new.inverse(), c, cx) {
            return true;
        }
        let span = u32::from(high - low) + 1;
        let mut start = if manip == Manip::Dst && !random && r.flags & range::OFFSET == 0 {
            // Servers of a range take turns by client port.
            u32::from(new.sport)
        } else {
            cx.stack().random() as u32
        };
        if span == 1 {
            start = 0;
        }
        for i in 0..span.min(ATTEMPTS) {
            set(new, low + ((start.wrapping_add(i)) % span) as u16);
            if !self.taken(&new.inverse(), c, cx) {
                return true;
            }
        }
        false
    }

    /// Rewrites a packet of a translated connection.
    pub fn translate(&self, p: &mut Packet, hook: Hook, h: &Parsed) -> Step {
        let Some((c, how)) = of(p) else { return Step::Next };
        if c.status() & (status::SRC_NAT | status::DST_NAT) == 0 {
            return Step::Next;
        }
        let reply = how >= info::REPLY;
        // How packets of this direction look once they are translated.
        let target = c.tuple(!reply).inverse();
        let manip = Manip::at(hook);
        let related = matches!(how, info::RELATED) || how == info::RELATED + info::REPLY;
        if related && matches!(h.proto, proto::ICMP | proto::ICMPV6) {
            rewrite_error(p, h, manip, &target, &c.tuple(!reply));
        } else {
            rewrite(p, h, manip, &target);
        }
        Step::Next
    }

    /// Forgets what masquerades as an address that is gone.
    pub fn forget_masquerade(&self, now: uml_net::Time, iface: u32) {
        self.flush(now, |c| c.masquerade.load(Ordering::Relaxed) == iface);
    }
}

fn new_other(manip: Manip, t: &Tuple) -> IpAddr {
    if manip == Manip::Src { t.dst } else { t.src }
}

/// Replaces a 16-bit checksum after `old` bytes became `new` (RFC 1624). `partial` is a pseudo header's sum, which is not
/// complemented.
fn adjust(field: &mut [u8], old: &[u8], new: &[u8], partial: bool) {
    let have = u16::from_be_bytes([field[0], field[1]]);
    let mut s = Sum::new();
    s.add_u16(if partial { have } else { !have });
    s.add(new);
    for w in old.chunks(2) {
        let w = u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]);
        s.add_u16(!w);
    }
    let sum = s.folded();
    let sum = if partial { sum } else { !sum };
    field.copy_from_slice(&sum.to_be_bytes());
}

fn octets(a: IpAddr) -> ([u8; 16], usize) {
    let mut b = [0; 16];
    match a {
        IpAddr::V4(a) => {
            b[..4].copy_from_slice(&a.octets());
            (b, 4)
        }
        IpAddr::V6(a) => (a.octets(), 16),
    }
}

/// Place of an address in the IP header.
fn address_at(v6: bool, manip: Manip) -> usize {
    match (v6, manip) {
        (false, Manip::Src) => 12,
        (false, Manip::Dst) => 16,
        (true, Manip::Src) => 8,
        (true, Manip::Dst) => 24,
    }
}

/// Place of the checksum in a transport header.
fn checksum_at(number: u8) -> Option<usize> {
    match number {
        proto::TCP => Some(16),
        proto::UDP | 136 => Some(6),
        proto::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Rewrites one end of the headers at `b`; `partial` says how the transport checksum is stored. What was cut off stays.
fn rewrite_bytes(
    b: &mut [u8],
    v6: bool,
    number: u8,
    transport: usize,
    manip: Manip,
    to: IpAddr,
    port: Option<u16>,
    partial: bool,
) {
    if to.is_ipv6() != v6 {
        return;
    }
    let (new, n) = octets(to);
    let at = address_at(v6, manip);
    if b.len() < at + n {
        return;
    }
    let mut old = [0; 16];
    old[..n].copy_from_slice(&b[at..at + n]);
    b[at..at + n].copy_from_slice(&new[..n]);
    if !v6 {
        adjust(&mut b[10..12], &old[..n], &new[..n], false);
    }
    let Some(t) = b.get_mut(transport..) else { return };
    let field = checksum_at(number).filter(|c| t.len() >= c + 2);
    // UDP without a checksum has none afterwards (RFC 768).
    let absent =
        number == proto::UDP && !v6 && !partial && field.is_some_and(|c| t[c..c + 2] == [0, 0]);
    if let Some(c) = field.filter(|_| !absent) {
        adjust(&mut t[c..c + 2], &old[..n], &new[..n], partial);
    }
    if let Some(port) = port {
        let at = match (number, manip) {
            // The identifier of echo messages.
            (proto::ICMP | proto::ICMPV6, _) => 4,
            (_, Manip::Src) => 0,
            (_, Manip::Dst) => 2,
        };
        if t.len() >= at + 2 {
            let old = [t[at], t[at + 1]];
            let new = port.to_be_bytes();
            t[at..at + 2].copy_from_slice(&new);
            let field =
                if number == proto::ICMP { Some(2).filter(|_| t.len() >= 4) } else { field };
            // A partial sum does not cover the header yet.
            if let Some(c) = field.filter(|_| !absent && !partial) {
                adjust(&mut t[c..c + 2], &old, &new, false);
            }
        }
    }
    if number == proto::UDP && !partial && !absent {
        if let Some(c) = field
            && t[c..c + 2] == [0, 0]
        {
            t[c..c + 2].copy_from_slice(&[0xff, 0xff]);
        }
    }
}

/// The port, or identifier, of one end.
fn port_of(t: &Tuple, manip: Manip) -> Option<u16> {
    if t.is_icmp() {
        return Some(t.sport);
    }
    let p = if manip == Manip::Src { t.sport } else { t.dport };
    t.has_ports().then_some(p)
}

fn rewrite(p: &mut Packet, h: &Parsed, manip: Manip, target: &Tuple) {
    let to = if manip == Manip::Src { target.src } else { target.dst };
    if !p.pull(h.transport + 20) {
        let all = p.net_len();
        p.pull(all);
    }
    let partial = matches!(p.csum, Csum::Partial { .. });
    // SCTP's is no Internet checksum and covers no addresses.
    let port = port_of(target, manip).filter(|_| target.proto == h.proto && target.proto != 132);
    rewrite_bytes(p.net_bytes_mut(), h.v6, h.proto, h.transport, manip, to, port, partial);
}

/// An ICMP error: its own address, and the packet that it quotes, which travelled in the other direction and must look as
/// its sender knows it.
fn rewrite_error(p: &mut Packet, h: &Parsed, manip: Manip, target: &Tuple, sent: &Tuple) {
    let all = p.net_len();
    p.pull(all);
    let body = h.transport + 8;
    let v6 = h.v6;
    let b = p.net_bytes_mut();
    let Some(quote) = b.get_mut(body..) else { return };
    if let Some((number, at)) = quoted_at(quote, v6) {
        // The end that is the error's destination is the quoted packet's source, and the other way round.
        let (end, to) = match manip {
            Manip::Dst => (Manip::Src, sent.src),
            Manip::Src => (Manip::Dst, sent.dst),
        };
        rewrite_bytes(quote, v6, number, at, end, to, port_of(sent, end), false);
    }
    let to = if manip == Manip::Src { target.src } else { target.dst };
    let (new, n) = octets(to);
    let at = address_at(v6, manip);
    if to.is_ipv6() != v6 || b.len() < at + n {
        return;
    }
    let mut old = [0; 16];
    old[..n].copy_from_slice(&b[at..at + n]);
    b[at..at + n].copy_from_slice(&new[..n]);
    if !v6 {
        adjust(&mut b[10..12], &old[..n], &new[..n], false);
    }
    // The message's checksum from the beginning: much of it has changed.
    let t = h.transport;
    b[t + 2..t + 4].fill(0);
    let mut s = if v6 {
        match (ipv6::Ipv6::parse_quoted(b), b.len() - t) {
            (Ok(h6), len) => Sum::pseudo(h6.src.into(), h6.dst.into(), proto::ICMPV6, len),
            _ => return,
        }
    } else {
        Sum::new()
    };
    s.add(&b[t..]);
    let sum = s.finish();
    b[t + 2..t + 4].copy_from_slice(&sum.to_be_bytes());
    if p.csum != Csum::None {
        p.csum = Csum::Valid;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uml_net::packet::Data;
    use uml_net::wire::ipv4::Ipv4;

    fn udp(src: IpAddr, dst: IpAddr, body: &[u8]) -> Vec<u8> {
        let mut t = vec![0x30, 0x39, 0, 53];
        t.extend_from_slice(&((8 + body.len()) as u16).to_be_bytes());
        t.extend_from_slice(&[0, 0]);
        t.extend_from_slice(body);
        let mut s = Sum::pseudo(src, dst, proto::UDP, t.len());
        s.add(&t);
        let sum = match s.finish() {
            0 => 0xffff,
            n => n,
        };
        t[6..8].copy_from_slice(&sum.to_be_bytes());
        let (IpAddr::V4(a), IpAddr::V4(b)) = (src, dst) else { panic!() };
        let mut p = Vec::new();
        Ipv4::new(a, b, proto::UDP, 64, t.len()).write(&[], &mut p);
        p.extend_from_slice(&t);
        p
    }

    proptest! {
        #[test]
        fn rewritten_packets_have_right_checksums(
            a: u32, b: u32, to: u32, port: u16, src: bool, body in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let (a, b) = (IpAddr::V4(a.into()), IpAddr::V4(b.into()));
            let to = IpAddr::V4(to.into());
            let bytes = udp(a, b, &body);
            let mut p = Packet::new(Data::copy_of(&bytes));
            let h = Parsed::of(&mut p).unwrap();
            let mut target = Tuple::of(&mut p, &h).unwrap();
            let manip = if src { Manip::Src } else { Manip::Dst };
            match manip {
                Manip::Src => (target.src, target.sport) = (to, port),
                Manip::Dst => (target.dst, target.dport) = (to, port),
            }
            rewrite(&mut p, &h, manip, &target);
            let out = p.to_vec();
            let got = Ipv4::parse(&out, out.len());
            prop_assert!(got.is_ok());
            let got = got.unwrap();
            let mut s = Sum::pseudo(got.src.into(), got.dst.into(), proto::UDP, out.len() - 20);
            s.add(&out[20..]);
            prop_assert_eq!(s.finish(), 0);
            let mut q = Packet::new(Data::copy_of(&out));
            prop_assert_eq!(Tuple::of(&mut q, &h).unwrap(), target);
        }

        #[test]
        fn any_error_is_survived(mut b in proptest::collection::vec(any::<u8>(), 28..160), six: bool, src: bool) {
            b[0] = if six { 0x60 } else { 0x45 };
            if six { b[6] = proto::ICMPV6; } else { b[9] = proto::ICMP; (b[6], b[7]) = (0, 0); }
            let mut p = Packet::new(Data::copy_of(&b));
            if let Some(h) = Parsed::of(&mut p) {
                let any: IpAddr = if six { "fd00::1".parse().unwrap() } else { "10.0.0.1".parse().unwrap() };
                let t = Tuple { src: any, dst: any, proto: proto::UDP, sport: 1, dport: 2, icmp: (0, 0) };
                if p.net_len() >= h.transport + 8 {
                    rewrite_error(&mut p, &h, if src { Manip::Src } else { Manip::Dst }, &t, &t);
                }
            }
        }
    }
}
