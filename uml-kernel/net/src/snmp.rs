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

/// Messages of ICMP or ICMPv6, also by their types (/proc/net/snmp `Icmp` and `IcmpMsg`, /proc/net/snmp6).
pub struct IcmpCounters {
    pub in_msgs: Counter,
    pub in_errors: Counter,
    pub in_csum_errors: Counter,
    pub out_msgs: Counter,
    /// Messages of the stack that could not go out.
    pub out_errors: Counter,
    /// Not sent because of the limit for all, and for one host.
    pub out_rate_global: Counter,
    pub out_rate_host: Counter,
    in_types: [Counter; 256],
    out_types: [Counter; 256],
}

impl Default for IcmpCounters {
    fn default() -> IcmpCounters {
        let none = || std::array::from_fn(|_| Counter::default());
        IcmpCounters {
            in_msgs: Counter::default(),
            in_errors: Counter::default(),
            in_csum_errors: Counter::default(),
            out_msgs: Counter::default(),
            out_errors: Counter::default(),
            out_rate_global: Counter::default(),
            out_rate_host: Counter::default(),
            in_types: none(),
            out_types: none(),
        }
    }
}

impl IcmpCounters {
    /// A message of type `kind` came in that is none of the errors.
    pub fn received(&self, kind: u8) {
        self.in_types[usize::from(kind)].inc();
    }

    /// A message of type `kind` goes out.
    pub fn sent(&self, kind: u8) {
        self.out_msgs.inc();
        self.out_types[usize::from(kind)].inc();
    }

    /// How many of type `kind` came in and went out.
    pub fn of_type(&self, kind: u8) -> (u64, u64) {
        (self.in_types[usize::from(kind)].get(), self.out_types[usize::from(kind)].get())
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
    pub icmp: IcmpCounters,
    pub icmp6: IcmpCounters,
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

impl Snmp {
    /// Those of ICMP or ICMPv6.
    pub fn icmp_of(&self, v6: bool) -> &IcmpCounters {
        if v6 { &self.icmp6 } else { &self.icmp }
    }
}
