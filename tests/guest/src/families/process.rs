//! fork, wait4, waitid, exit, process groups, sessions, orphaned groups, zombies, resource usage.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

cases! {
    fork_relations, fork_copies_memory, fork_shares_offsets, fork_inherits, exit_codes, wait_options, waitid_info, wait_errors, wait_pgid, process_groups, sessions, orphaned_group_stopped, orphan_reparented, exit_kills_nothing_else, stop_continue, zombies, rusage, signal_parent_death, autoreap, many_children, nested_forks,
}

fn fork_relations() {
    let me = getpid();
    let (r, w) = pipe();
    let pid = child(|| {
        let rel = [getpid() != me, c!(libc::getppid()) == R(me.into()), gettid() == getpid()];
        write(w, format!("{rel:?}").as_bytes());
        7
    });
    say("child pid != parent: true, ppid, tid", read_text(r, 100));
    say("pid returned is positive", pid > 0);
    say("status", reap(pid));
}

fn fork_copies_memory() {
    let mut v = [1, 2, 3];
    let p = v.as_mut_ptr();
    let e = Event::new();
    let pid = child(|| {
        unsafe { p.write_volatile(10) };
        e.post();
        0
    });
    e.wait();
    say("parent's copy unchanged", unsafe { p.read_volatile() });
    unsafe { p.write_volatile(20) };
    say("child", reap(pid));
    // The other way: what the parent writes after the fork is not seen by the child.
    let e = Event::new();
    let pid = child(|| {
        e.wait();
        unsafe { p.read_volatile() }
    });
    unsafe { p.write_volatile(30) };
    e.post();
    say("child sees value of the time of fork", reap(pid));
}

fn fork_shares_offsets() {
    put("f", b"abcdefgh");
    let fd = open("f", libc::O_RDWR).fd();
    say("first read", read_text(fd, 3));
    let s = in_child(|| {
        say("child reads on", read_text(fd, 2));
        unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_APPEND) };
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        0
    });
    say("child", s);
    say("parent reads on", read_text(fd, 10));
    let fl = c!(libc::fcntl(fd, libc::F_GETFL)).0 as i32;
    say("O_APPEND set by the child is shared", fl & libc::O_APPEND != 0);
    say("FD_CLOEXEC set by the child is not shared", c!(libc::fcntl(fd, libc::F_GETFD)));
}

pub(super) extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn fork_inherits() {
    on_signal(libc::SIGUSR1, nothing, libc::SA_RESTART);
    set_action(libc::SIGUSR2, libc::SIG_IGN);
    mask(libc::SIG_BLOCK, &[libc::SIGHUP]);
    unsafe { libc::raise(libc::SIGHUP) };
    unsafe { libc::alarm(1000) };
    std::fs::create_dir("d").unwrap();
    std::env::set_current_dir("d").unwrap();
    unsafe { libc::umask(0o077) };
    let s = in_child(|| unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGUSR1, std::ptr::null(), &mut sa);
        say("handler kept", sa.sa_sigaction == nothing as *const () as usize);
        libc::sigaction(libc::SIGUSR2, std::ptr::null(), &mut sa);
        say("ignored kept", sa.sa_sigaction == libc::SIG_IGN);
        let mut set = sigset(&[]);
        libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
        say("mask kept", libc::sigismember(&set, libc::SIGHUP));
        libc::sigpending(&mut set);
        say("pending cleared", libc::sigismember(&set, libc::SIGHUP));
        say("alarm cleared", libc::alarm(0));
        say("umask kept", format!("{:o}", libc::umask(0)));
        say("cwd kept", std::env::current_dir().unwrap().ends_with("d"));
        0
    });
    say("child", s);
    say("alarm still set in parent", unsafe { libc::alarm(0) } > 900);
}

fn exit_codes() {
    for code in [0, 1, 42, 127, 128, 255, 256, 257, -1] {
        say(&format!("_exit({code})"), in_child(|| code));
    }
    for s in [
        libc::SIGHUP,
        libc::SIGKILL,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGSEGV,
        libc::SIGABRT,
        34,
        64,
    ] {
        let how = in_child(|| {
            unsafe { libc::kill(getpid(), s) };
            0
        });
        say(&format!("kill self with {}", signal_name(s)), how);
    }
    for s in [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH] {
        let how = in_child(|| {
            unsafe { libc::kill(getpid(), s) };
            5
        });
        say(&format!("default of {} is nothing", signal_name(s)), how);
    }
}

