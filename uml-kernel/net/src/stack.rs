//! A network namespace: interfaces, addresses, routes, tables of sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, RwLock, WaitQueue};

use crate::addrconf;
use crate::conf::Conf;
use crate::fragment::Reassembly;
use crate::interface::{Address, Device, Interface, Link, Loopback, ifa, iff, scope};
use crate::neighbour::Neighbours;
use crate::packet::Packet;
use crate::ping::PingTable;
use crate::raw::RawTable;
use crate::route::{self, Flow, Kind, Mode, Prefix, Route, Routes};
use crate::snmp::Snmp;
use crate::tap::PacketSocket;
use crate::tcp_table::TcpTable;
use crate::time::{Clock, Time};
use crate::timer::Timers;
use crate::udp::UdpTable;
use crate::wire::ethernet::Mac;

/// Longest name of an interface.
pub const NAME_MAX: usize = 15;
/// Longest further name (ALTIFNAMSIZ less the NUL).
const ALT_NAME_MAX: usize = 127;

/// A reader with as many datagrams before it does not miss those that are dropped, nor notice when they come a little later.
const BACKLOG: usize = 128;

/// A change that rtnetlink tells its listeners.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new interface, or one whose flags, name, MTU or address changed.
    Link(u32),
    LinkGone(u32, String),
    Address(u32, Address),
    AddressGone(u32, Address),
    Route(Route),
    RouteGone(Route),
    Rule(route::Rule),
    RuleGone(route::Rule),
    Neighbour(u32, IpAddr),
    NeighbourGone(u32, IpAddr),
}

/// Told of changes; called without locks.
pub trait Watcher: Send + Sync {
    fn changed(&self, stack: &Stack, change: &Change);
}

/// One step of the stack: the moment it happens at, queues it filled and sleepers it has to wake once no
/// lock is held.
pub struct Cx {
    stack: Arc<Stack>,
    pub now: Time,
    touched: Vec<Arc<Interface>>,
    wakes: Vec<(Arc<WaitQueue>, Events)>,
    /// Interfaces were already asked for what came back meanwhile.
    asked: bool,
    refused: usize,
    /// When the packets that this step takes arrived; 0 until there is one.
    stamp: u64,
}

impl Cx {
    /// The namespace.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// The interface has packets to send.
    pub fn touch(&mut self, i: &Arc<Interface>) {
        if !self.touched.iter().any(|t| Arc::ptr_eq(t, i)) {
            self.touched.push(i.clone());
        }
    }

    /// Whoever waits for `events` on the queue is to be woken.
    pub fn notify(&mut self, q: &Arc<WaitQueue>, events: Events) {
        if events.is_empty() || !q.has_waiters() {
            return;
        }
        match self.wakes.iter_mut().find(|(w, _)| Arc::ptr_eq(w, q)) {
            Some((_, e)) => *e |= events,
            None => self.wakes.push((q.clone(), events)),
        }
    }

    /// A datagram was dropped whose reader has `waiting` others to read.
    pub(crate) fn refused(&mut self, waiting: usize) {
        if waiting >= BACKLOG {
            self.refused += 1;
        }
    }

    /// Nanoseconds since the epoch at which the packets of this step arrived: a batch is there before the step begins.
    pub(crate) fn arrival(&mut self) -> u64 {
        if self.stamp == 0 {
            self.stamp = self.stack.realtime();
        }
        self.stamp
    }

    /// How many packets of this step were for readers that have enough to do without them.
    pub fn surplus(&self) -> usize {
        self.refused
    }

    /// Wakes now; no socket lock is held.
    pub(crate) fn wake(&mut self) {
        while let Some((q, e)) = self.wakes.pop() {
            q.wake_all(e);
        }
    }
}

