//! /proc/net/snmp6 and the files of /proc/net/dev_snmp6: what passed of IPv6, ICMPv6 and UDP over IPv6 (proc_pid_net(5)). UDP-Lite is not built in, so there are no lines of it.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::ENOENT;
use uml_core::task::Task;
use uml_net::interface::Interface;
use uml_net::snmp::{IcmpCounters, IpCounters, UdpCounters};
use uml_net::stack::Stack;
use uml_procfs::proc::sources::NetDir;
use uml_procfs::synth::Text;

use crate::stack_of;

/// Types of ICMPv6 with lines of their own, in Linux' order.
const TYPES: [(&str, u8); 15] = [
    ("DestUnreachs", 1),
    ("PktTooBigs", 2),
    ("TimeExcds", 3),
    ("ParmProblems", 4),
    ("Echos", 128),
    ("EchoReplies", 129),
    ("GroupMembQueries", 130),
    ("GroupMembResponses", 131),
    ("GroupMembReductions", 132),
    ("RouterSolicits", 133),
    ("RouterAdvertisements", 134),
    ("NeighborSolicits", 135),
    ("NeighborAdvertisements", 136),
    ("Redirects", 137),
    ("MLDv2Reports", 143),
];

fn line(out: &mut Text, name: &str, value: u64) {
    out.write_fmt(format_args!("{name:<32}\t{value}\n"));
}

/// Writes the file.
pub(crate) fn show(s: &Arc<Stack>, out: &mut Text) {
    ip(&s.snmp.ip6, out);
    icmp(&s.snmp.icmp6, true, out);
    udp(&s.snmp.udp6, "Udp6", out);
    udp(&s.snmp.udplite6, "UdpLite6", out);
}

/// The interfaces that have a file: those that IPv6 can be on.
fn has_six(i: &Interface) -> bool {
    /// Least MTU of IPv6 (RFC 8200 5).
    const LEAST: usize = 1280;
    i.mtu() >= LEAST
}

/// The directory with a file for each interface.
pub(crate) struct Interfaces;

impl NetDir for Interfaces {
    fn names(&self, t: &Task) -> Vec<String> {
        let all = stack_of(t).interfaces();
        all.iter().filter(|i| has_six(i)).map(|i| i.name()).collect()
    }

    fn show(&self, t: &Task, name: &str, out: &mut Text) -> Result<()> {
        let i = stack_of(t).interface_named(name).filter(|i| has_six(i)).ok_or(ENOENT)?;
        line(out, "ifIndex", i.index.into());
        ip(&i.v6.counters.ip, out);
        icmp(&i.v6.counters.icmp, false, out);
        Ok(())
    }
}

fn ip(c: &IpCounters, out: &mut Text) {
    let [not_capable, ect1, ect0, congested] = &c.in_ecn;
    let (received, sent) = (c.in_octets.get(), c.out_octets.get());
    for (name, value) in [
        ("InReceives", c.in_receives.get()),
        ("InHdrErrors", c.in_hdr_errors.get()),
        ("InTooBigErrors", c.in_too_big_errors.get()),
        ("InNoRoutes", c.in_no_routes.get()),
        ("InAddrErrors", c.in_addr_errors.get()),
        ("InUnknownProtos", c.in_unknown_protos.get()),
        ("InTruncatedPkts", c.in_truncated.get()),
        ("InDiscards", c.in_discards.get()),
        ("InDelivers", c.in_delivers.get()),
        ("OutForwDatagrams", c.forw_datagrams.get()),
        ("OutRequests", c.out_requests.get()),
        ("OutDiscards", c.out_discards.get()),
        ("OutNoRoutes", c.out_no_routes.get()),
        ("ReasmTimeout", c.reasm_timeout.get()),
        ("ReasmReqds", c.reasm_reqds.get()),
        ("ReasmOKs", c.reasm_oks.get()),
        ("ReasmFails", c.reasm_fails.get()),
        ("FragOKs", c.frag_oks.get()),
        ("FragFails", c.frag_fails.get()),
        ("FragCreates", c.frag_creates.get()),
        ("InMcastPkts", c.in_mcast_pkts.get()),
        ("OutMcastPkts", c.out_mcast_pkts.get()),
        ("InOctets", received),
        ("OutOctets", sent),
        ("InMcastOctets", c.in_mcast_octets.get()),
        ("OutMcastOctets", c.out_mcast_octets.get()),
        // IPv6 has no broadcasts.
        ("InBcastOctets", 0),
        ("OutBcastOctets", 0),
        ("InNoECTPkts", not_capable.get()),
        ("InECT1Pkts", ect1.get()),
        ("InECT0Pkts", ect0.get()),
        ("InCEPkts", congested.get()),
        ("OutTransmits", c.out_transmits.get()),
    ] {
        line(out, &format!("Ip6{name}"), value);
    }
}

/// With what was not sent because a host had been told enough, which interfaces do not count.
fn icmp(c: &IcmpCounters, limits: bool, out: &mut Text) {
    for (name, value) in [
        ("InMsgs", c.in_msgs.get()),
        ("InErrors", c.in_errors.get()),
        ("OutMsgs", c.out_msgs.get()),
        ("OutErrors", c.out_errors.get()),
        ("InCsumErrors", c.in_csum_errors.get()),
    ] {
        line(out, &format!("Icmp6{name}"), value);
    }
    if limits {
        line(out, "Icmp6OutRateLimitHost", c.out_rate_host.get());
    }
    for (name, kind) in TYPES {
        line(out, &format!("Icmp6In{name}"), c.of_type(kind).0);
    }
    for (name, kind) in TYPES {
        line(out, &format!("Icmp6Out{name}"), c.of_type(kind).1);
    }
    let types = || (0..=u8::MAX).map(|k| (k, c.of_type(k)));
    for (kind, (came, _)) in types().filter(|t| t.1.0 != 0) {
        line(out, &format!("Icmp6InType{kind}"), came);
    }
    for (kind, (_, went)) in types().filter(|t| t.1.1 != 0) {
        line(out, &format!("Icmp6OutType{kind}"), went);
    }
}

fn udp(c: &UdpCounters, prefix: &str, out: &mut Text) {
    for (name, value) in [
        ("InDatagrams", c.in_datagrams.get()),
        ("NoPorts", c.no_ports.get()),
        ("InErrors", c.in_errors.get()),
        ("OutDatagrams", c.out_datagrams.get()),
        ("RcvbufErrors", c.rcvbuf_errors.get()),
        // Senders wait for room.
        ("SndbufErrors", 0),
        ("InCsumErrors", c.in_csum_errors.get()),
        ("IgnoredMulti", 0),
        ("MemErrors", 0),
    ] {
        if name == "IgnoredMulti" && prefix == "UdpLite6" {
            // Linux has no such line.
            continue;
        }
        line(out, &format!("{prefix}{name}"), value);
    }
}