fn wait_options() {
    let e = Event::new();
    let pid = child(|| {
        e.wait();
        3
    });
    say("WNOHANG while it runs", wait_opt(pid, libc::WNOHANG));
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    say("WUNTRACED", wait_opt(pid, libc::WUNTRACED));
    say("stop is reported once", wait_opt(pid, libc::WUNTRACED | libc::WNOHANG));
    unsafe { libc::kill(pid, libc::SIGCONT) };
    say("WCONTINUED", wait_opt(pid, libc::WCONTINUED));
    say("continue is reported once", wait_opt(pid, libc::WCONTINUED | libc::WNOHANG));
    e.post();
    say("exit", wait_opt(pid, libc::WUNTRACED | libc::WCONTINUED));
    say("again", wait_opt(pid, 0));
}

pub(super) fn info_text(r: R, i: &libc::siginfo_t, pid: i32) -> String {
    if !r.is_ok() {
        return r.to_string();
    }
    unsafe {
        let code = match i.si_code {
            libc::CLD_EXITED => "CLD_EXITED".into(),
            libc::CLD_KILLED | libc::CLD_DUMPED => "CLD_KILLED or CLD_DUMPED".into(),
            libc::CLD_STOPPED => "CLD_STOPPED".into(),
            libc::CLD_CONTINUED => "CLD_CONTINUED".into(),
            libc::CLD_TRAPPED => "CLD_TRAPPED".into(),
            n => format!("{n}"),
        };
        let signo = if i.si_signo == 0 { "0".into() } else { signal_name(i.si_signo) };
        let uid_ok = i.si_signo == 0 || i.si_uid() == libc::getuid();
        let who = if i.si_pid() == pid { "the child" } else { "another" };
        format!("{signo} {code} status {} pid is {who} uid {uid_ok}", i.si_status())
    }
}

fn waitid_info() {
    let e = Event::new();
    let pid = child(|| {
        e.wait();
        19
    });
    let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = pid as u32;
    let all = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED;
    let r = c!(libc::waitid(libc::P_PID, id, &mut i, all | libc::WNOHANG));
    say("WNOHANG", format!("{r} {}", i.si_signo));
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    let r = c!(libc::waitid(libc::P_PID, id, &mut i, all));
    say("stopped", info_text(r, &i, pid));
    unsafe { libc::kill(pid, libc::SIGCONT) };
    let r = c!(libc::waitid(libc::P_PID, id, &mut i, all));
    say("continued", info_text(r, &i, pid));
    e.post();
    let r = c!(libc::waitid(libc::P_PID, id, &mut i, all | libc::WNOWAIT));
    say("WNOWAIT", info_text(r, &i, pid));
    let r = c!(libc::waitid(libc::P_ALL, 0, &mut i, all));
    say("exited", info_text(r, &i, pid));
    let r = c!(libc::waitid(libc::P_PID, id, &mut i, all));
    say("gone", info_text(r, &i, pid));
    let pid = child(|| unsafe { libc::pause() });
    unsafe { libc::kill(pid, libc::SIGTERM) };
    let r = c!(libc::waitid(libc::P_PGID, libc::getpgrp() as u32, &mut i, libc::WEXITED));
    say("killed", info_text(r, &i, pid));
    let pid = child(|| 0);
    say(
        "null info",
        c!(libc::waitid(libc::P_PID, pid as u32, std::ptr::null_mut(), libc::WEXITED)),
    );
}

fn wait_errors() {
    let mut s = 0;
    say("no children", c!(libc::waitpid(-1, &mut s, 0)));
    say("not a child", c!(libc::waitpid(1, &mut s, 0)));
    say("bad options", c!(libc::waitpid(-1, &mut s, 0x100)));
    say("min pid", sc!(libc::SYS_wait4, i32::MIN, 0, 0, 0));
    let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
    say("waitid without a state", c!(libc::waitid(libc::P_ALL, 0, &mut i, libc::WNOHANG)));
    say("waitid bad type", sc!(libc::SYS_waitid, 77, 0, &mut i as *mut _, libc::WEXITED, 0));
    say("waitid pid 0", c!(libc::waitid(libc::P_PID, 0, &mut i, libc::WEXITED)));
    let pid = child(|| 0);
    say("bad status pointer", sc!(libc::SYS_wait4, pid, 8, 0, 0));
    say("after EFAULT the child is gone", wait_opt(pid, 0));
}

