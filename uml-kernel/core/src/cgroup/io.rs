//! The io controller: what the tasks of groups have block devices do, and how much of that they may
//! (Documentation/admin-guide/cgroup-v2.rst, "IO").
//!
//! A request belongs to the task in whose system call it is made. What kernel threads write back or read ahead belongs to
//! nobody, as on Linux for filesystems without writeback by group, and shows at the root only, which has the devices' own
//! counters.
//!
//! Limits (`io.max`) are kept by the tasks: each request puts the moment off at which the group may make the next, and the task
//! that made it rests at the edge of guest code until then. So no request waits with locks held that others need, a call is never
//! longer than what it did allows, and the average holds over any time that is longer than a call. There is no queue of requests in
//! this kernel, each is a call of the task's own host thread; so there is nothing that `io.weight` could share out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uml_base::{Events, Mutex, Rank, clock, pressure};

use super::Cgroup;
use crate::kernel::Kernel;
use crate::task::sleep::served_task;
use crate::task::{Task, WaitKind};
use crate::vfs::Dev;

/// Kinds of requests that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    Read,
    Write,
    Discard,
}

/// Requests and bytes by [`IoKind`], of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStat {
    pub requests: [u64; 3],
    pub bytes: [u64; 3],
}

impl IoStat {
    fn add(&mut self, o: &IoStat) {
        for n in 0..3 {
            self.requests[n] += o.requests[n];
            self.bytes[n] += o.bytes[n];
        }
    }
}

/// What `io.max` allows of one device in a second; `None` for no limit, never 0. Discards are writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Max {
    /// Bytes read and written.
    pub bytes: [Option<u64>; 2],
    /// Requests to read and to write.
    pub requests: [Option<u64>; 2],
}

/// A limit, and when it allows the next bytes and the next request of each direction.
#[derive(Clone, Copy, Debug, Default)]
struct Limit {
    max: Max,
    next: [[Option<Instant>; 2]; 2],
}

/// What a discard counts, whatever its size.
const DISCARD: u64 = 512;
/// No single rest is longer; a limit of a byte in a second would hold a task for days.
const LONGEST: Duration = Duration::from_secs(3600);

impl Limit {
    /// A request of `bytes` was made at `now`: when the next may be.
    fn charge(&mut self, now: Instant, kind: IoKind, bytes: u64) -> Option<Instant> {
        let way = usize::from(kind != IoKind::Read);
        let bytes = if kind == IoKind::Discard { DISCARD } else { bytes };
        let amounts = [(bytes, self.max.bytes[way]), (1, self.max.requests[way])];
        let mut latest = None;
        for (n, (amount, rate)) in amounts.into_iter().enumerate() {
            let Some(rate) = rate else { continue };
            let ns = u128::from(amount) * 1_000_000_000 / u128::from(rate.max(1));
            let cost = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)).min(LONGEST);
            let next = &mut self.next[way][n];
            // What was not used is not saved up.
            let from = next.map_or(now, |at| at.max(now));
            let at = (from + cost).min(now + LONGEST);
            *next = Some(at);
            latest = latest.max(Some(at));
        }
        latest
    }
}

/// A group's accounts and limits by device; the accounts of groups that were removed below it are in its own.
pub struct GroupIo {
    stat: Mutex<BTreeMap<Dev, IoStat>>,
    limits: Mutex<BTreeMap<Dev, Limit>>,
    /// There are limits.
    limited: AtomicBool,
}

impl Default for GroupIo {
    fn default() -> Self {
        GroupIo {
            stat: Mutex::new(Rank::LEAF, BTreeMap::new()),
            limits: Mutex::new(Rank::LEAF, BTreeMap::new()),
            limited: AtomicBool::new(false),
        }
    }
}

impl GroupIo {
    fn add(&self, dev: Dev, stat: &IoStat) {
        self.stat.lock().entry(dev).or_default().add(stat);
    }

    /// `io.max`, by device; devices without a limit are not in it.
    pub fn max(&self) -> BTreeMap<Dev, Max> {
        self.limits.lock().iter().map(|(d, l)| (*d, l.max)).collect()
    }

    fn charge(&self, now: Instant, dev: Dev, kind: IoKind, bytes: u64) -> Option<Instant> {
        if !self.limited.load(Ordering::Relaxed) {
            return None;
        }
        self.limits.lock().get_mut(&dev)?.charge(now, kind, bytes)
    }

    /// The group was removed: what it did is its parent's.
    pub(super) fn hand_over(&self, parent: &GroupIo) {
        let all = std::mem::take(&mut *self.stat.lock());
        for (dev, stat) in all {
            parent.add(dev, &stat);
        }
    }
}

/// What the group and those below did, by device.
pub fn stat(group: &Arc<Cgroup>) -> BTreeMap<Dev, IoStat> {
    let mut sum: BTreeMap<Dev, IoStat> = BTreeMap::new();
    for g in group.subtree() {
        for (dev, stat) in g.io.stat.lock().iter() {
            sum.entry(*dev).or_default().add(stat);
        }
    }
    sum
}

