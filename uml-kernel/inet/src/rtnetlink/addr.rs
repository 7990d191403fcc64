//! RTM_*ADDR: addresses (ip-address(8)).

use std::net::IpAddr;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::Time;
use uml_net::addrconf::with_dad;
use uml_net::interface::{Address, Interface, ifa};
use uml_net::stack::Stack;

use super::Request;
use crate::nlmsg::{Attrs, Message, Reply, family_of, flag, kind};

const FIXED: usize = 8;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const BROADCAST: u16 = 4;
const CACHEINFO: u16 = 6;
const FLAGS: u16 = 8;
const RT_PRIORITY: u16 = 9;
const PROTO: u16 = 11;
const SEC: u64 = 1_000_000_000;

fn fixed(i: &Interface, a: &Address) -> [u8; FIXED] {
    let mut b = [family_of(a.addr), a.prefix, a.flags as u8, a.scope, 0, 0, 0, 0];
    b[4..].copy_from_slice(&i.index.to_le_bytes());
    b
}

fn left(t: Time, now: Time) -> u32 {
    if t == Time::NEVER { u32::MAX } else { (t.since(now) / SEC) as u32 }
}

fn describe(m: &mut Message, a: &Address, now: Time) {
    if a.addr.is_ipv4() {
        m.ip(ADDRESS, a.peer.unwrap_or(a.addr));
        m.ip(LOCAL, a.addr);
        if let Some(b) = a.broadcast {
            m.ip(BROADCAST, b.into());
        }
        if let Some(l) = &a.label {
            m.text(LABEL, l);
        }
    } else {
        m.ip(ADDRESS, a.peer.unwrap_or(a.addr));
        if a.peer.is_some() {
            m.ip(LOCAL, a.addr);
        }
    }
    if a.metric != 0 {
        m.word(RT_PRIORITY, a.metric);
    }
    m.word(FLAGS, a.flags);
    if a.proto != 0 {
        m.byte(PROTO, a.proto);
    }
    let stamp = (a.created.0 / 10_000_000) as u32;
    let info = [left(a.preferred, now), left(a.valid, now), stamp, stamp];
    let b: Vec<u8> = info.iter().flat_map(|w| w.to_le_bytes()).collect();
    m.put(CACHEINFO, &b);
}

/// The notification of a change.
pub fn notice(k: u16, stack: &Stack, i: &Interface, a: &Address) -> Vec<u8> {
    let mut m = Message::new(k, 0, 0, 0, &fixed(i, a));
    describe(&mut m, a, stack.now());
    m.finish()
}

pub fn get(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    if !r.dump() {
        return Err(EOPNOTSUPP);
    }
    let family = r.family();
    // A strict dump may name an interface.
    let only = r.body.get(4..8).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    for i in r.stack.interfaces() {
        if only != 0 && i.index != only && r.body.len() >= FIXED {
            continue;
        }
        for a in i.addresses() {
            if family != 0 && family != i32::from(family_of(a.addr)) {
                continue;
            }
            let mut m = out.message(kind::NEWADDR, true, &fixed(&i, &a));
            describe(&mut m, &a, r.stack.now());
            out.push(m);
        }
    }
    Ok(())
}

struct Wanted {
    iface: Arc<Interface>,
    addr: Option<IpAddr>,
    peer: Option<IpAddr>,
    prefix: u8,
}

fn parse(r: &Request<'_>, a: &Attrs<'_>) -> Result<Wanted> {
    let b = r.body;
    let family = r.family();
    let index = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    let iface = r.stack.interface(index).ok_or(ENODEV)?;
    let (local, address) = (a.ip(LOCAL, family)?, a.ip(ADDRESS, family)?);
    let addr = local.or(address);
    let peer = address.filter(|p| local.is_some() && Some(*p) != local);
    Ok(Wanted { iface, addr, peer, prefix: b[1] })
}

pub fn add(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let w = parse(r, &a)?;
    let ip = w.addr.ok_or(EINVAL)?;
    if w.prefix > uml_net::route::width(ip) || ip.is_multicast() {
        return Err(EINVAL);
    }
    let mut n = Address::new(ip, w.prefix);
    n.peer = w.peer;
    n.scope = if ip.is_ipv4() { r.body[3] } else { n.scope };
    n.flags = a.word(FLAGS)?.unwrap_or_else(|| u32::from(r.body[2]));
    n.flags &= ifa::NODAD | ifa::NOPREFIXROUTE | ifa::MANAGETEMPADDR | 0x400;
    n.flags |= ifa::PERMANENT;
    n.metric = a.word(RT_PRIORITY)?.unwrap_or(0);
    n.proto = a.get(PROTO).and_then(|d| d.first().copied()).unwrap_or(0);
    if let Some(IpAddr::V4(b)) = a.ip(BROADCAST, r.family())? {
        n.broadcast = Some(b);
    }
    if ip.is_ipv4() {
        n.label = Some(a.text(LABEL)?.map_or_else(|| w.iface.name(), str::to_owned));
    }
    if let Some(c) = a.get(CACHEINFO) {
        let word =
            |at: usize| c.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (preferred, valid) = (word(0).ok_or(EINVAL)?, word(4).ok_or(EINVAL)?);
        if valid == 0 || preferred > valid {
            return Err(EINVAL);
        }
        let now = r.stack.now();
        let end = |s: u32| if s == u32::MAX { Time::NEVER } else { now + u64::from(s) * SEC };
        (n.preferred, n.valid) = (end(preferred), end(valid));
        if valid != u32::MAX {
            n.flags &= !ifa::PERMANENT;
        }
        if preferred == 0 {
            n.flags |= ifa::DEPRECATED;
        }
    }
    let replace = r.head.flags & flag::REPLACE != 0 && r.head.flags & flag::EXCL == 0;
    let known = w.iface.addresses().iter().any(|o| o.addr == ip && o.prefix == n.prefix);
    let n = if known { n } else { with_dad(&w.iface, n) };
    r.stack.add_address(&w.iface, n, replace)
}

pub fn delete(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let w = parse(r, &a)?;
    let found = w.iface.addresses().into_iter().find(|o| {
        i32::from(family_of(o.addr)) == r.family()
            && w.addr.is_none_or(|x| x == o.addr)
            && (w.addr.is_some_and(|x| x.is_ipv6()) || w.prefix == o.prefix || w.addr.is_none())
    });
    let o = found.ok_or(EADDRNOTAVAIL)?;
    r.stack.remove_address(&w.iface, o.addr, o.prefix)
}
