//! Bridges and their ports in messages (bridge(8), if_bridge.h, if_link.h).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::bridge::{Bridge, Entry, LEARNED_MAX, Port};
use uml_net::interface::Interface;
use uml_net::wire::ethernet::Mac;

use super::Request;
use super::link::{self, ADDRESS, IFNAME, LINK, MASTER, MTU, OPERSTATE};
use crate::nlmsg::{Attrs, Message, NESTED, Reply, flag, kind, nest};

const PROTINFO: u16 = 12;
/// IFLA_BR_*.
const FORWARD_DELAY: u16 = 1;
const HELLO_TIME: u16 = 2;
const MAX_AGE: u16 = 3;
const AGEING_TIME: u16 = 4;
const STP_STATE: u16 = 5;
const PRIORITY: u16 = 6;
const VLAN_FILTERING: u16 = 7;
const MCAST_SNOOPING: u16 = 23;
/// Nanoseconds of a clock tick in the messages.
const TICK: u64 = 10_000_000;
/// Attributes with the values of a bridge to which nothing was done.
const BYTES: [(u16, u8); 14] = [
    (STP_STATE, 0),
    (VLAN_FILTERING, 0),
    (14, 0),
    (15, 0),
    (22, 1),
    (MCAST_SNOOPING, 1),
    (24, 0),
    (25, 0),
    (42, 0),
    (43, 2),
    (44, 1),
    (36, 0),
    (37, 0),
    (38, 0),
];
const WORDS: [(u16, u32); 5] = [(13, 0), (26, 16), (27, 4096), (28, 2), (29, 2)];
/// Timers, and times of multicast snooping.
const LONGS: [(u16, u64); 10] = [
    (16, 0),
    (17, 0),
    (18, 0),
    (19, 0),
    (30, 100),
    (31, 26_000),
    (32, 25_500),
    (33, 12_500),
    (34, 1000),
    (35, 3124),
];

/// Priority and address, as in the protocol's messages.
fn bridge_id(b: &Bridge) -> Vec<u8> {
    let mut id = b.times().priority.to_be_bytes().to_vec();
    id.extend_from_slice(&b.end().map_or(Mac::ZERO, |(i, _)| i.mac()).0);
    id
}

/// IFLA_INFO_DATA of a bridge.
pub fn describe(b: &Bridge, _: &Interface) -> Vec<u8> {
    let t = b.times();
    nest(|m| {
        for (k, v) in LONGS {
            m.put(k, &v.to_le_bytes());
        }
        m.word(FORWARD_DELAY, t.forward_delay);
        m.word(HELLO_TIME, t.hello);
        m.word(MAX_AGE, t.max_age);
        m.word(AGEING_TIME, (b.ageing() / TICK) as u32);
        m.word(STP_STATE, 0);
        m.half(PRIORITY, t.priority);
        m.half(9, 0);
        m.put(10, &bridge_id(b));
        m.put(11, &bridge_id(b));
        m.half(12, 0);
        m.put(20, &[1, 0x80, 0xc2, 0, 0, 0]);
        // Boolean options: their values, and which there are. Stations learned, and how many there can be.
        m.put(46, &[0u32.to_le_bytes(), 0x1fu32.to_le_bytes()].concat());
        m.word(48, b.learned() as u32);
        m.word(49, LEARNED_MAX as u32);
        for (k, v) in &BYTES[1..] {
            m.byte(*k, *v);
        }
        for (k, v) in WORDS {
            m.word(k, v);
        }
    })
}

/// A number of one, two or four bytes.
fn number(d: &[u8]) -> Result<u32> {
    match *d {
        [a] => Ok(u32::from(a)),
        [a, b] => Ok(u32::from(u16::from_le_bytes([a, b]))),
        [a, b, c, d] => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err(EINVAL),
    }
}

/// Refuses settings that would have no effect: `EOPNOTSUPP` for the spanning tree, VLAN filtering and everything of
/// multicast snooping but its being on or off (without a querier, which there is not, both flood).
pub fn check(data: &Attrs<'_>) -> Result<()> {
    for (k, d) in data.all() {
        match k {
            FORWARD_DELAY | HELLO_TIME | MAX_AGE | AGEING_TIME | PRIORITY | MCAST_SNOOPING => {
                number(d)?;
            }
            _ => {
                let usual = BYTES.iter().find(|(b, _)| *b == k).map(|(_, v)| u32::from(*v));
                let usual = usual.or(WORDS.iter().find(|(b, _)| *b == k).map(|(_, v)| *v));
                if usual.is_none() || usual != number(d).ok() {
                    return Err(EOPNOTSUPP);
                }
            }
        }
    }
    Ok(())
}

/// Changes a bridge.
pub fn change(b: &Bridge, data: &Attrs<'_>) -> Result<()> {
    check(data)?;
    let mut t = b.times();
    for (k, d) in data.all() {
        let n = number(d)?;
        match k {
            FORWARD_DELAY => t.forward_delay = n,
            HELLO_TIME => t.hello = n,
            MAX_AGE => t.max_age = n,
            AGEING_TIME => b.set_ageing(u64::from(n) * TICK),
            PRIORITY => t.priority = n as u16,
            _ => {}
        }
    }
    b.set_times(t);
    Ok(())
}

