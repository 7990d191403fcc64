//! The descriptor table of a process (close(2), dup(2), fcntl(2) F_DUPFD).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::file::File;

/// Hard upper bound on descriptors per process, Linux's default `fs.nr_open`.
pub const NR_OPEN: u64 = 1024 * 1024;

struct Slot {
    file: Arc<File>,
    cloexec: bool,
}

struct Table {
    slots: Vec<Option<Slot>>,
    /// No descriptor below this one is free.
    next_free: usize,
}

/// Descriptors to open files. Threads share one table unless unshared.
pub struct FdTable {
    /// Owner of the record locks taken through it; never reused.
    pub id: u64,
    table: Mutex<Table>,
}

impl Default for FdTable {
    fn default() -> Self {
        FdTable::new()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        crate::file::locks::table().release_table(self);
    }
}

impl FdTable {
    fn with(table: Table) -> FdTable {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        FdTable {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            table: Mutex::new(Rank::FDTABLE, table),
        }
    }

    /// An empty table.
    pub fn new() -> FdTable {
        FdTable::with(Table { slots: Vec::new(), next_free: 0 })
    }

    /// A copy for fork(2): same open files, same close-on-exec flags.
    pub fn duplicate(&self) -> FdTable {
        let t = self.table.lock();
        let slots = t
            .slots
            .iter()
            .map(|s| s.as_ref().map(|s| Slot { file: s.file.clone(), cloexec: s.cloexec }))
            .collect();
        FdTable::with(Table { slots, next_free: t.next_free })
    }

    /// The open file behind `fd`; `EBADF` when there is none.
    pub fn get(&self, fd: i32) -> Result<Arc<File>> {
        let t = self.table.lock();
        usize::try_from(fd)
            .ok()
            .and_then(|i| t.slots.get(i)?.as_ref())
            .map(|s| s.file.clone())
            .ok_or(EBADF)
    }

    /// As [`FdTable::get`], but `EBADF` for O_PATH descriptors too: for calls that do I/O.
    pub fn get_io(&self, fd: i32) -> Result<Arc<File>> {
        let f = self.get(fd)?;
        if f.is_path() { Err(EBADF) } else { Ok(f) }
    }

    /// Puts `file` at the lowest free descriptor not below `min`; `EMFILE` when that reaches
    /// `limit` (RLIMIT_NOFILE), `EINVAL` when `min` does.
    pub fn install(&self, file: Arc<File>, cloexec: bool, min: u64, limit: u64) -> Result<i32> {
        let limit = limit.min(NR_OPEN);
        if min >= limit && min != 0 {
            return Err(EINVAL);
        }
        let mut t = self.table.lock();
        let mut i = (min as usize).max(t.next_free);
        while i < t.slots.len() && t.slots[i].is_some() {
            i += 1;
        }
        if i as u64 >= limit {
            return Err(EMFILE);
        }
        if min as usize <= t.next_free {
            t.next_free = i + 1;
        }
        if i >= t.slots.len() {
            t.slots.resize_with(i + 1, || None);
        }
        t.slots[i] = Some(Slot { file, cloexec });
        Ok(i as i32)
    }

    /// `EMFILE` when no descriptor below `limit` is free (open(2) checks before it creates anything).
    pub fn check_room(&self, limit: u64) -> Result<()> {
        let limit = limit.min(NR_OPEN) as usize;
        let t = self.table.lock();
        if t.next_free < limit.min(t.slots.len()) {
            // Slots from `next_free` on may all be taken.
            let free = t.slots[t.next_free..limit.min(t.slots.len())].iter().any(Option::is_none);
            if free {
                return Ok(());
            }
        }
        if t.slots.len() < limit { Ok(()) } else { Err(EMFILE) }
    }

    /// dup2(2)/dup3(2): puts `file` at exactly `fd` and returns what was there.
    pub fn replace(
        &self,
        fd: i32,
        file: Arc<File>,
        cloexec: bool,
        limit: u64,
    ) -> Result<Option<Arc<File>>> {
        let i = usize::try_from(fd).map_err(|_| EBADF)?;
        if i as u64 >= limit.min(NR_OPEN) {
            return Err(EBADF);
        }
        let mut t = self.table.lock();
        if i >= t.slots.len() {
            t.slots.resize_with(i + 1, || None);
        }
        let old = t.slots[i].replace(Slot { file, cloexec });
        Ok(old.map(|s| s.file))
    }

    /// Takes `fd` out of the table; the caller flushes the file (close(2)).
    pub fn remove(&self, fd: i32) -> Result<Arc<File>> {
        let mut t = self.table.lock();
        let i = usize::try_from(fd).map_err(|_| EBADF)?;
        let slot = t.slots.get_mut(i).and_then(Option::take).ok_or(EBADF)?;
        t.next_free = t.next_free.min(i);
        Ok(slot.file)
    }

    /// The close-on-exec flag of `fd`.
    pub fn cloexec(&self, fd: i32) -> Result<bool> {
        let t = self.table.lock();
        let slot = usize::try_from(fd).ok().and_then(|i| t.slots.get(i)?.as_ref());
        slot.map(|s| s.cloexec).ok_or(EBADF)
    }

    /// Sets the close-on-exec flag of `fd`.
    pub fn set_cloexec(&self, fd: i32, on: bool) -> Result<()> {
        let mut t = self.table.lock();
        let i = usize::try_from(fd).map_err(|_| EBADF)?;
        let slot = t.slots.get_mut(i).and_then(Option::as_mut).ok_or(EBADF)?;
        slot.cloexec = on;
        Ok(())
    }

    /// Descriptors in use, ascending.
    pub fn list(&self) -> Vec<i32> {
        let t = self.table.lock();
        t.slots.iter().enumerate().filter(|(_, s)| s.is_some()).map(|(i, _)| i as i32).collect()
    }

    /// Length of the table, for `FDSize` in /proc/<pid>/status.
    pub fn size(&self) -> usize {
        self.table.lock().slots.len().next_multiple_of(64).max(64)
    }

    /// Takes every descriptor in `first..=last` out (close_range(2)), or only marks them
    /// close-on-exec.
    pub fn close_range(&self, first: u32, last: u32, mark_cloexec: bool) -> Vec<Arc<File>> {
        let mut t = self.table.lock();
        let end = (last as usize).saturating_add(1).min(t.slots.len());
        let first = (first as usize).min(end);
        let mut out = Vec::new();
        for i in first..end {
            if mark_cloexec {
                if let Some(s) = &mut t.slots[i] {
                    s.cloexec = true;
                }
            } else if let Some(s) = t.slots[i].take() {
                out.push(s.file);
            }
        }
        if !mark_cloexec {
            t.next_free = t.next_free.min(first);
        }
        out
    }

    /// Takes every close-on-exec descriptor out (execve(2)).
    pub fn take_cloexec(&self) -> Vec<Arc<File>> {
        let mut t = self.table.lock();
        let mut out = Vec::new();
        let mut lowest = t.next_free;
        for (i, s) in t.slots.iter_mut().enumerate() {
            if s.as_ref().is_some_and(|s| s.cloexec) {
                out.extend(s.take().map(|s| s.file));
                lowest = lowest.min(i);
            }
        }
        t.next_free = lowest;
        out
    }

    /// Takes everything out (exit).
    pub fn take_all(&self) -> Vec<Arc<File>> {
        let mut t = self.table.lock();
        t.next_free = 0;
        std::mem::take(&mut t.slots).into_iter().flatten().map(|s| s.file).collect()
    }
}
