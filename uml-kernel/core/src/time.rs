//! Clocks and timers of the machine (time(7)).
//!
//! The guest's clocks are the host's plus offsets: CLOCK_MONOTONIC and its kin count from boot, CLOCK_REALTIME is
//! the host's plus what clock_settime(2) asked for. The vDSO uses the same sums.
//!
//! Timers of every kind end in one queue served by one thread, which sleeps when nothing is armed.

pub mod cpulimit;
pub mod itimer;
pub mod posix;
mod queue;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use uml_base::clock::stopped as clock_stopped;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_host::clock::{self, HostClock};

pub use queue::{Timer, TimerTarget};

/// A clock that timers can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// CLOCK_REALTIME and CLOCK_TAI kin: can be set.
    Realtime,
    /// CLOCK_MONOTONIC and its kin: never set.
    Monotonic,
    /// CLOCK_BOOTTIME: never set.
    Boottime,
}

/// Told when CLOCK_REALTIME was set.
pub trait ClockWatcher: Send + Sync {
    /// The wall clock jumped.
    fn clock_set(&self);
}

/// Receives the offsets for the vDSO: nanoseconds to add to the host's CLOCK_REALTIME and CLOCK_MONOTONIC.
pub type OffsetHook = Box<dyn Fn(i64, i64) + Send + Sync>;

/// Clocks and the timer queue.
pub struct Time {
    /// The host's CLOCK_MONOTONIC at boot, nanoseconds.
    boot_ns: i64,
    /// What to add to the host's CLOCK_REALTIME, nanoseconds.
    real_offset: AtomicI64,
    queue: Arc<queue::Queue>,
    watchers: Mutex<Vec<Weak<dyn ClockWatcher>>>,
    /// Woken when CLOCK_REALTIME jumped: absolute sleeps reckon anew.
    pub set_queue: Arc<WaitQueue>,
    jumps: AtomicU64,
    hook: Mutex<Option<OffsetHook>>,
    /// settimeofday(2): minutes west of Greenwich and the kind of daylight saving.
    pub timezone: Mutex<(i32, i32)>,
}

/// `t` moved by a number of nanoseconds, not below zero.
pub(crate) fn shift(t: Duration, ns: i64) -> Duration {
    let d = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { t.saturating_sub(d) } else { t.saturating_add(d) }
}

impl Default for Time {
    fn default() -> Self {
        Time::new()
    }
}

impl Time {
    /// Clocks that start now.
    pub fn new() -> Time {
        let boot = clock::now(HostClock::Monotonic);
        Time {
            boot_ns: i64::try_from(boot.as_nanos()).unwrap_or(i64::MAX),
            real_offset: AtomicI64::new(0),
            queue: queue::Queue::new(),
            watchers: Mutex::new(Rank::LEAF, Vec::new()),
            set_queue: WaitQueue::shared(),
            jumps: AtomicU64::new(0),
            hook: Mutex::new(Rank::LEAF, None),
            timezone: Mutex::new(Rank::LEAF, (0, 0)),
        }
    }

    /// Nanoseconds to add to the host's CLOCK_REALTIME and to its CLOCK_MONOTONIC.
    pub fn offsets(&self) -> (i64, i64) {
        let stopped = i64::try_from(clock_stopped().as_nanos()).unwrap_or(i64::MAX);
        (self.real_offset.load(Ordering::SeqCst), (-self.boot_ns).saturating_sub(stopped))
    }

    /// Calls `hook` with the offsets now and whenever they change.
    pub fn set_offset_hook(&self, hook: OffsetHook) {
        let (real, mono) = self.offsets();
        hook(real, mono);
        *self.hook.lock() = Some(hook);
    }

    /// CLOCK_MONOTONIC: time since boot.
    pub fn monotonic(&self) -> Duration {
        self.since_boot(HostClock::Monotonic)
    }

    /// A host clock of the monotonic kind, less the boot time.
    pub fn since_boot(&self, c: HostClock) -> Duration {
        shift(clock::now(c), self.offsets().1)
    }

    /// CLOCK_REALTIME: time since the epoch.
    pub fn realtime(&self) -> Duration {
        self.wall(HostClock::Realtime)
    }

    /// A host clock of the wall kind, with the guest's setting.
    pub fn wall(&self, c: HostClock) -> Duration {
        shift(clock::now(c), self.real_offset.load(Ordering::SeqCst))
    }

    /// The present time of a clock that timers follow.
    pub fn now(&self, c: Clock) -> Duration {
        match c {
            Clock::Realtime => self.realtime(),
            Clock::Monotonic => self.monotonic(),
            Clock::Boottime => self.since_boot(HostClock::Boottime),
        }
    }

    /// clock_settime(2) CLOCK_REALTIME. Absolute timers of that clock are reckoned anew.
    pub fn set_realtime(&self, to: Duration) {
        let host = clock::now(HostClock::Realtime);
        let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        let offset = ns(to).saturating_sub(ns(host));
        self.real_offset.store(offset, Ordering::SeqCst);
        crate::vfs::clock_was_set(offset);
        self.jumped();
    }

    /// The machine goes on after a stop: CLOCK_MONOTONIC follows the host's again from where it stood,
    /// CLOCK_REALTIME has jumped.
    pub(crate) fn resumed(&self) {
        self.jumped();
        self.queue.look();
    }

    /// How often CLOCK_REALTIME jumped; woken on [`Time::set_queue`] when it does.
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::SeqCst)
    }

    fn jumped(&self) {
        self.jumps.fetch_add(1, Ordering::SeqCst);
        if let Some(hook) = &*self.hook.lock() {
            let (real, mono) = self.offsets();
            hook(real, mono);
        }
        let watchers: Vec<_> = {
            let mut list = self.watchers.lock();
            list.retain(|w| w.strong_count() > 0);
            list.iter().filter_map(Weak::upgrade).collect()
        };
        for w in watchers {
            w.clock_set();
        }
        self.set_queue.wake_all(Events::ALL);
    }

    /// Tells `w` whenever CLOCK_REALTIME is set.
    pub fn watch_sets(&self, w: Weak<dyn ClockWatcher>) {
        let mut list = self.watchers.lock();
        list.retain(|w| w.strong_count() > 0);
        list.push(w);
    }

    /// The moment at which clock `c` shows `at`, as reckoned now; `None` beyond the clock's range.
    pub fn instant_of(&self, c: Clock, at: Duration) -> Option<Instant> {
        // The guest's clock is read first, so that the moment is never early.
        let now = self.now(c);
        let host = uml_base::clock::now();
        host.checked_add(at.saturating_sub(now))
    }

    /// The moments for which timers are armed, in order.
    pub fn armed(&self) -> Vec<Instant> {
        self.queue.armed()
    }

    /// A timer that calls `target`.
    pub fn timer(&self, target: Weak<dyn TimerTarget>) -> Timer {
        Timer::new(self.queue.clone(), target)
    }
}
