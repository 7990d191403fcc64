//! POSIX timers (timer_create(2)).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use super::cpulimit::CpuLimit;
use super::itimer::{IntervalTimer, cpu_time, forward, next_look};
use super::{Clock, ClockWatcher, Timer, TimerTarget};
use crate::kernel::Kernel;
use crate::signal::{SI_TIMER, SigFields, SigInfo, send_to_process, send_to_task};
use crate::task::{Process, Resource, Task, usage};

/// What a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerClock {
    Wall(Clock),
    /// CPU time of a process.
    ProcessCpu(i32),
    /// CPU time of a thread.
    ThreadCpu(i32),
}

/// What happens at expiry (sigevent(3type)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    None,
    /// Signal number and value, for the process.
    Signal(i32, u64),
    /// The same for one thread.
    Thread(i32, u64, i32),
}

/// When the timer goes off next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Off,
    At(Instant),
    /// CLOCK_REALTIME shows this (follows changes of the clock).
    Wall(Duration),
    Cpu(Duration),
}

struct State {
    due: Due,
    interval: Duration,
    /// Its signal is queued; with an interval it goes on when that is taken.
    queued: bool,
    overrun: u64,
    last_overrun: i32,
    seen: Duration,
    idle: u32,
}

/// A timer made by timer_create(2).
pub struct PosixTimer {
    pub id: i32,
    clock: TimerClock,
    notify: Notify,
    process: Weak<Process>,
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    timer: Timer,
}

/// The timers of a process. Not inherited by fork(2).
pub struct ProcessTimers {
    pub(super) itimers: Mutex<[Option<Arc<IntervalTimer>>; 3]>,
    pub(super) cpu_limit: Mutex<Option<Arc<CpuLimit>>>,
    posix: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: i32,
    timers: BTreeMap<i32, Arc<PosixTimer>>,
}

impl Default for ProcessTimers {
    fn default() -> Self {
        ProcessTimers {
            itimers: Mutex::new(Rank::LEAF, [None, None, None]),
            cpu_limit: Mutex::new(Rank::LEAF, None),
            posix: Mutex::new(Rank::LEAF, Table::default()),
        }
    }
}

impl ProcessTimers {
    /// Deletes the POSIX timers (execve(2)).
    pub fn clear_posix(&self) {
        let old = std::mem::take(&mut self.posix.lock().timers);
        for t in old.values() {
            t.stop();
        }
    }

    /// Stops everything (exit).
    pub fn clear(&self) {
        self.clear_posix();
        drop(self.cpu_limit.lock().take());
        let old = std::mem::take(&mut *self.itimers.lock());
        for t in old.iter().flatten() {
            t.set(Duration::ZERO, Duration::ZERO);
        }
    }

    /// The timer `id`; `EINVAL` when there is none.
    pub fn get(&self, id: i32) -> Result<Arc<PosixTimer>> {
        self.posix.lock().timers.get(&id).cloned().ok_or(EINVAL)
    }

    /// timer_delete(2).
    pub fn delete(&self, id: i32) -> Result<()> {
        let t = self.posix.lock().timers.remove(&id).ok_or(EINVAL)?;
        t.stop();
        Ok(())
    }

    /// Every timer, for /proc/<pid>/timers.
    pub fn list(&self) -> Vec<Arc<PosixTimer>> {
        self.posix.lock().timers.values().cloned().collect()
    }
}

/// Called for every signal that is taken off a queue: timers go on from here, and the signal learns how
/// many expirations it stands for.
pub(crate) fn taken(process: &Process, info: &mut SigInfo) {
    if info.signo == libc::SIGALRM {
        let real = process.timers.itimers.lock()[0].clone();
        if let Some(t) = real {
            t.taken();
        }
    }
    if info.code == SI_TIMER
        && let SigFields::Timer { id, overrun, .. } = &mut info.fields
        && let Ok(t) = process.timers.get(*id)
    {
        *overrun = t.taken();
    }
}