/// A network namespace.
pub struct Stack {
    me: Weak<Stack>,
    /// What the owner of the namespace knows it by; 0 until it says so.
    pub id: AtomicU64,
    clock: Arc<dyn Clock>,
    interfaces: RwLock<BTreeMap<u32, Arc<Interface>>>,
    next_index: AtomicU32,
    pub routes: Routes,
    pub neighbours: Arc<Neighbours>,
    pub(crate) fragments: Arc<Reassembly>,
    pub tcp: TcpTable,
    pub udp: UdpTable,
    pub udplite: UdpTable,
    pub raw: RawTable,
    pub ping: PingTable,
    taps: RwLock<Vec<Weak<PacketSocket>>>,
    tap_count: AtomicUsize,
    pub(crate) fanouts: crate::tap::Groups,
    pub ends: Arc<crate::ended::Ends>,
    pub timers: Timers,
    pub hooks: crate::hook::Hooks,
    pub conf: Conf,
    pub snmp: Snmp,
    pub(crate) icmp_limit: crate::icmp_limit::IcmpLimit,
    watchers: Mutex<Vec<Arc<dyn Watcher>>>,
    pub(crate) addrconf: Arc<addrconf::Addrconf>,
    /// Secret of sequence numbers, cookies and port choice.
    pub(crate) secret: [u64; 4],
    /// Numbers by which this namespace knows others (rtnetlink(7), RTM_GETNSID).
    pub(crate) peers: Mutex<BTreeMap<i32, Weak<Stack>>>,
    random: AtomicU64,
    pub(crate) ip_id: AtomicU32,
}

