//! Moments of the machine's clock as the stack sees them.

use std::ops::{Add, Sub};

/// Nanoseconds of a microsecond, millisecond and second.
pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;

/// A moment: nanoseconds since the stack's clock began. Never zero in practice, so that zero can mean
/// "not yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Later than every real moment.
    pub const NEVER: Time = Time(u64::MAX);

    /// Nanoseconds from `earlier` to here; zero when it is not earlier.
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole milliseconds, as TCP timestamps count them.
    pub fn millis(self) -> u64 {
        self.0 / MS
    }
}

impl Add<u64> for Time {
    type Output = Time;
    fn add(self, ns: u64) -> Time {
        Time(self.0.saturating_add(ns))
    }
}

impl Sub<u64> for Time {
    type Output = Time;
    fn sub(self, ns: u64) -> Time {
        Time(self.0.saturating_sub(ns))
    }
}

/// Where the stack's time comes from.
pub trait Clock: Send + Sync {
    /// The present moment; never goes back.
    fn now(&self) -> Time;

    /// Nanoseconds since the epoch, for packet timestamps.
    fn realtime(&self) -> u64 {
        self.now().0
    }

    /// Number of the processor that the calling thread runs on.
    fn processor(&self) -> u32 {
        0
    }
}
