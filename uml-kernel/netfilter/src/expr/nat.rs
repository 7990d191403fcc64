//! Connections in rules: their state, and how they are translated (nft(8), "CONNTRACK STATEMENT", "NAT STATEMENTS").

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_net::hook::{Hook, Track};

use super::{Expr, Names, Operation, Reg, Step};
use crate::attr::{Attrs, Out, Outcome};
use crate::conntrack::{self, Conn, Manip, NatRange, info};
use crate::machine::Machine;
use crate::model::{Base, ChainKind, Table, family};

/// NFT_CT_*.
mod key {
    pub const STATE: u32 = 0;
    pub const DIRECTION: u32 = 1;
    pub const STATUS: u32 = 2;
    pub const MARK: u32 = 3;
    pub const EXPIRATION: u32 = 5;
    pub const L3PROTOCOL: u32 = 7;
    pub const SRC: u32 = 8;
    pub const DST: u32 = 9;
    pub const PROTOCOL: u32 = 10;
    pub const PROTO_SRC: u32 = 11;
    pub const PROTO_DST: u32 = 12;
    pub const PKTS: u32 = 14;
    pub const BYTES: u32 = 15;
    pub const AVGPKT: u32 = 16;
    pub const ZONE: u32 = 17;
    pub const SRC_IP: u32 = 19;
    pub const DST_IP: u32 = 20;
    pub const SRC_IP6: u32 = 21;
    pub const DST_IP6: u32 = 22;
    pub const ID: u32 = 23;
}

/// A property of the packet's connection into a register.
struct CtGet {
    dreg: Reg,
    key: u32,
    reply: Option<bool>,
}

/// A register into a property of the connection.
struct CtSet {
    sreg: Reg,
    key: u32,
}

/// Reads `ct`.
pub fn ct(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Expr> {
    let k = a.need(2)?.be32()?;
    let reply = match a.get(3) {
        None => None,
        Some(d) => match d.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => return Err(EINVAL.into()),
        },
    };
    if let Some(s) = a.get(4) {
        // Labels, zones and event masks are not kept.
        if k != key::MARK || reply.is_some() {
            return Err(EOPNOTSUPP.into());
        }
        return Ok(Arc::new(CtSet { sreg: Reg::parse(&s, 4)?, key: k }));
    }
    let wide = if names.family == family::IPV4 { 4 } else { 16 };
    let (len, directed) = match k {
        key::STATE | key::STATUS | key::MARK | key::EXPIRATION | key::ID => (4, Some(false)),
        key::DIRECTION => (1, Some(false)),
        key::L3PROTOCOL | key::PROTOCOL => (1, None),
        key::SRC | key::DST => (wide, Some(true)),
        key::SRC_IP | key::DST_IP => (4, Some(true)),
        key::SRC_IP6 | key::DST_IP6 => (16, Some(true)),
        key::PROTO_SRC | key::PROTO_DST => (2, Some(true)),
        key::PKTS | key::BYTES | key::AVGPKT => (8, None),
        key::ZONE => (2, None),
        _ => return Err(EOPNOTSUPP.into()),
    };
    match directed {
        Some(true) if reply.is_none() => return Err(EINVAL.into()),
        Some(false) if reply.is_some() => return Err(EINVAL.into()),
        _ => {}
    }
    Ok(Arc::new(CtGet { dreg: Reg::parse(&a.need(1)?, len)?, key: k, reply }))
}

/// The state as a bit mask (NF_CT_STATE_*).
pub fn state_bit(t: &Track) -> u32 {
    match t {
        Track::None => 1,
        Track::Untracked => 64,
        Track::Conn(_, how) => 1 << (how % info::REPLY + 1),
    }
}

