//! Users, groups, capabilities, prctl, seccomp, what is refused to ordinary users.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    ids_user, prctl_flags, prctl_errors, extended_state, no_new_privs, capabilities_user, seccomp_strict, seccomp_filter, seccomp_programs, seccomp_flags, seccomp_notify, refused_for_users, ids_root: root, groups_root: root, fsuid_root: root, capabilities_root: root, keepcaps_root: root, securebits_root: root, hostname_root: root, user_switch_dumpable: root, ambient_root: root, mm_layout,
}

fn ids() -> String {
    unsafe {
        let (mut r, mut e, mut s) = (0, 0, 0);
        libc::getresuid(&mut r, &mut e, &mut s);
        let (mut rg, mut eg, mut sg) = (0, 0, 0);
        libc::getresgid(&mut rg, &mut eg, &mut sg);
        format!("uid {r} {e} {s} gid {rg} {eg} {sg}")
    }
}

fn ids_user() {
    let (u, g) = unsafe { (libc::getuid(), libc::getgid()) };
    say("all the same", unsafe { libc::geteuid() } == u && unsafe { libc::getegid() } == g);
    say("setuid to self", c!(libc::setuid(u)));
    say("setresuid -1s", c!(libc::setresuid(u32::MAX, u32::MAX, u32::MAX)));
    say("setuid -1", sc!(libc::SYS_setuid, -1));
    if u != 0 {
        say("setuid 0", c!(libc::setuid(0)));
        say("setgid 0", c!(libc::setgid(0)));
        say("seteuid 0", c!(libc::seteuid(0)));
        say("setreuid", c!(libc::setreuid(0, 0)));
        say("setresgid", c!(libc::setresgid(0, 0, 0)));
        say("setgroups", c!(libc::setgroups(0, std::ptr::null())));
        say("setfsuid 0 gives the old", sc!(libc::SYS_setfsuid, 0) == R(u.into()));
        say("and changed nothing", sc!(libc::SYS_setfsuid, -1) == R(u.into()));
    }
    let n = c!(libc::getgroups(0, std::ptr::null_mut()));
    say("getgroups counts", n.is_ok());
    say("getgroups negative", c!(libc::getgroups(-1, std::ptr::null_mut())));
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    let f = |k: &str| {
        st.lines()
            .find(|l| l.starts_with(k))
            .unwrap()
            .split_whitespace()
            .skip(1)
            .all(|v| v == u.to_string() || v == g.to_string())
    };
    say("status agrees", f("Uid:") && f("Gid:"));
    let mut x = [0u32; 3];
    say("getresuid bad pointer", sc!(libc::SYS_getresuid, x.as_mut_ptr(), x.as_mut_ptr(), 8));
}

fn prctl_flags() {
    let p = |op: i32, a: u64| c!(libc::prctl(op, a, 0, 0, 0));
    say("dumpable", p(libc::PR_GET_DUMPABLE, 0));
    say("set 0", p(libc::PR_SET_DUMPABLE, 0));
    say("get", p(libc::PR_GET_DUMPABLE, 0));
    say("set 2", p(libc::PR_SET_DUMPABLE, 2));
    p(libc::PR_SET_DUMPABLE, 1);
    let mut name = [0u8; 16];
    say("set name", c!(libc::prctl(libc::PR_SET_NAME, c"0123456789abcdefXYZ".as_ptr())));
    c!(libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()));
    say("cut at 15", quoted(name.split(|b| *b == 0).next().unwrap()));
    say("comm", std::fs::read_to_string("/proc/self/comm").unwrap().trim_end());
    say("timing", p(libc::PR_GET_TIMING, 0));
    say("timer slack set", p(libc::PR_SET_TIMERSLACK, 12345));
    say("get", p(libc::PR_GET_TIMERSLACK, 0));
    say("child subreaper", p(libc::PR_SET_CHILD_SUBREAPER, 1));
    say("THP disable get", p(libc::PR_GET_THP_DISABLE, 0));
    say("TSC", {
        let mut v = 0i32;
        let r = c!(libc::prctl(libc::PR_GET_TSC, &mut v));
        format!("{r} {v}")
    });
    let w = c!(libc::prctl(libc::PR_GET_TID_ADDRESS, &mut name));
    say("PR_GET_TID_ADDRESS", w.is_ok() || w.is(libc::EINVAL));
    say("VMA name", {
        let m = c!(libc::mmap(
            std::ptr::null_mut(),
            4096,
            3,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0
        ));
        let r = c!(libc::prctl(0x5356_4d41, 0, m.0, 4096, c"named".as_ptr()));
        r.is_ok() || r.is(libc::EINVAL)
    });
}

