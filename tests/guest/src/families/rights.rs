//! AF_UNIX sockets: descriptors and credentials passed along, the credentials of the peer.

use super::unix::*;
use crate::sys::*;
use crate::{c, cases};

cases! {
    rights_basics, rights_many, rights_truncated, rights_closed_unreceived, rights_of_sockets, credentials, credentials_forged, peercred, pidfd_of_peer,
}

/// Sends bytes with descriptors.
fn send_fds(sock: i32, data: &[u8], fds: &[i32]) -> R {
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut v = libc::iovec { iov_base: data.as_ptr() as *mut _, iov_len: data.len() };
    m.msg_iov = &mut v;
    m.msg_iovlen = 1;
    let bytes = std::mem::size_of_val(fds);
    let mut ctl = vec![0u64; (unsafe { libc::CMSG_SPACE(bytes as u32) } as usize).div_ceil(8)];
    if !fds.is_empty() {
        m.msg_control = ctl.as_mut_ptr().cast();
        m.msg_controllen = unsafe { libc::CMSG_SPACE(bytes as u32) } as usize;
        unsafe {
            let h = libc::CMSG_FIRSTHDR(&m);
            (*h).cmsg_level = libc::SOL_SOCKET;
            (*h).cmsg_type = libc::SCM_RIGHTS;
            (*h).cmsg_len = libc::CMSG_LEN(bytes as u32) as usize;
            libc::CMSG_DATA(h).copy_from(fds.as_ptr().cast(), bytes);
        }
    }
    c!(libc::sendmsg(sock, &m, libc::MSG_NOSIGNAL | NOWAIT))
}

struct Got {
    r: R,
    data: Vec<u8>,
    fds: Vec<i32>,
    cred: Option<libc::ucred>,
    flags: i32,
}

/// Receives bytes and control messages with room for `room` control bytes.
fn recv_fds(sock: i32, n: usize, room: usize, flags: i32) -> Got {
    let mut data = vec![0u8; n];
    let mut v = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: n };
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &mut v;
    m.msg_iovlen = 1;
    let mut ctl = vec![0u64; room.div_ceil(8) + 1];
    m.msg_control = ctl.as_mut_ptr().cast();
    m.msg_controllen = room;
    let r = c!(libc::recvmsg(sock, &mut m, flags | NOWAIT));
    let (mut fds, mut cred) = (Vec::new(), None);
    data.truncate(r.0.max(0) as usize);
    if r.is_ok() {
        unsafe {
            let mut h = libc::CMSG_FIRSTHDR(&m);
            while !h.is_null() {
                let len = (*h).cmsg_len - libc::CMSG_LEN(0) as usize;
                let d = libc::CMSG_DATA(h);
                match (*h).cmsg_type {
                    libc::SCM_RIGHTS => {
                        fds.extend((0..len / 4).map(|i| d.cast::<i32>().add(i).read_unaligned()))
                    }
                    libc::SCM_CREDENTIALS => cred = Some(d.cast::<libc::ucred>().read_unaligned()),
                    _ => {}
                }
                h = libc::CMSG_NXTHDR(&m, h);
            }
        }
    }
    Got { r, data, fds, cred, flags: m.msg_flags }
}

fn rights_basics() {
    put("f", b"passed file");
    let (a, b) = pair(STREAM);
    let f = open("f", libc::O_RDWR).fd();
    say("send", send_fds(a, b"x", &[f]));
    close(f);
    let g = recv_fds(b, 10, 100, libc::MSG_CMSG_CLOEXEC);
    say("receive", format!("{} {} fds {}", g.r, quoted(&g.data), g.fds.len()));
    say("works", read_text(g.fds[0], 20));
    say("MSG_CMSG_CLOEXEC", c!(libc::fcntl(g.fds[0], libc::F_GETFD)));
    // Same open file: the position is shared.
    let f = open("f", libc::O_RDWR).fd();
    send_fds(a, b"x", &[f]);
    let g = recv_fds(b, 10, 100, 0);
    unsafe { libc::lseek(g.fds[0], 7, libc::SEEK_SET) };
    say("position shared", c!(libc::lseek(f, 0, libc::SEEK_CUR)));
    say("not cloexec", c!(libc::fcntl(g.fds[0], libc::F_GETFD)));
    let pid = child(|| {
        let g = loop {
            let g = recv_fds(b, 10, 100, 0);
            if g.r.is_ok() {
                break g;
            }
            pause_poll();
        };
        (read_text(g.fds[0], 20) == "\"through the pipe\"") as i32
    });
    let (r, w) = pipe();
    send_fds(a, b"x", &[r]);
    close(r);
    write(w, b"through the pipe");
    say("to another process", reap(pid));
    say("bad descriptor", send_fds(a, b"x", &[999]));
    say("with no data on a stream", send_fds(a, b"", &[f]));
    say("a plain read drops them", {
        let _ = recv_fds(b, 10, 100, 0);
        send_fds(a, b"y", &[f]);
        recv(b, 10, 0)
    });
    let (d, e) = pair(DGRAM);
    say("empty datagram carries them", send_fds(d, b"", &[f]));
    say("received", recv_fds(e, 1, 100, 0).fds.len());
}