impl CtGet {
    fn get(&self, m: &mut Machine<'_>, c: &Conn, how: u8) -> bool {
        let tuple = c.tuple(self.reply.unwrap_or(false));
        let direction = how >= info::REPLY;
        let address = |m: &mut Machine<'_>, a: IpAddr| match a {
            IpAddr::V4(a) => m.store(self.dreg, &a.octets()),
            IpAddr::V6(a) => m.store(self.dreg, &a.octets()),
        };
        let counted = |bytes: bool| {
            let each = c.counters.iter().map(|c| if bytes { c.get().1 } else { c.get().0 });
            match self.reply {
                Some(r) => each.clone().nth(usize::from(r)).unwrap_or(0),
                None => each.sum(),
            }
        };
        match self.key {
            key::DIRECTION => m.store(self.dreg, &[direction.into()]),
            key::STATUS => m.store(self.dreg, &c.status().to_ne_bytes()),
            key::MARK => m.store(self.dreg, &c.mark.load(Ordering::Relaxed).to_ne_bytes()),
            key::EXPIRATION => {
                let ms = c.expires().since(m.now()) / uml_net::time::MS;
                m.store(self.dreg, &(ms as u32).to_ne_bytes());
            }
            key::ID => m.store(self.dreg, &c.id.to_ne_bytes()),
            key::L3PROTOCOL => {
                let f = if tuple.src.is_ipv6() { family::IPV6 } else { family::IPV4 };
                m.store(self.dreg, &[f]);
            }
            key::PROTOCOL => m.store(self.dreg, &[tuple.proto]),
            key::SRC => address(m, tuple.src),
            key::DST => address(m, tuple.dst),
            key::SRC_IP | key::DST_IP | key::SRC_IP6 | key::DST_IP6 => {
                let a = if matches!(self.key, key::SRC_IP | key::SRC_IP6) {
                    tuple.src
                } else {
                    tuple.dst
                };
                if a.is_ipv6() != matches!(self.key, key::SRC_IP6 | key::DST_IP6) {
                    return false;
                }
                address(m, a);
            }
            key::PROTO_SRC => m.store(self.dreg, &tuple.sport.to_be_bytes()),
            key::PROTO_DST => m.store(self.dreg, &tuple.dport.to_be_bytes()),
            key::PKTS => m.store(self.dreg, &counted(false).to_ne_bytes()),
            key::BYTES => m.store(self.dreg, &counted(true).to_ne_bytes()),
            key::AVGPKT => {
                let n = counted(true).checked_div(counted(false)).unwrap_or(0);
                m.store(self.dreg, &n.to_ne_bytes());
            }
            key::ZONE => m.store(self.dreg, &[0, 0]),
            _ => return false,
        }
        true
    }
}

impl Operation for CtGet {
    fn name(&self) -> &'static str {
        "ct"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, self.dreg.number());
        o.be32(2, self.key);
        if let Some(r) = self.reply {
            o.put(3, &[r.into()]);
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if self.key == key::STATE {
            let bit = state_bit(&m.p.track);
            m.store(self.dreg, &bit.to_ne_bytes());
            return Step::Next;
        }
        let Some((c, how)) = conntrack::of(m.p) else { return Step::Break };
        if self.get(m, &c, how) { Step::Next } else { Step::Break }
    }

    fn tracks(&self) -> bool {
        true
    }
}

impl Operation for CtSet {
    fn name(&self) -> &'static str {
        "ct"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(4, self.sreg.number());
        o.be32(2, self.key);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if let Some((c, _)) = conntrack::of(m.p) {
            let b = m.load(self.sreg, 4);
            c.mark.store(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]), Ordering::Relaxed);
        }
        Step::Next
    }

    fn tracks(&self) -> bool {
        true
    }
}

/// The packet belongs to no connection.
pub struct Notrack;

impl Operation for Notrack {
    fn name(&self) -> &'static str {
        "notrack"
    }

    fn dump(&self, _: &mut Out, _: &Table) {}

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if matches!(m.p.track, Track::None) {
            m.p.track = Track::Untracked;
        }
        Step::Next
    }
}

/// Connections counted at once; beyond that a packet counts as one too many.
const COUNTED_MAX: usize = 65_536;

/// How many of the connections that came by are still open (`ct count`).
pub struct Connlimit {
    limit: u32,
    over: bool,
    open: Mutex<Vec<Weak<Conn>>>,
}

impl Connlimit {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Connlimit> {
        let limit = a.need(1)?.be32()?;
        match a.be32(2)?.unwrap_or(0) {
            f @ (0 | 1) => Ok(Connlimit::new(limit, f == 1)),
            _ => Err(EOPNOTSUPP.into()),
        }
    }

    fn new(limit: u32, over: bool) -> Connlimit {
        Connlimit { limit, over, open: Mutex::new(Rank::LEAF, Vec::new()) }
    }
}

