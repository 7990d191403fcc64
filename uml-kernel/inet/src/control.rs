//! Ancillary data of datagrams (ip(7), ipv6(7), udp(7)).

use std::net::IpAddr;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};
use uml_ipc::socket::message::parse_control;
use uml_ipc::socket::options::SO_TIMESTAMPING_NEW;
use uml_ipc::socket::{Control, Options};
use uml_net::sock::{Datagram, QueuedError, SendInfo};
use uml_net::stamp::{Asked, flag};
use uml_net::tcp_socket::{Arrival, TcpSocket};
use uml_net::wire::ipv4::{self, OPTIONS_MAX};
use uml_net::wire::v6_headers::{self, Headers};
use uml_net::wire::{proto, v4_options};

use crate::addr;
use crate::ip_options::{
    Extra, IP_RECVFRAGSIZE, IPV6_RECVFRAGSIZE, header_place, int, packet_options, recv,
};

const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

/// A header of options for one message: `EINVAL` for one that is cut short, `EPERM` without CAP_NET_RAW.
fn header(s: &mut SendInfo, task: &Task, name: i32, b: &[u8]) -> Result<()> {
    let all = s.headers.get_or_insert_default();
    let place = header_place(all, name).filter(|p| p.is_empty()).ok_or(EINVAL)?;
    let h = Headers::of_program(b).ok_or(EINVAL)?;
    crate::require_net(task, Cap::NetRaw)?;
    *place = h;
    Ok(())
}

/// What a sender asks for in its control messages.
pub fn parse(task: &Task, control: &[u8], v6: bool) -> Result<SendInfo> {
    let mut s = SendInfo::default();
    if control.is_empty() {
        return Ok(s);
    }
    for c in parse_control(control)? {
        match (c.level, c.kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let d = c.data.get(..12).ok_or(EINVAL)?;
                s.iface = int(d)? as u32;
                let a = std::net::Ipv4Addr::new(d[4], d[5], d[6], d[7]);
                s.src = (!a.is_unspecified()).then_some(IpAddr::V4(a));
            }
            (libc::IPPROTO_IP, libc::IP_TTL) => match whole(c.data)? {
                n @ 1..=255 => s.ttl = Some(n as u8),
                _ => return Err(EINVAL),
            },
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                let n = if c.data.len() == 1 { i32::from(c.data[0]) } else { whole(c.data)? };
                s.tos = Some(u8::try_from(n).map_err(|_| EINVAL)?);
            }
            (libc::IPPROTO_IP, libc::IP_RETOPTS) => {
                let b = &c.data[..c.data.len().min(OPTIONS_MAX)];
                s.options = Some(packet_options(task, b)?);
            }
            (
                libc::IPPROTO_IPV6,
                n @ (libc::IPV6_HOPOPTS | libc::IPV6_RTHDRDSTOPTS | libc::IPV6_DSTOPTS),
            ) if v6 => header(&mut s, task, n, c.data)?,
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if v6 => {
                let d = c.data.get(..20).ok_or(EINVAL)?;
                let mut o = [0; 16];
                o.copy_from_slice(&d[..16]);
                s.iface = int(&d[16..])? as u32;
                let a = std::net::Ipv6Addr::from(o);
                if !a.is_unspecified() {
                    s.src = Some(a.to_ipv4_mapped().map_or(IpAddr::V6(a), IpAddr::V4));
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) if v6 => match int(c.data)? {
                -1 => {}
                n @ 0..=255 => s.ttl = Some(n as u8),
                _ => return Err(EINVAL),
            },
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if v6 => match int(c.data)? {
                -1 => {}
                n @ 0..=255 => s.tos = Some(n as u8),
                _ => return Err(EINVAL),
            },
            (SOL_UDP, UDP_SEGMENT) => {
                let d = c.data.get(..2).ok_or(EINVAL)?;
                s.segment = u16::from_le_bytes([d[0], d[1]]);
            }
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW) => {
                let f = whole(c.data)? as u32;
                // Only what is to be noted may differ from message to message, not what is told of it.
                let noted = flag::TX_HARDWARE
                    | flag::TX_SOFTWARE
                    | flag::TX_SCHED
                    | flag::TX_ACK
                    | flag::TX_COMPLETION;
                if f & !noted != 0 {
                    return Err(EINVAL);
                }
                s.stamp = Some(Asked { flags: f, id: 0 });
            }
            (libc::SOL_SOCKET, _) => {}
            _ => return Err(EINVAL),
        }
    }
    Ok(s)
}

/// An integer that must be one.
fn whole(b: &[u8]) -> Result<i32> {
    if b.len() == 4 { int(b) } else { Err(EINVAL) }
}

