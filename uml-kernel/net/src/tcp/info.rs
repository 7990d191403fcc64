//! What TCP_INFO and listings tell of a connection (tcp(7)).

use super::State;
use super::tcb::{Phase, Retry, Tcb};
use crate::time::{MS, Time, US};

/// The values of `struct tcp_info`, in its units.
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub options: u8,
    pub snd_wscale: u8,
    pub rcv_wscale: u8,
    /// Microseconds.
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    /// Milliseconds ago.
    pub last_data_sent: u32,
    pub last_data_recv: u32,
    pub last_ack_recv: u32,
    pub pmtu: u32,
    pub rcv_ssthresh: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub delivered: u32,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
}

impl Tcb {
    /// The present values.
    pub fn info(&self, now: Time) -> Info {
        let mss = self.mss as u64;
        let packets = |bytes: u64| u32::try_from(bytes.div_ceil(mss)).unwrap_or(u32::MAX);
        let ago = |t: Time| (now.since(t) / MS) as u32;
        let micros = |ns: u64| u32::try_from(ns / US).unwrap_or(u32::MAX);
        let mut options = 0;
        if self.ts_on {
            options |= 1;
        }
        if self.sack_on {
            options |= 2;
        }
        if self.snd_wscale != 0 || self.rcv_wscale != 0 {
            options |= 4;
        }
        let again: u64 =
            self.sent.iter().filter(|(_, s)| s.again && !s.lost).map(|(a, s)| s.end - a).sum();
        let s = &self.stats;
        Info {
            state: self.state as u8,
            ca_state: match self.phase {
                Phase::Open => u8::from(self.sacked_bytes > 0),
                Phase::Recovery(_) => 3,
                Phase::Loss(_) => 4,
            },
            retransmits: self.retries.min(255) as u8,
            probes: self.probes.max(self.keep_probes).min(255) as u8,
            backoff: self.rtt.backoff.min(255) as u8,
            options,
            snd_wscale: self.snd_wscale,
            rcv_wscale: self.rcv_wscale,
            rto: micros(self.rtt.rto()),
            ato: 40_000,
            snd_mss: self.mss as u32,
            rcv_mss: self.rx.segment_size() as u32,
            unacked: packets(self.snd_nxt - self.snd_una),
            sacked: packets(self.sacked_bytes),
            lost: packets(self.lost_bytes),
            retrans: packets(again),
            last_data_sent: ago(self.last_data_sent),
            last_data_recv: ago(self.last_data_in),
            last_ack_recv: ago(self.last_ack_in),
            pmtu: self.path_mtu as u32,
            rcv_ssthresh: (self.rcvbuf() / 2) as u32,
            rtt: micros(self.rtt.srtt),
            rttvar: micros(self.rtt.var),
            snd_ssthresh: if self.cc.ssthresh > u64::MAX / 4 {
                i32::MAX as u32
            } else {
                packets(self.cc.ssthresh)
            },
            snd_cwnd: packets(self.cc.cwnd),
            advmss: u32::from(self.announced_mss()) - if self.ts_on { 12 } else { 0 },
            reordering: 3,
            rcv_space: self.rx.space_seen() as u32,
            total_retrans: s.total_retrans,
            bytes_acked: s.bytes_acked,
            bytes_received: s.bytes_received,
            segs_out: s.segs_out,
            segs_in: s.segs_in,
            notsent_bytes: self.unsent() as u32,
            min_rtt: if self.rtt.min == u64::MAX { u32::MAX } else { micros(self.rtt.min) },
            data_segs_in: s.data_segs_in,
            data_segs_out: s.data_segs_out,
            delivered: s.delivered,
            bytes_sent: s.bytes_sent,
            bytes_retrans: s.bytes_retrans,
            dsack_dups: s.dsack_dups,
            reord_seen: s.reord_seen,
            snd_wnd: u32::try_from(self.snd_wnd).unwrap_or(u32::MAX),
            rcv_wnd: self.rx.window() as u32,
        }
    }

    /// For /proc/net/tcp: which timer runs (0 none, 1 retransmission, 2 keepalive, 3 TIME_WAIT, 4 zero
    /// window probe) and when it ends.
    pub fn timer(&self) -> (u8, Option<Time>) {
        if self.state == State::TimeWait {
            return (3, self.linger_at);
        }
        match self.retry {
            Retry::Persist => (4, Some(self.retry_at)),
            Retry::None => match self.keep_at {
                Some(t) => (2, Some(t)),
                None => (0, None),
            },
            _ => (1, Some(self.retry_at)),
        }
    }

    /// Retransmissions and probes that are unanswered, for listings.
    pub fn unanswered(&self) -> (u32, u32) {
        (self.retries, self.probes.max(self.keep_probes))
    }
}
