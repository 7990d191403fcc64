//! UDP-Lite (RFC 3828, udplite(7)): checksum coverage, options, ports of its own, /proc/net.

use crate::sys::*;
use crate::{c, cases};

cases! { sockets, options, coverage, refused_coverage, ports, listed, wire: root, forged: root }

const LITE: i32 = 136;
const SEND_CSCOV: i32 = 10;
const RECV_CSCOV: i32 = 11;
const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

fn lite(family: i32) -> i32 {
    c!(libc::socket(family, libc::SOCK_DGRAM, LITE)).fd()
}

fn set(s: i32, level: i32, name: i32, v: i32) -> R {
    c!(libc::setsockopt(s, level, name, (&raw const v).cast(), 4))
}

fn get(s: i32, level: i32, name: i32) -> String {
    let (mut v, mut len) = (-1i32, 4u32);
    let r = c!(libc::getsockopt(s, level, name, (&raw mut v).cast(), &mut len));
    if r.is_ok() { format!("{v}") } else { r.to_string() }
}

fn port_of(s: i32) -> u16 {
    let (mut a, mut len) = loopback(libc::AF_INET6, 0);
    c!(libc::getsockname(s, (&raw mut a).cast(), &mut len));
    u16::from_be(a.sin6_port)
}

/// A receiver and a sender that is connected to it.
fn pair(family: i32) -> (i32, i32) {
    let (r, s) = (lite(family), lite(family));
    assert!(bind_to(r, family, 0).is_ok());
    assert!(connect_to(s, family, port_of(r)).is_ok());
    (r, s)
}

fn receive(r: i32) -> String {
    let mut b = [0u8; 4096];
    let n = c!(libc::recv(r, b.as_mut_ptr().cast(), 4096, libc::MSG_DONTWAIT));
    if n.is_ok() { quoted(&b[..n.0 as usize]) } else { n.to_string() }
}

fn sockets() {
    for family in FAMILIES {
        for (what, kind) in [("stream", libc::SOCK_STREAM), ("seqpacket", libc::SOCK_SEQPACKET)] {
            say(&format!("{family} {what}"), c!(libc::socket(family, kind, LITE)).ok());
        }
        let s = lite(family);
        for (what, name) in
            [("domain", libc::SO_DOMAIN), ("type", libc::SO_TYPE), ("protocol", libc::SO_PROTOCOL)]
        {
            say(&format!("{family} {what}"), get(s, libc::SOL_SOCKET, name));
        }
        let (r, s) = pair(family);
        say("send", write(s, b"hello"));
        say("received", receive(r));
        say("empty", write(s, b""));
        say("received", receive(r));
        say("nothing more", receive(r));
        close(r);
        say("refused", format!("{} {}", write(s, b"x"), write(s, b"y")));
    }
}

fn options() {
    for family in FAMILIES {
        let s = lite(family);
        say("defaults", format!("{} {}", get(s, LITE, SEND_CSCOV), get(s, LITE, RECV_CSCOV)));
        for name in [SEND_CSCOV, RECV_CSCOV] {
            for v in [0, 1, 7, 8, 9, 100, 65535, 65536, i32::MAX, -1, i32::MIN] {
                say(
                    &format!("{name} {v}"),
                    format!("{} {}", set(s, LITE, name, v), get(s, LITE, name)),
                );
            }
        }
        for level in [LITE, libc::IPPROTO_UDP] {
            say(&format!("cork {level}"), format!("{} {}", set(s, level, 1, 1), get(s, level, 1)));
            say(&format!("uncork {level}"), set(s, level, 1, 0));
            say(
                &format!("coverage at level {level}"),
                format!("{} {}", set(s, level, SEND_CSCOV, 20), get(s, level, SEND_CSCOV)),
            );
        }
        say("unknown", format!("{} {}", set(s, LITE, 55, 1), get(s, LITE, 55)));
        let v = 9u16;
        say("short", c!(libc::setsockopt(s, LITE, SEND_CSCOV, (&raw const v).cast(), 2)));
        let u = c!(libc::socket(family, libc::SOCK_DGRAM, 0)).fd();
        for level in [LITE, libc::IPPROTO_UDP] {
            say(
                &format!("of UDP {level}"),
                format!("{} {}", set(u, level, SEND_CSCOV, 20), get(u, level, SEND_CSCOV)),
            );
        }
    }
}

fn coverage() {
    for family in FAMILIES {
        for v in [0, 8, 9, 12, 13, 14, 20, 65535] {
            let (r, s) = pair(family);
            set(s, LITE, SEND_CSCOV, v);
            say(&format!("{family} {v}"), format!("{} {}", write(s, b"hello"), receive(r)));
            say(&format!("{family} {v} empty"), format!("{} {}", write(s, b""), receive(r)));
        }
        let (r, s) = pair(family);
        set(s, LITE, SEND_CSCOV, 100);
        let long = vec![b'a'; 3000];
        say("in pieces or not", format!("{} {}", write(s, &long), receive(r).len()));
        set(s, LITE, 1, 1);
        write(s, b"one ");
        write(s, b"message");
        set(s, LITE, 1, 0);
        say("corked", receive(r));
    }
}

/// Receivers that want more than they get.
fn refused_coverage() {
    for family in FAMILIES {
        for want in [0, 8, 10, 13, 100] {
            for gives in [-2, 0, 8, 10, 12, 13] {
                let (r, s) = pair(family);
                set(r, LITE, RECV_CSCOV, want);
                if gives != -2 {
                    set(s, LITE, SEND_CSCOV, gives);
                }
                write(s, b"hello");
                say(&format!("{family} {want} {gives}"), receive(r));
                close(r);
                close(s);
            }
        }
    }
}

