//! Loss detection and recovery: RACK-TLP (RFC 8985), NewReno without SACK (RFC 6582), proportional rate
//! reduction (RFC 6937).

use super::Out;
use super::seq::Seq;
use super::tcb::{Phase, Retry, Sent, Tcb};
use crate::time::{MS, Time};

/// Duplicates after which data counts as lost while no reordering was seen.
const DUPTHRESH: u64 = 3;

/// RACK's view of the path.
#[derive(Clone, Debug)]
pub(super) struct Rack {
    /// Send time and end of the most recently sent data known delivered.
    at: Time,
    end: Seq,
    rtt: u64,
    /// Highest end ever SACKed or acknowledged.
    pub forward: Seq,
    reordering: bool,
    /// Reordering window in quarters of the minimum RTT.
    quarters: u64,
    min_rtt: u64,
    /// Recoveries until the window shrinks back.
    persist: u32,
    dsack_round: Seq,
}

impl Default for Rack {
    fn default() -> Self {
        Rack {
            at: Time(0),
            end: 0,
            rtt: 0,
            forward: 0,
            reordering: false,
            quarters: 1,
            min_rtt: u64::MAX,
            persist: 0,
            dsack_round: 0,
        }
    }
}

impl Rack {
    pub fn min_rtt_known(&self) -> bool {
        self.min_rtt != u64::MAX
    }
}

impl Tcb {
    pub(super) fn rack_update(&mut self, s: &Sent, now: Time) {
        let rtt = now.since(s.at);
        if s.again && rtt < self.rtt.min {
            // More likely the acknowledgement of the first transmission.
            return;
        }
        let r = &mut self.rack;
        r.min_rtt = r.min_rtt.min(rtt.max(1));
        r.rtt = rtt;
        if s.at > r.at || (s.at == r.at && s.end > r.end) {
            (r.at, r.end) = (s.at, s.end);
        }
        if !s.again && s.end > r.forward {
            r.forward = s.end;
        }
    }

    pub(super) fn rack_reordered(&mut self, _distance: u64) {
        self.rack.reordering = true;
        self.stats.reord_seen += 1;
    }

    /// A duplicate arrived at the peer: the window was too small (RFC 8985 6.2 step 4).
    pub(super) fn rack_dsack(&mut self) {
        if self.snd_una >= self.rack.dsack_round {
            self.rack.quarters = (self.rack.quarters + 1).min(40);
            self.rack.dsack_round = self.snd_nxt;
            self.rack.persist = 16;
        }
    }

    fn reorder_window(&self) -> u64 {
        let r = &self.rack;
        if !r.reordering {
            let in_recovery = self.phase != Phase::Open;
            if in_recovery || self.sacked_bytes >= DUPTHRESH * self.mss as u64 {
                return 0;
            }
        }
        let base = if r.min_rtt == u64::MAX { MS } else { r.min_rtt / 4 * r.quarters };
        base.min(self.rtt.srtt.max(1))
    }

    /// Marks what must be lost; arms the reordering timer for what may be. Returns newly lost bytes.
    pub(super) fn detect_loss(&mut self, now: Time) -> u64 {
        if !self.sack_on {
            return self.detect_loss_by_duplicates();
        }
        if self.sacked_bytes == 0 && !self.retransmitted_outstanding() {
            return 0;
        }
        let window = self.reorder_window();
        let (at, end, rtt) = (self.rack.at, self.rack.end, self.rack.rtt);
        let mut newly = 0;
        let mut wait = 0u64;
        for (s, seg) in &mut self.sent {
            if seg.sacked || seg.lost {
                continue;
            }
            // Only what was sent before something that arrived.
            if seg.at > at || (seg.at == at && seg.end > end) {
                continue;
            }
            let due = seg.at + rtt + window;
            if due <= now {
                seg.lost = true;
                newly += seg.end - s;
            } else {
                wait = wait.max(due.since(now));
            }
        }
        self.lost_bytes += newly;
        if wait > 0 && self.retry != Retry::Persist {
            self.retry = Retry::Reorder;
            self.retry_at = now + wait;
        }
        newly
    }

    fn retransmitted_outstanding(&self) -> bool {
        self.phase != Phase::Open || self.rack.reordering
    }

