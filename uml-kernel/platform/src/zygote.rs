//! The zygote: a copy of this process, made early and stripped to the stub, from which
//! every guest process is cloned. Its parent is the reaper thread, which therefore is the
//! parent of all guest processes and sees their exits.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use uml_abi::{Errno, Result, errno};
use uml_stub::{control, slot};

use crate::region::{HostVdso, Region};
use crate::seccomp::arena::{Arena, Slot};
use crate::seccomp::filter::Insn;
use crate::sys::{self, Mapping, futex_wait, futex_wake};

/// Interrupts guest code. Its default action is to be ignored, so one that comes too early
/// does no harm.
pub const INTERRUPT: i32 = libc::SIGURG;

const HANDLED: [i32; 7] = [
    libc::SIGSYS,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    INTERRUPT,
];

/// Control page word that tells whether the vDSO could be moved (u32: 0 not yet, 1 moved, 2 not).
const VDSO_STATE: usize = 0x60;
/// Stage reached by a zygote that failed, and its errno.
const FAILED: usize = 0x68;

/// How long the zygote may take for one request on a loaded host.
const PATIENCE: Duration = Duration::from_secs(10);

#[repr(C)]
struct KernelSigaction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// Filters of guest processes.
#[derive(Clone)]
pub struct Filters<F> {
    /// Installed when a process is made from the zygote.
    pub first: F,
    /// Flags of seccomp(2) for it.
    pub first_flags: u64,
    /// Installed on top by each guest thread.
    pub thread: Option<F>,
}

/// How guest threads are held.
pub enum Hold {
    /// By seccomp filters and the stub's handler.
    Filters(Filters<Vec<Insn>>),
    /// By a tracer. Signal frames go to this much private memory at [`Region::slots`].
    Tracer { frames: usize },
}

/// What a new process maps besides its first slot: a page of the arena, read-only.
pub struct Extra {
    pub addr: u64,
    pub offset: u64,
}

/// Everything the copy needs, prepared so that it makes host calls only.
struct Plan {
    region: Region,
    code_fd: i32,
    data_len: usize,
    control_fd: i32,
    vdso: HostVdso,
    control: *mut u8,
    handler: u64,
    /// Flags and mask of the handler.
    handler_flags: u64,
    handler_mask: u64,
    /// Bytes of private memory for signal frames.
    frames: usize,
    restorer: u64,
    zygote: u64,
    kernel: libc::c_long,
}

/// The kernel's handle on the zygote.
pub struct Zygote {
    pub pid: i32,
    control: Mapping,
    _control_fd: OwnedFd,
    _code_fd: OwnedFd,
    first_flags: u64,
    /// Guest addresses of the filter programs.
    first: u64,
    pub thread: u64,
    /// Whether the vDSO is at its place in the region; else it is where it was.
    pub vdso_moved: bool,
}

/// A process cloned from the zygote, at its first event.
pub struct Spawned {
    pub pid: i32,
    pub slot: Slot,
}

/// The stub's code and the filter programs, as a sealed file.
struct CodeFile {
    fd: OwnedFd,
    data_len: usize,
    first: u64,
    thread: u64,
}

fn code_file(region: &Region, filters: Option<&Filters<Vec<Insn>>>) -> Result<CodeFile> {
    let code = uml_stub::code();
    let code_room = (region.code.end - region.code.start) as usize;
    let mut data = Vec::new();
    let mut add = |f: &[Insn]| -> Result<u64> {
        let at = region.data + data.len() as u64;
        let len = u16::try_from(f.len()).map_err(|_| errno::EINVAL)?;
        // `struct sock_fprog`, then the instructions.
        data.extend_from_slice(&u64::from(len).to_ne_bytes());
        data.extend_from_slice(&(at + 16).to_ne_bytes());
        data.extend(f.iter().flat_map(|i| i.to_bytes()));
        Ok(at)
    };
    let first = filters.map(|f| add(&f.first)).transpose()?.unwrap_or(0);
    let thread = filters.and_then(|f| f.thread.as_deref()).map(&mut add).transpose()?.unwrap_or(0);
    let data_len = data.len().max(1).next_multiple_of(4096);
    let fd = sys::memfd(c"uml-stub", (code_room + data_len) as u64)?;
    let map = Mapping::shared(fd.as_raw_fd(), code_room + data_len)?;
    // SAFETY: the mapping is new, private to this function, and as long as the two parts.
    unsafe {
        ptr::copy_nonoverlapping(code.as_ptr(), map.as_ptr(), code.len());
        ptr::copy_nonoverlapping(data.as_ptr(), map.as_ptr().add(code_room), data.len());
    }
    drop(map);
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: no memory is involved.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(sys::last_errno());
    }
    Ok(CodeFile { fd, data_len, first, thread })
}

