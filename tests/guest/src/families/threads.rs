//! Threads, thread-local storage, POSIX mutexes, conditions, barriers, semaphores, cancellation, arch_prctl.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, Mutex};

cases! {
    create_join, thread_ids, thread_local, many_threads, parallel_counter, robust_mutex, mutex_kinds, condition, rwlock, barrier, semaphores, once_and_keys, cancellation, detached, thread_names, exit_of_thread, exit_after_join, set_tid_address, arch_prctl, thread_stacks, fork_in_thread, named_from_outside, lock_convoy, timed_locks,
}

fn create_join() {
    let r: Vec<i32> =
        (0..8).map(|i| std::thread::spawn(move || i * i)).map(|t| t.join().unwrap()).collect();
    say("results", format!("{r:?}"));
}

fn thread_ids() {
    let (pid, tid) = (getpid(), gettid());
    say("main: tid is pid", pid == tid);
    let (p2, t2) = std::thread::spawn(|| (getpid(), gettid())).join().unwrap();
    say("thread: same pid", p2 == pid);
    say("thread: another tid", t2 != tid);
    // The join returns a little before the task is gone.
    while sc!(libc::SYS_tgkill, pid, t2, 0).is_ok() {
        pause_poll();
    }
    say("tid gone after join", sc!(libc::SYS_tgkill, pid, t2, 0));
    let w = shared_words();
    let t = std::thread::spawn(|| {
        publish(&w[0], gettid());
        await_change(&w[1], 0);
    });
    await_change(&w[0], 0);
    let tid = w[0].load(SeqCst);
    say("/proc/self/task", std::fs::read_dir("/proc/self/task").unwrap().count());
    say("named by its tid", std::path::Path::new(&format!("/proc/self/task/{tid}")).exists());
    let st = std::fs::read_to_string("/proc/self/status").unwrap();
    say(
        "Threads",
        st.lines().find(|l| l.starts_with("Threads:")).unwrap().split_whitespace().nth(1).unwrap(),
    );
    publish(&w[1], 1);
    t.join().unwrap();
}

fn thread_local() {
    thread_local!(static T: std::cell::Cell<u64> = const { std::cell::Cell::new(5) });
    T.set(6);
    let ts: Vec<_> = (0..20)
        .map(|i| {
            std::thread::spawn(move || {
                let before = T.get();
                T.set(i);
                for _ in 0..100 {
                    std::thread::yield_now();
                }
                before == 5 && T.get() == i
            })
        })
        .collect();
    say(
        "each has its own",
        ts.into_iter().filter(|_| true).map(|t| t.join().unwrap()).filter(|b| *b).count(),
    );
    say("main's", T.get());
    let s = in_child(|| T.get() as i32);
    say("after fork", s);
}

fn many_threads() {
    let gate = Arc::new(Barrier::new(201));
    let n = Arc::new(AtomicI32::new(0));
    let ts: Vec<_> = (0..200)
        .map(|_| {
            let (g, n) = (gate.clone(), n.clone());
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    n.fetch_add(1, SeqCst);
                    g.wait();
                })
                .unwrap()
        })
        .collect();
    gate.wait();
    say("all at once", n.load(SeqCst));
    for t in ts {
        t.join().unwrap();
    }
    while std::fs::read_dir("/proc/self/task").unwrap().count() > 1 {
        pause_poll();
    }
    say("all gone", true);
    let total: i64 = (0..1000).map(|i| std::thread::spawn(move || i).join().unwrap()).sum();
    say("thousand in turn", total);
}

