//! Connection tracking: which packets belong together, in which state their connection is, and how long it is remembered
//! (nf_conntrack; iptables-extensions(8), "conntrack").
//!
//! A connection is entered in the table, under the addresses of both directions, once its first packet has left or arrived:
//! what is dropped leaves no trace. Sequence numbers of TCP are not checked against windows, which is what
//! `nf_conntrack_tcp_be_liberal` asks of Linux; only resets must fit.

mod nat;
mod tcp;
mod tuple;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use uml_base::{Mutex, Rank};
use uml_net::Time;
use uml_net::hook::Track;
use uml_net::packet::Packet;
use uml_net::stack::{Cx, Stack};
use uml_net::time::SEC;
use uml_net::timer::{Armed, Expire};
use uml_net::wire::proto;

use crate::expr::Step;
use crate::machine::Parsed;
use crate::model::Counter;

pub use nat::{Manip, NatRange};
pub use tcp::TcpState;
pub use tuple::Tuple;

/// Connections remembered (nf_conntrack_max).
pub const CONNECTIONS_MAX: usize = 65_536;
const SHARDS: usize = 64;
/// Not more often than this the table is searched for what has expired.
const SWEEP: u64 = SEC;

/// How a packet relates to its connection (enum ip_conntrack_info).
pub mod info {
    pub const ESTABLISHED: u8 = 0;
    pub const RELATED: u8 = 1;
    pub const NEW: u8 = 2;
    /// From here on in reply direction.
    pub const REPLY: u8 = 3;
}

/// Status bits of a connection (IPS_*).
pub mod status {
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const ASSURED: u32 = 1 << 2;
    pub const CONFIRMED: u32 = 1 << 3;
    pub const SRC_NAT: u32 = 1 << 4;
    pub const DST_NAT: u32 = 1 << 5;
    pub const SRC_NAT_DONE: u32 = 1 << 7;
    pub const DST_NAT_DONE: u32 = 1 << 8;
    pub const DYING: u32 = 1 << 9;
}

/// What of a connection changes with its packets.
#[derive(Clone, Debug)]
pub struct State {
    /// Addresses of replies; what is sent is translated so that replies look like this.
    pub reply: Tuple,
    pub tcp: tcp::Tcp,
}

/// A connection.
pub struct Conn {
    pub id: u32,
    /// As the first packet came.
    pub original: Tuple,
    state: Mutex<State>,
    status: AtomicU32,
    pub mark: AtomicU32,
    expires: AtomicU64,
    created: Time,
    /// The interface whose address it masquerades as.
    pub masquerade: AtomicU32,
    /// Packets and bytes of each direction.
    pub counters: [Counter; 2],
}

impl Conn {
    /// Status bits.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Relaxed)
    }

    fn set(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::Relaxed);
    }

    /// What changes, as it is now.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// The addresses of a direction.
    pub fn tuple(&self, reply: bool) -> Tuple {
        if reply { self.state.lock().reply } else { self.original }
    }

    /// When it is forgotten.
    pub fn expires(&self) -> Time {
        Time(self.expires.load(Ordering::Relaxed))
    }

    fn confirmed(&self) -> bool {
        self.status() & status::CONFIRMED != 0
    }

    fn lives(&self, now: Time) -> bool {
        self.expires() > now && self.status() & status::DYING == 0
    }

    /// Neither over nor being closed.
    pub fn is_open(&self, now: Time) -> bool {
        let over = || matches!(self.state.lock().tcp.state, TcpState::TimeWait | TcpState::Close);
        self.lives(now) && !(self.original.proto == proto::TCP && over())
    }

    fn refresh(&self, now: Time, seconds: u64) {
        self.expires.store((now + seconds * SEC).0, Ordering::Relaxed);
    }
}

/// The connection of a packet, and how it relates to it.
pub fn of(p: &Packet) -> Option<(Arc<Conn>, u8)> {
    match &p.track {
        Track::Conn(c, info) => Some((c.clone().downcast::<Conn>().ok()?, *info)),
        _ => None,
    }
}

