//! Bridges (bridge(8), IEEE 802.1D without the spanning tree): interfaces as ports of one Ethernet.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::interface::{Device, Features, Interface, Link, Sent, count};
use crate::namespace::Place;
use crate::packet::Packet;
use crate::stack::{Change, Cx, Stack};
use crate::time::Time;
use crate::wire::ethernet::{Ethernet, HEADER, Mac};

/// Ports of a bridge (BR_MAX_PORTS).
pub const PORTS_MAX: u16 = 1023;
/// Learned addresses; what is beyond is not learned, so that frames with made-up sources cost no more memory.
pub const LEARNED_MAX: usize = 65_536;
/// Nanoseconds that a learned address is good for without a frame from it.
const AGEING: u64 = 300_000_000_000;

/// What a port does (IFLA_BRPORT_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    pub hairpin: bool,
    pub learning: bool,
    /// Frames to unknown stations, to groups, to all.
    pub flood: bool,
    pub mcast_flood: bool,
    pub bcast_flood: bool,
    /// Nothing goes from one isolated port to another.
    pub isolated: bool,
}

impl Default for PortFlags {
    fn default() -> PortFlags {
        PortFlags {
            hairpin: false,
            learning: true,
            flood: true,
            mcast_flood: true,
            bcast_flood: true,
            isolated: false,
        }
    }
}

/// A port.
#[derive(Clone)]
pub struct Port {
    pub iface: Arc<Interface>,
    pub number: u16,
    pub flags: PortFlags,
    pub priority: u16,
    pub cost: u32,
}

impl Port {
    /// BR_STATE_*: disabled, or forwarding.
    pub fn state(&self) -> u8 {
        if self.iface.has_carrier() { 3 } else { 0 }
    }
}

/// Times of the spanning tree protocol in hundredths of a second, and the bridge's priority in it: what programs set,
/// for them to find again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub forward_delay: u32,
    pub hello: u32,
    pub max_age: u32,
    pub priority: u16,
}

/// Where a station is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The port's interface; the bridge's own for an address of the bridge alone.
    pub iface: u32,
    /// Entered by a program, or an address of this machine.
    pub fixed: bool,
    /// Frames to it are for this machine.
    pub local: bool,
    pub used: Time,
    pub updated: Time,
}

struct State {
    ports: Vec<Port>,
    fdb: HashMap<Mac, Entry>,
    learned: usize,
    /// The address was chosen by a program and stays.
    own_mac: bool,
}

/// The device of a bridge's interface.
pub struct Bridge {
    me: Weak<Bridge>,
    times: Mutex<Times>,
    place: Mutex<Place>,
    state: Mutex<State>,
    ageing: AtomicU64,
}

impl Bridge {
    /// Makes a bridge; a `mac` stays, without one it follows the ports. Errors as of [`Stack::add_interface`].
    pub fn create(
        stack: &Arc<Stack>,
        name: &str,
        mac: Option<Mac>,
        random: Mac,
    ) -> Result<Arc<Interface>> {
        let times = Times { forward_delay: 1500, hello: 200, max_age: 2000, priority: 0x8000 };
        let device = Arc::new_cyclic(|me| Bridge {
            me: me.clone(),
            times: Mutex::new(Rank::LEAF, times),
            place: Mutex::new(Rank::LEAF, Place::default()),
            state: Mutex::new(
                Rank::LEAF,
                State {
                    ports: Vec::new(),
                    fdb: HashMap::new(),
                    learned: 0,
                    own_mac: mac.is_some(),
                },
            ),
            ageing: AtomicU64::new(AGEING),
        });
        stack.add_interface(
            name,
            Link::Ethernet,
            mac.unwrap_or(random),
            1500,
            crate::veth::MTU_MAX,
            device,
        )
    }

    /// The bridge behind an interface.
    pub fn of(i: &Interface) -> Option<&Bridge> {
        i.device.as_any()?.downcast_ref()
    }

