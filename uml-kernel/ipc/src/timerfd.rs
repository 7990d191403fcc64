//! Timers that are read (timerfd_create(2)).

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue};
use uml_core::file::{File, FileOps, Io};
use uml_core::io::Sink;
use uml_core::kernel::Kernel;
use uml_core::ns::PidNs;
use uml_core::task::Task;
use uml_core::time::itimer::forward;
use uml_core::time::{Clock, ClockWatcher, Timer, TimerTarget};
use uml_core::vfs::anon::{self, AnonKind};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Off,
    At(Instant),
    /// When CLOCK_REALTIME shows this.
    Wall(Duration),
}

struct State {
    due: Due,
    interval: Duration,
    /// It went off; a periodic timer goes on when this is read.
    expired: bool,
    ticks: u64,
    cancel_on_set: bool,
    /// It was set with TFD_TIMER_ABSTIME.
    absolute: bool,
    canceled: bool,
}

/// The timer itself.
struct Inner {
    clock: Clock,
    /// CLOCK_*, as the program named it.
    clock_id: i32,
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    queue: Arc<WaitQueue>,
    timer: Timer,
}

/// What a timerfd refers to.
pub struct TimerFd {
    inner: Arc<Inner>,
}

impl TimerFd {
    /// timerfd_create(2) for a clock that was checked; `flags` are TFD_NONBLOCK.
    pub fn open(task: &Task, clock: Clock, clock_id: i32, flags: i32) -> Arc<File> {
        let kernel = task.kernel();
        let inner = Arc::new_cyclic(|me: &Weak<Inner>| Inner {
            clock,
            clock_id,
            kernel: Arc::downgrade(&kernel),
            state: Mutex::new(
                Rank::TIMERS,
                State {
                    due: Due::Off,
                    interval: Duration::ZERO,
                    expired: false,
                    ticks: 0,
                    cancel_on_set: false,
                    absolute: false,
                    canceled: false,
                },
            ),
            queue: WaitQueue::shared(),
            timer: kernel.time.timer(me.clone()),
        });
        if clock == Clock::Realtime {
            let w: Weak<dyn ClockWatcher> = Arc::downgrade(&inner) as _;
            kernel.time.watch_sets(w);
        }
        let cred = task.cred();
        let path = anon::path(AnonKind::Other("[timerfd]"), &cred);
        let status = (flags & libc::TFD_NONBLOCK) | libc::O_RDWR;
        File::new(Box::new(TimerFd { inner }), path, status as u32, cred)
    }

    /// The timer behind an open file; `EINVAL` when it is something else.
    pub fn of(file: &File) -> Result<&TimerFd> {
        file.downcast::<TimerFd>().ok_or(EINVAL)
    }

    /// The clock it follows.
    pub fn clock(&self) -> Clock {
        self.inner.clock
    }

    /// timerfd_gettime(2): time left and interval, zero when off.
    pub fn get(&self) -> (Duration, Duration) {
        let mut s = self.inner.state.lock();
        self.inner.catch_up(&mut s);
        (self.inner.left(&s), s.interval)
    }

    /// timerfd_settime(2); returns the former time left and interval.
    pub fn set(
        &self,
        value: Duration,
        interval: Duration,
        absolute: bool,
        cancel_on_set: bool,
    ) -> (Duration, Duration) {
        let inner = &self.inner;
        let mut s = inner.state.lock();
        inner.catch_up(&mut s);
        let old = (inner.left(&s), s.interval);
        let due = if value.is_zero() {
            Due::Off
        } else if absolute && inner.clock == Clock::Realtime {
            Due::Wall(value)
        } else if absolute {
            inner.instant(value).map_or(Due::Off, Due::At)
        } else {
            uml_base::clock::now().checked_add(value).map_or(Due::Off, Due::At)
        };
        let cancel_on_set = cancel_on_set && absolute && inner.clock == Clock::Realtime;
        *s = State {
            due,
            interval,
            expired: false,
            ticks: 0,
            cancel_on_set,
            absolute,
            canceled: false,
        };
        inner.arm(&s);
        old
    }

    fn take(&self) -> Result<u64> {
        let mut s = self.inner.state.lock();
        if s.canceled {
            s.canceled = false;
            s.ticks = 0;
            s.expired = false;
            return Err(ECANCELED);
        }
        self.inner.catch_up(&mut s);
        match std::mem::take(&mut s.ticks) {
            0 => Err(EAGAIN),
            n => Ok(n),
        }
    }
}

