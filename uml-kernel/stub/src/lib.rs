//! The stub: the only code of ours that runs inside a guest process.
//!
//! It is a position-independent blob of x86-64 assembly that the platform copies into a
//! sealed memory file and maps at the top of every guest address space. It holds the
//! signal handlers of guest threads, the host calls they make for the kernel, and the
//! zygote that makes new guest processes. It uses no vector registers and, between the
//! signal frame and `rt_sigreturn`, no stack, so the extended state of a guest thread
//! never leaves its host thread and another guest thread has no return address to
//! overwrite.
//!
//! Key items: [`code`], the entry points in [`entry`], the layout of a thread's context
//! slot in [`slot`] and of the zygote's control page in [`control`].
//! Neighbours: `uml-platform` above, nothing below. No policy belongs here: everything
//! the stub writes is untrusted input to the kernel, because guest code can reach it.
#![no_std]

mod blob;
pub mod vdso;

pub use blob::{code, entry};

/// Layout of a context slot: shared memory between the kernel and one guest thread.
///
/// The header and the operation list are in the first page, the rest is the alternate
/// signal stack. Slots are aligned to their size, so that a handler finds its header
/// from its stack pointer.
pub mod slot {
    /// Bytes per slot.
    pub const SIZE: usize = 32 * 1024;
    /// Offset of the alternate signal stack.
    pub const STACK: usize = 4096;

    /// Signal number of the last handler entry (u64).
    pub const SIGNO: usize = 0x00;
    /// Guest address of its `siginfo_t`.
    pub const SIGINFO: usize = 0x08;
    /// Guest address of its `ucontext_t`.
    pub const UCONTEXT: usize = 0x10;
    /// fs base, stored by the handler, loaded at resume when asked by [`FLAGS`].
    pub const FS_BASE: usize = 0x18;
    /// gs base, likewise.
    pub const GS_BASE: usize = 0x20;
    /// Stack pointer for `rt_sigreturn`: the address of the `ucontext_t` to load.
    pub const RESUME_SP: usize = 0x28;
    /// [`FLAG_FS`], [`FLAG_GS`], [`FLAG_NO_FSGSBASE`].
    pub const FLAGS: usize = 0x30;
    /// New process: listener descriptor + 1, or a negative errno; 0 while not known (i32, futex).
    pub const LISTENER: usize = 0x38;
    /// Arguments of [`super::cmd::CMPXCHG`].
    pub const CMPXCHG_ADDR: usize = 0x40;
    pub const CMPXCHG_OLD: usize = 0x48;
    pub const CMPXCHG_NEW: usize = 0x50;
    /// Arguments of [`super::cmd::FORK`] and [`super::cmd::THREAD`].
    pub const CLONE_FLAGS: usize = 0x58;
    /// Descriptor of the slot arena.
    pub const ARENA_FD: usize = 0x60;
    /// Arena offset of the new thread's slot (fork), or guest address of its slot (thread).
    pub const CHILD_SLOT: usize = 0x68;
    /// First and end address of the part of the slot region that may hold slots of the
    /// parent; the child of a fork unmaps all of it but its own slot.
    pub const SLOTS_START: usize = 0x70;
    pub const SLOTS_END: usize = 0x78;
    /// Pid of the kernel process; the child of a fork ends when that is not its parent.
    pub const KERNEL: usize = 0xa8;
    /// Notify backend: end of the free range where the next anonymous mapping goes; 0 when the kernel
    /// is to be asked.
    pub const MAP_TOP: usize = 0xb0;
    /// Trap backend and parked threads: whose turn it is (u32, futex): 0 the guest's, else the kernel's. In a
    /// mapper's slot: number of the last request done.
    pub const TURN: usize = 0x80;
    /// Likewise: what the kernel wants ([`super::cmd`]).
    pub const COMMAND: usize = 0x88;
    /// Trap backend: operations done or failure flag, and result.
    pub const DONE: usize = 0x90;
    pub const RESULT: usize = 0x98;
    /// Trap backend: nonzero until the host thread has ended (u32, CLONE_CHILD_CLEARTID).
    pub const TID: usize = 0xa0;
    /// Operation list: [`OPS_MAX`] entries of [`OP_SIZE`] bytes: number and six arguments.
    pub const OPS: usize = 0x100;
    pub const OP_SIZE: usize = 64;
    pub const OPS_MAX: usize = (STACK - OPS) / OP_SIZE;

