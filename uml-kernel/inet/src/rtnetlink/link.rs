//! RTM_*LINK: interfaces (ip-link(8)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::bridge::Bridge;
use uml_net::interface::{Interface, Link, iff};
use uml_net::stack::Stack;
use uml_net::tap::hardware_type;
use uml_net::vlan::Vlan;
use uml_net::wire::ethernet::Mac;

use super::{Request, bridge, create, netns};
use crate::nlmsg::{Attrs, Message, Reply, flag, kind, nest, nested};

/// `struct ifinfomsg`.
pub(super) const FIXED: usize = 16;
pub(super) const ADDRESS: u16 = 1;
const BROADCAST: u16 = 2;
pub(super) const IFNAME: u16 = 3;
pub(super) const MTU: u16 = 4;
pub(super) const LINK: u16 = 5;
const QDISC: u16 = 6;
const STATS: u16 = 7;
pub(super) const MASTER: u16 = 10;
const TXQLEN: u16 = 13;
pub(super) const OPERSTATE: u16 = 16;
const LINKMODE: u16 = 17;
pub(super) const LINKINFO: u16 = 18;
const IFALIAS: u16 = 20;
const STATS64: u16 = 23;
const GROUP: u16 = 27;
const PROMISCUITY: u16 = 30;
const NUM_TX_QUEUES: u16 = 31;
const NUM_RX_QUEUES: u16 = 32;
const CARRIER: u16 = 33;
const MIN_MTU: u16 = 50;
const MAX_MTU: u16 = 51;
const LINK_NETNSID: u16 = 37;
const ALLMULTI: u16 = 61;
const PROP_LIST: u16 = 52;
const ALT_IFNAME: u16 = 53;
pub(super) const INFO_KIND: u16 = 1;
pub(super) const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const TSO_MAX_SIZE: u16 = 59;
const TSO_ALONE: u32 = 65_536;
/// IFLA_GSO_MAX_SEGS and so on: super-segments of 64 KiB, and what Linux says when nothing is set.
const SEGMENTS: [(u16, u32); 7] = [
    (40, 65_535),
    (41, 65_536),
    (58, 65_536),
    (TSO_MAX_SIZE, 524_280),
    (60, 65_535),
    (63, 65_536),
    (64, 65_536),
];
const AF_SPEC: u16 = 26;

/// `struct ifinfomsg`.
pub(super) fn fixed(i: &Interface) -> [u8; FIXED] {
    let mut b = [0; FIXED];
    b[2..4].copy_from_slice(&hardware_type(i.link).to_le_bytes());
    b[4..8].copy_from_slice(&i.index.to_le_bytes());
    b[8..12].copy_from_slice(&i.shown_flags().to_le_bytes());
    b
}

/// IF_OPER_* (RFC 2863).
pub(crate) fn operstate(stack: &Stack, i: &Interface) -> u8 {
    const UNKNOWN: u8 = 0;
    const DOWN: u8 = 2;
    const LOWER_LAYER_DOWN: u8 = 3;
    const UP: u8 = 6;
    if !i.is_up() {
        return DOWN;
    }
    // Loopback, point-to-point links and what leads nowhere have no state to speak of.
    if i.link != Link::Ethernet || i.device.kind() == "dummy" {
        return UNKNOWN;
    }
    if i.has_carrier() {
        return UP;
    }
    // Only of an interface in the same namespace it is known that it is the reason.
    match i.device.lower() {
        Some((l, other)) if std::ptr::eq(&*other, stack) && !l.has_carrier() => LOWER_LAYER_DOWN,
        _ => DOWN,
    }
}

