//! AF_UNIX sockets: stream, datagram, seqpacket, names, connecting, shutdown, readiness.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    socketpairs, stream_io, bind_listen_connect, accept_flags, abstract_names, autobind, bind_errors, connect_errors, backlog, nonblocking_connect, datagram, datagram_connected, datagram_sizes, seqpacket, shutdown, poll_states, peer_closed, fork_shares,
}

pub(super) fn pair(kind: i32) -> (i32, i32) {
    let mut s = [0; 2];
    let r = c!(libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, s.as_mut_ptr()));
    assert!(r.is_ok(), "socketpair: {r}");
    (s[0], s[1])
}

pub(super) fn socket(kind: i32) -> i32 {
    c!(libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0)).fd()
}

pub(super) const STREAM: i32 = libc::SOCK_STREAM;

pub(super) const DGRAM: i32 = libc::SOCK_DGRAM;

const SEQ: i32 = libc::SOCK_SEQPACKET;

pub(super) const NOWAIT: i32 = libc::MSG_DONTWAIT;

/// Address of a name; a leading NUL makes it abstract.
pub(super) fn addr(name: &[u8]) -> (libc::sockaddr_un, u32) {
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    for (d, s) in a.sun_path.iter_mut().zip(name) {
        *d = *s as i8;
    }
    let n = if name.first() == Some(&0) { name.len() } else { name.len() + 1 };
    (a, 2 + n as u32)
}

pub(super) fn bind(fd: i32, name: &[u8]) -> R {
    let (a, n) = addr(name);
    c!(libc::bind(fd, (&raw const a).cast(), n))
}

pub(super) fn connect(fd: i32, name: &[u8]) -> R {
    let (a, n) = addr(name);
    c!(libc::connect(fd, (&raw const a).cast(), n))
}

pub(super) fn listen(fd: i32, n: i32) -> R {
    c!(libc::listen(fd, n))
}

pub(super) fn accept(fd: i32) -> R {
    c!(libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC))
}

pub(super) fn send(fd: i32, b: &[u8], flags: i32) -> R {
    c!(libc::send(fd, b.as_ptr().cast(), b.len(), flags | libc::MSG_NOSIGNAL))
}

pub(super) fn recv(fd: i32, n: usize, flags: i32) -> String {
    let mut b = vec![0u8; n];
    let r = c!(libc::recv(fd, b.as_mut_ptr().cast(), n, flags));
    if r.is_ok() { quoted(&b[..(r.0 as usize).min(n)]) } else { r.to_string() }
}

pub(super) fn listener(kind: i32, name: &[u8]) -> i32 {
    let s = socket(kind);
    assert!(bind(s, name).is_ok());
    assert!(listen(s, 8).is_ok());
    s
}

pub(super) fn name_text(fd: i32, peer: bool) -> String {
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut n = std::mem::size_of::<libc::sockaddr_un>() as u32;
    let p = (&raw mut a).cast();
    let r = if peer {
        c!(libc::getpeername(fd, p, &mut n))
    } else {
        c!(libc::getsockname(fd, p, &mut n))
    };
    if !r.is_ok() {
        return r.to_string();
    }
    let path: Vec<u8> = a.sun_path[..(n as usize - 2).min(108)].iter().map(|c| *c as u8).collect();
    format!("{n} {}", quoted(&path))
}

fn socketpairs() {
    for (k, n) in [(STREAM, "stream"), (DGRAM, "dgram"), (SEQ, "seqpacket")] {
        let (a, b) = pair(k);
        send(a, b"to b", 0);
        send(b, b"to a", 0);
        say(n, format!("{} {}", recv(a, 10, 0), recv(b, 10, 0)));
        let mut t = 0i32;
        let mut l = 4u32;
        unsafe {
            libc::getsockopt(a, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut t).cast(), &mut l)
        };
        say("  type", t == k);
        say("  name", name_text(a, false));
    }
    let mut s = [0; 2];
    say("bad type", c!(libc::socketpair(libc::AF_UNIX, 99, 0, s.as_mut_ptr())));
    say("bad protocol", c!(libc::socketpair(libc::AF_UNIX, STREAM, 5, s.as_mut_ptr())));
    say("protocol PF_UNIX", c!(libc::socketpair(libc::AF_UNIX, STREAM, 1, s.as_mut_ptr())));
    say(
        "raw becomes dgram",
        c!(libc::socketpair(libc::AF_UNIX, libc::SOCK_RAW, 0, s.as_mut_ptr())),
    );
    say("bad family", c!(libc::socketpair(77, STREAM, 0, s.as_mut_ptr())));
    say("bad pointer", sc!(libc::SYS_socketpair, libc::AF_UNIX, STREAM, 0, 8));
    say("nonblock flag", {
        c!(libc::socketpair(libc::AF_UNIX, STREAM | libc::SOCK_NONBLOCK, 0, s.as_mut_ptr()));
        read_text(s[0], 1)
    });
}