impl Zygote {
    /// Makes the zygote as a child of the calling thread.
    pub fn make(region: &Region, vdso: &HostVdso, hold: &Hold) -> Result<Zygote> {
        let (filters, frames) = match hold {
            Hold::Filters(f) => (Some(f), 0),
            Hold::Tracer { frames } => (None, *frames),
        };
        let code = code_file(region, filters)?;
        let control_fd = sys::memfd(c"uml-zygote", 4096)?;
        let control = Mapping::shared(control_fd.as_raw_fd(), 4096)?;
        // The stub's own handler runs with everything blocked but the two faults that its
        // compare-and-exchange may raise; a tracer stops the thread before anything happens.
        let faults = 1u64 << (libc::SIGSEGV - 1) | 1u64 << (libc::SIGBUS - 1);
        let (handler, flags, mask) = match hold {
            Hold::Filters(_) => {
                (uml_stub::entry::handler(), libc::SA_ONSTACK | libc::SA_RESTART, !faults)
            }
            Hold::Tracer { .. } => (uml_stub::entry::caught(), libc::SA_NODEFER, 0),
        };
        let plan = Plan {
            region: region.clone(),
            code_fd: code.fd.as_raw_fd(),
            data_len: code.data_len,
            control_fd: control_fd.as_raw_fd(),
            vdso: vdso.clone(),
            control: control.as_ptr(),
            handler: region.base + handler as u64,
            handler_flags: flags as u64,
            handler_mask: mask,
            frames,
            restorer: region.base + uml_stub::entry::restorer() as u64,
            zygote: region.base + uml_stub::entry::zygote() as u64,
            kernel: sys::getpid().into(),
        };
        let pid = clone_zygote(&plan)?;
        let mut z = Zygote {
            pid,
            control,
            _control_fd: control_fd,
            _code_fd: code.fd,
            first_flags: filters.map_or(0, |f| f.first_flags),
            first: code.first,
            thread: code.thread,
            vdso_moved: false,
        };
        let deadline = Instant::now() + PATIENCE;
        while z.word(VDSO_STATE) == 0 {
            z.wait(VDSO_STATE, 0);
            if z.word(FAILED) != 0 {
                return Err(Errno::from_raw(z.word(FAILED) as i32));
            }
            if Instant::now() > deadline {
                return Err(errno::ETIMEDOUT);
            }
        }
        z.vdso_moved = z.word(VDSO_STATE) == 1;
        Ok(z)
    }

    fn word(&self, off: usize) -> u32 {
        // SAFETY: in bounds of the page and aligned.
        unsafe { self.control.as_ptr().add(off).cast::<u32>().read_volatile() }
    }

    fn put(&self, off: usize, v: u64) {
        // SAFETY: in bounds of the page and aligned.
        unsafe { self.control.as_ptr().add(off).cast::<u64>().write_volatile(v) }
    }

    fn wait(&self, off: usize, seen: u32) {
        // SAFETY: in bounds of the page and aligned.
        unsafe {
            futex_wait(
                self.control.as_ptr().add(off).cast(),
                seen,
                Some(Duration::from_millis(100)),
            )
        }
    }

    /// Clones one guest process that waits for a tracer; its pid. One caller at a time.
    pub fn spawn_traced(&self) -> Result<i32> {
        self.put(control::TRACED, 1);
        self.clone_one()
    }

    /// Clones one guest process. One caller at a time.
    pub fn spawn(
        &self,
        arena: &Arc<Arena>,
        region: &Region,
        extra: Option<Extra>,
    ) -> Result<Spawned> {
        let s = arena.alloc()?;
        self.put(control::ARENA_FD, arena.fd() as u64);
        self.put(control::SLOT_OFFSET, s.offset());
        self.put(control::SLOT_ADDR, region.slot(0));
        self.put(control::FPROG, self.first);
        self.put(control::SECCOMP_FLAGS, self.first_flags);
        self.put(control::EXTRA_ADDR, extra.as_ref().map_or(0, |e| e.addr));
        self.put(control::EXTRA_OFFSET, extra.as_ref().map_or(0, |e| e.offset));
        Ok(Spawned { pid: self.clone_one()?, slot: s })
    }

