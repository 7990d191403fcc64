//! File locks (flock, POSIX, open file description, leases) and inotify.

use crate::sys::*;
use crate::{c, cases};

cases! {
    flock_basics, flock_inheritance, posix_basics, posix_ranges, posix_owner_rules, posix_deadlock, posix_wait, ofd_locks, lock_errors, proc_locks,
    leases, lease_breaking, write_leases, directory_signals, inotify_basics, inotify_names, inotify_moves, inotify_masks, inotify_errors, inotify_queue,
}

fn flock(fd: i32, op: i32) -> R {
    c!(libc::flock(fd, op))
}

fn flock_basics() {
    put("f", b"");
    let (a, b) = (open("f", libc::O_RDWR).fd(), open("f", libc::O_RDONLY).fd());
    say("shared", flock(a, libc::LOCK_SH));
    say("shared too", flock(b, libc::LOCK_SH | libc::LOCK_NB));
    say("exclusive while shared", flock(a, libc::LOCK_EX | libc::LOCK_NB));
    say("a failed conversion loses nothing it can keep", flock(a, libc::LOCK_SH | libc::LOCK_NB));
    say("unlock", flock(b, libc::LOCK_UN));
    say("convert", flock(a, libc::LOCK_EX | libc::LOCK_NB));
    say("other shared", flock(b, libc::LOCK_SH | libc::LOCK_NB));
    let d = c!(libc::dup(a)).fd();
    say("dup is the same lock", flock(d, libc::LOCK_EX | libc::LOCK_NB));
    close(a);
    say("closing one of two keeps it", flock(b, libc::LOCK_SH | libc::LOCK_NB));
    close(d);
    say("closing the last frees it", flock(b, libc::LOCK_EX | libc::LOCK_NB));
    say("unlock without lock", flock(open("f", 0).fd(), libc::LOCK_UN));
    say("bad operation", flock(b, 0));
    say("bad fd", flock(999, libc::LOCK_SH));
}

fn flock_inheritance() {
    put("f", b"");
    let a = open("f", libc::O_RDWR).fd();
    flock(a, libc::LOCK_EX);
    let s = in_child(|| {
        say("child has it by inheritance", flock(a, libc::LOCK_EX | libc::LOCK_NB));
        say("child's own open", flock(open("f", 0).fd(), libc::LOCK_SH | libc::LOCK_NB));
        close(a);
        0
    });
    say("child", s);
    let b = open("f", 0).fd();
    say("child's close frees nothing", flock(b, libc::LOCK_SH | libc::LOCK_NB));
    in_child(|| {
        flock(a, libc::LOCK_UN);
        0
    });
    say("child's unlock does", flock(b, libc::LOCK_SH | libc::LOCK_NB));
    flock(b, libc::LOCK_UN);
    flock(a, libc::LOCK_EX);
    let pid = child(|| {
        let c2 = open("f", 0).fd();
        flock(c2, libc::LOCK_SH).is_ok() as i32
    });
    await_sleep(pid);
    flock(a, libc::LOCK_UN);
    say("a waiter gets it", reap(pid));
}

fn fl(kind: i32, start: i64, len: i64) -> libc::flock {
    let mut l: libc::flock = unsafe { std::mem::zeroed() };
    l.l_type = kind as i16;
    l.l_whence = libc::SEEK_SET as i16;
    l.l_start = start;
    l.l_len = len;
    l
}

fn setlk(fd: i32, kind: i32, start: i64, len: i64) -> R {
    let l = fl(kind, start, len);
    c!(libc::fcntl(fd, libc::F_SETLK, &l))
}

fn getlk(fd: i32, kind: i32, start: i64, len: i64, owner: i32) -> String {
    let mut l = fl(kind, start, len);
    let r = c!(libc::fcntl(fd, libc::F_GETLK, &mut l));
    if !r.is_ok() {
        return r.to_string();
    }
    let k = ["read", "write", "unlocked"][l.l_type as usize];
    if l.l_type as i32 == libc::F_UNLCK {
        return k.into();
    }
    format!("{k} {}+{} by owner {}", l.l_start, l.l_len, l.l_pid == owner)
}

