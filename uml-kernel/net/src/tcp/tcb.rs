//! A connection's state: what is set, what is known of the peer, and the calls of programs.

use std::collections::BTreeMap;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;

use super::congestion::{Algorithm, Congestion};
use super::receive::Receive;
use super::recovery::Rack;
use super::rtt::Rtt;
use super::send::SendQueue;
use super::seq::{self, Seq};
use super::{Failure, Out, State};
use crate::packet::Frag;
use crate::time::{SEC, Time};
use crate::wire::tcp::{self as wire, Tcp, flags};

/// What programs set on a socket (tcp(7), socket(7)). Times are nanoseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    pub nodelay: bool,
    pub cork: bool,
    pub quickack: Option<bool>,
    pub keepalive: bool,
    pub keep_idle: u64,
    pub keep_interval: u64,
    pub keep_count: u32,
    pub user_timeout: u64,
    /// TCP_MAXSEG; 0 is no limit.
    pub max_segment: usize,
    pub oob_inline: bool,
    /// TCP_LINGER2: how long FIN_WAIT2 lasts for a closed socket; negative is "not at all".
    pub fin_timeout: i64,
    pub syn_retries: u32,
    /// TCP_NOTSENT_LOWAT.
    pub notsent_lowat: usize,
    pub window_clamp: usize,
    pub congestion: Algorithm,
    pub sndbuf: usize,
    pub sndbuf_locked: bool,
    pub rcvbuf: usize,
    pub rcvbuf_locked: bool,
    pub rcv_lowat: usize,
    pub timestamps: bool,
    pub sack: bool,
    pub window_scaling: bool,
    /// Retransmissions before an established connection is given up (tcp_retries2).
    pub retries: u32,
    /// SO_MAX_PACING_RATE is kept only.
    pub pacing: u64,
}

/// Defaults of buffers (tcp_wmem, tcp_rmem).
pub const SNDBUF: usize = 16_384;
pub const SNDBUF_MAX: usize = 4 << 20;
pub const RCVBUF: usize = 131_072;
pub const RCVBUF_MAX: usize = 6 << 20;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            nodelay: false,
            cork: false,
            quickack: None,
            keepalive: false,
            keep_idle: 7200 * SEC,
            keep_interval: 75 * SEC,
            keep_count: 9,
            user_timeout: 0,
            max_segment: 0,
            oob_inline: false,
            fin_timeout: 60 * SEC as i64,
            syn_retries: 6,
            notsent_lowat: usize::MAX,
            window_clamp: 0,
            congestion: Algorithm::default(),
            sndbuf: SNDBUF,
            sndbuf_locked: false,
            rcvbuf: RCVBUF,
            rcvbuf_locked: false,
            rcv_lowat: 1,
            timestamps: true,
            sack: true,
            window_scaling: true,
            retries: 15,
            pacing: u64::MAX,
        }
    }
}

/// A sent piece of the stream that is not acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub end: Seq,
    /// When it was last sent.
    pub at: Time,
    pub sacked: bool,
    /// Thought lost and not sent again since.
    pub lost: bool,
    /// Sent more than once.
    pub again: bool,
}

/// What the congestion state machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// Fast recovery until everything up to the point is acknowledged.
    Recovery(Seq),
    /// After a timeout.
    Loss(Seq),
}

/// Which way of sending again is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    None,
    /// Retransmission timeout.
    Rto,
    /// Tail loss probe.
    Probe,
    /// RACK's reordering window.
    Reorder,
    /// Zero-window probe.
    Persist,
}

/// Counters for TCP_INFO.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub data_segs_out: u32,
    pub data_segs_in: u32,
    pub total_retrans: u32,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub delivered: u32,
}

/// One connection.
pub struct Tcb {
    pub set: Settings,
    pub state: State,
    /// A program asked for the end of its sending side.
    pub shut_write: bool,
    pub shut_read: bool,
    /// No descriptor refers to it any more.
    pub orphan: bool,
    pub error: Failure,
    /// Reported once everything else failed (ICMP errors).
    pub soft_error: Failure,

