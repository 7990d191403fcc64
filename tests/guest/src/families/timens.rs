//! Time namespaces (time_namespaces(7)): offsets of children, clocks by system call and vDSO, absolute timers, exec, setns.

use super::clone::{CloneArgs, clone3};
use crate::sys::*;
use crate::{c, cases, sc};
use std::process::ExitCode;

cases! {
    offsets_of_children, clocks_of_a_child, absolute_times, exec_enters, clone3_enters, shared_memory_stays, joining, joining_with_threads,
    bad_offsets, without_capability, boot_times, initial_root: root,
}

const NEWTIME: i32 = 0x80;
const SECOND: i128 = 1_000_000_000;
/// Far more than a test takes, so that a missing or doubled offset shows.
const MONO: i128 = 100_000;
const BOOT: i128 = 300_000;

fn put(path: &str, text: &str) -> R {
    match std::fs::write(path, text) {
        Ok(()) => R(0),
        Err(e) => R(-i64::from(e.raw_os_error().unwrap_or(0))),
    }
}

fn offsets() -> String {
    let t = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    t.lines().map(|l| format!("{l:?}")).collect::<Vec<_>>().join(" ")
}

fn link(kind: &str) -> String {
    let l = std::fs::read_link(format!("/proc/self/ns/{kind}"));
    l.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A new user namespace, in which an ordinary user may do the rest, and a time namespace for children.
fn unshare_time() -> R {
    c!(libc::unshare(libc::CLONE_NEWUSER | NEWTIME))
}

fn set(mono: i128, boot: i128) -> R {
    put("/proc/self/timens_offsets", &format!("monotonic {mono} 0\nboottime {boot} 0\n"))
}

/// By the C library, so by the vDSO where there is one.
fn now(clock: i32) -> i128 {
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    c!(libc::clock_gettime(clock, &mut t));
    i128::from(t.tv_sec) * SECOND + i128::from(t.tv_nsec)
}

fn now_by_call(clock: i32) -> i128 {
    let mut t = [0i64; 2];
    sc!(libc::SYS_clock_gettime, clock, t.as_mut_ptr());
    i128::from(t[0]) * SECOND + i128::from(t[1])
}

/// How far `now` is ahead of `before` in thousands of seconds: the offset, unless the test takes a quarter of an hour.
fn ahead(before: i128, now: i128) -> i128 {
    (now - before).div_euclid(1000 * SECOND)
}

fn spec(t: i128) -> libc::timespec {
    libc::timespec { tv_sec: (t / SECOND) as i64, tv_nsec: (t % SECOND) as i64 }
}

fn offsets_of_children() {
    let before = link("time");
    say("same for children", link("time_for_children") == before);
    say("unshare", unshare_time());
    say("own stays", link("time") == before);
    say("another for children", link("time_for_children") != before);
    say("offsets", offsets());
    say("set", put("/proc/self/timens_offsets", "monotonic 1 5\nboottime -0 7"));
    say("offsets", offsets());
    say("by number", put("/proc/self/timens_offsets", "1 100 0\n7 200 999999999"));
    say("offsets", offsets());
    say("one alone", put("/proc/self/timens_offsets", "boottime 3 4\n"));
    say("offsets", offsets());
    let children = link("time_for_children");
    let monotonic = now(1);
    say(
        "child",
        in_child(|| {
            say("in it", link("time") == children && link("time_for_children") == children);
            say("offsets", offsets());
            say("too late", set(1, 1));
            say("ahead by", (now(1) - monotonic) / SECOND / 10 * 10);
            in_child(|| {
                say("grandchild too", link("time") == children);
                0
            });
            0
        }),
    );
    say("too late here too", set(1, 1));
    say("own clock is as it was", ahead(monotonic, now(1)));
}

const CLOCKS: &[(i32, &str)] = &[
    (0, "REALTIME"),
    (1, "MONOTONIC"),
    (4, "MONOTONIC_RAW"),
    (5, "REALTIME_COARSE"),
    (6, "MONOTONIC_COARSE"),
    (7, "BOOTTIME"),
    (11, "TAI"),
];

fn clocks_of_a_child() {
    say("unshare", unshare_time());
    say("set", set(MONO, BOOT));
    let before: Vec<i128> = CLOCKS.iter().map(|(c, _)| now(*c)).collect();
    in_child(|| {
        for ((c, name), b) in CLOCKS.iter().zip(&before) {
            let (call, vdso) = (now_by_call(*c), now(*c));
            say(name, format!("{} {}", ahead(*b, call), ahead(*b, vdso)));
        }
        let (a, b) = (now(1), now_by_call(1));
        say("in order", a <= b);
        0
    });
}

/// Each sleeps until a moment that is near in the namespace and would be far away without its offsets.
fn absolute_times() {
    say("unshare", unshare_time());
    say("set", set(MONO, BOOT));
    in_child(|| {
        for clock in [1, 7] {
            let wait = |name: &str, f: &dyn Fn(libc::timespec) -> R| {
                let start = now(clock);
                let until = start + SECOND / 50;
                let r = f(spec(until));
                let end = now(clock);
                say(
                    &format!("{name} {clock}"),
                    format!(
                        "{r}, not early {}, not late {}",
                        end >= until,
                        end < start + 30 * SECOND
                    ),
                );
            };
            wait("clock_nanosleep", &|t| {
                c!(libc::clock_nanosleep(clock, libc::TIMER_ABSTIME, &t, std::ptr::null_mut()))
            });
            wait("timerfd", &|t| {
                let fd = c!(libc::timerfd_create(clock, 0)).fd();
                let new = libc::itimerspec { it_interval: spec(0), it_value: t };
                c!(libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &new, std::ptr::null_mut()));
                R(read(fd, 8).map_or(-1, |b| b.len() as i64))
            });
            wait("timer_settime", &|t| {
                mask(libc::SIG_BLOCK, &[libc::SIGALRM]);
                let mut id: libc::timer_t = std::ptr::null_mut();
                c!(libc::timer_create(clock, std::ptr::null_mut(), &mut id));
                let new = libc::itimerspec { it_interval: spec(0), it_value: t };
                c!(libc::timer_settime(id, libc::TIMER_ABSTIME, &new, std::ptr::null_mut()));
                let set = sigset(&[libc::SIGALRM]);
                c!(libc::sigwaitinfo(&set, std::ptr::null_mut()))
            });
        }
        let word = std::sync::atomic::AtomicI32::new(0);
        let until = now(1) + SECOND / 50;
        let t = spec(until);
        const WAIT_BITSET: i32 = 9;
        let r = sc!(libc::SYS_futex, word.as_ptr(), WAIT_BITSET, 0, &raw const t, 0, -1);
        say("futex", format!("{r}, not early {}", now(1) >= until));
        let past = spec(SECOND);
        let r = c!(libc::clock_nanosleep(1, libc::TIMER_ABSTIME, &past, std::ptr::null_mut()));
        say("before the namespace began", r);
        let start = now(1);
        let short = spec(SECOND / 100);
        say("nanosleep", c!(libc::nanosleep(&short, std::ptr::null_mut())));
        say("a length is a length", (now(1) - start) < 30 * SECOND);
        0
    });
}

