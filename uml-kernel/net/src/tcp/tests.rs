//! Two connections and a network between them that loses, delays, repeats and damages.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uml_abi::errno::*;
use uml_base::Events;

use super::tcb::{Handshake, Path, Phase, Retry, Sent, Settings, Tcb};
use super::{Out, Segment, State};
use crate::packet::{Data, Frag, Slab};
use crate::time::{MS, SEC, Time, US};
use crate::wire::tcp::flags;

/// A generator whose numbers the test decides.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }
}

#[derive(Clone, Copy, Debug)]
struct Net {
    delay: u64,
    jitter: u64,
    loss: u64,
    duplicate: u64,
    /// Nanoseconds that a byte takes; 0 is infinitely fast.
    per_byte: u64,
}

const FAST: Net = Net { delay: 500 * US, jitter: 0, loss: 0, duplicate: 0, per_byte: 0 };

struct World {
    now: Time,
    ends: [Option<Tcb>; 2],
    /// By arrival time and a number that keeps order.
    wire: BTreeMap<(Time, u64), (usize, Segment)>,
    count: u64,
    busy: [Time; 2],
    net: Net,
    random: Random,
    sets: [Settings; 2],
    lost: u64,
    events: [Events; 2],
}

fn path(gso: usize, iss: u32) -> Path {
    Path { iss, ts_offset: 77, mtu: 1500, net_header: 20, gso_max: gso }
}

impl World {
    fn new(net: Net, seed: u64, sets: [Settings; 2], gso: usize, iss: u32) -> World {
        let mut w = World {
            now: Time(SEC),
            ends: [None, None],
            wire: BTreeMap::new(),
            count: 0,
            busy: [Time(0); 2],
            net,
            random: Random(seed | 1),
            sets,
            lost: 0,
            events: [Events::NONE; 2],
        };
        let mut out = Out::default();
        w.ends[0] = Some(Tcb::connect(w.sets[0].clone(), &path(gso, iss), w.now, &mut out));
        w.emit(0, out);
        w
    }

    /// Cuts what a device would cut and lets the network do its work.
    fn emit(&mut self, from: usize, out: Out) {
        self.events[from] |= out.events;
        for s in out.segments {
            let size = if s.gso == 0 { usize::MAX } else { s.gso };
            let mut at = 0;
            loop {
                let data = s.data.part(at, size);
                let mut h = s.header;
                h.seq = h.seq.wrapping_add(at as u32);
                at += data.len();
                if at < s.data.len() {
                    h.flags &= !(flags::FIN | flags::PSH);
                }
                self.put(from, h, data);
                if at >= s.data.len() {
                    break;
                }
            }
        }
    }

    fn put(&mut self, from: usize, header: crate::wire::tcp::Tcp, data: Data) {
        let copies = 1 + u64::from(self.random.chance(self.net.duplicate));
        for _ in 0..copies {
            if self.random.chance(self.net.loss) {
                self.lost += 1;
                continue;
            }
            let takes = (data.len() as u64 + 60) * self.net.per_byte;
            self.busy[from] = self.busy[from].max(self.now) + takes;
            let jitter =
                if self.net.jitter == 0 { 0 } else { self.random.next() % self.net.jitter };
            let at = self.busy[from] + self.net.delay + jitter;
            self.count += 1;
            let seg = Segment { header, data: data.clone(), gso: 0 };
            self.wire.insert((at, self.count), (1 - from, seg));
        }
    }

    fn end(&mut self, i: usize) -> &mut Tcb {
        self.ends[i].as_mut().expect("open")
    }

    /// One event. False when nothing will ever happen again.
    fn step(&mut self) -> bool {
        let timer = (0..2)
            .filter_map(|i| self.ends[i].as_ref()?.deadline().map(|t| (t, i)))
            .min_by_key(|t| t.0);
        let arrival = self.wire.first_key_value().map(|(k, _)| k.0);
        match (timer, arrival) {
            (None, None) => return false,
            (Some((t, i)), a) if a.is_none_or(|a| t < a) => {
                self.now = self.now.max(t);
                let mut out = Out::default();
                let now = self.now;
                self.end(i).on_timer(now, &mut out);
                self.emit(i, out);
            }
            _ => {
                let Some((k, (to, seg))) = self.wire.pop_first() else { return false };
                self.now = self.now.max(k.0);
                self.deliver(to, seg);
            }
        }
        true
    }

