//! Handlers, masks, real-time queues, signal information, targets, alternate stacks, default actions.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicUsize, Ordering::SeqCst};

cases! {
    handler_basics, sigaction_errors, mask_and_pending, nodefer_resethand, handler_mask, standard_not_queued, realtime_queue, realtime_order, sigqueue_info, kill_info, tgkill_forms, kill_targets, altstack, altstack_errors, nested_handlers, signal_per_thread, sigpipe_write, pending_limit, sa_flags_readback, default_actions, bad_extended_state,
}

pub(super) static COUNT: AtomicI32 = AtomicI32::new(0);

pub(super) static LAST: AtomicI32 = AtomicI32::new(0);

pub(super) static CODE: AtomicI32 = AtomicI32::new(0);

pub(super) static PID: AtomicI32 = AtomicI32::new(0);

pub(super) static UID: AtomicI32 = AtomicI32::new(0);

pub(super) static VALUE: AtomicI64 = AtomicI64::new(0);

pub(super) static ADDR: AtomicUsize = AtomicUsize::new(0);

pub(super) fn reset() {
    for a in [&COUNT, &LAST, &CODE, &PID, &UID] {
        a.store(0, SeqCst);
    }
    VALUE.store(0, SeqCst);
    ADDR.store(0, SeqCst);
}

pub(super) extern "C" fn note(s: i32, i: *mut libc::siginfo_t, _: *mut libc::c_void) {
    unsafe {
        LAST.store(s, SeqCst);
        CODE.store((*i).si_code, SeqCst);
        PID.store((*i).si_pid(), SeqCst);
        UID.store((*i).si_uid() as i32, SeqCst);
        VALUE.store((*i).si_value().sival_ptr as i64, SeqCst);
        COUNT.fetch_add(1, SeqCst);
        if let Some(w) = SHARED.load(SeqCst).as_ref() {
            w.fetch_add(1, SeqCst);
        }
    }
}

/// A word that other processes watch to see that the handler ran.
pub(super) static SHARED: AtomicPtr<AtomicI32> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn code_name(c: i32) -> String {
    match c {
        0 => "SI_USER".into(),
        -1 => "SI_QUEUE".into(),
        -2 => "SI_TIMER".into(),
        -3 => "SI_MESGQ".into(),
        -6 => "SI_TKILL".into(),
        0x80 => "SI_KERNEL".into(),
        n => n.to_string(),
    }
}

fn noted() -> String {
    let pid = PID.load(SeqCst);
    format!(
        "{} {} times {} from self {} uid ok {}",
        signal_name(LAST.load(SeqCst)),
        code_name(CODE.load(SeqCst)),
        COUNT.load(SeqCst),
        pid == getpid(),
        UID.load(SeqCst) as u32 == unsafe { libc::getuid() }
    )
}

fn handler_basics() {
    say("install", on_signal(libc::SIGUSR1, note, 0));
    unsafe { libc::raise(libc::SIGUSR1) };
    say("raise", noted());
    reset();
    unsafe { libc::kill(getpid(), libc::SIGUSR1) };
    say("kill", noted());
    let e = Event::new();
    reset();
    let me = getpid();
    let pid = child(|| {
        unsafe { libc::kill(me, libc::SIGUSR1) };
        e.post();
        0
    });
    e.wait();
    while COUNT.load(SeqCst) == 0 {
        pause_poll();
    }
    say("from child", PID.load(SeqCst) == pid);
    reap(pid);
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut dfl: libc::sigaction = unsafe { std::mem::zeroed() };
    dfl.sa_sigaction = libc::SIG_DFL;
    say("replace", c!(libc::sigaction(libc::SIGUSR1, &dfl, &mut old)));
    say("old is the handler", old.sa_sigaction == note as *const () as usize);
    set_action(libc::SIGUSR1, libc::SIG_IGN);
    unsafe { libc::raise(libc::SIGUSR1) };
    say("ignored", true);
}

