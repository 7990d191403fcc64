//! Joining TCP segments that follow each other into one packet before the stack sees them (generic receive offload):
//! one passage instead of forty. What was joined is cut again where it was when it is forwarded ([`crate::gso`]).
//!
//! Segments are joined when a sender's segmentation could have made them of one: same connection, same headers but
//! for length, identification and checksums, each following the one before, all but the last of one size. Both
//! checksums of each are verified first.

use std::ops::Range;

use crate::packet::{Csum, Data, Frag, Gso, GsoKind, Packet, SLAB, Slab};
use crate::wire::checksum::{Sum, checksum};
use crate::wire::tcp::flags;
use crate::wire::{ethernet, ipv4, ipv6, proto};

/// Connections that are joined at a time.
const FLOWS: usize = 8;
/// Largest network packet.
const PACKET_MAX: usize = 65_535;
/// Joined data smaller than this is copied, so that a large slab is not kept for it.
const SMALL: usize = SLAB / 4;

/// A TCP segment's places in its frame.
struct Place {
    kind: GsoKind,
    ip: usize,
    tcp: usize,
    data: usize,
    end: usize,
}

/// A frame that may be joined with others: a whole Ethernet frame of plain IPv4 or IPv6 with TCP.
fn place(b: &[u8]) -> Option<Place> {
    let ip = ethernet::HEADER;
    let (kind, tcp, end) = match b.get(12..15)? {
        // No options and no fragment.
        [0x08, 0x00, 0x45] if b.len() >= ip + ipv4::HEADER => {
            let (len, part) = (word(b, ip + 2), word(b, ip + 6));
            if b[ip + 9] != proto::TCP || part & 0x3fff != 0 {
                return None;
            }
            (GsoKind::TcpV4, ip + ipv4::HEADER, ip + usize::from(len))
        }
        [0x86, 0xdd, v] if v >> 4 == 6 && b.len() >= ip + ipv6::HEADER => {
            let len = word(b, ip + 4);
            if b[ip + 6] != proto::TCP {
                return None;
            }
            (GsoKind::TcpV6, ip + ipv6::HEADER, ip + ipv6::HEADER + usize::from(len))
        }
        _ => return None,
    };
    if end > b.len() || end < tcp + 20 {
        return None;
    }
    let data = tcp + usize::from(b[tcp + 12] >> 4) * 4;
    (data >= tcp + 20 && data <= end).then_some(Place { kind, ip, tcp, data, end })
}

