//! Futexes in all operations, robust lists, futex_waitv, membarrier, rseq.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

cases! {
    futex_wait_values, futex_timeouts, futex_bitset, futex_wake_counts, futex_requeue, futex_wake_op, futex_shared, futex_private_not_shared, futex_errors, futex_pi, futex_pi_errors, futex_pi_owner_dies, robust_list, robust_list_process, futex_waitv, futex2_calls, membarrier, rseq_registered, rseq_critical_section,
}

fn futex(w: &AtomicI32, op: i32, v: i64, t: usize, w2: usize, v3: i64) -> R {
    sc!(libc::SYS_futex, w.as_ptr(), op, v, t, w2, v3)
}

fn futex_wait_values() {
    let w = AtomicI32::new(5);
    say("other value", futex(&w, libc::FUTEX_WAIT, 4, 0, 0, 0));
    say("wake nobody", futex(&w, libc::FUTEX_WAKE, 1, 0, 0, 0));
    let s: &'static [AtomicI32; 64] = shared_words();
    let t = std::thread::spawn(|| {
        publish(&s[1], gettid());
        futex_wait(&s[0], 0).0
    });
    await_change(&s[1], 0);
    await_state(getpid(), s[1].load(SeqCst), "S");
    say("wake one", futex_wake(&s[0], 1));
    say("sleeper got", t.join().unwrap());
}

fn futex_timeouts() {
    let w = AtomicI32::new(0);
    let ts = |s, n| libc::timespec { tv_sec: s, tv_nsec: n };
    let rel = |t: &libc::timespec| futex(&w, libc::FUTEX_WAIT, 0, t as *const _ as usize, 0, 0);
    say("1 ms", rel(&ts(0, 1_000_000)));
    say("zero", rel(&ts(0, 0)));
    say("negative", rel(&ts(-1, 0)));
    say("bad nsec", rel(&ts(0, 1_000_000_000)));
    let abs =
        |op: i32, t: &libc::timespec| futex(&w, op, 0, t as *const _ as usize, 0, 0xffff_ffff);
    say("absolute, past", abs(libc::FUTEX_WAIT_BITSET, &ts(0, 0)));
    say(
        "absolute realtime, past",
        abs(libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME, &ts(1, 0)),
    );
    let mut now = ts(0, 0);
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_nsec = (now.tv_nsec + 2_000_000) % 1_000_000_000;
    say("absolute, soon or past", abs(libc::FUTEX_WAIT_BITSET, &now));
    say(
        "FUTEX_WAIT with CLOCK_REALTIME",
        futex(&w, libc::FUTEX_WAIT | libc::FUTEX_CLOCK_REALTIME, 1, 0, 0, 0),
    );
    say(
        "FUTEX_WAKE with CLOCK_REALTIME",
        futex(&w, libc::FUTEX_WAKE | libc::FUTEX_CLOCK_REALTIME, 1, 0, 0, 0),
    );
}

/// Starts `n` threads that wait on `w` with a bitset each, returns once all sleep.
fn sleepers(w: &'static AtomicI32, bits: &[u32]) -> Vec<std::thread::JoinHandle<i64>> {
    bits.iter()
        .map(|&b| {
            let info: &'static [AtomicI32; 64] = shared_words();
            let t = std::thread::spawn(move || {
                publish(&info[0], gettid());
                futex(w, libc::FUTEX_WAIT_BITSET, 0, 0, 0, i64::from(b)).0
            });
            await_change(&info[0], 0);
            await_state(getpid(), info[0].load(SeqCst), "S");
            t
        })
        .collect()
}