fn parallel_counter() {
    let m = Arc::new(Mutex::new(0u64));
    let a = Arc::new(AtomicU32::new(0));
    let ts: Vec<_> = (0..4)
        .map(|_| {
            let (m, a) = (m.clone(), a.clone());
            std::thread::spawn(move || {
                for _ in 0..20_000 {
                    *m.lock().unwrap() += 1;
                    a.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for t in ts {
        t.join().unwrap();
    }
    say("under the lock", *m.lock().unwrap());
    say("atomic", a.load(SeqCst));
}

fn shared_mutex(robust: bool, pi: bool) -> *mut libc::pthread_mutex_t {
    unsafe {
        let m = shared_words().as_ptr().cast::<libc::pthread_mutex_t>().cast_mut();
        let mut a: libc::pthread_mutexattr_t = std::mem::zeroed();
        libc::pthread_mutexattr_init(&mut a);
        libc::pthread_mutexattr_setpshared(&mut a, libc::PTHREAD_PROCESS_SHARED);
        if robust {
            libc::pthread_mutexattr_setrobust(&mut a, libc::PTHREAD_MUTEX_ROBUST);
        }
        if pi {
            libc::pthread_mutexattr_setprotocol(&mut a, libc::PTHREAD_PRIO_INHERIT);
        }
        libc::pthread_mutex_init(m, &a);
        m
    }
}

pub(super) fn e(r: i32) -> String {
    if r == 0 { "ok".into() } else { errno_name(r) }
}

fn robust_mutex() {
    for pi in [false, true] {
        let m = shared_mutex(true, pi);
        let s = in_child(|| unsafe {
            libc::pthread_mutex_lock(m);
            libc::_exit(0)
        });
        say(&format!("pi {pi}: owner dies"), s);
        say("lock", e(unsafe { libc::pthread_mutex_lock(m) }));
        say("consistent", e(unsafe { libc::pthread_mutex_consistent(m) }));
        say("unlock", e(unsafe { libc::pthread_mutex_unlock(m) }));
        say("lock again", e(unsafe { libc::pthread_mutex_lock(m) }));
        say("unlock", e(unsafe { libc::pthread_mutex_unlock(m) }));
        in_child(|| unsafe {
            libc::pthread_mutex_lock(m);
            libc::kill(getpid(), libc::SIGKILL)
        });
        say("owner killed: lock", e(unsafe { libc::pthread_mutex_lock(m) }));
        say("unlock without consistent", e(unsafe { libc::pthread_mutex_unlock(m) }));
        say("lock", e(unsafe { libc::pthread_mutex_lock(m) }));
    }
}

fn mutex_kinds() {
    for pi in [false, true] {
        let m = shared_mutex(false, pi);
        unsafe { libc::pthread_mutex_lock(m) };
        let pid = child(|| {
            say("trylock", e(unsafe { libc::pthread_mutex_trylock(m) }));
            let past = libc::timespec { tv_sec: 1, tv_nsec: 0 };
            say("timedlock", e(unsafe { libc::pthread_mutex_timedlock(m, &past) }));
            0
        });
        say(&format!("pi {pi}"), reap(pid));
        let w = shared_words();
        let pid = child(|| {
            w[0].store(1, SeqCst);
            unsafe { libc::pthread_mutex_lock(m) };
            w[1].store(1, SeqCst);
            unsafe { libc::pthread_mutex_unlock(m) };
            0
        });
        while w[0].load(SeqCst) == 0 {
            pause_poll();
        }
        await_sleep(pid);
        say("other has it before the unlock", w[1].load(SeqCst));
        unsafe { libc::pthread_mutex_unlock(m) };
        say("other", reap(pid));
        say("other had it", w[1].load(SeqCst));
    }
}

fn condition() {
    let p = Arc::new((Mutex::new(0), Condvar::new()));
    let ts: Vec<_> = (0..4)
        .map(|_| {
            let p = p.clone();
            std::thread::spawn(move || {
                let mut g = p.0.lock().unwrap();
                while *g < 100 {
                    g = p.1.wait(g).unwrap();
                }
                *g += 1;
            })
        })
        .collect();
    for _ in 0..100 {
        *p.0.lock().unwrap() += 1;
        p.1.notify_all();
    }
    for t in ts {
        t.join().unwrap();
    }
    say("final", *p.0.lock().unwrap());
    let g = p.0.lock().unwrap();
    let (_g, r) = p.1.wait_timeout(g, std::time::Duration::from_millis(1)).unwrap();
    say("timed out", r.timed_out());
    // Ping-pong of two threads through one condition.
    let q = Arc::new((Mutex::new(0u32), Condvar::new()));
    let q2 = q.clone();
    let t = std::thread::spawn(move || {
        for i in 0..500 {
            let mut g = q2.0.lock().unwrap();
            while *g != 2 * i + 1 {
                g = q2.1.wait(g).unwrap();
            }
            *g += 1;
            q2.1.notify_one();
        }
    });
    for i in 0..500 {
        let mut g = q.0.lock().unwrap();
        while *g != 2 * i {
            g = q.1.wait(g).unwrap();
        }
        *g += 1;
        q.1.notify_one();
    }
    t.join().unwrap();
    say("ping-pong", *q.0.lock().unwrap());
}

fn rwlock() {
    unsafe {
        let l: &'static mut libc::pthread_rwlock_t = Box::leak(Box::new(std::mem::zeroed()));
        libc::pthread_rwlock_init(l, std::ptr::null());
        say("read", e(libc::pthread_rwlock_rdlock(l)));
        say("read again", e(libc::pthread_rwlock_tryrdlock(l)));
        say("write while read", e(libc::pthread_rwlock_trywrlock(l)));
        libc::pthread_rwlock_unlock(l);
        libc::pthread_rwlock_unlock(l);
        say("write", e(libc::pthread_rwlock_wrlock(l)));
        say("read while written by self", e(libc::pthread_rwlock_rdlock(l)));
    }
}

fn barrier() {
    let b = Arc::new(Barrier::new(5));
    let n = Arc::new(AtomicI32::new(0));
    let ts: Vec<_> = (0..5)
        .map(|_| {
            let (b, n) = (b.clone(), n.clone());
            std::thread::spawn(move || {
                let mut leaders = 0;
                for round in 1..=100 {
                    n.fetch_add(1, SeqCst);
                    leaders += b.wait().is_leader() as i32;
                    assert!(n.load(SeqCst) >= round * 5);
                    b.wait();
                }
                leaders
            })
        })
        .collect();
    let leaders: i32 = ts.into_iter().map(|t| t.join().unwrap()).sum();
    say("one leader a round", leaders);
    say("count", n.load(SeqCst));
}

fn semaphores() {
    unsafe {
        let s = shared_words().as_ptr().cast::<libc::sem_t>().cast_mut();
        say("init", c!(libc::sem_init(s, 1, 2)));
        say("trywait", c!(libc::sem_trywait(s)));
        say("trywait", c!(libc::sem_trywait(s)));
        say("trywait", c!(libc::sem_trywait(s)));
        let past = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        say("timedwait", c!(libc::sem_timedwait(s, &past)));
        let me = getpid();
        let pid = child(|| {
            await_sleep(me);
            libc::sem_post(s);
            0
        });
        say("wait for another process", c!(libc::sem_wait(s)));
        reap(pid);
    }
}

fn once_and_keys() {
    static DTORS: AtomicI32 = AtomicI32::new(0);
    extern "C" fn dtor(p: *mut libc::c_void) {
        DTORS.fetch_add(p as i32, SeqCst);
    }
    unsafe {
        let mut key = 0;
        say("key", e(libc::pthread_key_create(&mut key, Some(dtor))));
        for i in 1..=3 {
            std::thread::spawn(move || {
                libc::pthread_setspecific(key, i as *const libc::c_void);
            })
            .join()
            .unwrap();
        }
    }
    say("destructors saw", DTORS.load(SeqCst));
    let once = std::sync::Once::new();
    let n = AtomicI32::new(0);
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                once.call_once(|| {
                    n.fetch_add(1, SeqCst);
                })
            });
        }
    });
    say("once", n.load(SeqCst));
}

