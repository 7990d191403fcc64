//! The key that kills a process to get memory back.

use std::sync::Arc;

use uml_base::pr_info;
use uml_core::kernel::Kernel;
use uml_core::memory::oom;

/// Kills the process that the shortage of memory would kill.
pub fn kill_one(kernel: &Arc<Kernel>) {
    if !oom::kill(kernel, "Out of memory") {
        pr_info!("sysrq: OOM request ignored. No task eligible");
    }
}
