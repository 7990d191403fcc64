//! A connection's timers: one deadline, several reasons (RFC 6298, RFC 8985 7, RFC 1122 4.2.3.6, RFC 9293
//! 3.8.6.1).

use uml_abi::errno::*;

use super::rtt::{RTO_MAX, RTO_MIN};
use super::seq::Seq;
use super::tcb::{Retry, Tcb};
use super::{Out, Segment, State};
use crate::packet::Data;
use crate::time::{MS, SEC, Time};
use crate::wire::tcp::flags;

/// How long a closed connection's number stays taken (Linux's TCP_TIMEWAIT_LEN).
pub const TIME_WAIT: u64 = 60 * SEC;
/// Retransmissions that orphans get.
const ORPHAN_RETRIES: u32 = 8;
/// Shortest tail loss probe.
pub(super) const PROBE_MIN: u64 = 2 * MS;

impl Tcb {
    /// When [`Tcb::on_timer`] is to be called next.
    pub fn deadline(&self) -> Option<Time> {
        let mut d = self.retry_at;
        for t in [self.rx.ack_at, self.keep_at, self.linger_at, self.cork_deadline] {
            d = d.min(t.unwrap_or(Time::NEVER));
        }
        (d != Time::NEVER).then_some(d)
    }

    pub(super) fn arm_rto(&mut self, now: Time) {
        self.retry = Retry::Rto;
        self.retry_at = now + self.rtt.rto();
    }

    /// After data was sent: a probe if one is allowed, else the timeout.
    pub(super) fn arm_probe_or_rto(&mut self, now: Time) {
        let may_probe = self.sack_on
            && self.probe_end.is_none()
            && self.phase == super::tcb::Phase::Open
            && self.sacked_bytes == 0
            && self.rtt.known();
        if !may_probe {
            self.arm_rto(now);
            return;
        }
        let mut wait = (2 * self.rtt.srtt).max(PROBE_MIN);
        if self.sent.len() == 1 && self.in_flight() <= self.mss as u64 {
            // The peer may hold the acknowledgement of a single segment back.
            wait += RTO_MIN;
        }
        let rto = self.rtt.rto();
        if wait >= rto {
            self.arm_rto(now);
        } else {
            self.retry = Retry::Probe;
            self.retry_at = now + wait;
        }
    }

    /// Progress was made: the timeout starts anew (RFC 6298 5.3).
    pub(super) fn rearm(&mut self, now: Time) {
        if self.sent.is_empty() {
            if self.retry != Retry::Persist {
                self.retry = Retry::None;
                self.retry_at = Time::NEVER;
            }
        } else if self.retry != Retry::Reorder || self.retry_at > now + self.rtt.rto() {
            self.arm_probe_or_rto(now);
        }
    }

    pub(super) fn arm_persist(&mut self, now: Time) {
        let wait = self.rtt.base_rto().saturating_mul(1 << self.probes.min(16)).min(RTO_MAX);
        self.retry = Retry::Persist;
        self.retry_at = now + wait;
    }

    /// Does what is due.
    pub fn on_timer(&mut self, now: Time, out: &mut Out) {
        if self.linger_at.is_some_and(|t| t <= now) {
            self.linger_at = None;
            // FIN_WAIT2 of an orphan, or the end of TIME_WAIT.
            self.close_with(None, out);
            return;
        }
        if self.rx.ack_at.is_some_and(|t| t <= now) {
            self.rx.ack_at = None;
            self.send_ack(now, out);
        }
        if self.cork_deadline.is_some_and(|t| t <= now) {
            self.push_pending(now, out);
        }
        if self.retry_at <= now {
            self.retry_at = Time::NEVER;
            match std::mem::replace(&mut self.retry, Retry::None) {
                Retry::None => {}
                Retry::Rto => self.retransmission_timeout(now, out),
                Retry::Probe => self.tail_probe(now, out),
                Retry::Reorder => self.reorder_timeout(now, out),
                Retry::Persist => self.window_probe(now, out),
            }
        }
        if self.keep_at.is_some_and(|t| t <= now) {
            self.keepalive(now, out);
        }
    }

    fn retransmission_timeout(&mut self, now: Time, out: &mut Out) {
        self.retries += 1;
        let since = *self.first_loss_at.get_or_insert(self.last_sent.min(now));
        let opening = matches!(self.state, State::SynSent | State::SynRecv);
        let limit = if opening {
            self.set.syn_retries
        } else if self.orphan {
            ORPHAN_RETRIES
        } else {
            self.set.retries
        };
        let too_long = self.set.user_timeout != 0 && now.since(since) >= self.set.user_timeout;
        if self.retries > limit || too_long {
            let e = self.soft_error.unwrap_or(ETIMEDOUT);
            self.close_with(Some(e), out);
            return;
        }
        self.rtt.backoff += 1;
        if opening {
            self.stats.total_retrans += 1;
            self.send_syn(now, out);
        } else {
            self.timeout(now, out);
        }
        self.arm_rto(now);
        if self.set.user_timeout != 0 {
            self.retry_at = self.retry_at.min((since + self.set.user_timeout).max(now + MS));
        }
    }

