//! Landlock beyond files: the network, scopes, who may trace whom, mounts.

use super::landlock::*;
use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    tcp, tcp_addresses, abstract_sockets, signals, tracing, mounts: root, hidden_and_bound: root,
}

fn tcp() {
    let base = 20_000 + (getpid() % 5_000) as u16 * 4;
    let (open_port, closed, both) = (base, base + 1, base + 2);
    let sock = |family: i32, kind: i32| c!(libc::socket(family, kind, 0)).fd();
    for family in [libc::AF_INET, libc::AF_INET6] {
        apart(|| {
            let rs = ruleset(0, BIND | CONNECT, 0);
            port(rs, open_port.into(), BIND);
            port(rs, both.into(), BIND);
            port(rs, both.into(), CONNECT);
            enter(rs);
            let s = || sock(family, libc::SOCK_STREAM);
            say("bind", bind_to(s(), family, open_port));
            say("bind elsewhere", bind_to(s(), family, closed));
            say("bind to any", bind_to(s(), family, 0));
            say("connect", connect_to(s(), family, open_port));
            say("connect elsewhere", connect_to(s(), family, closed));
            say("connect where nobody listens", connect_to(s(), family, both));
            let l = s();
            say("bind where both is granted", bind_to(l, family, both));
            say("listen", c!(libc::listen(l, 1)));
            let client = s();
            say("connect there", connect_to(client, family, both));
            say("dissolve", connect_to(client, libc::AF_UNSPEC, 0));
            say("listen without bind", c!(libc::listen(s(), 1)));
            let u = sock(family, libc::SOCK_DGRAM);
            say(
                "datagrams",
                format!("{} {}", bind_to(u, family, closed), connect_to(u, family, closed)),
            );
            let rs = ruleset(0, CONNECT, 0);
            enter(rs);
            say("second layer: bind", bind_to(s(), family, open_port));
            say("second layer: connect", connect_to(s(), family, both));
        });
    }
    apart(|| {
        let rs = ruleset(0, BIND, 0);
        port(rs, 0, BIND);
        enter(rs);
        let s = sock(libc::AF_INET, libc::SOCK_STREAM);
        say("port 0 granted", bind_to(s, libc::AF_INET, 0));
        say(
            "connect is not handled",
            connect_to(sock(libc::AF_INET, libc::SOCK_STREAM), libc::AF_INET, closed),
        );
    });
}

/// Addresses that bind(2) and connect(2) refuse themselves.
fn tcp_addresses() {
    for handled in [0, BIND, CONNECT, BIND | CONNECT] {
        apart(|| {
            say("handled", handled);
            if handled != 0 {
                enter(ruleset(0, handled, 0));
            }
            for family in [libc::AF_INET, libc::AF_INET6] {
                for (what, of, len) in [
                    ("nothing", family, 0u32),
                    ("one byte", family, 1),
                    ("the family", family, 2),
                    ("short", family, 15),
                    ("short of IPv6", family, 23),
                    ("without scope", family, 24),
                    ("unspecified", libc::AF_UNSPEC, 16),
                    ("unspecified, short", libc::AF_UNSPEC, 15),
                    ("unspecified, long", libc::AF_UNSPEC, 28),
                    (
                        "other version",
                        if family == libc::AF_INET { libc::AF_INET6 } else { libc::AF_INET },
                        28,
                    ),
                    ("unix", libc::AF_UNIX, 16),
                    ("unknown", 77, 28),
                ] {
                    let s = c!(libc::socket(family, libc::SOCK_STREAM, 0)).fd();
                    let (mut a, _) = loopback(of, 1);
                    let connect = c!(libc::connect(s, (&raw const a).cast(), len));
                    let s = c!(libc::socket(family, libc::SOCK_STREAM, 0)).fd();
                    let bind = c!(libc::bind(s, (&raw const a).cast(), len));
                    a.sin6_flowinfo = 0;
                    let any = c!(libc::bind(s, (&raw const a).cast(), len));
                    say(&format!("{family} {what}"), format!("{connect} {bind} {any}"));
                    close(s);
                }
            }
        });
    }
}

fn unix_address(name: &[u8]) -> (libc::sockaddr_un, u32) {
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    for (to, from) in a.sun_path.iter_mut().zip(name) {
        *to = *from as i8;
    }
    (a, 2 + name.len() as u32)
}

