//! vfork, clone and clone3 with their flags and errors, exit signals, thread groups, pidfds.

use super::process::*;
use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

cases! {
    vfork_blocks_parent, clone_vm, clone_files_fs, clone_sighand, clone_parent, clone_settid, clone_errors, clone3_forms, set_tid, set_tid_two_levels_root: root, clone_exit_signal, wait_clone_kinds, threads_exit_group, pidfd, pidfd_proc_directory, into_cgroup_root: root, pidfd_fdinfo_root: root, frozen_root: root, frozen_vfork_root: root, cgroup_opener_root: root,
}

fn vfork_blocks_parent() {
    let w = shared_words();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    extern "C" fn body(arg: *mut libc::c_void) -> i32 {
        let w = unsafe { &*arg.cast::<[AtomicI32; 64]>() };
        for _ in 0..1000 {
            unsafe { libc::sched_yield() };
        }
        w[0].store(1, SeqCst);
        unsafe { LOCAL = 77 };
        9
    }
    static mut LOCAL: i32 = 0;
    let stack = vec![0u8; 64 << 10];
    let top = (stack.as_ptr() as usize + stack.len()) & !15;
    let pid =
        c!(libc::clone(body, top as *mut libc::c_void, flags, w.as_ptr() as *mut libc::c_void));
    say("child had ended when the parent went on", w[0].load(SeqCst));
    say("memory shared", unsafe { (&raw const LOCAL).read_volatile() });
    say("status", reap(pid.0 as i32));
}

/// `clone` with a stack of its own; `f` runs in the new task.
fn spawn(flags: i32, f: extern "C" fn(*mut libc::c_void) -> i32, arg: *mut libc::c_void) -> R {
    let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let top = (stack.as_ptr() as usize + stack.len()) & !15;
    c!(libc::clone(f, top as *mut libc::c_void, flags, arg))
}

fn clone_vm() {
    static WORD: AtomicI32 = AtomicI32::new(0);
    extern "C" fn body(_: *mut libc::c_void) -> i32 {
        WORD.fetch_add(5, SeqCst);
        0
    }
    let p = spawn(libc::SIGCHLD, body, std::ptr::null_mut());
    say("without CLONE_VM", reap(p.0 as i32));
    say("word", WORD.load(SeqCst));
    let p = spawn(libc::CLONE_VM | libc::SIGCHLD, body, std::ptr::null_mut());
    say("with CLONE_VM", reap(p.0 as i32));
    say("word", WORD.load(SeqCst));
}

fn clone_files_fs() {
    extern "C" fn body(_: *mut libc::c_void) -> i32 {
        unsafe {
            let fd = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            libc::dup2(fd, 77);
            libc::chdir(c"sub".as_ptr());
            libc::umask(0o111);
        }
        0
    }
    std::fs::create_dir("sub").unwrap();
    for (name, flags) in
        [("none", 0), ("CLONE_FILES", libc::CLONE_FILES), ("CLONE_FS", libc::CLONE_FS)]
    {
        let p = spawn(flags | libc::SIGCHLD, body, std::ptr::null_mut());
        reap(p.0 as i32);
        let fd = c!(libc::fcntl(77, libc::F_GETFD)).ok();
        let cwd = std::env::current_dir().unwrap().ends_with("sub");
        let um = unsafe { libc::umask(0o022) };
        say(name, format!("fd {fd}, cwd changed {cwd}, umask {um:o}"));
    }
}

fn clone_sighand() {
    extern "C" fn body(_: *mut libc::c_void) -> i32 {
        set_action(libc::SIGUSR1, libc::SIG_IGN);
        0
    }
    for (name, flags) in
        [("own", libc::CLONE_VM), ("CLONE_SIGHAND", libc::CLONE_VM | libc::CLONE_SIGHAND)]
    {
        on_signal(libc::SIGUSR1, nothing, 0);
        let p = spawn(flags | libc::SIGCHLD, body, std::ptr::null_mut());
        reap(p.0 as i32);
        let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
        unsafe { libc::sigaction(libc::SIGUSR1, std::ptr::null(), &mut sa) };
        say(name, format!("ignored in parent: {}", sa.sa_sigaction == libc::SIG_IGN));
    }
}

