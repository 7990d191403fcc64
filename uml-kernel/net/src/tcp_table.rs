//! Connections by their four numbers, listeners by port, and what is left of closed connections.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use uml_base::{Mutex, Rank, RwLock};

use crate::icmp::Notice;
use crate::interface::Interface;
use crate::ip::{self, Delivery, Meta};
use crate::packet::{Data, Packet};
use crate::ports::Ports;
use crate::route::Flow;
use crate::stack::{Cx, Stack};
use crate::tcp_socket::{Arrival, TcpSocket};
use crate::time::{SEC, Time};
use crate::timer::Expire;
use crate::wire::proto;
use crate::wire::tcp::{self as wire, Tcp, flags};

const SHARDS: usize = 64;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quad {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Who a segment is for.
#[derive(Clone)]
pub(crate) enum Entry {
    Socket(Arc<TcpSocket>),
    TimeWait(Arc<TimeWait>),
}

/// How a connection was entered.
pub(crate) enum Entered {
    New,
    /// In place of a closed one, for which the caller calls [`TcpTable::gave_way`] as soon as it holds no lock of the
    /// ports.
    InPlaceOf(Arc<TimeWait>),
    /// It was not: the numbers are taken.
    Taken,
}

/// TCP's tables.
pub struct TcpTable {
    pub ports: Ports,
    shards: Vec<Mutex<HashMap<Quad, Entry>>>,
    listeners: RwLock<HashMap<u16, Vec<Arc<TcpSocket>>>>,
    time_waits: AtomicUsize,
    count: AtomicUsize,
    /// Some socket has a least time to live, or had one.
    pub any_min_ttl: AtomicBool,
}

impl Default for TcpTable {
    fn default() -> Self {
        TcpTable {
            ports: Ports::default(),
            shards: (0..SHARDS).map(|_| Mutex::new(Rank::LEAF, HashMap::new())).collect(),
            listeners: RwLock::new(Rank::LEAF, HashMap::new()),
            time_waits: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            any_min_ttl: AtomicBool::new(false),
        }
    }
}

/// A closed connection whose numbers stay taken for a minute (RFC 9293 3.4.2, RFC 6191).
pub struct TimeWait {
    pub quad: Quad,
    pub(crate) snd_nxt: u32,
    pub(crate) rcv_nxt: u32,
    pub(crate) window: u16,
    pub(crate) ts_recent: Mutex<(u32, Time)>,
    pub(crate) ts_offset: u32,
    pub(crate) ts_on: bool,
    pub created: Time,
    pub expires: Mutex<Time>,
    pub uid: u32,
    /// The claim to the port.
    pub(crate) claim: u64,
}

impl TcpTable {
    fn shard(&self, stack: &Stack, q: &Quad) -> &Mutex<HashMap<Quad, Entry>> {
        &self.shards[stack.flow_hash(q.local, q.remote) as usize % SHARDS]
    }

    pub(crate) fn find(&self, stack: &Stack, q: &Quad) -> Option<Entry> {
        self.shard(stack, q).lock().get(q).cloned()
    }

    /// Enters a connection. What waits in TIME_WAIT gives way when `over` accepts it.
    pub(crate) fn enter(
        &self,
        stack: &Stack,
        q: Quad,
        s: &Arc<TcpSocket>,
        over: impl Fn(&TimeWait) -> bool,
    ) -> Entered {
        let mut t = self.shard(stack, &q).lock();
        match t.get(&q) {
            Some(Entry::TimeWait(w)) if over(w) => {}
            Some(_) => return Entered::Taken,
            None => {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        match t.insert(q, Entry::Socket(s.clone())) {
            Some(Entry::TimeWait(w)) => Entered::InPlaceOf(w),
            _ => Entered::New,
        }
    }

    /// Forgets a closed connection whose numbers another one has now.
    pub(crate) fn gave_way(&self, w: &TimeWait) {
        self.time_waits.fetch_sub(1, Ordering::Relaxed);
        self.ports.release(w.quad.local.port(), w.claim);
    }

    /// Takes a connection out.
    pub(crate) fn leave(&self, stack: &Stack, q: &Quad, s: &TcpSocket) {
        let gone = {
            let mut t = self.shard(stack, q).lock();
            match t.get(q) {
                Some(Entry::Socket(o)) if std::ptr::eq(&**o, s) => t.remove(q),
                _ => None,
            }
        };
        if gone.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Replaces a connection by its TIME_WAIT entry. False when there are too many of those.
    pub(crate) fn wait(&self, stack: &Stack, s: &TcpSocket, w: Arc<TimeWait>) -> bool {
        let max = stack.conf.tcp_max_tw_buckets.get().max(0) as usize;
        if self.time_waits.load(Ordering::Relaxed) >= max {
            return false;
        }
        let mut t = self.shard(stack, &w.quad).lock();
        match t.get(&w.quad) {
            Some(Entry::Socket(o)) if std::ptr::eq(&**o, s) => {
                t.insert(w.quad, Entry::TimeWait(w.clone()));
                self.time_waits.fetch_add(1, Ordering::Relaxed);
                drop(t);
                let at = *w.expires.lock();
                stack.timers.arm(at, Arc::downgrade(&(w as Arc<dyn Expire>)));
                true
            }
            _ => false,
        }
    }

    /// Ends an entry of TIME_WAIT.
    pub fn end_wait(&self, stack: &Stack, w: &TimeWait) {
        let gone = {
            let mut t = self.shard(stack, &w.quad).lock();
            match t.get(&w.quad) {
                Some(Entry::TimeWait(o)) if std::ptr::eq(&**o, w) => t.remove(&w.quad),
                _ => None,
            }
        };
        if gone.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.time_waits.fetch_sub(1, Ordering::Relaxed);
            self.ports.release(w.quad.local.port(), w.claim);
        }
    }

    pub(crate) fn listen(&self, port: u16, s: &Arc<TcpSocket>) {
        self.listeners.write().entry(port).or_default().push(s.clone());
    }

    pub(crate) fn unlisten(&self, port: u16, s: &TcpSocket) {
        let mut t = self.listeners.write();
        if let Some(l) = t.get_mut(&port) {
            l.retain(|o| !std::ptr::eq(&**o, s));
            if l.is_empty() {
                t.remove(&port);
            }
        }
    }

    /// Every listener.
    pub fn listening(&self) -> Vec<Arc<TcpSocket>> {
        self.listeners.read().values().flatten().cloned().collect()
    }

    /// Every connection, and what waits.
    pub fn connections(&self) -> (Vec<Arc<TcpSocket>>, Vec<Arc<TimeWait>>) {
        let (mut socks, mut waits) = (Vec::new(), Vec::new());
        for s in &self.shards {
            for e in s.lock().values() {
                match e {
                    Entry::Socket(s) => socks.push(s.clone()),
                    Entry::TimeWait(w) => waits.push(w.clone()),
                }
            }
        }
        (socks, waits)
    }

    /// Connections and TIME_WAIT entries together, and the latter alone.
    pub fn counts(&self) -> (usize, usize) {
        (self.count.load(Ordering::Relaxed), self.time_waits.load(Ordering::Relaxed))
    }

    /// The listener that fits best.
    fn listener(
        &self,
        stack: &Stack,
        local: SocketAddr,
        remote: SocketAddr,
        iface: u32,
    ) -> Option<Arc<TcpSocket>> {
        let t = self.listeners.read();
        let list = t.get(&local.port())?;
        let mut best: Option<u32> = None;
        let mut group: Vec<&Arc<TcpSocket>> = Vec::new();
        for s in list {
            let Some(score) = s.listen_score(local.ip(), iface) else { continue };
            if best.is_none_or(|b| score > b) {
                best = Some(score);
                group.clear();
            }
            if best == Some(score) {
                group.push(s);
            }
        }
        let n = group.len();
        match n {
            0 => None,
            1 => Some(group[0].clone()),
            _ => Some(group[stack.flow_hash(remote, local) as usize % n].clone()),
        }
    }
}

impl Stack {
    /// Whether a packet with this time to live is from farther away than the socket takes them (RFC 5082).
    fn too_far(&self, s: &TcpSocket, ttl: u8, v6: bool) -> bool {
        if !self.tcp.any_min_ttl.load(Ordering::Relaxed) {
            return false;
        }
        let o = s.opts.lock();
        ttl < if v6 { o.min_hops } else { o.min_ttl }
    }

    /// A segment for this host.
    pub(crate) fn tcp_input(
        &self,
        cx: &mut Cx,
        iface: &Arc<Interface>,
        to: &Delivery,
        mut p: Packet,
    ) {
        self.snmp.tcp_in_segs.inc();
        if to.broadcast && (to.dst.is_multicast() || p.priority != 0) {
            return;
        }
        let at = to.header_len;
        let header = if p.pull(at + wire::HEADER) {
            Tcp::header_len(&p.net()[at..]).unwrap_or(0)
        } else {
            0
        };
        if header < wire::HEADER || !p.pull(at + header) {
            self.snmp.tcp_in_errs.inc();
            return;
        }
        if !to.checksum_ok(&p) {
            self.snmp.tcp_in_csum_errors.inc();
            self.snmp.tcp_in_errs.inc();
            return;
        }
        let Ok(h) = Tcp::parse(&p.net()[at..]) else {
            self.snmp.tcp_in_errs.inc();
            return;
        };
        let q =
            Quad { local: SocketAddr::new(to.dst, h.dst), remote: SocketAddr::new(to.src, h.src) };
        // What connections that begin with this segment answer in their packets.
        let back = to.echoed_options(&p).unwrap_or_default();
        let data = p.take_payload(at + header);
        let mut isn = None;
        match self.tcp.find(self, &q) {
            Some(Entry::Socket(s)) => {
                if self.too_far(&s, to.ttl, to.dst.is_ipv6()) {
                    return;
                }
                s.segment(cx, &h, data);
                return;
            }
            Some(Entry::TimeWait(w)) => {
                let listener = self.tcp.listener(self, q.local, q.remote, iface.index).is_some();
                match self.time_wait_input(cx, &w, &h, &data, listener) {
                    Some(n) => isn = Some(n),
                    None => return,
                }
            }
            None => {}
        }
        match self.tcp.listener(self, q.local, q.remote, iface.index) {
            Some(l) => {
                if self.too_far(&l, to.ttl, to.dst.is_ipv6()) {
                    return;
                }
                let from = Arrival { iface: iface.index, ttl: to.ttl, tos: to.tos };
                l.listen_input(cx, from, q, &h, data, isn, back)
            }
            None => self.tcp_reset(cx, &q, &h, data.len()),
        }
    }

    /// A segment for a closed connection; a number for a new one when it is a SYN that may follow and `listener` says that
    /// somebody would take it.
    fn time_wait_input(
        &self,
        cx: &mut Cx,
        w: &Arc<TimeWait>,
        h: &Tcp,
        data: &Data,
        listener: bool,
    ) -> Option<u32> {
        let ts = h.options.timestamp.filter(|_| w.ts_on);
        let (recent, at) = *w.ts_recent.lock();
        let old = ts.is_some_and(|(v, _)| {
            (v.wrapping_sub(recent) as i32) < 0 && cx.now.since(at) < 24 * 24 * 3600 * SEC
        });
        if !old && h.seq == w.rcv_nxt && data.is_empty() && !h.has(flags::SYN) {
            if h.has(flags::RST) {
                self.tcp.end_wait(self, w);
            } else if let Some((v, _)) = ts {
                *w.ts_recent.lock() = (v, cx.now);
                if h.has(flags::FIN) {
                    self.time_wait_ack(cx, w);
                }
            }
            return None;
        }
        let fresh_syn = listener
            && h.has(flags::SYN)
            && !h.has(flags::RST)
            && !h.has(flags::ACK)
            && !old
            && ((h.seq.wrapping_sub(w.rcv_nxt) as i32) > 0
                || ts.is_some_and(|(v, _)| (v.wrapping_sub(recent) as i32) > 0));
        if fresh_syn {
            self.tcp.end_wait(self, w);
            return Some(w.snd_nxt.wrapping_add(65_537).max(1));
        }
        if !h.has(flags::RST) {
            *w.expires.lock() = cx.now + crate::tcp::timers::TIME_WAIT;
            self.time_wait_ack(cx, w);
        }
        None
    }

    fn time_wait_ack(&self, cx: &mut Cx, w: &TimeWait) {
        let mut options = wire::Options::default();
        if w.ts_on {
            let ts = (cx.now.millis() as u32).wrapping_add(w.ts_offset);
            options.timestamp = Some((ts, w.ts_recent.lock().0));
        }
        let h = Tcp {
            src: w.quad.local.port(),
            dst: w.quad.remote.port(),
            seq: w.snd_nxt,
            ack: w.rcv_nxt,
            flags: flags::ACK,
            window: w.window,
            checksum: 0,
            urgent: 0,
            header_len: 0,
            options,
        };
        self.tcp_send_bare(cx, &w.quad, &h);
    }

    /// Answers a segment that nobody wants (RFC 9293 3.10.7.1).
    pub(crate) fn tcp_reset(&self, cx: &mut Cx, q: &Quad, h: &Tcp, len: usize) {
        if h.has(flags::RST) {
            return;
        }
        self.snmp.tcp_out_rsts.inc();
        let (seq, ack, flag) = if h.has(flags::ACK) {
            (h.ack, 0, flags::RST)
        } else {
            let n = len as u32 + u32::from(h.has(flags::SYN)) + u32::from(h.has(flags::FIN));
            (0, h.seq.wrapping_add(n), flags::RST | flags::ACK)
        };
        let r = Tcp {
            src: q.local.port(),
            dst: q.remote.port(),
            seq,
            ack,
            flags: flag,
            window: 0,
            checksum: 0,
            urgent: 0,
            header_len: 0,
            options: wire::Options::default(),
        };
        self.tcp_send_bare(cx, q, &r);
    }

    /// Sends a segment without data for no socket.
    pub(crate) fn tcp_send_bare(&self, cx: &mut Cx, q: &Quad, h: &Tcp) {
        let mut f = Flow::to(q.remote.ip());
        f.src = Some(q.local.ip());
        let Ok(way) = self.route_to(&f) else { return };
        let mut p = Packet::new(Data::new());
        h.write(p.head_mut());
        ip::partial_checksum(&mut p, q.local.ip(), q.remote.ip(), proto::TCP, 16);
        self.snmp.tcp_out_segs.inc();
        let m = Meta::new(q.local.ip(), q.remote.ip(), proto::TCP);
        let _ = self.send_ip(cx, &way, &m, p);
    }

    /// An ICMP error about a segment of ours.
    pub(crate) fn tcp_notice(&self, cx: &mut Cx, n: &Notice) {
        let Some(b) = n.payload.get(..8) else { return };
        let word = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
        let seq = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
        let q = Quad {
            local: SocketAddr::new(n.src, word(0)),
            remote: SocketAddr::new(n.dst, word(2)),
        };
        if let Some(Entry::Socket(s)) = self.tcp.find(self, &q)
            && !self.too_far(&s, n.ttl, n.v6)
        {
            s.notice(cx, n, seq);
        }
    }
}

impl Expire for TimeWait {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        let at = *self.expires.lock();
        let stack = cx.stack().clone();
        if at > cx.now {
            stack.timers.arm(at, Arc::downgrade(&(self as Arc<dyn Expire>)));
        } else {
            stack.tcp.end_wait(&stack, &self);
        }
    }
}

/// True for addresses of this machine only.
pub(crate) fn is_loopback(a: IpAddr) -> bool {
    a.is_loopback()
}
