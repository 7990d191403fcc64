//! Waiting for signals (sigsuspend, sigwaitinfo, signalfd) and what a handler does to calls that wait.

use super::signals::*;
use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::Ordering::SeqCst;

cases! {
    sigsuspend, sigwaitinfo, sigtimedwait, signalfd, restart_read, restart_wait, restart_nanosleep, restart_futex, no_restart_poll, stop_continue_does_not_interrupt, sigchld_codes, signals_in_fork_storm,
}

fn sigsuspend() {
    on_signal(libc::SIGUSR1, note, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    unsafe { libc::raise(libc::SIGUSR1) };
    say("pending, not delivered", COUNT.load(SeqCst));
    say("sigsuspend", c!(libc::sigsuspend(&sigset(&[]))));
    say("delivered", COUNT.load(SeqCst));
    let mut m = sigset(&[]);
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut m) };
    say("mask restored", unsafe { libc::sigismember(&m, libc::SIGUSR1) });
    let me = getpid();
    let pid = child(|| {
        await_sleep(me);
        unsafe { libc::kill(me, libc::SIGUSR1) };
        0
    });
    say("woken by another", c!(libc::sigsuspend(&sigset(&[]))));
    reap(pid);
    mask(libc::SIG_SETMASK, &[]);
    let pid = child(|| {
        await_sleep(me);
        unsafe { libc::kill(me, libc::SIGUSR1) };
        0
    });
    say("pause", c!(libc::pause()));
    reap(pid);
    say("bad size", sc!(libc::SYS_rt_sigsuspend, 0, 4));
}

fn sigwaitinfo() {
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGUSR2, 40]);
    queue(40, 17);
    let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let r = c!(libc::sigwaitinfo(&sigset(&[40]), &mut i));
    say(
        "queued",
        format!("{r} {} {}", code_name(i.si_code), unsafe { i.si_value().sival_ptr } as usize),
    );
    let me = getpid();
    let pid = child(|| {
        await_sleep(me);
        unsafe { libc::kill(me, libc::SIGUSR2) };
        0
    });
    say("waits", c!(libc::sigwaitinfo(&sigset(&[libc::SIGUSR2]), &mut i)));
    say("from the child", unsafe { i.si_pid() } == pid);
    reap(pid);
    on_signal(libc::SIGHUP, note, libc::SA_RESTART);
    let pid = child(|| {
        await_sleep(me);
        unsafe { libc::kill(me, libc::SIGHUP) };
        0
    });
    say(
        "another signal interrupts, SA_RESTART or not",
        c!(libc::sigwaitinfo(&sigset(&[libc::SIGUSR2]), &mut i)),
    );
    reap(pid);
}

fn sigtimedwait() {
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    let set = sigset(&[libc::SIGUSR1]);
    let t = |s, n| libc::timespec { tv_sec: s, tv_nsec: n };
    say("nothing, zero time", c!(libc::sigtimedwait(&set, std::ptr::null_mut(), &t(0, 0))));
    say("nothing, 1 ms", c!(libc::sigtimedwait(&set, std::ptr::null_mut(), &t(0, 1_000_000))));
    unsafe { libc::raise(libc::SIGUSR1) };
    say("pending", c!(libc::sigtimedwait(&set, std::ptr::null_mut(), &t(0, 0))));
    say("bad nsec", c!(libc::sigtimedwait(&set, std::ptr::null_mut(), &t(0, 1_000_000_000))));
    say("negative", c!(libc::sigtimedwait(&set, std::ptr::null_mut(), &t(-1, 0))));
    say("bad size", sc!(libc::SYS_rt_sigtimedwait, &set as *const _, 0, 0, 4));
}

fn signalfd() {
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1, 40, 41, libc::SIGCHLD]);
    let fd = c!(libc::signalfd(
        -1,
        &sigset(&[libc::SIGUSR1, 40]),
        libc::SFD_NONBLOCK | libc::SFD_CLOEXEC
    ));
    say("make", fd.ok());
    let fd = fd.fd();
    say("empty", read_text(fd, 128));
    let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    say("poll", c!(libc::poll(&mut p, 1, 0)));
    queue(40, 5);
    queue(40, 6);
    unsafe { libc::raise(libc::SIGUSR1) };
    say("poll", c!(libc::poll(&mut p, 1, 0)));
    say("short buffer", read_text(fd, 127));
    let mut b: [libc::signalfd_siginfo; 4] = unsafe { std::mem::zeroed() };
    let r = c!(libc::read(fd, b.as_mut_ptr().cast(), 512));
    say("bytes", r);
    for i in &b[..3] {
        let me = i.ssi_pid == getpid() as u32;
        say(
            "  info",
            format!(
                "{} {} int {} self {me}",
                signal_name(i.ssi_signo as i32),
                code_name(i.ssi_code),
                i.ssi_int
            ),
        );
    }
    say("change the mask", c!(libc::signalfd(fd, &sigset(&[41]), 0)) == R(fd.into()));
    queue(40, 1);
    say("not in the mask now", read_text(fd, 128));
    queue(41, 1);
    say("in the mask", read(fd, 128).map(|v| v.len()).unwrap_or(0));
    let ch = c!(libc::signalfd(-1, &sigset(&[libc::SIGCHLD]), 0)).fd();
    let pid = child(|| 3);
    let r = c!(libc::read(ch, b.as_mut_ptr().cast(), 128));
    say("SIGCHLD", format!("{r} status {} pid {}", b[0].ssi_status, b[0].ssi_pid == pid as u32));
    reap(pid);
    say("write", write(fd, &[0; 128]));
    say("not a signalfd", c!(libc::signalfd(1, &sigset(&[41]), 0)));
    say("bad flags", c!(libc::signalfd(-1, &sigset(&[41]), 1)));
    say("bad fd", c!(libc::signalfd(999, &sigset(&[41]), 0)));
}

