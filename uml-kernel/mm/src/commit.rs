//! What all address spaces promise, counted as areas come and go.
//!
//! Counters of the process: one serves every machine in it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::vma::{PROT_WRITE, Vma};

static COMMITTED: AtomicU64 = AtomicU64::new(0);
static TOUCHABLE: AtomicU64 = AtomicU64::new(0);

/// Private writable bytes that were not mapped with MAP_NORESERVE.
pub fn committed() -> u64 {
    COMMITTED.load(Ordering::Relaxed)
}

/// Bytes of which programs may have, or make, copies of their own without another call to the kernel.
pub fn touchable() -> u64 {
    TOUCHABLE.load(Ordering::Relaxed)
}

/// Bytes of `v` that count as committed.
pub fn committed_of(v: &Vma) -> u64 {
    let f = &v.flags;
    if !f.shared && f.prot & PROT_WRITE != 0 && !f.noreserve { v.len() } else { 0 }
}

/// Bytes of `v` that can become private copies. Anonymous memory that has been accessible once may hold some
/// whatever its protection is now.
pub fn touchable_of(v: &Vma) -> u64 {
    let f = &v.flags;
    let private = match v.backing {
        None => f.hosted,
        Some(_) => f.prot & PROT_WRITE != 0,
    };
    if !f.shared && private { v.len() } else { 0 }
}

/// Shares of one set of areas in the counters.
#[derive(Debug, Default)]
pub(crate) struct Share {
    committed: u64,
    touchable: u64,
}

impl Share {
    pub fn add(&mut self, v: &Vma) {
        let (c, t) = (committed_of(v), touchable_of(v));
        self.committed += c;
        self.touchable += t;
        COMMITTED.fetch_add(c, Ordering::Relaxed);
        TOUCHABLE.fetch_add(t, Ordering::Relaxed);
    }

    pub fn remove(&mut self, v: &Vma) {
        let (c, t) = (committed_of(v), touchable_of(v));
        self.committed -= c;
        self.touchable -= t;
        COMMITTED.fetch_sub(c, Ordering::Relaxed);
        TOUCHABLE.fetch_sub(t, Ordering::Relaxed);
    }

    /// Bytes promised.
    pub fn committed(&self) -> u64 {
        self.committed
    }
}

impl Clone for Share {
    fn clone(&self) -> Share {
        COMMITTED.fetch_add(self.committed, Ordering::Relaxed);
        TOUCHABLE.fetch_add(self.touchable, Ordering::Relaxed);
        Share { committed: self.committed, touchable: self.touchable }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        COMMITTED.fetch_sub(self.committed, Ordering::Relaxed);
        TOUCHABLE.fetch_sub(self.touchable, Ordering::Relaxed);
    }
}
