//! ptrace(2) as strace and gdb use it: stops, events, registers, memory, single steps, attaching.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    trace_me, signals, system_calls, changed_calls, syscall_info, registers, fp_registers, memory, breakpoint,
    single_steps, fork_events, thread_events, exec_event, exit_event, attach_detach, seize_interrupt, group_stops,
    exit_kill, state_of_who_goes_on, errors, seccomp_trace, debug_registers, debug_register_errors, debug_registers_of_whom, frozen_tracee_root: root,
}

const TRACEME: i32 = 0;
const CONT: i32 = 7;
const STEP: i32 = 9;
const SYSCALL: i32 = 24;
const SETOPTIONS: i32 = 0x4200;
const GETEVENTMSG: i32 = 0x4201;
const GETSIGINFO: i32 = 0x4202;
const SEIZE: i32 = 0x4206;
const INTERRUPT: i32 = 0x4207;
const LISTEN: i32 = 0x4208;

fn pt(req: i32, pid: i32, addr: usize, data: usize) -> R {
    sc!(libc::SYS_ptrace, req, pid, addr, data)
}

/// Waits for a stop or end of any kind of task.
fn wait(pid: i32) -> String {
    wait_opt(pid, libc::__WALL)
}

/// A child that asks to be traced and stops itself, seen at that stop.
fn traced(options: usize, f: impl FnOnce() -> i32) -> i32 {
    let pid = child(|| {
        pt(TRACEME, 0, 0, 0);
        unsafe { libc::kill(getpid(), libc::SIGSTOP) };
        f()
    });
    wait(pid);
    if options != 0 {
        pt(SETOPTIONS, pid, 0, options);
    }
    pid
}

fn go(req: i32, pid: i32, sig: i32) -> String {
    let r = pt(req, pid, 0, sig as usize);
    if r.is_ok() { wait(pid) } else { r.to_string() }
}

fn regs(pid: i32) -> libc::user_regs_struct {
    let mut r: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    pt(12, pid, 0, &raw mut r as usize);
    r
}

fn set_regs(pid: i32, r: &libc::user_regs_struct) -> R {
    pt(13, pid, 0, r as *const _ as usize)
}

fn info(pid: i32) -> String {
    let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let r = pt(GETSIGINFO, pid, 0, &raw mut i as usize);
    if r.is_ok() {
        format!("{} code {:#x}", signal_name(i.si_signo), i.si_code)
    } else {
        r.to_string()
    }
}

fn trace_me() {
    let pid = child(|| {
        say("TRACEME", pt(TRACEME, 0, 0, 0));
        say("again", pt(TRACEME, 0, 0, 0));
        unsafe { libc::kill(getpid(), libc::SIGSTOP) };
        7
    });
    say("stop", wait(pid));
    say("state", task_state(pid, pid).unwrap_or('?'));
    let status = get(&format!("/proc/{pid}/status"));
    let tracer = status.lines().find_map(|l| l.strip_prefix("TracerPid:\t"));
    say("TracerPid is ours", tracer == Some(&getpid().to_string()));
    say("info", info(pid));
    say("ends", go(CONT, pid, 0));
    say("gone", pt(CONT, pid, 0, 0));
}