fn stream_io() {
    let (a, b) = pair(STREAM);
    send(a, b"one", 0);
    send(a, b"two", 0);
    say("writes run together", recv(b, 10, 0));
    send(a, b"abcdef", 0);
    say("parts", format!("{} {}", recv(b, 2, 0), recv(b, 10, 0)));
    say("empty write", send(a, b"", 0));
    say("nothing", recv(b, 1, NOWAIT));
    // A long transfer in both directions at once.
    let pid = child(|| {
        let d: Vec<u8> = (0..2_000_000u32).map(|i| (i % 241) as u8).collect();
        let mut n = 0;
        while n < d.len() {
            n += write(b, &d[n..]).0 as usize;
        }
        0
    });
    close(b);
    let (mut n, mut ok) = (0usize, true);
    loop {
        let d = read(a, 50_000).unwrap();
        if d.is_empty() {
            break;
        }
        ok &= d.iter().enumerate().all(|(i, v)| *v == ((n + i) % 241) as u8);
        n += d.len();
    }
    say("2 MB in order", format!("{n} {ok} {}", reap(pid)));
    let (a, b) = pair(STREAM);
    unsafe { libc::fcntl(a, libc::F_SETFL, libc::O_NONBLOCK) };
    let mut sent = 0;
    let last = loop {
        let r = write(a, &[0; 4096]);
        if !r.is_ok() {
            break r;
        }
        sent += r.0;
    };
    say("full", format!("{last}, over 64 KiB {}", sent >= 65536));
    say("write when full", write(a, b"x"));
    let _ = read(b, 1 << 20);
    say("room again", write(a, b"x"));
}

fn bind_listen_connect() {
    let s = socket(STREAM);
    say("bind", bind(s, b"sock"));
    say("listen", listen(s, 5));
    let c1 = socket(STREAM);
    say("connect before accept", connect(c1, b"sock"));
    send(c1, b"early", 0);
    let a = accept(s);
    say("accept", a.ok());
    say("data sent before accept", recv(a.fd(), 10, 0));
    send(a.fd(), b"reply", 0);
    say("reply", recv(c1, 10, 0));
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let m = std::fs::metadata("sock").unwrap();
    say("is a socket", format!("{} {:o}", m.file_type().is_socket(), m.mode() & 0o777));
    say("open of it", open("sock", libc::O_RDWR));
    let pid = child(|| {
        let c2 = socket(STREAM);
        connect(c2, b"sock");
        send(c2, b"from child", 0);
        0
    });
    let a2 = accept(s).fd();
    say("blocking accept", recv(a2, 20, 0));
    reap(pid);
    say("then end", recv(a2, 20, 0));
    std::fs::remove_file("sock").unwrap();
    say("connect after unlink", connect(socket(STREAM), b"sock"));
    say("accepted connection lives", send(c1, b"x", 0));
    say("listener without name", accept4_nonblock(s));
}

fn accept4_nonblock(s: i32) -> R {
    unsafe { libc::fcntl(s, libc::F_SETFL, libc::O_NONBLOCK) };
    accept(s)
}

fn accept_flags() {
    let s = listener(STREAM, b"l");
    for (n, f) in [
        ("none", 0),
        ("CLOEXEC", libc::SOCK_CLOEXEC),
        ("NONBLOCK", libc::SOCK_NONBLOCK),
        ("bad", 1),
    ] {
        connect(socket(STREAM), b"l");
        let r = c!(libc::accept4(s, std::ptr::null_mut(), std::ptr::null_mut(), f));
        if r.is_ok() {
            let fd = r.fd();
            say(
                n,
                format!("fd {} fl {:o}", c!(libc::fcntl(fd, 1)), c!(libc::fcntl(fd, 3)).0 & 0o4000),
            );
        } else {
            say(n, r);
        }
    }
    say("on a connected one", accept(pair(STREAM).0));
    say("on an unbound one", accept(socket(STREAM)));
    say("on a datagram one", accept(socket(DGRAM)));
    say("not a socket", accept(0));
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut l = 110u32;
    let r = c!(libc::accept(s, (&raw mut a).cast(), &mut l));
    say("address of an unnamed peer", format!("{} len {l} family {}", r.ok(), a.sun_family));
}

