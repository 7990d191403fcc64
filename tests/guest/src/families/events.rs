//! poll, select, ppoll, pselect, epoll in its modes, eventfd, timerfd.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

cases! {
    poll_basics, poll_errors, ppoll_mask, select_basics, select_errors, select_places, pselect, sleeping_poll_woken, epoll_level, epoll_edge, epoll_oneshot,
    epoll_exclusive, epoll_ctl_errors, epoll_nested, epoll_close_and_dup, epoll_order_and_batches, epoll_pwait, epoll_many, epoll_kinds_refused, epoll_fdinfo,
    eventfd_basics, eventfd_semaphore, eventfd_limits, eventfd_poll, timerfd_basics, timerfd_interval, timerfd_absolute, timerfd_errors, timerfd_cancel,
    wait_by_two, kcmp_epoll,
}

fn bits(v: i16) -> String {
    let names = [
        (1, "IN"),
        (2, "PRI"),
        (4, "OUT"),
        (8, "ERR"),
        (16, "HUP"),
        (32, "NVAL"),
        (64, "RDNORM"),
        (256, "WRNORM"),
        (0x2000, "RDHUP"),
    ];
    let l: Vec<&str> = names.iter().filter(|(b, _)| v & b != 0).map(|(_, n)| *n).collect();
    if l.is_empty() { "-".into() } else { l.join("|") }
}

fn poll_fds(f: &mut [libc::pollfd], ms: i32) -> R {
    c!(libc::poll(f.as_mut_ptr(), f.len() as u64, ms))
}

fn pfd(fd: i32, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0x7fff }
}

fn poll_basics() {
    let (r, w) = pipe();
    put("f", b"");
    let file = open("f", libc::O_RDWR).fd();
    let all = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDNORM | libc::POLLWRNORM;
    let mut f =
        [pfd(r, all), pfd(w, all), pfd(file, all), pfd(-1, all), pfd(-7, all), pfd(900, all)];
    say("count", poll_fds(&mut f, 0));
    say("revents", f.iter().map(|p| bits(p.revents)).collect::<Vec<_>>().join(", "));
    write(w, b"x");
    say("count", poll_fds(&mut f, 0));
    say("revents", f.iter().map(|p| bits(p.revents)).collect::<Vec<_>>().join(", "));
    let mut f = [pfd(r, 0)];
    say("no events asked", poll_fds(&mut f, 0));
    close(w);
    say("HUP comes unasked", format!("{} {}", poll_fds(&mut f, 0), bits(f[0].revents)));
    say("none, 1 ms", c!(libc::poll(std::ptr::null_mut(), 0, 1)));
    say("twice the same", {
        let mut f = [pfd(r, 1), pfd(r, 1)];
        poll_fds(&mut f, 0)
    });
}

fn poll_errors() {
    say("bad pointer", sc!(libc::SYS_poll, 8, 1, 0));
    say("count over the limit", {
        let mut f = vec![pfd(-1, 1); 5000];
        c!(libc::poll(f.as_mut_ptr(), 5000, 0))
    });
    let t = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    say("ppoll bad time", sc!(libc::SYS_ppoll, 0, 0, &t as *const _, 0, 8));
    let t = libc::timespec { tv_sec: -1, tv_nsec: 0 };
    say("ppoll negative", sc!(libc::SYS_ppoll, 0, 0, &t as *const _, 0, 8));
    let s = sigset(&[]);
    let t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    say("ppoll bad mask size", sc!(libc::SYS_ppoll, 0, 0, &t as *const _, &s as *const _, 4));
}

static HITS: AtomicI32 = AtomicI32::new(0);
extern "C" fn hit(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    HITS.fetch_add(1, SeqCst);
}

