//! Bridges (bridge(8), IEEE 802.1D): interfaces as ports of one Ethernet, with the spanning tree protocol of [`stp`].

pub mod stp;
#[cfg(test)]
mod stp_tests;
mod tree;
pub mod vlans;

pub use tree::View;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::hook::FrameHook;
use crate::interface::{Device, Features, Interface, Link, Sent, count, iff};
use crate::namespace::Place;
use crate::packet::Packet;
use crate::stack::{Change, Cx, Stack};
use crate::time::{SEC, Time};
use crate::timer::Armed;
use crate::wire::ethernet::{Ethernet, HEADER, Mac};
use vlans::Vlans;

/// Ports of a bridge (BR_MAX_PORTS).
pub const PORTS_MAX: u16 = 1023;
/// Learned addresses; what is beyond is not learned, so that frames with made-up sources cost no more memory.
pub const LEARNED_MAX: usize = 65_536;
/// Nanoseconds that a learned address is good for without a frame from it.
const AGEING: u64 = 300 * SEC;
/// The VLAN of frames without a tag where nobody says another.
const DEFAULT_PVID: u16 = 1;

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
    pub flags: PortFlags,
    pub stp: stp::Port,
    pub vlans: Vlans,
}

impl AsRef<stp::Port> for Port {
    fn as_ref(&self) -> &stp::Port {
        &self.stp
    }
}

impl AsMut<stp::Port> for Port {
    fn as_mut(&mut self) -> &mut stp::Port {
        &mut self.stp
    }
}

impl Port {
    /// Its state; without a carrier it is disabled whether the bridge has noticed or not.
    pub fn state(&self) -> stp::State {
        if self.iface.has_carrier() { self.stp.state } else { stp::State::Disabled }
    }
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
    /// By address and VLAN, which is 0 while VLANs are not told apart.
    fdb: HashMap<(Mac, u16), Entry>,
    learned: usize,
    /// The address was chosen by a program and stays.
    own_mac: bool,
    tree: stp::Bridge,
    /// VLANs are told apart (vlan_filtering).
    filtering: bool,
    /// The one of ports that come; 0 for none.
    default_pvid: u16,
    /// Those of the bridge's own interface.
    vlans: Vlans,
}

/// The device of a bridge's interface.
pub struct Bridge {
    me: Weak<Bridge>,
    place: Mutex<Place>,
    state: Mutex<State>,
    ageing: AtomicU64,
    armed: Armed,
}

