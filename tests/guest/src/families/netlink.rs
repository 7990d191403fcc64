//! AF_NETLINK: the generic controller, what rtnetlink answers, errors.

use super::inet;
use crate::sys::*;
use crate::{c, cases};

cases! {
    sockets, controller, loopback_link, bad_requests, ended_sockets: root, ended_by_a_user, further_names_root: root, sysfs_loopback, owner_of_a_unix_socket,
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

/// `struct inet_diag_req_v2` of an IPv4 socket on the loopback.
fn diag(protocol: u8, local: u16, remote: u16, cookie: u32) -> Vec<u8> {
    let mut b = vec![libc::AF_INET as u8, protocol, 0, 0];
    b.extend_from_slice(&u32::MAX.to_ne_bytes());
    b.extend_from_slice(&local.to_be_bytes());
    b.extend_from_slice(&remote.to_be_bytes());
    let host = if remote == 0 && protocol == 6 { [0; 4] } else { [127, 0, 0, 1] };
    for a in [[127, 0, 0, 1], host] {
        b.extend_from_slice(&a);
        b.extend_from_slice(&[0; 12]);
    }
    b.extend_from_slice(&[0; 4]);
    b.extend_from_slice(&cookie.to_ne_bytes());
    b.extend_from_slice(&cookie.to_ne_bytes());
    b
}

const DESTROY: u16 = 21;
const ANY: u32 = u32::MAX;

fn port_of(fd: i32) -> u16 {
    let mut b: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    let mut n = 16u32;
    c!(libc::getsockname(fd, (&raw mut b).cast(), &mut n));
    u16::from_be(b.sin_port)
}

fn state_of(fd: i32) -> String {
    let mut p =
        libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP, revents: 0 };
    c!(libc::poll(&mut p, 1, 0));
    let mut b = [0u8; 8];
    let first = c!(libc::recv(fd, b.as_mut_ptr().cast(), 8, libc::MSG_DONTWAIT));
    let second = c!(libc::recv(fd, b.as_mut_ptr().cast(), 8, libc::MSG_DONTWAIT));
    format!("{:#x} {first} {second}", p.revents)
}

fn bound(kind: i32) -> i32 {
    let s = inet::socket(false, kind);
    let (a, n) = inet::addr(false, 0, false);
    assert!(c!(libc::bind(s, (&raw const a).cast(), n)).is_ok());
    s
}

fn connect(s: i32, port: u16) -> R {
    let (a, n) = inet::addr(false, port, false);
    c!(libc::connect(s, (&raw const a).cast(), n))
}

fn ended_sockets() {
    let fd = socket(libc::NETLINK_SOCK_DIAG).fd();
    let end = |protocol, local, remote, cookie| {
        error_of(ask(fd, &message(DESTROY, 5, &diag(protocol, local, remote, cookie))))
    };
    let l = bound(libc::SOCK_STREAM);
    c!(libc::listen(l, 5));
    let s = bound(libc::SOCK_STREAM);
    say("connect", connect(s, port_of(l)));
    let t = c!(libc::accept(l, std::ptr::null_mut(), std::ptr::null_mut())).fd();
    say("another cookie", end(6, port_of(s), port_of(l), 5));
    say("connection", end(6, port_of(s), port_of(l), ANY));
    say("its end", state_of(s));
    say("the other end", state_of(t));
    say("write", c!(libc::send(s, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL)));
    say("again", end(6, 1, 1, ANY));
    say("listener", end(6, port_of(l), 0, ANY));
    say("accept", c!(libc::accept(l, std::ptr::null_mut(), std::ptr::null_mut())));
    let (u, v) = (bound(libc::SOCK_DGRAM), bound(libc::SOCK_DGRAM));
    say("connect datagrams", connect(u, port_of(v)));
    say("datagrams", end(17, port_of(u), port_of(v), ANY));
    say("their end", state_of(u));
    say(
        "peer",
        c!(libc::getpeername(u, std::ptr::dangling_mut(), std::ptr::dangling_mut()))
            .is(libc::ENOTCONN),
    );
    say("no such family", error_of(ask(fd, &message(DESTROY, 5, &[99; 56]))));
    say("no such protocol", end(200, 1, 1, ANY));
    say("short", error_of(ask(fd, &message(DESTROY, 5, &[2, 6, 0, 0]))));
}

