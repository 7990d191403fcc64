//! What cases are written with: results that print as errno names, transcript lines, children, pipes, task states.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicI32, Ordering};

/// Result of a call: the value, or minus the errno.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct R(pub i64);

impl R {
    pub fn is_ok(self) -> bool {
        self.0 >= 0
    }
    pub fn fd(self) -> i32 {
        if self.0 < 0 {
            panic!("a descriptor was needed, got {self}");
        }
        self.0 as i32
    }
    /// "ok" or the errno, for values that differ between runs (descriptors, pids, addresses).
    pub fn ok(self) -> String {
        if self.is_ok() { "ok".into() } else { self.to_string() }
    }
    pub fn is(self, errno: i32) -> bool {
        self.0 == -i64::from(errno)
    }
}

impl Display for R {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (-4095..0).contains(&self.0) {
            f.write_str(&errno_name(-self.0 as i32))
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// Calls a libc function and gives its result as [`R`].
#[macro_export]
macro_rules! c {
    ($e:expr) => {{
        #[allow(unused_unsafe, clippy::unnecessary_cast)]
        let r = unsafe { $e } as i64;
        if r == -1 { $crate::sys::last() } else { $crate::sys::R(r) }
    }};
}

/// Makes a raw system call, past libc's checks.
#[macro_export]
macro_rules! sc {
    ($nr:expr $(, $a:expr)* $(,)?) => {{
        #[allow(unused_unsafe, clippy::unnecessary_cast)]
        let r = unsafe { libc::syscall($nr $(, $a as isize)*) };
        if r == -1 { $crate::sys::last() } else { $crate::sys::R(r) }
    }};
}

/// The error of the last call.
pub fn last() -> R {
    R(-i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
}

/// Writes to standard output in one call, so that lines of several processes do not mix.
pub fn raw_print(s: &str) {
    let mut b = s.as_bytes();
    while !b.is_empty() {
        let n = unsafe { libc::write(1, b.as_ptr().cast(), b.len()) };
        if n <= 0 {
            return;
        }
        b = &b[n as usize..];
    }
}

/// One line of the transcript.
pub fn say(name: &str, value: impl Display) {
    raw_print(&format!("{name}: {value}\n"));
}

macro_rules! names {
    ($($n:ident)*) => { &[$((libc::$n, stringify!($n))),*] };
}

const ERRNOS: &[(i32, &str)] = names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK
    ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ENODATA ETIME EPROTO EBADMSG EOVERFLOW EILSEQ EUSERS ENOTSOCK
    EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
    ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EDQUOT ECANCELED ENOKEY
    EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON ENOPKG ELIBACC ENOSTR ENOTUNIQ
};

const SIGNALS: &[(i32, &str)] = names! {
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM
    SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR
    SIGSYS
};

pub fn errno_name(e: i32) -> String {
    ERRNOS
        .iter()
        .find(|(n, _)| *n == e)
        .map_or_else(|| format!("errno {e}"), |(_, s)| s.to_string())
}

pub fn signal_name(n: i32) -> String {
    match SIGNALS.iter().find(|(s, _)| *s == n) {
        Some((_, s)) => s.to_string(),
        None if n >= 34 => format!("SIGRTMIN+{}", n - 34),
        None => format!("signal {n}"),
    }
}

/// A wait status in words.
pub fn status_text(s: i32) -> String {
    if libc::WIFEXITED(s) {
        format!("exit {}", libc::WEXITSTATUS(s))
    } else if libc::WIFSIGNALED(s) {
        // No core bit: whether a core is written is the host's configuration.
        format!("killed {}", signal_name(libc::WTERMSIG(s)))
    } else if libc::WIFSTOPPED(s) {
        let extra = s >> 16;
        let e = if extra != 0 { format!(" event {extra}") } else { String::new() };
        format!("stopped {}{e}", signal_name(libc::WSTOPSIG(s)))
    } else if libc::WIFCONTINUED(s) {
        "continued".into()
    } else {
        format!("status {s:#x}")
    }
}

/// Forks; the child runs `f` and exits with what it gives.
pub fn child(f: impl FnOnce() -> i32) -> i32 {
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => panic!("fork: {}", last()),
        0 => {
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(101);
            unsafe { libc::_exit(r) }
        }
        p => p,
    }
}

/// Waits for a child and gives its status in words.
pub fn reap(pid: i32) -> String {
    wait_opt(pid, 0)
}

/// `waitpid` with options; "none" when nothing is ready under WNOHANG.
pub fn wait_opt(pid: i32, options: i32) -> String {
    let mut s = 0;
    loop {
        match c!(libc::waitpid(pid, &mut s, options)) {
            R(0) => return "none".into(),
            r if r.is(libc::EINTR) => continue,
            r if r.is_ok() => return status_text(s),
            r => return r.to_string(),
        }
    }
}

/// Runs `f` in a child and gives how it ended.
pub fn in_child(f: impl FnOnce() -> i32) -> String {
    reap(child(f))
}

/// A pipe used to pass events between processes and threads.
#[derive(Clone, Copy)]
pub struct Event {
    pub r: i32,
    pub w: i32,
}

impl Event {
    pub fn new() -> Event {
        let (r, w) = pipe();
        Event { r, w }
    }
    pub fn post(&self) {
        let n = unsafe { libc::write(self.w, b"x".as_ptr().cast(), 1) };
        assert_eq!(n, 1, "posting an event: {}", last());
    }
    pub fn wait(&self) {
        let mut b = [0u8];
        loop {
            let r = c!(libc::read(self.r, b.as_mut_ptr().cast(), 1));
            if r == R(1) {
                return;
            }
            assert!(r.is(libc::EINTR), "waiting for an event: {r}");
        }
    }
}

/// A pipe, both ends closed on exec.
pub fn pipe() -> (i32, i32) {
    let mut p = [0; 2];
    let r = c!(libc::pipe2(p.as_mut_ptr(), libc::O_CLOEXEC));
    assert!(r.is_ok(), "pipe: {r}");
    (p[0], p[1])
}

pub fn close(fd: i32) {
    unsafe { libc::close(fd) };
}

/// `write` of a whole buffer, as a result.
pub fn write(fd: i32, b: &[u8]) -> R {
    c!(libc::write(fd, b.as_ptr().cast(), b.len()))
}

/// `read` of up to `n` bytes: the bytes or the error.
pub fn read(fd: i32, n: usize) -> Result<Vec<u8>, R> {
    let mut b = vec![0u8; n];
    let r = c!(libc::read(fd, b.as_mut_ptr().cast(), n));
    if r.is_ok() {
        b.truncate(r.0 as usize);
        Ok(b)
    } else {
        Err(r)
    }
}

/// `read` as a transcript value: the text in quotes, or the error.
pub fn read_text(fd: i32, n: usize) -> String {
    match read(fd, n) {
        Ok(b) => quoted(&b),
        Err(r) => r.to_string(),
    }
}

pub fn quoted(b: &[u8]) -> String {
    format!("\"{}\"", b.escape_ascii())
}

/// Calling thread's id.
pub fn gettid() -> i32 {
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

pub fn getpid() -> i32 {
    // Past any cache: the point may be to see that a clone has a new one.
    unsafe { libc::syscall(libc::SYS_getpid) as i32 }
}

/// Waits until the task's state letter in /proc is one of `states`, by asking again and again; the runner's watchdog bounds it.
pub fn await_state(pid: i32, tid: i32, states: &str) {
    loop {
        if let Some(s) = task_state(pid, tid)
            && states.contains(s)
        {
            return;
        }
        pause_poll();
    }
}

/// State letter of a task: R, S, D, T, t, Z, X.
pub fn task_state(pid: i32, tid: i32) -> Option<char> {
    let s = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    s[s.rfind(')')? + 2..].chars().next()
}

/// Waits until a process sleeps in the call it announced.
pub fn await_sleep(pid: i32) {
    await_state(pid, pid, "S");
}

/// A short break between two looks at a condition.
pub fn pause_poll() {
    let t = libc::timespec { tv_sec: 0, tv_nsec: 500_000 };
    unsafe { libc::nanosleep(&t, std::ptr::null_mut()) };
}

/// An anonymous shared page of atomics, seen by all descendants.
pub fn shared_words() -> &'static [AtomicI32; 64] {
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert!(p != libc::MAP_FAILED, "mmap: {}", last());
    unsafe { &*p.cast() }
}

pub fn futex_wait(w: &AtomicI32, value: i32) -> R {
    sc!(libc::SYS_futex, w.as_ptr(), libc::FUTEX_WAIT, value, 0, 0, 0)
}

pub fn futex_wake(w: &AtomicI32, n: i32) -> R {
    sc!(libc::SYS_futex, w.as_ptr(), libc::FUTEX_WAKE, n, 0, 0, 0)
}

/// Sleeps until the word has another value than `value`.
pub fn await_change(w: &AtomicI32, value: i32) {
    while w.load(Ordering::SeqCst) == value {
        futex_wait(w, value);
    }
}

/// Sets a word and wakes its sleepers.
pub fn publish(w: &AtomicI32, value: i32) {
    w.store(value, Ordering::SeqCst);
    futex_wake(w, i32::MAX);
}

pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler with SA_SIGINFO and the given further flags.
pub fn on_signal(sig: i32, h: Handler, flags: i32) -> R {
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    sa.sa_sigaction = h as usize;
    sa.sa_flags = flags | libc::SA_SIGINFO;
    c!(libc::sigaction(sig, &sa, std::ptr::null_mut()))
}

/// SIG_DFL or SIG_IGN.
pub fn set_action(sig: i32, action: usize) -> R {
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    sa.sa_sigaction = action;
    c!(libc::sigaction(sig, &sa, std::ptr::null_mut()))
}

pub fn sigset(sigs: &[i32]) -> libc::sigset_t {
    unsafe {
        let mut s: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut s);
        for &n in sigs {
            libc::sigaddset(&mut s, n);
        }
        s
    }
}

