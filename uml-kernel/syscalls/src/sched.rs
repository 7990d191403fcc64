//! Scheduling attributes: policies, priorities, affinity, I/O priority (sched(7)).
//!
//! The host schedules: affinity narrows the host thread, the rest is kept and reported.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::{Cap, Resource, Task};
use uml_core::user;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::system::thread;
use crate::table::Entry;

pub const TABLE: &[Entry] = &[
    call!(140, "getpriority", getpriority(Int, Int)),
    call!(141, "setpriority", setpriority(Int, Int, Int)),
    call!(24, "sched_yield", sched_yield()),
    call!(142, "sched_setparam", sched_setparam(Pid, In)),
    call!(143, "sched_getparam", sched_getparam(Pid, Out)),
    call!(144, "sched_setscheduler", sched_setscheduler(Pid, Int, In)),
    call!(145, "sched_getscheduler", sched_getscheduler(Pid)),
    call!(146, "sched_get_priority_max", sched_get_priority_max(Int)),
    call!(147, "sched_get_priority_min", sched_get_priority_min(Int)),
    call!(148, "sched_rr_get_interval", sched_rr_get_interval(Pid, Out)),
    call!(203, "sched_setaffinity", sched_setaffinity(Pid, Size, In)),
    call!(204, "sched_getaffinity", sched_getaffinity(Pid, Size, Out)),
    call!(251, "ioprio_set", ioprio_set(Int, Int, Int)),
    call!(252, "ioprio_get", ioprio_get(Int, Int)),
    call!(
        314,
        "sched_setattr",
        sched_setattr(Pid, Ptr, Flags),
        Never,
        Partial("SCHED_DEADLINE is never admitted (EBUSY): the host schedules")
    ),
    call!(315, "sched_getattr", sched_getattr(Pid, Out, Size, Flags)),
];

/// Tasks meant by getpriority(2)/ioprio_get(2) `which` and `who`.
fn priority_targets(cx: &Ctx<'_>, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    let k = cx.task.kernel();
    let tree = k.tree.read();
    let list: Vec<_> = match which as u32 {
        libc::PRIO_PROCESS if who == 0 => vec![cx.task.clone()],
        libc::PRIO_PROCESS => tree.task(cx.task.kernel_pid(who)?).into_iter().collect(),
        libc::PRIO_PGRP => {
            let group = match who {
                0 => tree.get(cx.task.process.pid).map_or(0, |p| p.pgrp),
                _ => cx.task.kernel_pid(who)?,
            };
            tree.group(group)
                .iter()
                .filter_map(|p| tree.get(*p))
                .flat_map(|p| p.threads.values().cloned())
                .collect()
        }
        libc::PRIO_USER => {
            let cred = cx.task.cred();
            let uid = match who {
                0 => cred.uid,
                _ => cred.user_ns.kuid(who as u32).map_err(|_| ESRCH)?,
            };
            tree.tasks().filter(|t| t.cred().uid == uid).cloned().collect()
        }
        _ => return Err(EINVAL),
    };
    if list.is_empty() { Err(ESRCH) } else { Ok(list) }
}

fn getpriority(cx: &mut Ctx<'_>, which: i32, who: i32) -> Result<u64> {
    let nice = priority_targets(cx, which, who)?.iter().map(|t| t.personal.lock().nice).min();
    // 20-nice, so that the result is positive (getpriority(2), C library/kernel differences).
    Ok((20 - nice.unwrap_or(0)) as u64)
}

fn setpriority(cx: &mut Ctx<'_>, which: i32, who: i32, nice: i32) -> Result<u64> {
    let nice = nice.clamp(-20, 19);
    let cred = cx.task.cred();
    for t in priority_targets(cx, which, who)? {
        let target = t.cred();
        if cred.euid != target.uid && cred.euid != target.euid && !cred.capable(Cap::SysNice) {
            return Err(EPERM);
        }
        let mut p = t.personal.lock();
        let floor = 20 - t.rlimit(Resource::Nice).min(40) as i32;
        if nice < p.nice && nice < floor && !cred.capable(Cap::SysNice) {
            return Err(EACCES);
        }
        p.nice = nice;
    }
    Ok(0)
}

fn sched_yield(_: &mut Ctx<'_>) -> Result<u64> {
    std::thread::yield_now();
    Ok(0)
}

/// SCHED_DEADLINE (sched(7)).
const SCHED_DEADLINE: i32 = 6;

