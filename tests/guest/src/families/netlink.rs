//! AF_NETLINK: the generic controller, what rtnetlink answers, errors.

use crate::sys::*;
use crate::{c, cases};

cases! {
    sockets, controller, loopback_link, bad_requests,
}

fn socket(protocol: i32) -> R {
    c!(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol))
}

/// One message: header, body, padding.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut m = vec![0; 16];
    m[0..4].copy_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    m[4..6].copy_from_slice(&kind.to_ne_bytes());
    m[6..8].copy_from_slice(&flags.to_ne_bytes());
    m[8..12].copy_from_slice(&77u32.to_ne_bytes());
    m.extend_from_slice(body);
    m.resize(m.len().next_multiple_of(4), 0);
    m
}

fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut a = (4 + data.len() as u16).to_ne_bytes().to_vec();
    a.extend_from_slice(&kind.to_ne_bytes());
    a.extend_from_slice(data);
    a.resize(a.len().next_multiple_of(4), 0);
    a
}

/// Kind, flags, sequence number and body of a message.
type Message = (u16, u16, u32, Vec<u8>);

/// The messages of the one datagram that answers.
fn ask(fd: i32, request: &[u8]) -> Result<Vec<Message>, R> {
    let sent = c!(libc::send(fd, request.as_ptr().cast(), request.len(), 0));
    if !sent.is_ok() {
        return Err(sent);
    }
    let mut buf = vec![0u8; 65536];
    let n = c!(libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT));
    if !n.is_ok() {
        return Err(n);
    }
    let mut b = &buf[..n.0 as usize];
    let mut all = Vec::new();
    while b.len() >= 16 {
        let word = |i: usize| u32::from_ne_bytes(b[i..i + 4].try_into().unwrap());
        let half = |i: usize| u16::from_ne_bytes(b[i..i + 2].try_into().unwrap());
        let len = word(0) as usize;
        all.push((half(4), half(6), word(8), b[16..len].to_vec()));
        b = &b[len.next_multiple_of(4).min(b.len())..];
    }
    Ok(all)
}

fn attributes(mut b: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut v = Vec::new();
    while b.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([b[0], b[1]]));
        v.push((u16::from_ne_bytes([b[2], b[3]]) & 0x3fff, b[4..len].to_vec()));
        b = &b[len.next_multiple_of(4).min(b.len())..];
    }
    v
}

/// The errno of an answer that is an error, or what came instead.
fn error_of(answer: Result<Vec<Message>, R>) -> String {
    match answer {
        Err(r) => r.to_string(),
        Ok(v) => match v.as_slice() {
            [(2, _, 77, body)] => {
                R(i32::from_ne_bytes(body[..4].try_into().unwrap()).into()).to_string()
            }
            other => format!("{:?}", other.iter().map(|m| m.0).collect::<Vec<_>>()),
        },
    }
}

fn sockets() {
    for p in [libc::NETLINK_ROUTE, libc::NETLINK_KOBJECT_UEVENT, libc::NETLINK_GENERIC] {
        say(&format!("protocol {p}"), socket(p).ok());
    }
    say("protocol 31", socket(31));
    say("protocol 32", socket(32));
    say("protocol -1", socket(-1));
    say("stream", c!(libc::socket(libc::AF_NETLINK, libc::SOCK_STREAM, 0)));
}

fn controller() {
    let fd = socket(libc::NETLINK_GENERIC).fd();
    let get = |attrs: &[u8]| {
        let mut body = vec![3, 1, 0, 0];
        body.extend_from_slice(attrs);
        ask(fd, &message(0x10, 1, &body))
    };
    for (what, attrs) in [
        ("by name", attribute(2, b"nlctrl\0")),
        ("by number", attribute(1, &0x10u16.to_ne_bytes())),
    ] {
        let v = get(&attrs).unwrap();
        let (kind, flags, seq, body) = &v[0];
        say(
            what,
            format!(
                "{} message, kind {kind:#x} flags {flags:#x} seq {seq} command {}",
                v.len(),
                body[0]
            ),
        );
        for (k, d) in attributes(&body[4..]) {
            match k {
                1 => say("  id", format!("{d:?}")),
                2 => say("  name", String::from_utf8_lossy(&d).escape_debug()),
                4 => say("  header", format!("{d:?}")),
                7 => {
                    let group = attributes(&attributes(&d)[0].1);
                    say(
                        "  group",
                        format!(
                            "{:?}",
                            group
                                .iter()
                                .map(|g| String::from_utf8_lossy(&g.1).into_owned())
                                .collect::<Vec<_>>()
                        ),
                    );
                }
                _ => {}
            }
        }
    }
    say("unknown name", error_of(get(&attribute(2, b"no_such_family\0"))));
    say("unknown number", error_of(get(&attribute(1, &0x7777u16.to_ne_bytes()))));
    say("neither", error_of(get(&[])));
    say("unknown command", error_of(ask(fd, &message(0x10, 1, &[99, 1, 0, 0]))));
    say("unknown family", error_of(ask(fd, &message(0x7000, 5, &[1, 1, 0, 0]))));
    say("too short", error_of(ask(fd, &message(0x10, 1, &[]))));
}

fn loopback_link() {
    let fd = socket(libc::NETLINK_ROUTE).fd();
    let mut body = vec![0u8; 16];
    body.extend_from_slice(&attribute(3, b"lo\0"));
    let v = ask(fd, &message(18, 1, &body)).unwrap();
    let (kind, flags, seq, body) = &v[0];
    say("answer", format!("{} message, kind {kind} flags {flags:#x} seq {seq}", v.len()));
    say("type", u16::from_ne_bytes([body[2], body[3]]));
    say("index", i32::from_ne_bytes(body[4..8].try_into().unwrap()));
    say("loopback flag", body[8] & 8 != 0);
    for (k, d) in attributes(&body[16..]) {
        match k {
            3 => say("name", String::from_utf8_lossy(&d).escape_debug()),
            1 => say("address", format!("{d:?}")),
            4 => say("mtu", u32::from_ne_bytes(d[..4].try_into().unwrap())),
            _ => {}
        }
    }
}

fn bad_requests() {
    let fd = socket(libc::NETLINK_ROUTE).fd();
    let mut body = vec![0u8; 16];
    body.extend_from_slice(&attribute(3, b"no-such-link\0"));
    say("no such link", error_of(ask(fd, &message(18, 1, &body))));
    say("no such kind", error_of(ask(fd, &message(250, 1, &[0; 16]))));
    // Without NLM_F_REQUEST, and kinds below 16, nothing answers; an acknowledgement does.
    say("not a request", error_of(ask(fd, &message(18, 0, &[0; 16]))));
    say("a done message", error_of(ask(fd, &message(3, 1, &[0; 16]))));
    say("acknowledged", error_of(ask(fd, &message(3, 5, &[0; 16]))));
}
