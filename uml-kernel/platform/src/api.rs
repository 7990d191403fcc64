//! The contract between the platform and the kernel above it.
//!
//! A [`Space`] is one guest address space (one host process), a [`Context`] one
//! guest thread (one host thread in that process). The platform owns the host
//! threads that run kernel code; for every event of a guest thread it calls
//! [`Runner::on_event`] on some worker thread, which may block, and then resumes
//! the guest. At most one event of a context is being served at any time.

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;

use uml_abi::{Errno, Result};

use crate::view::FileView;

/// Integer registers of a guest thread, laid out like `struct user_regs_struct`
/// (`<sys/user.h>`), which is also what ptrace(2) PTRACE_GETREGS returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Number of the syscall being executed, or -1 outside a syscall.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// A system call as the guest made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syscall {
    pub nr: u64,
    pub args: [u64; 6],
    /// Address after the `syscall` instruction.
    pub ip: u64,
    /// True when the call came by another entry than the 64-bit `syscall`
    /// instruction's table (i386 or x32); `nr` is then that table's number.
    pub foreign_abi: bool,
}

/// A processor exception in guest code, as the host reported it (sigaction(2),
/// `siginfo_t`). Full registers are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP.
    pub signo: i32,
    pub code: i32,
    pub addr: u64,
    /// x86 trap number (14 = page fault) and error code (bit 1 = write, bit 4 = fetch).
    pub trapno: u64,
    pub err: u64,
}

/// Hardware breakpoints of a guest thread: DR0 to DR3 and DR7 of the processor. The kernel above has checked them: addresses
/// of what is enabled are the guest's, types, lengths and alignment valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugRegs {
    pub address: [u64; 4],
    pub control: u64,
}

/// Why a guest thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Syscall(Syscall),
    Exception(Exception),
    /// A [`Kick`] arrived while guest code was running. Full registers are available.
    Interrupted,
    /// The host thread or process is gone (killed from outside, or by its own
    /// misbehaviour). Registers and memory are not available any more.
    Died,
    /// The host refused the call of [`Context::mem_op_last`] with this error; guest code has not
    /// gone on. [`Context::set_return`] says what the system call returns after all.
    Undone(Errno),
}

/// What the platform does after an event was handled.
pub enum Next {
    /// Continue the guest thread with what was set on its context.
    Resume,
    /// The guest thread is finished: end its host thread; when it was the last
    /// context of its space, the host process is killed.
    Exit,
    /// Finish this context as with `Exit` and continue the runner on another
    /// (execve(2)).
    Switch(Box<dyn Context>),
}

/// The kernel's side of a guest thread.
pub trait Runner: Send + Sync {
    /// The context was created; `kick` reaches it from any thread. Called before
    /// the guest thread runs for the first time, and again after [`Next::Switch`].
    fn attached(&self, kick: Arc<dyn Kick>);

    /// Handles one event. Runs on a platform worker thread; may block, inside
    /// [`Platform::blocking`].
    fn on_event(self: Arc<Self>, cx: &mut dyn Context, event: Event) -> Next;
}

/// Interrupts a guest thread from any thread.
pub trait Kick: Send + Sync {
    /// If the guest thread is running guest code, make it stop with
    /// [`Event::Interrupted`] soon. If it is being served, nothing happens now, but the
    /// next resume delivers `Interrupted` at once unless the runner already
    /// consumed the reason; a spurious `Interrupted` is allowed.
    fn kick(&self);

    /// Host thread id of the guest thread, for `/proc/<pid>/task/<tid>` accounting
    /// (CPU time) on the host; 0 when gone.
    fn host_tid(&self) -> i32;

    /// Confines the guest thread to these host CPUs until the next call (sched_setaffinity(2)); nothing when it is gone.
    fn confine(&self, cpus: &[usize]) -> Result<()>;

    /// Where the guest thread stopped, looked at from outside and without disturbing it: a sample, which
    /// may be out of date at once.
    fn stance(&self) -> Stance;
}

/// What is known of a guest thread from outside, see [`Kick::stance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// It runs guest code, or a command of its worker.
    Running,
    /// It waits in a call as guest code made it: the host's `/proc/<tid>/syscall` has the registers.
    InHostCall,
    /// It stopped with these registers.
    Stopped(Stopped),
}

/// The registers that `/proc/<pid>/syscall` is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The registers of the arguments, whether or not it is in a call.
    pub args: [u64; 6],
    pub sp: u64,
    pub pc: u64,
}

impl From<&Regs> for Stopped {
    fn from(r: &Regs) -> Stopped {
        Stopped { args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], sp: r.rsp, pc: r.rip }
    }
}

