//! Whole stacks: loopback, two machines on a wire, a router between two.

mod options;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use proptest::prelude::*;
use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;

use crate::interface::{Address, Device, Features, Interface, Link, Sent, iff};
use crate::packet::{Data, Frag, Packet, Slab};
use crate::ping::PingSocket;
use crate::raw::RawSocket;
use crate::route::{Mode, Prefix, Route};
use crate::sock::SendInfo;
use crate::stack::Stack;
use crate::tap::PacketSocket;
use crate::tcp::State;
use crate::tcp_socket::TcpSocket;
use crate::time::{Clock, MS, SEC, Time};
use crate::udp::UdpSocket;
use crate::wire::ethernet::{Mac, ethertype};

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }
}

struct Port {
    features: Features,
    sent: Mutex<VecDeque<Packet>>,
}

impl Device for Port {
    fn features(&self) -> Features {
        self.features
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let mut q = self.sent.lock().unwrap();
        let n = batch.len() as u64;
        q.extend(batch.drain(..));
        Sent { packets: n, ..Sent::default() }
    }
}

struct Machine {
    stack: Arc<Stack>,
    ports: Vec<(Arc<Interface>, Arc<Port>)>,
}

/// Machines with wires between their ports, and a clock of their own.
struct Lab {
    clock: Arc<TestClock>,
    machines: Vec<Machine>,
    wires: Vec<((usize, usize), (usize, usize))>,
    loss: u64,
    random: u64,
}

impl Lab {
    fn new() -> Lab {
        let clock = Arc::new(TestClock(AtomicU64::new(SEC)));
        Lab {
            clock,
            machines: Vec::new(),
            wires: Vec::new(),
            loss: 0,
            random: 88_172_645_463_325_252,
        }
    }

    fn machine(&mut self, ports: usize, features: Features) -> usize {
        let n = self.machines.len();
        let stack = Stack::new(self.clock.clone(), [n as u8 + 1; 32]);
        let lo = stack.loopback().unwrap();
        stack.set_flags(&lo, iff::UP, iff::UP).unwrap();
        let ports = (0..ports)
            .map(|p| {
                let port = Arc::new(Port { features, sent: Mutex::new(VecDeque::new()) });
                let mac = Mac([2, 0, 0, 0, n as u8, p as u8]);
                let i = stack
                    .add_interface(
                        &format!("eth{p}"),
                        Link::Ethernet,
                        mac,
                        1500,
                        65_535,
                        port.clone(),
                    )
                    .unwrap();
                i.v6.accept_ra.store(0, Ordering::SeqCst);
                stack.set_flags(&i, iff::UP, iff::UP).unwrap();
                (i, port)
            })
            .collect();
        self.machines.push(Machine { stack, ports });
        n
    }

    fn stack(&self, m: usize) -> &Arc<Stack> {
        &self.machines[m].stack
    }

    fn address(&self, m: usize, port: usize, a: &str) {
        let (addr, len) = a.split_once('/').unwrap();
        let addr = Address::new(addr.parse().unwrap(), len.parse().unwrap());
        self.stack(m).add_address(&self.machines[m].ports[port].0, addr, false).unwrap();
    }

    fn route(&self, m: usize, dst: &str, via: &str) {
        let (a, l) = dst.split_once('/').unwrap();
        let via: IpAddr = via.parse().unwrap();
        let oif = self.stack(m).route_to(&crate::route::Flow::to(via)).unwrap().iface.index;
        let r = Route {
            gateway: Some(via),
            ..Route::new(Prefix::new(a.parse().unwrap(), l.parse().unwrap()), oif)
        };
        self.stack(m).routes.add(r, Mode { create: true, ..Mode::default() }).unwrap();
    }

    fn chance(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < self.loss
    }