fn ppoll_mask() {
    on_signal(libc::SIGUSR1, hit, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    unsafe { libc::raise(libc::SIGUSR1) };
    let (r, _w) = pipe();
    let mut f = [pfd(r, libc::POLLIN)];
    let t = libc::timespec { tv_sec: 100, tv_nsec: 0 };
    let none = sigset(&[]);
    say("ppoll with the signal open", c!(libc::ppoll(f.as_mut_ptr(), 1, &t, &none)));
    say("handler", HITS.load(SeqCst));
    unsafe { libc::raise(libc::SIGUSR1) };
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let blocked = sigset(&[libc::SIGUSR1]);
    say("ppoll with it blocked", c!(libc::ppoll(f.as_mut_ptr(), 1, &zero, &blocked)));
    say("handler", HITS.load(SeqCst));
    let mut p = sigset(&[]);
    unsafe { libc::sigpending(&mut p) };
    say("still pending", unsafe { libc::sigismember(&p, libc::SIGUSR1) });
}

fn fdset(fds: &[i32]) -> libc::fd_set {
    unsafe {
        let mut s: libc::fd_set = std::mem::zeroed();
        for f in fds {
            libc::FD_SET(*f, &mut s);
        }
        s
    }
}

fn select_basics() {
    let (r, w) = pipe();
    let zero = || libc::timeval { tv_sec: 0, tv_usec: 0 };
    let (mut rs, mut ws) = (fdset(&[r]), fdset(&[w]));
    let mut t = zero();
    let r1 = c!(libc::select(w.max(r) + 1, &mut rs, &mut ws, std::ptr::null_mut(), &mut t));
    let isset = |f, s: &libc::fd_set| unsafe { libc::FD_ISSET(f, s) };
    say("empty pipe", format!("{r1} {} {}", isset(r, &rs), isset(w, &ws)));
    write(w, b"x");
    let (mut rs, mut es) = (fdset(&[r]), fdset(&[r]));
    let r1 = c!(libc::select(r + 1, &mut rs, std::ptr::null_mut(), &mut es, std::ptr::null_mut()));
    say("data", format!("{r1} {} {}", isset(r, &rs), isset(r, &es)));
    let mut t = libc::timeval { tv_sec: 0, tv_usec: 1500 };
    say(
        "only time",
        c!(libc::select(
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            &mut t
        )),
    );
    say("time left is written back", format!("{} {}", t.tv_sec, t.tv_usec));
    let mut rs = fdset(&[r]);
    let mut t = libc::timeval { tv_sec: 100, tv_usec: 0 };
    c!(libc::select(r + 1, &mut rs, std::ptr::null_mut(), std::ptr::null_mut(), &mut t));
    say("rest of 100 s", t.tv_sec >= 90);
    unsafe { libc::dup2(r, 700) };
    let mut rs = fdset(&[700]);
    say(
        "high descriptor",
        c!(libc::select(701, &mut rs, std::ptr::null_mut(), std::ptr::null_mut(), &mut zero())),
    );
}

fn select_errors() {
    let null = std::ptr::null_mut::<libc::fd_set>();
    let mut rs = fdset(&[900]);
    say(
        "bad descriptor in a set",
        c!(libc::select(901, &mut rs, null, null, &mut libc::timeval { tv_sec: 0, tv_usec: 0 })),
    );
    say("negative count", c!(libc::select(-1, null, null, null, std::ptr::null_mut())));
    say(
        "negative time",
        c!(libc::select(0, null, null, null, &mut libc::timeval { tv_sec: -1, tv_usec: 0 })),
    );
    say(
        "microseconds over a second",
        c!(libc::select(0, null, null, null, &mut libc::timeval { tv_sec: 0, tv_usec: 1_500_000 })),
    );
    say("bad pointer", sc!(libc::SYS_select, 10, 8, 0, 0, 0));
}

/// What is found first when several places are wrong, and what is written all the same.
fn select_places() {
    let (r, w) = pipe();
    write(w, b"x");
    let page = || unsafe {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) as u64
    };
    let put = |at: u64, words: &[i64]| {
        for (i, n) in words.iter().enumerate() {
            unsafe { ((at + 8 * i as u64) as *mut i64).write(*n) };
        }
    };
    let get = |at: u64, i: u64| unsafe { ((at + 8 * i) as *const i64).read() };
    let n = r.max(w) as i64 + 1;
    let (time, reading, writing) = (page(), page(), page());
    let reset = || {
        put(time, &[100, 0]);
        put(reading, &[1 << r]);
        put(writing, &[1 << w]);
    };
    for call in [libc::SYS_select, libc::SYS_pselect6] {
        let ask = |n: i64, r: u64, w: u64, t: u64| sc!(call, n, r, w, 0, t, 0);
        reset();
        say("all is well", ask(n, reading, writing, time));
        say("sets", get(reading, 0) == 1 << r && get(writing, 0) == 1 << w);
        say("time went on", get(time, 0) == 99);
        reset();
        put(time, &[-1, 0]);
        say("time and set are wrong", ask(n, 8, writing, time));
        say("bad time and bad count", ask(-1, reading, writing, 16));
        reset();
        say("bad count and bad set", ask(-1, 8, writing, time));
        say("bad set", ask(n, reading, 8, time));
        say("time after an error", get(time, 0) == 99);
        reset();
        put(reading, &[1 << r | 1 << 60]);
        say("bad descriptor, bad set", ask(61, reading, 8, time));
        say("bad descriptor", ask(61, reading, writing, time));
        say("sets after an error", get(reading, 0) == (1 << r | 1 << 60));
        for (what, at) in [("time", time), ("first set", reading), ("second set", writing)] {
            reset();
            unsafe { libc::mprotect(at as *mut _, 4096, libc::PROT_READ) };
            say(&format!("{what} cannot be written"), ask(n, reading, writing, time));
            say("time went on", get(time, 0) == 99);
            unsafe { libc::mprotect(at as *mut _, 4096, libc::PROT_READ | libc::PROT_WRITE) };
        }
    }
}

