//! The memory of all cached files, and who gives some back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::evict::Outcome;
use crate::file::CachedFile;
use crate::{PAGE, lock};

/// Pages of a chunk, the unit of eviction: 1 MiB.
pub(crate) const CHUNK: u64 = (1 << 20) / PAGE;
/// Least memory the cache is allowed, in pages: less would not hold one request.
const MIN_LIMIT: u64 = (8 << 20) / PAGE;

/// What a [`Pool`] holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Valid pages.
    pub used: u64,
    /// Pages that are to be written back.
    pub dirty: u64,
    /// Most there may be.
    pub limit: u64,
}

struct Item {
    file: Weak<CachedFile>,
    chunk: u64,
}

/// Counts the pages of all caches and evicts least recently used chunks (second chance).
pub struct Pool {
    /// In pages.
    limit: AtomicU64,
    used: AtomicU64,
    dirty: AtomicU64,
    /// Writers wait for the flusher's work beyond this, the flusher starts at the other.
    dirty_hard: u64,
    dirty_background: u64,
    /// Memory files, and how many there may be.
    fds: AtomicU64,
    fd_limit: u64,
    queue: Mutex<VecDeque<Item>>,
    /// Queue items of files that are gone.
    gone: AtomicU64,
    reclaim: Mutex<()>,
    /// Pages and memory files that were left when the last eviction could not do enough: the next one
    /// waits until there are noticeably more.
    stuck: AtomicU64,
    stuck_fds: AtomicU64,
    next_id: AtomicU64,
}

impl Pool {
    /// The cache of a machine with `mem_bytes` of memory: it may take three quarters of it, and of
    /// that changed data a fifth of the machine's memory (Linux's vm.dirty_ratio and
    /// vm.dirty_background_ratio, 20 and 10).
    pub fn new(mem_bytes: u64) -> Arc<Pool> {
        let mem = mem_bytes / PAGE;
        Arc::new(Pool {
            limit: AtomicU64::new((mem / 4 * 3).max(MIN_LIMIT)),
            used: AtomicU64::new(0),
            dirty: AtomicU64::new(0),
            dirty_hard: (mem / 5).max(MIN_LIMIT / 4),
            dirty_background: (mem / 10).max(MIN_LIMIT / 8),
            fds: AtomicU64::new(0),
            fd_limit: (uml_host::fs::max_open_files() / 4).max(32),
            queue: Mutex::new(VecDeque::new()),
            gone: AtomicU64::new(0),
            reclaim: Mutex::new(()),
            stuck: AtomicU64::new(0),
            stuck_fds: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
        })
    }

    /// Changes how much memory the cache may take, in bytes.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store((bytes / PAGE).max(MIN_LIMIT), Ordering::Relaxed);
    }

    /// What it holds.
    pub fn stats(&self) -> PoolStats {
        let get = |v: &AtomicU64| v.load(Ordering::Relaxed) * PAGE;
        PoolStats { used: get(&self.used), dirty: get(&self.dirty), limit: get(&self.limit) }
    }

    /// Evicts until `bytes` are free or nothing more can be evicted; returns the bytes freed. Changed
    /// data is written back first.
    pub fn shrink(&self, bytes: u64) -> u64 {
        let _one = lock(&self.reclaim);
        let before = self.used.load(Ordering::Relaxed);
        let target = before.saturating_sub(bytes.div_ceil(PAGE));
        self.evict_to(target, u64::MAX);
        before.saturating_sub(self.used.load(Ordering::Relaxed)) * PAGE
    }

    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add_used(&self, pages: u64) {
        self.used.fetch_add(pages, Ordering::Relaxed);
    }

    pub(crate) fn sub_used(&self, pages: u64) {
        self.used.fetch_sub(pages, Ordering::Relaxed);
    }

    pub(crate) fn add_dirty(&self, pages: u64) {
        self.dirty.fetch_add(pages, Ordering::Relaxed);
    }

    pub(crate) fn sub_dirty(&self, pages: u64) {
        self.dirty.fetch_sub(pages, Ordering::Relaxed);
    }

    pub(crate) fn add_fd(&self) {
        self.fds.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sub_fd(&self) {
        self.fds.fetch_sub(1, Ordering::Relaxed);
    }

    /// More is changed than writers may leave behind.
    pub(crate) fn over_hard(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) > self.dirty_hard
    }

    /// More is changed than the flusher lets lie until it expires.
    pub(crate) fn over_background(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) > self.dirty_background
    }

    /// A chunk of `file` got its first page.
    pub(crate) fn enqueue(&self, file: &Weak<CachedFile>, chunk: u64) {
        let mut q = lock(&self.queue);
        let gone = self.gone.load(Ordering::Relaxed);
        if gone > 256 && gone > q.len() as u64 / 2 {
            q.retain(|i| i.file.strong_count() > 0);
            self.gone.store(0, Ordering::Relaxed);
        }
        q.push_back(Item { file: file.clone(), chunk });
    }

    /// A file with `chunks` items in the queue went away.
    pub(crate) fn forget(&self, chunks: usize) {
        self.gone.fetch_add(chunks as u64, Ordering::Relaxed);
    }

    fn over(&self) -> bool {
        let get = |v: &AtomicU64| v.load(Ordering::Relaxed);
        get(&self.used) > get(&self.limit).max(get(&self.stuck))
            || get(&self.fds) > self.fd_limit.max(get(&self.stuck_fds))
    }

    /// There is more than there should be: some of it could not be evicted.
    pub(crate) fn full(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
    }

    /// Evicts when there is too much. Called before anything is locked.
    pub(crate) fn make_room(&self) {
        if self.over() {
            self.reclaim(false);
        }
    }

    /// As [`Pool::make_room`], also when that failed a moment ago: what was in the way is gone.
    pub(crate) fn make_room_now(&self) {
        self.reclaim(true);
    }

    fn reclaim(&self, again: bool) {
        let _one = lock(&self.reclaim);
        if self.over() || (again && self.full()) {
            let limit = self.limit.load(Ordering::Relaxed);
            self.evict_to(limit - limit / 32, self.fd_limit - self.fd_limit / 16);
            let (used, fds) = (self.used.load(Ordering::Relaxed), self.fds.load(Ordering::Relaxed));
            let stuck = if used > limit { used + CHUNK } else { 0 };
            self.stuck.store(stuck, Ordering::Relaxed);
            let stuck = if fds > self.fd_limit { fds + 16 } else { 0 };
            self.stuck_fds.store(stuck, Ordering::Relaxed);
        }
    }

    fn evict_to(&self, used: u64, fds: u64) {
        // Everything may be looked at twice: once to take the mark of use away.
        let mut looks = lock(&self.queue).len() * 2 + 1;
        while looks > 0 {
            let many_fds = self.fds.load(Ordering::Relaxed) > fds;
            if self.used.load(Ordering::Relaxed) <= used && !many_fds {
                return;
            }
            looks -= 1;
            let Some(item) = lock(&self.queue).pop_front() else { return };
            let Some(file) = item.file.upgrade() else {
                let _ = self
                    .gone
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                continue;
            };
            match file.evict(item.chunk, many_fds) {
                Outcome::Evicted => {}
                Outcome::Kept => lock(&self.queue).push_back(item),
            }
        }
    }
}