    pub(super) iss: Seq,
    pub(super) snd_una: Seq,
    pub(super) snd_nxt: Seq,
    pub(super) snd_wnd: u64,
    pub(super) wl1: Seq,
    pub(super) wl2: Seq,
    pub(super) max_wnd: u64,
    /// End of the last segment smaller than the MSS.
    pub(super) small_end: Seq,
    pub(super) urgent_up: Option<Seq>,
    pub(super) send: SendQueue,
    pub(super) sent: BTreeMap<Seq, Sent>,
    pub(super) sacked_bytes: u64,
    pub(super) lost_bytes: u64,
    pub(super) fin_queued: bool,
    /// Bytes up to here go out without waiting for a full segment.
    pub(super) pushed: Seq,
    pub(super) cork_deadline: Option<Time>,

    /// Payload of a full segment.
    pub(super) mss: usize,
    pub(super) peer_mss: usize,
    pub(super) path_mtu: usize,
    /// Bytes of the network header.
    pub(super) net_header: usize,
    pub(super) gso_max: usize,
    pub(super) snd_wscale: u8,
    pub(super) rcv_wscale: u8,
    pub(super) ts_on: bool,
    pub(super) ts_offset: u32,
    pub(super) ts_recent: u32,
    pub(super) ts_recent_at: Time,
    pub(super) sack_on: bool,

    pub(super) rx: Receive,

    pub(super) rtt: Rtt,
    pub cc: Congestion,
    pub(super) phase: Phase,
    pub(super) rack: Rack,
    pub(super) dupacks: u32,
    pub(super) cwnd_limited: bool,
    pub(super) max_flight: u64,
    pub(super) prr_delivered: u64,
    pub(super) prr_out: u64,
    pub(super) recover_flight: u64,
    pub(super) retrans_stamp: u32,
    pub(super) probe_end: Option<Seq>,
    pub(super) retries: u32,
    pub(super) first_loss_at: Option<Time>,
    pub(super) probes: u32,

    pub(super) retry: Retry,
    pub(super) retry_at: Time,
    pub(super) keep_at: Option<Time>,
    pub(super) keep_probes: u32,
    pub(super) linger_at: Option<Time>,
    pub(super) last_sent: Time,
    pub(super) last_data_sent: Time,
    pub(super) last_ack_in: Time,
    pub(super) last_data_in: Time,
    /// When a segment that fits nowhere was last answered.
    pub(super) challenge_at: Time,
    pub stats: Stats,
}

/// What opens a connection: the segment sizes of the path and a random start.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub iss: u32,
    pub ts_offset: u32,
    /// Bytes of an IP packet on the way out.
    pub mtu: usize,
    /// Bytes of the IP header.
    pub net_header: usize,
    /// Largest data of a segment that the device cuts; 0 when it does not.
    pub gso_max: usize,
}

/// What a listener remembers of a SYN (also all that a cookie holds).
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    pub irs: u32,
    pub peer_mss: u16,
    pub wscale: Option<u8>,
    pub rcv_wscale: u8,
    pub timestamp: Option<u32>,
    pub sack: bool,
    pub window: u16,
}

impl Handshake {
    /// From a SYN.
    pub fn of(syn: &Tcp, set: &Settings) -> Handshake {
        let o = &syn.options;
        let scale = o.wscale.filter(|_| set.window_scaling);
        Handshake {
            irs: syn.seq,
            peer_mss: o.mss.unwrap_or(536).max(64),
            wscale: scale,
            rcv_wscale: if scale.is_some() { scale_for(set) } else { 0 },
            timestamp: o.timestamp.filter(|_| set.timestamps).map(|t| t.0),
            sack: o.sack_permitted && set.sack,
            window: syn.window,
        }
    }