const RD: i32 = libc::F_RDLCK;
const WR: i32 = libc::F_WRLCK;
const UN: i32 = libc::F_UNLCK;

fn posix_basics() {
    put("f", &[0; 100]);
    let fd = open("f", libc::O_RDWR).fd();
    say("write lock", setlk(fd, WR, 10, 20));
    let me = getpid();
    let s = in_child(|| {
        let fd = open("f", libc::O_RDWR).fd();
        say("child: get inside", getlk(fd, WR, 15, 1, me));
        say("child: get outside", getlk(fd, WR, 50, 10, me));
        say("child: overlapping read", setlk(fd, RD, 0, 11));
        say("child: next to it", setlk(fd, WR, 30, 10));
        say("child: inherited descriptor has no lock", setlk(fd, WR, 10, 1));
        0
    });
    say("child", s);
    say("own lock does not conflict", getlk(fd, WR, 10, 20, me));
    say("to the end of file", setlk(fd, WR, 0, 0));
    in_child(|| {
        say("child: far away", getlk(open("f", libc::O_RDWR).fd(), RD, 1 << 40, 1, me));
        0
    });
    say("negative length", setlk(fd, RD, 50, -10));
    in_child(|| {
        say("child: sees", getlk(open("f", libc::O_RDWR).fd(), WR, 45, 1, me));
        0
    });
}

fn posix_ranges() {
    put("f", &[0; 100]);
    let fd = open("f", libc::O_RDWR).fd();
    let me = getpid();
    let view = |name: &str| {
        in_child(|| {
            let fd = open("f", libc::O_RDWR).fd();
            let mut out = Vec::new();
            let mut at = 0;
            while at < 100 {
                let mut l = fl(WR, at, 100 - at);
                unsafe { libc::fcntl(fd, libc::F_GETLK, &mut l) };
                if l.l_type as i32 == UN {
                    break;
                }
                out.push(format!(
                    "{}{}+{}",
                    if l.l_type as i32 == RD { "r" } else { "w" },
                    l.l_start,
                    l.l_len
                ));
                at = l.l_start + l.l_len;
            }
            say(name, out.join(" "));
            0
        });
    };
    let _ = me;
    setlk(fd, WR, 10, 30);
    setlk(fd, UN, 20, 5);
    view("unlock in the middle splits");
    setlk(fd, RD, 12, 4);
    view("read inside write");
    setlk(fd, WR, 12, 4);
    view("written again, merged");
    setlk(fd, WR, 20, 5);
    view("gap filled");
    setlk(fd, WR, 40, 10);
    view("adjacent joined");
    setlk(fd, RD, 0, 60);
    view("replaced by one");
    setlk(fd, UN, 0, 0);
    view("all freed");
}

fn posix_owner_rules() {
    put("f", &[0; 10]);
    let a = open("f", libc::O_RDWR).fd();
    setlk(a, WR, 0, 10);
    let check = |n: &str| {
        in_child(|| {
            let fd = open("f", libc::O_RDWR).fd();
            say(n, setlk(fd, WR, 0, 1));
            0
        });
    };
    check("held");
    let b = open("f", libc::O_RDONLY).fd();
    close(b);
    check("closing any descriptor of the file frees the process's locks");
    setlk(a, WR, 0, 10);
    in_child(|| {
        close(a);
        0
    });
    check("a child's close does not");
    std::thread::spawn(move || say("threads share", setlk(a, WR, 0, 10))).join().unwrap();
    let s = in_child(|| {
        setlk(a, WR, 50, 10);
        0
    });
    say("child", s);
    in_child(|| {
        say("freed by the exit of its owner", setlk(open("f", libc::O_RDWR).fd(), WR, 50, 1));
        0
    });
}

