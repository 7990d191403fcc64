//! System V shared memory, semaphores and message queues; POSIX shared memory, semaphores and message queues.

use crate::sys::*;
use crate::{c, cases, sc};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

cases! {
    shm_basics, shm_rules, shm_fork_exec, shm_permissions, sem_basics, sem_blocking, sem_undo, sem_undo_lists, sem_errors, msg_basics, msg_types, msg_blocking, msg_errors,
    posix_shm, posix_sem_named, mq_basics, mq_blocking, mq_notify, mq_errors, keys,
}

const PRIV: i32 = libc::IPC_PRIVATE;
const RMID: i32 = libc::IPC_RMID;

fn shm_basics() {
    let id = c!(libc::shmget(PRIV, 10_000, 0o600));
    say("get", id.ok());
    let id = id.0 as i32;
    let p = unsafe { libc::shmat(id, std::ptr::null(), 0) }.cast::<u8>();
    say("attach", p as isize != -1);
    say("zero", unsafe { (0..10_000).all(|i| *p.add(i) == 0) });
    unsafe { *p = 7 };
    let q = unsafe { libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY) }.cast::<u8>();
    say("second attach shares", unsafe { q.read_volatile() });
    let mut ds: libc::shmid_ds = unsafe { std::mem::zeroed() };
    say("stat", c!(libc::shmctl(id, libc::IPC_STAT, &mut ds)));
    say("size attaches mode", format!("{} {} {:o}", ds.shm_segsz, ds.shm_nattch, ds.shm_perm.mode));
    say("creator", ds.shm_cpid == getpid());
    say(
        "write through read-only",
        in_child(|| {
            set_action(libc::SIGSEGV, libc::SIG_DFL);
            unsafe { q.write_volatile(1) };
            0
        }),
    );
    say("remove while attached", c!(libc::shmctl(id, RMID, std::ptr::null_mut())));
    say("still usable", unsafe { p.read_volatile() });
    say("attach of a removed one", c!(libc::shmat(id, std::ptr::null(), 0)).ok());
    say("detach", c!(libc::shmdt(p.cast())));
    say("detach again", c!(libc::shmdt(p.cast())));
    say("other", c!(libc::shmdt(q.cast())));
    say("gone", c!(libc::shmctl(id, libc::IPC_STAT, &mut ds)));
}

fn shm_rules() {
    say("size 0", c!(libc::shmget(PRIV, 0, 0o600)));
    say("key that is not there", c!(libc::shmget(0x4711_0815, 100, 0)));
    let k = 0x0600_0000 | (getpid() & 0xff_ffff);
    let id = c!(libc::shmget(k, 100, libc::IPC_CREAT | libc::IPC_EXCL | 0o600)).0 as i32;
    say("exclusive again", c!(libc::shmget(k, 100, libc::IPC_CREAT | libc::IPC_EXCL | 0o600)));
    say("open", c!(libc::shmget(k, 100, 0)) == R(id.into()));
    say("smaller is fine", c!(libc::shmget(k, 1, 0)) == R(id.into()));
    say("bigger is not", c!(libc::shmget(k, 10_000, 0)));
    say("attach not aligned", c!(libc::shmat(id, 0x1000_0001 as *const _, 0)).ok());
    let p = c!(libc::shmat(id, 0x1000_0001 as *const _, libc::SHM_RND));
    say("SHM_RND", p.0);
    say("taken address", c!(libc::shmat(id, p.0 as *const _, 0)).ok());
    say("SHM_REMAP", c!(libc::shmat(id, p.0 as *const _, libc::SHM_REMAP)) == p);
    say("bad id", c!(libc::shmat(-1, std::ptr::null(), 0)).ok());
    say("bad command", c!(libc::shmctl(id, 99, std::ptr::null_mut())));
    say("stat bad pointer", sc!(libc::SYS_shmctl, id, libc::IPC_STAT, 8));
    c!(libc::shmctl(id, RMID, std::ptr::null_mut()));
    say("key free at once", c!(libc::shmget(k, 100, 0)));
    // More than there can be.
    for size in [i64::MAX as usize, i64::MAX as usize - (32 << 20), usize::MAX] {
        say(&format!("size {size:#x}"), c!(libc::shmget(PRIV, size, 0o600)));
    }
}

