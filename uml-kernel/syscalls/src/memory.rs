//! Memory: mmap and its relatives.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::{Ctx, Reply};
use uml_core::memory::{self, commit};
use uml_core::task::{Cap, Resource};
use uml_core::user;
use uml_fs::secretmem::SecretFile;
use uml_mm::vma::{Backing, PROT_ALL, PROT_READ, PROT_WRITE, Purpose, Vma};
use uml_mm::{HostCall, MapRequest, PAGE, Placed};

use crate::call;
use crate::table::Entry;

pub const TABLE: &[Entry] = &[
    call!(9, "mmap", mmap(Addr, Size, Flags, Flags, Fd, Off)),
    call!(10, "mprotect", mprotect(Addr, Size, Flags)),
    call!(11, "munmap", munmap(Addr, Size)),
    call!(12, "brk", brk(Addr)),
    call!(25, "mremap", mremap(Addr, Size, Size, Flags, Addr)),
    call!(26, "msync", msync(Addr, Size, Flags)),
    call!(27, "mincore", mincore(Addr, Size, Out)),
    call!(28, "madvise", madvise(Addr, Size, Int)),
    call!(149, "mlock", mlock(Addr, Size)),
    call!(150, "munlock", munlock(Addr, Size)),
    call!(151, "mlockall", mlockall(Flags)),
    call!(152, "munlockall", munlockall()),
    call!(216, "remap_file_pages", remap_file_pages(Addr, Size, Int, Size, Flags)),
    call!(
        237,
        "mbind",
        refuse_numa(),
        Never,
        Refused("one memory node; ENOSYS as without CONFIG_NUMA")
    ),
    call!(
        238,
        "set_mempolicy",
        refuse_numa(),
        Never,
        Refused("one memory node; ENOSYS as without CONFIG_NUMA")
    ),
    call!(
        239,
        "get_mempolicy",
        refuse_numa(),
        Never,
        Refused("one memory node; ENOSYS as without CONFIG_NUMA")
    ),
    call!(325, "mlock2", mlock2(Addr, Size, Flags)),
    call!(
        329,
        "pkey_mprotect",
        pkey_mprotect(Addr, Size, Flags, Int),
        Never,
        Partial("only pkey -1")
    ),
    call!(330, "pkey_alloc", refuse_pkey(), Never, Refused("no protection keys; ENOSPC")),
    call!(331, "pkey_free", no_key(), Never, Refused("no protection keys; EINVAL")),
];

const PROT_KNOWN: u32 = PROT_ALL;