fn clone_parent() {
    // A child made with CLONE_PARENT is a sibling: its parent is ours.
    let me = getpid();
    let w = shared_words();
    let mid = child(|| {
        extern "C" fn body(arg: *mut libc::c_void) -> i32 {
            let w = unsafe { &*arg.cast::<[AtomicI32; 64]>() };
            w[0].store(unsafe { libc::getppid() }, SeqCst);
            4
        }
        let p = spawn(libc::CLONE_PARENT | libc::SIGCHLD, body, w.as_ptr() as *mut libc::c_void);
        w[1].store(p.0 as i32, SeqCst);
        let r = c!(libc::waitpid(p.0 as i32, std::ptr::null_mut(), 0));
        say("maker cannot wait for it", r);
        0
    });
    say("maker", reap(mid));
    say("sibling", reap(w[1].load(SeqCst)));
    say("parent of sibling is the grandparent", w[0].load(SeqCst) == me);
}

fn clone_settid() {
    static CHILD: AtomicI32 = AtomicI32::new(-5);
    static PARENT: AtomicI32 = AtomicI32::new(-5);
    static GO: AtomicI32 = AtomicI32::new(0);
    static SEEN: AtomicI32 = AtomicI32::new(0);
    extern "C" fn body(_: *mut libc::c_void) -> i32 {
        publish(&SEEN, if CHILD.load(SeqCst) == gettid() { 1 } else { 2 });
        await_change(&GO, 0);
        0
    }
    let flags = libc::CLONE_VM
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_SETTID
        | libc::CLONE_CHILD_CLEARTID
        | libc::SIGCHLD;
    let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let top = (stack.as_ptr() as usize + stack.len()) & !15;
    let p = c!(libc::clone(
        body,
        top as *mut libc::c_void,
        flags,
        std::ptr::null_mut(),
        PARENT.as_ptr(),
        std::ptr::null_mut::<libc::c_void>(),
        CHILD.as_ptr()
    ));
    let pid = p.0 as i32;
    say("parent tid is the child", PARENT.load(SeqCst) == pid);
    await_change(&SEEN, 0);
    publish(&GO, 1);
    // The word is cleared and woken at exit.
    await_change(&CHILD, pid);
    say("cleared", CHILD.load(SeqCst));
    say("child saw its tid", SEEN.load(SeqCst));
    say("status", reap(pid));
}

fn clone_errors() {
    let bad = |name: &str, flags: i32| {
        let r = sc!(libc::SYS_clone, flags as u32, 0, 0, 0, 0);
        if r.0 == 0 {
            unsafe { libc::_exit(0) };
        }
        if r.0 > 0 {
            reap(r.0 as i32);
        }
        say(name, r.ok());
    };
    bad("CLONE_THREAD without SIGHAND", libc::CLONE_THREAD | libc::CLONE_VM);
    bad("CLONE_SIGHAND without VM", libc::CLONE_SIGHAND);
    bad("CLONE_FS with CLONE_NEWNS", libc::CLONE_FS | libc::CLONE_NEWNS);
    bad("CLONE_NEWIPC with CLONE_SYSVSEM", libc::CLONE_NEWIPC | libc::CLONE_SYSVSEM);
    bad(
        "CLONE_THREAD with CLONE_NEWPID",
        libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_NEWPID,
    );
    bad("CLONE_NEWUSER with CLONE_FS", libc::CLONE_NEWUSER | libc::CLONE_FS);
    bad("pidfd with parent tid", libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID | libc::SIGCHLD);
    say(
        "glibc null stack",
        c!(libc::clone(null_body, std::ptr::null_mut(), libc::SIGCHLD, std::ptr::null_mut())),
    );
}

extern "C" fn null_body(_: *mut libc::c_void) -> i32 {
    0
}

#[repr(C)]
#[derive(Default)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
    pub beyond: [u64; 4],
}

pub fn clone3(a: &CloneArgs, size: usize) -> R {
    let r = sc!(libc::SYS_clone3, a as *const _, size);
    if r.0 == 0 {
        unsafe { libc::_exit(6) };
    }
    r
}