fn shm_fork_exec() {
    let id = c!(libc::shmget(PRIV, 4096, 0o600)).0 as i32;
    let p = unsafe { &*libc::shmat(id, std::ptr::null(), 0).cast::<AtomicI32>() };
    let s = in_child(|| {
        p.store(33, SeqCst);
        let mut ds: libc::shmid_ds = unsafe { std::mem::zeroed() };
        c!(libc::shmctl(id, libc::IPC_STAT, &mut ds));
        ds.shm_nattch as i32
    });
    say("attaches in the child", s);
    say("child's write", p.load(SeqCst));
    let mut ds: libc::shmid_ds = unsafe { std::mem::zeroed() };
    c!(libc::shmctl(id, libc::IPC_STAT, &mut ds));
    say("after its exit", ds.shm_nattch);
    let t = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    say("listed", t.lines().any(|l| l.split_whitespace().nth(1) == Some(&id.to_string())));
    let m = std::fs::read_to_string("/proc/self/maps").unwrap();
    say("maps name", m.lines().filter(|l| l.contains("/SYSV00000000")).count());
    c!(libc::shmctl(id, RMID, std::ptr::null_mut()));
    c!(libc::shmctl(id, libc::IPC_STAT, &mut ds));
    say("destroyed flag", format!("{:#o}", ds.shm_perm.mode & 0o1000));
}

fn shm_permissions() {
    let id = c!(libc::shmget(PRIV, 4096, 0o400)).0 as i32;
    say("attach read-write without w", c!(libc::shmat(id, std::ptr::null(), 0)).ok());
    say("read-only", c!(libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY)).ok());
    let mut ds: libc::shmid_ds = unsafe { std::mem::zeroed() };
    c!(libc::shmctl(id, libc::IPC_STAT, &mut ds));
    ds.shm_perm.mode = 0o600;
    say("set", c!(libc::shmctl(id, libc::IPC_SET, &mut ds)));
    say("attach", c!(libc::shmat(id, std::ptr::null(), 0)).ok());
    c!(libc::shmctl(id, RMID, std::ptr::null_mut()));
}

fn semop(id: i32, ops: &[(u16, i16, i32)]) -> R {
    let v: Vec<libc::sembuf> = ops
        .iter()
        .map(|(n, o, f)| libc::sembuf { sem_num: *n, sem_op: *o, sem_flg: *f as i16 })
        .collect();
    c!(libc::semop(id, v.as_ptr().cast_mut(), v.len()))
}

const NW: i32 = libc::IPC_NOWAIT;

fn sem_basics() {
    let id = c!(libc::semget(PRIV, 3, 0o600)).0 as i32;
    let val = |n: i32| c!(libc::semctl(id, n, libc::GETVAL));
    say("start", format!("{} {} {}", val(0), val(1), val(2)));
    say("SETVAL", c!(libc::semctl(id, 0, libc::SETVAL, 5)));
    let all = [1u16, 2, 3];
    say("SETALL", c!(libc::semctl(id, 0, libc::SETALL, all.as_ptr())));
    let mut got = [0u16; 3];
    say("GETALL", c!(libc::semctl(id, 0, libc::GETALL, got.as_mut_ptr())));
    say("values", format!("{got:?}"));
    say("op +2 -1", semop(id, &[(0, 2, 0), (1, -1, 0)]));
    say("values", format!("{} {} {}", val(0), val(1), val(2)));
    say("all or nothing", semop(id, &[(0, -1, NW), (2, -9, NW)]));
    say("values", format!("{} {} {}", val(0), val(1), val(2)));
    say("wait for zero, not zero", semop(id, &[(2, 0, NW)]));
    say("same semaphore twice", semop(id, &[(2, -3, NW), (2, 0, NW), (2, 4, NW)]));
    say("value", val(2));
    say("GETPID", c!(libc::semctl(id, 0, libc::GETPID)) == R(getpid().into()));
    say(
        "GETNCNT GETZCNT",
        format!(
            "{} {}",
            c!(libc::semctl(id, 0, libc::GETNCNT)),
            c!(libc::semctl(id, 0, libc::GETZCNT))
        ),
    );
    say("remove", c!(libc::semctl(id, 0, RMID)));
    say("after", val(0));
}