fn restart_read() {
    for (name, flags) in [("SA_RESTART", libc::SA_RESTART), ("no flag", 0)] {
        on_signal(libc::SIGUSR1, note, flags);
        let (r, w) = pipe();
        say(
            &format!("pipe read, {name}"),
            interrupted(
                libc::SIGUSR1,
                || read_text(r, 10),
                || {
                    write(w, b"data");
                },
            ),
        );
        let mut sv = [0; 2];
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, sv.as_mut_ptr()) };
        say(
            &format!("socket read, {name}"),
            interrupted(
                libc::SIGUSR1,
                || read_text(sv[0], 10),
                || {
                    write(sv[1], b"data");
                },
            ),
        );
        let ev = c!(libc::eventfd(0, 0)).fd();
        say(
            &format!("eventfd read, {name}"),
            interrupted(
                libc::SIGUSR1,
                || read_text(ev, 8),
                || {
                    write(ev, &1u64.to_ne_bytes());
                },
            ),
        );
        // A write that waits for room.
        let (r, w) = pipe();
        let full = vec![b'x'; 65536];
        write(w, &full);
        say(
            &format!("pipe write, {name}"),
            interrupted(
                libc::SIGUSR1,
                || write(w, b"more").to_string(),
                || {
                    let _ = read(r, 65536);
                },
            ),
        );
        say(&format!("open of a fifo, {name}"), {
            let n = format!("fifo{flags}");
            let p = cstr(&n);
            unsafe { libc::mkfifo(p.as_ptr(), 0o600) };
            interrupted(
                libc::SIGUSR1,
                || open(&n, libc::O_RDONLY).ok(),
                || {
                    open(&n, libc::O_RDWR | libc::O_NONBLOCK);
                },
            )
        });
        let f = open("lock", libc::O_RDWR | libc::O_CREAT).fd();
        let (hold, release) = (Event::new(), Event::new());
        let holder = child(|| {
            let f2 = open("lock", libc::O_RDWR).fd();
            unsafe { libc::flock(f2, libc::LOCK_EX) };
            hold.post();
            release.wait();
            0
        });
        hold.wait();
        say(
            &format!("flock, {name}"),
            interrupted(
                libc::SIGUSR1,
                || c!(libc::flock(f, libc::LOCK_EX)).to_string(),
                || {
                    release.post();
                },
            ),
        );
        reap(holder);
        close(f);
    }
}

fn restart_wait() {
    for (name, flags) in [("SA_RESTART", libc::SA_RESTART), ("no flag", 0)] {
        on_signal(libc::SIGUSR1, note, flags);
        let go = Event::new();
        let pid = child(|| {
            go.wait();
            11
        });
        let mut s = 0;
        let r = interrupted(
            libc::SIGUSR1,
            || {
                let r = c!(libc::waitpid(pid, &mut s, 0));
                if r.is_ok() { status_text(s) } else { r.to_string() }
            },
            || go.post(),
        );
        say(name, r);
        wait_opt(pid, libc::WNOHANG);
    }
}

fn restart_nanosleep() {
    for (name, flags) in [("SA_RESTART", libc::SA_RESTART), ("no flag", 0)] {
        on_signal(libc::SIGUSR1, note, flags);
        let mut rem = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let t = libc::timespec { tv_sec: 1000, tv_nsec: 0 };
        let r = interrupted(libc::SIGUSR1, || c!(libc::nanosleep(&t, &mut rem)).to_string(), || {});
        say(&format!("nanosleep, {name}"), r);
        say("  rest over 900 s", rem.tv_sec > 900 && rem.tv_sec <= 1000);
        let r = interrupted(
            libc::SIGUSR1,
            || {
                let r = unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &t, &mut rem) };
                errno_name(r)
            },
            || {},
        );
        say(&format!("clock_nanosleep, {name}"), r);
        rem.tv_sec = 7;
        let r = interrupted(
            libc::SIGUSR1,
            || {
                let mut at: libc::timespec = unsafe { std::mem::zeroed() };
                unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut at) };
                at.tv_sec += 1000;
                let r = unsafe {
                    libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &at, &mut rem)
                };
                errno_name(r)
            },
            || {},
        );
        say(&format!("absolute, {name}"), r);
        say("  rest untouched", rem.tv_sec);
    }
}

