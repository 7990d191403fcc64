//! The switching rules: where a frame goes. No I/O and no clock of its own.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::fdb::{Fdb, Learned, Mac};
use crate::vlan::Membership;

/// A port, named by the descriptor of its control connection or interface.
pub type PortId = i32;

/// Bytes before the payload; shorter frames are not Ethernet.
const HEADER_LEN: usize = 14;

/// Where one frame goes, and what is worth telling.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Ports to send to, with the VLAN the frame is in.
    pub targets: Targets,
    pub vid: u16,
    /// The station that was learned or moved.
    pub learned: Option<(Mac, Option<PortId>)>,
    /// The source, when the destination was a station that is not known.
    pub unknown_from: Option<Mac>,
}

/// Ports that a frame is sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Targets {
    #[default]
    None,
    One(PortId),
    /// Every port of the VLAN but this one.
    AllBut(Option<PortId>),
}

/// The switch without its sockets.
#[derive(Debug, Default)]
pub struct Engine {
    /// Forward everything to everybody.
    pub hub: bool,
    pub fdb: Fdb,
    ports: BTreeMap<PortId, Membership>,
}

impl Engine {
    /// A switch, or a hub, without ports.
    pub fn new(hub: bool) -> Engine {
        Engine { hub, ..Engine::default() }
    }

    /// A port opened, or changed its VLANs.
    pub fn set_port(&mut self, port: PortId, membership: Membership) {
        if self.ports.insert(port, membership).is_some() {
            self.fdb.remove_port(port);
        }
    }

    /// A port closed.
    pub fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.fdb.remove_port(port);
    }

    /// The VLANs of a port.
    pub fn membership(&self, port: PortId) -> Option<&Membership> {
        self.ports.get(&port)
    }

    /// Decides on a frame from `ingress`; `None` when its sender is no port, in which case it is in VLAN 0 and
    /// nothing is learned.
    pub fn forward(&mut self, frame: &[u8], ingress: Option<PortId>, now: Instant) -> Decision {
        let mut decision = Decision::default();
        if frame.len() < HEADER_LEN {
            return decision;
        }
        let mac = |at: usize| {
            let mut m = [0; 6];
            m.copy_from_slice(&frame[at..at + 6]);
            Mac(m)
        };
        let (to, from) = (mac(0), mac(6));
        let membership = ingress.and_then(|p| self.ports.get(&p));
        let Some(vid) = membership.map_or(Some(0), |m| m.classify(frame)) else {
            return decision;
        };
        decision.vid = vid;
        if let Some(port) = ingress
            && !from.is_group()
        {
            decision.learned = match self.fdb.learn(vid, from, port, now) {
                Learned::Known => None,
                Learned::New => Some((from, None)),
                Learned::Moved { from: old } => Some((from, Some(old))),
            };
        }
        let known = if to.is_group() { None } else { self.fdb.lookup(vid, to, now) };
        if known.is_none() && !to.is_group() {
            decision.unknown_from = Some(from);
        }
        decision.targets = match known {
            Some(port) if !self.hub => Targets::One(port),
            _ => Targets::AllBut(ingress),
        };
        decision
    }

    /// Calls `each` for the ports of a decision that carry its VLAN.
    pub fn each_target(&self, decision: &Decision, mut each: impl FnMut(PortId, &Membership)) {
        match decision.targets {
            Targets::None => {}
            Targets::One(port) => {
                if let Some(m) = self.ports.get(&port).filter(|m| m.carries(decision.vid)) {
                    each(port, m);
                }
            }
            Targets::AllBut(ingress) => {
                for (port, m) in &self.ports {
                    if Some(*port) != ingress && m.carries(decision.vid) {
                        each(*port, m);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
        f.extend([0; 46]);
        f
    }

    fn targets(e: &Engine, d: &Decision) -> Vec<PortId> {
        let mut all = Vec::new();
        e.each_target(d, |p, _| all.push(p));
        all
    }

    fn three_ports() -> Engine {
        let mut e = Engine::default();
        for p in [1, 2, 3] {
            e.set_port(p, Membership::default());
        }
        e
    }

    #[test]
    fn unknown_goes_everywhere_known_to_its_port() {
        let (mut e, now) = (three_ports(), Instant::now());
        let d = e.forward(&frame(2, 1), Some(1), now);
        assert_eq!(targets(&e, &d), [2, 3]);
        assert_eq!(d.unknown_from, Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(d.learned, Some((Mac([2, 0, 0, 0, 0, 1]), None)));
        let d = e.forward(&frame(1, 2), Some(2), now);
        assert_eq!((targets(&e, &d), d.unknown_from), (vec![1], None));
        // A frame to one's own address comes back.
        let d = e.forward(&frame(1, 1), Some(1), now);
        assert_eq!(targets(&e, &d), [1]);
        let d = e.forward(&frame(9, 1), Some(3), now);
        assert_eq!(d.learned, Some((Mac([2, 0, 0, 0, 0, 1]), Some(1))));
        e.remove_port(3);
        let d = e.forward(&frame(1, 2), Some(2), now);
        assert_eq!(targets(&e, &d), [1], "the closed port's stations are unknown again");
    }

    #[test]
    fn group_frames_hubs_runts_and_strangers() {
        let (mut e, now) = (three_ports(), Instant::now());
        e.forward(&frame(9, 2), Some(2), now);
        let mut group = frame(0, 1);
        group[0] = 0xff;
        assert_eq!(e.forward(&group, Some(1), now).targets, Targets::AllBut(Some(1)));
        group[6] = 1;
        assert_eq!(e.forward(&group, Some(1), now).learned, None);
        assert_eq!(e.forward(&frame(2, 7), None, now).targets, Targets::One(2));
        assert_eq!(e.forward(&[0; 13], Some(1), now).targets, Targets::None);
        e.hub = true;
        assert_eq!(e.forward(&frame(2, 1), Some(1), now).targets, Targets::AllBut(Some(1)));
    }

    #[test]
    fn vlans_do_not_mix() {
        let (mut e, now) = (three_ports(), Instant::now());
        e.set_port(1, "access:10".parse().expect("membership"));
        e.set_port(2, "access:20".parse().expect("membership"));
        e.set_port(3, "trunk:10+20".parse().expect("membership"));
        let d = e.forward(&frame(2, 1), Some(1), now);
        assert_eq!((targets(&e, &d), d.vid), (vec![3], 10));
        let d = e.forward(&frame(9, 5), Some(3), now);
        assert_eq!(targets(&e, &d), Vec::<PortId>::new(), "no untagged frames on this trunk");
    }

    proptest! {
        /// Against a model: the last port on which an address was seen as a source gets its frames.
        #[test]
        fn agrees_with_a_model(steps in proptest::collection::vec((1i32..4, 0u8..6, 0u8..6), 1..200)) {
            let (mut e, now) = (three_ports(), Instant::now());
            let mut model: HashMap<u8, PortId> = HashMap::new();
            for (port, to, from) in steps {
                model.insert(from, port);
                let d = e.forward(&frame(to, from), Some(port), now);
                let expected = match model.get(&to) {
                    Some(p) => vec![*p],
                    None => [1, 2, 3].into_iter().filter(|p| *p != port).collect(),
                };
                prop_assert_eq!(targets(&e, &d), expected);
            }
        }
    }
}
