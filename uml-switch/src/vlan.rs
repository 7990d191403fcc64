//! VLANs (IEEE 802.1Q): which of them a port belongs to, and tags put on and taken off.

use std::fmt;
use std::str::FromStr;

/// Ethernet type of a tag.
const TAG: [u8; 2] = [0x81, 0x00];
/// Where the type, or the tag before it, stands in a frame.
const TYPE_AT: usize = 12;
const TAG_LEN: usize = 4;
const VID_MASK: u16 = 0x0fff;
/// Largest VLAN number that a configuration may use (4095 is reserved).
pub const MAX_VID: u16 = 4094;

/// A set of VLAN numbers, kept as sorted ranges that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSet(Vec<(u16, u16)>);

impl VlanSet {
    /// Every VLAN.
    pub fn all() -> VlanSet {
        VlanSet(vec![(0, VID_MASK)])
    }

    /// Whether `vid` is in the set.
    pub fn contains(&self, vid: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&vid))
    }
}

impl FromStr for VlanSet {
    type Err = String;

    /// `1,10-20` with `+` allowed for the comma.
    fn from_str(text: &str) -> Result<VlanSet, String> {
        let mut ranges = Vec::new();
        for part in text.split([',', '+']) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (parse_vid(from)?, parse_vid(to)?);
            if from > to {
                return Err(format!("VLAN range {part}: the first number is the larger one"));
            }
            ranges.push((from, to));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (from, to) in ranges {
            match merged.last_mut() {
                Some(last) if from <= last.1 + 1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Ok(VlanSet(merged))
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (from, to)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "+" } else { "" };
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}-{to}")? }
        }
        Ok(())
    }
}

fn parse_vid(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n @ 1..=MAX_VID) => Ok(n),
        _ => Err(format!("VLAN '{text}': give a number from 1 to {MAX_VID}")),
    }
}

/// How a port takes part in VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The VLAN of untagged frames, both ways; 0 is the VLAN of ports that know of none. `None`: untagged frames
    /// are dropped.
    pub native: Option<u16>,
    /// VLANs whose frames carry a tag on this port.
    pub tagged: VlanSet,
}

impl Default for Membership {
    /// A port that passes tags through: what a switch without VLANs does.
    fn default() -> Membership {
        Membership { native: Some(0), tagged: VlanSet::all() }
    }
}

impl FromStr for Membership {
    type Err = String;

    /// `access:N`, `trunk:LIST`, `trunk:LIST/N` with native VLAN N, or `transparent`.
    fn from_str(text: &str) -> Result<Membership, String> {
        let (kind, value) = text.split_once([':', '=']).unwrap_or((text, ""));
        match (kind, value) {
            ("transparent", "") => Ok(Membership::default()),
            ("access", n) => {
                Ok(Membership { native: Some(parse_vid(n)?), tagged: VlanSet(Vec::new()) })
            }
            ("trunk", list) => {
                let (list, native) = match list.split_once('/') {
                    Some((list, native)) => (list, Some(parse_vid(native)?)),
                    None => (list, None),
                };
                Ok(Membership { native, tagged: list.parse()? })
            }
            _ => Err(format!(
                "VLAN membership '{text}': give access:N, trunk:LIST, trunk:LIST/NATIVE or transparent"
            )),
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.native {
            _ if *self == Membership::default() => f.write_str("transparent"),
            Some(n) if self.tagged.0.is_empty() => write!(f, "access:{n}"),
            Some(n) => write!(f, "trunk:{}/{n}", self.tagged),
            None => write!(f, "trunk:{}", self.tagged),
        }
    }
}

/// The VLAN number in a frame's tag; `None` for untagged frames and priority tags (number 0).
fn tag(frame: &[u8]) -> Option<u16> {
    let tci: [u8; 2] = frame.get(TYPE_AT + 2..TYPE_AT + TAG_LEN)?.try_into().ok()?;
    let vid = u16::from_be_bytes(tci) & VID_MASK;
    (frame[TYPE_AT..TYPE_AT + 2] == TAG && vid != 0).then_some(vid)
}

impl Membership {
    /// The VLAN that a frame received on this port is in; `None` when it must be dropped.
    pub fn classify(&self, frame: &[u8]) -> Option<u16> {
        match tag(frame) {
            None => self.native,
            Some(vid) if self.tagged.contains(vid) || self.native == Some(vid) => Some(vid),
            Some(_) => None,
        }
    }

