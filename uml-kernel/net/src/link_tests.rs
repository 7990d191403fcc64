//! Virtual interfaces: bridges, pairs, VLANs, namespaces.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use uml_abi::errno::*;

use crate::bridge::{Bridge, LEARNED_MAX, PortFlags};
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
    b.set_flags(&ports[0].0, PortFlags { isolated: true, ..PortFlags::default() });
    b.set_flags(&ports[1].0, PortFlags { isolated: true, ..PortFlags::default() });
    lab.arrives(&ports[0].0, frame(Mac::BROADCAST, mac(20)));
    assert_eq!(sent(), [0, 0, 1]);
    b.remove_port(&ports[2].0);
    lab.arrives(&ports[2].0, frame(Mac::BROADCAST, mac(22)));
    assert_eq!((sent(), b.ports().len()), (vec![0, 0, 0], 2));
    lab.stack.remove_interface(&own);
    assert!(ports[0].0.bridge().is_none());
}

/// A frame with a tag.
fn tagged(to: Mac, from: Mac, tci: u16) -> Packet {
    let mut p = frame(to, from);
    let mut b = p.to_vec();
    let [hi, lo] = tci.to_be_bytes();
    b.splice(12..12, [0x81, 0, hi, lo]);
    p = Packet::new(Data::copy_of(&b));
    p
}

#[test]
fn a_bridge_that_tells_vlans_apart_keeps_them_apart() {
    let lab = Lab::new();
    let own = Bridge::create(&lab.stack, "br0", None, mac(99)).unwrap();
    let b = Bridge::shared(&own).unwrap();
    let ports: Vec<_> = (1..4).map(|n| lab.port(n)).collect();
    for (i, _) in &ports {
        b.add_port(i).unwrap();
    }
    up(&lab.stack, &own);
    // What each port has sent, as tags.
    let sent = || -> Vec<Vec<u16>> {
        let of = |f: Vec<u8>| match f[12..14] {
            [0x81, 0] => Some(u16::from_be_bytes([f[14], f[15]])),
            [0x88, 0xb5] => Some(0),
            _ => None,
        };
        let take = |w: &Wire| std::mem::take(&mut *w.0.lock().unwrap());
        ports.iter().map(|(_, w)| take(w).into_iter().filter_map(of).collect()).collect()
    };
    // Not told apart: tags are data.
    lab.arrives(&ports[0].0, tagged(mac(50), mac(20), 77));
    assert_eq!(sent(), [vec![], vec![77], vec![77]]);
    b.set_filtering(true);
    assert_eq!(b.set_default_pvid(2), Err(EPERM));
    let change = |n: usize, f: fn(&mut crate::bridge::vlans::Vlans)| {
        b.change_vlans(Some(&ports[n].0), f).unwrap();
    };
    // One without tags in 10, one with tags in 10 and 20, one without in 20.
    change(0, |v| {
        v.remove(1);
        v.add(10, true, true);
    });
    change(1, |v| {
        v.remove(1);
        v.add(10, false, false);
        v.add(20, false, false);
    });
    change(2, |v| {
        v.remove(1);
        v.add(20, true, true);
    });
    lab.arrives(&ports[0].0, frame(Mac::BROADCAST, mac(20)));
    assert_eq!(sent(), [vec![], vec![10], vec![]]);
    lab.arrives(&ports[1].0, tagged(Mac::BROADCAST, mac(20), 0xa014));
    assert_eq!(sent(), [vec![], vec![], vec![0]], "the same station in another VLAN");
    lab.arrives(&ports[1].0, tagged(mac(20), mac(21), 10));
    assert_eq!(sent(), [vec![0], vec![], vec![]], "and in this");
    lab.arrives(&ports[2].0, frame(mac(20), mac(22)));
    assert_eq!(sent(), [vec![], vec![20], vec![]]);
    for stranger in [tagged(mac(20), mac(23), 30), frame(mac(20), mac(23))] {
        lab.arrives(&ports[1].0, stranger);
    }
    lab.arrives(&ports[0].0, tagged(mac(20), mac(23), 20));
    assert_eq!(sent(), [vec![], vec![], vec![]], "members only");
    // The machine itself is in the VLAN 1, which nobody else is in.
    let before = own.counters.rx_packets.load(Ordering::SeqCst);
    lab.arrives(&ports[0].0, frame(own.mac(), mac(20)));
    assert_eq!(own.counters.rx_packets.load(Ordering::SeqCst), before);
    b.change_vlans(None, |v| v.add(10, false, false)).unwrap();
    lab.arrives(&ports[0].0, frame(own.mac(), mac(20)));
    assert_eq!(own.counters.rx_packets.load(Ordering::SeqCst), before + 1);
    let mut p = tagged(Mac::BROADCAST, own.mac(), 10);
    assert!(p.pull(18));
    p.set_link_len(14);
    lab.stack.enter(|cx| own.enqueue(cx, p));
    assert_eq!(sent(), [vec![0], vec![10], vec![]]);
    let vlans: Vec<_> = b.entries(lab.stack.now()).into_iter().filter(|e| e.0 == mac(20)).collect();
    let mut of: Vec<_> = vlans.iter().map(|(_, v, e)| (*v, e.iface)).collect();
    of.sort_unstable();
    assert_eq!(of, [(10, ports[0].0.index), (20, ports[1].0.index)]);
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
