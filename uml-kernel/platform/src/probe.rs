//! Tries, in throw-away processes, what the backends need of the host.
//!
//! A refusal may take any form, the death of the caller included (an outer seccomp filter
//! that kills), so each attempt is made by a child of its own, which reports step by step in
//! a shared page. The children make host calls only: the process they are copied from
//! may have other threads.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use uml_abi::{Errno, errno};

use crate::ptrace::tracee::{Go, Stop, Tracee};
use crate::seccomp::filter::{self, Insn, NR_MAX};
use crate::seccomp::notif::{Answer, Listener};
use crate::sys::{self, Copy};

/// How long a child may take on a loaded host.
const PATIENCE: Duration = Duration::from_secs(10);
/// Value that only our listener returns.
const MAGIC: i64 = 0x5a5a_5a5a;
const WORDS: usize = (NR_MAX as usize).div_ceil(32);

/// What a child writes for its parent.
#[repr(C)]
struct Page {
    /// The step being tried ([`Step`]), and what came of the last one: 0 or an errno.
    step: AtomicU32,
    failed: AtomicI32,
    done: AtomicU32,
    /// Descriptor of the listener, plus one (the descriptor table is shared).
    listener: AtomicU32,
    /// The call being tried, and those that somebody else answered.
    call: AtomicU32,
    hidden: [AtomicU32; WORDS],
}

/// Steps, with the words that name them to the user.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Step {
    Fork,
    Trace,
    Emulate,
    CallInfo,
    Memory,
    NoNewPrivs,
    Filter,
    Listener,
    Notified,
    Signalled,
}

const STEPS: [(Step, &str); 10] = [
    (Step::Fork, "making a process"),
    (Step::Trace, "ptrace(PTRACE_SEIZE) of a child"),
    (Step::Emulate, "ptrace(PTRACE_SYSEMU)"),
    (Step::CallInfo, "ptrace(PTRACE_GET_SYSCALL_INFO), of Linux 5.3,"),
    (Step::Memory, "process_vm_readv(2) of a child"),
    (Step::NoNewPrivs, "prctl(PR_SET_NO_NEW_PRIVS)"),
    (Step::Filter, "seccomp(SECCOMP_SET_MODE_FILTER)"),
    (Step::Listener, "seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)"),
    (Step::Notified, "a call under a seccomp listener"),
    (Step::Signalled, "a call under a seccomp filter that traps"),
];

/// Whether somebody's seccomp filter is in force for this process already.
pub fn outer_filter() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|l| l.strip_prefix("Seccomp:"));
    mode.is_some_and(|m| m.trim() != "0")
}

/// A shared page in which a child reports.
struct Report(sys::Mapping);

impl Report {
    fn new() -> Result<Report, String> {
        sys::Mapping::anonymous(size_of::<Page>()).map(Report).map_err(|e| e.to_string())
    }

    fn page(&self) -> &Page {
        // SAFETY: the mapping is as long as a page, zeroed, and lives as long as `self`; all
        // members are atomics.
        unsafe { &*self.0.as_ptr().cast::<Page>() }
    }
}

impl Page {
    fn begin(&self, step: Step) {
        self.step.store(step as u32, Ordering::SeqCst);
    }

    /// Notes the errno of the present step.
    fn fail(&self, e: Errno) {
        self.failed.store(e.raw(), Ordering::SeqCst);
    }

    /// What stands in the way, after the child has ended; `killed` by a signal.
    fn verdict(&self, killed: Option<i32>) -> Result<(), String> {
        if self.done.load(Ordering::SeqCst) != 0 {
            return Ok(());
        }
        let step = self.step.load(Ordering::SeqCst);
        let (step, what) = STEPS.into_iter().find(|s| s.0 as u32 == step).unwrap_or(STEPS[0]);
        let e = self.failed.load(Ordering::SeqCst);
        if e != 0 {
            let e = Errno::from_raw(e);
            return Err(format!("{what} fails: {e}{}", remedy(step, e)));
        }
        Err(match killed {
            Some(libc::SIGSYS) => {
                format!("{what} is answered by death: an outer seccomp filter forbids it")
            }
            Some(n) => format!("{what} ended with signal {n}"),
            None => format!("{what} has no effect"),
        })
    }
}

