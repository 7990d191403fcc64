//! TCP, UDP and raw sockets (`struct inet_diag_req_v2`, `struct inet_diag_msg`; <linux/inet_diag.h>).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::raw::RawSocket;
use uml_net::sock::IpOptions;
use uml_net::stack::Stack;
use uml_net::tcp::State;
use uml_net::tcp_socket::{Row, TcpSocket};
use uml_net::tcp_table::{Quad, TimeWait};
use uml_net::time::{MS, Time};
use uml_net::udp::UdpSocket;

use super::bytecode::{Program, Subject};
use super::{OF_TCP, Query};
use crate::nlmsg::{Attrs, Message, Reply, ip_of};
use crate::tcp_options;

/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// INET_DIAG_REQ_BYTECODE and INET_DIAG_REQ_PROTOCOL.
const REQ_BYTECODE: u16 = 1;
const REQ_PROTOCOL: u16 = 3;
/// INET_DIAG_NOCOOKIE: any socket.
const NO_COOKIE: u64 = u64::MAX;

/// INET_DIAG_*: attributes of a socket.
pub(super) mod attr {
    pub const MEMINFO: u16 = 1;
    pub const INFO: u16 = 2;
    pub const CONG: u16 = 4;
    pub const TOS: u16 = 5;
    pub const TCLASS: u16 = 6;
    pub const SKMEMINFO: u16 = 7;
    pub const SHUTDOWN: u16 = 8;
    pub const PROTOCOL: u16 = 10;
    pub const SKV6ONLY: u16 = 11;
    pub const MARK: u16 = 15;
    pub const CLASS_ID: u16 = 17;
    pub const SOCKOPT: u16 = 22;
}

/// A socket of any kind.
enum Socket {
    Tcp(Arc<TcpSocket>),
    Wait(Arc<TimeWait>),
    /// A request of a listener.
    Half(Arc<TcpSocket>, Quad, u32, Time),
    Udp(Arc<UdpSocket>),
    Raw(Arc<RawSocket>),
}

/// What messages and filters have in common.
struct Entry {
    v6: bool,
    state: u8,
    local: SocketAddr,
    remote: SocketAddr,
    cookie: u64,
    timer: u8,
    retransmits: u8,
    /// Milliseconds.
    expires: u32,
    rx: u32,
    tx: u32,
    opts: IpOptions,
    bound: bool,
    shut: (bool, bool),
    drops: u32,
    sndbuf: u32,
    rcvbuf: u32,
}

fn sockets(stack: &Stack, protocol: i32) -> Result<Vec<Socket>> {
    match protocol {
        libc::IPPROTO_TCP => {
            let (conns, waits) = stack.tcp.connections();
            let listening = stack.tcp.listening();
            let half = |l: &Arc<TcpSocket>| {
                let l = l.clone();
                l.half_open().into_iter().map(move |(q, n, due)| Socket::Half(l.clone(), q, n, due))
            };
            let halves: Vec<_> = listening.iter().flat_map(half).collect();
            let all = listening.into_iter().chain(conns).map(Socket::Tcp).chain(halves);
            Ok(all.chain(waits.into_iter().map(Socket::Wait)).collect())
        }
        libc::IPPROTO_UDP => Ok(stack.udp.list().into_iter().map(Socket::Udp).collect()),
        libc::IPPROTO_UDPLITE => Ok(stack.udplite.list().into_iter().map(Socket::Udp).collect()),
        libc::IPPROTO_RAW => Ok(stack.raw.list().into_iter().map(Socket::Raw).collect()),
        // As for a protocol whose module is not there.
        _ => Err(ENOENT),
    }
}

