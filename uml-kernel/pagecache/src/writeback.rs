//! Writing changed pages back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::{Errno, Result};
use uml_base::storage;

use crate::backing::Space;
use crate::file::{CachedFile, State};
use crate::store::{Store, read_all};
use crate::{PAGE, lock, page_range, scratch, sum};

/// Pages written at a time: 4 MiB, at multiples of that, so that the filesystem can place them together.
const PIECE: u64 = (4 << 20) / PAGE;
/// What one throttled writer writes back at a time.
const SOME: u64 = 2 * PIECE;

impl CachedFile {
    /// Writes back what is changed in bytes `off..off + len`. Changes made meanwhile may be left.
    pub fn write_back_range(&self, off: u64, len: u64) -> Result<()> {
        let (a, b) = page_range(off, len);
        self.write_back(a, b)
    }

    /// Writes back everything that is changed.
    pub fn write_back_all(&self) -> Result<()> {
        self.write_back(0, u64::MAX)
    }

    /// fsync(2) of bytes `off..off + len`: written back and durable.
    pub fn sync_range(&self, off: u64, len: u64, data_only: bool) -> Result<()> {
        let r = self.write_back_range(off, len);
        r.and(self.backing.commit(data_only))
    }

    /// Changed pages that a writer takes upon itself.
    pub(crate) fn write_back_some(&self) -> Result<()> {
        self.pass(0, u64::MAX, SOME)
    }

    pub(crate) fn write_back(&self, a: u64, b: u64) -> Result<()> {
        {
            let s = lock(&self.state);
            if s.since.is_none() && s.dirty.is_empty() {
                // A writeback in progress must have ended, though.
                drop(s);
                drop(lock(&self.writeback));
                return Ok(());
            }
        }
        self.pass(a, b, u64::MAX)
    }

    fn pass(&self, a: u64, b: u64, max: u64) -> Result<()> {
        let _one = lock(&self.writeback);
        let unmapped = {
            let s = lock(&self.state);
            (s.maps == 0 && a == 0 && b == u64::MAX).then_some(s.map_epoch)
        };
        let mut result = self.collect_exposed(a, b);
        let complete = unmapped.filter(|_| result.is_ok());
        let (mut at, mut done) = (a, 0);
        while done < max {
            match self.write_piece(at, b) {
                Ok(Some((next, n))) => {
                    at = next;
                    done += n;
                }
                Ok(None) => break,
                Err((next, e)) => {
                    result = result.and(Err(e));
                    at = next;
                }
            }
        }
        drop(self.settle(complete));
        result
    }

    /// Writes the first changed piece of `a..b`: where to go on and the pages written, or `None` when
    /// there is none.
    #[allow(clippy::type_complexity)]
    fn write_piece(&self, a: u64, b: u64) -> std::result::Result<Option<(u64, u64)>, (u64, Errno)> {
        let _layout = self.shared();
        let (x, y, len, source) = {
            let mut s = lock(&self.state);
            let Some((x, y)) = s.dirty.runs(a, b).next() else { return Ok(None) };
            let y = y.min((x / PIECE + 1) * PIECE);
            let n = s.dirty.remove(x, y);
            self.volume.pool.sub_dirty(n);
            let len = (y * PAGE).min(s.size).saturating_sub(x * PAGE) as usize;
            let source = match &s.store {
                Store::Memory(fd) => Ok(fd.clone()),
                heap => {
                    let mut v = vec![0; len];
                    heap.read(x * PAGE, &mut v).map_err(|e| (y, e))?;
                    Err(v)
                }
            };
            (x, y, len, source)
        };
        let off = x * PAGE;
        let r = match source {
            Ok(fd) => scratch::with(len, |buf| {
                read_all(&fd, off, buf)?;
                self.write_snapshot(x, off, buf)
            }),
            Err(v) => self.write_snapshot(x, off, &v),
        };
        let back = {
            let mut s = lock(&self.state);
            match r {
                Ok(()) => {
                    s.allocated.add(x, y);
                    s.delayed.remove(x, y)
                }
                Err(e) => {
                    self.fail(&mut s, e);
                    // What was changed again meanwhile still needs its promise.
                    let s = &mut *s;
                    s.dirty.gaps(x, y).into_iter().map(|(p, q)| s.delayed.remove(p, q)).sum()
                }
            }
        };
        if back > 0 {
            self.backing.unreserve(back);
        }
        match r {
            Ok(()) => Ok(Some((y, y - x))),
            Err(e) => Err((y, e)),
        }
    }

    /// Writes bytes that are now the contents of pages from `first` on.
    fn write_snapshot(&self, first: u64, off: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.backing.write(off, data, Space::Promised)?;
        let mut s = lock(&self.state);
        if !s.exposed.is_empty() {
            for (i, p) in data.chunks(PAGE as usize).enumerate() {
                let page = first + i as u64;
                if s.exposed.covers(page, page + 1) {
                    s.sums.insert(page, sum::page(p));
                }
            }
        }
        Ok(())
    }

    /// Notes a failed writeback.
    pub(crate) fn fail(&self, s: &mut State, e: Errno) {
        s.error = Some(e);
        self.errors.fetch_add(1, Ordering::AcqRel);
    }

    /// After a pass: leaves the volume's list when nothing is changed any more. Pages that are mapped
    /// writable have to be looked at again later; not if there were no mappings before the pass looked
    /// at all of them (`unmapped`, with the count of mappings then), and none was made since.
    fn settle(&self, unmapped: Option<u64>) -> Option<Arc<CachedFile>> {
        let mut s = lock(&self.state);
        if unmapped == Some(s.map_epoch) && s.maps == 0 && !s.exposed.is_empty() {
            self.close_exposed(&mut s);
        }
        if !s.dirty.is_empty() {
            return None;
        }
        let since = s.since.take()?;
        let me = self.volume.leave(since, self.id);
        if !s.exposed.is_empty() {
            self.enlist(&mut s);
        }
        me
    }

    /// The file was deleted and its last user is gone: drops everything and writes nothing from now on.
    pub fn discard(&self) {
        let _one = lock(&self.writeback);
        let _alone = self.layout.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut s = lock(&self.state);
        s.dead = true;
        self.cut(&mut s, 0);
        s.size = 0;
        s.exposed.clear();
        s.sums.clear();
        s.pinned.clear();
        self.close_store(&mut s);
        let me = s.since.take().and_then(|t| self.volume.leave(t, self.id));
        drop(s);
        drop(me);
    }

    /// Forgets pages from `first` on. The layout is held exclusively.
    pub(crate) fn cut(&self, s: &mut State, first: u64) {
        let pool = &self.volume.pool;
        let unwritten = s.dirty.remove(first, u64::MAX);
        storage::cancelled(unwritten * PAGE);
        pool.sub_dirty(unwritten);
        pool.sub_used(s.uptodate.remove(first, u64::MAX));
        s.allocated.remove(first, u64::MAX);
        s.sums.retain(|p, _| *p < first);
        let promised = s.delayed.remove(first, u64::MAX);
        if promised > 0 {
            self.backing.unreserve(promised);
        }
    }
}