fn abstract_names() {
    let name = format!("\0gt-{}-test", getpid());
    let s = listener(STREAM, name.as_bytes());
    let c1 = socket(STREAM);
    say("connect", connect(c1, name.as_bytes()));
    say("accept", accept(s).ok());
    say("no file", std::fs::read_dir(".").unwrap().count());
    say("in use", bind(socket(STREAM), name.as_bytes()));
    say("another type is another name", bind(socket(DGRAM), name.as_bytes()));
    say("prefix is another name", connect(socket(STREAM), &name.as_bytes()[..name.len() - 1]));
    let zero = [name.as_bytes(), b"\0\0"].concat();
    say("trailing zeroes count", connect(socket(STREAM), &zero));
    close(s);
    say("free after close", bind(socket(STREAM), name.as_bytes()));
}

fn autobind() {
    let s = socket(DGRAM);
    let fam = libc::AF_UNIX as u16;
    say("bind of the family only", c!(libc::bind(s, (&raw const fam).cast(), 2)));
    let n = name_text(s, false);
    say(
        "name is NUL and five hex digits",
        n.starts_with("8 \"\\x00") && n.len() == "8 \"\\x0000000\"".len(),
    );
    let (a, b) = (socket(DGRAM), socket(DGRAM));
    bind(b, b"b");
    say("second bind", bind(s, b"other"));
    send(a, b"x", 0);
    say("connect does not bind without SO_PASSCRED", {
        connect(a, b"b");
        name_text(a, false)
    });
    let on = 1i32;
    let d = socket(DGRAM);
    unsafe { libc::setsockopt(d, libc::SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), 4) };
    connect(d, b"b");
    say("with it, it does", name_text(d, false).starts_with("8 "));
}

fn bind_errors() {
    put("file", b"");
    let s = socket(STREAM);
    say("existing file", bind(s, b"file"));
    say("missing directory", bind(s, b"no/s"));
    say("empty", {
        let (a, _) = addr(b"");
        c!(libc::bind(s, (&raw const a).cast(), 3))
    });
    let (mut a, n) = addr(b"x");
    a.sun_family = 2;
    say("wrong family", c!(libc::bind(s, (&raw const a).cast(), n)));
    let (a, _) = addr(b"x");
    say("length 1", c!(libc::bind(s, (&raw const a).cast(), 1)));
    say("length 200", c!(libc::bind(s, (&raw const a).cast(), 200)));
    say("bad pointer", sc!(libc::SYS_bind, s, 8, 20));
    say("108 bytes without terminator", {
        let n = vec![b'n'; 108];
        let (a, _) = addr(&n);
        c!(libc::bind(s, (&raw const a).cast(), 110))
    });
    say("bind again", bind(s, b"y"));
    say("not a socket", bind(0, b"z"));
    say("dangling link", {
        std::os::unix::fs::symlink("target", "link").unwrap();
        bind(socket(STREAM), b"link")
    });
}

fn connect_errors() {
    put("file", b"");
    let s = socket(STREAM);
    say("missing", connect(s, b"none"));
    say("plain file", connect(s, b"file"));
    let d = socket(DGRAM);
    bind(d, b"dg");
    say("wrong type", connect(s, b"dg"));
    let l = socket(STREAM);
    bind(l, b"notlistening");
    say("not listening", connect(s, b"notlistening"));
    let l2 = listener(STREAM, b"ok");
    say("connect", connect(s, b"ok"));
    say("again", connect(s, b"ok"));
    let (mut a, n) = addr(b"ok");
    a.sun_family = 2;
    say("wrong family", c!(libc::connect(socket(STREAM), (&raw const a).cast(), n)));
    close(l2);
    say("closed listener", connect(socket(STREAM), b"ok"));
    say("listen on a connected one", listen(s, 1));
    say("listen on an unbound one", listen(socket(STREAM), 1));
    say("listen on datagram", listen(d, 1));
    say("connect of a listener", {
        let l = listener(STREAM, b"ll");
        connect(l, b"ll")
    });
}

fn backlog() {
    let s = socket(STREAM);
    bind(s, b"l");
    listen(s, 1);
    let mut n = 0;
    let last = loop {
        let c1 = socket(STREAM | libc::SOCK_NONBLOCK);
        let r = connect(c1, b"l");
        if !r.is_ok() {
            break r;
        }
        n += 1;
        if n > 10 {
            break R(0);
        }
    };
    say("non-blocking connects", format!("{n}, then {last}"));
    let pid = child(|| connect(socket(STREAM), b"l").is_ok() as i32);
    await_sleep(pid);
    accept(s);
    say("a sleeping connect goes on", reap(pid));
    let pid = child(|| {
        close(s);
        connect(socket(STREAM), b"l").is(libc::ECONNREFUSED) as i32
    });
    await_sleep(pid);
    close(s);
    say("and is refused when the listener goes", reap(pid));
}

