//! Data that arrived: in order for the program, out of order for later, and the window offered.

use std::collections::BTreeMap;

use uml_abi::Result;
use uml_abi::errno::*;

use super::seq::Seq;
use super::tcb::{RCVBUF_MAX, Tcb};
use super::{Out, State};
use crate::packet::Data;
use crate::time::{MS, Time};
use crate::wire::tcp::SackBlock;

/// The longest an acknowledgement is held back.
const DELAYED_ACK: u64 = 40 * MS;
/// Segments acknowledged at once when a connection begins.
const QUICK_ACKS: u32 = 16;
/// Largest window of a SYN.
const SYN_WINDOW: usize = 65_535;

/// The receiving side.
pub struct Receive {
    /// Next expected sequence number.
    pub(super) next: Seq,
    /// What was last acknowledged.
    pub(super) acked: Seq,
    /// Right edge of the window last offered.
    pub(super) advertised: Seq,
    queue: Data,
    /// Out of order: start, then data and whether FIN follows it.
    later: BTreeMap<Seq, Data>,
    later_bytes: usize,
    /// Blocks to report, latest first (RFC 2018 4).
    recent: Vec<(Seq, Seq)>,
    dsack: Option<(Seq, Seq)>,
    fin: Option<Seq>,
    buf: usize,
    locked: bool,
    clamp: usize,
    /// Sequence number of the urgent byte.
    urgent: Option<Seq>,
    urgent_byte: Option<u8>,
    /// The byte was read by MSG_OOB.
    urgent_taken: bool,
    oob_inline: bool,

    pub(super) ack_at: Option<Time>,
    unacked_full: u32,
    quick: u32,
    seg_size: usize,
    ack_now: bool,

    /// Autotuning: bytes the program took since, and the largest so far in a round trip.
    space_at: Time,
    space_copied: u64,
    space: u64,
    rtt: u64,
    rtt_seq: Seq,
    rtt_at: Time,
}

impl Receive {
    pub(super) fn new(buf: usize) -> Receive {
        Receive {
            next: 0,
            acked: 0,
            advertised: 0,
            queue: Data::new(),
            later: BTreeMap::new(),
            later_bytes: 0,
            recent: Vec::new(),
            dsack: None,
            fin: None,
            buf,
            locked: false,
            clamp: usize::MAX,
            urgent: None,
            urgent_byte: None,
            urgent_taken: false,
            oob_inline: false,
            ack_at: None,
            unacked_full: 0,
            quick: QUICK_ACKS,
            seg_size: 536,
            ack_now: false,
            space_at: Time(0),
            space_copied: 0,
            space: 0,
            rtt: 0,
            rtt_seq: 0,
            rtt_at: Time(0),
        }
    }

    pub(super) fn start(&mut self, mss: usize, now: Time) {
        self.seg_size = mss;
        self.space = (self.initial_window() as u64).min(10 * mss as u64);
        self.space_at = now;
        self.rtt_seq = self.next + self.initial_window() as u64;
        self.rtt_at = now;
    }

    /// The window that a SYN offers.
    pub fn initial_window(&self) -> usize {
        (self.buf / 2).min(SYN_WINDOW).min(self.clamp)
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.queue.len()
    }

    /// Present buffer size, bytes.
    pub fn buffer(&self) -> usize {
        self.buf
    }

    /// Size of the sender's segments, as seen.
    pub(super) fn segment_size(&self) -> usize {
        self.seg_size
    }

    /// Bytes the program took in a round trip at most.
    pub(super) fn space_seen(&self) -> u64 {
        self.space
    }

    /// The window last offered.
    pub(super) fn window(&self) -> u64 {
        self.advertised.saturating_sub(self.next)
    }

    /// Everything up to the other side's FIN has arrived.
    pub fn fin_reached(&self) -> bool {
        self.fin.is_some_and(|f| self.next > f)
    }

    /// An urgent byte waits for MSG_OOB.
    pub fn urgent_pending(&self) -> bool {
        self.urgent.is_some() && (self.urgent_byte.is_some() || self.oob_inline)
    }

    pub(super) fn clear(&mut self) {
        self.queue = Data::new();
    }

    fn front(&self) -> Seq {
        let fin = u64::from(self.fin_reached());
        self.next - fin - self.queue.len() as u64
    }

    /// Window free for new data.
    fn free(&self) -> usize {
        let full = (self.buf / 2).min(self.clamp);
        // Small fragments cost more memory than bytes.
        let held = (self.queue.held() / 2).max(self.queue.len());
        full.saturating_sub(held)
    }

