//! Ping sockets: SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6 (icmp(7)).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};

use crate::icmp::Notice;
use crate::ip::Delivery;
use crate::packet::{Csum, Data, Packet};
use crate::sock::{self, Datagram, Inbox, IpOptions, SendInfo};
use crate::stack::{Cx, Stack};
use crate::stamp::{Hear, Stamp};
use crate::wire::checksum::Sum;
use crate::wire::icmp::{self as wire, Icmp, v4, v6};
use crate::wire::proto;

/// Sockets by family and identifier.
pub struct PingTable(Mutex<HashMap<(bool, u16), Arc<PingSocket>>>);

impl Default for PingTable {
    fn default() -> Self {
        PingTable(Mutex::new(Rank::LEAF, HashMap::new()))
    }
}

/// A ping socket.
pub struct PingSocket {
    me: Weak<PingSocket>,
    pub stack: Arc<Stack>,
    pub v6: bool,
    pub wait: Arc<WaitQueue>,
    pub opts: Mutex<IpOptions>,
    inner: Mutex<Inner>,
}

struct Inner {
    inbox: Inbox,
    local: IpAddr,
    id: u16,
    remote: Option<IpAddr>,
    scope: u32,
}

impl PingSocket {
    /// A socket without an identifier.
    pub fn new(stack: &Arc<Stack>, v6: bool) -> Arc<PingSocket> {
        let any: IpAddr =
            if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Arc::new_cyclic(|me| PingSocket {
            me: me.clone(),
            stack: stack.clone(),
            v6,
            wait: WaitQueue::shared(),
            opts: Mutex::new(Rank::LEAF, IpOptions::default()),
            inner: Mutex::new(
                Rank::SOCKET,
                Inner { inbox: Inbox::default(), local: any, id: 0, remote: None, scope: 0 },
            ),
        })
    }

    /// Bound address; the identifier is the port.
    pub fn local(&self) -> SocketAddr {
        let i = self.inner.lock();
        SocketAddr::new(i.local, i.id)
    }

    /// Connected peer.
    pub fn remote(&self) -> Option<IpAddr> {
        self.inner.lock().remote
    }

    fn identify(&self, inner: &mut Inner, id: u16) -> Result<()> {
        let me = self.me.upgrade().ok_or(EBADF)?;
        let mut t = self.stack.ping.0.lock();
        let id = if id != 0 {
            if t.contains_key(&(self.v6, id)) {
                return Err(EADDRINUSE);
            }
            id
        } else {
            let start = self.stack.random() as u16;
            (0..=u16::MAX)
                .map(|i| start.wrapping_add(i))
                .find(|i| *i != 0 && !t.contains_key(&(self.v6, *i)))
                .ok_or(EAGAIN)?
        };
        t.insert((self.v6, id), me);
        inner.id = id;
        Ok(())
    }

    /// bind(2): address and identifier.
    pub fn bind(&self, to: SocketAddr, scope: u32) -> Result<()> {
        self.stack.check_bindable(to.ip(), scope)?;
        let mut i = self.inner.lock();
        if i.id != 0 {
            return Err(EINVAL);
        }
        self.identify(&mut i, to.port())?;
        (i.local, i.scope) = (to.ip(), scope);
        Ok(())
    }

    /// connect(2).
    pub fn connect(&self, to: Option<IpAddr>, scope: u32) -> Result<()> {
        let Some(to) = to else {
            self.inner.lock().remote = None;
            return Ok(());
        };
        let flow = self.opts.lock().flow(to, None, scope, &SendInfo::default());
        let way = self.stack.route_to(&flow)?;
        let mut i = self.inner.lock();
        if i.id == 0 {
            self.identify(&mut i, 0)?;
        }
        if i.local.is_unspecified() {
            i.local = way.src;
        }
        (i.remote, i.scope) = (Some(to), scope);
        Ok(())
    }

