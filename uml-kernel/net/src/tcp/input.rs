//! Arriving segments (RFC 9293 3.10.7, RFC 7323, RFC 5961).

use uml_abi::errno::*;
use uml_base::Events;

use super::seq::{self, Seq};
use super::tcb::{Handshake, Retry, Tcb, scale_for};
use super::timers::PROBE_MIN;
use super::{Out, State};
use crate::packet::Data;
use crate::time::{MS, SEC, Time};
use crate::wire::tcp::{Tcp, flags};

/// After so long a pause timestamps do not tell old from new (RFC 7323 5.5).
const PAWS_IDLE: u64 = 24 * 24 * 3600 * SEC;
/// Least time between two answers to segments that fit nowhere (RFC 5961 7; Linux's tcp_invalid_ratelimit): ends that do not
/// agree must not answer each other's answers for ever.
const INVALID_RATE: u64 = 500 * MS;

impl Tcb {
    /// Takes a segment of this connection; `data` is what follows its header.
    pub fn input(&mut self, h: &Tcp, data: Data, now: Time, out: &mut Out) {
        self.stats.segs_in += 1;
        match self.state {
            State::Closed | State::Listen => {}
            State::SynSent => self.input_syn_sent(h, data, now, out),
            _ => self.input_synchronized(h, data, now, out),
        }
    }

    fn input_syn_sent(&mut self, h: &Tcp, data: Data, now: Time, out: &mut Out) {
        let ack = seq::unwrap(self.snd_nxt, h.ack);
        let acks = h.has(flags::ACK);
        if acks && (ack <= self.iss || ack > self.snd_nxt) {
            if self.retries == 0 {
                // The peer has an old connection there, which our answer ends: the SYN goes again soon.
                self.retry = Retry::Rto;
                self.retry_at = now + PROBE_MIN;
            }
            if !h.has(flags::RST) {
                self.refuse(ack, out);
            }
            return;
        }
        if h.has(flags::RST) {
            if acks {
                self.close_with(Some(ECONNREFUSED), out);
            }
            return;
        }
        if !h.has(flags::SYN) {
            return;
        }
        let mut said = Handshake::of(h, &self.set);
        said.rcv_wscale = scale_for(&self.set);
        // Unanswered options are off.
        if !self.ts_on {
            said.timestamp = None;
        }
        self.peer_said(&said, now);
        self.rx.next = seq::initial(h.seq) + 1;
        self.rx.advertised = self.rx.next + self.rx.initial_window() as u64;
        self.rx.start(self.mss, now);
        self.snd_wnd = u64::from(h.window);
        self.max_wnd = self.snd_wnd;
        self.wl1 = self.rx.next - 1;
        self.wl2 = ack;
        if acks {
            // The SYN counts, as with Linux.
            self.stats.bytes_acked += ack - self.snd_una;
            self.snd_una = ack;
            self.established(now, out);
            self.must_ack();
            self.receive_rest(h, data, now, out);
        } else {
            // Simultaneous open (RFC 9293 3.5).
            self.state = State::SynRecv;
            self.send_syn(now, out);
            self.rx.acknowledged();
        }
    }

    fn receive_rest(&mut self, h: &Tcp, data: Data, now: Time, out: &mut Out) {
        if !data.is_empty() || h.has(flags::FIN) {
            let at = self.rx.next;
            self.receive_data(at, data, h.has(flags::FIN), now, out);
        }
        self.output(now, out);
        self.acknowledge(now, out);
    }

    /// The handshake is complete.
    fn established(&mut self, now: Time, out: &mut Out) {
        if self.retries == 0 && !self.rtt.known() {
            let rtt = now.since(self.last_sent).max(1);
            if self.state == State::SynSent {
                self.rtt.sample(rtt, now);
            }
        }
        if self.retries > 1 {
            // A lost SYN: start with one segment (RFC 6298 5.7, RFC 5681 3.1).
            self.cc.cwnd = self.mss as u64;
        }
        self.state = if self.fin_queued { State::FinWait1 } else { State::Established };
        self.retries = 0;
        self.rtt.backoff = 0;
        self.retry = Retry::None;
        self.retry_at = Time::NEVER;
        self.first_loss_at = None;
        self.soft_error = None;
        self.small_end = self.snd_una;
        if self.set.keepalive {
            self.keep_at = Some(now + self.set.keep_idle);
        }
        out.events |= Events::WRITABLE;
    }

    /// An acknowledgement that proves we are alive and says where we stand (RFC 5961), few of them.
    pub(super) fn challenge(&mut self, now: Time, out: &mut Out) {
        if now.since(self.challenge_at) >= INVALID_RATE {
            self.challenge_at = now;
            self.send_ack(now, out);
        }
    }

    /// A segment `at..end` outside of the window, or an old one: its sender is told where we stand and what came twice
    /// (RFC 2883). Data is always answered, as its sender waits for that.
    fn out_of_place(&mut self, at: Seq, end: Seq, data: &Data, now: Time, out: &mut Out) {
        if at < self.rx.next && end > at {
            self.rx.duplicate(at, end.min(self.rx.next));
        }
        if data.is_empty() {
            self.challenge(now, out);
        } else {
            self.send_ack(now, out);
        }
    }

    /// An acknowledgement that was overtaken by what follows it, and says nothing new.
    fn overtaken(&self, h: &Tcp, at: Seq, val: u32) -> bool {
        let window = u64::from(h.window) << self.snd_wscale;
        at == self.rx.next
            && seq::unwrap(self.snd_una, h.ack) == self.snd_una
            && at == self.wl1
            && window <= self.snd_wnd
            && u64::from(self.ts_recent.wrapping_sub(val)) * MS <= self.rtt.base_rto()
    }