/// What the user may do about it.
fn remedy(step: Step, e: Errno) -> &'static str {
    match (step, e) {
        (Step::Listener, errno::EBUSY) => {
            " (another program's seccomp listener supervises this process)"
        }
        (Step::Listener, errno::EINVAL) => " (needs Linux 5.19)",
        (Step::Filter | Step::Listener, errno::EINVAL | errno::ENOSYS) => {
            " (the host kernel has no seccomp filters)"
        }
        (Step::Filter | Step::Listener | Step::NoNewPrivs, errno::EPERM | errno::EACCES) => {
            " (an outer seccomp filter forbids it)"
        }
        (Step::Trace | Step::Memory, errno::EPERM) => {
            " (kernel.yama.ptrace_scope above 1, an outer seccomp filter, or a program file that may not be read)"
        }
        (Step::Trace | Step::Memory, errno::ENOSYS) => " (an outer seccomp filter forbids it)",
        (Step::CallInfo, _) => " (needs Linux 5.3)",
        _ => "",
    }
}

/// Calls that the notify backend's stub makes or reports by.
const NEEDED: [(libc::c_long, &str); 12] = [
    (libc::SYS_getppid, "getppid"),
    (libc::SYS_mmap, "mmap"),
    (libc::SYS_munmap, "munmap"),
    (libc::SYS_mprotect, "mprotect"),
    (libc::SYS_mremap, "mremap"),
    (libc::SYS_madvise, "madvise"),
    (libc::SYS_clone, "clone"),
    (libc::SYS_msync, "msync"),
    (libc::SYS_mincore, "mincore"),
    (libc::SYS_mlock, "mlock"),
    (libc::SYS_mlock2, "mlock2"),
    (libc::SYS_munlock, "munlock"),
];

/// Ends a child of [`spawn`].
fn exit_child() -> ! {
    // SAFETY: ends the calling process, which is a copy nobody waits for but us.
    unsafe {
        libc::syscall(libc::SYS_exit_group, 0);
        libc::_exit(0)
    }
}

/// Copies this process; the descriptor table is shared. `f` makes host calls only.
fn spawn(f: impl FnOnce()) -> Result<i32, Errno> {
    let parent = sys::getpid();
    // SAFETY: a fork-like clone without an exit signal; the copy makes host calls only, on
    // its own copy of the stack, and ends.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: host calls without memory.
        unsafe {
            libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            if libc::syscall(libc::SYS_getppid) != i64::from(parent) {
                exit_child();
            }
        }
        f();
        exit_child();
    }
    if pid < 0 { Err(sys::last_errno()) } else { Ok(pid as i32) }
}

/// Runs `f` in a child and waits for its end, doing `meanwhile` over and over until it says
/// false or the child has ended.
fn attempt(
    page: &Page,
    f: impl FnOnce(),
    mut meanwhile: impl FnMut() -> bool,
) -> Result<(), String> {
    page.begin(Step::Fork);
    let pid = spawn(f).map_err(|e| format!("{} fails: {e}", STEPS[0].1))?;
    let deadline = Instant::now() + PATIENCE;
    while meanwhile() && Instant::now() < deadline {
        if sys::has_exited(pid) {
            break;
        }
    }
    if !sys::exits_by(pid, deadline) {
        sys::kill(pid, libc::SIGKILL).ok();
    }
    page.verdict(sys::reap_status(pid))
}

/// Whether the kernel can trace a child and emulate its calls.
pub fn ptrace() -> Result<(), String> {
    let report = Report::new()?;
    let page = report.page();
    attempt(page, || trace_a_child(page), || false)
}

/// Whether the kernel can read the memory of a child.
pub fn memory() -> Result<(), String> {
    let report = Report::new()?;
    let page = report.page();
    attempt(page, || read_a_child(page), || false)
}

