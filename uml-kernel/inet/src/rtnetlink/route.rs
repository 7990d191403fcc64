//! RTM_*ROUTE (ip-route(8)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::route::{Flow, Kind, Mode, Prefix, Route, TABLE_LOCAL, TABLE_MAIN};
use uml_net::stack::{Change, Stack};

use super::Request;
use crate::nlmsg::{Attrs, Message, Reply, family_of, flag, kind, nested};

const FIXED: usize = 12;
const DST: u16 = 1;
const SRC: u16 = 2;
const IIF: u16 = 3;
const OIF: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const PREFSRC: u16 = 7;
const METRICS: u16 = 8;
const MULTIPATH: u16 = 9;
const CACHEINFO: u16 = 12;
const TABLE: u16 = 15;
const MARK: u16 = 16;
const PREF: u16 = 20;
const RTAX_MTU: u16 = 2;

fn fixed(r: &Route) -> [u8; FIXED] {
    let table = u8::try_from(r.table).unwrap_or(252);
    let mut b = [0; FIXED];
    b[0] = family_of(r.dst.addr);
    b[1] = r.dst.len;
    b[3] = r.tos;
    b[4] = table;
    b[5] = r.proto;
    b[6] = r.scope;
    b[7] = r.kind as u8;
    b[8..].copy_from_slice(&r.flags.to_le_bytes());
    b
}

fn describe(m: &mut Message, r: &Route, stack: &Stack) {
    m.word(TABLE, r.table);
    if r.dst.len > 0 {
        m.ip(DST, r.dst.addr);
    }
    if r.metric != 0 {
        m.word(PRIORITY, r.metric);
    }
    if let Some(mtu) = r.mtu {
        m.put(METRICS, &nested(&[(RTAX_MTU, &mtu.to_le_bytes())]));
    }
    if let Some(p) = r.prefsrc {
        m.ip(PREFSRC, p);
    }
    if let Some(g) = r.gateway {
        m.ip(GATEWAY, g);
    }
    if r.oif != 0 {
        m.word(OIF, r.oif);
    }
    if r.dst.addr.is_ipv6() {
        let left = r.expires.map_or(0, |t| (t.since(stack.now()) / 10_000_000) as i32);
        let mut info = vec![0; 32];
        info[8..12].copy_from_slice(&left.to_le_bytes());
        m.put(CACHEINFO, &info);
        m.byte(PREF, 0);
    }
}

/// The notification of a change.
pub fn notice(k: u16, stack: &Stack, r: &Route) -> Vec<u8> {
    let mut m = Message::new(k, 0, 0, 0, &fixed(r));
    describe(&mut m, r, stack);
    m.finish()
}

pub fn get(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    let family = r.family();
    if r.dump() {
        let a = Attrs::parse(r.body, FIXED.min(r.body.len())).ok();
        let table = a.as_ref().and_then(|a| a.word(TABLE).ok().flatten());
        for o in r.stack.routes.list() {
            let wanted = (family == 0 || family == i32::from(family_of(o.dst.addr)))
                && table.is_none_or(|t| t == 0 || t == o.table);
            if wanted {
                let mut m = out.message(kind::NEWROUTE, true, &fixed(&o));
                describe(&mut m, &o, &r.stack);
                out.push(m);
            }
        }
        return Ok(());
    }
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let any: IpAddr = if family == libc::AF_INET {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let dst = a.ip(DST, family)?.unwrap_or(any);
    let f = Flow {
        dst,
        src: a.ip(SRC, family)?,
        oif: a.word(OIF)?.unwrap_or(0),
        iif: a.word(IIF)?.unwrap_or(0),
        mark: a.word(MARK)?.unwrap_or(0),
        tos: r.body[3],
    };
    let way = r.stack.route_to(&f)?;
    let found = r.stack.routes.lookup(&f);
    let mut o = Route::new(Prefix::new(dst, uml_net::route::width(dst)), way.iface.index);
    o.table = TABLE_MAIN;
    if way.kind == Kind::Local {
        (o.table, o.kind) = (TABLE_LOCAL, Kind::Local);
    } else {
        o.kind = way.kind;
    }
    o.proto = found.as_ref().map_or(0, |r| r.proto);
    o.gateway = (way.next != dst).then_some(way.next);
    o.prefsrc = Some(way.src);
    // RTM_F_CLONED
    o.flags = if dst.is_ipv4() { 0x200 } else { 0 };
    o.proto = if dst.is_ipv4() { 0 } else { o.proto };
    let mut m = out.message(kind::NEWROUTE, false, &fixed(&o));
    describe(&mut m, &o, &r.stack);
    if dst.is_ipv4() {
        m.put(CACHEINFO, &[0; 32]);
    }
    out.push(m);
    Ok(())
}

fn parse(r: &Request<'_>) -> Result<Route> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let b = r.body;
    let family = r.family();
    let any: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Err(EAFNOSUPPORT),
    };
    let dst = a.ip(DST, family)?.unwrap_or(any);
    if b[1] > uml_net::route::width(dst) || b[2] != 0 {
        return Err(EINVAL);
    }
    let prefix = Prefix::new(dst, b[1]);
    if prefix.addr != dst {
        return Err(EINVAL);
    }
    if a.get(MULTIPATH).is_some() {
        return Err(EOPNOTSUPP);
    }
    let mut n = Route::new(prefix, a.word(OIF)?.unwrap_or(0));
    n.table = a.word(TABLE)?.unwrap_or(u32::from(b[4]));
    if n.table == 0 {
        n.table = TABLE_MAIN;
    }
    (n.tos, n.proto, n.scope) = (b[3], b[5], b[6]);
    n.kind = match b[7] {
        0 => Kind::Unicast,
        k => Kind::from_number(k).ok_or(EINVAL)?,
    };
    n.gateway = a.ip(GATEWAY, family)?.filter(|g| !g.is_unspecified());
    n.prefsrc = a.ip(PREFSRC, family)?;
    n.metric = a.word(PRIORITY)?.unwrap_or(0);
    if family == libc::AF_INET6 && n.metric == 0 {
        n.metric = 1024;
    }
    // RTNH_F_ONLINK
    n.flags = u32::from_le_bytes([b[8], b[9], b[10], b[11]]) & 4;
    if let Some(m) = a.get(METRICS) {
        n.mtu = Attrs::parse(m, 0)?.word(RTAX_MTU)?;
    }
    Ok(n)
}