    fn input_synchronized(&mut self, h: &Tcp, data: Data, now: Time, out: &mut Out) {
        let at: Seq = seq::unwrap(self.rx.next, h.seq);
        let fin = h.has(flags::FIN);
        let syn = h.has(flags::SYN);
        let end = at + data.len() as u64 + u64::from(fin) + u64::from(syn);

        // A SYN+ACK or SYN of the handshake again: our answer was lost.
        if self.state == State::SynRecv && syn && at + 1 == self.rx.next && !h.has(flags::RST) {
            if h.has(flags::ACK) {
                self.handshake_ack(h, at, now, out);
                self.rx.duplicate(at, at + 1);
                self.must_ack();
                self.acknowledge(now, out);
            } else {
                self.send_syn(now, out);
            }
            return;
        }

        let ts = h.options.timestamp.filter(|_| self.ts_on);
        if let Some((val, _)) = ts
            && (val.wrapping_sub(self.ts_recent) as i32) < 0
            && now.since(self.ts_recent_at) < PAWS_IDLE
            && !h.has(flags::RST)
        {
            // An old duplicate (RFC 7323 5).
            if !(end == at && self.overtaken(h, at, val)) {
                self.out_of_place(at, end, &data, now, out);
            }
            return;
        }
        // Acceptable: not wholly before what was acknowledged, not beyond the window.
        let edge = self.rx.advertised.max(self.rx.next);
        if end < self.rx.acked || at > edge {
            if !h.has(flags::RST) {
                self.out_of_place(at, end, &data, now, out);
            }
            return;
        }
        if h.has(flags::RST) {
            if at == self.rx.next {
                let e = match self.state {
                    State::SynRecv => ECONNREFUSED,
                    State::CloseWait => EPIPE,
                    _ => ECONNRESET,
                };
                let silent = matches!(self.state, State::TimeWait);
                self.close_with((!silent).then_some(e), out);
            } else {
                self.challenge(now, out);
            }
            return;
        }
        if syn {
            self.challenge(now, out);
            return;
        }
        if !h.has(flags::ACK) {
            return;
        }
        if let Some((val, _)) = ts
            && at <= self.rx.acked
            && (val.wrapping_sub(self.ts_recent) as i32) >= 0
        {
            self.ts_recent = val;
            self.ts_recent_at = now;
        }
        if self.state == State::SynRecv && !self.handshake_ack(h, at, now, out) {
            return;
        }
        if !self.process_ack(h, at, data.len(), now, out) {
            return;
        }
        if self.state == State::Closed {
            return;
        }
        self.keep_probes = 0;
        if self.set.keepalive && self.keep_at.is_some() {
            self.keep_at = Some(now + self.set.keep_idle);
        }
        if self.state == State::TimeWait {
            if fin {
                self.begin_time_wait(now);
                self.challenge(now, out);
            }
            return;
        }
        if h.has(flags::URG) && !self.rx.fin_reached() {
            self.urgent_pointer(at, h.urgent, out);
        }
        if !data.is_empty() || fin {
            if self.orphan && at + data.len() as u64 > self.rx.next && !data.is_empty() {
                // Data for a program that is gone (RFC 9293 3.10.4).
                self.refuse(seq::unwrap(self.snd_una, h.ack), out);
                self.close_with(None, out);
                return;
            }
            if self.rx.fin_reached() {
                self.must_ack();
            } else {
                self.receive_data(at, data, fin, now, out);
            }
        } else if at < self.rx.next {
            // A keepalive or zero-window probe: a byte that was here before.
            self.must_ack();
        }
        self.output(now, out);
        self.acknowledge(now, out);
    }

    /// The acknowledgement of our SYN; false when it was none.
    fn handshake_ack(&mut self, h: &Tcp, at: Seq, now: Time, out: &mut Out) -> bool {
        let ack = seq::unwrap(self.snd_nxt, h.ack);
        if ack <= self.iss || ack > self.snd_nxt {
            self.refuse(ack, out);
            return false;
        }
        self.snd_una = self.snd_una.max(self.iss + 1);
        self.snd_wnd = u64::from(h.window) << self.snd_wscale;
        self.max_wnd = self.max_wnd.max(self.snd_wnd);
        self.wl1 = at;
        self.wl2 = ack;
        if let Some((_, ecr)) = h.options.timestamp.filter(|_| self.ts_on)
            && ecr != 0
            && !self.rtt.known()
        {
            let ms = u64::from(self.timestamp(now).wrapping_sub(ecr));
            self.rtt.sample(ms.min(60_000) * crate::time::MS, now);
        }
        self.established(now, out);
        out.events |= Events::READABLE;
        true
    }

    /// The other side's FIN, and everything before it, has arrived.
    pub(super) fn fin_arrived(&mut self, now: Time, out: &mut Out) {
        out.events |= Events::READABLE | Events::RDHUP | Events::HUP;
        match self.state {
            State::Established | State::SynRecv => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => {
                self.state = State::TimeWait;
                self.begin_time_wait(now);
            }
            _ => {}
        }
        self.pingpong();
    }

    /// Starts or restarts the 2 MSL wait.
    pub(super) fn begin_time_wait(&mut self, now: Time) {
        self.retry = Retry::None;
        self.retry_at = Time::NEVER;
        self.keep_at = None;
        self.linger_at = Some(now + super::timers::TIME_WAIT);
    }
}