impl Stack {
    /// A namespace with a loopback interface that is down. `seed` is 32 random bytes.
    pub fn new(clock: Arc<dyn Clock>, seed: [u8; 32]) -> Arc<Stack> {
        let word = |i: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&seed[i * 8..i * 8 + 8]);
            u64::from_ne_bytes(b)
        };
        let stack = Arc::new_cyclic(|me: &Weak<Stack>| Stack {
            me: me.clone(),
            id: AtomicU64::new(0),
            clock,
            interfaces: RwLock::new(Rank::LEAF, BTreeMap::new()),
            next_index: AtomicU32::new(1),
            routes: Routes::default(),
            neighbours: Neighbours::new(me.clone()),
            fragments: Reassembly::new(),
            tcp: TcpTable::default(),
            udp: UdpTable::default(),
            udplite: UdpTable::default(),
            raw: RawTable::default(),
            ping: PingTable::default(),
            taps: RwLock::new(Rank::LEAF, Vec::new()),
            tap_count: AtomicUsize::new(0),
            fanouts: Default::default(),
            ends: Default::default(),
            timers: Timers::default(),
            hooks: crate::hook::Hooks::default(),
            conf: Conf::default(),
            snmp: Snmp::default(),
            icmp_limit: Default::default(),
            watchers: Mutex::new(Rank::LEAF, Vec::new()),
            addrconf: addrconf::Addrconf::new(me.clone()),
            secret: [word(0), word(1), word(2), word(3)],
            peers: Mutex::new(Rank::LEAF, BTreeMap::new()),
            random: AtomicU64::new(word(0) ^ word(3).rotate_left(17) | 1),
            ip_id: AtomicU32::new(word(2) as u32),
        });
        let lo =
            Interface::new(1, "lo", Link::Loopback, Mac::ZERO, 65_536, 65_536, Arc::new(Loopback));
        stack.next_index.store(2, Ordering::SeqCst);
        stack.interfaces.write().insert(1, lo);
        stack
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Nanoseconds since the epoch.
    pub fn realtime(&self) -> u64 {
        self.clock.realtime()
    }

    /// Number of the processor that this is called on.
    pub(crate) fn processor(&self) -> u32 {
        self.clock.processor()
    }

    /// Runs one step and then everything that follows from it.
    pub fn enter<R>(&self, f: impl FnOnce(&mut Cx) -> R) -> R {
        let stack = match self.me.upgrade() {
            Some(s) => s,
            None => unreachable!("a borrowed namespace lives"),
        };
        let now = stack.now();
        let mut cx = Cx {
            stack,
            now,
            touched: Vec::new(),
            wakes: Vec::new(),
            asked: false,
            refused: 0,
            stamp: 0,
        };
        let r = f(&mut cx);
        cx.wake();
        while let Some(i) = cx.touched.pop() {
            let sent = i.drain(&mut cx);
            cx.wake();
            // Once a step: what is sent in answer to an answer is the receiving thread's.
            if sent && !std::mem::replace(&mut cx.asked, true) {
                i.device.answers(&mut cx, &i);
                cx.wake();
            }
        }
        r
    }

    /// Runs what is due; returns when to call again.
    pub fn run_timers(&self) -> Option<Time> {
        loop {
            let now = self.now();
            match self.timers.pop(now) {
                Some(t) => self.enter(|cx| t.expired(cx)),
                None => return self.timers.next(),
            }
        }
    }

    /// Bytes that programs have sent over connections they closed since and that have not arrived. They would be
    /// lost with the machine.
    pub fn undelivered(&self) -> u64 {
        let (sockets, _) = self.tcp.connections();
        let unacked: u64 = sockets.iter().map(|s| s.undelivered() as u64).sum();
        let below: u64 = self.interfaces().iter().map(|i| i.device.undelivered()).sum();
        unacked + below
    }

    /// A number that cannot be predicted well enough for ports and identifiers.
    pub fn random(&self) -> u64 {
        // SplitMix64 over a secret start.
        let z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31) ^ self.secret[1]
    }

    /// Adds a listener for changes.
    pub fn watch(&self, w: Arc<dyn Watcher>) {
        self.watchers.lock().push(w);
    }

    /// Tells listeners of a change that was made from outside (routes, rules).
    pub fn announce(&self, change: &Change) {
        self.tell(change);
    }

    pub(crate) fn tell(&self, change: &Change) {
        let list = self.watchers.lock().clone();
        for w in list {
            w.changed(self, change);
        }
    }

    // Interfaces.

    /// Every interface by index.
    pub fn interfaces(&self) -> Vec<Arc<Interface>> {
        self.interfaces.read().values().cloned().collect()
    }

    /// The interface with this index.
    pub fn interface(&self, index: u32) -> Option<Arc<Interface>> {
        self.interfaces.read().get(&index).cloned()
    }

    /// The interface of this name.
    pub fn interface_named(&self, name: &str) -> Option<Arc<Interface>> {
        self.interfaces.read().values().find(|i| i.is_called(name)).cloned()
    }

    /// The loopback interface.
    pub fn loopback(&self) -> Option<Arc<Interface>> {
        self.interface(1)
    }

    /// Adds an interface, down. `EEXIST` when the name is taken, `EINVAL` when it is impossible.
    pub fn add_interface(
        &self,
        name: &str,
        link: Link,
        mac: Mac,
        mtu: usize,
        max_mtu: usize,
        device: Arc<dyn Device>,
    ) -> Result<Arc<Interface>> {
        check_name(name)?;
        let index = self.free_index(0);
        let i = Interface::new(index, name, link, mac, mtu, max_mtu, device);
        self.enter_interface(&i)?;
        Ok(i)
    }

    /// Puts an interface into the table: `EEXIST` when the name or the number is taken.
    pub(crate) fn enter_interface(&self, i: &Arc<Interface>) -> Result<()> {
        {
            let mut t = self.interfaces.write();
            if t.contains_key(&i.index) || t.values().any(|o| o.is_called(&i.name())) {
                return Err(EEXIST);
            }
            t.insert(i.index, i.clone());
        }
        if let Some(me) = self.me.upgrade() {
            i.device.attached(i, &me);
        }
        self.tell(&Change::Link(i.index));
        Ok(())
    }

    /// A number for an interface: `wanted` when nobody has it here.
    pub(crate) fn free_index(&self, wanted: u32) -> u32 {
        let t = self.interfaces.read();
        if wanted != 0 && !t.contains_key(&wanted) {
            return wanted;
        }
        loop {
            let n = self.next_index.fetch_add(1, Ordering::SeqCst);
            if !t.contains_key(&n) {
                return n;
            }
        }
    }

    /// The first name of the form `%d` stands for in `pattern` that is free; the pattern itself without.
    pub fn free_name(&self, pattern: &str) -> String {
        let Some((before, after)) = pattern.split_once("%d") else { return pattern.to_owned() };
        let taken: Vec<String> = self.interfaces().iter().map(|i| i.name()).collect();
        (0u32..)
            .map(|n| format!("{before}{n}{after}"))
            .find(|n| !taken.contains(n))
            .unwrap_or_default()
    }

    /// Takes an interface away.
    pub fn remove_interface(&self, i: &Arc<Interface>) {
        if !self.take_out(i) {
            return;
        }
        let upon = std::mem::take(&mut *i.vlans.write());
        for v in upon {
            v.without_parent();
        }
        i.device.removed();
    }

    /// Takes an interface out of the namespace, down and without addresses; false when it is not here (any more).
    pub(crate) fn take_out(&self, i: &Arc<Interface>) -> bool {
        if !self.interface(i.index).is_some_and(|o| Arc::ptr_eq(&o, i)) {
            return false;
        }
        self.set_flags(i, 0, iff::UP).ok();
        if let Some(b) = i.bridge() {
            b.remove_port(i);
        }
        for a in i.addresses() {
            let _ = self.remove_address(i, a.addr, a.prefix);
        }
        self.interfaces.write().remove(&i.index);
        self.routes.remove_all(|r| r.oif == i.index);
        self.routes.touch();
        self.tell(&Change::LinkGone(i.index, i.name()));
        true
    }

    /// Renames an interface; `EEXIST`, `EINVAL` as [`Stack::add_interface`].
    pub fn rename(&self, i: &Arc<Interface>, name: &str) -> Result<()> {
        check_name(name)?;
        {
            let t = self.interfaces.write();
            if t.values().any(|o| o.is_called(name) && o.index != i.index) {
                return Err(EEXIST);
            }
            i.rename(name);
        }
        self.tell(&Change::Link(i.index));
        Ok(())
    }

    /// Gives an interface a further name: `ERANGE` for one that is too long, `EEXIST` where it means an interface already.
    /// Any other text will do, as on Linux, none included.
    pub fn add_alt_name(&self, i: &Arc<Interface>, name: &str) -> Result<()> {
        if name.len() > ALT_NAME_MAX {
            return Err(ERANGE);
        }
        {
            let t = self.interfaces.write();
            if t.values().any(|o| o.is_called(name)) {
                return Err(EEXIST);
            }
            i.alt_names.write().push(name.to_owned());
        }
        self.tell(&Change::Link(i.index));
        Ok(())
    }

    /// Takes a further name away: `ENOENT` where it means none, `EINVAL` where it means another one or is its first.
    pub fn remove_alt_name(&self, i: &Arc<Interface>, name: &str) -> Result<()> {
        {
            let t = self.interfaces.write();
            let owner = t.values().find(|o| o.is_called(name)).ok_or(ENOENT)?;
            let mut names = i.alt_names.write();
            match names.iter().position(|n| n == name) {
                Some(at) if owner.index == i.index => names.remove(at),
                _ => return Err(EINVAL),
            };
        }
        self.tell(&Change::Link(i.index));
        Ok(())
    }

    /// Changes the MTU; `EINVAL` out of range.
    pub fn set_mtu(&self, i: &Arc<Interface>, mtu: usize) -> Result<()> {
        let min = if i.link == Link::Ethernet { 68 } else { 0 };
        if mtu < min || mtu > i.max_mtu.max(65_536) || (i.link == Link::Ethernet && mtu > i.max_mtu)
        {
            return Err(EINVAL);
        }
        i.set_mtu(mtu);
        self.routes.touch();
        self.tell(&Change::Link(i.index));
        Ok(())
    }

    /// Changes the hardware address: `EADDRNOTAVAIL` for one that no station can have.
    pub fn set_mac(&self, i: &Arc<Interface>, mac: Mac) -> Result<()> {
        if i.link != Link::Ethernet {
            return Err(EOPNOTSUPP);
        }
        if !mac.is_valid_unicast() {
            return Err(EADDRNOTAVAIL);
        }
        i.device.set_mac(mac)?;
        i.set_mac(mac);
        self.routes.touch();
        self.tell(&Change::Link(i.index));
        Ok(())
    }

    /// Changes the flags in `mask`; going up opens the device, and its error is returned.
    pub fn set_flags(&self, i: &Arc<Interface>, set: u32, mask: u32) -> Result<()> {
        let mask = mask & iff::SETTABLE;
        let was_up = i.is_up();
        let up = if mask & iff::UP != 0 { set & iff::UP != 0 } else { was_up };
        if up && !was_up {
            let stack = self.me.upgrade().ok_or(ENODEV)?;
            i.device.open(i, &stack)?;
        }
        let before = i.flags();
        i.set_flags(set, mask);
        if up && !was_up {
            self.went_up(i);
        } else if !up && was_up {
            self.went_down(i);
        }
        if i.flags() != before {
            self.tell(&Change::Link(i.index));
        }
        if up != was_up {
            carrier_changed(i);
        }
        Ok(())
    }

    fn went_up(&self, i: &Arc<Interface>) {
        // VLAN interfaces follow what they stand upon (as Linux's do without `loose_binding`).
        for v in i.vlans() {
            v.follow(true);
        }
        for a in i.addresses() {
            self.enter_routes(i, &a);
        }
        if i.is_loopback() {
            for (a, p) in
                [(IpAddr::V4(Ipv4Addr::LOCALHOST), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)]
            {
                let mut addr = Address::new(a, p);
                addr.scope = scope::HOST;
                if a.is_ipv4() {
                    addr.label = Some(i.name());
                }
                let _ = self.add_address(i, addr, false);
            }
        } else {
            self.addrconf.went_up(self, i);
        }
        self.routes.touch();
    }

    fn went_down(&self, i: &Arc<Interface>) {
        i.device.close();
        i.flush();
        for v in i.vlans() {
            v.follow(false);
        }
        // IPv6 addresses go with the link; IPv4 addresses stay, without their routes.
        for a in i.addresses().into_iter().filter(|a| a.addr.is_ipv6()) {
            let _ = self.remove_address(i, a.addr, a.prefix);
        }
        for r in self.routes.remove_all(|r| {
            r.oif == i.index
                && !(r.table == route::TABLE_LOCAL && r.kind == Kind::Local && r.dst.addr.is_ipv4())
        }) {
            self.tell(&Change::RouteGone(r));
        }
        self.neighbours.flush(self, |e| e.0 == i.index);
        self.routes.touch();
    }

    // Addresses.

    /// The interface that has the address, usable or not.
    pub fn owner(&self, a: IpAddr) -> Option<Arc<Interface>> {
        let t = self.interfaces.read();
        t.values().find(|i| i.with_addresses(|l| l.iter().any(|x| x.addr == a))).cloned()
    }

    /// True for an address that packets are delivered to here.
    pub fn is_local(&self, a: IpAddr) -> bool {
        let f = Flow::to(a);
        self.routes.lookup(&f).is_ok_and(|r| r.kind == Kind::Local)
    }

    /// Whether a socket may be bound to the address (bind(2)): `EADDRNOTAVAIL`.
    pub fn check_bindable(&self, a: IpAddr, iface: u32) -> Result<()> {
        match a {
            IpAddr::V4(v) => {
                if v.is_unspecified() || v.is_multicast() || v.is_broadcast() {
                    return Ok(());
                }
                let kind = self.routes.lookup(&Flow::to(a)).map(|r| r.kind);
                match kind {
                    Ok(Kind::Local | Kind::Broadcast) => Ok(()),
                    _ if self.conf.ip_nonlocal_bind.get() != 0 => Ok(()),
                    _ => Err(EADDRNOTAVAIL),
                }
            }
            IpAddr::V6(v) => {
                if v.is_unspecified() || v.is_multicast() {
                    return Ok(());
                }
                let t = self.interfaces.read();
                let found = t
                    .values()
                    .filter(|i| iface == 0 || i.index == iface)
                    .any(|i| i.with_addresses(|l| l.iter().any(|x| x.addr == a && x.usable())));
                if found { Ok(()) } else { Err(EADDRNOTAVAIL) }
            }
        }
    }

    /// Adds an address: `EEXIST` when it is there and not to be replaced.
    pub fn add_address(&self, i: &Arc<Interface>, mut a: Address, replace: bool) -> Result<()> {
        if a.addr.is_ipv6() && i.v6.disabled.load(Ordering::Relaxed) {
            return Err(EACCES);
        }
        a.created = self.now();
        {
            let mut list = i.addrs.write();
            if let Some(old) = list
                .iter_mut()
                .find(|o| o.addr == a.addr && (a.addr.is_ipv6() || o.prefix == a.prefix))
            {
                if !replace {
                    return Err(EEXIST);
                }
                a.flags |= old.flags & (ifa::TENTATIVE | ifa::SECONDARY);
                a.created = old.created;
                *old = a.clone();
            } else {
                if a.addr.is_ipv4() {
                    // A second address of the same subnet is a secondary one.
                    let p = Prefix::new(a.addr, a.prefix);
                    if list
                        .iter()
                        .any(|o| o.addr.is_ipv4() && o.prefix == a.prefix && p.contains(o.addr))
                    {
                        a.flags |= ifa::SECONDARY;
                    }
                }
                list.push(a.clone());
            }
        }
        if i.is_up() || i.is_loopback() {
            self.enter_routes(i, &a);
        } else if a.addr.is_ipv4() {
            self.enter_local_route(i, &a);
        }
        self.routes.touch();
        if i.is_up() && a.addr.is_ipv6() && !i.is_loopback() {
            self.addrconf.added(self, i, &a);
        }
        self.addrconf.look_at(self, a.valid.min(a.preferred));
        self.tell(&Change::Address(i.index, a));
        Ok(())
    }

    fn enter_local_route(&self, i: &Interface, a: &Address) {
        let mode = Mode { create: true, append: true, ..Mode::default() };
        let mut r = Route::new(Prefix::new(a.addr, route::width(a.addr)), i.index);
        (r.table, r.kind, r.scope) = (route::TABLE_LOCAL, Kind::Local, scope::HOST);
        (r.proto, r.prefsrc) = (route::PROTO_KERNEL, a.addr.is_ipv4().then_some(a.addr));
        if a.addr.is_ipv6() {
            r.scope = 0;
        }
        if self.routes.add(r.clone(), mode).is_ok() {
            self.tell(&Change::Route(r));
        }
    }

    fn enter_routes(&self, i: &Interface, a: &Address) {
        let mode = Mode { create: true, append: true, ..Mode::default() };
        let add = |r: Route| {
            if self.routes.add(r.clone(), mode).is_ok() {
                self.tell(&Change::Route(r));
            }
        };
        self.enter_local_route(i, a);
        let subnet = Prefix::new(a.peer.unwrap_or(a.addr), a.prefix);
        let kernel = |dst: Prefix, kind: Kind, table: u32, scope: u8| {
            let mut r = Route::new(dst, i.index);
            (r.kind, r.table, r.scope, r.proto) = (kind, table, scope, route::PROTO_KERNEL);
            r.prefsrc = a.addr.is_ipv4().then_some(a.addr);
            r
        };
        let v4 = a.addr.is_ipv4();
        if i.is_loopback() && v4 && a.addr.is_loopback() && a.prefix < 32 {
            add(kernel(subnet, Kind::Local, route::TABLE_LOCAL, scope::HOST));
        } else if a.prefix < route::width(a.addr) || a.peer.is_some() {
            if a.flags & ifa::NOPREFIXROUTE == 0 && a.flags & ifa::SECONDARY == 0 {
                let mut r = kernel(subnet, Kind::Unicast, route::TABLE_MAIN, scope::LINK);
                r.metric = a.metric;
                if !v4 {
                    r.scope = 0;
                    r.metric = if a.metric == 0 { 256 } else { a.metric };
                }
                add(r);
            }
        } else if !v4 && a.flags & ifa::NOPREFIXROUTE == 0 {
            let mut r = kernel(subnet, Kind::Unicast, route::TABLE_MAIN, 0);
            r.metric = 256;
            add(r);
        }
        if v4 && a.prefix < 31 && a.flags & ifa::SECONDARY == 0 && a.peer.is_none() {
            let whole = u32::MAX.checked_shr(u32::from(a.prefix)).unwrap_or(0);
            let IpAddr::V4(n) = subnet.addr else { return };
            let last = Ipv4Addr::from(u32::from(n) | whole);
            let on_loopback = i.is_loopback();
            if on_loopback || a.broadcast == Some(last) || a.broadcast.is_none() {
                add(kernel(
                    Prefix::new(last.into(), 32),
                    Kind::Broadcast,
                    route::TABLE_LOCAL,
                    scope::LINK,
                ));
            }
        }
        if !v4 && !i.is_loopback() {
            let all = Prefix::new(Ipv6Addr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]).into(), 8);
            let mut r = kernel(all, Kind::Multicast, route::TABLE_LOCAL, 0);
            r.metric = 256;
            add(r);
        }
    }

    /// Removes an address and its routes: `EADDRNOTAVAIL` when it is not there.
    pub fn remove_address(&self, i: &Arc<Interface>, addr: IpAddr, prefix: u8) -> Result<()> {
        let (gone, promoted) = {
            let mut list = i.addrs.write();
            let at = list
                .iter()
                .position(|a| a.addr == addr && a.prefix == prefix)
                .ok_or(EADDRNOTAVAIL)?;
            let gone = list.remove(at);
            // The next address of the subnet takes over (promote_secondaries is on, as systemd sets it).
            let p = Prefix::new(addr, prefix);
            let mut promoted = None;
            if addr.is_ipv4() && gone.flags & ifa::SECONDARY == 0 {
                let next = list
                    .iter_mut()
                    .find(|o| o.addr.is_ipv4() && o.prefix == prefix && p.contains(o.addr));
                if let Some(o) = next {
                    o.flags &= !ifa::SECONDARY;
                    promoted = Some(o.clone());
                }
            }
            (gone, promoted)
        };
        let subnet = Prefix::new(gone.peer.unwrap_or(addr), prefix);
        let gone_routes = self.routes.remove_all(|r| {
            r.oif == i.index
                && r.proto == route::PROTO_KERNEL
                && ((r.kind == Kind::Local
                    && r.dst.addr == addr
                    && r.dst.len == route::width(addr))
                    || r.prefsrc == Some(addr)
                    || (addr.is_ipv6()
                        && r.kind == Kind::Unicast
                        && r.dst == subnet
                        && !self.others_in(i, subnet)))
        });
        for r in gone_routes {
            self.tell(&Change::RouteGone(r));
        }
        // Routes of programs that prefer the address as source go too, as on Linux.
        for r in self.routes.remove_all(|r| r.prefsrc == Some(addr)) {
            self.tell(&Change::RouteGone(r));
        }
        if let Some(a) = promoted {
            self.enter_routes(i, &a);
            self.tell(&Change::Address(i.index, a));
        }
        self.routes.touch();
        self.addrconf.removed(self, i, &gone);
        if let Some(f) = self.hooks.filter() {
            f.address_gone(self, i.index);
        }
        self.tell(&Change::AddressGone(i.index, gone));
        Ok(())
    }

    fn others_in(&self, i: &Interface, p: Prefix) -> bool {
        i.with_addresses(|l| l.iter().any(|a| a.prefix == p.len && p.contains(a.addr)))
    }

    // Packet sockets.

    pub(crate) fn add_tap(&self, s: &Arc<PacketSocket>) {
        let mut t = self.taps.write();
        t.push(Arc::downgrade(s));
        self.tap_count.store(t.len(), Ordering::SeqCst);
    }

    pub(crate) fn remove_tap(&self, s: &PacketSocket) {
        let mut t = self.taps.write();
        t.retain(|w| w.upgrade().is_some_and(|o| !std::ptr::eq(&*o, s)));
        self.tap_count.store(t.len(), Ordering::SeqCst);
    }

    fn taps(&self) -> Vec<Arc<PacketSocket>> {
        self.taps.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// Every packet socket of a program.
    pub fn packet_sockets(&self) -> Vec<Arc<PacketSocket>> {
        self.taps().into_iter().filter(|s| !s.is_hidden()).collect()
    }

    /// Shows a packet to packet sockets.
    pub(crate) fn tap(&self, cx: &mut Cx, i: &Arc<Interface>, p: &Packet, outgoing: bool) {
        if self.tap_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        for s in self.taps() {
            if !s.in_fanout() {
                s.offer(cx, i, p, outgoing);
            }
        }
        self.fanouts.offer(cx, i, p, outgoing);
    }
}

/// Tells of interfaces whose carrier depends on that of `i`.
pub(crate) fn carrier_changed(i: &Arc<Interface>) {
    if let Some((other, stack)) = i.device.dependent() {
        stack.tell(&Change::Link(other.index));
        if let Some(b) = other.bridge() {
            b.look_at_ports();
        }
    }
    if let Some(b) = i.bridge() {
        b.look_at_ports();
    }
}

/// Whether an interface can have the name.
pub fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > NAME_MAX
        || name == "."
        || name == ".."
        || name.bytes().any(|c| c == b'/' || c == b':' || c.is_ascii_whitespace());
    if bad { Err(EINVAL) } else { Ok(()) }
}
