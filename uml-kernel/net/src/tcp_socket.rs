//! TCP sockets: connections and listeners with their addresses (tcp(7)).

mod data;
mod end;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};

use crate::icmp::Notice;
use crate::ip::{self, Dst};
use crate::packet::{Data, Gso, GsoKind, Packet};
use crate::ports::Claim;
use crate::sock::{self, IpOptions, SendInfo};
use crate::stack::{Cx, Stack};
use crate::tcp::info::Info;
use crate::tcp::tcb::{Path, Settings, Tcb};
use crate::tcp::{Out, Segment, State};
use crate::tcp_listen::Listener;
use crate::tcp_table::{Entered, Quad, TimeWait, is_loopback};
use crate::time::{SEC, Time};
use crate::timer::Expire;
use crate::wire::proto;
use crate::wire::tcp::Tcp;

pub(crate) enum Role {
    Idle,
    Listen(Box<Listener>),
    Conn(Box<Tcb>),
}

pub(crate) struct Inner {
    pub local: SocketAddr,
    pub remote: Option<SocketAddr>,
    /// A claim to the local port is held; and it was the program that asked for the port.
    pub claimed: bool,
    pub bound: bool,
    pub role: Role,
    pub set: Settings,
    pub scope: u32,
    pub(crate) way: Option<Dst>,
    /// In the connection table.
    pub(crate) entered: bool,
    pub(crate) closed: bool,
    /// Earliest timer entry.
    pub(crate) armed: Time,
    confirmed: Time,
    /// Of listen(2).
    pub(crate) backlog: i32,
    /// It was a listener that somebody else ended, and what the program has not been told of that.
    pub(crate) ended: bool,
    pub(crate) error: Option<Errno>,
    /// How the segment came that made this connection of a listener's.
    pub(crate) arrival: Option<Arrival>,
    /// What was known of the connection when only TIME_WAIT was left of it, for who wants to know of its end.
    last: Option<Box<Info>>,
    /// The name it had while it was connected, when it has none any more.
    last_local: Option<SocketAddr>,
}

/// What is told of a segment by IP_PKTOPTIONS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Number of the interface.
    pub iface: u32,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
}