/// IFLA_BRPORT_*.
mod port {
    pub const STATE: u16 = 1;
    pub const PRIORITY: u16 = 2;
    pub const COST: u16 = 3;
    pub const HAIRPIN: u16 = 4;
    pub const LEARNING: u16 = 8;
    pub const FLOOD: u16 = 9;
    pub const MCAST_FLOOD: u16 = 27;
    pub const BCAST_FLOOD: u16 = 30;
    pub const ISOLATED: u16 = 33;
    /// What is off and stays so.
    pub const OFF: [u16; 15] = [5, 6, 7, 28, 10, 12, 19, 20, 29, 32, 35, 36, 39, 40, 43];
    pub const MULTICAST_ROUTER: u16 = 25;
}

fn port_attributes(m: &mut Message, b: &Bridge, p: &Port) {
    let id = bridge_id(b);
    // Four bits of priority, the number.
    let number = (p.priority >> 2) << 12 | p.number;
    m.byte(port::STATE, p.state());
    m.half(port::PRIORITY, p.priority);
    m.word(port::COST, p.cost);
    for (k, on) in [
        (port::HAIRPIN, p.flags.hairpin),
        (port::LEARNING, p.flags.learning),
        (port::FLOOD, p.flags.flood),
        (port::MCAST_FLOOD, p.flags.mcast_flood),
        (port::BCAST_FLOOD, p.flags.bcast_flood),
        (port::ISOLATED, p.flags.isolated),
    ] {
        m.byte(k, u8::from(on));
    }
    for k in port::OFF {
        m.byte(k, 0);
    }
    m.byte(port::MULTICAST_ROUTER, 1);
    m.put(13, &id);
    m.put(14, &id);
    m.half(15, number);
    m.half(16, 0);
    m.half(17, number);
    m.half(18, p.number);
    m.half(31, 0);
    for timer in 21..=23 {
        m.put(timer, &[0; 8]);
    }
}

/// IFLA_INFO_SLAVE_DATA of a port.
pub fn describe_port(b: &Bridge, i: &Interface) -> Vec<u8> {
    nest(|m| {
        if let Some(p) = b.port(i) {
            port_attributes(m, b, &p);
        }
    })
}

/// Changes a port: `EOPNOTSUPP` for what ports do not do here.
pub fn change_port(b: &Bridge, i: &Interface, data: &Attrs<'_>) -> Result<()> {
    let mut p = b.port(i).ok_or(EINVAL)?;
    for (k, d) in data.all() {
        let n = number(d)?;
        let on = n != 0;
        match k {
            port::HAIRPIN => p.flags.hairpin = on,
            port::LEARNING => p.flags.learning = on,
            port::FLOOD => p.flags.flood = on,
            port::MCAST_FLOOD => p.flags.mcast_flood = on,
            port::BCAST_FLOOD => p.flags.bcast_flood = on,
            port::ISOLATED => p.flags.isolated = on,
            port::PRIORITY if n < 64 => p.priority = n as u16,
            port::COST if n > 0 => p.cost = n,
            port::PRIORITY | port::COST => return Err(ERANGE),
            k if port::OFF.contains(&k) && !on => {}
            _ => return Err(EOPNOTSUPP),
        }
    }
    b.set_port(i, |o| *o = p);
    Ok(())
}

/// RTM_GETLINK of AF_BRIDGE: ports.
pub fn links(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    if !r.dump() {
        return Err(EOPNOTSUPP);
    }
    for i in r.stack.interfaces() {
        let Some(b) = i.bridge() else { continue };
        let (Some((own, _)), Some(p)) = (b.end(), b.port(&i)) else { continue };
        let mut fixed = link::fixed(&i);
        fixed[0] = libc::AF_BRIDGE as u8;
        let mut m = out.message(kind::NEWLINK, true, &fixed);
        m.text(IFNAME, &i.name());
        m.word(MASTER, own.index);
        m.word(MTU, i.mtu() as u32);
        m.byte(OPERSTATE, link::operstate(&r.stack, &i));
        m.put(ADDRESS, &i.mac().0);
        if let Some((lower, _)) = i.device.lower() {
            m.word(LINK, lower.index);
        }
        m.put(PROTINFO | NESTED, &nest(|m| port_attributes(m, &b, &p)));
        out.push(m);
    }
    Ok(())
}

/// RTM_SETLINK of AF_BRIDGE: a port's settings.
pub fn set_port(r: &Request<'_>) -> Result<()> {
    if r.body.len() < link::FIXED {
        return Err(EINVAL);
    }
    let i = link::find(r)?.ok_or(ENODEV)?;
    let a = Attrs::parse(r.body, link::FIXED)?;
    let data = Attrs::parse(a.get(PROTINFO).ok_or(EOPNOTSUPP)?, 0)?;
    let b = i.bridge().ok_or(EOPNOTSUPP)?;
    change_port(&b, &i, &data)
}