fn clone3_forms() {
    let run = |name: &str, a: CloneArgs, size: usize| {
        let r = clone3(&a, size);
        if r.is_ok() {
            say(name, format!("ok, {}", wait_opt(r.0 as i32, libc::__WALL)));
        } else {
            say(name, r);
        }
    };
    let chld = libc::SIGCHLD as u64;
    run("fork", CloneArgs { exit_signal: chld, ..Default::default() }, 88);
    run("smallest size", CloneArgs { exit_signal: chld, ..Default::default() }, 64);
    run("too small", CloneArgs { exit_signal: chld, ..Default::default() }, 63);
    run("bigger, zeroes beyond", CloneArgs { exit_signal: chld, ..Default::default() }, 120);
    run(
        "bigger, not zero beyond",
        CloneArgs { exit_signal: chld, beyond: [0, 1, 0, 0], ..Default::default() },
        120,
    );
    run("more than a page", CloneArgs { exit_signal: chld, ..Default::default() }, 5000);
    run("signal in flags", CloneArgs { flags: chld, ..Default::default() }, 88);
    run("bad signal", CloneArgs { exit_signal: 65, ..Default::default() }, 88);
    run(
        "stack without size",
        CloneArgs { exit_signal: chld, stack: 4096, ..Default::default() },
        88,
    );
    run(
        "size without stack",
        CloneArgs { exit_signal: chld, stack_size: 4096, ..Default::default() },
        88,
    );
    run(
        "CLONE_DETACHED",
        CloneArgs { flags: 0x0040_0000, exit_signal: chld, ..Default::default() },
        88,
    );
    run(
        "thread with exit signal",
        CloneArgs {
            flags: (libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM) as u64,
            exit_signal: chld,
            ..Default::default()
        },
        88,
    );
    run(
        "clear sighand",
        CloneArgs { flags: 0x1_0000_0000, exit_signal: chld, ..Default::default() },
        88,
    );
    run(
        "clear sighand and share it",
        CloneArgs {
            flags: 0x1_0000_0000 | (libc::CLONE_SIGHAND | libc::CLONE_VM) as u64,
            exit_signal: chld,
            ..Default::default()
        },
        88,
    );
    run(
        "set_tid size without array",
        CloneArgs { exit_signal: chld, set_tid_size: 1, ..Default::default() },
        88,
    );
    run("unknown flag", CloneArgs { flags: 1 << 63, exit_signal: chld, ..Default::default() }, 88);
    let mut fd = -1i32;
    let a = CloneArgs {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: &mut fd as *mut _ as u64,
        exit_signal: chld,
        ..Default::default()
    };
    let r = clone3(&a, 88);
    say("pidfd", r.ok());
    let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    say("poll of pidfd", c!(libc::poll(&mut p, 1, -1)));
    say("pidfd is closed on exec", c!(libc::fcntl(fd, libc::F_GETFD)));
    let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let r2 = c!(libc::waitid(libc::P_PIDFD, fd as u32, &mut i, libc::WEXITED));
    say("waitid P_PIDFD", info_text(r2, &i, r.0 as i32));
}

fn with_tids(flags: u64, tids: &[i32]) -> R {
    let a = CloneArgs {
        flags,
        exit_signal: libc::SIGCHLD as u64,
        set_tid: tids.as_ptr() as u64,
        set_tid_size: tids.len() as u64,
        ..Default::default()
    };
    sc!(libc::SYS_clone3, &a as *const _, 88)
}

/// clone3(2) set_tid, in pid namespaces of its own.
fn set_tid() {
    let gone = |r: R| {
        if r.0 == 0 {
            unsafe { libc::_exit(getpid() & 0x7f) };
        }
        if r.is_ok() { format!("{r}, {}", wait_opt(r.0 as i32, 0)) } else { r.to_string() }
    };
    if unsafe { libc::geteuid() } != 0 {
        say("without power", gone(with_tids(0, &[20_000])));
        say("wrong number without power", gone(with_tids(0, &[0])));
    }
    say("unshare", c!(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID)));
    say("init must be 1", gone(with_tids(0, &[2])));
    let r = with_tids(0, &[1]);
    if r.0 == 0 {
        say("init", getpid());
        for n in [0, -1, i32::MIN, i32::MAX] {
            say(&format!("number {n}"), gone(with_tids(0, &[n])));
        }
        say("100", gone(with_tids(0, &[100])));
        say("100 again", gone(with_tids(0, &[100])));
        say("1", gone(with_tids(0, &[1])));
        say("array without size", gone(with_tids(0, &[])));
        say("no capability outside", gone(with_tids(0, &[101, 20_000])));
        say("more levels than there are", gone(with_tids(0, &[101; 32])));
        say("too many", gone(with_tids(0, &[101; 33])));
        say("a wrong one behind a good one", gone(with_tids(0, &[101, 0])));
        let e = Event::new();
        let r = with_tids(0, &[64]);
        if r.0 == 0 {
            e.wait();
            unsafe { libc::_exit(3) };
        }
        say("alive", r);
        say("taken", gone(with_tids(0, &[64])));
        e.post();
        say("ended", wait_opt(64, 0));
        say("bad pointer", {
            let a = CloneArgs { set_tid: 8, set_tid_size: 1, ..Default::default() };
            sc!(libc::SYS_clone3, &a as *const _, 88)
        });
        say("new namespace below", gone(with_tids(libc::CLONE_NEWPID as u64, &[1, 50])));
        say("its init", gone(with_tids(libc::CLONE_NEWPID as u64, &[5, 51])));
        unsafe { libc::_exit(0) };
    }
    say("end", wait_opt(r.0 as i32, 0));
}

