//! Options of IPv4 packets and extension headers of IPv6 ones (ip(7), ipv6(7), RFC 791, RFC 3542), as programs set and receive them.

use super::datagram::{Message, bound, receive, send};
use super::inet::{addr, socket};
use crate::sys::*;
use crate::{c, cases};

cases! {
    set_and_get, set_and_get_as_root: root, refused, refused_as_root: root, received, received_flags, sent_with_one_message,
    of_streams, echoed: root, extension_headers, extension_headers_as_root: root, extension_header_of_one_message: root,
}

const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const RECVOPTS: i32 = 6;
const RETOPTS: i32 = 7;
const HOPOPTS: i32 = 54;
const RTHDRDSTOPTS: i32 = 55;
const RTHDR: i32 = 57;
const DSTOPTS: i32 = 59;

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

fn set(fd: i32, level: i32, name: i32, v: &[u8]) -> R {
    c!(libc::setsockopt(fd, level, name, v.as_ptr().cast(), v.len() as u32))
}

fn on(fd: i32, level: i32, name: i32) -> R {
    set(fd, level, name, &1i32.to_ne_bytes())
}

fn get(fd: i32, level: i32, name: i32) -> String {
    let mut b = [0u8; 256];
    let mut n = 256u32;
    let r = c!(libc::getsockopt(fd, level, name, b.as_mut_ptr().cast(), &mut n));
    if r.is_ok() { format!("[{}]", hex(&b[..n as usize])) } else { r.to_string() }
}

/// Record route with room for `n` addresses.
fn record_route(n: usize) -> Vec<u8> {
    let mut v = vec![7, (3 + n * 4) as u8, 4];
    v.resize(3 + n * 4, 0);
    v
}

/// A timestamp option of one kind with room for `n` bytes.
fn timestamp(kind: u8, n: usize) -> Vec<u8> {
    let mut v = vec![68, (4 + n) as u8, 5, kind];
    v.resize(4 + n, 0);
    v
}

/// Options with times replaced by `tttttttt`, and whether each time is one of today (milliseconds since midnight).
fn without_times(b: &[u8]) -> String {
    let mut out = hex(b);
    let mut at = 0;
    while at < b.len() {
        match b[at] {
            0 => break,
            1 => at += 1,
            68 if b.len() >= at + 4 && b.len() >= at + usize::from(b[at + 1]) => {
                let (len, to) = (usize::from(b[at + 1]), usize::from(b[at + 2]) - 1);
                let each = if b[at + 3] & 15 == 0 { 4 } else { 8 };
                let mut i = at + 4;
                while i + each <= at + to.min(len) {
                    let t = i + each - 4;
                    let v = u32::from_be_bytes([b[t], b[t + 1], b[t + 2], b[t + 3]]);
                    let mark = if v < 86_400_000 { "tttttttt" } else { "notatime" };
                    out.replace_range(t * 2..t * 2 + 8, mark);
                    i += each;
                }
                at += len;
            }
            _ => match b.get(at + 1) {
                Some(n) if *n >= 2 => at += usize::from(*n),
                _ => break,
            },
        }
    }
    out
}

fn say_message(label: &str, m: &Message) {
    say(label, format!("{} {}", m.r, quoted(&m.data)));
    for (level, kind, b) in &m.control {
        say(&format!("{label} control"), format!("{level}/{kind} {}", without_times(b)));
    }
}

fn try_all(list: &[(&str, Vec<u8>)]) {
    for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM] {
        let s = socket(false, kind);
        for (label, v) in list {
            let r = set(s, IP, libc::IP_OPTIONS, v);
            say(&format!("{kind} {label}"), format!("{r} -> {}", get(s, IP, libc::IP_OPTIONS)));
        }
    }
}