fn item(level: i32, kind: i32, data: Vec<u8>) -> Control {
    Control::Bytes { level, kind, data }
}

/// When a packet came or went, nanoseconds since the epoch, as the options ask: `struct timeval`, `struct timespec`, and
/// `struct scm_timestamping`, whose second and third time are of hardware.
pub fn stamps(o: &Options, ns: u64, stamped: bool, out: &mut Vec<Control>) {
    let time = |unit: u64| {
        let rest = ns % 1_000_000_000 / unit;
        [((ns / 1_000_000_000) as i64).to_le_bytes(), (rest as i64).to_le_bytes()].concat()
    };
    if let Some((name, nano)) = o.time_of_messages() {
        out.push(item(libc::SOL_SOCKET, name, time(if nano { 1 } else { 1000 })));
    }
    let (flags, name) = o.stamping();
    if stamped && flags & flag::SOFTWARE != 0 {
        let mut b = time(1);
        b.resize(48, 0);
        out.push(item(libc::SOL_SOCKET, name, b));
    }
}

/// The same of a packet that came.
pub fn stamps_of_arrival(o: &Options, ns: u64, out: &mut Vec<Control>) {
    stamps(o, ns, o.stamping().0 & flag::RX_SOFTWARE != 0, out);
}

/// SO_TIMESTAMPING in a program's bytes: `EINVAL` for unknown flags and numbers that only connections have, `EOPNOTSUPP` for
/// clocks of hardware.
pub fn stamping(v: &[u8]) -> Result<u32> {
    let f = v.get(..4).ok_or(EINVAL).and_then(int)? as u32;
    if f & !flag::ALL != 0 || f & (flag::OPT_ID_TCP | flag::OPT_ID) == flag::OPT_ID_TCP {
        return Err(EINVAL);
    }
    if f & flag::BIND_PHC != 0 {
        return Err(EOPNOTSUPP);
    }
    Ok(f)
}

/// What a receiver gets with a datagram.
pub fn of_datagram(d: &Datagram, o: &Options, x: &Extra, v6: bool, realtime: u64) -> Vec<Control> {
    let mut out = Vec::new();
    let when = if d.stamp != 0 { d.stamp } else { realtime };
    stamps_of_arrival(o, when, &mut out);
    if let IpAddr::V4(dst) = d.dst {
        if x.wants(recv::PKTINFO) {
            let mut b = (d.iface as i32).to_le_bytes().to_vec();
            b.extend_from_slice(&dst.octets());
            b.extend_from_slice(&dst.octets());
            out.push(item(libc::IPPROTO_IP, libc::IP_PKTINFO, b));
        }
        if x.wants(recv::TTL) {
            out.push(item(libc::IPPROTO_IP, libc::IP_TTL, i32::from(d.ttl).to_le_bytes().to_vec()));
        }
        if x.wants(recv::TOS) {
            out.push(item(libc::IPPROTO_IP, libc::IP_TOS, vec![d.tos]));
        }
        if let Some(o) = d.header.get(ipv4::HEADER..).filter(|o| !o.is_empty()) {
            if x.wants(recv::OPTIONS) {
                out.push(item(libc::IPPROTO_IP, libc::IP_RECVOPTS, o.to_vec()));
            }
            if x.wants(recv::RETOPTS)
                && let Some(back) = v4_options::Options::echo(o)
            {
                out.push(item(libc::IPPROTO_IP, libc::IP_RETOPTS, back.bytes().to_vec()));
            }
        }
        if x.wants(recv::ORIGDST) {
            let a = std::net::SocketAddr::new(d.dst, d.dst_port);
            out.push(item(libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, addr::format(a, false, 0)));
        }
        if x.wants(recv::FRAGSIZE) && d.piece != 0 {
            out.push(item(libc::IPPROTO_IP, IP_RECVFRAGSIZE, d.piece.to_le_bytes().to_vec()));
        }
    }
    if v6 {
        if x.wants(recv::PKTINFO6) {
            let six = match d.dst {
                IpAddr::V4(a) => a.to_ipv6_mapped(),
                IpAddr::V6(a) => a,
            };
            let mut b = six.octets().to_vec();
            b.extend_from_slice(&d.iface.to_le_bytes());
            out.push(item(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, b));
        }
        if x.wants(recv::HOPLIMIT) && d.dst.is_ipv6() {
            let b = i32::from(d.ttl).to_le_bytes().to_vec();
            out.push(item(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, b));
        }
        if x.wants(recv::TCLASS) && d.dst.is_ipv6() {
            let b = i32::from(d.tos).to_le_bytes().to_vec();
            out.push(item(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, b));
        }
        if d.dst.is_ipv6() {
            headers_of(&d.header, x, &mut out);
            if x.wants(recv::FRAGSIZE6) && d.piece != 0 {
                let b = d.piece.to_le_bytes().to_vec();
                out.push(item(libc::IPPROTO_IPV6, IPV6_RECVFRAGSIZE, b));
            }
        }
    }
    out
}