    /// The options of the answer.
    pub fn reply_options(&self, mss: u16, ts: u32) -> wire::Options {
        wire::Options {
            mss: Some(mss),
            wscale: self.wscale.map(|_| self.rcv_wscale),
            sack_permitted: self.sack,
            timestamp: self.timestamp.map(|t| (ts, t)),
            ..wire::Options::default()
        }
    }
}

/// The window shift that lets the largest buffer be used.
pub fn scale_for(set: &Settings) -> u8 {
    let max = if set.rcvbuf_locked { set.rcvbuf } else { RCVBUF_MAX.max(set.rcvbuf) };
    let mut s = 0;
    while (max >> s) > 65_535 && s < 14 {
        s += 1;
    }
    s
}

impl Tcb {
    fn new(set: Settings, path: &Path, now: Time) -> Tcb {
        let iss = seq::initial(path.iss);
        let rx = Receive::new(set.rcvbuf);
        let algorithm = set.congestion;
        let mut t = Tcb {
            set,
            state: State::Closed,
            shut_write: false,
            shut_read: false,
            orphan: false,
            error: None,
            soft_error: None,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            wl1: 0,
            wl2: 0,
            max_wnd: 0,
            small_end: iss,
            urgent_up: None,
            send: SendQueue::new(iss + 1),
            sent: BTreeMap::new(),
            sacked_bytes: 0,
            lost_bytes: 0,
            fin_queued: false,
            pushed: iss,
            cork_deadline: None,
            mss: 536,
            peer_mss: 536,
            path_mtu: path.mtu,
            net_header: path.net_header,
            gso_max: path.gso_max,
            snd_wscale: 0,
            rcv_wscale: 0,
            ts_on: false,
            ts_offset: path.ts_offset,
            ts_recent: 0,
            ts_recent_at: Time(0),
            sack_on: false,
            rx,
            rtt: Rtt::default(),
            cc: Congestion::new(algorithm, 536),
            phase: Phase::Open,
            rack: Rack::default(),
            dupacks: 0,
            cwnd_limited: false,
            max_flight: 0,
            prr_delivered: 0,
            prr_out: 0,
            recover_flight: 0,
            retrans_stamp: 0,
            probe_end: None,
            retries: 0,
            first_loss_at: None,
            probes: 0,
            retry: Retry::None,
            retry_at: Time::NEVER,
            keep_at: None,
            keep_probes: 0,
            linger_at: None,
            last_sent: now,
            last_data_sent: now,
            last_ack_in: now,
            last_data_in: now,
            challenge_at: Time(0),
            stats: Stats::default(),
        };
        t.update_mss();
        t
    }

    /// Active open: sends a SYN.
    pub fn connect(set: Settings, path: &Path, now: Time, out: &mut Out) -> Tcb {
        let mut t = Tcb::new(set, path, now);
        t.state = State::SynSent;
        t.ts_on = t.set.timestamps;
        t.sack_on = t.set.sack;
        t.rcv_wscale = if t.set.window_scaling { scale_for(&t.set) } else { 0 };
        t.send_syn(now, out);
        t.arm_rto(now);
        t
    }

    /// Passive open: the handshake that `h` began was completed by `ack`; `iss` in `path` is what the
    /// SYN+ACK said.
    pub fn accept(set: Settings, path: &Path, h: &Handshake, now: Time) -> Tcb {
        let mut t = Tcb::new(set, path, now);
        t.state = State::SynRecv;
        t.snd_nxt = t.iss + 1;
        t.peer_said(h, now);
        t.rx.next = seq::initial(h.irs) + 1;
        t.rx.start(t.mss, now);
        t.rx.acked = t.rx.next;
        t.rx.advertised = t.rx.next + t.rx.initial_window() as u64;
        t.snd_wnd = u64::from(h.window);
        t.max_wnd = t.snd_wnd;
        t.wl1 = t.rx.next;
        t.wl2 = t.iss;
        t
    }