fn ended_by_a_user() {
    let fd = socket(libc::NETLINK_SOCK_DIAG).fd();
    say("refused", error_of(ask(fd, &message(DESTROY, 5, &diag(6, 1, 1, ANY)))));
}

/// RTM_NEWLINKPROP and RTM_DELLINKPROP: names that an interface is also found by.
fn further_names_root() {
    c!(libc::unshare(libc::CLONE_NEWNET));
    let fd = socket(libc::NETLINK_ROUTE).fd();
    const ACK: u16 = 5;
    let change = |kind: u16, index: i32, names: &[&str]| {
        let mut body = vec![0u8; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let text = |n: &&str| attribute(53, format!("{n}\0").as_bytes());
        body.extend(attribute(0x8000 | 52, &names.iter().flat_map(text).collect::<Vec<u8>>()));
        let how = if kind == 108 { 0xe00 } else { 0 };
        error_of(ask(fd, &message(kind, ACK | how, &body)))
    };
    say("add", change(108, 1, &["local-and-only", "second"]));
    say("taken", change(108, 1, &["second"]));
    say("its own name", change(108, 1, &["lo"]));
    say("any text", change(108, 1, &["a/b"]));
    say("none", change(108, 1, &[""]));
    say("longest", change(108, 1, &["n".repeat(127).as_str()]));
    say("too long", change(108, 1, &["n".repeat(128).as_str()]));
    say("nobody's", change(108, 77, &["x"]));
    let index = |name: &str| {
        let n = std::ffi::CString::new(name).unwrap();
        unsafe { libc::if_nametoindex(n.as_ptr()) }
    };
    say("found", format!("{} {}", index("local-and-only"), index("absent")));
    let mut body = vec![0u8; 16];
    body[4] = 1;
    let all = ask(fd, &message(18, 1, &body)).unwrap_or_default();
    let listed = all.iter().flat_map(|m| attributes(&m.3[16..])).find(|(k, _)| k & 0x3fff == 52);
    let names = listed.map(|(_, list)| attributes(&list)).unwrap_or_default();
    say("listed", names.iter().map(|(k, n)| format!("{k} {} ", n.len())).collect::<String>());
    say("remove", change(109, 1, &["second"]));
    say("again", change(109, 1, &["second"]));
    say("the first name", change(109, 1, &["lo"]));
    say("not found", index("second"));
}

/// /sys/class/net/lo.
fn sysfs_loopback() {
    let lo = "/sys/class/net/lo";
    let link = std::fs::read_link(lo).unwrap();
    say("link", link.display());
    for f in [
        "address",
        "addr_len",
        "broadcast",
        "dev_id",
        "dev_port",
        "flags",
        "ifindex",
        "iflink",
        "link_mode",
        "mtu",
        "netdev_group",
        "operstate",
        "carrier",
        "type",
        "ifalias",
        "tx_queue_len",
        "uevent",
    ] {
        say(
            f,
            std::fs::read_to_string(format!("{lo}/{f}"))
                .map_or("none".into(), |t| quoted(t.as_bytes())),
        );
    }
    let mut names: Vec<_> = std::fs::read_dir(format!("{lo}/statistics"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    say("statistics", names.join(" "));
    let subsystem = std::fs::read_link(format!("{lo}/subsystem")).unwrap();
    say("subsystem", subsystem.display());
}

/// UNIX_DIAG_UID: who made a socket of AF_UNIX.
fn owner_of_a_unix_socket() {
    let s = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    say("fstat", c!(libc::fstat(s, &mut st)));
    let mut req = vec![libc::AF_UNIX as u8, 0, 0, 0];
    // All states, the socket's inode, UDIAG_SHOW_UID, no cookie.
    for w in [u32::MAX, st.st_ino as u32, 0x40, u32::MAX, u32::MAX] {
        req.extend_from_slice(&w.to_ne_bytes());
    }
    let fd = socket(libc::NETLINK_SOCK_DIAG).fd();
    match ask(fd, &message(20, 1, &req)) {
        Ok(answer) => {
            // After `struct unix_diag_msg`.
            let body = answer.first().and_then(|m| m.3.get(16..)).unwrap_or_default();
            let own = unsafe { libc::geteuid() }.to_ne_bytes();
            say("uid", attributes(body).iter().any(|(kind, data)| *kind == 7 && *data == own));
        }
        Err(e) => say("refused", e),
    }
}
