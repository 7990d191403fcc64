//! AF_INET and AF_INET6 on the loopback: streams, datagrams, names, errors, readiness.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    kinds, stream_exchange, names, connect_errors, bind_errors, listen_errors, reuse, half_close, reset, lingering_close, nonblocking, peek_and_waitall,
    urgent, device_ioctls, datagrams, datagram_connected, datagram_sizes, mapped, poll_states, many_bytes, bind_without_port, ports_of_connect, ports_of_connect_run_out: root, v6_ioctls: root, v6_ioctls_as_user,
}

const STREAM: i32 = libc::SOCK_STREAM;
const DGRAM: i32 = libc::SOCK_DGRAM;
const NOWAIT: i32 = libc::MSG_DONTWAIT;

pub(super) fn socket(v6: bool, kind: i32) -> i32 {
    let f = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    c!(libc::socket(f, kind | libc::SOCK_CLOEXEC, 0)).fd()
}

/// A socket address; the wildcard for `any`.
pub(super) fn addr(v6: bool, port: u16, any: bool) -> (libc::sockaddr_storage, u32) {
    let mut s: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    if v6 {
        let a = unsafe { &mut *(&raw mut s).cast::<libc::sockaddr_in6>() };
        a.sin6_family = libc::AF_INET6 as u16;
        a.sin6_port = port.to_be();
        a.sin6_addr.s6_addr[15] = u8::from(!any);
        (s, 28)
    } else {
        let a = unsafe { &mut *(&raw mut s).cast::<libc::sockaddr_in>() };
        a.sin_family = libc::AF_INET as u16;
        a.sin_port = port.to_be();
        a.sin_addr.s_addr = if any { 0 } else { 0x7f00_0001u32.to_be() };
        (s, 16)
    }
}

fn bind(fd: i32, v6: bool, port: u16, any: bool) -> R {
    let (a, n) = addr(v6, port, any);
    c!(libc::bind(fd, (&raw const a).cast(), n))
}

fn connect(fd: i32, v6: bool, port: u16) -> R {
    let (a, n) = addr(v6, port, false);
    c!(libc::connect(fd, (&raw const a).cast(), n))
}

fn name(fd: i32, peer: bool) -> Result<(u16, String, u32), R> {
    let mut s: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut n = 128u32;
    let r = if peer {
        c!(libc::getpeername(fd, (&raw mut s).cast(), &mut n))
    } else {
        c!(libc::getsockname(fd, (&raw mut s).cast(), &mut n))
    };
    if !r.is_ok() {
        return Err(r);
    }
    Ok(if i32::from(s.ss_family) == libc::AF_INET6 {
        let a = unsafe { &*(&raw const s).cast::<libc::sockaddr_in6>() };
        (u16::from_be(a.sin6_port), std::net::Ipv6Addr::from(a.sin6_addr.s6_addr).to_string(), n)
    } else {
        let a = unsafe { &*(&raw const s).cast::<libc::sockaddr_in>() };
        (
            u16::from_be(a.sin_port),
            std::net::Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr)).to_string(),
            n,
        )
    })
}

fn port(fd: i32) -> u16 {
    name(fd, false).expect("a name").0
}

fn send(fd: i32, b: &[u8], flags: i32) -> R {
    c!(libc::send(fd, b.as_ptr().cast(), b.len(), flags | libc::MSG_NOSIGNAL))
}

fn recv(fd: i32, n: usize, flags: i32) -> String {
    let mut b = vec![0u8; n];
    let r = c!(libc::recv(fd, b.as_mut_ptr().cast(), n, flags));
    if r.is_ok() { quoted(&b[..(r.0 as usize).min(n)]) } else { r.to_string() }
}

fn events(fd: i32) -> String {
    let mut p = libc::pollfd { fd, events: 0x3fff & !libc::POLLNVAL, revents: 0 };
    let r = c!(libc::poll(&mut p, 1, 0));
    format!("{r} {:#x}", p.revents)
}

/// Waits for one of the events.
fn await_events(fd: i32, events: i16) {
    let mut p = libc::pollfd { fd, events, revents: 0 };
    let r = c!(libc::poll(&mut p, 1, 10_000));
    assert!(r.0 == 1, "no event {events:#x} within ten seconds: {r}");
}