fn sem_blocking() {
    let id = c!(libc::semget(PRIV, 1, 0o600)).0 as i32;
    let pid = child(|| semop(id, &[(0, -2, 0)]).is_ok() as i32);
    await_sleep(pid);
    say("waiting", c!(libc::semctl(id, 0, libc::GETNCNT)));
    semop(id, &[(0, 1, 0)]);
    say("one is not enough", c!(libc::semctl(id, 0, libc::GETVAL)));
    semop(id, &[(0, 1, 0)]);
    say("two", reap(pid));
    say("value", c!(libc::semctl(id, 0, libc::GETVAL)));
    semop(id, &[(0, 1, 0)]);
    let pid = child(|| semop(id, &[(0, 0, 0)]).is_ok() as i32);
    await_sleep(pid);
    say("waiting for zero", c!(libc::semctl(id, 0, libc::GETZCNT)));
    semop(id, &[(0, -1, 0)]);
    say("zero", reap(pid));
    let t = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    let mut b = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
    say("semtimedop", sc!(libc::SYS_semtimedop, id, &mut b as *mut _, 1, &t as *const _));
    let pid = child(|| semop(id, &[(0, -1, 0)]).is(libc::EIDRM) as i32);
    await_sleep(pid);
    c!(libc::semctl(id, 0, RMID));
    say("removed while waiting", reap(pid));
}

fn sem_undo() {
    let id = c!(libc::semget(PRIV, 1, 0o600)).0 as i32;
    c!(libc::semctl(id, 0, libc::SETVAL, 5));
    let s = in_child(|| {
        semop(id, &[(0, -3, libc::SEM_UNDO)]);
        c!(libc::semctl(id, 0, libc::GETVAL)).0 as i32
    });
    say("inside", s);
    say("undone at exit", c!(libc::semctl(id, 0, libc::GETVAL)));
    let s = in_child(|| {
        semop(id, &[(0, 4, libc::SEM_UNDO)]);
        unsafe { libc::kill(getpid(), libc::SIGKILL) }
    });
    say("killed", s);
    say("undone too", c!(libc::semctl(id, 0, libc::GETVAL)));
    let s = in_child(|| {
        semop(id, &[(0, -3, libc::SEM_UNDO)]);
        c!(libc::semctl(id, 0, libc::SETVAL, 100));
        0
    });
    say("SETVAL clears undo", format!("{s} {}", c!(libc::semctl(id, 0, libc::GETVAL))));
    c!(libc::semctl(id, 0, RMID));
}

fn sem_errors() {
    say("0 semaphores", c!(libc::semget(PRIV, 0, 0o600)));
    say("negative", c!(libc::semget(PRIV, -1, 0o600)));
    say("too many", c!(libc::semget(PRIV, 1 << 30, 0o600)));
    let id = c!(libc::semget(PRIV, 2, 0o600)).0 as i32;
    say("number out of range", semop(id, &[(2, 1, 0)]));
    say("no operations", semop(id, &[]));
    say("501 operations", semop(id, &[(0, 1, 0); 501]));
    say("value over 32767", c!(libc::semctl(id, 0, libc::SETVAL, 40_000)));
    c!(libc::semctl(id, 0, libc::SETVAL, 32_767));
    say("overflow", semop(id, &[(0, 1, 0)]));
    say("bad id", semop(-1, &[(0, 1, 0)]));
    say("bad pointer", sc!(libc::SYS_semop, id, 8, 1));
    say("bad command", c!(libc::semctl(id, 0, 99)));
    say("GETVAL out of range", c!(libc::semctl(id, 5, libc::GETVAL)));
    c!(libc::semctl(id, 0, RMID));
}

fn snd(id: i32, t: i64, text: &[u8], f: i32) -> R {
    let mut b = t.to_ne_bytes().to_vec();
    b.extend_from_slice(text);
    c!(libc::msgsnd(id, b.as_ptr().cast(), text.len(), f))
}

