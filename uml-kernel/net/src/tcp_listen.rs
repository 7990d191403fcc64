//! Listening: requests that are not connections yet, SYN cookies, the accept queue (RFC 4987).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use uml_base::Events;

use crate::ip::Dst;
use crate::packet::Data;
use crate::ports::Claim;
use crate::route::Kind;
use crate::sock::{IpOptions, SendInfo};
use crate::stack::{Cx, Stack};
use crate::tcp::Segment;
use crate::tcp::tcb::{Handshake, Tcb, announce};
use crate::tcp_socket::{Arrival, Inner, Requests, Role, TcpSocket};
use crate::tcp_table::{Entered, Quad};
use crate::time::{SEC, Time};
use crate::timer::Expire;
use crate::wire::tcp::{self as wire, Tcp, flags};
use crate::wire::v4_options;

/// A SYN that was answered.
pub(crate) struct Request {
    hand: Handshake,
    iss: u32,
    mss: u16,
    /// The window that the answer offers.
    window: u16,
    way: Dst,
    due: Time,
    tries: u32,
    asked: Time,
    /// IPv4 options of its packets.
    options: v4_options::Options,
}

/// What a listening socket keeps.
pub(crate) struct Listener {
    pub backlog: usize,
    requests: Requests,
    accept: VecDeque<Arc<TcpSocket>>,
    /// Cookies were sent until recently: acknowledgements without a request may be answers.
    cookies_until: Time,
    /// TCP_DEFER_ACCEPT: connections are born by their first data.
    pub defer: u64,
}

/// Segment sizes that a cookie can stand for.
const COOKIE_MSS: [u16; 4] = [536, 1300, 1440, 1460];

impl Listener {
    pub fn new(backlog: usize) -> Listener {
        Listener {
            backlog,
            requests: HashMap::new(),
            accept: VecDeque::new(),
            cookies_until: Time(0),
            defer: 0,
        }
    }

    pub fn take(&mut self) -> Option<Arc<TcpSocket>> {
        self.accept.pop_front()
    }

    pub fn ready(&self) -> bool {
        !self.accept.is_empty()
    }

    pub fn waiting(&self) -> usize {
        self.accept.len()
    }

    pub fn into_waiting(self) -> VecDeque<Arc<TcpSocket>> {
        self.accept
    }

    pub fn forget(&mut self, q: &Quad) {
        self.requests.remove(q);
    }

    pub fn half_open(&self) -> Vec<(Quad, u32, Time)> {
        self.requests.iter().map(|(q, r)| (*q, r.tries, r.due)).collect()
    }

    fn full(&self) -> bool {
        self.accept.len() > self.backlog
    }
}

impl TcpSocket {
    /// TCP_DEFER_ACCEPT of a listener, nanoseconds.
    pub fn set_defer(&self, ns: u64) {
        if let Role::Listen(l) = &mut self.inner.lock().role {
            l.defer = ns;
        }
    }

    /// How well the listener fits a connection to `dst`; `None` when it is not for it.
    pub(crate) fn listen_score(&self, dst: IpAddr, iface: u32) -> Option<u32> {
        let local = {
            // The table's lock is held, a leaf: the address is read without the socket's own.
            let o = self.opts.lock();
            if o.device != 0 && o.device != iface {
                return None;
            }
            (o.device, o.v6only, o.listen_addr)
        };
        let (device, only, addr) = local;
        let addr = addr?;
        match (dst, addr) {
            (IpAddr::V4(_), IpAddr::V6(a)) if only || !a.is_unspecified() => return None,
            (IpAddr::V6(_), IpAddr::V4(_)) => return None,
            _ => {}
        }
        let mut score = 1 + u32::from(addr.is_ipv4() == dst.is_ipv4());
        if !addr.is_unspecified() {
            if addr != dst {
                return None;
            }
            score += 4;
        }
        Some(score + u32::from(device != 0) * 4)
    }

