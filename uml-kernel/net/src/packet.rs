//! Packets: headers that are contiguous, data in shared slabs, and what devices may leave undone.

use std::collections::VecDeque;
use std::sync::Arc;

use uml_base::{Mutex, Rank};

use crate::wire::checksum::Sum;

/// Bytes of a pooled slab: the largest offloaded segment and its headers fit.
pub const SLAB: usize = 68 * 1024;
/// Slabs kept for reuse.
const POOL_MAX: usize = 64;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Rank::LEAF, Vec::new());

/// A block of memory that packets and socket buffers share parts of.
pub struct Slab(Vec<u8>);

impl Slab {
    /// Memory for at least `len` bytes whose content is whatever it was; large ones come from a pool,
    /// so that they need not be cleared each time.
    pub fn new(len: usize) -> Slab {
        if (SLAB / 4..=SLAB).contains(&len) {
            let pooled = POOL.lock().pop();
            return Slab(pooled.unwrap_or_else(|| vec![0; SLAB]));
        }
        Slab(vec![0; len])
    }

    /// The bytes, to be filled before the slab is shared.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        if self.0.len() == SLAB {
            let mut pool = POOL.lock();
            if pool.len() < POOL_MAX {
                pool.push(std::mem::take(&mut self.0));
            }
        }
    }
}

/// A part of a slab.
#[derive(Clone)]
pub struct Frag {
    slab: Arc<Slab>,
    off: usize,
    len: usize,
}

impl Frag {
    /// The first `len` bytes of a filled slab.
    pub fn new(slab: Slab, len: usize) -> Frag {
        let len = len.min(slab.0.len());
        Frag { slab: Arc::new(slab), off: 0, len }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.slab.0[self.off..self.off + self.len]
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory that the fragment keeps alive.
    pub fn held(&self) -> usize {
        self.slab.0.len()
    }

    /// Drops bytes at the front.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len);
        self.off += n;
        self.len -= n;
    }

    /// Keeps the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n);
    }

    /// The part `from..from + len`.
    pub fn part(&self, from: usize, len: usize) -> Frag {
        let mut f = self.clone();
        f.advance(from);
        f.truncate(len);
        f
    }

    /// True when `next` continues this fragment in the same slab.
    fn joins(&self, next: &Frag) -> bool {
        Arc::ptr_eq(&self.slab, &next.slab) && self.off + self.len == next.off
    }
}

/// A sequence of fragments. The first has a place of its own: most have no other, and need no list.
#[derive(Clone, Default)]
pub struct Data {
    first: Option<Frag>,
    /// Empty without a first one.
    rest: VecDeque<Frag>,
    len: usize,
}

impl Data {
    /// No bytes.
    pub fn new() -> Data {
        Data::default()
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Data {
        let mut d = Data::new();
        if !bytes.is_empty() {
            let mut s = Slab::new(bytes.len());
            s.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            d.push(Frag::new(s, bytes.len()));
        }
        d
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The fragments in order.
    pub fn frags(&self) -> impl Iterator<Item = &Frag> {
        self.first.iter().chain(&self.rest)
    }

    /// Number of fragments.
    pub fn pieces(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Appends a fragment.
    pub fn push(&mut self, f: Frag) {
        if f.is_empty() {
            return;
        }
        self.len += f.len();
        match self.rest.back_mut().or(self.first.as_mut()) {
            Some(last) if last.joins(&f) => last.len += f.len,
            Some(_) => self.rest.push_back(f),
            None => self.first = Some(f),
        }
    }

    /// Appends all of `other`.
    pub fn append(&mut self, other: Data) {
        for f in other.first.into_iter().chain(other.rest) {
            self.push(f);
        }
    }

    /// Drops bytes at the front.
    pub fn advance(&mut self, n: usize) {
        let mut n = n.min(self.len);
        self.len -= n;
        while n > 0 {
            let Some(f) = &mut self.first else { return };
            if f.len() > n {
                f.advance(n);
                return;
            }
            n -= f.len();
            self.first = self.rest.pop_front();
        }
    }

    /// Keeps the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        while self.len > n {
            let over = self.len - n;
            let Some(f) = self.rest.back_mut().or(self.first.as_mut()) else { return };
            if f.len() > over {
                let keep = f.len() - over;
                f.truncate(keep);
                self.len = n;
                return;
            }
            self.len -= f.len();
            if self.rest.pop_back().is_none() {
                self.first = None;
            }
        }
    }

    /// The part `from..from + len` (less when there is less), sharing the slabs.
    pub fn part(&self, from: usize, len: usize) -> Data {
        let mut out = Data::new();
        let (mut skip, mut left) = (from, len);
        for f in self.frags() {
            if left == 0 {
                break;
            }
            if skip >= f.len() {
                skip -= f.len();
                continue;
            }
            let n = (f.len() - skip).min(left);
            out.push(f.part(skip, n));
            skip = 0;
            left -= n;
        }
        out
    }

    /// Copies bytes from the front into `out`; returns how many.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        for f in self.frags() {
            let n = f.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&f.bytes()[..n]);
            at += n;
            if at == out.len() {
                break;
            }
        }
        at
    }

    /// All bytes in one vector.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut v = vec![0; self.len];
        self.copy_to(&mut v);
        v
    }

    /// Adds the bytes to a checksum.
    pub fn sum(&self, s: &mut Sum) {
        for f in self.frags() {
            s.add(f.bytes());
        }
    }

    /// Memory that the fragments keep alive, roughly: a slab shared by several counts for each.
    pub fn held(&self) -> usize {
        self.frags().map(|f| f.len() + 256).sum()
    }
}