fn wait_for_ever() {
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::syscall(libc::SYS_pause) };
    }
}

/// Something to read in a child.
static WORD: AtomicU32 = AtomicU32::new(0x600d_da7a);

fn read_a_child(page: &Page) {
    let child = match spawn(wait_for_ever) {
        Ok(c) => c,
        Err(e) => return page.fail(e),
    };
    page.begin(Step::Memory);
    let mut seen = 0u32;
    // SAFETY: the buffer is live and as long as said. The child has our memory layout.
    let n = unsafe {
        sys::copy_vm(child, Copy::Read, (&raw mut seen).cast(), 4, &[(WORD.as_ptr() as u64, 4)])
    };
    if n == 4 && seen == WORD.load(Ordering::SeqCst) {
        page.done.store(1, Ordering::SeqCst);
    } else {
        page.fail(sys::last_errno());
    }
    sys::kill(child, libc::SIGKILL).ok();
    sys::reap(child);
}

fn trace_a_child(page: &Page) {
    let child = match spawn(wait_for_ever) {
        Ok(c) => c,
        Err(e) => return page.fail(e),
    };
    page.begin(Step::Trace);
    let mut traced = None;
    let tried = Tracee::seize(child, child).and_then(|t| {
        traced = Some(t);
        t.interrupt()?;
        while t.wait() != Stop::Attached {
            t.resume(Go::Native, 0)?;
        }
        page.begin(Step::Emulate);
        t.resume(Go::Emulate, 0)?;
        while t.wait() != Stop::Call {
            t.resume(Go::Emulate, 0)?;
        }
        page.begin(Step::CallInfo);
        t.syscall_info().map(drop)
    });
    match tried {
        Ok(()) => page.done.store(1, Ordering::SeqCst),
        Err(e) => page.fail(e),
    }
    sys::kill(child, libc::SIGKILL).ok();
    if let Some(t) = traced {
        while t.wait() != Stop::Dead {
            t.resume(Go::Native, 0).ok();
        }
    }
    sys::reap(child);
}

/// Installs a filter on the calling process; a descriptor with NEW_LISTENER.
fn install(page: &Page, step: Step, flags: u64, prog: &[Insn]) -> Option<RawFd> {
    page.begin(Step::NoNewPrivs);
    // SAFETY: no memory is involved.
    if unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        page.fail(sys::last_errno());
        return None;
    }
    page.begin(step);
    let prog = libc::sock_fprog {
        len: prog.len() as libc::c_ushort,
        filter: prog.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program is live for the call.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, 1, flags, &raw const prog) };
    if r < 0 {
        page.fail(sys::last_errno());
        return None;
    }
    Some(r as RawFd)
}

/// Whether a filter can turn calls into signals.
pub fn trap() -> Result<(), String> {
    let report = Report::new()?;
    let page = report.page();
    let prog = filter::trap_one(libc::SYS_getppid as u32);
    attempt(page, || trap_a_call(page, &prog), || false)
}

static TRAPPED: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_sigsys(_: libc::c_int) {
    TRAPPED.store(1, Ordering::SeqCst);
}

fn trap_a_call(page: &Page, prog: &[Insn]) {
    // SAFETY: sigaction is plain data for which zero is valid; the handler stores a word.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = on_sigsys as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGSYS, &sa, std::ptr::null_mut());
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
    if install(page, Step::Filter, 0, prog).is_none() {
        return;
    }
    page.begin(Step::Signalled);
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_getppid) };
    if TRAPPED.load(Ordering::SeqCst) != 0 {
        page.done.store(1, Ordering::SeqCst);
    }
}

/// The calls that have to trap because an outer filter answers them before they could notify,
/// or might, looking at arguments.
pub fn notify_under_filter(flags: u64) -> Result<Vec<u32>, String> {
    let mut hidden = notify(flags, true)?;
    for (nr, name) in NEEDED {
        if hidden.contains(&(nr as u32)) {
            return Err(format!("an outer seccomp filter answers {name}(2)"));
        }
    }
    hidden
        .extend((0..NR_MAX).filter(|&nr| !filter::PLAIN.contains(&libc::c_long::from(nr as i32))));
    hidden.sort_unstable();
    hidden.dedup();
    Ok(hidden)
}