fn mmap(
    cx: &mut Ctx<'_>,
    addr: u64,
    len: u64,
    prot: u64,
    flags: u64,
    fd: i32,
    off: u64,
) -> Result<u64> {
    let flags = flags as i32;
    if off & (PAGE - 1) != 0 {
        return Err(EINVAL);
    }
    let file = if flags & libc::MAP_ANONYMOUS == 0 { Some(cx.task.file(fd)?) } else { None };
    if len == 0 {
        return Err(EINVAL);
    }
    let kind = flags & libc::MAP_TYPE;
    if !matches!(kind, libc::MAP_SHARED | libc::MAP_PRIVATE | libc::MAP_SHARED_VALIDATE) {
        return Err(EINVAL);
    }
    let shared = kind != libc::MAP_PRIVATE;
    if flags & libc::MAP_ANONYMOUS != 0 && kind == libc::MAP_SHARED_VALIDATE {
        return Err(EINVAL);
    }
    let prot = prot as u32 & PROT_KNOWN;
    let mut may = PROT_ALL;
    let shared_memory = shared && flags & libc::MAP_ANONYMOUS != 0;
    let mut secret = false;
    let backing = if let Some(file) = file {
        if !file.readable() {
            return Err(EACCES);
        }
        if shared && !file.writable() {
            if prot & PROT_WRITE != 0 {
                return Err(EACCES);
            }
            may &= !PROT_WRITE;
        }
        if file.path.noexec() {
            if prot & uml_mm::vma::PROT_EXEC != 0 {
                return Err(EPERM);
            }
            may &= !uml_mm::vma::PROT_EXEC;
        }
        if shared && !file.ops.may_map_writable() {
            // memfd_create(2) F_SEAL_WRITE, F_SEAL_FUTURE_WRITE.
            if prot & PROT_WRITE != 0 {
                return Err(EPERM);
            }
            may &= !PROT_WRITE;
        }
        if off.checked_add(len).is_none_or(|e| e > i64::MAX as u64) {
            return Err(EOVERFLOW);
        }
        let known = libc::MAP_FIXED
            | libc::MAP_TYPE
            | libc::MAP_NORESERVE
            | libc::MAP_POPULATE
            | libc::MAP_NONBLOCK
            | libc::MAP_LOCKED
            | libc::MAP_STACK
            | libc::MAP_DENYWRITE
            | libc::MAP_EXECUTABLE
            | libc::MAP_GROWSDOWN
            | libc::MAP_32BIT
            | libc::MAP_ANONYMOUS
            | libc::MAP_HUGETLB
            | libc::MAP_HUGE_2MB
            | libc::MAP_HUGE_1GB
            | libc::MAP_FIXED_NOREPLACE;
        if kind == libc::MAP_SHARED_VALIDATE && flags & !known != 0 {
            return Err(EOPNOTSUPP);
        }
        secret = file.downcast::<SecretFile>().is_some();
        if secret && !shared {
            return Err(EINVAL);
        }
        let object = file.ops.mappable()?;
        object.check_range(off, len.checked_next_multiple_of(PAGE).ok_or(ENOMEM)?)?;
        Some(Backing { object: uml_core::shm::MappedFile::wrap(file, object), off })
    } else {
        if flags & libc::MAP_HUGETLB != 0 {
            // No huge page pool: as on a machine with none reserved.
            return Err(ENOMEM);
        }
        if shared { Some(Backing { object: uml_core::shm::anonymous(len)?, off: 0 }) } else { None }
    };
    if flags & libc::MAP_LOCKED != 0 {
        // mmap(2): the limit shows as EAGAIN here.
        check_lock_limit(cx, len).map_err(|e| if e == ENOMEM { EAGAIN } else { e })?;
    }
    if secret {
        // It is never swapped: memfd_secret(2), EAGAIN of mmap(2).
        check_lock_limit(cx, len.next_multiple_of(PAGE)).map_err(|_| EAGAIN)?;
    }
    check_address_space(cx, len)?;
    if prot & PROT_WRITE != 0 && !shared {
        check_data(cx, len)?;
    }
    let noreserve = flags & libc::MAP_NORESERVE != 0 && commit::noreserve_counts(&cx.task.kernel());
    if prot & PROT_WRITE != 0 && !shared && !noreserve || shared_memory {
        commit::check(&cx.task, len)?;
    }
    let anywhere =
        addr == 0 && flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE | libc::MAP_32BIT) == 0;
    let fill = cx.task.mm()?.map().fill_future;
    let proposed = if anywhere && !fill { cx.hw.proposed_mapping() } else { None };
    let req = MapRequest {
        addr: proposed.unwrap_or(addr),
        len,
        prot,
        may,
        shared,
        fixed: flags & libc::MAP_FIXED != 0,
        noreplace: flags & libc::MAP_FIXED_NOREPLACE != 0,
        growsdown: flags & libc::MAP_GROWSDOWN != 0,
        noreserve,
        locked: secret || flags & libc::MAP_LOCKED != 0,
        low: flags & libc::MAP_32BIT != 0,
        populate: fill
            || flags & (libc::MAP_POPULATE | libc::MAP_LOCKED) != 0
                && flags & libc::MAP_NONBLOCK == 0,
        purpose: if secret { Purpose::Secret } else { Purpose::Normal },
        backing,
    };
    let mm = cx.task.mm()?;
    let at = match late(cx).filter(|_| !secret) {
        Some(tid) => mm.mmap_last(cx.hw, tid, &req)?,
        None => Placed { addr: mm.mmap(cx.hw, &req)?, last: false },
    };
    if secret {
        // The host's area is to be like ours: one that differs in a mark is two areas for mremap(2).
        let (addr, len) = (at.addr, len.next_multiple_of(PAGE));
        let op = uml_platform::MemOp::Advise { addr, len, advice: libc::MADV_DONTDUMP };
        cx.hw.mem_ops(&[op]).map_err(|(_, e)| e)?;
    }
    if anywhere {
        cx.hw.suggest_mappings_below(at.addr);
    }
    memory::grown();
    Ok(placed(cx, at))
}