    /// Sends an echo request: `EINVAL` for anything else.
    pub fn send(&self, to: Option<(IpAddr, u32)>, data: &[u8], info: &SendInfo) -> Result<()> {
        if data.len() < wire::HEADER {
            return Err(EINVAL);
        }
        if data.len() > 65_535 {
            return Err(EMSGSIZE);
        }
        let echo = if self.v6 { v6::ECHO } else { v4::ECHO };
        if data[0] != echo || data[1] != 0 {
            return Err(EINVAL);
        }
        let (dst, scope, local, id) = {
            let mut i = self.inner.lock();
            if let Some(e) = i.inbox.error.take() {
                return Err(e);
            }
            let (d, s) = match (to, i.remote) {
                (Some(t), _) => t,
                (None, Some(r)) => (r, i.scope),
                (None, None) => return Err(EDESTADDRREQ),
            };
            if i.id == 0 {
                self.identify(&mut i, 0)?;
            }
            (d, s, i.local, i.id)
        };
        let o = self.opts.lock().clone();
        let src = (!local.is_unspecified()).then_some(local);
        let way = self.stack.route_to(&o.flow(dst, src, scope, info))?;
        sock::check_broadcast(&way, &o)?;
        let proto = if self.v6 { proto::ICMPV6 } else { proto::ICMP };
        let mut body = data.to_vec();
        body[2..4].fill(0);
        body[4..6].copy_from_slice(&id.to_be_bytes());
        let mut s = if self.v6 { Sum::pseudo(way.src, dst, proto, body.len()) } else { Sum::new() };
        s.add(&body);
        body[2..4].copy_from_slice(&s.finish().to_be_bytes());
        let m = o.meta(&way, dst, proto, body.len(), info, &self.stack);
        let mut p = Packet::new(Data::copy_of(&body));
        (p.csum, p.mark) = (Csum::Valid, o.mark);
        p.told.0 = Stamp::new(self.me.clone(), info.stamp);
        self.stack.count_icmp(self.v6, &way.iface, |c| c.sent(echo));
        self.stack.enter(|cx| self.stack.send_ip(cx, &way, &m, p))
    }

    /// The next reply: `EAGAIN`.
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
        let id = {
            let mut i = self.inner.lock();
            i.inbox.clear();
            i.id
        };
        if id != 0 {
            self.stack.ping.0.lock().remove(&(self.v6, id));
        }
        sock::leave_all(&self.stack, &self.opts);
    }
}

impl Hear for PingSocket {
    fn stamped(&self, cx: &mut Cx, e: sock::QueuedError) {
        self.inner.lock().inbox.put_error(e);
        sock::wake(cx, &self.wait, Events::ERR | Events::READABLE);
    }
}

impl Stack {
    /// An echo reply for this host.
    pub(crate) fn ping_input(&self, cx: &mut Cx, to: &Delivery, h: &Icmp, mut p: Packet) {
        let s = self.ping.0.lock().get(&(to.dst.is_ipv6(), h.id())).cloned();
        let Some(s) = s else { return };
        let header = to.long_header(&p);
        let data = p.take_payload(to.header_len);
        let d = Datagram {
            src: SocketAddr::new(to.src, 0),
            dst: to.dst,
            dst_port: h.id(),
            iface: p.iface,
            ttl: to.ttl,
            tos: to.tos,
            data,
            stamp: p.stamp,
            gso: 0,
            header,
            piece: p.piece,
        };
        let rcvbuf = s.opts.lock().rcvbuf;
        let taken = {
            let mut i = s.inner.lock();
            i.remote.is_none_or(|r| r == to.src) && i.inbox.put(d, rcvbuf)
        };
        if taken {
            sock::wake(cx, &s.wait, Events::READABLE);
        }
    }

    /// An ICMP error about an echo request of ours.
    pub(crate) fn ping_notice(&self, cx: &mut Cx, n: &Notice) {
        let Ok(h) = Icmp::parse(&n.payload) else { return };
        let s = self.ping.0.lock().get(&(n.dst.is_ipv6(), h.id())).cloned();
        let Some(s) = s else { return };
        let o = s.opts.lock().clone();
        let woken = {
            let mut i = s.inner.lock();
            let connected = i.remote.is_some();
            i.inbox.notice(n, &o, SocketAddr::new(n.dst, 0), connected, 0)
        };
        if woken {
            sock::wake(cx, &s.wait, Events::ERR | Events::READABLE);
        }
    }
}
