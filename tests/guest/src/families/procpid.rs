//! /proc/PID/syscall and /proc/PID/map_files: what another task does right now, and the files behind its memory.

use crate::sys::*;
use crate::{c, cases, sc};
use std::os::unix::fs::MetadataExt;

cases! {
    own_call, calls_of_others, outside_calls, after_signals, traced_calls, ended: root, permissions_user, syscall_root: root,
    dead_leader, dead_leader_root: root, mapped_files, map_names, followed: root, not_followed,
}

fn text(p: &str) -> String {
    std::fs::read_to_string(p).unwrap_or_else(|e| errno_name(e.raw_os_error().unwrap()))
}

/// The words of a line, hexadecimal ones as numbers.
fn words(line: &str) -> Vec<u64> {
    let number = |w: &str| match w.strip_prefix("0x") {
        Some(h) => u64::from_str_radix(h, 16).unwrap(),
        None => w.parse::<i64>().unwrap() as u64,
    };
    line.split_whitespace().map(number).collect()
}

/// The area an address is in, by its rights and name.
fn area(pid: i32, addr: u64) -> String {
    let maps = text(&format!("/proc/{pid}/maps"));
    let found = maps.lines().find(|l| {
        let (start, rest) = l.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let n = |s| u64::from_str_radix(s, 16).unwrap();
        (n(start)..n(end)).contains(&addr)
    });
    let Some(line) = found else { return "nowhere".into() };
    let f: Vec<&str> = line.split_whitespace().collect();
    format!("{} {}", f[1], f.get(5).copied().filter(|n| n.starts_with('[')).unwrap_or("-"))
}

/// Number and arguments as they are, then where stack pointer and program counter lead.
fn describe(pid: i32, line: &str) -> String {
    if line == "running\n" || !line.ends_with('\n') {
        return line.trim().into();
    }
    let w = words(line);
    let places = &w[w.len() - 2..];
    let mut s: Vec<String> = w[1..w.len() - 2].iter().map(|a| format!("{a:x}")).collect();
    s.insert(0, (w[0] as i64).to_string());
    format!("{}; {}; {}", s.join(" "), area(pid, places[0]), area(pid, places[1]))
}

fn call_of(pid: i32) -> String {
    describe(pid, &text(&format!("/proc/{pid}/syscall")))
}

/// A process that makes no calls any more.
fn spinner(w: &'static [std::sync::atomic::AtomicI32; 64]) -> i32 {
    use std::sync::atomic::Ordering::SeqCst;
    let pid = child(|| {
        loop {
            w[0].store(1, SeqCst);
        }
    });
    while w[0].load(SeqCst) == 0 {
        pause_poll();
    }
    pid
}

fn own_call() {
    let fd = open("/proc/self/syscall", 0).fd();
    let mut buf = [0u8; 300];
    let n = sc!(libc::SYS_pread64, fd, buf.as_mut_ptr(), buf.len(), 0);
    let w = words(std::str::from_utf8(&buf[..n.0 as usize]).unwrap());
    say("number", w[0]);
    say("descriptor", w[1] == fd as u64);
    say("buffer", w[2] == buf.as_ptr() as u64);
    say("length, offset", format!("{} {}", w[3], w[4]));
    say("words", w.len());
    say("stack pointer", w[7].abs_diff(buf.as_ptr() as u64) < 1 << 16);
    say("program counter", area(getpid(), w[8]));
    let t = text(&format!("/proc/self/task/{}/syscall", getpid()));
    say("by thread", words(&t)[0]);
    say("mode", format!("{:o}", std::fs::metadata("/proc/self/syscall").unwrap().mode()));
    say("write", open("/proc/self/syscall", libc::O_WRONLY).ok());
}