    fn deliver(&mut self, to: usize, seg: Segment) {
        let mut out = Out::default();
        let now = self.now;
        if self.ends[to].is_none() {
            // The listener of the other side, without a backlog.
            if seg.header.has(flags::SYN) {
                let h = Handshake::of(&seg.header, &self.sets[1]);
                let mut t =
                    Tcb::accept(self.sets[1].clone(), &path(65_000, 4_294_967_000), &h, now);
                t.send_syn(now, &mut out);
                t.arm_rto(now);
                self.ends[to] = Some(t);
            }
        } else {
            self.end(to).input(&seg.header, seg.data, now, &mut out);
        }
        self.emit(to, out);
    }

    fn call<R>(&mut self, i: usize, f: impl FnOnce(&mut Tcb, Time, &mut Out) -> R) -> R {
        let mut out = Out::default();
        let now = self.now;
        let r = f(self.end(i), now, &mut out);
        self.emit(i, out);
        r
    }

    fn write(&mut self, i: usize, bytes: &[u8]) -> usize {
        let Ok(room) = self.end(i).room() else { return 0 };
        let n = room.min(bytes.len());
        let mut s = Slab::new(n);
        s.bytes_mut()[..n].copy_from_slice(&bytes[..n]);
        self.call(i, |t, now, out| t.write(vec![Frag::new(s, n)], false, false, now, out));
        n
    }

    fn read(&mut self, i: usize, into: &mut Vec<u8>, max: usize) -> bool {
        match self.end(i).peek(0, max) {
            Ok(d) if d.is_empty() => true,
            Ok(d) => {
                into.extend_from_slice(&d.to_vec());
                let n = d.len();
                self.call(i, |t, now, out| t.consume(n, now, out));
                false
            }
            Err(_) => false,
        }
    }

    /// Sends `data` from 0 to 1 and `back` the other way; returns what arrived and the time it took.
    fn transfer(&mut self, data: &[u8], back: &[u8]) -> (Vec<u8>, Vec<u8>, u64) {
        let start = self.now;
        let (mut got, mut got_back) = (Vec::new(), Vec::new());
        let (mut sent, mut sent_back) = (0, 0);
        let mut closed = [false; 2];
        let mut over = [false; 2];
        let mut steps = 0u64;
        let mut finished = Time(0);
        loop {
            for (i, all, done) in [(0, data, &mut sent), (1, back, &mut sent_back)] {
                if self.ends[i].as_ref().is_some_and(Tcb::synchronized) {
                    if *done < all.len() {
                        let chunk = (all.len() - *done).min(100_000);
                        *done += self.write(i, &all[*done..*done + chunk]);
                    }
                    if *done == all.len() && !closed[i] {
                        closed[i] = true;
                        self.call(i, |t, now, out| t.finish(now, out));
                    }
                }
            }
            for (i, got) in [(1, &mut got), (0, &mut got_back)] {
                if self.ends[i].is_some() {
                    over[i] |= self.read(i, got, 70_000);
                }
            }
            if over == [true; 2] && finished == Time(0) {
                finished = self.now;
            }
            steps += 1;
            assert!(steps < 3_000_000, "no end: {} of {} bytes", got.len(), data.len());
            assert!(self.now < start + 4000 * SEC, "stuck: {} of {} bytes", got.len(), data.len());
            if !self.step() {
                break;
            }
        }
        for i in 0..2 {
            let t = self.end(i);
            assert_eq!(t.error, None);
            assert_eq!(t.state, State::Closed);
        }
        (got, got_back, finished.since(start))
    }
}

fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut r = Random(seed | 1);
    (0..n).map(|_| r.next() as u8).collect()
}

fn both(s: Settings) -> [Settings; 2] {
    [s.clone(), s]
}

#[test]
fn a_transfer_without_loss_arrives_without_retransmission() {
    for gso in [0, 65_000] {
        let mut w = World::new(FAST, 1, both(Settings::default()), gso, u32::MAX - 10_000);
        let data = bytes(3_000_000, 3);
        let (got, back, took) = w.transfer(&data, b"answer");
        assert!(got == data && back == b"answer");
        assert_eq!(w.end(0).stats.total_retrans, 0, "gso {gso}");
        // Slow start from ten segments over 1 ms round trips.
        assert!(took < 60 * MS, "{took}");
    }
}