/// What is known about the transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Csum {
    /// On receive: to be verified. On transmit: complete.
    #[default]
    None,
    /// Verified by the device, or never left the machine.
    Valid,
    /// The field holds the pseudo header's sum; whoever cannot leave it so sums from `start` (bytes
    /// after the network header's start) and stores at `start + offset`.
    Partial { start: u16, offset: u16 },
}

/// What a segment larger than the MTU is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    TcpV4,
    TcpV6,
    /// Equal UDP datagrams.
    Udp,
}

/// Segmentation left to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    pub kind: GsoKind,
    /// Payload bytes of each segment.
    pub size: u16,
}

/// The EtherType of a tag (802.1Q).
const TAGGED: [u8; 2] = [0x81, 0];

/// Room in front of the headers that layers below prepend theirs to.
const HEADROOM: usize = 64;

/// A packet on its way through the stack.
#[derive(Clone, Default)]
pub struct Packet {
    head: Vec<u8>,
    start: usize,
    /// Where the network header begins in `head`.
    net: usize,
    pub data: Data,
    pub csum: Csum,
    pub gso: Option<Gso>,
    /// EtherType.
    pub kind: u16,
    /// The interface it came from, or goes to.
    pub iface: u32,
    pub mark: u32,
    pub priority: u32,
    /// 802.1Q tag that was stripped.
    pub vlan: Option<u16>,
    /// Bytes of the longest of the pieces that it was put together of; 0 when it came whole.
    pub piece: u32,
    /// When it arrived, nanoseconds since the epoch; 0 when not noted.
    pub stamp: u64,
    /// The user whose socket sent it.
    pub owner: Option<u32>,
    /// Its connection, once a filter looked.
    pub track: crate::hook::Track,
    /// Its sender wants to know when it leaves.
    pub told: Told,
}

/// A [`crate::stamp::Stamp`] on its packet; copies of the packet have none.
#[derive(Default)]
pub struct Told(pub(crate) Option<Box<crate::stamp::Stamp>>);

impl Clone for Told {
    fn clone(&self) -> Told {
        Told(None)
    }
}

impl Packet {
    /// A packet whose headers are written front to back into what this returns' `head_mut`, around `data`.
    pub fn new(data: Data) -> Packet {
        let mut head = Vec::with_capacity(HEADROOM + 128);
        head.resize(HEADROOM, 0);
        Packet { head, start: HEADROOM, net: HEADROOM, data, ..Packet::default() }
    }

    /// A packet of a whole frame, all of it contiguous: for small ones, of which that is one block of memory.
    pub fn contiguous(frame: &[u8]) -> Packet {
        let mut head = Vec::with_capacity(HEADROOM + frame.len());
        head.resize(HEADROOM, 0);
        head.extend_from_slice(frame);
        Packet { head, start: HEADROOM, net: HEADROOM, ..Packet::default() }
    }

    /// Headers so far, to be appended to.
    pub fn head_mut(&mut self) -> &mut Vec<u8> {
        &mut self.head
    }

    /// The contiguous front part.
    pub fn head(&self) -> &[u8] {
        &self.head[self.start..]
    }

    /// The contiguous part from the network header on.
    pub fn net(&self) -> &[u8] {
        &self.head[self.net..]
    }