fn nonblocking_connect() {
    let s = listener(STREAM, b"l");
    let c1 = socket(STREAM | libc::SOCK_NONBLOCK);
    say("at once", connect(c1, b"l"));
    say("accept", accept4_nonblock(s).ok());
    say("no more", accept(s));
}

fn sendto(fd: i32, b: &[u8], name: &[u8]) -> R {
    let (a, n) = addr(name);
    c!(libc::sendto(
        fd,
        b.as_ptr().cast(),
        b.len(),
        libc::MSG_NOSIGNAL | NOWAIT,
        (&raw const a).cast(),
        n
    ))
}

fn datagram() {
    let (a, b) = (socket(DGRAM), socket(DGRAM));
    bind(a, b"a");
    bind(b, b"b");
    say("sendto", sendto(a, b"hello", b"b"));
    sendto(a, b"", b"b");
    sendto(a, b"third", b"b");
    let mut buf = [0u8; 10];
    let mut from: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut n = 110u32;
    let r = c!(libc::recvfrom(b, buf.as_mut_ptr().cast(), 10, 0, (&raw mut from).cast(), &mut n));
    say("recvfrom", format!("{r} len {n} from {}", quoted(&[from.sun_path[0] as u8])));
    say("empty datagram", recv(b, 10, 0));
    say("boundary and truncation", format!("{} {}", recv(b, 2, 0), recv(b, 10, NOWAIT)));
    say("missing", sendto(a, b"x", b"none"));
    say("no destination", send(a, b"x", 0));
    say("to a stream socket", {
        let _s = listener(STREAM, b"s");
        sendto(a, b"x", b"s")
    });
    close(b);
    say("closed receiver", sendto(a, b"x", b"b"));
}

fn datagram_connected() {
    let (a, b, e) = (socket(DGRAM), socket(DGRAM), socket(DGRAM));
    bind(a, b"a");
    bind(b, b"b");
    bind(e, b"e");
    say("connect", connect(a, b"b"));
    say("send", send(a, b"x", 0));
    say("peer", name_text(a, true));
    say("another may not write to a connected one", {
        connect(b, b"a");
        sendto(e, b"x", b"b")
    });
    say("sendto elsewhere while connected", sendto(a, b"y", b"e"));
    let fam = 0u16;
    say("disconnect by AF_UNSPEC", c!(libc::connect(a, (&raw const fam).cast(), 2)));
    say("peer", name_text(a, true));
    let (p, q) = pair(DGRAM);
    close(q);
    say("peer of a pair closed: send", send(p, b"x", 0));
    say("receive", recv(p, 1, NOWAIT));
}

fn datagram_sizes() {
    let (a, b) = pair(DGRAM);
    say("100 kB", send(a, &vec![7; 100_000], NOWAIT));
    say("arrives whole", {
        let mut v = vec![0u8; 200_000];
        c!(libc::recv(b, v.as_mut_ptr().cast(), v.len(), 0))
    });
    say("beyond the buffer", send(a, &vec![7; 10 << 20], NOWAIT));
    let mut n = 0;
    while send(a, b"x", NOWAIT).is_ok() {
        n += 1;
        if n > 100_000 {
            break;
        }
    }
    say("queue is bounded", n < 100_000);
    say("when full", send(a, b"x", NOWAIT));
    let _ = recv(b, 1, 0);
    say("after one is taken", send(a, b"x", NOWAIT).ok());
}

fn seqpacket() {
    let s = listener(SEQ, b"l");
    let c1 = socket(SEQ);
    say("connect", connect(c1, b"l"));
    let a = accept(s).fd();
    send(c1, b"first", 0);
    send(c1, b"second", 0);
    say("boundaries", format!("{} {}", recv(a, 100, 0), recv(a, 3, 0)));
    say("rest of a record is lost", recv(a, 10, NOWAIT));
    say("empty record", send(c1, b"", 0));
    let pid = child(|| {
        close(c1);
        0
    });
    reap(pid);
    say("received empty", recv(a, 10, NOWAIT));
    close(c1);
    say("end", recv(a, 10, 0));
    say("stream client", connect(socket(STREAM), b"l"));
    let (p, q) = pair(SEQ);
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut buf = [0u8; 2];
    let mut v = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 2 };
    m.msg_iov = &mut v;
    m.msg_iovlen = 1;
    send(p, b"long", 0);
    let r = c!(libc::recvmsg(q, &mut m, 0));
    say(
        "recvmsg",
        format!(
            "{r} truncated {} eor {}",
            m.msg_flags & libc::MSG_TRUNC != 0,
            m.msg_flags & libc::MSG_EOR != 0
        ),
    );
}