fn posix_deadlock() {
    put("f", &[0; 10]);
    let fd = open("f", libc::O_RDWR).fd();
    setlk(fd, WR, 0, 1);
    let ready = Event::new();
    let pid = child(|| {
        setlk(fd, WR, 1, 1);
        ready.post();
        let l = fl(WR, 0, 1);
        c!(libc::fcntl(fd, libc::F_SETLKW, &l)).is_ok() as i32
    });
    ready.wait();
    await_sleep(pid);
    let l = fl(WR, 1, 1);
    say("the second of a cycle", c!(libc::fcntl(fd, libc::F_SETLKW, &l)));
    setlk(fd, UN, 0, 1);
    say("the first gets its lock", reap(pid));
}

fn posix_wait() {
    put("f", &[0; 10]);
    let fd = open("f", libc::O_RDWR).fd();
    setlk(fd, WR, 0, 10);
    let kids: Vec<i32> = (0..3)
        .map(|_| {
            let p = child(|| {
                let l = fl(RD, 0, 10);
                c!(libc::fcntl(fd, libc::F_SETLKW, &l)).is_ok() as i32
            });
            await_sleep(p);
            p
        })
        .collect();
    setlk(fd, UN, 0, 0);
    for k in kids {
        say("reader", reap(k));
    }
}

fn ofd_locks() {
    put("f", &[0; 100]);
    let (a, b) = (open("f", libc::O_RDWR).fd(), open("f", libc::O_RDWR).fd());
    let set = |fd: i32, k: i32, s: i64, n: i64| {
        let l = fl(k, s, n);
        c!(libc::fcntl(fd, libc::F_OFD_SETLK, &l))
    };
    say("lock", set(a, WR, 0, 10));
    say("another open of the same process conflicts", set(b, WR, 5, 1));
    let mut l = fl(WR, 0, 1);
    unsafe { libc::fcntl(b, libc::F_OFD_GETLK, &mut l) };
    say("owner is reported as -1", l.l_pid);
    let d = c!(libc::dup(a)).fd();
    say("dup is the same owner", set(d, WR, 0, 20));
    let other = open("f", 0).fd();
    close(other);
    say("closing another open keeps it", set(b, WR, 0, 1));
    say("a POSIX lock of the same process conflicts", setlk(b, WR, 0, 1));
    let mut l = fl(WR, 50, 1);
    l.l_pid = 5;
    say("pid must be 0", c!(libc::fcntl(a, libc::F_OFD_SETLK, &l)));
    let s = in_child(|| set(a, WR, 30, 1).is_ok() as i32);
    say("child through the inherited one", s);
    say("and it is the parent's too", set(b, WR, 30, 1));
    close(a);
    close(d);
    say("freed at the last close", set(b, WR, 0, 100));
}

fn lock_errors() {
    put("f", &[0; 10]);
    let r = open("f", libc::O_RDONLY).fd();
    let w = open("f", libc::O_WRONLY).fd();
    say("write lock on read-only", setlk(r, WR, 0, 1));
    say("read lock on write-only", setlk(w, RD, 0, 1));
    say("bad type", setlk(r, 9, 0, 1));
    say("negative start", setlk(r, RD, -1, 1));
    say("start below 0 by length", setlk(r, RD, 5, -10));
    let mut l = fl(RD, 0, 1);
    l.l_whence = 9;
    say("bad whence", c!(libc::fcntl(r, libc::F_SETLK, &l)));
    l.l_whence = libc::SEEK_END as i16;
    l.l_start = -5;
    say("from the end", c!(libc::fcntl(r, libc::F_SETLK, &l)));
    say("overflow", setlk(r, RD, i64::MAX, 2));
    say("get with unlock type", getlk(r, UN, 0, 1, 0));
    say("bad pointer", c!(libc::fcntl(r, libc::F_SETLK, 8)));
    say("pipe", setlk(pipe().0, RD, 0, 1));
}