fn restart_futex() {
    let w = shared_words();
    for (name, flags) in [("SA_RESTART", libc::SA_RESTART), ("no flag", 0)] {
        on_signal(libc::SIGUSR1, note, flags);
        w[0].store(0, SeqCst);
        let r = interrupted(
            libc::SIGUSR1,
            || futex_wait(&w[0], 0).to_string(),
            || {
                futex_wake(&w[0], 1);
            },
        );
        say(&format!("wait without timeout, {name}"), r);
        let t = libc::timespec { tv_sec: 1000, tv_nsec: 0 };
        let r = interrupted(
            libc::SIGUSR1,
            || {
                sc!(libc::SYS_futex, w[1].as_ptr(), libc::FUTEX_WAIT, 0, &t as *const _, 0, 0)
                    .to_string()
            },
            || {
                futex_wake(&w[1], 1);
            },
        );
        say(&format!("wait with timeout, {name}"), r);
    }
}

fn no_restart_poll() {
    on_signal(libc::SIGUSR1, note, libc::SA_RESTART);
    let (r, _w) = pipe();
    let mut p = libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 };
    say("poll", interrupted(libc::SIGUSR1, || c!(libc::poll(&mut p, 1, -1)).to_string(), || {}));
    let ep = c!(libc::epoll_create1(0)).fd();
    let mut ev: libc::epoll_event = unsafe { std::mem::zeroed() };
    say(
        "epoll_wait",
        interrupted(libc::SIGUSR1, || c!(libc::epoll_wait(ep, &mut ev, 1, -1)).to_string(), || {}),
    );
    say(
        "select",
        interrupted(
            libc::SIGUSR1,
            || {
                let mut f: libc::fd_set = unsafe { std::mem::zeroed() };
                unsafe { libc::FD_SET(r, &mut f) };
                c!(libc::select(
                    r + 1,
                    &mut f,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut()
                ))
                .to_string()
            },
            || {},
        ),
    );
    say("pause", interrupted(libc::SIGUSR1, || c!(libc::pause()).to_string(), || {}));
    let mut sv = [0; 2];
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, sv.as_mut_ptr()) };
    let tv = libc::timeval { tv_sec: 1000, tv_usec: 0 };
    unsafe {
        libc::setsockopt(sv[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const tv).cast(), 16)
    };
    say("read with SO_RCVTIMEO", interrupted(libc::SIGUSR1, || read_text(sv[0], 4), || {}));
}

fn stop_continue_does_not_interrupt() {
    let me_words = shared_words();
    let (r, w) = pipe();
    let pid = child(|| {
        me_words[0].store(1, SeqCst);
        say("read over stop and continue", read_text(r, 10));
        let mut p = libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 };
        me_words[0].store(2, SeqCst);
        say("poll over stop and continue", c!(libc::poll(&mut p, 1, -1)));
        0
    });
    for round in 1..=2 {
        while me_words[0].load(SeqCst) != round {
            pause_poll();
        }
        await_sleep(pid);
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        wait_opt(pid, libc::WUNTRACED);
        unsafe { libc::kill(pid, libc::SIGCONT) };
        wait_opt(pid, libc::WCONTINUED);
        await_sleep(pid);
        write(w, b"late");
    }
    say("status", reap(pid));
}

fn sigchld_codes() {
    mask(libc::SIG_BLOCK, &[libc::SIGCHLD]);
    let set = sigset(&[libc::SIGCHLD]);
    let next = |name: &str, pid: i32| {
        let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
        unsafe { libc::sigwaitinfo(&set, &mut i) };
        let code = match i.si_code {
            libc::CLD_EXITED => "CLD_EXITED",
            libc::CLD_KILLED => "CLD_KILLED",
            libc::CLD_DUMPED => "CLD_DUMPED",
            libc::CLD_STOPPED => "CLD_STOPPED",
            libc::CLD_CONTINUED => "CLD_CONTINUED",
            _ => "?",
        };
        let (p, s) = unsafe { (i.si_pid() == pid, i.si_status()) };
        say(name, format!("{code} status {s} pid {p}"));
    };
    let pid = child(|| 7);
    next("exit", pid);
    reap(pid);
    let pid = child(|| unsafe { libc::pause() });
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    next("stop", pid);
    unsafe { libc::kill(pid, libc::SIGCONT) };
    next("continue", pid);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    next("kill", pid);
    reap(pid);
}

fn signals_in_fork_storm() {
    // A timer fires through a hundred forks; none may be lost or fail.
    on_signal(libc::SIGALRM, note, libc::SA_RESTART);
    let it = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 500 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 500 },
    };
    unsafe { libc::setitimer(libc::ITIMER_REAL, &it, std::ptr::null_mut()) };
    let ok = (0..100).filter(|i| in_child(|| *i) == format!("exit {i}")).count();
    say("forks", ok);
    while COUNT.load(SeqCst) < 10 {
        pause_poll();
    }
    say("timer went on", true);
}