/// Whether calls can be notified; the numbers of those that somebody else answers first.
/// With `all`, every call is tried, otherwise one.
pub fn notify(flags: u64, all: bool) -> Result<Vec<u32>, String> {
    let report = Report::new()?;
    let page = report.page();
    let prog = filter::notify_all();
    let mut first = if all { 0 } else { libc::SYS_getppid as u32 };
    let end = if all { NR_MAX } else { first + 1 };
    loop {
        page.listener.store(0, Ordering::SeqCst);
        page.call.store(u32::MAX, Ordering::SeqCst);
        let mut listener = None;
        let verdict = attempt(
            page,
            || notify_calls(page, flags, &prog, first..end),
            || serve(page, &mut listener),
        );
        let fd = page.listener.load(Ordering::SeqCst);
        if listener.is_none() && fd != 0 {
            drop(Listener::adopt(fd as RawFd - 1));
        }
        drop(listener);
        // An outer filter that kills or traps ends the child at that call.
        let at = page.call.load(Ordering::SeqCst);
        match verdict {
            Ok(()) => break,
            Err(_) if at != u32::MAX && all => {
                hide(page, at);
                first = at + 1;
                page.failed.store(0, Ordering::SeqCst);
            }
            Err(why) => return Err(why),
        }
    }
    Ok((0..end).filter(|&nr| is_hidden(page, nr)).collect())
}

fn hide(page: &Page, nr: u32) {
    if let Some(w) = page.hidden.get(nr as usize / 32) {
        w.fetch_or(1 << (nr % 32), Ordering::SeqCst);
    }
}

fn is_hidden(page: &Page, nr: u32) -> bool {
    let word = page.hidden.get(nr as usize / 32).map_or(0, |w| w.load(Ordering::SeqCst));
    word >> (nr % 32) & 1 != 0
}

fn notify_calls(page: &Page, flags: u64, prog: &[Insn], calls: std::ops::Range<u32>) {
    let Some(fd) = install(page, Step::Listener, flags, prog) else { return };
    page.listener.store(fd as u32 + 1, Ordering::SeqCst);
    page.begin(Step::Notified);
    for nr in calls {
        if filter::NEVER_PROBED.contains(&i64::from(nr)) {
            continue;
        }
        page.call.store(nr, Ordering::SeqCst);
        // SAFETY: the listener answers this, or an outer filter refuses it; nobody lets the
        // host carry it out.
        let r = unsafe { libc::syscall(libc::c_long::from(nr), 0, 0, 0, 0, 0, 0) };
        if r != MAGIC {
            hide(page, nr);
        }
    }
    page.call.store(u32::MAX, Ordering::SeqCst);
    page.done.store(1, Ordering::SeqCst);
}

/// The parent's side: answers one call; false when there is nothing to answer any more.
fn serve(page: &Page, listener: &mut Option<Listener>) -> bool {
    if listener.is_none() {
        match page.listener.load(Ordering::SeqCst) {
            0 => {
                std::thread::sleep(Duration::from_micros(50));
                return true;
            }
            fd => *listener = Some(Listener::adopt(fd as RawFd - 1)),
        }
    }
    let Some(l) = listener else { return false };
    let (ready, hung_up) = l.poll(10);
    if ready && let Ok(n) = l.recv() {
        l.send(n.id, Answer::Value(MAGIC)).ok();
    }
    !hung_up
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host() {
        // Whatever the host can do, a probe ends with an answer and leaves nothing behind.
        for r in [memory(), ptrace(), trap(), notify(8, false).map(drop)] {
            if let Err(why) = r {
                assert!(why.contains("fails") || why.contains("death"), "{why}");
            }
        }
    }
}
