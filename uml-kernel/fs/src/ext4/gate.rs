//! Freezing: FIFREEZE keeps everybody from changing the filesystem until FITHAW.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use uml_abi::Result;
use uml_abi::errno::*;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Open,
    /// Nobody starts a change.
    Changes,
    /// Nothing is written back either.
    All,
}

#[derive(Default)]
struct State {
    level: Level,
    /// Changes under way.
    changes: u64,
    /// Pieces being written back.
    writes: u64,
}

/// What changes pass through.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

/// A change under way.
pub(crate) struct Change<'a>(&'a Gate);

/// A piece being written back.
pub(crate) struct WriteBack<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, ready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let s = self.lock();
        let r = self.moved.wait_while(s, |s| !ready(s));
        r.unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a change; waits while the filesystem is frozen.
    pub(crate) fn change(&self) -> Change<'_> {
        let mut s = self.wait_until(|s| s.level == Level::Open);
        s.changes += 1;
        Change(self)
    }

    /// Starts to write back a piece; waits while the filesystem is frozen.
    pub(crate) fn write_back(&self) -> WriteBack<'_> {
        let mut s = self.wait_until(|s| s.level != Level::All);
        s.writes += 1;
        WriteBack(self)
    }

    /// Freezes; `sync` runs when no change is under way and must make everything durable. `EBUSY` when it
    /// is frozen already.
    pub(crate) fn freeze(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        {
            let mut s = self.lock();
            if s.level != Level::Open {
                return Err(EBUSY);
            }
            s.level = Level::Changes;
        }
        drop(self.wait_until(|s| s.changes == 0));
        let r = sync();
        let mut s = self.wait_until(|s| s.writes == 0);
        s.level = if r.is_ok() { Level::All } else { Level::Open };
        drop(s);
        self.moved.notify_all();
        r
    }

    /// True between [`Gate::freeze`] and [`Gate::thaw`].
    pub(crate) fn frozen(&self) -> bool {
        self.lock().level != Level::Open
    }

    /// Thaws; `EINVAL` when it is not frozen.
    pub(crate) fn thaw(&self) -> Result<()> {
        {
            let mut s = self.lock();
            if s.level != Level::All {
                return Err(EINVAL);
            }
            s.level = Level::Open;
        }
        self.moved.notify_all();
        Ok(())
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.lock().changes -= 1;
        self.0.moved.notify_all();
    }
}

impl Drop for WriteBack<'_> {
    fn drop(&mut self) {
        self.0.lock().writes -= 1;
        self.0.moved.notify_all();
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
}
