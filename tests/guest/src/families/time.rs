//! Clocks, sleeping, interval timers, POSIX timers, the vDSO.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

cases! {
    clocks, clock_errors, clocks_advance, realtime_calls, cpu_clocks, vdso, nanosleep_lengths, clock_nanosleep_errors, itimers, itimer_virtual, alarm,
    posix_timer_signal, posix_timer_interval, posix_timer_thread_id, posix_timer_none, posix_timer_errors, timer_not_inherited, set_clock_user, adjtimex_read,
    times_and_clock, getcpu, coarse_clocks,
}

fn now(clock: i32) -> i128 {
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    let r = c!(libc::clock_gettime(clock, &mut t));
    if r.is_ok() { i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec) } else { -1 }
}

const CLOCKS: &[(i32, &str)] = &[
    (0, "REALTIME"),
    (1, "MONOTONIC"),
    (2, "PROCESS_CPUTIME"),
    (3, "THREAD_CPUTIME"),
    (4, "MONOTONIC_RAW"),
    (5, "REALTIME_COARSE"),
    (6, "MONOTONIC_COARSE"),
    (7, "BOOTTIME"),
    (11, "TAI"),
];

fn clocks() {
    for (c, n) in CLOCKS {
        let mut t: libc::timespec = unsafe { std::mem::zeroed() };
        let r = c!(libc::clock_gettime(*c, &mut t));
        say(n, format!("{r}, nsec in range {}", (0..1_000_000_000).contains(&t.tv_nsec)));
        let mut res: libc::timespec = unsafe { std::mem::zeroed() };
        let r = c!(libc::clock_getres(*c, &mut res));
        say(
            "  resolution under 20 ms",
            format!("{r} {}", res.tv_sec == 0 && res.tv_nsec > 0 && res.tv_nsec <= 20_000_000),
        );
    }
    let mono = now(1);
    say("boottime is not before monotonic", now(7) >= mono);
    say("coarse is close behind", {
        let c = now(6);
        let d = now(1) - c;
        (0..100_000_000).contains(&d)
    });
    say("raw system call agrees with the library", {
        let mut t = [0i64; 2];
        sc!(libc::SYS_clock_gettime, 1, t.as_mut_ptr());
        let a = i128::from(t[0]) * 1_000_000_000 + i128::from(t[1]);
        let b = now(1);
        (0..1_000_000_000).contains(&(b - a))
    });
}

fn clock_errors() {
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    for c in [99, -1, 10, 16, i32::MIN, i32::MAX] {
        say(&format!("clock {c}"), c!(libc::clock_gettime(c, &mut t)));
    }
    say("bad pointer by system call", sc!(libc::SYS_clock_gettime, 0, 8));
    say("getres null", sc!(libc::SYS_clock_getres, 0, 0));
    say("getres bad clock", sc!(libc::SYS_clock_getres, 99, 0));
}

fn clocks_advance() {
    for (c, n) in CLOCKS {
        let a = now(*c);
        let mut ok = true;
        let mut last = a;
        for _ in 0..10_000 {
            let b = now(*c);
            ok &= b >= last;
            last = b;
        }
        // Coarse clocks move with the tick: wait for it.
        while now(*c) == a {}
        say(n, format!("never back {ok}, moves true"));
    }
    // Over threads on different CPUs too.
    let t = std::thread::spawn(|| (0..10_000).map(|_| now(1)).max().unwrap());
    let mine = (0..10_000).map(|_| now(1)).max().unwrap();
    let other = t.join().unwrap();
    say("later than both", now(1) >= mine.max(other));
}

fn realtime_calls() {
    let a = now(0) / 1_000_000_000;
    let t = unsafe { libc::time(std::ptr::null_mut()) };
    say("time is close to realtime", (i128::from(t) - a).abs() <= 1);
    let mut tv: libc::timeval = unsafe { std::mem::zeroed() };
    say("gettimeofday", c!(libc::gettimeofday(&mut tv, std::ptr::null_mut())));
    say("close", (i128::from(tv.tv_sec) - a).abs() <= 1);
    say("microseconds in range", (0..1_000_000).contains(&tv.tv_usec));
    let mut x = 0i64;
    say("raw time stores too", sc!(libc::SYS_time, &mut x as *mut _).0 == x);
    say("after 2024", x > 1_704_067_200);
    say("raw time, bad pointer", sc!(libc::SYS_time, 8));
    say("raw gettimeofday, bad pointer", sc!(libc::SYS_gettimeofday, 8, 0));
}