fn sigaction_errors() {
    for s in [0, -1, 65, libc::SIGKILL, libc::SIGSTOP] {
        say(&format!("handler for {s}"), on_signal(s, note, 0));
        let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
        say(&format!("query {s}"), c!(libc::sigaction(s, std::ptr::null(), &mut old)));
    }
    say("raw, bad set size", sc!(libc::SYS_rt_sigaction, libc::SIGUSR1, 0, 0, 4));
    say("raw, bad pointer", sc!(libc::SYS_rt_sigaction, libc::SIGUSR1, 8, 0, 8));
    say("raw, bad old pointer", sc!(libc::SYS_rt_sigaction, libc::SIGUSR1, 0, 8, 8));
    say("mask: bad how", c!(libc::sigprocmask(77, &sigset(&[]), std::ptr::null_mut())));
    say(
        "mask: bad how without set",
        c!(libc::sigprocmask(77, std::ptr::null(), std::ptr::null_mut())),
    );
    say("mask: bad size", sc!(libc::SYS_rt_sigprocmask, 0, 0, 0, 4));
    say("kill bad signal", c!(libc::kill(getpid(), 65)));
    say("kill negative signal", c!(libc::kill(getpid(), -1)));
    say("kill nobody", c!(libc::kill(i32::MAX, 0)));
}

fn mask_and_pending() {
    on_signal(libc::SIGUSR1, note, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGUSR2]);
    unsafe { libc::raise(libc::SIGUSR1) };
    say("not delivered", COUNT.load(SeqCst));
    let mut p = sigset(&[]);
    unsafe { libc::sigpending(&mut p) };
    say("pending", unsafe { libc::sigismember(&p, libc::SIGUSR1) });
    mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
    say("delivered at unblock, before it returns", COUNT.load(SeqCst));
    // KILL and STOP cannot be blocked, silently.
    say("block all", c!(libc::sigprocmask(libc::SIG_BLOCK, &full(), std::ptr::null_mut())));
    let mut cur = sigset(&[]);
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut cur) };
    let m = [libc::SIGKILL, libc::SIGSTOP, libc::SIGINT, 64]
        .map(|s| unsafe { libc::sigismember(&cur, s) });
    say("KILL STOP INT RTMAX", format!("{m:?}"));
    mask(libc::SIG_SETMASK, &[]);
    // Setting to SIG_IGN drops a pending signal.
    mask(libc::SIG_BLOCK, &[libc::SIGUSR2]);
    unsafe { libc::raise(libc::SIGUSR2) };
    set_action(libc::SIGUSR2, libc::SIG_IGN);
    unsafe { libc::sigpending(&mut p) };
    say("pending after SIG_IGN", unsafe { libc::sigismember(&p, libc::SIGUSR2) });
    // A blocked signal whose action is ignore stays pending for sigwait.
    unsafe { libc::raise(libc::SIGUSR2) };
    unsafe { libc::sigpending(&mut p) };
    say("blocked and ignored, sent again", unsafe { libc::sigismember(&p, libc::SIGUSR2) });
}

pub(super) fn full() -> libc::sigset_t {
    let mut s = sigset(&[]);
    unsafe { libc::sigfillset(&mut s) };
    s
}

fn nodefer_resethand() {
    static DEPTH: AtomicI32 = AtomicI32::new(0);
    static MAX: AtomicI32 = AtomicI32::new(0);
    extern "C" fn again(s: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let d = DEPTH.fetch_add(1, SeqCst) + 1;
        MAX.fetch_max(d, SeqCst);
        if COUNT.fetch_add(1, SeqCst) < 3 {
            unsafe { libc::raise(s) };
        }
        DEPTH.fetch_sub(1, SeqCst);
    }
    for (name, flags) in [("deferred", 0), ("SA_NODEFER", libc::SA_NODEFER)] {
        reset();
        MAX.store(0, SeqCst);
        on_signal(libc::SIGUSR1, again, flags);
        unsafe { libc::raise(libc::SIGUSR1) };
        say(name, format!("{} calls, depth {}", COUNT.load(SeqCst), MAX.load(SeqCst)));
    }
    let s = in_child(|| {
        on_signal(libc::SIGUSR1, note, libc::SA_RESETHAND);
        unsafe { libc::raise(libc::SIGUSR1) };
        say("SA_RESETHAND first", COUNT.load(SeqCst) > 0);
        unsafe { libc::raise(libc::SIGUSR1) };
        0
    });
    say("second", s);
}

