//! prctl(2): attributes of the calling thread and its process.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::seccomp;
use uml_core::task::cred::{CAP_LAST, SECBIT_KEEP_CAPS, SECBIT_NO_CAP_AMBIENT_RAISE};
use uml_core::task::dispatch::UserDispatch;
use uml_core::task::{Cap, Task};
use uml_core::user;

use crate::call;
use crate::table::Entry;

pub const TABLE: &[Entry] = &[call!(
    157,
    "prctl",
    prctl(Int, Addr, Addr, Addr, Addr),
    Never,
    Partial("no speculation or core scheduling; of PR_SET_MM no EXE_FILE: EINVAL")
)];

fn prctl(cx: &mut Ctx<'_>, op: i32, a2: u64, a3: u64, a4: u64, a5: u64) -> Result<u64> {
    let task = cx.task.clone();
    let rest_zero = a3 == 0 && a4 == 0 && a5 == 0;
    match op {
        libc::PR_SET_PDEATHSIG => {
            if a2 > 64 {
                return Err(EINVAL);
            }
            task.personal.lock().pdeath_signal = a2 as i32;
        }
        libc::PR_GET_PDEATHSIG => {
            let s = task.personal.lock().pdeath_signal;
            user::write_obj(&task, a2, &s)?;
        }
        libc::PR_GET_DUMPABLE => return Ok(task.process.dumpable.load(Ordering::Relaxed) as u64),
        libc::PR_SET_DUMPABLE => {
            if a2 > 1 {
                return Err(EINVAL);
            }
            task.process.dumpable.store(a2 as i32, Ordering::Relaxed);
        }
        libc::PR_GET_KEEPCAPS => {
            return Ok(u64::from(task.cred().securebits & SECBIT_KEEP_CAPS != 0));
        }
        libc::PR_SET_KEEPCAPS => {
            if a2 > 1 {
                return Err(EINVAL);
            }
            let mut c = (*task.cred()).clone();
            if a2 == 1 {
                c.securebits |= SECBIT_KEEP_CAPS;
            } else {
                c.securebits &= !SECBIT_KEEP_CAPS;
            }
            task.set_cred(c.into());
        }
        libc::PR_SET_NAME => {
            let mut name = user::read_cstr_cut(&task, a2, 15)?;
            name.truncate(15);
            task.set_comm(&name);
        }
        libc::PR_GET_NAME => user::write_bytes(&task, a2, &task.comm_raw())?,
        libc::PR_GET_TIMING => return Ok(0),
        libc::PR_SET_TIMING => return if a2 == 0 { Ok(0) } else { Err(EINVAL) },
        libc::PR_GET_SECCOMP => return Ok(task.seccomp.mode().into()),
        libc::PR_SET_SECCOMP => match a2 {
            1 => seccomp::set_strict(&task)?,
            2 => return crate::seccomp::set_filter(cx, 0, a3),
            _ => return Err(EINVAL),
        },
        libc::PR_CAPBSET_READ => {
            if a2 > u64::from(CAP_LAST) {
                return Err(EINVAL);
            }
            return Ok(u64::from(task.cred().cap_bounding & (1 << a2) != 0));
        }
        libc::PR_CAPBSET_DROP => {
            task.require(Cap::Setpcap)?;
            if a2 > u64::from(CAP_LAST) {
                return Err(EINVAL);
            }
            let mut c = (*task.cred()).clone();
            c.cap_bounding &= !(1 << a2);
            task.set_cred(c.into());
        }
        libc::PR_GET_SECUREBITS => return Ok(task.cred().securebits.into()),
        libc::PR_SET_SECUREBITS => {
            task.require(Cap::Setpcap)?;
            let new = a2 as u32;
            let old = task.cred().securebits;
            // Lock bits sit beside each bit: what is locked may not change, nor be unlocked.
            let locked = old & 0xaa;
            let frozen = locked | locked >> 1;
            if a2 & !0xff != 0 || (old ^ new) & frozen != 0 {
                return Err(EPERM);
            }
            let mut c = (*task.cred()).clone();
            c.securebits = new;
            task.set_cred(c.into());
        }
        libc::PR_SET_TIMERSLACK => {
            task.personal.lock().timer_slack = if a2 == 0 { 50_000 } else { a2 };
        }
        libc::PR_GET_TIMERSLACK => return Ok(task.personal.lock().timer_slack),
        libc::PR_SET_CHILD_SUBREAPER => {
            task.process.subreaper.store(a2 != 0, Ordering::Relaxed);
        }
        libc::PR_GET_CHILD_SUBREAPER => {
            let on = i32::from(task.process.subreaper.load(Ordering::Relaxed));
            user::write_obj(&task, a2, &on)?;
        }
        libc::PR_SET_NO_NEW_PRIVS => {
            if a2 != 1 || !rest_zero {
                return Err(EINVAL);
            }
            let mut c = (*task.cred()).clone();
            c.no_new_privs = true;
            task.set_cred(c.into());
        }
        libc::PR_GET_NO_NEW_PRIVS => {
            return if a2 == 0 && rest_zero {
                Ok(task.cred().no_new_privs.into())
            } else {
                Err(EINVAL)
            };
        }
        libc::PR_GET_TID_ADDRESS => {
            let addr = task.personal.lock().clear_child_tid;
            user::write_obj(&task, a2, &addr)?;
        }
        // Transparent huge pages are the host's business; the wish is kept and reported.
        libc::PR_SET_THP_DISABLE => {
            if a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(EINVAL);
            }
            task.process.thp_disable.store(a2 != 0, Ordering::Relaxed);
        }
        libc::PR_GET_THP_DISABLE => {
            if a2 != 0 || !rest_zero {
                return Err(EINVAL);
            }
            return Ok(task.process.thp_disable.load(Ordering::Relaxed).into());
        }
        libc::PR_GET_TSC => user::write_obj(&task, a2, &PR_TSC_ENABLE)?,
        // The instruction cannot be taken from one program alone.
        libc::PR_SET_TSC => return if a2 == PR_TSC_ENABLE as u64 { Ok(0) } else { Err(EINVAL) },
        libc::PR_MCE_KILL => return mce_kill(&task, a2, a3, a4 | a5),
        libc::PR_MCE_KILL_GET => {
            if a2 != 0 || !rest_zero {
                return Err(EINVAL);
            }
            return Ok(task.process.mce_kill.load(Ordering::Relaxed) as u64);
        }
        // There are no performance events to switch.
        libc::PR_TASK_PERF_EVENTS_DISABLE | libc::PR_TASK_PERF_EVENTS_ENABLE => {}
        PR_GET_AUXV => {
            if a4 != 0 || a5 != 0 {
                return Err(EINVAL);
            }
            let auxv = task.mm()?.map().auxv.clone();
            user::write_bytes(&task, a2, &auxv[..auxv.len().min(a3 as usize)])?;
            return Ok(auxv.len() as u64);
        }
        PR_SET_SYSCALL_USER_DISPATCH => match a2 {
            0 if rest_zero => task.set_user_dispatch(None)?,
            1 => task.set_user_dispatch(Some(UserDispatch { start: a3, len: a4, selector: a5 }))?,
            _ => return Err(EINVAL),
        },
        PR_SET_MM => {
            if a5 != 0 {
                return Err(EINVAL);
            }
            return crate::set_mm::set(&task, a2, a3, a4);
        }
        libc::PR_CAP_AMBIENT => return cap_ambient(&task, a2, a3, a4 | a5),
        libc::PR_SET_VMA => return set_vma_name(&task, a2, a3, a4, a5),
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// Value of PR_GET_TSC: reading the time stamp counter is allowed.
const PR_TSC_ENABLE: i32 = 1;
/// Where parts of the address space are said to be.
const PR_SET_MM: i32 = 35;
/// System calls come back as SIGSYS.
const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
/// Copies the auxiliary vector.
const PR_GET_AUXV: i32 = 0x4155_5856;

/// PR_MCE_KILL: how a process wants to hear of memory errors. Kept and reported; memory errors reach the
/// host's processes, not ours.
fn mce_kill(task: &Task, op: u64, policy: u64, rest: u64) -> Result<u64> {
    const CLEAR: u64 = 0;
    const SET: u64 = 1;
    const DEFAULT: u64 = 2;
    if rest != 0 {
        return Err(EINVAL);
    }
    let new = match (op, policy) {
        (CLEAR, 0) => DEFAULT,
        // Late, early, default.
        (SET, 0..=2) => policy,
        _ => return Err(EINVAL),
    };
    task.process.mce_kill.store(new as i32, Ordering::Relaxed);
    Ok(0)
}

fn cap_ambient(task: &Task, op: u64, cap: u64, rest: u64) -> Result<u64> {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    let mut c = (*task.cred()).clone();
    if op == CLEAR_ALL {
        if cap | rest != 0 {
            return Err(EINVAL);
        }
        c.cap_ambient = 0;
        task.set_cred(c.into());
        return Ok(0);
    }
    if cap > u64::from(CAP_LAST) || rest != 0 {
        return Err(EINVAL);
    }
    let b = 1u64 << cap;
    match op {
        IS_SET => return Ok(u64::from(c.cap_ambient & b != 0)),
        RAISE => {
            let allowed = c.cap_permitted & c.cap_inheritable & b != 0
                && c.securebits & SECBIT_NO_CAP_AMBIENT_RAISE == 0;
            if !allowed {
                return Err(EPERM);
            }
            c.cap_ambient |= b;
        }
        LOWER => c.cap_ambient &= !b,
        _ => return Err(EINVAL),
    }
    task.set_cred(c.into());
    Ok(0)
}

/// PR_SET_VMA_ANON_NAME.
fn set_vma_name(task: &Task, op: u64, start: u64, len: u64, name: u64) -> Result<u64> {
    if op != 0 {
        return Err(EINVAL);
    }
    let name = if name == 0 {
        None
    } else {
        let n = user::read_cstr(task, name, 80, EINVAL)?;
        if n.iter().any(|b| !(0x20..0x7f).contains(b) || b"\\`$[]".contains(b)) {
            return Err(EINVAL);
        }
        Some(std::sync::Arc::<[u8]>::from(n))
    };
    let mm = task.mm()?;
    let (start, end) = mm.range(start, len)?;
    let mut map = mm.map();
    if !map.vmas.covers(start, end) {
        return Err(ENOMEM);
    }
    if map.vmas.overlapping(start, end).any(|v| v.backing.is_some()) {
        return Err(EBADF);
    }
    map.vmas.update(start, end, |v| v.name = name.clone());
    Ok(0)
}
