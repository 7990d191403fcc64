//! Fragments: cutting packets and putting them together again (RFC 791, RFC 815, RFC 8200 4.5, RFC 5722),
//! and what is known of path MTUs (RFC 1191, RFC 8201).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use uml_base::{Mutex, Rank};

use crate::icmp;
use crate::packet::{Csum, Data, Packet};
use crate::snmp::IpCounters;
use crate::stack::{Cx, Stack};
use crate::time::{SEC, Time};
use crate::timer::{Armed, Expire};
use crate::wire::icmp as wire_icmp;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Chain, Fragment, Ipv6};
use crate::wire::proto;

/// How long pieces are kept (ipfrag_time; 60 s for IPv6).
const TIMEOUT_V4: u64 = 30 * SEC;
const TIMEOUT_V6: u64 = 60 * SEC;
/// Bytes of pieces kept (ipfrag_high_thresh).
const MEMORY: usize = 4 << 20;
/// Pieces of one packet.
const PIECES: usize = 1024;
/// How long a path MTU is believed.
const PMTU_LIFE: u64 = 600 * SEC;
const PMTU_ENTRIES: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    proto: u8,
}

struct Partial {
    pieces: BTreeMap<usize, Data>,
    /// Length, once the last piece is there.
    total: Option<usize>,
    have: usize,
    /// Bytes of the longest piece, its headers included.
    longest: u32,
    /// Where the first of them came in.
    iface: u32,
    /// Headers of the first piece.
    first: Option<Packet>,
    expires: Time,
}

/// Packets that are not whole yet, and path MTUs.
pub struct Reassembly {
    table: Mutex<HashMap<Key, Partial>>,
    memory: AtomicUsize,
    armed: Armed,
    pmtu: Mutex<HashMap<IpAddr, (usize, Time)>>,
    pmtu_count: AtomicUsize,
    /// Pieces are copies that are only looked at: nobody is told of those that were in vain.
    copies: bool,
}

impl Reassembly {
    pub(crate) fn new() -> Arc<Reassembly> {
        Reassembly::build(false)
    }

    /// A place for copies of pieces.
    pub(crate) fn of_copies() -> Arc<Reassembly> {
        Reassembly::build(true)
    }

    fn build(copies: bool) -> Arc<Reassembly> {
        Arc::new(Reassembly {
            table: Mutex::new(Rank::LEAF, HashMap::new()),
            memory: AtomicUsize::new(0),
            armed: Armed::default(),
            pmtu: Mutex::new(Rank::LEAF, HashMap::new()),
            pmtu_count: AtomicUsize::new(0),
            copies,
        })
    }

    /// The path MTU learned for a destination.
    pub(crate) fn path_mtu(&self, dst: IpAddr, now: Time) -> Option<usize> {
        if self.pmtu_count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.pmtu.lock().get(&dst).filter(|e| e.1 > now).map(|e| e.0)
    }

    /// A router said that only `mtu` bytes pass.
    pub(crate) fn learn_mtu(&self, dst: IpAddr, mtu: usize, now: Time) {
        let mut t = self.pmtu.lock();
        if t.len() >= PMTU_ENTRIES {
            t.retain(|_, e| e.1 > now);
            if t.len() >= PMTU_ENTRIES {
                t.clear();
            }
        }
        t.insert(dst, (mtu, now + PMTU_LIFE));
        self.pmtu_count.store(t.len(), Ordering::Relaxed);
    }

    /// Adds a piece; the whole payload when it was the last that was missing.
    #[allow(clippy::too_many_arguments)]
    fn add(
        self: &Arc<Self>,
        cx: &mut Cx,
        key: Key,
        offset: usize,
        more: bool,
        data: Data,
        (headers, iface): (usize, u32),
        first: Option<Packet>,
        timeout: u64,
    ) -> Option<(Packet, Data)> {
        let end = offset + data.len();
        if end > 65_535 || (more && data.len() % 8 != 0) || data.is_empty() {
            return None;
        }
        let now = cx.now;
        let mut t = self.table.lock();
        if self.memory.load(Ordering::Relaxed) + data.len() > MEMORY {
            // Under pressure the oldest go.
            if let Some(k) = t.iter().min_by_key(|(_, p)| p.expires).map(|(k, _)| *k)
                && let Some(p) = t.remove(&k)
            {
                self.memory.fetch_sub(p.have, Ordering::Relaxed);
            }
        }
        let p = t.entry(key).or_insert_with(|| Partial {
            pieces: BTreeMap::new(),
            total: None,
            have: 0,
            longest: 0,
            iface,
            first: None,
            expires: now + timeout,
        });
        let overlap =
            p.pieces.range(..end).next_back().is_some_and(|(at, d)| at + d.len() > offset);
        let beyond = p.total.is_some_and(|n| end > n || (!more && end != n))
            || (!more && p.pieces.last_key_value().is_some_and(|(at, d)| at + d.len() > end));
        let exact = p.pieces.get(&offset).is_some_and(|d| d.len() == data.len());
        if exact && !beyond {
            return None;
        }
        if overlap || beyond || p.pieces.len() >= PIECES {
            // Overlaps are an attack or a mess: everything is dropped (RFC 5722).
            let have = p.have;
            t.remove(&key);
            self.memory.fetch_sub(have, Ordering::Relaxed);
            return None;
        }
        if !more {
            p.total = Some(end);
        }
        p.have += data.len();
        p.longest = p.longest.max((headers + data.len()) as u32);
        self.memory.fetch_add(data.len(), Ordering::Relaxed);
        p.pieces.insert(offset, data);
        if first.is_some() {
            p.first = first;
        }
        let expires = p.expires;
        if p.total == Some(p.have) && p.first.is_some() {
            let p = t.remove(&key)?;
            self.memory.fetch_sub(p.have, Ordering::Relaxed);
            let mut whole = Data::new();
            for d in p.pieces.into_values() {
                whole.append(d);
            }
            let mut first = p.first?;
            first.piece = p.longest;
            return Some((first, whole));
        }
        drop(t);
        let stack = cx.stack().clone();
        self.arm(&stack, expires);
        None
    }

