//! Mutexes and read-write locks with a rank.
//!
//! A thread may take a lock only when its rank is higher than that of every lock it
//! already holds; equal ranks are allowed only through [`Mutex::lock_nested`], whose callers must
//! state the rule that orders the instances. Debug builds assert this; release builds
//! carry no rank. A panic while a lock is held does not poison it: the platform turns
//! panics into the death of one guest process and the machine goes on.

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError};

/// Position in the lock order. The constants are the order, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub u16);

impl Rank {
    /// Reading side of a stream object (pipe, socket), held while bytes move to guest memory or to
    /// another file: outermost, because that may fault pages in. Reading side before writing side.
    pub const STREAM_READ: Rank = Rank(80);
    /// Writing side of a stream object.
    pub const STREAM_WRITE: Rank = Rank(90);
    /// Mount table and rename serialisation.
    pub const RENAME: Rank = Rank(100);
    pub const MOUNTS: Rank = Rank(110);
    /// Directory contents of an inode (parent before child).
    pub const INODE_DIR: Rank = Rank(120);
    pub const DENTRY: Rank = Rank(130);
    /// File position and per-open state.
    pub const FILE: Rank = Rank(140);
    /// Inodes of a filesystem that is made of others (overlay), outside of theirs.
    pub const STACKED: Rank = Rank(145);
    /// Contents and attributes of an inode.
    pub const INODE: Rank = Rank(150);
    /// Filesystem-wide state of one superblock.
    pub const SUPER: Rank = Rank(160);
    /// Which epoll instances watch each other.
    pub const EPOLL_NEST: Rank = Rank(190);
    /// Epoll instance (outer before nested).
    pub const EPOLL: Rank = Rank(200);
    /// Sockets: listener before connection.
    pub const SOCKET_TABLE: Rank = Rank(210);
    pub const SOCKET: Rank = Rank(220);
    /// Input of a terminal's host channel, then the channel itself.
    pub const TTY_INPUT: Rank = Rank(228);
    pub const TTY_LINE: Rank = Rank(230);
    /// Which session has which controlling terminal.
    pub const TTY_SESSIONS: Rank = Rank(235);
    /// Terminal pair, then line discipline.
    pub const TTY: Rank = Rank(240);
    pub const LDISC: Rank = Rank(250);
    /// The cgroup hierarchy.
    pub const CGROUP: Rank = Rank(290);
    /// The process tree: parents, children, groups, sessions.
    pub const TASKS: Rank = Rank(300);
    /// Hash buckets of futexes, by ascending index.
    pub const FUTEX: Rank = Rank(310);
    /// Owners and waiters of priority-inheritance futexes.
    pub const FUTEX_PI: Rank = Rank(312);
    /// Memory map of one address space.
    pub const MM: Rank = Rank(320);
    /// Cached pages of a file: filled when a map needs them.
    pub const PAGES: Rank = Rank(330);
    pub const FDTABLE: Rank = Rank(340);
    pub const FSCONTEXT: Rank = Rank(350);
    /// Signal actions and pending signals of one process.
    pub const SIGHAND: Rank = Rank(360);
    /// A System V or POSIX IPC object.
    pub const IPC: Rank = Rank(365);
    pub const CRED: Rank = Rank(370);
    pub const TIMERS: Rank = Rank(380);
    pub const PIPE: Rank = Rank(400);
    pub const DEVICE: Rank = Rank(420);
    /// Anything that calls nothing else while held.
    pub const LEAF: Rank = Rank(1000);
}

#[cfg(debug_assertions)]
mod track {
    use super::Rank;
    use std::cell::RefCell;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn acquire(rank: Rank, nested: bool) {
        // Threads being torn down have no list any more; nothing to check there.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(&top) = held.iter().max() {
                let ordered = if nested { top <= rank } else { top < rank };
                debug_assert!(
                    ordered || rank == Rank::LEAF,
                    "lock order: taking {rank:?} while holding {held:?}"
                );
            }
            held.push(rank);
        });
    }

    pub(super) fn release(rank: Rank) {
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(i) = held.iter().rposition(|r| *r == rank) {
                held.remove(i);
            }
        });
    }

    pub(super) fn held() -> usize {
        HELD.try_with(|h| h.borrow().len()).unwrap_or(0)
    }
}

