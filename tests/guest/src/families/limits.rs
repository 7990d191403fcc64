//! Resource limits, scheduling, priorities, uname, sysinfo, random bytes, personality, the auxiliary vector.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    rlimits, rlimit_effects, rlimit_data, rlimit_stack, prlimit_others, nice_user, sched_policies, deadline, deadline_root: root, sched_affinity, affinity_moves, sched_yield_and_rr, uname_fields, sysinfo_sane, getrandom, personality, sysconf_values, auxv, priorities, nproc_limit: root,
}

fn limit(r: u32) -> (R, u64, u64) {
    let mut l: libc::rlimit = unsafe { std::mem::zeroed() };
    let x = c!(libc::getrlimit(r, &mut l));
    (x, l.rlim_cur, l.rlim_max)
}

fn set_limit(r: u32, cur: u64, max: u64) -> R {
    let l = libc::rlimit { rlim_cur: cur, rlim_max: max };
    c!(libc::setrlimit(r, &l))
}

fn rlimits() {
    for r in 0..16 {
        let (x, cur, max) = limit(r);
        say(&format!("get {r}"), format!("{x} soft within hard {}", cur <= max));
    }
    say("get 16", limit(16).0);
    let (_, _, hard) = limit(libc::RLIMIT_NOFILE);
    say("lower soft", set_limit(libc::RLIMIT_NOFILE, 100, hard));
    say("read back", limit(libc::RLIMIT_NOFILE).1);
    say("soft over hard", set_limit(libc::RLIMIT_NOFILE, 200, 100));
    say("lower hard", set_limit(libc::RLIMIT_NOFILE, 100, 150));
    if unsafe { libc::geteuid() } != 0 {
        say("raise hard", set_limit(libc::RLIMIT_NOFILE, 100, 151));
    }
    say("raise soft to hard", set_limit(libc::RLIMIT_NOFILE, 150, 150));
    say("inherited", in_child(|| limit(libc::RLIMIT_NOFILE).1 as i32));
    say("bad resource", set_limit(99, 1, 1));
    say("bad pointer", sc!(libc::SYS_setrlimit, 7, 8));
    let t = std::fs::read_to_string("/proc/self/limits").unwrap();
    let l = t.lines().find(|l| l.starts_with("Max open files")).unwrap();
    say("proc", l.split_whitespace().collect::<Vec<_>>().join(" "));
}

fn rlimit_effects() {
    say(
        "CPU: SIGXCPU",
        in_child(|| {
            set_limit(libc::RLIMIT_CPU, 1, 10);
            loop {
                std::hint::spin_loop();
            }
        }),
    );
    say(
        "CPU hard: SIGKILL",
        in_child(|| {
            set_action(libc::SIGXCPU, libc::SIG_IGN);
            set_limit(libc::RLIMIT_CPU, 1, 1);
            loop {
                std::hint::spin_loop();
            }
        }),
    );
}

/// The limit is lowered after the program was started.
fn rlimit_stack() {
    say(
        "STACK",
        in_child(|| {
            fn deep(n: usize) -> usize {
                let a = std::hint::black_box([n as u8; 4096]);
                if n == 0 { 0 } else { deep(n - 1) + a[1] as usize }
            }
            set_action(libc::SIGSEGV, libc::SIG_DFL);
            set_limit(libc::RLIMIT_STACK, 1 << 20, 1 << 20);
            deep(1000) as i32
        }),
    );
}

fn rlimit_data() {
    const SIZE: usize = 64 << 20;
    let map = |prot, flags| {
        let flags = flags | libc::MAP_ANONYMOUS;
        c!(libc::mmap(std::ptr::null_mut(), SIZE, prot, flags, -1, 0))
    };
    set_limit(libc::RLIMIT_DATA, 32 << 20, 32 << 20);
    say("private and writable", map(3, libc::MAP_PRIVATE).ok());
    say("shared", map(3, libc::MAP_SHARED).ok());
    let readable = map(1, libc::MAP_PRIVATE);
    say("only readable", readable.ok());
    say("made writable", c!(libc::mprotect(readable.0 as *mut _, SIZE, 3)));
    say("a part of it", c!(libc::mprotect(readable.0 as *mut _, 4096, 3)));
    let end = unsafe { libc::sbrk(0) };
    say("brk", c!(libc::brk(end.wrapping_byte_add(SIZE))));
}