thread_local! {
    /// The task for whom a kernel thread works.
    static ON_BEHALF: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// Requests of `f` belong to `task`, whichever thread makes them.
pub fn on_behalf<T>(task: &Arc<Task>, f: impl FnOnce() -> T) -> T {
    let before = ON_BEHALF.replace(Some(task.clone()));
    let result = f();
    ON_BEHALF.set(before);
    result
}

/// A request of `bytes` for the whole disk `dev` was completed by the calling thread.
pub fn count(dev: Dev, kind: IoKind, bytes: u64) {
    let Some(task) = ON_BEHALF.with_borrow(Clone::clone).or_else(served_task) else { return };
    let mut one = IoStat::default();
    one.requests[kind as usize] = 1;
    one.bytes[kind as usize] = bytes;
    let group = task.process.cgroup.lock().group.clone();
    let Some(g) = group else { return };
    g.io.add(dev, &one);
    let now = clock::now();
    let until = g.chain().filter_map(|g| g.io.charge(now, dev, kind, bytes)).max();
    if let Some(until) = until {
        hold_until(&task, until);
    }
}

/// The task rests before it goes back to guest code.
fn hold_until(task: &Task, until: Instant) {
    for rest in [&task.io_rest, &task.process.cpu.io_rest] {
        let mut rest = rest.lock();
        *rest = (*rest).max(Some(until));
    }
    task.process.cpu.check.store(true, Ordering::SeqCst);
}

fn pending(rest: &Mutex<Option<Instant>>) -> Option<Instant> {
    let mut rest = rest.lock();
    if rest.is_some_and(|at| at <= clock::now()) {
        *rest = None;
    }
    *rest
}

/// Some thread of the task's process has to rest.
pub(super) fn is_resting(task: &Task) -> bool {
    pending(&task.process.cpu.io_rest).is_some()
}

/// Sleeps until the group of the task may make its next request. A task that is killed leaves at once.
pub(super) fn rest(task: &Task) {
    let Some(until) = pending(&task.io_rest) else { return };
    let kernel = task.kernel();
    let over = || pending(&task.io_rest).is_none().then_some(());
    let queue = &kernel.cgroups.bandwidth.released;
    let _stall = pressure::io();
    let kind = WaitKind::Killable;
    let _ = task.wait(queue, Events::ALL, kind, Some(until), "io_schedule", over);
    *task.io_rest.lock() = None;
}

/// Sets `io.max` of one device. Who rests because of the old limits goes on.
pub fn set_max(kernel: &Kernel, group: &Arc<Cgroup>, dev: Dev, max: Max) {
    {
        let mut limits = group.io.limits.lock();
        if max == Max::default() {
            limits.remove(&dev);
        } else {
            limits.insert(dev, Limit { max, ..Limit::default() });
        }
        group.io.limited.store(!limits.is_empty(), Ordering::Relaxed);
    }
    for t in kernel.cgroups.members(kernel, group, true) {
        *t.process.cpu.io_rest.lock() = None;
        for thread in crate::signal::threads_of(kernel, &t.process) {
            *thread.io_rest.lock() = None;
        }
    }
    kernel.cgroups.bandwidth.release();
}

/// Takes all limits off a group that lost the controller.
pub fn reset(kernel: &Kernel, group: &Arc<Cgroup>) {
    for dev in group.io.max().into_keys() {
        set_max(kernel, group, dev, Max::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn limits_put_the_next_request_off() {
        let max = Max { bytes: [Some(1000), None], requests: [None, Some(4)] };
        let mut l = Limit { max, ..Limit::default() };
        let t = Instant::now();
        assert_eq!(l.charge(t, IoKind::Read, 500), Some(t + S / 2));
        // Requests that come meanwhile queue up behind it.
        assert_eq!(l.charge(t + S / 4, IoKind::Read, 1500), Some(t + 2 * S));
        assert_eq!(l.charge(t, IoKind::Write, 1 << 40), Some(t + S / 4));
        assert_eq!(l.charge(t, IoKind::Discard, 1), Some(t + S / 2));
        // Idle time is not saved up.
        assert_eq!(l.charge(t + 10 * S, IoKind::Read, 1000), Some(t + 11 * S));
        assert_eq!(l.charge(t, IoKind::Read, u64::MAX), Some(t + LONGEST));
        let mut none = Limit::default();
        assert_eq!(none.charge(t, IoKind::Read, 1), None);
    }

    #[test]
    fn the_stricter_of_bytes_and_requests_counts() {
        let max = Max { bytes: [Some(4096), None], requests: [Some(10), None] };
        let mut l = Limit { max, ..Limit::default() };
        let t = Instant::now();
        assert_eq!(l.charge(t, IoKind::Read, 4096), Some(t + S));
        let mut l = Limit { max, ..Limit::default() };
        assert_eq!(l.charge(t, IoKind::Read, 4), Some(t + S / 10));
        assert_eq!(l.charge(t, IoKind::Read, 4), Some(t + S / 5));
    }

    #[test]
    fn a_removed_group_leaves_its_account_to_its_parent() {
        let dev = Dev::new(98, 0);
        let top = Cgroup::new(1, b"", None);
        let below = Cgroup::new(2, b"a", Some(top.clone()));
        let one = IoStat { requests: [1, 2, 0], bytes: [512, 1024, 0] };
        below.io.add(dev, &one);
        below.io.add(dev, &one);
        assert!(stat(&top).is_empty());
        below.io.hand_over(&top.io);
        let twice = IoStat { requests: [2, 4, 0], bytes: [1024, 2048, 0] };
        assert_eq!(stat(&top).get(&dev), Some(&twice));
        assert!(stat(&below).is_empty());
    }
}