    /// The window field, and the right edge moves: never back, and by no small steps (RFC 9293
    /// 3.8.6.2.2).
    pub(super) fn select_window(&mut self, scale: u8, mss: usize) -> u16 {
        let current = self.advertised.saturating_sub(self.next) as usize;
        let full = (self.buf / 2).min(self.clamp);
        let mut free = self.free();
        if free < (full / 2).min(mss) {
            free = 0;
        }
        let mut w = free.min(65_535 << scale);
        w = w >> scale << scale;
        if w < current {
            // Rounded up, so that the edge does not move back.
            w = current.next_multiple_of(1 << scale).min(65_535 << scale);
        }
        self.advertised = self.advertised.max(self.next + w as u64);
        (w >> scale).min(65_535) as u16
    }

    /// Reading made so much room that the sender should know.
    pub(super) fn wants_update(&self, mss: usize) -> bool {
        let current = self.advertised.saturating_sub(self.next) as usize;
        let pending = self.next > self.acked;
        let free = self.free();
        (free >= 2 * current && free >= mss.min(self.buf / 4))
            || (pending && self.queue.is_empty() && self.unacked_full >= 1)
    }

    pub(super) fn acknowledged(&mut self) {
        self.acked = self.next;
        self.unacked_full = 0;
        self.ack_at = None;
        self.ack_now = false;
        self.dsack = None;
    }

    /// Blocks to report, newest first, a duplicate before all (RFC 2883).
    pub(super) fn sack_blocks(&self, max: usize) -> ([SackBlock; 4], usize) {
        let mut b = [SackBlock::default(); 4];
        let mut n = 0;
        for (s, e) in self.dsack.iter().chain(&self.recent).take(max.min(4)) {
            b[n] = SackBlock { start: *s as u32, end: *e as u32 };
            n += 1;
        }
        (b, n)
    }

    /// The block of contiguous out-of-order data around `seq`.
    fn block(&self, seq: Seq) -> (Seq, Seq) {
        let (mut start, mut end) = (seq, seq);
        for (s, d) in self.later.range(..=seq).rev() {
            let e = s + d.len() as u64;
            if e < start {
                break;
            }
            start = *s;
            end = end.max(e);
        }
        for (s, d) in self.later.range(seq..) {
            if *s > end {
                break;
            }
            end = end.max(s + d.len() as u64);
        }
        (start, end)
    }

    /// Notes that what arrived was here before.
    pub(super) fn duplicate(&mut self, from: Seq, to: Seq) {
        self.dsack = Some((from, to));
    }

    /// Keeps data before which some is missing; `fin` says that a FIN follows it, and `first` that it had not been seen.
    fn store_later(&mut self, mut seq: Seq, mut data: Data, fin: bool, first: bool) {
        let (at, end) = (seq, seq + data.len() as u64);
        // Cut what is there already off both ends; whole pieces inside are replaced.
        if let Some((s, d)) = self.later.range(..=seq).next_back() {
            let have = s + d.len() as u64;
            if have >= end && !first {
                self.duplicate(seq, end + u64::from(fin));
                return;
            }
            if have > seq {
                data.advance((have - seq) as usize);
                seq = have;
            }
        }
        let inside: Vec<Seq> = self.later.range(seq..end).map(|(s, _)| *s).collect();
        for s in inside {
            let len = self.later.get(&s).map_or(0, Data::len) as u64;
            if s + len <= end {
                self.later.remove(&s);
                self.later_bytes -= len as usize;
            } else {
                data.truncate((s - seq) as usize);
            }
        }
        if !data.is_empty() {
            self.later_bytes += data.len();
            self.later.insert(seq, data);
        }
        let mut block = self.block(at);
        if self.fin == Some(block.1) {
            block.1 += 1;
        }
        self.recent.retain(|(s, e)| *e < block.0 || *s > block.1);
        self.recent.insert(0, block);
        self.recent.truncate(8);
    }

    /// Moves what has become in order to the queue.
    fn pull_later(&mut self) {
        while let Some((&s, _)) = self.later.first_key_value() {
            if s > self.next {
                break;
            }
            let Some(mut d) = self.later.remove(&s) else { break };
            self.later_bytes -= d.len();
            let skip = ((self.next - s) as usize).min(d.len());
            d.advance(skip);
            self.next += d.len() as u64;
            self.queue.append(d);
        }
        let next = self.next;
        self.recent.retain(|(s, _)| *s > next);
    }

    fn arrived_in_order(&mut self, len: usize, mss: usize) {
        if len >= self.seg_size.min(mss) {
            self.seg_size = len.min(mss);
            self.unacked_full += (len / mss.max(1)).max(1) as u32;
        } else if len > 64 && self.seg_size > len {
            // The sender may just use smaller segments.
            self.seg_size = self.seg_size.min(mss);
        }
    }

