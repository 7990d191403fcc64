//! Acknowledgements: what they free, what they say about loss, and the window they bring.

use uml_base::Events;

use super::seq::{self, Seq};
use super::tcb::{Phase, Retry, Tcb};
use super::{Out, State};
use crate::time::{MS, Time};
use crate::wire::tcp::Tcp;

/// What one acknowledgement did.
#[derive(Default)]
pub(super) struct Effect {
    /// Bytes that the peer newly has.
    pub delivered: u64,
    /// Bytes newly acknowledged by number.
    pub acked: u64,
    pub rtt: Option<u64>,
    /// Something sent only once was newly acknowledged: what was sent again was not needed, if that is
    /// older.
    pub dsack: bool,
    pub newly_sacked: bool,
}

impl Tcb {
    /// False when the segment is to be dropped.
    pub(super) fn process_ack(
        &mut self,
        h: &Tcp,
        at: Seq,
        data_len: usize,
        now: Time,
        out: &mut Out,
    ) -> bool {
        let ack = seq::unwrap(self.snd_una, h.ack);
        if ack > self.snd_nxt || ack + self.max_wnd.max(65_535) < self.snd_una {
            // Something we never sent, or long ago (RFC 5961 5).
            self.challenge(now, out);
            return false;
        }
        self.last_ack_in = now;
        let before = self.snd_una;
        let flight_before = self.in_flight();
        let mut e = Effect::default();
        if self.sack_on && h.options.sack_len > 0 {
            self.take_sacks(h, ack, now, &mut e);
        }
        if ack < self.snd_una {
            // Old, but its SACK blocks counted.
            self.after_ack(&e, flight_before, now, out);
            return true;
        }
        let window = u64::from(h.window) << self.snd_wscale;
        let same_window = window == self.snd_wnd;
        if ack > before {
            self.acked_to(ack, now, &mut e);
        }
        if self.wl1 < at || (self.wl1 == at && self.wl2 <= ack) || ack > before {
            let opened = window > self.snd_wnd;
            self.snd_wnd = window;
            self.max_wnd = self.max_wnd.max(window);
            (self.wl1, self.wl2) = (at, ack);
            if self.retry == Retry::Persist {
                // The peer is alive; the probe goes on until the window opens.
                self.probes = 0;
                if opened {
                    self.retry = Retry::None;
                    self.retry_at = Time::NEVER;
                    self.rtt.backoff = 0;
                }
            }
        }
        if ack == before && data_len == 0 && same_window && !self.sent.is_empty() {
            if !self.sack_on {
                self.dupacks += 1;
            }
        } else if ack > before {
            self.dupacks = 0;
        }
        if let Some((_, ecr)) = h.options.timestamp.filter(|_| self.ts_on) {
            self.detect_spurious(ecr, ack > before, &e);
        }
        self.after_ack(&e, flight_before, now, out);
        if ack > before {
            self.own_side_acked(now, out);
        }
        true
    }

    /// Takes everything before `ack` off the record.
    fn acked_to(&mut self, ack: Seq, now: Time, e: &mut Effect) {
        self.split_sent(ack);
        while let Some((&start, s)) = self.sent.first_key_value() {
            if start >= ack {
                break;
            }
            let s = s.clone();
            self.sent.remove(&start);
            let len = s.end - start;
            if s.sacked {
                self.sacked_bytes -= len;
            } else {
                e.delivered += len;
                if !s.again {
                    e.rtt = Some(now.since(s.at));
                }
                self.rack_update(&s, now);
            }
            if s.lost {
                self.lost_bytes -= len;
            }
        }
        e.acked = ack - self.snd_una;
        self.snd_una = ack;
        self.send.acked(ack);
        if self.urgent_up.is_some_and(|u| u <= ack) {
            self.urgent_up = None;
        }
        self.stats.bytes_acked += e.acked;
        self.retries = 0;
        self.first_loss_at = None;
        self.rtt.backoff = 0;
        self.soft_error = None;
    }

    fn take_sacks(&mut self, h: &Tcp, ack: Seq, now: Time, e: &mut Effect) {
        let blocks = h.options.sacks();
        for (i, b) in blocks.iter().enumerate() {
            let (start, end) =
                (seq::unwrap(self.snd_una, b.start), seq::unwrap(self.snd_una, b.end));
            if start >= end || end > self.snd_nxt {
                continue;
            }
            let inside_next = i == 0
                && blocks.get(1).is_some_and(|n| {
                    let s = seq::unwrap(self.snd_una, n.start);
                    let t = seq::unwrap(self.snd_una, n.end);
                    s <= start && end <= t
                });
            if i == 0 && (end <= ack || inside_next) {
                e.dsack = true;
                self.stats.dsack_dups += 1;
                self.rack_dsack();
                continue;
            }
            if end <= self.snd_una {
                continue;
            }
            self.mark_sacked(start.max(self.snd_una), end, now, e);
        }
    }