fn futex_bitset() {
    let s: &'static [AtomicI32; 64] = shared_words();
    let ts = sleepers(&s[0], &[1, 2, 4, 3]);
    let wake = |b: i64| futex(&s[0], libc::FUTEX_WAKE_BITSET, 10, 0, 0, b);
    say("wake 8", wake(8));
    say("wake 2", wake(2));
    say("wake 1", wake(1));
    say("wake all", wake(0xffff_ffff));
    let r: Vec<i64> = ts.into_iter().map(|t| t.join().unwrap()).collect();
    say("results", format!("{r:?}"));
    say("wait with no bits", futex(&s[0], libc::FUTEX_WAIT_BITSET, 0, 0, 0, 0));
    say("wake with no bits", wake(0));
}

fn futex_wake_counts() {
    let s: &'static [AtomicI32; 64] = shared_words();
    let ts = sleepers(&s[0], &[u32::MAX; 5]);
    say("wake 2", futex_wake(&s[0], 2));
    // The kernel wakes at least one even when asked for none.
    say("wake 0", futex_wake(&s[0], 0));
    say("wake many", futex_wake(&s[0], 1000));
    for t in ts {
        t.join().unwrap();
    }
    say("none left", futex_wake(&s[0], 1));
}

fn futex_requeue() {
    let s: &'static [AtomicI32; 64] = shared_words();
    let ts = sleepers(&s[0], &[u32::MAX; 5]);
    let to = s[1].as_ptr() as usize;
    say("cmp: value differs", futex(&s[0], libc::FUTEX_CMP_REQUEUE, 1, 2, to, 9));
    say("cmp: wake 1, move 2", futex(&s[0], libc::FUTEX_CMP_REQUEUE, 1, 2, to, 0));
    say("woken at the target", futex_wake(&s[1], 10));
    say("requeue the rest", futex(&s[0], libc::FUTEX_REQUEUE, 0, 10, to, 0));
    say("at the source", futex_wake(&s[0], 10));
    say("at the target", futex_wake(&s[1], 10));
    for t in ts {
        t.join().unwrap();
    }
    say("negative count", futex(&s[0], libc::FUTEX_REQUEUE, -1, 1, to, 0));
    say("negative move", futex(&s[0], libc::FUTEX_CMP_REQUEUE, 1, usize::MAX, to, 0));
}

fn futex_wake_op() {
    let s: &'static [AtomicI32; 64] = shared_words();
    let second = s[1].as_ptr() as usize;
    let code = |op: i64, cmp: i64, arg: i64, cmparg: i64| op << 28 | cmp << 24 | arg << 12 | cmparg;
    let run = |name: &str, start: i32, v3: i64| {
        s[1].store(start, SeqCst);
        let a = sleepers(&s[0], &[u32::MAX]);
        let b = std::thread::spawn({
            let info: &'static [AtomicI32; 64] = shared_words();
            move || {
                publish(&info[0], gettid());
                info
            }
        });
        let _ = b.join();
        let r = futex(&s[0], libc::FUTEX_WAKE_OP, 1, 1, second, v3);
        say(name, format!("{r}, second word {}", s[1].load(SeqCst)));
        futex_wake(&s[0], 10);
        for t in a {
            t.join().unwrap();
        }
    };
    run("set 7", 3, code(0, 0, 7, 3));
    run("add 4", 3, code(1, 0, 4, 3));
    run("or 4", 3, code(2, 0, 4, 3));
    run("andn 1", 3, code(3, 0, 1, 3));
    run("xor 1", 3, code(4, 0, 1, 3));
    run("set 1 shifted by 5", 3, code(8, 0, 5, 3));
    run("bad operation", 3, code(7, 0, 1, 3));
    run("bad comparison", 3, code(0, 15, 1, 3));
}

fn futex_shared() {
    // Across processes: anonymous shared memory, and two mappings of a file at different addresses.
    let s = shared_words();
    let pid = child(|| {
        s[1].store(1, SeqCst);
        futex_wait(&s[0], 0);
        0
    });
    while s[1].load(SeqCst) == 0 {
        pause_poll();
    }
    await_sleep(pid);
    say("anonymous shared", futex_wake(&s[0], 1));
    reap(pid);
    put("f", &[0; 4096]);
    let fd = open("f", libc::O_RDWR).fd();
    let map = || unsafe {
        let p = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        );
        &*p.cast::<AtomicI32>()
    };
    let (a, b) = (map(), map());
    say("two addresses", a.as_ptr() != b.as_ptr());
    let pid = child(|| {
        s[2].store(1, SeqCst);
        futex_wait(a, 0);
        0
    });
    while s[2].load(SeqCst) == 0 {
        pause_poll();
    }
    await_sleep(pid);
    say("by the other mapping", futex_wake(b, 1));
    reap(pid);
}