fn unix_call(
    f: unsafe extern "C" fn(i32, *const libc::sockaddr, u32) -> i32,
    s: i32,
    name: &[u8],
) -> R {
    let (a, len) = unix_address(name);
    c!(f(s, (&raw const a).cast(), len))
}

fn abstract_sockets() {
    let kinds = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
    // Names have the number of the case; its children use the same.
    let case = getpid();
    let name = |who: &str, kind: i32| format!("\0gt-{who}-{kind}-{case}").into_bytes();
    let socket = |kind: i32| c!(libc::socket(libc::AF_UNIX, kind, 0)).fd();
    let serve = |who: &str| {
        for kind in kinds {
            let s = socket(kind);
            unix_call(libc::bind, s, &name(who, kind));
            c!(libc::listen(s, 8));
        }
    };
    let reach = |who: &str| {
        for kind in kinds {
            let s = socket(kind);
            let to = name(who, kind);
            let (a, len) = unix_address(&to);
            let (flags, a) = (libc::MSG_NOSIGNAL, (&raw const a).cast());
            let sent = c!(libc::sendto(s, b"x".as_ptr().cast(), 1, flags, a, len));
            let connected = unix_call(libc::connect, s, &to);
            say(&format!("{who} {kind}"), format!("{sent} {connected} {}", write_quietly(s)));
        }
    };
    serve("outside");
    let path = socket(libc::SOCK_STREAM);
    unix_call(libc::bind, path, b"path\0");
    c!(libc::listen(path, 8));
    let mut pair = [0; 2];
    c!(libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()));
    let connected = socket(libc::SOCK_DGRAM);
    unix_call(libc::connect, connected, &name("outside", libc::SOCK_DGRAM));
    for scoped in [SIGNAL, ABSTRACT] {
        say("scope", scoped);
        apart(|| {
            enter(ruleset(0, 0, scoped));
            reach("outside");
            say("path", unix_call(libc::connect, socket(libc::SOCK_STREAM), b"path\0"));
            let nobody = name("nobody", libc::SOCK_STREAM);
            say("nobody", unix_call(libc::connect, socket(libc::SOCK_STREAM), &nobody));
            say("pair", write(pair[0], b"x"));
            say("connected before", write(connected, b"x"));
            serve("own");
            reach("own");
            // Somebody further inside may not reach what is out here.
            for (what, fs, scoped) in [("scoped", 0, ABSTRACT), ("not scoped", READ, 0)] {
                apart(|| {
                    enter(ruleset(fs, 0, scoped));
                    say("further inside", what);
                    reach("own");
                });
            }
            // And is reached from here.
            let (ready, done) = (Event::new(), Event::new());
            let inner = child(|| {
                enter(ruleset(0, 0, ABSTRACT));
                serve("inner");
                ready.post();
                done.wait();
                0
            });
            ready.wait();
            reach("inner");
            done.post();
            reap(inner);
        });
    }
}

fn write_quietly(s: i32) -> R {
    c!(libc::send(s, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT))
}

fn signals() {
    let send = |pid: i32| c!(libc::kill(pid, 0));
    let outside = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    let parent = getpid();
    apart(|| {
        enter(ruleset(0, 0, SIGNAL));
        say("sibling", send(outside));
        say("sibling, really", c!(libc::kill(outside, libc::SIGKILL)));
        say("parent", send(parent));
        say("itself", send(getpid()));
        say("init", send(1));
        say("nobody", send(999_999_999));
        say("tgkill", sc!(libc::SYS_tgkill, outside, outside, 0));
        let fd = sc!(libc::SYS_pidfd_open, outside, 0).fd();
        say("pidfd", sc!(libc::SYS_pidfd_send_signal, fd, 0, 0, 0));
        say("group of the case", c!(libc::kill(0, 0)));
        let inner = child(|| {
            enter(ruleset(0, 0, SIGNAL));
            say("further inside to its parent", send(unsafe { libc::getppid() }));
            loop {
                unsafe { libc::pause() };
            }
        });
        // It said its line before it pauses.
        await_sleep(inner);
        say("to a child", c!(libc::kill(inner, 0)));
        say("end of the child", c!(libc::kill(inner, libc::SIGKILL)));
        say("reaped", reap(inner));
        let t = std::thread::spawn(|| c!(libc::kill(getpid(), 0)).to_string());
        say("a thread of the domain", t.join().unwrap());
    });
    apart(|| {
        let leader = getpid();
        let t = std::thread::spawn(move || {
            enter(ruleset(0, 0, SIGNAL));
            format!("{} {}", c!(libc::kill(leader, 0)), sc!(libc::SYS_tgkill, leader, leader, 0))
        });
        say("a thread alone in a domain", t.join().unwrap());
    });
    apart(|| {
        enter(ruleset(READ, 0, 0));
        say("without scope", send(outside));
    });
    say("alive", send(outside));
    unsafe { libc::kill(outside, libc::SIGKILL) };
    say("outside", reap(outside));
}