fn signals() {
    let pid = traced(0, || {
        on_signal(libc::SIGUSR1, nothing, 0);
        set_action(libc::SIGUSR2, libc::SIG_IGN);
        unsafe {
            libc::raise(libc::SIGUSR1);
            libc::raise(libc::SIGUSR2);
            libc::raise(libc::SIGTERM);
        }
        9
    });
    say("first", go(CONT, pid, 0));
    say("info", info(pid));
    say("ignored ones stop too", go(CONT, pid, libc::SIGUSR1));
    say("and fatal ones", go(CONT, pid, libc::SIGUSR2));
    say("which may be dropped", go(CONT, pid, 0));
    let pid = traced(0, || unsafe { libc::raise(libc::SIGUSR1) });
    go(CONT, pid, 0);
    say("another one instead", go(CONT, pid, libc::SIGTERM));
    let pid = traced(0, || unsafe { libc::pause() });
    say("bad number", pt(CONT, pid, 0, 99));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    say("SIGKILL needs nobody", wait(pid));
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn system_calls() {
    let pid = traced(1, || {
        sc!(libc::SYS_getppid);
        sc!(libc::SYS_close, 12345);
        3
    });
    let mut seen = Vec::new();
    for _ in 0..4 {
        let s = go(SYSCALL, pid, 0);
        let r = regs(pid);
        let value = if seen.len() % 2 == 0 { r.rax as i64 } else { (r.rax as i64).min(1) };
        seen.push(format!("{s} nr {} rax {value}", r.orig_rax as i64));
    }
    say("stops", seen.join("; "));
    say("info", info(pid));
    say("ends", go(CONT, pid, 0));
    let pid = traced(0, || {
        sc!(libc::SYS_getppid);
        3
    });
    say("without TRACESYSGOOD", go(SYSCALL, pid, 0));
    say("info", info(pid));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait(pid);
}

fn changed_calls() {
    let pid = traced(1, || {
        let a = sc!(libc::SYS_getppid);
        say("  skipped call gives", a);
        let b = sc!(libc::SYS_close, 12345);
        say("  close became getpid", b == R(getpid().into()));
        let d = sc!(libc::SYS_lseek, -1, 0, 0);
        say("  result replaced", d);
        say("  a mapping call", c!(libc::munmap(std::ptr::null_mut(), 4096)));
        0
    });
    let enter = |nr: i64| loop {
        go(SYSCALL, pid, 0);
        if regs(pid).orig_rax as i64 == nr {
            return;
        }
        go(SYSCALL, pid, 0);
    };
    enter(libc::SYS_getppid);
    let mut r = regs(pid);
    r.orig_rax = u64::MAX;
    r.rax = 4242;
    say("set", set_regs(pid, &r));
    go(SYSCALL, pid, 0);
    enter(libc::SYS_close);
    let mut r = regs(pid);
    r.orig_rax = libc::SYS_getpid as u64;
    set_regs(pid, &r);
    go(SYSCALL, pid, 0);
    enter(libc::SYS_lseek);
    go(SYSCALL, pid, 0);
    let mut r = regs(pid);
    say("was", r.rax as i64);
    r.rax = 77;
    set_regs(pid, &r);
    enter(libc::SYS_munmap);
    go(SYSCALL, pid, 0);
    say("result of munmap", regs(pid).rax as i64);
    say("ends", go(CONT, pid, 0));
}

fn syscall_info() {
    let pid = traced(1, || {
        sc!(libc::SYS_lseek, -1, 5, 1);
        0
    });
    let get = || {
        let mut b = [0u64; 11];
        let r = pt(0x420e, pid, 88, b.as_mut_ptr() as usize);
        (r, b)
    };
    let (r, b) = get();
    say("at a signal", format!("{r} op {} arch {:#x}", b[0] & 0xff, b[0] >> 32));
    go(SYSCALL, pid, 0);
    let (r, b) = get();
    let g = regs(pid);
    say("entry", format!("{r} op {} nr {} {} {} {}", b[0] & 0xff, b[3], b[4] as i64, b[5], b[6]));
    say("places", b[1] == g.rip && b[2] == g.rsp);
    go(SYSCALL, pid, 0);
    let (r, b) = get();
    say("exit", format!("{r} op {} value {} error {}", b[0] & 0xff, b[3] as i64, b[4] & 0xff));
    say("ends", go(CONT, pid, 0));
}

fn registers() {
    let pid = traced(0, || {
        let (mut a, mut b): (u64, u64);
        unsafe {
            std::arch::asm!(
                "mov r12, 0x1234567890", "int3", "mov {0}, r12", "mov {1}, r13",
                out(reg) a, out(reg) b, out("r12") _, out("r13") _
            );
        }
        (a == 0x1234567890 && b == 55) as i32
    });
    say("trap", go(CONT, pid, 0));
    say("info", info(pid));
    let mut r = regs(pid);
    say("r12", format!("{:#x}", r.r12));
    r.r13 = 55;
    say("set", set_regs(pid, &r));
    let mut buf = [0u64; 27];
    let mut v = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 1000 };
    say("GETREGSET", pt(0x4204, pid, 1, &raw mut v as usize));
    say("length and r13", format!("{} {}", v.iov_len, buf[2]));
    let mut word = 0u64;
    say("PEEKUSER", pt(3, pid, 8 * 2, &raw mut word as usize));
    say("r13", word);
    say("PEEKUSER misaligned", pt(3, pid, 3, &raw mut word as usize));
    say("PEEKUSER beyond", pt(3, pid, 4096, &raw mut word as usize));
    say("POKEUSER r11", pt(6, pid, 8 * 6, 99));
    say("r11", regs(pid).r11);
    r.fs_base = u64::MAX;
    say("bad base", set_regs(pid, &r));
    v.iov_len = 7;
    say("odd length", pt(0x4204, pid, 1, &raw mut v as usize));
    say("unknown set", pt(0x4204, pid, 12345, &raw mut v as usize));
    say("ends", go(CONT, pid, 0));
}