fn shutdown() {
    let sh = |fd: i32, how: i32| c!(libc::shutdown(fd, how));
    let (a, b) = pair(STREAM);
    send(a, b"before", 0);
    say("SHUT_WR", sh(a, libc::SHUT_WR));
    say("write", send(a, b"x", 0));
    say("peer reads the rest", recv(b, 10, 0));
    say("then end", recv(b, 10, 0));
    say("other way still works", send(b, b"back", 0));
    say("read", recv(a, 10, 0));
    say("SHUT_RD", sh(a, libc::SHUT_RD));
    say("peer writes", send(b, b"x", 0));
    say("read", recv(a, 10, 0));
    say("bad how", sh(a, 9));
    say("unconnected", sh(socket(STREAM), libc::SHUT_WR));
    let s = listener(STREAM, b"l");
    let pid = child(|| accept(s).is(libc::EINVAL) as i32);
    await_sleep(pid);
    say("listener", sh(s, libc::SHUT_RDWR));
    say("wakes accept", reap(pid));
    say("connect", connect(socket(STREAM), b"l"));
    let (p, q) = pair(STREAM);
    let pid = child(|| {
        let r = recv(q, 1, 0);
        (r == "\"\"") as i32
    });
    await_sleep(pid);
    sh(p, libc::SHUT_RDWR);
    say("wakes a reader", reap(pid));
}

fn poll_bits(fd: i32) -> String {
    let mut p = libc::pollfd {
        fd,
        events: libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP | libc::POLLPRI,
        revents: 0,
    };
    unsafe { libc::poll(&mut p, 1, 0) };
    let names = [(1, "IN"), (2, "PRI"), (4, "OUT"), (8, "ERR"), (16, "HUP"), (0x2000, "RDHUP")];
    let l: Vec<&str> = names.iter().filter(|(b, _)| p.revents & b != 0).map(|(_, n)| *n).collect();
    if l.is_empty() { "-".into() } else { l.join("|") }
}

fn poll_states() {
    say("unbound stream", poll_bits(socket(STREAM)));
    say("unbound datagram", poll_bits(socket(DGRAM)));
    let s = listener(STREAM, b"l");
    say("listener", poll_bits(s));
    let c1 = socket(STREAM);
    connect(c1, b"l");
    say("listener with a connection", poll_bits(s));
    say("connected, not accepted", poll_bits(c1));
    let (a, b) = pair(STREAM);
    say("pair", poll_bits(a));
    send(b, b"x", 0);
    say("data", poll_bits(a));
    c!(libc::shutdown(b, libc::SHUT_WR));
    say("peer shut writing", poll_bits(a));
    say("itself", poll_bits(b));
    c!(libc::shutdown(b, libc::SHUT_RDWR));
    say("peer shut both", poll_bits(a));
    close(b);
    say("peer closed", poll_bits(a));
    let (d, e) = pair(DGRAM);
    while send(d, &[0; 1000], NOWAIT).is_ok() {}
    say("datagram full", poll_bits(d));
    say("receiver", poll_bits(e));
    close(e);
    say("datagram peer closed", poll_bits(d));
}

fn peer_closed() {
    let (a, b) = pair(STREAM);
    send(b, b"last", 0);
    close(b);
    say("write", send(a, b"x", 0));
    say("data first", recv(a, 10, 0));
    say("then end", recv(a, 10, 0));
    let (a, b) = pair(STREAM);
    send(a, b"unread", 0);
    close(b);
    say("peer closed with unread data", recv(a, 10, 0));
    say("then", recv(a, 10, 0));
    let mut err = 0i32;
    let mut l = 4u32;
    unsafe { libc::getsockopt(a, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut err).cast(), &mut l) };
    say("SO_ERROR", err);
}

pub(super) fn set_opt(fd: i32, opt: i32, v: i32) -> R {
    c!(libc::setsockopt(fd, libc::SOL_SOCKET, opt, (&raw const v).cast(), 4))
}

fn fork_shares() {
    let (a, b) = pair(STREAM);
    let pid = child(|| {
        close(a);
        write(b, b"child");
        0
    });
    reap(pid);
    say("read", recv(a, 10, 0));
    say("child's exit does not end it", recv(a, 1, NOWAIT));
    close(b);
    say("last close does", recv(a, 1, 0));
}