unsafe extern "C" {
    fn pthread_cancel(t: libc::pthread_t) -> i32;
}

/// Ends by a forced unwinding, hence the ABI; nothing here needs dropping.
extern "C-unwind" fn block_in_pause(tid: *mut libc::c_void) -> *mut libc::c_void {
    publish(unsafe { &*tid.cast::<AtomicI32>() }, gettid());
    loop {
        unsafe { libc::pause() };
    }
}

fn cancellation() {
    // glibc cancels with a directed real-time signal.
    let s = shared_words();
    unsafe {
        let mut t: libc::pthread_t = 0;
        type Body = extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void;
        type Plain = extern "C" fn(*mut libc::c_void) -> *mut libc::c_void;
        let body = std::mem::transmute::<Body, Plain>(block_in_pause);
        let r = libc::pthread_create(&mut t, std::ptr::null(), body, s.as_ptr() as *mut _);
        say("create", e(r));
        await_change(&s[0], 0);
        await_state(getpid(), s[0].load(SeqCst), "S");
        say("cancel", e(pthread_cancel(t)));
        let mut ret = std::ptr::null_mut();
        say("join", e(libc::pthread_join(t, &mut ret)));
        say("PTHREAD_CANCELED", ret as isize == -1);
    }
}

fn detached() {
    let s = shared_words();
    extern "C" fn body(w: *mut libc::c_void) -> *mut libc::c_void {
        publish(unsafe { &*w.cast::<AtomicI32>() }, gettid());
        std::ptr::null_mut()
    }
    unsafe {
        let mut a: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&mut a);
        libc::pthread_attr_setdetachstate(&mut a, libc::PTHREAD_CREATE_DETACHED);
        let mut t: libc::pthread_t = 0;
        say("create", e(libc::pthread_create(&mut t, &a, body, s.as_ptr() as *mut _)));
    }
    await_change(&s[0], 0);
    while task_state(getpid(), s[0].load(SeqCst)).is_some() {
        pause_poll();
    }
    say("gone by itself", true);
}

