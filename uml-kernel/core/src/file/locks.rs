//! Advisory file locks: flock(2), POSIX and open-file-description record locks (fcntl(2)).
//!
//! Locks hang on inodes, identified by address; an entry keeps its inode. One mutex guards them all: a
//! lock operation is short, and machines without locks pay one load on close.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};

use crate::file::File;
use crate::file::fdtable::FdTable;
use crate::task::{Task, WaitKind};
use crate::vfs::{Inode, inode_key};

/// Who holds a record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockOwner {
    /// A process, by its descriptor table (shared tables share locks).
    Process { table: u64, pid: i32 },
    /// An open file description (F_OFD_*).
    File(usize),
}

impl LockOwner {
    /// The calling process.
    pub fn process(task: &Task) -> LockOwner {
        LockOwner::Process { table: task.files().id, pid: task.process.pid }
    }

    /// The open file description.
    pub fn file(file: &Arc<File>) -> LockOwner {
        LockOwner::File(Arc::as_ptr(file) as usize)
    }

    fn same(&self, o: &LockOwner) -> bool {
        match (self, o) {
            (LockOwner::Process { table: a, .. }, LockOwner::Process { table: b, .. }) => a == b,
            (LockOwner::File(a), LockOwner::File(b)) => a == b,
            _ => false,
        }
    }

    /// `l_pid`: -1 for open-file-description locks.
    pub fn pid(&self) -> i32 {
        match self {
            LockOwner::Process { pid, .. } => *pid,
            LockOwner::File(_) => -1,
        }
    }
}

/// A record lock on bytes `start..=end`; `end` is `u64::MAX` for "to the end of the file, however long".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub start: u64,
    pub end: u64,
    pub write: bool,
    pub owner: LockOwner,
}

impl Record {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }
}

struct InodeLocks {
    inode: Arc<dyn Inode>,
    records: Vec<Record>,
    /// (file, exclusive, process that took it)
    flocks: Vec<(usize, bool, i32)>,
    queue: Arc<WaitQueue>,
}

#[derive(Default)]
struct Locks {
    inodes: HashMap<usize, InodeLocks>,
    /// Owner that waits -> owner it waits for.
    waiting: HashMap<LockOwner, LockOwner>,
}

/// The machine's file locks.
pub struct LockTable {
    locks: Mutex<Locks>,
    count: AtomicUsize,
}

/// The table. Inodes and files are identified by address, so one serves every machine of the process.
pub fn table() -> &'static LockTable {
    static T: OnceLock<LockTable> = OnceLock::new();
    T.get_or_init(|| LockTable {
        locks: Mutex::new(Rank::LEAF, Locks::default()),
        count: AtomicUsize::new(0),
    })
}

/// Sets `new` (or removes, when `kind` is `None`) for `owner` in `records`: its own locks in the range give
/// way, neighbours of the same kind are joined.
fn apply(records: &mut Vec<Record>, start: u64, end: u64, kind: Option<bool>, owner: LockOwner) {
    let mut out: Vec<Record> = Vec::with_capacity(records.len() + 2);
    let (mut start, mut end) = (start, end);
    for r in records.drain(..) {
        if !r.owner.same(&owner) {
            out.push(r);
            continue;
        }
        // Same kind and touching: grow into one lock.
        if kind == Some(r.write)
            && r.start <= end.saturating_add(1)
            && start <= r.end.saturating_add(1)
        {
            start = start.min(r.start);
            end = end.max(r.end);
            continue;
        }
        if !r.overlaps(start, end) {
            out.push(r);
            continue;
        }
        if r.start < start {
            out.push(Record { end: start - 1, ..r });
        }
        if r.end > end {
            out.push(Record { start: end + 1, ..r });
        }
    }
    if let Some(write) = kind {
        out.push(Record { start, end, write, owner });
    }
    out.sort_by_key(|r| r.start);
    *records = out;
}

