//! What a disk was asked for: the numbers of /proc/diskstats and iostat(1).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use uml_core::registry::{BlockStats, RequestStats};

use crate::ubd::disk::MINORS;

/// Kinds of requests that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    /// Of data or of zeros.
    Write,
    Discard,
    Flush,
}

impl Kind {
    fn of(self, s: &mut BlockStats) -> &mut RequestStats {
        match self {
            Kind::Read => &mut s.reads,
            Kind::Write => &mut s.writes,
            Kind::Discard => &mut s.discards,
            Kind::Flush => &mut s.flushes,
        }
    }
}

/// Counters of one device.
#[derive(Debug, Default)]
struct Counters {
    stats: BlockStats,
    /// Since when requests have been under way, if any are.
    busy: Option<Instant>,
}

impl Counters {
    fn begin(&mut self, kind: Kind, now: Instant) {
        self.busy.get_or_insert(now);
        self.stats.in_flight[usize::from(kind != Kind::Read)] += 1;
    }

    fn leave(&mut self, kind: Kind, now: Instant) {
        // Each leave has its begin.
        self.stats.in_flight[usize::from(kind != Kind::Read)] -= 1;
        if self.stats.in_flight == [0, 0]
            && let Some(since) = self.busy.take()
        {
            self.stats.busy_nanos += nanos(since, now);
        }
    }

    fn shown(&self, now: Instant) -> BlockStats {
        let mut s = self.stats;
        s.busy_nanos += self.busy.map_or(0, |since| nanos(since, now));
        s
    }
}

fn nanos(from: Instant, to: Instant) -> u64 {
    // 584 years.
    to.saturating_duration_since(from).as_nanos() as u64
}

/// Counters of a disk and its partitions.
#[derive(Debug, Default)]
pub(super) struct Requests {
    devices: [Mutex<Counters>; MINORS as usize],
}

impl Requests {
    fn lock(&self, number: u32) -> MutexGuard<'_, Counters> {
        let n = number as usize % self.devices.len();
        self.devices[n].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, and the partition when it is one.
    fn each(&self, number: u32, mut f: impl FnMut(&mut Counters)) {
        f(&mut self.lock(0));
        if number != 0 {
            f(&mut self.lock(number));
        }
    }

    /// A request for partition `number`, or for the whole disk (0), starts.
    pub(super) fn begin(&self, kind: Kind, number: u32) -> Request<'_> {
        let start = Instant::now();
        self.each(number, |c| c.begin(kind, start));
        Request { requests: self, kind, number, start, over: false }
    }

    /// What was counted for partition `number`, or for the whole disk (0).
    pub(super) fn of(&self, number: u32) -> BlockStats {
        self.lock(number).shown(Instant::now())
    }
}

/// A request under way.
#[must_use]
pub(super) struct Request<'a> {
    requests: &'a Requests,
    kind: Kind,
    number: u32,
    start: Instant,
    over: bool,
}

impl Request<'_> {
    /// It completed, having moved `bytes`.
    pub(super) fn end(mut self, bytes: u64) {
        self.over = true;
        let now = Instant::now();
        let took = nanos(self.start, now);
        self.requests.each(self.number, |c| {
            let s = self.kind.of(&mut c.stats);
            s.requests += 1;
            s.bytes += bytes;
            s.nanos += took;
            c.leave(self.kind, now);
        });
    }

    /// It was none after all.
    pub(super) fn cancel(self) {}
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if !self.over {
            let now = Instant::now();
            self.requests.each(self.number, |c| c.leave(self.kind, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_partition_counts_for_its_disk_too() {
        let r = Requests::default();
        r.begin(Kind::Read, 0).end(512);
        let a = r.begin(Kind::Write, 3);
        let b = r.begin(Kind::Read, 3);
        assert_eq!((r.of(3).in_flight, r.of(0).in_flight), ([1, 1], [1, 1]));
        a.end(4096);
        b.cancel();
        drop(r.begin(Kind::Discard, 3));
        let (disk, part) = (r.of(0), r.of(3));
        assert_eq!((disk.reads.requests, disk.reads.bytes), (1, 512));
        assert_eq!((disk.writes.requests, disk.writes.bytes), (1, 4096));
        assert_eq!((part.reads.requests, part.writes.bytes), (0, 4096));
        assert_eq!((part.discards, disk.in_flight, part.in_flight), Default::default());
        assert_eq!(r.of(4), BlockStats::default());
    }

    #[test]
    fn time_with_several_requests_under_way_counts_once() {
        let t = Instant::now();
        let at = |ms: u64| t + Duration::from_millis(ms);
        let mut c = Counters::default();
        c.begin(Kind::Read, at(0));
        c.begin(Kind::Flush, at(10));
        assert_eq!(c.shown(at(15)).busy_nanos, 15_000_000);
        c.leave(Kind::Read, at(20));
        c.leave(Kind::Flush, at(30));
        c.begin(Kind::Read, at(100));
        c.leave(Kind::Read, at(101));
        assert_eq!(c.shown(at(500)).busy_nanos, 31_000_000);
    }
}