fn prlimit_others() {
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    let mut l: libc::rlimit = unsafe { std::mem::zeroed() };
    say("of a child", c!(libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut l)));
    let n = libc::rlimit { rlim_cur: 77, rlim_max: l.rlim_max };
    say("set", c!(libc::prlimit(pid, libc::RLIMIT_NOFILE, &n, std::ptr::null_mut())));
    c!(libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut l));
    say("read back", l.rlim_cur);
    say("own unchanged", limit(libc::RLIMIT_NOFILE).1 != 77);
    say("nobody", c!(libc::prlimit(i32::MAX, libc::RLIMIT_NOFILE, std::ptr::null(), &mut l)));
    if unsafe { libc::geteuid() } != 0 {
        say("init's", c!(libc::prlimit(1, libc::RLIMIT_NOFILE, std::ptr::null(), &mut l)));
    }
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

fn nice_user() {
    say("get", c!(libc::getpriority(libc::PRIO_PROCESS, 0)));
    say("nice 5", c!(libc::nice(5)));
    say("get", c!(libc::getpriority(libc::PRIO_PROCESS, 0)));
    if unsafe { libc::geteuid() } != 0 {
        set_limit(libc::RLIMIT_NICE, 0, 0);
        say("nice -1", c!(libc::nice(-1)));
        say("setpriority 0", c!(libc::setpriority(libc::PRIO_PROCESS, 0, 0)));
    }
    say("beyond 19 is cut", c!(libc::nice(100)));
    say("raw getpriority", sc!(libc::SYS_getpriority, 0, 0));
    say("child inherits", in_child(|| unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }));
}

fn priorities() {
    say("group", c!(libc::getpriority(libc::PRIO_PGRP, 0)));
    say("bad which", sc!(libc::SYS_getpriority, 9, 0));
    say("nobody", c!(libc::getpriority(libc::PRIO_PROCESS, i32::MAX as u32)));
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    say("set a child's", c!(libc::setpriority(libc::PRIO_PROCESS, pid as u32, 7)));
    say("get", c!(libc::getpriority(libc::PRIO_PROCESS, pid as u32)));
    say("group takes the best", c!(libc::getpriority(libc::PRIO_PGRP, 0)));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    if unsafe { libc::geteuid() } != 0 {
        say("init's", c!(libc::setpriority(libc::PRIO_PROCESS, 1, 5)));
    }
    say("ioprio_get", sc!(libc::SYS_ioprio_get, 1, 0).is_ok());
    say("ioprio_set best effort 6", sc!(libc::SYS_ioprio_set, 1, 0, (2 << 13) | 6));
    say("ioprio_get", format!("{:#x}", sc!(libc::SYS_ioprio_get, 1, 0).0));
    say("ioprio bad which", sc!(libc::SYS_ioprio_get, 9, 0));
}

fn sched_policies() {
    let set = |p: i32, prio: i32| {
        let sp = libc::sched_param { sched_priority: prio };
        c!(libc::sched_setscheduler(0, p, &sp))
    };
    say("policy", c!(libc::sched_getscheduler(0)));
    say("to BATCH", set(libc::SCHED_BATCH, 0));
    say("policy", c!(libc::sched_getscheduler(0)));
    say("OTHER with priority", set(libc::SCHED_OTHER, 1));
    if unsafe { libc::geteuid() } != 0 {
        set_limit(libc::RLIMIT_RTPRIO, 0, 0);
        say("FIFO as user", set(libc::SCHED_FIFO, 1));
    }
    say("FIFO with 0", set(libc::SCHED_FIFO, 0));
    say("unknown", set(77, 0));
    say("to IDLE", set(libc::SCHED_IDLE, 0));
    say("policy", c!(libc::sched_getscheduler(0)));
    for p in [0, 1, 2, 3, 5, 6] {
        say(
            &format!("range of {p}"),
            format!(
                "{} {}",
                c!(libc::sched_get_priority_min(p)),
                c!(libc::sched_get_priority_max(p))
            ),
        );
    }
    say("range of 77", c!(libc::sched_get_priority_min(77)));
    let mut sp = libc::sched_param { sched_priority: 9 };
    say("getparam", format!("{} {}", c!(libc::sched_getparam(0, &mut sp)), { sp.sched_priority }));
    say("nobody", c!(libc::sched_getscheduler(i32::MAX)));
    let mut a = [0u32; 14];
    say("sched_getattr", sc!(libc::SYS_sched_getattr, 0, a.as_mut_ptr(), 56, 0));
    say("size and policy", format!("{} {}", a[0], a[1]));
    say("sched_getattr small", sc!(libc::SYS_sched_getattr, 0, a.as_mut_ptr(), 10, 0));
}