fn known_policy(policy: i32) -> bool {
    matches!(
        policy,
        libc::SCHED_OTHER
            | libc::SCHED_FIFO
            | libc::SCHED_RR
            | libc::SCHED_BATCH
            | libc::SCHED_IDLE
    )
}

fn is_realtime(policy: i32) -> bool {
    matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR)
}

fn set_policy(cx: &Ctx<'_>, tid: i32, policy: Option<i32>, param: u64) -> Result<u64> {
    if param == 0 || tid < 0 {
        return Err(EINVAL);
    }
    let prio: i32 = user::read_obj(&cx.task, param)?;
    let t = thread(cx, tid)?;
    let current = t.personal.lock().sched_policy;
    let (policy, reset) = match policy {
        Some(p) => (p & !libc::SCHED_RESET_ON_FORK, p & libc::SCHED_RESET_ON_FORK != 0),
        None => (current, t.personal.lock().reset_on_fork),
    };
    change(cx, &t, Change { policy, priority: prio, nice: None, reset })
}

/// New attributes of a thread.
struct Change {
    policy: i32,
    priority: i32,
    /// `None` leaves it.
    nice: Option<i32>,
    reset: bool,
}

/// Checks the change as sched(7) says ("Privileges and resource limits") and makes it.
fn change(cx: &Ctx<'_>, t: &Task, new: Change) -> Result<u64> {
    let in_range =
        if is_realtime(new.policy) { (1..=99).contains(&new.priority) } else { new.priority == 0 };
    if !known_policy(new.policy) || !in_range {
        return Err(EINVAL);
    }
    let cred = cx.task.cred();
    let old = t.personal.lock().clone();
    if !cred.capable(Cap::SysNice) {
        let own = t.cred();
        if cred.euid != own.uid && cred.euid != own.euid {
            return Err(EPERM);
        }
        let limit = t.rlimit(Resource::Rtprio);
        if is_realtime(new.policy) {
            let raises = new.policy != old.sched_policy && limit == 0
                || new.priority > old.sched_priority && new.priority as u64 > limit;
            if raises {
                return Err(EPERM);
            }
        }
        let floor = 20 - t.rlimit(Resource::Nice).min(40) as i32;
        if new.nice.is_some_and(|n| n < old.nice && n < floor) {
            return Err(EPERM);
        }
        let leaves_idle = old.sched_policy == libc::SCHED_IDLE && new.policy != libc::SCHED_IDLE;
        if leaves_idle && old.nice < floor || old.reset_on_fork && !new.reset {
            return Err(EPERM);
        }
    }
    let mut p = t.personal.lock();
    p.sched_policy = new.policy;
    p.sched_priority = new.priority;
    p.reset_on_fork = new.reset;
    if let Some(n) = new.nice {
        p.nice = n;
    }
    Ok(0)
}

/// `struct sched_attr` (sched_setattr(2)), with the utilisation clamps.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}
const _: () = assert!(size_of::<SchedAttr>() == 56);

/// Size of the first version of the structure.
const ATTR_V0: usize = 48;
const PAGE: usize = 4096;
const FLAG_RESET_ON_FORK: u64 = 1;
const FLAG_KEEP_POLICY: u64 = 8;
const FLAG_KEEP_PARAMS: u64 = 0x10;
const FLAG_UTIL_CLAMP: u64 = 0x60;
/// The former, SCHED_FLAG_RECLAIM and SCHED_FLAG_DL_OVERRUN.
const FLAG_ALL: u64 =
    FLAG_RESET_ON_FORK | 6 | FLAG_KEEP_POLICY | FLAG_KEEP_PARAMS | FLAG_UTIL_CLAMP;

fn read_attr(cx: &Ctx<'_>, addr: u64) -> Result<SchedAttr> {
    let size: u32 = user::read_obj(&cx.task, addr)?;
    let size = if size == 0 { ATTR_V0 } else { size as usize };
    let known = size_of::<SchedAttr>();
    let too_big = |cx: &Ctx<'_>| {
        user::write_obj(&cx.task, addr, &(known as u32))?;
        Err(E2BIG)
    };
    if !(ATTR_V0..=PAGE).contains(&size) {
        return too_big(cx);
    }
    let bytes = user::read_bytes(&cx.task, addr, size)?;
    if bytes.iter().skip(known).any(|b| *b != 0) {
        return too_big(cx);
    }
    let mut attr = SchedAttr::default();
    let n = size.min(known);
    attr.as_mut_bytes()[..n].copy_from_slice(&bytes[..n]);
    if attr.flags & FLAG_UTIL_CLAMP != 0 && size < known {
        return Err(EINVAL);
    }
    Ok(attr)
}

