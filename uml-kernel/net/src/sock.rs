//! What sockets of all kinds have: IP options, a queue of datagrams, errors.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex};

use crate::icmp::Notice;
use crate::interface::Interface;
use crate::ip::{Dst, Meta, header_len};
use crate::packet::Data;
use crate::route::{Flow, Kind};
use crate::stack::{Cx, Stack};
use crate::stamp;
use crate::wire::v4_options;
use crate::wire::v6_headers::Headers;

/// IP_PMTUDISC_* (ip(7)).
pub mod pmtu {
    pub const DONT: u8 = 0;
    pub const WANT: u8 = 1;
    pub const DO: u8 = 2;
    pub const PROBE: u8 = 3;
}

/// Options at the IP levels (ip(7), ipv6(7)) that concern packets.
#[derive(Clone, Debug)]
pub struct IpOptions {
    /// IP_TTL, IPV6_UNICAST_HOPS.
    pub ttl: Option<u8>,
    pub hops: Option<u8>,
    pub tos: u8,
    pub tclass: u8,
    pub multicast_ttl: u8,
    pub multicast_hops: u8,
    pub multicast_loop: bool,
    pub multicast_loop6: bool,
    pub multicast_if: u32,
    pub multicast_if6: u32,
    pub multicast_src: Option<Ipv4Addr>,
    pub multicast_all: bool,
    /// IP_MINTTL, IPV6_MINHOPCOUNT: segments whose time to live is less are not for the connection (RFC 5082).
    pub min_ttl: u8,
    pub min_hops: u8,
    pub pmtu: u8,
    pub pmtu6: u8,
    pub dontfrag: bool,
    pub free_bind: bool,
    pub transparent: bool,
    /// IP_BIND_ADDRESS_NO_PORT: bind(2) of port 0 leaves the choice to connect(2) or the first datagram.
    pub bind_no_port: bool,
    pub v6only: bool,
    /// IP_OPTIONS.
    pub options: v4_options::Options,
    /// IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS and IPV6_DSTOPTS.
    pub headers: Headers,
    /// IP_RECVERR, IPV6_RECVERR.
    pub recv_err: bool,
    pub recv_err6: bool,
    /// SO_BINDTODEVICE.
    pub device: u32,
    pub mark: u32,
    pub priority: u32,
    pub broadcast: bool,
    pub reuse_addr: bool,
    pub reuse_port: bool,
    /// Owner, for SO_REUSEPORT and listings.
    pub uid: u32,
    pub rcvbuf: usize,
    pub memberships: Vec<(u32, IpAddr)>,
    /// Inode number of the descriptor, for listings.
    pub inode: u64,
    /// Address of a listening socket, for lookups.
    pub listen_addr: Option<IpAddr>,
}

impl Default for IpOptions {
    fn default() -> Self {
        IpOptions {
            ttl: None,
            hops: None,
            tos: 0,
            tclass: 0,
            multicast_ttl: 1,
            multicast_hops: 1,
            multicast_loop: true,
            multicast_loop6: true,
            multicast_if: 0,
            multicast_if6: 0,
            multicast_src: None,
            multicast_all: true,
            min_ttl: 0,
            min_hops: 0,
            pmtu: pmtu::WANT,
            pmtu6: pmtu::WANT,
            dontfrag: false,
            free_bind: false,
            transparent: false,
            bind_no_port: false,
            v6only: false,
            options: Default::default(),
            headers: Headers::default(),
            recv_err: false,
            recv_err6: false,
            device: 0,
            mark: 0,
            priority: 0,
            broadcast: false,
            reuse_addr: false,
            reuse_port: false,
            uid: 0,
            rcvbuf: 212_992,
            memberships: Vec::new(),
            inode: 0,
            listen_addr: None,
        }
    }
}

