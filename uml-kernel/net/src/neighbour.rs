//! Neighbours: link addresses of hosts on the same link, by ARP (RFC 826) and neighbour discovery (RFC
//! 4861), with the states of ip-neighbour(8).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Weak};

use uml_base::{Mutex, Rank};

use crate::hook::FrameHook;
use crate::icmp;
use crate::interface::{Interface, Link, iff};
use crate::packet::{Data, Packet};
use crate::route::Kind;
use crate::stack::{Change, Cx, Stack};
use crate::time::{MS, SEC, Time};
use crate::timer::{Armed, Expire};
use crate::wire::arp::{self, Arp};
use crate::wire::ethernet::{Ethernet, Mac, ethertype};

/// Packets kept for an unresolved neighbour.
const QUEUE_MAX: usize = 64;
/// Requests before a neighbour counts as unreachable.
const PROBES: u32 = 3;
/// Entries kept; the oldest unused go first (gc_thresh3).
const ENTRIES_MAX: usize = 1024;
const RETRANS: u64 = SEC;
const DELAY_FIRST_PROBE: u64 = 5 * SEC;
const REACHABLE: u64 = 30 * SEC;
const FAILED_KEPT: u64 = 10 * SEC;

/// States, numbered as NUD_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Incomplete = 0x01,
    Reachable = 0x02,
    Stale = 0x04,
    Delay = 0x08,
    Probe = 0x10,
    Failed = 0x20,
    NoArp = 0x40,
    Permanent = 0x80,
}

struct Entry {
    state: State,
    mac: Mac,
    router: bool,
    probes: u32,
    /// When its state ends.
    due: Time,
    queue: VecDeque<Packet>,
    confirmed: Time,
    updated: Time,
    used: Time,
}

/// A neighbour as listings show it.
#[derive(Clone, Debug)]
pub struct Info {
    pub iface: u32,
    pub addr: IpAddr,
    pub mac: Mac,
    pub state: State,
    pub router: bool,
    pub probes: u32,
    pub confirmed: Time,
    pub updated: Time,
    pub used: Time,
}

type Key = (u32, IpAddr);

/// The table of a namespace.
pub struct Neighbours {
    stack: Weak<Stack>,
    table: Mutex<HashMap<Key, Entry>>,
    armed: Armed,
}

impl Neighbours {
    pub(crate) fn new(stack: Weak<Stack>) -> Arc<Neighbours> {
        Arc::new(Neighbours {
            stack,
            table: Mutex::new(Rank::LEAF, HashMap::new()),
            armed: Armed::default(),
        })
    }

    fn arm(self: &Arc<Self>, stack: &Stack, at: Time) {
        self.armed.arm(&stack.timers, at, || Arc::downgrade(&(self.clone() as Arc<dyn Expire>)));
    }

    /// Every neighbour.
    pub fn list(&self) -> Vec<Info> {
        let t = self.table.lock();
        let mut v: Vec<Info> = t
            .iter()
            .map(|((iface, addr), e)| Info {
                iface: *iface,
                addr: *addr,
                mac: e.mac,
                state: e.state,
                router: e.router,
                probes: e.probes,
                confirmed: e.confirmed,
                updated: e.updated,
                used: e.used,
            })
            .collect();
        v.sort_by_key(|i| (i.iface, i.addr));
        v
    }

    /// Removes the entries that `unwanted` accepts; true when there were any.
    pub fn flush(&self, stack: &Stack, unwanted: impl Fn(&Key) -> bool) -> bool {
        let gone: Vec<Key> = {
            let mut t = self.table.lock();
            let keys: Vec<Key> = t.keys().filter(|k| unwanted(k)).copied().collect();
            for k in &keys {
                t.remove(k);
            }
            keys
        };
        for (i, a) in &gone {
            stack.tell(&Change::NeighbourGone(*i, *a));
        }
        !gone.is_empty()
    }

    /// Enters or changes an entry by hand (ip-neighbour(8)); packets that waited go out.
    pub fn set(&self, cx: &mut Cx, iface: &Arc<Interface>, addr: IpAddr, mac: Mac, state: State) {
        let waiting = {
            let mut t = self.table.lock();
            make_room(&mut t);
            let e = t.entry((iface.index, addr)).or_insert_with(|| Entry::new(cx.now));
            e.mac = mac;
            e.state = state;
            e.updated = cx.now;
            e.due = match state {
                State::Reachable => cx.now + REACHABLE,
                _ => Time::NEVER,
            };
            std::mem::take(&mut e.queue)
        };
        for p in waiting {
            send_to(cx, iface, mac, p);
        }
        cx.stack().clone().tell(&Change::Neighbour(iface.index, addr));
    }

