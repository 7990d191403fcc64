//! From a guest's system call to its line of the table.

use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::kernel::CallResult;
use uml_core::signal::Restart;
use uml_platform::Syscall;

use crate::table::{MAX_NR, RestartRule, lookup};

/// Calls made since boot, by number.
static COUNTS: [AtomicU64; MAX_NR] = [const { AtomicU64::new(0) }; MAX_NR];

/// How often system call `nr` was made.
pub fn count(nr: usize) -> u64 {
    COUNTS.get(nr).map_or(0, |c| c.load(Ordering::Relaxed))
}

/// Runs one system call; what [`uml_core::kernel::Kernel::set_system_call`] is given.
pub fn system_call(cx: &mut Ctx<'_>, call: Syscall) -> CallResult {
    let refused = CallResult { value: Err(ENOSYS), rule: Restart::Never };
    if call.foreign_abi {
        return refused;
    }
    if let Some(c) = usize::try_from(call.nr).ok().and_then(|n| COUNTS.get(n)) {
        c.fetch_add(1, Ordering::Relaxed);
    }
    let Some(entry) = lookup(call.nr) else {
        uml_base::pr_debug!("{}: system call {} is not implemented", cx.task.tid, call.nr);
        return refused;
    };
    let rule = match entry.restart {
        RestartRule::Sys => Restart::Sys,
        RestartRule::NoHand => Restart::NoHand,
        RestartRule::Block => Restart::Block,
        RestartRule::Never => Restart::Never,
    };
    let began = crate::trace::begin();
    let value = (entry.handler)(cx, call.args);
    if let Some(began) = began {
        crate::trace::finish(cx, began, call.nr, entry, &call.args, &value);
    }
    CallResult { value, rule }
}