    /// Has the zygote serve a request whose arguments are in place.
    fn clone_one(&self) -> Result<i32> {
        self.put(control::CLONE_FLAGS, crate::hostcall::FORK_FLAGS);
        self.put(control::KERNEL, sys::getpid() as u64);
        let n = self.word(control::REQUEST).wrapping_add(1);
        self.put(control::REQUEST, n.into());
        // SAFETY: in bounds of the page and aligned.
        unsafe { futex_wake(self.control.as_ptr().add(control::REQUEST).cast()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.word(control::SERVED);
            if seen == n {
                break;
            }
            self.wait(control::SERVED, seen);
            if Instant::now() > deadline {
                return Err(errno::EAGAIN);
            }
        }
        // SAFETY: in bounds of the page and aligned.
        let pid =
            unsafe { self.control.as_ptr().add(control::RESULT).cast::<i64>().read_volatile() };
        if pid < 0 {
            return Err(Errno::from_raw(-pid as i32));
        }
        Ok(pid as i32)
    }
}

impl Spawned {
    /// Waits for the listener descriptor of the new process's filter, as long as the
    /// process is `alive`.
    pub fn listener(&self, alive: impl Fn() -> bool) -> Result<i32> {
        let word = self.slot.word(slot::LISTENER);
        let deadline = Instant::now() + PATIENCE;
        loop {
            // SAFETY: the word is in the slot's mapping, which `self` keeps.
            let v = unsafe { (*word).load(std::sync::atomic::Ordering::Acquire) } as i32;
            match v {
                0 => {}
                v if v < 0 => return Err(Errno::from_raw(-v)),
                v => return Ok(v - 1),
            }
            if Instant::now() > deadline || !alive() {
                return Err(errno::EAGAIN);
            }
            // SAFETY: as above.
            unsafe { futex_wait(word.cast(), 0, Some(Duration::from_millis(100))) };
        }
    }
}

/// Makes the copy by way of a short-lived thread-like child: a clone that shares memory
/// has no restartable-sequence area, robust list or signal stack registered, so its own
/// copy has none that would dangle once everything is unmapped.
fn clone_zygote(plan: &Plan) -> Result<i32> {
    extern "C" fn intermediate(arg: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `arg` is the `Middle` on the suspended parent's stack.
        let m = unsafe { &*arg.cast::<Middle>() };
        let flags = libc::CLONE_PARENT | libc::CLONE_FILES | libc::CLONE_FS;
        // SAFETY: a plain fork-like clone; the child only makes host calls.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: we are the copy, single-threaded, and never return.
            unsafe { become_zygote(&*m.plan) }
        }
        m.result.store(
            if pid < 0 { -sys::last_errno().raw() } else { pid as i32 } as u32,
            std::sync::atomic::Ordering::SeqCst,
        );
        0
    }
    struct Middle {
        plan: *const Plan,
        result: AtomicU32,
    }
    let m = Middle { plan, result: AtomicU32::new(0) };
    let mut stack = vec![0u128; 4096];
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_FS;
    // SAFETY: the child runs on its own stack while this thread is suspended (CLONE_VFORK), and
    // `m` and `stack` outlive it.
    let child =
        unsafe { libc::clone(intermediate, top.cast(), flags, (&raw const m).cast_mut().cast()) };
    if child < 0 {
        return Err(sys::last_errno());
    }
    sys::reap(child);
    drop(stack);
    match m.result.load(std::sync::atomic::Ordering::SeqCst) as i32 {
        0 => Err(errno::EAGAIN),
        r if r < 0 => Err(Errno::from_raw(-r)),
        pid => Ok(pid),
    }
}