/// `EINVAL` for what SCHED_DEADLINE cannot have: runtime <= deadline <= period, the least runtime that Linux tells from none,
/// and the default bounds of periods (sched(7); /proc/sys/kernel/sched_deadline_period_min_us and its kin).
fn check_deadline(a: &SchedAttr) -> Result<()> {
    const LEAST_RUNTIME: u64 = 1 << 10;
    const SHORTEST: u64 = 100_000;
    const LONGEST: u64 = (1 << 22) * 1000;
    let period = if a.period == 0 { a.deadline } else { a.period };
    let ordered = a.runtime <= a.deadline && a.deadline <= period;
    let sized = a.runtime >= LEAST_RUNTIME && (SHORTEST..=LONGEST).contains(&period);
    if ordered && sized && a.priority == 0 { Ok(()) } else { Err(EINVAL) }
}

fn sched_setattr(cx: &mut Ctx<'_>, tid: i32, addr: u64, flags: u32) -> Result<u64> {
    if addr == 0 || tid < 0 || flags != 0 {
        return Err(EINVAL);
    }
    let attr = read_attr(cx, addr)?;
    if (attr.policy as i32) < 0 || attr.flags & !FLAG_ALL != 0 {
        return Err(EINVAL);
    }
    if attr.flags & FLAG_UTIL_CLAMP != 0 {
        // As a kernel without CONFIG_UCLAMP_TASK.
        return Err(EOPNOTSUPP);
    }
    let t = thread(cx, tid)?;
    let old = t.personal.lock().clone();
    let policy =
        if attr.flags & FLAG_KEEP_POLICY != 0 { old.sched_policy } else { attr.policy as i32 };
    if policy == SCHED_DEADLINE {
        check_deadline(&attr)?;
        cx.task.require(Cap::SysNice)?;
        let ncpus = cx.task.kernel().ncpus;
        let bound = t.affinity(ncpus).iter().map(|w| w.count_ones() as usize).sum::<usize>();
        if bound < ncpus {
            // Its bandwidth is that of all processors (sched(7), "Deadline scheduling").
            return Err(EPERM);
        }
        // There is no bandwidth to admit it with: the host schedules.
        return Err(EBUSY);
    }
    let keep = attr.flags & FLAG_KEEP_PARAMS != 0;
    let nice = (!keep && !is_realtime(policy)).then_some(attr.nice.clamp(-20, 19));
    let priority = if keep { old.sched_priority } else { attr.priority as i32 };
    let reset = attr.flags & FLAG_RESET_ON_FORK != 0;
    change(cx, &t, Change { policy, priority, nice, reset })
}

fn sched_getattr(cx: &mut Ctx<'_>, tid: i32, addr: u64, size: u32, flags: u32) -> Result<u64> {
    let size = size as usize;
    if addr == 0 || tid < 0 || flags != 0 || !(ATTR_V0..=PAGE).contains(&size) {
        return Err(EINVAL);
    }
    let t = thread(cx, tid)?;
    let p = t.personal.lock().clone();
    let n = size.min(size_of::<SchedAttr>());
    let attr = SchedAttr {
        size: n as u32,
        policy: p.sched_policy as u32,
        flags: if p.reset_on_fork { FLAG_RESET_ON_FORK } else { 0 },
        nice: if is_realtime(p.sched_policy) { 0 } else { p.nice },
        priority: p.sched_priority as u32,
        util_max: 1024,
        ..SchedAttr::default()
    };
    // A longer buffer is cleared beyond the structure.
    let mut out = vec![0; size];
    out[..n].copy_from_slice(&attr.as_bytes()[..n]);
    user::write_bytes(&cx.task, addr, &out)?;
    Ok(0)
}

fn sched_setscheduler(cx: &mut Ctx<'_>, tid: i32, policy: i32, param: u64) -> Result<u64> {
    if policy < 0 {
        return Err(EINVAL);
    }
    set_policy(cx, tid, Some(policy), param)
}

fn sched_setparam(cx: &mut Ctx<'_>, tid: i32, param: u64) -> Result<u64> {
    set_policy(cx, tid, None, param)
}