    /// An estimate of the round trip by the time that a window of data takes.
    fn measure(&mut self, now: Time) {
        if self.next >= self.rtt_seq {
            let took = now.since(self.rtt_at).max(1);
            if self.rtt_at != Time(0) {
                self.rtt = if self.rtt == 0 { took } else { self.rtt.min(took) };
            }
            self.rtt_at = now;
            self.rtt_seq = self.next + self.advertised.saturating_sub(self.next).max(1);
        }
    }

    /// The program took `n` bytes: the buffer follows what it takes in a round trip.
    fn tune(&mut self, n: usize, srtt: u64, now: Time) {
        self.space_copied += n as u64;
        let rtt =
            if srtt != 0 { srtt.min(self.rtt.max(1)).max(self.rtt.min(srtt)) } else { self.rtt };
        if now.since(self.space_at) < rtt || rtt == 0 {
            return;
        }
        if self.space_copied > self.space {
            if !self.locked {
                let window = self.space_copied * 2 + 16 * self.seg_size as u64;
                let buf = usize::try_from(window * 2).unwrap_or(RCVBUF_MAX).min(RCVBUF_MAX);
                self.buf = self.buf.max(buf);
            }
            self.space = self.space_copied;
        }
        self.space_copied = 0;
        self.space_at = now;
    }
}

impl Tcb {
    /// SO_RCVBUF, SO_OOBINLINE, TCP_WINDOW_CLAMP changed.
    pub fn receive_settings_changed(&mut self) {
        self.rx.locked = self.set.rcvbuf_locked;
        self.rx.oob_inline = self.set.oob_inline;
        self.rx.clamp = if self.set.window_clamp == 0 { usize::MAX } else { self.set.window_clamp };
        if self.rx.locked || self.set.rcvbuf > self.rx.buf {
            self.rx.buf = self.set.rcvbuf;
        }
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.rx.readable()
    }

    /// Present receive buffer.
    pub fn rcvbuf(&self) -> usize {
        self.rx.buf
    }

    /// The other side has ended its stream and everything was received.
    pub fn fin_reached(&self) -> bool {
        self.rx.fin_reached()
    }

    /// Distance of the reading position to the urgent mark (SIOCATMARK), if there is one.
    pub fn to_mark(&self) -> Option<u64> {
        self.rx.urgent.map(|u| u.saturating_sub(self.rx.front()))
    }

    /// Up to `max` bytes from `skip` on, which stay in the queue. `EAGAIN` when there is nothing yet,
    /// empty at the end of the stream. Reading stops before an urgent byte.
    pub fn peek(&mut self, skip: usize, max: usize) -> Result<Data> {
        let mut len = max;
        let at = self.rx.front() + skip as u64;
        if let Some(u) = self.rx.urgent {
            if u > at {
                len = len.min((u - at) as usize);
            } else if u == at && !self.rx.oob_inline && skip == 0 && !self.rx.queue.is_empty() {
                // The mark: the urgent byte itself is not part of the stream.
                self.rx.queue.advance(1);
                if self.rx.urgent_byte.is_none() {
                    self.rx.urgent = None;
                }
            }
        }
        if self.rx.queue.len() > skip {
            return Ok(self.rx.queue.part(skip, len));
        }
        if skip > 0 {
            return Err(EAGAIN);
        }
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        if self.shut_read || self.rx.fin_reached() {
            return Ok(Data::new());
        }
        match self.state {
            State::SynSent | State::SynRecv => Err(EAGAIN),
            State::Closed => Ok(Data::new()),
            _ => Err(EAGAIN),
        }
    }

    /// Takes `n` bytes off the queue: they were copied to the program.
    pub fn consume(&mut self, n: usize, now: Time, out: &mut Out) {
        let n = n.min(self.rx.queue.len());
        self.rx.queue.advance(n);
        let front = self.rx.front();
        if self.rx.urgent.is_some_and(|u| u < front) {
            self.rx.urgent = None;
            self.rx.urgent_byte = None;
        }
        let srtt = self.rtt.srtt;
        self.rx.tune(n, srtt, now);
        self.window_update(now, out);
    }

    /// recv(2) with MSG_OOB: the urgent byte. `EINVAL` when there is none, it is inline or was read, `EAGAIN` when it
    /// was announced and has not arrived.
    pub fn take_urgent(&mut self, peek: bool) -> Result<u8> {
        if self.rx.urgent.is_none() || self.rx.oob_inline {
            return Err(EINVAL);
        }
        match self.rx.urgent_byte {
            Some(b) => {
                if !peek {
                    self.rx.urgent_byte = None;
                    self.rx.urgent_taken = true;
                }
                Ok(b)
            }
            None if self.rx.urgent_taken => Err(EINVAL),
            None => Err(EAGAIN),
        }
    }