    fn arm(self: &Arc<Self>, stack: &Stack, at: Time) {
        self.armed.arm(&stack.timers, at, || Arc::downgrade(&(self.clone() as Arc<dyn Expire>)));
    }
}

impl Expire for Reassembly {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        let now = cx.now;
        if !self.armed.due(now) {
            return;
        }
        let mut gone = Vec::new();
        let next = {
            let mut t = self.table.lock();
            let keys: Vec<Key> =
                t.iter().filter(|(_, p)| p.expires <= now).map(|(k, _)| *k).collect();
            for k in keys {
                if let Some(p) = t.remove(&k) {
                    self.memory.fetch_sub(p.have, Ordering::Relaxed);
                    gone.push((k.dst.is_ipv6(), p));
                }
            }
            t.values().map(|p| p.expires).min()
        };
        let stack = cx.stack().clone();
        if let Some(at) = next {
            self.arm(&stack, at);
        }
        if self.copies {
            return;
        }
        for (v6, p) in gone {
            let count = |c: &IpCounters| {
                c.reasm_timeout.inc();
                c.reasm_fails.inc();
            };
            match stack.interface(p.iface) {
                Some(i) => stack.count_ip(v6, &i, count),
                None => count(stack.snmp.ip_of(v6)),
            }
            // Only who got the first piece says so (RFC 792, RFC 8200 4.5).
            if let (Some(mut first), Some(data)) = (p.first, p.pieces.get(&0)) {
                first.data = data.clone();
                let v4 = first.net()[0] >> 4 == 4;
                let kind =
                    if v4 { wire_icmp::v4::TIME_EXCEEDED } else { wire_icmp::v6::TIME_EXCEEDED };
                icmp::error(cx, &first, kind, 1, 0);
            }
        }
    }
}

/// Takes a fragment; the whole packet when it is complete.
pub(crate) fn reassemble_v4(
    place: &Arc<Reassembly>,
    cx: &mut Cx,
    h: &Ipv4,
    mut p: Packet,
) -> Option<Packet> {
    let key = Key { src: h.src.into(), dst: h.dst.into(), id: u32::from(h.id), proto: h.proto };
    let data = p.take_payload(h.header_len);
    let (offset, iface, stamp) = (usize::from(h.frag_off), p.iface, p.stamp);
    let first = (offset == 0).then_some(p);
    let (mut head, data) =
        place.add(cx, key, offset, h.mf, data, (h.header_len, iface), first, TIMEOUT_V4)?;
    let total = h.header_len.max(ipv4::HEADER);
    let header = usize::from(head.net()[0] & 15) * 4;
    if header + data.len() > 65_535 || total == 0 {
        return None;
    }
    let len = (header + data.len()) as u16;
    let b = head.net_bytes_mut();
    b[2..4].copy_from_slice(&len.to_be_bytes());
    b[6..8].fill(0);
    b[10..12].fill(0);
    let sum = crate::wire::checksum::checksum(&b[..header]);
    b[10..12].copy_from_slice(&sum.to_be_bytes());
    head.data = data;
    head.csum = Csum::None;
    (head.iface, head.stamp) = (iface, stamp);
    Some(head)
}

