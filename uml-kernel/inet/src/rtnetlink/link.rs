//! RTM_*LINK: interfaces (ip-link(8)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::interface::{Dummy, Interface, Link, iff};
use uml_net::stack::Stack;
use uml_net::tap::hardware_type;
use uml_net::wire::ethernet::Mac;

use super::Request;
use crate::nlmsg::{Attrs, Message, Reply, flag, kind, nested};

const FIXED: usize = 16;
const ADDRESS: u16 = 1;
const BROADCAST: u16 = 2;
const IFNAME: u16 = 3;
const MTU: u16 = 4;
const QDISC: u16 = 6;
const STATS: u16 = 7;
const TXQLEN: u16 = 13;
const OPERSTATE: u16 = 16;
const LINKMODE: u16 = 17;
const LINKINFO: u16 = 18;
const IFALIAS: u16 = 20;
const STATS64: u16 = 23;
const GROUP: u16 = 27;
const PROMISCUITY: u16 = 30;
const NUM_TX_QUEUES: u16 = 31;
const NUM_RX_QUEUES: u16 = 32;
const CARRIER: u16 = 33;
const MIN_MTU: u16 = 50;
const MAX_MTU: u16 = 51;
const INFO_KIND: u16 = 1;
const AF_SPEC: u16 = 26;

/// `struct ifinfomsg`.
fn fixed(i: &Interface) -> [u8; FIXED] {
    let mut b = [0; FIXED];
    b[2..4].copy_from_slice(&hardware_type(i.link).to_le_bytes());
    b[4..8].copy_from_slice(&i.index.to_le_bytes());
    b[8..12].copy_from_slice(&i.shown_flags().to_le_bytes());
    b
}

