//! Interfaces: addresses, flags, counters, and the queue in front of a device.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_base::{Mutex, Rank, RwLock};

use crate::bridge::Bridge;
use crate::hook::FrameHook;
use crate::packet::Packet;
use crate::snmp::SixCounters;
use crate::stack::{Cx, Stack};
use crate::time::Time;
use crate::vlan::Vlan;
use crate::wire::ethernet::Mac;

/// Flags of an interface (netdevice(7)).
pub mod iff {
    pub const UP: u32 = 0x1;
    pub const BROADCAST: u32 = 0x2;
    pub const LOOPBACK: u32 = 0x8;
    pub const POINTOPOINT: u32 = 0x10;
    pub const RUNNING: u32 = 0x40;
    pub const NOARP: u32 = 0x80;
    pub const PROMISC: u32 = 0x100;
    pub const ALLMULTI: u32 = 0x200;
    pub const MULTICAST: u32 = 0x1000;
    pub const LOWER_UP: u32 = 0x10000;
    /// What programs may change.
    pub const SETTABLE: u32 = UP | PROMISC | ALLMULTI | NOARP | MULTICAST;
}

/// What a device does so that the stack need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Completes partial checksums.
    pub tx_csum: bool,
    /// Cuts TCP super-segments of IPv4, of IPv6, and UDP ones.
    pub tso4: bool,
    pub tso6: bool,
    pub uso: bool,
}

impl Features {
    pub const NONE: Features = Features { tx_csum: false, tso4: false, tso6: false, uso: false };
    pub const ALL: Features = Features { tx_csum: true, tso4: true, tso6: true, uso: true };
}

/// How frames of an interface look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Loopback,
    Ethernet,
    /// Bare IP packets.
    None,
}

/// The far side of an interface. Calls come without locks, one [`Device::transmit`] at a time.
pub trait Device: Send + Sync {
    /// What it does in hardware (or on the host).
    fn features(&self) -> Features;

    /// The interface goes up.
    fn open(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) -> Result<()> {
        let _ = (iface, stack);
        Ok(())
    }

    /// The interface goes down.
    fn close(&self) {}

    /// Sends packets from the front of `batch` and takes out what it has sent (or dropped). What is left
    /// waits until the device calls [`Interface::resume`].
    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent;

    /// Packets were sent in this step: takes what the other end has answered already, without waiting for more. The answer to
    /// who sleeps for it then needs no other thread.
    fn answers(&self, cx: &mut Cx, iface: &Arc<Interface>) {
        let _ = (cx, iface);
    }

    /// The hardware address changes; `EOPNOTSUPP` when it cannot.
    fn set_mac(&self, mac: Mac) -> Result<()> {
        let _ = mac;
        Ok(())
    }

    /// Bytes that were sent, and acknowledged to the sender, but have not left this process yet.
    fn undelivered(&self) -> u64 {
        0
    }

    /// Driver name for ethtool, and the bus name.
    fn driver(&self) -> (&'static str, String) {
        ("", String::new())
    }

    /// The kind of a virtual interface (IFLA_INFO_KIND), which may be deleted; empty for others.
    fn kind(&self) -> &'static str {
        ""
    }

    /// The device itself, for who knows its kind.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// The interface is part of a namespace now: it was made, or moved there.
    fn attached(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) {
        let _ = (iface, stack);
    }

    /// The interface is gone for good; what cannot be without it goes too.
    fn removed(&self) {}

    /// Whether something is at the other end, while the interface is up.
    fn carrier(&self) -> bool {
        true
    }

    /// The interface that this one is the other end of, or stands upon.
    fn lower(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        None
    }

    /// The interface whose carrier depends on this one.
    fn dependent(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        None
    }
}

/// Outcome of a transmission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub packets: u64,
    pub bytes: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Traffic counters.