fn prctl_errors() {
    let p = |op: i32, a: u64, b: u64| c!(libc::prctl(op, a, b, 0, 0));
    say("unknown", p(9999, 0, 0));
    say("dumpable 5", p(libc::PR_SET_DUMPABLE, 5, 0));
    say("name bad pointer", p(libc::PR_SET_NAME, 8, 0));
    say("keepcaps 2", p(libc::PR_SET_KEEPCAPS, 2, 0));
    say("no_new_privs 0", p(libc::PR_SET_NO_NEW_PRIVS, 0, 0));
    say("no_new_privs with more", p(libc::PR_SET_NO_NEW_PRIVS, 1, 1));
    say("pdeathsig bad pointer", p(libc::PR_GET_PDEATHSIG, 8, 0));
    say("capbset read 99", p(libc::PR_CAPBSET_READ, 99, 0));
    say("unalign", p(libc::PR_SET_UNALIGN, 0, 0));
}

/// arch_prctl(2) about extended state (AMX). Which features there are depends on the processor.
fn extended_state() {
    const SUPPORTED: i32 = 0x1021;
    const PERMITTED: i32 = 0x1022;
    const REQUEST: i32 = 0x1023;
    const TILES: u32 = 18;
    let ask = |code| {
        let mut v = 0u64;
        let r = sc!(libc::SYS_arch_prctl, code, &raw mut v);
        (r, v)
    };
    let ((r, supported), (s, permitted)) = (ask(SUPPORTED), ask(PERMITTED));
    say("supported", r);
    say("permitted", s);
    say("x87 and SSE", permitted & 3);
    say("permitted without support", permitted & !supported);
    for feature in [2u32, 17, 19, 20, 63, 1000] {
        say(&format!("request {feature}"), sc!(libc::SYS_arch_prctl, REQUEST, feature));
    }
    let granted = sc!(libc::SYS_arch_prctl, REQUEST, TILES).is_ok();
    say("tiles as said", granted == (ask(PERMITTED).1 >> TILES & 1 != 0));
    say("bad pointer", sc!(libc::SYS_arch_prctl, PERMITTED, 8));
}

fn no_new_privs() {
    say("before", c!(libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)));
    say("set", c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)));
    say("after", c!(libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)));
    say("inherited", in_child(|| unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) }));
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    say("status", st.lines().find(|l| l.starts_with("NoNewPrivs")).unwrap().replace('\t', " "));
}

fn caps() -> [u32; 6] {
    let h = [0x2008_0522u32, 0];
    let mut d = [0u32; 6];
    sc!(libc::SYS_capget, h.as_ptr(), d.as_mut_ptr());
    d
}

