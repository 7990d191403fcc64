//! RLIMIT_CPU (getrlimit(2)): SIGXCPU each second beyond the soft limit, SIGKILL at the hard one.

use std::sync::{Arc, Weak};
use std::time::Duration;

use uml_base::{Mutex, Rank};

use super::itimer::{cpu_time, next_look};
use super::{Timer, TimerTarget};
use crate::kernel::Kernel;
use crate::signal::{SigInfo, send_to_process};
use crate::task::rlimit::INFINITY;
use crate::task::{Process, Resource, Rlimit};

/// Watches the CPU time of a process that has a limit.
pub struct CpuLimit {
    process: Weak<Process>,
    kernel: Weak<Kernel>,
    /// CPU time at the last look, and looks without progress since.
    seen: Mutex<(Duration, u32)>,
    timer: Timer,
}

impl CpuLimit {
    /// The limit of `process` was set (setrlimit(2)) or inherited (fork(2)).
    pub fn watch(process: &Arc<Process>, kernel: &Arc<Kernel>) {
        let finite = process.rlimits.lock().get(Resource::Cpu).soft != INFINITY;
        let watch = {
            let mut own = process.timers.cpu_limit.lock();
            match &*own {
                None if !finite => return,
                Some(w) => w.clone(),
                None => own
                    .insert(Arc::new_cyclic(|me: &Weak<CpuLimit>| CpuLimit {
                        process: Arc::downgrade(process),
                        kernel: Arc::downgrade(kernel),
                        seen: Mutex::new(Rank::TIMERS, (Duration::ZERO, 0)),
                        timer: kernel.time.timer(me.clone()),
                    }))
                    .clone(),
            }
        };
        watch.timer.set(Some(uml_base::clock::now()));
    }
}

impl TimerTarget for CpuLimit {
    fn expired(&self) {
        let (Some(kernel), Some(process)) = (self.kernel.upgrade(), self.process.upgrade()) else {
            return;
        };
        let (user, system) = cpu_time(&kernel, process.pid);
        let used = user + system;
        let (signo, limit) = {
            let mut limits = process.rlimits.lock();
            let Rlimit { soft, hard } = limits.get(Resource::Cpu);
            if soft == INFINITY {
                return;
            }
            // A limit of zero counts as one second.
            if hard != INFINITY && used.as_secs() >= hard.max(1) {
                (libc::SIGKILL, soft)
            } else if used.as_secs() >= soft.max(1) {
                // The soft limit moves on, which is how the signal comes again each second.
                limits.set(Resource::Cpu, Rlimit { soft: soft.max(1) + 1, hard });
                (libc::SIGXCPU, soft.max(1) + 1)
            } else {
                (0, soft.max(1))
            }
        };
        let threads = kernel.tree.read().get(process.pid).map_or(0, |e| e.threads.len());
        if threads == 0 {
            return;
        }
        let idle = {
            let mut seen = self.seen.lock();
            let idle = if seen.0 == used { seen.1 + 1 } else { 0 };
            *seen = (used, idle);
            idle
        };
        if signo != 0 {
            send_to_process(&kernel, &process, SigInfo::kernel(signo), true);
        }
        if signo != libc::SIGKILL {
            let left = Duration::from_secs(limit).saturating_sub(used);
            self.timer.set(Some(next_look(left, threads, idle)));
        }
    }
}