fn good() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("none", vec![]),
        ("record route 3", record_route(3)),
        ("record route 9", record_route(9)),
        ("one byte", vec![1]),
        ("padding after the end", vec![1, 0, 7, 7]),
        ("times", timestamp(0, 16)),
        ("times and addresses", timestamp(1, 32)),
        ("times of named hosts", {
            let mut v = timestamp(3, 16);
            v[4..8].copy_from_slice(&[127, 0, 0, 1]);
            v
        }),
        ("record route with a full pointer", vec![7, 7, 8, 1, 2, 3, 4]),
        ("loose route", vec![131, 7, 4, 127, 0, 0, 1]),
        ("loose route of two", vec![131, 11, 4, 127, 0, 0, 1, 127, 0, 0, 2]),
        ("strict route", vec![137, 7, 4, 127, 0, 0, 1]),
        ("router alert", vec![148, 4, 0, 0]),
        ("two kinds", [record_route(1), vec![148, 4, 0, 0]].concat()),
        ("nothing again", vec![]),
    ]
}

fn set_and_get() {
    try_all(&good());
}

fn set_and_get_as_root() {
    try_all(&[
        ("stream id", vec![136, 4, 0, 1]),
        ("unknown", vec![30, 4, 1, 2]),
        ("basic security", vec![130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ]);
}

fn bad() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("41 bytes", vec![1; 41]),
        ("length zero", vec![7, 0, 4, 0]),
        ("length one", vec![7, 1, 4, 0]),
        ("longer than all", vec![7, 9, 4, 0]),
        ("no length", vec![1, 1, 1, 7]),
        ("record route of two bytes", vec![7, 2, 1, 1]),
        ("record route with pointer 3", vec![7, 7, 3, 0, 0, 0, 0]),
        ("record route with odd room", vec![7, 6, 4, 0, 0, 0]),
        ("record route twice", [record_route(1), record_route(1)].concat()),
        ("times of three bytes", vec![68, 3, 5, 1]),
        ("times with pointer 4", vec![68, 8, 4, 0, 0, 0, 0, 0]),
        ("addresses without room", vec![68, 8, 5, 1, 0, 0, 0, 0]),
        ("times of kind 2", timestamp(2, 8)),
        ("times twice", [timestamp(0, 4), timestamp(0, 4)].concat()),
        ("times full and overflown", vec![68, 8, 9, 0xf0, 0, 0, 0, 0]),
        ("route without a host", vec![131, 3, 4, 1]),
        ("route with pointer 8", vec![131, 11, 8, 127, 0, 0, 1, 127, 0, 0, 2]),
        ("route of odd length", vec![131, 8, 4, 127, 0, 0, 1, 1]),
        ("two routes", vec![131, 7, 4, 127, 0, 0, 1, 137, 7, 4, 127, 0, 0, 1]),
        ("router alert of two bytes", vec![148, 2]),
        ("stream id", vec![136, 4, 0, 1]),
        ("unknown", vec![30, 4, 1, 2]),
    ]
}

fn refused() {
    try_all(&bad());
}

fn refused_as_root() {
    try_all(&bad());
}

fn received() {
    let (r, port) = bound(false);
    for name in [RECVOPTS, RETOPTS] {
        say(&format!("{name} default"), get(r, IP, name));
        say(&format!("{name} on"), format!("{} {}", on(r, IP, name), get(r, IP, name)));
    }
    let s = socket(false, libc::SOCK_DGRAM);
    for (label, v) in good() {
        if label.contains("route of") || label.contains("loose") || label.contains("strict") {
            continue;
        }
        say(label, set(s, IP, libc::IP_OPTIONS, &v));
        say(&format!("{label} sent"), send(s, false, port, None));
        say_message(label, &receive(r, 0));
    }
    say("recvopts off", set(r, IP, RECVOPTS, &0i32.to_ne_bytes()));
    set(s, IP, libc::IP_OPTIONS, &record_route(2));
    send(s, false, port, None);
    say_message("returned only", &receive(r, 0));
    // Options leave less room for data in a packet that may not be cut.
    set(s, IP, libc::IP_MTU_DISCOVER, &2i32.to_ne_bytes());
    let b = vec![0u8; 65_507];
    let (a, n) = addr(false, port, false);
    say("largest", c!(libc::sendto(s, b.as_ptr().cast(), b.len(), 0, (&raw const a).cast(), n)));
    let less = b.len() - 12;
    say("less", c!(libc::sendto(s, b.as_ptr().cast(), less, 0, (&raw const a).cast(), n)));
}