fn entry(stack: &Stack, s: &Socket) -> Entry {
    let none = |v6: bool| {
        SocketAddr::new(if v6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from([0; 4]) }, 0)
    };
    let datagrams = |v6: bool, id, local, remote: Option<SocketAddr>, opts: IpOptions| Entry {
        v6,
        state: if remote.is_some() { State::Established } else { State::Closed } as u8,
        local,
        remote: remote.unwrap_or(none(v6)),
        cookie: id,
        timer: 0,
        retransmits: 0,
        expires: 0,
        rx: 0,
        tx: 0,
        bound: true,
        shut: (false, false),
        drops: 0,
        sndbuf: opts.rcvbuf as u32,
        rcvbuf: opts.rcvbuf as u32,
        opts,
    };
    match s {
        Socket::Tcp(t) => tcp(stack, t),
        Socket::Wait(w) => {
            let v6 = w.quad.local.is_ipv6();
            let e = datagrams(
                v6,
                NO_COOKIE >> 1,
                w.quad.local,
                Some(w.quad.remote),
                IpOptions::default(),
            );
            let left = w.expires.lock().since(stack.now()) / MS;
            Entry { state: State::TimeWait as u8, timer: 3, expires: left as u32, ..e }
        }
        Socket::Half(l, q, tries, due) => {
            let e = datagrams(l.v6, NO_COOKIE >> 1, q.local, Some(q.remote), IpOptions::default());
            let left = due.since(stack.now()) / MS;
            Entry {
                state: State::SynRecv as u8,
                timer: 1,
                retransmits: *tries as u8,
                expires: left as u32,
                ..e
            }
        }
        Socket::Udp(u) => {
            let (rx, drops) = u.usage();
            let opts = u.opts.lock().clone();
            let e = datagrams(u.v6, u.id, u.local(), u.remote(), opts);
            Entry { rx: rx as u32, drops: drops as u32, shut: u.shut(), bound: u.is_bound(), ..e }
        }
        Socket::Raw(r) => {
            let (rx, drops) = r.usage();
            let local = SocketAddr::new(r.local(), u16::from(r.proto));
            let remote = r.remote().map(|a| SocketAddr::new(a, 0));
            let opts = r.opts.lock().clone();
            let e = datagrams(r.v6, r.id, local, remote, opts);
            Entry { rx: rx as u32, drops: drops as u32, shut: r.shut(), ..e }
        }
    }
}

fn tcp(stack: &Stack, t: &TcpSocket) -> Entry {
    let r: Row = t.row();
    let (sndbuf, rcvbuf) = t.settings(|s| (s.sndbuf, s.rcvbuf));
    let listening = r.state == State::Listen;
    Entry {
        v6: t.v6,
        state: r.state as u8,
        local: r.local,
        remote: r.remote,
        cookie: t.id,
        timer: r.timer,
        retransmits: if r.timer == 1 { r.retransmits } else { r.probes }.min(255) as u8,
        expires: r.timer_at.map_or(0, |at| (at.since(stack.now()) / MS) as u32),
        rx: r.rx_queue as u32,
        tx: r.tx_queue as u32,
        opts: t.opts.lock().clone(),
        bound: r.bound || listening,
        shut: r.shut,
        drops: 0,
        sndbuf: sndbuf as u32,
        rcvbuf: rcvbuf as u32,
    }
}

/// The bytes of an address in a message: that of an IPv4 peer of an IPv6 socket is mapped.
pub(super) fn bytes(a: IpAddr, v6: bool) -> [u8; 16] {
    let mut b = [0; 16];
    match a {
        IpAddr::V4(a) if !v6 => b[..4].copy_from_slice(&a.octets()),
        IpAddr::V4(a) if a.is_unspecified() => {}
        IpAddr::V4(a) => b = a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => b = a.octets(),
    }
    b
}

fn shown(a: SocketAddr, v6: bool) -> (IpAddr, u16) {
    let ip = if v6 { Ipv6Addr::from(bytes(a.ip(), true)).into() } else { a.ip() };
    (ip, a.port())
}

/// `struct inet_diag_req_v2`.
struct Request<'a> {
    extensions: u8,
    states: u32,
    /// The ports and addresses that were asked for, and the cookie.
    id: &'a [u8],
    filter: Option<Program<'a>>,
}

fn port(id: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([id[at], id[at + 1]])
}

