//! AF_UNIX sockets: options, message flags, vectors of messages, names of both ends, errors.

use super::unix::*;
use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    message_flags, socket_options, timeouts, names_of_ends, permissions, sendmsg_forms, mmsg, socket_errors, out_of_band, proc_net_unix,
}

fn message_flags() {
    let (a, b) = pair(STREAM);
    send(a, b"abcdef", 0);
    say("PEEK", recv(b, 3, libc::MSG_PEEK));
    say("PEEK again", recv(b, 10, libc::MSG_PEEK));
    say("then read", recv(b, 10, 0));
    say("DONTWAIT", recv(b, 1, NOWAIT));
    let pid = child(|| {
        let r = recv(b, 6, libc::MSG_WAITALL);
        (r == "\"123456\"") as i32
    });
    send(a, b"123", 0);
    await_sleep(pid);
    send(a, b"456", 0);
    say("WAITALL", reap(pid));
    let (d, e) = pair(DGRAM);
    send(d, b"0123456789", 0);
    let mut buf = [0u8; 4];
    say(
        "TRUNC gives the real length",
        c!(libc::recv(e, buf.as_mut_ptr().cast(), 4, libc::MSG_TRUNC | libc::MSG_PEEK)),
    );
    say("the datagram is still there", recv(e, 20, 0));
    say("stream and TRUNC", {
        send(a, b"xyz", 0);
        c!(libc::recv(b, buf.as_mut_ptr().cast(), 2, libc::MSG_TRUNC))
    });
    let off = 1i32;
    unsafe { libc::setsockopt(b, libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const off).cast(), 4) };
    let _ = recv(b, 10, NOWAIT);
    send(a, b"peekoff", 0);
    say("SO_PEEK_OFF", format!("{} {}", recv(b, 2, libc::MSG_PEEK), recv(b, 2, libc::MSG_PEEK)));
    say("a read", recv(b, 3, 0));
    say("moves it back", recv(b, 10, libc::MSG_PEEK));
    say("nothing behind it", recv(b, 10, libc::MSG_PEEK | NOWAIT));
    set_opt(e, libc::SO_PEEK_OFF, 4);
    send(d, b"abc", 0);
    send(d, b"defgh", 0);
    say("of datagrams", recv(e, 2, libc::MSG_PEEK));
    say("on", recv(e, 10, libc::MSG_PEEK));
    say("and the first", recv(e, 10, 0));
}

fn get_opt(fd: i32, opt: i32) -> String {
    let mut v = -1i32;
    let mut l = 4u32;
    let r = c!(libc::getsockopt(fd, libc::SOL_SOCKET, opt, (&raw mut v).cast(), &mut l));
    if r.is_ok() { v.to_string() } else { r.to_string() }
}

fn socket_options() {
    let s = socket(STREAM);
    for (n, o) in [
        ("SO_TYPE", libc::SO_TYPE),
        ("SO_DOMAIN", libc::SO_DOMAIN),
        ("SO_PROTOCOL", libc::SO_PROTOCOL),
        ("SO_ERROR", libc::SO_ERROR),
        ("SO_ACCEPTCONN", libc::SO_ACCEPTCONN),
        ("SO_PASSCRED", libc::SO_PASSCRED),
        ("SO_REUSEADDR", libc::SO_REUSEADDR),
        ("SO_KEEPALIVE", libc::SO_KEEPALIVE),
        ("SO_BROADCAST", libc::SO_BROADCAST),
        ("SO_PEEK_OFF", libc::SO_PEEK_OFF),
    ] {
        say(n, get_opt(s, o));
    }
    say("set SO_SNDBUF 10000", set_opt(s, libc::SO_SNDBUF, 10_000));
    say("doubled", get_opt(s, libc::SO_SNDBUF));
    say("set SO_RCVBUF 1: a minimum holds", {
        set_opt(s, libc::SO_RCVBUF, 1);
        get_opt(s, libc::SO_RCVBUF)
    });
    say("listening", {
        let l = listener(STREAM, b"l");
        get_opt(l, libc::SO_ACCEPTCONN)
    });
    say("set SO_TYPE", set_opt(s, libc::SO_TYPE, 1));
    say("unknown option", set_opt(s, 9999, 1));
    say("unknown level", c!(libc::setsockopt(s, 9999, 1, (&raw const s).cast(), 4)));
    say(
        "TCP level",
        c!(libc::setsockopt(s, libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const s).cast(), 4)),
    );
    say(
        "short value",
        c!(libc::setsockopt(s, libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const s).cast(), 1)),
    );
    say("bad pointer", sc!(libc::SYS_setsockopt, s, libc::SOL_SOCKET, libc::SO_SNDBUF, 8, 4));
    say("get with length 2", {
        let mut v = [0xffu8; 4];
        let mut l = 2u32;
        let r =
            c!(libc::getsockopt(s, libc::SOL_SOCKET, libc::SO_TYPE, v.as_mut_ptr().cast(), &mut l));
        format!("{r} {l} {v:?}")
    });
    say("get with negative length", {
        let mut v = [0u8; 4];
        let mut l = u32::MAX;
        c!(libc::getsockopt(s, libc::SOL_SOCKET, libc::SO_TYPE, v.as_mut_ptr().cast(), &mut l))
    });
    let (a, b) = pair(STREAM);
    send(a, b"12345", 0);
    let mut n = 0i32;
    say("FIONREAD", format!("{} {n}", c!(libc::ioctl(b, libc::FIONREAD, &mut n))));
    unsafe { libc::ioctl(b, libc::FIONREAD, &mut n) };
    say("bytes", n);
    unsafe { libc::ioctl(a, libc::TIOCOUTQ, &mut n) };
    say("TIOCOUTQ over 0", n > 0);
    say("lseek", c!(libc::lseek(a, 0, 0)));
    say("fsync", c!(libc::fsync(a)));
}