/// `struct sched_attr` of SCHED_DEADLINE.
fn deadline_attr(flags: u64, priority: u64, times: [u64; 3]) -> R {
    let mut a = [48u64 | 6 << 32, flags, priority << 32, 0, 0, 0];
    a[3..].copy_from_slice(&times);
    sc!(libc::SYS_sched_setattr, 0, a.as_ptr(), 0)
}

/// What SCHED_DEADLINE refuses whoever asks (sched_setattr(2), sched(7)).
fn deadline_errors() {
    const MS: u64 = 1_000_000;
    for (what, flags, priority, times) in [
        ("a priority", 0, 1, [10 * MS, 100 * MS, 100 * MS]),
        ("no runtime", 0, 0, [0, 100 * MS, 100 * MS]),
        ("too short a runtime", 0, 0, [1023, 100 * MS, 100 * MS]),
        ("a deadline before it", 0, 0, [10 * MS, 5 * MS, 100 * MS]),
        ("a period before that", 0, 0, [10 * MS, 100 * MS, 50 * MS]),
        ("no deadline", 0, 0, [10 * MS, 0, 100 * MS]),
        ("a huge deadline", 0, 0, [10 * MS, 1 << 63, 0]),
        ("a huge period", 0, 0, [10 * MS, 100 * MS, 1 << 63]),
        ("a short period", 0, 0, [10_000, 20_000, 99_000]),
        ("a long period", 0, 0, [10 * MS, 100 * MS, 4200 * MS]),
        ("a long deadline", 0, 0, [10 * MS, 5000 * MS, 0]),
        ("an unknown flag", 1 << 20, 0, [10 * MS, 100 * MS, 100 * MS]),
    ] {
        say(what, deadline_attr(flags, priority, times));
    }
    let p = libc::sched_param { sched_priority: 0 };
    say("sched_setscheduler", c!(libc::sched_setscheduler(0, 6, &p)));
}

fn deadline() {
    deadline_errors();
    say("an ordinary user", deadline_attr(0, 0, [1_000_000, 10_000_000, 10_000_000]));
}

fn deadline_root() {
    deadline_errors();
    // Its bandwidth is that of all processors.
    say(
        "bound to one processor",
        in_child(|| {
            let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            unsafe { libc::CPU_SET(0, &mut one) };
            c!(libc::sched_setaffinity(0, std::mem::size_of_val(&one), &one));
            say("set", deadline_attr(0, 0, [1_000_000, 10_000_000, 10_000_000]));
            0
        }),
    );
}

fn sched_affinity() {
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    say("get", c!(libc::sched_getaffinity(0, std::mem::size_of_val(&set), &mut set)));
    let n = unsafe { libc::CPU_COUNT(&set) };
    say("some", n > 0);
    say(
        "nproc agrees",
        std::thread::available_parallelism().map(|p| p.get() as i32 <= n).unwrap_or(false),
    );
    let first = (0..1024).find(|i| unsafe { libc::CPU_ISSET(*i, &set) }).unwrap();
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    unsafe { libc::CPU_SET(first, &mut one) };
    say("bind to one", c!(libc::sched_setaffinity(0, std::mem::size_of_val(&one), &one)));
    say("runs there", unsafe { libc::sched_getcpu() } as usize == first);
    say(
        "child inherits",
        in_child(|| {
            let mut s: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            c!(libc::sched_getaffinity(0, 128, &mut s));
            unsafe { libc::CPU_COUNT(&s) }
        }),
    );
    let none: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    say("empty set", c!(libc::sched_setaffinity(0, 128, &none)));
    say("raw, size not of words", sc!(libc::SYS_sched_getaffinity, 0, 7, &mut set as *mut _));
    say("raw, too small", sc!(libc::SYS_sched_getaffinity, 0, 0, &mut set as *mut _));
    say("nobody", c!(libc::sched_getaffinity(i32::MAX, 128, &mut set)));
    say("bad pointer", sc!(libc::SYS_sched_getaffinity, 0, 128, 8));
}