fn tracing() {
    let pause = || {
        loop {
            unsafe { libc::pause() };
        }
    };
    let word = 7u64;
    let outside = child(pause);
    let vm = |pid: i32| {
        let mut got = 0u64;
        let local = libc::iovec { iov_base: (&raw mut got).cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: (&raw const word as *mut u64).cast(), iov_len: 8 };
        c!(libc::process_vm_readv(pid, &local, 1, &remote, 1, 0))
    };
    let attach = |pid: i32| {
        let r = c!(libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0));
        if r.is_ok() {
            let mut s = 0;
            c!(libc::waitpid(pid, &mut s, libc::__WALL));
            c!(libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0));
        }
        r
    };
    let look = |pid: i32| {
        let link = |n: &str| {
            std::fs::read_link(format!("/proc/{pid}/{n}"))
                .map_or_else(|e| errno_name(e.raw_os_error().unwrap()), |_| "ok".into())
        };
        let maps = std::fs::read(format!("/proc/{pid}/maps")).is_ok();
        format!("{} {} {maps}", link("exe"), link("ns/mnt"))
    };
    say("before", format!("{} {} {}", attach(outside), vm(outside), look(outside)));
    apart(|| {
        enter(ruleset(0, BIND, 0));
        say("outside", format!("{} {} {}", attach(outside), vm(outside), look(outside)));
        let inner = child(pause);
        say("child of the domain", format!("{} {} {}", attach(inner), vm(inner), look(inner)));
        let deeper = child(|| {
            enter(ruleset(0, BIND, 0));
            pause()
        });
        await_sleep(deeper);
        say("further inside", format!("{} {} {}", attach(deeper), vm(deeper), look(deeper)));
        apart(|| {
            enter(ruleset(0, BIND, 0));
            say("beside", format!("{} {}", attach(deeper), vm(deeper)));
            say("its parent", format!("{} {}", attach(inner), vm(inner)));
            say("itself", look(getpid()));
        });
        for p in [inner, deeper] {
            unsafe { libc::kill(p, libc::SIGKILL) };
            reap(p);
        }
        let traced = child(|| {
            let r = c!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0));
            say("traced by its parent of the same domain", r);
            0
        });
        reap(traced);
    });
    let traced = child(|| {
        enter(ruleset(0, BIND, 0));
        say("traced by a parent without a domain", c!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)));
        0
    });
    reap(traced);
    apart(|| {
        let ready = Event::new();
        let go = Event::new();
        let kid = child(|| {
            ready.post();
            go.wait();
            say(
                "traced by a more restricted parent",
                c!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)),
            );
            0
        });
        ready.wait();
        enter(ruleset(0, BIND, 0));
        go.post();
        reap(kid);
    });
    unsafe { libc::kill(outside, libc::SIGKILL) };
    reap(outside);
}

pub(super) fn own_mounts() {
    let none: *const i8 = std::ptr::null();
    c!(libc::unshare(libc::CLONE_NEWNS));
    let private = libc::MS_REC | libc::MS_PRIVATE;
    c!(libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()));
}

pub(super) fn bind_mount(from: &str, to: &str) -> R {
    let (from, to) = (cstr(from), cstr(to));
    c!(libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null()))
}