impl PosixTimer {
    /// timer_create(2): without a signal the kernel sends SIGALRM with the timer's id as value.
    pub fn create(
        task: &Task,
        clock: TimerClock,
        notify: Option<Notify>,
    ) -> Result<Arc<PosixTimer>> {
        let process = &task.process;
        let kernel = task.kernel();
        let limit = task.rlimit(Resource::Sigpending);
        let mut table = process.timers.posix.lock();
        if table.timers.len() as u64 >= limit {
            return Err(EAGAIN);
        }
        let mut id = table.next;
        while table.timers.contains_key(&id) {
            id = if id == i32::MAX { 0 } else { id + 1 };
        }
        table.next = if id == i32::MAX { 0 } else { id + 1 };
        let notify = notify.unwrap_or(Notify::Signal(libc::SIGALRM, id as u32 as u64));
        let timer = Arc::new_cyclic(|me: &Weak<PosixTimer>| PosixTimer {
            id,
            clock,
            notify,
            process: Arc::downgrade(process),
            kernel: Arc::downgrade(&kernel),
            state: Mutex::new(
                Rank::TIMERS,
                State {
                    due: Due::Off,
                    interval: Duration::ZERO,
                    queued: false,
                    overrun: 0,
                    last_overrun: 0,
                    seen: Duration::ZERO,
                    idle: 0,
                },
            ),
            timer: kernel.time.timer(me.clone()),
        });
        if clock == TimerClock::Wall(Clock::Realtime) {
            let w: Weak<dyn ClockWatcher> = Arc::downgrade(&timer) as _;
            kernel.time.watch_sets(w);
        }
        table.timers.insert(id, timer.clone());
        Ok(timer)
    }

    /// CPU time consumed by what it watches and the number of threads that consume it; `None` for wall
    /// clocks.
    fn cpu(&self) -> Option<(Duration, usize)> {
        let k = self.kernel.upgrade()?;
        match self.clock {
            TimerClock::Wall(_) => None,
            TimerClock::ProcessCpu(pid) => {
                let (u, s) = cpu_time(&k, pid);
                let threads = k.tree.read().get(pid).map_or(1, |e| e.threads.len());
                Some((u + s, threads))
            }
            TimerClock::ThreadCpu(tid) => {
                let t = k.tree.read().task(tid)?;
                let u = usage::of_task(&t);
                Some((Duration::from_nanos(u.user_ns + u.system_ns), 1))
            }
        }
    }

    fn stop(&self) {
        let mut s = self.state.lock();
        s.due = Due::Off;
        s.queued = false;
        self.timer.set(None);
    }

    /// Moment at which to act for `due`.
    fn arm(&self, s: &State, kernel: &Kernel, cpu: Option<(Duration, usize)>) {
        let at = match s.due {
            Due::Off => None,
            Due::At(at) => Some(at),
            Due::Wall(d) => kernel.time.instant_of(Clock::Realtime, d),
            Due::Cpu(d) => cpu.map(|(now, n)| next_look(d.saturating_sub(now), n, s.idle)),
        };
        self.timer.set(at);
    }

    /// The clock it follows.
    pub fn clock(&self) -> TimerClock {
        self.clock
    }

    /// Time left (zero when off) and the interval (timer_gettime(2)).
    pub fn get(&self) -> (Duration, Duration) {
        let cpu = self.cpu();
        let Some(kernel) = self.kernel.upgrade() else { return Default::default() };
        let mut s = self.state.lock();
        if s.queued && !s.interval.is_zero() {
            // It shows as running although it waits for its signal to be taken.
            if let Due::At(at) = s.due {
                let (next, missed) = forward(at, s.interval);
                if let Some(next) = next
                    && at <= uml_base::clock::now()
                {
                    s.overrun += missed + 1;
                    s.due = Due::At(next);
                }
            }
        }
        let left = match s.due {
            Due::Off => return (Duration::ZERO, s.interval),
            Due::At(at) => at.saturating_duration_since(uml_base::clock::now()),
            Due::Wall(d) => d.saturating_sub(kernel.time.realtime()),
            Due::Cpu(d) => d.saturating_sub(cpu.unwrap_or_default().0),
        };
        (left.max(Duration::from_nanos(1)), s.interval)
    }

    /// timer_settime(2): zero stops it. Returns the former time left and interval.
    pub fn set(&self, value: Duration, interval: Duration, absolute: bool) -> (Duration, Duration) {
        let old = self.get();
        let cpu = self.cpu();
        let Some(kernel) = self.kernel.upgrade() else { return old };
        let mut s = self.state.lock();
        s.interval = interval;
        s.queued = false;
        s.overrun = 0;
        s.last_overrun = 0;
        s.idle = 0;
        s.due = if value.is_zero() {
            Due::Off
        } else {
            match (self.clock, absolute) {
                (TimerClock::Wall(Clock::Realtime), true) => Due::Wall(value),
                (TimerClock::Wall(c), true) => {
                    kernel.time.instant_of(c, value).map_or(Due::Off, Due::At)
                }
                (TimerClock::Wall(_), false) => {
                    uml_base::clock::now().checked_add(value).map_or(Due::Off, Due::At)
                }
                (_, true) => Due::Cpu(value),
                (_, false) => Due::Cpu(cpu.unwrap_or_default().0.saturating_add(value)),
            }
        };
        s.seen = cpu.unwrap_or_default().0;
        self.arm(&s, &kernel, cpu);
        old
    }