fn pselect() {
    on_signal(libc::SIGUSR1, hit, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    unsafe { libc::raise(libc::SIGUSR1) };
    let null = std::ptr::null_mut::<libc::fd_set>();
    let t = libc::timespec { tv_sec: 100, tv_nsec: 0 };
    say("with the signal open", c!(libc::pselect(0, null, null, null, &t, &sigset(&[]))));
    say("handler", HITS.load(SeqCst));
    let t = libc::timespec { tv_sec: 0, tv_nsec: 1000 };
    say("plain", c!(libc::pselect(0, null, null, null, &t, std::ptr::null())));
}

fn sleeping_poll_woken() {
    let (r, w) = pipe();
    let pid = child(|| {
        let mut f = [pfd(r, libc::POLLIN)];
        let n = poll_fds(&mut f, -1);
        (n.0 == 1 && f[0].revents == libc::POLLIN) as i32
    });
    await_sleep(pid);
    write(w, b"x");
    say("by data", reap(pid));
    let (r, w) = pipe();
    let pid = child(|| {
        close(w);
        let mut f = [pfd(r, libc::POLLIN)];
        poll_fds(&mut f, -1);
        (f[0].revents == libc::POLLHUP) as i32
    });
    await_sleep(pid);
    close(w);
    say("by the end", reap(pid));
    let (r, w) = pipe();
    write(w, &[0; 65536]);
    let pid = child(|| {
        let mut f = [pfd(w, libc::POLLOUT)];
        poll_fds(&mut f, -1).0 as i32
    });
    await_sleep(pid);
    let _ = read(r, 65536);
    say("by room", reap(pid));
}

fn ep() -> i32 {
    c!(libc::epoll_create1(libc::EPOLL_CLOEXEC)).fd()
}

fn ctl(e: i32, op: i32, fd: i32, events: i32, data: u64) -> R {
    let mut ev = libc::epoll_event { events: events as u32, u64: data };
    c!(libc::epoll_ctl(e, op, fd, &mut ev))
}

fn add(e: i32, fd: i32, events: i32, data: u64) -> R {
    ctl(e, libc::EPOLL_CTL_ADD, fd, events, data)
}

fn wait_ms(e: i32, max: i32, ms: i32) -> String {
    let mut v: Vec<libc::epoll_event> = vec![unsafe { std::mem::zeroed() }; max.max(1) as usize];
    let r = c!(libc::epoll_wait(e, v.as_mut_ptr(), max, ms));
    if !r.is_ok() {
        return r.to_string();
    }
    let mut l: Vec<String> = v[..r.0 as usize]
        .iter()
        .map(|e| format!("{}:{}", { e.u64 }, bits(e.events as i16)))
        .collect();
    l.sort();
    if l.is_empty() { "nothing".into() } else { l.join(" ") }
}

fn ready(e: i32) -> String {
    wait_ms(e, 10, 0)
}

fn epoll_level() {
    let e = ep();
    let (r, w) = pipe();
    say("add", add(e, r, libc::EPOLLIN, 1));
    say("add write end", add(e, w, libc::EPOLLOUT, 2));
    say("empty pipe", ready(e));
    write(w, b"ab");
    say("data", ready(e));
    say("again", ready(e));
    let _ = read(r, 1);
    say("a byte left", ready(e));
    let _ = read(r, 1);
    say("none left", ready(e));
    say("modify", ctl(e, libc::EPOLL_CTL_MOD, w, 0, 5));
    say("nothing wanted", ready(e));
    close(r);
    say("ERR comes unasked; the closed one is gone", ready(e));
    say("delete", ctl(e, libc::EPOLL_CTL_DEL, w, 0, 0));
    say("empty", ready(e));
}

fn epoll_edge() {
    let e = ep();
    let (r, w) = pipe();
    add(e, r, libc::EPOLLIN | libc::EPOLLET, 1);
    write(w, b"a");
    say("first", ready(e));
    say("no second report", ready(e));
    write(w, b"b");
    say("new data", ready(e));
    let _ = read(r, 1);
    say("a read is no edge", ready(e));
    say("modify re-arms", {
        ctl(e, libc::EPOLL_CTL_MOD, r, libc::EPOLLIN | libc::EPOLLET, 1);
        ready(e)
    });
    close(w);
    say("hangup", ready(e));
    say("not again", ready(e));
    let (r2, w2) = pipe();
    write(w2, b"x");
    add(e, r2, libc::EPOLLIN | libc::EPOLLET, 3);
    say("added when ready", ready(e));
    let ev = c!(libc::eventfd(0, libc::EFD_NONBLOCK)).fd();
    add(e, ev, libc::EPOLLIN | libc::EPOLLET, 4);
    for _ in 0..2 {
        write(ev, &1u64.to_ne_bytes());
        say("each eventfd write is an edge", ready(e));
    }
    let (r3, w3) = pipe();
    let _ = r3;
    add(e, w3, libc::EPOLLOUT | libc::EPOLLET, 5);
    say("writable", ready(e));
    write(w3, b"x");
    say("still writable is no edge", ready(e));
}

fn epoll_oneshot() {
    let e = ep();
    let (r, w) = pipe();
    add(e, r, libc::EPOLLIN | libc::EPOLLONESHOT, 1);
    write(w, b"a");
    say("first", ready(e));
    write(w, b"b");
    say("disabled", ready(e));
    close(w);
    say("even for a hangup", ready(e));
    ctl(e, libc::EPOLL_CTL_MOD, r, libc::EPOLLIN | libc::EPOLLONESHOT, 2);
    say("armed again", ready(e));
    say("once", ready(e));
}

fn epoll_exclusive() {
    let (r, w) = pipe();
    let woken = shared_words();
    let kids: Vec<i32> = (0..4)
        .map(|_| {
            let p = child(|| {
                let e = ep();
                add(e, r, libc::EPOLLIN | libc::EPOLLEXCLUSIVE, 1);
                let mut ev: libc::epoll_event = unsafe { std::mem::zeroed() };
                c!(libc::epoll_wait(e, &mut ev, 1, -1));
                woken[0].fetch_add(1, SeqCst);
                // Take what woke us, so that level triggering does not concern the others.
                let _ = read(r, 1);
                0
            });
            await_sleep(p);
            p
        })
        .collect();
    write(w, b"1");
    while woken[0].load(SeqCst) == 0 {
        pause_poll();
    }
    say("at least one, not all", (1..4).contains(&woken[0].load(SeqCst)));
    close(w);
    for _ in 0..4 {
        write(w, b"x");
    }
    for k in kids {
        unsafe { libc::kill(k, libc::SIGKILL) };
        reap(k);
    }
    let e = ep();
    say("with ONESHOT", add(e, r, libc::EPOLLIN | libc::EPOLLEXCLUSIVE | libc::EPOLLONESHOT, 1));
    say("add", add(e, r, libc::EPOLLIN | libc::EPOLLEXCLUSIVE, 1));
    say("modify", ctl(e, libc::EPOLL_CTL_MOD, r, libc::EPOLLIN, 1));
    let inner = ep();
    say("of an epoll", add(e, inner, libc::EPOLLIN | libc::EPOLLEXCLUSIVE, 1));
}

fn epoll_ctl_errors() {
    let e = ep();
    let (r, _w) = pipe();
    put("f", b"");
    add(e, r, libc::EPOLLIN, 1);
    say("add twice", add(e, r, libc::EPOLLIN, 1));
    say("modify missing", ctl(e, libc::EPOLL_CTL_MOD, 0, 1, 1));
    say("delete missing", ctl(e, libc::EPOLL_CTL_DEL, 0, 0, 0));
    say("itself", add(e, e, 1, 1));
    say("bad descriptor", add(e, 999, 1, 1));
    say("bad epoll", add(999, r, 1, 1));
    say("not an epoll", add(r, r, 1, 1));
    say("regular file", add(e, open("f", 0).fd(), 1, 1));
    say("directory", add(e, open(".", 0).fd(), 1, 1));
    say("bad operation", ctl(e, 9, r, 1, 1));
    say("bad pointer", sc!(libc::SYS_epoll_ctl, e, libc::EPOLL_CTL_MOD, r, 8));
    say("delete needs no event", sc!(libc::SYS_epoll_ctl, e, libc::EPOLL_CTL_DEL, r, 0));
    say("wait: 0 events", wait_ms(e, 0, 0));
    say("wait: negative", wait_ms(e, -1, 0));
    say("wait: bad pointer", {
        let (r, w) = pipe();
        write(w, b"x");
        add(e, r, libc::EPOLLIN, 1);
        sc!(libc::SYS_epoll_wait, e, 8, 1, 0)
    });
    say("wait: not an epoll", wait_ms(r, 1, 0));
    say("create size 0", c!(libc::epoll_create(0)));
    say("create1 flags", c!(libc::epoll_create1(1)));
}

fn epoll_nested() {
    let (outer, inner) = (ep(), ep());
    let (r, w) = pipe();
    add(inner, r, libc::EPOLLIN, 1);
    say("add", add(outer, inner, libc::EPOLLIN, 2));
    say("idle", ready(outer));
    write(w, b"x");
    say("inner ready", ready(outer));
    say("cycle", add(inner, outer, libc::EPOLLIN, 3));
    let mut f = [pfd(outer, libc::POLLIN)];
    say("poll of an epoll", format!("{} {}", poll_fds(&mut f, 0), bits(f[0].revents)));
    let _ = read(r, 1);
    say("drained", ready(outer));
    let mut top = outer;
    let mut err = R(0);
    for _ in 0..10 {
        let e = ep();
        err = add(e, top, libc::EPOLLIN, 1);
        if !err.is_ok() {
            break;
        }
        top = e;
    }
    say("too deep", err);
}

fn epoll_close_and_dup() {
    let e = ep();
    let (r, w) = pipe();
    write(w, b"x");
    add(e, r, libc::EPOLLIN, 1);
    let d = c!(libc::dup(r)).fd();
    close(r);
    say("closed, but a dup lives: still reported", ready(e));
    close(d);
    say("last one closed", ready(e));
    // The same number again is another file.
    let (r2, w2) = pipe();
    write(w2, b"x");
    say("a new file under an old number is not watched", ready(e));
    say("and can be added", add(e, r2, libc::EPOLLIN, 2));
    say("is reported", ready(e));
    let s = in_child(|| {
        say("child shares it", ready(e));
        0
    });
    say("child", s);
}

fn epoll_order_and_batches() {
    let e = ep();
    let fds: Vec<(i32, i32)> = (0..6).map(|_| pipe()).collect();
    for (i, (r, w)) in fds.iter().enumerate() {
        add(e, *r, libc::EPOLLIN, i as u64);
        write(*w, b"x");
    }
    let take = || {
        let mut v: [libc::epoll_event; 2] = unsafe { std::mem::zeroed() };
        let n = c!(libc::epoll_wait(e, v.as_mut_ptr(), 2, 0)).0 as usize;
        v[..n].iter().map(|e| e.u64).collect::<Vec<_>>()
    };
    // Two at a time, every ready one gets its turn before any comes twice.
    let mut seen: Vec<u64> = (0..3).flat_map(|_| take()).collect();
    seen.sort();
    say("round robin", format!("{seen:?}"));
    say("the first again", format!("{:?}", take()));
}

fn epoll_pwait() {
    on_signal(libc::SIGUSR1, hit, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    unsafe { libc::raise(libc::SIGUSR1) };
    let e = ep();
    let mut ev: libc::epoll_event = unsafe { std::mem::zeroed() };
    say("open", c!(libc::epoll_pwait(e, &mut ev, 1, -1, &sigset(&[]))));
    say("handler", HITS.load(SeqCst));
    let t = libc::timespec { tv_sec: 0, tv_nsec: 1000 };
    say("epoll_pwait2", sc!(441, e, &mut ev as *mut _, 1, &t as *const _, 0, 0));
    let t = libc::timespec { tv_sec: 0, tv_nsec: -1 };
    say("epoll_pwait2 bad time", sc!(441, e, &mut ev as *mut _, 1, &t as *const _, 0, 0));
    say(
        "bad mask size",
        sc!(libc::SYS_epoll_pwait, e, &mut ev as *mut _, 1, 0, &sigset(&[]) as *const _, 4),
    );
}

fn epoll_many() {
    let l = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &l) };
    let e = ep();
    let fds: Vec<i32> = (0..900).map(|_| c!(libc::eventfd(0, libc::EFD_NONBLOCK)).fd()).collect();
    say(
        "added",
        fds.iter()
            .enumerate()
            .filter(|(i, f)| add(e, **f, libc::EPOLLIN, *i as u64).is_ok())
            .count(),
    );
    for i in (0..900).step_by(3) {
        write(fds[i], &1u64.to_ne_bytes());
    }
    let mut v: Vec<libc::epoll_event> = vec![unsafe { std::mem::zeroed() }; 1000];
    let n = c!(libc::epoll_wait(e, v.as_mut_ptr(), 1000, 0)).0 as usize;
    say("ready", n);
    say("the right ones", v[..n].iter().all(|e| e.u64 % 3 == 0));
}

