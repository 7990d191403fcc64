//! Mappings of cached files.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_host::fs as host;
use uml_mm::{MapAccess, Mappable};

use crate::file::{CachedFile, State};
use crate::store::read_all;
use crate::{PAGE, lock, page_range, scratch, sum};

/// Pages looked at under one lock.
const LOOK: u64 = 256;

impl CachedFile {
    /// Enters what guests changed through mappings in pages `a..b` as changed. The writeback lock is
    /// held.
    pub(crate) fn collect_exposed(&self, a: u64, b: u64) -> Result<()> {
        let _layout = self.shared();
        let (runs, fd) = {
            let s = lock(&self.state);
            let Some(fd) = s.store.fd().cloned() else { return Ok(()) };
            let b = b.min(s.size.div_ceil(PAGE));
            (s.exposed.runs(a, b).collect::<Vec<_>>(), fd)
        };
        let mut result = Ok(());
        let mut wrote = false;
        for (x, y) in runs {
            let mut at = x;
            while at < y {
                // Holes were never touched.
                match host::lseek(fd.as_fd(), (at * PAGE) as i64, libc::SEEK_DATA) {
                    Ok(off) => at = at.max(off / PAGE),
                    Err(_) => break,
                }
                if at >= y {
                    break;
                }
                let hole = host::lseek(fd.as_fd(), (at * PAGE) as i64, libc::SEEK_HOLE)
                    .map_or(y, |h| h.div_ceil(PAGE));
                let end = hole.min(y).min(at + LOOK).max(at + 1);
                for (p, q) in self.changed(at, end)? {
                    result = result.and(self.enter_changed(p, q));
                    wrote = true;
                }
                at = end;
            }
        }
        if wrote {
            self.backing.mapping_wrote();
        }
        result
    }

    /// Pages of `a..b` whose contents are not what the backing has.
    fn changed(&self, a: u64, b: u64) -> Result<Vec<(u64, u64)>> {
        scratch::with(((b - a) * PAGE) as usize, |buf| {
            let s = lock(&self.state);
            let Some(fd) = s.store.fd() else { return Ok(Vec::new()) };
            let len = (b * PAGE).min(s.size).saturating_sub(a * PAGE) as usize;
            read_all(fd, a * PAGE, &mut buf[..len])?;
            let mut out: Vec<(u64, u64)> = Vec::new();
            for (i, data) in buf[..len].chunks(PAGE as usize).enumerate() {
                let page = a + i as u64;
                if s.sums.get(&page) == Some(&sum::page(data)) {
                    continue;
                }
                match out.last_mut() {
                    Some(last) if last.1 == page => last.1 += 1,
                    _ => out.push((page, page + 1)),
                }
            }
            Ok(out)
        })
    }

    fn enter_changed(&self, a: u64, b: u64) -> Result<()> {
        let r = self.promise_pages(a, b);
        let mut s = lock(&self.state);
        match r {
            Ok(()) => self.add_dirty(&mut s, a, b),
            // There is no space for it: the data is lost, as on a full disk, and msync(2) says so.
            Err(e) => {
                self.fail(&mut s, e);
                return Err(e);
            }
        }
        Ok(())
    }

    /// The last mapping is gone and everything it changed is known.
    pub(crate) fn close_exposed(&self, s: &mut State) {
        // Nobody may ever see what was stored past the end.
        let end = s.size.next_multiple_of(PAGE);
        let _ = self.zero_tail(s, end);
        s.exposed.clear();
        s.sums.clear();
        s.pinned.clear();
    }

    /// Remembers what the backing has of pages that guests can change from now on.
    fn expose(&self, a: u64, b: u64) -> Result<()> {
        let fresh = {
            let mut s = lock(&self.state);
            let fresh = s.exposed.gaps(a, b);
            s.exposed.add(a, b);
            self.enlist(&mut s);
            fresh
        };
        for (x, y) in fresh {
            let mut at = x;
            while at < y {
                let end = y.min(at + LOOK);
                let more = scratch::with(((end - at) * PAGE) as usize, |buf| -> Result<bool> {
                    // Nobody writes while the state is held.
                    let mut s = lock(&self.state);
                    let len = (end * PAGE).min(s.size).saturating_sub(at * PAGE) as usize;
                    let Some(fd) = s.store.fd().filter(|_| len > 0) else { return Ok(false) };
                    read_all(fd, at * PAGE, &mut buf[..len])?;
                    for (i, data) in buf[..len].chunks(PAGE as usize).enumerate() {
                        let page = at + i as u64;
                        if !s.dirty.covers(page, page + 1) {
                            s.sums.insert(page, sum::page(data));
                        }
                    }
                    Ok(true)
                })?;
                if !more {
                    break;
                }
                at = end;
            }
        }
        Ok(())
    }

    /// The file grew from `old` bytes: mapped pages in the new part are zeros in the store already.
    pub(crate) fn grown(&self, s: &mut State, old: u64) {
        let (a, b) = (old.div_ceil(PAGE), s.size.div_ceil(PAGE));
        let pinned: Vec<_> = s.pinned.runs(a, b).collect();
        for (x, y) in pinned {
            self.add_valid(s, x, y);
        }
    }
}

/// One mmap(2) of a file: what its areas share, however they are split, until the last one is gone.
pub struct Mapping {
    file: Arc<CachedFile>,
}

impl CachedFile {
    /// A mapping that exists until it is dropped.
    pub fn map(self: &Arc<CachedFile>) -> Arc<Mapping> {
        let mut s = lock(&self.state);
        s.maps += 1;
        s.map_epoch += 1;
        Arc::new(Mapping { file: self.clone() })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut s = lock(&self.file.state);
        s.maps -= 1;
        if s.maps == 0 && s.exposed.is_empty() {
            s.pinned.clear();
        }
    }
}

impl Mappable for Mapping {
    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<RawFd> {
        let file = &self.file;
        file.volume.pool.make_room();
        let (a, b) = page_range(off, len);
        let _layout = file.shared();
        {
            let mut s = lock(&file.state);
            file.need_memory(&mut s)?;
            s.pinned.add(a, b);
        }
        file.fill(a, b)?;
        if access.shared && access.may_write {
            file.expose(a, b)?;
        }
        let s = lock(&file.state);
        // The memory file is kept as long as there are mappings.
        s.store.fd().map(|fd| fd.as_raw_fd()).ok_or(EIO)
    }

    fn identity(&self) -> (u64, u64) {
        (self.file.identity.dev, self.file.identity.ino)
    }

    fn sync(&self, off: u64, len: u64) -> Result<()> {
        self.file.sync_range(off, len, true)
    }

    fn key(&self) -> u64 {
        self.file.identity.key
    }
}
