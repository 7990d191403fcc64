//! memfd_secret(2): memory that nobody but its own mappings sees.

use crate::sys::*;
use crate::{c, cases, sc};

cases! { the_file, size, mapping, others, limits, forked, privileged: root }

const SECRET: i64 = 447;
const PAGE: usize = 4096;

fn secret() -> i32 {
    sc!(SECRET, 0).fd()
}

fn map(fd: i32, len: usize, prot: i32, flags: i32) -> Result<*mut u8, R> {
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
    if p == libc::MAP_FAILED { Err(last()) } else { Ok(p.cast()) }
}

fn outcome(r: Result<*mut u8, R>) -> String {
    r.map_or_else(|e| e.to_string(), |_| "ok".into())
}

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn the_file() {
    for flags in [1, 2, libc::O_NONBLOCK, libc::O_CLOEXEC | 1, -1] {
        say(&format!("flags {flags:#x}"), sc!(SECRET, flags).ok());
    }
    let fd = secret();
    say("descriptor flags", c!(libc::fcntl(fd, libc::F_GETFD)));
    say("cloexec", c!(libc::fcntl(sc!(SECRET, libc::O_CLOEXEC).fd(), libc::F_GETFD)));
    say("status flags", c!(libc::fcntl(fd, libc::F_GETFL)).0 & i64::from(libc::O_ACCMODE));
    say("name", std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display());
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    say("fstat", c!(libc::fstat(fd, &mut st)));
    say("mode", format!("{:o} {} {}", st.st_mode, st.st_size, st.st_nlink));
    say("owner", st.st_uid == unsafe { libc::geteuid() });
    say("read", read_text(fd, 8));
    say("write", write(fd, b"x"));
    say("pread", c!(libc::pread(fd, (&raw mut st).cast(), 8, 0)));
    say("lseek", c!(libc::lseek(fd, 0, libc::SEEK_SET)));
    say("fsync", c!(libc::fsync(fd)));
    say("fallocate", c!(libc::fallocate(fd, 0, 0, 4096)));
    say("ioctl", c!(libc::ioctl(fd, libc::TCGETS, 0)));
    say("seals", c!(libc::fcntl(fd, libc::F_GET_SEALS)));
    say("add seals", c!(libc::fcntl(fd, libc::F_ADD_SEALS, 1)));
    say("fchmod", c!(libc::fchmod(fd, 0o644)));
    say("open again", open(&format!("/proc/self/fd/{fd}"), libc::O_RDWR).ok());
    let (r, w) = pipe();
    write(w, b"x");
    say("splice to it", c!(libc::splice(r, std::ptr::null_mut(), fd, std::ptr::null_mut(), 1, 0)));
    let e = c!(libc::epoll_create1(0)).fd();
    let mut event = libc::epoll_event { events: 1, u64: 0 };
    say("epoll", c!(libc::epoll_ctl(e, libc::EPOLL_CTL_ADD, fd, &mut event)));
    let mut fs: libc::statfs = unsafe { std::mem::zeroed() };
    say("fstatfs", format!("{} {:#x}", c!(libc::fstatfs(fd, &mut fs)), fs.f_type));
}

fn size() {
    let fd = secret();
    say("to nothing", c!(libc::ftruncate(fd, 0)));
    say("negative", c!(libc::ftruncate(fd, -1)));
    say("first", c!(libc::ftruncate(fd, 5000)));
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    c!(libc::fstat(fd, &mut st));
    say("size", st.st_size);
    for n in [5000, 8192, 100, 0] {
        say(&format!("again to {n}"), c!(libc::ftruncate(fd, n)));
    }
    say("by name", c!(libc::truncate(cstr(&format!("/proc/self/fd/{fd}")).as_ptr(), 9)));
    c!(libc::fstat(fd, &mut st));
    say("size", st.st_size);
}

