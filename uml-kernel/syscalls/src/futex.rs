//! futex(2), futex_waitv(2), set_robust_list(2), get_robust_list(2).

use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::signal::Restart;
use uml_core::task::Cap;
use uml_core::time::Clock;
use uml_core::user;
use uml_ipc::futex::{self, BITSET_ANY, Deadline, WaitvItem, WakeOp, Word};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;
use crate::timespec::read_timeout;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(202, "futex", futex(Addr, Int, Int, Ptr, Addr, Int), Sys),
    call!(449, "futex_waitv", futex_waitv(Ptr, Int, Flags, Ptr, Int), Sys),
    call!(454, "futex_wake", futex_wake(Addr, Addr, Int, Flags)),
    call!(455, "futex_wait", futex_wait(Addr, Addr, Addr, Flags, Ptr, Int), Sys),
    call!(456, "futex_requeue", futex_requeue(Ptr, Flags, Int, Int)),
    call!(273, "set_robust_list", set_robust_list(Addr, Size)),
    call!(274, "get_robust_list", get_robust_list(Pid, Out, Out)),
];

const WAIT: i32 = 0;
const WAKE: i32 = 1;
const REQUEUE: i32 = 3;
const CMP_REQUEUE: i32 = 4;
const WAKE_OP: i32 = 5;
const LOCK_PI: i32 = 6;
const UNLOCK_PI: i32 = 7;
const TRYLOCK_PI: i32 = 8;
const WAIT_BITSET: i32 = 9;
const WAKE_BITSET: i32 = 10;
const WAIT_REQUEUE_PI: i32 = 11;
const CMP_REQUEUE_PI: i32 = 12;
const LOCK_PI2: i32 = 13;
const PRIVATE_FLAG: i32 = 128;
const CLOCK_REALTIME_FLAG: i32 = 256;

/// The timeout argument: relative for FUTEX_WAIT, a time of the chosen clock otherwise.
fn deadline(cx: &mut Ctx<'_>, timeout: u64, cmd: i32, realtime: bool) -> Result<Deadline> {
    let Some(d) = read_timeout(&cx.task, timeout)? else { return Ok(None) };
    if cmd == WAIT {
        // Started over without a handler, the wait still ends at the same moment.
        cx.task.restart.set(Restart::Block);
        return Ok(cx.deadline_in(d));
    }
    let clock = if realtime || cmd == LOCK_PI { Clock::Realtime } else { Clock::Monotonic };
    if cmd == WAIT_BITSET {
        cx.task.restart.set(Restart::Block);
    }
    Ok(at(cx, clock, d))
}

fn at(cx: &Ctx<'_>, clock: Clock, d: Duration) -> Deadline {
    cx.task.kernel().time.instant_of(clock, cx.task.ns().time.machine(clock, d))
}