/// Everything about an interface.
pub fn describe(m: &mut Message, stack: &Stack, i: &Interface) {
    m.text(IFNAME, &i.name());
    m.word(TXQLEN, i.tx_queue_len.load(Ordering::Relaxed) as u32);
    m.byte(OPERSTATE, operstate(stack, i));
    m.byte(LINKMODE, 0);
    m.word(MTU, i.mtu() as u32);
    m.word(MIN_MTU, if i.link == Link::Ethernet { 68 } else { 0 });
    m.word(MAX_MTU, if i.link == Link::Ethernet { i.max_mtu as u32 } else { 0 });
    m.word(GROUP, i.group.load(Ordering::Relaxed));
    m.word(PROMISCUITY, i.promisc.load(Ordering::Relaxed));
    m.word(ALLMULTI, u32::from(i.bridge().is_some()));
    m.word(NUM_TX_QUEUES, 1);
    m.word(NUM_RX_QUEUES, 1);
    // A bridge takes what its ports can take.
    let alone = Bridge::of(i).is_some_and(|b| b.ports().is_empty());
    for (kind, v) in SEGMENTS {
        m.word(kind, if kind == TSO_MAX_SIZE && alone { TSO_ALONE } else { v });
    }
    m.byte(CARRIER, u8::from(i.has_carrier()));
    // What leads to a device of the host has a queue that can be full.
    let virtual_ = i.link != Link::Ethernet || !i.device.kind().is_empty();
    m.text(
        QDISC,
        match (i.was_up(), virtual_) {
            (false, _) => "noop",
            (true, true) => "noqueue",
            (true, false) => "fq_codel",
        },
    );
    if let Some((lower, other)) = i.device.lower() {
        m.word(LINK, lower.index);
        if !std::ptr::eq(&*other, stack) {
            m.word(LINK_NETNSID, stack.number_of(&other) as u32);
        }
    }
    if let Some((b, _)) = i.bridge().and_then(|b| b.end()) {
        m.word(MASTER, b.index);
    }
    if i.link != Link::None {
        m.put(ADDRESS, &i.mac().0);
        let all = if i.link == Link::Ethernet { Mac::BROADCAST } else { Mac::ZERO };
        m.put(BROADCAST, &all.0);
    }
    let alias = i.alias.lock().clone();
    if !alias.is_empty() {
        m.text(IFALIAS, &alias);
    }
    let others = i.alt_names();
    if !others.is_empty() {
        m.put(PROP_LIST, &nest(|m| others.iter().for_each(|n| m.text(ALT_IFNAME, n))));
    }
    let c = &i.counters;
    let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
    let mut stats = vec![
        n(&c.rx_packets),
        n(&c.tx_packets),
        n(&c.rx_bytes),
        n(&c.tx_bytes),
        n(&c.rx_errors),
        n(&c.tx_errors),
        n(&c.rx_dropped),
        n(&c.tx_dropped),
        n(&c.multicast),
    ];
    stats.resize(25, 0);
    let wide: Vec<u8> = stats.iter().flat_map(|v| v.to_le_bytes()).collect();
    let narrow: Vec<u8> = stats[..24].iter().flat_map(|v| (*v as u32).to_le_bytes()).collect();
    m.put(STATS64, &wide);
    m.put(STATS, &narrow);
    let info = info(i);
    if !info.is_empty() {
        m.put(LINKINFO, &info);
    }
    // Per-family settings: the IPv6 address generation mode (IFLA_INET6_ADDR_GEN_MODE) and flags.
    let mode = [i.v6.addr_gen.load(Ordering::Relaxed) as u8];
    let ready = 0x8000_0000u32.to_le_bytes();
    let inet6 = nested(&[(1, &ready), (8, &mode)]);
    m.put(AF_SPEC, &nested(&[(libc::AF_INET6 as u16, &inet6)]));
}

/// IFLA_LINKINFO: what kind of virtual interface it is, and of which it is a part.
fn info(i: &Interface) -> Vec<u8> {
    nest(|m| {
        if !i.device.kind().is_empty() {
            m.text(INFO_KIND, i.device.kind());
        }
        if let Some(b) = Bridge::of(i) {
            m.put(INFO_DATA, &bridge::describe(b, i));
        }
        if let Some(v) = i.device.as_any().and_then(|d| d.downcast_ref::<Vlan>()) {
            m.put(INFO_DATA, &create::describe_vlan(v));
        }
        if let Some(b) = i.bridge() {
            m.text(INFO_SLAVE_KIND, "bridge");
            m.put(INFO_SLAVE_DATA, &bridge::describe_port(&b, i));
        }
    })
}

/// The notification of a change.
pub fn notice(k: u16, stack: &Stack, i: &Interface) -> Vec<u8> {
    let mut m = Message::new(k, 0, 0, 0, &fixed(i));
    describe(&mut m, stack, i);
    m.finish()
}

/// The interface that a request names, by number or by name.
pub(super) fn find(r: &Request<'_>) -> Result<Option<Arc<Interface>>> {
    let a = Attrs::parse(r.body, FIXED)?;
    let index = i32::from_le_bytes([r.body[4], r.body[5], r.body[6], r.body[7]]);
    if index > 0 {
        return r.stack.interface(index as u32).ok_or(ENODEV).map(Some);
    }
    if index < 0 {
        return Err(EINVAL);
    }
    match a.text(IFNAME)?.or(a.text(ALT_IFNAME)?) {
        Some(n) => Ok(r.stack.interface_named(n)),
        None => Ok(None),
    }
}

pub fn get(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    if r.dump() {
        for i in r.stack.interfaces() {
            let mut m = out.message(kind::NEWLINK, true, &fixed(&i));
            describe(&mut m, &r.stack, &i);
            out.push(m);
        }
        return Ok(());
    }
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let i = find(r)?.ok_or(ENODEV)?;
    let mut m = out.message(kind::NEWLINK, false, &fixed(&i));
    describe(&mut m, &r.stack, &i);
    out.push(m);
    Ok(())
}

/// RTM_NEWLINKPROP and RTM_DELLINKPROP: further names.
pub fn properties(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let i = find(r)?.ok_or(ENODEV)?;
    let Some(list) = a.get(PROP_LIST) else { return Ok(()) };
    for (_, name) in Attrs::parse(list, 0)?.all().filter(|(k, _)| *k == ALT_IFNAME) {
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| EINVAL)?;
        match r.head.kind {
            kind::NEWLINKPROP => r.stack.add_alt_name(&i, name)?,
            _ => r.stack.remove_alt_name(&i, name)?,
        }
    }
    Ok(())
}