fn mapping() {
    let fd = secret();
    say("without a size", outcome(map(fd, PAGE, RW, libc::MAP_SHARED)));
    c!(libc::ftruncate(fd, PAGE as i64));
    say("private", outcome(map(fd, PAGE, RW, libc::MAP_PRIVATE)));
    say("executable", outcome(map(fd, PAGE, RW | libc::PROT_EXEC, libc::MAP_SHARED)));
    say("validated", outcome(map(fd, PAGE, RW, libc::MAP_SHARED_VALIDATE)));
    let p = map(fd, 2 * PAGE, RW, libc::MAP_SHARED).unwrap();
    let q = map(fd, PAGE, RW, libc::MAP_SHARED).unwrap();
    unsafe {
        say("zeros", *p);
        *p = 7;
        say("shared", *q);
    }
    say("beyond the end", in_child(|| unsafe { i32::from(*p.add(PAGE)) }));
    say("mprotect to execute", c!(libc::mprotect(p.cast(), PAGE, RW | libc::PROT_EXEC)));
    say("mprotect", c!(libc::mprotect(p.cast(), PAGE, libc::PROT_READ)));
    say(
        "written then",
        in_child(|| unsafe {
            *p = 1;
            0
        }),
    );
    c!(libc::mprotect(p.cast(), PAGE, RW));
    // The kernel itself copies from it and to it for its owner.
    let (r, w) = pipe();
    say("write from it", c!(libc::write(w, p.cast(), 4)));
    say("read into it", c!(libc::read(r, p.add_one().cast(), 4)));
    unsafe { say("arrived", *p.add_one()) };
    say("msync", c!(libc::msync(p.cast(), PAGE, libc::MS_SYNC)));
    say("munlock", c!(libc::munlock(p.cast(), PAGE)));
    say("mlock", c!(libc::mlock(p.cast(), PAGE)));
    for (what, advice) in [
        ("normal", 0),
        ("dontneed", 4),
        ("remove", 9),
        ("dontfork", 10),
        ("dofork", 11),
        ("dodump", 17),
        ("dontdump", 16),
        ("wipeonfork", 18),
        ("pageout", 21),
        ("populate", 23),
    ] {
        say(what, c!(libc::madvise(p.cast(), PAGE, advice)));
    }
    unsafe { say("content after that", *p.add_one()) };
    let moved = unsafe { libc::mremap(p.cast(), 2 * PAGE, 3 * PAGE, libc::MREMAP_MAYMOVE) };
    say("mremap", if moved == libc::MAP_FAILED { last().to_string() } else { "ok".into() });
    say("munmap", c!(libc::munmap(moved, 3 * PAGE)));
    close(fd);
    unsafe { say("after close", *q.add_one()) };
}

trait AddOne {
    fn add_one(self) -> Self;
}

impl AddOne for *mut u8 {
    /// The byte after the first: the first is a pattern that tests change.
    fn add_one(self) -> *mut u8 {
        unsafe { self.add(1) }
    }
}

/// What another process, or a tracer, sees of it.
fn others() {
    let fd = secret();
    c!(libc::ftruncate(fd, PAGE as i64));
    // Ordinary memory on both sides of it.
    let area = map(-1, 3 * PAGE, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
    let at = unsafe { area.add(PAGE) };
    let fixed = libc::MAP_SHARED | libc::MAP_FIXED;
    unsafe {
        libc::mmap(at.cast(), PAGE, RW, fixed, fd, 0);
        std::ptr::write_bytes(area, 3, 3 * PAGE);
    }
    let kid = child(|| {
        c!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0));
        unsafe { libc::raise(libc::SIGSTOP) };
        unsafe { say("its own view", *at) };
        0
    });
    say("stopped", wait_opt(kid, libc::WUNTRACED));
    let vm = |from: *mut u8, len: usize, nr: i64| {
        let mut buf = vec![9u8; len];
        let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: len };
        let remote = libc::iovec { iov_base: from.cast(), iov_len: len };
        sc!(nr, kid, &raw const local, 1, &raw const remote, 1, 0)
    };
    let (readv, writev) = (libc::SYS_process_vm_readv, libc::SYS_process_vm_writev);
    say("process_vm_readv", vm(at, 8, readv));
    say("process_vm_writev", vm(at, 8, writev));
    say("readv up to it", vm(area, 2 * PAGE, readv));
    say("readv beside it", vm(area, PAGE, readv));
    say("of itself", {
        let mut buf = [0u8; 8];
        let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: at.cast(), iov_len: 8 };
        c!(libc::process_vm_readv(getpid(), &local, 1, &remote, 1, 0))
    });
    let mut word = 0u64;
    say("peek", sc!(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, kid, at, &raw mut word));
    say("peek beside it", sc!(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, kid, area, &raw mut word));
    say("poke", sc!(libc::SYS_ptrace, libc::PTRACE_POKEDATA, kid, at, 5));
    let mem = open(&format!("/proc/{kid}/mem"), libc::O_RDWR).fd();
    let mut b = [0u8; 8];
    say("/proc/PID/mem", c!(libc::pread(mem, b.as_mut_ptr().cast(), 8, at as i64)));
    say("/proc/PID/mem written", c!(libc::pwrite(mem, b.as_ptr().cast(), 8, at as i64)));
    say("own /proc/self/mem", {
        let own = open("/proc/self/mem", libc::O_RDWR).fd();
        c!(libc::pread(own, b.as_mut_ptr().cast(), 8, at as i64))
    });
    c!(libc::ptrace(libc::PTRACE_DETACH, kid, 0, 0));
    say("child", reap(kid));
}