impl Operation for Connlimit {
    fn name(&self) -> &'static str {
        "connlimit"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, self.limit);
        o.be32(2, self.over.into());
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let Some((c, _)) = conntrack::of(m.p) else { return Step::Break };
        let now = m.now();
        let n = {
            let mut open = self.open.lock();
            // What was dropped or is over has gone.
            open.retain(|w| w.upgrade().is_some_and(|o| o.is_open(now)));
            let known = open.iter().any(|w| std::ptr::eq(w.as_ptr(), &*c));
            if !known && open.len() < COUNTED_MAX {
                open.push(Arc::downgrade(&c));
            }
            open.len()
        };
        let too_many = n > self.limit as usize;
        if too_many == self.over { Step::Next } else { Step::Break }
    }

    fn tracks(&self) -> bool {
        true
    }

    fn fresh(&self) -> Option<Expr> {
        Some(Arc::new(Connlimit::new(self.limit, self.over)))
    }
}

/// Translation in nat chains only, at these hooks: `EOPNOTSUPP`.
pub fn only_at(base: &Base, hooks: &[Hook]) -> Result<()> {
    if base.kind == ChainKind::Nat && hooks.iter().any(|h| *h as u32 == base.hook) {
        Ok(())
    } else {
        Err(EOPNOTSUPP)
    }
}

/// Decides about the packet's connection and accepts it.
pub fn decide(m: &mut Machine<'_>, manip: Manip, r: &NatRange) -> Step {
    let Some((c, _)) = conntrack::of(m.p) else { return Step::Drop };
    let ct = m.conntrack();
    if ct.decide(m.cx, &c, manip, r) { Step::Accept } else { Step::Drop }
}

/// An address in a register.
fn address(m: &Machine<'_>, r: Reg, v6: bool) -> IpAddr {
    if v6 {
        let mut b = [0; 16];
        b.copy_from_slice(m.load(r, 16));
        IpAddr::V6(b.into())
    } else {
        let b = m.load(r, 4);
        IpAddr::V4([b[0], b[1], b[2], b[3]].into())
    }
}

fn ports(m: &Machine<'_>, r: Option<(Reg, Reg)>) -> Option<(u16, u16)> {
    let port = |r: Reg| {
        let b = m.load(r, 2);
        u16::from_be_bytes([b[0], b[1]])
    };
    r.map(|(a, b)| (port(a), port(b)))
}

/// Two registers, of which the second is the first when it is not named.
fn pair(a: &Attrs<'_>, min: u16, max: u16, len: usize) -> Outcome<Option<(Reg, Reg)>> {
    let Some(lo) = a.get(min) else { return Ok(None) };
    let lo = Reg::parse(&lo, len)?;
    let hi = a.get(max).map(|h| Reg::parse(&h, len)).transpose()?.unwrap_or(lo);
    Ok(Some((lo, hi)))
}

/// Flags that messages may carry (NF_NAT_RANGE_MASK).
const FLAGS: u32 = 0x7f;

/// Source and destination translation to addresses in registers.
pub struct Nat {
    manip: Manip,
    family: u8,
    addresses: Option<(Reg, Reg)>,
    ports: Option<(Reg, Reg)>,
    flags: u32,
}

impl Nat {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Nat> {
        let manip = match a.need(1)?.be32()? {
            0 => Manip::Src,
            1 => Manip::Dst,
            _ => return Err(EOPNOTSUPP.into()),
        };
        let fam = a.need(2)?.be32()? as u8;
        if names.family != family::INET && names.family != fam {
            return Err(EOPNOTSUPP.into());
        }
        let len = match fam {
            family::IPV4 => 4,
            family::IPV6 => 16,
            family::INET if a.get(3).is_none() => 4,
            _ => return Err(EAFNOSUPPORT.into()),
        };
        let addresses = pair(a, 3, 4, len)?;
        let ports = pair(a, 5, 6, 2)?;
        let mut flags = a.be32(7)?.unwrap_or(0);
        if flags & !FLAGS != 0 {
            return Err(EOPNOTSUPP.into());
        }
        flags |= u32::from(addresses.is_some()) | u32::from(ports.is_some()) << 1;
        Ok(Nat { manip, family: fam, addresses, ports, flags })
    }
}