fn set_tid_two_levels_root() {
    let free = (20_000..30_000).find(|n| c!(libc::kill(*n, 0)).is(libc::ESRCH)).unwrap_or(0);
    let r = with_tids(0, &[free]);
    if r.0 == 0 {
        unsafe { libc::_exit(i32::from(getpid() != free)) };
    }
    say("as asked", r.0 == i64::from(free));
    say("own", getpid() != free);
    say("status", wait_opt(free, 0));
    say("unshare", c!(libc::unshare(libc::CLONE_NEWPID)));
    say(
        "init",
        in_child(|| {
            let r = with_tids(0, &[77, free]);
            if r.0 == 0 {
                unsafe { libc::_exit(getpid()) };
            }
            say("inside", r);
            let outside =
                std::fs::read_to_string(format!("/proc/{free}/status")).unwrap_or_default();
            let line = outside.lines().find(|l| l.starts_with("NSpid")).unwrap_or_default();
            say("outside", line.split_whitespace().nth(2).unwrap_or("-"));
            say("status", wait_opt(77, 0));
            0
        }),
    );
}

fn clone_exit_signal() {
    on_signal(libc::SIGUSR1, count, 0);
    on_signal(libc::SIGCHLD, count, 0);
    for s in [libc::SIGUSR1, libc::SIGCHLD, 0] {
        GOT.store(0, SeqCst);
        let p = spawn(s, null_body, std::ptr::null_mut());
        let st = wait_opt(p.0 as i32, libc::__WALL);
        say(
            &format!("exit signal {s}"),
            format!("{st}, signal {} times {}", GOT.load(SeqCst) / 1000, GOT.load(SeqCst) % 1000),
        );
    }
}

fn wait_clone_kinds() {
    let p = spawn(0, null_body, std::ptr::null_mut()).0 as i32;
    say("plain wait does not see a clone child", wait_opt(-1, 0));
    say("__WCLONE does", wait_opt(p, libc::__WCLONE));
    let p = child(|| 0);
    say("__WCLONE does not see a forked child", wait_opt(p, libc::__WCLONE));
    say("__WALL does", wait_opt(p, libc::__WALL));
}

fn threads_exit_group() {
    let s = in_child(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
        std::thread::spawn(|| unsafe { libc::_exit(12) });
        loop {
            std::thread::park();
        }
    });
    say("exit_group by a thread", s);
    let s = in_child(|| {
        let t = std::thread::spawn(|| {
            // The leader is a zombie of its own group; the process lives on.
            await_state(getpid(), getpid(), "Z");
            unsafe { libc::_exit(13) };
        });
        std::mem::forget(t);
        unsafe { libc::syscall(libc::SYS_exit, 99) };
        0
    });
    say("leader exits first, thread's code counts", s);
    let s = in_child(|| {
        for _ in 0..3 {
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
        }
        unsafe { libc::kill(getpid(), libc::SIGKILL) };
        0
    });
    say("kill ends all threads", s);
}

fn pidfd() {
    let e = Event::new();
    let pid = child(|| {
        e.wait();
        8
    });
    let fd = sc!(libc::SYS_pidfd_open, pid, 0);
    say("open", fd.ok());
    let fd = fd.fd();
    let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    say("not readable while alive", c!(libc::poll(&mut p, 1, 0)));
    say("send 0", sc!(libc::SYS_pidfd_send_signal, fd, 0, 0, 0));
    say("bad flags", sc!(libc::SYS_pidfd_send_signal, fd, 0, 0, 0x100));
    let got = sc!(libc::SYS_pidfd_getfd, fd, e.r, 0);
    // Needs ptrace access, which host policy (Yama) may restrict for others, not for own children.
    say("getfd", got.ok());
    e.post();
    say("readable after exit", c!(libc::poll(&mut p, 1, -1)));
    say("revents", p.revents);
    say("reaped", reap(pid));
    say("send to reaped", sc!(libc::SYS_pidfd_send_signal, fd, 0, 0, 0));
    say("read", read_text(fd, 1));
    say("pidfd of bad pid", sc!(libc::SYS_pidfd_open, -1, 0));
    say("pidfd of nobody", sc!(libc::SYS_pidfd_open, i32::MAX, 0));
    say("unknown flags", sc!(libc::SYS_pidfd_open, getpid(), 0x1));
    say("nonblock", sc!(libc::SYS_pidfd_open, getpid(), libc::O_NONBLOCK).ok());
    say("not a pidfd", sc!(libc::SYS_pidfd_send_signal, e.r, 0, 0, 0));
}