fn received_flags() {
    let (r, port) = bound(false);
    let names = [
        (libc::IP_RECVTTL, "ttl"),
        (libc::IP_RECVTOS, "tos"),
        (libc::IP_PKTINFO, "pktinfo"),
        (libc::IP_RECVORIGDSTADDR, "origdst"),
        (23, "checksum"),
    ];
    let s = socket(false, libc::SOCK_DGRAM);
    set(s, IP, libc::IP_TTL, &7i32.to_ne_bytes());
    set(s, IP, libc::IP_TOS, &0x48i32.to_ne_bytes());
    for (name, label) in names {
        say(&format!("{label} byte"), format!("{} {}", set(r, IP, name, &[1]), get(r, IP, name)));
        send(s, false, port, None);
        let m = receive(r, 0);
        for (level, kind, b) in &m.control {
            // Addresses, ports and sums differ from run to run; their lengths do not.
            let shown = if b.len() > 4 || *kind == 23 { b.len().to_string() } else { hex(b) };
            say(&format!("{label} control"), format!("{level}/{kind} {shown}"));
        }
        say(&format!("{label} nothing"), format!("{} {}", set(r, IP, name, &[]), get(r, IP, name)));
    }
    let t = socket(false, libc::SOCK_STREAM);
    for (name, label) in names {
        say(&format!("stream {label}"), format!("{} {}", on(t, IP, name), get(t, IP, name)));
    }
}

fn sent_with_one_message() {
    let (r, port) = bound(false);
    on(r, IP, RECVOPTS);
    on(r, IP, libc::IP_RECVTTL);
    on(r, IP, libc::IP_RECVTOS);
    let s = socket(false, libc::SOCK_DGRAM);
    let rr = record_route(2);
    let bad = [7u8, 0, 0, 0];
    let int = |n: i32| n.to_ne_bytes();
    let (ttl, zero, large, tos) = (int(9), int(0), int(256), int(0x20));
    let tries: [(&str, i32, i32, &[u8]); 12] = [
        ("retopts", IP, RETOPTS, &rr),
        ("bad retopts", IP, RETOPTS, &bad),
        ("recvopts", IP, RECVOPTS, &rr),
        ("options", IP, libc::IP_OPTIONS, &rr),
        ("ttl", IP, libc::IP_TTL, &ttl),
        ("ttl 0", IP, libc::IP_TTL, &zero),
        ("ttl 256", IP, libc::IP_TTL, &large),
        ("ttl of a byte", IP, libc::IP_TTL, &ttl[..1]),
        ("tos", IP, libc::IP_TOS, &tos),
        ("tos of a byte", IP, libc::IP_TOS, &tos[..1]),
        ("tos 256", IP, libc::IP_TOS, &large),
        ("tos of two bytes", IP, libc::IP_TOS, &tos[..2]),
    ];
    for (label, level, kind, b) in tries {
        let sent = send(s, false, port, Some((level, kind, b)));
        say(label, sent);
        if sent.is_ok() {
            say_message(label, &receive(r, 0));
        }
    }
    say("kept", get(s, IP, libc::IP_OPTIONS));
}