fn capabilities_user() {
    let mut h = [0u32, 0];
    say("bad version", sc!(libc::SYS_capget, h.as_mut_ptr(), 0));
    say("version offered", format!("{:#x}", h[0]));
    h[0] = 0x1234;
    let mut d = [0u32; 6];
    say("bad version with data", sc!(libc::SYS_capget, h.as_mut_ptr(), d.as_mut_ptr()));
    h = [0x2008_0522, 0];
    say("get", sc!(libc::SYS_capget, h.as_ptr(), d.as_mut_ptr()));
    if unsafe { libc::geteuid() } != 0 {
        say("effective and permitted are empty", d[0] == 0 && d[1] == 0 && d[3] == 0 && d[4] == 0);
        d[1] = 1;
        say("gain", sc!(libc::SYS_capset, h.as_ptr(), d.as_ptr()));
        d = [0; 6];
        say("set nothing", sc!(libc::SYS_capset, h.as_ptr(), d.as_ptr()));
        say("drop of the bounding set", c!(libc::prctl(libc::PR_CAPBSET_DROP, 0, 0, 0, 0)));
    }
    h[1] = i32::MAX as u32;
    say("of nobody", sc!(libc::SYS_capget, h.as_ptr(), d.as_mut_ptr()));
    h[1] = u32::MAX;
    say("negative pid", sc!(libc::SYS_capget, h.as_ptr(), d.as_mut_ptr()));
    say("bad pointer", sc!(libc::SYS_capget, 8, 0));
}

fn seccomp_strict() {
    say(
        "getpid kills",
        in_child(|| {
            c!(libc::prctl(libc::PR_SET_SECCOMP, 1, 0, 0, 0));
            unsafe { libc::syscall(libc::SYS_getpid) };
            0
        }),
    );
    say(
        "write and exit work",
        in_child(|| {
            c!(libc::prctl(libc::PR_SET_SECCOMP, 1, 0, 0, 0));
            unsafe {
                libc::syscall(libc::SYS_write, 1, b"strict\n".as_ptr(), 7);
                libc::syscall(libc::SYS_exit, 5);
            }
            0
        }),
    );
}

/// A filter that gives `action` for one system call and allows the rest.
fn filter(nr: i64, action: u32) -> R {
    #[repr(C)]
    struct Insn(u16, u8, u8, u32);
    let f = [
        Insn(0x20, 0, 0, 0),
        Insn(0x15, 0, 1, nr as u32),
        Insn(0x06, 0, 0, action),
        Insn(0x06, 0, 0, 0x7fff_0000),
    ];
    #[repr(C)]
    struct Prog(u16, *const Insn);
    let p = Prog(4, f.as_ptr());
    sc!(libc::SYS_seccomp, 1, 0, &p as *const _)
}

fn seccomp_filter() {
    if unsafe { libc::geteuid() } != 0 {
        say("without no_new_privs", filter(libc::SYS_getppid, 0x0005_0000));
    }
    c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    say(
        "ERRNO",
        in_child(|| {
            say("  install", filter(libc::SYS_getppid, 0x0005_0000 | 42));
            say("  getppid", sc!(libc::SYS_getppid));
            say("  others", sc!(libc::SYS_getuid).is_ok());
            say("  inherited", in_child(|| sc!(libc::SYS_getppid).is(42) as i32));
            0
        }),
    );
    say(
        "KILL_PROCESS",
        in_child(|| {
            filter(libc::SYS_getppid, 0x8000_0000);
            sc!(libc::SYS_getppid).0 as i32
        }),
    );
    say(
        "TRAP by default",
        in_child(|| {
            filter(libc::SYS_getppid, 0x0003_0000);
            sc!(libc::SYS_getppid).0 as i32
        }),
    );
    say(
        "TRAP handled",
        in_child(|| {
            extern "C" fn h(_: i32, i: *mut libc::siginfo_t, u: *mut libc::c_void) {
                unsafe {
                    let u = &mut *u.cast::<libc::ucontext_t>();
                    let code = (*i).si_code;
                    u.uc_mcontext.gregs[libc::REG_RAX as usize] = 1000 + i64::from(code);
                }
            }
            on_signal(libc::SIGSYS, h, 0);
            filter(libc::SYS_getppid, 0x0003_0000);
            say("  getppid", sc!(libc::SYS_getppid));
            0
        }),
    );
    say("bad operation", sc!(libc::SYS_seccomp, 99, 0, 0));
    say("bad program", sc!(libc::SYS_seccomp, 1, 0, 8));
    say("empty program", {
        let p = [0u64; 2];
        sc!(libc::SYS_seccomp, 1, 0, p.as_ptr())
    });
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    say("status", st.lines().find(|l| l.starts_with("Seccomp:")).unwrap().replace('\t', " "));
}