fn listener(v6: bool) -> (i32, u16) {
    let s = socket(v6, STREAM);
    assert!(bind(s, v6, 0, false).is_ok());
    assert!(c!(libc::listen(s, 5)).is_ok());
    (s, port(s))
}

/// A connection: both ends.
fn pair(v6: bool) -> (i32, i32) {
    let (l, p) = listener(v6);
    let c = socket(v6, STREAM);
    assert!(connect(c, v6, p).is_ok());
    let s =
        c!(libc::accept4(l, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)).fd();
    close(l);
    (c, s)
}

fn kinds() {
    for f in [libc::AF_INET, libc::AF_INET6] {
        for (k, p) in [
            (STREAM, 0),
            (STREAM, 6),
            (STREAM, 17),
            (DGRAM, 0),
            (DGRAM, 17),
            (DGRAM, 6),
            (libc::SOCK_RAW, 0),
            (libc::SOCK_SEQPACKET, 0),
            (9, 0),
            (STREAM, 300),
            (STREAM, -1),
        ] {
            let r = c!(libc::socket(f, k | libc::SOCK_CLOEXEC, p));
            say(&format!("{f} {k} {p}"), r.ok());
            if r.is_ok() {
                close(r.0 as i32);
            }
        }
        let mut s = [0; 2];
        say("pair", c!(libc::socketpair(f, STREAM, 0, s.as_mut_ptr())));
    }
}

fn stream_exchange() {
    for v6 in [false, true] {
        let (c, s) = pair(v6);
        say("send", send(c, b"hello", 0));
        say("recv", recv(s, 100, 0));
        say("empty", recv(s, 100, NOWAIT));
        say("back", send(s, b"world", 0));
        say("read", read_text(c, 100));
        say("zero", send(c, b"", 0));
        close(c);
        say("end", recv(s, 10, 0));
        say("again", recv(s, 10, 0));
        close(s);
    }
}

fn names() {
    for v6 in [false, true] {
        let s = socket(v6, STREAM);
        say("unbound", format!("{:?}", name(s, false).map_err(|r| r.to_string())));
        say("peer of none", name(s, true).err().map_or("?".into(), |r| r.to_string()));
        let (c, s2) = pair(v6);
        let (a, b) = (name(c, false).expect("name"), name(s2, true).expect("name"));
        say("ends agree", a == b && name(c, true).ok() == name(s2, false).ok());
        say("addresses", format!("{} {}", a.1, a.2));
        say("ephemeral", (32_768..=60_999).contains(&a.0));
        close(s);
    }
}

fn connect_errors() {
    for v6 in [false, true] {
        let (l, p) = listener(v6);
        close(l);
        let s = socket(v6, STREAM);
        say("refused", connect(s, v6, p));
        say("error taken", sockerr(s));
        say("again", connect(s, v6, p));
        let (a, _) = addr(v6, 1, false);
        say("short", c!(libc::connect(s, (&raw const a).cast(), 8)));
        let (a, n) = addr(!v6, 1, false);
        say("family", c!(libc::connect(s, (&raw const a).cast(), n)));
        let (c, _) = pair(v6);
        say("twice", connect(c, v6, p));
        say("send unconnected", send(socket(v6, STREAM), b"x", 0));
        say("recv unconnected", recv(socket(v6, STREAM), 5, 0));
    }
}

pub(super) fn sockerr(fd: i32) -> String {
    let (mut e, mut n) = (0i32, 4u32);
    let r = c!(libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut e).cast(), &mut n));
    format!("{r} {}", errno_name(e))
}

fn bind_errors() {
    for v6 in [false, true] {
        let (_l, p) = listener(v6);
        let s = socket(v6, STREAM);
        say("in use", bind(s, v6, p, false));
        say("wildcard in use", bind(s, v6, p, true));
        say("bound", bind(s, v6, 0, true));
        say("twice", bind(s, v6, 0, true));
        let s = socket(v6, STREAM);
        let (a, n) = addr(!v6, 0, false);
        say("family", c!(libc::bind(s, (&raw const a).cast(), n)));
        let (a, _) = addr(v6, 0, false);
        say("short", c!(libc::bind(s, (&raw const a).cast(), 10)));
    }
    let s = socket(false, STREAM);
    let (mut a, n) = addr(false, 0, false);
    unsafe { (*(&raw mut a).cast::<libc::sockaddr_in>()).sin_addr.s_addr = 0x0102_0304u32.to_be() };
    say("not ours", c!(libc::bind(s, (&raw const a).cast(), n)));
}