fn of_streams() {
    let l = socket(false, libc::SOCK_STREAM);
    let (a, n) = addr(false, 0, false);
    assert!(c!(libc::bind(l, (&raw const a).cast(), n)).is_ok());
    assert!(c!(libc::listen(l, 5)).is_ok());
    let mut b: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut n = 128u32;
    c!(libc::getsockname(l, (&raw mut b).cast(), &mut n));
    for (label, v) in
        [("none", vec![]), ("record route", record_route(3)), ("times", timestamp(0, 16))]
    {
        let s = socket(false, libc::SOCK_STREAM);
        say(label, set(s, IP, libc::IP_OPTIONS, &v));
        say(&format!("{label} connect"), c!(libc::connect(s, (&raw const b).cast(), 16)));
        let t = c!(libc::accept(l, std::ptr::null_mut(), std::ptr::null_mut())).fd();
        let mut b = [0u8; 40];
        let mut n = 40u32;
        let r = c!(libc::getsockopt(t, IP, libc::IP_OPTIONS, b.as_mut_ptr().cast(), &mut n));
        say(
            &format!("{label} of the accepted"),
            format!("{r} {}", without_times(&b[..n as usize])),
        );
        say(&format!("{label} write"), write(s, b"through"));
        say(&format!("{label} read"), read_text(t, 100));
        say(&format!("{label} answer"), write(t, b"and back"));
        say(&format!("{label} reads"), read_text(s, 100));
        say(&format!("{label} changed"), set(s, IP, libc::IP_OPTIONS, &record_route(1)));
        say(&format!("{label} write again"), write(s, b"again"));
        say(&format!("{label} read again"), read_text(t, 100));
        close(s);
        close(t);
    }
}

/// What an echo of this host does with options.
fn echoed() {
    let s = c!(libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 1)).fd();
    // Replies only.
    say("filter", set(s, libc::SOL_RAW, 1, &(!1u32).to_ne_bytes()));
    on(s, IP, RETOPTS);
    for (label, v) in [
        ("none", vec![]),
        ("record route", record_route(9)),
        ("record route of one", record_route(1)),
        ("record route of two", record_route(2)),
        ("times", timestamp(0, 36)),
        ("times of one", timestamp(0, 4)),
        ("times and addresses", timestamp(1, 32)),
        ("times of named hosts", {
            let mut v = timestamp(3, 32);
            for (i, host) in
                [[127, 0, 0, 1], [192, 0, 2, 1], [127, 0, 0, 1], [127, 0, 0, 1]].iter().enumerate()
            {
                v[4 + i * 8..8 + i * 8].copy_from_slice(host);
            }
            v
        }),
        ("router alert", vec![148, 4, 0, 0]),
    ] {
        say(label, set(s, IP, libc::IP_OPTIONS, &v));
        let mut echo = [8u8, 0, 0, 0, 0x12, 0x34, 0, 1, b'd', b'a'];
        let mut sum: u32 =
            echo.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        echo[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        let (a, n) = addr(false, 0, false);
        say(
            &format!("{label} sent"),
            c!(libc::sendto(s, echo.as_ptr().cast(), 10, 0, (&raw const a).cast(), n)),
        );
        let m = receive(s, 0);
        if !m.r.is_ok() {
            say(&format!("{label} reply"), m.r);
            continue;
        }
        let header = usize::from(m.data[0] & 15) * 4;
        let options = &m.data[20.min(header)..header];
        say(&format!("{label} reply"), format!("{} {}", header, without_times(options)));
        let mut sum: u32 =
            m.data[..header].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        // What a host records for itself leaves the checksum as it came.
        say(&format!("{label} summed"), options.is_empty() && sum != 0xffff);
        for (level, kind, b) in &m.control {
            say(&format!("{label} control"), format!("{level}/{kind} {}", without_times(b)));
        }
    }
}

/// Six bytes of padding in a header of options.
const PAD: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
/// An option that hosts which do not know it skip.
const SKIPPED: [u8; 8] = [0, 0, 0x1e, 4, 1, 2, 3, 4];

fn header_tries(s: i32) {
    for (name, label) in [
        (HOPOPTS, "hop-by-hop"),
        (DSTOPTS, "destination"),
        (RTHDRDSTOPTS, "first destination"),
        (RTHDR, "routing"),
    ] {
        say(&format!("{label} default"), get(s, IPV6, name));
        let mut long = [0u8; 16];
        long[1] = 1;
        long[2..4].copy_from_slice(&[0x1e, 12]);
        let mut route = [0u8; 24];
        (route[1], route[3]) = (2, 1);
        let tries: [(&str, &[u8]); 8] = [
            ("pad", &PAD),
            ("skipped option", &SKIPPED),
            ("sixteen", &long),
            ("cut short", &long[..8]),
            ("seven bytes", &PAD[..7]),
            ("longer than it says", &[0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0]),
            ("route of type 0", &route),
            ("removed", &[]),
        ];
        for (what, v) in tries {
            say(
                &format!("{label} {what}"),
                format!("{} -> {}", set(s, IPV6, name, v), get(s, IPV6, name)),
            );
        }
    }
}

