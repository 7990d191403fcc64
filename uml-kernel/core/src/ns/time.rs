//! Time namespaces (time_namespaces(7)): clocks that count from boot, moved by an offset.
//!
//! Inside the kernel moments are those of the machine's clocks. They are shifted where a program reads a clock
//! ([`TimeNs::shown`]) or names a moment ([`TimeNs::machine`]); the vDSO's page of a namespace has its own sums.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use super::{Parts, UserNs, next_id};
use crate::time::Clock;

/// Seconds that a clock of a namespace may show at most: half of what 64 bits of nanoseconds hold.
const MOST_SECONDS: i128 = i64::MAX as i128 / NS / 2;
const NS: i128 = 1_000_000_000;

/// What a namespace adds to the machine's clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub monotonic: i64,
    pub boottime: i64,
}

/// A change of one clock's offset, as text asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub clock: Clock,
    pub seconds: i64,
    /// Below 10^9.
    pub nanoseconds: u32,
}

/// A time namespace.
pub struct TimeNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    offsets: Mutex<Offsets>,
    /// A task is or was in it: its clocks stay as they are.
    entered: AtomicBool,
    pub parts: Parts,
}

impl TimeNs {
    /// The one with the machine's own clocks.
    pub fn initial() -> Arc<TimeNs> {
        static INITIAL: LazyLock<Arc<TimeNs>> = LazyLock::new(|| {
            let ns = TimeNs::new(0xefff_fffa, UserNs::initial(), Offsets::default());
            ns.enter();
            ns
        });
        INITIAL.clone()
    }

    fn new(id: u64, owner: Arc<UserNs>, offsets: Offsets) -> Arc<TimeNs> {
        Arc::new(TimeNs {
            id,
            owner,
            offsets: Mutex::new(Rank::LEAF, offsets),
            entered: AtomicBool::new(false),
            parts: Parts::default(),
        })
    }

    /// One with the clocks of `from`, which can be moved until somebody is in it.
    pub fn create(from: &TimeNs, owner: &Arc<UserNs>) -> Arc<TimeNs> {
        TimeNs::new(next_id(), owner.clone(), from.offsets())
    }

    /// What it adds.
    pub fn offsets(&self) -> Offsets {
        *self.offsets.lock()
    }

    /// Somebody is in it from now on.
    pub fn enter(&self) {
        // With the offsets locked, so that a change is before or after.
        let _offsets = self.offsets.lock();
        self.entered.store(true, Ordering::Relaxed);
    }

    /// Changes offsets (writing to /proc/PID/timens_offsets), all of them or none: `ERANGE` when a clock would show a
    /// time before zero or too late a one, `EACCES` once somebody is in the namespace. `now` reads the machine's clocks.
    pub fn change(&self, changes: &[Change], now: &dyn Fn(Clock) -> Duration) -> Result<()> {
        let mut offsets = self.offsets.lock();
        let mut new = *offsets;
        for c in changes {
            let offset = i128::from(c.seconds) * NS + i128::from(c.nanoseconds);
            let shows = now(c.clock).as_nanos() as i128 + offset;
            if shows < 0 || shows / NS > MOST_SECONDS {
                return Err(ERANGE);
            }
            let offset = i64::try_from(offset).map_err(|_| ERANGE)?;
            match c.clock {
                Clock::Monotonic => new.monotonic = offset,
                Clock::Boottime => new.boottime = offset,
                Clock::Realtime => return Err(EINVAL),
            }
        }
        if self.entered.load(Ordering::Relaxed) {
            return Err(EACCES);
        }
        *offsets = new;
        Ok(())
    }

    fn offset(&self, clock: Clock) -> i64 {
        let o = self.offsets();
        match clock {
            Clock::Realtime => 0,
            Clock::Monotonic => o.monotonic,
            Clock::Boottime => o.boottime,
        }
    }

    /// What a clock shows here when the machine's shows `t`.
    pub fn shown(&self, clock: Clock, t: Duration) -> Duration {
        crate::time::shift(t, self.offset(clock))
    }

    /// What the machine's clock shows when the one here shows `t`; zero for what was before boot.
    pub fn machine(&self, clock: Clock, t: Duration) -> Duration {
        crate::time::shift(t, self.offset(clock).saturating_neg())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_move_until_somebody_is_in() {
        let ns = TimeNs::create(&TimeNs::initial(), &UserNs::initial());
        let now = |_: Clock| Duration::from_secs(50);
        let change = |clock, seconds, nanoseconds| {
            ns.change(&[Change { clock, seconds, nanoseconds }], &now)
        };
        assert_eq!(change(Clock::Monotonic, -51, 0), Err(ERANGE));
        assert_eq!(change(Clock::Monotonic, i64::MAX, 0), Err(ERANGE));
        assert_eq!(change(Clock::Monotonic, i64::MIN, 0), Err(ERANGE));
        assert_eq!(change(Clock::Monotonic, -50, 5), Ok(()));
        assert_eq!(change(Clock::Boottime, 10, 0), Ok(()));
        let t = Duration::from_secs(60);
        assert_eq!(ns.shown(Clock::Monotonic, t), Duration::new(10, 5));
        assert_eq!(ns.machine(Clock::Monotonic, Duration::new(10, 5)), t);
        assert_eq!(ns.machine(Clock::Boottime, Duration::from_secs(3)), Duration::ZERO);
        assert_eq!(ns.shown(Clock::Realtime, t), t);
        ns.enter();
        assert_eq!(change(Clock::Boottime, 1, 0), Err(EACCES));
    }
}
