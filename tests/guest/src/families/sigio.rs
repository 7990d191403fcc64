//! SIGIO: O_ASYNC, F_SETOWN and F_SETSIG on pipes, sockets, terminals and inotify.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    pipe_reader, pipe_writer, chosen_signal, unix_sockets, terminal, inotify, listener, owners, interrupts_a_sleep, without_support, socket_owner_ioctls,
    queue_overflow,
}

const ASYNC: i32 = libc::O_ASYNC;
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

/// Both signals stay pending until they are taken.
fn block() {
    mask(libc::SIG_BLOCK, &[libc::SIGIO, libc::SIGUSR1]);
}

fn own(fd: i32, flags: i32) {
    say("F_SETOWN", c!(libc::fcntl(fd, libc::F_SETOWN, getpid())));
    say("O_ASYNC", c!(libc::fcntl(fd, libc::F_SETFL, ASYNC | flags)));
    say("flag is set", c!(libc::fcntl(fd, libc::F_GETFL)).0 as i32 & ASYNC != 0);
}

/// The next of the two signals and what comes with it, or `none`.
fn taken() -> String {
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let t = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let r = c!(libc::sigtimedwait(&sigset(&[libc::SIGIO, libc::SIGUSR1]), &mut info, &t));
    if !r.is_ok() {
        return "none".into();
    }
    let code = info.si_code;
    let known = |code| match code {
        1 => "POLL_IN",
        2 => "POLL_OUT",
        6 => "POLL_HUP",
        _ => "another code",
    };
    if r.0 as i32 == libc::SIGIO && code == 0x80 {
        return "SIGIO".into();
    }
    #[repr(C)]
    struct Poll {
        head: [i32; 4],
        band: i64,
        fd: i32,
    }
    let p = unsafe { &*(&raw const info).cast::<Poll>() };
    format!("{} {} band {:#x}", signal_name(r.0 as i32), known(code), p.band)
}

fn drain() {
    while taken() != "none" {}
}

fn pipe_reader() {
    block();
    let (r, w) = pipe();
    own(r, 0);
    say("nothing yet", taken());
    write(w, b"x");
    say("written", taken());
    write(w, b"y");
    say("written again", taken());
    read_text(r, 10);
    say("read", taken());
    close(w);
    say("writer gone", taken());
    say("off", c!(libc::fcntl(r, libc::F_SETFL, 0)));
    let (r, w) = pipe();
    own(r, 0);
    say("off", c!(libc::fcntl(r, libc::F_SETFL, 0)));
    write(w, b"x");
    say("written", taken());
}

fn pipe_writer() {
    block();
    let (r, w) = pipe();
    c!(libc::fcntl(w, libc::F_SETFL, libc::O_NONBLOCK));
    while write(w, &[0; 4096]).is_ok() {}
    own(w, libc::O_NONBLOCK);
    say("nothing yet", taken());
    read_text(r, 65536);
    say("room again", taken());
    drain();
}

fn chosen_signal() {
    block();
    let (r, w) = pipe();
    say("F_SETSIG", c!(libc::fcntl(r, F_SETSIG, libc::SIGUSR1)));
    own(r, 0);
    write(w, b"x");
    say("written", taken());
    let copy = c!(libc::dup(r)).fd();
    close(r);
    write(w, b"x");
    say("by a duplicate", taken());
    say("bad signal", c!(libc::fcntl(copy, F_SETSIG, 65)));
    say("back to SIGIO", c!(libc::fcntl(copy, F_SETSIG, 0)));
    write(w, b"x");
    say("written", taken());
    close(copy);
    c!(libc::signal(libc::SIGPIPE, libc::SIG_IGN));
    write(w, b"x");
    say("closed", taken());
}

fn unix_sockets() {
    block();
    for (name, kind) in [("stream", libc::SOCK_STREAM), ("dgram", libc::SOCK_DGRAM)] {
        let mut s = [0; 2];
        c!(libc::socketpair(libc::AF_UNIX, kind, 0, s.as_mut_ptr()));
        say(name, "");
        own(s[0], 0);
        drain();
        write(s[1], b"hello");
        say("sent", taken());
        read_text(s[0], 10);
        drain();
        close(s[1]);
        close(s[0]);
    }
}

fn terminal() {
    block();
    let m = c!(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY)).fd();
    c!(libc::grantpt(m));
    c!(libc::unlockpt(m));
    let mut name = [0 as libc::c_char; 64];
    c!(libc::ptsname_r(m, name.as_mut_ptr(), 64));
    let s = c!(libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY)).fd();
    own(s, 0);
    drain();
    write(m, b"half a line");
    write(m, b" and the end\n");
    say("a line", taken());
    say("text", read_text(s, 100));
}

