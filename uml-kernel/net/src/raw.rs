//! Raw IP sockets (raw(7), ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, RwLock, WaitQueue};

use crate::icmp::Notice;
use crate::interface::Interface;
use crate::ip::{Delivery, header_len};
use crate::packet::{Csum, Data, Packet};
use crate::sock::{self, Datagram, Inbox, IpOptions, SendInfo};
use crate::stack::{Cx, Stack};
use crate::stamp::{Hear, Stamp};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::ethertype;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::proto;

/// Every raw socket.
pub struct RawTable(RwLock<Vec<Arc<RawSocket>>>);

impl Default for RawTable {
    fn default() -> Self {
        RawTable(RwLock::new(Rank::LEAF, Vec::new()))
    }
}

/// A raw socket.
pub struct RawSocket {
    me: Weak<RawSocket>,
    pub stack: Arc<Stack>,
    pub id: u64,
    pub v6: bool,
    pub proto: u8,
    pub wait: Arc<WaitQueue>,
    pub opts: Mutex<IpOptions>,
    /// IP_HDRINCL.
    pub header_included: AtomicBool,
    /// IPV6_CHECKSUM: offset of a checksum that the kernel keeps; negative for none.
    pub checksum_at: AtomicI32,
    /// ICMP types that are not wanted, one bit each (ICMP_FILTER, ICMP6_FILTER).
    pub filter: Mutex<[u32; 8]>,
    inner: Mutex<Inner>,
}

struct Inner {
    inbox: Inbox,
    local: IpAddr,
    remote: Option<IpAddr>,
    scope: u32,
}

impl RawTable {
    /// Every raw socket.
    pub fn list(&self) -> Vec<Arc<RawSocket>> {
        self.0.read().clone()
    }

    /// Gives copies to the sockets of the protocol. True when there was one.
    pub(crate) fn deliver(
        &self,
        cx: &mut Cx,
        iface: &Arc<Interface>,
        to: &Delivery,
        p: &Packet,
    ) -> bool {
        if self.0.read().is_empty() {
            return false;
        }
        let v6 = to.dst.is_ipv6();
        let mut any = false;
        for s in self.list() {
            if s.proto != to.proto || s.v6 != v6 || !s.wants(to, iface, p) {
                continue;
            }
            any = true;
            s.take(cx, iface, to, p);
        }
        any
    }

    pub(crate) fn notice(&self, cx: &mut Cx, n: &Notice) {
        for s in self.list() {
            if s.proto != n.proto || s.v6 != n.dst.is_ipv6() {
                continue;
            }
            let o = s.opts.lock().clone();
            let woken = {
                let mut i = s.inner.lock();
                if i.remote.is_some_and(|r| r != n.dst)
                    || (!i.local.is_unspecified() && i.local != n.src)
                {
                    continue;
                }
                let connected = i.remote.is_some();
                i.inbox.notice(n, &o, SocketAddr::new(n.dst, 0), connected, 0)
            };
            if woken {
                sock::wake(cx, &s.wait, Events::ERR | Events::READABLE);
            }
        }
    }
}

impl RawSocket {
    /// A socket for one protocol; IPPROTO_RAW only sends.
    pub fn new(stack: &Arc<Stack>, v6: bool, proto: u8) -> Arc<RawSocket> {
        let any: IpAddr =
            if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let s = Arc::new_cyclic(|me| RawSocket {
            me: me.clone(),
            stack: stack.clone(),
            id: sock::new_id(),
            v6,
            proto,
            wait: WaitQueue::shared(),
            opts: Mutex::new(Rank::LEAF, IpOptions::default()),
            header_included: AtomicBool::new(proto == proto::RAW),
            checksum_at: AtomicI32::new(if v6 && proto == proto::ICMPV6 { 2 } else { -1 }),
            filter: Mutex::new(Rank::LEAF, [0; 8]),
            inner: Mutex::new(
                Rank::SOCKET,
                Inner { inbox: Inbox::default(), local: any, remote: None, scope: 0 },
            ),
        });
        if proto != proto::RAW {
            stack.raw.0.write().push(s.clone());
        }
        s
    }

    /// Bound address.
    pub fn local(&self) -> IpAddr {
        self.inner.lock().local
    }