fn handler_mask() {
    static SEEN: AtomicI32 = AtomicI32::new(0);
    extern "C" fn look(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let mut m = sigset(&[]);
        unsafe {
            libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut m);
            let bits = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGHUP, libc::SIGTERM];
            let v = bits.iter().enumerate().fold(0, |a, (i, s)| a | libc::sigismember(&m, *s) << i);
            SEEN.store(v, SeqCst);
            // What the handler does to the mask is undone when it returns.
            mask(libc::SIG_BLOCK, &[libc::SIGINT]);
        }
    }
    mask(libc::SIG_BLOCK, &[libc::SIGTERM]);
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    sa.sa_sigaction = look as *const () as usize;
    sa.sa_mask = sigset(&[libc::SIGUSR2]);
    unsafe { libc::sigaction(libc::SIGUSR1, &sa, std::ptr::null_mut()) };
    unsafe { libc::raise(libc::SIGUSR1) };
    say("USR1 USR2 HUP TERM inside", format!("{:04b}", SEEN.load(SeqCst)));
    let mut m = sigset(&[]);
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut m) };
    let after = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGINT]
        .map(|s| unsafe { libc::sigismember(&m, s) });
    say("USR1 USR2 TERM INT after", format!("{after:?}"));
}

fn standard_not_queued() {
    on_signal(libc::SIGUSR1, note, 0);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    for _ in 0..5 {
        unsafe { libc::raise(libc::SIGUSR1) };
    }
    mask(libc::SIG_SETMASK, &[]);
    say("five sent, delivered", COUNT.load(SeqCst));
}

static LOG: [AtomicI64; 64] = [const { AtomicI64::new(0) }; 64];

static LOGGED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn log(s: i32, i: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let v = unsafe { (*i).si_value().sival_ptr as i64 };
    let n = LOGGED.fetch_add(1, SeqCst);
    if n < 64 {
        LOG[n].store(i64::from(s) * 1000 + v, SeqCst);
    }
}

fn log_text() -> String {
    let n = LOGGED.load(SeqCst).min(64);
    let v: Vec<String> = (0..n)
        .map(|i| LOG[i].load(SeqCst))
        .map(|v| format!("{}:{}", signal_name((v / 1000) as i32).replace("SIGRTMIN", ""), v % 1000))
        .collect();
    v.join(" ")
}

pub(super) fn queue(sig: i32, v: usize) -> R {
    c!(libc::sigqueue(getpid(), sig, libc::sigval { sival_ptr: v as *mut _ }))
}

fn realtime_queue() {
    on_signal(40, log, 0);
    mask(libc::SIG_BLOCK, &[40]);
    for v in 1..=6 {
        queue(40, v);
    }
    mask(libc::SIG_SETMASK, &[]);
    say("each delivered, in order", log_text());
}

fn realtime_order() {
    let all = [36, 35, 40, 34, libc::SIGUSR2, libc::SIGUSR1];
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    sa.sa_sigaction = log as *const () as usize;
    sa.sa_flags = libc::SA_SIGINFO;
    sa.sa_mask = full();
    for s in all {
        unsafe { libc::sigaction(s, &sa, std::ptr::null_mut()) };
    }
    mask(libc::SIG_BLOCK, &all);
    for (i, s) in all.iter().enumerate() {
        queue(*s, i + 1);
    }
    queue(34, 9);
    mask(libc::SIG_SETMASK, &[]);
    say("lowest first, queue order within one", log_text());
    // Taken one by one with sigwaitinfo, the order is the same.
    mask(libc::SIG_BLOCK, &all);
    for s in all {
        queue(s, 1);
    }
    let set = sigset(&all);
    let got: Vec<String> = all
        .iter()
        .map(|_| signal_name(unsafe { libc::sigwaitinfo(&set, std::ptr::null_mut()) }))
        .collect();
    say("sigwaitinfo", got.join(" "));
}