fn timeouts() {
    let (a, b) = pair(STREAM);
    let tv = libc::timeval { tv_sec: 0, tv_usec: 2000 };
    for o in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        say("set", c!(libc::setsockopt(a, libc::SOL_SOCKET, o, (&raw const tv).cast(), 16)));
    }
    say("receive", recv(a, 1, 0));
    let big = vec![0; 1 << 16];
    let last = loop {
        let r = write(a, &big);
        if r.0 != 1 << 16 {
            break if r.is_ok() { write(a, &big) } else { r };
        }
    };
    say("send", last);
    let _ = b;
    let bad = libc::timeval { tv_sec: 0, tv_usec: 1_000_000 };
    say(
        "bad microseconds",
        c!(libc::setsockopt(a, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const bad).cast(), 16)),
    );
    let s = listener(STREAM, b"l");
    c!(libc::setsockopt(s, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const tv).cast(), 16));
    say("accept", accept(s));
}

fn names_of_ends() {
    let s = listener(STREAM, b"server");
    let c1 = socket(STREAM);
    bind(c1, b"client");
    connect(c1, b"server");
    let a = accept(s).fd();
    say("listener", name_text(s, false));
    say("accepted, own", name_text(a, false));
    say("accepted, peer", name_text(a, true));
    say("client, peer", name_text(c1, true));
    say("listener, peer", name_text(s, true));
    let u = socket(STREAM);
    say("unbound", name_text(u, false));
    let mut x: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut n = 4u32;
    let r = c!(libc::getsockname(s, (&raw mut x).cast(), &mut n));
    say(
        "short buffer: real length",
        format!(
            "{r} {n} {}",
            quoted(&[x.sun_path[0] as u8, x.sun_path[1] as u8, x.sun_path[2] as u8])
        ),
    );
    let mut n = u32::MAX;
    say("negative length", c!(libc::getsockname(s, (&raw mut x).cast(), &mut n)));
    say("bad pointer", sc!(libc::SYS_getsockname, s, 8, &mut n as *mut _));
    close(c1);
    say("peer closed: name stays", name_text(a, true));
}

fn permissions() {
    let _s = listener(STREAM, b"l");
    unsafe { libc::chmod(c"l".as_ptr(), 0) };
    if unsafe { libc::geteuid() } != 0 {
        say("connect without w", connect(socket(STREAM), b"l"));
    }
    unsafe { libc::chmod(c"l".as_ptr(), 0o200) };
    say("with w", connect(socket(STREAM), b"l"));
    unsafe { libc::umask(0o077) };
    bind(socket(STREAM), b"masked");
    use std::os::unix::fs::MetadataExt;
    say("mode follows umask", format!("{:o}", std::fs::metadata("masked").unwrap().mode() & 0o777));
    let f = socket(STREAM);
    unsafe { libc::fchmod(f, 0o640) };
    bind(f, b"fch");
    say(
        "and fchmod before bind",
        format!("{:o}", std::fs::metadata("fch").unwrap().mode() & 0o777),
    );
}

fn sendmsg_forms() {
    let (a, b) = pair(STREAM);
    let parts = [b"ab".to_vec(), b"".to_vec(), b"cde".to_vec()];
    let mut v: Vec<libc::iovec> = parts
        .iter()
        .map(|p| libc::iovec { iov_base: p.as_ptr() as *mut _, iov_len: p.len() })
        .collect();
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = v.as_mut_ptr();
    m.msg_iovlen = 3;
    say("gather", c!(libc::sendmsg(a, &m, 0)));
    say("read", recv(b, 10, 0));
    m.msg_iovlen = 1025;
    say("too many parts", c!(libc::sendmsg(a, &m, 0)));
    m.msg_iovlen = 0;
    say("none", c!(libc::sendmsg(a, &m, 0)));
    let (mut n, _) = addr(b"x");
    m.msg_name = (&raw mut n).cast();
    m.msg_namelen = 10;
    m.msg_iovlen = 1;
    say("name on a connected stream", c!(libc::sendmsg(a, &m, 0)));
    m.msg_name = std::ptr::null_mut();
    m.msg_namelen = 0;
    let mut junk = [3u64, 0, 0, 0];
    m.msg_control = junk.as_mut_ptr().cast();
    m.msg_controllen = 32;
    say("bad control length", c!(libc::sendmsg(a, &m, 0)));
    junk[0] = 20;
    junk[1] = (99 << 32) | 1;
    std::hint::black_box(&mut junk);
    say("unknown control type", c!(libc::sendmsg(a, &m, 0)));
    say("bad pointer", sc!(libc::SYS_sendmsg, a, 8, 0));
    say("recvmsg bad pointer", sc!(libc::SYS_recvmsg, a, 8, NOWAIT));
    v[0].iov_base = 8 as *mut _;
    m.msg_control = std::ptr::null_mut();
    m.msg_controllen = 0;
    say("bad data", c!(libc::sendmsg(a, &m, 0)));
}

