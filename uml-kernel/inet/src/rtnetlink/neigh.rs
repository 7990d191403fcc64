//! RTM_*NEIGH (ip-neighbour(8)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::neighbour::{Info, State};
use uml_net::stack::Stack;
use uml_net::wire::ethernet::Mac;

use super::Request;
use crate::nlmsg::{Attrs, Message, Reply, family_of, flag, kind};

const FIXED: usize = 12;
const DST: u16 = 1;
const LLADDR: u16 = 2;
const CACHEINFO: u16 = 3;
const PROBES: u16 = 4;

fn fixed(n: &Info) -> [u8; FIXED] {
    let mut b = [0; FIXED];
    b[0] = family_of(n.addr);
    b[4..8].copy_from_slice(&n.iface.to_le_bytes());
    b[8..10].copy_from_slice(&(n.state as u16).to_le_bytes());
    b[10] = if n.router { 0x80 } else { 0 };
    // RTN_UNICAST
    b[11] = 1;
    b
}

fn describe(m: &mut Message, n: &Info, stack: &Stack) {
    m.ip(DST, n.addr);
    if !matches!(n.state, State::Incomplete | State::Failed) {
        m.put(LLADDR, &n.mac.0);
    }
    m.word(PROBES, n.probes);
    let now = stack.now();
    let ago = |t: uml_net::Time| (now.since(t) / 10_000_000) as u32;
    let info: Vec<u8> = [ago(n.confirmed), ago(n.used), ago(n.updated), 0]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    m.put(CACHEINFO, &info);
}

/// The notification of a change.
pub fn notice(k: u16, stack: &Stack, n: &Info) -> Vec<u8> {
    let mut m = Message::new(k, 0, 0, 0, &fixed(n));
    describe(&mut m, n, stack);
    m.finish()
}

pub fn get(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    let family = r.family();
    let list = r.stack.neighbours.list();
    if r.dump() {
        let only = r.body.get(4..8).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        for n in &list {
            let wanted = (family == 0 || family == i32::from(family_of(n.addr)))
                && (only == 0 || r.body.len() < FIXED || only == n.iface);
            if wanted {
                let mut m = out.message(kind::NEWNEIGH, true, &fixed(n));
                describe(&mut m, n, &r.stack);
                out.push(m);
            }
        }
        return Ok(());
    }
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let addr = a.ip(DST, family)?.ok_or(EINVAL)?;
    let index = u32::from_le_bytes([r.body[4], r.body[5], r.body[6], r.body[7]]);
    let n = list.iter().find(|n| n.addr == addr && n.iface == index).ok_or(ENOENT)?;
    let mut m = out.message(kind::NEWNEIGH, false, &fixed(n));
    describe(&mut m, n, &r.stack);
    out.push(m);
    Ok(())
}

pub fn add(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let addr = a.ip(DST, r.family())?.ok_or(EINVAL)?;
    let index = u32::from_le_bytes([r.body[4], r.body[5], r.body[6], r.body[7]]);
    let i = r.stack.interface(index).ok_or(ENODEV)?;
    let there = r.stack.neighbours.list().iter().any(|n| n.addr == addr && n.iface == index);
    let f = r.head.flags;
    if there && f & flag::EXCL != 0 {
        return Err(EEXIST);
    }
    if !there && f & flag::CREATE == 0 {
        return Err(ENOENT);
    }
    let state = match u16::from_le_bytes([r.body[8], r.body[9]]) {
        0x02 => State::Reachable,
        0x04 => State::Stale,
        0x20 => State::Failed,
        0x40 => State::NoArp,
        0 | 0x80 => State::Permanent,
        _ => State::Stale,
    };
    let mac = match a.get(LLADDR) {
        Some(b) => Mac(b.try_into().map_err(|_| EINVAL)?),
        None if state == State::NoArp => Mac::ZERO,
        None => return Err(EINVAL),
    };
    r.stack.enter(|cx| r.stack.neighbours.set(cx, &i, addr, mac, state));
    Ok(())
}

pub fn delete(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let addr = a.ip(DST, r.family())?.ok_or(EINVAL)?;
    let index = u32::from_le_bytes([r.body[4], r.body[5], r.body[6], r.body[7]]);
    if r.stack.neighbours.flush(&r.stack, |k| *k == (index, addr)) { Ok(()) } else { Err(ENOENT) }
}
