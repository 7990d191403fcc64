//! UDP sockets (RFC 768, udp(7)), and those of UDP-Lite, which differ by [`Coverage`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, RwLock, WaitQueue};

use crate::ended::Ended;
use crate::icmp::{self, Notice};
use crate::interface::Interface;
use crate::ip::{self, Delivery, Dst};
use crate::packet::{Data, Gso, GsoKind, Packet};
use crate::ports::{Claim, Ports};
use crate::sock::{self, Datagram, Inbox, IpOptions, SendInfo};
use crate::stack::{Cx, Stack};
use crate::stamp::{Hear, Stamp};
use crate::udplite::{self, Coverage};
use crate::wire::icmp as wire_icmp;
use crate::wire::proto;
use crate::wire::udp::{self as wire, Udp};

/// Largest payload of a datagram.
pub const MAX_V4: usize = 65_507;
pub const MAX_V6: usize = 65_527;

/// UDP sockets by port.
pub struct UdpTable {
    pub ports: Ports,
    /// Lists are replaced, not changed, so that a packet takes one as it is.
    by_port: RwLock<HashMap<u16, Arc<Vec<Arc<UdpSocket>>>>>,
}

impl Default for UdpTable {
    fn default() -> Self {
        UdpTable { ports: Ports::default(), by_port: RwLock::new(Rank::LEAF, HashMap::new()) }
    }
}

impl UdpTable {
    /// Every bound socket.
    pub fn list(&self) -> Vec<Arc<UdpSocket>> {
        self.by_port.read().values().flat_map(|l| l.iter()).cloned().collect()
    }
}

/// Addresses of a socket, as lookups need them.
#[derive(Clone, Copy, Debug)]
struct Names {
    local: SocketAddr,
    remote: Option<SocketAddr>,
}

/// A UDP socket.
pub struct UdpSocket {
    me: Weak<UdpSocket>,
    pub stack: Arc<Stack>,
    pub id: u64,
    pub v6: bool,
    /// It is one of UDP-Lite.
    pub lite: Option<Coverage>,
    pub wait: Arc<WaitQueue>,
    pub opts: Mutex<IpOptions>,
    names: Mutex<Names>,
    inner: Mutex<Inner>,
}

struct Inner {
    inbox: Inbox,
    bound: bool,
    /// The program has asked for the address, which stays when an association is dissolved.
    named: bool,
    way: Option<(SocketAddr, Dst)>,
    cork: Option<(SocketAddr, SendInfo, Data)>,
    scope: u32,
}

