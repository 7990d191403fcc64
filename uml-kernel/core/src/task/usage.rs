//! CPU time and other counters (getrusage(2)).

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use uml_base::storage::Used;
use uml_base::{clock, pressure};

use crate::signal::threads_of;
use crate::task::Task;
use crate::task::process::Usage;

/// Counters of one thread. Guest CPU time is that of its host thread.
pub fn of_task(task: &Task) -> Usage {
    let tid = task.kick.lock().as_ref().map_or(0, |k| k.host_tid());
    let alone = || task.mm().is_ok_and(|m| !m.was_shared() && m.space().host_pid() == tid);
    let now = match tid {
        0 => 0,
        // The host process has this thread only: the process's clock is the thread's.
        tid if alone() => uml_host::sched::process_cpu_ns(tid),
        tid => uml_host::sched::thread_cpu_ns(tid),
    };
    let user_ns = task.user_ns_before.load(Ordering::Relaxed) + now;
    let user_ns = task.user_ns_told.fetch_max(user_ns, Ordering::Relaxed).max(user_ns);
    Usage {
        user_ns,
        system_ns: task.system_ns.load(Ordering::Relaxed),
        nvcsw: task.nvcsw.load(Ordering::Relaxed),
        nivcsw: task.nivcsw.load(Ordering::Relaxed),
        in_sectors: task.io.read_bytes.load(Ordering::Relaxed) / 512,
        out_sectors: task.io.write_bytes.load(Ordering::Relaxed) / 512,
        ..Usage::default()
    }
}

/// Adds what the host counted for the process `pid`: faults and peak memory.
pub fn add_host(u: &mut Usage, pid: i32) {
    if let Some(s) = uml_host::procinfo::stat(pid) {
        u.minflt += s.minflt;
        u.majflt += s.majflt;
    }
    if let Some(peak) = uml_host::procinfo::status(pid).get("VmHWM") {
        u.max_rss_kb = u.max_rss_kb.max(*peak);
    }
}

/// Counters of the task's process: live threads and those that exited.
pub fn of_process(task: &Task) -> Usage {
    let mut u = *task.process.dead_usage.lock();
    for t in threads_of(&task.kernel(), &task.process) {
        u.add(&of_task(&t));
    }
    u
}

thread_local! {
    /// What this thread has waited for in all, and whether it is waiting now.
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static WAITING: Cell<bool> = const { Cell::new(false) };
}

/// Measures the kernel's work for one event of a task: the time that passes without what it waits. A CPU clock would be
/// exact, but costs more than a short system call takes altogether.
pub(crate) struct Work {
    began: Instant,
    waited: Duration,
    used: Used,
}

impl Work {
    pub(crate) fn begin(task: &Task) -> Work {
        pressure::works_for(&task.pressure);
        Work { began: clock::now(), waited: WAITED.get(), used: Used::now() }
    }

    /// The work is done: it is the task's.
    pub(crate) fn end(self, task: &Task) {
        let waited = WAITED.get().saturating_sub(self.waited);
        let worked = clock::since(self.began).saturating_sub(waited);
        task.system_ns.fetch_add(worked.as_nanos() as u64, Ordering::Relaxed);
        task.io.storage(Used::take(self.used));
        pressure::worked();
    }
}

/// While this lives the thread waits; within another one it does nothing.
pub(crate) struct Waiting {
    since: Option<Instant>,
    /// CPU time at that moment, when the wait is host I/O, which copies.
    cpu: Option<Duration>,
}

impl Waiting {
    fn begin(cpu: bool) -> Waiting {
        if WAITING.replace(true) {
            return Waiting { since: None, cpu: None };
        }
        Waiting { since: Some(clock::now()), cpu: cpu.then(uml_host::sched::own_cpu) }
    }

    /// Sleeps.
    pub(crate) fn sleep() -> Waiting {
        Waiting::begin(false)
    }

    /// Is in a call of the host that may block.
    pub(crate) fn host() -> Waiting {
        Waiting::begin(true)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(since) = self.since else { return };
        let worked =
            self.cpu.map_or(Duration::ZERO, |c| uml_host::sched::own_cpu().saturating_sub(c));
        WAITED.set(WAITED.get() + clock::since(since).saturating_sub(worked));
        WAITING.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_within_waits_count_once() {
        let before = WAITED.get();
        {
            let _outer = Waiting::sleep();
            let _inner = Waiting::host();
            std::thread::sleep(Duration::from_millis(20));
        }
        let once = WAITED.get() - before;
        assert!(once >= Duration::from_millis(20), "{once:?}");
        {
            let _w = Waiting::host();
            let end = Instant::now() + Duration::from_millis(30);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        // A host call that only computes is no wait; what else runs on this CPU is.
        let spun = WAITED.get() - before - once;
        assert!(spun < Duration::from_secs(1), "{spun:?}");
        assert!(!WAITING.get());
    }
}