fn field(file: &str, name: &str) -> u64 {
    let t = std::fs::read_to_string(file).unwrap();
    let line = t.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn limits() {
    let limit = libc::rlimit { rlim_cur: 2 * PAGE as u64, rlim_max: 2 * PAGE as u64 };
    c!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit));
    let fd = secret();
    say("size beyond the limit", c!(libc::ftruncate(fd, 16 * PAGE as i64)));
    let locked = || field("/proc/self/status", "VmLck:");
    say("locked", locked());
    say("three pages", outcome(map(fd, 3 * PAGE, RW, libc::MAP_SHARED)));
    let p = map(fd, PAGE, RW, libc::MAP_SHARED);
    say("one page", outcome(p));
    say("locked", locked());
    say("one more", outcome(map(fd, PAGE, RW, libc::MAP_SHARED)));
    say("locked", locked());
    say("too much", outcome(map(fd, PAGE, RW, libc::MAP_SHARED)));
    say("mlock beside it", {
        let q = map(-1, PAGE, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
        c!(libc::mlock(q.cast(), PAGE))
    });
    c!(libc::munmap(p.unwrap().cast(), PAGE));
    say("after munmap", locked());
    say("munlockall", c!(libc::munlockall()));
    say("after munlockall", locked());
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    c!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &none));
    say("no limit at all: create", sc!(SECRET, 0).ok());
    say("no limit at all: map", outcome(map(fd, PAGE, RW, libc::MAP_SHARED)));
}

fn smaps_flags(p: *mut u8) -> String {
    let t = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", p as usize);
    let mut lines = t.lines().skip_while(|l| !l.starts_with(&start));
    let head = lines.next().unwrap_or("");
    let name = head.split_whitespace().skip(5).collect::<Vec<_>>().join(" ");
    let flags = lines.find(|l| l.starts_with("VmFlags:")).unwrap_or("");
    let has = |f: &str| flags.split_whitespace().any(|x| x == f);
    format!(
        "{} {name} locked {} shared {} no dump {}",
        head.split_whitespace().nth(1).unwrap_or(""),
        has("lo"),
        has("sh"),
        has("dd")
    )
}

fn forked() {
    let fd = secret();
    c!(libc::ftruncate(fd, PAGE as i64));
    let p = map(fd, PAGE, RW, libc::MAP_SHARED).unwrap();
    unsafe { *p = 1 };
    say("area", smaps_flags(p));
    let (ready, go) = (Event::new(), Event::new());
    let kid = child(|| {
        unsafe { say("seen by the child", *p) };
        unsafe { *p = 2 };
        say("its locked memory", field("/proc/self/status", "VmLck:"));
        say("its area", smaps_flags(p));
        ready.post();
        go.wait();
        unsafe { say("seen by the child", *p) };
        0
    });
    ready.wait();
    unsafe { say("seen by the parent", *p) };
    unsafe { *p = 3 };
    go.post();
    say("child", reap(kid));
}

fn privileged() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    c!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &none));
    let fd = secret();
    c!(libc::ftruncate(fd, 4 * PAGE as i64));
    let p = map(fd, 4 * PAGE, RW, libc::MAP_SHARED);
    say("with CAP_IPC_LOCK", outcome(p));
    say("locked", field("/proc/self/status", "VmLck:"));
}
