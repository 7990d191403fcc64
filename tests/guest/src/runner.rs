//! Runs cases, each in a process of its own that starts from the same state everywhere.

use crate::sys;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

/// One named check sequence of a family.
pub struct Case {
    pub name: &'static str,
    /// Runs as root, and only when started as root.
    pub root: bool,
    pub run: fn(),
}

/// Cases about one system call family.
pub struct Family {
    pub name: &'static str,
    pub cases: &'static [Case],
}

/// A list of cases named after their functions; `root` before a name marks a case that needs root.
#[macro_export]
macro_rules! cases {
    ($($name:ident $(: $root:ident)?),* $(,)?) => {
        pub const CASES: &[$crate::runner::Case] = &[
            $($crate::runner::Case { name: stringify!($name), root: $crate::cases!(@ $($root)?), run: $name }),*
        ];
    };
    (@) => { false };
    (@ root) => { true };
}

pub struct Options {
    pub user: bool,
    pub root: bool,
    pub dir: String,
    pub timeout: u32,
}

/// The user that cases run as when `gt` is started as root: `nobody`.
pub const USER: u32 = 65534;

pub fn run(picked: &[(&Family, &Case)], opt: &Options) -> Result<(), String> {
    let base = format!("{}/gt-{}", opt.dir.trim_end_matches('/'), std::process::id());
    std::fs::create_dir(&base)
        .map_err(|e| format!("cannot make {base}: {e}; choose another with --dir"))?;
    chmod(&base, 0o755);
    // Orphans of a case are reparented to this process, so that none outlives its case.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    // Set by the watchdog of the present case when it ends it.
    let fired = &sys::shared_words()[0];
    for (i, (f, c)) in picked.iter().enumerate() {
        if !(if c.root { opt.root } else { opt.user }) {
            continue;
        }
        sys::raw_print(&format!("[{}/{}]\n", f.name, c.name));
        let dir = format!("{base}/{i}");
        std::fs::create_dir(&dir).map_err(|e| format!("cannot make {dir}: {e}"))?;
        run_case(c, &dir, opt, fired);
        remove(&dir);
    }
    remove(&base);
    Ok(())
}

fn chmod(path: &str, mode: u32) {
    let p = CString::new(path).unwrap();
    unsafe { libc::chmod(p.as_ptr(), mode) };
}

fn remove(path: &str) {
    // A case may leave directories without permissions behind.
    if std::fs::remove_dir_all(path).is_err() {
        fn open_up(p: &std::path::Path) {
            if let Ok(c) = CString::new(p.as_os_str().as_bytes()) {
                unsafe { libc::chmod(c.as_ptr(), 0o700) };
            }
            for e in std::fs::read_dir(p).into_iter().flatten().flatten() {
                if e.file_type().is_ok_and(|t| t.is_dir()) {
                    open_up(&e.path());
                }
            }
        }
        open_up(std::path::Path::new(path));
        let _ = std::fs::remove_dir_all(path);
    }
}

fn run_case(c: &Case, dir: &str, opt: &Options, fired: &AtomicI32) {
    let as_user = !c.root && unsafe { libc::geteuid() } == 0;
    if as_user {
        let d = CString::new(dir).unwrap();
        unsafe { libc::chown(d.as_ptr(), USER, USER) };
    }
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => return sys::say("runner: fork", sys::last()),
        0 => {
            prepare(dir, as_user);
            let r = std::panic::catch_unwind(c.run);
            if r.is_err() {
                sys::say("panic", true);
            }
            unsafe { libc::_exit(if r.is_ok() { 0 } else { 101 }) };
        }
        _ => {}
    }
    fired.store(0, SeqCst);
    let watchdog = unsafe { libc::fork() };
    if watchdog == 0 {
        let t = libc::timespec { tv_sec: opt.timeout.into(), tv_nsec: 0 };
        unsafe {
            libc::nanosleep(&t, std::ptr::null_mut());
            fired.store(1, SeqCst);
            libc::kill(pid, libc::SIGKILL);
            libc::_exit(0);
        }
    }
    let mut status = 0;
    let mut watching = watchdog > 0;
    // Orphans of the case come here too; only the case itself ends the loop.
    loop {
        let got = unsafe { libc::waitpid(-1, &mut status, 0) };
        if got == pid || got == -1 {
            break;
        }
        watching &= got != watchdog;
    }
    let timed_out = fired.load(SeqCst) == 1;
    if watching {
        unsafe {
            libc::kill(watchdog, libc::SIGKILL);
            libc::waitpid(watchdog, std::ptr::null_mut(), 0);
        }
    }
    end_orphans();
    if timed_out {
        sys::say("case", "timed out");
    } else if status != 0 {
        sys::say("case", sys::status_text(status));
    }
}

/// Ends whatever a case left behind: all remaining children of this process.
fn end_orphans() {
    loop {
        let me = std::process::id();
        let list =
            std::fs::read_to_string(format!("/proc/self/task/{me}/children")).unwrap_or_default();
        let pids: Vec<i32> = list.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        if pids.is_empty() {
            return;
        }
        for p in pids {
            unsafe {
                libc::kill(p, libc::SIGKILL);
                libc::kill(p, libc::SIGCONT);
                libc::waitpid(p, std::ptr::null_mut(), libc::__WALL);
            }
        }
    }
}

/// The state every case starts from: own session, no terminal, `/dev/null` as input, standard error joined to nothing,
/// no other descriptors, default signal actions, nothing blocked, umask 022, its own working directory.
fn prepare(dir: &str, as_user: bool) {
    unsafe {
        libc::setsid();
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::dup2(null, 0);
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0);
        for s in 1..=64 {
            if s != libc::SIGKILL && s != libc::SIGSTOP {
                let mut sa: libc::sigaction = std::mem::zeroed();
                sa.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(s, &sa, std::ptr::null_mut());
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::umask(0o022);
        // Deliberate crashes are part of the cases; their dumps are not.
        let zero = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &zero);
        let stack = libc::rlimit { rlim_cur: 8 << 20, rlim_max: libc::RLIM_INFINITY };
        libc::setrlimit(libc::RLIMIT_STACK, &stack);
        let mut files: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut files);
        files.rlim_cur = files.rlim_max.min(1024);
        libc::setrlimit(libc::RLIMIT_NOFILE, &files);
        if as_user {
            let g = USER;
            if libc::setgroups(1, &g) != 0
                || libc::setresgid(g, g, g) != 0
                || libc::setresuid(USER, USER, USER) != 0
            {
                sys::say("runner: become nobody", sys::last());
                libc::_exit(3);
            }
            // A change of user takes the process's own /proc files away from it, which a login session would not see.
            libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
        }
    }
    if std::env::set_current_dir(dir).is_err() {
        sys::say("runner: chdir", sys::last());
        unsafe { libc::_exit(3) };
    }
}