    /// Without SACK three duplicates, and then each partial acknowledgement, say that the first segment is
    /// lost.
    fn detect_loss_by_duplicates(&mut self) -> u64 {
        let partial =
            matches!(self.phase, Phase::Recovery(to) if self.snd_una < to) && self.dupacks == 0;
        let third = u64::from(self.dupacks) == DUPTHRESH && self.phase == Phase::Open;
        if !partial && !third {
            return 0;
        }
        let Some((&start, _)) = self.sent.first_key_value() else { return 0 };
        self.split_sent(start + self.mss as u64);
        match self.sent.get_mut(&start) {
            Some(s) if !s.lost => {
                s.lost = true;
                let n = s.end - start;
                self.lost_bytes += n;
                n
            }
            _ => 0,
        }
    }

    /// Everything outstanding and not SACKed is to be sent again.
    pub(super) fn mark_all_lost(&mut self) {
        for (s, seg) in &mut self.sent {
            if !seg.sacked && !seg.lost {
                seg.lost = true;
                self.lost_bytes += seg.end - s;
            }
        }
    }

    pub(super) fn unmark_lost(&mut self) {
        for seg in self.sent.values_mut() {
            seg.lost = false;
        }
        self.lost_bytes = 0;
    }

    pub(super) fn enter_recovery(&mut self, flight_before: u64) {
        let mss = self.mss as u64;
        self.phase = Phase::Recovery(self.snd_nxt);
        self.cc.reduce(mss);
        self.prr_delivered = 0;
        self.prr_out = 0;
        self.recover_flight = flight_before.max(mss);
        self.probe_end = None;
    }

    pub(super) fn leave_recovery(&mut self) {
        let mss = self.mss as u64;
        if matches!(self.phase, Phase::Recovery(_)) {
            self.cc.cwnd = self.cc.ssthresh.max(mss);
        }
        self.phase = Phase::Open;
        self.retrans_stamp = 0;
        self.cc.forget_undo();
        self.dupacks = 0;
        if self.rack.persist > 0 {
            self.rack.persist -= 1;
            if self.rack.persist == 0 {
                self.rack.quarters = 1;
            }
        }
    }

    /// The window during recovery (RFC 6937 with the slow start reduction bound).
    pub(super) fn prr(&mut self, delivered: u64, newly_lost: u64, advanced: bool) {
        let mss = self.mss as u64;
        let mut delivered = delivered;
        if !self.sack_on && delivered == 0 && self.dupacks > 0 {
            // Each duplicate means that a segment left the network.
            delivered = mss;
        }
        self.prr_delivered += delivered;
        let flight = self.in_flight();
        let ssthresh = self.cc.ssthresh;
        let quota = if flight > ssthresh {
            let want = (u128::from(self.prr_delivered) * u128::from(ssthresh))
                .div_ceil(u128::from(self.recover_flight));
            (want as u64).saturating_sub(self.prr_out)
        } else {
            let mut limit = self.prr_delivered.saturating_sub(self.prr_out).max(delivered);
            if advanced && newly_lost == 0 {
                limit += mss;
            }
            limit.min(ssthresh - flight)
        };
        // The first retransmission always goes.
        let quota = if self.prr_out == 0 { quota.max(mss) } else { quota };
        self.cc.cwnd = flight + quota;
    }

    /// The retransmission timer ran out (RFC 6298 5, RFC 5681 3.1).
    pub(super) fn timeout(&mut self, now: Time, out: &mut Out) {
        let mss = self.mss as u64;
        if !matches!(self.phase, Phase::Loss(_)) || self.retries == 1 {
            self.cc.reduce(mss);
        }
        self.phase = Phase::Loss(self.snd_nxt);
        self.mark_all_lost();
        // A peer may have thrown away what it SACKed (RFC 2018 8), shown by losing the first segment
        // twice.
        if self.retries > 1 {
            for s in self.sent.values_mut() {
                s.sacked = false;
            }
            self.sacked_bytes = 0;
            self.lost_bytes = 0;
            for s in self.sent.values_mut() {
                s.lost = false;
            }
            self.mark_all_lost();
        }
        self.cc.cwnd = mss;
        self.cwnd_limited = true;
        self.dupacks = 0;
        self.probe_end = None;
        self.retrans_stamp = 0;
        self.output(now, out);
    }
}