fn wait_pgid() {
    let hold = Event::new();
    let a = child(|| {
        unsafe { libc::setpgid(0, 0) };
        hold.wait();
        1
    });
    let _ = c!(libc::setpgid(a, a));
    let b = child(|| 2);
    say("own group", wait_opt(0, 0));
    let _ = b;
    say("own group again", wait_opt(0, 0));
    hold.post();
    say("other group", wait_opt(-a, 0));
}

pub(super) static GOT: AtomicI32 = AtomicI32::new(0);

pub(super) extern "C" fn count(sig: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    GOT.fetch_add(sig * 1000 + 1, SeqCst);
}

fn process_groups() {
    say("getpgrp is own pid (session leader)", c!(libc::getpgrp()) == R(getpid().into()));
    say("leader cannot change its group", c!(libc::setpgid(0, 0)));
    let me = getpid();
    let e = Event::new();
    let ready = Event::new();
    let a = child(|| {
        say("child starts in parent's group", unsafe { libc::getpgrp() } == me);
        ready.post();
        e.wait();
        0
    });
    ready.wait();
    say("setpgid(child, child)", c!(libc::setpgid(a, a)));
    say("getpgid(child)", c!(libc::getpgid(a)) == R(a.into()));
    let b = child(|| {
        say("join another group", c!(libc::setpgid(0, a)));
        say("and back", c!(libc::setpgid(0, me)));
        say("group that does not exist", c!(libc::setpgid(0, getpid() + 100_000)));
        say("negative", c!(libc::setpgid(0, -1)));
        0
    });
    reap(b);
    say("getpgid of nobody", c!(libc::getpgid(i32::MAX)));
    say("setpgid of a stranger", c!(libc::setpgid(1, 1)));
    e.post();
    reap(a);
    let e = Event::new();
    let c2 = child(|| {
        unsafe { libc::setsid() };
        e.post();
        unsafe { libc::pause() };
        0
    });
    e.wait();
    say("child in another session", c!(libc::setpgid(c2, getpid())));
    say("kill a group", c!(libc::kill(-c2, libc::SIGTERM)));
    say("it ended", reap(c2));
    say("kill a group that is gone", c!(libc::kill(-c2, libc::SIGTERM)));
    // A child that has executed a program can no longer be moved.
    let ready = Event::new();
    let hold = Event::new();
    let d = child(|| {
        unsafe {
            libc::dup2(hold.r, 0);
            libc::dup2(ready.w, 9);
            let sh = c"/bin/sh".as_ptr();
            let script = c"echo x >&9; read x".as_ptr();
            libc::execv(sh, [sh, c"-c".as_ptr(), script, std::ptr::null()].as_ptr());
        }
        1
    });
    ready.wait();
    say("setpgid after exec", c!(libc::setpgid(d, d)));
    close(hold.w);
    unsafe { libc::kill(d, libc::SIGKILL) };
    reap(d);
}

fn sessions() {
    say("group leader cannot setsid", c!(libc::setsid()));
    let me = getpid();
    let s = in_child(|| {
        say("getsid(0) is the parent", unsafe { libc::getsid(0) } == me);
        say("setsid gives own pid", unsafe { libc::setsid() } == getpid());
        say("getsid", unsafe { libc::getsid(0) } == getpid());
        say("getpgrp", unsafe { libc::getpgrp() } == getpid());
        say("again", c!(libc::setsid()));
        say("no controlling terminal", open("/dev/tty", libc::O_RDWR));
        0
    });
    say("child", s);
    say("getsid of nobody", c!(libc::getsid(i32::MAX)));
}

