//! What may be sent, and sending it (RFC 9293 3.8, RFC 1122 4.2.3.4, RFC 6937).

use uml_base::Events;

use super::seq::Seq;
use super::tcb::{Phase, Retry, Sent, Tcb};
use super::{Out, Segment, State};
use crate::packet::Data;
use crate::time::Time;
use crate::wire::tcp::{SackBlock, flags};

impl Tcb {
    /// Bytes on the way (RFC 6675 "pipe").
    pub fn in_flight(&self) -> u64 {
        (self.snd_nxt - self.snd_una).saturating_sub(self.sacked_bytes + self.lost_bytes)
    }

    pub(super) fn send_syn(&mut self, now: Time, out: &mut Out) {
        let mut h = self.header(self.iss, flags::SYN, now);
        if self.state == State::SynRecv {
            h = self.header(self.iss, flags::SYN | flags::ACK, now);
        }
        h.options.mss = Some(self.announced_mss());
        h.options.sack_permitted = self.sack_on;
        h.options.wscale = self.set.window_scaling.then_some(self.rcv_wscale);
        if let Some(t) = &mut h.options.timestamp {
            t.1 = if self.state == State::SynRecv { self.ts_recent } else { 0 };
        }
        h.window = self.rx.initial_window().min(65_535) as u16;
        self.snd_nxt = self.iss + 1;
        self.stats.segs_out += 1;
        self.last_sent = now;
        out.segments.push(Segment { header: h, data: Data::new(), gso: 0 });
    }

    /// Acknowledges what arrived.
    pub(super) fn send_ack(&mut self, now: Time, out: &mut Out) {
        let h = self.header(self.snd_nxt, flags::ACK, now);
        self.emit(h, Data::new(), 0, now, out);
    }

    /// Window, SACK blocks, urgent pointer; then out.
    fn emit(
        &mut self,
        mut h: crate::wire::tcp::Tcp,
        data: Data,
        gso: usize,
        now: Time,
        out: &mut Out,
    ) {
        let seq = super::seq::unwrap(self.snd_una, h.seq);
        h.window = self.rx.select_window(self.rcv_wscale, self.mss);
        if self.sack_on {
            let (blocks, n) = self.rx.sack_blocks(if self.ts_on { 3 } else { 4 });
            h.options.sack = blocks;
            h.options.sack_len = n;
        }
        if let Some(up) = self.urgent_up
            && up > seq
        {
            h.flags |= flags::URG;
            h.urgent = (up - seq).min(0xffff) as u16;
        }
        self.rx.acknowledged();
        self.stats.segs_out += 1;
        if !data.is_empty() {
            self.stats.data_segs_out += 1;
            self.stats.bytes_sent += data.len() as u64;
            self.last_data_sent = now;
        }
        self.last_sent = now;
        out.segments.push(Segment { header: h, data, gso });
    }

    /// Ends the connection abruptly for the peer.
    pub(super) fn send_rst(&mut self, now: Time, out: &mut Out) {
        let h = self.header(self.snd_nxt, flags::RST | flags::ACK, now);
        out.segments.push(Segment { header: h, data: Data::new(), gso: 0 });
    }

    /// Answers a segment that acknowledges `ack` with a RST, as if there were no connection (RFC 9293 3.10.7.1).
    pub(super) fn refuse(&mut self, ack: Seq, out: &mut Out) {
        let mut h = self.header(ack, flags::RST, Time(0));
        h.options.timestamp = None;
        out.segments.push(Segment { header: h, data: Data::new(), gso: 0 });
    }

    /// Sends the range `start..end` of the stream, FIN included when it is part of it.
    fn send_range(&mut self, start: Seq, end: Seq, now: Time, out: &mut Out) {
        let data_end = end.min(self.send.end());
        let len = data_end.saturating_sub(start) as usize;
        let data = self.send.slice(start, len);
        let fin = self.fin_queued && end > self.send.end();
        let mut flag = flags::ACK;
        if fin {
            flag |= flags::FIN;
        }
        if data_end == self.send.end() && !data.is_empty() {
            flag |= flags::PSH;
        }
        let gso = if data.len() > self.mss { self.mss } else { 0 };
        let h = self.header(start, flag, now);
        self.emit(h, data, gso, now, out);
    }

    /// Largest data of one segment, in whole MSS.
    fn burst(&self) -> u64 {
        let mss = self.mss as u64;
        // No more than half of what the peer has room for, so that it can acknowledge meanwhile.
        let most = (self.gso_max as u64).min((self.max_wnd / 2).max(mss));
        (most / mss).max(1) * mss
    }

    /// Everything that may go out now does; timers follow.
    pub(super) fn output(&mut self, now: Time, out: &mut Out) {
        if !self.synchronized() || self.state == State::TimeWait {
            return;
        }
        self.restart_after_idle(now);
        self.retransmit_lost(now, out);
        self.send_new(now, out);
        self.arm_after_output(now);
    }

    fn restart_after_idle(&mut self, now: Time) {
        if self.sent.is_empty() && self.unsent() > 0 {
            let idle = now.since(self.last_data_sent);
            let rto = self.rtt.base_rto();
            if idle > rto {
                let mss = self.mss as u64;
                self.cc.after_idle(mss, idle / rto);
            }
        }
    }

    /// Room under the congestion window.
    fn cwnd_room(&self) -> u64 {
        self.cc.cwnd.saturating_sub(self.in_flight())
    }