    /// Moves frames over the wires until all is quiet.
    fn carry(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut moved = Vec::new();
            for (a, b) in self.wires.clone() {
                for (from, to) in [(a, b), (b, a)] {
                    let port = self.machines[from.0].ports[from.1].1.clone();
                    let frames = std::mem::take(&mut *port.sent.lock().unwrap());
                    moved.extend(frames.into_iter().map(|f| (to, f)));
                }
            }
            if moved.is_empty() {
                return any;
            }
            any = true;
            for (to, f) in moved {
                if self.chance() {
                    continue;
                }
                // As a device would give it: bytes, and what the header in front of them says.
                let mut p = Packet::new(Data::copy_of(&f.to_vec()));
                (p.gso, p.csum) = (f.gso, f.csum);
                if let crate::packet::Csum::Partial { start, .. } = &mut p.csum {
                    *start += f.link_len() as u16;
                }
                let m = &self.machines[to.0];
                let i = m.ports[to.1].0.clone();
                m.stack.enter(|cx| m.stack.receive(cx, &i, p));
            }
        }
    }

    /// Lets time pass.
    fn run(&mut self, ns: u64) {
        let end = self.clock.now() + ns;
        loop {
            self.carry();
            let next = self.machines.iter().filter_map(|m| m.stack.timers.next()).min();
            match next.filter(|t| *t <= end) {
                Some(t) => {
                    let now = self.clock.now().max(t);
                    self.clock.0.store(now.0, Ordering::SeqCst);
                    for m in &self.machines {
                        m.stack.run_timers();
                    }
                }
                None => break,
            }
        }
        self.clock.0.store(end.0, Ordering::SeqCst);
        self.carry();
    }
}

fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn frag(b: &[u8]) -> Vec<Frag> {
    let mut s = Slab::new(b.len());
    s.bytes_mut()[..b.len()].copy_from_slice(b);
    vec![Frag::new(s, b.len())]
}

fn read(s: &TcpSocket) -> Result<Vec<u8>> {
    let d = s.peek(0, usize::MAX)?;
    s.consume(d.len());
    Ok(d.to_vec())
}

fn two(features: Features) -> Lab {
    let mut l = Lab::new();
    l.machine(1, features);
    l.machine(1, features);
    l.wires.push(((0, 0), (1, 0)));
    l.address(0, 0, "10.0.0.1/24");
    l.address(1, 0, "10.0.0.2/24");
    l.address(0, 0, "fd00::1/64");
    l.address(1, 0, "fd00::2/64");
    // Duplicate address detection ends.
    l.run(3 * SEC);
    l
}

#[test]
fn a_connection_over_loopback_lives_and_ends() {
    for ip in ["127.0.0.1", "[::1]"] {
        let mut l = Lab::new();
        l.machine(0, Features::ALL);
        let st = l.stack(0).clone();
        let server = TcpSocket::new(&st, ip.starts_with('['));
        server.bind(addr(&format!("{ip}:80")), 0).unwrap();
        server.listen(5).unwrap();
        assert_eq!(server.accept().err(), Some(EAGAIN));
        let client = TcpSocket::new(&st, ip.starts_with('['));
        assert_eq!(client.connect(addr(&format!("{ip}:80")), 0), Err(EINPROGRESS));
        assert_eq!(client.state(), State::Established);
        assert_eq!(client.connect(addr(&format!("{ip}:80")), 0), Err(EISCONN));
        assert!(server.events().contains(Events::IN));
        let conn = server.accept().unwrap();
        assert_eq!(conn.remote().unwrap(), client.local());
        client.write(frag(b"hello"), false, false).unwrap();
        assert_eq!(read(&conn), Ok(b"hello".to_vec()));
        assert_eq!(read(&conn), Err(EAGAIN));
        conn.write(frag(&[7; 100_000]), false, false).unwrap();
        let mut got = Vec::new();
        while got.len() < 100_000 {
            got.extend(read(&client).unwrap_or_default());
            l.run(MS);
        }
        client.shutdown(false, true).unwrap();
        assert_eq!(read(&conn), Ok(vec![]));
        assert_eq!(conn.state(), State::CloseWait);
        conn.close(false);
        assert_eq!(client.state(), State::TimeWait);
        client.close(false);
        assert_eq!(st.tcp.counts(), (1, 1));
        assert_eq!(TcpSocket::new(&st, false).connect(addr("127.0.0.1:81"), 0), Err(EINPROGRESS));
        server.close(false);
        l.run(61 * SEC);
        assert_eq!(st.tcp.counts(), (0, 0));
    }
}