fn listen_errors() {
    let (c, s) = pair(false);
    say("connected", c!(libc::listen(c, 1)));
    let u = socket(false, DGRAM);
    say("datagram", c!(libc::listen(u, 1)));
    say("accept datagram", c!(libc::accept(u, std::ptr::null_mut(), std::ptr::null_mut())));
    say("accept connected", c!(libc::accept(s, std::ptr::null_mut(), std::ptr::null_mut())));
    let l = socket(false, STREAM);
    say("unbound", c!(libc::listen(l, 1)));
    say("has a port", port(l) != 0);
    say("again", c!(libc::listen(l, 3)));
    say("connect listener", connect(l, false, 1));
    say("recv listener", recv(l, 1, 0));
    say("send listener", send(l, b"x", 0));
}

fn set(fd: i32, level: i32, opt: i32, v: i32) -> R {
    c!(libc::setsockopt(fd, level, opt, (&raw const v).cast(), 4))
}

fn reuse() {
    let a = socket(false, STREAM);
    let b = socket(false, STREAM);
    set(a, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    set(b, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    bind(a, false, 0, false);
    say("both may bind", bind(b, false, port(a), false));
    say("first listens", c!(libc::listen(a, 1)));
    say("second does not", c!(libc::listen(b, 1)));
    let g: Vec<i32> = (0..2)
        .map(|_| {
            let s = socket(false, STREAM);
            set(s, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
            s
        })
        .collect();
    bind(g[0], false, 0, false);
    say("group", bind(g[1], false, port(g[0]), false));
    say("both listen", format!("{} {}", c!(libc::listen(g[0], 1)), c!(libc::listen(g[1], 1))));
    let u: Vec<i32> = (0..2).map(|_| socket(false, DGRAM)).collect();
    bind(u[0], false, 0, false);
    say("datagram in use", bind(u[1], false, port(u[0]), false));
}

fn half_close() {
    let (c, s) = pair(false);
    say("shut", c!(libc::shutdown(c, libc::SHUT_WR)));
    say("send after", send(c, b"x", 0));
    say("end", recv(s, 5, 0));
    say("other way", send(s, b"still", 0));
    say("arrives", recv(c, 10, 0));
    say("shut read", c!(libc::shutdown(c, libc::SHUT_RD)));
    say("read after", recv(c, 10, 0));
    say("bad", c!(libc::shutdown(c, 7)));
    say("unconnected", c!(libc::shutdown(socket(false, STREAM), libc::SHUT_RD)));
}

fn reset() {
    let (c, s) = pair(false);
    send(c, b"unread", 0);
    await_events(s, libc::POLLIN);
    close(s);
    await_events(c, libc::POLLHUP);
    say("recv", recv(c, 5, 0));
    say("after", recv(c, 5, 0));
    say("send", send(c, b"x", 0));
    let (c, s) = pair(false);
    let l = libc::linger { l_onoff: 1, l_linger: 0 };
    c!(libc::setsockopt(s, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const l).cast(), 8));
    close(s);
    await_events(c, libc::POLLHUP);
    say("abort", recv(c, 5, 0));
}

/// Closes `fd` with SO_LINGER set to `secs` and gives how long that took.
fn close_lingering(fd: i32, secs: i32) -> std::time::Duration {
    let l = libc::linger { l_onoff: 1, l_linger: secs };
    c!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const l).cast(), 8));
    let start = std::time::Instant::now();
    say("close", c!(libc::close(fd)));
    start.elapsed()
}

fn fill(fd: i32) -> usize {
    let block = vec![7; 65_536];
    let mut all = 0;
    loop {
        match send(fd, &block, libc::MSG_DONTWAIT) {
            R(n) if n > 0 => all += n as usize,
            r => {
                say("full", r);
                return all;
            }
        }
    }
}