    fn mark_sacked(&mut self, start: Seq, end: Seq, now: Time, e: &mut Effect) {
        self.split_sent(start);
        self.split_sent(end);
        let mut newly = Vec::new();
        for (s, seg) in self.sent.range_mut(start..end) {
            if seg.sacked {
                continue;
            }
            seg.sacked = true;
            let len = seg.end - s;
            self.sacked_bytes += len;
            if seg.lost {
                seg.lost = false;
                self.lost_bytes -= len;
            }
            e.delivered += len;
            e.newly_sacked = true;
            newly.push((*s, seg.clone()));
        }
        for (s, seg) in newly {
            if !seg.again {
                // Later data had been SACKed before this: reordering.
                if seg.end < self.rack.forward {
                    self.rack_reordered(self.rack.forward - s);
                }
                e.rtt = Some(now.since(seg.at));
            }
            self.rack.forward = self.rack.forward.max(seg.end);
            self.rack_update(&seg, now);
        }
    }

    /// Eifel detection (RFC 3522): an acknowledgement for data that answers the first transmission shows
    /// that the retransmission, and the reduction with it, was for nothing.
    fn detect_spurious(&mut self, ecr: u32, advanced: bool, e: &Effect) {
        if self.retrans_stamp == 0 || !advanced || ecr == 0 {
            return;
        }
        let older = (ecr.wrapping_sub(self.retrans_stamp) as i32) < 0;
        if older && self.phase != Phase::Open && !e.dsack {
            self.cc.undo();
            self.unmark_lost();
            self.phase = Phase::Open;
        }
        self.retrans_stamp = 0;
    }

    fn after_ack(&mut self, e: &Effect, flight_before: u64, now: Time, out: &mut Out) {
        self.stats.delivered =
            self.stats.delivered.wrapping_add((e.delivered / self.mss as u64) as u32);
        if let Some(rtt) = e.rtt {
            self.rtt.sample(rtt, now);
            let (una, nxt) = (self.snd_una, self.snd_nxt);
            self.cc.rtt_sample(rtt, una, nxt);
        }
        if let Some(end) = self.probe_end
            && self.snd_una >= end
        {
            self.probe_end = None;
        }
        let newly_lost = self.detect_loss(now);
        match self.phase {
            Phase::Open if newly_lost > 0 => self.enter_recovery(flight_before),
            Phase::Open => {}
            Phase::Recovery(to) | Phase::Loss(to) if self.snd_una >= to => self.leave_recovery(),
            Phase::Loss(_) if newly_lost > 0 && self.rack.min_rtt_known() => {}
            _ => {}
        }
        let mss = self.mss as u64;
        match self.phase {
            Phase::Recovery(_) => self.prr(e.delivered, newly_lost, e.acked > 0),
            Phase::Open | Phase::Loss(_) if e.acked > 0 => {
                let grow = self.cwnd_limited
                    || (self.cc.in_slow_start() && self.cc.cwnd < 2 * self.max_flight);
                if grow {
                    let srtt = self.rtt.srtt;
                    self.cc.on_ack(e.acked, mss, now, srtt);
                }
                self.cwnd_limited = false;
                self.max_flight = self.in_flight();
            }
            _ => {}
        }
        if e.acked > 0 || e.newly_sacked {
            self.rearm(now);
        }
        if e.acked > 0 {
            self.wake_writers(out);
        }
        // A large window is no use when the buffer below cannot fill it.
        self.cc.cwnd = self.cc.cwnd.max(mss);
    }

    /// Our FIN may have been acknowledged.
    fn own_side_acked(&mut self, now: Time, out: &mut Out) {
        let done = self.fin_queued && self.snd_una > self.send.end();
        if !done {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                out.events |= Events::ALL;
                self.begin_fin_wait2(now, out);
            }
            State::Closing => {
                self.state = State::TimeWait;
                self.begin_time_wait(now);
                out.events |= Events::ALL;
            }
            State::LastAck => self.close_with(None, out),
            _ => {}
        }
    }

    /// Smoothed RTT in milliseconds at least one, for diagnostics.
    pub fn srtt_ms(&self) -> u64 {
        (self.rtt.srtt / MS).max(1)
    }
}