fn epoll_kinds_refused() {
    let e = ep();
    for p in ["/dev/null", "/dev/zero", "/dev/urandom", "/proc/self/status", "/proc/self/mounts"] {
        say(p, add(e, open(p, 0).fd(), libc::EPOLLIN, 1));
    }
}

fn epoll_fdinfo() {
    let e = ep();
    let (r, _w) = pipe();
    add(e, r, libc::EPOLLIN, 0x1234);
    let t = std::fs::read_to_string(format!("/proc/self/fdinfo/{e}")).unwrap();
    let l = t.lines().find(|l| l.starts_with("tfd:")).unwrap();
    let w: Vec<&str> = l.split_whitespace().collect();
    say("tfd", w[1] == r.to_string());
    say("events data", format!("{} {}", w[3], w[5]));
    let l = std::fs::read_link(format!("/proc/self/fd/{e}")).unwrap();
    say("link", l.display());
}

fn eventfd_basics() {
    let fd = c!(libc::eventfd(5, libc::EFD_NONBLOCK)).fd();
    let rd = || match read(fd, 8) {
        Ok(b) => u64::from_ne_bytes(b.try_into().unwrap()).to_string(),
        Err(r) => r.to_string(),
    };
    say("initial", rd());
    say("empty", rd());
    write(fd, &3u64.to_ne_bytes());
    write(fd, &4u64.to_ne_bytes());
    say("sum", rd());
    say("write 0", write(fd, &0u64.to_ne_bytes()));
    say("nothing", rd());
    say("short write", write(fd, &[1; 4]));
    say("short read", read_text(fd, 4));
    say("long read", {
        write(fd, &1u64.to_ne_bytes());
        read(fd, 100).map(|b| b.len()).unwrap_or(0)
    });
    say("long write", write(fd, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 9]));
    say("lseek", c!(libc::lseek(fd, 0, 0)));
    say("bad flags", c!(libc::eventfd(0, 0x10)));
    let pid = child(|| {
        let b = c!(libc::eventfd(0, 0)).fd();
        let _ = b;
        0
    });
    reap(pid);
    let l = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    say("link", l.display());
}