fn thread_names() {
    let name = |tid: i32| {
        std::fs::read_to_string(format!("/proc/self/task/{tid}/comm"))
            .unwrap()
            .trim_end()
            .to_string()
    };
    let t = std::thread::Builder::new().name("a-rather-long-thread-name".into());
    let n = t.spawn(move || name(gettid())).unwrap().join().unwrap();
    say("thread", n);
    unsafe { libc::prctl(libc::PR_SET_NAME, c"main-name".as_ptr()) };
    say("main", name(gettid()));
    std::fs::write(format!("/proc/self/task/{}/comm", gettid()), "by-proc").unwrap();
    let mut b = [0u8; 16];
    unsafe { libc::prctl(libc::PR_GET_NAME, b.as_mut_ptr()) };
    say("set by /proc", quoted(b.split(|c| *c == 0).next().unwrap()));
}

fn exit_of_thread() {
    // A raw exit of one thread leaves the others.
    let w: &'static [AtomicI32; 64] = shared_words();
    let _t = std::thread::spawn(|| {
        publish(&w[0], gettid());
        unsafe { libc::syscall(libc::SYS_exit, 3) };
    });
    await_change(&w[0], 0);
    while task_state(getpid(), w[0].load(SeqCst)).is_some() {
        pause_poll();
    }
    say("process lives", getpid() > 0);
    let s = in_child(|| {
        std::thread::spawn(|| {
            await_state(getpid(), getpid(), "Z");
            // The last thread to exit gives the status of the process.
            unsafe { libc::syscall(libc::SYS_exit, 4) };
        });
        unsafe { libc::syscall(libc::SYS_exit, 3) };
        0
    });
    say("leader exits 3, then the thread exits 4", s);
}

fn exit_after_join() {
    // The join returns while the thread is on its way out: whichever is gone last, the status is exit_group(2)'s.
    let wrong = (0..200).filter(|i| {
        let s = in_child(|| {
            std::thread::spawn(|| ()).join().unwrap();
            1 + i % 100
        });
        s != format!("exit {}", 1 + i % 100)
    });
    say("wrong status", wrong.count());
}

fn set_tid_address() {
    let w = shared_words();
    let s = in_child(|| {
        w[0].store(9, SeqCst);
        say("gives the tid", sc!(libc::SYS_set_tid_address, w.as_ptr()) == R(gettid().into()));
        0
    });
    say("status", s);
    // Cleared only while the memory has another user: the mapping is shared but the mm was not.
    say("word", w[0].load(SeqCst));
}

fn arch_prctl() {
    let mut fs = 0usize;
    say("ARCH_GET_FS", sc!(libc::SYS_arch_prctl, 0x1003, &mut fs as *mut _));
    let here: usize;
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) here) };
    say("is what fs:0 holds", fs == here);
    let word = 0x1234usize;
    say("ARCH_SET_GS", sc!(libc::SYS_arch_prctl, 0x1001, &word as *const _));
    let got: usize;
    unsafe { std::arch::asm!("mov {}, gs:[0]", out(reg) got) };
    say("gs:0", format!("{got:x}"));
    let mut gs = 0usize;
    sc!(libc::SYS_arch_prctl, 0x1004, &mut gs as *mut _);
    say("ARCH_GET_GS", gs == &word as *const _ as usize);
    say(
        "inherited by fork",
        in_child(|| {
            let got: usize;
            unsafe { std::arch::asm!("mov {}, gs:[0]", out(reg) got) };
            (got == 0x1234) as i32
        }),
    );
    say("kernel address", sc!(libc::SYS_arch_prctl, 0x1001, 0xffff_8000_0000_0000usize));
    say("unknown", sc!(libc::SYS_arch_prctl, 0x9999, 0));
}