#[test]
fn refusals_and_port_rules() {
    let mut l = Lab::new();
    l.machine(0, Features::ALL);
    let st = l.stack(0).clone();
    let c = TcpSocket::new(&st, false);
    assert_eq!(c.connect(addr("127.0.0.1:9"), 0), Err(EINPROGRESS));
    assert_eq!(c.connect(addr("127.0.0.1:9"), 0), Err(ECONNREFUSED));
    let a = TcpSocket::new(&st, false);
    a.bind(addr("0.0.0.0:80"), 0).unwrap();
    assert_eq!(a.bind(addr("0.0.0.0:81"), 0), Err(EINVAL));
    let b = TcpSocket::new(&st, false);
    assert_eq!(b.bind(addr("127.0.0.1:80"), 0), Err(EADDRINUSE));
    assert_eq!(b.bind(addr("9.9.9.9:80"), 0), Err(EADDRNOTAVAIL));
    a.close(false);
    assert_eq!(b.bind(addr("127.0.0.1:80"), 0), Ok(()));
    assert_eq!(TcpSocket::new(&st, false).connect(addr("10.1.1.1:80"), 0), Err(ENETUNREACH));
}

#[test]
fn an_ipv6_listener_takes_ipv4_connections() {
    let mut l = Lab::new();
    l.machine(0, Features::ALL);
    let st = l.stack(0).clone();
    let s = TcpSocket::new(&st, true);
    s.bind(addr("[::]:80"), 0).unwrap();
    s.listen(1).unwrap();
    let c = TcpSocket::new(&st, false);
    assert_eq!(c.connect(addr("127.0.0.1:80"), 0), Err(EINPROGRESS));
    assert_eq!(s.accept().unwrap().local(), addr("127.0.0.1:80"));
    let only = TcpSocket::new(&st, true);
    only.opts.lock().v6only = true;
    only.bind(addr("[::]:81"), 0).unwrap();
    only.listen(1).unwrap();
    let c = TcpSocket::new(&st, false);
    assert_eq!(c.connect(addr("127.0.0.1:81"), 0), Err(EINPROGRESS));
    assert_eq!(c.connect(addr("127.0.0.1:81"), 0), Err(ECONNREFUSED));
}

#[test]
fn a_full_backlog_holds_and_cookies_answer_floods() {
    let mut l = Lab::new();
    l.machine(0, Features::ALL);
    let st = l.stack(0).clone();
    let s = TcpSocket::new(&st, false);
    s.bind(addr("127.0.0.1:80"), 0).unwrap();
    s.listen(1).unwrap();
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let c = TcpSocket::new(&st, false);
            let _ = c.connect(addr("127.0.0.1:80"), 0);
            c
        })
        .collect();
    let up = clients.iter().filter(|c| c.state() == State::Established).count();
    assert_eq!(up, 2, "backlog + 1");
    s.accept().unwrap();
    s.accept().unwrap();
    l.run(3 * SEC);
    assert_eq!(clients.iter().filter(|c| c.state() == State::Established).count(), 4);

    // Three hundred SYNs from addresses that never answer, then a real client.
    let mut l = two(Features::ALL);
    let server = TcpSocket::new(l.stack(1), false);
    server.bind(addr("0.0.0.0:80"), 0).unwrap();
    server.listen(4).unwrap();
    let raw = RawSocket::new(l.stack(0), false, 255);
    for n in 0..300u16 {
        let mut p = Packet::new(Data::new());
        let h = crate::wire::tcp::Tcp {
            src: n,
            dst: 80,
            seq: 5,
            ack: 0,
            flags: 2,
            window: 1000,
            checksum: 0,
            urgent: 0,
            header_len: 20,
            options: Default::default(),
        };
        h.write(p.head_mut());
        let (src, dst) = ("10.0.0.77".parse().unwrap(), "10.0.0.2".parse().unwrap());
        crate::ip::partial_checksum(&mut p, src, dst, 6, 16);
        crate::ip::write_header(&mut p, &crate::ip::Meta::new(src, dst, 6));
        p.complete_checksum();
        raw.send(Some((dst, 0)), &p.to_vec(), &SendInfo::default()).unwrap();
    }
    l.run(10 * MS);
    let half = server.half_open();
    assert!(half.len() == 8 && half.iter().all(|h| h.1 == 0 && h.2 > l.stack(1).now()), "{half:?}");
    let c = TcpSocket::new(l.stack(0), false);
    assert_eq!(c.connect(addr("10.0.0.2:80"), 0), Err(EINPROGRESS));
    l.run(100 * MS);
    assert_eq!(c.state(), State::Established);
    assert!(l.stack(1).snmp.tcp_syncookies_recv.get() == 1);
    let s = server.accept().unwrap();
    c.write(frag(b"through"), false, false).unwrap();
    l.run(100 * MS);
    assert_eq!(read(&s), Ok(b"through".to_vec()));
    server.forget(&half[0].0);
    assert_eq!(server.half_open().len(), 7);
}