    /// Whether frames of a VLAN leave by this port.
    pub fn carries(&self, vid: u16) -> bool {
        self.native == Some(vid) || (vid != 0 && self.tagged.contains(vid))
    }

    /// The frame of VLAN `vid` as it leaves by this port, when it differs from what came in.
    pub fn rewrite(&self, frame: &[u8], vid: u16) -> Option<Vec<u8>> {
        let tagged_now = tag(frame).is_some();
        let tagged_then = vid != 0 && self.native != Some(vid);
        match (tagged_now, tagged_then) {
            (true, false) => {
                let mut out = frame[..TYPE_AT].to_vec();
                out.extend_from_slice(&frame[TYPE_AT + TAG_LEN..]);
                Some(out)
            }
            (false, true) => {
                let mut out = frame[..TYPE_AT].to_vec();
                out.extend_from_slice(&TAG);
                // A priority tag keeps its priority.
                let had_tag =
                    frame.len() >= TYPE_AT + TAG_LEN && frame[TYPE_AT..TYPE_AT + 2] == TAG;
                let priority = if had_tag { frame[TYPE_AT + 2] & 0xf0 } else { 0 };
                out.push(priority | (vid >> 8) as u8);
                out.push(vid as u8);
                out.extend_from_slice(&frame[TYPE_AT + if had_tag { TAG_LEN } else { 0 }..]);
                Some(out)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: Option<u16>) -> Vec<u8> {
        let mut f = vec![0xff; 12];
        if let Some(t) = tag {
            f.extend(TAG);
            f.extend(t.to_be_bytes());
        }
        f.extend([0x08, 0x00, 1, 2, 3]);
        f
    }

    #[test]
    fn memberships_read_as_they_are_written() {
        for text in ["access:10", "trunk:1+10-20", "trunk:5-7/1", "transparent"] {
            assert_eq!(text.parse::<Membership>().expect(text).to_string(), text);
        }
        assert_eq!("trunk:3,1-2,9".parse::<Membership>().expect("list").to_string(), "trunk:1-3+9");
        for bad in
            ["access:0", "access:4095", "access:x", "trunk:", "trunk:5-1", "hub", "transparent:1"]
        {
            assert!(bad.parse::<Membership>().is_err(), "{bad}");
        }
    }

    #[test]
    fn access_ports_neither_take_nor_give_tags_of_others() {
        let m: Membership = "access:10".parse().expect("membership");
        assert_eq!(m.classify(&frame(None)), Some(10));
        assert_eq!(m.classify(&frame(Some(11))), None);
        assert_eq!(m.rewrite(&frame(Some(10)), 10), Some(frame(None)));
        assert_eq!(m.rewrite(&frame(None), 10), None);
        assert!(m.carries(10) && !m.carries(11) && !m.carries(0));
    }

    #[test]
    fn trunks_tag_all_but_the_native_vlan() {
        let m: Membership = "trunk:10-20/5".parse().expect("membership");
        assert_eq!(m.classify(&frame(None)), Some(5));
        assert_eq!(m.classify(&frame(Some(12))), Some(12));
        assert_eq!(m.classify(&frame(Some(30))), None);
        assert_eq!(m.rewrite(&frame(None), 12), Some(frame(Some(12))));
        assert_eq!(m.rewrite(&frame(Some(5)), 5), Some(frame(None)));
        let strict: Membership = "trunk:10".parse().expect("membership");
        assert_eq!(strict.classify(&frame(None)), None);
    }

    #[test]
    fn transparent_ports_pass_frames_as_they_are() {
        let m = Membership::default();
        for f in [frame(None), frame(Some(7)), frame(Some(0x6000))] {
            let vid = m.classify(&f).expect("a VLAN");
            assert!(m.carries(vid));
            assert_eq!(m.rewrite(&f, vid), None);
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_handled(bytes in proptest::collection::vec(any::<u8>(), 14..80), vid in 0u16..4095) {
            for text in ["access:10", "trunk:1-20/3", "transparent"] {
                let m: Membership = text.parse().expect("membership");
                if m.classify(&bytes).is_some() && m.carries(vid) {
                    let out = m.rewrite(&bytes, vid).unwrap_or(bytes.clone());
                    prop_assert!(out.len().abs_diff(bytes.len()) <= TAG_LEN);
                }
            }
        }
    }
}