fn rcv(id: i32, t: i64, n: usize, f: i32) -> String {
    let mut b = vec![0u8; n + 8];
    let r = c!(libc::msgrcv(id, b.as_mut_ptr().cast(), n, t, f));
    if !r.is_ok() {
        return r.to_string();
    }
    let ty = i64::from_ne_bytes(b[..8].try_into().unwrap());
    format!("{ty} {}", quoted(&b[8..8 + r.0 as usize]))
}

fn msg_basics() {
    let id = c!(libc::msgget(PRIV, 0o600)).0 as i32;
    say("send", snd(id, 1, b"first", 0));
    say("send", snd(id, 2, b"second", 0));
    say("empty text", snd(id, 3, b"", 0));
    let mut ds: libc::msqid_ds = unsafe { std::mem::zeroed() };
    say("stat", c!(libc::msgctl(id, libc::IPC_STAT, &mut ds)));
    say("count", ds.msg_qnum);
    say("any", rcv(id, 0, 100, NW));
    say("too big", rcv(id, 0, 3, NW));
    say("MSG_NOERROR cuts", rcv(id, 0, 3, NW | libc::MSG_NOERROR));
    say("any", rcv(id, 0, 100, NW));
    say("none", rcv(id, 0, 100, NW));
    say("remove", c!(libc::msgctl(id, RMID, std::ptr::null_mut())));
    say("after", snd(id, 1, b"x", NW));
}

fn msg_types() {
    let id = c!(libc::msgget(PRIV, 0o600)).0 as i32;
    for (t, x) in [(5, "five"), (3, "three"), (9, "nine"), (3, "three again"), (1, "one")] {
        snd(id, t, x.as_bytes(), 0);
    }
    say("type 3", rcv(id, 3, 50, NW));
    say("type 4", rcv(id, 4, 50, NW));
    say("lowest up to 5", rcv(id, -5, 50, NW));
    say("lowest up to 2", rcv(id, -2, 50, NW));
    say("not 5", rcv(id, 5, 50, NW | libc::MSG_EXCEPT));
    say("lowest up to 9", rcv(id, -9, 50, NW));
    say("rest", rcv(id, 0, 50, NW));
    c!(libc::msgctl(id, RMID, std::ptr::null_mut()));
}

fn msg_blocking() {
    let id = c!(libc::msgget(PRIV, 0o600)).0 as i32;
    let pid = child(|| (rcv(id, 7, 50, 0) == "7 \"wanted\"") as i32);
    await_sleep(pid);
    snd(id, 6, b"other", 0);
    snd(id, 7, b"wanted", 0);
    say("waits for its type", reap(pid));
    let mut n = 0;
    while snd(id, 1, &[0; 1000], NW).is_ok() {
        n += 1;
        if n > 1000 {
            break;
        }
    }
    say("queue is bounded", n < 1000);
    say("then", snd(id, 1, &[0; 1000], NW));
    let pid = child(|| snd(id, 2, &[0; 1000], 0).is_ok() as i32);
    await_sleep(pid);
    rcv(id, 0, 5000, NW);
    rcv(id, 0, 5000, NW);
    say("sender goes on", reap(pid));
    let pid = child(|| (rcv(id, 77, 50, 0) == "EIDRM") as i32);
    await_sleep(pid);
    c!(libc::msgctl(id, RMID, std::ptr::null_mut()));
    say("removed while waiting", reap(pid));
}

fn msg_errors() {
    let id = c!(libc::msgget(PRIV, 0o600)).0 as i32;
    say("type 0", snd(id, 0, b"x", NW));
    say("negative type", snd(id, -1, b"x", NW));
    say("too long", snd(id, 1, &[0; 100_000], NW));
    say("negative length", sc!(libc::SYS_msgsnd, id, [1i64, 0].as_ptr(), -1, NW));
    say("bad pointer", sc!(libc::SYS_msgsnd, id, 8, 4, NW));
    say("receive bad pointer", {
        snd(id, 1, b"data", 0);
        sc!(libc::SYS_msgrcv, id, 8, 10, 0, NW)
    });
    say("bad id", snd(-1, 1, b"x", NW));
    say("bad command", c!(libc::msgctl(id, 99, std::ptr::null_mut())));
    c!(libc::msgctl(id, RMID, std::ptr::null_mut()));
}

