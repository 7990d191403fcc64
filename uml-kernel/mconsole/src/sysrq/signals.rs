//! Keys that reach for tasks: terminate, kill, secure attention, nice.

use std::sync::Arc;

use uml_base::pr_warn;
use uml_core::kernel::Kernel;
use uml_core::signal::{SigInfo, send_to_process};
use uml_core::task::Process;
use uml_core::vfs::Dev;

use crate::describe;

/// A signal to every process but init.
pub fn all(kernel: &Arc<Kernel>, signo: i32) {
    let targets: Vec<Arc<Process>> = {
        let tree = kernel.tree.read();
        tree.processes().filter(|(pid, _)| *pid > 1).map(|(_, p)| p.process.clone()).collect()
    };
    for p in targets {
        send_to_process(kernel, &p, SigInfo::kernel(signo), false);
    }
}

/// The console an operator sits at.
const CONSOLE: Dev = Dev { major: 4, minor: 0 };

/// Kills everything whose controlling terminal is the console, so that the next login prompt there is a
/// true one.
pub fn secure_attention(kernel: &Arc<Kernel>) {
    let Some(terminals) = kernel.terminals() else { return };
    for t in describe::leaders(kernel) {
        let on_console = terminals.controlling(&t).is_some_and(|(dev, _)| dev == CONSOLE);
        if on_console && t.process.pid != 1 {
            pr_warn!("SAK: killed process {} ({})", t.process.pid, describe::name(&t));
            send_to_process(kernel, &t.process, SigInfo::kernel(libc::SIGKILL), false);
        }
    }
}

/// Real-time and favoured tasks become ordinary ones.
pub fn nice(kernel: &Arc<Kernel>) {
    for t in describe::tasks(kernel) {
        let mut p = t.personal.lock();
        if matches!(p.sched_policy, libc::SCHED_FIFO | libc::SCHED_RR) {
            p.sched_policy = libc::SCHED_OTHER;
            p.sched_priority = 0;
        }
        p.nice = p.nice.max(0);
    }
}