fn lingering_close() {
    // Nobody reads: the whole time passes.
    let (c, _s) = pair(false);
    fill(c);
    let took = close_lingering(c, 1).as_millis();
    say("waited for a second", (990..20_000).contains(&took));
    // It is read while close waits.
    let (c, s) = pair(false);
    let sent = fill(c);
    let go = Event::new();
    let reader = std::thread::spawn(move || {
        go.wait();
        let mut b = vec![0u8; 1 << 16];
        let mut all = 0;
        loop {
            match c!(libc::recv(s, b.as_mut_ptr().cast(), b.len(), 0)) {
                R(n) if n > 0 => all += n as usize,
                r => return (all, r.to_string()),
            }
        }
    });
    go.post();
    let took = close_lingering(c, 60).as_secs();
    say("waited no longer than needed", took < 50);
    let (all, end) = reader.join().unwrap();
    say("everything arrived", all == sent);
    say("end", end);
    // Nothing is on the way.
    let (c, _s) = pair(false);
    say("at once", close_lingering(c, 60).as_secs() < 50);
}

fn nonblocking() {
    let (l, p) = listener(false);
    let flags = libc::SOCK_NONBLOCK;
    let n = socket(false, STREAM | flags);
    let r = connect(n, false, p);
    say("connect", r.is_ok() || r.is(libc::EINPROGRESS));
    await_events(n, libc::POLLOUT);
    say("error", sockerr(n));
    say("recv", recv(n, 5, 0));
    let s = c!(libc::accept4(l, std::ptr::null_mut(), std::ptr::null_mut(), flags)).fd();
    c!(libc::fcntl(l, libc::F_SETFL, libc::O_NONBLOCK));
    say("accept", c!(libc::accept(l, std::ptr::null_mut(), std::ptr::null_mut())));
    let b = [0u8; 65_536];
    let mut total = 0i64;
    let last = loop {
        let r = send(n, &b, 0);
        if !r.is_ok() {
            break r;
        }
        total += r.0;
    };
    say("full", last);
    say("something went", total > 65_536);
    close(l);
    let n = socket(false, STREAM | flags);
    let r = connect(n, false, p);
    if r.is(libc::EINPROGRESS) {
        await_events(n, libc::POLLOUT | libc::POLLERR);
        say("refused", sockerr(n));
    } else {
        say(
            "refused",
            format!(
                "0 {}",
                errno_name(if r.is(libc::ECONNREFUSED) { libc::ECONNREFUSED } else { 0 })
            ),
        );
    }
    close(s);
}

fn peek_and_waitall() {
    let (c, s) = pair(false);
    send(c, b"abcdef", 0);
    say("peek", recv(s, 3, libc::MSG_PEEK));
    say("still", recv(s, 2, 0));
    say("trunc", c!(libc::recv(s, std::ptr::null_mut(), 2, libc::MSG_TRUNC)));
    say("rest", recv(s, 9, 0));
    let pid = child(|| {
        send(c, b"12", 0);
        pause_poll();
        send(c, b"345", 0);
        0
    });
    say("waitall", recv(s, 5, libc::MSG_WAITALL));
    say("child", reap(pid));
    let t = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
    c!(libc::setsockopt(s, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const t).cast(), 16));
    say("timeout", recv(s, 5, 0));
}

fn urgent() {
    let (c, s) = pair(false);
    send(c, b"ab", 0);
    say("oob", send(c, b"!", libc::MSG_OOB));
    send(c, b"cd", 0);
    await_events(s, libc::POLLPRI);
    say("stops at the mark", recv(s, 10, 0));
    let mut mark = 0i32;
    say("ioctl", c!(libc::ioctl(s, 0x8905, &mut mark)));
    say("at mark", mark);
    say("urgent", recv(s, 5, libc::MSG_OOB));
    say("once", recv(s, 5, libc::MSG_OOB));
    say("rest", recv(s, 10, 0));
}