    /// The same, to be kept.
    pub fn shared(i: &Interface) -> Option<Arc<Bridge>> {
        Bridge::of(i)?.me.upgrade()
    }

    /// What programs have set of the spanning tree protocol.
    pub fn times(&self) -> Times {
        *self.times.lock()
    }

    /// Changes it.
    pub fn set_times(&self, t: Times) {
        *self.times.lock() = t;
    }

    /// Its own interface.
    pub fn end(&self) -> Option<(Arc<Interface>, Arc<Stack>)> {
        let place = self.place.lock().clone();
        place.get()
    }

    /// Stations that were learned, those included that are too old.
    pub fn learned(&self) -> usize {
        self.state.lock().learned
    }

    /// Its ports in the order they came.
    pub fn ports(&self) -> Vec<Port> {
        self.state.lock().ports.clone()
    }

    /// The port that an interface is.
    pub fn port(&self, i: &Interface) -> Option<Port> {
        self.state.lock().ports.iter().find(|p| std::ptr::eq(&*p.iface, i)).cloned()
    }

    /// Changes a port.
    pub fn set_port(&self, i: &Interface, f: impl FnOnce(&mut Port)) {
        if let Some(p) = self.state.lock().ports.iter_mut().find(|p| std::ptr::eq(&*p.iface, i)) {
            f(p);
        }
    }