/// `struct ndmsg`.
const STATION: usize = 12;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NDA_MASTER: u16 = 9;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_SELF: u8 = 2;
const NTF_MASTER: u8 = 4;
const NUD_REACHABLE: u16 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

fn station(index: u32, state: u16, flags: u8) -> [u8; STATION] {
    let mut b = [0; STATION];
    b[0] = libc::AF_BRIDGE as u8;
    b[4..8].copy_from_slice(&index.to_le_bytes());
    b[8..10].copy_from_slice(&state.to_le_bytes());
    b[10] = flags;
    b
}

/// RTM_GETNEIGH of AF_BRIDGE: stations of bridges, and addresses that interfaces listen to.
pub fn stations(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    if !r.dump() {
        return Err(EOPNOTSUPP);
    }
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let device = r.body.get(4..8).map_or(0, word);
    let master = match Attrs::parse(r.body, STATION) {
        Ok(a) => a.word(NDA_MASTER)?.unwrap_or(0),
        Err(_) => 0,
    };
    let now = r.stack.now();
    for i in r.stack.interfaces() {
        if device != 0 && device != i.index {
            continue;
        }
        let own = Bridge::shared(&i);
        let bridge = i.bridge().or(own.clone());
        let Some((end, _)) = bridge.as_ref().and_then(|b| b.end()) else {
            if master == 0 {
                groups(&i, out);
            }
            continue;
        };
        if master != 0 && master != end.index {
            continue;
        }
        if own.is_some() {
            groups(&i, out);
        }
        let mut list = bridge.map(|b| b.entries(now)).unwrap_or_default();
        list.retain(|(_, e)| e.iface == i.index);
        list.sort_by_key(|(m, e)| (e.fixed, *m));
        for (mac, e) in list {
            let mut m = out.message(kind::NEWNEIGH, true, &station(i.index, state(&e), 0));
            m.put(NDA_LLADDR, &mac.0);
            m.word(NDA_MASTER, end.index);
            m.word(NDA_FLAGS_EXT, 0);
            let ago = |t: uml_net::Time| (now.since(t) / TICK) as u32;
            let times = [0, ago(e.used), ago(e.updated), 0];
            m.put(NDA_CACHEINFO, &times.map(u32::to_le_bytes).concat());
            out.push(m);
        }
        if own.is_none() {
            groups(&i, out);
        }
    }
    Ok(())
}

fn state(e: &Entry) -> u16 {
    match (e.local, e.fixed) {
        (true, _) => NUD_PERMANENT,
        (false, true) => NUD_NOARP,
        (false, false) => NUD_REACHABLE,
    }
}

fn groups(i: &Interface, out: &mut Reply) {
    let mut all: Vec<Mac> = i
        .joined()
        .into_iter()
        .map(|(a, _)| match a {
            std::net::IpAddr::V4(a) => Mac::of_group_v4(a),
            std::net::IpAddr::V6(a) => Mac::of_group_v6(a),
        })
        .collect();
    all.dedup();
    for mac in all {
        let mut m = out.message(kind::NEWNEIGH, true, &station(i.index, NUD_PERMANENT, NTF_SELF));
        m.put(NDA_LLADDR, &mac.0);
        out.push(m);
    }
}

/// The bridge, port and station of a request about one: only the bridge's table can be changed.
fn named(r: &Request<'_>) -> Result<(Arc<Bridge>, Arc<Interface>, Mac)> {
    if r.body.len() < STATION {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, STATION)?;
    let index = u32::from_le_bytes([r.body[4], r.body[5], r.body[6], r.body[7]]);
    let i = r.stack.interface(index).ok_or(ENODEV)?;
    let mac = Mac(a.get(NDA_LLADDR).ok_or(EINVAL)?.try_into().map_err(|_| EINVAL)?);
    if mac == Mac::ZERO {
        return Err(EINVAL);
    }
    let bridge = if r.body[10] & NTF_MASTER != 0 { i.bridge() } else { Bridge::shared(&i) };
    Ok((bridge.ok_or(EOPNOTSUPP)?, i, mac))
}

/// RTM_NEWNEIGH of AF_BRIDGE.
pub fn enter(r: &Request<'_>) -> Result<()> {
    let (b, i, mac) = named(r)?;
    let state = u16::from_le_bytes([r.body[8], r.body[9]]);
    let fixed = state & (NUD_NOARP | NUD_PERMANENT) != 0;
    let local = state & NUD_PERMANENT != 0;
    let f = r.head.flags;
    if f & flag::CREATE == 0 && f & flag::REPLACE == 0 {
        return Err(ENOENT);
    }
    b.enter(mac, i.index, (fixed, local), f & flag::EXCL != 0, r.stack.now())
}

/// RTM_DELNEIGH of AF_BRIDGE.
pub fn forget(r: &Request<'_>) -> Result<()> {
    let (b, i, mac) = named(r)?;
    b.forget(mac, i.index)
}