fn proc_locks() {
    put("f", &[0; 10]);
    let fd = open("f", libc::O_RDWR).fd();
    setlk(fd, WR, 3, 4);
    let g = open("f", libc::O_RDWR).fd();
    let ino = {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata("f").unwrap().ino()
    };
    flock(g, libc::LOCK_SH);
    let text = std::fs::read_to_string("/proc/locks").unwrap();
    let mut mine: Vec<String> = text
        .lines()
        .filter(|l| l.contains(&format!(":{ino} ")) && l.contains(&format!(" {} ", getpid())))
        .map(|l| {
            let w: Vec<&str> = l.split_whitespace().collect();
            format!("{} {} {} {} {}", w[1], w[2], w[3], w[6], w[7])
        })
        .collect();
    mine.sort();
    for l in mine {
        say("line", l);
    }
}

fn leases() {
    put("f", b"");
    let fd = open("f", libc::O_RDONLY).fd();
    say("none", c!(libc::fcntl(fd, libc::F_GETLEASE)));
    say("read lease", c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK)));
    say("get", c!(libc::fcntl(fd, libc::F_GETLEASE)));
    mask(libc::SIG_BLOCK, &[libc::SIGIO]);
    say("non-blocking open for writing", open("f", libc::O_WRONLY | libc::O_NONBLOCK));
    say("holder is told", {
        let t = libc::timespec { tv_sec: 10, tv_nsec: 0 };
        signal_name(
            c!(libc::sigtimedwait(&sigset(&[libc::SIGIO]), std::ptr::null_mut(), &t)).0 as i32,
        )
    });
    say("release", c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK)));
    say("then", open("f", libc::O_WRONLY | libc::O_NONBLOCK).ok());
    say("read lease while open for writing", c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK)));
    say("bad type", c!(libc::fcntl(fd, libc::F_SETLEASE, 77)));
    say("pipe", c!(libc::fcntl(pipe().0, libc::F_SETLEASE, libc::F_RDLCK)));
}

/// Takes SIGIO or `sig`, which is blocked, and says what came with it.
fn taken(sig: i32) -> String {
    let t = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    let mut i: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let r = c!(libc::sigtimedwait(&sigset(&[sig]), &mut i, &t));
    if !r.is_ok() {
        return r.to_string();
    }
    // si_band and si_fd follow the three leading ints.
    let fd = unsafe { (&raw const i).cast::<i32>().add(6).read() };
    let code = i.si_code;
    if code == 0x80 { "from the kernel".into() } else { format!("code {code} descriptor {fd}") }
}

/// True when no `sig` is waiting.
fn none_waiting(sig: i32) -> bool {
    let t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    !c!(libc::sigtimedwait(&sigset(&[sig]), std::ptr::null_mut(), &t)).is_ok()
}

fn lease_breaking() {
    put("f", b"content");
    mask(libc::SIG_BLOCK, &[libc::SIGIO, libc::SIGUSR1]);
    let fd = open("f", libc::O_RDONLY).fd();
    c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK));
    say("reading breaks no read lease", open("f", libc::O_RDONLY | libc::O_NONBLOCK).ok());
    let opened = Event::new();
    let pid = child(|| {
        let r = open("f", libc::O_WRONLY);
        opened.post();
        r.is_ok() as i32
    });
    say("a writer is told of", taken(libc::SIGIO));
    await_sleep(pid);
    say("while broken", c!(libc::fcntl(fd, libc::F_GETLEASE)));
    say("release", c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK)));
    opened.wait();
    say("then the writer goes on", reap(pid));
    say("none left", c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK)));
    // With a signal of one's own: which descriptor it was.
    c!(libc::fcntl(fd, 10, libc::SIGUSR1));
    c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK));
    let pid = child(|| c!(libc::truncate(c"f".as_ptr(), 3)).is_ok() as i32);
    say("truncation", taken(libc::SIGUSR1) == format!("code 3 descriptor {fd}"));
    close(fd);
    say("closing ends the lease", reap(pid));
    say("content", get("f"));
}