fn inotify() {
    block();
    let i = c!(libc::inotify_init1(0)).fd();
    c!(libc::inotify_add_watch(i, c".".as_ptr(), libc::IN_CREATE));
    own(i, 0);
    put("new", b"");
    say("a file appears", taken());
}

fn listener() {
    block();
    let s = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    a.sun_path[0] = b's' as libc::c_char;
    let (p, n) = ((&raw const a).cast(), size_of_val(&a) as u32);
    say("bind", c!(libc::bind(s, p, n)));
    say("listen", c!(libc::listen(s, 5)));
    own(s, 0);
    drain();
    let client = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    say("connect", c!(libc::connect(client, p, n)));
    say("a client", taken());
}

fn owners() {
    block();
    let (r, w) = pipe();
    c!(libc::fcntl(r, libc::F_SETFL, ASYNC));
    write(w, b"x");
    say("nobody", taken());
    let wait = |name: &str, set: &dyn Fn(i32) -> R| {
        let (ready, go) = pipe();
        let pid = child(|| {
            unsafe { libc::setpgid(0, 0) };
            write(go, b"r");
            i32::from(taken() == "SIGIO")
        });
        read_text(ready, 1);
        say(name, set(pid));
        write(w, b"x");
        say("the child got it", reap(pid));
        say("we did not", taken());
    };
    wait("process", &|pid| c!(libc::fcntl(r, libc::F_SETOWN, pid)));
    wait("group", &|pid| c!(libc::fcntl(r, libc::F_SETOWN, -pid)));
    let ex = [0, gettid()];
    say("thread", c!(libc::fcntl(r, F_SETOWN_EX, ex.as_ptr())));
    write(w, b"x");
    say("got it", taken());
}

fn interrupts_a_sleep() {
    extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let (r, w) = pipe();
    on_signal(libc::SIGIO, handler, 0);
    own(r, 0);
    let pid = child(|| {
        await_state(unsafe { libc::getppid() }, unsafe { libc::getppid() }, "S");
        write(w, b"x");
        0
    });
    say("pause", c!(libc::pause()));
    // SIGCHLD has no handler and interrupts nothing.
    say("child", reap(pid));
    say("what came", read_text(r, 10));
}

fn without_support() {
    let e = c!(libc::eventfd(0, 0)).fd();
    put("f", b"text");
    let f = open("f", libc::O_RDWR).fd();
    for (name, fd) in [("eventfd", e), ("file", f)] {
        say(name, c!(libc::fcntl(fd, libc::F_SETFL, ASYNC)));
        say("flag is set", c!(libc::fcntl(fd, libc::F_GETFL)).0 as i32 & ASYNC != 0);
        let on = 1i32;
        say("FIOASYNC", sc!(libc::SYS_ioctl, fd, 0x5452, &raw const on));
    }
    let (r, _w) = pipe();
    let (on, off) = (1i32, 0i32);
    say("FIOASYNC", sc!(libc::SYS_ioctl, r, 0x5452, &raw const on));
    say("flag is set", c!(libc::fcntl(r, libc::F_GETFL)).0 as i32 & ASYNC != 0);
    say("FIOASYNC off", sc!(libc::SYS_ioctl, r, 0x5452, &raw const off));
    say("flag is set", c!(libc::fcntl(r, libc::F_GETFL)).0 as i32 & ASYNC != 0);
}

fn socket_owner_ioctls() {
    let s = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    let me = getpid();
    let get = |cmd: u32| {
        let mut v = 0i32;
        let r = sc!(libc::SYS_ioctl, s, cmd, &raw mut v);
        format!(
            "{r} {}",
            if v == me {
                "we"
            } else if v == 0 {
                "nobody"
            } else {
                "another"
            }
        )
    };
    say("FIOGETOWN", get(0x8903));
    say("FIOSETOWN", sc!(libc::SYS_ioctl, s, 0x8901, &raw const me));
    say("SIOCGPGRP", get(0x8904));
    say("F_GETOWN", c!(libc::fcntl(s, libc::F_GETOWN)).0 as i32 == me);
    let nobody = 0i32;
    say("SIOCSPGRP", sc!(libc::SYS_ioctl, s, 0x8902, &raw const nobody));
    say("FIOGETOWN", get(0x8903));
    say("bad pointer", sc!(libc::SYS_ioctl, s, 0x8901, 8));
}

/// A real-time signal that finds its queue full is replaced by SIGIO.
fn queue_overflow() {
    let rt = libc::SIGRTMIN();
    mask(libc::SIG_BLOCK, &[libc::SIGIO, rt]);
    let (r, w) = pipe();
    say("F_SETSIG", c!(libc::fcntl(r, F_SETSIG, rt)));
    own(r, 0);
    let l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    c!(libc::setrlimit(libc::RLIMIT_SIGPENDING, &l));
    write(w, b"x");
    say("written", taken());
}