fn futex_private_not_shared() {
    let s = shared_words();
    let pid = child(|| {
        s[1].store(1, SeqCst);
        futex(&s[0], libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0, 0, 0, 0);
        0
    });
    while s[1].load(SeqCst) == 0 {
        pause_poll();
    }
    await_sleep(pid);
    say(
        "private wake by another process",
        futex(&s[0], libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1, 0, 0, 0),
    );
    say("shared wake of a private sleeper", futex_wake(&s[0], 1));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    say("sleeper", reap(pid));
}

fn futex_errors() {
    let w = AtomicI32::new(0);
    say("null", sc!(libc::SYS_futex, 0, libc::FUTEX_WAIT, 0, 0, 0, 0));
    say("unmapped", sc!(libc::SYS_futex, 4096, libc::FUTEX_WAIT, 0, 0, 0, 0));
    say("misaligned", sc!(libc::SYS_futex, w.as_ptr() as usize + 1, libc::FUTEX_WAIT, 0, 0, 0, 0));
    say(
        "misaligned wake",
        sc!(libc::SYS_futex, w.as_ptr() as usize + 2, libc::FUTEX_WAKE, 1, 0, 0, 0),
    );
    say("private wake of unmapped", sc!(libc::SYS_futex, 4096, libc::FUTEX_WAKE | 128, 1, 0, 0, 0));
    say("shared wake of unmapped", sc!(libc::SYS_futex, 4096, libc::FUTEX_WAKE, 1, 0, 0, 0));
    say(
        "kernel address",
        sc!(libc::SYS_futex, 0xffff_8000_0000_0000usize, libc::FUTEX_WAIT, 0, 0, 0, 0),
    );
    say("bad timeout pointer", futex(&w, libc::FUTEX_WAIT, 0, 8, 0, 0));
    say("unknown operation", futex(&w, 99, 0, 0, 0, 0));
    say("FUTEX_FD", futex(&w, 2, 0, 0, 0, 0));
    let ro = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    let t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    say(
        "wait on read-only private",
        sc!(libc::SYS_futex, ro, libc::FUTEX_WAIT | 128, 0, &t as *const _, 0, 0),
    );
}

const LOCK_PI: i32 = 6;

const UNLOCK_PI: i32 = 7;

const TRYLOCK_PI: i32 = 8;

fn futex_pi() {
    let s: &'static [AtomicI32; 64] = shared_words();
    say("lock free", futex(&s[0], LOCK_PI, 0, 0, 0, 0));
    say("word is own tid", s[0].load(SeqCst) == gettid());
    say("lock again", futex(&s[0], LOCK_PI, 0, 0, 0, 0));
    say("trylock own", futex(&s[0], TRYLOCK_PI, 0, 0, 0, 0));
    let t = std::thread::spawn(|| {
        say("other: trylock", futex(&s[0], TRYLOCK_PI, 0, 0, 0, 0));
        say("other: unlock what it does not own", futex(&s[0], UNLOCK_PI, 0, 0, 0, 0));
        publish(&s[1], gettid());
        let r = futex(&s[0], LOCK_PI, 0, 0, 0, 0);
        say("other: lock", r);
        say("other: owner", s[0].load(SeqCst) & 0x3fff_ffff == gettid());
        say("other: unlock", futex(&s[0], UNLOCK_PI, 0, 0, 0, 0));
    });
    await_change(&s[1], 0);
    await_state(getpid(), s[1].load(SeqCst), "S");
    say("waiters bit", s[0].load(SeqCst) as u32 & 0x8000_0000 != 0);
    let unlocked = futex(&s[0], UNLOCK_PI, 0, 0, 0, 0);
    t.join().unwrap();
    say("unlock", unlocked);
    say("free at the end", s[0].load(SeqCst));
}