fn sigqueue_info() {
    on_signal(libc::SIGUSR1, note, 0);
    say("sigqueue", queue(libc::SIGUSR1, 0x1234_5678_9abc));
    say("info", noted());
    say("value", format!("{:x}", VALUE.load(SeqCst)));
    say("signal 0", queue(0, 0));
    let raw = |code: i32, pid: i32| {
        let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
        i.si_signo = libc::SIGUSR1;
        i.si_code = code;
        sc!(libc::SYS_rt_sigqueueinfo, pid, libc::SIGUSR1, &i as *const _)
    };
    let me = getpid();
    say("forged SI_USER to self", raw(0, me));
    say("forged SI_TKILL to self", raw(-6, me));
    let e = Event::new();
    let pid = child(|| {
        set_action(libc::SIGUSR1, libc::SIG_IGN);
        e.post();
        loop {
            unsafe { libc::pause() };
        }
    });
    e.wait();
    say("forged SI_USER to another", raw(0, pid));
    say("forged SI_KERNEL to another", raw(0x80, pid));
    say("SI_QUEUE to another", raw(-1, pid));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

fn kill_info() {
    on_signal(libc::SIGUSR1, note, 0);
    let me = getpid();
    say("tgkill", sc!(libc::SYS_tgkill, me, gettid(), libc::SIGUSR1));
    say("info", noted());
    reset();
    say("tkill", sc!(libc::SYS_tkill, gettid(), libc::SIGUSR1));
    say("info", noted());
    reset();
    let mut ts: libc::itimerval = unsafe { std::mem::zeroed() };
    ts.it_value.tv_usec = 1;
    on_signal(libc::SIGALRM, note, 0);
    unsafe { libc::setitimer(libc::ITIMER_REAL, &ts, std::ptr::null_mut()) };
    while COUNT.load(SeqCst) == 0 {
        pause_poll();
    }
    say("itimer", code_name(CODE.load(SeqCst)));
}

fn tgkill_forms() {
    let me = getpid();
    say("wrong group", sc!(libc::SYS_tgkill, 1, gettid(), 0));
    say("bad tid", sc!(libc::SYS_tgkill, me, i32::MAX, 0));
    say("zero tid", sc!(libc::SYS_tgkill, me, 0, 0));
    say("negative", sc!(libc::SYS_tgkill, -1, gettid(), 0));
    say("tkill 0", sc!(libc::SYS_tkill, 0, 0));
    say("signal 0", sc!(libc::SYS_tgkill, me, gettid(), 0));
    say("bad signal", sc!(libc::SYS_tgkill, me, gettid(), 65));
}

fn kill_targets() {
    // kill(0): every process of the group, the caller too.
    on_signal(libc::SIGUSR1, note, 0);
    let w = shared_words();
    let ready = Event::new();
    let done = Event::new();
    let kids: Vec<i32> = (0..3)
        .map(|_| {
            child(|| {
                mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
                ready.post();
                let set = sigset(&[libc::SIGUSR1]);
                unsafe { libc::sigwaitinfo(&set, std::ptr::null_mut()) };
                w[0].fetch_add(1, SeqCst);
                done.post();
                0
            })
        })
        .collect();
    for _ in 0..3 {
        ready.wait();
    }
    say("kill(0)", c!(libc::kill(0, libc::SIGUSR1)));
    say("self too", COUNT.load(SeqCst));
    for _ in 0..3 {
        done.wait();
    }
    say("children", w[0].load(SeqCst));
    for k in kids {
        reap(k);
    }
    // The permission check as an ordinary user: init belongs to root.
    if unsafe { libc::getuid() } != 0 {
        say("kill(1, 0) as user", c!(libc::kill(1, 0)));
        say("kill(1, CONT) as user", c!(libc::kill(1, libc::SIGCONT)));
    }
}

fn altstack() {
    static ON: AtomicI32 = AtomicI32::new(-1);
    static FLAGS: AtomicI32 = AtomicI32::new(-1);
    static BASE: AtomicUsize = AtomicUsize::new(0);
    const SIZE: usize = 128 << 10;
    extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let here = &raw const ON as usize;
        let local = 0u8;
        let a = &raw const local as usize;
        let b = BASE.load(SeqCst);
        ON.store((b..b + SIZE).contains(&a) as i32, SeqCst);
        let mut st: libc::stack_t = unsafe { std::mem::zeroed() };
        unsafe { libc::sigaltstack(std::ptr::null(), &mut st) };
        FLAGS.store(st.ss_flags, SeqCst);
        let mut st2: libc::stack_t = unsafe { std::mem::zeroed() };
        st2.ss_flags = libc::SS_DISABLE;
        LAST.store(c!(libc::sigaltstack(&st2, std::ptr::null_mut())).0 as i32, SeqCst);
        let _ = here;
    }
    let mem = Box::leak(vec![0u8; SIZE].into_boxed_slice());
    BASE.store(mem.as_ptr() as usize, SeqCst);
    let mut st: libc::stack_t = unsafe { std::mem::zeroed() };
    st.ss_sp = mem.as_mut_ptr().cast();
    st.ss_size = SIZE;
    let mut old: libc::stack_t = unsafe { std::mem::zeroed() };
    // std has one already; ours replaces it.
    say("set", c!(libc::sigaltstack(&st, &mut old)));
    on_signal(libc::SIGUSR1, h, libc::SA_ONSTACK);
    unsafe { libc::raise(libc::SIGUSR1) };
    say("on it", ON.load(SeqCst));
    say(
        "flags inside",
        if FLAGS.load(SeqCst) == libc::SS_ONSTACK { "SS_ONSTACK" } else { "other" },
    );
    say("change inside", R(LAST.load(SeqCst).into()));
    on_signal(libc::SIGUSR2, h, 0);
    unsafe { libc::raise(libc::SIGUSR2) };
    say("without SA_ONSTACK", ON.load(SeqCst));
    say("flags", FLAGS.load(SeqCst));
    // The handler above disabled it, being elsewhere.
    unsafe { libc::sigaltstack(std::ptr::null(), &mut old) };
    say("disabled", old.ss_flags == libc::SS_DISABLE);
    // SS_AUTODISARM.
    st.ss_flags = 1 << 31;
    say("autodisarm", c!(libc::sigaltstack(&st, std::ptr::null_mut())));
    unsafe { libc::raise(libc::SIGUSR1) };
    say("on it", ON.load(SeqCst));
    say(
        "flags inside",
        if FLAGS.load(SeqCst) == libc::SS_DISABLE { "SS_DISABLE" } else { "other" },
    );
    // Stack overflow caught on the alternate stack.
    let s = in_child(|| {
        extern "C" fn over(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
            unsafe { libc::_exit(44) }
        }
        st.ss_flags = 0;
        unsafe { libc::sigaltstack(&st, std::ptr::null_mut()) };
        on_signal(libc::SIGSEGV, over, libc::SA_ONSTACK);
        fn deep(n: u64) -> u64 {
            let a = std::hint::black_box([n; 512]);
            if n == 0 { 0 } else { deep(n + 1) + a[3] }
        }
        deep(1) as i32
    });
    say("stack overflow handled", s);
    let s = in_child(|| {
        set_action(libc::SIGSEGV, libc::SIG_DFL);
        fn deep(n: u64) -> u64 {
            let a = std::hint::black_box([n; 512]);
            if n == 0 { 0 } else { deep(n + 1) + a[3] }
        }
        deep(1) as i32
    });
    say("stack overflow by default", s);
}

