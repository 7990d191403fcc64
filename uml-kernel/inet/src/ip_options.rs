//! Options at the levels SOL_SOCKET (the family's part), IPPROTO_IP and IPPROTO_IPV6 (ip(7), ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Mutex;
use uml_core::task::{Cap, Task};
use uml_net::route::Flow;
use uml_net::sock::{self, IpOptions};
use uml_net::stack::Stack;
use uml_net::wire::v4_options;
use uml_net::wire::v6_headers::Headers;

use crate::addr;
use crate::stream::may_use_port;

/// What a receiver wants to be told (bits of [`Extra::recv`]).
pub mod recv {
    pub const PKTINFO: u64 = 1;
    pub const TTL: u64 = 2;
    pub const TOS: u64 = 4;
    pub const ORIGDST: u64 = 8;
    pub const PKTINFO6: u64 = 16;
    pub const HOPLIMIT: u64 = 32;
    pub const TCLASS: u64 = 64;
    pub const NODEFRAG: u64 = 256;
    pub const AUTOFLOW: u64 = 512;
    pub const UDP_CORK: u64 = 2048;
    pub const NOCHECK6_TX: u64 = 4096;
    pub const NOCHECK6_RX: u64 = 8192;
    pub const RTHDR: u64 = 1 << 14;
    pub const DSTOPTS: u64 = 1 << 15;
    pub const HOPOPTS: u64 = 1 << 16;
    pub const ZEROCOPY: u64 = 1 << 18;
    pub const OPTIONS: u64 = 1 << 19;
    pub const RETOPTS: u64 = 1 << 20;
    pub const CHECKSUM: u64 = 1 << 21;
    pub const FRAGSIZE: u64 = 1 << 22;
    pub const FRAGSIZE6: u64 = 1 << 23;
}

/// Settings that only the glue needs.
#[derive(Default)]
pub struct Extra {
    /// Bits of [`recv`].
    pub recv: AtomicU64,
    /// TCP_DEFER_ACCEPT, seconds.
    pub defer: AtomicU64,
    /// UDP_SEGMENT.
    pub segment: AtomicU64,
    /// SO_BUSY_POLL, SO_INCOMING_CPU and the like are kept as they were set.
    pub kept: AtomicU64,
}