/// netdevice(7): any socket will do.
fn device_ioctls() {
    const INDEX: i32 = 0x8933;
    const NAME: i32 = 0x8910;
    const MTU: i32 = 0x8921;
    const FLAGS: i32 = 0x8913;
    const MAC: i32 = 0x8927;
    const ADDRESS: i32 = 0x8915;
    const ETHTOOL: i32 = 0x8946;
    const LIST: i32 = 0x8912;
    let kinds = [
        ("unix stream", libc::AF_UNIX, STREAM),
        ("unix dgram", libc::AF_UNIX, DGRAM),
        ("inet", libc::AF_INET, DGRAM),
        ("inet6", libc::AF_INET6, DGRAM),
        ("netlink", libc::AF_NETLINK, libc::SOCK_RAW),
    ];
    for (what, family, kind) in kinds {
        let s = c!(libc::socket(family, kind | libc::SOCK_CLOEXEC, 0)).fd();
        let ask = |name: &[u8], cmd: i32, n: u64| {
            let mut r = [0u8; 40];
            r[..name.len()].copy_from_slice(name);
            r[16..24].copy_from_slice(&n.to_ne_bytes());
            let done = sc!(libc::SYS_ioctl, s, cmd, &raw mut r);
            (done, r)
        };
        let word = |r: &[u8; 40]| i32::from_ne_bytes([r[16], r[17], r[18], r[19]]);
        for cmd in [INDEX, MTU] {
            let (done, r) = ask(b"lo", cmd, 0);
            say(&format!("{what} {cmd:#x}"), format!("{done} {}", word(&r)));
        }
        let (done, r) = ask(b"lo", FLAGS, 0);
        say(&format!("{what} flags"), format!("{done} {:#x}", word(&r) & 0xffff));
        let (done, r) = ask(b"lo", MAC, 0);
        say(&format!("{what} mac"), format!("{done} {:?}", &r[16..24]));
        let (done, r) = ask(b"lo", ADDRESS, 0);
        say(&format!("{what} address"), format!("{done} {:?}", &r[16..24]));
        let (done, r) = ask(b"", NAME, 1);
        say(&format!("{what} name"), format!("{done} {:?}", &r[..4]));
        say(&format!("{what} no interface"), ask(b"nosuch0", INDEX, 0).0);
        say(&format!("{what} no number"), ask(b"", NAME, 9_999_999).0);
        let mut stamps = [0u32; 11];
        stamps[0] = 0x41;
        let (done, _) = ask(b"lo", ETHTOOL, stamps.as_mut_ptr() as u64);
        // The loopback of the host stamps what is sent, too.
        say(
            &format!("{what} stamps"),
            format!("{done} {:#x} {}", stamps[1] & !2, stamps[2] as i32),
        );
        say(&format!("{what} bad pointer"), ask(b"lo", ETHTOOL, 8).0);
        let mut unknown = [0xffffu32; 1];
        say(&format!("{what} ethtool"), ask(b"lo", ETHTOOL, unknown.as_mut_ptr() as u64).0);
        say(&format!("{what} private"), ask(b"lo", 0x89f3, 0).0);
        let (done, r) = ask(&0i32.to_ne_bytes(), LIST, 0);
        let length = i32::from_ne_bytes([r[0], r[1], r[2], r[3]]);
        say(&format!("{what} list"), format!("{done} {}", length >= 40 && length % 40 == 0));
        say(&format!("{what} null"), sc!(libc::SYS_ioctl, s, INDEX, 0));
    }
}

fn datagrams() {
    for v6 in [false, true] {
        let (a, b) = (socket(v6, DGRAM), socket(v6, DGRAM));
        bind(b, v6, 0, false);
        let (to, n) = addr(v6, port(b), false);
        let put = |d: &[u8]| {
            c!(libc::sendto(a, d.as_ptr().cast(), d.len(), 0, (&raw const to).cast(), n))
        };
        say("send", put(b"one"));
        say("empty", put(b""));
        say("third", put(b"three"));
        say("cut", recv(b, 2, 0));
        say("empty one", recv(b, 5, 0));
        say("length", c!(libc::recv(b, [0u8; 2].as_mut_ptr().cast(), 2, libc::MSG_TRUNC)));
        say("none", recv(b, 5, NOWAIT));
        say("no destination", send(a, b"x", 0));
        let (zero, n) = addr(v6, 0, false);
        say("port 0", c!(libc::sendto(a, b"x".as_ptr().cast(), 1, 0, (&raw const zero).cast(), n)));
        say("bound by sending", port(a) != 0);
    }
}

