//! Bridges and their ports in messages (bridge(8), if_bridge.h, if_link.h).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::bridge::stp::{TICK, Timer};
use uml_net::bridge::vlans::{END, Vlans};
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
const VLAN_PROTOCOL: u16 = 8;
const VLAN_DEFAULT_PVID: u16 = 39;
/// ETH_P_8021Q.
const TAGS: u16 = 0x8100;
const MCAST_SNOOPING: u16 = 23;
/// Attributes with the values of a bridge to which nothing was done.
const BYTES: [(u16, u8); 12] = [
    // Frames and bytes of each VLAN are not counted.
    (41, 0),
    (45, 0),
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
const WORDS: [(u16, u32); 4] = [(26, 16), (27, 4096), (28, 2), (29, 2)];
/// What collects old addresses, which nothing does here, and times of multicast snooping.
const LONGS: [(u16, u64); 7] =
    [(19, 0), (30, 100), (31, 26_000), (32, 25_500), (33, 12_500), (34, 1000), (35, 3124)];

/// IFLA_INFO_DATA of a bridge.
pub fn describe(b: &Bridge, _: &Interface) -> Vec<u8> {
    let tree = b.tree();
    let (t, now) = (&tree.bridge, tree.now);
    let ticks = |ns: u64| (ns / TICK) as u32;
    nest(|m| {
        for (k, v) in LONGS {
            m.put(k, &v.to_le_bytes());
        }
        for (k, timer) in [(16, t.hello), (17, t.notification), (18, t.change)] {
            m.put(k, &timer.left(now).to_le_bytes());
        }
        m.word(FORWARD_DELAY, ticks(t.times.forward_delay));
        m.word(HELLO_TIME, ticks(t.times.hello));
        m.word(MAX_AGE, ticks(t.times.max_age));
        m.word(AGEING_TIME, ticks(b.ageing()));
        m.word(STP_STATE, u32::from(t.on));
        m.half(PRIORITY, t.priority());
        m.byte(VLAN_FILTERING, u8::from(b.filters()));
        m.put(VLAN_PROTOCOL, &TAGS.to_be_bytes());
        m.half(VLAN_DEFAULT_PVID, b.default_pvid());
        m.half(9, 0);
        m.put(10, &t.root);
        m.put(11, &t.id);
        m.half(12, t.root_port);
        m.word(13, t.root_cost);
        m.byte(14, u8::from(t.topology_change));
        m.byte(15, u8::from(t.change_detected));
        m.put(20, &[1, 0x80, 0xc2, 0, 0, 0]);
        // Boolean options: their values, and which there are. Stations learned, and how many there can be.
        m.put(46, &[0u32.to_le_bytes(), 0x1fu32.to_le_bytes()].concat());
        m.word(48, b.learned() as u32);
        m.word(49, LEARNED_MAX as u32);
        for (k, v) in BYTES {
            m.byte(k, v);
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

/// Refuses settings that would have no effect: `EOPNOTSUPP` for tags of another kind and everything of
/// multicast snooping but its being on or off (without a querier, which there is not, both flood).
pub fn check(data: &Attrs<'_>) -> Result<()> {
    for (k, d) in data.all() {
        match k {
            FORWARD_DELAY | HELLO_TIME | MAX_AGE | AGEING_TIME | STP_STATE | PRIORITY
            | VLAN_FILTERING | VLAN_DEFAULT_PVID | MCAST_SNOOPING => {
                number(d)?;
            }
            VLAN_PROTOCOL if d == TAGS.to_be_bytes() => {}
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

/// Changes a bridge: `ERANGE` for times that the standard does not allow. What comes before such a one stays changed, as on Linux.
pub fn change(b: &Bridge, data: &Attrs<'_>) -> Result<()> {
    check(data)?;
    // In this order, whatever the message's.
    for wanted in [
        FORWARD_DELAY,
        HELLO_TIME,
        MAX_AGE,
        AGEING_TIME,
        STP_STATE,
        PRIORITY,
        VLAN_FILTERING,
        VLAN_DEFAULT_PVID,
    ] {
        let Some(d) = data.get(wanted) else { continue };
        let n = number(d)?;
        let ns = u64::from(n) * TICK;
        match wanted {
            FORWARD_DELAY => b.set_times(|t| t.forward_delay = ns)?,
            HELLO_TIME => b.set_times(|t| t.hello = ns)?,
            MAX_AGE => b.set_times(|t| t.max_age = ns)?,
            AGEING_TIME => b.set_ageing(ns),
            STP_STATE => b.set_stp(n != 0),
            VLAN_FILTERING => b.set_filtering(n != 0),
            VLAN_DEFAULT_PVID => b.set_default_pvid(n as u16)?,
            _ => b.set_priority(n as u16),
        }
    }
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
    pub const OFF: [u16; 13] = [5, 6, 7, 28, 10, 12, 29, 32, 35, 36, 39, 40, 43];
    pub const MULTICAST_ROUTER: u16 = 25;
}

fn port_attributes(m: &mut Message, b: &Bridge, p: &Port) {
    let (s, now) = (&p.stp, b.tree().now);
    m.byte(port::STATE, p.state() as u8);
    m.half(port::PRIORITY, s.priority);
    m.word(port::COST, s.cost);
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
    m.put(13, &s.designated_root);
    m.put(14, &s.designated_bridge);
    m.half(15, s.designated_port);
    m.half(16, s.designated_cost as u16);
    m.half(17, s.id());
    m.half(18, s.number);
    m.byte(19, u8::from(s.acknowledge));
    m.byte(20, u8::from(s.config_pending));
    m.half(31, 0);
    let timer = |t: &Timer| t.left(now).to_le_bytes();
    m.put(21, &timer(&s.message_age));
    m.put(22, &timer(&s.forward_delay));
    m.put(23, &timer(&s.hold));
}

/// IFLA_INFO_SLAVE_DATA of a port.
pub fn describe_port(b: &Bridge, i: &Interface) -> Vec<u8> {
    nest(|m| {
        if let Some(p) = b.port(i) {
            port_attributes(m, b, &p);
        }
    })
}

/// Changes a port: `EOPNOTSUPP` for what ports do not do here, and what the bridge says of states, costs and priorities.
pub fn change_port(b: &Bridge, i: &Interface, data: &Attrs<'_>) -> Result<()> {
    let mut flags = b.port(i).ok_or(EINVAL)?.flags;
    for (k, d) in data.all() {
        let on = number(d)? != 0;
        match k {
            port::HAIRPIN => flags.hairpin = on,
            port::LEARNING => flags.learning = on,
            port::FLOOD => flags.flood = on,
            port::MCAST_FLOOD => flags.mcast_flood = on,
            port::BCAST_FLOOD => flags.bcast_flood = on,
            port::ISOLATED => flags.isolated = on,
            port::STATE | port::PRIORITY | port::COST => {}
            k if port::OFF.contains(&k) && !on => {}
            _ => return Err(EOPNOTSUPP),
        }
    }
    b.set_flags(i, flags);
    if let Some(d) = data.get(port::COST) {
        b.set_port_cost(i, number(d)?)?;
    }
    if let Some(d) = data.get(port::PRIORITY) {
        b.set_port_priority(i, number(d)?)?;
    }
    if let Some(d) = data.get(port::STATE) {
        b.set_port_state(i, number(d)?)?;
    }
    Ok(())
}

/// RTM_GETLINK of AF_BRIDGE: ports, and with their VLANs bridges, too.
pub fn links(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    if !r.dump() {
        return Err(EOPNOTSUPP);
    }
    let shown = match Attrs::parse(r.body, link::FIXED) {
        Ok(a) => a.word(EXT_MASK)?.unwrap_or(0),
        Err(_) => 0,
    };
    let vlans = shown & (EACH_VLAN | VLAN_RANGES) != 0;
    let spec = |m: &mut Message, v: &Vlans| {
        if vlans {
            m.put(AF_SPEC, &vlan_list(v, shown & VLAN_RANGES != 0));
        }
    };
    for i in r.stack.interfaces() {
        if vlans && let Some(b) = Bridge::of(&i) {
            let mut fixed = link::fixed(&i);
            fixed[0] = libc::AF_BRIDGE as u8;
            let mut m = out.message(kind::NEWLINK, true, &fixed);
            m.text(IFNAME, &i.name());
            m.word(MASTER, i.index);
            m.word(MTU, i.mtu() as u32);
            m.byte(OPERSTATE, link::operstate(&r.stack, &i));
            m.put(ADDRESS, &i.mac().0);
            spec(&mut m, &b.own_vlans());
            out.push(m);
        }
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
        spec(&mut m, &p.vlans);
        out.push(m);
    }
    Ok(())
}

/// IFLA_AF_SPEC and IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN and RTEXT_FILTER_BRVLAN_COMPRESSED.
const AF_SPEC: u16 = 26;
const EXT_MASK: u16 = 29;
const EACH_VLAN: u32 = 2;
const VLAN_RANGES: u32 = 4;
/// IFLA_BRIDGE_FLAGS: to the bridge of the port, to the interface itself.
const TO: u16 = 0;
const TO_MASTER: u16 = 1;
const TO_SELF: u16 = 2;
/// IFLA_BRIDGE_VLAN_INFO, and its BRIDGE_VLAN_INFO_*.
const VLAN_INFO: u16 = 2;
mod info {
    pub const PVID: u16 = 2;
    pub const UNTAGGED: u16 = 4;
    pub const RANGE_BEGIN: u16 = 8;
    pub const RANGE_END: u16 = 16;
}

/// `struct bridge_vlan_info` of each VLAN, or of the ends of ranges of equal ones.
fn vlan_list(v: &Vlans, ranges: bool) -> Vec<u8> {
    let flags = |vid: u16, untagged: bool| {
        let of = |bit: u16, on: bool| if on { bit } else { 0 };
        of(info::PVID, vid == v.pvid) | of(info::UNTAGGED, untagged)
    };
    let mut runs: Vec<(u16, u16, u16)> = Vec::new();
    for (vid, untagged) in v.iter() {
        let f = flags(vid, untagged);
        match runs.last_mut() {
            Some((_, last, same)) if ranges && *last + 1 == vid && *same == f => *last = vid,
            _ => runs.push((vid, vid, f)),
        }
    }
    nest(|m| {
        let mut put =
            |f: u16, vid: u16| m.put(VLAN_INFO, &[f.to_le_bytes(), vid.to_le_bytes()].concat());
        for (first, last, f) in runs {
            if first == last {
                put(f, first);
            } else {
                put(f | info::RANGE_BEGIN, first);
                put(f | info::RANGE_END, last);
            }
        }
    })
}

/// The bridge of a request about VLANs, and the port unless it is about the bridge's own: `EOPNOTSUPP` where there is neither.
fn vlans_of(i: &Arc<Interface>, to: u16) -> Result<(Arc<Bridge>, bool)> {
    if to & TO_SELF != 0 && to & TO_MASTER == 0 {
        return Ok((Bridge::shared(i).ok_or(EOPNOTSUPP)?, false));
    }
    Ok((i.bridge().ok_or(EOPNOTSUPP)?, true))
}

/// Adds or removes VLANs: `EINVAL` for impossible ones, for ranges without an end or of frames without a tag.
fn change_vlans(i: &Arc<Interface>, spec: &Attrs<'_>, add: bool) -> Result<()> {
    let to = spec.get(TO).map_or(Ok(0), number)? as u16;
    let (b, of_port) = vlans_of(i, to)?;
    let mut begun: Option<(u16, u16)> = None;
    let mut wanted = Vec::new();
    for (_, d) in spec.all().filter(|(k, _)| *k == VLAN_INFO) {
        let d: [u8; 4] = d.try_into().map_err(|_| EINVAL)?;
        let (f, vid) = (u16::from_le_bytes([d[0], d[1]]), u16::from_le_bytes([d[2], d[3]]));
        if vid == 0 || vid >= END {
            return Err(EINVAL);
        }
        if f & info::RANGE_BEGIN != 0 {
            if begun.is_some() || f & info::PVID != 0 {
                return Err(EINVAL);
            }
            begun = Some((vid, f));
        } else if let Some((first, same)) = begun.take() {
            let equal = same & !info::RANGE_BEGIN == f & !info::RANGE_END;
            if f & info::RANGE_END == 0 || vid <= first || !equal {
                return Err(EINVAL);
            }
            wanted.extend((first..=vid).map(|v| (v, f)));
        } else {
            wanted.push((vid, f));
        }
    }
    if begun.is_some() {
        return Err(EINVAL);
    }
    b.change_vlans(of_port.then_some(&**i), |v| {
        for (vid, f) in wanted {
            if add {
                v.add(vid, f & info::PVID != 0, f & info::UNTAGGED != 0);
            } else {
                v.remove(vid);
            }
        }
    })
}

/// RTM_SETLINK of AF_BRIDGE: a port's settings, and VLANs that it or a bridge becomes a member of.
pub fn set_port(r: &Request<'_>) -> Result<()> {
    if r.body.len() < link::FIXED {
        return Err(EINVAL);
    }
    let i = link::find(r)?.ok_or(ENODEV)?;
    let a = Attrs::parse(r.body, link::FIXED)?;
    let (info, spec) = (a.get(PROTINFO), a.get(AF_SPEC));
    if let Some(data) = info {
        let b = i.bridge().ok_or(EOPNOTSUPP)?;
        change_port(&b, &i, &Attrs::parse(data, 0)?)?;
    }
    match spec {
        Some(spec) => change_vlans(&i, &Attrs::parse(spec, 0)?, true),
        None if info.is_some() => Ok(()),
        None => Err(EOPNOTSUPP),
    }
}

/// RTM_DELLINK of AF_BRIDGE: VLANs that a port or a bridge is no member of any more.
pub fn leave_vlans(r: &Request<'_>) -> Result<()> {
    if r.body.len() < link::FIXED {
        return Err(EINVAL);
    }
    let i = link::find(r)?.ok_or(ENODEV)?;
    let a = Attrs::parse(r.body, link::FIXED)?;
    change_vlans(&i, &Attrs::parse(a.get(AF_SPEC).ok_or(EOPNOTSUPP)?, 0)?, false)
}

/// `struct ndmsg`.
const STATION: usize = 12;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NDA_VLAN: u16 = 5;
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
        list.retain(|(.., e)| e.iface == i.index);
        list.sort_by_key(|(m, v, e)| (e.fixed, *m, *v));
        for (mac, vid, e) in list {
            let mut m = out.message(kind::NEWNEIGH, true, &station(i.index, state(&e), 0));
            m.put(NDA_LLADDR, &mac.0);
            m.word(NDA_MASTER, end.index);
            if vid != 0 {
                m.half(NDA_VLAN, vid);
            }
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
fn named(r: &Request<'_>) -> Result<(Arc<Bridge>, Arc<Interface>, (Mac, u16))> {
    if r.body.len() < STATION {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, STATION)?;
    let index = u32::from_le_bytes([r.body[4], r.body[5], r.body[6], r.body[7]]);
    let i = r.stack.interface(index).ok_or(ENODEV)?;
    let mac = Mac(a.get(NDA_LLADDR).ok_or(EINVAL)?.try_into().map_err(|_| EINVAL)?);
    let vid = a.get(NDA_VLAN).map_or(Ok(0), number)?;
    if mac == Mac::ZERO || vid >= u32::from(END) {
        return Err(EINVAL);
    }
    let bridge = if r.body[10] & NTF_MASTER != 0 { i.bridge() } else { Bridge::shared(&i) };
    Ok((bridge.ok_or(EOPNOTSUPP)?, i, (mac, vid as u16)))
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
