//! Host calls that the standard library lacks, as thin wrappers: the raw result turned
//! into `Result`, nothing else.

use std::cell::Cell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use uml_abi::{Errno, Result, errno};

/// The calling thread's errno as an [`Errno`].
pub fn last_errno() -> Errno {
    std::io::Error::last_os_error().into()
}

fn check(ret: libc::c_long) -> Result<i64> {
    if ret < 0 { Err(last_errno()) } else { Ok(ret) }
}

/// Creates a memory file with descriptor flags and seals allowed (memfd_create(2)).
pub fn memfd(name: &std::ffi::CStr, size: u64) -> Result<OwnedFd> {
    // SAFETY: the name is a C string that outlives the call.
    let fd =
        unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let size = libc::off_t::try_from(size).map_err(|_| uml_abi::errno::EINVAL)?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) }.into())?;
    Ok(fd)
}

/// A shared mapping in the kernel process, unmapped on drop.
pub struct Mapping {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory; all access goes through volatile operations on
// raw pointers, which the users of the mapping order among themselves.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from its start, readable and writable, shared.
    pub fn shared(fd: RawFd, len: usize) -> Result<Mapping> {
        // SAFETY: a new mapping at an address the host chooses aliases nothing.
        let ptr = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd,
                0,
            )
        };
        if ptr == libc::MAP_FAILED {
            Err(last_errno())
        } else {
            Ok(Mapping { ptr: ptr.cast(), len })
        }
    }

    /// Maps zeroed memory that copies of this process share.
    pub fn anonymous(len: usize) -> Result<Mapping> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address the host chooses aliases nothing.
        let ptr = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) };
        if ptr == libc::MAP_FAILED {
            Err(last_errno())
        } else {
            Ok(Mapping { ptr: ptr.cast(), len })
        }
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping made in `shared`, and nobody can hold
        // a pointer into it once its owner is gone.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

/// Whether the host lets this process have a mapping at `addr`, or it has one there.
pub fn mappable(addr: u64) -> bool {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a mapping without access that replaces nothing.
    let at = unsafe { libc::mmap(addr as *mut _, 4096, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return last_errno() != errno::ENOMEM;
    }
    // SAFETY: the mapping was just made, and nobody knows of it.
    unsafe { libc::munmap(at, 4096) };
    true
}

/// Waits until the 32-bit word at `word` differs from `seen` (shared futex). Spurious
/// returns are allowed; `timeout` bounds the wait.
///
/// # Safety
/// `word` points to mapped, aligned memory for the duration of the call.
pub unsafe fn futex_wait(word: *const u32, seen: u32, timeout: Option<Duration>) {
    let ts = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs() as libc::time_t,
        tv_nsec: t.subsec_nanos().into(),
    });
    let ts = ts.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: by contract the word is mapped; the timespec lives until return.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, seen, ts) };
}

/// Wakes one waiter of a shared futex.
///
/// # Safety
/// `word` points to mapped, aligned memory.
pub unsafe fn futex_wake(word: *const u32) {
    // SAFETY: by contract.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
}

/// tgkill(2).
pub fn tgkill(pid: i32, tid: i32, signo: i32) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signo) }).map(drop)
}

/// kill(2).
pub fn kill(pid: i32, signo: i32) -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signo) }.into()).map(drop)
}

/// Thread id of the calling thread, remembered.
pub fn my_tid() -> i32 {
    thread_local!(static TID: Cell<i32> = const { Cell::new(0) });
    TID.with(|t| {
        if t.get() == 0 {
            // SAFETY: no memory is involved.
            t.set(unsafe { libc::gettid() });
        }
        t.get()
    })
}

/// CPU time of the process `pid` with all its threads, in nanoseconds; `None` when it is gone.
pub fn process_cpu_ns(pid: i32) -> Option<u64> {
    cpu_clock(pid, 0)
}

/// CPU time of the thread `tid` of this process, in nanoseconds; `None` when there is none.
pub fn thread_cpu_ns(tid: i32) -> Option<u64> {
    const PERTHREAD: libc::clockid_t = 4;
    cpu_clock(tid, PERTHREAD)
}

/// Reads a CPU clock by the host's numbering of them (include/linux/posix-timers_types.h).
fn cpu_clock(id: i32, kind: libc::clockid_t) -> Option<u64> {
    const SCHED: libc::clockid_t = 2;
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is live and writable; a number that is nobody's is refused.
    let r = unsafe { libc::clock_gettime((!id << 3) | kind | SCHED, &mut t) };
    (r == 0).then_some(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// getpid(2).
pub fn getpid() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::getpid() }
}