pub fn change(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let target = netns::target(r, &a)?;
    let (mut stack, mut i) = match find(r)? {
        Some(i) => {
            if r.head.flags & flag::EXCL != 0 {
                return Err(EEXIST);
            }
            if let Some(info) = a.get(LINKINFO) {
                reconfigure(&i, &Attrs::parse(info, 0)?)?;
            }
            (r.stack.clone(), i)
        }
        None if r.head.kind == kind::NEWLINK && r.head.flags & flag::CREATE != 0 => {
            let made = create::create(r, &a)?;
            // Made here and moved: what it stands upon is looked up here.
            (r.stack.clone(), made)
        }
        None => return Err(ENODEV),
    };
    let name = a.text(IFNAME)?;
    if let Some(to) = target {
        i = stack.move_interface(&i, &to, name)?;
        stack = to;
    }
    let word = |at: usize| {
        u32::from_le_bytes([r.body[at], r.body[at + 1], r.body[at + 2], r.body[at + 3]])
    };
    if let Some(m) = a.get(ADDRESS)
        && let Ok(b) = <[u8; 6]>::try_from(m)
        && Mac(b) != i.mac()
    {
        stack.set_mac(&i, Mac(b))?;
    }
    if let Some(m) = a.word(MTU)? {
        stack.set_mtu(&i, m as usize)?;
    }
    if let Some(n) = name.filter(|n| !n.contains("%d"))
        && n != i.name()
    {
        stack.rename(&i, n)?;
    }
    if let Some(n) = a.word(TXQLEN)? {
        i.tx_queue_len.store(n as usize, Ordering::Relaxed);
    }
    if let Some(n) = a.word(GROUP)? {
        i.group.store(n, Ordering::Relaxed);
    }
    if let Some(t) = a.text(IFALIAS)? {
        *i.alias.lock() = t.to_owned();
    }
    if let Some(mode) = gen_mode(&a) {
        i.v6.addr_gen.store(u32::from(mode), Ordering::Relaxed);
    }
    if let Some(index) = a.word(MASTER)? {
        enslave(&stack, &i, index)?;
    }
    let (flags, mut mask) = (word(8), word(12));
    if mask == 0 && flags != 0 {
        mask = u32::MAX;
    }
    if flags != 0 || mask != 0 {
        stack.set_flags(&i, flags, mask & iff::SETTABLE)?;
    }
    Ok(())
}

/// IFLA_MASTER: the bridge that the interface becomes a port of; 0 for none.
fn enslave(stack: &Stack, i: &Arc<Interface>, index: u32) -> Result<()> {
    if index == 0 {
        if let Some(b) = i.bridge() {
            b.remove_port(i);
        }
        return Ok(());
    }
    let own = stack.interface(index).ok_or(EINVAL)?;
    let b = Bridge::shared(&own).ok_or(EOPNOTSUPP)?;
    match i.bridge() {
        Some(now) if Arc::ptr_eq(&now, &b) => return Ok(()),
        Some(now) => now.remove_port(i),
        None => {}
    }
    b.add_port(i)
}

/// Changes what is special about a kind of interface: `EOPNOTSUPP` for another kind than it is.
fn reconfigure(i: &Arc<Interface>, info: &Attrs<'_>) -> Result<()> {
    if let Some(data) = info.get(INFO_SLAVE_DATA) {
        if info.text(INFO_SLAVE_KIND)? != Some("bridge") {
            return Err(EOPNOTSUPP);
        }
        let b = i.bridge().ok_or(EINVAL)?;
        return bridge::change_port(&b, i, &Attrs::parse(data, 0)?);
    }
    let Some(kind) = info.text(INFO_KIND)? else { return Ok(()) };
    if kind != i.device.kind() {
        return Err(EOPNOTSUPP);
    }
    match (Bridge::of(i), info.get(INFO_DATA)) {
        (Some(b), Some(data)) => bridge::change(b, &Attrs::parse(data, 0)?),
        (None, Some(data)) if !data.is_empty() => Err(EOPNOTSUPP),
        _ => Ok(()),
    }
}

/// IFLA_INET6_ADDR_GEN_MODE within IFLA_AF_SPEC.
fn gen_mode(a: &Attrs<'_>) -> Option<u8> {
    let spec = Attrs::parse(a.get(AF_SPEC)?, 0).ok()?;
    let six = Attrs::parse(spec.get(libc::AF_INET6 as u16)?, 0).ok()?;
    six.get(8)?.first().copied()
}

pub fn delete(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let i = find(r)?.ok_or(ENODEV)?;
    if i.device.kind().is_empty() {
        return Err(EOPNOTSUPP);
    }
    r.stack.remove_interface(&i);
    Ok(())
}
