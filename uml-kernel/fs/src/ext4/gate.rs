//! Freezing: FIFREEZE keeps everybody from changing the filesystem until FITHAW.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use uml_abi::Result;
use uml_abi::errno::*;

/// Everybody passes.
const OPEN: u8 = 0;
/// Nobody starts a change.
const CHANGES: u8 = 1;
/// Nothing is written back either.
const ALL: u8 = 2;

/// What changes pass through. Passing an open gate costs no system call and no more than a shared lock.
#[derive(Default)]
pub(crate) struct Gate {
    /// Changed with `moving` held; what stands at the gate looks at it with its shared lock held.
    level: AtomicU8,
    moving: Mutex<()>,
    moved: Condvar,
    /// Held shared by changes under way.
    changes: RwLock<()>,
    /// Held shared by pieces being written back.
    writes: RwLock<()>,
}

/// A change under way.
pub(crate) struct Change<'a>(#[allow(dead_code, reason = "held")] RwLockReadGuard<'a, ()>);

/// A piece being written back.
pub(crate) struct WriteBack<'a>(#[allow(dead_code, reason = "held")] RwLockReadGuard<'a, ()>);

fn all_gone(lock: &RwLock<()>) -> RwLockWriteGuard<'_, ()> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `lock` while the level is below `closed`, waiting for that.
    fn pass<'a>(&'a self, lock: &'a RwLock<()>, closed: u8) -> RwLockReadGuard<'a, ()> {
        loop {
            let one = lock.read().unwrap_or_else(PoisonError::into_inner);
            if self.level.load(Ordering::Acquire) < closed {
                return one;
            }
            drop(one);
            let _stuck = uml_base::pressure::stuck();
            let r = self
                .moved
                .wait_while(self.lock(), |()| self.level.load(Ordering::Acquire) >= closed);
            drop(r.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Starts a change; waits while the filesystem is frozen.
    pub(crate) fn change(&self) -> Change<'_> {
        Change(self.pass(&self.changes, CHANGES))
    }

    /// Starts to write back a piece; waits while the filesystem is frozen.
    pub(crate) fn write_back(&self) -> WriteBack<'_> {
        WriteBack(self.pass(&self.writes, ALL))
    }

    fn set(&self, level: u8) {
        let held = self.lock();
        self.level.store(level, Ordering::Release);
        drop(held);
        self.moved.notify_all();
    }

    /// Freezes; `sync` runs when no change is under way and must make everything durable. `EBUSY` when it
    /// is frozen already.
    pub(crate) fn freeze(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        {
            let _held = self.lock();
            if self.level.load(Ordering::Acquire) != OPEN {
                return Err(EBUSY);
            }
            self.level.store(CHANGES, Ordering::Release);
        }
        // Whoever takes it from here on sees the level.
        drop(all_gone(&self.changes));
        let r = sync();
        let writes = all_gone(&self.writes);
        self.set(if r.is_ok() { ALL } else { OPEN });
        drop(writes);
        r
    }

    /// True between [`Gate::freeze`] and [`Gate::thaw`].
    pub(crate) fn frozen(&self) -> bool {
        self.level.load(Ordering::Acquire) != OPEN
    }

    /// Thaws; `EINVAL` when it is not frozen.
    pub(crate) fn thaw(&self) -> Result<()> {
        {
            let _held = self.lock();
            if self.level.load(Ordering::Acquire) != ALL {
                return Err(EINVAL);
            }
            self.level.store(OPEN, Ordering::Release);
        }
        self.moved.notify_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_wait_for_the_thaw() {
        let g = std::sync::Arc::new(Gate::default());
        drop(g.change());
        g.freeze(|| {
            drop(g.write_back());
            Ok(())
        })
        .unwrap();
        assert_eq!(g.freeze(|| Ok(())), Err(EBUSY));
        let (tx, rx) = std::sync::mpsc::channel();
        let h = g.clone();
        let t = std::thread::spawn(move || {
            let _c = h.change();
            tx.send(()).unwrap();
        });
        assert!(rx.recv_timeout(std::time::Duration::from_millis(50)).is_err());
        g.thaw().unwrap();
        rx.recv().unwrap();
        t.join().unwrap();
        assert_eq!(g.thaw(), Err(EINVAL));
        assert_eq!(g.freeze(|| Err(EIO)), Err(EIO));
        drop(g.change());
    }

    #[test]
    fn freezing_waits_for_changes_and_pieces() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let g = Gate::default();
        let (changes, writes, sum) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..5000 {
                        let _c = g.change();
                        changes.fetch_add(1, Ordering::SeqCst);
                        {
                            let _w = g.write_back();
                            writes.fetch_add(1, Ordering::SeqCst);
                            sum.fetch_add(1, Ordering::SeqCst);
                            writes.fetch_sub(1, Ordering::SeqCst);
                        }
                        changes.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..300 {
                g.freeze(|| {
                    assert_eq!(changes.load(Ordering::SeqCst), 0, "a change goes on");
                    drop(g.write_back());
                    Ok(())
                })
                .unwrap();
                assert_eq!(writes.load(Ordering::SeqCst), 0, "a piece is being written");
                let before = sum.load(Ordering::SeqCst);
                std::thread::yield_now();
                assert_eq!(sum.load(Ordering::SeqCst), before, "something got through");
                g.thaw().unwrap();
            }
        });
        assert_eq!(sum.load(Ordering::SeqCst), 15000);
    }
}