/// The thread that may make a host call as the last thing before it goes on: a tracer wants to see
/// the outcome first.
fn late(cx: &Ctx<'_>) -> Option<i32> {
    (!cx.task.ptrace.minds_calls()).then_some(cx.task.tid)
}

fn placed(cx: &Ctx<'_>, at: Placed) -> u64 {
    if at.last {
        cx.task.unsettled.store(true, Ordering::Relaxed);
    }
    at.addr
}

/// RLIMIT_AS.
fn check_address_space(cx: &Ctx<'_>, more: u64) -> Result<()> {
    let limit = cx.task.rlimit(Resource::As);
    if limit == u64::MAX {
        return Ok(());
    }
    let used = cx.task.mm()?.map().vmas.total(|_| true);
    if used.saturating_add(more) > limit { Err(ENOMEM) } else { Ok(()) }
}

/// RLIMIT_DATA: private writable memory other than stacks.
fn check_data(cx: &Ctx<'_>, more: u64) -> Result<()> {
    let limit = cx.task.rlimit(Resource::Data);
    if limit == u64::MAX {
        return Ok(());
    }
    let data = |v: &Vma| {
        let stack = v.flags.growsdown || v.flags.purpose == Purpose::Stack;
        v.flags.prot & PROT_WRITE != 0 && !v.flags.shared && !stack
    };
    let used = cx.task.mm()?.map().vmas.total(data);
    if used.saturating_add(more) > limit { Err(ENOMEM) } else { Ok(()) }
}

/// RLIMIT_MEMLOCK (mlock(2)).
fn check_lock_limit(cx: &Ctx<'_>, more: u64) -> Result<()> {
    if cx.task.cred().capable(Cap::IpcLock) {
        return Ok(());
    }
    let limit = cx.task.rlimit(Resource::Memlock);
    if limit == 0 {
        return Err(EPERM);
    }
    let used = cx.task.mm()?.map().vmas.total(|v| v.flags.locked);
    if used.saturating_add(more) > limit { Err(ENOMEM) } else { Ok(()) }
}

fn finish(cx: &mut Ctx<'_>, call: HostCall) -> Result<u64> {
    if call == HostCall::PassThrough {
        cx.reply = Reply::PassThrough;
    }
    Ok(0)
}

fn munmap(cx: &mut Ctx<'_>, addr: u64, len: u64) -> Result<u64> {
    let mm = cx.task.mm()?;
    let call = mm.munmap(cx.task.tid, addr, len)?;
    if call == HostCall::PassThrough {
        cx.task.unsettled.store(true, Ordering::Relaxed);
    }
    cx.hw.suggest_mappings_below(mm.room_end(addr));
    finish(cx, call)
}

fn mprotect(cx: &mut Ctx<'_>, addr: u64, len: u64, prot: u64) -> Result<u64> {
    let grows = (libc::PROT_GROWSDOWN | libc::PROT_GROWSUP) as u64;
    if prot & grows == grows || prot & !(u64::from(PROT_KNOWN) | grows) != 0 {
        return Err(EINVAL);
    }
    if prot & grows != 0 {
        if prot & libc::PROT_GROWSUP as u64 != 0 {
            // No stack grows upwards on x86.
            return Err(EINVAL);
        }
        let mm = cx.task.mm()?;
        let bottom = mm.stack_bottom(addr, len)?;
        let (start, end) = mm.range(addr, len)?;
        let (addr, len) = (bottom.min(start), end - bottom.min(start));
        let prot = prot & !grows;
        let call = cx.task.mm()?.mprotect(cx.hw, addr, len, prot as u32)?;
        if call == HostCall::PassThrough {
            return apply_protection(cx, addr, len, prot as i32);
        }
        return Ok(0);
    }
    if prot & u64::from(PROT_WRITE) != 0 {
        check_promise(cx, addr, len)?;
    }
    let call = cx.task.mm()?.mprotect(cx.hw, addr, len, prot as u32)?;
    memory::grown();
    finish(cx, call)
}