/// Takes a packet with a fragment header after `c`; the whole packet when it is complete.
pub(crate) fn reassemble_v6(
    stack: &Stack,
    cx: &mut Cx,
    h: &Ipv6,
    c: &Chain,
    mut p: Packet,
) -> Option<Packet> {
    let at = ipv6::HEADER + c.len;
    if !p.pull(at + Fragment::LEN) {
        return None;
    }
    let f = Fragment::parse(&p.net()[at..]).ok()?;
    let data = p.take_payload(at + Fragment::LEN);
    if f.more && data.len() % 8 != 0 {
        let mut whole = p;
        whole.data = data;
        icmp::error(cx, &whole, wire_icmp::v6::PARAMETER, 0, 4);
        return None;
    }
    // The unfragmentable part without the fragment header (RFC 8200 4.5).
    let mut head = p.clone();
    head.truncate_net(at);
    head.net_bytes_mut()[c.next_at] = f.next;
    let (iface, stamp) = (p.iface, p.stamp);
    if f.offset == 0 && !f.more {
        // An atomic fragment (RFC 6946).
        head.piece = (at + Fragment::LEN + data.len()) as u32;
        return finish_v6(head, data, iface, stamp);
    }
    let key = Key { src: h.src.into(), dst: h.dst.into(), id: f.id, proto: 0 };
    let first = (f.offset == 0).then_some(head);
    let (head, data) = stack.fragments.add(
        cx,
        key,
        f.offset,
        f.more,
        data,
        (at + Fragment::LEN, iface),
        first,
        TIMEOUT_V6,
    )?;
    finish_v6(head, data, iface, stamp)
}

fn finish_v6(mut head: Packet, data: Data, iface: u32, stamp: u64) -> Option<Packet> {
    let len = head.net_len() - ipv6::HEADER + data.len();
    let len = u16::try_from(len).ok()?;
    head.net_bytes_mut()[4..6].copy_from_slice(&len.to_be_bytes());
    head.data = data;
    head.csum = Csum::None;
    (head.iface, head.stamp) = (iface, stamp);
    Some(head)
}

/// Cuts a packet with a complete checksum into fragments of at most `mtu` bytes. `id` is for IPv6.
pub fn cut(mut p: Packet, mtu: usize, id: u32) -> Vec<Packet> {
    let mut out = Vec::new();
    if p.net()[0] >> 4 == 4 {
        let header = usize::from(p.net()[0] & 15) * 4;
        let data = p.take_payload(header);
        let Ok(h) = Ipv4::parse_quoted(p.net()) else { return out };
        let room = (mtu.saturating_sub(header) / 8 * 8).max(8);
        let options = p.net()[ipv4::HEADER..header].to_vec();
        let mut at = 0;
        while at < data.len() {
            let part = data.part(at, room);
            let last = at + part.len() >= data.len();
            let mut h = h;
            h.frag_off += at as u16;
            h.mf |= !last;
            let mut opts = options.clone();
            if at > 0 {
                only_copied(&mut opts);
            }
            h.total_len = header + part.len();
            at += part.len();
            let mut piece = Packet::new(part);
            h.write(&opts, piece.head_mut());
            (piece.kind, piece.iface, piece.mark) = (p.kind, p.iface, p.mark);
            piece.csum = Csum::Valid;
            out.push(piece);
        }
    } else {
        // Hop-by-hop options are for every router and stay in each piece (RFC 8200 4.5).
        let mut header = ipv6::HEADER;
        let mut next_at = 6;
        if p.net()[6] == proto::HOPOPT && p.pull(header + 8) {
            let len = (usize::from(p.net()[header + 1]) + 1) * 8;
            if p.pull(header + len) {
                (next_at, header) = (header, header + len);
            }
        }
        let first = p.net()[next_at];
        let data = p.take_payload(header);
        let room = (mtu.saturating_sub(header + Fragment::LEN) / 8 * 8).max(8);
        let mut at = 0;
        while at < data.len() {
            let part = data.part(at, room);
            let more = at + part.len() < data.len();
            let f = Fragment { next: first, offset: at, more, id };
            at += part.len();
            let mut piece = Packet::new(part);
            let mut head = p.net()[..header].to_vec();
            head[next_at] = proto::FRAGMENT;
            let len = (header - ipv6::HEADER + Fragment::LEN + piece.data.len()) as u16;
            head[4..6].copy_from_slice(&len.to_be_bytes());
            piece.head_mut().extend_from_slice(&head);
            piece.head_mut().extend_from_slice(&f.bytes());
            (piece.kind, piece.iface, piece.mark) = (p.kind, p.iface, p.mark);
            piece.csum = Csum::Valid;
            out.push(piece);
        }
    }
    out
}

/// Options that are not copied into every fragment become no-operations (RFC 791 3.1).
fn only_copied(options: &mut [u8]) {
    let found: Vec<(usize, usize)> = ipv4::options(options)
        .map_while(Result::ok)
        .filter(|o| o.kind & 0x80 == 0)
        .map(|o| (o.at, o.data.len() + 2))
        .collect();
    for (at, len) in found {
        options[at..at + len].fill(1);
    }
}