fn ports() {
    for family in FAMILIES {
        let a = lite(family);
        say("bind", bind_to(a, family, 0));
        let port = port_of(a);
        say("again", bind_to(lite(family), family, port));
        let u = c!(libc::socket(family, libc::SOCK_DGRAM, 0)).fd();
        say("UDP has its own", bind_to(u, family, port));
        let s = lite(family);
        connect_to(s, family, port);
        write(s, b"x");
        say("which one", format!("{} {}", receive(a), receive(u)));
    }
    // One socket for both versions.
    let r = lite(libc::AF_INET6);
    let any: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    let any = libc::sockaddr_in6 { sin6_family: libc::AF_INET6 as u16, ..any };
    say("any", c!(libc::bind(r, (&raw const any).cast(), 28)));
    let s = lite(libc::AF_INET);
    connect_to(s, libc::AF_INET, port_of(r));
    set(s, LITE, SEND_CSCOV, 8);
    write(s, b"mapped");
    say("IPv4 to IPv6", receive(r));
}

fn lines_with(file: &str, port: u16) -> usize {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().filter(|l| l.contains(&format!(":{port:04X} "))).count()
}

fn listed() {
    for (family, file, other) in
        [(libc::AF_INET, "udplite", "udp"), (libc::AF_INET6, "udplite6", "udp6")]
    {
        let r = lite(family);
        bind_to(r, family, 0);
        let path = format!("/proc/net/{file}");
        let head = |f: &str| {
            std::fs::read_to_string(f).unwrap().lines().next().unwrap_or("").trim_end().to_string()
        };
        say(file, head(&path));
        say("as that of UDP", head(&path) == head(&format!("/proc/net/{other}")));
        say("there", lines_with(&path, port_of(r)));
        let before = lines_with(&path, port_of(r));
        close(r);
        say("gone", lines_with(&path, port_of(r)) < before);
    }
    let snmp = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = snmp.lines().filter(|l| l.starts_with("UdpLite:"));
    say("snmp", lines.next().unwrap_or(""));
    let snmp6 = std::fs::read_to_string("/proc/net/snmp6").unwrap();
    let names: Vec<&str> = snmp6
        .lines()
        .filter(|l| l.starts_with("UdpLite6"))
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    say("snmp6", names.join(" "));
}

/// The bytes of the header, seen by a raw socket: length field and whether there is a checksum.
fn wire() {
    let raw = c!(libc::socket(libc::AF_INET, libc::SOCK_RAW, LITE)).fd();
    for v in [-2, 0, 8, 9, 13, 20] {
        let (r, s) = pair(libc::AF_INET);
        if v != -2 {
            set(s, LITE, SEND_CSCOV, v);
        }
        write(s, b"hello");
        receive(r);
        let mut b = [0u8; 200];
        loop {
            let n = c!(libc::recv(raw, b.as_mut_ptr().cast(), 200, 0));
            assert!(n.is_ok());
            let port = u16::from_be_bytes([b[22], b[23]]);
            if port == port_of(r) {
                let field = u16::from_be_bytes([b[24], b[25]]);
                say(
                    &format!("coverage {v}"),
                    format!("{n} field {field} data {}", quoted(&b[28..33])),
                );
                break;
            }
        }
        close(r);
        close(s);
    }
}

fn sum(data: &[u8]) -> u16 {
    let mut s: u32 =
        data.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while s >> 16 != 0 {
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}

/// Datagrams as a raw socket makes them: which are taken.
fn forged() {
    let r = lite(libc::AF_INET);
    bind_to(r, libc::AF_INET, 0);
    let port = port_of(r);
    let raw = c!(libc::socket(libc::AF_INET, libc::SOCK_RAW, LITE)).fd();
    connect_to(raw, libc::AF_INET, 0);
    let data = b"covered and not covered";
    let counts = || {
        let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
        let line = text.lines().filter(|l| l.starts_with("UdpLite:")).nth(1).unwrap().to_string();
        let n: Vec<u64> = line.split_whitespace().skip(1).map(|w| w.parse().unwrap()).collect();
        (n[0], n[2], n[6])
    };
    for (what, field, damage) in [
        ("full by zero", 0u16, None),
        ("full", 31, None),
        ("partial", 15, None),
        ("header only", 8, None),
        ("partial, damaged within", 15, Some(10)),
        ("partial, damaged beyond", 15, Some(20)),
        ("full, damaged", 0, Some(30)),
        ("too short a coverage", 7, None),
        ("too long a coverage", 32, None),
        ("no checksum", 0, Some(999)),
    ] {
        let mut p = Vec::new();
        for w in [4000, port, field, 0] {
            p.extend_from_slice(&w.to_be_bytes());
        }
        p.extend_from_slice(data);
        let covered = match usize::from(field) {
            0 => p.len(),
            n => n.min(p.len()),
        };
        let mut all = vec![127, 0, 0, 1, 127, 0, 0, 1, 0, LITE as u8, 0, p.len() as u8];
        all.extend_from_slice(&p[..covered]);
        let c = match sum(&all) {
            0 => 0xffff,
            n => n,
        };
        p[6..8].copy_from_slice(&c.to_be_bytes());
        match damage {
            Some(999) => p[6..8].fill(0),
            Some(at) => p[at] ^= 0x55,
            None => {}
        }
        let before = counts();
        c!(libc::send(raw, p.as_ptr().cast(), p.len(), 0));
        let got = receive(r);
        let after = counts();
        let moved = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        say(what, format!("{} {moved:?}", if got.starts_with('"') { "taken" } else { &got }));
    }
}