/// May the private memory of a range that is not writable yet become so?
fn check_promise(cx: &Ctx<'_>, addr: u64, len: u64) -> Result<()> {
    let mm = cx.task.mm()?;
    // A bad range is found by what follows.
    let Ok((start, end)) = mm.range(addr, len) else { return Ok(()) };
    let becomes_data = |v: &&Vma| !v.flags.shared && v.flags.prot & PROT_WRITE == 0;
    let inside = |v: &Vma| v.end.min(end) - v.start.max(start);
    let (data, promise): (u64, u64) = {
        let map = mm.map();
        let new = map.vmas.overlapping(start, end).filter(becomes_data);
        new.fold((0, 0), |(d, p), v| {
            (d + inside(v), p + if v.flags.noreserve { 0 } else { inside(v) })
        })
    };
    check_data(cx, data)?;
    commit::check(&cx.task, promise)
}

fn apply_protection(cx: &mut Ctx<'_>, addr: u64, len: u64, prot: i32) -> Result<u64> {
    let (start, end) = cx.task.mm()?.range(addr, len)?;
    let op = uml_platform::MemOp::Protect { addr: start, len: end - start, prot };
    cx.hw.mem_ops(&[op]).map_err(|(_, e)| e)?;
    Ok(0)
}

fn pkey_mprotect(cx: &mut Ctx<'_>, addr: u64, len: u64, prot: u64, key: i32) -> Result<u64> {
    if key != -1 {
        return Err(EINVAL);
    }
    // The host call has another number than the guest's: it is made here.
    if prot & !u64::from(PROT_KNOWN) != 0 {
        return Err(EINVAL);
    }
    match cx.task.mm()?.mprotect(cx.hw, addr, len, prot as u32)? {
        HostCall::Nothing => Ok(0),
        HostCall::PassThrough => apply_protection(cx, addr, len, prot as i32),
    }
}

fn brk(cx: &mut Ctx<'_>, addr: u64) -> Result<u64> {
    let limit = cx.task.rlimit(Resource::Data);
    let mm = cx.task.mm()?;
    let (now, start) = {
        let map = mm.map();
        (map.brk, map.layout.start_brk)
    };
    let more = if addr < start { 0 } else { addr.saturating_sub(now) };
    if check_address_space(cx, more).is_err()
        || check_data(cx, more).is_err()
        || commit::check(&cx.task, more).is_err()
    {
        return Ok(now);
    }
    let late = late(cx);
    let at = mm.brk(cx.hw, late, addr, limit);
    memory::grown();
    Ok(placed(cx, at))
}

fn mremap(
    cx: &mut Ctx<'_>,
    old: u64,
    old_len: u64,
    new_len: u64,
    flags: i32,
    new: u64,
) -> Result<u64> {
    let more = new_len.saturating_sub(old_len);
    check_address_space(cx, more)?;
    let mm = cx.task.mm()?;
    let private = |v: &Vma| v.flags.prot & PROT_WRITE != 0 && !v.flags.shared;
    if mm.map().vmas.find(old).is_some_and(private) {
        check_data(cx, more)?;
    }
    let promised = mm.map().vmas.find(old).is_some_and(|v| uml_mm::commit::committed_of(v) != 0);
    if promised {
        commit::check(&cx.task, new_len.saturating_sub(old_len))?;
    }
    let at = mm.mremap(cx.hw, old, old_len, new_len, flags, new)?;
    memory::grown();
    Ok(at)
}