impl Inner {
    fn instant(&self, at: Duration) -> Option<Instant> {
        self.kernel.upgrade()?.time.instant_of(self.clock, at)
    }

    fn wall(&self) -> Duration {
        self.kernel.upgrade().map_or(Duration::ZERO, |k| k.time.realtime())
    }

    fn arm(&self, s: &State) {
        self.timer.set(match s.due {
            Due::Off => None,
            Due::At(at) => Some(at),
            Due::Wall(d) => self.instant(d),
        });
    }

    fn left(&self, s: &State) -> Duration {
        let left = match s.due {
            Due::Off => return Duration::ZERO,
            Due::At(at) => at.saturating_duration_since(uml_base::clock::now()),
            Due::Wall(d) => d.saturating_sub(self.wall()),
        };
        // Zero would mean that it is off.
        left.max(Duration::from_nanos(1))
    }

    /// A timer that went off goes on: counts the expirations since and arms the next.
    fn catch_up(&self, s: &mut State) {
        if !s.expired {
            return;
        }
        s.expired = false;
        if s.interval.is_zero() {
            return;
        }
        match s.due {
            Due::Off => return,
            Due::At(at) => {
                let (next, missed) = forward(at, s.interval);
                s.ticks = s.ticks.saturating_add(missed);
                s.due = next.map_or(Due::Off, Due::At);
            }
            Due::Wall(at) => {
                let late = self.wall().saturating_sub(at).as_nanos();
                let n = late / s.interval.as_nanos();
                s.ticks = s.ticks.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
                let step = (n + 1).saturating_mul(s.interval.as_nanos());
                let ns = u64::try_from(step).unwrap_or(u64::MAX);
                s.due = Due::Wall(at.saturating_add(Duration::from_nanos(ns)));
            }
        }
        self.arm(s);
    }
}

impl TimerTarget for Inner {
    fn expired(&self) {
        {
            let mut s = self.state.lock();
            let due = match s.due {
                Due::Off => false,
                Due::At(at) => at <= uml_base::clock::now(),
                Due::Wall(at) => at <= self.wall(),
            };
            if s.expired {
                return;
            }
            if !due {
                // The clock was set back, or it was set anew: not yet.
                return self.arm(&s);
            }
            s.expired = true;
            s.ticks = s.ticks.saturating_add(1);
            if s.interval.is_zero() {
                s.due = Due::Off;
            }
        }
        self.queue.wake_all(Events::READABLE);
    }
}

impl ClockWatcher for Inner {
    fn clock_set(&self) {
        {
            let mut s = self.state.lock();
            if s.cancel_on_set && s.due != Due::Off {
                s.canceled = true;
            } else if matches!(s.due, Due::Wall(_)) && !s.expired {
                return self.arm(&s);
            } else {
                return;
            }
        }
        self.queue.wake_all(Events::READABLE);
    }
}

impl FileOps for TimerFd {
    fn read(&self, io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(EINVAL);
        }
        let queue = &self.inner.queue;
        let take = || self.take();
        let n = io.task.retry(queue, Events::READABLE, io.nonblock, None, "timerfd_read", take)?;
        if dst.put(&n.to_le_bytes())? != 8 {
            return Err(EFAULT);
        }
        Ok(8)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.inner.queue);
        }
        let s = self.inner.state.lock();
        Events::READABLE.when(s.ticks > 0 || s.canceled)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, _: i64, _: i32) -> Result<u64> {
        Ok(cur)
    }

    fn show_fdinfo(&self, _: &Arc<PidNs>, out: &mut Vec<u8>) {
        let (left, interval) = self.get();
        let (ticks, settime) = {
            let s = self.inner.state.lock();
            let cancel = if s.cancel_on_set { libc::TFD_TIMER_CANCEL_ON_SET } else { 0 };
            let absolute = if s.absolute { libc::TFD_TIMER_ABSTIME } else { 0 };
            (s.ticks, cancel | absolute)
        };
        let text = format!(
            "clockid: {}\nticks: {ticks}\nsettime flags: 0{settime:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.inner.clock_id,
            left.as_secs(),
            left.subsec_nanos(),
            interval.as_secs(),
            interval.subsec_nanos(),
        );
        out.extend_from_slice(text.as_bytes());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
