//! Files of /proc/net and /proc/sys/net (proc_pid_net(5), proc_sys_net(5)).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_core::task::Task;
use uml_net::Time;
use uml_net::interface::{Interface, iff};
use uml_net::neighbour::State as Neigh;
use uml_net::route::{Kind, TABLE_MAIN};
use uml_net::snmp::IcmpCounters;
use uml_net::stack::Stack;
use uml_net::tcp::State;
use uml_net::tcp_socket::{Row, TcpSocket};
use uml_net::udp::UdpTable;
use uml_procfs::ProcFs;
use uml_procfs::synth::{Text, TextFn};

use crate::stack_of;

fn file(f: impl Fn(&Arc<Stack>, &mut Text) + Send + Sync + 'static) -> TextFn {
    TextFn::new(move |t: &Task, out: &mut Text| {
        f(&stack_of(t), out);
        Ok(())
    })
}

/// Enters the files.
pub fn register(proc: &ProcFs) {
    let s = &proc.sources;
    s.add_net("dev", 0o444, file(dev));
    s.add_net("if_inet6", 0o444, file(if_inet6));
    s.add_net("route", 0o444, file(route));
    s.add_net("ipv6_route", 0o444, file(ipv6_route));
    s.add_net("arp", 0o444, file(arp));
    s.add_net("tcp", 0o444, file(|s, o| tcp(s, o, false)));
    s.add_net("tcp6", 0o444, file(|s, o| tcp(s, o, true)));
    s.add_net("udp", 0o444, file(|s, o| udp(&s.udp, o, false)));
    s.add_net("udp6", 0o444, file(|s, o| udp(&s.udp, o, true)));
    s.add_net("udplite", 0o444, file(|s, o| udp(&s.udplite, o, false)));
    s.add_net("udplite6", 0o444, file(|s, o| udp(&s.udplite, o, true)));
    s.add_net("raw", 0o444, file(|s, o| raw(s, o, false)));
    s.add_net("raw6", 0o444, file(|s, o| raw(s, o, true)));
    s.add_net("snmp", 0o444, file(snmp));
    s.add_net("snmp6", 0o444, file(crate::snmp6::show));
    s.add_net_dir("dev_snmp6", Arc::new(crate::snmp6::Interfaces));
    s.add_net("packet", 0o444, file(packet));
    s.add_net("sockstat", 0o444, file(sockstat));
    s.add_net("sockstat6", 0o444, file(sockstat6));
    s.add_net("igmp", 0o444, file(igmp));
    let model = Stack::new(Arc::new(NoClock), [0; 32]);
    for (path, _) in model.conf.all() {
        if path.contains("ip_local_port_m") || path.contains("netns_") {
            continue;
        }
        let get = move |t: &Task, out: &mut Text| {
            let s = stack_of(t);
            let v = s.conf.all().into_iter().find(|(p, _)| *p == path).map_or(0, |(_, v)| v.get());
            out.write_fmt(format_args!("{v}\n"));
            Ok(())
        };
        let set = move |t: &Task, data: &[u8]| {
            let words = uml_procfs::synth::words(data)?;
            let n = uml_procfs::synth::parse_i64(words.first().unwrap_or(&""))?;
            let s = stack_of(t);
            match s.conf.all().into_iter().find(|(p, _)| *p == path) {
                Some((_, v)) => v.set(n),
                None => Ok(()),
            }
        };
        s.add_sysctl(path, 0o644, TextFn::new(get).writable(set));
    }
    let range = |t: &Task, out: &mut Text| {
        let c = stack_of(t);
        out.write_fmt(format_args!("{}\t{}\n", c.conf.port_min.get(), c.conf.port_max.get()));
        Ok(())
    };
    let set_range = |t: &Task, data: &[u8]| {
        let w = uml_procfs::synth::words(data)?;
        let at = |i: usize| uml_procfs::synth::parse_i64(w.get(i).copied().unwrap_or(""));
        let (lo, hi) = (at(0)?, at(1)?);
        if lo > hi {
            return Err(uml_abi::errno::EINVAL);
        }
        let c = stack_of(t);
        c.conf.port_min.set(lo)?;
        c.conf.port_max.set(hi)
    };
    s.add_sysctl("net/ipv4/ip_local_port_range", 0o644, TextFn::new(range).writable(set_range));
    let fixed = |text: &'static str| {
        TextFn::new(move |_: &Task, out: &mut Text| {
            out.raw(text.as_bytes());
            Ok(())
        })
    };
    s.add_sysctl("net/ipv4/tcp_congestion_control", 0o444, fixed("cubic\n"));
    s.add_sysctl("net/ipv4/tcp_available_congestion_control", 0o444, fixed("cubic reno\n"));
    s.add_sysctl("net/ipv4/tcp_allowed_congestion_control", 0o444, fixed("cubic reno\n"));
    s.add_sysctl("net/ipv4/tcp_rmem", 0o444, fixed("4096\t131072\t6291456\n"));
    s.add_sysctl("net/ipv4/tcp_wmem", 0o444, fixed("4096\t16384\t4194304\n"));
    s.add_sysctl("net/ipv4/ping_group_range", 0o444, fixed("0\t2147483647\n"));
}