fn word(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn long(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

impl Place {
    fn addresses(&self) -> Range<usize> {
        match self.kind {
            GsoKind::TcpV4 => self.ip + 12..self.ip + 20,
            _ => self.ip + 8..self.ip + 40,
        }
    }

    /// The pseudo header's sum for a segment of `len` bytes.
    fn pseudo(&self, b: &[u8], len: usize) -> Sum {
        let mut s = Sum::new();
        s.add(&b[self.addresses()]);
        s.add(&(len as u32).to_be_bytes());
        s.add(&[0, proto::TCP]);
        s
    }

    fn sound(&self, b: &[u8]) -> bool {
        let mut s = self.pseudo(b, self.end - self.tcp);
        s.add(&b[self.tcp..self.end]);
        s.finish() == 0 && (self.kind != GsoKind::TcpV4 || checksum(&b[self.ip..self.tcp]) == 0)
    }

    /// The same connection.
    fn same_flow(&self, b: &[u8], o: &Place, c: &[u8]) -> bool {
        self.kind == o.kind
            && b[self.addresses()] == c[o.addresses()]
            && b[self.tcp..self.tcp + 4] == c[o.tcp..o.tcp + 4]
    }

    /// Everything is the same that must be in the pieces of one segment. Both are of the same flow.
    fn alike(&self, b: &[u8], c: &[u8]) -> bool {
        let t = self.tcp;
        let header = match self.kind {
            // Type of service; fragment flags, time to live, protocol.
            GsoKind::TcpV4 => b[15] == c[15] && b[20..24] == c[20..24],
            // Class and label; next header, hop limit.
            _ => b[14..18] == c[14..18] && b[20..22] == c[20..22],
        };
        header
            && b[..14] == c[..14]
            // Acknowledgement, header length, window, options.
            && b[t + 8..t + 13] == c[t + 8..t + 13]
            && b[t + 14..t + 16] == c[t + 14..t + 16]
            && b[t + 20..self.data] == c[t + 20..self.data]
    }
}

/// A packet that grows.
struct Joined {
    place: Place,
    head: Vec<u8>,
    slab: Slab,
    len: usize,
    /// Payload of the first segment.
    size: usize,
    next: u32,
    segments: usize,
}

impl Joined {
    fn new(b: &[u8], place: Place, mut slab: Slab) -> Joined {
        let len = place.end - place.data;
        slab.bytes_mut()[..len].copy_from_slice(&b[place.data..place.end]);
        let next = long(b, place.tcp + 4).wrapping_add(len as u32);
        Joined { head: b[..place.data].to_vec(), slab, len, size: len, next, segments: 1, place }
    }

    /// Whether the segment at `p` of `b` continues this one.
    fn continues(&self, b: &[u8], p: &Place) -> bool {
        let (own, t) = (&self.place, p.tcp);
        let len = p.end - p.data;
        long(b, t + 4) == self.next
            && len <= self.size
            && own.data - own.ip + self.len + len <= PACKET_MAX
            && p.data == own.data
            && own.alike(&self.head, b)
    }

    fn push(&mut self, b: &[u8], p: &Place) {
        let part = &b[p.data..p.end];
        self.slab.bytes_mut()[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
        self.next = self.next.wrapping_add(part.len() as u32);
        self.segments += 1;
        self.head[p.tcp + 13] |= b[p.tcp + 13];
    }

    /// The packet, and the slab when it was not needed.
    fn finish(mut self) -> (Packet, Option<Slab>) {
        let p = &self.place;
        let mut csum = Csum::Valid;
        let mut gso = None;
        if self.segments > 1 {
            let (ip, tcp) = (p.ip, p.tcp);
            let total = p.data - ip + self.len;
            if p.kind == GsoKind::TcpV4 {
                self.head[ip + 2..ip + 4].copy_from_slice(&(total as u16).to_be_bytes());
                self.head[ip + 10..ip + 12].fill(0);
                let sum = checksum(&self.head[ip..tcp]);
                self.head[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
            } else {
                let len = (total - ipv6::HEADER) as u16;
                self.head[ip + 4..ip + 6].copy_from_slice(&len.to_be_bytes());
            }
            // As a device leaves it that joins segments: whoever sends it on completes the sum.
            let sum = p.pseudo(&self.head, p.data - tcp + self.len).folded();
            self.head[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
            csum = Csum::Partial { start: tcp as u16, offset: 16 };
            gso = Some(Gso { kind: p.kind, size: self.size as u16 });
        }
        let (data, spare) = if self.len < SMALL {
            (Data::copy_of(&self.slab.bytes_mut()[..self.len]), Some(self.slab))
        } else {
            let mut d = Data::new();
            d.push(Frag::new(self.slab, self.len));
            (d, None)
        };
        let mut packet = Packet::new(data);
        packet.head_mut().extend_from_slice(&self.head);
        (packet.csum, packet.gso) = (csum, gso);
        (packet, spare)
    }
}

/// Joins the frames of one batch.
#[derive(Default)]
pub struct Joiner {
    open: Vec<Joined>,
    out: Vec<Packet>,
    spare: Option<Slab>,
}

impl Joiner {
    /// Takes a received frame if it can be joined with others: then true. Otherwise the caller makes a packet of
    /// it, for [`Joiner::packet`].
    pub fn frame(&mut self, b: &[u8]) -> bool {
        let Some(p) = place(b) else { return false };
        let at = self.open.iter().position(|j| p.same_flow(b, &j.place, &j.head));
        let flag = b[p.tcp + 13];
        let plain = flag & !flags::PSH == flags::ACK && p.end > p.data && p.sound(b);
        if let Some(at) = at {
            let j = &mut self.open[at];
            if plain && j.continues(b, &p) {
                j.push(b, &p);
                let last = p.end - p.data < j.size || flag & flags::PSH != 0;
                if last {
                    self.close(at);
                }
                return true;
            }
            // The order within a connection stays.
            self.close(at);
        }
        if !plain || flag & flags::PSH != 0 {
            return false;
        }
        if self.open.len() == FLOWS {
            self.close(0);
        }
        let slab = self.spare.take().unwrap_or_else(|| Slab::new(SLAB));
        self.open.push(Joined::new(b, p, slab));
        true
    }

    /// Takes a packet that [`Joiner::frame`] did not want.
    pub fn packet(&mut self, p: Packet) {
        self.out.push(p);
    }

    fn close(&mut self, at: usize) {
        let (packet, spare) = self.open.remove(at).finish();
        self.out.push(packet);
        if spare.is_some() {
            self.spare = spare;
        }
    }

    /// Everything that was taken, in order within each connection.
    pub fn finish(&mut self) -> Vec<Packet> {
        while !self.open.is_empty() {
            self.close(0);
        }
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gso;
    use crate::ip::partial_checksum;
    use crate::wire::tcp::Tcp;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// Frames of one super-segment, cut in software.
    fn frames(v6: bool, port: u16, seq: u32, flag: u8, data: &[u8], mss: usize) -> Vec<Vec<u8>> {
        let ends: [IpAddr; 2] = match v6 {
            true => ["fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()],
            false => ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
        };
        let mut h = Tcp {
            src: port,
            dst: 80,
            seq,
            ack: 77,
            flags: flag,
            window: 500,
            checksum: 0,
            urgent: 0,
            header_len: 0,
            options: crate::wire::tcp::Options::default(),
        };
        h.options.timestamp = Some((5, 6));
        let mut p = Packet::new(Data::copy_of(data));
        h.write(p.head_mut());
        partial_checksum(&mut p, ends[0], ends[1], proto::TCP, 16);
        let head = p.head().len();
        if data.len() > mss {
            let kind = if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
            p.gso = Some(Gso { kind, size: mss as u16 });
        }
        let len = head + data.len();
        let mut ip = Vec::new();
        match (ends[0], ends[1]) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                ip.extend([0x45, 0]);
                ip.extend(((20 + len) as u16).to_be_bytes());
                ip.extend([0, 9, 0x40, 0, 64, proto::TCP, 0, 0]);
                ip.extend(a.octets());
                ip.extend(b.octets());
                let sum = checksum(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                ip.extend([0x60, 0, 0, 0]);
                ip.extend((len as u16).to_be_bytes());
                ip.extend([proto::TCP, 64]);
                ip.extend(a.octets());
                ip.extend(b.octets());
            }
            _ => unreachable!(),
        }
        p.push_front(&ip);
        p.set_link_len(0);
        if let Csum::Partial { start, .. } = &mut p.csum {
            *start += ip.len() as u16;
        }
        let link = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let kind: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
        gso::segment(p, true)
            .into_iter()
            .map(|s| [&link[..], &kind[..], &s.to_vec()].concat())
            .collect()
    }

    fn join(all: &[Vec<u8>]) -> Vec<Packet> {
        let mut j = Joiner::default();
        for f in all {
            if !j.frame(f) {
                j.packet(Packet::new(Data::copy_of(f)));
            }
        }
        j.finish()
    }

    /// The frames that a packet stands for.
    fn cut(mut p: Packet) -> Vec<Vec<u8>> {
        p.pull(14);
        p.set_link_len(14);
        let link = p.link().to_vec();
        if let Csum::Partial { start, .. } = &mut p.csum {
            *start -= 14;
        }
        gso::segment(p, true).iter().map(|s| [&link[..], &s.to_vec()[14..]].concat()).collect()
    }

    fn payload(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    #[test]
    fn what_was_cut_is_joined_and_cut_again_alike() {
        for v6 in [false, true] {
            let data = payload(40_000);
            let all = frames(v6, 1, 1000, flags::ACK, &data, 1448);
            assert_eq!(all.len(), 28);
            let joined = join(&all);
            assert_eq!(joined.len(), 1);
            assert_eq!(joined[0].gso.map(|g| g.size), Some(1448));
            assert_eq!(joined[0].len(), all[0].len() - 1448 + 40_000);
            let again = cut(joined[0].clone());
            assert_eq!(again, all);
        }
    }

    #[test]
    fn what_does_not_belong_together_stays_apart() {
        let one = frames(false, 1, 1000, flags::ACK, &payload(1448), 1448);
        let next = |seq, flag| frames(false, 1, seq, flag, &payload(1448), 1448).remove(0);
        // A gap, a flag that is more than data, a broken checksum.
        let fin = flags::ACK | flags::FIN;
        for second in [next(1000 + 1449, flags::ACK), next(1000 + 1448, fin)] {
            assert_eq!(join(&[one[0].clone(), second]).len(), 2);
        }
        let mut broken = next(1000 + 1448, flags::ACK);
        broken[100] ^= 1;
        let got = join(&[one[0].clone(), broken.clone()]);
        assert_eq!((got.len(), got[1].csum), (2, Csum::None));
        assert_eq!(got[1].to_vec(), broken);
        // A shorter one ends it.
        let short = frames(false, 1, 1000 + 1448, flags::ACK, &payload(10), 1448).remove(0);
        let after = next(1000 + 1458, flags::ACK);
        let got = join(&[one[0].clone(), short, after]);
        assert_eq!(got.iter().map(Packet::len).collect::<Vec<_>>(), [66 + 1458, 66 + 1448]);
    }

    #[test]
    fn connections_are_joined_side_by_side_and_each_stays_in_order() {
        let all: Vec<_> =
            (0..20).map(|p| frames(false, p, 0, flags::ACK, &payload(14_480), 1448)).collect();
        let mixed: Vec<_> =
            (0..10).flat_map(|i| all[..8].iter().map(move |f| f[i].clone())).collect();
        assert_eq!(join(&mixed).len(), 8);
        // More than are kept open: every byte is there, in order.
        let mixed: Vec<_> = (0..10).flat_map(|i| all.iter().map(move |f| f[i].clone())).collect();
        let back: Vec<_> = join(&mixed).into_iter().flat_map(cut).collect();
        for f in &all {
            let own: Vec<_> = back.iter().filter(|b| b[34..36] == f[0][34..36]).cloned().collect();
            assert_eq!(own, *f);
        }
    }

    proptest! {
        #[test]
        fn any_frames_come_out_as_they_went_in(
            bytes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..6),
            len in 0usize..6000, mss in 100usize..1448, flip in proptest::option::of((0usize..6, 0usize..1500, 1u8..)), v6: bool,
        ) {
            let mut all = frames(v6, 1, u32::MAX - 2000, flags::ACK, &payload(len), mss);
            all.extend(bytes);
            if let Some((i, at, x)) = flip
                && let Some(b) = all.get_mut(i).and_then(|f| f.get_mut(at))
            {
                *b ^= x;
            }
            let mut back: Vec<_> = join(&all)
                .into_iter()
                .flat_map(|p| if p.gso.is_some() { cut(p) } else { vec![p.to_vec()] })
                .collect();
            // Padding behind a packet need not survive.
            let mut want = all.clone();
            back.sort();
            want.sort();
            prop_assert_eq!(back.len(), want.len());
            for (b, w) in back.iter().zip(&want) {
                prop_assert!(w.starts_with(b));
            }
        }
    }
}