/// Random programs: which ones are accepted, and what they make of exit_group(2).
fn seccomp_programs() {
    #[repr(C)]
    struct Insn(u16, u8, u8, u32);
    #[repr(C)]
    struct Prog(u16, *const Insn);
    const CODES: [u16; 40] = [
        0x20, 0x20, 0x20, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0x05, 0x15, 0x1d, 0x25,
        0x35, 0x45, 0x07, 0x87, 0x84, 0x04, 0x0c, 0x14, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x54, 0x64,
        0x6c, 0x74, 0xa4, 0xac, 0x94, 0x28, 0x30, 0x40, 0xb1, 0x8d,
    ];
    const PLACES: [u32; 8] = [0, 4, 16, 0, 4, 16, 2, 64];
    const RETURNS: [u32; 6] = [0x7fff_0000, 0x8000_0000, 0, 0x7ffc_0000, 0x0003_0007, 0x1234_0000];
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = move |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) % n
    };
    c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    for group in 0..12 {
        let mut line = Vec::new();
        for _ in 0..20 {
            let len = 2 + next(6) as usize;
            let mut prog = Vec::new();
            for _ in 0..len {
                let code = CODES[next(40) as usize];
                let k = match code {
                    0x20 => PLACES[next(8) as usize],
                    0x05 => next(4) as u32,
                    0x02 | 0x03 | 0x60 | 0x61 => next(18) as u32,
                    _ => [0, 1, 2, 31, 32, 231, 0xc000_003e][next(7) as usize],
                };
                prog.push(Insn(code, next(4) as u8, next(4) as u8, k));
            }
            for _ in 0..2 {
                prog.push(Insn(
                    if next(4) == 0 { 0x16 } else { 0x06 },
                    0,
                    0,
                    RETURNS[next(6) as usize],
                ));
            }
            let s = in_child(|| {
                let p = Prog(prog.len() as u16, prog.as_ptr());
                let r = sc!(libc::SYS_seccomp, 1, 0, &p as *const _);
                let code = if r.is_ok() { 1 } else { 2 };
                unsafe { libc::syscall(libc::SYS_exit_group, code) };
                0
            });
            line.push(s.replace("killed SIG", ""));
        }
        say(&format!("group {group}"), line.join(" "));
    }
}

fn seccomp_flags() {
    let avail = |a: u32| sc!(libc::SYS_seccomp, 2, 0, &a as *const _);
    say("ALLOW", avail(0x7fff_0000));
    say("USER_NOTIF", avail(0x7fc0_0000));
    say("unknown action", avail(0x1234_0000));
    let mut sizes = [0u16; 3];
    say("sizes", sc!(libc::SYS_seccomp, 3, 0, sizes.as_mut_ptr()));
    say("are", format!("{sizes:?}"));
    say("bad flag", sc!(libc::SYS_seccomp, 1, 1 << 20, 0));
    say("TSYNC and NEW_LISTENER", sc!(libc::SYS_seccomp, 1, 9, 0));
    say("WAIT_KILLABLE_RECV alone", sc!(libc::SYS_seccomp, 1, 32, 0));
    say("mode", c!(libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0)));
    c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    let s = in_child(|| {
        let w = shared_words();
        let t = std::thread::spawn(move || {
            publish(&w[0], 1);
            await_change(&w[1], 0);
            sc!(libc::SYS_getppid).is(42) as i32
        });
        await_change(&w[0], 0);
        say("  TSYNC", filter_with(1, libc::SYS_getppid, 0x0005_0000 | 42));
        publish(&w[1], 1);
        say("  mode", c!(libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0)));
        say("  strict is refused now", c!(libc::prctl(libc::PR_SET_SECCOMP, 1, 0, 0, 0)));
        t.join().unwrap()
    });
    say("other thread follows", s);
    let s = in_child(|| {
        filter_with(0, libc::SYS_getppid, 0x0005_0000 | 1);
        filter_with(0, libc::SYS_getppid, 0x0005_0000 | 2);
        say("  newest errno counts", sc!(libc::SYS_getppid));
        filter_with(0, libc::SYS_getppid, 0x0003_0000);
        filter_with(0, libc::SYS_getppid, 0x7fff_0000);
        sc!(libc::SYS_getppid);
        0
    });
    say("TRAP precedes ERRNO", s);
}