fn datagram_connected() {
    let (a, b, other) = (socket(false, DGRAM), socket(false, DGRAM), socket(false, DGRAM));
    bind(b, false, 0, false);
    say("connect", connect(a, false, port(b)));
    say("peer", name(a, true).is_ok_and(|p| p.0 == port(b)));
    say("send", send(a, b"hi", 0));
    say("recv", recv(b, 9, 0));
    let (to, n) = addr(false, port(a), false);
    c!(libc::sendto(other, b"no".as_ptr().cast(), 2, 0, (&raw const to).cast(), n));
    say("from a stranger", recv(a, 9, NOWAIT));
    close(b);
    say("to nobody", send(a, b"x", 0));
    say("told", recv(a, 9, 0));
    let mut u: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    u.ss_family = libc::AF_UNSPEC as u16;
    say("dissolve", c!(libc::connect(a, (&raw const u).cast(), 16)));
    say("no peer", name(a, true).err().map_or("?".into(), |r| r.to_string()));
    say("shutdown", c!(libc::shutdown(a, libc::SHUT_RD)));
}

fn datagram_sizes() {
    for (v6, max) in [(false, 65_507), (true, 65_507)] {
        let (a, b) = (socket(v6, DGRAM), socket(v6, DGRAM));
        bind(b, v6, 0, false);
        connect(a, v6, port(b));
        for n in [1, 1472, 1473, 9000, max, 65_536] {
            let r = send(a, &vec![7; n], 0);
            let got = c!(libc::recv(b, vec![0u8; 70_000].as_mut_ptr().cast(), 70_000, NOWAIT));
            say(&n.to_string(), format!("{r} {got}"));
        }
    }
}

fn mapped() {
    let s = socket(true, STREAM);
    bind(s, true, 0, true);
    c!(libc::listen(s, 1));
    let c = socket(false, STREAM);
    say("v4 to v6", connect(c, false, port(s)));
    let a = c!(libc::accept(s, std::ptr::null_mut(), std::ptr::null_mut())).fd();
    say("peer", name(a, true).map_or("?".into(), |p| p.1));
    say("local", name(a, false).map_or("?".into(), |p| p.1));
    let only = socket(true, STREAM);
    say("v6only", set(only, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1));
    bind(only, true, 0, true);
    c!(libc::listen(only, 1));
    say("refused", connect(socket(false, STREAM), false, port(only)));
    let four = socket(false, STREAM);
    say("same port", bind(four, false, port(only), true));
}

fn poll_states() {
    let s = socket(false, STREAM);
    say("fresh", events(s));
    let (l, p) = listener(false);
    say("listening", events(l));
    let c = socket(false, STREAM);
    connect(c, false, p);
    say("waiting", events(l));
    say("connected", events(c));
    let a = c!(libc::accept(l, std::ptr::null_mut(), std::ptr::null_mut())).fd();
    send(a, b"x", 0);
    say("data", events(c));
    c!(libc::shutdown(a, libc::SHUT_WR));
    say("half closed", events(c));
    close(a);
    close(c);
    let u = socket(false, DGRAM);
    say("datagram", events(u));
}

fn many_bytes() {
    let (c, s) = pair(false);
    const N: usize = 3_000_000;
    let pid = child(|| {
        let b: Vec<u8> = (0..N).map(|i| ((i * 7) >> 4) as u8).collect();
        let mut at = 0;
        while at < N {
            let r = send(c, &b[at..], 0);
            if !r.is_ok() {
                return 1;
            }
            at += r.0 as usize;
        }
        0
    });
    close(c);
    let (mut got, mut ok) = (0, true);
    while let Ok(b) = read(s, 50_000) {
        if b.is_empty() {
            break;
        }
        ok &= b.iter().enumerate().all(|(i, x)| *x == (((got + i) * 7) >> 4) as u8);
        got += b.len();
    }
    say("bytes", got);
    say("intact", ok);
    say("child", reap(pid));
}

/// SIOCSIFFLAGS of `lo`: IFF_UP.
fn loopback_up(fd: i32) -> R {
    let mut r = [0u8; 40];
    r[..2].copy_from_slice(b"lo");
    r[16] = 1;
    sc!(libc::SYS_ioctl, fd, 0x8914, &raw mut r)
}