    pub const FLAG_FS: u64 = 1;
    pub const FLAG_GS: u64 = 2;
    /// The CPU or host lacks the FSGSBASE instructions: use arch_prctl(2).
    pub const FLAG_NO_FSGSBASE: u64 = 4;
    /// Events are handed over by futex (trap backend), not by notification.
    pub const FLAG_FUTEX: u64 = 8;
}

/// Commands: the value the kernel gives back from an event. Small numbers are counts
/// of operations to run.
pub mod cmd {
    /// Load the frame at `RESUME_SP` and return to guest code.
    pub const RESUME: u64 = 0;
    /// `lock cmpxchg` of a 32-bit word.
    pub const CMPXCHG: u64 = 0x101;
    /// Duplicate the process.
    pub const FORK: u64 = 0x102;
    /// Start another thread.
    pub const THREAD: u64 = 0x103;
    /// End this thread.
    pub const EXIT: u64 = 0x104;
    /// Make the first operation of the list, then as [`RESUME`]; report when it fails.
    pub const LAST: u64 = 0x106;
    /// Wait by futex, as in the trap backend, until the kernel has another command.
    pub const PARK: u64 = 0x107;
    /// To a mapper: acknowledge, then end the process.
    pub const QUIT: u64 = 0x105;
}

/// First argument of an event.
pub mod event {
    /// The handler was entered.
    pub const ENTRY: u64 = 0;
    /// A command was carried out.
    pub const DONE: u64 = 1;
    /// The host refused what a new process or thread needs.
    pub const REFUSED: u64 = 2;
    /// The host refused the call of [`super::cmd::LAST`], or the mapping a thread proposed; the third
    /// argument is its result.
    pub const UNDONE: u64 = 3;
}

/// Layout of a mapper's request page: written by the kernel, read-only in the guest.
/// Operations are at [`slot::OPS`] as in a slot.
pub mod request {
    /// Number of the request (u32, futex).
    pub const SEQ: usize = 0x00;
    /// [`super::cmd::FORK`], [`super::cmd::THREAD`], or 0 to run the operation list.
    pub const COMMAND: usize = 0x08;
    /// Operations in the list.
    pub const COUNT: usize = 0x10;
    pub const CLONE_FLAGS: usize = 0x18;
    /// Guest address of a new thread's slot and of its `sock_fprog`.
    pub const CHILD_SLOT: usize = 0x20;
    pub const FPROG: usize = 0x28;
    /// Pid of the kernel process.
    pub const KERNEL: usize = 0x30;
}

/// Layout of the zygote's control page, shared by the kernel and the zygote alone.
pub mod control {
    /// Request number, incremented by the kernel (u32, futex).
    pub const REQUEST: usize = 0x00;
    /// Request number last served (u32, futex).
    pub const SERVED: usize = 0x08;
    /// Result of the clone: pid or negative errno (i64).
    pub const RESULT: usize = 0x10;
    /// Arena descriptor, arena offset and guest address of the new process's slot.
    pub const ARENA_FD: usize = 0x18;
    pub const SLOT_OFFSET: usize = 0x20;
    pub const SLOT_ADDR: usize = 0x28;
    /// Clone flags.
    pub const CLONE_FLAGS: usize = 0x30;
    /// Guest address of the `sock_fprog` and flags for seccomp(2).
    pub const FPROG: usize = 0x38;
    pub const SECCOMP_FLAGS: usize = 0x40;
    /// Guest address and arena offset of the mapper's request page; 0 without a mapper.
    pub const EXTRA_ADDR: usize = 0x58;
    pub const EXTRA_OFFSET: usize = 0x70;
    /// Address and length of this page as mapped in the zygote.
    pub const SELF_ADDR: usize = 0x48;
    pub const SELF_LEN: usize = 0x50;
    /// Pid of the kernel process.
    pub const KERNEL: usize = 0x78;
    /// Nonzero: new processes wait for a tracer instead of taking a slot and a filter.
    pub const TRACED: usize = 0x100;
    /// Up to [`UNMAP_MAX`] ranges (address, length) the zygote unmaps first; ended by length 0.
    pub const UNMAP: usize = 0x80;
    pub const UNMAP_MAX: usize = 8;
}

/// Number of the call that raises an event: harmless and permitted everywhere (getppid).
pub const EVENT_NR: u64 = 110;

/// First argument that makes the call not an event but what it is: the parent's pid.
pub const REAL_GETPPID: u64 = 0x1001;

/// Flags of the mapping a thread proposes for mmap(2) of private anonymous memory without an address:
/// MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE.
pub const PROPOSED_FLAGS: u64 = 0x4032;