/// As [`filter`] with flags of seccomp(2).
fn filter_with(flags: u32, nr: i64, action: u32) -> R {
    #[repr(C)]
    struct Insn(u16, u8, u8, u32);
    let f = [
        Insn(0x20, 0, 0, 0),
        Insn(0x15, 0, 1, nr as u32),
        Insn(0x06, 0, 0, action),
        Insn(0x06, 0, 0, 0x7fff_0000),
    ];
    #[repr(C)]
    struct Prog(u16, *const Insn);
    let p = Prog(4, f.as_ptr());
    sc!(libc::SYS_seccomp, 1, flags, &p as *const _)
}

/// A supervisor that answers for its child.
fn seccomp_notify() {
    c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    // The listener comes from this process; its filter concerns a call nobody else makes.
    let fd = filter_with(8, libc::SYS_getpgrp, 0x7fc0_0000);
    say("listener", fd.ok());
    let fd = fd.fd();
    let e = Event::new();
    let pid = child(|| {
        let value = sc!(libc::SYS_getpgrp);
        let error = sc!(libc::SYS_getpgrp);
        let continued = sc!(libc::SYS_getpgrp).is_ok();
        // The supervisor has said its last by then.
        e.wait();
        say("  results", format!("{value} {error} {continued}"));
        8
    });
    for n in 0..3 {
        let mut req = [0u64; 10];
        let r = c!(libc::ioctl(fd, 0xc050_2100, req.as_mut_ptr()));
        say("received", format!("{r} nr {} pid {}", req[2] as u32, req[1] as i32 == pid));
        say("valid", c!(libc::ioctl(fd, 0x4008_2102, &req[0])));
        let resp = match n {
            0 => [req[0], 555, 0],
            1 => [req[0], 0, u64::from(-13i32 as u32)],
            _ => [req[0], 0, 1 << 32],
        };
        say("sent", c!(libc::ioctl(fd, 0xc018_2101, resp.as_ptr())));
        say("again", c!(libc::ioctl(fd, 0xc018_2101, resp.as_ptr())).is_ok());
    }
    e.post();
    say("ends", reap(pid));
    let mut req = [1u64; 10];
    say("not zeroed", c!(libc::ioctl(fd, 0xc050_2100, req.as_mut_ptr())));
    say("unknown", c!(libc::ioctl(fd, 0x1234, 0)));
}

fn refused_for_users() {
    if unsafe { libc::geteuid() } == 0 {
        return;
    }
    say(
        "mount",
        c!(libc::mount(c"none".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null())),
    );
    say("umount", c!(libc::umount2(c"/proc".as_ptr(), 0)));
    say("chroot", c!(libc::chroot(c"/".as_ptr())));
    say("pivot_root", sc!(libc::SYS_pivot_root, c"/".as_ptr(), c"/".as_ptr()));
    say("swapon", c!(libc::swapon(c"/none".as_ptr(), 0)));
    say("acct", c!(libc::acct(std::ptr::null())));
    say("vhangup", c!(libc::vhangup()));
    say("syslog clear", sc!(libc::SYS_syslog, 5, 0, 0));
    say("setns of a file", c!(libc::setns(0, 0)));
    say("unshare mount", c!(libc::unshare(libc::CLONE_NEWNS)));
    say("unshare files", c!(libc::unshare(libc::CLONE_FILES)));
    say("unshare unknown", c!(libc::unshare(1)));
    say("quotactl", sc!(libc::SYS_quotactl, 0, 0, 0, 0).is_ok());
    say("reboot", sc!(libc::SYS_reboot, 0, 0, 0, 0));
    say("settimeofday", sc!(libc::SYS_settimeofday, [1i64, 0].as_ptr(), 0));
    say("sethostname", c!(libc::sethostname(c"x".as_ptr(), 1)));
}