fn altstack_errors() {
    let mut st: libc::stack_t = unsafe { std::mem::zeroed() };
    let mut mem = vec![0u8; 4096];
    st.ss_sp = mem.as_mut_ptr().cast();
    st.ss_size = 1024;
    say("too small", c!(libc::sigaltstack(&st, std::ptr::null_mut())));
    st.ss_size = 4096;
    st.ss_flags = 0x40;
    say("bad flags", c!(libc::sigaltstack(&st, std::ptr::null_mut())));
    say("bad pointer", sc!(libc::SYS_sigaltstack, 8, 0));
    st.ss_flags = libc::SS_DISABLE;
    st.ss_size = 0;
    say("disable, size ignored", c!(libc::sigaltstack(&st, std::ptr::null_mut())));
}

/// Runs `block` here while a child waits until it sleeps, sends `sig`, and then calls `then`.
pub(super) fn interrupted(sig: i32, block: impl FnOnce() -> String, then: impl FnOnce()) -> String {
    let me = getpid();
    let tid = gettid();
    reset();
    let w = shared_words();
    SHARED.store((&raw const w[0]).cast_mut(), SeqCst);
    let pid = child(|| {
        await_state(me, tid, "S");
        unsafe { libc::kill(me, sig) };
        while w[0].load(SeqCst) == 0 {
            pause_poll();
        }
        // The handler has run: once it sleeps again, the call has been restarted, or it returned and this is waitpid.
        await_state(me, tid, "S");
        then();
        0
    });
    let r = block();
    reap(pid);
    SHARED.store(std::ptr::null_mut(), SeqCst);
    format!("{r}, handler ran {}", COUNT.load(SeqCst))
}