/// Waits for the exit of any child of the calling thread, without reaping it; its pid.
pub fn wait_exit() -> Result<i32> {
    // SAFETY: siginfo_t is plain data for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
    // SAFETY: the result structure is live and writable.
    check(unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) }.into())?;
    // SAFETY: waitid filled the SIGCHLD members.
    Ok(unsafe { info.si_pid() })
}

/// Whether `pid` is a child or tracee of this process that has exited and is not reaped.
pub fn has_exited(pid: i32) -> bool {
    let flags = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG | libc::__WALL;
    // SAFETY: siginfo_t is plain data for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the result structure is live and writable.
    let r = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags) };
    // Stops of tracees are reported whether asked for or not.
    // SAFETY: zero from above, or the SIGCHLD members.
    r == 0 && unsafe { info.si_pid() } == pid && !stopped(&info)
}

/// Whether a child has exited by `deadline`.
pub fn exits_by(pid: i32, deadline: std::time::Instant) -> bool {
    let mut pause = Duration::from_micros(50);
    while !has_exited(pid) {
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    true
}

/// Reaps a child; the signal that killed it, if one did.
pub fn reap_status(pid: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the status is live and writable.
    unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

/// Whether waitid(2) tells of a stop, not of an end.
fn stopped(info: &libc::siginfo_t) -> bool {
    matches!(info.si_code, libc::CLD_TRAPPED | libc::CLD_STOPPED)
}

/// Waits until a child is dead, without reaping it. A tracee among its threads has to be
/// kept going by its tracer.
pub fn wait_dead(pid: i32) {
    let flags = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    loop {
        // SAFETY: siginfo_t is plain data for which zero is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the result structure is live and writable.
        let r = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags) };
        if r != 0 && last_errno() != uml_abi::errno::EINTR || r == 0 && !stopped(&info) {
            return;
        }
        std::thread::yield_now();
    }
}

/// Waits until a tracee of the calling thread stops, and returns its stop code (ptrace(2)), or `None` when it has
/// exited. A dead tracee is reaped unless `keep` is set.
pub fn wait_traced(tid: i32, keep: bool) -> Result<Option<i32>> {
    let mut flags = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD;
    if keep {
        // A stop that stays to be waited for ends with the next resume.
        flags |= libc::WNOWAIT;
    }
    // SAFETY: siginfo_t is plain data for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the result structure is live and writable.
    check(unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, flags) }.into())?;
    // SAFETY: waitid filled the SIGCHLD members.
    let status = unsafe { info.si_status() };
    Ok(stopped(&info).then_some(status))
}

/// Reaps one exited child of the calling thread.
pub fn reap(pid: i32) {
    let flags = libc::WEXITED | libc::__WALL | libc::__WNOTHREAD;
    // SAFETY: a null result pointer is allowed (Linux).
    unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PID,
            pid,
            ptr::null_mut::<u8>(),
            flags,
            ptr::null_mut::<u8>(),
        )
    };
}

/// Most ranges one process_vm_readv(2) takes.
const IOV_MAX: usize = 1024;

/// Direction of a copy between the kernel and another process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    Read,
    Write,
}

/// Copies between `local` and the concatenated `remote` ranges of process `pid`;
/// returns the bytes copied before the first inaccessible page.
///
/// # Safety
/// `local` is valid for `len` bytes, for writing when `dir` is [`Copy::Read`]; for [`Copy::Write`] it may also be a
/// mapping of a file whose pages come and go.
pub unsafe fn copy_vm(
    pid: i32,
    dir: Copy,
    local: *mut u8,
    len: usize,
    remote: &[(u64, usize)],
) -> usize {
    let mut done = 0;
    let nr =
        if dir == Copy::Read { libc::SYS_process_vm_readv } else { libc::SYS_process_vm_writev };
    for chunk in remote.chunks(IOV_MAX) {
        let mut want = 0;
        let mut iov = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 8];
        let mut many;
        let iov: &mut [libc::iovec] = if chunk.len() <= iov.len() {
            &mut iov[..chunk.len()]
        } else {
            many = vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; chunk.len()];
            &mut many
        };
        for (v, &(addr, n)) in iov.iter_mut().zip(chunk) {
            let n = n.min(len - done - want);
            *v = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: n };
            want += n;
        }
        if want == 0 {
            continue;
        }
        let lv = libc::iovec { iov_base: local.wrapping_add(done).cast(), iov_len: want };
        // SAFETY: the local range is inside `local..local+len` by construction; the remote
        // side is checked by the host, which fails with EFAULT instead of faulting.
        let n = unsafe { libc::syscall(nr, pid, &lv, 1usize, iov.as_ptr(), iov.len(), 0usize) };
        if n <= 0 {
            break;
        }
        done += n as usize;
        if (n as usize) < want {
            break;
        }
    }
    done
}