    /// Sends an IP packet to the neighbour `next`, once its link address is known.
    pub(crate) fn send(
        self: &Arc<Self>,
        cx: &mut Cx,
        iface: &Arc<Interface>,
        next: IpAddr,
        p: Packet,
    ) {
        if iface.link != Link::Ethernet {
            iface.enqueue(cx, p);
            return;
        }
        let group = match next {
            IpAddr::V4(a) if a.is_broadcast() => Some(Mac::BROADCAST),
            IpAddr::V4(a) if a.is_multicast() => Some(Mac::of_group_v4(a)),
            IpAddr::V6(a) if a.is_multicast() => Some(Mac::of_group_v6(a)),
            _ if iface.flags() & iff::NOARP != 0 => Some(Mac::ZERO),
            _ => None,
        };
        if let Some(mac) = group {
            send_to(cx, iface, mac, p);
            return;
        }
        let now = cx.now;
        let mut ask = false;
        let mut due = Time::NEVER;
        let known = {
            let mut t = self.table.lock();
            let key = (iface.index, next);
            if !t.contains_key(&key) {
                make_room(&mut t);
            }
            let e = t.entry(key).or_insert_with(|| Entry::new(now));
            e.used = now;
            match e.state {
                State::Reachable
                | State::Permanent
                | State::NoArp
                | State::Delay
                | State::Probe => Some(e.mac),
                State::Stale => {
                    e.state = State::Delay;
                    e.due = now + DELAY_FIRST_PROBE;
                    due = e.due;
                    Some(e.mac)
                }
                State::Incomplete | State::Failed => {
                    if e.state == State::Failed || e.probes == 0 {
                        e.state = State::Incomplete;
                        e.probes = 1;
                        e.due = now + RETRANS;
                        due = e.due;
                        ask = true;
                    }
                    if e.queue.len() >= QUEUE_MAX {
                        e.queue.pop_front();
                    }
                    e.queue.push_back(p.clone());
                    None
                }
            }
        };
        if due != Time::NEVER {
            let stack = cx.stack().clone();
            self.arm(&stack, due);
        }
        match known {
            Some(mac) => send_to(cx, iface, mac, p),
            None if ask => request(cx, iface, next, None),
            None => {}
        }
    }

    /// A neighbour showed its address: in an answer that was asked for (`confirmed`), or by the way.
    pub(crate) fn learn(
        self: &Arc<Self>,
        cx: &mut Cx,
        iface: &Arc<Interface>,
        addr: IpAddr,
        mac: Mac,
        how: Learned,
    ) {
        if !mac.is_valid_unicast() {
            return;
        }
        let now = cx.now;
        let mut due = Time::NEVER;
        let mut changed = false;
        let waiting = {
            let mut t = self.table.lock();
            let key = (iface.index, addr);
            if !t.contains_key(&key) {
                if !how.create {
                    return;
                }
                make_room(&mut t);
            }
            let e = t.entry(key).or_insert_with(|| Entry::new(now));
            if let Some(r) = how.router {
                e.router = r;
            }
            if matches!(e.state, State::Permanent | State::NoArp) {
                return;
            }
            let differs = e.mac != mac;
            let unresolved = matches!(e.state, State::Incomplete | State::Failed);
            if how.solicited && (!differs || how.overrides || unresolved) {
                changed |= e.state != State::Reachable || differs;
                e.mac = mac;
                e.state = State::Reachable;
                e.confirmed = now;
                e.probes = 0;
                e.due = now + REACHABLE;
                due = e.due;
            } else if unresolved || (differs && how.overrides) {
                changed = true;
                e.mac = mac;
                e.state = State::Stale;
                e.probes = 0;
                e.due = Time::NEVER;
            }
            e.updated = now;
            if e.state == State::Incomplete {
                VecDeque::new()
            } else {
                std::mem::take(&mut e.queue)
            }
        };
        let stack = cx.stack().clone();
        if due != Time::NEVER {
            self.arm(&stack, due);
        }
        for p in waiting {
            send_to(cx, iface, mac, p);
        }
        if changed {
            stack.tell(&Change::Neighbour(iface.index, addr));
        }
    }