fn thread_stacks() {
    fn use_stack(n: usize) -> usize {
        let a = std::hint::black_box([n as u8; 1024]);
        if n == 0 { 0 } else { use_stack(n - 1) + a[0] as usize }
    }
    let t = std::thread::Builder::new().stack_size(4 << 20).spawn(|| use_stack(2000)).unwrap();
    say("2 MiB of 4 MiB", t.join().unwrap());
    let s = in_child(|| {
        set_action(libc::SIGSEGV, libc::SIG_DFL);
        set_action(libc::SIGBUS, libc::SIG_DFL);
        std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(|| use_stack(2000))
            .unwrap()
            .join()
            .unwrap();
        0
    });
    say("guard page of a thread", s);
}

fn fork_in_thread() {
    let r = std::thread::spawn(|| {
        let tid = gettid();
        let p = child(|| {
            let alone = std::fs::read_dir("/proc/self/task").unwrap().count() == 1;
            let leader = gettid() == getpid();
            let fresh = gettid() != tid;
            (alone && leader && fresh) as i32
        });
        reap(p)
    })
    .join()
    .unwrap();
    say("child of a thread is alone and its leader", r);
}

/// Calls that take a pid, with the tid of a thread of another process that leads nothing.
fn named_from_outside() {
    let w: &'static [AtomicI32; 64] = shared_words();
    let pid = child(|| {
        set_action(libc::SIGUSR1, libc::SIG_IGN);
        std::thread::spawn(move || {
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) };
            publish(&w[0], gettid());
            await_change(&w[1], 0);
        })
        .join()
        .map_or(1, |()| 0)
    });
    await_change(&w[0], 0);
    let tid = w[0].load(SeqCst);
    await_state(pid, tid, "S");
    say("kill", c!(libc::kill(tid, 0)));
    say("kill, a signal", c!(libc::kill(tid, libc::SIGUSR1)));
    say("tkill", sc!(libc::SYS_tkill, tid, 0));
    say("tgkill", sc!(libc::SYS_tgkill, pid, tid, 0));
    say("tgkill, not the leader", sc!(libc::SYS_tgkill, tid, tid, 0));
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    info.si_code = libc::SI_QUEUE;
    say("rt_sigqueueinfo", sc!(libc::SYS_rt_sigqueueinfo, tid, libc::SIGUSR1, &raw mut info));
    say(
        "rt_tgsigqueueinfo",
        sc!(libc::SYS_rt_tgsigqueueinfo, pid, tid, libc::SIGUSR1, &raw mut info),
    );
    say("getpgid", c!(libc::getpgid(tid)) == c!(libc::getpgid(pid)));
    say("getsid", c!(libc::getsid(tid)) == c!(libc::getsid(pid)));
    say("setpgid", c!(libc::setpgid(tid, 0)));
    say("getpriority", c!(libc::getpriority(libc::PRIO_PROCESS, tid as u32)));
    say("of the leader", c!(libc::getpriority(libc::PRIO_PROCESS, pid as u32)));
    say("setpriority", c!(libc::setpriority(libc::PRIO_PROCESS, tid as u32, 7)));
    say("getpriority", c!(libc::getpriority(libc::PRIO_PROCESS, tid as u32)));
    say("of the leader", c!(libc::getpriority(libc::PRIO_PROCESS, pid as u32)));
    say("sched_getscheduler", c!(libc::sched_getscheduler(tid)));
    let mut param = libc::sched_param { sched_priority: 0 };
    say(
        "sched_setscheduler",
        c!(libc::sched_setscheduler(tid, libc::SCHED_BATCH, &raw const param)),
    );
    say("sched_getscheduler", c!(libc::sched_getscheduler(tid)));
    say("of the leader", c!(libc::sched_getscheduler(pid)));
    say("sched_getparam", c!(libc::sched_getparam(tid, &raw mut param)));
    let mut cpus = [0u64; 16];
    say("sched_getaffinity", sc!(libc::SYS_sched_getaffinity, tid, 128, cpus.as_mut_ptr()).is_ok());
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    say("prlimit", c!(libc::prlimit(tid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit)));
    say("ioprio_get", sc!(libc::SYS_ioprio_get, 1, tid));
    let mut header = [0x2008_0522u32, tid as u32];
    let mut data = [0u32; 6];
    say("capget", sc!(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()));
    let (mut head, mut len) = (0usize, 0usize);
    say("get_robust_list", sc!(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len));
    say("its size", len);
    let here = 0u64;
    let mut there = 0u64;
    let local = libc::iovec { iov_base: (&raw mut there).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: (&raw const here).cast_mut().cast(), iov_len: 8 };
    say(
        "process_vm_readv",
        c!(libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0)),
    );
    say("kcmp, memory", sc!(libc::SYS_kcmp, pid, tid, 1, 0, 0));
    say("kcmp, files", sc!(libc::SYS_kcmp, pid, tid, 2, 0, 0));
    say("wait4", c!(libc::wait4(tid, std::ptr::null_mut(), libc::WNOHANG, std::ptr::null_mut())));
    let process_clock = !tid << 3 | 2;
    let thread_clock = !tid << 3 | 6;
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    say("CPU clock of the process", c!(libc::clock_gettime(process_clock, &raw mut time)));
    say("CPU clock of the thread", c!(libc::clock_gettime(thread_clock, &raw mut time)));
    let mut pair = [0i32; 2];
    unsafe { libc::pipe(pair.as_mut_ptr()) };
    say("F_SETOWN", c!(libc::fcntl(pair[0], libc::F_SETOWN, tid)));
    say("F_GETOWN", c!(libc::fcntl(pair[0], libc::F_GETOWN)));
    let mut owner = [0, tid];
    say("F_SETOWN_EX", c!(libc::fcntl(pair[0], 15, owner.as_mut_ptr())));
    say("F_GETOWN is it", c!(libc::fcntl(pair[0], libc::F_GETOWN)) == R(tid.into()));
    owner = [1, pid];
    say("of the process", c!(libc::fcntl(pair[0], 15, owner.as_mut_ptr())));
    say("its task directory", std::fs::read_dir(format!("/proc/{tid}/task")).unwrap().count());
    say("its leader there", std::path::Path::new(&format!("/proc/{tid}/task/{pid}")).exists());
    say(
        "it in another's",
        std::path::Path::new(&format!("/proc/{}/task/{tid}", getpid())).exists(),
    );
    say(
        "its files",
        std::fs::read_dir(format!("/proc/{tid}/fd")).unwrap().count()
            == std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
    );
    publish(&w[1], 1);
    say("ends", wait_opt(pid, 0));
    say("F_GETOWN of who is gone", c!(libc::fcntl(pair[0], libc::F_GETOWN)));
    say("F_GETOWN_EX", c!(libc::fcntl(pair[0], 16, owner.as_mut_ptr())));
    say("kind and id", format!("{owner:?}"));
}