fn calls_of_others() {
    let w = shared_words();
    let (r, _keep) = pipe();
    let pid = child(|| sc!(libc::SYS_read, r, w.as_ptr(), 777).0 as i32);
    await_sleep(pid);
    let line = words(&text(&format!("/proc/{pid}/syscall")));
    say("read", format!("{} {}", line[0], line[3]));
    say("its arguments", line[1] == r as u64 && line[2] == w.as_ptr() as u64);
    say("places", format!("{}; {}", area(pid, line[7]), area(pid, line[8])));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    let pid = child(|| {
        sc!(libc::SYS_futex, w[1].as_ptr(), 0, 0, 0, 0x1111, 0x2222_0000_0007u64).0 as i32
    });
    await_sleep(pid);
    let line = text(&format!("/proc/{pid}/syscall"));
    let shown = describe(pid, &line).replace(&format!("{:x}", &raw const w[1] as u64), "ADDRESS");
    say("futex", shown);
    say("the same again", text(&format!("/proc/{pid}/syscall")) == line);
    futex_wake(&w[1], 1);
    say("undisturbed", reap(pid));
    let pid = child(|| sc!(libc::SYS_pause).0 as i32);
    await_sleep(pid);
    say("pause", words(&text(&format!("/proc/{pid}/syscall")))[0]);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    // The others of a process are looked at one by one.
    let thread = std::thread::spawn(move || {
        publish(&w[2], gettid());
        futex_wait(&w[3], 0);
    });
    await_change(&w[2], 0);
    let tid = w[2].load(std::sync::atomic::Ordering::SeqCst);
    await_state(getpid(), tid, "S");
    say("thread", words(&text(&format!("/proc/self/task/{tid}/syscall")))[0]);
    say("by its number", words(&text(&format!("/proc/{tid}/syscall")))[0]);
    publish(&w[3], 1);
    thread.join().unwrap();
    // Many sleepers at once.
    let all: Vec<i32> =
        (0..100).map(|i| child(|| sc!(libc::SYS_ppoll, 0, 0, 0, 0, 8, i).0 as i32)).collect();
    let mut right = 0;
    for (i, pid) in all.iter().enumerate() {
        await_sleep(*pid);
        let s = words(&text(&format!("/proc/{pid}/syscall")));
        right += (s[0] == 271 && s[1..7] == [0, 0, 0, 0, 8, i as u64]) as i32;
    }
    say("of a hundred", right);
    for pid in all {
        unsafe { libc::kill(pid, libc::SIGKILL) };
        reap(pid);
    }
}