fn name() -> std::ffi::CString {
    cstr(&format!("/gt-{}", getpid()))
}

fn posix_shm() {
    let n = name();
    let fd = c!(libc::shm_open(n.as_ptr(), libc::O_CREAT | libc::O_EXCL | libc::O_RDWR, 0o600));
    say("create", fd.ok());
    let fd = fd.fd();
    say(
        "exclusive again",
        c!(libc::shm_open(n.as_ptr(), libc::O_CREAT | libc::O_EXCL | libc::O_RDWR, 0o600)),
    );
    say("size", c!(libc::ftruncate(fd, 8192)));
    let p =
        unsafe { libc::mmap(std::ptr::null_mut(), 8192, 3, libc::MAP_SHARED, fd, 0) }.cast::<u8>();
    unsafe { *p = 9 };
    let s = in_child(|| {
        let fd = c!(libc::shm_open(n.as_ptr(), libc::O_RDONLY, 0)).fd();
        read(fd, 1).unwrap()[0] as i32
    });
    say("another process opens it", s);
    say("unlink", c!(libc::shm_unlink(n.as_ptr())));
    say("unlink again", c!(libc::shm_unlink(n.as_ptr())));
    say("still mapped", unsafe { p.read_volatile() });
}

fn posix_sem_named() {
    let n = name();
    let s = unsafe { libc::sem_open(n.as_ptr(), libc::O_CREAT | libc::O_EXCL, 0o600, 0) };
    say("create", s != libc::SEM_FAILED);
    let pid = child(|| {
        let s = unsafe { libc::sem_open(n.as_ptr(), 0) };
        unsafe { libc::sem_wait(s) };
        5
    });
    await_sleep(pid);
    say("post", c!(libc::sem_post(s)));
    say("other process", reap(pid));
    let mut v = 9;
    c!(libc::sem_getvalue(s, &mut v));
    say("value", v);
    say("unlink", c!(libc::sem_unlink(n.as_ptr())));
}

fn mq(flags: i32, msgs: i64, size: i64) -> R {
    let mut a: libc::mq_attr = unsafe { std::mem::zeroed() };
    a.mq_maxmsg = msgs;
    a.mq_msgsize = size;
    let n = name();
    let r = sc!(
        libc::SYS_mq_open,
        n.as_ptr() as usize + 1,
        libc::O_CREAT | libc::O_RDWR | flags,
        0o600,
        &a as *const _
    );
    sc!(libc::SYS_mq_unlink, n.as_ptr() as usize + 1);
    r
}

fn mq_send(fd: i32, t: &[u8], prio: u32) -> R {
    c!(libc::mq_send(fd, t.as_ptr().cast(), t.len(), prio))
}

fn mq_recv(fd: i32, n: usize) -> String {
    let mut b = vec![0u8; n];
    let mut p = 99;
    let r = c!(libc::mq_receive(fd, b.as_mut_ptr().cast(), n, &mut p));
    if r.is_ok() { format!("{p} {}", quoted(&b[..r.0 as usize])) } else { r.to_string() }
}

fn mq_basics() {
    let fd = mq(libc::O_NONBLOCK, 4, 100).fd();
    for (p, t) in [(1, "low"), (5, "high"), (1, "low 2"), (3, "")] {
        say("send", mq_send(fd, t.as_bytes(), p));
    }
    say("full", mq_send(fd, b"x", 0));
    let mut a: libc::mq_attr = unsafe { std::mem::zeroed() };
    say("attributes", c!(libc::mq_getattr(fd, &mut a)));
    say("values", format!("{} {} {} {:o}", a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs, a.mq_flags));
    for _ in 0..4 {
        say("receive", mq_recv(fd, 100));
    }
    say("empty", mq_recv(fd, 100));
    say("buffer too small", mq_recv(fd, 99));
    say("message too long", mq_send(fd, &[0; 101], 0));
    say("priority too high", mq_send(fd, b"x", 32768));
    let mut p = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    unsafe { libc::poll(&mut p, 1, 0) };
    say("poll", p.revents);
}