fn futex(
    cx: &mut Ctx<'_>,
    addr: u64,
    op: i32,
    val: u32,
    timeout: u64,
    addr2: u64,
    val3: u32,
) -> Result<u64> {
    let cmd = op & !(PRIVATE_FLAG | CLOCK_REALTIME_FLAG);
    let realtime = op & CLOCK_REALTIME_FLAG != 0;
    if realtime && !matches!(cmd, WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2) {
        return Err(ENOSYS);
    }
    let shared = op & PRIVATE_FLAG == 0;
    let task = cx.task.clone();
    let word = |a: u64| Word::new(&task, a, shared);
    let n = val as i32;
    // The fourth argument is a count for the operations that have no timeout.
    let n2 = timeout as i32;
    let done = match cmd {
        WAIT | WAIT_BITSET => {
            let bitset = if cmd == WAIT { BITSET_ANY } else { val3 };
            let deadline = deadline(cx, timeout, cmd, realtime)?;
            if bitset == 0 {
                return Err(EINVAL);
            }
            futex::wait(&task, word(addr)?, val, bitset, deadline)?;
            0
        }
        WAKE => futex::wake(word(addr)?.key, n, BITSET_ANY),
        WAKE_BITSET if val3 == 0 => return Err(EINVAL),
        WAKE_BITSET => futex::wake(word(addr)?.key, n, val3),
        REQUEUE => futex::requeue(&task, word(addr)?, word(addr2)?, n, n2, None)?,
        CMP_REQUEUE => futex::requeue(&task, word(addr)?, word(addr2)?, n, n2, Some(val3))?,
        WAKE_OP => {
            let op = WakeOp::decode(val3)?;
            futex::wake_op(cx, word(addr)?, n, word(addr2)?, n2, op)?
        }
        LOCK_PI | LOCK_PI2 => {
            let deadline = deadline(cx, timeout, cmd, realtime)?;
            futex::lock_pi(cx, word(addr)?, deadline, false)?;
            0
        }
        TRYLOCK_PI => {
            futex::lock_pi(cx, word(addr)?, None, true)?;
            0
        }
        UNLOCK_PI => {
            futex::unlock_pi(cx, word(addr)?)?;
            0
        }
        WAIT_REQUEUE_PI => {
            let deadline = deadline(cx, timeout, cmd, realtime)?;
            // Not yet moved when a signal comes, it starts over whatever the handler says.
            cx.task.restart.set(Restart::Always);
            futex::wait_requeue_pi(cx, word(addr)?, val, deadline, word(addr2)?)?;
            0
        }
        CMP_REQUEUE_PI => futex::requeue_pi(cx, word(addr)?, word(addr2)?, n, n2, val3)?,
        _ => return Err(ENOSYS),
    };
    Ok(done as u64)
}

/// `struct futex_waitv`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Waitv {
    val: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Waitv>() == 24);

const FUTEX2_SIZE_U32: u32 = 2;
const FUTEX2_SIZE_MASK: u32 = 3;
const FUTEX2_PRIVATE: u32 = 128;

/// Checks flags of the calls of Linux 6.7 (FUTEX2_*): words are 32 bits wide, node hints are not offered.
fn futex2_flags(flags: u32) -> Result<bool> {
    if flags & !FUTEX2_PRIVATE != FUTEX2_SIZE_U32 {
        return Err(EINVAL);
    }
    Ok(flags & FUTEX2_PRIVATE == 0)
}

/// A mask of these calls: some bit, and none beyond the word.
fn futex2_mask(mask: u64) -> Result<u32> {
    u32::try_from(mask).ok().filter(|m| *m != 0).ok_or(EINVAL)
}

fn futex_wake(cx: &mut Ctx<'_>, addr: u64, mask: u64, n: i32, flags: u32) -> Result<u64> {
    let shared = futex2_flags(flags)?;
    let mask = u32::try_from(mask).map_err(|_| EINVAL)?;
    let word = Word::new(&cx.task, addr, shared)?;
    if mask == 0 {
        return Err(EINVAL);
    }
    // Unlike FUTEX_WAKE, none means none.
    if n == 0 { Ok(0) } else { Ok(futex::wake(word.key, n, mask) as u64) }
}

fn futex_wait(
    cx: &mut Ctx<'_>,
    addr: u64,
    val: u64,
    mask: u64,
    flags: u32,
    timeout: u64,
    clock: i32,
) -> Result<u64> {
    let shared = futex2_flags(flags)?;
    let val = u32::try_from(val).map_err(|_| EINVAL)?;
    let mask = futex2_mask(mask)?;
    let deadline = absolute(cx, timeout, clock)?;
    let word = Word::new(&cx.task, addr, shared)?;
    let task = cx.task.clone();
    futex::wait(&task, word, val, mask, deadline)?;
    Ok(0)
}

