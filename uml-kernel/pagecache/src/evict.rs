//! Giving memory back.

use std::sync::Arc;

use crate::file::{CachedFile, State};
use crate::pool::CHUNK;
use crate::store::Store;
use crate::{PAGE, lock};

/// What became of a chunk that was to be evicted.
pub(crate) enum Outcome {
    /// It is no longer in memory, or partly and queued anew.
    Evicted,
    /// It stays: it was used lately, is mapped or busy.
    Kept,
}

impl CachedFile {
    /// Evicts a chunk, or all of the file with `whole` (to close its memory file). Changed pages are
    /// written back first. Called without locks of this file.
    pub(crate) fn evict(self: &Arc<CachedFile>, chunk: u64, whole: bool) -> Outcome {
        let (a, b) = if whole { (0, u64::MAX) } else { (chunk * CHUNK, (chunk + 1) * CHUNK) };
        {
            let mut s = lock(&self.state);
            match s.chunks.get_mut(&chunk) {
                // Truncated or evicted with the whole file.
                None => return Outcome::Evicted,
                Some(used) if *used => {
                    *used = false;
                    return Outcome::Kept;
                }
                Some(_) => {}
            }
            if whole && s.maps > 0 {
                return Outcome::Kept;
            }
            let unseen = s.maps == 0 && !s.exposed.is_empty();
            if s.dirty.covered(a, b) != 0 || unseen {
                drop(s);
                // An error is kept for fsync(2); the pages count as clean then.
                let _ = self.write_back(a, b);
            }
        }
        // Whoever is in the middle of something uses it.
        let Ok(_alone) = self.layout.try_write() else { return Outcome::Kept };
        let mut s = lock(&self.state);
        let s = &mut *s;
        self.drop_clean(s, a, b);
        s.chunks.retain(|c, _| s.uptodate.covered(c * CHUNK, (c + 1) * CHUNK) != 0);
        if s.chunks.contains_key(&chunk) { Outcome::Kept } else { Outcome::Evicted }
    }

    /// Drops pages that are neither changed nor mapped. The layout is held exclusively.
    pub(crate) fn drop_clean(&self, s: &mut State, a: u64, b: u64) {
        let runs: Vec<_> = s.uptodate.runs(a, b).collect();
        for (rs, re) in runs {
            let mut free = s.dirty.gaps(rs, re);
            if s.maps > 0 || !s.exposed.is_empty() {
                let pinned = &s.pinned;
                free = free.into_iter().flat_map(|(s, e)| pinned.gaps(s, e)).collect();
            }
            for (fs, fe) in free {
                if let Store::Memory(_) = s.store
                    && s.store.punch(fs * PAGE, (fe - fs) * PAGE).is_err()
                {
                    continue;
                }
                let n = s.uptodate.remove(fs, fe);
                self.volume.pool.sub_used(n);
            }
        }
        if s.uptodate.is_empty() && s.maps == 0 && s.exposed.is_empty() {
            self.close_store(s);
            s.pinned.clear();
        }
    }

    /// Forgets the store, which holds nothing that is valid.
    pub(crate) fn close_store(&self, s: &mut State) {
        if s.store.fd().is_some() {
            self.volume.pool.sub_fd();
        }
        s.store = Store::empty();
        s.view.clear();
    }

    /// Drops what is clean and not mapped (posix_fadvise(2) POSIX_FADV_DONTNEED, drop_caches).
    pub fn drop_cached(&self, off: u64, len: u64) {
        let Ok(_alone) = self.layout.try_write() else { return };
        let end = if len == 0 { u64::MAX } else { off.saturating_add(len) };
        let mut s = lock(&self.state);
        let s = &mut *s;
        self.drop_clean(s, off.div_ceil(PAGE), end / PAGE);
        s.chunks.retain(|c, _| s.uptodate.covered(c * CHUNK, (c + 1) * CHUNK) != 0);
    }
}