fn fp_registers() {
    let pid = traced(0, || {
        let mut out = [0u64; 2];
        unsafe {
            std::arch::asm!(
                "mov {t}, 0x55", "movq xmm3, {t}", "int3", "movdqu [{o}], xmm3",
                t = out(reg) _, o = in(reg) out.as_mut_ptr(), out("xmm3") _
            );
        }
        (out == [0x77, 0x88]) as i32
    });
    go(CONT, pid, 0);
    let mut fp = [0u64; 64];
    say("GETFPREGS", pt(14, pid, 0, fp.as_mut_ptr() as usize));
    // xmm3 is at 160 + 3 * 16.
    say("xmm3", format!("{:#x} {:#x}", fp[26], fp[27]));
    fp[26] = 0x77;
    fp[27] = 0x88;
    say("SETFPREGS", pt(15, pid, 0, fp.as_ptr() as usize));
    let mut x = vec![0u64; 2048];
    let mut v = libc::iovec { iov_base: x.as_mut_ptr().cast(), iov_len: 16384 };
    say("xstate", pt(0x4204, pid, 0x202, &raw mut v as usize));
    say("longer than the legacy image", v.iov_len > 512);
    say("mask of features has SSE", x[58] & 3 == 3);
    say("xmm3", format!("{:#x} {:#x}", x[26], x[27]));
    say("and back", pt(0x4205, pid, 0x202, &raw mut v as usize));
    say("ends", go(CONT, pid, 0));
}

static mut WORD: u64 = 0x1122;

fn memory() {
    let pid = traced(0, || unsafe { ((&raw const WORD).read_volatile() == 0x3344) as i32 });
    let at = &raw const WORD as usize;
    let mut w = 0u64;
    say("PEEKDATA", pt(2, pid, at, &raw mut w as usize));
    say("word", format!("{w:#x}"));
    say("POKEDATA", pt(5, pid, at, 0x3344));
    say("bad peek", pt(2, pid, 16, &raw mut w as usize));
    say("bad poke", pt(5, pid, 16, 0));
    let code = memory as *const () as usize & !7;
    say("PEEKTEXT", pt(1, pid, code, &raw mut w as usize));
    say("POKETEXT of read-only code", pt(4, pid, code, w as usize));
    let mem = open(&format!("/proc/{pid}/mem"), libc::O_RDWR).fd();
    say("/proc/mem write of code", c!(libc::pwrite(mem, (&raw const w).cast(), 8, code as i64)));
    say("/proc/mem bad place", c!(libc::pread(mem, (&raw mut w).cast(), 8, 16)));
    say("ours is as it was", unsafe { (&raw const WORD).read_volatile() } == 0x1122);
    say("ends", go(CONT, pid, 0));
}

