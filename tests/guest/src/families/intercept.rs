//! System calls that somebody else sees first: PR_SET_SYSCALL_USER_DISPATCH, seccomp filters that are looked at or suspended,
//! calls that go on as restart_syscall(2).

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, Ordering::SeqCst};

cases! {
    user_dispatch, user_dispatch_errors, user_dispatch_ends, restart_is_seen, requeue_pi_restarts, addfd_sizes, filters_of_tracee_root: root, suspend_filters_user,
    suspend_filters_root: root,
}

const USER_DISPATCH: i32 = 59;

static SELECTOR: AtomicU8 = AtomicU8::new(0);
static NUMBER: AtomicI64 = AtomicI64::new(-1);
static CODE: AtomicI32 = AtomicI32::new(-1);
static ARCH: AtomicI32 = AtomicI32::new(0);

extern "C" fn sigsys(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    SELECTOR.store(0, SeqCst);
    let word = |at: usize| unsafe { *info.cast::<u8>().add(at).cast::<i32>() };
    CODE.store(word(8), SeqCst);
    NUMBER.store(word(24).into(), SeqCst);
    ARCH.store(word(28), SeqCst);
    let u = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // The number is still where the call had it.
    let rax = &mut u.uc_mcontext.gregs[libc::REG_RAX as usize];
    *rax = if *rax == NUMBER.load(SeqCst) { 4321 } else { -1 };
}

fn dispatch(mode: u64, start: u64, len: u64, selector: u64) -> R {
    c!(libc::prctl(USER_DISPATCH, mode, start, len, selector))
}

fn blocked(nr: i64) -> R {
    SELECTOR.store(1, SeqCst);
    let r = sc!(nr);
    SELECTOR.store(0, SeqCst);
    r
}

fn user_dispatch() {
    on_signal(libc::SIGSYS, sigsys, 0);
    say("on", dispatch(1, 0, 0, SELECTOR.as_ptr() as u64));
    say("allowed", sc!(libc::SYS_getppid).is_ok());
    say("blocked", blocked(libc::SYS_getppid));
    let seen = || (NUMBER.load(SeqCst), CODE.load(SeqCst), ARCH.load(SeqCst));
    say("seen", format!("{:?}", seen()));
    say("number that does not exist", blocked(5000));
    say("seen", format!("{:?}", seen()));
    say("mmap", blocked(libc::SYS_mmap));
    say("fork", blocked(libc::SYS_fork));
    say("a child is free", in_child(|| i32::from(!blocked(libc::SYS_getppid).is_ok()) * 2));
    say("off", dispatch(0, 0, 0, 0));
    say("made", blocked(libc::SYS_getppid).is_ok());
    // Code below the middle of the address space is all there is.
    say("a range", dispatch(1, 1, 1 << 62, SELECTOR.as_ptr() as u64));
    say("calls of it are made", blocked(libc::SYS_getppid).is_ok());
    say("off", dispatch(0, 0, 0, 0));
}

fn user_dispatch_errors() {
    let at = SELECTOR.as_ptr() as u64;
    say("mode", dispatch(17, 0, 0, at));
    say("off with a range", dispatch(0, 1, 0, 0));
    say("off with a length", dispatch(0, 0, 1, 0));
    say("off with a selector", dispatch(0, 0, 0, at));
    say("range without length", dispatch(1, 1, 0, at));
    say("range that wraps", dispatch(1, u64::MAX - 1, 4, at));
    say("selector of nobody", dispatch(1, 0, 0, 1 << 63));
}

fn user_dispatch_ends() {
    let with = |value: u8, at: Option<u64>| {
        in_child(|| {
            on_signal(libc::SIGSYS, sigsys, 0);
            SELECTOR.store(0, SeqCst);
            dispatch(1, 0, 0, at.unwrap_or(SELECTOR.as_ptr() as u64));
            SELECTOR.store(value, SeqCst);
            sc!(libc::SYS_getppid);
            SELECTOR.store(0, SeqCst);
            0
        })
    };
    say("value of no meaning", with(7, None));
    say("unmapped selector", with(0, Some(8)));
    let s = in_child(|| {
        dispatch(1, 0, 0, SELECTOR.as_ptr() as u64);
        blocked(libc::SYS_getppid);
        0
    });
    say("no handler", s);
    let s = in_child(|| {
        dispatch(1, 0, 0, SELECTOR.as_ptr() as u64);
        let argv = [c"true".as_ptr(), std::ptr::null()];
        unsafe { libc::execv(c"/bin/true".as_ptr(), argv.as_ptr()) };
        1
    });
    say("not across exec", s);
}