type Shard = Mutex<HashMap<Tuple, (Arc<Conn>, bool)>>;

/// The connections of a namespace.
pub struct Conntrack {
    me: Weak<Conntrack>,
    shards: Vec<Shard>,
    hasher: RandomState,
    count: AtomicUsize,
    next_id: AtomicU32,
    armed: Armed,
    /// A full table was logged.
    complained: AtomicBool,
}

impl Conntrack {
    /// An empty table.
    pub fn new() -> Arc<Conntrack> {
        Arc::new_cyclic(|me| Conntrack {
            me: me.clone(),
            shards: (0..SHARDS).map(|_| Mutex::new(Rank::LEAF, HashMap::new())).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            next_id: AtomicU32::new(1),
            armed: Armed::default(),
            complained: AtomicBool::new(false),
        })
    }

    fn shard(&self, t: &Tuple) -> &Shard {
        &self.shards[self.hasher.hash_one(t) as usize % SHARDS]
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// True without connections.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The connection with these addresses; true when they are those of replies.
    pub fn find(&self, t: &Tuple, now: Time) -> Option<(Arc<Conn>, bool)> {
        let s = self.shard(t).lock();
        s.get(t).filter(|(c, _)| c.lives(now)).cloned()
    }

    /// Every connection.
    pub fn list(&self, now: Time) -> Vec<Arc<Conn>> {
        let mut v = Vec::new();
        for s in &self.shards {
            let s = s.lock();
            v.extend(s.values().filter(|(c, r)| !r && c.lives(now)).map(|(c, _)| c.clone()));
        }
        v.sort_by_key(|c| c.id);
        v
    }

    /// Forgets a connection.
    pub fn remove(&self, c: &Arc<Conn>) {
        c.set(status::DYING);
        let mut gone = false;
        for reply in [false, true] {
            let t = c.tuple(reply);
            let mut s = self.shard(&t).lock();
            if s.get(&t).is_some_and(|(o, _)| Arc::ptr_eq(o, c)) {
                s.remove(&t);
                gone |= !reply;
            }
        }
        if gone {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets the connections that `f` accepts.
    pub fn flush(&self, now: Time, f: impl Fn(&Conn) -> bool) {
        for c in self.list(now) {
            if f(&c) {
                self.remove(&c);
            }
        }
    }

    /// Finds or begins the connection of a packet that comes in or is sent here.
    pub fn enter(&self, cx: &mut Cx, p: &mut Packet, h: &Parsed) -> Step {
        // Known already when it comes back through the loopback, or not to be known.
        if !matches!(p.track, Track::None) || h.fragment {
            return Step::Next;
        }
        let now = cx.now;
        let Some(t) = Tuple::of(p, h) else {
            self.enter_error(p, h, now);
            return Step::Next;
        };
        let segment = (h.proto == proto::TCP).then(|| tcp::Segment::of(p, h)).flatten();
        if h.proto == proto::TCP && segment.is_none() {
            return Step::Next;
        }
        let mut found = self.find(&t, now);
        if let (Some((c, reply)), Some(s)) = (&found, &segment)
            && tcp::reopens(c.state.lock().tcp.state, s, *reply)
        {
            // The same addresses again: a new connection.
            self.remove(c);
            found = None;
        }
        let (c, reply) = match found {
            Some(f) => f,
            None => match self.begin(t, &segment, now) {
                Some(c) => (c, false),
                None => return Step::Next,
            },
        };
        match segment {
            Some(s) => {
                let seen = c.status() & status::SEEN_REPLY != 0 || reply;
                let (seconds, assured, valid) = {
                    let mut state = c.state.lock();
                    let valid = state.tcp.follow(&s, reply);
                    (state.tcp.timeout(seen), state.tcp.assured, valid)
                };
                if !valid {
                    return Step::Next;
                }
                if assured && seen {
                    c.set(status::ASSURED);
                }
                c.refresh(now, seconds);
            }
            None => {
                let both = reply || c.status() & status::SEEN_REPLY != 0;
                let seconds = match h.proto {
                    // A stream is what still goes both ways after two seconds.
                    proto::UDP if both && now.since(c.created) > 2 * SEC => {
                        c.set(status::ASSURED);
                        120
                    }
                    proto::UDP | proto::ICMP | proto::ICMPV6 => 30,
                    _ => 600,
                };
                c.refresh(now, seconds);
            }
        }
        if reply {
            c.set(status::SEEN_REPLY);
        }
        let how = match reply {
            true => info::ESTABLISHED + info::REPLY,
            false if c.status() & status::SEEN_REPLY != 0 => info::ESTABLISHED,
            false => info::NEW,
        };
        c.counters[usize::from(reply)].count(p.net_len());
        p.track = Track::Conn(c, how);
        Step::Next
    }

    /// A connection that begins with this packet; `None` when such a packet begins none.
    fn begin(&self, t: Tuple, s: &Option<tcp::Segment>, now: Time) -> Option<Arc<Conn>> {
        if s.as_ref().is_some_and(|s| !s.begins()) || !t.begins() {
            return None;
        }
        Some(Arc::new(Conn {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            original: t,
            state: Mutex::new(Rank::LEAF, State { reply: t.inverse(), tcp: tcp::Tcp::default() }),
            status: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            expires: AtomicU64::new((now + 30 * SEC).0),
            created: now,
            masquerade: AtomicU32::new(0),
            counters: [Counter::default(), Counter::default()],
        }))
    }

    /// An ICMP error belongs to the connection of the packet that it quotes.
    fn enter_error(&self, p: &mut Packet, h: &Parsed, now: Time) {
        let Some(inner) = Tuple::quoted(p, h) else { return };
        if let Some((c, reply)) = self.find(&inner.inverse(), now) {
            let how = if reply { info::RELATED + info::REPLY } else { info::RELATED };
            p.track = Track::Conn(c, how);
        }
    }

    /// Enters a new connection whose first packet has passed everything.
    pub fn confirm(&self, cx: &mut Cx, p: &mut Packet) -> Step {
        let Some((c, how)) = of(p) else { return Step::Next };
        if c.confirmed() || how != info::NEW {
            return Step::Next;
        }
        let now = cx.now;
        if self.len() >= CONNECTIONS_MAX && !self.make_room(now) {
            if !self.complained.swap(true, Ordering::Relaxed) {
                uml_base::pr_warn!("nf_conntrack: nf_conntrack: table full, dropping packet");
            }
            return Step::Drop;
        }
        let (original, reply) = (c.original, c.tuple(true));
        for (t, is_reply) in [(original, false), (reply, true)] {
            let mut s = self.shard(&t).lock();
            if let Some((other, _)) = s.get(&t)
                && other.lives(now)
                && !Arc::ptr_eq(other, &c)
            {
                drop(s);
                if is_reply {
                    let mut s = self.shard(&original).lock();
                    if s.get(&original).is_some_and(|(o, _)| Arc::ptr_eq(o, &c)) {
                        s.remove(&original);
                    }
                }
                // Somebody was faster with the same addresses.
                return Step::Drop;
            }
            if s.insert(t, (c.clone(), is_reply))
                .is_some_and(|(old, r)| !r && !Arc::ptr_eq(&old, &c))
            {
                // One that had expired gives way.
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        c.set(status::CONFIRMED);
        self.count.fetch_add(1, Ordering::Relaxed);
        let stack = cx.stack().clone();
        self.arm(&stack, c.expires().max(now + SWEEP));
        Step::Next
    }

    /// Forgets one connection that nobody would miss: expired, or never answered or assured.
    fn make_room(&self, now: Time) -> bool {
        for s in &self.shards {
            let victim = s
                .lock()
                .values()
                .find(|(c, _)| !c.lives(now) || c.status() & status::ASSURED == 0)
                .map(|(c, _)| c.clone());
            if let Some(c) = victim {
                self.remove(&c);
                return true;
            }
        }
        false
    }

    fn arm(&self, stack: &Stack, at: Time) {
        self.armed.arm(&stack.timers, at, || self.me.clone());
    }
}

impl Expire for Conntrack {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        let now = cx.now;
        if !self.armed.due(now) {
            return;
        }
        let mut next = Time::NEVER;
        let mut gone = Vec::new();
        for s in &self.shards {
            for (c, _) in s.lock().values() {
                if c.lives(now) {
                    next = next.min(c.expires());
                } else {
                    // By either tuple: another connection may have taken the place of one of them.
                    gone.push(c.clone());
                }
            }
        }
        for c in gone {
            self.remove(&c);
        }
        if next != Time::NEVER {
            let stack = cx.stack().clone();
            self.arm(&stack, next.max(now + SWEEP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uml_net::Clock;
    use uml_net::packet::Data;

    /// A clock that tests set.
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Time {
            Time(self.0.load(Ordering::SeqCst))
        }
    }

    fn datagram(src: [u8; 4], dst: [u8; 4], ports: [u8; 4]) -> Packet {
        let mut b = Vec::new();
        uml_net::wire::ipv4::Ipv4::new(src.into(), dst.into(), proto::UDP, 64, 8)
            .write(&[], &mut b);
        b.extend_from_slice(&ports);
        b.extend_from_slice(&[0, 8, 0, 0]);
        Packet::new(Data::copy_of(&b))
    }

    fn pass(ct: &Arc<Conntrack>, stack: &Arc<Stack>, mut p: Packet) -> Option<(Arc<Conn>, u8)> {
        stack.enter(|cx| {
            let h = Parsed::of(&mut p)?;
            ct.enter(cx, &mut p, &h);
            ct.confirm(cx, &mut p);
            of(&p)
        })
    }

    #[test]
    fn connections_are_found_from_both_sides_and_forgotten_in_time() {
        let clock = Arc::new(Hand(AtomicU64::new(SEC)));
        let stack = Stack::new(clock.clone(), [1; 32]);
        let ct = Conntrack::new();
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let there = || datagram(a, b, [0, 7, 0, 53]);
        let back = || datagram(b, a, [0, 53, 0, 7]);
        let (first, how) = pass(&ct, &stack, there()).unwrap();
        assert_eq!((how, ct.len()), (info::NEW, 1));
        let (same, how) = pass(&ct, &stack, back()).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert_eq!(how, info::ESTABLISHED + info::REPLY);
        assert_eq!(pass(&ct, &stack, there()).unwrap().1, info::ESTABLISHED);
        clock.0.store(40 * SEC, Ordering::SeqCst);
        // Its time is over though nobody has looked: the other side begins a new one, in its place.
        let (other, how) = pass(&ct, &stack, back()).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(how, info::NEW);
        clock.0.store(100 * SEC, Ordering::SeqCst);
        stack.run_timers();
        assert!(ct.is_empty());
        assert!(ct.shards.iter().all(|s| s.lock().is_empty()));
    }

    #[test]
    fn source_ports_that_are_taken_change() {
        let stack = Stack::new(Arc::new(Hand(AtomicU64::new(SEC))), [1; 32]);
        let ct = Conntrack::new();
        let to = NatRange {
            addresses: Some(([1, 1, 1, 1].into(), [1, 1, 1, 1].into())),
            ..NatRange::default()
        };
        let mut seen = std::collections::HashSet::new();
        for n in 1..=20 {
            let mut p = datagram([10, 0, 0, n], [8, 8, 8, 8], [0x10, 0, 0, 53]);
            let reply = stack.enter(|cx| {
                let h = Parsed::of(&mut p).unwrap();
                ct.enter(cx, &mut p, &h);
                let (c, _) = of(&p).unwrap();
                assert!(ct.decide(cx, &c, Manip::Src, &to));
                assert_eq!(ct.confirm(cx, &mut p), Step::Next);
                c.tuple(true)
            });
            assert_eq!(reply.dst, std::net::IpAddr::from([1, 1, 1, 1]));
            assert!(n != 1 || reply.dport == 0x1000);
            assert!(seen.insert(reply.dport));
        }
    }
}