fn write_leases() {
    put("f", b"content");
    mask(libc::SIG_BLOCK, &[libc::SIGIO]);
    let other = open("f", libc::O_RDONLY).fd();
    let fd = open("f", libc::O_RDWR).fd();
    say("while open elsewhere", c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK)));
    close(other);
    say("write lease", c!(libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK)));
    say("get", c!(libc::fcntl(fd, libc::F_GETLEASE)));
    let t = std::fs::read_to_string("/proc/locks").unwrap();
    let lines = t.lines().filter(|l| l.contains(&format!(" {} ", getpid())));
    for l in lines {
        let w: Vec<&str> = l.split_whitespace().collect();
        say("line", format!("{} {} {}", w[1], w[2], w[3]));
    }
    say("reader", open("f", libc::O_RDONLY | libc::O_NONBLOCK));
    say("holder is told", taken(libc::SIGIO));
    say("to become", c!(libc::fcntl(fd, libc::F_GETLEASE)));
    close(fd);
    let ro = open("f", libc::O_RDONLY).fd();
    say("read lease", c!(libc::fcntl(ro, libc::F_SETLEASE, libc::F_RDLCK)));
    say("raised", c!(libc::fcntl(ro, libc::F_SETLEASE, libc::F_WRLCK)));
    say("lowered", c!(libc::fcntl(ro, libc::F_SETLEASE, libc::F_RDLCK)));
    say("directory", c!(libc::fcntl(open(".", 0).fd(), libc::F_SETLEASE, libc::F_RDLCK)));
}

fn directory_signals() {
    std::fs::create_dir("d").unwrap();
    put("d/old", b"x");
    mask(libc::SIG_BLOCK, &[libc::SIGIO, libc::SIGUSR1]);
    let fd = open("d", libc::O_RDONLY).fd();
    const CREATE: u64 = 4;
    const DELETE: u64 = 8;
    const MULTISHOT: u64 = 0x8000_0000;
    let notify = |fd: i32, m: u64| c!(libc::fcntl(fd, libc::F_NOTIFY, m));
    say("create", notify(fd, CREATE));
    std::fs::remove_file("d/old").unwrap();
    say("a deletion is not asked for", none_waiting(libc::SIGIO));
    put("d/new", b"x");
    say("a creation is", taken(libc::SIGIO));
    put("d/new2", b"x");
    say("once only", none_waiting(libc::SIGIO));
    c!(libc::fcntl(fd, 10, libc::SIGUSR1));
    say("again and again", notify(fd, CREATE | DELETE | MULTISHOT));
    for _ in 0..2 {
        std::fs::remove_file("d/new").unwrap();
        say("deletion", taken(libc::SIGUSR1) == format!("code 3 descriptor {fd}"));
        put("d/new", b"x");
        say("creation", taken(libc::SIGUSR1) == format!("code 3 descriptor {fd}"));
    }
    say("no more", notify(fd, 0));
    std::fs::remove_file("d/new").unwrap();
    say("silence", none_waiting(libc::SIGUSR1));
    say("a file", notify(open("d/new2", 0).fd(), CREATE));
    say("unknown bits", notify(fd, 0x100));
    say("bad descriptor", notify(999, CREATE));
}

/// All events waiting, as text; watches are numbered by their order.
fn events(fd: i32, watches: &[i32]) -> String {
    let b = match read(fd, 16384) {
        Ok(b) => b,
        Err(r) => return r.to_string(),
    };
    const NAMES: &[(u32, &str)] = &[
        (0x1, "ACCESS"),
        (0x2, "MODIFY"),
        (0x4, "ATTRIB"),
        (0x8, "CLOSE_WRITE"),
        (0x10, "CLOSE_NOWRITE"),
        (0x20, "OPEN"),
        (0x40, "MOVED_FROM"),
        (0x80, "MOVED_TO"),
        (0x100, "CREATE"),
        (0x200, "DELETE"),
        (0x400, "DELETE_SELF"),
        (0x800, "MOVE_SELF"),
        (0x2000, "UNMOUNT"),
        (0x4000, "Q_OVERFLOW"),
        (0x8000, "IGNORED"),
        (0x4000_0000, "ISDIR"),
    ];
    let mut out = Vec::new();
    let mut cookies: Vec<u32> = Vec::new();
    let mut o = 0;
    while o + 16 <= b.len() {
        let w = |i: usize| u32::from_ne_bytes(b[o + i..o + i + 4].try_into().unwrap());
        let (wd, m, cookie, len) = (w(0) as i32, w(4), w(8), w(12) as usize);
        let name = &b[o + 16..o + 16 + len];
        let name = String::from_utf8_lossy(&name[..name.iter().position(|c| *c == 0).unwrap_or(0)])
            .into_owned();
        let kinds: Vec<&str> = NAMES.iter().filter(|(v, _)| m & v != 0).map(|(_, n)| *n).collect();
        let ck = match cookie {
            0 => String::new(),
            c => {
                if !cookies.contains(&c) {
                    cookies.push(c);
                }
                format!("#{}", cookies.iter().position(|x| *x == c).unwrap())
            }
        };
        let i = watches.iter().position(|x| *x == wd).map_or("?".into(), |i| i.to_string());
        out.push(format!(
            "{i}:{}{}{ck}",
            kinds.join("|"),
            if name.is_empty() { String::new() } else { format!("({name})") }
        ));
        o += 16 + len;
    }
    out.join(" ")
}