pub(super) fn map(len: usize, prot: i32) -> *mut u8 {
    let p = unsafe {
        libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert!(p != libc::MAP_FAILED);
    p.cast()
}

fn nested_handlers() {
    static TRACE: AtomicI32 = AtomicI32::new(0);
    extern "C" fn outer(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        TRACE.store(TRACE.load(SeqCst) * 10 + 1, SeqCst);
        unsafe { libc::raise(libc::SIGUSR2) };
        TRACE.store(TRACE.load(SeqCst) * 10 + 3, SeqCst);
    }
    extern "C" fn inner(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        TRACE.store(TRACE.load(SeqCst) * 10 + 2, SeqCst);
    }
    on_signal(libc::SIGUSR1, outer, 0);
    on_signal(libc::SIGUSR2, inner, 0);
    unsafe { libc::raise(libc::SIGUSR1) };
    say("outer, inner, outer", TRACE.load(SeqCst));
    // errno belongs to the thread and a handler may spoil it; the kernel does not.
    // Two signals unblocked at once: both handlers run, nested or in turn, before the call returns.
    TRACE.store(0, SeqCst);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGUSR2]);
    unsafe {
        libc::raise(libc::SIGUSR2);
        libc::raise(libc::SIGUSR1);
    }
    mask(libc::SIG_SETMASK, &[]);
    say("both pending: the last frame built runs first", TRACE.load(SeqCst));
}

fn signal_per_thread() {
    static WHERE: AtomicI32 = AtomicI32::new(0);
    extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        WHERE.store(gettid(), SeqCst);
    }
    on_signal(libc::SIGUSR1, h, 0);
    let w: &'static [AtomicI32; 64] = shared_words();
    let t = std::thread::spawn(|| {
        publish(&w[0], gettid());
        await_change(&w[1], 0);
    });
    await_change(&w[0], 0);
    let tid = w[0].load(SeqCst);
    sc!(libc::SYS_tgkill, getpid(), tid, libc::SIGUSR1);
    while WHERE.load(SeqCst) == 0 {
        pause_poll();
    }
    say("directed to the thread", WHERE.load(SeqCst) == tid);
    // Sent to the process while this thread blocks it: the other one takes it.
    WHERE.store(0, SeqCst);
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    unsafe { libc::kill(getpid(), libc::SIGUSR1) };
    while WHERE.load(SeqCst) == 0 {
        pause_poll();
    }
    say("process signal goes to the thread that does not block it", WHERE.load(SeqCst) == tid);
    // Pending for one thread only.
    sc!(libc::SYS_tgkill, getpid(), gettid(), libc::SIGUSR1);
    let mut p = sigset(&[]);
    unsafe { libc::sigpending(&mut p) };
    say("pending here", unsafe { libc::sigismember(&p, libc::SIGUSR1) });
    publish(&w[1], 1);
    t.join().unwrap();
    let seen = std::thread::spawn(|| {
        let mut p = sigset(&[]);
        unsafe { libc::sigpending(&mut p) };
        unsafe { libc::sigismember(&p, libc::SIGUSR1) }
    });
    say("not in another thread", seen.join().unwrap());
}