#[inline(never)]
extern "C" fn target_function() -> i32 {
    std::hint::black_box(21)
}

fn breakpoint() {
    let pid = traced(0, || std::hint::black_box(target_function as extern "C" fn() -> i32)() * 2);
    let at = target_function as *const () as usize;
    let mut old = 0u64;
    pt(1, pid, at, &raw mut old as usize);
    say("insert", pt(4, pid, at, (old & !0xff | 0xcc) as usize));
    say("hit", go(CONT, pid, 0));
    let mut r = regs(pid);
    say("just after", r.rip as usize == at + 1);
    say("remove", pt(4, pid, at, old as usize));
    r.rip -= 1;
    set_regs(pid, &r);
    say("step", go(STEP, pid, 0));
    say("moved on", regs(pid).rip as usize > at);
    say("ends", go(CONT, pid, 0));
}

fn single_steps() {
    let pid = traced(0, || {
        on_signal(libc::SIGUSR1, nothing, 0);
        let mut n: u64 = 0;
        unsafe {
            std::arch::asm!(
                "int3", "inc {0}", "inc {0}", "mov eax, 110", "syscall", "inc {0}", "pushfq", "pop {1}",
                inout(reg) n, out(reg) _, out("rax") _, out("rcx") _, out("r11") _
            );
        }
        n as i32
    });
    say("start", go(CONT, pid, 0));
    let mut last = regs(pid).rip;
    let mut lengths = Vec::new();
    for _ in 0..6 {
        let s = go(STEP, pid, 0);
        let r = regs(pid);
        lengths.push(format!("{s} +{} TF {}", r.rip.wrapping_sub(last) as i64, r.eflags >> 8 & 1));
        last = r.rip;
    }
    say("steps", lengths.join("; "));
    say("info", info(pid));
    say("ends", go(CONT, pid, 0));
}

fn message(pid: i32) -> u64 {
    let mut m = 0u64;
    pt(GETEVENTMSG, pid, 0, &raw mut m as usize);
    m
}

#[allow(deprecated)]
fn fork_events() {
    let pid = traced(1 << 1 | 1 << 2 | 1 << 5, || {
        let a = child(|| 11);
        reap(a);
        let v = unsafe { libc::vfork() };
        if v == 0 {
            unsafe { libc::_exit(12) };
        }
        reap(v);
        0
    });
    say("fork", go(CONT, pid, 0));
    let kid = message(pid) as i32;
    say("message is a pid", kid > 0 && kid != pid);
    say("child's first stop", wait(kid));
    say("child ends", go(CONT, kid, 0));
    say("SIGCHLD", go(CONT, pid, 0));
    say("vfork", go(CONT, pid, libc::SIGCHLD));
    let kid = message(pid) as i32;
    say("child's first stop", wait(kid));
    pt(CONT, kid, 0, 0);
    pt(CONT, pid, 0, 0);
    say("child ends", wait(kid));
    let mut rest = Vec::new();
    loop {
        let s = wait(pid);
        let sig = if s.contains("SIGCHLD") { libc::SIGCHLD as usize } else { 0 };
        let over = s.starts_with("exit");
        rest.push(s);
        if over || !pt(CONT, pid, 0, sig).is_ok() {
            break;
        }
    }
    rest.sort();
    say("the rest", rest.join("; "));
}

fn thread_events() {
    let pid = traced(1 << 3, || {
        let t = std::thread::spawn(|| 5);
        t.join().unwrap()
    });
    say("clone", go(CONT, pid, 0));
    let tid = message(pid) as i32;
    say("message is a tid", tid > 0 && tid != pid);
    say("thread's first stop", wait(tid));
    say("state", task_state(pid, tid).unwrap_or('?'));
    pt(CONT, pid, 0, 0);
    // With its own status, or with that of the process when the main thread was faster.
    let end = go(CONT, tid, 0).to_string();
    say("thread ends", if end.starts_with("exit") { "exit" } else { &end });
    say("process ends", wait(pid));
}