    /// Something above made progress with the neighbour: no probe is needed (RFC 4861 7.3.1).
    pub(crate) fn confirm(&self, iface: u32, addr: IpAddr, now: Time) {
        if let Some(e) = self.table.lock().get_mut(&(iface, addr))
            && matches!(e.state, State::Delay | State::Probe | State::Stale | State::Reachable)
        {
            e.state = State::Reachable;
            e.confirmed = now;
            e.probes = 0;
            e.due = now + REACHABLE;
        }
    }
}

/// How an address was learned.
#[derive(Clone, Copy)]
pub(crate) struct Learned {
    /// In answer to a question.
    pub solicited: bool,
    /// Replaces a different address.
    pub overrides: bool,
    /// Worth a new entry.
    pub create: bool,
    pub router: Option<bool>,
}

impl Entry {
    fn new(now: Time) -> Entry {
        Entry {
            state: State::Incomplete,
            mac: Mac::ZERO,
            router: false,
            probes: 0,
            due: Time::NEVER,
            queue: VecDeque::new(),
            confirmed: now,
            updated: now,
            used: now,
        }
    }
}

fn make_room(t: &mut HashMap<Key, Entry>) {
    if t.len() < ENTRIES_MAX {
        return;
    }
    let old = t
        .iter()
        .filter(|(_, e)| !matches!(e.state, State::Permanent | State::NoArp))
        .min_by_key(|(_, e)| e.used)
        .map(|(k, _)| *k);
    if let Some(k) = old {
        t.remove(&k);
    }
}

/// Prepends the Ethernet header and queues the frame.
pub(crate) fn send_to(cx: &mut Cx, iface: &Arc<Interface>, dst: Mac, mut p: Packet) {
    put_link(iface, dst, &mut p);
    iface.enqueue(cx, p);
}

/// Puts the link header in front.
fn put_link(iface: &Interface, dst: Mac, p: &mut Packet) {
    if iface.link == Link::Ethernet {
        let h = Ethernet { dst, src: iface.mac(), kind: p.kind };
        p.push_front(&h.bytes());
        if let Some(tci) = p.vlan.take() {
            let mut bytes = h.bytes().to_vec();
            bytes[12..14].copy_from_slice(&ethertype::VLAN.to_be_bytes());
            bytes.extend_from_slice(&tci.to_be_bytes());
            bytes.extend_from_slice(&p.kind.to_be_bytes());
            p.strip_link();
            p.push_front(&bytes);
        }
    }
}

/// Asks for the link address of `target`, everybody or (`mac`) the one who had it.
fn request(cx: &mut Cx, iface: &Arc<Interface>, target: IpAddr, mac: Option<Mac>) {
    match target {
        IpAddr::V4(t) => {
            let src = source_v4(iface, t);
            let a = Arp {
                op: arp::REQUEST,
                sender_mac: iface.mac(),
                sender: src,
                target_mac: Mac::ZERO,
                target: t,
            };
            send_arp(cx, iface, mac.unwrap_or(Mac::BROADCAST), &a);
        }
        IpAddr::V6(t) => icmp::solicit(cx, iface, t, mac, false),
    }
}

fn source_v4(iface: &Interface, target: Ipv4Addr) -> Ipv4Addr {
    iface.with_addresses(|l| {
        let v4 = |a: &crate::interface::Address| match a.addr {
            IpAddr::V4(v) => Some((v, a.prefix)),
            IpAddr::V6(_) => None,
        };
        let near = l
            .iter()
            .filter_map(v4)
            .find(|(a, p)| crate::route::Prefix::new((*a).into(), *p).contains(target.into()));
        near.or_else(|| l.iter().find_map(v4)).map_or(Ipv4Addr::UNSPECIFIED, |(a, _)| a)
    })
}

/// Sends an ARP packet.
pub(crate) fn send_arp(cx: &mut Cx, iface: &Arc<Interface>, dst: Mac, a: &Arp) {
    let mut p = Packet::new(Data::new());
    p.kind = ethertype::ARP;
    p.head_mut().extend_from_slice(&a.bytes());
    put_link(iface, dst, &mut p);
    let stack = cx.stack().clone();
    if stack.passes_at(cx, FrameHook::ArpOutput, &mut p, None, Some(iface)) {
        iface.enqueue(cx, p);
    }
}