/// Number of ranked locks the calling thread holds (debug builds; 0 otherwise).
/// Sleeping with one held is a bug.
pub fn locks_held() -> usize {
    #[cfg(debug_assertions)]
    return track::held();
    #[cfg(not(debug_assertions))]
    0
}

/// A mutual-exclusion lock with a [`Rank`].
pub struct Mutex<T: ?Sized> {
    #[cfg(debug_assertions)]
    rank: Rank,
    inner: sync::Mutex<T>,
}

impl<T> Mutex<T> {
    /// A lock of the given rank around `value`.
    pub const fn new(rank: Rank, value: T) -> Mutex<T> {
        let _ = rank;
        Mutex {
            #[cfg(debug_assertions)]
            rank,
            inner: sync::Mutex::new(value),
        }
    }

    /// The value, consuming the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// The value without the lock, which nobody else can hold.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.take(false)
    }

    /// Takes the lock while another of the same rank is held. The caller's comment names
    /// the rule that orders the two (parent before child, lower inode number first...).
    pub fn lock_nested(&self) -> MutexGuard<'_, T> {
        self.take(true)
    }

    fn take(&self, nested: bool) -> MutexGuard<'_, T> {
        let _ = nested;
        #[cfg(debug_assertions)]
        track::acquire(self.rank, nested);
        MutexGuard {
            #[cfg(debug_assertions)]
            rank: self.rank,
            inner: Some(self.inner.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T: ?Sized> {
    #[cfg(debug_assertions)]
    rank: Rank,
    inner: Option<sync::MutexGuard<'a, T>>,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.inner {
            Some(g) => g,
            None => unreachable!("guard is only emptied in drop"),
        }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.inner {
            Some(g) => g,
            None => unreachable!("guard is only emptied in drop"),
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.inner = None;
        #[cfg(debug_assertions)]
        track::release(self.rank);
    }
}

/// A read-write lock with a [`Rank`].
pub struct RwLock<T: ?Sized> {
    #[cfg(debug_assertions)]
    rank: Rank,
    inner: sync::RwLock<T>,
}

/// Read access to a [`RwLock`].
pub struct ReadGuard<'a, T: ?Sized> {
    #[cfg(debug_assertions)]
    rank: Rank,
    inner: sync::RwLockReadGuard<'a, T>,
}

/// Write access to a [`RwLock`].
pub struct WriteGuard<'a, T: ?Sized> {
    #[cfg(debug_assertions)]
    rank: Rank,
    inner: sync::RwLockWriteGuard<'a, T>,
}

impl<T> RwLock<T> {
    /// A lock of the given rank around `value`.
    pub const fn new(rank: Rank, value: T) -> RwLock<T> {
        let _ = rank;
        RwLock {
            #[cfg(debug_assertions)]
            rank,
            inner: sync::RwLock::new(value),
        }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Takes the lock shared.
    pub fn read(&self) -> ReadGuard<'_, T> {
        #[cfg(debug_assertions)]
        track::acquire(self.rank, false);
        ReadGuard {
            #[cfg(debug_assertions)]
            rank: self.rank,
            inner: self.inner.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Takes the lock exclusively.
    pub fn write(&self) -> WriteGuard<'_, T> {
        #[cfg(debug_assertions)]
        track::acquire(self.rank, false);
        WriteGuard {
            #[cfg(debug_assertions)]
            rank: self.rank,
            inner: self.inner.write().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        track::release(self.rank);
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        track::release(self.rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordered_locks_pass() {
        let a = Mutex::new(Rank::MOUNTS, 1);
        let b = Mutex::new(Rank::INODE, 2);
        let ga = a.lock();
        let gb = b.lock();
        assert_eq!(*ga + *gb, 3);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order")]
    fn reversed_locks_panic_in_debug_builds() {
        let a = Mutex::new(Rank::MOUNTS, 1);
        let b = Mutex::new(Rank::INODE, 2);
        let _gb = b.lock();
        let _ga = a.lock();
    }
}