/// Binds to 127.0.0.`host`.
fn bind_to(fd: i32, host: u32, port: u16) -> R {
    let (mut a, n) = addr(false, port, false);
    let loopback = 0x7f00_0000u32 + host;
    unsafe { (*(&raw mut a).cast::<libc::sockaddr_in>()).sin_addr.s_addr = loopback.to_be() };
    c!(libc::bind(fd, (&raw const a).cast(), n))
}

/// Who may bind to a port that connect(2) has chosen.
fn ports_of_connect() {
    for closed in [false, true] {
        for (ours, theirs) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (l, to) = listener(false);
            let c = socket(false, STREAM);
            set(c, libc::SOL_SOCKET, libc::SO_REUSEADDR, ours);
            assert!(connect(c, false, to).is_ok());
            let s = c!(libc::accept(l, std::ptr::null_mut(), std::ptr::null_mut())).fd();
            let chosen = port(c);
            if closed {
                // This end keeps the port for a minute.
                close(c);
                say("end", recv(s, 1, 0));
                close(s);
            }
            for host in [1, 2] {
                let b = socket(false, STREAM);
                set(b, libc::SOL_SOCKET, libc::SO_REUSEADDR, theirs);
                let bound = bind_to(b, host, chosen);
                let listens = if bound.is_ok() { c!(libc::listen(b, 1)) } else { bound };
                say(
                    "port of connect",
                    format!("{closed} {ours} {theirs} {host}: {bound} {listens}"),
                );
                close(b);
            }
        }
    }
}