fn lock_convoy() {
    // Eight threads pass one lock round; each must get its turn.
    let m = Arc::new((Mutex::new(0usize), Condvar::new()));
    let ts: Vec<_> = (0..8)
        .map(|me| {
            let m = m.clone();
            std::thread::spawn(move || {
                let mut turns = 0;
                for _ in 0..50 {
                    let mut g = m.0.lock().unwrap();
                    while *g % 8 != me {
                        g = m.1.wait(g).unwrap();
                    }
                    *g += 1;
                    turns += 1;
                    m.1.notify_all();
                }
                turns
            })
        })
        .collect();
    let t: Vec<i32> = ts.into_iter().map(|t| t.join().unwrap()).collect();
    say("turns", format!("{t:?}"));
}

fn timed_locks() {
    unsafe {
        let m = shared_mutex(false, false);
        libc::pthread_mutex_lock(m);
        let t = std::thread::spawn({
            let m = m as usize;
            move || {
                let mut at: libc::timespec = std::mem::zeroed();
                libc::clock_gettime(libc::CLOCK_REALTIME, &mut at);
                at.tv_nsec += 3_000_000;
                if at.tv_nsec >= 1_000_000_000 {
                    at.tv_nsec -= 1_000_000_000;
                    at.tv_sec += 1;
                }
                e(libc::pthread_mutex_timedlock(m as *mut _, &at))
            }
        });
        say("timedlock", t.join().unwrap());
    }
}