impl Extra {
    /// Takes over a listening socket's settings.
    pub fn inherit(&self, o: &Extra) {
        self.recv.store(o.recv.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// True when the bit is set.
    pub fn wants(&self, bit: u64) -> bool {
        self.recv.load(Ordering::Relaxed) & bit != 0
    }

    /// Sets or clears a bit.
    pub fn set(&self, bit: u64, on: bool) {
        if on {
            self.recv.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.recv.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// The socket an option is for.
pub struct Target<'a> {
    pub stack: &'a Arc<Stack>,
    pub opts: &'a Mutex<IpOptions>,
    pub extra: &'a Extra,
    pub v6: bool,
    /// SOCK_*.
    pub kind: i32,
}

impl Target<'_> {
    /// A raw socket of IPv6 has no options of IPv4.
    fn is_raw6(&self) -> bool {
        self.v6 && self.kind == libc::SOCK_RAW
    }
}

/// An integer of four bytes, or one byte where options allow it (ip(7)).
pub(crate) fn int(v: &[u8]) -> Result<i32> {
    match v.len() {
        0 => Err(EINVAL),
        1..=3 => Ok(i32::from(v[0])),
        _ => Ok(i32::from_le_bytes([v[0], v[1], v[2], v[3]])),
    }
}

fn whole_int(v: &[u8]) -> Result<i32> {
    if v.len() < 4 { Err(EINVAL) } else { int(v) }
}

/// The bytes of an integer option.
pub(crate) fn one(v: i32) -> Result<Vec<u8>> {
    Ok(v.to_le_bytes().to_vec())
}

/// The address of a bind(2): checked for family, port and privilege.
pub fn bind_address(
    stack: &Arc<Stack>,
    task: &Task,
    a: &[u8],
    v6: bool,
) -> Result<(SocketAddr, u32)> {
    let f = addr::family(a)?;
    // A family of AF_UNSPEC with the wildcard is taken as AF_INET (ip(7) BUGS of old programs).
    let fixed;
    let a = if !v6 && f == libc::AF_UNSPEC && a.len() >= addr::LEN_V4 && a[4..8] == [0; 4] {
        let mut b = a.to_vec();
        b[..2].copy_from_slice(&(libc::AF_INET as u16).to_le_bytes());
        fixed = b;
        &fixed[..]
    } else {
        a
    };
    let (to, scope) = addr::parse(a, v6)?;
    if let IpAddr::V6(ip) = to.ip()
        && uml_net::interface::is_link_local(ip)
        && scope == 0
    {
        return Err(EINVAL);
    }
    may_use_port(stack, task, to.port())?;
    Ok((to, scope))
}

fn group_index(stack: &Stack, addr: Ipv4Addr) -> Result<u32> {
    if addr.is_unspecified() {
        return Ok(0);
    }
    stack.owner(addr.into()).map(|i| i.index).ok_or(ENODEV)
}

fn v4_at(v: &[u8], at: usize) -> Result<Ipv4Addr> {
    v.get(at..at + 4).map(|b| Ipv4Addr::new(b[0], b[1], b[2], b[3])).ok_or(EINVAL)
}

fn v6_at(v: &[u8], at: usize) -> Result<Ipv6Addr> {
    let mut o = [0; 16];
    o.copy_from_slice(v.get(at..at + 16).ok_or(EINVAL)?);
    Ok(o.into())
}

const SO_BINDTOIFINDEX: i32 = 62;
const SO_RESERVE_MEM: i32 = 73;
const SO_TXREHASH: i32 = 74;
const SO_PREFER_BUSY_POLL: i32 = 69;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_LEAVE_GROUP: i32 = 45;
const IP_MULTICAST_ALL: i32 = 49;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IP_RECVERR_RFC4884: i32 = 26;
const IP_LOCAL_PORT_RANGE: i32 = 51;
const IP_NODEFRAG: i32 = 22;
const IP_CHECKSUM: i32 = 23;
pub(crate) const IP_RECVFRAGSIZE: i32 = 25;
const IPV6_MINHOPCOUNT: i32 = 73;
pub(crate) const IPV6_RECVFRAGSIZE: i32 = 77;
const IPV6_MULTICAST_ALL: i32 = 29;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_FREEBIND: i32 = 78;

/// setsockopt(2).
pub fn set(t: &Target<'_>, task: &Task, level: i32, name: i32, v: &[u8]) -> Result<()> {
    match level {
        libc::SOL_SOCKET => set_socket(t, task, name, v),
        libc::IPPROTO_IP if t.is_raw6() => Err(ENOPROTOOPT),
        libc::IPPROTO_IP => set_v4(t, task, name, v),
        libc::IPPROTO_IPV6 if t.v6 => set_v6(t, task, name, v),
        libc::IPPROTO_IPV6 => Err(ENOPROTOOPT),
        _ => Err(ENOPROTOOPT),
    }
}

fn set_socket(t: &Target<'_>, task: &Task, name: i32, v: &[u8]) -> Result<()> {
    match name {
        libc::SO_BINDTODEVICE => {
            let end = v.iter().position(|b| *b == 0).unwrap_or(v.len()).min(15);
            let text = std::str::from_utf8(&v[..end]).map_err(|_| ENODEV)?;
            let index = if text.is_empty() {
                0
            } else {
                t.stack.interface_named(text).ok_or(ENODEV)?.index
            };
            if t.opts.lock().device != 0 {
                crate::require_net(task, Cap::NetRaw)?;
            }
            t.opts.lock().device = index;
            Ok(())
        }
        SO_BINDTOIFINDEX => {
            let n = whole_int(v)?;
            let n = u32::try_from(n).map_err(|_| EINVAL)?;
            if n != 0 {
                t.stack.interface(n).ok_or(ENODEV)?;
            }
            t.opts.lock().device = n;
            Ok(())
        }
        libc::SO_ZEROCOPY => {
            t.extra.set(recv::ZEROCOPY, whole_int(v)? != 0);
            Ok(())
        }
        // Hints that change nothing a program could see.
        libc::SO_INCOMING_CPU
        | libc::SO_BUSY_POLL
        | SO_PREFER_BUSY_POLL
        | SO_RESERVE_MEM
        | SO_TXREHASH => {
            t.extra.kept.store(whole_int(v)? as u32 as u64, Ordering::Relaxed);
            Ok(())
        }
        libc::SO_MAX_PACING_RATE => {
            whole_int(v)?;
            Ok(())
        }
        libc::SO_DETACH_FILTER => Err(ENOENT),
        _ => Err(ENOPROTOOPT),
    }
}

fn set_v4(t: &Target<'_>, task: &Task, name: i32, v: &[u8]) -> Result<()> {
    let bit = match name {
        libc::IP_PKTINFO => recv::PKTINFO,
        libc::IP_RECVTTL => recv::TTL,
        libc::IP_RECVTOS => recv::TOS,
        libc::IP_RECVORIGDSTADDR => recv::ORIGDST,
        IP_NODEFRAG => recv::NODEFRAG,
        libc::IP_RECVOPTS => recv::OPTIONS,
        libc::IP_RETOPTS => recv::RETOPTS,
        // Sums are told of packets whose device made one of everything in them, which none here does.
        IP_CHECKSUM => recv::CHECKSUM,
        // Streams have no pieces that a reader could see.
        IP_RECVFRAGSIZE if t.kind == libc::SOCK_STREAM => return Err(EINVAL),
        IP_RECVFRAGSIZE => recv::FRAGSIZE,
        _ => 0,
    };
    if bit != 0 {
        // Nothing at all is off.
        t.extra.set(bit, !v.is_empty() && int(v)? != 0);
        return Ok(());
    }
    match name {
        libc::IP_TOS => {
            let n = int(v)? as u8;
            // The congestion bits of a stream are the kernel's.
            let n = if t.kind == libc::SOCK_STREAM { n & !3 | t.opts.lock().tos & 3 } else { n };
            t.opts.lock().tos = n;
        }
        libc::IP_TTL => match int(v)? {
            -1 => t.opts.lock().ttl = None,
            n @ 1..=255 => t.opts.lock().ttl = Some(n as u8),
            _ => return Err(EINVAL),
        },
        libc::IP_MULTICAST_TTL => {
            if t.kind == libc::SOCK_STREAM {
                return Err(EINVAL);
            }
            let n = match int(v)? {
                -1 => 1,
                n => u8::try_from(n).map_err(|_| EINVAL)?,
            };
            t.opts.lock().multicast_ttl = n;
        }
        libc::IP_MULTICAST_LOOP => t.opts.lock().multicast_loop = int(v)? != 0,
        IP_MULTICAST_ALL => {
            let n = int(v)?;
            if n != 0 && n != 1 {
                return Err(EINVAL);
            }
            t.opts.lock().multicast_all = n != 0;
        }
        libc::IP_MULTICAST_IF => {
            if t.kind == libc::SOCK_STREAM {
                return Err(ENOPROTOOPT);
            }
            let (addr, index) = match v.len() {
                12.. => (v4_at(v, 4)?, int(&v[8..12])?),
                8..=11 => (v4_at(v, 4)?, 0),
                4..=7 => (v4_at(v, 0)?, 0),
                _ => return Err(EINVAL),
            };
            let index = if index != 0 {
                t.stack.interface(index as u32).ok_or(EADDRNOTAVAIL)?.index
            } else if addr.is_unspecified() {
                0
            } else {
                t.stack.owner(addr.into()).ok_or(EADDRNOTAVAIL)?.index
            };
            let mut o = t.opts.lock();
            o.multicast_if = index;
            o.multicast_src = (!addr.is_unspecified()).then_some(addr);
        }
        libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP => {
            if t.kind == libc::SOCK_STREAM {
                return Err(EPROTO);
            }
            let group = v4_at(v, 0)?;
            let index = match v.len() {
                12.. => match int(&v[8..12])? {
                    0 => group_index(t.stack, v4_at(v, 4)?)?,
                    n => n as u32,
                },
                8..=11 => group_index(t.stack, v4_at(v, 4)?)?,
                _ => return Err(EINVAL),
            };
            let f = if name == libc::IP_ADD_MEMBERSHIP { sock::join } else { sock::leave };
            f(t.stack, t.opts, group.into(), index)?;
        }
        MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP => group_req(t, name == MCAST_JOIN_GROUP, v)?,
        libc::IP_MTU_DISCOVER => {
            let n = int(v)?;
            if !(0..=5).contains(&n) {
                return Err(EINVAL);
            }
            t.opts.lock().pmtu = n as u8;
        }
        libc::IP_RECVERR => t.opts.lock().recv_err = int(v)? != 0,
        IP_BIND_ADDRESS_NO_PORT => t.opts.lock().bind_no_port = int(v)? != 0,
        IP_RECVERR_RFC4884 | IP_LOCAL_PORT_RANGE => return Err(ENOPROTOOPT),
        libc::IP_MINTTL => {
            let n = u8::try_from(int(v)?).map_err(|_| EINVAL)?;
            t.opts.lock().min_ttl = n;
            t.stack.tcp.any_min_ttl.fetch_or(n != 0, Ordering::Relaxed);
        }
        libc::IP_FREEBIND => t.opts.lock().free_bind = int(v)? != 0,
        libc::IP_TRANSPARENT => {
            let on = int(v)? != 0;
            if on && crate::require_net(task, Cap::NetRaw).is_err() {
                crate::require_net(task, Cap::NetAdmin)?;
            }
            t.opts.lock().transparent = on;
        }
        libc::IP_OPTIONS => {
            let o = packet_options(task, v)?;
            t.opts.lock().options = o;
        }
        _ => return Err(ENOPROTOOPT),
    }
    Ok(())
}

/// IPv4 options that a program gives: `EINVAL` for what is wrong with them, `EPERM` for source routes without CAP_NET_RAW.
pub(crate) fn packet_options(task: &Task, v: &[u8]) -> Result<v4_options::Options> {
    let raw = crate::require_net(task, Cap::NetRaw).is_ok();
    v4_options::Options::of_program(v, raw).map_err(|e| match e {
        v4_options::Refusal::Wrong(_) => EINVAL,
        v4_options::Refusal::Privilege => EPERM,
    })
}

/// Whether the option changes what stands in the headers of packets.
pub(crate) fn is_of_headers(level: i32, name: i32) -> bool {
    match level {
        libc::IPPROTO_IP => name == libc::IP_OPTIONS,
        libc::IPPROTO_IPV6 => header_place(&mut Headers::default(), name).is_some(),
        _ => false,
    }
}

/// The place of an extension header among those of a socket or a message; `None` for routing headers.
pub(crate) fn header_place(h: &mut Headers, name: i32) -> Option<&mut Vec<u8>> {
    match name {
        libc::IPV6_HOPOPTS => Some(&mut h.hop),
        libc::IPV6_RTHDRDSTOPTS => Some(&mut h.first),
        libc::IPV6_DSTOPTS => Some(&mut h.dst),
        _ => None,
    }
}

/// A header of options that stays with the socket (RFC 3542 4): `EPERM` without CAP_NET_RAW, `EINVAL` for one that is cut short and
/// for routing headers, whose type 0 is no more (RFC 5095).
fn set_header(t: &Target<'_>, task: &Task, name: i32, v: &[u8]) -> Result<()> {
    if name != libc::IPV6_RTHDR {
        crate::require_net(task, Cap::NetRaw)?;
    }
    let header = match v.len() {
        0 => Vec::new(),
        n if n % 8 != 0 || n > 8 * 255 || name == libc::IPV6_RTHDR => return Err(EINVAL),
        _ => Headers::of_program(v).ok_or(EINVAL)?,
    };
    if let Some(place) = header_place(&mut t.opts.lock().headers, name) {
        *place = header;
    }
    Ok(())
}

/// `struct group_req`.
fn group_req(t: &Target<'_>, join: bool, v: &[u8]) -> Result<()> {
    if v.len() < 136 {
        return Err(EINVAL);
    }
    let index = int(v)? as u32;
    let v6 = addr::family(&v[8..])? == libc::AF_INET6;
    let (group, _) = addr::parse(&v[8..], v6)?;
    let f = if join { sock::join } else { sock::leave };
    f(t.stack, t.opts, group.ip(), index)
}

fn set_v6(t: &Target<'_>, task: &Task, name: i32, v: &[u8]) -> Result<()> {
    let bit = match name {
        libc::IPV6_RECVPKTINFO => recv::PKTINFO6,
        libc::IPV6_RECVHOPLIMIT => recv::HOPLIMIT,
        libc::IPV6_RECVTCLASS => recv::TCLASS,
        libc::IPV6_RECVRTHDR => recv::RTHDR,
        libc::IPV6_RECVDSTOPTS => recv::DSTOPTS,
        libc::IPV6_RECVHOPOPTS => recv::HOPOPTS,
        IPV6_AUTOFLOWLABEL => recv::AUTOFLOW,
        IPV6_RECVFRAGSIZE => recv::FRAGSIZE6,
        _ => 0,
    };
    if bit != 0 {
        let v = match name {
            // Less than a number is none here.
            IPV6_RECVFRAGSIZE if v.len() < 4 => &[0; 4],
            _ => v,
        };
        t.extra.set(bit, whole_int(v)? != 0);
        return Ok(());
    }
    match name {
        libc::IPV6_V6ONLY => t.opts.lock().v6only = whole_int(v)? != 0,
        libc::IPV6_UNICAST_HOPS | libc::IPV6_MULTICAST_HOPS => {
            let n = whole_int(v)?;
            if !(-1..=255).contains(&n) {
                return Err(EINVAL);
            }
            if name == libc::IPV6_MULTICAST_HOPS {
                if t.kind == libc::SOCK_STREAM {
                    return Err(ENOPROTOOPT);
                }
                t.opts.lock().multicast_hops = u8::try_from(n).unwrap_or(1);
            } else {
                t.opts.lock().hops = u8::try_from(n).ok();
            }
        }
        IPV6_MINHOPCOUNT => {
            let n = u8::try_from(whole_int(v)?).map_err(|_| EINVAL)?;
            t.opts.lock().min_hops = n;
            t.stack.tcp.any_min_ttl.fetch_or(n != 0, Ordering::Relaxed);
        }
        libc::IPV6_MULTICAST_LOOP => match whole_int(v)? {
            n @ 0..=1 => t.opts.lock().multicast_loop6 = n != 0,
            _ => return Err(EINVAL),
        },
        IPV6_MULTICAST_ALL => {
            whole_int(v)?;
        }
        libc::IPV6_MULTICAST_IF => {
            let n = whole_int(v)? as u32;
            if n != 0 {
                t.stack.interface(n).ok_or(ENODEV)?;
            }
            t.opts.lock().multicast_if6 = n;
        }
        libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP => {
            if t.kind == libc::SOCK_STREAM {
                return Err(EPROTO);
            }
            let group = v6_at(v, 0)?;
            let index = int(v.get(16..20).ok_or(EINVAL)?)? as u32;
            let f = if name == libc::IPV6_ADD_MEMBERSHIP { sock::join } else { sock::leave };
            f(t.stack, t.opts, group.into(), index)?;
        }
        MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP => group_req(t, name == MCAST_JOIN_GROUP, v)?,
        libc::IPV6_MTU_DISCOVER => {
            let n = whole_int(v)?;
            if !(0..=5).contains(&n) {
                return Err(EINVAL);
            }
            t.opts.lock().pmtu6 = n as u8;
        }
        libc::IPV6_RECVERR => t.opts.lock().recv_err6 = whole_int(v)? != 0,
        libc::IPV6_TCLASS => {
            let n = whole_int(v)?;
            if !(-1..=255).contains(&n) {
                return Err(EINVAL);
            }
            t.opts.lock().tclass = n.max(0) as u8;
        }
        libc::IPV6_DONTFRAG => t.opts.lock().dontfrag = whole_int(v)? != 0,
        libc::IPV6_TRANSPARENT => {
            crate::require_net(task, Cap::NetAdmin)?;
            t.opts.lock().transparent = whole_int(v)? != 0;
        }
        IPV6_FREEBIND => t.opts.lock().free_bind = whole_int(v)? != 0,
        libc::IPV6_HOPOPTS | libc::IPV6_RTHDRDSTOPTS | libc::IPV6_RTHDR | libc::IPV6_DSTOPTS => {
            set_header(t, task, name, v)?;
        }
        _ => return Err(ENOPROTOOPT),
    }
    Ok(())
}

/// getsockopt(2); `mtu` is the path MTU of a connected socket.
pub fn get(t: &Target<'_>, level: i32, name: i32, mtu: Option<u32>) -> Result<Vec<u8>> {
    match level {
        libc::SOL_SOCKET => get_socket(t, name),
        libc::IPPROTO_IP if t.is_raw6() => Err(ENOPROTOOPT),
        libc::IPPROTO_IP => get_v4(t, name, mtu),
        libc::IPPROTO_IPV6 if t.v6 => get_v6(t, name, mtu),
        _ if t.v6 => Err(ENOPROTOOPT),
        _ => Err(EOPNOTSUPP),
    }
}

fn get_socket(t: &Target<'_>, name: i32) -> Result<Vec<u8>> {
    match name {
        libc::SO_BINDTODEVICE => {
            let n = t.opts.lock().device;
            Ok(match t.stack.interface(n) {
                Some(i) => [i.name().as_bytes(), &[0]].concat(),
                None => Vec::new(),
            })
        }
        SO_BINDTOIFINDEX => one(t.opts.lock().device as i32),
        libc::SO_ZEROCOPY => one(i32::from(t.extra.wants(recv::ZEROCOPY))),
        libc::SO_INCOMING_CPU
        | libc::SO_BUSY_POLL
        | SO_PREFER_BUSY_POLL
        | SO_RESERVE_MEM
        | SO_TXREHASH => one(t.extra.kept.load(Ordering::Relaxed) as i32),
        libc::SO_MAX_PACING_RATE => one(-1),
        libc::SO_COOKIE => Ok(t.opts.lock().inode.to_le_bytes().to_vec()),
        _ => Err(ENOPROTOOPT),
    }
}

/// SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (netfilter_ipv4.h).
pub(crate) const ORIGINAL_DST: i32 = 80;

/// Where the connection was going before NAT sent it here: `ENOENT` when it is not tracked.
pub(crate) fn original_destination(
    t: &Target<'_>,
    level: i32,
    local: SocketAddr,
    remote: SocketAddr,
    max: usize,
) -> Result<Vec<u8>> {
    let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let (local, remote) = (plain(local), plain(remote));
    if local.is_ipv4() != (level == libc::SOL_IP) {
        return Err(ENOENT);
    }
    let filter = t.stack.hooks.filter().ok_or(ENOENT)?;
    let to = filter.original_destination(t.stack, local, remote).ok_or(ENOENT)?;
    let bytes = crate::addr::format(to, !local.is_ipv4(), 0);
    if max < bytes.len() { Err(EINVAL) } else { Ok(bytes) }
}

fn path_mtu(t: &Target<'_>, known: Option<u32>, to: Option<IpAddr>) -> Result<Vec<u8>> {
    let m = match (known, to) {
        (Some(m), _) => m,
        (None, Some(a)) => t.stack.route_to(&Flow::to(a)).map_err(|_| ENOTCONN)?.mtu as u32,
        _ => return Err(ENOTCONN),
    };
    one(m as i32)
}

fn get_v4(t: &Target<'_>, name: i32, mtu: Option<u32>) -> Result<Vec<u8>> {
    let flag = |b: bool| one(i32::from(b));
    let wants = |bit| flag(t.extra.wants(bit));
    let o = t.opts.lock().clone();
    match name {
        libc::IP_TOS => one(i32::from(o.tos)),
        libc::IP_TTL => one(o.ttl.map_or(t.stack.conf.ip_default_ttl.get() as i32, i32::from)),
        libc::IP_MULTICAST_TTL => one(i32::from(o.multicast_ttl)),
        libc::IP_MULTICAST_LOOP => flag(o.multicast_loop),
        IP_MULTICAST_ALL => flag(o.multicast_all),
        libc::IP_MULTICAST_IF => {
            Ok(o.multicast_src.unwrap_or(Ipv4Addr::UNSPECIFIED).octets().to_vec())
        }
        libc::IP_MTU_DISCOVER => one(i32::from(o.pmtu)),
        libc::IP_MTU => path_mtu(t, mtu, None),
        libc::IP_RECVERR => flag(o.recv_err),
        libc::IP_FREEBIND => flag(o.free_bind),
        libc::IP_TRANSPARENT => flag(o.transparent),
        libc::IP_PKTINFO => wants(recv::PKTINFO),
        libc::IP_RECVTTL => wants(recv::TTL),
        libc::IP_RECVTOS => wants(recv::TOS),
        libc::IP_RECVORIGDSTADDR => wants(recv::ORIGDST),
        IP_NODEFRAG => wants(recv::NODEFRAG),
        libc::IP_RECVOPTS => wants(recv::OPTIONS),
        libc::IP_RETOPTS => wants(recv::RETOPTS),
        IP_CHECKSUM => wants(recv::CHECKSUM),
        IP_RECVFRAGSIZE => wants(recv::FRAGSIZE),
        libc::IP_MINTTL => one(i32::from(o.min_ttl)),
        IP_BIND_ADDRESS_NO_PORT => flag(o.bind_no_port),
        libc::IP_OPTIONS => Ok(o.options.bytes().to_vec()),
        _ => Err(ENOPROTOOPT),
    }
}

fn get_v6(t: &Target<'_>, name: i32, mtu: Option<u32>) -> Result<Vec<u8>> {
    let flag = |b: bool| one(i32::from(b));
    let wants = |bit| flag(t.extra.wants(bit));
    let o = t.opts.lock().clone();
    match name {
        libc::IPV6_V6ONLY => flag(o.v6only),
        libc::IPV6_UNICAST_HOPS => one(o.hops.map_or(64, i32::from)),
        libc::IPV6_MULTICAST_HOPS => one(i32::from(o.multicast_hops)),
        libc::IPV6_MULTICAST_LOOP => flag(o.multicast_loop6),
        libc::IPV6_MULTICAST_IF => one(o.multicast_if6 as i32),
        IPV6_MULTICAST_ALL => one(1),
        libc::IPV6_MTU_DISCOVER => one(i32::from(o.pmtu6)),
        libc::IPV6_MTU => path_mtu(t, mtu, None),
        libc::IPV6_RECVERR => flag(o.recv_err6),
        libc::IPV6_TCLASS => one(i32::from(o.tclass)),
        libc::IPV6_DONTFRAG => flag(o.dontfrag),
        libc::IPV6_TRANSPARENT => flag(o.transparent),
        IPV6_FREEBIND => flag(o.free_bind),
        libc::IPV6_RECVPKTINFO => wants(recv::PKTINFO6),
        libc::IPV6_RECVHOPLIMIT => wants(recv::HOPLIMIT),
        libc::IPV6_RECVTCLASS => wants(recv::TCLASS),
        libc::IPV6_RECVRTHDR => wants(recv::RTHDR),
        libc::IPV6_RECVDSTOPTS => wants(recv::DSTOPTS),
        libc::IPV6_RECVHOPOPTS => wants(recv::HOPOPTS),
        IPV6_AUTOFLOWLABEL => wants(recv::AUTOFLOW),
        IPV6_RECVFRAGSIZE => wants(recv::FRAGSIZE6),
        IPV6_MINHOPCOUNT => one(i32::from(o.min_hops)),
        libc::IPV6_HOPOPTS | libc::IPV6_RTHDRDSTOPTS | libc::IPV6_RTHDR | libc::IPV6_DSTOPTS => {
            let mut o = o;
            Ok(header_place(&mut o.headers, name).cloned().unwrap_or_default())
        }
        _ => Err(ENOPROTOOPT),
    }
}