fn rights_many() {
    let (a, b) = pair(STREAM);
    let fds = vec![0i32; 253];
    say("253", send_fds(a, b"x", &fds));
    let g = recv_fds(b, 1, 4096, 0);
    say("received", g.fds.len());
    for f in &g.fds {
        close(*f);
    }
    say("254", send_fds(a, b"x", &vec![0; 254]));
    // A stream read stops at a message with descriptors.
    send(a, b"plain", 0);
    send_fds(a, b"with", &[0, 1]);
    send(a, b"after", 0);
    let g = recv_fds(b, 100, 100, 0);
    say("first read", format!("{} {}", quoted(&g.data), g.fds.len()));
    let g = recv_fds(b, 100, 100, 0);
    say("second read", format!("{} {}", quoted(&g.data), g.fds.len()));
    let g = recv_fds(b, 100, 100, 0);
    say("third read", format!("{} {}", quoted(&g.data), g.fds.len()));
    send_fds(a, b"peeked", &[0]);
    let g = recv_fds(b, 100, 100, libc::MSG_PEEK);
    say("PEEK duplicates", g.fds.len());
    let g = recv_fds(b, 100, 100, 0);
    say("and the read again", g.fds.len());
}

fn rights_truncated() {
    let (a, b) = pair(STREAM);
    send_fds(a, b"x", &[0, 1, 2, 0]);
    let g = recv_fds(b, 1, unsafe { libc::CMSG_LEN(8) } as usize, 0);
    say("room for two", format!("{} CTRUNC {}", g.fds.len(), g.flags & libc::MSG_CTRUNC != 0));
    send_fds(a, b"x", &[0, 1]);
    let g = recv_fds(b, 1, 0, 0);
    say("no room", format!("{} CTRUNC {}", g.fds.len(), g.flags & libc::MSG_CTRUNC != 0));
    send_fds(a, b"x", &[0, 1]);
    let l = libc::rlimit { rlim_cur: 0, rlim_max: 1024 };
    let mut old: libc::rlimit = unsafe { std::mem::zeroed() };
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut old) };
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &l) };
    let g = recv_fds(b, 1, 100, 0);
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &old) };
    say(
        "no free descriptor",
        format!("{} {} CTRUNC {}", g.r, g.fds.len(), g.flags & libc::MSG_CTRUNC != 0),
    );
}

fn rights_closed_unreceived() {
    let (a, b) = pair(STREAM);
    let (r, w) = pipe();
    send_fds(a, b"x", &[w]);
    close(w);
    unsafe { libc::fcntl(r, libc::F_SETFL, libc::O_NONBLOCK) };
    say("writer in flight", read_text(r, 1));
    close(a);
    close(b);
    say("closed with its socket", read_text(r, 1));
}

fn rights_of_sockets() {
    // A socket through itself and two through each other: nothing may hang, and closing must free the pipe they carry.
    let (a, b) = pair(STREAM);
    let (r, w) = pipe();
    say("own end through itself", send_fds(a, b"x", &[b, w]));
    say("other end", send_fds(b, b"x", &[a]));
    close(w);
    close(a);
    close(b);
    unsafe { libc::fcntl(r, libc::F_SETFL, libc::O_NONBLOCK) };
    // The collector runs when another socket is closed or sends descriptors.
    loop {
        let (p, q) = pair(STREAM);
        send_fds(p, b"x", &[p]);
        close(p);
        close(q);
        if read_text(r, 1) == "\"\"" {
            break;
        }
        pause_poll();
    }
    say("cycle collected", true);
}

fn cred_text(c: Option<libc::ucred>, pid: i32) -> String {
    match c {
        None => "none".into(),
        Some(c) => unsafe {
            format!(
                "pid {} uid {} gid {}",
                c.pid == pid,
                c.uid == libc::getuid(),
                c.gid == libc::getgid()
            )
        },
    }
}