fn init() -> i32 {
    c!(libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC)).fd()
}

fn watch(fd: i32, p: &str, m: u32) -> R {
    let p = cstr(p);
    c!(libc::inotify_add_watch(fd, p.as_ptr(), m))
}

fn inotify_basics() {
    put("f", b"12");
    let i = init();
    say("empty", events(i, &[]));
    let w = watch(i, "f", libc::IN_ALL_EVENTS).0 as i32;
    let fd = open("f", libc::O_RDWR).fd();
    let _ = read(fd, 1);
    write(fd, b"x");
    write(fd, b"y");
    unsafe { libc::fchmod(fd, 0o600) };
    close(fd);
    close(open("f", 0).fd());
    say("life of a file", events(i, &[w]));
    unsafe { libc::truncate(c"f".as_ptr(), 0) };
    say("truncate", events(i, &[w]));
    unsafe { libc::link(c"f".as_ptr(), c"g".as_ptr()) };
    say("link", events(i, &[w]));
    std::fs::remove_file("f").unwrap();
    say("unlink, a link remains", events(i, &[w]));
    std::fs::remove_file("g").unwrap();
    say("last link", events(i, &[w]));
    say("watch is gone", c!(libc::inotify_rm_watch(i, w)));
}

fn inotify_names() {
    std::fs::create_dir("d").unwrap();
    let i = init();
    let w =
        watch(i, "d", libc::IN_CREATE | libc::IN_DELETE | libc::IN_CLOSE_WRITE | libc::IN_ATTRIB).0
            as i32;
    put("d/file", b"x");
    std::fs::create_dir("d/sub").unwrap();
    std::os::unix::fs::symlink("x", "d/link").unwrap();
    unsafe { libc::chmod(c"d/file".as_ptr(), 0o600) };
    unsafe { libc::mkfifo(c"d/fifo".as_ptr(), 0o600) };
    std::fs::remove_file("d/file").unwrap();
    std::fs::remove_dir("d/sub").unwrap();
    say("names", events(i, &[w]));
    // In an order of our own: a listing has that of the filesystem.
    std::fs::remove_file("d/fifo").unwrap();
    std::fs::remove_file("d/link").unwrap();
    std::fs::remove_dir("d").unwrap();
    say("directory removed", events(i, &[w]));
}

fn inotify_moves() {
    std::fs::create_dir("a").unwrap();
    std::fs::create_dir("b").unwrap();
    put("a/f", b"");
    put("a/g", b"");
    let i = init();
    let m = libc::IN_MOVE | libc::IN_MOVE_SELF | libc::IN_DELETE_SELF;
    let ws = [watch(i, "a", m).0 as i32, watch(i, "b", m).0 as i32, watch(i, "a/f", m).0 as i32];
    std::fs::rename("a/f", "b/f2").unwrap();
    say("between directories", events(i, &ws));
    std::fs::rename("a/g", "a/h").unwrap();
    say("within one", events(i, &ws));
    put("b/over", b"");
    let w2 = [ws[0], ws[1], ws[2], watch(i, "b/over", m).0 as i32];
    std::fs::rename("b/f2", "b/over").unwrap();
    say("over another", events(i, &w2));
    std::fs::rename("b", "c").unwrap();
    say("the directory itself", events(i, &w2));
}