    /// The urgent pointer of a segment (RFC 6093: it is taken as BSD and Linux do, one past the byte).
    pub(super) fn urgent_pointer(&mut self, seq: Seq, pointer: u16, out: &mut Out) {
        let mut up = seq + u64::from(pointer);
        if pointer > 0 {
            up -= 1;
        }
        if up < self.rx.front() || self.rx.urgent.is_some_and(|u| up <= u) {
            return;
        }
        self.rx.urgent = Some(up);
        self.rx.urgent_byte = None;
        self.rx.urgent_taken = false;
        out.urgent = true;
    }

    fn catch_urgent_byte(&mut self, seq: Seq, data: &Data, out: &mut Out) {
        let Some(u) = self.rx.urgent else { return };
        if self.rx.urgent_byte.is_none()
            && !self.rx.urgent_taken
            && u >= seq
            && u < seq + data.len() as u64
        {
            let mut b = [0];
            data.part((u - seq) as usize, 1).copy_to(&mut b);
            self.rx.urgent_byte = Some(b[0]);
            out.events |= uml_base::Events::PRI;
        }
    }

    /// Data (and FIN) of an acceptable segment that begins at `seq`.
    pub(super) fn receive_data(
        &mut self,
        mut seq: Seq,
        mut data: Data,
        mut fin: bool,
        now: Time,
        out: &mut Out,
    ) {
        let end = seq + data.len() as u64;
        if seq < self.rx.next {
            // A part, or all, was here before (RFC 2883).
            let old = (self.rx.next - seq).min(data.len() as u64);
            if !data.is_empty() {
                self.rx.duplicate(seq, seq + old);
            }
            data.advance(old as usize);
            seq += old;
            if data.is_empty() && !(fin && end >= self.rx.next) {
                self.rx.ack_now = true;
                return;
            }
        }
        let edge = self.rx.advertised.max(self.rx.next);
        if end > edge {
            let keep = edge.saturating_sub(seq).min(data.len() as u64);
            data.truncate(keep as usize);
            fin = false;
            self.rx.ack_now = true;
            if data.is_empty() {
                return;
            }
        }
        let first = fin && self.rx.fin.is_none();
        if fin {
            self.rx.fin = Some(end);
        }
        self.catch_urgent_byte(seq, &data, out);
        self.stats.data_segs_in += 1;
        self.last_data_in = now;
        let len = data.len();
        if seq > self.rx.next {
            // Even fragments of little data hold memory: a limit on both.
            let held = self.rx.later.len() * 512 + self.rx.later_bytes;
            if held < self.rx.buf.max(65_536) {
                self.rx.store_later(seq, data, fin, first);
            }
            self.rx.ack_now = true;
            return;
        }
        let hole = !self.rx.later.is_empty();
        self.rx.next += len as u64;
        self.rx.queue.append(data);
        self.rx.pull_later();
        self.stats.bytes_received += len as u64;
        self.rx.arrived_in_order(len, self.mss);
        self.rx.measure(now);
        // A filled hole is acknowledged at once (RFC 5681 4.2).
        self.rx.ack_now |= hole;
        if len > 0 && (self.rx.queue.len() >= self.set.rcv_lowat || fin) {
            out.events |= uml_base::Events::READABLE;
        }
        if self.rx.fin == Some(self.rx.next) {
            self.rx.next += 1;
            self.rx.ack_now = true;
            self.fin_arrived(now, out);
        }
    }

    /// Acknowledges what arrived, now or a little later (RFC 1122 4.2.3.2, RFC 5681 4.2).
    pub(super) fn acknowledge(&mut self, now: Time, out: &mut Out) {
        if self.rx.ack_now {
            self.send_ack(now, out);
            return;
        }
        if self.rx.next == self.rx.acked {
            return;
        }
        let quick = match self.set.quickack {
            Some(q) => q,
            None => self.rx.quick > 0,
        };
        if quick || self.rx.unacked_full >= 2 {
            self.rx.quick = self.rx.quick.saturating_sub(1);
            self.send_ack(now, out);
        } else if self.rx.ack_at.is_none() {
            self.rx.ack_at = Some(now + DELAYED_ACK);
        }
    }

    /// An acknowledgement is owed at once.
    pub(super) fn must_ack(&mut self) {
        self.rx.ack_now = true;
    }

    /// Interactive use: the program answers what it reads, so acknowledgements ride on its data.
    pub(super) fn pingpong(&mut self) {
        self.rx.quick = 0;
    }
}
