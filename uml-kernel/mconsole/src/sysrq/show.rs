//! Keys that print: memory, tasks, timers.

use std::sync::Arc;

use uml_base::{clock, pr_info};
use uml_core::kernel::Kernel;
use uml_core::task::RunState;

use crate::describe;

/// Timers printed.
const TIMERS: usize = 200;

pub fn memory(kernel: &Arc<Kernel>) {
    let m = kernel.memory_info();
    let kb = |bytes: u64| format!("{}kB", bytes >> 10);
    let used = m.total.saturating_sub(m.free);
    pr_info!("Mem-Info:");
    pr_info!("total:{} free:{} used:{}", kb(m.total), kb(m.free), kb(used));
    let c = m.cached;
    pr_info!("pagecache:{} shmem:{} dirty:{}", kb(c.cached), kb(c.shmem), kb(c.dirty));
    let own = uml_host::procinfo::statm(std::process::id() as i32).unwrap_or_default();
    pr_info!("kernel process rss:{}", kb(own.resident.saturating_mul(4096)));
    let tasks = kernel.tree.read().task_count();
    pr_info!("{tasks} tasks, at most {}", kernel.max_tasks());
}

pub fn every_task(kernel: &Arc<Kernel>) {
    for t in describe::tasks(kernel) {
        pr_info!("{}", describe::headline(&t));
    }
}

/// Tasks that no signal but a fatal one can wake.
pub fn blocked(kernel: &Arc<Kernel>) {
    for t in describe::tasks(kernel) {
        if describe::state(&t) == RunState::Blocked {
            pr_info!("{}\n{}", describe::headline(&t), describe::stack(&t).join("\n"));
        }
    }
}

/// What the CPUs run: tasks that do not sleep.
pub fn running(kernel: &Arc<Kernel>) {
    let mut any = false;
    for t in describe::tasks(kernel) {
        if describe::state(&t) == RunState::Running {
            any = true;
            let cpu = uml_host::procinfo::thread_stat(t.host_tid()).map_or(0, |s| s.processor);
            let head = format!("CPU: {cpu} PID: {} Comm: {}", t.tid, describe::name(&t));
            pr_info!("{head}\n{}", describe::stack(&t).join("\n"));
        }
    }
    if !any {
        pr_info!("every CPU is idle");
    }
}

pub fn timers(kernel: &Arc<Kernel>) {
    let armed = kernel.time.armed();
    let now = clock::now();
    pr_info!(
        "clock 0: {} ns since boot, {} armed",
        kernel.time.monotonic().as_nanos(),
        armed.len()
    );
    for (i, at) in armed.iter().take(TIMERS).enumerate() {
        pr_info!(" #{i}: expires in {} ns", at.saturating_duration_since(now).as_nanos());
    }
    if armed.len() > TIMERS {
        pr_info!(" and {} later ones", armed.len() - TIMERS);
    }
}