/// Binding moves: the caller, what it starts, and another thread that computes.
fn affinity_moves() {
    use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    c!(libc::sched_getaffinity(0, std::mem::size_of_val(&set), &mut set));
    let cpus: Vec<usize> = (0..1024).filter(|i| unsafe { libc::CPU_ISSET(*i, &set) }).collect();
    let here = || unsafe { libc::sched_getcpu() };
    let bind = |tid: i32, cpu: usize| {
        let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        unsafe { libc::CPU_SET(cpu, &mut one) };
        c!(libc::sched_setaffinity(tid, std::mem::size_of_val(&one), &one))
    };
    let (mut own, mut thread, mut forked, mut program) = (true, true, true, true);
    for cpu in cpus.iter().chain(cpus.iter().rev()) {
        let n = *cpu as i32;
        bind(0, *cpu);
        for _ in 0..50 {
            own &= here() == n;
            unsafe { libc::sched_yield() };
        }
        thread &= std::thread::spawn(move || unsafe { libc::sched_getcpu() } == n).join().unwrap();
        forked &= in_child(|| i32::from(here() != n)) == "exit 0";
        let out = std::process::Command::new("/bin/cat").arg("/proc/self/stat").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        // The processor is field 39.
        let field = text[text.rfind(')').unwrap()..].split(' ').nth(37).unwrap().to_string();
        program &= field == n.to_string();
    }
    say("itself", own);
    say("a new thread", thread);
    say("a child", forked);
    say("after execve", program);
    c!(libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set));
    static AT: [AtomicI32; 3] = [const { AtomicI32::new(-1) }; 3];
    let spinner = std::thread::spawn(move || {
        AT[0].store(gettid(), SeqCst);
        while AT[2].load(SeqCst) < 0 {
            AT[1].store(unsafe { libc::sched_getcpu() }, SeqCst);
        }
    });
    while AT[0].load(SeqCst) < 0 {
        std::thread::yield_now();
    }
    for cpu in cpus.iter().chain(cpus.iter().rev()) {
        bind(AT[0].load(SeqCst), *cpu);
        // The watchdog ends a wait in vain.
        while AT[1].load(SeqCst) != *cpu as i32 {
            std::thread::yield_now();
        }
    }
    AT[2].store(1, SeqCst);
    spinner.join().unwrap();
    say("another thread", "moved");
}

fn sched_yield_and_rr() {
    say("yield", c!(libc::sched_yield()));
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    say("rr_get_interval", c!(libc::sched_rr_get_interval(0, &mut t)));
    say("nobody", c!(libc::sched_rr_get_interval(i32::MAX, &mut t)));
    say("negative", c!(libc::sched_rr_get_interval(-1, &mut t)));
}

fn uname_fields() {
    let mut u: libc::utsname = unsafe { std::mem::zeroed() };
    say("call", c!(libc::uname(&mut u)));
    let s =
        |f: &[i8]| f.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect::<String>();
    say("system", s(&u.sysname));
    say("machine", s(&u.machine));
    let rel = s(&u.release);
    say("release is a number", rel.split('.').next().unwrap().parse::<u32>().is_ok_and(|n| n >= 5));
    say("node is set", !s(&u.nodename).is_empty());
    say("gethostname agrees", {
        let mut b = [0i8; 100];
        unsafe { libc::gethostname(b.as_mut_ptr(), 100) };
        s(&b) == s(&u.nodename)
    });
    say(
        "proc agrees",
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim_end() == rel,
    );
    say("bad pointer", sc!(libc::SYS_uname, 8));
    if unsafe { libc::geteuid() } != 0 {
        say("sethostname as user", c!(libc::sethostname(c"x".as_ptr(), 1)));
        say("setdomainname as user", c!(libc::setdomainname(c"x".as_ptr(), 1)));
    }
}

fn sysinfo_sane() {
    let mut i: libc::sysinfo = unsafe { std::mem::zeroed() };
    say("call", c!(libc::sysinfo(&mut i)));
    say("memory", i.totalram > 0 && i.freeram <= i.totalram && i.mem_unit > 0);
    say("up", i.uptime > 0);
    say("processes", i.procs > 0);
    let m = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kb: u64 = m.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    say("meminfo agrees", kb == i.totalram * u64::from(i.mem_unit) / 1024);
    say("bad pointer", sc!(libc::SYS_sysinfo, 8));
}