fn inotify_masks() {
    put("f", b"");
    let i = init();
    let w = watch(i, "f", libc::IN_OPEN);
    say("same watch for the same file", watch(i, "f", libc::IN_CLOSE) == w);
    close(open("f", 0).fd());
    say("mask replaced", events(i, &[w.0 as i32]));
    watch(i, "f", libc::IN_OPEN | libc::IN_MASK_ADD);
    close(open("f", 0).fd());
    say("mask added", events(i, &[w.0 as i32]));
    say("IN_MASK_CREATE", watch(i, "f", libc::IN_OPEN | 0x1000_0000));
    say("ONESHOT", watch(i, "f", libc::IN_OPEN | libc::IN_ONESHOT) == w);
    close(open("f", 0).fd());
    close(open("f", 0).fd());
    say("one event, then ignored", events(i, &[w.0 as i32]));
    say("ONLYDIR on a file", watch(i, "f", libc::IN_OPEN | libc::IN_ONLYDIR));
    std::os::unix::fs::symlink("f", "l").unwrap();
    let l = watch(i, "l", libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_DONT_FOLLOW);
    let w = watch(i, "l", libc::IN_OPEN);
    say("link and its target are two", l != w);
    std::fs::remove_file("l").unwrap();
    say("link removed", events(i, &[w.0 as i32, l.0 as i32]));
}

fn inotify_errors() {
    put("f", b"");
    let i = init();
    say("missing", watch(i, "none", libc::IN_OPEN));
    say("no mask", watch(i, "f", 0));
    say("not an inotify", watch(0, "f", libc::IN_OPEN));
    say("bad fd", watch(999, "f", libc::IN_OPEN));
    say("remove bad", c!(libc::inotify_rm_watch(i, 99)));
    let w = watch(i, "f", libc::IN_OPEN).0 as i32;
    say("remove", c!(libc::inotify_rm_watch(i, w)));
    say("ignored event", events(i, &[w]));
    say("init flags", c!(libc::inotify_init1(0x1)));
    say("write", write(i, b"x"));
    watch(i, "f", libc::IN_OPEN);
    close(open("f", 0).fd());
    say("short buffer", read_text(i, 8));
    unsafe { libc::chmod(c"f".as_ptr(), 0o200) };
    say("not readable", watch(i, "f", libc::IN_ATTRIB | libc::IN_MODIFY));
}

fn inotify_queue() {
    put("f", b"");
    let i = init();
    let w = watch(i, "f", libc::IN_OPEN | libc::IN_CLOSE).0 as i32;
    let mut p = libc::pollfd { fd: i, events: libc::POLLIN, revents: 0 };
    say("poll empty", c!(libc::poll(&mut p, 1, 0)));
    for _ in 0..3 {
        close(open("f", 0).fd());
    }
    let mut n = 0i32;
    unsafe { libc::ioctl(i, libc::FIONREAD, &mut n) };
    say("FIONREAD", n);
    say("poll", c!(libc::poll(&mut p, 1, 0)));
    say("a part", read(i, 40).unwrap().len());
    say("the rest", events(i, &[w]));
    // Equal events that follow each other are one.
    let w2 = watch(i, "f", libc::IN_MODIFY).0 as i32;
    let fd = open("f", libc::O_WRONLY).fd();
    for _ in 0..5 {
        write(fd, b"x");
    }
    say("merged", events(i, &[w2]));
    unsafe { libc::fcntl(i, libc::F_SETFL, 0) };
    let pid = child(|| {
        let b = read(i, 100).unwrap();
        b.len() as i32
    });
    await_sleep(pid);
    write(fd, b"x");
    say("sleeping reader woken", reap(pid));
}