#[test]
fn udp_speaks_connects_and_hears_of_closed_ports() {
    let mut l = two(Features::NONE);
    let a = UdpSocket::new(l.stack(0), false);
    let b = UdpSocket::new(l.stack(1), true);
    b.bind(addr("[::]:53"), 0).unwrap();
    let info = SendInfo::default();
    a.send(Some((addr("10.0.0.2:53"), 0)), Data::copy_of(b"hi"), &info, false).unwrap();
    l.carry();
    let d = b.recv(false).unwrap().unwrap();
    assert_eq!((d.data.to_vec(), d.src.ip()), (b"hi".to_vec(), "10.0.0.1".parse().unwrap()));
    b.send(Some((d.src, 0)), Data::copy_of(&[5; 60_000]), &info, false).unwrap();
    l.carry();
    assert_eq!(a.recv(false).unwrap().unwrap().data.len(), 60_000, "fragments");
    // v6 as well.
    let c = UdpSocket::new(l.stack(0), true);
    c.send(Some((addr("[fd00::2]:53"), 0)), Data::copy_of(&[6; 5000]), &info, false).unwrap();
    l.carry();
    assert_eq!(b.recv(false).unwrap().unwrap().data.len(), 5000);
    a.connect(addr("10.0.0.2:54"), 0).unwrap();
    a.send(None, Data::copy_of(b"x"), &info, false).unwrap();
    l.carry();
    assert_eq!(a.take_error(), Some(ECONNREFUSED));
    assert_eq!(b.recv(false).err(), Some(EAGAIN));
}

#[test]
fn pings_are_answered_and_unreachable_hosts_reported() {
    let mut l = two(Features::NONE);
    for (v6, dst) in [(false, "10.0.0.2"), (true, "fd00::2"), (false, "127.0.0.1"), (true, "::1")] {
        let s = PingSocket::new(l.stack(0), v6);
        let mut m = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 1];
        m.extend_from_slice(&[0x55; 4000]);
        s.send(Some((dst.parse().unwrap(), 0)), &m, &SendInfo::default()).unwrap();
        l.carry();
        let d = s.recv(false).unwrap().unwrap();
        assert_eq!(d.data.len(), 4008, "{dst}");
        assert_eq!(d.data.to_vec()[0], if v6 { 129 } else { 0 });
    }
    // One request went to the other machine and one to this one, of each family.
    for (v6, request, reply) in [(false, 8, 0), (true, 128, 129)] {
        let of = |m: usize| {
            let c = &l.stack(m).snmp;
            (c.icmp_of(v6).of_type(request), c.icmp_of(v6).of_type(reply))
        };
        assert_eq!(of(0), ((1, 2), (2, 1)), "v6 {v6}");
        assert_eq!(of(1), ((1, 0), (0, 1)), "v6 {v6}");
    }
    let s = UdpSocket::new(l.stack(0), false);
    s.opts.lock().recv_err = true;
    s.send(Some((addr("10.0.0.99:5"), 0)), Data::copy_of(b"x"), &SendInfo::default(), false)
        .unwrap();
    l.run(4 * SEC);
    let e = s.recv_error().unwrap();
    assert_eq!((e.errno, e.dst), (EHOSTUNREACH, addr("10.0.0.99:5")));
}