#[derive(Default)]
pub struct Counters {
    pub rx_packets: AtomicU64,
    pub rx_bytes: AtomicU64,
    pub rx_errors: AtomicU64,
    pub rx_dropped: AtomicU64,
    pub multicast: AtomicU64,
    pub tx_packets: AtomicU64,
    pub tx_bytes: AtomicU64,
    pub tx_errors: AtomicU64,
    pub tx_dropped: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn count(c: &AtomicU64, n: u64) {
    c.fetch_add(n, Ordering::Relaxed);
}

/// Lifetimes and states of addresses (rtnetlink(7), if_addr.h).
pub mod ifa {
    pub const NODAD: u32 = 0x02;
    pub const DADFAILED: u32 = 0x08;
    pub const DEPRECATED: u32 = 0x20;
    pub const TENTATIVE: u32 = 0x40;
    pub const PERMANENT: u32 = 0x80;
    pub const MANAGETEMPADDR: u32 = 0x100;
    pub const NOPREFIXROUTE: u32 = 0x200;
    pub const SECONDARY: u32 = 0x01;
}

/// Scopes (rtnetlink(7)).
pub mod scope {
    pub const UNIVERSE: u8 = 0;
    pub const SITE: u8 = 200;
    pub const LINK: u8 = 253;
    pub const HOST: u8 = 254;
    pub const NOWHERE: u8 = 255;
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub addr: IpAddr,
    pub prefix: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub broadcast: Option<Ipv4Addr>,
    pub label: Option<String>,
    pub scope: u8,
    pub flags: u32,
    /// Ends of its lifetimes; `NEVER` is for ever.
    pub valid: Time,
    pub preferred: Time,
    pub metric: u32,
    pub proto: u8,
    pub created: Time,
}

impl Address {
    /// A permanent address.
    pub fn new(addr: IpAddr, prefix: u8) -> Address {
        Address {
            addr,
            prefix,
            peer: None,
            broadcast: None,
            label: None,
            scope: scope_of(addr),
            flags: ifa::PERMANENT,
            valid: Time::NEVER,
            preferred: Time::NEVER,
            metric: 0,
            proto: 0,
            created: Time(0),
        }
    }