/// What a program that was executed sees.
pub fn role(args: &[String]) -> ExitCode {
    let before: i128 = args.first().and_then(|a| a.parse().ok()).unwrap_or(0);
    say("in the other", args.get(1).is_some_and(|l| *l == link("time")));
    say("ahead", format!("{} {}", ahead(before, now(1)), ahead(before, now_by_call(1))));
    ExitCode::SUCCESS
}

fn exec_enters() {
    say("unshare", unshare_time());
    say("set", set(MONO, BOOT));
    let before = now(1).to_string();
    let children = link("time_for_children");
    let args: Vec<_> =
        ["gt", "--role", "timens", &before, &children].iter().map(|s| cstr(s)).collect();
    let mut argv: Vec<_> = args.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    say("exec", c!(libc::execv(c"/proc/self/exe".as_ptr(), argv.as_ptr())));
}

fn clone3_enters() {
    let chld = libc::SIGCHLD as u64;
    let before = link("time");
    let monotonic = now(1);
    let a = CloneArgs {
        flags: NEWTIME as u64 | libc::CLONE_NEWUSER as u64,
        exit_signal: chld,
        ..Default::default()
    };
    let r = sc!(libc::SYS_clone3, &a as *const _, 88);
    if r.0 == 0 {
        say("in another", link("time") != before);
        say("for children", link("time_for_children") == link("time"));
        say("offsets", offsets());
        say("settable", set(1, 1));
        say("clock", ahead(monotonic, now(1)));
        unsafe { libc::_exit(0) };
    }
    say("child", wait_opt(r.0 as i32, 0));
    say("own", link("time") == before && link("time_for_children") == before);
    for (name, more) in [
        ("thread", libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND),
        ("shared memory", libc::CLONE_VM),
        ("shared memory, waiting", libc::CLONE_VM | libc::CLONE_VFORK),
    ] {
        let flags = NEWTIME as u64 | more as u64;
        let signal = if more & libc::CLONE_THREAD != 0 { 0 } else { chld };
        let stack = vec![0u8; 64 << 10].leak();
        let a = CloneArgs {
            flags,
            exit_signal: signal,
            stack: stack.as_ptr() as u64,
            stack_size: stack.len() as u64,
            ..Default::default()
        };
        if unsafe { libc::geteuid() } != 0 {
            say(name, clone3(&a, 88));
        }
    }
    let fd = open("/proc/self/ns/time", libc::O_RDONLY).fd();
    const NS_GET_NSTYPE: u64 = 0xb703;
    say("type", c!(libc::ioctl(fd, NS_GET_NSTYPE as _)));
}