fn futex_pi_errors() {
    let s = shared_words();
    say("unlock free", futex(&s[0], UNLOCK_PI, 0, 0, 0, 0));
    s[0].store(i32::MAX >> 2, SeqCst);
    say("owner does not exist", futex(&s[0], LOCK_PI, 0, 0, 0, 0));
    s[0].store(0, SeqCst);
    futex(&s[0], LOCK_PI, 0, 0, 0, 0);
    let past = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    let s2 = shared_words();
    let pid = child(|| {
        s2[0].store(1, SeqCst);
        say(
            "child: with a past deadline",
            futex(&s[0], LOCK_PI, 0, &past as *const _ as usize, 0, 0),
        );
        0
    });
    reap(pid);
    futex(&s[0], UNLOCK_PI, 0, 0, 0, 0);
}

fn futex_pi_owner_dies() {
    // The owner exits without a robust list: the waiter gets the lock with FUTEX_OWNER_DIED, or ESRCH when it comes late.
    let s = shared_words();
    let owner = child(|| {
        futex(&s[0], LOCK_PI, 0, 0, 0, 0);
        publish(&s[1], 1);
        await_change(&s[2], 0);
        0
    });
    await_change(&s[1], 0);
    let waiter = child(|| {
        s[3].store(1, SeqCst);
        let r = futex(&s[0], LOCK_PI, 0, 0, 0, 0);
        let word = s[0].load(SeqCst) as u32;
        say(
            "waiter",
            format!(
                "{r}, owner is waiter {}, died bit {}",
                word & 0x3fff_ffff == gettid() as u32,
                word & 0x4000_0000 != 0
            ),
        );
        0
    });
    while s[3].load(SeqCst) == 0 {
        pause_poll();
    }
    await_sleep(waiter);
    publish(&s[2], 1);
    let status = reap(waiter);
    say("status", status);
    say("owner", reap(owner));
}

#[repr(C)]
struct RobustHead {
    next: usize,
    offset: isize,
    pending: usize,
}

/// An entry of a robust list: the link, and the lock word 8 bytes after it.
#[repr(C)]
struct Entry {
    next: usize,
    word: AtomicI32,
}

fn robust_list() {
    say("set, bad size", sc!(libc::SYS_set_robust_list, 8, 23));
    let (mut head, mut len) = (0usize, 0usize);
    say("get own", sc!(libc::SYS_get_robust_list, 0, &mut head as *mut _, &mut len as *mut _));
    say("libc registered one of 24 bytes", head != 0 && len == 24);
    say(
        "get of nobody",
        sc!(libc::SYS_get_robust_list, i32::MAX, &mut head as *mut _, &mut len as *mut _),
    );
    say("get, bad pointer", sc!(libc::SYS_get_robust_list, 0, 8, 8));
}

fn robust_list_process() {
    let s = shared_words();
    let e = unsafe { &mut *s.as_ptr().add(16).cast::<Entry>().cast_mut() };
    let w = shared_words();
    let pid = child(|| {
        let head = Box::leak(Box::new(RobustHead { next: 0, offset: 8, pending: 0 }));
        let h = head as *mut RobustHead as usize;
        e.next = h;
        e.word.store(gettid(), SeqCst);
        head.next = e as *mut Entry as usize;
        say("set", sc!(libc::SYS_set_robust_list, h, 24));
        publish(&w[0], 1);
        await_change(&w[1], 0);
        0
    });
    await_change(&w[0], 0);
    let e2 = unsafe { &*s.as_ptr().add(16).cast::<Entry>() };
    // A waiter sets the waiters bit and sleeps.
    let waiter = child(|| {
        let v = e2.word.fetch_or(i32::MIN, SeqCst) | i32::MIN;
        w[2].store(1, SeqCst);
        futex_wait(&e2.word, v);
        0
    });
    while w[2].load(SeqCst) == 0 {
        pause_poll();
    }
    await_sleep(waiter);
    publish(&w[1], 1);
    say("owner", reap(pid));
    say("waiter woken", reap(waiter));
    let v = e2.word.load(SeqCst) as u32;
    say("FUTEX_OWNER_DIED set, tid cleared", format!("{:#x}", v & 0x7fff_ffff));
}