fn credentials() {
    let (a, b) = pair(DGRAM);
    send(a, b"x", 0);
    say("not asked", cred_text(recv_fds(b, 10, 100, 0).cred, 0));
    say("SO_PASSCRED", set_opt(b, libc::SO_PASSCRED, 1));
    send(a, b"x", 0);
    say("own", cred_text(recv_fds(b, 10, 100, 0).cred, getpid()));
    let pid = child(|| {
        send(a, b"x", 0);
        0
    });
    reap(pid);
    say("child's", cred_text(recv_fds(b, 10, 100, 0).cred, pid));
    // A stream does not join messages of different senders.
    let (a, b) = pair(STREAM);
    set_opt(b, libc::SO_PASSCRED, 1);
    send(a, b"one", 0);
    let pid = child(|| {
        send(a, b"two", 0);
        0
    });
    reap(pid);
    let g = recv_fds(b, 100, 100, 0);
    say("first", format!("{} {}", quoted(&g.data), cred_text(g.cred, getpid())));
    let g = recv_fds(b, 100, 100, 0);
    say("second", format!("{} {}", quoted(&g.data), cred_text(g.cred, pid)));
}

fn send_cred(sock: i32, u: libc::ucred) -> R {
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut v = libc::iovec { iov_base: b"x".as_ptr() as *mut _, iov_len: 1 };
    m.msg_iov = &mut v;
    m.msg_iovlen = 1;
    let mut ctl = [0u64; 8];
    m.msg_control = ctl.as_mut_ptr().cast();
    unsafe {
        m.msg_controllen = libc::CMSG_SPACE(12) as usize;
        let h = libc::CMSG_FIRSTHDR(&m);
        (*h).cmsg_level = libc::SOL_SOCKET;
        (*h).cmsg_type = libc::SCM_CREDENTIALS;
        (*h).cmsg_len = libc::CMSG_LEN(12) as usize;
        libc::CMSG_DATA(h).cast::<libc::ucred>().write_unaligned(u);
    }
    c!(libc::sendmsg(sock, &m, NOWAIT))
}

fn credentials_forged() {
    let (a, b) = pair(DGRAM);
    set_opt(b, libc::SO_PASSCRED, 1);
    let me = libc::ucred {
        pid: getpid(),
        uid: unsafe { libc::getuid() },
        gid: unsafe { libc::getgid() },
    };
    say("true ones", send_cred(a, me));
    if me.uid != 0 {
        say("another uid", send_cred(a, libc::ucred { uid: 0, ..me }));
        say("another gid", send_cred(a, libc::ucred { gid: 0, ..me }));
        say("another pid", send_cred(a, libc::ucred { pid: 1, ..me }));
    }
}

fn peercred() {
    let peer = |fd: i32| {
        let mut u: libc::ucred = unsafe { std::mem::zeroed() };
        let mut l = 12u32;
        let r = c!(libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut u).cast(),
            &mut l
        ));
        (r, u)
    };
    let (a, _b) = pair(STREAM);
    say("pair", cred_text(Some(peer(a).1), getpid()));
    let s = listener(STREAM, b"l");
    let hold = Event::new();
    let pid = child(|| {
        let c1 = socket(STREAM);
        connect(c1, b"l");
        let u = peer(c1).1;
        hold.wait();
        (u.pid == unsafe { libc::getppid() }) as i32
    });
    let acc = accept(s).fd();
    say("accepted: the client", cred_text(Some(peer(acc).1), pid));
    hold.post();
    say("client: the listener", reap(pid));
    let (r, u) = peer(socket(STREAM));
    say("unconnected", format!("{r} pid {} uid {}", u.pid, u.uid as i32));
    let mut g = [0u32; 64];
    let mut l = 256u32;
    say(
        "SO_PEERGROUPS",
        c!(libc::getsockopt(a, libc::SOL_SOCKET, 59, g.as_mut_ptr().cast(), &mut l)).ok(),
    );
    say(
        "its length",
        l as usize == 4 * unsafe { libc::getgroups(0, std::ptr::null_mut()) } as usize,
    );
}

fn pidfd_of_peer() {
    let (a, _b) = pair(STREAM);
    let mut fd = -1i32;
    let mut l = 4u32;
    let r = c!(libc::getsockopt(a, libc::SOL_SOCKET, 77, (&raw mut fd).cast(), &mut l));
    say("SO_PEERPIDFD", r);
    let t = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    say("is this process", t.lines().any(|l| l == format!("Pid:\t{}", getpid())));
}