/// One host memory call to be made in a guest address space. Addresses and lengths
/// are page aligned; `prot` and `flags` are the host's PROT_* and MAP_* bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemOp {
    /// mmap(2); MAP_FIXED is added by the platform. `fd` is a descriptor of the
    /// kernel process (-1 for anonymous memory) that must stay open until the call returns.
    Map {
        addr: u64,
        len: u64,
        prot: i32,
        flags: i32,
        fd: RawFd,
        off: u64,
    },
    Unmap {
        addr: u64,
        len: u64,
    },
    Protect {
        addr: u64,
        len: u64,
        prot: i32,
    },
    /// mremap(2) with MREMAP_MAYMOVE | MREMAP_FIXED when `new` differs from `old`;
    /// `dontunmap` adds MREMAP_DONTUNMAP. `old_len` may be 0 (duplicate a shared mapping).
    Remap {
        old: u64,
        old_len: u64,
        new: u64,
        new_len: u64,
        dontunmap: bool,
    },
    Advise {
        addr: u64,
        len: u64,
        advice: i32,
    },
    /// mlock2(2)/munlock(2), msync(2): for completeness of the host's view.
    Lock {
        addr: u64,
        len: u64,
        flags: i32,
    },
    Unlock {
        addr: u64,
        len: u64,
    },
    Sync {
        addr: u64,
        len: u64,
        flags: i32,
    },
}