fn pidfd_proc_directory() {
    let pid = child(|| {
        unsafe { libc::pause() };
        0
    });
    let send = |path: &str, flags: i32, sig: i32| {
        let fd = open(path, flags);
        let r = sc!(libc::SYS_pidfd_send_signal, fd.fd(), sig, 0, 0);
        close(fd.fd());
        r
    };
    let dir = libc::O_DIRECTORY | libc::O_CLOEXEC;
    say("0 to /proc/PID", send(&format!("/proc/{pid}"), dir, 0));
    say("by a path descriptor", send(&format!("/proc/{pid}"), dir | libc::O_PATH, 0));
    say("a thread's directory", send(&format!("/proc/{pid}/task/{pid}"), dir, 0));
    say("a file in it", send(&format!("/proc/{pid}/stat"), 0, 0));
    say("/proc", send("/proc", dir, 0));
    say("another directory", send("/", dir, 0));
    say("not a signal", send(&format!("/proc/{pid}"), dir, 65));
    let fd = open(&format!("/proc/{pid}"), dir);
    say("SIGTERM", sc!(libc::SYS_pidfd_send_signal, fd.fd(), libc::SIGTERM, 0, 0));
    say("ends", reap(pid));
    say("reaped", sc!(libc::SYS_pidfd_send_signal, fd.fd(), 0, 0, 0));
}

/// The hierarchy of control groups on `cg`, in a mount namespace of its own, and a new group there.
pub(super) fn own_cgroup(name: &str) -> String {
    let none = std::ptr::null();
    c!(libc::unshare(libc::CLONE_NEWNS));
    let private = libc::MS_REC | libc::MS_PRIVATE;
    c!(libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()));
    std::fs::create_dir("cg").unwrap();
    let fs = c"cgroup2".as_ptr();
    say("mount", c!(libc::mount(c"none".as_ptr(), c"cg".as_ptr(), fs, 0, none.cast())));
    let group = format!("cg/{name}-{}", getpid());
    say("mkdir", std::fs::create_dir(&group).is_ok());
    group
}

/// clone3(2) CLONE_INTO_CGROUP.
fn into_cgroup_root() {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let group = own_cgroup("clone");
    let fd = open(&group, libc::O_PATH | libc::O_DIRECTORY).fd();
    let (r, w) = pipe();
    let (out, go) = pipe();
    let args = |fd: u64| CloneArgs {
        flags: INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: fd,
        ..Default::default()
    };
    let pid = sc!(libc::SYS_clone3, &args(fd as u64) as *const _, 88);
    if pid.0 == 0 {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with("0::")).unwrap_or("");
        let last = line.rsplit('/').next().unwrap_or("").split('-').next().unwrap_or("");
        write(go, last.as_bytes());
        read_text(r, 1);
        unsafe { libc::_exit(4) };
    }
    say("cloned", pid.ok());
    say("its group", read_text(out, 20));
    let members = std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
    say("member", members.trim() == pid.0.to_string());
    say("rmdir while it lives", c!(libc::rmdir(cstr(&group).as_ptr())));
    write(w, b"x");
    say("ended", reap(pid.0 as i32));
    let try_with = |name: &str, fd: u64, size: usize| {
        let a = args(fd);
        let p = clone3(&a, size);
        say(name, if p.is_ok() { reap(p.0 as i32) } else { p.to_string() });
    };
    try_with("again", fd as u64, 88);
    try_with("size without the field", fd as u64, 80);
    try_with("not a descriptor", 1000, 88);
    try_with("too big for one", 1 << 32, 88);
    try_with("a pipe", r as u64, 88);
    let other = open(".", libc::O_DIRECTORY).fd();
    try_with("another directory", other as u64, 88);
    let file = open(&format!("{group}/cgroup.procs"), libc::O_RDONLY).fd();
    try_with("a file of the group", file as u64, 88);
    close(file);
    say("rmdir", c!(libc::rmdir(cstr(&group).as_ptr())));
    try_with("removed group", fd as u64, 88);
}