/// Connections to different places share ports, those to one place do not. Closed ones give way on the loopback after a
/// second (tcp_tw_reuse).
fn ports_of_connect_run_out() {
    say("namespace", c!(libc::unshare(libc::CLONE_NEWNET)));
    say("up", loopback_up(socket(false, DGRAM)));
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50003").expect("range");
    let listeners: Vec<_> = (0..3)
        .map(|i| {
            let l = socket(false, STREAM);
            bind(l, false, 40000 + i, false);
            c!(libc::listen(l, 10));
            l
        })
        .collect();
    let mut open = Vec::new();
    for i in 0..3 {
        for _ in 0..6 {
            let c = socket(false, STREAM);
            let r = connect(c, false, 40000 + i);
            say("connect", r);
            if r.is_ok() {
                open.push(c)
            } else {
                close(c);
            }
        }
    }
    let b = socket(false, STREAM);
    say("no port to bind", bind(b, false, 0, false));
    say("nor the wildcard", bind(b, false, 0, true));
    for c in open {
        close(c);
    }
    for l in listeners.iter().take(1) {
        for _ in 0..4 {
            let s = c!(libc::accept(*l, std::ptr::null_mut(), std::ptr::null_mut())).fd();
            say("end", recv(s, 1, 0));
            close(s);
        }
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let (mut early, mut got) = (0, Vec::new());
    while got.len() < 4 && std::time::Instant::now() < deadline {
        let c = socket(false, STREAM);
        if connect(c, false, 40000).is_ok() {
            got.push(c);
        } else {
            early += 1;
            close(c);
            std::thread::yield_now();
        }
    }
    say("waited", early > 0);
    say("and got", got.len());
    say("no more", connect(socket(false, STREAM), false, 40000));
}

/// Addresses and routes of AF_INET6 by ioctl, in a namespace of the case's own.
fn v6_ioctls() {
    say("namespace", c!(libc::unshare(libc::CLONE_NEWNET)));
    try_v6_ioctls();
}

fn v6_ioctls_as_user() {
    try_v6_ioctls();
}

fn try_v6_ioctls() {
    const SETADDR: i32 = 0x8916;
    const DELADDR: i32 = 0x8936;
    const ADDRT: i32 = 0x890b;
    const DELRT: i32 = 0x890c;
    let s = c!(libc::socket(libc::AF_INET6, DGRAM | libc::SOCK_CLOEXEC, 0)).fd();
    say("up", loopback_up(s));
    let ip = |t: &str| t.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let address = |cmd: i32, a: &str, prefix: u32, index: u32| {
        let mut r = ip(a).to_vec();
        r.extend_from_slice(&prefix.to_ne_bytes());
        r.extend_from_slice(&index.to_ne_bytes());
        sc!(libc::SYS_ioctl, s, cmd, r.as_ptr())
    };
    say("add", address(SETADDR, "fd00::1", 64, 1));
    say("add again", address(SETADDR, "fd00::1", 64, 1));
    say("prefix 129", address(SETADDR, "fd00::2", 129, 1));
    say("no device", address(SETADDR, "fd00::2", 64, 99));
    say("no structure", sc!(libc::SYS_ioctl, s, SETADDR, 8usize));
    say("remove another", address(DELADDR, "fd00::3", 64, 1));
    say("remove from no device", address(DELADDR, "fd00::1", 64, 99));
    let route =
        |cmd: i32, dst: &str, len: u16, gateway: &str, metric: u32, flags: u32, index: i32| {
            let mut r = [ip(dst), [0; 16], ip(gateway)].concat();
            r.extend_from_slice(&0u32.to_ne_bytes());
            r.extend_from_slice(&len.to_ne_bytes());
            r.extend_from_slice(&[0; 2]);
            r.extend_from_slice(&metric.to_ne_bytes());
            r.extend_from_slice(&[0; 12]);
            r.extend_from_slice(&flags.to_ne_bytes());
            r.extend_from_slice(&index.to_ne_bytes());
            sc!(libc::SYS_ioctl, s, cmd, r.as_ptr())
        };
    say("route", route(ADDRT, "fd01::", 64, "::", 0, 1, 1));
    say("route again", route(ADDRT, "fd01::", 64, "::", 0, 1, 1));
    say("route with another metric", route(ADDRT, "fd01::", 64, "::", 5, 1, 1));
    say("route to nothing", route(ADDRT, "fd02::", 64, "::", 0, 1, 0));
    say("route to no device", route(ADDRT, "fd02::", 64, "::", 0, 1, 99));
    say("129 bits", route(ADDRT, "fd02::", 129, "::", 0, 1, 1));
    say("gateway without a way", route(ADDRT, "fd02::", 64, "fd77::1", 0, 3, 0));
    say("delete", route(DELRT, "fd01::", 64, "::", 5, 1, 1));
    say("delete the other", route(DELRT, "fd01::", 64, "::", 0, 1, 0));
    say("delete what is gone", route(DELRT, "fd01::", 64, "::", 0, 1, 1));
    say("remove", address(DELADDR, "fd00::1", 64, 1));
    say("remove again", address(DELADDR, "fd00::1", 64, 1));
}

/// IP_BIND_ADDRESS_NO_PORT: bind(2) keeps the address and leaves the port to what follows.
fn bind_without_port() {
    const BIND_ADDRESS_NO_PORT: i32 = 24;
    let set = |fd: i32, v: i32| {
        let v = &raw const v;
        c!(libc::setsockopt(fd, libc::IPPROTO_IP, BIND_ADDRESS_NO_PORT, v.cast(), 4))
    };
    let get = |fd: i32| {
        let (mut v, mut n) = (9i32, 4u32);
        let p = &raw mut v;
        let r = c!(libc::getsockopt(fd, libc::IPPROTO_IP, BIND_ADDRESS_NO_PORT, p.cast(), &mut n));
        format!("{r} {v}")
    };
    let told = |fd: i32| match name(fd, false) {
        Ok((port, addr, _)) => format!("{addr} {}", port != 0),
        Err(r) => r.to_string(),
    };
    for kind in [STREAM, DGRAM] {
        let l = socket(false, kind);
        bind(l, false, 0, false);
        if kind == STREAM {
            c!(libc::listen(l, 5));
        }
        let s = socket(false, kind);
        say("off", get(s));
        say("set", set(s, 7));
        say("on", get(s));
        say("bind", bind_to(s, 5, 0));
        say("no port yet", told(s));
        say("again", bind_to(s, 6, 0));
        say("address", told(s));
        say("connect", connect(s, false, port(l)));
        say("now", told(s));
        let s = socket(false, kind);
        set(s, 1);
        say("a port asked for", bind_to(s, 7, 34567));
        say("is had", told(s));
        say("twice", bind_to(s, 7, 0));
    }
    let s = socket(false, STREAM);
    set(s, 1);
    bind_to(s, 5, 0);
    say("listen", c!(libc::listen(s, 1)));
    say("with a port", told(s));
}