/// A child that shares the memory, and with it the vDSO, stays where its parent is.
fn shared_memory_stays() {
    extern "C" fn body(arg: *mut libc::c_void) -> i32 {
        let outside = unsafe { &*arg.cast::<String>() };
        say("stays", link("time") == *outside);
        say("for its children", link("time_for_children") != *outside);
        0
    }
    let outside = link("time");
    say("unshare", unshare_time());
    say("set", set(MONO, BOOT));
    let stack = vec![0u8; 256 << 10].leak();
    let top = (stack.as_ptr() as usize + stack.len()) & !15;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let arg = (&raw const outside).cast_mut().cast();
    let p = c!(libc::clone(body, top as *mut libc::c_void, flags, arg));
    say("end", reap(p.0 as i32));
    say("nobody is in it yet", set(1, 1));
}

fn joining() {
    let monotonic = now(1);
    let outside = open("/proc/self/ns/time", libc::O_RDONLY).fd();
    say("unshare", unshare_time());
    say("set", set(MONO, BOOT));
    let fd = open("/proc/self/ns/time_for_children", libc::O_RDONLY);
    say("open", fd.ok());
    let inside = link("time_for_children");
    say("wrong kind", c!(libc::setns(fd.fd(), libc::CLONE_NEWUTS)));
    say("join", c!(libc::setns(fd.fd(), NEWTIME)));
    say("there", link("time") == inside && link("time_for_children") == inside);
    say("ahead", format!("{} {}", ahead(monotonic, now(1)), ahead(monotonic, now_by_call(1))));
    say("frozen", set(1, 1));
    in_child(|| {
        say("child", format!("{} {}", ahead(monotonic, now(1)), ahead(monotonic, now_by_call(1))));
        0
    });
    say("back, without power there", c!(libc::setns(outside, NEWTIME)));
}

fn joining_with_threads() {
    say("unshare", unshare_time());
    let fd = open("/proc/self/ns/time_for_children", libc::O_RDONLY).fd();
    let (r, w) = pipe();
    let t = std::thread::spawn(move || {
        let _ = read(r, 1);
    });
    say("join", c!(libc::setns(fd, NEWTIME)));
    say("unshare again", c!(libc::unshare(NEWTIME)));
    close(w);
    let _ = t.join();
    say("alone", c!(libc::setns(fd, NEWTIME)));
}