fn unspecified(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

impl UdpSocket {
    /// An unbound socket.
    pub fn new(stack: &Arc<Stack>, v6: bool) -> Arc<UdpSocket> {
        UdpSocket::make(stack, v6, None)
    }

    pub(crate) fn make(stack: &Arc<Stack>, v6: bool, lite: Option<Coverage>) -> Arc<UdpSocket> {
        Arc::new_cyclic(|me| UdpSocket {
            me: me.clone(),
            stack: stack.clone(),
            id: sock::new_id(),
            v6,
            lite,
            wait: WaitQueue::shared(),
            opts: Mutex::new(Rank::LEAF, IpOptions::default()),
            names: Mutex::new(
                Rank::LEAF,
                Names { local: SocketAddr::new(unspecified(v6), 0), remote: None },
            ),
            inner: Mutex::new(
                Rank::SOCKET,
                Inner {
                    inbox: Inbox::default(),
                    bound: false,
                    named: false,
                    way: None,
                    cork: None,
                    scope: 0,
                },
            ),
        })
    }

    /// Bound address.
    pub fn local(&self) -> SocketAddr {
        self.names.lock().local
    }

    /// Connected peer.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.names.lock().remote
    }

    /// Scope of link-local addresses: the interface.
    pub fn scope(&self) -> u32 {
        self.inner.lock().scope
    }

    /// Memory of waiting datagrams and how many were dropped.
    pub fn usage(&self) -> (usize, u64) {
        let i = self.inner.lock();
        (i.inbox.used(), i.inbox.drops)
    }

    /// Whether bind(2) gave it its address.
    pub fn is_bound(&self) -> bool {
        self.inner.lock().bound
    }

    /// shutdown(2) of reading and writing.
    pub fn shut(&self) -> (bool, bool) {
        let i = self.inner.lock();
        (i.inbox.shut_read, i.inbox.shut_write)
    }

    fn table(&self) -> &UdpTable {
        self.stack.udp_table(self.lite.is_some())
    }

    fn claim(&self, addr: IpAddr) -> Claim {
        let o = self.opts.lock();
        Claim {
            addr,
            v6only: o.v6only,
            reuse_addr: o.reuse_addr,
            reuse_port: o.reuse_port,
            uid: o.uid,
            iface: o.device,
            listening: false,
            by_connect: false,
        }
    }

    /// bind(2): `EINVAL` when bound, `EADDRNOTAVAIL`, `EADDRINUSE`. `scope` is the interface of a
    /// link-local address.
    pub fn bind(&self, addr: SocketAddr, scope: u32) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.bound {
            return Err(EINVAL);
        }
        let (free, no_port) = {
            let o = self.opts.lock();
            (o.free_bind || o.transparent, o.bind_no_port && addr.port() == 0)
        };
        if !free {
            self.stack.check_bindable(addr.ip(), scope)?;
        }
        inner.scope = scope;
        if no_port {
            self.names.lock().local = addr;
        } else {
            self.enter_table(&mut inner, addr)?;
        }
        inner.named = !addr.ip().is_unspecified();
        Ok(())
    }

    fn enter_table(&self, inner: &mut Inner, addr: SocketAddr) -> Result<()> {
        let c = self.claim(addr.ip());
        let t = self.table();
        let port = if addr.port() == 0 {
            let range = self.stack.port_range();
            t.ports.claim_any(range, self.stack.random(), self.id, &c)?
        } else {
            t.ports.claim(addr.port(), self.id, c)?;
            addr.port()
        };
        self.names.lock().local = SocketAddr::new(addr.ip(), port);
        inner.bound = true;
        if let Some(me) = self.me.upgrade() {
            Arc::make_mut(t.by_port.write().entry(port).or_default()).push(me);
        }
        Ok(())
    }

    fn autobind(&self, inner: &mut Inner) -> Result<()> {
        if inner.bound {
            return Ok(());
        }
        let no_port = self.opts.lock().bind_no_port;
        let addr = if no_port { self.names.lock().local.ip() } else { unspecified(self.v6) };
        self.enter_table(inner, SocketAddr::new(addr, 0)).map_err(|_| EAGAIN)
    }

    /// connect(2).
    pub fn connect(&self, to: SocketAddr, scope: u32) -> Result<()> {
        let mut inner = self.inner.lock();
        let (flow, o) = {
            let o = self.opts.lock().clone();
            let local = self.names.lock().local.ip();
            let src = (!local.is_unspecified()).then_some(local);
            (o.flow(to.ip(), src, scope, &SendInfo::default()), o)
        };
        let way = self.stack.route_to(&flow)?;
        sock::check_broadcast(&way, &o)?;
        self.autobind(&mut inner)?;
        let mut n = self.names.lock();
        if n.local.ip().is_unspecified() {
            n.local.set_ip(way.src);
        }
        n.remote = Some(to);
        drop(n);
        inner.scope = scope;
        inner.way = Some((to, way));
        inner.inbox.error = None;
        Ok(())
    }

    /// connect(2) with AF_UNSPEC: the association is dissolved.
    pub fn disconnect(&self) {
        let mut inner = self.inner.lock();
        inner.way = None;
        let mut n = self.names.lock();
        n.remote = None;
        if !inner.named {
            n.local.set_ip(unspecified(self.v6));
        }
    }

    /// Dissolves the association while programs have the socket (SOCK_DESTROY): they find `ECONNABORTED`.
    pub fn destroy(&self) {
        self.disconnect();
        self.inner.lock().inbox.error = Some(ECONNABORTED);
        self.wait.wake_all(Events::ALL);
    }

    /// Sends a datagram, or adds to a corked one. `EDESTADDRREQ`, `EPIPE`, `EMSGSIZE`, and the pending
    /// error.
    pub fn send(
        &self,
        to: Option<(SocketAddr, u32)>,
        data: Data,
        info: &SendInfo,
        more: bool,
    ) -> Result<()> {
        self.stack.enter(|cx| self.send_in(cx, to, data, info, more))
    }

    fn send_in(
        &self,
        cx: &mut Cx,
        to: Option<(SocketAddr, u32)>,
        data: Data,
        info: &SendInfo,
        more: bool,
    ) -> Result<()> {
        let mut inner = self.inner.lock();
        if let Some(e) = inner.inbox.error.take() {
            return Err(e);
        }
        if inner.inbox.shut_write {
            return Err(EPIPE);
        }
        if let Some((dst, first, mut held)) = inner.cork.take() {
            held.append(data);
            if more {
                inner.cork = Some((dst, first, held));
                return Ok(());
            }
            return self.send_now(cx, &mut inner, dst, 0, held, &first);
        }
        let (dst, scope) = match (to, self.names.lock().remote) {
            (Some(t), _) => t,
            (None, Some(r)) => (r, inner.scope),
            (None, None) => return Err(EDESTADDRREQ),
        };
        if dst.port() == 0 {
            return Err(EINVAL);
        }
        if more {
            self.autobind(&mut inner)?;
            inner.cork = Some((dst, info.clone(), data));
            return Ok(());
        }
        self.send_now(cx, &mut inner, dst, scope, data, info)
    }

    /// UDP_CORK is off: what was held goes out.
    pub fn uncork(&self) -> Result<()> {
        self.stack.enter(|cx| {
            let mut inner = self.inner.lock();
            match inner.cork.take() {
                Some((dst, info, data)) => self.send_now(cx, &mut inner, dst, 0, data, &info),
                None => Ok(()),
            }
        })
    }

    fn send_now(
        &self,
        cx: &mut Cx,
        inner: &mut Inner,
        dst: SocketAddr,
        scope: u32,
        data: Data,
        info: &SendInfo,
    ) -> Result<()> {
        let max = if dst.is_ipv4() { MAX_V4 } else { MAX_V6 };
        if data.len() > max {
            return Err(EMSGSIZE);
        }
        self.autobind(inner)?;
        let names = *self.names.lock();
        let o = self.opts.lock().clone();
        let plain = info.src.is_none() && info.iface == 0;
        let cached = match &inner.way {
            Some((d, w)) if *d == dst && plain && self.stack.fresh(w) => Some(w.clone()),
            _ => None,
        };
        let way = match cached {
            Some(w) => w,
            None => {
                let local = names.local.ip();
                let src =
                    (!local.is_unspecified() && local.is_ipv4() == dst.is_ipv4()).then_some(local);
                let w = self.stack.route_to(&o.flow(dst.ip(), src, scope, info))?;
                if plain && names.remote == Some(dst) {
                    inner.way = Some((dst, w.clone()));
                }
                w
            }
        };
        sock::check_broadcast(&way, &o)?;
        let size = usize::from(info.segment);
        if size > 0 && self.lite.is_some() {
            return Err(EIO);
        }
        if size > 0 && data.len() > size {
            let segments = data.len().div_ceil(size);
            let headers = wire::HEADER + ip::header_len(dst.ip()) + o.extra(dst.ip(), info);
            if segments > 128 || size + headers > way.mtu {
                return Err(if segments > 128 { EINVAL } else { EMSGSIZE });
            }
        }
        self.transmit(cx, &way, names.local.port(), dst, data, info, &o)
    }

    #[allow(clippy::too_many_arguments)]
    fn transmit(
        &self,
        cx: &mut Cx,
        way: &Dst,
        port: u16,
        dst: SocketAddr,
        data: Data,
        info: &SendInfo,
        o: &IpOptions,
    ) -> Result<()> {
        let len = wire::HEADER + data.len();
        let proto = if self.lite.is_some() { proto::UDPLITE } else { proto::UDP };
        let mut m = o.meta(way, dst.ip(), proto, len, info, &self.stack);
        if !way.iface.is_loopback()
            && dst.is_ipv6()
            && m.options.len() + len + 40 > way.mtu
            && o.dontfrag
        {
            return Err(EMSGSIZE);
        }
        let mut p = Packet::new(data);
        let (field, covered) = self.lite.as_ref().map_or((len, len), |c| c.of(len));
        let h = Udp { src: port, dst: dst.port(), len: field, checksum: 0 };
        p.head_mut().extend_from_slice(&h.bytes());
        (p.mark, p.priority) = (o.mark, 0);
        p.told.0 = Stamp::new(self.me.clone(), info.stamp);
        if self.lite.is_some() {
            // No device knows of coverage.
            let sum = udplite::checksum(&p, way.src, dst.ip(), covered);
            p.net_bytes_mut()[6..8].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip::partial_checksum(&mut p, way.src, dst.ip(), proto::UDP, 6);
        }
        if info.segment > 0 && p.data.len() > usize::from(info.segment) {
            p.gso = Some(Gso { kind: GsoKind::Udp, size: info.segment });
            m.df = true;
        }
        let group_loop = if dst.is_ipv4() { o.multicast_loop } else { o.multicast_loop6 };
        let mut w = way.clone();
        if !group_loop && w.kind == crate::route::Kind::Multicast {
            w.kind = crate::route::Kind::Unicast;
        }
        let counters = self.stack.snmp.udp_of(dst.is_ipv6(), self.lite.is_some());
        counters.out_datagrams.inc();
        self.stack.send_ip(cx, &w, &m, p)
    }

    /// The next datagram: `EAGAIN`, or the pending error. Empty after shutdown(2).
    pub fn recv(&self, peek: bool) -> Result<Option<Datagram>> {
        let mut inner = self.inner.lock();
        match inner.inbox.take(peek) {
            Ok(d) => Ok(Some(d)),
            Err(EAGAIN) if inner.inbox.shut_read => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The next of the error queue.
    pub fn recv_error(&self) -> Result<sock::QueuedError> {
        self.inner.lock().inbox.take_error()
    }

    /// SO_ERROR.
    pub fn take_error(&self) -> Option<Errno> {
        self.inner.lock().inbox.error.take()
    }

    /// Readiness.
    pub fn events(&self) -> Events {
        self.inner.lock().inbox.events()
    }

    /// True when a receive has something to do.
    pub fn ready(&self) -> bool {
        self.inner.lock().inbox.ready()
    }

    /// FIONREAD.
    pub fn next_len(&self) -> usize {
        self.inner.lock().inbox.next_len()
    }

    /// shutdown(2): `ENOTCONN` without a peer.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let connected = self.names.lock().remote.is_some();
        {
            let mut inner = self.inner.lock();
            inner.inbox.shut_read |= read;
            inner.inbox.shut_write |= write;
        }
        self.wait.wake_all(Events::ALL);
        if connected { Ok(()) } else { Err(ENOTCONN) }
    }

    /// The last descriptor is closed.
    pub fn close(&self) {
        let port = self.local().port();
        {
            let mut inner = self.inner.lock();
            inner.inbox.clear();
            inner.bound = false;
        }
        if port != 0 {
            self.table().ports.release(port, self.id);
            let mut t = self.table().by_port.write();
            if let Some(list) = t.get_mut(&port) {
                let list = Arc::make_mut(list);
                list.retain(|s| s.id != self.id);
                if list.is_empty() {
                    t.remove(&port);
                }
            }
        }
        sock::leave_all(&self.stack, &self.opts);
    }

    /// Options that lookups and claims depend on have changed.
    pub fn options_changed(&self) {
        let (reuse_addr, reuse_port, iface) = {
            let o = self.opts.lock();
            (o.reuse_addr, o.reuse_port, o.device)
        };
        self.inner.lock().way = None;
        self.table().ports.change(self.local().port(), self.id, |c| {
            (c.reuse_addr, c.reuse_port, c.iface) = (reuse_addr, reuse_port, iface);
        });
    }

    /// How well the socket fits a datagram; `None` when it is not for it.
    fn score(&self, src: SocketAddr, dst: IpAddr, iface: u32) -> Option<u32> {
        let n = *self.names.lock();
        let (device, only) = {
            let o = self.opts.lock();
            (o.device, o.v6only)
        };
        if dst.is_ipv4()
            && self.v6
            && (only || matches!(n.local.ip(), IpAddr::V6(a) if !a.is_unspecified()))
        {
            return None;
        }
        if dst.is_ipv6() && !self.v6 {
            return None;
        }
        let mut score = u32::from(self.v6 == dst.is_ipv6());
        if !n.local.ip().is_unspecified() {
            if n.local.ip() != dst {
                return None;
            }
            score += 4;
        }
        if let Some(r) = n.remote {
            if (r.ip(), r.port()) != (src.ip(), src.port()) {
                return None;
            }
            score += 8;
        }
        if device != 0 {
            if device != iface {
                return None;
            }
            score += 4;
        }
        Some(score)
    }

    /// True when there is no room for a datagram of `len` bytes, which is then counted as dropped.
    fn refuses(&self, cx: &mut Cx, len: usize) -> bool {
        let rcvbuf = self.opts.lock().rcvbuf;
        let mut inner = self.inner.lock();
        if inner.inbox.has_room(len, rcvbuf) {
            return false;
        }
        inner.inbox.drops += 1;
        cx.refused(inner.inbox.waiting());
        true
    }

    fn deliver(&self, cx: &mut Cx, d: Datagram) -> bool {
        let rcvbuf = self.opts.lock().rcvbuf;
        let taken = self.inner.lock().inbox.put(d, rcvbuf);
        if taken {
            sock::wake(cx, &self.wait, Events::READABLE);
        }
        taken
    }
}