fn orphaned_group_stopped() {
    // A stopped group whose last outside parent exits gets SIGHUP and SIGCONT.
    static HUP: AtomicI32 = AtomicI32::new(0);
    extern "C" fn note(s: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        HUP.fetch_or(if s == libc::SIGHUP { 1 } else { 2 }, SeqCst);
    }
    let (r, w) = pipe();
    let mid = child(|| {
        let inner = child(|| {
            unsafe { libc::setpgid(0, 0) };
            on_signal(libc::SIGHUP, note, 0);
            on_signal(libc::SIGCONT, note, 0);
            unsafe { libc::raise(libc::SIGSTOP) };
            while HUP.load(SeqCst) != 3 {
                pause_poll();
            }
            write(w, b"hup+cont");
            0
        });
        say("inner", wait_opt(inner, libc::WUNTRACED));
        0
    });
    say("middle", reap(mid));
    close(w);
    say("inner got", read_text(r, 20));
    // In an orphaned group the terminal stop signals do not stop.
    let (r, w) = pipe();
    let mid = child(|| {
        let gone = Event::new();
        child(|| {
            unsafe { libc::setpgid(0, 0) };
            let parent = unsafe { libc::getppid() };
            gone.post();
            while unsafe { libc::getppid() } == parent {
                pause_poll();
            }
            for s in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
                unsafe { libc::raise(s) };
            }
            write(w, b"not stopped");
            0
        });
        gone.wait();
        0
    });
    reap(mid);
    close(w);
    say("SIGTSTP, SIGTTIN, SIGTTOU in an orphaned group", read_text(r, 20));
}

fn orphan_reparented() {
    // Sub-reaper: the nearest ancestor that asked gets the orphan.
    say("set", c!(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)));
    let mut on = 0i32;
    say("get", c!(libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &mut on)));
    say("is", on);
    let w = shared_words();
    let mid = child(|| {
        say("not inherited", {
            let mut on = 5i32;
            unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &mut on) };
            on
        });
        let p = unsafe { libc::getpid() };
        let started = Event::new();
        let o = child(|| {
            started.post();
            while unsafe { libc::getppid() } == p {
                pause_poll();
            }
            w[1].store(unsafe { libc::getppid() }, SeqCst);
            21
        });
        w[0].store(o, SeqCst);
        started.wait();
        0
    });
    say("middle", reap(mid));
    say("orphan", reap(w[0].load(SeqCst)));
    say("adopted by the sub-reaper", w[1].load(SeqCst) == getpid());
}

fn exit_kills_nothing_else() {
    let go = Event::new();
    let done = Event::new();
    let mid = child(|| {
        child(|| {
            go.wait();
            done.post();
            0
        });
        0
    });
    say("parent", reap(mid));
    go.post();
    done.wait();
    say("grandchild survives its parent", true);
}

fn stop_continue() {
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    for s in [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
        // The case's group has a parent outside it (the runner, in another session): it is orphaned, so only SIGSTOP stops.
        unsafe { libc::kill(pid, s) };
        if s == libc::SIGSTOP {
            say("SIGSTOP", wait_opt(pid, libc::WUNTRACED));
            say("state", task_state(pid, pid).unwrap_or('?'));
            unsafe { libc::kill(pid, libc::SIGTERM) };
            say("SIGTERM waits while stopped", wait_opt(pid, libc::WNOHANG | libc::WUNTRACED));
        }
    }
    unsafe { libc::kill(pid, libc::SIGCONT) };
    say("then ends", reap(pid));
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    wait_opt(pid, libc::WUNTRACED);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    say("SIGKILL ends a stopped process", reap(pid));
}

fn zombies() {
    let pid = child(|| 5);
    await_state(pid, pid, "Z");
    say("kill(zombie, 0)", c!(libc::kill(pid, 0)));
    say("kill(zombie, KILL)", c!(libc::kill(pid, libc::SIGKILL)));
    say("getpgid(zombie) is ours", c!(libc::getpgid(pid)) == R(unsafe { libc::getpgrp() }.into()));
    let cmd = std::fs::read(format!("/proc/{pid}/cmdline")).map(|v| v.len());
    say("cmdline is empty", format!("{cmd:?}"));
    say("reaped", reap(pid));
    say("kill(reaped, 0)", c!(libc::kill(pid, 0)));
}