/// Has the host send no SIGCHLD when a tracee stops, which nobody would take.
pub fn ignore_child_stops() -> Result<()> {
    // SAFETY: sigaction is plain data for which zero is valid.
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is live and writable.
    check(unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), &mut sa) }.into())?;
    sa.sa_flags |= libc::SA_NOCLDSTOP;
    // SAFETY: the action is the present one but for a flag.
    check(unsafe { libc::sigaction(libc::SIGCHLD, &sa, ptr::null_mut()) }.into()).map(drop)
}

/// Number of words in a CPU mask large enough for any host.
const CPU_WORDS: usize = 128;

/// A set of CPUs.
#[derive(Clone)]
pub struct CpuMask {
    words: [u64; CPU_WORDS],
    /// Words in use.
    len: usize,
}

impl CpuMask {
    /// The set with one member.
    pub fn one(cpu: usize) -> CpuMask {
        let mut m = CpuMask { words: [0; CPU_WORDS], len: 1 };
        m.add(cpu);
        m
    }

    fn add(&mut self, cpu: usize) {
        if let Some(w) = self.words.get_mut(cpu / 64) {
            *w |= 1 << (cpu % 64);
            self.len = self.len.max(cpu / 64 + 1);
        }
    }

    /// Where thread `tid` may run (sched_getaffinity(2)); 0 is the calling thread.
    pub fn of(tid: i32) -> Result<CpuMask> {
        let mut m = CpuMask { words: [0; CPU_WORDS], len: 0 };
        let size = std::mem::size_of_val(&m.words);
        let p = m.words.as_mut_ptr();
        // SAFETY: the mask is live and as long as said.
        let n = check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, size, p) })?;
        m.len = (n as usize / 8).min(CPU_WORDS);
        Ok(m)
    }

    pub fn count(&self) -> u32 {
        self.words[..self.len].iter().map(|w| w.count_ones()).sum()
    }

    /// Confines thread `tid`, and what it will create, to this set (sched_setaffinity(2)).
    pub fn apply(&self, tid: i32) -> Result<()> {
        let (size, p) = (self.len * 8, self.words.as_ptr());
        // SAFETY: the mask is live and at least as long as said.
        check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, size, p) }).map(drop)
    }
}

/// The CPU the calling thread runs on.
pub fn current_cpu() -> Option<usize> {
    // SAFETY: no memory is involved.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// The CPUs the process may run on (sched_getaffinity(2)).
pub fn affinity() -> Result<Vec<usize>> {
    let m = CpuMask::of(0)?;
    Ok((0..m.len * 64).filter(|&c| m.words[c / 64] >> (c % 64) & 1 != 0).collect())
}

/// Confines the calling thread, and what it will create, to `cpus`.
pub fn set_affinity(cpus: &[usize]) -> Result<()> {
    set_affinity_of(0, cpus)
}

/// Confines a thread to `cpus` (sched_setaffinity(2)).
pub fn set_affinity_of(tid: i32, cpus: &[usize]) -> Result<()> {
    let mut m = CpuMask { words: [0; CPU_WORDS], len: 1 };
    cpus.iter().for_each(|&c| m.add(c));
    m.apply(tid)
}

/// Raises the soft limit on open files to the hard one; returns the limit in force.
pub fn raise_nofile() -> Result<u64> {
    let mut lim = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is live and writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut lim) }.into())?;
    if lim.rlim_cur < lim.rlim_max {
        let new = libc::rlimit { rlim_cur: lim.rlim_max, rlim_max: lim.rlim_max };
        // SAFETY: the structure is live.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &new) } == 0 {
            return Ok(new.rlim_cur);
        }
    }
    Ok(lim.rlim_cur)
}

extern "C" fn ignore_signal(_: libc::c_int) {}

/// Signal that makes a kernel thread leave a blocking host call.
pub fn wake_signal() -> i32 {
    libc::SIGRTMAX() - 1
}

/// Installs the empty handler of [`wake_signal`], without SA_RESTART.
pub fn install_wake_handler() -> Result<()> {
    // SAFETY: sigaction is plain data for which zero is valid.
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    sa.sa_sigaction = ignore_signal as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the structure is live; the handler does nothing and is thus async-signal-safe.
    check(unsafe { libc::sigaction(wake_signal(), &sa, ptr::null_mut()) }.into()).map(drop)
}