fn bad_offsets() {
    say("unshare", unshare_time());
    for text in [
        "monotonic",
        "monotonic 1",
        "monotonic 1 ",
        "bogus 1 0",
        "realtime 1 0",
        "0 1 0",
        "2 1 0",
        "9 1 0",
        "monotonic x 0",
        "monotonic 1 x",
        "monotonic 1 1000000000",
        "monotonic 1 -1",
        "monotonic -9000000000 0",
        "monotonic 4611686019 0",
        "monotonic 9223372036854775807 0",
        "monotonic 9223372036854775808 0",
        "boottime -9000000000 0",
        "monotonic 1 0\nboottime 1 0\n\n",
        "monotonic 1 0\nboottime 1 0\nboottime 1 0\n",
        "monotonic 1 0 5",
        "monotonic 1 0\nx",
        "monotonic 5 0\nboottime 9 9999999999",
        "monotonic +1 0",
        "  monotonic 2 0",
        "monotonic\t3\t0",
        "\n",
        "\nmonotonic 4 0",
        "monotonic 0x10 0",
        "monotonic 010 0",
    ] {
        say(
            &format!("{text:?}"),
            format!("{} {}", put("/proc/self/timens_offsets", text), offsets()),
        );
    }
    let fd = open("/proc/self/timens_offsets", libc::O_RDWR).fd();
    say("read", read_text(fd, 4));
    say("written elsewhere", write(fd, b"monotonic 9 0\n"));
    say("another's", put("/proc/1/timens_offsets", "monotonic 1 0"));
}

fn without_capability() {
    say("unshare", c!(libc::unshare(NEWTIME)).is_ok() == (unsafe { libc::geteuid() } == 0));
    say("own user namespace", c!(libc::unshare(libc::CLONE_NEWUSER)));
    say("owned by nobody here", put("/proc/self/timens_offsets", "monotonic 1 0"));
    say("thread and time", c!(libc::unshare(libc::CLONE_THREAD | NEWTIME)));
    say("once more", c!(libc::unshare(NEWTIME)));
}

fn boot_times() {
    let uptime = || {
        let t = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        t.split(['.', ' ']).next().and_then(|w| w.parse::<i128>().ok()).unwrap_or(-1)
    };
    let info = || {
        let mut i: libc::sysinfo = unsafe { std::mem::zeroed() };
        c!(libc::sysinfo(&mut i));
        i128::from(i.uptime)
    };
    let started = || {
        let t = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let after = t.rsplit(')').next().unwrap_or_default().to_owned();
        after.split_whitespace().nth(19).and_then(|w| w.parse::<i128>().ok()).unwrap_or(-1)
    };
    let btime = || {
        let t = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = t.lines().find_map(|l| l.strip_prefix("btime ")).unwrap_or_default().to_owned();
        line.parse::<i128>().unwrap_or(-1)
    };
    say("unshare", unshare_time());
    say("set", set(MONO, BOOT));
    let before = (uptime(), info(), started(), btime());
    in_child(|| {
        say("uptime", (uptime() - before.0) / 1000);
        say("sysinfo", (info() - before.1) / 1000);
        say("start", (started() - before.2) / 100_000);
        // Rounded: a second either way.
        say("btime", (btime() - before.3 - 500).div_euclid(1000));
        0
    });
}

fn initial_root() {
    say("offsets", offsets());
    say("set", set(1, 1));
    say("same user namespace", c!(libc::unshare(NEWTIME)));
    say("set", set(MONO, BOOT));
    let inside = open("/proc/self/ns/time_for_children", libc::O_RDONLY).fd();
    let outside = open("/proc/self/ns/time", libc::O_RDONLY).fd();
    let monotonic = now(1);
    for (name, fd) in [("in", inside), ("out", outside), ("in", inside)] {
        say(name, c!(libc::setns(fd, NEWTIME)));
        say("ahead", format!("{} {}", ahead(monotonic, now(1)), ahead(monotonic, now_by_call(1))));
    }
    let pidfd = sc!(libc::SYS_pidfd_open, unsafe { libc::getppid() }, 0);
    say("by pidfd", c!(libc::setns(pidfd.fd(), NEWTIME)));
    say("ahead", ahead(monotonic, now(1)));
}