/// Turns the calling process, a fresh copy of the kernel process, into the zygote.
///
/// # Safety
/// The caller is single-threaded and gives up its whole address space. Nothing here may
/// allocate or take a lock: other threads' locks are frozen in the copy.
unsafe fn become_zygote(p: &Plan) -> ! {
    // SAFETY: host calls on prepared data; see each group.
    unsafe {
        let all: u64 = !0;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &all, 0usize, 8usize);
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::syscall(libc::SYS_getppid) != p.kernel {
            libc::_exit(127);
        }
        libc::syscall(libc::SYS_setsid);
        libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, c"uml-stub".as_ptr(), 0, 0, 0);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, &none, 0usize);
        if libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            fail(p);
        }
        for signo in 1..=64i32 {
            if signo == libc::SIGKILL || signo == libc::SIGSTOP || signo == libc::SIGCHLD {
                continue;
            }
            let mut flags = libc::SA_SIGINFO as u64 | 0x0400_0000 | p.handler_flags;
            if signo == libc::SIGSEGV || signo == libc::SIGBUS {
                flags |= libc::SA_NODEFER as u64;
            }
            let handler = if HANDLED.contains(&signo) { p.handler } else { libc::SIG_IGN as u64 };
            let sa = KernelSigaction { handler, flags, restorer: p.restorer, mask: p.handler_mask };
            if libc::syscall(libc::SYS_rt_sigaction, signo, &sa, 0usize, 8usize) != 0 {
                fail(p);
            }
        }
        let code_len = p.region.code.end - p.region.code.start;
        let fixed = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
        map(
            p,
            p.region.base,
            code_len as usize,
            libc::PROT_READ | libc::PROT_EXEC,
            fixed,
            p.code_fd,
            0,
        );
        map(p, p.region.data, p.data_len, libc::PROT_READ, fixed, p.code_fd, code_len);
        map(p, p.region.control, 4096, libc::PROT_READ | libc::PROT_WRITE, fixed, p.control_fd, 0);

        if p.frames != 0 {
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            map(p, p.region.slots, p.frames, prot, private, -1, 0);
        }
        // The vDSO moves piece by piece and keeps its layout. A host that seals it
        // (CONFIG_MSEAL_SYSTEM_MAPPINGS) refuses the first piece already.
        let mut moved = true;
        for r in &p.vdso.maps {
            let to = p.region.vdso + (r.start - p.vdso.start());
            let len = r.end - r.start;
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            if libc::syscall(libc::SYS_mremap, r.start, len, len, flags, to) != to as i64 {
                moved = false;
                break;
            }
        }
        let ctl = p.region.control as *mut u8;
        let put = |off: usize, v: u64| ctl.add(off).cast::<u64>().write_volatile(v);
        put(control::SELF_ADDR, p.region.control);
        put(control::SELF_LEN, 4096);
        let top = (p.region.end(), p.region.top - p.region.end());
        let kept = (p.vdso.start(), p.vdso.end());
        let low = if moved || kept.0 == 0 {
            [(0, p.region.base), (0, 0)]
        } else {
            [(0, kept.0), (kept.1, p.region.base - kept.1)]
        };
        let mut i = 0;
        for (addr, len) in [low[0], top, low[1]] {
            if len != 0 {
                put(control::UNMAP + i * 16, addr);
                put(control::UNMAP + i * 16 + 8, len);
                i += 1;
            }
        }
        put(VDSO_STATE, if moved { 1 } else { 2 });
        futex_wake(ctl.add(VDSO_STATE).cast());
        std::arch::asm!("mov rbx, rdi", "jmp rax", in("rdi") ctl, in("rax") p.zygote, options(noreturn));
    }
}

/// Reports the last error and ends the copy.
///
/// # Safety
/// Only in the copy, before it is stripped.
unsafe fn fail(p: &Plan) -> ! {
    // SAFETY: the control page is mapped in the copy as in the parent.
    unsafe {
        let e = sys::last_errno().raw() as u32;
        p.control.add(FAILED).cast::<u32>().write_volatile(e);
        libc::_exit(127)
    }
}

/// # Safety
/// Only in the copy: maps over nothing (MAP_FIXED_NOREPLACE).
unsafe fn map(p: &Plan, addr: u64, len: usize, prot: i32, flags: i32, fd: i32, off: u64) {
    // SAFETY: a fixed address that is free by the flags.
    unsafe {
        if libc::syscall(libc::SYS_mmap, addr, len, prot, flags, fd, off) != addr as i64 {
            fail(p)
        }
    }
}
