//! A guest's whole stack on one side, a host that does what the test says on the other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_net::interface::{Address, Device, Features, Interface, Link, Sent, iff};
use uml_net::packet::{Data, Frag, Packet, Slab};
use uml_net::ping::PingSocket;
use uml_net::route::{Mode, Prefix, Route};
use uml_net::sock::SendInfo;
use uml_net::stack::Stack;
use uml_net::tcp_socket::TcpSocket;
use uml_net::time::{MS, SEC};
use uml_net::udp::UdpSocket;
use uml_net::wire::ethernet::Mac;
use uml_net::{Clock, Time};

use crate::{Config, Id, Nat, Outside, Trouble, limits};

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Default)]
struct Port(Mutex<VecDeque<Packet>>);

impl Device for Port {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        self.0.lock().unwrap().extend(batch.drain(..));
        Sent::default()
    }
}

/// A connection of the host as the other end sees it.
#[derive(Default)]
struct Stream {
    id: u64,
    to: Option<SocketAddr>,
    outcome: Option<Errno>,
    got: Vec<u8>,
    /// Bytes that it takes before it says EAGAIN.
    room: usize,
    ended: bool,
    send: VecDeque<u8>,
    send_end: bool,
    broken: Option<Errno>,
    was_reset: bool,
    dropped: bool,
}

#[derive(Default)]
struct Datagrams {
    id: u64,
    at: Option<SocketAddr>,
    sent: Vec<(SocketAddr, Vec<u8>, u8)>,
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    troubles: VecDeque<Trouble>,
}

#[derive(Default)]
struct World {
    streams: BTreeMap<u64, Stream>,
    datagrams: BTreeMap<u64, Datagrams>,
    accepts: VecDeque<SocketAddr>,
    listener: u64,
    /// What connecting, or sending a datagram, to an address gives at once.
    refuse: HashMap<SocketAddr, Errno>,
    /// What connecting gives later.
    fails: HashMap<SocketAddr, Errno>,
    no_ping: bool,
    /// Connections are there at once.
    quick: bool,
    resolvers: Vec<SocketAddr>,
    next: u64,
}

type Shared = Arc<Mutex<World>>;

struct Sock {
    n: u64,
    world: Shared,
}

impl Drop for Sock {
    fn drop(&mut self) {
        if let Some(s) = self.world.lock().unwrap().streams.get_mut(&self.n) {
            s.dropped = true;
        }
    }
}

struct Host(Shared);

impl Host {
    fn new_sock(&self, n: u64) -> Sock {
        Sock { n, world: self.0.clone() }
    }
}

impl World {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Outside for Host {
    type Socket = Sock;

    fn connect(&mut self, id: Id, to: SocketAddr) -> Result<(Sock, bool)> {
        let mut w = self.0.lock().unwrap();
        if let Some(e) = w.refuse.get(&to) {
            return Err(*e);
        }
        let n = w.number();
        let done = w.quick;
        let outcome = w.fails.get(&to).copied();
        let s = Stream { id: id.0, to: Some(to), outcome, room: usize::MAX, ..Stream::default() };
        w.streams.insert(n, s);
        drop(w);
        Ok((self.new_sock(n), done))
    }

    fn outcome(&mut self, s: &Sock) -> Result<()> {
        let w = self.0.lock().unwrap();
        w.streams[&s.n].outcome.map_or(Ok(()), Err)
    }

    fn send(&mut self, s: &Sock, data: &Data) -> Result<usize> {
        let mut w = self.0.lock().unwrap();
        let t = w.streams.get_mut(&s.n).unwrap();
        if let Some(e) = t.broken {
            return Err(e);
        }
        let n = data.len().min(t.room);
        if n == 0 {
            return Err(EAGAIN);
        }
        if t.room != usize::MAX {
            t.room -= n;
        }
        t.got.extend_from_slice(&data.part(0, n).to_vec());
        Ok(n)
    }