#[test]
fn interactive_segments_follow_nagle_and_nodelay() {
    for (nodelay, expect) in [(false, 2), (true, 5)] {
        let set = Settings { nodelay, ..Settings::default() };
        let mut w = World::new(FAST, 1, [set, Settings::default()], 65_000, 5);
        while !w.ends[0].as_ref().is_some_and(Tcb::synchronized) {
            w.step();
        }
        for _ in 0..5 {
            w.write(0, b"x");
        }
        for _ in 0..200 {
            w.step();
        }
        assert_eq!(w.end(1).readable(), 5);
        assert_eq!(w.end(1).stats.data_segs_in, expect);
    }
}

#[test]
fn a_reader_that_stops_closes_the_window_and_probes_reopen_it() {
    let mut w = World::new(FAST, 1, both(Settings::default()), 65_000, 5);
    while !w.ends[0].as_ref().is_some_and(Tcb::synchronized) {
        w.step();
    }
    let data = bytes(400_000, 9);
    let mut sent = 0;
    let until = w.now + 3 * SEC;
    while w.now < until {
        if sent < data.len() {
            sent += w.write(0, &data[sent..]);
        }
        w.step();
    }
    let held = w.end(1).readable();
    assert!((30_000..140_000).contains(&held), "{held}");
    // Every window update is lost: only a probe can find out.
    w.net.loss = 1000;
    let mut got = Vec::new();
    while !w.read(1, &mut got, 50_000) && w.end(1).readable() > 0 {}
    w.net.loss = 0;
    while got.len() < data.len() {
        if sent < data.len() {
            sent += w.write(0, &data[sent..]);
        }
        w.read(1, &mut got, 50_000);
        assert!(w.step() && w.now < until + 60 * SEC);
    }
    assert!(got == data);
}

#[test]
fn a_single_loss_is_repaired_without_a_timeout() {
    let net = Net { per_byte: 8, delay: 5 * MS, ..FAST };
    let mut w = World::new(net, 1, both(Settings::default()), 0, 5);
    let data = bytes(2_000_000, 3);
    // The 300th packet is lost.
    let mut dropped = false;
    let (mut sent, mut got) = (0, Vec::new());
    let start = w.now;
    while got.len() < data.len() {
        if w.ends[0].as_ref().is_some_and(Tcb::synchronized) && sent < data.len() {
            sent += w.write(0, &data[sent..(sent + 60_000).min(data.len())]);
        }
        if w.ends[1].is_some() {
            w.read(1, &mut got, 70_000);
        }
        if !dropped && w.count > 300 {
            let victim = w.wire.iter().find(|(_, (to, s))| *to == 1 && !s.data.is_empty());
            if let Some(k) = victim.map(|(k, _)| *k) {
                w.wire.remove(&k);
                dropped = true;
            }
        }
        assert!(w.step());
    }
    assert!(dropped && got == data);
    assert_eq!(w.end(0).stats.total_retrans, 1);
    // A timeout alone would take 210 ms more.
    assert!(w.now.since(start) < 250 * MS, "{}", w.now.since(start));
}

#[test]
fn reordering_alone_reduces_little() {
    let net = Net { delay: 2 * MS, jitter: 300 * US, per_byte: 8, ..FAST };
    let mut w = World::new(net, 7, both(Settings::default()), 0, 5);
    let data = bytes(4_000_000, 3);
    let (got, _, took) = w.transfer(&data, b"");
    assert!(got == data);
    // 8 ns a byte is 125 MB/s: 34 ms at best.
    assert!(took < 120 * MS, "{took} with {} retransmissions", w.end(0).stats.total_retrans);
}

