//! Counters of the namespace (/proc/net/snmp, netstat).

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters, named as in /proc/net/snmp.
#[derive(Default)]
pub struct Snmp {
    pub ip_in_receives: Counter,
    pub ip_in_hdr_errors: Counter,
    pub ip_in_addr_errors: Counter,
    pub ip_forw_datagrams: Counter,
    pub ip_in_unknown_protos: Counter,
    pub ip_in_discards: Counter,
    pub ip_in_delivers: Counter,
    pub ip_out_requests: Counter,
    pub ip_out_discards: Counter,
    pub ip_out_no_routes: Counter,
    pub ip_reasm_reqds: Counter,
    pub ip_reasm_oks: Counter,
    pub ip_reasm_fails: Counter,
    pub ip_frag_oks: Counter,
    pub ip_frag_creates: Counter,
    pub ip_frag_fails: Counter,
    pub icmp_in_msgs: Counter,
    pub icmp_in_errors: Counter,
    pub icmp_in_csum_errors: Counter,
    pub icmp_out_msgs: Counter,
    pub tcp_active_opens: Counter,
    pub tcp_passive_opens: Counter,
    pub tcp_attempt_fails: Counter,
    pub tcp_estab_resets: Counter,
    pub tcp_in_segs: Counter,
    pub tcp_out_segs: Counter,
    pub tcp_retrans_segs: Counter,
    pub tcp_in_errs: Counter,
    pub tcp_out_rsts: Counter,
    pub tcp_in_csum_errors: Counter,
    pub tcp_listen_overflows: Counter,
    pub tcp_syncookies_sent: Counter,
    pub tcp_syncookies_recv: Counter,
    pub udp_in_datagrams: Counter,
    pub udp_no_ports: Counter,
    pub udp_in_errors: Counter,
    pub udp_out_datagrams: Counter,
    pub udp_rcvbuf_errors: Counter,
    pub udp_in_csum_errors: Counter,
}