fn msync(cx: &mut Ctx<'_>, addr: u64, len: u64, flags: i32) -> Result<u64> {
    let known = libc::MS_ASYNC | libc::MS_SYNC | libc::MS_INVALIDATE;
    let both = libc::MS_ASYNC | libc::MS_SYNC;
    if flags & !known != 0 || addr & (PAGE - 1) != 0 || flags & both == both {
        return Err(EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let mm = cx.task.mm()?;
    let (start, end) = mm.range(addr, len).map_err(|_| ENOMEM)?;
    let (covered, areas) = {
        let map = mm.map();
        let areas: Vec<_> = map
            .vmas
            .overlapping(start, end)
            .filter(|v| v.flags.shared)
            .filter_map(|v| {
                let b = v.backing.clone()?;
                let from = v.start.max(start);
                Some((b.object, b.off + (from - v.start), v.end.min(end) - from))
            })
            .collect();
        (map.vmas.covers(start, end), areas)
    };
    if flags & libc::MS_SYNC != 0 {
        for (object, off, len) in areas {
            object.sync(off, len)?;
        }
    }
    if covered { Ok(0) } else { Err(ENOMEM) }
}

fn mincore(cx: &mut Ctx<'_>, addr: u64, len: u64, vec: u64) -> Result<u64> {
    if addr & (PAGE - 1) != 0 {
        return Err(EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let mm = cx.task.mm()?;
    let (start, end) = mm.range(addr, len).map_err(|_| ENOMEM)?;
    let _ = vec;
    if mm.check_mapped(start, end - start)? {
        cx.reply = Reply::PassThrough;
        return Ok(0);
    }
    // Areas without access have no pages.
    let pages = ((end - start) / PAGE) as usize;
    user::write_bytes(&cx.task, vec, &vec![0u8; pages.min(1 << 20)])?;
    Ok(0)
}

fn madvise(cx: &mut Ctx<'_>, addr: u64, len: u64, advice: i32) -> Result<u64> {
    // Poisoning and the like would reach into the host.
    let passes = matches!(
        advice,
        libc::MADV_NORMAL
            | libc::MADV_RANDOM
            | libc::MADV_SEQUENTIAL
            | libc::MADV_WILLNEED
            | libc::MADV_DONTNEED
            | libc::MADV_FREE
            | libc::MADV_REMOVE
            | libc::MADV_DONTFORK
            | libc::MADV_DOFORK
            | libc::MADV_MERGEABLE
            | libc::MADV_UNMERGEABLE
            | libc::MADV_HUGEPAGE
            | libc::MADV_NOHUGEPAGE
            | libc::MADV_DONTDUMP
            | libc::MADV_DODUMP
            | libc::MADV_WIPEONFORK
            | libc::MADV_KEEPONFORK
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | libc::MADV_POPULATE_READ
            | libc::MADV_POPULATE_WRITE
            | libc::MADV_DONTNEED_LOCKED
            | libc::MADV_COLLAPSE
    );
    if !passes {
        return Err(EINVAL);
    }
    if len == 0 {
        return if addr & (PAGE - 1) == 0 { Ok(0) } else { Err(EINVAL) };
    }
    let mm = cx.task.mm()?;
    let (start, end) = mm.range(addr, len)?;
    let len = end - start;
    let mapped = |v: &Vma| v.backing.is_some() || v.flags.shared;
    if advice == libc::MADV_WIPEONFORK && mm.map().vmas.overlapping(start, end).any(mapped) {
        return Err(EINVAL);
    }
    match advice {
        libc::MADV_DONTFORK => mm.update_flags(start, len, |f| f.dontfork = true)?,
        libc::MADV_DOFORK => mm.update_flags(start, len, |f| f.dontfork = false)?,
        libc::MADV_WIPEONFORK => mm.update_flags(start, len, |f| f.wipeonfork = true)?,
        libc::MADV_KEEPONFORK => mm.update_flags(start, len, |f| f.wipeonfork = false)?,
        libc::MADV_DONTDUMP => mm.update_flags(start, len, |f| f.dontdump = true)?,
        libc::MADV_DODUMP => mm.update_flags(start, len, |f| f.dontdump = false)?,
        _ => {}
    }
    let (pieces, holes) = mm.pieces(start, len)?;
    let populates = matches!(advice, libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE);
    if populates && pieces.iter().any(|v| v.flags.purpose == Purpose::Secret) {
        return Err(EINVAL);
    }
    let removes = advice == libc::MADV_REMOVE;
    let of_unlocked = matches!(
        advice,
        libc::MADV_DONTNEED
            | libc::MADV_FREE
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | libc::MADV_REMOVE
    );
    let plain = |v: &Vma| v.flags.hosted && !(of_unlocked && v.flags.locked);
    if !removes && pieces.iter().all(plain) {
        // What is not mapped is not mapped on the host either: its answer is ours.
        cx.reply = Reply::PassThrough;
        return Ok(0);
    }
    for v in pieces {
        if of_unlocked && v.flags.locked {
            return Err(EINVAL);
        }
        if removes {
            remove_pages(cx, &v)?;
        } else if v.flags.hosted {
            let op = uml_platform::MemOp::Advise { addr: v.start, len: v.len(), advice };
            cx.hw.mem_ops(&[op]).map_err(|(_, e)| e)?;
        } else if matches!(advice, libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE) {
            // Only areas without access are unknown to the host.
            return Err(EINVAL);
        }
    }
    if holes { Err(ENOMEM) } else { Ok(0) }
}

/// madvise(2) MADV_REMOVE of one area: punches a hole into what backs it.
fn remove_pages(cx: &mut Ctx<'_>, v: &Vma) -> Result<()> {
    let Some(b) = &v.backing else { return Err(EINVAL) };
    if !v.flags.shared || v.flags.may & PROT_WRITE == 0 {
        return Err(EACCES);
    }
    match b.object.as_any().and_then(|o| o.downcast_ref::<uml_core::shm::MappedFile>()) {
        Some(m) => {
            let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
            m.file.ops.fallocate(&cx.task, mode, b.off, v.len())
        }
        None => b.object.punch(b.off, v.len()),
    }
}

fn mlock(cx: &mut Ctx<'_>, addr: u64, len: u64) -> Result<u64> {
    mlock2(cx, addr, len, 0)
}

/// The pages of a range as mlock(2) rounds it: a length that wraps around to nothing is nothing.
fn rounded_out(addr: u64, len: u64) -> (u64, u64) {
    let start = addr & !(PAGE - 1);
    let len = len.wrapping_add(addr - start).wrapping_add(PAGE - 1) & !(PAGE - 1);
    (start, len)
}

fn mlock2(cx: &mut Ctx<'_>, addr: u64, len: u64, flags: i32) -> Result<u64> {
    if flags & !(libc::MLOCK_ONFAULT as i32) != 0 {
        return Err(EINVAL);
    }
    let (start, len) = rounded_out(addr, len);
    if len == 0 {
        return Ok(0);
    }
    let mm = cx.task.mm()?;
    let already = {
        let map = mm.map();
        map.vmas
            .overlapping(start, start.saturating_add(len))
            .filter(|v| v.flags.locked)
            .map(|v| v.len())
            .sum::<u64>()
    };
    check_lock_limit(cx, len.saturating_sub(already))?;
    start.checked_add(len).ok_or(EINVAL)?;
    let (start, end) = mm.range(start, len).map_err(|_| ENOMEM)?;
    if !mm.map().vmas.covers(start, end) {
        return Err(ENOMEM);
    }
    mm.update_flags(start, end - start, |f| f.locked |= f.purpose != Purpose::Secret)?;
    let secret = |v: &Vma| v.flags.purpose == Purpose::Secret;
    if flags == 0 && mm.map().vmas.overlapping(start, end).any(secret) {
        // Nobody but the program itself can make its pages present.
        return Err(ENOMEM);
    }
    // The guest's pages are never swapped by the guest; making them present is what is left to do.
    if flags == 0 {
        fill(cx, start, end)?;
    }
    Ok(0)
}

/// Makes the accessible pages of a range present. What a program may write for itself alone gets pages of its own, as on
/// Linux: the first write then waits for nothing. `ENOMEM` beyond the end of a file.
fn fill(cx: &mut Ctx<'_>, start: u64, end: u64) -> Result<()> {
    let mm = cx.task.mm()?;
    let areas: Vec<(u64, u64, i32)> = {
        let map = mm.map();
        let readable = map.vmas.overlapping(start, end).filter(|v| v.flags.prot & PROT_READ != 0);
        readable
            .map(|v| {
                let own = v.flags.prot & PROT_WRITE != 0 && !v.flags.shared;
                let advice = if own { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
                (v.start.max(start), v.end.min(end), advice)
            })
            .collect()
    };
    for (from, to, advice) in areas {
        let op = uml_platform::MemOp::Advise { addr: from, len: to - from, advice };
        cx.hw.mem_ops(&[op]).map_err(|(_, e)| if e == EFAULT { ENOMEM } else { e })?;
    }
    Ok(())
}

fn munlock(cx: &mut Ctx<'_>, addr: u64, len: u64) -> Result<u64> {
    let (start, len) = rounded_out(addr, len);
    start.checked_add(len).ok_or(EINVAL)?;
    if len == 0 {
        return Ok(0);
    }
    let mm = cx.task.mm()?;
    let (start, end) = mm.range(start, len).map_err(|_| ENOMEM)?;
    mm.update_flags(start, end - start, |f| f.locked &= f.purpose == Purpose::Secret)?;
    Ok(0)
}

fn mlockall(cx: &mut Ctx<'_>, flags: i32) -> Result<u64> {
    let known = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    if flags == 0 || flags & !known != 0 || flags == libc::MCL_ONFAULT {
        return Err(EINVAL);
    }
    let mm = cx.task.mm()?;
    let total = mm.map().vmas.total(|_| true);
    if flags & libc::MCL_CURRENT != 0 {
        let used = mm.map().vmas.total(|v| v.flags.locked);
        check_lock_limit(cx, total - used)?;
        let (min, max) = (mm.user_min(), mm.user_max());
        // Holes are fine here: every area there is gets the mark.
        let _ = mm.update_flags(min, max - min, |f| f.locked |= f.purpose != Purpose::Secret);
    } else {
        check_lock_limit(cx, 0)?;
    }
    let on_fault = flags & libc::MCL_ONFAULT != 0;
    {
        let mut map = mm.map();
        map.lock_future = flags & libc::MCL_FUTURE != 0;
        map.fill_future = map.lock_future && !on_fault;
    }
    if flags & libc::MCL_CURRENT != 0 && !on_fault {
        let areas: Vec<(u64, u64)> = mm.map().vmas.iter().map(|v| (v.start, v.end)).collect();
        for (start, end) in areas {
            // As far as it goes (mlockall(2) on Linux).
            let _ = fill(cx, start, end);
        }
    }
    Ok(0)
}

fn munlockall(cx: &mut Ctx<'_>) -> Result<u64> {
    let mm = cx.task.mm()?;
    let (min, max) = (mm.user_min(), mm.user_max());
    let _ = mm.update_flags(min, max - min, |f| f.locked &= f.purpose == Purpose::Secret);
    let mut map = mm.map();
    (map.lock_future, map.fill_future) = (false, false);
    Ok(0)
}

/// remap_file_pages(2), as Linux does it since 4.0: another mapping over part of a shared one.
fn remap_file_pages(
    cx: &mut Ctx<'_>,
    addr: u64,
    size: u64,
    prot: i32,
    page: u64,
    flags: i32,
) -> Result<u64> {
    let start = addr & !(PAGE - 1);
    let len = size & !(PAGE - 1);
    let off = page.checked_mul(PAGE).filter(|o| o.checked_add(len).is_some());
    let end = start.checked_add(len).filter(|e| *e > start);
    let (Some(off), Some(end), 0) = (off, end, prot) else { return Err(EINVAL) };
    let mm = cx.task.mm()?;
    let v = mm.map().vmas.find(start).cloned().filter(|v| v.flags.shared).ok_or(EINVAL)?;
    let backing = v.backing.ok_or(EINVAL)?;
    // Areas after the first must show the same file in the same way.
    let same = |o: &Vma| {
        let file = o.backing.as_ref().is_some_and(|b| Arc::ptr_eq(&b.object, &backing.object));
        file && o.flags.prot == v.flags.prot && o.flags.shared
    };
    let covered = {
        let map = mm.map();
        map.vmas.covers(start, end) && map.vmas.overlapping(start, end).all(same)
    };
    if !covered {
        return Err(EINVAL);
    }
    let req = MapRequest {
        addr: start,
        len,
        prot: v.flags.prot,
        may: v.flags.may,
        shared: true,
        fixed: true,
        locked: v.flags.locked,
        populate: flags & libc::MAP_NONBLOCK == 0,
        backing: Some(Backing { object: backing.object, off }),
        ..MapRequest::anonymous(len, v.flags.prot)
    };
    mm.mmap(cx.hw, &req)?;
    Ok(0)
}

fn no_key(_: &mut Ctx<'_>) -> Result<u64> {
    Err(EINVAL)
}

fn refuse_numa(_: &mut Ctx<'_>) -> Result<u64> {
    Err(ENOSYS)
}

fn refuse_pkey(_: &mut Ctx<'_>) -> Result<u64> {
    Err(ENOSPC)
}