#[test]
fn goodput_under_random_loss_holds_what_cubic_allows() {
    // One in a thousand at 1 ms: Linux's CUBIC gets 0.58 Gbit/s where 1 Gbit/s would pass.
    let net = Net { delay: 500 * US, per_byte: 8, loss: 1, ..FAST };
    let mut w = World::new(net, 11, both(Settings::default()), 65_000, 5);
    let data = bytes(30_000_000, 3);
    let (got, _, took) = w.transfer(&data, b"");
    assert!(got == data);
    let gbit = data.len() as f64 * 8.0 / took as f64;
    assert!(gbit > 0.3, "{gbit} Gbit/s");
}

#[test]
fn without_sack_and_timestamps_losses_are_repaired_too() {
    let set =
        Settings { sack: false, timestamps: false, window_scaling: false, ..Settings::default() };
    let net = Net { delay: 2 * MS, per_byte: 8, loss: 5, ..FAST };
    let mut w = World::new(net, 5, [set, Settings::default()], 0, 5);
    let data = bytes(1_000_000, 3);
    let (got, _, _) = w.transfer(&data, b"");
    assert!(got == data);
}

#[test]
fn resets_and_refusals() {
    let mut w = World::new(FAST, 1, both(Settings::default()), 0, 5);
    while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
        w.step();
    }
    w.write(0, b"unread");
    while w.end(1).readable() == 0 {
        w.step();
    }
    // Closing with unread data resets the other side.
    w.call(1, |t, now, out| t.close(false, now, out));
    assert_eq!(w.end(1).state, State::Closed);
    while w.step() {}
    assert_eq!((w.end(0).state, w.end(0).error), (State::Closed, Some(ECONNRESET)));
    assert!(w.events[0].contains(Events::ERR | Events::HUP));

    // A RST that is not exactly next only draws a challenge (RFC 5961).
    let mut w = World::new(FAST, 1, both(Settings::default()), 0, 5);
    while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
        w.step();
    }
    let mut h = w.end(1).header(1 << 32, flags::RST, Time(0));
    h.seq = (w.end(0).rx.next + 5) as u32;
    let acks = w.end(0).stats.segs_out;
    w.call(0, |t, now, out| t.input(&h, Data::new(), now, out));
    assert_eq!(w.end(0).state, State::Established);
    assert_eq!(w.end(0).stats.segs_out, acks + 1);
    h.seq = w.end(0).rx.next as u32;
    w.call(0, |t, now, out| t.input(&h, Data::new(), now, out));
    assert_eq!(w.end(0).error, Some(ECONNRESET));
}

/// Two ends that are connected.
fn connected() -> World {
    let mut w = World::new(FAST, 1, both(Settings::default()), 0, 5);
    while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
        w.step();
    }
    w
}

/// Hands end 1 a segment of end 0 that begins `at` bytes after the first of its stream; returns what it answers.
fn answers(w: &mut World, at: u32, flag: u8, len: usize) -> Vec<Segment> {
    let now = w.now;
    let mut h = w.end(0).header(1 << 32, flag, now);
    h.seq = (w.end(0).iss as u32).wrapping_add(1 + at);
    h.ack = w.end(1).snd_nxt as u32;
    h.window = 1000;
    let mut out = Out::default();
    w.end(1).input(&h, Data::copy_of(&vec![7; len]), now, &mut out);
    out.segments
}

/// The blocks that a segment reports, from the beginning of the stream of end 0.
fn blocks(w: &mut World, s: &Segment) -> Vec<(u32, u32)> {
    let first = (w.end(0).iss as u32).wrapping_add(1);
    let own = |n: u32| n.wrapping_sub(first);
    s.header.options.sacks().iter().map(|b| (own(b.start), own(b.end))).collect()
}

#[test]
fn what_comes_twice_is_reported_wherever_it_lies() {
    let mut w = connected();
    let data = flags::ACK | flags::PSH;
    answers(&mut w, 0, data, 100);
    // All of it was acknowledged before; the sender learns that it was for nothing (RFC 2883), every time.
    for _ in 0..3 {
        let said = answers(&mut w, 0, data, 50);
        assert_eq!(said.len(), 1);
        assert_eq!(blocks(&mut w, &said[0]), [(0, 50)]);
    }
    // A FIN has a number, too: what comes before it is missing.
    let said = answers(&mut w, 200, data | flags::FIN, 10);
    assert_eq!(blocks(&mut w, &said[0]), [(200, 211)]);
    let said = answers(&mut w, 210, flags::ACK | flags::FIN, 0);
    assert_eq!(blocks(&mut w, &said[0]), [(210, 211), (200, 211)]);
    answers(&mut w, 100, data, 100);
    assert!(w.end(1).fin_reached());
}