fn exec_event() {
    let pid = traced(1 << 4, || {
        let (p, args) = (c"/bin/true", [c"true".as_ptr(), std::ptr::null()]);
        unsafe { libc::execv(p.as_ptr(), args.as_ptr()) };
        1
    });
    say("exec", go(CONT, pid, 0));
    say("former tid", message(pid) as i32 == pid);
    say("comm", get(&format!("/proc/{pid}/comm")).trim_end());
    say("ends", go(CONT, pid, 0));
    let pid = traced(0, || {
        let (p, args) = (c"/bin/true", [c"true".as_ptr(), std::ptr::null()]);
        unsafe { libc::execv(p.as_ptr(), args.as_ptr()) };
        1
    });
    say("without the option", go(CONT, pid, 0));
    say("info", info(pid));
    say("ends", go(CONT, pid, 0));
}

fn exit_event() {
    let pid = traced(1 << 6, || 6);
    say("exit", go(CONT, pid, 0));
    say("status", format!("{:#x}", message(pid)));
    say("memory is there", {
        let mut w = 0u64;
        pt(2, pid, &raw const WORD as usize, &raw mut w as usize)
    });
    say("ends", go(CONT, pid, 0));
    let pid = traced(1 << 6, || unsafe { libc::raise(libc::SIGTERM) });
    go(CONT, pid, 0);
    say("by a signal", go(CONT, pid, libc::SIGTERM));
    say("status", format!("{:#x}", message(pid)));
    say("ends", go(CONT, pid, 0));
}

fn attach_detach() {
    let e = Event::new();
    let pid = child(|| {
        e.wait();
        unsafe { libc::usleep(1) };
        21
    });
    await_sleep(pid);
    say("ATTACH", pt(16, pid, 0, 0));
    say("stop", wait(pid));
    say("again", pt(16, pid, 0, 0));
    let r = regs(pid);
    say("in read", r.orig_rax as i64 == libc::SYS_read);
    say("which restarts", r.rax as i64);
    say("DETACH", pt(17, pid, 0, 0));
    await_sleep(pid);
    say("not traced", pt(CONT, pid, 0, 0));
    e.post();
    say("ends", reap(pid));
}

fn seize_interrupt() {
    let e = Event::new();
    let pid = child(|| {
        e.wait();
        22
    });
    await_sleep(pid);
    say("SEIZE with address", pt(SEIZE, pid, 1, 0));
    say("SEIZE with bad options", pt(SEIZE, pid, 0, 1 << 15));
    say("SEIZE", pt(SEIZE, pid, 0, 1));
    say("runs on", task_state(pid, pid).unwrap_or('?'));
    say("not stopped", pt(CONT, pid, 0, 0));
    say("INTERRUPT", pt(INTERRUPT, pid, 0, 0));
    say("stop", wait(pid));
    say("info", info(pid));
    pt(CONT, pid, 0, 0);
    await_sleep(pid);
    e.post();
    say("ends", wait(pid));
}

fn group_stops() {
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    await_sleep(pid);
    pt(SEIZE, pid, 0, 0);
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    say("signal", wait(pid));
    say("group stop", go(CONT, pid, libc::SIGSTOP));
    say("LISTEN", pt(LISTEN, pid, 0, 0));
    say("no requests meanwhile", pt(GETEVENTMSG, pid, 0, 0));
    unsafe { libc::kill(pid, libc::SIGCONT) };
    say("SIGCONT tells", wait(pid));
    say("and is a signal", go(CONT, pid, 0));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    say("ends", wait(pid));
    let pid = traced(0, || unsafe { libc::raise(libc::SIGTSTP) });
    go(CONT, pid, 0);
    say("not seized", go(CONT, pid, libc::SIGSTOP));
    say("info", info(pid));
    say("goes on", go(CONT, pid, 0));
}