/// The extension headers that a receiver asked for.
fn headers_of(packet: &[u8], x: &Extra, out: &mut Vec<Control>) {
    for (proto, header) in v6_headers::each(packet) {
        let (bit, kind) = match proto {
            proto::HOPOPT => (recv::HOPOPTS, libc::IPV6_HOPOPTS),
            proto::DSTOPTS => (recv::DSTOPTS, libc::IPV6_DSTOPTS),
            proto::ROUTING => (recv::RTHDR, libc::IPV6_RTHDR),
            _ => continue,
        };
        if x.wants(bit) {
            out.push(item(libc::IPPROTO_IPV6, kind, header.to_vec()));
        }
    }
}

/// An entry of the error queue: `struct sock_extended_err` and the offender's address.
pub fn of_error(e: &QueuedError, v6: bool) -> Control {
    let mut b = (e.errno.raw() as u32).to_le_bytes().to_vec();
    b.extend_from_slice(&[e.origin, e.kind, e.code, 0]);
    b.extend_from_slice(&e.info.to_le_bytes());
    b.extend_from_slice(&e.data.to_le_bytes());
    let a = match e.offender {
        Some(ip) => addr::format(std::net::SocketAddr::new(ip, 0), v6 || ip.is_ipv6(), 0),
        None => vec![0; if v6 { addr::LEN_V6 } else { addr::LEN_V4 }],
    };
    b.extend_from_slice(&a);
    if v6 {
        item(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, b)
    } else {
        item(libc::IPPROTO_IP, libc::IP_RECVERR, b)
    }
}

/// IP_PKTOPTIONS and IPV6_2292PKTOPTIONS of a TCP socket: the control messages that it asks for, as recvmsg(2) would give them,
/// cut at `max` bytes. `ENOPROTOOPT` where an IPv6 socket that was not accepted asks for any: what its peer's
/// segments had is not kept.
pub fn of_connection(t: &TcpSocket, x: &Extra, level: i32, max: usize) -> Result<Vec<u8>> {
    let arrival = t.arrival();
    let mut items = Vec::new();
    let number = |n: i32| n.to_le_bytes().to_vec();
    if level == libc::IPPROTO_IP {
        let from =
            arrival.unwrap_or(Arrival { iface: 0, ttl: t.opts.lock().multicast_ttl, tos: 0 });
        if x.wants(recv::PKTINFO) {
            let IpAddr::V4(own) = t.local().ip().to_canonical() else { return Ok(Vec::new()) };
            let data = [number(from.iface as i32), own.octets().into(), own.octets().into()];
            items.push((libc::IP_PKTINFO, data.concat()));
        }
        if x.wants(recv::TTL) {
            items.push((libc::IP_TTL, number(from.ttl.into())));
        }
        if x.wants(recv::TOS) {
            items.push((libc::IP_TOS, number(from.tos.into())));
        }
    } else {
        let wished = [recv::PKTINFO6, recv::HOPLIMIT, recv::TCLASS];
        if wished.iter().all(|w| !x.wants(*w)) {
            return Ok(Vec::new());
        }
        let (from, IpAddr::V6(peer)) = (arrival.ok_or(ENOPROTOOPT)?, t.remote()?.ip()) else {
            return Err(ENOPROTOOPT);
        };
        if x.wants(recv::PKTINFO6) {
            // The peer's address, as on Linux.
            let data = [peer.octets().to_vec(), number(from.iface as i32)];
            items.push((libc::IPV6_PKTINFO, data.concat()));
        }
        if x.wants(recv::HOPLIMIT) {
            items.push((libc::IPV6_HOPLIMIT, number(from.ttl.into())));
        }
        if x.wants(recv::TCLASS) {
            items.push((libc::IPV6_TCLASS, number(from.tos.into())));
        }
    }
    // `struct cmsghdr`, each message at a multiple of eight bytes; the last one may be cut.
    const HEAD: usize = 16;
    let mut out = Vec::new();
    for (kind, data) in items {
        let room = max.saturating_sub(out.len());
        if room < HEAD {
            break;
        }
        let len = (HEAD + data.len()).min(room);
        out.extend_from_slice(&(len as u64).to_le_bytes());
        out.extend_from_slice(&level.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&data[..len - HEAD]);
        out.resize(out.len().next_multiple_of(8).min(max), 0);
    }
    Ok(out)
}
