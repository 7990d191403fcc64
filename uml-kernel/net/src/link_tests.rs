//! Virtual interfaces: bridges, pairs, VLANs, namespaces.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use uml_abi::errno::*;

use crate::bridge::{Bridge, LEARNED_MAX};
use crate::interface::{Device, Dummy, Features, Interface, Link, Sent, iff};
use crate::packet::{Csum, Data, Packet};
use crate::stack::Stack;
use crate::time::{Clock, SEC, Time};
use crate::veth::{Plan, Veth};
use crate::vlan::Vlan;
use crate::wire::ethernet::Mac;

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }
}

/// A device that keeps what is sent.
#[derive(Default)]
struct Wire(Mutex<Vec<Vec<u8>>>);

impl Device for Wire {
    fn features(&self) -> Features {
        Features::NONE
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        self.0.lock().unwrap().extend(batch.drain(..).map(|p| {
            assert!(p.gso.is_none() && !matches!(p.csum, Csum::Partial { .. }));
            p.to_vec()
        }));
        Sent::default()
    }
}

impl Wire {
    fn take(&self) -> usize {
        let test = |f: &Vec<u8>| f[12..14] == [0x88, 0xb5];
        std::mem::take(&mut *self.0.lock().unwrap()).iter().filter(|f| test(f)).count()
    }
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn frame(to: Mac, from: Mac) -> Packet {
    let mut b = to.0.to_vec();
    b.extend(from.0);
    b.extend([0x88, 0xb5]);
    b.resize(60, 0);
    Packet::new(Data::copy_of(&b))
}

struct Lab {
    clock: Arc<TestClock>,
    stack: Arc<Stack>,
}

impl Lab {
    fn new() -> Lab {
        let clock = Arc::new(TestClock(AtomicU64::new(SEC)));
        Lab { stack: Stack::new(clock.clone(), [1; 32]), clock }
    }

    fn port(&self, n: u8) -> (Arc<Interface>, Arc<Wire>) {
        let wire = Arc::new(Wire::default());
        let name = format!("p{n}");
        let i = self.stack.add_interface(&name, Link::Ethernet, mac(n), 1500, 1500, wire.clone());
        let i = i.unwrap();
        up(&self.stack, &i);
        (i, wire)
    }