#[test]
fn a_host_is_not_flooded_with_errors() {
    let mut l = two(Features::NONE);
    for (v6, port, kind) in [(false, "10.0.0.2:9", 3), (true, "[fd00::2]:9", 1)] {
        let s = UdpSocket::new(l.stack(0), v6);
        let send = |l: &mut Lab, n: usize| {
            for _ in 0..n {
                let to = Some((addr(port), 0));
                // What was heard of the one before is no reason.
                let _ = s.send(to, Data::copy_of(b"x"), &SendInfo::default(), false);
                l.carry();
            }
        };
        let sent = |l: &Lab| {
            let c = l.stack(1).snmp.icmp_of(v6);
            (c.of_type(kind).1, c.out_rate_host.get())
        };
        send(&mut l, 10);
        assert_eq!(sent(&l), (6, 4), "{port}");
        l.run(3 * SEC);
        send(&mut l, 10);
        assert_eq!(sent(&l), (9, 11), "{port}");
    }
    // Not limited: a host itself, and what says that a packet is too big.
    let s = UdpSocket::new(l.stack(0), false);
    for _ in 0..20 {
        let _ = s.send(
            Some((addr("127.0.0.1:9"), 0)),
            Data::copy_of(b"x"),
            &SendInfo::default(),
            false,
        );
    }
    assert_eq!(l.stack(0).snmp.icmp.of_type(3).1, 20);
}

#[test]
fn a_router_forwards_reports_and_fragments() {
    let mut l = Lab::new();
    for n in [1, 2, 1] {
        l.machine(n, Features::NONE);
    }
    l.wires.push(((0, 0), (1, 0)));
    l.wires.push(((1, 1), (2, 0)));
    for (m, p, a) in [
        (0, 0, "10.0.0.1/24"),
        (1, 0, "10.0.0.254/24"),
        (1, 1, "10.0.1.254/24"),
        (2, 0, "10.0.1.1/24"),
        (0, 0, "fd00::1/64"),
        (1, 0, "fd00::fe/64"),
        (1, 1, "fd01::fe/64"),
        (2, 0, "fd01::1/64"),
    ] {
        l.address(m, p, a);
    }
    l.run(3 * SEC);
    for (m, d, via) in [
        (0, "0.0.0.0/0", "10.0.0.254"),
        (2, "0.0.0.0/0", "10.0.1.254"),
        (0, "::/0", "fd00::fe"),
        (2, "::/0", "fd01::fe"),
    ] {
        l.route(m, d, via);
    }
    let r = l.stack(1).clone();
    r.conf.ip_forward.set(1).unwrap();
    r.conf.v6_forwarding.set(1).unwrap();
    r.set_mtu(&l.machines[1].ports[1].0, 1280).unwrap();
    for (dst, v6) in [("10.0.1.1:80", false), ("[fd01::1]:80", true)] {
        let server = TcpSocket::new(l.stack(2), v6);
        // A connection to the port may still be there.
        server.opts.lock().reuse_addr = true;
        server
            .bind(
                SocketAddr::new(
                    if v6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() },
                    80,
                ),
                0,
            )
            .unwrap();
        server.listen(1).unwrap();
        let c = TcpSocket::new(l.stack(0), v6);
        let _ = c.connect(addr(dst), 0);
        l.run(SEC);
        let s = server.accept().unwrap();
        let body: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        let mut sent = 0;
        let mut got = Vec::new();
        for _ in 0..500 {
            if let Ok(n) = c.room()
                && sent < body.len()
            {
                let n = n.min(body.len() - sent);
                c.write(frag(&body[sent..sent + n]), false, false).unwrap();
                sent += n;
            }
            l.run(10 * MS);
            got.extend(read(&s).unwrap_or_default());
        }
        assert!(got == body, "{dst}: path MTU discovery; {}", got.len());
        // The path is known to be smaller now.
        assert_eq!(c.info().pmtu, 1280);
        server.close(false);
    }
    // Time to live.
    let u = UdpSocket::new(l.stack(0), false);
    {
        let mut o = u.opts.lock();
        (o.ttl, o.recv_err) = (Some(1), true);
    }
    u.send(Some((addr("10.0.1.1:9"), 0)), Data::copy_of(b"x"), &SendInfo::default(), false)
        .unwrap();
    l.run(SEC);
    let e = u.recv_error().unwrap();
    assert_eq!((e.errno, e.offender), (EHOSTUNREACH, Some("10.0.0.254".parse().unwrap())));
    // A connection to where the router knows no way is over at once.
    let c = TcpSocket::new(l.stack(0), false);
    assert_eq!(c.connect(addr("10.9.9.9:80"), 0), Err(EINPROGRESS));
    l.run(SEC / 2);
    assert_eq!(c.take_error(), Some(ENETUNREACH));
}