fn rusage() {
    let pid = child(|| {
        let mut x = 0u64;
        let mut t: libc::tms = unsafe { std::mem::zeroed() };
        // Use processor time until the clock itself has noticed.
        while unsafe { libc::times(&mut t) } >= 0 && t.tms_utime + t.tms_stime < 3 {
            for i in 0..100_000u64 {
                x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(i));
            }
        }
        0
    });
    let mut ru: libc::rusage = unsafe { std::mem::zeroed() };
    let r = c!(libc::wait4(pid, std::ptr::null_mut(), 0, &mut ru));
    say("wait4 gives the pid", r.0 == pid.into());
    let us = |t: libc::timeval| t.tv_sec * 1_000_000 + t.tv_usec;
    let total = us(ru.ru_utime) + us(ru.ru_stime);
    say("time used is at least 20 ms and under 5 s", (20_000..5_000_000).contains(&total));
    say("maxrss is positive", ru.ru_maxrss > 0);
    let mut ch: libc::rusage = unsafe { std::mem::zeroed() };
    say("RUSAGE_CHILDREN", c!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut ch)));
    say("children's time is the child's", us(ch.ru_utime) + us(ch.ru_stime) == total);
    say("RUSAGE_THREAD", c!(libc::getrusage(libc::RUSAGE_THREAD, &mut ch)));
    say("bad who", c!(libc::getrusage(77, &mut ch)));
    // Work of the kernel for a program is the program's time; sleep is not.
    let s = in_child(|| {
        let stime = || {
            let mut ru: libc::rusage = unsafe { std::mem::zeroed() };
            unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut ru) };
            us(ru.ru_stime)
        };
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let mut buf = vec![0u8; 65536];
        let begun = std::time::Instant::now();
        while stime() < 30_000 && begun.elapsed().as_secs() < 20 {
            std::io::Read::read_exact(&mut &zero, &mut buf).unwrap();
        }
        let busy = stime();
        std::thread::sleep(std::time::Duration::from_millis(300));
        i32::from(busy < 30_000) + 2 * i32::from(stime() - busy > 100_000)
    });
    say("system time", s);
}

fn signal_parent_death() {
    let (r, w) = pipe();
    let ready = Event::new();
    let mid = child(|| {
        child(|| {
            mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
            say("set", c!(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1)));
            ready.post();
            let set = sigset(&[libc::SIGUSR1]);
            let s = unsafe { libc::sigwaitinfo(&set, std::ptr::null_mut()) };
            write(w, signal_name(s).as_bytes());
            0
        });
        ready.wait();
        0
    });
    reap(mid);
    say("got", read_text(r, 20));
    say("bad signal", c!(libc::prctl(libc::PR_SET_PDEATHSIG, 65)));
}

fn autoreap() {
    for (name, f) in [
        ("SIG_IGN", (|| set_action(libc::SIGCHLD, libc::SIG_IGN)) as fn() -> R),
        ("SA_NOCLDWAIT", || on_signal(libc::SIGCHLD, nothing, libc::SA_NOCLDWAIT)),
    ] {
        f();
        let pid = child(|| 0);
        say(name, wait_opt(pid, 0));
    }
    // SA_NOCLDSTOP: no signal for a stop, one for the exit.
    on_signal(libc::SIGCHLD, count, libc::SA_NOCLDSTOP);
    GOT.store(0, SeqCst);
    let pid = child(|| unsafe { libc::pause() });
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    wait_opt(pid, libc::WUNTRACED);
    say("SIGCHLD after stop", GOT.load(SeqCst) % 1000);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    say("SIGCHLD after exit", GOT.load(SeqCst) % 1000);
}

fn many_children() {
    let gate = Event::new();
    let pids: Vec<i32> = (0..200)
        .map(|i| {
            child(move || {
                close(gate.w);
                let mut b = [0u8];
                unsafe { libc::read(gate.r, b.as_mut_ptr().cast(), 1) };
                i % 100
            })
        })
        .collect();
    let mut uniq = pids.clone();
    uniq.sort_unstable();
    uniq.dedup();
    say("different pids", uniq.len());
    // All at once: closing the last writer ends every read.
    close(gate.w);
    let good =
        pids.iter().enumerate().filter(|(i, p)| reap(**p) == format!("exit {}", i % 100)).count();
    say("right statuses", good);
}

fn nested_forks() {
    fn level(n: i32) -> i32 {
        if n == 0 {
            return 0;
        }
        let mut s = 0;
        let p = child(|| level(n - 1));
        unsafe { libc::waitpid(p, &mut s, 0) };
        libc::WEXITSTATUS(s) + 1
    }
    say("depth", level(40));
}