#[test]
fn a_fin_alone_after_data_out_of_order_joins_its_block() {
    let mut w = connected();
    answers(&mut w, 100, flags::ACK, 10);
    let said = answers(&mut w, 110, flags::ACK | flags::FIN, 0);
    assert_eq!(blocks(&mut w, &said[0]), [(100, 111)]);
}

#[test]
fn segments_that_fit_nowhere_are_answered_twice_a_second() {
    let mut w = connected();
    let outside = |w: &mut World| {
        answers(w, 5, flags::RST, 0).len() + answers(w, 1 << 30, flags::ACK, 0).len()
    };
    assert_eq!(outside(&mut w), 1);
    assert_eq!(outside(&mut w), 0);
    w.now = w.now + 499 * MS;
    assert_eq!(outside(&mut w), 0);
    w.now = w.now + MS;
    assert_eq!(outside(&mut w), 1);
}

#[test]
fn a_reset_has_a_time_stamp_and_one_for_nobody_has_none() {
    let mut w = connected();
    let mut out = Out::default();
    let now = w.now;
    w.end(0).abort(now, &mut out);
    assert!(out.segments[0].header.has(flags::RST | flags::ACK));
    assert!(out.segments[0].header.options.timestamp.is_some());
    // Data for a program that is gone is refused as if there were no connection.
    let mut out = Out::default();
    w.end(1).close(false, now, &mut out);
    let said = answers(&mut w, 0, flags::ACK, 10);
    assert_eq!((said.len(), said[0].header.flags), (1, flags::RST));
    assert!(said[0].header.options.timestamp.is_none());
}

#[test]
fn only_a_single_segment_waits_for_a_delayed_acknowledgement_before_it_is_probed() {
    for (writes, least, most) in [(1, 200 * MS, 210 * MS), (2, MS, 10 * MS)] {
        let set = Settings { nodelay: true, ..Settings::default() };
        let mut w = World::new(FAST, 1, both(set), 0, 5);
        while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
            w.step();
        }
        w.net.loss = 1000;
        for _ in 0..writes {
            w.write(0, b"x");
        }
        // As an acknowledgement of something before them does.
        w.call(0, |t, now, _| t.rearm(now));
        let wait = w.end(0).deadline().map_or(0, |t| t.since(w.now));
        assert!((least..most).contains(&wait), "{writes}: {wait}");
    }
}

#[test]
fn what_is_lost_again_after_a_timeout_leaves_the_window_to_slow_start() {
    // No recovery came before the timeout, so there is nothing that a recovery's window would follow from.
    let mut w = connected();
    w.now = w.now + SEC;
    let (now, mss) = (w.now, 1448);
    let ago = |ns: u64| Time(now.0 - ns);
    let t = w.end(0);
    let una = t.snd_una;
    let sent = |end, at, sacked| Sent { end, at, sacked, lost: false, again: true };
    t.sent.insert(una, sent(una + 10 * mss, ago(500 * MS), false));
    t.sent.insert(una + 10 * mss, sent(una + 20 * mss, now, false));
    t.sent.insert(una + 20 * mss, sent(una + 30 * mss, ago(100 * MS), true));
    t.snd_nxt = una + 30 * mss;
    t.sacked_bytes = 10 * mss;
    t.phase = Phase::Loss(t.snd_nxt);
    (t.cc.ssthresh, t.cc.cwnd) = (2 * mss, 25 * mss);
    t.rack_reordered(0);
    t.rack_update(&Sent { again: false, ..sent(t.snd_nxt, ago(100 * MS), true) }, now);
    (t.retry, t.retry_at) = (Retry::Reorder, now);
    let mut out = Out::default();
    t.on_timer(now, &mut out);
    assert_eq!((t.cc.cwnd, out.segments.is_empty()), (25 * mss, false));
}