fn exit_kill() {
    let (r, w) = pipe();
    let e = Event::new();
    let mid = child(|| {
        let kid = child(|| {
            close(r);
            loop {
                unsafe { libc::pause() };
            }
        });
        say("SEIZE", pt(SEIZE, kid, 0, 1 << 20));
        e.post();
        0
    });
    e.wait();
    reap(mid);
    close(w);
    // The pipe ends when the tracee is gone.
    say("ended with its tracer", read_text(r, 1));
}

/// A tracee is at rest from the moment its stop can be waited for until the request that ends it returns, and takes no
/// other request from then on.
fn state_of_who_goes_on() {
    use std::sync::atomic::Ordering::SeqCst;
    let w = shared_words();
    let pid = traced(0, || {
        for n in 1..=200 {
            unsafe { libc::raise(libc::SIGUSR1) };
            // Until the tracer has looked.
            while w[0].load(SeqCst) < n {
                std::hint::spin_loop();
            }
        }
        3
    });
    go(CONT, pid, 0);
    let (mut rests, mut runs, mut refused) = (0, 0, 0);
    for n in 1..=200 {
        rests += i32::from(task_state(pid, pid) == Some('t'));
        pt(CONT, pid, 0, 0);
        runs += i32::from(task_state(pid, pid) == Some('R'));
        refused += i32::from(pt(GETEVENTMSG, pid, 0, 0).to_string().contains("ESRCH"));
        w[0].store(n, SeqCst);
        wait(pid);
    }
    say("at rest", rests);
    say("runs", runs);
    say("takes no request", refused);
    // The stop that a detached one was in is over, too.
    let pid = traced(0, || {
        while w[1].load(SeqCst) == 0 {
            std::hint::spin_loop();
        }
        4
    });
    pt(17, pid, 0, 0);
    say("detached", task_state(pid, pid).unwrap_or('?'));
    // And that of job control with the signal that ends it.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    wait_opt(pid, libc::WUNTRACED);
    say("stopped", task_state(pid, pid).unwrap_or('?'));
    unsafe { libc::kill(pid, libc::SIGCONT) };
    say("continued", task_state(pid, pid).unwrap_or('?'));
    w[1].store(1, SeqCst);
    say("ends", wait(pid));
}

fn errors() {
    say("no such process", pt(CONT, i32::MAX, 0, 0));
    say("self", pt(16, getpid(), 0, 0));
    say("not ours", {
        let pid = child(|| unsafe { libc::pause() });
        let r = pt(CONT, pid, 0, 0);
        unsafe { libc::kill(pid, libc::SIGKILL) };
        reap(pid);
        r
    });
    let pid = traced(0, || 0);
    say("unknown request", pt(9999, pid, 0, 0));
    say("bad options", pt(SETOPTIONS, pid, 0, 1 << 12));
    say("GETREGS bad pointer", pt(12, pid, 0, 8));
    say("INTERRUPT of one not seized", pt(INTERRUPT, pid, 0, 0));
    say("LISTEN of one not seized", pt(LISTEN, pid, 0, 0));
    let mut mask = 0u64;
    say("GETSIGMASK size", pt(0x420a, pid, 4, &raw mut mask as usize));
    say("GETSIGMASK", pt(0x420a, pid, 8, &raw mut mask as usize));
    say("wait without hang", wait_opt(pid, libc::WNOHANG));
    say("ends", go(CONT, pid, 0));
}

fn seccomp_trace() {
    #[repr(C)]
    struct Insn(u16, u8, u8, u32);
    #[repr(C)]
    struct Prog(u16, *const Insn);
    let pid = traced(1 << 7, || {
        let f = [
            Insn(0x20, 0, 0, 0),
            Insn(0x15, 0, 1, libc::SYS_getppid as u32),
            Insn(0x06, 0, 0, 0x7ff0_0000 | 99),
            Insn(0x06, 0, 0, 0x7fff_0000),
        ];
        let p = Prog(4, f.as_ptr());
        c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        sc!(libc::SYS_seccomp, 1, 0, &p as *const _);
        say("  changed to getpid", sc!(libc::SYS_getppid) == R(getpid().into()));
        say("  skipped", sc!(libc::SYS_getppid));
        4
    });
    say("event", go(CONT, pid, 0));
    say("data", message(pid));
    let mut r = regs(pid);
    r.orig_rax = libc::SYS_getpid as u64;
    set_regs(pid, &r);
    say("event", go(CONT, pid, 0));
    let mut r = regs(pid);
    r.orig_rax = u64::MAX;
    r.rax = 1234;
    set_regs(pid, &r);
    say("ends", go(CONT, pid, 0));
}