fn ids_root() {
    let t = |name: &str, f: &dyn Fn() -> R| {
        let s = in_child(|| {
            let r = f();
            say(name, format!("{r} {}", ids()));
            0
        });
        let _ = s;
    };
    t("start", &|| R(0));
    t("setuid 5", &|| c!(libc::setuid(5)));
    t("seteuid 5", &|| c!(libc::seteuid(5)));
    t("setreuid 5 6", &|| c!(libc::setreuid(5, 6)));
    t("setreuid -1 6 sets saved", &|| c!(libc::setreuid(u32::MAX, 6)));
    t("setresuid 1 2 3", &|| c!(libc::setresuid(1, 2, 3)));
    t("then swap", &|| {
        c!(libc::setresuid(1, 2, 3));
        c!(libc::setresuid(3, 1, 2))
    });
    t("then a stranger", &|| {
        c!(libc::setresuid(1, 2, 3));
        c!(libc::setresuid(4, u32::MAX, u32::MAX))
    });
    t("euid away and back", &|| {
        c!(libc::seteuid(9));
        c!(libc::seteuid(0))
    });
    t("setuid away, no way back", &|| {
        c!(libc::setuid(9));
        c!(libc::setuid(0))
    });
    t("setgid 7", &|| c!(libc::setgid(7)));
    t("setregid 7 8", &|| c!(libc::setregid(7, 8)));
    t("setresgid 1 2 3", &|| c!(libc::setresgid(1, 2, 3)));
    t("setegid 4", &|| c!(libc::setegid(4)));
}

fn groups_root() {
    let g = [10u32, 5, 10, 300];
    say("set", c!(libc::setgroups(4, g.as_ptr())));
    let mut o = [0u32; 8];
    say("get", c!(libc::getgroups(8, o.as_mut_ptr())));
    say("sorted, duplicates kept", format!("{:?}", &o[..4]));
    say("too small", c!(libc::getgroups(2, o.as_mut_ptr())));
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    say(
        "status",
        st.lines()
            .find(|l| l.starts_with("Groups"))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    );
    say("too many", c!(libc::setgroups(65537, vec![1u32; 65537].as_ptr())));
    say("none", c!(libc::setgroups(0, std::ptr::null())));
    say("bad pointer", sc!(libc::SYS_setgroups, 4, 8));
}

fn fsuid_root() {
    put("f", b"");
    unsafe { libc::chmod(c"f".as_ptr(), 0o600) };
    unsafe { libc::chmod(c".".as_ptr(), 0o777) };
    say("old", sc!(libc::SYS_setfsuid, 1001));
    say("query", sc!(libc::SYS_setfsuid, -1));
    say("open root's file", open("f", 0));
    // The file system capabilities went with it.
    say("chmod of root's file", c!(libc::chmod(c"f".as_ptr(), 0o777)));
    say("create", open("g", libc::O_CREAT | libc::O_WRONLY).ok());
    sc!(libc::SYS_setfsuid, 0);
    use std::os::unix::fs::MetadataExt;
    say("owner", std::fs::metadata("g").unwrap().uid());
    say("setfsgid", sc!(libc::SYS_setfsgid, 55));
    put("h", b"");
    say("group", std::fs::metadata("h").unwrap().gid());
    say("euid change sets fsuid", {
        c!(libc::seteuid(7));
        sc!(libc::SYS_setfsuid, -1)
    });
}