#[test]
fn a_peer_that_is_gone_is_noticed() {
    // Unanswered SYNs.
    let mut w = World::new(Net { loss: 1000, ..FAST }, 1, both(Settings::default()), 0, 5);
    let start = w.now;
    while w.step() {}
    assert_eq!(w.end(0).error, Some(ETIMEDOUT));
    let secs = w.now.since(start) / SEC;
    assert_eq!(secs, 127, "1+2+4+8+16+32+64 seconds");

    // Keepalive.
    let set = Settings {
        keepalive: true,
        keep_idle: 10 * SEC,
        keep_interval: 2 * SEC,
        keep_count: 3,
        ..Settings::default()
    };
    let mut w = World::new(FAST, 1, [set, Settings::default()], 0, 5);
    while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
        w.step();
    }
    let until = w.now + 25 * SEC;
    while w.now < until && w.step() {}
    assert_eq!(w.end(0).state, State::Established, "answered probes keep it open");
    w.net.loss = 1000;
    let start = w.now;
    while w.step() {}
    assert_eq!(w.end(0).error, Some(ETIMEDOUT));
    assert!(w.now.since(start) <= 17 * SEC);

    // TCP_USER_TIMEOUT.
    let set = Settings { user_timeout: 3 * SEC, ..Settings::default() };
    let mut w = World::new(FAST, 1, [set, Settings::default()], 0, 5);
    while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
        w.step();
    }
    w.net.loss = 1000;
    w.write(0, b"x");
    let start = w.now;
    while w.end(0).error.is_none() {
        assert!(w.step());
    }
    let took = w.now.since(start);
    assert!((3 * SEC..4 * SEC).contains(&took), "{took}");
}

#[test]
fn urgent_data_is_apart_from_the_stream_unless_inline() {
    for inline in [false, true] {
        let set = Settings { oob_inline: inline, ..Settings::default() };
        let mut w = World::new(FAST, 1, [Settings::default(), set], 0, 5);
        while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
            w.step();
        }
        w.end(1).receive_settings_changed();
        w.write(0, b"abc");
        let mut s = Slab::new(1);
        s.bytes_mut()[0] = b'!';
        w.call(0, |t, now, out| t.write(vec![Frag::new(s, 1)], false, true, now, out));
        w.write(0, b"def");
        for _ in 0..50 {
            w.step();
        }
        let mut got = Vec::new();
        w.read(1, &mut got, 100);
        assert_eq!(got, b"abc", "reading stops at the mark");
        assert_eq!(w.end(1).to_mark(), Some(0));
        if !inline {
            assert_eq!(w.end(1).take_urgent(false), Ok(b'!'));
        } else {
            assert_eq!(w.end(1).take_urgent(false), Err(EINVAL));
        }
        w.read(1, &mut got, 100);
        let all: &[u8] = if inline { b"abc!def" } else { b"abcdef" };
        while got.len() < all.len() {
            w.read(1, &mut got, 100);
        }
        assert_eq!(got, all);
    }
}

