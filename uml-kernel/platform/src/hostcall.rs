//! Host calls the kernel has made in a guest's address space.

use std::ops::Range;

use uml_abi::errno;
use uml_stub::slot;

use crate::api::MemOp;
use crate::process::HostProcess;
use crate::seccomp::arena::Slot;

/// A host call with all its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub nr: i64,
    pub args: [u64; 6],
}

impl Call {
    pub fn new(nr: i64, args: [u64; 6]) -> Call {
        Call { nr, args }
    }

    /// The call that carries out `op`.
    pub fn of(op: &MemOp) -> Call {
        match *op {
            MemOp::Map { addr, len, prot, flags, fd, off } => {
                let flags = flags | libc::MAP_FIXED;
                Call::new(
                    libc::SYS_mmap,
                    [addr, len, prot as u64, flags as u64, fd as i64 as u64, off],
                )
            }
            MemOp::Unmap { addr, len } => Call::new(libc::SYS_munmap, [addr, len, 0, 0, 0, 0]),
            MemOp::Protect { addr, len, prot } => {
                Call::new(libc::SYS_mprotect, [addr, len, prot as u64, 0, 0, 0])
            }
            MemOp::Remap { old, old_len, new, new_len, dontunmap } => {
                let mut flags = 0;
                if new != old {
                    flags |= libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                }
                if dontunmap {
                    flags |= libc::MREMAP_DONTUNMAP | libc::MREMAP_MAYMOVE;
                }
                Call::new(libc::SYS_mremap, [old, old_len, new_len, flags as u64, new, 0])
            }
            MemOp::Advise { addr, len, advice } => {
                Call::new(libc::SYS_madvise, [addr, len, advice as u64, 0, 0, 0])
            }
            MemOp::Lock { addr, len, flags } => {
                Call::new(libc::SYS_mlock2, [addr, len, flags as u64, 0, 0, 0])
            }
            MemOp::Unlock { addr, len } => Call::new(libc::SYS_munlock, [addr, len, 0, 0, 0, 0]),
            MemOp::Sync { addr, len, flags } => {
                Call::new(libc::SYS_msync, [addr, len, flags as u64, 0, 0, 0])
            }
        }
    }
}

/// The guest ranges an operation touches, to keep all of them below the guest's limit.
pub fn op_in_bounds(op: &MemOp, user_max: u64) -> bool {
    let ok = |addr: u64, len: u64| addr.checked_add(len).is_some_and(|end| end <= user_max);
    match *op {
        MemOp::Map { addr, len, .. }
        | MemOp::Unmap { addr, len }
        | MemOp::Protect { addr, len, .. }
        | MemOp::Advise { addr, len, .. }
        | MemOp::Lock { addr, len, .. }
        | MemOp::Unlock { addr, len }
        | MemOp::Sync { addr, len, .. } => ok(addr, len),
        MemOp::Remap { old, old_len, new, new_len, .. } => ok(old, old_len) && ok(new, new_len),
    }
}

/// Whether a pending call of the guest may be passed to the host at all: the kernel above
/// has checked what it means, this checks that it cannot touch the stub.
pub fn may_pass(nr: u64, args: &[u64; 6], user_max: u64) -> bool {
    match nr as i64 {
        // Touches no memory.
        libc::SYS_membarrier => true,
        libc::SYS_arch_prctl => (0x1001..=0x1004).contains(&(args[0] as u32)),
        // The host writes there for as long as the thread lives.
        libc::SYS_rseq => {
            args[0].checked_add(args[1] & 0xffff_ffff).is_some_and(|end| end <= user_max)
        }
        libc::SYS_munmap
        | libc::SYS_mprotect
        | libc::SYS_madvise
        | libc::SYS_msync
        | libc::SYS_mincore
        | libc::SYS_mlock
        | libc::SYS_mlock2
        | libc::SYS_munlock => {
            let len = args[1].checked_next_multiple_of(4096);
            len.and_then(|len| args[0].checked_add(len)).is_some_and(|end| end <= user_max)
        }
        _ => false,
    }
}

/// arch_prctl(2) for the segment bases (fs, gs) of a thread whose registers are the kernel's
/// copy; what it returns.
pub fn arch_prctl(process: &HostProcess, bases: &mut (u64, u64), args: [u64; 6]) -> i64 {
    let (code, arg) = (args[0] as u32, args[1]);
    let get = |v: u64| match process.write(&[(arg, 8)], &v.to_ne_bytes()) {
        8 => 0,
        _ => errno::EFAULT.to_ret(),
    };
    match code {
        0x1003 => return get(bases.0),
        0x1004 => return get(bases.1),
        _ if arg >= 1 << 47 => return errno::EPERM.to_ret(),
        0x1001 => bases.1 = arg,
        0x1002 => bases.0 = arg,
        _ => return errno::EINVAL.to_ret(),
    }
    0
}

/// Maps the slot at `offset` of the arena.
pub fn map_slot(slot_addr: u64, arena_fd: i32, offset: u64) -> Call {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let args = [slot_addr, slot::SIZE as u64, prot as u64, flags as u64, arena_fd as u64, offset];
    Call::new(libc::SYS_mmap, args)
}

/// Maps a page of the arena read-only.
pub fn map_page(addr: u64, arena_fd: i32, offset: u64) -> Call {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let args = [addr, 4096, libc::PROT_READ as u64, flags as u64, arena_fd as u64, offset];
    Call::new(libc::SYS_mmap, args)
}

/// Writes an operation list into a slot or request page.
pub fn put_calls(s: &Slot, calls: &[Call]) {
    for (i, c) in calls.iter().enumerate() {
        let at = slot::OPS + i * slot::OP_SIZE;
        s.put(at, c.nr as u64);
        for (k, &a) in c.args.iter().enumerate() {
            s.put(at + 8 + k * 8, a);
        }
    }
}

/// The calls a new process makes before its first event, see the stub's fork.
pub fn fork_child_calls(
    slot_addr: u64,
    arena_fd: i32,
    offset: u64,
    slots: Range<u64>,
) -> Vec<Call> {
    let size = slot::SIZE as u64;
    let mut calls = vec![map_slot(slot_addr, arena_fd, offset)];
    if slots.start < slot_addr {
        calls.push(Call::new(libc::SYS_munmap, [slots.start, slot_addr - slots.start, 0, 0, 0, 0]));
    }
    if slot_addr + size < slots.end {
        let after = slot_addr + size;
        calls.push(Call::new(libc::SYS_munmap, [after, slots.end - after, 0, 0, 0, 0]));
    }
    calls
}

/// Flags of the host clones.
pub const FORK_FLAGS: u64 = (libc::CLONE_PARENT | libc::CLONE_FILES | libc::CLONE_FS) as u64;
pub const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

pub fn clone_call(flags: u64) -> Call {
    Call::new(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])
}