fn sched_getscheduler(cx: &mut Ctx<'_>, tid: i32) -> Result<u64> {
    let t = thread(cx, tid)?;
    let p = t.personal.lock();
    let reset = if p.reset_on_fork { libc::SCHED_RESET_ON_FORK } else { 0 };
    Ok((p.sched_policy | reset) as u64)
}

fn sched_getparam(cx: &mut Ctx<'_>, tid: i32, out: u64) -> Result<u64> {
    if out == 0 {
        return Err(EINVAL);
    }
    let prio = thread(cx, tid)?.personal.lock().sched_priority;
    user::write_obj(&cx.task, out, &prio)?;
    Ok(0)
}

fn sched_get_priority_max(_: &mut Ctx<'_>, policy: i32) -> Result<u64> {
    if !known_policy(policy) && policy != SCHED_DEADLINE {
        return Err(EINVAL);
    }
    Ok(if is_realtime(policy) { 99 } else { 0 })
}

fn sched_get_priority_min(_: &mut Ctx<'_>, policy: i32) -> Result<u64> {
    if !known_policy(policy) && policy != SCHED_DEADLINE {
        return Err(EINVAL);
    }
    Ok(u64::from(is_realtime(policy)))
}

fn sched_rr_get_interval(cx: &mut Ctx<'_>, tid: i32, out: u64) -> Result<u64> {
    let policy = thread(cx, tid)?.personal.lock().sched_policy;
    let ns: i64 = match policy {
        libc::SCHED_FIFO => 0,
        libc::SCHED_RR => 100_000_000,
        _ => 4_000_000,
    };
    user::write_obj(&cx.task, out, &[0i64, ns])?;
    Ok(0)
}

fn sched_setaffinity(cx: &mut Ctx<'_>, tid: i32, size: u32, mask: u64) -> Result<u64> {
    let need = cx.task.kernel().ncpus.div_ceil(64) * 8;
    let bytes = user::read_bytes(&cx.task, mask, (size as usize).min(need))?;
    let t = thread(cx, tid).map_err(|_| ESRCH)?;
    let cred = cx.task.cred();
    let own = t.cred();
    if cred.euid != own.uid && cred.euid != own.euid && !cred.capable(Cap::SysNice) {
        return Err(EPERM);
    }
    let ncpus = cx.task.kernel().ncpus;
    let mut words = vec![0u64; ncpus.div_ceil(64)];
    for cpu in (0..ncpus).filter(|c| bytes.get(c / 8).is_some_and(|b| b >> (c % 8) & 1 != 0)) {
        words[cpu / 64] |= 1 << (cpu % 64);
    }
    if words.iter().all(|w| *w == 0) {
        return Err(EINVAL);
    }
    t.set_affinity(&words)?;
    Ok(0)
}

fn sched_getaffinity(cx: &mut Ctx<'_>, tid: i32, size: u32, out: u64) -> Result<u64> {
    let ncpus = cx.task.kernel().ncpus;
    let need = ncpus.div_ceil(64) * 8;
    // The number of bits is reckoned in 32 bits, as Linux does.
    if (size.wrapping_mul(8) as usize) < ncpus || size & 7 != 0 {
        return Err(EINVAL);
    }
    let mask = thread(cx, tid).map_err(|_| ESRCH)?.affinity(ncpus);
    user::write_array(&cx.task, out, &mask)?;
    Ok(need as u64)
}

fn ioprio_targets(cx: &Ctx<'_>, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    // IOPRIO_WHO_* count from 1, PRIO_* from 0.
    if !(1..=3).contains(&which) {
        return Err(EINVAL);
    }
    priority_targets(cx, which - 1, who)
}

fn ioprio_set(cx: &mut Ctx<'_>, which: i32, who: i32, value: i32) -> Result<u64> {
    let (class, data) = (value >> 13, value & 0x1fff);
    match class {
        1 => cx.task.require(Cap::SysAdmin)?,
        2 if data < 8 => {}
        3 => {}
        0 if data == 0 => {}
        _ => return Err(EINVAL),
    }
    for t in ioprio_targets(cx, which, who)? {
        t.personal.lock().ioprio = value;
    }
    Ok(0)
}

fn ioprio_get(cx: &mut Ctx<'_>, which: i32, who: i32) -> Result<u64> {
    let best = ioprio_targets(cx, which, who)?.iter().map(|t| t.personal.lock().ioprio).max();
    Ok(best.unwrap_or(0) as u64)
}
