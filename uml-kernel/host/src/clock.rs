//! The host's clocks (clock_gettime(2)).

use std::time::Duration;

/// A clock of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum HostClock {
    Realtime = libc::CLOCK_REALTIME,
    /// As of the last tick.
    RealtimeCoarse = libc::CLOCK_REALTIME_COARSE,
    Monotonic = libc::CLOCK_MONOTONIC,
    /// As of the last tick.
    MonotonicCoarse = libc::CLOCK_MONOTONIC_COARSE,
    MonotonicRaw = libc::CLOCK_MONOTONIC_RAW,
    Boottime = libc::CLOCK_BOOTTIME,
    Tai = libc::CLOCK_TAI,
}

/// The clock's present time.
pub fn now(clock: HostClock) -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec; the call fails only for unknown clocks.
    let _ = unsafe { libc::clock_gettime(clock as i32, &mut t) };
    Duration::new(t.tv_sec.max(0) as u64, t.tv_nsec.clamp(0, 999_999_999) as u32)
}