#[repr(C)]
#[derive(Clone, Copy)]
struct WaitV {
    val: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

fn futex_waitv() {
    let s: &'static [AtomicI32; 64] = shared_words();
    let v = |i: usize, val: u64| WaitV { val, addr: s[i].as_ptr() as u64, flags: 2, reserved: 0 };
    let call = |a: &[WaitV], n: usize, flags: u32, t: usize| {
        sc!(libc::SYS_futex_waitv, a.as_ptr(), n, flags, t, libc::CLOCK_MONOTONIC)
    };
    say("value differs", call(&[v(0, 0), v(1, 5)], 2, 0, 0));
    say("none", call(&[], 0, 0, 0));
    say("too many", call(&[v(0, 0); 129], 129, 0, 0));
    say("flags", call(&[v(0, 0)], 1, 1, 0));
    say("bad element flags", call(&[WaitV { flags: 0, ..v(0, 0) }], 1, 0, 0));
    say("reserved", call(&[WaitV { reserved: 1, ..v(0, 0) }], 1, 0, 0));
    let past = libc::timespec { tv_sec: 0, tv_nsec: 1 };
    say("timeout", call(&[v(0, 0), v(1, 0)], 2, 0, &past as *const _ as usize));
    let t = std::thread::spawn(move || {
        publish(&s[9], gettid());
        let a = [v(0, 0), v(1, 0), v(2, 0)];
        sc!(libc::SYS_futex_waitv, a.as_ptr(), 3, 0, 0, 0).0
    });
    await_change(&s[9], 0);
    await_state(getpid(), s[9].load(SeqCst), "S");
    say("wake the third", futex_wake(&s[2], 1));
    say("index", t.join().unwrap());
}

fn futex2_calls() {
    let w = AtomicI32::new(0);
    // futex_wake, futex_wait, futex_requeue of Linux 6.7.
    say("futex_wake nobody", sc!(454, w.as_ptr(), 0xffff_ffffusize, 1, 2));
    say("futex_wake, bad flags", sc!(454, w.as_ptr(), 0xffff_ffffusize, 1, 0));
    say("futex_wait, other value", sc!(455, w.as_ptr(), 1, 0xffff_ffffusize, 2, 0, 0));
    say("futex_wait, no mask", sc!(455, w.as_ptr(), 0, 0, 2, 0, 0));
}

fn membarrier() {
    let call = |cmd: i32, flags: i32| sc!(libc::SYS_membarrier, cmd, flags, 0);
    let q = call(0, 0);
    say("query has global and private expedited", q.0 & 1 != 0 && q.0 & 8 != 0 && q.0 & 16 != 0);
    say("private before registration", call(8, 0));
    say("register", call(16, 0));
    say("private", call(8, 0));
    say("global", call(1, 0));
    say("unknown", call(1 << 20, 0));
    say("flags", call(0, 1));
}

fn rseq_registered() {
    // glibc 2.35 registers at start; a second registration with other values is refused.
    #[repr(align(32))]
    struct Area([u8; 32]);
    let mut a = Area([0; 32]);
    say("second registration", sc!(libc::SYS_rseq, &mut a as *mut _, 32, 0, 0x5305_3053));
    say("misaligned", sc!(libc::SYS_rseq, a.0.as_mut_ptr() as usize + 4, 32, 0, 1));
    say("flags", sc!(libc::SYS_rseq, &mut a as *mut _, 32, 0x80, 1));
    // What glibc registered says where the thread runs, and keeps saying it.
    unsafe extern "C" {
        static __rseq_offset: isize;
        static __rseq_size: u32;
    }
    // cpu_id_start and cpu_id of the calling thread.
    fn own() -> (u32, u32) {
        let tp: usize;
        unsafe { std::arch::asm!("mov {}, fs:0", out(reg) tp) };
        let at = tp.wrapping_add_signed(unsafe { __rseq_offset }) as *const u32;
        unsafe { (at.read_volatile(), at.add(1).read_volatile()) }
    }
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    say("registered size", unsafe { __rseq_size } >= 20);
    let sane = move |(start, cpu): (u32, u32)| start < cpus && cpu == start;
    say("CPU of the main thread", sane(own()));
    let of_thread = std::thread::spawn(move || sane(own())).join().unwrap();
    say("CPU of another", of_thread);
    say("CPU after fork", in_child(|| i32::from(sane(own()))));
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    c!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set));
    if let Some(cpu) = (0..64usize).find(|c| unsafe { libc::CPU_ISSET(*c, &set) }) {
        let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        unsafe { libc::CPU_SET(cpu, &mut one) };
        c!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one));
        say("follows a move", own().1 as usize == cpu);
    }
}