/// A guest address space. All methods may be called from any thread.
pub trait Space: Send + Sync {
    /// Copies guest memory into `buf`; returns how many bytes were copied before the
    /// first inaccessible page (process_vm_readv(2)). Never touches kernel memory
    /// through a guest pointer.
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize;
    /// Copies `buf` into guest memory; returns how many bytes were copied.
    fn write(&self, addr: u64, buf: &[u8]) -> usize;
    /// Copies `buf` into guest memory whatever its protection is (ptrace(2) PTRACE_POKETEXT): a private page is
    /// copied for that, a shared one that cannot be written is refused. Returns how many bytes were copied.
    fn poke(&self, addr: u64, buf: &[u8]) -> usize;
    /// Scatter read: guest ranges `(addr, len)` in order into `buf`.
    fn read_vectored(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> usize;
    /// Gather write of `buf` to guest ranges in order.
    fn write_vectored(&self, ranges: &[(u64, usize)], buf: &[u8]) -> usize;
    /// Copies bytes `off..off + len` of a memory file into guest memory; returns how many were copied before the first
    /// page that the guest or the file has not.
    fn write_view(&self, addr: u64, view: &FileView, off: u64, len: usize) -> usize;
    /// Kills the host process of the space; every context of it ends with [`Event::Died`].
    fn kill(&self);
    /// Pid of the host process (for resident-set sampling in its /proc); 0 when gone.
    fn host_pid(&self) -> i32;
}

/// Turns a boxed context back into its platform's own type; implemented for every type.
pub trait IntoAny {
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<T: Any + Send> IntoAny for T {
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// A guest thread that is stopped and exclusively held by the caller.
pub trait Context: IntoAny + Send {
    fn space(&self) -> &Arc<dyn Space>;

    fn kick_handle(&self) -> Arc<dyn Kick>;

    /// Sets the value the pending system call returns. Exactly one of `set_return` and
    /// [`Context::pass_through`] must be called for a `Syscall` event that ends in
    /// [`Next::Resume`], unless `regs_mut` was used to write a complete register set.
    fn set_return(&mut self, value: i64);

    /// Lets the host perform the pending call exactly as the guest issued it, in the
    /// guest's own thread. Only for calls the kernel has fully checked: munmap,
    /// mprotect, madvise, msync, mincore, mlock*, arch_prctl. The guest receives the host's result.
    fn pass_through(&mut self);

    /// Has the host make the call of [`Context::pass_through`] now; its result is also what the call returns.
    fn complete(&mut self) -> Result<i64>;

    /// Makes `call` the pending one, with its outcome open again: a tracer changed it, or it starts over.
    fn set_call(&mut self, call: Syscall);

    /// Full registers. Fails with `ESRCH` when the context died. May stop the guest
    /// thread inside the stub first (about 3 us).
    fn regs(&mut self) -> Result<Regs>;

    /// Replaces all registers (sanitised: selectors and privileged flag bits are the
    /// platform's). Pending `set_return`/`pass_through` are dropped.
    fn set_regs(&mut self, regs: &Regs) -> Result<()>;

    /// The extended state (x87, SSE, AVX, ...) in the layout of the host's signal frames:
    /// the XSAVE area followed by FP_XSTATE_MAGIC2, starting with the legacy FXSAVE image whose
    /// `sw_reserved` bytes describe it (`struct _fpx_sw_bytes`, `<asm/sigcontext.h>`).
    fn xstate(&mut self) -> Result<Vec<u8>>;

    /// Appends what [`Context::xstate`] returns to `out`.
    fn append_xstate(&mut self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.xstate()?);
        Ok(())
    }

    /// Replaces the extended state. Accepts what [`Context::xstate`] returns or a bare
    /// 512-byte FXSAVE image; anything malformed is `EINVAL`. `None` resets to the initial state.
    fn set_xstate(&mut self, state: Option<&[u8]>) -> Result<()>;

    /// Makes host memory calls in this thread's address space, in order. On failure
    /// returns the index of the call that failed; earlier ones stay done.
    fn mem_ops(&mut self, ops: &[MemOp]) -> Result<(), (usize, Errno)>;

    /// As [`Context::mem_ops`] for one call, which may be made after this returns, as the last thing
    /// before guest code goes on (`true`): a crossing less. A failure then comes back as
    /// [`Event::Undone`]; any other event proves that the call was made.
    fn mem_op_last(&mut self, op: &MemOp) -> Result<bool> {
        self.mem_ops(std::slice::from_ref(op)).map_err(|(_, e)| e)?;
        Ok(false)
    }

    /// Makes the call that [`Context::mem_op_last`] left for later now.
    fn finish_ops(&mut self) -> Result<()> {
        Ok(())
    }

    /// Where the guest's thread would map the anonymous memory it asks for: if
    /// [`Context::mem_op_last`] is given just that call, no further crossing is needed.
    fn proposed_mapping(&self) -> Option<u64> {
        None
    }

    /// Has the thread propose the addresses just below `top` from now on; 0 for no proposals.
    fn suggest_mappings_below(&mut self, _top: u64) {}

    /// `lock cmpxchg` of a 32-bit word in guest memory: returns the value found. The
    /// caller has checked that the page is mapped writable; `EFAULT` otherwise.
    fn cmpxchg32(&mut self, addr: u64, old: u32, new: u32) -> Result<u32>;

    /// Sets the thread's hardware breakpoints; a hit is an [`Event::Exception`] with SIGTRAP. New threads and processes have
    /// none. Fails with what ptrace(2) of the host says.
    fn set_debug_registers(&mut self, regs: &DebugRegs) -> Result<()>;

    /// DR6 after the thread's last debug exception: bit n for breakpoint n, bit 14 for a single step.
    fn debug_status(&mut self) -> Result<u64>;

    /// Starts a new guest thread in the same space with `regs` and a copy of this
    /// context's extended state. `runner.attached` is called before it runs.
    fn spawn_thread(&mut self, runner: Arc<dyn Runner>, regs: &Regs) -> Result<()>;

    /// Duplicates the space (host fork: private memory copy-on-write, shared memory
    /// shared) with one thread in it that starts with `regs` and a copy of the extended
    /// state. `prepare` receives the new space before the thread runs.
    fn fork(
        &mut self,
        regs: &Regs,
        prepare: &mut dyn FnMut(Arc<dyn Space>) -> Arc<dyn Runner>,
    ) -> Result<()>;
}

/// Address-space limits that follow from the host and the stub's place.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Lowest address the guest may map (host vm.mmap_min_addr).
    pub user_min: u64,
    /// First address the guest may not map (page aligned).
    pub user_max: u64,
    /// Bytes of extended state in a signal frame, including FP_XSTATE_MAGIC2.
    pub xstate_size: usize,
    /// Address of the host's `__vdso_clock_gettime` and `__vdso_getcpu` inside every
    /// space, 0 when the host has none.
    pub host_clock_gettime: u64,
    pub host_getcpu: u64,
    /// Host CPUs the machine may use.
    pub ncpus: usize,
    /// Guest threads may register with rseq(2) on the host: whatever interrupts them there ends their critical sections.
    pub rseq: bool,
}

/// A way of running guest code.
pub trait Platform: Send + Sync {
    /// `"notify"`, `"trap"` or `"ptrace"`.
    fn name(&self) -> &'static str;

    fn limits(&self) -> Limits;

    /// A fresh, empty address space with one stopped context in it. The context runs
    /// when it is handed over with [`Next::Switch`] or [`Platform::start`].
    fn new_space(&self) -> Result<Box<dyn Context>>;

    /// Starts a context made by [`Platform::new_space`] (the first guest process).
    fn start(&self, cx: Box<dyn Context>, runner: Arc<dyn Runner>) -> Result<()>;

    /// Runs `f`, which may sleep, on a worker thread: tells the platform that this worker
    /// does not serve events meanwhile. Cheap; required around every sleep.
    fn blocking(&self, f: &mut dyn FnMut());

    /// The calling worker, in the middle of an event, is about to sleep for its guest thread. True when
    /// that took a while, so that what is waited for should be looked at once more.
    fn about_to_sleep(&self) -> bool {
        false
    }

    /// Whether [`Context::set_debug_registers`] can work: an unprivileged process may not always trace its children, and
    /// the host's breakpoints may be taken. Tried once, on a process of no guest.
    fn has_debug_registers(&self) -> bool;

    /// Kills every stub process and stops serving; used at halt and before re-exec.
    fn shutdown(&self);
}