    fn retransmit_lost(&mut self, now: Time, out: &mut Out) {
        while self.lost_bytes > 0 {
            let room = self.cwnd_room();
            if room == 0 || (room < self.mss as u64 && self.in_flight() > 0) {
                return;
            }
            let Some((&start, s)) = self.sent.iter().find(|(_, s)| s.lost) else { return };
            let most =
                self.burst().min(room.max(self.mss as u64) / self.mss as u64 * self.mss as u64);
            let end = s.end.min(start + most.max(self.mss as u64));
            self.retransmit(start, end, now, out);
        }
    }

    /// Sends one recorded range again.
    pub(super) fn retransmit(&mut self, start: Seq, end: Seq, now: Time, out: &mut Out) {
        self.split_sent(end);
        let Some(s) = self.sent.get_mut(&start) else { return };
        if s.lost {
            s.lost = false;
            self.lost_bytes -= s.end - start;
        }
        s.again = true;
        s.at = now;
        let end = s.end;
        if self.retrans_stamp == 0 {
            self.retrans_stamp = self.timestamp(now).max(1);
        }
        self.prr_out += end - start;
        self.stats.total_retrans += 1;
        self.stats.bytes_retrans += end - start;
        self.send_range(start, end, now, out);
    }

    fn send_new(&mut self, now: Time, out: &mut Out) {
        let mss = self.mss as u64;
        loop {
            let avail = self.send.end().saturating_sub(self.snd_nxt);
            let fin_waits = self.fin_queued && self.snd_nxt <= self.send.end();
            if avail == 0 && !fin_waits {
                return;
            }
            let window = (self.snd_una + self.snd_wnd).saturating_sub(self.snd_nxt);
            if avail == 0 {
                // Only the FIN is left; it needs room in the window as any byte does.
                if window == 0 && !self.sent.is_empty() {
                    return;
                }
                let at = self.snd_nxt;
                self.record(at, at + 1, now);
                self.send_range(at, at + 1, now, out);
                return;
            }
            let room = self.cwnd_room();
            if room < mss.min(avail) {
                self.cwnd_limited = true;
                return;
            }
            let n = avail.min(window).min(room).min(self.burst());
            if n == 0 {
                return;
            }
            let n = if n >= mss { n / mss * mss } else { n };
            let last = n == avail;
            // What a burst leaves over follows as a segment of its own, if it may.
            if n < mss && !self.small_may_go(n, last) {
                return;
            }
            let at = self.snd_nxt;
            let fin = last && self.fin_queued && window > n;
            let end = at + n + u64::from(fin);
            if n % mss != 0 {
                self.small_end = at + n;
            }
            self.record(at, end, now);
            self.send_range(at, end, now, out);
        }
    }

    /// Whether a segment smaller than the MSS may go: the rest of the data under Nagle's rule as
    /// Minshall changed it, or a large part of the peer's buffer (RFC 1122 4.2.3.4).
    fn small_may_go(&self, n: u64, last: bool) -> bool {
        if !last {
            // Limited by the peer's window.
            return n * 2 >= self.max_wnd && self.max_wnd > 0;
        }
        if self.fin_queued || self.urgent_up.is_some_and(|u| u > self.snd_nxt) {
            return true;
        }
        if self.send.end() > self.pushed {
            return false;
        }
        self.set.nodelay || self.small_end <= self.snd_una
    }

    /// Notes that a range was sent for the first time.
    fn record(&mut self, start: Seq, end: Seq, now: Time) {
        self.sent.insert(start, Sent { end, at: now, sacked: false, lost: false, again: false });
        self.snd_nxt = end;
        self.max_flight = self.max_flight.max(self.in_flight());
        if matches!(self.phase, Phase::Recovery(_)) {
            self.prr_out += end - start;
        }
    }

    /// Splits the record that spans `at`, so that one begins there.
    pub(super) fn split_sent(&mut self, at: Seq) {
        let Some((_, s)) = self.sent.range_mut(..at).next_back() else { return };
        if s.end <= at {
            return;
        }
        let rest = s.clone();
        s.end = at;
        self.sent.insert(at, rest);
    }

    fn arm_after_output(&mut self, now: Time) {
        if self.sent.is_empty() {
            if matches!(self.retry, Retry::Rto | Retry::Probe | Retry::Reorder) {
                self.retry = Retry::None;
                self.retry_at = Time::NEVER;
            }
            let waits = self.unsent() > 0 || (self.fin_queued && self.snd_nxt <= self.send.end());
            let window = (self.snd_una + self.snd_wnd).saturating_sub(self.snd_nxt);
            let closed = window < (self.mss as u64).min(self.unsent().max(1) as u64);
            if waits && closed && self.retry == Retry::None {
                self.arm_persist(now);
            }
        } else if matches!(self.retry, Retry::None | Retry::Persist) {
            self.arm_probe_or_rto(now);
        }
    }

    /// An acknowledgement that only opens the window again, after the program has read.
    pub fn window_update(&mut self, now: Time, out: &mut Out) {
        if !self.synchronized() || self.state == State::TimeWait || self.rx.fin_reached() {
            return;
        }
        if self.rx.wants_update(self.mss) {
            self.send_ack(now, out);
        }
    }

    /// SACK blocks in wire form, for tests and diagnostics.
    pub fn pending_sacks(&self) -> Vec<SackBlock> {
        let (b, n) = self.rx.sack_blocks(4);
        b[..n].to_vec()
    }

    /// Wakes writers when enough of the buffer is free.
    pub(super) fn wake_writers(&self, out: &mut Out) {
        if self.writable() {
            out.events |= Events::WRITABLE;
        }
    }
}
