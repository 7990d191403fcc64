//! Connections for programs (NFNL_SUBSYS_CTNETLINK, conntrack(8)): listing, looking up, deleting.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::errno::*;
use uml_net::stack::Stack;
use uml_net::wire::proto;

use crate::Netfilter;
use crate::attr::{Attr, Attrs, Out, Outcome};
use crate::conntrack::{CONNECTIONS_MAX, Conn, Tuple};
use crate::dump::{self, To};
use crate::message::{flag, subsystem};
use crate::model::family;

/// IPCTNL_MSG_CT_*.
const NEW: u8 = 0;
const GET: u8 = 1;
const DELETE: u8 = 2;
const GET_CTRZERO: u8 = 3;
const GET_STATS_CPU: u8 = 4;
const GET_STATS: u8 = 5;

fn number(k: u8) -> u16 {
    u16::from(subsystem::CTNETLINK) << 8 | u16::from(k)
}

fn tuple(o: &mut Out, kind: u16, t: &Tuple) {
    o.nest(kind, |o| {
        o.nest(1, |o| match (t.src, t.dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                o.put(1, &a.octets());
                o.put(2, &b.octets());
            }
            (a, b) => {
                for (k, x) in [(3, a), (4, b)] {
                    if let IpAddr::V6(x) = x {
                        o.put(k, &x.octets());
                    }
                }
            }
        });
        o.nest(2, |o| {
            o.put(1, &[t.proto]);
            if t.is_icmp() {
                let (id, kind, code) = if t.proto == proto::ICMP { (4, 5, 6) } else { (7, 8, 9) };
                o.put(id, &t.sport.to_be_bytes());
                o.put(kind, &[t.icmp.0]);
                o.put(code, &[t.icmp.1]);
            } else if t.has_ports() {
                o.put(2, &t.sport.to_be_bytes());
                o.put(3, &t.dport.to_be_bytes());
            }
        });
    });
}

/// A connection as a message.
fn connection(k: u8, flags: u16, c: &Conn, to: To, now: uml_net::Time) -> Vec<u8> {
    let fam = if c.original.src.is_ipv6() { family::IPV6 } else { family::IPV4 };
    let mut o = dump::begin(number(k), flags, fam, To { generation: 0, ..to });
    let state = c.state();
    tuple(&mut o, 1, &c.original);
    tuple(&mut o, 2, &state.reply);
    o.be32(3, c.status());
    o.be32(7, (c.expires().since(now) / uml_net::time::SEC) as u32);
    if c.original.proto == proto::TCP {
        o.nest(4, |o| o.nest(1, |o| o.put(1, &[state.tcp.state as u8])));
    }
    o.be32(8, c.mark.load(Ordering::Relaxed));
    o.be32(12, c.id);
    o.be32(11, 1);
    dump::end(o)
}

/// Reads the tuple of a request.
fn parse(a: &Attr<'_>) -> Outcome<Tuple> {
    let x = a.nested()?;
    let ip = x.need(1)?.nested()?;
    let l4 = x.need(2)?.nested()?;
    let v4 = |k: u16| -> Outcome<Option<IpAddr>> {
        let Some(a) = ip.get(k) else { return Ok(None) };
        let b: [u8; 4] = a.data.try_into().map_err(|_| ERANGE)?;
        Ok(Some(IpAddr::V4(b.into())))
    };
    let v6 = |k: u16| -> Outcome<Option<IpAddr>> {
        let Some(a) = ip.get(k) else { return Ok(None) };
        let b: [u8; 16] = a.data.try_into().map_err(|_| ERANGE)?;
        Ok(Some(IpAddr::V6(b.into())))
    };
    let src = v4(1)?.or(v6(3)?).ok_or(EINVAL)?;
    let dst = v4(2)?.or(v6(4)?).ok_or(EINVAL)?;
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(EINVAL.into());
    }
    let number = l4.need(1)?.byte()?;
    let mut t = Tuple { src, dst, proto: number, sport: 0, dport: 0, icmp: (0, 0) };
    if t.is_icmp() {
        let (id, kind, code) = if number == proto::ICMP { (4, 5, 6) } else { (7, 8, 9) };
        let id = l4.need(id)?.be16()?;
        t.icmp = (l4.need(kind)?.byte()?, l4.need(code)?.byte()?);
        (t.sport, t.dport) = (id, id);
    } else if t.has_ports() {
        t.sport = l4.need(2)?.be16()?;
        t.dport = l4.need(3)?.be16()?;
    }
    Ok(t)
}

/// Serves a message about connections.
pub fn serve(
    nf: &Arc<Netfilter>,
    stack: &Stack,
    k: u8,
    fam: u8,
    a: &Attrs<'_>,
    dumps: bool,
    to: To,
) -> Outcome<Vec<Vec<u8>>> {
    let now = stack.now();
    let ct = &nf.conntrack;
    let wanted = |c: &Conn| {
        let of = if c.original.src.is_ipv6() { family::IPV6 } else { family::IPV4 };
        fam == family::UNSPEC || fam == of
    };
    let named = || match (a.get(1), a.get(2)) {
        (Some(t), _) | (None, Some(t)) => parse(&t).map(Some),
        (None, None) => Ok(None),
    };
    match k {
        GET | GET_CTRZERO if dumps => {
            let mark = a.be32(8)?;
            let mask = a.be32(21)?.unwrap_or(u32::MAX);
            let fits = |c: &Arc<Conn>| {
                wanted(c) && mark.is_none_or(|m| c.mark.load(Ordering::Relaxed) & mask == m & mask)
            };
            let list = ct.list(now).into_iter().filter(fits);
            Ok(list.map(|c| connection(NEW, flag::MULTI, &c, to, now)).collect())
        }
        GET | GET_CTRZERO => {
            let t = named()?.ok_or(EINVAL)?;
            let (c, _) = ct.find(&t, now).ok_or(ENOENT)?;
            Ok(vec![connection(NEW, 0, &c, to, now)])
        }
        DELETE => {
            match named()? {
                Some(t) => {
                    let (c, _) = ct.find(&t, now).ok_or(ENOENT)?;
                    if a.be32(12)?.is_some_and(|id| id != c.id) {
                        return Err(ENOENT.into());
                    }
                    ct.remove(&c);
                }
                None => ct.flush(now, wanted),
            }
            Ok(Vec::new())
        }
        GET_STATS => {
            let mut o = dump::begin(number(GET_STATS), 0, 0, To { generation: 0, ..to });
            o.be32(1, ct.len() as u32);
            o.be32(2, CONNECTIONS_MAX as u32);
            Ok(vec![dump::end(o)])
        }
        GET_STATS_CPU if dumps => Ok(Vec::new()),
        // Connections are made by packets.
        NEW => Err(EOPNOTSUPP.into()),
        _ => Err(EINVAL.into()),
    }
}
