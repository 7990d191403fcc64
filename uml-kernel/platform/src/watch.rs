//! The watchdog: ends processes whose threads refuse to be interrupted.
//!
//! Guest code that jumps to the stub's `rt_sigreturn` can block the interruption signal
//! and then compute for ever. Nothing else can keep a thread from the kernel: every call
//! is notified and every fault with blocked signals is deadly. The watchdog sleeps unless
//! an interruption is under way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::process::HostProcess;
use crate::seccomp::zygote::INTERRUPT;
use crate::sys;

/// A thread that was sent an interruption.
pub trait Interrupted: Send + Sync {
    fn process(&self) -> &HostProcess;
    fn tid(&self) -> i32;
}

/// What [`Watch::run`] asks its backend: whether any interruption is under way, and the
/// threads that were sent theirs before the given moment.
pub type Overdue = (bool, Vec<Arc<dyn Interrupted>>);

/// Time between looks.
const PERIOD: Duration = Duration::from_secs(1);
/// User time in clock ticks that only guest code can have used up: the stub needs
/// microseconds.
const TICKS: u64 = 20;
/// CPU time of a process in nanoseconds before which no thread of it is looked at: that reads files which the end of a process
/// has to throw away (see [`crate::seat`]).
const BUSY: u64 = 100_000_000;

/// What an interrupted thread had used at the first look.
#[derive(Clone, Copy)]
struct First {
    process: u64,
    /// User time, once its process has been busy since then.
    ticks: Option<u64>,
}

#[derive(Default)]
pub struct Watch {
    armed: AtomicBool,
    stopping: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Watch {
    /// Has the watchdog look after a period.
    pub fn arm(&self) {
        if !self.armed.load(Ordering::Relaxed) && !self.armed.swap(true, Ordering::AcqRel) {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_one();
        }
    }

    /// The watchdog's thread, until [`Watch::stop`].
    pub fn run(&self, overdue: impl Fn(Instant) -> Overdue) {
        let mut seen: HashMap<i32, First> = HashMap::new();
        loop {
            let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            while !self.armed.load(Ordering::Acquire) && !self.stopping.load(Ordering::SeqCst) {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            // Only a shutdown ends this wait early.
            drop(self.wake.wait_timeout(guard, PERIOD));
            self.armed.store(false, Ordering::Release);
            let since = Instant::now() - PERIOD / 2;
            let (waiting, late) = overdue(since);
            let mut now = HashMap::new();
            for t in late {
                judge(&*t, &seen, &mut now);
            }
            seen = now;
            if waiting {
                self.armed.store(true, Ordering::Release);
            }
        }
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_one();
    }
}

fn judge(t: &dyn Interrupted, before: &HashMap<i32, First>, now: &mut HashMap<i32, First>) {
    let Some(Some(used)) = t.process().with_pid(sys::process_cpu_ns) else { return };
    // Measured from the first look, so that a busy host only delays the judgement.
    let mut first = before.get(&t.tid()).copied().unwrap_or(First { process: used, ticks: None });
    if used.saturating_sub(first.process) >= BUSY {
        let Some(Some((blocked, ticks))) = t.process().with_pid(|pid| state(pid, t.tid())) else {
            return;
        };
        if !blocked {
            return;
        }
        if ticks.saturating_sub(*first.ticks.get_or_insert(ticks)) >= TICKS {
            t.process().kill();
        }
    }
    now.insert(t.tid(), first);
}

/// Whether a thread blocks the interruption, and its user time in clock ticks.
fn state(pid: i32, tid: i32) -> Option<(bool, u64)> {
    let dir = format!("/proc/{pid}/task/{tid}");
    let status = std::fs::read_to_string(format!("{dir}/status")).ok()?;
    let stat = std::fs::read_to_string(format!("{dir}/stat")).ok()?;
    Some((blocks_interrupt(&status)?, user_ticks(&stat)?))
}

/// Reads `SigBlk` of proc_pid_status(5).
fn blocks_interrupt(status: &str) -> Option<bool> {
    let mask = status.lines().find_map(|l| l.strip_prefix("SigBlk:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (INTERRUPT - 1) & 1 != 0)
}

/// Reads `utime` of proc_pid_stat(5).
fn user_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        assert_eq!(blocks_interrupt("Name:\tx\nSigBlk:\tfffffffffffbfeff\n"), Some(true));
        assert_eq!(blocks_interrupt("SigBlk:\t0000000000000000\n"), Some(false));
        assert_eq!(blocks_interrupt("Name: x\n"), None);
        assert_eq!(user_ticks("1 (a) b) R 2 3 4 0 -1 4194368 6 0 0 0 77 26 0 0"), Some(77));
        assert_eq!(user_ticks(""), None);
    }
}
