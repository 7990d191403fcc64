//! Counters of the namespace (/proc/net/snmp, netstat).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::interface::Interface;
use crate::stack::Stack;

/// One counter.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
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

/// Packets of IPv4 or IPv6, named as in /proc/net/snmp and /proc/net/snmp6.
#[derive(Default)]
pub struct IpCounters {
    pub in_receives: Counter,
    pub in_hdr_errors: Counter,
    pub in_too_big_errors: Counter,
    pub in_no_routes: Counter,
    pub in_addr_errors: Counter,
    pub in_unknown_protos: Counter,
    pub in_truncated: Counter,
    pub in_discards: Counter,
    pub in_delivers: Counter,
    pub forw_datagrams: Counter,
    pub out_requests: Counter,
    pub out_discards: Counter,
    pub out_no_routes: Counter,
    pub out_transmits: Counter,
    pub reasm_timeout: Counter,
    pub reasm_reqds: Counter,
    pub reasm_oks: Counter,
    pub reasm_fails: Counter,
    pub frag_oks: Counter,
    pub frag_creates: Counter,
    pub frag_fails: Counter,
    pub in_mcast_pkts: Counter,
    pub out_mcast_pkts: Counter,
    pub in_octets: Counter,
    pub out_octets: Counter,
    pub in_mcast_octets: Counter,
    pub out_mcast_octets: Counter,
    /// By the two bits of ECN: not capable, ECT(1), ECT(0), congestion experienced.
    pub in_ecn: [Counter; 4],
}

/// What an interface counts of IPv6.
#[derive(Default)]
pub struct SixCounters {
    pub ip: IpCounters,
    pub icmp: IcmpCounters,
}

/// Datagrams of UDP over IPv4 or IPv6.
#[derive(Default)]
pub struct UdpCounters {
    pub in_datagrams: Counter,
    pub no_ports: Counter,
    pub in_errors: Counter,
    pub out_datagrams: Counter,
    pub rcvbuf_errors: Counter,
    pub in_csum_errors: Counter,
}

/// The counters, named as in /proc/net/snmp.
#[derive(Default)]
pub struct Snmp {
    pub ip: IpCounters,
    pub ip6: IpCounters,
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
    pub udp: UdpCounters,
    pub udp6: UdpCounters,
    pub udplite: UdpCounters,
    pub udplite6: UdpCounters,
}

impl Snmp {
    /// Those of IPv4 or IPv6.
    pub fn ip_of(&self, v6: bool) -> &IpCounters {
        if v6 { &self.ip6 } else { &self.ip }
    }

    /// Those of UDP, or of UDP-Lite, over IPv4 or IPv6.
    pub fn udp_of(&self, v6: bool, lite: bool) -> &UdpCounters {
        match (v6, lite) {
            (false, false) => &self.udp,
            (true, false) => &self.udp6,
            (false, true) => &self.udplite,
            (true, true) => &self.udplite6,
        }
    }

    /// Those of ICMP or ICMPv6.
    pub fn icmp_of(&self, v6: bool) -> &IcmpCounters {
        if v6 { &self.icmp6 } else { &self.icmp }
    }
}

impl Stack {
    /// Counts something of IPv4 or IPv6: of the latter for the interface, too.
    pub(crate) fn count_ip(&self, v6: bool, i: &Interface, f: impl Fn(&IpCounters)) {
        f(self.snmp.ip_of(v6));
        if v6 {
            f(&i.v6.counters.ip);
        }
    }

    /// The same of ICMP.
    pub(crate) fn count_icmp(&self, v6: bool, i: &Interface, f: impl Fn(&IcmpCounters)) {
        f(self.snmp.icmp_of(v6));
        if v6 {
            f(&i.v6.counters.icmp);
        }
    }
}
