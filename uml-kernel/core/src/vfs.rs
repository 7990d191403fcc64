//! The virtual filesystem: inodes, dentries, mounts, path walks.
//!
//! A filesystem implements [`inode::SuperBlock`] and the [`inode::Inode`] capability traits and owns
//! its storage; the VFS owns dentries, mounts, permission checks and locking.
//!
//! Entry points: [`walk`] (paths to places), [`open`] (open(2)), [`modify`] (create, unlink, rename,
//! link), [`attr`] (chmod, chown, utimes, truncate), [`mounting`] (the mount tree), [`anon`] (pipes,
//! sockets and other objects without a place).
//!
//! Lock order: rename lock, mount lock, directory locks (ancestors first), dentry maps, then what
//! filesystems have.

pub mod acl;
pub mod anon;
pub mod attr;
pub mod dentry;
pub mod handle;
pub mod inode;
pub mod modify;
pub mod mount;
pub mod mounting;
pub mod name;
pub mod open;
pub mod perm;
pub mod walk;
pub mod watch;

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use uml_base::{Mutex, Rank};
use uml_host::clock::HostClock;

pub use anon::{AnonInode, AnonKind};
pub use dentry::{Dentry, DentryCache, NAME_MAX};
pub use inode::*;
pub use mount::{Mount, MountNs, Path, SuperInstance};
pub use name::path_name_global;
pub use open::{OpenHow, open, open_exec, open_exec_at, open_path};
pub use walk::{DirFd, Last, Walker, lookup};

use crate::registry::Registry;

/// /proc/sys/fs/protected_*: 0 is off.
#[derive(Default)]
pub struct Protection {
    pub symlinks: AtomicU32,
    pub hardlinks: AtomicU32,
    pub fifos: AtomicU32,
    pub regular: AtomicU32,
}

/// The machine's virtual filesystem.
pub struct Vfs {
    pub dcache: DentryCache,
    pub registry: Registry,
    pub protection: Protection,
    /// Held while directories move (rename(2) across directories).
    pub(crate) rename_lock: Mutex<()>,
    /// Counts renames, so that names read without the lock can be checked.
    pub(crate) rename_seq: AtomicU64,
    pub(crate) mount_lock: Mutex<()>,
    /// By the address of the superblock: what is not looked for stays untouched, since it may be the last of its filesystem.
    pub(crate) supers: Mutex<Vec<(usize, Weak<SuperInstance>)>>,
    pub(crate) mounts: Mutex<Vec<Weak<Mount>>>,
    next_mount: AtomicU64,
    next_group: AtomicU64,
    next_minor: AtomicU32,
}

impl Vfs {
    /// A VFS without mounts, sized for a machine of `mem_bytes`.
    pub fn new(mem_bytes: u64) -> Vfs {
        let limit = (mem_bytes / (32 << 10)).clamp(4096, 65536) as usize;
        Vfs {
            dcache: DentryCache::new(limit),
            registry: Registry::default(),
            protection: Protection::default(),
            rename_lock: Mutex::new(Rank::RENAME, ()),
            rename_seq: AtomicU64::new(0),
            mount_lock: Mutex::new(Rank::MOUNTS, ()),
            supers: Mutex::new(Rank::LEAF, Vec::new()),
            mounts: Mutex::new(Rank::LEAF, Vec::new()),
            next_mount: AtomicU64::new(1),
            next_group: AtomicU64::new(1),
            next_minor: AtomicU32::new(32),
        }
    }

    /// A device number (major 0) for a superblock without a device.
    pub fn anonymous_dev(&self) -> Dev {
        Dev::new(0, self.next_minor.fetch_add(1, Ordering::Relaxed))
    }

    /// Every filesystem in use.
    pub fn superblocks(&self) -> Vec<Arc<dyn SuperBlock>> {
        self.instances().iter().map(|s| s.sb.clone()).collect()
    }

    /// Writes out every filesystem in use; the errors that occurred.
    pub fn sync_all(&self) -> Vec<uml_abi::Errno> {
        self.instances().iter().filter_map(|s| s.sb.sync().err()).collect()
    }

    pub(crate) fn next_mount_id(&self) -> u64 {
        self.next_mount.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn next_group(&self) -> u64 {
        self.next_group.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn remember_mount(&self, m: &Arc<Mount>) {
        let mut v = self.mounts.lock();
        if v.len() & 63 == 63 {
            v.retain(|w| w.strong_count() != 0);
        }
        v.push(Arc::downgrade(m));
    }
}

/// Identity of an inode: stable and unique while anyone holds it.
pub fn inode_key(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode) as *const () as usize
}

/// The latest time that [`now`] gave out, in nanoseconds.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// No tick of a host is longer. A later time than that before us is from before the clock was set back.
const LONGEST_TICK: Duration = Duration::from_millis(20);

fn to_timespec(d: Duration) -> Timespec {
    Timespec { sec: d.as_secs() as i64, nsec: d.subsec_nanos() }
}

/// What the machine's clock_settime(2) added to the host's wall clock, in nanoseconds. Filesystems stamp inodes without knowing
/// of a machine; a process is one.
static CLOCK_SET: AtomicI64 = AtomicI64::new(0);

/// The machine's wall clock was set.
pub(crate) fn clock_was_set(offset: i64) {
    CLOCK_SET.store(offset, Ordering::Relaxed);
}

fn wall(c: HostClock) -> Duration {
    crate::time::shift(uml_host::clock::now(c), CLOCK_SET.load(Ordering::Relaxed))
}

/// The wall clock, for timestamps of inodes.
pub fn now() -> Timespec {
    let d = wall(HostClock::Realtime);
    let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    if LATEST.load(Ordering::Relaxed) < ns {
        LATEST.fetch_max(ns, Ordering::Relaxed);
    }
    to_timespec(d)
}

/// The wall clock as of the last tick, but not before a time that [`now`] gave out since: changes of one tick may
/// have the same time, and never have times in the wrong order. Linux stamps inodes with this clock as long as nobody
/// has looked at the last stamp.
pub fn now_coarse() -> Timespec {
    let tick = wall(HostClock::RealtimeCoarse);
    let latest = Duration::from_nanos(LATEST.load(Ordering::Relaxed));
    let ahead = latest.saturating_sub(tick);
    to_timespec(if ahead < LONGEST_TICK { tick.max(latest) } else { tick })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_times_are_in_order_with_fine_ones() {
        let ns = |t: Timespec| t.sec * 1_000_000_000 + i64::from(t.nsec);
        for _ in 0..2000 {
            let fine = ns(now());
            let coarse = ns(now_coarse());
            assert!(coarse >= fine, "{coarse} is before {fine}");
            assert!(ns(now()) >= coarse);
        }
    }
}
