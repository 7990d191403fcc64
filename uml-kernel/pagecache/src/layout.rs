//! Changes of what offsets mean: truncation, holes, moved ranges; and I/O past the cache.

use std::sync::{PoisonError, RwLockWriteGuard};

use uml_abi::Result;
use uml_abi::errno::EFBIG;
use uml_base::storage;

use crate::backing::Space;
use crate::file::{CachedFile, State, Use};
use crate::store::Store;
use crate::{PAGE, lock, page_range};

/// What [`CachedFile::change`] does to the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A range becomes zeros (FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE).
    Zero {
        /// First byte.
        off: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Everything from a byte on changes (FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE).
    From(u64),
}

impl CachedFile {
    fn exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        self.layout.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the size (truncate(2), or growth by fallocate(2)); `apply` does the same to the file below
    /// and nothing happens when it fails. The caller keeps writers away.
    pub fn set_size(&self, size: u64, apply: impl FnOnce() -> Result<()>) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(EFBIG);
        }
        let _alone = self.exclusive();
        apply()?;
        let mut s = lock(&self.state);
        self.resize(&mut s, size)
    }

    fn resize(&self, s: &mut State, size: u64) -> Result<()> {
        let old = s.size;
        if size > old {
            self.zero_tail(s, size)?;
            if matches!(s.store, Store::Memory(_)) {
                s.store.set_len(size)?;
            }
            s.size = size;
            self.ready_store(s, size)?;
            self.grown(s, old);
            return Ok(());
        }
        self.cut(s, size.div_ceil(PAGE));
        s.size = size;
        s.store.set_len(size)
    }

    /// Makes a larger change; `apply` does it to the file below. The range is written back before and
    /// the size becomes `size`. The caller keeps writers away.
    pub fn change(
        &self,
        change: Change,
        size: u64,
        apply: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (off, end) = match change {
            Change::Zero { off, len } => (off, off.saturating_add(len)),
            Change::From(off) => (off, u64::MAX),
        };
        self.write_back(off / PAGE, end.div_ceil(PAGE))?;
        let _alone = self.exclusive();
        apply()?;
        let mut s = lock(&self.state);
        let s = &mut *s;
        let pool = &self.volume.pool;
        let (a, b) = match change {
            // The edges stay changed; whole pages are what the file below has.
            Change::Zero { .. } => (off.div_ceil(PAGE), end / PAGE),
            Change::From(_) => (off / PAGE, u64::MAX),
        };
        let unwritten = s.dirty.remove(a, b);
        storage::cancelled(unwritten * PAGE);
        pool.sub_dirty(unwritten);
        let promised = s.delayed.remove(a, b);
        if promised > 0 {
            self.backing.unreserve(promised);
        }
        s.allocated.remove(off / PAGE, end.div_ceil(PAGE));
        s.sums.retain(|p, _| *p < off / PAGE || *p >= end.div_ceil(PAGE));
        match change {
            Change::Zero { off, len } => {
                let stop = off.saturating_add(len).min(s.size);
                s.store.punch(off, stop.saturating_sub(off))?;
                if size > s.size { self.resize(s, size) } else { Ok(()) }
            }
            Change::From(_) => {
                let top = s.size.div_ceil(PAGE);
                let reload: Vec<_> = s.pinned.runs(a, u64::MAX).collect();
                s.store.punch(a * PAGE, (top * PAGE).saturating_sub(a * PAGE))?;
                pool.sub_used(s.uptodate.remove(a, u64::MAX));
                s.store.set_len(size)?;
                s.size = size;
                // Mapped pages must be right at once.
                let reload = if s.maps > 0 { reload } else { Vec::new() };
                for (x, y) in reload {
                    self.reload(s, x, y.min(size.div_ceil(PAGE)))?;
                }
                Ok(())
            }
        }
    }

    /// Reads pages again, with everything locked.
    fn reload(&self, s: &mut State, a: u64, b: u64) -> Result<()> {
        let mut at = a;
        let mut buf = vec![0; 64 * PAGE as usize];
        while at < b {
            let end = b.min(at + 64);
            let len = (end * PAGE).min(s.size).saturating_sub(at * PAGE) as usize;
            self.backing.read(at * PAGE, &mut buf[..len])?;
            s.store.write(at * PAGE, &buf[..len])?;
            self.add_valid(s, at, end);
            at = end;
        }
        Ok(())
    }

    /// Reads past the cache (O_DIRECT); 0 at and past the end. With `at_once` `EAGAIN` where contents would have to be
    /// waited for.
    pub fn read_direct(&self, off: u64, buf: &mut [u8], at_once: bool) -> Result<usize> {
        self.write_back_range(off, buf.len() as u64)?;
        let _layout = self.shared();
        let n = self.size().saturating_sub(off).min(buf.len() as u64) as usize;
        match at_once {
            true => self.backing.read_at_once(off, &mut buf[..n])?,
            false => self.backing.read(off, &mut buf[..n])?,
        }
        Ok(n)
    }

    /// Writes past the cache (O_DIRECT), which is kept in step. The caller keeps other writers and
    /// changes of the size away.
    pub fn write_direct(&self, off: u64, data: &[u8], privileged: bool) -> Result<usize> {
        let len = data.len() as u64;
        let end = off.checked_add(len).filter(|e| *e <= i64::MAX as u64).ok_or(EFBIG)?;
        self.write_back_range(off, len)?;
        let _alone = self.exclusive();
        self.write_past(off, data, privileged, |s| {
            if end > s.size { self.resize(s, end) } else { Ok(()) }
        })
    }

    /// As [`CachedFile::write_direct`] inside the file, and others may do the same at the same time: those to other pages go on
    /// side by side. The caller keeps writers of other kinds and changes of the size away. `None` while the file is mapped, when
    /// others can change it unseen; nothing was done then.
    pub fn write_direct_beside(
        &self,
        off: u64,
        data: &[u8],
        privileged: bool,
    ) -> Option<Result<usize>> {
        let len = data.len() as u64;
        if let Err(e) = self.write_back_range(off, len) {
            return Some(Err(e));
        }
        let _layout = self.shared();
        {
            let s = lock(&self.state);
            let inside = off.checked_add(len).is_some_and(|end| end <= s.size);
            if !inside || s.maps > 0 || !s.exposed.is_empty() {
                return None;
            }
        }
        let (a, b) = page_range(off, len);
        let _mine = self.alone(a..b, Use::Direct);
        Some(self.write_past(off, data, privileged, |_| Ok(())))
    }

    /// Writes below, then into pages that are in memory; `grow` comes between.
    fn write_past(
        &self,
        off: u64,
        data: &[u8],
        privileged: bool,
        grow: impl FnOnce(&mut State) -> Result<()>,
    ) -> Result<usize> {
        let len = data.len() as u64;
        let end = off + len;
        let space = if privileged { Space::Reserved } else { Space::Free };
        self.backing.write(off, data, space)?;
        storage::written(len);
        let mut s = lock(&self.state);
        let s = &mut *s;
        grow(s)?;
        let (a, b) = page_range(off, len);
        let valid: Vec<_> = s.uptodate.runs(a, b).collect();
        for (x, y) in valid {
            let (from, to) = ((x * PAGE).max(off), (y * PAGE).min(end));
            s.store.write(from, &data[(from - off) as usize..(to - off) as usize])?;
        }
        s.sums.retain(|p, _| *p < a || *p >= b);
        s.allocated.add(off.div_ceil(PAGE), end / PAGE);
        Ok(data.len())
    }
}
