//! Times in guest memory: `struct timespec` and `struct timeval`, and signal masks of waiting calls.

use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::Task;
use uml_core::user;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct timespec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: i64,
}

/// `struct timeval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Timeval {
    pub sec: i64,
    pub usec: i64,
}

const _: () = assert!(size_of::<Timespec>() == 16 && size_of::<Timeval>() == 16);

const NSEC_PER_SEC: i64 = 1_000_000_000;
const USEC_PER_SEC: i64 = 1_000_000;

impl Timespec {
    /// As a length of time; `EINVAL` when negative or not normalised.
    pub fn duration(self) -> Result<Duration> {
        if self.sec < 0 || !(0..NSEC_PER_SEC).contains(&self.nsec) {
            return Err(EINVAL);
        }
        Ok(Duration::new(self.sec as u64, self.nsec as u32))
    }

    /// As nanoseconds, clamped at the largest value.
    pub fn nanos(self) -> Result<u64> {
        let d = self.duration()?;
        Ok(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }

    /// From nanoseconds.
    pub fn from_nanos(ns: u64) -> Timespec {
        Timespec { sec: (ns / NSEC_PER_SEC as u64) as i64, nsec: (ns % NSEC_PER_SEC as u64) as i64 }
    }
}

impl From<Duration> for Timespec {
    fn from(d: Duration) -> Timespec {
        Timespec {
            sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            nsec: i64::from(d.subsec_nanos()),
        }
    }
}

impl Timeval {
    /// As a length of time; `EINVAL` when negative or not normalised (setitimer(2)).
    pub fn duration(self) -> Result<Duration> {
        if self.sec < 0 || !(0..USEC_PER_SEC).contains(&self.usec) {
            return Err(EINVAL);
        }
        Ok(Duration::new(self.sec as u64, self.usec as u32 * 1000))
    }
}

impl From<Duration> for Timeval {
    fn from(d: Duration) -> Timeval {
        Timeval {
            sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            usec: i64::from(d.subsec_micros()),
        }
    }
}

/// The relative timeout behind `ptr`; `None` for a null pointer.
pub fn read_timeout(task: &Task, ptr: u64) -> Result<Option<Duration>> {
    if ptr == 0 {
        return Ok(None);
    }
    user::read_obj::<Timespec>(task, ptr)?.duration().map(Some)
}

/// Runs `f` with the signal mask at `mask` in force, as ppoll(2), pselect(2) and epoll_pwait(2) do; a null
/// pointer leaves the mask alone. `EINVAL` unless `size` is that of the kernel's sigset.
pub fn with_mask<T>(
    cx: &mut Ctx<'_>,
    mask: u64,
    size: usize,
    f: impl FnOnce(&mut Ctx<'_>) -> Result<T>,
) -> Result<T> {
    if mask == 0 {
        return f(cx);
    }
    if size != 8 {
        return Err(EINVAL);
    }
    let set: u64 = user::read_obj(&cx.task, mask)?;
    cx.task.begin_temporary_mask(set);
    let result = f(cx);
    cx.task.end_temporary_mask(matches!(result, Err(EINTR)));
    result
}