    fn arrives(&self, i: &Arc<Interface>, p: Packet) {
        self.stack.enter(|cx| self.stack.receive(cx, i, p));
    }
}

fn up(s: &Arc<Stack>, i: &Arc<Interface>) {
    s.set_flags(i, iff::UP, iff::UP).unwrap();
}

#[test]
fn a_bridge_learns_forwards_floods_and_forgets() {
    let lab = Lab::new();
    let own = Bridge::create(&lab.stack, "br0", None, mac(99)).unwrap();
    let b = Bridge::shared(&own).unwrap();
    let ports: Vec<_> = (1..4).map(|n| lab.port(n)).collect();
    for (i, _) in &ports {
        b.add_port(i).unwrap();
    }
    assert_eq!((b.add_port(&ports[0].0), b.add_port(&own)), (Err(EBUSY), Err(ELOOP)));
    assert_eq!(own.mac(), mac(1), "the lowest of the ports'");
    let sent = || ports.iter().map(|(_, w)| w.take()).collect::<Vec<_>>();
    lab.arrives(&ports[0].0, frame(mac(21), mac(20)));
    assert_eq!(sent(), [0, 0, 0], "a bridge that is down");
    up(&lab.stack, &own);
    lab.arrives(&ports[0].0, frame(mac(21), mac(20)));
    assert_eq!(sent(), [0, 1, 1], "an unknown station");
    lab.arrives(&ports[1].0, frame(mac(20), mac(21)));
    assert_eq!(sent(), [1, 0, 0], "a known one");
    lab.arrives(&ports[2].0, frame(Mac::BROADCAST, mac(22)));
    assert_eq!(sent(), [1, 1, 0]);
    lab.arrives(&ports[0].0, frame(mac(20), mac(23)));
    assert_eq!(sent(), [0, 0, 0], "not back to where it came from");
    lab.arrives(&ports[0].0, frame(Mac([1, 0x80, 0xc2, 0, 0, 2]), mac(20)));
    assert_eq!(sent(), [0, 0, 0], "for neighbours only");
    let before = own.counters.rx_packets.load(Ordering::SeqCst);
    lab.arrives(&ports[2].0, frame(mac(1), mac(22)));
    assert_eq!(own.counters.rx_packets.load(Ordering::SeqCst), before + 1, "for the machine");
    // It moves to another port.
    lab.arrives(&ports[2].0, frame(mac(1), mac(20)));
    lab.arrives(&ports[1].0, frame(mac(20), mac(21)));
    assert_eq!(sent(), [0, 0, 1]);
    lab.clock.0.fetch_add(301 * SEC, Ordering::SeqCst);
    lab.arrives(&ports[1].0, frame(mac(20), mac(21)));
    assert_eq!(sent(), [1, 0, 1], "forgotten");
    b.set_port(&ports[0].0, |p| p.flags.isolated = true);
    b.set_port(&ports[1].0, |p| p.flags.isolated = true);
    lab.arrives(&ports[0].0, frame(Mac::BROADCAST, mac(20)));
    assert_eq!(sent(), [0, 0, 1]);
    b.remove_port(&ports[2].0);
    lab.arrives(&ports[2].0, frame(Mac::BROADCAST, mac(22)));
    assert_eq!((sent(), b.ports().len()), (vec![0, 0, 0], 2));
    lab.stack.remove_interface(&own);
    assert!(ports[0].0.bridge().is_none());
}

#[test]
fn made_up_stations_cost_no_more_than_their_room() {
    let lab = Lab::new();
    let own = Bridge::create(&lab.stack, "br0", None, mac(99)).unwrap();
    let b = Bridge::shared(&own).unwrap();
    let (i, _) = lab.port(1);
    b.add_port(&i).unwrap();
    up(&lab.stack, &own);
    for n in 0..LEARNED_MAX as u32 + 100 {
        let n = n.to_be_bytes();
        lab.arrives(&i, frame(mac(1), Mac([6, 1, n[0], n[1], n[2], n[3]])));
    }
    assert_eq!(b.learned(), LEARNED_MAX);
    // When the old ones are too old there is room for new ones.
    lab.clock.0.fetch_add(301 * SEC, Ordering::SeqCst);
    lab.arrives(&i, frame(mac(1), mac(50)));
    assert_eq!(b.learned(), 1);
}

#[test]
fn pairs_cross_namespaces_and_end_together() {
    let lab = Lab::new();
    let other = Stack::new(lab.clock.clone(), [2; 32]);
    let plan = |stack: &Arc<Stack>, name: &str, n| Plan {
        stack: stack.clone(),
        name: name.into(),
        mac: mac(n),
        mtu: 1500,
    };
    let (a, b) = Veth::pair(plan(&lab.stack, "a", 1), plan(&lab.stack, "b", 2)).unwrap();
    assert_eq!((a.index, b.index), (3, 2), "the second end is numbered first");
    assert!(Veth::pair(plan(&lab.stack, "a", 1), plan(&other, "x", 2)).is_err());
    assert!(other.interface_named("x").is_none());
    up(&lab.stack, &a);
    assert!(!a.has_carrier());
    let taken = other.add_interface("b", Link::Ethernet, mac(7), 1500, 1500, Arc::new(Dummy));
    assert_eq!(lab.stack.move_interface(&b, &other, None).err(), Some(EEXIST));
    let moved = lab.stack.move_interface(&b, &other, Some("c")).unwrap();
    assert_eq!(moved.index, b.index, "it keeps its number where that is free");
    assert!(lab.stack.interface_named("b").is_none() && !moved.is_up());
    up(&other, &moved);
    assert!(a.has_carrier());
    // A frame goes through, with what the sender left undone.
    let before = moved.counters.rx_packets.load(Ordering::SeqCst);
    lab.stack.enter(|cx| {
        let mut p = frame(mac(2), mac(1));
        p.pull(14);
        p.set_link_len(14);
        a.enqueue(cx, p);
    });
    assert_eq!(moved.counters.rx_packets.load(Ordering::SeqCst), before + 1);
    assert_eq!(lab.stack.number_of(&other), 0);
    assert_eq!(lab.stack.set_number(&other, 4), Err(EEXIST));
    assert_eq!(
        lab.stack.move_interface(&lab.stack.loopback().unwrap(), &other, None).err(),
        Some(EINVAL)
    );
    other.end(Some(lab.stack.clone()));
    assert!(lab.stack.interface_named("a").is_none(), "the other end went with its namespace");
    assert!(taken.is_ok() && lab.stack.interface_named("b").is_none());
    // What is of the host comes home, under another name if need be.
    let third = Stack::new(lab.clock.clone(), [3; 32]);
    let (p, _) = lab.port(5);
    for n in 0..p.index {
        let name = format!("d{n}");
        third.add_interface(&name, Link::Ethernet, mac(9), 1500, 1500, Arc::new(Dummy)).unwrap();
    }
    let lent = lab.stack.move_interface(&p, &third, Some("lent")).unwrap();
    assert_ne!(lent.index, p.index, "its number is taken there");
    lab.port(6);
    third.end(Some(lab.stack.clone()));
    assert!(lab.stack.interface_named("lent").is_some());
    assert_eq!(p.present().0.name(), "lent");
}

#[test]
fn vlans_follow_what_they_stand_upon() {
    let lab = Lab::new();
    let (p, wire) = lab.port(1);
    let upon = (&p, &lab.stack);
    let v = Vlan::create(&lab.stack, upon, "p1.5", 5, None).unwrap();
    assert_eq!(Vlan::create(&lab.stack, upon, "x", 5, None).err(), Some(EEXIST));
    assert_eq!(Vlan::create(&lab.stack, upon, "x", 4095, None).err(), Some(ERANGE));
    up(&lab.stack, &v);
    wire.0.lock().unwrap().clear();
    lab.stack.enter(|cx| {
        let mut f = frame(mac(2), mac(1));
        f.pull(14);
        f.set_link_len(14);
        v.enqueue(cx, f);
    });
    let sent = std::mem::take(&mut *wire.0.lock().unwrap());
    assert_eq!(sent[0][12..18], [0x81, 0, 0, 5, 0x88, 0xb5]);
    let before = v.counters.rx_packets.load(Ordering::SeqCst);
    let tagged = |id: u8| {
        let mut b = frame(mac(1), mac(2)).to_vec();
        b.splice(12..12, [0x81, 0, 0x20, id]);
        Packet::new(Data::copy_of(&b))
    };
    lab.arrives(&p, tagged(5));
    lab.arrives(&p, tagged(6));
    assert_eq!(v.counters.rx_packets.load(Ordering::SeqCst), before + 1);
    lab.stack.set_flags(&p, 0, iff::UP).unwrap();
    assert!(!v.is_up());
    assert_eq!(lab.stack.set_flags(&v, iff::UP, iff::UP), Err(ENETDOWN));
    up(&lab.stack, &p);
    assert!(v.is_up());
    lab.stack.remove_interface(&p);
    assert!(lab.stack.interface_named("p1.5").is_none());
}