struct NoClock;

impl uml_net::Clock for NoClock {
    fn now(&self) -> Time {
        Time(1)
    }
}

fn dev(s: &Arc<Stack>, out: &mut Text) {
    out.raw(b"Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n");
    for i in s.interfaces() {
        let c = &i.counters;
        let n = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
        out.write_fmt(format_args!(
            "{:>6}: {:7} {:7} {:4} {:4}    0     0          0 {:9} {:8} {:7} {:4} {:4}    0     0       0          0\n",
            i.name(),
            n(&c.rx_bytes),
            n(&c.rx_packets),
            n(&c.rx_errors),
            n(&c.rx_dropped),
            n(&c.multicast),
            n(&c.tx_bytes),
            n(&c.tx_packets),
            n(&c.tx_errors),
            n(&c.tx_dropped),
        ));
    }
}

fn hex6(a: std::net::Ipv6Addr) -> String {
    a.octets().iter().map(|b| format!("{b:02x}")).collect()
}

fn if_inet6(s: &Arc<Stack>, out: &mut Text) {
    for i in s.interfaces() {
        for a in i.addresses() {
            let IpAddr::V6(v) = a.addr else { continue };
            let scope = match a.scope {
                254 => 0x10,
                253 => 0x20,
                _ => 0,
            };
            out.write_fmt(format_args!(
                "{} {:02x} {:02x} {scope:02x} {:02x} {:>8}\n",
                hex6(v),
                i.index,
                a.prefix,
                a.flags & 0xff,
                i.name()
            ));
        }
    }
}

fn name_of(s: &Stack, index: u32) -> String {
    s.interface(index).map_or_else(|| "*".into(), |i: Arc<Interface>| i.name())
}

fn route(s: &Arc<Stack>, out: &mut Text) {
    let row = |out: &mut Text, t: String| out.write_fmt(format_args!("{t:<127}\n"));
    row(
        out,
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"
            .into(),
    );
    for r in s.routes.list() {
        let IpAddr::V4(dst) = r.dst.addr else { continue };
        if r.table != TABLE_MAIN {
            continue;
        }
        let word = |a: std::net::Ipv4Addr| u32::from_le_bytes(a.octets());
        let gateway = match r.gateway {
            Some(IpAddr::V4(g)) => g,
            _ => std::net::Ipv4Addr::UNSPECIFIED,
        };
        let mut flags = 1;
        if r.gateway.is_some() {
            flags |= 2;
        }
        if r.dst.len == 32 {
            flags |= 4;
        }
        if matches!(r.kind, Kind::Unreachable | Kind::Prohibit | Kind::Blackhole) {
            flags |= 0x200;
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(r.dst.len)).unwrap_or(0);
        row(
            out,
            format!(
                "{}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{:08X}\t{}\t0\t0",
                name_of(s, r.oif),
                word(dst),
                word(gateway),
                r.metric,
                mask.swap_bytes(),
                r.mtu.unwrap_or(0),
            ),
        );
    }
}

fn ipv6_route(s: &Arc<Stack>, out: &mut Text) {
    for r in s.routes.list() {
        let IpAddr::V6(dst) = r.dst.addr else { continue };
        let zero = std::net::Ipv6Addr::UNSPECIFIED;
        let gateway = match r.gateway {
            Some(IpAddr::V6(g)) => g,
            _ => zero,
        };
        let mut flags = 1u32;
        if r.gateway.is_some() {
            flags |= 2;
        }
        if r.kind == Kind::Local {
            flags |= 0x8020_0000;
        }
        out.write_fmt(format_args!(
            "{} {:02x} {} 00 {} {:08x} {:08x} {:08x} {flags:08x} {:>8}\n",
            hex6(dst),
            r.dst.len,
            hex6(zero),
            hex6(gateway),
            r.metric,
            1,
            0,
            name_of(s, r.oif)
        ));
    }
}