#[test]
fn super_segments_are_forwarded_whose_segments_fit_exactly() {
    let mut l = Lab::new();
    for n in [1, 2, 1] {
        l.machine(n, Features::ALL);
    }
    l.wires.push(((0, 0), (1, 0)));
    l.wires.push(((1, 1), (2, 0)));
    for (m, p, a) in [
        (0, 0, "10.0.0.1/24"),
        (1, 0, "10.0.0.254/24"),
        (1, 1, "10.0.1.254/24"),
        (2, 0, "10.0.1.1/24"),
    ] {
        l.address(m, p, a);
    }
    l.run(SEC);
    l.route(0, "0.0.0.0/0", "10.0.0.254");
    l.route(2, "0.0.0.0/0", "10.0.1.254");
    l.stack(1).conf.ip_forward.set(1).unwrap();
    let server = TcpSocket::new(l.stack(2), false);
    server.bind(addr("0.0.0.0:80"), 0).unwrap();
    server.listen(1).unwrap();
    let c = TcpSocket::new(l.stack(0), false);
    let _ = c.connect(addr("10.0.1.1:80"), 0);
    l.run(SEC);
    let s = server.accept().unwrap();
    let body = vec![7; 60_000];
    let (mut sent, mut got) = (0, 0);
    for _ in 0..100 {
        if let Ok(n) = c.room()
            && sent < body.len()
        {
            let n = n.min(body.len() - sent);
            c.write(frag(&body[sent..sent + n]), false, false).unwrap();
            sent += n;
        }
        l.run(10 * MS);
        got += read(&s).map_or(0, |b| b.len());
    }
    assert_eq!(got, body.len());
    // Nobody said that they were too large.
    assert_eq!(c.info().pmtu, 1500);
}

/// A device that is full once, and has room again before the sender has noticed.
struct Moody {
    full: AtomicU64,
    taken: AtomicU64,
    iface: Mutex<Weak<Interface>>,
    stack: Mutex<Weak<Stack>>,
}

impl Device for Moody {
    fn features(&self) -> Features {
        Features::ALL
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        if self.full.swap(0, Ordering::SeqCst) > 0 {
            let (i, s) =
                (self.iface.lock().unwrap().upgrade(), self.stack.lock().unwrap().upgrade());
            i.unwrap().resume(&s.unwrap());
        } else {
            self.taken.fetch_add(batch.drain(..).count() as u64, Ordering::SeqCst);
        }
        Sent::default()
    }
}

#[test]
fn a_device_that_has_room_at_once_again_is_not_forgotten() {
    let stack = Stack::new(Arc::new(TestClock(AtomicU64::new(SEC))), [3; 32]);
    let d = Arc::new(Moody {
        full: AtomicU64::new(0),
        taken: AtomicU64::new(0),
        iface: Mutex::default(),
        stack: Mutex::new(Arc::downgrade(&stack)),
    });
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let i = stack.add_interface("eth0", Link::Ethernet, mac, 1500, 1500, d.clone()).unwrap();
    *d.iface.lock().unwrap() = Arc::downgrade(&i);
    stack.set_flags(&i, iff::UP, iff::UP).unwrap();
    let before = d.taken.load(Ordering::SeqCst);
    d.full.store(1, Ordering::SeqCst);
    stack.enter(|cx| i.enqueue(cx, Packet::new(Data::copy_of(&[0; 60]))));
    assert_eq!(d.taken.load(Ordering::SeqCst), before + 1);
    assert_eq!(i.queued(), 0);
}