fn sigpipe_write() {
    let (r, w) = pipe();
    close(r);
    say(
        "default",
        in_child(|| {
            set_action(libc::SIGPIPE, libc::SIG_DFL);
            write(w, b"x");
            0
        }),
    );
    set_action(libc::SIGPIPE, libc::SIG_IGN);
    say("ignored", write(w, b"x"));
    on_signal(libc::SIGPIPE, note, 0);
    say("handled", write(w, b"x"));
    say("handler", COUNT.load(SeqCst));
    let mut sv = [0; 2];
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, sv.as_mut_ptr()) };
    close(sv[1]);
    reset();
    say("MSG_NOSIGNAL", c!(libc::send(sv[0], b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL)));
    say("handler", COUNT.load(SeqCst));
}

fn pending_limit() {
    let l = libc::rlimit { rlim_cur: 10, rlim_max: 10 };
    unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &l) };
    mask(libc::SIG_BLOCK, &[40, libc::SIGUSR1]);
    let mut ok = 0;
    let err = loop {
        let r = queue(40, 1);
        if !r.is_ok() {
            break r;
        }
        ok += 1;
        if ok > 1000 {
            break R(0);
        }
    };
    // Counted per user, so that the number that fits is at most the limit.
    say("queued at most 10", ok <= 10);
    say("then", err);
    say("kill still works", c!(libc::kill(getpid(), libc::SIGUSR1)));
    let mut p = sigset(&[]);
    unsafe { libc::sigpending(&mut p) };
    say("pending", unsafe { libc::sigismember(&p, libc::SIGUSR1) });
}

fn sa_flags_readback() {
    let all = libc::SA_SIGINFO
        | libc::SA_RESTART
        | libc::SA_NODEFER
        | libc::SA_NOCLDSTOP
        | libc::SA_NOCLDWAIT
        | libc::SA_ONSTACK;
    on_signal(libc::SIGCHLD, note, all);
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &mut sa) };
    say("flags kept", sa.sa_flags & all == all);
    // Unknown bits are dropped, which is how programs probe for new ones; SA_UNSUPPORTED is always dropped.
    let raw: [u64; 4] = [
        note as *const () as u64,
        (libc::SA_SIGINFO as u32 | 0x400 | 0x800 | 0x1000 | 0x0400_0000) as u64,
        0,
        0,
    ];
    let mut back = [0u64; 4];
    sc!(libc::SYS_rt_sigaction, libc::SIGUSR2, raw.as_ptr(), 0, 8);
    sc!(libc::SYS_rt_sigaction, libc::SIGUSR2, 0, back.as_mut_ptr(), 8);
    say("raw flags back", format!("{:#x}", back[1]));
    let raw: [u64; 4] = [1, 0, 0, u64::MAX];
    sc!(libc::SYS_rt_sigaction, libc::SIGUSR2, raw.as_ptr(), 0, 8);
    sc!(libc::SYS_rt_sigaction, libc::SIGUSR2, 0, back.as_mut_ptr(), 8);
    say("mask without KILL and STOP", format!("{:#x}", back[3]));
}

fn default_actions() {
    for s in 1..=64 {
        if s == 32 || s == 33 {
            continue;
        }
        let pid = child(|| {
            unsafe { libc::kill(getpid(), s) };
            0
        });
        let r = wait_opt(pid, libc::WUNTRACED);
        if r.starts_with("stopped") {
            unsafe { libc::kill(pid, libc::SIGKILL) };
            reap(pid);
        }
        say(&signal_name(s), r);
    }
}

extern "C" fn breaks_state(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    COUNT.fetch_add(1, SeqCst);
    let u = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // Bytes 512 to 1023 are the header of the extended state: a component that cannot be.
    unsafe { u.uc_mcontext.fpregs.cast::<u8>().add(512).write_bytes(0xff, 64) };
}

/// A frame whose extended state cannot be restored is SIGSEGV where the frame said, so that its handler can return.
fn bad_extended_state() {
    on_signal(libc::SIGUSR1, breaks_state, 0);
    on_signal(libc::SIGSEGV, note, 0);
    unsafe { libc::raise(libc::SIGUSR1) };
    say("came back", format!("{} last {}", COUNT.load(SeqCst), signal_name(LAST.load(SeqCst))));
}