    /// Nanoseconds until a learned address is forgotten.
    pub fn ageing(&self) -> u64 {
        self.ageing.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set_ageing(&self, ns: u64) {
        self.ageing.store(ns, Ordering::Relaxed);
    }

    /// Makes `i` a port. `EBUSY` when it is one already, `EINVAL` for what is no Ethernet interface, `ELOOP` for a
    /// bridge, `ENOSPC` without room.
    pub fn add_port(self: &Arc<Bridge>, i: &Arc<Interface>) -> Result<()> {
        if i.link != Link::Ethernet {
            return Err(EINVAL);
        }
        if i.device.kind() == "bridge" {
            return Err(ELOOP);
        }
        {
            let mut at = i.bridge.write();
            if at.is_some() {
                return Err(EBUSY);
            }
            *at = Some(self.clone());
        }
        let added = {
            let mut s = self.state.lock();
            match (1..=PORTS_MAX).find(|n| s.ports.iter().all(|p| p.number != *n)) {
                None => false,
                Some(number) => {
                    let flags = PortFlags::default();
                    s.ports.push(Port { iface: i.clone(), number, flags, priority: 32, cost: 2 });
                    true
                }
            }
        };
        if !added {
            *i.bridge.write() = None;
            return Err(ENOSPC);
        }
        i.promisc.fetch_add(1, Ordering::Relaxed);
        self.ports_changed();
        self.tell(i);
        Ok(())
    }

    /// `i` is no port any more.
    pub fn remove_port(&self, i: &Arc<Interface>) {
        {
            let mut at = i.bridge.write();
            if !at.as_ref().is_some_and(|b| std::ptr::eq(&**b, self)) {
                return;
            }
            *at = None;
        }
        {
            let mut s = self.state.lock();
            s.ports.retain(|p| !Arc::ptr_eq(&p.iface, i));
            s.fdb.retain(|_, e| e.iface != i.index);
            s.learned = s.fdb.values().filter(|e| !e.fixed).count();
        }
        i.promisc.fetch_sub(1, Ordering::Relaxed);
        self.ports_changed();
        self.tell(i);
    }

    fn tell(&self, i: &Interface) {
        if let Some((own, stack)) = self.end() {
            stack.tell(&Change::Link(i.index));
            stack.tell(&Change::Link(own.index));
        }
    }

    /// The bridge's address is the lowest of its ports', its MTU the smallest (bridge-utils' rule, and Linux's).
    fn ports_changed(&self) {
        let Some((own, stack)) = self.end() else { return };
        let (ports, fixed) = {
            let s = self.state.lock();
            (s.ports.clone(), s.own_mac)
        };
        if let Some(lowest) = ports.iter().map(|p| p.iface.mac()).min()
            && !fixed
            && lowest != own.mac()
        {
            own.set_mac(lowest);
            stack.routes.touch();
        }
        if let Some(mtu) = ports.iter().map(|p| p.iface.mtu()).min()
            && mtu != own.mtu()
        {
            own.set_mtu(mtu);
            stack.routes.touch();
        }
    }

    // Addresses.

    /// Every station: those learned, those of programs, and the machine's own.
    pub fn entries(&self, now: Time) -> Vec<(Mac, Entry)> {
        let Some((own, _)) = self.end() else { return Vec::new() };
        let ageing = self.ageing();
        let s = self.state.lock();
        let local = |i: &Interface| {
            let e = Entry { iface: i.index, fixed: true, local: true, used: now, updated: now };
            (i.mac(), e)
        };
        let mut all: Vec<(Mac, Entry)> = s.ports.iter().map(|p| local(&p.iface)).collect();
        if !all.iter().any(|(m, _)| *m == own.mac()) {
            all.push(local(&own));
        }
        let fresh = |e: &Entry| e.fixed || now.since(e.used) <= ageing;
        all.extend(s.fdb.iter().filter(|(_, e)| fresh(e)).map(|(m, e)| (*m, *e)));
        all
    }

    /// Enters a station of a program: `EEXIST` with `exclusive` when there is one.
    pub fn enter(
        &self,
        mac: Mac,
        iface: u32,
        (fixed, local): (bool, bool),
        exclusive: bool,
        now: Time,
    ) -> Result<()> {
        let mut s = self.state.lock();
        if exclusive && s.fdb.contains_key(&mac) {
            return Err(EEXIST);
        }
        if s.fdb.len() >= LEARNED_MAX {
            return Err(ENOSPC);
        }
        s.fdb.insert(mac, Entry { iface, fixed, local, used: now, updated: now });
        s.learned = s.fdb.values().filter(|e| !e.fixed).count();
        Ok(())
    }

    /// Forgets a station: `ENOENT` when it is not known on that port.
    pub fn forget(&self, mac: Mac, iface: u32) -> Result<()> {
        let mut s = self.state.lock();
        if s.fdb.get(&mac).is_none_or(|e| e.iface != iface) {
            return Err(ENOENT);
        }
        s.fdb.remove(&mac);
        s.learned = s.fdb.values().filter(|e| !e.fixed).count();
        Ok(())
    }

    fn learn(&self, mac: Mac, port: u32, now: Time) {
        let ageing = self.ageing();
        let mut s = self.state.lock();
        // Addresses of this machine are not learned from what comes from outside.
        if s.ports.iter().any(|p| p.iface.mac() == mac) {
            return;
        }
        if let Some(e) = s.fdb.get_mut(&mac) {
            e.used = now;
            if e.iface != port && !e.fixed {
                (e.iface, e.updated) = (port, now);
            }
            return;
        }
        if s.learned >= LEARNED_MAX {
            s.fdb.retain(|_, e| e.fixed || now.since(e.used) <= ageing);
            s.learned = s.fdb.values().filter(|e| !e.fixed).count();
            if s.learned >= LEARNED_MAX {
                return;
            }
        }
        s.learned += 1;
        s.fdb.insert(
            mac,
            Entry { iface: port, fixed: false, local: false, used: now, updated: now },
        );
    }

    /// Whether frames to the address are for this machine.
    fn is_local(&self, mac: Mac) -> bool {
        let s = self.state.lock();
        s.ports.iter().any(|p| p.iface.mac() == mac) || s.fdb.get(&mac).is_some_and(|e| e.local)
    }

    /// The port that a station is behind.
    fn find(&self, mac: Mac, now: Time) -> Option<Port> {
        let s = self.state.lock();
        let e = s.fdb.get(&mac).filter(|e| e.fixed || now.since(e.used) <= self.ageing())?;
        s.ports.iter().find(|p| p.iface.index == e.iface).cloned()
    }

    // Frames.

    /// Takes a frame that a port received.
    pub(crate) fn receive(&self, cx: &mut Cx, from: &Arc<Interface>, h: &Ethernet, p: Packet) {
        let Some((own, _)) = self.end() else { return };
        let Some(port) = self.port(from) else { return };
        let drop = || count(&from.counters.rx_dropped, 1);
        if !own.is_up() || port.state() == 0 || !h.src.is_valid_unicast() {
            return drop();
        }
        if port.flags.learning {
            self.learn(h.src, from.index, cx.now);
        }
        // Addresses of protocols between neighbours are not for the next one; without a spanning tree here
        // its frames are data (group_fwd_mask 0).
        if let [0x01, 0x80, 0xc2, 0, 0, last] = h.dst.0
            && (1..16).contains(&last)
        {
            return drop();
        }
        if h.dst.is_multicast() {
            self.flood(cx, Some(&port), h.dst, &p);
            return self.up(cx, &own, p);
        }
        let ours = h.dst == own.mac() || self.is_local(h.dst);
        if ours {
            return self.up(cx, &own, p);
        }
        match self.find(h.dst, cx.now) {
            Some(to) => self.forward(cx, Some(&port), &to, p),
            None => self.flood(cx, Some(&port), h.dst, &p),
        }
    }

    /// For the machine itself.
    fn up(&self, cx: &mut Cx, own: &Arc<Interface>, p: Packet) {
        let stack = cx.stack().clone();
        stack.receive(cx, own, p.arrived());
    }

    fn flood(&self, cx: &mut Cx, from: Option<&Port>, dst: Mac, p: &Packet) {
        for to in self.ports() {
            let wanted = match dst {
                Mac::BROADCAST => to.flags.bcast_flood,
                m if m.is_multicast() => to.flags.mcast_flood,
                _ => to.flags.flood,
            };
            if wanted {
                self.forward(cx, from, &to, p.clone());
            }
        }
    }

    fn forward(&self, cx: &mut Cx, from: Option<&Port>, to: &Port, p: Packet) {
        let back = from.is_some_and(|f| f.number == to.number) && !to.flags.hairpin;
        let apart = from.is_some_and(|f| f.flags.isolated) && to.flags.isolated;
        if back || apart || to.state() == 0 {
            return;
        }
        // A frame that the other link cannot carry is lost, as on every bridge.
        if p.gso.is_none() && p.net_len() > to.iface.mtu() {
            count(&to.iface.counters.tx_dropped, 1);
            return;
        }
        let stack = cx.stack().clone();
        stack.send_frame(cx, &to.iface, p);
    }
}

impl Device for Bridge {
    fn features(&self) -> Features {
        // What a port does not do is done on the way to it.
        Features::ALL
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let mut sent = Sent::default();
        let Some((_, stack)) = self.end() else {
            sent.dropped = batch.len() as u64;
            batch.clear();
            return sent;
        };
        stack.enter(|cx| {
            for p in batch.drain(..) {
                let Ok(h) = Ethernet::parse(p.head()) else {
                    sent.errors += 1;
                    continue;
                };
                sent.packets += 1;
                sent.bytes += p.len() as u64;
                debug_assert!(p.link_len() >= HEADER);
                match self.find(h.dst, cx.now) {
                    Some(to) if !h.dst.is_multicast() => self.forward(cx, None, &to, p),
                    _ => self.flood(cx, None, h.dst, &p),
                }
            }
        });
        sent
    }

    fn set_mac(&self, _: Mac) -> Result<()> {
        self.state.lock().own_mac = true;
        Ok(())
    }

    fn driver(&self) -> (&'static str, String) {
        ("bridge", "N/A".into())
    }

    fn kind(&self) -> &'static str {
        "bridge"
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn attached(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) {
        *self.place.lock() = Place::new(iface, stack);
    }

    fn removed(&self) {
        for p in self.ports() {
            self.remove_port(&p.iface);
        }
    }

    fn carrier(&self) -> bool {
        self.state.lock().ports.iter().any(|p| p.iface.has_carrier())
    }
}