/// SOCK_DESTROY: ends the socket that is named. `EPERM` without CAP_NET_ADMIN, `EOPNOTSUPP` for kinds that cannot be ended.
pub(super) fn destroy(q: &Query<'_>) -> Result<()> {
    let fixed = q.body.get(..REQUEST).ok_or(EINVAL)?;
    let r = Request { extensions: 0, states: u32::MAX, id: &fixed[8..], filter: None };
    let all = sockets(&q.stack, i32::from(fixed[1]))?;
    let v6 = i32::from(fixed[0]) == libc::AF_INET6;
    let found = find(q, &r, v6, &all)?.0;
    if !q.privileged {
        return Err(EPERM);
    }
    match found {
        Socket::Tcp(t) => t.destroy(),
        Socket::Wait(w) => q.stack.tcp.end_wait(&q.stack, w),
        Socket::Half(l, half, ..) => l.forget(half),
        Socket::Udp(u) => u.destroy(),
        Socket::Raw(_) => return Err(EOPNOTSUPP),
    }
    Ok(())
}

/// Answers a dump, or a question for one socket: `ENOENT` when there is none, `ESTALE` when it is another one.
pub(super) fn answer(q: &Query<'_>, out: &mut Reply) -> Result<()> {
    let fixed = q.body.get(..REQUEST).ok_or(EINVAL)?;
    let attrs = Attrs::parse(q.body, REQUEST)?;
    let protocol = match attrs.word(REQ_PROTOCOL)? {
        Some(p) => p as i32,
        None => i32::from(fixed[1]),
    };
    let filter = attrs.get(REQ_BYTECODE).map(Program::new).transpose()?;
    let r = Request {
        extensions: fixed[2],
        states: u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        id: &fixed[8..],
        filter,
    };
    let v6 = i32::from(fixed[0]) == libc::AF_INET6;
    let all = match sockets(&q.stack, protocol) {
        Err(e) if q.dump => {
            out.end_with(e.raw());
            return Ok(());
        }
        all => all?,
    };
    if !q.dump {
        let (s, e) = find(q, &r, v6, &all)?;
        out.push(message(q, &r, s, &e, out));
        return Ok(());
    }
    for s in &all {
        let e = entry(&q.stack, s);
        // The old question is for both families.
        if (e.v6 == v6 || q.kind == OF_TCP) && wanted(&r, &e) {
            out.push(message(q, &r, s, &e, out));
        }
    }
    Ok(())
}

/// The same for the question that TCP had of its own (`struct inet_diag_req`).
pub(super) fn answer_old(q: &Query<'_>, out: &mut Reply) -> Result<()> {
    /// Family, lengths of addresses, extensions; ports and addresses; states, and an unused word.
    const OLD: usize = 60;
    let old = q.body.get(..OLD).ok_or(EINVAL)?;
    let mut body = vec![old[0], libc::IPPROTO_TCP as u8, old[3], 0];
    body.extend_from_slice(&old[52..56]);
    body.extend_from_slice(&old[4..52]);
    body.extend_from_slice(&q.body[OLD..]);
    let (stack, net, privileged) = (q.stack.clone(), q.net, q.privileged);
    answer(&Query { stack, net, privileged, dump: q.dump, kind: q.kind, body: &body }, out)
}

fn wanted(r: &Request<'_>, e: &Entry) -> bool {
    let matches = |want: u16, have: u16| want == 0 || want == have;
    let interface = u32::from_le_bytes([r.id[36], r.id[37], r.id[38], r.id[39]]);
    1u32.checked_shl(u32::from(e.state)).unwrap_or(0) & r.states != 0
        && matches(port(r.id, 0), e.local.port())
        && matches(port(r.id, 2), e.remote.port())
        && (interface == 0 || interface == e.opts.device)
        && r.filter.as_ref().is_none_or(|f| {
            f.accepts(&Subject {
                family: if e.v6 { libc::AF_INET6 } else { libc::AF_INET } as u8,
                local: shown(e.local, e.v6),
                remote: shown(e.remote, e.v6),
                interface: e.opts.device,
                mark: e.opts.mark,
                bound: e.bound,
            })
        })
}