fn burn(ns: i128) {
    let t = now(3);
    let mut x = 1u64;
    while now(3) - t < ns {
        for _ in 0..1000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

fn cpu_clocks() {
    let (p0, t0, m0) = (now(2), now(3), now(1));
    burn(20_000_000);
    let (p1, t1, m1) = (now(2), now(3), now(1));
    say("thread time grew by what was burnt", t1 - t0 >= 20_000_000);
    say("process time at least as much", p1 - p0 >= 20_000_000);
    say("not more than wall time", t1 - t0 <= m1 - m0 + 1_000_000);
    let a = now(3);
    let d = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    unsafe { libc::nanosleep(&d, std::ptr::null_mut()) };
    say("sleep costs no processor time", now(3) - a < 15_000_000);
    let other = std::thread::spawn(|| now(3)).join().unwrap();
    say("another thread starts near zero", other < 20_000_000);
    say("process includes threads that ended", {
        let p = now(2);
        std::thread::spawn(|| burn(10_000_000)).join().unwrap();
        now(2) - p >= 10_000_000
    });
    let mut id = 0;
    say("clock id of self", unsafe { libc::clock_getcpuclockid(0, &mut id) });
    say("readable", now(id) > 0);
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    say("of a child", unsafe { libc::clock_getcpuclockid(pid, &mut id) });
    say("readable", now(id) >= 0);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    say("of one that is gone", errno_name(unsafe { libc::clock_getcpuclockid(pid, &mut id) }));
}

fn vdso() {
    let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as *const u8;
    say("present", !base.is_null());
    if base.is_null() {
        return;
    }
    let magic = unsafe { std::slice::from_raw_parts(base, 4) };
    say("ELF", magic == b"\x7fELF");
    // The symbols programs look for, by the dynamic symbol table.
    unsafe {
        let rd = |o: usize, n: usize| {
            let mut v = [0u8; 8];
            v[..n].copy_from_slice(std::slice::from_raw_parts(base.add(o), n));
            u64::from_le_bytes(v) as usize
        };
        let (phoff, phnum) = (rd(32, 8), rd(56, 2));
        let (mut dynamic, mut load) = (0, 0);
        for i in 0..phnum {
            let p = phoff + i * 56;
            match rd(p, 4) {
                1 => load = rd(p + 8, 8).wrapping_sub(rd(p + 16, 8)),
                2 => dynamic = rd(p + 8, 8),
                _ => {}
            }
        }
        let (mut strtab, mut symtab, mut hash, mut gnu) = (0, 0, 0, 0);
        let mut d = dynamic;
        loop {
            let (tag, val) = (rd(d, 8), rd(d + 8, 8).wrapping_add(load));
            match tag {
                0 => break,
                4 => hash = val,
                5 => strtab = val,
                6 => symtab = val,
                0x6fff_fef5 => gnu = val,
                _ => {}
            }
            d += 16;
        }
        say("has a hash table", hash != 0 || gnu != 0);
        // Symbols end where the string table begins in every vDSO known; stop at a bad name otherwise.
        let mut names = Vec::new();
        let mut s = symtab + 24;
        while s + 24 <= strtab || symtab > strtab {
            let n = std::ffi::CStr::from_ptr(base.add(strtab + rd(s, 4)).cast());
            names.push(n.to_string_lossy().into_owned());
            s += 24;
            if names.len() > 64 {
                break;
            }
        }
        for n in ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"] {
            say(n, names.iter().any(|x| x == n));
        }
    }
}

fn nanosleep_lengths() {
    for (s, n) in [(0, 0), (0, 1), (0, 1_000_000), (0, 15_000_000)] {
        let a = now(1);
        let t = libc::timespec { tv_sec: s, tv_nsec: n };
        let r = c!(libc::nanosleep(&t, std::ptr::null_mut()));
        say(&format!("{n} ns"), format!("{r}, at least {}", now(1) - a >= i128::from(n)));
    }
    let a = now(1);
    let mut at: libc::timespec = unsafe { std::mem::zeroed() };
    unsafe { libc::clock_gettime(1, &mut at) };
    at.tv_nsec += 10_000_000;
    if at.tv_nsec >= 1_000_000_000 {
        at.tv_sec += 1;
        at.tv_nsec -= 1_000_000_000;
    }
    say("absolute", unsafe {
        libc::clock_nanosleep(1, libc::TIMER_ABSTIME, &at, std::ptr::null_mut())
    });
    say("at least", now(1) - a >= 10_000_000);
    let past = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    say("absolute, past", unsafe {
        libc::clock_nanosleep(0, libc::TIMER_ABSTIME, &past, std::ptr::null_mut())
    });
}

fn clock_nanosleep_errors() {
    let ns = |clock: i32, s: i64, n: i64| {
        let t = libc::timespec { tv_sec: s, tv_nsec: n };
        errno_name(unsafe { libc::clock_nanosleep(clock, 0, &t, std::ptr::null_mut()) })
    };
    say("bad nsec", ns(1, 0, 1_000_000_000));
    say("negative nsec", ns(1, 0, -1));
    say("negative seconds", ns(1, -1, 0));
    say("bad clock", ns(99, 0, 1));
    say("own thread's cpu clock", ns(3, 0, 1));
    say("coarse clock", ns(6, 0, 1));
    say("bad pointer", sc!(libc::SYS_nanosleep, 8, 0));
    let t = libc::timespec { tv_sec: 0, tv_nsec: -5 };
    say("nanosleep bad nsec", c!(libc::nanosleep(&t, std::ptr::null_mut())));
}

static HITS: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicI32 = AtomicI32::new(0);
static TID: AtomicI32 = AtomicI32::new(0);
extern "C" fn hit(_: i32, i: *mut libc::siginfo_t, _: *mut libc::c_void) {
    unsafe {
        CODE.store((*i).si_code, SeqCst);
        VALUE.store((*i).si_value().sival_ptr as i32, SeqCst);
    }
    TID.store(gettid(), SeqCst);
    HITS.fetch_add(1, SeqCst);
}

fn await_hits(n: i32) {
    while HITS.load(SeqCst) < n {
        pause_poll();
    }
}

fn tv(us: i64) -> libc::timeval {
    libc::timeval { tv_sec: us / 1_000_000, tv_usec: us % 1_000_000 }
}

fn itimers() {
    on_signal(libc::SIGALRM, hit, 0);
    let set = |int: i64, val: i64| {
        let t = libc::itimerval { it_interval: tv(int), it_value: tv(val) };
        let mut old: libc::itimerval = unsafe { std::mem::zeroed() };
        (c!(libc::setitimer(libc::ITIMER_REAL, &t, &mut old)), old)
    };
    say("one shot", set(0, 1000).0);
    await_hits(1);
    let mut cur: libc::itimerval = unsafe { std::mem::zeroed() };
    say("get", c!(libc::getitimer(libc::ITIMER_REAL, &mut cur)));
    say("expired", cur.it_value.tv_sec == 0 && cur.it_value.tv_usec == 0);
    set(2000, 2000);
    await_hits(5);
    say("interval repeats", true);
    let (r, old) = set(0, 500_000_000);
    say("replace", format!("{r} interval {}", old.it_interval.tv_usec));
    let (_, old) = set(0, 0);
    say("rest", (490..=500).contains(&old.it_value.tv_sec));
    say("bad which", c!(libc::getitimer(9, &mut cur)));
    let bad = libc::itimerval {
        it_interval: tv(0),
        it_value: libc::timeval { tv_sec: 0, tv_usec: 1_000_000 },
    };
    say("bad microseconds", c!(libc::setitimer(0, &bad, std::ptr::null_mut())));
    let bad =
        libc::itimerval { it_interval: tv(0), it_value: libc::timeval { tv_sec: -1, tv_usec: 0 } };
    say("negative", c!(libc::setitimer(0, &bad, std::ptr::null_mut())));
}

fn itimer_virtual() {
    for (which, sig, name) in [
        (libc::ITIMER_VIRTUAL, libc::SIGVTALRM, "virtual"),
        (libc::ITIMER_PROF, libc::SIGPROF, "prof"),
    ] {
        HITS.store(0, SeqCst);
        on_signal(sig, hit, 0);
        let t = libc::itimerval { it_interval: tv(0), it_value: tv(10_000) };
        say(name, c!(libc::setitimer(which, &t, std::ptr::null_mut())));
        let d = libc::timespec { tv_sec: 0, tv_nsec: 15_000_000 };
        unsafe { libc::nanosleep(&d, std::ptr::null_mut()) };
        say("not while sleeping", HITS.load(SeqCst));
        let mut x = 1u64;
        while HITS.load(SeqCst) == 0 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        say("while running", HITS.load(SeqCst));
    }
}

fn alarm() {
    say("none", unsafe { libc::alarm(100) });
    say("rest", (99..=100).contains(&unsafe { libc::alarm(0) }));
    say("none", unsafe { libc::alarm(0) });
    let s = in_child(|| {
        let t = libc::itimerval { it_interval: tv(0), it_value: tv(1000) };
        unsafe { libc::setitimer(libc::ITIMER_REAL, &t, std::ptr::null_mut()) };
        loop {
            unsafe { libc::pause() };
        }
    });
    say("default", s);
}

fn timer(clock: i32, notify: i32, sig: i32, value: usize, tid: i32) -> Result<libc::timer_t, R> {
    let mut ev: libc::sigevent = unsafe { std::mem::zeroed() };
    ev.sigev_notify = notify;
    ev.sigev_signo = sig;
    ev.sigev_value.sival_ptr = value as *mut _;
    ev.sigev_notify_thread_id = tid;
    let mut id: libc::timer_t = std::ptr::null_mut();
    let r = c!(libc::timer_create(clock, &mut ev, &mut id));
    if r.is_ok() { Ok(id) } else { Err(r) }
}

fn arm(id: libc::timer_t, int_ns: i64, val_ns: i64) -> R {
    let sp = |n: i64| libc::timespec { tv_sec: n / 1_000_000_000, tv_nsec: n % 1_000_000_000 };
    let t = libc::itimerspec { it_interval: sp(int_ns), it_value: sp(val_ns) };
    c!(libc::timer_settime(id, 0, &t, std::ptr::null_mut()))
}

fn posix_timer_signal() {
    on_signal(libc::SIGUSR1, hit, 0);
    for (clock, n) in [(0, "REALTIME"), (1, "MONOTONIC"), (7, "BOOTTIME"), (11, "TAI")] {
        HITS.store(0, SeqCst);
        match timer(clock, libc::SIGEV_SIGNAL, libc::SIGUSR1, 1234, 0) {
            Ok(id) => {
                arm(id, 0, 1_000_000);
                await_hits(1);
                let code = if CODE.load(SeqCst) == -2 { "SI_TIMER" } else { "other" };
                say(n, format!("{code} value {}", VALUE.load(SeqCst)));
                let mut cur: libc::itimerspec = unsafe { std::mem::zeroed() };
                c!(libc::timer_gettime(id, &mut cur));
                say("  expired", cur.it_value.tv_sec == 0 && cur.it_value.tv_nsec == 0);
                say("  overrun", c!(libc::timer_getoverrun(id)));
                say("  delete", c!(libc::timer_delete(id)));
                say("  delete again", c!(libc::timer_delete(id)));
            }
            Err(r) => say(n, r),
        }
    }
    HITS.store(0, SeqCst);
    let id = timer(libc::CLOCK_THREAD_CPUTIME_ID, libc::SIGEV_SIGNAL, libc::SIGUSR1, 5, 0).unwrap();
    arm(id, 0, 5_000_000);
    while HITS.load(SeqCst) == 0 {
        burn(1_000_000);
    }
    say("thread cpu clock", HITS.load(SeqCst));
    say(
        "default is SIGALRM",
        in_child(|| {
            let mut id: libc::timer_t = std::ptr::null_mut();
            c!(libc::timer_create(1, std::ptr::null_mut(), &mut id));
            arm(id, 0, 1_000_000);
            loop {
                unsafe { libc::pause() };
            }
        }),
    );
}

fn posix_timer_interval() {
    on_signal(libc::SIGUSR1, hit, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    let id = timer(1, libc::SIGEV_SIGNAL, libc::SIGUSR1, 0, 0).unwrap();
    arm(id, 1_000_000, 1_000_000);
    let d = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    unsafe { libc::nanosleep(&d, std::ptr::null_mut()) };
    // Taken while still blocked, so that no later one changes the count.
    let taken = c!(libc::sigwaitinfo(&sigset(&[libc::SIGUSR1]), std::ptr::null_mut()));
    say("blocked ones become one signal", taken);
    say("with an overrun", c!(libc::timer_getoverrun(id)).0 >= 5);
    mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
    await_hits(5);
    say("goes on", true);
    arm(id, 0, 0);
    let n = HITS.load(SeqCst);
    let d = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    unsafe { libc::nanosleep(&d, std::ptr::null_mut()) };
    say("disarmed", HITS.load(SeqCst) == n);
}

fn posix_timer_thread_id() {
    on_signal(libc::SIGUSR1, hit, 0);
    let w: &'static [AtomicI32; 64] = shared_words();
    let t = std::thread::spawn(|| {
        publish(&w[0], gettid());
        await_change(&w[1], 0);
    });
    await_change(&w[0], 0);
    let tid = w[0].load(SeqCst);
    let id = timer(1, libc::SIGEV_THREAD_ID, libc::SIGUSR1, 0, tid).unwrap();
    arm(id, 0, 1_000_000);
    await_hits(1);
    say("that thread got it", TID.load(SeqCst) == tid);
    publish(&w[1], 1);
    t.join().unwrap();
    say(
        "thread of another process",
        timer(1, libc::SIGEV_THREAD_ID, libc::SIGUSR1, 0, 1).err().unwrap_or(R(0)),
    );
}

fn posix_timer_none() {
    let id = timer(1, libc::SIGEV_NONE, 0, 0, 0).unwrap();
    say("set", arm(id, 0, 1_000_000));
    let d = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
    unsafe { libc::nanosleep(&d, std::ptr::null_mut()) };
    let mut cur: libc::itimerspec = unsafe { std::mem::zeroed() };
    c!(libc::timer_gettime(id, &mut cur));
    say("runs out silently", cur.it_value.tv_sec == 0 && cur.it_value.tv_nsec == 0);
}

fn posix_timer_errors() {
    say("bad clock", timer(99, 0, libc::SIGUSR1, 0, 0).err().unwrap_or(R(0)));
    say("raw clock", timer(4, 0, libc::SIGUSR1, 0, 0).err().unwrap_or(R(0)));
    say("coarse clock", timer(6, 0, libc::SIGUSR1, 0, 0).err().unwrap_or(R(0)));
    say("bad signal", timer(1, 0, 65, 0, 0).err().unwrap_or(R(0)));
    say(
        "bad notify",
        sc!(
            libc::SYS_timer_create,
            1,
            [0i64, (77i64 << 32) | 10, 0, 0, 0, 0, 0, 0].as_ptr(),
            [0u64; 1].as_mut_ptr()
        ),
    );
    say("bad pointer", sc!(libc::SYS_timer_create, 1, 0, 8));
    say("settime of none", sc!(libc::SYS_timer_settime, 77, 0, [0i64; 4].as_ptr(), 0));
    say("gettime of none", sc!(libc::SYS_timer_gettime, 77, [0i64; 4].as_mut_ptr()));
    let id = timer(1, libc::SIGEV_NONE, 0, 0, 0).unwrap();
    say("bad nsec", arm(id, 0, -1));
    let t = libc::itimerspec {
        it_interval: unsafe { std::mem::zeroed() },
        it_value: libc::timespec { tv_sec: 0, tv_nsec: 2_000_000_000 },
    };
    say("nsec over a second", c!(libc::timer_settime(id, 0, &t, std::ptr::null_mut())));
}

fn timer_not_inherited() {
    let id = timer(1, libc::SIGEV_NONE, 0, 0, 0).unwrap();
    arm(id, 0, 1_000_000_000_000);
    let s = in_child(|| {
        let mut cur: libc::itimerspec = unsafe { std::mem::zeroed() };
        say("child", c!(libc::timer_gettime(id, &mut cur)));
        0
    });
    say("status", s);
    let mut cur: libc::itimerspec = unsafe { std::mem::zeroed() };
    say("parent", c!(libc::timer_gettime(id, &mut cur)));
}

fn set_clock_user() {
    if unsafe { libc::geteuid() } != 0 {
        let t = libc::timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        say("clock_settime", c!(libc::clock_settime(0, &t)));
        say("monotonic", c!(libc::clock_settime(1, &t)));
        say("bad nsec", c!(libc::clock_settime(0, &libc::timespec { tv_sec: 0, tv_nsec: -1 })));
        say("settimeofday", c!(libc::settimeofday(&tv(1_000_000_000), std::ptr::null())));
    }
}

fn adjtimex_read() {
    let mut x: libc::timex = unsafe { std::mem::zeroed() };
    let r = c!(libc::adjtimex(&mut x));
    say("read", r.is_ok() && (0..=5).contains(&r.0));
    say("tick", x.tick);
    if unsafe { libc::geteuid() } != 0 {
        x.modes = libc::ADJ_OFFSET;
        say("set as user", c!(libc::adjtimex(&mut x)));
    }
    say("bad pointer", sc!(libc::SYS_adjtimex, 8));
}

fn times_and_clock() {
    let mut t: libc::tms = unsafe { std::mem::zeroed() };
    let a = unsafe { libc::times(&mut t) };
    burn(30_000_000);
    let mut u: libc::tms = unsafe { std::mem::zeroed() };
    let b = unsafe { libc::times(&mut u) };
    say("ticks move", b > a);
    say("own time grew", u.tms_utime + u.tms_stime > t.tms_utime + t.tms_stime);
    say("ticks per second", unsafe { libc::sysconf(libc::_SC_CLK_TCK) });
    let mut ru: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut ru) };
    let us = ru.ru_utime.tv_sec * 1_000_000
        + ru.ru_utime.tv_usec
        + ru.ru_stime.tv_sec * 1_000_000
        + ru.ru_stime.tv_usec;
    let cpu = (now(2) / 1000) as i64;
    say("rusage agrees with the cpu clock", (cpu - us).abs() < 50_000);
}

fn getcpu() {
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    say("getcpu", sc!(libc::SYS_getcpu, &mut cpu as *mut _, &mut node as *mut _, 0));
    let n = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) } as u32;
    say("in range", cpu < n);
    say("node", node);
    say("sched_getcpu", (unsafe { libc::sched_getcpu() } as u32) < n);
    say("nulls", sc!(libc::SYS_getcpu, 0, 0, 0));
    say("bad pointer", sc!(libc::SYS_getcpu, 8, 0, 0));
}

/// Coarse clocks by the call and by the C library (the vDSO) are of the same tick.
fn coarse_clocks() {
    for (clock, name) in [(5, "REALTIME_COARSE"), (6, "MONOTONIC_COARSE")] {
        let call = || {
            let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            sc!(libc::SYS_clock_gettime, clock, &mut t as *mut _);
            i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec)
        };
        let mut order = true;
        for _ in 0..2000 {
            let (a, b, c) = (call(), now(clock), call());
            order &= a <= b && b <= c;
        }
        say(name, order);
    }
}
