//! Bridges that speak to each other in virtual time: whatever they are wired like, one tree remains.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::stp::{Bridge, Message, Port, State, Step, Times};
use crate::time::{MS, SEC, Time};
use crate::wire::ethernet::Mac;

struct Box(Port);

impl AsRef<Port> for Box {
    fn as_ref(&self) -> &Port {
        &self.0
    }
}

impl AsMut<Port> for Box {
    fn as_mut(&mut self) -> &mut Port {
        &mut self.0
    }
}

/// Bridges and the wires between their ports.
struct Lab {
    now: Time,
    bridges: Vec<(Bridge, Vec<Box>)>,
    /// Bridge and place of a port at each end; whether the wire is whole.
    wires: Vec<((usize, usize), (usize, usize), bool)>,
    underway: VecDeque<(usize, usize, Message)>,
}

impl Lab {
    fn new(bridges: usize, wires: &[(usize, usize, u32)]) -> Lab {
        let times = Times { max_age: 6 * SEC, hello: SEC, forward_delay: 2 * SEC };
        let mut lab = Lab {
            now: Time(SEC),
            bridges: Vec::new(),
            wires: Vec::new(),
            underway: VecDeque::new(),
        };
        for n in 0..bridges {
            let mut b = Bridge::new(0x8000);
            b.on = true;
            (b.own, b.times) = (times, times);
            lab.bridges.push((b, Vec::new()));
            lab.step(n, |s| s.set_address(Mac([2, 0, 0, 0, 0, n as u8 + 1])));
        }
        for (a, b, cost) in wires {
            let end = |lab: &mut Lab, n: usize| {
                let ports = &mut lab.bridges[n].1;
                let mut p = Port::new(ports.len() as u16 + 1);
                p.cost = *cost;
                ports.push(Box(p));
                let at = ports.len() - 1;
                lab.step(n, |s| s.add_port(at));
                (n, at)
            };
            let ends = (end(&mut lab, *a), end(&mut lab, *b));
            lab.wires.push((ends.0, ends.1, true));
        }
        for n in 0..bridges {
            let all: Vec<usize> = (0..lab.bridges[n].1.len()).collect();
            lab.step(n, |s| s.enable(&all));
        }
        lab
    }

    fn step(&mut self, n: usize, f: impl FnOnce(&mut Step<'_, Box>)) {
        let (b, ports) = &mut self.bridges[n];
        let mut s = Step::new(b, ports, self.now);
        f(&mut s);
        let messages = std::mem::take(&mut s.out.messages);
        for (number, m) in messages {
            let from = (n, number as usize - 1);
            // What is sent is read as the other end reads it.
            let m = Message::parse(&m.bytes()).unwrap();
            for (a, b, whole) in &self.wires {
                if *whole && (*a == from || *b == from) {
                    let to = if *a == from { *b } else { *a };
                    self.underway.push_back((to.0, to.1, m));
                }
            }
        }
    }

    fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.now = self.now + 10 * MS;
            for n in 0..self.bridges.len() {
                self.step(n, |s| s.expire());
            }
            let mut hops = 0;
            while let Some((n, at, m)) = self.underway.pop_front() {
                self.step(n, |s| s.received(at, &m));
                hops += 1;
                assert!(hops < 10_000, "they do not stop");
            }
        }
    }

    fn forwards(&self, (n, at): (usize, usize)) -> bool {
        self.bridges[n].1[at].0.state == State::Forwarding
    }

    /// Bridges that can be reached from the first, and how many wires carry data.
    fn tree(&self) -> (usize, usize) {
        let open: Vec<(usize, usize)> = self
            .wires
            .iter()
            .filter(|(a, b, whole)| *whole && self.forwards(*a) && self.forwards(*b))
            .map(|(a, b, _)| (a.0, b.0))
            .collect();
        let mut seen = BTreeSet::from([0]);
        while open.iter().any(|(a, b)| {
            (seen.contains(a) != seen.contains(b)) && {
                seen.extend([*a, *b]);
                true
            }
        }) {}
        (seen.len(), open.len())
    }

    fn reachable(&self) -> usize {
        let mut seen = BTreeSet::from([0]);
        while self.wires.iter().any(|(a, b, whole)| {
            *whole && (seen.contains(&a.0) != seen.contains(&b.0)) && {
                seen.extend([a.0, b.0]);
                true
            }
        }) {}
        seen.len()
    }
}