fn eventfd_semaphore() {
    let fd = c!(libc::eventfd(2, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)).fd();
    for _ in 0..3 {
        say(
            "read",
            match read(fd, 8) {
                Ok(b) => u64::from_ne_bytes(b.try_into().unwrap()).to_string(),
                Err(r) => r.to_string(),
            },
        );
    }
}

fn eventfd_limits() {
    let fd = c!(libc::eventfd(0, libc::EFD_NONBLOCK)).fd();
    say("all ones", write(fd, &u64::MAX.to_ne_bytes()));
    say("largest", write(fd, &(u64::MAX - 1).to_ne_bytes()));
    say("one more", write(fd, &1u64.to_ne_bytes()));
    let mut f = [pfd(fd, libc::POLLIN | libc::POLLOUT)];
    poll_fds(&mut f, 0);
    say("poll when full", bits(f[0].revents));
    let b = c!(libc::eventfd(0, 0)).fd();
    write(b, &(u64::MAX - 1).to_ne_bytes());
    let pid = child(|| write(b, &1u64.to_ne_bytes()).0 as i32);
    await_sleep(pid);
    let _ = read(b, 8);
    say("a sleeping writer goes on", reap(pid));
}

fn eventfd_poll() {
    let fd = c!(libc::eventfd(0, 0)).fd();
    let mut f = [pfd(fd, libc::POLLIN | libc::POLLOUT)];
    poll_fds(&mut f, 0);
    say("zero", bits(f[0].revents));
    write(fd, &1u64.to_ne_bytes());
    poll_fds(&mut f, 0);
    say("one", bits(f[0].revents));
}