impl Operation for Nat {
    fn name(&self) -> &'static str {
        "nat"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, u32::from(self.manip == Manip::Dst));
        o.be32(2, self.family.into());
        if let Some((a, b)) = self.addresses {
            o.be32(3, a.number());
            o.be32(4, b.number());
        }
        if let Some((a, b)) = self.ports {
            o.be32(5, a.number());
            o.be32(6, b.number());
        }
        if self.flags != 0 {
            o.be32(7, self.flags);
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if self.family != family::INET && self.family != m.family() {
            return Step::Break;
        }
        let v6 = self.family == family::IPV6;
        let r = NatRange {
            addresses: self.addresses.map(|(a, b)| (address(m, a, v6), address(m, b, v6))),
            ports: ports(m, self.ports),
            flags: self.flags,
        };
        decide(m, self.manip, &r)
    }

    fn allowed(&self, base: &Base, _: u8) -> Result<()> {
        match self.manip {
            Manip::Src => only_at(base, &[Hook::Postrouting, Hook::Input]),
            Manip::Dst => only_at(base, &[Hook::Prerouting, Hook::Output]),
        }
    }

    fn tracks(&self) -> bool {
        true
    }
}

/// The source becomes the address of the interface that the packet leaves by.
pub struct Masq {
    ports: Option<(Reg, Reg)>,
    flags: u32,
}

impl Masq {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Masq> {
        let flags = a.be32(1)?.unwrap_or(0);
        if flags & !FLAGS != 0 {
            return Err(EOPNOTSUPP.into());
        }
        Ok(Masq { ports: pair(a, 2, 3, 2)?, flags })
    }
}

/// Masquerades a connection.
pub fn masquerade(m: &mut Machine<'_>, ports: Option<(u16, u16)>, flags: u32) -> Step {
    let Some((c, _)) = conntrack::of(m.p) else { return Step::Drop };
    let Some(oif) = m.oif else { return Step::Drop };
    let dst = c.tuple(true).src;
    let stack = m.cx.stack().clone();
    let Some(a) = stack.source_for(oif, dst, dst) else { return Step::Drop };
    c.masquerade.store(oif.index, Ordering::Relaxed);
    decide(m, Manip::Src, &NatRange { addresses: Some((a, a)), ports, flags })
}

impl Operation for Masq {
    fn name(&self) -> &'static str {
        "masq"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        if self.flags != 0 {
            o.be32(1, self.flags);
        }
        if let Some((a, b)) = self.ports {
            o.be32(2, a.number());
            o.be32(3, b.number());
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let ports = ports(m, self.ports);
        masquerade(m, ports, self.flags)
    }

    fn allowed(&self, base: &Base, _: u8) -> Result<()> {
        only_at(base, &[Hook::Postrouting])
    }

    fn tracks(&self) -> bool {
        true
    }
}

/// The destination becomes this host.
pub struct Redir {
    ports: Option<(Reg, Reg)>,
    flags: u32,
}

impl Redir {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Redir> {
        let ports = pair(a, 1, 2, 2)?;
        let flags = a.be32(3)?.unwrap_or(0) | u32::from(ports.is_some()) << 1;
        if flags & !FLAGS != 0 { Err(EOPNOTSUPP.into()) } else { Ok(Redir { ports, flags }) }
    }
}

/// Redirects a connection to this host.
pub fn redirect(m: &mut Machine<'_>, ports: Option<(u16, u16)>, flags: u32) -> Step {
    let v6 = m.parsed.v6;
    let here = match (m.hook, m.iif) {
        (Hook::Output, _) => Some(if v6 {
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
        } else {
            IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
        }),
        (_, Some(i)) => i.with_addresses(|l| {
            let mut fit = l.iter().filter(|a| a.addr.is_ipv6() == v6 && a.usable());
            // One that the client can reach: not a link-local one if there is another.
            fit.clone()
                .find(|a| a.scope == uml_net::interface::scope::UNIVERSE)
                .or_else(|| fit.next())
                .map(|a| a.addr)
        }),
        _ => None,
    };
    let Some(a) = here else { return Step::Drop };
    decide(m, Manip::Dst, &NatRange { addresses: Some((a, a)), ports, flags })
}

impl Operation for Redir {
    fn name(&self) -> &'static str {
        "redir"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        if let Some((a, b)) = self.ports {
            o.be32(1, a.number());
            o.be32(2, b.number());
        }
        if self.flags != 0 {
            o.be32(3, self.flags);
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let ports = ports(m, self.ports);
        redirect(m, ports, self.flags)
    }

    fn allowed(&self, base: &Base, _: u8) -> Result<()> {
        only_at(base, &[Hook::Prerouting, Hook::Output])
    }

    fn tracks(&self) -> bool {
        true
    }
}