/// `sigprocmask` with a list.
pub fn mask(how: i32, sigs: &[i32]) -> R {
    let s = sigset(sigs);
    c!(libc::sigprocmask(how, &s, std::ptr::null_mut()))
}

pub fn cstr(s: &str) -> std::ffi::CString {
    std::ffi::CString::new(s).unwrap()
}

/// `open` with mode 0666 & ~umask unless `mode` says otherwise.
pub fn open(path: &str, flags: i32) -> R {
    open_mode(path, flags, 0o666)
}

pub fn open_mode(path: &str, flags: i32, mode: u32) -> R {
    let p = cstr(path);
    c!(libc::open(p.as_ptr(), flags, mode))
}

/// Makes a file with the given content.
pub fn put(path: &str, content: &[u8]) {
    std::fs::write(path, content).unwrap_or_else(|e| panic!("writing {path}: {e}"));
}

/// Content of a file as a transcript value.
pub fn get(path: &str) -> String {
    match std::fs::read(path) {
        Ok(b) => quoted(&b),
        Err(e) => errno_name(e.raw_os_error().unwrap_or(0)),
    }
}

/// The loopback address of a family and its length; it is read as what the family says.
pub fn loopback(family: i32, port: u16) -> (libc::sockaddr_in6, u32) {
    let mut a: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    a.sin6_family = family as u16;
    a.sin6_port = port.to_be();
    if family == libc::AF_INET6 {
        a.sin6_addr.s6_addr[15] = 1;
        (a, 28)
    } else {
        // The address of a `sockaddr_in` is where the flow information is.
        a.sin6_flowinfo = u32::from_ne_bytes([127, 0, 0, 1]);
        (a, 16)
    }
}

/// bind(2) to a port of the loopback address.
pub fn bind_to(s: i32, family: i32, port: u16) -> R {
    let (a, len) = loopback(family, port);
    c!(libc::bind(s, (&raw const a).cast(), len))
}

/// connect(2) to it.
pub fn connect_to(s: i32, family: i32, port: u16) -> R {
    let (a, len) = loopback(family, port);
    c!(libc::connect(s, (&raw const a).cast(), len))
}