    /// Usable: not waiting for duplicate address detection.
    pub fn usable(&self) -> bool {
        self.flags & (ifa::TENTATIVE | ifa::DADFAILED) == 0
    }
}

/// Natural scope of an address.
pub fn scope_of(a: IpAddr) -> u8 {
    match a {
        IpAddr::V4(a) if a.is_loopback() => scope::HOST,
        IpAddr::V4(a) if a.is_link_local() => scope::LINK,
        IpAddr::V4(_) => scope::UNIVERSE,
        IpAddr::V6(a) if a.is_loopback() => scope::HOST,
        IpAddr::V6(a) if is_link_local(a) => scope::LINK,
        IpAddr::V6(_) => scope::UNIVERSE,
    }
}

/// fe80::/10.
pub fn is_link_local(a: Ipv6Addr) -> bool {
    a.segments()[0] & 0xffc0 == 0xfe80
}

/// An interface of a namespace.
pub struct Interface {
    pub index: u32,
    /// What the interface is in the namespace that it was moved to.
    moved: Mutex<Option<(Arc<Interface>, Weak<Stack>)>>,
    /// The bridge that it is a port of.
    pub(crate) bridge: RwLock<Option<Arc<Bridge>>>,
    /// VLAN interfaces upon it, by identifier.
    pub(crate) vlans: RwLock<Vec<Arc<Vlan>>>,
    /// It was up before: it has a queueing discipline.
    was_up: AtomicBool,
    name: Mutex<String>,
    pub link: Link,
    mac: Mutex<Mac>,
    mtu: AtomicUsize,
    /// Largest MTU that the device takes.
    pub max_mtu: usize,
    flags: AtomicU32,
    pub promisc: AtomicU32,
    pub tx_queue_len: AtomicUsize,
    pub device: Arc<dyn Device>,
    pub(crate) addrs: RwLock<Vec<Address>>,
    queue: Mutex<VecDeque<Packet>>,
    draining: AtomicBool,
    stopped: AtomicBool,
    /// How often the device said that it can take packets again.
    resumed: AtomicU64,
    /// Groups joined, with the number of members.
    pub(crate) groups: Mutex<BTreeMap<IpAddr, u32>>,
    pub counters: Counters,
    /// IPv6 settings (net.ipv6.conf.NAME).
    pub v6: V6Conf,
    pub alias: Mutex<String>,
    pub group: AtomicU32,
    /// Further names it is found by (ip-link(8), `property add altname`).
    pub(crate) alt_names: RwLock<Vec<String>>,
}

/// net.ipv6.conf.NAME of an interface.
pub struct V6Conf {
    pub disabled: AtomicBool,
    pub accept_ra: AtomicU32,
    pub autoconf: AtomicBool,
    pub dad: AtomicU32,
    pub addr_gen: AtomicU32,
    pub hop_limit: AtomicU32,
    pub mtu: AtomicUsize,
    /// What passed here (/proc/net/dev_snmp6).
    pub counters: SixCounters,
}

impl Interface {
    pub(crate) fn new(
        index: u32,
        name: &str,
        link: Link,
        mac: Mac,
        mtu: usize,
        max_mtu: usize,
        device: Arc<dyn Device>,
    ) -> Arc<Interface> {
        let flags = match link {
            Link::Loopback => iff::LOOPBACK,
            Link::Ethernet => iff::BROADCAST | iff::MULTICAST,
            Link::None => iff::POINTOPOINT | iff::NOARP | iff::MULTICAST,
        };
        Arc::new(Interface {
            index,
            moved: Mutex::new(Rank::LEAF, None),
            bridge: RwLock::new(Rank::LEAF, None),
            vlans: RwLock::new(Rank::LEAF, Vec::new()),
            was_up: AtomicBool::new(false),
            name: Mutex::new(Rank::LEAF, name.to_owned()),
            link,
            mac: Mutex::new(Rank::LEAF, mac),
            mtu: AtomicUsize::new(mtu),
            max_mtu,
            flags: AtomicU32::new(flags),
            promisc: AtomicU32::new(0),
            tx_queue_len: AtomicUsize::new(1000),
            device,
            addrs: RwLock::new(Rank::LEAF, Vec::new()),
            queue: Mutex::new(Rank::LEAF, VecDeque::new()),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            resumed: AtomicU64::new(0),
            groups: Mutex::new(Rank::LEAF, BTreeMap::new()),
            counters: Counters::default(),
            v6: V6Conf {
                disabled: AtomicBool::new(false),
                accept_ra: AtomicU32::new(1),
                autoconf: AtomicBool::new(true),
                dad: AtomicU32::new(1),
                addr_gen: AtomicU32::new(0),
                hop_limit: AtomicU32::new(64),
                mtu: AtomicUsize::new(0),
                counters: SixCounters::default(),
            },
            alias: Mutex::new(Rank::LEAF, String::new()),
            group: AtomicU32::new(0),
            alt_names: RwLock::new(Rank::LEAF, Vec::new()),
        })
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.name.lock().clone()
    }

    pub(crate) fn rename(&self, name: &str) {
        *self.name.lock() = name.to_owned();
    }

    /// Hardware address.
    pub fn mac(&self) -> Mac {
        *self.mac.lock()
    }

    pub(crate) fn set_mac(&self, mac: Mac) {
        *self.mac.lock() = mac;
    }