    /// timer_getoverrun(2).
    pub fn overrun(&self) -> i32 {
        self.state.lock().last_overrun
    }

    /// Moves a periodic timer on, from a past expiry; counts the expirations passed over.
    fn advance(&self, s: &mut State, kernel: &Kernel, cpu: Option<(Duration, usize)>) {
        if s.interval.is_zero() {
            s.due = Due::Off;
            return;
        }
        let steps = |now: Duration, at: Duration, every: Duration| {
            if now < at {
                return (at, 0);
            }
            let n = (now - at).as_nanos() / every.as_nanos() + 1;
            let ns = u64::try_from(n.saturating_mul(every.as_nanos())).unwrap_or(u64::MAX);
            (at.saturating_add(Duration::from_nanos(ns)), u64::try_from(n).unwrap_or(u64::MAX))
        };
        let passed = match s.due {
            Due::Off => return,
            Due::At(at) if at > uml_base::clock::now() => 0,
            Due::At(at) => {
                let (next, missed) = forward(at, s.interval);
                s.due = next.map_or(Due::Off, Due::At);
                missed + 1
            }
            Due::Wall(at) => {
                let (next, n) = steps(kernel.time.realtime(), at, s.interval);
                s.due = Due::Wall(next);
                n
            }
            Due::Cpu(at) => {
                let (next, n) = steps(cpu.unwrap_or_default().0, at, s.interval);
                s.due = Due::Cpu(next);
                n
            }
        };
        s.overrun += passed;
    }

    /// The signal is being delivered: returns the overrun count for it.
    fn taken(&self) -> i32 {
        let cpu = self.cpu();
        let Some(kernel) = self.kernel.upgrade() else { return 0 };
        let mut s = self.state.lock();
        if !s.queued {
            return 0;
        }
        s.queued = false;
        self.advance(&mut s, &kernel, cpu);
        // The delivered expiration itself is not an overrun.
        let extra = if s.interval.is_zero() { 0 } else { s.overrun.saturating_sub(1) };
        s.overrun = 0;
        s.last_overrun = i32::try_from(extra).unwrap_or(i32::MAX);
        self.arm(&s, &kernel, cpu);
        s.last_overrun
    }
}

impl ClockWatcher for PosixTimer {
    fn clock_set(&self) {
        let Some(kernel) = self.kernel.upgrade() else { return };
        let s = self.state.lock();
        if matches!(s.due, Due::Wall(_)) && !s.queued {
            self.arm(&s, &kernel, None);
        }
    }
}

impl TimerTarget for PosixTimer {
    fn expired(&self) {
        let cpu = self.cpu();
        let (Some(kernel), Some(process)) = (self.kernel.upgrade(), self.process.upgrade()) else {
            return;
        };
        {
            let mut s = self.state.lock();
            if s.queued {
                return;
            }
            let due = match s.due {
                Due::Off => return,
                Due::At(at) => at <= uml_base::clock::now(),
                Due::Wall(at) => at <= kernel.time.realtime(),
                Due::Cpu(at) => {
                    let now = cpu.unwrap_or_default().0;
                    s.idle = if now == s.seen { s.idle + 1 } else { 0 };
                    s.seen = now;
                    at <= now
                }
            };
            if !due {
                return self.arm(&s, &kernel, cpu);
            }
            if self.notify == Notify::None {
                self.advance(&mut s, &kernel, cpu);
                return self.arm(&s, &kernel, cpu);
            }
            s.queued = true;
        }
        let info = |signo, value| SigInfo {
            signo,
            errno: 0,
            code: SI_TIMER,
            fields: SigFields::Timer { id: self.id, overrun: 0, value },
        };
        let (signo, sent) = match self.notify {
            Notify::None => return,
            Notify::Signal(n, v) => (n, send_to_process(&kernel, &process, info(n, v), true)),
            Notify::Thread(n, v, tid) => {
                let task = kernel.tree.read().task(tid);
                (n, task.is_some_and(|t| send_to_task(&t, info(n, v), true)))
            }
        };
        // An ignored signal is never taken: the timer goes on by itself, at a bounded rate.
        if !sent || process.ignores(signo) {
            let mut s = self.state.lock();
            if s.queued {
                s.queued = false;
                self.advance(&mut s, &kernel, cpu);
                let soonest = uml_base::clock::now() + Duration::from_millis(1);
                if let Due::At(at) = s.due {
                    s.due = Due::At(at.max(soonest));
                }
                s.overrun = 0;
                self.arm(&s, &kernel, cpu);
            }
        }
    }
}