#[test]
fn a_smaller_path_is_used_at_once() {
    let mut w = World::new(FAST, 1, both(Settings::default()), 0, 5);
    while !w.ends[0].as_ref().is_some_and(Tcb::synchronized) {
        w.step();
    }
    w.net.loss = 1000;
    let data = bytes(100_000, 3);
    let mut sent = w.write(0, &data);
    w.net.loss = 0;
    w.call(0, |t, now, out| t.set_path_mtu(1000, now, out));
    assert_eq!(w.end(0).mss(), 1000 - 40 - 12);
    assert!(w.wire.values().all(|(_, s)| s.data.len() <= 948));
    let mut got = Vec::new();
    while got.len() < data.len() {
        if sent < data.len() {
            sent += w.write(0, &data[sent..]);
        }
        w.read(1, &mut got, 100_000);
        assert!(w.step());
    }
    assert!(got == data);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_network_does_every_byte_arrives_once_and_in_order(
        seed: u64,
        loss in 0u64..150,
        duplicate in 0u64..100,
        jitter in 0u64..5_000_000,
        per_byte in 0u64..50,
        sizes in (0usize..200_000, 0usize..60_000),
        gso: bool,
        options in (any::<bool>(), any::<bool>(), any::<bool>()),
        iss: u32,
    ) {
        let net = Net { delay: MS, jitter, loss, duplicate, per_byte };
        let (sack, timestamps, window_scaling) = options;
        let set = Settings {
            sack, timestamps, window_scaling, retries: 40, syn_retries: 20, ..Settings::default()
        };
        let mut w = World::new(net, seed, [set, Settings { retries: 40, syn_retries: 20, ..Settings::default() }],
            if gso { 65_000 } else { 0 }, iss);
        let (a, b) = (bytes(sizes.0, seed ^ 5), bytes(sizes.1, seed ^ 9));
        let (mut got, mut got_back) = (Vec::new(), Vec::new());
        let (mut sent, mut sent_back) = (0, 0);
        let mut fin = [false; 2];
        let mut steps = 0;
        while got.len() < a.len() || got_back.len() < b.len() {
            for (i, all, done) in [(0, &a, &mut sent), (1, &b, &mut sent_back)] {
                if w.ends[i].as_ref().is_some_and(Tcb::synchronized) {
                    if *done < all.len() {
                        *done += w.write(i, &all[*done..]);
                    }
                    if *done == all.len() && !fin[i] {
                        fin[i] = true;
                        w.call(i, |t, now, out| t.finish(now, out));
                    }
                }
            }
            for (i, got) in [(1, &mut got), (0, &mut got_back)] {
                if w.ends[i].is_some() {
                    w.read(i, got, 10_000);
                }
            }
            steps += 1;
            prop_assert!(steps < 2_000_000, "no end: {} {}", got.len(), got_back.len());
            if !w.step() && (got.len() < a.len() || got_back.len() < b.len()) {
                for (i, got) in [(1, &mut got), (0, &mut got_back)] {
                    while w.ends[i].is_some() && w.end(i).readable() > 0 {
                        w.read(i, got, 10_000);
                    }
                }
                prop_assert!(got.len() == a.len() && got_back.len() == b.len(), "stuck");
            }
        }
        prop_assert!(got == a && got_back == b);
    }

    #[test]
    fn no_segment_breaks_a_connection_s_invariants(
        segments in proptest::collection::vec(
            (any::<i32>(), any::<i32>(), any::<u8>(), any::<u16>(), 0usize..3000, any::<u16>(), any::<Option<(u32, u32)>>(),
             proptest::collection::vec((any::<i16>(), any::<u16>()), 0..4)),
            1..40),
        near: bool,
    ) {
        let mut w = World::new(FAST, 1, both(Settings::default()), 65_000, 5);
        while !w.ends[1].as_ref().is_some_and(Tcb::synchronized) {
            w.step();
        }
        w.write(0, &bytes(30_000, 5));
        for (seq, ack, flag, window, len, urgent, ts, sacks) in segments {
            let t = w.end(0);
            let shrink = |v: i32| if near { v % 40_000 } else { v };
            let mut h = t.header(1 << 32, flag, Time(0));
            h.seq = (t.rx.next as u32).wrapping_add(shrink(seq) as u32);
            h.ack = (t.snd_una as u32).wrapping_add(shrink(ack) as u32);
            h.window = window;
            h.urgent = urgent;
            h.options.timestamp = ts;
            for (i, (at, n)) in sacks.iter().enumerate() {
                let start = (t.snd_una as u32).wrapping_add(i32::from(*at) as u32);
                h.options.sack[i] = crate::wire::tcp::SackBlock { start, end: start.wrapping_add(u32::from(*n)) };
                h.options.sack_len = i + 1;
            }
            w.call(0, |t, now, out| t.input(&h, Data::copy_of(&vec![7; len]), now, out));
            let t = w.end(0);
            prop_assert!(t.snd_una <= t.snd_nxt);
            if t.state != State::Closed {
                let sacked: u64 = t.sent.iter().filter(|(_, s)| s.sacked).map(|(a, s)| s.end - a).sum();
                let lost: u64 = t.sent.iter().filter(|(_, s)| s.lost).map(|(a, s)| s.end - a).sum();
                prop_assert_eq!((sacked, lost), (t.sacked_bytes, t.lost_bytes));
                let mut at = t.snd_una;
                for (s, seg) in &t.sent {
                    prop_assert_eq!(*s, at);
                    at = seg.end;
                }
                prop_assert_eq!(at, t.snd_nxt);
            }
            for _ in 0..5 {
                w.step();
            }
        }
    }
}
