//! A bridge's part in the spanning tree: when its machine is asked, and where what comes of that goes.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use super::stp::{self, Message, Out, State, Step, Times};
use super::{Bridge, Port};
use crate::interface::Interface;
use crate::packet::{Data, Packet};
use crate::stack::{Change, Cx};
use crate::time::{SEC, Time};
use crate::timer::Expire;
use crate::wire::ethernet::{HEADER, Mac, ethertype};

/// Where messages between bridges go.
const GROUP: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
/// The header of IEEE 802.2 in front of them.
const LLC: [u8; 3] = [0x42, 0x42, 0x03];

/// The tree as a program sees it.
#[derive(Clone, Debug)]
pub struct View {
    pub bridge: stp::Bridge,
    pub now: Time,
}

impl Bridge {
    /// What the bridge is in the tree.
    pub fn tree(&self) -> View {
        let now = self.end().map_or(Time(0), |(_, s)| s.now());
        View { bridge: self.state.lock().tree.clone(), now }
    }

    pub(super) fn runs_stp(&self) -> bool {
        self.state.lock().tree.on
    }

    /// Asks the machine, and does what comes of it; no lock is held.
    pub(super) fn step(&self, f: impl FnOnce(&mut Step<'_, Port>)) {
        let Some((_, stack)) = self.end() else { return };
        stack.enter(|cx| self.step_in(cx, f));
    }

    fn step_in(&self, cx: &mut Cx, f: impl FnOnce(&mut Step<'_, Port>)) {
        let Some((own, stack)) = self.end() else { return };
        let carrier = own.has_carrier();
        let (out, ports, next) = {
            let s = &mut *self.state.lock();
            let mut step = Step::new(&mut s.tree, &mut s.ports, cx.now);
            f(&mut step);
            let next = step.next();
            let out = std::mem::take(&mut step.out);
            for number in &out.forget {
                let port = s.ports.iter().find(|p| p.stp.number == *number);
                let Some(index) = port.map(|p| p.iface.index) else { continue };
                s.fdb.retain(|_, e| e.fixed || e.iface != index);
            }
            if !out.forget.is_empty() {
                s.learned = s.fdb.values().filter(|e| !e.fixed).count();
            }
            (out, s.ports.clone(), next)
        };
        let of = |number: u16| ports.iter().find(|p| p.stp.number == number).map(|p| &p.iface);
        let Out { messages, changed, .. } = out;
        for (number, m) in messages {
            if let Some(i) = of(number).filter(|i| i.has_carrier()) {
                stack.send_frame(cx, i, frame(i, &m));
            }
        }
        for i in changed.into_iter().filter_map(of) {
            stack.tell(&Change::Link(i.index));
        }
        if own.has_carrier() != carrier {
            stack.tell(&Change::Link(own.index));
        }
        if next != Time::NEVER
            && let Some(me) = self.me.upgrade()
        {
            let me: Arc<dyn Expire> = me;
            self.armed.arm(&stack.timers, next, || Arc::downgrade(&me));
        }
    }

    /// The bridge goes up.
    pub(super) fn went_up(&self) {
        self.step(|s| {
            let ready: Vec<usize> = (0..s.ports.len()).filter(|i| ready(&s.ports[*i])).collect();
            s.enable(&ready);
        });
    }

    /// Ports may have become usable, or have ceased to be so.
    pub(crate) fn look_at_ports(&self) {
        self.step(|s| {
            if !s.b.up {
                return;
            }
            for i in 0..s.ports.len() {
                let used = s.ports[i].stp.state != State::Disabled;
                match (used, ready(&s.ports[i])) {
                    (false, true) => s.enable_port(i),
                    (true, false) => s.disable_port(i),
                    _ => {}
                }
            }
        });
    }

    /// A frame to the bridges' group has come.
    pub(super) fn heard(&self, cx: &mut Cx, from: &Interface, mut p: Packet) {
        let there = p.net_len().min(LLC.len() + 64);
        if !p.pull(there) {
            return;
        }
        let m = p.net().strip_prefix(&LLC).and_then(Message::parse);
        let at = self.ports().iter().position(|p| std::ptr::eq(&*p.iface, from));
        if let (Some(m), Some(at)) = (m, at) {
            self.step_in(cx, |s| s.received(at, &m));
        }
    }

    /// Switches the protocol on or off.
    pub fn set_stp(&self, on: bool) {
        self.step(|s| s.set_on(on));
    }

    /// The priority in the tree.
    pub fn set_priority(&self, priority: u16) {
        self.step(|s| s.set_priority(priority));
    }

    /// Changes the times that the bridge wishes: `ERANGE` for what the standard does not allow, of the delay only while the
    /// protocol runs.
    pub fn set_times(&self, f: impl FnOnce(&mut Times)) -> Result<()> {
        let (mut t, on) = {
            let s = self.state.lock();
            (s.tree.own, s.tree.on)
        };
        let old = t;
        f(&mut t);
        let within =
            |a: u64, b: u64, lo: u64, hi: u64| a == b || (lo * SEC..=hi * SEC).contains(&b);
        if !within(old.hello, t.hello, 1, 10)
            || !within(old.max_age, t.max_age, 6, 40)
            || (on && !within(old.forward_delay, t.forward_delay, 2, 30))
        {
            return Err(ERANGE);
        }
        self.step(|s| s.set_times(t));
        Ok(())
    }

    fn place_of(&self, i: &Interface) -> Result<usize> {
        self.ports().iter().position(|p| std::ptr::eq(&*p.iface, i)).ok_or(EINVAL)
    }

    /// A port's priority in the tree: `ERANGE` above 63.
    pub fn set_port_priority(&self, i: &Interface, priority: u32) -> Result<()> {
        let at = self.place_of(i)?;
        let priority = u16::try_from(priority).ok().filter(|p| *p < 64).ok_or(ERANGE)?;
        self.step(|s| s.set_port_priority(at, priority));
        Ok(())
    }

    /// What the way through a port costs: `ERANGE` beyond 1 to 65535.
    pub fn set_port_cost(&self, i: &Interface, cost: u32) -> Result<()> {
        let at = self.place_of(i)?;
        if !(1..=65_535).contains(&cost) {
            return Err(ERANGE);
        }
        self.step(|s| s.set_port_cost(at, cost));
        Ok(())
    }

    /// A program sets a port's state: `EINVAL` for one that there is not, `EBUSY` while the protocol does that, `ENETDOWN` without a
    /// carrier.
    pub fn set_port_state(&self, i: &Interface, state: u32) -> Result<()> {
        let at = self.place_of(i)?;
        let state = State::from_number(state).ok_or(EINVAL)?;
        if self.runs_stp() {
            return Err(EBUSY);
        }
        if !i.is_up() || (!i.has_carrier() && state != State::Disabled) {
            return Err(ENETDOWN);
        }
        self.step(|s| s.force_state(at, state));
        Ok(())
    }
}

/// Whether the port can be used.
fn ready(p: &Port) -> bool {
    p.iface.has_carrier()
}

/// The frame of a message from a port.
fn frame(i: &Interface, m: &Message) -> Packet {
    let body = m.bytes();
    let mut b = GROUP.0.to_vec();
    b.extend_from_slice(&i.mac().0);
    b.extend_from_slice(&((LLC.len() + body.len()) as u16).to_be_bytes());
    b.extend_from_slice(&LLC);
    b.extend_from_slice(&body);
    let mut p = Packet::new(Data::new());
    p.head_mut().extend_from_slice(&b);
    p.set_link_len(HEADER);
    p.kind = ethertype::LLC;
    p
}

impl Expire for Bridge {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        if self.armed.due(cx.now) {
            self.step_in(cx, |s| s.expire());
        }
    }
}
