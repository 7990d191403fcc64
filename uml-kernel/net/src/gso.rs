//! Cutting super-segments in software, where the device does not (RFC 9293 3.7.1 sizes, generic
//! segmentation offload).

use crate::packet::{Csum, Data, GsoKind, Packet};
use crate::wire::checksum::{Sum, checksum};
use crate::wire::tcp::flags;
use crate::wire::{ipv4, ipv6};

/// The packets that `p` stands for, each with a complete checksum when `finish`.
pub fn segment(mut p: Packet, finish: bool) -> Vec<Packet> {
    let Some(gso) = p.gso.take() else {
        if finish {
            p.complete_checksum();
        }
        return vec![p];
    };
    let Some((net_len, head_len)) = headers(&mut p, gso.kind) else { return vec![p] };
    let size = usize::from(gso.size).max(1);
    let data = p.take_payload(head_len);
    let total = data.len().div_ceil(size).max(1);
    let mut out = Vec::with_capacity(total);
    for i in 0..total {
        let part = data.part(i * size, size);
        let mut s = p.clone();
        let len = part.len();
        s.data = part;
        patch(&mut s, net_len, head_len, i, i + 1 == total, i * size, len, gso.kind);
        if finish {
            s.complete_checksum();
        }
        out.push(s);
    }
    out
}

/// Lengths of the network header and of all headers.
fn headers(p: &mut Packet, kind: GsoKind) -> Option<(usize, usize)> {
    if !p.pull(ipv4::HEADER) {
        return None;
    }
    let net = match p.net()[0] >> 4 {
        4 => usize::from(p.net()[0] & 15) * 4,
        _ => {
            if !p.pull(ipv6::HEADER) {
                return None;
            }
            let first = p.net()[6];
            p.pull(p.net_len().min(256));
            ipv6::HEADER + ipv6::chain(p.net(), first).ok()?.len
        }
    };
    let transport = match kind {
        GsoKind::Udp => crate::wire::udp::HEADER,
        _ => {
            if !p.pull(net + 20) {
                return None;
            }
            crate::wire::tcp::Tcp::header_len(&p.net()[net..]).ok()?
        }
    };
    p.pull(net + transport).then_some((net, net + transport))
}

#[allow(clippy::too_many_arguments)]
fn patch(
    s: &mut Packet,
    net_len: usize,
    head_len: usize,
    index: usize,
    last: bool,
    offset: usize,
    len: usize,
    kind: GsoKind,
) {
    let b = s.net_bytes_mut();
    let v4 = b[0] >> 4 == 4;
    let payload = head_len - net_len + len;
    if v4 {
        b[2..4].copy_from_slice(&((net_len + payload) as u16).to_be_bytes());
        let id = u16::from_be_bytes([b[4], b[5]]).wrapping_add(index as u16);
        b[4..6].copy_from_slice(&id.to_be_bytes());
        b[10..12].fill(0);
        let sum = checksum(&b[..net_len]);
        b[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        b[4..6].copy_from_slice(&((net_len - ipv6::HEADER + payload) as u16).to_be_bytes());
    }
    let (proto, offset_in) = match kind {
        GsoKind::Udp => (crate::wire::proto::UDP, 6),
        _ => (crate::wire::proto::TCP, 16),
    };
    let mut sum = Sum::new();
    let (from, to) = if v4 { (12, 20) } else { (8, 40) };
    sum.add(&b[from..to]);
    sum.add(&(payload as u32).to_be_bytes());
    sum.add(&[0, proto]);
    let t = &mut b[net_len..];
    match kind {
        GsoKind::Udp => t[4..6].copy_from_slice(&(payload as u16).to_be_bytes()),
        _ => {
            let seq = u32::from_be_bytes([t[4], t[5], t[6], t[7]]).wrapping_add(offset as u32);
            t[4..8].copy_from_slice(&seq.to_be_bytes());
            if !last {
                t[13] &= !(flags::FIN | flags::PSH);
            }
            if index > 0 {
                t[13] &= !flags::CWR;
            }
        }
    }
    t[offset_in..offset_in + 2].copy_from_slice(&sum.folded().to_be_bytes());
    s.csum = Csum::Partial { start: net_len as u16, offset: offset_in as u16 };
}

/// The pieces of `data` of at most `size` bytes.
pub fn pieces(data: &Data, size: usize) -> impl Iterator<Item = Data> + '_ {
    let size = size.max(1);
    (0..data.len().div_ceil(size)).map(move |i| data.part(i * size, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::{self, Meta};
    use crate::packet::Gso;
    use crate::wire::{ipv4::Ipv4, proto, tcp};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_have_right_lengths_numbers_and_checksums(n in 1usize..5000, size in 1u16..1500, v6: bool, seq: u32) {
            let (src, dst) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let body: Vec<u8> = (0..n).map(|i| i as u8).collect();
            let mut p = Packet::new(Data::copy_of(&body));
            let h = tcp::Tcp { src: 1, dst: 2, seq, ack: 7, flags: flags::ACK | flags::PSH, window: 9, checksum: 0,
                urgent: 0, header_len: 20, options: tcp::Options::default() };
            h.write(p.head_mut());
            ip::partial_checksum(&mut p, src, dst, proto::TCP, 16);
            ip::write_header(&mut p, &Meta::new(src, dst, proto::TCP));
            p.gso = Some(Gso { kind: if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 }, size });
            let net = if v6 { 40 } else { 20 };
            let mut all = Vec::new();
            let parts = segment(p, true);
            prop_assert_eq!(parts.len(), n.div_ceil(usize::from(size)));
            let last = parts.len() - 1;
            for (i, s) in parts.into_iter().enumerate() {
                let b = s.to_vec();
                let h = if v6 { None } else { Some(Ipv4::parse(&b, b.len()).unwrap()) };
                prop_assert!(h.is_none_or(|h| h.total_len == b.len()));
                let mut sum = Sum::pseudo(src, dst, proto::TCP, b.len() - net);
                sum.add(&b[net..]);
                prop_assert_eq!(sum.finish(), 0);
                let t = tcp::Tcp::parse(&b[net..]).unwrap();
                prop_assert_eq!(t.seq, seq.wrapping_add(all.len() as u32));
                prop_assert_eq!(t.has(flags::PSH), i == last);
                all.extend_from_slice(&b[net + t.header_len..]);
            }
            prop_assert_eq!(all, body);
        }
    }
}