/// Where debug register `n` is in `struct user`.
fn dr(n: usize) -> usize {
    std::mem::offset_of!(libc::user, u_debugreg) + 8 * n
}

fn poke_dr(pid: i32, n: usize, value: u64) -> R {
    pt(6, pid, dr(n), value as usize)
}

fn peek_dr(pid: i32, n: usize) -> String {
    let mut v = 0u64;
    let r = pt(3, pid, dr(n), &raw mut v as usize);
    if r.is_ok() { format!("{v:#x}") } else { r.to_string() }
}

static WATCHED: [std::sync::atomic::AtomicU64; 2] =
    [const { std::sync::atomic::AtomicU64::new(0) }; 2];

fn watched(i: usize) -> u64 {
    WATCHED[i].as_ptr() as u64
}

#[inline(never)]
extern "C" fn called() {
    std::hint::black_box(());
}

fn debug_registers() {
    use std::sync::atomic::Ordering::SeqCst;
    let pid = traced(0, || {
        WATCHED[0].store(1, SeqCst);
        std::hint::black_box(WATCHED[1].load(SeqCst));
        WATCHED[1].store(2, SeqCst);
        sc!(libc::SYS_getppid);
        std::hint::black_box(called as extern "C" fn())();
        WATCHED[0].store(3, SeqCst);
        5
    });
    let value = |i: usize| {
        let mut v = 0u64;
        let at = watched(i) as usize;
        pt(1, pid, at, &raw mut v as usize);
        v
    };
    say("none at first", peek_dr(pid, 7));
    // 0: writes of eight bytes; 1: reads and writes of eight; 2: an instruction.
    say("address", poke_dr(pid, 0, watched(0)));
    say("control", poke_dr(pid, 7, 1 | 0x9 << 16));
    say("read back", peek_dr(pid, 7));
    say("write", go(CONT, pid, 0));
    say("info", info(pid));
    say("status", peek_dr(pid, 6));
    say("value", value(0));
    poke_dr(pid, 1, watched(1));
    poke_dr(pid, 2, called as extern "C" fn() as usize as u64);
    say("more", poke_dr(pid, 7, 1 | 0x9 << 16 | 4 | 0xb << 20 | 0x10));
    say("read", go(CONT, pid, 0));
    say("status", peek_dr(pid, 6));
    say("write", go(CONT, pid, 0));
    say("status", peek_dr(pid, 6));
    say("value", value(1));
    say("cleared by hand", poke_dr(pid, 6, 0));
    say("status", peek_dr(pid, 6));
    say("instruction", go(CONT, pid, 0));
    say("there", regs(pid).rip == called as extern "C" fn() as usize as u64);
    say("status", peek_dr(pid, 6));
    say("step", go(STEP, pid, 0));
    say("info", info(pid));
    say("on", regs(pid).rip != called as extern "C" fn() as usize as u64);
    say("status", peek_dr(pid, 6));
    say("off", poke_dr(pid, 7, 0));
    say("ends", go(CONT, pid, 0));
}