fn futex_requeue(cx: &mut Ctx<'_>, waiters: u64, flags: u32, wake: i32, move_: i32) -> Result<u64> {
    if flags != 0 || waiters == 0 {
        return Err(EINVAL);
    }
    let pair: Vec<Waitv> = user::read_array(&cx.task, waiters, 2)?;
    let mut shared = [false; 2];
    for (w, s) in pair.iter().zip(&mut shared) {
        if w.reserved != 0 || w.flags & FUTEX2_SIZE_MASK != FUTEX2_SIZE_U32 {
            return Err(EINVAL);
        }
        *s = futex2_flags(w.flags)?;
    }
    let expected = u32::try_from(pair[0].val).map_err(|_| EINVAL)?;
    let from = Word::new(&cx.task, pair[0].addr, shared[0])?;
    let to = Word::new(&cx.task, pair[1].addr, shared[1])?;
    let task = cx.task.clone();
    Ok(futex::requeue(&task, from, to, wake, move_, Some(expected))? as u64)
}

/// An absolute timeout of `clock`, which may only be CLOCK_MONOTONIC or CLOCK_REALTIME.
fn absolute(cx: &Ctx<'_>, timeout: u64, clock: i32) -> Result<Deadline> {
    if timeout == 0 {
        return Ok(None);
    }
    let clock = match clock {
        libc::CLOCK_MONOTONIC => Clock::Monotonic,
        libc::CLOCK_REALTIME => Clock::Realtime,
        _ => return Err(EINVAL),
    };
    Ok(read_timeout(&cx.task, timeout)?.and_then(|d| at(cx, clock, d)))
}

fn futex_waitv(
    cx: &mut Ctx<'_>,
    waiters: u64,
    n: u32,
    flags: u32,
    timeout: u64,
    clock: i32,
) -> Result<u64> {
    if flags != 0 || n == 0 || n > 128 || waiters == 0 {
        return Err(EINVAL);
    }
    let deadline = absolute(cx, timeout, clock)?;
    let raw: Vec<Waitv> = user::read_array(&cx.task, waiters, n as usize)?;
    let mut items = Vec::with_capacity(raw.len());
    for w in raw {
        if w.flags & !FUTEX2_PRIVATE != FUTEX2_SIZE_U32 || w.reserved != 0 {
            return Err(EINVAL);
        }
        let word = Word::new(&cx.task, w.addr, w.flags & FUTEX2_PRIVATE == 0)?;
        items.push(WaitvItem { word, expected: w.val as u32 });
    }
    Ok(futex::waitv(&cx.task, &items, deadline)? as u64)
}

/// Size of `struct robust_list_head`.
const ROBUST_HEAD: usize = 24;

fn set_robust_list(cx: &mut Ctx<'_>, head: u64, len: usize) -> Result<u64> {
    if len != ROBUST_HEAD {
        return Err(EINVAL);
    }
    cx.task.personal.lock().robust_list = head;
    Ok(0)
}

fn get_robust_list(cx: &mut Ctx<'_>, pid: i32, head: u64, len: u64) -> Result<u64> {
    let target = match pid {
        0 => cx.task.clone(),
        _ => {
            let tid = cx.task.kernel_pid(pid)?;
            cx.task.kernel().tree.read().task(tid).ok_or(ESRCH)?
        }
    };
    // The access check of ptrace(2), PTRACE_MODE_READ_REALCREDS.
    let (me, you) = (cx.task.cred(), target.cred());
    let same = [you.uid, you.euid, you.suid].iter().all(|u| *u == me.uid)
        && [you.gid, you.egid, you.sgid].iter().all(|g| *g == me.gid);
    if target.process.pid != cx.task.process.pid
        && !same
        && !me.capable_in(&you.user_ns, Cap::SysPtrace)
    {
        return Err(EPERM);
    }
    let list = target.personal.lock().robust_list;
    user::write_obj(&cx.task, len, &(ROBUST_HEAD as u64))?;
    user::write_obj(&cx.task, head, &list)?;
    Ok(0)
}