fn spec(s: i64, n: i64) -> libc::timespec {
    libc::timespec { tv_sec: s, tv_nsec: n }
}

fn tfd(clock: i32, flags: i32) -> R {
    c!(libc::timerfd_create(clock, flags))
}

fn set(fd: i32, flags: i32, interval: libc::timespec, value: libc::timespec) -> R {
    let t = libc::itimerspec { it_interval: interval, it_value: value };
    c!(libc::timerfd_settime(fd, flags, &t, std::ptr::null_mut()))
}

fn timerfd_basics() {
    let fd = tfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK).fd();
    say("not set", read_text(fd, 8));
    say("set 1 ms", set(fd, 0, spec(0, 0), spec(0, 1_000_000)));
    let mut f = [pfd(fd, libc::POLLIN)];
    say("poll waits", poll_fds(&mut f, -1));
    say("expirations", read_text(fd, 8));
    say("again", read_text(fd, 8));
    say("set far", set(fd, 0, spec(0, 0), spec(1000, 0)));
    let mut cur: libc::itimerspec = unsafe { std::mem::zeroed() };
    say("gettime", c!(libc::timerfd_gettime(fd, &mut cur)));
    say("rest", (990..=1000).contains(&cur.it_value.tv_sec));
    say("interval", cur.it_interval.tv_sec);
    let off: libc::itimerspec = unsafe { std::mem::zeroed() };
    let mut old: libc::itimerspec = unsafe { std::mem::zeroed() };
    say("disarm", c!(libc::timerfd_settime(fd, 0, &off, &mut old)));
    say("old", (990..=1000).contains(&old.it_value.tv_sec));
    c!(libc::timerfd_gettime(fd, &mut cur));
    say("disarmed", cur.it_value.tv_sec == 0 && cur.it_value.tv_nsec == 0);
    let b = tfd(libc::CLOCK_REALTIME, 0).fd();
    set(b, 0, spec(0, 0), spec(0, 2_000_000));
    say("blocking read", read_text(b, 8));
    let l = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    say("link", l.display());
}