fn outside_calls() {
    let pid = spinner(shared_words());
    say("running", call_of(pid));
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    wait_opt(pid, libc::WUNTRACED);
    say("stopped", call_of(pid));
    unsafe { libc::kill(pid, libc::SIGCONT) };
    wait_opt(pid, libc::WCONTINUED);
    // It goes on when it is scheduled.
    while call_of(pid) != "running" {
        pause_poll();
    }
    say("running again", true);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

fn after_signals() {
    let pid = child(|| {
        let t = libc::timespec { tv_sec: 1000, tv_nsec: 0 };
        sc!(libc::SYS_nanosleep, &t as *const _, 0).0 as i32
    });
    await_sleep(pid);
    let number = |pid: i32| words(&text(&format!("/proc/{pid}/syscall")))[0];
    say("sleeps", number(pid));
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    wait_opt(pid, libc::WUNTRACED);
    say("stopped in it", number(pid));
    unsafe { libc::kill(pid, libc::SIGCONT) };
    wait_opt(pid, libc::WCONTINUED);
    await_sleep(pid);
    say("goes on with", number(pid));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        unsafe { libc::syscall(libc::SYS_pause) };
    }
    let (r, _w) = pipe();
    let pid = child(|| {
        on_signal(libc::SIGUSR1, nothing, libc::SA_RESTART);
        let mut b = 0u8;
        sc!(libc::SYS_read, r, &mut b as *mut u8, 1).0 as i32
    });
    await_sleep(pid);
    say("reads", number(pid));
    unsafe { libc::kill(pid, libc::SIGUSR1) };
    while number_or_zero(pid) != libc::SYS_pause as u64 {
        pause_poll();
    }
    say("in a handler", number(pid));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

/// The number of the call, 0 while it runs.
fn number_or_zero(pid: i32) -> u64 {
    match text(&format!("/proc/{pid}/syscall")) {
        t if t == "running\n" => 0,
        t => words(&t)[0],
    }
}

fn traced_calls() {
    let pt = |request: i32, pid: i32, data: usize| sc!(libc::SYS_ptrace, request, pid, 0, data);
    let pid = child(|| {
        sc!(libc::SYS_ptrace, 0, 0, 0, 0);
        sc!(libc::SYS_kill, getpid(), libc::SIGSTOP);
        sc!(libc::SYS_dup3, -1, 0x123, 0);
        0
    });
    wait_opt(pid, libc::__WALL);
    let shown = |pid| call_of(pid).replace(&format!(" {pid:x} "), " PID ");
    let first = |s: String, n| s.split(' ').take(n).collect::<Vec<_>>().join(" ");
    say("stopped itself", first(shown(pid), 3));
    let next = |pid| {
        pt(24, pid, 0);
        wait_opt(pid, libc::__WALL)
    };
    // Whatever it does before.
    while number_or_zero(pid) != libc::SYS_dup3 as u64 {
        next(pid);
    }
    say("at the entry", first(shown(pid), 4));
    let mut r: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    pt(12, pid, &raw mut r as usize);
    r.rsi = 0x456;
    pt(13, pid, &raw mut r as usize);
    say("changed", first(shown(pid), 4));
    next(pid);
    say("at the exit", first(shown(pid), 4));
    say("places", shown(pid).split_once("; ").unwrap().1);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

fn ended() {
    let pid = child(|| 0);
    let fd = open(&format!("/proc/{pid}/syscall"), 0).fd();
    await_state(pid, pid, "Z");
    say("zombie", text(&format!("/proc/{pid}/syscall")).trim());
    say("its files", std::fs::read_dir(format!("/proc/{pid}/map_files")).unwrap().count());
    reap(pid);
    say("gone", read(fd, 100).err().unwrap());
}

fn permissions_user() {
    say("init's call", open("/proc/1/syscall", 0).ok());
    say("init's files", std::fs::read_dir("/proc/1/map_files").is_ok());
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    say("own when not dumpable", text("/proc/self/syscall").starts_with("0 "));
}

fn syscall_root() {
    let pid = child(|| sc!(libc::SYS_pause).0 as i32);
    await_sleep(pid);
    let path = format!("/proc/{pid}/syscall");
    let fd = open(&path, 0).fd();
    let dir = open(&format!("/proc/{pid}/map_files"), libc::O_DIRECTORY).fd();
    let end = in_child(|| {
        sc!(libc::SYS_setresuid, 65534, 65534, 65534);
        say("opened before", read(fd, 100).err().map_or("ok".into(), |e| e.to_string()));
        say("opened now", open(&path, 0).ok());
        let mut b = [0u8; 1000];
        say("list", sc!(libc::SYS_getdents64, dir, b.as_mut_ptr(), b.len()));
        0
    });
    say("end", end);
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

/// Maps two pages of `fd`.
fn map(fd: i32, prot: i32, flags: i32, off: i64) -> usize {
    let p = unsafe { libc::mmap(std::ptr::null_mut(), 8192, prot, flags, fd, off) };
    assert!(p != libc::MAP_FAILED, "mmap: {}", last());
    p as usize
}

fn link(at: usize) -> String {
    format!("/proc/self/map_files/{at:x}-{:x}", at + 8192)
}

/// The text of a link, from the last slash on.
fn target(at: usize) -> String {
    match std::fs::read_link(link(at)) {
        Ok(p) => p.to_str().unwrap().rsplit('/').next().unwrap().into(),
        Err(e) => errno_name(e.raw_os_error().unwrap()),
    }
}

fn mapped_files() {
    put("f", &[b'x'; 16384]);
    let (ro, rw) = (open("f", libc::O_RDONLY).fd(), open("f", libc::O_RDWR).fd());
    let m = std::fs::metadata("/proc/self/map_files").unwrap();
    say("directory", format!("{:o}", m.mode()));
    let show = |name: &str, at: usize| {
        let mode = std::fs::symlink_metadata(link(at)).map(|m| (m.mode(), m.size()));
        let mode = mode.map_or("-".into(), |(m, s)| format!("{m:o} {s}"));
        say(name, format!("{} {mode}", target(at)));
    };
    let (r, rwx) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    show("private", map(ro, r, libc::MAP_PRIVATE, 0));
    show("private, writable", map(ro, rwx, libc::MAP_PRIVATE, 8192));
    show("shared", map(rw, rwx, libc::MAP_SHARED, 0));
    show("read only of a file open for both", map(rw, r, libc::MAP_SHARED, 8192));
    show("no access", map(ro, 0, libc::MAP_PRIVATE, 4096));
    show("private memory", map(-1, rwx, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, 0));
    show("shared memory", map(-1, rwx, libc::MAP_SHARED | libc::MAP_ANONYMOUS, 0));
    let fd = c!(libc::memfd_create(c"name".as_ptr(), 0)).fd();
    unsafe { libc::ftruncate(fd, 8192) };
    show("memfd", map(fd, rwx, libc::MAP_SHARED, 0));
    let at = map(ro, r, libc::MAP_SHARED, 0);
    close(ro);
    show("closed", at);
    unsafe { libc::unlink(c"f".as_ptr()) };
    show("removed", at);
    unsafe { libc::munmap(at as *mut _, 8192) };
    show("unmapped", at);
    say(
        "of a thread",
        std::fs::metadata(format!("/proc/self/task/{}/map_files", getpid())).is_ok(),
    );
}

fn map_names() {
    put("f", &[b'x'; 8192]);
    let at = map(open("f", 0).fd(), libc::PROT_READ, libc::MAP_SHARED, 0);
    let name = format!("{at:x}-{:x}", at + 8192);
    let names: Vec<String> = std::fs::read_dir("/proc/self/map_files")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    say("listed", names.contains(&name));
    let starts: Vec<u64> = names
        .iter()
        .map(|n| u64::from_str_radix(n.split('-').next().unwrap(), 16).unwrap())
        .collect();
    say("in order", starts.is_sorted());
    let kinds = std::fs::read_dir("/proc/self/map_files").unwrap();
    say("links", kinds.into_iter().all(|e| e.unwrap().file_type().unwrap().is_symlink()));
    let mut b = [0u8; 100];
    for (what, n) in [
        ("leading zero", format!("0{name}")),
        ("upper case", name.to_uppercase()),
        ("a page", format!("{at:x}-{:x}", at + 4096)),
        ("longer", format!("{at:x}-{:x}", at + 12288)),
        ("inside", format!("{:x}-{:x}", at + 4096, at + 8192)),
        ("no range", format!("{at:x}")),
        ("more", format!("{name}-1")),
        ("prefix", format!("0x{name}")),
        ("nonsense", "file".into()),
    ] {
        let p = cstr(&format!("/proc/self/map_files/{n}"));
        say(what, c!(libc::readlink(p.as_ptr(), b.as_mut_ptr().cast(), b.len())).ok());
    }
    unsafe { libc::munmap((at + 4096) as *mut _, 4096) };
    let p = cstr(&format!("/proc/self/map_files/{at:x}-{:x}", at + 4096));
    say("cut", c!(libc::readlink(p.as_ptr(), b.as_mut_ptr().cast(), b.len())).ok());
    say("create", open(&link(1 << 20), libc::O_CREAT | libc::O_WRONLY).ok());
    say("remove", c!(libc::unlink(p.as_ptr())));
}

fn followed() {
    put("f", b"content");
    let at = map(open("f", libc::O_RDWR).fd(), libc::PROT_READ, libc::MAP_SHARED, 0);
    say("read", get(&link(at)));
    let (a, b) = (std::fs::metadata(link(at)).unwrap(), std::fs::metadata("f").unwrap());
    say("the same file", (a.dev(), a.ino()) == (b.dev(), b.ino()));
    say("write", write(open(&link(at), libc::O_WRONLY).fd(), b"CON"));
    say("written", get("f"));
    unsafe { libc::unlink(c"f".as_ptr()) };
    say("removed", get(&link(at)));
    let fd = c!(libc::memfd_create(c"name".as_ptr(), 0)).fd();
    write(fd, b"in memory");
    let at = map(fd, libc::PROT_READ, libc::MAP_SHARED, 0);
    close(fd);
    say("memfd", get(&link(at)));
    // Of another process.
    let pid = child(|| sc!(libc::SYS_pause).0 as i32);
    await_sleep(pid);
    say("another's", get(&link(at).replace("self", &pid.to_string())));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

fn not_followed() {
    put("f", b"content");
    let at = map(open("f", 0).fd(), libc::PROT_READ, libc::MAP_SHARED, 0);
    say("text", target(at));
    say("open", open(&link(at), 0).ok());
    say("stat", std::fs::metadata(link(at)).is_ok());
    say("open itself", open(&link(at), libc::O_PATH | libc::O_NOFOLLOW).ok());
}

/// The descriptors of a process whose first thread has ended, looked at by its parent, which has the same credentials.
fn dead_leader() {
    let (tids, go) = (shared_words(), Event::new());
    let pid = child(|| {
        std::thread::spawn(move || {
            publish(&tids[0], gettid());
            go.wait();
            unsafe { libc::syscall(libc::SYS_exit_group, 0) };
        });
        await_change(&tids[0], 0);
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        1
    });
    await_state(pid, pid, "Z");
    let tid = tids[0].load(std::sync::atomic::Ordering::SeqCst);
    for dir in ["fd", "fdinfo", "map_files"] {
        for at in [
            format!("/proc/{pid}"),
            format!("/proc/{pid}/task/{pid}"),
            format!("/proc/{pid}/task/{tid}"),
        ] {
            if dir == "map_files" && at.contains("task") {
                continue;
            }
            let name = at.replace(&pid.to_string(), "PID").replace(&tid.to_string(), "TID");
            let path = format!("{at}/{dir}");
            let list = std::fs::read_dir(&path).map_or_else(
                |e| errno_name(e.raw_os_error().unwrap()),
                |d| format!("{} entries", if d.count() == 0 { "no" } else { "some" }),
            );
            let one = std::fs::read_link(format!("{path}/0"))
                .map_or_else(|e| errno_name(e.raw_os_error().unwrap()), |_| "a link".into());
            let access = c!(libc::access(cstr(&path).as_ptr(), libc::R_OK | libc::X_OK));
            say(&format!("{name}/{dir}"), format!("{list}, {one}, {access}"));
        }
    }
    go.post();
    say("ended", reap(pid));
}

fn dead_leader_root() {
    dead_leader();
}