/// What a single send may say instead (ancillary data).
#[derive(Clone, Debug, Default)]
pub struct SendInfo {
    pub src: Option<IpAddr>,
    pub iface: u32,
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    pub dontroute: bool,
    /// UDP_SEGMENT.
    pub segment: u16,
    /// IP_RETOPTS.
    pub options: Option<v4_options::Options>,
    /// SO_TIMESTAMPING, when something of it concerns what is sent.
    pub stamp: Option<stamp::Asked>,
    /// IPV6_HOPOPTS and the like: they stand for those of the socket.
    pub headers: Option<Headers>,
}

impl IpOptions {
    /// The lookup key of a packet to `dst`; `scope` is the interface that a link-local address named.
    pub fn flow(&self, dst: IpAddr, src: Option<IpAddr>, scope: u32, info: &SendInfo) -> Flow {
        let mut oif = [info.iface, self.device, scope].into_iter().find(|i| *i != 0).unwrap_or(0);
        let mut src = info.src.or(src);
        let dst = match dst {
            IpAddr::V4(_) => self.options(info).first_hop().map_or(dst, IpAddr::V4),
            IpAddr::V6(_) => dst,
        };
        if dst.is_multicast() && oif == 0 {
            oif = if dst.is_ipv4() { self.multicast_if } else { self.multicast_if6 };
            if src.is_none() && dst.is_ipv4() {
                src = self.multicast_src.map(IpAddr::V4);
            }
        }
        Flow { dst, src, oif, iif: 0, mark: self.mark, tos: self.tos }
    }

    /// What a packet says in its IPv4 options.
    fn options<'a>(&'a self, info: &'a SendInfo) -> &'a v4_options::Options {
        info.options.as_ref().unwrap_or(&self.options)
    }

    /// Bytes of options and extension headers in each packet to `dst`.
    pub fn extra(&self, dst: IpAddr, info: &SendInfo) -> usize {
        if dst.is_ipv4() {
            self.options(info).len()
        } else {
            info.headers.as_ref().unwrap_or(&self.headers).len()
        }
    }

    /// The header of a packet of `len` transport bytes that goes `way` to `dst`.
    pub fn meta(
        &self,
        way: &Dst,
        dst: IpAddr,
        proto: u8,
        len: usize,
        info: &SendInfo,
        stack: &Stack,
    ) -> Meta {
        let mut m = Meta::new(way.src, dst, proto);
        m.owner = Some(self.uid);
        let group = dst.is_multicast();
        if dst.is_ipv4() {
            let default = stack.conf.ip_default_ttl.get() as u8;
            m.ttl = if group { self.multicast_ttl } else { self.ttl.unwrap_or(default) };
            m.tos = info.tos.unwrap_or(self.tos);
            m.set_options(stack, self.options(info));
            let fits = header_len(dst) + m.options.len() + len <= way.mtu;
            m.df = match self.pmtu {
                pmtu::DONT => false,
                pmtu::DO | pmtu::PROBE => true,
                _ => fits,
            };
            if !m.df {
                m.id = stack.next_id();
            }
        } else {
            let default = way.iface.v6.hop_limit.load(Ordering::Relaxed) as u8;
            m.ttl = if group { self.multicast_hops } else { self.hops.unwrap_or(default) };
            m.tos = info.tos.unwrap_or(self.tclass);
            let headers = info.headers.as_ref().unwrap_or(&self.headers);
            (m.first, m.options) = headers.chain(proto);
        }
        if let Some(t) = info.ttl {
            m.ttl = t;
        }
        m
    }
}

/// A datagram that was received.
#[derive(Clone)]
pub struct Datagram {
    pub src: SocketAddr,
    pub dst: IpAddr,
    pub dst_port: u16,
    pub iface: u32,
    pub ttl: u8,
    pub tos: u8,
    pub data: Data,
    /// Nanoseconds since the epoch.
    pub stamp: u64,
    /// Size of each part, when several datagrams came as one (UDP_GRO).
    pub gso: u16,
    /// The network header, when it has options or extension headers.
    pub header: Vec<u8>,
    /// Bytes of the longest of the packets that it came in, when those were pieces; else 0.
    pub piece: u32,
}

