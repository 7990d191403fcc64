//! The machine's memory: what is in use, what may still be promised, and what happens when it runs out.
//!
//! Anonymous memory of guest programs is the host's memory of their processes, which the kernel does not see being
//! touched. So it is *watched*: as long as all that programs could touch fits `mem=`, nothing is done; beyond that a
//! thread samples the host's figures while tasks run, the oftener the less is free. When too much is in use,
//! caches give up what they can, then the process with most memory is killed ([`oom`]). A sample sees what
//! was allocated before it: until the next one a program can exceed `mem=` by as much as the host gives it
//! in a few milliseconds. Limits of control groups ([`limit`]) are watched by the same thread.
//!
//! Neighbours: `uml-mm` counts what address spaces promise, caches enter themselves as [`Cache`]. Lock order: nothing
//! of this module is held while caches or tasks are called.

pub mod commit;
pub(crate) mod high;
pub mod limit;
pub mod oom;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_base::{Mutex, Rank};
use uml_mm::Mm;

use crate::kernel::{CachedMemory, Kernel};

pub use watch::{grown, start};

/// Memory that is not the programs' own.
pub trait Cache: Send + Sync {
    /// What it holds.
    fn usage(&self) -> CachedMemory;

    /// Gives up to `bytes` back and returns how many.
    fn shrink(&self, bytes: u64) -> u64 {
        let _ = bytes;
        0
    }
}

/// What the machine knows of its memory.
pub struct Control {
    caches: Mutex<Vec<Arc<dyn Cache>>>,
    /// Processes killed for want of memory (/proc/vmstat `oom_kill`).
    kills: AtomicU64,
    victims: Mutex<oom::Victims>,
    limited: limit::Limited,
    /// Bytes that the operator took away while the machine runs (mconsole's `config mem=-SIZE`).
    taken: Mutex<u64>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            caches: Mutex::new(Rank::LEAF, Vec::new()),
            kills: AtomicU64::new(0),
            victims: Mutex::new(Rank::LEAF, oom::Victims::default()),
            limited: limit::Limited::default(),
            taken: Mutex::new(Rank::LEAF, 0),
        }
    }
}

impl Control {
    /// Makes a cache known.
    pub fn add_cache(&self, cache: Arc<dyn Cache>) {
        self.caches.lock().push(cache);
    }

    /// What all caches hold.
    pub fn cached(&self) -> CachedMemory {
        let caches = self.caches.lock().clone();
        let shared = crate::shm::usage();
        let mut sum = CachedMemory { cached: shared, shmem: shared, dirty: 0 };
        for c in caches {
            let u = c.usage();
            sum.cached += u.cached;
            sum.shmem += u.shmem;
            sum.dirty += u.dirty;
        }
        sum
    }

    /// Makes caches give `bytes` back; returns how many they gave.
    pub fn shrink(&self, bytes: u64) -> u64 {
        let caches = self.caches.lock().clone();
        let mut freed = 0;
        for c in caches {
            if freed < bytes {
                freed += c.shrink(bytes - freed);
            }
        }
        freed
    }

    /// Bytes that were taken from the machine and not given back.
    pub fn taken(&self) -> u64 {
        *self.taken.lock()
    }

    /// Processes killed for want of memory since boot.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }
}

/// Takes up to `bytes` (whole pages) from the machine: caches give way, programs keep what they have. Returns how
/// many were taken.
pub fn take(kernel: &Kernel, bytes: u64) -> u64 {
    let wanted = bytes & !(uml_mm::PAGE - 1);
    let missing = wanted.saturating_sub(kernel.memory_info().free);
    if missing > 0 {
        kernel.memory.shrink(missing);
    }
    let now = wanted.min(kernel.memory_info().free & !(uml_mm::PAGE - 1));
    {
        let mut taken = kernel.memory.taken.lock();
        *taken = taken.saturating_add(now).min(kernel.mem_bytes);
    }
    watch::reconsider();
    now
}

/// Gives up to `bytes` (whole pages) of what was taken back; returns how many.
pub fn give(kernel: &Kernel, bytes: u64) -> u64 {
    let now = {
        let mut taken = kernel.memory.taken.lock();
        let now = (bytes & !(uml_mm::PAGE - 1)).min(*taken);
        *taken -= now;
        now
    };
    watch::reconsider();
    now
}

/// Every address space with one task of a process that uses it.
pub(crate) fn spaces(kernel: &Kernel) -> Vec<(Arc<crate::task::Task>, Arc<Mm>)> {
    let tasks: Vec<_> = {
        let tree = kernel.tree.read();
        let one = |p: &crate::task::tree::TreeEntry| p.threads.values().next().cloned();
        tree.processes().filter_map(|(_, p)| one(p)).collect()
    };
    let mut seen = BTreeMap::new();
    for t in tasks {
        if let Ok(mm) = t.mm() {
            seen.entry(Arc::as_ptr(&mm) as usize).or_insert((t, mm));
        }
    }
    seen.into_values().collect()
}

/// Anonymous memory of one address space in bytes, as the host counts it for its process; pages that are shared with a
/// fork count in each.
pub fn anonymous(mm: &Mm) -> u64 {
    let s = uml_host::procinfo::statm(mm.space().host_pid()).unwrap_or_default();
    s.resident.saturating_sub(s.shared).saturating_mul(uml_mm::PAGE)
}

/// Anonymous memory of all programs in bytes: an upper bound, cheap to get.
pub fn anonymous_bound(kernel: &Kernel) -> u64 {
    spaces(kernel).iter().map(|(_, mm)| anonymous(mm)).sum()
}

/// Anonymous memory of one address space in bytes, its part of the pages that forks share. The host walks page tables
/// for this.
pub fn exact(mm: &Mm) -> u64 {
    let f = uml_host::procinfo::smaps_rollup(mm.space().host_pid());
    // Old hosts lack the proportional figure.
    f.get("Pss_Anon").map_or_else(|| anonymous(mm), |kb| kb << 10)
}

/// Anonymous memory of all programs in bytes, pages shared by forks counted once.
pub fn anonymous_exact(kernel: &Kernel) -> u64 {
    spaces(kernel).iter().map(|(_, mm)| exact(mm)).sum()
}