    /// A segment for a listening socket; `isn` continues a connection in TIME_WAIT, `back` are the options that answer those of
    /// the segment.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn listen_input(
        &self,
        cx: &mut Cx,
        from: Arrival,
        q: Quad,
        h: &Tcp,
        data: Data,
        isn: Option<u32>,
        back: v4_options::Options,
    ) {
        let child = {
            let mut i = self.inner.lock();
            if !i.is_listening() {
                drop(i);
                self.stack.tcp_reset(cx, &q, h, data.len());
                return;
            }
            match self.judge(cx, &mut i, from.iface, q, h, &data, isn, back) {
                Verdict::Nothing => return,
                Verdict::Reset => None,
                Verdict::Child(hand, iss, took, way, options) => {
                    self.stack.snmp.tcp_passive_opens.inc();
                    let Some(c) = self.make_child(cx, &i, from, q, &hand, iss, took, way, options)
                    else {
                        return;
                    };
                    if let Role::Listen(l) = &mut i.role {
                        l.accept.push_back(c.clone());
                    }
                    Some(c)
                }
            }
        };
        match child {
            None => self.stack.tcp_reset(cx, &q, h, data.len()),
            Some(c) => {
                c.segment(cx, h, data);
                cx.notify(&self.wait, Events::READABLE);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn judge(
        &self,
        cx: &mut Cx,
        i: &mut Inner,
        iface: u32,
        q: Quad,
        h: &Tcp,
        data: &Data,
        isn: Option<u32>,
        back: v4_options::Options,
    ) -> Verdict {
        let set = i.set.clone();
        let Role::Listen(l) = &mut i.role else { return Verdict::Nothing };
        let syn = h.has(flags::SYN);
        if let Some(r) = l.requests.get_mut(&q) {
            if h.has(flags::RST) {
                if h.seq == r.hand.irs.wrapping_add(1) {
                    l.requests.remove(&q);
                }
                return Verdict::Nothing;
            }
            if syn {
                if h.seq == r.hand.irs {
                    let (seg, way) = answer(r, cx.now, &self.stack, &q);
                    let o = self.options_of(r);
                    self.send_segment(cx, &way, q.local, q.remote, seg, &o);
                }
                return Verdict::Nothing;
            }
            if !h.has(flags::ACK) {
                return Verdict::Nothing;
            }
            if h.ack != r.iss.wrapping_add(1) {
                return Verdict::Reset;
            }
            let at = h.seq.wrapping_sub(r.hand.irs.wrapping_add(1)) as i32;
            if !(0..65_536).contains(&at) {
                return Verdict::Nothing;
            }
            if data.is_empty()
                && l.defer > 0
                && cx.now.since(r.asked) < l.defer
                && !h.has(flags::FIN)
            {
                return Verdict::Nothing;
            }
            if l.accept.len() > l.backlog {
                self.stack.snmp.tcp_listen_overflows.inc();
                if self.stack.conf.tcp_abort_on_overflow.get() != 0 {
                    l.requests.remove(&q);
                    return Verdict::Reset;
                }
                return Verdict::Nothing;
            }
            let mut hand = r.hand;
            // The window of the acknowledgement counts, scaled as it is.
            hand.window = r.hand.window;
            let (iss, way, options) = (r.iss, r.way.clone(), std::mem::take(&mut r.options));
            // An answer that went out again may have been acknowledged for either time.
            let took = (r.tries == 0).then(|| cx.now.since(r.asked));
            l.requests.remove(&q);
            return Verdict::Child(hand, iss, took, way, options);
        }
        if h.has(flags::RST) {
            return Verdict::Nothing;
        }
        if h.has(flags::ACK) {
            if syn || l.cookies_until < cx.now {
                return Verdict::Reset;
            }
            return match self.check_cookie(cx, l, &q, h) {
                Some((hand, way)) => Verdict::Child(hand, h.ack.wrapping_sub(1), None, way, back),
                None => Verdict::Reset,
            };
        }
        if !syn || h.has(flags::FIN) {
            return Verdict::Nothing;
        }
        if l.full() {
            self.stack.snmp.tcp_listen_overflows.inc();
            return Verdict::Nothing;
        }
        let mut o = self.opts.lock().clone();
        o.options = back.clone();
        let scope = if matches!(q.remote.ip(), IpAddr::V6(a) if crate::interface::is_link_local(a))
        {
            iface
        } else {
            0
        };
        let flow = o.flow(q.remote.ip(), Some(q.local.ip()), scope, &SendInfo::default());
        let Ok(way) = self.stack.route_to(&flow) else { return Verdict::Nothing };
        if !matches!(way.kind, Kind::Unicast | Kind::Local) {
            return Verdict::Nothing;
        }
        let header = crate::ip::header_len(q.remote.ip());
        let mss = announce(way.mtu, header + o.extra(q.remote.ip(), &SendInfo::default()), &set);
        let window = (set.rcvbuf / 2).min(65_535) as u16;
        let mut hand = Handshake::of(h, &set);
        let limit =
            (self.stack.conf.tcp_max_syn_backlog.get().max(1) as usize).min(l.backlog.max(8));
        if l.requests.len() >= limit {
            if self.stack.conf.tcp_syncookies.get() == 0 {
                return Verdict::Nothing;
            }
            // No state: the number itself says what was agreed. Options are lost.
            let iss = self.cookie(&q, h.seq, hand.peer_mss, cx.now);
            (hand.wscale, hand.timestamp, hand.sack) = (None, None, false);
            l.cookies_until = cx.now + 120 * SEC;
            self.stack.snmp.tcp_syncookies_sent.inc();
            let (due, asked) = (Time::NEVER, cx.now);
            let r = Request { hand, iss, mss, window, way, due, tries: 0, asked, options: back };
            let (seg, way) = answer(&r, cx.now, &self.stack, &q);
            self.send_segment(cx, &way, q.local, q.remote, seg, &o);
            return Verdict::Nothing;
        }
        let iss = isn.unwrap_or_else(|| self.stack.tcp_isn(&q, cx.now));
        let due = cx.now + SEC;
        let asked = cx.now;
        let r = Request { hand, iss, mss, window, way, due, tries: 0, asked, options: back };
        let (seg, way) = answer(&r, cx.now, &self.stack, &q);
        l.requests.insert(q, r);
        self.send_segment(cx, &way, q.local, q.remote, seg, &o);
        self.arm_requests(i, due);
        Verdict::Nothing
    }

    /// What the packets of a request say.
    fn options_of(&self, r: &Request) -> IpOptions {
        IpOptions { options: r.options.clone(), ..self.opts.lock().clone() }
    }

    fn arm_requests(&self, i: &mut Inner, at: Time) {
        if at < i.armed {
            i.armed = at;
            let me: Weak<dyn Expire> = self.me.clone();
            self.stack.timers.arm(at, me);
        }
    }

    /// Answers again that were not acknowledged.
    pub(crate) fn listen_timer(&self, cx: &mut Cx, i: &mut Inner) {
        let tries = self.stack.conf.tcp_synack_retries.get() as u32;
        let now = cx.now;
        let mut again = Vec::new();
        let mut next = Time::NEVER;
        if let Role::Listen(l) = &mut i.role {
            l.requests.retain(|q, r| {
                if r.due <= now {
                    if r.tries >= tries {
                        return false;
                    }
                    r.tries += 1;
                    r.due = now + (SEC << r.tries.min(6));
                    let (seg, way) = answer(r, now, &self.stack, q);
                    again.push((*q, seg, way, self.options_of(r)));
                }
                next = next.min(r.due);
                true
            });
        }
        for (q, seg, way, o) in again {
            self.stack.snmp.tcp_retrans_segs.inc();
            self.send_segment(cx, &way, q.local, q.remote, seg, &o);
        }
        if next != Time::NEVER {
            self.arm_requests(i, next);
        }
    }

    /// A connection of a completed handshake.
    #[allow(clippy::too_many_arguments)]
    fn make_child(
        &self,
        cx: &mut Cx,
        i: &Inner,
        from: Arrival,
        q: Quad,
        hand: &Handshake,
        iss: u32,
        took: Option<u64>,
        way: Dst,
        options: v4_options::Options,
    ) -> Option<Arc<TcpSocket>> {
        let mut o = self.opts.lock().clone();
        o.options = options;
        o.memberships = Vec::new();
        o.listen_addr = None;
        let mut path = self.path(&way, q.remote, iss, &o);
        path.ts_offset = ts_offset(&self.stack, &q);
        let mut t = Tcb::accept(i.set.clone(), &path, hand, cx.now);
        t.receive_settings_changed();
        if let Some(ns) = took {
            t.handshake_took(ns, cx.now);
        }
        let claim = Claim {
            addr: q.local.ip(),
            v6only: false,
            reuse_addr: o.reuse_addr,
            reuse_port: o.reuse_port,
            uid: o.uid,
            iface: 0,
            listening: false,
            by_connect: false,
        };
        let scope = if matches!(q.remote.ip(), IpAddr::V6(a) if crate::interface::is_link_local(a))
        {
            way.iface.index
        } else {
            0
        };
        let role = Role::Conn(Box::new(t));
        let s =
            TcpSocket::build(&self.stack, self.v6, o, q.local, Some(q.remote), role, i.set.clone());
        match self.stack.tcp.enter(&self.stack, q, &s, |_| true) {
            Entered::Taken => return None,
            Entered::InPlaceOf(w) => self.stack.tcp.gave_way(&w),
            Entered::New => {}
        }
        self.stack.tcp.ports.share(q.local.port(), s.id, claim);
        {
            // New and known to the table only: nobody holds its lock while waiting for ours.
            let mut n = s.inner.lock_nested();
            (n.entered, n.claimed, n.way, n.scope) = (true, true, Some(way), scope);
            n.arrival = Some(from);
        }
        Some(s)
    }

    fn cookie_hash(&self, q: &Quad, minute: u64) -> u32 {
        let a = self.stack.flow_hash(q.remote, q.local);
        let h = (a ^ self.stack.secret[3]).wrapping_add(minute).wrapping_mul(0xd6e8_feb8_6659_fd93);
        ((h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    }

    /// A number that holds the minute and the segment size.
    fn cookie(&self, q: &Quad, seq: u32, mss: u16, now: Time) -> u32 {
        let minute = now.0 / (60 * SEC);
        let index = COOKIE_MSS.iter().rposition(|m| *m <= mss).unwrap_or(0) as u32;
        let h = self.cookie_hash(q, minute) & 0x00ff_ffff;
        (((minute as u32 & 0x3f) << 26) | (index << 24) | h).wrapping_add(seq)
    }

    fn check_cookie(&self, cx: &Cx, l: &Listener, q: &Quad, h: &Tcp) -> Option<(Handshake, Dst)> {
        if l.full() {
            return None;
        }
        let irs = h.seq.wrapping_sub(1);
        let c = h.ack.wrapping_sub(1).wrapping_sub(irs);
        let minute = cx.now.0 / (60 * SEC);
        let age = ((minute as u32).wrapping_sub(c >> 26)) & 0x3f;
        // In the first minutes of a machine there is no minute of that age.
        let then = minute.checked_sub(age.into()).filter(|_| age <= 2)?;
        if self.cookie_hash(q, then) & 0x00ff_ffff != c & 0x00ff_ffff {
            return None;
        }
        self.stack.snmp.tcp_syncookies_recv.inc();
        let hand = Handshake {
            irs,
            peer_mss: COOKIE_MSS[(c >> 24 & 3) as usize],
            wscale: None,
            rcv_wscale: 0,
            timestamp: None,
            sack: false,
            window: h.window,
        };
        let flow =
            self.opts.lock().flow(q.remote.ip(), Some(q.local.ip()), 0, &SendInfo::default());
        self.stack.route_to(&flow).ok().map(|way| (hand, way))
    }
}

enum Verdict {
    Nothing,
    Reset,
    /// A connection: its numbers, nanoseconds from our answer to its acknowledgement, where known, and its packets' way and
    /// options.
    Child(Handshake, u32, Option<u64>, Dst, v4_options::Options),
}

fn ts_offset(stack: &Stack, q: &Quad) -> u32 {
    stack.flow_hash(q.remote, SocketAddr::new(q.local.ip(), 0)) as u32
}

/// The SYN+ACK of a request.
fn answer(r: &Request, now: Time, stack: &Stack, q: &Quad) -> (Segment, Dst) {
    let ts = (now.millis() as u32).wrapping_add(ts_offset(stack, q));
    let h = Tcp {
        src: 0,
        dst: 0,
        seq: r.iss,
        ack: r.hand.irs.wrapping_add(1),
        flags: flags::SYN | flags::ACK,
        window: r.window,
        checksum: 0,
        urgent: 0,
        header_len: 0,
        options: r.hand.reply_options(r.mss, ts),
    };
    debug_assert!(r.mss as usize > wire::HEADER);
    (Segment { header: h, data: Data::new(), gso: 0 }, r.way.clone())
}
