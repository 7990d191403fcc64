//! Options of Internet sockets: what is read back, what is refused.

use super::inet::socket;
use crate::c;
use crate::cases;
use crate::sys::*;

cases! { common, ip, ipv6, tcp, sizes }

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