    /// The answer to the SYN was sent once, and acknowledged after so many nanoseconds.
    pub fn handshake_took(&mut self, ns: u64, now: Time) {
        self.rtt.sample(ns, now);
    }

    /// Answers a SYN with state at once: the SYN+ACK goes out, again and again until it is acknowledged.
    pub fn answer(set: Settings, path: &Path, h: &Handshake, now: Time, out: &mut Out) -> Tcb {
        let mut t = Tcb::accept(set, path, h, now);
        t.send_syn(now, out);
        t.rx.acknowledged();
        t.arm_rto(now);
        t
    }

    /// Takes over what the peer's SYN said.
    pub(super) fn peer_said(&mut self, h: &Handshake, now: Time) {
        self.peer_mss = usize::from(h.peer_mss);
        self.sack_on = h.sack;
        match h.wscale {
            Some(s) => {
                self.snd_wscale = s;
                self.rcv_wscale = h.rcv_wscale;
            }
            None => (self.snd_wscale, self.rcv_wscale) = (0, 0),
        }
        self.ts_on = h.timestamp.is_some();
        if let Some(v) = h.timestamp {
            self.ts_recent = v;
            self.ts_recent_at = now;
        }
        self.update_mss();
        self.cc = Congestion::new(self.set.congestion, self.mss as u64);
    }

    /// The segment size that path, peer and program allow.
    pub(super) fn update_mss(&mut self) {
        let of_path = self.path_mtu.saturating_sub(self.net_header + wire::HEADER);
        let mut m = of_path.min(self.peer_mss);
        if self.set.max_segment != 0 {
            m = m.min(self.set.max_segment);
        }
        if self.ts_on {
            m = m.saturating_sub(12);
        }
        self.mss = m.max(48);
    }

    /// Network headers have another length from now on.
    pub fn set_net_header(&mut self, bytes: usize) {
        self.net_header = bytes;
        self.update_mss();
    }

    /// MSS that a SYN announces.
    pub fn announced_mss(&self) -> u16 {
        announce(self.path_mtu, self.net_header, &self.set)
    }

    /// Payload of a full segment.
    pub fn mss(&self) -> usize {
        self.mss
    }

    /// The path carries at most `mtu` bytes now: segments that are too large go out again.
    pub fn set_path_mtu(&mut self, mtu: usize, now: Time, out: &mut Out) {
        let shrunk = mtu < self.path_mtu;
        self.path_mtu = mtu;
        self.update_mss();
        if shrunk && self.synchronized() {
            self.mark_all_lost();
            self.output(now, out);
        }
    }

    /// Settings were changed from outside.
    pub fn settings_changed(&mut self, now: Time, out: &mut Out) {
        self.receive_settings_changed();
        self.update_mss();
        self.cc.algorithm = self.set.congestion;
        if self.set.keepalive != self.keep_at.is_some() || self.set.keepalive {
            self.keepalive_changed(now);
        }
        if !self.set.cork {
            self.push_pending(now, out);
        }
        self.window_update(now, out);
        self.wake_writers(out);
    }

    /// Numbers that TIME_WAIT needs: next to send and to receive, and the timestamp state.
    pub(crate) fn closing_numbers(&self) -> (u32, u32, u32, Time, u32, bool) {
        (
            self.snd_nxt as u32,
            self.rx.next as u32,
            self.ts_recent,
            self.ts_recent_at,
            self.ts_offset,
            self.ts_on,
        )
    }