/// The socket that was asked for: `ENOENT` when there is none, `ESTALE` when it is another one (of TCP `ENOENT`, too).
fn find<'a>(
    q: &Query<'_>,
    r: &Request<'_>,
    v6: bool,
    all: &'a [Socket],
) -> Result<(&'a Socket, Entry)> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let n = if v6 { 16 } else { 4 };
    let local = SocketAddr::new(ip_of(&r.id[4..4 + n], family)?, port(r.id, 0));
    let remote = SocketAddr::new(ip_of(&r.id[20..20 + n], family)?, port(r.id, 2));
    let cookie = |b: &[u8]| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let found = all.iter().map(|s| (s, entry(&q.stack, s))).find(|(_, e)| {
        e.v6 == v6
            && shown(e.local, v6) == (local.ip(), local.port())
            && shown(e.remote, v6) == (remote.ip(), remote.port())
    });
    let (s, e) = found.ok_or(ENOENT)?;
    let want = cookie(&r.id[40..48]);
    if want != NO_COOKIE && want != e.cookie {
        return Err(if matches!(s, Socket::Udp(_) | Socket::Raw(_)) { ESTALE } else { ENOENT });
    }
    Ok((s, e))
}

fn message(q: &Query<'_>, r: &Request<'_>, s: &Socket, e: &Entry, out: &Reply) -> Message {
    let mut b = vec![if e.v6 { libc::AF_INET6 } else { libc::AF_INET } as u8, e.state, e.timer];
    b.push(e.retransmits);
    b.extend_from_slice(&e.local.port().to_be_bytes());
    b.extend_from_slice(&e.remote.port().to_be_bytes());
    b.extend_from_slice(&bytes(e.local.ip(), e.v6));
    b.extend_from_slice(&bytes(e.remote.ip(), e.v6));
    b.extend_from_slice(&e.opts.device.to_le_bytes());
    b.extend_from_slice(&e.cookie.to_le_bytes());
    for w in [e.expires, e.rx, e.tx, e.opts.uid, e.opts.inode as u32] {
        b.extend_from_slice(&w.to_le_bytes());
    }
    let mut m = out.message(q.kind, q.dump, &b);
    if let Socket::Wait(_) | Socket::Half(..) = s {
        return m;
    }
    let asked = |a: u16| r.extensions & 1u8.checked_shl(u32::from(a) - 1).unwrap_or(0) != 0;
    m.byte(attr::SHUTDOWN, u8::from(e.shut.0) | u8::from(e.shut.1) << 1);
    if asked(attr::TOS) {
        m.byte(attr::TOS, e.opts.tos);
    }
    if e.v6 {
        if asked(attr::TCLASS) {
            m.byte(attr::TCLASS, e.opts.tclass);
        }
        if matches!(e.state, 7 | 10) {
            m.byte(attr::SKV6ONLY, u8::from(e.opts.v6only));
        }
    }
    if q.privileged {
        m.word(attr::MARK, e.opts.mark);
    }
    if asked(attr::TOS) {
        m.word(attr::CLASS_ID, e.opts.priority);
    }
    m.put(attr::SOCKOPT, &sockopt(s, &e.opts));
    let listening = e.state == State::Listen as u8;
    let (rx, tx) = if listening { (0, 0) } else { (e.rx, e.tx) };
    if let Socket::Raw(r) = s {
        m.byte(attr::PROTOCOL, r.proto);
    }
    if asked(attr::MEMINFO) {
        let words = [rx, tx, 0, tx];
        m.put(attr::MEMINFO, &words.map(u32::to_le_bytes).concat());
    }
    if asked(attr::SKMEMINFO) {
        let words = [rx, e.rcvbuf, tx, e.sndbuf, 0, tx, 0, 0, e.drops];
        m.put(attr::SKMEMINFO, &words.map(u32::to_le_bytes).concat());
    }
    if let Socket::Tcp(t) = s {
        if asked(attr::INFO) {
            m.put(attr::INFO, &tcp_options::info(&t.info(), usize::MAX));
        }
        if asked(attr::CONG) {
            let name = t.settings(|s| s.congestion.name());
            m.text(attr::CONG, name);
        }
    }
    m
}

/// `struct inet_diag_sockopt`: one bit each.
fn sockopt(s: &Socket, o: &IpOptions) -> [u8; 2] {
    let header = match s {
        Socket::Raw(r) => r.header_included.load(std::sync::atomic::Ordering::Relaxed),
        _ => false,
    };
    let bits = [
        o.recv_err,
        matches!(s, Socket::Tcp(_)),
        o.free_bind,
        header,
        o.multicast_loop,
        o.transparent,
        o.multicast_all,
    ];
    [bits.iter().enumerate().map(|(n, b)| u8::from(*b) << n).sum(), 0]
}