fn capabilities_root() {
    let before = caps();
    say("some", before[1] != 0 && before[0] == before[1]);
    say(
        "seteuid clears effective",
        in_child(|| {
            c!(libc::seteuid(5));
            let d = caps();
            (d[0] == 0 && d[1] == before[1]) as i32
        }),
    );
    say(
        "and back restores it",
        in_child(|| {
            c!(libc::seteuid(5));
            c!(libc::seteuid(0));
            (caps()[0] == before[0]) as i32
        }),
    );
    say(
        "setuid clears all",
        in_child(|| {
            c!(libc::setuid(5));
            let d = caps();
            (d[0] == 0 && d[1] == 0) as i32
        }),
    );
    put("f", b"");
    unsafe { libc::chmod(c"f".as_ptr(), 0) };
    std::os::unix::fs::chown("f", Some(5), Some(5)).unwrap();
    let drop_cap = |bit: u32| {
        let h = [0x2008_0522u32, 0];
        let mut d = caps();
        d[0] &= !(1 << bit);
        sc!(libc::SYS_capset, h.as_ptr(), d.as_ptr())
    };
    say(
        "without DAC_OVERRIDE and DAC_READ_SEARCH",
        in_child(|| {
            say("  drop", drop_cap(1));
            drop_cap(2);
            say("  open", open("f", 0));
            0
        }),
    );
    say(
        "without CHOWN",
        in_child(|| {
            drop_cap(0);
            say("  chown", c!(libc::chown(c"f".as_ptr(), 9, 9)));
            0
        }),
    );
    say(
        "without FOWNER",
        in_child(|| {
            drop_cap(3);
            say("  chmod", c!(libc::chmod(c"f".as_ptr(), 0o777)));
            0
        }),
    );
    say(
        "without SETUID",
        in_child(|| {
            drop_cap(7);
            say("  setuid", c!(libc::setuid(5)));
            0
        }),
    );
    say(
        "without KILL",
        in_child(|| {
            drop_cap(5);
            let pid = child(|| {
                c!(libc::setuid(5));
                loop {
                    unsafe { libc::pause() };
                }
            });
            let mut r;
            loop {
                r = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                if r.contains("Uid:\t5") {
                    break;
                }
            }
            say("  kill of another user's", c!(libc::kill(pid, libc::SIGTERM)));
            0
        }),
    );
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    let eff =
        st.lines().find(|l| l.starts_with("CapEff")).unwrap().split_whitespace().nth(1).unwrap();
    say("status agrees", u64::from_str_radix(eff, 16).unwrap() as u32 == before[0]);
}

fn keepcaps_root() {
    say(
        "with keepcaps",
        in_child(|| {
            c!(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0));
            c!(libc::setresuid(5, 5, 5));
            let d = caps();
            (d[0] == 0 && d[1] != 0) as i32
        }),
    );
    say(
        "and effective again",
        in_child(|| {
            c!(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0));
            c!(libc::setresuid(5, 5, 5));
            let h = [0x2008_0522u32, 0];
            let mut d = caps();
            d[0] = d[1];
            d[3] = d[4];
            sc!(libc::SYS_capset, h.as_ptr(), d.as_ptr()).is_ok() as i32
        }),
    );
}

fn securebits_root() {
    say("get", c!(libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0)));
    say(
        "noroot",
        in_child(|| {
            say("  set", c!(libc::prctl(libc::PR_SET_SECUREBITS, 1, 0, 0, 0)));
            say("  get", c!(libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0)));
            0
        }),
    );
    say(
        "no setuid fixup",
        in_child(|| {
            c!(libc::prctl(libc::PR_SET_SECUREBITS, 4, 0, 0, 0));
            c!(libc::setresuid(5, 5, 5));
            (caps()[0] != 0) as i32
        }),
    );
    say("unknown bits", c!(libc::prctl(libc::PR_SET_SECUREBITS, 0x1000, 0, 0, 0)));
}

fn ambient_root() {
    let amb = |op: u64, cap: u64| c!(libc::prctl(libc::PR_CAP_AMBIENT, op, cap, 0, 0));
    say("is set", amb(1, 10));
    say("raise without inheritable", amb(2, 10));
    let h = [0x2008_0522u32, 0];
    let mut d = caps();
    d[2] |= 1 << 10;
    sc!(libc::SYS_capset, h.as_ptr(), d.as_ptr());
    say("raise", amb(2, 10));
    say("is set", amb(1, 10));
    say("lower", amb(3, 10));
    say("clear all", amb(4, 0));
    say("bad capability", amb(2, 99));
    say("bad operation", amb(9, 0));
    say("bounding", c!(libc::prctl(libc::PR_CAPBSET_READ, 10, 0, 0, 0)));
    say(
        "drop",
        in_child(|| {
            c!(libc::prctl(libc::PR_CAPBSET_DROP, 10, 0, 0, 0));
            unsafe { libc::prctl(libc::PR_CAPBSET_READ, 10, 0, 0, 0) }
        }),
    );
}