    /// The three-way handshake is over.
    pub fn synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynRecv | State::Closed | State::Listen)
    }

    /// Bytes written that the peer has not acknowledged.
    pub fn unacked(&self) -> usize {
        self.send.len()
    }

    /// Bytes written that were not sent yet (SIOCOUTQNSD).
    pub fn unsent(&self) -> usize {
        self.send.end().saturating_sub(self.snd_nxt.max(self.iss + 1)) as usize
    }

    /// Whether a write may begin, and how many bytes it may put in.
    pub fn room(&self) -> Result<usize> {
        if let Some(e) = self.error {
            return Err(e);
        }
        match self.state {
            State::SynSent | State::SynRecv => return Err(EAGAIN),
            State::Established | State::CloseWait if !self.shut_write => {}
            _ => return Err(EPIPE),
        }
        let free = self.sndbuf().saturating_sub(self.send.len());
        if free == 0 || self.unsent() >= self.set.notsent_lowat {
            return Err(EAGAIN);
        }
        Ok(free)
    }

    /// Effective send buffer: grows with the congestion window unless the program fixed it.
    pub fn sndbuf(&self) -> usize {
        if self.set.sndbuf_locked {
            return self.set.sndbuf;
        }
        let want = usize::try_from(self.cc.cwnd).unwrap_or(usize::MAX).saturating_mul(2);
        self.set.sndbuf.max(want.min(SNDBUF_MAX))
    }

    /// A writer that waits may be told: a third of the buffer is free.
    pub fn writable(&self) -> bool {
        self.send.len() * 3 <= self.sndbuf() * 2 && self.unsent() < self.set.notsent_lowat
    }

    /// Appends data of a write; `more` says that it will go on (MSG_MORE), `urgent` that the last byte is
    /// urgent (MSG_OOB). The caller has asked [`Tcb::room`].
    pub fn write(&mut self, data: Vec<Frag>, more: bool, urgent: bool, now: Time, out: &mut Out) {
        for f in data {
            self.send.push(f);
        }
        if urgent {
            self.urgent_up = Some(self.send.end());
            self.pushed = self.send.end();
        }
        if !more && !self.set.cork {
            self.pushed = self.send.end();
            self.cork_deadline = None;
        } else if self.cork_deadline.is_none() {
            // Linux waits for a timeout's time, not for the 200 ms of tcp(7).
            self.cork_deadline = Some(now + self.rtt.base_rto());
        }
        self.output(now, out);
    }

    /// Sends what a cork or Nagle held back (TCP_NODELAY set, TCP_CORK cleared).
    pub fn push_pending(&mut self, now: Time, out: &mut Out) {
        self.pushed = self.send.end();
        self.cork_deadline = None;
        self.output(now, out);
    }

    /// shutdown(2) of the sending side: FIN after what is queued.
    pub fn finish(&mut self, now: Time, out: &mut Out) {
        if self.shut_write {
            return;
        }
        self.shut_write = true;
        match self.state {
            State::Established | State::SynRecv => self.state = State::FinWait1,
            State::CloseWait => self.state = State::LastAck,
            State::SynSent => {
                self.close_with(None, out);
                return;
            }
            _ => return,
        }
        self.fin_queued = true;
        self.pushed = self.send.end();
        self.cork_deadline = None;
        out.events |= Events::ALL;
        self.output(now, out);
    }

    /// The last descriptor is closed. Unread data, or a linger time of zero (`abort`), end the
    /// connection by RST (RFC 9293 3.10.4, RFC 2525 2.17).
    pub fn close(&mut self, abort: bool, now: Time, out: &mut Out) {
        self.orphan = true;
        self.shut_read = true;
        let unread = self.rx.readable() > 0;
        match self.state {
            State::Closed | State::Listen | State::TimeWait => {}
            State::SynSent => self.close_with(None, out),
            _ if abort || unread => {
                self.send_rst(now, out);
                self.close_with(None, out);
            }
            _ => {
                self.rx.clear();
                self.finish(now, out);
                if self.state == State::FinWait2 {
                    self.begin_fin_wait2(now, out);
                }
            }
        }
    }

    /// An orphan waits only so long for the other side's FIN.
    pub(super) fn begin_fin_wait2(&mut self, now: Time, out: &mut Out) {
        if !self.orphan {
            return;
        }
        if self.set.fin_timeout < 0 {
            self.send_rst(now, out);
            self.close_with(None, out);
        } else {
            self.linger_at = Some(now + self.set.fin_timeout as u64);
        }
    }

    /// connect(2) with AF_UNSPEC, and other sudden ends asked for by the program.
    pub fn abort(&mut self, now: Time, out: &mut Out) {
        if !matches!(self.state, State::Closed | State::SynSent | State::TimeWait) {
            self.send_rst(now, out);
        }
        self.close_with(None, out);
    }

    /// The connection ends for a reason that is not the program's (SOCK_DESTROY): the other side is told, the program by `errno`.
    pub fn destroy(&mut self, errno: Errno, now: Time, out: &mut Out) {
        if !matches!(self.state, State::Closed | State::SynSent | State::TimeWait) {
            self.send_rst(now, out);
        }
        self.close_with(Some(errno), out);
    }

    /// The connection is over.
    pub(super) fn close_with(&mut self, error: Failure, out: &mut Out) {
        self.state = State::Closed;
        if self.error.is_none() {
            self.error = error;
        }
        self.shut_write = true;
        self.shut_read = true;
        self.sent.clear();
        self.sacked_bytes = 0;
        self.lost_bytes = 0;
        self.send.clear();
        self.retry = Retry::None;
        self.retry_at = Time::NEVER;
        self.keep_at = None;
        self.linger_at = None;
        self.cork_deadline = None;
        self.rx.ack_at = None;
        out.events |= Events::ALL;
    }

    /// An ICMP error about this connection (RFC 5927): hard ones end a connection that is being opened.
    pub fn icmp_error(&mut self, e: Errno, out: &mut Out) {
        match self.state {
            State::SynSent | State::SynRecv => self.close_with(Some(e), out),
            _ => self.soft_error = Some(e),
        }
    }

    /// True when `seq` lies in what is sent and not acknowledged: an ICMP error that quotes another
    /// number is not about this connection.
    pub fn quotes(&self, s: u32) -> bool {
        let s = seq::unwrap(self.snd_una, s);
        (self.snd_una..=self.snd_nxt).contains(&s)
    }

    /// Readiness for poll(2).
    pub fn events(&self) -> Events {
        let mut e = Events::ERR.when(self.error.is_some());
        match self.state {
            State::SynSent | State::SynRecv => return e,
            _ => {}
        }
        let both = self.shut_read && self.shut_write;
        e |= Events::HUP.when(both || self.state == State::Closed);
        e |= (Events::RDHUP | Events::READABLE).when(self.shut_read || self.rx.fin_reached());
        let low = self.set.rcv_lowat.min(self.rx.buffer() / 2).max(1);
        e |= Events::READABLE.when(self.rx.readable() >= low);
        e |= Events::WRITABLE.when(self.shut_write || self.writable());
        e |= Events::PRI.when(self.rx.urgent_pending());
        e
    }

    /// A header for this connection: ports and checksum are the caller's.
    pub(super) fn header(&self, seq: Seq, flag: u8, now: Time) -> Tcp {
        let mut options = wire::Options::default();
        if self.ts_on {
            options.timestamp = Some((self.timestamp(now), self.ts_recent));
        }
        Tcp {
            src: 0,
            dst: 0,
            seq: seq as u32,
            ack: if flag & flags::ACK != 0 { self.rx.next as u32 } else { 0 },
            flags: flag,
            window: 0,
            checksum: 0,
            urgent: 0,
            header_len: 0,
            options,
        }
    }

    /// Our timestamp clock: milliseconds.
    pub(super) fn timestamp(&self, now: Time) -> u32 {
        (now.millis() as u32).wrapping_add(self.ts_offset)
    }
}

/// MSS that a SYN announces for a path.
pub fn announce(mtu: usize, net_header: usize, set: &Settings) -> u16 {
    let mut m = mtu.saturating_sub(net_header + wire::HEADER);
    if set.max_segment != 0 {
        m = m.min(set.max_segment);
    }
    m.min(65_535) as u16
}