impl LockTable {
    fn idle(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn with<R>(
        &self,
        inode: &Arc<dyn Inode>,
        f: impl FnOnce(&mut InodeLocks, &mut HashMap<LockOwner, LockOwner>) -> R,
    ) -> R {
        let mut emptied = None;
        let r = {
            let mut t = self.locks.lock();
            let Locks { inodes, waiting } = &mut *t;
            let key = inode_key(inode);
            let e = inodes.entry(key).or_insert_with(|| InodeLocks {
                inode: inode.clone(),
                records: Vec::new(),
                flocks: Vec::new(),
                queue: WaitQueue::shared(),
            });
            let r = f(e, waiting);
            if e.records.is_empty() && e.flocks.is_empty() && !e.queue.has_waiters() {
                emptied = inodes.remove(&key);
            }
            self.count.store(inodes.len(), Ordering::SeqCst);
            r
        };
        drop(emptied.map(|e| e.inode));
        r
    }

    /// The first lock of another owner that conflicts (fcntl(2) F_GETLK).
    pub fn conflict(
        &self,
        inode: &Arc<dyn Inode>,
        start: u64,
        end: u64,
        write: bool,
        owner: LockOwner,
    ) -> Option<Record> {
        if self.idle() {
            return None;
        }
        self.with(inode, |e, _| first_conflict(&e.records, start, end, write, owner))
    }

    /// Sets or removes a record lock (fcntl(2) F_SETLK, F_SETLKW). `EAGAIN` on conflict without `wait`, `EDEADLK`
    /// when waiting would close a circle of waiting processes.
    pub fn set_record(
        &self,
        task: &Task,
        inode: &Arc<dyn Inode>,
        start: u64,
        end: u64,
        kind: Option<bool>,
        owner: LockOwner,
        wait: bool,
    ) -> Result<()> {
        let attempt = |block: bool| {
            self.with(inode, |e, waiting| {
                waiting.remove(&owner);
                if let Some(write) = kind
                    && let Some(c) = first_conflict(&e.records, start, end, write, owner)
                {
                    if block && matches!(owner, LockOwner::Process { .. }) {
                        let mut at = c.owner;
                        while let Some(next) = waiting.get(&at) {
                            at = *next;
                            if at.same(&owner) {
                                return Err(EDEADLK);
                            }
                        }
                        waiting.insert(owner, c.owner);
                    }
                    return Err(EAGAIN);
                }
                apply(&mut e.records, start, end, kind, owner);
                e.queue.wake_all(Events::ALL);
                Ok(())
            })
        };
        match attempt(wait) {
            Err(EAGAIN) if wait => {}
            other => return other,
        }
        let queue = self.with(inode, |e, _| e.queue.clone());
        let r = self.wait(task, inode, &queue, || match attempt(true) {
            Err(EAGAIN) => None,
            other => Some(other),
        });
        if r.is_err() {
            self.with(inode, |_, waiting| waiting.remove(&owner));
        }
        r
    }

    /// flock(2): `kind` is `Some(exclusive)` or `None` to unlock. A conversion first gives the old lock up.
    pub fn flock(
        &self,
        task: &Task,
        file: &Arc<File>,
        kind: Option<bool>,
        wait: bool,
    ) -> Result<()> {
        let me = Arc::as_ptr(file) as usize;
        let inode = file.inode();
        let attempt = || {
            self.with(inode, |e, _| {
                if e.flocks.iter().any(|l| l.0 == me && Some(l.1) == kind) {
                    return Ok(());
                }
                let before = e.flocks.len();
                e.flocks.retain(|l| l.0 != me);
                if e.flocks.len() != before {
                    e.queue.wake_all(Events::ALL);
                }
                let Some(exclusive) = kind else { return Ok(()) };
                if e.flocks.iter().any(|l| l.1 || exclusive) {
                    return Err(EAGAIN);
                }
                e.flocks.push((me, exclusive, task.process.pid));
                Ok(())
            })
        };
        match attempt() {
            Err(EAGAIN) if wait => {}
            other => return other,
        }
        let queue = self.with(inode, |e, _| e.queue.clone());
        self.wait(task, inode, &queue, || match attempt() {
            Err(EAGAIN) => None,
            other => Some(other),
        })
    }

    /// Waits on the inode's queue. The entry with the queue may be emptied and made anew between two
    /// tries, so each try that fails moves to the present queue.
    fn wait(
        &self,
        task: &Task,
        inode: &Arc<dyn Inode>,
        first: &Arc<WaitQueue>,
        mut f: impl FnMut() -> Option<Result<()>>,
    ) -> Result<()> {
        let mut queue = first.clone();
        loop {
            let q = queue.clone();
            let mut moved = None;
            let r = task.wait(
                &q,
                Events::ALL,
                WaitKind::Interruptible,
                None,
                "locks_lock_inode_wait",
                || {
                    if let Some(r) = f() {
                        return Some(Some(r));
                    }
                    let now = self.with(inode, |e, _| e.queue.clone());
                    if Arc::ptr_eq(&now, &q) {
                        return None;
                    }
                    moved = Some(now);
                    Some(None)
                },
            )?;
            match r {
                Some(Some(r)) => return r,
                _ => {
                    if let Some(m) = moved {
                        queue = m;
                    }
                }
            }
        }
    }

    /// Releases the record locks of the process with this descriptor table on `inode` (any close(2)).
    pub(crate) fn release_process(&self, inode: &Arc<dyn Inode>, table: &FdTable) {
        if self.idle() {
            return;
        }
        let key = table.id;
        self.with(inode, |e, _| {
            e.records
                .retain(|r| !matches!(r.owner, LockOwner::Process { table, .. } if table == key));
            e.queue.wake_all(Events::ALL);
        });
    }

    /// Releases what a descriptor table holds anywhere: it is going away (exit).
    pub(crate) fn release_table(&self, table: &FdTable) {
        if self.idle() {
            return;
        }
        let key = table.id;
        let inodes: Vec<_> = self.locks.lock().inodes.values().map(|e| e.inode.clone()).collect();
        for i in inodes {
            self.with(&i, |e, _| {
                let before = e.records.len();
                e.records.retain(
                    |r| !matches!(r.owner, LockOwner::Process { table, .. } if table == key),
                );
                if e.records.len() != before {
                    e.queue.wake_all(Events::ALL);
                }
            });
        }
    }

    /// The last reference to an open file is gone: its flock(2) and F_OFD_* locks end.
    pub(crate) fn release_file(&self, inode: &Arc<dyn Inode>, file: &File) {
        if self.idle() {
            return;
        }
        let key = file as *const File as usize;
        self.with(inode, |e, _| {
            e.flocks.retain(|l| l.0 != key);
            e.records.retain(|r| r.owner != LockOwner::File(key));
            e.queue.wake_all(Events::ALL);
        });
    }

    /// Every lock, for /proc/locks.
    pub fn list(&self) -> Vec<FileLocks> {
        let t = self.locks.lock();
        t.inodes
            .values()
            .map(|e| FileLocks {
                inode: e.inode.clone(),
                records: e.records.clone(),
                flocks: e.flocks.iter().map(|l| (l.1, l.2)).collect(),
            })
            .collect()
    }
}

/// The locks on one file.
pub struct FileLocks {
    pub inode: Arc<dyn Inode>,
    pub records: Vec<Record>,
    /// One for each flock(2) lock: whether it is exclusive, and the process that took it.
    pub flocks: Vec<(bool, i32)>,
}

fn first_conflict(
    records: &[Record],
    start: u64,
    end: u64,
    write: bool,
    owner: LockOwner,
) -> Option<Record> {
    records
        .iter()
        .find(|r| !r.owner.same(&owner) && (r.write || write) && r.overlaps(start, end))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(n: usize) -> LockOwner {
        LockOwner::Process { table: n as u64, pid: n as i32 }
    }

    #[test]
    fn unlocking_the_middle_splits_a_lock() {
        let mut v = Vec::new();
        apply(&mut v, 0, 99, Some(true), owner(1));
        apply(&mut v, 40, 59, None, owner(1));
        let ranges: Vec<_> = v.iter().map(|r| (r.start, r.end)).collect();
        assert_eq!(ranges, [(0, 39), (60, 99)]);
    }

    #[test]
    fn neighbours_of_one_kind_are_joined_and_other_kinds_replaced() {
        let mut v = Vec::new();
        apply(&mut v, 0, 9, Some(false), owner(1));
        apply(&mut v, 10, 19, Some(false), owner(1));
        assert_eq!(v.len(), 1);
        apply(&mut v, 5, 14, Some(true), owner(1));
        let got: Vec<_> = v.iter().map(|r| (r.start, r.end, r.write)).collect();
        assert_eq!(got, [(0, 4, false), (5, 14, true), (15, 19, false)]);
    }

    #[test]
    fn readers_share_and_writers_conflict() {
        let mut v = Vec::new();
        apply(&mut v, 0, u64::MAX, Some(false), owner(1));
        assert_eq!(first_conflict(&v, 0, 0, false, owner(2)), None);
        assert!(first_conflict(&v, 1 << 40, 1 << 40, true, owner(2)).is_some());
        assert_eq!(first_conflict(&v, 0, 10, true, owner(1)), None);
    }
}