#[test]
fn an_address_of_ones_own_is_no_duplicate() {
    let mut l = two(Features::ALL);
    l.address(0, 0, "fd00::77/64");
    l.run(3 * SEC);
    for m in &l.machines {
        for a in m.ports[0].0.addresses() {
            assert!(a.usable(), "{a:?}");
        }
    }
}

#[test]
fn packet_sockets_see_both_ways() {
    let mut l = two(Features::NONE);
    let s = PacketSocket::new(l.stack(0), false, ethertype::ALL);
    let p = PingSocket::new(l.stack(0), false);
    p.send(Some(("10.0.0.2".parse().unwrap(), 0)), &[8, 0, 0, 0, 0, 0, 0, 1], &SendInfo::default())
        .unwrap();
    l.carry();
    let kinds: Vec<(u16, u8)> =
        std::iter::from_fn(|| s.recv(false).ok()).map(|f| (f.protocol, f.pkttype)).collect();
    // ARP request out, answer in, echo out, echo reply in.
    assert_eq!(kinds, [(0x806, 4), (0x806, 0), (0x800, 4), (0x800, 0)]);
    assert_eq!(s.statistics(), (4, 0, 0));
    let raw = s.send(Some((l.machines[0].ports[0].0.index, 0, Mac::ZERO)), &[0xff; 60]);
    assert_eq!(raw, Ok(()));
    s.close();
    assert!(l.stack(0).packet_sockets().is_empty());
}

#[test]
fn multicast_reaches_members_and_only_them() {
    let mut l = two(Features::NONE);
    let group: IpAddr = "239.1.2.3".parse().unwrap();
    let i = l.machines[1].ports[0].0.index;
    let member = UdpSocket::new(l.stack(1), false);
    member.bind(addr("0.0.0.0:5000"), 0).unwrap();
    let a = UdpSocket::new(l.stack(0), false);
    a.opts.lock().multicast_if = l.machines[0].ports[0].0.index;
    let send = |a: &UdpSocket| {
        a.send(Some((addr("239.1.2.3:5000"), 0)), Data::copy_of(b"m"), &SendInfo::default(), false)
    };
    send(&a).unwrap();
    l.carry();
    assert_eq!(member.recv(false).err(), Some(EAGAIN));
    crate::sock::join(l.stack(1), &member.opts, group, i).unwrap();
    assert_eq!(crate::sock::join(l.stack(1), &member.opts, group, i), Err(EADDRINUSE));
    send(&a).unwrap();
    l.carry();
    assert_eq!(member.recv(false).unwrap().unwrap().dst, group);
    crate::sock::leave(l.stack(1), &member.opts, group, i).unwrap();
    send(&a).unwrap();
    l.carry();
    assert_eq!(member.recv(false).err(), Some(EAGAIN));
}