    fn recv(&mut self, s: &Sock, buf: &mut [u8]) -> Result<usize> {
        let mut w = self.0.lock().unwrap();
        let t = w.streams.get_mut(&s.n).unwrap();
        if let Some(e) = t.broken {
            return Err(e);
        }
        let n = t.send.len().min(buf.len());
        if n == 0 {
            return if t.send_end { Ok(0) } else { Err(EAGAIN) };
        }
        for (to, from) in buf.iter_mut().zip(t.send.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }

    fn finish(&mut self, s: &Sock) {
        self.0.lock().unwrap().streams.get_mut(&s.n).unwrap().ended = true;
    }

    fn reset(&mut self, s: Sock) {
        self.0.lock().unwrap().streams.get_mut(&s.n).unwrap().was_reset = true;
    }

    fn listen(&mut self, id: Id, at: SocketAddr) -> Result<Sock> {
        let mut w = self.0.lock().unwrap();
        if w.refuse.contains_key(&at) {
            return Err(EADDRINUSE);
        }
        w.listener = id.0;
        let n = w.number();
        drop(w);
        Ok(self.new_sock(n))
    }

    fn accept(&mut self, _: &Sock, id: Id) -> Result<(Sock, SocketAddr)> {
        let mut w = self.0.lock().unwrap();
        let peer = w.accepts.pop_front().ok_or(EAGAIN)?;
        let n = w.number();
        w.streams.insert(n, Stream { id: id.0, room: usize::MAX, ..Stream::default() });
        drop(w);
        Ok((self.new_sock(n), peer))
    }

    fn datagrams(&mut self, id: Id, at: SocketAddr) -> Result<Sock> {
        let mut w = self.0.lock().unwrap();
        let n = w.number();
        w.datagrams.insert(n, Datagrams { id: id.0, at: Some(at), ..Datagrams::default() });
        drop(w);
        Ok(self.new_sock(n))
    }

    fn ping(&mut self, id: Id, v6: bool) -> Result<Sock> {
        if self.0.lock().unwrap().no_ping {
            return Err(EACCES);
        }
        let any: IpAddr = if v6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
        self.datagrams(id, SocketAddr::new(any, 0))
    }

    fn send_to(&mut self, s: &Sock, data: &Data, to: SocketAddr, ttl: u8) -> Result<()> {
        let mut w = self.0.lock().unwrap();
        if let Some(e) = w.refuse.get(&to) {
            return Err(*e);
        }
        w.datagrams.get_mut(&s.n).unwrap().sent.push((to, data.to_vec(), ttl));
        Ok(())
    }

    fn recv_from(&mut self, s: &Sock, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        let mut w = self.0.lock().unwrap();
        let (from, b) = w.datagrams.get_mut(&s.n).unwrap().arrived.pop_front().ok_or(EAGAIN)?;
        buf[..b.len()].copy_from_slice(&b);
        Ok((b.len(), from))
    }

    fn trouble(&mut self, s: &Sock) -> Option<Trouble> {
        self.0.lock().unwrap().datagrams.get_mut(&s.n).unwrap().troubles.pop_front()
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.0.lock().unwrap().resolvers.clone()
    }
}

/// A guest behind a router.
struct Lab {
    clock: Arc<TestClock>,
    stack: Arc<Stack>,
    iface: Arc<Interface>,
    port: Arc<Port>,
    nat: Nat<Host>,
    world: Shared,
}

fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn lab(items: &[(&str, &str)]) -> Lab {
    let clock = Arc::new(TestClock(AtomicU64::new(SEC)));
    let stack = Stack::new(clock.clone(), [7; 32]);
    let lo = stack.loopback().unwrap();
    stack.set_flags(&lo, iff::UP, iff::UP).unwrap();
    let port = Arc::new(Port::default());
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let iface =
        stack.add_interface("vec0", Link::Ethernet, mac, 1500, 65_534, port.clone()).unwrap();
    let mut cfg = Config::parse(items.iter().copied()).unwrap();
    cfg.guest_mac = mac;
    let world = Shared::default();
    let nat = match Nat::new(cfg, Host(world.clone()), 5) {
        Ok(n) => n,
        Err((f, e)) => panic!("{f:?}: {e}"),
    };
    stack.set_flags(&iface, iff::UP, iff::UP).unwrap();
    let mut l = Lab { clock, stack, iface, port, nat, world };
    l.add("10.0.2.15", 24);
    l.run(3 * SEC);
    let mut r = Route::new(Prefix::new("0.0.0.0".parse().unwrap(), 0), l.iface.index);
    r.gateway = Some("10.0.2.2".parse().unwrap());
    l.stack.routes.add(r, Mode { create: true, ..Mode::default() }).unwrap();
    l
}

impl Lab {
    fn add(&self, a: &str, len: u8) {
        let a = Address::new(a.parse().unwrap(), len);
        self.stack.add_address(&self.iface, a, false).unwrap();
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    /// Moves frames until all is quiet.
    fn carry(&mut self) {
        loop {
            let frames = std::mem::take(&mut *self.port.0.lock().unwrap());
            let now = self.now();
            for p in frames {
                self.nat.frame(p, now);
            }
            let back = self.nat.take_frames();
            if back.is_empty() && self.port.0.lock().unwrap().is_empty() {
                return;
            }
            let (stack, iface) = (self.stack.clone(), self.iface.clone());
            stack.enter(|cx| {
                for p in back {
                    assert!(p.gso.is_some() || p.len() <= 1514, "a frame of {} bytes", p.len());
                    stack.receive(cx, &iface, p);
                }
            });
        }
    }

    /// Lets time pass.
    fn run(&mut self, ns: u64) {
        let end = self.now() + ns;
        loop {
            self.carry();
            let next = [self.stack.run_timers(), self.nat.deadline()].into_iter().flatten().min();
            self.carry();
            let at = next.unwrap_or(end).min(end).max(self.now() + 1);
            self.clock.0.store(at.0, Ordering::SeqCst);
            self.stack.run_timers();
            let now = self.now();
            self.nat.expire(now);
            if at >= end {
                self.carry();
                return;
            }
        }
    }

    fn ready(&mut self, id: u64, readable: bool, writable: bool) {
        let now = self.now();
        self.nat.ready(Id(id), readable, writable, now);
        self.carry();
    }

    /// The only stream there is.
    fn stream<R>(&self, f: impl FnOnce(&mut Stream) -> R) -> R {
        let mut w = self.world.lock().unwrap();
        f(w.streams.values_mut().last().expect("a stream"))
    }

    fn sock<R>(&self, f: impl FnOnce(&mut Datagrams) -> R) -> R {
        let mut w = self.world.lock().unwrap();
        f(w.datagrams.values_mut().last().expect("a datagram socket"))
    }

    fn connect(&mut self, to: &str) -> Arc<TcpSocket> {
        let to = addr(to);
        let c = TcpSocket::new(&self.stack, to.is_ipv6());
        assert_eq!(c.connect(to, 0), Err(EINPROGRESS));
        self.carry();
        c
    }

    /// A connection that both sides have.
    fn open(&mut self, to: &str) -> Arc<TcpSocket> {
        let c = self.connect(to);
        let id = self.stream(|s| s.id);
        self.ready(id, false, true);
        assert!(c.remote().is_ok(), "{to}: {:?}", c.take_error());
        c
    }
}

fn frag(b: &[u8]) -> Vec<Frag> {
    let mut s = Slab::new(b.len());
    s.bytes_mut()[..b.len()].copy_from_slice(b);
    vec![Frag::new(s, b.len())]
}

fn read(s: &TcpSocket) -> Result<Vec<u8>> {
    let d = s.peek(0, 1 << 20)?;
    s.consume(d.len());
    Ok(d.to_vec())
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i ^ (i >> 9)) as u8).collect()
}

#[test]
fn data_flows_both_ways_and_each_side_ends_for_itself() {
    let mut l = lab(&[]);
    let c = l.open("10.0.2.2:80");
    assert_eq!(l.stream(|s| s.to), Some(addr("127.0.0.1:80")));
    let (id, body) = (l.stream(|s| s.id), pattern(3_000_000));
    l.stream(|s| s.send.extend(&body));
    l.ready(id, true, false);
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..2000 {
        if let Ok(n) = c.room()
            && sent < body.len()
        {
            let n = n.min(body.len() - sent);
            c.write(frag(&body[sent..sent + n]), false, false).unwrap();
            sent += n;
        }
        l.run(MS);
        got.extend(read(&c).unwrap_or_default());
        if got.len() == body.len() && sent == body.len() {
            break;
        }
    }
    l.run(SEC);
    assert!(got == body, "to the guest: {}", got.len());
    assert!(l.stream(|s| s.got == body), "to the host: {}", l.stream(|s| s.got.len()));
    // The guest ends first; the host's end still speaks.
    c.shutdown(false, true).unwrap();
    l.run(MS);
    assert!(l.stream(|s| s.ended && !s.dropped));
    l.stream(|s| s.send.extend(b"late"));
    l.ready(id, true, false);
    l.run(MS);
    assert_eq!(read(&c).unwrap(), b"late");
    l.stream(|s| s.send_end = true);
    l.ready(id, true, false);
    l.run(100 * MS);
    assert_eq!(read(&c).unwrap(), b"");
    assert!(l.stream(|s| s.dropped && !s.was_reset));
    assert_eq!(l.nat.counts().0, 0);
}

#[test]
fn the_host_ends_first_and_the_guest_still_speaks() {
    let mut l = lab(&[]);
    let c = l.open("192.0.2.1:80");
    let id = l.stream(|s| s.id);
    l.stream(|s| s.send_end = true);
    l.ready(id, true, false);
    assert_eq!(read(&c).unwrap(), b"");
    c.write(frag(b"more"), false, false).unwrap();
    l.run(MS);
    assert!(l.stream(|s| s.got == b"more" && !s.ended));
    c.close(false);
    l.run(MS);
    assert!(l.stream(|s| s.ended && s.dropped && !s.was_reset));
    assert_eq!(l.nat.counts().0, 0);
}

#[test]
fn a_host_that_takes_nothing_closes_the_window() {
    let mut l = lab(&[]);
    let c = l.open("192.0.2.1:9");
    l.stream(|s| s.room = 1000);
    let body = pattern(8 << 20);
    let mut sent = 0;
    for _ in 0..400 {
        if let Ok(n) = c.room() {
            let n = n.min(body.len() - sent);
            c.write(frag(&body[sent..sent + n]), false, false).unwrap();
            sent += n;
        }
        l.run(MS);
    }
    assert_eq!(l.stream(|s| s.got.len()), 1000);
    let held = c.info().bytes_acked as usize - 1000;
    assert!(held <= limits::BUFFER_LARGE, "{held} bytes taken that nobody wants");
    assert!(sent < body.len());
    // It goes on when the host does.
    let id = l.stream(|s| s.id);
    l.stream(|s| s.room = usize::MAX);
    l.ready(id, false, true);
    for _ in 0..3000 {
        if let Ok(n) = c.room()
            && sent < body.len()
        {
            let n = n.min(body.len() - sent);
            c.write(frag(&body[sent..sent + n]), false, false).unwrap();
            sent += n;
        }
        l.run(MS);
    }
    assert!(l.stream(|s| s.got == body));
}

#[test]
fn what_keeps_a_connection_from_being_made_is_said_at_once() {
    let mut l = lab(&[]);
    {
        let mut w = l.world.lock().unwrap();
        w.refuse.insert(addr("127.0.0.1:1"), ECONNREFUSED);
        w.refuse.insert(addr("192.0.2.1:1"), ENETUNREACH);
        w.fails.insert(addr("192.0.2.2:1"), ECONNREFUSED);
        w.fails.insert(addr("192.0.2.3:1"), EHOSTUNREACH);
        w.fails.insert(addr("192.0.2.4:1"), ETIMEDOUT);
    }
    for (to, e) in
        [("10.0.2.2:1", ECONNREFUSED), ("192.0.2.1:1", ENETUNREACH), ("10.0.2.3:99", ECONNREFUSED)]
    {
        let c = l.connect(to);
        assert_eq!(c.take_error(), Some(e), "{to}");
    }
    for (to, e) in [
        ("192.0.2.2:1", ECONNREFUSED),
        ("192.0.2.3:1", EHOSTUNREACH),
        ("192.0.2.4:1", EHOSTUNREACH),
    ] {
        let c = l.connect(to);
        assert_eq!(c.take_error(), None);
        let id = l.stream(|s| s.id);
        l.ready(id, true, true);
        assert_eq!(c.take_error(), Some(e), "{to}");
        assert!(l.stream(|s| s.dropped));
    }
    assert_eq!(l.nat.counts(), (0, 0, 0));
}

#[test]
fn a_connection_that_is_there_at_once_needs_no_event() {
    let mut l = lab(&[]);
    l.world.lock().unwrap().quick = true;
    let c = l.connect("10.0.2.2:80");
    assert!(c.remote().is_ok());
    c.write(frag(b"x"), false, false).unwrap();
    l.carry();
    assert!(l.stream(|s| s.got == b"x"));
}

#[test]
fn resets_pass_both_ways() {
    let mut l = lab(&[]);
    let c = l.open("192.0.2.1:80");
    let id = l.stream(|s| s.id);
    l.stream(|s| s.broken = Some(ECONNRESET));
    l.ready(id, true, true);
    assert_eq!(read(&c), Err(ECONNRESET));
    let c = l.open("192.0.2.1:80");
    c.close(true);
    l.carry();
    assert!(l.stream(|s| s.was_reset));
    // A program that gives up while the host still connects leaves nothing behind.
    let c = l.connect("192.0.2.1:81");
    c.close(true);
    l.run(130 * SEC);
    assert_eq!(l.nat.counts().0, 1, "the host's attempt ends it");
    let id = l.stream(|s| s.id);
    l.ready(id, false, true);
    l.carry();
    assert_eq!(l.nat.counts().0, 0);
}

#[test]
fn datagrams_go_out_come_back_and_time_out() {
    let mut l = lab(&[]);
    let s = UdpSocket::new(&l.stack, false);
    s.opts.lock().recv_err = true;
    let send = |to: &str, b: &[u8]| {
        s.send(Some((addr(to), 0)), Data::copy_of(b), &SendInfo::default(), false).unwrap();
    };
    send("10.0.2.2:7", b"to the host");
    send("192.0.2.1:7", &[5; 4000]);
    l.carry();
    let sent = l.sock(|d| d.sent.clone());
    assert_eq!(sent[0], (addr("127.0.0.1:7"), b"to the host".to_vec(), 63));
    assert_eq!((sent[1].0, sent[1].1.len()), (addr("192.0.2.1:7"), 4000), "put together");
    let id = l.sock(|d| d.id);
    l.sock(|d| {
        for from in ["127.0.0.1:7", "192.0.2.1:7", "192.0.2.1:9", "192.0.2.9:7"] {
            d.arrived.push_back((addr(from), vec![from.len() as u8; 3000]));
        }
    });
    l.ready(id, true, false);
    let mut from = Vec::new();
    while let Ok(Ok(d)) = s.recv(false).map(|d| d.ok_or(EAGAIN)) {
        assert_eq!(d.data.len(), 3000);
        from.push(d.src.to_string());
    }
    assert_eq!(from, ["10.0.2.2:7", "192.0.2.1:7", "192.0.2.1:9"], "strangers are not heard");
    // What the host hears of its datagrams reaches the program.
    l.sock(|d| {
        d.troubles.push_back(Trouble {
            errno: ECONNREFUSED,
            kind: 3,
            code: 3,
            info: 0,
            from: Some("127.0.0.1".parse().unwrap()),
            to: addr("127.0.0.1:7"),
            quoted: b"to the host".to_vec(),
        });
        d.troubles.push_back(Trouble {
            errno: EHOSTUNREACH,
            kind: 11,
            code: 0,
            info: 0,
            from: Some("198.51.100.1".parse().unwrap()),
            to: addr("192.0.2.1:7"),
            quoted: Vec::new(),
        });
    });
    l.ready(id, true, false);
    let e = s.recv_error().unwrap();
    assert_eq!((e.errno, e.dst), (ECONNREFUSED, addr("10.0.2.2:7")));
    let e = s.recv_error().unwrap();
    assert_eq!((e.errno, e.offender), (EHOSTUNREACH, Some("198.51.100.1".parse().unwrap())));
    assert_eq!(l.nat.counts().1, 1);
    l.run(limits::UDP_ANSWERED + 5 * SEC);
    assert_eq!(l.nat.counts().1, 0);
}

#[test]
fn the_last_hop_is_the_gateway() {
    let mut l = lab(&[]);
    let s = UdpSocket::new(&l.stack, false);
    {
        let mut o = s.opts.lock();
        (o.ttl, o.recv_err) = (Some(1), true);
    }
    let to = Some((addr("192.0.2.1:33434"), 0));
    s.send(to, Data::copy_of(b"x"), &SendInfo::default(), false).unwrap();
    l.carry();
    let e = s.recv_error().unwrap();
    assert_eq!((e.errno, e.offender), (EHOSTUNREACH, Some("10.0.2.2".parse().unwrap())));
    s.opts.lock().ttl = Some(2);
    s.send(to, Data::copy_of(b"x"), &SendInfo::default(), false).unwrap();
    l.carry();
    assert_eq!(l.sock(|d| d.sent[0].2), 1);
}

#[test]
fn questions_go_to_the_next_server_until_one_answers() {
    let mut l = lab(&[]);
    let (a, b, c) = (addr("127.0.0.53:53"), addr("192.0.2.53:53"), addr("[2001:db8::53]:53"));
    l.world.lock().unwrap().resolvers = vec![a, b, c];
    let s = UdpSocket::new(&l.stack, false);
    let mut q = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    q.extend_from_slice(b"\x01x\x00\x00\x01\x00\x01");
    let ask = |q: &[u8]| {
        s.send(Some((addr("10.0.2.3:53"), 0)), Data::copy_of(q), &SendInfo::default(), false)
            .unwrap();
    };
    ask(&q);
    l.carry();
    assert_eq!(l.sock(|d| d.sent[0].0), a);
    let id = l.sock(|d| d.id);
    let refused = |to: SocketAddr| Trouble {
        errno: ECONNREFUSED,
        kind: 3,
        code: 3,
        info: 0,
        from: Some(to.ip()),
        to,
        quoted: Vec::new(),
    };
    l.sock(|d| d.troubles.push_back(refused(a)));
    l.ready(id, true, false);
    assert_eq!(l.sock(|d| d.sent[1].0), b);
    // No answer: the program asks again, and the third is asked, by a socket of its family.
    ask(&q);
    l.carry();
    assert_eq!(l.sock(|d| d.sent[0].0), c);
    // Answers of others do not count, the right one does.
    l.sock(|d| {
        d.arrived.push_back((b, q.clone()));
        d.arrived.push_back((c, [&q[..], b"answer"].concat()));
        d.arrived.push_back((c, [&q[..], b"again"].concat()));
    });
    l.ready(id, true, false);
    let d = s.recv(false).unwrap().unwrap();
    assert_eq!((d.src, &d.data.to_vec()[q.len()..]), (addr("10.0.2.3:53"), &b"answer"[..]));
    assert!(!matches!(s.recv(false), Ok(Some(_))));
    // Nobody can be asked: the answer says so.
    for a in [a, b, c] {
        l.world.lock().unwrap().refuse.insert(a, ENETUNREACH);
    }
    q[1] = 0x35;
    ask(&q);
    l.carry();
    let d = s.recv(false).unwrap().unwrap().data.to_vec();
    assert_eq!((d[1], d[2] & 0x80, d[3] & 15), (0x35, 0x80, 2));
    // By TCP, too.
    let c = l.connect("10.0.2.3:53");
    assert_eq!(c.take_error(), Some(ENETUNREACH));
    l.world.lock().unwrap().refuse.remove(&addr("192.0.2.53:53"));
    l.open("10.0.2.3:53");
    assert_eq!(l.stream(|s| s.to), Some(addr("192.0.2.53:53")));
}

#[test]
fn echo_requests_are_answered_by_the_gateway_and_by_hosts() {
    let mut l = lab(&[]);
    let s = PingSocket::new(&l.stack, false);
    let ping = |l: &mut Lab, to: &str, seq: u8| {
        let m = [8, 0, 0, 0, 0, 0, 0, seq, b'h', b'i'];
        s.send(Some((to.parse().unwrap(), 0)), &m, &SendInfo::default()).unwrap();
        l.carry();
    };
    ping(&mut l, "10.0.2.2", 1);
    let d = s.recv(false).unwrap().unwrap().data.to_vec();
    assert_eq!((d[0], d[7], &d[8..]), (0, 1, &b"hi"[..]));
    ping(&mut l, "192.0.2.1", 2);
    let (to, sent, _) = l.sock(|d| d.sent[0].clone());
    assert_eq!((to.ip().to_string(), sent[7], &sent[8..]), ("192.0.2.1".into(), 2, &b"hi"[..]));
    let id = l.sock(|d| d.id);
    let mut reply = sent.clone();
    (reply[0], reply[4], reply[5]) = (0, 0xab, 0xcd);
    l.sock(|d| d.arrived.push_back((addr("192.0.2.1:0"), reply)));
    l.ready(id, true, false);
    let d = s.recv(false).unwrap().unwrap().data.to_vec();
    assert_eq!((d[0], d[7], &d[8..]), (0, 2, &b"hi"[..]));
    l.run(limits::PING_IDLE + SEC);
    assert_eq!(l.nat.counts().2, 0);
    // Where the host allows no echo requests the answer says so.
    l.world.lock().unwrap().no_ping = true;
    s.opts.lock().recv_err = true;
    ping(&mut l, "192.0.2.1", 3);
    assert_eq!(s.recv_error().unwrap().errno, EHOSTUNREACH);
}

#[test]
fn the_network_configures_ipv6_and_carries_it() {
    let mut l = lab(&[]);
    l.run(5 * SEC);
    let all = l.iface.addresses();
    assert!(all.iter().any(|a| a.addr.to_string().starts_with("fd00::") && a.usable()), "{all:?}");
    let way = l.stack.route_to(&uml_net::route::Flow::to("2001:db8::1".parse().unwrap())).unwrap();
    assert_eq!(way.next.to_string(), "fe80::2");
    l.open("[2001:db8::1]:80");
    l.open("[fd00::2]:80");
    assert_eq!(l.stream(|s| s.to), Some(addr("[::1]:80")));
    l.world.lock().unwrap().refuse.insert(addr("[2001:db8::2]:80"), ENETUNREACH);
    let c = l.connect("[2001:db8::2]:80");
    assert_eq!(c.take_error(), Some(ENETUNREACH));
    let s = PingSocket::new(&l.stack, true);
    s.send(
        Some(("fd00::2".parse().unwrap(), 0)),
        &[128, 0, 0, 0, 0, 0, 0, 1],
        &SendInfo::default(),
    )
    .unwrap();
    l.carry();
    assert_eq!(s.recv(false).unwrap().unwrap().data.to_vec()[0], 129);
    // Addresses that would be the host itself are not.
    for odd in ["[::ffff:127.0.0.1]:80", "[::127.0.0.1]:80"] {
        let c = TcpSocket::new(&l.stack, true);
        let _ = c.connect(addr(odd), 0);
        l.carry();
    }
    assert_eq!(l.world.lock().unwrap().streams.len(), 2);
}

#[test]
fn rules_are_kept() {
    let mut l = lab(&[("loopback", "0")]);
    let c = l.connect("10.0.2.2:80");
    assert_eq!(c.take_error(), Some(EHOSTUNREACH));
    l.open("192.0.2.1:80");
    let mut l = lab(&[("restrict", "1"), ("hostfwd", "tcp::8080-:80"), ("hostfwd", "udp::53-:53")]);
    for to in ["10.0.2.2:80", "192.0.2.1:80", "10.0.2.3:53"] {
        assert_eq!(l.connect(to).take_error(), Some(EHOSTUNREACH), "{to}");
    }
    assert!(l.world.lock().unwrap().streams.is_empty());
    // Answers to what was let in go out.
    let s = UdpSocket::new(&l.stack, false);
    s.bind(addr("10.0.2.15:53"), 0).unwrap();
    let id = l.sock(|d| d.id);
    assert_eq!(l.sock(|d| d.at), Some(addr("127.0.0.1:53")));
    l.sock(|d| d.arrived.push_back((addr("127.0.0.1:4000"), b"q".to_vec())));
    l.ready(id, true, false);
    let d = s.recv(false).unwrap().unwrap();
    assert_eq!(d.src, addr("10.0.2.2:4000"));
    s.send(Some((d.src, 0)), Data::copy_of(b"a"), &SendInfo::default(), false).unwrap();
    l.carry();
    assert_eq!(l.sock(|d| d.sent[0].clone()), (addr("127.0.0.1:4000"), b"a".to_vec(), 63));
    l.run(1000 * SEC);
    assert_eq!(l.nat.counts().1, 1, "a forwarded port stays");
}

#[test]
fn forwarded_connections_reach_the_guest() {
    let mut l = lab(&[("hostfwd", "tcp::8080-:80")]);
    let come = |l: &mut Lab, from: &str| {
        l.world.lock().unwrap().accepts.push_back(addr(from));
        let id = l.world.lock().unwrap().listener;
        l.ready(id, true, false);
    };
    // Nobody listens.
    come(&mut l, "127.0.0.1:5000");
    assert!(l.stream(|s| s.was_reset));
    let server = TcpSocket::new(&l.stack, false);
    server.bind(addr("0.0.0.0:80"), 0).unwrap();
    server.listen(5).unwrap();
    come(&mut l, "127.0.0.1:5001");
    come(&mut l, "192.0.2.7:5001");
    let (a, b) = (server.accept().unwrap(), server.accept().unwrap());
    assert_eq!(
        (a.remote().unwrap(), b.remote().unwrap()),
        (addr("10.0.2.2:5001"), addr("192.0.2.7:5001"))
    );
    let id = l.stream(|s| s.id);
    l.stream(|s| s.send.extend(b"GET"));
    l.ready(id, true, false);
    assert_eq!(read(&b).unwrap(), b"GET");
    b.write(frag(b"200"), false, false).unwrap();
    b.close(false);
    l.carry();
    assert!(l.stream(|s| s.got == b"200" && s.ended));
    // A port that is taken is named.
    let world = Shared::default();
    world.lock().unwrap().refuse.insert(addr("127.0.0.1:81"), EADDRINUSE);
    let cfg = Config::parse([("hostfwd", "tcp::81-:80")].into_iter()).unwrap();
    let (f, e) = Nat::new(cfg, Host(world), 1).err().unwrap();
    assert_eq!((f.host, e), (addr("127.0.0.1:81"), EADDRINUSE));
}

/// A DHCP message as a client sends it.
fn dhcp(kind: u8, requested: Option<[u8; 4]>) -> Vec<u8> {
    let mut b = vec![0; 240];
    b[..3].copy_from_slice(&[1, 1, 6]);
    b[4..8].copy_from_slice(b"xid!");
    b[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    b[236..].copy_from_slice(&[99, 130, 83, 99]);
    b.extend_from_slice(&[53, 1, kind]);
    if let Some(r) = requested {
        b.extend_from_slice(&[50, 4]);
        b.extend_from_slice(&r);
    }
    b.push(255);
    b
}

#[test]
fn a_lease_is_offered_given_and_refused() {
    let mut l = lab(&[("hostname", "box"), ("domain", "example.org")]);
    let s = UdpSocket::new(&l.stack, false);
    s.opts.lock().broadcast = true;
    s.bind(addr("0.0.0.0:68"), 0).unwrap();
    let mut ask = |m: Vec<u8>| {
        let to = Some((addr("10.0.2.2:67"), 0));
        s.send(to, Data::copy_of(&m), &SendInfo::default(), false).unwrap();
        l.carry();
        s.recv(false).ok().flatten().map(|d| d.data.to_vec())
    };
    let option = |b: &[u8], code: u8| {
        let mut at = 240;
        while b[at] != 255 {
            if b[at] == code {
                return Some(b[at + 2..at + 2 + usize::from(b[at + 1])].to_vec());
            }
            at += 2 + usize::from(b[at + 1]);
        }
        None
    };
    let offer = ask(dhcp(1, None)).unwrap();
    assert_eq!((&offer[4..8], &offer[16..20]), (&b"xid!"[..], &[10, 0, 2, 15][..]));
    for (code, v) in [
        (53, vec![2]),
        (54, vec![10, 0, 2, 2]),
        (1, vec![255, 255, 255, 0]),
        (3, vec![10, 0, 2, 2]),
        (6, vec![10, 0, 2, 3]),
        (12, b"box".to_vec()),
        (15, b"example.org".to_vec()),
        (51, 86_400u32.to_be_bytes().to_vec()),
    ] {
        assert_eq!(option(&offer, code), Some(v), "option {code}");
    }
    assert_eq!(option(&ask(dhcp(3, Some([10, 0, 2, 15]))).unwrap(), 53), Some(vec![5]));
    assert_eq!(option(&ask(dhcp(3, Some([10, 0, 2, 77]))).unwrap(), 53), Some(vec![6]));
    assert_eq!(ask(vec![1; 100]), None);
}

#[test]
fn a_flood_of_connections_and_ports_is_bounded() {
    let mut l = lab(&[]);
    for i in 0..limits::TCP + 200 {
        let c = TcpSocket::new(&l.stack, false);
        let _ = c.connect(addr(&format!("192.0.{}.{}:80", i / 200, i % 200 + 1)), 0);
        if i % 100 == 0 {
            l.carry();
        }
    }
    l.carry();
    assert_eq!(l.nat.counts().0, limits::TCP);
    for i in 0..limits::UDP + 100 {
        let s = UdpSocket::new(&l.stack, false);
        s.send(Some((addr("192.0.2.1:9"), 0)), Data::copy_of(b"x"), &SendInfo::default(), false)
            .unwrap();
        l.clock.0.fetch_add(MS, Ordering::SeqCst);
        if i % 100 == 0 {
            l.carry();
        }
    }
    l.carry();
    assert_eq!(l.nat.counts().1, limits::UDP);
}

fn raw(nat: &mut Nat<Host>, b: &[u8], now: Time) {
    nat.frame(Packet::new(Data::copy_of(b)), now);
    nat.take_frames();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Frames that are nearly right, and events at any time, are survived.
    #[test]
    fn no_frame_breaks_the_router(
        frames in proptest::collection::vec(
            (0usize..8, proptest::collection::vec(any::<u8>(), 0..120), proptest::collection::vec((0usize..90, any::<u8>()), 0..4)), 1..30),
        ids in proptest::collection::vec((0u64..40, any::<bool>(), any::<bool>()), 0..20),
    ) {
        let world = Shared::default();
        world.lock().unwrap().resolvers = vec![addr("192.0.2.53:53")];
        let cfg = Config::parse([("hostfwd", "tcp::1-:1")].into_iter()).unwrap();
        let mut nat = Nat::new(cfg, Host(world), 3).ok().unwrap();
        let mut now = Time(SEC);
        for (kind, body, changes) in frames {
            let mut f = vec![0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 9];
            let v4 = |proto: u8, dst: [u8; 4], len: usize| {
                let mut h = Vec::new();
                let mut x = uml_net::wire::ipv4::Ipv4::new([10, 0, 2, 15].into(), dst.into(), proto, 64, len);
                x.mf = len % 16 == 8;
                x.write(&[], &mut h);
                h
            };
            let v6 = |next: u8, dst: &str, len: usize| {
                let mut h = Vec::new();
                let src = "fd00::15".parse().unwrap();
                uml_net::wire::ipv6::Ipv6::new(src, dst.parse().unwrap(), next, 255, len).write(&mut h);
                h
            };
            match kind {
                0 => f.extend([8, 6]),
                1 => { f.extend([8, 0]); f.extend(v4(6, [192, 0, 2, 1], body.len())); }
                2 => { f.extend([8, 0]); f.extend(v4(17, [10, 0, 2, 3], body.len())); }
                3 => { f.extend([8, 0]); f.extend(v4(1, [192, 0, 2, 1], body.len())); }
                4 => { f.extend([0x86, 0xdd]); f.extend(v6(58, "fd00::2", body.len())); }
                5 => { f.extend([0x86, 0xdd]); f.extend(v6(44, "2001:db8::1", body.len())); }
                6 => { f.extend([0x86, 0xdd]); f.extend(v6(17, "ff02::1:2", body.len())); }
                _ => {}
            }
            f.extend(&body);
            for (at, v) in changes {
                if let Some(b) = f.get_mut(at) {
                    *b = v;
                }
            }
            // As the stack hands it over when the checksum is left to the device.
            let mut p = Packet::new(Data::copy_of(&f));
            p.csum = uml_net::packet::Csum::Partial { start: 34, offset: 16 };
            nat.frame(p, now);
            nat.take_frames();
            raw(&mut nat, &f, now);
            now = now + 50 * MS;
            nat.expire(now);
        }
        for (id, r, w) in ids {
            nat.ready(Id(id), r, w, now);
            nat.take_frames();
        }
        nat.expire(now + 1000 * SEC);
    }
}