    /// Sends new data, or the last segment again, so that a lost tail shows (RFC 8985 7.3).
    fn tail_probe(&mut self, now: Time, out: &mut Out) {
        self.probe_end = Some(self.snd_nxt);
        let unsent = self.unsent() > 0;
        let room = (self.snd_una + self.snd_wnd).saturating_sub(self.snd_nxt);
        if unsent && room >= self.mss as u64 {
            let cwnd = self.cc.cwnd;
            self.cc.cwnd = cwnd.max(self.in_flight() + self.mss as u64);
            self.output(now, out);
            self.cc.cwnd = cwnd;
        } else if let Some((&start, s)) = self.sent.last_key_value() {
            let (end, mss) = (s.end, self.mss as u64);
            let from: Seq = start.max(end.saturating_sub(mss));
            self.split_sent(from);
            self.retransmit(from, end, now, out);
            self.retrans_stamp = 0;
        }
        self.arm_rto(now);
    }

    fn reorder_timeout(&mut self, now: Time, out: &mut Out) {
        let flight = self.in_flight();
        let lost = self.detect_loss(now);
        if lost > 0 {
            if self.phase == super::tcb::Phase::Open {
                self.enter_recovery(flight);
            }
            // After a timeout the window is that of slow start.
            if matches!(self.phase, super::tcb::Phase::Recovery(_)) {
                self.prr(0, lost, false);
            }
            self.output(now, out);
        }
        if self.retry == Retry::None && !self.sent.is_empty() {
            self.arm_rto(now);
        }
    }

    /// Asks a peer without room for its window: with a byte that it has (as Linux does).
    fn window_probe(&mut self, now: Time, out: &mut Out) {
        self.probes += 1;
        let limit = if self.orphan { ORPHAN_RETRIES } else { self.set.retries };
        if self.probes > limit {
            self.close_with(Some(self.soft_error.unwrap_or(ETIMEDOUT)), out);
            return;
        }
        let room = (self.snd_una + self.snd_wnd).saturating_sub(self.snd_nxt);
        if room > 0 && self.unsent() > 0 {
            // There is a little room: use it.
            let n = room.min(self.unsent() as u64);
            let at = self.snd_nxt;
            let (pushed, max) = (self.pushed, self.max_wnd);
            self.pushed = self.send.end();
            self.max_wnd = n;
            self.output(now, out);
            (self.pushed, self.max_wnd) = (pushed, max);
            if self.snd_nxt > at {
                return;
            }
        }
        self.send_probe(now, out);
        self.arm_persist(now);
    }

    /// A segment with an old number, which the peer answers.
    fn send_probe(&mut self, now: Time, out: &mut Out) {
        let mut h = self.header(self.snd_una - 1, flags::ACK, now);
        h.window = self.rx.select_window(self.rcv_wscale, self.mss);
        self.stats.segs_out += 1;
        out.segments.push(Segment { header: h, data: Data::new(), gso: 0 });
    }

    fn keepalive(&mut self, now: Time, out: &mut Out) {
        if !self.set.keepalive || !self.synchronized() || self.state == State::TimeWait {
            self.keep_at = None;
            return;
        }
        // Data on the way finds out by itself.
        if !self.sent.is_empty() || self.unsent() > 0 {
            self.keep_at = Some(now + self.set.keep_idle);
            return;
        }
        let idle = now.since(self.last_ack_in.max(self.last_data_in));
        if idle < self.set.keep_idle {
            self.keep_at = Some(now + (self.set.keep_idle - idle));
            return;
        }
        let timed_out = self.set.user_timeout != 0
            && self.keep_probes > 0
            && idle >= self.set.user_timeout + self.set.keep_idle.min(self.set.user_timeout);
        if self.keep_probes >= self.set.keep_count || timed_out {
            self.send_rst(now, out);
            self.close_with(Some(self.soft_error.unwrap_or(ETIMEDOUT)), out);
            return;
        }
        self.keep_probes += 1;
        self.send_probe(now, out);
        self.keep_at = Some(now + self.set.keep_interval);
    }

    /// SO_KEEPALIVE or its times changed.
    pub fn keepalive_changed(&mut self, now: Time) {
        self.keep_at = (self.set.keepalive && self.synchronized()).then(|| {
            let idle = now.since(self.last_ack_in.max(self.last_data_in));
            now + self.set.keep_idle.saturating_sub(idle)
        });
        self.keep_probes = 0;
    }
}