impl Bridge {
    /// Makes a bridge; a `mac` stays, without one it follows the ports. Errors as of [`Stack::add_interface`].
    pub fn create(
        stack: &Arc<Stack>,
        name: &str,
        mac: Option<Mac>,
        random: Mac,
    ) -> Result<Arc<Interface>> {
        /// The priority that nobody has chosen.
        const PRIORITY: u16 = 0x8000;
        let mut tree = stp::Bridge::new(PRIORITY);
        if let Some(m) = mac {
            tree.id = stp::Bridge::id_of(PRIORITY, m);
            tree.root = tree.id;
        }
        let device = Arc::new_cyclic(|me| Bridge {
            me: me.clone(),
            place: Mutex::new(Rank::LEAF, Place::default()),
            state: Mutex::new(
                Rank::LEAF,
                State {
                    ports: Vec::new(),
                    fdb: HashMap::new(),
                    learned: 0,
                    own_mac: mac.is_some(),
                    tree,
                    filtering: false,
                    default_pvid: DEFAULT_PVID,
                    vlans: Vlans::new(DEFAULT_PVID),
                },
            ),
            ageing: AtomicU64::new(AGEING),
            armed: Armed::default(),
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

    /// Changes what a port does.
    pub fn set_flags(&self, i: &Interface, f: PortFlags) {
        if let Some(p) = self.state.lock().ports.iter_mut().find(|p| std::ptr::eq(&*p.iface, i)) {
            p.flags = f;
        }
    }

    /// Changes something of what a port does: `EINVAL` for what is no port.
    pub fn change_flags(&self, i: &Interface, f: impl FnOnce(&mut PortFlags)) -> Result<()> {
        let mut s = self.state.lock();
        let p = s.ports.iter_mut().find(|p| std::ptr::eq(&*p.iface, i)).ok_or(EINVAL)?;
        f(&mut p.flags);
        Ok(())
    }

    /// Forgets what was learned, of one port or of all.
    pub fn flush(&self, port: Option<u32>) {
        let mut s = self.state.lock();
        s.fdb.retain(|_, e| e.fixed || port.is_some_and(|p| p != e.iface));
        s.learned = s.fdb.values().filter(|e| !e.fixed).count();
    }

    /// Nanoseconds until a learned address is forgotten: sooner while the topology changes (802.1D 8.3.5).
    pub fn ageing(&self) -> u64 {
        let s = self.state.lock();
        self.ageing_of(&s)
    }

    fn ageing_of(&self, s: &State) -> u64 {
        if s.tree.topology_change {
            2 * s.tree.times.forward_delay
        } else {
            self.ageing.load(Ordering::Relaxed)
        }
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
            match (1..=PORTS_MAX).find(|n| s.ports.iter().all(|p| p.stp.number != *n)) {
                None => false,
                Some(number) => {
                    let (flags, stp) = (PortFlags::default(), stp::Port::new(number));
                    let vlans = Vlans::new(s.default_pvid);
                    s.ports.push(Port { iface: i.clone(), flags, stp, vlans });
                    true
                }
            }
        };
        if !added {
            *i.bridge.write() = None;
            return Err(ENOSPC);
        }
        i.promisc.fetch_add(1, Ordering::Relaxed);
        let at = self.ports().len() - 1;
        self.step(|s| s.add_port(at));
        self.ports_changed();
        self.look_at_ports();
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
        let at = self.ports().iter().position(|p| Arc::ptr_eq(&p.iface, i));
        if let Some(at) = at {
            self.step(|s| {
                if s.ports[at].stp.state != stp::State::Disabled {
                    s.disable_port(at);
                }
            });
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
        // Without ports there is none, as on Linux.
        let lowest = ports.iter().map(|p| p.iface.mac()).min().unwrap_or(Mac::ZERO);
        if !fixed {
            if lowest != own.mac() {
                own.set_mac(lowest);
                stack.routes.touch();
            }
            self.step(|s| s.set_address(lowest));
        }
        if let Some(mtu) = ports.iter().map(|p| p.iface.mtu()).min()
            && mtu != own.mtu()
        {
            own.set_mtu(mtu);
            stack.routes.touch();
        }
    }

    // VLANs.

    /// VLANs are told apart.
    pub fn filters(&self) -> bool {
        self.state.lock().filtering
    }

    /// Tells VLANs apart, or does not any more; what was learned is of the other kind and goes.
    pub fn set_filtering(&self, on: bool) {
        let mut s = self.state.lock();
        if s.filtering != on {
            s.filtering = on;
            s.fdb.retain(|(_, vid), e| e.fixed && (on || *vid == 0));
            s.learned = 0;
        }
    }

    /// The VLAN of ports that come; 0 for none.
    pub fn default_pvid(&self) -> u16 {
        self.state.lock().default_pvid
    }

    /// Changes it, and that of ports that still have it: `EINVAL` for a number that there is not, `EPERM` while VLANs are told apart.
    pub fn set_default_pvid(&self, vid: u16) -> Result<()> {
        if vid >= vlans::END {
            return Err(EINVAL);
        }
        let s = &mut *self.state.lock();
        if vid == s.default_pvid {
            return Ok(());
        }
        if s.filtering {
            return Err(EPERM);
        }
        let old = std::mem::replace(&mut s.default_pvid, vid);
        s.vlans.follow(old, vid);
        for p in &mut s.ports {
            p.vlans.follow(old, vid);
        }
        Ok(())
    }

    /// Those of the bridge's own interface.
    pub fn own_vlans(&self) -> Vlans {
        self.state.lock().vlans.clone()
    }

    /// Changes those of a port, or without one of the bridge's own interface.
    pub fn change_vlans(&self, i: Option<&Interface>, f: impl FnOnce(&mut Vlans)) -> Result<()> {
        let s = &mut *self.state.lock();
        let (of, index) = match i {
            None => (&mut s.vlans, None),
            Some(i) => {
                let p = s.ports.iter_mut().find(|p| std::ptr::eq(&*p.iface, i)).ok_or(EINVAL)?;
                (&mut p.vlans, Some(i.index))
            }
        };
        f(of);
        // Stations are not where their VLAN is not.
        let there = of.clone();
        s.fdb.retain(|(_, v), e| Some(e.iface) != index || *v == 0 || there.has(*v));
        s.learned = s.fdb.values().filter(|e| !e.fixed).count();
        Ok(())
    }

    // Addresses.

    /// Every station: those learned, those of programs, and the machine's own.
    /// Each with its VLAN, or 0.
    pub fn entries(&self, now: Time) -> Vec<(Mac, u16, Entry)> {
        let Some((own, _)) = self.end() else { return Vec::new() };
        let ageing = self.ageing();
        let s = self.state.lock();
        let local = |i: &Interface| {
            let e = Entry { iface: i.index, fixed: true, local: true, used: now, updated: now };
            (i.mac(), 0, e)
        };
        let mut all: Vec<(Mac, u16, Entry)> = s.ports.iter().map(|p| local(&p.iface)).collect();
        if !all.iter().any(|(m, ..)| *m == own.mac()) {
            all.push(local(&own));
        }
        let fresh = |e: &Entry| e.fixed || now.since(e.used) <= ageing;
        all.extend(s.fdb.iter().filter(|(_, e)| fresh(e)).map(|((m, v), e)| (*m, *v, *e)));
        all
    }

    /// Enters a station of a program, `(address, VLAN)`: `EEXIST` with `exclusive` when there is one, `EINVAL` for a VLAN that the port is
    /// not in. Without a VLAN it is in all of the port's, while they are told apart.
    pub fn enter(
        &self,
        station: (Mac, u16),
        iface: u32,
        (fixed, local): (bool, bool),
        exclusive: bool,
        now: Time,
    ) -> Result<()> {
        let mut s = self.state.lock();
        let (mac, vid) = station;
        let of = s.ports.iter().find(|p| p.iface.index == iface).map_or(&s.vlans, |p| &p.vlans);
        if vid != 0 && !of.has(vid) {
            return Err(EINVAL);
        }
        let mut all = vec![vid];
        if vid == 0 && s.filtering {
            all.extend(of.iter().map(|(v, _)| v));
        }
        if exclusive && all.iter().any(|v| s.fdb.contains_key(&(mac, *v))) {
            return Err(EEXIST);
        }
        if s.fdb.len() + all.len() > LEARNED_MAX {
            return Err(ENOSPC);
        }
        for v in all {
            s.fdb.insert((mac, v), Entry { iface, fixed, local, used: now, updated: now });
        }
        s.learned = s.fdb.values().filter(|e| !e.fixed).count();
        Ok(())
    }

    /// Forgets a station, of VLAN 0 in all VLANs: `ENOENT` when it is not known on that port.
    pub fn forget(&self, (mac, vid): (Mac, u16), iface: u32) -> Result<()> {
        let mut s = self.state.lock();
        let before = s.fdb.len();
        s.fdb.retain(|(m, v), e| *m != mac || e.iface != iface || (vid != 0 && *v != vid));
        if s.fdb.len() == before {
            return Err(ENOENT);
        }
        s.learned = s.fdb.values().filter(|e| !e.fixed).count();
        Ok(())
    }

    fn learn(&self, (mac, vid): (Mac, u16), port: u32, now: Time) {
        let mut s = self.state.lock();
        let ageing = self.ageing_of(&s);
        // Addresses of this machine are not learned from what comes from outside.
        if s.ports.iter().any(|p| p.iface.mac() == mac) {
            return;
        }
        if let Some(e) = s.fdb.get_mut(&(mac, vid)) {
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
            (mac, vid),
            Entry { iface: port, fixed: false, local: false, used: now, updated: now },
        );
    }

    /// Whether frames to the address are for this machine.
    fn is_local(&self, mac: Mac, vid: u16) -> bool {
        let s = self.state.lock();
        s.ports.iter().any(|p| p.iface.mac() == mac)
            || s.fdb.get(&(mac, vid)).is_some_and(|e| e.local)
    }

    /// The port that a station is behind.
    fn find(&self, mac: Mac, vid: u16, now: Time) -> Option<Port> {
        let s = self.state.lock();
        let ageing = self.ageing_of(&s);
        let e = s.fdb.get(&(mac, vid)).filter(|e| e.fixed || now.since(e.used) <= ageing)?;
        s.ports.iter().find(|p| p.iface.index == e.iface).cloned()
    }

    // Frames.

    /// Takes a frame that a port received.
    pub(crate) fn receive(&self, cx: &mut Cx, from: &Arc<Interface>, h: &Ethernet, mut p: Packet) {
        let Some((own, _)) = self.end() else { return };
        let Some(port) = self.port(from) else { return };
        let drop = || count(&from.counters.rx_dropped, 1);
        if !own.is_up() || port.state() == stp::State::Disabled || !h.src.is_valid_unicast() {
            return drop();
        }
        // Addresses of protocols between neighbours are not for the next one; without a spanning tree here
        // its frames are data (group_fwd_mask 0).
        if let [0x01, 0x80, 0xc2, 0, 0, last] = h.dst.0
            && last < 16
            && (last != 0 || self.runs_stp())
        {
            return if last == 0 { self.heard(cx, from, p) } else { drop() };
        }
        let learns = matches!(port.state(), stp::State::Learning | stp::State::Forwarding);
        let stack = cx.stack().clone();
        if learns && !stack.passes_at(cx, FrameHook::BridgePrerouting, &mut p, Some(from), None) {
            return;
        }
        // The rules may have sent it elsewhere.
        let Ok(again) = Ethernet::parse(p.link()) else { return drop() };
        let h = &again;
        let vid = match self.filters().then(|| port.vlans.classify(p.tag())) {
            None => 0,
            Some(None) => return drop(),
            Some(Some(tag)) => {
                p.retag(Some(tag));
                tag & 0xfff
            }
        };
        if learns && port.flags.learning {
            self.learn((h.src, vid), from.index, cx.now);
        }
        if port.state() != stp::State::Forwarding {
            return drop();
        }
        if h.dst.is_multicast() {
            self.flood(cx, Some(&port), (h.dst, vid), &p);
            return self.up(cx, from, &own, vid, p);
        }
        let ours = h.dst == own.mac() || self.is_local(h.dst, vid);
        if ours {
            return self.up(cx, from, &own, vid, p);
        }
        match self.find(h.dst, vid, cx.now) {
            Some(to) => self.forward(cx, Some(&port), &to, vid, p),
            None => self.flood(cx, Some(&port), (h.dst, vid), &p),
        }
    }

    /// For the machine itself, if its part of the bridge is in the VLAN, or sees everything.
    fn up(
        &self,
        cx: &mut Cx,
        from: &Arc<Interface>,
        own: &Arc<Interface>,
        vid: u16,
        mut p: Packet,
    ) {
        let untagged = self.state.lock().vlans.untagged(vid);
        match untagged {
            _ if vid == 0 => {}
            Some(true) => p.retag(None),
            Some(false) => {}
            None if own.flags() & iff::PROMISC != 0 => {}
            None => return,
        }
        let stack = cx.stack().clone();
        if stack.passes_at(cx, FrameHook::BridgeInput, &mut p, Some(from), None) {
            stack.receive(cx, own, p.arrived());
        }
    }

    fn flood(&self, cx: &mut Cx, from: Option<&Port>, (dst, vid): (Mac, u16), p: &Packet) {
        for to in self.ports() {
            let wanted = match dst {
                Mac::BROADCAST => to.flags.bcast_flood,
                m if m.is_multicast() => to.flags.mcast_flood,
                _ => to.flags.flood,
            };
            if wanted {
                self.forward(cx, from, &to, vid, p.clone());
            }
        }
    }

    fn forward(&self, cx: &mut Cx, from: Option<&Port>, to: &Port, vid: u16, mut p: Packet) {
        let back = from.is_some_and(|f| f.stp.number == to.stp.number) && !to.flags.hairpin;
        let apart = from.is_some_and(|f| f.flags.isolated) && to.flags.isolated;
        if back || apart || to.state() != stp::State::Forwarding {
            return;
        }
        match to.vlans.untagged(vid) {
            _ if vid == 0 => {}
            None => return,
            Some(false) => {}
            Some(true) => p.retag(None),
        }
        // A frame that the other link cannot carry is lost, as on every bridge.
        if p.gso.is_none() && p.net_len() > to.iface.mtu() {
            count(&to.iface.counters.tx_dropped, 1);
            return;
        }
        let stack = cx.stack().clone();
        let (place, input) = match from {
            Some(f) => (FrameHook::BridgeForward, Some(f.iface.clone())),
            None => (FrameHook::BridgeOutput, None),
        };
        let (input, output) = (input.as_ref(), Some(&to.iface));
        if !stack.passes_at(cx, place, &mut p, input, output)
            || !stack.passes_at(cx, FrameHook::BridgePostrouting, &mut p, None, output)
        {
            return;
        }
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
            let own = self.filters().then(|| self.own_vlans());
            for mut p in batch.drain(..) {
                let Ok(h) = Ethernet::parse(p.head()) else {
                    sent.errors += 1;
                    continue;
                };
                sent.packets += 1;
                sent.bytes += p.len() as u64;
                debug_assert!(p.link_len() >= HEADER);
                let vid = match own.as_ref().map(|v| v.classify(p.tag())) {
                    None => 0,
                    Some(None) => {
                        sent.dropped += 1;
                        continue;
                    }
                    Some(Some(tag)) => {
                        p.retag(Some(tag));
                        tag & 0xfff
                    }
                };
                match self.find(h.dst, vid, cx.now) {
                    Some(to) if !h.dst.is_multicast() => self.forward(cx, None, &to, vid, p),
                    _ => self.flood(cx, None, (h.dst, vid), &p),
                }
            }
        });
        sent
    }

    fn open(&self, _: &Arc<Interface>, _: &Arc<Stack>) -> Result<()> {
        self.went_up();
        Ok(())
    }

    fn close(&self) {
        self.step(|s| s.disable());
    }

    fn set_mac(&self, mac: Mac) -> Result<()> {
        self.state.lock().own_mac = true;
        self.step(|s| s.set_address(mac));
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
        self.state.lock().ports.iter().any(|p| p.state() == stp::State::Forwarding)
    }
}