/// A pidfd's lines in fdinfo count namespaces below the reader's, and say when the process is gone.
fn pidfd_fdinfo_root() {
    let mut fd = -1;
    let flags = (libc::CLONE_NEWPID | libc::CLONE_PIDFD) as u64;
    let args = [flags, &raw mut fd as u64, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    let e = Event::new();
    let r = sc!(libc::SYS_clone3, args.as_ptr(), 64);
    if r == R(0) {
        e.wait();
        unsafe { libc::_exit(0) };
    }
    let lines = || {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let shown = text
            .lines()
            .filter(|l| l.contains("id:") && !l.starts_with("mnt"))
            .map(|l| l.replace(&r.to_string(), "N"));
        shown.collect::<Vec<_>>().join(" ").replace('\t', " ")
    };
    say("alive", lines());
    e.post();
    say("ends", reap(r.0 as i32));
    say("gone", lines());
}

/// A task in the freezer sleeps.
fn frozen_root() {
    let group = own_cgroup("frozen");
    let pid = child(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    let put = |file: &str, text: &str| std::fs::write(format!("{group}/{file}"), text).is_ok();
    say("moved", put("cgroup.procs", &pid.to_string()));
    await_state(pid, pid, "R");
    say("freeze", put("cgroup.freeze", "1"));
    let frozen = || std::fs::read_to_string(format!("{group}/cgroup.events")).unwrap_or_default();
    while !frozen().contains("frozen 1") {
        pause_poll();
    }
    await_state(pid, pid, "SDT");
    say("state", task_state(pid, pid).unwrap_or('?'));
    say("thaw", put("cgroup.freeze", "0"));
    await_state(pid, pid, "R");
    c!(libc::kill(pid, libc::SIGKILL));
    say("ended", reap(pid));
    say("rmdir", c!(libc::rmdir(cstr(&group).as_ptr())));
}

/// Who waits for the child of a vfork(2) is at rest when the child is.
fn frozen_vfork_root() {
    let group = own_cgroup("frozen_vfork");
    let put = |file: &str, text: &str| std::fs::write(format!("{group}/{file}"), text).is_ok();
    let e = Event::new();
    let pid = child(|| {
        e.wait();
        let flags = libc::CLONE_VFORK | libc::SIGCHLD;
        if sc!(libc::SYS_clone, flags, 0, 0, 0, 0).is(0) {
            loop {
                unsafe { libc::pause() };
            }
        }
        0
    });
    say("moved", put("cgroup.procs", &pid.to_string()));
    e.post();
    let members = || std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
    while members().lines().count() < 2 {
        pause_poll();
    }
    say("freeze", put("cgroup.freeze", "1"));
    let frozen = || std::fs::read_to_string(format!("{group}/cgroup.events")).unwrap_or_default();
    while !frozen().contains("frozen 1") {
        pause_poll();
    }
    say("kill", put("cgroup.kill", "1"));
    say("ended", reap(pid));
    while !members().is_empty() {
        pause_poll();
    }
    say("rmdir", c!(libc::rmdir(cstr(&group).as_ptr())));
}

/// A descriptor of `cgroup.procs` moves what its opener could move, whoever writes to it (CVE-2021-4197).
fn cgroup_opener_root() {
    let group = own_cgroup("opener");
    let (a, b) = (format!("{group}/a"), format!("{group}/b"));
    for dir in [&a, &b] {
        std::fs::create_dir(dir).ok();
        let procs = cstr(&format!("{dir}/cgroup.procs"));
        say("theirs", c!(libc::chown(procs.as_ptr(), 65534, 65534)));
    }
    let pid = child(|| {
        let procs = format!("{b}/cgroup.procs");
        say("into a", std::fs::write(format!("{a}/cgroup.procs"), "0").is_ok());
        say("seteuid", c!(libc::seteuid(65534)));
        let fd = open(&procs, libc::O_WRONLY).fd();
        say("back", c!(libc::seteuid(0)));
        say("opened by another", c!(libc::write(fd, c"0".as_ptr().cast(), 1)));
        let fd = open(&procs, libc::O_WRONLY).fd();
        say("opened by root", c!(libc::write(fd, c"0".as_ptr().cast(), 1)));
        0
    });
    say("ended", reap(pid));
    for dir in [&a, &b, &group] {
        say("rmdir", c!(libc::rmdir(cstr(dir).as_ptr())));
    }
}