impl Hear for UdpSocket {
    fn stamped(&self, cx: &mut Cx, e: sock::QueuedError) {
        self.inner.lock().inbox.put_error(e);
        sock::wake(cx, &self.wait, Events::ERR | Events::READABLE);
    }
}

impl Stack {
    /// Ports for sockets that name none.
    pub fn port_range(&self) -> (u16, u16) {
        (self.conf.port_min.get() as u16, self.conf.port_max.get() as u16)
    }

    /// A datagram for this host.
    pub(crate) fn udp_input(
        &self,
        cx: &mut Cx,
        iface: &Arc<Interface>,
        to: &Delivery,
        mut p: Packet,
    ) {
        let lite = to.proto == proto::UDPLITE;
        let counters = self.snmp.udp_of(to.dst.is_ipv6(), lite);
        if !p.pull(to.header_len + wire::HEADER) {
            counters.in_errors.inc();
            return;
        }
        let whole = p.net_len() - to.header_len;
        let header = &p.net()[to.header_len..];
        let Ok(h) = Udp::parse(header, whole) else {
            if lite && header[4] == 0 && header[5] < wire::HEADER as u8 {
                // Less than its header is covered.
                counters.in_csum_errors.inc();
            }
            counters.in_errors.inc();
            return;
        };
        let cover = (h.len, whole);
        let len = if lite { whole } else { h.len };
        if p.gso.is_none() {
            p.truncate_net(to.header_len + len);
        }
        let sound = if lite {
            h.checksum != 0 && udplite::checksum_ok(&p, to, h.len)
        } else {
            // A checksum of zero is none, which IPv6 does not allow.
            h.checksum == 0 && to.dst.is_ipv4() || to.checksum_ok(&p)
        };
        if !sound {
            counters.in_csum_errors.inc();
            counters.in_errors.inc();
            return;
        }
        let src = SocketAddr::new(to.src, h.src);
        let candidates = {
            let t = self.udp_table(lite).by_port.read();
            t.get(&h.dst).cloned().unwrap_or_default()
        };
        let gso = p.gso.map_or(0, |g| g.size);
        let stamp = p.stamp;
        if to.broadcast && (to.dst.is_multicast() || !self.is_local(to.dst)) {
            let header = to.long_header(&p);
            let data = p.take_payload(to.header_len + wire::HEADER);
            let d = Datagram {
                src,
                dst: to.dst,
                dst_port: h.dst,
                iface: iface.index,
                ttl: to.ttl,
                tos: to.tos,
                data,
                stamp,
                gso,
                header,
                piece: p.piece,
            };
            self.udp_flood(cx, iface, &candidates, &d, cover);
            return;
        }
        let score = |s: &UdpSocket| s.score(src, to.dst, iface.index);
        let best = candidates.iter().filter_map(|s| score(s)).max();
        // Those that fit equally well; most often there is one candidate, which is not looked at again.
        let fits = |s: &&Arc<UdpSocket>| candidates.len() == 1 || score(s) == best;
        let mut group = candidates.iter().filter(fits);
        let last = best.and_then(|_| group.clone().next_back());
        let Some(last) = last else {
            counters.no_ports.inc();
            if !to.broadcast {
                let (kind, code) = if to.dst.is_ipv4() {
                    (wire_icmp::v4::UNREACHABLE, wire_icmp::v4::PORT)
                } else {
                    (wire_icmp::v6::UNREACHABLE, wire_icmp::v6::PORT)
                };
                icmp::error(cx, &p, kind, code, 0);
            }
            return;
        };
        let s = if candidates.len() > 1 && last.opts.lock().reuse_port {
            // The group shares by a hash of the flow.
            let n =
                self.flow_hash(src, SocketAddr::new(to.dst, h.dst)) % group.clone().count() as u64;
            group.nth(n as usize).unwrap_or(last)
        } else {
            last
        };
        if !s.accepts(cover) {
            counters.in_errors.inc();
            return;
        }
        if gso == 0 && s.refuses(cx, len - wire::HEADER) {
            // Before anything is done for it: a flood must not take the time that its reader needs.
            counters.rcvbuf_errors.inc();
            counters.in_errors.inc();
            return;
        }
        let header = to.long_header(&p);
        let data = p.take_payload(to.header_len + wire::HEADER);
        let d = Datagram {
            src,
            dst: to.dst,
            dst_port: h.dst,
            iface: iface.index,
            ttl: to.ttl,
            tos: to.tos,
            data,
            stamp,
            gso,
            header,
            piece: p.piece,
        };
        let taken = if gso > 0 {
            // Several in one: each is a message of its own.
            let size = usize::from(gso);
            let parts = d.data.len().div_ceil(size).max(1);
            let part =
                |i: usize| Datagram { data: d.data.part(i * size, size), gso: 0, ..d.clone() };
            let taken = (0..parts).filter(|i| s.deliver(cx, part(*i))).count();
            taken == parts
        } else {
            s.deliver(cx, d)
        };
        if taken {
            counters.in_datagrams.inc();
        } else {
            counters.rcvbuf_errors.inc();
            counters.in_errors.inc();
        }
    }