fn mounts() {
    own_mounts();
    for d in ["m", "n", "root/old"] {
        std::fs::create_dir_all(d).unwrap();
    }
    bind_mount("root", "root");
    let none: *const i8 = std::ptr::null();
    let tmpfs = |to: &std::ffi::CStr| {
        c!(libc::mount(c"none".as_ptr(), to.as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()))
    };
    say("before", tmpfs(c"m"));
    for (what, rs) in [("network", ruleset(0, BIND, 0)), ("files", ruleset(READ, 0, 0))] {
        apart(|| {
            say("ruleset", what);
            c!(libc::unshare(libc::CLONE_NEWNS));
            enter(rs);
            say("mount", tmpfs(c"n"));
            say("nowhere", tmpfs(c"nowhere"));
            say("bind", bind_mount("m", "n"));
            say(
                "remount",
                c!(libc::mount(
                    none,
                    c"m".as_ptr(),
                    none,
                    libc::MS_REMOUNT | libc::MS_RDONLY,
                    none.cast()
                )),
            );
            say(
                "propagation",
                c!(libc::mount(none, c"m".as_ptr(), none, libc::MS_SHARED, none.cast())),
            );
            say("umount", c!(libc::umount2(c"m".as_ptr(), 0)));
            say("umount of no mount", c!(libc::umount2(c"root/old".as_ptr(), 0)));
            say("pivot_root", sc!(libc::SYS_pivot_root, c"root".as_ptr(), c"root/old".as_ptr()));
            let fs = sc!(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0);
            say("fsopen", fs.ok());
            say("fsconfig", sc!(libc::SYS_fsconfig, fs.fd(), 6, 0, 0, 0));
            let m = sc!(libc::SYS_fsmount, fs.fd(), 0, 0);
            say("fsmount", m.ok());
            say(
                "move_mount",
                sc!(libc::SYS_move_mount, m.fd(), c"".as_ptr(), libc::AT_FDCWD, c"n".as_ptr(), 4),
            );
            say("open_tree", sc!(libc::SYS_open_tree, libc::AT_FDCWD, c"m".as_ptr(), 1).ok());
            let attr = [1u64, 0, 0, 0];
            say(
                "mount_setattr",
                sc!(libc::SYS_mount_setattr, libc::AT_FDCWD, c"m".as_ptr(), 0, attr.as_ptr(), 32),
            );
            say("chroot", c!(libc::chroot(c"root".as_ptr())));
        });
    }
}

/// Rules hold through every mount of what they are about; what a mount hides has no say.
fn hidden_and_bound() {
    own_mounts();
    for d in ["real/sub", "seen", "over/under", "lost/keep/inner", "away", "view"] {
        std::fs::create_dir_all(d).unwrap();
    }
    for f in ["real/file", "real/sub/file", "lost/keep/inner/file"] {
        put(f, b"");
    }
    bind_mount("real", "seen");
    bind_mount("lost/keep", "view");
    let none: *const i8 = std::ptr::null();
    let hidden = open("over", libc::O_PATH).fd();
    c!(libc::mount(c"none".as_ptr(), c"over".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()));
    std::fs::create_dir("over/under").unwrap();
    put("over/file", b"");
    for (what, rule) in [
        ("the original", "real"),
        ("the bind", "seen"),
        ("above the bind", "."),
        ("inside", "real/sub"),
    ] {
        apart(|| {
            let rs = ruleset(READ, 0, 0);
            beneath(rs, rule, READ);
            enter(rs);
            for p in ["real/file", "seen/file", "real/sub/file", "seen/sub/file", "over/file"] {
                say(&format!("{what}: {p}"), open(p, 0).ok());
            }
        });
    }
    apart(|| {
        let rs = ruleset(READ, 0, 0);
        beneath_fd(rs, hidden, READ);
        enter(rs);
        say("hidden directory: what is over it", open("over/file", 0).ok());
    });
    // A directory that leaves what a bind mount shows is looked at through the mount.
    let inner = open("view/inner", libc::O_PATH).fd();
    std::fs::rename("lost/keep/inner", "away/inner").unwrap();
    for rule in ["view", "away", "lost/keep", "lost", "."] {
        apart(|| {
            let rs = ruleset(READ, 0, 0);
            beneath(rs, rule, READ);
            enter(rs);
            say(
                &format!("moved away, rule on {rule}"),
                c!(libc::openat(inner, c"file".as_ptr(), 0)).ok(),
            );
            say(&format!("where it is, rule on {rule}"), open("away/inner/file", 0).ok());
        });
    }
}
