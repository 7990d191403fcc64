//! System calls that a thread wants to hear of instead of making them (PR_SET_SYSCALL_USER_DISPATCH(2const)): programs
//! that run code written for another system.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_platform::Syscall;

use super::{Task, exit};
use crate::ctx::Ctx;
use crate::signal::{SigFields, SigInfo, force_fault};

/// Calls are made, whatever the place.
const ALLOW: u8 = 0;
/// Calls from outside the range raise SIGSYS.
const BLOCK: u8 = 1;

/// What a thread asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserDispatch {
    /// Calls from these addresses are always made.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Address of the byte that says whether others are; 0: they never are.
    pub selector: u64,
}

impl Task {
    /// Begins, changes or ends interception for this thread: `EINVAL` for a range that wraps around, `EFAULT` for a
    /// selector outside the address space.
    pub fn set_user_dispatch(&self, new: Option<UserDispatch>) -> Result<()> {
        if let Some(d) = new {
            if d.start != 0 && d.start.wrapping_add(d.len) <= d.start {
                return Err(EINVAL);
            }
            if d.selector >= self.mm()?.user_max() {
                return Err(EFAULT);
            }
        }
        self.personal.lock().user_dispatch = new;
        self.user_dispatch.store(new.is_some(), Ordering::Relaxed);
        Ok(())
    }
}

/// The return value of a call that is not made: SIGSYS comes instead, with the registers as they were before it.
pub(super) fn intercept(cx: &Ctx<'_>, call: &Syscall) -> Option<i64> {
    let task = &cx.task;
    let d = task.personal.lock().user_dispatch?;
    if call.ip.wrapping_sub(d.start) < d.len {
        return None;
    }
    let unchanged = Some(call.nr as i64);
    if d.selector != 0 {
        match crate::user::read_obj::<u8>(task, d.selector) {
            Ok(ALLOW) => return None,
            Ok(BLOCK) => {}
            Ok(_) => {
                exit::begin_group_exit(task, libc::SIGSYS);
                return unchanged;
            }
            Err(_) => {
                exit::begin_group_exit(task, libc::SIGSEGV);
                return unchanged;
            }
        }
    }
    // si_code of <asm-generic/siginfo.h>; AUDIT_ARCH_X86_64.
    const SYS_USER_DISPATCH: i32 = 2;
    const ARCH: u32 = 0xc000_003e;
    let fields = SigFields::Sys { addr: call.ip, nr: call.nr as i32, arch: ARCH };
    force_fault(task, SigInfo { signo: libc::SIGSYS, errno: 0, code: SYS_USER_DISPATCH, fields });
    unchanged
}