fn timerfd_interval() {
    let fd = tfd(libc::CLOCK_MONOTONIC, 0).fd();
    set(fd, 0, spec(0, 1_000_000), spec(0, 1_000_000));
    let mut total = 0;
    while total < 20 {
        total += u64::from_ne_bytes(read(fd, 8).unwrap().try_into().unwrap());
    }
    say("expirations add up", total >= 20);
    let mut cur: libc::itimerspec = unsafe { std::mem::zeroed() };
    c!(libc::timerfd_gettime(fd, &mut cur));
    say("interval", cur.it_interval.tv_nsec);
    say("next within it", cur.it_value.tv_nsec <= 1_000_000);
    say("short read", read_text(fd, 7));
}

fn timerfd_absolute() {
    let mut now = spec(0, 0);
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let fd = tfd(libc::CLOCK_MONOTONIC, 0).fd();
    say(
        "past",
        set(fd, libc::TFD_TIMER_ABSTIME, spec(0, 0), spec(now.tv_sec - 1, now.tv_nsec.max(1))),
    );
    say("expired at once", read_text(fd, 8));
    // With an interval, the missed ones are counted: of the wall clock, which is older than ten seconds even on a
    // machine that was just started.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    let fd = tfd(libc::CLOCK_REALTIME, 0).fd();
    set(fd, libc::TFD_TIMER_ABSTIME, spec(1, 0), spec(now.tv_sec - 10, now.tv_nsec.max(1)));
    let n = u64::from_ne_bytes(read(fd, 8).unwrap().try_into().unwrap());
    say("missed ones counted", (10..=20).contains(&n));
}