fn getrandom() {
    let mut a = [0u8; 64];
    let mut b = [0u8; 64];
    say("64 bytes", c!(libc::getrandom(a.as_mut_ptr().cast(), 64, 0)));
    c!(libc::getrandom(b.as_mut_ptr().cast(), 64, libc::GRND_NONBLOCK));
    say("differ", a != b && a != [0; 64]);
    say("GRND_RANDOM", c!(libc::getrandom(a.as_mut_ptr().cast(), 16, libc::GRND_RANDOM)));
    say("INSECURE", c!(libc::getrandom(a.as_mut_ptr().cast(), 16, libc::GRND_INSECURE)));
    say("bad flags", c!(libc::getrandom(a.as_mut_ptr().cast(), 16, 0x100)));
    say(
        "both",
        c!(libc::getrandom(a.as_mut_ptr().cast(), 16, libc::GRND_RANDOM | libc::GRND_INSECURE)),
    );
    say("none", c!(libc::getrandom(a.as_mut_ptr().cast(), 0, 0)));
    say("bad pointer", sc!(libc::SYS_getrandom, 8, 16, 0));
    let mut big = vec![0u8; 1 << 20];
    say("1 MiB", c!(libc::getrandom(big.as_mut_ptr().cast(), 1 << 20, 0)));
    let kids: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let (r, w) = pipe();
            reap(child(|| {
                let mut x = [0u8; 16];
                c!(libc::getrandom(x.as_mut_ptr().cast(), 16, 0));
                write(w, &x);
                0
            }));
            read(r, 16).unwrap()
        })
        .collect();
    say("children differ", kids[0] != kids[1]);
}

fn personality() {
    say("get", c!(libc::personality(0xffff_ffff)));
    say("ADDR_NO_RANDOMIZE", c!(libc::personality(0x004_0000)));
    say("get", format!("{:#x}", c!(libc::personality(0xffff_ffff)).0));
    say("inherited", in_child(|| (unsafe { libc::personality(0xffff_ffff) } == 0x4_0000) as i32));
    say("PER_LINUX32", format!("{:#x}", c!(libc::personality(8)).0));
    let mut u: libc::utsname = unsafe { std::mem::zeroed() };
    c!(libc::uname(&mut u));
    say(
        "machine",
        u.machine.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect::<String>(),
    );
}

fn sysconf_values() {
    let g = |n: i32| unsafe { libc::sysconf(n) };
    say("page size", g(libc::_SC_PAGESIZE));
    say("clock ticks", g(libc::_SC_CLK_TCK));
    say(
        "processors",
        g(libc::_SC_NPROCESSORS_ONLN) >= 1
            && g(libc::_SC_NPROCESSORS_CONF) >= g(libc::_SC_NPROCESSORS_ONLN),
    );
    say("physical pages", g(libc::_SC_PHYS_PAGES) > 0 && g(libc::_SC_AVPHYS_PAGES) > 0);
    say("groups", g(libc::_SC_NGROUPS_MAX));
}

fn auxv() {
    let g = |n: u64| unsafe { libc::getauxval(n) };
    say("page size", g(libc::AT_PAGESZ));
    say("clock ticks", g(libc::AT_CLKTCK));
    say(
        "uid gid as the caller of exec",
        g(libc::AT_UID) == g(libc::AT_EUID) && g(libc::AT_GID) == g(libc::AT_EGID),
    );
    say("secure", g(libc::AT_SECURE));
    say(
        "platform",
        unsafe { std::ffi::CStr::from_ptr(g(libc::AT_PLATFORM) as *const _) }.to_str().unwrap(),
    );
    say("random is set", g(libc::AT_RANDOM) != 0);
    say(
        "entry, program headers",
        g(libc::AT_ENTRY) != 0
            && g(libc::AT_PHDR) != 0
            && g(libc::AT_PHENT) == 56
            && g(libc::AT_PHNUM) > 0,
    );
    say("base of the interpreter", g(libc::AT_BASE) != 0);
    let a = std::fs::read("/proc/self/auxv").unwrap();
    let w: Vec<u64> = a.chunks(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).collect();
    say("proc ends with AT_NULL", w.len().is_multiple_of(2) && w.chunks(2).any(|p| p[0] == 0));
    say(
        "proc agrees",
        w.chunks(2).find(|p| p[0] == libc::AT_ENTRY).unwrap()[1] == g(libc::AT_ENTRY),
    );
}

fn nproc_limit() {
    // A user of its own, so that nothing else counts.
    let s = in_child(|| {
        set_limit(libc::RLIMIT_NPROC, 5, 5);
        c!(libc::setresgid(54321, 54321, 54321));
        c!(libc::setresuid(54321, 54321, 54321));
        let hold = Event::new();
        let mut kids = Vec::new();
        let err = loop {
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                close(hold.w);
                let _ = read(hold.r, 1);
                unsafe { libc::_exit(0) };
            }
            if pid < 0 {
                break last();
            }
            kids.push(pid);
            if kids.len() > 20 {
                break R(0);
            }
        };
        say("children", kids.len());
        say("then", err);
        say("a thread", std::thread::Builder::new().spawn(|| ()).is_err());
        close(hold.w);
        for k in kids {
            reap(k);
        }
        say("after they ended", in_child(|| 3));
        0
    });
    say("status", s);
}