/// A signal in a critical section finds it ended: the frame leads to the abort handler, and so does the way back.
fn rseq_critical_section() {
    unsafe extern "C" {
        static __rseq_offset: isize;
    }
    static AT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    static SEEN: [AtomicI32; 2] = [const { AtomicI32::new(0) }; 2];
    extern "C" fn note(_: i32, _: *mut libc::siginfo_t, uc: *mut libc::c_void) {
        let uc = uc as *const libc::ucontext_t;
        let ip = unsafe { (*uc).uc_mcontext.gregs[libc::REG_RIP as usize] } as u64;
        let inside = (AT[0].load(SeqCst)..AT[1].load(SeqCst)).contains(&ip);
        SEEN[usize::from(inside)].fetch_add(1, SeqCst);
    }
    say("handler", on_signal(libc::SIGUSR1, note, 0));
    let tp: usize;
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) tp) };
    let area = tp.wrapping_add_signed(unsafe { __rseq_offset });
    let (pid, tid) = (getpid(), gettid());
    let go: &'static [AtomicI32; 64] = shared_words();
    const ROUNDS: i32 = 200;
    let sender = std::thread::spawn(move || {
        for n in 0..ROUNDS {
            await_change(&go[0], n);
            c!(libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGUSR1));
        }
    });
    let mut counted = 0u64;
    for n in 0..ROUNDS {
        publish(&go[0], n + 1);
        // Adds until something interrupts it, however long that takes.
        unsafe {
            std::arch::asm!(
                ".pushsection .data.rseq_section, \"aw\"",
                ".balign 32",
                "60: .long 0, 0",
                ".quad 51f, 52f - 51f, 54f",
                ".popsection",
                "lea {t}, [rip + 51f]",
                "mov [{at}], {t}",
                "lea {t}, [rip + 52f]",
                "mov [{at} + 8], {t}",
                "lea {t}, [rip + 60b]",
                "mov [{area} + 8], {t}",
                "51: inc {n}",
                "jmp 51b",
                "52: ud2",
                ".long 0x53053053",
                "54:",
                t = out(reg) _,
                at = in(reg) AT.as_ptr(),
                area = in(reg) area,
                n = inout(reg) counted,
            );
        }
        while SEEN[0].load(SeqCst) + SEEN[1].load(SeqCst) <= n {
            std::thread::yield_now();
        }
    }
    sender.join().unwrap();
    say("worked", counted > 0);
    say("frames", SEEN[0].load(SeqCst) + SEEN[1].load(SeqCst));
    say("inside", SEEN[1].load(SeqCst));
}