#[repr(C)]
struct Insn(u16, u8, u8, u32);
#[repr(C)]
struct Prog(u16, *const Insn);

/// Installs a filter that answers `nr` with `action`.
fn filter(flags: u32, nr: i64, action: u32) -> R {
    let f = [
        Insn(0x20, 0, 0, 0),
        Insn(0x15, 0, 1, nr as u32),
        Insn(0x06, 0, 0, action),
        Insn(0x06, 0, 0, 0x7fff_0000),
    ];
    let p = Prog(4, f.as_ptr());
    sc!(libc::SYS_seccomp, 1, flags, &p as *const _)
}

fn ptrace(request: u32, pid: i32, addr: u64, data: u64) -> R {
    sc!(libc::SYS_ptrace, request, pid, addr, data)
}

const CONT: u32 = 7;
const ATTACH: u32 = 16;
const DETACH: u32 = 17;
const SYSCALL: u32 = 24;
const SETOPTIONS: u32 = 0x4200;
const SEIZE: u32 = 0x4206;
const GET_FILTER: u32 = 0x420c;
const GET_METADATA: u32 = 0x420d;
const GET_SYSCALL_INFO: u32 = 0x420e;
const SUSPEND_SECCOMP: u64 = 1 << 21;

/// Number of the call that a tracee stopped at.
fn entered(pid: i32) -> u64 {
    let mut info = [0u64; 11];
    ptrace(GET_SYSCALL_INFO, pid, 88, info.as_mut_ptr() as u64);
    if info[0] as u8 == 1 { info[3] } else { u64::MAX }
}

fn restart_is_seen() {
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        unsafe { libc::raise(libc::SIGSTOP) };
        let t = libc::timespec { tv_sec: 0, tv_nsec: 300_000_000 };
        sc!(libc::SYS_nanosleep, &t as *const _, 0).0 as i32
    });
    say("stop", wait_opt(pid, 0));
    ptrace(SETOPTIONS, pid, 0, 1);
    ptrace(SYSCALL, pid, 0, 0);
    say("entry", wait_opt(pid, 0));
    say("nanosleep", entered(pid));
    ptrace(SYSCALL, pid, 0, 0);
    await_state(pid, pid, "S");
    c!(libc::kill(pid, libc::SIGSTOP));
    say("exit", wait_opt(pid, 0));
    ptrace(SYSCALL, pid, 0, 0);
    say("signal", wait_opt(pid, 0));
    ptrace(SYSCALL, pid, 0, 0);
    say("entry", wait_opt(pid, 0));
    say("restart_syscall", entered(pid));
    ptrace(SYSCALL, pid, 0, 0);
    say("exit", wait_opt(pid, 0));
    ptrace(CONT, pid, 0, 0);
    say("slept", wait_opt(pid, 0));
    say("by itself", sc!(libc::SYS_restart_syscall));
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    NUMBER.fetch_add(1, SeqCst);
}