    /// As [`Packet::net`], to be changed.
    pub fn net_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.head[self.net..]
    }

    /// Bytes from the front to the network header.
    pub fn link_len(&self) -> usize {
        self.net - self.start
    }

    /// The link header.
    pub fn link(&self) -> &[u8] {
        &self.head[self.start..self.net]
    }

    /// As [`Packet::link`], to be changed.
    pub fn link_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.head[self.start..self.net]
    }

    /// Bytes of the whole packet.
    pub fn len(&self) -> usize {
        self.head.len() - self.start + self.data.len()
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes from the network header on.
    pub fn net_len(&self) -> usize {
        self.head.len() - self.net + self.data.len()
    }

    /// Prepends a header.
    pub fn push_front(&mut self, bytes: &[u8]) {
        if self.start < bytes.len() {
            let grow = HEADROOM + bytes.len();
            self.head.splice(0..0, std::iter::repeat_n(0, grow));
            self.start += grow;
            self.net += grow;
        }
        self.start -= bytes.len();
        self.head[self.start..self.start + bytes.len()].copy_from_slice(bytes);
    }

    /// Moves data up so that at least `n` bytes from the network header on are contiguous. False when
    /// the packet has fewer.
    pub fn pull(&mut self, n: usize) -> bool {
        let have = self.head.len() - self.net;
        if n <= have {
            return true;
        }
        let want = n - have;
        if self.data.len() < want {
            return false;
        }
        let at = self.head.len();
        self.head.resize(at + want, 0);
        self.data.copy_to(&mut self.head[at..]);
        self.data.advance(want);
        true
    }

    /// The link header ends `n` bytes after the front: the network header begins there.
    pub fn set_link_len(&mut self, n: usize) {
        self.net = (self.start + n).min(self.head.len());
    }

    /// The frame as the one at the other end of a link receives it: what is known about it here is not there.
    pub fn arrived(mut self) -> Packet {
        if let Csum::Partial { start, .. } = &mut self.csum {
            // Devices count from the frame's start.
            *start += (self.net - self.start) as u16;
        }
        self.net = self.start;
        (self.kind, self.iface, self.mark, self.priority, self.stamp) = (0, 0, 0, 0, 0);
        self.vlan = None;
        self.piece = 0;
        self.track = Default::default();
        self
    }

    /// The 802.1Q tag of a frame, if it has one.
    pub(crate) fn tag(&self) -> Option<u16> {
        let b = self.head().get(12..16)?;
        (b[..2] == TAGGED).then_some(u16::from_be_bytes([b[2], b[3]]))
    }

    /// Gives a frame this tag instead of what it had.
    pub(crate) fn retag(&mut self, tag: Option<u16>) {
        let at = self.start + 12;
        // In frames of programs the tag is not part of the link header.
        let inside = self.net >= at + 6;
        match (self.tag(), tag) {
            (Some(_), Some(t)) => self.head[at + 2..at + 4].copy_from_slice(&t.to_be_bytes()),
            (Some(_), None) => {
                self.head.drain(at..at + 4);
                if inside {
                    self.net -= 4;
                }
            }
            (None, Some(t)) if self.head.len() >= at => {
                let [hi, lo] = t.to_be_bytes();
                self.head.splice(at..at, [TAGGED[0], TAGGED[1], hi, lo]);
                if self.net > at {
                    self.net += 4;
                }
            }
            (None, _) => {}
        }
        self.vlan = tag;
    }

    /// Drops the link header.
    pub fn strip_link(&mut self) {
        self.start = self.net;
    }

    /// Drops everything before `n` bytes after the network header's start; what follows is the new
    /// network header (decapsulation, transport payload).
    pub fn strip_net(&mut self, n: usize) {
        let have = self.head.len() - self.net;
        if n > have {
            self.data.advance(n - have);
            self.net = self.head.len();
        } else {
            self.net += n;
        }
        self.start = self.net;
    }

    /// Cuts the packet to `n` bytes from the network header on (padding).
    pub fn truncate_net(&mut self, n: usize) {
        let have = self.head.len() - self.net;
        if n < have {
            self.head.truncate(self.net + n);
            self.data.truncate(0);
        } else {
            self.data.truncate(n - have);
        }
    }

    /// What follows the first `n` bytes of the network header, as data; the packet keeps its headers only.
    pub fn take_payload(&mut self, n: usize) -> Data {
        let have = self.head.len() - self.net;
        let mut data = std::mem::take(&mut self.data);
        if n > have {
            data.advance(n - have);
            return data;
        }
        if n < have {
            let mut out = Data::copy_of(&self.head[self.net + n..]);
            self.head.truncate(self.net + n);
            out.append(data);
            return out;
        }
        data
    }

    /// All bytes from the front on, contiguous.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut v = self.head().to_vec();
        let at = v.len();
        v.resize(at + self.data.len(), 0);
        self.data.copy_to(&mut v[at..]);
        v
    }

    /// Sum of all bytes from `from` after the network header's start.
    pub fn sum_from(&self, from: usize) -> Sum {
        let mut s = Sum::new();
        let head = self.net();
        if from <= head.len() {
            s.add(&head[from..]);
            self.data.sum(&mut s);
        } else {
            self.data.part(from - head.len(), usize::MAX).sum(&mut s);
        }
        s
    }

    /// Completes a partial checksum in software.
    pub fn complete_checksum(&mut self) {
        let Csum::Partial { start, offset } = self.csum else { return };
        let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
        if !self.pull(at + 2) {
            return;
        }
        let mut sum = self.sum_from(start).finish();
        // UDP's zero means "none" (RFC 768); the other zero is the same number.
        if sum == 0 {
            sum = 0xffff;
        }
        let net = self.net;
        self.head[net + at..net + at + 2].copy_from_slice(&sum.to_be_bytes());
        self.csum = Csum::Valid;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(parts: &[Vec<u8>]) -> Data {
        let mut d = Data::new();
        for p in parts {
            d.append(Data::copy_of(p));
        }
        d
    }

    proptest! {
        #[test]
        fn data_behaves_like_one_vector(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..8),
            from in 0usize..100, len in 0usize..100, cut in 0usize..100, skip in 0usize..100,
        ) {
            let d = data(&parts);
            let v: Vec<u8> = parts.concat();
            prop_assert_eq!(d.to_vec(), v.clone());
            let lo = from.min(v.len());
            let hi = (from + len).min(v.len()).max(lo);
            prop_assert_eq!(d.part(from, len).to_vec(), v[lo..hi].to_vec());
            let mut t = d.clone();
            t.truncate(cut);
            t.advance(skip);
            let end = cut.min(v.len());
            prop_assert_eq!(t.to_vec(), v[skip.min(end)..end].to_vec());
            prop_assert_eq!(t.len(), t.to_vec().len());
        }

        #[test]
        fn pulling_and_stripping_keep_the_bytes(
            v in proptest::collection::vec(any::<u8>(), 1..200), pull in 0usize..220, link in 0usize..40, strip in 0usize..100,
        ) {
            let mut p = Packet::new(Data::copy_of(&v));
            prop_assert_eq!(p.pull(pull), pull <= v.len());
            prop_assert_eq!(p.to_vec(), v.clone());
            p.set_link_len(link);
            let link = p.link_len();
            prop_assert_eq!(p.net_len(), v.len() - link);
            p.strip_net(strip);
            let at = (link + strip).min(v.len());
            prop_assert_eq!(p.to_vec(), v[at..].to_vec());
            p.push_front(&[9; 100]);
            p.push_front(&[8; 100]);
            prop_assert_eq!(p.len(), v.len() - at + 200);
        }
    }

    #[test]
    fn tags_come_and_go_and_the_rest_stays() {
        let mut p = Packet::new(Data::copy_of(&[9; 3]));
        p.head_mut().extend_from_slice(&[1; 12]);
        p.head_mut().extend_from_slice(&[8, 0, 0x45]);
        p.set_link_len(14);
        let before = p.to_vec();
        assert_eq!(p.tag(), None);
        p.retag(Some(0xe00a));
        assert_eq!((p.tag(), p.link_len(), p.net()), (Some(0xe00a), 18, &[0x45][..]));
        p.retag(Some(5));
        assert_eq!(p.to_vec()[12..18], [0x81, 0, 0, 5, 8, 0]);
        // As it comes from a program.
        p.set_link_len(14);
        p.retag(None);
        assert_eq!((p.to_vec(), p.link_len()), (before.clone(), 14));
        p.retag(None);
        assert_eq!(p.to_vec(), before);
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        let mut p =
            Packet::new(Data::copy_of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0]));
        p.csum = Csum::Partial { start: 0, offset: 8 };
        p.complete_checksum();
        assert_eq!(p.to_vec()[8..], 0x220du16.to_be_bytes());
        assert_eq!(p.sum_from(0).finish(), 0);
    }
}