fn arp(s: &Arc<Stack>, out: &mut Text) {
    out.raw(b"IP address       HW type     Flags       HW address            Mask     Device\n");
    for n in s.neighbours.list().into_iter().filter(|n| n.addr.is_ipv4()) {
        let flags = match n.state {
            Neigh::Incomplete | Neigh::Failed => 0,
            Neigh::Permanent => 6,
            _ => 2,
        };
        out.write_fmt(format_args!(
            "{:<16} 0x{:<10x}0x{flags:<10x}{:<17}     *        {}\n",
            n.addr.to_string(),
            1,
            n.mac.to_string(),
            name_of(s, n.iface)
        ));
    }
}

fn hex_addr(a: SocketAddr, v6: bool) -> String {
    match (a.ip(), v6) {
        (IpAddr::V4(v), false) => {
            format!("{:08X}:{:04X}", u32::from_le_bytes(v.octets()), a.port())
        }
        (ip, _) => {
            let o = match ip {
                IpAddr::V4(v) if v.is_unspecified() => [0; 16],
                IpAddr::V4(v) => v.to_ipv6_mapped().octets(),
                IpAddr::V6(v) => v.octets(),
            };
            let words: String = o
                .chunks_exact(4)
                .map(|c| format!("{:08X}", u32::from_le_bytes([c[0], c[1], c[2], c[3]])))
                .collect();
            format!("{words}:{:04X}", a.port())
        }
    }
}

fn ticks(s: &Stack, at: Option<Time>) -> u64 {
    at.map_or(0, |t| t.since(s.now()) / 10_000_000)
}