fn extension_headers() {
    let (r, _) = bound(true);
    for (name, label) in [
        (49, "recv pktinfo"),
        (51, "recv hoplimit"),
        (53, "recv hopopts"),
        (56, "recv rthdr"),
        (58, "recv dstopts"),
        (66, "recv tclass"),
    ] {
        say(label, format!("{} {} {}", get(r, IPV6, name), on(r, IPV6, name), get(r, IPV6, name)));
        say(&format!("{label} short"), set(r, IPV6, name, &[1]));
    }
    header_tries(r);
}

fn extension_headers_as_root() {
    let (r, port) = bound(true);
    for name in [53, 56, 58] {
        on(r, IPV6, name);
    }
    let s = socket(true, libc::SOCK_DGRAM);
    header_tries(s);
    for (label, list) in [
        ("hop-by-hop", vec![(HOPOPTS, PAD)]),
        ("destination", vec![(DSTOPTS, SKIPPED)]),
        ("both", vec![(HOPOPTS, SKIPPED), (DSTOPTS, PAD)]),
        ("for a route that is not there", vec![(RTHDRDSTOPTS, PAD)]),
    ] {
        for (name, v) in &list {
            say(label, set(s, IPV6, *name, v));
        }
        say(&format!("{label} sent"), send(s, true, port, None));
        say_message(label, &receive(r, 0));
        for (name, _) in &list {
            set(s, IPV6, *name, &[]);
        }
    }
    // An option that no host may skip: an ICMPv6 error comes back.
    on(s, IPV6, libc::IPV6_RECVERR);
    let mut refused = SKIPPED;
    refused[2] = 0x9e;
    say("refused", set(s, IPV6, DSTOPTS, &refused));
    say("refused sent", send(s, true, port, None));
    let mut p = libc::pollfd { fd: s, events: 0, revents: 0 };
    c!(libc::poll(&mut p, 1, 10_000));
    say("refused tells", c!(libc::recv(s, [0u8; 8].as_mut_ptr().cast(), 8, libc::MSG_DONTWAIT)));
}

fn extension_header_of_one_message() {
    let (r, port) = bound(true);
    for name in [53, 56, 58] {
        on(r, IPV6, name);
    }
    let s = socket(true, libc::SOCK_DGRAM);
    let long = [0u8, 1, 0x1e, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut route = [0u8; 24];
    (route[1], route[3]) = (2, 1);
    let tries: [(&str, i32, &[u8]); 9] = [
        ("hop-by-hop", HOPOPTS, &PAD),
        ("destination", DSTOPTS, &SKIPPED),
        ("first destination", RTHDRDSTOPTS, &PAD),
        ("sixteen", HOPOPTS, &long),
        ("cut short", HOPOPTS, &long[..8]),
        ("one byte", HOPOPTS, &PAD[..1]),
        ("longer than it says", DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0, 9, 9]),
        ("routing", RTHDR, &route),
        ("what receivers say", 53, &PAD),
    ];
    for (label, kind, b) in tries {
        let sent = send(s, true, port, Some((IPV6, kind, b)));
        say(label, sent);
        if sent.is_ok() {
            say_message(label, &receive(r, 0));
        }
    }
    // A header of one message stands beside those of the socket.
    set(s, IPV6, DSTOPTS, &SKIPPED);
    say("beside", send(s, true, port, Some((IPV6, HOPOPTS, &PAD))));
    say_message("beside", &receive(r, 0));
    say("kept", get(s, IPV6, HOPOPTS));
}