pub fn add(r: &Request<'_>) -> Result<()> {
    let mut n = parse(r)?;
    let stack = &r.stack;
    let sends = matches!(
        n.kind,
        Kind::Unicast | Kind::Local | Kind::Broadcast | Kind::Multicast | Kind::Anycast
    );
    if sends {
        if n.oif == 0 {
            let via = n.gateway.ok_or(ENODEV)?;
            let f = Flow { src: None, ..Flow::to(via) };
            n.oif = stack.route_to(&f).map_err(|_| ENETUNREACH)?.iface.index;
        }
        let i = stack.interface(n.oif).ok_or(ENODEV)?;
        if !i.is_up() {
            return Err(ENETDOWN);
        }
        if let Some(g) = n.gateway
            && n.flags & 4 == 0
        {
            // The gateway must be on the link.
            let f = Flow { oif: n.oif, ..Flow::to(g) };
            let near = stack.routes.lookup(&f);
            let link_local = matches!(g, IpAddr::V6(a) if uml_net::interface::is_link_local(a));
            let ok =
                near.is_ok_and(|o| o.gateway.is_none() && o.kind == Kind::Unicast) || link_local;
            if !ok {
                return Err(ENETUNREACH);
            }
        }
        if let Some(p) = n.prefsrc {
            stack.check_bindable(p, 0).map_err(|_| EINVAL)?;
        }
    } else if n.oif == 0 {
        // Routes that refuse are on the loopback for IPv6.
        n.oif = u32::from(n.dst.addr.is_ipv6());
    }
    let f = r.head.flags;
    let mode = Mode {
        create: f & flag::CREATE != 0,
        exclusive: f & flag::EXCL != 0,
        replace: f & flag::REPLACE != 0,
        append: f & flag::APPEND != 0,
    };
    stack.routes.add(n.clone(), mode)?;
    stack.announce(&Change::Route(n));
    Ok(())
}

pub fn delete(r: &Request<'_>) -> Result<()> {
    let n = parse(r)?;
    let a = Attrs::parse(r.body, FIXED)?;
    let metric = a.word(PRIORITY)?;
    let gone = r.stack.routes.remove(n.table, n.dst, |o| {
        (r.body[7] == 0 || o.kind == n.kind)
            && (n.oif == 0 || o.oif == n.oif)
            && (n.gateway.is_none() || o.gateway == n.gateway)
            && metric.is_none_or(|m| m == 0 || m == o.metric)
            && (n.prefsrc.is_none() || o.prefsrc == n.prefsrc)
            && (n.proto == 0 || o.proto == n.proto)
            && (r.body[6] == 255 || o.scope == n.scope || n.dst.addr.is_ipv6() || r.body[6] == 0)
    })?;
    r.stack.announce(&Change::RouteGone(gone));
    Ok(())
}