fn timerfd_errors() {
    say("bad clock", tfd(99, 0));
    say("cpu clock", tfd(libc::CLOCK_PROCESS_CPUTIME_ID, 0));
    say("bad flags", tfd(libc::CLOCK_MONOTONIC, 1));
    say("boottime", tfd(libc::CLOCK_BOOTTIME, 0).ok());
    if unsafe { libc::geteuid() } != 0 {
        say("alarm clock as user", tfd(libc::CLOCK_BOOTTIME_ALARM, 0));
    }
    let fd = tfd(libc::CLOCK_MONOTONIC, 0).fd();
    say("bad nsec", set(fd, 0, spec(0, 0), spec(0, 1_000_000_000)));
    say("negative", set(fd, 0, spec(0, 0), spec(-1, 0)));
    say("bad set flags", set(fd, 8, spec(0, 0), spec(1, 0)));
    say("not a timerfd", set(1, 0, spec(0, 0), spec(1, 0)));
    say("bad fd", set(999, 0, spec(0, 0), spec(1, 0)));
    say("write", write(fd, &[0; 8]));
    say("bad pointer", sc!(libc::SYS_timerfd_settime, fd, 0, 8, 0));
}

fn timerfd_cancel() {
    let fd = tfd(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK).fd();
    let mut now = spec(0, 0);
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    let far = spec(now.tv_sec + 10_000, 0);
    say("cancel on set", set(fd, libc::TFD_TIMER_ABSTIME | 2, spec(0, 0), far));
    say("read", read_text(fd, 8));
}

fn wait_by_two() {
    // Level-triggered: both waiters of one epoll are served by two events.
    let e = ep();
    let ev = c!(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)).fd();
    add(e, ev, libc::EPOLLIN, 1);
    let kids: Vec<i32> = (0..2)
        .map(|_| {
            let p = child(|| {
                loop {
                    let mut v: libc::epoll_event = unsafe { std::mem::zeroed() };
                    c!(libc::epoll_wait(e, &mut v, 1, -1));
                    if read(ev, 8).is_ok() {
                        return 1;
                    }
                }
            });
            await_sleep(p);
            p
        })
        .collect();
    write(ev, &2u64.to_ne_bytes());
    for k in kids {
        say("served", reap(k));
    }
}

/// kcmp(2) KCMP_EPOLL_TFD: which open file an epoll instance watches.
fn kcmp_epoll() {
    const EPOLL_TFD: i32 = 7;
    let ep = c!(libc::epoll_create1(0)).fd();
    let (r, w) = pipe();
    let other = c!(libc::dup(r)).fd();
    let mut e = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    c!(libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, r, &mut e));
    let me = getpid();
    let kcmp = |fd: i32, slot: [u32; 3]| sc!(libc::SYS_kcmp, me, me, EPOLL_TFD, fd, slot.as_ptr());
    say("the file itself", kcmp(r, [ep as u32, r as u32, 0]));
    say("a duplicate of it", kcmp(other, [ep as u32, r as u32, 0]));
    say("another file", kcmp(w, [ep as u32, r as u32, 0]).0 > 0);
    say("second of that number", kcmp(r, [ep as u32, r as u32, 1]));
    say("not watched", kcmp(r, [ep as u32, w as u32, 0]));
    say("not an epoll", kcmp(r, [w as u32, r as u32, 0]));
    say("no such file", kcmp(1000, [ep as u32, r as u32, 0]));
    say("bad pointer", sc!(libc::SYS_kcmp, me, me, EPOLL_TFD, r, 8));
}
