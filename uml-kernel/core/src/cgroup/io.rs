//! The io controller's accounts: what the tasks of groups have block devices do (Documentation/admin-guide/cgroup-v2.rst, "IO").
//!
//! A request belongs to the task in whose system call it is made. What kernel threads write back or read ahead belongs to
//! nobody, as on Linux for filesystems without writeback by group, and shows at the root only, which has the devices' own
//! counters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use uml_base::{Mutex, Rank};

use super::Cgroup;
use crate::task::Task;
use crate::task::sleep::served_task;
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

/// A group's accounts by device; those of groups that were removed below it are in them.
pub struct GroupIo(Mutex<BTreeMap<Dev, IoStat>>);

impl Default for GroupIo {
    fn default() -> Self {
        GroupIo(Mutex::new(Rank::LEAF, BTreeMap::new()))
    }
}

impl GroupIo {
    fn add(&self, dev: Dev, stat: &IoStat) {
        self.0.lock().entry(dev).or_default().add(stat);
    }

    /// The group was removed: what it did is its parent's.
    pub(super) fn hand_over(&self, parent: &GroupIo) {
        let all = std::mem::take(&mut *self.0.lock());
        for (dev, stat) in all {
            parent.add(dev, &stat);
        }
    }
}

/// What the group and those below did, by device.
pub fn stat(group: &Arc<Cgroup>) -> BTreeMap<Dev, IoStat> {
    let mut sum: BTreeMap<Dev, IoStat> = BTreeMap::new();
    for g in group.subtree() {
        for (dev, stat) in g.io.0.lock().iter() {
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
    if let Some(g) = group {
        g.io.add(dev, &one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
