//! Options of Internet sockets: what is read back, what is refused.

use super::inet::{addr, socket};
use crate::c;
use crate::cases;
use crate::sys::*;

cases! { common, ip, ipv6, tcp, sizes, packet_options, cookie,
}

fn get(fd: i32, level: i32, opt: i32) -> String {
    let mut b = [0u8; 256];
    let mut n = 256u32;
    let r = c!(libc::getsockopt(fd, level, opt, b.as_mut_ptr().cast(), &mut n));
    if !r.is_ok() {
        return r.to_string();
    }
    match n {
        4 => i32::from_ne_bytes([b[0], b[1], b[2], b[3]]).to_string(),
        n => format!("{n} bytes"),
    }
}

fn both(fd: i32, level: i32, opt: i32, label: &str, values: &[i32]) {
    say(&format!("{label} default"), get(fd, level, opt));
    for v in values {
        let r = c!(libc::setsockopt(fd, level, opt, (&raw const *v).cast(), 4));
        say(&format!("{label} {v}"), format!("{r} -> {}", get(fd, level, opt)));
    }
}

fn common() {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let s = socket(false, kind);
        let l = libc::SOL_SOCKET;
        for (o, n) in [
            (libc::SO_REUSEADDR, "reuseaddr"),
            (libc::SO_REUSEPORT, "reuseport"),
            (libc::SO_KEEPALIVE, "keepalive"),
            (libc::SO_BROADCAST, "broadcast"),
            (libc::SO_OOBINLINE, "oobinline"),
        ] {
            both(s, l, o, n, &[1, 0]);
        }
        both(s, l, libc::SO_RCVBUF, "rcvbuf", &[10_000, 1]);
        both(s, l, libc::SO_SNDBUF, "sndbuf", &[10_000, 1]);
        both(s, l, libc::SO_PRIORITY, "priority", &[3]);
        for (o, n) in [
            (libc::SO_TYPE, "type"),
            (libc::SO_DOMAIN, "domain"),
            (libc::SO_PROTOCOL, "protocol"),
            (libc::SO_ACCEPTCONN, "acceptconn"),
            (libc::SO_ERROR, "error"),
            (libc::SO_BINDTODEVICE, "device"),
        ] {
            say(n, get(s, l, o));
        }
        let lo = b"lo\0";
        say("bind lo", c!(libc::setsockopt(s, l, libc::SO_BINDTODEVICE, lo.as_ptr().cast(), 3)));
        say("bound", get(s, l, libc::SO_BINDTODEVICE));
        let no = b"nosuch0\0";
        say("no device", c!(libc::setsockopt(s, l, libc::SO_BINDTODEVICE, no.as_ptr().cast(), 8)));
        say("unknown", get(s, l, 9999));
        say("unknown level", get(s, 9999, 1));
    }
}

fn ip() {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let s = socket(false, kind);
        let l = libc::IPPROTO_IP;
        both(s, l, libc::IP_TTL, "ttl", &[1, 255, 0, 256, -1]);
        both(s, l, libc::IP_TOS, "tos", &[0x10, 0xff]);
        both(s, l, libc::IP_MTU_DISCOVER, "pmtu", &[0, 2, 9]);
        both(s, l, libc::IP_RECVERR, "recverr", &[1, 0]);
        both(s, l, libc::IP_FREEBIND, "freebind", &[1, 0]);
        if kind == libc::SOCK_DGRAM {
            both(s, l, libc::IP_MULTICAST_TTL, "mttl", &[5, 256]);
            both(s, l, libc::IP_MULTICAST_LOOP, "mloop", &[0, 1]);
            both(s, l, libc::IP_PKTINFO, "pktinfo", &[1]);
            both(s, l, libc::IP_RECVTTL, "recvttl", &[1]);
            both(s, l, libc::IP_RECVTOS, "recvtos", &[1]);
        }
        say("mtu", get(s, l, libc::IP_MTU));
        say("v6 on v4", get(s, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY));
    }
}

fn ipv6() {
    let s = socket(true, libc::SOCK_DGRAM);
    let l = libc::IPPROTO_IPV6;
    both(s, l, libc::IPV6_V6ONLY, "v6only", &[1, 0]);
    both(s, l, libc::IPV6_UNICAST_HOPS, "hops", &[1, 255, -1, 256]);
    both(s, l, libc::IPV6_MULTICAST_HOPS, "mhops", &[7, -1]);
    both(s, l, libc::IPV6_MULTICAST_LOOP, "mloop", &[0, 1, 2]);
    both(s, l, libc::IPV6_RECVPKTINFO, "pktinfo", &[1]);
    both(s, l, libc::IPV6_TCLASS, "tclass", &[3]);
    both(s, l, libc::IPV6_RECVERR, "recverr", &[1]);
    both(s, l, libc::IPV6_DONTFRAG, "dontfrag", &[1]);
}