fn mq_blocking() {
    let fd = mq(0, 2, 50).fd();
    let pid = child(|| (mq_recv(fd, 50) == "2 \"hello\"") as i32);
    await_sleep(pid);
    mq_send(fd, b"hello", 2);
    say("receiver", reap(pid));
    mq_send(fd, b"1", 0);
    mq_send(fd, b"2", 0);
    let pid = child(|| mq_send(fd, b"3", 0).is_ok() as i32);
    await_sleep(pid);
    mq_recv(fd, 50);
    say("sender", reap(pid));
    let past = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    say(
        "timed send when full",
        sc!(libc::SYS_mq_timedsend, fd, b"x".as_ptr(), 1, 0, &past as *const _),
    );
    let bad = libc::timespec { tv_sec: 1, tv_nsec: -1 };
    say("bad time", sc!(libc::SYS_mq_timedsend, fd, b"x".as_ptr(), 1, 0, &bad as *const _));
}

fn mq_notify() {
    let fd = mq(0, 2, 50).fd();
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    let mut ev: libc::sigevent = unsafe { std::mem::zeroed() };
    ev.sigev_notify = libc::SIGEV_SIGNAL;
    ev.sigev_signo = libc::SIGUSR1;
    say("register", sc!(libc::SYS_mq_notify, fd, &ev as *const _));
    say(
        "second registration",
        in_child(|| sc!(libc::SYS_mq_notify, fd, &ev as *const _).is(libc::EBUSY) as i32),
    );
    mq_send(fd, b"x", 0);
    let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
    say("signal", c!(libc::sigwaitinfo(&sigset(&[libc::SIGUSR1]), &mut i)));
    say("code is SI_MESGQ", i.si_code == -3);
    mq_send(fd, b"y", 0);
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    say(
        "once only",
        c!(libc::sigtimedwait(&sigset(&[libc::SIGUSR1]), std::ptr::null_mut(), &zero)),
    );
    say("unregister", sc!(libc::SYS_mq_notify, fd, 0));
}

fn mq_errors() {
    say("no message", mq(0, 0, 10));
    say("no size", mq(0, 10, 0));
    say("too many", mq(0, 1 << 40, 10));
    let n = name();
    say("missing", sc!(libc::SYS_mq_open, n.as_ptr() as usize + 1, libc::O_RDWR, 0, 0));
    say(
        "slash inside",
        sc!(libc::SYS_mq_open, c"a/b".as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600, 0),
    );
    say("unlink missing", sc!(libc::SYS_mq_unlink, n.as_ptr() as usize + 1));
    say("not a queue", mq_send(0, b"x", 0));
    say("bad fd", mq_send(999, b"x", 0));
}

fn keys() {
    let f = |id: u8| unsafe { libc::ftok(c"/proc".as_ptr(), id.into()) };
    say("ftok differs by id", f(1) != f(2) && f(1) == f(1));
    for (n, nr) in [("shm", libc::SYS_shmget), ("sem", libc::SYS_semget), ("msg", libc::SYS_msgget)]
    {
        let get = |a: usize, f: i32| {
            if nr == libc::SYS_msgget { sc!(nr, a, f) } else { sc!(nr, a, 1, f) }
        };
        say(n, get(0x1bad_0000 | (getpid() as usize & 0xffff), 0));
    }
}

/// kcmp(2) KCMP_SYSVSEM: processes without SEM_UNDO adjustments have the same list, none.
fn sem_undo_lists() {
    const SYSVSEM: i32 = 6;
    let id = c!(libc::semget(PRIV, 1, 0o600)).fd();
    let (r, w) = pipe();
    let pid = child(|| {
        read_text(r, 1);
        0
    });
    let compare = || sc!(libc::SYS_kcmp, getpid(), pid, SYSVSEM, 0, 0);
    say("both without", compare());
    let mut op = libc::sembuf { sem_num: 0, sem_op: 1, sem_flg: libc::SEM_UNDO as i16 };
    say("semop", c!(libc::semop(id, &mut op, 1)));
    say("one with", compare().0 > 0);
    say("itself", sc!(libc::SYS_kcmp, getpid(), getpid(), SYSVSEM, 0, 0));
    write(w, b"x");
    reap(pid);
    c!(libc::semctl(id, 0, RMID));
}