/// An entry of the error queue (ip(7) IP_RECVERR).
#[derive(Clone, Debug)]
pub struct QueuedError {
    pub errno: Errno,
    /// SO_EE_ORIGIN_*: 1 local, 2 ICMP, 3 ICMPv6, 4 times of packets that were sent.
    pub origin: u8,
    pub kind: u8,
    pub code: u8,
    pub info: u32,
    pub data: u32,
    /// Nanoseconds since the epoch, when it is a time.
    pub stamp: u64,
    pub offender: Option<IpAddr>,
    /// Where the packet went.
    pub dst: SocketAddr,
    pub payload: Vec<u8>,
}

/// What a queued datagram costs beyond its bytes.
const OVERHEAD: usize = 768;
/// Errors kept.
const ERRORS_MAX: usize = 64;

/// Datagrams and errors for a reader.
#[derive(Default)]
pub struct Inbox {
    queue: VecDeque<Datagram>,
    bytes: usize,
    pub error: Option<Errno>,
    errors: VecDeque<QueuedError>,
    pub drops: u64,
    pub shut_read: bool,
    pub shut_write: bool,
}

impl Inbox {
    /// Whether a datagram of `len` bytes would be taken: one always is when nothing waits.
    pub fn has_room(&self, len: usize, rcvbuf: usize) -> bool {
        let cost = len + OVERHEAD;
        !self.shut_read && (self.queue.is_empty() || self.bytes + cost <= rcvbuf.max(cost))
    }

    /// Datagrams that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Queues a datagram unless the buffer is full. True when it was.
    pub fn put(&mut self, d: Datagram, rcvbuf: usize) -> bool {
        if !self.has_room(d.data.len(), rcvbuf) {
            self.drops += 1;
            return false;
        }
        self.bytes += d.data.len() + OVERHEAD;
        self.queue.push_back(d);
        true
    }

    /// The first datagram, or the pending error; `EAGAIN` when there is neither.
    pub fn take(&mut self, peek: bool) -> Result<Datagram> {
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        if peek {
            return self.queue.front().cloned().ok_or(EAGAIN);
        }
        let d = self.queue.pop_front().ok_or(EAGAIN)?;
        self.bytes -= d.data.len() + OVERHEAD;
        Ok(d)
    }

    /// Puts a datagram back in front: it could not be delivered after all.
    pub fn put_back(&mut self, d: Datagram) {
        self.bytes += d.data.len() + OVERHEAD;
        self.queue.push_front(d);
    }

    /// Bytes of the first datagram (FIONREAD).
    pub fn next_len(&self) -> usize {
        self.queue.front().map_or(0, |d| d.data.len())
    }

    /// Memory in use, as SO_MEMINFO and /proc/net show it.
    pub fn used(&self) -> usize {
        self.bytes
    }

    /// True when a read would find something.
    pub fn ready(&self) -> bool {
        !self.queue.is_empty() || self.shut_read || self.error.is_some()
    }

