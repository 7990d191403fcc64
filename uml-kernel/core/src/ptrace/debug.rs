//! Debug registers of a task: what its tracer sets (PTRACE_POKEUSER beyond the registers of `struct user`), and what a debug
//! exception leaves in them. Layout and rules: Intel SDM volume 3, "Debug Registers"; errors as Linux gives them.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_platform::DebugRegs;

use super::{DEBUG, Ptrace};
use crate::ctx::Ctx;
use crate::task::Task;
use uml_base::pr_warn;

/// Bits of DR7 that can be set.
const CONTROL: u64 = 0xffff_03ff;
/// DR6 when nothing happened: its reserved bits are ones.
const QUIET: u64 = 0xffff_0ff0;
/// Bits of DR6 that say what happened: breakpoints, access to the registers, single step, task switch.
const HAPPENED: u64 = 0xe00f;
/// A single step.
const STEPPED: u64 = 1 << 14;

#[derive(Debug)]
pub(super) struct Debug {
    regs: DebugRegs,
    status: u64,
    /// The host thread does not have them yet.
    changed: bool,
}

impl Default for Debug {
    fn default() -> Debug {
        Debug { regs: DebugRegs::default(), status: QUIET, changed: false }
    }
}

/// Bytes that breakpoint `n` watches by `control`; `None` when it is off.
fn length(control: u64, n: usize) -> Result<Option<u64>> {
    if control >> (2 * n) & 3 == 0 {
        return Ok(None);
    }
    let field = control >> (16 + 4 * n);
    let len = [1, 2, 8, 4][(field >> 2 & 3) as usize];
    match field & 3 {
        // An instruction's first byte; I/O ports are not for programs.
        0 if len != 1 => Err(EINVAL),
        2 => Err(EINVAL),
        _ => Ok(Some(len)),
    }
}

/// Whether what is enabled lies below `user_max`, aligned.
fn check(r: &DebugRegs, user_max: u64) -> Result<()> {
    for (n, address) in r.address.into_iter().enumerate() {
        if let Some(len) = length(r.control, n)?
            && (address & (len - 1) != 0 || address.checked_add(len).is_none_or(|e| e > user_max))
        {
            return Err(EINVAL);
        }
    }
    Ok(())
}

impl Ptrace {
    /// Debug register `n`, as the tracer sees it.
    pub fn debug_register(&self, n: usize) -> u64 {
        let st = self.state.lock();
        match n {
            0..4 => st.debug.regs.address[n],
            6 => st.debug.status,
            7 => st.debug.regs.control,
            _ => 0,
        }
    }

    /// Forgets all; the task has a new host thread.
    pub(crate) fn clear_debug(&self) {
        if self.flag(DEBUG) {
            self.state.lock().debug = Debug::default();
            self.set_flag(DEBUG, false);
        }
    }
}

/// Sets debug register `n` of a stopped tracee; it takes effect when the tracee goes on.
pub fn set_debug_register(tracee: &Task, n: usize, value: u64) -> Result<()> {
    let user_max = tracee.mm()?.user_max();
    let host = tracee.kernel().platform().cloned();
    let mut st = tracee.ptrace.state.lock();
    let mut new = st.debug.regs;
    match n {
        0..4 if value >= user_max => return Err(EINVAL),
        0..4 => new.address[n] = value,
        6 => {
            st.debug.status = value;
            return Ok(());
        }
        7 => new.control = value,
        _ => return Err(EIO),
    }
    check(&new, user_max)?;
    if new == st.debug.regs {
        return Ok(());
    }
    let able = host.is_some_and(|p| p.has_debug_registers());
    if !able && new.control & 0xff != 0 {
        return Err(EIO);
    }
    st.debug.regs = new;
    st.debug.changed = able;
    drop(st);
    tracee.ptrace.set_flag(DEBUG, true);
    Ok(())
}

/// The tracee goes on: the host gets what was changed.
pub(super) fn apply(cx: &mut Ctx<'_>) {
    if !cx.task.ptrace.flag(DEBUG) {
        return;
    }
    let regs = {
        let mut st = cx.task.ptrace.state.lock();
        std::mem::take(&mut st.debug.changed).then_some(st.debug.regs)
    };
    let regs = regs.map(|r| DebugRegs { control: r.control & CONTROL, ..r });
    if let Some(r) = regs
        && let Err(e) = cx.hw.set_debug_registers(&r)
        && e != ESRCH
    {
        pr_warn!("pid {}: the host refuses hardware breakpoints: {e}", cx.task.tid);
    }
}

/// The task trapped with this si_code: DR6 says why.
pub(crate) fn trapped(cx: &mut Ctx<'_>, code: i32) {
    const TRAP_TRACE: i32 = 2;
    const TRAP_HWBKPT: i32 = 4;
    if !cx.task.ptrace.traced() || !matches!(code, TRAP_TRACE | TRAP_HWBKPT) {
        return;
    }
    let enabled =
        cx.task.ptrace.flag(DEBUG) && cx.task.ptrace.state.lock().debug.regs.control & 0xff != 0;
    let status = if enabled { cx.hw.debug_status().unwrap_or(0) } else { STEPPED };
    // Hosts before Linux 5.10 leave the reserved bits out.
    cx.task.ptrace.state.lock().debug.status = status & HAPPENED | QUIET;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_enabled() {
        let with = |address, control| DebugRegs { address: [address, 0, 0, 0], control };
        let max = 1 << 40;
        assert_eq!(check(&with(0x1000, 1 | 0xd << 16), max), Ok(()));
        assert_eq!(check(&with(0x1001, 1 | 0xd << 16), max), Err(EINVAL));
        assert_eq!(check(&with(0x1001, 0), max), Ok(()));
        // Eight bytes, two bytes, an instruction with a length, ports.
        assert_eq!(check(&with(0x1008, 2 | 0x9 << 16), max), Ok(()));
        assert_eq!(check(&with(0x1004, 2 | 0x9 << 16), max), Err(EINVAL));
        assert_eq!(check(&with(0x1002, 1 | 0x7 << 16), max), Ok(()));
        assert_eq!(check(&with(0x1000, 1 | 0x4 << 16), max), Err(EINVAL));
        assert_eq!(check(&with(0x1000, 1 | 0x2 << 16), max), Err(EINVAL));
        assert_eq!(check(&with(max - 4, 1 | 0xd << 16), max), Ok(()));
        assert_eq!(check(&with(max, 1 | 0x1 << 16), max), Err(EINVAL));
        assert_eq!(check(&with(!7, 1 | 0x9 << 16), max), Err(EINVAL));
    }
}