fn hostname_root() {
    // In a name space of its own, so that the host keeps its name.
    let s = in_child(|| {
        let r = c!(libc::unshare(libc::CLONE_NEWUTS));
        if !r.is_ok() {
            say("unshare", r);
            return 0;
        }
        say("set", c!(libc::sethostname(c"new-name".as_ptr(), 8)));
        let mut u: libc::utsname = unsafe { std::mem::zeroed() };
        c!(libc::uname(&mut u));
        let s = |f: &[i8]| {
            f.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect::<String>()
        };
        say("get", s(&u.nodename));
        say("domain", c!(libc::setdomainname(c"dom".as_ptr(), 3)));
        c!(libc::uname(&mut u));
        say("get", s(&u.domainname));
        say("65 bytes", c!(libc::sethostname([b'x' as libc::c_char; 65].as_ptr(), 65)));
        say("empty", c!(libc::sethostname(c"".as_ptr(), 0)));
        say("bad pointer", sc!(libc::SYS_sethostname, 8, 4));
        0
    });
    say("child", s);
}

fn user_switch_dumpable() {
    say(
        "after setuid",
        in_child(|| {
            c!(libc::setresuid(5, 5, 5));
            unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }
        }),
    );
    say(
        "own proc files",
        in_child(|| {
            c!(libc::setresgid(5, 5, 5));
            c!(libc::setresuid(5, 5, 5));
            use std::os::unix::fs::MetadataExt;
            (std::fs::metadata("/proc/self/environ").unwrap().uid() == 0) as i32
        }),
    );
}

/// PR_SET_MM_MAP: what /proc says of arguments and environment.
fn mm_layout() {
    const SET_MM: i32 = 35;
    let mut size = 0u32;
    say("size", c!(libc::prctl(SET_MM, 15, &raw mut size, 0, 0)));
    say("is", size);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<u64> = stat[stat.rfind(')').unwrap() + 2..]
        .split_whitespace()
        .map(|w| w.parse().unwrap_or(0))
        .collect();
    // Field n of proc_pid_stat(5) is f[n - 3].
    let brk = unsafe { libc::sbrk(0) } as u64;
    let text = Box::leak(Box::new(*b"new\0name\0"));
    let (at, len) = (text.as_ptr() as u64, text.len() as u64);
    let map = |arg_start: u64, arg_end: u64| {
        [
            f[23],
            f[24],
            f[42],
            f[43],
            f[44],
            brk,
            f[25],
            arg_start,
            arg_end,
            f[47],
            f[48],
            0,
            u64::from(u32::MAX) << 32,
        ]
    };
    let set = |m: &[u64; 13], n: u64| c!(libc::prctl(SET_MM, 14, m.as_ptr(), n, 0));
    say("wrong size", set(&map(at, at + len), 100));
    say("reversed", set(&map(at + len, at), 104));
    say("no address", set(&map(0, len), 104));
    say("set", set(&map(at, at + len), 104));
    say("cmdline", quoted(&std::fs::read("/proc/self/cmdline").unwrap()));
    say("unknown", c!(libc::prctl(SET_MM, 99, at, 0, 0)).is_ok());
    say("with size", c!(libc::prctl(SET_MM, 8, at, 4, 0)));
    say("fifth argument", c!(libc::prctl(SET_MM, 8, at, 0, 4)));
    if unsafe { libc::geteuid() } != 0 {
        say("one without privilege", c!(libc::prctl(SET_MM, 8, at, 0, 0)));
    }
}