    /// Every member of a group gets it, and every socket a broadcast.
    fn udp_flood(
        &self,
        cx: &mut Cx,
        iface: &Arc<Interface>,
        to: &[Arc<UdpSocket>],
        d: &Datagram,
        cover: (usize, usize),
    ) {
        for s in to {
            if s.score(d.src, d.dst, iface.index).is_none() {
                continue;
            }
            if d.dst.is_multicast() {
                let o = s.opts.lock();
                let member = o.memberships.contains(&(iface.index, d.dst));
                let open = o.multicast_all && d.dst.is_ipv4();
                let other = o.memberships.iter().any(|(_, g)| *g == d.dst);
                let v6_ok = d.dst.is_ipv6() && (o.memberships.is_empty() || member);
                if !(member || v6_ok || (open && !other)) {
                    continue;
                }
            }
            let counters = self.snmp.udp_of(d.dst.is_ipv6(), s.lite.is_some());
            if !s.accepts(cover) {
                counters.in_errors.inc();
            } else if s.deliver(cx, d.clone()) {
                counters.in_datagrams.inc();
            }
        }
    }

    /// A keyed hash of a flow.
    pub(crate) fn flow_hash(&self, a: SocketAddr, b: SocketAddr) -> u64 {
        let mut h = self.secret[0];
        let mut mix = |v: u64| {
            h = (h ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            h ^= h >> 29;
        };
        for s in [a, b] {
            match s.ip() {
                IpAddr::V4(x) => mix(u64::from(u32::from(x))),
                IpAddr::V6(x) => {
                    let v = u128::from(x);
                    mix(v as u64);
                    mix((v >> 64) as u64);
                }
            }
            mix(u64::from(s.port()));
        }
        h ^ self.secret[3]
    }

    /// An ICMP error about a datagram of ours.
    pub(crate) fn udp_notice(&self, cx: &mut Cx, n: &Notice) {
        let word =
            |at: usize| n.payload.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let (local, remote) = (word(0), SocketAddr::new(n.dst, word(2)));
        let candidates = {
            let t = self.udp_table(n.proto == proto::UDPLITE).by_port.read();
            t.get(&local).cloned().unwrap_or_default()
        };
        // The sender: the socket that its answer would go to.
        let best = candidates
            .iter()
            .filter_map(|s| s.score(remote, n.src, 0).map(|v| (v, s)))
            .max_by_key(|(v, _)| *v);
        let Some((_, s)) = best else { return };
        let o = s.opts.lock().clone();
        let connected = s.remote().is_some();
        if s.inner.lock().inbox.notice(n, &o, remote, connected, wire::HEADER) {
            sock::wake(cx, &s.wait, Events::ERR | Events::READABLE);
        }
        if n.errno == EMSGSIZE {
            s.inner.lock().way = None;
        }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        // Linux tells nobody of UDP-Lite.
        if self.lite.is_some() || !self.stack.ends.wanted() {
            return;
        }
        let Names { local, remote } = *self.names.get_mut();
        let device = self.opts.get_mut().device;
        let e = Ended { v6: self.v6, tcp: None, local, remote, id: self.id, device };
        self.stack.ends.add(&self.stack, e);
    }
}