fn tcp(s: &Arc<Stack>, out: &mut Text, v6: bool) {
    if v6 {
        out.raw(b"  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n");
    } else {
        out.write_fmt(format_args!("{:<149}\n", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"));
    }
    let mut n = 0;
    let mut line = |out: &mut Text, r: &Row, inode: u64| {
        let text = format!(
            "{n:4}: {} {} {:02X} {:08X}:{:08X} {:02X}:{:08X} {:08X} {:5} {:8} {inode} 1 0000000000000000",
            hex_addr(r.local, v6),
            hex_addr(r.remote, v6),
            r.state as u8,
            if r.state as u8 == 10 { 0 } else { r.tx_queue },
            r.rx_queue,
            r.timer,
            ticks(s, r.timer_at),
            r.retransmits,
            r.uid,
            r.probes,
        );
        n += 1;
        if v6 {
            out.write_fmt(format_args!("{text}\n"));
        } else {
            out.write_fmt(format_args!("{text:<149}\n"));
        }
    };
    let (conns, waits) = s.tcp.connections();
    for t in s.tcp.listening().iter().chain(&conns).filter(|t| t.v6 == v6) {
        let inode = t.opts.lock().inode;
        line(out, &t.row(), inode);
    }
    for t in s.tcp.listening().iter().filter(|t| t.v6 == v6) {
        let uid = t.opts.lock().uid;
        for (q, tries, due) in t.half_open() {
            let r = Row {
                state: State::SynRecv,
                timer: 1,
                timer_at: Some(due),
                retransmits: tries,
                uid,
                ..Row::of(q.local, q.remote)
            };
            line(out, &r, 0);
        }
    }
    for w in waits.iter().filter(|w| w.quad.local.is_ipv6() == v6) {
        let r = Row {
            state: State::TimeWait,
            timer: 3,
            timer_at: Some(*w.expires.lock()),
            ..Row::of(w.quad.local, w.quad.remote)
        };
        line(out, &r, 0);
    }
}

fn datagram_head(out: &mut Text, v6: bool) {
    if v6 {
        out.raw(b"  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n");
    } else {
        out.write_fmt(format_args!("{:<127}\n", "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"));
    }
}

struct DatagramRow {
    local: SocketAddr,
    remote: Option<SocketAddr>,
    rx: usize,
    drops: u64,
    uid: u32,
    inode: u64,
}

fn datagram_row(out: &mut Text, n: usize, d: &DatagramRow, v6: bool) {
    let none = if v6 { "[::]:0" } else { "0.0.0.0:0" };
    let none: SocketAddr = match none.parse() {
        Ok(a) => a,
        Err(_) => d.local,
    };
    let text = format!(
        "{n:5}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5} {:8} {} 2 0000000000000000 {}",
        hex_addr(d.local, v6),
        hex_addr(d.remote.unwrap_or(none), v6),
        if d.remote.is_some() { 1 } else { 7 },
        0,
        d.rx,
        d.uid,
        0,
        d.inode,
        d.drops,
    );
    if v6 {
        out.write_fmt(format_args!("{text}\n"));
    } else {
        out.write_fmt(format_args!("{text:<127}\n"));
    }
}

fn udp(table: &UdpTable, out: &mut Text, v6: bool) {
    datagram_head(out, v6);
    for (n, u) in table.list().iter().filter(|u| u.v6 == v6).enumerate() {
        let (rx, drops) = u.usage();
        let (uid, inode) = {
            let o = u.opts.lock();
            (o.uid, o.inode)
        };
        let d = DatagramRow { local: u.local(), remote: u.remote(), rx, drops, uid, inode };
        datagram_row(out, n, &d, v6);
    }
}

fn raw(s: &Arc<Stack>, out: &mut Text, v6: bool) {
    datagram_head(out, v6);
    for (n, r) in s.raw.list().iter().filter(|r| r.v6 == v6).enumerate() {
        let (rx, drops) = r.usage();
        let (uid, inode) = {
            let o = r.opts.lock();
            (o.uid, o.inode)
        };
        let local = SocketAddr::new(r.local(), u16::from(r.proto));
        let remote = r.remote().map(|a| SocketAddr::new(a, 0));
        datagram_row(out, n, &DatagramRow { local, remote, rx, drops, uid, inode }, v6);
    }
}

/// ICMP types with columns of their own, in Linux' order.
const ICMP_TYPES: [(&str, u8); 11] = [
    ("DestUnreachs", 3),
    ("TimeExcds", 11),
    ("ParmProbs", 12),
    ("SrcQuenchs", 4),
    ("Redirects", 5),
    ("Echos", 8),
    ("EchoReps", 0),
    ("Timestamps", 13),
    ("TimestampReps", 14),
    ("AddrMasks", 17),
    ("AddrMaskReps", 18),
];

fn icmp_counters(c: &IcmpCounters, out: &mut Text) {
    let mut head = "Icmp: InMsgs InErrors InCsumErrors".to_owned();
    let mut line =
        format!("Icmp: {} {} {}", c.in_msgs.get(), c.in_errors.get(), c.in_csum_errors.get());
    for (name, kind) in ICMP_TYPES {
        head += &format!(" In{name}");
        line += &format!(" {}", c.of_type(kind).0);
    }
    head += " OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost";
    let (all, host) = (c.out_rate_global.get(), c.out_rate_host.get());
    line += &format!(" {} {} {all} {host}", c.out_msgs.get(), c.out_errors.get());
    for (name, kind) in ICMP_TYPES {
        head += &format!(" Out{name}");
        line += &format!(" {}", c.of_type(kind).1);
    }
    out.write_fmt(format_args!("{head}\n{line}\n"));
    let types = (0..=u8::MAX).map(|k| (k, c.of_type(k)));
    let came = types.clone().filter(|t| t.1.0 != 0).map(|t| (format!(" InType{}", t.0), t.1.0));
    let went = types.filter(|t| t.1.1 != 0).map(|t| (format!(" OutType{}", t.0), t.1.1));
    let all: Vec<(String, u64)> = came.chain(went).collect();
    if !all.is_empty() {
        let (names, values): (String, String) =
            all.into_iter().map(|(n, v)| (n, format!(" {v}"))).unzip();
        out.write_fmt(format_args!("IcmpMsg:{names}\nIcmpMsg:{values}\n"));
    }
}

fn snmp(s: &Arc<Stack>, out: &mut Text) {
    let c = &s.snmp;
    let (connections, _) = s.tcp.connections();
    let open = |t: &&Arc<TcpSocket>| matches!(t.state(), State::Established | State::CloseWait);
    let established = connections.iter().filter(open).count();
    out.write_fmt(format_args!(
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits\nIp: {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}\n",
        if s.conf.ip_forward.get() != 0 { 1 } else { 2 },
        s.conf.ip_default_ttl.get(),
        c.ip.in_receives.get(),
        c.ip.in_hdr_errors.get(),
        c.ip.in_addr_errors.get(),
        c.ip.forw_datagrams.get(),
        c.ip.in_unknown_protos.get(),
        c.ip.in_discards.get(),
        c.ip.in_delivers.get(),
        c.ip.out_requests.get(),
        c.ip.out_discards.get(),
        c.ip.out_no_routes.get(),
        c.ip.reasm_timeout.get(),
        c.ip.reasm_reqds.get(),
        c.ip.reasm_oks.get(),
        c.ip.reasm_fails.get(),
        c.ip.frag_oks.get(),
        c.ip.frag_fails.get(),
        c.ip.frag_creates.get(),
        c.ip.out_transmits.get(),
    ));
    icmp_counters(&c.icmp, out);
    out.write_fmt(format_args!(
        "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\nTcp: 1 200 120000 -1 {} {} {} {} {established} {} {} {} {} {} {}\n",
        c.tcp_active_opens.get(),
        c.tcp_passive_opens.get(),
        c.tcp_attempt_fails.get(),
        c.tcp_estab_resets.get(),
        c.tcp_in_segs.get(),
        c.tcp_out_segs.get(),
        c.tcp_retrans_segs.get(),
        c.tcp_in_errs.get(),
        c.tcp_out_rsts.get(),
        c.tcp_in_csum_errors.get()
    ));
    for (name, c) in [("Udp", &c.udp), ("UdpLite", &c.udplite)] {
        out.write_fmt(format_args!(
            "{name}: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n{name}: {} {} {} {} {} 0 {} 0 0\n",
            c.in_datagrams.get(),
            c.no_ports.get(),
            c.in_errors.get(),
            c.out_datagrams.get(),
            c.rcvbuf_errors.get(),
            c.in_csum_errors.get()
        ));
    }
}

/// Connections and listeners, sockets of UDP and UDP-Lite, and raw sockets of a family.
fn in_use(s: &Stack, v6: bool) -> (usize, usize, usize, usize) {
    let (connections, _) = s.tcp.connections();
    let tcp = s.tcp.listening().iter().chain(&connections).filter(|t| t.v6 == v6).count();
    let of = |t: &UdpTable| t.list().iter().filter(|u| u.v6 == v6).count();
    let (udp, lite) = (of(&s.udp), of(&s.udplite));
    (tcp, udp, lite, s.raw.list().iter().filter(|r| r.v6 == v6).count())
}

fn sockstat(s: &Arc<Stack>, out: &mut Text) {
    let (_, tw) = s.tcp.counts();
    let (tcp, udp, lite, raw) = in_use(s, false);
    let (tcp6, udp6, lite6, raw6) = in_use(s, true);
    out.write_fmt(format_args!(
        "sockets: used {}\nTCP: inuse {tcp} orphan 0 tw {tw} alloc {} mem 0\nUDP: inuse {udp} mem 0\nUDPLITE: inuse {lite}\nRAW: inuse {raw}\nFRAG: inuse 0 memory 0\n",
        tcp + udp + lite + raw + tcp6 + udp6 + lite6 + raw6,
        tcp + tcp6,
    ));
}

fn packet(s: &Arc<Stack>, out: &mut Text) {
    out.raw(b"sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n");
    for p in s.packet_sockets() {
        let (iface, protocol) = p.bound();
        let (uid, inode) = p.owner();
        out.write_fmt(format_args!(
            "0000000000000000 2      {:<4} {protocol:04x}   {iface:<5} {} {:<6} {uid:<6} {inode:<6}\n",
            if p.cooked { 2 } else { 3 },
            u8::from(p.running()),
            p.used(),
        ));
    }
}

fn sockstat6(s: &Arc<Stack>, out: &mut Text) {
    let (tcp, udp, lite, raw) = in_use(s, true);
    out.write_fmt(format_args!(
        "TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse {lite}\nRAW6: inuse {raw}\nFRAG6: inuse 0 memory 0\n"
    ));
}

fn igmp(s: &Arc<Stack>, out: &mut Text) {
    out.raw(b"Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n");
    for i in
        s.interfaces().into_iter().filter(|i| i.flags() & iff::MULTICAST != 0 || i.is_loopback())
    {
        let groups: Vec<_> = i.joined().into_iter().filter(|(g, _)| g.is_ipv4()).collect();
        out.write_fmt(format_args!(
            "{}\t{:<10}: {:5} {:>7}\n",
            i.index,
            i.name(),
            groups.len(),
            "V3"
        ));
        for (g, n) in groups {
            let IpAddr::V4(g) = g else { continue };
            out.write_fmt(format_args!(
                "\t\t\t\t{:08X} {n:5} 0:00000000\t\t0\n",
                u32::from_le_bytes(g.octets())
            ));
        }
    }
}