#[test]
fn a_ring_is_cut_where_it_is_farthest_and_closed_when_it_breaks() {
    let mut lab = Lab::new(3, &[(0, 1, 4), (1, 2, 4), (2, 0, 4)]);
    lab.run(30 * SEC);
    assert_eq!(lab.tree(), (3, 2));
    assert!(!lab.forwards((2, 0)), "neither end of the wire between the two that are no root");
    assert!(lab.bridges[0].0.is_root() && !lab.bridges[0].0.topology_change);
    lab.wires[2].2 = false;
    lab.run(10 * SEC);
    assert!(lab.bridges[0].0.topology_change, "the root has been told");
    lab.run(20 * SEC);
    assert_eq!(lab.tree(), (3, 2));
    assert_eq!((lab.bridges[2].0.root_port, lab.bridges[2].0.root_cost), (1, 8));
    // The root dies; the next one takes over, with its own times.
    lab.step(0, |s| s.disable());
    lab.run(30 * SEC);
    assert!(lab.bridges[1].0.is_root());
    assert_eq!(lab.bridges[2].0.root, lab.bridges[1].0.id);
}

#[test]
fn messages_come_back_and_nonsense_does_not() {
    let c = super::stp::Config {
        topology_change: true,
        acknowledged: false,
        root: [1; 8],
        cost: 70_000,
        bridge: [2; 8],
        port: 0x8003,
        message_age: SEC,
        times: Times { max_age: 20 * SEC, hello: 2 * SEC, forward_delay: 15 * SEC },
    };
    let b = Message::Config(c).bytes();
    assert_eq!((b.len(), Message::parse(&b)), (35, Some(Message::Config(c))));
    assert_eq!(Message::parse(&b[..34]), None);
    assert_eq!(Message::parse(&Message::Notification.bytes()), Some(Message::Notification));
    assert_eq!(Message::parse(&[0, 0, 2, 2]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_wiring_becomes_one_tree(
        wires in proptest::collection::vec((0usize..6, 0usize..6, 1u32..20), 1..14), broken in any::<proptest::sample::Index>(),
    ) {
        let mut lab = Lab::new(6, &wires);
        for breaks in [false, true] {
            if breaks {
                let n = broken.index(lab.wires.len());
                lab.wires[n].2 = false;
                for (bridge, at) in [lab.wires[n].0, lab.wires[n].1] {
                    lab.step(bridge, |s| if s.ports[at].0.state != State::Disabled { s.disable_port(at) });
                }
            }
            lab.run(60 * SEC);
            let (reached, open) = lab.tree();
            prop_assert_eq!(reached, lab.reachable());
            // One wire less than bridges in each part of the whole: no loops anywhere.
            let mut parts: Vec<usize> = (0..6).collect();
            let whole: Vec<_> = lab.wires.iter().filter(|w| w.2).map(|(a, b, _)| (a.0, b.0)).collect();
            for _ in 0..6 {
                for (a, b) in &whole {
                    let least = parts[*a].min(parts[*b]);
                    (parts[*a], parts[*b]) = (least, least);
                }
            }
            let count = parts.iter().collect::<BTreeSet<_>>().len();
            prop_assert_eq!(open, 6 - count);
        }
    }

    #[test]
    fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut lab = Lab::new(1, &[(0, 0, 1)]);
        let mut whole = vec![0, 0, 0];
        whole.extend(b);
        if let Some(m) = Message::parse(&whole) {
            lab.step(0, |s| s.received(0, &m));
            lab.run(SEC);
        }
    }
}