fn tcp() {
    let s = socket(false, libc::SOCK_STREAM);
    let l = libc::IPPROTO_TCP;
    both(s, l, libc::TCP_NODELAY, "nodelay", &[1, 0]);
    both(s, l, libc::TCP_CORK, "cork", &[1, 0]);
    both(s, l, libc::TCP_KEEPIDLE, "keepidle", &[10, 0, 40_000]);
    both(s, l, libc::TCP_KEEPINTVL, "keepintvl", &[10, 0]);
    both(s, l, libc::TCP_KEEPCNT, "keepcnt", &[3, 0, 128]);
    both(s, l, libc::TCP_SYNCNT, "syncnt", &[2, 0]);
    both(s, l, libc::TCP_USER_TIMEOUT, "usertimeout", &[1000, -1]);
    both(s, l, libc::TCP_DEFER_ACCEPT, "defer", &[1, 5, 0]);
    both(s, l, libc::TCP_LINGER2, "linger2", &[10, -1]);
    say("maxseg", get(s, l, libc::TCP_MAXSEG));
    let mut b = [0u8; 16];
    let mut n = 16u32;
    // Which others a program without privilege may choose is up to each kernel.
    for name in ["reno", "nosuch"] {
        let r = c!(libc::setsockopt(
            s,
            l,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as u32
        ));
        c!(libc::getsockopt(s, l, libc::TCP_CONGESTION, b.as_mut_ptr().cast(), &mut n));
        say(name, format!("{r} {}", quoted(b.split(|c| *c == 0).next().unwrap_or(&[]))));
    }
    let mut i: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut n = size_of::<libc::tcp_info>() as u32;
    let r = c!(libc::getsockopt(s, l, libc::TCP_INFO, (&raw mut i).cast(), &mut n));
    // The structure grows with the kernel's age.
    say("info", format!("{r} state {}", i.tcpi_state));
}

fn sizes() {
    let s = socket(false, libc::SOCK_STREAM);
    let v = 1i32;
    for n in [0u32, 1, 3, 8] {
        let r =
            c!(libc::setsockopt(s, libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const v).cast(), n));
        say(&format!("nodelay {n}"), r);
        let r = c!(libc::setsockopt(s, libc::IPPROTO_IP, libc::IP_TTL, (&raw const v).cast(), n));
        say(&format!("ttl {n}"), r);
    }
    let mut b = [0u8; 8];
    for room in [0u32, 1, 2, 8] {
        let mut n = room;
        let r = c!(libc::getsockopt(
            s,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            b.as_mut_ptr().cast(),
            &mut n
        ));
        say(&format!("room {room}"), format!("{r} {n}"));
    }
}

/// The ends of a TCP connection on the loopback: the accepted one, and the other.
fn connection(v6: bool, before: impl Fn(i32)) -> (i32, i32) {
    let l = socket(v6, libc::SOCK_STREAM);
    let (mut a, n) = addr(v6, 0, false);
    c!(libc::bind(l, (&raw const a).cast(), n));
    c!(libc::listen(l, 1));
    let mut n = 128;
    c!(libc::getsockname(l, (&raw mut a).cast(), &mut n));
    let c = socket(v6, libc::SOCK_STREAM);
    before(l);
    before(c);
    c!(libc::connect(c, (&raw const a).cast(), n));
    let s = c!(libc::accept4(l, std::ptr::null_mut(), std::ptr::null_mut(), 0)).fd();
    close(l);
    (s, c)
}

static ON: i32 = 1;

/// IP_PKTOPTIONS and IPV6_2292PKTOPTIONS: control messages of a connection.
fn packet_options() {
    // Only heads and data: what lies between messages is left as it was.
    let show = |fd: i32, level: i32, opt: i32, max: u32| {
        let (mut b, mut n) = ([0u8; 256], max);
        let r = c!(libc::getsockopt(fd, level, opt, b.as_mut_ptr().cast(), &mut n));
        let mut text = format!("{r} {n} bytes");
        let mut at = 0;
        while r.is_ok() && at + 16 <= n as usize {
            let int = |i: usize| i32::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
            let len = int(at) as usize;
            text += &format!("; {} {} {:?}", int(at + 8), int(at + 12), &b[at + 16..at + len]);
            at += len.next_multiple_of(8);
        }
        text
    };
    let want = |level: i32, opts: [i32; 3]| {
        move |fd: i32| {
            for o in opts {
                c!(libc::setsockopt(fd, level, o, (&raw const ON).cast(), 4));
            }
        }
    };
    let (v4, v6) = (libc::IPPROTO_IP, libc::IPPROTO_IPV6);
    let (s, c) = connection(false, |_| {});
    say("nothing wanted", show(s, v4, 9, 256));
    say("at the other level", show(s, v6, 6, 256));
    close(s);
    close(c);
    let (s, c) =
        connection(false, want(v4, [libc::IP_PKTINFO, libc::IP_RECVTTL, libc::IP_RECVTOS]));
    say("accepted", show(s, v4, 9, 256));
    say("connected", show(c, v4, 9, 256));
    say("room for a part", show(s, v4, 9, 20));
    say("room for two", show(s, v4, 9, 60));
    close(s);
    close(c);
    let (s, c) = connection(true, |_| {});
    say("nothing wanted, IPv6", show(s, v6, 6, 256));
    close(s);
    close(c);
    let wanted = [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS];
    let (s, _) = connection(true, want(v6, wanted));
    say("accepted, IPv6", show(s, v6, 6, 256));
    say("datagrams", show(socket(false, libc::SOCK_DGRAM), v4, 9, 256));
}

/// SO_COOKIE names a socket to sock_diag(7).
fn cookie() {
    for (family, name) in [(libc::AF_UNIX, "unix"), (libc::AF_INET, "inet")] {
        let get = |fd: i32| {
            let (mut v, mut n) = (0u64, 8u32);
            let r = c!(libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut v).cast(),
                &mut n
            ));
            (r, n, v)
        };
        let a = c!(libc::socket(family, libc::SOCK_STREAM, 0)).fd();
        let b = c!(libc::socket(family, libc::SOCK_STREAM, 0)).fd();
        let ((r, n, x), (_, _, y)) = (get(a), get(b));
        say(name, format!("{r} {n} of its own: {} the same again: {}", x != y, get(a).2 == x));
    }
}
