//! VLANs of a port of a bridge, or of the bridge itself (IEEE 802.1Q): which there are, with and without a tag, and which one frames
//! without a tag are of.

use std::collections::BTreeMap;

/// Numbers of VLANs are less than this, and not 0.
pub const END: u16 = 4095;

/// The VLANs that a port is a member of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlans {
    /// That of frames without a tag (the port VLAN identifier); 0 when they are dropped.
    pub pvid: u16,
    /// Whether frames leave without a tag.
    members: BTreeMap<u16, bool>,
}

impl Vlans {
    /// What a port begins with: one for all that has no tag; none for 0.
    pub fn new(pvid: u16) -> Vlans {
        let mut v = Vlans::default();
        if pvid != 0 {
            v.add(pvid, true, true);
        }
        v
    }

    /// Becomes a member, or another kind of member.
    pub fn add(&mut self, vid: u16, pvid: bool, untagged: bool) {
        self.members.insert(vid, untagged);
        if pvid {
            self.pvid = vid;
        } else if self.pvid == vid {
            self.pvid = 0;
        }
    }

    /// Is no member any more; false when it was none.
    pub fn remove(&mut self, vid: u16) -> bool {
        if self.pvid == vid {
            self.pvid = 0;
        }
        self.members.remove(&vid).is_some()
    }

    /// Follows a new number for frames without a tag, if it had the old one from the beginning.
    pub fn follow(&mut self, old: u16, new: u16) {
        if old != 0 && self.pvid == old && self.members.get(&old) == Some(&true) {
            self.remove(old);
            if new != 0 {
                self.add(new, true, true);
            }
        } else if old == 0 && new != 0 && self.pvid == 0 && !self.members.contains_key(&new) {
            self.add(new, true, true);
        }
    }

    /// Whether frames of the VLAN may come and go here.
    pub fn has(&self, vid: u16) -> bool {
        self.members.contains_key(&vid)
    }

    /// Whether they go without a tag; none where they do not go.
    pub fn untagged(&self, vid: u16) -> Option<bool> {
        self.members.get(&vid).copied()
    }

    /// The members, and whether frames leave without a tag.
    pub fn iter(&self) -> impl Iterator<Item = (u16, bool)> + '_ {
        self.members.iter().map(|(v, u)| (*v, *u))
    }

    /// The tag that a frame has inside the bridge which came with `tag`; none for one that is dropped. Priorities stay.
    pub fn classify(&self, tag: Option<u16>) -> Option<u16> {
        const VID: u16 = 0xfff;
        let tag = tag.unwrap_or(0);
        let vid = match tag & VID {
            0 => self.pvid,
            v => v,
        };
        self.has(vid).then_some(tag & !VID | vid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_of_the_vlan_that_their_tag_or_port_says() {
        let mut v = Vlans::new(1);
        v.add(10, false, false);
        assert_eq!(v.classify(None), Some(1));
        assert_eq!(v.classify(Some(0xe000)), Some(0xe001), "a tag of a priority alone");
        assert_eq!(v.classify(Some(0xa00a)), Some(0xa00a));
        assert_eq!(v.classify(Some(11)), None);
        assert_eq!(
            (v.untagged(1), v.untagged(10), v.untagged(11)),
            (Some(true), Some(false), None)
        );
        v.add(10, true, true);
        assert_eq!((v.classify(None), v.has(1)), (Some(10), true));
        v.add(10, false, true);
        assert_eq!(v.classify(None), None);
        assert!(v.remove(1) && !v.remove(1));
    }

    #[test]
    fn the_default_moves_with_the_bridges() {
        let mut v = Vlans::new(1);
        v.follow(1, 5);
        assert_eq!(v, Vlans::new(5));
        v.add(7, true, true);
        v.follow(5, 6);
        assert_eq!((v.pvid, v.has(6)), (7, false), "a program chose another");
        let mut none = Vlans::new(0);
        assert_eq!(none.classify(None), None);
        none.follow(0, 3);
        assert_eq!(none, Vlans::new(3));
        none.follow(3, 0);
        assert_eq!(none, Vlans::new(0));
    }
}