    /// Connected peer.
    pub fn remote(&self) -> Option<IpAddr> {
        self.inner.lock().remote
    }

    /// Memory of waiting packets and how many were dropped.
    pub fn usage(&self) -> (usize, u64) {
        let i = self.inner.lock();
        (i.inbox.used(), i.inbox.drops)
    }

    /// shutdown(2) of reading and writing.
    pub fn shut(&self) -> (bool, bool) {
        let i = self.inner.lock();
        (i.inbox.shut_read, i.inbox.shut_write)
    }

    /// bind(2).
    pub fn bind(&self, addr: IpAddr, scope: u32) -> Result<()> {
        self.stack.check_bindable(addr, scope)?;
        let mut i = self.inner.lock();
        (i.local, i.scope) = (addr, scope);
        Ok(())
    }

    /// connect(2).
    pub fn connect(&self, to: Option<IpAddr>, scope: u32) -> Result<()> {
        if let Some(to) = to {
            let flow = self.opts.lock().flow(to, None, scope, &SendInfo::default());
            let way = self.stack.route_to(&flow)?;
            let mut i = self.inner.lock();
            if i.local.is_unspecified() {
                i.local = way.src;
            }
            (i.remote, i.scope) = (Some(to), scope);
        } else {
            self.inner.lock().remote = None;
        }
        Ok(())
    }

    fn wants(&self, to: &Delivery, iface: &Interface, p: &Packet) -> bool {
        {
            let i = self.inner.lock();
            let bound = !i.local.is_unspecified() && i.local != to.dst;
            if bound || i.remote.is_some_and(|r| r != to.src) {
                return false;
            }
        }
        let device = self.opts.lock().device;
        if device != 0 && device != iface.index {
            return false;
        }
        if matches!(to.proto, proto::ICMP | proto::ICMPV6) {
            let mut q = p.clone();
            if q.pull(to.header_len + 1)
                && let Some(t) = q.net().get(to.header_len)
            {
                let f = self.filter.lock();
                return f[usize::from(t >> 5)] >> (t & 31) & 1 == 0;
            }
        }
        if to.dst.is_multicast() && to.dst.is_ipv4() {
            let o = self.opts.lock();
            return o.multicast_all || o.memberships.contains(&(iface.index, to.dst));
        }
        true
    }

    fn take(&self, cx: &mut Cx, iface: &Arc<Interface>, to: &Delivery, p: &Packet) {
        if self.v6 && self.checksum_at.load(Ordering::Relaxed) >= 0 && !to.checksum_ok(p) {
            return;
        }
        let mut q = p.clone();
        q.complete_checksum();
        q.strip_link();
        let mut bytes = q.to_vec();
        if self.v6 {
            bytes.drain(..to.header_len.min(bytes.len()));
        }
        let d = Datagram {
            src: SocketAddr::new(to.src, 0),
            dst: to.dst,
            dst_port: 0,
            iface: iface.index,
            ttl: to.ttl,
            tos: to.tos,
            data: Data::copy_of(&bytes),
            stamp: p.stamp,
            gso: 0,
            header: to.long_header(p),
            piece: p.piece,
        };
        let rcvbuf = self.opts.lock().rcvbuf;
        if self.inner.lock().inbox.put(d, rcvbuf) {
            sock::wake(cx, &self.wait, Events::READABLE);
        }
    }