/// FUTEX_WAIT_REQUEUE_PI starts over after a handler without SA_RESTART.
fn requeue_pi_restarts() {
    let w = shared_words();
    NUMBER.store(0, SeqCst);
    let pid = child(|| {
        on_signal(libc::SIGUSR1, nothing, 0);
        let r = sc!(libc::SYS_futex, w[0].as_ptr(), 11, 0, 0, w[1].as_ptr(), 0);
        say("  handlers", NUMBER.load(SeqCst));
        say("  waited", r);
        0
    });
    await_sleep(pid);
    c!(libc::kill(pid, libc::SIGUSR1));
    // Only a handler that has run makes it sleep for the second time.
    let switches = || {
        let s = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = s.lines().find(|l| l.starts_with("SigPnd") || l.starts_with("ShdPnd"));
        line.is_some()
            && s.lines().filter(|l| l.contains("Pnd:")).all(|l| l.ends_with("0000000000000000"))
    };
    while !switches() {
        pause_poll();
    }
    await_sleep(pid);
    let r = sc!(libc::SYS_futex, w[0].as_ptr(), 12, 1, 0, w[1].as_ptr(), 0);
    say("ends", reap(pid));
    say("requeued", r);
}

/// SECCOMP_IOCTL_NOTIF_ADDFD with structures of other sizes.
fn addfd_sizes() {
    c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    let fd = filter(8, libc::SYS_getpgrp, 0x7fc0_0000).fd();
    let pid = child(|| sc!(libc::SYS_getpgrp).0 as i32);
    let mut req = [0u64; 10];
    say("received", c!(libc::ioctl(fd, 0xc050_2100, req.as_mut_ptr())));
    let add = |size: u64, tail: u64| {
        // id, flags and srcfd, newfd and newfd_flags.
        let a = [req[0], 2 << 32, 0, tail];
        c!(libc::ioctl(fd, 0x4000_2103 | size << 16, a.as_ptr()))
    };
    say("small", add(20, 0));
    say("larger, not zero", add(32, 1));
    say("larger", add(32, 0).is_ok());
    say("as it is", add(24, 0).is_ok());
    let resp = [req[0], 7, 0];
    say("sent", c!(libc::ioctl(fd, 0xc018_2101, resp.as_ptr())));
    say("ends", reap(pid));
}

/// A child that has filters, the first with SECCOMP_FILTER_FLAG_LOG, and waits for the event.
fn filtered(e: Event) -> i32 {
    let ready = Event::new();
    let pid = child(|| {
        c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        filter(2, libc::SYS_getpgrp, 0x0005_0000 | 7);
        filter(0, libc::SYS_getppid, 0x0005_0000 | 8);
        ready.post();
        e.wait();
        sc!(libc::SYS_getppid).is(8) as i32
    });
    ready.wait();
    pid
}

fn filters_of_tracee_root() {
    let e = Event::new();
    let pid = filtered(e);
    say("attach", ptrace(ATTACH, pid, 0, 0));
    say("stops", wait_opt(pid, 0));
    for n in 0..3u64 {
        let mut md = [n, 99];
        let r = ptrace(GET_METADATA, pid, 16, md.as_mut_ptr() as u64);
        say("metadata", format!("{r} {md:?}"));
    }
    let mut md = [0u64, 99];
    say("short", format!("{} {md:?}", ptrace(GET_METADATA, pid, 8, md.as_mut_ptr() as u64)));
    say("too short", ptrace(GET_METADATA, pid, 4, md.as_mut_ptr() as u64));
    say("length", ptrace(GET_FILTER, pid, 1, 0));
    let mut f = [0u64; 4];
    say("program", ptrace(GET_FILTER, pid, 1, f.as_mut_ptr() as u64));
    say("is", format!("{f:x?}"));
    say("third", ptrace(GET_FILTER, pid, 2, 0));
    say("detach", ptrace(DETACH, pid, 0, 0));
    e.post();
    say("ends", reap(pid));
}

fn suspend_filters_user() {
    if unsafe { libc::geteuid() } == 0 {
        return;
    }
    let e = Event::new();
    let pid = filtered(e);
    say("seize", ptrace(SEIZE, pid, 0, SUSPEND_SECCOMP));
    say("unknown option", ptrace(SEIZE, pid, 0, 1 << 30));
    say("without", ptrace(SEIZE, pid, 0, 0));
    e.post();
    say("ends", reap(pid));
}

fn suspend_filters_root() {
    let e = Event::new();
    let pid = filtered(e);
    say("seize", ptrace(SEIZE, pid, 0, SUSPEND_SECCOMP));
    e.post();
    say("the filter did nothing", reap(pid));
}