/// Takes an ARP packet that arrived.
pub(crate) fn receive_arp(cx: &mut Cx, iface: &Arc<Interface>, mut p: Packet) {
    if !p.pull(arp::LEN) || iface.flags() & iff::NOARP != 0 {
        return;
    }
    let stack = cx.stack().clone();
    if !stack.passes_at(cx, FrameHook::ArpInput, &mut p, Some(iface), None) {
        return;
    }
    let Ok(a) = Arp::parse(p.net()) else { return };
    let mine = stack
        .routes
        .lookup(&crate::route::Flow::to(a.target.into()))
        .is_ok_and(|r| r.kind == Kind::Local)
        && !a.target.is_loopback();
    if a.sender.is_multicast() || a.sender.is_broadcast() {
        return;
    }
    // Duplicate address detection (RFC 5227): somebody asks whether an address of ours is free.
    if a.sender.is_unspecified() {
        if a.op == arp::REQUEST && mine {
            let r = Arp {
                op: arp::REPLY,
                sender_mac: iface.mac(),
                sender: a.target,
                target_mac: a.sender_mac,
                target: a.sender,
            };
            send_arp(cx, iface, a.sender_mac, &r);
        }
        return;
    }
    let ours = stack.is_local(a.sender.into());
    if !ours {
        let how = Learned {
            solicited: a.op == arp::REPLY && mine,
            overrides: true,
            create: a.op == arp::REQUEST && mine,
            router: None,
        };
        stack.neighbours.learn(cx, iface, a.sender.into(), a.sender_mac, how);
    }
    if a.op == arp::REQUEST && mine {
        let r = Arp {
            op: arp::REPLY,
            sender_mac: iface.mac(),
            sender: a.target,
            target_mac: a.sender_mac,
            target: a.sender,
        };
        send_arp(cx, iface, a.sender_mac, &r);
    }
}

impl Expire for Neighbours {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        let now = cx.now;
        if !self.armed.due(now) {
            return;
        }
        let mut ask: Vec<(Key, Option<Mac>)> = Vec::new();
        let mut failed: Vec<(Key, VecDeque<Packet>)> = Vec::new();
        let mut changed: Vec<Key> = Vec::new();
        let mut next = Time::NEVER;
        {
            let mut t = self.table.lock();
            t.retain(|_, e| !(e.state == State::Failed && e.due <= now));
            for (k, e) in t.iter_mut() {
                if e.due <= now {
                    match e.state {
                        State::Reachable => {
                            e.state = State::Stale;
                            e.due = Time::NEVER;
                            changed.push(*k);
                        }
                        State::Delay => {
                            e.state = State::Probe;
                            e.probes = 1;
                            e.due = now + RETRANS;
                            ask.push((*k, Some(e.mac)));
                        }
                        State::Incomplete | State::Probe if e.probes < PROBES => {
                            e.probes += 1;
                            e.due = now + RETRANS;
                            ask.push((*k, (e.state == State::Probe).then_some(e.mac)));
                        }
                        State::Incomplete | State::Probe => {
                            e.state = State::Failed;
                            e.probes = 0;
                            e.due = now + FAILED_KEPT;
                            failed.push((*k, std::mem::take(&mut e.queue)));
                        }
                        _ => e.due = Time::NEVER,
                    }
                }
                next = next.min(e.due);
            }
        }
        let Some(stack) = self.stack.upgrade() else { return };
        if next != Time::NEVER {
            self.arm(&stack, next.max(now + MS));
        }
        for ((i, a), mac) in ask {
            if let Some(iface) = stack.interface(i) {
                request(cx, &iface, a, mac);
            }
        }
        for (i, a) in changed {
            stack.tell(&Change::Neighbour(i, a));
        }
        for ((i, a), queue) in failed {
            for p in queue {
                icmp::host_unreachable(cx, p);
            }
            stack.tell(&Change::Neighbour(i, a));
        }
    }
}

/// The link-local or other address of an interface that ND messages about `target` come from.
pub(crate) fn source_v6(iface: &Interface, target: Ipv6Addr) -> Option<Ipv6Addr> {
    iface.with_addresses(|l| {
        let usable = |a: &&crate::interface::Address| a.usable();
        let v6 = |a: &crate::interface::Address| match a.addr {
            IpAddr::V6(v) => Some(v),
            IpAddr::V4(_) => None,
        };
        let want_link = crate::interface::is_link_local(target) || target.is_multicast();
        let all = || l.iter().filter(usable).filter_map(v6);
        let best = if want_link {
            all().find(|a| crate::interface::is_link_local(*a))
        } else {
            all()
                .filter(|a| !crate::interface::is_link_local(*a))
                .max_by_key(|a| crate::route::common_bits((*a).into(), target.into()))
        };
        best.or_else(|| all().next())
    })
}