    /// Adds to the error queue.
    pub fn put_error(&mut self, e: QueuedError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push_back(e);
        }
    }

    /// Takes the first of the error queue (MSG_ERRQUEUE): `EAGAIN`.
    pub fn take_error(&mut self) -> Result<QueuedError> {
        let e = self.errors.pop_front().ok_or(EAGAIN)?;
        // Times are no errors of the socket.
        let next = self.errors.front().filter(|n| n.origin != stamp::ORIGIN);
        if next.is_some() || e.origin != stamp::ORIGIN {
            self.error = next.map(|n| n.errno);
        }
        Ok(e)
    }

    /// Readiness for poll(2).
    pub fn events(&self) -> Events {
        let mut e = Events::ERR.when(self.error.is_some() || !self.errors.is_empty());
        e |= Events::READABLE.when(!self.queue.is_empty() || self.shut_read);
        e |= Events::RDHUP.when(self.shut_read);
        e |= Events::HUP.when(self.shut_read && self.shut_write);
        e | Events::WRITABLE | Events::WRBAND
    }

    /// An ICMP error arrived for a packet of this socket. True when the reader is to be woken.
    pub fn notice(
        &mut self,
        n: &Notice,
        o: &IpOptions,
        dst: SocketAddr,
        connected: bool,
        skip: usize,
    ) -> bool {
        let wants = if n.v6 { o.recv_err6 } else { o.recv_err };
        if wants {
            self.put_error(QueuedError {
                errno: n.errno,
                origin: if n.v6 { 3 } else { 2 },
                kind: n.kind,
                code: n.code,
                info: n.mtu,
                data: 0,
                stamp: 0,
                offender: Some(n.offender),
                dst,
                payload: n.payload.get(skip..).unwrap_or(&[]).to_vec(),
            });
            self.error = Some(n.errno);
            return true;
        }
        if connected && n.fatal {
            self.error = Some(n.errno);
            return true;
        }
        false
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.errors.clear();
        self.bytes = 0;
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number that names a socket in tables and cookies; never reused.
pub fn new_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Joins a group: `EINVAL` for what is no group, `EADDRINUSE` for a member, `ENODEV`.
pub fn join(stack: &Arc<Stack>, opts: &Mutex<IpOptions>, group: IpAddr, iface: u32) -> Result<()> {
    if !group.is_multicast() {
        return Err(EINVAL);
    }
    let i = member_interface(stack, group, iface)?;
    {
        let mut o = opts.lock();
        if o.memberships.contains(&(i.index, group)) {
            return Err(EADDRINUSE);
        }
        // igmp_max_memberships is 20 for IPv4; IPv6 is bounded by memory. One bound for both here.
        if o.memberships.len() >= 1024 {
            return Err(ENOBUFS);
        }
        o.memberships.push((i.index, group));
    }
    stack.enter(|cx| stack.join_group(cx, &i, group));
    Ok(())
}

/// Ends a membership: `EADDRNOTAVAIL` when there is none.
pub fn leave(stack: &Arc<Stack>, opts: &Mutex<IpOptions>, group: IpAddr, iface: u32) -> Result<()> {
    if !group.is_multicast() {
        return Err(EINVAL);
    }
    let index = {
        let mut o = opts.lock();
        let mine = |m: &(u32, IpAddr)| m.1 == group && (iface == 0 || m.0 == iface);
        let at = o.memberships.iter().position(mine).ok_or(EADDRNOTAVAIL)?;
        o.memberships.remove(at).0
    };
    if let Some(i) = stack.interface(index) {
        stack.enter(|cx| stack.leave_group(cx, &i, group));
    }
    Ok(())
}

/// Ends every membership: the socket is closed.
pub fn leave_all(stack: &Arc<Stack>, opts: &Mutex<IpOptions>) {
    let all = std::mem::take(&mut opts.lock().memberships);
    for (i, g) in all {
        if let Some(i) = stack.interface(i) {
            stack.enter(|cx| stack.leave_group(cx, &i, g));
        }
    }
}

fn member_interface(stack: &Stack, group: IpAddr, iface: u32) -> Result<Arc<Interface>> {
    if iface != 0 {
        return stack.interface(iface).ok_or(ENODEV);
    }
    // The way to the group decides, and where there is none the first interface that can.
    if let Ok(d) = stack.route_to(&Flow::to(group)) {
        return Ok(d.iface);
    }
    let all = stack.interfaces();
    all.into_iter()
        .find(|i| i.is_up() && i.flags() & crate::interface::iff::MULTICAST != 0)
        .ok_or(ENODEV)
}

/// `EACCES` for broadcasts without SO_BROADCAST (ip(7)).
pub fn check_broadcast(way: &Dst, o: &IpOptions) -> Result<()> {
    if way.kind == Kind::Broadcast && !o.broadcast { Err(EACCES) } else { Ok(()) }
}

/// Wakes whoever waits on the socket's queue.
pub(crate) fn wake(cx: &mut Cx, q: &Arc<uml_base::WaitQueue>, e: Events) {
    cx.notify(q, e);
}