/// Everything about an interface.
pub fn describe(m: &mut Message, i: &Interface) {
    m.text(IFNAME, &i.name());
    m.word(TXQLEN, i.tx_queue_len.load(Ordering::Relaxed) as u32);
    // Loopback and point-to-point links have no state to speak of.
    let state = match (i.link, i.is_up()) {
        (Link::Ethernet, true) => 6,
        (Link::Ethernet, false) => 2,
        _ => 0,
    };
    m.byte(OPERSTATE, state);
    m.byte(LINKMODE, 0);
    m.word(MTU, i.mtu() as u32);
    m.word(MIN_MTU, if i.link == Link::Ethernet { 68 } else { 0 });
    m.word(MAX_MTU, if i.link == Link::Ethernet { i.max_mtu as u32 } else { 0 });
    m.word(GROUP, i.group.load(Ordering::Relaxed));
    m.word(PROMISCUITY, i.promisc.load(Ordering::Relaxed));
    m.word(NUM_TX_QUEUES, 1);
    m.word(NUM_RX_QUEUES, 1);
    m.byte(CARRIER, u8::from(i.is_up()));
    m.text(QDISC, if i.link == Link::Ethernet { "fq_codel" } else { "noqueue" });
    if i.link != Link::None {
        m.put(ADDRESS, &i.mac().0);
        let all = if i.link == Link::Ethernet { Mac::BROADCAST } else { Mac::ZERO };
        m.put(BROADCAST, &all.0);
    }
    let alias = i.alias.lock().clone();
    if !alias.is_empty() {
        m.text(IFALIAS, &alias);
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
    let (driver, _) = i.device.driver();
    if driver == "dummy" {
        m.put(LINKINFO, &nested(&[(INFO_KIND, b"dummy\0")]));
    }
    // Per-family settings: the IPv6 address generation mode (IFLA_INET6_ADDR_GEN_MODE) and flags.
    let mode = [i.v6.addr_gen.load(Ordering::Relaxed) as u8];
    let ready = 0x8000_0000u32.to_le_bytes();
    let inet6 = nested(&[(1, &ready), (8, &mode)]);
    m.put(AF_SPEC, &nested(&[(libc::AF_INET6 as u16, &inet6)]));
}

/// The notification of a change.
pub fn notice(k: u16, i: &Interface) -> Vec<u8> {
    let mut m = Message::new(k, 0, 0, 0, &fixed(i));
    describe(&mut m, i);
    m.finish()
}

fn find(r: &Request<'_>) -> Result<Option<Arc<Interface>>> {
    let a = Attrs::parse(r.body, FIXED)?;
    let index = i32::from_le_bytes([r.body[4], r.body[5], r.body[6], r.body[7]]);
    if index > 0 {
        return r.stack.interface(index as u32).ok_or(ENODEV).map(Some);
    }
    if index < 0 {
        return Err(EINVAL);
    }
    match a.text(IFNAME)?.or(a.text(53)?) {
        Some(n) => Ok(r.stack.interface_named(n)),
        None => Ok(None),
    }
}

pub fn get(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    if r.dump() {
        for i in r.stack.interfaces() {
            let mut m = out.message(kind::NEWLINK, true, &fixed(&i));
            describe(&mut m, &i);
            out.push(m);
        }
        return Ok(());
    }
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let i = find(r)?.ok_or(ENODEV)?;
    let mut m = out.message(kind::NEWLINK, false, &fixed(&i));
    describe(&mut m, &i);
    out.push(m);
    Ok(())
}

pub fn change(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let i = match find(r)? {
        Some(i) => {
            if r.head.flags & flag::EXCL != 0 {
                return Err(EEXIST);
            }
            i
        }
        None if r.head.kind == kind::NEWLINK && r.head.flags & flag::CREATE != 0 => {
            create(&r.stack, &a)?
        }
        None => return Err(ENODEV),
    };
    let word = |at: usize| {
        u32::from_le_bytes([r.body[at], r.body[at + 1], r.body[at + 2], r.body[at + 3]])
    };
    if let Some(m) = a.get(ADDRESS)
        && let Ok(b) = <[u8; 6]>::try_from(m)
    {
        r.stack.set_mac(&i, Mac(b))?;
    }
    if let Some(m) = a.word(MTU)? {
        r.stack.set_mtu(&i, m as usize)?;
    }
    if let Some(n) = a.text(IFNAME)?
        && n != i.name()
    {
        r.stack.rename(&i, n)?;
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
    let (flags, mut mask) = (word(8), word(12));
    if mask == 0 && flags != 0 {
        mask = u32::MAX;
    }
    if flags != 0 || mask != 0 {
        r.stack.set_flags(&i, flags, mask & iff::SETTABLE)?;
    }
    Ok(())
}

/// IFLA_INET6_ADDR_GEN_MODE within IFLA_AF_SPEC.
fn gen_mode(a: &Attrs<'_>) -> Option<u8> {
    let spec = Attrs::parse(a.get(AF_SPEC)?, 0).ok()?;
    let six = Attrs::parse(spec.get(libc::AF_INET6 as u16)?, 0).ok()?;
    six.get(8)?.first().copied()
}

fn create(stack: &Arc<Stack>, a: &Attrs<'_>) -> Result<Arc<Interface>> {
    let info = Attrs::parse(a.get(LINKINFO).ok_or(ENODEV)?, 0)?;
    // Kinds that do not exist are what a kernel without the module says.
    if info.text(INFO_KIND)? != Some("dummy") {
        return Err(EOPNOTSUPP);
    }
    let name = match a.text(IFNAME)? {
        Some(n) => n.to_owned(),
        None => (0..)
            .map(|n| format!("dummy{n}"))
            .find(|n| stack.interface_named(n).is_none())
            .unwrap_or_default(),
    };
    let mut m = [0; 6];
    m.copy_from_slice(&stack.random().to_le_bytes()[..6]);
    m[0] = m[0] & !1 | 2;
    let i = stack.add_interface(&name, Link::Ethernet, Mac(m), 1500, 65_535, Arc::new(Dummy))?;
    let _ = stack.set_flags(&i, iff::NOARP, iff::NOARP);
    Ok(i)
}

pub fn delete(r: &Request<'_>) -> Result<()> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let i = find(r)?.ok_or(ENODEV)?;
    if i.device.driver().0 != "dummy" {
        return Err(EOPNOTSUPP);
    }
    r.stack.remove_interface(&i);
    Ok(())
}