/// A TCP socket.
pub struct TcpSocket {
    pub(crate) me: Weak<TcpSocket>,
    pub stack: Arc<Stack>,
    pub id: u64,
    pub v6: bool,
    pub wait: Arc<WaitQueue>,
    pub opts: Mutex<IpOptions>,
    pub(crate) inner: Mutex<Inner>,
    urgent: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

/// A row of a listing.
pub struct Row {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: State,
    /// Bytes not acknowledged and not read; for listeners the accept queue and its limit.
    pub tx_queue: usize,
    pub rx_queue: usize,
    pub timer: u8,
    pub timer_at: Option<Time>,
    pub retransmits: u32,
    pub probes: u32,
    pub uid: u32,
    /// The program asked for the local port.
    pub bound: bool,
    /// shutdown(2) of reading and writing.
    pub shut: (bool, bool),
}

impl Row {
    /// What two addresses alone say.
    pub fn of(local: SocketAddr, remote: SocketAddr) -> Row {
        Row {
            local,
            remote,
            state: State::Closed,
            tx_queue: 0,
            rx_queue: 0,
            timer: 0,
            timer_at: None,
            retransmits: 0,
            probes: 0,
            uid: 0,
            bound: true,
            shut: (false, false),
        }
    }
}

pub(crate) fn unspecified(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

impl TcpSocket {
    /// An unbound socket.
    pub fn new(stack: &Arc<Stack>, v6: bool) -> Arc<TcpSocket> {
        let c = &stack.conf;
        let set = Settings {
            timestamps: c.tcp_timestamps.get() != 0,
            sack: c.tcp_sack.get() != 0,
            window_scaling: c.tcp_window_scaling.get() != 0,
            syn_retries: c.tcp_syn_retries.get() as u32,
            retries: c.tcp_retries2.get() as u32,
            keep_idle: c.tcp_keepalive_time.get() as u64 * SEC,
            keep_interval: c.tcp_keepalive_intvl.get() as u64 * SEC,
            keep_count: c.tcp_keepalive_probes.get() as u32,
            fin_timeout: c.tcp_fin_timeout.get() * SEC as i64,
            ..Settings::default()
        };
        let any = SocketAddr::new(unspecified(v6), 0);
        TcpSocket::build(stack, v6, IpOptions::default(), any, None, Role::Idle, set)
    }

    pub(crate) fn build(
        stack: &Arc<Stack>,
        v6: bool,
        opts: IpOptions,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        role: Role,
        set: Settings,
    ) -> Arc<TcpSocket> {
        Arc::new_cyclic(|me| TcpSocket {
            me: me.clone(),
            stack: stack.clone(),
            id: sock::new_id(),
            v6,
            wait: WaitQueue::shared(),
            opts: Mutex::new(Rank::LEAF, opts),
            inner: Mutex::new(
                Rank::SOCKET,
                Inner {
                    local,
                    remote,
                    claimed: false,
                    bound: false,
                    role,
                    set,
                    scope: 0,
                    way: None,
                    entered: false,
                    closed: false,
                    armed: Time::NEVER,
                    confirmed: Time(0),
                    backlog: 0,
                    ended: false,
                    error: None,
                    arrival: None,
                    last: None,
                    last_local: None,
                },
            ),
            urgent: Mutex::new(Rank::LEAF, None),
        })
    }

    /// Sets what is called when urgent data arrives, without locks.
    pub fn on_urgent(&self, f: Arc<dyn Fn() + Send + Sync>) {
        *self.urgent.lock() = Some(f);
    }

    // Names.

    /// Local address.
    pub fn local(&self) -> SocketAddr {
        self.inner.lock().local
    }

    /// How the segment came that made this connection; none of a socket that was not accepted.
    pub fn arrival(&self) -> Option<Arrival> {
        self.inner.lock().arrival
    }

    /// The peer: `ENOTCONN`.
    pub fn remote(&self) -> Result<SocketAddr> {
        let i = self.inner.lock();
        match &i.role {
            Role::Conn(t) if !matches!(t.state, State::SynSent | State::Closed) => {
                i.remote.ok_or(ENOTCONN)
            }
            _ => Err(ENOTCONN),
        }
    }

    /// Interface of link-local addresses.
    pub fn scope(&self) -> u32 {
        self.inner.lock().scope
    }

    /// State as TCP_INFO numbers it.
    pub fn state(&self) -> State {
        match &self.inner.lock().role {
            Role::Idle => State::Closed,
            Role::Listen(_) => State::Listen,
            Role::Conn(t) => t.state,
        }
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

    /// bind(2).
    pub fn bind(&self, addr: SocketAddr, scope: u32) -> Result<()> {
        let (free, no_port) = {
            let o = self.opts.lock();
            (o.free_bind || o.transparent, o.bind_no_port && addr.port() == 0)
        };
        let mut i = self.inner.lock();
        if i.bound || !matches!(i.role, Role::Idle) {
            return Err(EINVAL);
        }
        if !free {
            self.stack.check_bindable(addr.ip(), scope)?;
        }
        if no_port {
            (i.local, i.scope) = (addr, scope);
            return Ok(());
        }
        self.take_port(&mut i, addr)?;
        (i.bound, i.scope) = (true, scope);
        Ok(())
    }

    fn take_port(&self, i: &mut Inner, addr: SocketAddr) -> Result<()> {
        let c = self.claim(addr.ip());
        let ports = &self.stack.tcp.ports;
        let port = match addr.port() {
            0 => ports.claim_any(self.stack.port_range(), self.stack.random(), self.id, &c)?,
            n => {
                ports.claim(n, self.id, c)?;
                n
            }
        };
        i.local = SocketAddr::new(addr.ip(), port);
        i.claimed = true;
        Ok(())
    }

    /// listen(2).
    pub fn listen(&self, backlog: i32) -> Result<()> {
        let backlog = match backlog {
            n if n < 0 => self.stack.conf.somaxconn.get() as i32,
            n => n.min(self.stack.conf.somaxconn.get() as i32),
        };
        let mut i = self.inner.lock();
        match &mut i.role {
            Role::Listen(l) => {
                l.backlog = backlog as usize;
                return Ok(());
            }
            Role::Conn(_) => return Err(EINVAL),
            Role::Idle => {}
        }
        if !i.claimed {
            let no_port = self.opts.lock().bind_no_port;
            let addr = if no_port { i.local.ip() } else { unspecified(self.v6) };
            self.take_port(&mut i, SocketAddr::new(addr, 0))?;
        }
        let port = i.local.port();
        self.stack.tcp.ports.listen(port, self.id)?;
        i.role = Role::Listen(Box::new(Listener::new(backlog as usize)));
        (i.ended, i.error) = (false, None);
        self.opts.lock().listen_addr = Some(i.local.ip());
        i.backlog = backlog;
        drop(i);
        if let Some(me) = self.me.upgrade() {
            self.stack.tcp.listen(port, &me);
        }
        Ok(())
    }

    /// accept(2) without waiting: `EAGAIN`, `EINVAL` when it does not listen.
    pub fn accept(&self) -> Result<Arc<TcpSocket>> {
        let mut i = self.inner.lock();
        match &mut i.role {
            Role::Listen(l) => l.take().ok_or(EAGAIN),
            _ => Err(EINVAL),
        }
    }

    /// connect(2) without waiting: `EINPROGRESS` once the SYN is out. When it was begun before, `EALREADY`
    /// while it goes on, its outcome once, then `EISCONN`.
    pub fn connect(&self, mut to: SocketAddr, scope: u32) -> Result<()> {
        if to.ip().is_unspecified() {
            to.set_ip(if to.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        self.stack.enter(|cx| {
            let mut i = self.inner.lock();
            match &mut i.role {
                Role::Listen(_) => return Err(EISCONN),
                Role::Conn(t) => match t.state {
                    State::SynSent | State::SynRecv => return Err(EALREADY),
                    State::Closed => {
                        if let Some(e) = t.error.take() {
                            return Err(e);
                        }
                        i.role = Role::Idle;
                    }
                    _ => return Err(EISCONN),
                },
                Role::Idle => {}
            }
            self.begin(cx, &mut i, to, scope)
        })
    }

    fn begin(&self, cx: &mut Cx, i: &mut Inner, to: SocketAddr, scope: u32) -> Result<()> {
        let o = self.opts.lock().clone();
        let fixed = (!i.local.ip().is_unspecified()).then_some(i.local.ip());
        if fixed.is_some_and(|f| f.is_ipv4() != to.is_ipv4()) {
            return Err(if to.is_ipv4() { ENETUNREACH } else { EINVAL });
        }
        let flow = o.flow(to.ip(), fixed, scope, &SendInfo::default());
        let way = self.stack.route_to(&flow)?;
        if to.ip().is_multicast()
            || !matches!(way.kind, crate::route::Kind::Unicast | crate::route::Kind::Local)
        {
            return Err(ENETUNREACH);
        }
        let me = self.me.upgrade().ok_or(EBADF)?;
        let src = way.src;
        let now = cx.now;
        // What waits may be used again at once on the loopback (tcp_tw_reuse).
        let reuse = self.stack.conf.tcp_tw_reuse.get();
        let again = reuse == 1 || (reuse == 2 && is_loopback(src));
        let over = move |w: &TimeWait| again && w.ts_on && now.since(w.created) > SEC;
        if i.claimed {
            let q = Quad { local: SocketAddr::new(src, i.local.port()), remote: to };
            match self.stack.tcp.enter(&self.stack, q, &me, over) {
                Entered::Taken => return Err(EADDRNOTAVAIL),
                Entered::InPlaceOf(w) => self.stack.tcp.gave_way(&w),
                Entered::New => {}
            }
            i.local.set_ip(src);
        } else {
            // The ports' lock is held meanwhile: what gives way releases its port afterwards.
            let mut old = None;
            let enter = |port: u16| {
                let q = Quad { local: SocketAddr::new(src, port), remote: to };
                match self.stack.tcp.enter(&self.stack, q, &me, over) {
                    Entered::Taken => return false,
                    Entered::InPlaceOf(w) => old = Some(w),
                    Entered::New => {}
                }
                true
            };
            let (range, random) = (self.stack.port_range(), self.stack.random());
            let ports = &self.stack.tcp.ports;
            let port = ports.claim_shared(range, random, self.id, self.claim(src), enter)?;
            if let Some(w) = old {
                self.stack.tcp.gave_way(&w);
            }
            i.local = SocketAddr::new(src, port);
            i.claimed = true;
        }
        i.entered = true;
        (i.remote, i.scope) = (Some(to), scope);
        let q = Quad { local: i.local, remote: to };
        let path = self.path(&way, to, self.stack.tcp_isn(&q, now), &o);
        i.way = Some(way);
        let mut out = Out::default();
        let set = i.set.clone();
        i.role = Role::Conn(Box::new(Tcb::connect(set, &path, now, &mut out)));
        if let Role::Conn(t) = &mut i.role {
            t.receive_settings_changed();
        }
        self.stack.snmp.tcp_active_opens.inc();
        self.after(cx, i, out);
        Err(EINPROGRESS)
    }

    pub(crate) fn path(&self, way: &Dst, to: SocketAddr, iss: u32, o: &IpOptions) -> Path {
        let extra = o.extra(to.ip(), &SendInfo::default());
        Path {
            iss,
            ts_offset: self.stack.flow_hash(to, to) as u32,
            mtu: way.mtu,
            net_header: ip::header_len(to.ip()) + extra,
            // Where the device does not cut, the stack does behind TCP ([`crate::gso`]).
            gso_max: crate::tcp::GSO_MAX,
        }
    }

    // Steps of the machine.

    /// One step of the connection; `ENOTCONN` when there is none.
    pub fn with<R>(&self, f: impl FnOnce(&mut Tcb, Time, &mut Out) -> R) -> Result<R> {
        self.stack.enter(|cx| self.with_in(cx, f))
    }

    fn with_in<R>(&self, cx: &mut Cx, f: impl FnOnce(&mut Tcb, Time, &mut Out) -> R) -> Result<R> {
        let mut out = Out::default();
        let urgent;
        let r = {
            let mut i = self.inner.lock();
            let Role::Conn(t) = &mut i.role else { return Err(ENOTCONN) };
            let r = f(t, cx.now, &mut out);
            urgent = out.urgent;
            self.after(cx, &mut i, out);
            r
        };
        if urgent {
            let hook = self.urgent.lock().clone();
            if let Some(h) = hook {
                h();
            }
        }
        Ok(r)
    }

    /// As [`TcpSocket::with`] for a look that changes nothing.
    pub fn look<R>(&self, f: impl FnOnce(&Tcb) -> R) -> Result<R> {
        match &self.inner.lock().role {
            Role::Conn(t) => Ok(f(t)),
            _ => Err(ENOTCONN),
        }
    }

    /// A segment arrived.
    pub(crate) fn segment(&self, cx: &mut Cx, h: &Tcp, data: Data) {
        let _ = self.with_in(cx, |t, now, out| t.input(h, data, now, out));
    }

    /// Sends segments, notes wake-ups, arms the timer, and lets go of what is over.
    pub(crate) fn after(&self, cx: &mut Cx, i: &mut Inner, out: Out) {
        for s in out.segments {
            self.transmit(cx, i, s);
        }
        cx.notify(&self.wait, out.events);
        let Role::Conn(t) = &i.role else { return };
        if let Some(at) = t.deadline()
            && at < i.armed
        {
            i.armed = at;
            let me: Weak<dyn Expire> = self.me.clone();
            self.stack.timers.arm(at, me);
        }
        match t.state {
            State::Closed => self.over(i),
            State::TimeWait if i.closed && i.entered => self.compact(cx, i),
            _ => {}
        }
    }

    /// The connection is gone: its numbers are free.
    fn over(&self, i: &mut Inner) {
        if i.entered
            && let Some(remote) = i.remote
        {
            i.entered = false;
            let q = Quad { local: i.local, remote };
            self.stack.tcp.leave(&self.stack, &q, self);
        }
        if i.claimed && (i.closed || !i.bound) {
            i.claimed = false;
            self.stack.tcp.ports.release(i.local.port(), self.id);
            if !i.closed {
                // A socket that can connect again gets a new name then.
                i.last_local = Some(i.local);
                i.local = SocketAddr::new(unspecified(self.v6), 0);
            }
        }
    }

    /// Leaves only what TIME_WAIT needs.
    fn compact(&self, cx: &mut Cx, i: &mut Inner) {
        let (Role::Conn(t), Some(remote)) = (&i.role, i.remote) else { return };
        let quad = Quad { local: i.local, remote };
        let w = Arc::new(t.time_wait(quad, cx.now, self.opts.lock().uid, self.id));
        if self.stack.tcp.wait(&self.stack, self, w) {
            // The claim went with it.
            i.claimed = false;
        } else {
            self.stack.tcp.leave(&self.stack, &quad, self);
            if std::mem::take(&mut i.claimed) {
                self.stack.tcp.ports.release(i.local.port(), self.id);
            }
        }
        i.entered = false;
        if self.stack.ends.wanted() {
            i.last = Some(Box::new(t.info(cx.now)));
        }
        i.role = Role::Idle;
    }

    fn transmit(&self, cx: &mut Cx, i: &mut Inner, s: Segment) {
        let Some(remote) = i.remote else { return };
        let o = self.opts.lock().clone();
        if !i.way.as_ref().is_some_and(|w| self.stack.fresh(w)) {
            let flow = o.flow(remote.ip(), Some(i.local.ip()), i.scope, &SendInfo::default());
            match self.stack.route_to(&flow) {
                Ok(w) => {
                    i.way = Some(w);
                }
                Err(_) => {
                    // Retransmission tries again.
                    self.stack.snmp.ip_of(remote.is_ipv6()).out_no_routes.inc();
                    return;
                }
            }
        }
        let Some(way) = i.way.clone() else { return };
        if let Role::Conn(t) = &i.role
            && cx.now.since(i.confirmed) > SEC
            && t.stats.bytes_acked + t.stats.bytes_received > 0
        {
            i.confirmed = cx.now;
            self.stack.neighbours.confirm(way.iface.index, way.next, cx.now);
        }
        self.send_segment(cx, &way, i.local, remote, s, &o);
    }

    pub(crate) fn send_segment(
        &self,
        cx: &mut Cx,
        way: &Dst,
        local: SocketAddr,
        remote: SocketAddr,
        s: Segment,
        o: &IpOptions,
    ) {
        let mut h = s.header;
        (h.src, h.dst) = (local.port(), remote.port());
        let len = s.data.len();
        let mut p = Packet::new(s.data);
        h.write(p.head_mut());
        ip::partial_checksum(&mut p, local.ip(), remote.ip(), proto::TCP, 16);
        if s.gso > 0 && len > s.gso {
            let kind = if remote.is_ipv4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
            p.gso = Some(Gso { kind, size: s.gso.min(65_535) as u16 });
        }
        p.mark = o.mark;
        let mut m = o.meta(way, remote.ip(), proto::TCP, 0, &SendInfo::default(), &self.stack);
        m.src = local.ip();
        m.df = o.pmtu != sock::pmtu::DONT;
        self.stack.snmp.tcp_out_segs.inc();
        let _ = self.stack.send_ip(cx, way, &m, p);
    }

    /// SO_ERROR.
    pub fn take_error(&self) -> Option<Errno> {
        let i = &mut *self.inner.lock();
        match &mut i.role {
            Role::Conn(t) => t.error.take().or_else(|| t.soft_error.take()),
            _ => i.error.take(),
        }
    }

    /// Readiness.
    pub fn events(&self) -> Events {
        let i = self.inner.lock();
        match &i.role {
            Role::Conn(t) => t.events(),
            Role::Listen(l) => Events::READABLE.when(l.ready()),
            Role::Idle => {
                let shut = (Events::READABLE | Events::RDHUP).when(i.ended);
                Events::HUP | Events::WRITABLE | shut | Events::ERR.when(i.error.is_some())
            }
        }
    }

    /// TCP_INFO.
    pub fn info(&self) -> Info {
        let now = self.stack.now();
        match &self.inner.lock().role {
            Role::Conn(t) => t.info(now),
            Role::Listen(l) => Info {
                state: State::Listen as u8,
                unacked: l.waiting() as u32,
                sacked: l.backlog as u32,
                // What a connection begins with.
                snd_cwnd: 10,
                reordering: 3,
                ..Info::default()
            },
            Role::Idle => Info { state: State::Closed as u8, ..Info::default() },
        }
    }

    /// A row for listings.
    pub fn row(&self) -> Row {
        let uid = self.opts.lock().uid;
        let i = self.inner.lock();
        let none = SocketAddr::new(unspecified(self.v6 && !i.local.is_ipv4()), 0);
        let remote = i.remote.unwrap_or(none);
        let mut r = Row { uid, bound: i.bound, ..Row::of(i.local, remote) };
        match &i.role {
            Role::Idle => {}
            Role::Listen(l) => {
                r.state = State::Listen;
                r.rx_queue = l.waiting();
                r.tx_queue = l.backlog;
            }
            Role::Conn(t) => {
                r.state = t.state;
                (r.tx_queue, r.rx_queue) = (t.unacked(), t.readable());
                (r.timer, r.timer_at) = t.timer();
                (r.retransmits, r.probes) = t.unanswered();
                r.shut = (t.shut_read, t.shut_write);
            }
        }
        r
    }

    /// Reads settings.
    pub fn settings<R>(&self, f: impl FnOnce(&Settings) -> R) -> R {
        let i = self.inner.lock();
        match &i.role {
            Role::Conn(t) => f(&t.set),
            _ => f(&i.set),
        }
    }

    /// Changes settings; the connection follows them.
    pub fn set(&self, f: impl FnOnce(&mut Settings)) {
        self.stack.enter(|cx| {
            let mut i = self.inner.lock();
            f(self.settings_mut(&mut i));
            let mut out = Out::default();
            if let Role::Conn(t) = &mut i.role {
                t.settings_changed(cx.now, &mut out);
                self.after(cx, &mut i, out);
            }
        });
    }

    fn settings_mut<'a>(&self, i: &'a mut Inner) -> &'a mut Settings {
        match &mut i.role {
            Role::Conn(t) => &mut t.set,
            _ => &mut i.set,
        }
    }

    /// Options of packets have changed: segments leave room for them.
    pub fn headers_changed(&self) {
        let mut i = self.inner.lock();
        i.way = None;
        let Some(to) = i.remote else { return };
        let extra = self.opts.lock().extra(to.ip(), &SendInfo::default());
        if let Role::Conn(t) = &mut i.role {
            t.set_net_header(ip::header_len(to.ip()) + extra);
        }
    }

    /// Options that claims depend on have changed.
    pub fn options_changed(&self) {
        let (reuse_addr, reuse_port, iface, v6only) = {
            let o = self.opts.lock();
            (o.reuse_addr, o.reuse_port, o.device, o.v6only)
        };
        let port = {
            let mut i = self.inner.lock();
            i.way = None;
            i.local.port()
        };
        self.stack.tcp.ports.change(port, self.id, |c| {
            (c.reuse_addr, c.reuse_port, c.iface, c.v6only) =
                (reuse_addr, reuse_port, iface, v6only);
        });
    }

    /// An ICMP error about the connection; `seq` is the number it quotes.
    pub(crate) fn notice(&self, cx: &mut Cx, n: &Notice, seq: u32) {
        let mut i = self.inner.lock();
        if n.errno == EMSGSIZE {
            i.way = None;
            let (Some(remote), local, scope) = (i.remote, i.local.ip(), i.scope) else { return };
            let flow = self.opts.lock().flow(remote.ip(), Some(local), scope, &SendInfo::default());
            let Ok(way) = self.stack.route_to(&flow) else { return };
            let mtu = way.mtu;
            i.way = Some(way);
            let mut out = Out::default();
            if let Role::Conn(t) = &mut i.role
                && t.quotes(seq)
            {
                t.set_path_mtu(mtu, cx.now, &mut out);
                self.after(cx, &mut i, out);
            }
            return;
        }
        let mut out = Out::default();
        if let Role::Conn(t) = &mut i.role
            && t.quotes(seq)
        {
            let opening = matches!(t.state, State::SynSent | State::SynRecv);
            // While it is being opened every "unreachable" ends it, as on Linux.
            if opening {
                t.icmp_error(n.errno, &mut out);
            } else {
                t.soft_error = Some(n.errno);
            }
            self.after(cx, &mut i, out);
        }
    }
}

impl Inner {
    pub(crate) fn is_listening(&self) -> bool {
        matches!(self.role, Role::Listen(_))
    }
}

impl Expire for TcpSocket {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        let mut i = self.inner.lock();
        if i.armed > cx.now {
            return;
        }
        i.armed = Time::NEVER;
        let mut out = Out::default();
        match &mut i.role {
            Role::Conn(t) => {
                if t.deadline().is_some_and(|d| d <= cx.now) {
                    t.on_timer(cx.now, &mut out);
                }
                self.after(cx, &mut i, out);
            }
            Role::Listen(_) => self.listen_timer(cx, &mut i),
            Role::Idle => {}
        }
    }
}

impl Stack {
    /// An initial sequence number (RFC 6528): a clock and a secret of the connection.
    pub(crate) fn tcp_isn(&self, q: &Quad, now: Time) -> u32 {
        let h = self.flow_hash(q.local, q.remote) ^ self.secret[2].rotate_left(11);
        (h as u32).wrapping_add((now.0 >> 6) as u32)
    }
}

impl Tcb {
    /// What TIME_WAIT keeps of the connection.
    fn time_wait(&self, quad: Quad, now: Time, uid: u32, claim: u64) -> TimeWait {
        let (snd_nxt, rcv_nxt, ts_recent, ts_at, ts_offset, ts_on) = self.closing_numbers();
        TimeWait {
            quad,
            snd_nxt,
            rcv_nxt,
            window: 512,
            ts_recent: Mutex::new(Rank::LEAF, (ts_recent, ts_at)),
            ts_offset,
            ts_on,
            created: now,
            expires: Mutex::new(Rank::LEAF, now + crate::tcp::timers::TIME_WAIT),
            uid,
            claim,
        }
    }
}

pub(crate) type Requests = HashMap<Quad, crate::tcp_listen::Request>;