fn debug_register_errors() {
    let pid = traced(0, || 5);
    say("no such address", poke_dr(pid, 0, 1 << 63));
    say("kernel's address", poke_dr(pid, 1, u64::MAX));
    say("4", poke_dr(pid, 4, 1));
    say("5", poke_dr(pid, 5, 1));
    say("peek 4", peek_dr(pid, 4));
    say("not aligned", pt(6, pid, dr(0) + 4, 0));
    say("address", poke_dr(pid, 0, watched(0) + 1));
    say("unaligned for its length", poke_dr(pid, 7, 1 | 0x5 << 16));
    say("control is not changed", peek_dr(pid, 7));
    say("one byte is", poke_dr(pid, 7, 1 | 0x1 << 16));
    say("ports", poke_dr(pid, 7, 1 | 0x2 << 16));
    say("long instruction", poke_dr(pid, 7, 1 | 0x4 << 16));
    say("control", peek_dr(pid, 7));
    say("moved", poke_dr(pid, 0, watched(0)));
    say("without an effect", poke_dr(pid, 7, 0xffff_ffff_0000_fc00));
    say("control", peek_dr(pid, 7));
    say("status", poke_dr(pid, 6, 0x123));
    say("status", peek_dr(pid, 6));
    say("off", poke_dr(pid, 7, 0));
    say("ends", go(CONT, pid, 0));
}

fn debug_registers_of_whom() {
    use std::sync::atomic::Ordering::SeqCst;
    let pid = traced(0, || {
        // Neither a thread nor a child has them.
        let t = std::thread::spawn(|| WATCHED[0].store(1, SeqCst));
        let joined = t.join().is_ok();
        let c = child(|| {
            WATCHED[0].store(2, SeqCst);
            4
        });
        say("child", wait(c));
        say("joined", joined);
        WATCHED[0].store(3, SeqCst);
        set_action(libc::SIGTRAP, libc::SIG_DFL);
        let args = [c"true".as_ptr(), std::ptr::null()];
        unsafe { libc::execv(c"/bin/true".as_ptr(), args.as_ptr()) };
        9
    });
    poke_dr(pid, 0, watched(0));
    say("set", poke_dr(pid, 7, 1 | 0x9 << 16));
    let mut s = go(CONT, pid, 0);
    while s.contains("CHLD") {
        s = go(CONT, pid, libc::SIGCHLD);
    }
    say("only its own", s);
    say("status", peek_dr(pid, 6));
    say("execve", go(CONT, pid, 0));
    say("address", peek_dr(pid, 0) == "0x0");
    say("control", peek_dr(pid, 7));
    say("ends", go(CONT, pid, 0));
    // They outlive their tracer, whose program then dies of them.
    let pid = traced(0, || {
        WATCHED[0].store(1, SeqCst);
        5
    });
    poke_dr(pid, 0, watched(0));
    poke_dr(pid, 7, 1 | 0x9 << 16);
    say("detach", pt(17, pid, 0, 0));
    say("dies", wait(pid));
}

/// A frozen task stops for its tracer, and its group stays frozen.
fn frozen_tracee_root() {
    let group = super::clone::own_cgroup("frozen_tracee");
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    let put = |file: &str, text: &str| std::fs::write(format!("{group}/{file}"), text).is_ok();
    let frozen = || {
        let text = std::fs::read_to_string(format!("{group}/cgroup.events")).unwrap_or_default();
        text.contains("frozen 1")
    };
    say("moved", put("cgroup.procs", &pid.to_string()));
    say("freeze", put("cgroup.freeze", "1"));
    while !frozen() {
        pause_poll();
    }
    say("seize", pt(SEIZE, pid, 0, 0));
    say("interrupt", pt(INTERRUPT, pid, 0, 0));
    say("stop", wait(pid));
    say("frozen", frozen());
    say("registers", regs(pid).rip != 0);
    say("detach", pt(17, pid, 0, 0));
    while !frozen() {
        pause_poll();
    }
    say("thaw", put("cgroup.freeze", "0"));
    say("not frozen", !frozen());
    // A stopped task is at rest, too.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    say("stopped", wait_opt(pid, libc::WUNTRACED));
    say("freeze", put("cgroup.freeze", "1"));
    say("frozen", frozen());
    unsafe { libc::kill(pid, libc::SIGKILL) };
    say("ended", wait(pid));
    say("rmdir", c!(libc::rmdir(cstr(&group).as_ptr())));
}
