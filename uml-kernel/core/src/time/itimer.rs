//! Interval timers of a process (setitimer(2)) and measuring its CPU time.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use uml_base::{Mutex, Rank};

use super::{Timer, TimerTarget};
use crate::kernel::Kernel;
use crate::signal::SigInfo;
use crate::task::{Process, usage};

/// ITIMER_REAL, ITIMER_VIRTUAL and ITIMER_PROF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Real = 0,
    Virtual = 1,
    Prof = 2,
}

impl Which {
    fn signal(self) -> i32 {
        match self {
            Which::Real => libc::SIGALRM,
            Which::Virtual => libc::SIGVTALRM,
            Which::Prof => libc::SIGPROF,
        }
    }
}

/// User and system CPU time of a process.
pub fn cpu_time(kernel: &Kernel, pid: i32) -> (Duration, Duration) {
    let Some(task) = kernel.tree.read().leader(pid) else { return Default::default() };
    let u = usage::of_process(&task);
    (Duration::from_nanos(u.user_ns), Duration::from_nanos(u.system_ns))
}

/// CPU timers have no event to wait for: they look at the consumed time again after the shortest time in
/// which the rest can be used up, but not more often than this, and ever more rarely while the
/// process does not run.
const CPU_LOOK: Duration = Duration::from_millis(4);
const CPU_LOOK_IDLE: Duration = Duration::from_millis(100);

/// When to look again at a CPU timer that lacks `left`; `idle` counts looks without progress.
pub fn next_look(left: Duration, threads: usize, idle: u32) -> Instant {
    let shortest = left / u32::try_from(threads.max(1)).unwrap_or(u32::MAX);
    let floor = (CPU_LOOK * (1 << idle.min(5))).min(CPU_LOOK_IDLE);
    uml_base::clock::now() + shortest.max(floor).min(Duration::from_secs(3600))
}

#[derive(Default)]
struct State {
    /// ITIMER_REAL: the moment; CPU timers: the CPU time at which it expires.
    real: Option<Instant>,
    cpu: Option<Duration>,
    interval: Duration,
    /// Expired with an interval; goes on when the signal is taken.
    waiting: bool,
    seen: Duration,
    idle: u32,
}

/// One interval timer.
pub struct IntervalTimer {
    which: Which,
    process: Weak<Process>,
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    timer: Timer,
}

impl IntervalTimer {
    fn new(which: Which, process: &Arc<Process>, kernel: &Arc<Kernel>) -> Arc<IntervalTimer> {
        Arc::new_cyclic(|me: &Weak<IntervalTimer>| IntervalTimer {
            which,
            process: Arc::downgrade(process),
            kernel: Arc::downgrade(kernel),
            state: Mutex::new(Rank::TIMERS, State::default()),
            timer: kernel.time.timer(me.clone()),
        })
    }

    /// The timer of `process`, made on first use.
    pub fn of(process: &Arc<Process>, kernel: &Arc<Kernel>, which: Which) -> Arc<IntervalTimer> {
        let mut all = process.timers.itimers.lock();
        all[which as usize].get_or_insert_with(|| Self::new(which, process, kernel)).clone()
    }

    fn cpu(&self) -> (Duration, usize) {
        let (Some(k), Some(p)) = (self.kernel.upgrade(), self.process.upgrade()) else {
            return Default::default();
        };
        let (user, system) = cpu_time(&k, p.pid);
        let threads = k.tree.read().get(p.pid).map_or(1, |e| e.threads.len());
        (if self.which == Which::Virtual { user } else { user + system }, threads)
    }

    /// Time left (zero when off) and the interval.
    pub fn get(&self) -> (Duration, Duration) {
        if self.which == Which::Real {
            let s = self.state.lock();
            let now = uml_base::clock::now();
            let tick = Duration::from_micros(1);
            // An armed timer never shows zero.
            let left =
                s.real.map_or(Duration::ZERO, |at| (at.saturating_duration_since(now)).max(tick));
            return (left, s.interval);
        }
        let (cpu, _) = self.cpu();
        let s = self.state.lock();
        let left =
            s.cpu.map_or(Duration::ZERO, |at| at.saturating_sub(cpu).max(Duration::from_micros(1)));
        (left, s.interval)
    }

    /// Sets it (zero `value` stops it) and returns the former time left and interval.
    pub fn set(&self, value: Duration, interval: Duration) -> (Duration, Duration) {
        let old = self.get();
        let (cpu, threads) =
            if self.which == Which::Real { Default::default() } else { self.cpu() };
        let mut s = self.state.lock();
        *s = State { interval, ..State::default() };
        if value.is_zero() {
            self.timer.set(None);
        } else if self.which == Which::Real {
            s.real = uml_base::clock::now().checked_add(value);
            self.timer.set(s.real);
        } else {
            s.cpu = cpu.checked_add(value);
            s.seen = cpu;
            self.timer.set(Some(next_look(value, threads, 0)));
        }
        old
    }

    fn fire(&self) {
        if let (Some(k), Some(p)) = (self.kernel.upgrade(), self.process.upgrade()) {
            crate::signal::send_to_process(&k, &p, SigInfo::kernel(self.which.signal()), true);
        }
    }

    /// SIGALRM was taken: ITIMER_REAL with an interval goes on.
    pub(crate) fn taken(&self) {
        let mut s = self.state.lock();
        if !s.waiting || s.interval.is_zero() {
            return;
        }
        s.waiting = false;
        s.real = s.real.and_then(|at| forward(at, s.interval).0);
        self.timer.set(s.real);
    }
}

/// The first moment after now that is a whole number of `interval`s after `at`, and how many
/// intervals were passed over.
pub fn forward(at: Instant, interval: Duration) -> (Option<Instant>, u64) {
    let late = uml_base::clock::now().saturating_duration_since(at).as_nanos();
    let step = interval.as_nanos().max(1);
    let n = late / step + 1;
    let ns = u64::try_from(n.saturating_mul(step)).unwrap_or(u64::MAX);
    (at.checked_add(Duration::from_nanos(ns)), u64::try_from(n - 1).unwrap_or(u64::MAX))
}

impl TimerTarget for IntervalTimer {
    fn expired(&self) {
        if self.which == Which::Real {
            {
                let mut s = self.state.lock();
                if s.real.is_none_or(|at| at > uml_base::clock::now()) {
                    return;
                }
                if s.interval.is_zero() {
                    s.real = None;
                } else {
                    s.waiting = true;
                }
            }
            return self.fire();
        }
        let (cpu, threads) = self.cpu();
        let fire = {
            let mut s = self.state.lock();
            let Some(at) = s.cpu else { return };
            s.idle = if cpu == s.seen { s.idle + 1 } else { 0 };
            s.seen = cpu;
            let due = cpu >= at;
            if due {
                let mut next = at;
                if !s.interval.is_zero() {
                    let n = (cpu - at).as_nanos() / s.interval.as_nanos() + 1;
                    next = at.saturating_add(
                        s.interval.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX)),
                    );
                }
                s.cpu = (next > at).then_some(next);
            }
            self.timer.set(s.cpu.map(|at| next_look(at.saturating_sub(cpu), threads, s.idle)));
            due
        };
        if fire {
            self.fire();
        }
    }
}