fn mmsg() {
    let (a, b) = pair(DGRAM);
    let texts = [b"one".to_vec(), b"two!".to_vec(), b"".to_vec()];
    let mut v: Vec<libc::iovec> = texts
        .iter()
        .map(|p| libc::iovec { iov_base: p.as_ptr() as *mut _, iov_len: p.len() })
        .collect();
    let mut mm: Vec<libc::mmsghdr> = v
        .iter_mut()
        .map(|v| {
            let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
            m.msg_hdr.msg_iov = v;
            m.msg_hdr.msg_iovlen = 1;
            m
        })
        .collect();
    say("sendmmsg", c!(libc::sendmmsg(a, mm.as_mut_ptr(), 3, 0)));
    say("lengths", format!("{} {} {}", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len));
    let mut bufs = [[0u8; 8]; 5];
    let mut v: Vec<libc::iovec> = bufs
        .iter_mut()
        .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 8 })
        .collect();
    let mut mm: Vec<libc::mmsghdr> = v
        .iter_mut()
        .map(|v| {
            let mut m: libc::mmsghdr = unsafe { std::mem::zeroed() };
            m.msg_hdr.msg_iov = v;
            m.msg_hdr.msg_iovlen = 1;
            m
        })
        .collect();
    say(
        "recvmmsg",
        c!(libc::recvmmsg(b, mm.as_mut_ptr(), 5, libc::MSG_DONTWAIT, std::ptr::null_mut())),
    );
    say("lengths", format!("{} {} {}", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len));
    say(
        "empty",
        c!(libc::recvmmsg(b, mm.as_mut_ptr(), 5, libc::MSG_DONTWAIT, std::ptr::null_mut())),
    );
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: -1 };
    say("bad time", c!(libc::recvmmsg(b, mm.as_mut_ptr(), 5, 0, &mut t)));
}

fn socket_errors() {
    say("type 0", c!(libc::socket(libc::AF_UNIX, 0, 0)));
    say("type 99", c!(libc::socket(libc::AF_UNIX, 99, 0)));
    say("bad flags", c!(libc::socket(libc::AF_UNIX, STREAM | 0x10_0000, 0)));
    say("bad protocol", c!(libc::socket(libc::AF_UNIX, STREAM, 9)));
    say("family 0", c!(libc::socket(0, STREAM, 0)));
    say("family 200", c!(libc::socket(200, STREAM, 0)));
    say("send on unconnected stream", send(socket(STREAM), b"x", 0));
    say("recv on unconnected stream", recv(socket(STREAM), 1, NOWAIT));
    say("recv on unconnected datagram", recv(socket(DGRAM), 1, NOWAIT));
    say("send on a file", send(0, b"x", 0));
    say("getpeername on unconnected", name_text(socket(STREAM), true));
    say("getsockname on a pipe", name_text(pipe().0, false));
    say("bad buffer", {
        let (a, _b) = pair(STREAM);
        sc!(libc::SYS_sendto, a, 8, 10, 0, 0, 0)
    });
    say("receive into a bad buffer", {
        let (a, b) = pair(STREAM);
        send(a, b"data", 0);
        sc!(libc::SYS_recvfrom, b, 8, 10, 0, 0, 0)
    });
    say("connect by open", open("/dev/log-none", libc::O_RDWR));
}

fn out_of_band() {
    let (a, b) = pair(STREAM);
    let r = send(a, b"u", libc::MSG_OOB);
    // Since 5.15, when built in.
    if r.is_ok() {
        say("receive", recv(b, 1, libc::MSG_OOB | NOWAIT));
    } else {
        say("receive", "\"u\"");
    }
    say("datagram", send(pair(DGRAM).0, b"u", libc::MSG_OOB));
}

fn proc_net_unix() {
    let s = listener(STREAM, b"seen-in-proc");
    // Names of others may hold any bytes.
    let t = std::fs::read("/proc/net/unix").unwrap();
    let t = String::from_utf8_lossy(&t);
    let l = t.lines().find(|l| l.ends_with("seen-in-proc"));
    say("listed", l.is_some());
    if let Some(l) = l {
        let w: Vec<&str> = l.split_whitespace().collect();
        say("flags type state", format!("{} {} {}", w[3], w[4], w[5]));
        let link = std::fs::read_link(format!("/proc/self/fd/{s}")).unwrap();
        say("inode as in the link", link.to_str().unwrap() == format!("socket:[{}]", w[6]));
    }
}