    /// Sends a packet: with its header when the option says so.
    pub fn send(&self, to: Option<(IpAddr, u32)>, data: &[u8], info: &SendInfo) -> Result<()> {
        let (dst, scope, local) = {
            let mut i = self.inner.lock();
            if let Some(e) = i.inbox.error.take() {
                return Err(e);
            }
            if i.inbox.shut_write {
                return Err(EPIPE);
            }
            let (d, s) = match (to, i.remote) {
                (Some(t), _) => t,
                (None, Some(r)) => (r, i.scope),
                (None, None) => return Err(EDESTADDRREQ),
            };
            (d, s, i.local)
        };
        let o = self.opts.lock().clone();
        let src = (!local.is_unspecified()).then_some(local);
        let way = self.stack.route_to(&o.flow(dst, src, scope, info))?;
        sock::check_broadcast(&way, &o)?;
        if self.header_included.load(Ordering::Relaxed) && !self.v6 {
            return self.send_with_header(&way, data, info);
        }
        if data.len() + header_len(dst) + o.extra(dst, info) > 65_535 {
            return Err(EMSGSIZE);
        }
        let mut body = data.to_vec();
        let at = self.checksum_at.load(Ordering::Relaxed);
        if self.v6 && at >= 0 {
            let at = at as usize;
            if at + 2 > body.len() {
                return Err(EINVAL);
            }
            body[at..at + 2].fill(0);
            let mut s = Sum::pseudo(way.src, dst, self.proto, body.len());
            s.add(&body);
            let sum = match s.finish() {
                0 => 0xffff,
                n => n,
            };
            body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let m = o.meta(&way, dst, self.proto, body.len(), info, &self.stack);
        let mut p = Packet::new(Data::copy_of(&body));
        p.csum = Csum::Valid;
        p.mark = o.mark;
        p.told.0 = Stamp::new(self.me.clone(), info.stamp);
        self.count_icmp(&way, self.proto, body.first());
        self.stack.enter(|cx| self.stack.send_ip(cx, &way, &m, p))
    }

    /// A program's own message counts like the stack's.
    fn count_icmp(&self, way: &crate::ip::Dst, of: u8, kind: Option<&u8>) {
        let icmp = if self.v6 { proto::ICMPV6 } else { proto::ICMP };
        if let Some(kind) = kind.filter(|_| of == icmp) {
            self.stack.count_icmp(self.v6, &way.iface, |c| c.sent(*kind));
        }
    }

    /// The program wrote the header; the kernel fills in what raw(7) says.
    fn send_with_header(&self, way: &crate::ip::Dst, data: &[u8], info: &SendInfo) -> Result<()> {
        if data.len() < ipv4::HEADER {
            return Err(EINVAL);
        }
        if data.len() > way.mtu {
            return Err(EMSGSIZE);
        }
        let mut b = data.to_vec();
        let header = usize::from(b[0] & 15) * 4;
        if header > b.len() {
            return Err(EINVAL);
        }
        if header >= ipv4::HEADER {
            let len = (b.len() as u16).to_be_bytes();
            b[2..4].copy_from_slice(&len);
            if b[4..6] == [0, 0] {
                b[4..6].copy_from_slice(&self.stack.next_id().to_be_bytes());
            }
            if b[12..16] == [0; 4]
                && let IpAddr::V4(s) = way.src
            {
                b[12..16].copy_from_slice(&s.octets());
            }
            b[10..12].fill(0);
            let sum = crate::wire::checksum::checksum(&b[..header]);
            b[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let mut p = Packet::new(Data::new());
        p.head_mut().extend_from_slice(&b);
        (p.csum, p.kind) = (Csum::Valid, ethertype::IPV4);
        p.told.0 = Stamp::new(self.me.clone(), info.stamp);
        if header >= ipv4::HEADER {
            self.count_icmp(way, b[9], b.get(header));
        }
        debug_assert!(Ipv4::parse_quoted(p.net()).is_ok() || header < ipv4::HEADER);
        self.stack.enter(|cx| self.stack.output(cx, way, p))?;
        Ok(())
    }

    /// The next packet: `EAGAIN`.
    pub fn recv(&self, peek: bool) -> Result<Option<Datagram>> {
        let mut i = self.inner.lock();
        match i.inbox.take(peek) {
            Ok(d) => Ok(Some(d)),
            Err(EAGAIN) if i.inbox.shut_read => Ok(None),
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

    /// shutdown(2).
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let connected = {
            let mut i = self.inner.lock();
            i.inbox.shut_read |= read;
            i.inbox.shut_write |= write;
            i.remote.is_some()
        };
        self.wait.wake_all(Events::ALL);
        if connected { Ok(()) } else { Err(ENOTCONN) }
    }

    /// The last descriptor is closed.
    pub fn close(&self) {
        self.stack.raw.0.write().retain(|s| s.id != self.id);
        self.inner.lock().inbox.clear();
        sock::leave_all(&self.stack, &self.opts);
    }
}

impl Hear for RawSocket {
    fn stamped(&self, cx: &mut Cx, e: sock::QueuedError) {
        self.inner.lock().inbox.put_error(e);
        sock::wake(cx, &self.wait, Events::ERR | Events::READABLE);
    }
}