#[test]
fn bulk_over_a_lossy_wire_with_and_without_offloads() {
    for features in [Features::NONE, Features::ALL] {
        let mut l = two(features);
        let server = TcpSocket::new(l.stack(1), false);
        server.bind(addr("0.0.0.0:80"), 0).unwrap();
        server.listen(1).unwrap();
        let c = TcpSocket::new(l.stack(0), false);
        let _ = c.connect(addr("10.0.0.2:80"), 0);
        l.run(SEC);
        let s = server.accept().unwrap();
        l.loss = 20;
        let body: Vec<u8> = (0..1_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        let mut rounds = 0;
        while got.len() < body.len() {
            if sent < body.len()
                && let Ok(n) = c.room()
            {
                let n = n.min(body.len() - sent).min(64_000);
                c.write(frag(&body[sent..sent + n]), false, false).unwrap();
                sent += n;
            }
            l.run(MS);
            got.extend(read(&s).unwrap_or_default());
            rounds += 1;
            assert!(rounds < 500_000, "{}", got.len());
        }
        assert!(got == body);
    }
}

#[test]
fn threads_share_a_stack() {
    let clock = Arc::new(TestClock(AtomicU64::new(SEC)));
    let st = Stack::new(clock, [3; 32]);
    st.set_flags(&st.loopback().unwrap(), iff::UP, iff::UP).unwrap();
    let server = TcpSocket::new(&st, false);
    server.bind(addr("127.0.0.1:80"), 0).unwrap();
    server.listen(10).unwrap();
    let pairs: Vec<_> = (0..4)
        .map(|_| {
            let c = TcpSocket::new(&st, false);
            let _ = c.connect(addr("127.0.0.1:80"), 0);
            (c, server.accept().unwrap())
        })
        .collect();
    std::thread::scope(|scope| {
        for (c, s) in &pairs {
            // Accepted in the order of connecting.
            assert_eq!(s.remote().unwrap(), c.local());
            const N: usize = 4_000_000;
            scope.spawn(move || {
                let mut sent = 0;
                while sent < N {
                    match c.room() {
                        Ok(n) => {
                            let n = n.min(N - sent).min(65_536);
                            let b: Vec<u8> = (sent..sent + n).map(|i| (i >> 8) as u8).collect();
                            c.write(frag(&b), false, false).unwrap();
                            sent += n;
                        }
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
            scope.spawn(move || {
                let mut got = 0;
                while got < N {
                    match read(s) {
                        Ok(b) => {
                            assert!(
                                b.iter().enumerate().all(|(i, x)| *x == ((got + i) >> 8) as u8)
                            );
                            got += b.len();
                        }
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
        }
    });
    for (c, _) in &pairs {
        assert_eq!(c.info().total_retrans, 0, "a loopback keeps order");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_frame_breaks_the_stack(
        head in 0u8..8,
        body in proptest::collection::vec(any::<u8>(), 0..300),
        edits in proptest::collection::vec((0usize..80, any::<u8>()), 0..6),
        gso in any::<Option<u16>>(),
    ) {
        let mut l = two(Features::NONE);
        let server = TcpSocket::new(l.stack(1), true);
        server.bind(addr("[::]:80"), 0).unwrap();
        server.listen(1).unwrap();
        let weak: Weak<Stack> = Arc::downgrade(l.stack(1));
        let (v4a, v4b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let (v6a, v6b): (IpAddr, IpAddr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let mut p = Packet::new(Data::copy_of(&body));
        // A valid IP header more often than chance would give.
        match head {
            0 => {}
            1 => p.kind = ethertype::ARP,
            n => {
                let (a, b) = if n % 2 == 0 { (v4a, v4b) } else { (v6a, v6b) };
                let proto = [6, 17, if n % 2 == 0 { 1 } else { 58 }][usize::from(n / 2 % 3)];
                crate::ip::write_header(&mut p, &crate::ip::Meta::new(a, b, proto));
            }
        }
        let mac = l.machines[1].ports[0].0.mac();
        let mut bytes = p.to_vec();
        for (at, v) in edits {
            if let Some(b) = bytes.get_mut(at) {
                *b = v;
            }
        }
        let mut frame = crate::wire::ethernet::Ethernet { dst: mac, src: Mac([2, 9, 9, 9, 9, 9]), kind: p.kind }.bytes().to_vec();
        frame.extend_from_slice(&bytes);
        let i = l.machines[1].ports[0].0.clone();
        let mut q = Packet::new(Data::copy_of(&frame));
        if let Some(size) = gso {
            q.gso = Some(crate::packet::Gso { kind: crate::packet::GsoKind::TcpV4, size });
            q.csum = crate::packet::Csum::Partial { start: size, offset: 16 };
        }
        l.stack(1).enter(|cx| weak.upgrade().unwrap().receive(cx, &i, q));
        l.run(10 * MS);
        // It still works.
        let c = PingSocket::new(l.stack(0), false);
        c.send(Some((v4b, 0)), &[8, 0, 0, 0, 0, 0, 0, 1], &SendInfo::default()).unwrap();
        l.carry();
        prop_assert!(c.recv(false).is_ok());
    }
}