    /// Largest IP packet.
    pub fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed)
    }

    pub(crate) fn set_mtu(&self, mtu: usize) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Flags of [`iff`], without the derived ones.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::SeqCst)
    }

    /// Its further names.
    pub fn alt_names(&self) -> Vec<String> {
        self.alt_names.read().clone()
    }

    /// Whether `name` is its name or one of the others.
    pub fn is_called(&self, name: &str) -> bool {
        self.name() == name || self.alt_names.read().iter().any(|n| n == name)
    }

    /// Flags as programs see them.
    pub fn shown_flags(&self) -> u32 {
        let f = self.flags();
        if self.has_carrier() { f | iff::RUNNING | iff::LOWER_UP } else { f }
    }

    /// Up, with something at the other end.
    pub fn has_carrier(&self) -> bool {
        self.is_up() && self.device.carrier()
    }

    /// Up now or before.
    pub fn was_up(&self) -> bool {
        self.was_up.load(Ordering::Relaxed)
    }

    /// The bridge that it is a port of.
    pub fn bridge(&self) -> Option<Arc<Bridge>> {
        self.bridge.read().clone()
    }

    /// VLAN interfaces upon it.
    pub fn vlans(&self) -> Vec<Arc<Vlan>> {
        self.vlans.read().clone()
    }

    /// What it is now, after it was moved to other namespaces.
    pub fn present(self: &Arc<Interface>) -> (Arc<Interface>, Option<Arc<Stack>>) {
        let mut at = (self.clone(), None);
        loop {
            let next = at.0.moved.lock().as_ref().map(|(i, s)| (i.clone(), s.upgrade()));
            match next {
                Some(n) => at = n,
                None => return at,
            }
        }
    }

    /// The same interface for another namespace: its settings, addresses of its stations not.
    pub(crate) fn transplant(
        self: &Arc<Interface>,
        index: u32,
        name: &str,
        stack: &Arc<Stack>,
    ) -> Arc<Interface> {
        let new = Interface::new(
            index,
            name,
            self.link,
            self.mac(),
            self.mtu(),
            self.max_mtu,
            self.device.clone(),
        );
        new.tx_queue_len.store(self.tx_queue_len.load(Ordering::Relaxed), Ordering::Relaxed);
        new.group.store(self.group.load(Ordering::Relaxed), Ordering::Relaxed);
        new.flags.store(self.flags(), Ordering::SeqCst);
        *new.alias.lock() = self.alias.lock().clone();
        // Those that mean another one there are lost.
        let free = |n: &String| stack.interface_named(n).is_none();
        *new.alt_names.write() = self.alt_names().into_iter().filter(free).collect();
        *new.vlans.write() = std::mem::take(&mut *self.vlans.write());
        let (from, to) = (&self.counters, &new.counters);
        for (f, t) in [
            (&from.rx_packets, &to.rx_packets),
            (&from.rx_bytes, &to.rx_bytes),
            (&from.tx_packets, &to.tx_packets),
            (&from.tx_bytes, &to.tx_bytes),
            (&from.rx_dropped, &to.rx_dropped),
            (&from.tx_dropped, &to.tx_dropped),
        ] {
            t.store(f.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        *self.moved.lock() = Some((new.clone(), Arc::downgrade(stack)));
        new
    }

    pub(crate) fn set_flags(&self, set: u32, mask: u32) {
        if set & mask & iff::UP != 0 {
            self.was_up.store(true, Ordering::Relaxed);
        }
        let _ = self
            .flags
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |f| Some((f & !mask) | (set & mask)));
    }

    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.flags() & iff::UP != 0
    }

    /// The loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.link == Link::Loopback
    }

    /// A copy of its addresses.
    pub fn addresses(&self) -> Vec<Address> {
        self.addrs.read().clone()
    }

    /// Runs `f` over the addresses without a copy; `f` takes no locks.
    pub fn with_addresses<R>(&self, f: impl FnOnce(&[Address]) -> R) -> R {
        f(&self.addrs.read())
    }

    /// Groups joined on it.
    pub fn joined(&self) -> Vec<(IpAddr, u32)> {
        self.groups.lock().iter().map(|(a, n)| (*a, *n)).collect()
    }

    /// True when the group was joined.
    pub fn in_group(&self, a: IpAddr) -> bool {
        self.groups.lock().contains_key(&a)
    }

    /// Puts a packet on the queue; it goes out when the caller's [`Cx`] ends. A full queue drops.
    pub fn enqueue(self: &Arc<Self>, cx: &mut Cx, mut p: Packet) {
        if !self.is_up() {
            count(&self.counters.tx_dropped, 1);
            return;
        }
        let stack = cx.stack().clone();
        if !stack.passes_at(cx, FrameHook::Egress, &mut p, None, Some(self)) {
            count(&self.counters.tx_dropped, 1);
            return;
        }
        stack.tap(cx, self, &p, true);
        {
            let mut q = self.queue.lock();
            let limit = match self.link {
                // Nothing is behind it that could be slow; senders are bounded by their receivers.
                Link::Loopback => 100_000,
                _ => self.tx_queue_len.load(Ordering::Relaxed).max(1),
            };
            if let Some(s) = &p.told.0 {
                s.queued_at(stack.realtime());
            }
            if q.len() >= limit {
                drop(q);
                count(&self.counters.tx_dropped, 1);
                return;
            }
            q.push_back(p);
        }
        cx.touch(self);
    }

    /// Packets waiting.
    pub fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    /// Drops what waits.
    pub(crate) fn flush(&self) {
        let n = std::mem::take(&mut *self.queue.lock()).len();
        count(&self.counters.tx_dropped, n as u64);
        self.stopped.store(false, Ordering::SeqCst);
    }

    /// The device can take packets again.
    pub fn resume(self: &Arc<Self>, stack: &Arc<Stack>) {
        self.resumed.fetch_add(1, Ordering::SeqCst);
        self.stopped.store(false, Ordering::SeqCst);
        stack.enter(|cx| cx.touch(self));
    }

    /// Empties the queue, unless somebody else does: then that one takes what is there now, too. True when a device was given
    /// packets.
    pub(crate) fn drain(self: &Arc<Self>, cx: &mut Cx) -> bool {
        let mut sent = false;
        loop {
            if self.stopped.load(Ordering::SeqCst) || self.draining.swap(true, Ordering::SeqCst) {
                return sent;
            }
            sent |= self.drain_as_owner(cx);
            self.draining.store(false, Ordering::SeqCst);
            if self.queue.lock().is_empty() || self.stopped.load(Ordering::SeqCst) {
                return sent;
            }
        }
    }

    fn drain_as_owner(self: &Arc<Self>, cx: &mut Cx) -> bool {
        let mut any = false;
        loop {
            let mut batch = std::mem::take(&mut *self.queue.lock());
            if batch.is_empty() {
                return any;
            }
            for p in &mut batch {
                if let Some(s) = p.told.0.take() {
                    s.leaves(cx, p);
                }
            }
            if self.link == Link::Loopback {
                while let Some(mut p) = batch.pop_front() {
                    let n = p.net_len() as u64;
                    for c in [&self.counters.tx_packets, &self.counters.rx_packets] {
                        count(c, 1);
                    }
                    for c in [&self.counters.tx_bytes, &self.counters.rx_bytes] {
                        count(c, n);
                    }
                    let stack = cx.stack().clone();
                    stack.tap(cx, self, &p, false);
                    if stack.passes_at(cx, FrameHook::Ingress, &mut p, Some(self), None) {
                        stack.receive_ip(cx, self, p);
                    }
                    cx.wake();
                }
                continue;
            }
            let resumed = self.resumed.load(Ordering::SeqCst);
            let sent = self.device.transmit(&mut batch);
            any |= sent.packets > 0;
            count(&self.counters.tx_packets, sent.packets);
            count(&self.counters.tx_bytes, sent.bytes);
            count(&self.counters.tx_errors, sent.errors);
            count(&self.counters.tx_dropped, sent.dropped);
            if !batch.is_empty() {
                self.stopped.store(true, Ordering::SeqCst);
                let mut q = self.queue.lock();
                while let Some(p) = batch.pop_back() {
                    q.push_front(p);
                }
                drop(q);
                // There may be room again before it was noted here that there was none.
                if self.resumed.load(Ordering::SeqCst) == resumed {
                    return any;
                }
                self.stopped.store(false, Ordering::SeqCst);
            }
        }
    }
}

/// The loopback device: the interface gives packets back by itself.
pub struct Loopback;

impl Device for Loopback {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        batch.clear();
        Sent::default()
    }
}

/// An interface that takes everything and gives nothing (ip-link(8) `type dummy`).
pub struct Dummy;

impl Device for Dummy {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let mut s = Sent::default();
        for p in batch.drain(..) {
            s.packets += 1;
            s.bytes += p.len() as u64;
        }
        s
    }

    fn driver(&self) -> (&'static str, String) {
        ("dummy", String::new())
    }

    fn kind(&self) -> &'static str {
        "dummy"
    }
}
